"""Capture files out, read back by scapy, tshark, libpcap and ourselves; conversions; what pcapng carries through."""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import make_fixtures as fx
from tests.io.test_reader import FLAVOURS, PACKETS
from tests.support import (
    FIXTURES,
    MAGIC_NSEC,
    Block,
    Packet,
    Pcapng,
    assert_adds_up,
    blocks,
    in_pieces,
    libpcap_read,
    needs_tshark,
    ours_read,
    pcap,
    tshark,
)
from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.io.reader import CaptureDecoder
from vxlanfast._ext.io.writer import CaptureEncoder
from vxlanfast.files import decap_file, restore_file
from vxlanfast.split import split_file

SHB, IDB, PB, SPB, NRB, ISB, EPB, DSB = 0x0A0D0D0A, 1, 2, 3, 4, 5, 6, 10
FORMATS = ("pcap", "nsecpcap", "pcapng")


def encoded(encoder: CaptureEncoder, batch: PacketBatch, **how: bool) -> bytes:
    """Everything a batch comes to, in as many calls as the buffer wants."""
    out, start = b"", 0
    while (start := encoder.encode(batch, start, **how)) is not None:
        out += bytes(encoder.pending())
        encoder.clear()
    out += bytes(encoder.pending())
    encoder.clear()
    return out


def batch_of(packets: list[Packet]) -> PacketBatch:
    return PacketBatch.from_frames(
        [p.data for p in packets], ts_ns=[p.ts_ns for p in packets], link=packets[0].link
    )


WHOLE = [packet._replace(wire_len=len(packet.data)) for packet in PACKETS]


