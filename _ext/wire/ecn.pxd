"""Congestion marks across a tunnel (RFC 6040): the two low bits of the TOS byte or traffic class.

    arriving        arriving outer header (decapsulation, RFC 6040 §4.2, figure 4)
    inner      Not-ECT      ECT(0)       ECT(1)       CE
    Not-ECT    Not-ECT      Not-ECT !    Not-ECT !    drop !
    ECT(0)     ECT(0)       ECT(0)       ECT(1)       CE
    ECT(1)     ECT(1)       ECT(1)       ECT(1)       CE
    CE         CE           CE           CE !         CE       ! no sane path makes it: worth counting
"""
from libc.stdint cimport uint8_t, uint16_t

from vxlanfast._ext.wire.csum cimport csum_update
from vxlanfast._ext.wire.endian cimport load_be16, store_be16
from vxlanfast._ext.wire.ipv4 cimport IPV4_OFF_CSUM, IPV4_OFF_TOS

cdef enum:
    ECN_NOT_ECT = 0
    ECN_ECT1 = 1
    ECN_ECT0 = 2
    ECN_CE = 3
    ECN_MASK = 3
    ECN_DROP = 4  # of ecn_decap: no code point, the packet goes


cdef inline uint8_t ecn_encap(uint8_t outer_tos, uint8_t inner_tos) noexcept nogil:
    """The outer TOS byte: its DSCP and the inner code point, normal mode (RFC 6040 §4.1).

    Linux sends ECT(0) outside where the inner says CE, as RFC 3168 §9.1.1 had it; RFC 6040 copies CE, and so do we.
    """
    return (outer_tos & 0xFC) | (inner_tos & ECN_MASK)


cdef inline uint8_t ecn_decap(uint8_t outer_tos, uint8_t inner_tos) noexcept nogil:
    """The inner code point to go on with, or ECN_DROP. All sixteen cases as Linux's ``INET_ECN_decapsulate``."""
    cdef uint8_t outer = outer_tos & ECN_MASK, inner = inner_tos & ECN_MASK
    if inner == ECN_NOT_ECT:
        # The end points do not know of ECN: a drop is the only way to tell them of congestion.
        return ECN_DROP if outer == ECN_CE else ECN_NOT_ECT
    if outer == ECN_CE:
        return ECN_CE
    if outer == ECN_ECT1 and inner == ECN_ECT0:
        return ECN_ECT1
    return inner


cdef inline bint ecn_is_odd(uint8_t outer_tos, uint8_t inner_tos) noexcept nogil:
    """One of the four cases marked ! above."""
    cdef uint8_t outer = outer_tos & ECN_MASK, inner = inner_tos & ECN_MASK
    if inner == ECN_NOT_ECT:
        return outer != ECN_NOT_ECT
    return inner == ECN_CE and outer == ECN_ECT1


cdef inline void ecn_set4(uint8_t *ip, uint8_t ecn) noexcept nogil:
    """Put the code point into a checked IPv4 header, and its checksum right again."""
    cdef uint16_t old = load_be16(ip)
    ip[IPV4_OFF_TOS] = (ip[IPV4_OFF_TOS] & 0xFC) | ecn
    store_be16(ip + IPV4_OFF_CSUM, csum_update(load_be16(ip + IPV4_OFF_CSUM), old, load_be16(ip)))


cdef inline void ecn_set6(uint8_t *ip, uint8_t ecn) noexcept nogil:
    """Into a checked IPv6 header: bits 4 and 5 of its second byte."""
    ip[1] = (ip[1] & 0xCF) | <uint8_t>(ecn << 4)
