"""The thread that forwards: waits for packets, takes them through the plane, and sends what leaves; whole batches."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Lock, RLock, Thread

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
    """Owns the loop, not the edges. ``lock`` is held while a batch is worked on: whoever touches the plane takes it;
    whoever changes ports or edges does so while it is ``paused``.

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
        self._injected: deque[tuple[str, list[bytes]]] = deque()
        self._gate = RLock()  # held while anything is in hand, from before it is read until after it is sent
        self._pausing = Lock()
        self._pauses = 0
        self._on = Event()
        self._on.set()
        self._ticked_ns = 0
        self._stopping = False
        self._thread = Thread(target=self._main, name="forward", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End behind the batch in hand, and wait for it."""
        self._stopping = True
        self._on.set()
        self.poller.wake()
        if self._thread.is_alive():
            self._thread.join()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is in hand, no edge is read, and ``lock`` is held: ports may get other numbers, edges may go. Packets
        wait meanwhile. May be nested; not to be entered with ``lock`` held, which the thread may be waiting for."""
        with self._pausing:
            self._pauses += 1
            self._on.clear()
        self.poller.wake()
        try:
            with self._gate, self.lock:
                yield
        finally:
            with self._pausing:
                self._pauses -= 1
                if not self._pauses:
                    self._on.set()

    def set_edges(self, edges: list[tuple[int, LiveEdge, bool]]) -> None:
        """What packets come and go by: (port number, edge, whether it is sent by). Replaces all that were there."""
        with self.paused():
            self.poller.clear()
            self._queues = {}
            for port, edge, sends in edges:
                if isinstance(edge, QueueEdge):
                    self._queues[port] = edge
                self.poller.add(port, edge, send=sends)
        self.poller.wake()

    def inject(self, port: str, frames: list[bytes]) -> None:
        """They enter the plane as if they had come by that port. Thread-safe; too many are dropped and counted, and so
        are those of a port that there is not."""
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
        batch = live_batch()
        while not self._stopping:
            self._on.wait()
            with self._gate:
                self._turn(batch)

    def _turn(self, batch: PacketBatch) -> None:
        """Once round: all that is taken in hand is out of it behind this."""
        rows, now_ns, failed = self.poller.wait(batch, TICK_MS, self.busy_poll_us)
        self.now_ns = now_ns
        if rows:
            with self.lock:
                self.plane.process(batch)
                self.poller.send(batch)
            self.batches += 1
            if self.plane.not_udp != self._not_udp:
                self._punt(batch, now_ns)
        if now_ns - self._ticked_ns >= TICK_MS * 1_000_000:
            self._ticked_ns = now_ns
            self._tick(now_ns)
        if self._injected:
            self._take_injected(now_ns)
        if self._queues:
            self._hand_over()
        if failed and self._on_broken is not None:
            self._on_broken(self.poller.broken())

    def _take_injected(self, now_ns: int) -> None:
        with self.lock:
            numbers = self.plane.ports
            while self._injected:
                port, frames = self._injected.popleft()
                if port not in numbers:
                    self.inject_drops += len(frames)
                    continue
                extra = PacketBatch.from_frames(frames, ts_ns=now_ns, port_in=numbers[port])
                self.poller.send(self.plane.process(extra))

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
