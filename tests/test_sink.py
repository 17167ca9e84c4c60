"""Bytes out: by suffix, under another name until the end, through pipes, and every way that fails."""

import errno
import gc
import gzip
import io
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.streams import KINDS, RUN, copy, drain, lz4_frame, pack, sample, zstandard
from tests.support import VERBS_ENV
from vxlanfast import codec
from vxlanfast.errors import OutputError
from vxlanfast.sink import open_sink
from vxlanfast.source import open_source


def unpack(path: Path) -> bytes:
    stored = path.read_bytes()
    if path.suffix == ".gz":
        return gzip.decompress(stored)
    if path.suffix in (".zst", ".zstd"):
        return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(stored)).read()
    return lz4_frame.decompress(stored) if path.suffix == ".lz4" else stored


@pytest.mark.parametrize("suffix", [".pcap", ".gz", ".zst", ".zstd", ".lz4", ".pcap.LZ4"])
@pytest.mark.parametrize("size", [0, 1, 1_000_000])
def test_writes_by_suffix(tmp_path, suffix, size):
    plain = sample(size)
    path = tmp_path / f"out{suffix}"
    with open_sink(path) as sink:
        assert (sink.fileno_or_none() is not None) == (suffix == ".pcap")
        assert not sink.is_live
        for at in range(0, size, 333_333):
            sink.write(memoryview(plain)[at : at + 333_333])
    if suffix == ".pcap.LZ4":
        assert lz4_frame.decompress(path.read_bytes()) == plain
    else:
        assert unpack(path) == plain
    with open_source(path) as source:
        assert drain(source) == plain


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bytes_whatever_the_pieces(tmp_path, kind):
    plain = sample(1_000_000)
    stored = set()
    for step in (777, 65_536, 300_000, 1_000_000):
        path = tmp_path / f"{step}.{kind}"
        with open_sink(path) as sink:
            for at in range(0, len(plain), step):
                sink.write(plain[at : at + step])
        stored.add(path.read_bytes())
    assert len(stored) == 1


def test_levels(tmp_path):
    plain = sample(300_000)
    for kind, levels in codec.LEVELS.items():
        for level in (levels[0], levels[-1]):
            path = tmp_path / f"{level}.{kind}"
            with open_sink(path, level=level) as sink:
                sink.write(plain)
            with open_source(path) as source:
                assert drain(source) == plain
        with pytest.raises(ValueError, match=f"{codec.NAMES[kind]} level 99: "):
            open_sink(tmp_path / f"x.{kind}", level=99)


def test_name_comes_at_the_end(tmp_path):
    path = tmp_path / "out.pcap"
    path.write_bytes(b"old")
    sink = open_sink(path)
    sink.write(b"new")
    (part,) = (p for p in tmp_path.iterdir() if p != path)
    assert part.name.startswith(".out.pcap.")
    assert part.name.endswith(".part")
    assert path.read_bytes() == b"old"
    sink.commit()
    sink.commit()
    sink.abort()
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="after its end"):
        sink.write(b"more")
    assert sink.fileno_or_none() is None


@pytest.mark.parametrize("suffix", [".pcap", ".gz", ".zst", ".lz4"])
def test_suspended_between_writes(tmp_path, suffix):
    """More files than descriptors: closed in between, and one stream in the end."""
    gc.collect()  # what others left
    before = len(os.listdir("/proc/self/fd"))
    sinks = [open_sink(tmp_path / f"{i}{suffix}") for i in range(5)]
    for _ in range(3):
        for i, sink in enumerate(sinks):
            sink.write(sample(1000, i))
            sink.suspend()
            sink.suspend()
    assert len(os.listdir("/proc/self/fd")) == before
    sinks[1].write(b"and more")
    sinks[2].abort()
    assert sinks[3].fileno_or_none() is None
    for sink in sinks:
        sink.commit()
        sink.suspend()
        with pytest.raises(ValueError, match="after its end"):
            sink.write(b"too late")
    assert len(os.listdir("/proc/self/fd")) == before
    assert {p.name for p in tmp_path.iterdir()} == {f"{i}{suffix}" for i in (0, 1, 3, 4)}
    for i in (0, 1, 3, 4):
        with open_source(tmp_path / f"{i}{suffix}") as source:
            assert drain(source) == sample(1000, i) * 3 + b"and more" * (i == 1)
    memory = io.BytesIO()
    sink = open_sink(memory)
    sink.suspend()
    sink.write(b"objects stay open")
    assert memory.getvalue() == b"objects stay open"


def test_suspended_and_gone(tmp_path):
    sink = open_sink(tmp_path / "out")
    sink.suspend()
    next(tmp_path.iterdir()).unlink()
    with pytest.raises(OutputError, match="No such file or directory"):
        sink.write(b"text")
    with pytest.raises(OutputError, match="No such file or directory"):
        sink.commit()


