"""Bytes in: every format, every kind of file, and every way they break."""

import gzip
import io
import os
import random
import re
import socket
import subprocess
import sys
import threading
import zlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.streams import KINDS, drain, lz4_frame, pack, sample, zstandard
from tests.support import SLOW_BUILD, VERBS_ENV
from vxlanfast import codec
from vxlanfast.errors import CaptureError, MissingLibraryError
from vxlanfast.sink import open_sink
from vxlanfast.source import open_source

lz4_block = pytest.importorskip("lz4.block")
pytest.importorskip("isal.isal_zlib")


def legacy(plain: bytes, block_len: int = 8 << 20) -> bytes:
    out = bytearray(codec.LZ4_LEGACY)
    for at in range(0, len(plain), block_len):
        block = lz4_block.compress(plain[at : at + block_len], store_size=False)
        out += len(block).to_bytes(4, "little") + block
    return bytes(out)


def skippable(body: bytes, number: int = 0) -> bytes:
    return bytes((0x50 + number, 0x2A, 0x4D, 0x18)) + len(body).to_bytes(4, "little") + body


def drain_to_error(source, size: int = 70_000) -> tuple[bytes, str]:
    """What came, and the one line it ended with; a second try ends the same way."""
    out, buffer = bytearray(), bytearray(size)
    with pytest.raises(CaptureError) as caught:
        while n := source.readinto(buffer):
            out += buffer[:n]
    message = str(caught.value)
    with pytest.raises(CaptureError, match=re.escape(message)):
        source.readinto(buffer)
    assert "\n" not in message
    assert caught.value.path == source.name
    return bytes(out), message


class Trickle(io.RawIOBase):
    """A source that gives a few bytes at a time, as a network may."""

    def __init__(self, stored: bytes, step: int) -> None:
        self.stored, self.step, self.at = stored, step, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        piece = self.stored[self.at : self.at + min(self.step, len(buffer))]
        buffer[: len(piece)] = piece
        self.at += len(piece)
        return len(piece)


class OnlyRead:
    """The least a file object can be."""

    def __init__(self, stored: bytes) -> None:
        self.file = io.BytesIO(stored)

    def read(self, size: int = -1) -> bytes:
        return self.file.read(size)


# --- formats ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, 1, 100, 300_000])
@pytest.mark.parametrize("buffer_len", [7, 4096, 1 << 20])
def test_reads_by_content(tmp_path, kind, size, buffer_len):
    if size > 1000 and buffer_len < 100:
        buffer_len = 1000
    plain = sample(size)
    path = tmp_path / "capture.pcap"  # the suffix says nothing
    path.write_bytes(pack(kind, plain))
    with open_source(path) as source:
        assert source.compression == kind
        assert source.size == path.stat().st_size
        assert source.fileno_or_none() is None
        assert not source.is_live
        assert source.name == str(path)
        assert drain(source, buffer_len) == plain
        assert source.position() == source.size
        assert source.readinto(bytearray(10)) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [1, 2, 3, 13, 4096])
def test_pieces_of_any_size(kind, step):
    plain = sample(30_000)
    stored = pack(kind, plain) + pack(kind, b"") + pack(kind, plain[:1000])
    assert drain(open_source(Trickle(stored, step)), 5000) == plain + plain[:1000]


def test_gzip_without_isal(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)
    path = tmp_path / "x.gz"
    with open_sink(path) as sink:
        sink.write(sample(300_000))
    assert gzip.decompress(path.read_bytes()) == sample(300_000)
    assert drain(open_source(io.BytesIO(path.read_bytes()))) == sample(300_000)


def test_gzip_members_padding_and_garbage(tmp_path):
    one, two = sample(5000, 1), sample(6000, 2)
    members = pack("gz", one) + pack("gz", two)
    for tail in (b"", b"\0", bytes(1000), bytes(200_000)):
        assert drain(open_source(io.BytesIO(members + tail))) == one + two
    assert drain(open_source(io.BytesIO(pack("gz", one) + bytes(512) + pack("gz", two)))) == one + two
    for tail in (b"x", b"garbage behind", bytes(100) + b"x"):
        path = tmp_path / "x.gz"
        path.write_bytes(members + tail)
        with open_source(path) as source:
            out, message = drain_to_error(source)
        assert out == one + two
        at = len(members) + len(tail) - len(tail.lstrip(b"\0"))
        assert message == f"{path}: at byte {at}, behind the gzip data, is something else"
    out, message = drain_to_error(open_source(io.BytesIO(members + b"\x1f")))
    assert out == one + two
    assert "gzip data ends in the middle" in message


