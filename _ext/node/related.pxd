"""ICMP errors about packets of connections (RFC 3022 §4.3, RFC 5508 §4): rewritten outside as the connection's packets of that way
are, and in what they quote, which went the other way, as it was before it was rewritten."""
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from vxlanfast._ext.node.nat cimport NatTuple, nat_apply, nat_original, nat_tuple
from vxlanfast._ext.node.seen cimport Seen
from vxlanfast._ext.table.conn cimport CONN_MASQ, Conn
from vxlanfast._ext.wire.csum cimport csum, csum_finish, csum_pseudo6
from vxlanfast._ext.wire.endian cimport store_be16
from vxlanfast._ext.wire.icmp cimport ICMP_OFF_CSUM, icmp6_csum_ok, icmp_csum_ok
from vxlanfast._ext.wire.ipv4 cimport IP_PROTO_ICMPV6, IPV4_OFF_SRC
from vxlanfast._ext.wire.ipv6 cimport IPV6_OFF_SRC


cdef inline bint error_is_whole(const uint8_t *ip, const Seen *s) noexcept nogil:
    """Whether its checksum is right, or it was cut by a snaplen and nobody can say."""
    cdef const uint8_t *icmp = ip + s.l4
    if s.n != s.length:
        return True
    return icmp_csum_ok(icmp, s.n - s.l4) if s.family == 4 else icmp6_csum_ok(ip, icmp, s.n - s.l4)


cdef inline void unmasquerade(uint8_t *q, const Seen *s, uint8_t *l4, const Conn *e, bint reverse, const NatTuple *full) noexcept nogil:
    """As the kernel has it, a quoted checksum follows the masquerade, which is conntrack's, and not the rest, which is IPVS's."""
    cdef uint32_t size = 4 if s.family == 4 else 16
    cdef NatTuple half
    if not e.flags & CONN_MASQ:
        return
    half = full[0]
    # Of the server's side all stays as it is quoted, until the rest is written over it.
    memcpy(half.addrs + (size if reverse else 0), q + (IPV4_OFF_SRC if s.family == 4 else IPV6_OFF_SRC) + (size if reverse else 0), size)
    memcpy(<uint8_t *>&half.ports + (2 if reverse else 0), l4 + (2 if reverse else 0), 2)
    nat_apply(q, s.family, l4, s.n - s.quoted_l4, e.proto, &half, True)


cdef inline void error_rewrite(uint8_t *ip, const Seen *s, const Conn *e, bint reverse, bint exact) noexcept nogil:
    """The error of ``s``, from the server's side (``reverse``) or the client's, as the other side is to see it. ``exact``: quoted
    checksums as IPVS leaves them."""
    cdef uint32_t size = 4 if s.family == 4 else 16
    cdef uint8_t *icmp = ip + s.l4
    cdef uint8_t *q = ip + s.quoted
    cdef NatTuple inner
    cdef NatTuple outer
    nat_original(&inner, e, not reverse)
    if exact:
        unmasquerade(q, s, ip + s.quoted_l4, e, reverse, &inner)
    nat_apply(q, s.family, ip + s.quoted_l4, s.n - s.quoted_l4, e.proto, &inner, not exact)
    nat_tuple(&outer, e, reverse)
    if not reverse and not e.flags & CONN_MASQ:
        memcpy(outer.addrs, ip + (IPV4_OFF_SRC if s.family == 4 else IPV6_OFF_SRC), size)  # a router on the client's side
    nat_apply(ip, s.family, icmp, 0, s.proto, &outer, False)
    if s.n == s.length:
        store_be16(icmp + ICMP_OFF_CSUM, 0)
        store_be16(icmp + ICMP_OFF_CSUM, csum_finish(csum(icmp, s.n - s.l4) + (
            0 if s.family == 4 else csum_pseudo6(ip, s.n - s.l4, IP_PROTO_ICMPV6))))
