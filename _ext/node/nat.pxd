"""Addresses and ports rewritten, and the checksums with them (RFC 3022 §4, RFC 1624): in a packet, and in the packet that an ICMP
error quotes.

A packet of one direction gets the addresses of the other direction's packets, source and destination exchanged:

    client:cport → virtual:vport   becomes   masq:mport → server:dport
    server:dport → masq:mport      becomes   virtual:vport → client:cport
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from vxlanfast._ext.table.conn cimport Conn, conn_client, conn_masq, conn_server, conn_virtual, port_dst, port_pair, port_src
from vxlanfast._ext.wire.csum cimport csum_fold, csum_update
from vxlanfast._ext.wire.endian cimport load_be16, load_host16, load_host32, load_host64, store_be16
from vxlanfast._ext.wire.icmp cimport ICMP_OFF_CSUM, ICMP_OFF_ID, icmp6_is_echo, icmp_is_echo
from vxlanfast._ext.wire.ipv4 cimport (
    IP_PROTO_DCCP, IP_PROTO_ICMP, IP_PROTO_ICMPV6, IP_PROTO_SCTP, IP_PROTO_TCP, IP_PROTO_UDP, IP_PROTO_UDPLITE, IPV4_HDR_LEN,
    IPV4_OFF_CSUM, IPV4_OFF_SRC, IPV4_OFF_TTL,
)
from vxlanfast._ext.wire.ipv6 cimport IPV6_OFF_HOPS, IPV6_OFF_SRC
from vxlanfast._ext.wire.tcp cimport TCP_OFF_CSUM
from vxlanfast._ext.wire.udp cimport UDP_OFF_CSUM


cdef struct NatTuple:
    uint8_t addrs[32]       # source and destination as they stand in a header
    uint32_t ports          # likewise


cdef inline bint nat_has_ports(uint8_t proto) noexcept nogil:
    """Protocols whose header begins with two ports."""
    return (proto == IP_PROTO_TCP or proto == IP_PROTO_UDP or proto == IP_PROTO_SCTP or proto == IP_PROTO_DCCP
            or proto == IP_PROTO_UDPLITE)


cdef inline void nat_tuple(NatTuple *t, const Conn *e, bint reverse) noexcept nogil:
    """What a packet of that direction becomes."""
    cdef uint32_t size = 4 if e.family == 4 else 16
    cdef uint32_t ports = e.ports[not reverse]
    memcpy(t.addrs, conn_virtual(e) if reverse else conn_masq(e), size)
    memcpy(t.addrs + size, conn_client(e) if reverse else conn_server(e), size)
    t.ports = port_pair(port_dst(ports), port_src(ports))


cdef inline void nat_original(NatTuple *t, const Conn *e, bint reverse) noexcept nogil:
    """What a packet of that direction was."""
    cdef uint32_t size = 4 if e.family == 4 else 16
    memcpy(t.addrs, conn_server(e) if reverse else conn_client(e), size)
    memcpy(t.addrs + size, conn_masq(e) if reverse else conn_virtual(e), size)
    t.ports = e.ports[reverse]


cdef inline uint8_t ip_ttl(const uint8_t *ip, uint8_t family) noexcept nogil:
    """Its TTL, or hop limit."""
    return ip[IPV4_OFF_TTL if family == 4 else IPV6_OFF_HOPS]


cdef inline void nat_pass(uint8_t *ip, uint8_t family, uint8_t routers) noexcept nogil:
    """A packet that so many routers have passed on; the last that it has a TTL for is left to the next one to refuse."""
    cdef uint8_t ttl = ip_ttl(ip, family)
    cdef uint16_t old
    if routers >= ttl:
        routers = ttl - 1 if ttl else 0
    if routers == 0:
        return
    if family == 6:
        ip[IPV6_OFF_HOPS] -= routers
        return
    old = load_be16(ip + IPV4_OFF_TTL)
    ip[IPV4_OFF_TTL] -= routers
    store_be16(ip + IPV4_OFF_CSUM, csum_update(load_be16(ip + IPV4_OFF_CSUM), old, load_be16(ip + IPV4_OFF_TTL)))


cdef inline uint64_t sum_diff(const uint8_t *old, const uint8_t *new, uint32_t n) noexcept nogil:
    """What to add to a sum where ``n`` bytes, a multiple of 4, are replaced: ~m + m', word by word (RFC 1624 §3)."""
    cdef uint64_t total = 0
    cdef uint32_t k = 0
    while k < n:
        total += <uint64_t><uint32_t>~load_host32(old + k) + load_host32(new + k)
        k += 4
    return total


