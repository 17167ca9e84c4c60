"""Network devices: found, configured, moved into namespaces, deleted and watched; and which way an address is."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface
from typing import TYPE_CHECKING, Any, Self

import vxlanfast.netlink as netlink
from vxlanfast.addr import parse_mac
from vxlanfast.checks import device_name, rule_error, station
from vxlanfast.errors import DeviceError, SpecError
from vxlanfast.netlink import Namespace, Netlink, Overrun, Row, link_row, neigh_row

if TYPE_CHECKING:
    import asyncio

TUN = "/dev/net/tun"
MTU_LEAST, MTU_MOST = 68, 65535
GSO_MOST = 524280  # GSO_MAX_SIZE of the kernel: 8 times 65,535
_GSO_IPV4_MAX_SIZE = 63  # IFLA_GSO_IPV4_MAX_SIZE, of Linux 6.3; pyroute2 has no name for it
_IFF_UP, _NODAD = 1, 2
_MAIN, _BOOT, _UNIVERSE, _UNICAST = 254, 3, 0, 1  # of routes: table, protocol, scope, type
_NUD_PERMANENT, _USE, _LINK = 0x80, 1, 253  # of neighbours: state, flag; of routes: scope
_REACHED = ("REACHABLE", "STALE", "DELAY", "PROBE", "PERMANENT", "NOARP")


@dataclass(frozen=True, slots=True)
class Link:
    """A device as it is. ``running``: it has a carrier; ``kind``: as ``ip -d link`` has it, "" for hardware."""

    index: int
    name: str
    mac: str
    mtu: int
    up: bool
    running: bool
    kind: str
    gso_max: int


def _link(row: Row) -> Link:
    return Link(
        index=row["ifindex"], name=row["ifname"], mac=row["address"], mtu=row["mtu"], up=row["up"],
        running=row["running"], kind=row.get("linkinfo", {}).get("info_kind", ""), gso_max=row["gso_max_size"],
    )  # fmt: skip


def need_tun() -> None:
    """DeviceError: there is no /dev/net/tun, or it may not be opened."""
    try:
        os.close(os.open(TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            rule = "there is none: modprobe tun (in a container: --device /dev/net/tun)"
        else:
            rule = f"{error.strerror}: TAP devices need root (CAP_NET_ADMIN); the UDP underlay and recv do not"
        raise DeviceError(f"{TUN}: {rule}", errno=error.errno, path=TUN) from None


def _where(name: str, namespace: Namespace) -> str:
    return f"device {name}" if namespace is None else f"device {name} in namespace {namespace}"


def _find(link: Netlink, name: str) -> Link | None:
    return next((found for found in _links(link) if found.name == name), None)


def _links(link: Netlink) -> Iterator[Link]:
    for message in link.dump(netlink.GETLINK):
        yield _link(link_row(message, {}))


def _named(link: Netlink, name: str) -> Link:
    found = _find(link, name)
    if found is None:
        raise DeviceError(f"{_where(name, link.namespace)}: there is none", errno=errno.ENODEV)
    return found


# --- looking and deleting ---------------------------------------------------------------------------------


def find(name: str, namespace: Namespace = None) -> Link | None:
    """A device by its name, or None. DeviceError: there is no such namespace, or it may not be entered."""
    with Netlink(namespace) as link:
        return _find(link, name)


def exists(name: str, namespace: Namespace = None) -> bool:
    """Whether there is a device of that name."""
    return find(name, namespace) is not None


def delete(name: str, namespace: Namespace = None) -> bool:
    """As ``ip link delete``: whether there was one."""
    with Netlink(namespace) as link:
        found = _find(link, name)
        if found is None:
            return False
        try:
            link.request(netlink.DELLINK, {"index": found.index}, {}, what=_where(name, namespace))
        except DeviceError as error:
            if error.errno == errno.ENODEV:  # somebody was faster
                return False
            raise
        return True


# --- configuring ------------------------------------------------------------------------------------------


def configure(
    name: str,
    *,
    namespace: Namespace = None,
    rename: str | None = None,
    mac: str | None = None,
    mtu: int | None = None,
    addresses: Sequence[str] = (),
    gateway: str | Sequence[str] | None = None,
    gso_max: int | None = None,
    up: bool | None = True,
) -> Link:
    """Have a device be as it is said here, and tell how it is then; what is so already, or not said, is left alone.

    ``namespace``: it is there already or, found here, moves there, as ``rename``. ``addresses``: with prefix lengths,
    10.0.9.3/24, without one all bits; IPv6 addresses are taken at once, without looking for duplicates. ``gateway``: of
    the default route, one of a family. ``gso_max``: bytes of the longest super-frame, of IPv4 and IPv6. ``up`` None:
    as it is. Again is no error. SpecError: a value cannot be; DeviceError: the kernel refuses, no such device.
    """
    device_name("device", name)
    last = device_name("device", rename or name)
    wanted = _wanted(mac, mtu, gso_max)
    interfaces = [_interface(text) for text in addresses]
    ways = _gateways(gateway)
    _place(name, namespace, last)
    with Netlink(namespace) as link:
        found, where = _named(link, last), _where(last, namespace)
        _settle(link, found, wanted, where)
        for interface in interfaces:
            _add_address(link, found.index, interface, where)
        if up is not None and up != found.up:
            fields = {"index": found.index, "flags": _IFF_UP if up else 0, "change": _IFF_UP}
            link.request(netlink.NEWLINK, fields, {}, what=f"{where}: {'up' if up else 'down'}")
        for way in ways:
            _add_default(link, found.index, way, where)
        return _named(link, last)


def _wanted(mac: str | None, mtu: int | None, gso_max: int | None) -> dict[str, Any]:
    if mac is not None:
        station(mac)
    for key, value, least, most in (("mtu", mtu, MTU_LEAST, MTU_MOST), ("gso_max", gso_max, 1, GSO_MOST)):
        if value is not None and not least <= value <= most:
            raise rule_error(key, value, f"{least} to {most}")
    return {"mac": None if mac is None else parse_mac(mac).hex(":"), "mtu": mtu, "gso_max": gso_max}


def _interface(text: str) -> IPv4Interface | IPv6Interface:
    try:
        return ip_interface(text)
    except ValueError:
        raise rule_error("address", text, "an IPv4 or IPv6 address with its prefix length, 10.0.9.3/24") from None


def _gateways(gateway: str | Sequence[str] | None) -> list[str]:
    ways = [gateway] if isinstance(gateway, str) else list(gateway or ())
    families = []
    for text in ways:
        try:
            families.append(ip_address(text).version)
        except ValueError:
            raise rule_error("gateway", text, "an IPv4 or IPv6 address") from None
    if len(set(families)) < len(families):
        raise rule_error("gateway", ways, "one of a family")
    return ways


def _place(name: str, namespace: Namespace, last: str) -> None:
    """Move and rename a device, unless it is there already."""
    if namespace is None and name == last:
        return
    with Netlink(namespace) as there:
        at_home = _find(there, last)
        inside = name != last and _find(there, name)
    if at_home and not inside and (name == last or namespace is None or not exists(name)):
        return
    if at_home and (inside or exists(name)):
        rule = f"the name is taken: {name} cannot be called so"
        raise DeviceError(f"{_where(last, namespace)}: {rule}", errno=errno.EEXIST)
    with Netlink(namespace if inside else None) as link:
        found, where = _named(link, name), _where(name, link.namespace)
        if inside or namespace is None:
            _rename(link, found, last, where)
            return
        if not found.kind:
            raise DeviceError(f"{where}: hardware stays where it is: give the name of a TAP", errno=errno.EPERM)
        target = netlink.open_namespace(namespace)
        try:
            attributes = {"IFLA_IFNAME": last}
            # pyroute2's own reading of a descriptor opens it by name; here it is open.
            raw = netlink.attribute(28, struct.pack("=I", target))  # IFLA_NET_NS_FD
            what = f"{where}: moving it into namespace {namespace} as {last}"
            link.request(netlink.NEWLINK, {"index": found.index}, attributes, what=what, raw=raw)
        finally:
            os.close(target)


def _rename(link: Netlink, found: Link, last: str, where: str) -> None:
    """Another name; older kernels want the device down for it."""
    try:
        link.request(netlink.NEWLINK, {"index": found.index}, {"IFLA_IFNAME": last}, what=f"{where}: name {last}")
    except DeviceError as error:
        if error.errno != errno.EBUSY:
            raise
        for flags, attributes in ((0, {}), (None, {"IFLA_IFNAME": last}), (_IFF_UP, {})):
            fields = {"index": found.index} | ({} if flags is None else {"flags": flags, "change": _IFF_UP})
            link.request(netlink.NEWLINK, fields, attributes, what=f"{where}: name {last}")


def _settle(link: Netlink, found: Link, wanted: dict[str, Any], where: str) -> None:
    """MAC, MTU and the longest super-frame."""
    fields = {"index": found.index}
    for key, name, is_value in (
        ("mac", "IFLA_ADDRESS", found.mac), ("mtu", "IFLA_MTU", found.mtu),
        ("gso_max", "IFLA_GSO_MAX_SIZE", found.gso_max),
    ):  # fmt: skip
        if wanted[key] is not None and wanted[key] != is_value:
            what = f"{where}: {key} = {wanted[key]}"
            link.request(netlink.NEWLINK, fields, {name: wanted[key]}, what=what)
    if wanted["gso_max"] is not None and wanted["gso_max"] > 65536:
        raw = netlink.attribute(_GSO_IPV4_MAX_SIZE, struct.pack("=I", wanted["gso_max"]))
        with contextlib.suppress(DeviceError):  # before Linux 6.3 IPv4's stay at 65,536 bytes
            link.request(netlink.NEWLINK, fields, {}, what=where, raw=raw)


def _add_address(link: Netlink, index: int, interface: IPv4Interface | IPv6Interface, where: str) -> None:
    text, length = str(interface.ip), interface.network.prefixlen
    for known_index, known, known_length in _addresses(link):
        if (known_index, known, known_length) == (index, text, length):
            return
    six = interface.version == 6
    fields = {"family": socket.AF_INET6 if six else socket.AF_INET, "prefixlen": length, "index": index}
    attributes: dict[str, Any] = {"IFA_LOCAL": text, "IFA_ADDRESS": text}
    if six:
        attributes["IFA_FLAGS"] = _NODAD
    try:
        flags = netlink.CREATE | netlink.EXCLUSIVE
        link.request(netlink.NEWADDR, fields, attributes, what=f"{where}: address {interface}", flags=flags)
    except DeviceError as error:
        if error.errno != errno.EEXIST:
            raise


def _addresses(link: Netlink) -> Iterator[tuple[int, str, int]]:
    """Device, address and prefix length of each address."""
    for message in link.dump(netlink.GETADDR):
        text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
        if text:
            yield message["index"], text, message["prefixlen"]


def _add_default(link: Netlink, index: int, gateway: str, where: str) -> None:
    """The default route, unless it is so; another one is not replaced."""
    family = socket.AF_INET6 if ip_address(gateway).version == 6 else socket.AF_INET
    for message in link.dump(netlink.GETROUTE, family=family):
        if message["dst_len"] or message["table"] != _MAIN or message["type"] != _UNICAST:
            continue
        via, out = message.get_attr("RTA_GATEWAY"), message.get_attr("RTA_OIF")
        if (via, out) == (str(ip_address(gateway)), index):
            return
    fields = {"family": family, "table": _MAIN, "proto": _BOOT, "scope": _UNIVERSE, "type": _UNICAST}
    attributes = {"RTA_GATEWAY": gateway, "RTA_OIF": index}
    flags, what = netlink.CREATE | netlink.EXCLUSIVE, f"{where}: gateway {gateway}"
    try:
        link.request(netlink.NEWROUTE, fields, attributes, what=what, flags=flags)
    except DeviceError as error:
        if error.errno == errno.EEXIST:
            rule = "another default route is there already; `ip route` shows it"
            raise DeviceError(f"{what}: {rule}", errno=error.errno) from None
        raise


def undo(
    name: str, *, namespace: Namespace = None, addresses: Sequence[str] = (), gateway: str | Sequence[str] | None = None
) -> None:
    """Take from a device what ``configure`` gave it: addresses with their prefix lengths, default routes. What is not
    there is no error. DeviceError: no such device, the kernel refuses."""
    interfaces = [_interface(text) for text in addresses]
    ways = _gateways(gateway)
    with Netlink(namespace) as link:
        found, where = _named(link, name), _where(name, namespace)
        todo: list[tuple[int, dict[str, Any], dict[str, Any], str]] = []
        for way in ways:
            family = socket.AF_INET6 if ip_address(way).version == 6 else socket.AF_INET
            fields = {"family": family, "table": _MAIN, "scope": _UNIVERSE, "type": _UNICAST}
            attributes = {"RTA_GATEWAY": way, "RTA_OIF": found.index}
            todo.append((netlink.DELROUTE, fields, attributes, f"{where}: gateway {way}"))
        for interface in interfaces:
            family = socket.AF_INET6 if interface.version == 6 else socket.AF_INET
            fields = {"family": family, "prefixlen": interface.network.prefixlen, "index": found.index}
            text = str(interface.ip)
            todo.append((netlink.DELADDR, fields, {"IFA_LOCAL": text, "IFA_ADDRESS": text}, f"{where}: address {text}"))
        for kind, fields, attributes, what in todo:
            try:
                link.request(kind, fields, attributes, what=what)
            except DeviceError as error:
                if error.errno not in (errno.ESRCH, errno.EADDRNOTAVAIL):
                    raise


def put_behind(name: str, address: str, mac: str, namespace: Namespace = None) -> None:
    """A host behind a device that answers no ARP: its MAC for good, and the route to it, be it in a subnet or not."""
    packed = ip_address(address)
    family = socket.AF_INET6 if packed.version == 6 else socket.AF_INET
    with Netlink(namespace) as link:
        found, where = _named(link, name), _where(name, namespace)
        what = f"{where}: host {address}"
        flags = netlink.CREATE | netlink.REPLACE
        fields = {"family": family, "ifindex": found.index, "state": _NUD_PERMANENT}
        link.request(netlink.NEWNEIGH, fields, {"NDA_DST": address, "NDA_LLADDR": mac}, what=what, flags=flags)
        fields = {
            "family": family, "dst_len": packed.max_prefixlen, "table": _MAIN, "proto": _BOOT, "scope": _LINK,
            "type": _UNICAST,
        }  # fmt: skip
        link.request(netlink.NEWROUTE, fields, {"RTA_DST": address, "RTA_OIF": found.index}, what=what, flags=flags)


# --- which way an address is --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NextHop:
    """The way to an address: the device, the gateway (None: on the link) and the MAC of whichever is next, None as long
    as nobody asked for it. ``mtu`` in bytes of IP packet; ``source``: the address that packets would come from."""

    interface: str
    gateway: str | None
    mac: str | None
    mtu: int
    source: str | None = None


def _packed(address: str) -> str:
    try:
        return str(ip_address(address))
    except ValueError:
        raise SpecError(f"address {address!r}: neither IPv4 nor IPv6") from None


def next_hop(address: str, namespace: Namespace = None) -> NextHop | None:
    """The way to an address, or None: no route. DeviceError: no such namespace."""
    return next_hops([address], namespace)[address]


def next_hops(
    addresses: Iterable[str], namespace: Namespace = None, *, look: bool = False
) -> dict[str, NextHop | None]:
    """The way to each address, or None: no route. ``look``: the kernel looks for MACs that it does not know, and makes
    sure of those that it has not heard of lately, as far as it may be told to; the answers are there a little later.
    DeviceError: no such namespace."""
    with Netlink(namespace) as link:
        devices = {found.index: found for found in _links(link)}
        neighbours = {(m["ifindex"], m.get_attr("NDA_DST")): m for m in link.dump(netlink.GETNEIGH)}
        asked: set[tuple[int, str]] = set()
        return {address: _way(link, _packed(address), devices, neighbours, asked, look) for address in addresses}


def _way(
    link: Netlink, text: str, devices: Mapping[int, Link], neighbours: Mapping[tuple[int, str], Any],
    asked: set[tuple[int, str]], look: bool,
) -> NextHop | None:  # fmt: skip
    six = ":" in text
    fields = {"family": socket.AF_INET6 if six else socket.AF_INET, "dst_len": 128 if six else 32}
    try:
        route = link.get(netlink.GETROUTE, fields, {"RTA_DST": text}, what=f"route to {text}")
    except DeviceError as error:
        if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL):
            return None
        raise
    out = devices.get(route.get_attr("RTA_OIF"))
    if out is None:
        return None
    gateway = route.get_attr("RTA_GATEWAY")
    if gateway is None and (via := route.get_attr("RTA_VIA")) is not None:
        gateway = via.get("addr")
    metrics = route.get_attr("RTA_METRICS")
    mtu = metrics.get_attr("RTAX_MTU") if metrics is not None else None
    place = out.index, gateway or text
    entry = neighbours.get(place)
    row = {} if entry is None else neigh_row(entry, {})
    mac = row.get("lladdr") if set(row.get("state", ())) & set(_REACHED) else None
    if look and place not in asked and not set(row.get("state", ())) & {"REACHABLE", "PERMANENT", "NOARP"}:
        asked.add(place)
        _look(link, *place)
    return NextHop(out.name, gateway, mac, min(mtu or out.mtu, out.mtu), route.get_attr("RTA_PREFSRC"))


def _look(link: Netlink, index: int, address: str) -> None:
    """As ``ip neigh replace … use``: the kernel asks for a MAC, as if it had a packet for it."""
    fields = {
        "family": socket.AF_INET6 if ":" in address else socket.AF_INET, "ifindex": index, "state": 0, "flags": _USE,
    }  # fmt: skip
    with contextlib.suppress(DeviceError):  # not permitted, or the device is down
        link.request(
            netlink.NEWNEIGH, fields, {"NDA_DST": address}, what=address, flags=netlink.CREATE | netlink.REPLACE
        )


def mtu_towards(address: str, namespace: Namespace = None) -> int | None:
    """Bytes of the longest IP packet on the way to an address, as far as is known here; None: no route."""
    way = next_hop(address, namespace)
    return None if way is None else way.mtu


def interface_of(address: str, namespace: Namespace = None) -> str | None:
    """The device that has an address, or None."""
    text = _packed(address)
    with Netlink(namespace) as link:
        index = next((index for index, known, _ in _addresses(link) if known == text), None)
        return next((found.name for found in _links(link) if found.index == index), None)


def port_in_use(port: int, namespace: Namespace = None) -> str | None:
    """The kernel's vxlan device that has a UDP port, or None. One that is down has none."""
    with Netlink(namespace) as link:
        for message in link.dump(netlink.GETLINK):
            row = link_row(message, {})
            inner = row.get("linkinfo", {})
            if inner.get("info_kind") == "vxlan" and inner["info_data"].get("port") == port and row["up"]:
                return str(row["ifname"])
    return None


