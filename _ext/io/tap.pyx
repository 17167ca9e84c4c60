"""A TAP device's file descriptor as rows: one read a frame, super-frames where the device makes them, and put together from
segments on their way in."""
from libc.errno cimport EAGAIN, EFAULT, EINTR, EINVAL, EIO, EMSGSIZE, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from vxlanfast._ext.batch cimport Columns, PacketBatch, row_at, row_body, row_count, row_head, rows_init
from vxlanfast._ext.io.edge cimport FRAME_ROOM, Edge, LiveEdge
from vxlanfast._ext.io.system cimport iovec, readv, writev
from vxlanfast._ext.io.vnet cimport VNET_HDR_LEN, VNET_TUNNEL_LEN, vnet_accept, vnet_outer, vnet_partial, vnet_put, vnet_put_tunnel
from vxlanfast._ext.verdict cimport PASS
from vxlanfast._ext.wire.csum cimport csum_finish, csum_short
from vxlanfast._ext.wire.endian cimport store_be16
from vxlanfast._ext.wire.ipv4 cimport IP_PROTO_TCP, IPV4_OFF_CSUM, IPV4_OFF_TOTAL_LEN
from vxlanfast._ext.wire.ipv6 cimport IPV6_OFF_PAYLOAD_LEN
from vxlanfast._ext.wire.link cimport LINK_ETHERNET
from vxlanfast._ext.wire.segment cimport (
    SEG_HDR_MAX, Shape, segment_begins, segment_continues, segment_put, shape_csum_ok, shape_find,
)
from vxlanfast._ext.wire.tcp cimport TCP_FLAG_CWR, TCP_FLAG_FIN, TCP_FLAG_PSH, TCP_OFF_FLAGS
from vxlanfast._ext.wire.udp cimport UDP_OFF_LEN

cdef enum:
    MERGE_MAX = 64          # segments put together
    MERGE_BYTES = 65000     # of IP, less what a tunnel in front of it takes


cdef struct TapState:
    Edge e
    uint32_t hdr_len        # of the vnet header
    bint offload
    # A super-frame in the making: the headers of its first segment, and where the payloads lie.
    uint32_t count          # segments; 0: none is open
    uint32_t size           # bytes of payload in each but the last
    uint32_t had            # bytes of payload so far
    uint8_t flags           # TCP's, of all of them
    Shape shape
    const uint8_t *first    # the first frame
    uint8_t hdr[VNET_HDR_LEN]
    uint8_t headers[SEG_HDR_MAX]
    uint8_t macs[12]        # of a tunnel's packets: the next hop's, ours
    iovec iov[MERGE_MAX + 2]


cdef int tap_fill(Edge *e, Columns *c, uint16_t port, int64_t now_ns, uint32_t most) noexcept nogil:
    """One frame a read, until there is none, or the batch is full."""
    cdef uint8_t hdr[VNET_TUNNEL_LEN]
    cdef iovec iov[2]
    cdef ssize_t got
    cdef uint32_t i, rows = 0, n, hdr_len = (<TapState *>e).hdr_len
    cdef uint16_t gso
    iov[0].iov_base = hdr
    iov[0].iov_len = hdr_len
    while rows < most and c.n < c.cap and c.arena_len + FRAME_ROOM <= c.arena_cap:
        iov[1].iov_base = c.arena + c.arena_len
        iov[1].iov_len = FRAME_ROOM
        got = readv(e.fd, iov, 2)
        if got < 0:
            if errno == EINTR:
                continue
            if errno == EAGAIN or errno == EFAULT or errno == EIO:
                break  # none waiting, or the device is down
            return -errno
        if got <= <ssize_t>hdr_len:
            e.n.rx_drops += 1
            continue
        n = <uint32_t>got - hdr_len
        if not vnet_accept(hdr, hdr_len, c.arena + c.arena_len, n, &gso) \
                or (hdr_len == VNET_TUNNEL_LEN and not vnet_outer(hdr, c.arena + c.arena_len, n)):
            e.n.rx_drops += 1
            continue
        i = c.n
        rows_init(c, i, 1)
        c.off[i] = <uint32_t>c.arena_len
        c.len[i] = c.wire_len[i] = n
        c.rec[i] = 0xFFFFFFFFU
        c.ts_ns[i] = now_ns
        c.link[i] = LINK_ETHERNET
        c.port_in[i] = port
        c.gso[i] = gso
        c.n = c.n_source = i + 1
        # The next one begins at a cache line of its own, behind bytes that copies may round up into.
        c.arena_len += (n + 127) & ~<uint64_t>63
        rows += 1
        e.n.rx_packets += 1
        e.n.rx_bytes += n
        e.n.rx_segments += 1 if gso == 0 else (n + gso - 1) // gso
    return rows


cdef void tap_write(TapState *t, const iovec *iov, int count, uint64_t size, uint32_t segments) noexcept nogil:
    cdef ssize_t sent
    while True:
        sent = writev(t.e.fd, iov, count)
        if sent >= 0:
            t.e.n.tx_packets += 1
            t.e.n.tx_bytes += size
            t.e.n.tx_segments += segments
            return
        if errno == EINTR:
            continue
        t.e.n.tx_drops += 1
        if errno == EMSGSIZE or errno == EINVAL:
            t.e.n.tx_too_long += 1
        return


