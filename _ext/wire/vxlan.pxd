"""VXLAN (RFC 7348 §5), with what shares its port: group policy (draft-smith-vxlan-group-policy) and generic protocol
extension (draft-ietf-nvo3-vxlan-gpe).

     0       1               4                       7
    +-------+---------------+-----------------------+-------+
    |RRRRIRRR|   reserved   |          VNI          |reservd|   RFC 7348
    |G    I  | D A policy id|                       |       |   GBP: G, D, A, 16-bit policy id
    |  VV IPBO|    next proto|                      |       |   GPE: version, P, B, O, next protocol
    +-------+---------------+-----------------------+-------+  8
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memset

from vxlanfast._ext.verdict cimport Verdict, PASS, DROP_TRUNCATED
from vxlanfast._ext.wire.endian cimport load_be16, load_be24, load_be32, store_be24

cdef enum:
    VXLAN_OFF_FLAGS = 0
    VXLAN_OFF_POLICY = 2
    VXLAN_OFF_NEXT_PROTO = 3
    VXLAN_OFF_VNI = 4
    VXLAN_OFF_RESERVED = 7
    VXLAN_HDR_LEN = 8
    VXLAN_FLAG_I = 0x08       # VNI valid
    VXLAN_FLAG_G = 0x80       # GBP: group policy present
    VXLAN_FLAG_P = 0x04       # GPE: next protocol present
    VXLAN_VNI_MAX = 0xFFFFFF
    VXLAN_PORT = 4789         # IANA
    VXLAN_PORT_LINUX = 8472   # Linux's default before IANA's
    VXLAN_GPE_ETHERNET = 3    # next protocol: an Ethernet frame
    VXLAN_SPORT_FIRST = 49152  # RFC 7348 §5: source ports from the dynamic range (RFC 6335 §6) …
    VXLAN_SPORT_COUNT = 16384  # … to 65535


cdef inline Verdict vxlan_check(const uint8_t *p, uint32_t n) noexcept nogil:
    """The header is there. Whether it says a VNI is ``vxlan_has_vni``'s to tell."""
    return PASS if n >= VXLAN_HDR_LEN else DROP_TRUNCATED


cdef inline bint vxlan_has_vni(const uint8_t *p) noexcept nogil:
    """Only the I bit decides: reserved bits MUST be ignored on receipt (RFC 7348 §5)."""
    return (p[VXLAN_OFF_FLAGS] & VXLAN_FLAG_I) != 0


cdef inline uint32_t vxlan_vni(const uint8_t *p) noexcept nogil:
    return load_be24(p + VXLAN_OFF_VNI)


cdef inline bint vxlan_has_reserved(const uint8_t *p) noexcept nogil:
    """Any bit set beside I and the VNI; GBP and GPE use some of them."""
    return (load_be32(p) & 0xF7FFFFFFU) != 0 or p[VXLAN_OFF_RESERVED] != 0


cdef inline bint vxlan_is_gbp(const uint8_t *p) noexcept nogil:
    """G set, and nothing outside G, I, D, A and the policy id: anything else is noise in reserved bits."""
    return (load_be32(p) & 0xF7B70000U) == 0x80000000U and p[VXLAN_OFF_RESERVED] == 0


cdef inline bint vxlan_is_gpe(const uint8_t *p) noexcept nogil:
    """A GPE header of version 0 with a next protocol. The bits GPE itself reserves must be clear (§3), so plain VXLAN
    with noise in its reserved bits (which RFC 7348 has us ignore) is not taken for it."""
    return ((load_be32(p) & 0xF4FFFF00U) == 0x04000000U and p[VXLAN_OFF_NEXT_PROTO] != 0
            and p[VXLAN_OFF_RESERVED] == 0)


cdef inline void vxlan_set_vni(uint8_t *p, uint32_t vni) noexcept nogil:
    store_be24(p + VXLAN_OFF_VNI, vni)


cdef inline void vxlan_write(uint8_t *p, uint32_t vni) noexcept nogil:
    """All 8 bytes; reserved ones zero on transmission (RFC 7348 §5)."""
    memset(p, 0, VXLAN_HDR_LEN)
    p[VXLAN_OFF_FLAGS] = VXLAN_FLAG_I
    store_be24(p + VXLAN_OFF_VNI, vni)
