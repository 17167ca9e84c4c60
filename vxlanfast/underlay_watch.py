"""Keeps an underlay in step with its machine: next hops, path MTUs, addresses that come and go."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from functools import partial

from vxlanfast.addr import format_ip, parse_ip
from vxlanfast.dataplane import Dataplane
from vxlanfast.errors import DeviceError, MissingLibraryError
from vxlanfast.links import LinkWatch
from vxlanfast.logs import Log
from vxlanfast.path_mtu import PathMtu, icmp_mtu, take_errors
from vxlanfast.underlay import SocketUnderlay, Underlay
from vxlanfast.underlay_packet import PacketUnderlay

#: Seconds between looks at the kernel's tables, at least; and while a next hop is being found.
LOOK_S, SOON_S = 1.0, 0.1
#: Of the time, looks take a part of so many at most.
SHARE = 20
#: Looks that a next hop may be found in soon.
SOON_COUNT = 20
#: An error queue that spoke is not asked again for so long.
QUIET_S = 0.05


class UnderlayWatch:
    """Of a running node's underlay. ``lock`` is held while the plane or an edge is changed."""

    def __init__(self, plane: Dataplane, lock: AbstractContextManager[object], underlay: Underlay, log: Log) -> None:
        self.plane = plane
        self.lock = lock
        self.underlay = underlay
        self.log = log
        self.mtu = PathMtu(plane, lock, self._told)
        self._sources = () if underlay.kind == "tap" else plane.spec.vtep
        self._missing: set[str] = set()
        self._elsewhere: set[str] = set()
        self._poked = asyncio.Event()
        self._soon = SOON_COUNT
        self._task: asyncio.Task[None] | None = None
        self._events: LinkWatch | None = None
        self._asked: dict[int, socket.socket] = {}
        self._newer: set[str] = set()  # peers that errors have spoken of since a look began

    async def start(self) -> None:
        """Look once, and go on looking."""
        await self._look()
        loop = asyncio.get_running_loop()
        with suppress(MissingLibraryError, DeviceError):  # it looks often enough without being told
            self._events = LinkWatch()
            self._events.follow(loop, lambda _: self.poke())
        if isinstance(self.underlay, SocketUnderlay):
            for sock in self.underlay.senders:
                self._listen(sock)
        self._task = asyncio.create_task(self._look_for_ever())

    async def close(self) -> None:
        """Look no longer."""
        loop = asyncio.get_running_loop()
        for number in self._asked:
            loop.remove_reader(number)
        self._asked.clear()
        if self._events is not None:
            self._events.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def poke(self) -> None:
        """Something changed: look soon."""
        self._soon = SOON_COUNT
        self._poked.set()

    def counters(self) -> dict[str, int]:
        """Path MTUs that changed what fits."""
        return {"path_mtu_changes": self.mtu.changes}

    def punted(self, frames: Iterable[bytes]) -> None:
        """Packets of the underlay that are no UDP: what ICMP says of ours is believed, and nothing else."""
        spec = self.plane.spec
        addresses = [parse_ip(text) for text in spec.vtep]
        peers = set(self.peers())
        for frame in frames:
            found = icmp_mtu(frame, addresses, spec.port)
            if found is not None and format_ip(found[0]) in peers:
                self.mtu.heard(format_ip(found[0]), found[1], time.monotonic())

    def peers(self) -> list[str]:
        """VTEPs of all networks."""
        return sorted({vtep for _, vtep in self.plane.vteps})

    async def _look_for_ever(self) -> None:
        while True:
            began = time.monotonic()
            done = True
            try:
                done = await self._look()
            except (DeviceError, OSError) as error:
                self.log.warning("underlay not looked at", reason=str(error))
            took = time.monotonic() - began
            self._soon = 0 if done else max(0, self._soon - 1)
            self._poked.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._poked.wait(), max(SOON_S if self._soon else LOOK_S, SHARE * took))
            await asyncio.sleep(min(took, LOOK_S))

    async def _look(self) -> bool:
        """Ask the kernel, in a thread, and take what it says. Whether every next hop is known."""
        every = self.peers()
        self._newer.clear()
        found = await asyncio.to_thread(self.mtu.look, every, self._sources)
        # Of those, what the thread was told may be older than what is known by now.
        self.mtu.routes({peer: mtu for peer, mtu in found.items() if peer not in self._newer}, time.monotonic())
        self.mtu.keep(every)
        self._look_at_addresses()
        if not isinstance(self.underlay, PacketUnderlay):
            return True
        hops = await asyncio.to_thread(self.underlay.refresh, every)
        with self.lock:
            self.underlay.set_hops(hops)
        elsewhere = set(self.underlay.unreachable())
        for peer in sorted(elsewhere - self._elsewhere):
            self.log.warning("peer by another device", peer=peer, device=self.underlay.device)
        self._elsewhere = elsewhere
        return len(hops) + len(elsewhere) >= len(every)

    def _look_at_addresses(self) -> None:
        """Addresses of ours that are no more this machine's, and come back."""
        missing = {text for text in self._sources if not is_ours(text)}
        for text in sorted(missing - self._missing):
            self.log.warning("address gone", vtep=text)
        for text in sorted(self._missing - missing):
            self.log.info("address back", vtep=text)
        self._missing = missing

    def _told(self, peer: str, mtu: int) -> None:
        self.log.info("path MTU", peer=peer, mtu=mtu)

    # Errors of sockets.

    def _listen(self, sock: socket.socket) -> None:
        number = sock.fileno()
        if number >= 0:
            self._asked[number] = sock
            asyncio.get_running_loop().add_reader(number, partial(self._errors, number))

    def _errors(self, number: int) -> None:
        """A socket's error queue has something: the kernel has looked at it, and is asked of whom it speaks of."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(number)
        sock = self._asked.pop(number)
        peers = take_errors(sock) & set(self.peers())
        if peers:
            self._newer |= peers
            self.mtu.routes(self.mtu.look(sorted(peers), self._sources), time.monotonic())
        loop.call_later(QUIET_S, self._listen_again, sock)

    def _listen_again(self, sock: socket.socket) -> None:
        if self._task is not None and not self._task.done():
            self._listen(sock)


def is_ours(text: str) -> bool:
    """Whether this machine has an address."""
    family = socket.AF_INET if len(parse_ip(text)) == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.bind((text, 0))
        except OSError:
            return False
    return True
