"""Captures of a real Swarm: its nodes as planes, its client and its tasks as players who send again what they sent.

Nobody's clock is needed: a player sends its next frame as soon as everything that it had got before has come.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import vxlanfast as vf
from tests.support import CAPTURES
from vxlanfast.hops import GatewayLeg, Hop, hops_of, inner_at
from vxlanfast.network_spec import EndpointSpec, NetworkSpec
from vxlanfast.node_spec import NodeSpec
from vxlanfast.timed import arrivals

ORACLE = CAPTURES.parent / "oracle" / "swarm" if CAPTURES else None
NODES = (1, 2, 3)
CLIENT = "10.1.1.100"
NAMES = {6: "tcp", 17: "udp", 1: "icmp"}
#: Who sent it, where to, and what it is about: of an ICMP error, what it quotes.
Flow = tuple[str, str, str, int, int]


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def dotted(packed: bytes) -> str:
    return ".".join(map(str, packed))


def flow_of(frame: bytes) -> Flow | None:
    """The flow of an IPv4 packet over TCP or UDP, or of an ICMP message; None: of another kind."""
    if frame[12:14] != b"\x08\x00" or frame[23] not in NAMES:
        return None
    l4 = 14 + (frame[14] & 15) * 4
    addresses = dotted(frame[26:30]), dotted(frame[30:34])
    first, second = int.from_bytes(frame[l4 : l4 + 2]), int.from_bytes(frame[l4 + 2 : l4 + 4])
    if frame[23] == 1:
        first, second = frame[l4], frame[l4 + 1]
    return (NAMES[frame[23]], *addresses, first, second)


def is_vxlan(frame: bytes) -> bool:
    return frame[12:14] == b"\x08\x00" and frame[23] == 17 and frame[36:38] == b"\x12\xb5"


def with_port(frame: bytes, *, sport: int | None = None, dport: int | None = None) -> bytes:
    """A frame with another port, its checksum computed from nothing, as a task's own kernel would."""
    made = bytearray(frame)
    l4 = 14 + (frame[14] & 15) * 4
    end = 14 + int.from_bytes(frame[16:18])
    for at, port in ((l4, sport), (l4 + 2, dport)):
        if port is not None:
            made[at : at + 2] = port.to_bytes(2)
    at = l4 + (16 if frame[23] == 6 else 6)
    made[at : at + 2] = b"\0\0"
    summed = bytes(made[26:34]) + bytes([0, frame[23]]) + (end - l4).to_bytes(2) + bytes(made[l4:end])
    summed += b"\0" * (len(summed) % 2)
    total = sum(int.from_bytes(summed[k : k + 2]) for k in range(0, len(summed), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    made[at : at + 2] = (total ^ 0xFFFF or 0xFFFF).to_bytes(2)
    return bytes(made)


@dataclass(frozen=True)
class Tunnelled:
    """A VXLAN packet as far as it is not its sender's to choose: not the MACs, the identification, the source port, nor
    what follows from these."""

    src: str
    dst: str
    outer: tuple[int, int, int, int, bool]  # type of service, DF, TTL, port; whether there is a checksum of UDP
    header: bytes
    inner: bytes

    @staticmethod
    def of(frame: bytes) -> Tunnelled:
        at = inner_at(frame)
        assert at == 50
        outer = frame[15], frame[20] & 0x40, frame[22], int.from_bytes(frame[36:38]), frame[40:42] != b"\0\0"
        return Tunnelled(dotted(frame[26:30]), dotted(frame[30:34]), outer, frame[at - 8 : at], frame[at:])


@dataclass(frozen=True)
class Scene:
    """A scenario's folder."""

    folder: Path

    def dump(self, node: int, pattern: str) -> str:
        """The one table dump of that name."""
        [path] = (self.folder / f"dump-after-n{node}").glob(pattern)
        return path.read_text()

    def capture(self, name: str) -> list[tuple[int, bytes]]:
        """Frames of a capture, with their times; none where it was empty."""
        path = self.folder / "cap-1" / name
        return [(when, frame) for when, _, frame in arrivals("", path)] if path.exists() else []

    def task_captures(self, node: int) -> Iterator[tuple[str, list[tuple[int, bytes]]]]:
        """The interfaces of a node's tasks, one after the other."""
        for path in sorted((self.folder / "cap-1" / f"n{node}").glob("[0-9a-f]*-eth*.pcap")):
            if re.match("[0-9a-f]{12}-", path.name):
                yield path.stem, self.capture(f"n{node}/{path.name}")

    @cached_property
    def services(self) -> str:
        """What ``docker service inspect`` said, of each service after the other."""
        return "\n".join(re.findall(r"^\[\n.*?^\]$", self.dump(1, "cluster.txt"), re.MULTILINE | re.DOTALL))

    def eth0(self, node: int) -> str:
        """The MAC of a node's own interface."""
        return re.search(r"eth0: .*\n\s+link/ether (\S+)", self.dump(node, "ns-host.txt"))[1]

    def gateway(self, node: int) -> GatewayLeg:
        """The ingress namespace's leg on docker_gwbridge."""
        found = re.search(
            r"eth1@\w+: .*\n\s+link/ether (\S+) (?:.*\n)+?\s+inet ([\d.]+)/", self.dump(node, "ns-ingress_sbox.txt")
        )
        bridge = re.search(r"docker_gwbridge: .*\n\s+link/ether (\S+)", self.dump(node, "ns-host.txt"))[1]
        return GatewayLeg(address=found[2], mac=found[1], bridge_mac=bridge)

    def lan(self, node: int) -> NetworkSpec:
        """The network that the nodes and the client are in."""
        others = {f"10.1.1.1{n}": self.eth0(n) for n in NODES if n != node}
        client = next((f for _, f in self.capture("client.pcap") if dotted(f[26:30]) == CLIENT), None)
        if client is not None:
            others[CLIENT] = client[6:12].hex(":")
        return NetworkSpec(
            name="lan", lan=True, subnet=("10.1.1.0/24",), gateway=(f"10.1.1.1{node}",), gateway_mac=self.eth0(node),
            router_mac=self.eth0(node), learn=False, flood="off",
            endpoint=tuple(EndpointSpec(port="eth0", mac=at, ip=(ip,)) for ip, at in others.items()),
        )  # fmt: skip

    def bridge(self, node: int) -> NetworkSpec:
        """docker_gwbridge, whose host calls published ports itself."""
        leg = self.gateway(node)
        return NetworkSpec(
            name="docker_gwbridge", lan=True, subnet=("172.18.0.0/16",), gateway=(leg.address,), gateway_mac=leg.mac,
            router_mac=leg.mac, learn=False, flood="off", hops=0,
            endpoint=(EndpointSpec(port="docker_gwbridge", mac=leg.bridge_mac, ip=("172.18.0.1",)),),
        )  # fmt: skip

    def addresses(self, network: str) -> dict[str, str]:
        """The addresses of tasks in a network, by the first digits of their containers' ids."""
        text = "".join(self.dump(n, "containers.txt") for n in NODES)
        return {
            line.split()[1][:12]: found[1]
            for line in text.splitlines()
            if (found := re.search(rf"{network}=([\d.]+)", line))
        }

    def chosen(self, said: str, network: str) -> list[str]:
        """The servers that a line of run.log beginning so, and its answers, name in turn."""
        log = (self.folder / "run.log").read_text()
        answers = log[log.index(said) :].split("\n", 1)[1]
        by_name = self.addresses(network)
        found = []
        for line in answers.splitlines():
            task = re.search(r"task=(\w{12})|^([0-9a-f]{12}) |-> ([0-9a-f]{12}) ", line)
            if task is None:
                break
            found.append(by_name[next(filter(None, task.groups()))])
        return found

    def spec(self, node: int, order: Iterable[str] = ()) -> NodeSpec:
        """A node as its own tables have it, of profile swarm. ``order``: of real servers, the one that is next
        first."""
        inspect = {f"10.1.1.1{n}": self.dump(n, "network-inspect-v.json") for n in NODES}
        spec = vf.spec_from_docker(
            inspect, vtep=f"10.1.1.1{node}", services=self.services, lan=self.lan(node), profile="swarm"
        )
        gateways = {
            found[1]: found[0]
            for path in (self.folder / f"dump-after-n{node}").glob("ns-1-*.txt")
            if (found := re.search(r"br0: .*\n\s+link/ether (\S+)(?:.*\n)+?\s+inet ([\d.]+)/", path.read_text()))
            and (found := (found[1], found[2]))
        }
        networks = tuple(
            replace(n, gateway_mac=gateways[n.gateway[0]]) if n.gateway and n.gateway[0] in gateways else n
            for n in spec.network
        )
        rank = {address: at for at, address in enumerate(order)}
        services = tuple(
            replace(
                s, server=tuple(sorted(s.server, key=lambda one: -rank.get(one.address, 0))),
                publish=(*s.publish, *(replace(p, network="docker_gwbridge") for p in s.publish)),
            )
            for s in spec.service
        )  # fmt: skip
        networks += (self.bridge(node),)
        return replace(spec, network=networks, service=services, mesh=replace(spec.mesh, seed=node))


@dataclass
class Player:
    """Somebody whose capture is played: what it sent is sent again, when all that it had got before has come."""

    name: str
    node: int
    port: str
    script: list[tuple[bool, int, bytes]]  # whether it sent it
    send: Callable[[bytes], bytes] = bytes
    at: int = 0
    got: Counter[bytes] = field(default_factory=Counter)
    missing: list[bytes] = field(default_factory=list)

    def next(self) -> tuple[int, bytes] | None:
        """What it sends next; None: it waits, or is done."""
        while self.at < len(self.script):
            sent, when, frame = self.script[self.at]
            if sent:
                return when, frame
            if not self.got[frame]:
                return None
            self.got[frame] -= 1
            self.at += 1
        return None

    def give_up(self) -> None:
        """What it waits for does not come."""
        self.missing.append(self.script[self.at][2])
        self.at += 1


class World:
    """Planes, an underlay between them, and players at their ports; every hop of every frame is kept."""

    def __init__(self, scene: Scene, specs: dict[int, NodeSpec], players: list[Player]) -> None:
        self.planes = {n: vf.Dataplane(spec) for n, spec in specs.items()}
        self.gateways = {n: scene.gateway(n) for n in specs}
        self.players = players
        self.seen: dict[tuple[int, str], list[bytes]] = {}  # (node, hop): frames
        self.dropped: list[tuple[int, vf.Verdict, bytes]] = []
        self.now = 0

    def play(self) -> World:
        """Everything that was sent, until nobody has anything to send."""
        while True:
            ready = [(what, p) for p in self.players if (what := p.next()) is not None]
            if ready:
                (when, frame), player = min(ready, key=lambda one: one[0][0])
                player.at += 1
                self.now = max(self.now, when)
                self.enter(player.node, player.port, player.send(frame))
                continue
            stuck = [p for p in self.players if p.at < len(p.script)]
            if not stuck:
                return self
            # The one who has been waiting longest: others may wait for what it sends next.
            min(stuck, key=lambda p: p.script[p.at][1]).give_up()

    def enter(self, node: int, port: str, frame: bytes) -> None:
        """A frame comes by a port of a node, and what leaves goes where it goes."""
        met: tuple[Hop, ...] = ()
        for way in hops_of(self.planes[node], port, frame, now_ns=self.now, gateway=self.gateways[node]):
            pairs = zip(met, way.hops, strict=False)
            common = next((k for k, (one, other) in enumerate(pairs) if one != other), len(met))
            for hop in way.hops[common:]:  # what came once is seen once, however much it becomes
                self.seen.setdefault((node, hop.name), []).append(hop.frame)
            met = way.hops
            if way.port is None:
                self.dropped.append((node, way.verdict, way.hops[0].frame))
            elif way.port == "underlay":
                self.deliver(node, "underlay", way.hops[-2].frame)
                self.enter(int(dotted(way.frame[30:34])[-1]), "underlay", way.frame)
            else:
                names = {hop.name: hop.frame for hop in reversed(way.hops)}
                shown = names.get("task", way.frame) if way.hops[-1].name == "socket" else way.frame
                self.deliver(node, way.port, shown)

    def deliver(self, node: int, port: str, frame: bytes) -> None:
        """To whoever plays behind that port, and to those who listen to it."""
        for player in self.players:
            if (player.node, player.port) == (node, port):
                player.got[frame] += 1


@dataclass(frozen=True)
class Cursor:
    """Round robin as it was observed: the servers in their order, and the one that was last."""

    order: tuple[str, ...]
    last: str

    @staticmethod
    def of(chosen: list[str]) -> Cursor:
        """Out of the first choices seen; as a list it begins with the least address, wherever the cursor is."""
        turn = list(dict.fromkeys(chosen))
        at = turn.index(min(turn))
        return Cursor(tuple(turn[at:] + turn[:at]), turn[-1])


def differences(want: Iterable[Any], got: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    """What was captured and not made, and what was made and not captured."""
    wanted, made = Counter(want), Counter(got)
    return list((wanted - made).elements()), list((made - wanted).elements())
