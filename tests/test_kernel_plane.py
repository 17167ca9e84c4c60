"""The plane and the Linux kernel's vxlan device, side by side: the same frames into both, told the same, and the same
comes of them. Where they differ on purpose, the test says what either does, and why. In network namespaces of the
test's own."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import platform
import select
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from itertools import count
from typing import Any, Generic, NamedTuple, TypeVar

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

import vxlanfast as vf
from tests.lab import inside, ip
from tests.support import csum, udp_csum
from tests.test_kernel import KERNEL_MAC, OUR_MAC, PACKET_OUTGOING, Lab
from vxlanfast import Verdict as V

pytestmark = pytest.mark.root

S = 1_000_000_000
BROADCAST = "ff:ff:ff:ff:ff:ff"
NOT_ECT, ECT1, ECT0, CE = range(4)
CODE_POINTS = {"Not-ECT": NOT_ECT, "ECT(1)": ECT1, "ECT(0)": ECT0, "CE": CE}

#: VTEPs, by the last number of their address. The last is the marker's: a frame that comes after all others, so that
#: nobody has to wait for what does not come.
HOST, A, B, STRANGER, MARK = 1, 2, 3, 9, 0xFE

T = TypeVar("T")


def mac(n: int) -> str:
    return f"02:00:00:00:02:{n:02x}"


#: Here, elsewhere, and the marker's.
STATION, FAR, OTHER, MARKER = mac(1), mac(2), mac(3), mac(0xFE)


class Outer(NamedTuple):
    """What a VXLAN packet on the underlay is made of, except for an IPv4 identification, which everybody counts for
    himself, and for the MACs of the underlay."""

    src: str
    dst: str
    tos: int
    ttl: int
    df: bool
    flow_label: int
    ip_len: int
    sport: int
    dport: int
    udp_len: int
    csum: str
    vxlan: bytes
    inner: bytes


def outer_of(packet: bytes) -> Outer | None:
    """None: no UDP. Its IP header has no options, and a right checksum; it is no fragment."""
    df, label = False, 0
    if packet[12:14] == b"\x08\0" and packet[23] == 17:
        assert packet[14] == 0x45 and csum(packet[14:34]) == 0
        tos, ip_len, flags, ttl = packet[15], *struct.unpack_from(">HxxHB", packet, 16)
        df = flags == 0x4000
        assert df or flags == 0
        src, dst, at = packet[26:30], packet[30:34], 34
    elif packet[12:14] == b"\x86\xdd" and packet[20] == 17:
        word, ip_len, ttl = struct.unpack_from(">IHxB", packet, 14)
        assert word >> 28 == 6
        tos, label = word >> 20 & 0xFF, word & 0xFFFFF
        src, dst, at = packet[22:38], packet[38:54], 54
    else:
        return None
    sport, dport, udp_len, given = struct.unpack_from(">HHHH", packet, at)
    state = "none" if given == 0 else "right" if udp_csum(src, dst, packet[at:]) == 0 else "wrong"
    return Outer(
        str(ip_address(src)), str(ip_address(dst)), tos, ttl, df, label, ip_len, sport, dport, udp_len, state,
        packet[at + 8 : at + 16], packet[at + 16 :],
    )  # fmt: skip


def without_port(packets: list[Outer]) -> list[Outer]:
    """The source port is a hash of each one's own."""
    return [packet._replace(sport=0) for packet in packets]


class Outcome(NamedTuple, Generic[T]):
    """What came of the same thing in the kernel and in the plane."""

    kernel: T
    ours: T

    def same(self) -> T:
        """Of either, and it is one."""
        assert self.ours == self.kernel
        return self.kernel


def no_offload(namespace: str, interface: str) -> None:
    """Checksums stand in the packets, and are not left to a card: ``ethtool -K interface tx off``."""
    value = (ctypes.c_uint32 * 2)(0x17, 0)  # ETHTOOL_STXCSUM
    request = struct.pack("16sP", interface.encode(), ctypes.addressof(value)).ljust(40, b"\0")
    with inside(namespace), socket.socket() as sock:
        fcntl.ioctl(sock, 0x8946, request)  # SIOCETHTOOL


