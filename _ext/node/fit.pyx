"""Frames that do not fit the tunnel: told to their sender, fragmented, or kept from coming about (TCP's MSS).

What fits is known per peer: the MTU of the underlay less the outer headers. A VTEP must not fragment its own packets (RFC 7348
§4.3), and a sender that is told nothing sees large packets vanish while small ones pass: so IPv6, and IPv4 with DF, get an
ICMP error with the MTU (RFC 1191 §4, RFC 8201 §3), as the kernel's ``skb_tunnel_check_pmtu`` sends it, and IPv4 without DF
is fragmented inside, as a router would. What came in fragments leaves in fragments no longer than they were (``cut``).
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from vxlanfast._ext.batch cimport (
    BATCH_HEAD_LEN, Columns, PacketBatch, batch_grow_arena, batch_grow_rows, row_at, row_copy, row_count, row_head,
)
from vxlanfast._ext.node.cut cimport CUT_NEVER, CUT_NOT, CUT_PIECES, Cut, CutKind, cut_find, cut_row, cut_size
from vxlanfast._ext.node.longest cimport row_longest
from vxlanfast._ext.node.reply cimport become_error, icmp_allowed, may_report
from vxlanfast._ext.table.dest cimport DEST_PEER, Dest, DestTable
from vxlanfast._ext.table.hash cimport hash_u64
from vxlanfast._ext.table.net cimport NET_MSS, Net, NetTable
from vxlanfast._ext.verdict cimport (
    Verdict, PASS, DROP_OVER_MTU, RULE_BROADCAST, RULE_FRAGMENTED, RULE_RECUT, RULE_REPORT, RULE_TOO_BIG, VERDICT_COUNT,
)
from vxlanfast._ext.wire.csum cimport csum_finish, csum_short
from vxlanfast._ext.wire.endian cimport load_be16, store_be16
from vxlanfast._ext.wire.eth cimport ETH_HDR_LEN, ETH_OFF_TYPE, ETH_TYPE_IPV4, ETH_TYPE_IPV6, eth_skip_tags
from vxlanfast._ext.wire.flow cimport FLOW_B
from vxlanfast._ext.wire.icmp cimport ICMP6_PACKET_TOO_BIG, ICMP_DEST_UNREACH
from vxlanfast._ext.wire.ipv4 cimport (
    IP_PROTO_TCP, IPV4_DF, IPV4_FRAG_MASK, IPV4_HDR_LEN, IPV4_MF, IPV4_OFF_CSUM, IPV4_OFF_FRAG, IPV4_OFF_PROTO,
    IPV4_OFF_TOTAL_LEN, ipv4_check, ipv4_frag, ipv4_hdr_len, ipv4_total_len,
)
from vxlanfast._ext.wire.ipv6 cimport IPV6_HDR_LEN, ipv6_check, ipv6_find_l4
from vxlanfast._ext.wire.tcp cimport TCP_FLAG_SYN, TCP_HDR_LEN, tcp_check, tcp_clamp_mss, tcp_flags

cdef enum:
    UNREACH_FRAG_NEEDED = 4     # code of ICMP type 3 (RFC 792, RFC 1191 §4)
    MTU_MIN4 = 68               # no IPv4 MTU is less (RFC 791 §3.2), …
    MTU_MIN6 = 1280             # … and no IPv6 one less than this (RFC 8200 §5)


cdef struct Growth:
    uint32_t cut        # rows that become several
    uint32_t rows       # that come to be
    uint64_t size       # bytes of arena they take


cdef class Fit:
    """Rows on their way: none is longer than its tunnel allows, or than its sender's fragments. ``seed``: of identifications."""
    cdef NetTable nets
    cdef DestTable dests
    cdef readonly uint64_t errors       # rows that became ICMP errors
    cdef readonly uint64_t fragmented   # rows that became fragments …
    cdef readonly uint64_t fragments    # … and how many
    cdef readonly uint64_t clamped      # SYNs whose MSS was lowered
    cdef uint64_t counts[VERDICT_COUNT]
    cdef public uint32_t idents         # IPv6 identifications given; a successor goes on with them
    cdef uint64_t seed

    def __cinit__(self, NetTable nets not None, DestTable dests not None, *, uint64_t seed=0):
        self.nets = nets
        self.dests = dests
        self.seed = seed

    cdef uint32_t next_ident(self) noexcept nogil:
        """An IPv6 identification (RFC 8200 §4.5): none comes twice in four thousand million, and they are no row of numbers."""
        cdef uint64_t key = hash_u64(self.seed, FLOW_B)
        cdef uint32_t x = self.idents + <uint32_t>(key >> 32)
        self.idents += 1
        x = (x ^ (x >> 16)) * 0x85EBCA6BU  # each step can be undone: no two numbers become one
        x = (x ^ (x >> 13)) * 0xC2B2AE35U
        return x ^ (x >> 16) ^ <uint32_t>key

    cdef void clamp(self, Columns *c, uint32_t i, uint32_t mtu) noexcept nogil:
        """A SYN promises no more than fits: headers of IP and TCP without options are left of it (RFC 6691)."""
        cdef uint8_t *frame = c.arena + c.off[i]
        cdef uint8_t *ip
        cdef uint16_t ethertype = 0
        cdef uint32_t l3 = 0, l4 = 0, fragment = 0, n = c.len[i], tags
        cdef uint8_t proto
        if c.head_len[i] or eth_skip_tags(frame, n, ETH_OFF_TYPE, &ethertype, &l3) != PASS:
            return
        ip = frame + l3
        n -= l3
        tags = l3 - ETH_HDR_LEN
        if mtu <= tags + IPV6_HDR_LEN + TCP_HDR_LEN:
            return
        if ethertype == ETH_TYPE_IPV4:
            if ipv4_check(ip, n) != PASS or ip[IPV4_OFF_PROTO] != IP_PROTO_TCP or ipv4_frag(ip) & IPV4_FRAG_MASK:
                return
            l4 = ipv4_hdr_len(ip)
            mtu -= tags + IPV4_HDR_LEN + TCP_HDR_LEN
        elif ethertype == ETH_TYPE_IPV6:
            if (ipv6_check(ip, n) != PASS or ipv6_find_l4(ip, n, &proto, &l4, &fragment) != PASS or proto != IP_PROTO_TCP
                    or (fragment and load_be16(ip + fragment + 2) & 0xFFF8)):
                return
            mtu -= tags + IPV6_HDR_LEN + TCP_HDR_LEN
        else:
            return
        if l4 >= n or tcp_check(ip + l4, n - l4) != PASS or not tcp_flags(ip + l4) & TCP_FLAG_SYN:
            return
        self.clamped += tcp_clamp_mss(ip + l4, n - l4, <uint16_t>(mtu if mtu < 0xFFFF else 0xFFFF))

    cdef Verdict too_long(self, Columns *c, uint32_t i, uint32_t mtu, Growth *growth) noexcept nogil:
        """A frame that has more than ``mtu`` bytes behind its Ethernet header, tags counted."""
        cdef const uint8_t *frame = c.arena + c.off[i]
        cdef const uint8_t *ip
        cdef Net *net = self.nets.nets + c.net[i]
        cdef uint16_t ethertype = 0
        cdef uint32_t l3 = 0, n, total, room
        cdef bint is_v4
        if c.head_len[i] or eth_skip_tags(frame, c.len[i], ETH_OFF_TYPE, &ethertype, &l3) != PASS:
            return DROP_OVER_MTU
        ip = frame + l3
        n = c.len[i] - l3
        is_v4 = ethertype == ETH_TYPE_IPV4
        if not ((is_v4 and ipv4_check(ip, n) == PASS) or (ethertype == ETH_TYPE_IPV6 and ipv6_check(ip, n) == PASS)):
            return DROP_OVER_MTU
        if mtu < l3 - ETH_HDR_LEN + MTU_MIN4:
            return DROP_OVER_MTU
        mtu -= l3 - ETH_HDR_LEN
        if is_v4 and not ipv4_frag(ip) & IPV4_DF:
            if c.gso[i]:
                return DROP_OVER_MTU  # its sender was told what fits, and cut it for more
            total = ipv4_total_len(ip)
            if ipv4_hdr_len(ip) != IPV4_HDR_LEN or total <= mtu or total > c.wire_len[i] - l3 \
                    or l3 + IPV4_HDR_LEN > BATCH_HEAD_LEN:
                return DROP_OVER_MTU
            room = (mtu - IPV4_HDR_LEN) & ~<uint32_t>7
            growth.cut += 1
            growth.rows += (total - IPV4_HDR_LEN + room - 1) // room - 1
            c.rule[i] = RULE_FRAGMENTED
            return PASS
        # Of a flooded frame nobody in particular is to be told; a copy that fits its way has gone it.
        if RULE_BROADCAST <= c.rule[i] <= RULE_REPORT or (not is_v4 and mtu < MTU_MIN6):
            return DROP_OVER_MTU
        if not may_report(frame, ip, n) or not icmp_allowed(net, c.ts_ns[i]):
            return DROP_OVER_MTU
        if not become_error(c, i, net, l3, n, ICMP_DEST_UNREACH if is_v4 else ICMP6_PACKET_TOO_BIG,
                            UNREACH_FRAG_NEEDED if is_v4 else 0, mtu, RULE_TOO_BIG):
            return DROP_OVER_MTU
        self.errors += 1
        return PASS

    cdef Verdict again(self, Columns *c, uint32_t i, const Cut *cut, CutKind kind, Growth *growth) noexcept nogil:
        """A packet longer than the fragments it came in."""
        if kind == CUT_NEVER:
            return DROP_OVER_MTU
        growth.cut += 1
        growth.rows += cut.pieces - 1
        growth.size += cut_size(cut)
        c.rule[i] = RULE_RECUT
        return PASS

    cdef void fit_rows(self, Columns *c, Growth *growth) noexcept nogil:
        """Every row; ``growth``: what fragmentation adds."""
        cdef uint32_t k, i, mtu
        cdef CutKind kind
        cdef Cut cut
        cdef Dest *d
        cdef Verdict v
        for k in range(row_count(c)):
            i = row_at(c, k)
            if c.verdict[i] != PASS:
                continue
            d = self.dests.dests + c.dest[i]
            mtu = d.mtu
            if self.nets.nets[c.net[i]].flags & NET_MSS:
                if mtu == 0:
                    mtu = self.dests.dests[c.origin[i]].mtu
                if mtu:
                    self.clamp(c, i, mtu)
            kind = cut_find(c, i, d.mtu, &cut) if c.cut[i] else CUT_NOT
            if kind == CUT_NOT and (d.mtu == 0 or row_longest(c, i) <= d.mtu + ETH_HDR_LEN):
                continue
            v = self.too_long(c, i, d.mtu, growth) if kind == CUT_NOT else self.again(c, i, &cut, kind, growth)
            self.counts[<uint8_t>v] += 1
            if v != PASS:
                c.verdict[i] = v
                d.tx_drops += 1

    cdef void fragment_row(self, Columns *c, uint32_t i, uint32_t mtu, uint32_t *order, uint32_t *used) noexcept nogil:
        """Row ``i`` becomes its fragments, sharing its body, each behind the other in ``order``."""
        cdef const uint8_t *frame = c.arena + c.off[i]
        cdef uint16_t ethertype = 0, frag
        cdef uint32_t l3 = 0, body_off, body_len, payload, room, at = 0, size, row = i, first, last
        cdef uint8_t *p
        cdef uint8_t *ip
        eth_skip_tags(frame, c.len[i], ETH_OFF_TYPE, &ethertype, &l3)
        frag = ipv4_frag(frame + l3)
        payload = ipv4_total_len(frame + l3) - IPV4_HDR_LEN
        room = (mtu - (l3 - ETH_HDR_LEN) - IPV4_HDR_LEN) & ~<uint32_t>7
        body_off = c.off[i] + l3 + IPV4_HDR_LEN
        body_len = c.len[i] - l3 - IPV4_HDR_LEN
        while at < payload:
            if at:
                row = c.n
                c.n += 1
                row_copy(c, i, row)
                order[used[0]] = row
                used[0] += 1
            size = room if at + room < payload else payload - at
            c.head_len[row] = <uint8_t>(l3 + IPV4_HDR_LEN)
            p = row_head(c, row)
            memcpy(p, frame, l3 + IPV4_HDR_LEN)
            ip = p + l3
            store_be16(ip + IPV4_OFF_TOTAL_LEN, <uint16_t>(size + IPV4_HDR_LEN))
            store_be16(ip + IPV4_OFF_FRAG,
                       <uint16_t>((frag & IPV4_MF if at + size == payload else IPV4_MF) | ((frag + (at >> 3)) & IPV4_FRAG_MASK)))
            store_be16(ip + IPV4_OFF_CSUM, 0)
            store_be16(ip + IPV4_OFF_CSUM, csum_finish(csum_short(ip, IPV4_HDR_LEN)))
            # A frame cut by a snaplen runs out before its length does.
            first = at if at < body_len else body_len
            last = at + size if at + size < body_len else body_len
            c.off[row] = body_off + first
            c.len[row] = last - first
            c.wire_len[row] = l3 + IPV4_HDR_LEN + size
            self.fragments += 1
            at += size
        self.fragmented += 1

    cdef int fragment_rows(self, Columns *c, const Growth *growth) noexcept nogil:
        """0, or -1 for no memory."""
        cdef uint32_t before = row_count(c), used = 0, k, i
        cdef Cut cut
        cdef Dest *d
        cdef uint32_t *order
        if batch_grow_rows(c, c.n + growth.rows) or (growth.size and batch_grow_arena(c, c.arena_len + growth.size)):
            return -1
        order = <uint32_t *>malloc(<uint64_t>(before + growth.rows) * sizeof(uint32_t))
        if order == NULL:
            return -1
        for k in range(before):
            i = row_at(c, k)
            order[used] = i
            used += 1
            if c.verdict[i] != PASS:
                continue
            d = self.dests.dests + c.dest[i]
            if c.rule[i] == RULE_FRAGMENTED:
                self.fragment_row(c, i, d.mtu, order, &used)
            elif c.rule[i] == RULE_RECUT and cut_find(c, i, d.mtu, &cut) == CUT_PIECES:
                cut_row(c, i, &cut, self.next_ident() if cut.ext_len else 0, order, &used)
                self.fragmented += 1
                self.fragments += cut.pieces
        memcpy(c.order, order, <uint64_t>used * sizeof(uint32_t))
        free(order)
        c.n_order = used
        c.ordered = True
        return 0

    def process(self, PacketBatch batch not None):
        """Every row with a destination. Rows may be added: BufferError while a view of the batch is alive."""
        cdef Growth growth
        cdef int failed = 0
        growth.cut = growth.rows = 0
        growth.size = 0
        batch._require_idle("fragment the packets of")
        with nogil:
            self.fit_rows(&batch.c, &growth)
            if growth.cut:
                failed = self.fragment_rows(&batch.c, &growth)
        if failed:
            raise MemoryError(f"no room for {growth.rows} fragments more")
        return batch

    def counters(self):
        """Rows over the MTU, or cut as they came, by verdict since the start: ``{Verdict: rows}`` of those that occur."""
        from vxlanfast._ext.verdict import Verdict
        return {Verdict(i): self.counts[i] for i in range(VERDICT_COUNT) if self.counts[i]}
