"""What a node is to be, as frozen data: its VTEP, its networks, its services, and whether they fit each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from itertools import count, pairwise

from vxlanfast.addr import VNI_MAX, format_ip, parse_ip, parse_mac
from vxlanfast.checks import address, among, rule_error, station
from vxlanfast.live_spec import LiveSpec
from vxlanfast.network_spec import UNDERLAY, NetworkSpec
from vxlanfast.service_spec import MeshSpec, ServiceSpec, VirtualSpec, at_tasks, check_services
from vxlanfast.spec import DEFAULT_PORT, MTU_MIN, check_port

#: What an entry may be: ports of a node, and networks, have 16-bit numbers.
PORTS_MAX = 65535
NETWORKS_MAX = 65535
#: In Swarm a packet to a published port goes through the host and the ingress namespace: one more than is here.
SWARM_HOPS = 1


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
    accepted (RFC 6935). ``reassemble``: outer fragments that members send are put together, as a kernel does.
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
    reassemble: bool = True
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
