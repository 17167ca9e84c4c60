"""What a node is to be, as frozen data: its VTEP, its networks, who lives where. Read from ``node.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from ipaddress import ip_address, ip_network
from itertools import count, pairwise
from os import PathLike, fspath
from typing import Any

from vxlanfast.addr import VNI_MAX, format_ip, mac_of_ip, parse_ip, parse_mac
from vxlanfast.checks import address, among, dns_name, is_address, rule_error, station
from vxlanfast.errors import SpecError
from vxlanfast.live_spec import LiveSpec, TapSpec
from vxlanfast.service_spec import (
    MeshSpec,
    PublishSpec,
    ServerSpec,
    ServiceSpec,
    VirtualSpec,
    at_tasks,
    check_services,
)
from vxlanfast.spec import DEFAULT_PORT, MTU_MIN, check_port

#: The port by which packets of the underlay come and go.
UNDERLAY = "underlay"
FLOODS = ("head-end", "off")
UNKNOWN_NEIGHBOURS = ("flood", "swallow")
#: What an entry may be: ports of a node, and networks, have 16-bit numbers.
PORTS_MAX = 65535
NETWORKS_MAX = 65535
#: In Swarm a packet to a published port goes through the host and the ingress namespace: one more than is here.
SWARM_HOPS = 1
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


def _one_of_each_family(addresses: Iterable[str]) -> tuple[str, ...]:
    """The first IPv4 address and the first IPv6 address."""
    first: dict[int, str] = {}
    for text in addresses:
        first.setdefault(len(parse_ip(text)), text)
    return tuple(first.values())


def _check_subnets(networks: tuple[NetworkSpec, ...]) -> None:
    """No two subnets of one domain overlap: a packet is routed to one of them."""
    subnets = [(n.routed_with, ip_network(text), n) for n in networks for text in n.subnet]
    subnets.sort(key=lambda item: (item[0], item[1].version, int(item[1].network_address), item[1].prefixlen))
    for (name, one, first), (other_name, other, second) in pairwise(subnets):
        if name == other_name and one.version == other.version and one.overlaps(other):
            rule = f"network {name}, VNI {second.vni}: {one} of VNI {first.vni} overlaps it"
            raise rule_error("subnet", str(other), rule)


def tunnel_len(vtep: str) -> int:
    """Bytes of IP packet in a tunnel to that VTEP that are in front of a frame's own IP packet."""
    return 50 if len(parse_ip(vtep)) == 4 else 70


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """A node: its VTEP addresses (at most one of each family), its tunnels' settings, its networks.

    ``mtu``: of the underlay, in bytes of IP packet: what does not fit is fragmented or told to its sender (RFC 7348
    §4.3), 0 for any length. ``router_mac``: what the gateways route comes from it (None: 06:42 and the last four bytes
    of the first VTEP address). ``port``: UDP port of both directions. ``ageing_s``: learned MACs that are silent so
    long go, 0 for never. ``stations``, ``neighbours``, ``memberships`` (multicast): capacity of the tables.
    ``udp_csum``, ``ttl``, ``dscp``, ``df``, ``seed``: as in TunnelSpec. ``zero_csum6``: a zero checksum over IPv6 is
    accepted (RFC 6935).
    """

    vtep: tuple[str, ...]
    name: str = "node"
    port: int = DEFAULT_PORT
    ageing_s: int = 300
    stations: int = 1 << 17
    neighbours: int = 1 << 16
    memberships: int = 1 << 13
    mtu: int = 1500
    router_mac: str | None = None
    ttl: int = 64
    dscp: int | str = 0
    df: bool = False
    udp_csum: str = "auto"
    zero_csum6: bool = False
    seed: int = 0
    network: tuple[NetworkSpec, ...] = ()
    mesh: MeshSpec = field(default_factory=MeshSpec)
    service: tuple[ServiceSpec, ...] = ()
    live: LiveSpec = field(default_factory=LiveSpec)

    def __post_init__(self) -> None:
        lans = count(VNI_MAX + 1)
        numbered = tuple(replace(n, vni=next(lans)) if n.lan else n for n in self.network)
        object.__setattr__(self, "network", numbered)
        sizes = [len(address("vtep", text)) for text in self.vtep]
        if not sizes or len(set(sizes)) < len(sizes):
            raise rule_error("vtep", list(self.vtep), "one address of a family, one or both families")
        check_port(self.port, "port")
        among("ageing_s", self.ageing_s, 0, 1 << 31)
        among("stations", self.stations, 1, 1 << 28)
        among("neighbours", self.neighbours, 1, 1 << 28)
        among("memberships", self.memberships, 1, 1 << 24)
        among("ttl", self.ttl, 1, 255)
        if self.dscp != "inherit" and not (isinstance(self.dscp, int) and 0 <= self.dscp <= 63):
            raise rule_error("dscp", self.dscp, "0 to 63, or inherit")
        if self.udp_csum not in ("auto", "on", "off"):
            raise rule_error("udp_csum", self.udp_csum, "auto, on or off")
        among("seed", self.seed, 0, (1 << 64) - 1)
        if self.mtu:
            among("mtu", self.mtu, max(MTU_MIN[size] for size in sizes), 65535)
        if self.router_mac is not None:
            station(self.router_mac, "router_mac")
        among("network", len(self.network), 0, NETWORKS_MAX)
        owners: dict[str, str] = {}
        vnis: dict[int, str] = {}
        for network in self.network:
            if network.vni in vnis:
                raise rule_error("vni", network.vni, f"networks {vnis[network.vni]} and {network.name} both have it")
            vnis[network.vni] = network.name
            for port in network.ports:
                if port in owners:
                    raise rule_error("port", port, f"networks {owners[port]} and {network.name} both have it")
                owners[port] = network.name
            for member in network.members:
                if len(parse_ip(member)) not in sizes:
                    rule = f"network {network.name}: this node has no VTEP address of that family"
                    raise rule_error("vtep", member, rule)
                if parse_ip(member) in map(parse_ip, self.vtep):
                    raise rule_error("vtep", member, f"network {network.name}: it is this node's own")
        among("port", len(owners), 0, PORTS_MAX)
        for tap in self.live.tap:
            if tap.port not in owners:
                raise rule_error("port", tap.port, f"[[live.tap]]: there are {', '.join(owners) or 'none'}")
        _check_subnets(self.network)
        self._check_services()
        self._check_resolvers()

    def _check_services(self) -> None:
        """Services name networks that there are, and do not take each other's ports; domains agree on how far they
        reach."""
        by_name = {network.name: network for network in self.network}
        known = ", ".join(sorted(by_name)) or "no networks"
        for service in self.service:
            named = [("servers_in", service.servers_in), *(("network", v.network) for v in service.virtual)]
            named += [("network", p.network) for p in service.publish]
            for key, name in named:
                if name not in by_name and (name or key == "network"):
                    raise rule_error(key, name, f"service {service.name}: there are {known}")
        names = [service.name for service in self.service]
        for name in names:
            if names.count(name) > 1:
                raise rule_error("service", name, "given twice")
        for network in self.network:
            if network.outside and not (network.outside in by_name and by_name[network.outside].lan):
                rule = f"network {network.name}: the name of a lan; there are {known}"
                raise rule_error("outside", network.outside, rule)
        for domain, networks in self.domains.items():
            if len({network.internal for network in networks}) > 1:
                raise rule_error("internal", True, f"domain {domain}: all of its networks are, or none")
        if self.mesh.profile == "swarm":
            self._check_swarm(by_name)
        check_services(self.expanded)

    def _check_resolvers(self) -> None:
        """Nobody else has a resolver's address, and stations may ask it."""
        taken = {(v.network, parse_ip(v.address)): s.name for s in self.service for v in s.virtual}
        for network in self.network:
            for text in network.resolver:
                service = taken.get((network.name, parse_ip(text)))
                if service is not None:
                    raise rule_error("resolver", text, f"network {network.name}: it is service {service}'s already")
            if network.guard and network.resolver:
                rule = f"network {network.name}: those behind its ports begin nothing (guard), so nobody asks"
                raise rule_error("resolver", list(network.resolver), rule)

    def _check_swarm(self, by_name: Mapping[str, NetworkSpec]) -> None:
        """A load balancer has an address in each network that it serves, and tasks see nobody else; where ports are
        published, tasks accept nothing but what is published of them."""
        guarded = set()
        for service in self.service:
            if not service.virtual and not service.publish:
                continue  # names alone
            home = by_name[service.home]
            if not home.own:
                rule = f"network {home.name}: service {service.name} is masqueraded by it: this node's load balancer"
                raise rule_error("own", "", rule)
            if not home.gateway:
                raise rule_error("gateway", "", f"network {home.name}: service {service.name} is routed into it")
            if service.masquerade and not {*map(parse_ip, service.masquerade)} <= {*map(parse_ip, home.own)}:
                rule = f"service {service.name}: an address of network {home.name} that is this node's own"
                raise rule_error("masquerade", list(service.masquerade), rule)
            if home.preserve_source:
                rule = f"network {home.name}: profile swarm hides the clients' addresses"
                raise rule_error("preserve_source", True, rule)
            if any(publish.mode == "ingress" for publish in service.publish):
                guarded.add(home.name)
        filled = (replace(n, guard=n.guard or n.name in guarded) for n in self.network)
        networks = tuple(replace(n, hops=SWARM_HOPS) if n.lan and n.hops is None else n for n in filled)
        object.__setattr__(self, "network", networks)

    @property
    def expanded(self) -> tuple[ServiceSpec, ...]:
        """Services with their published ports as virtual addresses: of each address that the node has where they are
        published."""
        return tuple(one for service in self.service for one in self._expand(service))

    def _expand(self, service: ServiceSpec) -> Iterator[ServiceSpec]:
        by_name = {network.name: network for network in self.network}
        swarm = self.mesh.profile == "swarm"
        if swarm and service.home:
            masquerade = service.masquerade or _one_of_each_family(by_name[service.home].own)
            service = replace(service, masquerade=masquerade)
        virtual = {"ingress": list(service.virtual), "host": []}
        for publish in service.publish:
            network = by_name[publish.network]
            addresses = {parse_ip(text): text for text in (*network.gateway, *network.own)}
            bound = [parse_ip(text) for text in publish.bind] or list(addresses)
            for packed in bound:
                if packed not in addresses:
                    rule = f"service {service.name}: no address of network {publish.network}"
                    raise rule_error("bind", format_ip(packed), rule)
                sources = tuple(t for t in publish.sources if len(ip_network(t).network_address.packed) == len(packed))
                if publish.sources and not sources:
                    continue
                virtual[publish.mode].append(
                    VirtualSpec(
                        network=publish.network, address=addresses[packed], protocol=publish.protocol,
                        port=publish.published, sources=sources,
                        target=0 if swarm and publish.mode == "ingress" else publish.target,
                    )
                )  # fmt: skip
        if virtual["ingress"] or not service.publish:
            yield replace(service, virtual=tuple(virtual["ingress"]), publish=())
        if not service.publish:
            return
        here = by_name[service.home].here
        if swarm and virtual["ingress"]:
            yield from at_tasks(service, service.home, here)
        if virtual["host"]:
            there = {*map(parse_ip, here)}
            servers = tuple(server for server in service.server if parse_ip(server.address) in there)
            if servers:
                name = f"{service.name} (host)"
                yield replace(
                    service, name=name, virtual=tuple(virtual["host"]), publish=(), server=servers, masquerade=()
                )

    @property
    def ports(self) -> tuple[str, ...]:
        """Every port's name, by number: the underlay's is 0."""
        return (UNDERLAY, *(port for network in self.network for port in network.ports))

    @property
    def domains(self) -> dict[str, tuple[NetworkSpec, ...]]:
        """Networks that are routed between, by their domain: those of which one at least has a gateway."""
        named: dict[str, list[NetworkSpec]] = {}
        for network in self.network:
            named.setdefault(network.routed_with, []).append(network)
        return {name: tuple(networks) for name, networks in named.items() if any(n.gateway for n in networks)}

    def overlay_mtu(self, vtep: str) -> int:
        """Bytes of an untagged frame, Ethernet header aside, that fit in one packet to that VTEP; 0: any number."""
        return max(0, self.mtu - tunnel_len(vtep))

    @property
    def own_mac(self) -> bytes:
        """The MAC that routed frames come from."""
        if self.router_mac is not None:
            return parse_mac(self.router_mac)
        return b"\x06\x42" + parse_ip(self.vtep[0])[-4:]

    def vtep_for(self, other: str) -> str:
        """Our address of the other's family."""
        size = len(parse_ip(other))
        return next(text for text in self.vtep if len(parse_ip(text)) == size)


