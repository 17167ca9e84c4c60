"""The wire headers as a third party cimports them, one thin ``def`` around each ``cdef inline``.

Every function copies its bytes into a block of exactly that size, so that a sanitizer sees the first byte read or
written outside. Accessors demand the length that their check would have (ValueError: the test is wrong, not the packet).
Writers start from 0xA5 bytes, so that a byte left out shows.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from vxlanfast._ext.verdict cimport PASS, Verdict
cimport vxlanfast._ext.wire.arp as arp
cimport vxlanfast._ext.wire.csum as csum
cimport vxlanfast._ext.wire.ecn as ecn
cimport vxlanfast._ext.wire.endian as endian
cimport vxlanfast._ext.wire.eth as eth
cimport vxlanfast._ext.wire.flow as flow
cimport vxlanfast._ext.wire.icmp as icmp
cimport vxlanfast._ext.wire.ip as ip
cimport vxlanfast._ext.wire.ipv4 as ipv4
cimport vxlanfast._ext.wire.ipv6 as ipv6
cimport vxlanfast._ext.wire.link as link
cimport vxlanfast._ext.wire.tcp as tcp
cimport vxlanfast._ext.wire.udp as udp
cimport vxlanfast._ext.wire.vxlan as vxlan


cdef class Exact:
    """A copy of ``source`` in a block that ends with it; ``lead`` bytes before it choose its alignment."""
    cdef uint8_t *block
    cdef uint8_t *p
    cdef uint32_t n

    def __cinit__(self, const uint8_t[:] source, uint32_t least=0, uint32_t lead=0):
        self.n = <uint32_t>source.shape[0]
        if self.n < least:
            raise ValueError(f"{self.n} bytes, and this accessor needs {least}")
        if self.n == 0 and lead == 0:
            lead = 16  # a block of no bytes has one in the eyes of a sanitizer
        self.block = <uint8_t *>malloc(lead + self.n)
        if self.block == NULL:
            raise MemoryError
        self.p = self.block + lead
        if self.n:
            memcpy(self.p, &source[0], self.n)

    def __dealloc__(self):
        free(self.block)

    cdef bytes out(self):
        return PyBytes_FromStringAndSize(<char *>self.p, self.n)


cdef Exact blank(uint32_t n):
    return Exact(b"\xA5" * n)


cdef object outcome(Verdict v, values):
    """``(verdict, values)``; where the verdict is not PASS the values are nobody's to read."""
    return (v, values if v == PASS else None)


# endian


def load_be16(source):
    cdef Exact b = Exact(source, 2)
    return endian.load_be16(b.p)


def load_be24(source):
    cdef Exact b = Exact(source, 3)
    return endian.load_be24(b.p)


def load_be32(source):
    cdef Exact b = Exact(source, 4)
    return endian.load_be32(b.p)


def load_be64(source):
    cdef Exact b = Exact(source, 8)
    return endian.load_be64(b.p)


def load_host16(source):
    cdef Exact b = Exact(source, 2)
    return endian.load_host16(b.p)


def load_host32(source):
    cdef Exact b = Exact(source, 4)
    return endian.load_host32(b.p)


def load_host64(source):
    cdef Exact b = Exact(source, 8)
    return endian.load_host64(b.p)


def store_be16(source, value):
    cdef Exact b = Exact(source, 2)
    endian.store_be16(b.p, value)
    return b.out()


def store_be24(source, value):
    cdef Exact b = Exact(source, 3)
    endian.store_be24(b.p, value)
    return b.out()


def store_be32(source, value):
    cdef Exact b = Exact(source, 4)
    endian.store_be32(b.p, value)
    return b.out()


def load_16(source, bint big):
    cdef Exact b = Exact(source, 2)
    return endian.load_16(b.p, big)


def store_16(source, value, bint big):
    cdef Exact b = Exact(source, 2)
    endian.store_16(b.p, value, big)
    return b.out()


def load_32(source, bint big):
    cdef Exact b = Exact(source, 4)
    return endian.load_32(b.p, big)


def store_32(source, value, bint big):
    cdef Exact b = Exact(source, 4)
    endian.store_32(b.p, value, big)
    return b.out()


def load_64(source, bint big):
    cdef Exact b = Exact(source, 8)
    return endian.load_64(b.p, big)


def store_64(source, value, bint big):
    cdef Exact b = Exact(source, 8)
    endian.store_64(b.p, value, big)
    return b.out()


