"""Where a capture comes from: a file, a pipe or an object, compressed or not, as bytes in their order.

gzip, zstd and lz4 are recognised by content. Nothing stands between an uncompressed file and its reader.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import sys

from vxlanfast.codec import GZIP, MAGICS, Feed, decoder_of, recognise
from vxlanfast.ends import is_live, object_name, path_of, reason, shown, wait
from vxlanfast.errors import CaptureError, MissingLibraryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

    from typing_extensions import Buffer

    from vxlanfast.codec import Pull
    from vxlanfast.ends import Readable

__all__ = ["Source", "open_source"]


def _pull_of(file: Any) -> Pull:
    """The way to read ``file`` that waits least: what has come, and never for a full buffer."""

    def read(view: memoryview) -> int | None:
        piece = file.read(len(view))
        if piece is None:
            return None
        if isinstance(piece, str):
            raise TypeError("the file object gives text: open it in binary mode")
        view[: len(piece)] = piece
        return len(piece)

    ways = [getattr(file, name) for name in ("readinto1", "readinto") if hasattr(file, name)]
    if hasattr(file, "read"):
        ways.append(read)
    if not ways:
        raise TypeError(f"a path, '-' or a binary file object to read is needed, not {type(file).__name__}")

    def pull(view: memoryview) -> int:
        while True:
            try:
                n: int | None = ways[0](view)
            except io.UnsupportedOperation:
                if len(ways) == 1:
                    raise
                del ways[0]
                continue
            if n is not None:
                return n
            wait(file, "POLLIN")

    return pull


class Source:
    """Bytes of a capture, decompressed, in order. Made by ``open_source``; one thread at a time.

    ``name``: the path, or ``<stdin>``, or what the object calls itself. ``size``: bytes of the file as
    stored, None if unknown. ``is_live``: a pipe, FIFO, socket or terminal: pass its data on as it comes.
    """

    def __init__(self, file: Any, name: str, *, owned: bool) -> None:
        self.name = name
        self.size: int | None = None
        self.is_live = False
        self._file = file
        self._owned = owned
        self._pull = _pull_of(file)
        self._start = 0
        self._taken = 0  # stored bytes
        self._fd: int | None = None  # of a regular file
        self._begun = False
        self._compression: str | None = None
        self._feed: Feed | None = None
        self._decode: Pull | None = None
        self._held = memoryview(b"")  # looked at to recognise the format, not given yet
        self._failure: CaptureError | MissingLibraryError | None = None
        self._look_at(file)
        if self._fd is not None:
            self._begin()
            if self._failure is not None:
                raise self._failure

    def _look_at(self, file: Any) -> None:
        """What kind of file it is. Of other objects a fileno() may be of something else (GzipFile's is)."""
        if type(file) is io.BytesIO:
            self.size = len(file.getbuffer())
            self._start = file.tell()
            return
        try:
            fd = file.fileno()
            status = os.fstat(fd)
        except (AttributeError, OSError):
            return
        self.is_live = is_live(fd, status.st_mode)
        if stat.S_ISREG(status.st_mode) and (
            type(file) is io.FileIO or (type(file) is io.BufferedReader and type(file.raw) is io.FileIO)
        ):
            self._fd = fd
            self._start = file.tell()
            self.size = status.st_size

    def _begin(self) -> None:
        """Recognise the format; on a pipe this waits for the first bytes."""
        self._begun = True
        try:
            if self._fd is not None:
                head = os.pread(self._fd, 4, self._start)
                if head[:2] != GZIP and head not in MAGICS:
                    return
            self._feed = feed = Feed(self._pull, self.name, self._start, self._fd)
            self._compression = recognise(feed)
            if self._compression is not None:
                self._decode = decoder_of(feed, self._compression)
            else:
                self._taken = feed.position - self._start
                self._held = memoryview(feed.held)
                self._feed = None
        except (CaptureError, MissingLibraryError) as failure:
            self._failure = failure
        except io.UnsupportedOperation:
            raise
        except OSError as error:
            self._failure = self._unreadable(error)

    def _unreadable(self, error: OSError) -> CaptureError:
        at = self.position()
        failure = CaptureError(
            f"{shown(self.name)}: {reason(error)} (at byte {at})", path=self.name, offset=at
        )
        failure.__cause__ = error
        return failure

    def readinto(self, buffer: Buffer) -> int:
        """Put what there is into ``buffer``, at least a byte; 0 at the end. CaptureError: no way on."""
        if not self._begun:
            self._begin()
        if self._failure is not None:
            raise self._failure
        view = memoryview(buffer).cast("B")
        try:
            if self._decode is not None:
                return self._decode(view)
            if self._held:
                n = min(len(view), len(self._held))
                view[:n] = self._held[:n]
                self._held = self._held[n:]
                return n
            n = self._pull(view)
        except (CaptureError, MissingLibraryError) as failure:
            self._failure = failure
            raise
        except io.UnsupportedOperation:
            raise
        except OSError as error:
            raise self._unreadable(error) from error
        self._taken += n
        return n

    @property
    def compression(self) -> str | None:
        """``gz``, ``zst``, ``lz4`` or None. On a pipe this waits for the first bytes."""
        if not self._begun:
            self._begin()
        return self._compression

    def position(self) -> int:
        """Bytes of the file as stored that are behind us: of ``size``, where that is known."""
        return self._feed.position if self._feed is not None else self._start + self._taken

    def fileno_or_none(self) -> int | None:
        """The descriptor of an uncompressed regular file, read from its start, for others to pread."""
        return self._fd if self._begun and self._feed is None and self._start == 0 else None

    def close(self) -> None:
        """Close what ``open_source`` opened; a file object given, and standard input, stay open."""
        if self._owned:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Source {self.name}>"


def open_source(target: Readable) -> Source:
    """Open a capture for reading: a path, ``-`` (standard input) or a binary file object."""
    path = path_of(target)
    if path is None:
        return Source(target, object_name(target), owned=False)
    standard = path == "-"
    name = "<stdin>" if standard else path
    try:
        file = _standard_input() if standard else io.FileIO(path)
    except (OSError, ValueError) as error:
        raise CaptureError(f"{shown(name) or '(no name)'}: {reason(error)}", path=name) from error
    try:
        return Source(file, name, owned=not standard)
    except BaseException:
        if not standard:
            file.close()
        raise


def _standard_input() -> Any:
    if sys.stdin is None:
        raise OSError(errno.EBADF, "standard input is closed")
    # A replaced sys.stdin is meant: by a test, or by a program that runs us.
    return io.FileIO(0, closefd=False) if sys.stdin is sys.__stdin__ else sys.stdin.buffer