def members_of(spec: NodeSpec) -> dict[int, dict[str, bool]]:
    """By VNI, the VTEPs that are let in, and whether they get what is flooded; with those that route to it."""
    members = {network.vni: network.members for network in spec.network}
    for networks in spec.domains.values():
        everybody = {parse_ip(vtep): vtep for network in networks for vtep in network.members}
        for network in networks:
            own = {parse_ip(vtep) for vtep in network.members}
            members[network.vni] |= {vtep: False for packed, vtep in everybody.items() if packed not in own}
    return members


_NESTED = {
    "network": NetworkSpec, "endpoint": EndpointSpec, "peer": PeerSpec, "route": RouteSpec, "service": ServiceSpec,
    "virtual": VirtualSpec, "publish": PublishSpec, "server": ServerSpec, "tap": TapSpec,
}  # fmt: skip
#: Tables of a file that stand beside [node] and are its fields.
_BESIDE = {"network": "[[network]]", "service": "[[service]]", "mesh": "[mesh]", "live": "[live]"}
#: Of them, those that are one table.
_SINGLE: dict[str, type[Any]] = {"mesh": MeshSpec, "live": LiveSpec}
_KINDS = {"str": str, "int": int, "bool": bool}


def _words(kind: str) -> str:
    return {"str": "a text", "int": "a whole number", "bool": "true or false"}[kind]


