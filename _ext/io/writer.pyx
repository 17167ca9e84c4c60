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

from vxlanfast._ext.batch cimport BATCH_HEAD_LEN, Columns, PacketBatch, row_at, row_body, row_count, row_head
from vxlanfast._ext.io.format cimport *
from vxlanfast._ext.verdict cimport PASS, DROP_OUTPUT_LINK_TYPE
from vxlanfast._ext.wire.endian cimport load_16, load_32, load_be32, store_16, store_32, store_64
from vxlanfast._ext.wire.link cimport LINK_ETHERNET

cdef enum:
    BUFFER_LEN = 524288     # room for the largest frame and its block beside a fair batch
    PIECE_LEN = 131072      # written once so much has gathered
    COPY_SLACK = 128        # bytes a copy may write past its end
    COPY_STEP_MAX = 256     # longer rows are for memcpy
    SECTION_UNKNOWN_LEN = 0xFFFFFFFFU
    NO_INTERFACE = 0xFFFFFFFFU

cdef extern from *:
    """
    /* Whole 32-byte steps: no branch on the length's low bits. The caller has slack on both sides. */
    static inline void vf_copy_steps(uint8_t *dst, const uint8_t *src, uint32_t n)
    {
        for (uint32_t i = 0; i < n; i += 32)
            __builtin_memcpy(dst + i, src + i, 32);
    }
    /* The headers of one tunnel are 50 or 70 bytes: no loop. */
    static inline void vf_copy_head(uint8_t *dst, const uint8_t *src, uint32_t n)
    {
        __builtin_memcpy(dst, src, 64);
        if (__builtin_expect(n > 64, 0))
            __builtin_memcpy(dst + 64, src + 64, 64);
    }
    """
    void copy_steps "vf_copy_steps"(uint8_t *dst, const uint8_t *src, uint32_t n) noexcept nogil
    void copy_head "vf_copy_head"(uint8_t *dst, const uint8_t *src, uint32_t n) noexcept nogil


cdef inline void gather(Columns *c, uint32_t i, uint8_t *dst) noexcept nogil:
    """Head and body of row ``i``, together, at ``dst``."""
    cdef uint32_t n = c.len[i]
    if c.head_len[i]:
        copy_head(dst, row_head(c, i), c.head_len[i])
        dst += c.head_len[i]
    if n <= COPY_STEP_MAX:
        copy_steps(dst, row_body(c, i), n)
    else:
        memcpy(dst, row_body(c, i), n)


