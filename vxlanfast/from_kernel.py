"""The kernel mirror: whatever programs a Linux vxlan device (FRR, Docker, flannel, a person) programs a plane."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self

import vxlanfast.netlink as netlink
from vxlanfast.checks import device_name
from vxlanfast.errors import SpecError, VxlanFastError
from vxlanfast.kernel_tables import Device, KernelTables, Key, Merged, Tables
from vxlanfast.netlink import Namespace, Netlink, Overrun, Row, fdb_row, link_row, neigh_row, vlans_row

if TYPE_CHECKING:
    from vxlanfast.dataplane import Dataplane
    from vxlanfast.node_spec import NodeSpec

#: A new spec waits until nothing has happened for so long, but no longer than that.
QUIET_S, MOST_S = 0.05, 0.5
#: After an error: again, later and later.
RETRY_S, RETRY_MOST_S = 0.5, 30.0
_AT_ONCE = 256  # events, and entries changed while the plane is held
_JOURNAL = 1 << 16  # keys that changed while a spec was being applied; beyond, all are set again

Apply = Callable[["NodeSpec"], Awaitable[object]]


def read_tables(link: Netlink) -> Tables:
    """Devices, FDB and neighbours of a socket's namespace."""
    messages = link.dump(netlink.GETLINK)
    names = {message["index"]: str(message.get_attr("IFLA_IFNAME")) for message in messages}
    vlans = link.dump(netlink.GETLINK, family=netlink.BRIDGE, IFLA_EXT_MASK=netlink.FILTER_BRVLAN)
    fdb = link.dump(netlink.GETNEIGH, family=netlink.BRIDGE)
    return Tables(
        links=[link_row(message, names) for message in messages],
        vlans=[vlans_row(message) for message in vlans],
        fdb=[fdb_row(message, names) for message in fdb],
        neigh=[neigh_row(message, names) for message in link.dump(netlink.GETNEIGH)],
    )


