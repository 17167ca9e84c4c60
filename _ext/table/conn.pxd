"""Connections: one entry for both directions, found by the addresses and ports of either.

    packet                        key                                     entry
    ----------------------------  --------------------------------------  ---------------------------------------------
    client:cport → virtual:vport  domain, protocol, source, destination   forward: what came is rewritten to
    server:dport → masq:mport     … of the packet as it is                reverse: masq:mport → server:dport, and back

Where nobody masquerades, ``masq`` is the client itself. An entry is 128 bytes, two cache lines, of which IPv4 touches the
first alone. Its number is the index's, the timer's and the batch's word for it.

The index grows bucket by bucket (linear hashing: Litwin, VLDB 1980), so that no packet waits for a rehash; entries and
buckets lie in memory that is reserved at the start and taken when it is first touched, so nothing ever moves.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int32_t, int64_t
from libc.string cimport memcmp, memcpy

from vxlanfast._ext.table.wheel cimport Timer, Wheel
from vxlanfast._ext.wire.endian cimport load_be16, load_host64
from vxlanfast._ext.wire.flow cimport FLOW_C, flow_fold

cdef enum:
    CONN_NONE = 0xFFFFFFFFU
    CONN_REVERSE = 1            # in a reference (number << 1 | direction): the packet is one of the server's
    CONN_WAYS = 7               # references a bucket holds

    CONN_LISTED = 1             # flags: among those that may be evicted …
    CONN_CLOSING = 2            # … as one that is over, not as one that has yet to be answered
    CONN_ACTIVE = 4             # the server counts it as active
    CONN_ANSWERED = 8           # the server has said something
    CONN_MASQ = 16              # the source is rewritten as well
    CONN_REDIRECT = 32          # translated on its way to a port, which nobody routes
    CONN_TEMPLATE = 64          # no connection: it holds a client, or its prefix, to a server; `via` counts those that hold it
    CONN_RETURN = 128           # nothing is rewritten: the server's packets go back to `via`


cdef struct ConnKey:
    uint8_t addrs[32]       # source and destination as they stand in the header: IPv4 in the first eight bytes
    uint32_t ports          # likewise: source, destination
    uint16_t domain         # of networks that are routed between
    uint8_t proto
    uint8_t family          # 4 or 6
    uint32_t hash


cdef struct Conn:
    uint8_t a[16]           # IPv4: client, virtual, server, masq; IPv6: masq
    uint32_t ports[2]       # client's and virtual; server's and masquerade: as they stand in packets
    uint16_t domain[2]      # where the clients are, where the servers are
    uint8_t proto
    uint8_t family          # 4 or 6; 0: the number is free
    uint8_t state
    uint8_t flags
    uint32_t server         # of the service table; SERVER_NONE: none
    uint32_t seq_end[2]     # TCP: one past what each side has sent …
    uint32_t seq_ack[2]     # … and what it has acknowledged, host order
    uint32_t via            # destination that the server's packets go back to (CONN_RETURN)
    int64_t expires_ns
    uint8_t b[48]           # IPv6: client, virtual, server
    Timer timer
    uint32_t older          # in its list; a free entry: the next free one
    uint32_t newer


cdef struct ConnBucket:
    uint32_t tags[CONN_WAYS]  # whole hashes: their lower bits are the bucket's number
    uint32_t more           # number + 1 of an overflow bucket; 0: none
    uint32_t refs[CONN_WAYS]  # number << 1 | direction; CONN_NONE: free
    uint32_t used           # of the references


cdef struct ConnList:
    uint32_t oldest
    uint32_t newest
    uint32_t size


cdef object conn_row(const Conn *e, uint32_t number)


cdef class ConnTable:
    cdef Conn *conns
    cdef ConnBucket *buckets
    cdef ConnBucket *overflow
    cdef uint32_t *sources      # how many connections a client has: two rows of counters, the lower one counts
    cdef uint64_t seed
    cdef uint64_t reserved[4]   # bytes of each of the four
    cdef uint32_t level_mask    # buckets before this round of splitting, less one
    cdef uint32_t split         # those below it are split already
    cdef uint32_t max_buckets
    cdef uint32_t source_mask
    cdef uint32_t free_conn
    cdef uint32_t free_overflow
    cdef ConnList lists[2]      # opening, closing
    cdef readonly Wheel wheel
    cdef readonly uint32_t capacity
    cdef readonly uint32_t size
    cdef readonly uint32_t high         # entries ever used at once
    cdef readonly uint32_t overflows    # overflow buckets in use …
    cdef readonly uint32_t overflow_high
    cdef bint returns                   # some have a `via`
    cdef readonly uint32_t source_limit # connections of one client address; 0: any number
    cdef uint32_t find(self, const ConnKey *key) noexcept nogil
    cdef uint32_t open(self, const ConnKey *forward, const ConnKey *reverse, int64_t now_ns, int64_t timeout_ns) noexcept nogil
    cdef void close(self, uint32_t number) noexcept nogil
    cdef uint32_t victim(self) noexcept nogil
    cdef void enlist(self, uint32_t number, bint closing) noexcept nogil
    cdef void delist(self, uint32_t number) noexcept nogil
    cdef bint source_full(self, const ConnKey *forward) noexcept nogil
    cdef void source_count(self, const Conn *e, int32_t by) noexcept nogil
    cdef void insert(self, uint32_t hash, uint32_t ref) noexcept nogil
    cdef void erase(self, uint32_t hash, uint32_t ref) noexcept nogil
    cdef void split_one(self) noexcept nogil
    cdef void put(self, ConnBucket *bucket, uint32_t tag, uint32_t ref) noexcept nogil
    cdef void key_of(self, uint32_t number, bint reverse, ConnKey *key) noexcept nogil
    cdef int key_from(self, domain, proto, src, sport, dst, dport, ConnKey *key) except -1


cdef inline Conn *conn_at(ConnTable t, uint32_t number) noexcept nogil:
    return t.conns + number


cdef inline uint64_t conn_word(uint16_t domain, uint8_t proto, uint8_t family) noexcept nogil:
    return <uint64_t>domain << 16 | <uint64_t>proto << 8 | family


cdef inline void conn_key4(ConnKey *key, const uint8_t *addrs, uint32_t ports, uint16_t domain, uint8_t proto,
                           uint64_t seed) noexcept nogil:
    """Of a packet whose source and destination stand at ``addrs``, one behind the other; ``ports`` as loaded, in host order."""
    memcpy(key.addrs, addrs, 8)
    key.ports = ports
    key.domain = domain
    key.proto = proto
    key.family = 4
    # Whoever picks packets picks neither factor: each is mixed with a part of the seed.
    key.hash = <uint32_t>(flow_fold(flow_fold(load_host64(addrs) ^ seed, (ports | conn_word(domain, proto, 4) << 32) ^ (seed >> 32 | seed << 32)),
                                    FLOW_C) >> 32)


cdef inline void conn_key6(ConnKey *key, const uint8_t *addrs, uint32_t ports, uint16_t domain, uint8_t proto,
                           uint64_t seed) noexcept nogil:
    cdef uint64_t hash
    memcpy(key.addrs, addrs, 32)
    key.ports = ports
    key.domain = domain
    key.proto = proto
    key.family = 6
    hash = flow_fold(load_host64(addrs) ^ seed, load_host64(addrs + 8) ^ (seed >> 32 | seed << 32))
    hash = flow_fold(hash ^ load_host64(addrs + 16), load_host64(addrs + 24) ^ seed)
    key.hash = <uint32_t>(flow_fold(hash ^ ports ^ conn_word(domain, proto, 6) << 32, FLOW_C) >> 32)


cdef inline uint32_t conn_bucket(ConnTable t, uint32_t hash) noexcept nogil:
    """The bucket of a hash: by as many bits as this round has, or by one more where the bucket is split already."""
    cdef uint32_t at = hash & t.level_mask
    return hash & (t.level_mask << 1 | 1) if at < t.split else at


cdef inline bint conn_is(const Conn *e, bint reverse, const ConnKey *key) noexcept nogil:
    """Whether a packet of that key is one of the entry's, in that direction."""
    if (e.ports[reverse] != key.ports or e.domain[reverse] != key.domain or e.proto != key.proto
            or e.family != key.family):
        return False
    if key.family == 4:
        return load_host64(e.a + 8 * reverse) == load_host64(key.addrs)
    if reverse:
        return memcmp(e.b + 32, key.addrs, 16) == 0 and memcmp(e.a, key.addrs + 16, 16) == 0
    return memcmp(e.b, key.addrs, 32) == 0


