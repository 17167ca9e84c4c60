"""Super-frames: TCP or UDP of up to 64 KiB behind one set of headers, which stand for many frames (TSO and USO on the way
down, GRO on the way up). What their headers are, what each segment's are, and whether a segment continues one.

The transport checksum of a super-frame is nobody's: whoever hands one over leaves it to be made, so it is made where the frame
leaves, and what stands there meanwhile, updated or not, means nothing.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from vxlanfast._ext.verdict cimport PASS
from vxlanfast._ext.wire.csum cimport csum, csum_finish, csum_finish_udp, csum_fold, csum_pseudo4, csum_pseudo6, csum_short
from vxlanfast._ext.wire.endian cimport load_be16, load_be32, load_host16, load_host32, store_be16, store_be32
from vxlanfast._ext.wire.eth cimport ETH_OFF_TYPE, ETH_TYPE_IPV4, ETH_TYPE_IPV6, eth_skip_tags
from vxlanfast._ext.wire.ipv4 cimport (
    IP_PROTO_TCP, IP_PROTO_UDP, IPV4_DF, IPV4_FRAG_MASK, IPV4_MF, IPV4_OFF_CSUM, IPV4_OFF_ID, IPV4_OFF_PROTO,
    IPV4_OFF_TOTAL_LEN, ipv4_check, ipv4_csum_ok, ipv4_frag, ipv4_hdr_len, ipv4_total_len,
)
from vxlanfast._ext.wire.ipv6 cimport IPV6_HDR_LEN, IPV6_OFF_NEXT, IPV6_OFF_PAYLOAD_LEN, ipv6_check, ipv6_payload_len
from vxlanfast._ext.wire.tcp cimport (
    TCP_FLAG_ACK, TCP_FLAG_CWR, TCP_FLAG_FIN, TCP_FLAG_PSH, TCP_OFF_ACK, TCP_OFF_CSUM, TCP_OFF_FLAGS, TCP_OFF_SEQ, TCP_OFF_WINDOW,
    tcp_check, tcp_hdr_len, tcp_seq,
)
from vxlanfast._ext.wire.udp cimport UDP_HDR_LEN, UDP_OFF_CSUM, UDP_OFF_LEN, udp_len

cdef enum:
    SEG_HDR_MAX = 160       # Ethernet with tags, IP with options or not, TCP with options


cdef struct Shape:
    uint32_t l3
    uint32_t l4
    uint32_t hdr_len        # everything in front of the payload
    uint32_t payload        # bytes of it, by the IP header's length
    uint8_t proto           # TCP or UDP
    bint is_v6


cdef inline bint shape_find(const uint8_t *frame, uint32_t n, Shape *s) noexcept nogil:
    """What a frame of ``n`` bytes is made of: whole TCP or UDP over IPv4, or over IPv6 without extension headers. False: anything
    else, or lengths that do not hold together."""
    cdef uint16_t ethertype = 0
    cdef uint32_t end
    cdef const uint8_t *ip
    if eth_skip_tags(frame, n, ETH_OFF_TYPE, &ethertype, &s.l3) != PASS:
        return False
    ip = frame + s.l3
    if ethertype == ETH_TYPE_IPV4:
        if ipv4_check(ip, n - s.l3) != PASS or ipv4_frag(ip) & (IPV4_MF | IPV4_FRAG_MASK):
            return False
        s.is_v6 = False
        s.l4 = s.l3 + ipv4_hdr_len(ip)
        s.proto = ip[IPV4_OFF_PROTO]
        end = s.l3 + ipv4_total_len(ip)
    elif ethertype == ETH_TYPE_IPV6:
        if ipv6_check(ip, n - s.l3) != PASS:
            return False
        s.is_v6 = True
        s.l4 = s.l3 + IPV6_HDR_LEN
        s.proto = ip[IPV6_OFF_NEXT]
        end = s.l4 + ipv6_payload_len(ip)
    else:
        return False
    if end > n or end < s.l4:
        return False
    if s.proto == IP_PROTO_TCP:
        if tcp_check(frame + s.l4, end - s.l4) != PASS:
            return False
        s.hdr_len = s.l4 + tcp_hdr_len(frame + s.l4)
    elif s.proto == IP_PROTO_UDP:
        if end < s.l4 + UDP_HDR_LEN or udp_len(frame + s.l4) != end - s.l4:
            return False
        s.hdr_len = s.l4 + UDP_HDR_LEN
    else:
        return False
    s.payload = end - s.hdr_len
    return s.hdr_len <= SEG_HDR_MAX


cdef inline uint64_t shape_pseudo(const uint8_t *frame, const Shape *s, uint32_t payload) noexcept nogil:
    """The pseudo header's sum for so many bytes of payload."""
    cdef uint32_t size = s.hdr_len - s.l4 + payload
    return csum_pseudo6(frame + s.l3, size, s.proto) if s.is_v6 else csum_pseudo4(frame + s.l3, size, s.proto)


cdef inline uint32_t shape_csum_off(const Shape *s) noexcept nogil:
    """Where its checksum field is, from its transport header."""
    return TCP_OFF_CSUM if s.proto == IP_PROTO_TCP else UDP_OFF_CSUM


