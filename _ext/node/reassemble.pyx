"""Outer fragments put together: the row of the fragment that completes a datagram becomes the datagram."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset

from vxlanfast._ext.batch cimport Columns, PacketBatch, batch_grow_arena
from vxlanfast._ext.table.fragments cimport (
    FRAG_COMPLETE, FRAG_DATAGRAM_MAX, FRAG_DUPLICATE, FRAG_HELD, FRAG_OVERLAP, FragDatagram, FragKey, FragmentTable,
    FragResult,
)
from vxlanfast._ext.verdict cimport (
    Verdict, PASS, DROP_FRAGMENT_BAD, DROP_FRAGMENT_DUPLICATE, DROP_FRAGMENT_HELD, DROP_FRAGMENT_OVERLAP,
    VERDICT_COUNT,
)
from vxlanfast._ext.wire.csum cimport csum_finish, csum_short
from vxlanfast._ext.wire.endian cimport store_be16
from vxlanfast._ext.wire.ip cimport IpPacket, ip_parse
from vxlanfast._ext.wire.ipv4 cimport (
    IP_PROTO_AH, IP_PROTO_DSTOPTS, IP_PROTO_UDP, IPV4_OFF_CSUM, IPV4_OFF_FRAG, IPV4_OFF_SRC, IPV4_OFF_TOTAL_LEN, ipv4_hdr_len,
)
from vxlanfast._ext.wire.ipv6 cimport (
    IPV6_FRAG_HDR_LEN, IPV6_HDR_LEN, IPV6_OFF_NEXT, IPV6_OFF_PAYLOAD_LEN, IPV6_OFF_SRC,
)
from vxlanfast._ext.wire.link cimport link_find_l3


cdef void join_ipv4(uint8_t *ip, uint32_t payload_len) noexcept nogil:
    """The first fragment's header as the whole datagram's."""
    cdef uint32_t n = ipv4_hdr_len(ip)
    store_be16(ip + IPV4_OFF_TOTAL_LEN, <uint16_t>(n + payload_len))
    store_be16(ip + IPV4_OFF_FRAG, 0)
    store_be16(ip + IPV4_OFF_CSUM, 0)
    store_be16(ip + IPV4_OFF_CSUM, csum_finish(csum_short(ip, n)))


cdef void join_ipv6(uint8_t *ip, uint32_t cut, uint32_t payload_len) noexcept nogil:
    """Take the fragment header at ``cut`` out of the chain; the bytes behind it move up (RFC 8200 §4.5)."""
    cdef uint32_t at = IPV6_HDR_LEN, last = IPV6_OFF_NEXT
    cdef uint8_t kind = ip[IPV6_OFF_NEXT]
    while at < cut:  # ip_parse has walked this chain: it holds together up to the fragment header
        last = at
        at += (ip[at + 1] + 2) * 4 if kind == IP_PROTO_AH else (ip[at + 1] + 1) * 8
        kind = ip[last]
    ip[last] = ip[cut]
    memmove(ip + cut, ip + cut + IPV6_FRAG_HDR_LEN, payload_len)
    store_be16(ip + IPV6_OFF_PAYLOAD_LEN, <uint16_t>(cut - IPV6_HDR_LEN + payload_len))


cdef Verdict reassemble_row(Columns *c, uint32_t i, FragmentTable table, bint *no_memory) noexcept nogil:
    """PASS for a row that is no fragment, or now a whole datagram; else why it is gone."""
    cdef uint16_t ethertype = 0
    cdef uint32_t l3 = 0, n = c.len[i], wire_n = c.wire_len[i], size, hdr_len = 0, cut = 0
    cdef uint8_t *p = c.arena + c.off[i]
    cdef IpPacket ip
    cdef FragKey key
    cdef FragResult result
    cdef FragDatagram *datagram
    cdef uint64_t at
    if wire_n < n:
        wire_n = n
    if link_find_l3(c.link[i], p, n, &ethertype, &l3) != PASS:
        return PASS
    if ip_parse(ethertype, p + l3, n - l3, wire_n - l3, &ip) != PASS or not ip.is_fragment:
        return PASS
    # Behind an IPv6 fragment header options may stand in front of UDP; only the first fragment shows what follows.
    if ip.proto != IP_PROTO_UDP and (ip.version == 4 or ip.proto != IP_PROTO_DSTOPTS):
        return PASS
    if l3 + ip.end > n:
        return DROP_FRAGMENT_BAD
    memset(&key, 0, sizeof(key))
    key.version = ip.version
    key.link = c.link[i]
    key.ident = ip.frag_id
    if ip.version == 4:
        key.proto = ip.proto
        memcpy(key.addrs, p + l3 + IPV4_OFF_SRC, 8)
    else:
        memcpy(key.addrs, p + l3 + IPV6_OFF_SRC, 32)
        ip.l4 = ip.fragment + IPV6_FRAG_HDR_LEN
    # Longer than a length field can say when it is whole (RFC 8200 §4.5; over IPv4 the ping of death).
    size = ip.frag_offset + ip.end - ip.l4 + (ip.l4 if ip.version == 4 else ip.fragment - IPV6_HDR_LEN)
    if size > FRAG_DATAGRAM_MAX:
        return DROP_FRAGMENT_BAD
    result = table.add(&key, ip.frag_offset, p + l3 + ip.l4, ip.end - ip.l4, ip.frag_more, p, l3 + ip.l4, l3,
                       l3 + ip.fragment if ip.fragment else 0, c.ts_ns[i])
    if result == FRAG_HELD:
        return DROP_FRAGMENT_HELD
    if result == FRAG_DUPLICATE:
        return DROP_FRAGMENT_DUPLICATE
    if result == FRAG_OVERLAP:
        return DROP_FRAGMENT_OVERLAP
    if result != FRAG_COMPLETE:
        return DROP_FRAGMENT_BAD
    size = table.datagram_len()
    datagram = &table.m.datagrams[table.found]
    if size - datagram.hdr_l3 - (IPV6_HDR_LEN + IPV6_FRAG_HDR_LEN if datagram.hdr_cut else 0) > FRAG_DATAGRAM_MAX:
        table.remove(table.found)  # too long after all: the first fragment's header has options the others' do not
        return DROP_FRAGMENT_BAD
    at = c.arena_len
    if batch_grow_arena(c, at + size if at + size > c.arena_cap else c.arena_cap):
        no_memory[0] = True
        return DROP_FRAGMENT_BAD
    table.take(c.arena + at, &hdr_len, &l3, &cut)
    if cut:
        join_ipv6(c.arena + at + l3, cut - l3, size - hdr_len)
        size -= IPV6_FRAG_HDR_LEN
    else:
        join_ipv4(c.arena + at + l3, size - hdr_len)
    c.arena_len = at + size
    c.off[i] = <uint32_t>at
    c.len[i] = c.wire_len[i] = size
    return PASS


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
