"""The control socket: who may use it, what it answers, and what hostile bytes, crowds and slow clients do to it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import socket
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import vxlanfast as vf
from tests.standin import NODE, StandIn, serving
from vxlanfast import control, shown, tables
from vxlanfast.control_client import ControlClient, ControlError, find_socket

MAC = "02:42:0a:00:09:"


def ask(path: Path, do: str, **rest: object) -> list[dict[str, Any]]:
    with ControlClient(str(path)) as client:
        return list(client.ask(do, **rest))


def raw(path: Path, data: bytes, *, half: bool = True) -> bytes:
    """What comes back for bytes."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(str(path))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused, and it says why
            sock.sendall(data)
            if half:
                sock.shutdown(socket.SHUT_WR)
        out = b""
        with contextlib.suppress(ConnectionResetError):
            while more := sock.recv(65536):
                out += more
        return out


def test_socket_is_its_owners_alone_and_gone_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "node.sock"
    before = os.umask(0)
    try:
        with serving(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert os.umask(0) == 0  # as it was
    finally:
        os.umask(before)
    assert list(tmp_path.iterdir()) == []


def test_a_stale_socket_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "node.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    assert path.is_socket()
    with serving(path):
        assert ask(path, "show", table="status")
        with pytest.raises(vf.OutputError, match="another node answers there"):
            control.open_socket(str(path))
        assert ask(path, "show", table="status")
    path.write_text("mine")
    with pytest.raises(vf.OutputError, match="no socket"):
        control.open_socket(str(path))
    assert path.read_text() == "mine"
    for wrong, said in ((tmp_path / "no" / "x.sock", "no directory"), ("x" * 200, "107 bytes"), ("", "107 bytes")):
        with pytest.raises(vf.OutputError, match=said):
            control.open_socket(str(wrong))


def test_somebody_elses_socket_is_left_alone(tmp_path: Path) -> None:
    """A node that ends removes its own socket and not that of one that took the name since."""
    path = tmp_path / "node.sock"
    with serving(path):
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
    assert path.is_socket()


@pytest.mark.parametrize("name", tables.TABLES)
def test_every_table_is_that_of_replay(name: str, tmp_path: Path) -> None:
    path = tmp_path / "node.sock"
    with serving(path) as node:
        text = [line for reply in ask(path, "show", table=name) for line in reply["lines"]]
        assert text == list(tables.TABLES[name][0](node.plane))
        replies = ask(path, "show", table=name, format="json")
        wanted = json.loads(json.dumps(tables.TABLES[name][1](node.plane)))
        if "rows" in replies[0]:
            assert [row for reply in replies for row in reply["rows"]] == wanted
        else:
            assert replies[0]["value"] == wanted


def test_tables_of_the_node(tmp_path: Path) -> None:
    path = tmp_path / "node.sock"
    with serving(path, about=lambda: {"underlay": "udp", "spec": "/etc/x.toml"}) as node:
        (status,) = ask(path, "show", table="status", format="json")
        assert status["value"]["pid"] == os.getpid() and status["value"]["underlay"] == "udp"
        assert status["value"]["version"] == vf.__version__ and status["value"]["name"] == "lab"
        (io,) = ask(path, "show", table="io", format="json")
        assert io["value"] == node.io_counters()
        (lines,) = ask(path, "show", table="io")
        assert lines["lines"][1].split() == ["underlay", "1,234", "5", "0"]
        assert "".join(ask(path, "show", table="vteps")[0]["lines"]).count("192.0.2.") == 2


def test_reload_stop_metrics(tmp_path: Path) -> None:
    path = tmp_path / "node.sock"
    with serving(path) as node:
        assert "said" in ask(path, "reload")[0] and node.reloads == 1
        node.refuse = "node.toml: vni = 1 << 24: 0 to 16777215"
        with pytest.raises(ControlError, match="16777215") as refused:
            ask(path, "reload")
        assert refused.value.exit_code == 2
        assert "vxlanfast_packets_total" in ask(path, "metrics")[0]["text"]
        assert not node.stopped.is_set()
        ask(path, "stop")
        assert node.stopped.wait(60)


WRONG = [
    (b"\n", "JSON"), (b"{}\n", "version 1"), (b"[1]\n", "object"), (b'{"v":2,"do":"show"}\n', "version 1"),
    (b'{"v":1}\n', "show, set"), (b'{"v":1,"do":{"a":1}}\n', "show, set"), (b'{"v":1,"do":"show"}\n', "table None"),
    (b'{"v":1,"do":"show","table":["fdb"]}\n', "table"), (b'{"v":1,"do":"show","table":"x\\ny"}\n', "table"),
    (b'{"v":1,"do":"show","table":"fdb","format":3}\n', "text or json"),
    (b'{"v":1,"do":"show","table":"fdb","stats":true}\n', "services alone"), (b"[" * 60000 + b"\n", "JSON"),
    (b'{"v":1,"do":"capture","stages":"inner"}\n', "list of strings"), (b"\xff\xfe\n", "JSON"),
    (b'{"v":1,"do":"capture","stages":["elsewhere"]}\n', "outer, inner"),
    (b'{"v":1,"do":"capture","vnis":[[1]]}\n', "pairs"), (b'{"v":1,"do":"capture","count":true}\n', "number"),
    (b'{"v":1,"do":"capture","snaplen":0}\n', "1 to"), (b'{"v":1,"do":"capture","port":"nope"}\n', "nope"),
    (b'{"v":1,"do":"capture","expression":"tcp prot 80"}\n', "filter"), (b'{"v":1,"do":"set"}\n', "what"),
    (b'{"v":1,"do":"set","what":"fdb","act":"replace","vni":1.5,"mac":"x"}\n', "number"),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "said"), WRONG, ids=[str(n) for n in range(len(WRONG))])
