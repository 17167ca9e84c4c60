"""Rows that become ICMP messages about the packet they brought (RFC 792, RFC 1812 §4.3, RFC 4443 §2.4, §3).

The message stands in the row's head slot, and the packet it quotes is the row's body, where it lay: nothing is copied.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, int64_t
from libc.string cimport memcpy

from vxlanfast._ext.batch cimport BATCH_HEAD_LEN, Columns, row_head
from vxlanfast._ext.table.net cimport NET_GATEWAY4, NET_GATEWAY6, Net
from vxlanfast._ext.wire.csum cimport csum, csum_finish, csum_pseudo4, csum_pseudo6, csum_short
from vxlanfast._ext.wire.endian cimport load_be16, load_be32, store_be16, store_be32
from vxlanfast._ext.wire.eth cimport ETH_OFF_DST, ETH_OFF_SRC, ETH_OFF_TYPE
from vxlanfast._ext.wire.icmp cimport (
    ICMP6_ECHO, ICMP_DEST_UNREACH, ICMP_HDR_LEN, ICMP_OFF_CSUM, ICMP_PARAM_PROBLEM, ICMP_REDIRECT, ICMP_SOURCE_QUENCH,
    ICMP_TIME_EXCEEDED,
)
from vxlanfast._ext.wire.ipv4 cimport (
    IP_PROTO_ICMP, IP_PROTO_ICMPV6, IP_PROTO_TCP, IPV4_DF, IPV4_FRAG_MASK, IPV4_HDR_LEN, IPV4_OFF_DST, IPV4_OFF_PROTO, IPV4_OFF_SRC,
    ipv4_frag, ipv4_hdr_len, ipv4_write,
)
from vxlanfast._ext.wire.ipv6 cimport IPV6_HDR_LEN, IPV6_OFF_DST, IPV6_OFF_SRC, ipv6_find_l4, ipv6_write
from vxlanfast._ext.verdict cimport PASS, RULE_RESET
from vxlanfast._ext.wire.tcp cimport (
    TCP_FLAG_ACK, TCP_FLAG_FIN, TCP_FLAG_RST, TCP_FLAG_SYN, TCP_HDR_LEN, tcp_ack, tcp_dst, tcp_flags, tcp_seq, tcp_set_csum,
    tcp_src, tcp_write,
)

cdef enum:
    ICMP_EVERY_NS = 1000000     # a thousand errors a second of one network (Linux: icmp_msgs_per_sec) …
    ICMP_BURST_NS = 50000000    # … fifty at once (icmp_msgs_burst)
    QUOTE4_LEN = 548            # with its headers an error has 576 bytes at most (RFC 1812 §4.3.2.3)
    QUOTE6_LEN = 1232           # … 1280 (RFC 4443 §3)
    TTL = 64
    TOS_CONTROL = 0xC0          # precedence 6, internetwork control (RFC 1812 §4.3.2.5)


cdef inline bint icmp_allowed(Net *net, int64_t now_ns) noexcept nogil:
    """One more error within the rate (RFC 1812 §4.3.2.8, RFC 4443 §2.4(f))."""
    cdef int64_t due = net.icmp_next_ns if net.icmp_next_ns > now_ns else now_ns
    if due - now_ns >= ICMP_BURST_NS:
        return False
    net.icmp_next_ns = due + ICMP_EVERY_NS
    return True


cdef inline bint is_one_host4(uint32_t addr) noexcept nogil:
    """Neither of this network, loopback, multicast, nor reserved."""
    return addr >> 24 != 0 and addr >> 24 != 127 and addr >> 28 < 0xE


cdef inline bint is_one_host6(const uint8_t *addr) noexcept nogil:
    """Neither multicast, unspecified nor loopback."""
    return addr[0] != 0xFF and (addr[15] > 1 or csum_short(addr, 15) != 0)


cdef inline bint may_report(const uint8_t *frame, const uint8_t *ip, uint32_t n) noexcept nogil:
    """Whether an error about this packet may be sent (RFC 1812 §4.3.2.7, RFC 4443 §2.4(e)): not about an ICMP error, a
    later fragment, what went to or came from more than one. Header checked by the caller, ``n`` bytes from it on."""
    cdef uint8_t proto = 0
    cdef uint32_t l4 = 0, fragment = 0, hdr_len
    if ip[0] >> 4 == 4:
        if ipv4_frag(ip) & IPV4_FRAG_MASK or frame[ETH_OFF_DST] & 1 or not is_one_host4(load_be32(ip + IPV4_OFF_SRC)) \
                or load_be32(ip + IPV4_OFF_DST) >> 28 >= 0xE:
            return False
        if ip[IPV4_OFF_PROTO] == IP_PROTO_ICMP:
            hdr_len = ipv4_hdr_len(ip)
            return n > hdr_len and not (ip[hdr_len] == ICMP_DEST_UNREACH or ip[hdr_len] == ICMP_SOURCE_QUENCH
                                        or ip[hdr_len] == ICMP_REDIRECT or ip[hdr_len] == ICMP_TIME_EXCEEDED
                                        or ip[hdr_len] == ICMP_PARAM_PROBLEM)
        return True
    if not is_one_host6(ip + IPV6_OFF_SRC) or ip[IPV6_OFF_DST] == 0xFF or frame[ETH_OFF_DST] & 1:
        return False
    if ipv6_find_l4(ip, n, &proto, &l4, &fragment) != PASS:
        return False
    if fragment and load_be16(ip + fragment + 2) & 0xFFF8:
        return False
    return proto != IP_PROTO_ICMPV6 or (n > l4 and ip[l4] >= ICMP6_ECHO)


cdef inline bint become_error(Columns *c, uint32_t i, const Net *net, uint32_t l3, uint32_t ip_n, uint8_t kind, uint8_t code,
                              uint32_t word, uint8_t rule, const uint8_t *sender=NULL) noexcept nogil:
    """Row ``i`` is the error of that type and code, on its way back to where it came from; ``word``: bytes 4 to 7 of it.

    ``l3``: of the frame, a row without headers in front; ``ip_n``: bytes of the packet that are there. It comes from
    ``sender``, else from the gateway's address where the network has one, else from the packet's destination, as the
    kernel's ``iptunnel_pmtud_build_icmp`` has it. False, and nothing changed: no room in the slot (a dozen tags).
    """
    cdef const uint8_t *frame = c.arena + c.off[i]
    cdef const uint8_t *ip = frame + l3
    cdef uint32_t is_v6 = ip[0] >> 4 == 6, hdr_len = IPV6_HDR_LEN if is_v6 else IPV4_HDR_LEN
    cdef uint32_t quoted = QUOTE6_LEN if is_v6 else QUOTE4_LEN, size
    cdef uint8_t *p
    cdef uint8_t *q
    if sender != NULL:
        pass
    elif not net.flags & (NET_GATEWAY6 if is_v6 else NET_GATEWAY4):
        sender = ip + (IPV6_OFF_DST if is_v6 else IPV4_OFF_DST)
    else:
        sender = <const uint8_t *>net.gateway6
        if not is_v6:
            sender = <const uint8_t *>net.gateway4
    if c.head_len[i] or l3 + hdr_len + ICMP_HDR_LEN > BATCH_HEAD_LEN:
        return False
    if quoted > ip_n:
        quoted = ip_n
    size = ICMP_HDR_LEN + quoted
    c.head_len[i] = <uint8_t>(l3 + hdr_len + ICMP_HDR_LEN)
    p = row_head(c, i)
    memcpy(p + ETH_OFF_DST, frame + ETH_OFF_SRC, 6)
    memcpy(p + ETH_OFF_SRC, frame + ETH_OFF_DST, 6)
    memcpy(p + ETH_OFF_TYPE, frame + ETH_OFF_TYPE, l3 - ETH_OFF_TYPE)
    p += l3
    q = p + hdr_len
    q[0] = kind
    q[1] = code
    store_be16(q + ICMP_OFF_CSUM, 0)
    store_be32(q + 4, word)
    if is_v6:
        ipv6_write(p, TOS_CONTROL, 0, <uint16_t>size, IP_PROTO_ICMPV6, TTL)
        memcpy(p + IPV6_OFF_SRC, sender, 16)
        memcpy(p + IPV6_OFF_DST, ip + IPV6_OFF_SRC, 16)
        store_be16(q + ICMP_OFF_CSUM,
                   csum_finish(csum_pseudo6(p, size, IP_PROTO_ICMPV6) + csum_short(q, ICMP_HDR_LEN) + csum(ip, quoted)))
    else:
        ipv4_write(p, TOS_CONTROL, <uint16_t>(IPV4_HDR_LEN + size), 0, IPV4_DF, TTL, IP_PROTO_ICMP,
                   load_be32(sender), load_be32(ip + IPV4_OFF_SRC))
        store_be16(q + ICMP_OFF_CSUM, csum_finish(csum_short(q, ICMP_HDR_LEN) + csum(ip, quoted)))
    c.off[i] += l3
    c.len[i] = quoted
    c.wire_len[i] = c.head_len[i] + quoted
    c.cut[i] = 0
    c.dest[i] = c.origin[i]
    c.rule[i] = rule
    return True


cdef inline bint become_reset(Columns *c, uint32_t i, uint32_t l3, uint32_t l4, uint32_t ip_n, uint32_t payload) noexcept nogil:
    """Row ``i``, a TCP segment with ``payload`` bytes, is the reset that answers it (RFC 9293 §3.10.7.1), on its way back. False, and
    nothing changed: it is a reset itself, or there is no room. ``l4``: of the IP header, whose ``ip_n`` bytes are there."""
    cdef const uint8_t *frame = c.arena + c.off[i]
    cdef const uint8_t *ip = frame + l3
    cdef const uint8_t *tcp = ip + l4
    cdef bint is_v6 = ip[0] >> 4 == 6
    cdef uint32_t hdr_len = IPV6_HDR_LEN if is_v6 else IPV4_HDR_LEN, seq = 0, ack = 0
    cdef uint8_t flags = tcp_flags(tcp)
    cdef uint8_t *p
    cdef uint8_t *q
    if c.head_len[i] or l3 + hdr_len + TCP_HDR_LEN > BATCH_HEAD_LEN or flags & TCP_FLAG_RST:
        return False
    if flags & TCP_FLAG_ACK:
        seq = tcp_ack(tcp)
    else:
        ack = tcp_seq(tcp) + payload + (1 if flags & TCP_FLAG_SYN else 0) + (1 if flags & TCP_FLAG_FIN else 0)
    c.head_len[i] = <uint8_t>(l3 + hdr_len + TCP_HDR_LEN)
    p = row_head(c, i)
    memcpy(p + ETH_OFF_DST, frame + ETH_OFF_SRC, 6)
    memcpy(p + ETH_OFF_SRC, frame + ETH_OFF_DST, 6)
    memcpy(p + ETH_OFF_TYPE, frame + ETH_OFF_TYPE, l3 - ETH_OFF_TYPE)
    p += l3
    q = p + hdr_len
    tcp_write(q, tcp_dst(tcp), tcp_src(tcp), seq, ack, TCP_FLAG_RST if flags & TCP_FLAG_ACK else TCP_FLAG_RST | TCP_FLAG_ACK, 0)
    if is_v6:
        ipv6_write(p, 0, 0, TCP_HDR_LEN, IP_PROTO_TCP, TTL)
        memcpy(p + IPV6_OFF_SRC, ip + IPV6_OFF_DST, 16)
        memcpy(p + IPV6_OFF_DST, ip + IPV6_OFF_SRC, 16)
        tcp_set_csum(q, csum_finish(csum_pseudo6(p, TCP_HDR_LEN, IP_PROTO_TCP) + csum_short(q, TCP_HDR_LEN)))
    else:
        ipv4_write(p, 0, IPV4_HDR_LEN + TCP_HDR_LEN, 0, IPV4_DF, TTL, IP_PROTO_TCP, load_be32(ip + IPV4_OFF_DST),
                   load_be32(ip + IPV4_OFF_SRC))
        tcp_set_csum(q, csum_finish(csum_pseudo4(p, TCP_HDR_LEN, IP_PROTO_TCP) + csum_short(q, TCP_HDR_LEN)))
    c.len[i] = 0
    c.wire_len[i] = c.head_len[i]
    c.dest[i] = c.origin[i]
    c.rule[i] = RULE_RESET
    return True
