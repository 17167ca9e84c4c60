"""Captures as batches, and batches as captures: ``open_capture`` and ``CaptureWriter``, and pipes on both sides."""

from __future__ import annotations

import os
import random
import threading
from io import BytesIO
from pathlib import Path

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
    ours_read,
    pcap,
)
from vxlanfast import (
    CaptureError,
    CaptureWriter,
    PacketBatch,
    Stats,
    TunnelSpec,
    decap_batch,
    decap_file,
    encap_file,
    open_capture,
)

FORMATS = ("pcap", "nsecpcap", "pcapng")
INNER = [case.inner for case in fx.outer_cases() if case.link == 1]


def sample(count: int = 5000, seed: int = 1) -> bytes:
    """Packets of every kind, with VXLAN and without, whole and cut; more than one batch."""
    rng = random.Random(seed)
    cases = [case for case in (*fx.outer_cases(), *fx.edge_cases(), *fx.other_cases()) if case.link == 1]
    return pcap([rng.choice(cases).packet(n) for n in range(count)], magic=MAGIC_NSEC)


def test_batches() -> None:
    data = sample()
    with open_capture(BytesIO(data)) as capture:
        assert (capture.name, capture.fault) == ("<BytesIO>", None)
        kept = list(capture.batches())  # a batch that somebody holds is not used again
        assert sum(map(len, kept)) == 5000
        assert len({id(batch) for batch in kept}) == len(kept) > 3
    with open_capture(BytesIO(data)) as capture:
        used, frames = set(), []
        for batch in capture.batches():
            used.add(id(batch))
            frames += [bytes(batch.frame(i)) for i in range(len(batch))]
        assert len(used) <= 2
    assert frames == frames_of(data)


def test_views_outlive_the_next_batch() -> None:
    with open_capture(BytesIO(sample())) as capture:
        views = [(batch.frame(0), bytes(batch.frame(0)), batch.vni) for batch in capture.batches()]
    assert len(views) > 3
    assert all(bytes(view) == copy for view, copy, _ in views)


@pytest.mark.parametrize("count", [1, 2047, 2048, 2049, 5000, 9999])
def test_count(count: int) -> None:
    with open_capture(BytesIO(sample()), count=count) as capture:
        assert sum(map(len, capture.batches())) == min(count, 5000)
        assert capture.fault is None


def test_a_fault_comes_behind_every_whole_packet(tmp_path: Path) -> None:
    path = tmp_path / "cut.pcap"
    path.write_bytes(sample()[:-1])
    rows = 0
    with open_capture(path) as capture:
        with pytest.raises(CaptureError, match="cut in the middle of a record") as error:
            for batch in capture.batches():
                rows += len(batch)
        assert rows == 4999
        assert error.value.path == str(path) == capture.name
        assert capture.fault == str(error.value)
    with open_capture(BytesIO(b"GIF89a")) as capture, pytest.raises(CaptureError, match="not a capture file"):
        next(capture.batches())
    with open_capture(BytesIO(b"")) as capture, pytest.raises(CaptureError, match="empty"):
        next(capture.batches())
    with pytest.raises(CaptureError, match="No such file or directory"):
        open_capture(tmp_path / "nothing")


