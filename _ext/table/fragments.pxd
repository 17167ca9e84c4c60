"""Datagrams waiting for their fragments: fixed memory, oldest out first."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t

cdef enum:
    FRAG_BLOCK_LEN = 512          # bytes of one block of payload
    FRAG_BLOCKS = 6656            # 3.25 MiB of payload …
    FRAG_PIECES = 6656            # … in so many fragments
    FRAG_DATAGRAMS = 4096         # … of so many datagrams
    FRAG_BUCKETS = 4096           # a power of two
    FRAG_PIECES_MAX = 64          # fragments of one datagram; 64 KiB over a 1,280-byte link makes 53
    FRAG_HDR_MAX = 512            # bytes of link and network headers kept of a datagram
    FRAG_DATAGRAM_MAX = 65535
    FRAG_NONE = 0xFFFFFFFFU


cdef enum FragResult:
    FRAG_HELD = 0
    FRAG_COMPLETE = 1
    FRAG_DUPLICATE = 2
    FRAG_OVERLAP = 3
    FRAG_BAD = 4


cdef struct FragKey:
    uint8_t addrs[32]       # source, destination (IPv4: 4 + 4 bytes, the rest zero)
    uint32_t ident
    uint8_t version
    uint8_t proto           # IPv4 only (RFC 791 §3.2); RFC 8200 §4.5 has it not in the key
    uint16_t realm          # what else keeps datagrams apart: outside the link type of the frames, inside the network's number


cdef struct FragHead:
    const uint8_t *hdr      # what stands before a fragment's payload: link and network headers
    uint32_t hdr_len
    uint32_t hdr_l3         # offset of the network header in them …
    uint32_t hdr_cut        # … and of the IPv6 fragment header; 0 for IPv4
    uint32_t packet_len     # of the IP packet, as it says; of a datagram: its largest fragment's …
    uint16_t flags          # … and what that one forbids (if several are as large: what one of them does)
    uint8_t marks           # bits that a datagram gathers from its fragments


cdef struct FragPiece:
    uint32_t off
    uint32_t len
    uint32_t block          # first of its blocks
    uint32_t next


cdef struct FragDatagram:
    FragKey key
    int64_t first_ns
    uint32_t pieces         # list, by ascending offset
    uint32_t n_pieces
    uint32_t held           # bytes
    uint32_t total          # 0: the last fragment has not come
    uint32_t hdr_block      # of the first fragment: link and network headers
    uint32_t hdr_len
    uint32_t bucket_next
    uint32_t older          # by time of the first fragment
    uint32_t newer
    uint32_t largest        # IP packet of a fragment
    uint16_t hdr_l3
    uint16_t hdr_cut
    uint16_t flags
    uint8_t marks
    bint dead               # overlapped: what is still to come is dropped too


cdef struct FragMemory:
    uint8_t blocks[FRAG_BLOCKS * FRAG_BLOCK_LEN]
    uint32_t block_next[FRAG_BLOCKS]
    FragPiece pieces[FRAG_PIECES]
    FragDatagram datagrams[FRAG_DATAGRAMS]
    uint32_t buckets[FRAG_BUCKETS]


cdef struct FragTally:
    uint64_t completed      # datagrams
    uint64_t merged         # fragments in them
    uint64_t expired        # fragments of datagrams given up after the timeout
    uint64_t evicted        # fragments of datagrams given up for want of memory
    uint64_t overlapped     # datagrams


cdef class FragmentTable:
    cdef FragMemory *m
    cdef uint32_t free_block
    cdef uint32_t free_piece
    cdef uint32_t free_datagram
    cdef uint32_t oldest
    cdef uint32_t newest
    cdef uint32_t blocks_free
    cdef int64_t timeout_ns
    cdef uint64_t seed
    cdef FragTally tally
    cdef uint32_t found     # the datagram the last add was for

    cdef FragResult add(self, const FragKey *key, uint32_t off, const uint8_t *payload, uint32_t n, bint more,
                        const FragHead *head, int64_t now_ns) noexcept nogil
    cdef uint32_t hash_key(self, const FragKey *key) noexcept nogil
    cdef uint32_t find(self, const FragKey *key, uint32_t bucket) noexcept nogil
    cdef void remove(self, uint32_t d) noexcept nogil
    cdef uint32_t store(self, const uint8_t *p, uint32_t n) noexcept nogil
    cdef void load(self, uint32_t block, uint8_t *p, uint32_t n) noexcept nogil
    cdef void free_pieces(self, FragDatagram *g) noexcept nogil
    cdef void free_chain(self, uint32_t block) noexcept nogil
    cdef bint make_room(self, uint32_t keep, uint32_t blocks) noexcept nogil
    cdef void expire(self, int64_t now_ns) noexcept nogil
    cdef FragResult overlap(self, uint32_t d) noexcept nogil
    cdef uint32_t datagram_len(self) noexcept nogil
    cdef void take(self, uint8_t *dst, FragHead *head) noexcept nogil
