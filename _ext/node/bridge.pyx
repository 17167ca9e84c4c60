"""Learn where a frame came from, look up where it goes, make copies where that is more than one place.

Every row gets a destination; a flooded frame becomes rows that share its body, each with a destination of its own, behind
each other in the leaving order. Never to where it came from, and never from a tunnel to a tunnel (split horizon): with
head-end replication every VTEP has the frame from its sender already.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from vxlanfast._ext.batch cimport Columns, PacketBatch, batch_grow_rows, row_at, row_copy, row_count
from vxlanfast._ext.node.snoop cimport Listeners, Snoop, WANTED_BY_ALL, WANTED_REPORT
from vxlanfast._ext.table.dest cimport (
    DEST_FLOODED, DEST_FLOODED_LOCAL, DEST_GATEWAY, DEST_LOCAL, DEST_NONE, DEST_PEER, DEST_PICKED, DEST_PLACES, DEST_PORT,
    Dest, DestTable, dest_is_at,
)
from vxlanfast._ext.table.fdb cimport (
    FDB_LEARNED, FDB_NONE, FDB_WAYS, FdbLearn, FdbTable, LEARN_FROZEN, LEARN_REFUSED, fdb_find_from, fdb_key,
)
from vxlanfast._ext.table.hash cimport hash_u64, prefetch
from vxlanfast._ext.table.net cimport NET_FLOOD, NET_LEARN, NET_SNOOP, Net, NetTable
from vxlanfast._ext.verdict cimport (
    Verdict, PASS, DROP_BUM_RATE, DROP_GATEWAY_REMOTE, DROP_GROUP_EMPTY, DROP_NEIGH_UNKNOWN, DROP_NO_ENTRY, DROP_NO_RECEIVER, DROP_SAME_PORT,
    DROP_SPLIT_HORIZON, DROP_STATION_ELSEWHERE, DROP_STATION_FROZEN, RULE_BROADCAST, RULE_ENTRY, RULE_GROUP, RULE_LEARNED,
    RULE_MULTICAST, RULE_PLACES, RULE_REPORT, RULE_SET, RULE_UNKNOWN, VERDICT_COUNT,
)
from vxlanfast._ext.wire.endian cimport likely, load_be64
from vxlanfast._ext.wire.eth cimport ETH_OFF_DST, ETH_OFF_SRC

cdef enum:
    VECTOR = 32                 # rows of which the cache lines are fetched together
    SECOND_NS = 1000000000
    BURST_NS = 100000000        # what a silent network may send at once: a tenth of a second's worth
    BROADCAST_MAC = 0xFFFFFFFFFFFFULL


cdef inline bint bum_allowed(Net *net, int64_t now_ns) noexcept nogil:
    """One more frame within the network's rate: the generic cell rate algorithm (ITU-T I.371), whose state is one time."""
    cdef int64_t due
    if net.bum_rate == 0:
        return True
    due = net.bum_next_ns if net.bum_next_ns > now_ns else now_ns
    if due - now_ns > BURST_NS:
        net.bum_limited += 1
        return False
    net.bum_next_ns = due + SECOND_NS // net.bum_rate
    return True