def told(*command: str) -> Any:
    """What a program says, in JSON."""
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout or "[]")


class Cable(Lab):
    """The kernel's namespace has one address, and every VTEP of the test is at the other end of the cable."""

    def prepare(self) -> None:
        """What is beyond the two namespaces, their cable and its addresses."""
        self.vnis = count(1000)
        for n in (A, B, STRANGER, MARK):
            arguments = ("neigh", "replace", self.vtep(n), "lladdr", OUR_MAC, "dev", "wire", "nud", "permanent")
            ip("-n", self.kernel, *arguments)
        no_offload(self.kernel, "wire")
        # No neighbour discovery of the devices to come, and none at our end.
        for namespace, what in ((self.kernel, "default"), (self.ours, "all")):
            with inside(namespace), open(f"/proc/sys/net/ipv6/conf/{what}/disable_ipv6", "w") as file:
                file.write("1")

    def vtep(self, n: int) -> str:
        return f"192.0.2.{n}" if self.family == 4 else f"2001:db8::{n:x}"

    def wrap(self, vtep: int, inner: bytes, vni: int, tos: int = 0, dport: int = 4789) -> bytes:
        """The packet with which a VTEP sends the frame to the kernel."""
        addresses: dict[str, Any] = {"src": self.vtep(vtep), "dst": self.vtep(HOST)}
        l3 = IP(tos=tos, **addresses) if self.family == 4 else IPv6(tc=tos, **addresses)
        head = struct.pack(">II", 0x08 << 24, vni << 8)
        return bytes(Ether(src=OUR_MAC, dst=KERNEL_MAC) / l3 / UDP(sport=50000, dport=dport) / Raw(head + inner))

    def until(self, sock: socket.socket, is_marker: Callable[[bytes], bool]) -> list[bytes]:
        """What came in before the marker."""
        out: list[bytes] = []
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if not select.select([sock], [], [], 0.1)[0]:
                continue
            with contextlib.suppress(BlockingIOError):
                while True:
                    frame, address = sock.recvfrom(65536)
                    if address[2] == PACKET_OUTGOING:
                        continue
                    if is_marker(frame):
                        return out
                    out.append(frame)
        raise AssertionError(f"no marker after {len(out)} frames")


class Device:
    """A vxlan device of the kernel; broadcasts and what it does not know go to ``peers``."""

    def __init__(
        self, cable: Cable, vni: int, *options: str, peers: tuple[int, ...] = (A, B), dport: int = 4789
    ) -> None:
        self.cable, self.vni, self.dport, self.name = cable, vni, dport, f"vx{vni}"
        self.markers = count()
        ip(
            "-n", cable.kernel, "link", "add", self.name, "type", "vxlan", "id", str(vni), "dstport", str(dport),
            "local", cable.vtep(HOST), *options,
        )  # fmt: skip
        ip("-n", cable.kernel, "link", "set", self.name, "mtu", "1450", "up", "promisc", "on")
        self.set(MARKER, MARK)
        for peer in peers:
            self.fdb("append", "00:00:00:00:00:00", "dst", cable.vtep(peer))
        self.sock = cable.open(cable.kernel, self.name)

    def fdb(self, what: str, address: str, *rest: str) -> None:
        """``bridge fdb``, of this device."""
        command = ["bridge", "-n", self.cable.kernel, "fdb", what, address, "dev", self.name, *rest]
        subprocess.run(command, check=True, capture_output=True)

    def set(self, address: str, vtep: int, state: str = "static") -> None:
        self.fdb("replace", address, "dst", self.cable.vtep(vtep), state)

    def place(self, address: str) -> str | None:
        """Where its forwarding table has a MAC."""
        rows = told("bridge", "-n", self.cable.kernel, "-j", "fdb", "show", "dev", self.name)
        places = [row["dst"] for row in rows if row["mac"] == address]
        assert len(places) < 2
        return places[0] if places else None

    def marker(self) -> bytes:
        """A frame like no other."""
        return bytes(Ether(src=MARKER, dst=MARKER, type=0x88B5) / Raw(f"marker {next(self.markers)}".encode()))

    def arrives(self, vtep: int, inner: bytes, tos: int = 0) -> list[bytes]:
        """What the device delivers of a frame that a VTEP sends."""
        marker = self.marker()
        self.cable.drain(self.sock)
        self.cable.wire.send(self.cable.wrap(vtep, inner, self.vni, tos, self.dport))
        self.cable.wire.send(self.cable.wrap(MARK, marker, self.vni, 0, self.dport))
        got = self.cable.until(self.sock, lambda frame: frame == marker)
        return [frame for frame in got if frame[6:12] == inner[6:12]]  # what the kernel says for itself is not asked

    def packets(self, *frames: bytes) -> list[Outer]:
        """What goes out of frames that the stack hands to the device, in order."""
        marker = self.marker()
        self.cable.drain(self.cable.wire)
        for frame in (*frames, marker):
            self.sock.send(frame)
        got = self.cable.until(self.cable.wire, lambda packet: packet.endswith(marker))
        found = [outer for outer in map(outer_of, got) if outer is not None and outer.dport == self.dport]
        assert all(outer.src == self.cable.vtep(HOST) for outer in found)
        sources = {frame[6:12] for frame in frames}
        return [outer for outer in found if outer.inner[6:12] in sources]


