"""A UDP socket that datagrams arrive at, as a way in: whole batches of packets with the headers they came under.

The kernel keeps a datagram's IP and UDP headers to itself and tells addresses, ports, TTL and TOS apart; so they are written
again in front of the payload, and rows are IP packets (link type RAW, 101) as a capture of the wire would have them.
"""
from libc.errno cimport errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from vxlanfast._ext.batch cimport Columns
from vxlanfast._ext.io.arrivals cimport Arrivals
from vxlanfast._ext.io.slots cimport set_flag, slot_place, slot_time
from vxlanfast._ext.io.system cimport (
    AF_INET, AF_INET6, CMSG_DATA, CMSG_FIRSTHDR, CMSG_NXTHDR, SCM_TIMESTAMPNS, SO_RXQ_OVFL, SOL_SOCKET, cmsghdr, getsockopt,
    msghdr,
)
from vxlanfast._ext.wire.csum cimport csum, csum_finish_udp, csum_pseudo6
from vxlanfast._ext.wire.endian cimport load_be16, load_be32, load_host32
from vxlanfast._ext.wire.ipv4 cimport IP_PROTO_UDP, IPV4_HDR_LEN, ipv4_write
from vxlanfast._ext.wire.ipv6 cimport IPV6_HDR_LEN, IPV6_OFF_DST, IPV6_OFF_SRC, ipv6_write
from vxlanfast._ext.wire.link cimport LINK_RAW
from vxlanfast._ext.wire.udp cimport UDP_HDR_LEN, udp_set_csum, udp_write

cdef extern from "<netinet/in.h>" nogil:
    enum:
        IPPROTO_IP
        IPPROTO_IPV6
        IP_PKTINFO
        IP_RECVTOS
        IP_RECVTTL
        IP_TOS
        IP_TTL
        IPV6_HOPLIMIT
        IPV6_PKTINFO
        IPV6_RECVHOPLIMIT
        IPV6_RECVPKTINFO
        IPV6_RECVTCLASS
        IPV6_TCLASS

cdef extern from "<sys/socket.h>" nogil:
    struct sockaddr:
        pass
    int getsockname(int fd, sockaddr *name, unsigned *length)

cdef extern from *:
    """
    #ifndef SO_MEMINFO
    #define SO_MEMINFO 55
    #endif
    """
    enum:
        SO_MEMINFO

cdef enum:
    DATAGRAM_MAX = 65535
    MEMINFO_DROPS = 8       # SK_MEMINFO_DROPS of linux/sock_diag.h
    MEMINFO_COUNT = 9

cdef struct Said:           # of a datagram, in its control messages
    int64_t ts_ns
    const uint8_t *to       # NULL: nothing said
    uint8_t hops
    uint8_t tos
    uint32_t dropped
    bint dropped_said


cdef inline void listen_to(msghdr *m, Said *out) noexcept nogil:
    cdef cmsghdr *c = CMSG_FIRSTHDR(m)
    cdef const uint8_t *data
    memset(out, 0, sizeof(Said))
    while c != NULL:
        data = CMSG_DATA(c)
        if c.cmsg_level == SOL_SOCKET:
            if c.cmsg_type == SCM_TIMESTAMPNS:
                out.ts_ns = slot_time(c)
            elif c.cmsg_type == SO_RXQ_OVFL:
                memcpy(&out.dropped, data, 4)
                out.dropped_said = True
        elif c.cmsg_level == IPPROTO_IP:
            if c.cmsg_type == IP_PKTINFO:
                out.to = data + 8       # struct in_pktinfo: interface 4, local address 4, destination 4
            elif c.cmsg_type == IP_TTL:
                out.hops = <uint8_t>load_host32(data)
            elif c.cmsg_type == IP_TOS:
                out.tos = data[0]
        elif c.cmsg_level == IPPROTO_IPV6:
            if c.cmsg_type == IPV6_PKTINFO:
                out.to = data           # struct in6_pktinfo: destination 16, interface 4
            elif c.cmsg_type == IPV6_HOPLIMIT:
                out.hops = <uint8_t>load_host32(data)
            elif c.cmsg_type == IPV6_TCLASS:
                out.tos = <uint8_t>load_host32(data)
        c = CMSG_NXTHDR(m, c)


