"""Devices through netlink: configured, moved, watched; and what is said where that cannot be."""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import os
import pickle
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.lab import inside, ip, namespaces, need_root
from tests.support import PATIENCE_S, until
from vxlanfast import links, netlink
from vxlanfast.errors import DeviceError, MissingLibraryError, SpecError
from vxlanfast.tap import Tap

pytest.importorskip("pyroute2", reason="pyroute2 is not installed: pip install 'vxlanfast[live]'")


def shown(namespace: str, *words: str) -> Any:
    run = subprocess.run(["ip", "-n", namespace, "-j", *words], capture_output=True, text=True, check=True)
    return json.loads(run.stdout or "[]")


@pytest.fixture
def pair() -> Iterator[tuple[str, str]]:
    """Two namespaces, v0 and v1 in the first."""
    need_root()
    with namespaces("a", "b") as (a, b):
        try:
            ip("-n", a, "link", "add", "v0", "type", "veth", "peer", "name", "v1")
        except OSError as error:
            pytest.skip(f"no such devices here: {error}")
        yield a, b


@pytest.mark.root
def test_configure(pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A device becomes what was said, as iproute2 sees it; said again, nothing happens."""
    a, _ = pair
    ip("-n", a, "link", "set", "v1", "up")
    wanted: dict[str, Any] = {
        "mac": "02:00:00:00:00:09", "mtu": 1400, "addresses": ("10.0.9.1/24", "2001:db8:9::1/64", "10.0.8.1"),
        "gateway": ("10.0.9.254", "2001:db8:9::fe"), "gso_max": 100_000,
    }  # fmt: skip
    first = links.configure("v0", namespace=a, **wanted)
    assert (first.mac, first.mtu, first.up, first.kind) == ("02:00:00:00:00:09", 1400, True, "veth")
    asked: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(netlink.Netlink, "request", lambda *words, **more: asked.append((words, more)))
        again = links.configure("v0", namespace=a, **wanted)
    assert again.index == first.index
    # But for what pyroute2 cannot read: super-frames of IPv4.
    assert [more["raw"] for _, more in asked] == [struct.pack("=HHI", 8, 63, 100_000)]
    (row,) = shown(a, "-d", "addr", "show", "v0")
    assert row["gso_max_size"] == 100_000 and row.get("gso_ipv4_max_size", 100_000) == 100_000
    known = {(entry["local"], entry["prefixlen"]) for entry in row["addr_info"]}
    assert known >= {("10.0.9.1", 24), ("2001:db8:9::1", 64), ("10.0.8.1", 32)}
    assert [route["gateway"] for route in shown(a, "route", "show", "default")] == ["10.0.9.254"]
    assert [route["gateway"] for route in shown(a, "-6", "route", "show", "default")] == ["2001:db8:9::fe"]
    links.undo("v0", namespace=a, addresses=("10.0.9.1/24", "2001:db8:9::1/64", "10.0.7.1/24"), gateway="10.0.9.254")
    links.undo("v0", namespace=a, gateway=("10.0.9.254", "2001:db8:9::fe"))
    (row,) = shown(a, "addr", "show", "v0")
    assert {entry["local"] for entry in row["addr_info"] if entry["scope"] == "global"} == {"10.0.8.1"}
    assert not shown(a, "route", "show", "default") and not shown(a, "-6", "route", "show", "default")
    assert links.find("v0", a) is not None and links.exists("v0", a) and not links.exists("v9", a)
    assert not links.configure("v0", namespace=a, up=False).up and not links.configure("v0", namespace=a, up=None).up
    assert links.delete("v0", a) and not links.delete("v0", a) and not links.exists("v1", a)


@pytest.mark.root
def test_moved_and_renamed(pair: tuple[str, str]) -> None:
    """A device found here goes into the namespace as what it is to be called there; one that is there stays."""
    a, b = pair

    def home(call: Callable[[], Any]) -> Any:
        return netlink.in_namespace(a, call)

    def move(**more: Any) -> links.Link:
        found: links.Link = home(lambda: links.configure("v0", namespace=b, rename="eth0", **more))
        return found

    assert move(addresses=["10.0.9.3/24"]).name == "eth0" and not links.exists("v0", a) and links.exists("eth0", b)
    assert move(mtu=1300).mtu == 1300
    (row,) = shown(b, "addr", "show", "eth0")
    assert [entry["local"] for entry in row["addr_info"] if entry["family"] == "inet"] == ["10.0.9.3"]
    # Renamed where it is, up as it is.
    assert links.configure("eth0", namespace=b, rename="eth1").name == "eth1"
    assert home(lambda: links.configure("v1", rename="v2")).up and links.exists("v2", a)
    # One of its name here is another, and stays.
    ip("-n", a, "link", "add", "eth1", "type", "veth", "peer", "name", "eth2")
    assert home(lambda: links.configure("eth1", namespace=b, mtu=1200)).mtu == 1200 and links.exists("eth1", a)
    # By the path of a namespace and by a process in it.
    assert links.exists("eth1", f"/run/netns/{b}")
    sleeper = subprocess.Popen(["ip", "netns", "exec", b, "sleep", "60"])
    try:
        here, there = Path("/proc/self/ns/net"), Path(f"/proc/{sleeper.pid}/ns/net")
        until("it is in a namespace of its own", lambda: there.readlink() != here.readlink())
        assert links.exists("eth1", sleeper.pid) and links.exists("eth1", str(sleeper.pid))
    finally:
        sleeper.kill()
        sleeper.wait()


@pytest.mark.root
def test_what_the_kernel_refuses(pair: tuple[str, str]) -> None:
    """One line each: the device, the namespace, the value and the kernel's reason."""
    a, b = pair

    def refused(**words: Any) -> str:
        with pytest.raises(DeviceError) as caught:
            links.configure(words.pop("name", "v0"), namespace=words.pop("namespace", a), **words)
        assert "\n" not in str(caught.value) and caught.value.errno
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
        return str(caught.value)

    assert refused(name="v9") == "device v9: there is none"
    assert refused(namespace="gone9") == (
        "namespace gone9: no such network namespace (/run/netns/gone9); `ip netns list` names them"
    )
    assert refused(namespace="/dev/null") == "namespace /dev/null: Invalid argument: it is no network namespace"
    assert re.fullmatch(f"device v0 in namespace {a}: gateway 10.9.9.9: .+", refused(gateway="10.9.9.9"))
    assert re.match(f"device v1 in namespace {a}: the name is taken", refused(rename="v1"))
    links.configure("v1", namespace=a, addresses=["10.0.7.1/24"], gateway="10.0.7.254")
    assert refused(addresses=["10.0.9.1/24"], gateway="10.0.9.254").endswith(
        "gateway 10.0.9.254: another default route is there already; `ip route` shows it"
    )
    # A name that is taken where it is to go.
    ip("-n", b, "link", "add", "eth0", "type", "veth", "peer", "name", "eth9")
    with pytest.raises(DeviceError, match=r"eth0 in namespace .*: the name is taken: v0 cannot"):
        netlink.in_namespace(a, lambda: links.configure("v0", namespace=b, rename="eth0"))


@pytest.mark.root
def test_an_older_kernel(pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is up gets another name, where the kernel wants it down for that; somebody else was faster."""
    a, _ = pair
    links.configure("v0", namespace=a)
    right, up = netlink.Netlink.request, True

    def refuse(self: netlink.Netlink, kind: int, fields: Any, attributes: Any, **more: Any) -> None:
        nonlocal up
        up = bool(fields["flags"] & 1) if "flags" in fields else up
        if up and "IFLA_IFNAME" in attributes:
            raise DeviceError("device: Device or resource busy", errno=errno.EBUSY)
        right(self, kind, fields, attributes, **more)

    monkeypatch.setattr(netlink.Netlink, "request", refuse)
    assert links.configure("v0", namespace=a, rename="v7").up and links.exists("v7", a)

    def fail(code: int) -> None:
        def gone(*_: object, **__: object) -> None:
            raise DeviceError("device: gone", errno=code)

        monkeypatch.setattr(netlink.Netlink, "request", gone)

    with monkeypatch.context() as one:
        right_link = links._link
        one.setattr(links, "_link", lambda row: replace(right_link(row), kind=""))
        with pytest.raises(DeviceError, match="device v7: hardware stays where it is"):
            netlink.in_namespace(a, lambda: links.configure("v7", namespace=pair[1]))
    fail(errno.ENODEV)
    assert not links.delete("v7", a)
    fail(errno.EBUSY)
    with pytest.raises(DeviceError):
        links.delete("v7", a)
    fail(errno.EPERM)
    with pytest.raises(DeviceError):
        links.configure("v7", namespace=a, rename="v8")
    fail(errno.EEXIST)
    links.configure("v7", namespace=a, addresses=["10.0.9.1/24"], up=None)
    fail(errno.EPERM)
    with pytest.raises(DeviceError):
        links.configure("v7", namespace=a, addresses=["10.0.9.1/24"], up=None)


def test_messages() -> None:
    """Errors in the kernel's words, cut as they may be, and datagrams that lie."""
    error = struct.pack("=iIHHII", -22, 40, 16, 5, 7, 0)
    head = struct.pack("=IHHII", 60, 2, 0x300, 7, 0)
    text = head + error + netlink.attribute(1, b"Invalid thing.\0")
    assert netlink._error_text(text, 0x300) == "Invalid thing" and netlink._error_text(text, 0) == ""
    assert netlink._error_text(head + error + bytes(4), 0x300) == "" == netlink._error_text(text[:36], 0x300)
    assert netlink._error_text(head + error + netlink.attribute(9, b"x") + text[36:], 0x300) == "Invalid thing"
    assert netlink._error_text(head + error + bytes(24) + text[36:], 0x200) == "Invalid thing"
    assert [len(one) for *_, one in netlink._split(struct.pack("=IHHII", 16, 3, 0, 1, 0) * 2)] == [16, 16]
    assert not list(netlink._split(struct.pack("=IHHII", 99, 3, 0, 1, 0)))
    assert not list(netlink._split(struct.pack("=IHHII", 3, 3, 0, 1, 0)))


def test_what_cannot_be() -> None:
    """Refused before anything is asked of the kernel."""
    for words, text in [
        ({"name": "a name"}, "device = 'a name': 1 to 15 bytes, no space, slash or colon"),
        ({"name": "sixteen-letters1"}, "device = 'sixteen-letters1': 1 to 15 bytes"),
        ({"rename": ".."}, "device = '..'"),
        ({"mtu": 67}, "mtu = 67: 68 to 65535"),
        ({"gso_max": 1 << 20}, "gso_max = 1048576: 1 to 524280"),
        ({"mac": "01:00:5e:00:00:01"}, "mac = '01:00:5e:00:00:01': the address of one station"),
        ({"addresses": ["10.0.9"]}, "address = '10.0.9': an IPv4 or IPv6 address with its prefix length"),
        ({"gateway": "router"}, "gateway = 'router': an IPv4 or IPv6 address"),
        ({"gateway": ["10.0.9.1", "10.0.9.2"]}, "gateway = ['10.0.9.1', '10.0.9.2']: one of a family"),
    ]:
        arguments: dict[str, Any] = {"name": "v0", **words}
        with pytest.raises(SpecError) as caught:
            links.configure(arguments.pop("name"), **arguments)
        assert str(caught.value).startswith(text)
    with pytest.raises(SpecError, match="address 'nowhere'"):
        links.next_hop("nowhere")


def test_tun(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """No /dev/net/tun, or not for us."""
    monkeypatch.setattr(links, "TUN", str(tmp_path / "tun"))
    with pytest.raises(DeviceError, match="tun: there is none: modprobe tun"):
        links.need_tun()
    (tmp_path / "tun").touch()
    links.need_tun()
    monkeypatch.setattr(links, "TUN", str(tmp_path / "tun" / "x"))
    with pytest.raises(DeviceError, match="TAP devices need root"):
        links.need_tun()


def test_without_pyroute2(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says how to get it."""
    for name in [name for name in sys.modules if name.startswith("pyroute2")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyroute2", None)
    with pytest.raises(MissingLibraryError, match=re.escape("pip install 'vxlanfast[live]'")):
        links.exists("lo")


@pytest.mark.root
def test_a_tap(pair: tuple[str, str]) -> None:
    """Made here, moved and configured there, its descriptor stays good; gone with it, which is told."""
    import fcntl

    a, b = pair
    try:
        links.need_tun()
    except DeviceError as error:
        pytest.skip(str(error))

    def make() -> int:
        made = os.open(links.TUN, os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(made, 0x400454CA, struct.pack("16sH22x", b"vftap0", 0x0002 | 0x1000))  # TUNSETIFF: a TAP, no header
        return made

    def configure() -> links.Link:
        return links.configure(
            "vftap0", namespace=b, rename="eth0", mac="02:00:00:00:00:03", mtu=1450, addresses=["10.0.9.3/24"]
        )

    with links.LinkWatch(b) as watch:
        for _ in range(2):  # made again, it is as before
            tap = netlink.in_namespace(a, make)
            try:
                made = netlink.in_namespace(a, configure)
                assert (made.name, made.mac, made.mtu, made.kind) == ("eth0", "02:00:00:00:00:03", 1450, "tun")
                assert not links.exists("vftap0", a) and netlink.in_namespace(a, configure) == made
                question = "020000000009 0806 0001080006040001 020000000009 0a000909 000000000000 0a000903"
                os.write(tap, b"\xff" * 6 + bytes.fromhex(question))

                def answer(tap: int = tap) -> bytes:
                    try:
                        return os.read(tap, 2000)
                    except BlockingIOError:
                        return b""

                until("ARP is answered", lambda: answer()[:14].hex() == "0200000000090200000000030806")
            finally:
                os.close(tap)
            seen: list[links.LinkEvent] = []

            def gone(seen: list[links.LinkEvent] = seen) -> bool:
                seen += watch.read()
                return any((event.what, event.name) == ("gone", "eth0") for event in seen)

            until("the device is gone", gone)
            assert not links.exists("eth0", b)


@pytest.mark.root
def test_ways(pair: tuple[str, str]) -> None:
    """Which way an address is, how wide it is and who is next."""
    a, _ = pair
    links.configure("v0", namespace=a, mtu=1400, addresses=["10.0.9.1/24", "2001:db8:9::1/64"], gateway="10.0.9.254")
    links.configure("v1", namespace=a)
    ip("-n", a, "neigh", "add", "10.0.9.254", "lladdr", "02:00:00:00:00:fe", "dev", "v0")
    ip("-n", a, "neigh", "add", "2001:db8:9::7", "lladdr", "02:00:00:00:00:07", "dev", "v0")
    ip("-n", a, "route", "add", "198.51.100.0/24", "via", "10.0.9.254", "mtu", "1300")
    assert links.next_hop("192.0.2.1", a) == links.NextHop("v0", "10.0.9.254", "02:00:00:00:00:fe", 1400, "10.0.9.1")
    assert links.next_hop("10.0.9.8", a) == links.NextHop("v0", None, None, 1400, "10.0.9.1")
    six = links.next_hop("2001:db8:9::7", a)
    assert six is not None and (six.gateway, six.mac) == (None, "02:00:00:00:00:07")
    assert links.mtu_towards("198.51.100.9", a) == 1300 and links.mtu_towards("192.0.2.1", a) == 1400
    assert links.next_hop("2001:db8:8::1", a) is None and links.mtu_towards("2001:db8:8::1", a) is None
    assert links.interface_of("10.0.9.1", a) == "v0" and links.interface_of("2001:db8:9::1", a) == "v0"
    assert links.interface_of("10.0.9.2", a) is None


@pytest.mark.root
def test_port_in_use(pair: tuple[str, str]) -> None:
    a, _ = pair
    try:
        ip("-n", a, "link", "add", "vx9", "type", "vxlan", "id", "9", "dstport", "4790", "local", "192.0.2.1")
    except OSError as error:
        pytest.skip(f"no vxlan devices here: {error}")
    assert links.port_in_use(4790, a) is None
    ip("-n", a, "link", "set", "vx9", "up")
    assert links.port_in_use(4790, a) == "vx9" and links.port_in_use(4789, a) is None


@pytest.mark.root
def test_watch(pair: tuple[str, str]) -> None:
    """Everything that happens to a device is told, by poll, by callback and in a loop."""
    a, b = pair
    seen: list[tuple[str, str, Any]] = []

    def happened(what: str, name: str, more: Any = None) -> Callable[[], bool]:
        return lambda: (what, name, more) in seen

    async def follow() -> None:
        watch = links.LinkWatch(a)
        loop = asyncio.get_running_loop()
        end = loop.time() + PATIENCE_S

        def told(events: list[links.LinkEvent]) -> None:
            seen.extend(
                (event.what, event.name, event.address or (event.up if event.what == "link" else None))
                for event in events
            )

        async def sees(*events: tuple[str, str, Any]) -> None:
            while not all(event in seen for event in events):
                assert loop.time() < end, (events, seen)
                await asyncio.sleep(0.01)

        watch.follow(loop, told)
        links.configure("v0", namespace=a, addresses=["10.0.9.1/24"])
        await sees(("link", "v0", True), ("address", "v0", "10.0.9.1/24"))
        ip("-n", a, "addr", "del", "10.0.9.1/24", "dev", "v0")
        ip("-n", a, "link", "set", "v0", "down")
        await sees(("address gone", "v0", "10.0.9.1/24"), ("link", "v0", False))
        ip("-n", a, "link", "set", "v1", "netns", b)
        ip("-n", a, "link", "del", "v0")
        await sees(("gone", "v1", None), ("gone", "v0", None))
        watch.close()
        watch.close()
        assert watch.fileno() == -1 and not watch.overruns

    asyncio.run(follow())


@pytest.mark.root
def test_watch_as_a_source(pair: tuple[str, str]) -> None:
    a, _ = pair

    async def first() -> links.LinkEvent:
        with links.LinkWatch(a) as watch:
            links.configure("v0", namespace=a, up=True)
            async with asyncio.timeout(PATIENCE_S):
                async for event in watch:
                    return event
        raise AssertionError("no event")

    assert asyncio.run(first()).name in ("v0", "v1")


@pytest.mark.root
def test_events_that_are_lost(pair: tuple[str, str]) -> None:
    """Nobody reads for long: it is said, and what comes then is told again."""
    a, _ = pair
    with links.LinkWatch(a) as watch:
        watch._link._sock.setsockopt(1, 8, 4096)
        batch = "".join(f"addr add 10.1.{n >> 8}.{n & 255}/32 dev v0\n" for n in range(500))
        subprocess.run(["ip", "-n", a, "-batch", "-"], input=batch, text=True, check=True)
        assert "overrun" in {event.what for event in watch.read()} and watch.overruns
        ip("-n", a, "link", "set", "v0", "mtu", "1300")
        assert until("the MTU is told", lambda: [event for event in watch.read() if event.mtu == 1300])


@pytest.mark.root
def test_threads_stay_home(pair: tuple[str, str]) -> None:
    """Neither the process nor this thread is elsewhere afterwards, and no descriptor is left."""
    a, _ = pair
    gc.collect()  # what others left
    home, before = os.readlink("/proc/thread-self/ns/net"), len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        assert links.exists("v0", a)
        with pytest.raises(DeviceError):
            links.configure("v9", namespace=a)
    assert os.readlink("/proc/thread-self/ns/net") == home
    assert len(os.listdir("/proc/self/fd")) == before
    with inside(a):
        assert links.exists("v0")
    with pytest.raises(ZeroDivisionError):
        netlink.in_namespace(a, lambda: 1 // 0)


@pytest.mark.root
def test_a_tap_and_its_namespaces_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A namespace that came in the last moment is its own; one that was deleted is not, nor is another of that name."""
    need_root()
    try:
        links.need_tun()
    except DeviceError as error:
        pytest.skip(str(error))
    with namespaces("a") as (name,):
        ip("netns", "del", name)

        def just_in_time(namespace: str) -> int:
            ip("netns", "add", namespace)
            return netlink.open_namespace(namespace)

        monkeypatch.setattr("vxlanfast.tap.open_namespace", just_in_time)
        with Tap("vf0", namespace=name) as device:
            assert not device.astray()
            ip("netns", "del", name)
            assert device.astray()
            ip("netns", "add", name)
            assert device.astray()
