"""What decapsulation takes off, kept beside the packet in pcapng, and put back.

A row's note is two options: a comment for people, ``vxlan vni 42, 192.0.2.1:49999 > 192.0.2.2:4789`` (``, geneve`` behind
it where it was that), and a custom
option (pcapng §3.5.1, code 2989: binary, to be copied) for us, which holds every byte that was in front of the inner
frame and behind it:

    enterprise number 4 | "VXF1" | wire length 4 | link type 2 | front length 2 | back length 4 | front … | back …

Numbers behind the mark are little-endian whatever the section's byte order.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy

from vxlanfast._ext.batch cimport Columns, PacketBatch, batch_grow_arena
from vxlanfast._ext.io.format cimport (
    BLOCK_EPB, EPB_HDR_LEN, FORMAT_PCAPNG, FRAME_LEN_MAX, NO_RECORD, OPT_COMMENT, OPT_CUSTOM_BINARY,
    option_next, pad4,
)
from vxlanfast._ext.verdict cimport PASS, DROP_NO_META
from vxlanfast._ext.wire.endian cimport load_16, load_32, store_16, store_32
from vxlanfast._ext.wire.ipv4 cimport IPV4_OFF_SRC
from vxlanfast._ext.wire.ipv6 cimport IPV6_OFF_SRC
from vxlanfast._ext.wire.udp cimport UDP_HDR_LEN, udp_dst, udp_src
from vxlanfast._ext.wire.vxlan cimport VXLAN_HDR_LEN, vxlan_has_vni

cdef extern from "<arpa/inet.h>" nogil:
    const char *inet_ntop(int family, const void *src, char *dst, unsigned size)
    enum:
        AF_INET
        AF_INET6

cdef enum:
    # No enterprise number is assigned to this project: 32473 is RFC 5612's for documentation, and "VXF1" tells ours.
    NOTE_PEN = 32473
    NOTE_FIXED_LEN = 20
    NOTE_COMMENT_MAX = 160

PEN = NOTE_PEN
COMMENT_PREFIX = b"vxlan vni "


cdef inline bint was_geneve(const Columns *c, uint32_t i) noexcept nogil:
    """What was taken off last was no VXLAN: that is 8 bytes, with the I flag, and GENEVE of 8 bytes has no bit there."""
    cdef uint32_t at = c.outer[i] + c.outer_l4[i] + UDP_HDR_LEN
    return c.off[i] != at + VXLAN_HDR_LEN or not vxlan_has_vni(c.arena + at)


cdef uint32_t write_comment(const Columns *c, uint32_t i, uint8_t *dst) noexcept nogil:
    cdef const uint8_t *ip = c.arena + c.outer[i] + c.outer_l3[i]
    cdef const uint8_t *udp = c.arena + c.outer[i] + c.outer_l4[i]
    cdef const char *end = b", geneve" if was_geneve(c, i) else b""
    cdef char src[48]
    cdef char to[48]
    if ip[0] >> 4 == 4:
        inet_ntop(AF_INET, ip + IPV4_OFF_SRC, src, 48)
        inet_ntop(AF_INET, ip + IPV4_OFF_SRC + 4, to, 48)
        return snprintf(<char *>dst, NOTE_COMMENT_MAX, b"vxlan vni %u, %s:%u > %s:%u%s", c.vni[i], src,
                        <unsigned>udp_src(udp), to, <unsigned>udp_dst(udp), end)
    inet_ntop(AF_INET6, ip + IPV6_OFF_SRC, src, 48)
    inet_ntop(AF_INET6, ip + IPV6_OFF_SRC + 16, to, 48)
    return snprintf(<char *>dst, NOTE_COMMENT_MAX, b"vxlan vni %u, [%s]:%u > [%s]:%u%s", c.vni[i], src,
                    <unsigned>udp_src(udp), to, <unsigned>udp_dst(udp), end)


cdef class Remember:
    """Keeps the frames of a batch as they are, to ``put_back`` what a node has made of them."""
    cdef uint32_t *was          # offset, length, wire length, link type of each row
    cdef uint32_t cap

    def __dealloc__(self):
        free(self.was)

    def remember(self, PacketBatch batch not None):
        """Note where every row's frame is now."""
        cdef Columns *c = &batch.c
        cdef uint32_t i
        cdef void *fresh
        if c.n > self.cap:
            fresh = realloc(self.was, <size_t>c.n * 16)
            if fresh == NULL:
                raise MemoryError
            self.was = <uint32_t *>fresh
            self.cap = c.n
        for i in range(c.n):
            self.was[4 * i] = c.off[i]
            self.was[4 * i + 1] = c.len[i]
            self.was[4 * i + 2] = c.wire_len[i]
            self.was[4 * i + 3] = c.link[i]
        return batch

    def put_back(self, PacketBatch batch not None):
        """Make every row's frame what it was; verdicts and the other columns stay."""
        cdef Columns *c = &batch.c
        cdef uint32_t i
        if c.n > self.cap:
            raise ValueError("put_back without remember")
        for i in range(c.n):
            c.off[i] = self.was[4 * i]
            c.len[i] = self.was[4 * i + 1]
            c.wire_len[i] = self.was[4 * i + 2]
            c.link[i] = <uint16_t>self.was[4 * i + 3]
        return batch


