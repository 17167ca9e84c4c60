"""In memory, on one core: the nodes over batches as a Python program calls them, beside memcpy of the same
bytes.

A node changes the batch it is given, so before each call the columns are put back as they were, outside the
timing. "Hot" is one batch again and again, in the core's own caches; "streaming" goes through more memory
than any cache holds. "Gathered": headers and frames are written into one buffer without gaps, as every file
and socket wants them, with the 16 bytes of a capture record in front of each.

memcpy copies the same bytes, packet by packet, in C: that loop is ``bench/probe.pyx``, compiled when it is
needed. Where the source tree or a compiler is missing it is one memmove over all of them, which has no
packets to tell apart.
"""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
import sys
import tempfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import Any

import vxlanfast
from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.io.reader import CaptureDecoder
from vxlanfast._ext.io.writer import CaptureEncoder
from vxlanfast._ext.node.decap import Decap
from vxlanfast._ext.node.direct import encap_encode
from vxlanfast._ext.node.parse import Parse
from vxlanfast.benchmark.inputs import (
    OUTER_LEN,
    RECORD_HEADER_LEN,
    TRAFFIC,
    VNIS,
    VTEPS,
    Block,
    Traffic,
    blocks,
    file_header,
)
from vxlanfast.benchmark.results import Figure
from vxlanfast.spec import DEFAULT_PORTS, TunnelSpec, compile_tunnel

#: Rows of a hot batch: bodies, headers and output of either size stay in a second-level cache.
HOT_ROWS = {"64": 1024, "1400": 128}
#: Rows where nothing is copied.
NODE_ROWS = 2048
#: Bytes of output a streaming pass makes, about; all it touches is three times that.
STREAM_LEN = 64_000_000
#: Seconds of work timed per side and round.
SLICE_S = 0.1
#: Figures are given for so many packets.
PER = 1_000_000
PAGE_LEN = 4096

Act = Callable[[], object]


class _PyBuffer(ctypes.Structure):
    """CPython's ``Py_buffer``, to learn where a read-only view lies."""

    _fields_ = (
        ("buf", ctypes.c_void_p), ("obj", ctypes.py_object), ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t), ("readonly", ctypes.c_int), ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p), ("shape", ctypes.c_void_p), ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p), ("internal", ctypes.c_void_p),
    )  # fmt: skip


def address_of(view: memoryview) -> int:
    """Where the bytes of a view lie."""
    buffer = _PyBuffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(view), ctypes.byref(buffer), 0)
    where = int(buffer.buf or 0)
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))
    return where


class Rewind:
    """Puts the columns of a batch back as they were when this was made: called, it undoes what nodes have
    done.

    It writes where Python code must not: measuring a node alone takes a batch that was not touched.
    """

    COLUMNS = ("offsets", "lengths", "wire_lengths", "head_lengths", "link", "verdict")

    def __init__(self, batch: PacketBatch) -> None:
        self.batch = batch
        self.saved = []
        for name in self.COLUMNS:
            with getattr(batch, name) as view:
                self.saved.append((address_of(view), view.tobytes()))

    def __call__(self) -> None:
        for where, content in self.saved:
            ctypes.memmove(where, content, len(content))


def make_batch(block: Block, rows: int) -> PacketBatch:
    """A batch of ``rows`` rows, as read from a capture: the block's packets, again and again."""
    whole, rest = divmod(rows, block.packets)
    capture = memoryview(file_header() + bytes(block.bytes) * whole + bytes(block.bytes[: block.starts[rest]]))
    batch = PacketBatch(rows, len(capture))
    decoder = CaptureDecoder()
    decoder.chunk_len = len(capture)
    decoder.fill(batch, reader(capture))
    if len(batch) != rows:
        raise AssertionError(f"{len(batch)} of {rows} rows")
    return batch


def reader(capture: memoryview) -> Callable[[memoryview], int]:
    """What a decoder reads from: a capture in memory, from its start."""
    at = 0

    def readinto(buffer: memoryview) -> int:
        nonlocal at
        n = min(len(buffer), len(capture) - at)
        buffer[:n] = capture[at : at + n]
        at += n
        return n

    return readinto


@cache
def load_probe() -> Any:
    """The compiled loops, or None where they cannot be had."""
    root = Path(vxlanfast.__file__).resolve().parent.parent
    builder = root / "bench" / "build_probe.py"
    if not builder.exists():
        return None
    folder = root / "build" / "bench"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="vxlanfast-probe-"))
    built = subprocess.run(
        [sys.executable, str(builder), str(folder)], capture_output=True, text=True, check=False
    )
    found = sorted(folder.glob("probe.*.so"))
    if built.returncode or not found:
        return None
    spec = importlib.util.spec_from_file_location("probe", found[0])
    if spec is None or spec.loader is None:
        return None
    probe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(probe)
    return probe