def bswap16(uint16_t x):
    return endian.bswap16(x)


def bswap32(uint32_t x):
    return endian.bswap32(x)


def bswap64(uint64_t x):
    return endian.bswap64(x)


def host_is_little():
    return bool(endian.HOST_IS_LITTLE)


# csum


def csum_fold_of(source, uint32_t lead=0):
    """Vectorised and plain sum of the same bytes, each folded."""
    cdef Exact b = Exact(source, 0, lead)
    return csum.csum_fold(csum.csum(b.p, b.n)), csum.csum_fold(csum.csum_short(b.p, b.n))


def csum_fold_many(source, const uint32_t[:] first, const uint32_t[:] length):
    """Whether vectorised and plain agree on every range, and the folded sums."""
    cdef Exact b = Exact(source)
    cdef Py_ssize_t i
    sums = []
    for i in range(first.shape[0]):
        if <uint64_t>first[i] + length[i] > b.n:
            raise ValueError("range outside the buffer")
        if (csum.csum_fold(csum.csum(b.p + first[i], length[i]))
                != csum.csum_fold(csum.csum_short(b.p + first[i], length[i]))):
            raise AssertionError(f"csum and csum_short differ at {first[i]}, {length[i]} bytes")
        sums.append(csum.csum_fold(csum.csum(b.p + first[i], length[i])))
    return sums


def csum_fold(uint64_t total):
    return csum.csum_fold(total)


def csum_parts(left, right):
    """Two ranges summed apart and added."""
    cdef Exact a = Exact(left)
    cdef Exact b = Exact(right)
    return csum.csum_fold(csum.csum(a.p, a.n) + csum.csum(b.p, b.n))


def csum_words(words):
    cdef uint64_t total = 0
    for word in words:
        total += csum.csum_word(word)
    return csum.csum_fold(total)


def csum_finish(source):
    cdef Exact b = Exact(source)
    return csum.csum_finish(csum.csum(b.p, b.n))


def csum_finish_udp(source):
    cdef Exact b = Exact(source)
    return csum.csum_finish_udp(csum.csum(b.p, b.n))


def csum_update(uint16_t check, uint16_t old, uint16_t new):
    return csum.csum_update(check, old, new)


def csum_update32(uint16_t check, uint32_t old, uint32_t new):
    return csum.csum_update32(check, old, new)


def csum_pseudo4(header, uint32_t l4_len, uint8_t proto):
    cdef Exact b = Exact(header, 20)
    return csum.csum_fold(csum.csum_pseudo4(b.p, l4_len, proto))


def csum_pseudo6(header, uint32_t l4_len, uint8_t proto):
    cdef Exact b = Exact(header, 40)
    return csum.csum_fold(csum.csum_pseudo6(b.p, l4_len, proto))


def csum_l4_ok(header, uint8_t version, source, uint8_t proto):
    cdef Exact h = Exact(header, 20 if version == 4 else 40)
    cdef Exact b = Exact(source)
    return bool(csum.csum_l4_ok(h.p, version, b.p, b.n, proto))


# eth


def eth_is_tag(uint16_t ethertype):
    return bool(eth.eth_is_tag(ethertype))


def eth_find_l3(source):
    cdef Exact b = Exact(source)
    cdef uint16_t ethertype = 0
    cdef uint32_t l3 = 0
    v = eth.eth_find_l3(b.p, b.n, &ethertype, &l3)
    return outcome(v, (ethertype, l3))


def eth_write(dst, src, uint16_t ethertype):
    cdef Exact b = blank(eth.ETH_HDR_LEN)
    cdef Exact d = Exact(dst, 6)
    cdef Exact s = Exact(src, 6)
    eth.eth_write(b.p, d.p, s.p, ethertype)
    return b.out()


# link


def link_family_type(uint32_t family):
    return link.link_family_type(family)


def link_is_known(uint32_t kind):
    return bool(link.link_is_known(kind))


def link_find_l3(uint32_t kind, source):
    cdef Exact b = Exact(source)
    cdef uint16_t ethertype = 0
    cdef uint32_t l3 = 0
    v = link.link_find_l3(kind, b.p, b.n, &ethertype, &l3)
    return outcome(v, (ethertype, l3))


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


# udp


def udp_check(source):
    cdef Exact b = Exact(source)
    return udp.udp_check(b.p, b.n)


