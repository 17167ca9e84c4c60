"""Putting VXLAN on: a tunnel's outer headers as a template, with what changes from packet to packet patched in."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from vxlanfast._ext.batch cimport Columns

cdef enum:
    TUNNEL_HDR_MAX = 70     # Ethernet 14, IPv6 40, UDP 8, VXLAN 8
    DSCP_INHERIT = 255
    MTU_WARN = 0
    MTU_DROP = 1
    MTU_FRAGMENT = 2


cdef struct Tunnel:
    uint8_t hdr[128]        # Ethernet, IP, UDP, VXLAN: lengths, checksums, source port and TOS zero or as fixed
    uint32_t hdr_len        # 50 or 70
    uint32_t ip_sum         # IPv4: sum of the header as in hdr, folded, as a number in host order
    uint64_t udp_sum        # sum of pseudo header addresses and protocol, UDP destination port and VXLAN header
    uint32_t vni
    uint16_t sport          # fixed source port; 0: from the flow hash
    uint8_t dscp            # or DSCP_INHERIT
    bint with_csum
    bint df
    uint32_t mtu            # of the underlay's IP packets; 0: unlimited
    uint8_t mtu_policy
    uint64_t key            # of the flow hash


ctypedef uint32_t (*EncapRun)(Columns *c, const Tunnel *t, uint32_t i, uint32_t ident) noexcept nogil


cdef struct EncapTally:
    uint64_t over_mtu       # packets longer than the MTU (sent whole, dropped or fragmented as the policy says)
    uint64_t fragments      # made
    uint64_t no_csum        # a checksum was asked for, and a cut frame does not allow one


cdef class Encap:
    cdef Tunnel t
    cdef EncapRun run       # the loop over common rows, where the tunnel has one; else NULL
    cdef EncapTally tally
    cdef uint64_t counts[64]