cdef extern from *:
    """
    #ifndef VF_TAG_HITS
    #define VF_TAG_HITS
    #include <stdint.h>
    #ifdef __SSE2__
    #include <emmintrin.h>
    #endif
    #define vf_ctz __builtin_ctz
    /* A bit for each of the first seven of eight words at a cache line that is `tag`. */
    static inline uint32_t vf_tag_hits(const uint32_t *tags, uint32_t tag)
    {
    #ifdef __SSE2__
        __m128i wanted = _mm_set1_epi32((int)tag);
        __m128i low = _mm_cmpeq_epi32(_mm_load_si128((const __m128i *)tags), wanted);
        __m128i high = _mm_cmpeq_epi32(_mm_load_si128((const __m128i *)(tags + 4)), wanted);
        return ((uint32_t)_mm_movemask_ps(_mm_castsi128_ps(low))
                | (uint32_t)_mm_movemask_ps(_mm_castsi128_ps(high)) << 4) & 0x7f;
    #else
        uint32_t hits = 0;
        for (int k = 0; k < 7; k++)
            hits |= (uint32_t)(tags[k] == tag) << k;
        return hits;
    #endif
    }
    #endif
    """
    uint32_t tag_hits "vf_tag_hits"(const uint32_t *tags, uint32_t tag) noexcept nogil
    uint32_t ctz "vf_ctz"(uint32_t x) noexcept nogil


