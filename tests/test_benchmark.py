"""vxlanfast.benchmark: the inputs are what they claim, wrong results are found, and every side and shape of
report works.

No figure is judged here.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import struct
import subprocess
import sys
from itertools import groupby, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

import vxlanfast as vf
from vxlanfast.benchmark import machine, memory, mesh, peers, plane, report, runner
from vxlanfast.benchmark.inputs import (
    FILE_HEADER_LEN,
    FLOWS,
    OUTER_LEN,
    TRAFFIC,
    VNIS,
    VTEPS,
    blocks,
    make_flows,
    write_twins,
)
from vxlanfast.benchmark.peers import PEERS, Peer, Task, check, compare_frames
from vxlanfast.benchmark.results import CANNOT, FAILED, MEASURED, NOT_INSTALLED, Figure, Report
from vxlanfast.benchmark.runner import JOBS, Settings, run, run_process

EVERY_TRAFFIC = pytest.mark.parametrize("traffic", TRAFFIC.values(), ids=TRAFFIC)


@pytest.fixture
def no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is compiled: as where only the package is installed."""
    monkeypatch.setattr(memory, "load_probe", lambda: None)


@pytest.fixture
def task(tmp_path: Path) -> Task:
    """An encapsulation of a hundred packets, its output made by the library."""
    made = runner.Inputs(tmp_path).task("encap", TRAFFIC["imix"], 100)
    peers.call(made)
    return made


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# Inputs


@EVERY_TRAFFIC
@pytest.mark.parametrize("packets", [1, 5, 3072, 3073, 7000])
def test_twins(tmp_path: Path, traffic: Any, packets: int) -> None:
    """The same bytes each time, of the length foretold; decapsulated, one twin is the other."""
    digests = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        write_twins(folder / "plain", folder / "vxlan", traffic, packets)
        digests.append((sha256(folder / "plain"), sha256(folder / "vxlan")))
    assert digests[0] == digests[1]
    assert (folder / "plain").stat().st_size == traffic.file_len(packets, vxlan=False)
    assert (folder / "vxlan").stat().st_size == traffic.file_len(packets, vxlan=True)
    stats = vf.decap_file(folder / "vxlan", folder / "inner")
    assert (stats.packets, stats.passed) == (packets, packets)
    assert sha256(folder / "inner") == digests[0][0]


def test_other_seed(tmp_path: Path) -> None:
    """A seed of its own makes packets of its own."""
    for seed in (1, 2):
        write_twins(tmp_path / f"p{seed}", tmp_path / f"v{seed}", TRAFFIC["64"], 10, seed=seed)
    assert sha256(tmp_path / "p1") != sha256(tmp_path / "p2")


def test_times_never_go_back(tmp_path: Path) -> None:
    """Also from block to block."""
    write_twins(tmp_path / "p", tmp_path / "v", TRAFFIC["1400"], 9000)
    with vf.open_capture(tmp_path / "v") as capture:
        times = [ts for batch in capture.batches() for ts in bytes_of(batch.ts_ns)]
    assert len(times) == 9000
    assert all(a < b for a, b in pairwise(times))


def bytes_of(view: memoryview) -> list[int]:
    """A column's values; the view is let go."""
    with view:
        return list(view)


def test_variety(tmp_path: Path) -> None:
    """Hundreds of flows, several networks, both protocols."""
    flows = make_flows()
    assert len({(f.src, f.dst, f.sport, f.dport, f.proto) for f in flows}) == FLOWS
    assert {f.vni for f in flows} == set(VNIS)
    assert {f.proto for f in flows} == {6, 17}
    write_twins(tmp_path / "p", tmp_path / "v", TRAFFIC["64"], 3072)
    assert {n.vni for n in vf.survey_file(tmp_path / "v").networks} == set(VNIS)


