"""A router on the way has a smaller MTU: senders inside are told what fits, or the way fragments; nothing is lost in
silence."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import ip, namespaces, need_root, packet_socket
from tests.live import Node, address, background, cable, kernel_peer, ping, run, until
from tests.support import PYTHON

pytestmark = [pytest.mark.root, pytest.mark.live]

VNI = 42
NARROW = 1400
NEAR = {4: ("192.0.2.1", "192.0.2.254", 24), 6: ("2001:db8:1::1", "2001:db8:1::254", 64)}
FAR = {4: ("203.0.113.2", "203.0.113.254", 24), 6: ("2001:db8:2::2", "2001:db8:2::254", 64)}
BEHIND = {4: "198.51.100.1", 6: "2001:db8:9::1"}
HEADERS = {4: 50, 6: 70}
FORWARDING = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}

CONFIG = """
[node]
vtep = "{vtep}"
df = {df}

[live]
underlay = "{underlay}"

[[live.tap]]
port = "task"
name = "eth0"
namespace = "{task}"

[[network]]
name = "web"
vni = 42
subnet = ["10.0.9.0/24"]

[[network.peer]]
vtep = "{peer}"

[[network.endpoint]]
port = "task"
ip = "10.0.9.3"
"""


class Way:
    """A node and its task, a router, and a kernel behind it."""

    def __init__(self, node: Node, task: str, router: str, peer: str, family: int, underlay: str, df: bool) -> None:
        self.node, self.task, self.router, self.peer = node, task, router, peer
        self.family, self.underlay, self.df = family, underlay, df

    def changes(self) -> int:
        """Path MTUs that changed, as the node counts."""
        shown = run(
            self.node.namespace, PYTHON, "-m", "vxlanfast", "show", "io", "-j", "--socket", str(self.node.control)
        )
        return int(json.loads(shown.stdout)["underlay"]["path_mtu_changes"])


@pytest.fixture(params=[
    (4, "socket", True), (4, "socket", False), (6, "socket", True), (6, "socket", False), (4, "packet", True),
    (4, "packet", False), (6, "packet", False), (4, "tap", True), (6, "tap", False),
], ids=lambda p: f"ipv{p[0]}-{p[1]}-{'df' if p[2] else 'any'}")  # fmt: skip
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Way]:
    need_root("ping")
    family, underlay, df = request.param
    (ours, router_near, prefix), (theirs, router_far, _) = NEAR[family], FAR[family]
    with namespaces("n", "t", "r", "p") as (here, task, router, peer):
        cable(here, router)
        ip("-n", router, "link", "add", "far", "type", "veth", "peer", "name", "wire", "netns", peer)
        for namespace, device in ((router, "far"), (peer, "wire")):
            ip("-n", namespace, "link", "set", device, "mtu", str(NARROW), "up")
        for namespace, device, text in (
            (here, "wire", ours), (router, "wire", router_near), (router, "far", router_far), (peer, "wire", theirs),
        ):  # fmt: skip
            address(namespace, device, f"{text}/{prefix}")
        run(router, "sysctl", "-qw", f"{FORWARDING[family]}=1")
        ip("-n", here, "route", "add", "default", "via", router_near)
        ip("-n", peer, "route", "add", "default", "via", router_far)
        vtep = ours
        if underlay == "tap":
            vtep = BEHIND[family]
            run(here, "sysctl", "-qw", f"{FORWARDING[family]}=1")
            ip("-n", router, "route", "add", vtep, "via", ours)
        kernel_peer(
            peer, vni=VNI, local=theirs, flood=[vtep], mtu=NARROW - HEADERS[family],
            addresses=["10.0.9.12/24"], mac="02:42:0a:00:09:0c",
        )  # fmt: skip
        # It does not tell senders what it could take itself: the way is what has to be found out.
        mss = str(1500 - HEADERS[family] - 40)
        ip("-n", peer, "route", "replace", "10.0.9.0/24", "dev", "vx", "src", "10.0.9.12", "advmss", mss)
        config = CONFIG.format(vtep=vtep, df=str(df).lower(), underlay=underlay, task=task, peer=theirs)
        with Node(here, tmp_path, config) as node:
            yield Way(node, task, router, peer, family, underlay, df)
            assert node.stop() == 0, node.log


def test_what_fits_is_said(way: Way) -> None:
    """Over IPv4 without DF the router fragments, and the peer puts together; else the sender hears what fits."""
    until("it answers", lambda: ping(way.task, "10.0.9.12"))
    most = 1500 - HEADERS[way.family] - 28
    if way.family == 4 and not way.df:
        assert ping(way.task, "10.0.9.12", "-M", "do", "-s", str(most))
        assert way.changes() == 0
    else:
        fits = NARROW - HEADERS[way.family]

        def told() -> bool:
            said = run(way.task, "ping", "-c", 1, "-W", 1, "-M", "do", "-s", most, "10.0.9.12", check=False)
            return f"mtu = {fits}" in said.stdout.lower().replace("mtu=", "mtu = ")

        until("the sender is told", told)
        assert ping(way.task, "10.0.9.12", "-M", "do", "-s", str(fits - 28))
        assert ping(way.task, "10.0.9.12", "-M", "dont", "-s", str(most))
        assert way.changes() == 1 and "path MTU" in way.node.log
    send_tcp(way)


def send_tcp(way: Way) -> None:
    """A few megabytes, which a path that swallows large packets never lets through."""
    if shutil.which("iperf3") is None:
        pytest.skip("needs the program iperf3, which is not installed")
    ip("-n", way.task, "route", "flush", "cache")  # the task knows of nothing any more
    with background(way.peer, "iperf3", "-s", "-1", "-p", "5201"):
        until("iperf3 listens", lambda: "5201" in run(way.peer, "ss", "-tln").stdout)
        done = run(way.task, "iperf3", "-c", "10.0.9.12", "-n", "4M", "-J", timeout=60)
    assert json.loads(done.stdout)["end"]["sum_received"]["bytes"] >= 1 << 20  # it ends when all is sent, not there


def test_a_route_that_says_so(way: Way) -> None:
    """An MTU of the node's own route or device is taken at once, and given back."""
    if way.underlay == "tap":
        pytest.skip("the kernel routes beyond the TAP")
    until("it answers", lambda: ping(way.task, "10.0.9.12"))
    theirs, gateway = FAR[way.family][0], NEAR[way.family][1]
    ip("-n", way.node.namespace, "route", "add", theirs, "via", gateway, "mtu", "1340")
    until("it is seen", lambda: "mtu=1340" in way.node.log)
    fits = 1340 - HEADERS[way.family]
    told = run(way.task, "ping", "-c", 1, "-W", 2, "-M", "do", "-s", fits - 27, "10.0.9.12", check=False)
    assert f"mtu = {fits}" in told.stdout.lower().replace("mtu=", "mtu = "), told.stdout
    assert ping(way.task, "10.0.9.12", "-M", "do", "-s", str(fits - 28))
    ip("-n", way.node.namespace, "route", "del", theirs, "via", gateway)
    until("it is given back", lambda: "mtu=1500" in way.node.log)


