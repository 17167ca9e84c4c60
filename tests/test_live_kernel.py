"""A live node and the kernel's vxlan device: they take each other's packets, of whatever size, family and direction."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import ip, namespaces, need_root
from tests.live import Node, address, hub, kernel_peer, ping, run, until

pytestmark = [pytest.mark.root, pytest.mark.live]

VNI = 42
MTU = {4: 1450, 6: 1430}
VTEP = {4: "192.0.2.{}", 6: "2001:db8::{}"}
#: Ours, where it is behind a TAP device and the kernel routes to it.
BEHIND = {4: "198.51.100.1", 6: "2001:db8:1::1"}
PREFIX = {4: 24, 6: 64}
TASK, TASK6 = "10.0.9.3", "fd00:9::3"


def ours(family: int, underlay: str) -> str:
    """The node's VTEP."""
    return BEHIND[family] if underlay == "tap" else VTEP[family].format(1)


def config(family: int, underlay: str) -> str:
    """One network with a task here and two kernels as members."""
    vtep = VTEP[family].format
    return f"""
[node]
vtep = "{ours(family, underlay)}"

[live]
underlay = "{underlay}"

[[live.tap]]
port = "task"
name = "eth0"
namespace = "NAMESPACE"

[[network]]
name = "web"
vni = {VNI}
subnet = ["10.0.9.0/24", "fd00:9::/64"]

[[network.peer]]
vtep = "{vtep(2)}"

[[network.peer]]
vtep = "{vtep(3)}"

[[network.endpoint]]
port = "task"
ip = ["{TASK}", "{TASK6}"]
"""


class Site:
    """The node, its task, and two hosts with kernel vxlan devices, on one underlay."""

    def __init__(self, family: int, underlay: str, node: Node, task: str, hosts: list[str]) -> None:
        self.family, self.underlay, self.node, self.task, self.hosts = family, underlay, node, task, hosts
        self.mtu = MTU[family]


def route_to_the_node(node: str, hosts: list[str], family: int) -> None:
    """The VTEP is behind the node's own kernel."""
    keys = ["net.ipv4.ip_forward"] if family == 4 else ["net.ipv6.conf.all.forwarding"]
    for key in keys:
        run(node, "sysctl", "-qw", f"{key}=1")
    for host in hosts:
        ip("-n", host, "route", "add", BEHIND[family], "via", VTEP[family].format(1))


@pytest.fixture(
    params=[(4, "socket"), (6, "socket"), (4, "tap"), (6, "tap"), (4, "packet"), (6, "packet")],
    ids=["ipv4-socket", "ipv6-socket", "ipv4-tap", "ipv6-tap", "ipv4-packet", "ipv6-packet"],
)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    need_root("ping")
    family, underlay = request.param
    with namespaces("h", "n", "t", "a", "b") as (middle, here, task, *hosts):
        hub(middle, [here, *hosts])
        for number, host in enumerate((here, *hosts), 1):
            address(host, "wire", f"{VTEP[family].format(number)}/{PREFIX[family]}")
        if underlay == "tap":
            route_to_the_node(here, hosts, family)
        for number, host in enumerate(hosts, 2):
            others = [ours(family, underlay), VTEP[family].format(5 - number)]
            kernel_peer(
                host, vni=VNI, local=VTEP[family].format(number), flood=others, mtu=MTU[family],
                addresses=[f"10.0.9.1{number}/24", f"fd00:9::1{number}/64"], mac=f"02:42:0a:00:09:1{number}",
            )  # fmt: skip
        with Node(here, tmp_path, config(family, underlay).replace("NAMESPACE", task)) as node:
            yield Site(family, underlay, node, task, hosts)
            assert node.stop() == 0, node.log
        assert not os.path.exists(f"/proc/{node.process.pid}")  # type: ignore[union-attr]


