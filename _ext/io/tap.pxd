from vxlanfast._ext.io.edge cimport LiveEdge


cdef class TapEdge(LiveEdge):
    cdef readonly bint offload      # super-frames both ways
