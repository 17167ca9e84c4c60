"""A live node and a kernel of another version on a cable: its vxlan device as a peer, and an IPVS director behind it.

    task, VNI 42 ── node ══ wire ══ the other kernel: vx42 ── IPVS ── vx43 ══ wire ══ node ── three servers, VNI 43
"""

from __future__ import annotations

import contextlib
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import exchange
from tests.ears import Ear
from tests.lab import ip, namespaces, need_root
from tests.live import STREAM_S, Node, address, background, ping, run, until
from tests.oracle.machine import Guest, guest
from tests.support import PYTHON

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.long]

MTU = {4: 1450, 6: 1430}
HERE = {4: "192.0.2.1", 6: "2001:db8::1"}
THERE = {4: "192.0.2.2", 6: "2001:db8::2"}
BEHIND = {4: "198.51.100.1", 6: "2001:db8:1::1"}
SECOND = {4: "203.0.113.3", 6: "2001:db8:3::3"}
FORWARD = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
TASK, TASK6, TASK_MAC = "10.0.9.3", "fd00:9::3", "02:42:0a:00:09:03"
PEER, PEER6, PEER_MAC = "10.0.9.12", "fd00:9::12", "02:42:0a:00:09:0c"
VIRTUAL, VIRTUAL6 = "10.0.9.100", "fd00:9::100"
ROUTER, ROUTER6 = "10.0.10.254", "fd00:10::254"
SERVERS = (1, 2, 3)
ECHO, SHOP, WEB = 7007, 8080, 80
EXCHANGE = Path(exchange.__file__)
MODULES = ("vxlan", "veth", "ip_vs", "ip_vs_rr", "ip_vs_wrr")
BYTES = 1 << 19
#: Connections of one client: three rounds and one.
TIMES = 10
#: The frame that says that those before it have had their time.
LAST = 999

