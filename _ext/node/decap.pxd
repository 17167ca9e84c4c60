"""Taking VXLAN off: the rules, and the leaf that finds the inner frame of one packet."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from vxlanfast._ext.verdict cimport (
    Verdict, PASS, PUNT_FRAGMENT, PUNT_GPE, PUNT_NOT_UDP, PUNT_PORT, DROP_FILTER_VNI, DROP_INNER_RUNT, DROP_IP_CSUM,
    DROP_NO_VNI, DROP_RESERVED, DROP_TRUNCATED, DROP_UDP_CSUM, DROP_UDP_NO_CSUM, DROP_VXLAN_LEN,
)
from vxlanfast._ext.wire.csum cimport csum, csum_fold, csum_pseudo4, csum_pseudo6
from vxlanfast._ext.wire.endian cimport load_be16, load_be32, likely
from vxlanfast._ext.wire.eth cimport ETH_HDR_LEN, ETH_TYPE_IPV4
from vxlanfast._ext.wire.ip cimport IpPacket, ip_parse
from vxlanfast._ext.wire.ipv4 cimport IP_PROTO_UDP, IPV4_HDR_LEN, ipv4_csum_ok
from vxlanfast._ext.wire.link cimport LINK_ETHERNET, link_find_l3
from vxlanfast._ext.wire.udp cimport UDP_HDR_LEN, udp_csum, udp_dst, udp_find_end
from vxlanfast._ext.wire.vxlan cimport (
    VXLAN_GPE_ETHERNET, VXLAN_HDR_LEN, VXLAN_OFF_NEXT_PROTO,
    vxlan_has_reserved, vxlan_has_vni, vxlan_is_gpe, vxlan_vni,
)


cdef struct VniRange:
    uint32_t first
    uint32_t last  # inclusive


cdef struct DecapRules:
    uint8_t ports[8192]   # bit per UDP destination port
    bint strict
    bint peek             # look, and leave the frame as it is
    uint32_t levels       # 0: all there are
    VniRange *vnis        # sorted, disjoint
    uint32_t n_vnis       # 0: every VNI


cdef struct VxlanFrame:
    uint32_t l3        # offsets in the outer frame
    uint32_t l4
    uint32_t inner
    uint32_t end       # one past the inner frame, on the wire
    uint32_t vni


cdef inline bint vni_wanted(const DecapRules *rules, uint32_t vni) noexcept nogil:
    cdef uint32_t low = 0, high = rules.n_vnis, mid
    if high == 0:
        return True
    while low < high:
        mid = (low + high) >> 1
        if vni > rules.vnis[mid].last:
            low = mid + 1
        elif vni < rules.vnis[mid].first:
            high = mid
        else:
            return True
    return False


cdef inline Verdict outer_csums(const uint8_t *p, uint32_t n, uint32_t l3, uint32_t l4, uint32_t end,
                                uint8_t version) noexcept nogil:
    """Strict only: captures of a sender that leaves checksums to its card show wrong ones.

    A cut datagram cannot be verified and passes. RFC 7348 §4.1: a non-zero checksum may be verified, and a wrong one
    MUST then be dropped; RFC 8200 §8.1: over IPv6 zero is only for those that agreed on it.
    """
    cdef uint64_t total
    if version == 4 and not ipv4_csum_ok(p + l3):
        return DROP_IP_CSUM
    if udp_csum(p + l4) == 0:
        return DROP_UDP_NO_CSUM if version == 6 else PASS
    if end > n:
        return PASS
    total = csum(p + l4, end - l4)
    if version == 4:
        total += csum_pseudo4(p + l3, end - l4, IP_PROTO_UDP)
    else:
        total += csum_pseudo6(p + l3, end - l4, IP_PROTO_UDP)
    return PASS if csum_fold(total) == 0xFFFF else DROP_UDP_CSUM


cdef inline Verdict decap_find(const uint8_t *p, uint32_t n, uint32_t wire_n, uint32_t link,
                               const DecapRules *rules, VxlanFrame *out) noexcept nogil:
    """Where the inner frame of the packet at ``p`` is: ``n`` bytes captured of ``wire_n``.

    The destination port decides, and then the I flag. Bytes behind the outer UDP length are padding.
    """
    cdef Verdict v
    cdef uint16_t ethertype, port
    cdef uint32_t l3, l4, udp_end, room
    cdef IpPacket ip
    cdef uint8_t version
    cdef bint to_end
    if likely(link == LINK_ETHERNET and n >= ETH_HDR_LEN + IPV4_HDR_LEN + UDP_HDR_LEN + VXLAN_HDR_LEN
              and load_be32(p + 12) >> 8 == 0x080045 and p[23] == IP_PROTO_UDP
              and load_be16(p + 20) & 0x3FFF == 0 and 28 <= load_be16(p + 16)
              and load_be16(p + 16) <= wire_n - ETH_HDR_LEN):
        # Ethernet, IPv4 without options, unfragmented, of a length that fits: what nearly every packet is. The
        # general way below says the same of it; the tests hold the two against each other.
        l3 = ETH_HDR_LEN
        l4 = ETH_HDR_LEN + IPV4_HDR_LEN
        room = load_be16(p + 16) - IPV4_HDR_LEN
        version = 4
        to_end = False
    else:
        v = link_find_l3(link, p, n, &ethertype, &l3)
        if v != PASS:
            return v
        v = ip_parse(ethertype, p + l3, n - l3, wire_n - l3, &ip)
        if v != PASS:
            return v
        if ip.proto != IP_PROTO_UDP:
            return PUNT_NOT_UDP
        if ip.is_fragment:
            return PUNT_FRAGMENT
        l4 = l3 + ip.l4
        room = ip.end - ip.l4
        version = ip.version
        to_end = ip.to_end
        if n < l4 + UDP_HDR_LEN:
            return DROP_TRUNCATED
    port = udp_dst(p + l4)
    if not (rules.ports[port >> 3] >> (port & 7)) & 1:
        return PUNT_PORT
    v = udp_find_end(p + l4, room, to_end, &udp_end)
    if v != PASS:
        return v
    if udp_end < UDP_HDR_LEN + VXLAN_HDR_LEN:
        return DROP_VXLAN_LEN
    if n < l4 + UDP_HDR_LEN + VXLAN_HDR_LEN:
        return DROP_TRUNCATED
    out.l3 = l3
    out.l4 = l4
    l4 += UDP_HDR_LEN
    if not vxlan_has_vni(p + l4):
        return DROP_NO_VNI
    if vxlan_has_reserved(p + l4):
        if vxlan_is_gpe(p + l4) and p[l4 + VXLAN_OFF_NEXT_PROTO] != VXLAN_GPE_ETHERNET:
            return PUNT_GPE
        if rules.strict:
            return DROP_RESERVED
    out.vni = vxlan_vni(p + l4)
    out.inner = l4 + VXLAN_HDR_LEN
    out.end = out.l4 + udp_end
    if out.end - out.inner < ETH_HDR_LEN:
        return DROP_INNER_RUNT
    if rules.strict:
        v = outer_csums(p, n, out.l3, out.l4, out.end, version)
        if v != PASS:
            return v
    return PASS if vni_wanted(rules, out.vni) else DROP_FILTER_VNI


cdef class Decap:
    cdef DecapRules rules
    cdef uint64_t counts[64]
    cdef readonly object reassembler