cdef inline uint32_t encode_pcap(Target *t, Columns *columns, uint32_t k, bint big, bint raw_times,
                                 int64_t tick_ns) noexcept nogil:
    """Rows from the ``k``-th on, until they or the buffer end; returns the next. The last three are constants."""
    cdef Columns c = columns[0]  # a copy that nothing points to: the bytes stored here may alias anything else
    cdef uint8_t *p = t.buffer + t.used
    cdef const uint8_t *end = t.buffer + t.cap - (PCAP_RECORD_LEN + COPY_SLACK)
    cdef uint64_t leave = t.leave, seconds, rows = 0
    cdef uint32_t i, n, count = t.stop
    cdef uint16_t link = t.link
    cdef const uint8_t *begin = p
    while k < count:
        i = row_at(&c, k)
        if not (leave >> c.verdict[i]) & 1:
            k += 1
            continue
        n = c.head_len[i] + c.len[i]
        if p + n > end:
            break
        k += 1
        if c.link[i] != link:
            t.refused += 1
            t.refused_passed += c.verdict[i] == PASS
            c.verdict[i] = DROP_OUTPUT_LINK_TYPE
            continue
        if raw_times:
            memcpy(p, c.arena + c.rec[i], 8)
        else:
            # Times before 1970 and after February 2106 do not fit the format's unsigned 32-bit seconds.
            seconds = <uint64_t>(c.ts_ns[i] if c.ts_ns[i] > 0 else 0)
            if seconds > PCAP_TIME_MAX_NS:
                seconds = PCAP_TIME_MAX_NS
            store_32(p, <uint32_t>(seconds // 1000000000), big)
            store_32(p + 4, <uint32_t>(seconds % 1000000000 // tick_ns), big)
        store_32(p + 8, n, big)
        store_32(p + 12, c.wire_len[i], big)
        gather(&c, i, p + PCAP_RECORD_LEN)
        p += PCAP_RECORD_LEN + n
        rows += 1
    t.used += p - begin
    t.rows += rows
    t.bytes += p - begin - rows * PCAP_RECORD_LEN
    return k


cdef uint32_t put_option(uint8_t *p, uint16_t code, const uint8_t *value, uint32_t n, bint big) noexcept nogil:
    store_16(p, code, big)
    store_16(p + 2, <uint16_t>n, big)
    memset(p + 4 + (n & ~<uint32_t>3), 0, 4)
    memcpy(p + 4, value, n)
    return 4 + pad4(n)


cdef bint is_stripped(Target *t, const uint8_t *value, uint16_t code, uint32_t n) noexcept nogil:
    if t.strip_pen == 0:
        return False
    if code == OPT_CUSTOM_BINARY:
        return n >= 4 and load_32(value, t.big) == t.strip_pen
    return (code == OPT_COMMENT and n >= t.strip_comment_len
            and memcmp(value, t.strip_comment, t.strip_comment_len) == 0)


cdef bint stripped_later(Target *t, const uint8_t *options, uint32_t n, uint32_t at, uint16_t kind) noexcept nogil:
    """Behind ``at`` another option of this kind is ours: this one is of an earlier decapsulation, and stays."""
    cdef uint32_t value = 0, length = 0
    cdef uint16_t code = 0
    while option_next(options, n, &at, &code, &value, &length, t.big):
        if code == kind and is_stripped(t, options + value, code, length):
            return True
    return False


cdef uint32_t put_options(Target *t, uint8_t *dst, Columns *c, uint32_t i, const uint8_t *options, uint32_t n,
                          bint altered, uint32_t drops) noexcept nogil:
    """The options of a row's block: those it came with, less what the frame's change made untrue, and its notes."""
    cdef uint32_t at = 0, value = 0, length = 0, used = 0, end
    cdef uint16_t code = 0
    cdef uint8_t number[8]
    cdef const uint8_t *note
    while option_next(options, n, &at, &code, &value, &length, t.big):
        if is_stripped(t, options + value, code, length) and not stripped_later(t, options, n, at, code):
            continue
        if altered and code == OPT_EPB_HASH:
            continue  # a hash of the frame as it was
        if altered and code == OPT_EPB_FLAGS and length == 4:
            # Bits 5-8: length of the FCS at the frame's end, which the outer length cut off.
            store_32(number, load_32(options + value, t.big) & ~<uint32_t>0x1E0, t.big)
            used += put_option(dst + used, code, number, 4, t.big)
            continue
        used += put_option(dst + used, code, options + value, length, t.big)
    if drops:
        store_64(number, drops, t.big)
        used += put_option(dst + used, OPT_EPB_DROPCOUNT, number, 8, t.big)
    if c.noted and c.note_len[i]:
        note = c.arena + c.note_off[i]
        at = 0
        end = c.note_len[i]
        while option_next(note, end, &at, &code, &value, &length, False):
            if code == OPT_CUSTOM_BINARY:
                # Its first four bytes are a number: the enterprise's.
                store_32(number, load_32(note + value, False), t.big)
                put_option(dst + used, code, note + value, length, t.big)
                memcpy(dst + used + 4, number, 4)
                used += 4 + pad4(length)
            else:
                used += put_option(dst + used, code, note + value, length, t.big)
    if used:
        memset(dst + used, 0, 4)  # opt_endofopt
        used += 4
    return used


cdef uint32_t out_interface(Target *t, Columns *c, uint32_t i) noexcept nogil:
    cdef uint32_t number
    if c.port_out[i] and c.noted:
        number = c.port_out[i] - 1  # an interface of its own, made for the row's tunnel
        return number if number < t.n_out else NO_INTERFACE
    if t.carry:
        if c.port_in[i] >= t.n_in:
            return NO_INTERFACE
        number = t.as_ethernet[c.port_in[i]]
        if number != NO_INTERFACE and t.out[number].link == c.link[i]:
            return number
        number = t.as_is[c.port_in[i]]
        if number != NO_INTERFACE and t.out[number].link == c.link[i]:
            return number
        return NO_INTERFACE
    for number in range(t.n_out):
        if t.out[number].link == c.link[i]:
            return number
    return NO_INTERFACE


cdef uint32_t encode_packet(Target *t, Columns *c, uint32_t i, uint32_t number) noexcept nogil:
    """One packet block at the buffer's end: 0, or the room it wants where there is too little."""
    cdef uint32_t n = c.head_len[i] + c.len[i], kind = 0, rec_len = 0, was_len = 0, n_options = 0, drops = 0, length
    cdef const uint8_t *rec = NULL
    cdef const uint8_t *options = NULL
    cdef bint altered = True
    cdef uint64_t units
    cdef uint8_t *p
    if c.rec_format == FORMAT_PCAPNG and c.rec[i] != NO_RECORD:
        rec = c.arena + c.rec[i]
        kind = load_32(rec, c.rec_big)
        rec_len = pad4(load_32(rec + 4, c.rec_big))
        if kind == BLOCK_SPB:
            altered = c.head_len[i] != 0 or c.off[i] != c.rec[i] + SPB_HDR_LEN
        else:
            was_len = load_32(rec + 20, c.rec_big)
            altered = c.head_len[i] != 0 or c.off[i] != c.rec[i] + EPB_HDR_LEN or c.len[i] != was_len
            options = rec + EPB_HDR_LEN + pad4(was_len)
            n_options = rec_len - 4 - EPB_HDR_LEN - pad4(was_len)
            if kind == BLOCK_PB and load_16(rec + 10, c.rec_big) != 0xFFFF:
                drops = load_16(rec + 10, c.rec_big)
    # Options grow by at most their padding; a note's as well; the drop count and the end are 16 bytes.
    length = EPB_LEN_MIN + n + n_options + (c.note_len[i] * 2 if c.noted else 0) + 64 + COPY_SLACK
    if t.cap - t.used < length:
        return length
    p = t.buffer + t.used
    if kind == BLOCK_SPB and not altered and number == 0 and not (c.noted and c.note_len[i]) and not c.ts_touched:
        if n == (t.out[0].snaplen if t.out[0].snaplen and c.wire_len[i] > t.out[0].snaplen else c.wire_len[i]):
            length = SPB_LEN_MIN + pad4(n)
            store_32(p, BLOCK_SPB, t.big)
            store_32(p + 8, c.wire_len[i], t.big)
            gather(c, i, p + SPB_HDR_LEN)
            memset(p + SPB_HDR_LEN + n, 0, 4)
            store_32(p + 4, length, t.big)
            store_32(p + length - 4, length, t.big)
            t.used += length
            return 0
    store_32(p, BLOCK_EPB, t.big)
    store_32(p + 8, number, t.big)
    if rec != NULL and kind != BLOCK_SPB and not c.ts_touched:
        units = (<uint64_t>load_32(rec + 12, c.rec_big) << 32) | load_32(rec + 16, c.rec_big)
    else:
        units = interface_units(&t.out[number], c.ts_ns[i])
    store_32(p + 12, <uint32_t>(units >> 32), t.big)
    store_32(p + 16, <uint32_t>units, t.big)
    store_32(p + 20, n, t.big)
    store_32(p + 24, c.wire_len[i], t.big)
    gather(c, i, p + EPB_HDR_LEN)
    memset(p + EPB_HDR_LEN + n, 0, 4)
    length = EPB_HDR_LEN + pad4(n)
    if not altered and kind == BLOCK_EPB and not c.noted and t.strip_pen == 0:
        memcpy(p + length, options, n_options)
        length += n_options
    elif n_options or drops or c.noted:
        length += put_options(t, p + length, c, i, options, n_options, altered, drops)
    length += 4
    store_32(p + 4, length, t.big)
    store_32(p + length - 4, length, t.big)
    t.used += length
    return 0


cdef bint grow_maps(Target *t) noexcept nogil:
    """Room for two more interfaces written and one more read."""
    cdef uint32_t cap
    cdef void *fresh
    if t.n_out + 2 > t.cap_out:
        cap = t.cap_out * 2 + 8
        fresh = realloc(t.out, cap * sizeof(Interface))
        if fresh == NULL:
            return False
        t.out = <Interface *>fresh
        t.cap_out = cap
    if t.n_in + 1 > t.cap_in:
        cap = t.cap_in * 2 + 8
        fresh = realloc(t.as_ethernet, cap * sizeof(uint32_t))
        if fresh == NULL:
            return False
        t.as_ethernet = <uint32_t *>fresh
        fresh = realloc(t.as_is, cap * sizeof(uint32_t))
        if fresh == NULL:
            return False
        t.as_is = <uint32_t *>fresh
        t.cap_in = cap
    return True


cdef uint32_t note_interface(Target *t, const uint8_t *block, uint32_t length, uint16_t link, uint32_t snaplen) noexcept nogil:
    """Remember an interface description that is written: its number."""
    cdef Interface *f = &t.out[t.n_out]
    cdef uint32_t at = 0, value = 0, n = 0
    cdef uint16_t code = 0
    cdef uint8_t tsresol = 6
    cdef int64_t offset_s = 0
    f.link = link
    f.snaplen = snaplen
    while option_next(block + 16, length - 20, &at, &code, &value, &n, t.big):
        if code == OPT_IF_TSRESOL and n >= 1:
            tsresol = block[16 + value]
        elif code == OPT_IF_TSOFFSET and n >= 8:
            offset_s = <int64_t>((<uint64_t>load_32(block + 16 + value + (0 if t.big else 4), t.big) << 32)
                                 | load_32(block + 16 + value + (4 if t.big else 0), t.big))
    interface_set_time(f, tsresol, offset_s)
    t.n_out += 1
    return t.n_out - 1


cdef uint32_t put_interface(Target *t, const uint8_t *block, uint32_t length, uint16_t link, uint32_t parent) noexcept nogil:
    """A description as read, of link type ``link``, its snaplen raised for what is put in front of the frames.

    ``parent``: the number of the interface it is a second form of, to be marked as such; NO_INTERFACE for none.
    """
    cdef uint32_t snaplen = load_32(block + 12, t.big), at = 0, value = 0, n = 0, used
    cdef uint16_t code = 0
    cdef uint8_t *p = t.buffer + t.used
    if snaplen and snaplen < t.snaplen_min:
        snaplen = t.snaplen_min
    memcpy(p, block, length)
    store_16(p + 8, link, t.big)
    store_32(p + 12, snaplen, t.big)
    if parent != NO_INTERFACE and t.mark_pen:
        while option_next(block + 16, length - 20, &at, &code, &value, &n, t.big):
            pass
        used = 16 + at
        used += put_mark(p + used, t.mark_pen, parent, t.big)
        memset(p + used, 0, 4)
        used += 8
        store_32(p + 4, used, t.big)
        store_32(p + used - 4, used, t.big)
        t.used += used
    else:
        t.used += length
    return note_interface(t, block, length, link, snaplen)


cdef uint32_t put_mark(uint8_t *p, uint32_t pen, uint32_t parent, bint big) noexcept nogil:
    """The option by which ``strip`` knows an interface of our making, and the one it stands for."""
    cdef uint8_t value[12]
    store_32(value, pen, big)
    memcpy(value + 4, b"VXF1", 4)
    store_32(value + 8, parent, False)
    return put_option(p, OPT_CUSTOM_BINARY, value, 12, big)


cdef uint32_t marked_parent(Target *t, const uint8_t *block, uint32_t length) noexcept nogil:
    """What an interface of our making stands for, where such are to be left out; NO_INTERFACE for all others."""
    cdef uint32_t at = 0, value = 0, n = 0
    cdef uint16_t code = 0
    while t.strip_pen and option_next(block + 16, length - 20, &at, &code, &value, &n, t.big):
        if code == OPT_CUSTOM_BINARY and n == 12 and is_stripped(t, block + 16 + value, code, n):
            return load_32(block + 16 + value + 8, False)
    return NO_INTERFACE


cdef uint32_t encode_block(Target *t, const uint8_t *block, uint32_t length, bint big) noexcept nogil:
    """A block that is no packet, carried through: 0, or the room it wants where there is too little."""
    cdef uint32_t kind, number
    cdef uint16_t link
    cdef uint8_t *p
    if t.cap - t.used < length * 2 + 64 + COPY_SLACK:
        return length * 2 + 64 + COPY_SLACK
    if load_be32(block) == BLOCK_SHB:
        t.big = big
        t.n_in = t.n_out = 0
        p = t.buffer + t.used
        memcpy(p, block, length)
        memset(p + 16, 0xFF, 8)  # the section's length changes with its packets: -1 says unknown
        t.used += length
        return 0
    kind = load_32(block, t.big)
    if kind == BLOCK_IDB:
        if not grow_maps(t):
            t.no_memory = True
            return 0
        link = load_16(block + 8, t.big)
        t.as_ethernet[t.n_in] = t.as_is[t.n_in] = NO_INTERFACE
        number = marked_parent(t, block, length)
        if number != NO_INTERFACE:
            if number < t.n_in:
                t.as_is[t.n_in] = t.as_is[number]
        else:
            if t.keep_link and not (t.to_ethernet and link == LINK_ETHERNET):
                t.as_is[t.n_in] = put_interface(t, block, length, link, NO_INTERFACE)
            if t.to_ethernet:
                t.as_ethernet[t.n_in] = put_interface(t, block, length, LINK_ETHERNET, t.as_is[t.n_in])
        t.n_in += 1
        return 0
    p = t.buffer + t.used
    memcpy(p, block, length)
    if kind == 5 and length >= 16:
        # Interface statistics: they go with the interface's first form.
        number = load_32(block + 8, t.big)
        if number < t.n_in:
            number = t.as_ethernet[number] if t.as_ethernet[number] != NO_INTERFACE else t.as_is[number]
            if number == NO_INTERFACE:
                return 0
            store_32(p + 8, number, t.big)
    t.used += length
    return 0


cdef uint32_t encode_pcapng(Target *t, Columns *c, uint32_t k, uint64_t *want) noexcept nogil:
    cdef uint32_t i, number, count = t.stop
    if k == 0 and not t.led:
        t.next_block = 0
    t.led = False
    if not t.carry:
        t.next_block = c.n_blocks
    while True:
        i = row_at(c, k) if k < count else c.n
        while t.next_block < c.n_blocks and c.block_row[t.next_block] <= i:
            if c.block_len[t.next_block]:
                want[0] = encode_block(t, c.arena + c.block_off[t.next_block], c.block_len[t.next_block], c.rec_big)
                if want[0]:
                    return k
            t.next_block += 1
        if k == count:
            return k
        if (t.leave >> c.verdict[i]) & 1:
            number = out_interface(t, c, i)
            if number == NO_INTERFACE:
                t.refused += 1
                t.refused_passed += c.verdict[i] == PASS
                c.verdict[i] = DROP_OUTPUT_LINK_TYPE
            else:
                want[0] = encode_packet(t, c, i, number)
                if want[0]:
                    return k
                t.rows += 1
                t.bytes += c.head_len[i] + c.len[i]
        k += 1


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
        cdef bint same = (not c.ts_touched and c.rec_big == t.big and t.big == False
                          and (c.rec_format == t.format or (c.rec_format == FORMAT_PCAP_MODIFIED and t.format == FORMAT_PCAP)))
        cdef bint same_big = (not c.ts_touched and c.rec_big and t.big
                              and (c.rec_format == t.format or (c.rec_format == FORMAT_PCAP_MODIFIED and t.format == FORMAT_PCAP)))
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
            elif same:
                k = encode_pcap(t, c, start, False, True, 1)
            elif same_big:
                k = encode_pcap(t, c, start, True, True, 1)
            else:
                k = encode_pcap(t, c, start, t.big, False, 1000 if t.format == FORMAT_PCAP else 1)
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

    def encode_all(self, PacketBatch batch not None):
        """Append every row and block, however much room that takes."""
        start = 0
        while True:
            start = self.encode(batch, start)
            if start is None:
                return
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
