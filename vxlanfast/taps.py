"""What passes through a running plane, copied for whoever watches it: live captures, each with a bound on memory.

The thread that forwards copies rows and goes on; names, comments, filters and encoding are the work of whoever takes
the capture (``Tap.take``). Who takes too slowly loses rows, which are counted.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections import deque
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import repeat

from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.io.writer import CaptureEncoder
from vxlanfast._ext.verdict import RULES, SENTENCES, Rule, Verdict
from vxlanfast.addr import VNI_MAX
from vxlanfast.checks import among, rule_error
from vxlanfast.dataplane import Dataplane
from vxlanfast.errors import SpecError
from vxlanfast.filters import PacketFilter
from vxlanfast.hops import inner_at
from vxlanfast.network_spec import UNDERLAY
from vxlanfast.plane_stats import Place

#: ``outer``: packets of the underlay as they come and go. ``inner``: frames of networks as they enter by ports or out
#: of tunnels. ``before``, ``after``: services and routing. ``dropped``: as they were when it was decided.
STAGES = ("outer", "inner", "before", "after", "dropped")
#: Of a plane's watcher (see ``compiled.STAGES``): what is taken there, by the name of the stage for people.
_TAKEN = {
    "came": ("outer",), "inner": ("inner",), "before": ("before",), "after": ("after",), "went": ("outer", "dropped"),
}  # fmt: skip
SNAPLEN = 262144
#: Bytes of copies that wait for one capture, and captures at a time.
HELD_MAX = 16 << 20
TAPS_MAX = 8
#: Bytes of a capture given out at a time.
PIECE_LEN = 1 << 18
#: Bytes that are copied at least: outer headers and the VNI are in them.
CUT_MIN = 128
#: Kinds of rows that are remembered.
KINDS_MAX = 1 << 14
_IF_NAME = 2
_LEFT_OUT = int(Verdict.DROP_FILTER_INNER)


@dataclass(frozen=True, slots=True, kw_only=True)
class TapSpec:
    """What to capture: ``stages``; of ``vnis`` (ranges; none: any); what came by ``port`` or goes to it; what a tcpdump
    ``expression`` takes; ``count`` rows at most (0: no end), ``snaplen`` bytes of each."""

    stages: tuple[str, ...] = ("inner",)
    vnis: tuple[tuple[int, int], ...] = ()
    port: str | None = None
    expression: str = ""
    count: int = 0
    snaplen: int = SNAPLEN

    def __post_init__(self) -> None:
        for stage in self.stages:
            if stage not in STAGES:
                raise rule_error("stage", stage, ", ".join(STAGES))
        if not self.stages:
            raise rule_error("stage", [], ", ".join(STAGES))
        among("count", self.count, 0, 1 << 62)
        among("snaplen", self.snaplen, 1, SNAPLEN)

    def wants(self, vni: int) -> bool:
        """Whether a VNI is among those asked for."""
        return not self.vnis or any(first <= vni <= last for first, last in self.vnis)


@dataclass(frozen=True, slots=True)
class _World:
    """What numbers in batches mean, under one spec."""

    ports: tuple[str, ...]
    places: Mapping[int, Place]
    nets: tuple[int, ...] | None  # None: any


@dataclass(frozen=True, slots=True)
class _Way:
    """The port a row came by; where it came from and goes to, as far as that is known."""

    port: str
    origin: Place | None
    dest: Place | None


@dataclass(frozen=True, slots=True)
class _Kind:
    """Rows that are alike: the port that they came by, whether they are wanted, their comment and their interface."""

    port: str
    wanted: bool
    note: str
    interface: int


#: Stage and direction; port_in, origin, dest, rule, verdict and link of a row.
_Key = tuple[tuple[str, bool], int, int, int, int, int, int]


class Tap:
    """One capture: ``offer`` copies (the thread that forwards), ``take`` gives pcapng (another one)."""

    def __init__(self, spec: TapSpec, *, offset_ns: int = 0) -> None:
        self.spec = spec
        self.offset_ns = offset_ns  # from the plane's time to that since 1970
        self.lost = 0  # rows for which there was no room
        self.done = False
        self._filter = PacketFilter(spec.expression, _LEFT_OUT) if spec.expression else None
        self._queue: deque[tuple[str, bool, PacketBatch, _World]] = deque()
        self._held = 0
        self._changed = threading.Condition()
        self._kinds: dict[_Key, _Kind] = {}
        self._world: _World | None = None
        self._interfaces: dict[tuple[str, int], int] = {}
        self._encoder = CaptureEncoder("pcapng")
        self._encoder.begin([])

    @property
    def rows(self) -> int:
        """Rows that were captured."""
        return self._encoder.rows

    # --- in the thread that forwards --------------------------------------------------------------------

    def offer(self, at: str, batch: PacketBatch, world: _World) -> None:
        """Copy what is wanted at a stage of the plane."""
        for stage in _TAKEN[at]:
            if stage in self.spec.stages and not self.done:
                self._copy(stage, at, batch, world)

    def _copy(self, stage: str, at: str, batch: PacketBatch, world: _World) -> None:
        outward = stage == "outer" and at == "went"
        port_in = 0 if stage == "outer" and not outward else -1
        port_out = 0 if outward else -1
        nets = None if port_in == 0 else world.nets  # of what came from the underlay none is known yet
        full = self._held >= HELD_MAX
        snaplen = 0 if full else SNAPLEN if self._filter is not None else max(self.spec.snaplen, CUT_MIN)
        rows = batch.pick(
            dropped=stage == "dropped", port_in=port_in, port_out=port_out,
            nets=None if stage == "dropped" else nets, snaplen=snaplen,
        )  # fmt: skip
        if rows is None:
            return
        with self._changed:
            if full:
                self.lost += len(rows)
            else:
                self._held += rows.memory
                self._queue.append((stage, outward, rows, world))
                self._changed.notify()

    def stop(self) -> None:
        """No more is copied; what waits can still be taken."""
        self.done = True
        with self._changed:
            self._changed.notify()

    # --- in the thread of whoever takes it --------------------------------------------------------------

    def take(self, timeout_s: float) -> bytes | None:
        """The next bytes of the capture, none where nothing came in time; None: that was all. FilterError: the
        expression has no meaning for what passes."""
        out = bytearray()
        while len(out) < PIECE_LEN:
            with self._changed:
                if not self._queue and not out and not self.done and not self._encoder.pending():
                    self._changed.wait(timeout_s)
                if not self._queue:
                    break
                stage, outward, rows, world = self._queue.popleft()
                self._held -= rows.memory
            self._encode(stage, outward, rows, world)
            self._drain(out)
            time.sleep(0)  # whoever forwards gets the interpreter now, and not some milliseconds later
        self._drain(out)
        return bytes(out) if out or not self.done or self._queue else None

    def _drain(self, out: bytearray) -> None:
        out += self._encoder.pending()
        self._encoder.clear()

    def _encode(self, stage: str, outward: bool, copies: PacketBatch, world: _World) -> None:
        """What was copied at a stage: named, explained, filtered, cut. By kinds of rows, of which there are few."""
        if world is not self._world or len(self._kinds) > KINDS_MAX:
            self._kinds, self._world = {}, world
        kinds = [
            self._kinds.get(key) or self._kind(key)
            for key in zip(
                repeat((stage, outward)), copies.port_in, copies.origin, copies.dest, copies.rule, copies.verdict,
                copies.link, strict=False,
            )
        ]  # fmt: skip
        by_frame = self.spec.vnis and stage in ("outer", "dropped")
        flags = bytes(
            0 if kind.wanted and not (by_frame and not self._is_of(stage, copies, i, kind)) else _LEFT_OUT
            for i, kind in enumerate(kinds)
        )
        with copies.verdict as verdict:
            verdict[:] = flags
        if self._filter is not None:
            self._filter.process(copies)
        rows = copies
        if self._filter is not None or any(flags) or self.spec.snaplen < CUT_MIN:
            kept = copies.passed()
            picked = copies.pick(snaplen=self.spec.snaplen)
            if picked is None:
                return
            rows, kinds = picked, [kinds[i] for i in kept]
        texts = list(dict.fromkeys(kind.note for kind in kinds))
        which = {text: number for number, text in enumerate(texts)}
        rows.note_by(texts, array("I", [which[kind.note] for kind in kinds]))
        with rows.port_out as out:
            out[:] = array("H", [kind.interface for kind in kinds])
        if self.offset_ns:
            with rows.ts_ns as times:
                times[:] = array("q", [ts_ns + self.offset_ns for ts_ns in times])
        rows.leave_by_ports()
        self._write(rows)

    def _kind(self, key: _Key) -> _Kind:
        """What is said of rows that are alike, and where they go."""
        (stage, outward), port_in, origin, dest, rule, verdict, link = key
        world = self._world
        assert world is not None
        port = world.ports[port_in] if port_in < len(world.ports) else "?"
        sure = stage != "dropped" and (stage != "outer" or outward)  # else nobody may have said whence and where
        way = _Way(port, world.places.get(origin) if sure else None, world.places.get(dest) if sure else None)
        places = [place[1] for place in (way.origin, way.dest) if place]
        wanted = self.spec.port is None or self.spec.port in (port, *places)
        note = ""
        if stage == "dropped":
            note = _why_dropped(way, verdict)
        elif stage == "inner":
            note = port if way.origin is None else way.origin[1]
            if way.origin is not None and way.origin[0] <= VNI_MAX:  # a lan has no VNI
                note += f", vni {way.origin[0]}"
        elif sure:
            note = _why_sent(way, rule)
        name = f"{'out' if outward else 'in'} {UNDERLAY}" if stage == "outer" else port
        kind = _Kind(port, wanted, note, self._interface(f"{stage} {name}", link) if wanted else 0)
        self._kinds[key] = kind
        return kind

    def _is_of(self, stage: str, rows: PacketBatch, i: int, kind: _Kind) -> bool:
        """Whether a packet with its outer headers, or one that was dropped, is of a VNI that is asked for."""
        frame = bytes(rows.frame(i)[:256])
        at = inner_at(frame) if kind.port == UNDERLAY or stage == "outer" else None
        return self.spec.wants(rows.vni[i] if at is None else int.from_bytes(frame[at - 4 : at - 1]))

    def _write(self, rows: PacketBatch) -> None:
        encoder, count = self._encoder, self.spec.count
        end = len(rows)
        if count and encoder.rows + end >= count:
            end = count - encoder.rows
            self.done = True
        at: int | None = 0
        while (at := encoder.encode(rows, at or 0, end)) is not None:
            encoder.grow()
        if self.done and count and encoder.rows >= count:
            with self._changed:
                self._queue.clear()

    def _interface(self, name: str, link: int) -> int:
        number = self._interfaces.get((name, link))
        if number is None:
            number = self._encoder.add_interface(
                link, snaplen=self.spec.snaplen, tsresol=9, options=((_IF_NAME, name.encode()),)
            )
            self._interfaces[name, link] = number
        return number


def _why_sent(way: _Way, rule: int) -> str:
    first = way.port if way.origin is None else way.origin[1]
    to = "" if way.dest is None else f" -> {way.dest[1]}"
    return f"{first}{to}: {RULES[Rule(rule)]}" if rule and rule in RULES else f"{first}{to}"


def _why_dropped(way: _Way, verdict: int) -> str:
    if verdict not in SENTENCES:
        return f"{way.port} dropped"
    known = Verdict(verdict)
    return f"{way.port} dropped: {SENTENCES[known]} [{known.name}]"


class Taps:
    """The captures of a plane: its watcher while there is one."""

    def __init__(self, plane: Dataplane, lock: AbstractContextManager[object]) -> None:
        self._plane = plane
        self._lock = lock
        self._taps: tuple[Tap, ...] = ()
        self._spec: object = None
        self._worlds: dict[Tap, _World] = {}
        self.faults = 0

    def __len__(self) -> int:
        return len(self._taps)

    def add(self, tap: Tap) -> None:
        """Begin. SpecError: there are too many, or no such port."""
        with self._lock:
            if len(self._taps) >= TAPS_MAX:
                raise SpecError(f"captures: {TAPS_MAX} run already, which is the limit; end one of them")
            if tap.spec.port is not None:
                self._plane.number_of(tap.spec.port)
            self._taps += (tap,)
            self._spec = None
            self._plane.watch = self

    def remove(self, tap: Tap) -> None:
        """End. Twice is once."""
        tap.stop()
        with self._lock:
            self._taps = tuple(one for one in self._taps if one is not tap)
            self._worlds.pop(tap, None)
            if not self._taps:
                self._plane.watch = None

    def close(self) -> None:
        """End all."""
        for tap in self._taps:
            self.remove(tap)

    def __call__(self, at: str, batch: PacketBatch) -> None:
        """As the plane's watcher, in the thread that forwards. It raises nothing: a capture is worth no packet."""
        try:
            if self._plane.spec is not self._spec:
                self._learn()
            for tap in self._taps:
                tap.offer(at, batch, self._worlds[tap])
        except Exception:  # MemoryError, above all
            self.faults += 1

    def _learn(self) -> None:
        spec = self._plane.spec
        ports, places = self._plane.port_names, self._plane.place_names()
        for tap in self._taps:
            nets = None
            if tap.spec.vnis:
                nets = tuple(self._plane.net_number(n.vni) for n in spec.network if tap.spec.wants(n.vni))
            self._worlds[tap] = _World(ports, places, nets)
        self._spec = spec
