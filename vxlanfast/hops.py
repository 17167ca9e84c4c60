"""A frame's way through a node as one sees it in a Swarm: what stands on each of the interfaces that it would pass.

A plane translates once; Swarm does so at the host, in the ingress namespace and in the task's, and each of them can be
captured. What they would show is made of the frames that came and went and of the connection's own entry:

    client     eth0, a packet to a published port          ⇄  client:port ⇄ node:published
    gateway    docker_gwbridge, the host's translation     ⇄  client:port ⇄ the ingress namespace:published, TTL − 1
    balancer   eth0 of the ingress namespace               ⇄  its address:port ⇄ task:published, TTL − 2
               … of the load balancer of a network: what came for a virtual address, and what became of it, TTL − 1
    overlay    the bridge and the vxlan device: the same frame
    underlay   eth0: the frame in VXLAN
    task       the task's interface: the same frame again
    socket     … and what a socket in it sees: task:target
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.verdict import Rule, Verdict
from vxlanfast.addr import parse_ip, parse_mac
from vxlanfast.network_spec import UNDERLAY

if TYPE_CHECKING:
    from vxlanfast.dataplane import Dataplane

_ETH, _IP4, _IP6 = 14, b"\x08\x00", b"\x86\xdd"
_UDP_VXLAN = 16  # bytes of both headers
#: Where the checksum stands behind an upper-layer header's beginning, by protocol.
_SUMS = {6: 16, 17: 6}
_NONE = 0xFFFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayLeg:
    """The ingress namespace's leg on docker_gwbridge: its ``address`` and ``mac``, and the bridge's own MAC, as
    ``docker network inspect docker_gwbridge`` and ``ip link`` have them."""

    address: str
    mac: str = "00:00:00:00:00:00"
    bridge_mac: str = "00:00:00:00:00:00"


@dataclass(frozen=True, slots=True)
class Hop:
    """A frame and where one would see it."""

    name: str
    frame: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """What became of a frame, or one of several things: each hop in turn. ``port`` None: dropped, for ``verdict``."""

    hops: tuple[Hop, ...]
    port: str | None
    verdict: Verdict
    rule: Rule

    @property
    def frame(self) -> bytes:
        """What it was at last."""
        return self.hops[-1].frame


def hops_of(
    plane: Dataplane, port: str, frame: bytes, *, now_ns: int = 0, gateway: GatewayLeg | None = None
) -> list[Way]:
    """A frame by one port of ``plane``, which processes it: what leaves, and every hop on its way. For finding out, and
    for tests.

    ``gateway``: without one there is no hop of that name, and of ICMP errors and fragments there is none. Where a plane
    of profile "fixed" translates there are none between. Of what comes behind outer tags or extension headers there is
    no overlay.
    """
    batch = plane.process(PacketBatch.from_frames([frame], ts_ns=now_ns, port_in=plane.number_of(port)))
    leaving = set(batch.passed())
    ways = []
    for i in range(len(batch)):
        out = plane.port_names[batch.port_out[i]] if i in leaving else None
        number, rule = batch.conn[i], Rule(batch.rule[i])
        of_one = number != _NONE and out is not None and rule in (Rule.RULE_BALANCED, Rule.RULE_RETURNED)
        entry = plane.connection(number >> 1) if of_one else None
        between = _Between(plane, entry, bool(number & 1), rule, gateway)
        hops = between.hops(port, frame, out, frame if out is None else bytes(batch.frame(i)))
        verdict = Verdict(batch.verdict[i])
        if verdict == Verdict.DROP_PORT_CLOSED and port == UNDERLAY:
            hops.append(Hop("task", hops[-1].frame))  # in a Swarm it is the task's own rules that drop it
        ways.append(Way(hops=tuple(hops), port=out, verdict=verdict, rule=rule))
    return ways


class _Between:
    """The hops between a frame that came and one that went, by the connection that they are of."""

    def __init__(
        self,
        plane: Dataplane,
        entry: Mapping[str, Any] | None,
        reverse: bool,
        rule: Rule,
        gateway: GatewayLeg | None,
    ) -> None:
        spec = plane.spec
        self.lans = {
            name: "gateway" if gateway and gateway.address in (*network.gateway, *network.own) else "client"
            for network in spec.network if network.lan for name in network.ports
        }  # fmt: skip
        self.virtual = {parse_ip(v.address) for service in spec.service for v in service.virtual}
        self.swarm = spec.mesh.profile == "swarm"
        self.entry = entry if self.swarm else None
        self.reverse = reverse
        self.rule = rule
        self.gateway = gateway

    def hops(self, port: str, frame: bytes, out: str | None, last: bytes) -> list[Hop]:
        """Those of a frame that came by ``port`` and went by ``out`` (None: nowhere) as ``last``."""
        came = self.arrival(port, frame)
        if out is None:
            return came
        went = self.departure(out, last)
        first, then = came[-1].frame, went[0].frame
        if self.entry is None or came[-1].name == UNDERLAY:
            ends = {_addresses(first)[1], _addresses(then)[0]}
            if self.swarm and self.rule in (Rule.RULE_ECHO, Rule.RULE_RELATED) and ends & self.virtual:
                return [*came, Hop("balancer", first), Hop("balancer", then), *went]
            return came + went
        if self.entry["outside"]:
            if self.reverse:
                return [*came, Hop("balancer", first), *self.gateway_leg(first), *went]
            return [*came, *self.gateway_leg(first), Hop("balancer", then), *went]
        if self.entry["virtual"] == self.entry["server"]:
            return came + went  # its task's own ports
        return [*came, Hop("balancer", first), Hop("balancer", then), *went]

    def arrival(self, port: str, frame: bytes) -> list[Hop]:
        """As it came, up to where the node's balancer gets it."""
        if port == UNDERLAY:
            at = inner_at(frame)
            return [Hop("underlay", frame), *([Hop("overlay", frame[at:])] if at else [])]
        if port in self.lans:
            return [Hop(self.lans[port], frame)]
        if self.reverse and self.redirected(frame):
            return [Hop("socket", frame), Hop("task", rewritten(frame, sport=self.redirected(frame)))]
        return [Hop("task", frame)]

    def departure(self, out: str, last: bytes) -> list[Hop]:
        """From where the node's balancer has made of it what it is on the overlay, or for the client."""
        if out == UNDERLAY:
            return [Hop("overlay", last[inner_at(last) or 0 :]), Hop("underlay", last)]
        if out in self.lans:
            return [Hop(self.lans[out], last)]
        if not self.reverse and self.redirected(last):
            return [Hop("task", rewritten(last, dport=self.redirected(last))), Hop("socket", last)]
        return [Hop("task", last)]

    def redirected(self, frame: bytes) -> int | None:
        """The port that others know in place of the task's own."""
        if self.entry is None or self.entry["port"] == self.entry["vport"] or not _is_whole(frame):
            return None
        return int(self.entry["vport"])

    def gateway_leg(self, frame: bytes) -> list[Hop]:
        """What docker_gwbridge shows of it: between the client and the ingress namespace's address there."""
        leg, entry = self.gateway, self.entry
        if leg is None or entry is None or not _is_whole(frame) or _is4(frame) != (len(parse_ip(leg.address)) == 4):
            return []
        if entry["virtual"] == leg.address:
            return []  # the client is behind docker_gwbridge itself
        here, bridge = parse_mac(leg.mac), parse_mac(leg.bridge_mac)
        if not self.reverse:
            return [Hop("gateway", rewritten(frame, macs=here + bridge, dst=leg.address, routers=1))]
        made = rewritten(
            frame, macs=bridge + here, src=leg.address, dst=entry["client"], sport=entry["vport"],
            dport=entry["cport"], routers=1,
        )  # fmt: skip
        return [Hop("gateway", made)]


