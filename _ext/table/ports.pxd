"""Source ports for masquerade: so that no two connections have answers alike."""
from libc.stdint cimport uint16_t, uint32_t, uint64_t

from vxlanfast._ext.table.conn cimport ConnKey, ConnTable

cdef enum:
    POOLS = 4096                # tuples of which is known that they have no source port left


cdef struct Pool:
    uint64_t tuple              # hash of what a port must be unique among, and its class; 0: nothing is known
    uint32_t freed              # ports that came back since there was none left
    uint16_t hint               # the last of them, host order


cdef class PortPools:
    cdef ConnTable conns
    cdef Pool *pools
    cdef uint64_t seed
    cdef bint pooled            # something is known of one
    cdef uint64_t drawn         # random numbers so far
    cdef uint64_t draw(self) noexcept nogil
    cdef Pool *pool_of(self, const ConnKey *reverse, uint32_t first, uint64_t *tuple) noexcept nogil
    cdef bint pick(self, ConnKey *reverse) noexcept nogil
    cdef uint32_t spare(self, ConnKey *reverse) noexcept nogil
    cdef void give_back(self, uint32_t number) noexcept nogil