#: What a spec says of checksums, in the words of ``ip link``.
CSUM = {
    "auto": {4: "noudpcsum", 6: "noudp6zerocsumtx"},
    "on": {4: "udpcsum", 6: "noudp6zerocsumtx"},
    "off": {4: "noudpcsum", 6: "udp6zerocsumtx"},
}


class Both:
    """A device of the kernel, and a plane that is told the same. ``options``: of the device; the rest is the plane's,
    of its network (``policy``) and of the node."""

    def __init__(
        self,
        cable: Cable,
        *options: str,
        peers: tuple[int, ...] = (A, B),
        policy: dict[str, Any] | None = None,
        **node: Any,
    ) -> None:
        self.cable, self.vni = cable, next(cable.vnis)
        policy = policy or {}
        far = () if policy.get("flood") == "off" else peers
        csum_option = CSUM[node.get("udp_csum", "auto")][cable.family]
        self.device = Device(cable, self.vni, csum_option, *options, peers=far, dport=node.get("port", 4789))
        network = vf.NetworkSpec(
            name="both", vni=self.vni, endpoint=(vf.EndpointSpec(port="station", mac=STATION),), tags=True,
            peer=tuple(vf.PeerSpec(vtep=cable.vtep(n)) for n in peers), **policy,
        )  # fmt: skip
        self.plane = vf.Dataplane(vf.NodeSpec(vtep=(cable.vtep(HOST),), network=(network,), **node))
        self.now_ns = 1000 * S

    def place(self, address: str) -> Outcome[str | None]:
        """Where either forwarding table has a MAC."""
        ours = [str(row["place"]) for row in self.plane.stations() if row["mac"] == address]
        return Outcome(self.device.place(address), ours[0] if ours else None)

    def set(self, address: str, vtep: int, state: str = "static") -> None:
        """``bridge fdb replace``."""
        self.device.set(address, vtep, state)
        self.plane.set_station(self.vni, address, self.cable.vtep(vtep))

    def arrives(self, vtep: int, inner: bytes, tos: int = 0) -> Outcome[list[bytes]]:
        """Frames that the station is given, when a VTEP sends one."""
        packet = self.cable.wrap(vtep, inner, self.vni, tos, self.device.dport)
        out = self.plane.offer("underlay", packet, now_ns=self.now_ns)
        assert all(port == "station" for port, _ in out)
        return Outcome(self.device.arrives(vtep, inner, tos), [frame for _, frame in out])

    def packets(self, *frames: bytes) -> Outcome[list[Outer]]:
        """Packets that go to the underlay of the station's frames."""
        out = self.plane.offer("station", *frames, now_ns=self.now_ns)
        ours = [outer_of(packet) for port, packet in out if port == "underlay"]
        assert len(ours) == len(out)
        return Outcome(self.device.packets(*frames), [outer for outer in ours if outer is not None])

    def leaves(self, frame: bytes) -> Outcome[list[str]]:
        """VTEPs that the station's frame goes to, as it is: the kernel's order of copies is its own."""
        out = self.packets(frame)
        assert all(outer.inner == frame for outers in out for outer in outers)
        return Outcome(*(sorted(outer.dst for outer in outers) for outers in out))

    def drops(self) -> dict[V, int]:
        """What the plane has dropped so far."""
        return dict(self.plane.stats().drops)


