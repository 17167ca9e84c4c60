"""Any frames, of any link type and wire length: every row passes or has a DROP_ or PUNT_ verdict, its bytes stay inside
its frame, a batch of N is N batches of one, and decapsulating an encapsulated frame gives the frame.

Input: 8 bytes of settings, then frames, each behind 5 bytes of its own:

    settings:  ports 1 | encapsulation 1 | MTU 2 | order 1 | unused 3
    frame:     length 2 | link type (low 4 bits) and wire length (high 4 bits) 1 | grown by 1 | seconds 1 | bytes …

Bytes between two frames and behind the last are poisoned while nodes look at them: a read past a frame's end is found.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from libc.string cimport memcmp, memcpy, memset

from vxlanfast._ext.batch cimport BATCH_HEAD_LEN, BATCH_SLACK_LEN, Columns, PacketBatch, row_at, row_body, row_count, row_head, rows_init
from vxlanfast._ext.io.writer cimport CaptureEncoder
from vxlanfast._ext.node.decap cimport Decap
from vxlanfast._ext.node.encap cimport Encap
from vxlanfast._ext.table.fragments cimport FRAG_BLOCKS, FRAG_NONE, FRAG_PIECES, FRAG_PIECES_MAX, FragmentTable
from vxlanfast._ext.verdict cimport *
from vxlanfast._ext.wire.endian cimport load_16, load_32
from vxlanfast._ext.wire.flow cimport flow_hash, flow_hash_any, flow_key
from vxlanfast._ext.wire.ip cimport IpPacket, ip_parse
from vxlanfast._ext.wire.link cimport LINK_ETHERNET, LINK_RAW, link_find_l3

from vxlanfast._ext.node.parse import Parse
from vxlanfast._ext.node.reassemble import Reassemble
from vxlanfast._ext.node.survey import Survey

cdef extern from "<sanitizer/asan_interface.h>" nogil:
    void poison "ASAN_POISON_MEMORY_REGION"(const void *p, size_t n)
    void unpoison "ASAN_UNPOISON_MEMORY_REGION"(const void *p, size_t n)

cdef enum:
    SETTINGS_LEN = 8
    FRAME_HEADER_LEN = 5
    FRAME_COUNT_MAX = 12
    FRAME_LEN_MAX = 262144       # the reader's limit
    ARENA_LEN_MAX = 1048576
    GAP_LEN = 64                 # poisoned, between two frames


cdef struct Frame:
    uint32_t off
    uint32_t len
    uint32_t wire_len
    uint16_t link
    int64_t ts_ns


cdef struct Row:
    uint8_t verdict
    uint32_t off
    uint32_t len
    uint32_t wire_len
    uint32_t vni
    uint32_t flow
    uint32_t outer
    uint16_t link
    uint16_t l3
    uint16_t l4
    uint16_t outer_l3
    uint16_t outer_l4


cdef uint16_t[16] LINKS = [1, 1, 1, 1, 1, 0, 101, 12, 14, 108, 113, 228, 229, 276, 147, 105]

cdef class Rules:
    """The same ports in every variant of the rules."""
    cdef Decap lax
    cdef Decap strict
    cdef Decap peek
    cdef Decap two
    cdef Decap all_levels
    cdef Decap some

    def __init__(self, ports):
        self.lax = Decap(ports)
        self.strict = Decap(ports, strict=True)
        self.peek = Decap(ports, peek=True)
        self.two = Decap(ports, levels=2)
        self.all_levels = Decap(ports, levels=0)
        self.some = Decap(ports, vnis=[(0, 0), (7, 99), (4096, 70000), (0xFFFFFF, 0xFFFFFF)])


cdef Rules USUAL = Rules((4789, 8472))
cdef Rules EVERY = Rules(range(1, 65536))
PARSE = Parse()
SURVEY = Survey(by_port=True)
JOINER = Reassemble()
cdef FragmentTable FRAGMENTS = JOINER.table
ENCAPS = {}


cdef encap_node(uint8_t kind, uint32_t mtu):
    """``kind``: bits v6, checksum, DF, inherited DSCP, two of the MTU policy (0: no MTU), fixed source port, tiny MTU."""
    is_v6 = bool(kind & 1)
    policy = (kind >> 4) & 3
    node = ENCAPS.get((kind, mtu))
    if node is None:
        if len(ENCAPS) > 512:
            ENCAPS.clear()
        node = ENCAPS[kind, mtu] = Encap(
            vni=0x123456, src=bytes(range(1, 17)) if is_v6 else b"\xc0\0\2\1", dst=bytes(range(17, 33)) if is_v6 else b"\xc0\0\2\2",
            smac=b"\2\0\0\0\0\1", dmac=b"\2\0\0\0\0\2", udp_csum=bool(kind & 2), df=bool(kind & 4) and policy != 3,
            dscp=None if kind & 8 else 10, mtu=mtu if policy else 0, mtu_policy=("warn", "warn", "drop", "fragment")[policy],
            sport=4789 if kind & 64 else 0)
    return node


cdef fail(str what, i=None):
    raise AssertionError(what if i is None else f"row {i}: {what}")


cdef uint32_t grown(uint8_t how, uint32_t n) noexcept nogil:
    """The length of a frame of ``n`` bytes grown ``how``: with zeros behind, or with tags in front of its ethertype."""
    cdef uint32_t want = n
    if how >= 252:
        want = n + ((<uint32_t>16380 + (how & 3) * 2) << 2) if n >= 14 else n   # 65,520 bytes of tags and more
    elif how >= 240:
        want = n + ((how & 15) << 2) if n >= 14 else n
    elif how >= 232:
        want = 65500 + (how & 7) * 14
    elif how >= 224:
        want = 256 << (how & 7)
    if want < n:
        want = n
    return want if want <= FRAME_LEN_MAX else FRAME_LEN_MAX


cdef uint32_t wire_length(uint8_t how, uint32_t n) noexcept nogil:
    if how == 8:
        return n + 1000
    if how == 9:
        return n - 1 if n else 0
    if how == 10:
        return 0
    if how == 11:
        return 0xFFFFFFFFU
    if how == 12:
        return 0xFFFFFFF0U
    if how == 13:
        return 65535
    if how == 14:
        return n // 2
    if how == 15:
        return n + 70000
    return n


cdef class Case:
    """One input's frames in a batch of exactly their size."""
    cdef PacketBatch batch
    cdef Frame[FRAME_COUNT_MAX] frames
    cdef uint32_t count
    cdef uint64_t end          # one past the last frame

    def __init__(self, const uint8_t[::1] data):
        cdef uint64_t at = SETTINGS_LEN, size = data.shape[0], off = 0
        cdef uint32_t n, want
        cdef uint8_t how
        cdef uint8_t *p
        cdef Frame *f
        cdef uint32_t[FRAME_COUNT_MAX] source
        cdef uint32_t[FRAME_COUNT_MAX] length
        cdef uint8_t[FRAME_COUNT_MAX] growth
        cdef uint32_t i
        while at + FRAME_HEADER_LEN <= size and self.count < FRAME_COUNT_MAX:
            f = &self.frames[self.count]
            n = load_16(&data[at], False)
            if n > size - at - FRAME_HEADER_LEN:
                n = <uint32_t>(size - at - FRAME_HEADER_LEN)
            how = data[at + 3]
            want = grown(how, n)
            if off + want + GAP_LEN > ARENA_LEN_MAX:
                break
            f.off = <uint32_t>off
            f.len = want
            f.link = LINKS[data[at + 2] & 15]
            f.wire_len = wire_length(data[at + 2] >> 4, want)
            f.ts_ns = <int64_t>data[at + 4] * 1000000000
            source[self.count] = <uint32_t>at + FRAME_HEADER_LEN
            length[self.count] = n
            growth[self.count] = how
            off = (off + want + GAP_LEN + 7) & ~<uint64_t>7
            at += FRAME_HEADER_LEN + n
            self.count += 1
        self.end = off
        # Room for what reassembly joins: the frames' bytes again, and the headers in front of them.
        self.batch = PacketBatch(max(1, self.count), 2 * off + 1024 * self.count)
        p = self.batch.c.arena
        for i in range(self.count):
            f = &self.frames[i]
            n = length[i]
            if n == 0:
                continue
            if growth[i] >= 240 and f.len > n:
                memcpy(p + f.off, &data[source[i]], 12)
                for at in range(12, 12 + f.len - n, 4):
                    memcpy(p + f.off + at, <const char *>b"\x81\0\0\1", 4)
                memcpy(p + f.off + 12 + f.len - n, &data[source[i]] + 12, n - 12)
            else:
                memcpy(p + f.off, &data[source[i]], n)

    cdef void load(self) noexcept nogil:
        """The frames as they came, in the batch's rows."""
        cdef Columns *c = &self.batch.c
        cdef uint32_t i
        self.batch.reset()
        rows_init(c, 0, self.count)
        for i in range(self.count):
            self.put(i, i)
        c.n = self.count
        c.arena_len = self.end

    cdef void put(self, uint32_t row, uint32_t i) noexcept nogil:
        cdef Columns *c = &self.batch.c
        c.off[row] = self.frames[i].off
        c.len[row] = self.frames[i].len
        c.wire_len[row] = self.frames[i].wire_len
        c.link[row] = self.frames[i].link
        c.ts_ns[row] = self.frames[i].ts_ns
        c.rec[row] = 0xFFFFFFFFU
        c.port_in[row] = 0

    cdef void alone(self, uint32_t i) noexcept nogil:
        """Frame ``i`` in a batch of one."""
        self.batch.reset()
        rows_init(&self.batch.c, 0, 1)
        self.put(0, i)
        self.batch.c.n = 1
        self.batch.c.arena_len = self.end

    cdef void guard(self, bint on) noexcept nogil:
        """Poison every byte that is no frame's, or let them be."""
        cdef Columns *c = &self.batch.c
        cdef uint64_t size = c.arena_cap + BATCH_SLACK_LEN
        cdef uint32_t i
        if on:
            poison(c.arena, size)
            for i in range(self.count):
                unpoison(c.arena + self.frames[i].off, self.frames[i].len)
        else:
            unpoison(c.arena, size)

    cdef rows(self, Row *out):
        cdef Columns *c = &self.batch.c
        cdef uint32_t i
        for i in range(c.n):
            memset(&out[i], 0, sizeof(Row))
            out[i].verdict = c.verdict[i]
            out[i].off = c.off[i]
            out[i].len = c.len[i]
            out[i].wire_len = c.wire_len[i]
            out[i].vni = c.vni[i]
            out[i].flow = c.flow[i]
            out[i].outer = c.outer[i]
            out[i].link = c.link[i]
            out[i].l3 = c.l3[i]
            out[i].l4 = c.l4[i]
            if c.outer[i] != 0xFFFFFFFFU:
                out[i].outer_l3 = c.outer_l3[i]
                out[i].outer_l4 = c.outer_l4[i]

    cdef run(self, node, Row *out, bint peek=False):
        """All frames through ``node``: rows that hold together, and the same from batches of one."""
        cdef Columns *c = &self.batch.c
        cdef uint32_t i
        cdef Row one
        cdef Frame *f
        cdef uint64_t before = counted(node)
        self.load()
        node.process(self.batch)
        if counted(node) - before != self.count:
            fail("rows in are not rows out and dropped")
        if c.n != self.count:
            fail("rows appeared or went")
        self.rows(out)
        for i in range(self.count):
            f = &self.frames[i]
            if not is_verdict(out[i].verdict):
                fail(f"verdict {out[i].verdict} is none", i)
            if out[i].off < f.off or <uint64_t>out[i].off + out[i].len > <uint64_t>f.off + f.len:
                fail(f"bytes outside its frame: {out[i]} of {f[0]}", i)
            if out[i].verdict != PASS or peek:
                if out[i].off != f.off or out[i].len != f.len or out[i].wire_len != f.wire_len or out[i].link != f.link:
                    fail(f"changed: {out[i]} of {f[0]}", i)
            elif out[i].outer != 0xFFFFFFFFU:
                if out[i].wire_len < out[i].len or out[i].wire_len > max(f.len, f.wire_len):
                    fail(f"wire length {out[i].wire_len} of {out[i].len} bytes of {f[0]}", i)
                if out[i].link != LINK_ETHERNET or out[i].vni > 0xFFFFFF:
                    fail(f"no frame of a VNI: {out[i]}", i)
            if out[i].verdict == PASS and out[i].outer != 0xFFFFFFFFU:
                if not (f.off <= out[i].outer <= out[i].off):
                    fail(f"outer frame outside the frame: {out[i]} of {f[0]}", i)
                if out[i].outer_l3 >= out[i].outer_l4 or out[i].outer + out[i].outer_l4 + 16 > f.off + f.len:
                    fail(f"outer headers nowhere: {out[i]}", i)
        for i in range(self.count):
            self.alone(i)
            node.process(self.batch)
            self.rows(&one)
            if memcmp(&one, &out[i], sizeof(Row)) != 0:
                fail(f"{out[i]} in company and {one} alone", i)


