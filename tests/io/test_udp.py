"""UDP sockets as an underlay: rows without the headers that the socket took off, and what leaves as datagrams."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

import vxlanfast as vf
from tests.io.edges import drain, partial, readable, segments, tcp, udp
from vxlanfast._ext.io.poller import Poller, live_batch
from vxlanfast._ext.io.udp import UdpEdge

UDP_SEGMENT, UDP_GRO = 103, 104
SO_RCVBUFFORCE = 33
#: Room for all that a test sends, with what the kernel adds to each datagram.
RECEIVE_LEN = 1 << 22
VXLAN_HDR = bytes.fromhex("0800000000002a00")


def bound(family: int, address: str, port: int = 0) -> socket.socket:
    sock = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    try:
        sock.bind((address, port))
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_LEN)
        with suppress(PermissionError):  # more than the system gives to everybody
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_LEN)
    except BaseException:
        sock.close()
        raise
    return sock


class Wire:
    """Ours at one loopback address, a peer at another one, or at another port of the one that IPv6 has."""

    def __init__(self, family: int, *, gso: bool = True, fan: int = 4) -> None:
        self.family = family
        self.ours, self.theirs = ("127.0.0.1", "127.0.0.2") if family == 4 else ("::1", "::1")
        with ExitStack() as stack:  # an address that is not free leaves no socket open
            self._open(stack, gso, fan)
            self._sockets = stack.pop_all()

    def _open(self, stack: ExitStack, gso: bool, fan: int) -> None:
        family = self.family
        self.receiver = stack.enter_context(bound(family, self.ours))
        self.receiver.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        if family == 4:
            self.receiver.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        else:
            self.receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        self.port = self.receiver.getsockname()[1]
        self.peer = stack.enter_context(bound(family, self.theirs, self.port if family == 4 else 0))
        self.fan = [stack.enter_context(bound(family, self.ours)) for _ in range(fan)]
        self.edge = UdpEdge(
            self.receiver.fileno(), [one.fileno() for one in self.fan],
            address=socket.inet_pton(self.receiver.family, self.ours),
            port=self.peer.getsockname()[1] if family == 6 else self.port, mtu=1450, gso=gso,
        )  # fmt: skip
        self.poller = Poller()
        self.poller.add(0, self.edge)
        self.batch = live_batch()

    def send(self, frames: list[bytes], gso: list[int] | None = None, **spec: object) -> list[tuple[bytes, int]]:
        """What the peer gets, as (frame, source port); VXLAN headers are looked at."""
        batch = vf.PacketBatch.from_frames(frames)
        for i, size in enumerate(gso or ()):
            batch.gso[i] = size
        vf.encap_batch(
            batch, vf.TunnelSpec(vni=42, src=self.ours if self.family == 4 else "::2", dst=self.theirs, **spec)
        )  # type: ignore[arg-type]
        before = self.edge.counters()["tx_segments"]
        self.poller.send(batch)
        out = []
        for _ in range(self.edge.counters()["tx_segments"] - before):
            readable(self.peer)
            data, source = self.peer.recvfrom(1 << 17)
            assert data[:8] == VXLAN_HDR
            out.append((data[8:], source[1]))
        with pytest.raises(BlockingIOError):
            self.peer.recvfrom(1)
        return out

    @property
    def edge_port(self) -> int:
        """The port that the edge takes for everybody's."""
        return self.peer.getsockname()[1] if self.family == 6 else self.port

    def receive(self) -> vf.PacketBatch:
        self.poller.wait(self.batch, 2000)
        return self.batch

    def close(self) -> None:
        self._sockets.close()


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def wire(request: pytest.FixtureRequest) -> Iterator[Wire]:
    try:
        made = Wire(request.param)
    except OSError as error:
        pytest.skip(f"no loopback of that family: {error}")
    yield made
    made.close()


def test_frames_out(wire: Wire) -> None:
    """Whole, in order within a flow, which keeps its source port; several flows have several."""
    flows = {n: [tcp(4, bytes([k]) * (100 + 10 * k), sport=n) for k in range(10)] for n in range(4000, 4032)}
    frames = [flows[n][k] for k in range(10) for n in flows]
    got = wire.send(frames)
    assert sorted(frame for frame, _ in got) == sorted(frames)
    ports: dict[int, set[int]] = {}
    for n, flow in flows.items():
        assert [frame for frame, _ in got if frame in flow] == flow
        ports[n] = {port for frame, port in got if frame in flow}
    assert all(len(one) == 1 for one in ports.values()) and len(set.union(*ports.values())) > 1
    counters = wire.edge.counters()
    assert counters["tx_packets"] == counters["tx_segments"] == len(frames) and counters["tx_drops"] == 0


def test_rows_of_one_length_leave_together(wire: Wire) -> None:
    frames = (
        [udp(4, bytes([n]) * 500) for n in range(70)]
        + [udp(4, b"short")]
        + [udp(4, bytes([n]) * 500) for n in range(3)]
    )
    assert [frame for frame, _ in wire.send(frames)] == frames


