"""What a running node has counted, as Prometheus reads it. Labels are bounded: what is beyond a cap is "other"."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from vxlanfast import __version__
from vxlanfast.errors import MissingLibraryError, OutputError, SpecError
from vxlanfast.node_spec import NodeSpec
from vxlanfast.shown import PlaneView

if TYPE_CHECKING:
    from vxlanfast.dataplane import Dataplane

#: Values of a label: ports, VTEPs (with their VNIs), networks, services.
LABELS_MAX = 128
OTHER = "other"
#: Of an HTTP request: bytes, and seconds in which it must come and its answer be taken.
REQUEST_MAX = 8192
PATIENCE_S = 10.0
CLIENTS_MAX = 16
MISSING = "metrics need prometheus_client: pip install 'vxlanfast[live]'"
_TRAFFIC = (
    ("rx_packets", "receive_packets"), ("rx_bytes", "receive_bytes"), ("tx_packets", "transmit_packets"),
    ("tx_bytes", "transmit_bytes"), ("drops", "receive_drops"), ("tx_drops", "transmit_drops"),
)  # fmt: skip


class Measured(Protocol):
    """A running node, as far as it is measured."""

    @property
    def spec(self) -> NodeSpec: ...
    @property
    def plane(self) -> Dataplane: ...
    @property
    def lock(self) -> AbstractContextManager[object]: ...
    def io_counters(self) -> dict[str, dict[str, int]]: ...


def _library() -> Any:
    try:
        import prometheus_client
        import prometheus_client.core
    except ImportError:
        raise MissingLibraryError(MISSING, name="prometheus_client") from None
    return prometheus_client


def capped(
    rows: Iterable[tuple[tuple[str, ...], Mapping[str, int]]], most: int = LABELS_MAX
) -> dict[tuple[str, ...], dict[str, int]]:
    """The first ``most`` rows as they are, and the sum of the others, whose labels are "other"."""
    out: dict[tuple[str, ...], dict[str, int]] = {}
    for labels, values in rows:
        key = labels if labels in out or len(out) < most else (OTHER,) * len(labels)
        kept = out.setdefault(key, {})
        for name, value in values.items():
            kept[name] = kept.get(name, 0) + value
    return out


class NodeCollector:
    """A collector for a prometheus_client registry: a node as it is when it is asked."""

    def __init__(self, node: Measured, *, most: int = LABELS_MAX) -> None:
        self.node = node
        self.most = most
        self.began = time.time()

    def describe(self) -> list[Any]:
        """Nothing: what there is depends on the node."""
        return []

    def collect(self) -> Iterator[Any]:
        """Every family, each taken of the node at one time."""
        core = _library().core
        view = PlaneView(self.node.plane, self.node.lock)
        stats, services = view.stats(), list(view.services())

        def gauge(name: str, help: str, value: float) -> Any:
            return core.GaugeMetricFamily(f"vxlanfast_{name}", help, value=value)

        def counter(name: str, help: str, value: float) -> Any:
            return core.CounterMetricFamily(f"vxlanfast_{name}", help, value=value)

        info = core.GaugeMetricFamily("vxlanfast_info", "Version and name.", labels=("version", "node"))
        info.add_metric((__version__, self.node.spec.name), 1)
        yield info
        yield gauge("start_time_seconds", "When the node began, since 1970.", self.began)
        for key, (name, help) in _PLANE.items():
            yield counter(name, help, getattr(stats, key))
        drops = core.CounterMetricFamily(
            "vxlanfast_dropped_packets", "Packets dropped, by reason; out: on their way out.",
            labels=("direction", "reason"),
        )  # fmt: skip
        for direction, reasons in (("in", stats.drops), ("out", stats.send_drops)):
            for verdict, number in sorted(reasons.items()):
                drops.add_metric((direction, verdict.name), number)
        yield drops
        rules = core.CounterMetricFamily("vxlanfast_rule_packets", "Rows sent, by why there.", labels=("rule",))
        for rule, number in sorted(stats.rules.items()):
            rules.add_metric((rule.name,), number)
        yield rules
        ports = capped((((name,), _traffic(one)) for name, one in stats.ports.items()), self.most)
        peers = capped((((str(v), vtep), _traffic(one)) for (v, vtep), one in sorted(stats.peers.items())), self.most)
        named = {n.vni: ("" if n.lan else str(n.vni), n.name) for n in self.node.spec.network}
        nets = capped(((named[v], _network(one)) for v, one in sorted(stats.networks.items())), self.most)
        yield from _families(core, "port", ("port",), ports, "of ports: frames of networks, without outer headers")
        yield from _families(core, "vtep", ("vni", "vtep"), peers, "of VTEPs, by network")
        yield from _families(core, "network", ("vni", "network"), nets, "of networks")
        io = capped((((name,), one) for name, one in self.node.io_counters().items()), self.most)
        yield from _families(core, "io", ("port",), io, "of devices and sockets")
        yield gauge("connections", "Connections that there are.", stats.mesh.connections)
        for name, help in _MESH.items():
            yield counter(f"connections_{name}", help, getattr(stats.mesh, name))
        learning = core.CounterMetricFamily("vxlanfast_fdb_events", "What learning did.", labels=("event",))
        for name, number in stats.fdb.items():
            learning.add_metric((name,), number)
        yield learning
        told = capped((((s["name"], str(s["family"])), _service(s)) for s in services), self.most)
        yield from _families(core, "service", ("service", "family"), told, "of services")


#: Of PlaneStats and MeshCounts.
_PLANE = {
    "packets": ("packets", "Packets that came."),
    "passed": ("passed_packets", "Packets that were not dropped."),
    "sent": ("sent_packets", "Rows that went out."),
    "flooded": ("flooded_packets", "Frames that went to everybody or to a group."),
    "copies": ("flood_copies", "Copies that were made of them."),
    "answered": ("answered_packets", "ARP, neighbour discovery and pings that the node answered."),
    "errors": ("icmp_errors", "Packets that became ICMP errors to their senders."),
    "fragmented": ("fragmented_packets", "Packets that were fragmented."),
    "fragments": ("fragments", "What was made of them."),
    "clamped": ("clamped_syns", "SYNs whose MSS was lowered."),
}
_MESH = {
    "opened": "Connections opened.", "expired": "Connections that were silent too long.",
    "evicted": "Connections that made room for others.", "forged": "Segments nobody of the connection can have sent.",
    "resets": "Ends that were told of a connection's end.",
}  # fmt: skip


def _traffic(one: Any) -> dict[str, int]:
    return {name: getattr(one, key) for key, name in _TRAFFIC}


def _network(one: Any) -> dict[str, int]:
    own = {f"{key}_packets": getattr(one, key) for key in ("strangers", "flooded", "copies", "limited")}
    return {**_traffic(one.traffic), **own}


def _service(one: Mapping[str, Any]) -> dict[str, int]:
    return {key: one[key] for key in ("connections", "refused", "in_packets", "out_packets", "in_bytes", "out_bytes")}


def _families(
    core: Any, what: str, labels: tuple[str, ...], rows: Mapping[tuple[str, ...], Mapping[str, int]], told: str
) -> Iterator[Any]:
    """A counter for each key of the rows."""
    for key in dict.fromkeys(key for values in rows.values() for key in values):
        name = key if key.isidentifier() and key.isascii() else "unnamed"
        family = core.CounterMetricFamily(f"vxlanfast_{what}_{name}", f"{key.replace('_', ' ')} {told}", labels=labels)
        for values_of, values in rows.items():
            if key in values:
                family.add_metric(values_of, values[key])
        yield family


def registry_of(node: Measured, *, most: int = LABELS_MAX) -> Any:
    """A registry with the node in it alone, for who serves it with means of prometheus_client's own."""
    registry = _library().CollectorRegistry()
    registry.register(NodeCollector(node, most=most))
    return registry


