"""The thread that forwards: waits for packets, takes them through the plane, and sends what leaves; whole batches."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import RLock, Thread

from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.io.edge import LiveEdge
from vxlanfast._ext.io.poller import Poller, live_batch
from vxlanfast._ext.io.queue import QueueEdge
from vxlanfast._ext.verdict import Verdict
from vxlanfast.dataplane import Dataplane

#: Between looks at timers, where no packet comes.
TICK_MS = 250
#: Lists of frames that may wait to be injected.
INJECT_MAX = 1024
#: Of packets that are no UDP, so many of a batch are looked at, so many bytes of each, and no other batch for so long.
PUNT_MAX, PUNT_LEN, PUNT_NS = 8, 256, 5_000_000


class Forwarder:
    """Owns the loop, not the edges. ``lock`` is held while a batch is worked on: whoever touches the plane takes it.

    ``on_queue`` is called, in this thread and without the lock, with the port's name and (place it came from, frame) of
    those that a QueueEdge took; ``on_punted`` with packets of the underlay that are no UDP; ``on_broken`` with the
    ports whose edge a read ended; ``on_crash`` if the loop dies.
    """

    def __init__(
        self,
        plane: Dataplane,
        *,
        cpu: int = -1,
        busy_poll_us: int = 0,
        on_queue: Callable[[str, list[tuple[tuple[int, str], bytes]]], None] | None = None,
        on_broken: Callable[[list[tuple[int, LiveEdge]]], None] | None = None,
        on_crash: Callable[[BaseException], None] | None = None,
        on_punted: Callable[[list[bytes]], None] | None = None,
    ) -> None:
        self.plane = plane
        self.lock = RLock()
        self.poller = Poller()
        self.cpu = cpu
        self.busy_poll_us = busy_poll_us
        self.batches = 0
        self.ticks = 0
        self.now_ns = 0
        self.inject_drops = 0
        self._on_queue = on_queue
        self._on_broken = on_broken
        self._on_crash = on_crash
        self._on_punted = on_punted
        self._not_udp = 0
        self._punted_ns = 0
        self._queues: dict[int, QueueEdge] = {}
        self._injected: deque[tuple[int, list[bytes]]] = deque()
        self._stopping = False
        self._thread = Thread(target=self._main, name="forward", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End behind the batch in hand, and wait for it."""
        self._stopping = True
        self.poller.wake()
        if self._thread.is_alive():
            self._thread.join()

    def set_edges(self, edges: list[tuple[int, LiveEdge, bool]]) -> None:
        """What packets come and go by: (port number, edge, whether it is sent by). Replaces all that were there."""
        with self.lock:
            self.poller.clear()
            self._queues = {}
            for port, edge, sends in edges:
                if isinstance(edge, QueueEdge):
                    self._queues[port] = edge
                self.poller.add(port, edge, send=sends)
        self.poller.wake()

    def inject(self, port: int, frames: list[bytes]) -> None:
        """They enter the plane as if they had come by that port. Thread-safe; too many are dropped and counted."""
        if len(self._injected) >= INJECT_MAX:
            self.inject_drops += len(frames)
            return
        self._injected.append((port, frames))
        self.poller.wake()

    def _main(self) -> None:
        try:
            if self.cpu >= 0:
                with suppress(OSError):
                    os.sched_setaffinity(0, {self.cpu})
            self._loop()
        except BaseException as error:
            if self._on_crash is None:
                raise
            self._on_crash(error)

    def _loop(self) -> None:
        batch, poller, lock = live_batch(), self.poller, self.lock
        ticked = 0
        while not self._stopping:
            rows, now_ns, failed = poller.wait(batch, TICK_MS, self.busy_poll_us)
            self.now_ns = now_ns
            if rows:
                with lock:
                    self.plane.process(batch)
                    poller.send(batch)
                self.batches += 1
                if self.plane.not_udp != self._not_udp:
                    self._punt(batch, now_ns)
            if now_ns - ticked >= TICK_MS * 1_000_000:
                ticked = now_ns
                self._tick(now_ns)
            while self._injected:
                port, frames = self._injected.popleft()
                with lock:
                    extra = PacketBatch.from_frames(frames, ts_ns=now_ns, port_in=port)
                    poller.send(self.plane.process(extra))
            if self._queues:
                self._hand_over()
            if failed and self._on_broken is not None:
                self._on_broken(poller.broken())

    def _tick(self, now_ns: int) -> None:
        """Timers of connections, where packets do not drive them."""
        self.ticks += 1
        with self.lock:
            extra = self.plane.tick(now_ns)
            if len(extra):
                self.poller.send(extra)

    def _punt(self, batch: PacketBatch, now_ns: int) -> None:
        """Packets of the underlay that are no UDP: a few, now and then, are looked at."""
        self._not_udp = self.plane.not_udp
        if self._on_punted is None or now_ns - self._punted_ns < PUNT_NS:
            return
        self._punted_ns = now_ns
        rows = [i for i, verdict in enumerate(batch.verdict.tolist()) if verdict == Verdict.PUNT_NOT_UDP]
        self._on_punted([bytes(batch.frame(i))[:PUNT_LEN] for i in rows[:PUNT_MAX]])

    def _hand_over(self) -> None:
        for port, queue in self._queues.items():
            if len(queue):
                with self.lock:
                    places = self.plane.place_names()
                    name = self.plane.port_names[port]
                    taken = [(places.get(origin, (-1, "")), frame) for origin, frame in queue.take()]
                if self._on_queue is not None:
                    self._on_queue(name, taken)
