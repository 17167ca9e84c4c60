"""UDP sockets as an underlay: datagrams of VXLAN in and out by the kernel's own UDP, no privilege needed.

In: recvmmsg with UDP_GRO, which hands over many datagrams of one flow as one; each is a row without a copy, and all of them
share one reconstruction of the headers that the socket took off. Out: sendmmsg with UDP_SEGMENT: segments of a super-frame, and
rows of one flow that have one length, leave as one message. The outer source port is the flow's (RFC 7348 §5): as many sockets
as there are of them in ``fds``, each bound to a port of its own, and a flow keeps to one.
"""
from libc.errno cimport EAGAIN, ECONNREFUSED, EHOSTUNREACH, EINTR, EINVAL, EMSGSIZE, ENETUNREACH, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from vxlanfast._ext.batch cimport Columns, row_body, row_head, rows_init
from vxlanfast._ext.io.edge cimport Edge, LiveEdge
from vxlanfast._ext.io.system cimport (
    AF_INET, AF_INET6, MSG_DONTWAIT, MSG_TRUNC, iovec, mmsghdr, msghdr, recvmmsg, sendmmsg,
)
from vxlanfast._ext.wire.csum cimport csum, csum_finish, csum_finish_udp, csum_fold
from vxlanfast._ext.wire.endian cimport load_be16, load_be32, store_be16
from vxlanfast._ext.wire.eth cimport ETH_HDR_LEN, ETH_TYPE_IPV4, ETH_TYPE_IPV6
from vxlanfast._ext.wire.ipv4 cimport IP_PROTO_TCP, IP_PROTO_UDP, IPV4_HDR_LEN, IPV4_OFF_DST, IPV4_OFF_TOS, ipv4_write
from vxlanfast._ext.wire.ipv6 cimport IPV6_HDR_LEN, IPV6_OFF_DST, IPV6_OFF_SRC, ipv6_traffic_class, ipv6_write
from vxlanfast._ext.wire.link cimport LINK_VXLAN
from vxlanfast._ext.wire.segment cimport Shape, segment_put, shape_csum_off, shape_find, shape_pseudo
from vxlanfast._ext.wire.udp cimport UDP_HDR_LEN, udp_write
from vxlanfast._ext.wire.vxlan cimport VXLAN_HDR_LEN

