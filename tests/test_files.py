"""Whole files through the library: every format, compression and kind of source and target; counts that add up."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from tests import make_fixtures as fx
from tests.support import (
    FIXTURES,
    MAGIC_NSEC,
    Packet,
    Pcapng,
    assert_adds_up,
    capture_path,
    captures,
    frames_of,
    needs_tshark,
    ours_read,
    pcap,
    tshark,
)
from vxlanfast import (
    CaptureError,
    CaptureWriter,
    OutputError,
    PacketBatch,
    SpecError,
    Stats,
    TunnelSpec,
    Verdict,
    decap_file,
    encap_file,
    open_capture,
    restore_file,
)
from vxlanfast.sink import open_sink
from vxlanfast.source import open_source

FORMATS = ("pcap", "nsecpcap", "pcapng")
TUNNEL = TunnelSpec(vni=42, src=fx.A4, dst=fx.B4)
INNER = [case.inner for case in fx.outer_cases() if case.link == 1]


def sample(count: int = 3000, seed: int = 1) -> bytes:
    """Packets of every kind: with VXLAN and without, whole and cut, over some batches."""
    rng = random.Random(seed)
    cases = [case for case in (*fx.outer_cases(), *fx.edge_cases(), *fx.other_cases()) if case.link == 1]
    packets = [rng.choice(cases).packet(n) for n in range(count)]
    return pcap(packets, magic=MAGIC_NSEC)


def summed(stats: Stats) -> int:
    return stats.passed + stats.kept + stats.dropped


# --- formats and compressions ---------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".lz4"])
@pytest.mark.parametrize("format", FORMATS)
def test_formats_and_compressions(format: str, suffix: str, tmp_path: Path) -> None:
    if suffix in (".zst", ".lz4"):
        pytest.importorskip("zstandard" if suffix == ".zst" else "lz4.frame")
    source, target = tmp_path / f"in.{format}{suffix}", tmp_path / f"out.{format}{suffix}"
    stats = decap_file(FIXTURES / "outer-ethernet.pcap", source, other="keep", format=format, ports=[1])
    assert_adds_up(stats)
    assert stats.kept == len(INNER)
    stats = decap_file(source, target)
    assert_adds_up(stats)
    assert (stats.packets, stats.passed, stats.written) == (len(INNER),) * 3
    assert stats.written_bytes == sum(len(frame or b"") for frame in INNER)
    assert stats.input_bytes == source.stat().st_size
    with open_source(target) as plain:
        assert plain.compression == (suffix[1:] or None)
        data, buffer = b"", bytearray(1 << 16)
        while n := plain.readinto(buffer):
            data += buffer[:n]
    packets, fault = ours_read(data)
    assert fault is None
    assert [p.data for p in packets] == INNER
    assert os.listdir(tmp_path).count(target.name) == 1
    assert len(os.listdir(tmp_path)) == 2  # nothing half-written beside them


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("verb", ["decap", "encap"])
def test_format_is_the_inputs_unless_named(verb: str, format: str) -> None:
    source = BytesIO()
    decap_file(FIXTURES / "inner.pcap", source, other="keep", format=format)
    for wanted in (None, *FORMATS):
        out = BytesIO()
        if verb == "decap":
            decap_file(BytesIO(source.getvalue()), out, other="keep", format=wanted)
        else:
            encap_file(BytesIO(source.getvalue()), out, TUNNEL, format=wanted)
        with open_capture(BytesIO(out.getvalue())) as capture:
            assert sum(len(batch) for batch in capture.batches()) == 30
            assert capture.decoder.format == (wanted or format)


# --- sources and targets --------------------------------------------------------------------------------


def as_text(path: Path) -> Any:
    return str(path)


def as_path(path: Path) -> Any:
    return path


def as_bytes_path(path: Path) -> Any:
    class PathLike:
        def __fspath__(self) -> str:
            return str(path)

    return PathLike()


@pytest.mark.parametrize("how", [as_text, as_path, as_bytes_path])
def test_paths(how: Callable[[Path], Any], tmp_path: Path) -> None:
    out = tmp_path / "out.pcap"
    stats = decap_file(how(FIXTURES / "outer-ethernet.pcap"), how(out))
    assert_adds_up(stats)
    assert frames_of(out) == INNER


def test_file_objects(tmp_path: Path) -> None:
    """Open files, raw and buffered, and anything with read or write; they stay open, and start where they stand."""
    data = (FIXTURES / "outer-ethernet.pcap").read_bytes()
    path = tmp_path / "in"
    path.write_bytes(b"before" + data)

    class OnlyRead:
        def __init__(self) -> None:
            self.file = BytesIO(data)

        def read(self, size: int = -1) -> bytes:
            return self.file.read(min(size, 100) if size > 0 else size)

    class OnlyWrite:
        def __init__(self) -> None:
            self.got = b""

        def write(self, piece: Any) -> int:
            self.got += bytes(piece)
            return len(piece)

    for buffering in (0, -1):
        with (
            open(path, "rb", buffering=buffering) as source,
            open(tmp_path / "out", "w+b", buffering=buffering) as target,
        ):
            source.seek(6)
            assert_adds_up(decap_file(source, target))
            target.seek(0)
            assert frames_of(target.read()) == INNER
    only_write = OnlyWrite()
    assert_adds_up(decap_file(OnlyRead(), only_write))
    assert frames_of(only_write.got) == INNER


@pytest.mark.parametrize("threads", [1, 3])
def test_pipes(threads: int) -> None:
    data = sample()
    expected = BytesIO()
    decap_file(BytesIO(data), expected)
    r, w = os.pipe()
    r2, w2 = os.pipe()

    def feed() -> None:
        with open(w, "wb") as file:
            file.write(data)

    def run() -> None:
        with open(r, "rb") as source, open(w2, "wb") as target:
            done.append(decap_file(source, target, threads=threads))

    done: list[Stats] = []
    workers = [threading.Thread(target=work) for work in (feed, run)]
    for worker in workers:
        worker.start()
    with open(r2, "rb") as file:
        got = file.read()
    for worker in workers:
        worker.join()
    assert got == expected.getvalue()
    assert_adds_up(done[0])


# --- counting -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["drop", "keep", "fail"])
@pytest.mark.parametrize(
    "how", [{}, {"strict": True}, {"levels": None}, {"reassemble": True}, {"vni": 42}, {"vni": [(1, 41)]}]
)
def test_counts_add_up(other: str, how: dict[str, Any]) -> None:
    data = sample()
    out = BytesIO()
    stats = decap_file(BytesIO(data), out, other=other, **how)
    assert_adds_up(stats)
    packets, fault = ours_read(out.getvalue())
    assert fault is None
    assert stats.packets == 3000
    assert stats.written == len(packets) == stats.passed + stats.kept
    assert stats.written_bytes == sum(len(p.data) for p in packets)
    assert bool(stats.kept) == (other == "keep")
    assert stats.others > 0
    assert set(stats.drops) <= {verdict.name for verdict in Verdict}
    assert stats.as_dict()["dropped"] == stats.dropped
    assert "\n" not in stats.summary()
    assert stats.summary().startswith("3,000 packets read, ")


@captures("vxlan")
def test_counts_add_up_for_others(row: dict[str, str]) -> None:
    path = capture_path("vxlan", row["file"])
    for how in (
        {},
        {"other": "keep"},
        {"strict": True},
        {"reassemble": True},
        {"levels": None},
        {"meta": "comment"},
    ):
        stats = decap_file(path, BytesIO(), **how)  # type: ignore[arg-type]
        assert_adds_up(stats)
        assert stats.packets == int(row["packets"])
    back = encap_file(path, BytesIO(), TUNNEL)
    assert_adds_up(back)


@pytest.mark.parametrize("count", [1, 7, 2999, 3000, 9999])
def test_count(count: int) -> None:
    out = BytesIO()
    stats = decap_file(BytesIO(sample()), out, count=count, other="keep")
    assert_adds_up(stats)
    assert stats.packets == stats.written == min(count, 3000)
    assert len(ours_read(out.getvalue())[0]) == min(count, 3000)
    assert stats.fault is None


@pytest.mark.parametrize("count", [0, -1])
def test_count_of_nothing(count: int, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=f"count = {count}: at least 1"):
        decap_file(BytesIO(sample(3)), tmp_path / "out", count=count)


def test_order_is_kept() -> None:
    data = sample()
    out = BytesIO()
    decap_file(BytesIO(data), out, other="keep")
    assert [p.ts_ns for p in ours_read(out.getvalue())[0]] == [p.ts_ns for p in ours_read(data)[0]]


# --- threads --------------------------------------------------------------------------------------------


def big_mixed() -> bytes:
    """Several sections and interfaces, again and again."""
    return fx.mixed() * 150


THREADED: list[tuple[str, Callable[[], bytes], Callable[..., Stats], dict[str, Any]]] = [
    ("decap", lambda: sample(30_000), decap_file, {}),
    ("decap-keep-pcapng", lambda: sample(30_000), decap_file, {"other": "keep", "format": "pcapng"}),
    ("decap-mixed", big_mixed, decap_file, {"other": "keep"}),
    ("decap-comment", big_mixed, decap_file, {"other": "keep", "meta": "comment"}),
    ("decap-interface", big_mixed, decap_file, {"meta": "interface"}),
    ("decap-to-pcap", big_mixed, decap_file, {"format": "nsecpcap"}),
    ("encap", lambda: pcap([bytes(60 + n % 1400) for n in range(9000)]), encap_file, {"tunnel": TUNNEL}),
    (
        "fragment",
        lambda: pcap([bytes(60 + n % 2400) for n in range(5000)]),
        encap_file,
        {"tunnel": TunnelSpec(vni=1, src=fx.A6, dst=fx.B6, mtu=1280, mtu_policy="fragment")},
    ),
]


@pytest.mark.parametrize(
    ("make", "verb", "how"), [row[1:] for row in THREADED], ids=[row[0] for row in THREADED]
)
def test_threads_make_the_same_bytes(
    make: Callable[[], bytes], verb: Callable[..., Stats], how: dict[str, Any], tmp_path: Path
) -> None:
    data = make()
    source = tmp_path / "in"
    source.write_bytes(data)
    results, counts = set(), set()
    for threads in (1, 2, 5):
        for target in (tmp_path / "out", BytesIO(), tmp_path / "out.gz"):
            stats = verb(source, target, threads=threads, **how)
            assert_adds_up(stats)
            counts.add(
                (
                    stats.packets,
                    stats.passed,
                    stats.kept,
                    stats.written,
                    stats.written_bytes,
                    *sorted(stats.drops.items()),
                )
            )
            if isinstance(target, BytesIO):
                results.add(target.getvalue())
            elif target.suffix == ".gz":
                import gzip

                results.add(gzip.decompress(target.read_bytes()))
            else:
                results.add(target.read_bytes())
    assert len(results) == 1
    assert len(counts) == 1


def test_threads_pass_errors_on(tmp_path: Path) -> None:
    class Full:
        def write(self, piece: Any) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="No space left on device"):
        decap_file(BytesIO(sample(30_000)), Full(), threads=3)
    with pytest.raises(SpecError, match="threads = 0: at least 1"):
        decap_file(BytesIO(sample(1)), BytesIO(), threads=0)
    cut = sample(30_000)[:-5]
    for threads in (1, 3):
        out = tmp_path / f"{threads}.pcap"
        with pytest.raises(CaptureError, match="cut in the middle of a record") as error:
            decap_file(BytesIO(cut), out, threads=threads)
        assert isinstance(error.value.stats, Stats)
        assert error.value.stats.packets == 29_999
    assert (tmp_path / "1.pcap").read_bytes() == (tmp_path / "3.pcap").read_bytes()


# --- faults ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("verb", ["decap", "encap", "restore"])
def test_a_cut_file_gives_every_whole_packet(format: str, verb: str, tmp_path: Path) -> None:
    """And then the error, with where, and what was done."""
    source = BytesIO()
    decap_file(FIXTURES / "inner.pcap", source, other="keep", format=format)
    data = source.getvalue()
    whole = len(ours_read(data)[0])
    path, out = tmp_path / "cut", tmp_path / "out"
    for lost in (1, 40):
        path.write_bytes(data[:-lost])
        with pytest.raises(CaptureError) as error:
            if verb == "decap":
                decap_file(path, out, other="keep")
            elif verb == "encap":
                encap_file(path, out, TUNNEL)
            else:
                restore_file(path, out)
        assert str(error.value).startswith(f"{path}: cut in the middle of a record: ")
        assert error.value.path == str(path)
        stats = error.value.stats
        assert isinstance(stats, Stats)
        assert_adds_up(stats)
        assert stats.packets == stats.written == len(frames_of(out)) == whole - 1
        assert stats.fault == str(error.value)
        assert error.value.offset == len(data) - lost - len(data[error.value.offset : -lost])


def test_a_fault_in_the_middle(tmp_path: Path) -> None:
    ng = Pcapng().interface().epb(fx.outer_cases()[0].frame).epb(b"", interface=5).epb(b"")
    out = tmp_path / "out.pcapng"
    with pytest.raises(CaptureError, match="a packet of interface 5; the section has described 1") as error:
        decap_file(BytesIO(ng.data), out)
    assert isinstance(error.value.stats, Stats)
    assert error.value.stats.packets == 1
    assert frames_of(out) == [fx.outer_cases()[0].inner]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "empty: no capture file"),
        (b"\xd4\xc3\xb2\xa1", "cut inside the file header: 4 bytes"),
        (b"GIF89a", "not a capture file: it starts with 0x47494638"),
    ],
)
@pytest.mark.parametrize("verb", [decap_file, restore_file])
def test_no_capture_at_all(data: bytes, text: str, verb: Callable[..., Stats], tmp_path: Path) -> None:
    """Nothing is written under the name, and what stood there stays."""
    out = tmp_path / "out.pcap"
    for before in (None, b"precious"):
        if before is not None:
            out.write_bytes(before)
        with pytest.raises(CaptureError) as error:
            verb(BytesIO(data), out)
        assert text in str(error.value)
        assert error.value.exit_code == 1
        assert (out.read_bytes() if out.exists() else None) == before
        assert os.listdir(tmp_path) == (["out.pcap"] if before else [])


def test_only_a_header() -> None:
    for data in (pcap([]), Pcapng().data, Pcapng().interface().data):
        out = BytesIO()
        stats = decap_file(BytesIO(data), out)
        assert_adds_up(stats)
        assert (stats.packets, stats.written, stats.warnings) == (0, 0, ())
        assert ours_read(out.getvalue()) == ([], None)
        assert stats.summary() == "0 packets read, 0 decapsulated"


def test_names_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="No such file or directory"):
        decap_file(tmp_path / "nothing", BytesIO())
    with pytest.raises(CaptureError, match="Is a directory"):
        decap_file(tmp_path, BytesIO())
    with pytest.raises(OutputError, match="there is no directory"):
        decap_file(FIXTURES / "inner.pcap", tmp_path / "no" / "out.pcap")
    source = tmp_path / "in.pcap"
    source.write_bytes(sample(10))
    with pytest.raises(OutputError, match="is the input"):
        decap_file(source, source)
    assert source.read_bytes() == sample(10)


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"format": "cap"}, "format 'cap': pcap, nsecpcap, pcapng"),
        ({"other": "x"}, "other = 'x': keep, drop or fail"),
        ({"meta": "x"}, "meta = 'x': none, comment or interface"),
        ({"levels": 0}, "levels = 0: 1 to 255, or all"),
        ({"levels": 256}, "levels = 256"),
        ({"ports": [0]}, "UDP port 0: 1 to 65535"),
        ({"vni": []}, "vni: an empty set keeps nothing"),
        ({"vni": 1 << 24}, "VNI 16777216: 0 to 16777215"),
        ({"vni": [(5, 1)]}, "VNI range 5-1: 0 to 16777215"),
    ],
)
def test_options_name_what_is_wrong(how: dict[str, Any], text: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(SpecError) as error:
        decap_file(FIXTURES / "inner.pcap", out, **how)
    assert text in str(error.value)
    assert error.value.exit_code == 2
    assert not out.exists()
    with pytest.raises(SpecError):
        restore_file(FIXTURES / "inner.pcap", out, other="x")


def test_vnis_in_every_form() -> None:
    data = pcap([fx.nested(3)[n] for n in range(3)])  # VNIs 2, 1, 0
    for vni, passed in (
        (2, 1),
        ([0, 2], 2),
        ([(0, 1)], 2),
        ([2, (1, 5), 3], 2),
        (None, 3),
        (range(3), 3),
        (9, 0),
    ):
        stats = decap_file(BytesIO(data), BytesIO(), vni=vni)  # type: ignore[arg-type]
        assert_adds_up(stats)
        assert stats.passed == passed
        assert stats.drops == ({"DROP_FILTER_VNI": 3 - passed} if passed < 3 else {})


# --- warnings -------------------------------------------------------------------------------------------


def test_not_one_packet_was_vxlan() -> None:
    data = pcap([fx.other_cases()[2].frame] * 3)
    stats = decap_file(BytesIO(data), BytesIO())
    assert stats.warnings == (
        "not one packet was VXLAN (3 UDP, but not to a VXLAN port); --port adds UDP ports to look at",
    )
    assert decap_file(BytesIO(data), BytesIO(), ports=[4790]).warnings == ()


def test_unsupported_link_types_are_named() -> None:
    ng = Pcapng().interface(147).interface(9999).interface(1)
    ng.epb(b"x").epb(b"y", interface=1).epb(b"z", interface=1).epb(fx.outer_cases()[0].frame, interface=2)
    stats = decap_file(BytesIO(ng.data), BytesIO())
    assert_adds_up(stats)
    assert stats.unsupported == 3
    assert len(stats.warnings) == 2
    assert stats.warnings[0].startswith("link type USER0 (147) is not supported: 1 packet")
    assert stats.warnings[1].startswith("link type number 9999 is not supported: 2 packets")


def test_section_of_an_unknown_version_is_told() -> None:
    ng = Pcapng(section=False)
    ng.section(big=False, major=3).interface().epb(fx.outer_cases()[0].frame)
    stats = decap_file(BytesIO(ng.data), BytesIO())
    assert stats.warnings == ("a pcapng section of an unknown version was read as version 1",)


# --- watching -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_watch_sees_progress_and_can_stop(threads: int, tmp_path: Path) -> None:
    source = tmp_path / "in.pcap"
    source.write_bytes(sample(20_000))
    seen: list[tuple[int, int, int | None]] = []

    def watch(packets: int, position: int, size: int | None) -> bool:
        seen.append((packets, position, size))
        return False

    stats = decap_file(source, BytesIO(), watch=watch, threads=threads)
    assert not stats.interrupted
    assert seen[-1] == (20_000, source.stat().st_size, source.stat().st_size)
    assert seen == sorted(seen)
    assert len(seen) > 3
    out = tmp_path / "out.pcap"
    stats = decap_file(source, out, watch=lambda packets, position, size: packets > 0, threads=threads)
    assert_adds_up(stats)
    assert stats.interrupted
    assert 0 < stats.packets < 20_000
    assert len(frames_of(out)) == stats.written
    assert "[interrupted]" in stats.summary()


# --- batches of a capture, and a writer of them ---------------------------------------------------------


def test_capture_reads_batches() -> None:
    data = sample(5000)
    with open_capture(BytesIO(data)) as capture:
        assert capture.fault is None
        kept = []
        for batch in capture.batches():
            kept.append(batch)  # a batch that is held is not used again
        assert sum(map(len, kept)) == 5000
        assert len({id(batch) for batch in kept}) == len(kept) > 3
    with open_capture(BytesIO(data)) as capture:
        again: set[int] = set()
        frames = []
        for batch in capture.batches():
            again.add(id(batch))
            frames += [bytes(batch.frame(i)) for i in range(len(batch))]
        del batch
        assert len(again) <= 2  # and one that is not, is
        assert frames == frames_of(data)
    with (
        open_capture(BytesIO(data[:-1]), count=9999) as capture,
        pytest.raises(CaptureError, match="cut in the middle"),
    ):
        list(capture.batches())
    with open_capture(BytesIO(data), count=3) as capture:
        assert [len(batch) for batch in capture.batches()] == [3]


def test_views_of_a_batch_survive_the_next() -> None:
    with open_capture(BytesIO(sample(5000))) as capture:
        views = [(batch.frame(0), bytes(batch.frame(0))) for batch in capture.batches()]
    assert len(views) > 3
    assert all(bytes(view) == copy for view, copy in views)


@pytest.mark.parametrize("format", FORMATS)
def test_capture_writer(format: str, tmp_path: Path) -> None:
    out = tmp_path / f"out.{format}"
    batch = PacketBatch.from_frames([b"abc", b"defg"], ts_ns=[1_000_000_001, 2_000_000_002])
    with CaptureWriter(out, format=format) as writer:
        writer.write(batch)
        assert not out.exists()
        writer.write(batch)
    packets, fault = ours_read(out.read_bytes())
    assert fault is None
    round_to = 1000 if format == "pcap" else 1
    times = [1_000_000_001 // round_to * round_to, 2_000_000_002 // round_to * round_to]
    assert packets == [Packet(times[0], b"abc", 3), Packet(times[1], b"defg", 4)] * 2


def test_capture_writer_leaves_nothing_after_an_error(tmp_path: Path) -> None:
    out = tmp_path / "out.pcap"
    with pytest.raises(RuntimeError), CaptureWriter(out) as writer:
        writer.write(PacketBatch.from_frames([b"abc"]))
        raise RuntimeError
    assert os.listdir(tmp_path) == []


def test_decapsulated_batches_can_be_written(tmp_path: Path) -> None:
    """The README's loop: read, decapsulate, write."""
    from vxlanfast import decap_batch

    out = tmp_path / "out.pcap"
    with open_capture(FIXTURES / "outer-ethernet.pcap") as capture, CaptureWriter(out) as writer:
        for batch in capture.batches():
            writer.write(decap_batch(batch))
    assert frames_of(out) == INNER


