"""A running node's control socket: a Unix socket of its owner's alone; each line on it is a request or a reply.

A request is ``{"v": 1, "do": "show", "table": "fdb"}``. A reply is ``{"v": 1, "ok": true, …}``, and another one follows
where ``"more"`` is true; or ``{"v": 1, "ok": false, "error": "one line", "code": exit code}``. What can be done:

- ``show``: ``table``; ``format`` "text" (replies have ``lines``) or "json" (``rows``, or one ``value``); ``stats``.
- ``set``: what ``changes.parse`` makes of words; ``said`` is what was done.
- ``capture``: as ``taps.TapSpec``. Behind the reply comes pcapng in pieces, each behind its length (4 bytes,
  big-endian), 0 at the end, and one more reply with the counts. Saying more, or hanging up one's own side, ends it.
- ``reload``, ``stop``: ``said``. ``metrics``: ``text`` as Prometheus reads it.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from typing import Any, Protocol

from vxlanfast import __version__
from vxlanfast.changes import change
from vxlanfast.control_client import RUN_DIRECTORY, VERSION
from vxlanfast.dataplane import Dataplane
from vxlanfast.ends import reason, shown
from vxlanfast.errors import OutputError, SpecError, VxlanFastError
from vxlanfast.metrics import exposition
from vxlanfast.node_spec import NodeSpec
from vxlanfast.shown import PlaneView
from vxlanfast.tables import TABLES, aligned
from vxlanfast.taps import SNAPLEN, Tap, Taps, TapSpec

#: Bytes of a request; seconds in which one must come, and in which a piece of a reply must be taken.
REQUEST_MAX = 1 << 16
PATIENCE_S = 30.0
CLIENTS_MAX = 32
#: Lines or rows of a reply's piece.
PIECE = 512
#: Seconds a capture waits for packets before it looks whether its client is still there.
TAKE_S = 0.2
#: Other names of tables, those with figures (``-s``), and those that are no plane's.
ALIASES = {"vteps": "vtep", "nodes": "status"}
WITH_STATS = {"services": "services:stats"}
OF_NODE = ("io", "status")
Json = dict[str, Any]


class Node(Protocol):
    """A running node, as far as it is controlled."""

    @property
    def spec(self) -> NodeSpec: ...
    @property
    def plane(self) -> Dataplane: ...
    @property
    def lock(self) -> threading.RLock: ...
    async def reload(self, spec: NodeSpec | None = None) -> None: ...
    def io_counters(self) -> dict[str, dict[str, int]]: ...
    def inject(self, port: str, frames: list[bytes]) -> None: ...


class ControlServer:
    """The control socket of ``node`` at ``path``, with mode 0600 from its first moment on; ``close`` removes it.

    ``stop`` ends the node. ``about``: further keys of its status (underlay, spec file). ``clock``: the time, in ns,
    that the node gives packets; None: time is that of packets, and theirs is since 1970.
    """

    def __init__(
        self, node: Node, path: str, *, stop: Callable[[], object], about: Callable[[], Mapping[str, Any]] = dict,
        clock: Callable[[], int] | None = None,
    ) -> None:  # fmt: skip
        self.node = node
        self.path = path
        self.stop = stop
        self.about = about
        self.clock = clock
        self.taps = Taps(node.plane, node.lock)
        self._since = time.monotonic()
        self._clients: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._mine: tuple[int, int] | None = None  # of the socket's file: device and number
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="control")
        self._takers = ThreadPoolExecutor(8, thread_name_prefix="capture")

    async def start(self) -> None:
        """Listen. OutputError: there is no place, or another node answers there."""
        sock = open_socket(self.path)
        status = os.stat(self.path)
        self._mine = status.st_dev, status.st_ino
        self._server = await asyncio.start_unix_server(self._accept, sock=sock, limit=REQUEST_MAX)

    async def close(self) -> None:
        """Nobody is answered any more, and the socket is gone, if it is still this one."""
        if self._server is not None:
            self._server.close()
        self.taps.close()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        with suppress(OSError):
            status = os.stat(self.path)
            if (status.st_dev, status.st_ino) == self._mine:
                os.unlink(self.path)
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._takers.shutdown(wait=False, cancel_futures=True)

    # --- clients ----------------------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                if len(self._clients) > CLIENTS_MAX:
                    await self._reply(writer, _refused(f"{CLIENTS_MAX} clients are served, which is the limit", 1))
                else:
                    await self._serve(reader, writer)
        except asyncio.CancelledError:
            pass  # by ``close`` alone; asyncio before 3.12 would print what is raised here
        finally:
            self._clients.discard(task)
            writer.close()
            with suppress(Exception, asyncio.CancelledError):
                await writer.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    line = await reader.readuntil(b"\n")
            except asyncio.LimitOverrunError:
                await self._reply(writer, _refused(f"request: more than {REQUEST_MAX} bytes without a line's end"))
                return
            try:
                request = _request(line)
                await self._do(request, reader, writer)
                if request.get("do") == "capture":
                    return  # its way to say more is used up
            except VxlanFastError as error:
                await self._reply(writer, _refused(str(error), error.exit_code))
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                raise  # of the connection: there is nobody to tell
            except Exception as error:
                await self._reply(writer, _refused(f"{type(error).__name__}: {error}", 1))

    async def _reply(self, writer: asyncio.StreamWriter, reply: Json | bytes) -> None:
        """Send; TimeoutError: nobody takes it."""
        writer.write(reply if isinstance(reply, bytes) else _line({"ok": True, **reply}))
        try:
            async with asyncio.timeout(PATIENCE_S):
                await writer.drain()
        except TimeoutError:
            writer.transport.abort()
            raise

    async def _do(self, request: Json, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        do = request.get("do")
        if do == "show":
            await self._show(request, writer)
        elif do == "set":
            await self._reply(writer, {"said": await self._in_pool(self._set, request)})
        elif do == "capture":
            await self._capture(request, reader, writer)
        elif do == "reload":
            await self.node.reload()
            await self._reply(writer, {"said": "the spec was read again, and holds"})
        elif do == "stop":
            await self._reply(writer, {"said": "the node ends"})
            self.stop()
        elif do == "metrics":
            await self._reply(writer, {"text": await self._in_pool(exposition, self.node)})
        else:
            raise SpecError(f"do = {_short(do)}: show, set, capture, reload, stop or metrics")

    async def _in_pool(self, call: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call, *arguments)

    # --- show and set -----------------------------------------------------------------------------------

    async def _show(self, request: Json, writer: asyncio.StreamWriter) -> None:
        """Pieces are made in a thread, each when the one before has gone: a slow client costs no memory."""
        pieces = self._pieces(request)
        while (piece := await self._in_pool(next, pieces, None)) is not None:
            await self._reply(writer, piece)

    def _pieces(self, request: Json) -> Iterator[bytes]:
        name, form = request.get("table"), request.get("format", "text")
        name = ALIASES.get(name, name) if isinstance(name, str) else name
        if not isinstance(name, str) or (name not in TABLES and name not in OF_NODE):
            raise SpecError(f"table {_short(name)}: {', '.join((*TABLES, *OF_NODE))}")
        if form not in ("text", "json"):
            raise SpecError(f"format = {_short(form)}: text or json")
        if request.get("stats") is True:
            if name not in WITH_STATS:
                raise SpecError(f"stats of {name}: of {', '.join(WITH_STATS)} alone")
            name = WITH_STATS[name]
        if name in OF_NODE:
            row = self.status() if name == "status" else self.node.io_counters()
            yield _line({"ok": True, "value": row} if form == "json" else {"ok": True, "lines": _node_lines(name, row)})
            return
        view = PlaneView(self.node.plane, self.node.lock, None if self.clock is None else self.clock())
        if form == "text":
            yield from _in_pieces("lines", TABLES[name][0](view))
        elif name == "connections":
            yield from _in_pieces("rows", view.connections())
        else:
            value = TABLES[name][1](view)
            if isinstance(value, list):
                yield from _in_pieces("rows", iter(value))
            else:
                yield _line({"ok": True, "value": value})

    def status(self) -> Json:
        """What the node is."""
        node = self.node
        return {
            "name": node.spec.name, "version": __version__, "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - self._since, 3), "vtep": list(node.spec.vtep), "socket": self.path,
            "networks": len(node.spec.network), "ports": list(node.plane.port_names[1:]), "captures": len(self.taps),
            **self.about(),
        }  # fmt: skip

    def _set(self, request: Json) -> str:
        now_ns = 0 if self.clock is None else self.clock()
        with self.node.lock:
            return change(self.node.plane, request, now_ns)

    # --- captures ---------------------------------------------------------------------------------------

    async def _capture(self, request: Json, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tap = await self._in_pool(self._tap, request)
        self.taps.add(tap)
        gone = asyncio.create_task(reader.read(1))  # it says no more, or goes: that is the end
        fault = ""
        try:
            await self._reply(writer, {"capture": "pcapng"})
            while True:
                try:
                    piece = await asyncio.get_running_loop().run_in_executor(self._takers, tap.take, TAKE_S)
                except VxlanFastError as error:
                    fault = str(error)
                    break
                if piece is None:
                    break
                if piece:
                    # No time limit: who is slow loses rows, which are counted, and keeps nobody waiting.
                    writer.write(len(piece).to_bytes(4, "big") + piece)
                    await writer.drain()
                if gone.done():
                    self.taps.remove(tap)
        finally:
            self.taps.remove(tap)
            gone.cancel()
        counts = {"rows": tap.rows, "lost": tap.lost, "faults": self.taps.faults}
        last = {**counts, **({"ok": False, "error": fault, "code": 1} if fault else {"ok": True})}
        await self._reply(writer, bytes(4) + _line(last))

    def _tap(self, request: Json) -> Tap:
        offset_ns = 0 if self.clock is None else time.time_ns() - self.clock()
        stages = _strings(request, "stages") or ("inner",)
        vnis = request.get("vnis", [])
        if not isinstance(vnis, list) or any(
            not isinstance(pair, list) or len(pair) != 2 or not all(type(n) is int for n in pair) for pair in vnis
        ):
            raise SpecError(f"vnis = {_short(vnis)}: pairs of numbers, the first and the last of a range")
        port, expression = request.get("port"), request.get("expression", "")
        if not isinstance(port, str | None) or not isinstance(expression, str):
            raise SpecError("port, expression: strings")
        spec = TapSpec(
            stages=stages, vnis=tuple((first, last) for first, last in vnis), port=port, expression=expression,
            count=_number(request, "count", 0), snaplen=_number(request, "snaplen", SNAPLEN),
        )  # fmt: skip
        return Tap(spec, offset_ns=offset_ns)


def socket_path(name: str, directory: str = RUN_DIRECTORY) -> str:
    """Where the node of that name has its control socket unless told otherwise; the directory is there then.

    SpecError: the name is none of a file. OutputError: the directory cannot be made.
    """
    if not name or name.startswith(".") or "/" in name or not name.isprintable():
        raise SpecError(f"name = {name!r}: it is to be the name of a control socket in {directory}")
    try:
        os.makedirs(directory, 0o755, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{shown(directory)}: {reason(error)}; --control names another place for the control socket",
            errno=error.errno, path=directory,
        ) from None  # fmt: skip
    return os.path.join(directory, f"{name}.sock")


def open_socket(path: str) -> socket.socket:
    """A listening Unix socket that its owner alone may use; in place of one that nobody answers at."""
    raw = os.fsencode(path)
    if not 0 < len(raw) <= 107 or b"\0" in raw:
        raise OutputError(f"control socket {shown(path)}: 1 to 107 bytes of path", path=path)
    _make_way(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    old = os.umask(0o177)
    try:
        sock.bind(path)
        sock.listen(CLIENTS_MAX)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        what = f"there is no directory {shown(os.path.dirname(path))}" if error.errno == errno.ENOENT else reason(error)
        raise OutputError(f"control socket {shown(path)}: {what}", errno=error.errno, path=path) from None
    finally:
        os.umask(old)
    return sock


def _make_way(path: str) -> None:
    """Remove a socket that nobody answers at. OutputError: somebody does, or it is something else."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise OutputError(f"control socket {shown(path)}: there is a file that is no socket", path=path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            with suppress(FileNotFoundError):
                os.unlink(path)
            return
        except OSError as error:
            raise OutputError(f"control socket {shown(path)}: {reason(error)}", errno=error.errno, path=path) from None
    raise OutputError(f"control socket {shown(path)}: another node answers there", errno=errno.EADDRINUSE, path=path)


