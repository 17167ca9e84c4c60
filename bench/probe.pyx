"""Loops in C for the benchmark: what memory and the wire formats can do without a library around them.

Compiled when it is needed, by build_probe.py; no part of the package.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from vxlanfast._ext.batch cimport PacketBatch
from vxlanfast._ext.table.conn cimport (
    CONN_NONE, ConnKey, ConnTable, conn_bucket, conn_guess, conn_is, conn_key4, key_reverse,
)
from vxlanfast._ext.table.hash cimport hash_u64, prefetch
from vxlanfast._ext.wire.csum cimport csum, csum_finish, csum_fold
from vxlanfast._ext.wire.endian cimport load_host32, store_be16, store_be32
from vxlanfast._ext.wire.flow cimport flow_hash, flow_key

cdef enum:
    VECTOR = 32
    ETH_LEN = 14
    SRC = ETH_LEN + 12          # of a frame with IPv4 without options
    DST = ETH_LEN + 16
    PORTS = ETH_LEN + 20


def copy_packets(uint8_t[::1] to not None, const uint8_t[::1] src not None,
                 const uint32_t[::1] lengths not None, uint32_t repeats=1):
    """memcpy packet by packet: ``lengths`` bytes each, from one place to another, both without gaps."""
    cdef uint64_t at, n = lengths.shape[0], total = 0
    cdef uint32_t i, r
    for i in range(n):
        total += lengths[i]
    if n == 0 or total > <uint64_t>to.shape[0] or total > <uint64_t>src.shape[0]:
        raise ValueError(f"{total} bytes of {n} packets")
    with nogil:
        for r in range(repeats):
            at = 0
            for i in range(n):
                memcpy(&to[at], &src[at], lengths[i])
                at += lengths[i]


def csum_packets(const uint8_t[::1] src not None, uint32_t length, uint32_t repeats=1):
    """The Internet checksum of every ``length`` bytes of ``src``: their sum."""
    cdef uint64_t total = 0, at
    cdef uint64_t n = src.shape[0] // length
    cdef uint32_t r
    if n == 0:
        raise ValueError(f"{src.shape[0]} bytes are no packet of {length}")
    with nogil:
        for r in range(repeats):
            for at in range(n):
                total += csum_fold(csum(&src[at * length], length))
    return total


def flow_packets(const uint8_t[::1] src not None, uint32_t length, uint64_t seed=0, uint32_t repeats=1):
    """The flow hash of every frame of ``length`` bytes in ``src``: their sum."""
    cdef uint64_t total = 0, at
    cdef uint64_t n = src.shape[0] // length
    cdef uint64_t key = flow_key(seed)
    cdef uint32_t r
    if n == 0:
        raise ValueError(f"{src.shape[0]} bytes are no packet of {length}")
    with nogil:
        for r in range(repeats):
            for at in range(n):
                total += flow_hash(&src[at * length], length, key)
    return total


# --- connections ------------------------------------------------------------------------------------------


cdef inline void tuple_of(uint32_t n, uint8_t *src, uint8_t *sport) noexcept nogil:
    """The client and port of connection ``n``: fifty thousand ports a client."""
    store_be32(src, 0x64400000 + n // 50000)
    store_be16(sport, <uint16_t>(1024 + n % 50000))


def fill_connections(ConnTable table, uint32_t first, uint32_t count, int64_t now_ns, int64_t timeout_ns):
    """Connections ``first`` … to one address and port, each its own server's: how many there was room for."""
    cdef uint8_t addrs[8]
    cdef uint8_t raw[4]
    cdef uint32_t n, ports, opened = 0
    cdef ConnKey forward, reverse
    store_be32(addrs + 4, 0xCB00710A)
    store_be16(raw + 2, 80)
    with nogil:
        for n in range(first, first + count):
            tuple_of(n, addrs, raw)
            memcpy(&ports, raw, 4)
            conn_key4(&forward, addrs, ports, 0, 6, table.seed)
            key_reverse(&reverse, &forward, table.seed)
            reverse.domain = 1
            conn_key4(&reverse, reverse.addrs, reverse.ports, 1, 6, table.seed)
            opened += table.open(&forward, &reverse, now_ns, timeout_ns) != CONN_NONE
    return opened


def tuples(const uint32_t[::1] numbers not None, uint8_t[::1] out not None):
    """Sixteen bytes for each of those connections: source, destination, ports, and zeros."""
    cdef uint32_t i
    cdef uint8_t *p
    with nogil:
        for i in range(numbers.shape[0]):
            p = &out[16 * i]
            store_be32(p + 4, 0xCB00710A)
            store_be16(p + 10, 80)
            tuple_of(numbers[i], p, p + 8)
            memset(p + 12, 0, 4)


