"""What the mesh decided of rows, kept for those who ask: the packet as it came, its connection as it was then."""
from libc.stdint cimport uint32_t

from vxlanfast._ext.node.seen cimport Seen
from vxlanfast._ext.table.conn cimport Conn, ConnKey, ConnTable
from vxlanfast._ext.table.service cimport ServiceTable


cdef struct Decided:
    ConnKey key
    Conn conn
    uint32_t row
    uint32_t ref                # CONN_NONE: no connection's
    uint32_t service            # SERVICE_NONE
    bint opened                 # by this row
    bint held                   # … with a server that its client had already


cdef class DecidedRows:
    cdef Decided *rows
    cdef uint32_t size
    cdef uint32_t capacity
    cdef void add(self, const Seen *s, ConnTable conns, ServiceTable services, bint opened, bint held) noexcept nogil
