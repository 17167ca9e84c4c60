"""The live node: a plane with devices and an underlay, kept up while the machine around it changes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address, ip_network
from threading import RLock
from typing import Any

from vxlanfast._ext.io.edge import LiveEdge
from vxlanfast._ext.io.queue import QueueEdge
from vxlanfast._ext.io.tap import TapEdge
from vxlanfast.addr import parse_ip
from vxlanfast.dataplane import Dataplane
from vxlanfast.errors import SpecError, VxlanFastError
from vxlanfast.forward import Forwarder
from vxlanfast.from_kernel import FromKernel
from vxlanfast.live_spec import TapSpec
from vxlanfast.logs import Log
from vxlanfast.nameserver import NameServer
from vxlanfast.network_spec import UNDERLAY, EndpointSpec, NetworkSpec
from vxlanfast.node_spec import NodeSpec
from vxlanfast.tap import GSO_MAX, Tap
from vxlanfast.underlay import Underlay, open_underlay
from vxlanfast.underlay_watch import UnderlayWatch
from vxlanfast.upstream import Upstream, system_servers

#: Seconds between tries to bring back a device that went, and between looks at timers.
RETRY_S = 1.0
TICK_S = 0.25
#: Handfuls of questions that may wait to be answered.
ASKED_MAX = 16


def tap_specs(spec: NodeSpec) -> dict[str, TapSpec]:
    """The TAP of each port that is a device, by the port's name."""
    given = {tap.port: tap for tap in spec.live.tap}
    devices = [e.port for network in spec.network for e in network.endpoint if e.port is not None]
    return {port: given.get(port) or TapSpec(port=port) for port in dict.fromkeys(devices)}


def resolver_ports(spec: NodeSpec) -> list[str]:
    """Ports whose frames are answered here: each network's resolver."""
    return [network.port_of_resolver for network in spec.network if network.resolver]