def look_up(ConnTable table, const uint8_t[::1] keys not None, int64_t expires_ns):
    """Each tuple of ``tuples`` looked up as a node does, thirty-two at a time, and its timer put off: how many were found."""
    cdef ConnKey vector[2][VECTOR]
    cdef uint32_t refs[VECTOR]
    cdef uint32_t n = keys.shape[0] // 16, at = 0, k, count = 0, following, turn = 0, found = 0
    cdef const uint8_t *p
    with nogil:
        while at < n or count:
            following = n - at if n - at < VECTOR else VECTOR
            for k in range(following):
                p = &keys[16 * (at + k)]
                conn_key4(&vector[1 - turn][k], p, load_host32(p + 8), 0, 6, table.seed)
                prefetch(table.buckets + conn_bucket(table, vector[1 - turn][k].hash))
            at += following
            for k in range(count):
                if refs[k] == CONN_NONE or not conn_is(table.conns + (refs[k] >> 1), refs[k] & 1, &vector[turn][k]):
                    refs[k] = table.find(&vector[turn][k])
                if refs[k] != CONN_NONE:
                    (table.conns + (refs[k] >> 1)).expires_ns = expires_ns
                    found += 1
            turn = 1 - turn
            count = following
            for k in range(count):
                refs[k] = conn_guess(table, vector[turn][k].hash)
                if refs[k] != CONN_NONE:
                    prefetch(table.conns + (refs[k] >> 1))
    return found


def random_lines(uint8_t[::1] memory not None, const uint32_t[::1] numbers not None, uint32_t lines):
    """What memory gives: ``lines`` cache lines for each number, one after the other known, thirty-two numbers at a time;
    the last is written to."""
    cdef uint64_t all_lines = memory.shape[0] // 64, total = 0
    cdef uint64_t places[VECTOR]
    cdef uint32_t n = numbers.shape[0], at = 0, k, count, step
    with nogil:
        while at < n:
            count = n - at if n - at < VECTOR else VECTOR
            for k in range(count):
                places[k] = hash_u64(numbers[at + k], 1) % all_lines
            for step in range(lines):
                for k in range(count):
                    prefetch(&memory[64 * places[k]])
                for k in range(count):
                    total += memory[64 * places[k]]
                    if step + 1 < lines:
                        places[k] = hash_u64(places[k], memory[64 * places[k]]) % all_lines
                    else:
                        memory[64 * places[k]] = <uint8_t>total
            at += count
    return total


def aim(PacketBatch batch not None, const uint32_t[::1] numbers not None):
    """Row by row a packet of that connection's client: TCP or UDP over IPv4 without options."""
    cdef uint32_t i
    cdef uint8_t *p
    with nogil:
        for i in range(numbers.shape[0]):
            p = batch.c.arena + batch.c.off[i]
            tuple_of(numbers[i], p + SRC, p + PORTS)
            store_be16(p + ETH_LEN + 10, 0)
            store_be16(p + ETH_LEN + 10, csum_finish(csum(p + ETH_LEN, 20)))


def note_servers(PacketBatch batch not None, const uint32_t[::1] numbers not None, uint8_t[::1] servers not None):
    """What the servers of those connections have got: twelve bytes each, by number, of source, destination and ports."""
    cdef uint32_t i
    cdef const uint8_t *p
    with nogil:
        for i in range(numbers.shape[0]):
            p = batch.c.arena + batch.c.off[i]
            memcpy(&servers[12 * numbers[i]], p + SRC, 8)
            memcpy(&servers[12 * numbers[i] + 8], p + PORTS, 4)


def aim_back(PacketBatch batch not None, const uint32_t[::1] numbers not None, const uint8_t[::1] servers not None):
    """Row by row the answer of that connection's server."""
    cdef uint32_t i
    cdef uint8_t *p
    cdef const uint8_t *q
    with nogil:
        for i in range(numbers.shape[0]):
            p = batch.c.arena + batch.c.off[i]
            q = &servers[12 * numbers[i]]
            memcpy(p + SRC, q + 4, 4)
            memcpy(p + DST, q, 4)
            memcpy(p + PORTS, q + 10, 2)
            memcpy(p + PORTS + 2, q + 8, 2)
            store_be16(p + ETH_LEN + 10, 0)
            store_be16(p + ETH_LEN + 10, csum_finish(csum(p + ETH_LEN, 20)))
