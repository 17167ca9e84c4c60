"""gzip, zstd and lz4: recognised by content and decoded, chosen by suffix and encoded, piece by piece.

A library is imported when the first file needs it. What is decoded at a time is bounded, whatever the
data asks for.
"""

from __future__ import annotations

import binascii
import os

from vxlanfast.ends import shown
from vxlanfast.errors import CaptureError, MissingLibraryError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from typing import Any, TypeAlias

    Pull: TypeAlias = Callable[[memoryview], int]

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


def _library(module: str, package: str, compression: str, name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        what = f"{NAMES[compression]} needs the {package} library: pip install 'vxlanfast[compress]'"
        raise MissingLibraryError(f"{shown(name)}: {what}", name=package) from error


def _deflate_library() -> Any:
    """ISA-L where it is installed: the same interface, twice the speed."""
    import importlib

    try:
        return importlib.import_module("isal.isal_zlib")
    except ImportError:
        return importlib.import_module("zlib")


# --- decoding -------------------------------------------------------------------------------------------


class Feed:
    """The stored bytes in their order, in pieces, with put-back."""

    def __init__(self, pull: Pull, name: str, start: int, fd: int | None) -> None:
        self._pull = pull
        self._buffer = memoryview(bytearray(STORED_LEN))
        self.name = name
        self.position = start  # in the file, behind the last byte read
        self.held = b""  # read, and not taken yet
        self.fd = fd  # of a regular file
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
        return CaptureError(f"{shown(self.name)}: {what}", path=self.name, offset=at)

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


def _skip_gzip_header(feed: Feed) -> None:
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


def _gunzip(feed: Feed) -> Generator[bytes, None, None]:
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

    def __init__(self, feed: Feed) -> None:
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


def _unlz4(feed: Feed, library: Any) -> Generator[bytes, None, None]:
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


def _skip_frame(feed: Feed) -> bool:
    """Past a skippable frame whose magic number is taken; False: it is cut."""
    size = feed.exactly(4)
    return len(size) == 4 and feed.skip(int.from_bytes(size, "little"))


def _unlz4_frame(feed: Feed, library: Any) -> Generator[bytes, None, None]:
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


def _unlz4_legacy(feed: Feed) -> Generator[bytes, None, None]:
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


def recognise(feed: Feed) -> str | None:
    """``gz``, ``zst``, ``lz4``, or None for what is not compressed."""
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


def decoder_of(feed: Feed, compression: str) -> Pull:
    """A ``readinto`` for what ``feed`` holds."""
    if compression == "zst":
        return _Unzstd(feed).readinto
    if compression == "gz":
        return _Pieces(_gunzip(feed)).readinto
    return _Pieces(_unlz4(feed, _library("lz4.frame", "lz4", "lz4", feed.name))).readinto


# --- encoding -------------------------------------------------------------------------------------------


class Encoder:
    """A compressor, and the bytes that wait, so that what comes out depends on the data alone."""

    def __init__(
        self,
        compress: Callable[[bytes | memoryview], bytes],
        sync: Callable[[], bytes],
        finish: Callable[[], bytes],
        head: bytes = b"",
    ) -> None:
        self._compress = compress
        self._sync = sync
        self._finish = finish
        self._head = head  # goes in front of everything
        self._waiting = bytearray()

    def pieces(self, view: memoryview, *, live: bool) -> Iterator[bytes]:
        """What is to be stored now that ``view`` has come: ``live``, all of it."""
        if live:
            yield self._behind_head(self._compress(view) + self._sync())
            return
        self._waiting += view
        while len(self._waiting) >= PIECE_LEN:
            yield self._behind_head(self._compress(bytes(self._waiting[:PIECE_LEN])))
            del self._waiting[:PIECE_LEN]

    def end(self) -> bytes:
        """What is to be stored at the end."""
        rest = self._compress(bytes(self._waiting)) if self._waiting else b""
        return self._behind_head(rest + self._finish())

    def _behind_head(self, piece: bytes) -> bytes:
        head, self._head = self._head, b""
        return head + piece


def encoder_of(path: str, level: int | None, live: bool) -> Encoder | None:
    """The encoder that the suffix of ``path`` asks for."""
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
        return Encoder(stream.compress, lambda: stream.flush(2), stream.flush)  # 2: Z_SYNC_FLUSH
    if compression == "zst":
        library = _library("zstandard", "zstandard", compression, path)
        level = 3 if level is None else level
        options = library.ZstdCompressionParameters.from_level(level, write_checksum=True)
        if 1 << options.window_log > ZSTD_WINDOW_MAX:  # what we write we can read
            log = ZSTD_WINDOW_MAX.bit_length() - 1
            options = library.ZstdCompressionParameters.from_level(level, window_log=log, write_checksum=True)
        stream = library.ZstdCompressor(compression_params=options).compressobj()
        block = library.COMPRESSOBJ_FLUSH_BLOCK
        return Encoder(stream.compress, lambda: stream.flush(block), stream.flush)
    library = _library("lz4.frame", "lz4", compression, path)
    stream = library.LZ4FrameCompressor(compression_level=level or 0, content_checksum=True, auto_flush=live)
    return Encoder(stream.compress, bytes, stream.flush, stream.begin())
