"""A live node and Open vSwitch: a VTEP that is not the kernel's takes its packets, and is understood."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests import exchange
from tests.ears import Ear
from tests.lab import ip, namespaces, need_root
from tests.live import STREAM_S, Node, address, background, hub, kernel_peer, ping, run, until
from tests.openvswitch import Switch, need_openvswitch, no_offload, switch
from tests.support import PYTHON

pytestmark = [pytest.mark.root, pytest.mark.live, pytest.mark.slow]

VNI = 42
MTU = {4: 1450, 6: 1430}
HERE = {4: "192.0.2.1", 6: "2001:db8::1"}
THERE = {4: "192.0.2.2", 6: "2001:db8::2"}
KERNEL = {4: "192.0.2.3", 6: "2001:db8::3"}
BEHIND = {4: "198.51.100.1", 6: "2001:db8:1::1"}
PREFIX = {4: 24, 6: 64}
FORWARD = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}
TASK, TASK6 = "10.0.9.3", "fd00:9::3"
STATION, STATION6, MAC = "10.0.9.12", "fd00:9::12", "02:42:0a:00:09:0c"
PORT = 7007
EXCHANGE = Path(exchange.__file__)

CONFIG = """
[node]
vtep = "{vtep}"

[live]
underlay = "{underlay}"

[[live.tap]]
port = "task"
name = "eth0"
namespace = "{task}"

[[network]]
name = "web"
vni = 42
subnet = ["10.0.9.0/24", "fd00:9::/64"]

[[network.peer]]
vtep = "{peer}"

[[network.peer]]
vtep = "{kernel}"

[[network.endpoint]]
port = "task"
ip = ["10.0.9.3", "fd00:9::3"]
"""


class Site:
    """The node, its task, a host with Open vSwitch, and one with the kernel's vxlan device."""

    def __init__(self, family: int, node: Node, task: str, host: str, ovs: Switch, kernel: str) -> None:
        self.family, self.node, self.task, self.host, self.ovs = family, node, task, host, ovs
        self.kernel, self.mtu = kernel, MTU[family]


@pytest.fixture(
    params=[(4, "socket"), (4, "tap"), (6, "socket"), (6, "tap")],
    ids=["ipv4-socket", "ipv4-tap", "ipv6-socket", "ipv6-tap"],
)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    need_root("ping")
    need_openvswitch()
    family, underlay = request.param
    vtep = BEHIND[family] if underlay == "tap" else HERE[family]
    with (
        namespaces("h", "n", "t", "o", "k") as (middle, here, task, host, kernel),
        switch(host, tmp_path / "ovs") as ovs,
    ):
        hub(middle, [here, host, kernel])
        no_offload(here, "wire")
        no_offload(kernel, "wire")
        address(kernel, "wire", f"{KERNEL[family]}/{PREFIX[family]}")
        address(here, "wire", f"{HERE[family]}/{PREFIX[family]}")
        ovs.underlay(f"{THERE[family]}/{PREFIX[family]}")
        if underlay == "tap":
            run(here, "sysctl", "-qw", f"{FORWARD[family]}=1")
            for other in (host, kernel):
                ip("-n", other, "route", "add", vtep, "via", HERE[family])
        ovs.tunnel(
            vni=VNI, local=THERE[family], remote=vtep, mac=MAC, mtu=MTU[family],
            addresses=[f"{STATION}/24", f"{STATION6}/64"],
        )  # fmt: skip
        kernel_peer(
            kernel, vni=VNI, local=KERNEL[family], addresses=[], mac="02:42:0a:00:09:0d", flood=[vtep], mtu=MTU[family]
        )
        config = CONFIG.format(vtep=vtep, underlay=underlay, task=task, peer=THERE[family], kernel=KERNEL[family])
        with Node(here, tmp_path, config) as node:
            yield Site(family, node, task, host, ovs, kernel)
            assert node.stop() == 0, node.log


def test_it_interoperates(site: Site) -> None:
    """ARP and neighbour discovery, pings of every size both ways, and one byte over."""
    task, host = site.task, site.host
    for to in (STATION, STATION6):
        until(f"{to} answers", lambda to=to: ping(task, to))
    most = site.mtu - 28
    assert ping(task, STATION, "-M", "do", "-s", str(most)) and ping(host, TASK, "-M", "do", "-s", str(most))
    assert not ping(task, STATION, "-M", "do", "-s", str(most + 1))
    assert ping(task, STATION, "-M", "dont", "-s", "4000") and ping(host, TASK, "-M", "dont", "-s", "4000")
    for client, to in ((task, STATION), (host, TASK)):
        assert "sizes there and back" in run(client, PYTHON, EXCHANGE, "pings", to, 0, most).stdout
    for client, to in ((task, STATION6), (host, TASK6)):
        assert "sizes there and back" in run(client, PYTHON, EXCHANGE, "pings", to, 0, most - 20).stdout
    # Either has learned where the other's station is.
    assert "02:42:0a:00:09:03" in site.ovs.ask("fdb/show", "over")
    assert MAC in {row["mac"] for row in site.node.show("fdb")}