@EVERY_TRAFFIC
def test_lengths(traffic: Any) -> None:
    """Frames come in the lengths asked for."""
    plain, vxlan = blocks(traffic)
    for block, extra in ((plain, 0), (vxlan, OUTER_LEN)):
        lengths = [b - a - 16 - extra for a, b in pairwise(block.starts)]
        assert lengths == list(traffic.lengths) * (block.packets // len(traffic.lengths))
    size = traffic.file_len(1000, vxlan=True)
    assert abs(traffic.packets_within(size) - 1000) <= len(traffic.lengths)


def test_scapy_reads_them(tmp_path: Path) -> None:
    """Every layer where it belongs, and every checksum as scapy computes it."""
    pytest.importorskip("scapy")
    from scapy.layers.inet import IP, TCP, UDP
    from scapy.layers.l2 import Ether
    from scapy.layers.vxlan import VXLAN
    from scapy.utils import rdpcap

    write_twins(tmp_path / "p", tmp_path / "v", TRAFFIC["imix"], 48)
    for plain, packet in zip(rdpcap(str(tmp_path / "p")), rdpcap(str(tmp_path / "v")), strict=True):
        assert bytes(packet[VXLAN].payload) == bytes(plain)
        assert packet[VXLAN].vni in VNIS
        assert (packet[IP].src, packet[IP].dst) == VTEPS
        assert packet[UDP].chksum == 0
        for layers in (plain, packet.copy()):
            again = layers.copy()
            for layer in (IP, TCP, UDP):
                if layer in again and (layer is IP or again is not packet):
                    del again[layer].chksum
            if VXLAN in again:
                again[UDP].chksum = 0
            assert bytes(Ether(bytes(again))) == bytes(layers)


@pytest.mark.tshark
def test_tshark_reads_them(tmp_path: Path) -> None:
    """Every packet is VXLAN, and no checksum wrong, outside or inside."""
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed")
    write_twins(tmp_path / "p", tmp_path / "v", TRAFFIC["imix"], 600)
    checks = [f"{name}.check_checksum:TRUE" for name in ("ip", "tcp", "udp")]
    options = [part for check in checks for part in ("-o", check)]
    bad = " || ".join(f"{name}.checksum.status == 0" for name in ("ip", "tcp", "udp"))
    for wanted, number in (("vxlan", 600), (bad, 0)):
        argv = [
            "tshark",
            "-r",
            str(tmp_path / "v"),
            *options,
            "-Y",
            wanted,
            "-T",
            "fields",
            "-e",
            "vxlan.vni",
        ]
        said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        assert len(said.splitlines()) == number


# What tells right from wrong


def test_correct(task: Task) -> None:
    """The library's own output passes, with and without the long way."""
    ours = next(peer for peer in PEERS if peer.in_process)
    assert check(ours, task) == "correct"


def test_correct_beyond_those_walked(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long files are compared through decapsulation behind the first packets."""
    ours = next(peer for peer in PEERS if peer.in_process)
    monkeypatch.setattr(peers, "WALKED", 10)
    assert check(ours, task) == "correct"
    content = bytearray(task.target.read_bytes())
    content[-1] ^= 1
    task.target.write_bytes(content)
    assert check(ours, task) == "wrong behind packet 10"
    assert not list(task.target.parent.glob("*.back"))


FIRST = FILE_HEADER_LEN + 16  # where the first packet starts


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        (FIRST + 12, 0x86, "no UDP over IPv4"),
        (FIRST + 24, 0xFF, "wrong IPv4 checksum"),
        (FIRST + 38, 0xFF, "wrong outer length"),
        (FIRST + 36, 0xFF, "wrong port"),
        (FIRST + 42, 0x00, "wrong VXLAN header"),
        (FIRST + 48, 0x01, "wrong VXLAN header"),
        (FIRST + 60, 0xFF, "wrong frame"),
        (FIRST - 8, 0x00, "wrong length"),
        (FIRST - 16, 0xFF, "wrong time"),
    ],
)
def test_wrong(task: Task, at: int, value: int, said: str) -> None:
    """One byte is enough."""
    content = bytearray(task.target.read_bytes())
    content[at] = value
    task.target.write_bytes(content)
    assert compare_frames(task.target, task.plain, OUTER_LEN) == f"packet 1: {said}"


def test_wrong_vtep(task: Task) -> None:
    """The right headers of another tunnel are wrong."""
    vf.encap_file(task.plain, task.target, vf.TunnelSpec(vni=VNIS[0], src="192.0.2.9", dst=VTEPS[1]))
    assert compare_frames(task.target, task.plain, OUTER_LEN) == "packet 1: wrong VTEP"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content[:10], "no capture"),
        (lambda content: content[:FILE_HEADER_LEN], "ends after 0 packets"),
        (lambda content: content + b"x", "goes on after 100 packets"),
    ],
)
def test_wrong_end(task: Task, change: Any, said: str) -> None:
    """Packets are counted."""
    task.target.write_bytes(change(task.target.read_bytes()))
    assert compare_frames(task.target, task.plain, OUTER_LEN) == said


def test_microsecond_off(task: Task) -> None:
    """What a detour through floats costs is told, and no error."""
    content = bytearray(task.target.read_bytes())
    us = struct.unpack_from("<I", content, FILE_HEADER_LEN + 4)[0]
    struct.pack_into("<I", content, FILE_HEADER_LEN + 4, us + 1)
    task.target.write_bytes(content)
    assert compare_frames(task.target, task.plain, OUTER_LEN) == "correct, 1 times off by 1 µs"


def test_copies(task: Task) -> None:
    """Of those that only move bytes the bytes are looked at."""
    cp = next(peer for peer in PEERS if peer.name == "cp")
    assert check(cp, task) == "not a copy"
    shutil.copy(task.larger, task.target)
    assert check(cp, task) == "a copy"
    content = bytearray(task.target.read_bytes())
    content[100] ^= 1
    task.target.write_bytes(content)
    assert check(cp, task) == "not a copy"
    task.target.unlink()
    assert check(cp, task) == "no output"


# Taking turns


def peer_of(code: str, **options: Any) -> Peer:
    """A peer that is a line of Python."""
    return Peer("made up", "a test", lambda task: [sys.executable, "-c", code], **options)


def side_of(peer: Peer, folder: Path, packets: int = 10) -> runner.Side:
    task = runner.Inputs(folder).task("decap", TRAFFIC["64"], 10)
    return runner.Side(peer, task, packets)


def test_failing_peer(tmp_path: Path) -> None:
    """An exit code takes a peer out, with its last words."""
    side = side_of(peer_of("import sys; print('one'); sys.exit('no can do')"), tmp_path)
    runner.take_turns([side], tmp_path, 2, 1.0, lambda text: None, "test")
    figure = side.figure()
    assert (figure.state, figure.result, figure.measured) == (FAILED, "exit code 1: no can do", False)


def test_peer_with_wrong_output(tmp_path: Path) -> None:
    """So does output that is not right."""
    side = side_of(peer_of(f"open({str(tmp_path / 'output.pcap')!r}, 'w').write('x' * 99)"), tmp_path)
    runner.take_turns([side], tmp_path, 1, 1.0, lambda text: None, "test")
    assert side.figure().state == FAILED
    assert "wrong length" in side.figure().result


def test_peer_that_fails_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends early is no fast one: all of the peer's rounds are gone."""
    monkeypatch.setattr(runner, "check", lambda peer, task: "identical")
    for second in ("raise SystemExit(3)", "open(out, 'w').write('x')"):
        state = tmp_path / "state"
        state.unlink(missing_ok=True)
        code = (
            f"import pathlib; out = {str(tmp_path / 'output.pcap')!r}; state = pathlib.Path({str(state)!r})\n"
            "runs = len(state.read_text()) if state.exists() else 0; state.write_text('x' * (runs + 1))\n"
            f"if runs == 2: {second}\n"
            "else: open(out, 'w').write('xx')"
        )
        side = side_of(peer_of(code), tmp_path)
        runner.take_turns([side], tmp_path, 4, 60.0, lambda text: None, "test")
        figure = side.figure()
        assert (figure.state, figure.seconds) == (FAILED, ())
        assert figure.result == (
            "exit code 3: " if "Exit" in second else "exit code 1: another output than before"
        )
        assert len(state.read_text()) == 3


def test_failing_call(tmp_path: Path) -> None:
    """The library call fails as a process does."""
    task = runner.Inputs(tmp_path).task("decap", TRAFFIC["64"], 10)
    task.vxlan.write_bytes(b"no capture file at all, not in the least")
    run = runner.run_call(task)
    assert (run.code, "not a capture file" in run.said) == (1, True)


def test_scaling(tmp_path: Path) -> None:
    """Start-up counts once, the rest as often as there are packets."""
    side = side_of(peer_of("print(2.0)"), tmp_path, packets=1000)
    assert side.seconds_of(runner.Run(2.5, 0.0, 0, "words 2.0")) == pytest.approx(0.5 + 200)


def test_rounds_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A B A B; ratios of one round; slow ones sit out; the budget ends it; of three in a row the fastest counts."""
    order: list[str] = []
    took = {"cp": [9.0, 9.0, 1.0, 2.0, 3.0, 0.7, 0.5, 0.6], "made up": [9.0, 8.0, 2.0, 8.0, 0.8, 0.9, 1.0]}

    def run_peer(peer: Peer, task: Task, folder: Path) -> runner.Run:
        order.append(peer.name)
        return runner.Run(took[peer.name].pop(0), 0.5)

    monkeypatch.setattr(runner, "run_peer", run_peer)
    monkeypatch.setattr(runner, "check", lambda peer, task: "identical")
    cp, other = (side_of(peer, tmp_path) for peer in (PEERS[0], peer_of("")))
    runner.take_turns([cp, other], tmp_path, 3, 60.0, lambda text: None, "test")
    # The warm-up, once more where it was slow, and two rounds: both stayed slow.
    assert order == ["cp", "cp", "made up", "made up"] + ["cp", "made up"] * 2 + ["cp"]
    assert cp.figure().ratio == 1.0
    assert other.figure().seconds == (2.0, 8.0)
    assert other.figure().limit_seconds == (1.0, 2.0)
    assert other.figure().ratio == pytest.approx((0.5 + 0.25) / 2)
    assert other.figure().limit_mpps == pytest.approx(10 / 1.5 / 1e6)
    order.clear()
    cp.slow = other.slow = False
    monkeypatch.setattr(runner.Side, "warm_up", lambda side, folder: None)
    runner.take_turns([cp, other], tmp_path, 2, 0.0, lambda text: None, "test")
    assert order == ["cp"] * 3 + ["made up"] * 3  # one round there is in any case
    assert (cp.figure().seconds[-1], other.figure().seconds[-1]) == (0.5, 0.8)


def test_nobody_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not there is listed as that."""
    monkeypatch.setattr(peers, "which", lambda name: None)
    peers.floor.cache_clear()
    monkeypatch.setattr(peers.util, "find_spec", lambda name: None)
    figures = runner.measure_files(
        "decap",
        TRAFFIC["64"],
        Settings(packets=20, rounds=1),
        runner.Inputs(tmp_path),
        lambda text: None,
    )
    states = {figure.side: figure.state for figure in figures}
    assert states.pop("tcprewrite") == CANNOT
    assert all(
        state == (MEASURED if "vxlanfast" in side else NOT_INSTALLED) for side, state in states.items()
    )
    assert all(figure.ratio is None for figure in figures)  # nobody to compare with
    peers.floor.cache_clear()
    shown = Report({}, {}, figures)
    assert "not installed" in report.markdown(shown)
    ElementTree.fromstring(report.svg(shown))


def test_interrupt_ends_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C leaves no process behind."""
    waited = []

    def wait4(pid: int, options: int) -> None:
        waited.append(pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(runner.os, "wait4", wait4)
    with pytest.raises(KeyboardInterrupt):
        run_process([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path)
    with pytest.raises(ChildProcessError):
        runner.os.waitpid(waited[0], 0)


def test_versions() -> None:
    """As they say themselves."""
    for peer in PEERS:
        if peer.installed() and (peer.needs or peer.module):
            assert re.fullmatch(rf"{peer.needs or peer.module} \d[\w.]*", peer.version())


# Where the files go


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before anything is written, with both numbers."""
    monkeypatch.setattr(runner.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1_000_000_000))
    with (
        pytest.raises(vf.OutputError, match=r"4\.\d GB of files, and 1\.0 GB free"),
        runner.work_folder(Settings(workdir=tmp_path)),
    ):
        pass
    with pytest.raises(vf.OutputError, match="of files"), runner.work_folder(Settings()):
        pass
    assert not list(tmp_path.iterdir())


def test_no_folder(tmp_path: Path) -> None:
    """A folder that is not there."""
    with (
        pytest.raises(vf.OutputError, match="No such file"),
        runner.work_folder(Settings(packets=10, workdir=tmp_path / "none")),
    ):
        pass


def test_folder_goes_away(tmp_path: Path) -> None:
    """Whatever happens in it."""
    with (
        pytest.raises(ZeroDivisionError),
        runner.work_folder(Settings(packets=10, workdir=tmp_path)) as folder,
    ):
        (folder / "file").touch()
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong", [{"sizes": ("65",)}, {"jobs": ("decap", "none")}, {"packets": 0}, {"rounds": 0}], ids=str
)
def test_settings(wrong: dict[str, Any]) -> None:
    """Known names and positive numbers only."""
    with pytest.raises(vf.SpecError):
        Settings(**wrong)


