"""Reassembly memory (RFC 791 §3.2, RFC 8200 §4.5): what came of which datagram. It knows keys and bytes, no headers.

All memory is taken at the start, under 4 MiB. When it is full the datagram whose first fragment is oldest gives way, so
a flood of fragments that never complete cannot keep honest ones from completing soon after they came. Overlapping
fragments kill their datagram (RFC 5722 §3); a fragment that came before, exactly, is ignored.
"""
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from vxlanfast._ext.wire.endian cimport load_host64


cdef class FragmentTable:
    """Fragments by datagram. ``timeout_ns``: of packet time, from a datagram's first fragment; ``seed``: of the hash."""

    def __cinit__(self, *, int64_t timeout_ns=30_000_000_000, uint64_t seed=0):
        cdef uint32_t i
        if sizeof(FragMemory) > 4 * 1024 * 1024:
            raise AssertionError("the reassembly memory is over its 4 MiB")
        self.m = <FragMemory *>calloc(1, sizeof(FragMemory))
        if self.m == NULL:
            raise MemoryError
        self.timeout_ns = timeout_ns
        self.seed = seed
        for i in range(FRAG_BLOCKS):
            self.m.block_next[i] = i + 1 if i + 1 < FRAG_BLOCKS else FRAG_NONE
        for i in range(FRAG_PIECES):
            self.m.pieces[i].next = i + 1 if i + 1 < FRAG_PIECES else FRAG_NONE
        for i in range(FRAG_DATAGRAMS):
            self.m.datagrams[i].bucket_next = i + 1 if i + 1 < FRAG_DATAGRAMS else FRAG_NONE
        for i in range(FRAG_BUCKETS):
            self.m.buckets[i] = FRAG_NONE
        self.blocks_free = FRAG_BLOCKS
        self.oldest = self.newest = FRAG_NONE

    def __dealloc__(self):
        free(self.m)

    cdef uint32_t hash_key(self, const FragKey *key) noexcept nogil:
        cdef uint64_t h = self.seed ^ 0x9E3779B97F4A7C15ULL
        cdef uint32_t i
        for i in range(sizeof(FragKey) // 8):
            h = (h ^ load_host64(<const uint8_t *>key + 8 * i)) * 0xFF51AFD7ED558CCDULL
            h ^= h >> 32
        return <uint32_t>(h & (FRAG_BUCKETS - 1))

    cdef uint32_t find(self, const FragKey *key, uint32_t bucket) noexcept nogil:
        cdef uint32_t d = self.m.buckets[bucket]
        while d != FRAG_NONE and memcmp(&self.m.datagrams[d].key, key, sizeof(FragKey)) != 0:
            d = self.m.datagrams[d].bucket_next
        return d

    cdef void free_chain(self, uint32_t block) noexcept nogil:
        cdef uint32_t following
        while block != FRAG_NONE:
            following = self.m.block_next[block]
            self.m.block_next[block] = self.free_block
            self.free_block = block
            self.blocks_free += 1
            block = following

    cdef void free_pieces(self, FragDatagram *g) noexcept nogil:
        cdef uint32_t piece = g.pieces, following
        while piece != FRAG_NONE:
            following = self.m.pieces[piece].next
            self.free_chain(self.m.pieces[piece].block)
            self.m.pieces[piece].next = self.free_piece
            self.free_piece = piece
            piece = following
        self.free_chain(g.hdr_block)
        g.pieces = g.hdr_block = FRAG_NONE

    cdef void remove(self, uint32_t d) noexcept nogil:
        cdef FragDatagram *g = &self.m.datagrams[d]
        cdef uint32_t *link = &self.m.buckets[self.hash_key(&g.key)]
        while link[0] != d:
            link = &self.m.datagrams[link[0]].bucket_next
        link[0] = g.bucket_next
        if g.older != FRAG_NONE:
            self.m.datagrams[g.older].newer = g.newer
        else:
            self.oldest = g.newer
        if g.newer != FRAG_NONE:
            self.m.datagrams[g.newer].older = g.older
        else:
            self.newest = g.older
        self.free_pieces(g)
        g.bucket_next = self.free_datagram
        self.free_datagram = d

    cdef void expire(self, int64_t now_ns) noexcept nogil:
        # Times of a capture may lie further apart than 63 bits say: the difference is taken without a sign.
        while (self.oldest != FRAG_NONE and now_ns > self.m.datagrams[self.oldest].first_ns
               and <uint64_t>now_ns - <uint64_t>self.m.datagrams[self.oldest].first_ns > <uint64_t>self.timeout_ns):
            self.tally.expired += self.m.datagrams[self.oldest].n_pieces
            self.remove(self.oldest)

    cdef bint make_room(self, uint32_t keep, uint32_t blocks) noexcept nogil:
        """Drop the oldest datagrams (never ``keep``) until there are ``blocks`` blocks, a piece and a datagram."""
        cdef uint32_t d
        while (self.blocks_free < blocks or self.free_piece == FRAG_NONE
               or (keep == FRAG_NONE and self.free_datagram == FRAG_NONE)):
            d = self.oldest
            if d == keep and d != FRAG_NONE:
                d = self.m.datagrams[d].newer
            if d == FRAG_NONE:
                return False
            self.tally.evicted += self.m.datagrams[d].n_pieces
            self.remove(d)
        return True

    cdef uint32_t store(self, const uint8_t *p, uint32_t n) noexcept nogil:
        """Copy into free blocks, which ``make_room`` has seen to; the first of them."""
        cdef uint32_t first = FRAG_NONE, last = FRAG_NONE, block, size
        while n:
            block = self.free_block
            self.free_block = self.m.block_next[block]
            self.blocks_free -= 1
            size = n if n < FRAG_BLOCK_LEN else FRAG_BLOCK_LEN
            memcpy(&self.m.blocks[<uint64_t>block * FRAG_BLOCK_LEN], p, size)
            self.m.block_next[block] = FRAG_NONE
            if last == FRAG_NONE:
                first = block
            else:
                self.m.block_next[last] = block
            last = block
            p += size
            n -= size
        return first

    cdef void load(self, uint32_t block, uint8_t *p, uint32_t n) noexcept nogil:
        cdef uint32_t size
        while n and block != FRAG_NONE:
            size = n if n < FRAG_BLOCK_LEN else FRAG_BLOCK_LEN
            memcpy(p, &self.m.blocks[<uint64_t>block * FRAG_BLOCK_LEN], size)
            p += size
            n -= size
            block = self.m.block_next[block]

    cdef FragResult add(self, const FragKey *key, uint32_t off, const uint8_t *payload, uint32_t n, bint more,
                        const FragHead *head, int64_t now_ns) noexcept nogil:
        """One fragment: ``n`` bytes at ``off`` of its datagram's payload; ``head`` what stood before it."""
        cdef uint32_t bucket = self.hash_key(key), d, piece, blocks
        cdef uint32_t *link
        cdef FragDatagram *g
        cdef FragPiece *q
        self.expire(now_ns)
        d = self.find(key, bucket)
        if (n == 0 or off + n > FRAG_DATAGRAM_MAX or (more and n & 7) or head.hdr_len > FRAG_HDR_MAX
                or (d != FRAG_NONE and self.m.datagrams[d].n_pieces == FRAG_PIECES_MAX)):
            return FRAG_BAD
        if d != FRAG_NONE and self.m.datagrams[d].dead:
            return FRAG_OVERLAP
        if d != FRAG_NONE:
            # The place in the list: every piece before ends at or before `off`.
            g = &self.m.datagrams[d]
            link = &g.pieces
            while link[0] != FRAG_NONE and self.m.pieces[link[0]].off < off:
                q = &self.m.pieces[link[0]]
                if q.off + q.len > off:
                    return self.overlap(d)
                link = &q.next
            if link[0] != FRAG_NONE:
                q = &self.m.pieces[link[0]]
                if q.off == off and q.len == n:
                    return FRAG_DUPLICATE
                if off + n > q.off:
                    return self.overlap(d)
            if not more and (g.total or link[0] != FRAG_NONE):
                return self.overlap(d)  # two ends, or bytes behind the end
            if more and g.total and off + n > g.total:
                return self.overlap(d)
        blocks = (n + FRAG_BLOCK_LEN - 1) // FRAG_BLOCK_LEN
        if off == 0:
            blocks += (head.hdr_len + FRAG_BLOCK_LEN - 1) // FRAG_BLOCK_LEN
        if not self.make_room(d, blocks):
            return FRAG_BAD
        if d == FRAG_NONE:
            d = self.free_datagram
            g = &self.m.datagrams[d]
            self.free_datagram = g.bucket_next
            g.key = key[0]
            g.first_ns = now_ns
            g.pieces = g.hdr_block = FRAG_NONE
            g.n_pieces = g.held = g.total = g.hdr_len = g.largest = g.flags = g.marks = 0
            g.dead = False
            g.bucket_next = self.m.buckets[bucket]
            self.m.buckets[bucket] = d
            g.newer = FRAG_NONE
            g.older = self.newest
            if self.newest != FRAG_NONE:
                self.m.datagrams[self.newest].newer = d
            else:
                self.oldest = d
            self.newest = d
        g = &self.m.datagrams[d]
        link = &g.pieces
        while link[0] != FRAG_NONE and self.m.pieces[link[0]].off < off:
            link = &self.m.pieces[link[0]].next
        piece = self.free_piece
        q = &self.m.pieces[piece]
        self.free_piece = q.next
        q.off = off
        q.len = n
        q.block = self.store(payload, n)
        q.next = link[0]
        link[0] = piece
        g.n_pieces += 1
        g.held += n
        if not more:
            g.total = off + n
        if head.packet_len > g.largest:
            g.largest = head.packet_len
            g.flags = 0
        if head.packet_len == g.largest:
            g.flags |= head.flags
        g.marks |= head.marks
        if off == 0:
            g.hdr_block = self.store(head.hdr, head.hdr_len)
            g.hdr_len = head.hdr_len
            g.hdr_l3 = <uint16_t>head.hdr_l3
            g.hdr_cut = <uint16_t>head.hdr_cut
        self.found = d
        return FRAG_COMPLETE if g.total and g.held == g.total else FRAG_HELD

    cdef FragResult overlap(self, uint32_t d) noexcept nogil:
        cdef FragDatagram *g = &self.m.datagrams[d]
        self.free_pieces(g)
        g.dead = True
        g.n_pieces = 0
        self.tally.overlapped += 1
        return FRAG_OVERLAP

    cdef uint32_t datagram_len(self) noexcept nogil:
        """Bytes ``take`` will write: headers and payload of the datagram just completed."""
        cdef FragDatagram *g = &self.m.datagrams[self.found]
        return g.hdr_len + g.total

    cdef void take(self, uint8_t *dst, FragHead *head) noexcept nogil:
        """Write the datagram just completed, as its first fragment's headers and the payload, and forget it."""
        cdef FragDatagram *g = &self.m.datagrams[self.found]
        cdef uint32_t piece = g.pieces
        cdef FragPiece *q
        self.load(g.hdr_block, dst, g.hdr_len)
        while piece != FRAG_NONE:
            q = &self.m.pieces[piece]
            self.load(q.block, dst + g.hdr_len + q.off, q.len)
            piece = q.next
        head.hdr = dst
        head.hdr_len = g.hdr_len
        head.hdr_l3 = g.hdr_l3
        head.hdr_cut = g.hdr_cut
        head.packet_len = g.largest
        head.flags = g.flags
        head.marks = g.marks
        self.tally.completed += 1
        self.tally.merged += g.n_pieces
        self.remove(self.found)

    def counters(self):
        """Datagrams completed and overlapped; fragments merged, expired, evicted, and still waiting."""
        cdef uint32_t d = self.oldest
        waiting = 0
        while d != FRAG_NONE:
            waiting += self.m.datagrams[d].n_pieces
            d = self.m.datagrams[d].newer
        return {"completed": self.tally.completed, "merged": self.tally.merged, "expired": self.tally.expired,
                "evicted": self.tally.evicted, "overlapped": self.tally.overlapped, "waiting": waiting}
