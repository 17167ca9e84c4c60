"""SCTP: the common header and the way along the chunks (RFC 9260 §3).

     0               2               4                               8
    +---------------+---------------+-------------------------------+-------------------------------+
    |  source port  |  destination  |       verification tag        |       checksum (CRC32c)       |
    +---------------+---------------+-------------------------------+-------------------------------+ 12
    | type  | flags |    length     |   value, to length; padded to 4 bytes             next chunk …
    +-------+-------+---------------+-------------------------------
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from vxlanfast._ext.verdict cimport Verdict, PASS, DROP_TRUNCATED
from vxlanfast._ext.wire.crc32c cimport CRC32C_START, crc32c
from vxlanfast._ext.wire.endian cimport load_32, load_be16, load_be32, store_32, store_be16, store_be32

cdef enum:
    SCTP_OFF_SRC = 0
    SCTP_OFF_DST = 2
    SCTP_OFF_VTAG = 4
    SCTP_OFF_CSUM = 8
    SCTP_HDR_LEN = 12
    SCTP_CHUNK_OFF_FLAGS = 1
    SCTP_CHUNK_OFF_LEN = 2
    SCTP_CHUNK_HDR_LEN = 4
    # Chunk types (RFC 9260 §3.2).
    SCTP_DATA = 0
    SCTP_INIT = 1
    SCTP_INIT_ACK = 2
    SCTP_SACK = 3
    SCTP_HEARTBEAT = 4
    SCTP_HEARTBEAT_ACK = 5
    SCTP_ABORT = 6
    SCTP_SHUTDOWN = 7
    SCTP_SHUTDOWN_ACK = 8
    SCTP_ERROR = 9
    SCTP_COOKIE_ECHO = 10
    SCTP_COOKIE_ACK = 11
    SCTP_ECNE = 12
    SCTP_CWR = 13
    SCTP_SHUTDOWN_COMPLETE = 14
    SCTP_CHUNK_NONE = -1


cdef inline Verdict sctp_check(const uint8_t *p, uint32_t n) noexcept nogil:
    """The common header is there. Chunks are ``sctp_chunk``'s and ``sctp_next``'s to check."""
    return PASS if n >= SCTP_HDR_LEN else DROP_TRUNCATED


cdef inline uint16_t sctp_src(const uint8_t *p) noexcept nogil:
    return load_be16(p + SCTP_OFF_SRC)


cdef inline uint16_t sctp_dst(const uint8_t *p) noexcept nogil:
    return load_be16(p + SCTP_OFF_DST)


cdef inline uint32_t sctp_vtag(const uint8_t *p) noexcept nogil:
    return load_be32(p + SCTP_OFF_VTAG)


cdef inline uint32_t sctp_csum(const uint8_t *p) noexcept nogil:
    """The one field that is little-endian: a CRC's bits are sent lowest power last (RFC 9260 appendix A)."""
    return load_32(p + SCTP_OFF_CSUM, False)


cdef inline int sctp_chunk_at(const uint8_t *p, uint32_t n, uint32_t at) noexcept nogil:
    """Type of the chunk at ``at`` of ``n`` bytes; SCTP_CHUNK_NONE: its header is not all there, or its length impossible.

    The length counts the chunk's own header (RFC 9260 §3.2). It may go beyond ``n``: what is known of a cut packet is known.
    """
    if at > n or n - at < SCTP_CHUNK_HDR_LEN or load_be16(p + at + SCTP_CHUNK_OFF_LEN) < SCTP_CHUNK_HDR_LEN:
        return SCTP_CHUNK_NONE
    return p[at]


cdef inline int sctp_chunk(const uint8_t *p, uint32_t n) noexcept nogil:
    """Type of the first chunk, which is the only one where it is INIT, INIT ACK or SHUTDOWN COMPLETE (RFC 9260 §3)."""
    return sctp_chunk_at(p, n, SCTP_HDR_LEN)


cdef inline uint32_t sctp_next(const uint8_t *p, uint32_t n, uint32_t at) noexcept nogil:
    """Where the chunk behind the one at ``at`` (which ``sctp_chunk_at`` gave a type) starts; 0: ``n`` bytes hold no more."""
    cdef uint32_t length = (load_be16(p + at + SCTP_CHUNK_OFF_LEN) + 3) & ~<uint32_t>3
    return at + length if n - at >= length + SCTP_CHUNK_HDR_LEN else 0


cdef inline uint32_t sctp_find_csum(const uint8_t *p, uint32_t n) noexcept nogil:
    """The checksum of a packet of ``n`` bytes, all in hand, its own field taken for zeros (RFC 9260 §6.8)."""
    cdef uint8_t zeros[4]
    zeros[0] = zeros[1] = zeros[2] = zeros[3] = 0
    return ~crc32c(crc32c(crc32c(CRC32C_START, p, SCTP_OFF_CSUM), zeros, 4), p + SCTP_HDR_LEN, n - SCTP_HDR_LEN)


cdef inline bint sctp_csum_ok(const uint8_t *p, uint32_t n) noexcept nogil:
    """Of a checked packet of ``n`` bytes, all in hand. No pseudo header, and 0 is a checksum like any other."""
    return sctp_csum(p) == sctp_find_csum(p, n)


cdef inline void sctp_set_src(uint8_t *p, uint16_t port) noexcept nogil:
    store_be16(p + SCTP_OFF_SRC, port)


cdef inline void sctp_set_dst(uint8_t *p, uint16_t port) noexcept nogil:
    store_be16(p + SCTP_OFF_DST, port)


cdef inline void sctp_set_vtag(uint8_t *p, uint32_t vtag) noexcept nogil:
    store_be32(p + SCTP_OFF_VTAG, vtag)


cdef inline void sctp_set_csum(uint8_t *p, uint32_t n) noexcept nogil:
    """The checksum of a checked packet of ``n`` bytes, after all else is written: every byte is read again."""
    store_32(p + SCTP_OFF_CSUM, sctp_find_csum(p, n), False)


cdef inline void sctp_write(uint8_t *p, uint16_t src, uint16_t dst, uint32_t vtag) noexcept nogil:
    """All 12 bytes of the common header; checksum 0, until ``sctp_set_csum``."""
    sctp_set_src(p, src)
    sctp_set_dst(p, dst)
    sctp_set_vtag(p, vtag)
    store_32(p + SCTP_OFF_CSUM, 0, False)
