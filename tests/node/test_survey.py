"""Totals per tunnel, counted a second time by scapy; and what happens where there are more tunnels than room."""

from __future__ import annotations

import random
import struct
from collections import Counter

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

from tests import make_fixtures as fx
from tests.support import Packet, batch_from, capture_path, captures, every_split, ours_read, pcap
from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.node.decap import Decap
from vxlanfast._ext.node.survey import Survey
from vxlanfast._ext.table.tunnels import TunnelTable
from vxlanfast._ext.verdict import Verdict
from vxlanfast.addr import format_ip


def survey_of(data: bytes, **how: object) -> Survey:
    batch = batch_from(data)
    Decap([4789, 8472]).process(batch)
    node = Survey(**how)  # type: ignore[arg-type]
    assert node.process(batch) is batch
    return node


def frames_of_tunnels(count: int, seed: int) -> list[Packet]:
    """Packets of a few VNIs between a few VTEPs, sizes and times at random, some cut, some with odd headers."""
    rng = random.Random(seed)
    out = []
    for _ in range(count):
        is_v6 = rng.random() < 0.3
        a, b = rng.sample(range(1, 5), 2)
        ip = (
            IPv6(src=f"2001:db8::{a}", dst=f"2001:db8::{b}")
            if is_v6
            else IP(src=f"192.0.2.{a}", dst=f"192.0.2.{b}")
        )
        csum = rng.choice((None, 0))
        inner = fx.inner_frame(rng.randbytes(rng.randrange(200)))
        frame = bytes(fx.eth() / ip / fx.vxlan(rng.choice((7, 8, 0xFFFFFF)), csum=csum) / inner)
        at = len(frame) - len(bytes(inner)) - 8
        odd = rng.choice((None, None, None, b"\x88\x00\x12\x34", b"\x0c\x00\x00\x03", b"\x18\x00\x00\x00"))
        if odd:
            frame = frame[:at] + odd + frame[at + 4 :]
        cut = rng.choice((len(frame), len(frame), 120))
        out.append(Packet(rng.randrange(2**61), frame[:cut], len(frame)))
    return out