def test_abort_leaves_nothing(tmp_path):
    path = tmp_path / "out.pcap.gz"
    for old in (None, b"old"):
        if old is not None:
            path.write_bytes(old)
        sink = open_sink(path)
        sink.write(b"new")
        sink.abort()
        assert [p.read_bytes() for p in tmp_path.iterdir()] == ([] if old is None else [old])
        with pytest.raises(KeyError), open_sink(path) as sink:
            sink.write(b"new")
            raise KeyError
        open_sink(path)  # forgotten
        assert [p.read_bytes() for p in tmp_path.iterdir()] == ([] if old is None else [old])


def test_modes(tmp_path):
    before = os.umask(0o027)
    try:
        path = tmp_path / "out"
        with open_sink(path) as sink:
            sink.write(b"1")
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o606)
        with open_sink(path) as sink:
            sink.write(b"2")
        assert stat.S_IMODE(path.stat().st_mode) == 0o606
        assert path.read_bytes() == b"2"
    finally:
        os.umask(before)


def test_symbolic_links_stay(tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "target", tmp_path / "link"
    link.symlink_to("there/target")
    for text in (b"into nothing", b"over something"):
        with open_sink(link) as sink:
            sink.write(text)
            assert len(list((tmp_path / "there").glob(".target.*.part"))) == 1
        assert link.is_symlink()
        assert target.read_bytes() == text
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    with pytest.raises(OutputError, match="symbolic links"):
        open_sink(loop)


def test_change_of_directory_in_between(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sink = open_sink("out")
    sink.write(b"text")
    monkeypatch.chdir("/")
    sink.commit()
    assert (tmp_path / "out").read_bytes() == b"text"


def test_never_over_the_input(tmp_path):
    path, hard, soft = (tmp_path / name for name in ("in", "hard", "soft"))
    path.write_bytes(b"precious")
    hard.hardlink_to(path)
    soft.symlink_to(path)
    for out in (path, hard, soft, tmp_path / "." / "in"):
        for source in (path, hard, soft):
            with pytest.raises(OutputError) as caught:
                open_sink(out, input_paths=["-", "missing", str(source)])
            assert str(caught.value) == f"{out} is the input {source}: choose another name"
    with path.open("rb") as file, pytest.raises(OutputError, match=f"soft is the input {path}"):
        open_sink(soft, input_paths=[io.BytesIO(), file])
    assert path.read_bytes() == b"precious"
    assert len(list(tmp_path.iterdir())) == 3
    with path.open("rb") as file:
        done = copy("-", soft, stdin=file)
    assert done.returncode == 1
    with path.open("ab") as file:
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(path), "-"], stdout=file, stderr=subprocess.PIPE, env=VERBS_ENV
        )
    assert b"<stdout> is the input" in done.stderr
    assert path.read_bytes() == b"precious"


# --- pipes, devices, standard streams ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_live_compressed_pipe(tmp_path, kind):
    """What a live sink has written a live source can read, before either ends."""
    path = tmp_path / f"fifo.{kind}"
    os.mkfifo(path)
    opened = []
    thread = threading.Thread(target=lambda: opened.append(open_source(path)))
    thread.start()
    sink = open_sink(path)
    thread.join()
    (source,) = opened
    assert sink.is_live
    assert source.is_live
    buffer = bytearray(100_000)
    for piece in (b"first", b"second", sample(30_000)):
        sink.write(piece)
        got = b""
        while len(got) < len(piece):
            n = source.readinto(buffer)
            got += buffer[:n]
        assert got == piece
    assert source.compression == kind
    sink.commit()
    assert source.readinto(buffer) == 0
    source.close()
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_broken_pipe_goes_through():
    reader, writer = os.pipe()
    os.close(reader)
    with io.FileIO(writer, "w") as file, pytest.raises(BrokenPipeError):
        open_sink(file).write(b"text")


def test_standard_streams(tmp_path):
    plain = sample(300_000)
    path = tmp_path / "in.pcap.zst"
    path.write_bytes(pack("zst", plain))
    assert copy("-", "-", input=path.read_bytes()).stdout == plain
    with path.open("rb") as file:
        assert copy("-", "-", stdin=file).stdout == plain
    for name in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        assert copy("/dev/stdin", name, input=plain).stdout == plain
    closed = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" - - <&-', sys.executable, RUN],
        capture_output=True,
        env=VERBS_ENV,
        text=True,
    )
    assert "standard input is closed" in closed.stderr.splitlines()[-1]


def test_appending_to_standard_output_by_name(tmp_path):
    """A file opened again by /dev/stdout would be written over from its start."""
    path = tmp_path / "log"
    path.write_bytes(b"before ")
    with path.open("ab") as out:
        subprocess.run(
            [sys.executable, "-c", RUN, "-", "/dev/stdout"],
            input=b"after",
            env=VERBS_ENV,
            stdout=out,
            check=True,
            timeout=60,
        )
    assert path.read_bytes() == b"before after"
    with io.FileIO(path, "a") as file:
        assert open_sink(file).fileno_or_none() is None  # pwrite() would not obey its offset


