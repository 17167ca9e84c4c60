"""Learning, forwarding and head-end replication, with scapy building what enters and reading what leaves."""

from __future__ import annotations

import random
from ipaddress import ip_address

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.layers.vxlan import VXLAN

from tests.node.plane import UNDERLAY, Vtep
from vxlanfast import TunnelSpec
from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.node.bridge import Bridge
from vxlanfast._ext.node.receive import Receive
from vxlanfast._ext.node.send import Send
from vxlanfast._ext.table.dest import DestTable
from vxlanfast._ext.table.fdb import FdbTable
from vxlanfast._ext.table.net import NetTable
from vxlanfast._ext.verdict import Verdict as V
from vxlanfast.spec import compile_tunnel

S = 1_000_000_000
A, B, C = "192.0.2.1", "192.0.2.2", "192.0.2.3"


def mac(n: int) -> str:
    return f"02:00:00:00:{n >> 8:02x}:{n & 255:02x}"


def frame(src: int, dst: int | str, text: bytes = b"") -> bytes:
    """An IPv4 frame between two stations by number."""
    to = dst if isinstance(dst, str) else mac(dst)
    ip = IP(src=f"10.0.0.{src & 255}", dst="10.0.0.99")
    return bytes(Ether(src=mac(src), dst=to) / ip / UDP(sport=src, dport=9) / text)


BROADCAST = "ff:ff:ff:ff:ff:ff"


def wrap(inner: bytes, vni: int = 42, src: str = B, dst: str = A, dport: int = 4789) -> bytes:
    return bytes(
        Ether(src=mac(900), dst=mac(901)) / IP(src=src, dst=dst) / UDP(sport=50000, dport=dport, chksum=0)
        / VXLAN(vni=vni, flags=8) / inner
    )  # fmt: skip


def unwrap(packet: bytes) -> tuple[str, str, int, bytes]:
    p = Ether(packet)
    assert p[UDP].dport == 4789 and p[UDP].sport >= 49152
    p[UDP].decode_payload_as(VXLAN)
    return p[IP].src, p[IP].dst, p[VXLAN].vni, bytes(p[VXLAN].payload)


def test_flood_learn_forward() -> None:
    """Unknown: to everybody but the sender. The answer is learned from, and the next frame goes one way."""
    vtep = Vtep(A, {42: ([1, 2], [B, C])})
    ask = frame(1, 7)
    out = vtep.offer(1, [ask])
    assert out[0] == (2, ask)
    assert [port for port, _ in out[1:]] == [UNDERLAY, UNDERLAY]
    assert [unwrap(p) for _, p in out[1:]] == [(A, B, 42, ask), (A, C, 42, ask)]
    answer = frame(7, 1)
    assert vtep.offer(UNDERLAY, [wrap(answer, src=C)]) == [(1, answer)]
    out = vtep.offer(1, [ask])
    assert [(port, unwrap(p)) for port, p in out] == [(UNDERLAY, (A, C, 42, ask))]
    assert vtep.verdicts(1, [frame(1, 1), frame(7, 1)]) == [V.DROP_SAME_PORT, V.DROP_SAME_PORT]  # 7 moved here
    rows = vtep.dests.rows()
    assert [row["tx_packets"] for row in rows] == [1, 1, 1, 2]
    assert rows[3]["rx_packets"] == 1 and rows[3]["rx_bytes"] == len(answer)


@pytest.mark.parametrize("peers", [1, 2, 3, 17, 64, 255, 256])
def test_as_many_copies_as_peers(peers: int) -> None:
    """N peers: N copies, one each, none back; all of them share one body; from a tunnel none goes to a tunnel."""
    addresses = [f"198.51.{100 + n // 250}.{1 + n % 250}" for n in range(peers)]
    vtep = Vtep(A, {42: ([1, 2, 3], addresses)})
    shout = frame(1, BROADCAST)
    batch = vtep.process(PacketBatch.from_frames([frame(1, 1), shout, frame(2, 1)], port_in=1))
    assert len(batch.arena) == sum(map(len, (frame(1, 1), shout, frame(2, 1))))
    left = batch.passed()
    ports, offsets = list(batch.port_out), list(batch.offsets)
    assert len({offsets[i] for i in left}) == 1
    assert [ports[i] for i in left[:2]] == [2, 3]
    got = [unwrap(bytes(batch.frame(i))) for i in left[2:]]
    assert [(dst, inner) for _, dst, _, inner in got] == [(address, shout) for address in addresses]
    out = vtep.offer(UNDERLAY, [wrap(frame(9, BROADCAST), src=addresses[0])])
    assert [port for port, _ in out] == [1, 2, 3]
    assert vtep.bridge.flooded == 2 and vtep.bridge.copies == 2 + peers + 3


