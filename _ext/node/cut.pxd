"""A datagram that came in fragments (``defrag``), cut again as it came: no piece longer than its sender's longest.

So a path MTU that the sender knows of holds for what was translated as for what was sent. Linux's director does the same
(``frag_max_size``): IPv4 keeps its identification, IPv6 gets a new one. On a way too narrow for such pieces they are made
shorter, where Linux sends an ICMP error. Each is a frame of its own: its headers would not always fit the head slot beside a
tunnel's.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from vxlanfast._ext.batch cimport Columns, row_copy
from vxlanfast._ext.verdict cimport PASS
from vxlanfast._ext.wire.csum cimport csum_finish, csum_short
from vxlanfast._ext.wire.endian cimport load_be16, store_be16, store_be32
from vxlanfast._ext.wire.eth cimport ETH_HDR_LEN, ETH_TYPE_IPV4, ETH_TYPE_IPV6, eth_find_l3
from vxlanfast._ext.wire.ipv4 cimport (
    IP_PROTO_DSTOPTS, IP_PROTO_FRAGMENT, IP_PROTO_HOPOPTS, IP_PROTO_ROUTING, IPV4_FRAG_MASK, IPV4_HDR_LEN, IPV4_MF, IPV4_OFF_CSUM,
    IPV4_OFF_FRAG, IPV4_OFF_TOTAL_LEN, IPV4_OPT_COPIED, IPV4_OPT_END, IPV4_OPT_NOP, ipv4_check, ipv4_frag, ipv4_hdr_len,
    ipv4_total_len,
)
from vxlanfast._ext.wire.ipv6 cimport (
    IPV6_FRAG_HDR_LEN, IPV6_HDR_LEN, IPV6_OFF_NEXT, IPV6_OFF_PAYLOAD_LEN, ipv6_check, ipv6_payload_len,
)


cdef enum CutKind:
    CUT_NOT = 0         # it fits, or is no whole IP packet: as any other row
    CUT_PIECES = 1
    CUT_NEVER = 2       # its headers leave no room


cdef struct Cut:
    uint32_t l3
    uint32_t hdr_len    # of the packet: what each piece has in front; IPv6: up to where the fragment header goes
    uint32_t next_at    # IPv6: the byte of the packet that will say that a fragment header follows
    uint32_t ext_len    # bytes of that: 8, or 0
    uint32_t payload    # bytes to be cut …
    uint32_t room       # … of which a piece has so many, a multiple of 8
    uint32_t pieces


cdef inline void cut_find6(const uint8_t *ip, uint32_t n, uint32_t *hdr_len, uint32_t *next_at) noexcept nogil:
    """Where the fragment header goes: behind the routing header, else the hop-by-hop options, else the first (RFC 8200 §4.5)."""
    cdef uint32_t at = IPV6_HDR_LEN, last = IPV6_OFF_NEXT
    cdef uint8_t kind = ip[IPV6_OFF_NEXT]
    hdr_len[0] = IPV6_HDR_LEN
    next_at[0] = IPV6_OFF_NEXT
    while (kind == IP_PROTO_HOPOPTS or kind == IP_PROTO_ROUTING or kind == IP_PROTO_DSTOPTS) and at + 8 <= n:
        last = at
        at += (ip[at + 1] + 1) * 8
        if at > n:
            return
        if kind != IP_PROTO_DSTOPTS:
            hdr_len[0] = at
            next_at[0] = last
        kind = ip[last]


cdef inline CutKind cut_find(const Columns *c, uint32_t i, uint32_t mtu, Cut *cut) noexcept nogil:
    """How row ``i``, which came in fragments, is cut for a way of that MTU (behind the Ethernet header; 0: any length)."""
    cdef const uint8_t *frame = c.arena + c.off[i]
    cdef const uint8_t *ip
    cdef uint32_t most = c.cut[i], n, total
    cdef uint16_t ethertype = 0
    if c.head_len[i] or eth_find_l3(frame, c.len[i], &ethertype, &cut.l3) != PASS:
        return CUT_NOT
    ip = frame + cut.l3
    n = c.len[i] - cut.l3
    cut.ext_len = cut.next_at = 0
    if ethertype == ETH_TYPE_IPV4 and ipv4_check(ip, n) == PASS:
        cut.hdr_len = ipv4_hdr_len(ip)
        total = ipv4_total_len(ip)
    elif ethertype == ETH_TYPE_IPV6 and ipv6_check(ip, n) == PASS:
        total = IPV6_HDR_LEN + ipv6_payload_len(ip)
        cut_find6(ip, n if n < total else total, &cut.hdr_len, &cut.next_at)
        cut.ext_len = IPV6_FRAG_HDR_LEN
    else:
        return CUT_NOT
    if mtu and mtu < most + cut.l3 - ETH_HDR_LEN:
        most = mtu - (cut.l3 - ETH_HDR_LEN) if mtu > cut.l3 - ETH_HDR_LEN else 0
    if total <= most or total > n or total <= cut.hdr_len:
        return CUT_NOT
    if most < cut.hdr_len + cut.ext_len + 8:
        return CUT_NEVER
    cut.payload = total - cut.hdr_len
    cut.room = (most - cut.hdr_len - cut.ext_len) & ~<uint32_t>7
    cut.pieces = (cut.payload + cut.room - 1) // cut.room
    return CUT_PIECES


cdef inline uint64_t cut_size(const Cut *cut) noexcept nogil:
    """Bytes of arena that the pieces take."""
    return cut.payload + <uint64_t>cut.pieces * (cut.l3 + cut.hdr_len + cut.ext_len)


cdef inline void cut_options(uint8_t *ip, uint32_t hdr_len) noexcept nogil:
    """Options that only the first fragment has (RFC 791 §3.1) become no-operations, as in Linux's ``ip_options_fragment``."""
    cdef uint32_t at = IPV4_HDR_LEN, size
    while at < hdr_len and ip[at] != IPV4_OPT_END:
        if ip[at] == IPV4_OPT_NOP:
            at += 1
            continue
        if at + 1 == hdr_len or ip[at + 1] < 2 or at + ip[at + 1] > hdr_len:
            return
        size = ip[at + 1]
        if not ip[at] & IPV4_OPT_COPIED:
            memset(ip + at, IPV4_OPT_NOP, size)
        at += size