@pytest.mark.parametrize("underlay", ["socket", "packet", "tap"])
def test_a_kernel_that_fragments(underlay: str, tmp_path: Path) -> None:
    """Its vxlan device's MTU is as large as its wire's: frames over 1,450 bytes are two fragments. Nothing is lost."""
    need_root("ping")
    with namespaces("n", "t", "p") as (here, task, peer):
        cable(here, peer, mtu=1600)
        address(here, "wire", "192.0.2.1/24")
        address(peer, "wire", "192.0.2.2/24")
        vtep = "192.0.2.1"
        if underlay == "tap":
            vtep = "198.51.100.1"
            run(here, "sysctl", "-qw", "net.ipv4.ip_forward=1")
            ip("-n", peer, "route", "add", vtep, "via", "192.0.2.1")
        kernel_peer(
            peer, vni=42, local="192.0.2.2", flood=[vtep], mtu=1500, addresses=["10.0.9.12/24"],
            mac="02:42:0a:00:09:0c",
        )  # fmt: skip
        for namespace in (here, peer):  # what the device was made on has shrunk since
            ip("-n", namespace, "link", "set", "wire", "mtu", "1500")
        config = CONFIG.format(vtep=vtep, df="false", underlay=underlay, task=task, peer="192.0.2.2")
        with Node(here, tmp_path, config) as node:
            until("it answers", lambda: ping(task, "10.0.9.12"))
            head = bytes.fromhex("02420a000903 02420a00090c 88b5")
            frames = [head + bytes([n]) * size for n, size in enumerate((1400, 1450, 1451, 1460, 1499, 1500))]
            with packet_socket(peer, "vx") as send, packet_socket(task, "eth0") as receive:
                for frame in frames:
                    send.send(frame)
                got: list[bytes] = []

                def all_there() -> bool:
                    with contextlib.suppress(BlockingIOError):
                        while frame := receive.recv(2000):
                            got.extend([frame] if frame.startswith(head) else [])
                    return len(got) >= len(frames)

                until("they are there", all_there)
            assert got == frames
            # In front of a socket the kernel does it.
            assert node.show("drops")["drops"].get("DROP_FRAGMENT_HELD", 0) == (0 if underlay == "socket" else 4)
            assert node.stop() == 0, node.log
