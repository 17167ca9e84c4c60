"""Capture files in: pcap in its four magics and both byte orders, pcapng with any number of sections and interfaces.

No input or output here: ``fill`` is given something that reads into a buffer. Every length is compared with the bytes
in hand and with a limit before it is believed, and memory grows with the bytes that came, not with what a field claims.
"""
from cpython.buffer cimport PyBUF_WRITE
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memmove

from vxlanfast._ext.batch cimport Columns, PacketBatch, batch_grow_blocks, rows_init
from vxlanfast._ext.io.format cimport *
from vxlanfast._ext.wire.endian cimport load_16, load_32, load_64, load_be32

cdef enum:
    CHUNK_LEN = 131072      # bytes asked of the source at once, unless told otherwise


cdef inline void fault(Source *s, const char *sentence, uint64_t value, uint64_t limit) noexcept nogil:
    s.fault = sentence
    s.fault_value = value
    s.fault_limit = limit


cdef void start_pcap(Source *s, const uint8_t *p) noexcept nogil:
    s.version_major = load_16(p + 4, s.big)
    s.version_minor = load_16(p + 6, s.big)
    s.snaplen = load_32(p + 16, s.big)
    s.link_field = load_32(p + 20, s.big)
    s.link = <uint16_t>(s.link_field & 0xFFFF)
    # libpcap's sf-pcap.c: the two lengths changed places in 2.3, and some 2.3 writers had not noticed (told by size).
    s.swapped_lens = s.version_major == 2 and s.version_minor < 3
    s.started = True
    s.at += PCAP_FILE_LEN


cdef bint start(Source *s, const uint8_t *p, uint64_t n) noexcept nogil:
    """Recognise the file by its first bytes; False while there are too few of them (or it is nothing we know)."""
    cdef uint32_t magic
    cdef int big
    if n < 4:
        s.need = PCAP_FILE_LEN
        return False
    if load_be32(p) == BLOCK_SHB:
        s.format = FORMAT_PCAPNG
        s.started = True
        return True
    for big in range(2):
        magic = load_32(p, big)
        if magic == PCAP_MAGIC_USEC or magic == PCAP_MAGIC_NSEC or magic == PCAP_MAGIC_MODIFIED:
            if n < PCAP_FILE_LEN:
                s.need = PCAP_FILE_LEN
                return False
            s.big = big
            s.format = (FORMAT_PCAP if magic == PCAP_MAGIC_USEC else
                        FORMAT_PCAP_NSEC if magic == PCAP_MAGIC_NSEC else FORMAT_PCAP_MODIFIED)
            s.record_len = PCAP_RECORD_MODIFIED_LEN if magic == PCAP_MAGIC_MODIFIED else PCAP_RECORD_LEN
            start_pcap(s, p)
            return True
    fault(s, b"not a capture file: it starts with %#010x, no magic number of pcap or pcapng", load_be32(p), 0)
    return False


cdef inline void decode_pcap(Source *s, Columns *c, uint64_t end, bint big, uint32_t record_len,
                             int64_t tick_ns) noexcept nogil:
    """Records into rows until the bytes or the rows run out. ``big``, ``record_len``, ``tick_ns``: constants."""
    cdef const uint8_t *p
    cdef uint64_t at = s.at
    cdef uint32_t n = c.n, cap, length, wire_len, swap
    cap = c.cap if c.cap - n < s.limit else n + <uint32_t>s.limit
    while n < cap:
        if end - at < record_len:
            s.need = record_len
            break
        p = c.arena + at
        length = load_32(p + 8, big)
        wire_len = load_32(p + 12, big)
        if s.swapped_lens or (s.version_minor == 3 and length > wire_len and s.version_major == 2):
            swap = length
            length = wire_len
            wire_len = swap
        if length > FRAME_LEN_MAX:
            fault(s, b"a record claims %u captured bytes; the limit is %u", length, FRAME_LEN_MAX)
            break
        if end - at < record_len + length:
            s.need = record_len + length
            break
        c.rec[n] = <uint32_t>at
        c.off[n] = <uint32_t>at + record_len
        c.len[n] = length
        c.wire_len[n] = wire_len
        c.ts_ns[n] = <int64_t>load_32(p, big) * 1000000000 + <int64_t>load_32(p + 4, big) * tick_ns
        c.link[n] = s.link
        c.port_in[n] = 0
        at += record_len + length
        n += 1
    s.at = at
    c.n = n


