"""What the hash tables share: mixing of keys, and memory in large pages.

Keys come from the wire, so whoever sends packets would choose the slots if the mixing were known: every table has a seed.
"""
from libc.stdint cimport uint8_t, uint64_t

from vxlanfast._ext.wire.endian cimport load_host64
from vxlanfast._ext.wire.flow cimport FLOW_A, FLOW_B, FLOW_C, flow_fold

cdef extern from *:
    """
    #include <stdlib.h>
    #include <string.h>
    #include <sys/mman.h>
    #ifndef VF_TABLE_MEMORY
    #define VF_TABLE_MEMORY
    #define VF_HUGE (2u << 20)
    /* Zeroed memory at a cache line; in 2 MiB pages where it is that large and the system has them: random look-ups then
       miss the TLB less (a third more of them a second). */
    static inline void *vf_table_memory(size_t size)
    {
        size_t align = size >= VF_HUGE ? VF_HUGE : 64;
        void *p = aligned_alloc(align, (size + align - 1) / align * align);
        if (p == NULL)
            return NULL;
    #ifdef MADV_HUGEPAGE
        if (align == VF_HUGE)
            madvise(p, size, MADV_HUGEPAGE);
    #endif
        return memset(p, 0, size);
    }
    #define VF_PREFETCH(p) __builtin_prefetch((p), 0, 3)
    #endif
    """
    void *table_memory "vf_table_memory"(size_t size) noexcept nogil
    void prefetch "VF_PREFETCH"(const void *p) noexcept nogil


cdef inline uint64_t hash_u64(uint64_t key, uint64_t seed) noexcept nogil:
    """64 bits to 64 good ones."""
    return flow_fold(key ^ seed, FLOW_A)


cdef inline uint64_t hash_16(const uint8_t *p, uint64_t word, uint64_t seed) noexcept nogil:
    """Sixteen bytes and a word."""
    return flow_fold(flow_fold(load_host64(p) ^ seed, load_host64(p + 8) ^ FLOW_B) ^ word, FLOW_C)


cdef inline uint64_t power_of_two(uint64_t n) noexcept nogil:
    """The first one that is not below ``n``."""
    cdef uint64_t p = 1
    while p < n:
        p <<= 1
    return p
