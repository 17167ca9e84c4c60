"""Word to systemd, where it started the node and wants to hear of it: sd_notify(3) by a plain socket."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping


def notify(*words: str, environment: Mapping[str, str] | None = None) -> bool:
    """Send ``READY=1``, ``STATUS=…`` and the like; whether somebody was told. It raises nothing: nobody need listen."""
    path = (os.environ if environment is None else environment).get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return False
    address = f"\0{path[1:]}" if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)  # a full queue is not worth a stop
            sock.sendto("\n".join(words).encode(), address)
    except (OSError, ValueError):
        return False
    return True


def ready(status: str = "") -> bool:
    """The node forwards."""
    return notify("READY=1", *([f"STATUS={_line(status)}"] if status else []))


def reloading() -> bool:
    """A spec is being read; ``ready`` says when that is over."""
    return notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping() -> bool:
    """The node ends."""
    return notify("STOPPING=1")


def status(text: str) -> bool:
    """A line for ``systemctl status``."""
    return notify(f"STATUS={_line(text)}")


def watchdog() -> bool:
    """The node lives."""
    return notify("WATCHDOG=1")


def watchdog_s(environment: Mapping[str, str] | None = None) -> float | None:
    """Seconds after which to call ``watchdog`` again: half of what systemd allows; None: it does not ask."""
    given = os.environ if environment is None else environment
    usec, pid = given.get("WATCHDOG_USEC", ""), given.get("WATCHDOG_PID", "")
    if not (usec.isascii() and usec.isdigit() and int(usec) > 0) or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 2e6


def _line(text: str) -> str:
    return " ".join(text.split())