def test_flood_off() -> None:
    """Without head-end replication the ports have it, and no tunnel; with nobody left that is a drop with a name."""
    vtep = Vtep(A, {42: ([1, 2], [B])}, flood=False)
    assert [port for port, _ in vtep.offer(1, [frame(1, BROADCAST)])] == [2]
    alone = Vtep(A, {42: ([1], [B])}, flood=False)
    assert alone.verdicts(1, [frame(1, BROADCAST), frame(1, 5)]) == [V.DROP_NO_ENTRY] * 2
    assert Vtep(A, {42: ([1], [])}).verdicts(1, [frame(1, BROADCAST)]) == [V.DROP_NO_RECEIVER]


def test_split_horizon() -> None:
    """A frame that a peer sends to a station behind another peer ends here, whether the station is known or not."""
    vtep = Vtep(A, {42: ([], [B, C])})
    assert vtep.verdicts(UNDERLAY, [wrap(frame(5, 6), src=B), wrap(frame(6, 5), src=C)]) == [
        V.DROP_NO_RECEIVER, V.DROP_SPLIT_HORIZON,
    ]  # fmt: skip


def test_what_does_not_enter() -> None:
    """Each for its own reason, and counted where it came from if that is known."""
    vtep = Vtep(A, {42: ([1], [B])})
    good = frame(5, 1)
    packets = {
        wrap(good, vni=43): V.DROP_VNI_UNKNOWN,
        wrap(good, src=C): V.DROP_VTEP_UNKNOWN,
        wrap(good, dst=C): V.DROP_VTEP_OTHER,
        wrap(good, dport=4790): V.PUNT_PORT,
        wrap(good[:13]): V.DROP_INNER_RUNT,
        wrap(good[:20]): V.DROP_INNER_HEADER,
        wrap(b"\xff" * 6 + b"\0" * 6 + good[12:]): V.DROP_INNER_SOURCE,
        wrap(b"\xff" * 6 + b"\x01\0\x5e\0\0\1" + good[12:]): V.DROP_INNER_SOURCE,
        wrap(bytes(Ether(good)[Ether] / b"")[:12] + b"\x81\0\0\7" + good[12:]): V.DROP_INNER_TAG,
        wrap(good): V.PASS,
    }
    vtep.offer(1, [frame(1, 1)])
    assert vtep.verdicts(UNDERLAY, list(packets)) == list(packets.values())
    assert vtep.verdicts(9, [good]) == [V.DROP_PORT_UNKNOWN]
    assert vtep.verdicts(1, [good[:13], bytes(Ether(src=mac(1), dst=mac(2)) / Dot1Q(vlan=5) / b"abc")]) == [
        V.DROP_INNER_RUNT, V.DROP_INNER_TAG,
    ]  # fmt: skip
    assert [row["drops"] for row in vtep.dests.rows()] == [3, 4]
    assert sum(vtep.receive.counters().values()) == 1 + len(packets) + 3


def test_networks_are_apart() -> None:
    """The same stations in two networks, by the same host: random frames of one never leave into the other."""
    rng = random.Random(1)
    vtep = Vtep(A, {0: ([1, 2], [B]), 0xFFFFFF: ([3, 4], [B])})
    of_port = {1: 0, 2: 0, 3: 0xFFFFFF, 4: 0xFFFFFF}
    for _ in range(200):
        frames, entered = [], rng.choice([1, 2, 3, 4, UNDERLAY])
        vni = of_port.get(entered, rng.choice([0, 0xFFFFFF]))
        for _ in range(50):
            dst = BROADCAST if rng.random() < 0.1 else rng.randrange(1, 20)
            inner = frame(rng.randrange(1, 20), dst, vni.to_bytes(3, "big"))
            frames.append(wrap(inner, vni=vni) if entered == UNDERLAY else inner)
        for port, out in vtep.offer(entered, frames, ts_ns=rng.randrange(100) * S):
            assert out[-3:] == vni.to_bytes(3, "big")
            assert (unwrap(out)[2] if port == UNDERLAY else of_port[port]) == vni