@pytest.fixture(scope="module", params=[4, 6], ids=["ipv4", "ipv6"])
def cable(request: pytest.FixtureRequest) -> Iterator[Cable]:
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces")
    if shutil.which("ip") is None or shutil.which("bridge") is None:
        pytest.skip("needs iproute2: the ip and bridge programs are not installed")
    try:
        made = Cable(request.param)
    except OSError as error:
        pytest.skip(f"no network namespaces or no vxlan device here: {error}")
    cpus = os.sched_getaffinity(0)
    try:
        # On one processor packets stay in order, so what has not come before a marker does not come.
        os.sched_setaffinity(0, {min(cpus)})
        made.prepare()
        yield made
    finally:
        os.sched_setaffinity(0, cpus)
        made.close()
    assert not any(os.path.exists(f"/run/netns/{name}") for name in (made.kernel, made.ours))


@pytest.fixture
def both(cable: Cable) -> Both:
    """With empty tables."""
    return Both(cable)


# --- frames ---------------------------------------------------------------------------------------------


def frame(src: str, dst: str, body: Packet | None = None) -> bytes:
    """An Ethernet frame; without a body, some UDP."""
    return bytes(Ether(src=src, dst=dst) / (body or udp4()))


def udp4(tos: int = 0, sport: int = 1024, size: int = 18, **rest: Any) -> Packet:
    return IP(src="203.0.113.1", dst="203.0.113.2", tos=tos, **rest) / UDP(sport=sport, dport=9) / Raw(bytes(size))


def udp6(tos: int = 0, sport: int = 1024, size: int = 18) -> Packet:
    head = IPv6(src="2001:db8:1::1", dst="2001:db8:1::2", tc=tos)
    return head / UDP(sport=sport, dport=9) / Raw(bytes(size))


def arp() -> Packet:
    return ARP(op=1, hwsrc=FAR, psrc="203.0.113.2", pdst="203.0.113.1")


#: How a station may be heard of.
HELLO = {
    "unicast": frame(FAR, STATION),
    "broadcast": frame(FAR, BROADCAST, arp()),
    "multicast": frame(FAR, "01:00:5e:00:00:fb"),
    "ipv6": frame(FAR, "33:33:00:00:00:01", udp6()),
    "no ip": bytes(Ether(src=FAR, dst=STATION, type=0x88B5) / Raw(bytes(46))),
}
UNICAST = HELLO["unicast"]
TO_FAR = frame(STATION, FAR)


# --- learning, moving, ageing ---------------------------------------------------------------------------


@pytest.mark.parametrize("hello", HELLO)
def test_learning(both: Both, hello: str) -> None:
    """To everybody; then, of where it was heard, to that VTEP alone."""
    vteps = [both.cable.vtep(n) for n in (A, B)]
    assert both.place(FAR).same() is None
    assert both.leaves(TO_FAR).same() == vteps
    assert both.arrives(B, HELLO[hello]).same() == [HELLO[hello]]
    assert both.place(FAR).same() == vteps[1]
    assert both.leaves(TO_FAR).same() == vteps[1:]
    assert both.leaves(frame(STATION, OTHER)).same() == vteps


