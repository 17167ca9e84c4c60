"""What a network is to be, as frozen data: its endpoints, the VTEPs that are members, its policies, its routes."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from vxlanfast.addr import VNI_MAX, mac_of_ip, parse_ip, parse_mac
from vxlanfast.checks import address, among, dns_name, is_address, rule_error, station
from vxlanfast.errors import SpecError

#: The port by which packets of the underlay come and go.
UNDERLAY = "underlay"
FLOODS = ("head-end", "off")
UNKNOWN_NEIGHBOURS = ("flood", "swallow")
#: Of a network without tunnels; a node numbers those behind the VNIs.
NO_VNI = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSpec:
    """A station: behind a ``port`` of this node, or at another ``vtep``, or at several, each of which gets a copy.

    ``mac`` None: 02:42 and the first IPv4 address, as Swarm has it; of a port without either it is learned. ``ip``: its
    addresses. ``name``: what DNS calls it, as Swarm does a task, and its ``aliases``; those of one name behind ports
    of this node are one client, which is on all of their networks.
    """

    port: str | None = None
    vtep: str | tuple[str, ...] | None = None
    mac: str | None = None
    ip: tuple[str, ...] = ()
    router: bool = False
    name: str = ""
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.port is None) == (self.vtep is None):
            raise SpecError("endpoint: either port (here) or vtep (elsewhere)")
        if self.port == UNDERLAY:
            raise rule_error("port", self.port, "the underlay's own name")
        if self.port is not None and is_address(self.port):
            raise rule_error("port", self.port, "a name; an address is another VTEP's")
        if isinstance(self.vtep, tuple) and len(self.vtep) == 1:
            object.__setattr__(self, "vtep", self.vtep[0])
        packed = [address("vtep", text) for text in self.vteps]
        if self.vtep is not None and (not packed or len(set(packed)) < len(packed)):
            raise rule_error("vtep", list(self.vteps), "one address, or several, each once")
        for text in self.ip:
            address("ip", text)
        for text in (*((self.name,) if self.name else ()), *self.aliases):
            dns_name("name" if text == self.name else "aliases", text)
        if self.mac is not None:
            station(self.mac, "mac")
        elif self.address is None and (self.vtep is not None or self.ip):
            raise SpecError("endpoint: a mac, or an IPv4 address to make it of")

    @property
    def vteps(self) -> tuple[str, ...]:
        """The VTEPs it is at; none: it is here."""
        return (self.vtep,) if isinstance(self.vtep, str) else self.vtep or ()

    @property
    def address(self) -> bytes | None:
        """Its MAC; None: it will be learned."""
        if self.mac is not None:
            return parse_mac(self.mac)
        four = next((packed for packed in map(parse_ip, self.ip) if len(packed) == 4), None)
        return None if four is None else mac_of_ip(four)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSpec:
    """A VTEP that is a member of the network: frames from it are let in. ``flood``: it gets broadcasts.

    ``rx_from``: further addresses that its packets may come from, behind a NAT or where its routes choose another.
    """

    vtep: str
    flood: bool = True
    rx_from: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        own = address("vtep", self.vtep)
        others = [address("rx_from", text) for text in self.rx_from]
        if own in others or len(set(others)) < len(others):
            raise rule_error("rx_from", list(self.rx_from), f"each once, and {self.vtep} is meant already")


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSpec:
    """A prefix behind a router of the network: ``to`` it, ``via`` that address."""

    to: str
    via: str

    def __post_init__(self) -> None:
        try:
            prefix = ip_network(self.to)
        except ValueError:
            raise rule_error("to", self.to, "a prefix without host bits, such as 0.0.0.0/0") from None
        if len(address("via", self.via)) != len(prefix.network_address.packed):
            raise rule_error("via", self.via, f"of the family of {self.to}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """One network: a VNI, its policies, its endpoints and the VTEPs that are members.

    ``flood``: "head-end" sends broadcasts, multicast and what has no entry to every member, "off" to our ports alone
    (what Swarm does). ``proxy``: ARP and neighbour discovery are answered from the endpoints' addresses;
    ``unknown_neighbours``: what of them has no entry, "flood" or "swallow". ``tags``: inner VLAN tags pass. ``gbp``:
    group policy bits are no reserved bits. ``bum_rate``: flooded frames a second, 0 for all. ``learned_limit``: MACs.
    ``snoop``: IP multicast goes to those that joined (IGMP, MLD), once somebody asks for memberships. ``mss_clamp``:
    TCP's MSS is kept to what fits the tunnel. The VTEP of an endpoint is a member, as if a ``peer`` named it.

    ``gateway``: addresses that are this node's own, on every node the same, with ``gateway_mac`` (None: 02:42 and the
    last four bytes of the first): they answer ARP, neighbour discovery and ping, and route to the ``subnet``s of all
    networks of the same ``name``, which are one network with several VNIs, as Swarm has it. The VTEPs of one of them
    are let in by all, since their gateways route.

    ``lan``: a network of this node alone, without VNI and tunnels. ``domain``: networks with the same one are routed
    between ("": those of one name). ``router_mac``: what its gateway routes into it comes from (None: the node's).
    ``route``: prefixes behind routers in it.

    ``own``: addresses in it that are this node's alone, with MACs made of them: a load balancer's, which Swarm has one
    of for each node and network; virtual addresses have its MAC then, else the gateway's. ``outside``: the network (a
    lan) that what is in none of the domain's subnets is masqueraded into, "" for none. ``internal``: nothing leaves
    the domain or enters it. ``preserve_source``: what comes by a tunnel from outside the domain is answered to the
    VTEP that it came by, so that tasks may see their clients' own addresses. ``guard``: those behind its ports answer
    on ports of services, and begin nothing. ``hops``: routers between it and services of other networks that are not
    there, and seen in the TTL alone (None: none; by profile "swarm" one of a lan).

    ``resolver``: addresses in its subnets at which this node, as every node for its own stations, answers DNS: a port
    of the plane, ``resolver_port`` ("": "resolver:" and the network's name), whose MAC is 02:42 and the last four bytes
    of the first IPv4 address, else of the first. A network's name is a domain: name none like one that people visit.
    """

    name: str
    vni: int = NO_VNI
    lan: bool = False
    domain: str = ""
    subnet: tuple[str, ...] = ()
    gateway: tuple[str, ...] = ()
    gateway_mac: str | None = None
    router_mac: str | None = None
    own: tuple[str, ...] = ()
    resolver: tuple[str, ...] = ()
    resolver_port: str = ""
    outside: str = ""
    internal: bool = False
    preserve_source: bool = False
    guard: bool = False
    hops: int | None = None
    learn: bool = True
    flood: str = "head-end"
    proxy: bool = False
    unknown_neighbours: str = "flood"
    tags: bool = False
    gbp: bool = False
    bum_rate: int = 0
    learned_limit: int = 8192
    snoop: bool = True
    mss_clamp: bool = False
    endpoint: tuple[EndpointSpec, ...] = ()
    peer: tuple[PeerSpec, ...] = ()
    route: tuple[RouteSpec, ...] = ()

    def __post_init__(self) -> None:
        if self.lan:
            if self.vni != NO_VNI and self.vni <= VNI_MAX:
                raise rule_error("vni", self.vni, "a network of this node alone (lan) has none")
            if self.members:
                raise rule_error("vtep", next(iter(self.members)), "a network of this node alone (lan) has no tunnels")
        elif self.vni == NO_VNI:
            raise SpecError("vni: missing")
        else:
            among("vni", self.vni, 0, VNI_MAX)
        if self.router_mac is not None:
            station(self.router_mac, "router_mac")
        if self.flood not in FLOODS:
            raise rule_error("flood", self.flood, " or ".join(FLOODS))
        if self.unknown_neighbours not in UNKNOWN_NEIGHBOURS:
            raise rule_error("unknown_neighbours", self.unknown_neighbours, " or ".join(UNKNOWN_NEIGHBOURS))
        among("hops", self.hops or 0, 0, 254)
        among("bum_rate", self.bum_rate, 0, 1_000_000_000)
        among("learned_limit", self.learned_limit, 0, 1 << 24)
        for text in self.subnet:
            try:
                ip_network(text)
            except ValueError:
                raise rule_error("subnet", text, "a prefix without host bits, such as 10.0.9.0/24") from None
        for text in (*self.gateway, *self.own):
            address("gateway" if text in self.gateway else "own", text)
        if self.internal and self.outside:
            raise rule_error("outside", self.outside, "an internal network reaches nothing outside")
        for text in self.gateway:
            subnets = [net for net in map(ip_network, self.subnet) if net.version == ip_address(text).version]
            if subnets and not any(ip_address(text) in net for net in subnets):
                raise rule_error("gateway", text, f"an address in a subnet of the network: {', '.join(self.subnet)}")
        if self.gateway_mac is not None:
            station(self.gateway_mac, "gateway_mac")
        self._check_addresses()

    def _check_addresses(self) -> None:
        """No two stations with one address, and no member VTEP twice."""
        seen: dict[bytes, str] = {parse_ip(text): f"gateway {text}" for text in self.gateway}
        for text in self.own:
            if parse_ip(text) in seen:
                raise rule_error("own", text, f"taken already, by {seen[parse_ip(text)]}")
            seen[parse_ip(text)] = f"own {text}"
        for text in self.resolver:
            packed = address("resolver", text)
            if packed in seen:
                raise rule_error("resolver", text, f"taken already, by {seen[packed]}")
            if not any(ip_address(text) in ip_network(subnet) for subnet in self.subnet):
                known = ", ".join(self.subnet) or "none"
                raise rule_error("resolver", text, f"an address in a subnet of the network: {known}")
            seen[packed] = f"resolver {text}"
        places: dict[bytes, EndpointSpec] = {}
        for endpoint in self.endpoint:
            for text in endpoint.ip:
                packed = parse_ip(text)
                if packed in seen:
                    raise rule_error("ip", text, f"taken already, by {seen[packed]}")
                seen[packed] = f"endpoint {text}"
            mac = endpoint.address
            if mac is not None and mac in places:
                raise rule_error("mac", mac.hex(":"), "two endpoints have it")
            if mac is not None:
                places[mac] = endpoint
        if self.resolver_mac in {*places, *(mac_of_ip(parse_ip(text)) for text in (*self.gateway[:1], *self.own))}:
            raise rule_error("resolver", list(self.resolver), "another has its MAC, which is made of the address")
        vteps = [parse_ip(peer.vtep) for peer in self.peer]
        for peer, packed in zip(self.peer, vteps, strict=True):
            if vteps.count(packed) > 1:
                raise rule_error("peer", peer.vtep, "given twice")
        taken = {parse_ip(vtep): vtep for vtep in self.members}
        for peer in self.peer:
            for text in peer.rx_from:
                if parse_ip(text) in taken:
                    raise rule_error("rx_from", text, f"it is {taken[parse_ip(text)]}'s already")
                taken[parse_ip(text)] = peer.vtep

    @property
    def routed_with(self) -> str:
        """The name of those that it is routed with."""
        return self.domain or self.name

    @property
    def ports(self) -> tuple[str, ...]:
        """Names of its ports, each once, in order; the resolver's is the last."""
        named = dict.fromkeys(e.port for e in self.endpoint if e.port is not None)
        return (*named, self.port_of_resolver) if self.resolver else tuple(named)

    @property
    def port_of_resolver(self) -> str:
        """The port by which questions leave the plane, and answers enter it."""
        return self.resolver_port or f"resolver:{self.name}"

    @property
    def resolver_mac(self) -> bytes | None:
        """The resolver's MAC; None: the network has no resolver."""
        packed = sorted(map(parse_ip, self.resolver), key=len)  # the first of the shortest: sorted keeps the order
        return mac_of_ip(packed[0]) if packed else None

    @property
    def here(self) -> tuple[str, ...]:
        """Addresses of those that are behind a port of it."""
        return tuple(text for endpoint in self.endpoint if endpoint.port is not None for text in endpoint.ip)

    @property
    def several(self) -> int:
        """Endpoints that are at more than one place."""
        return sum(len(e.vteps) > 1 for e in self.endpoint)

    @property
    def aliases(self) -> dict[str, str]:
        """Further addresses that packets of members may come from, and whose they are."""
        return {text: peer.vtep for peer in self.peer for text in peer.rx_from}

    @property
    def members(self) -> dict[str, bool]:
        """VTEPs that are members, and whether they get what is flooded."""
        named = {parse_ip(peer.vtep): (peer.vtep, peer.flood) for peer in self.peer}
        for endpoint in self.endpoint:
            for vtep in endpoint.vteps:
                named.setdefault(parse_ip(vtep), (vtep, True))
        return dict(named.values())
