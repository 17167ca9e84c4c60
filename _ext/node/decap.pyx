"""Decapsulation of a batch: moves each body's offset past the outer headers, copies nothing."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from vxlanfast._ext.batch cimport Columns, PacketBatch, row_body
from vxlanfast._ext.verdict cimport Verdict, PASS, DROP_FILTER_VNI, VERDICT_COUNT
from vxlanfast._ext.wire.endian cimport likely
from vxlanfast._ext.wire.eth cimport ETH_HDR_LEN
from vxlanfast._ext.wire.ipv4 cimport IPV4_HDR_LEN
from vxlanfast._ext.wire.link cimport LINK_ETHERNET, LINK_RAW


cdef inline void decap_apply(Columns *c, uint32_t i, const DecapRules *rules, const VxlanFrame *f) noexcept nogil:
    """Make row ``i`` what was found in it."""
    cdef uint32_t off = c.off[i], n = c.len[i]
    if not rules.peek:
        c.off[i] = off + f.inner
        c.len[i] = (f.end if f.end < n else n) - f.inner
        c.wire_len[i] = f.end - f.inner
        c.link[i] = f.link
    c.vni[i] = f.vni
    c.outer[i] = off
    c.outer_l3[i] = <uint16_t>f.l3
    c.outer_l4[i] = <uint16_t>f.l4


cdef Verdict decap_row(Columns *c, uint32_t i, const DecapRules *rules) noexcept nogil:
    """One row, as many levels as the rules ask for."""
    cdef VxlanFrame f
    cdef uint32_t level = 0
    cdef bint carried = False
    cdef Verdict v
    while True:
        v = decap_find(c.arena + c.off[i], c.len[i], c.wire_len[i], c.link[i], rules, &f)
        if v != PASS:
            if carried and (v == DROP_FILTER_VNI or not vni_wanted(rules, c.vni[i])):
                return DROP_FILTER_VNI
            # Deeper levels are a wish: a frame that holds no more VXLAN is the result.
            return v if level == 0 and not carried else PASS
        decap_apply(c, i, rules, &f)
        carried = f.link == LINK_RAW
        if carried and not rules.peek:
            continue  # GENEVE that carries IP (a gateway load balancer) is the way of what is inside, and no level
        level += 1
        if level == rules.levels:
            return PASS


cdef void decap_rows(Columns *columns, const DecapRules *rules, uint64_t *counts) noexcept nogil:
    # Columns of bytes may alias anything, the struct they hang from too: a copy of it that nothing points to lets the
    # compiler keep the pointers in registers.
    cdef Columns c = columns[0]
    cdef bint common = not rules.strict and rules.levels == 1, peek = rules.peek, chosen = rules.n_vnis != 0
    cdef uint64_t passed = 0
    cdef uint32_t i, off, n
    cdef VxlanFrame f
    cdef Verdict v
    for i in range(c.n):
        if c.verdict[i] != PASS:
            continue
        off = c.off[i]
        n = c.len[i]
        if likely(common and c.link[i] == LINK_ETHERNET
                  and decap_common(c.arena + off, n, c.wire_len[i], rules.ports, &f)):
            if chosen and not vni_wanted(rules, f.vni):
                c.verdict[i] = DROP_FILTER_VNI
                counts[<uint8_t>DROP_FILTER_VNI] += 1
                continue
            if not peek:
                c.off[i] = off + f.inner
                c.len[i] = (f.end if f.end < n else n) - f.inner
                c.wire_len[i] = f.end - f.inner
            c.vni[i] = f.vni
            c.outer[i] = off
            c.outer_l3[i] = ETH_HDR_LEN
            c.outer_l4[i] = ETH_HDR_LEN + IPV4_HDR_LEN
            passed += 1
            continue
        v = decap_row(columns, i, rules)
        c.verdict[i] = v
        counts[<uint8_t>v] += 1
    counts[<uint8_t>PASS] += passed


cdef class Decap:
    """Takes VXLAN off the rows of a batch that hold it; every other row gets a verdict that says why not.

    ``ports``: UDP destination ports that mean VXLAN, ``geneve_ports`` GENEVE. ``vnis``: sorted ``(first, last)`` ranges to keep, None for all.
    ``levels``: how many nested headers to take off at most, 0 for all. ``strict``: drop reserved bits (RFC 7348 §5
    would ignore them) and wrong outer checksums. ``peek``: find and note the VNI, and leave the frame as it is.

    What is in GENEVE may be IP without Ethernet: then VXLAN in it comes off as well, and where there is none the row's
    link type becomes RAW (101).
    """

    def __cinit__(self, ports, *, geneve_ports=(), vnis=None, uint32_t levels=1, bint strict=False, bint peek=False):
        cdef uint32_t i = 0
        for port in ports:
            if not 1 <= port <= 65535:
                raise ValueError(f"UDP port {port}: 1 to 65535")
            self.rules.ports[<uint32_t>port >> 3] |= 1 << (<uint32_t>port & 7)
        for port in geneve_ports:
            if not 1 <= port <= 65535:
                raise ValueError(f"UDP port {port}: 1 to 65535")
            if (self.rules.ports[<uint32_t>port >> 3] >> (<uint32_t>port & 7)) & 1:
                raise ValueError(f"UDP port {port} means VXLAN already: it cannot mean GENEVE")
            self.rules.geneve_ports[<uint32_t>port >> 3] |= 1 << (<uint32_t>port & 7)
        self.rules.levels = 1 if peek else levels
        self.rules.peek = peek
        self.rules.strict = strict
        ranges = sorted(vnis or ())
        if ranges:
            self.rules.vnis = <VniRange *>calloc(len(ranges), sizeof(VniRange))
            if self.rules.vnis == NULL:
                raise MemoryError
            for first, last in ranges:
                if not 0 <= first <= last <= 0xFFFFFF:
                    raise ValueError(f"VNI range {first}-{last}: 0 to {0xFFFFFF}, lower number first")
                if i and first <= self.rules.vnis[i - 1].last:
                    raise ValueError(f"VNI range {first}-{last} overlaps the one before it")
                self.rules.vnis[i].first = first
                self.rules.vnis[i].last = last
                i += 1
            self.rules.n_vnis = i

    def __dealloc__(self):
        free(self.rules.vnis)

    def find(self, const uint8_t[::1] frame not None, uint32_t link=1, uint32_t wire_len=0):
        """One frame, outermost level: ``(verdict, vni, l3, l4, inner, end)``, offsets in it; counted nowhere.

        ``wire_len``: bytes it had where a snaplen cut it; ``end`` may lie behind what is there then.
        """
        cdef VxlanFrame f
        cdef uint32_t n = <uint32_t>frame.shape[0]
        cdef Verdict v
        cdef const uint8_t *p = NULL
        if n:
            p = &frame[0]
        memset(&f, 0, sizeof(f))
        v = decap_find(p, n, wire_len if wire_len > n else n, link, &self.rules, &f)
        return v, f.vni, f.l3, f.l4, f.inner, f.end

    def process(self, PacketBatch batch not None):
        """Every row with verdict PASS: on PASS the body is the inner frame, its VNI in the column."""
        with nogil:
            decap_rows(&batch.c, &self.rules, self.counts)
        return batch

    def count(self, uint8_t verdict):
        """Rows with this verdict since the start."""
        return self.counts[verdict] if verdict < VERDICT_COUNT else 0

    def counters(self):
        """Rows by verdict since the start: ``{Verdict: rows}`` of those that occur."""
        from vxlanfast._ext.verdict import Verdict
        return {Verdict(i): self.counts[i] for i in range(VERDICT_COUNT) if self.counts[i]}