def udp_src(source):
    cdef Exact b = Exact(source, 8)
    return udp.udp_src(b.p)


def udp_dst(source):
    cdef Exact b = Exact(source, 8)
    return udp.udp_dst(b.p)


def udp_len(source):
    cdef Exact b = Exact(source, 8)
    return udp.udp_len(b.p)


def udp_csum(source):
    cdef Exact b = Exact(source, 8)
    return udp.udp_csum(b.p)


def udp_set_src(source, value):
    cdef Exact b = Exact(source, 8)
    udp.udp_set_src(b.p, value)
    return b.out()


def udp_set_dst(source, value):
    cdef Exact b = Exact(source, 8)
    udp.udp_set_dst(b.p, value)
    return b.out()


def udp_set_len(source, value):
    cdef Exact b = Exact(source, 8)
    udp.udp_set_len(b.p, value)
    return b.out()


def udp_set_csum(source, value):
    cdef Exact b = Exact(source, 8)
    udp.udp_set_csum(b.p, value)
    return b.out()


def udp_find_end(source, uint32_t room, bint to_end):
    cdef Exact b = Exact(source, 8)
    cdef uint32_t end = 0
    v = udp.udp_find_end(b.p, room, to_end, &end)
    return outcome(v, end)


def udp_csum_ok(header, uint8_t version, source):
    cdef Exact h = Exact(header, 20 if version == 4 else 40)
    cdef Exact b = Exact(source, 8)
    return bool(udp.udp_csum_ok(h.p, version, b.p, b.n))


def udp_write(src, dst, length, check):
    cdef Exact b = blank(udp.UDP_HDR_LEN)
    udp.udp_write(b.p, src, dst, length, check)
    return b.out()


# tcp


def tcp_check(source):
    cdef Exact b = Exact(source)
    return tcp.tcp_check(b.p, b.n)


def tcp_src(source):
    cdef Exact b = Exact(source, 20)
    return tcp.tcp_src(b.p)


def tcp_dst(source):
    cdef Exact b = Exact(source, 20)
    return tcp.tcp_dst(b.p)


def tcp_seq(source):
    cdef Exact b = Exact(source, 20)
    return tcp.tcp_seq(b.p)


def tcp_ack(source):
    cdef Exact b = Exact(source, 20)
    return tcp.tcp_ack(b.p)


def tcp_hdr_len(source):
    cdef Exact b = Exact(source, 20)
    return tcp.tcp_hdr_len(b.p)


def tcp_flags(source):
    cdef Exact b = Exact(source, 20)
    return tcp.tcp_flags(b.p)


def tcp_window(source):
    cdef Exact b = Exact(source, 20)
    return tcp.tcp_window(b.p)


def tcp_csum(source):
    cdef Exact b = Exact(source, 20)
    return tcp.tcp_csum(b.p)


def tcp_set_src(source, value):
    cdef Exact b = Exact(source, 20)
    tcp.tcp_set_src(b.p, value)
    return b.out()


def tcp_set_dst(source, value):
    cdef Exact b = Exact(source, 20)
    tcp.tcp_set_dst(b.p, value)
    return b.out()


def tcp_set_seq(source, value):
    cdef Exact b = Exact(source, 20)
    tcp.tcp_set_seq(b.p, value)
    return b.out()


def tcp_set_ack(source, value):
    cdef Exact b = Exact(source, 20)
    tcp.tcp_set_ack(b.p, value)
    return b.out()


def tcp_set_flags(source, value):
    cdef Exact b = Exact(source, 20)
    tcp.tcp_set_flags(b.p, value)
    return b.out()


def tcp_set_window(source, value):
    cdef Exact b = Exact(source, 20)
    tcp.tcp_set_window(b.p, value)
    return b.out()


def tcp_set_csum(source, value):
    cdef Exact b = Exact(source, 20)
    tcp.tcp_set_csum(b.p, value)
    return b.out()


def tcp_csum_ok(header, uint8_t version, source):
    cdef Exact h = Exact(header, 20 if version == 4 else 40)
    cdef Exact b = Exact(source, 20)
    return bool(tcp.tcp_csum_ok(h.p, version, b.p, b.n))


def tcp_write(src, dst, seq, ack, flags, window):
    cdef Exact b = blank(tcp.TCP_HDR_LEN)
    tcp.tcp_write(b.p, src, dst, seq, ack, flags, window)
    return b.out()


# arp


