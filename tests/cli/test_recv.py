"""``vxlanfast recv`` as people run it: signals, pipes, wrong input, the account."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import PYTHON, VERBS_ENV, assert_one_line, frames_of, free_port, until, vxlanfast
from tests.test_recv import INNER, VNI_42, send

FRAMES = [INNER + n.to_bytes(2, "big") + bytes(60) for n in range(20)]


@contextlib.contextmanager
def recv(*arguments: object, **streams: object) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The command, listening at a free port of 127.0.0.1; killed if it is still there at the end."""
    port = free_port()
    command = [PYTHON, "-m", "vxlanfast", "recv", *map(str, arguments), "--bind", "127.0.0.1", "-p", str(port)]
    run = subprocess.Popen(
        [*command, "--geneve-port", "0"],
        env=VERBS_ENV,
        stderr=subprocess.PIPE,
        **streams,  # type: ignore[call-overload]
    )
    try:
        assert run.stderr is not None
        assert run.stderr.readline().startswith(f"listening at 127.0.0.1:{port} (receive buffer ".encode())
        yield run, port
    finally:
        if run.poll() is None:
            run.kill()
        run.wait(60)
        for stream in (run.stdout, run.stderr):
            if stream is not None:
                stream.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_with_whole_records(number: signal.Signals, tmp_path: Path) -> None:
    out = tmp_path / "out.pcapng"
    with recv(out) as (run, port):
        send(port, *(VNI_42 + frame for frame in FRAMES))
        until("the frames in the file", lambda: INNER in out.read_bytes() and frames_of(out) == FRAMES)
        run.send_signal(number)
        _, said = run.communicate(timeout=60)
    assert run.returncode == 0
    assert said == b"20 packets received, 20 written, 0 dropped by the kernel\n"
    assert frames_of(out) == FRAMES


def test_the_account_as_json(tmp_path: Path) -> None:
    with recv(tmp_path / "out.pcap", "-F", "pcap", "-c", "20", "--stats", "json", "--vni", "42") as (run, port):
        send(port, b"", b"junk", *(VNI_42 + frame for frame in FRAMES))
        _, said = run.communicate(timeout=60)
    assert run.returncode == 0
    account = json.loads(said)
    assert (account["received"], account["written"], account["dropped"], account["kernel_drops"]) == (22, 20, 2, 0)
    assert account["drops"] == {"DROP_VXLAN_LEN": 2}
    assert account["files"] == [str(tmp_path / "out.pcap")]
    assert frames_of(tmp_path / "out.pcap") == FRAMES


def test_down_a_pipe(tmp_path: Path) -> None:
    """Standard output gets nothing but the capture, frame by frame; a reader that goes away ends it, quietly."""
    with recv("-", stdout=subprocess.PIPE) as (run, port):
        assert run.stdout is not None
        send(port, VNI_42 + FRAMES[0])
        data = b""
        while FRAMES[0] not in data:
            piece = os.read(run.stdout.fileno(), 65536)
            assert piece
            data += piece
        assert frames_of(data[: len(data)]) == FRAMES[:1]
        run.stdout.close()
        run.wait(60)
        assert run.returncode == 0
        assert run.stderr is not None
        assert run.stderr.read() == b"1 packet received, 1 written, 0 dropped by the kernel\n"


def test_rotation(tmp_path: Path) -> None:
    with recv(tmp_path / "out", "-C", "1", "-W", "12") as (run, port):

        def sent() -> bool:  # no more at once than any receive buffer holds
            send(port, *(VNI_42 + frame + bytes(8000) for frame in FRAMES[:10]))
            return (tmp_path / "out01").exists()

        until("a second file", sent)
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=60)
    assert run.returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir())[:2] == ["out00", "out01"]


def test_what_goes_wrong_is_one_line(tmp_path: Path) -> None:
    out = tmp_path / "out"
    port = free_port()
    for code, said, arguments in (
        (2, "1<=x<=65535", ("-p", 70000)),
        (2, "not both", ("-i", "lo", "--bind", "127.0.0.1")),
        (1, "nosuch: no such interface; there are", ("-i", "nosuch")),
        (1, "no interface here has that address", ("--bind", "192.0.2.9", "-p", port)),
        (2, "bogus", ("--bind", "bogus", "-p", port)),
        (2, "pcapng", ("-F", "pcap", "--meta", "comment")),
        (2, "VXLAN or GENEVE", ("-p", 6081)),
        (2, "filter", ("--inner", "((", "-p", port)),
        (2, "-W says", ("-W", 3, "-p", port, "--geneve-port", 0)),
        (2, "VNI", ("--vni", "x")),
    ):
        assert_one_line(vxlanfast("recv", out, *arguments), code, said)
    assert_one_line(vxlanfast("recv", tmp_path / "no" / "out", "-p", port, "--geneve-port", 0), 1, "No such file")
    assert not out.exists()


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        run = vxlanfast("recv", tmp_path / "out", "--bind", "127.0.0.1", "-p", port)
    assert_one_line(run, 1, f"UDP port {port} of 127.0.0.1: in use", "another port (-p)", "-i IFACE")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give its privileges up")
def test_without_privilege(tmp_path: Path) -> None:
    """A high port works; a packet socket and a TAP device say in one line what they need."""
    script = (
        "import ctypes, sys, socket, os\n"
        # No capability is left in any set, so nothing is permitted that root alone may do.
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "header, data = (ctypes.c_uint * 2)(0x20080522, 0), (ctypes.c_uint * 6)()\n"
        "assert libc.capset(header, data) == 0\n"
        "from vxlanfast.cli import main\n"
        "sys.argv = ['vxlanfast', *sys.argv[1:]]\n"
        "main()\n"
    )

    def unprivileged(*arguments: object) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [PYTHON, "-c", script, "recv", *map(str, arguments)],
            env=VERBS_ENV,
            capture_output=True,
            timeout=60,
            check=False,
        )

    assert_one_line(unprivileged(tmp_path / "out", "-i", "lo"), 1, "lo: not permitted; it needs CAP_NET_RAW")
    where = ("--bind", "127.0.0.1", "--geneve-port", 0, "-p")
    assert_one_line(unprivileged("--tap", "tap7", *where, free_port()), 1, "device tap7: ", "CAP_NET_ADMIN")
    assert_one_line(unprivileged(tmp_path / "out", *where, 80), 1, "UDP port 80 of 127.0.0.1: not permitted")
    port = free_port()
    run = subprocess.Popen(
        [PYTHON, "-c", script, "recv", str(tmp_path / "out"), *map(str, where), str(port), "-c", "1"],
        env=VERBS_ENV, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert run.stderr is not None and b"listening" in run.stderr.readline()
        send(port, VNI_42 + FRAMES[0])
        run.communicate(timeout=60)
    finally:
        run.kill()
        run.wait(60)
    assert frames_of(tmp_path / "out") == FRAMES[:1]
