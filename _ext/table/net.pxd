"""Networks: a VNI each, with its policies, its flood list and what was counted."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from libc.string cimport memcmp

from vxlanfast._ext.table.hash cimport hash_u64

cdef enum:
    NET_NONE = 0xFFFF
    NETS_MAX = 65535
    NET_LEARN = 1           # from what comes by tunnels and ports
    NET_FLOOD = 2           # head-end replication; without it, what has no entry ends here
    NET_PROXY = 4           # ARP and ND are answered from the neighbour table
    NET_SWALLOW = 8         # … and what it does not know is not asked any further
    NET_TAGS = 16           # inner VLAN tags are let through
    NET_GBP = 32            # group policy bits are no reserved bits
    NET_SNOOP = 64          # IP multicast goes to those that joined
    NET_MSS = 128           # TCP's MSS is kept to what fits the tunnel
    NET_GATEWAY4 = 256      # the gateway has an address of the family
    NET_GATEWAY6 = 512
    NET_MESH = 1024         # connections may be found among the frames of its ports
    NET_OUTBOUND = 2048     # what no network of the domain has is masqueraded into `out_net`
    NET_INTERNAL = 4096     # nothing leaves the domain, and nothing enters it
    NET_RETURN = 8192       # flows from outside the domain are answered to the VTEP that they came by
    NET_GUARD = 16384       # its ports are open to services, and to nothing else


cdef struct Net:
    uint32_t vni
    uint32_t flood_at       # its flood list: numbers of destinations, ports first
    uint32_t n_flood
    uint32_t n_ports        # of them
    uint16_t flags
    uint8_t gateway_mac[6]  # zero: none
    uint8_t router_mac[6]   # that what it routes comes from: this node's own
    uint8_t gateway4[4]     # its first address of each family, that its ICMP errors come from
    uint8_t gateway6[16]
    uint16_t out_net        # network that the rest of the world is in
    uint16_t domain         # of networks that are routed between: a number that lives as long as they do
    uint8_t hops            # routers between it and services of other domains, which are seen in the TTL alone
    uint32_t routes_at      # where the subnets of the network it routes for begin
    uint32_t n_routes
    int64_t icmp_next_ns    # state of the rate limit of ICMP errors
    int64_t querier_ns[2]   # IPv4, IPv6: until when somebody asks for memberships
    int64_t unsure_ns       # until when the group table may lack somebody, who found no room
    uint32_t bum_rate       # packets a second; 0: unlimited
    int64_t bum_next_ns     # when the bucket of the rate limit is full again
    uint64_t flooded        # frames
    uint64_t copies         # made of them
    uint64_t bum_limited
    uint64_t strangers      # packets from VTEPs that are no members


cdef struct Route:
    uint8_t addr[16]
    uint8_t family
    uint8_t length          # of the prefix, in bits
    uint16_t net
    bint has_via
    uint8_t via[16]         # the router behind which it is


cdef class NetTable:
    cdef Net *nets
    cdef uint32_t *vnis     # by slot: VNI << 1 | 1
    cdef uint16_t *numbers
    cdef uint32_t *floods   # all flood lists
    cdef uint32_t n_floods
    cdef Route *routes      # the subnets of each routing domain together, longest prefixes first
    cdef uint32_t n_routes
    cdef uint32_t mask
    cdef uint64_t seed
    cdef readonly uint32_t size
    cdef readonly uint32_t capacity


cdef inline bint prefix_match(const Route *r, const uint8_t *addr) noexcept nogil:
    cdef uint32_t whole = r.length >> 3, rest = r.length & 7
    return (memcmp(r.addr, addr, whole) == 0
            and (rest == 0 or ((r.addr[whole] ^ addr[whole]) >> (8 - rest)) == 0))


cdef inline const Route *route_find(NetTable t, const Net *net, uint8_t family, const uint8_t *addr) noexcept nogil:
    """The longest prefix that has the address, of networks that are routed between; NULL. O(routes of the domain)."""
    cdef const Route *r = t.routes + net.routes_at
    cdef uint32_t k
    for k in range(net.n_routes):
        if r[k].family == family and prefix_match(r + k, addr):
            return r + k
    return NULL


cdef inline uint16_t net_find(NetTable t, uint32_t vni) noexcept nogil:
    """The number of a VNI's network; NET_NONE: there is none."""
    cdef uint32_t at = <uint32_t>hash_u64(vni, t.seed) & t.mask, key = vni << 1 | 1
    while t.vnis[at] != key:
        if t.vnis[at] == 0:
            return NET_NONE
        at = (at + 1) & t.mask
    return t.numbers[at]