def test_counts_are_scapys() -> None:
    packets = frames_of_tunnels(500, 1)
    expected: dict[tuple[object, ...], Counter[str]] = {}
    times: dict[tuple[object, ...], list[int]] = {}
    for packet in packets:
        layers = Ether(packet.data)
        vxlan = layers[VXLAN]
        key = (vxlan.vni, layers.payload.src, layers.payload.dst)
        counter = expected.setdefault(key, Counter())
        header = bytes(vxlan.original[:8])
        front = len(packet.data) - len(vxlan.original) + 8
        counter.update(
            packets=1,
            bytes=packet.wire_len - front,
            truncated=packet.wire_len > len(packet.data),
            csummed=bool(layers[UDP].chksum),
            gbp=header[0] == 0x88,
            gpe=header[0] == 0x0C,
            reserved=header[0] == 0x18,
        )
        times.setdefault(key, []).append(packet.ts_ns // 1000 * 1000)
    rows = survey_of(pcap(packets)).table.rows()
    assert [(row["vni"], format_ip(row["src"]), format_ip(row["dst"])) for row in rows] == list(expected)
    for row, (key, counter) in zip(rows, expected.items(), strict=True):
        assert {name: row[name] for name in counter} == dict(counter)
        assert (row["first_ns"], row["last_ns"]) == (min(times[key]), max(times[key]))


@captures("vxlan")
def test_counts_of_others(row: dict[str, str]) -> None:
    """A1: frames per VNI."""
    import ast

    packets, _ = ours_read(capture_path("vxlan", row["file"]).read_bytes())
    node = Survey()
    for link in {packet.link for packet in packets}:
        batch = PacketBatch.from_frames([p.data for p in packets if p.link == link], link=link)
        Decap([int(port) for port in row["ports"].split(",")]).process(batch)
        node.process(batch)
    per_vni: Counter[str] = Counter()
    for entry in node.table.rows():
        per_vni[str(entry["vni"])] += entry["packets"]
    assert per_vni == ast.literal_eval(row["per_vni"])


def test_only_what_was_decapsulated_is_counted() -> None:
    others = [case.frame for case in fx.other_cases() if case.link == 1]
    batch = PacketBatch.from_frames(others + [fx.outer_cases()[0].frame] * 2)
    Decap([4789]).process(batch)
    batch.verdict[len(batch) - 1] = Verdict.DROP_FILTER_INNER
    node = Survey()
    node.process(batch)
    (row,) = node.table.rows()
    assert row["packets"] == 1
    node.process(PacketBatch.from_frames([bytes(60)]))  # never went through decap
    assert len(node.table) == 1


def test_by_interface_and_numbers() -> None:
    frame = fx.outer_cases()[0].frame
    batch = PacketBatch.from_frames([frame] * 2)
    other = PacketBatch.from_frames([frame] * 2, port_in=3)
    node = Survey(by_port=True)
    for each in (batch, other):
        Decap([4789]).process(each)
        node.process(each, number=True)
    assert [row["port_in"] for row in node.table.rows()] == [0, 3]
    assert (list(batch.port_out), list(other.port_out)) == ([1, 1], [2, 2])
    assert node.table.rows(1)[0]["packets"] == 2
    node.table.clear()
    assert len(node.table) == 0
    node.process(other)
    assert len(node.table) == 1


def many(count: int) -> bytes:
    """A packet of each of ``count`` VNIs."""
    frame = bytearray(fx.outer_cases()[0].frame)
    out = []
    for vni in range(count):
        frame[46:49] = struct.pack(">I", vni)[1:]
        out.append(bytes(frame))
    return pcap(out)


@pytest.mark.parametrize("limit", [1, 255, 256, 257, 1000])
def test_more_tunnels_than_the_limit(limit: int) -> None:
    """What does not fit is counted in one entry without addresses, and nothing is lost."""
    data = many(1001)
    node = survey_of(data, table=TunnelTable(limit=limit))
    rows = node.table.rows()
    assert len(rows) == limit + 1
    assert [row["vni"] for row in rows[:limit]] == list(range(limit))
    assert (rows[-1]["vni"], rows[-1]["src"], rows[-1]["dst"]) == (None, None, None)
    assert rows[-1]["packets"] == 1001 - limit
    assert sum(row["packets"] for row in rows) == 1001


def test_the_table_grows_and_finds() -> None:
    """Five thousand tunnels, met twice and in another order, whatever the hash's seed."""
    packets, _ = ours_read(many(5000))
    rng = random.Random(4)
    shuffled = rng.sample(packets, len(packets))
    for seed in (0, 1, 2**64 - 1):
        node = Survey(TunnelTable(seed=seed))
        for part in (packets, shuffled):
            batch = PacketBatch.from_frames([p.data for p in part])
            Decap([4789]).process(batch)
            node.process(batch, number=True)
        assert len(node.table) == 5000
        assert all(row["packets"] == 2 for row in node.table.rows())
        assert list(batch.port_out) == [vni + 1 for vni in batch.vni]


def test_however_it_is_split_into_batches() -> None:
    packets = frames_of_tunnels(256, 3)
    expected = None
    for split in every_split(256):
        node, at = Survey(), 0
        for n in split:
            batch = batch_from(pcap(packets[at : at + n]))
            Decap([4789]).process(batch)
            node.process(batch)
            at += n
        rows = node.table.rows()
        assert expected is None or rows == expected
        expected = rows


def test_border() -> None:
    with pytest.raises(TypeError):
        Survey().process(None)  # type: ignore[arg-type]
    table = TunnelTable()
    assert Survey(table).table is table
    assert table.rows() == []