def _request(line: bytes) -> Json:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise SpecError("request: a line of JSON") from None
    if not isinstance(request, dict):
        raise SpecError("request: a JSON object")
    if request.get("v") != VERSION:
        raise SpecError(f"v = {_short(request.get('v'))}: this node speaks version {VERSION}")
    return request


def _refused(text: str, code: int = 2) -> Json:
    return {"ok": False, "error": " ".join(text.split()), "code": code}


def _line(reply: Json) -> bytes:
    return json.dumps({"v": VERSION, **reply}, separators=(",", ":")).encode() + b"\n"


def _in_pieces(key: str, items: Iterator[Any]) -> Iterator[bytes]:
    while True:
        piece = list(islice(items, PIECE))
        more = len(piece) == PIECE
        yield _line({"ok": True, key: piece, "more": more})
        if not more:
            return


def _node_lines(name: str, row: Mapping[str, Any]) -> list[str]:
    if name == "status":
        return [f"{key} {_words(value)}" for key, value in row.items() if value or value == 0]
    keys = list(dict.fromkeys(key for counters in row.values() for key in counters))
    rows = [(port, *(f"{counters.get(key, 0):,}" for key in keys)) for port, counters in row.items()]
    return list(aligned(("port", *(key.replace("_", " ") for key in keys)), rows))


def _words(value: object) -> str:
    """``a b`` of a list, ``a 1 b 2`` of a mapping."""
    if isinstance(value, Mapping):
        return " ".join(f"{key} {_words(one)}" for key, one in value.items())
    return " ".join(map(_words, value)) if isinstance(value, list) else str(value)


def _short(value: object) -> str:
    """What somebody sent, on one line that is not too long."""
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _strings(request: Json, key: str) -> tuple[str, ...]:
    value = request.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise SpecError(f"{key} = {_short(value)}: a list of strings")
    return tuple(dict.fromkeys(value))


def _number(request: Json, key: str, default: int) -> int:
    value = request.get(key, default)
    if type(value) is not int:
        raise SpecError(f"{key} = {_short(value)}: a number")
    return value
