"""The loop's two ends, and the way out that ends in Python."""

from __future__ import annotations

import errno
import socket
import threading
import time

import pytest

import vxlanfast as vf
from tests.io.edges import drain, pair, udp, vnet
from vxlanfast._ext.io.poller import Poller, live_batch
from vxlanfast._ext.io.queue import QueueEdge
from vxlanfast._ext.io.tap import TapEdge

SPEC = """
[node]
vtep = "192.0.2.1"
[[network]]
name = "n"
vni = 42
[[network.endpoint]]
port = "a"
mac = "02:00:00:00:00:0a"
[[network.endpoint]]
port = "b"
mac = "02:00:00:00:00:0b"
"""


def test_from_one_to_the_other() -> None:
    """Two devices and a plane: what comes by one leaves by the other, in batches."""
    plane = vf.Dataplane(vf.parse_spec(SPEC))
    (a, a_end), (b, b_end) = pair(), pair()
    poller, batch = Poller(), live_batch()
    poller.add(plane.ports["a"], TapEdge(a.fileno()))
    poller.add(plane.ports["b"], TapEdge(b.fileno()))
    frames = [udp(4, bytes([n])) for n in range(100)]
    for frame in frames:
        a_end.send(vnet() + frame)
    got: list[bytes] = []
    while len(got) < len(frames):
        rows, now_ns, failed = poller.wait(batch, 2000)
        assert 0 < rows <= 64 and not failed and now_ns > 0
        assert poller.send(plane.process(batch)) == 0
        got += [one[10:] for one in drain(b_end)]
    assert got == frames and plane.stats().sent == 100
    for sock in (a, a_end, b, b_end):
        sock.close()


def test_waiting() -> None:
    """For a time, not at all, with a look before sleeping, and until somebody wakes it."""
    poller, batch = Poller(), live_batch()
    assert poller.wait(batch, 0)[0] == 0 and poller.waits == 0
    assert poller.wait(batch, 1)[0] == 0 and poller.waits == 1
    assert poller.wait(batch, 1, 100)[0] == 0 and poller.waits == 2
    poller.wake()
    assert poller.wait(batch, -1)[0] == 0
    thread = threading.Timer(0.05, poller.wake)
    thread.start()
    began = time.monotonic()
    assert poller.wait(batch, 60_000)[0] == 0 and time.monotonic() - began < 50
    thread.join()


def test_edges_that_go() -> None:
    """Removed, or broken by a read: rows for them have no port, and are counted."""
    a, end = pair()
    poller, batch = Poller(), live_batch()
    edge = TapEdge(a.fileno())
    poller.add(7, edge)
    rows = vf.PacketBatch.from_frames([udp(4, b"x")])
    rows.port_out[0] = 7
    assert poller.send(rows) == 0 and len(drain(end)) == 1
    poller.remove(edge)
    assert poller.send(rows) == 1 and poller.no_port == 1
    poller.add(7, edge, send=False)
    assert poller.send(rows) == 1
    poller.clear()
    poller.add(7, edge)
    end.send(vnet() + udp(4, b"y"))
    assert poller.wait(batch, 2000)[0] == 1
    view = batch.verdict
    with pytest.raises(BufferError):
        poller.wait(batch, 0)
    del view
    with pytest.raises(OSError, match="epoll of descriptor"):
        poller.add(8, TapEdge(99999))
    a.close(), end.close()


def test_a_file_that_cannot_be_read() -> None:
    """Its errno is kept, it is not asked again, and the loop says so once. A listening socket is one: it is ready, and
    nothing can be read of it."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        poller, batch = Poller(), live_batch()
        edge = TapEdge(server.fileno())
        poller.add(1, edge)
        rows, _, failed = poller.wait(batch, 20_000)
        assert failed and rows == 0 and edge.broken == errno.ENOTCONN and poller.broken() == [(1, edge)]
        assert poller.wait(batch, 0)[2] is False
        lost = vf.PacketBatch.from_frames([udp(4, b"x")])
        lost.port_out[0] = 1
        assert poller.send(lost) == 1


def test_the_queue() -> None:
    """Frames for Python: with where they came from, so many, and none that is too long."""
    queue, poller = QueueEdge(4), Poller()
    poller.add(2, queue)
    frames = [udp(4, bytes([n])) for n in range(6)] + [udp(4, bytes(3000))]
    batch = vf.PacketBatch.from_frames(frames)
    for i in range(len(batch)):
        batch.port_out[i] = 2
    poller.send(batch)
    assert len(queue) == 4
    assert [frame for _, frame in queue.take()] == frames[:4]
    assert len(queue) == 0 and queue.take() == []
    counters = queue.counters()
    assert (counters["tx_packets"], counters["tx_drops"], counters["tx_too_long"]) == (4, 3, 1)
    assert queue.fileno() == -1 and queue.broken == 0
    with pytest.raises(ValueError, match="capacity = 0: 1 to 65536 frames"):
        QueueEdge(0)
