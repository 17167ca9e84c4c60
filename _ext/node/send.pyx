"""What leaves: each row to the port of its destination, with a peer's VXLAN headers in front."""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from vxlanfast._ext.batch cimport Columns, PacketBatch, row_at, row_body, row_count, row_head
from vxlanfast._ext.node.encap cimport Encap, EncapTally, TUNNEL4_HDR_LEN, TUNNEL_HDR_MAX, Tunnel, encap_row, tunnel4_put
from vxlanfast._ext.table.dest cimport DEST_PEER, Dest, DestTable
from vxlanfast._ext.verdict cimport Verdict, PASS, RULE_COUNT, VERDICT_COUNT
from vxlanfast._ext.wire.endian cimport likely


cdef class Send:
    """Gives rows their ``port_out`` and the headers of the tunnel they take. ``tunnels``: an Encap for each peer's number."""
    cdef DestTable dests
    cdef Tunnel *tunnels
    cdef readonly uint32_t n_tunnels
    cdef uint32_t ident     # IPv4 identification: packets made so far
    cdef EncapTally tally
    cdef uint64_t counts[VERDICT_COUNT]
    cdef uint64_t ruled[RULE_COUNT]

    def __cinit__(self, DestTable dests not None, tunnels):
        cdef Encap one
        cdef uint32_t i
        self.dests = dests
        self.n_tunnels = len(tunnels)
        self.tunnels = <Tunnel *>malloc(<uint64_t>(self.n_tunnels + 1) * sizeof(Tunnel))
        if self.tunnels == NULL:
            raise MemoryError
        for i in range(self.n_tunnels):
            one = tunnels[i]
            self.tunnels[i] = one.t
        for i in range(dests.size):
            if dests.dests[i].kind == DEST_PEER and dests.dests[i].tunnel >= self.n_tunnels:
                raise ValueError(f"destination {i} takes tunnel {dests.dests[i].tunnel}, and there are {self.n_tunnels}")

    def __dealloc__(self):
        free(self.tunnels)

    cdef void send_rows(self, Columns *c) noexcept nogil:
        cdef uint32_t k, i, flow = 0, length
        cdef Dest *d
        cdef Tunnel *t
        cdef Verdict v
        for k in range(row_count(c)):
            i = row_at(c, k)
            if c.verdict[i] != PASS:
                continue
            d = self.dests.dests + c.dest[i]
            c.port_out[i] = d.port
            v = PASS
            length = c.wire_len[i]
            if d.kind == DEST_PEER:
                t = self.tunnels + d.tunnel
                if likely(t.common and c.head_len[i] == 0 and tunnel4_put(row_head(c, i) - TUNNEL4_HDR_LEN, t, row_body(c, i),
                                                                          c.len[i], c.wire_len[i], self.ident, &flow)):
                    c.flow[i] = flow
                    c.head_len[i] = TUNNEL4_HDR_LEN
                    c.wire_len[i] += TUNNEL4_HDR_LEN
                    c.vni[i] = t.vni
                else:
                    v = encap_row(c, i, t, self.ident, t.hdr_len == TUNNEL_HDR_MAX, &self.tally)
                self.ident += 1
            self.counts[<uint8_t>v] += 1
            if likely(v == PASS):
                d.tx_packets += 1
                d.tx_bytes += length
                self.ruled[c.rule[i] & (RULE_COUNT - 1)] += 1
            else:
                d.tx_drops += 1
                c.verdict[i] = v

    def process(self, PacketBatch batch not None):
        """Every row with verdict PASS and a destination."""
        with nogil:
            self.send_rows(&batch.c)
        return batch

    @property
    def over_mtu(self):
        """Packets longer than the underlay's MTU so far."""
        return self.tally.over_mtu

    def rules(self):
        """Rows that left since the start, by why they went where they went: ``{Rule: rows}`` of those that occur."""
        from vxlanfast._ext.verdict import Rule
        return {Rule(i): self.ruled[i] for i in range(RULE_COUNT) if self.ruled[i]}

    def counters(self):
        """Rows by verdict since the start: ``{Verdict: rows}`` of those that occur."""
        from vxlanfast._ext.verdict import Verdict
        return {Verdict(i): self.counts[i] for i in range(VERDICT_COUNT) if self.counts[i]}
