"""Destinations: the places a frame comes from and goes to, each under one number: ports of ours, and peers.

A peer is a VTEP as a member of one network: the same host in two networks is two of them, so what is known of one says
nothing of the other.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp

from vxlanfast._ext.table.hash cimport hash_16

cdef enum:
    DEST_NONE = 0xFFFFFFFFU         # of a row: not decided yet
    DEST_LOCAL = 0xFFFFFFFEU        # not decided, and it stays on this host
    DEST_FLOODED = 0xFFFFFFFDU      # to everybody
    DEST_FLOODED_LOCAL = 0xFFFFFFFCU
    DEST_PICKED = 0xFFFFFFFBU       # to those that Bridge has listed
    DEST_FLOOD = 1          # gets broadcasts, multicast and what has no entry


cdef enum DestKind:
    DEST_PORT = 0           # an endpoint of ours
    DEST_PEER = 1           # a VTEP that is a member of the network
    DEST_GATEWAY = 2        # the network's gateway, which is us
    DEST_PLACES = 3         # several of the others
    DEST_ALIAS = 4          # another address that a peer's packets come from
    DEST_ROUTER = 5         # us as well, by an address that is this node's alone: answers come to it by tunnels


cdef struct Dest:
    uint8_t addr[16]        # peer: of the VTEP; IPv4 in the first four bytes, the rest zero
    uint8_t family          # 4 or 6; 0: no peer
    uint8_t kind
    uint8_t flags
    uint16_t net
    uint16_t port           # the port_out of what goes there: a peer's is the underlay's
    uint32_t tunnel         # peer: which headers; alias: whose it is
    uint32_t mtu            # peer: IP bytes of a frame that fit in one packet of the underlay; 0: any
    uint32_t members_at     # several places: their numbers, in the table's list
    uint32_t n_members
    uint64_t rx_packets
    uint64_t rx_bytes       # of frames, without outer headers
    uint64_t tx_packets
    uint64_t tx_bytes
    uint64_t drops          # of what came from there
    uint64_t tx_drops       # of what was to go there


cdef class DestTable:
    cdef Dest *dests
    cdef uint32_t *slots    # of peers: number + 1; 0: free
    cdef uint32_t *members
    cdef uint32_t n_members
    cdef uint64_t seed
    cdef uint32_t mask
    cdef readonly uint32_t capacity
    cdef readonly uint32_t size
    cdef uint32_t add_address(self, uint8_t kind, net, addr, port, uint32_t tunnel, uint32_t mtu) except DEST_NONE
    cdef uint32_t add(self, uint8_t kind, net, port) except DEST_NONE


cdef inline bint dest_is_ours(const Dest *d) noexcept nogil:
    """Whether what goes there is for the node itself."""
    return d.kind == DEST_GATEWAY or d.kind == DEST_ROUTER


cdef inline bint dest_is_at(DestTable t, uint32_t dest, uint32_t place) noexcept nogil:
    """Whether a destination is that place, or has it among its several."""
    cdef const Dest *d = t.dests + dest
    cdef uint32_t k
    if dest == place:
        return True
    if d.kind == DEST_PLACES:
        for k in range(d.n_members):
            if t.members[d.members_at + k] == place:
                return True
    return False


cdef inline uint32_t peer_find(DestTable t, const uint8_t *addr, uint8_t family, uint16_t net) noexcept nogil:
    """The peer with that address (16 bytes, zero behind an IPv4 one) in that network; DEST_NONE: it is no member."""
    cdef uint32_t at = <uint32_t>hash_16(addr, <uint64_t>family << 16 | net, t.seed) & t.mask, number
    cdef const Dest *d
    while t.slots[at]:
        number = t.slots[at] - 1
        d = t.dests + number
        if d.net == net and d.family == family and memcmp(d.addr, addr, 16) == 0:
            return d.tunnel if d.kind == DEST_ALIAS else number
        at = (at + 1) & t.mask
    return DEST_NONE
