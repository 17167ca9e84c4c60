"""The loop's two ends: waits for whatever has packets, reads them as one batch, and sends each row by the port it leaves by."""
from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

from vxlanfast._ext.batch cimport Columns, PacketBatch, row_at, row_count
from vxlanfast._ext.io.edge cimport Edge, FILL_ARENA, FILL_ROWS, LiveEdge
from vxlanfast._ext.verdict cimport PASS

cdef extern from * nogil:
    """
    #include <stdint.h>
    #include <sys/epoll.h>
    #include <sys/eventfd.h>
    #include <time.h>
    #include <unistd.h>

    static int64_t vf_monotonic_ns(void)
    {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
    }

    static int vf_epoll_add(int epfd, int fd, uint32_t number)
    {
        struct epoll_event e = {.events = EPOLLIN, .data = {.u32 = number}};
        return epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &e);
    }

    /* The numbers of those that are ready. */
    static int vf_epoll_wait(int epfd, uint32_t *numbers, int most, int timeout_ms)
    {
        struct epoll_event events[64];
        int n = epoll_wait(epfd, events, most < 64 ? most : 64, timeout_ms);
        for (int i = 0; i < n; i++)
            numbers[i] = events[i].data.u32;
        return n;
    }
    """
    int64_t vf_monotonic_ns()
    int vf_epoll_add(int epfd, int fd, uint32_t number)
    int vf_epoll_wait(int epfd, uint32_t *numbers, int most, int timeout_ms)
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, void *event)
    int eventfd(unsigned initial, int flags)
    ssize_t read(int fd, void *p, size_t n)
    ssize_t write(int fd, const void *p, size_t n)
    int close(int fd)
    int EPOLL_CLOEXEC, EPOLL_CTL_DEL, EFD_NONBLOCK, EFD_CLOEXEC

cdef enum:
    READY_MAX = 64
    WAKE = 0xFFFFFFFFU
    PORTS = 65536
    SHARE = 64              # rows of one edge before the others have their turn


