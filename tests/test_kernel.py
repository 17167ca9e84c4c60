"""The Linux kernel's vxlan device takes what we encapsulate, and we take what it encapsulates: the same frames, to the
byte. In network namespaces of the test's own."""

from __future__ import annotations

import contextlib
import os
import random
import select
import shutil
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from tests import make_fixtures as fx
from tests.lab import inside, ip, packet_socket
from tests.support import csum, udp_csum
from vxlanfast import PacketBatch, TunnelSpec, Verdict, encap_batch
from vxlanfast._ext.node.decap import Decap
from vxlanfast._ext.node.reassemble import Reassemble

pytestmark = pytest.mark.root

PACKET_OUTGOING = 4
VNI = 42
UDP_VXLAN_LEN = 16
KERNEL_MAC, OUR_MAC = "02:00:00:00:01:01", "02:00:00:00:01:02"
V4 = {"src": "192.0.2.2", "dst": "192.0.2.1"}  # ours, the kernel's
V6 = {"src": "2001:db8::2", "dst": "2001:db8::1"}


class Lab:
    """Two namespaces and a cable: the kernel's with a vxlan device, and ours with a socket at the cable's end."""

    def __init__(self, family: int) -> None:
        self.family = family
        tag = f"vf{os.getpid():x}-{random.randrange(1 << 16):04x}"
        self.kernel, self.ours = f"{tag}k", f"{tag}o"
        self.sockets: list[socket.socket] = []
        try:
            self.build()
        except BaseException:
            self.close()
            raise

    def build(self) -> None:
        ip("netns", "add", self.kernel)
        ip("netns", "add", self.ours)
        for namespace in (self.kernel, self.ours):
            with (
                inside(namespace),
                contextlib.suppress(OSError),
                open("/proc/sys/net/ipv6/conf/default/accept_dad", "w") as file,
            ):
                file.write("0")  # no addresses that wait to be taken
        ip(
            "-n",
            self.kernel,
            "link",
            "add",
            "wire",
            "type",
            "veth",
            "peer",
            "name",
            "wire",
            "netns",
            self.ours,
        )
        ip("-n", self.kernel, "link", "set", "wire", "address", KERNEL_MAC, "mtu", "9000", "up")
        ip("-n", self.ours, "link", "set", "wire", "address", OUR_MAC, "mtu", "9000", "up")
        addresses = V4 if self.family == 4 else V6
        net = "24" if self.family == 4 else "64"
        extra = [] if self.family == 4 else ["nodad"]
        ip("-n", self.kernel, "addr", "add", f"{addresses['dst']}/{net}", "dev", "wire", *extra)
        ip(
            "-n",
            self.kernel,
            "neigh",
            "replace",
            addresses["src"],
            "lladdr",
            OUR_MAC,
            "dev",
            "wire",
            "nud",
            "permanent",
        )
        ip(
            "-n", self.kernel, "link", "add", "vx", "type", "vxlan", "id", str(VNI), "dstport", "4789", "local",
            addresses["dst"], "remote", addresses["src"], "dev", "wire", "nolearning", "udpcsum", "ttl", "64",
            "noudp6zerocsumrx", "noudp6zerocsumtx",
        )  # fmt: skip
        ip("-n", self.kernel, "link", "set", "vx", "mtu", "1450", "up", "promisc", "on")
        self.wire = self.open(self.ours, "wire")
        self.overlay = self.open(self.kernel, "vx")
        # Multicast listener reports and the like come first.
        time.sleep(0.05)
        self.drain(self.wire), self.drain(self.overlay)

    def open(self, namespace: str, interface: str) -> socket.socket:
        sock = packet_socket(namespace, interface)
        self.sockets.append(sock)
        return sock

    def drain(self, sock: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.recv(65536)

    def receive(self, sock: socket.socket, wanted: Any, count: int, seconds: float = 60.0) -> list[bytes]:
        """Frames that came in (not our own on their way out) and are ``wanted``, until there are ``count``."""
        out: list[bytes] = []
        end = time.monotonic() + seconds
        while len(out) < count and time.monotonic() < end:
            if not select.select([sock], [], [], 0.05)[0]:
                continue
            with contextlib.suppress(BlockingIOError):
                while len(out) < count:
                    frame, address = sock.recvfrom(262144)
                    if address[2] != PACKET_OUTGOING and wanted(frame):
                        out.append(frame)
        return out

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        for namespace in (self.kernel, self.ours):
            with contextlib.suppress(OSError):
                ip("netns", "del", namespace)


def lab_of(family: int) -> Iterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces")
    if shutil.which("ip") is None:
        pytest.skip("needs iproute2: the ip program is not installed")
    try:
        made = Lab(family)
    except OSError as error:
        pytest.skip(f"no network namespaces or no vxlan device here: {error}")
    cpus = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(cpus)})  # on one processor packets stay in order
        yield made
    finally:
        os.sched_setaffinity(0, cpus)
        made.close()


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    yield from lab_of(request.param)


