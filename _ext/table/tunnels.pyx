"""Which tunnels a capture holds, and how much is in each."""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memset

from vxlanfast._ext.wire.endian cimport load_host64


cdef class TunnelTable:
    """Entries by (interface, VNI, outer source, outer destination), in the order they were met.

    At most ``limit`` (131,072) of them: packets of further tunnels are counted in one entry whose addresses are None.
    ``seed``: of the hash.
    """

    def __cinit__(self, *, uint32_t limit=TUNNELS_MAX, uint64_t seed=0):
        self.limit = limit
        self.seed = seed
        if self.grow():
            raise MemoryError

    def __dealloc__(self):
        free(self.entries)
        free(self.slots)

    cdef uint64_t hash_key(self, const TunnelKey *key) noexcept nogil:
        cdef uint64_t h = self.seed ^ 0x9E3779B97F4A7C15ULL
        cdef uint32_t i
        for i in range(sizeof(TunnelKey) // 8):
            h = (h ^ load_host64(<const uint8_t *>key + 8 * i)) * 0xFF51AFD7ED558CCDULL
            h ^= h >> 32
        return h

    cdef int grow(self) noexcept nogil:
        """Twice the entries, and an index to match: 0, or -1 for no memory."""
        cdef uint32_t cap = self.cap * 2 if self.cap else 256, n_slots = cap * 2, i, at
        cdef uint32_t *slots = <uint32_t *>calloc(n_slots, sizeof(uint32_t))
        cdef void *fresh
        if slots == NULL:
            return -1
        fresh = realloc(self.entries, cap * sizeof(TunnelEntry))
        if fresh == NULL:
            free(slots)
            return -1
        self.entries = <TunnelEntry *>fresh
        self.cap = cap
        for i in range(self.n):
            at = <uint32_t>self.hash_key(&self.entries[i].key) & (n_slots - 1)
            while slots[at]:
                at = (at + 1) & (n_slots - 1)
            slots[at] = i + 1
        free(self.slots)
        self.slots = slots
        self.n_slots = n_slots
        return 0

    cdef uint32_t find(self, const TunnelKey *key, bint *is_new) noexcept nogil:
        """The entry of ``key``, made where there is none; TUNNEL_NONE for no memory."""
        cdef uint32_t at, number
        cdef TunnelKey rest
        is_new[0] = False
        if self.n == self.cap and self.grow():
            return TUNNEL_NONE
        at = <uint32_t>self.hash_key(key) & (self.n_slots - 1)
        while self.slots[at]:
            number = self.slots[at] - 1
            if memcmp(&self.entries[number].key, key, sizeof(TunnelKey)) == 0:
                return number
            at = (at + 1) & (self.n_slots - 1)
        if self.n >= self.limit and key.version:
            memset(&rest, 0, sizeof(rest))
            return self.find(&rest, is_new)
        number = self.n
        memset(&self.entries[number], 0, sizeof(TunnelEntry))
        self.entries[number].key = key[0]
        self.n += 1
        self.slots[at] = number + 1
        is_new[0] = True
        return number

    def __len__(self):
        return self.n

    def clear(self):
        """Forget every entry."""
        self.n = 0
        memset(self.slots, 0, self.n_slots * sizeof(uint32_t))

    def rows(self, uint32_t start=0):
        """Entries from the ``start``-th on, as dictionaries; addresses as 4 or 16 bytes, or None for the rest's entry."""
        cdef uint32_t i
        cdef TunnelEntry *e
        out = []
        for i in range(start, self.n):
            e = &self.entries[i]
            length = {4: 4, 6: 16}.get(e.key.version, 0)
            out.append({
                "vni": e.key.vni if length else None, "port_in": e.key.port_in,
                "src": PyBytes_FromStringAndSize(<char *>e.key.src, length) if length else None,
                "dst": PyBytes_FromStringAndSize(<char *>e.key.dst, length) if length else None,
                "packets": e.packets, "bytes": e.bytes, "truncated": e.truncated, "gbp": e.gbp, "gpe": e.gpe,
                "reserved": e.reserved, "csummed": e.csummed, "first_ns": e.first_ns, "last_ns": e.last_ns,
            })
        return out