def test_one_batch_or_many() -> None:
    """A batch of N is N batches of one: the same rows leave, in the same order, and the counters agree."""
    rng = random.Random(2)
    frames = [frame(rng.randrange(1, 12), rng.choice([BROADCAST, *range(1, 12)])) for _ in range(400)]
    whole, single = (Vtep(A, {42: ([1, 2, 3], [B, C])}, bum_rate=50) for _ in range(2))
    times = sorted(rng.randrange(10 * S) for _ in frames)
    batch = PacketBatch.from_frames(frames, ts_ns=times, port_in=1)
    whole.process(batch)
    ports = batch.port_out
    want = [(ports[i], bytes(batch.frame(i))) for i in batch.passed()]
    got = [row for one, at in zip(frames, times, strict=True) for row in single.offer(1, [one], at)]
    assert got == want
    assert whole.bridge.counters() == single.bridge.counters()
    assert whole.dests.rows() == single.dests.rows()


def test_rate_of_what_is_flooded() -> None:
    """Broadcasts over the network's rate go; unicast does not count."""
    vtep = Vtep(A, {42: ([1, 2], [])}, bum_rate=1000)
    vtep.offer(2, [frame(2, 1)])
    frames = [frame(1, BROADCAST), frame(1, 2)] * 50_000
    times = [n // 2 * 100_000 for n in range(100_000)]  # 10,000 broadcasts a second, for 5 s
    batch = vtep.process(PacketBatch.from_frames(frames, ts_ns=times, port_in=1))
    counts = batch.counts()
    sent = 50_000 - counts[V.DROP_BUM_RATE]
    assert abs(sent - 5 * 1000) <= 0.05 * 5000
    assert counts[V.PASS] == sent + 50_000
    assert vtep.nets.rows()[0]["bum_limited"] == counts[V.DROP_BUM_RATE]


def test_authority_over_learning() -> None:
    """A station that is set to live at a peer: frames of it from elsewhere are drops, with learning and without."""
    for learn in (True, False):
        vtep = Vtep(A, {42: ([1, 2], [B, C])}, learn=learn)
        vtep.fdb.set(0, bytes.fromhex(mac(7).replace(":", "")), 2)
        assert vtep.verdicts(1, [frame(7, 1)]) == [V.DROP_STATION_ELSEWHERE]
        assert vtep.verdicts(UNDERLAY, [wrap(frame(7, BROADCAST), src=C)]) == [V.DROP_STATION_ELSEWHERE]
        assert vtep.verdicts(UNDERLAY, [wrap(frame(7, BROADCAST), src=B)]) == [V.PASS]
        assert len(vtep.fdb) == 1


def test_every_number_of_peers() -> None:
    """1 to 256, each in a network of its own: N copies, each to another of them, none back, none twice."""
    most = 256
    addresses = [f"198.51.{100 + n // 250}.{1 + n % 250}" for n in range(most)]
    nets, dests = NetTable(most), DestTable(most + most * (most + 1) // 2)
    for n in range(1, most + 1):
        net = nets.add(n)
        port = dests.add_port(net, n)
        peers = [dests.add_peer(net, ip_address(addresses[k]).packed, UNDERLAY, k) for k in range(n)]
        nets.set_flood(net, [port], peers)
    tunnels = [compile_tunnel(TunnelSpec(vni=1, src=A, dst=address)) for address in addresses]
    receive = Receive(nets, dests, local=[], ports=[4789], underlay=UNDERLAY)
    bridge = Bridge(nets, dests, FdbTable(1024, dests=dests.capacity))
    send = Send(dests, tunnels)
    shout = frame(1, BROADCAST)
    for n in range(1, most + 1):
        batch = PacketBatch.from_frames([shout], port_in=n)
        for node in (receive, bridge, send):
            node.process(batch)
        out = [bytes(batch.frame(i)) for i in batch.passed()]
        assert [".".join(map(str, packet[30:34])) for packet in out] == addresses[:n]
        assert {packet[50:] for packet in out} == {shout} and set(batch.port_out) == {UNDERLAY}
