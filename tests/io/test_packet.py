"""A packet socket as a way in, over a veth in namespaces."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab import carried, inside, ip, namespaces, need_root, packet_socket
from tests.support import PATIENCE_S
from vxlanfast._ext.batch import PacketBatch
from vxlanfast.errors import DeviceError
from vxlanfast.sockets import PacketEdge, open_packet

HEADER = bytes.fromhex("02000000000b 02000000000a 88b5")  # IEEE 802 local experimental ethertype: nobody else's


@contextmanager
def wire() -> Iterator[tuple[str, str]]:
    """Two namespaces and a veth ``v0`` between them, without addresses."""
    need_root()
    with namespaces("a", "b") as (a, b):
        ip("-n", a, "link", "add", "v0", "type", "veth", "peer", "name", "v0", "netns", b)
        for name in (a, b):
            with inside(name), open("/proc/sys/net/ipv6/conf/v0/disable_ipv6", "w") as file:
                file.write("1")
            ip("-n", name, "link", "set", "v0", "up")
        carried("v0", a, b)
        yield a, b


def take(edge: PacketEdge, count: int, port_in: int = 0) -> PacketBatch:
    batch, until = PacketBatch(), time.monotonic() + PATIENCE_S
    while len(batch) < count and time.monotonic() < until:
        edge.edge.receive(batch, port_in)
    assert len(batch) == count
    return batch


@pytest.mark.root
def test_frames_in_with_their_tags() -> None:
    """Every length; a tag that the kernel takes off on receipt is put back where it was."""
    frames = [HEADER + bytes(n % 251 for n in range(length)) for length in (46, 100, 1486, 1500)]
    frames += [
        f[:12] + bytes.fromhex(tag) + f[12:] for f in frames[:2] for tag in ("81000007", "88a80fff", "88a8000181000002")
    ]
    with wire() as (a, b):
        with inside(a):
            edge = open_packet("v0")
        with edge, packet_socket(b, "v0") as sock:
            before = time.time_ns()
            for frame in frames:
                sock.send(frame)
            batch = take(edge, len(frames), port_in=9)
            assert [bytes(batch.frame(i)) for i in range(len(frames))] == frames
            assert set(batch.link) == {1} and set(batch.port_in) == {9}
            assert all(before - 10**9 <= ts <= time.time_ns() + 10**9 for ts in batch.ts_ns)
            assert edge.edge.counters()["rx_packets"] == len(frames)
            assert edge.edge.dropped == 0


@pytest.mark.root
def test_outgoing_frames_are_a_captures_to_see() -> None:
    with wire() as (a, b):
        with inside(a):
            seen, arriving = open_packet("v0"), open_packet("v0", outgoing=False)
        with seen, arriving, packet_socket(a, "v0") as here, packet_socket(b, "v0") as there:
            here.send(HEADER + bytes(50))
            there.send(HEADER + bytes(51))
            both = take(seen, 2)
            assert {len(both.frame(i)) for i in range(2)} == {64, 65}
            assert len(take(arriving, 1).frame(0)) == 65


@pytest.mark.root
def test_overload_is_counted() -> None:
    with wire() as (a, b):
        with inside(a):
            edge = open_packet("v0", buffer_len=4096)
        with edge, packet_socket(b, "v0") as sock:
            for _ in range(500):
                sock.send(HEADER + bytes(1000))
            batch, got, until = PacketBatch(), 0, time.monotonic() + PATIENCE_S
            while got + edge.edge.dropped < 500 and time.monotonic() < until:
                batch.clear()
                got += edge.edge.receive(batch)
            assert got + edge.edge.dropped == 500 and edge.edge.dropped > 0


@pytest.mark.root
def test_an_interface_that_goes_down_and_away() -> None:
    with wire() as (a, b):
        with inside(a):
            edge = open_packet("v0")
        with edge:
            ip("-n", a, "link", "set", "v0", "down")
            with pytest.raises(OSError, match="packet socket"):
                edge.edge.receive(PacketBatch())
            ip("-n", a, "link", "set", "v0", "up")
            carried("v0", a, b)
            with packet_socket(b, "v0") as sock:
                sock.send(HEADER + bytes(50))
                assert bytes(take(edge, 1).frame(0)) == HEADER + bytes(50)


def test_no_such_interface() -> None:
    with pytest.raises(DeviceError, match=r"nosuch: no such interface; there are .*lo"):
        open_packet("nosuch")


def test_not_a_packet_socket() -> None:
    from vxlanfast._ext.io.packet import PacketSocket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with pytest.raises(OSError, match="no packet socket"):
            PacketSocket(sock.fileno())
        with pytest.raises(ValueError, match="snaplen"):
            PacketSocket(sock.fileno(), snaplen=1)
