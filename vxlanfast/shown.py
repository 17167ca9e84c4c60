"""What tables are printed of: a plane, or a running node's plane that is looked at a little at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from vxlanfast.dataplane import Dataplane
    from vxlanfast.node_spec import NodeSpec
    from vxlanfast.plane_stats import Place, PlaneStats

T = TypeVar("T")
#: Rows taken while the lock is held: well under a millisecond's worth.
PIECE = 256
#: Services, with their servers.
SERVICES = 8
#: Seconds between two pieces, in which whoever forwards gets lock and interpreter.
PAUSE_S = 0.0003


class Shown(Protocol):
    """What a table wants of a plane; ``Dataplane`` says what each is."""

    @property
    def spec(self) -> NodeSpec: ...
    @property
    def vteps(self) -> Mapping[Place, bool]: ...
    def stations(self) -> Iterator[dict[str, object]]: ...
    def neighbours(self) -> Iterator[dict[str, object]]: ...
    def memberships(self) -> Iterator[dict[str, object]]: ...
    def services(self) -> Iterator[dict[str, Any]]: ...
    def connections(self, now_ns: int | None = None) -> Iterator[dict[str, Any]]: ...
    def stats(self) -> PlaneStats: ...


class PlaneView:
    """A plane that forwards while its tables are read: each piece of one is taken under ``lock``.

    A table is not seen at one instant: what comes or goes meanwhile may be in it or not, or be there twice where a
    table moves its entries. ``now_ns``: the plane's time, for what is left of connections; None: of the last packet.
    """

    def __init__(self, plane: Dataplane, lock: AbstractContextManager[object], now_ns: int | None = None) -> None:
        self._plane = plane
        self._lock = lock
        self._now_ns = now_ns

    def _pieces(self, rows: Iterator[T], size: int = PIECE) -> Iterator[T]:
        while True:
            with self._lock:
                piece = list(islice(rows, size))
            yield from piece
            if len(piece) < size:
                return
            time.sleep(PAUSE_S)

    @property
    def spec(self) -> NodeSpec:
        return self._plane.spec

    @property
    def vteps(self) -> Mapping[Place, bool]:
        return self._plane.vteps  # made when a spec is compiled, and never changed

    def stations(self) -> Iterator[dict[str, object]]:
        return self._pieces(self._plane.stations())

    def neighbours(self) -> Iterator[dict[str, object]]:
        return self._pieces(self._plane.neighbours())

    def memberships(self) -> Iterator[dict[str, object]]:
        return self._pieces(self._plane.memberships())

    def services(self) -> Iterator[dict[str, Any]]:
        return self._pieces(self._plane.services(), SERVICES)

    def connections(self, now_ns: int | None = None) -> Iterator[dict[str, Any]]:
        return self._pieces(self._plane.connections(self._now_ns if now_ns is None else now_ns))

    def stats(self) -> PlaneStats:
        with self._lock:
            account = self._plane.counted()
        return account()