cdef uint64_t counted(node):
    """Rows it has counted so far."""
    cdef uint64_t total = 0
    cdef uint32_t v
    if not isinstance(node, Decap):
        return sum(node.counters().values())
    for v in range(VERDICT_COUNT):
        total += (<Decap>node).counts[v]
    return total


cdef bint is_verdict(uint8_t v) noexcept nogil:
    return v == PASS or PUNT_NOT_IP <= v <= PUNT_LINK_TYPE or (
        DROP_TRUNCATED <= v <= DROP_L4_HEADER or DROP_RESERVED <= v <= DROP_UDP_NO_CSUM or v == DROP_FILTER_VNI)


cdef check_rules(Case case, Rules rules):
    """The variants of the rules agree where they should."""
    cdef Columns *c = &case.batch.c
    cdef Row[FRAME_COUNT_MAX] lax
    cdef Row[FRAME_COUNT_MAX] other
    cdef uint32_t i, tunnels = 0
    cdef bint more = True
    case.run(rules.lax, lax)
    case.run(rules.strict, other)
    for i in range(case.count):
        if other[i].verdict != lax[i].verdict and not DROP_RESERVED <= other[i].verdict <= DROP_UDP_NO_CSUM:
            fail(f"strict says {other[i].verdict}, lax {lax[i].verdict}", i)
        if other[i].verdict == PASS and memcmp(&other[i], &lax[i], sizeof(Row)) != 0:
            fail(f"strict found {other[i]}, lax {lax[i]}", i)
    case.run(rules.peek, other, peek=True)
    for i in range(case.count):
        if other[i].verdict != lax[i].verdict or other[i].vni != lax[i].vni or other[i].outer_l4 != lax[i].outer_l4:
            fail(f"peek found {other[i]}, decapsulation {lax[i]}", i)
    case.run(rules.some, other)
    for i in range(case.count):
        if other[i].verdict != lax[i].verdict and (other[i].verdict != DROP_FILTER_VNI or lax[i].verdict != PASS):
            fail(f"with a VNI filter {other[i].verdict}, without {lax[i].verdict}", i)
        if lax[i].verdict == PASS and (other[i].verdict == PASS) != (
                lax[i].vni == 0 or 7 <= lax[i].vni <= 99 or 4096 <= lax[i].vni <= 70000 or lax[i].vni == 0xFFFFFF):
            fail(f"VNI {lax[i].vni} and the filter says {other[i].verdict}", i)
    # The same without Ethernet in front.
    case.load()
    for i in range(case.count):
        c.verdict[i] = DROP_NO_META
        if (case.frames[i].link == LINK_ETHERNET and case.frames[i].len >= 16 and case.frames[i].wire_len >= case.frames[i].len
                and (load_32(c.arena + c.off[i] + 12, True) >> 12 == 0x08004
                     or load_32(c.arena + c.off[i] + 12, True) >> 12 == 0x86DD6)):
            c.verdict[i] = PASS
            c.link[i] = LINK_RAW
            c.off[i] += 14
            c.len[i] -= 14
            c.wire_len[i] -= 14
    rules.lax.process(case.batch)
    case.rows(other)
    for i in range(case.count):
        if other[i].verdict != DROP_NO_META and (other[i].verdict != lax[i].verdict or other[i].vni != lax[i].vni or
                (lax[i].verdict == PASS and (other[i].off != lax[i].off or other[i].len != lax[i].len))):
            fail(f"with Ethernet {lax[i]}, without {other[i]}", i)
    # What was found is counted once each.
    case.load()
    rules.lax.process(case.batch)
    SURVEY.table.clear()
    SURVEY.process(case.batch, number=True)
    for row in SURVEY.table.rows():
        tunnels += row["packets"]
        if row["src"] is None:
            fail(f"a tunnel without addresses: {row}")
    if tunnels != sum([lax[i].verdict == PASS for i in range(case.count)]):
        fail("not every row was counted as of a tunnel")
    # One level, again and again, is all levels; twice is two.
    case.load()
    rules.lax.process(case.batch)
    case.rows(lax)
    for i in range(case.count):
        if c.verdict[i] == PASS:
            rules.lax.process(case.batch)
            break
    case.rows(other)
    for i in range(case.count):
        other[i].verdict = lax[i].verdict
    case.run(rules.two, lax)
    if memcmp(lax, other, case.count * sizeof(Row)) != 0:
        fail("one level twice is not two levels")
    case.load()
    for i in range(case.count):
        c.verdict[i] = other[i].verdict
    rules.lax.process(case.batch)
    while more:
        more = False
        for i in range(case.count):
            more = more or c.verdict[i] == PASS
        if more:
            rules.lax.process(case.batch)
    case.rows(lax)
    for i in range(case.count):
        lax[i].verdict = other[i].verdict
    case.run(rules.all_levels, other)
    if memcmp(lax, other, case.count * sizeof(Row)) != 0:
        fail("one level, repeated, is not all levels")