cdef class Poller:
    """Live edges by the plane's port numbers. One thread waits and sends; ``wake`` may be called from any."""
    cdef int epfd
    cdef int waker
    cdef list edges             # (port, edge)
    cdef Edge *by_port[PORTS]
    cdef Edge *touched[PORTS]
    cdef uint16_t ports[PORTS]  # by the edge's number here
    cdef Edge *by_number[PORTS]
    cdef uint32_t n_numbers
    cdef readonly uint64_t no_port      # rows that were to leave by a port without an edge
    cdef readonly uint64_t waits        # times that it slept

    def __cinit__(self):
        self.edges = []
        self.epfd = epoll_create1(EPOLL_CLOEXEC)
        self.waker = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        if self.epfd < 0 or self.waker < 0 or vf_epoll_add(self.epfd, self.waker, WAKE):
            raise OSError(errno, "epoll")

    def __dealloc__(self):
        if self.epfd > 0:
            close(self.epfd)
        if self.waker > 0:
            close(self.waker)

    def add(self, uint16_t port, LiveEdge edge not None, *, bint send=True):
        """Rows of ``port`` come by this edge, and leave by it if ``send``. A port may have several that it comes by."""
        cdef uint32_t number
        if self.n_numbers >= PORTS:
            raise ValueError(f"{PORTS} edges: no more")
        number = self.n_numbers
        if edge.e.fd >= 0 and vf_epoll_add(self.epfd, edge.e.fd, number):
            raise OSError(errno, f"epoll of descriptor {edge.e.fd}")
        self.n_numbers += 1
        self.by_number[number] = edge.e
        self.ports[number] = port
        if send:
            self.by_port[port] = edge.e
        self.edges.append((port, edge))

    def remove(self, LiveEdge edge not None):
        """It is read from and written to no more."""
        cdef uint32_t k
        for k in range(self.n_numbers):
            if self.by_number[k] == edge.e:
                epoll_ctl(self.epfd, EPOLL_CTL_DEL, edge.e.fd, NULL)
                self.by_number[k] = NULL
                if self.by_port[self.ports[k]] == edge.e:
                    self.by_port[self.ports[k]] = NULL
        self.edges = [one for one in self.edges if one[1] is not edge]

    def clear(self):
        """All of them are gone, and numbers begin anew."""
        for _, edge in list(self.edges):
            self.remove(edge)
        self.n_numbers = 0

    def wake(self):
        """Whoever waits returns at once."""
        cdef uint64_t one = 1
        write(self.waker, &one, 8)

    def broken(self):
        """Edges that a read ended, as (port, edge)."""
        cdef LiveEdge one
        out = []
        for port, edge in self.edges:
            one = edge
            if one.e.broken:
                out.append((port, edge))
        return out

    cdef int gather(self, Columns *c, const uint32_t *numbers, int ready) noexcept nogil:
        """What the ready ones have; whether one of them broke."""
        cdef int k, got, failed = 0
        cdef int64_t now = vf_monotonic_ns()
        cdef uint64_t one
        cdef Edge *e
        for k in range(ready):
            if numbers[k] == WAKE:
                read(self.waker, &one, 8)
                continue
            e = self.by_number[numbers[k]]
            if e == NULL or e.broken or c.n >= FILL_ROWS:
                continue
            got = e.fill(e, c, self.ports[numbers[k]], now, SHARE)
            if got < 0:
                e.broken = -got
                epoll_ctl(self.epfd, EPOLL_CTL_DEL, e.fd, NULL)
                failed = 1
        return failed

    def wait(self, PacketBatch batch not None, int timeout_ms, int64_t spin_us=0):
        """Empty the batch and fill it with what is there, waiting ``timeout_ms`` (-1: for ever) at most for something to be; the
        first ``spin_us`` of that without sleeping. Returns (rows, now_ns of the monotonic clock, whether an edge broke)."""
        cdef Columns *c = &batch.c
        cdef uint32_t numbers[READY_MAX]
        cdef int ready, failed = 0
        cdef int64_t end
        batch._require_idle("fill")
        batch.reset()
        with nogil:
            ready = vf_epoll_wait(self.epfd, numbers, READY_MAX, 0)
            if ready == 0 and timeout_ms:
                end = vf_monotonic_ns() + spin_us * 1000
                while ready == 0 and spin_us and vf_monotonic_ns() < end:
                    ready = vf_epoll_wait(self.epfd, numbers, READY_MAX, 0)
                if ready == 0:
                    self.waits += 1
                    ready = vf_epoll_wait(self.epfd, numbers, READY_MAX, timeout_ms)
            if ready > 0:
                failed = self.gather(c, numbers, ready)
        if ready < 0 and errno != EINTR:
            raise OSError(errno, "epoll")
        return c.n, vf_monotonic_ns(), bool(failed)

    cdef uint32_t send_rows(self, Columns *c) noexcept nogil:
        cdef uint32_t k, i, n = 0, lost = 0
        cdef Edge *e
        for k in range(row_count(c)):
            i = row_at(c, k)
            if c.verdict[i] != PASS:
                continue
            e = self.by_port[c.port_out[i]]
            if e == NULL or e.broken:
                lost += 1
                continue
            if not e.dirty:
                e.dirty = True
                self.touched[n] = e
                n += 1
            e.put(e, c, i)
        for k in range(n):
            self.touched[k].flush(self.touched[k])
            self.touched[k].dirty = False
        self.no_port += lost
        return lost

    def send(self, PacketBatch batch not None):
        """Every row that passed leaves by its port; how many had none to leave by."""
        cdef uint32_t lost
        with nogil:
            lost = self.send_rows(&batch.c)
        return lost


def live_batch():
    """A batch with the room that live edges want."""
    return PacketBatch(16 * FILL_ROWS, FILL_ARENA)
