"""Pipes, FIFOs, terminals and signals: packets go on as they come, and a stop leaves whole records."""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from tests.make_fixtures import eth, inner_frame, ip4, vxlan
from tests.support import (
    FIXTURES,
    PYTHON,
    SLOW_BUILD,
    VERBS_ENV,
    Pcapng,
    assert_one_line,
    frames_of,
    ours_read,
    pcap,
    vxlanfast,
)
from vxlanfast.cli.report import PATIENCE_S as PROGRESS_S
from vxlanfast.cli.report import Reporter
from vxlanfast.errors import Interrupted

ETHERNET = FIXTURES / "outer-ethernet.pcap"
TUNNEL = ("--vni", "42", "--src", "192.0.2.1", "--dst", "192.0.2.2")
PIPE = subprocess.PIPE
PATIENCE_S = 60.0
#: Numbers of system calls, of x86-64 and arm64.
READ, OPENAT = ("0", "63"), ("257", "56")


def wire(n: int) -> bytes:
    return bytes(eth() / ip4() / vxlan(n) / inner_frame(b"%06d" % n))


def start(*arguments: object, **rest) -> subprocess.Popen:
    return subprocess.Popen([PYTHON, "-m", "vxlanfast", *map(str, arguments)], env=VERBS_ENV, **rest)


def read_some(fd: int, least: int = 1, seconds: float = PATIENCE_S) -> bytes:
    """At least ``least`` bytes, and what more there is."""
    out = b""
    while len(out) < least:
        ready, _, _ = select.select([fd], [], [], seconds)
        assert ready, f"{len(out)} of {least} bytes after {seconds} s"
        piece = os.read(fd, 1 << 16)
        assert piece, f"the end after {len(out)} of {least} bytes"
        out += piece
    return out


def wait_until_in(process: subprocess.Popen, calls: tuple[str, ...]) -> None:
    """It waits, in one of these system calls (proc(5))."""
    limit = time.monotonic() + PATIENCE_S
    while True:
        doing = Path(f"/proc/{process.pid}/syscall").read_text().split()
        state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "S" and doing[0] in calls:
            return
        assert process.poll() is None and time.monotonic() < limit, (state, doing)
        time.sleep(0.005)


def wait_until_read(process: subprocess.Popen) -> None:
    """Whatever was written to its standard input has been read, and it waits for more."""
    limit = time.monotonic() + PATIENCE_S
    while True:
        wait_until_in(process, READ)
        if struct.unpack("i", fcntl.ioctl(process.stdin.fileno(), termios.FIONREAD, bytes(4)))[0] == 0:
            wait_until_in(process, READ)
            return
        assert time.monotonic() < limit, "nobody reads the pipe"


def records(form: str, n: int) -> list[bytes]:
    """A capture in pieces: its head, and then a piece per packet."""
    if form == "pcap":
        whole = pcap(map(wire, range(n)))
        each = (len(whole) - 24) // n
        return [whole[:24], *(whole[24 + k * each : 24 + (k + 1) * each] for k in range(n))]
    ng = Pcapng().interface(1)
    out = [ng.data]
    for k in range(n):
        before = len(ng.data)
        ng.epb(wire(k), units=k)
        out.append(ng.data[before:])
    return out