def test_gzip_header_fields():
    """Each optional field, cut everywhere and given in pieces."""
    plain = sample(1000)
    body = pack("gz", plain)[10:]
    for flags in range(32):
        header = b"\x1f\x8b\x08" + bytes([flags]) + bytes(6)
        for flag, field in ((4, b"\x05\x00extra"), (8, b"name\0"), (16, b"a comment\0")):
            header += field if flags & flag else b""
        if flags & 2:
            header += (zlib.crc32(header) & 0xFFFF).to_bytes(2, "little")
        for step in (1, 4, 4096):
            assert drain(open_source(Trickle(header + body + header + body, step))) == plain * 2
        for cut in range(2, len(header)):
            out, message = drain_to_error(open_source(Trickle(header[:cut], 5)))
            assert out == b""
            assert f"gzip data ends in the middle (after {cut} bytes)" in message
    for broken in (b"\x07\0", b"\x08\x20", b"\x08\x02"):
        with pytest.raises(CaptureError, match="gzip data is damaged"):
            drain(open_source(io.BytesIO(b"\x1f\x8b" + broken + bytes(6) + b"\xff\xff" + body)))


@pytest.mark.parametrize("step", [1, 3, 1 << 16])
def test_zstd_frames(step):
    one, two = sample(5000, 1), sample(200_000, 2)
    plain_frame = zstandard.ZstdCompressor(write_checksum=False, write_content_size=False).compress(two)
    stream = zstandard.ZstdCompressor(level=1).compressobj()
    unknown_size = stream.compress(one) + stream.flush()
    stored = (
        skippable(b"at first")
        + pack("zst", one)
        + skippable(b"", 15)
        + plain_frame
        + unknown_size
        + pack("zst", b"")
        + skippable(bytes(100_000), 7)
    )
    source = open_source(Trickle(stored, step))
    assert source.compression == "zst"
    assert drain(source, 50_000) == one + two + one


@pytest.mark.parametrize("buffer_len", [1000, 128 << 10, 1 << 20])
@pytest.mark.parametrize("checksum", [True, False])
def test_zstd_raw_and_rle_blocks(buffer_len, checksum):
    """Without a checksum the last block ends the data, and its bytes must come all the same."""
    noise = random.Random(3).randbytes(300_000)
    for plain in (noise + bytes(1_000_000) + noise, bytes(1_000_000), noise, sample(130_000)):
        stored = zstandard.ZstdCompressor(write_checksum=checksum).compress(plain)
        for step in (1000, 1 << 16):
            assert drain(open_source(Trickle(stored, step)), buffer_len) == plain


def test_zstd_window_over_the_limit(tmp_path):
    options = zstandard.ZstdCompressionParameters.from_level(3, window_log=26)
    compressor = zstandard.ZstdCompressor(compression_params=options)
    stream = compressor.compressobj()
    path = tmp_path / "long.zst"
    path.write_bytes(pack("zst", b"first") + stream.compress(sample(1000)) + stream.flush())
    with open_source(path) as source:
        out, message = drain_to_error(source)
    assert out == b"first"
    assert message.startswith(
        f"{path}: zstd window of {1 << 26} bytes: at most {32 << 20} (32 MiB) are taken"
    )
    allowed = zstandard.ZstdCompressionParameters.from_level(3, window_log=25)
    stream = zstandard.ZstdCompressor(compression_params=allowed).compressobj()
    assert drain(open_source(io.BytesIO(stream.compress(b"fits") + stream.flush()))) == b"fits"


def test_zstd_garbage_behind(tmp_path):
    path = tmp_path / "x.zst"
    frame = pack("zst", sample(9000))
    path.write_bytes(frame + b"what is this")
    with open_source(path) as source:
        out, message = drain_to_error(source)
    assert out == sample(9000)
    assert message == f"{path}: at byte {len(frame)}, behind the zstd data, is something else"
    out, message = drain_to_error(open_source(io.BytesIO(frame + b"x")))
    assert out == sample(9000)
    assert f"at byte {len(frame)}" in message
    out, message = drain_to_error(open_source(io.BytesIO(frame + b"\x28\xb5")))
    assert out == sample(9000)
    assert "ends in the middle" in message


