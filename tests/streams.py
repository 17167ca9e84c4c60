"""What the tests of sources and sinks share: bytes to pack, and ways to read and copy them."""

import gzip
import random
import subprocess
import sys

import pytest

from tests.support import VERBS_ENV

lz4_frame = pytest.importorskip("lz4.frame")
zstandard = pytest.importorskip("zstandard")

KINDS = ("gz", "zst", "lz4")


def sample(size: int, seed: int = 1) -> bytes:
    """Half repeated, half random: several blocks in every format, and literals as well as matches."""
    rng = random.Random(seed)
    out = bytearray()
    while len(out) < size:
        out += bytes([rng.randrange(64)]) * rng.randrange(1, 9) + rng.randbytes(rng.randrange(4))
    return bytes(out[:size])


def pack(kind: str, plain: bytes) -> bytes:
    if kind == "gz":
        return gzip.compress(plain, 6, mtime=0)
    if kind == "zst":
        return zstandard.ZstdCompressor(write_checksum=True).compress(plain)
    return lz4_frame.compress(plain, content_checksum=True, block_size=lz4_frame.BLOCKSIZE_MAX64KB)


def drain(source, size: int = 70_000) -> bytes:
    out, buffer = bytearray(), bytearray(size)
    while n := source.readinto(buffer):
        out += buffer[:n]
    return bytes(out)


RUN = """
import sys
from vxlanfast.sink import open_sink
from vxlanfast.source import open_source
source, sink = open_source(sys.argv[1]), open_sink(sys.argv[2], input_paths=[sys.argv[1]])
buffer = bytearray(100_000)
while n := source.readinto(buffer):
    sink.write(buffer[:n])
sink.commit()
"""


def copy(*args, **kwargs):
    return subprocess.run(
        [sys.executable, "-c", RUN, *map(str, args)], capture_output=True, env=VERBS_ENV, timeout=60, **kwargs
    )