CONFIG = """
[node]
vtep = "{vtep}"

[live]
underlay = "{underlay}"

[[network]]
name = "clients"
vni = 42
subnet = ["10.0.9.0/24", "fd00:9::/64"]
peer = [{{ vtep = "{peer}" }}, {{ vtep = "{second}" }}]
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
        self.family, self.vtep, self.node = family, vtep, node
        self.task, self.servers, self.other = task, servers, other
        self.mtu = MTU[family]


def tunnel(
    other: Guest, name: str, vni: int, local: str, remote: str, mac: str, mtu: int, *addresses: str,
    inside: tuple[str, ...] = (), device: str = "vec0",
) -> None:
    """A vxlan device of the other kernel, that learns and has one to flood to."""
    csum6 = ("udp6zerocsumrx",) if ":" in local else ()
    other.run(
        *inside, "ip", "link", "add", name, "address", mac, "type", "vxlan", "id", vni, "dstport", 4789,
        "local", local, "dev", device, *csum6,
    )  # fmt: skip
    other.run(*inside, "ip", "link", "set", name, "mtu", mtu, "up")
    for one in addresses:
        other.run(*inside, "ip", "address", "add", one, "dev", name, *(("nodad",) if ":" in one else ()))
    other.run(*inside, "bridge", "fdb", "append", "00:00:00:00:00:00", "dst", remote, "dev", name)


#: How a program is run where the other kernel's second VTEP is.
IN_SECOND = ("ip", "netns", "exec", "second")


def second_host(other: Guest, family: int) -> None:
    """Another VTEP of that kernel, in a namespace which it routes to."""
    router, host, prefix = {4: ("203.0.113.1", SECOND[4], 24), 6: ("2001:db8:3::1", SECOND[6], 64)}[family]
    nodad = ("nodad",) if family == 6 else ()
    other.run("sysctl", "-qw", *FORWARD)
    other.run("ip", "netns", "add", "second")
    other.run("ip", "link", "add", "second", "type", "veth", "peer", "name", "leg", "netns", "second")
    other.run("ip", "link", "set", "second", "up")
    other.run("ip", "address", "add", f"{router}/{prefix}", "dev", "second", *nodad)
    other.run(*IN_SECOND, "ip", "link", "set", "leg", "up")
    other.run(*IN_SECOND, "ip", "address", "add", f"{host}/{prefix}", "dev", "leg", *nodad)
    other.run(*IN_SECOND, "ip", "route", "add", "default", "via", router)


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
        second_host(other, family)
        ip("-n", here, "route", "add", SECOND[family], "via", THERE[family])
        config = CONFIG.format(vtep=vtep, underlay=underlay, task=task, peer=THERE[family], second=SECOND[family])
        for number, namespace in zip(SERVERS, servers, strict=True):
            config += SERVER.format(number=number, namespace=namespace)
        node = stack.enter_context(Node(here, folder, config))
        ends = THERE[family], vtep
        tunnel(other, "vx42", 42, *ends, PEER_MAC, MTU[family], f"{PEER}/24", f"{PEER6}/64")
        tunnel(other, "vx43", 43, *ends, "02:42:0a:00:0a:fe", MTU[family], f"{ROUTER}/24", f"{ROUTER6}/64")
        tunnel(
            other, "vx", 42, SECOND[family], vtep, "02:42:0a:00:09:0d", MTU[family], inside=IN_SECOND, device="leg"
        )
        # While a neighbour is asked for, a burst to it would be dropped in part.
        until("the second is there", lambda: other.may(*IN_SECOND, "ping", "-c", 1, "-W", 2, HERE[family]))
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


class FarEar:
    """A device of the other kernel: what comes in by it of our frames, from now on until the last."""

    def __init__(self, other: Guest, inside: tuple[str, ...], device: str) -> None:
        self.other, self.file = other, f"/run/{device}.heard"
        other.run("rm", "-f", self.file)
        command = shlex.join(map(str, (*inside, PYTHON, EXCHANGE, "hear", device, LAST)))
        other.start("sh", "-c", f"exec {command} > {self.file}")
        until("it listens", lambda: "listening" in self.said())  # what cat says of no file is no line of it

    def said(self) -> list[str]:
        return self.other.run("cat", self.file, check=False).splitlines()

    def listen(self) -> Counter[int]:
        """How often each number has come so far."""
        return Counter(map(int, self.said()[1:]))


def test_floods_and_a_mac_that_moves(site: Site) -> None:
    """Both VTEPs of the other kernel get each flooded frame once, nothing of each other's; a station may move."""
    everybody, station, numbers = "ff:ff:ff:ff:ff:ff", "02:00:00:00:00:01", range(40)
    first, second = ((), "vx42", THERE), (IN_SECOND, "vx", SECOND)
    once = Counter(numbers)
    ear = Ear(site.task, "eth0")

    def utter(inside: tuple[str, ...], device: str, source: str, *numbers: int) -> None:
        site.other.run(*inside, PYTHON, EXCHANGE, "utter", device, everybody, source, *numbers)

    def said_to(to: str, *expected: Counter[int], say: Callable[[], None] | None = None) -> None:
        """What both get of it, and not more: a frame for all says that it had the time."""
        far = FarEar(site.other, *first[:2]), FarEar(site.other, *second[:2])
        if say is None:
            ear.say(to, TASK_MAC, *numbers)
        else:
            say()
        # One flow may overtake another: what says that it was all goes after it has come.
        until("it has come", lambda: [one.listen() for one in far] == list(expected))
        ear.say(everybody, TASK_MAC, LAST)
        until("the last has come", lambda: all(one.listen()[LAST] for one in far))
        assert [one.listen() for one in far] == [one + Counter([LAST]) for one in expected]

    with ear.sock:
        for to in (everybody, "02:00:00:00:00:99"):
            said_to(to, once, once)
        assert not ear.listen(), "some came back"

        def one_of_them() -> None:
            utter(*first[:2], "02:00:00:00:00:0a", *numbers)
            until("all are heard", lambda: ear.listen() == once)

        said_to("", Counter(), Counter(), say=one_of_them)
        for inside, device, place in (first, second, first):
            ear.forget()
            utter(inside, device, station, 900)
            until("it is heard of", lambda: ear.listen()[900])
            said_to(station, *((once, Counter()) if place is THERE else (Counter(), once)))
            assert place[site.family] in {row["dst"] for row in site.node.show("fdb") if row["mac"] == station}


def test_a_minute_of_it(site: Site) -> None:
    """TCP and UDP both ways at once for a minute each: no byte is another one."""
    site.other.start(PYTHON, EXCHANGE, "echo", PEER, ECHO + 1)
    poured = run(site.task, PYTHON, EXCHANGE, "pour", PEER, ECHO + 1, STREAM_S, timeout=4 * STREAM_S + 60)
    assert "there and back" in poured.stdout
    done = run(site.task, PYTHON, EXCHANGE, "shower", PEER, ECHO + 1, STREAM_S, 1000, timeout=STREAM_S + 60)
    sent, back, wrong = (int(word) for word in done.stdout.split() if word.isdigit())
    assert wrong == 0 and 0.9 * sent < back <= sent, done.stdout


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