@pytest.mark.parametrize("step", [1, 3, 1 << 16])
def test_lz4_frames(step):
    one, two = sample(5000, 1), sample(300_000, 2)
    big = lz4_frame.compress(two, block_size=lz4_frame.BLOCKSIZE_MAX4MB, block_linked=False)
    stored = (
        skippable(b"at first")
        + pack("lz4", one)
        + skippable(b"", 15)
        + legacy(two, 100_000)
        + big
        + legacy(one)
        + skippable(bytes(100_000), 7)
    )
    source = open_source(Trickle(stored, step))
    assert source.compression == "lz4"
    assert drain(source, 50_000) == one + two + two + one


def test_lz4_legacy_alone_and_broken(tmp_path):
    plain = sample(100_000)
    stored = legacy(plain, 40_000)
    assert drain(open_source(io.BytesIO(stored))) == plain
    assert drain(open_source(io.BytesIO(legacy(bytes(20 << 20)))), 1 << 20) == bytes(20 << 20)
    out, message = drain_to_error(open_source(io.BytesIO(stored[:-1])))
    assert out == plain[:80_000]
    assert "ends in the middle" in message
    out, message = drain_to_error(open_source(io.BytesIO(stored + b"\xff\xff\xff\x7f")))
    assert out == plain
    assert "lz4 data is damaged" in message
    out, message = drain_to_error(
        open_source(io.BytesIO(codec.LZ4_LEGACY + b"\x04\0\0\0\xff\xff\xff\xff"))
    )
    assert "lz4 data is damaged" in message


def test_only_skippable_frames():
    assert drain(open_source(io.BytesIO(skippable(b"nothing") * 3))) == b""
    out, message = drain_to_error(open_source(io.BytesIO(skippable(b"nothing")[:-1])))
    assert out == b""
    assert "ends in the middle" in message
    out, message = drain_to_error(open_source(io.BytesIO(skippable(b"nothing") + b"plain text")))
    assert "is something else" in message


def decodable(kind: str, stored: bytes) -> bytes:
    """What the reference decoder of the format makes of a cut stream."""
    if kind == "gz":
        stream = zlib.decompressobj(wbits=31)
        return stream.decompress(stored) + stream.flush()
    if kind == "zst":
        return zstandard.ZstdDecompressor().decompressobj().decompress(stored)
    return lz4_frame.LZ4FrameDecompressor().decompress(stored)


@pytest.mark.parametrize("kind", KINDS)
def test_cut_gives_every_byte_it_holds_and_then_says_so(tmp_path, kind):
    plain = sample(150_000)
    stored = pack(kind, plain)
    path = tmp_path / f"cut.{kind}"
    rng = random.Random(4)
    cuts = {*range(4, 40), *range(len(stored) - 20, len(stored)), *rng.sample(range(len(stored)), 150)}
    for cut in sorted(cuts - {0, 1, 2, 3}):
        path.write_bytes(stored[:cut])
        with open_source(path) as source:
            out, message = drain_to_error(source)
        assert out == decodable(kind, stored[:cut]), cut
        assert message == f"{path}: {codec.NAMES[kind]} data ends in the middle (after {cut} bytes)"


@pytest.mark.parametrize("kind", KINDS)
def test_cut_in_a_pipe(kind):
    """ISA-L may keep the last two literals of a cut stream to itself, and a pipe cannot be read again."""
    plain = sample(50_000)
    stored = pack(kind, plain)
    for cut in random.Random(5).sample(range(4, len(stored)), 60):
        out, message = drain_to_error(open_source(Trickle(stored[:cut], 1000)))
        want = decodable(kind, stored[:cut])
        assert want.startswith(out)
        assert len(want) - len(out) <= (2 if kind == "gz" else 0)
        assert f"(after {cut} bytes)" in message


@pytest.mark.parametrize("kind", KINDS)
def test_damaged(tmp_path, kind):
    """Whatever is flipped: what comes before is right, and one line says what happened."""
    plain = sample(150_000)
    stored = pack(kind, plain)
    path = tmp_path / f"damaged.{kind}"
    found = 0
    for at in random.Random(6).sample(range(4, len(stored)), 80):
        broken = bytearray(stored)
        broken[at] ^= 0x55
        path.write_bytes(broken)
        with open_source(path) as source:
            try:
                out = drain(source)
            except CaptureError as error:
                found += 1
                assert str(error).startswith(f"{path}: ")
                assert "\n" not in str(error)
            else:
                assert out == plain or (kind == "gz" and at < 10)  # a time stamp, an operating system
    assert found > 70


