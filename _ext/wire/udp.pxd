"""UDP (RFC 768).

     0               2               4               6
    +---------------+---------------+---------------+---------------+
    |  source port  |  destination  |    length     |   checksum    |
    +---------------+---------------+---------------+---------------+  8
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from vxlanfast._ext.verdict cimport Verdict, PASS, DROP_TRUNCATED, DROP_UDP_LEN
from vxlanfast._ext.wire.csum cimport csum_l4_ok
from vxlanfast._ext.wire.endian cimport load_be16, store_be16
from vxlanfast._ext.wire.ipv4 cimport IP_PROTO_UDP

cdef enum:
    UDP_OFF_SRC = 0
    UDP_OFF_DST = 2
    UDP_OFF_LEN = 4
    UDP_OFF_CSUM = 6
    UDP_HDR_LEN = 8


cdef inline Verdict udp_check(const uint8_t *p, uint32_t n) noexcept nogil:
    """The header is there. Its length is ``udp_find_end``'s to compare."""
    return PASS if n >= UDP_HDR_LEN else DROP_TRUNCATED


cdef inline uint16_t udp_src(const uint8_t *p) noexcept nogil:
    return load_be16(p + UDP_OFF_SRC)


cdef inline uint16_t udp_dst(const uint8_t *p) noexcept nogil:
    return load_be16(p + UDP_OFF_DST)


cdef inline uint16_t udp_len(const uint8_t *p) noexcept nogil:
    return load_be16(p + UDP_OFF_LEN)


cdef inline uint16_t udp_csum(const uint8_t *p) noexcept nogil:
    return load_be16(p + UDP_OFF_CSUM)


cdef inline Verdict udp_find_end(const uint8_t *p, uint32_t room, bint to_end, uint32_t *end) noexcept nogil:
    """One past the datagram, from its header: ``room`` is what the IP header leaves it.

    A length of 0 is the BIG TCP form (RFC 2675 §4 gives it to jumbograms) and only believed where IP has none either.
    """
    cdef uint32_t length = udp_len(p)
    if length == 0 and to_end:
        length = room
    if length < UDP_HDR_LEN or length > room:
        return DROP_UDP_LEN
    end[0] = length
    return PASS


cdef inline bint udp_csum_ok(const uint8_t *ip, uint8_t version, const uint8_t *p, uint32_t n) noexcept nogil:
    """Of a datagram of ``n`` bytes, all in hand, under the IP header at ``ip``.

    0 says that the sender computed none: right over IPv4 (RFC 768), wrong over IPv6 unless agreed (RFC 8200 §8.1).
    """
    if udp_csum(p) == 0:
        return version == 4
    return csum_l4_ok(ip, version, p, n, IP_PROTO_UDP)


cdef inline void udp_set_src(uint8_t *p, uint16_t port) noexcept nogil:
    store_be16(p + UDP_OFF_SRC, port)


cdef inline void udp_set_dst(uint8_t *p, uint16_t port) noexcept nogil:
    store_be16(p + UDP_OFF_DST, port)


cdef inline void udp_set_len(uint8_t *p, uint16_t length) noexcept nogil:
    store_be16(p + UDP_OFF_LEN, length)


cdef inline void udp_set_csum(uint8_t *p, uint16_t csum) noexcept nogil:
    store_be16(p + UDP_OFF_CSUM, csum)


cdef inline void udp_write(uint8_t *p, uint16_t src, uint16_t dst, uint16_t length, uint16_t csum) noexcept nogil:
    store_be16(p + UDP_OFF_SRC, src)
    store_be16(p + UDP_OFF_DST, dst)
    store_be16(p + UDP_OFF_LEN, length)
    store_be16(p + UDP_OFF_CSUM, csum)