cdef check_flows(Case case):
    cdef Columns *c = &case.batch.c
    cdef uint32_t i
    case.load()
    for i in range(case.count):
        if flow_hash(c.arena + c.off[i], c.len[i], flow_key(7)) != flow_hash_any(c.arena + c.off[i], c.len[i], flow_key(7)):
            fail("the short cut to the flow hash leads elsewhere", i)


cdef empty_fragments():
    """Forget every datagram that waits, and count the memory: none may be lost."""
    cdef uint32_t at, pieces = 0, blocks = 0
    if FRAGMENTS.oldest == FRAG_NONE and FRAGMENTS.blocks_free == FRAG_BLOCKS:
        return
    while FRAGMENTS.oldest != FRAG_NONE:
        FRAGMENTS.remove(FRAGMENTS.oldest)
    at = FRAGMENTS.free_piece
    while at != FRAG_NONE and pieces <= FRAG_PIECES:
        pieces += 1
        at = FRAGMENTS.m.pieces[at].next
    at = FRAGMENTS.free_block
    while at != FRAG_NONE and blocks <= FRAG_BLOCKS:
        blocks += 1
        at = FRAGMENTS.m.block_next[at]
    if FRAGMENTS.newest != FRAG_NONE or FRAGMENTS.blocks_free != FRAG_BLOCKS or pieces != FRAG_PIECES or blocks != FRAG_BLOCKS:
        fail(f"of the reassembly memory {blocks} blocks and {pieces} pieces are left")