def in_microseconds(packets: list[Packet]) -> list[Packet]:
    return [packet._replace(ts_ns=packet.ts_ns // 1000 * 1000) for packet in packets]


# --- batches to files -----------------------------------------------------------------------------------


@pytest.fixture(
    params=list(itertools.product(FORMATS, (False, True))), ids=lambda p: f"{p[0]}-{'be' if p[1] else 'le'}"
)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """A file of WHOLE in each format and byte order."""
    format, big = request.param
    encoder = CaptureEncoder(format, big=big)
    encoder.begin([1], snaplen=65535, tsresol=6 if format == "pcap" else 9)
    path = tmp_path / f"out.{format}"
    path.write_bytes(encoded(encoder, batch_of(WHOLE)))
    assert (encoder.rows, encoder.bytes, encoder.refused) == (5, sum(len(p.data) for p in WHOLE), 0)
    return format, path


def test_read_back_by_ourselves(written: tuple[str, Path]) -> None:
    format, path = written
    expected = in_microseconds(WHOLE) if format == "pcap" else WHOLE
    assert ours_read(path.read_bytes()) == (expected, None)


def test_read_back_by_libpcap(written: tuple[str, Path]) -> None:
    format, path = written
    assert libpcap_read(path) == (in_microseconds(WHOLE) if format == "pcap" else WHOLE)


def test_read_back_by_scapy(written: tuple[str, Path]) -> None:
    from scapy.utils import RawPcapNgReader, RawPcapReader

    format, path = written
    expected = in_microseconds(WHOLE) if format == "pcap" else WHOLE
    reader = RawPcapNgReader(str(path)) if format == "pcapng" else RawPcapReader(str(path))
    with reader:
        got = list(reader)
    assert [data for data, _ in got] == [p.data for p in expected]
    assert [meta.wirelen for _, meta in got] == [p.wire_len for p in expected]
    for (_, meta), packet in zip(got, expected, strict=True):
        if format == "pcapng":
            assert (meta.tshigh << 32 | meta.tslow) * 10**9 // meta.tsresol == packet.ts_ns
        else:
            assert meta.sec * 10**9 + meta.usec * (1000 if format == "pcap" else 1) == packet.ts_ns


@needs_tshark
@pytest.mark.tshark
def test_read_back_by_tshark(written: tuple[str, Path]) -> None:
    format, path = written
    expected = in_microseconds(WHOLE) if format == "pcap" else WHOLE
    got = tshark(path, "frame.time_epoch", "frame.cap_len", "frame.len")
    assert [(Packet_ns(t), int(c), int(n)) for t, c, n in got] == [
        (p.ts_ns, len(p.data), p.wire_len) for p in expected
    ]


def Packet_ns(text: str) -> int:
    seconds, _, fraction = text.partition(".")
    return int(seconds) * 10**9 + int(fraction.ljust(9, "0"))


@pytest.mark.parametrize("format", FORMATS)
def test_small_buffers_make_the_same_bytes(format: str) -> None:
    """A row larger than the buffer, and every way the buffer can be full."""
    rng = random.Random(3)
    packets = [Packet(n, rng.randbytes(rng.choice((0, 1, 60, 1500, 9000))), 0) for n in range(200)]
    packets.append(Packet(7, bytes(262144), 0))
    results = set()
    for buffer_len in (1, 100, 2000, 1 << 16, 1 << 20):
        encoder = CaptureEncoder(format, buffer_len=buffer_len)
        encoder.begin([1])
        results.add(encoded(encoder, batch_of(packets)))
    assert len(results) == 1
    got, fault = ours_read(results.pop())
    assert fault is None
    assert [p.data for p in got] == [p.data for p in packets]


def test_growing_and_parts() -> None:
    batch = batch_of(WHOLE)
    encoder = CaptureEncoder("pcap", buffer_len=64)
    encoder.begin([1])
    at: int | None = 0
    while (at := encoder.encode(batch, at)) is not None:
        encoder.grow()
    whole = bytes(encoder.pending())
    parts = CaptureEncoder("pcap")
    parts.begin([1])
    for first, end in ((0, 2), (2, 2), (2, 5)):
        assert parts.encode(batch, first, end) is None
    assert bytes(parts.pending()) == whole
    with pytest.raises(ValueError, match="end = 6 of 5 rows"):
        parts.encode(batch, 0, 6)


def test_head_and_body_are_joined() -> None:
    from vxlanfast import TunnelSpec, encap_batch

    for size in (0, 14, 31, 32, 33, 255, 256, 257, 1500):
        batch = PacketBatch.from_frames([bytes(range(256)) * 6], ts_ns=1)
        batch = PacketBatch.from_frames([(bytes(range(256)) * 6)[: max(size, 14)]])
        encap_batch(batch, TunnelSpec(vni=1, src=fx.A4, dst=fx.B4))
        encoder = CaptureEncoder("pcap")
        encoder.begin([1])
        (packet,), _ = ours_read(encoded(encoder, batch))
        assert packet.data == bytes(batch.frame(0))
        assert packet.wire_len == len(packet.data)


def test_rows_that_do_not_leave() -> None:
    batch = batch_of(WHOLE)
    verdict = batch.verdict
    verdict[1], verdict[3] = 3, 40
    for format in FORMATS:
        for leave, numbers in ((1, (0, 2, 4)), (1 | 1 << 3, (0, 1, 2, 4)), (1 << 40, (3,)), (0, ())):
            encoder = CaptureEncoder(format, leave=leave)
            encoder.begin([1], tsresol=9)
            got, _ = ours_read(encoded(encoder, batch))
            assert [p.data for p in got] == [WHOLE[n].data for n in numbers]
            assert encoder.rows == len(numbers)


@pytest.mark.parametrize("format", FORMATS)
def test_link_types_a_file_cannot_hold(format: str) -> None:
    batch = PacketBatch.from_frames([b"abc"], link=101)
    encoder = CaptureEncoder(format)
    encoder.begin([1])
    assert ours_read(encoded(encoder, batch)) == ([], None)
    assert encoder.refused == 1
    assert batch.counts() == {56: 1}
    encoder = CaptureEncoder(format)
    encoder.begin([1, 101] if format == "pcapng" else [101])
    (packet,), _ = ours_read(encoded(encoder, PacketBatch.from_frames([b"abc"], link=101)))
    assert packet.link == 101
    assert packet.interface == (1 if format == "pcapng" else 0)


def test_border() -> None:
    with pytest.raises(ValueError, match="format 'cap': pcap, nsecpcap or pcapng"):
        CaptureEncoder("cap")
    encoder = CaptureEncoder("pcap")
    encoder.begin([1])
    with pytest.raises(ValueError, match="24 bytes are pending"):
        encoder.rest()
    encoder.clear()
    encoder.rest()
    assert encoder.encode(batch_of(WHOLE)) is None  # and it takes its memory again
    assert len(encoder.pending()) == 5 * 16 + sum(len(p.data) for p in WHOLE)
    assert not encoder.full
    big = CaptureEncoder("pcap")
    big.begin([1])
    big.encode(PacketBatch.from_frames([bytes(200_000)]))
    assert big.full


# --- times ----------------------------------------------------------------------------------------------


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    ts_ns=st.integers(0, 2**62),
    tsresol=st.one_of(st.integers(9, 18), st.integers(0x80 + 30, 0x80 + 50)),
    offset=st.integers(-10, 10),
    big=st.booleans(),
)
def test_fine_clocks_keep_every_nanosecond(ts_ns: int, tsresol: int, offset: int, big: bool) -> None:
    """Wherever a unit is a nanosecond or less, and 64 bits reach that far, what is read is what was written."""
    per_second = 2 ** (tsresol & 0x7F) if tsresol & 0x80 else 10**tsresol
    limit = (2**64 - 1) * 10**9 // per_second
    ts_ns = ts_ns % max(1, min(limit - 20 * 10**9, 2**62)) + 10 * 10**9
    encoder = CaptureEncoder("pcapng", big=big)
    encoder.begin([])
    encoder.add_interface(1, tsresol=tsresol, offset_s=offset)
    (packet,), _ = ours_read(encoded(encoder, PacketBatch.from_frames([b"x"], ts_ns=ts_ns)))
    assert packet.ts_ns == ts_ns


@pytest.mark.parametrize("tsresol", [*range(9), *range(0x80, 0x80 + 30)])
def test_coarse_clocks_lose_less_than_a_unit(tsresol: int) -> None:
    encoder = CaptureEncoder("pcapng")
    encoder.begin([])
    encoder.add_interface(1, tsresol=tsresol)
    ts_ns = 1_700_000_000_123_456_789
    (packet,), _ = ours_read(encoded(encoder, PacketBatch.from_frames([b"x"], ts_ns=ts_ns)))
    unit = 10**9 // 2 ** (tsresol & 0x7F) if tsresol & 0x80 else 10 ** (9 - tsresol)
    assert abs(packet.ts_ns - ts_ns) <= unit


def test_times_before_1970_are_written_as_1970() -> None:
    for format in FORMATS:
        encoder = CaptureEncoder(format)
        encoder.begin([1], tsresol=9)
        (packet,), _ = ours_read(encoded(encoder, PacketBatch.from_frames([b"x"], ts_ns=-5)))
        assert packet.ts_ns == 0


def test_times_pass_through_as_they_stand() -> None:
    """A fraction of a second that is more than one (some writers do that) is nobody's to correct."""
    data = bytearray(pcap([b"abc"]))
    struct.pack_into("<II", data, 24, 5, 1_000_001)
    out = BytesIO()
    decap_file(BytesIO(bytes(data)), out, other="keep")
    assert out.getvalue()[24:32] == data[24:32]
    out = BytesIO()
    decap_file(BytesIO(bytes(data)), out, other="keep", format="nsecpcap")
    assert ours_read(out.getvalue())[0][0].ts_ns == 6_000_001_000


def test_times_that_were_handed_out_are_written_anew() -> None:
    decoder, batch = CaptureDecoder(), PacketBatch()
    decoder.fill(batch, in_pieces(pcap([b"abc"])))
    batch.ts_ns[0] = 7_000_001_999
    encoder = CaptureEncoder("pcap")
    encoder.begin([1])
    assert ours_read(encoded(encoder, batch))[0][0].ts_ns == 7_000_001_000


# --- every format into every other ----------------------------------------------------------------------


@pytest.mark.parametrize("format", [*FORMATS, None])
@pytest.mark.parametrize("name", FLAVOURS)
def test_conversions(name: str, format: str | None) -> None:
    out = BytesIO()
    stats = decap_file(BytesIO(FLAVOURS[name]), out, other="keep", format=format)
    assert_adds_up(stats)
    assert stats.kept == stats.written == stats.packets == len(PACKETS)
    source, _ = ours_read(FLAVOURS[name])
    got, fault = ours_read(out.getvalue())
    assert fault is None
    if format == "pcap" or (format is None and "pcapng" not in name and "nsec" not in name):
        source = in_microseconds(source)
    assert got == source
    if format is None:
        assert out.getvalue()[:4] == (FLAVOURS[name][:4] if "modified" not in name else out.getvalue()[:4])


@pytest.mark.parametrize("format", FORMATS)
def test_conversion_keeps_the_header(format: str) -> None:
    """Byte order and snaplen; an FCS length is not true of frames without their end."""
    data = pcap(PACKETS, big=True, magic=MAGIC_NSEC, snaplen=1500, link=0x14000001)
    out = BytesIO()
    decap_file(BytesIO(data), out, other="keep", format=format)
    if format == "nsecpcap":
        assert out.getvalue() == data[:20] + struct.pack(">I", 1) + data[24:]
    elif format == "pcap":
        assert struct.unpack(">IHHiIII", out.getvalue()[:24])[4:] == (0, 1500, 1)
    else:
        idb = blocks(out.getvalue())[1]
        assert idb.unpack("HHI") == (1, 0, 1500)
        assert idb.options() == [(9, b"\x09")]


def test_frames_that_stay_as_they_are_keep_their_fcs_length(tmp_path: Path) -> None:
    data = pcap([fx.outer_cases()[0].packet()], link=0x14000001)
    split_file(BytesIO(data), tmp_path / "{vni}.pcap")
    assert (tmp_path / "42.pcap").read_bytes() == data


def test_other_link_types_are_counted_where_a_pcap_cannot_hold_them() -> None:
    out = BytesIO()
    stats = decap_file(BytesIO(fx.mixed()), out, other="keep", format="pcap")
    assert_adds_up(stats)
    # The one packet that is no VXLAN is Ethernet, so nothing is refused; of raw IP, the kept ones are.
    assert "DROP_OUTPUT_LINK_TYPE" not in stats.drops
    raw = Pcapng().interface(1).interface(101).epb(fx.other_cases()[0].frame).epb(b"\x45abc", interface=1)
    stats = decap_file(BytesIO(raw.data), BytesIO(), other="keep", format="pcap")
    assert_adds_up(stats)
    assert stats.drops == {"DROP_OUTPUT_LINK_TYPE": 1}
    assert (stats.kept, stats.written) == (1, 1)


# --- what pcapng carries through ------------------------------------------------------------------------


def carried(data: bytes, verb: Callable[..., object] = decap_file, **how: object) -> list[Block]:
    out = BytesIO()
    verb(BytesIO(data), out, **how)
    return blocks(out.getvalue())


@pytest.mark.parametrize("big", [False, True])
def test_nothing_changes_where_nothing_is_done(big: bool) -> None:
    """Every block byte for byte, but: section lengths become unknown, and the obsolete packet block an enhanced one."""
    ng = Pcapng(section=False)
    ng.section(big=big, options=[(2, b"hardware")], length=5000)
    ng.interface(1, tsresol=9, options=[(2, b"eth0"), (11, b"\0udp")]).interface(113)
    ng.block(4, bytes(4))
    frame, other = fx.other_cases()[0].frame, b"\x45" + bytes(30)
    ng.epb(
        frame,
        units=5,
        options=[(1, b"one"), (1, b"two"), (2, ng.pack("I", 0x1E1)), (3, b"\x02hash"), (2988, b"PENx")],
    )
    ng.epb(other, units=6, interface=1)
    ng.spb(frame)
    ng.block(0x0BAD, b"whatever").block(10, b"secrets.").block(5, ng.pack("III", 1, 0, 0))
    same = len(ng.data)
    ng.pb(frame, units=7, drops=3, options=[(1, b"old")]).pb(frame, units=8)
    # SLL in to_ethernet mode would double the interface: peeking (split, restore) leaves it alone.
    out = BytesIO()
    restore_file(BytesIO(ng.data), out)
    got = out.getvalue()
    expected = bytearray(ng.data[:same])
    at = 24 + 0
    expected[16:24] = b"\xff" * 8
    assert got[:same] == bytes(expected), at
    old = blocks(got)[-2:]
    assert [block.kind for block in old] == [EPB, EPB]
    assert old[0].options() == [(1, b"old"), (4, ng.pack("Q", 3))]
    assert old[1].options() == []
    assert old[0].unpack("IIIII") == (0, 0, 7, len(frame), len(frame))


def test_decap_keeps_what_stays_true() -> None:
    inner = {case.name: case.inner for case in fx.outer_cases() + fx.edge_cases()}
    got = carried(fx.mixed())
    kinds = [block.kind for block in got]
    one = [SHB, IDB, IDB, IDB, NRB, EPB, EPB, EPB, EPB, EPB, 0x0BAD, EPB, EPB, DSB, ISB]
    assert kinds == one * 2
    source = blocks(fx.mixed())
    for at, big in ((0, False), (len(one), True)):
        part = got[at : at + len(one)]
        assert all(block.big is big for block in part)
        was = [block for block in source if block.big is big]
        assert part[0].options() == was[0].options()
        assert part[0].unpack("q", 8) == (-1,)
        for idb, old in zip(part[1:4], was[1:4], strict=True):
            assert idb.unpack("H") == (1,)
            assert idb.options() == old.options()
        assert part[4] == was[4]
        pack = Pcapng(big=big).pack
        packets = [block for block in part if block.kind == EPB]
        assert [block.unpack("I")[0] for block in packets] == [0, 1, 2, 0, 0, 0, 0]
        data = [block.body[20 : 20 + block.unpack("I", 12)[0]] for block in packets]
        names = ["ethernet", "sll-ipv4", "raw-ipv4", "802.1q", "qinq-88a8", "padded-behind-udp", "snaplen-96"]
        assert data == [inner[name] for name in names]
        options = [block.options() for block in packets]
        # Flags: direction kept, the length of an FCS that was cut off is not. A hash of another frame is dropped.
        assert options[0] == [(1, b"first packet"), (2, pack("I", 0x002))]
        assert options[1] == []
        assert options[2] == [(4, pack("Q", 5))]
        assert options[3] == []  # was a simple packet: it gets the clock's zero
        assert packets[3].unpack("II", 4) == (0, 0)
        assert options[4] == [(1, b"of the obsolete kind"), (4, pack("Q", 9))]
        assert options[6] == [(2988, pack("I", 32473) + b"custom")]
        # Times stand as they stood, in the interface's own unit.
        assert [block.unpack("II", 4) for block in packets[:3]] == [
            block.unpack("II", 4) for block in was if block.kind == EPB
        ][:3]
        assert packets[6].unpack("II", 12) == (46, fx.edge_cases()[7].wire_len - 50)
        for kind in (0x0BAD, DSB, ISB):
            assert [b for b in part if b.kind == kind] == [b for b in was if b.kind == kind]
    packets, fault = ours_read(b"".join(rebuild(block) for block in got))
    assert fault is None
    assert [p.ts_ns for p in packets] == [
        p.ts_ns for p in ours_read(fx.mixed())[0] if p.data != fx.other_cases()[0].frame
    ]


def rebuild(block: Block) -> bytes:
    e = ">" if block.big else "<"
    length = struct.pack(e + "I", len(block.body) + 12)
    return struct.pack(e + "I", block.kind) + length + block.body + length


def test_kept_packets_have_an_interface_of_their_own_link_type() -> None:
    ng = Pcapng().interface(113, options=[(2, b"any")]).interface(1).block(5, struct.pack("<III", 0, 0, 0))
    sll = {case.name: case for case in fx.outer_cases()}["sll-ipv4"].frame
    ng.epb(sll).epb(sll[:20]).epb(fx.other_cases()[0].frame, interface=1)
    got = carried(ng.data, other="keep")
    links = [block.unpack("H")[0] for block in got if block.kind == IDB]
    assert links == [113, 1, 1]
    packets, _ = ours_read(b"".join(map(rebuild, got)))
    assert [(p.interface, p.link) for p in packets] == [(1, 1), (0, 113), (2, 1)]
    (statistics,) = [block for block in got if block.kind == ISB]
    assert statistics.unpack("I") == (1,)  # it counts what came in by "any", whichever form carries it


def test_encap_raises_snaplens_it_would_exceed() -> None:
    from vxlanfast import TunnelSpec, encap_file

    ng = Pcapng().interface(1, snaplen=96).interface(1).epb(fx.inner_frames()[4])
    got = carried(ng.data, encap_file, tunnel=TunnelSpec(vni=1, src=fx.A4, dst=fx.B4))
    assert [block.unpack("I", 4)[0] for block in got if block.kind == IDB] == [262144, 0]


def test_statistics_of_an_unknown_interface_and_empty_files() -> None:
    ng = Pcapng().interface().block(5, struct.pack("<III", 7, 0, 0)).block(5, b"")
    assert [block.kind for block in carried(ng.data)] == [SHB, IDB, ISB, ISB]
    assert [block.kind for block in carried(Pcapng().data)] == [SHB]


def test_every_batch_bound() -> None:
    """Blocks stay in their place among packets wherever a batch ends."""
    rng = random.Random(11)
    ng = Pcapng().interface(1)
    for n in range(3000):
        if rng.random() < 0.2:
            ng.block(0x0BAD, n.to_bytes(4, "little"))
        else:
            ng.epb(fx.other_cases()[0].frame + n.to_bytes(4, "little"), units=n)
        if n % 500 == 499:
            ng.section(big=rng.random() < 0.5).interface(1)
    out = BytesIO()
    decap_file(BytesIO(ng.data), out, other="keep")
    assert out.getvalue() == ng.data


# --- many interfaces, and the fixtures as others read them ----------------------------------------------


def test_many_interfaces() -> None:
    ng = Pcapng()
    for n in range(300):
        ng.interface(1 if n % 2 else 101, tsresol=9, options=[(2, f"if{n}".encode())])
    cases = {case.name: case.frame for case in fx.outer_cases()}
    for n in range(300):
        ng.epb(cases["ethernet" if n % 2 else "raw-ipv4"], interface=n, units=n)
    packets, _ = ours_read(b"".join(map(rebuild, carried(ng.data))))
    assert [(p.interface, p.ts_ns, p.link) for p in packets] == [(n, n, 1) for n in range(300)]


@needs_tshark
@pytest.mark.tshark
@pytest.mark.parametrize("format", FORMATS)
def test_tshark_agrees_on_conversions(format: str, tmp_path: Path) -> None:
    fields = ("frame.time_epoch", "frame.len", "frame.cap_len", "eth.src", "ip.src", "udp.srcport")
    for name in ("inner.pcap", "others.pcap"):
        source, out = FIXTURES / name, tmp_path / f"{name}.{format}"
        decap_file(source, out, other="keep", format=format)
        was, now = tshark(source, *fields), tshark(out, *fields)
        assert len(was) > 10
        if format == "pcap":
            was = [[row[0][:-3] + "000", *row[1:]] for row in was]
        assert now == was


@needs_tshark
@pytest.mark.tshark
def test_tshark_sees_what_is_carried(tmp_path: Path) -> None:
    out = tmp_path / "out.pcapng"
    decap_file(FIXTURES / "mixed.pcapng", out)
    rows = tshark(
        out, "frame.interface_name", "frame.comment", "frame.time_epoch", "udp.dstport", "frame.cap_len"
    )
    rows = [row for row in rows if row[0]]  # tshark has custom blocks among the packets
    assert [row[0] for row in rows[:3]] == ["eth0", "any", "unknown"]
    assert [row[1] for row in rows] == ["first packet", "", "", "", "of the obsolete kind", "", ""] * 2
    assert rows[0][2] == "1700000000.000000001"
    assert rows[1][2].startswith("1700001000.000002")
