"""wire: leaves of the core, called in a C loop over frames that lie side by side (probe.pyx)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from conftest import Measure, twins

from vxlanfast.benchmark.inputs import RECORD_HEADER_LEN


def frames(size: str, rows: int) -> bytes:
    """``rows`` frames without gaps."""
    block = twins(size)[0]
    starts = block.starts[: rows + 1]
    return b"".join(bytes(block.bytes[a + RECORD_HEADER_LEN : b]) for a, b in pairwise(starts))


def bench_csum(measure: Measure, probe: Any, size: str, rows: int) -> None:
    """The Internet checksum over the whole frame."""
    content, length = frames(size, rows), int(size)
    measure(lambda: probe.csum_packets(content, length), packets=rows, packet_len=length)


def bench_flow_hash(measure: Measure, probe: Any, size: str, rows: int) -> None:
    """The flow hash of TCP and UDP over IPv4."""
    content, length = frames(size, rows), int(size)
    measure(lambda: probe.flow_packets(content, length, 1), packets=rows, packet_len=length)
