"""Where a capture goes: a file, a pipe or an object, compressed as the suffix of its name says.

A regular file takes its name at the end, when it is written whole.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import sys

from vxlanfast.codec import encoder_of
from vxlanfast.ends import is_live, object_name, path_of, reason, shown, wait
from vxlanfast.errors import OutputError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, NoReturn, Self

    from typing_extensions import Buffer

    from vxlanfast.codec import Encoder
    from vxlanfast.ends import Readable, Writable

__all__ = ["Sink", "open_sink"]


class Sink:
    """Where a capture goes. Made by ``open_sink``; one thread at a time.

    ``commit()`` ends it well, ``abort()`` leaves things as they were before; as a context manager it does one
    or the other. ``name``: the path, or ``<stdout>``, or what the object calls itself. ``is_live``: a pipe,
    FIFO, socket or terminal, to which data should be passed on as it comes.
    """

    def __init__(
        self,
        file: Any,
        name: str,
        *,
        owned: bool,
        encoder: Encoder | None = None,
        level: int | None = None,
        temporary: str | None = None,
        final: str | None = None,
    ) -> None:
        self._done = False
        self._asleep = False
        self._level = level
        self._file = file
        self._owned = owned
        self._encoder = encoder
        self._temporary = temporary
        self._final = final
        self._written = 0
        self.name = name
        self.is_live = False
        if not hasattr(file, "write"):
            what = type(file).__name__
            raise TypeError(f"a path, '-' or a binary file object to write is needed, not {what}")
        try:
            fd = file.fileno()
            self.is_live = is_live(fd, os.fstat(fd).st_mode)
        except (AttributeError, OSError):
            pass

    def write(self, buffer: Buffer) -> None:
        """All bytes of ``buffer``. OutputError: they could not be; BrokenPipeError: nobody reads on."""
        view = memoryview(buffer).cast("B")
        if self._done:
            raise ValueError(f"{shown(self.name)}: written to after its end")
        if self._asleep:
            self._wake()
        if self._encoder is None:
            self._put(view)
            return
        for piece in self._encoder.pieces(view, live=self.is_live):
            self._put(piece)

    def _put(self, piece: Buffer) -> None:
        """All bytes of ``piece`` as they are to be stored."""
        view = memoryview(piece)
        try:
            while view:
                n = self._file.write(view)
                if n is None:
                    if isinstance(self._file, io.RawIOBase):
                        wait(self._file, "POLLOUT")
                        continue
                    n = len(view)
                self._written += n
                view = view[n:]
            if self.is_live and not isinstance(self._file, io.RawIOBase):
                self._flush()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> NoReturn:
        failure = self.failed(error)
        if failure is error:
            raise error
        raise failure from error

    def _flush(self) -> None:
        flush = getattr(self._file, "flush", None)
        if flush is not None:
            flush()

    def failed(self, error: OSError, written: int = 0) -> OSError:
        """What to raise for ``error``; ``written``: bytes that the caller put into the descriptor itself."""
        if isinstance(error, BrokenPipeError | OutputError | io.UnsupportedOperation):
            return error
        message = f"{shown(self.name)}: {reason(error)} (after {self._written + written} bytes)"
        return OutputError(message, errno=error.errno, path=self.name)

    def fileno_or_none(self) -> int | None:
        """The descriptor to write uncompressed data to, at its own position or behind it, without us; else None."""
        if self._encoder is not None or self._done or self._asleep or type(self._file) is not io.FileIO:
            return None
        import fcntl

        fd = self._file.fileno()
        # Appending (``>> file``) puts bytes at the end whatever place pwrite() names.
        return None if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_APPEND else fd

    def commit(self) -> None:
        """The end: everything is written, and the file has its name. Once; a second time does nothing."""
        if self._done:
            return
        try:
            if not self._asleep:
                self._end()
        except BaseException as error:
            self.abort()
            if isinstance(error, OSError):
                self._fail(error)
            raise
        self._done, self._asleep = True, False
        if self._temporary is not None and self._final is not None:
            try:
                os.replace(self._temporary, self._final)
            except OSError as error:
                message = f"{shown(self.name)}: {reason(error)}; the data is in {shown(self._temporary)}"
                raise OutputError(message, errno=error.errno, path=self.name) from error

    def _end(self) -> None:
        """Everything out, and the file closed."""
        if self._encoder is not None:
            self._put(self._encoder.end())
        self._flush()
        if self._owned:
            self._file.close()

    def suspend(self) -> None:
        """Close the file until the next write: for who has more of them than descriptors and memory.

        Compressed data gets a frame's end here, and another frame afterwards. What is no regular file stays open.
        """
        if self._done or self._asleep or self._temporary is None:
            return
        try:
            self._end()
        except OSError as error:
            self._fail(error)
        self._encoder = None
        self._asleep = True

    def _wake(self) -> None:
        assert self._temporary is not None
        try:
            file = io.FileIO(os.open(self._temporary, os.O_WRONLY | os.O_CLOEXEC), "w")
            file.seek(0, os.SEEK_END)
        except OSError as error:
            self._fail(error)
        self._file = file
        self._encoder = encoder_of(self.name, self._level, False)
        self._asleep = False

    def abort(self) -> None:
        """The end without a result: what the name stood for is untouched. After ``commit()``: nothing."""
        if self._done:
            return
        self._done, self._asleep = True, False
        if self._owned:
            _quietly(self._file.close)
        if self._temporary is not None:
            _quietly(os.unlink, self._temporary)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *exc: object) -> None:
        if kind is None:
            self.commit()
        else:
            self.abort()

    def __del__(self) -> None:
        if not getattr(self, "_done", True):
            self.abort()

    def __repr__(self) -> str:
        return f"<Sink {self.name}>"


def _status_of(given: Any) -> os.stat_result:
    path = path_of(given)
    if path is None:
        return os.fstat(given.fileno())
    return os.fstat(0) if path == "-" else os.stat(path)


def _refuse_input(status: os.stat_result, name: str, input_paths: Iterable[Readable]) -> None:
    """OutputError when the regular file of ``status`` is one of the inputs, by whatever name."""
    if not stat.S_ISREG(status.st_mode):
        return
    for given in input_paths:
        try:
            same = os.path.samestat(status, _status_of(given))
        except (AttributeError, OSError, ValueError):
            continue
        if same:
            source = shown(path_of(given) or object_name(given))
            message = f"{shown(name)} is the input {source}: choose another name"
            raise OutputError(message, errno=errno.EEXIST, path=name)


def _descriptor_of(path: str) -> int | None:
    """The descriptor that ``path`` names. Opened by that name, a file would be written from its start."""
    if path in ("/dev/stdout", "/dev/stderr"):
        return 1 if path == "/dev/stdout" else 2
    directory, number = os.path.split(path)
    if directory in ("/dev/fd", "/proc/self/fd") and number.isdecimal() and number.isascii():
        return int(number)
    return None


def open_sink(target: Writable, *, input_paths: Iterable[Readable] = (), level: int | None = None) -> Sink:
    """Open a place for a capture: a path, ``-`` (standard output) or a binary file object.

    What goes to a path ending in .gz, .zst, .zstd or .lz4 is compressed with ``level`` (None: ISA-L's 2 or
    zlib's 6; 3; 0). A regular file is written under another name beside it until ``commit()``; a symbolic
    link stays one; FIFOs and devices are written as they are. Never one of ``input_paths``: OutputError.
    """
    path = path_of(target)
    if path is None:
        return Sink(target, object_name(target), owned=False)
    name = "<stdout>" if path == "-" else path
    try:
        return _open_stdout(name, input_paths) if path == "-" else _open_path(path, input_paths, level)
    except (OutputError, io.UnsupportedOperation):
        raise
    except OSError as error:
        raise OutputError(f"{shown(name)}: {reason(error)}", errno=error.errno, path=name) from error


def _open_stdout(name: str, input_paths: Iterable[Readable]) -> Sink:
    if sys.stdout is None:
        raise OSError(errno.EBADF, "standard output is closed")
    sys.stdout.flush()
    if sys.stdout is not sys.__stdout__:
        return Sink(sys.stdout.buffer, name, owned=False)
    _refuse_input(os.fstat(1), name, input_paths)
    return Sink(io.FileIO(1, "w", closefd=False), name, owned=False)


def _open_path(path: str, input_paths: Iterable[Readable], level: int | None) -> Sink:
    if not path or "\0" in path:
        raise OSError(errno.ENOENT, "not a file name")
    descriptor = _descriptor_of(path)
    if descriptor is not None:
        if descriptor == 1 and sys.stdout is not None:
            sys.stdout.flush()
        _refuse_input(os.fstat(descriptor), path, input_paths)
        return Sink(io.FileIO(os.dup(descriptor), "w"), path, owned=True)
    try:
        status = os.stat(path)
    except FileNotFoundError:
        status = None
    if path.endswith("/") or (status is not None and stat.S_ISDIR(status.st_mode)):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    final = os.path.realpath(path)
    mode = None
    if status is not None:
        _refuse_input(status, path, input_paths)
        if not stat.S_ISREG(status.st_mode):
            live = not stat.S_ISCHR(status.st_mode) and not stat.S_ISBLK(status.st_mode)
            encoder = encoder_of(path, level, live)
            return Sink(open_fifo(path), path, owned=True, encoder=encoder)
        if not os.access(final, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        mode = status.st_mode & 0o777
    encoder = encoder_of(path, level, False)
    fd, temporary = _open_temporary(final, mode)
    file = io.FileIO(fd, "w")
    return Sink(file, path, owned=True, encoder=encoder, level=level, temporary=temporary, final=final)


def open_fifo(path: str) -> io.FileIO:
    """What is no file, for writing; a FIFO waits for somebody to read it."""
    return io.FileIO(os.open(path, os.O_WRONLY | os.O_CLOEXEC), "w")


def _open_temporary(final: str, mode: int | None) -> tuple[int, str]:
    """A new file beside ``final``, with the mode that it will have: ``mode``, or what a new file gets."""
    directory, name = os.path.split(final)
    short = os.fsdecode(os.fsencode(name)[:200])  # of 255 bytes that a name may have
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    while True:
        temporary = os.path.join(directory, f".{short}.{os.urandom(4).hex()}.part")
        try:
            fd = os.open(temporary, flags, 0o666 if mode is None else mode)
        except FileExistsError:
            continue
        except FileNotFoundError:
            raise OSError(errno.ENOENT, f"there is no directory {shown(directory)}") from None
        except PermissionError as error:
            what = f"{reason(error)} (no new file may be made in {shown(directory)})"
            raise OSError(error.errno, what) from None
        if mode is not None:
            os.fchmod(fd, mode)
        return fd, temporary


def _quietly(act: Callable[..., object], *args: object) -> None:
    """Tidying up after a failure: another one adds nothing."""
    try:
        act(*args)
    except OSError:
        return
