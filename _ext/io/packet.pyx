"""An interface's packet socket (packet(7)), as a way in and out: Ethernet frames as they pass the interface."""
from libc.errno cimport EAGAIN, EINTR, EMSGSIZE, ENOBUFS, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memmove

from vxlanfast._ext.batch cimport Columns, PacketBatch, row_at, row_body, row_count, row_head
from vxlanfast._ext.io.slots cimport (
    CMSG_DATA, CMSG_FIRSTHDR, CMSG_NXTHDR, MESSAGE_MAX, MSG_DONTWAIT, SCM_TIMESTAMPNS, SLOT_COUNT, SO_TIMESTAMPNS, SOL_SOCKET,
    Slots, cmsghdr, getsockopt, iovec, mmsghdr, msghdr, now_ns, sendmmsg, set_buffer, set_flag, slot_place, slot_time,
    slots_close, slots_open, slots_receive,
)
from vxlanfast._ext.verdict cimport PASS
from vxlanfast._ext.wire.endian cimport store_be16
from vxlanfast._ext.wire.eth cimport ETH_OFF_TYPE, ETH_TAG_LEN, ETH_TYPE_8021Q
from vxlanfast._ext.wire.link cimport LINK_ETHERNET

cdef extern from "<linux/if_packet.h>" nogil:
    struct tpacket_auxdata:
        uint32_t tp_status
        uint16_t tp_vlan_tci
        uint16_t tp_vlan_tpid
    struct tpacket_stats:
        uint32_t tp_packets
        uint32_t tp_drops
    struct sockaddr_ll:
        uint8_t sll_pkttype
    enum:
        PACKET_AUXDATA
        PACKET_OUTGOING
        PACKET_STATISTICS
        TP_STATUS_VLAN_TPID_VALID
        TP_STATUS_VLAN_VALID

cdef extern from *:
    """
    #ifndef SOL_PACKET
    #define SOL_PACKET 263
    #endif
    #ifndef PACKET_IGNORE_OUTGOING
    #define PACKET_IGNORE_OUTGOING 23
    #endif
    """
    enum:
        SOL_PACKET
        PACKET_IGNORE_OUTGOING

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long count, int timeout_ms)
    enum:
        POLLOUT

cdef extern from "<sys/uio.h>" nogil:
    ssize_t writev(int fd, iovec *parts, int count)

cdef enum:
    SEND_WAIT_MS = 10       # for a full queue to take more, before a frame is dropped