cdef check_reassembly(Case case, Rules rules):
    """Rows of fragments are held or dropped, and what is put together is a whole IP packet."""
    cdef Columns *c = &case.batch.c
    cdef uint32_t i, l3 = 0
    cdef uint16_t ethertype = 0
    cdef IpPacket ip
    cdef uint8_t v
    case.load()
    case.guard(True)
    unpoison(c.arena + case.end, c.arena_cap - case.end)
    JOINER.process(case.batch)
    for i in range(c.n):
        v = c.verdict[i]
        if v != PASS and not DROP_FRAGMENT_HELD <= v <= DROP_FRAGMENT_DUPLICATE:
            fail(f"verdict {v} from reassembly", i)
        if c.off[i] >= case.end:
            if v != PASS or <uint64_t>c.off[i] + c.len[i] > c.arena_len or c.len[i] != c.wire_len[i]:
                fail(f"a datagram put together wrongly: {c.off[i]} {c.len[i]} {c.wire_len[i]}", i)
            if (link_find_l3(c.link[i], row_body(c, i), c.len[i], &ethertype, &l3) != PASS
                    or ip_parse(ethertype, row_body(c, i) + l3, c.len[i] - l3, c.len[i] - l3, &ip) != PASS
                    or ip.is_fragment or l3 + ip.end != c.len[i]):
                fail(f"what was put together is no whole packet: {c.len[i]} bytes, {ip}", i)
    rules.lax.process(case.batch)
    case.guard(False)
    for i in range(c.n):
        if c.verdict[i] == PASS and <uint64_t>c.off[i] + c.len[i] > c.arena_len:
            fail("bytes outside the arena", i)
    empty_fragments()


