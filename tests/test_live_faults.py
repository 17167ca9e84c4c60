"""What a live node survives: addresses that go and come back, send queues that are full, peers that vanish; and which
underlay it takes where one cannot be had."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab import ip, namespaces, need_root
from tests.live import Node, address, background, hub, kernel_peer, ping, run, until
from tests.support import PYTHON, VERBS_ENV

pytestmark = [pytest.mark.root, pytest.mark.live]

OURS = "192.0.2.1"
HOSTS = ("192.0.2.2", "192.0.2.3")
CONFIG = """
[node]
vtep = "{vtep}"
df = true

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
peer = [{{ vtep = "192.0.2.2" }}, {{ vtep = "192.0.2.3" }}]

[[network.endpoint]]
port = "task"
ip = "10.0.9.3"
"""

#: More than any queue holds: 42 MB, which nobody waits for.
DATAGRAMS = """
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(30000):
    sock.sendto(bytes(1400), ("10.0.9.12", 9))
"""


class Site:
    """A node, its task, and two kernels on one underlay."""

    def __init__(self, node: Node, task: str, hosts: list[str]) -> None:
        self.node, self.task, self.hosts = node, task, hosts

    def counters(self) -> dict[str, int]:
        """Of the underlay."""
        command = (PYTHON, "-m", "vxlanfast", "show", "io", "-j", "--socket", self.node.control)
        counted: dict[str, int] = json.loads(run(self.node.namespace, *command).stdout)["underlay"]
        return counted


@contextmanager
def hosts(*letters: str) -> Iterator[list[str]]:
    """Namespaces on one underlay, .1 and on, the second and the third with kernel vxlan devices; the last one is a
    task's, and alone."""
    need_root("ping")
    with namespaces("h", *letters) as (middle, *there):
        hub(middle, there[:-1])
        for number, host in enumerate(there[:-1], 1):
            address(host, "wire", f"192.0.2.{number}/24")
        for number, host in enumerate(there[1:-1], 2):
            kernel_peer(
                host, vni=42, local=f"192.0.2.{number}", flood=[OURS, f"192.0.2.{5 - number}"],
                addresses=[f"10.0.9.1{number}/24"], mac=f"02:42:0a:00:09:1{number}",
            )  # fmt: skip
        yield there


