"""The routing mesh: connections scheduled, tracked and rewritten, of the rows that come to a gateway (IPVS, masquerading)."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t

from vxlanfast._ext.batch cimport Columns
from vxlanfast._ext.node.nat cimport NatTuple
from vxlanfast._ext.node.seen cimport Seen
from vxlanfast._ext.table.conn cimport Conn, ConnKey, ConnTable
from vxlanfast._ext.table.dest cimport DestTable
from vxlanfast._ext.table.fragments cimport FragmentTable
from vxlanfast._ext.table.net cimport NetTable
from vxlanfast._ext.table.service cimport ServiceTable
from vxlanfast._ext.table.tcpstate cimport TCP_STATES
from vxlanfast._ext.verdict cimport Verdict, VERDICT_COUNT

cdef enum:
    POOLS = 4096                # tuples of which is known that they have no source port left


cdef struct Pool:
    uint64_t tuple              # hash of what a source port must be unique among; 0: nothing is known
    uint32_t freed              # ports that came back since there was none left
    uint16_t hint               # the last of them, host order


cdef class Mesh:
    cdef NetTable nets
    cdef DestTable dests
    cdef readonly ServiceTable services
    cdef readonly ConnTable conns
    cdef readonly FragmentTable fragments
    cdef bint starved                   # no memory for a datagram of fragments
    cdef Pool *pools
    cdef uint16_t *ways                 # by domain: the network that rows enter it by; NET_NONE: there is none any more
    cdef int64_t tcp_ns[TCP_STATES]
    cdef int64_t udp_ns
    cdef int64_t echo_ns
    cdef int64_t now_ns
    cdef uint64_t seed
    cdef uint64_t drawn                 # random numbers so far
    cdef readonly bint exact            # as IPVS does, where we would do better
    cdef readonly bint reuse            # a SYN for a connection that is over is scheduled anew (conn_reuse_mode)
    cdef readonly bint forget           # connections go with their server (expire_nodest_conn)
    cdef readonly bint sloppy           # a connection may begin in the middle (sloppy_tcp)
    cdef readonly uint64_t opened
    cdef readonly uint64_t expired
    cdef readonly uint64_t evicted      # … to make room for others
    cdef readonly uint64_t forged       # RSTs and FINs that nobody of the connection has sent
    cdef readonly uint64_t errors       # rows that became ICMP errors
    cdef uint64_t counts[VERDICT_COUNT]
    cdef Verdict known(self, Columns *c, Seen *s) noexcept nogil
    cdef Verdict unknown(self, Columns *c, Seen *s) noexcept nogil
    cdef Verdict related(self, Columns *c, Seen *s) noexcept nogil
    cdef Verdict refuse(self, Columns *c, Seen *s) noexcept nogil
    cdef void rewrite(self, Columns *c, const Seen *s, uint32_t ref) noexcept nogil
    cdef void advance(self, Conn *e, uint32_t number, bint reverse, const Seen *s, const uint8_t *l4) noexcept nogil
    cdef bint follow(self, Conn *e, bint reverse, const uint8_t *tcp, uint32_t payload, uint8_t *flags) noexcept nogil
    cdef int64_t timeout(self, const Conn *e) noexcept nogil
    cdef bint pick_port(self, ConnKey *reverse) noexcept nogil
    cdef uint64_t draw(self) noexcept nogil
    cdef Pool *pool_of(self, const ConnKey *reverse, uint64_t *tuple) noexcept nogil
    cdef void end(self, uint32_t number) noexcept nogil
    cdef void leave(self, Columns *c, uint32_t i, uint16_t domain, uint16_t of) noexcept nogil
    cdef void unmasquerade(self, uint8_t *q, const Seen *s, uint8_t *l4, const Conn *e, bint reverse, const NatTuple *full) noexcept nogil
    cdef uint32_t probe(self, const ConnKey *key) noexcept nogil
    cdef bint make_room(self) noexcept nogil
    cdef void expire(self, int64_t now_ns, uint32_t budget) noexcept nogil
    cdef void count(self, Columns *c, uint32_t i, Verdict v) noexcept nogil
    cdef void mesh_rows(self, Columns *c) noexcept nogil
