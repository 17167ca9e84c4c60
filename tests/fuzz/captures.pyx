"""What fuzz_pcap and fuzz_pcapng have in common: a file through the decoder, the nodes and the encoder, and back.

Input: 8 bytes of settings, then the file:

    how it is read 1 | rows of a batch 1 | what is done 1 | options 2 | output format (low 2 bits), repaired (0x80) 1 | unused 2

"Repaired" makes lengths agree first that random bytes never would: the two of a pcapng block, records and what is left.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy

from vxlanfast._ext.batch cimport Columns, PacketBatch, row_at, row_body, row_count, row_head
from vxlanfast._ext.io.format cimport BLOCK_EPB, BLOCK_IDB, BLOCK_PB, BLOCK_SHB, BLOCK_SPB, FORMAT_PCAPNG, pad4
from vxlanfast._ext.io.reader cimport CaptureDecoder
from vxlanfast._ext.io.writer cimport CaptureEncoder
from vxlanfast._ext.verdict cimport PASS
from vxlanfast._ext.wire.endian cimport load_32, load_be32, store_32

import gc
import io
from functools import partial

import vxlanfast as vf
import vxlanfast.files
import vxlanfast.survey
from vxlanfast._ext.io.notes import Annotate
from vxlanfast._ext.node.decap import Decap
from vxlanfast._ext.node.reassemble import Reassemble
from vxlanfast.codec import MAGICS
from vxlanfast.files import mask
from vxlanfast.spec import compile_tunnel
from vxlanfast.stats import OTHER

cdef enum:
    CHUNK_LEN = 131072       # what the decoder asks for at once
    RUN_ROWS = 96
    RUN_BUFFER_LEN = 40000
    SETTINGS_LEN = 8
    ROW_LEN = 24             # of a row on a tape, before its bytes
    ANY_TIME = 1
    NOTE_BYTES_MAX = 65512   # front and back that fit one option

# Less to clear for each input, and files of several batches and pieces.
vxlanfast.files.PacketBatch = vxlanfast.survey.PacketBatch = partial(PacketBatch, RUN_ROWS, 0)
vxlanfast.files.CaptureEncoder = partial(CaptureEncoder, buffer_len=RUN_BUFFER_LEN)
POOL = {}  # batches to read into, by their rows: new memory costs more than all else here
FORMATS = (None, "pcap", "nsecpcap", "pcapng")
PORTS = [(4789, 8472, 53, 6081, 20000, 60000, 2152, 1, 65535, 0x3434), (4789, 8472)]
LAST_NS = 4294967295_999_999_999  # the last a pcap file can say


cdef fail(str what):
    raise AssertionError(what)


cdef class Tape:
    """Packets in a row: time, wire length, length, link type, whether the time may be any, bytes."""
    cdef uint8_t *p
    cdef uint64_t n
    cdef uint64_t cap
    cdef uint32_t rows

    def __dealloc__(self):
        free(self.p)

    cdef uint8_t *room(self, uint64_t size) except NULL:
        cdef void *fresh
        if self.n + size > self.cap:
            self.cap = 2 * (self.n + size) + 4096
            fresh = realloc(self.p, self.cap)
            if fresh == NULL:
                raise MemoryError
            self.p = <uint8_t *>fresh
        self.n += size
        return self.p + self.n - size

    cdef int put(self, int64_t ts_ns, uint32_t wire_len, uint16_t link, bint any_time, const uint8_t *front, uint32_t front_len,
                 const uint8_t *body, uint32_t body_len) except -1:
        cdef uint32_t length = front_len + body_len, rest = link | (<uint32_t>any_time << 16)
        cdef uint8_t *p = self.room(ROW_LEN + length)
        memcpy(p, &ts_ns, 8)
        memcpy(p + 8, &wire_len, 4)
        memcpy(p + 12, &length, 4)
        memcpy(p + 16, &rest, 4)
        memcpy(p + 20, &self.rows, 4)
        if front_len:
            memcpy(p + ROW_LEN, front, front_len)
        if body_len:
            memcpy(p + ROW_LEN + front_len, body, body_len)
        self.rows += 1
        return 0

    cdef str shown(self, const uint8_t *p):
        cdef int64_t ts_ns
        cdef uint32_t[4] v
        memcpy(&ts_ns, p, 8)
        memcpy(v, p + 8, 16)
        return f"time {ts_ns}, {v[1]} of {v[0]} bytes, link {v[2] & 0xFFFF}, {bytes(p[ROW_LEN:ROW_LEN + min(v[1], 24)]).hex()}"

    cdef same_as(self, Tape other, str what):
        """Fails unless ``other`` holds the packets this one says."""
        cdef uint64_t a = 0, b = 0
        cdef uint32_t length, i
        cdef uint32_t[4] mine
        cdef uint32_t[4] its
        for i in range(min(self.rows, other.rows)):
            memcpy(mine, self.p + a + 8, 16)
            memcpy(its, other.p + b + 8, 16)
            length = mine[1]
            if (mine[0] != its[0] or mine[1] != its[1] or mine[2] & 0xFFFF != its[2] & 0xFFFF
                    or (memcmp(self.p + a, other.p + b, 8) != 0 and not mine[2] >> 16)
                    or memcmp(self.p + a + ROW_LEN, other.p + b + ROW_LEN, length) != 0):
                fail(f"{what}: packet {i}: {self.shown(self.p + a)}; and then {other.shown(other.p + b)}")
            a += ROW_LEN + length
            b += ROW_LEN + its[1]
        if self.rows != other.rows:
            fail(f"{what}: {self.rows} packets, and then {other.rows}")


cdef class Feeder:
    """``readinto`` over bytes, in pieces. ``how`` 0: whole; else pieces of sizes that look random and repeat."""
    cdef const uint8_t[::1] data
    cdef uint64_t at
    cdef uint64_t state
    cdef uint32_t least
    cdef uint32_t most

    def __init__(self, const uint8_t[::1] data, uint8_t how=0):
        self.data = data
        self.state = 0x9E3779B97F4A7C15ULL * how + 1
        # Many small pieces take time: at most some 300 of them.
        self.least = 1 + <uint32_t>(data.shape[0] // 300)
        self.most = self.least + (1 << (how & 15)) if how else 0

    def __call__(self, uint8_t[::1] view not None):
        cdef uint64_t n = self.data.shape[0] - self.at
        if n > <uint64_t>view.shape[0]:
            n = view.shape[0]
        if self.most:
            self.state ^= self.state << 13
            self.state ^= self.state >> 7
            self.state ^= self.state << 17
            n = min(n, self.least + self.state % (self.most - self.least))
        if n:
            memcpy(&view[0], &self.data[self.at], n)
        self.at += n
        return n


cdef class Reading:
    """One pass over a file: its packets, its other blocks, how it ended; ``leave``: verdicts of the rows to note."""
    cdef readonly object fault
    cdef readonly str format
    cdef readonly object interfaces
    cdef readonly object first_interfaces
    cdef readonly uint64_t read
    cdef bint big
    cdef Tape rows
    cdef Tape blocks
    cdef uint64_t leave
    cdef object links        # that can be written, None for any
    cdef int64_t tick_ns     # of the times they are written with; 0: as they are
    cdef bint restorable     # note the frames as restoring gives them back

    def __init__(self, const uint8_t[::1] data, *, uint8_t how=0, uint32_t rows=RUN_ROWS, steps=(), uint64_t leave=0xFFFFFFFFFFFFFFFF,
                 links=None, int64_t tick_ns=0, bint restorable=False, limit=None, remember=None):
        cdef CaptureDecoder decoder = CaptureDecoder(limit)
        cdef PacketBatch batch = POOL.pop(rows, None) or PacketBatch(rows, 0)
        cdef Feeder feeder = Feeder(data, how)
        cdef uint64_t most = max(2 * CHUNK_LEN, 2 * data.shape[0] + CHUNK_LEN)
        self.rows = Tape()
        self.blocks = Tape()
        self.leave = leave
        self.links = links
        self.tick_ns = tick_ns
        self.restorable = restorable
        while decoder.fill(batch, feeder):
            if batch.c.cap < rows or batch.c.n > batch.c.cap or batch.c.arena_cap > most or batch.c.cap_blocks > most // 6 + 64:
                fail(f"{data.shape[0]} bytes of file took {batch.c.arena_cap} of memory and {batch.c.cap_blocks} blocks")
            if decoder.s.cap_interfaces > 2 * data.shape[0] // 20 + 8 or decoder.carry_cap > most:
                fail(f"{data.shape[0]} bytes of file took {decoder.s.cap_interfaces} interfaces, {decoder.carry_cap} carried")
            if self.first_interfaces is None:
                self.first_interfaces = decoder.interfaces()
                self.big = decoder.big_endian
            self.note_blocks(batch)
            for step in steps:
                step(batch, self.read)
            self.note_rows(batch, remember)
            self.read += len(batch) if not batch.c.ordered else decoder.rows - self.read
        self.format = decoder.format
        self.fault = decoder.fault
        self.interfaces = decoder.interfaces()
        if decoder.rows != self.read:
            fail(f"{decoder.rows} rows counted, {self.read} given")
        if decoder.offset > <uint64_t>data.shape[0]:
            fail(f"offset {decoder.offset} in a file of {data.shape[0]} bytes")
        if decoder.fill(batch, feeder) or len(batch):
            fail("rows behind the end")
        if batch.c.arena_cap <= 2 * CHUNK_LEN and batch.c.cap < 4096:
            POOL[rows] = batch

    cdef note_blocks(self, PacketBatch batch):
        cdef Columns *c = &batch.c
        cdef uint32_t i, before = 0
        for i in range(c.n_blocks):
            if c.block_row[i] < before or c.block_row[i] > c.n or <uint64_t>c.block_off[i] + c.block_len[i] > c.arena_len:
                fail(f"block {i} before row {c.block_row[i]} of {c.n}, {c.block_len[i]} bytes at {c.block_off[i]}")
            before = c.block_row[i]
            # Where it stands, in place of a time.
            self.blocks.put(self.read + before, c.rec_big, 0, False, NULL, 0, c.arena + c.block_off[i], c.block_len[i])

    cdef note_rows(self, PacketBatch batch, remember):
        cdef Columns *c = &batch.c
        cdef uint32_t i, k, n, kind
        cdef int64_t ts_ns
        cdef bint any_time
        cdef Was was = remember
        for k in range(row_count(c)):
            i = row_at(c, k)
            if <uint64_t>c.off[i] + c.len[i] > c.arena_len:
                fail(f"row {i}: {c.len[i]} bytes at {c.off[i]} of {c.arena_len}")
            if not (self.leave >> c.verdict[i]) & 1 or (self.links is not None and c.link[i] not in self.links):
                continue
            kind = 0
            if c.rec_format == FORMAT_PCAPNG:
                if <uint64_t>c.rec[i] + 12 > c.arena_len:
                    fail(f"row {i}: its record at {c.rec[i]} of {c.arena_len}")
                kind = load_32(c.arena + c.rec[i], c.rec_big)
            any_time = kind == BLOCK_SPB  # it has none: what it becomes depends on the interface
            ts_ns = c.ts_ns[i]
            if self.tick_ns:
                ts_ns = min(max(ts_ns, 0), LAST_NS) // self.tick_ns * self.tick_ns
            if self.restorable and was is not None and c.verdict[i] == PASS:
                was.put(self.rows, c, i, ts_ns, any_time)
                continue
            self.rows.put(ts_ns, c.wire_len[i], c.link[i], any_time, row_head(c, i), c.head_len[i], row_body(c, i), c.len[i])

    cdef same_as(self, Reading other, str what):
        self.rows.same_as(other.rows, what)
        self.blocks.same_as(other.blocks, f"{what}: blocks")
        for name in ("fault", "format", "interfaces"):
            if getattr(self, name) != getattr(other, name):
                fail(f"{what}: {name} {getattr(self, name)}, and then {getattr(other, name)}")


cdef class Was:
    """The frames of a batch before decapsulation."""
    cdef uint32_t[4096] off
    cdef uint32_t[4096] len
    cdef uint32_t[4096] wire_len
    cdef uint16_t[4096] link

    def remember(self, PacketBatch batch, ordinal):
        cdef Columns *c = &batch.c
        cdef uint32_t i
        for i in range(c.n):
            self.off[i] = c.off[i]
            self.len[i] = c.len[i]
            self.wire_len[i] = c.wire_len[i]
            self.link[i] = c.link[i]

    cdef put(self, Tape tape, Columns *c, uint32_t i, int64_t ts_ns, bint any_time):
        """Row ``i`` as its note gives it back: whole, less what of its end one option does not hold."""
        cdef uint32_t front = c.off[i] - self.off[i], back = self.len[i] - front - c.len[i]
        if front > NOTE_BYTES_MAX:
            # Too much for a note: it stays as it is.
            tape.put(ts_ns, c.wire_len[i], c.link[i], any_time, NULL, 0, row_body(c, i), c.len[i])
            return
        if front + back > NOTE_BYTES_MAX:
            back = NOTE_BYTES_MAX - front
        tape.put(ts_ns, self.wire_len[i], self.link[i], any_time, c.arena + self.off[i], front, c.arena + c.off[i], c.len[i] + back)


cdef repair(uint8_t[::1] data):
    """Makes lengths hold together, in place."""
    cdef uint64_t at = 0, size = data.shape[0]
    cdef uint32_t length
    cdef bint big = False
    cdef uint8_t *p
    if size < 28:
        return
    p = &data[0]
    if load_be32(p) == BLOCK_SHB:
        while at + 12 <= size:
            if load_be32(p + at) == BLOCK_SHB:
                big = load_be32(p + at + 8) == 0x1A2B3C4D
                store_32(p + at + 8, 0x1A2B3C4D, big)
            length = pad4(load_32(p + at + 4, big) & 0xFFFF)
            if length < 12:
                length = 32
            if length > size - at:
                length = <uint32_t>(size - at) & ~3
            store_32(p + at + 4, length, big)
            store_32(p + at + length - 4, length, big)
            if load_32(p + at, big) == BLOCK_EPB and length >= 32 and load_32(p + at + 20, big) > length - 32:
                store_32(p + at + 20, length - 32, big)
            at += length
        return
    big = p[0] == 0xA1
    at = 24
    while at + 16 <= size:
        length = load_32(p + at + 8, big)
        if length > size - at - 16:
            length = <uint32_t>(size - at - 16) % 2048
            store_32(p + at + 8, length, big)
        at += 16 + length


cdef bytes copied(const uint8_t[::1] data, str format, uint8_t how, uint32_t rows, uint64_t buffer_len, uint8_t options):
    """The file, copied packet by packet."""
    cdef CaptureDecoder decoder = CaptureDecoder()
    cdef PacketBatch batch = PacketBatch(rows, 0)
    cdef CaptureEncoder encoder
    feeder = Feeder(data, how)
    filled = decoder.fill(batch, feeder)
    carry = format == decoder.format == "pcapng"
    encoder = CaptureEncoder(format, big=decoder.big_endian and format == decoder.format, carry=carry, to_ethernet=False,
                             keep_link=True, buffer_len=buffer_len, snaplen_min=1500 if options & 1 else 0)
    if not carry:
        link, snaplen, tsresol, _ = (decoder.interfaces() or [(1, 0, 6, 0)])[0]
        encoder.begin((link,), snaplen=snaplen, tsresol=6 if tsresol == 6 else 9)
    out = []
    while filled:
        start = 0
        while start is not None:
            start = encoder.encode(batch, start)
            if start is not None or options & 2:
                out.append(bytes(encoder.pending()))
                encoder.clear()
        filled = decoder.fill(batch, feeder)
    out.append(bytes(encoder.pending()))
    if encoder.rows + encoder.refused != decoder.rows:
        fail(f"{decoder.rows} rows read, {encoder.rows} written and {encoder.refused} refused")
    return b"".join(out)


cdef links_of(Reading whole, str format, first, rest):
    """The link types that can be written: ``first`` of the interface's own or Ethernet, and ``rest`` too in pcapng."""
    own = (whole.first_interfaces or [(1, 0, 6, 0)])[0][0]
    if format != "pcapng":
        return (own,) if first == "own" else (1,)
    if whole.format == "pcapng":
        return None
    return {"own": (own,), "ethernet": (1,), "both": (1, own)}[rest]