cdef int add_interface(Source *s, const uint8_t *p, uint32_t length) noexcept nogil:
    """An interface description: link type, snaplen, and from the options the unit and offset of its times."""
    cdef uint32_t at = 0, value = 0, n = 0, cap
    cdef uint16_t code = 0
    cdef uint8_t tsresol = 6
    cdef int64_t offset_s = 0
    cdef Interface *f
    cdef void *fresh
    if s.n_interfaces == INTERFACE_COUNT_MAX:
        fault(s, b"interface number %u of a section; the limit is %u", INTERFACE_COUNT_MAX, INTERFACE_COUNT_MAX - 1)
        return -1
    if s.n_interfaces == s.cap_interfaces:
        cap = s.cap_interfaces * 2 if s.cap_interfaces else 8
        fresh = realloc(s.interfaces, cap * sizeof(Interface))
        if fresh == NULL:
            fault(s, b"no memory for %u interfaces", cap, 0)
            return -1
        s.interfaces = <Interface *>fresh
        s.cap_interfaces = cap
    f = &s.interfaces[s.n_interfaces]
    f.link = load_16(p + 8, s.big)
    f.snaplen = load_32(p + 12, s.big)
    while option_next(p + 16, length - 20, &at, &code, &value, &n, s.big):
        if code == OPT_IF_TSRESOL and n >= 1:
            tsresol = p[16 + value]
        elif code == OPT_IF_TSOFFSET and n >= 8:
            offset_s = <int64_t>load_64(p + 16 + value, s.big)
    interface_set_time(f, tsresol, offset_s)
    s.n_interfaces += 1
    return 0


cdef int packet_block(Source *s, Columns *c, const uint8_t *p, uint32_t length, uint32_t kind) noexcept nogil:
    """A packet block of ``length`` bytes, whole and in hand, into the next row."""
    cdef uint32_t n = c.n, number, frame_len, wire_len, hdr_len
    cdef uint64_t units = 0
    cdef Interface *f
    hdr_len = SPB_HDR_LEN if kind == BLOCK_SPB else EPB_HDR_LEN
    if length < hdr_len + 4:
        fault(s, b"a packet block of %u bytes; the least is %u", length, hdr_len + 4)
        return -1
    if kind == BLOCK_SPB:
        number = 0
        wire_len = load_32(p + 8, s.big)
    else:
        number = load_32(p + 8, s.big) if kind == BLOCK_EPB else load_16(p + 8, s.big)
        units = (<uint64_t>load_32(p + 12, s.big) << 32) | load_32(p + 16, s.big)
        wire_len = load_32(p + 24, s.big)
    if number >= s.n_interfaces:
        fault(s, b"a packet of interface %u; the section has described %u", number, s.n_interfaces)
        return -1
    f = &s.interfaces[number]
    if kind == BLOCK_SPB:
        frame_len = wire_len
        if f.snaplen and frame_len > f.snaplen:
            frame_len = f.snaplen
        if frame_len > length - hdr_len - 4:
            frame_len = length - hdr_len - 4  # the writer's snaplen was not the interface's
    else:
        frame_len = load_32(p + 20, s.big)
    if frame_len > FRAME_LEN_MAX:
        fault(s, b"a packet block claims %u captured bytes; the limit is %u", frame_len, FRAME_LEN_MAX)
        return -1
    if frame_len > length - hdr_len - 4:
        fault(s, b"a packet block claims %u captured bytes and has room for %u", frame_len, length - hdr_len - 4)
        return -1
    c.rec[n] = <uint32_t>s.at
    c.off[n] = <uint32_t>s.at + hdr_len
    c.len[n] = frame_len
    c.wire_len[n] = wire_len
    c.ts_ns[n] = 0 if kind == BLOCK_SPB else interface_ns(f, units)
    c.link[n] = f.link
    c.port_in[n] = <uint16_t>number
    c.n = n + 1
    return 0