cdef extern from * nogil:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <netinet/in.h>
    #include <sys/socket.h>
    #include <sys/uio.h>
    #ifndef UDP_SEGMENT
    #define UDP_SEGMENT 103
    #endif
    #ifndef UDP_GRO
    #define UDP_GRO 104
    #endif

    struct vf_said { unsigned gro; unsigned tos; };

    /* What came beside a datagram: the length of each where it is several (0: it is one), and the TOS. */
    static void vf_read_control(struct msghdr *m, struct vf_said *out)
    {
        struct cmsghdr *c;
        out->gro = out->tos = 0;
        for (c = CMSG_FIRSTHDR(m); c != NULL; c = CMSG_NXTHDR(m, c)) {
            int number = 0;
            size_t n = c->cmsg_len - CMSG_LEN(0);
            if (n > sizeof(number))
                n = sizeof(number);
            __builtin_memcpy(&number, CMSG_DATA(c), n);
            if (c->cmsg_level == IPPROTO_UDP && c->cmsg_type == UDP_GRO)
                out->gro = (unsigned)number & 0xffff;
            else if ((c->cmsg_level == SOL_IP && c->cmsg_type == IP_TOS)
                     || (c->cmsg_level == SOL_IPV6 && c->cmsg_type == IPV6_TCLASS))
                out->tos = (unsigned)number & 0xff;
        }
    }

    /* What goes beside one; returns how much of ``room`` it takes. */
    static size_t vf_write_control(unsigned char *room, unsigned segment, int tos, int is_v6)
    {
        struct msghdr m = {.msg_control = room, .msg_controllen = 64};
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        size_t used = 0;
        __builtin_memset(room, 0, 64);
        if (segment) {
            uint16_t number = (uint16_t)segment;
            c->cmsg_level = IPPROTO_UDP;
            c->cmsg_type = UDP_SEGMENT;
            c->cmsg_len = CMSG_LEN(sizeof(number));
            __builtin_memcpy(CMSG_DATA(c), &number, sizeof(number));
            used += CMSG_SPACE(sizeof(number));
            c = (struct cmsghdr *)(room + used);
        }
        if (tos >= 0) {
            c->cmsg_level = is_v6 ? SOL_IPV6 : SOL_IP;
            c->cmsg_type = is_v6 ? IPV6_TCLASS : IP_TOS;
            c->cmsg_len = CMSG_LEN(sizeof(tos));
            __builtin_memcpy(CMSG_DATA(c), &tos, sizeof(tos));
            used += CMSG_SPACE(sizeof(tos));
        }
        return used;
    }
    """
    struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        uint8_t sin_addr[4]
    struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        uint8_t sin6_addr[16]
    struct vf_said:
        unsigned gro
        unsigned tos
    void vf_read_control(msghdr *m, vf_said *out)
    size_t vf_write_control(uint8_t *room, unsigned segment, int tos, int is_v6)

cdef enum:
    FAN_MAX = 64            # sockets that are sent by
    RECV_COUNT = 16         # messages a call
    ROWS_OF_ONE = 128       # datagrams in a message at most: UDP_MAX_SEGMENTS of Linux 6.9
    FRONT_LEN = 128         # in front of each, twice the headers it came with: at most 62 bytes
    RECV_LEN = 65536        # the longest there is
    SEND_COUNT = 32         # messages of a socket before they have to leave
    IOV_COUNT = 4096        # pieces of all messages
    HEADERS_LEN = 262144    # of segments
    GSO_SEGMENTS = 64       # the kernel's UDP_MAX_SEGMENTS was that for long
    GSO_BYTES = 65000       # an IP datagram, less its headers


cdef struct Message:
    uint32_t iov_at
    uint32_t iov_count
    uint32_t bytes
    uint32_t segment        # bytes of each datagram but the last
    uint32_t segments
    uint32_t rows
    int tos
    bint closed             # nothing may follow: a shorter one did
    uint64_t name[4]        # a sockaddr_in or sockaddr_in6; these two as words, for their alignment
    uint64_t control[8]


ctypedef UdpState *UdpStatePtr

cdef struct UdpState:
    Edge e
    bint is_v6
    bint gso                # the kernel cuts ours
    uint16_t port           # of VXLAN, ours and theirs
    uint32_t mtu            # of the overlay: IP bytes of a frame that nobody has cut yet
    uint8_t local[16]
    UdpState *other         # the one of the other family, NULL: there is none
    uint32_t n_fds
    int fds[FAN_MAX]
    int last                # source socket of the message that may go on, -1
    uint32_t counts[FAN_MAX]
    Message *messages       # FAN_MAX times SEND_COUNT
    iovec *iov
    uint32_t n_iov
    uint8_t *headers
    uint32_t n_headers
    mmsghdr out[SEND_COUNT]
    mmsghdr came[RECV_COUNT]
    iovec came_iov[RECV_COUNT]
    uint64_t names[RECV_COUNT][4]
    uint64_t controls[RECV_COUNT][8]


cdef void front_write(UdpState *u, uint8_t *end, const uint8_t *name, uint8_t tos, uint32_t n) noexcept nogil:
    """The headers that the socket took off, up to ``end``: MACs of nobody, the addresses and ports."""
    cdef uint8_t *p
    if u.is_v6:
        p = end - UDP_HDR_LEN - IPV6_HDR_LEN
        ipv6_write(p, tos, 0, <uint16_t>(UDP_HDR_LEN + n), IP_PROTO_UDP, 64)
        memcpy(p + IPV6_OFF_SRC, name + 8, 16)
        memcpy(p + IPV6_OFF_DST, u.local, 16)
    else:
        p = end - UDP_HDR_LEN - IPV4_HDR_LEN
        ipv4_write(p, tos, <uint16_t>(IPV4_HDR_LEN + UDP_HDR_LEN + n), 0, 0, 64, IP_PROTO_UDP,
                   load_be32(name + 4), load_be32(u.local))
    memset(p - ETH_HDR_LEN, 0, 12)
    store_be16(p - 2, ETH_TYPE_IPV6 if u.is_v6 else ETH_TYPE_IPV4)
    udp_write(end - UDP_HDR_LEN, load_be16(name + 2), u.port, <uint16_t>(UDP_HDR_LEN + n), 0)


cdef inline void mend(UdpState *u, Columns *c, uint32_t i) noexcept nogil:
    """A datagram that never was on a wire may come from a kernel that left checksums and cutting to a card: the field holds the
    pseudo header's sum alone, and a frame may be 64 KiB long. Both are put right: the one is nobody's chance, and such a
    length is no datagram's that a wire carried."""
    cdef uint8_t *frame
    cdef uint8_t *field
    cdef Shape s
    cdef uint64_t pseudo, total
    if c.len[i] < VXLAN_HDR_LEN + ETH_HDR_LEN:
        return
    frame = c.arena + c.off[i] + VXLAN_HDR_LEN
    if not shape_find(frame, c.len[i] - VXLAN_HDR_LEN, &s):
        return
    pseudo = shape_pseudo(frame, &s, s.payload)
    field = frame + s.l4 + shape_csum_off(&s)
    if load_be16(field) != csum_fold(pseudo):
        return
    if u.mtu and s.hdr_len - ETH_HDR_LEN + s.payload > u.mtu and u.mtu + ETH_HDR_LEN > s.hdr_len:
        c.gso[i] = <uint16_t>(u.mtu + ETH_HDR_LEN - s.hdr_len)
        return
    total = csum(frame + s.l4, s.hdr_len - s.l4 + s.payload)
    if csum_fold(total + pseudo) != 0xFFFF:
        store_be16(field, csum_finish(total) if s.proto == IP_PROTO_TCP else csum_finish_udp(total))


