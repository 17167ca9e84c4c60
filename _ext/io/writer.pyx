"""Capture files out: pcap, nanosecond pcap and pcapng, in either byte order.

Every row is gathered, head and body, straight into one buffer that is written in large pieces: on the machines this
was measured on that beats a scatter list per packet and a mapped output. Times go out as they stand in the record the
row came from wherever that still says the same, so nothing is rounded on the way through.
"""
from cpython.buffer cimport PyBUF_READ
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from vxlanfast._ext.batch cimport BATCH_HEAD_LEN, Columns, PacketBatch, row_at, row_count, rows_alike
from vxlanfast._ext.io.blocks cimport encode_block, encode_pcapng, grow_maps, note_interface, put_mark, put_option
from vxlanfast._ext.io.format cimport *
from vxlanfast._ext.io.target cimport COPY_SLACK, NO_INTERFACE, Target, gather
from vxlanfast._ext.verdict cimport PASS, DROP_OUTPUT_LINK_TYPE, verdict_in
from vxlanfast._ext.wire.endian cimport load_16, load_32, load_be32, store_16, store_32, store_64
from vxlanfast._ext.wire.link cimport LINK_ETHERNET

cdef enum:
    BUFFER_LEN = 524288     # room for the largest frame and its block beside a fair batch
    PIECE_LEN = 131072      # written once so much has gathered
    SECTION_UNKNOWN_LEN = 0xFFFFFFFFU


cdef uint32_t encode_run(Target *t, Columns *columns, uint32_t i, uint32_t end) noexcept nogil:
    """Rows from ``i`` on that leave as nearly all do: passed, of the file's link type, under a little-endian record
    header that says their time already. Returns the first that is none of these, or for which there is no room."""
    cdef Columns c = columns[0]  # a copy that nothing points to: the bytes stored here may alias anything else
    cdef uint8_t *begin = t.buffer + t.used
    cdef uint8_t *p = begin
    cdef const uint8_t *last = t.buffer + t.cap - (PCAP_RECORD_LEN + COPY_SLACK)
    cdef uint32_t first = i, n
    end = rows_alike(&c, i, end, t.link, False)
    while i < end:
        n = c.head_len[i] + c.len[i]
        if p + n > last:
            break
        gather(&c, i, p + PCAP_RECORD_LEN)  # before the record header, part of which it may write over
        memcpy(p, c.arena + c.rec[i], 8)
        store_64(p + 8, <uint64_t>c.wire_len[i] << 32 | n, False)
        p += PCAP_RECORD_LEN + n
        i += 1
    t.used += p - begin
    t.rows += i - first
    t.bytes += p - begin - <uint64_t>(i - first) * PCAP_RECORD_LEN
    return i


