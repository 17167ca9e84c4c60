"""One spec as tables and nodes of the core, in the order in which packets pass them."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_network

from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.node.bridge import Bridge
from vxlanfast._ext.node.encap import Encap
from vxlanfast._ext.node.fit import Fit
from vxlanfast._ext.node.proxy import Proxy
from vxlanfast._ext.node.receive import Receive
from vxlanfast._ext.node.route import Route
from vxlanfast._ext.node.send import Send
from vxlanfast._ext.node.snoop import Snoop
from vxlanfast._ext.table.dest import DestTable
from vxlanfast._ext.table.fdb import FdbTable
from vxlanfast._ext.table.fragments import FragmentTable
from vxlanfast._ext.table.group import GroupTable
from vxlanfast._ext.table.neigh import NeighTable
from vxlanfast._ext.table.net import NetTable
from vxlanfast.addr import format_ip, mac_of_ip, parse_ip, parse_mac
from vxlanfast.mesh import MeshState
from vxlanfast.network_spec import UNDERLAY, EndpointSpec, NetworkSpec
from vxlanfast.node_spec import NodeSpec, members_of, tunnel_len
from vxlanfast.plane_stats import Place
from vxlanfast.service_spec import ServiceSpec
from vxlanfast.spec import TunnelSpec, compile_tunnel

#: No such number, in tables of the core.
NONE = 0xFFFFFFFF
SECOND_NS = 1_000_000_000
#: Destinations beyond the spec's: sets of places that single entries may be given (see ``Dataplane.set_station``).
SPARE_PLACES = 256
#: What a watcher is called with: as a batch came, as frames of networks, before and after services and routing, as it
#: goes. A row's verdict says whether it goes at all.
STAGES = ("came", "inner", "before", "after", "went")
Watcher = Callable[[str, PacketBatch], object]
#: How a network's gateway is called among its places.
GATEWAY = "gateway"


def gateway_mac(network: NetworkSpec) -> bytes:
    """The MAC of a network's gateway: as given, or of its first address."""
    if network.gateway_mac is not None:
        return parse_mac(network.gateway_mac)
    return mac_of_ip(parse_ip(network.gateway[0]))