cdef void tap_whole(TapState *t, Columns *c, uint32_t i) noexcept nogil:
    """A frame as it is, head and body."""
    cdef iovec iov[3]
    vnet_put(t.hdr, VNET_HDR_LEN, NULL, 0, False)
    iov[0].iov_base = t.hdr
    iov[0].iov_len = VNET_HDR_LEN
    iov[1].iov_base = row_head(c, i)
    iov[1].iov_len = c.head_len[i]
    iov[2].iov_base = row_body(c, i)
    iov[2].iov_len = c.len[i]
    tap_write(t, iov, 3, c.head_len[i] + c.len[i], 1)


cdef void tap_super(TapState *t, const uint8_t *frame, const Shape *s, uint32_t payload, uint32_t size, uint32_t parts,
                    uint32_t segments, bint ecn) noexcept nogil:
    """Headers made of ``frame``'s in front of the ``parts`` payloads at ``t.iov[2]`` on."""
    cdef uint8_t *ip = t.headers + s.l3
    memcpy(t.headers, frame, s.hdr_len)
    if s.is_v6:
        store_be16(ip + IPV6_OFF_PAYLOAD_LEN, <uint16_t>(s.hdr_len - s.l4 + payload))
    else:
        store_be16(ip + IPV4_OFF_TOTAL_LEN, <uint16_t>(s.hdr_len - s.l3 + payload))
        store_be16(ip + IPV4_OFF_CSUM, 0)
        store_be16(ip + IPV4_OFF_CSUM, csum_finish(csum_short(ip, s.l4 - s.l3)))
    if s.proto == IP_PROTO_TCP:
        t.headers[s.l4 + TCP_OFF_FLAGS] = t.flags
    else:
        store_be16(t.headers + s.l4 + UDP_OFF_LEN, <uint16_t>(s.hdr_len - s.l4 + payload))
    vnet_partial(t.headers, s, payload)
    vnet_put(t.hdr, VNET_HDR_LEN, s, size, ecn)
    t.iov[0].iov_base = t.hdr
    t.iov[0].iov_len = VNET_HDR_LEN
    t.iov[1].iov_base = t.headers
    t.iov[1].iov_len = s.hdr_len
    tap_write(t, t.iov, <int>parts + 2, s.hdr_len + payload, segments)


cdef void tap_close(TapState *t) noexcept nogil:
    """What is open leaves."""
    cdef iovec iov[2]
    if t.count == 1:  # alone: as it came
        vnet_put(t.hdr, VNET_HDR_LEN, NULL, 0, False)
        iov[0].iov_base = t.hdr
        iov[0].iov_len = VNET_HDR_LEN
        iov[1].iov_base = <void *>t.first
        iov[1].iov_len = t.shape.hdr_len + t.had
        tap_write(t, iov, 2, t.shape.hdr_len + t.had, 1)
    elif t.count:
        tap_super(t, t.first, &t.shape, t.had, t.size, t.count, t.count, False)
    t.count = 0


cdef void tap_split(TapState *t, const uint8_t *frame, const Shape *s, uint32_t gso) noexcept nogil:
    """A super-frame into a device that takes none: its segments."""
    cdef uint32_t at = 0, size, number = 0
    cdef iovec iov[3]
    vnet_put(t.hdr, VNET_HDR_LEN, NULL, 0, False)
    while at < s.payload:
        size = gso if at + gso < s.payload else s.payload - at
        segment_put(t.headers, frame, s, at, size, number, at + size == s.payload)
        iov[0].iov_base = t.hdr
        iov[0].iov_len = VNET_HDR_LEN
        iov[1].iov_base = t.headers
        iov[1].iov_len = s.hdr_len
        iov[2].iov_base = <void *>(frame + s.hdr_len + at)
        iov[2].iov_len = size
        tap_write(t, iov, 3, s.hdr_len + size, 1)
        at += size
        number += 1


