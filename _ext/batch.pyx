"""PacketBatch: ownership of the rows, and their border to Python."""
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_WRITABLE
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdlib cimport free
from posix.stdlib cimport posix_memalign
from libc.string cimport memcpy, memset

from vxlanfast._ext.verdict cimport verdict_in

DEF_ROWS = 2048          # with DEF_ARENA: 64 bytes of file a row, so a chunk of the smallest frames fits its rows
DEF_ARENA = 128 * 1024   # bytes: two of them and the columns stay in a core's second-level cache

cdef enum:
    ROWS_MAX = 1 << 24
    ALIGN = 64
    NOTE_MAX = 4096
    LINK_PAYLOAD = 0xFFF0    # wire/link's LINK_VXLAN …
    LINK_FRAME = 1           # … and LINK_ETHERNET


cdef bint regrow(void **p, uint64_t used, uint64_t want) noexcept nogil:
    """Move ``used`` bytes into a new aligned, zeroed allocation of ``want``; False and nothing changed: no memory."""
    cdef void *fresh = NULL
    if posix_memalign(&fresh, ALIGN, want if want else 1):
        return False
    if used:
        memcpy(fresh, p[0], used)
    memset(<uint8_t *>fresh + used, 0, want - used)
    free(p[0])
    p[0] = fresh
    return True


cdef int batch_grow_rows(Columns *c, uint32_t rows) noexcept nogil:
    """Room for ``rows`` rows: 0, or -1 when there is no memory (what was there stays)."""
    cdef uint64_t n = c.n, m
    cdef uint32_t cap = c.cap if c.cap else 1
    if rows <= c.cap:
        return 0
    if rows > ROWS_MAX:
        return -1
    while cap < rows:
        cap *= 2
    m = cap
    if not (regrow(<void **>&c.off, n * 4, m * 4) and regrow(<void **>&c.len, n * 4, m * 4)
            and regrow(<void **>&c.wire_len, n * 4, m * 4) and regrow(<void **>&c.rec, n * 4, m * 4)
            and regrow(<void **>&c.outer, n * 4, m * 4) and regrow(<void **>&c.vni, n * 4, m * 4)
            and regrow(<void **>&c.flow, n * 4, m * 4) and regrow(<void **>&c.ts_ns, n * 8, m * 8)
            and regrow(<void **>&c.link, n * 2, m * 2) and regrow(<void **>&c.port_in, n * 2, m * 2)
            and regrow(<void **>&c.net, n * 2, m * 2) and regrow(<void **>&c.origin, n * 4, m * 4)
            and regrow(<void **>&c.dest, n * 4, m * 4) and regrow(<void **>&c.conn, n * 4, m * 4)
            and regrow(<void **>&c.cut, n * 2, m * 2) and regrow(<void **>&c.gso, n * 2, m * 2)
            and regrow(<void **>&c.port_out, n * 2, m * 2) and regrow(<void **>&c.l3, n * 2, m * 2)
            and regrow(<void **>&c.l4, n * 2, m * 2) and regrow(<void **>&c.outer_l3, n * 2, m * 2)
            and regrow(<void **>&c.outer_l4, n * 2, m * 2) and regrow(<void **>&c.verdict, n, m)
            and regrow(<void **>&c.head_len, n, m) and regrow(<void **>&c.rule, n, m)
            and regrow(<void **>&c.note_off, n * 4, m * 4) and regrow(<void **>&c.note_len, n * 4, m * 4)
            and regrow(<void **>&c.order, <uint64_t>c.n_order * 4, m * 4)
            # The last slot's header bytes are copied in whole steps as well: slack behind it, as behind the arena.
            and regrow(<void **>&c.head, n * BATCH_HEAD_LEN, m * BATCH_HEAD_LEN + BATCH_SLACK_LEN)):
        return -1
    c.cap = cap
    return 0


cdef int batch_grow_arena(Columns *c, uint64_t size) noexcept nogil:
    """Room for ``size`` bytes of bodies (at most 4 GiB: offsets are 32 bits): 0, or -1 when there is none."""
    if size <= c.arena_cap:
        return 0
    if size > 0xFFFF0000U or not regrow(<void **>&c.arena, c.arena_len, size + BATCH_SLACK_LEN):
        return -1
    c.arena_cap = size
    return 0


