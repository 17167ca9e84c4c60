"""Forwarding table: where a MAC of a network lives. Fixed memory, one cache line a look-up.

A bucket is a cache line of five keys and their destinations. An entry that finds its bucket full goes to the next one, and
every bucket it passed counts it, so that a look-up stops at the first bucket nobody passed and nothing is left behind when
an entry goes. What only learning and ageing need lies beside, by slot, and a look-up never touches it.

Destinations are numbers that mean nothing here; each has its learned entries in a list, oldest first.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t

cdef enum:
    FDB_WAYS = 5
    FDB_NONE = 0xFFFFFFFFU
    FDB_NETS_MAX = 65536
    FDB_MOVES_MAX = 5           # more of them in the window freeze a MAC where it is (as RFC 7432 §15.1 counts)
    FDB_MOVE_WINDOW_S = 180
    FDB_TICK_NS = 1000000000    # ageing looks once a second


cdef enum FdbState:
    FDB_LEARNED = 0
    FDB_STATIC = 1              # authoritative: learning neither moves nor ages it
    FDB_LOCAL = 2               # an address of ours


cdef enum FdbLearn:
    LEARN_KNOWN = 0             # here already; its age starts anew
    LEARN_NEW = 1
    LEARN_MOVED = 2
    LEARN_REFUSED = 3           # an authoritative entry says otherwise
    LEARN_FROZEN = 4            # moved too often; it stays where it was
    LEARN_FULL = 5              # no room, and nothing of this network to give up


cdef struct FdbBucket:
    uint64_t keys[FDB_WAYS]     # network << 48 | MAC; 0: free (00:00:00:00:00:00 is no station's)
    uint32_t dests[FDB_WAYS]
    uint32_t passed             # entries that went on since this bucket was full


cdef struct FdbMeta:
    int64_t updated_ns          # learned: last frame from it; others: when they were set
    uint32_t newer              # learned entries of the same destination, in order of age
    uint32_t older
    uint32_t linked_s           # the second it took its place in that order
    uint32_t window_s           # the second the moves below began to count
    uint8_t moves
    uint8_t state
    uint8_t frozen


cdef struct FdbOwner:           # a destination, as the owner of what was learned from it
    uint32_t newest
    uint32_t oldest
    uint32_t count
    uint32_t next               # of the same network
    uint16_t net
    bint listed


cdef struct FdbNet:
    uint32_t learned
    uint32_t limit
    uint32_t owners             # list of those that ever learned here; FDB_NONE: none


cdef struct FdbCounters:
    uint64_t learned
    uint64_t moved
    uint64_t refused            # against an authoritative entry
    uint64_t frozen             # moves of a frozen MAC
    uint64_t froze              # MACs that became frozen
    uint64_t evicted            # learned entries that made room
    uint64_t aged
    uint64_t full               # not learned: no room


cdef class FdbTable:
    cdef FdbBucket *buckets
    cdef FdbMeta *meta
    cdef FdbOwner *owners
    cdef FdbNet *nets
    cdef uint64_t seed
    cdef uint32_t mask          # buckets - 1
    cdef uint32_t n_owners
    cdef readonly uint32_t capacity
    cdef readonly uint32_t size
    cdef readonly uint32_t owner_limit      # learned entries of one destination at most
    cdef readonly int64_t ageing_ns         # 0: never
    cdef int64_t next_tick_ns
    cdef FdbCounters counters
    cdef FdbLearn learn(self, uint64_t key, uint32_t at, uint32_t dest, int64_t now_ns) noexcept nogil
    cdef uint32_t put(self, uint64_t key, uint32_t dest, uint8_t state, int64_t now_ns) noexcept nogil
    cdef void remove(self, uint32_t slot) noexcept nogil
    cdef void age(self, int64_t now_ns) noexcept nogil
    cdef bint give_up(self, uint32_t owner) noexcept nogil
    cdef bint make_room(self, uint16_t net) noexcept nogil
    cdef void unlink(self, uint32_t slot) noexcept nogil
    cdef void link(self, uint32_t slot, uint32_t dest) noexcept nogil
    cdef dict row(self, uint32_t slot)
    cdef uint32_t home(self, uint64_t key) noexcept nogil
    cdef uint32_t slot_of(self, uint64_t key) noexcept nogil
    cdef uint64_t key_of(self, net, mac) except 0
    cdef int check_dest(self, uint32_t dest, uint16_t net) except -1


cdef inline uint64_t fdb_key(uint16_t net, uint64_t mac) noexcept nogil:
    return <uint64_t>net << 48 | mac


cdef inline uint32_t fdb_find_from(const FdbBucket *buckets, uint32_t mask, uint32_t at, uint64_t key) noexcept nogil:
    """The slot of ``key``, whose bucket is ``at``; FDB_NONE where there is none."""
    cdef const FdbBucket *b
    cdef uint32_t way, hit
    while True:
        b = buckets + at
        hit = FDB_WAYS
        # Every key is compared and none decides a jump: which way holds it cannot be foretold.
        for way in range(FDB_WAYS):
            hit = way if b.keys[way] == key else hit
        if hit != FDB_WAYS:
            return at * FDB_WAYS + hit
        if b.passed == 0:
            return FDB_NONE
        at = (at + 1) & mask
