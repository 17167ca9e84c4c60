"""The two ends of every capture: bytes from a file, a pipe or an object, and bytes to one, compressed or not.

Reading recognises gzip, zstd and lz4 by content, writing chooses by the suffix of the name. Nothing stands
between an uncompressed file and its reader. A file takes its name at the end, when it is written whole.
"""

from __future__ import annotations

import binascii
import errno
import io
import os
import stat
import sys

from vxlanfast.errors import CaptureError, MissingLibraryError, OutputError

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing costs as much to import as everything else here together
    from collections.abc import Callable, Generator, Iterable, Iterator
    from typing import Any, NoReturn, Protocol, Self, TypeAlias

    from typing_extensions import Buffer

    class Reader(Protocol):
        """A binary file object to read from: ``read`` is enough, ``readinto`` is better."""

        def read(self, size: int, /) -> bytes | None: ...

    class Writer(Protocol):
        """A binary file object to write to."""

        def write(self, buffer: Buffer, /) -> int | None: ...

    Readable: TypeAlias = str | os.PathLike[str] | Reader
    Writable: TypeAlias = str | os.PathLike[str] | Writer
    Pull: TypeAlias = Callable[[memoryview], int]

__all__ = ["Sink", "Source", "open_sink", "open_source"]

PIECE_LEN = 256 * 1024  # bytes a decoder gives, and a compressor takes, at most in one go
STORED_LEN = 64 * 1024  # bytes of compressed input asked for in one go
ZSTD_BLOCK_MAX = 128 << 10  # bytes a block decodes to at most: RFC 8878 §3.1.1.2.4
ZSTD_WINDOW_MAX = 32 << 20  # bytes; a frame may ask for 2 GiB, and memory is promised to stay under 64 MB
LZ4_LEGACY_BLOCK_LEN = 8 << 20  # bytes, fixed by the format

GZIP = b"\x1f\x8b"  # RFC 1952 §2.3.1
GZIP_HEADER = GZIP + b"\x08\0\0\0\0\0\0\xff"  # with nothing in it
ZSTD = b"\x28\xb5\x2f\xfd"  # RFC 8878 §3.1.1
LZ4 = b"\x04\x22\x4d\x18"
LZ4_LEGACY = b"\x02\x21\x4c\x18"
SKIPPABLE = tuple(bytes((0x50 + i, 0x2A, 0x4D, 0x18)) for i in range(16))  # RFC 8878 §3.1.2, and lz4
MAGICS = (GZIP, ZSTD, LZ4, LZ4_LEGACY, *SKIPPABLE)

NAMES = {"gz": "gzip", "zst": "zstd", "lz4": "lz4"}
SUFFIXES = {".gz": "gz", ".zst": "zst", ".zstd": "zst", ".lz4": "lz4"}
LEVELS = {"gz": range(10), "zst": range(-7, 23), "lz4": range(17)}


def _shown(path: str) -> str:
    """A path as it stands in a message: on one line, whatever is in it."""
    return path if path.isprintable() else ascii(path)


def _path_of(target: object) -> str | None:
    """The path that ``target`` is, or None."""
    return os.fsdecode(target) if isinstance(target, str | os.PathLike) else None


def _object_name(file: object) -> str:
    """What a file object calls itself, where that is a path; else what it is."""
    return _path_of(getattr(file, "name", None)) or f"<{type(file).__name__}>"


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _wait(file: Any, event: str) -> None:
    """Somebody made the pipe non-blocking: sleep until it is ready. ``event``: POLLIN or POLLOUT."""
    import select

    poll = select.poll()
    poll.register(file.fileno(), getattr(select, event))
    poll.poll()


def _is_live(fd: int, mode: int) -> bool:
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or (stat.S_ISCHR(mode) and os.isatty(fd))


def _quietly(act: Callable[[], object]) -> None:
    """Tidying up after a failure: another one adds nothing."""
    try:
        act()
    except OSError:
        return