cdef int batch_grow_blocks(Columns *c, uint32_t count) noexcept nogil:
    cdef uint64_t n = c.n_blocks
    if count <= c.cap_blocks:
        return 0
    if not (regrow(<void **>&c.block_row, n * 4, <uint64_t>count * 4)
            and regrow(<void **>&c.block_off, n * 4, <uint64_t>count * 4)
            and regrow(<void **>&c.block_len, n * 4, <uint64_t>count * 4)):
        return -1
    c.cap_blocks = count
    return 0


cdef bint row_wanted(const Columns *c, uint32_t i, bint dropped, int port_in, int port_out, const uint8_t *nets) noexcept nogil:
    """Whether ``pick`` takes a row. ``nets``: by number, whether; NULL: any."""
    return (
        (c.verdict[i] != 0) == dropped
        and (port_in < 0 or c.port_in[i] == port_in)
        and (port_out < 0 or c.port_out[i] == port_out)
        and (nets == NULL or nets[c.net[i]] != 0)
    )


cdef inline const uint8_t *row_front(Columns *c, uint32_t i, uint32_t *n) noexcept nogil:
    """What stands in front of a row's body: the headers put there, or those that a datagram's payload came with."""
    if c.link[i] == LINK_PAYLOAD:
        n[0] = c.outer_l4[i] + 8
        return c.arena + c.outer[i]
    n[0] = c.head_len[i]
    return row_head(c, i)


cdef class _View:
    """One column (or body) as a buffer; it holds the batch, and the batch counts it."""
    cdef PacketBatch batch
    cdef void *data
    cdef const char *format
    cdef bint writable
    cdef Py_ssize_t shape[1]
    cdef Py_ssize_t strides[1]

    def __getbuffer__(self, Py_buffer *view, int flags):
        if flags & PyBUF_WRITABLE and not self.writable:
            raise BufferError("this column is read-only: it says where bytes lie, and nodes trust it")
        view.obj = self
        view.buf = self.data
        view.len = self.shape[0] * self.strides[0]
        view.itemsize = self.strides[0]
        view.readonly = not self.writable
        view.ndim = 1
        view.format = <char *>self.format if flags & PyBUF_FORMAT else NULL
        view.shape = self.shape
        view.strides = self.strides
        view.suboffsets = NULL
        view.internal = NULL
        self.batch.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.batch.exports -= 1


cdef object column(PacketBatch batch, void *data, const char *format, Py_ssize_t itemsize, bint writable):
    return view_of(batch, data, batch.c.n, format, itemsize, writable)


cdef object view_of(PacketBatch batch, void *data, Py_ssize_t n, const char *format, Py_ssize_t itemsize, bint writable):
    cdef _View view = _View.__new__(_View)
    view.batch = batch
    view.data = data
    view.format = format
    view.writable = writable
    view.shape[0] = n
    view.strides[0] = itemsize
    return memoryview(view)


