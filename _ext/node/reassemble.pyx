"""Outer fragments put together: the row of the fragment that completes a datagram becomes the datagram."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from vxlanfast._ext.batch cimport Columns, PacketBatch
from vxlanfast._ext.node.defrag cimport join_row
from vxlanfast._ext.table.fragments cimport (
    FRAG_COMPLETE, FRAG_DUPLICATE, FRAG_HELD, FRAG_OVERLAP, FragHead, FragmentTable, FragResult,
)
from vxlanfast._ext.verdict cimport (
    Verdict, PASS, DROP_FRAGMENT_BAD, DROP_FRAGMENT_DUPLICATE, DROP_FRAGMENT_HELD, DROP_FRAGMENT_OVERLAP,
    VERDICT_COUNT,
)
from vxlanfast._ext.wire.ip cimport IpPacket, ip_parse
from vxlanfast._ext.wire.ipv4 cimport IP_PROTO_DSTOPTS, IP_PROTO_UDP
from vxlanfast._ext.wire.link cimport link_find_l3


cdef Verdict reassemble_row(Columns *c, uint32_t i, FragmentTable table, bint *no_memory) noexcept nogil:
    """PASS for a row that is no fragment, or now a whole datagram; else why it is gone."""
    cdef const uint8_t *p = c.arena + c.off[i]
    cdef uint16_t ethertype = 0
    cdef uint32_t l3 = 0, n = c.len[i], wire_n = c.wire_len[i]
    cdef IpPacket ip
    cdef FragHead head
    cdef FragResult result
    if wire_n < n:
        wire_n = n
    if link_find_l3(c.link[i], p, n, &ethertype, &l3) != PASS:
        return PASS
    if ip_parse(ethertype, p + l3, n - l3, wire_n - l3, &ip) != PASS or not ip.is_fragment:
        return PASS
    # Behind an IPv6 fragment header options may stand in front of UDP; only the first fragment shows what follows.
    if ip.proto != IP_PROTO_UDP and (ip.version == 4 or ip.proto != IP_PROTO_DSTOPTS):
        return PASS
    # The row that completes a datagram takes the first one's headers: their link types must agree.
    result = join_row(c, i, l3, &ip, c.link[i], table, &head, no_memory)
    if result == FRAG_COMPLETE:
        return PASS
    if result == FRAG_HELD:
        return DROP_FRAGMENT_HELD
    if result == FRAG_DUPLICATE:
        return DROP_FRAGMENT_DUPLICATE
    if result == FRAG_OVERLAP:
        return DROP_FRAGMENT_OVERLAP
    return DROP_FRAGMENT_BAD


cdef class Reassemble:
    """Puts outer UDP fragments together, over IPv4 and IPv6, whatever their ports.

    A fragment's row is dropped with DROP_FRAGMENT_HELD; the row whose fragment completes a datagram holds all of it and
    goes on. Time is the rows' own.
    """
    cdef readonly FragmentTable table
    cdef uint64_t counts[VERDICT_COUNT]

    def __cinit__(self, FragmentTable table=None):
        self.table = FragmentTable() if table is None else table

    def process(self, PacketBatch batch not None):
        """Every row with verdict PASS. BufferError while a view of the batch is alive: its memory may grow."""
        cdef Columns *c = &batch.c
        cdef FragmentTable table = self.table
        cdef uint32_t i
        cdef Verdict v
        cdef bint no_memory = False
        batch._require_idle("reassemble in")
        with nogil:
            for i in range(c.n):
                if c.verdict[i] == PASS:
                    v = reassemble_row(c, i, table, &no_memory)
                    if v != PASS:
                        c.verdict[i] = v
                        self.counts[<uint8_t>v] += 1
        if no_memory:
            raise MemoryError("no room for a reassembled datagram")
        return batch

    def counters(self):
        """Fragments by verdict since the start: ``{Verdict: rows}`` of those that occur."""
        from vxlanfast._ext.verdict import Verdict
        return {Verdict(i): self.counts[i] for i in range(VERDICT_COUNT) if self.counts[i]}