def test_wrong_requests(sent: bytes, said: str, tmp_path: Path) -> None:
    """Each is refused in one line, and the next one is answered."""
    path = tmp_path / "node.sock"
    with serving(path) as node:
        replies = [json.loads(line) for line in raw(path, sent).splitlines()]
        assert len(replies) == 1 and replies[0]["ok"] is False and replies[0]["v"] == 1
        assert said in replies[0]["error"] and "\n" not in replies[0]["error"] and len(replies[0]["error"]) < 300
        assert ask(path, "show", table="status")
        assert node.plane.watch is None


def test_hostile_bytes(tmp_path: Path) -> None:
    path = tmp_path / "node.sock"
    rng = random.Random(5)
    good = b'{"v":1,"do":"show","table":"fdb","format":"json"}\n'
    with serving(path):
        for _ in range(60):
            data = bytearray(good * 3)
            for _ in range(rng.randrange(1, 6)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            for line in raw(path, bytes(data)).splitlines():
                assert json.loads(line)["v"] == 1
        answer = raw(path, b"x" * (control.REQUEST_MAX * 3))
        assert answer == b"" or b"more than 65536 bytes" in answer
        assert raw(path, good[:-1]) == b""  # cut
        assert ask(path, "show", table="status")


def hung_up(sock: socket.socket) -> None:
    """Wait until the node has closed its end."""
    poll = select.poll()
    poll.register(sock, 0)
    assert poll.poll(60_000) == [(sock.fileno(), select.POLLHUP)]


def test_crowds_and_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many clients and no more; who says nothing is hung up on."""
    monkeypatch.setattr(control, "CLIENTS_MAX", 3)
    path = tmp_path / "node.sock"
    with serving(path):
        with contextlib.ExitStack() as crowd:
            for _ in range(3):
                client = crowd.enter_context(ControlClient(str(path)))
                assert list(client.ask("show", table="status"))
            assert b"3 clients" in raw(path, b"", half=False)
            one_more = crowd.enter_context(ControlClient(str(path)))
            hung_up(one_more._socket)
            with pytest.raises(ControlError, match="3 clients are served"):  # said before anything was asked
                list(one_more.ask("show", table="status"))
        monkeypatch.setattr(control, "PATIENCE_S", 0.2)
        until = time.monotonic() + 60
        while b"3 clients" in raw(path, b"", half=False) and time.monotonic() < until:
            time.sleep(0.05)
        assert raw(path, b"", half=False) == b""


def test_the_end_while_clients_are_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are hung up on, and nobody prints a traceback."""
    path = tmp_path / "node.sock"
    with contextlib.ExitStack() as crowd:
        with serving(path):
            client = crowd.enter_context(ControlClient(str(path)))
            assert list(client.ask("show", table="status"))
        with pytest.raises(ControlError, match="the node ended"):
            list(client.ask("show", table="status"))
    assert caplog.records == []


def test_who_takes_nothing_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "PIECE", 1 << 16)
    path = tmp_path / "node.sock"
    node = StandIn(big_spec())
    with serving(path, node), socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(str(path))
        sock.sendall(b'{"v":1,"do":"show","table":"neigh"}\n')
        with monkeypatch.context() as hasty:
            hasty.setattr(control, "PATIENCE_S", 0.5)
            hung_up(sock)
        got = b""
        with contextlib.suppress(ConnectionResetError):
            while more := sock.recv(1 << 20):
                got += more
        assert got and not got.endswith(b"\n")
        assert ask(path, "show", table="status")