# In memory


def test_rewind() -> None:
    """A batch that went through a node is as before, and can go again."""
    batch = memory.make_batch(blocks(TRAFFIC["64"])[1], 50)
    undo = memory.Rewind(batch)
    frames = [bytes(batch.frame(i)) for i in range(50)]
    inner = []
    for _ in range(2):
        vf.decap_batch(batch)
        inner.append([bytes(batch.frame(i)) for i in range(50)])
        undo()
        assert [bytes(batch.frame(i)) for i in range(50)] == frames
    assert inner[0] == inner[1] == [frame[OUTER_LEN:] for frame in frames]
    batch.clear()  # no view is left


def test_half_a_page_off() -> None:
    """The copy is one, and lies where it should."""
    to, content = bytearray(10_000), bytes(range(250)) * 40
    placed = memory.half_a_page_off(to, content)
    assert placed == content
    there, here = memory.address_of(memoryview(to)), memory.address_of(placed)
    assert (there - here) % memory.PAGE_LEN == memory.PAGE_LEN // 2


def names(figures: list[Figure]) -> list[tuple[str, str]]:
    return [(figure.side, figure.size) for figure in figures]


def test_memory(no_probe: None) -> None:
    """Every case runs, and those with bytes to move have a limit."""
    figures = memory.measure_memory(1, lambda text: None, slice_s=0, stream_len=200_000)
    assert len(set(names(figures))) == len(figures) == 15
    for figure in figures:
        assert len(figure.seconds) == 1
        assert (figure.ratio is not None) == ("gathered" in figure.side or "capture" in figure.side)
    assert memory.limit_name() == "memmove of all packets in one piece"


