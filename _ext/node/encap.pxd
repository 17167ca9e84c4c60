"""Putting VXLAN on: a tunnel's outer headers as a template, with what changes from packet to packet put in."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from vxlanfast._ext.batch cimport Columns
from vxlanfast._ext.verdict cimport Verdict, VERDICT_COUNT
from vxlanfast._ext.wire.ecn cimport ECN_MASK
from vxlanfast._ext.wire.endian cimport likely, store_be64
from vxlanfast._ext.wire.eth cimport ETH_HDR_LEN
from vxlanfast._ext.wire.flow cimport flow_common, flow_sport
from vxlanfast._ext.wire.ipv4 cimport IPV4_HDR_LEN, IPV4_OFF_TOS
from vxlanfast._ext.wire.udp cimport UDP_HDR_LEN
from vxlanfast._ext.wire.vxlan cimport VXLAN_HDR_LEN

cdef enum:
    TUNNEL_HDR_MAX = 70     # Ethernet 14, IPv6 40, UDP 8, VXLAN 8
    TUNNEL4_HDR_LEN = ETH_HDR_LEN + IPV4_HDR_LEN + UDP_HDR_LEN + VXLAN_HDR_LEN
    IP_DATAGRAM_MAX = 65535
    DSCP_INHERIT = 255
    MTU_WARN = 0
    MTU_DROP = 1
    MTU_FRAGMENT = 2


cdef struct Tunnel:
    uint8_t hdr[128]        # Ethernet, IP, UDP, VXLAN: lengths, checksums, source port and TOS zero or as fixed
    uint64_t words[5]       # its first forty bytes as numbers
    uint32_t hdr_len        # 50 or 70
    bint common             # IPv4, and nobody asked about an MTU or UDP checksums: tunnel4_put makes its headers
    uint32_t ip_sum         # IPv4: sum of the header as in hdr, folded, as a number in host order
    uint64_t udp_sum        # sum of pseudo header addresses and protocol, UDP destination port and VXLAN header
    uint32_t vni
    uint16_t sport          # fixed source port; 0: from the flow hash
    uint8_t dscp            # or DSCP_INHERIT
    uint8_t tos_mask        # what the TOS byte takes of the inner one …
    uint8_t tos_set         # … and what it has of its own: ecn_encap, without a question
    bint with_csum
    bint df
    uint32_t mtu            # of the underlay's IP packets; 0: unlimited
    uint8_t mtu_policy
    uint64_t key            # of the flow hash


cdef struct EncapTally:
    uint64_t over_mtu       # packets longer than the MTU (sent whole, dropped or fragmented as the policy says)
    uint64_t fragments      # made
    uint64_t no_csum        # a checksum was asked for, and a cut frame does not allow one


ctypedef uint32_t (*EncapRun)(Columns *c, const Tunnel *t, uint32_t first, uint32_t ident) noexcept nogil


cdef class Encap:
    cdef Tunnel t
    cdef EncapTally tally
    cdef EncapRun run       # the loop over common frames; NULL where the tunnel is not common
    cdef uint64_t counts[VERDICT_COUNT]


cdef Verdict encap_row(Columns *c, uint32_t i, const Tunnel *t, uint32_t ident, bint is_v6,
                       EncapTally *tally) noexcept nogil


cdef inline uint16_t header_csum(const Tunnel *t, uint32_t tos, uint32_t total, uint32_t ident) noexcept nogil:
    """The IPv4 header checksum: what the template sums to, and the fields that change (RFC 1071 §2)."""
    cdef uint32_t total_sum = t.ip_sum + tos + total + ident
    total_sum = (total_sum & 0xFFFF) + (total_sum >> 16)
    return <uint16_t>~(total_sum + (total_sum >> 16))


cdef inline bint tunnel4_put(uint8_t *p, const Tunnel *t, const uint8_t *frame, uint32_t n, uint32_t wire_n,
                             uint32_t ident, uint32_t *flow) noexcept nogil:
    """The headers of a ``common`` tunnel, at ``p``, for what nearly every frame is: TCP or UDP over IPv4, of a length
    there is room for. False: any other, and ``encap_row`` knows; it does the same to these."""
    cdef uint32_t total = wire_n + TUNNEL4_HDR_LEN - ETH_HDR_LEN, tos
    cdef uint64_t sport
    if not (likely(wire_n >= n) and likely(wire_n <= IP_DATAGRAM_MAX + ETH_HDR_LEN - TUNNEL4_HDR_LEN)
            and likely(flow_common(frame, n, t.key, flow))):
        return False
    tos = (frame[ETH_HDR_LEN + IPV4_OFF_TOS] & t.tos_mask) | t.tos_set
    ident = 0 if t.df else ident & 0xFFFF  # an atomic datagram needs none (RFC 6864 §4.1)
    sport = t.sport if t.sport else flow_sport(flow[0])
    # Whole words, each with its changing fields put in: fewer stores than patching a copied template.
    memcpy(p, t.hdr, 8)
    store_be64(p + 8, t.words[1] | tos)
    store_be64(p + 16, t.words[2] | <uint64_t>total << 48 | <uint64_t>ident << 32)
    store_be64(p + 24, t.words[3] | <uint64_t>header_csum(t, tos, total, ident) << 48)
    store_be64(p + 32, t.words[4] | sport << 32 | (total - IPV4_HDR_LEN))
    memcpy(p + 40, t.hdr + 40, TUNNEL4_HDR_LEN - 40)
    return True
