from libc.stdint cimport uint8_t, uint16_t, uint32_t

from vxlanfast._ext.io.edge cimport LiveEdge


cdef class TapEdge(LiveEdge):
    cdef readonly bint offload      # super-frames both ways