cdef class MirrorSocket(Arrivals):
    """Receives from the bound UDP socket ``fd``.

    ``snaplen``: bytes taken of a datagram's payload. ``buffer_len``: bytes of receive buffer to ask for; what it came to is
    ``buffer_len``. ``bytes``: of payload. ``dropped``: what the kernel threw away since the socket was made because nobody took
    it in time.
    """
    cdef uint16_t port
    cdef bint six
    cdef uint8_t address[16]
    cdef uint32_t drops_seen
    cdef uint64_t drops

    def __cinit__(self, int fd, *, uint32_t snaplen=DATAGRAM_MAX, int buffer_len=1 << 25):
        cdef uint8_t name[128]
        cdef unsigned length = 128
        if not 1 <= snaplen <= DATAGRAM_MAX:
            raise ValueError(f"snaplen = {snaplen}: 1 to {DATAGRAM_MAX} bytes")
        memset(name, 0, 128)
        if getsockname(fd, <sockaddr *>name, &length) != 0:
            raise OSError(errno, f"descriptor {fd} is no socket")
        family = (<uint16_t *>name)[0]
        if family != AF_INET and family != AF_INET6:
            raise ValueError(f"a socket of address family {family}: AF_INET or AF_INET6")
        self.six = family == AF_INET6
        self.port = load_be16(name + 2)
        memcpy(self.address, name + (8 if self.six else 4), 16 if self.six else 4)
        self.begin(fd, f"the socket of UDP port {self.port}", snaplen, buffer_len)
        set_flag(fd, SOL_SOCKET, SO_RXQ_OVFL)
        if self.six:
            for option in (IPV6_RECVPKTINFO, IPV6_RECVHOPLIMIT, IPV6_RECVTCLASS):
                set_flag(fd, IPPROTO_IPV6, option)
        else:
            for option in (IP_PKTINFO, IP_RECVTTL, IP_RECVTOS):
                set_flag(fd, IPPROTO_IP, option)

    cdef void note_drops(self, uint32_t now) noexcept nogil:
        """The kernel's count, which never goes back but wraps."""
        if <int32_t>(now - self.drops_seen) > 0:
            self.drops += now - self.drops_seen
            self.drops_seen = now

    cdef void make_row(self, Columns *c, uint32_t k, uint16_t port_in, int64_t now) noexcept nogil:
        cdef uint32_t taken = 0, off, whole = self.s.messages[k].msg_len, head
        cdef msghdr *m = &self.s.messages[k].msg_hdr
        cdef const uint8_t *name = <const uint8_t *>m.msg_name
        cdef uint8_t *p
        cdef Said said
        listen_to(m, &said)
        if said.dropped_said:
            self.note_drops(said.dropped)
        off = slot_place(&self.s, c, k, &taken)
        if taken < whole:
            self.truncated += 1
        head = (IPV6_HDR_LEN if self.six else IPV4_HDR_LEN) + UDP_HDR_LEN
        off -= head
        p = c.arena + off
        if self.six:
            ipv6_write(p, said.tos, 0, <uint16_t>(UDP_HDR_LEN + whole), IP_PROTO_UDP, said.hops)
            memcpy(p + IPV6_OFF_SRC, name + 8, 16)
            memcpy(p + IPV6_OFF_DST, said.to if said.to != NULL else self.address, 16)
            udp_write(p + IPV6_HDR_LEN, load_be16(name + 2), self.port, <uint16_t>(UDP_HDR_LEN + whole), 0)
            if taken == whole:  # the kernel has verified the sender's, and zero would say that there was none
                udp_set_csum(p + IPV6_HDR_LEN, csum_finish_udp(
                    csum(p + IPV6_HDR_LEN, UDP_HDR_LEN + whole) + csum_pseudo6(p, UDP_HDR_LEN + whole, IP_PROTO_UDP)))
        else:
            ipv4_write(p, said.tos, <uint16_t>(head + whole), 0, 0, said.hops, IP_PROTO_UDP, load_be32(name + 4),
                       load_be32(said.to if said.to != NULL else self.address))
            udp_write(p + IPV4_HDR_LEN, load_be16(name + 2), self.port, <uint16_t>(UDP_HDR_LEN + whole), 0)
        self.add_row(c, off, head + taken, head + whole, LINK_RAW, port_in, said.ts_ns if said.ts_ns else now)
        self.bytes += whole

    @property
    def dropped(self):
        """Datagrams that the kernel threw away for want of room, or with a wrong checksum, since the socket was made."""
        cdef uint32_t info[MEMINFO_COUNT]
        cdef unsigned length = sizeof(info)
        if getsockopt(self.fd, SOL_SOCKET, SO_MEMINFO, info, &length) == 0 and length >= sizeof(info):
            self.note_drops(info[MEMINFO_DROPS])
        return self.drops

    def counters(self):
        """Everything counted, by name."""
        return {"rx_packets": self.packets, "rx_bytes": self.bytes, "rx_drops": self.dropped, "rx_truncated": self.truncated}

