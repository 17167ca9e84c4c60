"""IPv6 and its extension headers (RFC 8200 §3, §4).

     0               4               6       7       8
    +---------------+---------------+-------+-------+----------
    |ver|TC|flow lbl| payload length| next  | hops  | source 16 B, destination 16 B
    +---------------+---------------+-------+-------+----------  40
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from vxlanfast._ext.verdict cimport Verdict, PASS, DROP_TRUNCATED, DROP_IP_HEADER
from vxlanfast._ext.wire.endian cimport load_be16, load_be32, store_be16, store_be32
from vxlanfast._ext.wire.ipv4 cimport (
    IP_PROTO_HOPOPTS, IP_PROTO_ROUTING, IP_PROTO_FRAGMENT, IP_PROTO_AH, IP_PROTO_DSTOPTS,
    IP_PROTO_MOBILITY, IP_PROTO_HIP, IP_PROTO_SHIM6,
)

cdef enum:
    IPV6_OFF_PAYLOAD_LEN = 4
    IPV6_OFF_NEXT = 6
    IPV6_OFF_HOPS = 7
    IPV6_OFF_SRC = 8
    IPV6_OFF_DST = 24
    IPV6_ADDR_LEN = 16
    IPV6_HDR_LEN = 40
    IPV6_FRAG_HDR_LEN = 8
    IPV6_EXT_MAX = 32  # headers looked through; RFC 8200 names six kinds, each at most twice


cdef inline Verdict ipv6_check(const uint8_t *p, uint32_t n) noexcept nogil:
    if n < IPV6_HDR_LEN:
        return DROP_TRUNCATED
    if p[0] >> 4 != 6:
        return DROP_IP_HEADER
    return PASS


cdef inline uint16_t ipv6_payload_len(const uint8_t *p) noexcept nogil:
    return load_be16(p + IPV6_OFF_PAYLOAD_LEN)


cdef inline uint8_t ipv6_traffic_class(const uint8_t *p) noexcept nogil:
    return <uint8_t>((p[0] << 4) | (p[1] >> 4))


cdef inline bint ipv6_is_ext(uint8_t proto) noexcept nogil:
    """An extension header whose length field we can read past (RFC 6564: all the later ones share the shape)."""
    return (proto == IP_PROTO_HOPOPTS or proto == IP_PROTO_ROUTING or proto == IP_PROTO_FRAGMENT
            or proto == IP_PROTO_AH or proto == IP_PROTO_DSTOPTS or proto == IP_PROTO_MOBILITY
            or proto == IP_PROTO_HIP or proto == IP_PROTO_SHIM6)


cdef inline Verdict ipv6_find_l4(const uint8_t *p, uint32_t n, uint8_t *proto, uint32_t *l4,
                                 uint32_t *fragment) noexcept nogil:
    """Walk the extension headers of a checked header.

    ``l4`` is where the upper-layer header (or the rest of a later fragment) starts, ``proto`` what it is, ``fragment``
    the offset of the fragment header (0: none). The walk ends at the fragment header of a non-first fragment, since
    what follows it is not a header.
    """
    cdef uint32_t at = IPV6_HDR_LEN
    cdef uint8_t kind = p[IPV6_OFF_NEXT]
    cdef int seen = 0
    fragment[0] = 0
    while ipv6_is_ext(kind):
        if n < at + 8:
            return DROP_TRUNCATED
        seen += 1
        if seen > IPV6_EXT_MAX:
            return DROP_IP_HEADER
        if kind == IP_PROTO_FRAGMENT:
            if fragment[0]:
                return DROP_IP_HEADER  # two fragment headers: no sender makes them
            fragment[0] = at
            kind = p[at]
            if load_be16(p + at + 2) & 0xFFF8:
                at += IPV6_FRAG_HDR_LEN
                break
            at += IPV6_FRAG_HDR_LEN
        elif kind == IP_PROTO_AH:
            kind = p[at]
            at += (p[at + 1] + 2) * 4  # RFC 4302 §2.2: in 4-byte words, minus 2
        else:
            kind = p[at]
            at += (p[at + 1] + 1) * 8
    proto[0] = kind
    l4[0] = at
    return PASS


cdef inline void ipv6_write(uint8_t *p, uint8_t traffic_class, uint32_t flow_label, uint16_t payload_len,
                            uint8_t next_header, uint8_t hops) noexcept nogil:
    """The first 8 bytes; the addresses are the caller's to copy."""
    store_be32(p, (<uint32_t>6 << 28) | (<uint32_t>traffic_class << 20) | (flow_label & 0xFFFFF))
    store_be16(p + IPV6_OFF_PAYLOAD_LEN, payload_len)
    p[IPV6_OFF_NEXT] = next_header
    p[IPV6_OFF_HOPS] = hops
