"""What a kernel's vxlan devices know, kept up to date by single events, and merged into a node's spec.

Rows come with the keys of ``ip -j`` and ``bridge -j``; what an entry means is decided in ``importers``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vxlanfast.addr import VNI_MAX, format_ip, mac_of_ip, parse_ip
from vxlanfast.compiled import gateway_mac
from vxlanfast.errors import SpecError
from vxlanfast.foreign import Object
from vxlanfast.importers import is_known, remote_of, vxlan_policies
from vxlanfast.network_spec import EndpointSpec, NetworkSpec, PeerSpec
from vxlanfast.node_spec import NodeSpec
from vxlanfast.spec import DEFAULT_PORT

Row = dict[str, Any]
#: What changed: "fdb" and a MAC, or "neigh" and an address, of a VNI.
Key = tuple[str, int, str]
#: A MAC and whether it is a router's.
Neighbour = tuple[str, bool]

_ZERO = "00:00:00:00:00:00"
_NOTES = 16  # reasons that are told; all are counted


@dataclass(frozen=True, slots=True)
class Tables:
    """Everything that was asked for at once: devices, VLANs of bridges' ports, FDB entries, neighbours."""

    links: Sequence[Row] = ()
    vlans: Sequence[Row] = ()
    fdb: Sequence[Row] = ()
    neigh: Sequence[Row] = ()


@dataclass(slots=True)
class Known:
    """What one device knows of one VNI. Neighbours by address, then by the device that they are on."""

    stations: dict[str, str] = field(default_factory=dict)  # MAC: VTEP
    uses: dict[str, int] = field(default_factory=dict)  # VTEP: how many stations are there
    flood: set[str] = field(default_factory=set)
    neighbours: dict[str, dict[int, Neighbour]] = field(default_factory=dict)
    addresses: dict[str, set[str]] = field(default_factory=dict)  # by MAC

    @property
    def is_empty(self) -> bool:
        """Whether it is as if the VNI had never been heard of."""
        return not (self.stations or self.flood or self.neighbours)

    def put(self, mac: str, vtep: str | None) -> None:
        """A station is at a VTEP, or there is none any more."""
        before = self.stations.pop(mac, None)
        if before is not None:
            self.uses[before] -= 1
            if not self.uses[before]:
                del self.uses[before]
        if vtep is not None:
            self.stations[mac] = vtep
            self.uses[vtep] = self.uses.get(vtep, 0) + 1

    def neighbour(self, address: str, order: Sequence[int]) -> Neighbour | None:
        """That of the first device that has one: the vxlan device, its bridge, VLAN devices."""
        found = self.neighbours.get(address)
        return None if not found else next((found[index] for index in order if index in found), None)


@dataclass(slots=True)
class Device:
    """A vxlan device that is followed. ``above``: devices whose neighbours are its own, each with its VNI."""

    row: Row
    info: Row
    above: dict[int, int] = field(default_factory=dict)
    known: dict[int, Known] = field(default_factory=dict)

    @property
    def vni(self) -> int | None:
        """The one of the device; None: each entry has its own (``external``)."""
        return None if self.info.get("external") else int(self.info["id"])

    @property
    def vnis(self) -> set[int]:
        """Its own, or those that it knows something of."""
        return {vni for vni, known in self.known.items() if not known.is_empty} if self.vni is None else {self.vni}

    def vni_of(self, entry: Object) -> int:
        """The VNI of an entry. SpecError: it is sent with another than it is looked up with."""
        if self.vni is not None:
            return self.vni
        sent = entry.number("vni", 0, VNI_MAX)
        looked_up = entry.number("src_vni", sent, VNI_MAX)
        if "vni" in entry and sent != looked_up:
            raise entry.wrong("vni", f"{looked_up}, with which it is looked up: a network has one VNI")
        return looked_up

    def table(self, vni: int) -> Known:
        """What it knows of a VNI."""
        return self.known.setdefault(vni, Known())


