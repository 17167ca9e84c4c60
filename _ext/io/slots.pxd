"""Many datagrams a system call, each to a place of its own in a batch's arena: what recvmmsg is given, and what it says.

A message's first ``SLOT_LEN`` bytes are received where they will stay, behind ``SLOT_FRONT`` free ones for what is put in
front; only a longer one is copied, with its rest, to the arena's end. So memory is touched as data comes, not as it might.
"""
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from posix.time cimport CLOCK_REALTIME, clock_gettime, timespec

from vxlanfast._ext.batch cimport Columns, batch_grow_arena, batch_grow_rows, rows_init
from vxlanfast._ext.io.system cimport (
    CMSG_DATA, MSG_DONTWAIT, MSG_TRUNC, SOL_SOCKET, SO_RCVBUF, SO_RCVBUFFORCE, cmsghdr, getsockopt, iovec, mmsghdr, recvmmsg,
    setsockopt,
)

cdef enum:
    SLOT_COUNT = 64         # messages a system call
    SLOT_FRONT = 64         # bytes free in front of each: IPv6 and UDP headers are 48, a tag is 4
    SLOT_LEN = 2048         # an inner frame of 1,518 bytes in VXLAN, with room
    SLOT_STRIDE = 2112
    MESSAGE_MAX = 262144    # bytes taken of a message at most: FRAME_LEN_MAX of a capture
    CONTROL_LEN = 256
    NAME_LEN = 128


cdef struct Slots:
    mmsghdr *messages
    iovec *parts            # two each: the slot, and what is too long for it
    uint8_t *control
    uint8_t *names
    uint8_t *spill
    uint32_t limit          # bytes taken of a message
    uint32_t base           # of the messages in hand: where the first slot is in the arena


cdef inline bint slots_open(Slots *s, uint32_t limit) noexcept nogil:
    """False: no memory. ``slots_close`` in any case."""
    s.limit = limit
    s.messages = <mmsghdr *>calloc(SLOT_COUNT, sizeof(mmsghdr))
    s.parts = <iovec *>calloc(SLOT_COUNT * 2, sizeof(iovec))
    s.control = <uint8_t *>calloc(SLOT_COUNT, CONTROL_LEN)
    s.names = <uint8_t *>calloc(SLOT_COUNT, NAME_LEN)
    s.spill = <uint8_t *>calloc(SLOT_COUNT, limit - SLOT_LEN if limit > SLOT_LEN else 1)
    return s.messages != NULL and s.parts != NULL and s.control != NULL and s.names != NULL and s.spill != NULL


cdef inline void slots_close(Slots *s) noexcept nogil:
    free(s.messages)
    free(s.parts)
    free(s.control)
    free(s.names)
    free(s.spill)


cdef inline int slots_receive(Slots *s, int fd, Columns *c, uint32_t want) noexcept nogil:
    """Up to ``want`` messages that are there now into the batch's next slots: how many, or -errno; -1000: no memory.

    ``msg_len`` is a message's whole length, taken or not. Rows are the caller's to make: ``slot_place`` each.
    """
    cdef uint32_t k
    cdef uint64_t room, base = (c.arena_len + 63) & ~<uint64_t>63
    cdef uint32_t first = s.limit if s.limit < SLOT_LEN else SLOT_LEN
    cdef uint32_t rest = s.limit - first
    cdef uint8_t *p
    cdef int n
    if want > SLOT_COUNT:
        want = SLOT_COUNT
    room = base + want * SLOT_STRIDE
    if batch_grow_rows(c, c.n + want) or (room > c.arena_cap and batch_grow_arena(c, room + (room >> 1))):
        return -1000
    p = c.arena + base + SLOT_FRONT
    for k in range(want):
        s.parts[2 * k].iov_base = p
        s.parts[2 * k].iov_len = first
        s.parts[2 * k + 1].iov_base = s.spill + <uint64_t>k * rest
        s.parts[2 * k + 1].iov_len = rest
        s.messages[k].msg_hdr.msg_iov = &s.parts[2 * k]
        s.messages[k].msg_hdr.msg_iovlen = 2 if rest else 1
        s.messages[k].msg_hdr.msg_name = s.names + k * NAME_LEN
        s.messages[k].msg_hdr.msg_namelen = NAME_LEN
        s.messages[k].msg_hdr.msg_control = s.control + k * CONTROL_LEN
        s.messages[k].msg_hdr.msg_controllen = CONTROL_LEN
        s.messages[k].msg_hdr.msg_flags = 0
        p += SLOT_STRIDE
    n = recvmmsg(fd, s.messages, want, MSG_DONTWAIT | MSG_TRUNC, NULL)
    if n < 0:
        return -errno
    s.base = <uint32_t>base
    c.arena_len = base + <uint64_t>n * SLOT_STRIDE
    rows_init(c, c.n, n)
    return n


cdef inline uint32_t slot_place(Slots *s, Columns *c, uint32_t k, uint32_t *taken) noexcept nogil:
    """Where message ``k`` begins in the arena, all that was taken of it together: ``taken`` bytes (fewer: no memory)."""
    cdef uint32_t off = s.base + k * SLOT_STRIDE + SLOT_FRONT
    cdef uint32_t n = s.messages[k].msg_len if s.messages[k].msg_len < s.limit else s.limit
    cdef uint64_t at, end
    if n > SLOT_LEN:
        at = ((c.arena_len + 63) & ~<uint64_t>63) + SLOT_FRONT
        end = at + n
        if end > c.arena_cap and batch_grow_arena(c, end + (end >> 1)):
            n = SLOT_LEN
        else:
            memcpy(c.arena + at, c.arena + off, SLOT_LEN)
            memcpy(c.arena + at + SLOT_LEN, s.spill + <uint64_t>k * (s.limit - SLOT_LEN), n - SLOT_LEN)
            c.arena_len = end
            off = <uint32_t>at
    taken[0] = n
    return off


cdef inline int64_t slot_time(cmsghdr *m) noexcept nogil:
    """Of a SCM_TIMESTAMPNS message: nanoseconds since 1970."""
    cdef timespec t
    memcpy(&t, CMSG_DATA(m), sizeof(timespec))
    return <int64_t>t.tv_sec * 1000000000 + t.tv_nsec


cdef inline int64_t now_ns() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_REALTIME, &t)
    return <int64_t>t.tv_sec * 1000000000 + t.tv_nsec


cdef inline int set_flag(int fd, int level, int name) noexcept nogil:
    """A socket option on: 0, or the error."""
    cdef int one = 1
    return 0 if setsockopt(fd, level, name, &one, sizeof(one)) == 0 else errno


cdef inline int set_buffer(int fd, int size) noexcept nogil:
    """Receive buffer of ``size`` bytes, over the system's limit where we may: what it came to (the kernel counts double)."""
    cdef int got = 0
    cdef unsigned length = sizeof(got)
    if setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)) != 0:
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size))
    getsockopt(fd, SOL_SOCKET, SO_RCVBUF, &got, &length)
    return got