def test_nothing_is_learned_where_it_is_off(cable: Cable) -> None:
    both = Both(cable, "nolearning", policy={"learn": False})
    assert both.arrives(B, UNICAST).same() == [UNICAST]
    assert both.place(FAR).same() is None
    assert both.leaves(TO_FAR).same() == [cable.vtep(A), cable.vtep(B)]


def test_what_nobody_knows_without_flooding(cable: Cable) -> None:
    """No entry of all zeros there, no head-end replication here: it goes nowhere until it is learned."""
    both = Both(cable, policy={"flood": "off"})
    assert both.leaves(TO_FAR).same() == []
    assert both.leaves(frame(STATION, BROADCAST, arp())).same() == []
    assert both.arrives(B, UNICAST).same() == [UNICAST]
    assert both.leaves(TO_FAR).same() == [cable.vtep(B)]


def test_forgetting(both: Both) -> None:
    """``bridge fdb del`` of what was learned: unknown again, and learned again."""
    assert both.arrives(A, UNICAST).same() == [UNICAST]
    both.device.fdb("del", FAR)
    assert both.plane.delete_station(both.vni, FAR)
    assert both.place(FAR).same() is None
    assert len(both.leaves(TO_FAR).same()) == 2
    assert both.arrives(B, UNICAST).same() == [UNICAST]
    assert both.place(FAR).same() == both.cable.vtep(B)


def test_moving(both: Both) -> None:
    """At once, with the first frame from elsewhere, and back."""
    for n in (A, B, A):
        assert both.arrives(n, UNICAST).same() == [UNICAST]
        assert both.place(FAR).same() == both.cable.vtep(n)
        assert both.leaves(TO_FAR).same() == [both.cable.vtep(n)]


def test_moving_often(both: Both) -> None:
    """On purpose: a MAC that moves more than five times in three minutes stays where it is, and what comes of it from
    elsewhere is dropped (RFC 7432 §15.1); the kernel follows for ever."""
    for n in (A, B, A, B, A, B):
        assert both.arrives(n, UNICAST).same() == [UNICAST]
    assert both.place(FAR).same() == both.cable.vtep(B)
    assert both.arrives(A, UNICAST) == ([UNICAST], [])
    assert both.place(FAR) == (both.cable.vtep(A), both.cable.vtep(B))
    assert both.drops() == {V.DROP_STATION_FROZEN: 1}


@pytest.mark.parametrize("before", ["unknown", "learned elsewhere"])
@pytest.mark.parametrize("state", ["static", "permanent"])
def test_static_entry_stays(both: Both, state: str, before: str) -> None:
    """Frames of the station from another VTEP are dropped, and teach nothing; from the right one they pass."""
    vtep = both.cable.vtep(A)
    if before == "learned elsewhere":
        assert both.arrives(B, UNICAST).same() == [UNICAST]
    both.set(FAR, A, state)
    for hello in HELLO.values():
        assert both.arrives(B, hello).same() == []
        assert both.place(FAR).same() == vtep
    assert both.leaves(TO_FAR).same() == [vtep]
    assert both.arrives(A, UNICAST).same() == [UNICAST]
    assert both.drops() == {V.DROP_STATION_ELSEWHERE: len(HELLO)}
    assert both.place(FAR).same() == vtep


def test_static_entry_without_learning(cable: Cable) -> None:
    """On purpose: what was set says who may send, learning or not; the kernel looks at senders only to learn."""
    both = Both(cable, "nolearning", policy={"learn": False})
    both.set(FAR, A)
    assert both.arrives(B, UNICAST) == ([UNICAST], [])
    assert both.drops() == {V.DROP_STATION_ELSEWHERE: 1}
    assert both.arrives(A, UNICAST).same() == [UNICAST]
    assert both.place(FAR).same() == cable.vtep(A)


