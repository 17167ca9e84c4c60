"""Outer fragments at a node: put together as a kernel does, of members alone, in memory that is bounded."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest

import vxlanfast as vf
from tests import make_fixtures as fx
from tests.lab import ip, namespaces, need_root, packet_socket
from tests.live import Node, address, cable, kernel_peer, ping, run, until
from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.verdict import Verdict as V

S = 1_000_000_000


def plane_of(version: int, **more: object) -> vf.Dataplane:
    """Its VTEP is whom the fixtures' packets are for, and whoever sends them is a member."""
    ours, theirs = (fx.B4, fx.A4) if version == 4 else (fx.B6, fx.A6)
    network = vf.NetworkSpec(
        name="web", vni=42, peer=(vf.PeerSpec(vtep=theirs),), endpoint=(vf.EndpointSpec(port="e1", mac=fx.INNER_B),)
    )
    return vf.Dataplane(vf.NodeSpec(vtep=(ours,), mtu=0, network=(network,), **more))  # type: ignore[arg-type]


def came(plane: vf.Dataplane, frames: list[bytes], ts_ns: int = 0) -> tuple[list[bytes], list[V]]:
    """What leaves by the endpoint's port, and every row's verdict."""
    batch = plane.process(PacketBatch.from_frames(frames, ts_ns=ts_ns, port_in=plane.ports["underlay"]))
    out = [bytes(batch.frame(i)) for i in batch.passed() if batch.port_out[i] == plane.ports["e1"]]
    return out, [V(v) for v in batch.verdict][: len(frames)]


def pieces_of(version: int, *, size: int = 1000, ident: int = 7, seed: int = 0) -> tuple[list[bytes], bytes]:
    packet, inner = (fx.datagram4 if version == 4 else fx.datagram6)(seed=seed)
    return (fx.fragments4 if version == 4 else fx.fragments6)(packet, size, ident), inner


versions = pytest.mark.parametrize("version", [4, 6])


@versions
def test_every_order(version: int) -> None:
    """The last to come is the datagram; in one batch, or each in a batch of its own."""
    pieces, inner = pieces_of(version)
    rng = random.Random(version)
    for number in range(20):
        plane, order = plane_of(version), rng.sample(pieces, len(pieces))
        if number % 2:
            assert came(plane, order) == ([inner], [V.DROP_FRAGMENT_HELD] * (len(pieces) - 1) + [V.PASS])
        else:
            assert [came(plane, [piece])[0] for piece in order] == [[]] * (len(pieces) - 1) + [[inner]]
        stats = plane.stats()
        assert (stats.packets, stats.passed, sum(stats.drops.values())) == (len(pieces), 1, len(pieces) - 1)
        assert stats.peers[42, fx.A4 if version == 4 else fx.A6].rx_packets == 1


@versions
def test_only_for_us_and_of_members(version: int) -> None:
    """Of a stranger nothing is held, and so nothing of a member's is pushed out."""
    pieces, inner = pieces_of(version)
    plane = plane_of(version)
    src, dst = (26, 30) if version == 4 else (22, 38)
    size = dst - src

    def changed(piece: bytes, at: int) -> bytes:
        out = bytearray(piece)
        out[at + size - 1] ^= 0x55
        if version == 4:  # the checksum stays right
            out[24:26] = b"\0\0"
            out[24:26] = (0xFFFF - fx_sum(out[14:34])).to_bytes(2, "big")
        return bytes(out)

    assert came(plane, pieces[:-1])[1] == [V.DROP_FRAGMENT_HELD] * (len(pieces) - 1)
    assert came(plane, [changed(piece, src) for piece in pieces])[1] == [V.DROP_VTEP_UNKNOWN] * len(pieces)
    assert came(plane, [changed(piece, dst) for piece in pieces])[1] == [V.DROP_VTEP_OTHER] * len(pieces)
    assert came(plane, pieces[-1:])[0] == [inner]


