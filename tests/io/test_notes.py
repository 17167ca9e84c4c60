"""What decapsulation takes off, kept in pcapng (``meta``) and put back: the original file, byte for byte."""

from __future__ import annotations

import re
import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from tests import make_fixtures as fx
from tests.support import (
    FIXTURES,
    MAGIC_NSEC,
    Pcapng,
    assert_adds_up,
    blocks,
    capture_path,
    captures,
    needs_tshark,
    ours_read,
    pcap,
    tshark,
)
from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.io.notes import Annotate, Restore
from vxlanfast.files import decap_file, restore_file

METAS = ("comment", "interface")
meta = pytest.mark.parametrize("meta", METAS)


def format_of(data: bytes) -> str:
    if data[:4] == b"\x0a\x0d\x0d\x0a":
        return "pcapng"
    return "nsecpcap" if data[:4] in (b"\xa1\xb2\x3c\x4d", b"\x4d\x3c\xb2\xa1") else "pcap"


def there_and_back(
    data: bytes, *, format: str | None = None, other: str = "keep", **decap: Any
) -> tuple[bytes, bytes]:
    """The decapsulated file, and what restoring it gives."""
    middle, out = BytesIO(), BytesIO()
    stats = decap_file(BytesIO(data), middle, other=other, **decap)
    assert_adds_up(stats)
    back = restore_file(BytesIO(middle.getvalue()), out, format=format)
    assert_adds_up(back)
    assert back.packets == stats.written
    assert back.passed == stats.passed
    assert back.kept == stats.kept
    return middle.getvalue(), out.getvalue()


@meta
@captures("vxlan")
def test_captures_of_others(row: dict[str, str], meta: str) -> None:
    data = capture_path("vxlan", row["file"]).read_bytes()
    _, back = there_and_back(data, format=format_of(data), meta=meta)
    if "clusterfuzz" in row["file"]:
        assert back[24:] == data[24:]  # its header says version 2.8224, and we write 2.4
        return
    assert back == data


LITTLE = [path.name for path in sorted(FIXTURES.glob("*.pcap")) if path.read_bytes()[:1] in b"\xd4\x4d"]


@meta
@pytest.mark.parametrize("name", LITTLE)
def test_fixtures(name: str, meta: str) -> None:
    data = (FIXTURES / name).read_bytes()
    _, back = there_and_back(data, format=format_of(data), meta=meta)
    assert back == data


@meta
def test_another_byte_order(meta: str) -> None:
    """A pcap file's byte order is kept on the way through pcapng: it comes back byte for byte."""
    data = (FIXTURES / "outer-raw.pcap").read_bytes()
    _, back = there_and_back(data, format="pcap", meta=meta)
    assert data[:4] == b"\xa1\xb2\xc3\xd4"
    assert back == data


def several(big: bool) -> bytes:
    """Interfaces of three link types, packets of all of them, options and other blocks; times and no simple packets."""
    cases = {case.name: case for case in (*fx.outer_cases(), *fx.edge_cases())}
    ng = Pcapng(section=False)
    ng.section(big=big, options=[(4, b"tests")])
    ng.interface(1, tsresol=9, options=[(2, b"eth0")]).interface(
        113, tsresol=6, offset=7, options=[(2, b"any")]
    )
    ng.interface(101, snaplen=9000, tsresol=0x94).interface(276)
    ng.block(4, bytes(4))
    for n, name in enumerate(
        ("ethernet", "802.1q", "padded-behind-udp", "padded-behind-ip", "snaplen-96", "snaplen-and-padding")
    ):
        ng.epb(
            cases[name].frame, units=n, wire_len=cases[name].wire_len, options=[(1, b"mine")] if n % 2 else ()
        )
        ng.epb(cases["sll-ipv4"].frame, units=n, interface=1, options=[(2, ng.pack("I", 1))])
        ng.epb(cases["raw-ipv6"].frame, units=n, interface=2)
        ng.epb(
            cases["sll2-ipv6"].frame,
            units=n,
            interface=3,
            options=[(2988, ng.pack("I", 99999) + b"another's")],
        )
        ng.epb(fx.other_cases()[0].frame, units=n)
    ng.block(5, ng.pack("III", 1, 0, 9) + ng.options([(4, ng.pack("Q", 8))]))
    return ng.data


@meta
@pytest.mark.parametrize("big", [False, True])
def test_several_interfaces(meta: str, big: bool) -> None:
    data = several(big)
    middle, back = there_and_back(data, meta=meta)
    assert back == data
    packets, _ = ours_read(middle)
    inner = [p for p in packets if p.data != fx.other_cases()[0].frame]
    assert len(inner) == 24
    assert {p.link for p in inner} == {1}


