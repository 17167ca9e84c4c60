"""Two real FRR nodes with EVPN over BGP: what the one's zebra writes into its kernel is in the plane that follows it.

Debian's package ``frr``; VXLANFAST_FRR names the folder of zebra and bgpd where it is elsewhere.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.lab import ip, namespaces, need_root
from tests.test_from_kernel import BASE, Lab

pytest.importorskip("pyroute2", reason="pyroute2 is not installed: pip install 'vxlanfast[live]'")
pytestmark = [pytest.mark.root, pytest.mark.long]

FRR = Path(os.environ.get("VXLANFAST_FRR", "/usr/lib/frr"))
MAC = "02:00:00:00:00:05"


class Router:
    """A namespace with VTEP 192.0.2.N, VNI 42 in a bridge, and zebra and bgpd in it."""

    def __init__(self, number: int, namespace: str, folder: Path, stack: contextlib.ExitStack) -> None:
        self.namespace, self.folder = namespace, folder / namespace
        self.folder.mkdir()
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.stack = stack
        stack.callback(self.stop)
        own, other = f"192.0.2.{number}", f"192.0.2.{3 - number}"
        for words in (
            f"addr add {own}/24 dev u0", "link set u0 up",
            "link add br0 type bridge", f"link add vx42 type vxlan id 42 dstport 4789 local {own} nolearning",
            "link set vx42 master br0", "link set vx42 up", f"link set br0 address 02:00:00:00:01:0{number}",
            f"addr add 10.0.9.25{number}/24 dev br0", "link set br0 up",
        ):  # fmt: skip
            try:
                ip("-n", namespace, *words.split())
            except OSError as error:
                pytest.skip(f"no such devices here: {error}")
        (self.folder / "zebra.conf").write_text("hostname r\n")
        (self.folder / "bgpd.conf").write_text(
            f"router bgp 65001\n bgp router-id {own}\n no bgp default ipv4-unicast\n neighbor {other} remote-as 65001\n"
            f" neighbor {other} timers 1 3\n neighbor {other} timers connect 1\n"
            f" address-family l2vpn evpn\n  neighbor {other} activate\n  advertise-all-vni\n exit-address-family\n"
        )
        self.start("zebra")
        self.start("bgpd")

    def start(self, name: str) -> None:
        command = ["ip", "netns", "exec", self.namespace, str(FRR / name), "-f", str(self.folder / f"{name}.conf")]
        command += ["-i", str(self.folder / f"{name}.pid"), "-z", str(self.folder / "zserv.api")]
        command += ["--vty_socket", str(self.folder), "-P", "0", "-u", "root", "-g", "root", "--log", "stdout"]
        log = self.stack.enter_context((self.folder / f"{name}.log").open("ab"))
        self.running[name] = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def stop(self, *names: str) -> None:
        for name in names or tuple(self.running):
            process = self.running.pop(name)
            process.kill()
            process.wait()

    def told(self) -> str:
        return "\n".join(f"{path.name}: {path.read_text()[-2000:]}" for path in sorted(self.folder.glob("*.log")))


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as made:
        yield made


def test_evpn(tmp_path: Path, stack: contextlib.ExitStack) -> None:
    """A host comes up behind the other router: its VTEP, MAC and address are here; it goes, and they do."""
    need_root("bridge")
    if not (FRR / "zebra").exists() or not (FRR / "bgpd").exists():
        pytest.skip(f"needs FRR: apt-get install frr (none in {FRR})")
    one, two, host = stack.enter_context(namespaces("a", "b", "h"))
    ip("-n", one, "link", "add", "u0", "type", "veth", "peer", "name", "u0", "netns", two)
    routers = [Router(number, namespace, tmp_path, stack) for number, namespace in ((1, one), (2, two))]
    ip("-n", two, "link", "add", "h0", "type", "veth", "peer", "name", "eth0", "netns", host)
    ip("-n", two, "link", "set", "h0", "master", "br0")
    for words in (f"link set eth0 address {MAC}", "addr add 10.0.9.5/24 dev eth0", "link set eth0 up"):
        ip("-n", host, *words.split())

    def ping() -> None:
        subprocess.run(
            ["ip", "netns", "exec", host, "ping", "-c", "1", "-W", "1", "10.0.9.252"], capture_output=True, check=False
        )

    async def check(lab: Lab) -> None:
        try:
            await lab.until(lambda: lab.members() == {"192.0.2.2": True})
            assert lab.is_equal()
            ip("-n", two, "link", "set", "h0", "up")

            def learned() -> bool:
                ping()  # the bridge has to see it
                return lab.stations().get(MAC) == "192.0.2.2" and "10.0.9.5" in lab.neighbours()

            await lab.until(learned)
            assert lab.neighbours()["10.0.9.5"] == (MAC, "192.0.2.2") and lab.is_equal()
            # The host goes.
            ip("-n", two, "link", "del", "h0")
            await lab.until(lambda: MAC not in lab.stations() and lab.is_equal())
            # The other router's BGP goes, and comes again.
            routers[1].stop("bgpd")
            await lab.until(lambda: not lab.members() and lab.is_equal())
            routers[1].start("bgpd")
            await lab.until(lambda: lab.members() == {"192.0.2.2": True} and lab.is_equal())
            assert not lab.kernel.errors
        except AssertionError as error:
            raise AssertionError(f"{error}\n{routers[0].told()}\n{routers[1].told()}") from error

    lab = Lab(one)
    lab.follow(check, base=replace(BASE, network=BASE.network[1:]))
