"""A connection's life, as its packets and its server tell it: states, times, who counts it, who may go first."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int64_t

from vxlanfast._ext.node.seen cimport Seen
from vxlanfast._ext.table.conn cimport Conn, ConnKey, ConnTable
from vxlanfast._ext.table.ports cimport PortPools
from vxlanfast._ext.table.sctpstate cimport SCTP_STATES
from vxlanfast._ext.table.service cimport ServiceTable
from vxlanfast._ext.table.tcpstate cimport TCP_STATES


cdef enum:
    TEMPLATE_PROTO = 0x80       # what a template's key has its protocol changed by
    SECOND_NS = 1000000000


cdef class Track:
    cdef readonly ServiceTable services
    cdef readonly ConnTable conns
    cdef PortPools ports
    cdef Conn *resets                   # copies of connections whose ends are to be told
    cdef uint32_t n_resets
    cdef uint32_t cap_resets
    cdef int64_t tcp_ns[TCP_STATES]
    cdef int64_t sctp_ns[SCTP_STATES]
    cdef int64_t udp_ns
    cdef int64_t echo_ns
    cdef readonly int64_t now_ns        # of the last row it looked at
    cdef readonly bint exact            # as IPVS does, where we would do better
    cdef readonly bint reuse            # a SYN for a connection that is over is scheduled anew (conn_reuse_mode)
    cdef readonly bint forget           # connections go with their server (expire_nodest_conn)
    cdef readonly bint sloppy           # a connection may begin in the middle (sloppy_tcp)
    cdef readonly uint64_t opened
    cdef readonly uint64_t expired
    cdef readonly uint64_t evicted      # … to make room for others
    cdef readonly uint64_t forged       # RSTs and FINs that nobody of the connection has sent
    cdef void advance(self, Conn *e, uint32_t number, bint reverse, const Seen *s, const uint8_t *l4) noexcept nogil
    cdef bint follow(self, Conn *e, bint reverse, const uint8_t *tcp, uint32_t payload, uint8_t *flags) noexcept nogil
    cdef int64_t timeout(self, const Conn *e) noexcept nogil
    cdef void advance_sctp(self, Conn *e, uint32_t number, bint reverse, const Seen *s, const uint8_t *l4) noexcept nogil
    cdef uint32_t begin(self, Seen *s, const ConnKey *reverse, uint8_t flags) noexcept nogil
    cdef void tell(self, uint32_t number) noexcept nogil
    cdef void overdue(self, uint32_t number, int64_t now_ns) noexcept nogil
    cdef void end(self, uint32_t number) noexcept nogil
    cdef bint make_room(self) noexcept nogil
    cdef bint pick_port(self, ConnKey *reverse) noexcept nogil
    cdef void expire(self, int64_t now_ns, uint32_t budget) noexcept nogil
