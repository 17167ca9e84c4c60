"""Encapsulation of a batch: writes the outer headers into each row's head slot, moves no body."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from vxlanfast._ext.batch cimport (
    BATCH_HEAD_LEN, Columns, PacketBatch, batch_grow_rows, row_at, row_body, row_copy, row_count, row_head, rows_alike,
)
from vxlanfast._ext.verdict cimport (
    Verdict, PASS, DROP_INNER_RUNT, DROP_MTU, DROP_NO_HEADROOM, DROP_NOT_ETHERNET, DROP_TOO_LONG, VERDICT_COUNT,
)
from vxlanfast._ext.wire.csum cimport csum, csum_finish, csum_fold, csum_finish_udp, csum_short, csum_word
from vxlanfast._ext.wire.ecn cimport ECN_MASK, ecn_encap
from vxlanfast._ext.wire.endian cimport load_be16, load_be32, load_be64, likely, store_be16, store_be32
from vxlanfast._ext.wire.eth cimport ETH_HDR_LEN, ETH_TYPE_IPV4, ETH_TYPE_IPV6, eth_find_l3, eth_write
from vxlanfast._ext.wire.flow cimport flow_hash_any, flow_key, flow_sport
from vxlanfast._ext.wire.ipv4 cimport (
    IP_PROTO_FRAGMENT, IP_PROTO_UDP, IPV4_DF, IPV4_HDR_LEN, IPV4_MF, IPV4_OFF_CSUM, IPV4_OFF_FRAG, IPV4_OFF_ID,
    IPV4_OFF_TOS, IPV4_OFF_TOTAL_LEN, ipv4_write,
)
from vxlanfast._ext.wire.ipv6 cimport (
    IPV6_FRAG_HDR_LEN, IPV6_HDR_LEN, IPV6_OFF_DST, IPV6_OFF_NEXT, IPV6_OFF_PAYLOAD_LEN, IPV6_OFF_SRC,
    ipv6_traffic_class, ipv6_write,
)
from vxlanfast._ext.wire.link cimport LINK_ETHERNET
from vxlanfast._ext.wire.udp cimport UDP_HDR_LEN, UDP_OFF_CSUM, UDP_OFF_LEN, UDP_OFF_SRC, udp_write
from vxlanfast._ext.wire.vxlan cimport VXLAN_HDR_LEN, VXLAN_VNI_MAX, vxlan_write

cdef enum:
    PAYLOAD_HDR_LEN = UDP_HDR_LEN + VXLAN_HDR_LEN


cdef inline uint8_t inner_tos(const uint8_t *p, uint32_t n) noexcept nogil:
    """TOS byte or traffic class of the inner packet, through tags; 0 where it is not IP."""
    cdef uint16_t ethertype = 0
    cdef uint32_t l3 = 0
    if likely(n >= 16 and load_be16(p + 12) == ETH_TYPE_IPV4):
        return p[15]
    if eth_find_l3(p, n, &ethertype, &l3) != PASS or n < l3 + 2:
        return 0
    if ethertype == ETH_TYPE_IPV4:
        return p[l3 + IPV4_OFF_TOS]
    if ethertype == ETH_TYPE_IPV6:
        return ipv6_traffic_class(p + l3)
    return 0


cdef uint32_t encap_run(Columns *columns, const Tunnel *tunnel, uint32_t first, uint32_t ident) noexcept nogil:
    """Rows from ``first`` on that are bare Ethernet frames for ``tunnel4_put``. Returns the first that is not."""
    # Copies that nothing points to (see decap_rows): header bytes are stored for every row, and may alias anything.
    cdef Columns c = columns[0]
    cdef Tunnel t = tunnel[0]
    cdef uint32_t end = rows_alike(&c, first, c.n, LINK_ETHERNET, True), i = first, k, flow = 0
    while i < end and likely(tunnel4_put(c.head + <uint64_t>(i + 1) * BATCH_HEAD_LEN - TUNNEL4_HDR_LEN, &t,
                                         c.arena + c.off[i], c.len[i], c.wire_len[i], ident + i, &flow)):
        c.flow[i] = flow
        i += 1
    memset(c.head_len + first, TUNNEL4_HDR_LEN, i - first)
    for k in range(first, i):
        c.wire_len[k] += TUNNEL4_HDR_LEN
        c.vni[k] = t.vni
    return i


cdef Verdict encap_row(Columns *c, uint32_t i, const Tunnel *t, uint32_t ident, bint is_v6,
                       EncapTally *tally) noexcept nogil:
    """One row, whatever it is."""
    cdef uint32_t hdr_len = ETH_HDR_LEN + (IPV6_HDR_LEN if is_v6 else IPV4_HDR_LEN) + PAYLOAD_HDR_LEN
    cdef uint32_t had = c.head_len[i], n = had + c.len[i], wire_n = c.wire_len[i], udp_len, total
    cdef const uint8_t *frame = row_head(c, i) if had else row_body(c, i)
    cdef uint8_t *p
    cdef uint8_t *ip
    cdef uint8_t *udp
    cdef uint8_t tos
    cdef uint16_t sport
    cdef uint64_t sum
    if c.link[i] != LINK_ETHERNET:
        return DROP_NOT_ETHERNET
    if wire_n < n:
        wire_n = n
    if wire_n < ETH_HDR_LEN:
        return DROP_INNER_RUNT
    if had + hdr_len > BATCH_HEAD_LEN:
        return DROP_NO_HEADROOM
    if wire_n > IP_DATAGRAM_MAX:
        return DROP_TOO_LONG  # a record may claim anything, and the sums below are of 32 bits
    udp_len = PAYLOAD_HDR_LEN + wire_n
    total = udp_len + (IPV6_HDR_LEN if is_v6 else IPV4_HDR_LEN)
    if total - (IPV6_HDR_LEN if is_v6 else 0) > IP_DATAGRAM_MAX:
        return DROP_TOO_LONG
    if t.mtu and total > t.mtu:
        tally.over_mtu += 1
        if t.mtu_policy == MTU_DROP:
            return DROP_MTU
    # A row with headers in front (a second encapsulation) has its flow in them.
    c.flow[i] = flow_hash_any(frame, had if had else n, t.key)
    sport = t.sport if t.sport else flow_sport(c.flow[i])
    tos = inner_tos(frame, had if had else n)
    if t.dscp != DSCP_INHERIT:
        tos = ecn_encap(<uint8_t>(t.dscp << 2), tos)
    p = row_head(c, i) - hdr_len
    memcpy(p, t.hdr, hdr_len)
    ip = p + ETH_HDR_LEN
    if is_v6:
        store_be16(ip, <uint16_t>(0x6000 | (tos << 4)))
        store_be16(ip + IPV6_OFF_PAYLOAD_LEN, <uint16_t>udp_len)
        udp = ip + IPV6_HDR_LEN
    else:
        ip[IPV4_OFF_TOS] = tos
        store_be16(ip + IPV4_OFF_TOTAL_LEN, <uint16_t>total)
        if t.df:
            ident = 0  # an atomic datagram needs none (RFC 6864 §4.1)
        store_be16(ip + IPV4_OFF_ID, <uint16_t>ident)
        store_be16(ip + IPV4_OFF_CSUM, header_csum(t, tos, total, <uint16_t>ident))
        udp = ip + IPV4_HDR_LEN
    store_be16(udp + UDP_OFF_SRC, sport)
    store_be16(udp + UDP_OFF_LEN, <uint16_t>udp_len)
    if t.with_csum:
        if n < wire_n:
            tally.no_csum += 1  # the rest of the frame is not there to be summed
        else:
            # The length counts twice: in the pseudo header and in the header.
            sum = t.udp_sum + csum_word(sport) + 2 * <uint64_t>csum_word(<uint16_t>udp_len)
            if had:
                sum += csum_short(frame, had)
            store_be16(udp + UDP_OFF_CSUM, csum_finish_udp(sum + csum(row_body(c, i), c.len[i])))
    c.head_len[i] = <uint8_t>(had + hdr_len)
    c.wire_len[i] = wire_n + hdr_len
    c.vni[i] = t.vni
    return PASS


cdef inline void encap_rows(Columns *c, const Tunnel *t, uint32_t ident, bint is_v6, EncapRun run, uint64_t *counts,
                            EncapTally *tally) noexcept nogil:
    """All rows. ``run`` is NULL or encap_run: by a pointer gcc leaves that loop apart, with all the registers."""
    cdef uint32_t i = 0, after, passed = 0
    cdef Verdict v
    while i < c.n:
        if run != NULL:
            after = run(c, t, i, ident)
            passed += after - i
            i = after
            if i == c.n:
                break
        if c.verdict[i] == PASS:
            v = encap_row(c, i, t, ident + i, is_v6, tally)
            if likely(v == PASS):
                passed += 1
            else:
                c.verdict[i] = v
                counts[<uint8_t>v] += 1
        i += 1
    counts[<uint8_t>PASS] += passed


cdef inline uint32_t fragment_len(const Tunnel *t, bint is_v6) noexcept nogil:
    """Bytes of IP payload a fragment but the last carries: what the MTU leaves, in units of 8 (RFC 791 §3.2)."""
    return (t.mtu - (IPV6_HDR_LEN + IPV6_FRAG_HDR_LEN if is_v6 else IPV4_HDR_LEN)) & ~<uint32_t>7


cdef void fragment_row(Columns *c, const Tunnel *t, uint32_t i, uint32_t ident, bint is_v6, uint32_t count) noexcept nogil:
    """Row ``i``, encapsulated, becomes ``count`` fragments: itself and the rows from ``c.n`` on, sharing its body."""
    cdef uint32_t ip_len = IPV6_HDR_LEN if is_v6 else IPV4_HDR_LEN, room = fragment_len(t, is_v6)
    cdef uint32_t payload = c.wire_len[i] - ETH_HDR_LEN - ip_len  # UDP, VXLAN and frame
    cdef uint32_t front = c.head_len[i] - ETH_HDR_LEN - ip_len    # of it, what stands in the head
    cdef uint32_t body_off = c.off[i], body_len = c.len[i], f, row, at, size, first, last, ext
    cdef uint8_t whole[BATCH_HEAD_LEN]
    cdef uint32_t whole_len = c.head_len[i]
    cdef uint8_t *p
    cdef uint8_t *ip
    memcpy(whole, row_head(c, i), whole_len)
    ext = IPV6_FRAG_HDR_LEN if is_v6 else 0
    for f in range(count):
        row = i
        if f:
            row = c.n
            row_copy(c, i, row)
            c.n += 1
        at = f * room
        size = room if at + room < payload else payload - at
        c.head_len[row] = <uint8_t>(ETH_HDR_LEN + ip_len + ext + (front if f == 0 else 0))
        p = row_head(c, row)
        memcpy(p, whole, ETH_HDR_LEN + ip_len)
        if f == 0:
            memcpy(p + ETH_HDR_LEN + ip_len + ext, whole + ETH_HDR_LEN + ip_len, front)
        ip = p + ETH_HDR_LEN
        if is_v6:
            store_be16(ip + IPV6_OFF_PAYLOAD_LEN, <uint16_t>(size + ext))
            ip[IPV6_OFF_NEXT] = IP_PROTO_FRAGMENT
            ip[IPV6_HDR_LEN] = IP_PROTO_UDP
            ip[IPV6_HDR_LEN + 1] = 0
            store_be16(ip + IPV6_HDR_LEN + 2, <uint16_t>(at | (at + size < payload)))
            store_be32(ip + IPV6_HDR_LEN + 4, ident)
        else:
            store_be16(ip + IPV4_OFF_TOTAL_LEN, <uint16_t>(size + IPV4_HDR_LEN))
            store_be16(ip + IPV4_OFF_FRAG, <uint16_t>((IPV4_MF if at + size < payload else 0) | (at >> 3)))
            store_be16(ip + IPV4_OFF_CSUM, 0)
            store_be16(ip + IPV4_OFF_CSUM, csum_finish(csum_short(ip, IPV4_HDR_LEN)))
        # The body's share, in frame bytes; a cut frame runs out before its wire length does.
        first = at - front if f else 0
        last = at + size - front
        if first > body_len:
            first = body_len
        c.off[row] = body_off + first
        c.len[row] = (last if last < body_len else body_len) - first
        c.wire_len[row] = ETH_HDR_LEN + ip_len + ext + size


cdef int fragment_rows(Columns *c, const Tunnel *t, uint32_t ident, bint is_v6, EncapTally *tally) noexcept nogil:
    """Every passed row over the MTU becomes its fragments, in its place in the leaving order: 0, or -1 for no memory."""
    cdef uint32_t k, i, f, count, added = 0, used = 0, before = row_count(c)
    cdef uint32_t ip_len = IPV6_HDR_LEN if is_v6 else IPV4_HDR_LEN, room = fragment_len(t, is_v6)
    cdef uint32_t *order
    for i in range(c.n):
        if c.verdict[i] == PASS and c.wire_len[i] - ETH_HDR_LEN > t.mtu:
            added += (c.wire_len[i] - ETH_HDR_LEN - ip_len + room - 1) // room - 1
    if added == 0:
        return 0
    if batch_grow_rows(c, c.n + added):
        return -1
    order = <uint32_t *>malloc((before + added) * sizeof(uint32_t))
    if order == NULL:
        return -1
    for k in range(before):
        i = row_at(c, k)
        order[used] = i
        used += 1
        if c.verdict[i] == PASS and c.wire_len[i] - ETH_HDR_LEN > t.mtu:
            count = (c.wire_len[i] - ETH_HDR_LEN - ip_len + room - 1) // room
            for f in range(1, count):
                order[used] = c.n + f - 1
                used += 1
            fragment_row(c, t, i, ident + i, is_v6, count)
            tally.fragments += count
    memcpy(c.order, order, used * sizeof(uint32_t))
    free(order)
    c.n_order = used
    c.ordered = True
    return 0


cdef class Encap:
    """Puts one tunnel's VXLAN headers in front of the Ethernet frames of a batch.

    ``src``/``dst``: addresses of the VTEPs as 4 or 16 bytes; ``smac``/``dmac``: 6 bytes. ``sport`` 0: from the flow.
    ``dscp`` None: inherit the inner one. ``mtu``: of the underlay (IP header and payload), 0 for none; ``mtu_policy``:
    "warn", "drop" or "fragment". ``seed``: of the flow hash.
    """

    def __cinit__(self, *, uint32_t vni, bytes src, bytes dst, bytes smac, bytes dmac, uint16_t dport=4789,
                  uint16_t sport=0, uint8_t ttl=64, dscp=0, bint df=False, bint udp_csum=False, uint32_t mtu=0,
                  str mtu_policy="warn", uint64_t seed=0):
        cdef Tunnel *t = &self.t
        cdef uint8_t *ip = t.hdr + ETH_HDR_LEN
        cdef bint is_v6 = len(src) == 16
        cdef int i
        cdef uint8_t *udp = ip + (IPV6_HDR_LEN if is_v6 else IPV4_HDR_LEN)
        if len(src) not in (4, 16) or len(src) != len(dst) or len(smac) != 6 or len(dmac) != 6:
            raise ValueError("addresses: src and dst 4 or 16 bytes alike, smac and dmac 6")
        if vni > VXLAN_VNI_MAX:
            raise ValueError(f"VNI {vni}: at most {VXLAN_VNI_MAX}")
        t.hdr_len = ETH_HDR_LEN + (IPV6_HDR_LEN if is_v6 else IPV4_HDR_LEN) + PAYLOAD_HDR_LEN
        t.vni = vni
        t.sport = sport
        t.dscp = DSCP_INHERIT if dscp is None else dscp
        t.with_csum = udp_csum
        t.df = df
        t.mtu = mtu
        t.mtu_policy = {"warn": MTU_WARN, "drop": MTU_DROP, "fragment": MTU_FRAGMENT}[mtu_policy]
        t.key = flow_key(seed)
        if mtu and mtu < t.hdr_len - ETH_HDR_LEN + IPV6_FRAG_HDR_LEN + ETH_HDR_LEN:
            raise ValueError(f"MTU {mtu}: too small for the headers")
        eth_write(t.hdr, <const uint8_t *><char *>dmac, <const uint8_t *><char *>smac,
                  ETH_TYPE_IPV6 if is_v6 else ETH_TYPE_IPV4)
        if is_v6:
            ipv6_write(ip, 0, 0, 0, IP_PROTO_UDP, ttl)
            memcpy(ip + IPV6_OFF_SRC, <char *>src, 16)
            memcpy(ip + IPV6_OFF_DST, <char *>dst, 16)
            t.udp_sum = csum_short(ip + IPV6_OFF_SRC, 32) + csum_word(IP_PROTO_UDP)
        else:
            ipv4_write(ip, 0, 0, 0, IPV4_DF if df else 0, ttl, IP_PROTO_UDP,
                       load_be32(<const uint8_t *><char *>src), load_be32(<const uint8_t *><char *>dst))
            store_be16(ip + IPV4_OFF_CSUM, 0)
            t.ip_sum = csum_fold(csum_short(ip, IPV4_HDR_LEN))
            t.udp_sum = csum_short(ip + 12, 8) + csum_word(IP_PROTO_UDP)
        udp_write(udp, 0, dport, 0, 0)
        vxlan_write(udp + UDP_HDR_LEN, vni)
        t.udp_sum += csum_short(udp, PAYLOAD_HDR_LEN)
        for i in range(5):
            t.words[i] = load_be64(t.hdr + 8 * i)
        t.tos_mask = 0xFF if dscp is None else ECN_MASK
        t.tos_set = 0 if dscp is None else <uint8_t>(t.dscp << 2)
        t.common = not (is_v6 or mtu or udp_csum)
        if t.common:
            self.run = encap_run

    def process(self, PacketBatch batch not None, uint64_t ordinal=0):
        """Every row with verdict PASS. ``ordinal``: how many rows came before this batch; identifications count on."""
        cdef bint is_v6 = self.t.hdr_len == TUNNEL_HDR_MAX
        cdef int failed = 0
        if self.t.mtu and self.t.mtu_policy == MTU_FRAGMENT:
            batch._require_idle("fragment the packets of")
        with nogil:
            if is_v6:
                encap_rows(&batch.c, &self.t, <uint32_t>ordinal, True, NULL, self.counts, &self.tally)
            else:
                encap_rows(&batch.c, &self.t, <uint32_t>ordinal, False, self.run, self.counts, &self.tally)
            if self.t.mtu and self.t.mtu_policy == MTU_FRAGMENT:
                failed = fragment_rows(&batch.c, &self.t, <uint32_t>ordinal, is_v6, &self.tally)
        if failed:
            raise MemoryError("no room for the fragments")
        return batch

    def count(self, uint8_t verdict):
        """Rows with this verdict since the start."""
        return self.counts[verdict] if verdict < VERDICT_COUNT else 0

    def counters(self):
        """Rows by verdict since the start: ``{Verdict: rows}`` of those that occur."""
        from vxlanfast._ext.verdict import Verdict
        return {Verdict(i): self.counts[i] for i in range(VERDICT_COUNT) if self.counts[i]}

    @property
    def over_mtu(self):
        """Packets longer than the MTU so far."""
        return self.tally.over_mtu

    @property
    def fragments(self):
        """Fragments made so far."""
        return self.tally.fragments

    @property
    def no_csum(self):
        """Frames cut by a snaplen, whose checksum was asked for and could not be computed (0 is sent)."""
        return self.tally.no_csum
