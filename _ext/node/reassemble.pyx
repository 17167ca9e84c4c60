"""Outer fragments put together: the row of the fragment that completes a datagram becomes the datagram."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from vxlanfast._ext.batch cimport Columns, PacketBatch
from vxlanfast._ext.table.fragments cimport FragmentTable
from vxlanfast._ext.verdict cimport Verdict, PASS, VERDICT_COUNT


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
