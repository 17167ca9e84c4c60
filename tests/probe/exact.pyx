"""What the probes of the wire headers share: thin ``def``s around ``cdef inline``s, as a third party cimports them.

Every function copies its bytes into a block of exactly that size, so that a sanitizer sees the first byte read or
written outside. Accessors demand the length that their check would have (ValueError: the test is wrong, not the packet).
Writers start from 0xA5 bytes, so that a byte left out shows.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy


cdef class Exact:
    """A copy of ``source`` in a block that ends with it; ``lead`` bytes before it choose its alignment."""

    def __cinit__(self, const uint8_t[:] source, uint32_t least=0, uint32_t lead=0):
        self.n = <uint32_t>source.shape[0]
        if self.n < least:
            raise ValueError(f"{self.n} bytes, and this accessor needs {least}")
        if self.n == 0 and lead == 0:
            lead = 16  # a block of no bytes has one in the eyes of a sanitizer
        self.block = <uint8_t *>malloc(lead + self.n)
        if self.block == NULL:
            raise MemoryError
        self.p = self.block + lead
        if self.n:
            memcpy(self.p, &source[0], self.n)

    def __dealloc__(self):
        free(self.block)

    cdef bytes out(self):
        return PyBytes_FromStringAndSize(<char *>self.p, self.n)
