"""The connection table: opened, found, closed; the index that grows under it, and the lists of those that may go first."""
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t, int32_t, int64_t
from libc.string cimport memcpy, memset

from vxlanfast._ext.table.hash cimport hash_16, hash_u64, power_of_two
from vxlanfast._ext.table.wheel cimport WHEEL_NONE, wheel_of_entries
from vxlanfast._ext.wire.endian cimport load_be16, store_be16

cdef extern from *:
    """
    #include <sys/mman.h>
    #ifndef VF_RESERVE
    #define VF_RESERVE
    /* Zeroed memory that costs address space until it is touched; in 2 MiB pages where the system has them. */
    static inline void *vf_reserve(size_t size)
    {
        void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED)
            return NULL;
    #ifdef MADV_HUGEPAGE
        if (size >= (16u << 20))
            madvise(p, size, MADV_HUGEPAGE);
    #endif
        return p;
    }
    #endif
    """
    void *reserve "vf_reserve"(size_t size) noexcept nogil
    int munmap(void *p, size_t size) noexcept nogil

cdef enum:
    CAPACITY_MAX = 1 << 28
    BUCKETS_AT_START = 64
    REFS_PER_BUCKET = 3     # on average: those that have yet to be split have up to twice as many, of seven

cdef const char *HEX = "0123456789abcdef"

ENTRY_LEN = sizeof(Conn)
BUCKET_LEN = sizeof(ConnBucket)


cdef object conn_row(const Conn *e, uint32_t number):
    """A connection as a dictionary."""
    cdef uint32_t size = 4 if e.family == 4 else 16
    return {
        "number": number, "proto": e.proto, "domain": e.domain[0], "server_domain": e.domain[1],
        "client": PyBytes_FromStringAndSize(<char *>conn_client(e), size), "cport": load_be16(<const uint8_t *>&e.ports[0]),
        "virtual": PyBytes_FromStringAndSize(<char *>conn_virtual(e), size),
        "vport": load_be16(<const uint8_t *>&e.ports[0] + 2),
        "address": PyBytes_FromStringAndSize(<char *>conn_server(e), size), "port": load_be16(<const uint8_t *>&e.ports[1]),
        "masq": PyBytes_FromStringAndSize(<char *>conn_masq(e), size), "mport": load_be16(<const uint8_t *>&e.ports[1] + 2),
        "state": e.state, "flags": e.flags, "server": None if e.server == CONN_NONE else e.server,
        "via": None if e.via == CONN_NONE else e.via, "expires_ns": e.expires_ns,
    }


cdef str address_text(const uint8_t *addr, uint8_t family):
    """An address as people write it, and Python's ``ipaddress`` (RFC 5952, without IPv4 addresses in it)."""
    cdef char text[40]
    cdef uint32_t k, n = 0, run, at = 8, longest = 1, word, shift
    if family == 4:
        for k in range(4):
            if addr[k] >= 100:
                text[n] = 48 + addr[k] // 100
                n += 1
            if addr[k] >= 10:
                text[n] = 48 + addr[k] // 10 % 10
                n += 1
            text[n] = 48 + addr[k] % 10
            text[n + 1] = 46
            n += 2
        return PyUnicode_FromStringAndSize(text, n - 1)
    run = 0
    for k in range(8):
        run = 0 if load_be16(addr + 2 * k) else run + 1
        if run > longest:
            longest = run
            at = k + 1 - run
    k = 0
    while k < 8:
        if k == at:  # the longest run of zeros, the first of such
            text[n] = 58
            n += 1
            k += longest
            if k == 8:
                text[n] = 58
                n += 1
            continue
        if k:
            text[n] = 58
            n += 1
        word = load_be16(addr + 2 * k)
        shift = 12
        while shift and word >> shift == 0:
            shift -= 4
        while True:
            text[n] = HEX[word >> shift & 15]
            n += 1
            if shift == 0:
                break
            shift -= 4
        k += 1
    return PyUnicode_FromStringAndSize(text, n)


