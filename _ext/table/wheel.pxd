"""Timers of numbered things on a wheel of slots, an eighth of a second each.

A timer is put off by writing its new time and nothing else: it stays in its slot, is met there, and moves on then. So a packet
that keeps a connection alive costs a store. Who looks a thing up compares its time with the clock himself, so that it does not
matter how late the wheel comes by, and it may stop wherever its budget ends.
"""
from libc.stdint cimport uint32_t, uint64_t, int64_t

cdef enum:
    WHEEL_SLOTS = 8192          # 1,024 s; what is further away is met once a turn and waits on
    WHEEL_TICK_NS = 125000000
    WHEEL_NONE = 0xFFFFFFFFU


cdef struct Timer:
    uint32_t next               # in its slot; WHEEL_NONE: the last
    uint32_t prev               # … or, of the first, WHEEL_FIRST and the slot; WHEEL_NONE: not on the wheel


cdef struct OwnTimer:           # of a wheel that has its timers itself
    int64_t expires_ns
    Timer timer


cdef enum:
    WHEEL_FIRST = 0x80000000U


cdef class Wheel:
    cdef void *own              # its memory, where nobody else's entries hold the timers
    cdef char *expires          # by number, `stride` bytes apart: the times …
    cdef char *timers           # … and the places on the wheel
    cdef uint64_t stride
    cdef uint32_t *slots        # first of each; WHEEL_NONE: empty
    cdef readonly uint32_t capacity
    cdef readonly uint32_t size
    cdef readonly uint64_t met  # timers looked at since the start
    cdef int64_t tick           # the slot that is due next, as a count of ticks
    cdef bint begun
    cdef void link(self, uint32_t number) noexcept nogil
    cdef void start(self, uint32_t number, int64_t expires_ns, int64_t now_ns) noexcept nogil
    cdef void stop(self, uint32_t number) noexcept nogil
    cdef uint32_t expire(self, int64_t now_ns, uint32_t *out, uint32_t room, uint32_t budget) noexcept nogil


cdef Wheel wheel_of_entries(uint32_t capacity, void *expires, void *timers, uint64_t stride)


cdef inline int64_t *wheel_expires(Wheel w, uint32_t number) noexcept nogil:
    return <int64_t *>(w.expires + number * w.stride)


cdef inline Timer *wheel_timer(Wheel w, uint32_t number) noexcept nogil:
    return <Timer *>(w.timers + number * w.stride)


cdef inline bint wheel_has(Wheel w, uint32_t number) noexcept nogil:
    return wheel_timer(w, number).prev != WHEEL_NONE


cdef inline void wheel_put_off(Wheel w, uint32_t number, int64_t expires_ns) noexcept nogil:
    """Another, later time for a timer that runs. An earlier one would be met late: ``start`` is for that."""
    wheel_expires(w, number)[0] = expires_ns
