"""Batches at their border to Python: views that share memory, what a view forbids, and what rows can be asked."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.support import Pcapng, batch_from, in_pieces, pcap
from vxlanfast import PacketBatch, TunnelSpec, Verdict, decap_batch, encap_batch
from vxlanfast._ext.io.reader import CaptureDecoder
from vxlanfast._ext.node.encap import Encap
from vxlanfast._ext.node.reassemble import Reassemble

#: Columns: PEP 3118 format and whether they may be written.
COLUMNS = {
    "verdict": ("B", True), "vni": ("I", True), "ts_ns": ("q", True), "flow": ("I", True), "port_out": ("H", True),
    "port_in": ("H", False), "offsets": ("I", False), "lengths": ("I", False), "wire_lengths": ("I", False),
    "head_lengths": ("B", False), "link": ("H", False), "l3": ("H", False), "l4": ("H", False),
    "cut": ("H", False),
}  # fmt: skip
SIZES = {"B": 1, "H": 2, "I": 4, "q": 8}
SPEC = TunnelSpec(vni=42, src="192.0.2.1", dst="192.0.2.2")
FRAMES = [bytes([n]) * (60 + n) for n in range(5)]


def frame(n: int = 60) -> bytes:
    """An Ethernet frame of a local experimental type."""
    return bytes.fromhex("020000000002 020000000001 88b5") + bytes(n - 14)


# --- columns --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COLUMNS)
def test_column(name: str) -> None:
    form, writable = COLUMNS[name]
    batch = PacketBatch.from_frames(FRAMES)
    view = getattr(batch, name)
    assert isinstance(view, memoryview)
    assert (view.format, view.itemsize, view.ndim, view.shape) == (form, SIZES[form], 1, (5,))
    assert view.readonly is not writable and view.c_contiguous
    if writable:
        view[3] = 200
        assert getattr(batch, name)[3] == 200
        assert getattr(batch, name).tolist() == [*view[:3], 200, view[4]]
    else:
        with pytest.raises(TypeError):
            view[3] = 1
        with pytest.raises((BufferError, TypeError)):  # the exporter itself refuses, too
            struct.pack_into("B", view.obj, 0, 1)
    with pytest.raises(AttributeError):
        setattr(batch, name, bytes(5))


@pytest.mark.parametrize("name", COLUMNS)
def test_numpy_shares_the_memory(name: str) -> None:
    numpy = pytest.importorskip("numpy", reason="numpy is not installed (and not needed by the package)")
    batch = PacketBatch.from_frames(FRAMES)
    array = numpy.asarray(getattr(batch, name))
    assert array.dtype.itemsize == SIZES[COLUMNS[name][0]] and array.shape == (5,)
    assert array.flags.writeable is COLUMNS[name][1]
    assert numpy.shares_memory(array, numpy.asarray(getattr(batch, name)))
    if array.flags.writeable:
        array[1] = 7
        assert getattr(batch, name)[1] == 7


def test_arena_and_offsets() -> None:
    batch = PacketBatch.from_frames(FRAMES)
    arena = batch.arena
    assert (arena.format, arena.readonly, len(arena)) == ("B", True, sum(map(len, FRAMES)))
    for n, (at, length) in enumerate(zip(batch.offsets, batch.lengths, strict=True)):
        assert arena[at : at + length] == FRAMES[n] == batch.frame(n)


def test_a_view_keeps_the_batch() -> None:
    view = PacketBatch.from_frames(FRAMES).frame(4)
    assert view == FRAMES[4]


# --- while a view is alive ------------------------------------------------------------------------------


def refill(batch: PacketBatch) -> None:
    CaptureDecoder().fill(batch, in_pieces(pcap(FRAMES)))


def fragment(batch: PacketBatch) -> None:
    addresses = {"src": bytes(4), "dst": bytes(4), "smac": bytes(6), "dmac": bytes(6)}
    Encap(vni=1, **addresses, mtu=576, mtu_policy="fragment").process(batch)


@pytest.mark.parametrize(
    "act",
    [PacketBatch.clear, refill, fragment, Reassemble().process],
    ids=["clear", "refill", "fragment", "reassemble"],
)
def test_nothing_moves_under_a_view(act: Any) -> None:
    batch = PacketBatch.from_frames([frame(1400)])
    view = batch.lengths
    assert batch.exports == 1
    with pytest.raises(BufferError, match="1 views of it are alive"):
        act(batch)
    assert len(batch) == 1 and batch.frame(0) == frame(1400) and view[0] == 1400
    view.release()
    assert batch.exports == 0
    act(batch)


def test_views_are_counted() -> None:
    batch = PacketBatch.from_frames(FRAMES)
    views = [batch.vni, batch.verdict, batch.frame(0), memoryview(batch.vni)]
    assert batch.exports >= 3
    part = views[0][2:4]
    del views
    assert batch.exports == 1
    assert bytes(part) == bytes(8)
    part.release()
    assert batch.exports == 0
    batch.clear()
    assert len(batch) == 0 and len(batch.vni) == 0 and list(batch.vni) == []


def test_nodes_work_under_a_view() -> None:
    """What moves no memory may see its effects watched."""
    batch = PacketBatch.from_frames([frame()])
    vni, verdict = batch.vni, batch.verdict
    assert encap_batch(batch, SPEC) is batch
    assert (vni[0], verdict[0]) == (42, 0)


# --- frames in ------------------------------------------------------------------------------------------


def test_from_buffers_of_every_kind(tmp_path: Path) -> None:
    path = tmp_path / "frame"
    path.write_bytes(FRAMES[3])
    words = memoryview(bytes(64)).cast("Q", (2, 4))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        given = [FRAMES[0], bytearray(FRAMES[1]), memoryview(FRAMES[2]), mapped, words, b""]
        batch = PacketBatch.from_frames(given)
        assert len(batch) == 6
        for n, one in enumerate(given):
            assert batch.frame(n) == bytes(one)
    assert batch.frame(3) == FRAMES[3], "the batch has its own copy"
    given[1][:] = bytes(len(FRAMES[1]))  # type: ignore[index]
    assert batch.frame(1) == FRAMES[1]


def test_from_an_iterator() -> None:
    assert len(PacketBatch.from_frames(iter(FRAMES))) == 5
    empty = PacketBatch.from_frames([])
    assert len(empty) == 0 and empty.counts() == {} and empty.passed() == [] and len(empty.arena) == 0


@pytest.mark.parametrize("bad", ["text", 5, None, memoryview(bytes(10))[::2]])
def test_from_what_is_no_buffer(bad: Any) -> None:
    with pytest.raises(TypeError):
        PacketBatch.from_frames([bad])


def test_times_link_and_port() -> None:
    batch = PacketBatch.from_frames(FRAMES, ts_ns=7, link=113, port_in=3)
    assert list(batch.ts_ns) == [7] * 5 and list(batch.link) == [113] * 5 and list(batch.port_in) == [3] * 5
    times = [1_700_000_000_123_456_789 + n for n in range(5)]
    assert list(PacketBatch.from_frames(FRAMES, ts_ns=times).ts_ns) == times
    assert list(PacketBatch.from_frames(FRAMES[:2], ts_ns=iter([-1, 1])).ts_ns) == [-1, 1]
    with pytest.raises(ValueError, match="4 times for 5 frames"):
        PacketBatch.from_frames(FRAMES, ts_ns=times[:4])
    for wrong in ({"ts_ns": 1 << 63}, {"link": 65536}, {"port_in": -1}):
        with pytest.raises(OverflowError):
            PacketBatch.from_frames(FRAMES, **wrong)  # type: ignore[arg-type]


# --- frames out -----------------------------------------------------------------------------------------


def test_frame_is_a_view_or_joined() -> None:
    batch = PacketBatch.from_frames([frame()])
    bare = batch.frame(0)
    assert isinstance(bare, memoryview) and bare.readonly and bare == frame()
    encap_batch(batch, SPEC)
    joined = batch.frame(0)
    assert isinstance(joined, bytes) and joined[50:] == frame()
    assert (batch.head_lengths[0], batch.lengths[0], batch.wire_lengths[0]) == (50, 60, 110)
    assert bare == frame(), "headers stand elsewhere, the body has not moved"


@pytest.mark.parametrize("row", [-1, 5, 1 << 40])
def test_frame_of_no_row(row: int) -> None:
    with pytest.raises(IndexError, match=f"row {row} of a batch of 5"):
        PacketBatch.from_frames(FRAMES).frame(row)


def test_copy() -> None:
    batch = encap_batch(PacketBatch.from_frames([frame(), b"runt", frame(61)], ts_ns=[3, 4, 5], port_in=2), SPEC)
    batch.port_out[2] = 9
    twin = batch.copy()
    for name in ("verdict", "vni", "flow", "ts_ns", "link", "port_in", "port_out", "wire_lengths"):
        assert list(getattr(twin, name)) == list(getattr(batch, name)), name
    assert [bytes(twin.frame(n)) for n in range(3)] == [bytes(batch.frame(n)) for n in range(3)]
    assert list(twin.head_lengths) == [0, 0, 0]
    batch.clear()
    assert bytes(decap_batch(twin).frame(0)) == frame()
    assert len(PacketBatch().copy()) == 0


def test_blocks() -> None:
    """What a pcapng file holds besides packets, in its order."""
    file = Pcapng().interface().epb(FRAMES[0]).block(0x0BAD, b"other").epb(FRAMES[1])
    batch = batch_from(file.data)
    blocks = batch.blocks()
    assert [int.from_bytes(block[:4], "little") for block in blocks] == [0x0A0D0D0A, 1, 0x0BAD]
    assert all(type(block) is bytes and block in file.data for block in blocks)
    assert PacketBatch.from_frames(FRAMES).blocks() == []


# --- verdicts and ports ---------------------------------------------------------------------------------


def test_passed_and_counts() -> None:
    batch = PacketBatch.from_frames(FRAMES)
    assert batch.passed() == [0, 1, 2, 3, 4]
    assert batch.counts() == {Verdict.PASS: 5}
    batch.verdict[1] = batch.verdict[4] = Verdict.DROP_MTU
    batch.verdict[2] = Verdict.PUNT_PORT
    assert batch.passed() == [0, 3]
    counts = batch.counts()
    assert counts == {Verdict.PASS: 2, Verdict.PUNT_PORT: 1, Verdict.DROP_MTU: 2}
    assert all(isinstance(verdict, Verdict) for verdict in counts)


def test_group_by_port() -> None:
    batch = PacketBatch.from_frames(FRAMES)
    for row, port in enumerate([65535, 0, 7, 65535, 0]):
        batch.port_out[row] = port
    assert batch.group_by_port() == [(0, 0, 2), (7, 2, 3), (65535, 3, 5)]
    assert batch.passed() == [1, 4, 2, 0, 3], "as they came, within each port"
    batch.verdict[4] = Verdict.DROP_MTU
    batch.verdict[2] = Verdict.PUNT_PORT
    assert batch.group_by_port() == [(0, 0, 1), (65535, 1, 3)]
    assert batch.passed() == [1, 0, 3]
    assert batch.group_by_port(1 << Verdict.PUNT_PORT) == [(7, 0, 1)]
    assert batch.passed() == []
    assert PacketBatch().group_by_port() == []


def test_assign_ports() -> None:
    batch = PacketBatch.from_frames(FRAMES)
    for row, port in enumerate([0, 1, 2, 3, 1]):
        batch.port_out[row] = port
    batch.assign_ports([10, 20])
    assert list(batch.port_out) == [0, 11, 21, 0, 11]
    with pytest.raises(ValueError, match="65537 ports: at most 65536"):
        batch.assign_ports([0] * 65537)


# --- limits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "said"), [
    ({"rows": 0}, "rows = 0: a batch has 1 to 16777216 rows"),
    ({"rows": -1}, "rows = -1"),
    ({"rows": (1 << 24) + 1}, "rows = 16777217: a batch has 1 to 16777216 rows"),
    ({"arena_len": -1}, "arena_len = -1 bytes: at most 4294901760"),
    ({"arena_len": 0xFFFF0001}, "arena_len = 4294901761 bytes: at most 4294901760"),
])  # fmt: skip
def test_limits(size: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PacketBatch(**size)


def test_smallest_and_repr() -> None:
    batch = PacketBatch(1, 0)
    assert len(batch) == 0 and repr(batch) == "<PacketBatch of 0 rows, 0 bytes>"
    assert repr(PacketBatch.from_frames(FRAMES)) == "<PacketBatch of 5 rows, 310 bytes>"
    refill(batch)
    assert len(batch) == 1, "there is room for one: the decoder keeps the rest for the next time"
    with pytest.raises(AttributeError):
        batch.other = 1  # type: ignore[attr-defined]