cdef int udp_fill(Edge *e, Columns *c, uint16_t port, int64_t now_ns, uint32_t most) noexcept nogil:
    cdef UdpState *u = <UdpState *>e
    cdef uint32_t room, k, i, n, at, size, rows = 0, front = ETH_HDR_LEN + (IPV6_HDR_LEN if u.is_v6 else IPV4_HDR_LEN) + UDP_HDR_LEN
    cdef uint64_t base
    cdef int got
    cdef vf_said said
    while rows < most:
        room = <uint32_t>((c.arena_cap - c.arena_len) // (FRONT_LEN + RECV_LEN))
        if room > (c.cap - c.n) // ROWS_OF_ONE:
            room = (c.cap - c.n) // ROWS_OF_ONE
        if room > RECV_COUNT:
            room = RECV_COUNT
        if room == 0:
            return rows
        base = c.arena_len
        for k in range(room):
            u.came_iov[k].iov_base = c.arena + base + k * (FRONT_LEN + RECV_LEN) + FRONT_LEN
            u.came_iov[k].iov_len = RECV_LEN
            u.came[k].msg_hdr.msg_iov = u.came_iov + k
            u.came[k].msg_hdr.msg_iovlen = 1
            u.came[k].msg_hdr.msg_name = u.names[k]
            u.came[k].msg_hdr.msg_namelen = sizeof(sockaddr_in6)
            u.came[k].msg_hdr.msg_control = u.controls[k]
            u.came[k].msg_hdr.msg_controllen = 64
            u.came[k].msg_hdr.msg_flags = 0
        got = recvmmsg(e.fd, u.came, room, MSG_DONTWAIT, NULL)
        if got < 0:
            if errno == EINTR or errno == ECONNREFUSED or errno == EHOSTUNREACH or errno == ENETUNREACH or errno == EMSGSIZE:
                continue  # an ICMP error about something we sent: it is said once, and the socket goes on
            return rows if errno == EAGAIN else -errno
        for k in range(<uint32_t>got):
            n = u.came[k].msg_len
            if u.came[k].msg_hdr.msg_flags & MSG_TRUNC or n == 0:
                e.n.rx_drops += 1
                continue
            vf_read_control(&u.came[k].msg_hdr, &said)
            base = <uint64_t>(<uint8_t *>u.came_iov[k].iov_base - c.arena)
            size = said.gro if said.gro else n
            front_write(u, c.arena + base, <uint8_t *>u.names[k], <uint8_t>said.tos, size)
            if n % size:  # the last one is shorter, and has headers of its own
                front_write(u, c.arena + base - FRONT_LEN // 2, <uint8_t *>u.names[k], <uint8_t>said.tos, n % size)
            at = 0
            while at < n:
                if c.n >= c.cap:
                    e.n.rx_drops += 1
                    break
                i = c.n
                rows_init(c, i, 1)
                c.off[i] = <uint32_t>base + at
                c.len[i] = c.wire_len[i] = size if at + size <= n else n - at
                c.rec[i] = 0xFFFFFFFFU
                c.outer[i] = <uint32_t>base - front - (FRONT_LEN // 2 if at + size > n else 0)
                c.outer_l3[i] = ETH_HDR_LEN
                c.outer_l4[i] = <uint16_t>(front - UDP_HDR_LEN)
                c.ts_ns[i] = now_ns
                c.link[i] = LINK_VXLAN
                c.port_in[i] = port
                c.n = c.n_source = i + 1
                mend(u, c, i)
                e.n.rx_packets += 1
                e.n.rx_bytes += c.len[i]
                e.n.rx_segments += 1 if c.gso[i] == 0 else (c.len[i] + c.gso[i] - 1) // c.gso[i]
                rows += 1
                at += size
            c.arena_len = base + ((n + 127) & ~<uint64_t>63)
        if <uint32_t>got < room:
            break
        # The next call's begin behind the last one's bytes: what lies between the others is lost to this batch.
    return rows


cdef void udp_send_one(UdpState *u, int fd, Message *m) noexcept nogil:
    """What the kernel did not take as several datagrams, one by one."""
    cdef msghdr h
    cdef iovec piece[64]
    cdef mmsghdr one
    cdef uint32_t at = 0, used = 0, k = m.iov_at, left = 0, taken, n, sent = 0
    cdef uint8_t *p = NULL
    while at < m.bytes:
        n = m.segment if at + m.segment < m.bytes else m.bytes - at
        at += n
        used = 0
        one.msg_len = 0
        while n:
            if left == 0:
                p = <uint8_t *>u.iov[k].iov_base
                left = <uint32_t>u.iov[k].iov_len
                k += 1
                continue
            taken = left if left < n else n
            piece[used].iov_base = p
            piece[used].iov_len = taken
            if used < 63:
                used += 1
            p += taken
            left -= taken
            n -= taken
        memset(&h, 0, sizeof(h))
        h.msg_name = m.name
        h.msg_namelen = sizeof(sockaddr_in6) if u.is_v6 else 16
        h.msg_iov = piece
        h.msg_iovlen = used
        h.msg_control = m.control
        h.msg_controllen = vf_write_control(<uint8_t *>m.control, 0, m.tos, u.is_v6)
        if h.msg_controllen == 0:
            h.msg_control = NULL
        one.msg_hdr = h
        if sendmmsg(fd, &one, 1, MSG_DONTWAIT) == 1:
            sent += 1
        else:
            u.e.n.tx_drops += 1
            if errno == EMSGSIZE:
                u.e.n.tx_too_long += 1
    u.e.n.tx_segments += sent
    if sent:
        u.e.n.tx_packets += m.rows
        u.e.n.tx_bytes += m.bytes


cdef void udp_flush_socket(UdpState *u, uint32_t s) noexcept nogil:
    cdef uint32_t k, done = 0, count = u.counts[s]
    cdef Message *m
    cdef int sent, tries = 0
    for k in range(count):
        m = u.messages + s * SEND_COUNT + k
        memset(&u.out[k].msg_hdr, 0, sizeof(msghdr))
        u.out[k].msg_hdr.msg_name = m.name
        u.out[k].msg_hdr.msg_namelen = sizeof(sockaddr_in6) if u.is_v6 else 16
        u.out[k].msg_hdr.msg_iov = u.iov + m.iov_at
        u.out[k].msg_hdr.msg_iovlen = m.iov_count
        u.out[k].msg_hdr.msg_controllen = vf_write_control(<uint8_t *>m.control, m.segment if m.segments > 1 else 0, m.tos, u.is_v6)
        u.out[k].msg_hdr.msg_control = m.control if u.out[k].msg_hdr.msg_controllen else NULL
    while done < count:
        sent = sendmmsg(u.fds[s], u.out + done, count - done, MSG_DONTWAIT)
        if sent > 0:
            for k in range(done, done + sent):
                m = u.messages + s * SEND_COUNT + k
                u.e.n.tx_packets += m.rows
                u.e.n.tx_bytes += m.bytes
                u.e.n.tx_segments += m.segments
            done += sent
            tries = 0
            continue
        m = u.messages + s * SEND_COUNT + done
        if errno == EINTR:
            continue
        if (errno == ECONNREFUSED or errno == EHOSTUNREACH or errno == ENETUNREACH
                or (errno == EMSGSIZE and m.segments == 1)) and tries < 2:
            tries += 1  # an ICMP error about an earlier one is said once, of whatever comes next
            continue
        tries = 0
        if m.segments > 1 and (errno == EINVAL or errno == EMSGSIZE):
            udp_send_one(u, u.fds[s], m)
        else:
            u.e.n.tx_drops += m.rows
            if errno == EMSGSIZE:
                u.e.n.tx_too_long += m.rows
        done += 1
    u.counts[s] = 0


cdef void udp_flush(Edge *e) noexcept nogil:
    """Of both families: the loop knows one of them alone."""
    cdef UdpState *u = <UdpState *>e
    flush_state(u)
    if u.other != NULL:
        flush_state(u.other)


cdef void flush_state(UdpState *u) noexcept nogil:
    cdef uint32_t s
    for s in range(u.n_fds):
        if u.counts[s]:
            udp_flush_socket(u, s)
    u.n_iov = u.n_headers = 0
    u.last = -1


cdef Message *message_for(UdpState *u, const uint8_t *outer, uint32_t size, uint32_t pieces, uint32_t headers) noexcept nogil:
    """The message that datagrams of ``size`` bytes behind the headers ``outer`` become part of: the last one of its socket, where it
    goes to the same VTEP and may be longer yet, or another. NULL: no room at all."""
    cdef const uint8_t *ip = outer + ETH_HDR_LEN
    cdef const uint8_t *udp = ip + (IPV6_HDR_LEN if u.is_v6 else IPV4_HDR_LEN)
    cdef uint32_t s = load_be16(udp) % u.n_fds
    cdef int tos = ipv6_traffic_class(ip) if u.is_v6 else ip[IPV4_OFF_TOS]
    cdef const uint8_t *addr = ip + (IPV6_OFF_DST if u.is_v6 else IPV4_OFF_DST)
    cdef uint32_t addr_len = 16 if u.is_v6 else 4, addr_at = 8 if u.is_v6 else 4
    cdef Message *m
    cdef uint16_t family
    if u.n_iov + pieces > IOV_COUNT or u.n_headers + headers > HEADERS_LEN:
        flush_state(u)
    if u.counts[s]:
        m = u.messages + s * SEND_COUNT + u.counts[s] - 1
        # Its pieces have to lie together: nobody else's came since.
        if (u.gso and u.last == <int>s and not m.closed and m.tos == tos and size <= m.segment
                and m.segments < GSO_SEGMENTS and m.bytes + size <= GSO_BYTES and m.iov_count + pieces <= 1024
                and same_bytes(<uint8_t *>m.name + addr_at, addr, addr_len)):
            return m
    if u.counts[s] == SEND_COUNT:
        udp_flush_socket(u, s)
    m = u.messages + s * SEND_COUNT + u.counts[s]
    u.counts[s] += 1
    u.last = <int>s
    m.iov_at = u.n_iov
    m.iov_count = m.bytes = m.segments = m.rows = 0
    m.segment = size
    m.tos = tos
    m.closed = False
    memset(m.name, 0, sizeof(m.name))
    family = <uint16_t>(AF_INET6 if u.is_v6 else AF_INET)
    memcpy(m.name, &family, 2)
    store_be16(<uint8_t *>m.name + 2, u.port)
    memcpy(<uint8_t *>m.name + addr_at, addr, addr_len)
    return m


cdef inline bint same_bytes(const uint8_t *a, const uint8_t *b, uint32_t n) noexcept nogil:
    cdef uint32_t k
    for k in range(n):
        if a[k] != b[k]:
            return False
    return True


cdef inline void piece_add(UdpState *u, Message *m, const void *p, uint32_t n) noexcept nogil:
    u.iov[u.n_iov].iov_base = <void *>p
    u.iov[u.n_iov].iov_len = n
    u.n_iov += 1
    m.iov_count += 1
    m.bytes += n


cdef void udp_put(Edge *e, Columns *c, uint32_t i) noexcept nogil:
    cdef UdpState *u = <UdpState *>e
    cdef const uint8_t *outer = row_head(c, i)
    cdef uint8_t *frame = row_body(c, i)
    cdef uint8_t *p
    cdef uint32_t off = ETH_HDR_LEN + (IPV6_HDR_LEN if u.is_v6 else IPV4_HDR_LEN) + UDP_HDR_LEN
    cdef uint32_t vxlan = 8, at, size, number, each, gso
    cdef Message *m = NULL
    cdef Shape s
    if c.head_len[i] >= off and (outer[ETH_HDR_LEN] >> 4 == 6) != u.is_v6 and u.other != NULL:
        udp_put(&u.other.e, c, i)
        return
    if c.head_len[i] < off + vxlan or (outer[ETH_HDR_LEN] >> 4 == 6) != u.is_v6:
        e.n.tx_drops += 1  # no tunnel of this family leads there
        return
    gso = c.gso[i]
    if gso and c.head_len[i] == off + vxlan and shape_find(frame, c.len[i], &s) and s.payload > gso:
        # Each segment behind a VXLAN header of its own.
        each = vxlan + s.hdr_len + gso
        at = number = 0
        while at < s.payload:
            size = gso if at + gso < s.payload else s.payload - at
            m = message_for(u, outer, vxlan + s.hdr_len + size, 2, vxlan + s.hdr_len)
            p = u.headers + u.n_headers
            u.n_headers += vxlan + s.hdr_len
            memcpy(p, outer + off, vxlan)
            segment_put(p + vxlan, frame, &s, at, size, number, at + size == s.payload)
            piece_add(u, m, p, vxlan + s.hdr_len)
            piece_add(u, m, frame + s.hdr_len + at, size)
            m.segments += 1
            m.rows += 1 if number == 0 else 0
            if vxlan + s.hdr_len + size < m.segment:
                m.closed = True
            at += size
            number += 1
        return
    size = c.head_len[i] - off + c.len[i]
    m = message_for(u, outer, size, 2, 0)
    piece_add(u, m, outer + off, c.head_len[i] - off)
    if c.len[i]:
        piece_add(u, m, frame, c.len[i])
    m.segments += 1
    m.rows += 1
    if size < m.segment:
        m.closed = True


cdef class UdpEdge(LiveEdge):
    """``fd``: bound to the VTEP's ``address`` (4 or 16 bytes) and ``port``, not blocking; received by. ``fds``: sent by, each bound to
    that address and a port of its own. ``mtu``: of the overlay's packets. ``gso``: the kernel has UDP_SEGMENT. The descriptors stay
    their opener's to close, after this object is out of use."""
    cdef UdpEdge twin

    def __cinit__(self, int fd, fds, *, bytes address, uint16_t port, uint32_t mtu=0, bint gso=True):
        cdef UdpState *u
        if not 1 <= len(fds) <= FAN_MAX:
            raise ValueError(f"{len(fds)} sockets to send by: 1 to {FAN_MAX}")
        if len(address) not in (4, 16):
            raise ValueError(f"address of {len(address)} bytes: 4 or 16")
        u = <UdpState *>calloc(1, sizeof(UdpState))
        if u == NULL:
            raise MemoryError
        self.e = &u.e
        u.messages = <Message *>calloc(FAN_MAX * SEND_COUNT, sizeof(Message))
        u.iov = <iovec *>calloc(IOV_COUNT, sizeof(iovec))
        u.headers = <uint8_t *>calloc(1, HEADERS_LEN)
        if u.messages == NULL or u.iov == NULL or u.headers == NULL:
            raise MemoryError
        u.is_v6 = len(address) == 16
        padded = address.ljust(16, b"\0")
        memcpy(u.local, <char *>padded, 16)
        u.port = port
        u.mtu = mtu
        u.gso = gso
        u.n_fds = len(fds)
        for k, one in enumerate(fds):
            u.fds[k] = one
        u.last = -1
        u.e.fd = fd
        u.e.fill = udp_fill
        u.e.put = udp_put
        u.e.flush = udp_flush

    def also(self, UdpEdge other not None):
        """What goes to VTEPs of the other family leaves by ``other``, which has to live as long."""
        if (<UdpState *>other.e).is_v6 == (<UdpState *>self.e).is_v6:
            raise ValueError("two edges of one family")
        (<UdpState *>self.e).other = <UdpState *>other.e
        self.twin = other

    def __dealloc__(self):
        cdef UdpState *u = <UdpState *>self.e
        if u != NULL:
            free(u.messages)
            free(u.iov)
            free(u.headers)
            free(u)