class LiveNode:
    """``spec``, live. ``source``: where it is read from again at ``reload()``. ``log`` hears what happens.

    ``from_kernel``: Linux vxlan devices (in ``kernel_namespace``) whose tables are followed, besides the spec.
    """

    def __init__(
        self,
        spec: NodeSpec,
        *,
        source: Callable[[], NodeSpec] | None = None,
        log: Log | None = None,
        from_kernel: Sequence[str] = (),
        kernel_namespace: str | None = None,
    ) -> None:
        self._source = source
        self.log = log or Log(level="error")
        self.kernel = FromKernel(from_kernel, kernel_namespace) if from_kernel else None
        if self.kernel is not None:
            spec = self.kernel.snapshot(spec)
        self.plane = Dataplane(spec)
        self.names: NameServer | None = None
        self.names_dropped = 0
        self._asked = 0
        self.started_ns = time.monotonic_ns()
        self.taps: dict[str, Tap] = {}
        self.tap_edges: dict[str, TapEdge] = {}
        self.gone: dict[str, str] = {}  # ports whose device is not there, and why
        self.queues: dict[str, QueueEdge] = {}
        self.underlay: Underlay | None = None
        self.watch: UnderlayWatch | None = None
        self.reloads = 0
        self.refused = 0
        self.failed: BaseException | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reloading = asyncio.Lock()
        self.forwarder = Forwarder(
            self.plane, cpu=spec.live.cpu, busy_poll_us=spec.live.busy_poll_us,
            on_queue=self._queued, on_broken=self._broken, on_crash=self._crashed, on_punted=self._punted,
        )  # fmt: skip

    @property
    def spec(self) -> NodeSpec:
        """What it is now."""
        return self.plane.spec

    @property
    def lock(self) -> RLock:
        """Held while a batch is worked on."""
        return self.forwarder.lock

    async def start(self) -> None:
        """Open everything, and forward. DeviceError: it cannot be had; nothing is left open then."""
        self._loop = asyncio.get_running_loop()
        try:
            refused: list[str] = []
            self.underlay = open_underlay(self.spec, refused)
            for text in refused:
                self.log.warning("underlay not had", reason=text)
            for text in self.underlay.warnings():
                self.log.warning("underlay", reason=text)
            for port, tap in tap_specs(self.spec).items():
                self.taps[port], self.tap_edges[port] = self._open_tap(port, tap, self.spec)
            self._name(self.spec)
            self._wire()
        except BaseException:
            self._close_devices()
            raise
        self.watch = UnderlayWatch(self.plane, self.lock, self.underlay, self.log)
        try:
            await self.watch.start()
        except BaseException:
            await self.watch.close()
            self._close_devices()
            raise
        self.forwarder.start()
        self._tasks = [asyncio.create_task(self._retry_for_ever()), asyncio.create_task(self._tick_for_ever())]
        if self.kernel is not None:
            self.kernel.start(self.plane, self.lock, self._apply)

    async def stop(self) -> None:
        """End: no device, socket or file is left behind."""
        if self.kernel is not None:
            self.kernel.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.watch is not None:
            await self.watch.close()
        if self.names is not None:
            await self.names.stop()
        await asyncio.to_thread(self.forwarder.stop)
        self._close_devices()

    async def drain(self, seconds: float) -> bool:
        """No new connections of services; those that are open go on until they end, or so long. Whether all did."""
        with self.lock:
            for service in {one.name: one for one in self.spec.expanded}.values():
                for server in service.server:
                    self.plane.set_server(service.name, server.address, server.port, weight=0)
        end = time.monotonic() + seconds
        while True:
            with self.lock:
                left = sum(one["state"] == "ESTABLISHED" for one in self.plane.connections(self.forwarder.now_ns))
            if not left or time.monotonic() >= end:
                return not left
            await asyncio.sleep(0.1)

    def _close_devices(self) -> None:
        self.forwarder.poller.clear()
        for tap in self.taps.values():
            tap.close()
        self.taps.clear()
        self.tap_edges.clear()
        if self.underlay is not None:
            self.underlay.close()
            self.underlay = None

    # Devices.

    def _open_tap(self, port: str, tap: TapSpec, spec: NodeSpec) -> tuple[Tap, TapEdge]:
        opened = Tap(tap.device, namespace=tap.namespace, attach=tap.attach, offload=tap.offload)
        try:
            if not tap.attach:
                self._configure(port, tap, spec)
        except BaseException:
            opened.close()
            raise
        return opened, TapEdge(opened.fd, offload=opened.offloads != 0)

    def _configure(self, port: str, tap: TapSpec, spec: NodeSpec) -> None:
        from vxlanfast.links import configure

        configure(tap.device, namespace=tap.namespace or None, gso_max=GSO_MAX, **_settings(port, tap, spec))

    def _wire(self) -> None:
        """The forwarder's edges, by the numbers that the plane has now."""
        assert self.underlay is not None
        numbers = self.plane.ports
        edges: list[tuple[int, LiveEdge, bool]] = []
        for k, edge in enumerate(self.underlay.edges):
            edges.append((numbers[UNDERLAY], edge, k == 0))
        for port, tap in self.tap_edges.items():
            if port in numbers:
                edges.append((numbers[port], tap, True))
        for port, queue in self.queues.items():
            if port in numbers:
                edges.append((numbers[port], queue, True))
        self.forwarder.set_edges(edges)

    def _broken(self, edges: list[tuple[int, LiveEdge]]) -> None:
        """In the forwarding thread: devices are gone."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._lose, edges)

    def _lose(self, edges: list[tuple[int, LiveEdge]]) -> None:
        for _, edge in edges:
            for port, one in list(self.tap_edges.items()):
                if one is edge:
                    self._lose_tap(port, os.strerror(edge.broken))

    def _lose_tap(self, port: str, why: str) -> None:
        self.log.warning("device gone", port=port, device=self.taps[port].name, reason=why)
        with self.forwarder.paused():
            self.forwarder.poller.remove(self.tap_edges[port])
            self.taps.pop(port).close()
            del self.tap_edges[port]
        self.gone[port] = why

    async def _retry_for_ever(self) -> None:
        """What is gone is made again, as soon as that can be."""
        while True:
            await asyncio.sleep(RETRY_S)
            for port, device in list(self.taps.items()):
                if device.astray():
                    self._lose_tap(port, f"namespace {device.namespace}: it is gone, or another one now")
            back = []
            for port in list(self.gone):
                tap = tap_specs(self.spec).get(port)
                if tap is None:
                    del self.gone[port]
                    continue
                try:
                    self.taps[port], self.tap_edges[port] = self._open_tap(port, tap, self.spec)
                except (VxlanFastError, OSError) as error:
                    if self.gone[port] != str(error):
                        self.gone[port] = str(error)
                        self.log.warning("device still gone", port=port, reason=str(error))
                    continue
                del self.gone[port]
                back.append(port)
            if back:
                self._wire()
                self.log.info("device back", ports=",".join(back))

    async def _tick_for_ever(self) -> None:
        """What names wait for."""
        while True:
            await asyncio.sleep(TICK_S)
            if self.names is not None:
                self.names.tick(time.monotonic_ns())

    def _name(self, spec: NodeSpec) -> None:
        """Resolvers of networks answer, each at a port of its own."""
        wanted = resolver_ports(spec)
        if wanted and self.names is None:
            servers = spec.live.upstream or system_servers()
            self.names = NameServer(self.plane, self.inject, lock=self.lock, upstream=Upstream(servers))
            self.names.start()
        self.queues = {port: self.queues.get(port) or QueueEdge() for port in wanted}

    def _crashed(self, error: BaseException) -> None:
        self.failed = error

    # Configuration.

    async def reload(self, spec: NodeSpec | None = None) -> None:
        """Be what ``spec`` says, or what its source says now. SpecError, DeviceError: refused, and the old one goes on.

        Tables are compiled beside the running ones, in a thread: packets go on meanwhile.
        """
        async with self._reloading:
            try:
                if spec is None:
                    if self._source is None:
                        raise SpecError("there is no file to read the configuration from again")
                    spec = await asyncio.to_thread(self._source)
                self._may_become(spec)
                if self.kernel is not None:
                    await self.kernel.rebase(spec)
                else:
                    await self._apply(spec)
            except VxlanFastError as error:
                self.refused += 1
                self.log.warning("configuration refused", reason=str(error))
                raise
            self.reloads += 1
            self.log.info("configuration applied", networks=len(spec.network), ports=len(spec.ports) - 1)

    async def _apply(self, spec: NodeSpec) -> None:
        prepared = await asyncio.to_thread(self.plane.prepare, spec)
        if self.names is not None:
            await asyncio.to_thread(self.names.prepare, spec)
        before, opened = self.spec, self._open_new(spec)
        try:
            with self.forwarder.paused():  # ports get other numbers, and what is in hand has the old ones
                self.plane.apply(prepared)
                self._close_old(spec, opened)
                for port, (tap, edge) in opened.items():
                    self.taps[port], self.tap_edges[port] = tap, edge
                    self.gone.pop(port, None)
                opened = {}
                self._name(spec)
                self._wire()
        finally:
            for tap, _ in opened.values():
                tap.close()
        self._configure_anew(before, spec)
        if self.watch is not None:
            self.watch.poke()

    def _may_become(self, spec: NodeSpec) -> None:
        """What cannot change under a running node."""
        old = self.spec
        for key in ("vtep", "port"):
            if getattr(spec, key) != getattr(old, key):
                raise SpecError(f"{key} = {getattr(spec, key)!r}: it cannot change while the node runs: start it anew")
        taps = tap_specs(old)
        for port, tap in tap_specs(spec).items():
            was = taps.get(port, tap)
            same_device = (was.device, was.namespace) == (tap.device, tap.namespace)
            if same_device and (was.attach, was.offload) != (tap.attach, tap.offload):
                raise SpecError(f"[[live.tap]] {port}: attach, offload cannot change while the node has the device")
        if replace(spec.live, tap=(), drain_s=0) != replace(old.live, tap=(), drain_s=0):
            raise SpecError("[live]: tap and drain_s alone can change while the node runs: start it anew")

    def _open_new(self, spec: NodeSpec) -> dict[str, tuple[Tap, TapEdge]]:
        """Devices of ports that are new, or another one now. Nothing is left open where one fails. One that is gone
        may stay so: it is tried again later."""
        old = tap_specs(self.spec)
        opened: dict[str, tuple[Tap, TapEdge]] = {}
        try:
            for port, tap in tap_specs(spec).items():
                there = port in self.taps or port in self.gone
                if there and (old[port].device, old[port].namespace) == (tap.device, tap.namespace):
                    continue  # the same device: it is configured when it is all over
                opened[port] = self._open_tap(port, tap, spec)
        except BaseException:
            for made, _ in opened.values():
                made.close()
            raise
        return opened

    def _close_old(self, spec: NodeSpec, opened: Mapping[str, object]) -> None:
        """Devices that are not wanted any more, or that another one (of ``opened``) takes the place of."""
        wanted = tap_specs(spec)
        for port in [port for port in self.taps if port not in wanted or port in opened]:
            self.forwarder.poller.remove(self.tap_edges.pop(port))
            self.taps.pop(port).close()
        for port in [port for port in self.gone if port not in wanted]:
            del self.gone[port]

    def _configure_anew(self, before: NodeSpec, spec: NodeSpec) -> None:
        """Devices that stay, and are to be otherwise than they were."""
        from vxlanfast.links import undo

        old = tap_specs(before)
        for port, tap in tap_specs(spec).items():
            if tap.attach or port not in self.taps or port not in old or old[port].device != tap.device:
                continue
            had, wanted = _settings(port, old[port], before), _settings(port, tap, spec)
            if had == wanted:
                continue
            try:
                gone = [text for text in had["addresses"] if text not in wanted["addresses"]]
                ways = [text for text in had["gateway"] if text not in wanted["gateway"]]
                undo(tap.device, namespace=tap.namespace or None, addresses=gone, gateway=ways)
                self._configure(port, tap, spec)
            except VxlanFastError as error:
                self.log.warning("device not as wanted", port=port, device=tap.device, reason=str(error))

    # Frames that end here.

    def _queued(self, port: str, frames: list[tuple[tuple[int, str], bytes]]) -> None:
        """In the forwarding thread: questions of names are the event loop's, and no more than it has time for."""
        if self._loop is None or self._asked >= ASKED_MAX:
            self.names_dropped += len(frames)
            return
        self._asked += 1
        with suppress(RuntimeError):  # the loop is closed: this node ends
            self._loop.call_soon_threadsafe(self._answer, port, frames)

    def _answer(self, port: str, frames: list[tuple[tuple[int, str], bytes]]) -> None:
        self._asked -= 1
        if self.names is None:
            return
        ours, now_ns = self.plane.ports, time.monotonic_ns()
        for (_, origin), frame in frames:
            answers = self.names.frames(port, origin if origin in ours else None, frame, now_ns)
            if answers:
                self.inject(port, answers)

    def _punted(self, frames: list[bytes]) -> None:
        """In the forwarding thread: ICMP of the underlay, and whatever else is no UDP."""
        if self._loop is not None and self.watch is not None:
            self._loop.call_soon_threadsafe(self.watch.punted, frames)

    def inject(self, port: str, frames: list[bytes]) -> None:
        """They enter the plane as if they had come by that port."""
        self.forwarder.inject(port, frames)

    def io_counters(self) -> dict[str, dict[str, int]]:
        """By port's name: rows, bytes and segments both ways, and what was lost."""
        out: dict[str, dict[str, int]] = {}
        if self.underlay is not None:
            out[UNDERLAY] = self.underlay.counters() | (self.watch.counters() if self.watch is not None else {})
        for port, edge in self.tap_edges.items():
            out[port] = edge.counters()
        return out


