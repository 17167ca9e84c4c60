"""A packet socket (packet(7)) with PACKET_VNET_HDR as an underlay: whole packets of VXLAN as an interface carries them, past the
kernel's own UDP, which may be somebody else's.

In: the header in front of each frame says what a kernel left to a card: checksums, and the cutting of super-frames; a datagram
that stands for many (UDP_SEGMENT at a sender on this machine) becomes its rows. Out: packets behind the MACs of the next hop,
which their owner finds and sets; segments of a super-frame leave as one, a VXLAN header in front of each, and the kernel cuts
between them as it does for UDP_SEGMENT.
"""
from libc.errno cimport EINTR, EINVAL, EMSGSIZE, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from vxlanfast._ext.batch cimport Columns, row_body, row_head, rows_init
from vxlanfast._ext.io.edge cimport FRAME_ROOM, Edge, LiveEdge
from vxlanfast._ext.io.system cimport SOL_PACKET, getsockopt, iovec, readv, writev
from vxlanfast._ext.io.vnet cimport (
    VNET_GSO_ECN, VNET_GSO_NONE, VNET_GSO_TUNNEL4, VNET_GSO_TUNNEL6, VNET_GSO_UDP_L4, VNET_HDR_LEN, VNET_NEEDS_CSUM,
    VNET_TUNNEL_LEN, vnet_accept, vnet_outer, vnet_put,
)
from vxlanfast._ext.wire.csum cimport csum_finish, csum_fold, csum_pseudo4, csum_pseudo6, csum_short
from vxlanfast._ext.wire.endian cimport load_be16, load_host16, store_be16
from vxlanfast._ext.wire.eth cimport ETH_HDR_LEN, ETH_OFF_TYPE, ETH_TYPE_IPV4, ETH_TYPE_IPV6
from vxlanfast._ext.wire.ipv4 cimport (
    IP_PROTO_UDP, IPV4_DF, IPV4_HDR_LEN, IPV4_OFF_CSUM, IPV4_OFF_DST, IPV4_OFF_FRAG, IPV4_OFF_ID, IPV4_OFF_PROTO, IPV4_OFF_TOTAL_LEN, ipv4_check, ipv4_hdr_len,
)
from vxlanfast._ext.wire.ipv6 cimport IPV6_HDR_LEN, IPV6_OFF_DST, IPV6_OFF_NEXT, IPV6_OFF_PAYLOAD_LEN, ipv6_check
from vxlanfast._ext.wire.link cimport LINK_ETHERNET, LINK_VXLAN
from vxlanfast._ext.wire.segment cimport SEG_HDR_MAX, Shape, segment_put, shape_find
from vxlanfast._ext.wire.udp cimport UDP_HDR_LEN, UDP_OFF_CSUM, UDP_OFF_DST, UDP_OFF_LEN
from vxlanfast._ext.wire.vxlan cimport VXLAN_HDR_LEN

cdef extern from "<linux/if_packet.h>" nogil:
    struct tpacket_stats:
        uint32_t tp_packets
        uint32_t tp_drops
    enum:
        PACKET_STATISTICS

cdef enum:
    FRONT_LEN = 64          # in front of each frame: headers of a last datagram that is shorter
    DATAGRAMS_MAX = 128     # in one super-frame: the kernel's UDP_MAX_SEGMENTS of Linux 6.9
    SEGMENTS_MAX = 64       # of ours: what it was before
    GSO_BYTES = 65000       # an IP datagram, less its headers
    OUTER_MAX = ETH_HDR_LEN + IPV6_HDR_LEN + UDP_HDR_LEN + VXLAN_HDR_LEN
    MACS_LEN = 12


cdef struct Hop:
    uint8_t addr[16]        # of a VTEP; IPv4 in the first four bytes, the rest zero
    uint8_t family          # 4 or 6; 0: free
    uint8_t macs[MACS_LEN]  # of the next hop to it, and ours


cdef struct EtherState:
    Edge e
    uint16_t port           # of VXLAN
    bint gso                # the kernel takes datagrams to be cut
    Hop *hops
    uint32_t hop_mask
    Hop *last               # the one that the packet before took
    uint64_t no_hop         # packets to VTEPs whose next hop is not known
    uint64_t missed         # as the kernel counted up to now
    uint8_t hdr[VNET_HDR_LEN]
    uint8_t outer[OUTER_MAX]
    uint8_t headers[SEGMENTS_MAX * (VXLAN_HDR_LEN + SEG_HDR_MAX)]
    iovec iov[2 * SEGMENTS_MAX + 2]


