"""Taking VXLAN off: other people's captures, every outer format beside scapy, every length, every bit."""

from __future__ import annotations

import ast
import random
from io import BytesIO
from typing import Any

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import CookedLinux, CookedLinuxV2, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from tests import make_fixtures as fx
from tests.make_fixtures import Case
from tests.support import (
    FIXTURES,
    Packet,
    assert_adds_up,
    batch_from,
    capture_path,
    captures,
    every_split,
    frames_of,
    in_pieces,
    ours_read,
    packets_of,
    pcap,
    sha,
    table,
)
from vxlanfast import decap_file
from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.io.reader import CaptureDecoder
from vxlanfast._ext.node.decap import Decap
from vxlanfast._ext.verdict import Verdict

PORTS = (4789, 8472)
SOME = [*fx.outer_cases(), *fx.edge_cases()]
PASS = Verdict.PASS


def batch_of(cases: list[Case]) -> PacketBatch:
    """The cases through a capture file, so that cut frames know their length on the wire."""
    (link,) = {case.link for case in cases}
    return batch_from(pcap([case.packet() for case in cases], link=link))


def one(case: Case, **rules: Any) -> tuple[Verdict, bytes, int, int]:
    """Verdict, frame, wire length and VNI of a single packet."""
    batch = batch_of([case])
    Decap(rules.pop("ports", PORTS), **rules).process(batch)
    return Verdict(batch.verdict[0]), bytes(batch.frame(0)), batch.wire_lengths[0], batch.vni[0]


# --- other people's captures ----------------------------------------------------------------------------


def inner_of(data: bytes, **how: Any) -> list[Packet]:
    out = BytesIO()
    stats = decap_file(BytesIO(data), out, **how)
    assert_adds_up(stats)
    packets, fault = ours_read(out.getvalue())
    assert fault is None
    assert len(packets) == stats.passed == stats.written
    return packets


@captures("vxlan")
def test_captures_of_others(row: dict[str, str]) -> None:
    """A1, A3: SHA-256 of every inner frame, in order, and its VNI; cut or not."""
    path = capture_path("vxlan", row["file"])
    expected = table(path.with_suffix("").with_suffix(".inner.tsv"))
    decoder, batch, readinto = CaptureDecoder(), PacketBatch(), in_pieces(path.read_bytes())
    node = Decap([int(port) for port in row["ports"].split(",")])
    got, number = [], 0
    while decoder.fill(batch, readinto):
        node.process(batch)
        for i in range(len(batch)):
            number += 1
            if batch.verdict[i] == PASS:
                frame = bytes(batch.frame(i))
                cut = batch.wire_lengths[i] > len(frame)
                got.append((number, batch.vni[i], batch.wire_lengths[i], cut, sha(frame)))
    assert number == int(row["packets"])
    assert len(got) == int(row["inner_frames"])
    for ours, theirs in zip(got, expected, strict=True):
        length = ours[2] if theirs["cut"] == "0" else int(theirs["inner_len"])
        assert ours[:2] == (int(theirs["frame"]), int(theirs["vni"]))
        assert (length, ours[4]) == (int(theirs["inner_len"]), theirs["sha256"])
        assert ours[3] == (theirs["cut"] != "0")
    per_vni: dict[str, int] = {}
    for _, vni, *_ in got:
        per_vni[str(vni)] = per_vni.get(str(vni), 0) + 1
    assert per_vni == ast.literal_eval(row["per_vni"])
    assert node.counters().get(PASS, 0) == len(got)


@captures("vxlan")
def test_captures_of_others_reassembled(row: dict[str, str]) -> None:
    path = capture_path("vxlan", row["file"])
    ports = [int(port) for port in row["ports"].split(",")]
    got = [sha(p.data) for p in inner_of(path.read_bytes(), ports=ports, reassemble=True)]
    listed = path.with_suffix("").with_suffix(".reasm.inner.sha256")
    if listed.exists():
        assert got == listed.read_text().split()
    else:
        assert row["reassembled"] == "0"
        assert got == [line["sha256"] for line in table(path.with_suffix("").with_suffix(".inner.tsv"))]
    assert len(got) == int(row["inner_frames"]) + int(row["reassembled"])


