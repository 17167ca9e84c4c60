"""Blocks of exactly so many bytes, for probes (see exact.pyx)."""
from libc.stdint cimport uint8_t, uint32_t

from vxlanfast._ext.verdict cimport PASS, Verdict


cdef class Exact:
    cdef uint8_t *block
    cdef uint8_t *p
    cdef uint32_t n
    cdef bytes out(self)


cdef inline Exact blank(uint32_t n):
    return Exact(b"\xA5" * n)


cdef inline object outcome(Verdict v, values):
    """``(verdict, values)``; where the verdict is not PASS the values are nobody's to read."""
    return (v, values if v == PASS else None)
