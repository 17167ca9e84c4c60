"""Frames of several captures and changes of the configuration, in the order of their times, through one plane.

What a director saw on its interfaces, what was done to it and when: in. What it would have sent, by which port, and
which server each connection got: out. For finding out, and for tests against a kernel's own captures; ``replay`` is
for files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from heapq import merge
from itertools import groupby
from typing import TYPE_CHECKING

from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.verdict import Rule, Verdict
from vxlanfast.capture import open_capture

if TYPE_CHECKING:
    from vxlanfast.dataplane import Dataplane
    from vxlanfast.ends import Readable

#: A change of the configuration: when, and what is done.
Change = tuple[int, Callable[["Dataplane"], object]]
#: A frame: when, by which port, and its bytes.
Arrival = tuple[int, str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """What became of a frame, or one of several things. ``ts_ns``, ``port_in``, ``number`` (of its port, from 1 on):
    the frame that it came of. ``port`` None: dropped, for ``verdict``. ``conn``: the number of its connection, None
    for none."""

    ts_ns: int
    port_in: str
    number: int
    verdict: Verdict
    rule: Rule
    port: str | None
    frame: bytes
    conn: int | None


def arrivals(port: str, source: Readable, keep: Callable[[bytes], bool] | None = None) -> Iterator[Arrival]:
    """The frames of a capture (those that ``keep`` says yes to), as arrivals by one port."""
    with open_capture(source) as capture:
        for batch in capture.batches():
            for i in range(len(batch)):
                frame = bytes(batch.frame(i))
                if keep is None or keep(frame):
                    yield batch.ts_ns[i], port, frame


def replay_timed(
    plane: Dataplane, frames: Iterable[Arrival] | Mapping[str, Iterable[Arrival]], changes: Iterable[Change] = ()
) -> Iterator[Departure]:
    """Frames through ``plane`` at their times, each change at its own: before the frames that came at that time or
    later.

    ``frames``: in the order of their times, or several such by any key.
    """
    streams = list(frames.values()) if isinstance(frames, Mapping) else [frames]
    waiting = iter(sorted(changes, key=lambda change: change[0]))
    due = next(waiting, None)
    ports = plane.ports
    seen = dict.fromkeys(ports, 0)
    for when, group in groupby(merge(*streams, key=lambda arrival: arrival[0]), key=lambda arrival: arrival[0]):
        while due is not None and due[0] <= when:
            due[1](plane)
            due = next(waiting, None)
        for _, port, frame in group:
            seen[port] += 1
            batch = PacketBatch.from_frames([frame], ts_ns=when, port_in=ports[port])
            plane.process(batch)
            yield from _departures(plane, batch, when, port, seen[port])
    while due is not None:
        due[1](plane)
        due = next(waiting, None)


def _departures(plane: Dataplane, batch: PacketBatch, when: int, port: str, number: int) -> Iterator[Departure]:
    leaving = set(batch.passed())
    for i in range(len(batch)):
        conn = batch.conn[i]
        yield Departure(
            ts_ns=when, port_in=port, number=number, verdict=Verdict(batch.verdict[i]), rule=Rule(batch.rule[i]),
            port=plane.port_names[batch.port_out[i]] if i in leaving else None, frame=bytes(batch.frame(i)),
            conn=None if conn == 0xFFFFFFFF else conn >> 1,
        )  # fmt: skip
