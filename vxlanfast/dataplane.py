"""A node's spec made live: frames in by ports, frames out by ports; its tables asked, changed and applied anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.verdict import Verdict
from vxlanfast.addr import format_ip, parse_ip, parse_mac
from vxlanfast.checks import station
from vxlanfast.compiled import NONE, Compiled, Watcher
from vxlanfast.errors import SpecError, TableFullError
from vxlanfast.mesh import MeshState, Translation
from vxlanfast.node_spec import NodeSpec
from vxlanfast.plane_stats import Drift, MeshCounts, NetworkTraffic, Place, PlaneStats, Traffic, authoritative

if TYPE_CHECKING:
    from vxlanfast.explain import Decision
    from vxlanfast.service_spec import ServerSpec


def _compiled(spec: NodeSpec, mesh: MeshState) -> Compiled:
    try:
        return Compiled(spec, mesh)
    except OverflowError as error:
        raise TableFullError(str(error)) from None


class Prepared:
    """A spec, compiled by ``Dataplane.prepare`` and waiting for ``apply``."""

    def __init__(self, compiled: Compiled) -> None:
        self.spec = compiled.spec
        self._compiled: Compiled | None = compiled

    def _take(self) -> Compiled:
        compiled, self._compiled = self._compiled, None
        if compiled is None:
            raise ValueError("this was applied before: a plane owns its tables")
        return compiled


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
        self._mesh = MeshState(spec.mesh)
        self._mesh.check(spec)
        self._now = _compiled(spec, self._mesh)
        self._mesh.reconcile(spec, self._now.mesh)
        self._path_mtus: dict[str, int] = {}
        #: Sees every batch at each of STAGES while it is set; of a batch it may keep a copy, and change nothing.
        self.watch: Watcher | None = None

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

    def process(self, batch: PacketBatch, *, explain: bool = False) -> PacketBatch:
        """Decide on every row with verdict PASS; ``port_in`` says where it came, its time is now.

        What leaves has verdict PASS, a ``port_out`` and a ``rule``; ``explain``: which says of forwarding entries
        whether they were learned or set. BufferError while a view of the batch is alive.
        """
        now, watch = self._now, self.watch
        now.bridge.explains = explain or watch is not None
        now.mesh.explains = explain
        if watch is None:
            now.process(batch)
        else:
            now.process_watched(batch, watch)
        return batch

    def tick(self, now_ns: int) -> PacketBatch:
        """Time goes on without a packet: what is overdue ends. Returns rows that tell so, to leave by their ports."""
        batch = PacketBatch.from_frames([b""], ts_ns=now_ns)
        batch.verdict[0] = Verdict.DROP_TRUNCATED  # a row of nobody's, which no node looks at
        return self.process(batch)

    def explain(self, batch: PacketBatch, *, first: int = 1) -> list[Decision]:
        """Process a batch, and say row by row what was decided and why; see ``Decision``. For prompts and tests."""
        from vxlanfast.explain import explain

        return explain(self, batch, first=first)

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

    def prepare(self, spec: NodeSpec) -> Prepared:
        """Compile ``spec`` while this plane goes on (in another thread, perhaps); ``apply`` takes it then. For once."""
        return Prepared(_compiled(spec, self._mesh))

    def apply(self, spec: NodeSpec | Prepared) -> int:
        """Be what ``spec`` says from now on; returns how many learned entries came along.

        A new plane is compiled beside the running one: what cannot be leaves this one as it is. Authoritative entries
        are the new spec's alone; learned ones and multicast memberships come along where their network and place live
        on. Of a network that is gone nothing is left, so its VNI may be used again at once. Counters begin anew.
        ValueError: it was applied before.
        """
        new = spec._take() if isinstance(spec, Prepared) else _compiled(spec, self._mesh)
        self._mesh.check(new.spec)
        for vtep, mtu in self._path_mtus.items():
            new.set_path_mtu(vtep, mtu)
        came = new.adopt(self._now)
        gone = {n.routed_with for n in self.spec.network} - {n.routed_with for n in new.spec.network}
        new.mesh.take_over(self._now.mesh)
        self._now = new
        self._mesh.reconcile(new.spec, new.mesh)
        self._mesh.forget_domains(sorted(gone), new.mesh)
        return came

    def set_path_mtu(self, vtep: str, mtu: int | None) -> bool:
        """Bytes of IP packet that fit on the way to a VTEP, whatever spec is applied; None: the spec's alone says so.

        What counts is the least of both. Returns whether that makes a difference now.
        """
        vtep = format_ip(parse_ip(vtep))
        if mtu is None:
            self._path_mtus.pop(vtep, None)
        else:
            self._path_mtus[vtep] = mtu
        return self._now.set_path_mtu(vtep, mtu)

    @property
    def not_udp(self) -> int:
        """Packets of the underlay so far that were IP and no UDP: ICMP is among them."""
        return self._now.receive.not_udp

    def _net(self, vni: int) -> int:
        net = self._now.nets.find(vni) if 0 <= vni < 1 << 32 else None
        if net is None:
            raise SpecError(f"{self._said(vni)}: no network of this node")
        return net

    def _said(self, vni: int) -> str:
        """A network in messages: a lan's number is nobody's VNI."""
        lan = next((n.name for n in self.spec.network if n.vni == vni and n.lan), None)
        return f"VNI {vni}" if lan is None else f"network {lan}"

    def _places(self, vni: int, places: Sequence[str]) -> int:
        """The number of one place, or of several."""
        numbers = tuple(dict.fromkeys(self._place(vni, place) for place in places))
        if not numbers:
            raise SpecError(f"{self._said(vni)}: a port or a member at least")
        return self._now.at_places(self._net(vni), numbers)

    def _place(self, vni: int, place: str) -> int:
        found = self._now.places.get((vni, place))
        if found is None:
            with suppress(SpecError):
                found = self._now.places.get((vni, format_ip(parse_ip(place))))
        if found is None:
            known = ", ".join(name for number, name in self._now.places if number == vni)
            raise SpecError(f"{place!r}: no port or member of {self._said(vni)}; there are {known or 'none'}")
        return found

    def set_station(self, vni: int, mac: str, *places: str) -> None:
        """As ``bridge fdb replace``: a MAC lives at a port (by name) or a VTEP (by address), whatever was learned.

        Several places: each gets a copy, as after ``bridge fdb append``.
        """
        try:
            self._now.fdb.set(self._net(vni), station(mac), self._places(vni, places))
        except OverflowError as error:
            raise TableFullError(str(error)) from None

    def delete_station(self, vni: int, mac: str) -> bool:
        """As ``bridge fdb del``: whether there was an entry."""
        return self._now.fdb.delete(self._net(vni), station(mac))

    def set_neighbour(
        self, vni: int, address: str, mac: str, place: str | None = None, *, router: bool = False
    ) -> None:
        """As ``ip neigh replace``: the MAC of an address. ``place``: claims of it from elsewhere are false."""
        dest = NONE if place is None else self._place(vni, place)
        try:
            self._now.neigh.set(self._net(vni), parse_ip(address), parse_mac(mac), router=router, dest=dest)
        except OverflowError as error:
            raise TableFullError(str(error)) from None

    def neighbour(self, vni: int, address: str) -> dict[str, object] | None:
        """One entry of the neighbour table, as ``neighbours`` has it, or None."""
        row = self._now.neigh.entry(self._net(vni), parse_ip(address))
        return None if row is None else self._neighbour(row, vni, self._now.names())

    def net_number(self, vni: int) -> int:
        """What a network is called in rows of batches; SpecError: it is none of this node's."""
        return self._net(vni)

    def delete_neighbour(self, vni: int, address: str) -> bool:
        """As ``ip neigh del``: whether there was an entry."""
        return self._now.neigh.delete(self._net(vni), parse_ip(address))

    @property
    def vteps(self) -> Mapping[Place, bool]:
        """The VTEPs that are let in, as (VNI, address), and whether they get what is flooded."""
        return self._now.peers

    def place_names(self) -> dict[int, Place]:
        """The VNI and name (a port's, a VTEP's address, "gateway", or several) of each number in ``batch.dest``."""
        return self._now.names()

    def vni_of(self, port: str) -> int | None:
        """The VNI of a port's network; None: the underlay, or no port of ours."""
        return self._now.vnis.get(port)

    def station(self, vni: int, mac: str) -> dict[str, object] | None:
        """One entry of the forwarding table, as ``stations`` has it, or None."""
        row = self._now.fdb.entry(self._net(vni), station(mac))
        return None if row is None else self._station(row, vni, self._now.names())

    def _station(self, row: Mapping[str, Any], vni: int, names: Mapping[int, Place]) -> dict[str, object]:
        return {
            "vni": vni, "mac": row["mac"].hex(":"), "place": names[row["dest"]][1],
            "remote": (vni, names[row["dest"]][1]) in self._now.peers or row["dest"] in self._now.several.values(),
            "state": row["state"], "updated_ns": row["updated_ns"], "frozen": row["frozen"],
        }  # fmt: skip

    def stations(self) -> Iterator[dict[str, object]]:
        """The forwarding table: vni, mac, place, remote (a VTEP), state, updated_ns, frozen."""
        now = self._now
        names = now.names()
        vnis = [row["vni"] for row in now.nets.rows()]
        for row in now.fdb.walk():
            if row["dest"] not in names:
                names = now.names()  # made since
            yield self._station(row, vnis[row["net"]], names)

    def neighbours(self) -> Iterator[dict[str, object]]:
        """The neighbour table: vni, address, mac, place (None: any), router, gateway."""
        names = self._now.names()
        vnis = [row["vni"] for row in self._now.nets.rows()]
        for row in self._now.neigh.walk():
            yield self._neighbour(row, vnis[row["net"]], names)

    def _neighbour(self, row: Mapping[str, Any], vni: int, names: Mapping[int, Place]) -> dict[str, object]:
        return {
            "vni": vni, "address": str(ip_address(row["addr"])), "mac": row["mac"].hex(":"),
            "place": None if row["dest"] is None else names[row["dest"]][1],
            "router": row["router"], "gateway": row["gateway"],
        }  # fmt: skip

    def verify(self) -> Drift:
        """What the spec wants against what the tables hold: single entries may have been changed since."""
        planes = Dataplane(self.spec), self
        wanted, actual = (set(authoritative(one.stations(), one.neighbours())) for one in planes)
        return Drift(tuple(sorted(wanted - actual)), tuple(sorted(actual - wanted)))

    def translations(self) -> dict[int, Translation]:
        """What connections had to do with the rows of the last batch that was processed with ``explain``, by row."""
        return self._mesh.translations(self._now.mesh.decided())

    def services(self) -> Iterator[dict[str, Any]]:
        """Services: name, family, scheduler and its flags, persistence, virtual (where clients find it), servers,
        connections, refused; in_packets and in_bytes (of clients), out_packets and out_bytes (of servers), of each
        server as well."""
        return self._mesh.service_rows()

    def servers_of(self, service: str) -> Iterator[tuple[bytes, int, int]]:
        """Address (packed), port and weight of each server that a service has now; also of one that has no virtual
        address, and is found by its name alone."""
        return self._mesh.servers_of(service)

    def connections(self, now_ns: int | None = None) -> Iterator[dict[str, Any]]:
        """Connections that live at ``now_ns`` (None: the time of the last packet that was looked at for them):
        protocol, kind, state, left_s; client, virtual, masquerade and server with their ports. See ``MeshState``."""
        return self._mesh.connection_rows(self._now.mesh.now_ns if now_ns is None else now_ns)

    def connection(self, number: int) -> dict[str, Any] | None:
        """The addresses and ports of a connection, by its number in ``batch.conn`` (without the direction, its lowest
        bit); None: there is none any more. ``outside``: its client is in another domain than its servers."""
        return self._mesh.connection(number)

    def set_server(self, service: str, address: str, port: int = 0, **change: int) -> None:
        """As ``ipvsadm -e``: another ``weight`` (0: drained), ``upper`` or ``lower`` of a real server."""
        self._mesh.set_server(service, address, port, **change)

    def set_cursor(self, service: str, address: str, port: int = 0) -> None:
        """rr goes on behind that server, as if it had been chosen last: where a kernel's has been seen to be."""
        self._mesh.set_cursor(service, address, port)

    def add_server(self, service: str, server: ServerSpec) -> None:
        """As ``ipvsadm -a``."""
        self._mesh.add_server(service, server)

    def remove_server(self, service: str, address: str, port: int = 0, *, now_ns: int = 0) -> int:
        """As ``ipvsadm -d``: how many connections went with it."""
        return self._mesh.remove_server(service, address, port, self._now.mesh, now_ns)

    def set_mesh(self, **change: bool) -> None:
        """Another ``reuse``, ``forget`` or ``sloppy`` (see MeshSpec), until a spec is applied."""
        self._now.mesh.set_mode(**change)

    def memberships(self) -> Iterator[dict[str, object]]:
        """The multicast table: vni, group ("*": routes multicast), place, expires_ns."""
        names = self._now.names()
        vnis = [row["vni"] for row in self._now.nets.rows()]
        for row in self._now.groups.rows():
            group = str(ip_address(row["addr"])) if any(row["addr"]) else "*"
            yield {
                "vni": vnis[row["net"]], "group": group, "place": names[row["dest"]][1],
                "expires_ns": row["expires_ns"],
            }  # fmt: skip

    def stats(self) -> PlaneStats:
        """Everything counted since the spec was applied."""
        return self.counted()()

    def counted(self) -> Callable[[], PlaneStats]:
        """What ``stats`` says of this moment, as a function that works it out: another thread may, while this one goes
        on."""
        now = self._now
        nodes = [node.counters() for node in (now.receive, now.proxy, now.bridge, now.mesh, now.route)]
        sent, fitted, rules = now.send.counters(), now.fit.counters(), now.send.rules()
        names, nets, dests, learning = now.names(), now.nets.rows(), now.dests.rows(), dict(now.fdb.counts())
        counts = {
            "flooded": now.bridge.flooded, "copies": now.bridge.copies,
            "answered": now.proxy.answered + now.route.answered,
            "errors": now.route.errors + now.fit.errors + now.mesh.errors,
            "fragmented": now.fit.fragmented, "fragments": now.fit.fragments, "clamped": now.fit.clamped,
        }  # fmt: skip
        mesh = MeshCounts(
            connections=len(now.mesh.conns), opened=now.mesh.opened, expired=now.mesh.expired,
            evicted=now.mesh.evicted, forged=now.mesh.forged, errors=now.mesh.errors, resets=now.mesh.told,
        )  # fmt: skip

        def account() -> PlaneStats:
            drops: dict[Verdict, int] = {}
            for counters in nodes:
                for verdict, number in counters.items():
                    if verdict:
                        drops[verdict] = drops.get(verdict, 0) + number
            send_drops = {verdict: number for verdict, number in sent.items() if verdict}
            for verdict, number in fitted.items():
                if verdict:
                    send_drops[verdict] = send_drops.get(verdict, 0) + number
            ports: dict[str, Traffic] = {}
            peers: dict[Place, Traffic] = {}
            sums = [Traffic()] * len(nets)
            for number, row in enumerate(dests):
                traffic = Traffic(
                    row["rx_packets"], row["rx_bytes"], row["tx_packets"], row["tx_bytes"], row["drops"],
                    row["tx_drops"],
                )  # fmt: skip
                sums[row["net"]] += traffic
                if row["kind"] == "port":
                    ports[names[number][1]] = traffic
                elif row["kind"] == "peer":
                    peers[names[number]] = traffic
            networks = {
                net["vni"]: NetworkTraffic(traffic, net["strangers"], net["flooded"], net["copies"], net["bum_limited"])
                for net, traffic in zip(nets, sums, strict=True)
            }
            packets = sum(nodes[0].values())
            return PlaneStats(
                packets=packets, passed=packets + mesh.resets - sum(drops.values()), sent=sent.get(Verdict.PASS, 0),
                drops=drops, send_drops=send_drops, rules=rules, ports=ports, peers=peers, networks=networks,
                mesh=mesh, fdb=learning, **counts,
            )  # fmt: skip

        return account
