"""Connections of virtual services: given to a server, followed, rewritten both ways; and what nobody's server gets, masqueraded.

It takes the rows that Bridge gave a gateway, before Route forwards them, and those that answer a client behind a port of ours.
What the kernel does was seen of one (Linux 6.1); ``exact`` does the same, where without it something better is done and said.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int32_t, int64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset

from vxlanfast._ext.batch cimport Columns, PacketBatch, row_at, row_count
from vxlanfast._ext.node.defrag cimport defrag_row
from vxlanfast._ext.node.nat cimport NatTuple, nat_apply, nat_has_ports, nat_original, nat_tuple
from vxlanfast._ext.node.reply cimport become_error, icmp_allowed, may_report
from vxlanfast._ext.node.seen cimport SEEN_ERROR, SEEN_FLOW, SEEN_PART, Seen, look
from vxlanfast._ext.table.conn cimport (
    CONN_ACTIVE, CONN_ANSWERED, CONN_MASQ, CONN_NONE, Conn, ConnKey, ConnTable, bucket_hits, conn_bucket, conn_is,
    conn_key, ctz, port_dst, port_pair, port_src,
)
from vxlanfast._ext.table.dest cimport DEST_GATEWAY, DEST_PORT, Dest, DestTable
from vxlanfast._ext.table.fragments cimport FragmentTable
from vxlanfast._ext.table.hash cimport hash_u64, prefetch, table_memory
from vxlanfast._ext.table.match cimport MATCH_NONE, Match
from vxlanfast._ext.table.net cimport NET_MESH, NET_NONE, Net, NetTable
from vxlanfast._ext.table.service cimport (
    SERVER_NONE, SERVICE_HAIRPIN, SERVICE_MASQ, SERVICE_NONE, Server, Service, ServiceTable,
)
from vxlanfast._ext.table.tcpstate cimport (
    TCP_CLOSE, TCP_ESTABLISHED, TCP_FIN_WAIT, TCP_IN, TCP_OUT, TCP_STATES, TCP_SYN_RECV, TCP_SYN_SENT, TCP_TIME_WAIT,
    tcp_is_active, tcp_next, tcp_timeout_s,
)
from vxlanfast._ext.verdict cimport (
    Verdict, PASS, DROP_CONN_FULL, DROP_NO_ROUTE, DROP_NO_SERVER, DROP_PORTS_FULL, DROP_SERVER_GONE, DROP_SOURCE_FULL, DROP_SOURCE_REFUSED, DROP_TTL,
    DROP_UNRELATED, RULE_BALANCED, RULE_MASQUERADED, RULE_NO_SERVER, RULE_RELATED, RULE_RETURNED, RULE_TTL,
    VERDICT_COUNT,
)
from vxlanfast._ext.wire.csum cimport csum, csum_finish, csum_pseudo6
from vxlanfast._ext.wire.endian cimport likely, load_be16, store_be16
from vxlanfast._ext.wire.icmp cimport (
    ICMP6_DEST_UNREACH, ICMP6_TIME_EXCEEDED, ICMP_DEST_UNREACH, ICMP_OFF_CSUM, ICMP_TIME_EXCEEDED, icmp6_csum_ok,
    icmp_csum_ok,
)
from vxlanfast._ext.wire.ipv4 cimport (
    IP_PROTO_ICMP, IP_PROTO_ICMPV6, IP_PROTO_TCP, IP_PROTO_UDP, IPV4_OFF_DST, IPV4_OFF_SRC, IPV4_OFF_TTL,
)
from vxlanfast._ext.wire.ipv6 cimport IPV6_OFF_DST, IPV6_OFF_HOPS, IPV6_OFF_SRC
from vxlanfast._ext.wire.tcp cimport (
    TCP_FLAG_ACK, TCP_FLAG_FIN, TCP_FLAG_RST, TCP_FLAG_SYN, TCP_OFF_DATA_OFF, tcp_ack, tcp_seq,
)

cdef enum:
    DOMAINS = 65536
    VECTOR = 32                 # rows of which the cache lines are fetched together
    EXPIRE_BUDGET = 4096        # timers looked at before a batch: a storm of them is spread over many
    SECOND_NS = 1000000000
    UDP_S = 300                 # IPVS's
    ECHO_S = 30                 # nf_conntrack's
    # How far ahead of what has been seen a segment may be and still move what is expected: losses before us leave gaps.
    SEQ_AHEAD = 1 << 22
    FIN_AHEAD = 1 << 16
    UNREACH_PORT = 3            # code of ICMP type 3 (RFC 792) …
    UNREACH6_PORT = 4           # … and of ICMPv6 type 1 (RFC 4443 §3.1)
    PORT_LOW_END = 512          # classes of source ports, within which masquerade stays (nf_nat_l4proto_unique_tuple)
    PORT_LOW_FIRST = 1
    PORT_SYSTEM_FIRST = 600
    PORT_USER_FIRST = 1024


cdef inline uint16_t port_number(uint16_t port) noexcept nogil:
    """A port, as it stands in a packet, as a number."""
    return load_be16(<const uint8_t *>&port)


cdef inline bint same_address(const uint8_t *a, const uint8_t *b, uint32_t n) noexcept nogil:
    return memcmp(a, b, n) == 0


cdef class Mesh:
    """Rows to gateways, and answers to clients behind our ports, by the connection they belong to.

    ``exact``: IPVS's own behaviour. ``reuse``, ``forget``, ``sloppy``: its conn_reuse_mode, expire_nodest_conn and sloppy_tcp.
    ``seed``: of the ports that masquerade draws.
    """

    def __cinit__(self, NetTable nets not None, DestTable dests not None, ServiceTable services not None, ConnTable conns not None, *,
                  bint exact=False, bint reuse=True, bint forget=False, bint sloppy=False, uint64_t seed=0):
        cdef int state
        cdef uint32_t i
        self.fragments = FragmentTable()
        self.nets = nets
        self.dests = dests
        self.services = services
        self.conns = conns
        self.exact = exact
        self.reuse = reuse
        self.forget = forget
        self.sloppy = sloppy
        self.seed = hash_u64(seed, 1)
        for state in range(TCP_STATES):
            self.tcp_ns[state] = <int64_t>tcp_timeout_s[state] * SECOND_NS
        self.udp_ns = <int64_t>UDP_S * SECOND_NS
        self.echo_ns = <int64_t>ECHO_S * SECOND_NS
        self.pools = <Pool *>table_memory(POOLS * sizeof(Pool))
        self.ways = <uint16_t *>table_memory(DOMAINS * sizeof(uint16_t))
        if self.pools == NULL or self.ways == NULL:
            raise MemoryError("no room for the pools of source ports")
        memset(self.ways, 0xFF, DOMAINS * sizeof(uint16_t))
        for i in range(nets.size):
            if self.ways[nets.nets[i].domain] == NET_NONE:
                self.ways[nets.nets[i].domain] = <uint16_t>i

    def __dealloc__(self):
        free(self.pools)
        free(self.ways)

    # --- a connection's life ----------------------------------------------------------------------------

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
        if s != NULL and s.timeout_s[2]:
            return <int64_t>s.timeout_s[2] * SECOND_NS
        return self.udp_ns

    cdef bint follow(self, Conn *e, bint reverse, const uint8_t *tcp, uint32_t payload, uint8_t *flags) noexcept nogil:
        """Keep up with what each side has sent and acknowledged. ``flags`` lose a RST or FIN that cannot be of this connection
        (RFC 5961 §3: a blind sender would have to guess the very number), and an ACK of what was never sent; False then."""
        cdef uint32_t seq = tcp_seq(tcp), ack = tcp_ack(tcp), end = seq + payload
        cdef uint32_t expected = e.seq_ack[not reverse], sent = e.seq_end[reverse]
        cdef uint8_t f = flags[0]
        cdef bint fine = True
        if f & TCP_FLAG_SYN:
            end += 1
        if f & TCP_FLAG_FIN:
            end += 1
        if f & TCP_FLAG_RST:
            if sent == 0 and f & TCP_FLAG_ACK:
                fine = ack == e.seq_end[not reverse]  # refused before anything was said
            else:
                # What the other side waits for next, or anything on its way there.
                fine = seq == sent or seq == expected or (expected != 0 and <int32_t>(seq - expected) >= 0 and <int32_t>(sent - seq) >= 0)
            if not fine:
                flags[0] = 0
                return False
            return True
        if f & TCP_FLAG_FIN and sent != 0 and not (<int32_t>(seq - (expected if expected else sent)) >= 0
                                                   and <int32_t>(seq - sent) < FIN_AHEAD):
            flags[0] &= ~<uint8_t>TCP_FLAG_FIN
            fine = False
        if sent == 0 or 0 < <int32_t>(end - sent) < SEQ_AHEAD or (f & TCP_FLAG_SYN and e.state != TCP_ESTABLISHED):
            e.seq_end[reverse] = end
        if f & TCP_FLAG_ACK:
            sent = e.seq_end[not reverse]
            if e.state == TCP_SYN_RECV and not reverse and not f & TCP_FLAG_SYN \
                    and (not e.flags & CONN_ANSWERED or <int32_t>(ack - sent) > 0 or <int32_t>(sent - ack) > FIN_AHEAD):
                # Whoever has not seen the server's answer does not open a connection, and is not kept as one that did.
                flags[0] &= ~<uint8_t>(TCP_FLAG_ACK | TCP_FLAG_FIN)
                return False
            if e.seq_ack[reverse] == 0 or 0 < <int32_t>(ack - e.seq_ack[reverse]) < SEQ_AHEAD:
                e.seq_ack[reverse] = ack
                if sent != 0 and 0 < <int32_t>(ack - sent) < SEQ_AHEAD:
                    e.seq_end[not reverse] = ack  # it has come, though not by us
        return fine

    cdef void advance(self, Conn *e, uint32_t number, bint reverse, const Seen *s, const uint8_t *l4) noexcept nogil:
        """A packet of a connection has come: its state, its time, and who counts it as what."""
        cdef uint8_t state = e.state, flags = s.flags, lost
        cdef uint32_t hdr_len, payload
        cdef int64_t expires
        if e.proto == IP_PROTO_TCP:
            if self.exact:
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
        elif reverse and not e.flags & CONN_ANSWERED:
            self.conns.delist(number)  # somebody is there
        if reverse:
            e.flags |= CONN_ANSWERED
        expires = self.now_ns + self.timeout(e)
        if likely(expires >= e.expires_ns):
            e.expires_ns = expires
        else:
            self.conns.wheel.start(number, expires, self.now_ns)

    cdef void end(self, uint32_t number) noexcept nogil:
        """A connection goes: its server has one less, its source port is free."""
        cdef Conn *e = self.conns.conns + number
        cdef ConnKey reverse
        cdef Pool *pool
        cdef uint64_t tuple = 0
        if e.server != SERVER_NONE:
            self.services.unbind(e.server, (e.flags & CONN_ACTIVE) != 0)
        if e.flags & CONN_MASQ:
            self.conns.key_of(number, True, &reverse)
            pool = self.pool_of(&reverse, &tuple)
            if pool.tuple == tuple:
                pool.freed += 1
                pool.hint = port_number(port_dst(reverse.ports))
        self.conns.close(number)

    cdef bint make_room(self) noexcept nogil:
        """There is room for one more, or somebody went for it: those first who have not been answered, never the established."""
        cdef uint32_t victim
        if self.conns.size < self.conns.capacity:
            return True
        victim = self.conns.victim()
        if victim == CONN_NONE:
            return False
        self.end(victim)
        self.evicted += 1
        return True

    cdef void expire(self, int64_t now_ns, uint32_t budget) noexcept nogil:
        """Those whose time has come go, ``budget`` timers looked at."""
        cdef uint32_t due[256]
        cdef uint32_t n, k
        while True:
            n = self.conns.wheel.expire(now_ns, due, 256, budget)
            for k in range(n):
                self.end(due[k])
            self.expired += n
            if n < 256 or budget <= n:
                return
            budget -= n

    # --- source ports -----------------------------------------------------------------------------------

    cdef uint64_t draw(self) noexcept nogil:
        """The next random number of the seed."""
        self.drawn += 1
        return hash_u64(self.drawn, self.seed)

    cdef Pool *pool_of(self, const ConnKey *reverse, uint64_t *tuple) noexcept nogil:
        """What is known of the ports of one tuple: server, masquerade address, protocol."""
        cdef ConnKey key
        cdef uint32_t size = 4 if reverse.family == 4 else 16
        conn_key(&key, reverse.addrs, reverse.addrs + size, port_pair(port_src(reverse.ports), 0), reverse.domain, reverse.proto,
                 reverse.family, self.conns.seed)
        tuple[0] = hash_u64(key.hash, self.seed) | 1
        return self.pools + (key.hash & (POOLS - 1))

    cdef bint pick_port(self, ConnKey *reverse) noexcept nogil:
        """A masquerading port, so that no two connections have answers alike: the client's own while that is free, else any of its
        class. False: there is none left. ``reverse`` has the client's, and gets what was picked."""
        cdef uint8_t addrs[32]
        cdef uint32_t size = 4 if reverse.family == 4 else 16, first, count, at, k
        cdef uint16_t dport = port_src(reverse.ports), want, port
        cdef uint8_t raw[2]
        cdef uint64_t tuple = 0
        cdef Pool *pool
        if self.conns.find(reverse) == CONN_NONE:
            return True
        memcpy(addrs, reverse.addrs, 32)
        want = port_number(port_dst(reverse.ports))
        if want < PORT_LOW_END:
            first = PORT_LOW_FIRST
            count = PORT_LOW_END - first
        elif want < PORT_USER_FIRST:
            first = PORT_SYSTEM_FIRST
            count = PORT_USER_FIRST - first
        else:
            first = PORT_USER_FIRST
            count = 65536 - first
        pool = self.pool_of(reverse, &tuple)
        at = <uint32_t>(self.draw() % count)
        if pool.tuple == tuple and want >= PORT_USER_FIRST:
            if pool.freed == 0:
                return False  # nothing has come back since
            if pool.hint >= first:
                at = pool.hint - first
        for k in range(count):
            store_be16(raw, <uint16_t>(first + at))
            memcpy(&port, raw, 2)
            conn_key(reverse, addrs, addrs + size, port_pair(dport, port), reverse.domain, reverse.proto, reverse.family, self.conns.seed)
            if self.conns.find(reverse) == CONN_NONE:
                if pool.tuple == tuple and pool.freed:
                    pool.freed -= 1
                return True
            at = at + 1 if at + 1 < count else 0
        if want >= PORT_USER_FIRST:
            pool.tuple = tuple
            pool.freed = 0
        return False

    # --- rows -------------------------------------------------------------------------------------------

    cdef void rewrite(self, Columns *c, const Seen *s, uint32_t ref) noexcept nogil:
        """The row is the packet as the other side knows it, and goes on in that side's network."""
        cdef uint8_t *ip = c.arena + c.off[s.row] + s.l3
        cdef Conn *e = self.conns.conns + (ref >> 1)
        cdef NatTuple t
        nat_tuple(&t, e, ref & 1)
        nat_apply(ip, s.family, ip + s.l4, s.n - s.l4, s.proto, &t, True)
        c.conn[s.row] = ref

    cdef Verdict known(self, Columns *c, Seen *s) noexcept nogil:
        """A packet of a connection."""
        cdef uint32_t i = s.row, ref = s.ref, number = ref >> 1
        cdef bint reverse = ref & 1
        cdef Conn *e = self.conns.conns + number
        cdef uint8_t *ip = c.arena + c.off[i] + s.l3
        cdef Server *d
        cdef Net *net
        if self.ways[e.domain[not reverse]] == NET_NONE:
            return DROP_NO_ROUTE  # the networks on its other side are gone
        if e.server != SERVER_NONE and not reverse:
            d = self.services.servers + e.server
            if s.flags & TCP_FLAG_SYN and e.proto == IP_PROTO_TCP and not s.flags & TCP_FLAG_RST:
                if (self.reuse and (e.state == TCP_TIME_WAIT or e.state == TCP_CLOSE)) \
                        or ((self.forget or not self.exact) and (d.removed or d.weight == 0)
                            and (self.exact or e.state != TCP_ESTABLISHED)):
                    self.end(number)  # the client has begun anew with the same port
                    return self.unknown(c, s)
            if d.removed and (e.proto != IP_PROTO_UDP or self.exact):
                return DROP_SERVER_GONE
            if d.removed:
                self.end(number)  # a datagram does not wait for a server that is gone
                return self.unknown(c, s)
        self.advance(e, number, reverse, s, ip + s.l4)
        if not reverse and ip[IPV4_OFF_TTL if s.family == 4 else IPV6_OFF_HOPS] <= 1:
            # From the address that the client knows, before anything is rewritten.
            net = self.nets.nets + c.net[i]
            if may_report(c.arena + c.off[i], ip, s.n) and icmp_allowed(net, c.ts_ns[i]) and become_error(
                    c, i, net, s.l3, s.n, ICMP_TIME_EXCEEDED if s.family == 4 else ICMP6_TIME_EXCEEDED, 0, 0, RULE_TTL,
                    ip + (IPV4_OFF_DST if s.family == 4 else IPV6_OFF_DST)):
                self.errors += 1
                return PASS
            return DROP_TTL
        self.rewrite(c, s, ref)
        if reverse:
            c.rule[i] = RULE_RETURNED
            self.leave(c, i, e.domain[0], e.domain[1])
        else:
            c.rule[i] = RULE_BALANCED if e.server != SERVER_NONE else RULE_MASQUERADED
            self.leave(c, i, e.domain[1], e.domain[0])
        return PASS

    cdef void leave(self, Columns *c, uint32_t i, uint16_t domain, uint16_t of) noexcept nogil:
        """The row is of that domain from now on: Route looks for its way from the first of its networks."""
        if domain != of:
            c.net[i] = self.ways[domain]
            c.vni[i] = self.nets.nets[self.ways[domain]].vni

    cdef Verdict refuse(self, Columns *c, Seen *s) noexcept nogil:
        """Nobody takes it: the client is told at once, from the service's address, instead of being left to wait."""
        cdef uint32_t i = s.row
        cdef Net *net = self.nets.nets + c.net[i]
        cdef const uint8_t *ip = c.arena + c.off[i] + s.l3
        if not may_report(c.arena + c.off[i], ip, s.n) or not icmp_allowed(net, c.ts_ns[i]):
            return DROP_NO_SERVER
        if not become_error(c, i, net, s.l3, s.n, ICMP_DEST_UNREACH if s.family == 4 else ICMP6_DEST_UNREACH,
                            UNREACH_PORT if s.family == 4 else UNREACH6_PORT, 0, RULE_NO_SERVER,
                            ip + (IPV4_OFF_DST if s.family == 4 else IPV6_OFF_DST)):
            return DROP_NO_SERVER
        self.errors += 1
        return PASS

    cdef Verdict unknown(self, Columns *c, Seen *s) noexcept nogil:
        """A packet of no connection: the first of one, if it is for a service; else it is not ours."""
        cdef uint8_t addr[16]
        cdef uint8_t client[16]
        cdef uint8_t target[32]
        cdef uint32_t size = 4 if s.family == 4 else 16, at, server, number
        cdef uint16_t dport = port_dst(s.key.ports), sport = port_src(s.key.ports)
        cdef ConnKey reverse
        cdef const Match *m
        cdef Service *v
        cdef Server *d
        cdef Conn *e
        cdef bint masq
        if not nat_has_ports(s.proto):
            return PASS  # a ping to a service's address: the gateway answers
        if s.proto == IP_PROTO_TCP and (s.flags & TCP_FLAG_RST or not (s.flags & TCP_FLAG_SYN or self.sloppy)):
            return PASS
        memset(addr, 0, 16)
        memset(client, 0, 16)
        memcpy(client, s.key.addrs, size)
        memcpy(addr, s.key.addrs + size, size)
        at = self.services.matches.find(s.key.domain, s.family, s.proto, addr, port_number(dport))
        if at == MATCH_NONE:
            return PASS
        m = self.services.matches.matches + at
        if not self.services.matches.lets_in(m, client):
            return DROP_SOURCE_REFUSED
        v = self.services.services + m.service
        if self.conns.source_full(&s.key):
            return DROP_SOURCE_FULL
        server = self.services.choose(m.service, client, port_number(sport), addr, port_number(dport))
        if server == SERVER_NONE:
            return self.refuse(c, s)
        if not self.make_room():
            return DROP_CONN_FULL
        d = self.services.servers + server
        masq = v.flags & SERVICE_MASQ
        memcpy(target, d.addr, size)
        memcpy(target + size, client, size)
        if masq:
            memcpy(target + size, v.masq, size)
        if v.flags & SERVICE_HAIRPIN and same_address(target, client, size):
            masq = True
            memcpy(target + size, addr, size)
        if m.target:
            store_be16(<uint8_t *>&dport, m.target + port_number(dport) - m.port)
        elif d.port:
            store_be16(<uint8_t *>&dport, d.port)
        conn_key(&reverse, target, target + size, port_pair(dport, sport), v.out_domain, s.proto, s.family,
                 self.conns.seed)
        if not self.pick_port(&reverse):
            v.refused += 1
            return DROP_PORTS_FULL
        number = self.conns.open(&s.key, &reverse, self.now_ns, 3 * <int64_t>SECOND_NS)
        if number == CONN_NONE:
            return DROP_CONN_FULL
        e = self.conns.conns + number
        e.server = server
        e.flags = CONN_MASQ if masq or port_dst(reverse.ports) != sport else 0
        self.services.bind(server, False)
        self.conns.enlist(number, False)
        self.opened += 1
        s.ref = number << 1
        return self.known(c, s)

    cdef Verdict related(self, Columns *c, Seen *s) noexcept nogil:
        """An ICMP error about a packet of a connection: rewritten outside and inside as that packet was, the other way."""
        cdef uint32_t i = s.row, ref = self.conns.find(&s.key), size
        cdef uint8_t *ip = c.arena + c.off[i] + s.l3
        cdef uint8_t *icmp = ip + s.l4
        cdef uint8_t *q = ip + s.quoted
        cdef Conn *e
        cdef NatTuple inner
        cdef NatTuple outer
        cdef bint reverse
        if ref == CONN_NONE or (self.conns.conns + (ref >> 1)).expires_ns <= self.now_ns:
            return PASS  # no connection's: Route sends it on, or drops what is for the gateway
        e = self.conns.conns + (ref >> 1)
        reverse = ref & 1
        if self.ways[e.domain[not reverse]] == NET_NONE:
            return DROP_NO_ROUTE
        if s.n == s.length and not (icmp_csum_ok(icmp, s.n - s.l4) if s.family == 4
                                    else icmp6_csum_ok(ip, icmp, s.n - s.l4)):
            return DROP_UNRELATED
        # What is quoted went the other way, and was rewritten on it: it becomes what it was before.
        size = 4 if s.family == 4 else 16
        nat_original(&inner, e, not reverse)
        if self.exact:
            self.unmasquerade(q, s, ip + s.quoted_l4, e, reverse, &inner)
        nat_apply(q, s.family, ip + s.quoted_l4, s.n - s.quoted_l4, e.proto, &inner, not self.exact)
        nat_tuple(&outer, e, reverse)
        if not reverse and not e.flags & CONN_MASQ:
            memcpy(outer.addrs, ip + (IPV4_OFF_SRC if s.family == 4 else IPV6_OFF_SRC), size)  # a router on the client's side
        nat_apply(ip, s.family, icmp, 0, s.proto, &outer, False)
        if s.n == s.length:
            store_be16(icmp + ICMP_OFF_CSUM, 0)
            store_be16(icmp + ICMP_OFF_CSUM, csum_finish(csum(icmp, s.n - s.l4) + (
                0 if s.family == 4 else csum_pseudo6(ip, s.n - s.l4, IP_PROTO_ICMPV6))))
        c.conn[i] = CONN_NONE
        c.rule[i] = RULE_RELATED
        self.leave(c, i, e.domain[not reverse], e.domain[reverse])
        return PASS

    cdef void unmasquerade(self, uint8_t *q, const Seen *s, uint8_t *l4, const Conn *e, bint reverse, const NatTuple *full) noexcept nogil:
        """As the kernel has it, a quoted checksum follows the masquerade, which is conntrack's, and not the rest, which is IPVS's."""
        cdef uint32_t size = 4 if s.family == 4 else 16
        cdef NatTuple half
        if not e.flags & CONN_MASQ:
            return
        half = full[0]
        # Of the server's side all stays as it is quoted, until the rest is written over it.
        memcpy(half.addrs + (size if reverse else 0), q + (IPV4_OFF_SRC if s.family == 4 else IPV6_OFF_SRC) + (size if reverse else 0), size)
        memcpy(<uint8_t *>&half.ports + (2 if reverse else 0), l4 + (2 if reverse else 0), 2)
        nat_apply(q, s.family, l4, s.n - s.quoted_l4, e.proto, &half, True)

    cdef uint32_t probe(self, const ConnKey *key) noexcept nogil:
        """A reference that has the key's hash, as a guess, its bucket being at hand; CONN_NONE."""
        cdef uint32_t at = conn_bucket(self.conns, key.hash)
        cdef uint32_t hits = bucket_hits(self.conns.buckets + at, key.hash)
        return self.conns.buckets[at].refs[ctz(hits)] if hits else CONN_NONE

    cdef void count(self, Columns *c, uint32_t i, Verdict v) noexcept nogil:
        """What became of row ``i``."""
        cdef Dest *d
        self.counts[<uint8_t>v] += 1
        if v != PASS:
            c.verdict[i] = v
            d = self.dests.dests + c.origin[i]
            d.drops += 1

    cdef void mesh_rows(self, Columns *c) noexcept nogil:
        """Every row in leaving order, a vector of them at a time: keys first, then buckets, then entries."""
        cdef Seen seen[VECTOR]
        cdef uint32_t first = 0, end = row_count(c), last, k, n, i
        cdef uint16_t domain
        cdef Seen *s
        cdef Dest *d
        cdef Verdict v
        while first < end:
            last = first + VECTOR if end - first > VECTOR else end
            n = 0
            for k in range(first, last):
                i = row_at(c, k)
                if c.verdict[i] != PASS:
                    continue
                d = self.dests.dests + c.dest[i]
                if d.kind != DEST_GATEWAY and not (d.kind == DEST_PORT and self.nets.nets[c.net[i]].flags & NET_MESH):
                    continue
                domain = self.nets.nets[c.net[i]].domain
                if not look(c, i, domain, self.conns.seed, &seen[n]):
                    continue
                if seen[n].kind == SEEN_PART:
                    if not self.nets.nets[c.net[i]].flags & NET_MESH:
                        continue
                    v = defrag_row(c, i, &seen[n].l3, self.fragments, &self.starved)
                    if v != PASS:
                        self.count(c, i, v)
                        continue
                    if not look(c, i, domain, self.conns.seed, &seen[n]) or seen[n].kind == SEEN_PART:
                        continue
                if seen[n].kind == SEEN_FLOW:
                    prefetch(self.conns.buckets + conn_bucket(self.conns, seen[n].key.hash))
                n += 1
            for k in range(n):
                if seen[k].kind == SEEN_FLOW:
                    seen[k].ref = self.probe(&seen[k].key)
                    if seen[k].ref != CONN_NONE:
                        prefetch(self.conns.conns + (seen[k].ref >> 1))
            for k in range(n):
                s = &seen[k]
                i = s.row
                if c.ts_ns[i] > self.now_ns:
                    self.now_ns = c.ts_ns[i]
                if s.kind == SEEN_FLOW:
                    # The guess may be of another, or of one that has gone since.
                    if s.ref == CONN_NONE or not conn_is(self.conns.conns + (s.ref >> 1), s.ref & 1, &s.key):
                        s.ref = self.conns.find(&s.key)
                    if s.ref != CONN_NONE and (self.conns.conns + (s.ref >> 1)).expires_ns <= self.now_ns:
                        self.end(s.ref >> 1)
                        self.expired += 1
                        s.ref = CONN_NONE
                    if likely(s.ref != CONN_NONE):
                        v = self.known(c, s)
                    elif self.dests.dests[c.dest[i]].kind == DEST_GATEWAY:
                        v = self.unknown(c, s)
                    else:
                        continue
                elif s.kind == SEEN_ERROR:
                    v = self.related(c, s)
                else:
                    v = PASS
                self.count(c, i, v)
            first = last

    def process(self, PacketBatch batch not None):
        """Every row that goes to a gateway, or answers a client behind a port: on PASS it is what the other side knows."""
        cdef Columns *c = &batch.c
        batch._require_idle("put the fragments together in")
        with nogil:
            if self.conns.size and c.n:
                self.expire(c.ts_ns[0], EXPIRE_BUDGET)
            self.mesh_rows(c)
        if self.starved:
            raise MemoryError("no room for a datagram of fragments")
        return batch

    def remove_server(self, uint32_t server, int64_t now_ns=0):
        """A real server goes. Its connections wait for it, or with ``forget`` go with it: how many those were. O(connections)."""
        cdef uint32_t number, ended = 0
        self.services.remove_server(server)
        if self.forget:
            for number in range(self.conns.high):
                if self.conns.conns[number].family and self.conns.conns[number].server == server:
                    self.end(number)
                    ended += 1
        return ended

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

    def counters(self):
        """Rows by verdict since the start: ``{Verdict: rows}`` of those that occur."""
        from vxlanfast._ext.verdict import Verdict
        return {Verdict(i): self.counts[i] for i in range(VERDICT_COUNT) if self.counts[i]}
