"""io: captures to batches and back, in memory."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Measure, plain, twins, vxlan

from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.io.reader import CaptureDecoder
from vxlanfast._ext.io.writer import CaptureEncoder
from vxlanfast._ext.node.decap import Decap
from vxlanfast.benchmark.inputs import OUTER_LEN, file_header
from vxlanfast.benchmark.memory import reader
from vxlanfast.spec import TunnelSpec, compile_tunnel

FORMATS = ("pcap", "nsecpcap", "pcapng")
ROOM = 4096 * (1600 + 256)


@pytest.fixture(params=FORMATS)
def format(request: pytest.FixtureRequest) -> str:
    """Format of the capture."""
    return str(request.param)


def capture_of(batch: PacketBatch, format: str) -> memoryview:
    """The batch as a capture."""
    encoder = CaptureEncoder(format, buffer_len=ROOM)
    encoder.begin((1,), tsresol=6 if format == "pcap" else 9)
    assert encoder.encode(batch) is None
    return memoryview(bytes(encoder.pending()))


def bench_fill(measure: Measure, format: str, size: str, rows: int) -> None:
    """Bytes of a capture, copied in and decoded into rows; a fresh decoder each time."""
    capture = capture_of(vxlan(size, rows), format)
    batch = PacketBatch(rows, len(capture))
    state: dict[str, Any] = {}

    def prepare() -> None:
        decoder = CaptureDecoder()
        decoder.chunk_len = len(capture)
        state.update(fill=decoder.fill, readinto=reader(capture))

    def act() -> None:
        state["fill"](batch, state["readinto"])

    measure(act, packets=rows, packet_len=len(capture) / rows, prepare=prepare)
    assert len(batch) == rows


def encode(measure: Measure, batch: PacketBatch, format: str) -> None:
    """The batch into a buffer that is large enough."""
    encoder = CaptureEncoder(format, buffer_len=ROOM)
    encoder.begin((1,), tsresol=6 if format == "pcap" else 9)
    encoder.clear()
    rows = len(batch)
    assert encoder.encode(batch) is None
    packet_len = len(encoder.pending()) / rows
    measure(lambda: encoder.encode(batch), packets=rows, packet_len=packet_len, prepare=encoder.clear)


def bench_encode_decapsulated(measure: Measure, format: str, size: str, rows: int) -> None:
    """Inner frames out of the batch they were read into."""
    encode(measure, Decap((4789,)).process(vxlan(size, rows)), format)


def bench_encode_encapsulated(measure: Measure, format: str, size: str, rows: int) -> None:
    """Headers and frames, from two places each."""
    tunnel = compile_tunnel(TunnelSpec(vni=42, src="192.0.2.1", dst="192.0.2.2"))
    encode(measure, tunnel.process(plain(size, rows)), format)


def bench_capture_memcpy(measure: Measure, size: str, rows: int) -> None:
    """For comparison: the VXLAN capture's bytes moved in one piece."""
    block = twins(size)[1]
    source = memoryview(file_header() + bytes(block.bytes[: block.starts[rows]]))
    to = memoryview(bytearray(len(source)))

    def act() -> None:
        to[:] = source

    measure(act, packets=rows, packet_len=int(size) + OUTER_LEN)
