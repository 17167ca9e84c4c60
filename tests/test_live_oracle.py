"""A live node and a kernel of another version on a cable: its vxlan device as a peer, and an IPVS director behind it.

    task, VNI 42 ── node ══ wire ══ the other kernel: vx42 ── IPVS ── vx43 ══ wire ══ node ── three servers, VNI 43
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import exchange
from tests.lab import ip, namespaces, need_root
from tests.live import Node, address, background, ping, run, until
from tests.oracle.machine import Guest, guest
from tests.support import PYTHON

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.long]

MTU = {4: 1450, 6: 1430}
HERE = {4: "192.0.2.1", 6: "2001:db8::1"}
THERE = {4: "192.0.2.2", 6: "2001:db8::2"}
BEHIND = {4: "198.51.100.1", 6: "2001:db8:1::1"}
FORWARD = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
TASK, TASK6, TASK_MAC = "10.0.9.3", "fd00:9::3", "02:42:0a:00:09:03"
PEER, PEER6, PEER_MAC = "10.0.9.12", "fd00:9::12", "02:42:0a:00:09:0c"
VIRTUAL, VIRTUAL6 = "10.0.9.100", "fd00:9::100"
ROUTER, ROUTER6 = "10.0.10.254", "fd00:10::254"
SERVERS = (1, 2, 3)
ECHO, SHOP, WEB = 7007, 8080, 80
EXCHANGE = Path(exchange.__file__)
MODULES = ("vxlan", "ip_vs", "ip_vs_rr", "ip_vs_wrr")
BYTES = 1 << 19
#: Connections of one client: three rounds and one.
TIMES = 10

CONFIG = """
[node]
vtep = "{vtep}"

[live]
underlay = "{underlay}"

[[network]]
name = "clients"
vni = 42
subnet = ["10.0.9.0/24", "fd00:9::/64"]
peer = [{{ vtep = "{peer}" }}]
endpoint = [{{ port = "task", ip = ["10.0.9.3", "fd00:9::3"] }}]

[[live.tap]]
port = "task"
name = "eth0"
namespace = "{task}"

[[network]]
name = "servers"
vni = 43
subnet = ["10.0.10.0/24", "fd00:10::/64"]
peer = [{{ vtep = "{peer}" }}]
"""

SERVER = """
[[network.endpoint]]
port = "server{number}"
ip = ["10.0.10.{number}", "fd00:10::{number}"]