cdef inline uint32_t hop_hash(const uint8_t *addr) noexcept nogil:
    cdef uint32_t k, h = 2166136261U
    for k in range(16):
        h = (h ^ addr[k]) * 16777619U
    return h ^ (h >> 15)


cdef inline Hop *hop_find(EtherState *t, const uint8_t *addr, uint8_t family) noexcept nogil:
    """The next hop's, or NULL."""
    cdef uint32_t at
    cdef Hop *h = t.last
    if h != NULL and h.family == family and memcmp(h.addr, addr, 16) == 0:
        return h
    if t.hops == NULL:
        return NULL
    at = hop_hash(addr) & t.hop_mask
    while t.hops[at].family:
        h = t.hops + at
        if h.family == family and memcmp(h.addr, addr, 16) == 0:
            t.last = h
            return h
        at = (at + 1) & t.hop_mask
    return NULL


cdef inline bint outer_find(const uint8_t *p, uint32_t n, uint16_t port, uint32_t *l4) noexcept nogil:
    """Where the UDP header of a packet to ``port`` is. False: it is none."""
    cdef uint16_t ethertype
    if n < ETH_HDR_LEN:
        return False
    ethertype = load_be16(p + ETH_OFF_TYPE)
    if ethertype == ETH_TYPE_IPV4:
        if ipv4_check(p + ETH_HDR_LEN, n - ETH_HDR_LEN) or p[ETH_HDR_LEN + IPV4_OFF_PROTO] != IP_PROTO_UDP:
            return False
        l4[0] = ETH_HDR_LEN + ipv4_hdr_len(p + ETH_HDR_LEN)
    elif ethertype == ETH_TYPE_IPV6:
        if ipv6_check(p + ETH_HDR_LEN, n - ETH_HDR_LEN) or p[ETH_HDR_LEN + IPV6_OFF_NEXT] != IP_PROTO_UDP:
            return False
        l4[0] = ETH_HDR_LEN + IPV6_HDR_LEN
    else:
        return False
    return l4[0] + UDP_HDR_LEN <= n and load_be16(p + l4[0] + UDP_OFF_DST) == port


cdef inline void outer_lengths(uint8_t *p, uint32_t l4, uint32_t size) noexcept nogil:
    """The headers at ``p``, of a datagram that carries ``size`` bytes, but for its UDP checksum."""
    cdef uint8_t *ip = p + ETH_HDR_LEN
    if ip[0] >> 4 == 6:
        store_be16(ip + IPV6_OFF_PAYLOAD_LEN, <uint16_t>(UDP_HDR_LEN + size))
    else:
        store_be16(ip + IPV4_OFF_TOTAL_LEN, <uint16_t>(l4 - ETH_HDR_LEN + UDP_HDR_LEN + size))
        store_be16(ip + IPV4_OFF_CSUM, 0)
        store_be16(ip + IPV4_OFF_CSUM, csum_finish(csum_short(ip, l4 - ETH_HDR_LEN)))
    store_be16(p + l4 + UDP_OFF_LEN, <uint16_t>(UDP_HDR_LEN + size))


cdef inline void row_take(EtherState *t, Columns *c, uint64_t off, uint32_t n, uint16_t port, int64_t now_ns) noexcept nogil:
    cdef uint32_t i = c.n
    rows_init(c, i, 1)
    c.off[i] = <uint32_t>off
    c.len[i] = c.wire_len[i] = n
    c.rec[i] = 0xFFFFFFFFU
    c.ts_ns[i] = now_ns
    c.link[i] = LINK_ETHERNET
    c.port_in[i] = port
    c.n = c.n_source = i + 1
    t.e.n.rx_packets += 1
    t.e.n.rx_bytes += n