cdef class ConnTable:
    """``capacity``: connections at most. ``source_limit``: of one client address, 0 for any number. ``seed``: of the hash."""

    def __cinit__(self, uint32_t capacity=1 << 20, *, uint32_t source_limit=0, uint64_t seed=0):
        cdef uint32_t k
        if not 1 <= capacity <= CAPACITY_MAX:
            raise ValueError(f"capacity = {capacity}: 1 to {CAPACITY_MAX} connections")
        self.capacity = capacity
        self.source_limit = source_limit
        self.seed = hash_u64(seed, 0)
        self.max_buckets = <uint32_t>power_of_two(<uint64_t>capacity * 2 // REFS_PER_BUCKET + BUCKETS_AT_START)
        self.reserved[0] = <uint64_t>capacity * sizeof(Conn)
        self.reserved[1] = <uint64_t>self.max_buckets * sizeof(ConnBucket)
        self.reserved[2] = <uint64_t>capacity * 2 * sizeof(ConnBucket)  # each with a reference at least: never short
        self.conns = <Conn *>reserve(self.reserved[0])
        self.buckets = <ConnBucket *>reserve(self.reserved[1])
        self.overflow = <ConnBucket *>reserve(self.reserved[2])
        if source_limit:
            self.source_mask = <uint32_t>power_of_two(capacity) - 1
            self.reserved[3] = (<uint64_t>self.source_mask + 1) * 2 * sizeof(uint32_t)
            self.sources = <uint32_t *>reserve(self.reserved[3])
        if self.conns == NULL or self.buckets == NULL or self.overflow == NULL or (source_limit and self.sources == NULL):
            raise MemoryError(f"no room for {capacity} connections")
        self.level_mask = BUCKETS_AT_START - 1
        for k in range(BUCKETS_AT_START):
            memset(self.buckets[k].refs, 0xFF, sizeof(self.buckets[k].refs))
        self.free_conn = self.free_overflow = CONN_NONE
        for k in range(2):
            self.lists[k].oldest = self.lists[k].newest = CONN_NONE
        self.wheel = wheel_of_entries(capacity, &self.conns.expires_ns, &self.conns.timer, sizeof(Conn))

    def __dealloc__(self):
        cdef void *areas[4]
        cdef uint32_t k
        areas[0] = self.conns
        areas[1] = self.buckets
        areas[2] = self.overflow
        areas[3] = self.sources
        for k in range(4):
            if areas[k] != NULL:
                munmap(areas[k], self.reserved[k])

    # --- the index --------------------------------------------------------------------------------------

    cdef uint32_t find(self, const ConnKey *key) noexcept nogil:
        """The reference (number << 1 | direction) of the connection that a packet belongs to; CONN_NONE."""
        cdef const ConnBucket *b = self.buckets + conn_bucket(self, key.hash)
        cdef uint32_t hits, ref
        while True:
            hits = bucket_hits(b, key.hash)
            while hits:
                ref = b.refs[ctz(hits)]
                if ref != CONN_NONE and conn_is(self.conns + (ref >> 1), ref & 1, key):
                    return ref
                hits &= hits - 1
            if b.more == 0:
                return CONN_NONE
            b = self.overflow + b.more - 1

    cdef void put(self, ConnBucket *b, uint32_t tag, uint32_t ref) noexcept nogil:
        """Into the first free place of a bucket's chain, which may have to grow."""
        cdef uint32_t k, number
        while b.used == CONN_WAYS:
            if b.more == 0:
                number = self.free_overflow
                if number == CONN_NONE:
                    number = self.overflow_high
                    self.overflow_high += 1
                else:
                    self.free_overflow = self.overflow[number].more
                memset(self.overflow + number, 0, sizeof(ConnBucket))
                memset(self.overflow[number].refs, 0xFF, sizeof(b.refs))
                self.overflows += 1
                b.more = number + 1
            b = self.overflow + b.more - 1
        for k in range(CONN_WAYS):
            if b.refs[k] == CONN_NONE:
                b.tags[k] = tag
                b.refs[k] = ref
                b.used += 1
                return

    cdef void insert(self, uint32_t hash, uint32_t ref) noexcept nogil:
        self.put(self.buckets + conn_bucket(self, hash), hash, ref)

    cdef void erase(self, uint32_t hash, uint32_t ref) noexcept nogil:
        """A reference that is there goes; an overflow bucket that it leaves empty as well."""
        cdef ConnBucket *b = self.buckets + conn_bucket(self, hash)
        cdef ConnBucket *before = NULL
        cdef uint32_t k, number
        while True:
            for k in range(CONN_WAYS):
                if b.refs[k] == ref:
                    b.refs[k] = CONN_NONE
                    b.used -= 1
                    if b.used == 0 and before != NULL:
                        number = before.more - 1
                        before.more = b.more
                        b.more = self.free_overflow
                        self.free_overflow = number
                        self.overflows -= 1
                    return
            before = b
            b = self.overflow + b.more - 1

    cdef void split_one(self) noexcept nogil:
        """The next bucket of this round gives up those whose hash has the round's bit: O(its references)."""
        cdef uint32_t bit = self.level_mask + 1, at = self.split, number, k, following
        cdef ConnBucket *old = self.buckets + at
        cdef ConnBucket *new = old + bit
        cdef ConnBucket *b
        cdef ConnBucket chain
        memset(new.refs, 0xFF, sizeof(new.refs))
        chain = old[0]
        memset(old.refs, 0xFF, sizeof(old.refs))
        old.used = old.more = 0
        b = &chain
        number = 0
        while True:
            following = b.more
            for k in range(CONN_WAYS):
                if b.refs[k] != CONN_NONE:
                    self.put(new if b.tags[k] & bit else old, b.tags[k], b.refs[k])
            if number:
                self.overflow[number - 1].more = self.free_overflow
                self.free_overflow = number - 1
                self.overflows -= 1
            if following == 0:
                break
            number = following
            b = self.overflow + number - 1
        self.split += 1
        if self.split == bit:
            self.level_mask = self.level_mask << 1 | 1
            self.split = 0

    # --- entries ----------------------------------------------------------------------------------------

    cdef uint32_t open(self, const ConnKey *forward, const ConnKey *reverse, int64_t now_ns, int64_t timeout_ns) noexcept nogil:
        """A connection of those two keys, neither of which is in the table; its number, or CONN_NONE: full."""
        cdef uint32_t number = self.free_conn
        cdef Conn *e
        if number == CONN_NONE:
            if self.high == self.capacity:
                return CONN_NONE
            number = self.high
            self.high += 1
        else:
            self.free_conn = self.conns[number].older
        e = self.conns + number
        memset(e, 0, sizeof(Conn))
        if forward.family == 4:
            memcpy(e.a, forward.addrs, 8)
            memcpy(e.a + 8, reverse.addrs, 8)
        else:
            memcpy(e.b, forward.addrs, 32)
            memcpy(e.b + 32, reverse.addrs, 16)
            memcpy(e.a, reverse.addrs + 16, 16)
        e.ports[0] = forward.ports
        e.ports[1] = reverse.ports
        e.domain[0] = forward.domain
        e.domain[1] = reverse.domain
        e.proto = forward.proto
        e.family = forward.family
        e.server = e.via = CONN_NONE
        e.timer.prev = WHEEL_NONE
        self.wheel.start(number, now_ns + timeout_ns, now_ns)
        self.size += 1
        self.insert(forward.hash, number << 1)
        self.insert(reverse.hash, number << 1 | CONN_REVERSE)
        while (<uint64_t>self.size * 2 > (<uint64_t>self.level_mask + 1 + self.split) * REFS_PER_BUCKET
               and self.level_mask + 1 + self.split < self.max_buckets):
            self.split_one()
        if self.source_limit:
            self.source_count(e, 1)
        return number

    cdef void key_of(self, uint32_t number, bint reverse, ConnKey *key) noexcept nogil:
        """The key of a connection's packets in that direction."""
        cdef const Conn *e = self.conns + number
        conn_key(key, conn_server(e) if reverse else conn_client(e), conn_masq(e) if reverse else conn_virtual(e),
                 e.ports[reverse], e.domain[reverse], e.proto, e.family, self.seed)

    cdef void close(self, uint32_t number) noexcept nogil:
        """An open connection goes, and its number is free."""
        cdef Conn *e = self.conns + number
        cdef ConnKey key
        cdef uint32_t k
        for k in range(2):
            self.key_of(number, k, &key)
            self.erase(key.hash, number << 1 | k)
        if e.timer.prev != WHEEL_NONE:
            self.wheel.stop(number)
        if self.source_limit:
            self.source_count(e, -1)
        self.delist(number)
        e.family = 0
        e.older = self.free_conn
        self.free_conn = number
        self.size -= 1

    # --- who may go first -------------------------------------------------------------------------------

    cdef void enlist(self, uint32_t number, bint closing) noexcept nogil:
        """Among those that may be evicted, as the newest of them; on another list it is no longer."""
        cdef Conn *e = self.conns + number
        cdef ConnList *list_ = &self.lists[closing]
        self.delist(number)
        e.flags |= CONN_LISTED | (CONN_CLOSING if closing else 0)
        e.older = list_.newest
        e.newer = CONN_NONE
        if list_.newest != CONN_NONE:
            self.conns[list_.newest].newer = number
        else:
            list_.oldest = number
        list_.newest = number
        list_.size += 1

    cdef void delist(self, uint32_t number) noexcept nogil:
        """It is evicted no more."""
        cdef Conn *e = self.conns + number
        cdef ConnList *list_ = &self.lists[(e.flags & CONN_CLOSING) != 0]
        if not e.flags & CONN_LISTED:
            return
        if e.older != CONN_NONE:
            self.conns[e.older].newer = e.newer
        else:
            list_.oldest = e.newer
        if e.newer != CONN_NONE:
            self.conns[e.newer].older = e.older
        else:
            list_.newest = e.older
        list_.size -= 1
        e.flags &= ~<uint8_t>(CONN_LISTED | CONN_CLOSING)

    cdef uint32_t victim(self) noexcept nogil:
        """Who goes when there is no room: the oldest of those that have yet to be opened, or of those that are over, whichever
        are more. So a flood of the one does not cost the other, nor itself the last that came. CONN_NONE: nobody, since all
        are established."""
        return self.lists[self.lists[1].size >= self.lists[0].size].oldest

    # --- how many a client has --------------------------------------------------------------------------

    cdef bint source_full(self, const ConnKey *forward) noexcept nogil:
        """Whether the client has as many as it may. Others that share both of its counters count as well: seldom."""
        cdef uint8_t addr[16]
        cdef uint64_t hash
        if self.source_limit == 0:
            return False
        memset(addr, 0, 16)
        memcpy(addr, forward.addrs, 4 if forward.family == 4 else 16)
        hash = hash_16(addr, conn_word(forward.domain, 0, forward.family), self.seed)
        return (self.sources[<uint32_t>hash & self.source_mask] >= self.source_limit
                and self.sources[(<uint32_t>(hash >> 32) & self.source_mask) + self.source_mask + 1] >= self.source_limit)

    cdef void source_count(self, const Conn *e, int32_t by) noexcept nogil:
        cdef uint8_t addr[16]
        cdef uint64_t hash
        memset(addr, 0, 16)
        memcpy(addr, conn_client(e), 4 if e.family == 4 else 16)
        hash = hash_16(addr, conn_word(e.domain[0], 0, e.family), self.seed)
        self.sources[<uint32_t>hash & self.source_mask] += by
        self.sources[(<uint32_t>(hash >> 32) & self.source_mask) + self.source_mask + 1] += by

    # --- for Python -------------------------------------------------------------------------------------

    cdef int key_from(self, domain, proto, src, sport, dst, dport, ConnKey *key) except -1:
        cdef uint8_t ports[4]
        cdef uint32_t word
        if len(src) not in (4, 16) or len(dst) != len(src):
            raise ValueError(f"addresses of {len(src)} and {len(dst)} bytes: 4 or 16, both")
        if not 0 <= domain < 65536 or not 1 <= proto < 256 or not 0 <= sport < 65536 or not 0 <= dport < 65536:
            raise ValueError(f"domain {domain}, protocol {proto}, ports {sport} and {dport}")
        both = bytes(src) + bytes(dst)
        store_be16(ports, sport)
        store_be16(ports + 2, dport)
        memcpy(&word, ports, 4)
        if len(src) == 4:
            conn_key4(key, <const uint8_t *><const char *>both, word, domain, proto, self.seed)
        else:
            conn_key6(key, <const uint8_t *><const char *>both, word, domain, proto, self.seed)
        return 0

    def __len__(self):
        return self.size

    @property
    def memory(self):
        """Bytes that entries and index have touched: they are kept."""
        return (self.high * sizeof(Conn) + (<uint64_t>self.level_mask + 1 + self.split + self.overflow_high) * sizeof(ConnBucket)
                + self.reserved[3])

    def lookup(self, domain, proto, src, sport, dst, dport):
        """``(number, reverse)`` of the connection that such a packet belongs to, or None."""
        cdef ConnKey key
        cdef uint32_t ref
        self.key_from(domain, proto, src, sport, dst, dport, &key)
        ref = self.find(&key)
        return None if ref == CONN_NONE else (ref >> 1, bool(ref & 1))

    def hash(self, domain, proto, src, sport, dst, dport):
        """What a packet's key is hashed to, 32 bits, of which a bucket's number is the lower ones."""
        cdef ConnKey key
        self.key_from(domain, proto, src, sport, dst, dport, &key)
        return key.hash

    @property
    def longest(self):
        """Buckets of the longest chain."""
        cdef uint32_t b, at, n, most = 0
        for b in range(self.level_mask + 1 + self.split):
            n = 1
            at = self.buckets[b].more
            while at:
                n += 1
                at = self.overflow[at - 1].more
            most = max(most, n)
        return most

    def add(self, forward, reverse, *, int64_t now_ns=0, int64_t timeout_ns=1 << 60):
        """A connection of two keys, each ``(domain, proto, src, sport, dst, dport)``; its number. For tests and benchmarks.
        ValueError: there is one of such packets; OverflowError: full."""
        cdef ConnKey f, r
        cdef uint32_t number
        domain, proto, src, sport, dst, dport = forward
        self.key_from(domain, proto, src, sport, dst, dport, &f)
        domain, proto, src, sport, dst, dport = reverse
        self.key_from(domain, proto, src, sport, dst, dport, &r)
        if f.family != r.family or f.proto != r.proto:
            raise ValueError("both keys are of one family and protocol")
        if self.find(&f) != CONN_NONE or self.find(&r) != CONN_NONE:
            raise ValueError("there is a connection of such packets")
        number = self.open(&f, &r, now_ns, timeout_ns)
        if number == CONN_NONE:
            raise OverflowError(f"all {self.capacity} connections are taken")
        return number

    def remove(self, uint32_t number):
        """ValueError: there is none of that number."""
        if number >= self.high or self.conns[number].family == 0:
            raise ValueError(f"connection {number}: there is none of that number")
        self.close(number)

    def row(self, uint32_t number):
        """One connection as a dictionary, or None: addresses as bytes, ports, state, flags, times."""
        if number >= self.high or self.conns[number].family == 0:
            return None
        return conn_row(self.conns + number, number)

    def rows(self):
        """Every connection, one after the other; those opened or closed meanwhile may be seen or not."""
        cdef uint32_t number
        for number in range(self.high):
            row = self.row(number)
            if row is not None:
                yield row

    def in_words(self, int64_t now_ns, dict names not None):
        """Every connection that lives at ``now_ns``, as ``Dataplane.connections`` has it; of what holds a client to a server, which is no
        connection, ``row`` has it. ``names``: of protocols, each with those of its states (none: as the protocol)."""
        cdef uint32_t number
        cdef const Conn *e
        for number in range(self.high):
            e = self.conns + number
            if e.family == 0 or e.expires_ns <= now_ns:
                continue
            if e.flags & CONN_TEMPLATE:
                yield self.row(number)
                continue
            protocol, states = names.get(e.proto) or (str(e.proto), ())
            yield {
                "protocol": protocol,
                "kind": "returned" if e.flags & CONN_RETURN else "masqueraded" if e.server == CONN_NONE else "service",
                "state": states[e.state] if states else protocol,
                "left_s": (e.expires_ns - now_ns) // 1000000000,
                "client": address_text(conn_client(e), e.family), "cport": load_be16(<const uint8_t *>&e.ports[0]),
                "virtual": address_text(conn_virtual(e), e.family), "vport": load_be16(<const uint8_t *>&e.ports[0] + 2),
                "server": address_text(conn_server(e), e.family), "port": load_be16(<const uint8_t *>&e.ports[1]),
                "masquerade": address_text(conn_masq(e), e.family) if e.flags & CONN_MASQ else None,
                "mport": load_be16(<const uint8_t *>&e.ports[1] + 2), "answered": (e.flags & CONN_ANSWERED) != 0,
            }

    def check(self):
        """Whether index, entries, lists and timers agree. For tests: O(everything)."""
        cdef uint32_t number, k, refs = 0, at, b
        cdef ConnKey key
        cdef uint32_t used = 0
        for number in range(self.high):
            if self.conns[number].family == 0:
                continue
            used += 1
            for k in range(2):
                self.key_of(number, k, &key)
                if self.find(&key) != number << 1 | k:
                    return f"connection {number}: not found, direction {k}"
            if self.conns[number].timer.prev == WHEEL_NONE:
                return f"connection {number}: no timer"
        for b in range(self.level_mask + 1 + self.split):
            refs += self.buckets[b].used
            k = self.buckets[b].more
            while k:
                refs += self.overflow[k - 1].used
                k = self.overflow[k - 1].more
        if used != self.size or refs != 2 * self.size or self.wheel.size != self.size:
            return f"{used} entries, {refs} references, {self.wheel.size} timers, size {self.size}"
        for k in range(2):
            used = 0
            at = self.lists[k].oldest
            while at != CONN_NONE:
                used += 1
                at = self.conns[at].newer
            if used != self.lists[k].size:
                return f"list {k}: {used} of {self.lists[k].size}"
        return None
