"""A plane's name server: through the plane, with others to ask, and as the kernel's own clients see it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import dns.flags
import dns.message
import dns.query
import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

import vxlanfast as vf
from tests.lab import inside, ip, namespaces, need_root
from tests.stubs import HIS4, HIS6, OTHER, OWN4, OWN6, SECOND, framed, net
from tests.test_names import TOML
from tests.test_resolver import answer_to, server
from vxlanfast.addr import parse_ip
from vxlanfast.nameserver import NameServer
from vxlanfast.service_spec import ServerSpec
from vxlanfast.upstream import Upstream


class Node:
    """A plane, its name server and what it sends late."""

    def __init__(self, upstream: Upstream | None = None, toml: str = TOML, **options: Any) -> None:
        self.plane = vf.Dataplane(vf.parse_spec(toml))
        self.sent: list[tuple[str, bytes]] = []
        self.lock = threading.RLock()
        self.clock = lambda: 0
        self.names = NameServer(
            self.plane, self.send, lock=self.lock, upstream=upstream, now_ns=lambda: self.clock(), **options
        )

    def send(self, port: str, frames: list[bytes]) -> None:
        """As a live node's ``inject``."""
        with self.lock:
            for frame in frames:
                self.sent += self.plane.offer(port, frame)

    def offer(self, port: str, frame: bytes) -> list[tuple[str, bytes]]:
        """A frame by a port; what comes out by others, with what the resolver says to it."""
        out = []
        for where, made in self.plane.offer(port, frame):
            if where.startswith("resolver:"):
                for answer in self.names.frames(where, port if port != "underlay" else None, made, self.clock()):
                    out += self.plane.offer(where, answer)
            else:
                out.append((where, made))
        return out


def question(name: str, kind: str = "A", **options: Any) -> bytes:
    return bytes(net(4) / UDP(sport=4000, dport=53) / Raw(dns.message.make_query(name, kind, **options).to_wire()))


def message(frame: bytes) -> dns.message.Message:
    return dns.message.from_wire(bytes(Ether(frame)[UDP].payload))


def test_through_a_plane() -> None:
    node = Node()
    [(port, frame)] = node.offer("back1", question("tasks.rr"))
    assert port == "back1"
    assert {str(data) for rrset in message(frame).answer for data in rrset} == {"10.0.9.4", "10.0.9.5"}
    assert node.names.counters() == {
        "frames": 1, "foreign": 0, "questions": 1, "answered": 1, "forwarded": 0, "silent": 0, "busy": 0, "failed": 0,
    }  # fmt: skip


def test_peers_are_not_answered() -> None:
    """Each node has its own clients; who may ask is who is behind a port of the same network."""
    node = Node()
    frame = question("rr")
    assert node.names.frames("resolver:back", None, frame, 0) == []
    assert node.names.frames("resolver:back", "front1", frame, 0) == []
    assert node.names.frames("resolver:back", "resolver:front", frame, 0) == []
    assert node.names.frames("resolver:back", "underlay", frame, 0) == []
    assert node.names.frames("back1", "back3", frame, 0) == []
    assert node.names.counters()["foreign"] == 5
    assert len(node.names.frames("resolver:back", "back3", frame, 0)) == 1


def test_nobody_to_ask() -> None:
    [(_, frame)] = Node().offer("back1", question("example.com"))
    assert message(frame).rcode() == 2