cdef void decode_pcapng(Source *s, Columns *c, uint64_t end) noexcept nogil:
    cdef const uint8_t *p
    cdef uint32_t kind, length, room, wanted = c.cap if c.cap - c.n < s.limit else c.n + <uint32_t>s.limit
    while c.n < wanted:
        room = <uint32_t>(end - s.at)
        if room < 12:
            s.need = 12
            return
        p = c.arena + s.at
        kind = load_be32(p)
        if kind == BLOCK_SHB:
            if load_be32(p + 8) == BLOCK_BYTE_ORDER:
                s.big = True
            elif load_32(p + 8, False) == BLOCK_BYTE_ORDER:
                s.big = False
            else:
                fault(s, b"a section header with byte-order magic %#010x; it is 0x1a2b3c4d", load_be32(p + 8), 0)
                return
            if c.n or c.n_blocks:
                # A batch is of one section, and of its byte order: this one starts the next.
                s.big = c.rec_big
                return
        else:
            kind = load_32(p, s.big)
        length = load_32(p + 4, s.big)
        if length < BLOCK_LEN_MIN or length > BLOCK_LEN_MAX:
            fault(s, b"a pcapng block claims %u bytes; a block has 12 to %u", length, BLOCK_LEN_MAX)
            return
        if room < pad4(length):
            s.need = pad4(length)  # a length that is no multiple of four: some writers forget the padding in it
            return
        if load_32(p + pad4(length) - 4, s.big) != length:
            fault(s, b"a pcapng block says %u bytes at its start and %u at its end", length,
                  load_32(p + pad4(length) - 4, s.big))
            return
        c.rec_big = s.big
        length = pad4(length)
        if kind == BLOCK_EPB or kind == BLOCK_SPB or kind == BLOCK_PB:
            if packet_block(s, c, p, length, kind):
                return
        else:
            if kind == BLOCK_SHB:
                if length < SHB_LEN_MIN:
                    fault(s, b"a section header of %u bytes; the least is %u", length, SHB_LEN_MIN)
                    return
                s.n_interfaces = 0
                s.sections += 1
                if load_16(p + 12, s.big) != 1:
                    s.odd_version = True
            elif kind == BLOCK_IDB:
                if length < IDB_LEN_MIN:
                    fault(s, b"an interface description of %u bytes; the least is %u", length, IDB_LEN_MIN)
                    return
                if add_interface(s, p, length):
                    return
            if c.n_blocks == c.cap_blocks and batch_grow_blocks(c, c.cap_blocks * 2):
                fault(s, b"no memory for %u blocks", c.cap_blocks * 2, 0)
                return
            c.block_row[c.n_blocks] = c.n
            c.block_off[c.n_blocks] = <uint32_t>s.at
            c.block_len[c.n_blocks] = length
            c.n_blocks += 1
        s.at += length


cdef void decode(Source *s, Columns *c) noexcept nogil:
    """Rows of whatever is whole in the arena from ``s.at`` on; ``s.need`` says how much the next record wants."""
    cdef uint32_t first = c.n
    cdef uint64_t end = c.arena_len
    s.need = 0
    if not s.started and not start(s, c.arena + s.at, end - s.at):
        return
    c.rec_format = s.format
    if s.format == FORMAT_PCAPNG:
        decode_pcapng(s, c, end)
    else:
        c.rec_big = s.big
        if s.format == FORMAT_PCAP and not s.big:
            decode_pcap(s, c, end, False, PCAP_RECORD_LEN, 1000)
        elif s.format == FORMAT_PCAP_NSEC and not s.big:
            decode_pcap(s, c, end, False, PCAP_RECORD_LEN, 1)
        else:
            decode_pcap(s, c, end, s.big, s.record_len, 1 if s.format == FORMAT_PCAP_NSEC else 1000)
    rows_init(c, first, c.n - first)
    c.n_source = c.n
    s.limit -= c.n - first