class FromKernel:
    """Follows vxlan devices of a namespace: their FDB, the neighbours on them and on the bridge and VLAN devices above.

    Taken is what somebody set (permanent, static, ``extern_learn``), not what frames taught the kernel. The spec that
    ``snapshot`` is given wins where it and the kernel say something of the same MAC, address or VTEP; settings of its
    networks stay. A VNI that it does not have becomes a network by the name and with the settings of its device.

    >>> follower = FromKernel(["vx42"])                          # doctest: +SKIP
    >>> plane = Dataplane(follower.snapshot(load_spec(path)))    # doctest: +SKIP
    >>> task = follower.start(plane, lock, apply)                # doctest: +SKIP

    ``apply`` is given merged specs, to be applied as they are, one at a time; another base goes through ``rebase``.
    SpecError: no name of a device; DeviceError: no such namespace.
    """

    def __init__(self, devices: Sequence[str], namespace: Namespace = None) -> None:
        names = [devices] if isinstance(devices, str) else list(devices)
        if not names:
            raise SpecError("from-kernel: a vxlan device at least")
        self.tables = KernelTables([device_name("device", name) for name in names])
        self.namespace = namespace
        self.events = self.changes = self.applies = self.resyncs = self.overruns = self.errors = 0
        self.last_error: str | None = None
        self._pending: Merged | None = None
        self._merged: Merged | None = None
        self._journal: set[Key] | None = None  # since the last snapshot
        self._journal_full = False
        self._touched: set[Key] = set()
        self._stale = False
        self._plane: Dataplane | None = None
        self._lock: threading.RLock | threading.Lock | None = None
        self._apply: Apply | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._last = 0.0
        self._serial = asyncio.Lock()  # one spec at a time
        # First the events, then what there is: nothing can happen between.
        self._link = Netlink(namespace, (netlink.GROUP_LINK, netlink.GROUP_NEIGH))
        try:
            self._asking = Netlink(namespace)
        except BaseException:
            self._link.close()
            raise
        try:
            self.tables.load(read_tables(self._asking))
        except BaseException:
            self.close()
            raise

    # --- specs --------------------------------------------------------------------------------------------

    def snapshot(self, base: NodeSpec) -> NodeSpec:
        """``base`` with what the kernel knows now, to ``start`` with. SpecError: the two make no spec together."""
        self._pending = self.tables.merge(base)
        self._journal, self._journal_full = set(), False
        return self._pending.spec

    async def rebase(self, base: NodeSpec) -> None:
        """Another base: ``apply`` is given it with what the kernel knows. What ``apply`` raises, and SpecError: it is
        refused, and the old one goes on."""
        async with self._serial:
            await self._renew(base)

    async def _renew(self, base: NodeSpec) -> None:
        assert self._plane is not None and self._apply is not None
        waiting, self._touched = self._touched, set()  # the spec has them
        try:
            await self._apply(self.snapshot(base))
        except BaseException:
            self._touched |= waiting
            self._pending = self._journal = None
            raise
        self.applies += 1
        with self._held():
            self._applied(self._plane)

    def _applied(self, plane: Dataplane) -> None:
        """The spec of the last ``snapshot`` is the plane's now: what changed meanwhile, and addresses without a
        station, are set."""
        assert self._pending is not None
        self._merged, self._pending = self._pending, None
        keys = set(self._journal or ())
        if self._journal_full:
            keys |= self._everything(self._merged)
        for vni in self._merged.reserved:
            for address, (mac, _) in self.tables.neighbours(vni).items():
                if self.tables.place(self._merged, vni, mac) is None:
                    keys.add(("neigh", vni, address))
        self._journal = None
        self._set(plane, keys)

    def _everything(self, merged: Merged) -> set[Key]:
        """Keys of what a merged spec has, and of what the kernel has now."""
        keys: set[Key] = set(self.tables.contents())
        for network in merged.spec.network:
            for endpoint in network.endpoint if network.vni in merged.reserved else ():
                if endpoint.address is not None:
                    keys.add(("fdb", network.vni, endpoint.address.hex(":")))
                keys |= {("neigh", network.vni, text) for text in endpoint.ip}
        return keys

    # --- following ----------------------------------------------------------------------------------------

    def start(
        self, plane: Dataplane, lock: threading.RLock | threading.Lock | None, apply: Apply
    ) -> asyncio.Task[None]:
        """Follow on the running loop, until ``close``. ``lock`` is held while tables are read or changed; ``apply``
        makes a spec the plane's, and is called for new VTEPs alone. ValueError: the plane has no ``snapshot``."""
        if self._pending is None:
            raise ValueError("start: the plane is to be made of a snapshot")
        self._plane, self._lock, self._apply = plane, lock, apply
        self._loop = asyncio.get_running_loop()
        with self._held():
            self._applied(plane)
        self._loop.add_reader(self._link.fileno(), self._readable)
        self._task = self._loop.create_task(self._run(), name="vxlanfast-from-kernel")
        return self._task

    def _held(self) -> contextlib.AbstractContextManager[object]:
        return self._lock if self._lock is not None else contextlib.nullcontext()

    def _readable(self) -> None:
        try:
            for kind, message in self._link.events(_AT_ONCE):
                self._event(kind, message)
        except Overrun:
            self.overruns += 1
            self._stale = True
        except OSError as error:
            self._failed(error)
            self._stale = True
        assert self._loop is not None
        self._last = self._loop.time()
        self._wake.set()

    def _event(self, kind: int, message: Any) -> None:
        gone = kind in (netlink.DELLINK, netlink.DELNEIGH)
        names = {number: str(row["ifname"]) for number, row in self._known_links(message)}
        keys: set[Key] = set()
        if kind in (netlink.NEWLINK, netlink.DELLINK):
            self.events += self._link_event(message, names, gone=gone, keys=keys)
        elif kind in (netlink.NEWNEIGH, netlink.DELNEIGH):
            if message["family"] == netlink.BRIDGE:
                if message["ifindex"] not in self.tables.devices:
                    return
                keys = self.tables.fdb_event(fdb_row(message, names), gone=gone)
            else:
                keys = self.tables.neigh_event(neigh_row(message, names), gone=gone)
                if not keys:
                    return
            self.events += 1
        self._note(keys)

    def _known_links(self, message: Any) -> Iterable[tuple[int, Row]]:
        numbers = {message.get("index"), message.get("ifindex")} - {None}
        if message.get("ifindex") is None:  # a device: its master's name is wanted
            numbers.add(message.get_attr("IFLA_MASTER"))
        return ((number, self.tables.links[number]) for number in numbers if number in self.tables.links)

    def _link_event(self, message: Any, names: dict[int, str], *, gone: bool, keys: set[Key]) -> int:
        if message["family"] == netlink.BRIDGE:  # a port's VLANs, for one
            bridges = {device.row.get("master_index") for device in self.tables.devices.values()} - {None}
            if message["index"] not in self.tables.devices and message["index"] not in bridges:
                return 0
        elif message["family"] or not self.tables.concerns(link_row(message, names), gone=gone):
            return 0
        elif gone:
            keys |= self.tables.forget(message["index"])
        self._stale = True
        return 1

    def _note(self, keys: set[Key]) -> None:
        self._touched |= keys
        if self._journal is not None and not self._journal_full:
            self._journal |= keys
            if len(self._journal) > _JOURNAL:
                self._journal, self._journal_full = set(), True

    def _differs(self) -> bool:
        """Whether a new spec is necessary."""
        return self._merged is not None and self.tables.wants(self._merged.base) != self._merged.members

    async def _run(self) -> None:
        assert self._loop is not None
        retry = RETRY_S
        while True:
            await self._wake.wait()
            begun = self._loop.time()
            while (now := self._loop.time()) - self._last < QUIET_S and now - begun < MOST_S:
                await asyncio.sleep(QUIET_S)
            self._wake.clear()
            try:
                if self._stale:
                    await self._resync()
                await self._flush()
                retry = RETRY_S
            except Exception as error:  # bad input never ends it: it is told, and tried again
                self._failed(error)
                self._loop.call_later(retry, self._wake.set)
                retry = min(RETRY_MOST_S, retry * 2)

    async def _resync(self) -> None:
        """Everything again. Events wait meanwhile: what they say is not older than what is asked for now."""
        assert self._loop is not None
        self._stale = False
        self._loop.remove_reader(self._link.fileno())
        try:
            tables = await asyncio.to_thread(read_tables, self._asking)
        except BaseException:
            self._stale = True
            raise
        finally:
            if self._link.fileno() >= 0:
                self._loop.add_reader(self._link.fileno(), self._readable)
        self._note(self.tables.load(tables))
        self.resyncs += 1

    async def _flush(self) -> None:
        assert self._plane is not None and self._merged is not None
        if self._differs():
            async with self._serial:
                if self._differs():
                    await self._renew(self._merged.base)
        while self._touched:
            some = {self._touched.pop() for _ in range(min(_AT_ONCE, len(self._touched)))}
            with self._held():
                self._set(self._plane, some)
            await asyncio.sleep(0)  # the forwarding thread goes first

    def _set(self, plane: Dataplane, keys: set[Key]) -> None:
        """Single entries as the kernel has them now; addresses follow their MACs."""
        assert self._merged is not None
        moved = {("neigh", vni, text) for what, vni, mac in keys if what == "fdb"
                 for text in self.tables.addresses(vni, mac)}  # fmt: skip
        for what, vni, name in sorted(keys | moved):  # stations first
            reserved = self._merged.reserved.get(vni)
            if reserved is None:
                continue  # its network comes with the next spec
            try:
                if what == "fdb" and name not in reserved.macs:
                    self._set_station(plane, self._merged, vni, name)
                elif what == "neigh" and name not in reserved.addresses:
                    self._set_neighbour(plane, self._merged, vni, name)
            except VxlanFastError as error:
                self._failed(error)

    def _set_station(self, plane: Dataplane, merged: Merged, vni: int, mac: str) -> None:
        place = self.tables.place(merged, vni, mac)
        if place is None:
            self.changes += plane.delete_station(vni, mac)
        elif (vni, place) in plane.vteps:  # else it comes with the next spec
            plane.set_station(vni, mac, place)
            self.changes += 1

    def _set_neighbour(self, plane: Dataplane, merged: Merged, vni: int, address: str) -> None:
        found = self.tables.neighbour(vni, address)
        if found is None:
            self.changes += plane.delete_neighbour(vni, address)
            return
        place = self.tables.place(merged, vni, found[0])
        if place is not None and (vni, place) not in plane.vteps:
            place = None
        plane.set_neighbour(vni, address, found[0], place, router=found[1])
        self.changes += 1

    def _failed(self, error: BaseException) -> None:
        self.errors += 1
        lines = str(error).splitlines() or [type(error).__name__]
        self.last_error = lines[0] if isinstance(error, VxlanFastError) else f"{type(error).__name__}: {lines[0]}"

    # --- telling ------------------------------------------------------------------------------------------

    def followed(self) -> dict[str, Any]:
        """For people and for metrics: each device and what it knows, what happened, what is passed over and why."""
        found = {str(device.row["ifname"]): device for device in self.tables.devices.values()}
        devices = [_told(name, found.get(name)) for name in self.tables.names]
        return {
            "devices": devices,
            "entries": sum(one["stations"] + one["neighbours"] + one["flood"] for one in devices),
            "events": self.events, "changes": self.changes, "applies": self.applies, "resyncs": self.resyncs,
            "overruns": self.overruns, "errors": self.errors, "last_error": self.last_error,
            "malformed": self._link.malformed, "passed_over": len(self.tables.passed_over),
            "notes": [*self._differences(), *self.tables.notes],
        }  # fmt: skip

    def _differences(self) -> Iterable[str]:
        """Devices whose peers this node will not reach, or that do not know it."""
        merged = self._merged or self._pending
        if merged is None:
            return
        base = merged.base
        for device in self.tables.devices.values():
            port = device.info.get("port")
            if port != base.port:
                yield f"device {device.row['ifname']}: port = {port}: this node's is {base.port}"
            local = device.info.get("local") or device.info.get("local6")
            if local is not None and local not in base.vtep:
                yield f"device {device.row['ifname']}: local = {local}: this node's vtep is {', '.join(base.vtep)}"

    def close(self) -> None:
        """Follow no longer; again is no error. The plane keeps what it has."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._loop is not None and not self._loop.is_closed() and self._link.fileno() >= 0:
            self._loop.remove_reader(self._link.fileno())
        self._link.close()
        self._asking.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _told(name: str, device: Device | None) -> dict[str, Any]:
    """A device, as far as it is there."""
    if device is None:
        return {"device": name, "present": False, "vnis": [], "stations": 0, "neighbours": 0, "flood": 0}
    info = device.info
    return {
        "device": name, "present": True, "ifindex": device.row["ifindex"], "up": device.row["up"],
        "vnis": sorted(device.vnis),
        "stations": sum(len(known.stations) for known in device.known.values()),
        "neighbours": sum(len(known.neighbours) for known in device.known.values()),
        "flood": sum(len(known.flood) for known in device.known.values()),
        "local": info.get("local") or info.get("local6"), "port": info.get("port"), "mtu": device.row["mtu"],
        "learning": info.get("learning"), "proxy": info.get("proxy"), "ageing_s": info.get("ageing"),
        "external": bool(info.get("external")), "bridge": device.row.get("master"),
    }  # fmt: skip
