"""A capture through a plane: packets enter at ports, time is the capture's, and what leaves says by which port."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.io.writer import CaptureEncoder
from vxlanfast._ext.verdict import SENTENCES
from vxlanfast.capture import Capture, append, flush, open_capture
from vxlanfast.dataplane import Dataplane
from vxlanfast.errors import CaptureError, Interrupted, SpecError
from vxlanfast.explain import Decision, as_comments
from vxlanfast.network_spec import UNDERLAY
from vxlanfast.plane_stats import PlaneStats
from vxlanfast.sink import Sink, open_sink

if TYPE_CHECKING:
    from vxlanfast.ends import Readable, Writable
    from vxlanfast.files import Watch

ETHERNET = 1
SNAPLEN = 262144
#: Of pcapng (§4.2): a section header, an interface description, and the option that has an interface's name.
_SECTION, _INTERFACE, _IF_NAME = 0x0A0D0D0A, 1, 2
#: No port has this number.
_NOWHERE = 0xFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What came of a replay. ``packets``: read; ``stats``: the plane's account; ``written``: rows in the output."""

    packets: int
    written: int
    stats: PlaneStats
    interrupted: bool = False
    warnings: tuple[str, ...] = ()

    def summary(self) -> str:
        """One line: ``10 packets read, 8 passed (2 flooded into 6 copies), 12 written, 2 dropped (2 …)``."""
        s = self.stats
        passed = f"{s.passed:,} passed"
        if s.flooded:
            passed += f" ({s.flooded:,} flooded into {s.copies:,} copies)"
        parts = [f"{self.packets:,} packet{'' if self.packets == 1 else 's'} read", passed, f"{s.sent:,} sent"]
        for word, drops in (("dropped", s.drops), ("dropped on the way out", s.send_drops)):
            if drops:
                told = sorted(drops.items(), key=lambda item: -item[1])
                reasons = "; ".join(f"{number:,} {SENTENCES[verdict]}" for verdict, number in told)
                parts.append(f"{sum(drops.values()):,} {word} ({reasons})")
        return ", ".join(parts) + (" [interrupted]" if self.interrupted else "")


class Entrances:
    """Which port the packets of each interface of a capture enter at.

    ``given``: an interface's name or number to a port's name; "" stands for every interface. Else an interface that is
    called like a port is that port, and the first of a capture is the underlay (how many follow is not known before its
    end). SpecError: no such port.
    """

    #: Interfaces that warnings name; a capture may have any number of them.
    NAMED = 16

    def __init__(self, plane: Dataplane, given: Mapping[str, str]) -> None:
        self.known = plane.ports
        self.given = {key: plane.number_of(name) for key, name in given.items()}
        self.names: list[str | None] = []  # of the section's interfaces
        self.ports: list[int] = []  # by interface; empty: to be found out again
        self.lost: dict[str, int] = {}  # packets of interfaces that are no port

    def enter(self, capture: Capture, batch: PacketBatch) -> None:
        """Give the rows of a batch their ports."""
        for block in batch.blocks():
            self._note(block, "big" if capture.decoder.big_endian else "little")
        if not self.ports:
            count = max(1, len(self.names) or len(capture.decoder.interfaces()))
            self.ports = [self._port(number) for number in range(count)]
            self.all_known = _NOWHERE not in self.ports
        if not self.all_known:
            for number in list(batch.port_in):
                if self.ports[number] == _NOWHERE:
                    self._lose(number)
        batch.enter_by(self.ports)

    def _note(self, block: bytes, order: str) -> None:
        kind = _number(block, 0, 4, order)
        if kind == _SECTION:
            self.names, self.ports = [], []
        elif kind == _INTERFACE:
            self.names.append(_option(block[16:-4], _IF_NAME, order))
            self.ports = []

    def _lose(self, number: int) -> None:
        name = self.names[number] if number < len(self.names) else None
        shown = str(number) if name is None else f"{number} ({name})"
        if shown not in self.lost and len(self.lost) >= self.NAMED:
            shown = ""
        self.lost[shown] = self.lost.get(shown, 0) + 1

    def _port(self, number: int) -> int:
        name = self.names[number] if number < len(self.names) else None
        for key in (str(number), name, ""):
            if key is not None and key in self.given:
                return self.given[key]
        if name is not None and name in self.known:
            return self.known[name]
        return _NOWHERE if number else self.known[UNDERLAY]

    def warnings(self) -> list[str]:
        """A sentence for each interface whose packets found no entrance."""
        return [
            f"interface {name} is no port, and its {number:,} packets were dropped;"
            f" --port {name.split()[0]}=NAME says which"
            if name
            else f"{number:,} packets of further interfaces that are no ports were dropped"
            for name, number in self.lost.items()
        ]


