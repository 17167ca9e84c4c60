"""A node for tests of what asks running nodes: a plane, and its control socket served by a loop in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import vxlanfast as vf
from vxlanfast.control import ControlServer

NODE = """
[node]
name = "lab"
vtep = "192.0.2.1"
[[network]]
name = "web"
vni = 42
subnet = "10.0.9.0/24"
gateway = "10.0.9.1"
[[network.endpoint]]
port = "veth1"
ip = "10.0.9.3"
[[network.endpoint]]
port = "veth2"
ip = "10.0.9.5"
[[network.endpoint]]
vtep = "192.0.2.2"
ip = "10.0.9.4"
[[network.peer]]
vtep = "192.0.2.3"
[[network]]
name = "db"
vni = 7
[[network.endpoint]]
port = "veth7"
mac = "02:00:00:00:00:07"
[[service]]
name = "shop"
servers_in = "web"
[[service.virtual]]
network = "web"
address = "10.0.9.100"
protocol = "tcp"
port = 80
[[service.server]]
address = "10.0.9.3"
[[service.server]]
address = "10.0.9.4"
weight = 2
"""


class StandIn:
    """What a running node is to its control socket."""

    def __init__(self, spec: vf.NodeSpec) -> None:
        self.plane = vf.Dataplane(spec)
        self.lock = threading.RLock()
        self.reloads = 0
        self.refuse = ""
        self.stopped = threading.Event()
        self.came: list[tuple[str, list[bytes]]] = []

    @property
    def spec(self) -> vf.NodeSpec:
        return self.plane.spec

    async def reload(self, spec: vf.NodeSpec | None = None) -> None:
        if self.refuse:
            raise vf.SpecError(self.refuse)
        self.reloads += 1

    def io_counters(self) -> dict[str, dict[str, int]]:
        return {"underlay": {"rx_packets": 1234, "rx_drops": 5}, "veth1": {"rx_packets": 7, "tx_packets": 8}}

    def inject(self, port: str, frames: list[bytes]) -> None:
        self.came.append((port, frames))

    def process(self, port: str, *frames: bytes, now_ns: int = 0) -> list[tuple[str, bytes]]:
        """As the thread that forwards does."""
        with self.lock:
            return self.plane.offer(port, *frames, now_ns=now_ns)


@contextlib.contextmanager
def serving(path: Path, node: StandIn | None = None, **more: Any) -> Iterator[StandIn]:
    """A node whose control socket is ``path``; behind it, everything is closed and nothing is left."""
    node = StandIn(vf.parse_spec(NODE)) if node is None else node
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = ControlServer(node, str(path), stop=node.stopped.set, **more)
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(60)
        yield node
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
