"""Ethernet II with any stack of VLAN tags (IEEE 802.3 §3.2, IEEE 802.1Q §9).

     0                   6                   12         14
    +-------------------+-------------------+----------+----------
    |  destination MAC  |    source MAC     | ethertype| payload …
    +-------------------+-------------------+----------+----------
                                            |0x8100 TCI|ethertype …   one 4-byte tag, as often as it stands there
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from vxlanfast._ext.verdict cimport Verdict, PASS, DROP_TRUNCATED
from vxlanfast._ext.wire.endian cimport load_be16, load_be32, store_be16

cdef enum:
    ETH_OFF_DST = 0
    ETH_OFF_SRC = 6
    ETH_OFF_TYPE = 12
    ETH_ADDR_LEN = 6
    ETH_HDR_LEN = 14
    ETH_TAG_LEN = 4
    ETH_TYPE_MIN = 0x0600     # a number below is an IEEE 802.3 length, not a type (IEEE 802.3 §3.2.6)
    ETH_TYPE_IPV4 = 0x0800
    ETH_TYPE_ARP = 0x0806
    ETH_TYPE_8021Q = 0x8100   # customer tag
    ETH_TYPE_8021AD = 0x88A8  # service tag
    ETH_TYPE_QINQ = 0x9100    # service tag before 802.1ad, still on the wire
    ETH_TYPE_QINQ2 = 0x9200   # the same, other vendors
    ETH_TYPE_IPV6 = 0x86DD


cdef inline bint eth_is_tag(uint16_t ethertype) noexcept nogil:
    return (ethertype == ETH_TYPE_8021Q or ethertype == ETH_TYPE_8021AD
            or ethertype == ETH_TYPE_QINQ or ethertype == ETH_TYPE_QINQ2)


cdef inline Verdict eth_skip_tags(const uint8_t *p, uint32_t n, uint32_t type_off,
                                  uint16_t *ethertype, uint32_t *l3) noexcept nogil:
    """Walk the tags from the ethertype at ``type_off``; give the first other ethertype and the offset behind it."""
    cdef uint32_t at = type_off
    cdef uint16_t kind
    while True:
        if n < at + 2:
            return DROP_TRUNCATED
        kind = load_be16(p + at)
        if not eth_is_tag(kind):
            ethertype[0] = kind
            l3[0] = at + 2
            return PASS
        at += ETH_TAG_LEN


cdef inline Verdict eth_find_l3(const uint8_t *p, uint32_t n, uint16_t *ethertype, uint32_t *l3) noexcept nogil:
    """Length check and the way to the network header: past the addresses and every tag."""
    if n < ETH_HDR_LEN:
        return DROP_TRUNCATED
    return eth_skip_tags(p, n, ETH_OFF_TYPE, ethertype, l3)


cdef inline void eth_write(uint8_t *p, const uint8_t *dst, const uint8_t *src, uint16_t ethertype) noexcept nogil:
    """All 14 bytes of an untagged header."""
    memcpy(p + ETH_OFF_DST, dst, ETH_ADDR_LEN)
    memcpy(p + ETH_OFF_SRC, src, ETH_ADDR_LEN)
    store_be16(p + ETH_OFF_TYPE, ethertype)
