"""A running node's control socket from the other side: find it, ask, take what comes. ``control`` has the protocol."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from vxlanfast.ends import reason, shown
from vxlanfast.errors import VxlanFastError

VERSION = 1
#: Where nodes have their sockets, and what names one instead.
RUN_DIRECTORY = "/run/vxlanfast"
SOCKET_VARIABLE = "VXLANFAST_SOCKET"
TIMEOUT_S = 60.0
#: Bytes of a reply's line.
LINE_MAX = 64 << 20
START = "start one with: vxlanfast node -c node.toml"
Json = dict[str, Any]
T = TypeVar("T")


class ControlError(VxlanFastError):
    """No node answers, or it refuses; ``exit_code`` is what it would have been there."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def sockets(directory: str = RUN_DIRECTORY) -> list[str]:
    """Paths of the control sockets that there are, alive or not."""
    with suppress(OSError):
        return sorted(str(path) for path in Path(directory).iterdir() if path.suffix == ".sock" and path.is_socket())
    return []


def find_socket(given: str | None = None, directory: str = RUN_DIRECTORY) -> str:
    """The control socket to use: as given, as VXLANFAST_SOCKET has it, or the only one. ControlError: there is none, or
    several."""
    path = given or os.environ.get(SOCKET_VARIABLE)
    if path:
        return path
    found = sockets(directory)
    if not found:
        raise ControlError(f"no node has a control socket in {directory}: {START}, or name its socket with --socket")
    if len(found) > 1:
        names = ", ".join(map(shown, found))
        raise ControlError(f"there are {len(found)} nodes: --socket says which of {names}", 2)
    return found[0]


class ControlClient:
    """A connection to a node. ControlError: nobody answers at ``path``."""

    def __init__(self, path: str, *, timeout_s: float = TIMEOUT_S) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise ControlError(f"control socket {shown(path)}: {_why(error)}") from None
        self._file = self._socket.makefile("rb")

    def send(self, do: str, **rest: object) -> None:
        """A request."""
        try:
            self._socket.sendall(json.dumps({"v": VERSION, "do": do, **rest}).encode() + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # it refused before it was asked: what it said is still to be read
        except OSError as error:
            raise self._gone(error) from None

    def reply(self) -> Json:
        """The next reply. ControlError: the node refuses, and this is why."""
        try:
            line = self._file.readline(LINE_MAX)
        except OSError as error:
            raise self._gone(error) from None
        try:
            reply = json.loads(line)
        except ValueError:
            reply = None
        if not line.endswith(b"\n") or not isinstance(reply, dict):
            raise ControlError(f"control socket {shown(self.path)}: the node ended, or what answers there is none")
        if reply.get("v") != VERSION:
            spoken = f"the node speaks version {reply.get('v')}, not {VERSION}"
            raise ControlError(f"control socket {shown(self.path)}: {spoken}")
        if not reply.get("ok"):
            code = reply.get("code")
            raise ControlError(str(reply.get("error")), code if type(code) is int and 0 < code < 126 else 1)
        return reply

    def part(self, reply: Json, key: str, kind: type[T]) -> T:
        """What a reply has under a key. ControlError: it has none such."""
        value = reply.get(key)
        if not isinstance(value, kind):
            raise ControlError(f"control socket {shown(self.path)}: what answers there is no node: no {key} in a reply")
        return value

    def ask(self, do: str, **rest: object) -> Iterator[Json]:
        """Every reply to a request."""
        self.send(do, **rest)
        while True:
            reply = self.reply()
            yield reply
            if not reply.get("more"):
                return

    def capture(self, **rest: object) -> Iterator[bytes]:
        """The pieces of a capture; it ends by itself, or behind ``end``. ``reply`` has the counts then."""
        self.send("capture", **rest)
        self.reply()
        self._socket.settimeout(None)  # there may be no packet for days
        while size := int.from_bytes(self._exactly(4), "big"):
            yield self._exactly(size)

    def end(self) -> None:
        """Say that this is enough of a capture."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def _exactly(self, size: int) -> bytes:
        try:
            data = self._file.read(size)
        except OSError as error:
            raise self._gone(error) from None
        if len(data) < size:
            raise ControlError(f"control socket {shown(self.path)}: the node ended")
        return data

    def _gone(self, error: OSError) -> ControlError:
        what = "no answer in time" if isinstance(error, TimeoutError) else f"{reason(error)}: the node ended"
        return ControlError(f"control socket {shown(self.path)}: {what}")

    def close(self) -> None:
        """Hang up."""
        self._file.close()
        self._socket.close()

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _why(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"there is none; {START}"
    if isinstance(error, ConnectionRefusedError):
        return f"nobody answers, its node ended; {START}"
    if isinstance(error, PermissionError):
        return "it is its owner's alone; ask as that user, or as root"
    return reason(error)