def _value(key: str, value: Any, kind: str) -> Any:
    """``value`` as a field of that type takes it."""
    if kind.startswith("tuple"):
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise rule_error(key, value, "a text, or a list of them")
        return tuple(texts)
    if isinstance(value, list) and "tuple" in kind:
        return _value(key, value, "tuple")
    allowed = [part for part in kind.split(" | ") if part in _KINDS]
    # A TOML true is no number, whatever Python thinks.
    if not any(type(value) is _KINDS[part] for part in allowed):
        raise rule_error(key, value, " or ".join(map(_words, allowed)))
    return value


def _make(kind: type[Any], table: Mapping[str, Any], where: str) -> Any:
    """A spec out of a table of a TOML file; ``where`` is said in front of what is wrong."""
    known = {f.name: str(f.type) for f in fields(kind)}
    made = {}
    try:
        for key, value in table.items():
            if key not in known:
                raise SpecError(f"{key}: no such key; there are {', '.join(known)}")
            if key in _SINGLE and kind is NodeSpec:
                if not isinstance(value, dict):
                    raise SpecError(f"{key}: a table, [{key}]")
                made[key] = _make(_SINGLE[key], value, f"[{key}]")
            elif key in _NESTED and "Spec" in known[key]:  # a service's network is a name, a TAP's route a choice
                if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
                    raise SpecError(f"{key}: a table in double brackets for each, [[{key}]]")
                made[key] = tuple(_nested(key, value))
            else:
                made[key] = _value(key, value, known[key])
        missing = [f.name for f in fields(kind) if f.name not in made and f.name in _required(kind)]
        if missing:
            raise SpecError(f"{missing[0]}: missing")
        return kind(**made)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None