@dataclass(frozen=True, slots=True)
class Reserved:
    """What the base says itself of a VNI: its MACs and addresses, by which the kernel's are not taken; VTEPs by the
    further addresses that they have."""

    macs: frozenset[str]
    addresses: frozenset[str]
    aliases: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Merged:
    """A base with the kernel's tables: the spec, and what to know of it for single changes. ``members``: what of it
    makes a new spec necessary when it changes."""

    base: NodeSpec
    spec: NodeSpec
    members: Mapping[int, object]
    reserved: Mapping[int, Reserved]


class KernelTables:
    """The kernel's tables for a few vxlan devices, by their names."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(dict.fromkeys(names))
        self.devices: dict[int, Device] = {}
        self.links: dict[int, Row] = {}
        #: Entries that no node can have, with the reason, by what they are.
        self.passed_over: dict[tuple[object, ...], str] = {}

    # --- reading ----------------------------------------------------------------------------------------

    def load(self, tables: Tables) -> set[Key]:
        """Begin anew with everything; the keys that are not as before."""
        before = self.contents()
        self.links = {row["ifindex"]: row for row in tables.links}
        self.devices, self.passed_over = {}, {}
        for name in self.names:
            self._find(name)
        vlans = {row["ifindex"]: row for row in tables.vlans}
        for device in self.devices.values():
            device.above = dict(self._above(device, vlans))
        for row in tables.fdb:
            self.fdb_event(row, gone=False)
        for row in tables.neigh:
            self.neigh_event(row, gone=False)
        after = self.contents()
        return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}

    def _find(self, name: str) -> None:
        row = next((row for row in self.links.values() if row["ifname"] == name), None)
        if row is None:
            return
        inner = row.get("linkinfo", {})
        info = inner.get("info_data", {})
        device = Device(row, info)
        kind = inner.get("info_kind") or "hardware"
        taken = next((d.row["ifname"] for d in self.devices.values() if d.vni is not None and d.vni == device.vni), "")
        wrong = ""
        if kind != "vxlan":
            wrong = f"it is no vxlan device ({kind})"
        elif info.get("gpe"):
            wrong = "a node speaks VXLAN, not VXLAN-GPE"
        elif taken:
            wrong = f"VNI {device.vni} is followed by {taken} already"
        if wrong:
            self.passed_over["device", name] = f"device {name}: {wrong}"
            return
        if info.get("group") or info.get("group6"):
            self.passed_over["group", name] = f"device {name}: a node floods to its members, not to a multicast group"
        self.devices[row["ifindex"]] = device

    def _above(self, device: Device, vlans: Mapping[int, Row]) -> Iterator[tuple[int, int]]:
        """Devices whose neighbours are those of a VNI of a device."""
        number, bridge = device.row["ifindex"], device.row.get("master_index")
        if device.vni is not None:
            yield number, device.vni
        over = self.links.get(bridge or 0)
        if over is None or over.get("linkinfo", {}).get("info_kind") != "bridge":
            return
        filtering = over["linkinfo"].get("info_data", {}).get("vlan_filtering")
        port = vlans.get(number, {})
        vids = dict(port.get("tunnels", {}))
        if device.vni is not None:
            vids = dict.fromkeys((*port.get("untagged", ()), port.get("pvid")), device.vni)
            if not filtering:
                yield over["ifindex"], device.vni
        if not filtering:
            return
        own = vlans.get(over["ifindex"], {}).get("pvid")
        if own is not None and own in vids:
            yield over["ifindex"], vids[own]
        for row in self.links.values():
            inner = row.get("linkinfo", {})
            vid = inner.get("info_data", {}).get("id") if inner.get("info_kind") == "vlan" else None
            if vid is not None and row.get("link_index") == over["ifindex"] and vid in vids:
                yield row["ifindex"], vids[vid]

    def contents(self) -> dict[Key, object]:
        """Everything that is known, by key: VTEPs of MACs, and MACs of addresses."""
        out: dict[Key, object] = {}
        for vni in self.vnis:
            for device, known in self._of(vni):
                for mac, vtep in known.stations.items():
                    out.setdefault(("fdb", vni, mac), vtep)
                for address in known.neighbours:
                    found = known.neighbour(address, list(device.above))
                    if found is not None:
                        out.setdefault(("neigh", vni, address), found)
        return out

    # --- events -----------------------------------------------------------------------------------------

    def concerns(self, row: Row, *, gone: bool) -> bool:
        """Whether what happened to a device means that everything has to be asked for again. It is noted."""
        number = row["ifindex"]
        before = self.links.get(number)
        if gone:
            self.links.pop(number, None)
        else:
            self.links[number] = row
        if not gone and before is not None and _shape(before) == _shape(row):
            return False
        bridges = {device.row.get("master_index") for device in self.devices.values()} - {None}
        for one in (row, before or row):
            if one["ifname"] in self.names or number in bridges or one.get("link_index") in bridges:
                return True
        return number in self.devices or any(number in device.above for device in self.devices.values())

    def forget(self, number: int) -> set[Key]:
        """A device is gone with its entries, which nobody tells one by one: the keys of what it knew."""
        device = self.devices.pop(number, None)
        if device is None:
            return set()
        keys: set[Key] = set()
        for vni, known in device.known.items():
            keys |= {("fdb", vni, mac) for mac in known.stations}
            keys |= {("neigh", vni, address) for address in known.neighbours}
        name = device.row["ifname"]
        self.passed_over = {key: why for key, why in self.passed_over.items() if key[1] not in (name, number)}
        return keys

    def fdb_event(self, row: Row, *, gone: bool) -> set[Key]:
        """An entry was made, changed or deleted: the keys of what is different now."""
        device = self.devices.get(row["ifindex"])
        if device is None or "master" in row["flags"] or "self" not in row["flags"]:
            return set()  # a bridge's own
        entry = Object(f"fdb: {row['ifname']}", row)
        what: tuple[object, ...] = ("fdb", row["ifindex"], row["mac"], row.get("src_vni"))
        if row["mac"] == _ZERO or int(row["mac"][:2] or "0", 16) & 1:  # of which there may be several
            what += (row.get("dst"), row.get("vni"), row.get("port"), row.get("nhid"))
        self.passed_over.pop(what, None)
        try:
            vni = device.vni_of(entry)
            if not gone and "nhid" in row:
                raise entry.wrong("nhid", "nexthop groups are not followed: give the MAC one dst")
            sent = device.vni if device.vni is not None else row.get("vni", 0)
            found = remote_of(entry, sent, device.info.get("port", DEFAULT_PORT))
            if found is not None and found[0] != _ZERO and int(found[0][:2], 16) & 1:
                raise entry.wrong("mac", "entries of groups are not followed: multicast goes to those that joined")
        except SpecError as error:
            if not gone:
                self.passed_over[what] = str(error)
                return self._no_station(device, row)
            return set()
        known = device.table(vni)
        mac = row["mac"]
        if mac == _ZERO:
            # Its entries are by VTEP.
            if not gone and found is not None:
                known.flood.add(found[1])
            elif "dst" in row:
                known.flood.discard(entry.address("dst"))
            return set()
        if gone or found is None:
            # That of a deleted entry: one that was replaced is told as new alone.
            if not gone or "dst" not in row or known.stations.get(mac) == entry.address("dst"):
                known.put(mac, None)
        else:
            known.put(mac, found[1])
        return {("fdb", vni, mac)}

    def _no_station(self, device: Device, row: Row) -> set[Key]:
        """An entry that was one, and is what no node has now."""
        keys: set[Key] = set()
        for vni, known in device.known.items():
            named = vni in (device.vni, row.get("src_vni"), row.get("vni"))
            if named and row["mac"] in known.stations:
                known.put(row["mac"], None)
                keys.add(("fdb", vni, row["mac"]))
        return keys

    def neigh_event(self, row: Row, *, gone: bool) -> set[Key]:
        """A neighbour was made, changed or deleted: the keys of what is different now."""
        keys: set[Key] = set()
        for device in self.devices.values():
            vni = device.above.get(row["ifindex"])
            if vni is None or "proxy" in row:  # of an address that the kernel itself answers for
                continue
            try:
                entry = Object(f"neigh: {row['dev']}", row)
                address = entry.address("dst")
                mac = entry.mac("lladdr") if not gone and is_known(entry) else None
            except SpecError:
                continue  # of another kind: a device without MACs, a proxy's
            if mac is not None and (mac == _ZERO or int(mac[:2], 16) & 1):
                continue  # the kernel's own, of a group
            known = device.table(vni)
            places = known.neighbours.setdefault(address, {})
            before = places.pop(row["ifindex"], None)
            if mac is not None:
                places[row["ifindex"]] = (mac, "router" in row)
            if not places:
                del known.neighbours[address]
            if before is not None:
                known.addresses.get(before[0], set()).discard(address)
                for other, _ in places.values():
                    known.addresses.setdefault(other, set()).add(address)
                if not known.addresses.get(before[0]):
                    known.addresses.pop(before[0], None)
            if mac is not None:
                known.addresses.setdefault(mac, set()).add(address)
            if before is not None or mac is not None:
                keys.add(("neigh", vni, address))
        return keys

    # --- what is known ------------------------------------------------------------------------------------

    @property
    def vnis(self) -> list[int]:
        """VNIs that anything is known of, and those of devices."""
        return sorted({vni for device in self.devices.values() for vni in device.vnis})

    @property
    def notes(self) -> list[str]:
        """Some reasons why things are passed over, each once."""
        return list(dict.fromkeys(self.passed_over.values()))[:_NOTES]

    def _of(self, vni: int) -> Iterator[tuple[Device, Known]]:
        for device in self.devices.values():
            if vni in device.known or vni == device.vni:  # of a device's own, nothing may be known
                yield device, device.known.get(vni) or Known()

    def station(self, vni: int, mac: str) -> str | None:
        """The VTEP where a MAC is."""
        return next((known.stations[mac] for _, known in self._of(vni) if mac in known.stations), None)

    def neighbour(self, vni: int, address: str) -> Neighbour | None:
        """The MAC of an address."""
        found = (known.neighbour(address, list(device.above)) for device, known in self._of(vni))
        return next((one for one in found if one is not None), None)

    def addresses(self, vni: int, mac: str) -> set[str]:
        """Addresses that a MAC has, and may have on another device."""
        return {text for _, known in self._of(vni) for text in known.addresses.get(mac, ())}

    def neighbours(self, vni: int) -> dict[str, Neighbour]:
        """All addresses of a VNI."""
        addresses = sorted({text for _, known in self._of(vni) for text in known.neighbours})
        found = {text: self.neighbour(vni, text) for text in addresses}
        return {text: one for text, one in found.items() if one is not None}

    def members(self, vni: int) -> dict[str, bool]:
        """VTEPs that any entry names, and whether they get what is flooded."""
        members: dict[str, bool] = {}
        for _, known in self._of(vni):
            members |= {vtep: members.get(vtep, False) for vtep in known.uses}
            members |= dict.fromkeys(known.flood, True)
        return members

    # --- merging --------------------------------------------------------------------------------------------

    def merge(self, base: NodeSpec) -> Merged:
        """``base`` with what the kernel knows. What ``base`` says itself stays as it is: its settings, and each MAC,
        address and VTEP that it names. The kernel adds VTEPs, MACs and addresses, and networks for VNIs that ``base``
        has none for, with its device's name and settings."""
        by_vni = {network.vni: network for network in base.network if not network.lan}
        names = {network.name for network in base.network}
        reserved: dict[int, Reserved] = {}
        merged: dict[int, NetworkSpec] = {}
        for vni in self.vnis:
            network = by_vni.get(vni) or self._network(vni, names)
            names.add(network.name)
            reserved[vni] = _reserved(base, network)
            merged[vni] = self._merge(base, network, reserved[vni])
        networks = tuple(merged.pop(network.vni, network) for network in base.network)
        spec = replace(base, network=networks + tuple(merged.values()))
        return Merged(base, spec, self.wants(base), reserved)

    def wants(self, base: NodeSpec) -> dict[int, object]:
        """What of a merged spec is in no single entry: its VNIs, the settings of those of the kernel, its VTEPs."""
        ours = {network.vni for network in base.network}
        return {
            vni: (self._members(base, vni), None if vni in ours else sorted(self._policies(vni).items()))
            for vni in self.vnis
        }

    def _members(self, base: NodeSpec, vni: int) -> dict[str, bool]:
        """VTEPs of the kernel's that this node can have: others, of a family that it has an address of."""
        return {vtep: flood for vtep, flood in self.members(vni).items() if _usable(base, vtep)}

    def _policies(self, vni: int) -> dict[str, Any]:
        device = next(device for device, _ in self._of(vni))
        link = {**device.row, "linkinfo": {**device.row["linkinfo"], "info_data": dict(device.info)}}
        for key in ("group", "group6"):  # it is noted that they are not followed
            link["linkinfo"]["info_data"].pop(key, None)
        return vxlan_policies(Object("links", link))

    def _network(self, vni: int, names: set[str]) -> NetworkSpec:
        device = next(device for device, _ in self._of(vni))
        name = str(device.row["ifname"])
        if device.vni is None or name in names:
            name = f"{name}.{vni}"
        flood = "head-end" if any(self.members(vni).values()) else "off"
        return NetworkSpec(name=name, vni=vni, flood=flood, **self._policies(vni))

    def _merge(self, base: NodeSpec, network: NetworkSpec, reserved: Reserved) -> NetworkSpec:
        vni, peers, endpoints = network.vni, list(network.peer), list(network.endpoint)
        # The base's own endpoints make their VTEPs members that flooded frames go to.
        said = {parse_ip(text) for text in network.members}
        members = self._members(base, vni)
        for vtep, flood in sorted(members.items(), key=lambda item: parse_ip(item[0])):
            if parse_ip(vtep) not in said and vtep not in reserved.aliases:
                peers.append(PeerSpec(vtep=vtep, flood=flood))
        neighbours = self.neighbours(vni)
        stations: dict[str, str] = {}
        for _, known in self._of(vni):
            stations = known.stations | stations
        ips: dict[str, list[str]] = {}
        for text, (mac, _) in neighbours.items():
            if text not in reserved.addresses:
                ips.setdefault(mac, []).append(text)
        for mac, vtep in sorted(stations.items()):
            if mac in reserved.macs or vtep not in members:
                continue
            mine = ips.get(mac, [])
            router = any(neighbours[text][1] for text in mine)
            place = reserved.aliases.get(vtep, vtep)
            endpoints.append(EndpointSpec(vtep=place, mac=mac, ip=tuple(mine), router=router))
        return replace(network, peer=tuple(peers), endpoint=tuple(endpoints))

    def place(self, merged: Merged, vni: int, mac: str) -> str | None:
        """The VTEP that a plane is to have a MAC at; None: no entry of the kernel's."""
        reserved, vtep = merged.reserved.get(vni), self.station(vni, mac)
        if reserved is None or vtep is None or mac in reserved.macs or not _usable(merged.base, vtep):
            return None
        return reserved.aliases.get(vtep, vtep)


def _shape(row: Row) -> tuple[object, ...]:
    """What of a device matters here."""
    return tuple(row.get(key) for key in ("ifname", "master_index", "link_index", "linkinfo"))


def _usable(base: NodeSpec, vtep: str) -> bool:
    """Whether a node can have a VTEP as a member: another's, of a family that it has an address of itself."""
    packed = parse_ip(vtep)
    others = [parse_ip(text) for text in base.vtep]
    return any(packed) and packed not in others and len(packed) in map(len, others)


def _reserved(base: NodeSpec, network: NetworkSpec) -> Reserved:
    macs = {endpoint.address for endpoint in network.endpoint}
    addresses = [*network.gateway, *network.own, *(text for endpoint in network.endpoint for text in endpoint.ip)]
    addresses += [v.address for s in base.expanded for v in s.virtual if v.network == network.name]
    if network.gateway:
        macs.add(gateway_mac(network))
    macs |= {mac_of_ip(parse_ip(text)) for text in network.own} | {base.own_mac}
    return Reserved(
        frozenset(mac.hex(":") for mac in macs if mac is not None),
        frozenset(format_ip(parse_ip(text)) for text in addresses),
        {format_ip(parse_ip(text)): vtep for text, vtep in network.aliases.items()},
    )
