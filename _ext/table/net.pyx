"""Networks: made when a configuration is compiled, and looked up from then on."""
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from vxlanfast._ext.table.hash cimport hash_u64, power_of_two, table_memory

cdef enum:
    VNI_MAX = 0xFFFFFF
    LAN_MAX = 0x1FFFFFF     # numbers behind the VNIs: of networks that no packet of the underlay can name


cdef class NetTable:
    """VNI -> network, by number from 0 on. ``capacity``: how many there is room for. ``seed``: of the hash."""

    def __cinit__(self, uint32_t capacity, *, uint64_t seed=0):
        cdef uint64_t places
        if not 1 <= capacity <= NETS_MAX:
            raise ValueError(f"capacity = {capacity}: 1 to {NETS_MAX} networks")
        places = power_of_two(<uint64_t>capacity * 2)
        self.capacity = capacity
        self.mask = <uint32_t>places - 1
        self.seed = hash_u64(seed, 0)
        self.nets = <Net *>table_memory(<uint64_t>capacity * sizeof(Net))
        self.vnis = <uint32_t *>table_memory(places * sizeof(uint32_t))
        self.numbers = <uint16_t *>table_memory(places * sizeof(uint16_t))
        if self.nets == NULL or self.vnis == NULL or self.numbers == NULL:
            raise MemoryError(f"no room for {capacity} networks")

    def __dealloc__(self):
        free(self.nets)
        free(self.vnis)
        free(self.numbers)
        free(self.floods)
        free(self.routes)

    def __len__(self):
        return self.size

    def add(self, vni, *, bint learn=True, bint flood=True, bint proxy=False, bint swallow=False, bint tags=False,
            bint gbp=False, bint snoop=False, bint mss_clamp=False, uint32_t bum_rate=0, domain=None, bint mesh=False, bint lan=False):
        """A network; returns its number. ``lan``: it has no tunnels, and its VNI is above 24 bits. ``domain``: number of those that it
        is routed with (None: its own). ValueError: a VNI out of range, or given twice."""
        cdef uint32_t at
        cdef Net *net
        if not (VNI_MAX < vni <= LAN_MAX if lan else 0 <= vni <= VNI_MAX):
            raise ValueError(f"VNI {vni}: {VNI_MAX + 1} to {LAN_MAX}" if lan else f"VNI {vni}: 0 to {VNI_MAX}")
        if domain is not None and not 0 <= domain < NETS_MAX:
            raise ValueError(f"domain {domain}: below {NETS_MAX}")
        if net_find(self, vni) != NET_NONE:
            raise ValueError(f"VNI {vni}: given twice")
        if self.size >= self.capacity:
            raise OverflowError(f"all {self.capacity} networks are taken")
        net = &self.nets[self.size]
        net.vni = vni
        net.flags = ((NET_LEARN if learn else 0) | (NET_FLOOD if flood else 0) | (NET_PROXY if proxy else 0)
                     | (NET_SWALLOW if swallow else 0) | (NET_TAGS if tags else 0) | (NET_GBP if gbp else 0)
                     | (NET_SNOOP if snoop else 0) | (NET_MSS if mss_clamp else 0) | (NET_MESH if mesh else 0))
        net.bum_rate = bum_rate
        net.domain = self.size if domain is None else domain
        at = <uint32_t>hash_u64(vni, self.seed) & self.mask
        while self.vnis[at]:
            at = (at + 1) & self.mask
        self.vnis[at] = <uint32_t>vni << 1 | 1
        self.numbers[at] = <uint16_t>self.size
        self.size += 1
        return self.size - 1

    def set_flood(self, uint32_t net, ports, peers):
        """The flood list of a network: numbers of destinations. Once a network."""
        cdef uint32_t *grown
        cdef uint32_t count = len(ports) + len(peers)
        if net >= self.size:
            raise ValueError(f"network {net}: there are {self.size}")
        if self.nets[net].n_flood:
            raise ValueError(f"network {net} has a flood list")
        grown = <uint32_t *>realloc(self.floods, <uint64_t>(self.n_floods + count + 1) * sizeof(uint32_t))
        if grown == NULL:
            raise MemoryError
        self.floods = grown
        self.nets[net].flood_at = self.n_floods
        self.nets[net].n_flood = count
        self.nets[net].n_ports = len(ports)
        for dest in (*ports, *peers):
            self.floods[self.n_floods] = dest
            self.n_floods += 1

    def set_gateway(self, uint32_t net, mac, router_mac, *, addresses=()):
        """The network's gateway: the MAC it is reached by, the MAC that what it routes comes from, its addresses."""
        raw, own = bytes(mac), bytes(router_mac)
        if net >= self.size or len(raw) != 6 or len(own) != 6:
            raise ValueError(f"network {net} of {self.size}, MACs of {len(raw)} and {len(own)} bytes")
        memcpy(self.nets[net].gateway_mac, <char *>raw, 6)
        memcpy(self.nets[net].router_mac, <char *>own, 6)
        for addr in addresses:
            packed = bytes(addr)
            if len(packed) == 4 and not self.nets[net].flags & NET_GATEWAY4:
                self.nets[net].flags |= NET_GATEWAY4
                memcpy(self.nets[net].gateway4, <char *>packed, 4)
            elif len(packed) == 16 and not self.nets[net].flags & NET_GATEWAY6:
                self.nets[net].flags |= NET_GATEWAY6
                memcpy(self.nets[net].gateway6, <char *>packed, 16)

    def set_reach(self, uint32_t net, *, out_net=None, bint internal=False, bint returns=False, bint guard=False,
                  uint8_t hops=0):
        """How far a network's stations reach: ``out_net``, the network that what is in none of the domain's is masqueraded into;
        ``internal``: nothing leaves or enters. ``returns``: flows from outside the domain are answered to the VTEP they came
        by. ``guard``: ports are open to services alone. ``hops``: routers on the way to services elsewhere that are not there, but
        in the TTL."""
        if net >= self.size or (out_net is not None and not 0 <= out_net < self.size):
            raise ValueError(f"networks {net} and {out_net}: there are {self.size}")
        self.nets[net].hops = hops
        self.nets[net].out_net = 0 if out_net is None else out_net
        self.nets[net].flags |= ((NET_OUTBOUND if out_net is not None else 0) | (NET_INTERNAL if internal else 0)
                                 | (NET_RETURN if returns else 0) | (NET_GUARD if guard else 0))

    def add_routes(self, nets, routes):
        """What these networks' gateways route to: (address of 4 or 16 bytes, prefix length, network) each, and the address of
        the router behind which it is, where there is one."""
        cdef Route *grown
        cdef Route *r
        cdef uint32_t at = self.n_routes, count = len(routes)
        for net in nets:
            if not 0 <= net < self.size or self.nets[net].n_routes:
                raise ValueError(f"network {net}: there are {self.size}, and each has one set of routes")
        grown = <Route *>realloc(self.routes, <uint64_t>(at + count + 1) * sizeof(Route))
        if grown == NULL:
            raise MemoryError
        self.routes = grown
        for addr, length, target, *via in sorted(routes, key=lambda route: (-route[1], route[0], route[2])):
            raw = bytes(addr)
            if len(raw) not in (4, 16) or not 0 <= length <= len(raw) * 8 or not 0 <= target < self.size:
                raise ValueError(f"route to network {target} of {self.size}: /{length} of {len(raw)} bytes")
            r = &self.routes[self.n_routes]
            r.family = 4 if len(raw) == 4 else 6
            r.length = length
            r.net = target
            padded = raw.ljust(16, b"\0")
            memcpy(r.addr, <char *>padded, 16)
            r.has_via = bool(via)
            if via:
                router = bytes(via[0])
                if len(router) != len(raw):
                    raise ValueError(f"router of {len(router)} bytes, for addresses of {len(raw)}")
                padded = router.ljust(16, b"\0")
                memcpy(r.via, <char *>padded, 16)
            self.n_routes += 1
        for net in nets:
            self.nets[net].routes_at = at
            self.nets[net].n_routes = count

    def adopt(self, NetTable other not None):
        """Take over the state of the rates and queriers of networks that live on."""
        cdef uint32_t i
        cdef uint16_t number
        for i in range(other.size):
            number = net_find(self, other.nets[i].vni)
            if number != NET_NONE:
                self.nets[number].bum_next_ns = other.nets[i].bum_next_ns
                self.nets[number].icmp_next_ns = other.nets[i].icmp_next_ns
                self.nets[number].querier_ns[0] = other.nets[i].querier_ns[0]
                self.nets[number].querier_ns[1] = other.nets[i].querier_ns[1]
                self.nets[number].unsure_ns = other.nets[i].unsure_ns

    def find(self, uint32_t vni):
        """The number of a VNI's network, or None."""
        cdef uint16_t number = net_find(self, vni) if vni <= LAN_MAX else NET_NONE
        return None if number == NET_NONE else number

    def rows(self):
        """Networks as dictionaries, by number."""
        cdef uint32_t i
        cdef Net *net
        out = []
        for i in range(self.size):
            net = &self.nets[i]
            out.append({
                "vni": net.vni, "domain": net.domain, "n_flood": net.n_flood, "flooded": net.flooded, "copies": net.copies,
                "bum_limited": net.bum_limited, "strangers": net.strangers,
                "querier_ns": (net.querier_ns[0], net.querier_ns[1]),
            })
        return out
