"""The live node: a plane with devices and an underlay, kept up while the machine around it changes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network

from vxlanfast._ext.io.edge import LiveEdge
from vxlanfast._ext.io.queue import QueueEdge
from vxlanfast._ext.io.tap import TapEdge
from vxlanfast.addr import parse_ip
from vxlanfast.dataplane import Dataplane
from vxlanfast.errors import SpecError, VxlanFastError
from vxlanfast.forward import Forwarder
from vxlanfast.live_spec import TapSpec
from vxlanfast.node_spec import UNDERLAY, EndpointSpec, NetworkSpec, NodeSpec
from vxlanfast.tap import GSO_MAX, Tap
from vxlanfast.underlay import Underlay, open_underlay

#: Seconds between tries to bring back a device that went.
RETRY_S = 1.0

Log = Callable[..., None]


def _quiet(event: str, **words: object) -> None:
    """Nobody listens."""


def tap_specs(spec: NodeSpec) -> dict[str, TapSpec]:
    """The TAP of each port that is a device, by the port's name."""
    given = {tap.port: tap for tap in spec.live.tap}
    return {port: given.get(port) or TapSpec(port=port) for network in spec.network for port in network.ports}


class LiveNode:
    """``spec``, live. ``source``: where it is read from again at ``reload()``. ``log(event, **words)`` hears what
    happens."""

    def __init__(self, spec: NodeSpec, *, source: Callable[[], NodeSpec] | None = None, log: Log | None = None) -> None:
        self._source = source
        self.log = log or _quiet
        self.plane = Dataplane(spec)
        self.started_ns = time.monotonic_ns()
        self.taps: dict[str, Tap] = {}
        self.tap_edges: dict[str, TapEdge] = {}
        self.gone: dict[str, str] = {}  # ports whose device is not there, and why
        self.queues: dict[str, QueueEdge] = {}
        self.underlay: Underlay | None = None
        self.reloads = 0
        self.refused = 0
        self.failed: BaseException | None = None
        self._retry: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reloading = asyncio.Lock()
        self.forwarder = Forwarder(
            self.plane, cpu=spec.live.cpu, busy_poll_us=spec.live.busy_poll_us,
            on_queue=self._queued, on_broken=self._broken, on_crash=self._crashed,
        )  # fmt: skip

    @property
    def spec(self) -> NodeSpec:
        """What it is now."""
        return self.plane.spec

    @property
    def lock(self) -> object:
        """Held while a batch is worked on."""
        return self.forwarder.lock

    async def start(self) -> None:
        """Open everything, and forward. DeviceError: it cannot be had; nothing is left open then."""
        self._loop = asyncio.get_running_loop()
        try:
            self.underlay = open_underlay(self.spec)
            for text in self.underlay.warnings():
                self.log("underlay", warning=text)
            for port, tap in tap_specs(self.spec).items():
                self._open_tap(port, tap, self.spec)
            self._wire()
        except BaseException:
            self._close_devices()
            raise
        self.forwarder.start()
        self._retry = asyncio.create_task(self._retry_for_ever())

    async def stop(self) -> None:
        """End: no device, socket or file is left behind."""
        if self._retry is not None:
            self._retry.cancel()
            await asyncio.gather(self._retry, return_exceptions=True)
        await asyncio.to_thread(self.forwarder.stop)
        self._close_devices()

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

    def _open_tap(self, port: str, tap: TapSpec, spec: NodeSpec) -> None:
        opened = Tap(tap.device, namespace=tap.namespace, attach=tap.attach, offload=tap.offload)
        try:
            if not tap.attach:
                self._configure(port, tap, spec)
        except BaseException:
            opened.close()
            raise
        self.taps[port] = opened
        self.tap_edges[port] = TapEdge(opened.fd, offload=opened.offloads != 0)

    def _configure(self, port: str, tap: TapSpec, spec: NodeSpec) -> None:
        from vxlanfast.links import configure

        network, endpoint = _endpoint_of(spec, port)
        address = endpoint.address
        configure(
            tap.device, namespace=tap.namespace or None, mac=None if address is None else address.hex(":"),
            mtu=tap.mtu or device_mtu(spec), addresses=tap.address or _addresses(network, endpoint),
            gateway=_gateway(network, endpoint) if tap.route else None, gso_max=GSO_MAX,
        )  # fmt: skip

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
                    why = os.strerror(edge.broken)
                    self.log("device gone", port=port, device=self.taps[port].name, reason=why)
                    self.forwarder.poller.remove(edge)
                    with self.forwarder.lock:
                        self.taps.pop(port).close()
                        del self.tap_edges[port]
                    self.gone[port] = why

    async def _retry_for_ever(self) -> None:
        """What is gone is made again, as soon as that can be."""
        while True:
            await asyncio.sleep(RETRY_S)
            back = []
            for port in list(self.gone):
                tap = tap_specs(self.spec).get(port)
                if tap is None:
                    del self.gone[port]
                    continue
                try:
                    self._open_tap(port, tap, self.spec)
                except VxlanFastError as error:
                    if self.gone[port] != str(error):
                        self.gone[port] = str(error)
                        self.log("device still gone", port=port, reason=str(error))
                    continue
                del self.gone[port]
                back.append(port)
            if back:
                self._wire()
                self.log("device back", ports=",".join(back))

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
                prepared = await asyncio.to_thread(self.plane.prepare, spec)
                opened = self._open_new(spec)
            except VxlanFastError as error:
                self.refused += 1
                self.log("configuration refused", reason=str(error))
                raise
            with self.forwarder.lock:
                self.plane.apply(prepared)
                for port, (tap, edge) in opened.items():
                    self.taps[port], self.tap_edges[port] = tap, edge
                self._close_old(spec)
                self._wire()
            self.reloads += 1
            self.log("configuration applied", networks=len(spec.network), ports=len(spec.ports) - 1)

    def _may_become(self, spec: NodeSpec) -> None:
        """What cannot change under a running node."""
        old = self.spec
        for key in ("vtep", "port"):
            if getattr(spec, key) != getattr(old, key):
                raise SpecError(f"{key} = {getattr(spec, key)!r}: it cannot change while the node runs: start it anew")
        same = replace(spec.live, tap=(), metrics="", upstream=(), drain_s=0)
        if same != replace(old.live, tap=(), metrics="", upstream=(), drain_s=0):
            raise SpecError("[live]: underlay, device, cpu, control cannot change while the node runs: start it anew")

    def _open_new(self, spec: NodeSpec) -> dict[str, tuple[Tap, TapEdge]]:
        """Devices of ports that are new, or another one now. Nothing is left open where one fails."""
        old = tap_specs(self.spec)
        opened: dict[str, tuple[Tap, TapEdge]] = {}
        try:
            for port, tap in tap_specs(spec).items():
                if port in self.taps and old.get(port) == tap:
                    continue
                if port in self.taps and (old[port].device, old[port].namespace) == (tap.device, tap.namespace):
                    continue  # the same device: it is configured below
                before = self.taps.pop(port, None), self.tap_edges.pop(port, None)
                try:
                    self._open_tap(port, tap, spec)
                    opened[port] = self.taps.pop(port), self.tap_edges.pop(port)
                finally:
                    if before[0] is not None and before[1] is not None:
                        self.taps[port], self.tap_edges[port] = before[0], before[1]
        except BaseException:
            for made, _ in opened.values():
                made.close()
            raise
        return opened

    def _close_old(self, spec: NodeSpec) -> None:
        wanted = tap_specs(spec)
        for port in [port for port in self.taps if port not in wanted]:
            self.forwarder.poller.remove(self.tap_edges.pop(port))
            self.taps.pop(port).close()
        for port in [port for port in self.gone if port not in wanted]:
            del self.gone[port]

    # Frames that end here.

    def _queued(self, port: str, frames: list[tuple[tuple[int, str], bytes]]) -> None:
        """In the forwarding thread."""

    def inject(self, port: str, frames: list[bytes]) -> None:
        """They enter the plane as if they had come by that port."""
        number = self.plane.ports.get(port)
        if number is not None:
            self.forwarder.inject(number, frames)

    def io_counters(self) -> dict[str, dict[str, int]]:
        """By port's name: rows, bytes and segments both ways, and what was lost."""
        out: dict[str, dict[str, int]] = {}
        if self.underlay is not None:
            out[UNDERLAY] = self.underlay.counters()
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


def _addresses(network: NetworkSpec, endpoint: EndpointSpec) -> tuple[str, ...]:
    """An endpoint's addresses with the prefix of their subnet, or as a host where there is none."""
    out = []
    for text in endpoint.ip:
        one = ip_address(text)
        subnets = [net for net in map(ip_network, network.subnet) if net.version == one.version and one in net]
        out.append(f"{text}/{subnets[0].prefixlen if subnets else one.max_prefixlen}")
    return tuple(out)


def _gateway(network: NetworkSpec, endpoint: EndpointSpec) -> str | None:
    sizes = {len(parse_ip(text)) for text in endpoint.ip}
    return next((text for text in network.gateway if len(parse_ip(text)) in sizes), None)


def device_mtu(spec: NodeSpec) -> int:
    """What a station's packets may have so that they fit every tunnel; 1500 where nothing is said."""
    if not spec.mtu:
        return 1500
    return spec.mtu - (70 if any(len(parse_ip(text)) == 16 for text in spec.vtep) else 50)
