"""Floods of a live node with kernels for peers, frame by frame: who gets one, how often; what strangers send."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ears import Ear
from tests.lab import ip, namespaces, need_root
from tests.live import Node, address, hub, kernel_peer, run, until

pytestmark = [pytest.mark.root, pytest.mark.live]

VTEP = {4: "192.0.2.{}", 6: "2001:db8::{}"}
BEHIND = "198.51.100.1"
PREFIX = {4: 24, 6: 64}
MTU = {4: 1450, 6: 1430}
BROADCAST, NOBODY, GROUP = "ff:ff:ff:ff:ff:ff", "02:00:00:00:00:99", "03:00:00:00:00:01"
ONE_MAC, TWO_MAC = "02:42:0a:00:09:03", "02:42:0a:00:09:04"
STATION = "02:00:00:00:00:01"
FRAMES = 40

CONFIG = """
[node]
vtep = "{vtep}"

[live]
underlay = "{underlay}"

[[live.tap]]
port = "one"
namespace = "{task}"

[[live.tap]]
port = "two"
namespace = "{task}"

[[network]]
name = "web"
vni = 42
subnet = "10.0.9.0/24"
peer = [{{ vtep = "{a}" }}, {{ vtep = "{b}" }}]
endpoint = [{{ port = "one", ip = "10.0.9.3" }}, {{ port = "two", ip = "10.0.9.4" }}]
"""


class Site:
    """The node with two tasks' devices; two kernels that are members, and one that is not; ears at all of them."""

    def __init__(self, node: Node, ears: dict[str, Ear], member: str, vtep: str, family: int) -> None:
        self.node, self.ears, self.member, self.vtep, self.family = node, ears, member, vtep, family
        self.number = 1000

    def everywhere(self, begun_by: str, source: str = "") -> None:
        """A frame to all and its arrival: what was sent before it has been heard by then. It does not count."""
        self.number += 1
        source = source or {"one": ONE_MAC, "a": "02:00:00:00:01:0a", "b": "02:00:00:00:01:0b"}[begun_by]
        self.ears[begun_by].say(BROADCAST, source, self.number)
        others = [name for name in ("one", "two", "a", "b") if name != begun_by]
        until(
            f"{begun_by}'s frame is everywhere",
            lambda: all(self.ears[name].listen()[self.number] for name in others),
        )

    def forget(self) -> None:
        for ear in self.ears.values():
            ear.forget()

    def got(self) -> dict[str, int]:
        """How many frames each has heard of those that count, each at most once."""
        out = {}
        for name, ear in self.ears.items():
            heard = {number: times for number, times in ear.listen().items() if number < 1000}
            assert set(heard.values()) <= {1}, f"{name} got some more than once: {heard}"
            out[name] = len(heard)
        return out

    def expect(self, begun_by: str, **frames: int) -> None:
        """So many come to each, and not more: a frame to all says that they had the time.

        That goes after they have come, since one flow may overtake another."""
        expected = dict.fromkeys(self.ears, 0) | frames
        until(f"they have come: {expected}", lambda: self.got() == expected)
        self.everywhere(begun_by)
        assert self.got() == expected

    def drops(self) -> dict[str, int]:
        counted: dict[str, int] = self.node.show("drops")["drops"]
        return counted


