"""One capture into many: a file per VNI, per VTEP, or per whatever the pattern names."""

from __future__ import annotations

import os
import string
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING

from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.io.writer import CaptureEncoder
from vxlanfast._ext.node.survey import Survey
from vxlanfast._ext.table.tunnels import TunnelTable
from vxlanfast.addr import format_ip
from vxlanfast.capture import FORMATS, Capture, flush, open_capture
from vxlanfast.errors import CaptureError, Interrupted, SpecError
from vxlanfast.files import Plan, VniSet, Watch, collect, decap_plan, make_encoder
from vxlanfast.sink import Sink, open_sink
from vxlanfast.spec import DEFAULT_PORTS
from vxlanfast.stats import Stats

if TYPE_CHECKING:
    from vxlanfast.ends import Readable

FIELDS = ("vni", "src", "dst")

#: Outputs with an open file at a time; the others are closed and opened again when a packet comes for them.
OPEN_MAX = 64
#: Bytes of output buffer each open one has.
BUFFER_LEN = 32 * 1024
#: Outputs in all: a pattern and a hostile capture could otherwise fill a file system with names.
OUTPUTS_MAX = 60000

_BLOCK_SHB = b"\x0a\x0d\x0d\x0a"


def check_pattern(pattern: str) -> None:
    """SpecError for a pattern that names no field, or one we do not know."""
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(pattern) if name is not None]
    except ValueError as error:
        raise SpecError(f"pattern {pattern!r}: {error}") from None
    for name in names:
        if name not in FIELDS:
            known = ", ".join(f"{{{field}}}" for field in FIELDS)
            raise SpecError(f"pattern {pattern!r}: {{{name}}} is none of {known}")
    if not names:
        raise SpecError(f"pattern {pattern!r}: name a field to split by, such as out-{{vni}}.pcap")
    try:
        pattern.format(vni=0, src="", dst="")
        pattern.format(vni="other", src="", dst="")
    except (ValueError, LookupError, AttributeError) as error:
        raise SpecError(f"pattern {pattern!r}: {error}") from None


class Output:
    """One of the files: its encoder for good, its open file for as long as there is room."""

    def __init__(self, path: str, encoder: CaptureEncoder, sink: Sink) -> None:
        self.path = path
        self.encoder = encoder
        self.sink = sink

    def rest(self) -> None:
        """Write what waits, close the file for now, and give the buffer back."""
        flush(self.encoder, self.sink)
        self.encoder.rest()
        self.sink.suspend()


class Outputs:
    """The files of a split, by path; at most ``OPEN_MAX`` of them open at a time."""

    def __init__(self, capture: Capture, plan: Plan, pattern: str, format: str | None, source: Readable) -> None:
        self.capture = capture
        self.plan = plan
        self.pattern = pattern
        self.format = format
        self.source = source
        self.by_path: dict[str, Output] = {}
        self.open: OrderedDict[str, Output] = OrderedDict()
        self.section: list[tuple[bytes, bool]] = []  # blocks a file begun now must start with
        self.recent: list[tuple[bytes, bool]] = []  # other blocks, that came with the batch in hand
        self.carry = (format or capture.decoder.format) == capture.decoder.format == "pcapng"

    def path(self, vni: int | None, src: bytes | None, dst: bytes | None) -> str:
        """The pattern, filled in. Addresses are written without what file systems dislike (``:`` becomes ``-``)."""
        return self.pattern.format(
            vni="other" if vni is None else vni,
            src="other" if src is None else format_ip(src).replace(":", "-"),
            dst="other" if dst is None else format_ip(dst).replace(":", "-"),
        )

    def get(self, path: str) -> Output:
        """The output of that path, open."""
        output = self.by_path.get(path)
        if output is None:
            if len(self.by_path) == OUTPUTS_MAX:
                raise SpecError(f"more than {OUTPUTS_MAX} files: {path} would be one more (--vni chooses)")
            sink = open_sink(path, input_paths=(self.source,))
            try:
                encoder = make_encoder(self.plan, self.capture, self.format)
                for block, big in (*self.section, *self.recent):
                    encoder.carry_block(block, big)
            except BaseException:
                sink.abort()
                raise
            output = self.by_path[path] = Output(path, encoder, sink)
        self.open[path] = output
        self.open.move_to_end(path)
        if len(self.open) > OPEN_MAX:
            self.open.popitem(last=False)[1].rest()
        return output

    def take_blocks(self, batch: PacketBatch) -> None:
        """Blocks that are no packets go to every file; a file begun later starts with its section and interfaces."""
        if not self.carry:
            return
        big = self.capture.decoder.big_endian
        self.recent.clear()
        for block in batch.blocks():
            if block[:4] == _BLOCK_SHB:
                self.section.clear()
            if block[:4] in (_BLOCK_SHB, (1).to_bytes(4, "big" if big else "little")):
                self.section.append((block, big))
            else:
                self.recent.append((block, big))
            for output in list(self.by_path.values()):
                if output.path not in self.open:
                    self.get(output.path)
                output.encoder.carry_block(block, big)

    def write(self, path: str, batch: PacketBatch, first: int, end: int) -> None:
        """Rows of the batch's leaving order to one file."""
        output = self.get(path)
        while (rest := output.encoder.encode(batch, first, end, blocks=False)) is not None:
            first = rest
            flush(output.encoder, output.sink)
        if output.encoder.full:
            flush(output.encoder, output.sink)

    def commit(self) -> None:
        """Give every file its name."""
        for output in self.by_path.values():
            flush(output.encoder, output.sink)
            output.sink.commit()

    def abort(self) -> None:
        """Leave no file behind."""
        for output in self.by_path.values():
            output.sink.abort()


