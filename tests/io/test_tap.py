"""A TAP device's file: checksums and super-frames in, segments put together or cut on the way out. Witness: scapy."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from tests.io.edges import (
    NEEDS_CSUM,
    TCPV4,
    TCPV6,
    UDP_L4,
    UFO,
    A,
    drain,
    offloaded,
    pair,
    partial,
    segments,
    tcp,
    udp,
    vnet,
)
from vxlanfast import PacketBatch, TunnelSpec, encap_batch
from vxlanfast._ext.io.poller import Poller, live_batch
from vxlanfast._ext.io.tap import TapEdge

MAKE = {"tcp": tcp, "udp": udp}


class Device:
    """An edge, and the socket that plays its device."""

    def __init__(self, **options: object) -> None:
        self.ours, self.theirs = pair()
        self.edge = TapEdge(self.ours.fileno(), **options)  # type: ignore[arg-type]
        self.poller = Poller()
        self.poller.add(3, self.edge)
        self.batch = live_batch()

    def read(self, *frames: bytes) -> PacketBatch:
        for frame in frames:
            self.theirs.send(frame)
        self.poller.wait(self.batch, 0)
        return self.batch

    def write(self, *frames: bytes, gso: int = 0) -> list[tuple[bytes, bytes]]:
        """What the device gets, as (header, frame)."""
        batch = PacketBatch.from_frames(frames)
        for i in range(len(batch)):
            batch.port_out[i] = 3
            batch.gso[i] = gso
        assert self.poller.send(batch) == 0
        return [(one[:10], one[10:]) for one in drain(self.theirs)]


@pytest.fixture
def device() -> Iterator[Device]:
    made = Device(offload=True)
    yield made
    made.ours.close(), made.theirs.close()


@pytest.fixture
def plain() -> Iterator[Device]:
    made = Device(offload=False)
    yield made
    made.ours.close(), made.theirs.close()


def test_frames_in(device: Device) -> None:
    frames = [tcp(4, b"x" * n) for n in (0, 1, 100, 1400)] + [b"\xff" * 60, udp(6, b"")]
    batch = device.read(*(vnet() + frame for frame in frames))
    assert [bytes(batch.frame(i)) for i in range(len(batch))] == frames
    assert set(batch.port_in) == {3} and set(batch.gso) == {0} and set(batch.verdict) == {0}
    assert all(stamp > 0 for stamp in batch.ts_ns)
    counters = device.edge.counters()
    assert (counters["rx_packets"], counters["rx_bytes"]) == (len(frames), sum(map(len, frames)))


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_checksums_that_were_left_to_a_card(device: Device, kind: str, family: int) -> None:
    frames = [MAKE[kind](family, bytes(range(n % 256)) * 3) for n in (0, 1, 2, 77)]
    batch = device.read(*map(offloaded, frames))
    assert [bytes(batch.frame(i)) for i in range(len(batch))] == frames


def test_a_udp_checksum_that_is_zero(device: Device) -> None:
    """It is sent as all ones (RFC 768)."""
    word = Ether(udp(4, b"\0\0"))[UDP].chksum  # with it, everything sums to all ones
    frame = Ether(udp(4, word.to_bytes(2)))
    assert frame[UDP].chksum == 0xFFFF
    batch = device.read(offloaded(bytes(frame)))
    assert Ether(bytes(batch.frame(0)))[UDP].chksum == 0xFFFF


@pytest.mark.parametrize(("kind", "family"), [("tcp", 4), ("tcp", 6), ("udp", 4), ("udp", 6)])
def test_super_frames_through(device: Device, plain: Device, kind: str, family: int) -> None:
    """In as one row; out as one frame where the device takes it, and else as a card's segments."""
    frame = MAKE[kind](family, bytes(range(256)) * 40, **({"flags": "PA"} if kind == "tcp" else {}))
    batch = device.read(offloaded(frame, 1000))
    assert list(batch.gso) == [1000] and len(batch) == 1
    assert device.edge.counters()["rx_segments"] > 10
    row = bytes(batch.frame(0))
    [(header, out)] = device.write(row, gso=1000)
    assert header == offloaded(frame, 1000)[:10] and out == partial(frame)
    cut = plain.write(row, gso=1000)
    assert [one for _, one in cut] == segments(frame, 1000)
    assert {header for header, _ in cut} == {vnet()}
    assert plain.edge.counters()["tx_segments"] == len(cut) == plain.edge.counters()["tx_packets"]


def test_congestion_is_said_once(device: Device, plain: Device) -> None:
    """CWR in the first segment alone, and the header says that there is some (RFC 3168 §6.1.2)."""
    frame = tcp(4, bytes(5000), flags="AC")
    [(header, _)] = device.write(frame, gso=1000)
    assert header[1] == TCPV4 | 0x80
    flags = [str(Ether(one)[TCP].flags) for _, one in plain.write(frame, gso=1000)]
    assert flags == ["AC", "A", "A", "A", "A"]