cdef void rows_of_one(EtherState *t, Columns *c, uint64_t base, uint32_t n, uint32_t l4, uint32_t size, uint16_t port,
                      int64_t now_ns) noexcept nogil:
    """A datagram that stands for several of ``size`` bytes: each is a row without headers, and they share those of the first; the last
    one, where it is shorter, has its own."""
    cdef uint32_t at = l4 + UDP_HDR_LEN, front = at, rest = (n - front) % size, i
    cdef uint8_t *p = c.arena + base
    cdef uint64_t outer = base
    if rest:
        outer = base - FRONT_LEN
        if front > FRONT_LEN:  # with IP options: headers of ours are enough to say where it came from
            outer = base
        else:
            memcpy(c.arena + outer, p, front)
            outer_lengths(c.arena + outer, l4, rest)
    outer_lengths(p, l4, size)
    while at < n:
        i = c.n
        row_take(t, c, base + at, size if at + size <= n else n - at, port, now_ns)
        c.link[i] = LINK_VXLAN
        c.outer[i] = <uint32_t>(base if at + size <= n else outer)
        c.outer_l3[i] = ETH_HDR_LEN
        c.outer_l4[i] = <uint16_t>l4
        t.e.n.rx_segments += 1
        at += size


cdef int ether_fill(Edge *e, Columns *c, uint16_t port, int64_t now_ns, uint32_t most) noexcept nogil:
    """One frame a read, until there is none, or the batch is full."""
    cdef EtherState *t = <EtherState *>e
    cdef uint8_t hdr[VNET_TUNNEL_LEN]   # the kernel writes the first part; the rest is said as a TAP would say it
    cdef iovec iov[2]
    cdef ssize_t got
    cdef uint64_t base
    cdef uint32_t first = c.n, n, l4 = 0
    cdef uint16_t gso, at
    cdef uint8_t kind
    iov[0].iov_base = hdr
    iov[0].iov_len = VNET_HDR_LEN
    while c.n - first < most and c.n + DATAGRAMS_MAX <= c.cap and c.arena_len + FRONT_LEN + FRAME_ROOM <= c.arena_cap:
        base = c.arena_len + FRONT_LEN
        iov[1].iov_base = c.arena + base
        iov[1].iov_len = FRAME_ROOM
        got = readv(e.fd, iov, 2)
        if got < 0:
            if errno == EINTR:
                continue
            break  # none waiting; or the interface went down, which is said once: the socket lives on
        if got <= VNET_HDR_LEN:
            e.n.rx_drops += 1
            continue
        n = <uint32_t>got - VNET_HDR_LEN
        hdr[1] &= <uint8_t>~(VNET_GSO_TUNNEL4 | VNET_GSO_TUNNEL6)
        kind = hdr[1] & <uint8_t>~VNET_GSO_ECN
        if kind == VNET_GSO_NONE:
            if not vnet_accept(hdr, VNET_HDR_LEN, c.arena + base, n, &gso):
                e.n.rx_drops += 1
                continue
            row_take(t, c, base, n, port, now_ns)
            e.n.rx_segments += 1
        else:
            gso = load_host16(hdr + 4)
            if not outer_find(c.arena + base, n, t.port, &l4) or gso == 0:
                e.n.rx_drops += 1
                continue
            if kind == VNET_GSO_UDP_L4 and (not hdr[0] & VNET_NEEDS_CSUM or load_host16(hdr + 6) == l4):
                if (n - l4 - UDP_HDR_LEN + gso - 1) // gso > DATAGRAMS_MAX:
                    e.n.rx_drops += 1
                    continue
                rows_of_one(t, c, base, n, l4, gso, port, now_ns)
            else:
                hdr[1] |= VNET_GSO_TUNNEL6 if c.arena[base + ETH_HDR_LEN] >> 4 == 6 else VNET_GSO_TUNNEL4
                at = <uint16_t>l4
                memcpy(hdr + 20, &at, 2)
                if not vnet_accept(hdr, VNET_TUNNEL_LEN, c.arena + base, n, &gso) \
                        or not vnet_outer(hdr, c.arena + base, n):
                    e.n.rx_drops += 1
                    continue
                row_take(t, c, base, n, port, now_ns)
                c.gso[c.n - 1] = gso
                e.n.rx_segments += 1 if gso == 0 else (n + gso - 1) // gso
        c.arena_len = base + ((n + 127) & ~<uint64_t>63)
    return <int>(c.n - first)


cdef bint ether_write(EtherState *t, int count, uint64_t size, uint32_t segments, bint may_split) noexcept nogil:
    """Whether the kernel took it, or it is lost and counted; False: ``may_split``, and the kernel does not cut."""
    while True:
        if writev(t.e.fd, t.iov, count) >= 0:
            t.e.n.tx_packets += 1
            t.e.n.tx_bytes += size
            t.e.n.tx_segments += segments
            return True
        if errno == EINTR:
            continue
        if may_split and errno == EINVAL:
            return False
        t.e.n.tx_drops += 1
        if errno == EMSGSIZE or errno == EINVAL:
            t.e.n.tx_too_long += 1
        return True