def big_spec(count: int = 12000) -> vf.NodeSpec:
    """A network of many."""
    ends = tuple(
        vf.EndpointSpec(vtep="192.0.2.2", ip=(f"10.1.{n >> 8}.{n & 255}",)) for n in range(count)
    )
    return vf.NodeSpec(vtep=("192.0.2.1",), network=(vf.NetworkSpec(name="big", vni=1, endpoint=ends),))


def test_in_pieces_while_the_plane_works(tmp_path: Path) -> None:
    """A large table comes whole while packets are forwarded and entries come and go."""
    path = tmp_path / "node.sock"
    node = StandIn(big_spec())
    ended = threading.Event()

    def forward() -> None:
        n = 0
        while not ended.is_set():
            with node.lock:
                node.plane.set_station(1, f"02:ff:00:00:00:{n & 255:02x}", "192.0.2.2")
                node.plane.delete_station(1, f"02:ff:00:00:00:{n & 255:02x}")
            n += 1
            time.sleep(0.001)

    worker = threading.Thread(target=forward)
    with serving(path, node):
        worker.start()
        try:
            for name in ("fdb", "neigh"):
                rows = [row for reply in ask(path, "show", table=name, format="json") for row in reply["rows"]]
                key = "mac" if name == "fdb" else "dst"
                assert len({row[key] for row in rows if not str(row[key]).startswith("02:ff")}) == 12000
        finally:
            ended.set()
            worker.join(60)


class Counting:
    """A lock that counts how often it is taken, and says whether it is."""

    def __init__(self) -> None:
        self.taken = 0
        self.held = False

    def __enter__(self) -> None:
        assert not self.held
        self.taken, self.held = self.taken + 1, True

    def __exit__(self, *exc: object) -> None:
        self.held = False


def test_pieces_of_a_view() -> None:
    """Rows are as the plane's; the lock is held for a piece, and never while somebody has a row in hand."""
    plane = vf.Dataplane(big_spec(2000))
    lock = Counting()
    view = shown.PlaneView(plane, lock)
    for name in ("stations", "neighbours", "memberships", "services", "connections"):
        before, rows = lock.taken, []
        for row in getattr(view, name)():
            assert not lock.held
            rows.append(row)
        assert rows == list(getattr(plane, name)())
        assert lock.taken - before == len(rows) // shown.PIECE + 1
    assert view.stats() == plane.stats() and view.vteps == plane.vteps and view.spec is plane.spec


def test_services_that_go_meanwhile() -> None:
    """A service that goes while they are listed is left out."""
    bank = NODE[NODE.index("[[service]]") :].replace("shop", "bank").replace(".100", ".101")
    node = StandIn(vf.parse_spec(NODE + bank))
    rows = node.plane.services()
    assert next(rows)["name"] == "bank"
    node.plane.apply(vf.parse_spec(NODE[: NODE.index("[[service]]")]))
    assert list(rows) == []


def test_where_sockets_are(tmp_path: Path) -> None:
    assert control.socket_path("lab", str(tmp_path / "run")) == str(tmp_path / "run" / "lab.sock")
    assert (tmp_path / "run").is_dir()
    for name in ("", "a/b", "..", "a\nb"):
        with pytest.raises(vf.SpecError, match="name = "):
            control.socket_path(name, str(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(vf.OutputError, match="--control"):
        control.socket_path("lab", str(tmp_path / "file" / "x"))


def test_find_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VXLANFAST_SOCKET", raising=False)
    with pytest.raises(ControlError, match="start one with"):
        find_socket(None, str(tmp_path / "no"))
    with serving(tmp_path / "a.sock"):
        assert find_socket(None, str(tmp_path)) == str(tmp_path / "a.sock")
        with serving(tmp_path / "b.sock"), pytest.raises(ControlError, match=r"2 nodes.*a\.sock.*b\.sock"):
            find_socket(None, str(tmp_path))
    monkeypatch.setenv("VXLANFAST_SOCKET", "/x")
    assert find_socket(None) == "/x" and find_socket("/y") == "/y"
