"""A UDP socket as a way in: datagrams with the headers they came under, what was lost, and hostile ones."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6

from tests.support import PATIENCE_S
from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.io.mirror import MirrorSocket
from vxlanfast._ext.node.decap import Decap
from vxlanfast._ext.verdict import Verdict

VXLAN = bytes.fromhex("0800000000002a00")
HOSTS = {4: "127.0.0.1", 6: "::1"}
LENGTHS = (0, 1, 7, 8, 21, 22, 1400, 2047, 2048, 2049, 9000, 65507)


@contextmanager
def pair(version: int = 4, **options: int) -> Iterator[tuple[MirrorSocket, socket.socket, int]]:
    """A receiver at a port of the system's choice, a socket that sends to it, and the receiver's port."""
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as there, socket.socket(family, socket.SOCK_DGRAM) as here:
        try:
            there.bind((HOSTS[version], 0))
            here.bind((HOSTS[version], 0))
        except OSError as error:
            pytest.skip(f"no IPv{version} here: {error}")
        mirror = MirrorSocket(there.fileno(), **options)
        here.connect(there.getsockname()[:2])
        yield mirror, here, there.getsockname()[1]


def take(mirror: MirrorSocket, batch: PacketBatch, count: int, *, port_in: int = 0) -> None:
    """Receive until so many rows are there."""
    until = time.monotonic() + PATIENCE_S
    while len(batch) < count and time.monotonic() < until:
        mirror.receive(batch, port_in)
    assert len(batch) == count


@pytest.mark.parametrize("version", [4, 6])
def test_rows_are_the_packets_of_the_wire(version: int) -> None:
    """Outer headers as scapy reads them: addresses, ports, lengths, TTL, TOS, checksums."""
    with pair(version) as (mirror, here, port):
        if version == 4:
            here.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 77)
            here.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0xB8)
        else:
            here.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 77)
            here.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, 0xB8)
        payloads = [VXLAN + random.Random(n).randbytes(n) for n in LENGTHS if n <= 65507 - 8]
        before = time.time_ns()
        for payload in payloads:
            here.send(payload)
        batch = PacketBatch()
        take(mirror, batch, len(payloads), port_in=3)
        for i, payload in enumerate(payloads):
            frame = bytes(batch.frame(i))
            packet = IP(frame) if version == 4 else IPv6(frame)
            assert (packet.src, packet.dst) == (HOSTS[version],) * 2
            assert (packet[UDP].sport, packet[UDP].dport) == (here.getsockname()[1], port)
            assert frame[-len(payload) :] == payload
            assert packet[UDP].len == len(payload) + 8
            if version == 4:
                assert (packet.ttl, packet.tos, packet.len, packet[UDP].chksum) == (77, 0xB8, len(frame), 0)
                assert packet.chksum == IP(bytes(packet.copy())).chksum
                del packet.chksum
                assert IP(bytes(packet)).chksum == IP(frame).chksum
            else:
                assert (packet.hlim, packet.tc, packet.plen) == (77, 0xB8, len(frame) - 40)
                said = packet[UDP].chksum
                del packet[UDP].chksum
                assert IPv6(bytes(packet))[UDP].chksum == said
            assert (batch.link[i], batch.port_in[i], batch.wire_lengths[i]) == (101, 3, len(frame))
            assert before - 10**9 <= batch.ts_ns[i] <= time.time_ns() + 10**9
        counters = mirror.counters()
        assert counters["rx_packets"] == len(payloads) and counters["rx_bytes"] == sum(map(len, payloads))
        assert counters["rx_drops"] == counters["rx_truncated"] == 0


def test_decapsulated_strictly() -> None:
    """Over IPv6 the checksum is right, so that even the strict policy lets them in."""
    for version in (4, 6):
        with pair(version) as (mirror, here, port):
            for n in range(14, 114):
                here.send(VXLAN + bytes(range(n)))
            batch = PacketBatch(rows=16, arena_len=64)  # grows
            take(mirror, batch, 100)
            Decap([port], strict=True).process(batch)
            assert batch.counts() == {Verdict.PASS: 100}
            assert [bytes(batch.frame(i)) for i in range(100)] == [bytes(range(n)) for n in range(14, 114)]


def test_what_is_longer_than_the_snaplen_is_cut_and_counted() -> None:
    with pair(snaplen=100) as (mirror, here, port):
        for n in (92, 93, 3000):
            here.send(VXLAN + bytes(n))
        batch = PacketBatch()
        take(mirror, batch, 3)
        assert list(batch.lengths) == [128, 128, 128]
        assert list(batch.wire_lengths) == [128, 129, 3036]
        assert mirror.truncated == 2
        Decap([port]).process(batch)
        assert batch.counts() == {Verdict.PASS: 3}
        assert list(batch.wire_lengths) == [92, 93, 3000]


def test_overload_is_counted_to_the_packet() -> None:
    """A tiny buffer and a burst: received + dropped by the kernel = sent, however often one looks."""
    with pair(buffer_len=4096) as (mirror, here, _):
        batch, sent, got = PacketBatch(), 0, 0
        for _ in range(5):
            for _ in range(500):
                sent += here.send(VXLAN + bytes(1000)) > 0
            batch.clear()
            got += mirror.receive(batch)
            assert got + mirror.dropped <= sent  # loopback may take its time
        until = time.monotonic() + PATIENCE_S
        while got + mirror.dropped < sent and time.monotonic() < until:
            batch.clear()
            got += mirror.receive(batch)
        assert got + mirror.dropped == sent == 2500
        assert 0 < mirror.dropped < sent and mirror.packets == got


def test_limit_and_more_than_one_call() -> None:
    with pair() as (mirror, here, _):
        for n in range(150):
            here.send(VXLAN + n.to_bytes(2, "big") * 10)
        batch = PacketBatch()
        take_first = mirror.receive(batch, limit=100)
        assert take_first <= 100
        take(mirror, batch, 150)
        assert [bytes(batch.frame(i))[-2:] for i in range(150)] == [n.to_bytes(2, "big") for n in range(150)]
        assert mirror.receive(batch) == 0  # it never waits


def test_hostile_datagrams() -> None:
    """Anything at all: every row is a packet with a verdict, and nothing is raised."""
    rng = random.Random(5)
    with pair() as (mirror, here, port):
        node = Decap([port], levels=0)
        geneve = Decap([1], geneve_ports=[port], levels=0)
        for round_ in range(20):
            batch = PacketBatch()
            for _ in range(40):
                data = bytearray(rng.randbytes(rng.choice((0, 1, 4, 8, 9, 30, 70, 400))))
                if data and rng.random() < 0.7:
                    data[0] = rng.choice((0x08, 0x00, 0x3F, 0x02, 0xFF))
                if len(data) > 4 and rng.random() < 0.7:
                    data[2:4] = rng.choice((b"\x65\x58", b"\x08\x00", b"\x86\xdd"))
                here.send(data)
            take(mirror, batch, 40)
            (node if round_ % 2 else geneve).process(batch)
            assert sum(batch.counts().values()) == 40


def test_not_a_udp_socket(tmp_path) -> None:
    with (tmp_path / "file").open("w") as file, pytest.raises(OSError, match="no socket"):
        MirrorSocket(file.fileno())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, pytest.raises(ValueError, match="address family"):
        MirrorSocket(sock.fileno())
    with pair() as (mirror, here, _):
        with pytest.raises(ValueError, match="snaplen"):
            MirrorSocket(here.fileno(), snaplen=0)
        here.send(VXLAN)
        batch = PacketBatch()
        take(mirror, batch, 1)
        view = batch.vni
        with pytest.raises(BufferError, match="receive into"):
            mirror.receive(batch)
        view.release()
