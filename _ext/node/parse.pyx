"""Parse and validate: where each frame's network and transport headers are, and which flow it is of."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from vxlanfast._ext.batch cimport BATCH_NO_HEADER, Columns, PacketBatch
from vxlanfast._ext.verdict cimport Verdict, PASS, PUNT_NOT_IP, VERDICT_COUNT
from vxlanfast._ext.wire.arp cimport arp_check
from vxlanfast._ext.wire.endian cimport likely, load_be16, load_be32
from vxlanfast._ext.wire.eth cimport ETH_HDR_LEN, ETH_TYPE_ARP
from vxlanfast._ext.wire.flow cimport flow_common, flow_hash_any, flow_key
from vxlanfast._ext.wire.icmp cimport icmp_check
from vxlanfast._ext.wire.ip cimport IpPacket, ip_parse
from vxlanfast._ext.wire.ipv4 cimport IP_PROTO_ICMP, IP_PROTO_ICMPV6, IP_PROTO_TCP, IP_PROTO_UDP, IPV4_HDR_LEN
from vxlanfast._ext.wire.link cimport LINK_ETHERNET, link_find_l3
from vxlanfast._ext.wire.tcp cimport TCP_HDR_LEN, tcp_check
from vxlanfast._ext.wire.udp cimport UDP_HDR_LEN, udp_check, udp_find_end


cdef inline Verdict parse_l4(const uint8_t *p, uint32_t n, uint32_t room, const IpPacket *ip) noexcept nogil:
    """Check the upper-layer header at ``p``: ``n`` bytes captured, ``room`` on the wire by the IP length."""
    cdef uint32_t end = 0
    cdef Verdict v
    if n > room:
        n = room
    if ip.proto == IP_PROTO_UDP:
        v = udp_check(p, n)
        return v if v != PASS else udp_find_end(p, room, ip.to_end, &end)
    if ip.proto == IP_PROTO_TCP:
        return tcp_check(p, n)
    if ip.proto == IP_PROTO_ICMP or ip.proto == IP_PROTO_ICMPV6:
        return icmp_check(p, n)
    return PASS


cdef inline bint parse_common(const uint8_t *p, uint32_t n, uint32_t wire_n) noexcept nogil:
    """Whole and right, and its headers in the usual places: Ethernet, IPv4 without options, unfragmented UDP or TCP."""
    cdef uint32_t total, length, kind
    if n < ETH_HDR_LEN + IPV4_HDR_LEN + UDP_HDR_LEN:
        return False
    total = load_be16(p + 16)
    if not (likely((load_be32(p + 12) & 0xFFFFFF00U) == 0x08004500U) and likely(total + ETH_HDR_LEN <= wire_n)):
        return False
    kind = load_be32(p + 20) & 0x3FFF00FFU
    if kind == IP_PROTO_UDP:
        length = load_be16(p + 38)
        return likely(length + IPV4_HDR_LEN <= total) and likely(length >= UDP_HDR_LEN)
    if kind == IP_PROTO_TCP and n >= ETH_HDR_LEN + IPV4_HDR_LEN + TCP_HDR_LEN:
        length = (p[46] >> 4) * 4
        return (likely(length >= TCP_HDR_LEN) and likely(length + IPV4_HDR_LEN <= total)
                and likely(length + ETH_HDR_LEN + IPV4_HDR_LEN <= n))
    return False


cdef Verdict parse_row(Columns *c, uint32_t i) noexcept nogil:
    cdef const uint8_t *p = c.arena + c.off[i]
    cdef uint32_t n = c.len[i], wire_n = c.wire_len[i], l3 = 0
    cdef uint16_t ethertype = 0
    cdef IpPacket ip
    cdef Verdict v
    if wire_n < n:
        wire_n = n
    v = link_find_l3(c.link[i], p, n, &ethertype, &l3)
    if v != PASS:
        return v
    if l3 < BATCH_NO_HEADER:
        c.l3[i] = <uint16_t>l3
    if ethertype == ETH_TYPE_ARP:
        v = arp_check(p + l3, n - l3)
        return PASS if v == PUNT_NOT_IP else v  # of other kinds: whole, and nothing to look into
    v = ip_parse(ethertype, p + l3, n - l3, wire_n - l3, &ip)
    if v != PASS:
        return PASS if v == PUNT_NOT_IP else v
    if ip.is_fragment and ip.frag_offset:
        return PASS
    if l3 + ip.l4 < BATCH_NO_HEADER:
        c.l4[i] = <uint16_t>(l3 + ip.l4)
    if ip.is_fragment:
        return PASS  # the first fragment's upper header counts bytes that are elsewhere
    return parse_l4(p + l3 + ip.l4, n - l3 - ip.l4 if n > l3 + ip.l4 else 0, ip.end - ip.l4, &ip)


cdef void parse_rows(Columns *columns, uint64_t key, uint64_t *counts) noexcept nogil:
    cdef Columns c = columns[0]  # a copy that nothing points to: see decap_rows
    cdef uint32_t i, flow = 0
    cdef uint64_t passed = 0
    cdef Verdict v
    for i in range(c.n):
        if c.verdict[i] != PASS:
            continue
        if likely(c.link[i] == LINK_ETHERNET):
            if not flow_common(c.arena + c.off[i], c.len[i], key, &flow):
                flow = flow_hash_any(c.arena + c.off[i], c.len[i], key)
            c.flow[i] = flow
            if likely(parse_common(c.arena + c.off[i], c.len[i], c.wire_len[i])):
                # The common frame in one condition; the general way says the same of it.
                c.l3[i] = ETH_HDR_LEN
                c.l4[i] = ETH_HDR_LEN + IPV4_HDR_LEN
                passed += 1
                continue
        v = parse_row(columns, i)
        c.verdict[i] = v
        counts[<uint8_t>v] += 1
    counts[<uint8_t>PASS] += passed


cdef class Parse:
    """Fills ``l3``, ``l4`` and ``flow`` of every row that passed, and drops those whose headers are cut or lie.

    Any link type and protocol: ARP, IP, UDP, TCP and ICMP are looked into, others pass as they are. ``seed``: of the
    flow hash (Ethernet frames have one).
    """
    cdef uint64_t key
    cdef uint64_t counts[VERDICT_COUNT]

    def __cinit__(self, *, uint64_t seed=0):
        self.key = flow_key(seed)

    def process(self, PacketBatch batch not None):
        """Every row with verdict PASS."""
        with nogil:
            parse_rows(&batch.c, self.key, self.counts)
        return batch

    def counters(self):
        """Rows by verdict since the start: ``{Verdict: rows}`` of those that occur."""
        from vxlanfast._ext.verdict import Verdict
        return {Verdict(i): self.counts[i] for i in range(VERDICT_COUNT) if self.counts[i]}
