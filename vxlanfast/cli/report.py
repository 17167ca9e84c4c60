"""What a person sees of a run: progress while it lasts, a summary at its end, and a clean stop on Ctrl-C."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from types import FrameType
from typing import Any

from vxlanfast.errors import CaptureError, Interrupted
from vxlanfast.stats import Stats

#: Seconds of work before a progress bar shows, and between its updates.
PATIENCE_S = 1.0
UPDATE_S = 0.1
#: Functions that wait for somebody else, maybe for ever: input that comes, a FIFO's other end.
WAITS = frozenset({"readinto", "open_source", "open_fifo"})
#: Seconds after which a stopped run is looked at again: it may have been about to wait.
AGAIN_S = 0.1


class Reporter:
    """Watches one run. ``watch`` is called once a batch; ``finish`` prints what came of it."""

    def __init__(self, *, quiet: bool, stats: str) -> None:
        self.quiet = quiet
        self.json = stats == "json"
        self.stop = False
        self.began = monotonic()
        self.next_update = self.began + PATIENCE_S
        self.bar: Any = None
        self.show_bar = not quiet and sys.stderr.isatty()

    def watch(self, packets: int, position: int, size: int | None) -> bool:
        """Update the progress bar where one is due; True once Ctrl-C was pressed."""
        if self.show_bar and monotonic() >= self.next_update:
            self._update(packets, position, size)
        return self.stop

    def _update(self, packets: int, position: int, size: int | None) -> None:
        now = monotonic()
        self.next_update = now + UPDATE_S
        if self.bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

            self.bar = Progress(
                BarColumn(), TaskProgressColumn(), TextColumn("{task.description}"), TimeRemainingColumn(),
                console=Console(stderr=True), transient=True, refresh_per_second=10,
            )  # fmt: skip
            self.task = self.bar.add_task("", total=size)
            self.bar.start()
        rate = packets / (now - self.began)
        self.bar.update(self.task, completed=position, description=f"{packets:,} packets, {rate / 1e6:.2f} M/s")

    def _clear(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Ctrl-C ends the run behind the batch in hand, or what it waits for; a second one at once."""

        def on_interrupt(number: int, frame: FrameType | None) -> None:
            if self.stop:
                raise KeyboardInterrupt
            self.stop = True
            look(number, frame)

        def look(number: int, frame: FrameType | None) -> None:
            while frame is not None:
                if frame.f_code.co_name in WAITS:
                    raise Interrupted  # there is no batch in hand
                frame = frame.f_back
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S)

        handlers = {signal.SIGINT: on_interrupt, signal.SIGALRM: look}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._clear()

    def run(self, work: Callable[[], Stats], *, fail_on_others: bool = False) -> int:
        """Do ``work``, print what came of it, and give the exit code."""
        fault = None
        try:
            with self.running():
                stats = work()
        except CaptureError as error:
            if not isinstance(error.stats, Stats):
                raise
            stats, fault = error.stats, error
        self.finish(stats)
        if fault is not None:
            print(f"vxlanfast: {fault}", file=sys.stderr)
            return fault.exit_code
        return exit_code(stats, fail_on_others=fail_on_others)

    def finish(self, stats: Stats) -> None:
        """The summary, and the warnings."""
        if self.json:
            import json

            print(json.dumps(stats.as_dict()), file=sys.stderr)
        elif not self.quiet:
            print(stats.summary(), file=sys.stderr)
            for warning in stats.warnings:
                print(f"warning: {warning}", file=sys.stderr)


def exit_code(stats: Stats, *, fail_on_others: bool) -> int:
    """The exit code a whole run has earned."""
    if stats.interrupted:
        return 130
    if stats.strict_drops or (fail_on_others and stats.others):
        return 3
    if stats.packets and stats.unsupported == stats.packets:
        return 1
    return 0