@pytest.fixture(params=["socket", "packet"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with hosts("n", "a", "b", "t") as (here, one, other, task):
        config = CONFIG.format(vtep=OURS, underlay=request.param, task=task)
        with Node(here, tmp_path, config) as node:
            yield Site(node, task, [one, other])
            assert node.stop() == 0, node.log


def test_an_address_that_goes(site: Site) -> None:
    """It is said, and when the address is back so are the packets."""
    here = site.node.namespace
    until("it answers", lambda: ping(site.task, "10.0.9.12"))
    ip("-n", here, "addr", "del", f"{OURS}/24", "dev", "wire")
    until("it is said", lambda: "address gone" in site.node.log)
    ping(site.task, "10.0.9.12")
    address(here, "wire", f"{OURS}/24")
    until("that, too", lambda: "address back" in site.node.log)
    until("it answers again", lambda: ping(site.task, "10.0.9.12"))


def test_full_queues(site: Site) -> None:
    """A way that takes far less than what comes: the rest is counted, the node lives, and packets pass behind it."""
    need_root("ping", "tc")
    until("it answers", lambda: ping(site.task, "10.0.9.12"))
    tc = subprocess.run(
        ["tc", "-n", site.node.namespace, "qdisc", "add", "dev", "wire", "root", "tbf", "rate", "2mbit", "burst",
         "4kb", "limit", "40000000"], capture_output=True, text=True, check=False,
    )  # fmt: skip
    if tc.returncode:
        pytest.skip(f"no tbf here: {tc.stderr.strip()}")

    def dropped() -> dict[str, int] | None:
        run(site.task, PYTHON, "-c", DATAGRAMS)
        counters = site.counters()
        return counters if counters["tx_drops"] else None

    counted = until("something was dropped", dropped)
    assert counted["tx_packets"]
    delete = ["tc", "-n", site.node.namespace, "qdisc", "del", "dev", "wire", "root"]
    assert subprocess.run(delete, check=False).returncode == 0
    site.node.alive()
    until("it answers again", lambda: ping(site.task, "10.0.9.12"))
    assert ping(site.task, "10.0.9.13", count=5)


def test_a_peer_that_vanishes(site: Site) -> None:
    """Its host says of every packet that nobody is there; then it says nothing any more. The other is served."""
    one, _ = site.hosts
    until("both answer", lambda: ping(site.task, "10.0.9.12") and ping(site.task, "10.0.9.13"))
    run(one, "sysctl", "-qw", "net.ipv4.icmp_ratelimit=0")
    ip("-n", one, "link", "del", "vx")
    ip("-n", site.task, "neigh", "replace", "10.0.9.12", "lladdr", "02:42:0a:00:09:12", "dev", "eth0")
    with background(site.task, "ping", "-q", "-f", "-s", "1000", "10.0.9.12"):
        assert ping(site.task, "10.0.9.13", count=10)
        ip("-n", one, "link", "set", "wire", "down")  # nobody at all
        assert ping(site.task, "10.0.9.13", count=10)
        site.node.alive()
    assert len(site.node.log) < 20000  # it does not write a line for each
    ip("-n", one, "link", "set", "wire", "up")
    kernel_peer(
        one, vni=42, local=HOSTS[0], flood=[OURS, HOSTS[1]], addresses=["10.0.9.12/24"], mac="02:42:0a:00:09:12"
    )
    until("it answers again", lambda: ping(site.task, "10.0.9.12"))


# Which underlay it is.


def said_by(namespace: str, config: Path) -> str:
    """What a node that cannot start says, which is one line, and exit code 1."""
    done = subprocess.run(
        ["ip", "netns", "exec", namespace, PYTHON, "-m", "vxlanfast", "node", "-c", str(config), "--control", "off"],
        capture_output=True, text=True, timeout=60, env=VERBS_ENV, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def test_beside_a_vxlan_device(tmp_path: Path) -> None:
    """Its port is the kernel's: sockets say whose, and the way out; auto goes beside it; both have their own VNIs."""
    with hosts("n", "a", "b", "t") as (here, one, _, task):
        kernel_peer(
            here, vni=77, local=OURS, flood=[HOSTS[0]], addresses=["10.0.77.1/24"], mac="02:42:0a:00:4d:01", name="own"
        )
        kernel_peer(
            one, vni=77, local=HOSTS[0], flood=[OURS], addresses=["10.0.77.2/24"], mac="02:42:0a:00:4d:02", name="v77"
        )
        config = tmp_path / "socket.toml"
        config.write_text(CONFIG.format(vtep=OURS, underlay="socket", task=task))
        said = said_by(here, config)
        assert "vxlan device own" in said and "ip link del own" in said and 'underlay = "packet"' in said
        with Node(here, tmp_path, CONFIG.format(vtep=OURS, underlay="auto", task=task)) as node:
            assert "packet socket at wire" in node.log and "underlay not had" in node.log, node.log
            assert "vxlan device own" in node.log
            until("it answers", lambda: ping(task, "10.0.9.12"))
            until("so do the kernels", lambda: ping(here, "10.0.77.2"))
            assert ping(one, "10.0.9.3", count=3) and ping(here, "10.0.77.2", count=3)
            assert node.stop() == 0, node.log


def test_auto(tmp_path: Path) -> None:
    """Sockets where the address is ours; a TAP where it is nobody's and the kernel forwards; else why none of them."""
    with hosts("n", "a", "b", "t") as (here, one, other, task):
        with Node(here, tmp_path, CONFIG.format(vtep=OURS, underlay="auto", task=task)) as node:
            assert "UDP sockets at" in node.log and "underlay not had" not in node.log
            assert node.stop() == 0
        config = CONFIG.format(vtep="198.51.100.1", underlay="auto", task=task)
        (tmp_path / "none.toml").write_text(config)
        said = said_by(here, tmp_path / "none.toml")
        assert "no address of this machine" in said and "net.ipv4.ip_forward = 0" in said
        run(here, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        for host in (one, other):
            ip("-n", host, "route", "add", "198.51.100.1", "via", OURS)
            run(host, "bridge", "fdb", "append", "00:00:00:00:00:00", "dst", "198.51.100.1", "dev", "vx")
        with Node(here, tmp_path, config) as node:
            assert "TAP vf-underlay" in node.log and "underlay not had" in node.log
            until("it answers", lambda: ping(task, "10.0.9.12"))
            assert node.stop() == 0, node.log


def test_a_packet_socket_where_there_is_none(tmp_path: Path) -> None:
    """The device that has the address is the one."""
    with hosts("n", "a", "b", "t") as (here, _, _, task):
        config = CONFIG.format(vtep=OURS, underlay="packet", task=task)
        (tmp_path / "other.toml").write_text(config.replace('"packet"', '"packet"\ndevice = "lo"'))
        assert "device wire has it" in said_by(here, tmp_path / "other.toml")
        (tmp_path / "nobody.toml").write_text(config.replace(OURS, "192.0.2.99"))
        assert "no device of this machine has it" in said_by(here, tmp_path / "nobody.toml")


def test_a_device_made_anew(tmp_path: Path) -> None:
    """The interface of a packet socket is deleted, and there again: so are the packets."""
    with hosts("n", "a", "b", "t") as (here, one, _, task):
        config = CONFIG.format(vtep="203.0.113.1", underlay="packet", task=task).replace(HOSTS[1], "203.0.113.2")

        def wire() -> None:
            ip("-n", here, "link", "add", "more", "type", "veth", "peer", "name", "more", "netns", one)
            for host, number in ((here, 1), (one, 2)):
                ip("-n", host, "link", "set", "more", "up")
                address(host, "more", f"203.0.113.{number}/24")

        wire()
        ip("-n", one, "link", "del", "vx")
        run(one, "ip", "link", "add", "vx", "type", "vxlan", "id", "42", "dstport", "4789", "local", "203.0.113.2")
        ip("-n", one, "link", "set", "vx", "up")
        address(one, "vx", "10.0.9.12/24")
        run(one, "bridge", "fdb", "append", "00:00:00:00:00:00", "dst", "203.0.113.1", "dev", "vx")
        with Node(here, tmp_path, config) as node:
            until("it answers", lambda: ping(task, "10.0.9.12"))
            ip("-n", here, "link", "del", "more")
            assert not ping(task, "10.0.9.12")
            wire()
            until("it answers again", lambda: ping(task, "10.0.9.12"))
            assert node.stop() == 0, node.log