cdef inline uint32_t bucket_hits(const ConnBucket *b, uint32_t hash) noexcept nogil:
    """A bit for each way that has the tag, be it used or not."""
    return tag_hits(b.tags, hash)


cdef inline uint32_t conn_guess(ConnTable t, uint32_t hash) noexcept nogil:
    """A reference that has the hash, its bucket being at hand: of another connection perhaps, or CONN_NONE, since it goes no further."""
    cdef const ConnBucket *b = t.buckets + conn_bucket(t, hash)
    cdef uint32_t hits = bucket_hits(b, hash)
    return b.refs[ctz(hits)] if hits else CONN_NONE


cdef inline const uint8_t *conn_client(const Conn *e) noexcept nogil:
    return <const uint8_t *>e.a if e.family == 4 else <const uint8_t *>e.b


cdef inline const uint8_t *conn_virtual(const Conn *e) noexcept nogil:
    return <const uint8_t *>e.a + 4 if e.family == 4 else <const uint8_t *>e.b + 16


cdef inline const uint8_t *conn_server(const Conn *e) noexcept nogil:
    return <const uint8_t *>e.a + 8 if e.family == 4 else <const uint8_t *>e.b + 32


cdef inline const uint8_t *conn_masq(const Conn *e) noexcept nogil:
    return <const uint8_t *>e.a + 12 if e.family == 4 else <const uint8_t *>e.a


cdef inline uint16_t port_src(uint32_t ports) noexcept nogil:
    """The source port of a word as it stands in a packet, as it stands there."""
    cdef uint16_t x
    memcpy(&x, &ports, 2)
    return x


cdef inline uint16_t port_dst(uint32_t ports) noexcept nogil:
    cdef uint16_t x
    memcpy(&x, <const uint8_t *>&ports + 2, 2)
    return x


cdef inline uint16_t port_number(uint16_t port) noexcept nogil:
    """A port, as it stands in a packet, as a number."""
    return load_be16(<const uint8_t *>&port)


cdef inline uint32_t port_pair(uint16_t src, uint16_t dst) noexcept nogil:
    """Two ports, in network order, as the word that a packet has."""
    cdef uint32_t x
    memcpy(&x, &src, 2)
    memcpy(<uint8_t *>&x + 2, &dst, 2)
    return x


cdef inline void conn_key(ConnKey *key, const uint8_t *src, const uint8_t *dst, uint32_t ports, uint16_t domain, uint8_t proto,
                          uint8_t family, uint64_t seed) noexcept nogil:
    """Of addresses that stand anywhere."""
    cdef uint8_t addrs[32]
    cdef uint32_t size = 4 if family == 4 else 16
    memcpy(addrs, src, size)
    memcpy(addrs + size, dst, size)
    if family == 4:
        conn_key4(key, addrs, ports, domain, proto, seed)
    else:
        conn_key6(key, addrs, ports, domain, proto, seed)


cdef inline void key_reverse(ConnKey *key, const ConnKey *of, uint64_t seed) noexcept nogil:
    """The key of the answer to a packet: source and destination change places."""
    conn_key(key, of.addrs + (4 if of.family == 4 else 16), of.addrs, port_pair(port_dst(of.ports), port_src(of.ports)),
             of.domain, of.proto, of.family, seed)