cdef uint32_t ether_cut(EtherState *t, Columns *c, uint32_t i, const Shape *s, uint32_t at, uint32_t number, uint32_t most) noexcept nogil:
    """Segments of a super-frame from ``at`` on, ``most`` at most: each behind its VXLAN header, and all of them behind outer headers
    that the kernel makes those of each. Returns how many left; 0: the kernel does not cut."""
    cdef uint8_t *frame = row_body(c, i)
    cdef const uint8_t *outer = row_head(c, i)
    cdef uint32_t head = c.head_len[i] - VXLAN_HDR_LEN, l4 = head - UDP_HDR_LEN, count = 0, bytes = 0, size
    cdef uint32_t gso = c.gso[i], each = VXLAN_HDR_LEN + s.hdr_len + gso
    cdef uint8_t *p
    cdef uint8_t *ip = t.outer + ETH_HDR_LEN
    cdef Shape o
    while at < s.payload and count < most and bytes + each <= GSO_BYTES:
        size = gso if at + gso < s.payload else s.payload - at
        p = t.headers + count * (VXLAN_HDR_LEN + SEG_HDR_MAX)
        memcpy(p, outer + head, VXLAN_HDR_LEN)
        segment_put(p + VXLAN_HDR_LEN, frame, s, at, size, number + count, at + size == s.payload)
        t.iov[2 + 2 * count].iov_base = p
        t.iov[2 + 2 * count].iov_len = VXLAN_HDR_LEN + s.hdr_len
        t.iov[3 + 2 * count].iov_base = frame + s.hdr_len + at
        t.iov[3 + 2 * count].iov_len = size
        bytes += VXLAN_HDR_LEN + s.hdr_len + size
        count += 1
        at += size
    if count == 0:
        t.e.n.tx_drops += 1
        t.e.n.tx_too_long += 1
        return 0xFFFFFFFFU  # no datagram holds a segment of that length
    memcpy(t.outer, outer, head)
    outer_lengths(t.outer, l4, bytes)
    if ip[0] >> 4 == 4 and not load_be16(ip + IPV4_OFF_FRAG) & IPV4_DF:
        store_be16(ip + IPV4_OFF_ID, <uint16_t>(load_be16(ip + IPV4_OFF_ID) + number))
        store_be16(ip + IPV4_OFF_CSUM, 0)
        store_be16(ip + IPV4_OFF_CSUM, csum_finish(csum_short(ip, l4 - ETH_HDR_LEN)))
    o.l3 = ETH_HDR_LEN
    o.l4 = l4
    o.hdr_len = head
    o.proto = IP_PROTO_UDP
    o.is_v6 = ip[0] >> 4 == 6
    vnet_put(t.hdr, VNET_HDR_LEN, &o, each, False)
    if count == 1:
        t.hdr[1] = VNET_GSO_NONE
        memset(t.hdr + 4, 0, 2)
    if count == 1 and load_host16(outer + l4 + UDP_OFF_CSUM) == 0:
        memset(t.hdr, 0, VNET_HDR_LEN)
    else:
        store_be16(t.outer + l4 + UDP_OFF_CSUM,
                   csum_fold(csum_pseudo6(ip, UDP_HDR_LEN + bytes, IP_PROTO_UDP) if o.is_v6
                             else csum_pseudo4(ip, UDP_HDR_LEN + bytes, IP_PROTO_UDP)))
    t.iov[0].iov_base = t.hdr
    t.iov[0].iov_len = VNET_HDR_LEN
    t.iov[1].iov_base = t.outer
    t.iov[1].iov_len = head
    if not ether_write(t, 2 + 2 * <int>count, head + bytes, count, count > 1):
        return 0
    return count