def test_a_super_frame_of_one_segment(device: Device) -> None:
    """It is a frame, and its checksum is made."""
    frame = tcp(4, bytes(500))
    batch = device.read(offloaded(frame, 1000))
    assert list(batch.gso) == [0] and bytes(batch.frame(0)) == frame


def test_headers_that_make_no_sense(device: Device) -> None:
    frame = partial(tcp(4, bytes(3000)))
    bad = [
        b"", vnet()[:5], vnet(), vnet(NEEDS_CSUM, UFO, 54, 1000, 34, 16) + frame,
        vnet(NEEDS_CSUM, TCPV4, 54, 0, 34, 16) + frame, vnet(NEEDS_CSUM, 0, 0, 0, 60000, 16) + frame,
        vnet(NEEDS_CSUM, 0, 0, 0, 34, 65000) + frame, vnet(NEEDS_CSUM, 0, 0, 0, 3, 1) + frame,
        vnet(NEEDS_CSUM, TCPV4, 54, 1000, 34, 16) + b"\0" * 60, vnet(NEEDS_CSUM, 0x7, 54, 1000, 34, 16) + frame,
    ]  # fmt: skip
    batch = device.read(*bad[1:], vnet() + tcp(4, b"good"))
    assert len(batch) == 1 and device.edge.counters()["rx_drops"] == len(bad) - 1


@pytest.mark.parametrize(
    ("kind", "family", "code"), [("tcp", 4, TCPV4), ("tcp", 6, TCPV6), ("udp", 4, UDP_L4), ("udp", 6, UDP_L4)]
)
def test_segments_are_put_together(device: Device, kind: str, family: int, code: int) -> None:
    frame = MAKE[kind](family, bytes(range(256)) * 20, **({"flags": "PA"} if kind == "tcp" else {}))
    parts = segments(frame, 1000)
    [(header, out)] = device.write(*parts)
    l4, offset = (54, 16 if kind == "tcp" else 6) if family == 6 else (34, 16 if kind == "tcp" else 6)
    flags, made, hdr_len, size, start, at = struct.unpack("=BBHHHH", header)
    assert (flags, made, size, start, at) == (NEEDS_CSUM, code, 1000, l4, offset)
    assert hdr_len == l4 + (20 if kind == "tcp" else 8)
    assert out == partial(frame)
    assert segments(out, 1000) == parts


def stream(*sizes: int, family: int = 4, **more: object) -> list[bytes]:
    out, seq = [], 1000
    for number, size in enumerate(sizes):
        out.append(
            tcp(family, bytes([number]) * size, seq=seq, ip={"id": 100 + number} if family == 4 else None, **more)
        )  # type: ignore[arg-type]
        seq += size
    return out