cdef inline void sum_patch(uint8_t *p, uint64_t diff) noexcept nogil:
    """A checksum field after its sum changed by ``diff``: HC' = ~(~HC + diff). Any byte order: the fold gives the network's."""
    store_be16(p, <uint16_t>~csum_fold(<uint64_t><uint16_t>~load_host16(p) + diff))


cdef inline void udp_patch(uint8_t *p, uint64_t diff) noexcept nogil:
    """The same of UDP: zero says that there is none and stays, and a sum of zero is sent as all ones (RFC 768)."""
    if load_host16(p):
        sum_patch(p, diff)
        if load_host16(p) == 0:
            store_be16(p, 0xFFFF)


cdef inline void nat_apply(uint8_t *ip, uint8_t family, uint8_t *l4, uint32_t n, uint8_t proto, const NatTuple *t,
                           bint sums) noexcept nogil:
    """Rewrite a packet with ``n`` bytes from its upper-layer header on, as many fields as are there. Not SCTP's checksum, which
    covers all of it; ``sums`` False: no upper-layer checksum at all, for a quoted packet that keeps its sender's."""
    cdef uint64_t diff, ports
    cdef uint16_t ident
    if family == 4:
        diff = sum_diff(ip + IPV4_OFF_SRC, t.addrs, 8)
        memcpy(ip + IPV4_OFF_SRC, t.addrs, 8)
        sum_patch(ip + IPV4_OFF_CSUM, diff)
    else:
        diff = sum_diff(ip + IPV6_OFF_SRC, t.addrs, 32)
        memcpy(ip + IPV6_OFF_SRC, t.addrs, 32)
    if nat_has_ports(proto):
        if n < 4:
            return
        ports = sum_diff(l4, <const uint8_t *>&t.ports, 4)
        memcpy(l4, &t.ports, 4)
        if not sums:
            return
        if proto == IP_PROTO_TCP:
            if n >= TCP_OFF_CSUM + 2:
                sum_patch(l4 + TCP_OFF_CSUM, diff + ports)
        elif proto != IP_PROTO_SCTP and n >= UDP_OFF_CSUM + 2:  # DCCP's and UDP-Lite's stand where UDP's does
            udp_patch(l4 + UDP_OFF_CSUM, diff + ports)
    elif proto == IP_PROTO_ICMP or proto == IP_PROTO_ICMPV6:
        if n < ICMP_OFF_ID + 2:
            return
        if proto == IP_PROTO_ICMPV6 and sums:
            sum_patch(l4 + ICMP_OFF_CSUM, diff)  # it alone has a pseudo header
        if not (icmp_is_echo(l4) if proto == IP_PROTO_ICMP else icmp6_is_echo(l4)):
            return
        ident = port_src(t.ports) if port_dst(t.ports) == 0 else port_dst(t.ports)
        if sums:
            store_be16(l4 + ICMP_OFF_CSUM, csum_update_native(l4 + ICMP_OFF_CSUM, load_host16(l4 + ICMP_OFF_ID), ident))
        memcpy(l4 + ICMP_OFF_ID, &ident, 2)


cdef inline void nat_common(uint8_t *ip, const Conn *e, bint reverse, bint tcp) noexcept nogil:
    """``nat_tuple`` and ``nat_apply`` of the common packet, TCP or UDP over IPv4 without options, of that connection."""
    cdef uint64_t addrs = load_host64(e.a + (0 if reverse else 8)), diff
    cdef uint32_t ports = e.ports[not reverse], old = load_host32(ip + IPV4_HDR_LEN)
    addrs = addrs >> 32 | addrs << 32  # in memory, the halves change places
    ports = ports >> 16 | ports << 16
    diff = (<uint64_t><uint32_t>~load_host32(ip + IPV4_OFF_SRC) + <uint32_t>~load_host32(ip + IPV4_OFF_SRC + 4)
            + <uint32_t>addrs + <uint32_t>(addrs >> 32))
    memcpy(ip + IPV4_OFF_SRC, &addrs, 8)
    sum_patch(ip + IPV4_OFF_CSUM, diff)
    memcpy(ip + IPV4_HDR_LEN, &ports, 4)
    diff += <uint64_t><uint32_t>~old + ports
    if tcp:
        sum_patch(ip + IPV4_HDR_LEN + TCP_OFF_CSUM, diff)
    else:
        udp_patch(ip + IPV4_HDR_LEN + UDP_OFF_CSUM, diff)


cdef inline uint16_t csum_update_native(const uint8_t *p, uint16_t old, uint16_t new) noexcept nogil:
    """Of a field at ``p``, in host order, after a word changed that was loaded without looking at its order."""
    return <uint16_t>~csum_fold(<uint64_t><uint16_t>~load_host16(p) + <uint16_t>~old + new)
