"""What belongs to which service: addresses with a port, a range of ports, or any port of any protocol.

A range is one object, however many ports it has. Where several fit, the port decides, then the range that was set first,
then the address with any port.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    MATCH_NONE = 0xFFFFFFFFU
    ANY_PORT = 0


cdef struct Match:
    uint8_t addr[16]        # IPv4: the first four bytes, the rest zero
    uint16_t domain
    uint16_t port           # the first, or the only one; ANY_PORT: every one, of every protocol
    uint16_t last
    uint16_t target         # that the first becomes, and so on; 0: the server says, else it stays as it is
    uint8_t family          # 4 or 6; 0: the number is free
    uint8_t proto           # 0: any
    uint32_t service
    uint32_t next           # further ranges of the same address and protocol
    uint32_t sources_at     # prefixes that clients must be of, in the table's list …
    uint32_t n_sources      # … 0: anybody


cdef struct Prefix:
    uint8_t addr[16]
    uint8_t length          # in bits


cdef class MatchTable:
    cdef Match *matches
    cdef uint32_t *slots    # number + 1; 0: free
    cdef Prefix *sources
    cdef uint32_t n_sources
    cdef uint32_t mask
    cdef uint32_t next_free
    cdef uint32_t n_ranges
    cdef uint64_t seed
    cdef readonly uint32_t capacity
    cdef readonly uint32_t size
    cdef uint32_t slot_of(self, uint16_t domain, uint8_t family, uint8_t proto, const uint8_t *addr, uint32_t port) noexcept nogil
    cdef uint32_t find(self, uint16_t domain, uint8_t family, uint8_t proto, const uint8_t *addr, uint16_t port) noexcept nogil
    cdef bint lets_in(self, const Match *m, const uint8_t *client) noexcept nogil
    cdef void unlink(self, uint32_t at) noexcept nogil
    cdef int grow(self) except -1