cdef class CaptureDecoder:
    """Decodes one capture file, batch by batch.

    ``limit``: rows to give at most. After ``fill`` has returned 0, ``fault`` is None, or ``(message, file offset)`` of
    what stopped it: every whole packet before that was delivered.
    """

    def __cinit__(self, limit=None):
        self.chunk_len = CHUNK_LEN
        self.s.limit = 0xFFFFFFFFFFFFFFFF if limit is None else limit

    def __dealloc__(self):
        free(self.carry)
        free(self.s.interfaces)

    cdef int keep_rest(self, Columns *c) except -1:
        """Put the bytes behind the last whole record aside: the batch is the caller's from here on."""
        cdef uint64_t n = c.arena_len - self.s.at
        cdef uint8_t *fresh
        if n > self.carry_cap:
            fresh = <uint8_t *>realloc(self.carry, n)
            if fresh == NULL:
                raise MemoryError
            self.carry = fresh
            self.carry_cap = n
        if n:
            memcpy(self.carry, c.arena + self.s.at, n)
        self.carry_len = n
        return 0

    def fill(self, PacketBatch batch not None, readinto):
        """The next rows and blocks in place of what ``batch`` holds; their number, 0 at the end or at a fault.

        ``readinto(buffer)`` fills the buffer from its start and returns how many bytes it wrote, 0 at the end.
        BufferError while a view of the batch is alive.
        """
        cdef Columns *c = &batch.c
        cdef Source *s = &self.s
        cdef uint64_t want
        cdef Py_ssize_t got
        batch._require_idle("refill")
        batch.reset()
        if self.at_end:
            return 0
        batch.reserve_arena(max(self.carry_len + self.chunk_len, c.arena_cap))
        if self.carry_len:
            memcpy(c.arena, self.carry, self.carry_len)
        c.arena_len = self.carry_len
        s.base += s.at
        s.at = 0
        if self.row_bound:
            with nogil:
                decode(s, c)
        # The first batch is not given before an interface is known: what is written is decided from it, and must not
        # depend on the pieces a pipe delivers. (Not for ever: a chunk of other blocks is enough.)
        while s.fault == NULL and s.limit and c.n == 0 and (c.n_blocks == 0 or (
                s.n_interfaces == 0 and self.rows == 0 and s.base == 0 and c.arena_len < self.chunk_len
                and (s.need or s.at == c.arena_len))):
            # Room for a chunk, and for twice what has come where one record is larger: never for what it claims.
            want = self.chunk_len if c.arena_len < self.chunk_len else c.arena_len * 2
            if want > self.chunk_len and s.need and want > s.at + s.need + self.chunk_len:
                want = s.at + s.need + self.chunk_len  # the last doubling for a large block is of what it lacks
            batch.reserve_arena(want)
            if c.arena_len < want:
                view = PyMemoryView_FromMemory(<char *>c.arena + c.arena_len, want - c.arena_len, PyBUF_WRITE)
                got = readinto(view)
                if not 0 <= got <= <Py_ssize_t>(want - c.arena_len):
                    raise ValueError(f"readinto returned {got} of {want - c.arena_len} bytes")
                if got == 0:
                    self.at_end = True
                    self.cut = c.arena_len > s.at or not s.started
                    break
                c.arena_len += got
            with nogil:
                decode(s, c)
        if s.fault != NULL or s.limit == 0:
            self.at_end = True
        self.row_bound = s.need == 0 and s.at < c.arena_len
        self.keep_rest(c)
        self.rows += c.n
        return c.n + c.n_blocks

    @property
    def fault(self):
        """None, or ``(message, offset in the file)`` of what ended the reading early."""
        cdef Source *s = &self.s
        offset = s.base + s.at
        if s.fault != NULL:
            text = s.fault.decode()
            values = (s.fault_value, s.fault_limit)[:text.count("%")]
            return text % values, offset
        if self.cut:
            if not s.started:
                return ("empty: no capture file" if self.carry_len == 0 else
                        f"cut inside the file header: {self.carry_len} bytes"), offset
            if s.need:
                return f"cut in the middle of a record: {self.carry_len} of its {s.need} bytes are there", offset
        return None

    @property
    def offset(self):
        """Bytes of the (decompressed) file decoded so far."""
        return self.s.base + self.s.at

    @property
    def format(self):
        """"pcap", "nsecpcap" or "pcapng", None before the first ``fill``; the modified pcap reads as pcap."""
        return (None, "pcap", "nsecpcap", "pcap", "pcapng")[self.s.format]

    @property
    def modified(self):
        """The file has Kuznetzov's 24-byte record headers."""
        return self.s.format == FORMAT_PCAP_MODIFIED

    @property
    def big_endian(self):
        """Byte order of the file, of a pcapng file that of its current section."""
        return bool(self.s.big)

    @property
    def link_field(self):
        """pcap: the link type field as it stands, FCS length bits included."""
        return self.s.link_field

    @property
    def snaplen(self):
        """pcap: the snapshot length of the file header."""
        return self.s.snaplen

    @property
    def sections(self):
        """pcapng: sections met so far."""
        return self.s.sections

    @property
    def odd_version(self):
        """A pcapng section of a major version other than 1 was met, and read as version 1."""
        return bool(self.s.odd_version)

    def interfaces(self):
        """The interfaces of the current section: ``(link type, snaplen, if_tsresol, offset in nanoseconds)`` each."""
        cdef uint32_t i
        if self.s.format and self.s.format != FORMAT_PCAPNG:
            return [(self.s.link, self.s.snaplen, 9 if self.s.format == FORMAT_PCAP_NSEC else 6, 0)]
        return [(self.s.interfaces[i].link, self.s.interfaces[i].snaplen, self.s.interfaces[i].tsresol,
                 self.s.interfaces[i].offset_ns) for i in range(self.s.n_interfaces)]
