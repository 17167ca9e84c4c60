"""Inner fragments put together, whatever they carry: a translation needs the ports, which only the first one has."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from vxlanfast._ext.batch cimport Columns, PacketBatch
from vxlanfast._ext.node.defrag cimport defrag_row
from vxlanfast._ext.table.fragments cimport FragmentTable
from vxlanfast._ext.verdict cimport Verdict, PASS, VERDICT_COUNT
from vxlanfast._ext.wire.eth cimport ETH_TYPE_IPV4, ETH_TYPE_IPV6, eth_find_l3
from vxlanfast._ext.wire.link cimport LINK_ETHERNET


cdef class Defrag:
    """Every inner fragment of a batch: a row's datagram once it is whole, as the mesh has it done row by row.

    At most 64 fragments a datagram, and what ``table`` has memory for (3.25 MiB, 4,096 datagrams); the oldest give way.
    """
    cdef readonly FragmentTable table
    cdef uint64_t counts[VERDICT_COUNT]

    def __cinit__(self, FragmentTable table=None):
        self.table = FragmentTable() if table is None else table

    def process(self, PacketBatch batch not None):
        """Every row with verdict PASS. BufferError while a view of the batch is alive: its memory may grow."""
        cdef Columns *c = &batch.c
        cdef FragmentTable table = self.table
        cdef uint16_t ethertype = 0
        cdef uint32_t i, l3 = 0
        cdef Verdict v
        cdef bint no_memory = False
        batch._require_idle("put fragments together in")
        with nogil:
            for i in range(c.n):
                if (c.verdict[i] != PASS or c.head_len[i] or c.link[i] != LINK_ETHERNET
                        or eth_find_l3(c.arena + c.off[i], c.len[i], &ethertype, &l3) != PASS
                        or (ethertype != ETH_TYPE_IPV4 and ethertype != ETH_TYPE_IPV6)):
                    continue
                v = defrag_row(c, i, &l3, table, &no_memory)
                if v != PASS:
                    c.verdict[i] = v
                    self.counts[<uint8_t>v] += 1
        if no_memory:
            raise MemoryError("no room for a datagram put together")
        return batch

    def counters(self):
        """Fragments by verdict since the start: ``{Verdict: rows}`` of those that occur."""
        from vxlanfast._ext.verdict import Verdict
        return {Verdict(i): self.counts[i] for i in range(VERDICT_COUNT) if self.counts[i]}