def _is4(frame: bytes) -> bool:
    return frame[12:14] == _IP4


def _is_whole(frame: bytes) -> bool:
    """Untagged IP that is no fragment."""
    return (_is4(frame) and not int.from_bytes(frame[20:22]) & 0x3FFF) or (frame[12:14] == _IP6 and frame[20] != 44)


def _addresses(frame: bytes) -> tuple[bytes, bytes]:
    """Source and destination of an IP packet."""
    at, size = (_ETH + 12, 4) if _is4(frame) else (_ETH + 8, 16)
    return frame[at : at + size], frame[at + size : at + 2 * size]


def inner_at(frame: bytes) -> int | None:
    """Where a frame in VXLAN begins, be the UDP port any; None: in none, or behind tags or extension headers."""
    if len(frame) < _ETH + 20 or frame[12:14] not in (_IP4, _IP6):
        return None
    four = frame[12:14] == _IP4
    at = _ETH + ((frame[_ETH] & 15) * 4 if four else 40) + _UDP_VXLAN
    return at if frame[_ETH + 9 if four else _ETH + 6] == 17 and len(frame) >= at + _ETH else None


def _patched(frame: bytearray, at: int, old: bytes, new: bytes) -> None:
    """A checksum at ``at`` after some words changed (RFC 1624 §3)."""
    total = int.from_bytes(frame[at : at + 2]) ^ 0xFFFF
    for k in range(0, len(old), 2):
        total += (int.from_bytes(old[k : k + 2]) ^ 0xFFFF) + int.from_bytes(new[k : k + 2])
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    frame[at : at + 2] = (total ^ 0xFFFF).to_bytes(2)


def rewritten(
    frame: bytes, *, macs: bytes = b"", src: str | None = None, dst: str | None = None, sport: int | None = None,
    dport: int | None = None, routers: int = 0,
) -> bytes:  # fmt: skip
    """An untagged frame with other MACs, addresses and ports, that so many ``routers`` have passed on: checksums are
    updated, not computed, so one that was wrong stays so."""
    made = bytearray(frame)
    made[: len(macs)] = macs
    four = _is4(frame)
    l3, size = _ETH, 4 if four else 16
    at_src = l3 + (12 if four else 8)
    l4 = l3 + (frame[l3] & 15) * 4 if four else l3 + 40
    proto = frame[l3 + 9] if four else frame[l3 + 6]
    old = bytes(made[at_src : at_src + 2 * size])
    new = (old[:size] if src is None else parse_ip(src)) + (old[size:] if dst is None else parse_ip(dst))
    made[at_src : at_src + 2 * size] = new
    ttl = l3 + (8 if four else 7)
    word = ttl & ~1
    aged = bytes(made[word : word + 2])
    made[ttl] -= routers
    if four:
        _patched(made, l3 + 10, old + aged, new + bytes(made[word : word + 2]))
    ports = bytes(made[l4 : l4 + 4])
    if sport is not None:
        made[l4 : l4 + 2] = sport.to_bytes(2)
    if dport is not None:
        made[l4 + 2 : l4 + 4] = dport.to_bytes(2)
    at = l4 + _SUMS.get(proto, 0)
    if proto in _SUMS and not (proto == 17 and made[at : at + 2] == b"\0\0"):
        _patched(made, at, old + ports, new + bytes(made[l4 : l4 + 4]))
        if proto == 17 and made[at : at + 2] == b"\0\0":
            made[at : at + 2] = b"\xff\xff"  # RFC 768: zero says that there is none
    return bytes(made)