def exposition(node: Measured) -> str:
    """Everything as text, in Prometheus' format. MissingLibraryError: prometheus_client is not there."""
    text: bytes = _library().generate_latest(registry_of(node))
    return text.decode()


# --- over HTTP ------------------------------------------------------------------------------------------


def parse_listen(text: str) -> tuple[str, int]:
    """``127.0.0.1:9469``, ``[::1]:9469``, or ``9469`` of this host alone. SpecError: it is none."""
    host, _, port = text.rpartition(":")
    host = (host[1:-1] if host.startswith("[") and host.endswith("]") else host) or "127.0.0.1"
    if not (port.isascii() and port.isdigit() and int(port[:9]) <= 65535):
        raise SpecError(f"metrics {text!r}: ADDRESS:PORT, such as 127.0.0.1:9469")
    return host, int(port)


class MetricsServer:
    """``GET /metrics`` over HTTP at an address; on this host alone unless another one is given."""

    def __init__(self, node: Measured, listen: str = "127.0.0.1:9469") -> None:
        self.collect: Callable[[], str] = lambda: exposition(node)
        self.host, self.port = parse_listen(listen)
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen; ``port`` is then the one that it is. MissingLibraryError, OutputError."""
        _library()
        try:
            self._server = await asyncio.start_server(self._accept, self.host, self.port, limit=REQUEST_MAX)
        except OSError as error:
            where = f"metrics {self.host}:{self.port}"
            raise OutputError(f"{where}: {error.strerror or error}", errno=error.errno) from None
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """No more."""
        if self._server is not None:
            self._server.close()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            with suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                if len(self._clients) <= CLIENTS_MAX:
                    async with asyncio.timeout(PATIENCE_S):
                        head = await reader.readuntil(b"\r\n\r\n")
                        writer.write(await self._answer(head))
                        await writer.drain()
        except asyncio.CancelledError:
            pass  # by ``close`` alone; asyncio before 3.12 would print what is raised here
        finally:
            self._clients.discard(task)
            writer.close()
            with suppress(Exception, asyncio.CancelledError):
                await writer.wait_closed()

    async def _answer(self, head: bytes) -> bytes:
        method, path, *_ = [*head.split(b"\r\n", 1)[0].split(b" "), b"", b""]
        if method not in (b"GET", b"HEAD"):
            return _http("405 Method Not Allowed", b"GET /metrics\n")
        if path.split(b"?", 1)[0] not in (b"/metrics", b"/"):
            return _http("404 Not Found", b"/metrics\n")
        body = (await asyncio.to_thread(self.collect)).encode()
        return _http("200 OK", body if method == b"GET" else b"", "text/plain; version=0.0.4; charset=utf-8", len(body))


def _http(status: str, body: bytes, kind: str = "text/plain", length: int | None = None) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body) if length is None else length}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body