# --- packets as they come -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["pcap", "pcapng"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("verb", ["decap", "encap"])
def test_one_packet_at_a_time(form, threads, verb):
    """Each packet comes out before the next goes in."""
    options = TUNNEL if verb == "encap" else ()
    head, *pieces = records(form, 5)
    with start(verb, "-", "-", *options, "--threads", threads, stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        os.write(process.stdin.fileno(), head)
        out = b""
        for n, piece in enumerate(pieces):
            os.write(process.stdin.fileno(), piece)
            least = len(piece) + 50 if verb == "encap" else len(piece) - 50
            out += read_some(process.stdout.fileno(), least - 4 * (form == "pcapng"))
            assert len(frames_of(out)) == n + 1
        process.stdin.close()
        out += process.stdout.read()
        assert process.wait() == 0
    frames = [wire(k) for k in range(5)]
    got = frames_of(out)
    assert got == [frame[50:] for frame in frames] if verb == "decap" else [frame[50:] for frame in got] == frames


def test_pieces_of_packets():
    """Byte by byte, head and all."""
    whole = b"".join(records("pcap", 3))
    with start("decap", "-", "-", "-q", stdin=PIPE, stdout=PIPE) as process:
        for k in range(len(whole)):
            os.write(process.stdin.fileno(), whole[k : k + 1])
        process.stdin.close()
        assert frames_of(process.stdout.read()) == [wire(k)[50:] for k in range(3)]
        assert process.wait() == 0


@pytest.mark.parametrize("form", ["pcap", "pcapng"])
def test_fifos(form, tmp_path):
    """Named pipes on both sides, without a temporary file."""
    into, out_of = tmp_path / "into", tmp_path / "out"
    os.mkfifo(into)
    os.mkfifo(out_of)
    with start("decap", into, out_of, "-q") as process:
        with into.open("wb", buffering=0) as source, out_of.open("rb", buffering=0) as target:
            head, *pieces = records(form, 3)
            source.write(head)
            out = b""
            for n, piece in enumerate(pieces):
                source.write(piece)
                out += read_some(target.fileno(), len(piece) - 54)
                assert len(frames_of(out)) == n + 1
            source.close()
            assert target.read() == b""
        assert process.wait() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["into", "out"]


def test_out_left_out_is_stdout():
    assert vxlanfast("decap", ETHERNET).stdout == vxlanfast("decap", ETHERNET, "-").stdout


def test_dev_stdout_and_stdin(tmp_path):
    plain = vxlanfast("decap", ETHERNET).stdout
    assert vxlanfast("decap", "/dev/stdin", "/dev/stdout", stdin=ETHERNET.read_bytes()).stdout == plain
    with (tmp_path / "out").open("wb") as file:
        file.write(b"before")
        file.flush()
        with start("decap", ETHERNET, "-", "--threads", 2, "-q", stdout=file) as process:
            assert process.wait() == 0
    assert (tmp_path / "out").read_bytes() == b"before" + plain


def test_append(tmp_path):
    plain = vxlanfast("decap", ETHERNET).stdout
    (tmp_path / "out").write_bytes(b"before")
    with (tmp_path / "out").open("ab") as file, start("decap", ETHERNET, "--threads", 2, "-q", stdout=file) as process:
        assert process.wait() == 0
    assert (tmp_path / "out").read_bytes() == b"before" + plain


# --- nobody reads on ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [("decap",), ("decap", "--threads", "3"), ("encap", *TUNNEL)], ids=lambda a: " ".join(a[:3])
)
def test_broken_pipe(arguments, tmp_path):
    """``| head -c 100`` ends it, quietly."""
    one = ETHERNET.read_bytes()
    (tmp_path / "in").write_bytes(one[:24] + one[24:] * 2000)
    with start(arguments[0], tmp_path / "in", "-", *arguments[1:], stdout=PIPE, stderr=PIPE) as process:
        assert os.read(process.stdout.fileno(), 100)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE_S) == 0


def test_broken_pipe_of_info(tmp_path):
    with start("info", *[ETHERNET] * 200, "--json", "-q", stdout=PIPE, stderr=PIPE) as process:
        os.read(process.stdout.fileno(), 10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE_S) == 0


# --- terminals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [("decap", ETHERNET), ("decap", ETHERNET, "-"), ("encap", ETHERNET, *TUNNEL)], ids=str
)
def test_no_capture_on_a_terminal(arguments):
    ours, theirs = pty.openpty()
    with start(*arguments, stdout=theirs, stderr=PIPE) as process:
        error = process.stderr.read()
        assert process.wait() == 2
    assert b"terminal" in error and len(error.splitlines()) == 1 and b"Traceback" not in error
    # The other end is open still, so an empty terminal is not ready.
    assert select.select([ours], [], [], 0)[0] == []
    os.close(theirs)
    os.close(ours)


def drip(fifo: Path, seconds: float) -> threading.Thread:
    """Feed a FIFO a packet at a time for so long."""

    def feed() -> None:
        with fifo.open("wb", buffering=0) as file:
            head, piece = records("pcap", 1)
            file.write(head)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                file.write(piece)
                time.sleep(0.02)

    thread = threading.Thread(target=feed)
    thread.start()
    return thread


