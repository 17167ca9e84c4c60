"""One file on several cores, with the bytes of one: batches are read in turn, worked on at once, written in turn.

Reading and finding record bounds is a small part of the work, so one thread at a time does it, under a lock, and takes
a number there. What follows touches nothing shared. At the output the numbers decide where each batch's bytes go: into
a regular file every thread writes its own piece at its own offset, elsewhere they write one after the other.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.io.writer import CaptureEncoder
from vxlanfast.capture import Capture, flush
from vxlanfast.errors import Interrupted
from vxlanfast.sink import Sink

if TYPE_CHECKING:
    from vxlanfast.files import Plan, Watch


class _Line:
    """The shared state: who reads next, and who writes next."""

    def __init__(self, capture: Capture, sink: Sink, master: CaptureEncoder, watch: Watch | None) -> None:
        self.capture = capture
        self.sink = sink
        self.master = master
        self.watch = watch
        self.reading = threading.Lock()
        self.writing = threading.Condition()
        self.tickets = 0
        self.packets = 0
        self.turn = 0
        self.done = False
        self.stopped = False
        self.error: BaseException | None = None
        flush(master, sink)  # the file header
        self.fd = sink.fileno_or_none() if not sink.is_live else None
        self.offset = 0
        if self.fd is not None:
            try:
                self.offset = os.lseek(self.fd, 0, os.SEEK_CUR)
            except OSError:
                self.fd = None  # not a file with offsets after all
        self.begin = self.offset

    def read(self, batch: PacketBatch, encoder: CaptureEncoder, filled: int = 0) -> tuple[int, int] | None:
        """The next batch (or the one already ``filled``), its number and the packets before it; None at the end."""
        with self.reading:
            if self.done or self.error is not None:
                return None
            try:
                filled = filled or self.capture.fill(batch)
            except Interrupted:
                self.stopped = True
            if not filled:
                self.done = True
                return None
            ticket, ordinal = self.tickets, self.packets
            self.tickets += 1
            self.packets += len(batch)
            encoder.sync(self.master)
            self.master.advance(batch)
            if self.watch is not None and self.watch(
                self.packets, self.capture.source.position(), self.capture.source.size
            ):
                self.stopped = self.done = True
            return ticket, ordinal

    def write(self, ticket: int, encoder: CaptureEncoder) -> None:
        """The batch's bytes, in its turn (or at its place)."""
        pending = encoder.pending()
        with self.writing:
            self.writing.wait_for(lambda: self.turn == ticket or self.error is not None)
            if self.error is not None:
                return
            offset = self.offset
            self.offset += len(pending)
            if self.fd is None:
                self.sink.write(pending)
            self.turn += 1
            self.writing.notify_all()
        if self.fd is not None:
            self._put(self.fd, pending, offset)
        encoder.clear()

    def _put(self, fd: int, view: memoryview, offset: int) -> None:
        while view:
            try:
                n = os.pwrite(fd, view, offset)
            except OSError as error:
                failure = self.sink.failed(error, offset - self.begin)
                if failure is error:
                    raise
                raise failure from error
            view = view[n:]
            offset += n

    def fail(self, error: BaseException) -> None:
        """Remember the first error and wake everybody up."""
        with self.writing:
            if self.error is None:
                self.error = error
            self.writing.notify_all()


def _work(line: _Line, plan: Plan, encoder: CaptureEncoder, batch: PacketBatch, place: tuple[int, int] | None) -> None:
    """One thread: batches from the line until there are none; ``place`` is that of one in hand already."""
    try:
        if place is None:
            place = line.read(batch, encoder)
        while place is not None:
            ticket, ordinal = place
            for step in plan.steps:
                step(batch, ordinal)
            at = 0
            while (rest := plan.encode(encoder, batch, at, ordinal)) is not None:
                at = rest
                encoder.grow()
            line.write(ticket, encoder)
            place = line.read(batch, encoder)
    except BaseException as error:
        line.fail(error)


def run_parallel(
    plans: list[Plan],
    encoders: list[CaptureEncoder],
    capture: Capture,
    sink: Sink,
    master: CaptureEncoder,
    batch: PacketBatch,
    filled: int,
    watch: Watch | None,
) -> bool:
    """Run one plan and encoder per thread; ``batch`` holds what was read first. True where ``watch`` stopped it."""
    line = _Line(capture, sink, master, watch)
    threads = [
        threading.Thread(target=_work, args=(line, plan, encoder, capture.make_batch(large=True), None), daemon=True)
        for plan, encoder in zip(plans[1:], encoders[1:], strict=True)
    ]
    if filled:
        # What was read to learn the format is the first batch: it takes its number before the others start.
        place = line.read(batch, encoders[0], filled)
        for thread in threads:
            thread.start()
        _work(line, plans[0], encoders[0], batch, place)
        for thread in threads:
            thread.join()
    if line.error is not None:
        raise line.error
    if line.fd is not None:
        os.lseek(line.fd, line.offset, os.SEEK_SET)
    return line.stopped