def time_slice(prepare: Act, act: Act, slice_s: float = SLICE_S) -> float:
    """Call the two in turn until ``act`` has taken ``slice_s`` in all: the seconds of its middle call.

    The middle one, so that a call in which the core was given to somebody else does not count.
    """
    taken: list[int] = []
    spent = 0
    limit = int(slice_s * 1e9)
    while spent < limit or not taken:
        prepare()
        began = perf_counter_ns()
        act()
        taken.append(perf_counter_ns() - began)
        spent += taken[-1]
    return median(taken) / 1e9


@dataclass(slots=True)
class Case:
    """Something to measure: ``act`` takes ``rows`` packets through; ``limit`` moves the bytes it makes."""

    name: str
    size: str
    rows: int
    packet_len: float
    act: Act
    prepare: Act = lambda: None
    limit: Act | None = None
    note: str = ""

    def measure(self, rounds: int, slice_s: float, *, job: str = "memory") -> Figure:
        """The figure, of rounds in which both sides have their turn."""
        seconds: list[float] = []
        limits: list[float] = []
        for number in range(rounds + 1):  # the first warms up
            for act, prepare, into in ((self.act, self.prepare, seconds), (self.limit, lambda: None, limits)):
                if act is not None:
                    taken = time_slice(prepare, act, slice_s if number else 0)
                    if number:
                        into.append(taken / self.rows * PER)
        return Figure(
            job=job, size=self.size, side=self.name, packets=PER, packet_len=self.packet_len,
            seconds=tuple(seconds), limit_seconds=tuple(limits), measured_packets=PER, note=self.note,
        )  # fmt: skip


