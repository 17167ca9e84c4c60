"""What a row is to connections: a packet of a flow, or an ICMP error about one. Nothing is changed."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from vxlanfast._ext.batch cimport Columns
from vxlanfast._ext.node.nat cimport nat_has_ports
from vxlanfast._ext.table.conn cimport CONN_NONE, ConnKey, conn_key4, conn_key6, key_reverse
from vxlanfast._ext.verdict cimport PASS
from vxlanfast._ext.wire.csum cimport csum_fold, csum_short
from vxlanfast._ext.wire.endian cimport likely, load_be16, load_be32, load_host32
from vxlanfast._ext.wire.eth cimport ETH_HDR_LEN, ETH_OFF_TYPE, ETH_TYPE_IPV4, ETH_TYPE_IPV6
from vxlanfast._ext.wire.icmp cimport (
    ICMP6_DEST_UNREACH, ICMP6_ECHO, ICMP6_PARAM_PROBLEM, ICMP_DEST_UNREACH, ICMP_ECHO, ICMP_HDR_LEN, ICMP_OFF_ID,
    ICMP_SOURCE_QUENCH, ICMP_TIME_EXCEEDED, icmp6_is_echo, icmp_is_echo,
)
from vxlanfast._ext.wire.ipv4 cimport (
    IP_PROTO_ICMP, IP_PROTO_ICMPV6, IP_PROTO_TCP, IP_PROTO_UDP, IPV4_HDR_LEN, IPV4_OFF_PROTO, IPV4_OFF_SRC, ipv4_check, ipv4_csum_ok, ipv4_frag,
    ipv4_hdr_len, ipv4_total_len,
)
from vxlanfast._ext.wire.ipv6 cimport IPV6_HDR_LEN, IPV6_OFF_SRC, ipv6_check, ipv6_find_l4, ipv6_payload_len
from vxlanfast._ext.wire.tcp cimport TCP_HDR_LEN, tcp_flags
from vxlanfast._ext.wire.udp cimport UDP_HDR_LEN


cdef enum:
    COMMON_TYPE = ETH_TYPE_IPV4 << 8 | 0x45  # and the first byte of a header without options


cdef enum SeenKind:
    SEEN_OTHER = 0              # nothing that connections are made of
    SEEN_FLOW = 1               # TCP, UDP, SCTP, or a ping: `key` says which
    SEEN_ERROR = 2              # an ICMP error about something: `key` is of the answer to what it quotes
    SEEN_BROKEN = 3             # cut or malformed
    SEEN_PART = 4               # a fragment of something


cdef struct Seen:
    ConnKey key
    uint32_t row
    uint32_t ref                # of the connection, as far as looked up
    uint32_t l3                 # in the frame
    uint32_t l4                 # in the packet; of an error, of its ICMP header
    uint32_t n                  # bytes of the packet that are there
    uint32_t length             # that it says it has
    uint32_t quoted             # error: where the quoted packet begins …
    uint32_t quoted_l4          # … and its upper layer, in the packet
    uint8_t family
    uint8_t proto               # of the packet; key.proto is of the flow
    uint8_t kind
    uint8_t flags               # TCP's
    bint common                 # TCP or UDP over IPv4 without tags or options, whole


cdef inline bint is_related4(uint8_t kind) noexcept nogil:
    """ICMP errors that belong to a connection, as IPVS has it: redirects and parameter problems do not pass."""
    return kind == ICMP_DEST_UNREACH or kind == ICMP_SOURCE_QUENCH or kind == ICMP_TIME_EXCEEDED


cdef inline bint is_related6(uint8_t kind) noexcept nogil:
    return ICMP6_DEST_UNREACH <= kind <= ICMP6_PARAM_PROBLEM


cdef inline bint look_inside(const uint8_t *ip, Seen *s, uint16_t domain, uint64_t seed) noexcept nogil:
    """The packet that an ICMP error quotes: the key is of the answer to it, which finds the connection from this side."""
    cdef const uint8_t *q
    cdef uint32_t n, ports, fragment = 0, l4 = 0
    cdef uint8_t proto = 0
    cdef ConnKey key
    s.kind = SEEN_ERROR
    s.quoted = s.l4 + ICMP_HDR_LEN
    if s.n < s.quoted + (IPV4_HDR_LEN if s.family == 4 else IPV6_HDR_LEN) + 4:
        s.kind = SEEN_BROKEN
        return True
    q = ip + s.quoted
    n = s.n - s.quoted
    if s.family == 4:
        if ipv4_check(q, n) != PASS or ipv4_frag(q) & 0x1FFF:
            s.kind = SEEN_BROKEN
            return True
        proto = q[IPV4_OFF_PROTO]
        l4 = ipv4_hdr_len(q)
    elif ipv6_check(q, n) != PASS or ipv6_find_l4(q, n, &proto, &l4, &fragment) != PASS \
            or (fragment and load_be16(q + fragment + 2) & 0xFFF8):
        s.kind = SEEN_BROKEN
        return True
    s.quoted_l4 = s.quoted + l4
    ports = 0
    if n < l4 + 4:
        s.kind = SEEN_BROKEN
        return True
    if nat_has_ports(proto):
        ports = load_host32(q + l4)
    elif proto == (IP_PROTO_ICMP if s.family == 4 else IP_PROTO_ICMPV6) and n >= l4 + ICMP_HDR_LEN \
            and (icmp_is_echo(q + l4) if s.family == 4 else icmp6_is_echo(q + l4)):
        memcpy(<uint8_t *>&ports + (0 if q[l4] == (ICMP_ECHO if s.family == 4 else ICMP6_ECHO) else 2), q + l4 + ICMP_OFF_ID, 2)
    else:
        s.kind = SEEN_BROKEN
        return True
    if s.family == 4:
        conn_key4(&key, q + IPV4_OFF_SRC, ports, domain, proto, seed)
    else:
        conn_key6(&key, q + IPV6_OFF_SRC, ports, domain, proto, seed)
    key_reverse(&s.key, &key, seed)
    return True


cdef inline bint look_common(const Columns *c, uint32_t i, uint16_t domain, uint64_t seed, Seen *s) noexcept nogil:
    """The same as ``look`` of the common packet, in a few loads and compares; False: ``look`` has to say."""
    cdef const uint8_t *frame = c.arena + c.off[i]
    cdef const uint8_t *ip = frame + ETH_HDR_LEN
    cdef uint32_t n = c.len[i], length, ports
    cdef uint8_t proto
    if c.head_len[i] or n < ETH_HDR_LEN + IPV4_HDR_LEN + UDP_HDR_LEN or load_be32(frame + ETH_OFF_TYPE) >> 8 != COMMON_TYPE:
        return False
    proto = ip[IPV4_OFF_PROTO]
    length = ipv4_total_len(ip)
    if ipv4_frag(ip) & 0x3FFF or length > n - ETH_HDR_LEN or csum_fold(csum_short(ip, IPV4_HDR_LEN)) != 0xFFFF:
        return False
    s.flags = 0
    if proto == IP_PROTO_TCP:
        if length < IPV4_HDR_LEN + TCP_HDR_LEN:
            return False
        s.flags = tcp_flags(ip + IPV4_HDR_LEN)
    elif proto != IP_PROTO_UDP or length < IPV4_HDR_LEN + UDP_HDR_LEN:
        return False
    ports = load_host32(ip + IPV4_HDR_LEN)
    s.row = i
    s.ref = CONN_NONE
    s.kind = SEEN_FLOW
    s.common = True
    s.family = 4
    s.proto = proto
    s.l3 = ETH_HDR_LEN
    s.l4 = IPV4_HDR_LEN
    s.n = s.length = length
    conn_key4(&s.key, ip + IPV4_OFF_SRC, ports, domain, proto, seed)
    return True


cdef inline bint look(const Columns *c, uint32_t i, uint16_t domain, uint64_t seed, Seen *s) noexcept nogil:
    """What row ``i`` is to connections: False, and nothing more known, where it is nothing."""
    cdef const uint8_t *frame = c.arena + c.off[i]
    cdef const uint8_t *ip
    cdef const uint8_t *l4
    cdef uint32_t n = c.len[i], fragment = 0, ports = 0
    cdef uint16_t ethertype
    s.row = i
    s.kind = SEEN_OTHER
    s.common = False
    s.ref = CONN_NONE
    if c.head_len[i] or n < ETH_HDR_LEN + IPV4_HDR_LEN:
        return False
    ethertype = load_be16(frame + ETH_OFF_TYPE)
    s.l3 = ETH_HDR_LEN
    ip = frame + ETH_HDR_LEN
    n -= ETH_HDR_LEN
    if likely(ethertype == ETH_TYPE_IPV4):
        if ipv4_check(ip, n) != PASS or not ipv4_csum_ok(ip):
            return False  # Route says what is wrong with it
        s.family = 4
        s.l4 = ipv4_hdr_len(ip)
        s.length = ipv4_total_len(ip)
        s.proto = ip[IPV4_OFF_PROTO]
        if ipv4_frag(ip) & 0x3FFF:
            s.kind = SEEN_PART
            return True
    elif ethertype == ETH_TYPE_IPV6:
        if ipv6_check(ip, n) != PASS or ipv6_find_l4(ip, n, &s.proto, &s.l4, &fragment) != PASS:
            return False
        s.family = 6
        s.length = IPV6_HDR_LEN + ipv6_payload_len(ip)
        if fragment and load_be16(ip + fragment + 2) & 0xFFF9:
            s.kind = SEEN_PART
            return True
    else:
        return False
    if s.length < s.l4 or s.length > c.wire_len[i] - s.l3 or s.l4 + 8 > n or s.l4 + 8 > s.length:
        return False
    s.n = n if n < s.length else s.length
    l4 = ip + s.l4
    s.flags = 0
    if s.proto == IP_PROTO_TCP:
        if s.n < s.l4 + TCP_HDR_LEN:
            return False
        s.flags = tcp_flags(l4)
        ports = load_host32(l4)
    elif nat_has_ports(s.proto):
        ports = load_host32(l4)
    elif s.proto == (IP_PROTO_ICMP if s.family == 4 else IP_PROTO_ICMPV6):
        if icmp_is_echo(l4) if s.family == 4 else icmp6_is_echo(l4):
            # A request has its identifier for a source port, a reply for a destination port.
            memcpy(<uint8_t *>&ports + (0 if l4[0] == (ICMP_ECHO if s.family == 4 else ICMP6_ECHO) else 2), l4 + ICMP_OFF_ID, 2)
        elif is_related4(l4[0]) if s.family == 4 else is_related6(l4[0]):
            return look_inside(ip, s, domain, seed)
        else:
            return False
    else:
        return False
    s.kind = SEEN_FLOW
    if likely(s.family == 4):
        conn_key4(&s.key, ip + IPV4_OFF_SRC, ports, domain, s.proto, seed)
    else:
        conn_key6(&s.key, ip + IPV6_OFF_SRC, ports, domain, s.proto, seed)
    return True