cdef class Annotate(Remember):
    """Two steps around decapsulation: ``remember`` the frames as they are, then ``process`` writes each row's note."""
    cdef bint with_comment

    def __cinit__(self, *, bint comment=True):
        self.with_comment = comment

    cdef bint note_row(self, Columns *c, uint32_t i) noexcept nogil:
        cdef uint32_t off = self.was[4 * i], length = self.was[4 * i + 1]
        cdef uint32_t front = c.off[i] - off, back = length - front - c.len[i], n
        cdef uint64_t at = c.arena_len, need
        cdef uint8_t *p
        need = at + front + back + NOTE_FIXED_LEN + NOTE_COMMENT_MAX + 32
        if front + back + NOTE_FIXED_LEN > 65532:
            back = 65532 - NOTE_FIXED_LEN - front if front + NOTE_FIXED_LEN < 65532 else 0
        if need > c.arena_cap and batch_grow_arena(c, need + (need >> 1)):
            return False
        p = c.arena + at
        if self.with_comment:
            n = write_comment(c, i, p + 4)
            store_16(p, OPT_COMMENT, False)
            store_16(p + 2, <uint16_t>n, False)
            p += 4 + pad4(n)
        n = NOTE_FIXED_LEN + front + back
        if n <= 65532:  # more headers than an option has room for (a thousand levels deep) are not kept
            store_16(p, OPT_CUSTOM_BINARY, False)
            store_16(p + 2, <uint16_t>n, False)
            store_32(p + 4, NOTE_PEN, False)
            memcpy(p + 8, b"VXF1", 4)
            store_32(p + 12, self.was[4 * i + 2], False)
            store_16(p + 16, <uint16_t>self.was[4 * i + 3], False)
            store_16(p + 18, <uint16_t>front, False)
            store_32(p + 20, back, False)
            memcpy(p + 4 + NOTE_FIXED_LEN, c.arena + off, front)
            memcpy(p + 4 + NOTE_FIXED_LEN + front, c.arena + c.off[i] + c.len[i], back)
            p += 4 + pad4(n)
        c.note_off[i] = <uint32_t>at
        c.note_len[i] = <uint32_t>(p - (c.arena + at))
        c.arena_len = p - c.arena
        return True

    def process(self, PacketBatch batch not None):
        """Notes for the rows that were decapsulated; none for the rest. BufferError while a view is alive."""
        cdef Columns *c = &batch.c
        cdef uint32_t i
        cdef bint done = True
        batch._require_idle("annotate")
        if c.n > self.cap:
            raise ValueError("process without remember")
        with nogil:
            c.noted = True
            for i in range(c.n):
                c.note_len[i] = 0
                if c.verdict[i] == PASS and c.outer[i] != NO_RECORD and not self.note_row(c, i):
                    done = False
                    break
        if not done:
            raise MemoryError("no room for the notes")
        return batch


