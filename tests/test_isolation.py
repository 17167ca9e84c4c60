"""What must never happen, tried by the million: a frame of one network in another, a victim's frame at an attacker."""

from __future__ import annotations

import random
import struct

import pytest

import vxlanfast as vf
from tests.support import many_inputs
from vxlanfast import PacketBatch
from vxlanfast import Verdict as V

pytestmark = [pytest.mark.slow, many_inputs]
BROADCAST = b"\xff" * 6
VNIS = (0, 0xFFFFFF)
PEERS = ("192.0.2.2", "192.0.2.3")
PER_BATCH = 20_000


def station(n: int) -> bytes:
    return struct.pack(">HI", 0x0200, n)


def udp(rng: random.Random, place: int) -> bytes:
    """A datagram of one of a place's ten stations, seldom of another's, to one of forty, or to all of them; of few
    addresses and ports, so that tuples repeat."""
    dst = station(rng.randrange(40)) if rng.random() < 0.97 else BROADCAST
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 46, 1, 0, 64, 17, 0, b"\x0a\0\0\1", bytes((10, 0, 0, rng.randrange(4))))
    src = rng.randrange(40) if rng.random() < 0.001 else place * 10 + rng.randrange(10)
    return dst + station(src) + b"\x08\0" + ip + struct.pack(">HHHH", rng.randrange(4), 9, 26, 0) + bytes(18)


def two_networks(**policy: object) -> vf.NodeSpec:
    """The same peers in the first and the last VNI, two ports each."""
    return vf.NodeSpec(
        vtep=("192.0.2.1",),
        network=tuple(
            vf.NetworkSpec(
                name=f"n{vni}", vni=vni, peer=tuple(vf.PeerSpec(vtep=peer) for peer in PEERS),
                endpoint=tuple(vf.EndpointSpec(port=f"p{vni}-{k}") for k in (1, 2)), **policy,
            )
            for vni in VNIS
        ),
    )  # fmt: skip


def test_ten_million_frames() -> None:
    """The same MACs, addresses and ports in two networks, by ports and by tunnels: no row leaves into the other."""
    rng = random.Random(3)
    plane = vf.Dataplane(two_networks())
    ports = plane.ports
    home = {ports[f"p{vni}-{k}"]: vni for vni in VNIS for k in (1, 2)}
    inner = {f"p{vni}-{k}": [udp(rng, k - 1) for _ in range(2000)] for vni in VNIS for k in (1, 2)}
    outer = [
        (vni, vf.encap(udp(rng, 2 + k), vni=vni, src=peer, dst="192.0.2.1"))
        for _ in range(1000) for vni in VNIS for k, peer in enumerate(PEERS)
    ]  # fmt: skip
    entered = left = 0
    for number in range(500):
        now = number * 10**9
        if number % 2:
            port = rng.choice(list(home))
            frames = rng.choices(inner[plane.port_names[port]], k=PER_BATCH)
            batch = PacketBatch.from_frames(frames, ts_ns=now, port_in=port)
            plane.process(batch)
            allowed = {(home[port], 0)} | {(home[port], other) for other, vni in home.items() if vni == home[port]}
            wrong = set(zip(batch.vni, batch.port_out, batch.verdict, strict=True))
            assert {(vni, out) for vni, out, verdict in wrong if verdict == 0} <= allowed
        else:
            packets = rng.choices(outer, k=PER_BATCH)
            batch = PacketBatch.from_frames([packet for _, packet in packets], ts_ns=now, port_in=0)
            plane.process(batch)
            entered_as = zip(packets, batch.vni, batch.verdict, strict=False)  # copies stand behind
            assert not any(verdict == 0 and packet[0] != vni for packet, vni, verdict in entered_as)
            seen = {(vni, out) for vni, out, v in zip(batch.vni, batch.port_out, batch.verdict, strict=True) if v == 0}
            assert seen <= {(vni, port) for port, vni in home.items()}
        entered += PER_BATCH
        left += len(batch.passed())
    assert entered == 10**7 and left > entered / 3
    stats = plane.stats()
    assert stats.packets == entered and stats.sent == left
    assert stats.packets == stats.passed + sum(stats.drops.values())


def test_a_million_spoofed_stations() -> None:
    """One member floods made-up MACs: the table stays at its cap, and not one frame for the victims goes astray."""
    plane = vf.Dataplane(two_networks())
    rng = random.Random(4)
    victims = {station(1 << 24 | n): rng.choice(("p0-1", "p0-2", PEERS[0])) for n in range(100)}
    for victim, place in victims.items():
        plane.set_station(0, victim.hex(":"), place)
    head, tail = vf.encap(bytes(60), vni=0, src=PEERS[1], dst="192.0.2.1")[:50], b"\x88\xb5" + bytes(46)
    for first in range(0, 1_000_000, PER_BATCH):
        spoofed = [head + BROADCAST + station(1 << 25 | n) + tail for n in range(first, first + PER_BATCH - 100)]
        spoofed += [head + BROADCAST + victim + tail for victim in victims]
        batch = PacketBatch.from_frames(spoofed, ts_ns=first)
        plane.process(batch)
        assert list(batch.verdict[PER_BATCH - 100 : PER_BATCH]) == [V.DROP_STATION_ELSEWHERE] * 100
    assert len(list(plane.stations())) == 8192 + 100
    sender = plane.ports["p0-1"]
    batch = PacketBatch.from_frames([victim + station(5) + tail for victim in victims], ts_ns=10**9, port_in=sender)
    plane.process(batch)
    for i, place in enumerate(victims.values()):
        if place == "p0-1":
            assert batch.verdict[i] == V.DROP_SAME_PORT
            continue
        assert batch.verdict[i] == V.PASS
        if place == PEERS[0]:
            assert batch.port_out[i] == 0 and bytes(batch.frame(i))[30:34] == b"\xc0\0\2\2"
        else:
            assert plane.port_names[batch.port_out[i]] == place
