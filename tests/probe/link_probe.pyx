"""What a frame is made of below IP: bytes, sums, Ethernet and the other links, ARP, VXLAN, ECN, flows. See ``exact``."""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from tests.probe.exact cimport Exact, blank, outcome
cimport vxlanfast._ext.wire.arp as arp
cimport vxlanfast._ext.wire.crc32c as crc32c
cimport vxlanfast._ext.wire.csum as csum
cimport vxlanfast._ext.wire.ecn as ecn
cimport vxlanfast._ext.wire.endian as endian
cimport vxlanfast._ext.wire.eth as eth
cimport vxlanfast._ext.wire.flow as flow
cimport vxlanfast._ext.wire.geneve as geneve
cimport vxlanfast._ext.wire.link as link
cimport vxlanfast._ext.wire.vxlan as vxlan


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


# crc32c


def crc32c_of(source, uint32_t lead=0, uint32_t crc=crc32c.CRC32C_START):
    """By the way this processor takes, and by the tables."""
    cdef Exact b = Exact(source, 0, lead)
    return crc32c.crc32c(crc, b.p, b.n), crc32c.crc32c_plain(crc, b.p, b.n)


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


# geneve


def geneve_check(source, wire_n=None):
    cdef Exact b = Exact(source)
    return geneve.geneve_check(b.p, b.n, b.n if wire_n is None else wire_n)


def geneve_get(source):
    """Every field of a checked header."""
    cdef Exact b = Exact(source, 8)
    return {
        "hdr_len": geneve.geneve_hdr_len(b.p), "control": bool(geneve.geneve_is_control(b.p)),
        "critical": bool(geneve.geneve_is_critical(b.p)), "reserved": bool(geneve.geneve_has_reserved(b.p)),
        "proto": geneve.geneve_proto(b.p), "vni": geneve.geneve_vni(b.p),
    }


def geneve_write(proto, vni):
    cdef Exact b = blank(geneve.GENEVE_HDR_LEN)
    geneve.geneve_write(b.p, proto, vni)
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
