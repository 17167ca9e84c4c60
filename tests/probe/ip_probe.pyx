"""IPv4, IPv6 and what speaks for them. See ``exact``."""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memset

from tests.probe.exact cimport Exact, blank, outcome
from vxlanfast._ext.verdict cimport PASS
cimport vxlanfast._ext.wire.icmp as icmp
cimport vxlanfast._ext.wire.ip as ip
cimport vxlanfast._ext.wire.ipv4 as ipv4
cimport vxlanfast._ext.wire.ipv6 as ipv6


# ipv4


def ipv4_check(source):
    cdef Exact b = Exact(source)
    return ipv4.ipv4_check(b.p, b.n)


def ipv4_hdr_len(source):
    cdef Exact b = Exact(source, 20)
    return ipv4.ipv4_hdr_len(b.p)


def ipv4_total_len(source):
    cdef Exact b = Exact(source, 20)
    return ipv4.ipv4_total_len(b.p)


def ipv4_frag(source):
    cdef Exact b = Exact(source, 20)
    return ipv4.ipv4_frag(b.p)


def ipv4_csum_ok(source):
    cdef Exact b = Exact(source, 20)
    if b.n < ipv4.ipv4_hdr_len(b.p):
        raise ValueError("header cut")
    return bool(ipv4.ipv4_csum_ok(b.p))


def ipv4_write(tos, total_len, ident, frag, ttl, proto, src, dst):
    cdef Exact b = blank(ipv4.IPV4_HDR_LEN)
    ipv4.ipv4_write(b.p, tos, total_len, ident, frag, ttl, proto, src, dst)
    return b.out()


# ipv6


def ipv6_check(source):
    cdef Exact b = Exact(source)
    return ipv6.ipv6_check(b.p, b.n)


def ipv6_payload_len(source):
    cdef Exact b = Exact(source, 40)
    return ipv6.ipv6_payload_len(b.p)


def ipv6_traffic_class(source):
    cdef Exact b = Exact(source, 40)
    return ipv6.ipv6_traffic_class(b.p)


def ipv6_is_ext(uint8_t proto):
    return bool(ipv6.ipv6_is_ext(proto))


def ipv6_find_l4(source):
    cdef Exact b = Exact(source, ipv6.IPV6_HDR_LEN)
    cdef uint8_t proto = 0
    cdef uint32_t l4 = 0, fragment = 0
    v = ipv6.ipv6_find_l4(b.p, b.n, &proto, &l4, &fragment)
    return outcome(v, (proto, l4, fragment))


def ipv6_write(traffic_class, flow_label, payload_len, next_header, hops):
    cdef Exact b = blank(8)
    ipv6.ipv6_write(b.p, traffic_class, flow_label, payload_len, next_header, hops)
    return b.out()


# ip


def ip_parse(uint16_t ethertype, source, wire_n=None):
    cdef Exact b = Exact(source)
    cdef ip.IpPacket packet
    memset(&packet, 0xA5, sizeof(packet))
    v = ip.ip_parse(ethertype, b.p, b.n, b.n if wire_n is None else wire_n, &packet)
    if v != PASS:
        return v, None
    return v, dict(
        l4=packet.l4, end=packet.end, fragment=packet.fragment, frag_id=packet.frag_id, frag_offset=packet.frag_offset,
        version=packet.version, proto=packet.proto, frag_more=bool(packet.frag_more),
        is_fragment=bool(packet.is_fragment), to_end=bool(packet.to_end),
    )


# icmp


def icmp_check(source):
    cdef Exact b = Exact(source)
    return icmp.icmp_check(b.p, b.n)


def icmp_type(source):
    cdef Exact b = Exact(source, 8)
    return icmp.icmp_type(b.p)


def icmp_code(source):
    cdef Exact b = Exact(source, 8)
    return icmp.icmp_code(b.p)


def icmp_csum(source):
    cdef Exact b = Exact(source, 8)
    return icmp.icmp_csum(b.p)


def icmp_id(source):
    cdef Exact b = Exact(source, 8)
    return icmp.icmp_id(b.p)


def icmp_seq(source):
    cdef Exact b = Exact(source, 8)
    return icmp.icmp_seq(b.p)


def icmp_is_echo(source):
    cdef Exact b = Exact(source, 8)
    return bool(icmp.icmp_is_echo(b.p))


def icmp6_is_echo(source):
    cdef Exact b = Exact(source, 8)
    return bool(icmp.icmp6_is_echo(b.p))


def icmp_set_id(source, value):
    cdef Exact b = Exact(source, 8)
    icmp.icmp_set_id(b.p, value)
    return b.out()


def icmp_csum_ok(source):
    cdef Exact b = Exact(source, 8)
    return bool(icmp.icmp_csum_ok(b.p, b.n))


def icmp6_csum_ok(header, source):
    cdef Exact h = Exact(header, 40)
    cdef Exact b = Exact(source, 8)
    return bool(icmp.icmp6_csum_ok(h.p, b.p, b.n))


def icmp_set_csum(source):
    cdef Exact b = Exact(source, 8)
    icmp.icmp_set_csum(b.p, b.n)
    return b.out()


def icmp6_set_csum(header, source):
    cdef Exact h = Exact(header, 40)
    cdef Exact b = Exact(source, 8)
    icmp.icmp6_set_csum(h.p, b.p, b.n)
    return b.out()


def icmp_write(kind, code, ident, seq):
    cdef Exact b = blank(icmp.ICMP_HDR_LEN)
    icmp.icmp_write(b.p, kind, code, ident, seq)
    return b.out()


def nd_check(source):
    cdef Exact b = Exact(source)
    return icmp.nd_check(b.p, b.n)


def nd_flags(source):
    cdef Exact b = Exact(source, 24)
    return icmp.nd_flags(b.p)


def nd_target(source):
    cdef Exact b = Exact(source, 24)
    return PyBytes_FromStringAndSize(<char *>icmp.nd_target(b.p), 16)


def nd_mac(source, uint8_t kind):
    """None where there is no such option. The message must have passed ``nd_check``."""
    cdef Exact b = Exact(source, 24)
    if icmp.nd_check(b.p, b.n) != PASS:
        raise ValueError("nd_check does not pass")
    cdef const uint8_t *mac = icmp.nd_mac(b.p, b.n, kind)
    return None if mac == NULL else PyBytes_FromStringAndSize(<char *>mac, 6)


def nd_write(kind, flags, target, option, mac):
    cdef Exact b = blank(32)
    cdef Exact t = Exact(target, 16)
    cdef Exact m = Exact(mac, 6)
    icmp.nd_write(b.p, kind, flags, t.p, option, m.p)
    return b.out()