cdef inline bint shape_csum_ok(const uint8_t *frame, const Shape *s) noexcept nogil:
    """Transport and IPv4 header checksums both right; a UDP one that is not there is not."""
    if not s.is_v6 and not ipv4_csum_ok(frame + s.l3):
        return False
    if s.proto == IP_PROTO_UDP and load_host16(frame + s.l4 + UDP_OFF_CSUM) == 0:
        return False
    return csum_fold(csum(frame + s.l4, s.hdr_len - s.l4 + s.payload) + shape_pseudo(frame, s, s.payload)) == 0xFFFF


cdef inline void segment_put(uint8_t *out, const uint8_t *frame, const Shape *s, uint32_t at, uint32_t size, uint32_t number,
                             bint last) noexcept nogil:
    """The headers of a segment: ``s.hdr_len`` bytes at ``out``, for ``size`` bytes of payload from ``at`` on, the
    ``number``-th; as the kernel's ``tcp_gso_segment`` and ``__udp_gso_segment`` make them. ``frame``: the whole super-frame."""
    cdef uint8_t *ip = out + s.l3
    cdef uint8_t *l4 = out + s.l4
    cdef uint64_t total
    memcpy(out, frame, s.hdr_len)
    if s.is_v6:
        store_be16(ip + IPV6_OFF_PAYLOAD_LEN, <uint16_t>(s.hdr_len - s.l4 + size))
    else:
        store_be16(ip + IPV4_OFF_TOTAL_LEN, <uint16_t>(s.hdr_len - s.l3 + size))
        store_be16(ip + IPV4_OFF_ID, <uint16_t>(load_be16(ip + IPV4_OFF_ID) + number))
        store_be16(ip + IPV4_OFF_CSUM, 0)
        store_be16(ip + IPV4_OFF_CSUM, csum_finish(csum_short(ip, s.l4 - s.l3)))
    if s.proto == IP_PROTO_TCP:
        store_be32(l4 + TCP_OFF_SEQ, tcp_seq(frame + s.l4) + at)
        if not last:
            l4[TCP_OFF_FLAGS] &= <uint8_t>~(TCP_FLAG_FIN | TCP_FLAG_PSH)
        if number:
            l4[TCP_OFF_FLAGS] &= <uint8_t>~TCP_FLAG_CWR  # said once (RFC 3168 §6.1.2)
        store_be16(l4 + TCP_OFF_CSUM, 0)
    else:
        store_be16(l4 + UDP_OFF_LEN, <uint16_t>(UDP_HDR_LEN + size))
        if load_host16(frame + s.l4 + UDP_OFF_CSUM) == 0:
            return
        store_be16(l4 + UDP_OFF_CSUM, 0)
    total = csum_short(l4, s.hdr_len - s.l4) + csum(frame + s.hdr_len + at, size) + shape_pseudo(out, s, size)
    if s.proto == IP_PROTO_TCP:
        store_be16(l4 + TCP_OFF_CSUM, csum_finish(total))
    else:
        store_be16(l4 + UDP_OFF_CSUM, csum_finish_udp(total))


cdef inline bint segment_begins(const uint8_t *frame, const Shape *s) noexcept nogil:
    """Whether others may be appended: TCP data that only acknowledges, or UDP data."""
    if s.payload == 0:
        return False
    if s.proto == IP_PROTO_TCP:
        return frame[s.l4 + TCP_OFF_FLAGS] == TCP_FLAG_ACK
    return True


cdef inline bint segment_continues(const uint8_t *a, const Shape *s, uint32_t had, uint32_t count, const uint8_t *b,
                                   const Shape *t) noexcept nogil:
    """Whether the frame ``b`` is what comes behind ``had`` bytes of payload in ``count`` segments of ``a``: the same headers but for
    lengths, numbers and checksums (the kernel's ``tcp_gro_receive``, ``inet_gro_receive``)."""
    cdef const uint8_t *ip = a + s.l3
    cdef const uint8_t *other = b + t.l3
    cdef uint8_t flags
    if s.l3 != t.l3 or s.l4 != t.l4 or s.hdr_len != t.hdr_len or s.proto != t.proto or t.payload == 0 or memcmp(a, b, s.l3):
        return False
    if s.is_v6:
        if memcmp(ip, other, 4) or memcmp(ip + 6, other + 6, 34):
            return False
    else:
        # Version, length and TOS; DF, TTL, protocol, addresses and options: all but length, identification and checksum.
        if load_host16(ip) != load_host16(other) or load_host32(ip + 6) != load_host32(other + 6):
            return False
        if memcmp(ip + 12, other + 12, s.l4 - s.l3 - 12):
            return False
        if not ipv4_frag(ip) & IPV4_DF and \
                <uint16_t>(load_be16(ip + IPV4_OFF_ID) + count) != load_be16(other + IPV4_OFF_ID):
            return False  # a segment's identification would not be what it was
    ip = a + s.l4
    other = b + t.l4
    if load_host32(ip) != load_host32(other):
        return False  # ports
    if s.proto == IP_PROTO_UDP:
        return True
    flags = other[TCP_OFF_FLAGS]
    return (tcp_seq(other) == tcp_seq(ip) + had and load_be32(other + TCP_OFF_ACK) == load_be32(ip + TCP_OFF_ACK)
            and load_host16(other + TCP_OFF_WINDOW) == load_host16(ip + TCP_OFF_WINDOW)
            and flags & <uint8_t>~(TCP_FLAG_PSH | TCP_FLAG_FIN) == TCP_FLAG_ACK and ip[12] == other[12]
            and memcmp(ip + 20, other + 20, s.hdr_len - s.l4 - 20) == 0)