@pytest.fixture
def lab4() -> Iterator[Lab]:
    yield from lab_of(4)


def frames(count: int = 60, *, most: int = 1436) -> list[bytes]:
    """Frames of every kind that a device passes up whatever it is configured with: their addresses are its own bridge's
    to judge, not the tunnel's."""
    rng = random.Random(count)
    head = Ether(src=fx.INNER_A, dst=fx.INNER_B)
    a, b = "203.0.113.1", "203.0.113.2"
    kinds = [
        lambda body: head / IP(src=a, dst=b) / UDP(sport=rng.randrange(1, 65536), dport=9) / Raw(body),
        lambda body: (
            head / IP(src=a, dst=b, flags="DF") / TCP(sport=rng.randrange(1, 65536), dport=80) / Raw(body)
        ),
        lambda body: head / IP(src=a, dst=b) / ICMP(id=3) / Raw(body),
        lambda body: head / Dot1Q(vlan=7) / IP(src=a, dst=b) / UDP(sport=5, dport=9) / Raw(body),
        lambda body: (
            head / IPv6(src="2001:db8:1::1", dst="2001:db8:1::2") / UDP(sport=5, dport=9) / Raw(body)
        ),
        lambda body: (
            Ether(src=fx.INNER_A, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=fx.INNER_A, psrc=a, pdst=b) / Raw(body)
        ),
        lambda body: Ether(src=fx.INNER_A, dst=fx.INNER_B, type=0x88B5) / Raw(body or b"x"),
    ]
    out = []
    for n in range(count):
        size = rng.choice((0, 1, 18, 64, 200, 511, 1000, most - 100))
        frame = bytes(kinds[n % len(kinds)](rng.randbytes(size)))
        out.append(frame[:most] if len(frame) > most else frame)
    return out


def is_ours(frame: bytes) -> bool:
    """One of the test's frames: not the kernel's own neighbour discovery."""
    return frame[6:12] == bytes.fromhex(fx.INNER_A.replace(":", ""))


def encapsulated(inner: list[bytes], lab: Lab, **spec: Any) -> list[bytes]:
    addresses = V4 if lab.family == 4 else V6
    batch = PacketBatch.from_frames(inner)
    encap_batch(batch, TunnelSpec(vni=VNI, smac=OUR_MAC, dmac=KERNEL_MAC, **addresses, **spec))
    assert batch.counts() == {Verdict.PASS: len(batch)}
    return [bytes(batch.frame(row)) for row in batch.passed()]


def without_tag(frame: bytes) -> bytes:
    """The kernel takes a VLAN tag off on the way in and tells of it beside the packet."""
    return frame[:12] + frame[16:] if frame[12:14] == b"\x81\0" else frame


@pytest.mark.parametrize(
    "spec",
    [{}, {"udp_csum": "on"}, {"df": True, "dscp": "inherit"}, {"sport": 4789, "ttl": 1}, {"dscp": 46}],
    ids=lambda spec: ",".join(f"{k}={v}" for k, v in spec.items()) or "default",
)
def test_the_kernel_takes_ours(lab: Lab, spec: dict[str, Any]) -> None:
    inner = frames()
    for frame in encapsulated(inner, lab, **spec):
        lab.wire.send(frame)
    got = lab.receive(lab.overlay, is_ours, len(inner))
    assert got == [without_tag(frame) for frame in inner]