def test_unknown_vtep(both: Both) -> None:
    """On purpose: a sender has to be a member of the network; the kernel lets in whoever knows the VNI, and learns."""
    assert both.arrives(STRANGER, UNICAST) == ([UNICAST], [])
    assert both.place(FAR) == (both.cable.vtep(STRANGER), None)
    assert both.leaves(TO_FAR) == ([both.cable.vtep(STRANGER)], [both.cable.vtep(A), both.cable.vtep(B)])
    assert both.drops() == {V.DROP_VTEP_UNKNOWN: 1}


@pytest.mark.skipif(
    tuple(map(int, platform.release().split(".")[:2])) < (6, 15),
    reason="before Linux 6.15 an entry also stayed for what was sent to it",
)
def test_ageing(cable: Cable) -> None:
    """Three seconds: FAR is only sent to, OTHER is heard, the third was set."""
    age_s, third = 3, mac(4)
    both = Both(cable, "ageing", "300", ageing_s=age_s)
    heard = frame(OTHER, STATION)
    both.set(third, A)
    for hello in (UNICAST, heard):
        assert both.arrives(B, hello).same() == [hello]
    began, start_ns = time.monotonic(), both.now_ns
    for n in range(1, 8):
        time.sleep(max(0.0, began + n / 2 - time.monotonic()))
        both.now_ns = start_ns + n * S // 2
        if n < 6:
            assert both.leaves(TO_FAR).same() == [cable.vtep(B)]
        assert both.arrives(B, heard).same() == [heard]
    # A new ageing time has the kernel look at once; of itself it does so every ten seconds.
    ip("-n", cable.kernel, "link", "set", both.device.name, "type", "vxlan", "ageing", str(age_s))
    end = time.monotonic() + 2
    while both.device.place(FAR) and time.monotonic() < end:
        time.sleep(0.02)
    assert both.arrives(B, heard).same() == [heard]  # it stays young, however long that took
    assert both.place(FAR).same() is None
    assert both.leaves(TO_FAR).same() == [cable.vtep(A), cable.vtep(B)]
    assert both.place(OTHER).same() == cable.vtep(B)
    assert both.leaves(frame(STATION, OTHER)).same() == [cable.vtep(B)]
    assert both.place(third).same() == cable.vtep(A)


# --- congestion marks -----------------------------------------------------------------------------------


#: RFC 6040 §4.2, figure 4: what becomes of the inner mark, by outer and inner; None: the packet is dropped.
DECAP: dict[int, dict[int, int | None]] = {
    NOT_ECT: {NOT_ECT: NOT_ECT, ECT0: ECT0, ECT1: ECT1, CE: CE},
    ECT0: {NOT_ECT: NOT_ECT, ECT0: ECT0, ECT1: ECT1, CE: CE},
    ECT1: {NOT_ECT: NOT_ECT, ECT0: ECT1, ECT1: ECT1, CE: CE},
    CE: {NOT_ECT: None, ECT0: CE, ECT1: CE, CE: CE},
}
IP_KINDS: dict[str, Callable[..., Packet]] = {"inner ipv4": udp4, "inner ipv6": udp6}


@pytest.fixture(scope="module")
def plain(cable: Cable) -> Both:
    """With nothing set; its tables are nobody's concern."""
    return Both(cable, peers=(A,))


@pytest.mark.parametrize("inner", CODE_POINTS)
@pytest.mark.parametrize("outer", CODE_POINTS)
@pytest.mark.parametrize("kind", IP_KINDS)
def test_marks_of_what_arrives(plain: Both, kind: str, outer: str, inner: str) -> None:
    """Delivered to the byte as the kernel does, or dropped as it does. The outer DSCP stays outside."""
    build = IP_KINDS[kind]
    tos = 10 << 2 | CODE_POINTS[inner]
    got = plain.arrives(A, frame(FAR, STATION, build(tos)), 46 << 2 | CODE_POINTS[outer]).same()
    after = DECAP[CODE_POINTS[outer]][CODE_POINTS[inner]]
    # The sum of UDP does not cover the mark, so the frame is the one built with the new mark.
    assert got == ([] if after is None else [frame(FAR, STATION, build(10 << 2 | after))])


