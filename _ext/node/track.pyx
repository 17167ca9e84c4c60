"""A connection's life: opened, followed packet by packet, expired, evicted. Mesh is made of it.

What the kernel does was seen of one (Linux 6.1); ``exact`` does the same, where without it something better is done and said.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int32_t, int64_t
from libc.stdlib cimport free, realloc

from vxlanfast._ext.node.seen cimport Seen
from vxlanfast._ext.table.conn cimport (
    CONN_ACTIVE, CONN_RETURN, CONN_ANSWERED, CONN_MASQ, CONN_NONE, CONN_TEMPLATE, Conn, ConnKey, ConnTable,
)
from vxlanfast._ext.table.ports cimport PortPools
from vxlanfast._ext.table.sctpstate cimport ASSOC_CLOSED, ASSOC_ESTABLISHED, SCTP_STATES, assoc_next
from vxlanfast._ext.table.service cimport SERVER_NONE, SERVICE_RESET, SERVICE_NONE, Server, Service, ServiceTable
from vxlanfast._ext.table.tcpstate cimport (
    TCP_CLOSE, TCP_ESTABLISHED, TCP_FIN_WAIT, TCP_IN, TCP_OUT, TCP_STATES, TCP_SYN_RECV, TCP_SYN_SENT, TCP_TIME_WAIT,
    tcp_is_active, tcp_next, tcp_timeout_s,
)
from vxlanfast._ext.wire.endian cimport likely, load_be32
from vxlanfast._ext.wire.ipv4 cimport IP_PROTO_ICMP, IP_PROTO_ICMPV6, IP_PROTO_SCTP, IP_PROTO_TCP
from vxlanfast._ext.wire.sctp cimport (
    SCTP_ABORT, SCTP_CHUNK_HDR_LEN, SCTP_CHUNK_NONE, SCTP_DATA, SCTP_HDR_LEN, SCTP_INIT, SCTP_INIT_ACK, SCTP_SACK,
    sctp_chunk, sctp_chunk_at, sctp_next, sctp_vtag,
)
from vxlanfast._ext.wire.tcp cimport (
    TCP_FLAG_ACK, TCP_FLAG_FIN, TCP_FLAG_RST, TCP_FLAG_SYN, TCP_OFF_DATA_OFF, tcp_ack, tcp_seq,
)

cdef enum:
    TEMPLATE_HELD_S = 60        # it stays so much longer while connections hold it (IPVS)
    FIRST_S = 3                 # until the first packet has said what state it is in (IPVS)
    UDP_S = 300                 # IPVS's
    ECHO_S = 30                 # nf_conntrack's
    SEQ_NEAR = 1 << 16          # so far from what has been seen a segment may be and end the connection


cdef class Track:
    """The connections of ``conns``, as they and their servers (``services``) come and go. Options: see ``Mesh``."""

    def __cinit__(self, *args, ServiceTable services not None, ConnTable conns not None, bint exact=False, bint reuse=True,
                  bint forget=False, bint sloppy=False, uint64_t seed=0, **options):
        from vxlanfast._ext.table.sctpstate import NAMES, TIMEOUTS_S
        cdef int state
        self.services = services
        self.conns = conns
        self.exact = exact
        self.reuse = reuse
        self.forget = forget
        self.sloppy = sloppy
        self.ports = PortPools(conns, seed=seed)
        for state in range(TCP_STATES):
            self.tcp_ns[state] = <int64_t>tcp_timeout_s[state] * SECOND_NS
        for state in range(SCTP_STATES):
            self.sctp_ns[state] = <int64_t>TIMEOUTS_S[NAMES[state]] * SECOND_NS
        self.udp_ns = <int64_t>UDP_S * SECOND_NS
        self.echo_ns = <int64_t>ECHO_S * SECOND_NS

    def __dealloc__(self):
        free(self.resets)

    cdef int64_t timeout(self, const Conn *e) noexcept nogil:
        """How long it may be silent as it is now."""
        cdef const Service *s = NULL
        if e.server != SERVER_NONE and self.services.servers[e.server].service != SERVICE_NONE:
            s = self.services.services + self.services.servers[e.server].service
        if e.proto == IP_PROTO_TCP:
            if s != NULL and e.state == TCP_ESTABLISHED and s.timeout_s[0]:
                return <int64_t>s.timeout_s[0] * SECOND_NS
            if s != NULL and e.state == TCP_FIN_WAIT and s.timeout_s[1]:
                return <int64_t>s.timeout_s[1] * SECOND_NS
            return self.tcp_ns[e.state]
        if e.proto == IP_PROTO_ICMP or e.proto == IP_PROTO_ICMPV6:
            return self.echo_ns
        if e.proto == IP_PROTO_SCTP:
            return self.sctp_ns[e.state]
        if s != NULL and s.timeout_s[2]:
            return <int64_t>s.timeout_s[2] * SECOND_NS
        return self.udp_ns

    cdef bint follow(self, Conn *e, bint reverse, const uint8_t *tcp, uint32_t payload, uint8_t *flags) noexcept nogil:
        """Keep up with what each side has sent and acknowledged. ``flags`` lose what cannot be of this connection: a RST or FIN
        whose number a blind sender would have to guess (RFC 5961 §3), anything that is far from what both sides have said
        (ibid. §5: else he would shift what is expected until a RST fits), an ACK of what was never sent; False then."""
        cdef uint32_t seq = tcp_seq(tcp), ack = tcp_ack(tcp), end = seq + payload
        cdef uint32_t expected = e.seq_ack[not reverse], sent = e.seq_end[reverse], other = e.seq_end[not reverse]
        cdef uint8_t f = flags[0]
        cdef bint fine
        if f & TCP_FLAG_RST:
            if sent == 0 and f & TCP_FLAG_ACK:
                fine = ack == other  # refused before anything was said
            else:
                # What the other side waits for next, or the last of what is on its way there.
                fine = seq == sent or seq == expected or (expected != 0 and <int32_t>(seq - expected) >= 0 and sent - seq <= SEQ_NEAR)
            if not fine:
                flags[0] = 0
            return fine
        if f & TCP_FLAG_SYN:
            if sent == 0 or e.state != TCP_ESTABLISHED:
                e.seq_end[reverse] = end + 1
                if f & TCP_FLAG_ACK:
                    e.seq_ack[reverse] = ack
                if reverse:
                    e.seq_ack[0] = end + 1  # the least that a client acknowledges who has seen this
            return True
        if e.state == TCP_SYN_RECV:
            # Only a client who has seen the server's answer opens a connection; others are not kept as ones that did.
            if reverse:
                flags[0] &= ~<uint8_t>TCP_FLAG_ACK
            elif not f & TCP_FLAG_ACK or other == 0 or <int32_t>(ack - e.seq_ack[0]) < 0 or <int32_t>(other - ack) < 0:
                flags[0] &= ~<uint8_t>(TCP_FLAG_ACK | TCP_FLAG_FIN)
                return False
            else:
                sent = seq  # he proved himself, whatever numbers others have sent in his name
        if (sent != 0 and not seq_within(seq, sent)) or (other != 0 and not (f & TCP_FLAG_ACK and seq_within(ack, other))):
            flags[0] &= ~<uint8_t>(TCP_FLAG_ACK | TCP_FLAG_FIN)
            return False
        if f & TCP_FLAG_FIN:
            end += 1
            if sent != 0 and (<int32_t>(seq - (expected if expected else sent)) < 0 or <int32_t>(seq - sent) >= SEQ_NEAR):
                flags[0] &= ~<uint8_t>TCP_FLAG_FIN
                return False
        if sent == 0 or <int32_t>(end - sent) > 0:
            e.seq_end[reverse] = end
        if f & TCP_FLAG_ACK:
            seq_acknowledge(e, reverse, ack)
        return True

    cdef void advance(self, Conn *e, uint32_t number, bint reverse, const Seen *s, const uint8_t *l4) noexcept nogil:
        """A packet of a connection has come: its state, its time, and who counts it as what."""
        cdef uint8_t state = e.state, flags = s.flags, lost
        cdef uint32_t hdr_len, payload
        cdef int64_t expires
        if e.proto == IP_PROTO_TCP:
            if self.exact or e.flags & CONN_RETURN:
                state = tcp_next(TCP_OUT if reverse else TCP_IN, state, flags)
            else:
                hdr_len = s.l4 + (l4[TCP_OFF_DATA_OFF] >> 4) * 4
                payload = s.length - hdr_len if s.length > hdr_len else 0
                if not self.follow(e, reverse, l4, payload, &flags):
                    self.forged += 1
                if flags & (TCP_FLAG_RST | TCP_FLAG_SYN | TCP_FLAG_FIN | TCP_FLAG_ACK):
                    state = tcp_next(TCP_OUT if reverse else TCP_IN, state, flags)
            if state != e.state:
                e.state = state
                if tcp_is_active(state) != ((e.flags & CONN_ACTIVE) != 0) and e.server != SERVER_NONE:
                    self.services.turn(e.server, not e.flags & CONN_ACTIVE)
                    e.flags ^= CONN_ACTIVE
                if state == TCP_ESTABLISHED:
                    self.conns.delist(number)
                elif state == TCP_TIME_WAIT or state == TCP_CLOSE:
                    self.conns.enlist(number, True)
                elif state != TCP_SYN_RECV and state != TCP_SYN_SENT:
                    self.conns.delist(number)
        elif e.proto == IP_PROTO_SCTP:
            self.advance_sctp(e, number, reverse, s, l4)
        elif reverse and not e.flags & CONN_ANSWERED:
            self.conns.delist(number)  # somebody is there
        if reverse:
            e.flags |= CONN_ANSWERED
        expires = self.now_ns + self.timeout(e)
        if likely(expires >= e.expires_ns):
            e.expires_ns = expires
        else:
            self.conns.wheel.start(number, expires, self.now_ns)

    cdef void advance_sctp(self, Conn *e, uint32_t number, bint reverse, const Seen *s, const uint8_t *l4) noexcept nogil:
        """The same for SCTP. An ABORT counts if it has the tag that its receiver asked for, or its sender's own reflected (RFC 9260
        §8.5.1); where no tag is known yet, as it comes."""
        cdef uint32_t n = s.n - s.l4, at = SCTP_HDR_LEN, expected = e.seq_end[reverse]
        cdef int chunk = sctp_chunk(l4, n)
        cdef uint8_t state
        while chunk == SCTP_DATA or chunk == SCTP_SACK:  # what decides comes behind them
            at = sctp_next(l4, n, at)
            chunk = sctp_chunk_at(l4, n, at) if at else SCTP_CHUNK_NONE
        if (chunk == SCTP_INIT or chunk == SCTP_INIT_ACK) and n >= at + SCTP_CHUNK_HDR_LEN + 4:
            e.seq_end[not reverse] = load_be32(l4 + at + SCTP_CHUNK_HDR_LEN)  # the tag that its sender asks for
        elif chunk == SCTP_ABORT and not self.exact and expected and sctp_vtag(l4) != expected \
                and sctp_vtag(l4) != e.seq_end[not reverse]:
            self.forged += 1
            chunk = SCTP_CHUNK_NONE
        state = assoc_next(e.state, chunk, reverse)
        if state == e.state:
            return
        e.state = state
        if (state == ASSOC_ESTABLISHED) != ((e.flags & CONN_ACTIVE) != 0) and e.server != SERVER_NONE:
            self.services.turn(e.server, state == ASSOC_ESTABLISHED)
            e.flags ^= CONN_ACTIVE
        if state == ASSOC_ESTABLISHED:
            self.conns.delist(number)
        elif state == ASSOC_CLOSED:
            self.conns.enlist(number, True)

    cdef uint32_t begin(self, Seen *s, const ConnKey *reverse, uint8_t flags) noexcept nogil:
        """A connection that nobody has answered yet; its number, or CONN_NONE."""
        cdef uint32_t number = self.conns.open(&s.key, reverse, self.now_ns, FIRST_S * <int64_t>SECOND_NS)
        if number != CONN_NONE:
            (self.conns.conns + number).flags = flags
            self.conns.enlist(number, False)
            self.opened += 1
            s.ref = number << 1
        return number

    cdef void end(self, uint32_t number) noexcept nogil:
        """A connection goes: its server has one less, its source port is free."""
        cdef Conn *e = self.conns.conns + number
        cdef Conn *template
        if e.server != SERVER_NONE and not e.flags & CONN_TEMPLATE:
            self.services.unbind(e.server, (e.flags & CONN_ACTIVE) != 0)
            if e.via != CONN_NONE:
                template = self.conns.conns + e.via
                if template.flags & CONN_TEMPLATE and template.via:
                    template.via -= 1
        self.ports.give_back(number)
        self.conns.close(number)

    cdef bint make_room(self) noexcept nogil:
        """There is room for one more, or somebody went for it: one that is not open yet, or over, never an established one."""
        cdef uint32_t victim
        if self.conns.size < self.conns.capacity:
            return True
        victim = self.conns.victim()
        if victim == CONN_NONE:
            return False
        self.end(victim)
        self.evicted += 1
        return True

    cdef bint pick_port(self, ConnKey *reverse) noexcept nogil:
        """A port for a connection, be it that of one that is not open, which goes: a flood of spoofed SYNs would keep everybody out
        of a service long before the table is full. IPVS refuses. False: all are in use."""
        cdef uint32_t number
        if self.ports.pick(reverse):
            return True
        number = CONN_NONE if self.exact else self.ports.spare(reverse)
        if number == CONN_NONE:
            return False
        self.end(number)
        self.evicted += 1
        return self.ports.pick(reverse)

    cdef void expire(self, int64_t now_ns, uint32_t budget) noexcept nogil:
        """Those whose time has come go, ``budget`` timers looked at."""
        cdef uint32_t due[256]
        cdef uint32_t n = 256, k
        cdef uint64_t last = self.conns.wheel.met + budget
        while n == 256 and self.conns.wheel.met < last:
            n = self.conns.wheel.expire(now_ns, due, 256, <uint32_t>(last - self.conns.wheel.met))
            for k in range(n):
                self.overdue(due[k], now_ns)

    cdef void overdue(self, uint32_t number, int64_t now_ns) noexcept nogil:
        """One whose time has come: it goes, or is a template that connections hold yet."""
        cdef Conn *e = self.conns.conns + number
        cdef Server *d
        if e.flags & CONN_TEMPLATE and e.via:
            self.conns.wheel.start(number, now_ns + TEMPLATE_HELD_S * <int64_t>SECOND_NS, now_ns)
            return
        if e.proto == IP_PROTO_TCP and e.state == TCP_ESTABLISHED and e.server != SERVER_NONE and not self.exact:
            d = self.services.servers + e.server
            if d.service != SERVICE_NONE and (self.services.services + d.service).flags & SERVICE_RESET:
                self.tell(number)
        self.end(number)
        self.expired += 1

    cdef void tell(self, uint32_t number) noexcept nogil:
        """Both ends of a TCP connection that is about to go are to be told, by rows behind this batch's or the next one's."""
        cdef Conn *grown
        cdef uint32_t cap
        if self.n_resets == self.cap_resets:
            cap = self.cap_resets * 2 if self.cap_resets else 64
            grown = <Conn *>realloc(self.resets, <uint64_t>cap * sizeof(Conn))
            if grown == NULL:
                return  # they find out when they speak next
            self.resets = grown
            self.cap_resets = cap
        self.resets[self.n_resets] = self.conns.conns[number]
        self.n_resets += 1

    def end_connection(self, uint32_t number):
        """A connection goes at once. ValueError: there is none of that number."""
        if number >= self.conns.high or self.conns.conns[number].family == 0:
            raise ValueError(f"connection {number}: there is none of that number")
        self.end(number)

    def set_timeouts(self, *, tcp_s=0, fin_s=0, udp_s=0):
        """As ``ipvsadm --set``: seconds of an open TCP connection, of one whose server has closed, of UDP; 0 leaves as it is."""
        for seconds in (tcp_s, fin_s, udp_s):
            if not 0 <= seconds <= 31 * 86400:
                raise ValueError(f"timeout of {seconds} s: 0 to {31 * 86400}")
        if tcp_s:
            self.tcp_ns[<int>TCP_ESTABLISHED] = <int64_t>tcp_s * SECOND_NS
        if fin_s:
            self.tcp_ns[<int>TCP_FIN_WAIT] = <int64_t>fin_s * SECOND_NS
        if udp_s:
            self.udp_ns = <int64_t>udp_s * SECOND_NS

    def set_mode(self, *, reuse=None, forget=None, sloppy=None):
        """Other values of IPVS's conn_reuse_mode, expire_nodest_conn and sloppy_tcp, from now on."""
        if reuse is not None:
            self.reuse = reuse
        if forget is not None:
            self.forget = forget
        if sloppy is not None:
            self.sloppy = sloppy