def test_another_spec() -> None:
    """Connections of a resolver that stays go on; the profile is the new spec's, and its lengths."""
    node = Node()
    wire = dns.message.make_query("rr", "TXT").to_wire()
    made = node.names
    peer_syn = bytes(net(4) / TCP(sport=4000, dport=53, flags="S"))
    assert len(made.frames("resolver:back", "back1", peer_syn, 0)) == 1 and made.connections() == 1
    node.plane.apply(vf.parse_spec(TOML.replace('"10.0.8.253"', '"10.0.8.252"')))
    made.tick(0)
    assert made.connections() == 1 and set(made._stubs) == {"resolver:Front", "resolver:back", "resolver:secret"}
    assert made._stubs["resolver:Front"].addresses == {parse_ip("10.0.8.252")}
    made.tick(2 * SECOND)
    assert [port for port, _ in node.sent] == ["back1"]  # the handshake again
    swarm = TOML.replace('gateway = "10.0.9.1"', 'gateway = "10.0.9.1"\nown = "10.0.9.8"').replace(
        'vtep = "192.0.2.1"\n', 'vtep = "192.0.2.1"\nmtu = 1280\n', 1)  # fmt: skip
    node.plane.apply(vf.parse_spec(swarm + '\n[mesh]\nprofile = "swarm"\n'))
    [frame] = made.frames("resolver:back", "back1", bytes(net(4) / UDP(sport=4000, dport=53) / Raw(wire)), 0)
    assert message(frame).rcode() == 2  # it would be asked of others
    assert made._resolver.udp_max == 1162 and made.connections() == 0  # of another MTU, so another host


def test_others_are_asked() -> None:
    """Answers come later by ``send``, over UDP and over TCP; of an internal network nobody is asked."""
    seen: list[bytes] = []

    def handler(query: bytes, tcp: bool) -> bytes:
        seen.append(query)
        return answer_to(query, 3)

    async def go() -> None:
        async with server(handler) as text:
            node = Node(Upstream([text], timeout_s=60, total_s=60))
            node.names.start()
            assert node.offer("back1", question("nosuch.example")) == []
            await arrives(lambda: len(node.sent) == 1)
            port, frame = node.sent.pop()
            assert port == "back1" and message(frame).rcode() == 3
            ip_layer = Ether(src=OTHER, dst="02:42:0a:00:07:fd") / IP(src="10.0.7.99", dst="10.0.7.253")
            asked = ip_layer / Ether(question("nosuch.example"))[UDP]
            del asked[UDP].chksum
            [(_, frame)] = node.offer("secret1", bytes(asked))
            assert message(frame).rcode() == 2 and len(seen) == 1
            assert node.names.counters()["forwarded"] == 1
            await node.names.stop()
            assert message(node.offer("back1", question("nosuch.example"))[0][1]).rcode() == 2

    asyncio.run(go())


def test_too_many_questions_for_others() -> None:
    async def go() -> None:
        async with server(lambda q, _: None) as silent:
            node = Node(Upstream([silent], limit=1, wait_s=0.1, timeout_s=0.2, total_s=30), busy_at=3, share=2)
            node.names.start()
            for _ in range(2):
                assert node.offer("back1", question("x.example")) == []
            assert message(node.offer("back1", question("x.example"))[0][1]).rcode() == 5
            await arrives(lambda: len(node.sent) == 2)
            assert sorted(message(frame).rcode() for _, frame in node.sent) == [2, 5]
            counters = node.names.counters()
            assert (counters["busy"], counters["failed"], counters["forwarded"]) == (2, 1, 2)
            assert node.offer("back1", question("x.example")) == []
            await node.names.stop()

    asyncio.run(go())


