"""A node's log: one line for each event, as words or as JSON; what repeats itself is counted instead of said again."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, TextIO

#: Levels with their priorities in the journal (syslog's).
LEVELS = {"debug": 7, "info": 6, "warning": 4, "error": 3}
FORMATS = ("text", "json")
#: An event is said so often in so many seconds, and then no more before they are over.
BURST, WINDOW_S = 5, 10.0
#: Events that are counted; of further ones all are one.
EVENTS_MAX = 256
VALUE_MAX = 1000


class _Window:
    """An event's recent past."""

    __slots__ = ("began", "held", "level", "said")

    def __init__(self, began: float, level: str) -> None:
        self.began, self.level, self.said, self.held = began, level, 0, 0


class Log:
    """Events to ``stream`` (None: standard error). ``form``: "text" or "json". ``level``: the least that is said.

    ``log.warning("reload refused", reason=error)`` is ``2026-01-01T00:00:00.000Z warning reload refused reason="…"``.
    From any thread. To the journal lines begin with their priority and have no time: it has its own.
    """

    def __init__(
        self, stream: TextIO | None = None, *, form: str = "text", level: str = "info", burst: int = BURST,
        window_s: float = WINDOW_S, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        if form not in FORMATS:
            raise ValueError(f"form = {form!r}: {' or '.join(FORMATS)}")
        if level not in LEVELS:
            raise ValueError(f"level = {level!r}: {', '.join(LEVELS)}")
        self._stream = stream
        self._form = form
        self._least = LEVELS[level]
        self._burst = burst
        self._window_s = window_s
        self._clock = clock
        self._windows: dict[str, _Window] = {}
        self._lock = threading.Lock()
        self._journal = is_journal(sys.stderr if stream is None else stream)

    def debug(self, event: str, /, **fields: object) -> None:
        """For who looks for a fault."""
        self.say("debug", event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        """What a node does as it should."""
        self.say("info", event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        """What it can live with."""
        self.say("warning", event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        """What it cannot do."""
        self.say("error", event, fields)

    def say(self, level: str, event: str, fields: Mapping[str, object]) -> None:
        """One event, unless it is said too often."""
        if LEVELS[level] > self._least:
            return
        with self._lock:
            now = self._clock()
            self._expire(now)
            key = event if event in self._windows or len(self._windows) < EVENTS_MAX else ""
            window = self._windows.setdefault(key, _Window(now, level))
            if window.said >= self._burst:
                window.held += 1
                return
            window.said += 1
            self._write(level, event, fields)

    def flush(self) -> None:
        """Say how often events were not said, and begin anew; at the end, and whenever there is time."""
        with self._lock:
            self._expire(float("inf"))

    def _expire(self, now: float) -> None:
        for event, window in list(self._windows.items()):
            if now - window.began < self._window_s:
                continue
            del self._windows[event]
            if window.held:
                told = {"repeated": window.held, "seconds": round(min(now, self._clock()) - window.began, 1)}
                self._write(window.level, event or "further events", told)

    def _write(self, level: str, event: str, fields: Mapping[str, object]) -> None:
        when = "" if self._journal else datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if self._form == "json":
            row = {**({"time": when} if when else {}), "level": level, "event": event}
            row |= {key: value for key, value in fields.items() if key not in row}  # type: ignore[misc]
            line = json.dumps(row, default=_text)
        else:
            words = [when] if when else []
            words += [level, _plain(event), *(f"{key}={_word(value)}" for key, value in fields.items())]
            line = " ".join(words)
        prefix = f"<{LEVELS[level]}>" if self._journal else ""
        stream = sys.stderr if self._stream is None else self._stream
        with suppress(OSError, ValueError, AttributeError):  # a log that cannot be written ends nothing
            stream.write(f"{prefix}{line}\n")
            stream.flush()


def is_journal(stream: Any, environment: Mapping[str, str] | None = None) -> bool:
    """Whether a stream goes to systemd's journal: JOURNAL_STREAM has its device and its number."""
    given = (os.environ if environment is None else environment).get("JOURNAL_STREAM", "")
    device, colon, number = given.partition(":")
    try:
        status = os.fstat(stream.fileno())
        return bool(colon) and (status.st_dev, status.st_ino) == (int(device), int(number))
    except (OSError, ValueError, AttributeError):
        return False


def _text(value: object) -> str:
    return str(value)[:VALUE_MAX]


def _plain(text: str) -> str:
    return text if text.isprintable() else ascii(text)[1:-1]


def _word(value: object) -> str:
    """A value as one word: quoted as in JSON where it is not one."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    text = _text(value)
    simple = text and text.isprintable() and not any(c in text for c in ' "=\\')
    return text if simple else json.dumps(text)
