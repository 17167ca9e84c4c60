"""Link-layer headers of capture files, and the way from each to the network header.

Numbers are LINKTYPE_ values of the pcap and pcapng formats (draft-ietf-opsawg-pcaplinktype); DLT_RAW wrote its
platform's number into files before LINKTYPE_RAW existed, so 12 and 14 are read as 101.

    SLL   (113, 16 B): packet type 2, ARPHRD 2, address length 2, address 8, protocol 2
    SLL2  (276, 20 B): protocol 2, reserved 2, interface index 4, ARPHRD 2, packet type 1, address length 1, address 8
    NULL  (0, 4 B):    address family, in the byte order of the machine that captured
    LOOP  (108, 4 B):  address family, network order
    RAW, IPV4, IPV6:   no header
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from vxlanfast._ext.verdict cimport Verdict, PASS, PUNT_LINK_TYPE, DROP_TRUNCATED
from vxlanfast._ext.wire.endian cimport load_be16, load_be32, load_32
from vxlanfast._ext.wire.eth cimport ETH_TYPE_IPV4, ETH_TYPE_IPV6, eth_find_l3, eth_skip_tags

cdef enum:
    LINK_NULL = 0
    LINK_ETHERNET = 1
    LINK_RAW_BSD = 12      # DLT_RAW on most systems
    LINK_RAW_OPENBSD = 14  # DLT_RAW on OpenBSD
    LINK_RAW = 101
    LINK_LOOP = 108
    LINK_SLL = 113
    LINK_IPV4 = 228
    LINK_IPV6 = 229
    LINK_SLL2 = 276
    LINK_VXLAN = 0xFFF0    # ours, of no file: a datagram's payload, a VXLAN header first, whose outer headers stand at ``outer``

    SLL_OFF_PROTOCOL = 14
    SLL_HDR_LEN = 16
    SLL2_OFF_PROTOCOL = 0
    SLL2_HDR_LEN = 20
    NULL_HDR_LEN = 4


cdef inline uint16_t link_family_type(uint32_t family) noexcept nogil:
    """Ethertype of an address family: AF_INET is 2 everywhere; AF_INET6 is 10 (Linux), 24, 28 or 30 (the BSDs)."""
    if family == 2:
        return ETH_TYPE_IPV4
    if family == 24 or family == 28 or family == 30 or family == 10:
        return ETH_TYPE_IPV6
    return 0


cdef inline bint link_is_known(uint32_t link) noexcept nogil:
    return (link == LINK_ETHERNET or link == LINK_NULL or link == LINK_LOOP or link == LINK_SLL or link == LINK_SLL2
            or link == LINK_RAW or link == LINK_RAW_BSD or link == LINK_RAW_OPENBSD
            or link == LINK_IPV4 or link == LINK_IPV6)


cdef inline Verdict link_find_l3(uint32_t link, const uint8_t *p, uint32_t n,
                                 uint16_t *ethertype, uint32_t *l3) noexcept nogil:
    """Ethertype (0: none that has one) and offset of the network header of a frame of link type ``link``."""
    cdef uint32_t family
    if link == LINK_ETHERNET:
        return eth_find_l3(p, n, ethertype, l3)
    if link == LINK_SLL:
        if n < SLL_HDR_LEN:
            return DROP_TRUNCATED
        # A tag's type stands in the protocol field, its TCI and the next type follow the header.
        return eth_skip_tags(p, n, SLL_OFF_PROTOCOL, ethertype, l3)
    if link == LINK_SLL2:
        if n < SLL2_HDR_LEN:
            return DROP_TRUNCATED
        ethertype[0] = load_be16(p + SLL2_OFF_PROTOCOL)
        l3[0] = SLL2_HDR_LEN
        if ethertype[0] == 0x8100 or ethertype[0] == 0x88A8 or ethertype[0] == 0x9100 or ethertype[0] == 0x9200:
            return eth_skip_tags(p, n, SLL2_HDR_LEN + 2, ethertype, l3)
        return PASS
    if link == LINK_NULL or link == LINK_LOOP:
        if n < NULL_HDR_LEN:
            return DROP_TRUNCATED
        family = load_be32(p)
        if link == LINK_NULL and family > 0xFFFF:
            # Families are small: the other reading is the one of the machine that wrote it.
            family = load_32(p, False)
        ethertype[0] = link_family_type(family)
        l3[0] = NULL_HDR_LEN
        return PASS
    if link == LINK_IPV4 or link == LINK_IPV6 or link == LINK_RAW or link == LINK_RAW_BSD or link == LINK_RAW_OPENBSD:
        if n < 1:
            return DROP_TRUNCATED
        l3[0] = 0
        ethertype[0] = ETH_TYPE_IPV4 if p[0] >> 4 == 4 else ETH_TYPE_IPV6 if p[0] >> 4 == 6 else 0
        return PASS
    return PUNT_LINK_TYPE