@captures("other-tunnels")
def test_other_tunnels_hold_none(row: dict[str, str]) -> None:
    """A2."""
    data = capture_path("other-tunnels", row["file"]).read_bytes()
    for reassemble in (False, True):
        assert inner_of(data, reassemble=reassemble) == []


def test_captures_of_others_at_other_ports() -> None:
    """A3: nothing by default where the port is another, everything when it is named."""
    data = capture_path("vxlan", "nDPI__pcap__vxlan.pcap").read_bytes()
    whole = inner_of(data)
    assert len(whole) == 127
    assert inner_of(data, ports=[20000]) == []
    moved = data.replace(bytes.fromhex("12b5"), bytes.fromhex("4e20"))
    assert [p.data for p in inner_of(moved, ports=[4789, 20000])] == [
        p.data.replace(bytes.fromhex("12b5"), bytes.fromhex("4e20")) for p in whole
    ]
    assert inner_of(moved) == []


# --- every outer format ---------------------------------------------------------------------------------

SCAPY_OF_LINK = {1: Ether, 113: CookedLinux, 276: CookedLinuxV2}


def scapy_inner(case: Case) -> bytes | None:
    """What scapy finds in the packet, dissecting from its bytes; None where it does not know the format."""
    data = case.frame
    if case.link in (0, 108):
        data = data[4:]
    layer = SCAPY_OF_LINK.get(case.link) or (IP if data[0] >> 4 == 4 else IPv6)
    packet = layer(data)
    if VXLAN not in packet:
        return None
    return bytes(packet[VXLAN].original[8:] if packet[VXLAN].original else packet[VXLAN].payload)


@pytest.mark.parametrize("case", fx.outer_cases(), ids=lambda case: case.name)
def test_outer_formats(case: Case) -> None:
    verdict, frame, wire_len, vni = one(case)
    assert (verdict, vni) == (PASS, case.vni)
    assert frame == case.inner
    assert wire_len == len(frame)
    # Tags of 0x9100 and 0x9200 and the authentication header are more than scapy dissects here.
    theirs = scapy_inner(case)
    assert theirs == frame or (theirs is None and case.name in ("qinq-9100", "qinq-9200", "ipv6-ah"))


@pytest.mark.parametrize("case", fx.outer_cases(), ids=lambda case: case.name)
def test_outer_formats_need_their_port(case: Case) -> None:
    assert one(case, ports=[4790])[0] == Verdict.PUNT_PORT
    assert one(case, ports=[4790, 8472 if case.name == "port-8472" else 4789])[0] == PASS


@pytest.mark.parametrize("case", fx.edge_cases(), ids=lambda case: case.name)
def test_edges(case: Case) -> None:
    """Padding is not inner; a frame without lengths runs to its end; a cut frame keeps its length on the wire."""
    verdict, frame, wire_len, _ = one(case)
    if case.inner is None:
        assert verdict == Verdict.DROP_TRUNCATED
        return
    assert verdict == PASS
    assert frame == case.inner
    if case.name.startswith("snaplen-") and "padding" not in case.name:
        assert wire_len == (case.wire_len or 0) - 50
    else:
        assert wire_len == len(frame)


@pytest.mark.parametrize("case", fx.other_cases(), ids=lambda case: case.name)
def test_others_say_why(case: Case) -> None:
    verdict, frame, _, _ = one(case)
    assert verdict.name == case.name
    assert frame == case.frame


