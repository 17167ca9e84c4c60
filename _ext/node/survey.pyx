"""Totals per tunnel of decapsulated rows; and the number of each row's tunnel, for what files rows by it."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from libc.string cimport memcmp, memcpy, memset

from vxlanfast._ext.batch cimport Columns, PacketBatch
from vxlanfast._ext.io.format cimport NO_RECORD
from vxlanfast._ext.table.tunnels cimport TUNNEL_NONE, TunnelEntry, TunnelKey, TunnelTable
from vxlanfast._ext.verdict cimport PASS
from vxlanfast._ext.wire.ipv4 cimport IPV4_OFF_SRC
from vxlanfast._ext.wire.ipv6 cimport IPV6_OFF_SRC
from vxlanfast._ext.wire.udp cimport UDP_HDR_LEN, udp_csum
from vxlanfast._ext.wire.vxlan cimport vxlan_has_reserved, vxlan_is_gbp, vxlan_is_gpe


cdef inline void tunnel_key(Columns *c, uint32_t i, bint by_port, TunnelKey *key) noexcept nogil:
    cdef const uint8_t *ip = c.arena + c.outer[i] + c.outer_l3[i]
    memset(key, 0, sizeof(TunnelKey))
    key.vni = c.vni[i]
    key.version = ip[0] >> 4
    if by_port:
        key.port_in = c.port_in[i]
    if key.version == 4:
        memcpy(key.src, ip + IPV4_OFF_SRC, 4)
        memcpy(key.dst, ip + IPV4_OFF_SRC + 4, 4)
    else:
        memcpy(key.src, ip + IPV6_OFF_SRC, 32)


cdef inline void count_row(Columns *c, uint32_t i, TunnelEntry *e) noexcept nogil:
    cdef const uint8_t *udp = c.arena + c.outer[i] + c.outer_l4[i]
    cdef const uint8_t *vxlan = udp + UDP_HDR_LEN
    cdef int64_t now = c.ts_ns[i]
    if e.packets == 0 or now < e.first_ns:
        e.first_ns = now
    if e.packets == 0 or now > e.last_ns:
        e.last_ns = now
    e.packets += 1
    e.bytes += c.wire_len[i]
    e.truncated += c.wire_len[i] > c.len[i]
    e.csummed += udp_csum(udp) != 0
    if vxlan_has_reserved(vxlan):
        if vxlan_is_gbp(vxlan):
            e.gbp += 1
        elif vxlan_is_gpe(vxlan):
            e.gpe += 1
        else:
            e.reserved += 1


cdef class Survey:
    """Counts the decapsulated rows of a batch (verdict PASS) into ``table``, by interface too where ``by_port``."""
    cdef readonly TunnelTable table
    cdef bint by_port

    def __cinit__(self, TunnelTable table=None, *, bint by_port=False):
        self.table = TunnelTable() if table is None else table
        self.by_port = by_port

    def process(self, PacketBatch batch not None, *, bint number=False):
        """``number``: also write each row's tunnel, its place in the table plus 1, to ``port_out``."""
        cdef Columns *c = &batch.c
        cdef TunnelTable table = self.table
        cdef TunnelKey key, last
        cdef uint32_t i, at = 0
        cdef bint is_new = False, by_port = self.by_port, known = False, failed = False
        with nogil:
            for i in range(c.n):
                if c.verdict[i] != PASS or c.outer[i] == NO_RECORD:
                    continue
                tunnel_key(c, i, by_port, &key)
                if not known or memcmp(&key, &last, sizeof(TunnelKey)) != 0:
                    at = table.find(&key, &is_new)
                    if at == TUNNEL_NONE:
                        failed = True
                        break
                    last = key
                    known = True
                count_row(c, i, &table.entries[at])
                if number:
                    c.port_out[i] = <uint16_t>(at + 1)
        if failed:
            raise MemoryError("no room for another tunnel")
        return batch
