"""The filling of a table: a heap of turns, so that it costs slots times the logarithm of entries, whatever the weights are."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, qsort
from libc.string cimport memset

from vxlanfast._ext.table.hash cimport hash_u64

SLOTS = MAGLEV_SLOTS


cdef int by_key(const void *a, const void *b) noexcept nogil:
    cdef const MaglevEntry *x = <const MaglevEntry *>a
    cdef const MaglevEntry *y = <const MaglevEntry *>b
    return (x.key > y.key) - (x.key < y.key)


cdef void sift_down(uint64_t *heap, uint32_t n, uint32_t at) noexcept nogil:
    """The heap's least comes first again, after the one at ``at`` grew."""
    cdef uint64_t value = heap[at]
    cdef uint32_t child = 2 * at + 1
    while child < n:
        if child + 1 < n and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[at] = heap[child]
        at = child
        child = 2 * at + 1
    heap[at] = value


cdef void maglev_fill(uint32_t *slots, uint32_t n_slots, MaglevEntry *entries, uint64_t *turns, uint32_t n) noexcept nogil:
    """Fill ``slots`` (a prime number of them) with the numbers of ``n`` entries, which are sorted and changed; room for ``n`` turns.

    Without any weight all are MAGLEV_NONE. Of each entry, key, number and weight are given.
    """
    cdef MaglevEntry *e
    cdef uint64_t most = 0
    cdef uint32_t i, k, m = 0
    memset(slots, 0xFF, n_slots * sizeof(uint32_t))
    qsort(entries, n, sizeof(MaglevEntry), by_key)
    for i in range(n):
        e = entries + i
        if e.weight == 0:
            continue
        most = max(most, e.weight)
        e.at = maglev_slot(hash_u64(e.key, 1), n_slots)
        e.step = maglev_slot(hash_u64(e.key, 2), n_slots - 1) + 1
        e.taken = 0
        turns[m] = i  # round << 32 | entry: all are in the first one, a heap as they stand
        m += 1
    if m == 0:
        return
    for k in range(n_slots):
        i = <uint32_t>turns[0]
        e = entries + i
        while slots[e.at] != MAGLEV_NONE:
            e.at += e.step
            if e.at >= n_slots:
                e.at -= n_slots
        slots[e.at] = e.number
        e.taken += 1
        turns[0] = (e.taken * most // e.weight) << 32 | i
        sift_down(turns, m, 0)


def share_out(entries, uint32_t n_slots=MAGLEV_SLOTS):
    """The slots of pairs of key and weight: a list of their places in ``entries``, None where nobody has a weight.

    ``n_slots``: a prime (ValueError). For tests and for looking at it; services fill theirs themselves.
    """
    cdef uint32_t i, n = len(entries)
    if n_slots < 2 or any(n_slots % k == 0 for k in range(2, int(n_slots ** 0.5) + 1)):
        raise ValueError(f"{n_slots} slots: a prime number of them")
    cdef uint32_t *slots = <uint32_t *>calloc(n_slots, sizeof(uint32_t))
    cdef MaglevEntry *made = <MaglevEntry *>calloc(n + 1, sizeof(MaglevEntry))
    cdef uint64_t *turns = <uint64_t *>calloc(n + 1, sizeof(uint64_t))
    try:
        if slots == NULL or made == NULL or turns == NULL:
            raise MemoryError(f"no room for {n_slots} slots of {n} entries")
        for i, (key, weight) in enumerate(entries):
            made[i].key = key
            made[i].weight = weight
            made[i].number = i
        with nogil:
            maglev_fill(slots, n_slots, made, turns, n)
        return [None if slots[i] == MAGLEV_NONE else slots[i] for i in range(n_slots)]
    finally:
        free(slots)
        free(made)
        free(turns)