def test_fixtures_hold_the_cases() -> None:
    """The captures in fixtures/ and the functions that make them say the same."""
    for name, link in (
        ("ethernet", 1),
        ("raw", 101),
        ("sll", 113),
        ("sll2", 276),
        ("null", 0),
        ("loop", 108),
    ):
        got = inner_of((FIXTURES / f"outer-{name}.pcap").read_bytes())
        assert [p.data for p in got] == [case.inner for case in fx.outer_cases() if case.link == link]
    assert [p.data for p in inner_of((FIXTURES / "edges.pcap").read_bytes())] == [
        case.inner for case in fx.edge_cases() if case.inner is not None
    ]
    assert inner_of((FIXTURES / "others.pcap").read_bytes()) == []


def test_extension_headers_end_somewhere() -> None:
    """Thirty-two headers are looked through, no more; one cut or of nonsense length is no crash and no VXLAN."""
    udp = bytes(fx.vxlan() / fx.inner_frame())

    def packet(headers: int) -> Case:
        chain = b"".join(bytes([60 if n < headers - 1 else 17, 0, 1, 4, 0, 0, 0, 0]) for n in range(headers))
        return Case("", bytes(fx.eth() / fx.ip6(nh=60, plen=len(chain) + len(udp)) / Raw(chain + udp)), None)

    assert one(packet(32))[0] == PASS
    assert one(packet(33))[0] == Verdict.DROP_IP_HEADER
    two_fragments = bytes([44, 0, 0, 0, 0, 0, 0, 1]) + bytes([17, 0, 0, 0, 0, 0, 0, 1])
    case = Case(
        "", bytes(fx.eth() / fx.ip6(nh=44, plen=len(two_fragments + udp)) / Raw(two_fragments + udp)), None
    )
    assert one(case)[0] == Verdict.DROP_IP_HEADER
    long = bytes([17, 255]) + bytes(6)
    case = Case("", bytes(fx.eth() / fx.ip6(nh=60, plen=len(long + udp)) / Raw(long + udp)), None)
    assert one(case)[0] == Verdict.DROP_IP_LEN


def test_tags_end_somewhere() -> None:
    """A frame that is nothing but tags; and headers further in than a column's 16 bits can say."""
    frame = bytes(fx.eth())[:12]
    body = b"\x08\0" + bytes(fx.ip4() / fx.vxlan() / fx.inner_frame())
    assert one(Case("", frame + b"\x81\0\0\1" * 1000, None))[0] == Verdict.DROP_TRUNCATED
    assert one(Case("", frame + b"\x81\0\0\1" * 1000 + body, None))[0] == PASS
    assert one(Case("", frame + b"\x81\0\0\1" * 16370 + body, None))[0] == PASS
    assert one(Case("", frame + b"\x81\0\0\1" * 17000 + body, None))[0] == Verdict.DROP_IP_HEADER


# --- rules ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", fx.strict_cases(), ids=lambda case: case.name)
def test_strict(case: Case) -> None:
    """Reserved bits, each alone, and outer checksums: ignored by default (RFC 7348 §5), drops when asked."""
    # P set and a next protocol in place is GPE; one bit alone never is.
    assert one(case)[:2] == (PASS, case.inner)
    assert one(case, strict=True)[0].name == case.name.split()[0]


def test_strict_counts() -> None:
    stats = decap_file(FIXTURES / "strict.pcap", BytesIO(), strict=True)
    assert_adds_up(stats)
    assert stats.drops == {
        "DROP_RESERVED": 39, "DROP_IP_CSUM": 1, "DROP_UDP_CSUM": 2, "DROP_UDP_NO_CSUM": 1
    }  # fmt: skip
    assert stats.strict_drops == 43
    assert stats.passed == 4
    assert stats.others == 0


def test_all_ones_is_the_checksum_zero() -> None:
    """A computed 0 is sent as 0xffff (RFC 768), which verifies; and nothing else of those sixteen bits does."""
    frame = bytearray(bytes(fx.eth() / fx.ip4() / fx.vxlan(csum=None) / fx.inner_frame(b"\0\0")))
    want = int.from_bytes(frame[40:42], "big")
    # Move the sum by what the checksum is worth, so that it comes to zero.
    frame[-2:] = want.to_bytes(2, "big") if len(frame) % 2 == 0 else want.to_bytes(2, "big")[::-1]
    frame[40:42] = b"\xff\xff"
    assert one(Case("", bytes(frame), None), strict=True)[0] == PASS
    for value in (1, 0x8000, 0xFFFE):
        frame[40:42] = value.to_bytes(2, "big")
        assert one(Case("", bytes(frame), None), strict=True)[0] == Verdict.DROP_UDP_CSUM