cdef int64_t tick_of(Reading whole, str format):
    if format == "pcapng" or format == whole.format:
        return 0
    return 1000 if format == "pcap" else 1


cdef Reading read_back(bytes data, Reading whole):
    """What was written, which must be whole; a carried file that lost its first section to a fault is empty."""
    cdef Reading back = Reading(data)
    if back.fault is not None and (data or whole.rows.rows or whole.format != "pcapng"):
        fail(f"what was written cannot be read: {back.fault}")
    return back


def check_copy(const uint8_t[::1] data, Reading whole, str format, uint8_t how, uint32_t rows, uint8_t options):
    written = copied(data, format, 0, 256, 524288, options)
    again = copied(data, format, how, rows, 64 << (options >> 4), options)
    if written != again:
        at = next((i for i in range(min(len(written), len(again))) if written[i] != again[i]), min(len(written), len(again)))
        fail(f"written in other pieces, other bytes: {len(written)} and {len(again)}, from byte {at} on")
    expected = Reading(data, links=links_of(whole, format, "own", "own"), tick_ns=tick_of(whole, format))
    expected.rows.same_as(read_back(written, whole).rows, f"copied as {format}")


def public_run(act, data, kwargs, Reading whole):
    """An act on a file through the library: its output and its account, which adds up."""
    out = io.BytesIO()
    try:
        stats = act(io.BytesIO(data), out, **kwargs)
    except vf.CaptureError as error:
        stats = error.stats
        if whole.fault is None or stats is None:
            raise
    else:
        if whole.fault is not None:
            fail(f"nothing was said of {whole.fault}")
    if stats.packets != whole.read or stats.packets != stats.passed + stats.kept + stats.dropped:
        fail(f"{whole.read} packets, and then {stats}")
    return out.getvalue(), stats


