"""What the benchmark files share: batches, a way to call, and a table in packets at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest

from vxlanfast._ext.batch import PacketBatch
from vxlanfast.benchmark import machine
from vxlanfast.benchmark.inputs import TRAFFIC, Block, blocks
from vxlanfast.benchmark.memory import load_probe, make_batch

ROWS = (1, 64, 256, 2048)
SIZES = ("64", "1400")
#: Packets a case takes through at least, and the calls it makes at least and at most.
PACKETS, CALLS_MIN, CALLS_MAX = 2_000_000, 50, 5000

Measure = Callable[..., None]


@cache
def twins(size: str) -> tuple[Block, Block]:
    """The blocks of plain and of VXLAN records, of a fixed seed."""
    return blocks(TRAFFIC[size])


def plain(size: str, rows: int) -> PacketBatch:
    """A batch of Ethernet frames, as read from a capture."""
    return make_batch(twins(size)[0], rows)


def vxlan(size: str, rows: int) -> PacketBatch:
    """The same in VXLAN."""
    return make_batch(twins(size)[1], rows)


@pytest.fixture(params=ROWS, ids=lambda rows: f"{rows} rows")
def rows(request: pytest.FixtureRequest) -> int:
    """Rows of a batch."""
    return int(request.param)


@pytest.fixture(params=SIZES, ids=lambda size: f"{size} B")
def size(request: pytest.FixtureRequest) -> str:
    """Bytes of inner frame."""
    return str(request.param)


@pytest.fixture(scope="session")
def probe() -> Any:
    """The C loops of probe.pyx."""
    built = load_probe()
    if built is None:
        pytest.skip("bench/probe.pyx needs a C compiler and Cython")
    return built


@pytest.fixture
def measure(benchmark: Any) -> Measure:
    """``measure(act, packets=, packet_len=, prepare=)``: one call of ``act`` takes so many packets of so
    many bytes through; ``prepare`` comes before each, outside the timing.
    """

    def run(
        act: Callable[[], object],
        *,
        packets: int,
        packet_len: float,
        prepare: Callable[[], object] | None = None,
    ) -> None:
        def setup() -> None:
            if prepare is not None:
                prepare()

        calls = min(CALLS_MAX, max(CALLS_MIN, PACKETS // packets))
        benchmark.extra_info.update(packets_per_round=packets, packet_len=packet_len)
        benchmark.pedantic(act, setup=setup, rounds=calls, iterations=1, warmup_rounds=10)
        if benchmark.stats is not None:  # None with --benchmark-disable
            seconds = benchmark.stats.stats.median
            benchmark.extra_info.update(
                ns_per_packet=round(seconds / packets * 1e9, 3),
                mpps=round(packets / seconds / 1e6, 3),
                gigabytes_per_s=round(packets * packet_len / seconds / 1e9, 3),
            )

    return run


def pytest_configure(config: pytest.Config) -> None:
    """Cases here are called what they are."""
    config.addinivalue_line("python_functions", "bench_*")


def pytest_report_header() -> str:
    """The machine, above the results."""
    return ", ".join(machine.describe().values())


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """The machine, in the JSON."""
    machine_info["vxlanfast"] = machine.describe()


def _benchmarks(config: pytest.Config) -> Iterator[Any]:
    session = getattr(config, "_benchmarksession", None)
    for bench in getattr(session, "benchmarks", ()):
        if "ns_per_packet" in bench.extra_info:
            yield bench


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The same figures by packet, which is what they are about."""
    found = list(_benchmarks(config))
    if not found:
        return
    terminalreporter.section("by packet, medians")
    terminalreporter.write_line(f"{'':60} {'ns':>9} {'Mpps':>9} {'GB/s':>9}")
    for bench in found:
        info = bench.extra_info
        figures = f"{info['ns_per_packet']:9.2f} {info['mpps']:9.2f} {info['gigabytes_per_s']:9.2f}"
        terminalreporter.write_line(f"{bench.name.removeprefix('bench_'):60} {figures}")