def _required(kind: type[Any]) -> set[str]:
    from dataclasses import MISSING

    return {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}


def _nested(key: str, tables: list[dict[str, Any]]) -> Iterator[Any]:
    for number, table in enumerate(tables, 1):
        name = table.get("name")
        yield _make(_NESTED[key], table, f"[[{key}]] {name if isinstance(name, str) else number}")


def parse_spec(text: str, source: str = "node.toml") -> NodeSpec:
    """A node's spec out of TOML; ``source`` begins every error. SpecError: file, key, value and rule, in one line."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{source}: {error}") from None
    unknown = table.keys() - {"node", *_BESIDE}
    if unknown:
        known = "[node], [mesh], [live], [[network]] and [[service]]"
        raise SpecError(f"{source}: {min(unknown)}: no such table; there are {known}")
    node = table.get("node", {})
    if not isinstance(node, dict):
        raise SpecError(f"{source}: node: a table, [node]")
    for key, shown in _BESIDE.items():
        if key in node:
            raise SpecError(f"{source}: [node]: {key}: it stands beside, as {shown}")
        if key in table:
            node = {**node, key: table[key]}
    spec: NodeSpec = _make(NodeSpec, node, source)
    return spec


def load_spec(path: str | PathLike[str]) -> NodeSpec:
    """The spec in a file. SpecError: it cannot be read, or says what cannot be."""
    try:
        with open(path, encoding="utf-8") as file:
            return parse_spec(file.read(), fspath(path))
    except OSError as error:
        raise SpecError(f"{fspath(path)}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{fspath(path)}: byte {error.start} is not UTF-8") from None