@pytest.mark.parametrize("outer", CODE_POINTS)
def test_marks_over_what_is_no_ip(plain: Both, outer: str) -> None:
    """There is nothing to mark, and nothing to drop for."""
    got = plain.arrives(A, HELLO["broadcast"], CODE_POINTS[outer]).same()
    assert got == [HELLO["broadcast"]]


# --- outer headers --------------------------------------------------------------------------------------


#: Options of the device, and what a node says instead.
SETTINGS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "nothing set": ((), {}),
    "dscp 46": (("tos", "0xb8"), {"dscp": 46}),
    "dscp inherit": (("tos", "inherit"), {"dscp": "inherit"}),
    "ttl 1": (("ttl", "1"), {"ttl": 1}),
    "ttl 17": (("ttl", "17"), {"ttl": 17}),
    "ttl 255": (("ttl", "255"), {"ttl": 255}),
    "df set": (("df", "set"), {"df": True}),
    "df unset": (("df", "unset"), {"df": False}),
    "checksum": ((), {"udp_csum": "on"}),
    "no checksum": ((), {"udp_csum": "off"}),
    "port 8472": ((), {"port": 8472}),
    "everything": (
        ("tos", "inherit", "ttl", "33", "df", "set"),
        {"dscp": "inherit", "ttl": 33, "df": True, "udp_csum": "on", "port": 14789},
    ),
}
#: Frames whose own fields an outer header may take over, or must not.
INNER = {
    "ipv4": frame(STATION, FAR),
    "ipv4 marked": frame(STATION, FAR, udp4(46 << 2 | ECT0, flags="DF", ttl=3)),
    "ipv4 tcp": frame(STATION, FAR, IP(src="203.0.113.1", dst="203.0.113.2", tos=0xFD & ~CE | ECT1) / TCP()),
    "ipv4 fragment": frame(STATION, FAR, udp4(8, flags="MF")),
    "ipv6": frame(STATION, FAR, udp6()),
    "ipv6 marked": frame(STATION, FAR, udp6(10 << 2 | ECT1)),
    "tagged": frame(STATION, FAR, Dot1Q(vlan=7, prio=5) / udp4(26 << 2 | ECT0)),
    "arp": frame(STATION, BROADCAST, arp()),
    "no ip": bytes(Ether(src=STATION, dst=FAR, type=0x88B5) / Raw(bytes(64))),
    "long": frame(STATION, FAR, udp4(size=1400)),
}


@pytest.fixture(scope="module")
def tuned(request: pytest.FixtureRequest, cable: Cable) -> Both:
    options, node = SETTINGS[request.param]
    return Both(cable, *options, peers=(A,), **node)


@pytest.mark.parametrize("kind", INNER)
@pytest.mark.parametrize("tuned", SETTINGS, indirect=True)
def test_outer_headers(tuned: Both, kind: str) -> None:
    """Every field is the kernel's, to the last byte of the frame: addresses, TOS or traffic class, TTL or hop limit,
    DF, flow label, lengths, destination port, checksum, VXLAN header."""
    out = tuned.packets(INNER[kind])
    (packet,) = Outcome(*map(without_port, out)).same()
    assert packet.inner == INNER[kind]
    assert packet.vxlan == struct.pack(">II", 0x08 << 24, tuned.vni << 8)


@pytest.mark.parametrize("inner", CODE_POINTS)
@pytest.mark.parametrize("kind", IP_KINDS)
@pytest.mark.parametrize("tuned", ["nothing set", "dscp 46", "dscp inherit"], indirect=True)
def test_marks_of_what_leaves(tuned: Both, kind: str, inner: str) -> None:
    """As the kernel's; but CE, on purpose: we copy it (RFC 6040 §4.1), where the kernel has ECT(0) outside (RFC 3168
    §9.1.1)."""
    mark = CODE_POINTS[inner]
    out = tuned.packets(frame(STATION, FAR, IP_KINDS[kind](10 << 2 | mark)))
    (kernel,), (ours,) = map(without_port, out)
    assert (kernel.tos & 3, ours.tos & 3) == ((ECT0, CE) if mark == CE else (mark, mark))
    assert kernel._replace(tos=kernel.tos & 0xFC) == ours._replace(tos=ours.tos & 0xFC)


