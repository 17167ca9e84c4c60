"""Multicast memberships: joined, left, expired."""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from vxlanfast._ext.table.hash cimport hash_16, hash_u64, power_of_two, table_memory

cdef enum:
    CAPACITY_MAX = 1 << 24
    SWEEP_NS = 1000000000   # a full table is looked through for what expired so often at most


cdef class GroupTable:
    """(network, group) -> destinations. ``capacity``: memberships, fixed; ``dests``: destinations are numbers below it.

    One destination may have ``dest_limit`` (None: a quarter of all, four at least). A join that finds no room is refused
    and counted, and who asked for it must do without the table. ``seed``: of the hash.
    """

    def __cinit__(self, uint32_t capacity=4096, *, uint32_t dests=1 << 16, dest_limit=None, uint64_t seed=0):
        cdef uint32_t i
        cdef uint64_t places
        if not 1 <= capacity <= CAPACITY_MAX:
            raise ValueError(f"capacity = {capacity}: 1 to {CAPACITY_MAX} memberships")
        places = power_of_two(<uint64_t>capacity * 2)
        self.capacity = capacity
        self.mask = <uint32_t>places - 1
        self.seed = hash_u64(seed, 0)
        self.n_dests = dests
        self.dest_limit = max(4, capacity // 4) if dest_limit is None else dest_limit
        self.entries = <Member *>table_memory(<uint64_t>capacity * sizeof(Member))
        self.heads = <uint32_t *>table_memory(places * sizeof(uint32_t))
        self.counts = <uint32_t *>table_memory(<uint64_t>dests * sizeof(uint32_t) + 1)
        if self.entries == NULL or self.heads == NULL or self.counts == NULL:
            raise MemoryError(f"no room for {capacity} memberships")
        for i in range(capacity - 1):
            self.entries[i].next = i + 2
        self.free_ = 1

    def __dealloc__(self):
        free(self.entries)
        free(self.heads)
        free(self.counts)

    cdef uint32_t *chain(self, uint16_t net, uint8_t family, const uint8_t *addr) noexcept nogil:
        return self.heads + (<uint32_t>hash_16(addr, <uint64_t>family << 16 | net, self.seed) & self.mask)

    cdef void drop_expired(self, uint32_t *head, int64_t now_ns) noexcept nogil:
        cdef uint32_t number
        cdef Member *m
        while head[0]:
            number = head[0]
            m = self.entries + number - 1
            if m.expires_ns > now_ns:
                head = &m.next
                continue
            head[0] = m.next
            m.next = self.free_
            m.used = False
            self.free_ = number
            self.counts[m.dest] -= 1
            self.size -= 1

    cdef bint join(self, uint16_t net, uint8_t family, const uint8_t *addr, uint32_t dest, int64_t now_ns,
                   int64_t expires_ns) noexcept nogil:
        """A membership, new or held on; False: no room."""
        cdef uint32_t *head = self.chain(net, family, addr)
        cdef uint32_t at, i
        cdef Member *m
        self.drop_expired(head, now_ns)
        at = head[0]
        while at:
            m = self.entries + at - 1
            if m.dest == dest and member_is(m, net, family, addr):
                m.expires_ns = expires_ns
                return True
            at = m.next
        if (self.free_ == 0 or self.counts[dest] >= self.dest_limit) and now_ns - self.swept_ns >= SWEEP_NS:
            self.swept_ns = now_ns
            for i in range(self.mask + 1):
                self.drop_expired(self.heads + i, now_ns)
        if self.free_ == 0 or self.counts[dest] >= self.dest_limit:
            self.refused += 1
            return False
        at = self.free_
        m = self.entries + at - 1
        self.free_ = m.next
        memcpy(m.addr, addr, 16)
        m.net = net
        m.family = family
        m.used = True
        m.dest = dest
        m.expires_ns = expires_ns
        m.next = head[0]
        head[0] = at
        self.counts[dest] += 1
        self.size += 1
        return True

    cdef void leave(self, uint16_t net, uint8_t family, const uint8_t *addr, uint32_t dest, int64_t now_ns) noexcept nogil:
        """A membership ends soon, unless somebody else behind the same port holds on to it."""
        cdef uint32_t at = self.chain(net, family, addr)[0]
        cdef Member *m
        while at:
            m = self.entries + at - 1
            if m.dest == dest and member_is(m, net, family, addr):
                if m.expires_ns > now_ns + GROUP_LEAVE_NS:
                    m.expires_ns = now_ns + GROUP_LEAVE_NS
                return
            at = m.next

    def __len__(self):
        return self.size

    def adopt(self, GroupTable other not None, const uint32_t[::1] dests not None, const uint32_t[::1] nets not None):
        """Take over another table's memberships, where their network and destination live on; how many came.

        ``dests[i]``, ``nets[i]``: what the other's number is here, 0xFFFFFFFF where it is gone.
        """
        cdef uint32_t i, came = 0
        cdef Member *m
        if dests.shape[0] < other.n_dests or nets.shape[0] < 65536:
            raise ValueError(f"{dests.shape[0]} destinations and {nets.shape[0]} networks, of {other.n_dests} and 65536")
        for i in range(other.capacity):
            m = other.entries + i
            if not m.used or dests[m.dest] >= self.n_dests or nets[m.net] > 0xFFFF:
                continue
            came += self.join(<uint16_t>nets[m.net], m.family, m.addr, dests[m.dest], 0, m.expires_ns)
        return came

    def rows(self):
        """Memberships as dictionaries: net, addr (4 or 16 bytes; zeros: routes multicast), dest, expires_ns."""
        cdef uint32_t i
        cdef Member *m
        out = []
        for i in range(self.capacity):
            m = self.entries + i
            if m.used:
                out.append({
                    "net": m.net, "addr": PyBytes_FromStringAndSize(<char *>m.addr, 4 if m.family == 4 else 16),
                    "dest": m.dest, "expires_ns": m.expires_ns,
                })
        return out
