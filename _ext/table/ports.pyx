"""A source port is the client's own while that is free; else one of its class, drawn.

A server whose ports are all taken is known to be so: refusing costs a look, not a search, until one comes back.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from vxlanfast._ext.table.conn cimport (
    CONN_NONE, ConnKey, ConnTable, conn_key, port_dst, port_number, port_pair, port_src,
)
from vxlanfast._ext.table.hash cimport hash_u64, table_memory
from vxlanfast._ext.wire.endian cimport store_be16

cdef enum:
    LOW_END = 512               # classes of source ports, within which masquerade stays (nf_nat_l4proto_unique_tuple)
    LOW_FIRST = 1
    SYSTEM_FIRST = 600
    USER_FIRST = 1024


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

    cdef Pool *pool_of(self, const ConnKey *reverse, uint64_t *tuple) noexcept nogil:
        """What is known of the ports of one tuple: server, masquerade address, protocol."""
        cdef ConnKey key
        cdef uint32_t size = 4 if reverse.family == 4 else 16
        conn_key(&key, reverse.addrs, reverse.addrs + size, port_pair(port_src(reverse.ports), 0), reverse.domain, reverse.proto,
                 reverse.family, self.conns.seed)
        tuple[0] = hash_u64(key.hash, self.seed) | 1
        return self.pools + (key.hash & (POOLS - 1))

    cdef bint pick(self, ConnKey *reverse) noexcept nogil:
        """The port of a connection whose server's packets have that key: it has the client's, and gets what was picked. False:
        there is none left."""
        cdef uint8_t addrs[32]
        cdef uint8_t raw[2]
        cdef uint32_t size = 4 if reverse.family == 4 else 16, first, count, at, k
        cdef uint16_t dport = port_src(reverse.ports), want, port
        cdef uint64_t tuple = 0
        cdef Pool *pool
        if self.conns.find(reverse) == CONN_NONE:
            return True
        memcpy(addrs, reverse.addrs, 32)
        want = port_number(port_dst(reverse.ports))
        if want < LOW_END:
            first = LOW_FIRST
            count = LOW_END - first
        elif want < USER_FIRST:
            first = SYSTEM_FIRST
            count = USER_FIRST - first
        else:
            first = USER_FIRST
            count = 65536 - first
        pool = self.pool_of(reverse, &tuple)
        at = <uint32_t>(self.draw() % count)
        if pool.tuple == tuple and want >= USER_FIRST:
            if pool.freed == 0:
                return False  # nothing has come back since
            if pool.hint >= first:
                at = pool.hint - first
        for k in range(count):
            store_be16(raw, <uint16_t>(first + at))
            memcpy(&port, raw, 2)
            conn_key(reverse, addrs, addrs + size, port_pair(dport, port), reverse.domain, reverse.proto, reverse.family, self.conns.seed)
            if self.conns.find(reverse) == CONN_NONE:
                if pool.tuple == tuple and pool.freed:
                    pool.freed -= 1
                return True
            at = at + 1 if at + 1 < count else 0
        if want >= USER_FIRST:
            pool.tuple = tuple
            pool.freed = 0
        return False

    cdef void give_back(self, uint32_t number) noexcept nogil:
        """A connection that is about to be closed needs its port no more."""
        cdef ConnKey reverse
        cdef uint64_t tuple = 0
        cdef Pool *pool
        self.conns.key_of(number, True, &reverse)
        pool = self.pool_of(&reverse, &tuple)
        if pool.tuple == tuple:
            pool.freed += 1
            pool.hint = port_number(port_dst(reverse.ports))