def test_sinks_take_their_name_at_the_end(tmp_path: Path) -> None:
    out = tmp_path / "out"
    sink = open_sink(out)
    sink.write(b"abc")
    assert not out.exists()
    sink.commit()
    assert out.read_bytes() == b"abc"


# --- beside tshark --------------------------------------------------------------------------------------


@needs_tshark
@pytest.mark.tshark
def test_tshark_reads_every_inner_frame(tmp_path: Path) -> None:
    """What it sees behind VXLAN before, it sees alone after."""
    source, out = FIXTURES / "outer-ethernet.pcap", tmp_path / "out.pcap"
    decap_file(source, out)
    options = ("-E", "occurrence=l", "-d", "udp.port==8472,vxlan")
    fields = ("eth.src", "eth.dst", "eth.type", "frame.time_epoch")
    before = tshark(source, *fields, options=options, decode="vxlan")
    after = tshark(out, *fields, options=options)
    assert len(before) >= len(INNER) - 3  # tags of 0x9200 and the like are not its
    assert [row for row in before if row in after] == before


@needs_tshark
@pytest.mark.tshark
@pytest.mark.parametrize("ips", [(fx.A4, fx.B4), (fx.A6, fx.B6)])
def test_tshark_finds_no_wrong_checksum(ips: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out.pcap"
    encap_file(FIXTURES / "inner.pcap", out, TunnelSpec(vni=77, src=ips[0], dst=ips[1], udp_csum="on", ttl=9))
    options = ("-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE")
    rows = tshark(out, "vxlan.vni", "udp.checksum.status", "udp.dstport", "frame.len", options=options)
    assert [row[:3] for row in rows] == [["77", "1", "4789"]] * 30
    bad = tshark(out, "frame.number", options=options, decode="ip.checksum.status==0 and ip.src==192.0.2.1")
    assert bad == []