cdef void ether_put(Edge *e, Columns *c, uint32_t i) noexcept nogil:
    cdef EtherState *t = <EtherState *>e
    cdef uint8_t *outer = row_head(c, i)
    cdef uint8_t addr[16]
    cdef uint32_t at = 0, number = 0, left, head = c.head_len[i]
    cdef bint is_v6
    cdef Hop *hop
    cdef Shape s
    if head < ETH_HDR_LEN + IPV4_HDR_LEN + UDP_HDR_LEN + VXLAN_HDR_LEN:
        e.n.tx_drops += 1  # nothing but tunnels leads there
        return
    is_v6 = outer[ETH_HDR_LEN] >> 4 == 6
    if is_v6 and head < OUTER_MAX:
        e.n.tx_drops += 1
        return
    memset(addr, 0, 16)
    memcpy(addr, outer + ETH_HDR_LEN + (IPV6_OFF_DST if is_v6 else IPV4_OFF_DST), 16 if is_v6 else 4)
    hop = hop_find(t, addr, 6 if is_v6 else 4)
    if hop == NULL:
        t.no_hop += 1
        e.n.tx_drops += 1
        return
    memcpy(outer, hop.macs, MACS_LEN)
    if c.gso[i] and head <= OUTER_MAX and shape_find(row_body(c, i), c.len[i], &s) and s.payload > c.gso[i]:
        while at < s.payload:
            left = ether_cut(t, c, i, &s, at, number, SEGMENTS_MAX if t.gso else 1)
            if left == 0xFFFFFFFFU:
                return
            if left == 0:
                t.gso = False  # Linux before 6.2
                continue
            number += left
            at += left * c.gso[i]
        return
    vnet_put(t.hdr, VNET_HDR_LEN, NULL, 0, False)
    t.iov[0].iov_base = t.hdr
    t.iov[0].iov_len = VNET_HDR_LEN
    t.iov[1].iov_base = outer
    t.iov[1].iov_len = head
    t.iov[2].iov_base = row_body(c, i)
    t.iov[2].iov_len = c.len[i]
    ether_write(t, 3, head + c.len[i], 1, False)


cdef void ether_flush(Edge *e) noexcept nogil:
    pass


cdef class EtherEdge(LiveEdge):
    """``fd``: a packet socket with PACKET_VNET_HDR that gives packets for UDP port ``port``, not blocking. ``gso``: it may be given
    datagrams that the kernel cuts, which have outer checksums then. The descriptor stays its opener's to close."""

    def __cinit__(self, int fd, *, uint16_t port, bint gso=True):
        cdef EtherState *t = <EtherState *>calloc(1, sizeof(EtherState))
        if t == NULL:
            raise MemoryError
        self.e = &t.e
        t.port = port
        t.gso = gso
        t.e.fd = fd
        t.e.fill = ether_fill
        t.e.put = ether_put
        t.e.flush = ether_flush

    def set_hops(self, hops):
        """By VTEP (4 or 16 bytes), the MACs of packets to it: the next hop's and ours, 12 bytes. Replaces those that were there: not
        while another thread sends."""
        cdef EtherState *t = <EtherState *>self.e
        cdef uint32_t size = 16, at
        cdef Hop *made
        cdef Hop *old
        while size < 2 * len(hops):
            size *= 2
        for address, macs in hops.items():
            if len(address) not in (4, 16) or len(macs) != MACS_LEN:
                raise ValueError(f"address of {len(address)} bytes, MACs of {len(macs)}: 4 or 16, and 12")
        made = <Hop *>calloc(size, sizeof(Hop))
        if made == NULL:
            raise MemoryError
        for address, macs in hops.items():
            padded = address.ljust(16, b"\0")
            at = hop_hash(<const uint8_t *><char *>padded) & (size - 1)
            while made[at].family:
                at = (at + 1) & (size - 1)
            made[at].family = 4 if len(address) == 4 else 6
            memcpy(made[at].addr, <char *>padded, 16)
            memcpy(made[at].macs, <char *>macs, MACS_LEN)
        old = t.hops
        t.last = NULL
        t.hops = made
        t.hop_mask = size - 1
        free(old)

    @property
    def gso(self):
        """Whether the kernel cuts datagrams, as far as is known."""
        return (<EtherState *>self.e).gso

    def counters(self):
        """As of every edge, and ``tx_no_hop``: of the drops, those to VTEPs whose next hop was not known."""
        cdef EtherState *t = <EtherState *>self.e
        cdef tpacket_stats stats
        cdef unsigned length = sizeof(stats)
        # Asking sets the kernel's count to zero.
        if getsockopt(t.e.fd, SOL_PACKET, PACKET_STATISTICS, &stats, &length) == 0:
            t.missed += stats.tp_drops
        counts = dict(t.e.n)
        counts["rx_missed"] += t.missed
        counts["tx_no_hop"] = t.no_hop
        return counts

    def __dealloc__(self):
        cdef EtherState *t = <EtherState *>self.e
        if t != NULL:
            free(t.hops)
            free(t)
