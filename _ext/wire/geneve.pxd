"""GENEVE (RFC 8926 §3.4).

     0       1       2               4                       7
    +-------+-------+---------------+-----------------------+-------+
    |vv opt |OCrrrrr| protocol type |          VNI          |reservd|   opt: length of the options, in words of 4 bytes
    +-------+-------+---------------+-----------------------+-------+  8
    |  options: class 2, type 1, length (words) 1, data …            |
    +---------------------------------------------------------------+  8 + 4 * opt
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from vxlanfast._ext.verdict cimport Verdict, PASS, DROP_GENEVE, DROP_TRUNCATED
from vxlanfast._ext.wire.endian cimport load_be16, load_be24, store_be16, store_be32

cdef enum:
    GENEVE_OFF_FLAGS = 1
    GENEVE_OFF_PROTO = 2
    GENEVE_OFF_VNI = 4
    GENEVE_OFF_RESERVED = 7
    GENEVE_HDR_LEN = 8
    GENEVE_FLAG_O = 0x80      # control packet
    GENEVE_FLAG_C = 0x40      # critical options present
    GENEVE_PORT = 6081        # IANA
    GENEVE_ETHERNET = 0x6558  # protocol type: transparent Ethernet bridging


cdef inline uint32_t geneve_hdr_len(const uint8_t *p) noexcept nogil:
    """Bytes of header, options included: 8 to 260."""
    return GENEVE_HDR_LEN + (p[0] & 0x3F) * 4


cdef inline Verdict geneve_check(const uint8_t *p, uint32_t n, uint32_t wire_n) noexcept nogil:
    """The header and its options are there: ``n`` bytes captured of ``wire_n`` in the datagram.

    A version that is not known MUST be dropped (§3.4). Options are skipped: what they say is no business of a capture's.
    """
    if wire_n < GENEVE_HDR_LEN:
        return DROP_GENEVE
    if n < GENEVE_HDR_LEN:
        return DROP_TRUNCATED
    if p[0] >> 6 or geneve_hdr_len(p) > wire_n:
        return DROP_GENEVE
    return PASS if geneve_hdr_len(p) <= n else DROP_TRUNCATED


cdef inline bint geneve_is_control(const uint8_t *p) noexcept nogil:
    """O: for the tunnel's end itself, and no packet of anybody's."""
    return (p[GENEVE_OFF_FLAGS] & GENEVE_FLAG_O) != 0


cdef inline bint geneve_is_critical(const uint8_t *p) noexcept nogil:
    """C: an end that does not know an option marked so MUST drop the packet (§3.4); a capture has no end."""
    return (p[GENEVE_OFF_FLAGS] & GENEVE_FLAG_C) != 0


cdef inline bint geneve_has_reserved(const uint8_t *p) noexcept nogil:
    """MUST be ignored on receipt (§3.4)."""
    return (p[GENEVE_OFF_FLAGS] & 0x3F) != 0 or p[GENEVE_OFF_RESERVED] != 0


cdef inline uint16_t geneve_proto(const uint8_t *p) noexcept nogil:
    """Protocol type: an ethertype."""
    return load_be16(p + GENEVE_OFF_PROTO)


cdef inline uint32_t geneve_vni(const uint8_t *p) noexcept nogil:
    return load_be24(p + GENEVE_OFF_VNI)


cdef inline void geneve_write(uint8_t *p, uint16_t proto, uint32_t vni) noexcept nogil:
    """All 8 bytes of a header without options."""
    store_be16(p, 0)
    store_be16(p + GENEVE_OFF_PROTO, proto)
    store_be32(p + GENEVE_OFF_VNI, vni << 8)
