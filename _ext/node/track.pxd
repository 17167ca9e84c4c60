"""A connection's life, as its packets and its server tell it: states, times, who counts it, who may go first."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int32_t, int64_t

from vxlanfast._ext.node.seen cimport Seen
from vxlanfast._ext.table.conn cimport CONN_ANSWERED, Conn, ConnKey, ConnTable
from vxlanfast._ext.table.ports cimport PortPools
from vxlanfast._ext.table.sctpstate cimport SCTP_STATES
from vxlanfast._ext.table.service cimport Service, ServiceTable
from vxlanfast._ext.table.tcpstate cimport TCP_ESTABLISHED, TCP_STATES
from vxlanfast._ext.wire.ipv4 cimport IP_PROTO_TCP
from vxlanfast._ext.wire.tcp cimport (
    TCP_FLAG_ACK, TCP_FLAG_FIN, TCP_FLAG_RST, TCP_FLAG_SYN, TCP_OFF_DATA_OFF, tcp_ack, tcp_seq,
)


cdef enum:
    TEMPLATE_PROTO = 0x80       # what a template's key has its protocol changed by
    SECOND_NS = 1000000000
    SEQ_AHEAD = 1 << 20         # so far from what has been seen a segment may be and move what is expected: losses before us leave gaps


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


cdef inline bint seq_within(uint32_t number, uint32_t of) noexcept nogil:
    """Whether a number that a segment has is near one that was seen."""
    return number - of + SEQ_AHEAD < 2 * SEQ_AHEAD


cdef inline void seq_acknowledge(Conn *e, bint reverse, uint32_t ack) noexcept nogil:
    """One side acknowledges so much of what the other has sent."""
    cdef uint32_t other = e.seq_end[not reverse]
    if e.seq_ack[reverse] == 0 or 0 < <int32_t>(ack - e.seq_ack[reverse]) < SEQ_AHEAD:
        e.seq_ack[reverse] = ack
        if other != 0 and <int32_t>(ack - other) > 0:
            e.seq_end[not reverse] = ack  # it has come, though not by us


cdef inline bint goes_on(Track t, Conn *e, bint reverse, const uint8_t *l4, uint32_t n, uint8_t flags) noexcept nogil:
    """All of ``advance`` for a TCP segment or datagram of ``n`` bytes that an open connection of a server goes on with; False, and
    nothing has changed: ``advance`` has to say."""
    cdef const Service *v = t.services.services + t.services.servers[e.server].service
    cdef uint32_t seq, ack, end, sent, hdr_len, seconds
    cdef int64_t expires = t.now_ns
    if e.proto == IP_PROTO_TCP:
        if e.state != TCP_ESTABLISHED or flags & (TCP_FLAG_RST | TCP_FLAG_SYN | TCP_FLAG_FIN | TCP_FLAG_ACK) != TCP_FLAG_ACK:
            return False
        seconds = v.timeout_s[0]
        expires += <int64_t>seconds * SECOND_NS if seconds else t.tcp_ns[<int>TCP_ESTABLISHED]
    else:
        seconds = v.timeout_s[2]
        expires += <int64_t>seconds * SECOND_NS if seconds else t.udp_ns
        if reverse and not e.flags & CONN_ANSWERED:
            return False
    if expires < e.expires_ns:
        return False
    if e.proto == IP_PROTO_TCP and not t.exact:
        seq = tcp_seq(l4)
        ack = tcp_ack(l4)
        sent = e.seq_end[reverse]
        if sent == 0 or e.seq_end[not reverse] == 0 or not seq_within(seq, sent) or not seq_within(ack, e.seq_end[not reverse]):
            return False
        hdr_len = (l4[TCP_OFF_DATA_OFF] >> 4) * 4
        end = seq + (n - hdr_len if n > hdr_len else 0)
        if <int32_t>(end - sent) > 0:
            e.seq_end[reverse] = end
        seq_acknowledge(e, reverse, ack)
    if reverse:
        e.flags |= CONN_ANSWERED
    e.expires_ns = expires
    return True