cdef PacketBatch gathered(Columns *c, bint backwards):
    """The rows of ``c`` that passed, in leaving order or its reverse, each frame whole, in a batch of their own."""
    cdef uint32_t k, i, count = row_count(c), kept = 0
    cdef uint64_t total = 0, joined = 0
    cdef PacketBatch out
    cdef Columns *o
    for k in range(count):
        i = row_at(c, k)
        if c.verdict[i] == PASS:
            total += c.head_len[i] + c.len[i]
            kept += 1
    out = PacketBatch(max(1, kept), 2 * total + 1024)
    o = &out.c
    rows_init(o, 0, kept)
    for k in range(count):
        i = row_at(c, count - 1 - k if backwards else k)
        if c.verdict[i] != PASS:
            continue
        o.off[o.n] = <uint32_t>o.arena_len
        o.len[o.n] = c.head_len[i] + c.len[i]
        o.wire_len[o.n] = c.wire_len[i]
        o.link[o.n] = c.link[i]
        o.ts_ns[o.n] = c.ts_ns[i]
        o.rec[o.n] = 0xFFFFFFFFU
        o.flow[o.n] = i
        memcpy(o.arena + o.arena_len, row_head(c, i), c.head_len[i])
        memcpy(o.arena + o.arena_len + c.head_len[i], row_body(c, i), c.len[i])
        o.arena_len += o.len[o.n]
        o.n += 1
    return out


