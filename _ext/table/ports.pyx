"""A source port is the client's own while that is free; else one of its class, drawn.

A server whose ports are all taken is known to be so: refusing costs a look, not a search, until one comes back.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from vxlanfast._ext.table.conn cimport (
    CONN_LISTED, CONN_NONE, CONN_REVERSE, Conn, ConnKey, ConnTable, conn_key, port_dst, port_number, port_pair, port_src,
)
from vxlanfast._ext.table.hash cimport hash_u64, table_memory
from vxlanfast._ext.wire.endian cimport store_be16

cdef enum:
    LOW_END = 512               # classes of source ports, within which masquerade stays (nf_nat_l4proto_unique_tuple)
    LOW_FIRST = 1
    SYSTEM_FIRST = 600
    USER_FIRST = 1024
    SPARE_TRIES = 16


cdef inline uint32_t port_first(uint32_t port) noexcept nogil:
    """The first port of a port's class: one of the same class takes its place where it is taken."""
    return LOW_FIRST if port < LOW_END else SYSTEM_FIRST if port < USER_FIRST else USER_FIRST


cdef inline uint32_t port_end(uint32_t first) noexcept nogil:
    """Behind the last port of the class that begins with ``first``."""
    return LOW_END if first == LOW_FIRST else USER_FIRST if first == SYSTEM_FIRST else 65536


cdef class PortPools:
    """The ports of a connection table. ``seed``: of those that are drawn."""

    def __cinit__(self, ConnTable conns not None, *, uint64_t seed=0):
        self.conns = conns
        self.seed = hash_u64(seed, 1)
        self.pools = <Pool *>table_memory(POOLS * sizeof(Pool))
        if self.pools == NULL:
            raise MemoryError("no room for the pools of source ports")

    def __dealloc__(self):
        free(self.pools)

    cdef uint64_t draw(self) noexcept nogil:
        """The next random number of the seed."""
        self.drawn += 1
        return hash_u64(self.drawn, self.seed)

    cdef Pool *pool_of(self, const ConnKey *reverse, uint32_t first, uint64_t *tuple) noexcept nogil:
        """What is known of a class of ports of one tuple: server, masquerade address, protocol."""
        cdef ConnKey key
        cdef uint32_t size = 4 if reverse.family == 4 else 16
        conn_key(&key, reverse.addrs, reverse.addrs + size, port_pair(port_src(reverse.ports), 0), reverse.domain, reverse.proto,
                 reverse.family, self.conns.seed)
        tuple[0] = hash_u64(<uint64_t>first << 32 | key.hash, self.seed) | 1
        return self.pools + (key.hash + first & (POOLS - 1))

    cdef bint pick(self, ConnKey *reverse) noexcept nogil:
        """The port of a connection whose server's packets have that key: it has the client's, and gets what was picked. False:
        there is none left."""
        cdef uint8_t addrs[32]
        cdef uint8_t raw[2]
        cdef uint32_t size = 4 if reverse.family == 4 else 16, first, count, at, k
        cdef uint16_t dport = port_src(reverse.ports), port
        cdef uint64_t tuple = 0
        cdef Pool *pool
        cdef bint known
        first = port_first(port_number(port_dst(reverse.ports)))
        if self.conns.find(reverse) == CONN_NONE:
            if self.pooled:
                pool = self.pool_of(reverse, first, &tuple)
                if pool.tuple == tuple and pool.freed:
                    pool.freed -= 1
            return True
        memcpy(addrs, reverse.addrs, 32)
        count = port_end(first) - first
        pool = self.pool_of(reverse, first, &tuple)
        known = pool.tuple == tuple
        if known and pool.freed == 0:
            return False  # nothing has come back since
        at = pool.hint - first if known else <uint32_t>(self.draw() % count)
        for k in range(count):
            store_be16(raw, <uint16_t>(first + at))
            memcpy(&port, raw, 2)
            conn_key(reverse, addrs, addrs + size, port_pair(dport, port), reverse.domain, reverse.proto, reverse.family, self.conns.seed)
            if self.conns.find(reverse) == CONN_NONE:
                if known:
                    pool.freed -= 1
                    pool.hint = <uint16_t>(first + at)
                return True
            at = at + 1 if at + 1 < count else 0
        pool.tuple = tuple
        pool.freed = 0
        self.pooled = True
        return False

    cdef uint32_t spare(self, ConnKey *reverse) noexcept nogil:
        """Where all ports are taken: the connection, of a few at random that are not open yet, or over, whose time comes first; and
        ``reverse`` has its port. CONN_NONE: all of them are open."""
        cdef ConnKey key = reverse[0], best = reverse[0]
        cdef uint8_t raw[2]
        cdef uint32_t size = 4 if reverse.family == 4 else 16, first, count, k, ref, chosen = CONN_NONE
        cdef uint16_t port
        cdef const Conn *e
        first = port_first(port_number(port_dst(reverse.ports)))
        count = port_end(first) - first
        for k in range(SPARE_TRIES):
            store_be16(raw, <uint16_t>(first + self.draw() % count))
            memcpy(&port, raw, 2)
            conn_key(&key, reverse.addrs, reverse.addrs + size, port_pair(port_src(reverse.ports), port), reverse.domain,
                     reverse.proto, reverse.family, self.conns.seed)
            ref = self.conns.find(&key)
            e = self.conns.conns + (ref >> 1)
            if ref != CONN_NONE and ref & CONN_REVERSE and e.flags & CONN_LISTED \
                    and (chosen == CONN_NONE or e.expires_ns < (self.conns.conns + chosen).expires_ns):
                chosen = ref >> 1
                best = key
        reverse[0] = best
        return chosen

    cdef void give_back(self, uint32_t number) noexcept nogil:
        """A connection is about to be closed: whoever has a port, drawn or his own, keeps others from it no more."""
        cdef ConnKey reverse
        cdef uint64_t tuple = 0
        cdef uint16_t port
        cdef Pool *pool
        if not self.pooled:
            return
        self.conns.key_of(number, True, &reverse)
        port = port_number(port_dst(reverse.ports))
        pool = self.pool_of(&reverse, port_first(port), &tuple)
        if pool.tuple == tuple and port >= port_first(port):
            pool.freed += 1
            pool.hint = port
