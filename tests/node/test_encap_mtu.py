"""Putting VXLAN on under an MTU: warned about, dropped, fragmented."""

from __future__ import annotations

import random
import struct
from io import BytesIO
from typing import Any

import pytest
from scapy.layers.inet import IP, defrag
from scapy.layers.inet6 import IPv6, defragment6
from scapy.layers.l2 import Ether

from tests.node.test_encap import PASS, V4, put, underlay
from tests.support import (
    Packet,
    assert_adds_up,
    batch_from,
    csum,
    frames_of,
    ours_read,
    pcap,
)
from vxlanfast import TunnelSpec, decap_file, encap_file
from vxlanfast._ext.node.reassemble import Reassemble

# --- MTU ------------------------------------------------------------------------------------------------


def with_policy(
    policy: str, frames: list[bytes], ips: dict[str, str], mtu: int, **spec: Any
) -> tuple[Any, list[Packet]]:
    out = BytesIO()
    tunnel = TunnelSpec(vni=42, mtu=mtu, mtu_policy=policy, **ips, **spec)
    stats = encap_file(BytesIO(pcap(frames)), out, tunnel)
    assert_adds_up(stats)
    packets, fault = ours_read(out.getvalue())
    assert fault is None
    assert len(packets) == stats.written
    return stats, packets


def header_len(ips: dict[str, str]) -> int:
    return 36 if ips is V4 else 56


@underlay
def test_mtu_warn_and_drop(ips: dict[str, str]) -> None:
    room = 1500 - header_len(ips)
    frames = [bytes(size) for size in (60, room, room + 1, 9000)]
    stats, packets = with_policy("warn", frames, ips, 1500)
    assert [len(p.data) - header_len(ips) - 14 for p in packets] == [60, room, room + 1, 9000]
    assert stats.details["over_mtu"] == 2
    assert "2 packets are over the MTU of 1500 bytes with their new headers" in stats.warnings
    stats, packets = with_policy("drop", frames, ips, 1500)
    assert [len(p.data) - header_len(ips) - 14 for p in packets] == [60, room]
    assert stats.drops == {"DROP_MTU": 2}


@underlay
@pytest.mark.parametrize("mtu", [1280, 1281, 1287, 1288, 1500, 9000])
@pytest.mark.parametrize("udp", ["on", "off"])
def test_fragments(ips: dict[str, str], mtu: int, udp: str) -> None:
    """No fragment over the MTU, each in its place, every checksum right, and the whole again by scapy and by us."""
    rng = random.Random(mtu)
    room = mtu - header_len(ips)
    sizes = [60, room, room + 1, room + 7, room + 8, room + 9, 2 * room, 4000, 9216, 65000, 14]
    frames = [rng.randbytes(size) for size in sizes]
    stats, packets = with_policy("fragment", frames, ips, mtu, udp_csum=udp)
    assert all(len(p.data) <= mtu + 14 for p in packets)
    assert stats.details["over_mtu"] == sum(size > room for size in sizes)
    assert stats.passed == len(frames)
    assert stats.details["fragments"] == stats.written - sum(size <= room for size in sizes)
    whole = [bytes(p) for p in put(frames, udp_csum=udp, **ips)]
    # By us …
    batch = batch_from(pcap(packets))
    Reassemble().process(batch)
    again = [bytes(batch.frame(i)) for i in range(len(batch)) if batch.verdict[i] == PASS]
    assert again == whole
    # … and by scapy, which wants IPv4's last fragment to come last.
    shuffled = packets[:]
    rng.shuffle(shuffled)
    if ips is V4:
        whole_ones, joined_ones, missing = defrag([Ether(p.data)[IP] for p in packets])
        assert list(missing) == []
        assert all(csum(p.data[14:34]) == 0 for p in packets)
        joined = {bytes(p)[20:] for p in [*whole_ones, *joined_ones]}
        assert joined == {frame[34:] for frame in whole}
    else:
        by_id: dict[Any, list[Any]] = {}
        plain = set()
        for p in shuffled:
            packet = Ether(p.data)[IPv6]
            if packet.nh == 44:
                by_id.setdefault(packet.payload.id, []).append(packet)
            else:
                plain.add(bytes(packet)[40:])
        assert len(by_id) == sum(size > room for size in sizes)
        joined = {bytes(defragment6(pieces))[40:] for pieces in by_id.values()}
        assert joined | plain == {frame[54:] for frame in whole}


@underlay
def test_fragments_that_overlap_nothing_and_leave_in_order(ips: dict[str, str]) -> None:
    """Offsets follow each other, in multiples of 8; identifications differ from packet to packet."""
    frames = [bytes([n]) * 5000 for n in range(20)]
    _, packets = with_policy("fragment", frames, ips, 1500)
    seen: dict[int, int] = {}
    for p in packets:
        packet = Ether(p.data)
        if ips is V4:
            ident, offset, more, size = (
                packet[IP].id,
                packet[IP].frag * 8,
                packet[IP].flags.MF,
                packet[IP].len - 20,
            )
        else:
            header = p.data[54:62]
            assert header[:2] == b"\x11\0"
            (word, ident) = struct.unpack(">HI", header[2:])
            offset, more, size = word & 0xFFF8, word & 1, packet[IPv6].plen - 8
        assert offset == seen.get(ident, 0)
        assert size % 8 == 0 or not more
        seen[ident] = offset + size
    assert set(seen.values()) == {16 + 5000}
    assert len(seen) == 20


@underlay
def test_cut_frames_are_fragmented_by_their_wire_length(ips: dict[str, str]) -> None:
    """The bytes that are there go into the first fragments; the rest have lengths and no bytes."""
    data = pcap([Packet(0, b"z" * 2000, 5000)])
    out = BytesIO()
    encap_file(BytesIO(data), out, TunnelSpec(vni=1, mtu=1500, mtu_policy="fragment", **ips))
    packets, fault = ours_read(out.getvalue())
    assert fault is None
    assert sum(p.data.count(b"z") for p in packets) == 2000
    head = 34 if ips is V4 else 62
    assert sum(p.wire_len - head for p in packets) == 16 + 5000
    assert all(len(p.data) <= p.wire_len <= 1514 for p in packets)


def test_fragments_beyond_a_batch() -> None:
    """More fragments than rows there were, in the leaving order, over many batches and threads."""
    frames = [struct.pack(">I", n) + bytes(3000) for n in range(3000)]
    results = set()
    for threads in (1, 2):
        out = BytesIO()
        stats = encap_file(
            BytesIO(pcap(frames)),
            out,
            TunnelSpec(vni=1, mtu=576, mtu_policy="fragment", **V4),
            threads=threads,
        )
        assert_adds_up(stats)
        results.add(out.getvalue())
    assert len(results) == 1
    inner = BytesIO()
    decap_file(BytesIO(results.pop()), inner, reassemble=True)
    assert frames_of(inner.getvalue()) == frames