def _endpoint_of(spec: NodeSpec, port: str) -> tuple[NetworkSpec, EndpointSpec]:
    """The network of a port, and the first endpoint behind it."""
    for network in spec.network:
        for endpoint in network.endpoint:
            if endpoint.port == port:
                return network, endpoint
    raise SpecError(f"port {port!r}: no endpoint has it")


def _settings(port: str, tap: TapSpec, spec: NodeSpec) -> dict[str, Any]:
    """How the device of a port is to be."""
    network, endpoint = _endpoint_of(spec, port)
    address = endpoint.address
    return {
        "mac": None if address is None else address.hex(":"), "mtu": tap.mtu or device_mtu(spec),
        "addresses": tap.address or _addresses(network, endpoint),
        "gateway": _gateways(network, endpoint) if tap.route else [],
    }  # fmt: skip


def _addresses(network: NetworkSpec, endpoint: EndpointSpec) -> tuple[str, ...]:
    """An endpoint's addresses with the prefix of their subnet, or as a host where there is none."""
    out = []
    for text in endpoint.ip:
        one = ip_address(text)
        subnets = [net for net in map(ip_network, network.subnet) if net.version == one.version and one in net]
        out.append(f"{text}/{subnets[0].prefixlen if subnets else one.max_prefixlen}")
    return tuple(out)


def _gateways(network: NetworkSpec, endpoint: EndpointSpec) -> list[str]:
    """The network's first gateway of each family that an endpoint has addresses of."""
    sizes = {len(parse_ip(text)) for text in endpoint.ip}
    first = {len(parse_ip(text)): text for text in reversed(network.gateway)}
    return [text for size, text in first.items() if size in sizes]


def device_mtu(spec: NodeSpec) -> int:
    """What a station's packets may have so that they fit every tunnel; 1500 where nothing is said."""
    if not spec.mtu:
        return 1500
    return spec.mtu - (70 if any(len(parse_ip(text)) == 16 for text in spec.vtep) else 50)