@pytest.mark.parametrize("inner", [4, 6])
@pytest.mark.parametrize("gso", [True, False])
def test_super_frames_are_cut(inner: int, gso: bool) -> None:
    wire = Wire(4, gso=gso)
    frame = tcp(inner, bytes(range(256)) * 100, flags="PA")
    small = tcp(inner, b"and one more", sport=4001)
    got = [one for one, _ in wire.send([frame, small], [1000, 0])]
    wanted = segments(frame, 1000)
    assert [one for one in got if one != small] == wanted and small in got
    wire.close()


def test_many_super_frames(wire: Wire) -> None:
    """More than the lists of messages, pieces and headers hold at once."""
    if wire.peer.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < RECEIVE_LEN:
        pytest.skip("needs more receive buffer than net.core.rmem_max: run as root")
    frames = [tcp(4, bytes([n]) * 60_000, sport=4000 + n % 7, seq=n) for n in range(24)]
    got = [frame for frame, _ in wire.send(frames, [1300] * len(frames))]
    assert sorted(got) == sorted(one for frame in frames for one in segments(frame, 1300))


def test_segments_that_the_kernel_does_not_cut() -> None:
    """Longer than its way: one by one, and what does not go at all is counted."""
    wire = Wire(4)
    for one in wire.fan:
        one.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER: DO
    frame = tcp(4, bytes(130_000 - 70_000), flags="A")
    assert [one for one, _ in wire.send([frame], [50_000])] == segments(frame, 50_000)
    wire.close()


def test_congestion_marks_out(wire: Wire) -> None:
    """The TOS of the outer header, per packet (RFC 6040)."""
    if wire.family == 4:
        wire.peer.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    else:
        wire.peer.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
    batch = vf.PacketBatch.from_frames([udp(4, b"a", ip={"tos": 2}), udp(4, b"b", ip={"tos": 1})])
    vf.encap_batch(batch, vf.TunnelSpec(vni=42, src=wire.ours if wire.family == 4 else "::2", dst=wire.theirs, dscp=10))
    wire.poller.send(batch)
    seen = []
    for _ in range(2):
        readable(wire.peer)
        _, control, _, _ = wire.peer.recvmsg(2000, 256)
        seen.append(control[0][2][0])
    assert sorted(seen) == [10 << 2 | 1, 10 << 2 | 2]


def test_datagrams_in(wire: Wire) -> None:
    """Rows of a VXLAN header and what is behind it; the headers that the socket took off are made again."""
    frames = [tcp(4, bytes([n]) * (n * 20)) for n in range(60)]
    for frame in frames:
        wire.peer.sendto(VXLAN_HDR + frame, (wire.ours, wire.port))
    got: list[bytes] = []
    while len(got) < len(frames):
        batch = wire.receive()
        assert len(batch), "nothing came"
        for i in range(len(batch)):
            whole = Ether(bytes(batch.frame(i)))
            assert whole[UDP].sport == wire.peer.getsockname()[1] and whole[UDP].dport == wire.edge_port
            layer = whole[IP] if wire.family == 4 else whole[IPv6]
            assert (layer.src, layer.dst) == (wire.theirs, wire.ours)
            assert whole[UDP].len == 8 + len(batch.frame(i)) - (42 if wire.family == 4 else 62)
            got.append(bytes(batch.frame(i))[(42 if wire.family == 4 else 62) + 8 :])
        twin = batch.copy()
        assert [bytes(twin.frame(i)) for i in range(len(twin))] == [bytes(batch.frame(i)) for i in range(len(batch))]
        assert set(twin.link) == {1}
        picked = batch.pick()
        assert picked is not None and [bytes(picked.frame(i)) for i in range(len(picked))] == [
            bytes(batch.frame(i)) for i in range(len(batch))
        ]
    assert got == frames and wire.edge.counters()["rx_packets"] == len(frames)


def test_many_in_one(wire: Wire) -> None:
    """What the kernel cut, or another did and it put together: each is a row, the last one shorter."""
    frames = [udp(4, bytes([n]) * 400) for n in range(20)] + [udp(4, b"last")]
    wire.peer.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, len(VXLAN_HDR + frames[0]))
    wire.peer.sendto(b"".join(VXLAN_HDR + frame for frame in frames), (wire.ours, wire.port))
    got: list[bytes] = []
    while len(got) < len(frames):
        batch = wire.receive()
        assert len(batch), "nothing came"
        got += [bytes(batch.frame(i)) for i in range(len(batch))]
    front = 50 if wire.family == 4 else 70
    assert [frame[front:] for frame in got] == frames
    for frame in got:
        assert Ether(frame)[UDP].len == len(frame) - front + 16
        assert bytes(VXLAN(bytes(Ether(frame)[UDP].payload)).payload) == frame[front:]