@pytest.mark.parametrize(("patience", "quiet", "seen"), [(0, False, True), (0, True, False), (3600, False, False)])
def test_progress_on_a_terminal(patience, quiet, seen, tmp_path):
    """A bar once the work has lasted for a while; none with -q, and none for less."""
    os.mkfifo(tmp_path / "in")
    ours, theirs = pty.openpty()
    program = f"from vxlanfast.cli import main, report; report.PATIENCE_S = {patience}; main()"
    command = [PYTHON, "-c", program, "decap", tmp_path / "in", tmp_path / "out", *(["-q"] if quiet else [])]
    with subprocess.Popen(command, env=VERBS_ENV, stderr=theirs) as process:
        os.close(theirs)
        feeder = drip(tmp_path / "in", 0.5)
        text = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # EIO: the other side is closed
                break
            text += piece
        assert process.wait() == 0
    feeder.join()
    os.close(ours)
    assert (b" M/s" in text) == seen, text
    assert (b"packets read" in text) == (not quiet)


def test_no_progress_without_a_terminal(tmp_path):
    os.mkfifo(tmp_path / "in")
    with start("decap", tmp_path / "in", tmp_path / "out", stderr=PIPE) as process:
        feeder = drip(tmp_path / "in", PROGRESS_S + 0.3)
        error = process.stderr.read()
        assert process.wait() == 0
    feeder.join()
    assert len(error.splitlines()) == 1 and b"packets read" in error and b"\x1b" not in error


