"""Neighbour table: its Python border, and what changes it; the look-up is in the .pxd."""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset

from vxlanfast._ext.table.hash cimport hash_u64, power_of_two, table_memory

cdef enum:
    CAPACITY_MAX = 1 << 28


cdef dict neigh_row(const NeighEntry *e):
    return {
        "net": e.net, "addr": PyBytes_FromStringAndSize(<const char *>e.addr, 4 if e.family == 4 else 16),
        "mac": PyBytes_FromStringAndSize(<const char *>e.mac, 6), "router": bool(e.flags & NEIGH_ROUTER),
        "gateway": bool(e.flags & NEIGH_GATEWAY), "dest": None if e.dest == NEIGH_NONE else e.dest,
    }


cdef class NeighTable:
    """(network, IPv4 or IPv6 address) -> MAC. ``capacity``: entries, fixed. ``seed``: of the hash."""

    def __cinit__(self, uint32_t capacity=1 << 16, *, uint64_t seed=0):
        cdef uint64_t places
        if not 1 <= capacity <= CAPACITY_MAX:
            raise ValueError(f"capacity = {capacity}: 1 to {CAPACITY_MAX} entries")
        places = power_of_two(<uint64_t>capacity * 2)  # half full at most
        self.capacity = capacity
        self.mask = <uint32_t>places - 1
        self.seed = hash_u64(seed, 0)
        self.entries = <NeighEntry *>table_memory(places * sizeof(NeighEntry))
        if self.entries == NULL:
            raise MemoryError(f"no room for {capacity} neighbours")

    def __dealloc__(self):
        free(self.entries)

    cdef int key_of(self, net, addr, NeighEntry *key) except -1:
        memset(key, 0, sizeof(NeighEntry))
        if not 0 <= net < 65536:
            raise ValueError(f"network {net}: 0 to 65535")
        if len(addr) not in (4, 16):
            raise ValueError(f"address of {len(addr)} bytes: 4 or 16")
        raw = bytes(addr)
        memcpy(key.addr, <char *>raw, len(raw))
        key.net = net
        key.family = 4 if len(raw) == 4 else 6
        return 0

    def __len__(self):
        return self.size

    def set(self, uint16_t net, addr, mac, *, bint router=False, bint gateway=False, uint32_t dest=NEIGH_NONE):
        """An entry, in place of whatever was there. ``dest``: the destination its MAC must live at. OverflowError: full."""
        cdef NeighEntry key
        cdef uint32_t at
        self.key_of(net, addr, &key)
        raw = bytes(mac)
        if len(raw) != 6:
            raise ValueError(f"MAC of {len(raw)} bytes: 6")
        memcpy(key.mac, <char *>raw, 6)
        key.flags = NEIGH_STATIC | (NEIGH_ROUTER if router else 0) | (NEIGH_GATEWAY if gateway else 0)
        key.dest = dest
        at = neigh_find(self, &key)
        if at == NEIGH_NONE:
            if self.size >= self.capacity:
                raise OverflowError(f"neighbour table: all {self.capacity} entries are taken")
            at = neigh_place(self, &key)
            while self.entries[at].family:
                at = (at + 1) & self.mask
            self.size += 1
        self.entries[at] = key

    def delete(self, uint16_t net, addr):
        """Whether there was an entry to delete."""
        cdef NeighEntry key
        cdef uint32_t hole, at, home
        self.key_of(net, addr, &key)
        hole = neigh_find(self, &key)
        if hole == NEIGH_NONE:
            return False
        at = hole
        while True:
            at = (at + 1) & self.mask
            if self.entries[at].family == 0:
                break
            home = neigh_place(self, &self.entries[at])
            # It may move into the hole if its own place is not behind the hole, the ring considered.
            if ((at - home) & self.mask) >= ((at - hole) & self.mask):
                self.entries[hole] = self.entries[at]
                hole = at
        memset(&self.entries[hole], 0, sizeof(NeighEntry))
        self.size -= 1
        return True

    def get(self, uint16_t net, addr):
        """The MAC as 6 bytes, or None."""
        cdef NeighEntry key
        cdef uint32_t at
        self.key_of(net, addr, &key)
        at = neigh_find(self, &key)
        return None if at == NEIGH_NONE else PyBytes_FromStringAndSize(<char *>self.entries[at].mac, 6)

    def entry(self, uint16_t net, addr):
        """The entry of an address as in ``rows``, or None."""
        cdef NeighEntry key
        cdef uint32_t at
        self.key_of(net, addr, &key)
        at = neigh_find(self, &key)
        return None if at == NEIGH_NONE else neigh_row(self.entries + at)

    def walk(self):
        """Entries as ``rows`` has them, each as it is when its turn comes: the table may change between two of them."""
        cdef uint32_t at
        for at in range(self.mask + 1):
            if self.entries[at].family:
                yield neigh_row(self.entries + at)

    def rows(self, net=None):
        """Entries as dictionaries: net, addr (4 or 16 bytes), mac (6), router, gateway, dest; of one network, or all."""
        return [row for row in self.walk() if net is None or row["net"] == net]