@captures("vxlan")
def test_captures_of_others(row: dict[str, str]) -> None:
    path = capture_path("vxlan", row["file"])
    ports = [int(port) for port in row["ports"].split(",")]
    with open_capture(path) as capture:
        passed = sum(len(decap_batch(batch, ports=ports).passed()) for batch in capture.batches())
    assert passed == int(row["inner_frames"])


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst", ".lz4"])
@pytest.mark.parametrize("format", FORMATS)
def test_writer(format: str, suffix: str, tmp_path: Path) -> None:
    if suffix in (".zst", ".lz4"):
        pytest.importorskip("zstandard" if suffix == ".zst" else "lz4.frame")
    out = tmp_path / f"out{suffix}"
    batch = PacketBatch.from_frames([b"abc", b"defg"], ts_ns=[1_000_000_001, 2_000_000_002])
    with CaptureWriter(out, format=format) as writer:
        writer.write(batch)
        assert not out.exists()
        writer.write(batch)
    tick = 1000 if format == "pcap" else 1
    with open_capture(out) as capture:
        (read,) = capture.batches()
        assert capture.decoder.format == format
        assert capture.source.compression == (suffix[1:] or None)
    assert list(read.ts_ns) == [1_000_000_001 // tick * tick, 2_000_000_002 // tick * tick] * 2
    assert [bytes(read.frame(i)) for i in range(4)] == [b"abc", b"defg"] * 2


def test_writer_of_several_links_and_snaplen() -> None:
    out = BytesIO()
    with CaptureWriter(out, format="pcapng", links=(1, 101), snaplen=96) as writer:
        writer.write(PacketBatch.from_frames([b"raw"], link=101))
        writer.write(PacketBatch.from_frames([b"eth"]))
    assert ours_read(out.getvalue())[0] == [Packet(0, b"raw", 3, 101, 1), Packet(0, b"eth", 3)]
    with open_capture(BytesIO(out.getvalue())) as capture:
        list(capture.batches())
        assert [(link, snaplen) for link, snaplen, _, _ in capture.decoder.interfaces()] == [
            (1, 96),
            (101, 96),
        ]


def test_writer_writes_what_passed() -> None:
    """The loop of the README: read, decapsulate, write."""
    out = BytesIO()
    with open_capture(FIXTURES / "outer-ethernet.pcap") as capture, CaptureWriter(out) as writer:
        for batch in capture.batches():
            writer.write(decap_batch(batch))
    assert frames_of(out.getvalue()) == INNER
    with CaptureWriter(BytesIO()) as writer, open_capture(FIXTURES / "others.pcap") as capture:
        for batch in capture.batches():
            writer.write(decap_batch(batch))
        assert writer.encoder.rows == 0


def test_writer_leaves_nothing_after_an_error(tmp_path: Path) -> None:
    out = tmp_path / "out.pcap"
    out.write_bytes(b"precious")
    with pytest.raises(RuntimeError), CaptureWriter(out) as writer:
        writer.write(PacketBatch.from_frames([b"abc"]))
        raise RuntimeError
    assert os.listdir(tmp_path) == ["out.pcap"]
    assert out.read_bytes() == b"precious"
    with pytest.raises(ValueError, match="format 'cap'"):
        CaptureWriter(out, format="cap")
    assert out.read_bytes() == b"precious"


# --- pipes and other objects ----------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
def test_pipes(threads: int) -> None:
    """Open pipes as file objects: the bytes of a file, whatever pieces come."""
    data = sample()
    expected = BytesIO()
    decap_file(BytesIO(data), expected)
    r, w = os.pipe()
    r2, w2 = os.pipe()
    done: list[Stats] = []

    def feed() -> None:
        with open(w, "wb") as file:
            for at in range(0, len(data), 7777):
                file.write(data[at : at + 7777])
                file.flush()

    def run() -> None:
        with open(r, "rb") as source, open(w2, "wb") as target:
            done.append(decap_file(source, target, threads=threads))

    workers = [threading.Thread(target=work) for work in (feed, run)]
    for worker in workers:
        worker.start()
    with open(r2, "rb") as file:
        got = file.read()
    for worker in workers:
        worker.join()
    assert got == expected.getvalue()
    assert_adds_up(done[0])


def test_a_batch_goes_out_before_the_next_comes() -> None:
    """Live: what came is passed on, although the pipe stays open."""
    record = pcap([fx.outer_cases()[0].frame])
    r, w = os.pipe()
    r2, w2 = os.pipe()

    def run() -> None:
        with open(r, "rb") as source, open(w2, "wb") as target:
            decap_file(source, target)

    worker = threading.Thread(target=run)
    worker.start()
    try:
        with open(r2, "rb", buffering=0) as file:
            os.write(w, record)
            assert len(file.read(1 << 16) or b"") >= 24
            for _ in range(3):
                os.write(w, record[24:])
                assert INNER[0] in (file.read(1 << 16) or b"")
            os.close(w)
            assert file.read(1) == b""
    finally:
        worker.join()


@pytest.mark.parametrize("verb", ["decap", "encap"])
def test_objects_with_only_read_or_write(verb: str) -> None:
    data = (FIXTURES / "outer-ethernet.pcap").read_bytes()

    class OnlyRead:
        def __init__(self) -> None:
            self.file = BytesIO(data)

        def read(self, size: int = -1, /) -> bytes:
            return self.file.read(min(size, 100) if size > 0 else size)

    class OnlyWrite:
        def __init__(self) -> None:
            self.got = b""

        def write(self, piece: memoryview, /) -> int:
            taken = bytes(piece[:1000])  # not all at once
            self.got += taken
            return len(taken)

    target, expected = OnlyWrite(), BytesIO()
    if verb == "decap":
        stats = decap_file(OnlyRead(), target)  # type: ignore[arg-type]
        decap_file(BytesIO(data), expected)
    else:
        tunnel = TunnelSpec(vni=1, src=fx.A6, dst=fx.B6)
        stats = encap_file(OnlyRead(), target, tunnel)  # type: ignore[arg-type]
        encap_file(BytesIO(data), expected, tunnel)
    assert_adds_up(stats)
    assert target.got == expected.getvalue()


def test_many_sections_and_threads() -> None:
    """Sections that come between any two batches, by any number of threads: the same bytes."""
    data = fx.mixed() * 200
    results = set()
    for threads in (1, 2, 4):
        for meta in ("none", "comment"):
            out = BytesIO()
            stats = decap_file(BytesIO(data), out, other="keep", meta=meta, threads=threads)
            assert_adds_up(stats)
            results.add((meta, out.getvalue()))
    assert len(results) == 2
    empty = Pcapng().interface().data * 500
    outs = set()
    for threads in (1, 3):
        out = BytesIO()
        decap_file(BytesIO(empty), out, threads=threads)
        outs.add(out.getvalue())
    assert len(outs) == 1