def test_it_interoperates(site: Site) -> None:
    """ARP and neighbour discovery, pings of every kind of size both ways; flooding reaches both kernels."""
    task, (one, other) = site.task, site.hosts
    for to in ("10.0.9.12", "fd00:9::12", "10.0.9.13", "fd00:9::13"):
        until(f"{to} answers", lambda to=to: ping(task, to))
    most = site.mtu - 28
    for size in (0, 1, 8, 64, 511, 1000, most - 1, most):
        assert ping(task, "10.0.9.12", "-M", "do", "-s", str(size)), f"{size} bytes there"
        assert ping(one, TASK, "-M", "do", "-s", str(size)), f"{size} bytes back"
        assert ping(task, "fd00:9::13", "-s", str(min(size, most - 20)))
        assert ping(other, TASK6, "-s", str(min(size, most - 20)))
    # One over: a device of that MTU says so itself; without DF it fragments.
    assert not ping(task, "10.0.9.12", "-M", "do", "-s", str(most + 1))
    assert ping(task, "10.0.9.12", "-M", "dont", "-s", str(most + 1))
    assert ping(one, TASK, "-M", "dont", "-s", "4000")
    # Between the kernels themselves nothing changed.
    assert ping(one, "10.0.9.13")


def test_a_mac_moves(site: Site) -> None:
    """A station goes from one kernel to the other, and is found there as soon as it says anything."""
    task, (one, other) = site.task, site.hosts
    until("the first answers", lambda: ping(task, "10.0.9.12"))
    ip("-n", one, "link", "set", "vx", "down")
    ip("-n", other, "link", "set", "vx", "address", "02:42:0a:00:09:12")
    address(other, "vx", "10.0.9.12/24")
    until("it is heard of at its new place", lambda: ping(other, TASK))
    assert ping(task, "10.0.9.12", count=3)


def test_too_long_for_the_tunnel_is_said(site: Site) -> None:
    """A task whose device allows more than fits the tunnel is told what fits: nothing vanishes."""
    task, (one, _) = site.task, site.hosts
    until("it answers", lambda: ping(task, "10.0.9.12"))
    ip("-n", task, "link", "set", "eth0", "mtu", "1500")
    told = run(task, "ping", "-c", 1, "-W", 2, "-M", "do", "-s", 1472, "10.0.9.12", check=False)
    assert f"mtu = {site.mtu}" in told.stdout.lower().replace("mtu=", "mtu = "), told.stdout
    assert ping(task, "10.0.9.12", "-M", "dont", "-s", "1472")
    ip("-n", one, "link", "set", "vx", "down")


def test_reload_and_end(site: Site) -> None:
    """SIGHUP takes a new configuration and refuses a bad one; SIGTERM leaves nothing behind."""
    task = site.task
    until("it answers", lambda: ping(task, "10.0.9.12"))
    good = site.node.config.read_text()
    site.node.reload(good.replace("vni = 42", "vni = fourtytwo"))
    assert "configuration refused" in site.node.log and "node.toml" in site.node.log
    assert ping(task, "10.0.9.12")
    site.node.reload(good + '\n[[network.endpoint]]\nport = "second"\nip = "10.0.9.4"\n')
    assert "configuration applied" in site.node.log, site.node.log
    until("the new device is there", lambda: "second" in run(site.node.namespace, "ip", "link").stdout)
    assert ping(task, "10.0.9.12") and ping(site.node.namespace, "10.0.9.12", "-I", "second")
    site.node.reload(good)
    assert "second" not in run(site.node.namespace, "ip", "link").stdout
    assert ping(task, "10.0.9.12")
    assert site.node.stop() == 0
    assert "eth0" not in run(task, "ip", "link").stdout
    assert "vf-underlay" not in run(site.node.namespace, "ip", "link").stdout
    assert ":12B5 " not in run(site.node.namespace, "cat", "/proc/net/udp", "/proc/net/udp6").stdout
    site.node.start()
    assert until("it answers again", lambda: ping(task, "10.0.9.12"))


def test_devices_and_wires_that_go(site: Site) -> None:
    """A TAP that somebody deletes is made again; an underlay that was down is used again."""
    task = site.task
    until("it answers", lambda: ping(task, "10.0.9.12"))
    ip("-n", task, "link", "del", "eth0")
    until("the device is back", lambda: "eth0" in run(task, "ip", "link").stdout)
    until("it answers again", lambda: ping(task, "10.0.9.12"))
    ip("-n", site.node.namespace, "link", "set", "wire", "down")
    assert not ping(task, "10.0.9.12")
    ip("-n", site.node.namespace, "link", "set", "wire", "up")
    if site.family == 6:
        address(site.node.namespace, "wire", "2001:db8::1/64")  # a link that goes down loses them
    until("it answers once more", lambda: ping(task, "10.0.9.12"))
    site.node.alive()
