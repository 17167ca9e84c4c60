"""The wheel: timers started, stopped, met."""
from libc.stdint cimport uint32_t, uint64_t, int64_t
from libc.stdlib cimport free
from libc.string cimport memset

from vxlanfast._ext.table.hash cimport table_memory

cdef enum:
    CAPACITY_MAX = 1 << 30

TICK_NS = WHEEL_TICK_NS
SLOTS = WHEEL_SLOTS


cdef class Wheel:
    """Timers for the numbers below ``capacity``. Time is whatever the caller says, and never goes back."""

    def __cinit__(self, uint32_t capacity):
        cdef OwnTimer *own
        cdef uint32_t i
        if not 1 <= capacity <= CAPACITY_MAX:
            raise ValueError(f"capacity = {capacity}: 1 to {CAPACITY_MAX} timers")
        self.slots = <uint32_t *>table_memory(WHEEL_SLOTS * sizeof(uint32_t))
        self.own = table_memory(<uint64_t>capacity * sizeof(OwnTimer))
        if self.own == NULL or self.slots == NULL:
            raise MemoryError(f"no room for {capacity} timers")
        memset(self.slots, 0xFF, WHEEL_SLOTS * sizeof(uint32_t))
        own = <OwnTimer *>self.own
        for i in range(capacity):
            own[i].timer.prev = WHEEL_NONE
        self.capacity = capacity
        self.expires = <char *>&own.expires_ns
        self.timers = <char *>&own.timer
        self.stride = sizeof(OwnTimer)

    def __dealloc__(self):
        free(self.own)
        free(self.slots)

    cdef void link(self, uint32_t number) noexcept nogil:
        """Into the slot of its time: the one that is due next at the earliest, a turn ahead at the latest."""
        cdef Timer *t = wheel_timer(self, number)
        cdef int64_t tick = (wheel_expires(self, number)[0] + WHEEL_TICK_NS - 1) // WHEEL_TICK_NS  # not before its time
        cdef uint32_t slot, first
        if tick < self.tick:
            tick = self.tick
        elif tick > self.tick + WHEEL_SLOTS - 2:
            tick = self.tick + WHEEL_SLOTS - 2  # not the slot behind us, which `expire` may be emptying
        slot = <uint32_t>(tick & (WHEEL_SLOTS - 1))
        first = self.slots[slot]
        t.next = first
        t.prev = WHEEL_FIRST | slot
        if first != WHEEL_NONE:
            wheel_timer(self, first).prev = number
        self.slots[slot] = number

    cdef void start(self, uint32_t number, int64_t expires_ns, int64_t now_ns) noexcept nogil:
        """A timer begins, or begins anew with any time."""
        if not self.begun:
            self.begun = True
            self.tick = now_ns // WHEEL_TICK_NS
        if wheel_has(self, number):
            self.stop(number)
        wheel_expires(self, number)[0] = expires_ns
        self.link(number)
        self.size += 1

    cdef void stop(self, uint32_t number) noexcept nogil:
        """A timer that runs ends without having been met."""
        cdef Timer *t = wheel_timer(self, number)
        if t.next != WHEEL_NONE:
            wheel_timer(self, t.next).prev = t.prev
        if t.prev & WHEEL_FIRST:
            self.slots[t.prev & ~<uint32_t>WHEEL_FIRST] = t.next
        else:
            wheel_timer(self, t.prev).next = t.next
        t.prev = WHEEL_NONE
        self.size -= 1

    cdef uint32_t expire(self, int64_t now_ns, uint32_t *out, uint32_t room, uint32_t budget) noexcept nogil:
        """Numbers whose time has come, in ``out``: how many, ``room`` at most. It looks at ``budget`` timers at most and goes
        on from there the next time; slots cost nothing to speak of."""
        cdef int64_t due = now_ns // WHEEL_TICK_NS
        cdef uint32_t n = 0, number, slot
        if not self.begun:
            return 0
        if due - self.tick >= WHEEL_SLOTS:
            self.tick = due - WHEEL_SLOTS + 1  # a turn meets everybody, however far the clock has jumped
        while self.tick <= due:
            if self.size == 0:
                self.tick = due + 1
                break
            slot = <uint32_t>(self.tick & (WHEEL_SLOTS - 1))
            while self.slots[slot] != WHEEL_NONE:
                if n == room or budget == 0:
                    return n
                number = self.slots[slot]
                budget -= 1
                self.met += 1
                self.stop(number)
                if wheel_expires(self, number)[0] <= now_ns:
                    out[n] = number
                    n += 1
                    continue
                # It was put off, or is further away than a turn: on it goes, to a slot that is not this one.
                self.tick += 1
                self.link(number)
                self.tick -= 1
                self.size += 1
            self.tick += 1
        return n

    def __len__(self):
        return self.size

    def set(self, uint32_t number, int64_t expires_ns, int64_t now_ns):
        """Start a timer, or start it anew."""
        if number >= self.capacity:
            raise ValueError(f"timer {number}: below {self.capacity}")
        self.start(number, expires_ns, now_ns)

    def put_off(self, uint32_t number, int64_t expires_ns):
        """Another, later time for a timer that runs."""
        if number >= self.capacity or not wheel_has(self, number):
            raise ValueError(f"timer {number}: it does not run")
        wheel_put_off(self, number, expires_ns)

    def cancel(self, uint32_t number):
        """Whether the timer ran until now."""
        if number >= self.capacity or not wheel_has(self, number):
            return False
        self.stop(number)
        return True

    def due(self, int64_t now_ns, uint32_t[::1] out not None, uint32_t budget=0xFFFFFFFF):
        """How many numbers, now at the start of ``out``, have met their time; the rest, beyond its room, comes next time."""
        cdef uint32_t n = 0
        cdef uint32_t room = <uint32_t>out.shape[0]
        if room:
            with nogil:
                n = self.expire(now_ns, &out[0], room, budget)
        return n


cdef Wheel wheel_of_entries(uint32_t capacity, void *expires, void *timers, uint64_t stride):
    """A wheel over entries that hold their timers themselves, ``stride`` bytes apart: where the first one's time and its
    ``Timer`` are. A timer of an entry that begins has ``prev`` WHEEL_NONE; the memory must outlive the wheel."""
    cdef Wheel w = Wheel(1)
    w.capacity = capacity
    w.expires = <char *>expires
    w.timers = <char *>timers
    w.stride = stride
    return w
