"""ARP for IPv4 over Ethernet (RFC 826).

     0               2               4       5       6
    +---------------+---------------+-------+-------+---------------+
    | hardware (1)  |protocol(0x800)|hlen(6)|plen(4)|   operation   |
    +---------------+---------------+-------+-------+---------------+  8
    |                 sender MAC                    |   sender IP …
    +-----------------------------------------------+--------------- 18
    |                 target MAC                    |   target IP …
    +-----------------------------------------------+--------------- 28
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from vxlanfast._ext.verdict cimport Verdict, PASS, PUNT_NOT_IP, DROP_TRUNCATED
from vxlanfast._ext.wire.endian cimport load_be16, load_be32, store_be16, store_be32

cdef enum:
    ARP_OFF_OP = 6
    ARP_OFF_SENDER_MAC = 8
    ARP_OFF_SENDER_IP = 14
    ARP_OFF_TARGET_MAC = 18
    ARP_OFF_TARGET_IP = 24
    ARP_LEN = 28
    ARP_REQUEST = 1
    ARP_REPLY = 2


cdef inline Verdict arp_check(const uint8_t *p, uint32_t n) noexcept nogil:
    """All of it is there, and it speaks of IPv4 over Ethernet. Other kinds are whole, but not ours to read."""
    if n < ARP_OFF_OP:
        return DROP_TRUNCATED
    if load_be32(p) != 0x00010800 or load_be16(p + 4) != 0x0604:
        return PUNT_NOT_IP
    return PASS if n >= ARP_LEN else DROP_TRUNCATED


cdef inline uint16_t arp_op(const uint8_t *p) noexcept nogil:
    return load_be16(p + ARP_OFF_OP)


cdef inline const uint8_t *arp_sender_mac(const uint8_t *p) noexcept nogil:
    return p + ARP_OFF_SENDER_MAC


cdef inline uint32_t arp_sender_ip(const uint8_t *p) noexcept nogil:
    return load_be32(p + ARP_OFF_SENDER_IP)


cdef inline const uint8_t *arp_target_mac(const uint8_t *p) noexcept nogil:
    return p + ARP_OFF_TARGET_MAC


cdef inline uint32_t arp_target_ip(const uint8_t *p) noexcept nogil:
    return load_be32(p + ARP_OFF_TARGET_IP)


cdef inline void arp_set_op(uint8_t *p, uint16_t op) noexcept nogil:
    store_be16(p + ARP_OFF_OP, op)


cdef inline void arp_set_sender(uint8_t *p, const uint8_t *mac, uint32_t ip) noexcept nogil:
    memcpy(p + ARP_OFF_SENDER_MAC, mac, 6)
    store_be32(p + ARP_OFF_SENDER_IP, ip)


cdef inline void arp_set_target(uint8_t *p, const uint8_t *mac, uint32_t ip) noexcept nogil:
    """``mac`` NULL: zeros, as a request that asks for it has."""
    if mac == NULL:
        memset(p + ARP_OFF_TARGET_MAC, 0, 6)
    else:
        memcpy(p + ARP_OFF_TARGET_MAC, mac, 6)
    store_be32(p + ARP_OFF_TARGET_IP, ip)


cdef inline void arp_write(uint8_t *p, uint16_t op, const uint8_t *sender_mac, uint32_t sender_ip,
                           const uint8_t *target_mac, uint32_t target_ip) noexcept nogil:
    """All 28 bytes of a request (``target_mac`` NULL) or a reply. Addresses in host order, and none inside ``p``."""
    store_be32(p, 0x00010800)
    store_be16(p + 4, 0x0604)
    arp_set_op(p, op)
    arp_set_sender(p, sender_mac, sender_ip)
    arp_set_target(p, target_mac, target_ip)
