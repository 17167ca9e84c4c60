"""Connections of virtual services: given to a server, followed, rewritten both ways; and what nobody's server gets, masqueraded.

It takes the rows that Bridge gave a gateway, before Route forwards them, and those that answer a client behind a port of ours.
What the kernel does was seen of one (Linux 6.1); ``exact`` does the same, where without it something better is done and said.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memset

from vxlanfast._ext.batch cimport Columns, PacketBatch, row_at, row_count, row_head
from vxlanfast._ext.node.decided cimport DecidedRows
from vxlanfast._ext.node.defrag cimport defrag_row
from vxlanfast._ext.node.nat cimport NatTuple, ip_ttl, nat_apply, nat_common, nat_has_ports, nat_pass, nat_tuple
from vxlanfast._ext.node.related cimport error_is_whole, error_rewrite
from vxlanfast._ext.node.reply cimport become_error, icmp_allowed, may_report
from vxlanfast._ext.node.reset cimport reset_room, reset_row
from vxlanfast._ext.node.track cimport SECOND_NS, TEMPLATE_PROTO, Track, goes_on
from vxlanfast._ext.node.seen cimport SEEN_ERROR, SEEN_FLOW, SEEN_PART, Seen, look, look_common
from vxlanfast._ext.table.conn cimport (
    CONN_REDIRECT, CONN_RETURN, CONN_TEMPLATE, CONN_MASQ, CONN_NONE, Conn, ConnKey, conn_bucket, conn_guess, conn_is, conn_key,
    key_reverse, port_dst, port_number, port_pair, port_src,
)
from vxlanfast._ext.table.dest cimport DEST_NONE, DEST_PEER, DEST_PORT, Dest, DestTable, dest_is_ours
from vxlanfast._ext.table.fragments cimport FragmentTable
from vxlanfast._ext.table.hash cimport prefetch, table_memory
from vxlanfast._ext.table.match cimport MATCH_NONE, Match
from vxlanfast._ext.table.net cimport (
    NET_GATEWAY4, NET_GATEWAY6, NET_GUARD, NET_INTERNAL, NET_MESH, NET_NONE, NET_OUTBOUND, NET_RETURN, Net, NetTable, route_find,
)
from vxlanfast._ext.table.sctpstate cimport ASSOC_CLOSED
from vxlanfast._ext.table.service cimport (
    REMOVAL_HOLD, REMOVAL_RESCHEDULE, REMOVAL_RESET, SERVER_NONE, SERVICE_HAIRPIN, SERVICE_MASQ, SERVICE_NONE, Server, Service,
    server_carries,
)
from vxlanfast._ext.table.tcpstate cimport TCP_CLOSE, TCP_ESTABLISHED, TCP_SYN_RECV, TCP_TIME_WAIT, tcp_is_active
from vxlanfast._ext.table.wheel cimport wheel_put_off
from vxlanfast._ext.verdict cimport (
    Verdict, PASS, DROP_CONN_FULL, DROP_ENTRY_GONE, DROP_INTERNAL, DROP_PORT_CLOSED, DROP_NO_ROUTE, DROP_NO_SERVER, DROP_PORTS_FULL, DROP_SERVER_GONE, DROP_SOURCE_FULL, DROP_SOURCE_REFUSED, DROP_TTL,
    DROP_UNRELATED, RULE_BALANCED, RULE_MASQUERADED, RULE_NO_SERVER, RULE_RELATED, RULE_RETURNED, RULE_TTL,
    VERDICT_COUNT,
)
from vxlanfast._ext.wire.endian cimport likely, load_be16, load_host32, store_be16
from vxlanfast._ext.wire.eth cimport ETH_HDR_LEN, ETH_OFF_DST, ETH_OFF_SRC
from vxlanfast._ext.wire.icmp cimport ICMP6_DEST_UNREACH, ICMP6_TIME_EXCEEDED, ICMP_DEST_UNREACH, ICMP_TIME_EXCEEDED
from vxlanfast._ext.wire.ipv4 cimport (
    IP_PROTO_SCTP, IP_PROTO_TCP, IP_PROTO_UDP, IPV4_HDR_LEN, IPV4_OFF_DST, IPV4_OFF_TTL, ipv4_age,
)
from vxlanfast._ext.wire.ipv6 cimport IPV6_OFF_DST, IPV6_OFF_HOPS
from vxlanfast._ext.wire.sctp cimport SCTP_HDR_LEN, SCTP_INIT, sctp_chunk, sctp_csum_ok, sctp_set_csum
from vxlanfast._ext.wire.tcp cimport TCP_FLAG_RST, TCP_FLAG_SYN

cdef enum:
    DOMAINS = 65536
    NO_DOMAIN = 0xFFFF
    RESETS_MAX = 1024           # connections that a batch may end with resets
    VECTOR = 32                 # rows of which the cache lines are fetched together
    EXPIRE_BUDGET = 4096        # timers looked at before a batch: a storm of them is spread over many
    UNREACH_PORT = 3            # code of ICMP type 3 (RFC 792) …
    UNREACH6_PORT = 4           # … and of ICMPv6 type 1 (RFC 4443 §3.1)


cdef inline bint same_address(const uint8_t *a, const uint8_t *b, uint32_t n) noexcept nogil:
    return memcmp(a, b, n) == 0


cdef inline uint8_t hops_of(Mesh m, const Conn *e) noexcept nogil:
    """Routers between its client and the network of its servers that are seen in the TTL alone."""
    if e.domain[0] == e.domain[1] or e.server == SERVER_NONE or m.ways[e.domain[0]] == NET_NONE:
        return 0
    return m.nets.nets[m.ways[e.domain[0]]].hops


cdef inline bint known_common(Mesh m, Columns *c, const Seen *s, Conn *e) noexcept nogil:
    """All of ``known`` for the common packet of an open connection, on its way from a gateway to a server or back; False, and
    nothing has changed: ``known`` has to say."""
    cdef uint32_t i = s.row
    cdef bint reverse = s.ref & 1
    cdef uint8_t *ip = c.arena + c.off[i] + ETH_HDR_LEN
    cdef uint16_t domain = e.domain[not reverse]
    cdef Server *d
    if e.server == SERVER_NONE or e.flags & CONN_RETURN or ip[IPV4_OFF_TTL] <= 1 or m.ways[domain] == NET_NONE \
            or not dest_is_ours(m.dests.dests + c.dest[i]):
        return False
    d = m.services.servers + e.server
    if d.removed or d.service == SERVICE_NONE or hops_of(m, e) or not goes_on(
            m, e, reverse, ip + IPV4_HDR_LEN, s.length - IPV4_HDR_LEN, s.flags):
        return False
    d.packets[reverse] += 1
    d.octets[reverse] += s.length
    nat_common(ip, e, reverse, s.proto == IP_PROTO_TCP)
    c.conn[i] = s.ref
    c.rule[i] = RULE_RETURNED if reverse else RULE_BALANCED
    if domain != e.domain[reverse]:
        c.net[i] = m.ways[domain]
        c.vni[i] = m.nets.nets[m.ways[domain]].vni
    return True


cdef class Mesh(Track):
    """Rows to gateways, and answers to clients behind our ports, by the connection they belong to.

    ``services``, ``conns``: its tables. ``exact``: IPVS's own behaviour. ``reuse``, ``forget``, ``sloppy``: its conn_reuse_mode, expire_nodest_conn and sloppy_tcp.
    ``seed``: of the ports that masquerade draws.
    """

    def __cinit__(self, NetTable nets not None, DestTable dests not None, **options):
        cdef uint32_t i
        self.fragments = FragmentTable()
        self.nets = nets
        self.dests = dests
        self.ways = <uint16_t *>table_memory(DOMAINS * sizeof(uint16_t))
        self.gateways = <uint32_t *>table_memory((<uint64_t>nets.size + 1) * sizeof(uint32_t))
        if self.ways == NULL or self.gateways == NULL:
            raise MemoryError(f"no room for the ways of {DOMAINS} domains")
        memset(self.gateways, 0xFF, <uint64_t>nets.size * sizeof(uint32_t))
        for i in range(dests.size):
            if dest_is_ours(dests.dests + i) and dests.dests[i].net < nets.size:
                self.gateways[dests.dests[i].net] = i
        memset(self.ways, 0xFF, DOMAINS * sizeof(uint16_t))
        for i in range(nets.size):
            if self.ways[nets.nets[i].domain] == NET_NONE:
                self.ways[nets.nets[i].domain] = <uint16_t>i

    def __dealloc__(self):
        free(self.ways)
        free(self.gateways)

    cdef int send_resets(self, Columns *c) noexcept nogil:
        """What ``tell`` has noted becomes rows, so many a batch: 0, or -1 for no memory."""
        cdef uint32_t count = self.n_resets if self.n_resets < RESETS_MAX else RESETS_MAX, k, side
        cdef uint16_t net
        cdef const Conn *e
        cdef const Net *n
        if count == 0:
            return 0
        if reset_room(c, 2 * count):
            return -1
        for k in range(count):
            self.n_resets -= 1
            e = self.resets + self.n_resets
            for side in range(2):
                net = self.ways[e.domain[side]]
                if net == NET_NONE or self.gateways[net] == DEST_NONE:
                    continue
                n = self.nets.nets + net
                reset_row(c, e, side == 0, n.router_mac, net, n.vni, self.gateways[net], self.now_ns)
                self.told += 1
        return 0

    # --- rows -------------------------------------------------------------------------------------------

    cdef void rewrite(self, Columns *c, const Seen *s, uint32_t ref) noexcept nogil:
        """The row is the packet as the other side knows it, and goes on in that side's network."""
        cdef uint8_t *ip = c.arena + c.off[s.row] + s.l3
        cdef Conn *e = self.conns.conns + (ref >> 1)
        cdef uint8_t *l4 = ip + s.l4
        cdef NatTuple t
        cdef bint summed
        nat_tuple(&t, e, ref & 1)
        # SCTP's checksum has the ports in it, and none of the addresses; one that was wrong is not made right.
        summed = s.proto == IP_PROTO_SCTP and s.n == s.length and load_host32(l4) != t.ports and s.n - s.l4 >= SCTP_HDR_LEN \
            and sctp_csum_ok(l4, s.n - s.l4)
        nat_apply(ip, s.family, l4, s.n - s.l4, s.proto, &t, True)
        if summed:
            sctp_set_csum(l4, s.n - s.l4)
        nat_pass(ip, s.family, hops_of(self, e))
        c.conn[s.row] = ref

    cdef bint begins_anew(self, const Conn *e, const Seen *s, const uint8_t *l4) noexcept nogil:
        """Whether a client's packet is the first of another connection with the same ports, or its server takes no more of this."""
        cdef const Server *d = self.services.servers + e.server
        cdef bint opens = (s.flags & (TCP_FLAG_SYN | TCP_FLAG_RST) == TCP_FLAG_SYN if e.proto == IP_PROTO_TCP
                           else e.proto == IP_PROTO_SCTP and sctp_chunk(l4, s.n - s.l4) == SCTP_INIT)
        cdef bint over = (e.state == TCP_TIME_WAIT or e.state == TCP_CLOSE if e.proto == IP_PROTO_TCP
                          else e.proto == IP_PROTO_SCTP and e.state == ASSOC_CLOSED)
        if opens and self.reuse and over:
            return True
        if self.exact:
            return opens and self.forget and d.weight == 0
        if d.removed:
            # A datagram does not wait for a server that is gone.
            return d.removal != REMOVAL_HOLD and (d.removal == REMOVAL_RESCHEDULE or opens or e.proto == IP_PROTO_UDP)
        return opens and d.weight == 0 and e.proto == IP_PROTO_TCP and e.state != TCP_ESTABLISHED and e.state != TCP_SYN_RECV

    cdef Verdict known(self, Columns *c, Seen *s) noexcept nogil:
        """A packet of a connection."""
        cdef uint32_t i = s.row, ref = s.ref, number = ref >> 1
        cdef bint reverse = ref & 1
        cdef Conn *e = self.conns.conns + number
        cdef uint8_t *ip = c.arena + c.off[i] + s.l3
        cdef bint routed = dest_is_ours(self.dests.dests + c.dest[i])
        cdef uint8_t ttl
        cdef Server *d
        cdef Net *net
        if self.ways[e.domain[not reverse]] == NET_NONE:
            return DROP_NO_ROUTE  # the networks on its other side are gone
        if e.flags & CONN_RETURN:
            self.advance(e, number, reverse, s, ip + s.l4)
            return self.sent_back(c, s, e) if reverse else self.came_by(c, s, e)
        if e.server != SERVER_NONE and not reverse:
            d = self.services.servers + e.server
            if self.begins_anew(e, s, ip + s.l4):
                self.end(number)
                return self.unknown(c, s)
            if d.removed and (self.exact or d.removal == REMOVAL_HOLD):
                return DROP_SERVER_GONE
        if e.server != SERVER_NONE:
            server_carries(self.services, e.server, reverse, s.length, self.exact)
        self.advance(e, number, reverse, s, ip + s.l4)
        ttl = ip_ttl(ip, s.family)
        if routed and not reverse and ttl <= 1 + hops_of(self, e):
            # From the address that the client knows, before anything is rewritten; by way of the routers before.
            net = self.nets.nets + c.net[i]
            nat_pass(ip, s.family, ttl)
            if may_report(c.arena + c.off[i], ip, s.n) and icmp_allowed(net, c.ts_ns[i]) and become_error(
                    c, i, net, s.l3, s.n, ICMP_TIME_EXCEEDED if s.family == 4 else ICMP6_TIME_EXCEEDED, 0, 0, RULE_TTL,
                    ip + (IPV4_OFF_DST if s.family == 4 else IPV6_OFF_DST)):
                if ttl > 1:
                    nat_pass(row_head(c, i) + s.l3, s.family, ttl - 1)
                self.errors += 1
                return PASS
            return DROP_TTL
        self.rewrite(c, s, ref)
        if reverse:
            c.rule[i] = RULE_RETURNED
            if not routed and not e.flags & CONN_REDIRECT:
                # It went to its client by itself: from now on it is of the address that the client called, and its MAC.
                memcpy(c.arena + c.off[i] + ETH_OFF_SRC, self.nets.nets[c.net[i]].gateway_mac, 6)
            self.leave(c, i, e.domain[0], e.domain[1])
        else:
            c.rule[i] = RULE_BALANCED if e.server != SERVER_NONE else RULE_MASQUERADED
            self.leave(c, i, e.domain[1], e.domain[0])
        return PASS

    cdef Verdict came_by(self, Columns *c, const Seen *s, Conn *e) noexcept nogil:
        """From outside the domain to a port of ours: its answers go to the VTEP that it came by, and that may be another now."""
        e.via = c.origin[s.row]
        memcpy(e.seq_end, c.arena + c.off[s.row] + ETH_OFF_SRC, 6)  # the router's MAC; nobody follows numbers here
        return PASS

    cdef Verdict sent_back(self, Columns *c, const Seen *s, const Conn *e) noexcept nogil:
        """The answer of a task to a client that its node does not know: to the node where the client came in."""
        cdef uint32_t i = s.row
        cdef uint8_t *frame = c.arena + c.off[i]
        cdef uint8_t *ip = frame + s.l3
        if e.via == CONN_NONE:
            return DROP_ENTRY_GONE
        if ip[IPV4_OFF_TTL if s.family == 4 else IPV6_OFF_HOPS] <= 1:
            return DROP_TTL
        if s.family == 4:
            ipv4_age(ip)
        else:
            ip[IPV6_OFF_HOPS] -= 1
        memcpy(frame + ETH_OFF_DST, e.seq_end, 6)
        memcpy(frame + ETH_OFF_SRC, self.nets.nets[c.net[i]].router_mac, 6)
        c.dest[i] = e.via
        c.conn[i] = CONN_NONE  # nothing was rewritten
        c.rule[i] = RULE_RETURNED
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

    cdef bint may_begin(self, const Seen *s, const uint8_t *l4) noexcept nogil:
        """Whether a packet is one that connections begin with."""
        if s.proto == IP_PROTO_TCP:
            return not s.flags & TCP_FLAG_RST and (s.flags & TCP_FLAG_SYN or self.sloppy)
        if s.proto == IP_PROTO_SCTP:
            return sctp_chunk(l4, s.n - s.l4) == SCTP_INIT or self.sloppy
        return True

    cdef Verdict unknown(self, Columns *c, Seen *s) noexcept nogil:
        """A packet of no connection: the first of one, if it is for a service; else it is not ours, or on its way out."""
        cdef uint8_t addr[16]
        cdef uint8_t client[16]
        cdef uint8_t target[32]
        cdef uint32_t size = 4 if s.family == 4 else 16, at = MATCH_NONE, server, number, template = CONN_NONE
        cdef uint16_t dport = port_dst(s.key.ports), sport = port_src(s.key.ports)
        cdef const uint8_t *l4 = c.arena + c.off[s.row] + s.l3 + s.l4
        cdef ConnKey reverse
        cdef const Match *m
        cdef Service *v
        cdef Server *d
        cdef Conn *e
        cdef bint masq
        if not self.may_begin(s, l4):
            return PASS
        memset(addr, 0, 16)
        memset(client, 0, 16)
        memcpy(client, s.key.addrs, size)
        memcpy(addr, s.key.addrs + size, size)
        if nat_has_ports(s.proto):  # a ping to a service's address is the gateway's to answer
            at = self.services.matches.find(s.key.domain, s.family, s.proto, addr, port_number(dport))
        if at == MATCH_NONE:
            return self.outward(c, s, addr)
        m = self.services.matches.matches + at
        if not self.services.matches.lets_in(m, client):
            return DROP_SOURCE_REFUSED
        v = self.services.services + m.service
        if v.out_domain != s.key.domain and (self.ways[v.out_domain] == NET_NONE or (
                self.nets.nets[c.net[s.row]].flags | self.nets.nets[self.ways[v.out_domain]].flags) & NET_INTERNAL):
            return DROP_INTERNAL
        if self.conns.source_full(&s.key):
            return DROP_SOURCE_FULL
        self.held = False
        if v.persist_s:
            server = self.favourite(v, m, s, client, addr, &template)
        else:
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
        dport = self.behind(v, s, d.addr, dport)
        conn_key(&reverse, target, target + size, port_pair(dport, sport), v.out_domain, s.proto, s.family,
                 self.conns.seed)
        if not self.pick_port(&reverse):
            v.refused += 1
            return DROP_PORTS_FULL
        number = self.begin(s, &reverse, (CONN_MASQ if masq or port_dst(reverse.ports) != sport else 0)
                            | (0 if dest_is_ours(self.dests.dests + c.dest[s.row]) else CONN_REDIRECT))
        if number == CONN_NONE:
            return DROP_CONN_FULL
        e = self.conns.conns + number
        e.server = server
        self.services.bind(server, False)
        if template != CONN_NONE and (self.conns.conns + template).flags & CONN_TEMPLATE:
            e.via = template
            (self.conns.conns + template).via += 1
        return self.known(c, s)

    cdef uint16_t behind(self, const Service *v, const Seen *s, const uint8_t *addr, uint16_t dport) noexcept nogil:
        """The port that a server's becomes where it is behind a port of ours and its network is guarded (see ``arriving``)."""
        cdef uint32_t at
        cdef const Match *m
        if self.ways[v.out_domain] == NET_NONE or not self.nets.nets[self.ways[v.out_domain]].flags & NET_GUARD:
            return dport
        at = self.services.matches.find(v.out_domain, s.family, s.proto, addr, port_number(dport))
        if at != MATCH_NONE:
            m = self.services.matches.matches + at
            if m.target:
                store_be16(<uint8_t *>&dport, m.target + port_number(dport) - m.port)
        return dport

    cdef uint32_t favourite(self, const Service *v, const Match *m, const Seen *s, const uint8_t *client, const uint8_t *addr,
                            uint32_t *template) noexcept nogil:
        """The server that a client, or its prefix, has been given before, for as long as that holds; else one is chosen, and held."""
        cdef uint8_t prefix[16]
        cdef uint32_t size = 4 if s.family == 4 else 16, k, bits, number, server
        cdef uint16_t vport = 0
        cdef ConnKey forward, reverse
        cdef const Server *d
        cdef Conn *e
        memset(prefix, 0, 16)
        for k in range(size):
            bits = v.persist_len - 8 * k if v.persist_len > 8 * k else 0
            prefix[k] = client[k] & (0xFF if bits >= 8 else <uint8_t>(0xFF00 >> bits))
        if m.port and m.port == m.last:
            store_be16(<uint8_t *>&vport, m.port)
        conn_key(&forward, prefix, addr, port_pair(0, vport), s.key.domain, s.proto ^ TEMPLATE_PROTO, s.family, self.conns.seed)
        number = self.conns.find(&forward)
        if number != CONN_NONE:
            number >>= 1
            e = self.conns.conns + number
            d = self.services.servers + e.server
            if (e.expires_ns > self.now_ns or e.via) and not d.removed and d.family and d.service == m.service                     and (d.weight > 0 or (self.exact and not self.forget)):
                if e.expires_ns < self.now_ns + <int64_t>v.persist_s * SECOND_NS:
                    wheel_put_off(self.conns.wheel, number, self.now_ns + <int64_t>v.persist_s * SECOND_NS)
                template[0] = number
                self.held = True
                return e.server
        server = self.services.choose(m.service, client, port_number(port_src(s.key.ports)), addr, port_number(port_dst(s.key.ports)))
        if server == SERVER_NONE:
            return server
        if number == CONN_NONE:
            if not self.make_room():
                return server  # for this once
            # Nobody sends from that domain: the entry is found by its client alone.
            conn_key(&reverse, prefix, addr, port_pair(0, vport), NO_DOMAIN, s.proto ^ TEMPLATE_PROTO, s.family, self.conns.seed)
            number = self.conns.open(&forward, &reverse, self.now_ns, <int64_t>v.persist_s * SECOND_NS)
            if number == CONN_NONE:
                return server
            (self.conns.conns + number).via = 0
            (self.conns.conns + number).flags = CONN_TEMPLATE
            self.conns.enlist(number, False)
        e = self.conns.conns + number
        e.server = server
        self.conns.wheel.start(number, self.now_ns + <int64_t>v.persist_s * SECOND_NS, self.now_ns)
        template[0] = number
        return server

    cdef Verdict outward(self, Columns *c, Seen *s, const uint8_t *addr) noexcept nogil:
        """To nobody's service: into the rest of the world, if that is where it is, and the network reaches it."""
        cdef uint32_t size = 4 if s.family == 4 else 16, number
        cdef const Net *net = self.nets.nets + c.net[s.row]
        cdef const Net *out
        cdef const uint8_t *masq
        cdef ConnKey reverse
        if not net.flags & NET_OUTBOUND or route_find(self.nets, net, s.family, addr) != NULL:
            return PASS
        if not nat_has_ports(s.proto) and port_dst(s.key.ports) != 0:
            return PASS  # an echo reply that nobody asked for
        out = self.nets.nets + net.out_net
        if not out.flags & (NET_GATEWAY4 if s.family == 4 else NET_GATEWAY6):
            return PASS
        masq = <const uint8_t *>out.gateway6
        if s.family == 4:
            masq = <const uint8_t *>out.gateway4
        if same_address(masq, addr, size):
            return PASS
        if self.conns.source_full(&s.key):
            return DROP_SOURCE_FULL
        if not self.make_room():
            return DROP_CONN_FULL
        conn_key(&reverse, addr, masq, port_pair(port_dst(s.key.ports), port_src(s.key.ports)), out.domain, s.proto, s.family,
                 self.conns.seed)
        if not self.pick_port(&reverse):
            return DROP_PORTS_FULL
        number = self.begin(s, &reverse, CONN_MASQ)
        if number == CONN_NONE:
            return DROP_CONN_FULL
        return self.known(c, s)

    cdef bint guarded(self, const Columns *c, const Seen *s) noexcept nogil:
        """Whether it comes from a port of a network in which those behind ports answer, and begin nothing."""
        cdef const Dest *d = self.dests.dests + c.origin[s.row]
        return d.kind == DEST_PORT and self.nets.nets[d.net].flags & NET_GUARD and nat_has_ports(s.proto)

    cdef Verdict arriving(self, Columns *c, Seen *s) noexcept nogil:
        """A packet of no connection on its way to a port of ours: of a flow whose answers go back, or to a port that is translated
        there, or is closed."""
        cdef uint8_t addr[16]
        cdef uint32_t size = 4 if s.family == 4 else 16, at, number
        cdef const Net *net = self.nets.nets + c.net[s.row]
        cdef const uint8_t *l4 = c.arena + c.off[s.row] + s.l3 + s.l4
        cdef uint16_t dport
        cdef ConnKey reverse
        memset(addr, 0, 16)
        if net.flags & NET_GUARD and nat_has_ports(s.proto):
            memcpy(addr, s.key.addrs + size, size)
            dport = port_number(port_dst(s.key.ports))
            at = self.services.matches.find(s.key.domain, s.family, s.proto, addr, dport)
            return DROP_PORT_CLOSED if at == MATCH_NONE else self.unknown(c, s)
        if not net.flags & NET_RETURN or self.dests.dests[c.origin[s.row]].kind != DEST_PEER:
            return PASS
        memcpy(addr, s.key.addrs, size)
        if route_find(self.nets, net, s.family, addr) != NULL or not self.may_begin(s, l4):
            return PASS
        key_reverse(&reverse, &s.key, self.conns.seed)
        if self.conns.find(&reverse) != CONN_NONE:
            return PASS
        if self.conns.source_full(&s.key):
            return DROP_SOURCE_FULL
        if not self.make_room():
            return DROP_CONN_FULL
        self.conns.returns = True
        number = self.begin(s, &reverse, CONN_RETURN)
        if number == CONN_NONE:
            return DROP_CONN_FULL
        return self.known(c, s)

    cdef Verdict related(self, Columns *c, Seen *s) noexcept nogil:
        """An ICMP error about a packet of a connection: rewritten outside and inside as that packet was, the other way."""
        cdef uint32_t i = s.row, ref = self.conns.find(&s.key)
        cdef uint8_t *ip = c.arena + c.off[i] + s.l3
        cdef Conn *e
        cdef bint reverse
        if ref == CONN_NONE or (self.conns.conns + (ref >> 1)).expires_ns <= self.now_ns:
            return PASS  # no connection's: Route sends it on, or drops what is for the gateway
        s.ref = ref
        e = self.conns.conns + (ref >> 1)
        reverse = ref & 1
        if self.ways[e.domain[not reverse]] == NET_NONE:
            return DROP_NO_ROUTE
        if e.flags & CONN_RETURN:
            return self.sent_back(c, s, e) if reverse else PASS
        if not error_is_whole(ip, s):
            return DROP_UNRELATED
        if e.server != SERVER_NONE:
            server_carries(self.services, e.server, reverse, s.length, self.exact)
        error_rewrite(ip, s, e, reverse, self.exact)
        nat_pass(ip, s.family, hops_of(self, e))
        c.conn[i] = CONN_NONE
        c.rule[i] = RULE_RELATED
        self.leave(c, i, e.domain[not reverse], e.domain[reverse])
        return PASS

    cdef void count(self, Columns *c, uint32_t i, Verdict v) noexcept nogil:
        """What became of row ``i``."""
        cdef Dest *d
        self.counts[<uint8_t>v] += 1
        if v != PASS:
            c.verdict[i] = v
            d = self.dests.dests + c.origin[i]
            d.drops += 1

    cdef uint32_t gather(self, Columns *c, uint32_t first, uint32_t last, Seen *seen) noexcept nogil:
        """What those of the rows are, in leaving order, that the mesh has to do with: how many. Their buckets are on their way."""
        cdef uint32_t k, i, n = 0
        cdef const Net *net
        cdef const Dest *d
        cdef Seen *s
        cdef Verdict v
        for k in range(first, last):
            i = row_at(c, k)
            if c.verdict[i] != PASS:
                continue
            d = self.dests.dests + c.dest[i]
            net = self.nets.nets + c.net[i]
            if not dest_is_ours(d) and not (net.flags & NET_MESH and (
                    d.kind == DEST_PORT or self.dests.dests[c.origin[i]].kind == DEST_PORT)):
                continue
            s = seen + n
            if likely(look_common(c, i, net.domain, self.conns.seed, s)):
                prefetch(self.conns.buckets + conn_bucket(self.conns, s.key.hash))
                n += 1
                continue
            if not look(c, i, net.domain, self.conns.seed, s):
                continue
            if s.kind == SEEN_PART:
                if not net.flags & NET_MESH:
                    continue
                v = defrag_row(c, i, &s.l3, self.fragments, &self.starved)
                if v != PASS:
                    self.count(c, i, v)
                    continue
                if not look(c, i, net.domain, self.conns.seed, s) or s.kind == SEEN_PART:
                    continue
            if s.kind == SEEN_FLOW:
                prefetch(self.conns.buckets + conn_bucket(self.conns, s.key.hash))
            n += 1
        return n

    cdef void settle(self, Columns *c, Seen *seen, uint32_t n) noexcept nogil:
        """What becomes of rows that were gathered, whose entries are on their way."""
        cdef uint32_t k, i
        cdef uint64_t opened
        cdef Conn *e
        cdef Seen *s
        cdef Verdict v
        for k in range(n):
            s = seen + k
            i = s.row
            opened = self.opened
            if c.ts_ns[i] > self.now_ns:
                self.now_ns = c.ts_ns[i]
            if s.kind == SEEN_FLOW:
                # The guess may be of another, or of one that has gone since.
                if not likely(s.ref != CONN_NONE and conn_is(self.conns.conns + (s.ref >> 1), s.ref & 1, &s.key)):
                    s.ref = self.conns.find(&s.key)
                e = self.conns.conns + (s.ref >> 1)
                if s.ref != CONN_NONE and e.expires_ns <= self.now_ns:
                    self.overdue(s.ref >> 1, self.now_ns)
                    s.ref = CONN_NONE
                if likely(s.ref != CONN_NONE):
                    if likely(s.common and known_common(self, c, s, e)):
                        self.counts[<int>PASS] += 1
                        continue
                    v = self.known(c, s)
                elif self.guarded(c, s):
                    v = DROP_PORT_CLOSED
                elif dest_is_ours(self.dests.dests + c.dest[i]):
                    if self.dests.dests[c.origin[i]].kind == DEST_PEER:
                        continue  # Route refuses it
                    v = self.unknown(c, s)
                elif self.dests.dests[c.dest[i]].kind == DEST_PORT and self.nets.nets[c.net[i]].flags & (NET_GUARD | NET_RETURN):
                    v = self.arriving(c, s)
                else:
                    continue
            elif s.kind == SEEN_ERROR:
                v = self.related(c, s)
            else:
                v = PASS
            self.count(c, i, v)
            if self.explains:
                self.rows.add(s, self.conns, self.services, self.opened != opened, self.held)

    cdef void mesh_rows(self, Columns *c) noexcept nogil:
        """Every row in leaving order, a vector of them at a time: keys first, then buckets, then entries. While one vector's entries
        come from memory, the next one's packets are looked at; while those are dealt with, its buckets come."""
        cdef Seen seen[2][VECTOR]
        cdef uint32_t first = 0, end = row_count(c), last, k, n = 0, following, turn = 0
        cdef Seen *s
        while first < end or n:
            last = first + VECTOR if end - first > VECTOR else end
            following = self.gather(c, first, last, seen[1 - turn])
            first = last
            self.settle(c, seen[turn], n)
            turn = 1 - turn
            n = following
            for k in range(n):
                s = &seen[turn][k]
                if s.kind == SEEN_FLOW:
                    s.ref = conn_guess(self.conns, s.key.hash)
                    if s.ref != CONN_NONE:
                        prefetch(self.conns.conns + (s.ref >> 1))

    def process(self, PacketBatch batch not None):
        """Every row that goes to a gateway, or answers a client behind a port: on PASS it is what the other side knows."""
        cdef Columns *c = &batch.c
        batch._require_idle("put the fragments together in")
        self.rows = DecidedRows(row_count(c)) if self.explains else None
        with nogil:
            if self.conns.size and c.n:
                self.expire(c.ts_ns[0], EXPIRE_BUDGET)
            self.mesh_rows(c)
            if self.send_resets(c):
                self.starved = True
        if self.starved:
            raise MemoryError("no room for a datagram of fragments")
        return batch

    def decided(self):
        """What was decided of the rows of the last batch, if it ``explains``: see DecidedRows."""
        return {} if self.rows is None else self.rows.decisions()

    def remove_server(self, uint32_t server, int64_t now_ns=0):
        """A real server goes. Its connections stay, or are reset or go with it, as its service's ``removal`` and ``forget`` say:
        how many went. O(connections) where they do."""
        cdef uint32_t number, ended = 0
        cdef Conn *e
        cdef bint tells
        self.services.remove_server(server)
        tells = not self.exact and self.services.servers[server].removal == REMOVAL_RESET
        if self.forget or tells:
            for number in range(self.conns.high):
                e = self.conns.conns + number
                if e.family and e.server == server and not e.flags & CONN_TEMPLATE:
                    if tells and e.proto == IP_PROTO_TCP and tcp_is_active(e.state):
                        self.tell(number)
                    self.end(number)
                    ended += 1
        return ended

    def take_over(self, Mesh other not None):
        """Go on where another node ends, whose tables these are: its time, what it has yet to tell, and, where networks have the
        same numbers, the fragments that it holds. ``other`` is of no use from then on."""
        cdef uint32_t i
        free(self.resets)
        self.resets, self.n_resets, self.cap_resets = other.resets, other.n_resets, other.cap_resets
        other.resets = NULL
        other.n_resets = other.cap_resets = 0
        self.now_ns = other.now_ns
        if self.nets.size == other.nets.size:
            for i in range(self.nets.size):
                if self.nets.nets[i].vni != other.nets.nets[i].vni:
                    return
            self.fragments = other.fragments

    def move_returns(self, uint32_t[::1] dests not None):
        """Destinations have other numbers from now on: by the old one the new one, 0xFFFFFFFF where there is none any more.
        O(connections) where some come from outside their domain."""
        cdef uint32_t number
        cdef Conn *e
        with nogil:
            for number in range(self.conns.high if self.conns.returns else 0):
                e = self.conns.conns + number
                if e.family and e.flags & CONN_RETURN and e.via != CONN_NONE:
                    e.via = dests[e.via] if e.via < <uint32_t>dests.shape[0] else <uint32_t>CONN_NONE

    def counters(self):
        """Rows by verdict since the start: ``{Verdict: rows}`` of those that occur."""
        from vxlanfast._ext.verdict import Verdict
        return {Verdict(i): self.counts[i] for i in range(VERDICT_COUNT) if self.counts[i]}