def decap_options(uint8_t a, uint8_t b):
    return {"levels": (1, 2, None, 255)[a & 3], "strict": bool(a & 4), "reassemble": bool(a & 8),
            "other": ("drop", "keep", "keep", "fail")[a >> 4 & 3],
            "ports": PORTS[a >> 6 & 1],
            "vni": [(0, 0xFFFF), 0xABCDEF] if a & 128 else None}


def decap_steps(options):
    steps = []
    if options["reassemble"]:
        joiner = Reassemble()
        steps.append(lambda batch, ordinal: joiner.process(batch))
    decap = Decap(options["ports"], levels=options["levels"] or 0, strict=options["strict"],
                  vnis=[(0, 0xFFFF), (0xABCDEF, 0xABCDEF)] if options["vni"] else None)
    return steps, lambda batch, ordinal: decap.process(batch)


def check_decap(const uint8_t[::1] data, Reading whole, str format, uint8_t a, uint8_t b):
    options = decap_options(a, b)
    keep = options["other"] == "keep"
    written, stats = public_run(vf.decap_file, data, {**options, "format": format}, whole)
    steps, decap = decap_steps(options)
    expected = Reading(data, steps=[*steps, decap], leave=1 | (mask(OTHER) if keep else 0),
                       links=links_of(whole, format, "ethernet", "both" if keep else "ethernet"), tick_ns=tick_of(whole, format))
    if stats.written != expected.rows.rows:
        fail(f"{expected.rows.rows} packets leave, and {stats.written} were written")
    expected.rows.same_as(read_back(written, whole).rows, f"decapsulated as {format}")