cdef bint restore_row(Columns *c, uint32_t i) noexcept nogil:
    """Put front and back round row ``i`` from its record's note: False where it has none that fits."""
    cdef const uint8_t *rec
    cdef const uint8_t *note
    cdef uint32_t n, at = 0, value = 0, length = 0, found = 0, front, back
    cdef uint16_t code = 0
    cdef uint64_t end
    if c.rec[i] == NO_RECORD or load_32(c.arena + c.rec[i], c.rec_big) != BLOCK_EPB:
        return False
    rec = c.arena + c.rec[i]
    n = pad4(load_32(rec + 20, c.rec_big)) + EPB_HDR_LEN
    n = pad4(load_32(rec + 4, c.rec_big)) - 4 - n
    rec += EPB_HDR_LEN + pad4(load_32(rec + 20, c.rec_big))
    while option_next(rec, n, &at, &code, &value, &length, c.rec_big):
        if code != OPT_CUSTOM_BINARY or length < NOTE_FIXED_LEN or load_32(rec + value, c.rec_big) != NOTE_PEN:
            continue
        note = rec + value
        if memcmp(note + 4, b"VXF1", 4) != 0:
            continue
        front = load_16(note + 14, False)
        back = load_32(note + 16, False)
        if <uint64_t>NOTE_FIXED_LEN + front + back == length:
            found = value  # the last one: of a packet decapsulated twice, what was taken off last goes on first
    if found == 0:
        return False
    note = rec + found
    front = load_16(note + 14, False)
    back = load_32(note + 16, False)
    if c.len[i] + front + back > FRAME_LEN_MAX:
        return False  # no reader would take it
    end = c.arena_len + front + c.len[i] + back
    if end > c.arena_cap:
        if batch_grow_arena(c, end + (end >> 1)):
            return False
        rec = c.arena + c.rec[i]
        rec += EPB_HDR_LEN + pad4(load_32(rec + 20, c.rec_big))
        note = rec + found
    memcpy(c.arena + c.arena_len, note + NOTE_FIXED_LEN, front)
    memcpy(c.arena + c.arena_len + front, c.arena + c.off[i], c.len[i])
    memcpy(c.arena + c.arena_len + front + c.len[i], note + NOTE_FIXED_LEN + front, back)
    c.off[i] = <uint32_t>c.arena_len
    c.len[i] += front + back
    c.wire_len[i] = load_32(note + 8, False)
    c.link[i] = load_16(note + 12, False)
    c.arena_len = end
    return True


cdef class Restore:
    """Gives rows of a pcapng file the headers back that ``Annotate`` wrote down. ``missing`` counts rows without."""
    cdef readonly uint64_t restored
    cdef readonly uint64_t missing

    def counters(self):
        """Rows by verdict since the start: ``{Verdict: rows}`` of those that occur."""
        from vxlanfast._ext.verdict import Verdict
        counts = {Verdict.PASS: self.restored, Verdict.DROP_NO_META: self.missing}
        return {verdict: number for verdict, number in counts.items() if number}

    def process(self, PacketBatch batch not None):
        """Rows without a note stay as they are, with verdict DROP_NO_META. BufferError while a view is alive."""
        cdef Columns *c = &batch.c
        cdef uint32_t i
        batch._require_idle("restore headers in")
        with nogil:
            for i in range(c.n):
                if c.verdict[i] != PASS:
                    continue
                if c.rec_format == FORMAT_PCAPNG and restore_row(c, i):
                    self.restored += 1
                else:
                    self.missing += 1
                    c.verdict[i] = DROP_NO_META
        return batch
