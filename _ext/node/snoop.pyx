"""IGMP and MLD snooping (RFC 4541): memberships are read off the reports, and a group's frames go to its members.

A network whose memberships nobody asks for has none that could be relied on: without a query in the last 255 s everything is
flooded, as Linux's bridge does it. So are the groups of the link itself (224.0.0.0/24, ff02::/16): whoever needs those may
not have reported. Reports go to who routes multicast and to peers, never to other hosts, whose own report they would keep back
(RFC 4541 §2.1.1).
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, int64_t
from libc.string cimport memcpy, memset

from vxlanfast._ext.table.dest cimport DEST_PEER, DestTable
from vxlanfast._ext.table.group cimport (
    GROUP_HELD_NS, GROUP_QUERIER_NS, GroupTable, Member, member_is,
)
from vxlanfast._ext.table.net cimport Net, NetTable
from vxlanfast._ext.verdict cimport PASS
from vxlanfast._ext.wire.csum cimport csum, csum_fold
from vxlanfast._ext.wire.eth cimport ETH_OFF_TYPE, ETH_TYPE_IPV4, ETH_TYPE_IPV6, eth_skip_tags
from vxlanfast._ext.wire.icmp cimport icmp6_csum_ok
from vxlanfast._ext.wire.igmp cimport (
    IGMP_HDR_LEN, IGMP_LEAVE, IGMP_OFF_GROUP, IGMP_OFF_RECORDS, IGMP_QUERY, IGMP_REPORT_V1, IGMP_REPORT_V2, IGMP_REPORT_V3,
    MLD_DONE, MLD_LEN, MLD_OFF_GROUP, MLD_QUERY, MLD_REPORT, MLD_REPORT_V2, RECORD_HDR_LEN, record_is_join, record_is_leave,
    record_len,
)
from vxlanfast._ext.wire.endian cimport load_be16, load_be32
from vxlanfast._ext.wire.ipv4 cimport (
    IP_PROTO_ICMPV6, IP_PROTO_IGMP, IPV4_OFF_DST, IPV4_OFF_PROTO, IPV4_OFF_SRC, ipv4_check, ipv4_frag, ipv4_hdr_len,
    ipv4_total_len,
)
from vxlanfast._ext.wire.ipv6 cimport (
    IPV6_HDR_LEN, IPV6_OFF_DST, IPV6_OFF_HOPS, IPV6_OFF_SRC, ipv6_check, ipv6_find_l4, ipv6_payload_len,
)

cdef enum:
    SCOPE_LINK = 2      # RFC 4291 §2.7: what is not above it stays on the link


cdef class Snoop:
    """Memberships of ``groups``, as the reports of hosts say."""

    def __cinit__(self, NetTable nets not None, DestTable dests not None, GroupTable groups not None):
        if groups.n_dests < dests.capacity:
            raise ValueError(f"the group table knows {groups.n_dests} destinations, and there is room for {dests.capacity}")
        self.nets = nets
        self.dests = dests
        self.groups = groups

    cdef void want(self, uint16_t number, uint32_t origin, uint8_t family, const uint8_t *addr, bint joins,
                   int64_t now_ns) noexcept nogil:
        """A host behind ``origin`` joins or leaves a group (16 bytes, zero behind an IPv4 one)."""
        cdef Net *net = self.nets.nets + number
        if family == 4:
            if addr[0] >> 4 != 0xE or load_be32(addr) >> 8 == 0xE00000:
                return
        elif addr[0] != 0xFF or addr[1] & 0xF <= SCOPE_LINK:
            return
        if not joins:
            self.groups.leave(number, family, addr, origin, now_ns)
        elif not self.groups.join(number, family, addr, origin, now_ns, now_ns + GROUP_HELD_NS):
            net.unsure_ns = now_ns + GROUP_HELD_NS  # rather to everybody than not to who asked

    cdef void query(self, uint16_t number, uint32_t origin, uint8_t family, bint has_source, int64_t now_ns) noexcept nogil:
        """Somebody asks; who has an address routes multicast as well (RFC 4541 §2.1.1: a source of 0.0.0.0 is a switch's)."""
        cdef uint8_t nobody[16]
        self.nets.nets[number].querier_ns[0 if family == 4 else 1] = now_ns + GROUP_QUERIER_NS
        if has_source:
            memset(nobody, 0, 16)
            self.groups.join(number, family, nobody, origin, now_ns, now_ns + GROUP_QUERIER_NS)

    cdef void records(self, const uint8_t *p, uint32_t n, uint16_t number, uint32_t origin, uint8_t family, int64_t now_ns,
                      Listeners *found) noexcept nogil:
        """The group records of an IGMPv3 or MLDv2 report, as many as are whole."""
        cdef uint32_t left = load_be16(p + IGMP_OFF_RECORDS), at = IGMP_HDR_LEN, length, size = 4 if family == 4 else 16
        cdef uint8_t addr[16]
        while left and at < n:
            length = record_len(p + at, n - at, size)
            if length == 0:
                return
            memset(addr, 0, 16)
            memcpy(addr, p + at + RECORD_HDR_LEN, size)
            if record_is_leave(p + at):
                self.want(number, origin, family, addr, False, now_ns)
            elif record_is_join(p + at):
                self.want(number, origin, family, addr, True, now_ns)
            at += length
            left -= 1

    cdef void igmp(self, const uint8_t *p, uint32_t n, uint16_t number, uint32_t origin, bint has_source, int64_t now_ns,
                   Listeners *found) noexcept nogil:
        cdef uint8_t addr[16]
        if n < IGMP_HDR_LEN or csum_fold(csum(p, n)) != 0xFFFF:
            return
        if p[0] == IGMP_QUERY:
            self.query(number, origin, 4, has_source, now_ns)
        elif p[0] == IGMP_REPORT_V1 or p[0] == IGMP_REPORT_V2 or p[0] == IGMP_LEAVE:
            memset(addr, 0, 16)
            memcpy(addr, p + IGMP_OFF_GROUP, 4)
            self.want(number, origin, 4, addr, p[0] != IGMP_LEAVE, now_ns)
            found.wanted = WANTED_REPORT
        elif p[0] == IGMP_REPORT_V3:
            self.records(p, n, number, origin, 4, now_ns, found)
            found.wanted = WANTED_REPORT

    cdef void mld(self, const uint8_t *p, uint32_t n, uint16_t number, uint32_t origin, int64_t now_ns,
                  Listeners *found) noexcept nogil:
        if p[0] == MLD_QUERY:
            if n >= MLD_LEN:
                self.query(number, origin, 6, True, now_ns)
        elif p[0] == MLD_REPORT or p[0] == MLD_DONE:
            if n >= MLD_LEN:
                self.want(number, origin, 6, p + MLD_OFF_GROUP, p[0] == MLD_REPORT, now_ns)
                found.wanted = WANTED_REPORT
        elif p[0] == MLD_REPORT_V2:
            self.records(p, n, number, origin, 6, now_ns, found)
            found.wanted = WANTED_REPORT

    cdef void look(self, const uint8_t *frame, uint32_t n, uint16_t number, uint32_t origin, int64_t now_ns,
                   Listeners *found) noexcept nogil:
        """Who wants a frame to a group address of the link layer; what it says of memberships is noted."""
        cdef const Net *net = self.nets.nets + number
        cdef const uint8_t *ip
        cdef uint16_t ethertype = 0
        cdef uint32_t l3 = 0, l4 = 0, end, fragment = 0
        cdef uint8_t proto = 0
        found.wanted = WANTED_BY_ALL
        if eth_skip_tags(frame, n, ETH_OFF_TYPE, &ethertype, &l3) != PASS:
            return
        ip = frame + l3
        memset(found.addr, 0, 16)
        if ethertype == ETH_TYPE_IPV4:
            found.family = 4
            if ipv4_check(ip, n - l3) != PASS or ip[IPV4_OFF_DST] >> 4 != 0xE:
                return
            end = ipv4_total_len(ip)
            l4 = ipv4_hdr_len(ip)
            if ip[IPV4_OFF_PROTO] == IP_PROTO_IGMP:
                if l4 <= end <= n - l3 and ipv4_frag(ip) & 0x3FFF == 0:
                    self.igmp(ip + l4, end - l4, number, origin, load_be32(ip + IPV4_OFF_SRC) != 0, now_ns, found)
            elif load_be32(ip + IPV4_OFF_DST) >> 8 != 0xE00000:
                memcpy(found.addr, ip + IPV4_OFF_DST, 4)
                found.wanted = WANTED_BY_GROUP
        elif ethertype == ETH_TYPE_IPV6:
            found.family = 6
            if ipv6_check(ip, n - l3) != PASS or ip[IPV6_OFF_DST] != 0xFF:
                return
            end = IPV6_HDR_LEN + ipv6_payload_len(ip)
            if (ipv6_find_l4(ip, n - l3, &proto, &l4, &fragment) == PASS and proto == IP_PROTO_ICMPV6 and fragment == 0
                    and l4 + IGMP_HDR_LEN <= end <= n - l3 and MLD_QUERY <= ip[l4] <= MLD_REPORT_V2
                    and ip[IPV6_OFF_HOPS] == 1 and icmp6_csum_ok(ip, ip + l4, end - l4)):
                self.mld(ip + l4, end - l4, number, origin, now_ns, found)
            elif ip[IPV6_OFF_DST + 1] & 0xF > SCOPE_LINK:
                memcpy(found.addr, ip + IPV6_OFF_DST, 16)
                found.wanted = WANTED_BY_GROUP
        else:
            return
        if net.querier_ns[0 if found.family == 4 else 1] <= now_ns or net.unsure_ns > now_ns:
            found.wanted = WANTED_BY_ALL

    cdef uint32_t gather(self, const Listeners *found, uint16_t number, int64_t now_ns, uint32_t *dst,
                         uint32_t room) noexcept nogil:
        """The destinations that want it, each once, in ``dst``: how many. The caller leaves out where it came from."""
        cdef const Net *net = self.nets.nets + number
        cdef uint8_t nobody[16]
        cdef const uint8_t *addr
        cdef const Member *m
        cdef uint32_t *head
        cdef uint32_t n = 0, at, turn, k
        memset(nobody, 0, 16)
        if found.wanted == WANTED_REPORT:
            for k in range(net.n_ports, net.n_flood):
                if n < room:
                    dst[n] = self.nets.floods[net.flood_at + k]
                    n += 1
        for turn in range(2):
            if turn == 0 and found.wanted == WANTED_REPORT:
                continue
            addr = <const uint8_t *>found.addr
            if turn:
                addr = nobody
            head = self.groups.chain(number, found.family, addr)
            self.groups.drop_expired(head, now_ns)
            at = head[0]
            while at and n < room:
                m = self.groups.entries + at - 1
                at = m.next
                if not member_is(m, number, found.family, addr):
                    continue
                for k in range(n):
                    if dst[k] == m.dest:
                        break
                else:
                    dst[n] = m.dest
                    n += 1
        return n