def check_meta(const uint8_t[::1] data, Reading whole, uint8_t a, uint8_t b):
    cdef Was was = Was()
    options = decap_options(a, b)
    keep = options["other"] == "keep"
    leave = 1 | (mask(OTHER) if keep else 0)
    written, _ = public_run(vf.decap_file, data, {**options, "meta": "comment" if b & 1 else "interface"}, whole)
    steps, decap = decap_steps(options)
    expected = Reading(data, steps=[*steps, decap], leave=leave, links=links_of(whole, "pcapng", "ethernet", "both"))
    back = read_back(written, whole)
    expected.rows.same_as(back.rows, "decapsulated, with notes")
    if back.format is None:
        return
    restored, stats = public_run(vf.restore_file, written, {"other": "drop" if b & 2 else "keep"}, back)
    if b"VXF1" in bytes(data):
        return  # it came with notes, and what it says in them is its own affair
    steps, decap = decap_steps(options)
    expected = Reading(data, steps=[*steps, was.remember, decap], leave=leave if not b & 2 else 1, restorable=True, remember=was)
    if not b & 2:
        expected.rows.same_as(read_back(restored, back).rows, "restored")


def check_encap(const uint8_t[::1] data, Reading whole, str format, uint8_t a, uint8_t b):
    is_v6 = bool(a & 1)
    policy = ("warn", "drop", "fragment", "fragment")[a >> 4 & 3]
    tunnel = vf.TunnelSpec(
        vni=0x123456, src="2001:db8::1" if is_v6 else "192.0.2.1", dst="2001:db8::2" if is_v6 else "192.0.2.2",
        udp_csum="on" if a & 2 else "auto", df=bool(a & 4) and policy != "fragment", dscp="inherit" if a & 8 else 10,
        mtu=(1280 if is_v6 else 576) + b * 5 if a & 64 else None, mtu_policy=policy, sport=4789 if a & 128 else None)
    written, stats = public_run(lambda *args, **kwargs: vf.encap_file(*args, tunnel, **kwargs), data, {"format": format}, whole)
    node = compile_tunnel(tunnel)
    expected = Reading(data, rows=16 + b, steps=[node.process], leave=1, links=links_of(whole, format, "ethernet", "ethernet"),
                       tick_ns=tick_of(whole, format))
    if stats.written != expected.rows.rows:
        fail(f"{expected.rows.rows} packets leave, and {stats.written} were written")
    expected.rows.same_as(read_back(written, whole).rows, f"encapsulated as {format}")


