"""Tunnels met in a capture: one entry per VNI and pair of VTEPs, with totals. Open addressing, bounded."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t

cdef enum:
    TUNNELS_MAX = 131072      # entries; what comes beyond is counted in one of its own, without addresses
    TUNNEL_NONE = 0xFFFFFFFFU


cdef struct TunnelKey:
    uint8_t src[16]           # IPv4: 4 bytes, the rest zero
    uint8_t dst[16]
    uint32_t vni
    uint16_t port_in
    uint8_t version           # 4, 6; 0: the entry for what did not fit
    uint8_t pad


cdef struct TunnelEntry:
    TunnelKey key
    uint64_t packets
    uint64_t bytes            # of inner frames, on the wire
    uint64_t truncated        # inner frames cut by a snaplen
    uint64_t gbp              # with a group policy
    uint64_t gpe              # GPE headers that say Ethernet
    uint64_t reserved         # other reserved bits set
    uint64_t csummed          # outer UDP checksum not zero
    int64_t first_ns
    int64_t last_ns


cdef class TunnelTable:
    cdef TunnelEntry *entries
    cdef uint32_t *slots      # entry number + 1; 0: free
    cdef uint32_t n
    cdef uint32_t cap
    cdef uint32_t n_slots     # a power of two, at least twice the entries
    cdef uint32_t limit
    cdef uint64_t seed

    cdef uint32_t find(self, const TunnelKey *key, bint *is_new) noexcept nogil
    cdef uint64_t hash_key(self, const TunnelKey *key) noexcept nogil
    cdef int grow(self) noexcept nogil
