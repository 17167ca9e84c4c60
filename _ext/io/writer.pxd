"""CaptureEncoder: rows of a batch into the bytes of a capture file."""
from libc.stdint cimport uint64_t

from vxlanfast._ext.io.target cimport Target


cdef class CaptureEncoder:
    cdef Target t
    cdef bytes comment_prefix
    cdef uint64_t buffer_len
    cdef int room(self, uint64_t n) except -1