@pytest.mark.parametrize(
    ("flags", "next_protocol", "verdict"),
    [
        (0x0C, 3, PASS),  # GPE: Ethernet
        (0x0C, 1, Verdict.PUNT_GPE),
        (0x0C, 2, Verdict.PUNT_GPE),
        (0x0C, 4, Verdict.PUNT_GPE),
        (0x0D, 1, Verdict.PUNT_GPE),  # O: OAM
        (0x0C, 0, PASS),  # P without a protocol is noise in a reserved bit
        (0x08, 4, PASS),
        (0x04, 3, Verdict.DROP_NO_VNI),
    ],
)
def test_gpe(flags: int, next_protocol: int, verdict: Verdict) -> None:
    frame = bytearray(fx.outer_cases()[0].frame)
    frame[42], frame[45] = flags, next_protocol
    assert one(Case("", bytes(frame), None))[0] == verdict


def test_gbp_is_not_mangled() -> None:
    """Group policy: the frame comes out, whatever the policy; and the VNI is the VNI."""
    frame = bytearray(fx.outer_cases()[0].frame)
    frame[42:46] = bytes.fromhex("88480064")
    assert one(Case("", bytes(frame), None))[::3] == (PASS, 42)
    assert one(Case("", bytes(frame), None), strict=True)[0] == Verdict.DROP_RESERVED


@pytest.mark.parametrize("levels", [1, 2, 3, 99, 100, 101, 255, 0])
def test_levels(levels: int) -> None:
    """B7: a nest 100 deep; 0 is all. What is deeper is payload."""
    frames = fx.nested(100)
    verdict, frame, wire_len, vni = one(Case("", frames[0], None), levels=levels)
    depth = min(levels or 100, 100)
    assert verdict == PASS
    assert frame == frames[depth]
    assert wire_len == len(frame)
    assert vni == 100 - depth


def test_a_thousand_levels_are_no_recursion() -> None:
    frames = fx.nested(1300)
    assert one(Case("", frames[0], None), levels=0)[:2] == (PASS, frames[-1])


def test_a_broken_level_is_the_result() -> None:
    """Where the second level is not whole VXLAN the first one's frame is what comes out."""
    inside = bytearray(fx.nested(1)[0])
    inside[42] = 0
    outer = bytes(fx.eth() / fx.ip4() / fx.vxlan(9) / Raw(bytes(inside)))
    assert one(Case("", outer, None), levels=0) == (PASS, bytes(inside), len(inside), 9)


RANGES = [(0, 0), (5, 9), (11, 11), (100, 4096), (0xFFFFFF, 0xFFFFFF)]


def test_vni_ranges() -> None:
    wanted = {vni for first, last in RANGES for vni in range(first, last + 1)}
    edges = sorted({max(0, min(0xFFFFFF, v + d)) for r in RANGES for v in r for d in (-1, 0, 1)})
    frame = bytearray(fx.outer_cases()[0].frame)
    node = Decap(PORTS, vnis=RANGES)
    for link, prefix in ((1, b""), (101, None)):
        for vni in edges:
            frame[46:49] = vni.to_bytes(3, "big")
            data = bytes(frame) if prefix is not None else bytes(frame[14:])
            batch = PacketBatch.from_frames([data], link=link)
            node.process(batch)
            assert batch.verdict[0] == (PASS if vni in wanted else Verdict.DROP_FILTER_VNI)
    # The VNI that counts is the outermost one.
    nested = Case("", fx.nested(2)[0], None)
    assert one(nested, vnis=[(1, 1)], levels=0)[0] == PASS
    assert one(nested, vnis=[(0, 0)], levels=0)[0] == Verdict.DROP_FILTER_VNI


