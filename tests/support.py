"""What the tests share: capture files made byte by byte, other people's captures, and programs of others.

Nothing here uses the package's own reader, writer or arithmetic, except where the name says so (``ours_…``).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import hashlib
import itertools
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "fixtures" / "pcaps"
PYTHON = sys.executable
#: Builds in which time and memory say nothing (see setup.py): bounds checks, sanitizers, tracing.
SLOW_BUILD = os.environ.get("VXLANFAST_BUILD", "release") in ("asan", "trace", "fuzz")
ASAN = os.environ.get("VXLANFAST_BUILD") == "asan"
#: Thirty times slower than release: a run for the lines it passes, not for the number of inputs.
TRACE = os.environ.get("VXLANFAST_BUILD") == "trace"
many_inputs = pytest.mark.skipif(TRACE, reason="many inputs, no other lines: the other builds run them")

#: Seconds that anything may take on a busy machine.
PATIENCE_S = 60.0

VERBS_ENV = {
    **os.environ,
    "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    "COLUMNS": "200",
}


def until(what: str, check: Callable[[], Any], seconds: float = PATIENCE_S) -> Any:
    """What ``check`` gives as soon as that is something; AssertionError: it did not come."""
    end = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.05)


#: Below those that the kernel gives to whoever asks for any, and apart from another process's of these tests.
PORTS = itertools.count(os.getpid() * 97)


def free_port() -> int:
    """A port that nobody has, and that stays free until a program of ours has started."""
    for _ in range(1000):
        port = 20000 + next(PORTS) % 10000
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock, suppress(OSError):
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind(("::", port))
            return port
    raise AssertionError("no free port")


# --- other people's captures ----------------------------------------------------------------------------


def _captures() -> Path | None:
    """VXLANFAST_CAPTURES, or the folder shared/captures beside the tree or further up. They are not the project's."""
    named = os.environ.get("VXLANFAST_CAPTURES")
    places = [Path(named)] if named else [parent / "shared" / "captures" for parent in ROOT.parents]
    return next((place for place in places if (place / "vxlan" / "INDEX.tsv").is_file()), None)


CAPTURES = _captures()


def table(path: Path) -> list[dict[str, str]]:
    """A file of tab-separated values with a line of names; lines that start with # say something else."""
    lines = [
        line for line in path.read_text(errors="replace").splitlines() if line and not line.startswith("#")
    ]
    names = lines[0].split("\t")
    return [dict(zip(names, line.split("\t"), strict=False)) for line in lines[1:]]


def captures(folder: str) -> Any:
    """Decorator: one test per row of a folder's INDEX.tsv (or per file of it), as ``row``."""
    if CAPTURES is None:
        skip = pytest.mark.skip(
            reason="the captures of others are not here (VXLANFAST_CAPTURES names their folder)"
        )
        return pytest.mark.parametrize("row", [pytest.param(None, marks=skip)])
    index = CAPTURES / folder / "INDEX.tsv"
    rows = (
        table(index) if index.exists() else [{"file": path.name} for path in sorted(index.parent.iterdir())]
    )
    return pytest.mark.parametrize("row", [pytest.param(row, id=row["file"][-60:]) for row in rows])


def capture_path(folder: str, name: str) -> Path:
    """A file of theirs; the test is skipped without them."""
    if CAPTURES is None:
        pytest.skip("the captures of others are not here")
    return CAPTURES / folder / name