# --- watching -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LinkEvent:
    """What happened to a device. ``what``: "link" (made or changed), "gone" (deleted, or moved elsewhere), "address",
    "address gone" (``address`` with its prefix length), or "overrun": events were lost, everything may be different.
    """

    what: str
    index: int = 0
    name: str = ""
    up: bool = False
    running: bool = False
    mtu: int = 0
    mac: str = ""
    address: str | None = None


class LinkWatch:
    """Events of a namespace's devices and addresses: ``fileno`` to poll and ``read``, or ``follow`` for a callback on
    an event loop, or ``async for``. A context manager. ``overruns``: how often events were lost.
    """

    def __init__(self, namespace: Namespace = None) -> None:
        groups = (netlink.GROUP_LINK, netlink.GROUP_IPV4_IFADDR, netlink.GROUP_IPV6_IFADDR)
        self._link = Netlink(namespace, groups)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.overruns = 0
        try:
            with Netlink(namespace) as asking:  # names, of devices that events of addresses have numbers of
                self._names = {found.index: found.name for found in _links(asking)}
        except BaseException:
            self._link.close()
            raise

    def fileno(self) -> int:
        """What becomes readable when there are events."""
        return self._link.fileno()

    def read(self) -> list[LinkEvent]:
        """What has happened since it was asked last; never waits."""
        events: list[LinkEvent] = []
        while True:
            try:
                for kind, message in self._link.events():
                    events += self._event(kind, message)
                return events
            except Overrun:
                self.overruns += 1
                events.append(LinkEvent("overrun"))

    def _event(self, kind: int, message: Any) -> Iterator[LinkEvent]:
        if kind in (netlink.NEWLINK, netlink.DELLINK):
            if message["family"]:  # a bridge's port, and what a family has to say of a device
                return
            link = _link(link_row(message, {}))
            gone = kind == netlink.DELLINK
            if gone:
                self._names.pop(link.index, None)
            else:
                self._names[link.index] = link.name
            what = "gone" if gone else "link"
            yield LinkEvent(what, link.index, link.name, link.up and not gone, link.running, link.mtu, link.mac)
        elif kind in (netlink.NEWADDR, netlink.DELADDR):
            text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            if text:
                what = "address" if kind == netlink.NEWADDR else "address gone"
                name = self._names.get(message["index"], "")
                yield LinkEvent(what, message["index"], name, address=f"{text}/{message['prefixlen']}")

    def follow(self, loop: asyncio.AbstractEventLoop, call: Callable[[list[LinkEvent]], object]) -> None:
        """Have ``call`` called on a loop with what happens, until this is closed."""
        self._loop = loop

        def readable() -> None:
            events = self.read()
            if events:
                call(events)

        loop.add_reader(self.fileno(), readable)

    async def __aiter__(self) -> AsyncIterator[LinkEvent]:
        import asyncio

        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        number = self.fileno()
        loop.add_reader(number, ready.set)
        try:
            while self.fileno() >= 0:
                ready.clear()
                for event in self.read():
                    yield event
                await ready.wait()
        finally:
            if self.fileno() == number:
                loop.remove_reader(number)

    def close(self) -> None:
        """Watch no longer; again is no error."""
        if self._loop is not None and self.fileno() >= 0 and not self._loop.is_closed():
            self._loop.remove_reader(self.fileno())
        self._loop = None
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
