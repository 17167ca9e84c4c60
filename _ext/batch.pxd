"""PacketBatch: rows and columns, the only thing that travels. C layout for nodes and edges."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from libc.string cimport memcpy, memset

cdef enum:
    BATCH_HEAD_LEN = 192    # bytes of private header slot a row has: an ND answer (86) behind VXLAN over IPv6 (70), and tags
    BATCH_SLACK_LEN = 128   # readable (not writable) bytes behind the arena and the heads, so that copies may round up
    BATCH_NO_HEADER = 0xFFFF


cdef struct Columns:
    uint32_t n              # rows
    uint32_t n_source       # of them, those that came from the source; nodes put theirs (fragments, copies) behind
    uint32_t cap            # rows there is room for
    uint64_t arena_len      # bytes used, from 0
    uint64_t arena_cap      # bytes allocated, slack aside
    uint8_t *arena          # bodies lie here
    uint8_t *head           # cap slots of BATCH_HEAD_LEN; a row's header bytes stand at its slot's END
    uint32_t *off           # body: offset in the arena
    uint32_t *len           # body: bytes captured
    uint32_t *wire_len      # head + body on the wire, where a snaplen cut it; else head_len + len
    uint32_t *rec           # offset in the arena of the capture record the row came from (UINT32_MAX: none)
    uint32_t *outer         # offset in the arena of the frame whose VXLAN was taken off last (UINT32_MAX: none)
    uint32_t *vni
    uint32_t *flow          # flow hash
    int64_t *ts_ns          # since 1970-01-01 UTC
    uint16_t *link          # LINKTYPE_ of the frame as it is now
    uint16_t *port_in       # capture: number of the interface in its section
    uint16_t *port_out
    uint16_t *net           # in the plane: the network's number …
    uint32_t *origin        # … the destination number it came from …
    uint32_t *dest          # … and the one it goes to (see table/dest, which has words for what is not decided too)
    uint32_t *conn          # number << 1 | direction of the connection it was rewritten for (UINT32_MAX: none)
    uint16_t *l3            # offsets in the body; BATCH_NO_HEADER: none
    uint16_t *l4
    uint16_t *outer_l3      # offsets in the frame at `outer`, valid where there is one
    uint16_t *outer_l4
    uint16_t *cut           # IP length of the largest fragment the packet came in, which Fit cuts it to again; 0: it came whole
    uint16_t *gso           # a super-frame: bytes of payload that each of its segments carries; 0: a frame as it is on a wire
    uint8_t *verdict
    uint8_t *rule           # in the plane: why it goes there
    uint8_t *head_len
    uint32_t *order         # with `ordered`: the row numbers in the order they leave
    uint32_t n_order
    bint ordered
    # How the records at `rec` are written; see io/format.pxd.
    uint8_t rec_format
    bint rec_big
    bint ts_touched         # times were handed out for writing: no longer what the records say
    # Bytes to keep with a row (pcapng options): (code u16, length u16, bytes) in host order, in the arena.
    bint noted
    uint32_t *note_off
    uint32_t *note_len
    # Blocks of a capture that are no packets, each to be written before row `block_row`.
    uint32_t n_blocks
    uint32_t cap_blocks
    uint32_t *block_row
    uint32_t *block_off
    uint32_t *block_len


cdef class PacketBatch:
    cdef Columns c
    cdef readonly uint32_t exports   # views alive
    cdef object __weakref__
    cdef int _require_idle(self, str act) except -1
    cdef int reserve_rows(self, uint32_t rows) except -1
    cdef int reserve_arena(self, uint64_t size) except -1
    cdef void reset(self) noexcept nogil


cdef int batch_grow_rows(Columns *c, uint32_t rows) noexcept nogil
cdef int batch_grow_arena(Columns *c, uint64_t size) noexcept nogil
cdef int batch_grow_blocks(Columns *c, uint32_t count) noexcept nogil


cdef inline uint8_t *row_head(Columns *c, uint32_t i) noexcept nogil:
    """First header byte of row ``i`` (the slot's end where it has none)."""
    return c.head + <uint64_t>(i + 1) * BATCH_HEAD_LEN - c.head_len[i]


cdef inline uint8_t *row_body(Columns *c, uint32_t i) noexcept nogil:
    return c.arena + c.off[i]


cdef inline uint32_t row_count(Columns *c) noexcept nogil:
    """Rows to walk in leaving order: ``row_at(c, 0)`` … ``row_at(c, row_count(c) - 1)``."""
    return c.n_order if c.ordered else c.n


cdef inline uint32_t row_at(Columns *c, uint32_t k) noexcept nogil:
    return c.order[k] if c.ordered else k


cdef inline uint32_t rows_alike(const Columns *c, uint32_t i, uint32_t end, uint16_t link, bint bare) noexcept nogil:
    """End of the run of rows from ``i`` on with verdict PASS (0) and that link type; ``bare``: and no headers in front.

    By columns, sixteen rows or more at a step: the loop behind it then has only the packets to look at.
    """
    cdef uint32_t k, odd
    while i + 64 <= end:
        odd = 0
        for k in range(i, i + 64):
            odd |= c.verdict[k] | (c.link[k] ^ link) | (c.head_len[k] if bare else 0)
        if odd:
            break
        i += 64
    while i < end and c.verdict[i] == 0 and c.link[i] == link and (not bare or c.head_len[i] == 0):
        i += 1
    return i


cdef inline void rows_init(Columns *c, uint32_t first, uint32_t count) noexcept nogil:
    """Every column that a source does not fill itself, for rows ``first`` … ``first + count - 1``."""
    memset(c.outer + first, 0xFF, count * sizeof(uint32_t))
    memset(c.conn + first, 0xFF, count * sizeof(uint32_t))
    memset(c.vni + first, 0, count * sizeof(uint32_t))
    memset(c.flow + first, 0, count * sizeof(uint32_t))
    memset(c.port_out + first, 0, count * sizeof(uint16_t))
    memset(c.l3 + first, 0xFF, count * sizeof(uint16_t))
    memset(c.l4 + first, 0xFF, count * sizeof(uint16_t))
    memset(c.cut + first, 0, count * sizeof(uint16_t))
    memset(c.gso + first, 0, count * sizeof(uint16_t))
    memset(c.verdict + first, 0, count)
    memset(c.head_len + first, 0, count)


cdef inline void row_copy(Columns *c, uint32_t src, uint32_t dst) noexcept nogil:
    """Row ``dst`` becomes ``src``: the same body, shared, and a copy of its header bytes."""
    c.off[dst] = c.off[src]
    c.len[dst] = c.len[src]
    c.wire_len[dst] = c.wire_len[src]
    c.rec[dst] = c.rec[src]
    c.outer[dst] = c.outer[src]
    c.vni[dst] = c.vni[src]
    c.flow[dst] = c.flow[src]
    c.ts_ns[dst] = c.ts_ns[src]
    c.link[dst] = c.link[src]
    c.port_in[dst] = c.port_in[src]
    c.port_out[dst] = c.port_out[src]
    c.net[dst] = c.net[src]
    c.origin[dst] = c.origin[src]
    c.dest[dst] = c.dest[src]
    c.conn[dst] = c.conn[src]
    c.l3[dst] = c.l3[src]
    c.l4[dst] = c.l4[src]
    c.outer_l3[dst] = c.outer_l3[src]
    c.outer_l4[dst] = c.outer_l4[src]
    c.cut[dst] = c.cut[src]
    c.gso[dst] = c.gso[src]
    c.verdict[dst] = c.verdict[src]
    c.rule[dst] = c.rule[src]
    c.head_len[dst] = c.head_len[src]
    c.note_off[dst] = c.note_off[src]
    c.note_len[dst] = c.note_len[src]
    memcpy(row_head(c, dst), row_head(c, src), c.head_len[src])
