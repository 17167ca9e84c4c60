"""Where a frame enters the plane: by a port of ours, or out of a VXLAN packet from a peer. What follows sees frames of networks.

The order is that of the kernel's vxlan_rcv (drivers/net/vxlan/vxlan_core.c), with one thing more: a packet has to come from
a VTEP that is a member of its network. An unknown VNI and an unknown VTEP look the same from outside: nothing comes back.

Outer fragments are put together where the kernel in front of us has not done so (a TAP, a packet socket, a capture): a kernel's
vxlan device sends them where its MTU leaves no room for the headers, as that of one made without ``dev``. Only members' are held.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from vxlanfast._ext.batch cimport Columns, PacketBatch
from vxlanfast._ext.node.decap cimport DecapRules, VxlanFrame, decap_common, decap_find, outer_csums
from vxlanfast._ext.node.reassemble cimport reassemble_row
from vxlanfast._ext.table.dest cimport DEST_NONE, Dest, DestTable, peer_find
from vxlanfast._ext.table.fragments cimport FragmentTable
from vxlanfast._ext.table.hash cimport prefetch
from vxlanfast._ext.table.net cimport NET_GBP, NET_NONE, NET_TAGS, Net, NetTable, net_find
from vxlanfast._ext.verdict cimport (
    Verdict, PASS, DROP_ECN, DROP_INNER_HEADER, DROP_IP_CSUM, DROP_INNER_SOURCE, DROP_NO_VNI, DROP_TRUNCATED, PUNT_GPE, DROP_INNER_TAG, DROP_INNER_RUNT, DROP_NOT_ETHERNET,
    DROP_PORT_UNKNOWN, DROP_RESERVED, DROP_VNI_UNKNOWN, DROP_VTEP_OTHER, DROP_VTEP_UNKNOWN, PUNT_FRAGMENT, PUNT_NOT_UDP, RULE_NONE,
    VERDICT_COUNT,
)
from vxlanfast._ext.wire.ecn cimport ECN_DROP, ECN_MASK, ecn_decap, ecn_set4, ecn_set6
from vxlanfast._ext.wire.endian cimport load_be16, load_host16, load_host32, likely
from vxlanfast._ext.wire.eth cimport (
    ETH_HDR_LEN, ETH_OFF_SRC, ETH_OFF_TYPE, ETH_TYPE_IPV4, ETH_TYPE_IPV6, eth_is_tag, eth_skip_tags,
)
from vxlanfast._ext.wire.ipv4 cimport IPV4_HDR_LEN, IPV4_OFF_DST, IPV4_OFF_SRC, IPV4_OFF_TOS, ipv4_check, ipv4_csum_ok
from vxlanfast._ext.wire.ipv6 cimport IPV6_OFF_DST, IPV6_OFF_SRC, ipv6_check, ipv6_traffic_class
from vxlanfast._ext.wire.link cimport LINK_ETHERNET, LINK_VXLAN, link_find_l3
from vxlanfast._ext.wire.udp cimport UDP_HDR_LEN, udp_csum
from vxlanfast._ext.wire.vxlan cimport (
    VXLAN_GPE_ETHERNET, VXLAN_HDR_LEN, VXLAN_OFF_NEXT_PROTO, vxlan_has_reserved, vxlan_has_vni, vxlan_is_gbp, vxlan_is_gpe, vxlan_vni,
)

cdef enum:
    PORTS = 65536
    AHEAD = 12          # rows of which the frames are fetched early


cdef inline bint mac_is(const uint8_t *a, const uint8_t *b) noexcept nogil:
    return load_host32(a) == load_host32(b) and load_host16(a + 4) == load_host16(b + 4)


cdef inline Verdict source_check(const uint8_t *frame, const Net *net) noexcept nogil:
    """The sender is a station, and not we: zero and group addresses send nothing, and our own would be a loop."""
    cdef const uint8_t *src = frame + ETH_OFF_SRC
    if src[0] & 1 or (load_host32(src) | load_host16(src + 4)) == 0:
        return DROP_INNER_SOURCE
    if mac_is(src, net.gateway_mac) or mac_is(src, net.router_mac):
        return DROP_INNER_SOURCE
    return PASS


cdef inline Verdict ecn_carry(uint8_t *frame, uint32_t n, uint8_t outer_tos) noexcept nogil:
    """Congestion marks of the outer header into the inner one (RFC 6040 §4.2), through tags; a frame that is no IP has none.

    An IP header that is cut is a drop, as in the kernel (pskb_inet_may_pull); so is one of an impossible shape, which the kernel
    lets in: nothing could be said of it later.
    """
    cdef uint16_t ethertype
    cdef uint32_t l3
    cdef uint8_t tos, ecn
    if eth_skip_tags(frame, n, ETH_OFF_TYPE, &ethertype, &l3) != PASS:
        return DROP_INNER_HEADER
    if ethertype == ETH_TYPE_IPV4:
        if ipv4_check(frame + l3, n - l3) != PASS:
            return DROP_INNER_HEADER
        tos = frame[l3 + IPV4_OFF_TOS]
    elif ethertype == ETH_TYPE_IPV6:
        if ipv6_check(frame + l3, n - l3) != PASS:
            return DROP_INNER_HEADER
        tos = ipv6_traffic_class(frame + l3)
    else:
        return PASS
    ecn = ecn_decap(outer_tos, tos)
    if likely(ecn == (tos & ECN_MASK)):
        return PASS
    if ecn == ECN_DROP:
        return DROP_ECN
    if ethertype == ETH_TYPE_IPV4:
        ecn_set4(frame + l3, ecn)
    else:
        ecn_set6(frame + l3, ecn)
    return PASS


cdef inline Verdict payload_find(const uint8_t *p, uint32_t n, VxlanFrame *f) noexcept nogil:
    """What ``decap_find`` says of a VXLAN header and what is behind it, of a datagram whose headers a socket took off."""
    if n < VXLAN_HDR_LEN:
        return DROP_TRUNCATED
    if not vxlan_has_vni(p):
        return DROP_NO_VNI
    if vxlan_has_reserved(p) and vxlan_is_gpe(p) and p[VXLAN_OFF_NEXT_PROTO] != VXLAN_GPE_ETHERNET:
        return PUNT_GPE
    f.vni = vxlan_vni(p)
    f.inner = VXLAN_HDR_LEN
    f.end = n
    return PASS if n - VXLAN_HDR_LEN >= ETH_HDR_LEN else DROP_INNER_RUNT


cdef inline bint sender_of(const uint8_t *ip, uint8_t version, const uint8_t *local4, const uint8_t *local6, uint8_t *addr) noexcept nogil:
    """Whether an outer packet is for one of our addresses (NULL: none of that kind); then ``addr`` is whom it is from, as
    ``peer_find`` wants it."""
    if version == 4:
        if local4 == NULL or load_host32(ip + IPV4_OFF_DST) != load_host32(local4):
            return False
        memset(addr, 0, 16)
        memcpy(addr, ip + IPV4_OFF_SRC, 4)
        return True
    if local6 == NULL or memcmp(ip + IPV6_OFF_DST, local6, 16):
        return False
    memcpy(addr, ip + IPV6_OFF_SRC, 16)
    return True


cdef class Receive:
    """Gives each row its network and the destination number it came from, and takes the VXLAN headers off those that have them.

    ``local``: our VTEP addresses (4 or 16 bytes each; at most one of a kind). ``ports``: UDP ports that mean VXLAN.
    ``underlay``: the port number that packets of the underlay come by. ``fragments``: where those of outer datagrams wait
    for each other; None: they are dropped.
    """
    cdef public FragmentTable fragments
    cdef DestTable known         # every member of any network, as if of network 0
    cdef DecapRules rules
    cdef NetTable nets
    cdef DestTable dests
    cdef uint32_t *port_dest     # by port number: its destination
    cdef uint8_t local4[16]
    cdef uint8_t local6[16]
    cdef bint has4
    cdef bint has6
    cdef bint zero_csum6         # a zero checksum over IPv6 is agreed on (RFC 6935)
    cdef uint16_t underlay
    cdef uint64_t counts[VERDICT_COUNT]

    def __cinit__(self, NetTable nets not None, DestTable dests not None, *, local, ports, uint16_t underlay=0,
                  bint zero_csum6=False, FragmentTable fragments=None):
        cdef uint32_t i
        self.nets = nets
        self.dests = dests
        self.underlay = underlay
        self.zero_csum6 = zero_csum6
        self.port_dest = <uint32_t *>calloc(PORTS, sizeof(uint32_t))
        if self.port_dest == NULL:
            raise MemoryError
        memset(self.port_dest, 0xFF, PORTS * sizeof(uint32_t))
        for i in range(dests.size):
            if dests.dests[i].kind == 0:
                if dests.dests[i].port == underlay or self.port_dest[dests.dests[i].port] != DEST_NONE:
                    raise ValueError(f"port {dests.dests[i].port}: given twice")
                self.port_dest[dests.dests[i].port] = i
        for port in ports:
            if not 1 <= port <= 65535:
                raise ValueError(f"UDP port {port}: 1 to 65535")
            self.rules.ports[<uint32_t>port >> 3] |= 1 << (<uint32_t>port & 7)
        self.rules.levels = 1
        self.fragments = fragments
        members = {(<char *>dests.dests[i].addr)[:4 if dests.dests[i].family == 4 else 16]
                   for i in range(dests.size) if dests.dests[i].family}
        self.known = DestTable(max(1, len(members)), seed=dests.seed)
        for member in members:
            self.known.add_peer(0, member, 0, 0)
        for addr in local:
            raw = bytes(addr).ljust(16, b"\0")
            if len(addr) == 4:
                memcpy(self.local4, <char *>raw, 16)
                self.has4 = True
            elif len(addr) == 16:
                memcpy(self.local6, <char *>raw, 16)
                self.has6 = True
            else:
                raise ValueError(f"address of {len(addr)} bytes: 4 or 16")

    def __dealloc__(self):
        free(self.port_dest)

    cdef Verdict join(self, Columns *c, uint32_t i) noexcept nogil:
        """An outer fragment: PASS for the one that makes its datagram whole, which the row is now."""
        cdef const uint8_t *ip
        cdef uint8_t addr[16]
        cdef uint16_t ethertype = 0
        cdef uint32_t l3 = 0
        cdef uint8_t version
        cdef bint no_memory = False
        if self.fragments is None or link_find_l3(c.link[i], c.arena + c.off[i], c.len[i], &ethertype, &l3) != PASS:
            return PUNT_FRAGMENT
        ip = c.arena + c.off[i] + l3
        version = ip[0] >> 4
        if not sender_of(ip, version, self.local4 if self.has4 else NULL, self.local6 if self.has6 else NULL, addr):
            return DROP_VTEP_OTHER
        if version == 4 and not ipv4_csum_ok(ip):
            return DROP_IP_CSUM  # ip_rcv looks at it before ip_defrag does
        if peer_find(self.known, addr, version, 0) == DEST_NONE:
            return DROP_VTEP_UNKNOWN
        return reassemble_row(c, i, self.fragments, &no_memory)

    cdef Verdict from_underlay(self, Columns *c, uint32_t i, uint32_t *last) noexcept nogil:
        """A packet of the underlay. ``last``: the peer that the packet before it came from, likely this one's too."""
        cdef uint8_t *p = c.arena + c.off[i]
        cdef uint8_t *outer = p
        cdef const uint8_t *vxlan
        cdef const uint8_t *ip
        cdef uint8_t addr[16]
        cdef uint32_t n = c.len[i], wire_n = c.wire_len[i], peer, inner_n
        cdef uint16_t number
        cdef uint8_t version, tos
        cdef bint is_payload = c.link[i] == LINK_VXLAN
        cdef VxlanFrame f
        cdef Net *net
        cdef Dest *d
        cdef Verdict v
        if is_payload:
            outer = c.arena + c.outer[i]
            f.l3 = c.outer_l3[i]
            f.l4 = c.outer_l4[i]
            v = payload_find(p, n, &f)
            if v != PASS:
                return v
            vxlan = p
        else:
            if likely(c.link[i] == LINK_ETHERNET and decap_common(p, n, wire_n, self.rules.ports, &f)):
                f.l3 = ETH_HDR_LEN
                f.l4 = ETH_HDR_LEN + IPV4_HDR_LEN
            else:
                v = decap_find(p, n, wire_n, c.link[i], &self.rules, &f)
                if v == PUNT_FRAGMENT:
                    v = self.join(c, i)
                    return v if v != PASS else self.from_underlay(c, i, last)  # a whole datagram now, and none again
                if v != PASS:
                    return v
            vxlan = p + f.l4 + UDP_HDR_LEN
        number = net_find(self.nets, f.vni)
        if number == NET_NONE:
            return DROP_VNI_UNKNOWN
        net = self.nets.nets + number
        if vxlan_has_reserved(vxlan) and not (net.flags & NET_GBP and vxlan_is_gbp(vxlan)):
            return DROP_RESERVED  # as Linux; RFC 7348 §5 would ignore them
        ip = outer + f.l3
        version = ip[0] >> 4
        if not sender_of(ip, version, self.local4 if self.has4 else NULL, self.local6 if self.has6 else NULL, addr):
            return DROP_VTEP_OTHER
        tos = ip[IPV4_OFF_TOS] if version == 4 else ipv6_traffic_class(ip)
        peer = last[0]
        if peer != DEST_NONE:
            d = self.dests.dests + peer
            if d.net != number or d.family != version or memcmp(d.addr, addr, 16):
                peer = DEST_NONE
        if peer == DEST_NONE:
            peer = peer_find(self.dests, addr, version, number)
            if peer == DEST_NONE:
                net.strangers += 1
                return DROP_VTEP_UNKNOWN
            last[0] = peer
        d = self.dests.dests + peer
        c.net[i] = number
        c.origin[i] = peer
        d.rx_packets += 1
        d.rx_bytes += f.end - f.inner
        if not is_payload and (version == 4 or udp_csum(p + f.l4) or not self.zero_csum6):
            v = outer_csums(p, n, f.l3, f.l4, f.end, version)
            if v != PASS:
                d.drops += 1
                return v
        inner_n = (f.end if f.end < n else n) - f.inner
        v = self.enter(p + f.inner, inner_n, net)
        if v == PASS:
            v = ecn_carry(p + f.inner, inner_n, tos)
        if v != PASS:
            d.drops += 1
            return v
        if not is_payload:
            c.outer[i] = c.off[i]
            c.outer_l3[i] = <uint16_t>f.l3
            c.outer_l4[i] = <uint16_t>f.l4
        c.off[i] += f.inner
        c.len[i] = inner_n
        c.wire_len[i] = f.end - f.inner
        c.link[i] = LINK_ETHERNET
        c.vni[i] = f.vni
        return PASS

    cdef Verdict from_port(self, Columns *c, uint32_t i) noexcept nogil:
        """A frame of one of our endpoints."""
        cdef uint32_t dest = self.port_dest[c.port_in[i]]
        cdef Dest *d
        cdef Verdict v
        if dest == DEST_NONE:
            return DROP_PORT_UNKNOWN
        d = self.dests.dests + dest
        c.net[i] = d.net
        c.origin[i] = dest
        c.vni[i] = self.nets.nets[d.net].vni
        d.rx_packets += 1
        d.rx_bytes += c.wire_len[i]
        if c.link[i] != LINK_ETHERNET:
            v = DROP_NOT_ETHERNET
        else:
            v = self.enter(c.arena + c.off[i], c.len[i], self.nets.nets + d.net)
        if v != PASS:
            d.drops += 1
        return v

    cdef inline Verdict enter(self, const uint8_t *frame, uint32_t n, const Net *net) noexcept nogil:
        """What holds for every frame, wherever it came from."""
        if n < ETH_HDR_LEN:
            return DROP_INNER_RUNT
        if eth_is_tag(load_be16(frame + ETH_OFF_TYPE)) and not net.flags & NET_TAGS:
            return DROP_INNER_TAG  # RFC 7348 §6.1
        return source_check(frame, net)

    cdef void receive_rows(self, Columns *c) noexcept nogil:
        cdef uint32_t i, last = DEST_NONE
        cdef Verdict v
        for i in range(c.n):
            if i + AHEAD < c.n:
                # Outer and inner headers lie in its first two cache lines; the nodes behind find them there.
                prefetch(c.arena + c.off[i + AHEAD])
                prefetch(c.arena + c.off[i + AHEAD] + 64)
            if c.verdict[i] != PASS:
                continue
            c.dest[i] = DEST_NONE
            c.origin[i] = DEST_NONE
            c.rule[i] = RULE_NONE
            c.conn[i] = DEST_NONE  # none, of connections as well
            v = self.from_underlay(c, i, &last) if c.port_in[i] == self.underlay else self.from_port(c, i)
            c.verdict[i] = v
            self.counts[<uint8_t>v] += 1

    def process(self, PacketBatch batch not None):
        """Every row with verdict PASS: on PASS it is a frame, with its network, VNI and origin in the columns.

        BufferError while a view of the batch is alive and fragments are put together: its memory may grow.
        """
        if self.fragments is not None:
            batch._require_idle("put fragments together in")
        with nogil:
            self.receive_rows(&batch.c)
        return batch

    @property
    def not_udp(self):
        """Rows that were IP and no UDP so far: ICMP of the underlay is among them."""
        return self.counts[<uint8_t>PUNT_NOT_UDP]

    def counters(self):
        """Rows by verdict since the start: ``{Verdict: rows}`` of those that occur."""
        from vxlanfast._ext.verdict import Verdict
        return {Verdict(i): self.counts[i] for i in range(VERDICT_COUNT) if self.counts[i]}
