"""Neighbour table: which MAC an address of a network has. Fixed memory, two entries a cache line, linear probing.

An entry that goes is closed over by those behind it, so a look-up stops at the first free place.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from libc.string cimport memcmp, memcpy

from vxlanfast._ext.table.hash cimport hash_16

cdef enum:
    NEIGH_NONE = 0xFFFFFFFFU
    NEIGH_STATIC = 1        # authoritative
    NEIGH_ROUTER = 2        # advertisements carry the R flag
    NEIGH_GATEWAY = 4       # an address of the network's gateway: ours to answer for


cdef struct NeighEntry:
    uint8_t addr[16]        # IPv4: the first four bytes, the rest zero
    uint8_t mac[6]
    uint16_t net
    uint8_t family          # 4 or 6; 0: free
    uint8_t flags
    uint16_t pad
    uint32_t dest           # that its MAC must live at, as forwarding sees it; NEIGH_NONE: any


cdef class NeighTable:
    cdef NeighEntry *entries
    cdef uint64_t seed
    cdef uint32_t mask
    cdef readonly uint32_t capacity
    cdef readonly uint32_t size
    cdef int key_of(self, net, addr, NeighEntry *key) except -1


cdef inline void neigh_key4(NeighEntry *key, uint16_t net, const uint8_t *addr) noexcept nogil:
    cdef uint64_t words[2]
    words[0] = words[1] = 0
    memcpy(words, addr, 4)
    memcpy(key.addr, words, 16)  # at once: what is stored in pieces is slow to load whole
    key.net = net
    key.family = 4


cdef inline void neigh_key6(NeighEntry *key, uint16_t net, const uint8_t *addr) noexcept nogil:
    memcpy(key.addr, addr, 16)
    key.net = net
    key.family = 6


cdef inline uint32_t neigh_hash(NeighTable t, const NeighEntry *key) noexcept nogil:
    """Of an address in its network, with the table's seed."""
    return <uint32_t>hash_16(key.addr, <uint64_t>key.family << 16 | key.net, t.seed)


cdef inline uint32_t neigh_place(NeighTable t, const NeighEntry *key) noexcept nogil:
    """Where the entry would lie, were it alone."""
    return neigh_hash(t, key) & t.mask


cdef inline bint neigh_is(const NeighEntry *e, const NeighEntry *key) noexcept nogil:
    """Whether they have the same address, network and family."""
    return e.net == key.net and e.family == key.family and memcmp(e.addr, key.addr, 16) == 0


cdef inline uint32_t neigh_find(NeighTable t, const NeighEntry *key) noexcept nogil:
    """The number of the entry with the address, network and family of ``key``; NEIGH_NONE where there is none."""
    cdef uint32_t at = neigh_place(t, key)
    cdef const NeighEntry *e
    while True:
        e = t.entries + at
        if e.family == 0:
            return NEIGH_NONE
        if neigh_is(e, key):
            return at
        at = (at + 1) & t.mask
