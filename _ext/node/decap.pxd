"""Taking VXLAN and GENEVE off: the rules, and the leaf that finds the inner frame of one packet."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from vxlanfast._ext.verdict cimport (
    Verdict, PASS, PUNT_FRAGMENT, PUNT_GENEVE, PUNT_GPE, PUNT_NOT_UDP, PUNT_PORT, DROP_FILTER_VNI, DROP_INNER_RUNT, DROP_IP_CSUM,
    DROP_IP_HEADER, DROP_NO_VNI, DROP_RESERVED, DROP_TRUNCATED, DROP_UDP_CSUM, DROP_UDP_NO_CSUM, DROP_VXLAN_LEN, VERDICT_COUNT,
)
from vxlanfast._ext.wire.csum cimport csum, csum_fold, csum_pseudo4, csum_pseudo6
from vxlanfast._ext.wire.endian cimport load_be16, load_be32, likely
from vxlanfast._ext.wire.eth cimport ETH_HDR_LEN, ETH_TYPE_IPV4, ETH_TYPE_IPV6
from vxlanfast._ext.wire.geneve cimport (
    GENEVE_ETHERNET, geneve_check, geneve_has_reserved, geneve_hdr_len, geneve_is_control, geneve_proto, geneve_vni,
)
from vxlanfast._ext.wire.ip cimport IpPacket, ip_parse
from vxlanfast._ext.wire.ipv4 cimport IP_PROTO_UDP, IPV4_HDR_LEN, ipv4_csum_ok
from vxlanfast._ext.wire.link cimport LINK_ETHERNET, LINK_RAW, link_find_l3
from vxlanfast._ext.wire.udp cimport UDP_HDR_LEN, udp_csum, udp_dst, udp_find_end
from vxlanfast._ext.wire.vxlan cimport (
    VXLAN_GPE_ETHERNET, VXLAN_HDR_LEN, VXLAN_OFF_NEXT_PROTO,
    vxlan_has_reserved, vxlan_has_vni, vxlan_is_gpe, vxlan_vni,
)


cdef struct VniRange:
    uint32_t first
    uint32_t last  # inclusive


cdef struct DecapRules:
    uint8_t ports[8192]   # bit per UDP destination port: VXLAN
    uint8_t geneve_ports[8192]  # … and GENEVE
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
    uint16_t link      # of the inner frame: Ethernet, or RAW for GENEVE that carries IP


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


cdef inline bint decap_common(const uint8_t *p, uint32_t n, uint32_t wire_n, const uint8_t *ports,
                              VxlanFrame *out) noexcept nogil:
    """The packet nearly every row is, found in a few loads: Ethernet, IPv4 without options, unfragmented, UDP to one of
    ``ports``, lengths that fit, a VXLAN header with only I set. False says nothing but "ask ``decap_find``", which
    says the same of such a packet: the tests hold the two against each other."""
    cdef uint32_t total, udp_len
    if n < ETH_HDR_LEN + IPV4_HDR_LEN + UDP_HDR_LEN + VXLAN_HDR_LEN:
        return False
    total = load_be16(p + 16)
    udp_len = load_be32(p + 36)  # destination port and length
    if not (likely((load_be32(p + 12) & 0xFFFFFF00U) == 0x08004500U)      # IPv4, 20 bytes of header
            and likely((load_be32(p + 20) & 0x3FFF00FFU) == IP_PROTO_UDP)  # no fragment, UDP
            and likely((ports[udp_len >> 19] >> ((udp_len >> 16) & 7)) & 1)
            and likely(load_be32(p + 42) == 0x08000000U) and likely(p[49] == 0)):
        return False
    udp_len &= 0xFFFF
    out.inner = ETH_HDR_LEN + IPV4_HDR_LEN + UDP_HDR_LEN + VXLAN_HDR_LEN
    out.end = ETH_HDR_LEN + IPV4_HDR_LEN + udp_len
    out.vni = load_be32(p + 46) >> 8
    out.link = LINK_ETHERNET
    return (likely(total + ETH_HDR_LEN <= wire_n) and likely(udp_len + IPV4_HDR_LEN <= total)
            and likely(udp_len >= UDP_HDR_LEN + VXLAN_HDR_LEN + ETH_HDR_LEN))


cdef inline Verdict geneve_find(const uint8_t *p, uint32_t n, uint32_t l3, uint32_t l4, uint32_t udp_end, uint8_t version,
                                const DecapRules *rules, VxlanFrame *out) noexcept nogil:
    """What is in the GENEVE of a datagram of ``udp_end`` bytes at ``l4``. Options are skipped, reserved bits ignored."""
    cdef Verdict v
    cdef uint16_t proto
    cdef uint32_t at = l4 + UDP_HDR_LEN
    if n < at:
        return DROP_TRUNCATED
    v = geneve_check(p + at, n - at, udp_end - UDP_HDR_LEN)
    if v != PASS:
        return v
    proto = geneve_proto(p + at)
    out.l3 = l3
    out.l4 = l4
    out.vni = geneve_vni(p + at)
    out.inner = at + geneve_hdr_len(p + at)
    out.end = l4 + udp_end
    if geneve_is_control(p + at) or (proto != GENEVE_ETHERNET and proto != ETH_TYPE_IPV4 and proto != ETH_TYPE_IPV6):
        return PUNT_GENEVE
    out.link = LINK_ETHERNET if proto == GENEVE_ETHERNET else LINK_RAW
    if out.end - out.inner < (ETH_HDR_LEN if proto == GENEVE_ETHERNET else IPV4_HDR_LEN):
        return DROP_INNER_RUNT
    if rules.strict:
        if geneve_has_reserved(p + at):
            return DROP_RESERVED
        v = outer_csums(p, n, l3, l4, out.end, version)
        if v != PASS:
            return v
    # IP inside may be the way of a VXLAN packet, whose VNI it is that counts (a load balancer's own is always 0).
    return PASS if out.link == LINK_RAW or vni_wanted(rules, out.vni) else DROP_FILTER_VNI


cdef inline Verdict decap_find(const uint8_t *p, uint32_t n, uint32_t wire_n, uint32_t link,
                               const DecapRules *rules, VxlanFrame *out) noexcept nogil:
    """Where the inner frame of the packet at ``p`` is: ``n`` bytes captured of ``wire_n``.

    The destination port decides, and then the I flag. Bytes behind the outer UDP length are padding.
    """
    cdef Verdict v
    cdef uint16_t ethertype, port
    cdef uint32_t l3, l4, udp_end
    cdef bint geneve
    cdef IpPacket ip
    if wire_n < n:
        wire_n = n  # a record that says less was on the wire than was captured
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
    if l4 > 0xFFFF:
        return DROP_IP_HEADER  # behind 64 KiB of tags or extension headers: no link carries it, no column holds it
    if n < l4 + UDP_HDR_LEN:
        return DROP_TRUNCATED
    port = udp_dst(p + l4)
    geneve = (rules.geneve_ports[port >> 3] >> (port & 7)) & 1
    if not geneve and not (rules.ports[port >> 3] >> (port & 7)) & 1:
        return PUNT_PORT
    v = udp_find_end(p + l4, ip.end - ip.l4, ip.to_end, &udp_end)
    if v != PASS:
        return v
    if geneve:
        return geneve_find(p, n, l3, l4, udp_end, ip.version, rules, out)
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
    out.link = LINK_ETHERNET
    out.vni = vxlan_vni(p + l4)
    out.inner = l4 + VXLAN_HDR_LEN
    out.end = out.l4 + udp_end
    if out.end - out.inner < ETH_HDR_LEN:
        return DROP_INNER_RUNT
    if rules.strict:
        v = outer_csums(p, n, out.l3, out.l4, out.end, ip.version)
        if v != PASS:
            return v
    return PASS if vni_wanted(rules, out.vni) else DROP_FILTER_VNI


cdef class Decap:
    cdef DecapRules rules
    cdef uint64_t counts[VERDICT_COUNT]