[[live.tap]]
port = "server{number}"
name = "eth0"
namespace = "{namespace}"
"""


class Site:
    """The node, its task and servers, and the other kernel."""

    def __init__(self, family: int, vtep: str, node: Node, task: str, servers: list[str], other: Guest) -> None:
        self.vtep, self.node, self.task, self.servers, self.other = vtep, node, task, servers, other
        self.mtu = MTU[family]


def tunnel(other: Guest, name: str, vni: int, local: str, remote: str, mac: str, mtu: int, *addresses: str) -> None:
    """A vxlan device of the other kernel, that learns and has one to flood to."""
    csum6 = ("udp6zerocsumrx",) if ":" in local else ()
    other.run(
        "ip", "link", "add", name, "address", mac, "type", "vxlan", "id", vni, "dstport", 4789, "local", local,
        "dev", "vec0", *csum6,
    )  # fmt: skip
    other.run("ip", "link", "set", name, "mtu", mtu, "up")
    for one in addresses:
        other.run("ip", "address", "add", one, "dev", name, *(("nodad",) if ":" in one else ()))
    other.run("bridge", "fdb", "append", "00:00:00:00:00:00", "dst", remote, "dev", name)


@pytest.fixture(
    scope="module", params=[(4, "socket"), (4, "tap"), (6, "socket"), (6, "tap")],
    ids=["ipv4-socket", "ipv4-tap", "ipv6-socket", "ipv6-tap"],
)  # fmt: skip
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    need_root("ping", "unshare")
    family, underlay = request.param
    folder = tmp_path_factory.mktemp("oracle")
    vtep = BEHIND[family] if underlay == "tap" else HERE[family]
    with contextlib.ExitStack() as stack:
        here, task, *servers = stack.enter_context(namespaces("n", "t", *(f"s{k}" for k in SERVERS)))
        other = stack.enter_context(
            guest(folder / "machine", here, here="192.0.2.1/24", there="192.0.2.2/24", modules=MODULES)
        )
        if family == 6:
            address(here, "wire", f"{HERE[6]}/64")
            other.run("ip", "address", "add", f"{THERE[6]}/64", "dev", "vec0", "nodad")
        if underlay == "tap":
            run(here, "sysctl", "-qw", *FORWARD)
            other.run("ip", "route", "add", vtep, "via", HERE[family])
        config = CONFIG.format(vtep=vtep, underlay=underlay, task=task, peer=THERE[family])
        for number, namespace in zip(SERVERS, servers, strict=True):
            config += SERVER.format(number=number, namespace=namespace)
        node = stack.enter_context(Node(here, folder, config))
        ends = THERE[family], vtep
        tunnel(other, "vx42", 42, *ends, PEER_MAC, MTU[family], f"{PEER}/24", f"{PEER6}/64")
        tunnel(other, "vx43", 43, *ends, "02:42:0a:00:0a:fe", MTU[family], f"{ROUTER}/24", f"{ROUTER6}/64")
        yield Site(family, vtep, node, task, servers, other)
        assert node.stop() == 0, node.log


def test_it_interoperates(site: Site) -> None:
    """ARP and neighbour discovery, pings of every size both ways, one over; both learn."""
    task, other = site.task, site.other
    for to in (PEER, PEER6):
        until(f"{to} answers", lambda to=to: ping(task, to))
    most = site.mtu - 28
    for to, mine, longest in ((PEER, TASK, most), (PEER6, TASK6, most - 20)):
        assert "sizes there and back" in run(task, PYTHON, EXCHANGE, "pings", to, 0, longest, timeout=180).stdout
        assert "sizes there and back" in other.run(PYTHON, EXCHANGE, "pings", mine, 0, longest)
    assert not ping(task, PEER, "-M", "do", "-s", str(most + 1))
    assert not other.may("ping", "-q", "-c", 1, "-W", 2, "-M", "do", "-s", most + 1, TASK)
    assert ping(task, PEER, "-M", "dont", "-s", "4000")
    assert other.may("ping", "-q", "-c", 1, "-W", 5, "-M", "dont", "-s", 4000, TASK)
    learned = other.run("bridge", "fdb", "show", "dev", "vx42")
    assert f"{TASK_MAC} dst {site.vtep}" in learned, learned
    assert PEER_MAC in {row["mac"] for row in site.node.show("fdb")}


def test_every_byte(site: Site) -> None:
    """TCP and UDP, begun at either end: what comes back is what was sent."""
    task, other = site.task, site.other
    sizes = [0, 1, 2, 63, 1000, site.mtu - 48, site.mtu - 28, 4000]
    for mine, theirs in ((TASK, PEER), (TASK6, PEER6)):
        other.start(PYTHON, EXCHANGE, "echo", theirs, ECHO)
        assert "there and back" in run(task, PYTHON, EXCHANGE, "send", theirs, ECHO, BYTES, timeout=180).stdout
        assert "there and back" in run(task, PYTHON, EXCHANGE, "datagrams", theirs, ECHO, *sizes, timeout=180).stdout
        with background(task, PYTHON, EXCHANGE, "echo", mine, ECHO):
            assert "there and back" in other.run(PYTHON, EXCHANGE, "send", mine, ECHO, BYTES)
            assert "there and back" in other.run(PYTHON, EXCHANGE, "datagrams", mine, ECHO, *sizes)


def ask(site: Site, to: str, times: int = TIMES) -> list[str]:
    """Who answered so many connections of the task's."""
    return run(site.task, PYTHON, EXCHANGE, "ask", to, WEB, times, timeout=180).stdout.split()