@meta
def test_several_sections(meta: str) -> None:
    data = several(False) + several(True) + several(False)
    _, back = there_and_back(data, meta=meta)
    assert back == data


@meta
def test_mixed(meta: str) -> None:
    """Simple and obsolete packet blocks come back as enhanced ones; every packet and all the rest is as it was."""
    data = fx.mixed()
    _, back = there_and_back(data, meta=meta)
    ours, theirs = blocks(back), blocks(data)
    assert [b.kind for b in ours] == [6 if b.kind in (2, 3) else b.kind for b in theirs]
    assert [b for b in ours if b.kind not in (6, 0x0A0D0D0A)] == [
        b for b in theirs if b.kind not in (2, 3, 6, 0x0A0D0D0A)
    ]
    # A hash was of the frame, flags told of its FCS: neither outlives decapsulation.
    assert ours_read(back) == ours_read(data)


@meta
def test_others_dropped(meta: str) -> None:
    data = several(True)
    other = fx.other_cases()[0].frame
    _, back = there_and_back(data, other="drop", meta=meta)
    assert ours_read(back)[0] == [p for p in ours_read(data)[0] if p.data != other]


@meta
@pytest.mark.parametrize("levels", [2, None])
def test_all_levels_at_once(meta: str, levels: int | None) -> None:
    data = (FIXTURES / "nested.pcap").read_bytes()
    middle, back = there_and_back(data, format="pcap", meta=meta, levels=levels)
    assert back == data
    assert ours_read(middle)[0][0].data == fx.nested(100)[levels or 100]


@meta
def test_more_than_an_option_holds(meta: str) -> None:
    """64 KiB of headers, or of padding: pcapng has 16-bit option lengths. The output stays a file; headers that do not
    fit are not kept, padding that does not is cut."""
    frame = bytearray(fx.outer_cases()[0].frame)
    deep = bytes(fx.nested(1400)[0])
    padded = bytes(frame) + b"\xaa" * 70_000
    middle, back = BytesIO(), BytesIO()
    decap_file(BytesIO(pcap([deep, padded])), middle, meta=meta, levels=None)
    blocks(middle.getvalue())
    stats = restore_file(BytesIO(middle.getvalue()), back, format="pcap")
    assert_adds_up(stats)
    assert stats.details == {"restored": 1, "without_note": 1}
    packets, fault = ours_read(back.getvalue())
    assert fault is None
    assert packets[1].data == padded[: len(packets[1].data)]
    assert packets[1].wire_len == len(padded)
    assert len(packets[1].data) > 60_000
    assert packets[0].data == fx.nested(0)[0]


def test_the_comment() -> None:
    cases = {case.name: case.frame for case in fx.outer_cases()}
    middle, _ = there_and_back(pcap([cases["ethernet"], cases["ipv6"], cases["port-8472"]]), meta="comment")
    comments = [dict(block.options()).get(1) for block in blocks(middle) if block.kind == 6]
    assert comments == [
        b"vxlan vni 42, 192.0.2.1:50000 > 192.0.2.2:4789",
        b"vxlan vni 42, [2001:db8::1]:50000 > [2001:db8::2]:4789",
        b"vxlan vni 42, 192.0.2.1:50000 > 192.0.2.2:8472",
    ]


def test_the_interfaces() -> None:
    """One per tunnel and interface it came in by, described when first met."""
    a, b = fx.outer_cases()[0].frame, bytes(fx.eth() / fx.ip4() / fx.vxlan(7) / fx.inner_frame())
    ng = Pcapng().interface(1, tsresol=9, snaplen=2000).epb(a, units=1).epb(b, units=2).epb(a, units=3)
    middle, back = there_and_back(ng.data, meta="interface")
    assert back == ng.data
    idbs = [block for block in blocks(middle) if block.kind == 1]
    assert [idb.unpack("H")[0] for idb in idbs] == [1, 1, 1]
    named = [dict(idb.options()) for idb in idbs]
    assert [options.get(2) for options in named] == [None, b"vni-42", b"vni-7"]
    assert named[2][3] == b"VXLAN VNI 7, 192.0.2.1 > 192.0.2.2"
    packets, _ = ours_read(middle)
    assert [(p.interface, p.ts_ns) for p in packets] == [(1, 1), (2, 2), (1, 3)]


def test_meta_needs_pcapng() -> None:
    from vxlanfast import SpecError

    with pytest.raises(SpecError, match="meta needs a pcapng output; the format asked for is pcap"):
        decap_file(BytesIO(pcap([])), BytesIO(), meta="comment", format="pcap")


