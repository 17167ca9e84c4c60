"""Decisions of the mesh, as dictionaries."""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free

from vxlanfast._ext.node.seen cimport Seen
from vxlanfast._ext.table.conn cimport CONN_NONE, ConnTable, conn_row, port_dst, port_number, port_src
from vxlanfast._ext.table.service cimport SERVER_NONE, SERVICE_NONE, ServiceTable


cdef class DecidedRows:
    """Room for ``capacity`` rows of a batch; what comes beyond it is not kept."""

    def __cinit__(self, uint32_t capacity=0):
        self.rows = <Decided *>calloc(capacity + 1, sizeof(Decided))
        if self.rows == NULL:
            raise MemoryError(f"no room for what is decided of {capacity} rows")
        self.capacity = capacity

    def __dealloc__(self):
        free(self.rows)

    cdef void add(self, const Seen *s, ConnTable conns, ServiceTable services, bint opened, bint held) noexcept nogil:
        """A row is done; ``s.ref`` is of its connection now."""
        cdef Decided *t = self.rows + self.size
        if self.size == self.capacity:
            return
        self.size += 1
        t.row = s.row
        t.key = s.key
        t.ref = s.ref
        t.opened = opened
        t.held = held
        t.service = SERVICE_NONE
        if s.ref != CONN_NONE:
            t.conn = conns.conns[s.ref >> 1]
            if t.conn.family == 0:
                t.ref = CONN_NONE  # it ended with this row
            elif t.conn.server != SERVER_NONE:
                t.service = services.servers[t.conn.server].service

    def __len__(self):
        return self.size

    def decisions(self):
        """``{row: {...}}``: ``key`` (domain, protocol, source, port, destination, port: as it came, of an ICMP error that of an
        answer to what it quotes), ``connection`` (as ConnTable.row has it, or None), ``reverse``, ``opened``, ``held``, ``service``."""
        cdef uint32_t k, size
        cdef Decided *t
        out = {}
        for k in range(self.size):
            t = self.rows + k
            size = 4 if t.key.family == 4 else 16
            out[t.row] = {
                "key": (t.key.domain, t.key.proto, PyBytes_FromStringAndSize(<char *>t.key.addrs, size), port_number(port_src(t.key.ports)),
                        PyBytes_FromStringAndSize(<char *>t.key.addrs + size, size), port_number(port_dst(t.key.ports))),
                "connection": None if t.ref == CONN_NONE else conn_row(&t.conn, t.ref >> 1), "reverse": bool(t.ref & 1),
                "opened": bool(t.opened), "held": bool(t.held), "service": None if t.service == SERVICE_NONE else t.service,
            }
        return out