cdef check_same(Case case, PacketBatch got, uint32_t at, uint32_t i):
    """Row ``at`` of ``got`` is frame ``i``."""
    cdef Columns *g = &got.c
    cdef Frame *f = &case.frames[i]
    if g.verdict[at] != PASS:
        fail(f"lost in decapsulation: {g.verdict[at]}", i)
    if g.len[at] != f.len or g.wire_len[at] != max(f.len, f.wire_len) or g.vni[at] != 0x123456:
        fail(f"{f[0]} came back as {g.len[at]} of {g.wire_len[at]} bytes, VNI {g.vni[at]:#x}", i)
    if memcmp(g.arena + g.off[at], case.batch.c.arena + f.off, f.len) != 0:
        fail("came back with other bytes", i)


cdef check_encap(Case case, uint8_t kind, uint16_t mtu_setting, uint8_t order):
    """Encapsulated, every frame that can be is; decapsulated, it is what it was: whole, in fragments, and twice round."""
    cdef Columns *c = &case.batch.c
    cdef Columns *g
    cdef PacketBatch got
    cdef uint32_t i, k, n, wire, over, pieces, mtu, min_mtu, hdr_len = 70 if kind & 1 else 50
    cdef bint is_v6 = kind & 1, fragments = False
    cdef uint8_t expected, policy = (kind >> 4) & 3
    cdef const uint8_t *p
    cdef CaptureEncoder encoder
    min_mtu = 1280 if is_v6 else 576
    if kind & 128:
        min_mtu = hdr_len + 8  # the node's own limit
    mtu = min_mtu + mtu_setting % (65536 - min_mtu) if mtu_setting & 0x8000 else min_mtu + mtu_setting % 2000
    node = encap_node(kind, mtu)
    case.load()
    case.guard(True)
    node.process(case.batch, 65530)
    case.guard(False)
    for i in range(case.count):
        n = case.frames[i].len
        wire = max(n, case.frames[i].wire_len)
        over = wire > 65535 or 16 + wire + (0 if is_v6 else 20) > 65535
        if case.frames[i].link != LINK_ETHERNET:
            expected = DROP_NOT_ETHERNET
        elif wire < 14:
            expected = DROP_INNER_RUNT
        elif over:
            expected = DROP_TOO_LONG
        elif policy == 2 and wire + hdr_len - 14 > mtu:
            expected = DROP_MTU
        else:
            expected = PASS
        if c.verdict[i] != expected:
            fail(f"{case.frames[i]} encapsulated: verdict {c.verdict[i]} where {expected} is right", i)
        if expected == PASS and policy == 3 and wire + hdr_len - 14 > mtu:
            fragments = True
        elif expected == PASS and (c.head_len[i] != hdr_len or c.len[i] != n or c.wire_len[i] != wire + hdr_len):
            fail(f"{case.frames[i]} encapsulated: {c.head_len[i]} + {c.len[i]} of {c.wire_len[i]} bytes", i)
        if expected == PASS and c.flow[i] != flow_hash(row_body(c, i) if not fragments else c.arena + case.frames[i].off, n, flow_key(0)):
            fail("not its flow", i)
    for k in range(row_count(c)):
        i = row_at(c, k)
        if c.verdict[i] == PASS and (c.head_len[i] > BATCH_HEAD_LEN or <uint64_t>c.off[i] + c.len[i] > case.end
                                     or c.wire_len[i] < c.head_len[i] + c.len[i]):
            fail(f"{c.head_len[i]} + {c.len[i]} of {c.wire_len[i]} bytes at {c.off[i]}", i)
        if c.verdict[i] == PASS and policy == 3 and c.wire_len[i] - 14 > mtu:
            fail(f"a fragment of {c.wire_len[i]} bytes over the MTU of {mtu}", i)
    # As a file: headers and body, gathered.
    encoder = CaptureEncoder("pcap", buffer_len=1024 << (order & 7))
    encoder.begin((1,))
    got = gathered(c, False)
    g = &got.c
    written = bytes(encoder.pending())
    encoder.clear()
    start = 0
    while start is not None:
        start = encoder.encode(case.batch, start)
        written += encoder.pending()
        encoder.clear()
    p = written
    p += 24
    for k in range(g.n):
        if load_32(p + 8, False) != g.len[k] or load_32(p + 12, False) != g.wire_len[k]:
            fail(f"written with lengths {load_32(p + 8, False)} and {load_32(p + 12, False)}", k)
        if memcmp(p + 16, g.arena + g.off[k], g.len[k]) != 0:
            fail("written with other bytes", k)
        p += 16 + g.len[k]
    if p != <const uint8_t *>written + len(written):
        fail("written: rows that do not leave")
    if fragments:
        got = gathered(c, order & 8)
        JOINER.process(got)
        USUAL.lax.process(got)
        g = &got.c
        for i in range(case.count):
            n = case.frames[i].len
            wire = max(n, case.frames[i].wire_len)
            if c.verdict[i] != PASS or n < wire:
                continue
            pieces = 1
            if wire + hdr_len - 14 > mtu:
                over = (mtu - (48 if is_v6 else 20)) & ~7
                pieces = (16 + wire + over - 1) // over
            if pieces > FRAG_PIECES_MAX:
                continue
            k = 0
            while k < g.n and not (g.flow[k] == i and g.verdict[k] == PASS):
                k += 1
            if k == g.n:  # the row of the fragment that came last holds it
                for k in range(g.n):
                    if g.verdict[k] == PASS and g.flow[k] >= case.count and g.len[k] == n and memcmp(
                            g.arena + g.off[k], c.arena + case.frames[i].off, n) == 0:
                        break
                else:
                    fail(f"{pieces} fragments did not become whole", i)
            check_same(case, got, k, i)
        empty_fragments()
        return
    USUAL.lax.process(got)
    for k in range(g.n):
        check_same(case, got, k, g.flow[k])
    got = gathered(c, False)
    g = &got.c
    USUAL.strict.process(got)
    for k in range(g.n):
        i = g.flow[k]
        if is_v6 and (not kind & 2 or case.frames[i].len < case.frames[i].wire_len):
            if g.verdict[k] != DROP_UDP_NO_CSUM:
                fail(f"no checksum over IPv6, and strict says {g.verdict[k]}", i)
        else:
            check_same(case, got, k, i)
    # Once more round.
    encap_node(kind & 0x4F ^ 2, 0).process(case.batch)
    for i in range(case.count):
        wire = max(case.frames[i].len, case.frames[i].wire_len)
        if case.frames[i].link == LINK_ETHERNET and c.head_len[i] == hdr_len and c.verdict[i] not in (
                DROP_NO_HEADROOM if is_v6 else 0, DROP_TOO_LONG if wire > 65380 else 0, DROP_MTU if policy == 2 else 0):
            fail(f"the second time round: {c.verdict[i]}", i)
    got = gathered(c, False)
    g = &got.c
    USUAL.two.process(got)
    for k in range(g.n):
        check_same(case, got, k, g.flow[k])


def run(const uint8_t[::1] data not None):
    """One input."""
    cdef Case case
    cdef Rules rules
    cdef Row[FRAME_COUNT_MAX] rows
    if data.shape[0] < SETTINGS_LEN + FRAME_HEADER_LEN:
        return
    rules = EVERY if data[0] & 1 else USUAL
    case = Case(data)
    case.guard(True)
    check_flows(case)
    check_rules(case, rules)
    case.run(PARSE, rows)
    case.guard(False)
    check_reassembly(case, rules)
    check_encap(case, data[1], load_16(&data[2], False), data[4])