# --- Ctrl-C ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["pcap", "pcapng"])
@pytest.mark.parametrize("packets", [0, 3])
@pytest.mark.parametrize("to_pipe", [False, True])
def test_interrupt_while_waiting(form, packets, to_pipe, tmp_path):
    """No packet comes any more: what came is written, whole, under its name; half a packet is not."""
    out = tmp_path / "out"
    target = "-" if to_pipe else out
    pieces = records(form, 4)
    with start("decap", "-", target, "--stats", "json", stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        os.write(process.stdin.fileno(), b"".join(pieces[: packets + 1]) + pieces[packets + 1][:20])
        wait_until_read(process)
        process.send_signal(signal.SIGINT)
        stdout, error = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 130, error
    stats = json.loads(error)
    assert stats["interrupted"] is True
    assert stats["packets"] == stats["passed"] == stats["written"] == packets
    data = stdout if to_pipe else out.read_bytes()
    read, fault = ours_read(data)
    assert fault is None
    assert [packet.data for packet in read] == [wire(k)[50:] for k in range(packets)]
    assert [path.name for path in tmp_path.iterdir()] == ([] if to_pipe else ["out"])


@pytest.mark.parametrize("verb", ["info", "split"])
def test_interrupt_of_the_other_verbs(verb, tmp_path):
    options = {"info": ["--json"], "split": [tmp_path / "{vni}"]}[verb]
    with start(verb, "-", *options, stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
        os.write(process.stdin.fileno(), b"".join(records("pcap", 3)))
        wait_until_read(process)
        process.send_signal(signal.SIGINT)
        stdout, error = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 130, error
    assert error.startswith(b"3 packets read, 3 ") and b"[interrupted]" in error
    if verb == "info":
        assert [network["vni"] for network in json.loads(stdout)["networks"]] == [0, 1, 2]
    else:
        assert {path.name: frames_of(path) for path in tmp_path.iterdir()} == {str(k): [wire(k)] for k in range(3)}


def test_interrupt_before_anything(tmp_path):
    """Not even a file header came: there is nothing to write."""
    with start("decap", "-", tmp_path / "out", stdin=PIPE, stderr=PIPE) as process:
        wait_until_read(process)
        assert list(tmp_path.iterdir())  # a temporary file
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert error == b"vxlanfast: interrupted\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("which", ["in", "out"])
def test_interrupt_at_a_fifo(which, tmp_path):
    """Nobody is at its other end: the first Ctrl-C is enough."""
    ends = {"in": ETHERNET, "out": tmp_path / "out", which: tmp_path / "fifo"}
    os.mkfifo(tmp_path / "fifo")
    with start("decap", ends["in"], ends["out"], stderr=PIPE) as process:
        wait_until_in(process, OPENAT)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert error == b"vxlanfast: interrupted\n"
    assert [path.name for path in tmp_path.iterdir()] == ["fifo"]


def test_interrupt_just_before_a_wait():
    """Between two reads nothing is interrupted, but the next one is."""
    reporter = Reporter(quiet=True, stats="text")

    def readinto():
        time.sleep(PATIENCE_S)

    began, handler = time.monotonic(), signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted), reporter.running():
        signal.raise_signal(signal.SIGINT)
        assert reporter.stop
        readinto()
    assert time.monotonic() - began < PATIENCE_S
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("packed", [False, True])
def test_interrupt_while_running(threads, packed, tmp_path):
    """In the middle of a file of a few hundred MB, plain or (as gzip) where reading is the work."""
    import gzip

    head, *pieces = records("pcap", 100)
    body = b"".join(pieces)
    source, out = tmp_path / "in", tmp_path / "out"
    if packed:
        member = gzip.compress(body * 1000, 1)
        source.write_bytes(gzip.compress(head, 1) + member * 40)
    else:
        with source.open("wb") as file:
            file.write(head)
            for _ in range(20):
                file.write(body * 1000)
    process = start("decap", source, out, "--threads", threads, "--stats", "json", stderr=PIPE)
    with process:
        while process.poll() is None and not any(path.stat().st_size > 1 << 16 for path in tmp_path.glob(".out*")):
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    source.unlink()
    stats = json.loads(error)
    if process.returncode == 0:
        pytest.skip("done before the signal came")
    assert process.returncode == 130
    assert stats["interrupted"] is True
    assert stats["packets"] == stats["passed"] == stats["written"]
    each = len(pieces[0]) - 50
    data = out.read_bytes()
    assert len(data) == 24 + each * stats["packets"]
    assert frames_of(data[: 24 + each * 100]) == [wire(k)[50:] for k in range(100)]
    assert frames_of(data[:24] + data[-each:]) == [wire((stats["packets"] - 1) % 100)[50:]]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_failure_in_the_middle_of_a_stream(tmp_path):
    """A stream that breaks off: every whole packet, the name, exit code 1."""
    data = b"".join(records("pcap", 3))
    done = vxlanfast("decap", "-", tmp_path / "out", stdin=data[:-1])
    assert done.returncode == 1
    assert len(frames_of(tmp_path / "out")) == 2
    assert_one_line(vxlanfast("decap", "-", tmp_path / "out", "-q", stdin=data[:-1]), 1, "<stdin>")


# --- memory ---------------------------------------------------------------------------------------------

#: Runs the verb and says what memory it took; the tests' own process is too big to be forked from.
MEASURE = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


def stream(size: int, *options: str) -> tuple[int, dict]:
    """Send so many bytes through ``decap``; KiB of memory, and the account."""
    head, *pieces = records("pcap", 64)
    chunk = b"".join(pieces) * 128
    command = [sys.executable, "-c", MEASURE, PYTHON, "-m", "vxlanfast", "decap", "-", "-", "--stats", "json", *options]
    with subprocess.Popen(command, stdin=PIPE, stdout=subprocess.DEVNULL, stderr=PIPE, env=VERBS_ENV) as process:
        process.stdin.write(head)
        for _ in range(size // len(chunk)):
            process.stdin.write(chunk)
        process.stdin.close()
        lines = process.stderr.read().decode().splitlines()
        assert process.wait() == 0, lines
    stats = json.loads(lines[0])
    assert stats["packets"] == stats["passed"] == size // len(chunk) * 64 * 128
    return int(lines[-1]), stats


@pytest.mark.skipif(SLOW_BUILD, reason="time and memory say nothing in this build")
@pytest.mark.parametrize(
    "options", [(), ("--threads", "2"), ("--meta", "comment"), ("--reassemble", "-F", "pcapng")], ids=" ".join
)
def test_constant_memory(options):
    size = 300_000_000 if not options else 60_000_000
    kib, _ = stream(size, *options)
    assert kib < 64 * 1024


@pytest.mark.slow
@pytest.mark.skipif(SLOW_BUILD, reason="time and memory say nothing in this build")
def test_constant_memory_of_10_gb():
    kib, _ = stream(10_000_000_000)
    assert kib < 64 * 1024
