"""Traces of a kernel's IPVS: both sides of a director as captures, what was configured when, and which server was
chosen."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

import vxlanfast as vf
from tests.support import ROOT
from vxlanfast.network_spec import EndpointSpec, NetworkSpec, RouteSpec
from vxlanfast.node_spec import NodeSpec
from vxlanfast.service_spec import MeshSpec, ServerSpec, ServiceSpec, VirtualSpec
from vxlanfast.timed import Arrival, Change, Departure, arrivals, replay_timed

CLIENT, SERVER = "client", "server"


def traces() -> Path | None:
    """The folder of traces, or None."""
    places = (parent / "shared" / "oracle" / "ipvs" / "traces" for parent in ROOT.parents)
    return next((place for place in places if place.is_dir()), None)


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def service_name(service: dict[str, Any]) -> str:
    """What a service of the trace is called here."""
    return "fwmark" if "fwmark" in service else f"{service['proto']} {service['vip']} {service['vport']}"


@dataclass
class Trace:
    """One trace: its director as a node's spec, its events as changes of a plane, its frames by side."""

    folder: Path
    config: dict[str, Any] = field(init=False)
    events: list[dict[str, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self.config = json.loads((self.folder / "config.json").read_text())
        self.events = json.loads((self.folder / "events.json").read_text())

    def _network(self, side: str, routes: list[str], stations: list[EndpointSpec]) -> NetworkSpec:
        interface = self.config["director"][f"{side}_if"]
        hosts = [ip_interface(text) for text in interface["addrs"]]
        hosts = [host for host in hosts if host.network.num_addresses > 1]
        return NetworkSpec(
            name=side, lan=True, domain="director", learn=False, flood="off", gateway_mac=interface["mac"],
            router_mac=interface["mac"], subnet=tuple(str(host.network) for host in hosts),
            gateway=tuple(str(host.ip) for host in hosts), endpoint=tuple(stations),
            route=tuple(RouteSpec(to=way.split()[0], via=way.split()[2]) for way in routes),
        )  # fmt: skip

    def spec(self) -> NodeSpec:
        """The director: two networks that are routed between, and the services without their servers."""
        client = self.config["client"]
        extra = {words.split()[0]: address for address, words in self.config.get("extra_neighbours", {}).items()}
        clients = [EndpointSpec(port=CLIENT, mac=client["mac"], ip=tuple(a for a in client["addrs"] if "/" not in a))]
        servers = [
            EndpointSpec(
                port=SERVER, mac=one["mac"], ip=(*one["addrs"], *([extra[one["mac"]]] if one["mac"] in extra else []))
            )
            for one in self.config["servers"]
        ]
        snat = self.config["snat"]
        services = []
        for event in self.events:
            if event["action"] != "add-service":
                continue
            said = event["service"]
            if "fwmark" in said:
                virtual = [
                    VirtualSpec(network=CLIENT, address=m["dst"].split("/")[0], protocol=m["proto"], port=m["dport"])
                    for m in self.config["fwmark"]
                ]
            else:
                virtual = [VirtualSpec(network=CLIENT, address=said["vip"], protocol=said["proto"], port=said["vport"])]
            services.append(
                ServiceSpec(
                    name=service_name(said), scheduler=event["scheduler"], virtual=tuple(virtual),
                    masquerade=(snat["to"],) if snat else (),
                )
            )  # fmt: skip
        return NodeSpec(
            vtep=("192.0.2.1",),
            network=(
                self._network(CLIENT, self.config["director"]["routes"], clients), self._network(SERVER, [], servers)
            ),
            service=tuple(services),
            mesh=MeshSpec(semantics="ipvs", seed=1, connections=4096),
        )  # fmt: skip

    def changes(self) -> Iterator[Change]:
        """What was configured while the traffic ran."""
        for event in self.events:
            act = {
                "add-server": self._add, "set-weight": self._weigh, "delete-server": self._delete, "sysctl": self._set
            }.get(event["action"])  # fmt: skip
            if act is not None:
                yield event["t_ns"], act(event)

    def _add(self, event: dict[str, Any]) -> Callable[[vf.Dataplane], object]:
        server = ServerSpec(address=event["real"], port=event["port"], weight=event["weight"])
        return lambda plane: plane.add_server(service_name(event["service"]), server)

    def _weigh(self, event: dict[str, Any]) -> Callable[[vf.Dataplane], object]:
        return lambda plane: plane.set_server(
            service_name(event["service"]), event["real"], event["port"], weight=event["weight"]
        )

    def _delete(self, event: dict[str, Any]) -> Callable[[vf.Dataplane], object]:
        return lambda plane: plane.remove_server(service_name(event["service"]), event["real"], event["port"])

    def _set(self, event: dict[str, Any]) -> Callable[[vf.Dataplane], object]:
        name = {"conn_reuse_mode": "reuse", "expire_nodest_conn": "forget", "sloppy_tcp": "sloppy"}.get(
            event["name"].rpartition(".")[2]
        )
        return lambda plane: plane.set_mesh(**{name: bool(event["value"])}) if name else None

    def frames(self, side: str, *, sent: bool) -> Iterator[Arrival]:
        """What the director sent on that side, or what came to it."""
        own = mac(self.config["director"][f"{side}_if"]["mac"])
        return arrivals(side, self.folder / f"{side}.pcap", lambda frame: (frame[6:12] == own) == sent)

    def dump(self, command: str) -> list[str]:
        """What a command said when all was done, as lines."""
        said = (self.folder / "ipvsadm.txt").read_text().split(f"# {command}\n", 1)[1]
        return said.split("\n# ", 1)[0].rstrip("\n").splitlines()

    def choices(self) -> Iterator[dict[str, str]]:
        """The kernel's choices, in order."""
        keys: list[str] = []
        for line in (self.folder / "choices.tsv").read_text().splitlines():
            if line.startswith("#"):
                keys = line[1:].split("\t")
            else:
                yield dict(zip(keys, line.split("\t"), strict=True))

    def replay(self, change: Callable[[bytes], bytes] = bytes) -> tuple[vf.Dataplane, list[Departure]]:
        """The trace through a plane; ``change``: what to do to frames of the servers before."""
        plane = vf.Dataplane(self.spec())
        return plane, list(self.steps(plane, change))

    def steps(self, plane: vf.Dataplane, change: Callable[[bytes], bytes] = bytes) -> Iterator[Departure]:
        """The trace through that plane, frame by frame."""
        servers = ((when, port, change(frame)) for when, port, frame in self.frames(SERVER, sent=False))
        sides = {CLIENT: self.frames(CLIENT, sent=False), SERVER: servers}
        return replay_timed(plane, sides, self.changes())


def packed(text: str) -> bytes:
    return ip_address(text).packed
