"""A socket that whole batches are received from: what the kinds of it have in common."""
from libc.errno cimport EAGAIN, EINTR
from libc.stdint cimport int64_t, uint16_t, uint32_t

from vxlanfast._ext.batch cimport Columns, PacketBatch
from vxlanfast._ext.io.slots cimport SLOT_COUNT, now_ns, set_buffer, set_flag, slots_close, slots_open, slots_receive
from vxlanfast._ext.io.system cimport SOL_SOCKET, SO_TIMESTAMPNS


cdef class Arrivals:
    """Receives whole batches. Made by a subclass: MirrorSocket, PacketSocket. The socket stays its owner's: keep it open, close it
    afterwards. Counters: ``packets``, ``bytes`` (as they were sent), ``truncated`` (longer than was taken). One thread at a time."""

    def __dealloc__(self):
        slots_close(&self.s)

    cdef int begin(self, int fd, str what, uint32_t snaplen, int buffer_len) except -1:
        self.fd = fd
        self.what = what
        if not slots_open(&self.s, snaplen):
            raise MemoryError
        set_flag(fd, SOL_SOCKET, SO_TIMESTAMPNS)
        self.buffer_len = set_buffer(fd, buffer_len)
        return 0

    cdef void make_row(self, Columns *c, uint32_t k, uint16_t port_in, int64_t now) noexcept nogil:
        """Message ``k`` as a row, if it is one that is wanted."""

    cdef void add_row(self, Columns *c, uint32_t off, uint32_t n, uint32_t whole, uint16_t link, uint16_t port_in,
                      int64_t ts_ns) noexcept nogil:
        """``n`` bytes at ``off``, of ``whole`` that were sent. The slots were zeroed when they were received into."""
        cdef uint32_t i = c.n
        c.off[i] = off
        c.len[i] = n
        c.wire_len[i] = whole
        c.rec[i] = 0xFFFFFFFFU
        c.ts_ns[i] = ts_ns
        c.link[i] = link
        c.port_in[i] = port_in
        c.n = c.n_source = i + 1
        self.packets += 1

    def receive(self, PacketBatch batch not None, uint16_t port_in=0, uint32_t limit=1024):
        """Add what is there now, ``limit`` messages at most, as rows of ``batch``: how many rows. It never waits.

        OSError: what the socket says: of an interface, ENETDOWN when it goes down (it goes on when that is up again); of UDP,
        an ICMP error about something sent by it.
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
            raise OSError(-n, f"receiving by {self.what}")
        return c.n - first

    def fileno(self):
        """The socket, for who waits."""
        return self.fd