def sha(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


# --- capture files, byte by byte ------------------------------------------------------------------------

MAGIC_USEC, MAGIC_NSEC, MAGIC_MODIFIED = 0xA1B2C3D4, 0xA1B23C4D, 0xA1B2CD34


class Packet(NamedTuple):
    """One packet of a capture, as any reader should see it."""

    ts_ns: int
    data: bytes
    wire_len: int
    link: int = 1
    interface: int = 0


def pcap(
    frames: Iterable[bytes | Packet],
    *,
    big: bool = False,
    magic: int = MAGIC_USEC,
    version: tuple[int, int] = (2, 4),
    link: int = 1,
    snaplen: int = 262144,
    swap: bool = False,
) -> bytes:
    """A classic pcap file. Frames without a time get one microsecond more than the one before."""
    e = ">" if big else "<"
    tick = 1 if magic == MAGIC_NSEC else 1000
    out = [struct.pack(e + "IHHiIII", magic, *version, 0, 0, snaplen, link)]
    for n, frame in enumerate(frames):
        if not isinstance(frame, Packet):
            frame = Packet(1_700_000_000_000_000_000 + n * 1000, bytes(frame), len(frame))
        lengths = (frame.wire_len, len(frame.data)) if swap else (len(frame.data), frame.wire_len)
        seconds, rest = divmod(frame.ts_ns, 1_000_000_000)
        out.append(struct.pack(e + "IIII", seconds, rest // tick, *lengths))
        if magic == MAGIC_MODIFIED:
            out.append(struct.pack(e + "IHBB", 7, 0x0800, 1, 0))
        out.append(frame.data)
    return b"".join(out)


class Pcapng:
    """A pcapng file, block by block. ``data`` is what has come together."""

    def __init__(self, *, big: bool = False, section: bool = True) -> None:
        self.data = b""
        self.big = big
        self.e = ">" if big else "<"
        if section:
            self.section(big=big)

    def pack(self, form: str, *values: int) -> bytes:
        return struct.pack(self.e + form, *values)

    def option(self, code: int, value: bytes) -> bytes:
        return self.pack("HH", code, len(value)) + value + bytes(-len(value) % 4)

    def options(self, options: Sequence[tuple[int, bytes]], end: bool = True) -> bytes:
        body = b"".join(self.option(code, value) for code, value in options)
        return body + (bytes(4) if options and end else b"")

    def block(self, kind: int, body: bytes) -> Pcapng:
        body += bytes(-len(body) % 4)
        length = self.pack("I", len(body) + 12)
        self.data += self.pack("I", kind) + length + body + length
        return self

    def section(
        self, *, big: bool, options: Sequence[tuple[int, bytes]] = (), length: int = -1, major: int = 1
    ) -> Pcapng:
        self.big, self.e = big, ">" if big else "<"
        return self.block(0x0A0D0D0A, self.pack("IHHq", 0x1A2B3C4D, major, 0, length) + self.options(options))

    def interface(self, link: int = 1, *, snaplen: int = 0, tsresol: int | None = None, offset: int | None = None,
                  options: Sequence[tuple[int, bytes]] = ()) -> Pcapng:  # fmt: skip
        options = list(options)
        if tsresol is not None:
            options.append((9, bytes([tsresol])))
        if offset is not None:
            options.append((14, self.pack("q", offset)))
        return self.block(1, self.pack("HHI", link, 0, snaplen) + self.options(options))

    def epb(self, data: bytes, *, units: int = 0, interface: int = 0, wire_len: int | None = None,
            options: Sequence[tuple[int, bytes]] = ()) -> Pcapng:  # fmt: skip
        wire_len = len(data) if wire_len is None else wire_len
        head = self.pack("IIIII", interface, units >> 32, units & 0xFFFFFFFF, len(data), wire_len)
        return self.block(6, head + data + bytes(-len(data) % 4) + self.options(options))

    def pb(self, data: bytes, *, units: int = 0, interface: int = 0, drops: int = 0xFFFF,
           options: Sequence[tuple[int, bytes]] = ()) -> Pcapng:  # fmt: skip
        head = self.pack("HHIIII", interface, drops, units >> 32, units & 0xFFFFFFFF, len(data), len(data))
        return self.block(2, head + data + bytes(-len(data) % 4) + self.options(options))

    def spb(self, data: bytes, *, wire_len: int | None = None) -> Pcapng:
        return self.block(3, self.pack("I", len(data) if wire_len is None else wire_len) + data)


class Block(NamedTuple):
    """One pcapng block as it stands in a file."""

    kind: int
    body: bytes
    big: bool

    def unpack(self, form: str, at: int = 0) -> tuple[int, ...]:
        return struct.unpack_from((">" if self.big else "<") + form, self.body, at)

    @property
    def options_at(self) -> int:
        """Where the options start; None for blocks that have none here."""
        if self.kind == 0x0A0D0D0A:
            return 16
        if self.kind == 1:
            return 8
        if self.kind in (2, 6):
            length = self.unpack("I", 12)[0]
            return 20 + length + -length % 4
        return len(self.body)

    def options(self) -> list[tuple[int, bytes]]:
        out, at = [], self.options_at
        while at + 4 <= len(self.body):
            code, length = self.unpack("HH", at)
            if code == 0:
                break
            out.append((code, self.body[at + 4 : at + 4 + length]))
            at += 4 + length + -length % 4
        return out


def blocks(data: bytes) -> list[Block]:
    """Every block of a pcapng file that is right to the byte."""
    out, at, big = [], 0, False
    while at < len(data):
        if data[at : at + 4] == b"\x0a\x0d\x0d\x0a":
            big = data[at + 8 : at + 12] == b"\x1a\x2b\x3c\x4d"
            assert big or data[at + 8 : at + 12] == b"\x4d\x3c\x2b\x1a"
        kind, length = struct.unpack_from(">II" if big else "<II", data, at)
        assert length % 4 == 0 and length >= 12
        assert struct.unpack_from(">I" if big else "<I", data, at + length - 4)[0] == length
        out.append(Block(kind, data[at + 8 : at + length - 4], big))
        at += length
    assert at == len(data)
    return out


# --- our own reader, for comparison with all the others -------------------------------------------------


def in_pieces(data: bytes, size: int | None = None) -> Callable[[memoryview], int]:
    """A ``readinto`` that gives ``data`` in pieces of ``size`` bytes."""
    view, at = memoryview(data), 0

    def readinto(buffer: memoryview) -> int:
        nonlocal at
        n = min(len(buffer), len(view) - at, size or len(buffer))
        buffer[:n] = view[at : at + n]
        at += n
        return n

    return readinto


def ours_read(
    data: bytes, *, size: int | None = None, limit: int | None = None, batch: Any = None
) -> tuple[list[Packet], tuple[str, int] | None]:
    """Packets and fault of a capture file."""
    from vxlanfast._ext.batch import PacketBatch
    from vxlanfast._ext.io.reader import CaptureDecoder

    decoder = CaptureDecoder(limit)
    batch = PacketBatch() if batch is None else batch
    readinto = in_pieces(data, size)
    out: list[Packet] = []
    while decoder.fill(batch, readinto):
        out += packets_of(batch)
    assert decoder.rows == len(out)
    return out, decoder.fault


def batch_from(data: bytes) -> Any:
    """A whole capture file in one batch."""
    from vxlanfast._ext.batch import PacketBatch
    from vxlanfast._ext.io.reader import CaptureDecoder

    decoder, batch = CaptureDecoder(), PacketBatch(rows=max(1, len(data) // 16))
    decoder.chunk_len = max(len(data), 1)
    decoder.fill(batch, in_pieces(data))
    assert decoder.fault is None, decoder.fault
    assert decoder.offset == len(data)
    return batch


def packets_of(batch: Any) -> list[Packet]:
    """Every row of a batch, whatever its verdict."""
    times, wire, links, ports = batch.ts_ns, batch.wire_lengths, batch.link, batch.port_in
    return [Packet(times[i], bytes(batch.frame(i)), wire[i], links[i], ports[i]) for i in range(len(batch))]


def frames_of(path: Path | str | bytes) -> list[bytes]:
    """The frames of a capture file."""
    data = path if isinstance(path, bytes) else Path(path).read_bytes()
    packets, fault = ours_read(data)
    assert fault is None, fault
    return [packet.data for packet in packets]


def assert_adds_up(stats: Any) -> None:
    """Packets in = passed + kept + dropped, and none of them negative."""
    assert stats.packets == stats.passed + stats.kept + stats.dropped, stats
    assert min(stats.passed, stats.kept, stats.written, *stats.drops.values(), 0) >= 0, stats
    assert all(stats.drops.values()), stats


# --- arithmetic of our own ------------------------------------------------------------------------------


def csum(data: bytes) -> int:
    """RFC 1071, word by word."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def udp_csum(src: bytes, dst: bytes, datagram: bytes) -> int:
    """Of a UDP datagram whose checksum field is as it stands: 0 for a right one."""
    if len(src) == 4:
        pseudo = src + dst + struct.pack(">BBH", 0, 17, len(datagram))
    else:
        pseudo = src + dst + struct.pack(">II", len(datagram), 17)
    return csum(pseudo + datagram)


# --- programs of others ---------------------------------------------------------------------------------

TSHARK = shutil.which("tshark")
TCPDUMP = shutil.which("tcpdump")
needs_tshark = pytest.mark.skipif(TSHARK is None, reason="tshark is not installed")
needs_tcpdump = pytest.mark.skipif(TCPDUMP is None, reason="tcpdump is not installed")


def tshark(
    path: Path | str, *fields: str, options: Sequence[str] = (), decode: str | None = None
) -> list[list[str]]:
    """Fields of every packet as tshark has them."""
    command = [TSHARK or "tshark", "-n", "-r", str(path), "-T", "fields", "-E", "occurrence=f", *options]
    for field in fields:
        command += ["-e", field]
    if decode:
        command += ["-Y", decode]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    return [line.split("\t") for line in run.stdout.splitlines()]


class _Timeval(ctypes.Structure):
    _fields_ = (("sec", ctypes.c_long), ("usec", ctypes.c_long))


class _PcapHeader(ctypes.Structure):
    _fields_ = (("ts", _Timeval), ("caplen", ctypes.c_uint32), ("len", ctypes.c_uint32))


@cache
def _libpcap() -> Any:
    for name in ("libpcap.so.1", "libpcap.so.0.8", ctypes.util.find_library("pcap")):
        try:
            library = ctypes.CDLL(name) if name else None
        except OSError:
            continue
        if library is not None:
            library.pcap_open_offline_with_tstamp_precision.restype = ctypes.c_void_p
            library.pcap_open_offline_with_tstamp_precision.argtypes = (
                ctypes.c_char_p, ctypes.c_uint, ctypes.c_char_p,
            )  # fmt: skip
            library.pcap_next_ex.argtypes = (
                ctypes.c_void_p, ctypes.POINTER(ctypes.POINTER(_PcapHeader)), ctypes.POINTER(ctypes.c_void_p),
            )  # fmt: skip
            library.pcap_close.argtypes = (ctypes.c_void_p,)
            return library
    return None


def libpcap_read(path: Path | str) -> list[Packet] | None:
    """Packets of a file as libpcap (and so ``tcpdump -r``) reads them; None where it refuses the file at once."""
    library = _libpcap()
    if library is None:
        pytest.skip("libpcap is not installed")
    error = ctypes.create_string_buffer(512)
    handle = library.pcap_open_offline_with_tstamp_precision(os.fsencode(path), 1, error)
    if not handle:
        return None
    header, data = ctypes.POINTER(_PcapHeader)(), ctypes.c_void_p()
    out = []
    while library.pcap_next_ex(handle, ctypes.byref(header), ctypes.byref(data)) == 1:
        h = header.contents
        out.append(
            Packet(h.ts.sec * 1_000_000_000 + h.ts.usec, ctypes.string_at(data.value or 0, h.caplen), h.len)
        )
    library.pcap_close(handle)
    return out


# --- the command line -----------------------------------------------------------------------------------


def vxlanfast(*arguments: object, stdin: bytes | None = None, cwd: Path | None = None, **rest: Any) -> Any:
    """``python -m vxlanfast …`` to its end: returncode, stdout and stderr (bytes)."""
    return subprocess.run(
        [PYTHON, "-m", "vxlanfast", *map(str, arguments)],
        input=stdin if stdin is not None else b"",
        capture_output=True,
        cwd=cwd,
        env=VERBS_ENV,
        timeout=300,
        check=False,
        **rest,
    )


def assert_one_line(run: Any, code: int, *said: str) -> str:
    """The run failed with ``code`` and said so in one line, without a traceback; every text of ``said`` is in it."""
    text: str = run.stderr.decode()
    assert run.returncode == code, text
    assert "Traceback" not in text, text
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    for part in said:
        assert part in lines[0], text
    return lines[0]


def every_split(n: int) -> Iterator[tuple[int, ...]]:
    """A few ways to cut ``n`` things into runs: all in one, each alone, halves, and uneven ones."""
    yield (n,)
    yield (1,) * n
    yield (n // 2, n - n // 2)
    uneven = []
    while sum(uneven) < n:
        uneven.append(min(n - sum(uneven), 1 + len(uneven) * 7 % 13))
    yield tuple(uneven)