def test_what_a_kernel_left_to_a_card(wire: Wire) -> None:
    """A checksum that is the pseudo header's sum alone is completed, any other one is left as it is; a frame longer
    than the tunnel's packets is a super-frame."""
    good, bad = tcp(4, b"payload"), bytearray(tcp(4, b"payload"))
    bad[50] ^= 1
    giant = tcp(4, bytes(range(256)) * 50)
    for frame in (partial(good), good, bytes(bad), partial(giant), partial(udp(6, b"datagram"))):
        wire.peer.sendto(VXLAN_HDR + frame, (wire.ours, wire.port))
    got: list[tuple[bytes, int]] = []
    while len(got) < 5:
        batch = wire.receive()
        assert len(batch), "nothing came"
        front = 50 if wire.family == 4 else 70
        got += [(bytes(batch.frame(i))[front:], batch.gso[i]) for i in range(len(batch))]
    assert [frame for frame, _ in got[:3]] == [good, good, bytes(bad)] and {size for _, size in got[:3]} == {0}
    assert got[3][1] == 1450 - 40 and got[3][0][54:] == giant[54:]
    assert got[4] == (udp(6, b"datagram"), 0)


def test_hostile_datagrams(wire: Wire) -> None:
    """Into a plane: each has a verdict, and the good one passes."""
    peer = "127.0.0.2" if wire.family == 4 else "::2"
    own = "127.0.0.1" if wire.family == 4 else "::1"
    plane = vf.Dataplane(vf.parse_spec(
        f'[node]\nvtep = "{own}"\n[[network]]\nname = "n"\nvni = 42\n[[network.peer]]\nvtep = "{peer}"\n'
        '[[network.endpoint]]\nport = "p"\nmac = "02:00:00:00:00:0b"\n'
    ))  # fmt: skip
    good = tcp(4, b"x")
    said = [b"", b"\x08", VXLAN_HDR, VXLAN_HDR + good[:13], b"\0" * 8 + good, b"\x08\0\0\0\0\0\x2b\0" + good,
            b"\x08\0\0\1\0\0\x2a\0" + good, b"\x0c\0\0\5\0\0\x2a\0" + good, VXLAN_HDR + good[:20],
            VXLAN_HDR + good]  # fmt: skip
    for data in said:
        wire.peer.sendto(data, (wire.ours, wire.port))
    rows = 0
    while rows < len(said) - 1:  # an empty datagram is none
        batch = wire.receive()
        assert len(batch), "nothing came"
        rows += len(batch)
        plane.process(batch)
        if wire.family == 4:
            assert set(batch.verdict) - {0}
    stats = plane.stats()
    assert stats.packets == rows == stats.passed + sum(stats.drops.values())
    if wire.family == 4:
        names = {verdict.name for verdict in stats.drops}
        assert {"DROP_TRUNCATED", "DROP_INNER_RUNT", "DROP_NO_VNI", "DROP_VNI_UNKNOWN", "DROP_RESERVED"} <= names
        assert stats.passed == 1


def test_both_families_behind_one_port() -> None:
    """Rows find the socket of their tunnel's family; without one they are dropped and counted."""
    four, six = Wire(4), Wire(6)
    four.edge.also(six.edge)
    with pytest.raises(ValueError, match="two edges of one family"):
        four.edge.also(four.edge)
    frame = udp(4, b"x")
    for target, src, dst in ((four, four.ours, four.theirs), (six, "::2", six.theirs)):
        batch = vf.PacketBatch.from_frames([frame])
        vf.encap_batch(batch, vf.TunnelSpec(vni=42, src=src, dst=dst))
        four.poller.send(batch)
        readable(target.peer)
        assert drain(target.peer) == [VXLAN_HDR + frame]
    batch = vf.PacketBatch.from_frames([frame])
    vf.encap_batch(batch, vf.TunnelSpec(vni=42, src="192.0.2.1", dst="192.0.2.2"))
    six.poller.send(batch)
    assert six.edge.counters()["tx_drops"] == 1
    six.poller.send(vf.PacketBatch.from_frames([frame]))
    assert six.edge.counters()["tx_drops"] == 2
    four.close(), six.close()


def test_nobody_there(wire: Wire) -> None:
    """A peer that vanished: ICMP errors are no reason to stop, neither for sending nor for receiving."""
    wire.peer.close()
    batch = vf.PacketBatch.from_frames([udp(4, bytes([n])) for n in range(50)])
    vf.encap_batch(batch, vf.TunnelSpec(vni=42, src=wire.ours if wire.family == 4 else "::2", dst=wire.theirs))
    for _ in range(3):
        wire.poller.send(batch)
    counters = wire.edge.counters()
    assert counters["tx_packets"] + counters["tx_drops"] == 150
    assert wire.poller.wait(wire.batch, 0)[0] == 0 and not wire.poller.broken()


def test_border() -> None:
    sock = bound(4, "127.0.0.1")
    with pytest.raises(ValueError, match="0 sockets to send by: 1 to 64"):
        UdpEdge(sock.fileno(), [], address=bytes(4), port=4789)
    with pytest.raises(ValueError, match="address of 5 bytes: 4 or 16"):
        UdpEdge(sock.fileno(), [1], address=bytes(5), port=4789)
    sock.close()