@pytest.mark.slow
def test_memory_with_probe() -> None:
    """The same with the compiled loops."""
    probe = memory.load_probe()
    if probe is None:
        pytest.skip("no source tree, no Cython or no compiler")
    figures = memory.measure_memory(1, lambda text: None, slice_s=0, stream_len=200_000)
    assert names(figures)[-2:] == [("checksum", "1400"), ("flow hash", "64")]
    assert memory.limit_name() == "memcpy packet by packet"
    with pytest.raises(ValueError, match="10 bytes of 1 packets"):
        probe.copy_packets(bytearray(9), bytes(10), memory.array("I", [10]))
    with pytest.raises(ValueError, match="no packet of 10"):
        probe.csum_packets(bytes(9), 10)
    to = bytearray(10)
    probe.copy_packets(to, b"0123456789", memory.array("I", [3, 7]))
    assert to == b"0123456789"


def test_no_probe_without_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where only the package is installed, and where it does not compile."""
    load: Any = memory.load_probe.__wrapped__  # type: ignore[attr-defined]
    monkeypatch.setattr(memory.vxlanfast, "__file__", str(tmp_path / "package" / "__init__.py"))
    assert load() is None
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "build_probe.py").write_text("raise SystemExit(1)")
    assert load() is None
    (tmp_path / "build" / "bench" / "probe.x.so").write_bytes(b"")
    (tmp_path / "bench" / "build_probe.py").write_text("")
    monkeypatch.setattr(memory.importlib.util, "spec_from_file_location", lambda name, path: None)
    assert load() is None


# Shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (562.4, "562"), (99.96, "100"), (17.71, "17.7"), (1.234, "1.23"), (0.1064, "0.106"),
     (0.0999996, "0.100"), (0.00263, "0.0026"), (0.000721, "0.00072"), (12345, "12,345")],
)  # fmt: skip
def test_rounded(value: float, shown: str) -> None:
    """Three figures, or two."""
    assert report.rounded(value) == shown


@pytest.mark.parametrize(
    ("ratio", "shown"),
    [(None, ""), (1.2345, "1.23 ×"), (0.1, "0.10 ×"), (0.0123, "1/81"), (0.000123, "1/8,100")],
)
def test_times(ratio: float | None, shown: str) -> None:
    """What it would take to be as fast."""
    assert report.times(ratio) == shown


def test_scale() -> None:
    """Logarithmic only over more than two decades; every value and tick inside."""
    for values in ([0.0026, 1, 17.7], [3.0, 17.7], [500.0], [0.9, 1.0]):
        scale = report.Scale(values, 100, 300)
        assert scale.log == (max(values) > 100 * min(values))
        for value in (*values, *scale.ticks()):
            assert 100 <= scale.at(value) <= 300
        assert len(scale.ticks()) >= 2


def test_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Everything a figure needs; unknown things do no harm."""
    described = machine.describe()
    assert {"cpu", "cores", "kernel", "python", "compiler", "cython", "vxlanfast", "date"} <= set(described)
    assert all(described.values())
    assert machine.file_system(Path("/proc")) == "proc"

    def missing(*args: object, **kwargs: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(machine.Path, "read_text", missing)
    assert machine.file_system(tmp_path) == "unknown"
    assert machine.available_bytes() is None
    assert machine.cpu()


# All of it


def adds_up(made: Report) -> None:
    """Every side of every job is in, with a right result; what is derived follows from what was measured."""
    groups = made.groups()
    for (job, _), figures in groups.items():
        if job in ("decap", "encap"):
            assert [figure.side for figure in figures] == [peer.name for peer in PEERS]
            baseline = figures[0]
            for figure in figures:
                if figure.state == MEASURED:
                    assert figure.result.startswith(
                        "a copy" if figure.side in ("cp", "cat") else ("identical", "correct")
                    )
                    assert figure.limit_seconds == baseline.seconds
                    assert figure.ratio == pytest.approx(baseline.seconds[0] / figure.seconds[0])
                    assert figure.mpps == pytest.approx(figure.packets / figure.seconds[0] / 1e6)
                    assert figure.packets == baseline.packets
                else:
                    assert figure.state in (CANNOT, NOT_INSTALLED), figure
    written = json.loads(json.dumps(made.as_dict()))
    assert len(written["figures"]) == len(made.figures)
    for is_table, lines in groupby(report.markdown(made).splitlines(), lambda line: line.startswith("|")):
        assert not is_table or len({line.count("|") for line in lines}) == 1
    picture = ElementTree.fromstring(report.svg(made))
    titles = [element.text or "" for element in picture.iter("{http://www.w3.org/2000/svg}title")]
    bars = sum(figure.measured for figure in made.figures if figure.job != "startup")
    assert len(titles) >= bars
    height = float(picture.get("height", "0"))
    for element in picture.iter("{http://www.w3.org/2000/svg}text"):
        assert 0 <= float(element.get("x", "-1")) <= report.WIDTH
        assert 0 <= float(element.get("y", "-1")) <= height


def shown(made: Report) -> str:
    """The terminal's tables as text."""
    from rich.console import Console

    console = Console(file=io.StringIO(), width=200)
    for part in report.text_tables(made):
        console.print(part, markup=False)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


@pytest.mark.slow
def test_everything(tmp_path: Path, no_probe: None) -> None:
    """A thousand packets and one round of all there is."""
    said: list[str] = []
    made = run(Settings(packets=1000, rounds=1, workdir=tmp_path), said.append)
    assert not list(tmp_path.iterdir())
    assert {figure.job for figure in made.figures} == set(JOBS) - {"mesh"}  # which is nothing without the probe
    assert set(made.groups()) >= {(job, size) for job in ("decap", "encap") for size in TRAFFIC}
    adds_up(made)
    text = shown(made)
    for figure in made.figures:
        assert figure.side in text
    assert "Start-up: import vxlanfast" in report.markdown(made)
    assert any("warm-up" in line for line in said)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line, as a process."""
    argv = [sys.executable, "-m", "vxlanfast", "bench", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def test_command(tmp_path: Path) -> None:
    """Table on stdout, progress on stderr, files where asked for."""
    svg, markdown, as_json = (tmp_path / name for name in ("a.svg", "a.md", "a.json"))
    files = ("--svg", str(svg), "--markdown", str(markdown), "--json", str(as_json))
    some = ("--packets", "100", "--rounds", "1", "--sizes", "64", "--workdir", str(tmp_path))
    done = command(*some, "--jobs", "decap,startup", *files)
    assert (done.returncode, done.stderr) == (0, "measuring decap 64 B\nmeasuring startup\n")
    assert "vxlanfast, 1 thread" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.md", "a.svg"]
    figures = json.loads(as_json.read_text())["figures"]
    assert {figure["packets"] for figure in figures if figure["job"] == "decap" and figure["seconds"]} == {
        100
    }
    assert markdown.read_text().startswith("| Mpps")
    ElementTree.fromstring(svg.read_text())
    done = command(*some, "--jobs", "startup", "--json", "-", "-q")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["settings"]["jobs"] == ["startup"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--sizes", "65"), 2, "'65': 64, imix, 1400"),
        (("--jobs", "decap,all"), 2, "'all': decap, encap, memory, plane, mesh, startup"),
        (("--packets", "0"), 2, "0 is not in the range"),
        (("--svg", "/none/there.svg"), 1, "/none/there.svg: No such file or directory"),
    ],
)
def test_command_refuses(arguments: tuple[str, ...], code: int, said: str) -> None:
    """Before anything is measured."""
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr


def test_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that changes."""
    from vxlanfast.cli.bench import Names, progress_on_stderr

    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: True, write=len, flush=lambda: None))
    with progress_on_stderr(quiet=False) as progress:
        progress("decap: round 1 of 5")
    assert Names(("a", "b")).convert("", None, None) == ("a", "b")


@pytest.mark.slow
def test_the_mesh() -> None:
    """All of its figures, of few connections; every packet and every connection is checked by the job itself."""
    if memory.load_probe() is None:
        pytest.skip("bench/probe.pyx cannot be compiled here")
    figures = mesh.measure_mesh(1, print, slice_s=0.001, is_trial=True)
    assert all(figure.measured for figure in figures)
    sides = [figure.side for figure in figures]
    assert {"look-up and state", "mesh node, there", "whole plane, back", "listed, a connection"} <= set(sides)
    made = Report({}, {}, figures)
    assert all(side in report.markdown(made) and side in shown(made) and side in report.svg(made) for side in sides)


@pytest.mark.slow
def test_tables_of_others() -> None:
    """absl's and DPDK's, where their headers are: they find what we find."""
    there = [peer for peer in plane._TABLES if plane.load_peer(peer) is not None]
    if not there:
        pytest.skip("neither absl's nor DPDK's headers are installed (libabsl-dev, libdpdk-dev, pkg-config, g++)")
    figures = list(plane.lookup_figures("1 k", 1000, 1, 0.001))
    assert [figure.note for figure in figures] == ["dict", *there]
    assert all(figure.ratio for figure in figures)
