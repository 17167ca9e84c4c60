"""bench/live.py: it runs to its end, its figures add up, and nothing of it is left. No figure is judged here."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from tests.lab import need_root
from tests.support import ASAN, PYTHON, ROOT, VERBS_ENV

BENCH = ROOT / "bench" / "live.py"
COMMAND = [PYTHON, str(BENCH), "--quick"]


def need_bench(*programs: str) -> None:
    need_root("ping", *programs)
    if shutil.which("gcc") is None and shutil.which("cc") is None:
        pytest.skip("needs a C compiler: bench/live_load.c")
    if not os.path.exists("/dev/net/tun"):
        pytest.skip("there is no /dev/net/tun")
    if ASAN:
        pytest.skip("programs of others start this build's processes: they have no sanitizer")


def run(tmp_path: Path, *options: str) -> tuple[list[dict[str, Any]], str]:
    """Its turns, and its tables."""
    numbers, tables = tmp_path / "live.json", tmp_path / "live.md"
    done = subprocess.run(
        [*COMMAND, *options, "--json", str(numbers), "--markdown", str(tables)], capture_output=True, text=True,
        env=VERBS_ENV, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert tables.read_text() == done.stdout
    made = json.loads(numbers.read_text())
    assert made["reasons"] == {}, done.stderr
    return made["turns"], done.stdout


def adds_up(turn: dict[str, Any]) -> None:
    """Nobody got more than was sent."""
    if "connections" in turn["what"]:
        assert 0 < turn["done"] <= turn["tried"] and turn["done"] + turn["failed"] == turn["tried"], turn
        assert turn["done"] <= turn["accepted"] <= turn["tried"], turn
        return
    assert 0 < turn["received"] <= turn["sent"], turn
    if turn["what"] == "latency":
        assert 0 < turn["p50"] <= turn["p99"] <= turn["p99.9"] <= turn["most"], turn
        assert turn["loss"] == 1 - turn["received"] / turn["sent"], turn
    if turn["what"].startswith("tcp"):
        assert turn["cpu"] > 0 and ("own" in turn) == turn["side"].startswith("sockets"), turn


def left(pid: int) -> list[str]:
    """Namespaces of a bench, and its folder."""
    return [
        name for folder in ("/run/netns", tempfile.gettempdir()) if os.path.isdir(folder)
        for name in os.listdir(folder) if name.startswith(f"vfbench{pid}-")
    ]  # fmt: skip


@pytest.mark.root
@pytest.mark.slow
def test_two_sides(tmp_path: Path) -> None:
    """The kernel's, and ours at both ends: every figure of an overlay, a table for each."""
    need_bench()
    turns, tables = run(tmp_path, "--sides", "kernel,sockets-both", "--rows", "tcp,small,latency")
    sides, wanted = ("kernel", "sockets-both"), ("tcp out", "tcp in", "small out", "small in", "latency")
    assert {(turn["side"], turn["what"]) for turn in turns} == {(side, what) for side in sides for what in wanted}
    assert all(turn["round"] == 0 for turn in turns)
    for turn in turns:
        adds_up(turn)
    for text in ("P9: TCP", "P10: UDP", "UDP echo of 64 bytes", "ours at both ends, sockets", "0.55; 1.0", "CPython"):
        assert text in tables
    assert "P11" not in tables


@pytest.mark.root
@pytest.mark.slow
def test_translations_and_streams_of_our_own(tmp_path: Path) -> None:
    """A published port of a node beside its wire; streams without iperf3."""
    need_bench()
    turns, tables = run(tmp_path, "--sides", "nat,direct", "--rows", "nat,tcp", "--own-streams")
    assert [turn["what"] for turn in turns] == ["tcp out", "tcp in", "nat small", "nat connections"]
    for turn in turns:
        adds_up(turn)
    assert "P11: address translation" in tables and "streams by live_load.c" in tables


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left(tmp_path: Path, number: signal.Signals) -> None:
    """Told to end, it takes its namespaces with it; killed, the next one does."""
    need_bench()
    with subprocess.Popen(
        [*COMMAND, "--sides", "sockets", "--rounds", "100"], env=VERBS_ENV, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as bench:  # fmt: skip
        end = time.monotonic() + 60
        while len(left(bench.pid)) < 5:
            assert bench.poll() is None and time.monotonic() < end
            time.sleep(0.05)
        bench.send_signal(number)
        bench.wait(60)
    if number == signal.SIGKILL:
        run(tmp_path, "--sides", "nat-direct")
    assert left(bench.pid) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sides", "kernel,nobody"], "side 'nobody': direct, kernel"),
        (["--rows", "p9"], "table 'p9': tcp, small, latency, nat"),
        (["--rounds", "0"], "--rounds 0: at least 1"),
    ],
)
def test_what_it_does_not_know(options: list[str], said: str) -> None:
    done = subprocess.run([*COMMAND, *options], capture_output=True, text=True, env=VERBS_ENV, check=False)
    assert done.returncode == 2 and said in done.stderr