cdef class Bridge:
    """Forwards the frames of networks by the forwarding table, which it also fills."""
    cdef NetTable nets
    cdef DestTable dests
    cdef FdbTable fdb
    cdef Snoop snoop
    cdef uint32_t *picks            # of rows that go to DEST_PICKED, in their order: how many, and which destinations
    cdef uint32_t n_picks
    cdef uint32_t cap_picks
    cdef public bint explains       # rows say whether their entry was learned or set: a cache line more a look-up
    cdef bint starved               # no memory for them
    cdef readonly uint64_t flooded  # frames
    cdef readonly uint64_t copies   # rows made of them, the first included
    cdef uint64_t counts[VERDICT_COUNT]

    def __cinit__(self, NetTable nets not None, DestTable dests not None, FdbTable fdb not None, Snoop snoop=None):
        if fdb.n_owners < dests.capacity:
            raise ValueError(f"the forwarding table knows {fdb.n_owners} destinations, and there is room for {dests.capacity}")
        self.nets = nets
        self.dests = dests
        self.fdb = fdb
        self.snoop = snoop

    def __dealloc__(self):
        free(self.picks)

    cdef inline uint32_t listeners(self, const Net *net, uint32_t origin, uint32_t dest) noexcept nogil:
        """How much of the flood list gets a frame: all of it, or the ports it begins with. The sender may be among them."""
        if self.dests.dests[origin].kind == DEST_PEER or dest == DEST_LOCAL or dest == DEST_FLOODED_LOCAL \
                or not net.flags & NET_FLOOD:
            return net.n_ports
        return net.n_flood

    cdef inline uint32_t copies_of(self, const Net *net, uint32_t origin, uint32_t dest) noexcept nogil:
        """How many get a flooded frame. Every port of a network is in its list, so a sender that is a port is one of them."""
        return self.listeners(net, origin, dest) - (1 if self.dests.dests[origin].kind == DEST_PORT else 0)

    cdef bint is_elsewhere(self, uint64_t src, uint32_t src_at, uint32_t origin) noexcept nogil:
        """Whether a station has an entry, and it is not at the place that its frame came from."""
        cdef uint32_t slot = fdb_find_from(self.fdb.buckets, self.fdb.mask, src_at, src)
        return slot != FDB_NONE and not dest_is_at(self.dests, self.fdb.buckets[slot // FDB_WAYS].dests[slot % FDB_WAYS], origin)

    cdef uint32_t *room_for_picks(self, uint32_t count) noexcept nogil:
        """Where the next row's picks may stand, their number first; NULL: no memory."""
        cdef uint32_t cap = self.n_picks + count + 1
        cdef void *grown
        if cap > self.cap_picks:
            cap = cap * 2
            grown = realloc(self.picks, <uint64_t>cap * sizeof(uint32_t))
            if grown == NULL:
                self.starved = True
                return NULL
            self.picks = <uint32_t *>grown
            self.cap_picks = cap
        return self.picks + self.n_picks

    cdef uint32_t pick(self, uint32_t *list_, uint32_t count, const Net *net, uint32_t origin, uint32_t dest) noexcept nogil:
        """Of the ``count`` destinations behind ``list_``, those that a frame may go to from ``origin``; 0: none."""
        cdef uint32_t k, n = 0, one
        cdef bint tunnels = not (self.dests.dests[origin].kind == DEST_PEER or dest == DEST_LOCAL)
        for k in range(count):
            one = list_[1 + k]
            if one != origin and (tunnels or self.dests.dests[one].kind == DEST_PORT):
                list_[1 + n] = one
                n += 1
        list_[0] = n
        if n:
            self.n_picks += n + 1
        return n

    cdef Verdict to_places(self, Columns *c, uint32_t i, const Dest *d) noexcept nogil:
        """A station at several places gets a copy at each (the kernel's ``bridge fdb append``)."""
        cdef uint32_t *list_ = self.room_for_picks(d.n_members)
        cdef const Net *net = self.nets.nets + c.net[i]
        if list_ == NULL:
            return DROP_NO_RECEIVER
        memcpy(list_ + 1, self.dests.members + d.members_at, <uint64_t>d.n_members * sizeof(uint32_t))
        if self.pick(list_, d.n_members, net, c.origin[i], c.dest[i]) == 0:
            return DROP_SPLIT_HORIZON if self.dests.dests[c.origin[i]].kind == DEST_PEER else DROP_SAME_PORT
        c.dest[i] = DEST_PICKED
        c.rule[i] = RULE_PLACES
        return PASS

    cdef Verdict to_group(self, Columns *c, uint32_t i, Net *net) noexcept nogil:
        """A multicast frame, where the network snoops: DEST_NONE stays where it is to be flooded."""
        cdef Listeners found
        cdef uint32_t *list_
        cdef uint32_t count
        self.snoop.look(c.arena + c.off[i], c.len[i], c.net[i], c.origin[i], c.ts_ns[i], &found)
        if found.wanted == WANTED_BY_ALL:
            return PASS
        list_ = self.room_for_picks(self.dests.size)
        if list_ == NULL:
            return DROP_NO_RECEIVER
        count = self.snoop.gather(&found, c.net[i], c.ts_ns[i], list_ + 1, self.dests.size)
        if not net.flags & NET_FLOOD:
            c.dest[i] = DEST_LOCAL
        if self.pick(list_, count, net, c.origin[i], c.dest[i]) == 0:
            return DROP_GROUP_EMPTY
        if not bum_allowed(net, c.ts_ns[i]):
            self.n_picks -= list_[0] + 1
            return DROP_BUM_RATE
        c.dest[i] = DEST_PICKED
        c.rule[i] = RULE_REPORT if found.wanted == WANTED_REPORT else RULE_GROUP
        return PASS

    cdef Verdict decide(self, Columns *c, uint32_t i, uint64_t src, uint32_t src_at, uint64_t dst,
                        uint32_t dst_at) noexcept nogil:
        """Where row ``i`` goes. ``src``, ``dst``: keys of the forwarding table, whose buckets are ``_at``."""
        cdef Net *net = self.nets.nets + c.net[i]
        cdef uint32_t origin = c.origin[i], slot, dest
        cdef uint8_t kind
        cdef FdbLearn learned
        cdef Verdict v
        if net.flags & NET_LEARN:
            learned = self.fdb.learn(src, src_at, origin, c.ts_ns[i])
            if learned == LEARN_REFUSED and self.is_elsewhere(src, src_at, origin):
                return DROP_STATION_ELSEWHERE
            if learned == LEARN_FROZEN:
                return DROP_STATION_FROZEN
        else:
            self.fdb.age(c.ts_ns[i])
            if self.is_elsewhere(src, src_at, origin):
                return DROP_STATION_ELSEWHERE
        if c.dest[i] != DEST_NONE and c.dest[i] != DEST_LOCAL:
            return PASS  # an answer, whose way is known
        slot = FDB_NONE
        if not dst >> 40 & 1:
            slot = fdb_find_from(self.fdb.buckets, self.fdb.mask, dst_at, dst)
        if likely(slot != FDB_NONE):
            dest = self.fdb.buckets[slot // FDB_WAYS].dests[slot % FDB_WAYS]
            if dest == origin:
                return DROP_SAME_PORT
            kind = self.dests.dests[dest].kind
            if self.dests.dests[origin].kind == DEST_PEER:
                if kind == DEST_PEER:
                    return DROP_SPLIT_HORIZON
                if kind == DEST_GATEWAY:
                    return DROP_GATEWAY_REMOTE
            if kind == DEST_PLACES:
                return self.to_places(c, i, self.dests.dests + dest)
            if c.dest[i] == DEST_LOCAL and kind == DEST_PEER:
                return DROP_NEIGH_UNKNOWN
            c.dest[i] = dest
            c.rule[i] = RULE_ENTRY
            if self.explains:
                c.rule[i] = RULE_LEARNED if self.fdb.meta[slot].state == FDB_LEARNED else RULE_SET
            return PASS
        if dst >> 40 & 1 and net.flags & NET_SNOOP and dst & BROADCAST_MAC != BROADCAST_MAC and self.snoop is not None:
            v = self.to_group(c, i, net)
            if v != PASS or c.dest[i] == DEST_PICKED:
                return v
        if self.copies_of(net, origin, c.dest[i]) == 0:
            if c.dest[i] == DEST_LOCAL:
                return DROP_NEIGH_UNKNOWN
            return DROP_NO_RECEIVER if net.flags & NET_FLOOD else DROP_NO_ENTRY
        if not bum_allowed(net, c.ts_ns[i]):
            return DROP_BUM_RATE
        c.dest[i] = DEST_FLOODED if c.dest[i] == DEST_NONE else DEST_FLOODED_LOCAL
        c.rule[i] = (RULE_UNKNOWN if not dst >> 40 & 1
                     else RULE_BROADCAST if dst & BROADCAST_MAC == BROADCAST_MAC else RULE_MULTICAST)
        return PASS

    cdef uint32_t decide_rows(self, Columns *c) noexcept nogil:
        """Every row in leaving order; returns how many rows flooding adds."""
        cdef uint64_t src[VECTOR]
        cdef uint64_t dst[VECTOR]
        cdef uint32_t src_at[VECTOR]
        cdef uint32_t dst_at[VECTOR]
        cdef uint32_t first = 0, end = row_count(c), count, k, i, added = 0, picked = 0
        cdef const uint8_t *frame
        cdef Dest *origin
        cdef Verdict v
        while first < end:
            count = end - first if end - first < VECTOR else VECTOR
            for k in range(count):
                i = row_at(c, first + k)
                if c.verdict[i] != PASS:
                    continue
                frame = c.arena + c.off[i]
                src[k] = fdb_key(c.net[i], load_be64(frame + ETH_OFF_SRC) >> 16)
                dst[k] = fdb_key(c.net[i], load_be64(frame + ETH_OFF_DST) >> 16)
                src_at[k] = <uint32_t>hash_u64(src[k], self.fdb.seed) & self.fdb.mask
                dst_at[k] = <uint32_t>hash_u64(dst[k], self.fdb.seed) & self.fdb.mask
                prefetch(self.fdb.buckets + src_at[k])
                prefetch(self.fdb.buckets + dst_at[k])
            for k in range(count):
                i = row_at(c, first + k)
                if c.verdict[i] != PASS:
                    continue
                v = self.decide(c, i, src[k], src_at[k], dst[k], dst_at[k])
                self.counts[<uint8_t>v] += 1
                if v != PASS:
                    c.verdict[i] = v
                    origin = self.dests.dests + c.origin[i]
                    origin.drops += 1
                elif c.dest[i] == DEST_FLOODED or c.dest[i] == DEST_FLOODED_LOCAL:
                    added += self.copies_of(self.nets.nets + c.net[i], c.origin[i], c.dest[i]) - 1
                    self.flooded += 1
                elif c.dest[i] == DEST_PICKED:
                    added += self.picks[picked] - 1
                    picked += self.picks[picked] + 1
                    self.flooded += 1
            first += count
        return added

    cdef int flood_rows(self, Columns *c, uint32_t added) noexcept nogil:
        """Flooded rows become their copies, each behind the other in the leaving order: 0, or -1 for no memory."""
        cdef uint32_t before = row_count(c), used = 0, k, i, f, row, made, origin, heard, picked = 0
        cdef uint32_t *order
        cdef Net *net
        cdef const uint32_t *list_
        if batch_grow_rows(c, c.n + added):
            return -1
        order = <uint32_t *>malloc(<uint64_t>(before + added) * sizeof(uint32_t))
        if order == NULL:
            return -1
        for k in range(before):
            i = row_at(c, k)
            order[used] = i
            used += 1
            if c.verdict[i] != PASS or not DEST_PICKED <= c.dest[i] <= DEST_FLOODED:
                continue
            net = self.nets.nets + c.net[i]
            origin = c.origin[i]
            if c.dest[i] == DEST_PICKED:
                heard = self.picks[picked]
                list_ = self.picks + picked + 1
                picked += heard + 1
            else:
                list_ = self.nets.floods + net.flood_at
                heard = self.listeners(net, origin, c.dest[i])
            made = 0
            for f in range(heard):
                if list_[f] == origin:
                    continue
                row = i
                if made:
                    row = c.n
                    c.n += 1
                    row_copy(c, i, row)
                    order[used] = row
                    used += 1
                c.dest[row] = list_[f]
                made += 1
            net.flooded += 1
            net.copies += made
            self.copies += made
        memcpy(c.order, order, <uint64_t>used * sizeof(uint32_t))
        free(order)
        c.n_order = used
        c.ordered = True
        return 0

    def process(self, PacketBatch batch not None):
        """Every row that ``Receive`` let in. Rows may be added: BufferError while a view of the batch is alive."""
        cdef uint32_t added
        cdef int failed = 0
        cdef uint64_t before = self.flooded
        batch._require_idle("flood the frames of")
        self.n_picks = 0
        with nogil:
            added = self.decide_rows(&batch.c)
            if self.flooded != before:
                failed = self.flood_rows(&batch.c, added)
        if failed or self.starved:
            raise MemoryError(f"no room for {added} copies")
        return batch

    def counters(self):
        """Rows by verdict since the start: ``{Verdict: rows}`` of those that occur. A flooded frame counts once."""
        from vxlanfast._ext.verdict import Verdict
        return {Verdict(i): self.counts[i] for i in range(VERDICT_COUNT) if self.counts[i]}