def test_damaged_checksum(tmp_path):
    for kind, back in (("gz", 5), ("zst", 1), ("lz4", 1)):
        stored = bytearray(pack(kind, sample(1000)))
        stored[-back] ^= 1
        with pytest.raises(CaptureError, match=f"{codec.NAMES[kind]} data is damaged"):
            drain(open_source(io.BytesIO(stored)))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(kind=st.sampled_from(KINDS), tail=st.binary(max_size=300), step=st.integers(1, 400))
def test_any_bytes_behind_a_magic_number_are_read_or_named(kind, tail, step):
    head = {"gz": codec.GZIP + b"\x08\0", "zst": codec.ZSTD, "lz4": codec.LZ4}[kind]
    try:
        drain(open_source(Trickle(head + tail, step)))
    except CaptureError as error:
        assert str(error).startswith("<Trickle>: ")


# --- files ------------------------------------------------------------------------------------------------


def test_plain_files(tmp_path):
    for plain in (b"", b"\x1f", b"\x28\xb5\x2f", b"P", b"\xd4\xc3\xb2\xa1" + sample(100_000)):
        path = tmp_path / "plain.gz"  # the suffix says nothing here either
        path.write_bytes(plain)
        with open_source(str(path)) as source:
            assert source.compression is None
            assert os.pread(source.fileno_or_none(), 200_000, 0) == plain
            assert drain(source) == plain
            assert source.position() == source.size == len(plain)


def test_file_objects(tmp_path):
    plain = sample(100_000)
    path = tmp_path / "plain"
    path.write_bytes(plain)
    assert drain(open_source(io.BytesIO(plain))) == plain
    assert drain(open_source(OnlyRead(plain))) == plain
    with path.open("rb") as file:
        source = open_source(file)
        assert source.size == len(plain)
        assert source.fileno_or_none() == file.fileno()
        assert drain(source) == plain
        source.close()
        assert not file.closed
        file.seek(10)
        source = open_source(file)
        assert source.fileno_or_none() is None  # who preads from 0 would read the wrong bytes
        assert drain(source) == plain[10:]
        assert source.position() == source.size
    with gzip.open(tmp_path / "object.gz", "wb") as file:
        file.write(plain)
    with gzip.open(tmp_path / "object.gz") as file:
        source = open_source(file)
        assert source.fileno_or_none() is None  # its fileno() is of the compressed file
        assert source.size is None
        assert drain(source) == plain
    with pytest.raises(TypeError, match="binary mode"):
        open_source(io.StringIO("text")).readinto(bytearray(10))
    for wrong in (3, None, b"bytes are no path"):
        with pytest.raises(TypeError, match="a path, '-' or a binary file object"):
            open_source(wrong)