cdef void tap_put(Edge *e, Columns *c, uint32_t i) noexcept nogil:
    cdef TapState *t = <TapState *>e
    cdef uint8_t *frame = row_body(c, i)
    cdef Shape s
    cdef uint8_t flags
    if c.head_len[i] or not shape_find(frame, c.len[i], &s) or c.len[i] != s.hdr_len + s.payload:
        # An answer of the plane's, no TCP or UDP, or with padding behind it.
        tap_close(t)
        tap_whole(t, c, i)
        return
    if c.gso[i] and s.payload > c.gso[i]:
        tap_close(t)
        if not t.offload:
            tap_split(t, frame, &s, c.gso[i])
            return
        flags = frame[s.l4 + TCP_OFF_FLAGS]
        t.flags = flags
        t.iov[2].iov_base = frame + s.hdr_len
        t.iov[2].iov_len = s.payload
        tap_super(t, frame, &s, s.payload, c.gso[i], 1, (s.payload + c.gso[i] - 1) // c.gso[i],
                  s.proto == IP_PROTO_TCP and flags & TCP_FLAG_CWR)
        return
    if not t.offload:
        tap_whole(t, c, i)
        return
    # Put together only what arrived whole: the device computes its checksum anew.
    if t.count and s.payload <= t.size and t.count < MERGE_MAX and t.had + s.payload + s.hdr_len <= MERGE_BYTES \
            and segment_continues(t.first, &t.shape, t.had, t.count, frame, &s) and shape_csum_ok(frame, &s):
        t.iov[2 + t.count].iov_base = frame + s.hdr_len
        t.iov[2 + t.count].iov_len = s.payload
        t.count += 1
        t.had += s.payload
        if s.proto == IP_PROTO_TCP:
            t.flags |= frame[s.l4 + TCP_OFF_FLAGS]
        if s.payload < t.size or (s.proto == IP_PROTO_TCP and t.flags & (TCP_FLAG_PSH | TCP_FLAG_FIN)):
            tap_close(t)
        return
    tap_close(t)
    if not segment_begins(frame, &s) or not shape_csum_ok(frame, &s):
        tap_whole(t, c, i)
        return
    t.count = 1
    t.size = t.had = s.payload
    t.shape = s
    t.first = frame
    t.flags = frame[s.l4 + TCP_OFF_FLAGS]
    t.iov[2].iov_base = frame + s.hdr_len
    t.iov[2].iov_len = s.payload


cdef void tunnel_put(Edge *e, Columns *c, uint32_t i) noexcept nogil:
    """A packet of the underlay: as it is, or a super-frame inside of which the kernel cuts (tunnel GSO)."""
    cdef TapState *t = <TapState *>e
    cdef uint8_t hdr[VNET_TUNNEL_LEN]
    cdef uint8_t *outer = row_head(c, i)
    cdef uint8_t *frame = row_body(c, i)
    cdef uint32_t head = c.head_len[i], at = 0, size, number = 0
    cdef Shape s
    cdef iovec iov[4]
    if head >= 12:
        memcpy(outer, t.macs, 12)
    vnet_put(hdr, VNET_TUNNEL_LEN, NULL, 0, False)
    iov[0].iov_base = hdr
    iov[0].iov_len = VNET_TUNNEL_LEN
    iov[1].iov_base = outer
    iov[1].iov_len = head
    iov[2].iov_base = frame
    iov[2].iov_len = c.len[i]
    if c.gso[i] == 0 or not shape_find(frame, c.len[i], &s) or s.payload <= c.gso[i]:
        tap_write(t, iov, 3, head + c.len[i], 1)
        return
    memcpy(t.headers, frame, s.hdr_len)
    vnet_partial(t.headers, &s, s.payload)
    vnet_put_tunnel(hdr, outer, head, &s, c.gso[i], frame[s.l4 + TCP_OFF_FLAGS] & TCP_FLAG_CWR and s.proto == IP_PROTO_TCP)
    iov[2].iov_base = t.headers
    iov[2].iov_len = s.hdr_len
    iov[3].iov_base = frame + s.hdr_len
    iov[3].iov_len = s.payload
    tap_write(t, iov, 4, head + s.hdr_len + s.payload, (s.payload + c.gso[i] - 1) // c.gso[i])


cdef void tap_flush(Edge *e) noexcept nogil:
    tap_close(<TapState *>e)


cdef class TapEdge(LiveEdge):
    """The file of a TAP device with IFF_VNET_HDR (10 bytes), not blocking. ``offload``: it takes and gives super-frames.
    ``macs``: it is an underlay's, with tunnel offloads (a header of 24 bytes): whom its packets are for, and from. The descriptor stays its opener's to close, after this object is out of use."""

    def __cinit__(self, int fd, *, bint offload=False, bytes macs=None):
        cdef TapState *t = <TapState *>calloc(1, sizeof(TapState))
        if t == NULL:
            raise MemoryError
        self.e = &t.e
        self.offload = offload
        t.offload = offload
        t.hdr_len = VNET_HDR_LEN
        t.e.fd = fd
        t.e.fill = tap_fill
        t.e.put = tap_put
        if macs is not None:
            if len(macs) != 12:
                raise ValueError(f"MACs of {len(macs)} bytes: 12")
            t.hdr_len = VNET_TUNNEL_LEN
            memcpy(t.macs, <char *>macs, 12)
            t.e.put = tunnel_put
        t.e.flush = tap_flush

    def __dealloc__(self):
        free(self.e)

    def write(self, PacketBatch batch not None):
        """The rows that passed, each as it is, whatever port they leave by: how many were written, and how many were not, for the
        kernel did not take them or they are no Ethernet frames."""
        cdef Columns *c = &batch.c
        cdef uint32_t k, i
        cdef uint64_t asked = 0, before = self.e.n.tx_packets
        with nogil:
            for k in range(row_count(c)):
                i = row_at(c, k)
                if c.verdict[i] == PASS:
                    asked += 1
                    if c.link[i] == LINK_ETHERNET:
                        tap_whole(<TapState *>self.e, c, i)
        return self.e.n.tx_packets - before, asked - (self.e.n.tx_packets - before)