cdef uint32_t encode_pcap(Target *t, Columns *c, uint32_t k, bint raw_times, int64_t tick_ns) noexcept nogil:
    """Rows from the ``k``-th on, until they or the buffer end; returns the next. ``raw_times``: as in their records."""
    cdef uint8_t *p
    cdef uint64_t ns
    cdef uint32_t i, n
    while k < t.stop:
        if raw_times and not t.big and not c.ordered and t.leave & 1:
            k = encode_run(t, c, k, t.stop)
            if k == t.stop:
                break
        i = row_at(c, k)
        if not verdict_in(t.leave, c.verdict[i]):
            k += 1
            continue
        n = c.head_len[i] + c.len[i]
        if t.used + PCAP_RECORD_LEN + COPY_SLACK + n > t.cap:
            break
        k += 1
        if c.link[i] != t.link:
            t.refused += 1
            t.refused_passed += c.verdict[i] == PASS
            c.verdict[i] = DROP_OUTPUT_LINK_TYPE
            continue
        p = t.buffer + t.used
        gather(c, i, p + PCAP_RECORD_LEN)  # before the record header, part of which it may write over
        if raw_times:
            memcpy(p, c.arena + c.rec[i], 8)
        else:
            # Times before 1970 and after February 2106 do not fit the format's unsigned 32-bit seconds.
            ns = <uint64_t>(c.ts_ns[i] if c.ts_ns[i] > 0 else 0)
            if ns > PCAP_TIME_MAX_NS:
                ns = PCAP_TIME_MAX_NS
            store_32(p, <uint32_t>(ns // 1000000000), t.big)
            store_32(p + 4, <uint32_t>(ns % 1000000000 // tick_ns), t.big)
        store_32(p + 8, n, t.big)
        store_32(p + 12, c.wire_len[i], t.big)
        t.used += PCAP_RECORD_LEN + n
        t.rows += 1
        t.bytes += n
    return k


cdef class CaptureEncoder:
    """Encodes batches as one capture file.

    ``format``: "pcap", "nsecpcap" or "pcapng". ``big``: byte order. ``carry``: the batches come from a pcapng file, and
    its sections, interfaces and other blocks are written as they come; otherwise ``begin`` starts the file.
    ``to_ethernet``/``keep_link``: which link types rows of a carried interface can leave with. ``leave``: verdicts of
    the rows to write, a bit each. ``snaplen_min``: raise carried snaplens to this. ``strip``: ``(enterprise number,
    comment prefix)`` of options to leave out. ``mark``: enterprise number to mark second forms of an interface with.
    """

    def __cinit__(self, str format, *, bint big=False, bint carry=False, bint to_ethernet=True, bint keep_link=False,
                  uint64_t leave=1, uint32_t snaplen_min=0, strip=None, uint32_t mark=0,
                  uint64_t buffer_len=BUFFER_LEN):
        formats = {"pcap": FORMAT_PCAP, "nsecpcap": FORMAT_PCAP_NSEC, "pcapng": FORMAT_PCAPNG}
        if format not in formats:
            raise ValueError(f"format {format!r}: pcap, nsecpcap or pcapng")
        self.t.format = formats[format]
        self.t.big = big
        self.t.carry = carry
        self.t.to_ethernet = to_ethernet
        self.t.keep_link = keep_link
        self.t.leave = leave
        self.t.snaplen_min = snaplen_min
        self.t.mark_pen = mark
        if strip is not None:
            self.t.strip_pen, self.comment_prefix = strip
            self.t.strip_comment = self.comment_prefix
            self.t.strip_comment_len = len(self.comment_prefix)
        self.buffer_len = buffer_len
        self.room(buffer_len)

    def __dealloc__(self):
        free(self.t.buffer)
        free(self.t.out)
        free(self.t.as_ethernet)
        free(self.t.as_is)

    cdef int room(self, uint64_t n) except -1:
        cdef uint8_t *fresh
        if self.t.used + n > self.t.cap:
            if self.t.used + n < self.buffer_len:
                n = self.buffer_len - self.t.used
            fresh = <uint8_t *>realloc(self.t.buffer, self.t.used + n)
            if fresh == NULL:
                raise MemoryError(f"no room for {n} bytes of output")
            self.t.buffer = fresh
            self.t.cap = self.t.used + n
        return 0

    def begin(self, links, *, uint32_t snaplen=262144, uint32_t link_field=0, uint8_t tsresol=6):
        """The start of a file that carries nothing: a pcap header of ``links[0]``, or a section with an interface each.

        ``link_field``: pcap, upper bits of the link type field (FCS length) to keep.
        """
        cdef bint big = self.t.big
        cdef uint8_t *p
        cdef uint32_t length
        self.room(256 + 64 * len(links))
        p = self.t.buffer + self.t.used
        self.t.version += 1
        if self.t.format != FORMAT_PCAPNG:
            self.t.link = links[0]
            store_32(p, PCAP_MAGIC_NSEC if self.t.format == FORMAT_PCAP_NSEC else PCAP_MAGIC_USEC, big)
            store_16(p + 4, 2, big)
            store_16(p + 6, 4, big)
            memset(p + 8, 0, 8)
            store_32(p + 16, snaplen, big)
            store_32(p + 20, (link_field & 0xFFFF0000U) | self.t.link, big)
            self.t.used += PCAP_FILE_LEN
            return
        store_32(p, BLOCK_SHB, big)
        store_32(p + 4, SHB_LEN_MIN, big)
        store_32(p + 8, BLOCK_BYTE_ORDER, big)
        store_16(p + 12, 1, big)
        store_16(p + 14, 0, big)
        memset(p + 16, 0xFF, 8)
        store_32(p + 24, SHB_LEN_MIN, big)
        self.t.used += SHB_LEN_MIN
        for number, link in enumerate(links):
            self.add_interface(link, snaplen=snaplen, tsresol=tsresol, parent=0 if number and self.t.mark_pen else None)

    def add_interface(self, uint16_t link, *, uint32_t snaplen=262144, uint8_t tsresol=6, int64_t offset_s=0, options=(),
                      parent=None):
        """pcapng: describe one more interface here; its number. ``options``: ``(code, bytes)``; ``parent``: the number
        of the interface it is a form of, to be marked with ``mark``."""
        cdef uint8_t *p
        cdef uint32_t length = 16
        cdef uint8_t unit = tsresol
        cdef uint8_t number[8]
        self.room(128 + sum(8 + len(value) for _, value in options))
        if not grow_maps(&self.t):
            raise MemoryError
        p = self.t.buffer + self.t.used
        store_32(p, BLOCK_IDB, self.t.big)
        store_16(p + 8, link, self.t.big)
        store_16(p + 10, 0, self.t.big)
        store_32(p + 12, snaplen, self.t.big)
        for code, value in options:
            length += put_option(p + length, code, <const uint8_t *><char *>value, len(value), self.t.big)
        if tsresol != 6:
            length += put_option(p + length, OPT_IF_TSRESOL, &unit, 1, self.t.big)
        if offset_s:
            store_64(number, <uint64_t>offset_s, self.t.big)
            length += put_option(p + length, OPT_IF_TSOFFSET, number, 8, self.t.big)
        if parent is not None:
            length += put_mark(p + length, self.t.mark_pen, parent, self.t.big)
        if length > 16:
            memset(p + length, 0, 4)
            length += 4
        length += 4
        store_32(p + 4, length, self.t.big)
        store_32(p + length - 4, length, self.t.big)
        self.t.used += length
        return note_interface(&self.t, p, length, link, snaplen)

    def lead(self, PacketBatch batch not None):
        """Append the blocks that stand before the batch's first row, so that ``add_interface`` comes behind them; and
        the interfaces described further on, since those added may be forms of them."""
        cdef Target *t = &self.t
        cdef Columns *c = &batch.c
        cdef uint32_t want, k = 0
        t.next_block = 0
        while t.carry and k < c.n_blocks:
            if c.block_row[k] == 0 or load_32(c.arena + c.block_off[k], c.rec_big) == BLOCK_IDB:
                want = encode_block(t, c.arena + c.block_off[k], c.block_len[k], c.rec_big)
                if want:
                    self.room(want)
                    continue
                c.block_len[k] = 0  # it is in: encode_pcapng passes it over
            k += 1
        if t.no_memory:
            raise MemoryError
        t.led = True

    def carry_block(self, const uint8_t[::1] block not None, bint big):
        """Append one block that is no packet, as ``PacketBatch.blocks`` gives it, of byte order ``big``."""
        cdef uint32_t want = encode_block(&self.t, &block[0], <uint32_t>block.shape[0], big)
        if want:
            self.room(want)
            encode_block(&self.t, &block[0], <uint32_t>block.shape[0], big)
        if self.t.no_memory:
            raise MemoryError

    def rest(self):
        """Give the buffer's memory back; nothing may be pending. It is taken again when needed."""
        if self.t.used:
            raise ValueError(f"{self.t.used} bytes are pending")
        free(self.t.buffer)
        self.t.buffer = NULL
        self.t.cap = 0

    def interface_as_read(self, uint32_t number):
        """The number in the output of the input's interface ``number`` (of its section), in the form it was read."""
        if self.t.carry and number < self.t.n_in:
            if self.t.as_is[number] != NO_INTERFACE:
                return self.t.as_is[number]
            return self.t.as_ethernet[number]
        return 0

    def encode(self, PacketBatch batch not None, uint32_t start=0, end=None, *, bint blocks=True):
        """Append rows from the ``start``-th on, up to the ``end``-th; the number to go on from, ``None`` when all are in.

        Where it is a number, the buffer is full: write ``pending()``, ``clear()``, and call again. ``blocks``: with the
        batch's other blocks, each in its place.
        """
        cdef Columns *c = &batch.c
        cdef Target *t = &self.t
        cdef uint32_t k
        cdef uint64_t want = 0
        t.stop = row_count(c) if end is None else end
        if t.stop > row_count(c):
            raise ValueError(f"end = {end} of {row_count(c)} rows")
        if t.cap == 0:
            self.room(self.buffer_len)
        if not blocks:
            t.next_block = c.n_blocks
            t.led = True
        with nogil:
            if t.format == FORMAT_PCAPNG:
                k = encode_pcapng(t, c, start, &want)
            else:
                k = encode_pcap(t, c, start, times_as_read(t, c), 1000 if t.format == FORMAT_PCAP else 1)
        if t.no_memory:
            raise MemoryError
        if k == t.stop and (t.format != FORMAT_PCAPNG or t.next_block == c.n_blocks):
            return None
        if t.used == 0:
            # Nothing waits and still no room: a row larger than the buffer.
            self.room(want if want else EPB_LEN_MIN + FRAME_LEN_MAX + BATCH_HEAD_LEN + COPY_SLACK)
        elif want > t.cap:
            self.room(want)
        t.led = True  # the next call goes on behind the blocks that are in, also where no row is yet
        return k

    def grow(self):
        """Twice the room, for who cannot write what waits yet."""
        self.room(self.t.cap)

    def sync(self, CaptureEncoder other not None):
        """Take over what ``other`` knows of the file so far: link type, byte order, interfaces."""
        cdef Target *t = &self.t
        cdef Target *o = &other.t
        if t.version == o.version:
            return
        while t.cap_out < o.n_out + 2 or t.cap_in < o.n_in + 1:
            t.n_out = t.cap_out
            t.n_in = t.cap_in
            if not grow_maps(t):
                raise MemoryError
        t.link = o.link
        t.big = o.big
        t.n_out = o.n_out
        t.n_in = o.n_in
        if o.n_out:
            memcpy(t.out, o.out, o.n_out * sizeof(Interface))
        if o.n_in:
            memcpy(t.as_ethernet, o.as_ethernet, o.n_in * sizeof(uint32_t))
            memcpy(t.as_is, o.as_is, o.n_in * sizeof(uint32_t))
        t.version = o.version

    def advance(self, PacketBatch batch not None):
        """Learn of the batch's blocks as ``encode`` would, and append nothing: somebody else writes them."""
        cdef Columns *c = &batch.c
        cdef uint64_t used = self.t.used
        cdef uint32_t b, want
        if not self.t.carry or c.n_blocks == 0:
            return
        for b in range(c.n_blocks):
            want = encode_block(&self.t, c.arena + c.block_off[b], c.block_len[b], c.rec_big)
            if want:
                self.room(want)
                encode_block(&self.t, c.arena + c.block_off[b], c.block_len[b], c.rec_big)
            self.t.used = used
        if self.t.no_memory:
            raise MemoryError
        self.t.version += 1

    @property
    def full(self):
        """So much waits that writing it is worth a call."""
        return self.t.used >= PIECE_LEN

    def pending(self):
        """The bytes that wait to be written, valid until the next call of another method."""
        return PyMemoryView_FromMemory(<char *>self.t.buffer, self.t.used, PyBUF_READ)

    def clear(self):
        """Forget the pending bytes: they were written."""
        self.t.used = 0

    @property
    def format(self):
        """"pcap", "nsecpcap" or "pcapng"."""
        return {FORMAT_PCAP: "pcap", FORMAT_PCAP_NSEC: "nsecpcap", FORMAT_PCAPNG: "pcapng"}[self.t.format]

    @property
    def rows(self):
        """Rows written so far."""
        return self.t.rows

    @property
    def bytes(self):
        """Bytes of frames in them."""
        return self.t.bytes

    @property
    def refused(self):
        """Rows not written for their link type: a pcap file holds one."""
        return self.t.refused

    @property
    def refused_passed(self):
        """Of them, those with verdict PASS."""
        return self.t.refused_passed