class Compiled:
    """Tables and nodes of one spec. Nothing in it is shared with another."""

    def __init__(self, spec: NodeSpec, mesh: MeshState) -> None:
        self.spec = spec
        members = members_of(spec)
        size = sum(len(n.ports) + 2 + n.several for n in spec.network) + SPARE_PLACES
        size += sum(map(len, members.values())) + sum(len(n.aliases) for n in spec.network)
        self.nets = NetTable(max(1, len(spec.network)), seed=spec.seed)
        self.dests = DestTable(size, seed=spec.seed)
        self.fdb = FdbTable(
            spec.stations,
            dests=size,
            owner_limit=max((n.learned_limit for n in spec.network), default=0),
            ageing_ns=spec.ageing_s * SECOND_NS,
            seed=spec.seed,
        )
        self.neigh = NeighTable(spec.neighbours, seed=spec.seed)
        self.groups = GroupTable(spec.memberships, dests=size, seed=spec.seed)
        self.places: dict[Place, int] = {}
        self.gateways: dict[int, int] = {}  # destination: VNI
        self.several: dict[tuple[int, ...], int] = {}
        self.peers: dict[Place, bool] = {}
        self.vnis: dict[str, int] = {}  # by port
        self.tunnels: list[Encap] = []
        ports = {name: number for number, name in enumerate(spec.ports)}
        services = spec.expanded
        served = {v.network for s in services for v in s.virtual} | {s.servers_in for s in services}
        served |= {n.name for n in spec.network if n.outside or n.guard or n.preserve_source}
        meshed = {network.routed_with for network in spec.network if network.name in served}
        for network in spec.network:
            self.add_network(network, ports, members[network.vni], mesh.domain(network.routed_with), meshed)
        for networks in spec.domains.values():
            self.add_routes(networks)
        for network in spec.network:
            self.add_reach(network)
        self.add_virtual(services)
        self.receive = Receive(
            self.nets, self.dests, local=[parse_ip(text) for text in spec.vtep], ports=[spec.port],
            underlay=ports[UNDERLAY], zero_csum6=spec.zero_csum6,
            fragments=FragmentTable(seed=spec.seed) if spec.reassemble else None,
        )  # fmt: skip
        self.proxy = Proxy(self.nets, self.dests, self.neigh)
        self.bridge = Bridge(self.nets, self.dests, self.fdb, Snoop(self.nets, self.dests, self.groups))
        self.mesh = mesh.node(self.nets, self.dests, spec.mesh)
        self.route = Route(self.nets, self.dests, self.fdb, self.neigh, mesh.conns)
        self.fit = Fit(self.nets, self.dests, seed=spec.seed)
        self.send = Send(self.dests, self.tunnels)

    def add_network(
        self, network: NetworkSpec, ports: Mapping[str, int], members: Mapping[str, bool], domain: int, meshed: set[str]
    ) -> None:
        """A network, its ports and members, its endpoints."""
        spec = self.spec
        net = self.nets.add(
            network.vni, learn=network.learn, flood=network.flood == "head-end", proxy=network.proxy,
            swallow=network.unknown_neighbours == "swallow", tags=network.tags, gbp=network.gbp,
            bum_rate=network.bum_rate, snoop=network.snoop, mss_clamp=network.mss_clamp,
            domain=domain, mesh=network.routed_with in meshed, lan=network.lan,
        )  # fmt: skip
        self.fdb.limit(net, network.learned_limit)
        mine, far = [], []
        for port in network.ports:
            self.places[network.vni, port] = self.dests.add_port(net, ports[port])
            self.vnis[port] = network.vni
            if not (network.resolver and port == network.port_of_resolver):
                mine.append(self.places[network.vni, port])
        for vtep, flood in members.items():
            packed = parse_ip(vtep)
            number = self.dests.add_peer(net, packed, ports[UNDERLAY], len(self.tunnels), mtu=spec.overlay_mtu(vtep))
            self.places[network.vni, format_ip(packed)] = number
            self.peers[network.vni, format_ip(packed)] = flood
            if flood:
                far.append(number)
            self.tunnels.append(
                compile_tunnel(
                    TunnelSpec(
                        vni=network.vni, src=spec.vtep_for(vtep), dst=vtep, port=spec.port, ttl=spec.ttl,
                        dscp=spec.dscp, df=spec.df, udp_csum=spec.udp_csum, seed=spec.seed,
                    )
                )
            )  # fmt: skip
        for text, vtep in network.aliases.items():
            self.dests.add_alias(self.places[network.vni, format_ip(parse_ip(vtep))], parse_ip(text))
        self.nets.set_flood(net, mine, far)
        for endpoint in network.endpoint:
            self.set_endpoint(net, network.vni, endpoint)
        if network.resolver_mac is not None:
            self.add_resolver(net, network, network.resolver_mac)

    def add_resolver(self, net: int, network: NetworkSpec, mac: bytes) -> None:
        """Each node has its own: it is asked for here, and nobody else's claim to its addresses is true."""
        self.fdb.set(net, mac, self.places[network.vni, network.port_of_resolver])
        for text in network.resolver:
            self.neigh.set(net, parse_ip(text), mac, gateway=True)

    def add_routes(self, networks: Sequence[NetworkSpec]) -> None:
        """The gateways of the networks of one name, and the subnets they route to."""
        routes: list[tuple[bytes, int, int] | tuple[bytes, int, int, bytes]] = []
        nets = []
        for network in networks:
            net = self.nets.find(network.vni)
            assert net is not None
            nets.append(net)
            routes += [
                (ip_network(text).network_address.packed, ip_network(text).prefixlen, net) for text in network.subnet
            ]
            routes += [
                (ip_network(way.to).network_address.packed, ip_network(way.to).prefixlen, net, parse_ip(way.via))
                for way in network.route
            ]
            own = self.router_mac(network)
            self.nets.set_gateway(
                net, gateway_mac(network) if network.gateway else bytes(6), own,
                addresses=[parse_ip(text) for text in network.gateway],
            )  # fmt: skip
            if network.gateway:
                self.add_gateway(net, network.vni, gateway_mac(network))
            for text in network.gateway:
                self.neigh.set(net, parse_ip(text), gateway_mac(network), gateway=True)
        self.nets.add_routes(nets, routes)

    def add_gateway(self, net: int, vni: int, mac: bytes) -> None:
        """A MAC that is the node itself."""
        dest = self.dests.add_gateway(net)
        self.gateways[dest] = vni
        self.fdb.set(net, mac, dest, local=True)

    def add_reach(self, network: NetworkSpec) -> None:
        """How far its stations reach, and this node's own addresses in it."""
        net = self.net_of(network)
        out = next((self.net_of(one) for one in self.spec.network if one.name == network.outside), None)
        self.nets.set_reach(
            net, out_net=out, internal=network.internal, returns=network.preserve_source, guard=network.guard,
            hops=network.hops or 0,
        )  # fmt: skip
        if not network.own and not network.preserve_source:
            return
        dest = self.dests.add_router(net)
        self.gateways[dest] = network.vni
        macs = {mac_of_ip(parse_ip(text)) for text in network.own}
        if network.preserve_source:
            macs.add(self.router_mac(network))
        for mac in macs:
            self.fdb.set(net, mac, dest, local=True)
        for text in network.own:
            self.neigh.set(net, parse_ip(text), mac_of_ip(parse_ip(text)), gateway=True)

    def router_mac(self, network: NetworkSpec) -> bytes:
        """What is routed into a network comes from it: as given, else of the node's own address there, else the
        node's."""
        if network.router_mac is not None:
            return parse_mac(network.router_mac)
        return mac_of_ip(parse_ip(network.own[0])) if network.own else self.spec.own_mac

    def net_of(self, network: NetworkSpec) -> int:
        """Its number."""
        net = self.nets.find(network.vni)
        assert net is not None
        return net

    def add_virtual(self, services: Sequence[ServiceSpec]) -> None:
        """Virtual addresses are the gateway's, on every node its own: their ARP and ping are answered here."""
        by_name = {network.name: network for network in self.spec.network}
        for service in services:
            for virtual in service.virtual:
                network = by_name[virtual.network]
                net = self.net_of(network)
                known = (*network.gateway, *network.own, *network.here)
                if parse_ip(virtual.address) in map(parse_ip, known):
                    continue  # the node's own address already, or a task's whose ports are translated there
                mac = mac_of_ip(parse_ip(network.own[0])) if network.own else self.spec.own_mac
                if network.gateway and not network.own:
                    mac = gateway_mac(network)
                if network.vni not in self.gateways.values():
                    self.add_gateway(net, network.vni, mac)
                self.neigh.set(net, parse_ip(virtual.address), mac, gateway=True)

    def at_places(self, net: int, numbers: tuple[int, ...]) -> int:
        """One number for one place or several."""
        if len(numbers) == 1:
            return numbers[0]
        if numbers not in self.several:
            self.several[numbers] = self.dests.add_places(net, numbers)
        return self.several[numbers]

    def set_endpoint(self, net: int, vni: int, endpoint: EndpointSpec) -> None:
        """Its MAC and its addresses, as authoritative entries."""
        mac = endpoint.address
        if mac is None:
            return
        names = [endpoint.port] if endpoint.port is not None else [format_ip(parse_ip(v)) for v in endpoint.vteps]
        dest = self.at_places(net, tuple(self.places[vni, name] for name in names))
        self.fdb.set(net, mac, dest)
        for text in endpoint.ip:
            # An address that is at several places may be claimed from any of them.
            bound = dest if len(names) == 1 else NONE
            self.neigh.set(net, parse_ip(text), mac, router=endpoint.router, dest=bound)

    def process(self, batch: PacketBatch) -> None:
        """One batch through every node."""
        self.receive.process(batch)
        self.proxy.process(batch)
        self.bridge.process(batch)
        self.mesh.process(batch)
        self.route.process(batch)
        self.fit.process(batch)
        self.send.process(batch)

    def process_watched(self, batch: PacketBatch, watch: Watcher) -> None:
        """As ``process``; ``watch`` sees the batch at each stage, and must leave it as it is."""
        watch("came", batch)
        self.receive.process(batch)
        watch("inner", batch)
        self.proxy.process(batch)
        self.bridge.process(batch)
        watch("before", batch)
        self.mesh.process(batch)
        self.route.process(batch)
        watch("after", batch)
        self.fit.process(batch)
        self.send.process(batch)
        watch("went", batch)

    def adopt(self, other: Compiled) -> int:
        """Take over what ``other`` learned, where its network and its place are still there."""
        dests = array("I", [NONE]) * len(other.fdb_owners)
        for place, number in other.places.items():
            dests[number] = self.places.get(place, NONE)
        nets = array("I", [NONE]) * 65536
        for number, row in enumerate(other.nets.rows()):
            found = self.nets.find(row["vni"])
            nets[number] = NONE if found is None else found
        self.nets.adopt(other.nets)
        self.groups.adopt(other.groups, dests, nets)
        self.mesh.move_returns(dests)
        if self.receive.fragments is not None and other.receive.fragments is not None:
            self.receive.fragments = other.receive.fragments
        self.fit.idents = other.fit.idents
        return self.fdb.adopt(other.fdb, dests, nets)

    def set_path_mtu(self, vtep: str, mtu: int | None) -> bool:
        """As the plane's; ``vtep`` in its canonical form."""
        fits = self.spec.overlay_mtu(vtep)
        if mtu is not None:
            least = max(1, mtu - tunnel_len(vtep))
            fits = min(fits, least) if fits else least
        changed = [self.dests.set_mtu(self.places[place], fits) for place in self.peers if place[1] == vtep]
        return any(changed)

    @property
    def fdb_owners(self) -> range:
        """The numbers that destinations may have."""
        return range(self.dests.capacity)

    def names(self) -> dict[int, tuple[int, str]]:
        """The VNI and the name of each destination, as people read them."""
        names = {number: place for place, number in self.places.items()}
        names |= {number: (vni, GATEWAY) for number, vni in self.gateways.items()}
        names |= {
            number: (names[numbers[0]][0], ",".join(names[one][1] for one in numbers))
            for numbers, number in self.several.items()
        }
        return names
