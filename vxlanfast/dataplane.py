"""A node's spec made live: tables compiled, frames in by ports, frames out by ports."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address

from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.node.bridge import Bridge
from vxlanfast._ext.node.encap import Encap
from vxlanfast._ext.node.proxy import Proxy
from vxlanfast._ext.node.receive import Receive
from vxlanfast._ext.node.send import Send
from vxlanfast._ext.table.dest import DestTable
from vxlanfast._ext.table.fdb import FdbTable
from vxlanfast._ext.table.neigh import NeighTable
from vxlanfast._ext.table.net import NetTable
from vxlanfast._ext.verdict import Verdict
from vxlanfast.addr import format_ip, mac_of_ip, parse_ip, parse_mac
from vxlanfast.errors import SpecError, TableFullError
from vxlanfast.node_spec import UNDERLAY, EndpointSpec, NetworkSpec, NodeSpec
from vxlanfast.spec import TunnelSpec, compile_tunnel

#: No such number, in tables of the core.
NONE = 0xFFFFFFFF
SECOND_NS = 1_000_000_000

#: A place: the VNI, and a port's name or a VTEP's address.
Place = tuple[int, str]


@dataclass(frozen=True, slots=True)
class Traffic:
    """What came from a place and what went there: frames, and bytes of them without outer headers."""

    rx_packets: int = 0
    rx_bytes: int = 0
    tx_packets: int = 0
    tx_bytes: int = 0
    drops: int = 0


@dataclass(frozen=True, slots=True)
class PlaneStats:
    """An account: ``packets`` = ``passed`` + sum(``drops``), and ``sent`` = ``passed`` - flooded + copies - send_drops.

    ``passed`` counts a flooded frame once, ``flooded`` says how many were, ``copies`` what was made of them. ``drops``
    are of frames that came, ``send_drops`` of rows on their way out. ``answered``: ARP and ND requests that were
    answered. ``fdb``: what learning did.
    """

    packets: int
    passed: int
    sent: int
    flooded: int
    copies: int
    answered: int
    drops: Mapping[Verdict, int]
    send_drops: Mapping[Verdict, int]
    ports: Mapping[str, Traffic]
    peers: Mapping[Place, Traffic]
    fdb: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Drift:
    """Where tables differ from the spec: entries it wants and that are not there, or other ones, and authoritative ones
    that it does not know."""

    missing: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.unknown)


def gateway_mac(network: NetworkSpec) -> bytes:
    """The MAC of a network's gateway: as given, or of its first address."""
    if network.gateway_mac is not None:
        return parse_mac(network.gateway_mac)
    return mac_of_ip(parse_ip(network.gateway[0]))


class _Compiled:
    """Tables and nodes of one spec. Nothing in it is shared with another."""

    def __init__(self, spec: NodeSpec) -> None:
        self.spec = spec
        size = sum(len(network.ports) + len(network.members) for network in spec.network)
        self.nets = NetTable(max(1, len(spec.network)), seed=spec.seed)
        self.dests = DestTable(max(1, size), seed=spec.seed)
        self.fdb = FdbTable(
            spec.stations, dests=max(1, size), ageing_ns=spec.ageing_s * SECOND_NS, seed=spec.seed
        )
        self.neigh = NeighTable(spec.neighbours, seed=spec.seed)
        self.places: dict[Place, int] = {}
        ports = {name: number for number, name in enumerate(spec.ports)}
        tunnels: list[Encap] = []
        for network in spec.network:
            net = self.nets.add(
                network.vni, learn=network.learn, flood=network.flood == "head-end", proxy=network.proxy,
                swallow=network.unknown_neighbours == "swallow", tags=network.tags, gbp=network.gbp,
                bum_rate=network.bum_rate,
            )  # fmt: skip
            self.fdb.limit(net, network.learned_limit)
            mine, far = [], []
            for port in network.ports:
                self.places[network.vni, port] = self.dests.add_port(net, ports[port])
                mine.append(self.places[network.vni, port])
            for vtep, flood in network.members.items():
                number = self.dests.add_peer(net, parse_ip(vtep), ports[UNDERLAY], len(tunnels))
                self.places[network.vni, format_ip(parse_ip(vtep))] = number
                if flood:
                    far.append(number)
                tunnels.append(
                    compile_tunnel(
                        TunnelSpec(
                            vni=network.vni, src=spec.vtep_for(vtep), dst=vtep, port=spec.port, ttl=spec.ttl,
                            dscp=spec.dscp, df=spec.df, udp_csum=spec.udp_csum, seed=spec.seed,
                        )
                    )
                )  # fmt: skip
            self.nets.set_flood(net, mine, far)
            for endpoint in network.endpoint:
                self.set_endpoint(net, network.vni, endpoint)
            if network.gateway:
                self.nets.set_gateway(net, NONE, gateway_mac(network))
            for text in network.gateway:
                self.neigh.set(net, parse_ip(text), gateway_mac(network), gateway=True)
        self.receive = Receive(
            self.nets, self.dests, local=[parse_ip(text) for text in spec.vtep], ports=[spec.port],
            underlay=ports[UNDERLAY], zero_csum6=spec.zero_csum6,
        )  # fmt: skip
        self.proxy = Proxy(self.nets, self.dests, self.neigh)
        self.bridge = Bridge(self.nets, self.dests, self.fdb)
        self.send = Send(self.dests, tunnels)

    def place_of(self, endpoint: EndpointSpec) -> str:
        """The port's name or the VTEP's address, as places have it."""
        return endpoint.port if endpoint.port is not None else format_ip(parse_ip(endpoint.vtep or ""))

    def set_endpoint(self, net: int, vni: int, endpoint: EndpointSpec) -> None:
        mac = endpoint.address
        if mac is None:
            return
        dest = self.places[vni, self.place_of(endpoint)]
        self.fdb.set(net, mac, dest)
        for text in endpoint.ip:
            self.neigh.set(net, parse_ip(text), mac, router=endpoint.router, dest=dest)

    def process(self, batch: PacketBatch) -> None:
        """One batch through every node."""
        self.receive.process(batch)
        self.proxy.process(batch)
        self.bridge.process(batch)
        self.send.process(batch)

    def adopt(self, other: _Compiled) -> int:
        """Take over what ``other`` learned, where its network and its place are still there."""
        dests = array("I", [NONE]) * max(1, len(other.dests))
        for place, number in other.places.items():
            dests[number] = self.places.get(place, NONE)
        nets = array("I", [NONE]) * 65536
        for number, row in enumerate(other.nets.rows()):
            found = self.nets.find(row["vni"])
            nets[number] = NONE if found is None else found
        return self.fdb.adopt(other.fdb, dests, nets)