@pytest.mark.parametrize(
    ("virtual", "router", "server"), [(VIRTUAL, ROUTER, "10.0.10.{}"), (VIRTUAL6, ROUTER6, "fd00:10::{}")],
    ids=["ipv4", "ipv6"],
)  # fmt: skip
def test_a_director_behind_it(site: Site, virtual: str, router: str, server: str) -> None:
    """IPVS gets its clients by one tunnel and has its servers behind another: each in turn, none that is drained."""
    other, v6 = site.other, ":" in virtual
    brackets = "[{}]:{}" if v6 else "{}:{}"
    service = brackets.format(virtual, WEB)
    other.run("sysctl", "-qw", *FORWARD)
    if not v6:
        other.run("sysctl", "-qw", "net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.vx42.send_redirects=0")
    other.run("ip", "address", "add", f"{virtual}/{64 if v6 else 24}", "dev", "vx42", *(("nodad",) if v6 else ()))
    for protocol in ("-t", "-u"):
        other.run("ipvsadm", "-A", protocol, service, "-s", "rr")
        for number in SERVERS:
            real = brackets.format(server.format(number), SHOP)
            other.run("ipvsadm", "-a", protocol, service, "-r", real, "-m")
    with contextlib.ExitStack() as stack:
        for number, namespace in zip(SERVERS, site.servers, strict=True):
            ip("-n", namespace, "route", "add", "default", "via", router)
            said = background(namespace, PYTHON, EXCHANGE, "say", f"s{number}", server.format(number), SHOP)
            stack.enter_context(said)
            until(f"server {number} has the director", lambda namespace=namespace: ping(namespace, router))
            until(
                f"server {number} listens",
                lambda namespace=namespace: f":{SHOP}" in run(namespace, "ss", "-Hltn").stdout,
            )
        told = ask(site, virtual)
        # The newest first, and so on (rr).
        assert told == (["s3", "s2", "s1"] * TIMES)[:TIMES]
        # Drained: no new ones. Deleted: neither. Back again: as before.
        second = brackets.format(server.format(2), SHOP)
        other.run("ipvsadm", "-e", "-t", service, "-r", second, "-m", "-w", 0)
        assert set(ask(site, virtual, 6)) == {"s1", "s3"}
        other.run("ipvsadm", "-d", "-t", service, "-r", second)
        assert set(ask(site, virtual, 6)) == {"s1", "s3"}
        other.run("ipvsadm", "-a", "-t", service, "-r", second, "-m")
        assert sorted(ask(site, virtual, 3)) == ["s1", "s2", "s3"]
        counts = other.run("ipvsadm", "-Ln", "--stats")
        assert counts.count("->") == 7, counts
    # Datagrams by the same way.
    with contextlib.ExitStack() as stack:
        for number, namespace in zip(SERVERS, site.servers, strict=True):
            stack.enter_context(background(namespace, PYTHON, EXCHANGE, "echo", server.format(number), SHOP))
        sizes = [1, 100, site.mtu - 48]
        for _ in SERVERS:
            done = run(site.task, PYTHON, EXCHANGE, "datagrams", virtual, WEB, *sizes, timeout=180)
            assert "there and back" in done.stdout
    # Nobody left: the client is told so, through the tunnel.
    for protocol in ("-t", "-u"):
        for number in SERVERS:
            other.run("ipvsadm", "-d", protocol, service, "-r", brackets.format(server.format(number), SHOP))
    refused = run(site.task, PYTHON, "-c", REFUSED, virtual, WEB).stdout
    assert "refused" in refused.lower(), refused


REFUSED = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)
except OSError as error:
    print(error)
"""