def _library(module: str, package: str, compression: str, name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        what = f"{NAMES[compression]} needs the {package} library: pip install 'vxlanfast[compress]'"
        raise MissingLibraryError(f"{_shown(name)}: {what}", name=package) from error


def _deflate_library() -> Any:
    """ISA-L where it is installed: the same interface, twice the speed."""
    import importlib

    try:
        return importlib.import_module("isal.isal_zlib")
    except ImportError:
        return importlib.import_module("zlib")


# --- reading --------------------------------------------------------------------------------------------


class _Feed:
    """The stored bytes in their order, in pieces, with put-back."""

    def __init__(self, pull: Pull, name: str, start: int) -> None:
        self._pull = pull
        self._buffer = memoryview(bytearray(STORED_LEN))
        self.name = name
        self.position = start  # in the file, behind the last byte read
        self.held = b""  # read, and not taken yet
        self.fd: int | None = None  # of a regular file
        self.ended = False

    def get(self) -> bytes:
        """What is there, at least a byte; nothing only at the end."""
        if self.held:
            piece, self.held = self.held, b""
            return piece
        if self.ended:
            return b""
        n = self._pull(self._buffer)
        self.position += n
        self.ended = n == 0
        return bytes(self._buffer[:n])

    def put_back(self, piece: bytes) -> None:
        self.held = piece + self.held

    def exactly(self, n: int) -> bytes:
        """``n`` bytes, fewer only at the end."""
        pieces = []
        while n and (piece := self.get()):
            if len(piece) > n:
                self.put_back(piece[n:])
                piece = piece[:n]
            pieces.append(piece)
            n -= len(piece)
        return b"".join(pieces)

    def skip(self, n: int) -> bool:
        while n and (piece := self.exactly(min(n, STORED_LEN))):
            n -= len(piece)
        return n == 0

    def magic(self) -> bytes:
        """The next bytes, not taken: four, or as many as it needs to see that they are no magic number."""
        head = self.held
        while len(head) < 4 and any(magic.startswith(head) and magic != head for magic in MAGICS):
            self.held = b""
            piece = self.get()
            head += piece
            self.held = head
            if not piece:
                break
        return head[:4]

    @property
    def offset(self) -> int:
        return self.position - len(self.held)

    def error(self, what: str, at: int) -> CaptureError:
        return CaptureError(f"{_shown(self.name)}: {what}", path=self.name, offset=at)

    def cut(self, compression: str) -> CaptureError:
        what = f"{NAMES[compression]} data ends in the middle (after {self.position} bytes)"
        return self.error(what, self.position)

    def damaged(self, compression: str, what: object) -> CaptureError:
        at = self.offset
        return self.error(f"{NAMES[compression]} data is damaged before byte {at}: {what}", at)

    def behind(self, compression: str, head: bytes, at: int) -> CaptureError:
        """No frame follows the last one: the first bytes of one, which is cut, or something else."""
        if any(magic.startswith(head) for magic in MAGICS):
            return self.cut(compression)
        return self.error(f"at byte {at}, behind the {NAMES[compression]} data, is something else", at)


class _Pieces:
    """Pieces from a generator, read as a file is."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def readinto(self, view: memoryview) -> int:
        if not self._rest:
            self._rest = memoryview(b"")  # lets go of the piece before
            self._rest = memoryview(next(self._pieces, b""))
        n = min(len(view), len(self._rest))
        view[:n] = self._rest[:n]
        self._rest = self._rest[n:]
        return n


def _inflate(library: Any, stream: Any, piece: bytes) -> Generator[bytes, None, None]:
    """Everything that ``piece`` makes come out of ``stream``, in bounded pieces."""
    while True:
        out = stream.decompress(piece, PIECE_LEN)
        if out:
            yield out
        piece = stream.unconsumed_tail
        if stream.eof or (not piece and len(out) < PIECE_LEN):
            return


def _skip_gzip_header(feed: _Feed) -> None:
    """RFC 1952 §2.3. ISA-L would need the whole header in one piece, and it need not come in one."""
    head = feed.exactly(10)
    if len(head) < 10:
        raise feed.cut("gz")
    flags = head[3]
    if head[2] != 8 or flags & 0xE0:
        raise feed.damaged("gz", f"method {head[2]} (8 is deflate), flags {flags:#04x}")
    crc = binascii.crc32(head)

    def take(n: int) -> bytes:
        nonlocal crc
        part = feed.exactly(n)
        if len(part) < n:
            raise feed.cut("gz")
        crc = binascii.crc32(part, crc)
        return part

    if flags & 4:  # extra field
        take(int.from_bytes(take(2), "little"))
    for flag in (8, 16):  # file name, comment
        while flags & flag:
            piece = feed.get()
            feed.put_back(piece)
            end = piece.find(b"\0")
            take(end + 1 or len(piece) or 1)
            if end >= 0:
                break
    if flags & 2 and (want := crc & 0xFFFF) != int.from_bytes(take(2), "little"):
        raise feed.damaged("gz", f"the header's checksum should be {want:#06x}")


def _gunzip(feed: _Feed) -> Generator[bytes, None, None]:
    """RFC 1952: members one behind the other; zeros behind one are a tape's padding, as gzip(1) has it."""
    library = _deflate_library()
    members = 0
    while True:
        if members:
            while (piece := feed.get()) and not (piece := piece.lstrip(b"\0")):
                pass
            feed.put_back(piece)
        head = feed.exactly(2)
        feed.put_back(head)
        if not head:
            return
        if head != GZIP:
            raise feed.behind("gz", head, feed.offset)
        start, made = feed.offset, 0
        _skip_gzip_header(feed)
        stream = library.decompressobj(wbits=31)
        stream.decompress(GZIP_HEADER)
        while not stream.eof:
            piece = feed.get()
            if not piece:
                if library.__name__ != "zlib" and feed.fd is not None:
                    yield from _inflate_rest(feed.fd, start, feed.position, made)
                raise feed.cut("gz")
            try:
                for out in _inflate(library, stream, piece):
                    made += len(out)
                    yield out
            except library.error as error:
                raise feed.damaged("gz", error) from error
        feed.put_back(stream.unused_data)
        members += 1


def _inflate_rest(fd: int, at: int, end: int, made: int) -> Generator[bytes, None, None]:
    """What is behind byte ``made`` of a member that is cut.

    ISA-L looks symbols up several at a time and keeps the last one or two to itself when the bits behind them
    are missing. zlib gives them. What came by a pipe cannot be read again.
    """
    import zlib

    stream = zlib.decompressobj(wbits=31)
    while at < end and (piece := os.pread(fd, min(STORED_LEN, end - at), at)):
        at += len(piece)
        try:
            for out in _inflate(zlib, stream, piece):
                if len(out) > made:
                    yield out[made:]
                made -= min(made, len(out))
        except zlib.error:
            return  # the file changed between two readings: it is called cut either way


class _Unzstd:
    """RFC 8878 frames, one behind the other.

    The library decodes. Frames are followed here as well, because it says nothing when the data ends inside
    one, does not say which window it refused, and forgets what it could not give yet when its source ends: it
    gets one block at a time, and room for all that comes of it.
    """

    def __init__(self, feed: _Feed) -> None:
        library = _library("zstandard", "zstandard", "zst", feed.name)
        self._error: type[Exception] = library.ZstdError
        self._feed = feed
        self._failure: CaptureError | None = None
        self._head = bytearray()  # of the part that is being read
        self._want = 0  # bytes the part has
        self._step: Callable[[bytes], None] | None = None  # what the part is; None: a magic number is next
        self._skip = 0  # bytes of payload before the part
        self._descriptor = 0
        self._at = 0  # in the file, behind the part
        self._buffer = memoryview(bytearray(ZSTD_BLOCK_MAX))
        self._rest = self._buffer[:0]
        decompressor = library.ZstdDecompressor(max_window_size=ZSTD_WINDOW_MAX)
        self._reader = decompressor.stream_reader(self, read_size=STORED_LEN, read_across_frames=True)

    def readinto(self, view: memoryview) -> int:
        n: int
        if not self._rest:
            direct = len(view) >= ZSTD_BLOCK_MAX
            try:
                n = self._reader.readinto1(view if direct else self._buffer)
            except self._error as error:
                raise self._feed.damaged("zst", error) from error
            if n == 0 and self._failure is not None:
                raise self._failure
            if direct:
                return n
            self._rest = self._buffer[:n]
        n = min(len(view), len(self._rest))
        view[:n] = self._rest[:n]
        self._rest = self._rest[n:]
        return n

    def read(self, size: int) -> bytes:
        """The library's source: stored bytes, as far as they are frames that it may decode."""
        feed = self._feed
        if self._failure is not None:
            return b""
        if self._step is None and self._skip == 0:
            return self._magic()
        piece = feed.get()
        if not piece:
            self._failure = feed.cut("zst")
        start = feed.offset - len(piece)
        at = 0
        while at < len(piece) and (self._skip or self._step):
            if self._skip:
                n = min(self._skip, len(piece) - at)
                self._skip -= n
                at += n
                if self._skip:
                    continue
                break
            n = min(self._want - len(self._head), len(piece) - at)
            self._head += piece[at : at + n]
            at += n
            if len(self._head) == self._want and self._step is not None:
                self._at = start + at
                part = bytes(self._head)
                self._head.clear()
                self._step(part)
                if self._failure is not None:
                    return piece[: max(0, at - len(part))]
        feed.put_back(piece[at:])
        return piece[:at]

    def _magic(self) -> bytes:
        head = self._feed.exactly(4)
        if head == ZSTD:
            self._want, self._step = 1, self._frame_descriptor
        elif head in SKIPPABLE:
            self._want, self._step = 4, self._skippable_len
        elif head:
            self._failure = self._feed.behind("zst", head, self._feed.offset - len(head))
        return head if self._failure is None else b""

    def _skippable_len(self, part: bytes) -> None:
        self._skip = int.from_bytes(part, "little")
        self._step = None

    def _frame_descriptor(self, part: bytes) -> None:
        # RFC 8878 §3.1.1.1.1
        d = self._descriptor = part[0]
        self._want = (1 - (d >> 5 & 1)) + (0, 1, 2, 4)[d & 3] + self._content_size_len(d)
        self._step = self._frame_header

    @staticmethod
    def _content_size_len(d: int) -> int:
        return (d >> 5 & 1, 2, 4, 8)[d >> 6]

    def _frame_header(self, part: bytes) -> None:
        # RFC 8878 §3.1.1.1.2; a single segment has its content for a window.
        d = self._descriptor
        if d >> 5 & 1:
            n = self._content_size_len(d)
            window = int.from_bytes(part[-n:], "little") + (256 if n == 2 else 0)
        else:
            base = 1 << (10 + (part[0] >> 3))
            window = base + base // 8 * (part[0] & 7)
        if window > ZSTD_WINDOW_MAX:
            what = f"zstd window of {window} bytes: at most {ZSTD_WINDOW_MAX} (32 MiB) are taken"
            self._failure = self._feed.error(f"{what}; compress it without --long and --ultra", self._at)
        self._want, self._step = 3, self._block_header

    def _block_header(self, part: bytes) -> None:
        # RFC 8878 §3.1.1.2: last 1 bit, type 2 bits, size 21 bits
        value = int.from_bytes(part, "little")
        self._skip = 1 if value >> 1 & 3 == 1 else value >> 3
        if value & 1:
            self._skip += 4 * (self._descriptor >> 2 & 1)  # checksum
            self._step = None


def _unlz4(feed: _Feed, library: Any) -> Generator[bytes, None, None]:
    """Frames, legacy frames and skippable ones, one behind the other."""
    while head := feed.exactly(4):
        if head == LZ4:
            feed.put_back(head)
            yield from _unlz4_frame(feed, library)
        elif head == LZ4_LEGACY:
            yield from _unlz4_legacy(feed)
        elif head in SKIPPABLE:
            if not _skip_frame(feed):
                raise feed.cut("lz4")
        else:
            raise feed.behind("lz4", head, feed.offset - len(head))


def _skip_frame(feed: _Feed) -> bool:
    """Past a skippable frame whose magic number is taken; False: it is cut."""
    size = feed.exactly(4)
    return len(size) == 4 and feed.skip(int.from_bytes(size, "little"))


def _unlz4_frame(feed: _Feed, library: Any) -> Generator[bytes, None, None]:
    stream = library.LZ4FrameDecompressor()
    out = b""
    while not stream.eof:
        # A full piece, or input it has not looked at: there may be more without more input.
        more = len(out) == PIECE_LEN or (out and not stream.needs_input)
        piece = b"" if more else feed.get()
        if not piece and not more:
            raise feed.cut("lz4")
        try:
            out = stream.decompress(piece, PIECE_LEN)
        except RuntimeError as error:
            raise feed.damaged("lz4", error) from error
        if out:
            yield out
    feed.put_back(stream.unused_data or b"")


def _unlz4_legacy(feed: _Feed) -> Generator[bytes, None, None]:
    """Blocks with their stored size in front, until the data ends or another frame begins."""
    library = _library("lz4.block", "lz4", "lz4", feed.name)
    while head := feed.exactly(4):
        if head in MAGICS:
            feed.put_back(head)
            return
        size = int.from_bytes(head, "little")
        if len(head) == 4 and size > LZ4_LEGACY_BLOCK_LEN + LZ4_LEGACY_BLOCK_LEN // 255 + 16:
            raise feed.damaged("lz4", f"block of {size} bytes")
        block = feed.exactly(size) if len(head) == 4 else b""
        if len(head) < 4 or len(block) < size:
            raise feed.cut("lz4")
        try:
            yield library.decompress(block, uncompressed_size=LZ4_LEGACY_BLOCK_LEN)
        except library.LZ4BlockError as error:
            raise feed.damaged("lz4", error) from error


def _recognise(feed: _Feed) -> str | None:
    head = feed.magic()
    if head[:2] == GZIP:
        return "gz"
    if head in (LZ4, LZ4_LEGACY):
        return "lz4"
    if head == ZSTD:
        return "zst"
    if head not in SKIPPABLE:
        return None
    # Both formats share these frames, and the first that is none of them decides. They hold nothing.
    while head in SKIPPABLE:
        feed.exactly(4)
        if not _skip_frame(feed):
            raise feed.cut("zst")
        head = feed.magic()
    return "lz4" if head in (LZ4, LZ4_LEGACY) else "zst"


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
            _wait(file, "POLLIN")

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
        self._feed: _Feed | None = None
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
        self.is_live = _is_live(fd, status.st_mode)
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
            self._feed = feed = _Feed(self._pull, self.name, self._start)
            feed.fd = self._fd
            self._compression = _recognise(feed)
            if self._compression == "zst":
                self._decode = _Unzstd(feed).readinto
            elif self._compression == "gz":
                self._decode = _Pieces(_gunzip(feed)).readinto
            elif self._compression == "lz4":
                frames = _library("lz4.frame", "lz4", "lz4", self.name)
                self._decode = _Pieces(_unlz4(feed, frames)).readinto
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
            f"{_shown(self.name)}: {_reason(error)} (at byte {at})", path=self.name, offset=at
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
    path = _path_of(target)
    if path is None:
        return Source(target, _object_name(target), owned=False)
    file: Any
    try:
        if path == "-":
            path = "<stdin>"
            if sys.stdin is None:
                raise OSError(errno.EBADF, "standard input is closed")
            # A replaced sys.stdin is meant: by a test, or by a program that runs us.
            file = io.FileIO(0, closefd=False) if sys.stdin is sys.__stdin__ else sys.stdin.buffer
            return Source(file, path, owned=False)
        file = io.FileIO(path)
    except (OSError, ValueError) as error:
        if isinstance(error, CaptureError):
            raise
        raise CaptureError(f"{_shown(path) or '(no name)'}: {_reason(error)}", path=path) from error
    try:
        return Source(file, path, owned=True)
    except BaseException:
        file.close()
        raise


# --- writing --------------------------------------------------------------------------------------------


class _Codec:
    """A compressor: its verbs, and the bytes that wait, so that what comes out depends on the data alone."""

    def __init__(
        self,
        compress: Callable[[Buffer], bytes],
        sync: Callable[[], bytes],
        finish: Callable[[], bytes],
        head: bytes = b"",
    ) -> None:
        self.compress = compress
        self.sync = sync
        self.finish = finish
        self.head = head  # goes in front of everything
        self.waiting = bytearray()


def _codec_of(path: str, level: int | None, live: bool) -> _Codec | None:
    """The compressor that the suffix of ``path`` asks for."""
    compression = SUFFIXES.get(os.path.splitext(path)[1].lower())
    if compression is None:
        return None
    if level is not None and level not in LEVELS[compression]:
        levels = LEVELS[compression]
        raise ValueError(f"{NAMES[compression]} level {level}: {levels[0]} to {levels[-1]}")
    stream: Any
    if compression == "gz":
        library = _deflate_library()
        if library.__name__ != "zlib":
            # ISA-L has levels 0 to 3; who asks for more gets zlib.
            level = 2 if level is None else level
            if level > 3:
                import zlib as library
        stream = library.compressobj(level=6 if level is None else level, wbits=31)
        return _Codec(stream.compress, lambda: stream.flush(2), stream.flush)  # 2: Z_SYNC_FLUSH
    if compression == "zst":
        library = _library("zstandard", "zstandard", compression, path)
        level = 3 if level is None else level
        options = library.ZstdCompressionParameters.from_level(level, write_checksum=True)
        if 1 << options.window_log > ZSTD_WINDOW_MAX:  # what we write we can read
            log = ZSTD_WINDOW_MAX.bit_length() - 1
            options = library.ZstdCompressionParameters.from_level(level, window_log=log, write_checksum=True)
        stream = library.ZstdCompressor(compression_params=options).compressobj()
        block = library.COMPRESSOBJ_FLUSH_BLOCK
        return _Codec(stream.compress, lambda: stream.flush(block), stream.flush)
    library = _library("lz4.frame", "lz4", compression, path)
    stream = library.LZ4FrameCompressor(compression_level=level or 0, content_checksum=True, auto_flush=live)
    return _Codec(stream.compress, bytes, stream.flush, stream.begin())


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
        codec: _Codec | None = None,
        level: int | None = None,
        temporary: str | None = None,
        final: str | None = None,
    ) -> None:
        self._done = False
        self._asleep = False
        self._level = level
        self._file = file
        self._owned = owned
        self._codec = codec
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
            self.is_live = _is_live(fd, os.fstat(fd).st_mode)
        except (AttributeError, OSError):
            pass

    def write(self, buffer: Buffer) -> None:
        """All bytes of ``buffer``. OutputError: they could not be; BrokenPipeError: nobody reads on."""
        view = memoryview(buffer).cast("B")
        if self._done:
            raise ValueError(f"{_shown(self.name)}: written to after its end")
        if self._asleep:
            self._wake()
        codec = self._codec
        if codec is None:
            self._put(view)
        elif self.is_live:
            self._store(codec, codec.compress(view) + codec.sync())
        else:
            codec.waiting += view
            while len(codec.waiting) >= PIECE_LEN:
                self._store(codec, codec.compress(bytes(codec.waiting[:PIECE_LEN])))
                del codec.waiting[:PIECE_LEN]

    def _store(self, codec: _Codec, piece: bytes) -> None:
        head, codec.head = codec.head, b""
        self._put(head + piece)

    def _put(self, piece: Buffer) -> None:
        """All bytes of ``piece`` as they are to be stored."""
        view = memoryview(piece)
        try:
            while view:
                n = self._file.write(view)
                if n is None:
                    if isinstance(self._file, io.RawIOBase):
                        _wait(self._file, "POLLOUT")
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
        message = f"{_shown(self.name)}: {_reason(error)} (after {self._written + written} bytes)"
        return OutputError(message, errno=error.errno, path=self.name)

    def fileno_or_none(self) -> int | None:
        """The descriptor to write uncompressed data to, at its own position or behind it, without us; else None."""
        if self._codec is not None or self._done or type(self._file) is not io.FileIO:
            return None
        import fcntl

        if self._asleep:
            self._wake()
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
                message = f"{_shown(self.name)}: {_reason(error)}; the data is in {_shown(self._temporary)}"
                raise OutputError(message, errno=error.errno, path=self.name) from error

    def _end(self) -> None:
        """Everything out, and the file closed."""
        codec = self._codec
        if codec is not None:
            rest = codec.compress(bytes(codec.waiting)) if codec.waiting else b""
            self._store(codec, rest + codec.finish())
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
        self._codec = None
        self._asleep = True

    def _wake(self) -> None:
        assert self._temporary is not None
        try:
            file = io.FileIO(os.open(self._temporary, os.O_WRONLY | os.O_CLOEXEC), "w")
            file.seek(0, os.SEEK_END)
        except OSError as error:
            self._fail(error)
        self._file = file
        self._codec = _codec_of(self.name, self._level, False)
        self._asleep = False

    def abort(self) -> None:
        """The end without a result: what the name stood for is untouched. After ``commit()``: nothing."""
        if self._done:
            return
        self._done, self._asleep = True, False
        if self._owned:
            _quietly(self._file.close)
        if self._temporary is not None:
            temporary = self._temporary
            _quietly(lambda: os.unlink(temporary))

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
    path = _path_of(given)
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
            source = _shown(_path_of(given) or _object_name(given))
            message = f"{_shown(name)} is the input {source}: choose another name"
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
    path = _path_of(target)
    if path is None:
        return Sink(target, _object_name(target), owned=False)
    try:
        if path == "-":
            path = "<stdout>"
            return _open_stdout(path, input_paths)
        return _open_path(path, input_paths, level)
    except (OSError, ValueError) as error:
        if isinstance(error, OutputError | io.UnsupportedOperation) or not hasattr(error, "errno"):
            raise
        raise OutputError(f"{_shown(path)}: {_reason(error)}", errno=error.errno, path=path) from error


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
    if status is not None:
        _refuse_input(status, path, input_paths)
    if status is not None and not stat.S_ISREG(status.st_mode):
        live = not stat.S_ISCHR(status.st_mode) and not stat.S_ISBLK(status.st_mode)
        codec = _codec_of(path, level, live)
        return Sink(io.FileIO(os.open(path, os.O_WRONLY | os.O_CLOEXEC), "w"), path, owned=True, codec=codec)
    codec = _codec_of(path, level, False)
    final = os.path.realpath(path)
    effective = os.access in os.supports_effective_ids
    if status is not None and not os.access(final, os.W_OK, effective_ids=effective):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    fd, temporary = _open_temporary(final, None if status is None else stat.S_IMODE(status.st_mode) & 0o777)
    file = io.FileIO(fd, "w")
    return Sink(file, path, owned=True, codec=codec, level=level, temporary=temporary, final=final)


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
            raise OSError(errno.ENOENT, f"there is no directory {_shown(directory)}") from None
        except PermissionError as error:
            what = f"{_reason(error)} (no new file may be made in {_shown(directory)})"
            raise OSError(error.errno, what) from None
        if mode is not None:
            os.fchmod(fd, mode)
        return fd, temporary
