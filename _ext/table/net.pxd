"""Networks: a VNI each, with its policies, its flood list and what was counted."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t

from vxlanfast._ext.table.hash cimport hash_u64

cdef enum:
    NET_NONE = 0xFFFF
    NETS_MAX = 65535
    NET_LEARN = 1           # from what comes by tunnels and ports
    NET_FLOOD = 2           # head-end replication; without it, what has no entry ends here
    NET_PROXY = 4           # ARP and ND are answered from the neighbour table
    NET_SWALLOW = 8         # … and what it does not know is not asked any further
    NET_TAGS = 16           # inner VLAN tags are let through
    NET_GBP = 32            # group policy bits are no reserved bits


cdef struct Net:
    uint32_t vni
    uint32_t flood_at       # its flood list: numbers of destinations, ports first
    uint32_t n_flood
    uint32_t n_ports        # of them
    uint16_t flags
    uint8_t gateway_mac[6]  # zero: none
    uint32_t gateway        # destination; DEST_NONE
    uint32_t mtu            # of the overlay's IP packets; 0: unlimited
    uint32_t bum_rate       # packets a second; 0: unlimited
    int64_t bum_next_ns     # when the bucket of the rate limit is full again
    uint64_t flooded        # frames
    uint64_t copies         # made of them
    uint64_t bum_limited


cdef class NetTable:
    cdef Net *nets
    cdef uint32_t *vnis     # by slot: VNI << 1 | 1
    cdef uint16_t *numbers
    cdef uint32_t *floods   # all flood lists
    cdef uint32_t n_floods
    cdef uint32_t mask
    cdef uint64_t seed
    cdef readonly uint32_t size
    cdef readonly uint32_t capacity


cdef inline uint16_t net_find(NetTable t, uint32_t vni) noexcept nogil:
    """The number of a VNI's network; NET_NONE: there is none."""
    cdef uint32_t at = <uint32_t>hash_u64(vni, t.seed) & t.mask, key = vni << 1 | 1
    while t.vnis[at] != key:
        if t.vnis[at] == 0:
            return NET_NONE
        at = (at + 1) & t.mask
    return t.numbers[at]
