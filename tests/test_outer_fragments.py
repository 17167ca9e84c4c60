"""Outer fragments at a node: put together as a kernel does, of members alone, in memory that is bounded."""

from __future__ import annotations

import random

import vxlanfast as vf
from tests import make_fixtures as fx
from tests.node.test_reassemble import pieces_of, versions
from tests.support import csum
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
            out[24:26] = csum(bytes(out[14:34])).to_bytes(2, "big")
        return bytes(out)

    assert came(plane, pieces[:-1])[1] == [V.DROP_FRAGMENT_HELD] * (len(pieces) - 1)
    assert came(plane, [changed(piece, src) for piece in pieces])[1] == [V.DROP_VTEP_UNKNOWN] * len(pieces)
    assert came(plane, [changed(piece, dst) for piece in pieces])[1] == [V.DROP_VTEP_OTHER] * len(pieces)
    assert came(plane, pieces[-1:])[0] == [inner]


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
        first[24:26] = csum(bytes(first[14:34])).to_bytes(2, "big")
        flood.append(bytes(first))
    for _ in range(100):
        assert came(plane, flood)[0] == []
    assert came(plane, [*flood[:500], *honest[:-1], *flood[500:700], honest[-1]])[0] == [inner]