async def arrives(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not there():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


# --- the kernel's clients --------------------------------------------------------------------------------

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 2, 0x1000


@contextlib.contextmanager
def tap(namespace: str, *addresses: str) -> Iterator[int]:
    """A device of a namespace whose other end is ours: its descriptor."""
    with inside(namespace):
        try:
            device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        except OSError as error:
            pytest.skip(f"needs /dev/net/tun: {error}")
        try:
            fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", b"tap0", _IFF_TAP | _IFF_NO_PI))
        except OSError as error:
            os.close(device)
            pytest.skip(f"no TAP devices here: {error}")
    try:
        ip("-n", namespace, "link", "set", "tap0", "address", OTHER, "mtu", "1400", "up")
        for address in addresses:
            ip("-n", namespace, "address", "add", address, "dev", "tap0", *(["nodad"] if ":" in address else []))
        yield device
    finally:
        os.close(device)


@contextlib.contextmanager
def pumped(node: Node, device: int, *, lose: int = 0) -> Iterator[None]:
    """Frames go back and forth between a device and a plane's port. ``lose``: of those to it, one of so many."""
    done = threading.Event()
    sent = 0
    node.clock = time.monotonic_ns

    def write(frames: list[bytes]) -> None:
        nonlocal sent
        for frame in frames:
            sent += 1
            if not lose or sent % lose:
                with contextlib.suppress(OSError):
                    os.write(device, frame)

    def pump() -> None:
        while not done.wait(0.002):
            with contextlib.suppress(BlockingIOError):
                while True:
                    frame = os.read(device, 65536)
                    write([made for port, made in node.offer("back1", frame) if port == "back1"])
            node.names.tick(node.clock())
            write([made for _, made in node.sent])
            node.sent.clear()

    thread = threading.Thread(target=pump)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(60)
        assert not thread.is_alive()


@contextlib.contextmanager
def lab(node: Node, **options: int) -> Iterator[str]:
    need_root()
    with namespaces("a") as [one], tap(one, f"{HIS4}/24", f"{HIS6}/64") as device, pumped(node, device, **options):
        yield one


def big() -> Node:
    """Its service rr has 300 servers."""
    node = Node()
    for number in range(300):
        node.plane.add_server("rr", ServerSpec(address=f"10.1.{number // 250}.{number % 250}"))
    return node


@pytest.mark.root
@pytest.mark.parametrize("address", [OWN4, OWN6])
def test_the_kernels_udp_and_tcp(address: str) -> None:
    """ARP or ND, UDP, truncation, TCP, several questions in one connection, a port that is closed: real sockets."""
    with lab(big()) as namespace, inside(namespace):
        query = dns.message.make_query("tasks.rr", "A")
        for sport in range(3):
            answer = dns.query.udp(query, address, timeout=60, source_port=40000 + sport)
            assert answer.flags & dns.flags.TC
        answer, by_tcp = dns.query.udp_with_fallback(query, address, timeout=60)
        assert by_tcp and sum(map(len, answer.answer)) == 302
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(60)
            sock.connect((address, 53))
            for _ in range(3):
                assert sum(map(len, dns.query.tcp(query, address, sock=sock, timeout=60).answer)) == 302
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(60)
            with pytest.raises(ConnectionRefusedError):
                sock.connect((address, 54))
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(60)
            sock.connect((address, 54))
            sock.send(b"x")
            with pytest.raises(ConnectionRefusedError):
                sock.recv(1)


@pytest.mark.root
def test_the_kernels_tcp_where_frames_are_lost() -> None:
    """Every ninth frame of the resolver's; the client's half closed before the answer; a small receive buffer."""
    with lab(big(), lose=9) as namespace, inside(namespace):
        query = dns.message.make_query("tasks.rr", "A").to_wire()
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(60)
            sock.connect((OWN4, 53))
            sock.sendall(framed(*[query] * 4))
            sock.shutdown(socket.SHUT_WR)
            got = b""
            while data := sock.recv(65536):
                got += data
        for _ in range(4):
            size = int.from_bytes(got[:2])
            assert sum(map(len, dns.message.from_wire(got[2 : 2 + size]).answer)) == 302
            got = got[2 + size :]
        assert got == b""


@pytest.mark.root
def test_the_systems_resolver_and_ping() -> None:
    need_root("ping")
    node = Node()
    with lab(node) as namespace:
        for address in (OWN4, OWN6):
            ip("netns", "exec", namespace, "ping", "-c", "1", "-w", "60", "-s", "1300", address)
        with inside(namespace):
            answer = dns.query.udp(dns.message.make_query("shop.back", "A"), OWN4, timeout=60)
    assert [str(data) for rrset in answer.answer for data in rrset] == ["10.0.9.100"]
