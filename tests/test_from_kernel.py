"""A plane that follows a kernel's vxlan device: after everything that was done to it, its tables are the kernel's."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

import vxlanfast as vf
import vxlanfast.from_kernel as from_kernel
import vxlanfast.netlink as netlink
from tests.lab import ip, namespaces, need_root
from vxlanfast.errors import DeviceError, SpecError
from vxlanfast.from_kernel import FromKernel
from vxlanfast.kernel_tables import Tables
from vxlanfast.netlink import Netlink
from vxlanfast.node_spec import NodeSpec

DEADLINE_S = 60.0

pytest.importorskip("pyroute2", reason="pyroute2 is not installed: pip install 'vxlanfast[live]'")
pytestmark = pytest.mark.root

BASE = vf.parse_spec("""
[node]
vtep = ["192.0.2.1", "2001:db8::1"]
[[network]]
name = "web"
vni = 42
subnet = "10.0.9.0/24"
gateway = "10.0.9.1"
[[network.endpoint]]
port = "tap1"
mac = "02:00:00:00:00:01"
ip = "10.0.9.11"
[[network.endpoint]]
vtep = "192.0.2.9"
mac = "02:00:00:00:00:09"
ip = "10.0.9.19"
[[network]]
name = "lan"
lan = true
""")


def run(*command: str, batch: str = "") -> str:
    done = subprocess.run(command, input=batch, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class Lab:
    """A namespace, and a live plane without packets that follows devices in it."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.specs: list[NodeSpec] = []
        self.lock = threading.RLock()
        self.plane: vf.Dataplane
        self.kernel: FromKernel

    def link(self, *words: str) -> None:
        ip("-n", self.namespace, "link", *" ".join(words).split())

    def vxlan(self, name: str, words: str) -> None:
        try:
            self.link("add", name, "type vxlan", words)
        except OSError as error:
            pytest.skip(f"no such device here: {error}")

    def fdb(self, words: str) -> None:
        run("bridge", "-n", self.namespace, "fdb", *words.split())

    def neigh(self, words: str) -> None:
        ip("-n", self.namespace, "neigh", *words.split())

    def kernel_fdb(self, device: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(
            run("bridge", "-n", self.namespace, "-j", "fdb", "show", "dev", device) or "[]"
        )
        return found

    async def apply(self, spec: NodeSpec) -> None:
        prepared = self.plane.prepare(spec)
        await asyncio.sleep(0)
        with self.lock:
            self.plane.apply(prepared)
        self.specs.append(spec)

    def follow(
        self, check: Callable[[Lab], Awaitable[None]], *devices: str, base: NodeSpec = BASE
    ) -> None:
        async def main() -> None:
            with FromKernel(devices or ("vx42",), self.namespace) as self.kernel:
                self.plane = vf.Dataplane(self.kernel.snapshot(base))
                self.kernel.start(self.plane, self.lock, self.apply)
                await check(self)
            assert self.kernel._link.fileno() == -1
            self.kernel.close()

        asyncio.run(main())

    async def until(self, condition: Callable[[], object]) -> None:
        end = asyncio.get_running_loop().time() + DEADLINE_S
        while not condition():
            if asyncio.get_running_loop().time() > end:
                raise AssertionError(f"not within the deadline: {self.kernel.followed()}")
            await asyncio.sleep(0.02)

    # What the plane has, in the words of the tests.

    def stations(self, vni: int = 42) -> dict[str, str]:
        """MACs at other VTEPs, base's own aside."""
        return {
            str(row["mac"]): str(row["place"])
            for row in self.plane.stations()
            if row["vni"] == vni and row["remote"] and row["mac"] != "02:00:00:00:00:09"
        }

    def neighbours(self, vni: int = 42) -> dict[str, tuple[str, str | None]]:
        return {
            str(row["address"]): (str(row["mac"]), None if row["place"] is None else str(row["place"]))
            for row in self.plane.neighbours()
            if row["vni"] == vni and row["address"] not in ("10.0.9.1", "10.0.9.11", "10.0.9.19")
        }

    def members(self, vni: int = 42) -> dict[str, bool]:
        return {vtep: flood for (one, vtep), flood in self.plane.vteps.items() if one == vni and vtep != "192.0.2.9"}

    def wanted(self, device: str = "vx42") -> tuple[dict[str, str], dict[str, bool]]:
        """The same as ``bridge -j fdb`` has it."""
        rows = [row for row in self.kernel_fdb(device) if "dst" in row]
        kept = [row for row in rows if row["state"] in ("permanent", "static") or "extern_learn" in row["flags"]]
        stations = {row["mac"]: row["dst"] for row in kept if row["mac"] != "00:00:00:00:00:00"}
        members = {row["dst"]: False for row in kept}
        members |= {row["dst"]: True for row in kept if row["mac"] == "00:00:00:00:00:00"}
        return stations, members

    def is_equal(self, device: str = "vx42") -> bool:
        return self.wanted(device) == (self.stations(), self.members())


    def equal(self) -> bool:
        """The same, while somebody forwards."""
        with self.lock:
            return self.is_equal()


@pytest.fixture
def lab() -> Iterator[Lab]:
    need_root("bridge")
    with namespaces("k") as (namespace,):
        made = Lab(namespace)
        made.vxlan("vx42", "id 42 dstport 4789 local 192.0.2.1 nolearning")
        yield made


def test_snapshot(lab: Lab) -> None:
    """What the kernel has is in the spec; what the base says itself stays."""
    lab.fdb("append 00:00:00:00:00:00 dev vx42 dst 192.0.2.2")
    lab.fdb("add 02:00:00:00:00:05 dev vx42 dst 192.0.2.4")
    lab.fdb("add 02:00:00:00:00:06 dev vx42 dst 192.0.2.2 static")
    lab.fdb("add 02:00:00:00:00:07 dev vx42 dst 192.0.2.7 dynamic")
    lab.fdb("add 02:00:00:00:00:08 dev vx42 dst 192.0.2.8 extern_learn dynamic")
    lab.fdb("add 02:00:00:00:00:01 dev vx42 dst 192.0.2.2")  # the base's own, here
    lab.fdb("add 02:00:00:00:00:09 dev vx42 dst 192.0.2.2")  # the base's own, elsewhere
    lab.neigh("add 10.0.9.5 lladdr 02:00:00:00:00:05 dev vx42 nud permanent")
    lab.neigh("add 2001:db8:9::5 lladdr 02:00:00:00:00:05 dev vx42 nud noarp router")
    lab.neigh("add 10.0.9.6 lladdr 02:00:00:00:00:06 dev vx42 nud reachable")
    lab.neigh("add 10.0.9.8 lladdr 02:00:00:00:00:08 dev vx42 nud reachable extern_learn")
    lab.neigh("add 10.0.9.1 lladdr 02:00:00:00:00:08 dev vx42 nud permanent")  # the base's gateway
    lab.neigh("add 10.0.9.19 lladdr 02:00:00:00:00:05 dev vx42 nud permanent")
    lab.neigh("add 10.0.9.77 lladdr 02:00:00:00:00:77 dev vx42 nud permanent")  # without a station
    lab.neigh("add 10.0.9.21 lladdr 02:00:00:00:00:01 dev vx42 nud permanent")  # another address of the base's own

    async def check(lab: Lab) -> None:
        network = lab.plane.spec.network[0]
        assert lab.plane.spec.network[1] == BASE.network[1]
        assert replace(network, endpoint=(), peer=()) == replace(BASE.network[0], endpoint=(), peer=())
        assert network.endpoint == (
            *BASE.network[0].endpoint,
            vf.EndpointSpec(
                vtep="192.0.2.4", mac="02:00:00:00:00:05", ip=("10.0.9.5", "2001:db8:9::5"), router=True
            ),
            vf.EndpointSpec(vtep="192.0.2.2", mac="02:00:00:00:00:06"),
            vf.EndpointSpec(vtep="192.0.2.8", mac="02:00:00:00:00:08", ip=("10.0.9.8",)),
        )  # fmt: skip
        assert network.peer == (
            vf.PeerSpec(vtep="192.0.2.2"), vf.PeerSpec(vtep="192.0.2.4", flood=False),
            vf.PeerSpec(vtep="192.0.2.8", flood=False),
        )  # fmt: skip
        assert lab.neighbours()["10.0.9.77"] == ("02:00:00:00:00:77", None)
        assert lab.neighbours()["10.0.9.21"] == ("02:00:00:00:00:01", None)
        assert lab.plane.spec == lab.kernel.snapshot(BASE) == lab.kernel.snapshot(BASE)
        told = lab.kernel.followed()
        (device,) = told["devices"]
        assert device["present"] and (device["stations"], device["flood"], device["neighbours"]) == (5, 1, 7)
        assert (device["vnis"], device["local"], device["port"], device["learning"]) == ([42], "192.0.2.1", 4789, False)
        assert not told["notes"] and not told["errors"] and told["entries"] == 13

    lab.follow(check)


def test_single_entries(lab: Lab) -> None:
    """Entries at VTEPs that are members already: no spec is applied for them."""
    lab.fdb("append 00:00:00:00:00:00 dev vx42 dst 192.0.2.2")
    lab.fdb("append 00:00:00:00:00:00 dev vx42 dst 192.0.2.3")

    async def check(lab: Lab) -> None:
        assert lab.members() == {"192.0.2.2": True, "192.0.2.3": True}
        lab.fdb("add 02:00:00:00:00:05 dev vx42 dst 192.0.2.2")
        await lab.until(lambda: lab.stations() == {"02:00:00:00:00:05": "192.0.2.2"})
        lab.neigh("add 10.0.9.5 lladdr 02:00:00:00:00:05 dev vx42 nud permanent")
        await lab.until(lambda: lab.neighbours() == {"10.0.9.5": ("02:00:00:00:00:05", "192.0.2.2")})
        # It moves, with its address.
        lab.fdb("replace 02:00:00:00:00:05 dev vx42 dst 192.0.2.3")
        await lab.until(lambda: lab.neighbours() == {"10.0.9.5": ("02:00:00:00:00:05", "192.0.2.3")})
        assert lab.stations() == {"02:00:00:00:00:05": "192.0.2.3"}
        # The kernel answers for it as well; that is no other neighbour.
        lab.neigh("add proxy 10.0.9.5 dev vx42")
        lab.fdb("add 02:00:00:00:00:0b dev vx42 dst 192.0.2.2")
        await lab.until(lambda: "02:00:00:00:00:0b" in lab.stations())
        lab.neigh("del proxy 10.0.9.5 dev vx42")
        lab.fdb("del 02:00:00:00:00:0b dev vx42 dst 192.0.2.2")
        await lab.until(lambda: "02:00:00:00:00:0b" not in lab.stations())
        assert lab.neighbours() == {"10.0.9.5": ("02:00:00:00:00:05", "192.0.2.3")}
        # Its address is another's.
        lab.neigh("replace 10.0.9.5 lladdr 02:00:00:00:00:06 dev vx42 nud permanent")
        await lab.until(lambda: lab.neighbours() == {"10.0.9.5": ("02:00:00:00:00:06", None)})
        # It becomes one that is learned, which is nobody's setting.
        lab.fdb("replace 02:00:00:00:00:05 dev vx42 dst 192.0.2.3 dynamic")
        await lab.until(lambda: lab.stations() == {})
        lab.fdb("replace 02:00:00:00:00:05 dev vx42 dst 192.0.2.3 static")
        await lab.until(lambda: lab.is_equal() and lab.stations())
        lab.fdb("del 02:00:00:00:00:05 dev vx42 dst 192.0.2.3")
        lab.neigh("del 10.0.9.5 dev vx42")
        await lab.until(lambda: not lab.stations() and not lab.neighbours())
        # The base's own stays where it is.
        lab.fdb("add 02:00:00:00:00:09 dev vx42 dst 192.0.2.2")
        lab.fdb("add 02:00:00:00:00:01 dev vx42 dst 192.0.2.2")
        lab.neigh("add 10.0.9.11 lladdr 02:00:00:00:00:05 dev vx42 nud permanent")
        lab.fdb("add 02:00:00:00:00:0a dev vx42 dst 192.0.2.2")
        await lab.until(lambda: lab.stations() == {"02:00:00:00:00:0a": "192.0.2.2"})
        lab.fdb("del 02:00:00:00:00:09 dev vx42 dst 192.0.2.2")
        lab.fdb("del 02:00:00:00:00:0a dev vx42 dst 192.0.2.2")
        await lab.until(lambda: not lab.stations())
        entry = lab.plane.station(42, "02:00:00:00:00:09")
        assert entry is not None and entry["place"] == "192.0.2.9"
        assert not lab.plane.verify() and not lab.specs and not lab.kernel.errors
        assert lab.kernel.changes and lab.kernel.applies == 0

    lab.follow(check)


def test_vteps(lab: Lab) -> None:
    """A new VTEP is let in, one that nothing names any more is not, and who is flooded to follows the kernel."""

    async def check(lab: Lab) -> None:
        assert lab.members() == {}
        lab.fdb("append 00:00:00:00:00:00 dev vx42 dst 192.0.2.2")
        await lab.until(lambda: lab.members() == {"192.0.2.2": True})
        lab.fdb("add 02:00:00:00:00:05 dev vx42 dst 192.0.2.3")
        await lab.until(lambda: lab.members() == {"192.0.2.2": True, "192.0.2.3": False})
        await lab.until(lab.is_equal)
        lab.fdb("append 00:00:00:00:00:00 dev vx42 dst 192.0.2.3")
        await lab.until(lambda: lab.members()["192.0.2.3"])
        lab.fdb("del 00:00:00:00:00:00 dev vx42 dst 192.0.2.2")
        await lab.until(lambda: lab.members() == {"192.0.2.3": True})
        lab.fdb("replace 02:00:00:00:00:05 dev vx42 dst 192.0.2.4")
        lab.fdb("del 00:00:00:00:00:00 dev vx42 dst 192.0.2.3")
        await lab.until(lambda: lab.members() == {"192.0.2.4": False} and lab.is_equal())
        # What comes by the port goes where the kernel's entries say.
        frame = bytes.fromhex("0200000000050200000000010800") + bytes(46)
        ((port, packet),) = lab.plane.offer("tap1", frame)
        assert port == "underlay" and bytes([192, 0, 2, 4]) in packet
        everybody = b"\xff" * 6 + frame[6:]
        assert len(lab.plane.offer("tap1", everybody)) == 1  # the base's own member
        # A VTEP that is the node's own, or of a family that it has no address of, is nobody's.
        lab.fdb("append 00:00:00:00:00:00 dev vx42 dst 192.0.2.1")
        lab.fdb("add 02:00:00:00:00:06 dev vx42 dst 192.0.2.1")
        lab.fdb("add 02:00:00:00:00:07 dev vx42 dst 192.0.2.4")
        await lab.until(lambda: "02:00:00:00:00:07" in lab.stations())
        assert lab.members() == {"192.0.2.4": False} and "02:00:00:00:00:06" not in lab.stations()
        assert not lab.kernel.errors and lab.kernel.applies == len(lab.specs)

    lab.follow(check)


def test_a_burst(lab: Lab) -> None:
    """2,000 entries at once, many VTEPs among them: few specs, and the tables are the kernel's in the end."""

    ended, offered = threading.Event(), 0
    frames = [bytes.fromhex(f"02000100{n:04x}0200000000010800") + bytes(46) for n in range(0, 2000, 50)]

    def forward() -> None:
        """As a forwarding thread does."""
        nonlocal offered
        while not ended.wait(0.005):
            with lab.lock:
                offered += len(lab.plane.offer("tap1", *frames))

    async def check(lab: Lab) -> None:
        lines = [
            f"fdb append 02:00:01:00:{n >> 8:02x}:{n & 255:02x} dev vx42 dst 192.0.2.{10 + n % 40}\n"
            for n in range(2000)
        ]
        run("bridge", "-n", lab.namespace, "-batch", "-", batch="".join(lines))
        await lab.until(lab.equal)
        assert len(lab.stations()) == 2000 and len(lab.members()) == 40
        # As many again while the first are deleted, half of them moved before.
        lines = []
        for n in range(2000):
            mac = f"{n >> 8:02x}:{n & 255:02x}"
            if n % 2:
                lines.append(f"fdb replace 02:00:01:00:{mac} dev vx42 dst 192.0.2.{100 + n % 7}\n")
            lines.append(f"fdb append 02:00:02:00:{mac} dev vx42 dst 192.0.2.{100 + n % 9}\n")
            if n % 3:
                lines.append(f"fdb del 02:00:01:00:{mac} dev vx42\n")
        run("bridge", "-n", lab.namespace, "-batch", "-", batch="".join(lines))
        await lab.until(lambda: lab.equal() and lab.kernel._touched == set())
        assert lab.kernel.applies < 40 and not lab.kernel.errors and offered

    async def with_traffic(lab: Lab) -> None:
        thread = threading.Thread(target=forward)
        thread.start()
        try:
            await check(lab)
        finally:
            ended.set()
            await asyncio.to_thread(thread.join)

    lab.follow(with_traffic)


def test_overrun(lab: Lab) -> None:
    """The kernel had to drop events: everything is asked for again, and that is counted."""
    lab.fdb("append 00:00:00:00:00:00 dev vx42 dst 192.0.2.2")

    async def check(lab: Lab) -> None:
        lab.kernel._link._sock.setsockopt(1, 8, 4096)
        lines = [f"fdb append 02:00:01:00:00:{n:02x} dev vx42 dst 192.0.2.2\n" for n in range(250)]
        run("bridge", "-n", lab.namespace, "-batch", "-", batch="".join(lines))
        await lab.until(lambda: len(lab.stations()) == 250)
        assert lab.kernel.overruns and lab.kernel.resyncs and lab.is_equal()
        lab.fdb("del 02:00:01:00:00:00 dev vx42 dst 192.0.2.2")
        await lab.until(lambda: len(lab.stations()) == 249)

    lab.follow(check)


def test_device_deleted_and_made_again(lab: Lab) -> None:
    """Without the device nothing of it is left; a new one by its name is followed, whatever it holds already."""
    lab.fdb("append 00:00:00:00:00:00 dev vx42 dst 192.0.2.2")
    lab.fdb("add 02:00:00:00:00:05 dev vx42 dst 192.0.2.2")
    lab.neigh("add 10.0.9.5 lladdr 02:00:00:00:00:05 dev vx42 nud permanent")

    async def check(lab: Lab) -> None:
        assert lab.stations() and lab.neighbours()
        for vni, port in ((42, 4789), (42, 4790)):
            lab.link("del vx42")
            await lab.until(lambda: not (lab.stations() or lab.neighbours() or lab.members()))
            await lab.until(lambda: not lab.kernel.followed()["devices"][0]["present"])
            lab.vxlan("vx42", f"id {vni} dstport {port} local 192.0.2.1")
            lab.fdb("append 00:00:00:00:00:00 dev vx42 dst 192.0.2.3")
            lab.fdb("add 02:00:00:00:00:06 dev vx42 dst 192.0.2.3")
            lab.neigh("add 10.0.9.6 lladdr 02:00:00:00:00:06 dev vx42 nud permanent")
            await lab.until(lambda: lab.neighbours() == {"10.0.9.6": ("02:00:00:00:00:06", "192.0.2.3")})
            await lab.until(lab.is_equal)
        # Under another name it is followed no longer, and again under its own.
        lab.link("set vx42 down")
        lab.link("set vx42 name vx43")
        await lab.until(lambda: not lab.members())
        lab.link("set vx43 name vx42")
        await lab.until(lab.is_equal)
        assert lab.members() and not lab.kernel.errors

    lab.follow(check)


def test_another_vni(lab: Lab) -> None:
    """A VNI that the base has no network for becomes one, as its device has it, while the device is there."""
    base = replace(BASE, network=BASE.network[1:])
    lab.link("set vx42 up")  # of one that is down changes are not told

    async def check(lab: Lab) -> None:
        assert lab.plane.spec.network[1] == vf.NetworkSpec(name="vx42", vni=42, learn=False, flood="off")
        lab.fdb("append 00:00:00:00:00:00 dev vx42 dst 192.0.2.2")
        await lab.until(lambda: lab.members() == {"192.0.2.2": True})
        assert lab.plane.spec.network[1].flood == "head-end"
        lab.link("set vx42 type vxlan learning")
        await lab.until(lambda: len(lab.plane.spec.network) > 1 and lab.plane.spec.network[1].learn)
        lab.link("del vx42")
        await lab.until(lambda: lab.plane.spec.network == base.network)

    lab.follow(check, base=base)


def test_a_spec_that_is_refused(lab: Lab) -> None:
    """The plane keeps what it has, the reason is told, and it is tried again."""

    async def check(lab: Lab) -> None:
        right, refusals = lab.apply, 0

        async def refuse(spec: NodeSpec) -> None:
            nonlocal refusals
            refusals += 1
            if refusals < 3:
                raise SpecError("not now")
            await right(spec)

        lab.kernel._apply = refuse
        lab.fdb("append 00:00:00:00:00:00 dev vx42 dst 192.0.2.2")
        lab.fdb("add 02:00:00:00:00:05 dev vx42 dst 192.0.2.2")
        await lab.until(lab.is_equal)
        assert lab.kernel.errors == 2 and lab.kernel.last_error == "not now"

    lab.follow(check)


@pytest.mark.parametrize("journal", [1 << 16, 0])
def test_another_base(lab: Lab, journal: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another base is applied while the kernel's tables change: nothing is lost, however much it was."""
    monkeypatch.setattr(from_kernel, "_JOURNAL", journal)
    lab.fdb("append 00:00:00:00:00:00 dev vx42 dst 192.0.2.2")
    lab.fdb("add 02:00:00:00:00:05 dev vx42 dst 192.0.2.2")
    lab.fdb("add 02:00:00:00:00:06 dev vx42 dst 192.0.2.2")

    async def check(lab: Lab) -> None:
        first = BASE.network[0]
        mine = vf.EndpointSpec(port="tap2", mac="02:00:00:00:00:06")
        base = replace(BASE, network=(replace(first, endpoint=(*first.endpoint, mine)), BASE.network[1]))
        right = lab.apply

        async def slowly(spec: NodeSpec) -> None:
            if not lab.specs:
                lab.fdb("add 02:00:00:00:00:07 dev vx42 dst 192.0.2.2")
                lab.fdb("del 02:00:00:00:00:05 dev vx42 dst 192.0.2.2")
                await lab.until(lambda: "02:00:00:00:00:07" in lab.stations())
            await right(spec)

        lab.kernel._apply = slowly
        await lab.kernel.rebase(base)
        assert lab.stations() == {"02:00:00:00:00:07": "192.0.2.2"}
        entry = lab.plane.station(42, "02:00:00:00:00:06")
        assert entry is not None and entry["place"] == "tap2"
        lab.fdb("append 00:00:00:00:00:00 dev vx42 dst 192.0.2.3")
        await lab.until(lambda: "192.0.2.3" in lab.members())
        assert lab.plane.spec.network[0].endpoint[: len(first.endpoint) + 1] == (*first.endpoint, mine)
        # One that is refused: the old one goes on.
        with pytest.raises(SpecError, match="own"):
            await lab.kernel.rebase(replace(BASE, vtep=("192.0.2.9",)))
        lab.fdb("append 00:00:00:00:00:00 dev vx42 dst 192.0.2.4")
        await lab.until(lambda: "192.0.2.4" in lab.members())
        assert mine in lab.plane.spec.network[0].endpoint and not lab.kernel.errors

    lab.follow(check)


def test_what_no_node_has(lab: Lab) -> None:
    """Passed over, counted and told in one line each; everything else goes on."""
    lab.fdb("append 00:00:00:00:00:00 dev vx42 dst 192.0.2.2")
    lab.fdb("add 02:00:00:00:00:05 dev vx42 dst 192.0.2.2 vni 77")
    lab.fdb("add 02:00:00:00:00:06 dev vx42 dst 192.0.2.2 port 4790")
    lab.fdb("append 01:00:5e:01:01:01 dev vx42 dst 192.0.2.2")
    try:
        ip("-n", lab.namespace, "nexthop", "add", "id", "1", "via", "192.0.2.9", "fdb")
        ip("-n", lab.namespace, "nexthop", "add", "id", "10", "group", "1", "fdb")
        lab.fdb("add 02:00:00:00:00:08 dev vx42 nhid 10")
    except OSError as error:
        pytest.skip(f"no nexthop groups here: {error}")

    async def check(lab: Lab) -> None:
        told = lab.kernel.followed()
        assert sorted(told["notes"]) == [
            "fdb: vx42: mac = '01:00:5e:01:01:01': entries of groups are not followed: multicast goes to those that"
            " joined",
            "fdb: vx42: nhid = 10: nexthop groups are not followed: give the MAC one dst",
            "fdb: vx42: port = 4790: 4789, as its device vx42 has it",
            "fdb: vx42: vni = 77: 42, as its device vx42 has it",
        ]
        assert told["passed_over"] == 4 and not lab.stations()
        lab.fdb("del 02:00:00:00:00:06 dev vx42 dst 192.0.2.2 port 4790")
        lab.fdb("add 02:00:00:00:00:06 dev vx42 dst 192.0.2.2")
        lab.fdb("replace 02:00:00:00:00:05 dev vx42 dst 192.0.2.2")
        lab.fdb("del 02:00:00:00:00:08 dev vx42 nhid 10")
        await lab.until(lambda: set(lab.stations()) == {"02:00:00:00:00:05", "02:00:00:00:00:06"})
        await lab.until(lambda: lab.kernel.followed()["passed_over"] == 1)
        # And back.
        lab.fdb("replace 02:00:00:00:00:05 dev vx42 dst 192.0.2.2 port 4790")
        await lab.until(lambda: set(lab.stations()) == {"02:00:00:00:00:06"})
        assert not lab.kernel.errors

    lab.follow(check)


def test_devices_that_cannot_be_followed(lab: Lab) -> None:
    lab.link("add v0 type veth peer name v1")
    lab.vxlan("vxg", "id 43 dstport 4791 group 239.1.1.1 dev v0")

    async def check(lab: Lab) -> None:
        told = lab.kernel.followed()
        assert [one["present"] for one in told["devices"]] == [False, True, False]
        assert told["notes"] == [
            "device vxg: port = 4791: this node's is 4789",
            "device v0: it is no vxlan device (veth)",
            "device vxg: a node floods to its members, not to a multicast group",
            "fdb: vxg: dst = '239.1.1.1': a node floods by head-end replication, not to a multicast group",
        ]
        assert [network.name for network in lab.plane.spec.network] == ["web", "lan", "vxg"]

    lab.follow(check, "v0", "vxg", "vx9")
    with FromKernel("vx42", lab.namespace) as kernel, pytest.raises(ValueError, match="is to be made of a snapshot"):
        kernel.start(vf.Dataplane(BASE), None, lab.apply)
    with pytest.raises(SpecError, match="from-kernel: a vxlan device at least"):
        FromKernel([], lab.namespace)
    with pytest.raises(SpecError, match="device = 'no name'"):
        FromKernel(["no name"], lab.namespace)
    with pytest.raises(DeviceError, match="no such network namespace"):
        FromKernel("vx42", "gone9")


def test_asking_fails(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told, and asked again."""
    right, asked = from_kernel.read_tables, 0

    def refuse(link: Netlink) -> Tables:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise DeviceError("netlink: not now")
        return right(link)

    async def check(lab: Lab) -> None:
        monkeypatch.setattr(from_kernel, "read_tables", refuse)
        lab.link("del vx42")
        await lab.until(lambda: lab.kernel.resyncs)
        assert lab.kernel.errors == 2 and lab.kernel.followed()["last_error"] == "netlink: not now"

    lab.follow(check)
    with pytest.raises(DeviceError, match="not now"):
        asked = 0
        FromKernel("vx42", lab.namespace)


def test_events_that_cannot_be_read(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a newer kernel: counted, and the others are followed."""
    lab.fdb("append 00:00:00:00:00:00 dev vx42 dst 192.0.2.2")
    right, left = netlink._decoded, 1

    def refuse(kind: int, data: bytes) -> Any:
        nonlocal left
        if kind == netlink.NEWNEIGH and left:
            left -= 1
            raise KeyError("NDA_NEWER")
        return right(kind, data)

    async def check(lab: Lab) -> None:
        monkeypatch.setattr(netlink, "_decoded", refuse)
        lab.fdb("add 02:00:00:00:00:05 dev vx42 dst 192.0.2.2")
        lab.fdb("add 02:00:00:00:00:06 dev vx42 dst 192.0.2.2")
        await lab.until(lambda: lab.stations())
        assert set(lab.stations()) == {"02:00:00:00:00:06"} and lab.kernel.followed()["malformed"] == 1

    lab.follow(check)


def test_a_table_that_is_full(lab: Lab) -> None:
    """What has no room is told of, and what is deleted makes room."""
    lab.fdb("append 00:00:00:00:00:00 dev vx42 dst 192.0.2.2")

    async def check(lab: Lab) -> None:
        lines = [f"fdb append 02:00:01:00:{n >> 8:02x}:{n & 255:02x} dev vx42 dst 192.0.2.2\n" for n in range(600)]
        run("bridge", "-n", lab.namespace, "-batch", "-", batch="".join(lines))
        await lab.until(lambda: lab.kernel.events >= 600 and not lab.kernel._touched)
        assert lab.kernel.errors and str(lab.kernel.last_error)
        lab.fdb("add 02:00:02:00:00:00 dev vx42 dst 192.0.2.2")
        run("bridge", "-n", lab.namespace, "-batch", "-", batch="".join(lines).replace("append", "del"))
        await lab.until(lambda: not lab.kernel._touched and not set(lab.stations()) - {"02:00:02:00:00:00"})
        lab.fdb("add 02:00:02:00:00:01 dev vx42 dst 192.0.2.2")
        await lab.until(lambda: "02:00:02:00:00:01" in lab.stations())

    lab.follow(check, base=replace(BASE, stations=64))


def test_like_flannel(lab: Lab) -> None:
    """No learning, no flooding; for each remote node its device's MAC and address."""

    async def check(lab: Lab) -> None:
        for n in range(2, 6):
            lab.fdb(f"append 0e:00:00:00:00:{n:02x} dev vx42 dst 192.0.2.{n} self permanent")
            lab.neigh(f"replace 10.0.9.{n * 10} lladdr 0e:00:00:00:00:{n:02x} dev vx42 nud permanent")
        await lab.until(lambda: lab.is_equal() and len(lab.neighbours()) == 4)
        assert lab.neighbours()["10.0.9.30"] == ("0e:00:00:00:00:03", "192.0.2.3")
        assert not any(lab.members().values())
        # A node goes.
        lab.neigh("del 10.0.9.30 dev vx42")
        lab.fdb("del 0e:00:00:00:00:03 dev vx42 dst 192.0.2.3 self")
        await lab.until(lambda: lab.is_equal() and len(lab.neighbours()) == 3)
        assert "192.0.2.3" not in lab.members()

    lab.follow(check)


def test_like_docker(lab: Lab) -> None:
    """A proxy with learning; a permanent neighbour and a permanent entry for each task, which is moved by deletion."""
    lab.vxlan("vx-001001-abcde", "id 4097 dstport 4790 proxy l2miss l3miss learning")

    async def check(lab: Lab) -> None:
        network = lab.plane.spec.network[-1]
        assert (network.name, network.proxy, network.unknown_neighbours) == ("vx-001001-abcde", True, "swallow")
        dev = "dev vx-001001-abcde"
        for n in (3, 4, 5):
            lab.neigh(f"replace 10.0.1.{n} lladdr 02:42:0a:00:01:0{n} {dev} nud permanent")
            lab.fdb(f"add 02:42:0a:00:01:0{n} {dev} dst 192.0.2.{n} self permanent")
        await lab.until(lambda: len(lab.neighbours(4097)) == len(lab.stations(4097)) == 3)
        assert lab.neighbours(4097)["10.0.1.4"] == ("02:42:0a:00:01:04", "192.0.2.4")
        lab.fdb(f"del 02:42:0a:00:01:04 {dev} dst 192.0.2.4 self")
        lab.fdb(f"add 02:42:0a:00:01:04 {dev} dst 192.0.2.5 self permanent")
        await lab.until(lambda: lab.neighbours(4097).get("10.0.1.4") == ("02:42:0a:00:01:04", "192.0.2.5"))
        assert lab.members(4097) == {"192.0.2.3": False, "192.0.2.5": False}

    lab.follow(check, "vx-001001-abcde")


def test_like_evpn(lab: Lab) -> None:
    """Entries of a control plane on the device, neighbours on the bridge above it, which answers for them."""
    try:
        lab.link("add br0 type bridge")
        lab.link("set vx42 master br0")
        run("bridge", "-n", lab.namespace, "link", "set", "dev", "vx42", "neigh_suppress", "on")
    except OSError as error:
        pytest.skip(f"no such bridge here: {error}")
    lab.link("set vx42 up")
    base = replace(BASE, network=BASE.network[1:])

    async def check(lab: Lab) -> None:
        network = lab.plane.spec.network[-1]
        assert (network.proxy, network.unknown_neighbours) == (True, "flood")
        for n in (2, 3):
            mac = f"02:00:00:00:00:0{n + 3}"
            lab.fdb(f"append 00:00:00:00:00:00 dev vx42 dst 192.0.2.{n} self permanent")
            lab.fdb(f"replace {mac} dev vx42 dst 192.0.2.{n} self extern_learn dynamic")
            lab.fdb(f"replace {mac} dev vx42 master extern_learn dynamic")
            lab.neigh(f"replace 10.0.9.{n} lladdr {mac} dev br0 nud noarp extern_learn proto zebra")
        await lab.until(lambda: lab.is_equal() and len(lab.neighbours()) == 2)
        assert lab.neighbours()["10.0.9.3"] == ("02:00:00:00:00:06", "192.0.2.3")
        # A station moves to the other VTEP; on the device itself its address would be another's.
        lab.fdb("replace 02:00:00:00:00:05 dev vx42 dst 192.0.2.3 self extern_learn dynamic")
        await lab.until(lambda: lab.neighbours()["10.0.9.2"] == ("02:00:00:00:00:05", "192.0.2.3"))
        lab.neigh("replace 10.0.9.2 lladdr 02:00:00:00:00:77 dev vx42 nud permanent")
        await lab.until(lambda: lab.neighbours()["10.0.9.2"] == ("02:00:00:00:00:77", None))
        lab.neigh("del 10.0.9.2 dev vx42")
        await lab.until(lambda: lab.neighbours()["10.0.9.2"] == ("02:00:00:00:00:05", "192.0.2.3"))
        # A VTEP is withdrawn.
        lab.fdb("del 00:00:00:00:00:00 dev vx42 dst 192.0.2.2 self")
        await lab.until(lambda: lab.members() == {"192.0.2.3": True})
        # The device leaves the bridge, whose neighbours are nobody's then; and another answers no more.
        lab.link("set vx42 nomaster")
        await lab.until(lambda: not lab.neighbours() and not lab.plane.spec.network[-1].proxy)
        lab.link("set vx42 master br0")
        lab.neigh("replace 10.0.9.2 lladdr 02:00:00:00:00:05 dev br0 nud permanent")
        await lab.until(lambda: len(lab.neighbours()) == 1 and lab.is_equal())
        lab.link("del br0")
        await lab.until(lambda: not lab.neighbours())
        assert lab.is_equal() and not lab.kernel.errors

    lab.follow(check, base=base)


def test_one_device_for_all(lab: Lab) -> None:
    """``external``: each entry has its own VNI."""
    try:
        lab.link("add vxe type vxlan external dstport 4790 vnifilter nolearning")
    except OSError as error:
        pytest.skip(f"no such device here: {error}")
    base = replace(BASE, network=(*BASE.network, vf.NetworkSpec(name="db", vni=43)))

    async def check(lab: Lab) -> None:
        run("bridge", "-n", lab.namespace, "vni", "add", "dev", "vxe", "vni", "42-45")
        for vni in (42, 43):
            lab.fdb(f"append 00:00:00:00:00:00 dev vxe dst 192.0.2.{vni} src_vni {vni} vni {vni}")
            lab.fdb(f"add 02:00:00:00:00:05 dev vxe dst 192.0.2.{vni} src_vni {vni} vni {vni}")
        lab.fdb("add 02:00:00:00:00:06 dev vxe dst 192.0.2.6 src_vni 43")
        lab.fdb("add 02:00:00:00:00:07 dev vxe dst 192.0.2.6 src_vni 43 vni 44")
        await lab.until(lambda: len(lab.stations(43)) == 2 and len(lab.stations(42)) == 1)
        assert lab.stations(42) == {"02:00:00:00:00:05": "192.0.2.42"} and lab.members(42) == {"192.0.2.42": True}
        assert lab.stations(43) == {"02:00:00:00:00:05": "192.0.2.43", "02:00:00:00:00:06": "192.0.2.6"}
        assert lab.members(43) == {"192.0.2.43": True, "192.0.2.6": False}
        await lab.until(lambda: lab.kernel.followed()["notes"] == [
            "device vxe: port = 4790: this node's is 4789",
            "fdb: vxe: vni = 44: 43, with which it is looked up: a network has one VNI"
        ])  # fmt: skip
        lab.fdb("append 00:00:00:00:00:00 dev vxe dst 192.0.2.9 src_vni 45 vni 45")
        await lab.until(lambda: "vxe.45" in [network.name for network in lab.plane.spec.network])
        lab.fdb("del 02:00:00:00:00:05 dev vxe dst 192.0.2.42 src_vni 42 vni 42")
        await lab.until(lambda: not lab.stations(42) and len(lab.stations(43)) == 2)

    lab.follow(check, "vxe", base=base)


def test_over_ipv6(lab: Lab) -> None:
    lab.vxlan("vx6", "id 6 dstport 4790 local 2001:db8::1 nolearning")

    async def check(lab: Lab) -> None:
        lab.fdb("append 00:00:00:00:00:00 dev vx6 dst 2001:db8::2")
        lab.fdb("add 02:00:00:00:00:05 dev vx6 dst 2001:db8::3")
        await lab.until(lambda: lab.members(6) == {"2001:db8::2": True, "2001:db8::3": False})
        assert lab.stations(6) == {"02:00:00:00:00:05": "2001:db8::3"}

    lab.follow(check, "vx6")


def test_descriptors(lab: Lab) -> None:
    """Nothing is left open, and no thread goes on."""
    async def nothing(lab: Lab) -> None:
        await asyncio.sleep(0)

    lab.follow(nothing)
    gc.collect()  # what others left
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        lab.follow(nothing)
    assert len(os.listdir("/proc/self/fd")) == before
