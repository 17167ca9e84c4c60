"""The thread that forwards, over pairs of sockets in the place of devices: no privilege needed."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import vxlanfast as vf
from tests.live import until
from vxlanfast._ext.io.tap import TapEdge
from vxlanfast.forward import Forwarder
from vxlanfast.network_spec import EndpointSpec, NetworkSpec
from vxlanfast.node_spec import NodeSpec

VNET_HDR = bytes(10)


def network(name: str, vni: int, mac: str) -> NetworkSpec:
    ends = (EndpointSpec(port=name, mac=mac), EndpointSpec(vtep="192.0.2.2", mac="02:00:00:00:00:99"))
    return NetworkSpec(name=name, vni=vni, endpoint=ends)


A, B = network("a", 1, "02:00:00:00:00:0a"), network("b", 2, "02:00:00:00:00:0b")
#: The number of a port is another one in each.
SPECS = NodeSpec(vtep=("192.0.2.1",), network=(A, B)), NodeSpec(vtep=("192.0.2.1",), network=(B, A))
FRAME = bytes.fromhex("020000000099 02000000000a 0800") + bytes(46)


@contextlib.contextmanager
def device() -> Iterator[tuple[socket.socket, TapEdge]]:
    """What a station writes to and reads from, and the edge at the other end."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with here, there:
        there.setblocking(False)
        here.setblocking(False)
        yield here, TapEdge(there.fileno())


def test_frames_keep_their_port_while_it_gets_another_number() -> None:
    """A configuration that numbers ports anew, under traffic: no frame is taken for one of another network's."""
    with device() as (station, one), device() as (other, two), contextlib.ExitStack() as stack:
        plane = vf.Dataplane(SPECS[0])
        forwarder = Forwarder(plane)
        edges = {"a": one, "b": two}
        ending = threading.Event()

        def send() -> None:
            while not ending.is_set():
                with contextlib.suppress(BlockingIOError):
                    for _ in range(16):
                        station.send(VNET_HDR + FRAME)
                ending.wait(0.0005)

        def wire() -> None:
            forwarder.set_edges([(plane.ports[name], edge, True) for name, edge in edges.items()])

        wire()
        sender = threading.Thread(target=send)
        forwarder.start()
        sender.start()
        stack.callback(forwarder.stop)
        stack.callback(sender.join)
        stack.callback(ending.set)
        seen = 0
        for turn in range(50):
            before = seen
            until("frames go on", lambda: plane.stats().ports["a"].rx_packets > 0)
            prepared = plane.prepare(SPECS[(turn + 1) % 2])
            with forwarder.paused():
                stats = plane.stats()
                assert stats.ports["b"].rx_packets == 0, f"turn {turn}: {stats}"
                seen += stats.ports["a"].rx_packets
                plane.apply(prepared)
                wire()
            assert seen > before
        assert plane.spec is SPECS[0]
        other.close()


def test_injected_frames_keep_their_port() -> None:
    """They are of a port's name: its number may be another one when their turn comes."""
    with device() as (_, one):
        plane = vf.Dataplane(SPECS[0])
        forwarder = Forwarder(plane)
        forwarder.set_edges([(plane.ports["a"], one, True)])
        forwarder.start()
        try:
            with forwarder.paused():
                forwarder.inject("a", [FRAME])
                forwarder.inject("nobody", [FRAME])
                plane.apply(SPECS[1])
                forwarder.set_edges([(plane.ports["a"], one, True)])
            until("it is seen", lambda: plane.stats().ports["a"].rx_packets == 1)
            assert plane.stats().ports["b"].rx_packets == 0
            assert forwarder.inject_drops == 1
        finally:
            forwarder.stop()


def test_pauses_may_be_nested() -> None:
    """Each is over when the outermost is; the thread ends in the midst of one too."""
    plane = vf.Dataplane(SPECS[0])
    forwarder = Forwarder(plane)
    with forwarder.paused():  # before it began as well
        pass
    forwarder.start()
    with forwarder.paused(), forwarder.paused():
        batches = forwarder.ticks
    until("it goes on", lambda: forwarder.ticks > batches)
    forwarder.stop()