cdef class PacketBatch:
    """Rows of packets with a column for each thing known about them.

    ``rows`` and ``arena_len`` (bytes) are what there is room for at first; both grow. Columns are memoryviews that copy
    nothing (``numpy.asarray(batch.vni)`` works and numpy is not needed). A view keeps the batch from being cleared or
    filled again: ``BufferError`` says so. One thread at a time.
    """

    def __cinit__(self, rows=DEF_ROWS, arena_len=DEF_ARENA):
        if not 1 <= rows <= ROWS_MAX:
            raise ValueError(f"rows = {rows}: a batch has 1 to {ROWS_MAX} rows")
        if not 0 <= arena_len <= 0xFFFF0000:
            raise ValueError(f"arena_len = {arena_len} bytes: at most {0xFFFF0000}")
        self.reserve_rows(rows)
        self.reserve_arena(arena_len)
        if batch_grow_blocks(&self.c, 64):
            raise MemoryError

    def __dealloc__(self):
        cdef Columns *c = &self.c
        for p in (<size_t>c.off, <size_t>c.len, <size_t>c.wire_len, <size_t>c.rec, <size_t>c.outer, <size_t>c.vni,
                  <size_t>c.flow, <size_t>c.ts_ns, <size_t>c.link, <size_t>c.port_in, <size_t>c.port_out, <size_t>c.net,
                  <size_t>c.origin, <size_t>c.dest, <size_t>c.conn, <size_t>c.cut, <size_t>c.gso,
                  <size_t>c.l3, <size_t>c.l4, <size_t>c.outer_l3, <size_t>c.outer_l4, <size_t>c.verdict, <size_t>c.rule, <size_t>c.head_len,
                  <size_t>c.note_off, <size_t>c.note_len, <size_t>c.order, <size_t>c.head, <size_t>c.arena,
                  <size_t>c.block_row, <size_t>c.block_off, <size_t>c.block_len):
            free(<void *><size_t>p)

    @classmethod
    def from_frames(cls, frames, *, ts_ns=0, link=1, port_in=0):
        """A batch of its own copy of ``frames`` (any C-contiguous buffers), one row each, in order.

        ``ts_ns`` is one time or one per frame; ``link`` the LINKTYPE_ number of all (1: Ethernet).
        """
        cdef PacketBatch batch
        cdef const uint8_t[::1] body
        cdef uint64_t at = 0
        cdef uint32_t i, n
        cdef Columns *c
        views = [memoryview(frame).cast("B") for frame in frames]
        times = [ts_ns] * len(views) if isinstance(ts_ns, int) else list(ts_ns)
        if len(times) != len(views):
            raise ValueError(f"{len(times)} times for {len(views)} frames")
        batch = cls(max(1, len(views)), sum(map(len, views)))
        c = &batch.c
        n = len(views)
        rows_init(c, 0, n)
        for i in range(n):
            body = views[i]
            if body.shape[0]:
                memcpy(c.arena + at, &body[0], body.shape[0])
            c.off[i] = at
            c.len[i] = c.wire_len[i] = body.shape[0]
            c.rec[i] = 0xFFFFFFFFU
            c.ts_ns[i] = times[i]
            c.link[i] = link
            c.port_in[i] = port_in
            at += body.shape[0]
        c.arena_len = at
        c.n = c.n_source = n
        return batch

    cdef int _require_idle(self, str act) except -1:
        if self.exports:
            raise BufferError(f"cannot {act} the batch: {self.exports} views of it are alive")
        return 0

    cdef int reserve_rows(self, uint32_t rows) except -1:
        if rows > self.c.cap:
            self._require_idle("grow")
            if batch_grow_rows(&self.c, rows):
                raise MemoryError(f"no room for {rows} rows")
        return 0

    cdef int reserve_arena(self, uint64_t size) except -1:
        if size > self.c.arena_cap or self.c.arena == NULL:
            self._require_idle("grow")
            if batch_grow_arena(&self.c, max(size, 1)):
                raise MemoryError(f"no room for {size} bytes of packets")
        return 0

    cdef void reset(self) noexcept nogil:
        self.c.n = self.c.n_source = 0
        self.c.n_order = 0
        self.c.ordered = False
        self.c.n_blocks = 0
        self.c.arena_len = 0
        self.c.rec_format = 0
        self.c.ts_touched = False
        self.c.noted = False

    def __len__(self):
        return self.c.n

    def __repr__(self):
        return f"<PacketBatch of {self.c.n} rows, {self.c.arena_len} bytes>"

    def clear(self):
        """Drop every row. BufferError while a view of the batch is alive."""
        self._require_idle("clear")
        self.reset()

    def copy(self):
        """The same rows in a batch of their own, each frame whole (head and body joined)."""
        cdef PacketBatch twin = PacketBatch.from_frames([self.frame(i) for i in range(self.c.n)])
        cdef Columns *a = &self.c
        cdef Columns *b = &twin.c
        cdef uint64_t n = a.n
        memcpy(b.wire_len, a.wire_len, n * 4)
        memcpy(b.vni, a.vni, n * 4)
        memcpy(b.flow, a.flow, n * 4)
        memcpy(b.ts_ns, a.ts_ns, n * 8)
        memcpy(b.link, a.link, n * 2)
        memcpy(b.port_in, a.port_in, n * 2)
        memcpy(b.port_out, a.port_out, n * 2)
        memcpy(b.cut, a.cut, n * 2)
        memcpy(b.gso, a.gso, n * 2)
        memcpy(b.verdict, a.verdict, n)
        for i in range(n):
            if a.link[i] == LINK_PAYLOAD:
                b.link[i] = LINK_FRAME
                b.wire_len[i] = b.len[i]
        return twin

    def pick(self, *, bint dropped=False, int port_in=-1, int port_out=-1, nets=None, uint32_t snaplen=0xFFFFFFFFU):
        """A copy of some rows in leaving order, each frame whole and of ``snaplen`` bytes at most; None: there are none.

        Those that passed, or that were ``dropped``; of one port (-1: any), of the networks numbered ``nets`` (None: any).
        """
        cdef Columns *a = &self.c
        cdef Columns *b
        cdef PacketBatch twin
        cdef uint8_t wanted[65536]
        cdef bint some = nets is not None
        cdef uint32_t k, i, n = 0, head, body
        cdef const uint8_t *front
        cdef uint64_t total = 0
        if some:
            memset(wanted, 0, sizeof(wanted))
            for net in nets:
                wanted[<uint16_t>net] = 1
        for k in range(row_count(a)):
            i = row_at(a, k)
            if row_wanted(a, i, dropped, port_in, port_out, wanted if some else NULL):
                n += 1
                row_front(a, i, &head)
                total += min(<uint64_t>head + a.len[i], <uint64_t>snaplen)
        if n == 0:
            return None
        twin = PacketBatch(n, total)
        b = &twin.c
        rows_init(b, 0, n)
        with nogil:
            for k in range(row_count(a)):
                i = row_at(a, k)
                if not row_wanted(a, i, dropped, port_in, port_out, wanted if some else NULL):
                    continue
                front = row_front(a, i, &head)
                b.wire_len[b.n] = a.wire_len[i] if a.link[i] != LINK_PAYLOAD else head + a.len[i]
                b.link[b.n] = a.link[i] if a.link[i] != LINK_PAYLOAD else LINK_FRAME
                head = min(head, snaplen)
                body = min(a.len[i], snaplen - head)
                n = b.n
                b.off[n] = <uint32_t>b.arena_len
                memcpy(b.arena + b.arena_len, front, head)
                memcpy(b.arena + b.arena_len + head, row_body(a, i), body)
                b.len[n] = head + body
                b.arena_len += head + body
                b.rec[n] = 0xFFFFFFFFU
                b.vni[n] = a.vni[i]
                b.flow[n] = a.flow[i]
                b.ts_ns[n] = a.ts_ns[i]
                b.port_in[n] = a.port_in[i]
                b.port_out[n] = a.port_out[i]
                b.net[n] = a.net[i]
                b.origin[n] = a.origin[i]
                b.dest[n] = a.dest[i]
                b.conn[n] = a.conn[i]
                b.cut[n] = a.cut[i]
                b.gso[n] = a.gso[i]
                b.verdict[n] = a.verdict[i]
                b.rule[n] = a.rule[i]
                b.n = b.n_source = n + 1
        return twin

    @property
    def memory(self):
        """Bytes that the batch holds, whatever is in it."""
        return <uint64_t>self.c.cap * (BATCH_HEAD_LEN + 88) + self.c.arena_cap

    def frame(self, Py_ssize_t i):
        """Row ``i`` as it would leave: a memoryview of the body, or bytes where headers stand in front of it. A datagram's
        payload, as a socket gave it: behind the headers that it came with."""
        cdef Columns *c = &self.c
        if not 0 <= i < c.n:
            raise IndexError(f"row {i} of a batch of {c.n}")
        cdef uint32_t front_len = 0
        cdef const uint8_t *front = row_front(c, i, &front_len)
        if front_len == 0:
            return view_of(self, row_body(c, i), c.len[i], b"B", 1, False)
        return (PyBytes_FromStringAndSize(<char *>front, front_len)
                + PyBytes_FromStringAndSize(<char *>row_body(c, i), c.len[i]))

    def assign_ports(self, ports):
        """Where a row's ``port_out`` is a number n above 0, put ``ports[n - 1] + 1`` (``noted`` rows: an interface)."""
        cdef uint32_t i, n
        cdef uint16_t table[65536]
        if len(ports) > 65536:
            raise ValueError(f"{len(ports)} ports: at most 65536")
        n = len(ports)
        for i in range(n):
            table[i] = ports[i] + 1
        for i in range(self.c.n):
            if self.c.port_out[i]:
                self.c.port_out[i] = table[self.c.port_out[i] - 1] if self.c.port_out[i] <= n else 0

    def enter_by(self, ports):
        """``port_in`` as a capture has it, a number of an interface, becomes ``ports`` of it; 65535 where there is none."""
        cdef uint32_t i, n = len(ports)
        cdef uint16_t table[65536]
        if n > 65536:
            raise ValueError(f"{n} interfaces: at most 65536")
        for i in range(n):
            table[i] = ports[i]
        for i in range(self.c.n):
            self.c.port_in[i] = table[self.c.port_in[i]] if self.c.port_in[i] < n else 0xFFFF

    def leave_by_ports(self):
        """Rows leave by the interface of a capture that has one for each port, in their order: ``port_out`` counts from 1."""
        cdef uint32_t i
        if not self.c.noted:
            self.note({})
        self.c.ts_touched = True  # times are nanoseconds there, whatever the records have
        for i in range(self.c.n):
            self.c.port_out[i] += 1

    def blocks(self):
        """The blocks that came with the batch and are no packets (pcapng), as bytes, in order."""
        cdef uint32_t i
        return [PyBytes_FromStringAndSize(<char *>self.c.arena + self.c.block_off[i], self.c.block_len[i])
                for i in range(self.c.n_blocks)]

    def group_by_port(self, uint64_t leave=1):
        """Put the rows whose verdict is in the mask ``leave`` in order of ``port_out``, as they came within each.

        Returns ``[(port, first, end)]``: positions in the new leaving order.
        """
        cdef Columns *c = &self.c
        cdef uint32_t i, at = 0, total
        cdef uint32_t start[65537]
        memset(start, 0, sizeof(start))
        for i in range(c.n):
            if verdict_in(leave, c.verdict[i]):
                start[c.port_out[i] + 1] += 1
        groups = []
        for i in range(65536):
            total = start[i + 1]
            start[i + 1] = at + total
            start[i] = at
            if total:
                groups.append((i, at, at + total))
            at += total
        for i in range(c.n):
            if verdict_in(leave, c.verdict[i]):
                c.order[start[c.port_out[i]]] = i
                start[c.port_out[i]] += 1
        c.n_order = at
        c.ordered = True
        return groups

    def passed(self):
        """The row numbers that leave (verdict PASS), in leaving order."""
        cdef uint32_t k
        return [row_at(&self.c, k) for k in range(row_count(&self.c)) if self.c.verdict[row_at(&self.c, k)] == 0]

    def sources(self):
        """For each row in leaving order, dropped ones as well: (row, the row that came in of which it was made)."""
        cdef uint32_t k, i, source = 0
        out = []
        for k in range(row_count(&self.c)):
            i = row_at(&self.c, k)
            if i < self.c.n_source:
                source = i
            out.append((i, source))
        return out

    def note(self, notes):
        """Comments for pcapng, one or more lines each: ``{row: text}``. BufferError while a view of the batch is alive."""
        cdef Columns *c = &self.c
        cdef uint32_t i
        cdef uint64_t n
        self._require_idle("write notes into")
        for i in range(c.n):
            c.note_len[i] = 0
        for row, text in notes.items():
            if not 0 <= row < c.n:
                raise IndexError(f"row {row} of a batch of {c.n}")
            raw = text.encode()[:NOTE_MAX]
            n = len(raw)
            # As an option: code 1, length, text, padding (pcapng §3.5).
            option = b"\1\0" + int(n).to_bytes(2, "little") + raw + bytes(-n & 3)
            self.reserve_arena(c.arena_len + len(option))
            memcpy(c.arena + c.arena_len, <const char *>option, len(option))
            c.note_off[row] = <uint32_t>c.arena_len
            c.note_len[row] = len(option)
            c.arena_len += len(option)
        c.noted = True

    def note_by(self, texts, const uint32_t[::1] which not None):
        """As ``note``, of few texts for many rows: row ``i`` gets ``texts[which[i]]``, of which there is one copy."""
        cdef Columns *c = &self.c
        cdef uint32_t i, count = len(texts)
        cdef uint64_t n
        self._require_idle("write notes into")
        if which.shape[0] != c.n:
            raise ValueError(f"{which.shape[0]} texts for {c.n} rows")
        for i in range(c.n):
            if which[i] >= count:
                raise IndexError(f"text {which[i]} of {count}")
        places = []
        for text in texts:
            raw = text.encode()[:NOTE_MAX]
            n = len(raw)
            option = b"\1\0" + int(n).to_bytes(2, "little") + raw + bytes(-n & 3) if n else b""
            self.reserve_arena(c.arena_len + len(option))
            memcpy(c.arena + c.arena_len, <const char *>option, len(option))
            places.append((c.arena_len, len(option)))
            c.arena_len += len(option)
        for i in range(c.n):
            c.note_off[i], c.note_len[i] = places[which[i]]
        c.noted = True

    def counts(self):
        """Rows by verdict: ``{Verdict: rows}`` of those that occur."""
        from vxlanfast._ext.verdict import Verdict
        cdef uint64_t[256] counter
        cdef uint32_t i
        memset(counter, 0, sizeof(counter))
        for i in range(self.c.n):
            counter[self.c.verdict[i]] += 1
        return {Verdict(i): counter[i] for i in range(256) if counter[i]}

    @property
    def verdict(self):
        """u8, writable: PASS (0) or a reason (see Verdict)."""
        return column(self, self.c.verdict, b"B", 1, True)

    @property
    def vni(self):
        """u32, writable: VXLAN network identifier; after decap the one taken off last."""
        return column(self, self.c.vni, b"I", 4, True)

    @property
    def ts_ns(self):
        """i64, writable: time in nanoseconds since 1970-01-01 UTC."""
        self.c.ts_touched = True
        return column(self, self.c.ts_ns, b"q", 8, True)

    @property
    def flow(self):
        """u32, writable: flow hash of the frame."""
        return column(self, self.c.flow, b"I", 4, True)

    @property
    def port_out(self):
        """u16, writable: the port a row leaves by."""
        return column(self, self.c.port_out, b"H", 2, True)

    @property
    def rule(self):
        """u8: why a row that left the plane goes where it goes (see Rule)."""
        return column(self, self.c.rule, b"B", 1, False)

    @property
    def origin(self):
        """u32: in the plane, the number of the destination a row came from."""
        return column(self, self.c.origin, b"I", 4, False)

    @property
    def dest(self):
        """u32: in the plane, the number of the destination a row goes to."""
        return column(self, self.c.dest, b"I", 4, False)

    @property
    def conn(self):
        """u32: in the plane, the connection that a row was rewritten for: its number twice, and one more for a server's packet."""
        return column(self, self.c.conn, b"I", 4, False)

    @property
    def port_in(self):
        """u16: the port a row came by; from a capture, the interface's number in its section."""
        return column(self, self.c.port_in, b"H", 2, False)

    @property
    def offsets(self):
        """u32: where each body starts in ``arena``."""
        return column(self, self.c.off, b"I", 4, False)

    @property
    def lengths(self):
        """u32: bytes of body."""
        return column(self, self.c.len, b"I", 4, False)

    @property
    def wire_lengths(self):
        """u32: bytes the packet had on the wire, headers in front included, where a snaplen cut it."""
        return column(self, self.c.wire_len, b"I", 4, False)

    @property
    def head_lengths(self):
        """u8: bytes of header put in front of the body."""
        return column(self, self.c.head_len, b"B", 1, False)

    @property
    def link(self):
        """u16: LINKTYPE_ number of the frame as it is now."""
        return column(self, self.c.link, b"H", 2, False)

    @property
    def l3(self):
        """u16: offset of the network header in the body, 65535 where none was looked for or found."""
        return column(self, self.c.l3, b"H", 2, False)

    @property
    def l4(self):
        """u16: offset of the transport header in the body, 65535 where none was looked for or found."""
        return column(self, self.c.l4, b"H", 2, False)

    @property
    def cut(self):
        """u16: IP length of the largest fragment a packet came in, 0 where it came whole or was not put together inside."""
        return column(self, self.c.cut, b"H", 2, False)

    @property
    def gso(self):
        """u16, writable: bytes of payload in each segment of a super-frame (TSO, USO), 0 of a frame as it is on a wire."""
        return column(self, self.c.gso, b"H", 2, True)

    @property
    def arena(self):
        """u8: the memory the bodies lie in."""
        return view_of(self, self.c.arena, self.c.arena_len, b"B", 1, False)
