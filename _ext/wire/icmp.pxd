"""ICMP (RFC 792), ICMPv6 (RFC 4443), and the solicitation and advertisement of neighbours (RFC 4861 §4.3, §4.4).

     0       1       2               4               6
    +-------+-------+---------------+---------------+---------------+
    | type  | code  |   checksum    |  identifier   |   sequence    |   echo; other types use bytes 4 to 7 their way
    +-------+-------+---------------+---------------+---------------+  8
    | type  | code  |   checksum    |RSO|         reserved          |   solicitation 135, advertisement 136
    +-------+-------+---------------+-------------------------------+  8
    |                    target address, 16 bytes                   |
    +-------+-------+-----------------------------------------------+ 24
    | kind  |len / 8|    link-layer address                         |   options, as often as there is room
    +-------+-------+-----------------------------------------------+
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy

from vxlanfast._ext.verdict cimport Verdict, PASS, DROP_TRUNCATED, DROP_L4_HEADER
from vxlanfast._ext.wire.csum cimport csum, csum_finish, csum_fold, csum_l4_ok, csum_pseudo6
from vxlanfast._ext.wire.endian cimport load_be16, load_be32, store_be16, store_be32
from vxlanfast._ext.wire.ipv4 cimport IP_PROTO_ICMPV6

cdef enum:
    ICMP_OFF_TYPE = 0
    ICMP_OFF_CODE = 1
    ICMP_OFF_CSUM = 2
    ICMP_OFF_ID = 4
    ICMP_OFF_SEQ = 6
    ICMP_HDR_LEN = 8

    ICMP_ECHO_REPLY = 0
    ICMP_DEST_UNREACH = 3
    ICMP_SOURCE_QUENCH = 4
    ICMP_REDIRECT = 5
    ICMP_ECHO = 8
    ICMP_TIME_EXCEEDED = 11
    ICMP_PARAM_PROBLEM = 12

    ICMP6_DEST_UNREACH = 1
    ICMP6_PACKET_TOO_BIG = 2
    ICMP6_TIME_EXCEEDED = 3
    ICMP6_PARAM_PROBLEM = 4
    ICMP6_ECHO = 128
    ICMP6_ECHO_REPLY = 129
    ICMP6_ND_SOLICIT = 135
    ICMP6_ND_ADVERT = 136

    ND_OFF_FLAGS = 4
    ND_OFF_TARGET = 8
    ND_HDR_LEN = 24
    ND_ROUTER = 0x80      # R: the sender is a router
    ND_SOLICITED = 0x40   # S: an answer to a solicitation
    ND_OVERRIDE = 0x20    # O: replace what the cache says
    ND_OPT_SOURCE = 1     # link-layer address of the sender, in a solicitation
    ND_OPT_TARGET = 2     # of the target, in an advertisement
    ND_OPT_LEN = 8        # such an option over Ethernet (RFC 2464 §6)


cdef inline Verdict icmp_check(const uint8_t *p, uint32_t n) noexcept nogil:
    """The 8 bytes that every message of either version has are there."""
    return PASS if n >= ICMP_HDR_LEN else DROP_TRUNCATED


cdef inline uint8_t icmp_type(const uint8_t *p) noexcept nogil:
    return p[ICMP_OFF_TYPE]


cdef inline uint8_t icmp_code(const uint8_t *p) noexcept nogil:
    return p[ICMP_OFF_CODE]


cdef inline uint16_t icmp_csum(const uint8_t *p) noexcept nogil:
    return load_be16(p + ICMP_OFF_CSUM)


cdef inline uint16_t icmp_id(const uint8_t *p) noexcept nogil:
    return load_be16(p + ICMP_OFF_ID)


cdef inline uint16_t icmp_seq(const uint8_t *p) noexcept nogil:
    return load_be16(p + ICMP_OFF_SEQ)


cdef inline bint icmp_is_echo(const uint8_t *p) noexcept nogil:
    """An IPv4 echo request or reply: the identifier means something."""
    return p[ICMP_OFF_TYPE] == ICMP_ECHO or p[ICMP_OFF_TYPE] == ICMP_ECHO_REPLY


cdef inline bint icmp6_is_echo(const uint8_t *p) noexcept nogil:
    return p[ICMP_OFF_TYPE] == ICMP6_ECHO or p[ICMP_OFF_TYPE] == ICMP6_ECHO_REPLY


cdef inline bint icmp_csum_ok(const uint8_t *p, uint32_t n) noexcept nogil:
    """Of an IPv4 message of ``n`` bytes, all in hand: no pseudo header (RFC 792)."""
    return csum_fold(csum(p, n)) == 0xFFFF


cdef inline bint icmp6_csum_ok(const uint8_t *ip, const uint8_t *p, uint32_t n) noexcept nogil:
    """Of an IPv6 message of ``n`` bytes, all in hand, under the header at ``ip`` (RFC 4443 §2.3)."""
    return csum_l4_ok(ip, 6, p, n, IP_PROTO_ICMPV6)


cdef inline void icmp_set_id(uint8_t *p, uint16_t ident) noexcept nogil:
    store_be16(p + ICMP_OFF_ID, ident)


cdef inline void icmp_set_csum(uint8_t *p, uint32_t n) noexcept nogil:
    """Compute and store the checksum of an IPv4 message of ``n`` bytes."""
    store_be16(p + ICMP_OFF_CSUM, 0)
    store_be16(p + ICMP_OFF_CSUM, csum_finish(csum(p, n)))


cdef inline void icmp6_set_csum(const uint8_t *ip, uint8_t *p, uint32_t n) noexcept nogil:
    """The same of an IPv6 message under the header at ``ip``."""
    store_be16(p + ICMP_OFF_CSUM, 0)
    store_be16(p + ICMP_OFF_CSUM, csum_finish(csum(p, n) + csum_pseudo6(ip, n, IP_PROTO_ICMPV6)))


cdef inline void icmp_write(uint8_t *p, uint8_t kind, uint8_t code, uint16_t ident, uint16_t seq) noexcept nogil:
    """All 8 bytes, the checksum 0: ``icmp_set_csum`` or ``icmp6_set_csum`` once the rest of the message stands."""
    p[ICMP_OFF_TYPE] = kind
    p[ICMP_OFF_CODE] = code
    store_be16(p + ICMP_OFF_CSUM, 0)
    store_be16(p + ICMP_OFF_ID, ident)
    store_be16(p + ICMP_OFF_SEQ, seq)


cdef inline Verdict nd_check(const uint8_t *p, uint32_t n) noexcept nogil:
    """A solicitation or advertisement of ``n`` bytes: header and options are there.

    An option of length 0 makes the message invalid (RFC 4861 §4.6). Hop limit 255, code 0 and the checksum (§7.1) are
    the caller's to compare.
    """
    cdef uint32_t at = ND_HDR_LEN
    if n < ND_HDR_LEN:
        return DROP_TRUNCATED
    while at < n:
        if n - at < 2:
            return DROP_TRUNCATED
        if p[at + 1] == 0:
            return DROP_L4_HEADER
        at += <uint32_t>p[at + 1] * 8
    return PASS if at == n else DROP_TRUNCATED


cdef inline uint8_t nd_flags(const uint8_t *p) noexcept nogil:
    """R, S and O; what else stands there is reserved and ignored."""
    return p[ND_OFF_FLAGS] & (ND_ROUTER | ND_SOLICITED | ND_OVERRIDE)


cdef inline const uint8_t *nd_target(const uint8_t *p) noexcept nogil:
    return p + ND_OFF_TARGET


cdef inline const uint8_t *nd_mac(const uint8_t *p, uint32_t n, uint8_t kind) noexcept nogil:
    """The address in the first Ethernet option of ``kind``, NULL where there is none. O(options)."""
    cdef uint32_t at = ND_HDR_LEN
    while at < n:
        if p[at] == kind and p[at + 1] == 1:
            return p + at + 2
        at += <uint32_t>p[at + 1] * 8
    return NULL


cdef inline void nd_write(uint8_t *p, uint8_t kind, uint8_t flags, const uint8_t *target, uint8_t option,
                          const uint8_t *mac) noexcept nogil:
    """All 32 bytes of a message with one link-layer address option, the checksum 0: ``icmp6_set_csum`` comes next."""
    p[ICMP_OFF_TYPE] = kind
    p[ICMP_OFF_CODE] = 0
    store_be16(p + ICMP_OFF_CSUM, 0)
    store_be32(p + ND_OFF_FLAGS, <uint32_t>flags << 24)
    memcpy(p + ND_OFF_TARGET, target, 16)
    p[ND_HDR_LEN] = option
    p[ND_HDR_LEN + 1] = ND_OPT_LEN // 8
    memcpy(p + ND_HDR_LEN + 2, mac, 6)