def _number(block: bytes, at: int, size: int, order: str) -> int:
    return int.from_bytes(block[at : at + size], "big" if order == "big" else "little")


def _option(options: bytes, wanted: int, order: str) -> str | None:
    """The text of an option; None where there is none, or what stands there is none."""
    at = 0
    while at + 4 <= len(options):
        code, size = _number(options, at, 2, order), _number(options, at + 2, 2, order)
        if code == 0 or at + 4 + size > len(options):
            return None
        if code == wanted:
            return options[at + 4 : at + 4 + size].rstrip(b"\0").decode("utf-8", "replace")
        at += 4 + size + (-size & 3)
    return None


def replay_file(
    plane: Dataplane,
    source: Readable,
    target: Writable | None = None,
    *,
    port: str | Mapping[str, str] | None = None,
    explain: Callable[[Decision], object] | None = None,
    meta: str = "none",
    count: int | None = None,
    watch: Watch | None = None,
) -> Replayed:
    """Take a capture through ``plane``; what leaves is written to ``target``: pcapng, with an interface for each port.

    ``port``: where packets enter: one port for all, or ports by the names or numbers of the capture's interfaces (see
    ``Entrances``). ``explain`` is called for every row that leaves or is dropped. ``meta="comment"``: the reasons stand
    in the output as comments. ``target`` None: nothing is written. CaptureError, with what was done until then in
    ``.stats``: the capture is broken; what was whole before that is delivered.
    """
    if meta not in ("none", "comment"):
        raise SpecError(f"meta = {meta!r}: none or comment")
    given = {} if port is None else {"": port} if isinstance(port, str) else dict(port)
    entrances = Entrances(plane, given)
    with open_capture(source, count=count) as capture:
        sink = None if target is None else open_sink(target, input_paths=(source,))
        try:
            encoder = _encoder(plane) if sink is not None else None
            interrupted = _run(plane, capture, entrances, sink, encoder, explain, meta == "comment", watch)
            if sink is not None and encoder is not None:
                flush(encoder, sink)
                sink.commit()
        except BaseException:
            if sink is not None:
                sink.abort()
            raise
        remarks = entrances.warnings()
        if sink is not None and ".pcapng" not in sink.name and ".pcap" in sink.name:
            remarks.append(f"{sink.name} is written as pcapng, which has an interface for each port")
        done = Replayed(
            packets=capture.decoder.rows, written=0 if encoder is None else encoder.rows, stats=plane.stats(),
            interrupted=interrupted, warnings=tuple(remarks),
        )  # fmt: skip
        if capture.fault is not None:
            offset = capture.decoder.offset
            raise CaptureError(capture.fault, path=capture.name, offset=offset, stats=done)
    return done


def _encoder(plane: Dataplane) -> CaptureEncoder:
    """The encoder of a capture with an interface for each port, in their order."""
    encoder = CaptureEncoder("pcapng")
    encoder.begin([])
    for name in plane.port_names:
        encoder.add_interface(ETHERNET, snaplen=SNAPLEN, tsresol=9, options=((_IF_NAME, name.encode()),))
    return encoder


def _run(
    plane: Dataplane,
    capture: Capture,
    entrances: Entrances,
    sink: Sink | None,
    encoder: CaptureEncoder | None,
    explain: Callable[[Decision], object] | None,
    comments: bool,
    watch: Watch | None,
) -> bool:
    """True where ``watch`` stopped it."""
    batch, packets = capture.make_batch(), 0
    live = capture.source.is_live or (sink is not None and sink.is_live)
    while True:
        try:
            filled = capture.fill(batch)
        except Interrupted:
            return True
        if not filled:
            return False
        entrances.enter(capture, batch)
        rows = len(batch)
        if explain is not None or comments:
            decisions = plane.explain(batch, first=packets + 1)
            if comments:
                batch.note(as_comments(decisions, batch))
            if explain is not None:
                for decision in decisions:
                    explain(decision)
        else:
            plane.process(batch)
        packets += rows
        if sink is not None and encoder is not None:
            batch.leave_by_ports()
            append(encoder, sink, batch, flush=live)
        if watch is not None and watch(packets, capture.source.position(), capture.source.size):
            return True