def test_every_byte(site: Site) -> None:
    """TCP and UDP, begun at either end: what comes back is what was sent."""
    for client, server, to in (
        (site.task, site.host, STATION), (site.host, site.task, TASK), (site.task, site.host, STATION6),
        (site.host, site.task, TASK6),
    ):  # fmt: skip
        with background(server, PYTHON, EXCHANGE, "echo", to, PORT):
            assert "there and back" in run(client, PYTHON, EXCHANGE, "send", to, PORT, 1 << 21).stdout
            sizes = [0, 1, 2, 63, 1000, site.mtu - 48, site.mtu - 28, 4000]
            assert "there and back" in run(client, PYTHON, EXCHANGE, "datagrams", to, PORT, *sizes).stdout


def test_checksums(site: Site) -> None:
    """Outer UDP checksums on, and off: both are taken."""
    for wanted in ("true", "false", "true"):
        site.ovs.control("set", "interface", "vx", f"options:csum={wanted}")
        until(f"{STATION} answers with csum={wanted}", lambda: ping(site.task, STATION))
        with background(site.task, PYTHON, EXCHANGE, "echo", TASK, PORT):
            assert "there and back" in run(site.host, PYTHON, EXCHANGE, "send", TASK, PORT, 1 << 17).stdout


def test_floods_and_a_mac_that_moves(site: Site) -> None:
    """Open vSwitch and a kernel get each flooded frame once, and nothing of the other's; a station may be at either."""
    everybody, station = "ff:ff:ff:ff:ff:ff", "02:00:00:00:00:01"
    macs = {"task": "02:42:0a:00:09:03", "switch": "02:00:00:00:00:0a", "kernel": "02:00:00:00:00:0b"}
    places = {"task": (site.task, "eth0"), "switch": (site.host, "over"), "kernel": (site.kernel, "vx")}
    numbers = count()
    with contextlib.ExitStack() as stack:
        ears = {name: Ear(*place) for name, place in places.items()}
        for ear in ears.values():
            stack.enter_context(ear.sock)

        def say(name: str, to: str, source: str, *heard_by: str) -> None:
            """A frame comes to those once, and to nobody else; another one after it says that it had the time."""
            number, after = next(numbers), next(numbers)
            ears[name].say(to, source, number)
            for other in heard_by:
                until(f"{number} of {name} at {other}", lambda other=other: ears[other].listen()[number])
            ears[name].say(everybody, macs[name], after)
            for other in ("switch", "kernel") if name == "task" else ("task",):
                until(f"{after} of {name} at {other}", lambda other=other: ears[other].listen()[after])
            got = {other: ear.listen()[number] for other, ear in ears.items()}
            assert got == {other: int(other in heard_by) for other in places}

        for _ in range(10):
            say("task", everybody, macs["task"], "switch", "kernel")
            say("task", "02:00:00:00:00:99", macs["task"], "switch", "kernel")
            say("switch", everybody, macs["switch"], "task")
            say("kernel", everybody, macs["kernel"], "task")
        for here in ("switch", "kernel", "switch"):
            say(here, everybody, station, "task")
            say("task", station, macs["task"], here)
            place = THERE[site.family] if here == "switch" else KERNEL[site.family]
            assert place in {row["dst"] for row in site.node.show("fdb") if row["mac"] == station}


@pytest.mark.long
def test_a_minute_of_it(site: Site) -> None:
    """TCP and UDP both ways at once for a minute each: no byte is another one."""
    with background(site.host, PYTHON, EXCHANGE, "echo", STATION, PORT):
        poured = run(site.task, PYTHON, EXCHANGE, "pour", STATION, PORT, STREAM_S, timeout=4 * STREAM_S + 60)
        assert "there and back" in poured.stdout
        shower = run(site.task, PYTHON, EXCHANGE, "shower", STATION, PORT, STREAM_S, 1000, timeout=STREAM_S + 60)
        sent, back, wrong = (int(word) for word in shower.stdout.split() if word.isdigit())
        assert wrong == 0 and 0.9 * sent < back <= sent, shower.stdout
