"""``vxlanfast show``: the tables of a running node, as text, as JSON, again and again, and no node at all."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from tests.standin import serving
from tests.support import PYTHON, VERBS_ENV, assert_one_line, vxlanfast
from vxlanfast import tables
from vxlanfast.cli.show import TABLES, screen


@pytest.mark.parametrize("what", [table for table in TABLES if table not in ("nodes", "status", "metrics", "io")])
def test_tables(what: str, tmp_path: Path) -> None:
    """As ``replay --show`` prints them, and with the same JSON."""
    path = tmp_path / "node.sock"
    name = {"vteps": "vtep"}.get(what, what)
    with serving(path) as node:
        text = vxlanfast("show", what, "--socket", path)
        assert (text.returncode, text.stderr) == (0, b"")
        assert text.stdout.decode() == "".join(f"{line}\n" for line in tables.TABLES[name][0](node.plane))
        as_json = vxlanfast("show", "-j", what, "--socket", path)
        wanted = tables.TABLES[name][1](node.plane)
        assert as_json.returncode == 0 and json.loads(as_json.stdout) == json.loads(json.dumps(wanted))
        if what != "connections":
            assert as_json.stdout.decode() == f"{json.dumps(wanted, indent=2)}\n"


def test_status_nodes_io_metrics_stats(tmp_path: Path) -> None:
    path = tmp_path / "node.sock"
    with serving(path, about=lambda: {"underlay": "udp"}):
        status = json.loads(vxlanfast("show", "status", "-j", "--socket", path).stdout)
        assert (status["name"], status["pid"], status["underlay"]) == ("lab", os.getpid(), "udp")
        assert b"underlay udp\n" in vxlanfast("show", "status", "--socket", path).stdout
        assert b"lab vtep 192.0.2.1 pid " in vxlanfast("show", "nodes", "--socket", path).stdout
        assert b"underlay       1,234" in vxlanfast("show", "io", "--socket", path).stdout
        assert b"vxlanfast_packets_total 0.0" in vxlanfast("show", "metrics", "--socket", path).stdout
        assert b"InPkts" in vxlanfast("show", "services", "-s", "--socket", path).stdout
        assert_one_line(vxlanfast("show", "fdb", "-s", "--socket", path), 2, "-s: services alone")
    (node,) = json.loads(vxlanfast("show", "nodes", "-j", "--socket", path).stdout)
    assert "start one with" in node["error"]


def test_rows_of_many_pieces(tmp_path: Path) -> None:
    """What comes in pieces is one list."""
    from tests.standin import StandIn
    from tests.test_control import big_spec

    path = tmp_path / "node.sock"
    with serving(path, StandIn(big_spec(2000))) as node:
        done = vxlanfast("show", "-j", "neigh", "--socket", path)
        assert done.stdout.decode() == f"{json.dumps(tables.TABLES['neigh'][1](node.plane), indent=2)}\n"
        assert vxlanfast("show", "-j", "mdb", "--socket", path).stdout == b"[]\n"


def test_nobody_there(tmp_path: Path) -> None:
    path = tmp_path / "node.sock"
    assert_one_line(vxlanfast("show", "fdb", "--socket", path), 1, str(path), "start one with: vxlanfast node -c")
    with serving(path):
        pass
    assert_one_line(vxlanfast("show", "fdb", "--socket", path), 1, "there is none")
    with serving(path):
        os.link(path, tmp_path / "stale.sock")
    stale = tmp_path / "stale.sock"
    assert_one_line(vxlanfast("show", "fdb", "--socket", stale), 1, "nobody answers", "its node ended")
    (tmp_path / "file").write_text("x")
    assert_one_line(vxlanfast("show", "fdb", "--socket", tmp_path / "file"), 1, str(tmp_path / "file"))
    assert_one_line(vxlanfast("show", "fdb", "--socket", "x" * 300), 1, "control socket")


@pytest.mark.parametrize(
    "said", [b"", b"hello\n", b"{}\n", b'{"v":2}\n', b'{"v":1,"ok":true}\n', b'{"v":1,"ok":false,"code":"x"}\n']
)
def test_what_answers_is_no_node(said: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.sock"

    def answer(server: socket.socket) -> None:
        client, _ = server.accept()
        with client:
            client.recv(4096)
            client.sendall(said)

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        worker = threading.Thread(target=answer, args=(server,))
        worker.start()
        assert_one_line(vxlanfast("show", "fdb", "--socket", path), 1)
        worker.join(60)


def test_wrong_usage(tmp_path: Path) -> None:
    assert_one_line(vxlanfast("show"), 2, "TABLE")
    assert_one_line(vxlanfast("show", "nonsense"), 2, "nonsense", "fdb")
    assert_one_line(vxlanfast("show", "metrics", "-j", "--socket", tmp_path / "x"), 2, "Prometheus")
    assert_one_line(vxlanfast("show", "fdb", "--watch", "0"), 2, "0.1")


def test_socket_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VERBS_ENV, "VXLANFAST_SOCKET", str(tmp_path / "node.sock"))
    with serving(tmp_path / "node.sock"):
        assert b"192.0.2.2" in vxlanfast("show", "fdb").stdout
        assert b"lab vtep" in vxlanfast("show", "nodes").stdout


def test_watch(tmp_path: Path) -> None:
    """On a terminal it is redrawn in place, and Ctrl-C is its end: no traceback, code 130."""
    path = tmp_path / "node.sock"
    with serving(path):
        command = [PYTHON, "-m", "vxlanfast", "show", "fdb", "--watch", "0.1", "--socket", str(path)]
        master, slave = pty.openpty()
        env = {**VERBS_ENV, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
        with subprocess.Popen(command, stdout=slave, stderr=subprocess.PIPE, env=env) as run:
            os.close(slave)
            seen, until = b"", time.monotonic() + 60
            while seen.count(b"\x1b[H") < 3 and time.monotonic() < until:
                seen += os.read(master, 65536)
            run.send_signal(signal.SIGINT)
            _, errors = run.communicate(timeout=60)
        os.close(master)
        assert run.returncode == 130 and b"Traceback" not in errors
        assert seen.count(b"\x1b[H") >= 3 and b"dst 192.0.2.2" in seen
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=VERBS_ENV) as run:
            assert run.stdout is not None
            lines = [run.stdout.readline() for _ in range(20)]
            run.send_signal(signal.SIGINT)
            run.communicate(timeout=60)
        assert b"\n" in lines and b"\x1b" not in b"".join(lines)


def test_screen() -> None:
    assert screen("ab\ncd\n", 1, 9, clear=True) == "\x1b[H\x1b[Ja\x1b[K\r\nc\x1b[K\r\n\x1b[J"
    long = screen("".join(f"{n}\n" for n in range(50)), 80, 10, clear=False)
    assert long.count("\r\n") == 9 and "..." in long and "9" not in long