def check_survey(const uint8_t[::1] data, Reading whole, uint8_t a, uint8_t b):
    options = decap_options(a, b)
    survey = vf.survey_file(io.BytesIO(data), ports=options["ports"], vni=options["vni"], reassemble=options["reassemble"])
    steps, decap = decap_steps({**options, "levels": 1, "strict": False})
    expected = Reading(data, steps=[*steps, decap], leave=1)
    counted = sum([network.packets for network in survey.networks])
    if counted != expected.rows.rows or survey.stats.packets != whole.read:
        fail(f"{expected.rows.rows} of {whole.read} packets are VXLAN, and {counted} of {survey.stats.packets} were surveyed")
    for network in survey.networks:
        if network.packets != sum([tunnel.packets for tunnel in network.tunnels]) or network.vni is None:
            fail(f"a network that does not add up: {network}")


def check(const uint8_t[::1] data not None):
    """One input."""
    cdef Reading whole, pieces
    if data.shape[0] < SETTINGS_LEN:
        return
    how, rows, act, a, b, output = data[0], data[1], data[2], data[3], data[4], data[5]
    data = data[SETTINGS_LEN:]
    if output & 0x80:
        fixed = bytearray(data)
        repair(fixed)
        data = fixed
    whole = Reading(data)
    pieces = Reading(data, how=how | 1, rows=1 + (rows & 63))
    whole.same_as(pieces, "read in pieces")
    if rows & 64 and whole.read:
        limit = 1 + rows % whole.read
        pieces = Reading(data, how=how, rows=1 + (rows & 63), limit=limit)
        if pieces.read != min(limit, whole.read) or pieces.rows.n > whole.rows.n or memcmp(pieces.rows.p, whole.rows.p, pieces.rows.n):
            fail(f"{limit} packets asked for: {pieces.read}, and not the first ones")
    head = bytes(data[:4])
    if head.startswith(MAGICS):
        return  # a compressed file is none of ours
    if whole.format is None:
        try:
            vf.decap_file(io.BytesIO(data), io.BytesIO())
        except vf.CaptureError:
            return
        fail("no capture, and nothing was said")
    format = FORMATS[output & 3] or whole.format
    act = act % 5
    if act == 0:
        check_copy(data, whole, format, how, 1 + (rows & 63), a)
    elif act == 1:
        check_decap(data, whole, format, a, b)
    elif act == 2:
        check_meta(data, whole, a, b)
    elif act == 3:
        check_encap(data, whole, format, a, b)
    else:
        check_survey(data, whole, a, b)
    gc.collect(0)  # what a run made may be garbage in a circle, and of megabytes that Python does not know of
