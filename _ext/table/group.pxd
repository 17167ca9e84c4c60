"""Multicast memberships: which destinations of a network want a group. Fixed memory; a chain a bucket, which is a group's most often.

The group of all zeros stands for "routes multicast": those get every group.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from libc.string cimport memcmp

from vxlanfast._ext.table.hash cimport hash_16

cdef extern from *:
    """
    #define VF_GROUP_HELD_NS INT64_C(260000000000)
    #define VF_GROUP_LEAVE_NS INT64_C(2000000000)
    #define VF_GROUP_QUERIER_NS INT64_C(255000000000)
    """
    const int64_t GROUP_HELD_NS "VF_GROUP_HELD_NS"        # a membership without another report: 2 × 125 s + 10 s (RFC 3376 §8.4)
    const int64_t GROUP_LEAVE_NS "VF_GROUP_LEAVE_NS"      # after a leave, for others behind the same port to speak up (§8.8)
    const int64_t GROUP_QUERIER_NS "VF_GROUP_QUERIER_NS"  # 2 × 125 s + 10 s / 2 (§8.5): so long a query counts


cdef struct Member:
    uint8_t addr[16]        # IPv4: the first four bytes, the rest zero
    uint16_t net
    uint8_t family
    uint8_t used
    uint32_t dest
    uint32_t next           # in its chain, or among the free: number + 1; 0: the last
    int64_t expires_ns


cdef class GroupTable:
    cdef Member *entries
    cdef uint32_t *heads    # number + 1; 0: empty
    cdef uint32_t *counts   # by destination
    cdef uint64_t seed
    cdef uint32_t mask
    cdef uint32_t free_
    cdef uint32_t n_dests
    cdef readonly uint32_t capacity
    cdef readonly uint32_t size
    cdef readonly uint32_t dest_limit       # memberships of one destination at most
    cdef readonly uint64_t refused          # joins that found no room
    cdef int64_t swept_ns
    cdef bint join(self, uint16_t net, uint8_t family, const uint8_t *addr, uint32_t dest, int64_t now_ns,
                   int64_t expires_ns) noexcept nogil
    cdef void leave(self, uint16_t net, uint8_t family, const uint8_t *addr, uint32_t dest, int64_t now_ns) noexcept nogil
    cdef void drop_expired(self, uint32_t *head, int64_t now_ns) noexcept nogil
    cdef uint32_t *chain(self, uint16_t net, uint8_t family, const uint8_t *addr) noexcept nogil


cdef inline bint member_is(const Member *m, uint16_t net, uint8_t family, const uint8_t *addr) noexcept nogil:
    return m.net == net and m.family == family and memcmp(m.addr, addr, 16) == 0
