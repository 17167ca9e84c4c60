"""Fragments put together: the row of the fragment that completes a datagram becomes the datagram.

``join_row`` is what ``reassemble`` (outside, before decapsulation) and ``defrag`` (inside, before translation) share. The
datagram has the link and network headers of its first fragment (RFC 791 §3.2, RFC 8200 §4.5), and CE where a fragment
had it (RFC 3168 §5.3).
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove, memset

from vxlanfast._ext.batch cimport Columns, batch_grow_arena
from vxlanfast._ext.table.fragments cimport (
    FRAG_BAD, FRAG_COMPLETE, FRAG_DATAGRAM_MAX, FRAG_DUPLICATE, FRAG_HELD, FRAG_OVERLAP, FragDatagram, FragHead, FragKey,
    FragmentTable, FragResult,
)
from vxlanfast._ext.verdict cimport (
    Verdict, PASS, DROP_INNER_FRAGMENT_BAD, DROP_INNER_FRAGMENT_DUPLICATE, DROP_INNER_FRAGMENT_HELD,
    DROP_INNER_FRAGMENT_OVERLAP,
)
from vxlanfast._ext.wire.csum cimport csum_finish, csum_short
from vxlanfast._ext.wire.ecn cimport ECN_CE, ECN_MASK, ECN_NOT_ECT
from vxlanfast._ext.wire.endian cimport load_be16, store_be16
from vxlanfast._ext.wire.ip cimport IpPacket, ip_parse
from vxlanfast._ext.wire.ipv4 cimport (
    IP_PROTO_AH, IPV4_DF, IPV4_OFF_CSUM, IPV4_OFF_FRAG, IPV4_OFF_SRC, IPV4_OFF_TOS, IPV4_OFF_TOTAL_LEN, ipv4_csum_ok,
    ipv4_frag, ipv4_hdr_len,
)
from vxlanfast._ext.wire.ipv6 cimport (
    IPV6_FRAG_HDR_LEN, IPV6_HDR_LEN, IPV6_OFF_NEXT, IPV6_OFF_PAYLOAD_LEN, IPV6_OFF_SRC, ipv6_traffic_class,
)

cdef enum:
    MARK_NOT_ECT = 1 << ECN_NOT_ECT     # marks of a datagram: a bit for each code point its fragments had
    MARK_CE = 1 << ECN_CE


cdef inline void join_ipv4(uint8_t *ip, uint32_t payload_len, bint ce, uint16_t flags) noexcept nogil:
    """The first fragment's header as the whole datagram's. ``flags``: DF, where the largest fragment had it, as Linux has it."""
    cdef uint32_t n = ipv4_hdr_len(ip)
    if ce:
        ip[IPV4_OFF_TOS] |= ECN_CE
    store_be16(ip + IPV4_OFF_TOTAL_LEN, <uint16_t>(n + payload_len))
    store_be16(ip + IPV4_OFF_FRAG, flags)
    store_be16(ip + IPV4_OFF_CSUM, 0)
    store_be16(ip + IPV4_OFF_CSUM, csum_finish(csum_short(ip, n)))


cdef inline void join_ipv6(uint8_t *ip, uint32_t cut, uint32_t payload_len, bint ce) noexcept nogil:
    """Take the fragment header at ``cut`` out of the chain; the bytes behind it move up (RFC 8200 §4.5)."""
    cdef uint32_t at = IPV6_HDR_LEN, last = IPV6_OFF_NEXT
    cdef uint8_t kind = ip[IPV6_OFF_NEXT]
    if ce:
        ip[1] |= ECN_CE << 4
    while at < cut:  # ip_parse has walked this chain: it holds together up to the fragment header
        last = at
        at += (ip[at + 1] + 2) * 4 if kind == IP_PROTO_AH else (ip[at + 1] + 1) * 8
        kind = ip[last]
    ip[last] = ip[cut]
    memmove(ip + cut, ip + cut + IPV6_FRAG_HDR_LEN, payload_len)
    store_be16(ip + IPV6_OFF_PAYLOAD_LEN, <uint16_t>(cut - IPV6_HDR_LEN + payload_len))


cdef inline FragResult join_row(Columns *c, uint32_t i, uint32_t l3, const IpPacket *ip, uint16_t realm,
                                FragmentTable table, FragHead *head, bint *no_memory) noexcept nogil:
    """A fragment, described by ``ip``, whose IP header is at ``l3`` of row ``i``'s body.

    FRAG_COMPLETE: the row's body is the whole datagram now, ``head`` its headers and what it gathered. Else the row is as it was.
    """
    cdef const uint8_t *p = c.arena + c.off[i]
    cdef uint32_t l4 = ip.l4 if ip.version == 4 else ip.fragment + IPV6_FRAG_HDR_LEN, size
    cdef uint64_t at = c.arena_len
    cdef bint ce
    cdef FragKey key
    cdef FragResult result
    cdef FragDatagram *datagram
    if l3 + ip.end > c.len[i] or ip.end < l4:
        return FRAG_BAD
    # Longer than a length field can say when it is whole (RFC 8200 §4.5; over IPv4 the ping of death).
    size = ip.frag_offset + ip.end - l4 + (l4 if ip.version == 4 else ip.fragment - IPV6_HDR_LEN)
    if size > FRAG_DATAGRAM_MAX:
        return FRAG_BAD
    memset(&key, 0, sizeof(key))
    key.version = ip.version
    key.realm = realm
    key.ident = ip.frag_id
    head.hdr = p
    head.hdr_len = l3 + l4
    head.hdr_l3 = l3
    head.hdr_cut = l3 + ip.fragment if ip.fragment else 0
    head.packet_len = ip.end
    head.flags = 0
    if ip.version == 4:
        head.flags = ipv4_frag(p + l3) & IPV4_DF
        key.proto = ip.proto
        memcpy(key.addrs, p + l3 + IPV4_OFF_SRC, 8)
        head.marks = 1 << (p[l3 + IPV4_OFF_TOS] & ECN_MASK)
    else:
        memcpy(key.addrs, p + l3 + IPV6_OFF_SRC, 32)
        head.marks = 1 << (ipv6_traffic_class(p + l3) & ECN_MASK)
    result = table.add(&key, ip.frag_offset, p + l3 + l4, ip.end - l4, ip.frag_more, head, c.ts_ns[i])
    if result != FRAG_COMPLETE:
        return result
    size = table.datagram_len()
    datagram = &table.m.datagrams[table.found]
    if size - datagram.hdr_l3 - (IPV6_HDR_LEN + IPV6_FRAG_HDR_LEN if datagram.hdr_cut else 0) > FRAG_DATAGRAM_MAX:
        table.remove(table.found)  # too long after all: the first fragment's header has options the others' do not
        return FRAG_BAD
    # By half as much again: a batch may have many, and each growth copies all there is.
    if at + size > c.arena_cap and (batch_grow_arena(c, at + size + c.arena_cap // 2) and batch_grow_arena(c, at + size)):
        no_memory[0] = True
        return FRAG_BAD
    table.take(c.arena + at, head)
    size -= head.hdr_len
    ce = head.marks & MARK_CE and not head.marks & MARK_NOT_ECT
    if head.hdr_cut:
        join_ipv6(c.arena + at + head.hdr_l3, head.hdr_cut - head.hdr_l3, size, ce)
        head.hdr_len -= IPV6_FRAG_HDR_LEN
    else:
        join_ipv4(c.arena + at + head.hdr_l3, size, ce, head.flags)
    size += head.hdr_len
    c.arena_len = at + size
    c.off[i] = <uint32_t>at
    c.len[i] = c.wire_len[i] = size
    return FRAG_COMPLETE


cdef inline Verdict defrag_row(Columns *c, uint32_t i, uint32_t *l3, FragmentTable table, bint *no_memory) noexcept nogil:
    """An Ethernet row without headers in front, whose IP header is at ``l3``: PASS if it is no fragment, or now a datagram.

    Nothing is said of what is no fragment: it may be no IP packet at all, or a broken one.
    A datagram's ``l3`` may be another (its first fragment's), ``cut`` is set, and its memory is its own. Fragments of two
    networks never meet (``net``). No fragment that Linux would drop passes: one with a wrong header checksum, and a datagram
    of fragments that do and do not know ECN. The arena may grow: pointers into it are to be taken anew.
    """
    cdef const uint8_t *p = c.arena + c.off[i]
    cdef uint32_t n = c.len[i], wire_n = c.wire_len[i]
    cdef IpPacket ip
    cdef FragHead head
    cdef FragResult result
    if wire_n < n:
        wire_n = n
    ip.fragment = 0
    ip.is_fragment = False
    if ip_parse(load_be16(p + l3[0] - 2), p + l3[0], n - l3[0], wire_n - l3[0], &ip) != PASS:
        # What is known of it may be enough: a first fragment that cuts its chain of headers is no datagram's (RFC 7112 §5).
        return DROP_INNER_FRAGMENT_BAD if ip.is_fragment or ip.fragment else PASS
    if not ip.is_fragment:
        return PASS
    if ip.to_end or (ip.version == 4 and not ipv4_csum_ok(p + l3[0])):
        return DROP_INNER_FRAGMENT_BAD
    result = join_row(c, i, l3[0], &ip, c.net[i], table, &head, no_memory)
    if result == FRAG_HELD:
        return DROP_INNER_FRAGMENT_HELD
    if result == FRAG_DUPLICATE:
        return DROP_INNER_FRAGMENT_DUPLICATE
    if result == FRAG_OVERLAP:
        return DROP_INNER_FRAGMENT_OVERLAP
    if result != FRAG_COMPLETE or (head.marks & MARK_NOT_ECT and head.marks != MARK_NOT_ECT):
        return DROP_INNER_FRAGMENT_BAD
    l3[0] = head.hdr_l3
    c.cut[i] = <uint16_t>(head.packet_len if head.packet_len < 0xFFFF else 0xFFFF)
    return PASS
