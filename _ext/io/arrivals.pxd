"""A socket that whole batches are received from: what the kinds of it have in common."""
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

from vxlanfast._ext.batch cimport Columns
from vxlanfast._ext.io.slots cimport Slots


cdef class Arrivals:
    cdef Slots s
    cdef int fd
    cdef str what               # it is, in errors
    cdef readonly int buffer_len
    cdef readonly uint64_t packets
    cdef readonly uint64_t bytes
    cdef readonly uint64_t truncated

    cdef int begin(self, int fd, str what, uint32_t snaplen, int buffer_len) except -1
    cdef void make_row(self, Columns *c, uint32_t k, uint16_t port_in, int64_t now) noexcept nogil
    cdef void add_row(self, Columns *c, uint32_t off, uint32_t n, uint32_t whole, uint16_t link, uint16_t port_in,
                      int64_t ts_ns) noexcept nogil