def counts(out: list[tuple[bytes, bytes]]) -> list[int]:
    """Segments in each frame."""
    return [
        -(-(len(frame) - 54) // struct.unpack("=H", header[4:6])[0]) if header[4:6] != b"\0\0" else 1
        for header, frame in out
    ]


def test_what_ends_a_super_frame(device: Device) -> None:
    """A shorter one, a longer one, PSH, another flow, a gap, other headers, a wrong checksum: nothing is put together
    that was not one stream of one sender's segments."""
    assert counts(device.write(*stream(500, 500, 300, 300))) == [3, 1]
    assert counts(device.write(*stream(300, 500, 500))) == [1, 2]
    first, second, third = stream(500, 500, 500)

    def changed(layer: type, **fields: object) -> bytes:
        frame = Ether(second)
        for key, value in fields.items():
            setattr(frame[layer], key, value)
        del frame[IP].chksum, frame[TCP].chksum
        return bytes(frame)

    pushed = changed(TCP, flags="PA")
    assert counts(device.write(first, pushed, third)) == [2, 1]
    odd = [
        changed(TCP, sport=1), changed(TCP, dport=1), changed(TCP, seq=9), changed(TCP, ack=8), changed(TCP, window=1),
        changed(TCP, flags="SA"), changed(TCP, flags="UA"), changed(IP, ttl=1), changed(IP, tos=4),
        changed(IP, src="10.0.9.9"),
        changed(IP, dst="10.0.9.9"), changed(IP, flags=0), changed(TCP, reserved=1),
        second[:-1] + bytes([second[-1] ^ 1]), second + b"padding", second.replace(second[6:12], b"\2\2\2\2\2\2", 1),
    ]  # fmt: skip
    for frame in odd:
        out = device.write(first, frame)
        assert [one for _, one in out] == [first, frame], Ether(frame).summary()
        assert {header for header, _ in out} == {vnet()}
    assert counts(device.write(first, first)) == [1, 1]
    assert counts(device.write(*stream(500, 0, 500))) == [1, 1, 1]
    timed = stream(500, 500, options=[("Timestamp", (1, 2)), ("NOP", None), ("NOP", None)])
    other = stream(500, 500, options=[("Timestamp", (9, 2)), ("NOP", None), ("NOP", None)])
    assert len(device.write(*timed)) == 1 and len(device.write(timed[0], other[1])) == 2


def test_identifications_that_a_card_would_not_count(device: Device) -> None:
    """Without DF a fragment may need them: they must be what they were."""
    counted = [tcp(4, bytes(500), seq=1000 + 500 * n, ip={"flags": 0, "id": 7 + n}) for n in range(3)]
    assert counts(device.write(*counted)) == [3]
    alike = [tcp(4, bytes(500), seq=1000 + 500 * n, ip={"flags": 0, "id": 7}) for n in range(3)]
    assert counts(device.write(*alike)) == [1, 1, 1]


def test_no_more_than_64(device: Device) -> None:
    assert counts(device.write(*stream(*[100] * 150))) == [64, 64, 22]
    assert sum(counts(device.write(*stream(*[1400] * 60)))) == 60
    assert max(len(frame) for _, frame in device.write(*stream(*[1400] * 60))) <= 65014


def test_without_offload_all_leave_as_they_are(plain: Device) -> None:
    frames = [*stream(500, 500, 500), udp(4, b"x"), b"\xff" * 60]
    assert [frame for _, frame in plain.write(*frames)] == frames


def test_answers_of_the_plane(device: Device) -> None:
    """Rows with headers in front, and what is no TCP or UDP, between segments."""
    batch = PacketBatch.from_frames(stream(500, 500))
    encap_batch(batch, TunnelSpec(vni=1, src="192.0.2.1", dst="192.0.2.2"))
    for i in range(2):
        batch.port_out[i] = 3
    frames = [bytes(batch.frame(i)) for i in range(2)]
    device.poller.send(batch)
    assert [one[10:] for one in drain(device.theirs)] == frames


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("csum", ["on", "off"])
def test_tunnels_with_super_frames_in_them(family: int, csum: str) -> None:
    """An underlay's device: 24 bytes of header, MACs put in, offsets of both headers, and the way back."""
    if family == 6 and csum == "off":
        pytest.skip("UDP over IPv6 has a checksum")
    macs = bytes.fromhex("020000000001020000000002")
    device = Device(offload=True, macs=macs)
    ends = {"src": "192.0.2.1", "dst": "192.0.2.2"} if family == 4 else {"src": "2001:db8::1", "dst": "2001:db8::2"}
    inner = tcp(4, bytes(range(256)) * 20)
    batch = PacketBatch.from_frames([inner, tcp(4, b"small")])
    batch.gso[0] = 1000
    encap_batch(batch, TunnelSpec(vni=42, udp_csum=csum, **ends))  # type: ignore[arg-type]
    for i in range(2):
        batch.port_out[i] = 3
    device.poller.send(batch)
    first, second = drain(device.theirs)
    outer = 50 if family == 4 else 70
    flags, kind, hdr_len, size, start, at = struct.unpack("=BBHHHH", first[:10])
    assert kind == TCPV4 | (0x20 if family == 4 else 0x40) and size == 1000 and hdr_len == outer + 54
    assert (start, at) == (outer + 34, 16) and struct.unpack("=HH", first[20:24]) == (outer - 16, outer + 14)
    assert flags == NEEDS_CSUM | (8 if csum == "on" else 0)
    assert first[24:36] == macs and first[24 + outer :] == partial(inner)
    layer = Ether(first[24:])[UDP]
    if csum == "on":
        checked = partial(first[24:])
        at = 14 + (20 if family == 4 else 40) + 6
        assert first[24 + at : 24 + at + 2] == checked[at : at + 2]
    else:
        assert layer.chksum == 0
    assert second[:24] == bytes(24) and second[24:36] == macs
    # And in again: the outer checksum is right, or none.
    got = device.read(first)
    assert list(got.gso) == [1000] and len(got) == 1
    frame = Ether(bytes(got.frame(0)))
    if family == 4:
        assert frame[UDP].chksum == 0 and frame[IP].dst == "192.0.2.2"
    else:
        fresh = Ether(bytes(frame))
        del fresh[UDP].chksum
        assert Ether(bytes(fresh))[UDP].chksum == frame[UDP].chksum and frame[IPv6].dst == "2001:db8::2"
    # Offsets that lead nowhere.
    for offsets in ((0, 0), (60000, 10), (10, 10)):
        assert len(device.read(first[:20] + struct.pack("=HH", *offsets) + first[24:])) == 0
    assert device.edge.counters()["rx_drops"] == 3
    with pytest.raises(ValueError, match="MACs of 3 bytes: 12"):
        TapEdge(device.ours.fileno(), macs=b"abc")
    device.ours.close(), device.theirs.close()


def test_a_device_that_is_full(device: Device) -> None:
    """What it does not take is dropped and counted."""
    device.ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    sent = [udp(4, bytes(1000)) for _ in range(200)]
    got = device.write(*[udp(6 if n % 2 else 4, bytes(1000)) for n in range(200)])
    counters = device.edge.counters()
    assert len(got) + counters["tx_drops"] == len(sent) and counters["tx_drops"] > 0


def test_both_macs(device: Device) -> None:
    assert A.replace(":", "") == device.read(vnet() + tcp(4, b"x")).frame(0)[6:12].hex()
