"""The routing mesh: connections scheduled, tracked and rewritten, of the rows that come to a gateway (IPVS, masquerading)."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from vxlanfast._ext.batch cimport Columns
from vxlanfast._ext.node.decided cimport DecidedRows
from vxlanfast._ext.node.seen cimport Seen
from vxlanfast._ext.node.track cimport Track
from vxlanfast._ext.table.conn cimport Conn, ConnKey
from vxlanfast._ext.table.dest cimport DestTable
from vxlanfast._ext.table.fragments cimport FragmentTable
from vxlanfast._ext.table.match cimport Match
from vxlanfast._ext.table.net cimport NetTable
from vxlanfast._ext.table.service cimport Service
from vxlanfast._ext.verdict cimport Verdict, VERDICT_COUNT


cdef class Mesh(Track):
    cdef NetTable nets
    cdef DestTable dests
    cdef readonly FragmentTable fragments
    cdef public bint explains           # what is decided of each row is kept, for `decided`
    cdef DecidedRows rows
    cdef bint held                      # whoever was given a server last had it already
    cdef bint starved                   # no memory for a datagram of fragments
    cdef uint32_t *gateways             # by network: the destination that is its gateway
    cdef uint16_t *ways                 # by domain: the network that rows enter it by; NET_NONE: there is none any more
    cdef readonly uint64_t told         # resets sent by ourselves
    cdef readonly uint64_t errors       # rows that became ICMP errors
    cdef uint64_t counts[VERDICT_COUNT]
    cdef Verdict known(self, Columns *c, Seen *s) noexcept nogil
    cdef Verdict unknown(self, Columns *c, Seen *s) noexcept nogil
    cdef Verdict related(self, Columns *c, Seen *s) noexcept nogil
    cdef Verdict refuse(self, Columns *c, Seen *s) noexcept nogil
    cdef void rewrite(self, Columns *c, const Seen *s, uint32_t ref) noexcept nogil
    cdef bint begins_anew(self, const Conn *e, const Seen *s, const uint8_t *l4) noexcept nogil
    cdef Verdict came_by(self, Columns *c, const Seen *s, Conn *e) noexcept nogil
    cdef Verdict sent_back(self, Columns *c, const Seen *s, const Conn *e) noexcept nogil
    cdef bint may_begin(self, const Seen *s, const uint8_t *l4) noexcept nogil
    cdef uint32_t favourite(self, const Service *v, const Match *m, const Seen *s, const uint8_t *client, const uint8_t *addr,
                            uint32_t *template) noexcept nogil
    cdef Verdict outward(self, Columns *c, Seen *s, const uint8_t *addr) noexcept nogil
    cdef uint16_t behind(self, const Service *v, const Seen *s, const uint8_t *addr, uint16_t dport) noexcept nogil
    cdef bint guarded(self, const Columns *c, const Seen *s) noexcept nogil
    cdef Verdict arriving(self, Columns *c, Seen *s) noexcept nogil
    cdef int send_resets(self, Columns *c) noexcept nogil
    cdef void leave(self, Columns *c, uint32_t i, uint16_t domain, uint16_t of) noexcept nogil
    cdef void count(self, Columns *c, uint32_t i, Verdict v) noexcept nogil
    cdef uint32_t gather(self, Columns *c, uint32_t first, uint32_t last, Seen *seen) noexcept nogil
    cdef void settle(self, Columns *c, Seen *seen, uint32_t n) noexcept nogil
    cdef void mesh_rows(self, Columns *c) noexcept nogil