def split_file(
    source: Readable,
    pattern: str | os.PathLike[str],
    *,
    ports: Iterable[int] = DEFAULT_PORTS,
    vni: VniSet = None,
    decap: bool = False,
    other: str = "drop",
    strict: bool = False,
    reassemble: bool = False,
    inner: str | None = None,
    outer: str | None = None,
    format: str | None = None,
    count: int | None = None,
    watch: Watch | None = None,
) -> tuple[Stats, dict[str, int]]:
    """Sort the VXLAN packets of a capture into files by ``pattern``, such as ``out-{vni}.pcap``.

    Packets stay as they are, or lose their VXLAN with ``decap``; those that are not VXLAN go to the file of the name
    "other" with ``other="keep"``. The rest is as for ``decap_file``. Returns what was done, and packets by path.
    """
    pattern = os.fspath(pattern)
    check_pattern(pattern)
    if format is not None and format not in FORMATS:
        raise SpecError(f"format {format!r}: {', '.join(FORMATS)}")
    plan = decap_plan(
        ports=ports, vni=vni, other=other, strict=strict, reassemble=reassemble, inner=inner, outer=outer,
        peek=not decap,
    )  # fmt: skip
    plan.verb = "split"
    survey = Survey(TunnelTable(limit=OUTPUTS_MAX))
    began = monotonic()
    interrupted = False
    with open_capture(source, count=count) as capture:
        batch = capture.make_batch()
        try:
            filled = capture.fill(batch)
        except Interrupted:
            if capture.decoder.format is None:
                raise
            filled, interrupted = 0, True
        outputs = Outputs(capture, plan, pattern, format, source)
        make_encoder(plan, capture, format)  # an input of no known format ends here, before there is a file
        paths = [outputs.path(None, None, None)]  # by number of the output; 0: what is not VXLAN
        numbers = {paths[0]: -1}  # of the outputs, as assign_ports() takes them
        outs: list[int] = []  # the same by tunnel: several may share an output, in the order of the input
        packets = 0
        try:
            while filled:
                for step in plan.steps:
                    step(batch, packets)
                survey.process(batch, number=True)
                for row in survey.table.rows(len(outs)):
                    if row["src"] is None:
                        raise SpecError(f"more than {OUTPUTS_MAX} pairs of VTEPs and VNIs (--vni chooses)")
                    path = outputs.path(row["vni"], row["src"], row["dst"])
                    if path not in numbers:
                        numbers[path] = len(paths) - 1
                        paths.append(path)
                    outs.append(numbers[path])
                batch.assign_ports(outs)
                outputs.take_blocks(batch)
                for number, first, end in batch.group_by_port(plan.leave):
                    outputs.write(paths[number], batch, first, end)
                packets += len(batch)
                if watch is not None and watch(packets, capture.source.position(), capture.source.size):
                    interrupted = True
                    break
                try:
                    filled = capture.fill(batch)
                except Interrupted:
                    interrupted = True
                    break
            outputs.commit()
        except BaseException:
            outputs.abort()
            raise
        stats = collect(
            [plan], capture, [output.encoder for output in outputs.by_path.values()], interrupted, monotonic() - began
        )
    written = {path: output.encoder.rows for path, output in sorted(outputs.by_path.items())}
    stats = replace(stats, files=written)
    if stats.fault is not None:
        offset = capture.decoder.offset
        raise CaptureError(stats.fault, path=capture.name, offset=offset, stats=stats)
    return stats, written