class Dataplane:
    """A node that decides: batches in, the same batches out, rows added where a frame goes to several places.

    >>> import vxlanfast as vf
    >>> spec = vf.parse_spec('''
    ... [node]
    ... vtep = "192.0.2.1"
    ... [[network]]
    ... name = "web"
    ... vni = 42
    ... [[network.endpoint]]
    ... port = "veth1"
    ... ip = "10.0.9.3"
    ... [[network.endpoint]]
    ... vtep = "192.0.2.2"
    ... ip = "10.0.9.4"
    ... ''')
    >>> plane = vf.Dataplane(spec)
    >>> frame = bytes.fromhex("02420a000904 02420a000903 0800") + bytes(46)
    >>> batch = plane.process(vf.PacketBatch.from_frames([frame], port_in=plane.ports["veth1"]))
    >>> plane.port_names[batch.port_out[0]], len(batch.frame(0))
    ('underlay', 110)
    """

    def __init__(self, spec: NodeSpec) -> None:
        try:
            self._now = _Compiled(spec)
        except OverflowError as error:
            raise TableFullError(str(error)) from None

    @property
    def spec(self) -> NodeSpec:
        """What it was made of last."""
        return self._now.spec

    @property
    def port_names(self) -> tuple[str, ...]:
        """The name of each port number; 0 is the underlay."""
        return self._now.spec.ports

    @property
    def ports(self) -> dict[str, int]:
        """The number of each port's name."""
        return {name: number for number, name in enumerate(self.port_names)}

    def process(self, batch: PacketBatch) -> PacketBatch:
        """Decide on every row with verdict PASS; ``port_in`` says where it came, its time is now.

        What leaves has verdict PASS and a ``port_out``. BufferError while a view of the batch is alive.
        """
        self._now.process(batch)
        return batch

    def offer(self, port: str, *frames: bytes, now_ns: int = 0) -> list[tuple[str, bytes]]:
        """Frames by one port: what leaves, as (port, frame). For prompts and tests; ``process`` is for work."""
        batch = self.process(PacketBatch.from_frames(frames, ts_ns=now_ns, port_in=self.number_of(port)))
        numbers = batch.port_out
        return [(self.port_names[numbers[i]], bytes(batch.frame(i))) for i in batch.passed()]

    def number_of(self, port: str) -> int:
        """A port's number; SpecError where there is none of that name."""
        number = self.ports.get(port)
        if number is None:
            raise SpecError(f"port {port!r}: there are {', '.join(self.port_names)}")
        return number

    def apply(self, spec: NodeSpec) -> int:
        """Be what ``spec`` says from now on; returns how many learned entries came along.

        A new plane is compiled beside the running one: what cannot be leaves this one as it is. Authoritative entries
        are the new spec's alone; learned ones come along where their network and place live on. Of a network that is
        gone nothing is left, so its VNI may be used again at once.
        """
        try:
            new = _Compiled(spec)
        except OverflowError as error:
            raise TableFullError(str(error)) from None
        came = new.adopt(self._now)
        self._now = new
        return came

    def _net(self, vni: int) -> int:
        net = self._now.nets.find(vni) if 0 <= vni <= 0xFFFFFF else None
        if net is None:
            raise SpecError(f"VNI {vni}: no network of this node")
        return net

    def _place(self, vni: int, place: str) -> int:
        found = self._now.places.get((vni, place))
        if found is None:
            with suppress(SpecError):
                found = self._now.places.get((vni, format_ip(parse_ip(place))))
        if found is None:
            known = ", ".join(name for number, name in self._now.places if number == vni)
            raise SpecError(f"{place!r}: no port or member of VNI {vni}; there are {known or 'none'}")
        return found

    def set_station(self, vni: int, mac: str, place: str) -> None:
        """As ``bridge fdb replace``: a MAC lives at a port (by name) or a VTEP (by address), whatever was learned."""
        try:
            self._now.fdb.set(self._net(vni), parse_mac(mac), self._place(vni, place))
        except OverflowError as error:
            raise TableFullError(str(error)) from None

    def delete_station(self, vni: int, mac: str) -> bool:
        """As ``bridge fdb del``: whether there was an entry."""
        return self._now.fdb.delete(self._net(vni), parse_mac(mac))

    def set_neighbour(self, vni: int, address: str, mac: str, place: str | None = None) -> None:
        """As ``ip neigh replace``: the MAC of an address. ``place``: claims of it from elsewhere are false."""
        dest = NONE if place is None else self._place(vni, place)
        try:
            self._now.neigh.set(self._net(vni), parse_ip(address), parse_mac(mac), dest=dest)
        except OverflowError as error:
            raise TableFullError(str(error)) from None

    def delete_neighbour(self, vni: int, address: str) -> bool:
        """As ``ip neigh del``: whether there was an entry."""
        return self._now.neigh.delete(self._net(vni), parse_ip(address))

    def stations(self) -> Iterator[dict[str, object]]:
        """The forwarding table: vni, mac, place, state, updated_ns, frozen."""
        names = {number: place for place, number in self._now.places.items()}
        vnis = [row["vni"] for row in self._now.nets.rows()]
        for row in self._now.fdb.rows():
            yield {
                "vni": vnis[row["net"]], "mac": row["mac"].hex(":"), "place": names[row["dest"]][1],
                "state": row["state"], "updated_ns": row["updated_ns"], "frozen": row["frozen"],
            }  # fmt: skip

    def neighbours(self) -> Iterator[dict[str, object]]:
        """The neighbour table: vni, address, mac, place (None: any), router, gateway."""
        names = {number: place for place, number in self._now.places.items()}
        vnis = [row["vni"] for row in self._now.nets.rows()]
        for row in self._now.neigh.rows():
            yield {
                "vni": vnis[row["net"]], "address": str(ip_address(row["addr"])), "mac": row["mac"].hex(":"),
                "place": None if row["dest"] is None else names[row["dest"]][1],
                "router": row["router"], "gateway": row["gateway"],
            }  # fmt: skip

    def verify(self) -> Drift:
        """What the spec wants against what the tables hold: single entries may have been changed since."""
        wanted, actual = (set(_authoritative(plane)) for plane in (Dataplane(self.spec), self))
        return Drift(tuple(sorted(wanted - actual)), tuple(sorted(actual - wanted)))

    def stats(self) -> PlaneStats:
        """Everything counted since the spec was applied."""
        now = self._now
        drops: dict[Verdict, int] = {}
        for node in (now.receive, now.proxy, now.bridge):
            for verdict, number in node.counters().items():
                if verdict:
                    drops[verdict] = drops.get(verdict, 0) + number
        sent = now.send.counters()
        names = {number: place for place, number in now.places.items()}
        ports: dict[str, Traffic] = {}
        peers: dict[Place, Traffic] = {}
        for number, row in enumerate(now.dests.rows()):
            traffic = Traffic(row["rx_packets"], row["rx_bytes"], row["tx_packets"], row["tx_bytes"], row["drops"])
            if row["kind"] == "port":
                ports[names[number][1]] = traffic
            else:
                peers[names[number]] = traffic
        packets = sum(now.receive.counters().values())
        return PlaneStats(
            packets=packets, passed=packets - sum(drops.values()), sent=sent.get(Verdict.PASS, 0),
            flooded=now.bridge.flooded, copies=now.bridge.copies, answered=now.proxy.answered, drops=drops,
            send_drops={verdict: number for verdict, number in sent.items() if verdict}, ports=ports, peers=peers,
            fdb=now.fdb.counts(),
        )  # fmt: skip


def _authoritative(plane: Dataplane) -> Iterator[str]:
    """Set entries as one line each, in the words of ``bridge fdb`` and ``ip neigh``."""
    for row in plane.stations():
        if row["state"] != "learned":
            yield f"fdb {row['mac']} vni {row['vni']} at {row['place']}"
    for row in plane.neighbours():
        gateway = " gateway" if row["gateway"] else ""
        yield f"neigh {row['address']} vni {row['vni']} lladdr {row['mac']} at {row['place'] or 'any'}{gateway}"
