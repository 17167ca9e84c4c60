"""Maglev's table: slots shared out by weight, few of which change hands when somebody comes or goes.

Each entry wants the slots in an order of its own: a place to begin and a step, both of its key; the number of slots is a prime, so the
steps meet all. They take turns, and whoever has its turn takes the first slot of its order that is free (Eisenbud et al., "Maglev", NSDI
2016, section 3.4). Of two weights the lighter has its turn less often, evenly spread. The table depends on keys and weights alone, not on
the order in which entries are given.
"""
from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    MAGLEV_SLOTS = 65537    # a prime; 100 times the entries and more keep what moves near 1 %
    MAGLEV_NONE = 0xFFFFFFFFU


cdef struct MaglevEntry:
    uint64_t key            # secret, and its own
    uint32_t number         # what its slots say
    uint32_t weight         # 0: no slots
    uint32_t at             # the next slot it wants
    uint32_t step
    uint32_t taken


cdef void maglev_fill(uint32_t *slots, uint32_t n_slots, MaglevEntry *entries, uint64_t *turns, uint32_t n) noexcept nogil


cdef inline uint32_t maglev_slot(uint64_t h, uint32_t n_slots) noexcept nogil:
    """Where a hash belongs."""
    return <uint32_t>((h >> 32) * n_slots >> 32)