def test_replaced_standard_streams(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"text")))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO()))
    with open_source("-") as source, open_sink("-") as sink:
        assert source.name == "<stdin>"
        assert sink.name == "<stdout>"
        sink.write(drain(source))
    assert sys.stdout.buffer.getvalue() == b"text"


def test_fifos_and_devices_are_written_as_they_are(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    got = []

    def read():
        with open_source(fifo) as source:
            got.append(drain(source))

    thread = threading.Thread(target=read)
    thread.start()
    with open_sink(fifo) as sink:
        assert sink.is_live
        sink.write(b"text")
    thread.join()
    assert got == [b"text"]
    assert list(tmp_path.iterdir()) == [fifo]
    with open_sink("/dev/null") as sink:
        assert not sink.is_live
        sink.write(b"text")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


# --- failures ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_disk_full(tmp_path):
    sink = open_sink("/dev/full")
    with pytest.raises(OutputError) as caught:
        sink.write(b"text")
    assert str(caught.value) == "/dev/full: No space left on device (after 0 bytes)"
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == "/dev/full"
    sink.abort()
    link = tmp_path / "full.gz"
    link.symlink_to("/dev/full")
    sink = open_sink(link)
    sink.write(b"text")
    with pytest.raises(OutputError, match="No space left on device"):
        sink.commit()
    file = open("/dev/full", "wb")  # noqa: SIM115 - closing it fails, and is to
    sink = open_sink(file)
    sink.write(b"text")
    with pytest.raises(OutputError, match="No space left on device"):
        sink.commit()
    with pytest.raises(OSError, match="No space left on device"):
        file.close()


class Short(io.RawIOBase):
    """Takes three bytes at a time, and is full after ten."""

    def __init__(self) -> None:
        self.taken = b""

    def writable(self) -> bool:
        return True

    def write(self, buffer) -> int:
        if len(self.taken) >= 9:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.taken += bytes(buffer[:3])
        return min(3, len(buffer))


def test_short_writes():
    file = Short()
    sink = open_sink(file)
    sink.write(b"12345678")
    assert file.taken == b"12345678"
    with pytest.raises(OutputError) as caught:
        sink.write(b"9abcdef")
    assert str(caught.value) == "<Short>: No space left on device (after 11 bytes)"


def test_failed_is_for_those_who_write_to_the_descriptor(tmp_path):
    sink = open_sink(tmp_path / "out")
    failure = sink.failed(OSError(errno.EDQUOT, "Disk quota exceeded"), 100)
    assert str(failure) == f"{tmp_path / 'out'}: Disk quota exceeded (after 100 bytes)"
    assert failure.errno == errno.EDQUOT
    gone = BrokenPipeError(errno.EPIPE, "Broken pipe")
    assert sink.failed(gone) is gone
    sink.abort()


class Plain:
    """The least a file object can be."""

    def __init__(self) -> None:
        self.got = b""

    def write(self, buffer) -> None:
        self.got += buffer


def test_output_objects():
    file = Plain()
    with open_sink(file) as sink:
        sink.write(b"text")
        sink.write(bytearray(b" and more"))
    assert file.got == b"text and more"
    memory = io.BytesIO()
    with open_sink(memory) as sink:
        sink.write(b"text")
    assert memory.getvalue() == b"text"
    for wrong in (3, None, b"bytes are no path"):
        with pytest.raises(TypeError, match="a path, '-' or a binary file object"):
            open_sink(wrong)


def test_unwritable(tmp_path):
    with pytest.raises(OutputError) as caught:
        open_sink(tmp_path / "no" / "out")
    assert str(caught.value) == f"{tmp_path}/no/out: there is no directory {tmp_path}/no"
    assert caught.value.errno == errno.ENOENT
    for out in (tmp_path, f"{tmp_path}/new/"):
        with pytest.raises(OutputError) as caught:
            open_sink(out)
        assert str(caught.value) == f"{out}: Is a directory"
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="Not a directory"):
        open_sink(tmp_path / "file" / "out")
    for out in ("", "nul\0byte"):
        with pytest.raises(OutputError, match="not a file name"):
            open_sink(out)
    with pytest.raises(OutputError, match="File name too long"):
        open_sink(tmp_path / ("x" * 256))
    long = tmp_path / ("x" * 255)
    with open_sink(long) as sink:
        sink.write(b"text")
    assert long.read_bytes() == b"text"
    with pytest.raises(OutputError, match="Bad file descriptor"):
        open_sink("/dev/fd/987")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_permissions(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    with pytest.raises(OutputError, match="Permission denied"):
        open_sink(closed / "out")
    kept = tmp_path / "kept"
    kept.touch(0o444)
    with pytest.raises(OutputError, match="Permission denied"):
        open_sink(kept)


def test_a_name_that_cannot_be_taken_says_where_the_data_is(tmp_path):
    path = tmp_path / "out"
    sink = open_sink(path)
    sink.write(b"hours of work")
    path.mkdir()
    with pytest.raises(OutputError) as caught:
        sink.commit()
    part = str(caught.value).split("; the data is in ")[1]
    assert Path(part).read_bytes() == b"hours of work"
