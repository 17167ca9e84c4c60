"""Answers ARP requests and neighbour solicitations for who is elsewhere, out of the neighbour table, and keeps false claims out.

A row that is answered becomes the answer: it stands in the row's head slot, and the row goes back to where it came from.
The body stays the request until the row leaves, so that Bridge learns from it as from any frame. The rules are those of
the kernel's ``arp_reduce`` and ``neigh_reduce`` (drivers/net/vxlan/vxlan_core.c), and of RFC 826 and RFC 4861.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from vxlanfast._ext.batch cimport BATCH_HEAD_LEN, Columns, PacketBatch, row_head
from vxlanfast._ext.table.dest cimport DEST_LOCAL, DEST_NONE, DEST_PEER, DEST_PORT, DestTable
from vxlanfast._ext.table.neigh cimport (
    NEIGH_GATEWAY, NEIGH_NONE, NEIGH_ROUTER, NeighEntry, NeighTable, neigh_find, neigh_key4, neigh_key6,
)
from vxlanfast._ext.table.net cimport NET_PROXY, NET_SWALLOW, Net, NetTable
from vxlanfast._ext.verdict cimport Verdict, PASS, DROP_NEIGH_FALSE, RULE_ARP, RULE_ND, VERDICT_COUNT
from vxlanfast._ext.wire.arp cimport (
    ARP_LEN, ARP_OFF_SENDER_IP, ARP_OFF_TARGET_IP, ARP_REPLY, ARP_REQUEST, arp_check, arp_op, arp_sender_ip,
    arp_sender_mac, arp_target_ip, arp_write,
)
from vxlanfast._ext.wire.eth cimport ETH_OFF_TYPE, ETH_TYPE_ARP, ETH_TYPE_IPV6, eth_skip_tags
from vxlanfast._ext.wire.icmp cimport (
    ICMP6_ND_ADVERT, ICMP6_ND_SOLICIT, ND_HDR_LEN, ND_OPT_LEN, ND_OPT_SOURCE, ND_OPT_TARGET, ND_OVERRIDE, ND_ROUTER,
    ND_SOLICITED, icmp6_csum_ok, icmp6_set_csum, icmp_code, icmp_type, nd_check, nd_mac, nd_target, nd_write,
)
from vxlanfast._ext.wire.ipv4 cimport IP_PROTO_ICMPV6
from vxlanfast._ext.wire.ipv6 cimport (
    IPV6_HDR_LEN, IPV6_OFF_DST, IPV6_OFF_HOPS, IPV6_OFF_NEXT, IPV6_OFF_SRC, ipv6_check, ipv6_payload_len, ipv6_write,
)

cdef enum:
    HOPS = 255      # RFC 4861 §7.1: no router forwarded it
    ANSWER_LEN = IPV6_HDR_LEN + ND_HDR_LEN + ND_OPT_LEN


cdef inline bint is_zero(const uint8_t *p, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(n):
        if p[i]:
            return False
    return True


cdef class Proxy:
    """ARP and ND of the frames that ``Receive`` let in; every other frame passes untouched."""
    cdef NetTable nets
    cdef DestTable dests
    cdef NeighTable neigh
    cdef readonly uint64_t answered
    cdef uint64_t counts[VERDICT_COUNT]

    def __cinit__(self, NetTable nets not None, DestTable dests not None, NeighTable neigh not None):
        self.nets = nets
        self.dests = dests
        self.neigh = neigh

    cdef bint is_false(self, const NeighEntry *claim, const uint8_t *mac, uint32_t origin) noexcept nogil:
        """Whether an authoritative entry says otherwise: another MAC, another place, or an address of the gateway's."""
        cdef uint32_t at = neigh_find(self.neigh, claim)
        cdef const NeighEntry *e
        if at == NEIGH_NONE:
            return False
        e = self.neigh.entries + at
        return (e.flags & NEIGH_GATEWAY or memcmp(e.mac, mac, 6) != 0 or (e.dest != NEIGH_NONE and e.dest != origin))

    cdef const NeighEntry *answer(self, const NeighEntry *target, const Net *net, uint32_t origin) noexcept nogil:
        """The entry to answer with; NULL: not ours to answer, since nobody knows it or it is here and hears the question."""
        cdef uint32_t at = neigh_find(self.neigh, target)
        cdef const NeighEntry *e
        if at == NEIGH_NONE or self.dests.dests[origin].kind != DEST_PORT:
            return NULL
        e = self.neigh.entries + at
        if e.flags & NEIGH_GATEWAY:
            return e
        if not net.flags & NET_PROXY or (e.dest != NEIGH_NONE and self.dests.dests[e.dest].kind == DEST_PORT):
            return NULL
        return e

    cdef void keep_local(self, Columns *c, uint32_t i, const Net *net) noexcept nogil:
        """What the proxy does not know is asked on this host alone, where the network's policy says so."""
        if (net.flags & (NET_PROXY | NET_SWALLOW)) == NET_PROXY | NET_SWALLOW \
                and self.dests.dests[c.origin[i]].kind != DEST_PEER:
            c.dest[i] = DEST_LOCAL

    cdef void become(self, Columns *c, uint32_t i, const uint8_t *frame, uint32_t l3, const uint8_t *dst, const uint8_t *src,
                     uint32_t n, uint8_t rule) noexcept nogil:
        """The row is an answer of ``n`` bytes behind an Ethernet header with the request's tags; returns nothing, cannot fail."""
        cdef uint8_t *p
        c.head_len[i] = <uint8_t>(l3 + n)
        p = row_head(c, i)
        memcpy(p, dst, 6)
        memcpy(p + 6, src, 6)
        memcpy(p + ETH_OFF_TYPE, frame + ETH_OFF_TYPE, l3 - ETH_OFF_TYPE)
        c.len[i] = 0
        c.wire_len[i] = l3 + n
        c.dest[i] = c.origin[i]
        c.rule[i] = rule
        self.answered += 1

    cdef Verdict arp(self, Columns *c, uint32_t i, const uint8_t *frame, uint32_t n, uint32_t l3) noexcept nogil:
        cdef const uint8_t *p = frame + l3
        cdef const Net *net = self.nets.nets + c.net[i]
        cdef const NeighEntry *e
        cdef NeighEntry key
        cdef uint32_t sender, target
        if arp_check(p, n - l3) != PASS:
            return PASS  # another kind of ARP: a frame like any other
        sender = arp_sender_ip(p)
        target = arp_target_ip(p)
        if sender:
            neigh_key4(&key, c.net[i], p + ARP_OFF_SENDER_IP)
            if self.is_false(&key, arp_sender_mac(p), c.origin[i]):
                return DROP_NEIGH_FALSE
        if arp_op(p) == ARP_REQUEST and target != sender and target >> 24 != 127 and target >> 28 != 0xE:
            neigh_key4(&key, c.net[i], p + ARP_OFF_TARGET_IP)
            e = self.answer(&key, net, c.origin[i])
            if e != NULL:
                self.become(c, i, frame, l3, arp_sender_mac(p), e.mac, ARP_LEN, RULE_ARP)
                arp_write(row_head(c, i) + l3, ARP_REPLY, e.mac, target, arp_sender_mac(p), sender)
                return PASS
        self.keep_local(c, i, net)
        return PASS

    cdef Verdict nd(self, Columns *c, uint32_t i, const uint8_t *frame, uint32_t n, uint32_t l3) noexcept nogil:
        cdef const uint8_t *ip = frame + l3
        cdef const uint8_t *p = ip + IPV6_HDR_LEN
        cdef const uint8_t *mac
        cdef const uint8_t *to
        cdef const Net *net = self.nets.nets + c.net[i]
        cdef const NeighEntry *e
        cdef NeighEntry key
        cdef uint8_t *q
        cdef uint8_t group[6]
        cdef uint8_t kind
        cdef bint probe
        cdef uint32_t size
        if ipv6_check(ip, n - l3) != PASS or ip[IPV6_OFF_NEXT] != IP_PROTO_ICMPV6:
            return PASS
        size = ipv6_payload_len(ip)
        if size < ND_HDR_LEN or size > n - l3 - IPV6_HDR_LEN:
            return PASS
        kind = icmp_type(p)
        if kind != ICMP6_ND_SOLICIT and kind != ICMP6_ND_ADVERT:
            return PASS
        if ip[IPV6_OFF_HOPS] != HOPS or icmp_code(p) or nd_check(p, size) != PASS or not icmp6_csum_ok(ip, p, size):
            return DROP_NEIGH_FALSE  # RFC 4861 §7.1: MUST be discarded, and from a tunnel it is an attempt
        probe = is_zero(ip + IPV6_OFF_SRC, 16)  # duplicate address detection (RFC 4862 §5.4)
        if kind == ICMP6_ND_ADVERT:
            mac = nd_mac(p, size, ND_OPT_TARGET)
            neigh_key6(&key, c.net[i], nd_target(p))
        else:
            mac = nd_mac(p, size, ND_OPT_SOURCE)
            neigh_key6(&key, c.net[i], ip + IPV6_OFF_SRC)
        if mac == NULL:
            mac = frame + 6
        if not (probe and kind == ICMP6_ND_SOLICIT) and self.is_false(&key, mac, c.origin[i]):
            return DROP_NEIGH_FALSE
        if kind == ICMP6_ND_SOLICIT and nd_target(p)[0] != 0xFF:
            neigh_key6(&key, c.net[i], nd_target(p))
            e = self.answer(&key, net, c.origin[i])
            if e != NULL:
                to = mac
                if probe:
                    memcpy(group, b"\x33\x33\0\0\0\1", 6)
                    to = group
                self.become(c, i, frame, l3, to, e.mac, ANSWER_LEN, RULE_ND)
                q = row_head(c, i) + l3
                ipv6_write(q, 0, 0, ND_HDR_LEN + ND_OPT_LEN, IP_PROTO_ICMPV6, HOPS)
                memcpy(q + IPV6_OFF_SRC, nd_target(p), 16)
                if probe:
                    memcpy(q + IPV6_OFF_DST, b"\xff\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\1", 16)
                else:
                    memcpy(q + IPV6_OFF_DST, ip + IPV6_OFF_SRC, 16)
                nd_write(q + IPV6_HDR_LEN, ICMP6_ND_ADVERT,
                         <uint8_t>((ND_ROUTER if e.flags & (NEIGH_ROUTER | NEIGH_GATEWAY) else 0)
                                   | (0 if probe else ND_SOLICITED) | ND_OVERRIDE),
                         nd_target(p), ND_OPT_TARGET, e.mac)
                icmp6_set_csum(q, q + IPV6_HDR_LEN, ND_HDR_LEN + ND_OPT_LEN)
                return PASS
        self.keep_local(c, i, net)
        return PASS

    cdef void proxy_rows(self, Columns *c) noexcept nogil:
        cdef uint32_t i, l3
        cdef uint16_t ethertype
        cdef const uint8_t *frame
        cdef Verdict v
        for i in range(c.n):
            if c.verdict[i] != PASS or c.dest[i] != DEST_NONE:
                continue
            frame = c.arena + c.off[i]
            if eth_skip_tags(frame, c.len[i], ETH_OFF_TYPE, &ethertype, &l3) != PASS:
                continue
            v = PASS
            if l3 + ANSWER_LEN > BATCH_HEAD_LEN:
                continue  # so many tags that an answer would not fit its slot
            if ethertype == ETH_TYPE_ARP:
                v = self.arp(c, i, frame, c.len[i], l3)
            elif ethertype == ETH_TYPE_IPV6:
                v = self.nd(c, i, frame, c.len[i], l3)
            else:
                continue
            self.counts[<uint8_t>v] += 1
            if v != PASS:
                c.verdict[i] = v
                self.dests.dests[c.origin[i]].drops = self.dests.dests[c.origin[i]].drops + 1

    def process(self, PacketBatch batch not None):
        """Every row that ``Receive`` let in."""
        with nogil:
            self.proxy_rows(&batch.c)
        return batch

    def counters(self):
        """ARP and ND rows by verdict since the start: ``{Verdict: rows}`` of those that occur."""
        from vxlanfast._ext.verdict import Verdict
        return {Verdict(i): self.counts[i] for i in range(VERDICT_COUNT) if self.counts[i]}