@pytest.fixture(params=[(4, "socket"), (6, "socket"), (4, "tap")], ids=["ipv4-socket", "ipv6-socket", "ipv4-tap"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    need_root()
    family, underlay = request.param
    at = VTEP[family].format
    with contextlib.ExitStack() as stack:
        middle, here, task, a, b, c = stack.enter_context(namespaces("h", "n", "t", "a", "b", "c"))
        hub(middle, [here, a, b, c])
        for number, host in enumerate((here, a, b, c), 1):
            address(host, "wire", f"{at(number)}/{PREFIX[family]}")
        vtep = BEHIND if underlay == "tap" else at(1)
        if underlay == "tap":
            run(here, "sysctl", "-qw", "net.ipv4.ip_forward=1")
            for host in (a, b, c):
                ip("-n", host, "route", "add", vtep, "via", at(1))
        for number, host, flood in ((2, a, [vtep, at(3)]), (3, b, [vtep, at(2)]), (4, c, [vtep])):
            kernel_peer(
                host, vni=42, local=at(number), addresses=[], mac=f"02:42:0a:00:09:1{number}", flood=flood,
                mtu=MTU[family],
            )  # fmt: skip
        config = CONFIG.format(vtep=vtep, underlay=underlay, task=task, a=at(2), b=at(3))
        node = stack.enter_context(Node(here, tmp_path, config))
        ears = {"one": Ear(task, "one"), "two": Ear(task, "two")}
        ears |= {name: Ear(host, "vx") for name, host in (("a", a), ("b", b), ("c", c))}
        for ear in ears.values():
            stack.enter_context(ear.sock)
        made = Site(node, ears, a, vtep, family)
        made.everywhere("one")
        made.forget()
        yield made
        assert node.stop() == 0, node.log


@pytest.mark.parametrize("to", [BROADCAST, GROUP, NOBODY], ids=["broadcast", "group", "unknown"])
def test_floods_reach_everybody_once(site: Site, to: str) -> None:
    """Both peers and the other port once each; the sender hears nothing of it, and strangers do not."""
    site.ears["one"].say(to, ONE_MAC, *range(FRAMES))
    site.expect("one", two=FRAMES, a=FRAMES, b=FRAMES)
    # From a peer, which floods itself: to both our ports, and not to the other peer again.
    site.forget()
    site.ears["a"].say(to, STATION, *range(FRAMES))
    site.expect("a", one=FRAMES, two=FRAMES, b=FRAMES)
    site.expect("b", one=FRAMES, two=FRAMES, b=FRAMES)


def place_of(node: Node, mac: str) -> str | None:
    """The VTEP that a MAC is behind."""
    return next((row["dst"] for row in node.show("fdb") if row["mac"] == mac), None)


def test_a_mac_that_moves(site: Site) -> None:
    """A station is where it was last heard of: it alone gets what is for it, and at once."""
    at = VTEP[site.family].format
    for name in "aba":
        site.everywhere(name, STATION)
        site.forget()
        site.ears["one"].say(STATION, ONE_MAC, *range(FRAMES))
        site.expect("one", **{name: FRAMES})
        assert place_of(site.node, STATION) == at(2 if name == "a" else 3)


def test_learning_off(site: Site) -> None:
    """What was learned goes and nothing is learned: who has no entry is flooded to; who is set is not."""
    site.node.reload(site.node.config.read_text().replace("vni = 42", "vni = 42\nlearn = false"))
    assert "configuration applied" in site.node.log, site.node.log
    site.everywhere("a", STATION)
    site.forget()
    site.ears["one"].say(STATION, ONE_MAC, *range(FRAMES))
    site.expect("one", two=FRAMES, a=FRAMES, b=FRAMES)
    assert place_of(site.node, STATION) is None
    site.forget()
    site.ears["one"].say(TWO_MAC, ONE_MAC, *range(FRAMES))
    site.expect("one", two=FRAMES)


def test_floods_off(site: Site) -> None:
    """As Swarm has it: what is for everybody stays with our own ports."""
    site.node.reload(site.node.config.read_text().replace("vni = 42", 'vni = 42\nflood = "off"'))
    for to in (BROADCAST, NOBODY):
        site.forget()
        site.ears["one"].say(to, ONE_MAC, *range(FRAMES))
        until("the other port has it", lambda: len(site.ears["two"].listen()) == FRAMES)
        assert site.got() == {"one": 0, "two": FRAMES, "a": 0, "b": 0, "c": 0}


def test_strangers_are_counted(site: Site) -> None:
    """A VTEP that is no member, and a VNI of nobody: dropped, nothing is learned of them, and they are counted."""
    before = site.drops()
    site.ears["c"].say(BROADCAST, STATION, *range(FRAMES))
    until("strangers are counted", lambda: counted(site, before, "DROP_VTEP_UNKNOWN") >= FRAMES)
    # A member with a network that is not here.
    kernel_peer(
        site.member, vni=43, local=VTEP[site.family].format(2), addresses=[], mac="02:00:00:00:00:43",
        flood=[site.vtep], mtu=MTU[site.family], name="vx43",
    )  # fmt: skip
    other = Ear(site.member, "vx43")
    with other.sock:
        other.say(BROADCAST, STATION, *range(FRAMES))
        until("a network of nobody is counted", lambda: counted(site, before, "DROP_VNI_UNKNOWN") >= FRAMES)
    site.everywhere("a")
    assert site.got() == {"one": 0, "two": 0, "a": 0, "b": 0, "c": 0}
    assert place_of(site.node, STATION) is None


def counted(site: Site, before: dict[str, int], reason: str) -> int:
    return site.drops().get(reason, 0) - before.get(reason, 0)
