"""IPv4 (RFC 791 §3.1).

     0       1       2               4
    +-------+-------+---------------+---------------+---------------+
    |ver|IHL|  TOS  | total length  | identification|fl| frag offset|
    +-------+-------+---------------+---------------+---------------+  8
    |  TTL  |  prot | header csum   |           source              |
    +-------+-------+---------------+-------------------------------+ 16
    |          destination          |   options, to IHL * 4         |
    +-------------------------------+-------------------------------+
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from vxlanfast._ext.verdict cimport Verdict, PASS, DROP_TRUNCATED, DROP_IP_HEADER
from vxlanfast._ext.wire.csum cimport csum_fold, csum_short, csum_update
from vxlanfast._ext.wire.endian cimport load_be16, load_be32, store_be16, store_be32

cdef enum:
    IPV4_OFF_TOS = 1
    IPV4_OFF_TOTAL_LEN = 2
    IPV4_OFF_ID = 4
    IPV4_OFF_FRAG = 6
    IPV4_OFF_TTL = 8
    IPV4_OFF_PROTO = 9
    IPV4_OFF_CSUM = 10
    IPV4_OFF_SRC = 12
    IPV4_OFF_DST = 16
    IPV4_HDR_LEN = 20
    IPV4_DF = 0x4000
    IPV4_MF = 0x2000
    IPV4_FRAG_MASK = 0x1FFF  # offset, in units of 8 bytes
    IPV4_OPT_END = 0
    IPV4_OPT_NOP = 1
    IPV4_OPT_COPIED = 0x80   # of an option's kind: every fragment has it

    IP_PROTO_HOPOPTS = 0
    IP_PROTO_ICMP = 1
    IP_PROTO_IGMP = 2
    IP_PROTO_TCP = 6
    IP_PROTO_UDP = 17
    IP_PROTO_DCCP = 33
    IP_PROTO_ROUTING = 43
    IP_PROTO_FRAGMENT = 44
    IP_PROTO_ESP = 50
    IP_PROTO_AH = 51
    IP_PROTO_ICMPV6 = 58
    IP_PROTO_NONE = 59
    IP_PROTO_DSTOPTS = 60
    IP_PROTO_SCTP = 132
    IP_PROTO_MOBILITY = 135
    IP_PROTO_UDPLITE = 136
    IP_PROTO_HIP = 139
    IP_PROTO_SHIM6 = 140


cdef inline Verdict ipv4_check(const uint8_t *p, uint32_t n) noexcept nogil:
    """The whole header, options included, is there and plausible. Total length is the caller's to compare."""
    cdef uint32_t ihl
    if n < IPV4_HDR_LEN:
        return DROP_TRUNCATED
    ihl = (p[0] & 0x0F) * 4
    if p[0] >> 4 != 4 or ihl < IPV4_HDR_LEN:
        return DROP_IP_HEADER
    if n < ihl:
        return DROP_TRUNCATED
    return PASS


cdef inline uint32_t ipv4_hdr_len(const uint8_t *p) noexcept nogil:
    return (p[0] & 0x0F) * 4


cdef inline uint16_t ipv4_total_len(const uint8_t *p) noexcept nogil:
    return load_be16(p + IPV4_OFF_TOTAL_LEN)


cdef inline uint16_t ipv4_frag(const uint8_t *p) noexcept nogil:
    """Flags and fragment offset; a fragment has MF or an offset (``& 0x3FFF`` non-zero)."""
    return load_be16(p + IPV4_OFF_FRAG)


cdef inline bint ipv4_csum_ok(const uint8_t *p) noexcept nogil:
    """A right header sums to all ones, its own field included (RFC 1071 §1)."""
    return csum_fold(csum_short(p, ipv4_hdr_len(p))) == 0xFFFF


cdef inline void ipv4_age(uint8_t *p) noexcept nogil:
    """One hop on: a TTL that is not 0 is one less, and the checksum says so. As one word: a byte stored is slow to load with another."""
    cdef uint16_t old = load_be16(p + IPV4_OFF_TTL)
    store_be16(p + IPV4_OFF_TTL, old - 0x100)
    store_be16(p + IPV4_OFF_CSUM, csum_update(load_be16(p + IPV4_OFF_CSUM), old, old - 0x100))


cdef inline void ipv4_write(uint8_t *p, uint8_t tos, uint16_t total_len, uint16_t ident, uint16_t frag,
                            uint8_t ttl, uint8_t proto, uint32_t src, uint32_t dst) noexcept nogil:
    """All 20 bytes of a header without options, checksum included. Addresses in host order."""
    p[0] = 0x45
    p[IPV4_OFF_TOS] = tos
    store_be16(p + IPV4_OFF_TOTAL_LEN, total_len)
    store_be16(p + IPV4_OFF_ID, ident)
    store_be16(p + IPV4_OFF_FRAG, frag)
    p[IPV4_OFF_TTL] = ttl
    p[IPV4_OFF_PROTO] = proto
    store_be16(p + IPV4_OFF_CSUM, 0)
    store_be32(p + IPV4_OFF_SRC, src)
    store_be32(p + IPV4_OFF_DST, dst)
    store_be16(p + IPV4_OFF_CSUM, <uint16_t>~csum_fold(csum_short(p, IPV4_HDR_LEN)))