def test_checksums_that_nobody_asked_for(cable: Cable) -> None:
    """On purpose: over IPv4 the kernel computes them all the same, and we leave them out (RFC 7348 §5); over IPv6 both
    compute them (RFC 8200 §8.1)."""
    vni = next(cable.vnis)
    (kernel,) = Device(cable, vni, peers=(A,)).packets(TO_FAR)
    ours = outer_of(vf.encap(TO_FAR, vni=vni, src=cable.vtep(HOST), dst=cable.vtep(A)))
    assert ours is not None
    assert (kernel.csum, ours.csum) == ("right", "none" if cable.family == 4 else "right")
    assert kernel._replace(sport=0, csum="") == ours._replace(sport=0, csum="")


# --- source ports ---------------------------------------------------------------------------------------


#: Of a flow by number, its packets: they differ in what is not the flow's. No tagged frames: of those that a packet
#: socket sends, the kernel hashes other bytes than the flow's.
FLOWS: dict[str, Callable[[int, int], Packet]] = {
    "udp over ipv4": lambda flow, n: udp4(n << 2, sport=1000 + flow, size=20 + n, ttl=64 - n, id=n),
    "tcp over ipv4": lambda flow, n: (
        IP(src="203.0.113.1", dst="203.0.113.2", flags="DF", id=n) / TCP(sport=1000 + flow, dport=80, seq=n)
    ),
    "udp over ipv6": lambda flow, n: udp6(n << 2, sport=1000 + flow, size=20 + n),
    "no ports": lambda flow, n: IP(src="203.0.113.1", dst=f"198.51.100.{flow}", proto=47, id=n) / Raw(bytes(20 + n)),
    "fragments": lambda flow, n: (
        IP(src="203.0.113.1", dst=f"198.51.100.{flow}", proto=17, id=flow, flags="MF", frag=3 * n)
        / Raw(bytes([n] * 24))
    ),
}
MANY, EACH = 32, 4


def ports_by_flow(packets: list[Outer]) -> list[set[int]]:
    """Of packets in the order of their flows, EACH of each."""
    assert len(packets) == MANY * EACH
    return [{packet.sport for packet in packets[at : at + EACH]} for at in range(0, len(packets), EACH)]


@pytest.fixture(scope="module")
def spread(cable: Cable) -> Both:
    return Both(cable, "srcport", "49152", "65535", peers=(A,))


@pytest.mark.parametrize("kind", FLOWS)
def test_one_flow_one_port(spread: Both, kind: str) -> None:
    """Of the range both are told; the hash is each one's own, and nearly every flow has a port to itself."""
    frames = [frame(STATION, FAR, FLOWS[kind](flow, n)) for flow in range(MANY) for n in range(EACH)]
    for packets in spread.packets(*frames):
        assert [packet.inner for packet in packets] == frames
        flows = ports_by_flow(packets)
        assert all(len(ports) == 1 for ports in flows)
        assert len(set().union(*flows)) > MANY - 6
        assert all(49152 <= port <= 65535 for ports in flows for port in ports)


def test_source_ports_that_nobody_set(plain: Both) -> None:
    """On purpose: the kernel takes what it takes for sockets of its own, we the range of RFC 7348 §5."""
    with inside(plain.cable.kernel), open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        low, high = map(int, file.read().split())
    frames = [frame(STATION, FAR, udp4(sport=flow)) for flow in range(200)]
    kernel, ours = ([packet.sport for packet in packets] for packets in plain.packets(*frames))
    assert len(kernel) == len(ours) == len(frames)
    assert all(low <= port <= high for port in kernel) and min(kernel) < 49152
    assert all(49152 <= port <= 65535 for port in ours) and max(ours) > high