def half_a_page_off(to: bytearray, content: bytes | memoryview) -> memoryview:
    """A copy of ``content`` that lies half a page off ``to``: where libc copies best.

    At the same place of their pages it copies downwards, which at 1400 bytes is half as fast from memory.
    """
    room = bytearray(len(content) + 2 * PAGE_LEN)
    at = (address_of(memoryview(to)) - address_of(memoryview(room)) + PAGE_LEN // 2) % PAGE_LEN
    placed = memoryview(room)[at : at + len(content)]
    placed[:] = content
    return placed


def copy_of(content: bytes | memoryview, lengths: Sequence[int]) -> Act:
    """memcpy of ``content``, packets of these lengths, into memory of its own."""
    probe = load_probe()
    to = bytearray(len(content))
    source = half_a_page_off(to, content)
    if probe is not None:
        each = array("I", lengths)
        return lambda: probe.copy_packets(to, source, each)
    held, kept = (ctypes.c_char * len(to)).from_buffer(to), (ctypes.c_char * len(source)).from_buffer(source)
    return lambda: ctypes.memmove(held, kept, len(to))


def limit_name() -> str:
    """What ``copy_of`` is on this machine."""
    return "memmove of all packets in one piece" if load_probe() is None else "memcpy packet by packet"


def tunnel(**options: Any) -> TunnelSpec:
    """The tunnel that frames are put into."""
    return TunnelSpec(vni=VNIS[0], src=VTEPS[0], dst=VTEPS[1], **options)


def node_case(
    name: str, node: Any, batch: PacketBatch, traffic: Traffic, frame_len: float, note: str
) -> Case:
    """A node alone, over one batch."""
    return Case(
        name, traffic.name, len(batch), frame_len, lambda: node.process(batch), Rewind(batch), note=note
    )


def gather_case(name: str, traffic: Traffic, block: Block, rows: int, note: str) -> Case:
    """Encapsulation into one buffer, beside memcpy of what it writes."""
    batch = make_batch(block, rows)
    node: Any = compile_tunnel(tunnel())
    out_len = RECORD_HEADER_LEN + OUTER_LEN + traffic.mean
    encoder = CaptureEncoder("pcap", buffer_len=int(rows * out_len) + 65536)
    encoder.begin((1,))
    encoder.clear()

    def act() -> None:  # rows that take this way stand in the batch as before: nothing to put back
        encoder.clear()
        if encap_encode(node, encoder, batch) is not None:
            raise AssertionError("the buffer is too small")

    act()
    lengths = [RECORD_HEADER_LEN + OUTER_LEN + traffic.lengths[i % len(traffic.lengths)] for i in range(rows)]
    with encoder.pending() as written:
        if len(written) != sum(lengths):
            raise AssertionError(f"{len(written)} bytes written, {sum(lengths)} expected")
        limit = copy_of(written, lengths)
    return Case(name, traffic.name, rows, out_len, act, limit=limit, note=note)


def capture_case(verb: str, traffic: Traffic, block: Block, stream_len: int) -> Case:
    """A whole capture in memory to another: decoded, worked on, encoded, as ``decap_file`` does between
    its files.
    """
    decap = verb == "decap"
    frame_len = traffic.mean + (OUTER_LEN if decap else 0)
    repeats = max(1, stream_len // len(block.bytes))
    whole = memoryview(bytes(file_header()) + bytes(block.bytes) * repeats)
    packets = block.packets * repeats
    encoder = CaptureEncoder("pcap", buffer_len=len(whole) + packets * OUTER_LEN + 65536)
    node: Any = Decap(DEFAULT_PORTS) if decap else compile_tunnel(tunnel())
    batch = PacketBatch()

    def act() -> None:
        ordinal = 0
        decoder, readinto = CaptureDecoder(), reader(whole)
        encoder.clear()
        encoder.begin((1,))
        while decoder.fill(batch, readinto):
            if decap:
                node.process(batch)
            ordinal += len(batch)
            if (encoder.encode(batch) if decap else encap_encode(node, encoder, batch)) is not None:
                raise AssertionError("the buffer is too small")
        if ordinal != packets:
            raise AssertionError(f"{ordinal} of {packets} packets")

    act()
    each = [RECORD_HEADER_LEN + traffic.lengths[i % len(traffic.lengths)] + OUTER_LEN for i in range(packets)]
    if decap:
        larger: bytes | memoryview = whole[len(file_header()) :]
    else:
        with encoder.pending() as written:
            larger = bytes(written[len(file_header()) :])
    limit = copy_of(larger, each)
    note = f"read, {verb}, written; memcpy of the {'input' if decap else 'output'}"
    return Case(
        f"{verb}, capture to capture",
        traffic.name,
        packets,
        RECORD_HEADER_LEN + frame_len,
        act,
        limit=limit,
        note=note,
    )


def probe_cases(probe: Any, plain: dict[str, Block]) -> Iterator[Case]:
    """The wire formats' own loops, without a batch."""
    for name, length, rows, act, note in (
        ("checksum", 1400, 64, probe.csum_packets, "RFC 1071, hot"),
        ("flow hash", 64, 1024, probe.flow_packets, "hot"),
    ):
        block = plain[str(length)]
        frames = b"".join(
            bytes(block.bytes[start + RECORD_HEADER_LEN : end])
            for start, end in zip(block.starts[:rows], block.starts[1 : rows + 1], strict=True)
        )
        yield Case(name, str(length), rows, length, lambda act=act, f=frames, n=length: act(f, n), note=note)  # type: ignore[misc]


def cases(stream_len: int = STREAM_LEN) -> Iterator[Case]:
    """Everything that is measured, made when it is its turn: each is dropped before the next is made."""
    small, large = TRAFFIC["64"], TRAFFIC["1400"]
    made = {traffic.name: blocks(traffic) for traffic in (small, large)}
    plain = {name: pair[0] for name, pair in made.items()}
    vxlan = {name: pair[1] for name, pair in made.items()}
    packet_len = small.mean + OUTER_LEN

    batch = make_batch(plain["64"], NODE_ROWS)
    yield node_case(
        "parse and validate", Parse(), batch, small, small.mean, "headers, lengths, flow hash; hot"
    )
    batch = make_batch(vxlan["64"], NODE_ROWS)
    yield node_case("find VXLAN", Decap(DEFAULT_PORTS, peek=True), batch, small, packet_len, "hot")
    yield node_case("decap", Decap(DEFAULT_PORTS), batch, small, packet_len, "hot")
    for traffic in (small, large):
        batch = make_batch(plain[traffic.name], HOT_ROWS[traffic.name])
        node = compile_tunnel(tunnel())
        yield node_case(
            "encap, headers only", node, batch, traffic, traffic.mean + OUTER_LEN, "frames not copied; hot"
        )
    batch = make_batch(plain["1400"], HOT_ROWS["1400"])
    summing: Any = compile_tunnel(tunnel(udp_csum="on"))
    yield node_case("encap, UDP checksum", summing, batch, large, large.mean + OUTER_LEN, "frames read; hot")
    twin = summing.process(make_batch(plain["1400"], HOT_ROWS["1400"])).copy()
    strict = Decap(DEFAULT_PORTS, strict=True)
    yield node_case(
        "decap, checksums verified", strict, twin, large, large.mean + OUTER_LEN, "frames read; hot"
    )
    for traffic in (small, large):
        rows = HOT_ROWS[traffic.name]
        yield gather_case("encap, gathered", traffic, plain[traffic.name], rows, "hot; memcpy of the output")
    for traffic in (small, large):
        rows = int(stream_len / (RECORD_HEADER_LEN + OUTER_LEN + traffic.mean)) + 1
        yield gather_case("encap, gathered, streaming", traffic, plain[traffic.name], rows, "memcpy of the output")
    for verb, side in (("decap", vxlan), ("encap", plain)):
        for traffic in (small, large):
            yield capture_case(verb, traffic, side[traffic.name], stream_len)
    probe = load_probe()
    if probe is not None:
        yield from probe_cases(probe, plain)


def measure_memory(
    rounds: int, progress: Callable[[str], None], *, slice_s: float = SLICE_S, stream_len: int = STREAM_LEN
) -> list[Figure]:
    """All cases, one after the other; within one, both sides take turns."""
    progress("memory: compiling bench/probe.pyx")
    load_probe()
    figures = []
    for case in cases(stream_len):
        progress(f"memory: {case.name}, {case.size} B")
        figures.append(case.measure(rounds, slice_s))
    return figures