def arp_check(source):
    cdef Exact b = Exact(source)
    return arp.arp_check(b.p, b.n)


def arp_op(source):
    cdef Exact b = Exact(source, 28)
    return arp.arp_op(b.p)


def arp_sender_ip(source):
    cdef Exact b = Exact(source, 28)
    return arp.arp_sender_ip(b.p)


def arp_target_ip(source):
    cdef Exact b = Exact(source, 28)
    return arp.arp_target_ip(b.p)


def arp_sender_mac(source):
    cdef Exact b = Exact(source, 28)
    return PyBytes_FromStringAndSize(<char *>arp.arp_sender_mac(b.p), 6)


def arp_target_mac(source):
    cdef Exact b = Exact(source, 28)
    return PyBytes_FromStringAndSize(<char *>arp.arp_target_mac(b.p), 6)


def arp_set_op(source, value):
    cdef Exact b = Exact(source, 28)
    arp.arp_set_op(b.p, value)
    return b.out()


def arp_set_sender(source, mac, uint32_t address):
    cdef Exact b = Exact(source, 28)
    cdef Exact m = Exact(mac, 6)
    arp.arp_set_sender(b.p, m.p, address)
    return b.out()


def arp_set_target(source, mac, uint32_t address):
    cdef Exact b = Exact(source, 28)
    cdef Exact m = Exact(mac or b"")
    arp.arp_set_target(b.p, m.p if mac else NULL, address)
    return b.out()


def arp_write(op, sender_mac, sender_ip, target_mac, target_ip):
    cdef Exact b = blank(arp.ARP_LEN)
    cdef Exact s = Exact(sender_mac, 6)
    cdef Exact t = Exact(target_mac or b"")
    arp.arp_write(b.p, op, s.p, sender_ip, t.p if target_mac else NULL, target_ip)
    return b.out()


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


# vxlan


def vxlan_check(source):
    cdef Exact b = Exact(source)
    return vxlan.vxlan_check(b.p, b.n)


def vxlan_vni(source):
    cdef Exact b = Exact(source, 8)
    return vxlan.vxlan_vni(b.p)


def vxlan_has_vni(source):
    cdef Exact b = Exact(source, 8)
    return bool(vxlan.vxlan_has_vni(b.p))


def vxlan_has_reserved(source):
    cdef Exact b = Exact(source, 8)
    return bool(vxlan.vxlan_has_reserved(b.p))


def vxlan_is_gbp(source):
    cdef Exact b = Exact(source, 8)
    return bool(vxlan.vxlan_is_gbp(b.p))


def vxlan_is_gpe(source):
    cdef Exact b = Exact(source, 8)
    return bool(vxlan.vxlan_is_gpe(b.p))


def vxlan_set_vni(source, value):
    cdef Exact b = Exact(source, 8)
    vxlan.vxlan_set_vni(b.p, value)
    return b.out()


def vxlan_write(vni):
    cdef Exact b = blank(vxlan.VXLAN_HDR_LEN)
    vxlan.vxlan_write(b.p, vni)
    return b.out()


# ecn


def ecn_encap(uint8_t outer, uint8_t inner):
    return ecn.ecn_encap(outer, inner)


def ecn_decap(uint8_t outer, uint8_t inner):
    """The code point, or None for a drop."""
    cdef uint8_t x = ecn.ecn_decap(outer, inner)
    return None if x == ecn.ECN_DROP else x


def ecn_is_odd(uint8_t outer, uint8_t inner):
    return bool(ecn.ecn_is_odd(outer, inner))


def ecn_set4(source, value):
    cdef Exact b = Exact(source, 20)
    ecn.ecn_set4(b.p, value)
    return b.out()


def ecn_set6(source, value):
    cdef Exact b = Exact(source, 40)
    ecn.ecn_set6(b.p, value)
    return b.out()


# flow


def flow_hash(source, uint64_t seed=0):
    cdef Exact b = Exact(source)
    return flow.flow_hash(b.p, b.n, flow.flow_key(seed))


def flow_hash_any(source, uint64_t seed=0):
    """The general way, without the short cut."""
    cdef Exact b = Exact(source)
    return flow.flow_hash_any(b.p, b.n, flow.flow_key(seed))


def flow_fold(uint64_t a, uint64_t b):
    return flow.flow_fold(a, b)


def flow_sport(uint32_t hash):
    return flow.flow_sport(hash)
