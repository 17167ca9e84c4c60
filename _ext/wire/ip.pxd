"""Either IP: one description of what a packet's headers say, which every later stage works on instead of the bytes."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from vxlanfast._ext.verdict cimport Verdict, PASS, PUNT_NOT_IP, DROP_TRUNCATED, DROP_IP_LEN
from vxlanfast._ext.wire.endian cimport load_be16, load_be32
from vxlanfast._ext.wire.eth cimport ETH_TYPE_IPV4, ETH_TYPE_IPV6
from vxlanfast._ext.wire.ipv4 cimport (
    IPV4_FRAG_MASK, IPV4_MF, IPV4_OFF_ID, IPV4_OFF_PROTO, ipv4_check, ipv4_frag, ipv4_hdr_len, ipv4_total_len,
)
from vxlanfast._ext.wire.ipv6 cimport IPV6_HDR_LEN, ipv6_check, ipv6_find_l4, ipv6_payload_len


cdef struct IpPacket:
    uint32_t l4            # offset of the upper-layer header from the IP header
    uint32_t end           # offset one past the datagram, on the wire
    uint32_t fragment      # IPv6: offset of the fragment header; 0 none
    uint32_t frag_id       # host order
    uint32_t frag_offset   # bytes
    uint8_t version        # 4 or 6
    uint8_t proto          # of the upper layer
    bint frag_more
    bint is_fragment       # part of a datagram (an IPv6 "atomic" fragment, RFC 6946, is whole)
    bint to_end            # length field 0: the datagram runs to the end of the frame (BIG TCP, TSO)


cdef inline Verdict ip_parse(uint16_t ethertype, const uint8_t *p, uint32_t n, uint32_t wire_n,
                             IpPacket *ip) noexcept nogil:
    """Check and describe the IP packet at ``p``: ``n`` bytes captured of ``wire_n`` on the wire.

    Length 0 means "to the end": a segmentation offload wrote it (IPv4 total length 0, IPv6 payload length 0).
    """
    cdef Verdict v
    cdef uint32_t length
    cdef uint16_t frag
    if ethertype == ETH_TYPE_IPV4:
        v = ipv4_check(p, n)
        if v != PASS:
            return v
        ip.version = 4
        ip.proto = p[IPV4_OFF_PROTO]
        ip.l4 = ipv4_hdr_len(p)
        frag = ipv4_frag(p)
        ip.frag_offset = <uint32_t>(frag & IPV4_FRAG_MASK) * 8
        ip.frag_more = (frag & IPV4_MF) != 0
        ip.is_fragment = (frag & (IPV4_FRAG_MASK | IPV4_MF)) != 0
        ip.frag_id = load_be16(p + IPV4_OFF_ID)
        ip.fragment = 0
        length = ipv4_total_len(p)
    elif ethertype == ETH_TYPE_IPV6:
        v = ipv6_check(p, n)
        if v != PASS:
            return v
        ip.version = 6
        v = ipv6_find_l4(p, n, &ip.proto, &ip.l4, &ip.fragment)
        if v != PASS:
            return v
        if ip.fragment:
            frag = load_be16(p + ip.fragment + 2)
            ip.frag_offset = frag & 0xFFF8
            ip.frag_more = (frag & 1) != 0
            ip.frag_id = load_be32(p + ip.fragment + 4)
            ip.is_fragment = ip.frag_more or ip.frag_offset != 0
        else:
            ip.frag_offset = ip.frag_id = 0
            ip.frag_more = ip.is_fragment = False
        length = ipv6_payload_len(p)
        if length:
            length += IPV6_HDR_LEN
    else:
        return PUNT_NOT_IP
    ip.to_end = length == 0
    ip.end = wire_n if length == 0 else length
    if ip.end > wire_n or ip.end < ip.l4:
        return DROP_IP_LEN
    return PASS