def test_the_kernel_puts_our_fragments_together(lab: Lab) -> None:
    """MTU 1280: two to seven pieces of each, and a device whose own MTU lets the whole through."""
    ip("-n", lab.kernel, "link", "set", "vx", "mtu", "8900")
    inner = [frame + bytes(n * 230) for n, frame in enumerate(frames(30, most=7000))]
    wire = encapsulated(inner, lab, mtu=1280, mtu_policy="fragment")
    assert len(wire) > 2 * len(inner)
    assert max(map(len, wire)) <= 1280 + 14
    for frame in wire:
        lab.wire.send(frame)
    got = lab.receive(lab.overlay, is_ours, len(inner))
    assert sorted(got) == sorted(without_tag(frame) for frame in inner)


def outer_is_right(frame: bytes, family: int) -> None:
    """The kernel's own checksums, where it has computed them: the test of our strict policy on an outside packet."""
    if family == 4:
        assert csum(frame[14:34]) == 0
        assert udp_csum(frame[26:30], frame[30:34], frame[34:]) == 0
    else:
        assert udp_csum(frame[22:38], frame[38:54], frame[54:]) == 0


def test_we_take_the_kernels(lab: Lab) -> None:
    inner = [frame for frame in frames() if frame[12:14] != b"\x81\0"]
    send = lab.overlay
    for frame in inner:
        send.send(frame)

    def is_vxlan(frame: bytes) -> bool:
        verdict, _, _, _, start, end = Decap([4789]).find(frame)
        return verdict == Verdict.PASS and is_ours(frame[start:end])

    outer = lab.receive(lab.wire, is_vxlan, len(inner))
    assert len(outer) == len(inner)
    batch = PacketBatch.from_frames(outer)
    Decap([4789]).process(batch)
    assert batch.counts() == {Verdict.PASS: len(inner)}
    assert set(batch.vni) == {VNI}
    assert [bytes(batch.frame(i)) for i in range(len(batch))] == inner
    l4 = 34 if lab.family == 4 else 54
    computed = [frame for frame in outer if Decap([4789], strict=True).find(frame)[0] == Verdict.PASS]
    for frame in computed:
        outer_is_right(frame, lab.family)
    assert {frame[l4 + 2 : l4 + 4] for frame in outer} == {b"\x12\xb5"}


def test_we_take_what_the_kernel_fragments(lab4: Lab) -> None:
    """A device MTU above the wire's: over IPv4 the kernel sends fragments (over IPv6 nothing), and --reassemble makes
    its packets of them."""
    ip("-n", lab4.kernel, "link", "set", "vx", "mtu", "8900")
    ip("-n", lab4.kernel, "link", "set", "wire", "mtu", "1500")
    ip("-n", lab4.ours, "link", "set", "wire", "mtu", "1500")
    head = Ether(src=fx.INNER_A, dst=fx.INNER_B)
    inner = [
        bytes(
            head
            / IP(src="203.0.113.1", dst="203.0.113.2")
            / UDP(sport=n + 1, dport=9)
            / Raw(bytes([n]) * (2000 + 300 * n))
        )
        for n in range(15)
    ]
    for frame in inner:
        lab4.overlay.send(frame)

    def is_udp(frame: bytes) -> bool:
        return frame[12:14] == b"\x08\0" and frame[23] == 17

    pieces = sum(-(-(UDP_VXLAN_LEN + len(frame)) // 1480) for frame in inner)
    assert pieces > 2 * len(inner)
    outer = lab4.receive(lab4.wire, is_udp, pieces)
    batch = PacketBatch.from_frames(outer)
    node = Reassemble()
    node.process(batch)
    Decap([4789]).process(batch)
    got = [bytes(batch.frame(row)) for row in batch.passed()]
    assert [frame for frame in got if is_ours(frame)] == inner
    assert node.table.counters()["completed"] == len(inner)
    assert node.table.counters()["waiting"] == 0


def test_nothing_is_left_behind() -> None:
    """The namespaces of this process are gone, also when a test has failed."""
    here = f"vf{os.getpid():x}-"
    folder = "/run/netns"
    assert not os.path.isdir(folder) or not [name for name in os.listdir(folder) if name.startswith(here)]