def fx_sum(data: bytes | bytearray) -> int:
    total = sum(int.from_bytes(data[k : k + 2], "big") for k in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_what_is_wrong_with_them() -> None:
    """A header's checksum, overlaps, repeats; a datagram whose rest comes too late."""
    pieces, inner = pieces_of(4)
    broken = pieces[0][:24] + b"\0\0" + pieces[0][26:]
    assert came(plane_of(4), [broken])[1] == [V.DROP_IP_CSUM]
    assert came(plane_of(4), [pieces[0], pieces[0]])[1] == [V.DROP_FRAGMENT_HELD, V.DROP_FRAGMENT_DUPLICATE]
    plane = plane_of(4)
    assert came(plane, pieces[:-1], 0)[0] == []
    assert came(plane, pieces[-1:], 31 * S)[1] == [V.DROP_FRAGMENT_HELD]
    other, _ = pieces_of(4, size=1008)
    assert V.DROP_FRAGMENT_OVERLAP in came(plane_of(4), [pieces[0], other[1], *pieces[1:]])[1]
    # A wrong UDP checksum is seen once all is there.
    wrong = bytearray(pieces[-1])
    wrong[-1] ^= 1
    assert came(plane_of(4), [*pieces[:-1], bytes(wrong)])[1][-1] == V.DROP_UDP_CSUM
    assert came(plane_of(4), pieces)[0] == [inner]


def test_not_asked_for() -> None:
    pieces, _ = pieces_of(4)
    assert came(plane_of(4, reassemble=False), pieces)[1] == [V.PUNT_FRAGMENT] * len(pieces)


def test_they_live_through_a_new_spec() -> None:
    pieces, inner = pieces_of(4)
    plane = plane_of(4)
    came(plane, pieces[:-1])
    plane.apply(plane.spec)
    assert came(plane, pieces[-1:])[0] == [inner]


def test_a_flood_of_them() -> None:
    """A hundred thousand that never become whole: memory is bounded, and an honest one among them comes through."""
    plane = plane_of(4)
    packet, inner = fx.datagram4()
    first = bytearray(fx.fragments4(packet, 1000, 1)[0])
    honest = fx.fragments4(packet, 1000, 65535)
    flood = []
    for ident in range(1000):
        first[18:20] = ident.to_bytes(2, "big")
        first[24:26] = b"\0\0"
        first[24:26] = (0xFFFF - fx_sum(first[14:34])).to_bytes(2, "big")
        flood.append(bytes(first))
    for _ in range(100):
        assert came(plane, flood)[0] == []
    assert came(plane, [*flood[:500], *honest[:-1], *flood[500:700], honest[-1]])[0] == [inner]


CONFIG = """
[node]
vtep = "{vtep}"

[live]
underlay = "{underlay}"

[[live.tap]]
port = "task"
name = "eth0"
namespace = "{task}"

[[network]]
name = "web"
vni = 42
subnet = ["10.0.9.0/24"]

[[network.peer]]
vtep = "192.0.2.2"

[[network.endpoint]]
port = "task"
ip = "10.0.9.3"
"""


@pytest.mark.root
@pytest.mark.live
@pytest.mark.parametrize("underlay", ["socket", "packet", "tap"])
def test_a_kernel_that_fragments(underlay: str, tmp_path: Path) -> None:
    """Its vxlan device's MTU is as large as its wire's: frames over 1,450 bytes are two fragments. Nothing is lost."""
    need_root("ping")
    with namespaces("n", "t", "p") as (here, task, peer):
        cable(here, peer, mtu=1600)
        address(here, "wire", "192.0.2.1/24")
        address(peer, "wire", "192.0.2.2/24")
        vtep = "192.0.2.1"
        if underlay == "tap":
            vtep = "198.51.100.1"
            run(here, "sysctl", "-qw", "net.ipv4.ip_forward=1")
            ip("-n", peer, "route", "add", vtep, "via", "192.0.2.1")
        kernel_peer(
            peer, vni=42, local="192.0.2.2", flood=[vtep], mtu=1500, addresses=["10.0.9.12/24"],
            mac="02:42:0a:00:09:0c",
        )  # fmt: skip
        for namespace in (here, peer):  # what the device was made on has shrunk since
            ip("-n", namespace, "link", "set", "wire", "mtu", "1500")
        config = CONFIG.format(vtep=vtep, underlay=underlay, task=task)
        with Node(here, tmp_path, config) as node:
            until("it answers", lambda: ping(task, "10.0.9.12"))
            head = bytes.fromhex("02420a000903 02420a00090c 88b5")
            frames = [head + bytes([n]) * size for n, size in enumerate((1400, 1450, 1451, 1460, 1499, 1500))]
            with packet_socket(peer, "vx") as send, packet_socket(task, "eth0") as receive:
                for frame in frames:
                    send.send(frame)
                got: list[bytes] = []

                def all_there() -> bool:
                    with contextlib.suppress(BlockingIOError):
                        while frame := receive.recv(2000):
                            got.extend([frame] if frame.startswith(head) else [])
                    return len(got) >= len(frames)

                until("they are there", all_there)
            assert got == frames
            # In front of a socket the kernel does it.
            assert node.show("drops")["drops"].get("DROP_FRAGMENT_HELD", 0) == (0 if underlay == "socket" else 4)
            assert node.stop() == 0, node.log
