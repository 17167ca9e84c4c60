"""Forwarding table: learning, ageing, fair eviction; the look-up itself is in the .pxd."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport free

from vxlanfast._ext.table.hash cimport hash_u64, power_of_two, prefetch, table_memory

cdef enum:
    AHEAD = 16          # look-ups of which the cache lines are on their way
    CAPACITY_MAX = 1 << 28
    NET_LIMIT = 8192    # learned entries of a network, as Open vSwitch bounds a bridge's

STATES = {FDB_LEARNED: "learned", FDB_STATIC: "static", FDB_LOCAL: "local"}


cdef class FdbTable:
    """(network, MAC) -> destination. ``capacity``: entries, fixed; ``dests``: destinations are numbers below it.

    ``learned_limit``: learned entries of one network at most, ``owner_limit`` of one destination (None: as many as a
    network may have). Where a limit is met, the destination with the most of that network loses its oldest. Entries that
    were set (static, local) count against the capacity alone, and learned ones make room for them. ``ageing_ns``: a
    learned entry goes when so long nothing came from it, 0 for never; whether something is sent to it does not matter.
    ``seed``: of the hash.
    """

    def __cinit__(self, uint32_t capacity=1 << 17, *, uint32_t dests=1 << 16, uint32_t learned_limit=NET_LIMIT,
                  owner_limit=None, int64_t ageing_ns=300_000_000_000, uint64_t seed=0):
        cdef uint64_t n_buckets
        cdef uint32_t i
        if not 1 <= capacity <= CAPACITY_MAX:
            raise ValueError(f"capacity = {capacity}: 1 to {CAPACITY_MAX} entries")
        if not 1 <= dests < FDB_NONE:
            raise ValueError(f"dests = {dests}: at least 1")
        if ageing_ns < 0:
            raise ValueError(f"ageing_ns = {ageing_ns}: 0 (never) or more")
        n_buckets = power_of_two((<uint64_t>capacity * 4 + 3 * FDB_WAYS - 1) // (3 * FDB_WAYS))  # three quarters full
        self.capacity = capacity
        self.mask = <uint32_t>n_buckets - 1
        self.n_owners = dests
        self.owner_limit = learned_limit if owner_limit is None else owner_limit
        self.ageing_ns = ageing_ns
        self.seed = hash_u64(seed, 0)
        self.buckets = <FdbBucket *>table_memory(n_buckets * sizeof(FdbBucket))
        self.meta = <FdbMeta *>table_memory(n_buckets * FDB_WAYS * sizeof(FdbMeta))
        self.owners = <FdbOwner *>table_memory(<uint64_t>dests * sizeof(FdbOwner))
        self.nets = <FdbNet *>table_memory(FDB_NETS_MAX * sizeof(FdbNet))
        if self.buckets == NULL or self.meta == NULL or self.owners == NULL or self.nets == NULL:
            raise MemoryError(f"no room for {capacity} entries")
        for i in range(FDB_NETS_MAX):
            self.nets[i].limit = learned_limit
            self.nets[i].owners = FDB_NONE
        for i in range(dests):
            self.owners[i].newest = self.owners[i].oldest = self.owners[i].next = FDB_NONE

    def __dealloc__(self):
        free(self.buckets)
        free(self.meta)
        free(self.owners)
        free(self.nets)

    cdef void link(self, uint32_t slot, uint32_t dest) noexcept nogil:
        """A learned entry becomes its destination's newest."""
        cdef FdbOwner *owner = &self.owners[dest]
        cdef FdbNet *net
        cdef uint16_t number = <uint16_t>(self.buckets[slot // FDB_WAYS].keys[slot % FDB_WAYS] >> 48)
        self.meta[slot].linked_s = <uint32_t>(self.meta[slot].updated_ns // FDB_TICK_NS)
        self.meta[slot].older = owner.newest
        self.meta[slot].newer = FDB_NONE
        if owner.newest == FDB_NONE:
            owner.oldest = slot
        else:
            self.meta[owner.newest].newer = slot
        owner.newest = slot
        owner.count += 1
        net = &self.nets[number]
        net.learned += 1
        if not owner.listed:
            owner.listed = True
            owner.net = number
            owner.next = net.owners
            net.owners = dest

    cdef void unlink(self, uint32_t slot) noexcept nogil:
        cdef FdbMeta *m = &self.meta[slot]
        cdef FdbOwner *owner = &self.owners[self.buckets[slot // FDB_WAYS].dests[slot % FDB_WAYS]]
        if m.older == FDB_NONE:
            owner.oldest = m.newer
        else:
            self.meta[m.older].newer = m.newer
        if m.newer == FDB_NONE:
            owner.newest = m.older
        else:
            self.meta[m.newer].older = m.older
        owner.count -= 1
        self.nets[owner.net].learned -= 1

    cdef uint32_t put(self, uint64_t key, uint32_t dest, uint8_t state, int64_t now_ns) noexcept nogil:
        """A new entry, of a key that is not there, in a table that has room: its slot."""
        cdef uint32_t at = self.home(key), way = 0, slot
        cdef FdbBucket *b
        cdef FdbMeta *m
        while True:
            b = self.buckets + at
            way = 0
            while way < FDB_WAYS and b.keys[way]:
                way += 1
            if way < FDB_WAYS:
                break
            b.passed += 1
            at = (at + 1) & self.mask
        b.keys[way] = key
        b.dests[way] = dest
        slot = at * FDB_WAYS + way
        m = &self.meta[slot]
        m.updated_ns = now_ns
        m.state = state
        m.moves = 0
        m.window_s = 0
        m.frozen = False
        self.size += 1
        if state == FDB_LEARNED:
            self.link(slot, dest)
        return slot

    cdef void remove(self, uint32_t slot) noexcept nogil:
        cdef uint32_t end = slot // FDB_WAYS, way = slot % FDB_WAYS, at
        cdef uint64_t key = self.buckets[end].keys[way]
        if self.meta[slot].state == FDB_LEARNED:
            self.unlink(slot)
        self.buckets[end].keys[way] = 0
        self.size -= 1
        at = self.home(key)
        while at != end:
            self.buckets[at].passed -= 1
            at = (at + 1) & self.mask

    cdef bint give_up(self, uint32_t owner) noexcept nogil:
        """The oldest learned entry of a destination goes."""
        if self.owners[owner].oldest == FDB_NONE:
            return False
        self.remove(self.owners[owner].oldest)
        self.counters.evicted += 1
        return True

    cdef bint make_room(self, uint16_t net) noexcept nogil:
        """The destination of that network with the most learned entries loses its oldest. O(destinations that learned)."""
        cdef uint32_t owner = self.nets[net].owners, most = FDB_NONE
        while owner != FDB_NONE:
            if most == FDB_NONE or self.owners[owner].count > self.owners[most].count:
                most = owner
            owner = self.owners[owner].next
        return most != FDB_NONE and self.give_up(most)

    cdef FdbLearn learn(self, uint64_t key, uint32_t at, uint32_t dest, int64_t now_ns) noexcept nogil:
        """A frame from ``key``, whose bucket is ``at``, came by ``dest``. The MAC is a station's: not zero, not a group."""
        cdef uint32_t slot
        cdef uint32_t second = <uint32_t>(now_ns // FDB_TICK_NS)
        cdef uint16_t net = <uint16_t>(key >> 48)
        cdef FdbMeta *m
        cdef uint32_t *where
        if now_ns >= self.next_tick_ns:
            self.age(now_ns)
        slot = fdb_find_from(self.buckets, self.mask, at, key)
        if slot != FDB_NONE:
            m = &self.meta[slot]
            where = &self.buckets[slot // FDB_WAYS].dests[slot % FDB_WAYS]
            if where[0] == dest:
                if m.state == FDB_LEARNED and now_ns > m.updated_ns:
                    m.updated_ns = now_ns
                    if second != m.linked_s:
                        # The order is one of seconds, so most frames touch nothing but their own entry.
                        self.unlink(slot)
                        self.link(slot, dest)
                return LEARN_KNOWN
            if m.state != FDB_LEARNED:
                self.counters.refused += 1
                return LEARN_REFUSED
            if second - m.window_s >= FDB_MOVE_WINDOW_S:
                m.window_s = second
                m.moves = 0
                m.frozen = False
            if m.moves == FDB_MOVES_MAX and not m.frozen:
                m.frozen = True
                m.window_s = second  # for a whole window from now on
                self.counters.froze += 1
            if m.frozen:
                self.counters.frozen += 1
                return LEARN_FROZEN
            m.moves += 1
            self.unlink(slot)
            where[0] = dest
            m.updated_ns = now_ns
            self.link(slot, dest)
            self.counters.moved += 1
            return LEARN_MOVED
        if self.owners[dest].count >= self.owner_limit and not self.give_up(dest):
            self.counters.full += 1
            return LEARN_FULL
        if ((self.nets[net].learned >= self.nets[net].limit or self.size >= self.capacity)
                and not self.make_room(net)):
            self.counters.full += 1
            return LEARN_FULL
        self.put(key, dest, FDB_LEARNED, now_ns)
        self.counters.learned += 1
        return LEARN_NEW

    cdef void age(self, int64_t now_ns) noexcept nogil:
        """Learned entries that were silent too long go. O(destinations) once a second of ``now_ns``, and what goes."""
        cdef uint32_t owner, slot
        if now_ns < self.next_tick_ns:
            return
        self.next_tick_ns = (now_ns // FDB_TICK_NS + 1) * FDB_TICK_NS
        if self.ageing_ns == 0:
            return
        for owner in range(self.n_owners):
            slot = self.owners[owner].oldest
            while slot != FDB_NONE and now_ns - self.meta[slot].updated_ns >= self.ageing_ns:
                self.remove(slot)
                self.counters.aged += 1
                slot = self.owners[owner].oldest

    cdef uint32_t home(self, uint64_t key) noexcept nogil:
        """The bucket where the search for a key begins."""
        return <uint32_t>hash_u64(key, self.seed) & self.mask

    cdef uint32_t slot_of(self, uint64_t key) noexcept nogil:
        return fdb_find_from(self.buckets, self.mask, self.home(key), key)

    cdef uint64_t key_of(self, net, mac) except 0:
        """A key of checked parts."""
        cdef uint64_t number
        if not 0 <= net < FDB_NETS_MAX:
            raise ValueError(f"network {net}: 0 to {FDB_NETS_MAX - 1}")
        if len(mac) != 6:
            raise ValueError(f"MAC of {len(mac)} bytes: 6")
        number = int.from_bytes(mac, "big")
        if number == 0 or number >> 40 & 1:
            raise ValueError(f"MAC {bytes(mac).hex(':')}: zero or a group address is no station's")
        return fdb_key(net, number)

    cdef int check_dest(self, uint32_t dest, uint16_t net) except -1:
        if dest >= self.n_owners:
            raise ValueError(f"destination {dest}: below {self.n_owners}")
        if self.owners[dest].listed and self.owners[dest].net != net:
            raise ValueError(f"destination {dest} belongs to network {self.owners[dest].net}, not {net}")
        return 0

    def __len__(self):
        return self.size

    def set(self, uint16_t net, mac, uint32_t dest, *, bint local=False, int64_t now_ns=0):
        """An authoritative entry: in place of whatever was there; a learned one makes room in a full table.

        ``local``: an address of ours. OverflowError where every entry is authoritative.
        """
        cdef uint64_t key = self.key_of(net, mac)
        cdef uint32_t slot = self.slot_of(key), i
        cdef int64_t most = -1
        self.check_dest(dest, net)
        if slot != FDB_NONE:
            self.remove(slot)
        elif self.size >= self.capacity:
            for i in range(FDB_NETS_MAX):
                if self.nets[i].learned and (most < 0 or self.nets[i].learned > self.nets[most].learned):
                    most = i
            if most < 0 or not self.make_room(<uint16_t>most):
                raise OverflowError(f"forwarding table: all {self.capacity} entries are authoritative")
        self.put(key, dest, FDB_LOCAL if local else FDB_STATIC, now_ns)

    def delete(self, uint16_t net, mac):
        """Whether there was an entry to delete."""
        cdef uint32_t slot = self.slot_of(self.key_of(net, mac))
        if slot == FDB_NONE:
            return False
        self.remove(slot)
        return True

    def get(self, uint16_t net, mac):
        """The destination, or None."""
        cdef uint32_t slot = self.slot_of(self.key_of(net, mac))
        return None if slot == FDB_NONE else self.buckets[slot // FDB_WAYS].dests[slot % FDB_WAYS]

    def entry(self, uint16_t net, mac):
        """The entry of a MAC as in ``rows``, or None."""
        cdef uint32_t slot = self.slot_of(self.key_of(net, mac))
        return None if slot == FDB_NONE else self.row(slot)

    cdef dict row(self, uint32_t slot):
        cdef uint64_t key = self.buckets[slot // FDB_WAYS].keys[slot % FDB_WAYS]
        return {
            "net": key >> 48, "mac": int(key & 0xFFFFFFFFFFFFULL).to_bytes(6, "big"),
            "dest": self.buckets[slot // FDB_WAYS].dests[slot % FDB_WAYS], "state": STATES[self.meta[slot].state],
            "updated_ns": self.meta[slot].updated_ns, "frozen": bool(self.meta[slot].frozen),
        }

    def learn_from(self, uint16_t net, mac, uint32_t dest, int64_t now_ns):
        """What the frame of a station does: "known", "new", "moved", "refused", "frozen" or "full"."""
        cdef uint64_t key = self.key_of(net, mac)
        self.check_dest(dest, net)
        return ("known", "new", "moved", "refused", "frozen", "full")[self.learn(key, self.home(key), dest, now_ns)]

    def age_to(self, int64_t now_ns):
        """Let the time be ``now_ns``: what was silent for too long goes."""
        self.age(now_ns)

    def limit(self, uint16_t net, uint32_t learned):
        """Learned entries that a network may have."""
        self.nets[net].limit = learned
        while self.nets[net].learned > learned:
            self.make_room(net)

    def flush(self, *, net=None, dest=None, bint learned=False):
        """Delete the entries of a network, a destination, both, or all; ``learned``: only such. Returns how many. O(capacity)."""
        cdef uint32_t slot, gone = 0
        cdef uint64_t key
        for slot in range((self.mask + 1) * FDB_WAYS):
            key = self.buckets[slot // FDB_WAYS].keys[slot % FDB_WAYS]
            if key == 0 or (learned and self.meta[slot].state != FDB_LEARNED):
                continue
            if net is not None and key >> 48 != net:
                continue
            if dest is not None and self.buckets[slot // FDB_WAYS].dests[slot % FDB_WAYS] != dest:
                continue
            self.remove(slot)
            gone += 1
        return gone

    def adopt(self, FdbTable other not None, const uint32_t[::1] dests not None, const uint32_t[::1] nets not None):
        """Take over what another table learned, where its network and destination live on and nothing here says otherwise.

        ``dests[i]``, ``nets[i]``: what the other's number is here, 0xFFFFFFFF where it is gone. Returns how many came.
        """
        cdef uint32_t owner, slot, dest, came = 0
        cdef uint64_t key
        if dests.shape[0] < other.n_owners or nets.shape[0] < FDB_NETS_MAX:
            raise ValueError(f"{dests.shape[0]} destinations and {nets.shape[0]} networks, of {other.n_owners} and {FDB_NETS_MAX}")
        for owner in range(other.n_owners):
            dest = dests[owner]
            if dest == FDB_NONE:
                continue
            slot = other.owners[owner].oldest
            while slot != FDB_NONE:
                key = other.buckets[slot // FDB_WAYS].keys[slot % FDB_WAYS]
                if nets[key >> 48] != FDB_NONE:
                    self.check_dest(dest, <uint16_t>nets[key >> 48])
                    key = fdb_key(<uint16_t>nets[key >> 48], key & 0xFFFFFFFFFFFFULL)
                    if self.slot_of(key) == FDB_NONE and self.learn(key, self.home(key), dest, other.meta[slot].updated_ns) == LEARN_NEW:
                        self.counters.learned -= 1  # it was counted there
                        came += 1
                slot = other.meta[slot].newer
        return came

    def lookup(self, const uint64_t[::1] keys not None, uint32_t[::1] found not None):
        """Destinations of many keys (network << 48 | MAC) at once, 0xFFFFFFFF for those that are not there."""
        cdef Py_ssize_t n = keys.shape[0]
        if found.shape[0] < n:
            raise ValueError(f"{n} keys and room for {found.shape[0]} destinations")
        if n:
            with nogil:
                lookup_many(self.buckets, self.mask, self.seed, &keys[0], &found[0], n)

    def walk(self):
        """Entries as ``rows`` has them, each as it is when its turn comes: the table may change between two of them."""
        cdef uint32_t slot
        for slot in range((self.mask + 1) * FDB_WAYS):
            if self.buckets[slot // FDB_WAYS].keys[slot % FDB_WAYS]:
                yield self.row(slot)

    def rows(self, net=None):
        """Entries as dictionaries: net, mac (6 bytes), dest, state, updated_ns, frozen; of one network, or all. O(capacity)."""
        cdef uint32_t slot
        cdef uint64_t key
        out = []
        for slot in range((self.mask + 1) * FDB_WAYS):
            key = self.buckets[slot // FDB_WAYS].keys[slot % FDB_WAYS]
            if key and (net is None or key >> 48 == net):
                out.append(self.row(slot))
        return out

    def learned_of(self, uint32_t dest):
        """How many entries were learned from a destination."""
        return self.owners[dest].count if dest < self.n_owners else 0

    def counts(self):
        """What learning did since the start, by name."""
        return self.counters


cdef void lookup_many(const FdbBucket *buckets, uint32_t mask, uint64_t seed, const uint64_t *keys, uint32_t *found,
                      Py_ssize_t n) noexcept nogil:
    cdef uint32_t at[AHEAD]
    cdef Py_ssize_t i, first, count
    cdef uint32_t slot
    first = 0
    while first < n:
        count = n - first if n - first < AHEAD else AHEAD
        for i in range(count):
            at[i] = <uint32_t>hash_u64(keys[first + i], seed) & mask
            prefetch(buckets + at[i])
        for i in range(count):
            slot = fdb_find_from(buckets, mask, at[i], keys[first + i])
            found[first + i] = FDB_NONE if slot == FDB_NONE else buckets[slot // FDB_WAYS].dests[slot % FDB_WAYS]
        first += count
