"""The log: one line an event, whatever is in it; what repeats itself; the journal. And word to systemd."""

from __future__ import annotations

import io
import json
import os
import socket
import threading
from pathlib import Path

import pytest

from vxlanfast import notify
from vxlanfast.logs import EVENTS_MAX, Log, is_journal


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_text() -> None:
    out = io.StringIO()
    log = Log(out)
    log.info("listening", port=4789, path="/run/x.sock", ok=True, rate=1.5)
    log.warning("reload refused", reason='vni = "x": a number', empty="", two="a\nb", none=None)
    log.debug("nothing of this")
    first, second = out.getvalue().splitlines()
    when, rest = first.split(" ", 1)
    assert when.endswith("Z") and len(when) == 24
    assert rest == "info listening port=4789 path=/run/x.sock ok=true rate=1.5"
    assert second.split(" ", 1)[1] == (
        'warning reload refused reason="vni = \\"x\\": a number" empty="" two="a\\nb" none=None'
    )


def test_json() -> None:
    out = io.StringIO()
    log = Log(out, form="json", level="debug")
    log.debug("came", port="veth1\n", number=3, path=Path("/x"), level="mine")
    row = json.loads(out.getvalue())
    assert out.getvalue().count("\n") == 1
    assert {k: row[k] for k in ("level", "event", "port", "number", "path")} == {
        "level": "debug", "event": "came", "port": "veth1\n", "number": 3, "path": "/x",
    }  # fmt: skip


def test_one_line_whatever_is_in_it() -> None:
    out = io.StringIO()
    log = Log(out, burst=1000)
    for text in ("\n", "\r\n\x1b[2J", "\x00", "é\u2028x", "a=b c", "\\", '"' * 50, "x" * 100_000, "\ud800"):
        log.info(f"event {text}"[:40], value=text)
    assert len(out.getvalue().splitlines()) == out.getvalue().count("\n") == 9
    assert "\x1b" not in out.getvalue() and max(map(len, out.getvalue().splitlines())) < 1200


def test_what_repeats_itself_is_counted() -> None:
    out, clock = io.StringIO(), Clock()
    log = Log(out, burst=3, window_s=10, clock=clock)
    for _ in range(100):
        log.warning("queue full", port="veth1")
    log.info("another", x=1)
    assert len(out.getvalue().splitlines()) == 4
    clock.now += 10
    log.warning("queue full", port="veth1")
    lines = out.getvalue().splitlines()
    assert len(lines) == 6 and lines[4].endswith("warning queue full repeated=97 seconds=10")
    for _ in range(10):
        log.warning("queue full", port="veth1")
    log.flush()
    assert out.getvalue().splitlines()[-1].endswith("queue full repeated=8 seconds=0")


def test_events_that_are_counted_are_bounded() -> None:
    log = Log(io.StringIO(), clock=Clock())
    for n in range(EVENTS_MAX * 3):
        log.info(f"event {n}")
    assert len(log._windows) <= EVENTS_MAX + 1


def test_from_many_threads() -> None:
    out = io.StringIO()
    log = Log(out, burst=10_000)
    threads = [threading.Thread(target=lambda: [log.info("x", n=n) for n in range(200)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(out.getvalue().splitlines()) == 800


def test_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "journal").open("w") as file:
        status = os.fstat(file.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        assert is_journal(file)
        log = Log(file)
        log.error("down", port=1)
        log.info("up")
    assert (tmp_path / "journal").read_text() == "<3>error down port=1\n<6>info up\n"
    for wrong in ("", "x", "1:2", f"{status.st_dev}", "a:b"):
        with (tmp_path / "journal").open() as file:
            assert not is_journal(file, {"JOURNAL_STREAM": wrong})
    assert not is_journal(io.StringIO())


def test_a_stream_that_cannot_be_written() -> None:
    out = io.StringIO()
    log = Log(out)
    out.close()
    log.error("nobody reads this")
    for wrong in ({"form": "xml"}, {"level": "loud"}):
        with pytest.raises(ValueError, match=r"text or json|debug"):
            Log(out, **wrong)


@pytest.mark.parametrize("abstract", [False, True])
def test_notify(abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"@vxlanfast-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0{name[1:]}" if abstract else name)
        sock.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        assert notify.ready("3 networks\nup") and sock.recv(4096) == b"READY=1\nSTATUS=3 networks up"
        assert notify.reloading() and sock.recv(4096).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert notify.stopping() and sock.recv(4096) == b"STOPPING=1"
        assert notify.watchdog() and sock.recv(4096) == b"WATCHDOG=1"
        assert notify.status("x") and sock.recv(4096) == b"STATUS=x"


def test_nobody_to_notify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("", "relative", str(tmp_path / "none"), "/" + "x" * 300):
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        assert not notify.ready()
    assert notify.watchdog_s({}) is None and notify.watchdog_s({"WATCHDOG_USEC": "x"}) is None
    assert notify.watchdog_s({"WATCHDOG_USEC": "30000000"}) == 15.0
    assert notify.watchdog_s({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}) == 15.0
    assert notify.watchdog_s({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}) is None