cdef class PacketSocket:
    """Receives from and sends by the packet socket ``fd``, which its owner has made (SOCK_RAW, protocol 0: nothing arrives
    before it is bound to an interface), binds, and closes.

    ``outgoing``: frames that leave the interface are received too, a capture's view; ``False``: those that arrive alone, an
    underlay's. A VLAN tag that the kernel or the card took off is put back. ``snaplen``: bytes taken of a frame.
    Counters: ``packets``, ``bytes``, ``truncated``, ``dropped`` (by the kernel, for want of room), ``sent``, ``sent_bytes``,
    ``send_drops``, ``send_too_long`` (of them: longer than the interface's MTU). One thread at a time.
    """
    cdef Slots s
    cdef int fd
    cdef bint outgoing
    cdef uint64_t drops
    cdef mmsghdr *messages
    cdef iovec *parts
    cdef uint32_t *rows
    cdef readonly int buffer_len
    cdef readonly int send_errno
    cdef readonly uint64_t packets
    cdef readonly uint64_t bytes
    cdef readonly uint64_t truncated
    cdef readonly uint64_t sent
    cdef readonly uint64_t sent_bytes
    cdef readonly uint64_t send_drops
    cdef readonly uint64_t send_too_long

    def __cinit__(self, int fd, *, bint outgoing=True, uint32_t snaplen=MESSAGE_MAX, int buffer_len=1 << 25):
        cdef int error
        if not 64 <= snaplen <= MESSAGE_MAX:
            raise ValueError(f"snaplen = {snaplen}: 64 to {MESSAGE_MAX} bytes")
        self.fd = fd
        self.outgoing = outgoing
        self.messages = <mmsghdr *>calloc(SLOT_COUNT, sizeof(mmsghdr))
        self.parts = <iovec *>calloc(SLOT_COUNT * 2, sizeof(iovec))
        self.rows = <uint32_t *>calloc(SLOT_COUNT, 4)
        if not slots_open(&self.s, snaplen) or self.messages == NULL or self.parts == NULL or self.rows == NULL:
            raise MemoryError
        error = set_flag(fd, SOL_PACKET, PACKET_AUXDATA)
        if error:
            raise OSError(error, f"descriptor {fd} is no packet socket")
        if not outgoing:
            set_flag(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING)  # Linux 4.20; rows are looked at as well
        set_flag(fd, SOL_SOCKET, SO_TIMESTAMPNS)
        self.buffer_len = set_buffer(fd, buffer_len)

    def __dealloc__(self):
        slots_close(&self.s)
        free(self.messages)
        free(self.parts)
        free(self.rows)

    cdef void make_row(self, Columns *c, uint32_t k, uint16_t port_in, int64_t now) noexcept nogil:
        cdef uint32_t i = c.n, taken = 0, off, whole = self.s.messages[k].msg_len
        cdef msghdr *m = &self.s.messages[k].msg_hdr
        cdef cmsghdr *control = CMSG_FIRSTHDR(m)
        cdef tpacket_auxdata aux
        cdef int64_t ts_ns = 0
        cdef uint8_t *p
        aux.tp_status = 0
        if not self.outgoing and (<sockaddr_ll *>m.msg_name).sll_pkttype == PACKET_OUTGOING:
            return
        while control != NULL:
            if control.cmsg_level == SOL_SOCKET and control.cmsg_type == SCM_TIMESTAMPNS:
                ts_ns = slot_time(control)
            elif control.cmsg_level == SOL_PACKET and control.cmsg_type == PACKET_AUXDATA:
                memcpy(&aux, CMSG_DATA(control), sizeof(aux))
            control = CMSG_NXTHDR(m, control)
        off = slot_place(&self.s, c, k, &taken)
        if taken < whole:
            self.truncated += 1
        if aux.tp_status & TP_STATUS_VLAN_VALID and taken >= ETH_OFF_TYPE:
            p = c.arena + off - ETH_TAG_LEN
            memmove(p, p + ETH_TAG_LEN, ETH_OFF_TYPE)
            store_be16(p + ETH_OFF_TYPE,
                       aux.tp_vlan_tpid if aux.tp_status & TP_STATUS_VLAN_TPID_VALID else <uint16_t>ETH_TYPE_8021Q)
            store_be16(p + ETH_OFF_TYPE + 2, aux.tp_vlan_tci)
            off -= ETH_TAG_LEN
            taken += ETH_TAG_LEN
            whole += ETH_TAG_LEN
        c.off[i] = off
        c.len[i] = taken
        c.wire_len[i] = whole
        c.rec[i] = 0xFFFFFFFFU
        c.ts_ns[i] = ts_ns if ts_ns else now
        c.link[i] = LINK_ETHERNET
        c.port_in[i] = port_in
        c.n = c.n_source = i + 1
        self.packets += 1
        self.bytes += whole

    def receive(self, PacketBatch batch not None, uint16_t port_in=0, uint32_t limit=1024):
        """Add the frames that are there now, ``limit`` at most, as rows of ``batch``: how many. It never waits.

        OSError: what the socket says, such as ENETDOWN when its interface goes down (it goes on when that is up again).
        """
        cdef Columns *c = &batch.c
        cdef uint32_t total = 0, want, k, first
        cdef int n = 0
        cdef int64_t now
        batch._require_idle("receive into")
        first = c.n
        with nogil:
            now = now_ns()
            while total < limit:
                want = limit - total if limit - total < SLOT_COUNT else SLOT_COUNT
                n = slots_receive(&self.s, self.fd, c, want)
                if n == -EINTR:
                    continue
                if n <= 0:
                    break
                for k in range(<uint32_t>n):
                    self.make_row(c, k, port_in, now)
                total += n
                if <uint32_t>n < want:
                    break
        if n == -1000:
            if total == 0:
                raise MemoryError("no room to receive into")
        elif n < 0 and n != -EAGAIN and total == 0:
            raise OSError(-n, "receiving by a packet socket")
        return c.n - first

    cdef uint32_t send_gathered(self, uint32_t count) noexcept nogil:
        """The frames of ``messages``, each sent or counted: how many were sent."""
        cdef uint32_t at = 0, done = 0
        cdef bint waited = False
        cdef pollfd ready
        cdef int n, error
        while at < count:
            n = sendmmsg(self.fd, self.messages + at, count - at, MSG_DONTWAIT)
            if n > 0:
                while n:
                    self.sent_bytes += self.parts[2 * at].iov_len + self.parts[2 * at + 1].iov_len
                    at += 1
                    done += 1
                    n -= 1
                waited = False
                continue
            error = errno
            if error == EINTR:
                continue
            if (error == EAGAIN or error == ENOBUFS) and not waited:
                ready.fd = self.fd
                ready.events = POLLOUT
                poll(&ready, 1, SEND_WAIT_MS)
                waited = True
                continue
            # This frame cannot go; the next may.
            self.send_errno = error
            self.send_drops += 1
            if error == EMSGSIZE:
                self.send_too_long += 1
            at += 1
        self.sent += done
        return done

    def send(self, PacketBatch batch not None, port_out=None):
        """Send the rows that passed, in leaving order; of ``port_out``, where it is given: how many the kernel took.

        What it did not take is counted, its last reason in ``send_errno``. Rows that are no Ethernet frames stay.
        """
        cdef Columns *c = &batch.c
        cdef uint32_t k, i, n = 0, done = 0
        cdef bint every = port_out is None
        cdef uint16_t port = 0 if every else port_out
        with nogil:
            for k in range(row_count(c)):
                i = row_at(c, k)
                if c.verdict[i] != PASS or c.link[i] != LINK_ETHERNET or not (every or c.port_out[i] == port):
                    continue
                self.parts[2 * n].iov_base = row_head(c, i)
                self.parts[2 * n].iov_len = c.head_len[i]
                self.parts[2 * n + 1].iov_base = row_body(c, i)
                self.parts[2 * n + 1].iov_len = c.len[i]
                self.messages[n].msg_hdr.msg_iov = &self.parts[2 * n]
                self.messages[n].msg_hdr.msg_iovlen = 2
                n += 1
                if n == SLOT_COUNT:
                    done += self.send_gathered(n)
                    n = 0
            done += self.send_gathered(n)
        return done

    def fileno(self):
        """The socket, for who waits."""
        return self.fd

    @property
    def dropped(self):
        """Frames that the kernel threw away for want of room since the socket was made."""
        cdef tpacket_stats stats
        cdef unsigned length = sizeof(stats)
        # Asking sets the kernel's count to zero.
        if getsockopt(self.fd, SOL_PACKET, PACKET_STATISTICS, &stats, &length) == 0:
            self.drops += stats.tp_drops
        return self.drops

    def counters(self):
        """Everything counted, by name."""
        return {
            "rx_packets": self.packets, "rx_bytes": self.bytes, "rx_drops": self.dropped, "rx_truncated": self.truncated,
            "tx_packets": self.sent, "tx_bytes": self.sent_bytes, "tx_drops": self.send_drops,
            "tx_too_long": self.send_too_long,
        }


def write_frames(int fd, PacketBatch batch not None):
    """Write the rows that passed and are Ethernet frames to a TAP device, a call each: ``(written, refused)``."""
    cdef Columns *c = &batch.c
    cdef uint32_t k, i
    cdef uint64_t written = 0, refused = 0
    cdef iovec parts[2]
    cdef ssize_t n
    with nogil:
        for k in range(row_count(c)):
            i = row_at(c, k)
            if c.verdict[i] != PASS:
                continue
            n = -1
            if c.link[i] == LINK_ETHERNET:
                parts[0].iov_base = row_head(c, i)
                parts[0].iov_len = c.head_len[i]
                parts[1].iov_base = row_body(c, i)
                parts[1].iov_len = c.len[i]
                n = writev(fd, parts, 2)
                while n < 0 and errno == EINTR:
                    n = writev(fd, parts, 2)
            if n >= 0:
                written += 1
            else:
                refused += 1
    return written, refused
