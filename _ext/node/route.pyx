"""The gateway: answers ping, and routes between the subnets of one network. It takes the rows that Bridge gave its MAC.

A routed packet leaves as the kernel would send it (RFC 1812 §5.2, §5.3): its header checked, TTL one less, from the router's
own MAC to the neighbour's. What cannot be routed becomes an ICMP error to its sender, within a rate.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from vxlanfast._ext.batch cimport Columns, PacketBatch, row_at, row_count
from vxlanfast._ext.node.longest cimport row_longest
from vxlanfast._ext.node.reply cimport (
    TTL, become_error, become_reset, icmp_allowed, is_one_host4, is_one_host6, may_report,
)
from vxlanfast._ext.node.nat cimport NatTuple, nat_apply, nat_original
from vxlanfast._ext.table.conn cimport CONN_NONE, ConnTable
from vxlanfast._ext.table.dest cimport DEST_PEER, DEST_PLACES, Dest, DestTable, dest_is_ours
from vxlanfast._ext.table.fdb cimport FDB_NONE, FDB_WAYS, FdbTable, fdb_key
from vxlanfast._ext.table.neigh cimport (
    NEIGH_GATEWAY, NEIGH_NONE, NeighEntry, NeighTable, neigh_find, neigh_hash, neigh_is, neigh_key4, neigh_key6,
)
from vxlanfast._ext.table.net cimport NET_INTERNAL, Net, NetTable, Route as Way, route_find
from vxlanfast._ext.verdict cimport (
    Verdict, PASS, DROP_GATEWAY_REFUSED, DROP_GATEWAY_REMOTE, DROP_INTERNAL, DROP_INNER_HEADER, DROP_INNER_TAG, DROP_MARTIAN, DROP_NO_NEIGHBOUR, DROP_NO_ROUTE,
    DROP_OVER_MTU, DROP_TTL, RULE_BALANCED, RULE_RELATED, RULE_ECHO, RULE_NO_NEIGHBOUR, RULE_NO_ROUTE, RULE_REFUSED, RULE_ROUTED, RULE_TOO_BIG, RULE_TTL,
    VERDICT_COUNT,
)
from vxlanfast._ext.wire.csum cimport csum, csum_finish, csum_update
from vxlanfast._ext.wire.endian cimport load_be16, load_be32, load_be64, store_be16
from vxlanfast._ext.wire.eth cimport (
    ETH_HDR_LEN, ETH_OFF_DST, ETH_OFF_SRC, ETH_OFF_TYPE, ETH_TYPE_IPV4, ETH_TYPE_IPV6, eth_skip_tags, eth_write,
)
from vxlanfast._ext.wire.icmp cimport (
    ICMP6_DEST_UNREACH, ICMP6_ECHO, ICMP6_ECHO_REPLY, ICMP6_PACKET_TOO_BIG, ICMP6_TIME_EXCEEDED, ICMP_DEST_UNREACH, ICMP_ECHO, ICMP_ECHO_REPLY,
    ICMP_HDR_LEN, ICMP_OFF_CSUM, ICMP_TIME_EXCEEDED,
)
from vxlanfast._ext.wire.ipv4 cimport (
    IP_PROTO_FRAGMENT, IP_PROTO_ICMP, IP_PROTO_ICMPV6, IP_PROTO_TCP, IP_PROTO_UDP, IPV4_DF, IPV4_OFF_CSUM, IPV4_OFF_DST,
    IPV4_OFF_PROTO, IPV4_OFF_SRC, IPV4_OFF_TTL, ipv4_age, ipv4_check, ipv4_csum_ok, ipv4_frag, ipv4_hdr_len, ipv4_total_len,
)
from vxlanfast._ext.wire.ipv6 cimport (
    IPV6_HDR_LEN, IPV6_OFF_DST, IPV6_OFF_HOPS, IPV6_OFF_SRC, ipv6_check, ipv6_find_l4, ipv6_payload_len,
)
from vxlanfast._ext.wire.tcp cimport TCP_HDR_LEN, TCP_OFF_DATA_OFF

cdef enum:
    UNREACH_NET = 0         # codes of ICMP type 3 (RFC 792) and of ICMPv6 type 1 (RFC 4443 §3.1)
    UNREACH_HOST = 1
    UNREACH_PORT = 3
    UNREACH_FRAG_NEEDED = 4
    UNREACH6_NO_ROUTE = 0
    UNREACH6_ADDRESS = 3
    UNREACH6_PORT = 4


cdef struct Packet:
    uint8_t *frame
    uint8_t *ip
    uint32_t l3
    uint32_t n          # bytes of the IP packet that are there
    uint32_t length     # that it says it has
    uint32_t hdr_len
    uint32_t l4         # where the upper layer begins: behind extension headers too
    uint8_t family
    uint8_t proto


cdef enum HopKind:
    HOP_SEND = 0
    HOP_OWN = 1             # the gateway's own address
    HOP_OWN_VIA = 2         # the way there is by the gateway's own address
    HOP_INTERNAL = 3
    HOP_NO_ROUTE = 4
    HOP_NO_NEIGHBOUR = 5

cdef enum:
    HOPS = 512              # destinations that are remembered while a batch is routed; a power of two


# Where packets of a network to an address go: the same for all of them in a batch, as no table changes meanwhile.
cdef struct Hop:
    NeighEntry key          # network, family, address
    uint64_t batch          # that this was found for
    const uint8_t *mac      # the neighbour's
    uint32_t dest
    uint32_t mtu
    uint16_t target         # the network it leaves by
    uint8_t kind


cdef class Route:
    """Rows whose destination is a gateway."""
    cdef NetTable nets
    cdef DestTable dests
    cdef FdbTable fdb
    cdef NeighTable neigh
    cdef ConnTable conns                # whose packets come here rewritten; None: nobody's
    cdef readonly uint64_t answered     # pings
    cdef readonly uint64_t errors       # rows that became ICMP errors
    cdef uint64_t counts[VERDICT_COUNT]
    cdef uint64_t batches           # processed, the present one counted
    cdef Hop hops[HOPS]             # by the hash of the address, one to a place

    def __cinit__(self, NetTable nets not None, DestTable dests not None, FdbTable fdb not None, NeighTable neigh not None,
                  ConnTable conns=None):
        self.conns = conns
        self.nets = nets
        self.dests = dests
        self.fdb = fdb
        self.neigh = neigh

    cdef Verdict complain(self, Columns *c, uint32_t i, const Packet *p, uint8_t kind4, uint8_t code4, uint8_t kind6,
                          uint8_t code6, uint8_t rule, Verdict otherwise, uint32_t word=0) noexcept nogil:
        """The row becomes an error to its sender where it may, else it is dropped. What it quotes is what its sender sent; to a
        client it comes from the address that the client knows."""
        cdef Net *net = self.nets.nets + c.net[i]
        cdef const uint8_t *sender = NULL
        cdef NatTuple original
        if c.conn[i] != CONN_NONE and self.conns is not None:
            nat_original(&original, self.conns.conns + (c.conn[i] >> 1), c.conn[i] & 1)
            nat_apply(p.ip, p.family, p.ip + p.l4, p.n - p.l4, self.conns.conns[c.conn[i] >> 1].proto, &original, True)
            c.net[i] = self.dests.dests[c.origin[i]].net
            net = self.nets.nets + c.net[i]
            c.vni[i] = net.vni
            if not c.conn[i] & 1:
                sender = p.ip + (IPV4_OFF_DST if p.family == 4 else IPV6_OFF_DST)
        if not may_report(p.frame, p.ip, p.n) or not icmp_allowed(net, c.ts_ns[i]):
            return otherwise
        if not become_error(c, i, net, p.l3, p.n, kind4 if p.family == 4 else kind6, code4 if p.family == 4 else code6, word,
                            rule, sender):
            return otherwise
        self.errors += 1
        return PASS

    cdef Verdict own(self, Columns *c, uint32_t i, const Packet *p) noexcept nogil:
        """To an address of the gateway: an echo request is turned round where it lies, and nothing else is served."""
        cdef uint8_t *l4 = p.ip + p.l4
        cdef uint32_t hdr_len
        cdef uint8_t addr[16]
        cdef uint8_t mac[6]
        cdef uint16_t old
        cdef uint32_t size = 4 if p.family == 4 else 16, src = IPV4_OFF_SRC if p.family == 4 else IPV6_OFF_SRC
        if (p.n >= p.l4 + ICMP_HDR_LEN and p.proto == (IP_PROTO_ICMP if p.family == 4 else IP_PROTO_ICMPV6)
                and l4[0] == (ICMP_ECHO if p.family == 4 else ICMP6_ECHO) and l4[1] == 0
                and (p.family == 6 or ipv4_frag(p.ip) & 0x3FFF == 0)):
            memcpy(mac, p.frame, 6)
            memcpy(p.frame + ETH_OFF_DST, p.frame + ETH_OFF_SRC, 6)
            memcpy(p.frame + ETH_OFF_SRC, mac, 6)
            memcpy(addr, p.ip + src, size)
            memcpy(p.ip + src, p.ip + src + size, size)
            memcpy(p.ip + src + size, addr, size)
            if p.family == 4:
                old = load_be16(p.ip + IPV4_OFF_TTL)
                p.ip[IPV4_OFF_TTL] = TTL
                store_be16(p.ip + IPV4_OFF_CSUM,
                           csum_update(load_be16(p.ip + IPV4_OFF_CSUM), old, load_be16(p.ip + IPV4_OFF_TTL)))
            else:
                p.ip[IPV6_OFF_HOPS] = TTL
            # The sum covers the type; the addresses of the pseudo header have only changed places.
            old = load_be16(l4)
            l4[0] = ICMP_ECHO_REPLY if p.family == 4 else ICMP6_ECHO_REPLY
            store_be16(l4 + ICMP_OFF_CSUM, csum_update(load_be16(l4 + ICMP_OFF_CSUM), old, load_be16(l4)))
            if p.family == 4 and load_be16(l4 + ICMP_OFF_CSUM) == 0 and csum_finish(csum(l4, p.n - p.l4)) == 0xFFFF:
                store_be16(l4 + ICMP_OFF_CSUM, 0xFFFF)  # a sum of nothing but zeros, which an update takes for the other zero
            c.dest[i] = c.origin[i]
            c.rule[i] = RULE_ECHO
            self.answered += 1
            return PASS
        if p.proto == IP_PROTO_TCP and p.n >= p.l4 + TCP_HDR_LEN and (p.family == 6 or ipv4_frag(p.ip) & 0x3FFF == 0):
            # Nobody listens (RFC 9293 §3.10.7.1).
            hdr_len = p.l4 + (l4[TCP_OFF_DATA_OFF] >> 4) * 4
            if become_reset(c, i, p.l3, p.l4, p.n, p.length - hdr_len if p.length > hdr_len else 0):
                return PASS
        if p.proto == IP_PROTO_UDP:
            return self.complain(c, i, p, ICMP_DEST_UNREACH, UNREACH_PORT, ICMP6_DEST_UNREACH, UNREACH6_PORT, RULE_REFUSED,
                                 DROP_GATEWAY_REFUSED)
        return DROP_GATEWAY_REFUSED

    cdef void seek(self, Hop *h) noexcept nogil:
        """Where packets to ``h.key`` go: everything else of ``h``."""
        cdef const Net *net = self.nets.nets + h.key.net
        cdef NeighEntry key = h.key
        cdef const Way *way
        cdef NeighEntry *e
        cdef uint32_t at = neigh_find(self.neigh, &key), slot
        if at != NEIGH_NONE and self.neigh.entries[at].flags & NEIGH_GATEWAY:
            h.kind = HOP_OWN
            return
        way = route_find(self.nets, net, key.family, key.addr)
        if way == NULL:
            h.kind = HOP_INTERNAL if net.flags & NET_INTERNAL else HOP_NO_ROUTE
            return
        key.net = h.target = way.net
        if way.has_via:
            memcpy(key.addr, way.via, 16)
        at = neigh_find(self.neigh, &key)
        h.kind = HOP_NO_NEIGHBOUR
        if at == NEIGH_NONE:
            return
        e = self.neigh.entries + at
        if e.flags & NEIGH_GATEWAY:
            h.kind = HOP_OWN_VIA
            return
        slot = self.fdb.slot_of(fdb_key(h.target, load_be64(e.mac) >> 16))
        if slot == FDB_NONE:
            return
        h.dest = self.fdb.buckets[slot // FDB_WAYS].dests[slot % FDB_WAYS]
        if self.dests.dests[h.dest].kind == DEST_PLACES:
            h.dest = self.dests.members[self.dests.dests[h.dest].members_at]
        if dest_is_ours(self.dests.dests + h.dest):
            return  # an entry that says a neighbour has the gateway's MAC: nobody to send it to
        h.mac = e.mac
        h.mtu = self.dests.dests[h.dest].mtu
        h.kind = HOP_SEND

    cdef Verdict route(self, Columns *c, uint32_t i) noexcept nogil:
        cdef Packet p
        cdef NeighEntry key
        cdef uint16_t ethertype = 0
        cdef uint32_t fragment = 0
        cdef const uint8_t *to
        cdef Hop *h
        p.frame = c.arena + c.off[i]
        if eth_skip_tags(p.frame, c.len[i], ETH_OFF_TYPE, &ethertype, &p.l3) != PASS:
            return DROP_INNER_HEADER
        p.ip = p.frame + p.l3
        p.n = c.len[i] - p.l3
        if ethertype == ETH_TYPE_IPV4:
            if ipv4_check(p.ip, p.n) != PASS or (c.conn[i] == CONN_NONE and not ipv4_csum_ok(p.ip)):
                return DROP_INNER_HEADER  # RFC 1812 §5.2.2
            p.family = 4
            p.hdr_len = p.l4 = ipv4_hdr_len(p.ip)
            p.length = ipv4_total_len(p.ip)
            p.proto = p.ip[IPV4_OFF_PROTO]
            to = p.ip + IPV4_OFF_DST
            if not is_one_host4(load_be32(p.ip + IPV4_OFF_SRC)) or not is_one_host4(load_be32(to)):
                return DROP_MARTIAN
            neigh_key4(&key, c.net[i], to)
        elif ethertype == ETH_TYPE_IPV6:
            if ipv6_check(p.ip, p.n) != PASS:
                return DROP_INNER_HEADER
            p.family = 6
            p.hdr_len = IPV6_HDR_LEN
            p.length = IPV6_HDR_LEN + ipv6_payload_len(p.ip)
            if ipv6_find_l4(p.ip, p.n, &p.proto, &p.l4, &fragment) != PASS or p.l4 > p.n:
                return DROP_INNER_HEADER
            if fragment:
                p.proto = IP_PROTO_FRAGMENT
            to = p.ip + IPV6_OFF_DST
            if not is_one_host6(p.ip + IPV6_OFF_SRC) or not is_one_host6(to):
                return DROP_MARTIAN
            neigh_key6(&key, c.net[i], to)
        else:
            return DROP_GATEWAY_REFUSED
        if p.length < p.hdr_len or p.length > c.wire_len[i] - p.l3:
            return DROP_INNER_HEADER
        if p.n > p.length:
            p.n = p.length
        h = self.hops + (neigh_hash(self.neigh, &key) & (HOPS - 1))
        if h.batch != self.batches or not neigh_is(&h.key, &key):
            h.batch = self.batches
            h.key = key
            self.seek(h)
        if h.kind == HOP_OWN:
            return self.own(c, i, &p)
        if p.family == 6 and (load_be16(to) & 0xFFC0 == 0xFE80 or load_be16(p.ip + IPV6_OFF_SRC) & 0xFFC0 == 0xFE80):
            return DROP_MARTIAN  # of a link, and stays there (RFC 4291 §2.5.6)
        if h.kind == HOP_INTERNAL:
            return DROP_INTERNAL
        if h.kind == HOP_OWN_VIA:
            return self.own(c, i, &p)
        if p.ip[IPV4_OFF_TTL if p.family == 4 else IPV6_OFF_HOPS] <= 1:
            return self.complain(c, i, &p, ICMP_TIME_EXCEEDED, 0, ICMP6_TIME_EXCEEDED, 0, RULE_TTL, DROP_TTL)
        if h.kind == HOP_NO_ROUTE:
            return self.complain(c, i, &p, ICMP_DEST_UNREACH, UNREACH_NET, ICMP6_DEST_UNREACH, UNREACH6_NO_ROUTE,
                                 RULE_NO_ROUTE, DROP_NO_ROUTE)
        if h.kind == HOP_NO_NEIGHBOUR:
            return self.complain(c, i, &p, ICMP_DEST_UNREACH, UNREACH_HOST, ICMP6_DEST_UNREACH, UNREACH6_ADDRESS,
                                 RULE_NO_NEIGHBOUR, DROP_NO_NEIGHBOUR)
        if h.mtu and p.length > h.mtu and row_longest(c, i) - p.l3 > h.mtu and c.cut[i] == 0 and (p.family == 6 or ipv4_frag(p.ip) & IPV4_DF):
            # Fit would say it as well, to whom the frame is from by then: this router.
            return self.complain(c, i, &p, ICMP_DEST_UNREACH, UNREACH_FRAG_NEEDED, ICMP6_PACKET_TOO_BIG, 0, RULE_TOO_BIG,
                                 DROP_OVER_MTU, h.mtu)
        if p.l3 != ETH_HDR_LEN:
            return DROP_INNER_TAG  # a tag means something in its own network alone
        if p.family == 4:
            ipv4_age(p.ip)
        else:
            p.ip[IPV6_OFF_HOPS] -= 1
        eth_write(p.frame, h.mac, self.nets.nets[h.target].router_mac, ethertype)
        c.len[i] = ETH_HDR_LEN + p.n
        c.wire_len[i] = ETH_HDR_LEN + p.length  # what stood behind the packet was its last link's padding
        c.net[i] = h.target
        c.vni[i] = self.nets.nets[h.target].vni
        c.dest[i] = h.dest
        if c.rule[i] < RULE_ROUTED:
            c.rule[i] = RULE_ROUTED  # else it has been said why
        return PASS

    cdef void route_rows(self, Columns *c) noexcept nogil:
        cdef uint32_t k, i
        cdef Dest *origin
        cdef Verdict v
        self.batches += 1
        for k in range(row_count(c)):
            i = row_at(c, k)
            if c.verdict[i] != PASS or not dest_is_ours(self.dests.dests + c.dest[i]):
                continue
            if self.dests.dests[c.origin[i]].kind == DEST_PEER and not RULE_BALANCED <= c.rule[i] <= RULE_RELATED:
                v = DROP_GATEWAY_REMOTE  # to this node by a tunnel, and of no connection: every node is its own stations' router
            else:
                v = self.route(c, i)
            self.counts[<uint8_t>v] += 1
            if v != PASS:
                c.verdict[i] = v
                origin = self.dests.dests + c.origin[i]
                origin.drops += 1

    def process(self, PacketBatch batch not None):
        """Every row that goes to a gateway: on PASS it has another destination."""
        with nogil:
            self.route_rows(&batch.c)
        return batch

    def counters(self):
        """Rows to gateways by verdict since the start: ``{Verdict: rows}`` of those that occur."""
        from vxlanfast._ext.verdict import Verdict
        return {Verdict(i): self.counts[i] for i in range(VERDICT_COUNT) if self.counts[i]}