cdef inline void cut_row(Columns *c, uint32_t i, const Cut *cut, uint32_t ident, uint32_t *order, uint32_t *used) noexcept nogil:
    """Row ``i`` becomes its pieces, each behind the other in ``order``. Rows and arena are there; ``ident``: IPv6's."""
    cdef const uint8_t *frame = c.arena + c.off[i]
    cdef uint32_t front = cut.l3 + cut.hdr_len, at = 0, size, row = i
    cdef uint16_t frag = 0 if cut.ext_len else ipv4_frag(frame + cut.l3)
    cdef uint8_t *ip
    cdef bint more
    while at < cut.payload:
        if at:
            row = c.n
            c.n += 1
            row_copy(c, i, row)
            order[used[0]] = row
            used[0] += 1
        more = at + cut.room < cut.payload
        size = cut.room if more else cut.payload - at
        memcpy(c.arena + c.arena_len, frame, front)
        memcpy(c.arena + c.arena_len + front + cut.ext_len, frame + front + at, size)
        ip = c.arena + c.arena_len + cut.l3
        if cut.ext_len:
            store_be16(ip + IPV6_OFF_PAYLOAD_LEN, <uint16_t>(cut.hdr_len - IPV6_HDR_LEN + IPV6_FRAG_HDR_LEN + size))
            ip[cut.hdr_len] = ip[cut.next_at]
            ip[cut.hdr_len + 1] = 0
            store_be16(ip + cut.hdr_len + 2, <uint16_t>(at | more))
            store_be32(ip + cut.hdr_len + 4, ident)
            ip[cut.next_at] = IP_PROTO_FRAGMENT
        else:
            # DF stays where the sender's fragments had it: pieces of their length are what it asked for.
            store_be16(ip + IPV4_OFF_TOTAL_LEN, <uint16_t>(cut.hdr_len + size))
            store_be16(ip + IPV4_OFF_FRAG, <uint16_t>((frag & ~(IPV4_MF | IPV4_FRAG_MASK)) | ((frag + (at >> 3)) & IPV4_FRAG_MASK)
                                                      | (IPV4_MF if more else frag & IPV4_MF)))
            if at and cut.hdr_len > IPV4_HDR_LEN:
                cut_options(ip, cut.hdr_len)
            store_be16(ip + IPV4_OFF_CSUM, 0)
            store_be16(ip + IPV4_OFF_CSUM, csum_finish(csum_short(ip, cut.hdr_len)))
        c.off[row] = <uint32_t>c.arena_len
        c.len[row] = c.wire_len[row] = front + cut.ext_len + size
        c.cut[row] = 0
        c.arena_len += c.len[row]
        at += size
