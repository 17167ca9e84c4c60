"""Encapsulation straight into an encoder: byte for byte what the two steps make, whatever the rows are."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest

from tests.support import FIXTURES, MAGIC_NSEC, Packet, batch_from, pcap
from vxlanfast import TunnelSpec
from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.io.writer import CaptureEncoder
from vxlanfast._ext.node.decap import Decap
from vxlanfast._ext.node.direct import encap_encode
from vxlanfast._ext.node.encap import Encap
from vxlanfast._ext.verdict import Verdict
from vxlanfast.spec import compile_tunnel

MACS = b"\x02\x00\x00\x00\x00\x02\x02\x00\x00\x00\x00\x01"
V4 = {"src": "192.0.2.1", "dst": "192.0.2.2"}
V6 = {"src": "2001:db8::1", "dst": "2001:db8::2"}


def frame(kind: str, size: int, number: int) -> bytes:
    """A frame of ``size`` bytes; the common ones are "udp" and "tcp", for all others there is another way."""
    ethertype = {"arp": b"\x08\x06", "tagged": b"\x81\x00\x00\x05\x08\x00"}.get(kind, b"\x08\x00")
    proto = {"tcp": 6, "icmp": 1}.get(kind, 17)
    fragment = 0x2000 if kind == "fragment" else 0
    ends = b"\x0a\0\0\1\x0a\0\0\2"
    ip = struct.pack(">BBHHHBBH", 0x45, number % 256, size, number, fragment, 64, proto, 0) + ends
    whole = MACS + ethertype + ip + struct.pack(">HH", 1000 + number % 100, 80)
    return (whole + bytes(range(256)) * (size // 256 + 1))[:size]


def mixed(seed: int, rows: int, odd: float) -> list[Packet]:
    rng = random.Random(seed)
    packets = []
    for number in range(rows):
        kind = rng.choice(("arp", "tagged", "icmp", "fragment")) if rng.random() < odd else rng.choice(("udp", "tcp"))
        data = frame(kind, rng.choice((0, 13, 14, 33, 37, 38, 60, 64, 255, 256, 257, 1400)), number)
        packets.append(Packet(number * 1_001_000, data, len(data) + rng.choice((0, 0, 0, 100, 65_530))))
    return packets


def written(
    packets: list[Packet], spec: TunnelSpec, format: str, buffer_len: int, *, direct: bool, **file: Any
) -> tuple[bytes, Any, Any, int]:
    """The file, the node's counts, the encoder's, and how many pieces it took."""
    batch = batch_from(pcap(packets, **file))
    node = compile_tunnel(spec)
    assert isinstance(node, Encap)
    encoder = CaptureEncoder(format, buffer_len=buffer_len)
    encoder.begin([1])
    out, pieces, at = b"", 0, 0
    if not direct:
        node.process(batch, 65_530)
    while True:
        rest = encap_encode(node, encoder, batch, at, 65_530) if direct else encoder.encode(batch, at)
        out += bytes(encoder.pending())
        encoder.clear()
        pieces += 1
        if rest is None:
            counts = node.counters(), node.no_csum, node.over_mtu, node.fragments
            return out, counts, (encoder.rows, encoder.bytes), pieces
        assert rest >= at and pieces < 5 * len(packets)
        at = rest


@pytest.mark.parametrize("buffer_len", [1, 600, 1 << 16])
@pytest.mark.parametrize("odd", [0, 0.05, 0.5, 1])
@pytest.mark.parametrize(
    "options",
    [{}, {"dscp": 10}, {"df": True}, {"sport": 777}, {"mtu": 1400, "mtu_policy": "fragment"}, {"udp_csum": "on"}],
)
@pytest.mark.parametrize("ips", [V4, V6], ids=["ipv4", "ipv6"])
def test_as_in_two_steps(ips: dict[str, str], options: dict[str, Any], odd: float, buffer_len: int) -> None:
    packets = mixed(len(options) * 10 + int(odd * 4), 200, odd)
    spec = TunnelSpec(vni=42, **ips, **options)
    one = written(packets, spec, "pcap", buffer_len, direct=True)
    two = written(packets, spec, "pcap", buffer_len, direct=False)
    assert one[:3] == two[:3]
    assert len(one[0]) > 24


@pytest.mark.parametrize("format", ["pcap", "nsecpcap", "pcapng"])
@pytest.mark.parametrize("file", [{}, {"big": True}, {"magic": MAGIC_NSEC}], ids=["usec", "big", "nsec"])
def test_formats(format: str, file: dict[str, Any]) -> None:
    packets = mixed(7, 100, 0.2)
    spec = TunnelSpec(vni=42, **V4)
    assert written(packets, spec, format, 5000, direct=True, **file)[:3] == written(
        packets, spec, format, 5000, direct=False, **file
    )[:3]


def test_in_pieces_it_takes_more_calls() -> None:
    packets = mixed(1, 300, 0)
    small = written(packets, TunnelSpec(vni=42, **V4), "pcap", 2000, direct=True)
    large = written(packets, TunnelSpec(vni=42, **V4), "pcap", 1 << 20, direct=True)
    assert small[:3] == large[:3]
    assert small[3] > 20 and large[3] == 1


def test_other_link_types() -> None:
    batch = batch_from(pcap(mixed(2, 50, 0), link=101))
    node = compile_tunnel(TunnelSpec(vni=1, **V4))
    assert isinstance(node, Encap)
    encoder = CaptureEncoder("pcap")
    encoder.begin([1])
    assert encap_encode(node, encoder, batch) is None
    assert node.count(Verdict.DROP_NOT_ETHERNET) == 50 and node.count(Verdict.PASS) == encoder.rows == 0
    assert encap_encode(node, encoder, PacketBatch.from_frames([])) is None
    assert node.counters() == {Verdict.DROP_NOT_ETHERNET: 50} and node.count(255) == 0


def test_rows_dropped_before() -> None:
    """Behind another node: what it dropped stays dropped, and what it shortened is put in as it is."""
    data = (FIXTURES / "edges.pcap").read_bytes()
    results = []
    for direct in (True, False):
        batch = batch_from(data)
        Decap([4789]).process(batch)
        passed = batch.counts()[Verdict.PASS]
        assert 0 < passed < len(batch)
        node = compile_tunnel(TunnelSpec(vni=1, **V4))
        assert isinstance(node, Encap)
        encoder = CaptureEncoder("pcap")
        encoder.begin([1])
        if not direct:
            node.process(batch)
        rest = encap_encode(node, encoder, batch) if direct else encoder.encode(batch)
        assert rest is None and encoder.rows == passed
        results.append((bytes(encoder.pending()), node.counters()))
    assert results[0] == results[1]
