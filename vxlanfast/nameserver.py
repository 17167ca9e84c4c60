"""The resolvers of a live node: frames in by the ports of its networks' resolvers, frames out, questions to others."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, fields

from vxlanfast.addr import parse_ip
from vxlanfast.dataplane import Dataplane
from vxlanfast.names import Names
from vxlanfast.network_spec import NetworkSpec
from vxlanfast.node_spec import NodeSpec
from vxlanfast.resolver import UDP_MAX, Answer, Client, Forward, Resolver, need_dns
from vxlanfast.stub import Stub
from vxlanfast.stub_tcp import LATER, Caller, Later
from vxlanfast.upstream import BusyError, Upstream

#: Bytes of IP packet that every client's device takes, where the underlay's MTU says nothing.
_MTU, _MTU_MIN = 1400, 576


@dataclass(slots=True)
class NameCounts:
    """Frames and questions since the start. ``foreign``: frames of others than this node's clients."""

    frames: int = 0
    foreign: int = 0
    questions: int = 0
    answered: int = 0
    forwarded: int = 0
    silent: int = 0
    busy: int = 0
    failed: int = 0


class NameServer:
    """Every resolver of a plane's spec, which may be another at any time; TCP connections of those that stay go on.

    ``lock``: the plane's, held by whoever reads or changes its tables; ``frames`` and ``tick`` take it, from whatever
    thread. ``send`` takes frames that enter the plane by a resolver's port; it is called without the lock, but for
    that of a caller who holds it. ``upstream``: others, asked on the event loop that ``start`` is called on; None:
    nobody. ``busy_at``: questions that wait for others, of all clients; ``share``: of one port's.
    MissingLibraryError: no dnspython.
    """

    def __init__(
        self,
        plane: Dataplane,
        send: Callable[[str, list[bytes]], None],
        *,
        lock: threading.RLock | None = None,
        upstream: Upstream | None = None,
        now_ns: Callable[[], int] = time.monotonic_ns,
        busy_at: int = 1024,
        share: int = 256,
    ) -> None:
        need_dns()
        self.plane = plane
        self.counts = NameCounts()
        self._send = send
        self._lock = lock or threading.RLock()
        self._upstream = upstream
        self._now_ns = now_ns
        self._busy_at, self._share = busy_at, share
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: dict[str, int] = {}  # by the client's port
        self._spec: NodeSpec | None = None
        self._stubs: dict[str, Stub] = {}
        self._resolver = self._made()

    def _made(self) -> Resolver:
        """A resolver as the spec's profile wants it."""
        profile = self.plane.spec.mesh.profile
        return Resolver(Names(self.plane, empty=profile == "fixed"), profile=profile)

    def _follow(self) -> None:
        """Be what the plane's spec says."""
        spec = self.plane.spec
        if spec is self._spec:
            return
        if self._spec is not None and spec.mesh.profile != self._spec.mesh.profile:
            self._resolver = self._made()
        self._spec = spec
        self._resolver.udp_max = min(UDP_MAX, _mtu(spec) - 48)
        old, self._stubs = self._stubs, {}
        for network in spec.network:
            if network.resolver:
                self._stubs[network.port_of_resolver] = self._stub(network, old.get(network.port_of_resolver))

    def _stub(self, network: NetworkSpec, old: Stub | None) -> Stub:
        mac, addresses = network.resolver_mac, [parse_ip(text) for text in network.resolver]
        assert mac is not None and self._spec is not None
        mtu = _mtu(self._spec)
        if old is not None and (old.mac, old.addresses, old.mtu) == (mac, frozenset(addresses), mtu):
            return old
        port = network.port_of_resolver
        return Stub(mac, addresses, lambda caller, query: self._ask(port, caller, query), mtu=mtu)

    # --- frames ---------------------------------------------------------------------------------------------

    def frames(self, port: str, origin: str | None, frame: bytes, now_ns: int) -> list[bytes]:
        """What enters the plane again by ``port``, at once, for a frame that left it there.

        ``origin``: the name of the port by which the frame had come, None if it came from a peer (``batch.origin`` is
        not that of a port). Each node answers its own clients alone: nothing is said to a frame of a peer, nor to one
        of a port of another network.
        """
        with self._lock:
            self._follow()
            self.counts.frames += 1
            stub = self._stubs.get(port)
            if stub is None or not self.is_client(port, origin):
                self.counts.foreign += 1
                return []
            assert origin is not None
            return stub.frames(origin, frame, now_ns)

    def is_client(self, port: str, origin: str | None) -> bool:
        """Whether a frame that came by ``origin`` (None: a peer) may ask the resolver at ``port``: both are ports of
        one network of this node."""
        if origin is None or origin in self._stubs:
            return False
        vni = self.plane.vni_of(port)
        return vni is not None and self.plane.vni_of(origin) == vni

    def prepare(self, spec: NodeSpec) -> None:
        """A spec that the plane will have soon; takes no lock, so that nobody waits."""
        self._resolver.names.prepare(spec)

    def tick(self, now_ns: int) -> None:
        """Do what the time has come for, which goes out by ``send``. Once or a few times a second is enough."""
        with self._lock:
            self._follow()
            made = [(port, stub.tick(now_ns)) for port, stub in self._stubs.items()]
        for port, frames in made:
            if frames:
                self._send(port, frames)

    def connections(self) -> int:
        """TCP connections of clients, open and half open."""
        with self._lock:
            return sum(len(stub.tcp) for stub in self._stubs.values())

    def counters(self) -> dict[str, int]:
        """The counts by name."""
        with self._lock:
            return {one.name: getattr(self.counts, one.name) for one in fields(self.counts)}

    # --- questions ------------------------------------------------------------------------------------------

    def _ask(self, port: str, caller: Caller, query: bytes) -> bytes | Later | None:
        """An answer of ours, or others are asked."""
        counts = self.counts
        counts.questions += 1
        said = self._resolver.answer(query, Client(caller.port, caller.address), tcp=caller.serial != 0)
        if said is None:
            counts.silent += 1
            return None
        if isinstance(said, Answer):
            counts.answered += 1
            return said.wire
        if self._upstream is None or self._loop is None or not self._upstream.servers:
            counts.failed += 1
            return self._resolver.finish(said, None)
        waiting = self._waiting.get(caller.port, 0)
        if waiting >= self._share or sum(self._waiting.values()) >= self._busy_at:
            counts.busy += 1
            return self._resolver.finish(said, None, busy=True)
        self._waiting[caller.port] = waiting + 1
        counts.forwarded += 1
        try:
            self._loop.call_soon_threadsafe(self._begin, port, caller, said)
        except RuntimeError:  # the loop is closed: this node ends
            self._done(caller)
            return self._resolver.finish(said, None)
        return LATER

    def _begin(self, port: str, caller: Caller, forward: Forward) -> None:
        task = asyncio.get_running_loop().create_task(self._forward(port, caller, forward))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward(self, port: str, caller: Caller, forward: Forward) -> None:
        assert self._upstream is not None
        answer, busy = None, False
        try:
            answer = await self._upstream.ask(forward.query, tcp=forward.tcp)
        except BusyError:
            busy = True
        finally:
            with self._lock:
                self._done(caller)
        with self._lock:
            self.counts.busy += busy
            self.counts.failed += answer is None and not busy
            stub = self._stubs.get(port)
            if stub is None:
                return
            frames = stub.reply(caller, self._resolver.finish(forward, answer, busy=busy), self._now_ns())
        if frames:
            self._send(port, frames)

    def _done(self, caller: Caller) -> None:
        left = self._waiting.pop(caller.port) - 1
        if left:
            self._waiting[caller.port] = left

    # --- beginning and end ----------------------------------------------------------------------------------

    def start(self) -> None:
        """From now on others are asked, on the event loop that this is called on."""
        self._loop = asyncio.get_running_loop()

    async def stop(self) -> None:
        """Nobody is asked any more; what was is not waited for."""
        with self._lock:
            self._loop = None
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _mtu(spec: NodeSpec) -> int:
    """Bytes of IP packet that go to every client of the node: those of its networks with tunnels, IPv6 below."""
    return max(_MTU_MIN, min(_MTU, spec.mtu - 70)) if spec.mtu else _MTU
