"""How long the longest of the frames is that a row stands for."""
from libc.stdint cimport uint32_t

from vxlanfast._ext.batch cimport Columns, row_body
from vxlanfast._ext.wire.segment cimport Shape, shape_find


cdef inline uint32_t row_longest(Columns *c, uint32_t i) noexcept nogil:
    """Bytes on the wire of row ``i``, or of the longest of its segments. A row that has become something else is no super-frame
    any more, and is marked so."""
    cdef Shape s
    if c.gso[i]:
        if c.head_len[i] == 0 and shape_find(row_body(c, i), c.len[i], &s) and s.payload > c.gso[i]:
            return s.hdr_len + c.gso[i]
        c.gso[i] = 0
    return c.wire_len[i]