def test_unreadable(tmp_path):
    missing = tmp_path / "missing.pcap"
    with pytest.raises(CaptureError) as caught:
        open_source(missing)
    assert str(caught.value) == f"{missing}: No such file or directory"
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(CaptureError, match="Is a directory"):
        open_source(tmp_path)
    with pytest.raises(CaptureError, match="no name"):
        open_source("")
    with pytest.raises(CaptureError):
        open_source("nul\0byte")
    newline = tmp_path / "two\nlines"
    with pytest.raises(CaptureError) as caught:
        open_source(newline)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "kind, module, package",
    [("zst", "zstandard", "zstandard"), ("lz4", "lz4.frame", "lz4")],
)
def test_missing_library(tmp_path, monkeypatch, kind, module, package):
    path = tmp_path / f"x.pcap.{kind}"
    path.write_bytes(pack(kind, b"text"))
    monkeypatch.setitem(sys.modules, module, None)
    line = f"{path}: {codec.NAMES[kind]} needs the {package} library: pip install 'vxlanfast[compress]'"
    with pytest.raises(MissingLibraryError) as caught:
        open_source(path)
    assert str(caught.value) == line
    source = open_source(Trickle(path.read_bytes(), 1))
    for _ in range(2):
        with pytest.raises(MissingLibraryError):
            source.readinto(bytearray(10))
    with pytest.raises(MissingLibraryError):
        open_sink(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


# --- pipes --------------------------------------------------------------------------------------------------


@pytest.fixture
def pipe():
    ends = [io.FileIO(fd, mode) for fd, mode in zip(os.pipe(), ("r", "w"), strict=True)]
    yield ends
    for end in ends:
        end.close()


def test_live_pipe_hands_on_what_has_come(pipe):
    reader, writer = pipe
    source = open_source(reader)
    assert source.is_live
    assert source.size is None
    assert source.fileno_or_none() is None
    buffer = bytearray(1 << 20)
    given = b""
    # Every prefix of a magic number would wait for more: 0xd4 starts none.
    for piece in (b"\xd4", b"\xc3\xb2", b"\xa1 and", b" so on" * 100):
        writer.write(piece)
        n = source.readinto(buffer)  # would hang if it waited for more
        assert buffer[:n] == piece
        given += piece
        assert source.position() == len(given)
    writer.close()
    assert source.readinto(buffer) == 0


def test_live_pipe_through_a_buffered_reader(pipe):
    reader, writer = pipe
    buffered = io.BufferedReader(reader)
    source = open_source(buffered)
    buffer = bytearray(1 << 20)
    for piece in (b"first", b"second"):
        writer.write(piece)
        n = source.readinto(buffer)
        assert buffer[:n] == piece
    buffered.detach()


def test_pipe_of_a_first_byte_that_two_formats_share(pipe):
    reader, writer = pipe
    source = open_source(reader)
    stored = pack("gz", b"text")
    writer.write(stored[:1])
    threading.Timer(0.05, lambda: (writer.write(stored[1:]), writer.close())).start()
    assert drain(source) == b"text"


def test_non_blocking_pipes(pipe):
    reader, writer = pipe
    plain = sample(500_000)
    for end in pipe:
        os.set_blocking(end.fileno(), False)
    out = []
    thread = threading.Thread(target=lambda: out.append(drain(open_source(reader), 30_000)))
    thread.start()
    open_sink(writer).write(plain)
    writer.close()
    thread.join()
    assert out == [plain]


def test_socket_is_live():
    one, two = socket.socketpair()
    with one, two, one.makefile("rb") as file:
        source = open_source(file)
        assert source.is_live
        two.sendall(b"bytes")
        buffer = bytearray(100)
        assert source.readinto(buffer) == 5


# --- promises -----------------------------------------------------------------------------------------------


def test_import_is_light():
    """Libraries are for those who need them; a small file is done before typing is imported."""
    code = (
        "import sys; before = set(sys.modules); import vxlanfast.errors; mid = set(sys.modules);"
        "import vxlanfast.source, vxlanfast.sink; print(*sorted(set(sys.modules) - mid))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env=VERBS_ENV, text=True, check=True, timeout=60
    )
    ours = {f"vxlanfast.{name}" for name in ("source", "sink", "codec", "ends")}
    assert set(done.stdout.split()) <= {*ours, "binascii", "errno"}


BOMB = """
import resource, sys, tracemalloc
from vxlanfast.source import open_source
kind, path = sys.argv[1:]
source = open_source(path)
buffer = bytearray(128 * 1024)
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
tracemalloc.start()
total = 0
while n := source.readinto(buffer):
    assert not any(buffer[:n:4099])
    total += n
print(total, tracemalloc.get_traced_memory()[1], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)
"""


@pytest.mark.skipif(SLOW_BUILD, reason="memory of an instrumented build says nothing")
@pytest.mark.parametrize("kind", [*KINDS, "zlib", "legacy"])
def test_memory_is_bounded(tmp_path, kind):
    """200 MB of zeros in some kilobytes: what is decoded at a time does not depend on them."""
    size, zeros = 200 << 20, bytes(8 << 20)
    path = tmp_path / "bomb"
    if kind == "legacy":
        block = lz4_block.compress(zeros, store_size=False)
        path.write_bytes(codec.LZ4_LEGACY + (len(block).to_bytes(4, "little") + block) * (size >> 23))
    else:
        named = tmp_path / f"bomb.{'gz' if kind == 'zlib' else kind}"
        with open_sink(named, level={"gz": 1, "zlib": 9, "zst": 19, "lz4": 0}[kind]) as sink:
            for _ in range(size >> 23):
                sink.write(zeros)
        named.rename(path)
    code = BOMB if kind != "zlib" else f"import sys; sys.modules['isal.isal_zlib'] = None\n{BOMB}"
    done = subprocess.run(
        [sys.executable, "-c", code, kind, str(path)],
        capture_output=True,
        env=VERBS_ENV,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    total, traced, grown_kib = map(int, done.stdout.split())
    assert total == size
    limit = (18 << 20) if kind == "legacy" else (2 << 20)  # bytes: blocks of the old format hold 8 MiB
    assert traced < limit
    assert grown_kib << 10 < limit + (16 << 20)  # zstd's window lies outside of Python's memory