@meta
def test_no_note_is_nobodys(meta: str) -> None:
    """A custom option of another's, or a note that does not fit its length, restores nothing and harms nothing."""
    frame = bytes(60)
    pen = struct.pack("<I", 32473)
    good = pen + b"VXF1" + struct.pack("<IHHI", 110, 1, 50, 0) + b"h" * 50
    bad = [
        pen, pen + b"VXF1", pen + b"VXF2" + good[8:], good[:-1], good + b"x", struct.pack("<I", 1) + good[4:],
        pen + b"VXF1" + struct.pack("<IHHI", 110, 1, 50, 0xFFFFFFFF) + b"h" * 50,
        pen + b"VXF1" + struct.pack("<IHHI", 110, 1, 0xFFFF, 1) + b"h" * 50,
    ]  # fmt: skip
    ng = Pcapng().interface()
    for option in bad:
        ng.epb(frame, options=[(2989, option)])
    ng.epb(frame, options=[(2989, good)]).spb(frame).pb(frame, options=[(2989, good)])
    out = BytesIO()
    stats = restore_file(BytesIO(ng.data), out)
    assert_adds_up(stats)
    assert (stats.passed, stats.kept) == (1, len(bad) + 2)
    assert stats.details == {"restored": 1, "without_note": len(bad) + 2}
    packets, fault = ours_read(out.getvalue())
    assert fault is None
    assert packets[len(bad)].data == b"h" * 50 + frame
    assert packets[len(bad)].wire_len == 110
    assert all(p.data == frame for n, p in enumerate(packets) if n != len(bad))
    stats = restore_file(BytesIO(ng.data), BytesIO(), other="drop")
    assert_adds_up(stats)
    assert stats.drops == {"DROP_NO_META": len(bad) + 2}
    assert stats.others == len(bad) + 2
    pcap_has_none = restore_file(BytesIO(pcap([frame])), BytesIO())
    assert (pcap_has_none.passed, pcap_has_none.kept) == (0, 1)


def test_restored_link_types_that_a_pcap_cannot_hold() -> None:
    middle = BytesIO()
    decap_file(BytesIO(several(False)), middle, meta="comment")
    stats = restore_file(BytesIO(middle.getvalue()), BytesIO(), format="pcap")
    assert_adds_up(stats)
    assert stats.drops == {"DROP_OUTPUT_LINK_TYPE": 18}
    assert (stats.passed, stats.kept) == (6, 0)


def test_border() -> None:
    batch = PacketBatch.from_frames([fx.outer_cases()[0].frame] * 3)
    with pytest.raises(ValueError, match="process without remember"):
        Annotate().process(batch)
    notes = Annotate()
    notes.remember(batch)
    view = batch.vni
    with pytest.raises(BufferError):
        notes.process(batch)
    with pytest.raises(BufferError):
        Restore().process(batch)
    del view
    assert notes.process(batch) is batch
    restore = Restore()
    restore.process(batch)
    assert (restore.restored, restore.missing) == (0, 3)
    assert restore.counters() == {52: 3}


@needs_tshark
@pytest.mark.tshark
@meta
def test_tshark_shows_it(meta: str, tmp_path: Path) -> None:
    out = tmp_path / "out.pcapng"
    decap_file(FIXTURES / "outer-ethernet.pcap", out, meta=meta)
    rows = tshark(out, "frame.interface_name", "frame.interface_description", "frame.comment")
    assert len(rows) == len(ours_read(out.read_bytes())[0])
    if meta == "comment":
        assert all(re.fullmatch(r"vxlan vni \d+, \S+:50000 > \S+:(4789|8472)", row[2]) for row in rows)
    else:
        assert {row[0] for row in rows} == {"vni-42", "vni-0", "vni-16777215"}
        assert rows[0][1] == "VXLAN VNI 42, 192.0.2.1 > 192.0.2.2"


@needs_tshark
@pytest.mark.tshark
def test_tshark_finds_nothing_wrong(tmp_path: Path) -> None:
    """Both ways of keeping leave files that the dissector reads without a word of malformation."""
    for meta in METAS:
        out = tmp_path / f"{meta}.pcapng"
        decap_file(FIXTURES / "mixed.pcapng", out, other="keep", meta=meta)
        assert tshark(out, "frame.number", decode="_ws.malformed") == []
        assert [row for row in tshark(out, "frame.interface_name") if row[0]]


@meta
def test_nanosecond_pcap(meta: str) -> None:
    data = pcap([case.packet(n) for n, case in enumerate(fx.edge_cases())], magic=MAGIC_NSEC, snaplen=70_000)
    _, back = there_and_back(data, format="nsecpcap", meta=meta)
    assert back == data
