"""What both ends of a capture share: what may stand for one, what it is called, and how to wait for it."""

from __future__ import annotations

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing costs as much to import as everything else here together
    from typing import Any, Protocol, TypeAlias

    from typing_extensions import Buffer

    class Reader(Protocol):
        """A binary file object to read from: ``read`` is enough, ``readinto`` is better."""

        def read(self, size: int, /) -> bytes | None: ...

    class Writer(Protocol):
        """A binary file object to write to."""

        def write(self, buffer: Buffer, /) -> int | None: ...

    Readable: TypeAlias = str | os.PathLike[str] | Reader
    Writable: TypeAlias = str | os.PathLike[str] | Writer


def shown(path: str) -> str:
    """A path as it stands in a message: on one line, whatever is in it."""
    return path if path.isprintable() else ascii(path)


def path_of(target: object) -> str | None:
    """The path that ``target`` is, or None."""
    return os.fsdecode(target) if isinstance(target, str | os.PathLike) else None


def object_name(file: object) -> str:
    """What a file object calls itself, where that is a path; else what it is."""
    return path_of(getattr(file, "name", None)) or f"<{type(file).__name__}>"


def reason(error: Exception) -> str:
    """What went wrong, without the number and the path that an OSError adds."""
    return getattr(error, "strerror", None) or str(error)


def wait(file: Any, event: str) -> None:
    """Somebody made the pipe non-blocking: sleep until it is ready. ``event``: POLLIN or POLLOUT."""
    import select

    poll = select.poll()
    poll.register(file.fileno(), getattr(select, event))
    poll.poll()


def is_live(fd: int, mode: int) -> bool:
    """A pipe, FIFO, socket or terminal: its data is passed on as it comes."""
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or (stat.S_ISCHR(mode) and os.isatty(fd))
