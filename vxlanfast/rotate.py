"""A capture that goes on in one file after another, named as tcpdump names them (-G, -C, -W)."""

from __future__ import annotations

import io
import os
import stat
import struct
import time
from typing import TYPE_CHECKING

from vxlanfast.capture import append, flush
from vxlanfast.codec import encoder_of
from vxlanfast.ends import path_of, reason, shown
from vxlanfast.errors import OutputError, SpecError
from vxlanfast.sink import Sink, open_sink

if TYPE_CHECKING:
    from collections.abc import Callable

    from vxlanfast._ext.batch import PacketBatch
    from vxlanfast._ext.io.writer import CaptureEncoder
    from vxlanfast.ends import Writable

__all__ = ["RotatingCapture"]

#: Rows encoded between two looks at a file's size.
STEP_ROWS = 64
MEGABYTE = 1_000_000


class RotatingCapture:
    """Where batches are written to. ``make_encoder`` gives an encoder with a file's beginning in it.

    ``seconds`` (-G): a new file so often, as soon as the present one has packets; the name goes through strftime.
    ``megabytes`` (-C): a new one when there are more than so many million bytes, with a number behind the name, 64
    packets more at most. ``files`` (-W): with ``megabytes`` alone a ring of so many, with ``seconds`` alone the end
    after so many (``done``); with both it says only how many digits the number has. A file has its name from its
    first byte on, and whole records at any time when nothing is being written.
    """

    def __init__(
        self, target: Writable, make_encoder: Callable[[], CaptureEncoder], *, seconds: int | None = None,
        megabytes: int | None = None, files: int | None = None, ordered: bool = False, now: float | None = None,
    ) -> None:  # fmt: skip
        self.path = path_of(target)
        if seconds or megabytes:
            if self.path is None or self.path == "-" or _is_special(self.path):
                raise SpecError("-G and -C make several files: OUT must be the name of one")
        elif files:
            raise SpecError("-W says how many files -G or -C make: give one of them")
        self.target = target
        self.make_encoder = make_encoder
        self.seconds = seconds
        self.size = megabytes * MEGABYTE if megabytes else None
        self.files = files
        self.ordered = ordered  # rows leave in another order than their own: no steps
        self.number = 0  # -C: of the file
        self.closed = 0  # -G: files that are whole
        self.done = False
        self.names: list[str] = []
        self.rows = self.bytes = self.refused = 0  # of files that are whole
        self.bytes_out = 0
        self._begun = False  # a file is open: its encoder counts too
        self._open(time.time() if now is None else now)

    @property
    def is_live(self) -> bool:
        """A pipe, FIFO or terminal."""
        return self.sink.is_live

    @property
    def written(self) -> int:
        """Packets written, in all files."""
        return self.totals[0]

    @property
    def totals(self) -> tuple[int, int, int]:
        """Packets and bytes of frames written, and packets refused for their link type."""
        encoder = self.encoder if self._begun else None
        if encoder is None:
            return self.rows, self.bytes, self.refused
        return self.rows + encoder.rows, self.bytes + encoder.bytes, self.refused + encoder.refused

    def _name(self) -> str:
        assert self.path is not None
        name = time.strftime(self.path, time.localtime(self.began)) if self.seconds else self.path
        if self.size and (self.number or self.files):
            name += f"{self.number:0{len(str(self.files - 1)) if self.files else 0}d}"
        return name

    def _open(self, now: float) -> None:
        self.began = now
        self.bytes_out = 0
        if self.path is None or self.path == "-" or _is_special(self.path):
            self.sink = open_sink(self.target)
        else:
            name = self._name()
            try:
                fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
            except OSError as error:
                raise OutputError(f"{shown(name)}: {reason(error)}", errno=error.errno, path=name) from error
            self.sink = Sink(io.FileIO(fd, "w"), name, owned=True, encoder=encoder_of(name, None, False))
        self.names.append(self.sink.name)
        del self.names[:-100]
        try:
            self.encoder = self.make_encoder()
            self._begun = True
            self.flush()  # a reader of a pipe wants to know what is to come
        except BaseException:
            self.sink.abort()
            raise

    def flush(self) -> None:
        """Write what waits."""
        self.bytes_out += len(self.encoder.pending())
        flush(self.encoder, self.sink)

    def write(self, batch: PacketBatch) -> None:
        """Write the rows that leave; a new file where this one is full."""
        if self.size is None or self.ordered:
            append(self.encoder, self.sink, batch, flush=self.sink.is_live)
            if self.size is not None:
                self.flush()
                self._look_at_size()
            return
        at, count = 0, len(batch)
        while at < count:
            end = min(at + STEP_ROWS, count)
            rest = self.encoder.encode(batch, at, end)
            at = end if rest is None else rest
            if rest is not None or self.encoder.full:
                self.flush()
            self._look_at_size()

    def _look_at_size(self) -> None:
        if self.size is not None and self.bytes_out + len(self.encoder.pending()) > self.size:
            self._close()
            self.number += 1
            if self.files and not self.seconds and self.number >= self.files:
                self.number = 0
            self._open(self.began)

    def tick(self, now: float) -> None:
        """Look at the clock: -G."""
        if self.seconds is None or now - self.began < self.seconds or self.encoder.rows == 0:
            return
        self.closed += 1
        if self.files and self.size is None and self.closed >= self.files:
            self.done = True
            return
        self._close()
        self.number = 0
        self._open(now)

    def wait_s(self, now: float) -> float | None:
        """Seconds until ``tick`` has something to do; None: never, as things are."""
        if self.seconds is None or self.encoder.rows == 0:
            return None
        return max(0.0, self.began + self.seconds - now)

    def _close(self, statistics: bytes = b"") -> None:
        if statistics:
            self.encoder.carry_block(statistics, False)
        self.flush()
        self.sink.commit()
        self.rows += self.encoder.rows
        self.bytes += self.encoder.bytes
        self.refused += self.encoder.refused
        self._begun = False

    def close(self, received: int = 0, dropped: int = 0) -> None:
        """The end, well: in pcapng with a statistics block that says what came and what the kernel dropped."""
        statistics = b""
        if self.encoder.format == "pcapng":
            units = time.time_ns()
            body = struct.pack("<III", 0, units >> 32, units & 0xFFFFFFFF)
            body += struct.pack("<HHQHHQHH", 4, 8, received + dropped, 5, 8, dropped, 0, 0)
            statistics = struct.pack("<II", 5, len(body) + 12) + body + struct.pack("<I", len(body) + 12)
        self._close(statistics)

    def abort(self) -> None:
        """The end, not well: what is written stays."""
        self.sink.abort()


def _is_special(path: str) -> bool:
    """A FIFO, a device, a descriptor: what is there already and no regular file."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False
