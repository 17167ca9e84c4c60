"""Exceptions for people: files, libraries, expressions and configuration. Packets have verdicts instead.

Every message is one line which names the thing, the value and the limit; ``exit_code`` is what the command
line ends with.
"""

from __future__ import annotations

__all__ = [
    "CaptureError",
    "DeviceError",
    "FilterError",
    "Interrupted",
    "MissingLibraryError",
    "NotVxlan",
    "OutputError",
    "SpecError",
    "TableFullError",
    "VxlanFastError",
]


class VxlanFastError(Exception):
    """What all exceptions of the package have in common."""

    exit_code = 1


class CaptureError(VxlanFastError, ValueError):
    """An input that cannot be read, or not to its end: ``path`` says which, ``offset`` (bytes) where, ``stats`` what
    was done before the fault, where a whole file was being worked on."""

    def __init__(
        self, message: str, *, path: str | None = None, offset: int | None = None, stats: object = None
    ) -> None:
        super().__init__(message)
        self.path = path
        self.offset = offset
        self.stats = stats


class _SystemError(VxlanFastError, OSError):
    """What the operating system refused, in our words: ``errno`` says why, ``filename`` which file, if any."""

    def __init__(self, message: str, *, errno: int | None = None, path: str | None = None) -> None:
        super().__init__(message)
        self.errno = errno
        self.filename = path

    def __str__(self) -> str:
        return str(self.args[0])

    def __reduce__(self) -> tuple[object, ...]:
        # OSError's own would forget what did not come as arguments.
        return _again, (type(self), self.args[0], self.errno, self.filename)


def _again(kind: type[_SystemError], message: str, errno: int | None, path: str | None) -> _SystemError:
    return kind(message, errno=errno, path=path)


class OutputError(_SystemError):
    """An output that cannot be opened, written or given its name: ``filename`` says which, ``errno`` why."""


class DeviceError(_SystemError):
    """A network device, socket or namespace that cannot be opened, made or changed: ``errno`` says why, ``filename``
    which file was meant, if any."""


class MissingLibraryError(VxlanFastError, ImportError):
    """An optional library that is needed now; the message says how to get it."""


class FilterError(VxlanFastError, ValueError):
    """A filter expression that libpcap does not take, in libpcap's own words."""

    exit_code = 2


class SpecError(VxlanFastError, ValueError):
    """A configuration value that makes no sense."""

    exit_code = 2


class TableFullError(VxlanFastError):
    """A table of fixed capacity has no room for another authoritative entry; the message says which and how many."""


class NotVxlan(VxlanFastError, ValueError):
    """One packet that was to be decapsulated and is no VXLAN: ``verdict`` (see ``Verdict``) says why."""

    def __init__(self, message: str, *, verdict: int) -> None:
        super().__init__(message)
        self.verdict = verdict

    def __reduce__(self) -> tuple[object, ...]:
        return _not_vxlan, (self.args[0], self.verdict)


def _not_vxlan(message: str, verdict: int) -> NotVxlan:
    return NotVxlan(message, verdict=verdict)


class Interrupted(BaseException):
    """Raised into a read that waits for input, to end a run behind the last whole packet."""