def test_vnis_against_a_set() -> None:
    rng = random.Random(24)
    for _ in range(20):
        numbers = sorted(rng.sample(range(400), rng.randrange(2, 60) // 2 * 2))
        ranges = list(zip(numbers[::2], numbers[1::2], strict=True))
        frames = []
        for vni in range(400):
            frame = bytearray(fx.outer_cases()[0].frame)
            frame[46:49] = vni.to_bytes(3, "big")
            frames.append(bytes(frame))
        batch = PacketBatch.from_frames(frames)
        Decap(PORTS, vnis=rng.sample(ranges, len(ranges))).process(batch)
        wanted = [any(first <= vni <= last for first, last in ranges) for vni in range(400)]
        assert [v == PASS for v in batch.verdict] == wanted


def test_peek_finds_and_leaves() -> None:
    cases = [case for case in fx.outer_cases() if case.link == 1]
    batch = batch_of(cases)
    Decap(PORTS, peek=True, levels=5).process(batch)
    assert list(batch.verdict) == [PASS] * len(cases)
    assert list(batch.vni) == [case.vni for case in cases]
    assert [p.data for p in packets_of(batch)] == [case.frame for case in cases]


def test_border() -> None:
    for ports in ([0], [65536], [-1]):
        with pytest.raises(ValueError, match="1 to 65535"):
            Decap(ports)
    for vnis in ([(5, 4)], [(0, 1 << 24)], [(-1, 3)]):
        with pytest.raises(ValueError, match="0 to 16777215"):
            Decap([1], vnis=vnis)
    with pytest.raises(ValueError, match="overlaps"):
        Decap([1], vnis=[(1, 5), (5, 6)])
    with pytest.raises(TypeError):
        Decap([1]).process(None)  # type: ignore[arg-type]
    node = Decap([1, 65535])
    assert node.counters() == {}
    assert node.process(PacketBatch.from_frames([])) is not None
    assert node.find(b"")[0] == Verdict.DROP_TRUNCATED


def test_rows_decided_before_stay() -> None:
    batch = batch_of([fx.outer_cases()[0]] * 3)
    batch.verdict[1] = Verdict.DROP_FILTER_OUTER
    node = Decap(PORTS)
    node.process(batch)
    assert list(batch.verdict) == [PASS, Verdict.DROP_FILTER_OUTER, PASS]
    assert bytes(batch.frame(1)) == fx.outer_cases()[0].frame
    assert node.counters() == {PASS: 2}


# --- batches --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", [{}, {"levels": 0}, {"strict": True}, {"vnis": [(42, 42)]}])
def test_however_it_is_split_into_batches(rules: dict[str, Any]) -> None:
    """Rows, order and counters are those of one batch."""
    rng = random.Random(5)
    cases = [case for case in [*SOME, *fx.other_cases(), *fx.strict_cases()] if case.link == 1]
    frames = [rng.choice(cases).frame for _ in range(256)]
    expected = None
    for split in every_split(256):
        node = Decap(PORTS, **rules)
        rows, at = [], 0
        for n in split:
            batch = PacketBatch.from_frames(frames[at : at + n])
            assert node.process(batch) is batch
            rows += [
                (v, f.data, f.wire_len, vni)
                for v, f, vni in zip(batch.verdict, packets_of(batch), batch.vni, strict=True)
            ]
            at += n
        result = (rows, node.counters())
        assert expected is None or result == expected
        expected = result
    assert sum(node.counters().values()) == 256


def test_file_is_split_into_batches_anywhere() -> None:
    """More rows than a batch has, and rows at its bounds."""
    frame = fx.outer_cases()[0].frame
    frames = [frame[:-4] + n.to_bytes(4, "big") for n in range(5000)]
    got = inner_of(pcap(frames))
    assert [p.data for p in got] == [f[50:] for f in frames]
    assert frames_of(pcap(frames)) == frames
