"""TCP (RFC 9293 §3.1).

     0               2               4               6
    +---------------+---------------+---------------+---------------+
    |  source port  |  destination  |        sequence number        |
    +---------------+---------------+---------------+---------------+  8
    |     acknowledgment number     |off|res| flags |    window     |
    +---------------+---------------+---------------+---------------+ 16
    |   checksum    | urgent pointer|   options, to off * 4         |
    +---------------+---------------+-------------------------------+
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from vxlanfast._ext.verdict cimport Verdict, PASS, DROP_L4_HEADER, DROP_TRUNCATED
from vxlanfast._ext.wire.csum cimport csum_l4_ok, csum_update
from vxlanfast._ext.wire.endian cimport bswap16, load_be16, load_be32, store_be16, store_be32
from vxlanfast._ext.wire.ipv4 cimport IP_PROTO_TCP

cdef enum:
    TCP_OFF_SRC = 0
    TCP_OFF_DST = 2
    TCP_OFF_SEQ = 4
    TCP_OFF_ACK = 8
    TCP_OFF_DATA_OFF = 12
    TCP_OFF_FLAGS = 13
    TCP_OFF_WINDOW = 14
    TCP_OFF_CSUM = 16
    TCP_OFF_URGENT = 18
    TCP_HDR_LEN = 20
    TCP_OPT_END = 0
    TCP_OPT_NOP = 1
    TCP_OPT_MSS = 2
    TCP_FLAG_FIN = 0x01
    TCP_FLAG_SYN = 0x02
    TCP_FLAG_RST = 0x04
    TCP_FLAG_PSH = 0x08
    TCP_FLAG_ACK = 0x10
    TCP_FLAG_URG = 0x20
    TCP_FLAG_ECE = 0x40
    TCP_FLAG_CWR = 0x80


cdef inline Verdict tcp_check(const uint8_t *p, uint32_t n) noexcept nogil:
    """The whole header, options included, is there and plausible."""
    cdef uint32_t length
    if n < TCP_HDR_LEN:
        return DROP_TRUNCATED
    length = (p[TCP_OFF_DATA_OFF] >> 4) * 4
    if length < TCP_HDR_LEN:
        return DROP_L4_HEADER
    return PASS if n >= length else DROP_TRUNCATED


cdef inline uint16_t tcp_src(const uint8_t *p) noexcept nogil:
    return load_be16(p + TCP_OFF_SRC)


cdef inline uint16_t tcp_dst(const uint8_t *p) noexcept nogil:
    return load_be16(p + TCP_OFF_DST)


cdef inline uint32_t tcp_seq(const uint8_t *p) noexcept nogil:
    return load_be32(p + TCP_OFF_SEQ)


cdef inline uint32_t tcp_ack(const uint8_t *p) noexcept nogil:
    return load_be32(p + TCP_OFF_ACK)


cdef inline uint32_t tcp_hdr_len(const uint8_t *p) noexcept nogil:
    return (p[TCP_OFF_DATA_OFF] >> 4) * 4


cdef inline uint8_t tcp_flags(const uint8_t *p) noexcept nogil:
    return p[TCP_OFF_FLAGS]


cdef inline uint16_t tcp_window(const uint8_t *p) noexcept nogil:
    return load_be16(p + TCP_OFF_WINDOW)


cdef inline uint16_t tcp_csum(const uint8_t *p) noexcept nogil:
    return load_be16(p + TCP_OFF_CSUM)


cdef inline bint tcp_csum_ok(const uint8_t *ip, uint8_t version, const uint8_t *p, uint32_t n) noexcept nogil:
    """Of a segment of ``n`` bytes, all in hand, under the IP header at ``ip``."""
    return csum_l4_ok(ip, version, p, n, IP_PROTO_TCP)


cdef inline void tcp_set_src(uint8_t *p, uint16_t port) noexcept nogil:
    store_be16(p + TCP_OFF_SRC, port)


cdef inline void tcp_set_dst(uint8_t *p, uint16_t port) noexcept nogil:
    store_be16(p + TCP_OFF_DST, port)


cdef inline void tcp_set_seq(uint8_t *p, uint32_t seq) noexcept nogil:
    store_be32(p + TCP_OFF_SEQ, seq)


cdef inline void tcp_set_ack(uint8_t *p, uint32_t ack) noexcept nogil:
    store_be32(p + TCP_OFF_ACK, ack)


cdef inline void tcp_set_flags(uint8_t *p, uint8_t flags) noexcept nogil:
    p[TCP_OFF_FLAGS] = flags


cdef inline void tcp_set_window(uint8_t *p, uint16_t window) noexcept nogil:
    store_be16(p + TCP_OFF_WINDOW, window)


cdef inline void tcp_set_csum(uint8_t *p, uint16_t csum) noexcept nogil:
    store_be16(p + TCP_OFF_CSUM, csum)


cdef inline void tcp_write(uint8_t *p, uint16_t src, uint16_t dst, uint32_t seq, uint32_t ack, uint8_t flags,
                           uint16_t window) noexcept nogil:
    """All 20 bytes of a header without options; reserved bits, checksum and urgent pointer 0."""
    tcp_set_src(p, src)
    tcp_set_dst(p, dst)
    tcp_set_seq(p, seq)
    tcp_set_ack(p, ack)
    p[TCP_OFF_DATA_OFF] = (TCP_HDR_LEN // 4) << 4
    tcp_set_flags(p, flags)
    tcp_set_window(p, window)
    tcp_set_csum(p, 0)
    store_be16(p + TCP_OFF_URGENT, 0)


cdef inline uint32_t tcp_mss_at(const uint8_t *p, uint32_t n) noexcept nogil:
    """Offset of the two bytes of the MSS option (RFC 9293 §3.7.1) in a checked header; 0: it has none."""
    cdef uint32_t at = TCP_HDR_LEN, end = tcp_hdr_len(p)
    if end > n:
        end = n
    while at + 1 < end and p[at] != TCP_OPT_END:
        if p[at] == TCP_OPT_NOP:
            at += 1
            continue
        if p[at + 1] < 2 or at + p[at + 1] > end:
            return 0
        if p[at] == TCP_OPT_MSS:
            return at + 2 if p[at + 1] == 4 else 0
        at += p[at + 1]
    return 0


cdef inline bint tcp_clamp_mss(uint8_t *p, uint32_t n, uint16_t most) noexcept nogil:
    """An MSS above ``most`` becomes it, the checksum with it; whether it was changed. Of a checked header with SYN."""
    cdef uint32_t at = tcp_mss_at(p, n)
    cdef uint16_t old, new = most
    if at == 0:
        return False
    old = load_be16(p + at)
    if old <= most:
        return False
    store_be16(p + at, most)
    if at & 1:  # the sum sees its bytes the other way round
        old = bswap16(old)
        new = bswap16(new)
    tcp_set_csum(p, csum_update(tcp_csum(p), old, new))
    return True
