"""Capture files as batches: reading and writing, without a protocol."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.io.reader import CaptureDecoder
from vxlanfast._ext.io.writer import CaptureEncoder
from vxlanfast.errors import CaptureError
from vxlanfast.sink import Sink, open_sink
from vxlanfast.source import Source, open_source

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from vxlanfast.ends import Readable, Writable

#: Rows from the ``start``-th on into an encoder: the row to go on from when its buffer is written, None: all are in.
#: ``ordinal``: packets before the batch.
Encode = Callable[[CaptureEncoder, PacketBatch, int, int], int | None]

FORMATS = ("pcap", "nsecpcap", "pcapng")

#: Bytes of a file, as stored, from which on it is large.
LARGE_LEN = 32 << 20
#: Bytes read at a time of a large file, and rows for them where every frame is of the smallest size.
CHUNK_LEN = 1 << 20
ROWS = CHUNK_LEN // 64


class Capture:
    """A capture file being read: pcap or pcapng, plain or compressed, from a path, ``-`` or a binary file object.

    Iterate ``batches()``. A fault in the file (CaptureError) is raised after every whole packet before it was given.
    """

    def __init__(self, target: Readable, *, count: int | None = None) -> None:
        self.source: Source = open_source(target)
        self.decoder = CaptureDecoder(count)

    @property
    def name(self) -> str:
        """The path, or what stands for it."""
        return self.source.name

    @property
    def fault(self) -> str | None:
        """What ended the file early, as a sentence with the file's name and the offset; None where it was whole."""
        fault = self.decoder.fault
        return None if fault is None else f"{self.name}: {fault[0]} (at byte {fault[1]})"

    @property
    def is_large(self) -> bool:
        """Whether the file is known to be so large that starting a thread for it, or taking memory, is nothing."""
        return (self.source.size or 0) >= LARGE_LEN

    def make_batch(self, *, large: bool | None = None) -> PacketBatch:
        """A batch to ``fill``; of a large file it takes more at a time: what is done once a batch then weighs less."""
        if not (self.is_large if large is None else large):
            return PacketBatch()
        self.decoder.chunk_len = CHUNK_LEN
        return PacketBatch(ROWS, CHUNK_LEN)

    def fill(self, batch: PacketBatch) -> int:
        """The next rows (and blocks) in place of those of ``batch``; 0 at the end, or at a fault: see ``fault``."""
        return self.decoder.fill(batch, self.source.readinto)

    def batches(self) -> Iterator[PacketBatch]:
        """Every batch, in order. A batch nobody holds any more is used again, so keep what you like."""
        pool: list[PacketBatch] = []
        while True:
            batch = _unused(pool)
            if not self.fill(batch):
                break
            yield batch
        if self.fault is not None:
            raise CaptureError(self.fault, path=self.name, offset=self.decoder.offset)

    def close(self) -> None:
        """Close the file."""
        self.source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _unused(pool: list[PacketBatch]) -> PacketBatch:
    """A batch that only ``pool`` knows of, or a new one in it."""
    for batch in pool:
        # The pool, the loop's name and the call's argument: nobody else.
        if batch.exports == 0 and sys.getrefcount(batch) == 3:
            return batch
    batch = PacketBatch()
    del pool[:-1]
    pool.append(batch)
    return batch


def open_capture(target: Readable, *, count: int | None = None) -> Capture:
    """Open a capture file for reading: at most ``count`` packets of it."""
    return Capture(target, count=count)


class CaptureWriter:
    """A capture file being written, of batches: ``write`` them, then ``close``; used in ``with``, an exception leaves
    no file behind.

    ``format``: "pcap", "nsecpcap" or "pcapng". ``links``: the LINKTYPE_ numbers it will hold (pcap: one).
    """

    def __init__(self, target: Writable, *, format: str = "pcap", links: Sequence[int] = (1,), snaplen: int = 262144):
        self.encoder = CaptureEncoder(format)
        self.sink: Sink = open_sink(target)
        self.encoder.begin(links, snaplen=snaplen, tsresol=6 if format == "pcap" else 9)

    def write(self, batch: PacketBatch) -> None:
        """Append the rows of ``batch`` that passed."""
        append(self.encoder, self.sink, batch, flush=self.sink.is_live)

    def close(self) -> None:
        """Write what waits and give the file its name."""
        flush(self.encoder, self.sink)
        self.sink.commit()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.sink.abort()


def flush(encoder: CaptureEncoder, sink: Sink) -> None:
    """Write the bytes that wait."""
    sink.write(encoder.pending())
    encoder.clear()


def encode(encoder: CaptureEncoder, batch: PacketBatch, start: int, ordinal: int) -> int | None:
    """The usual way of a batch into an encoder."""
    return encoder.encode(batch, start)


def append(
    encoder: CaptureEncoder, sink: Sink, batch: PacketBatch, *, flush: bool, encode: Encode = encode, ordinal: int = 0
) -> None:
    """Encode a batch, writing whenever enough has gathered; ``flush``: in any case."""
    at = 0
    while (rest := encode(encoder, batch, at, ordinal)) is not None:
        at = rest
        sink.write(encoder.pending())
        encoder.clear()
    if flush or encoder.full:
        sink.write(encoder.pending())
        encoder.clear()
