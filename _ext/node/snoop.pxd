"""IGMP and MLD snooping (RFC 4541): who gets a multicast frame. Bridge asks, frame by frame, in their order."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, int64_t

from vxlanfast._ext.table.dest cimport DestTable
from vxlanfast._ext.table.group cimport GroupTable
from vxlanfast._ext.table.net cimport Net, NetTable

cdef enum Wanted:
    WANTED_BY_ALL = 0       # it is flooded, as a broadcast is
    WANTED_BY_GROUP = 1     # by those that joined, and by who routes multicast
    WANTED_REPORT = 2       # by who routes multicast, and by peers, which snoop themselves


cdef struct Listeners:
    uint8_t addr[16]        # the group
    uint8_t family
    Wanted wanted


cdef class Snoop:
    cdef NetTable nets
    cdef DestTable dests
    cdef readonly GroupTable groups
    cdef void look(self, const uint8_t *frame, uint32_t n, uint16_t number, uint32_t origin, int64_t now_ns,
                   Listeners *found) noexcept nogil
    cdef void igmp(self, const uint8_t *p, uint32_t n, uint16_t number, uint32_t origin, bint has_source, int64_t now_ns,
                   Listeners *found) noexcept nogil
    cdef void mld(self, const uint8_t *p, uint32_t n, uint16_t number, uint32_t origin, int64_t now_ns,
                  Listeners *found) noexcept nogil
    cdef void records(self, const uint8_t *p, uint32_t n, uint16_t number, uint32_t origin, uint8_t family, int64_t now_ns,
                      Listeners *found) noexcept nogil
    cdef void want(self, uint16_t number, uint32_t origin, uint8_t family, const uint8_t *addr, bint joins,
                   int64_t now_ns) noexcept nogil
    cdef void query(self, uint16_t number, uint32_t origin, uint8_t family, bint has_source, int64_t now_ns) noexcept nogil
    cdef uint32_t gather(self, const Listeners *found, uint16_t number, int64_t now_ns, uint32_t *dst,
                         uint32_t room) noexcept nogil
