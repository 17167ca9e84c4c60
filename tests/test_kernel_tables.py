"""What single events make of a kernel's tables is what asking for everything makes of them; and whose neighbours
are whose. Without a kernel: rows as iproute2 prints them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vxlanfast as vf
from vxlanfast.kernel_tables import KernelTables, Row, Tables
from vxlanfast.netlink import fdb_row, link_row, neigh_row, vlans_row

ZERO = "00:00:00:00:00:00"
MACS = ("02:00:00:00:00:05", "02:00:00:00:00:06", "02:00:00:00:00:07")
VTEPS = ("192.0.2.2", "192.0.2.3", "192.0.2.4", "2001:db8::2", "192.0.2.1")
ADDRESSES = ("10.0.9.5", "10.0.9.6", "2001:db8:9::5")
BASE = vf.parse_spec("""
[node]
vtep = "192.0.2.1"
[[network]]
name = "web"
vni = 42
own = "10.0.9.6"
[[network.endpoint]]
port = "tap1"
mac = "02:00:00:00:00:07"
[[network.peer]]
vtep = "192.0.2.2"
rx_from = "192.0.2.3"
flood = false
""")


def link(number: int, name: str, kind: str, info: Row | None = None, **more: Any) -> Row:
    inner = {"info_kind": kind, "info_data": info or {}}
    return {"ifindex": number, "ifname": name, "mtu": 1500, "up": True, "linkinfo": inner, **more}


LINKS = (
    link(1, "br0", "bridge", {"vlan_filtering": 1}),
    link(2, "vx42", "vxlan", {"id": 42, "port": 4789, "learning": False}, master="br0", master_index=1),
    link(3, "vxe", "vxlan", {"id": 0, "port": 4789, "external": True}, master="br0", master_index=1),
    link(4, "br0.10", "vlan", {"id": 10}, link_index=1),
    link(5, "br0.20", "vlan", {"id": 20}, link_index=1),
    link(6, "br0.30", "vlan", {"id": 30}, link_index=1),
    link(7, "v0", "veth"),
)
VLANS = (
    {"ifindex": 1, "untagged": [10], "pvid": 10, "tunnels": {}},
    {"ifindex": 2, "untagged": [10], "pvid": 10, "tunnels": {}},
    {"ifindex": 3, "untagged": [], "pvid": None, "tunnels": {20: 43}},
)


def fdb(number: int, mac: str, **more: Any) -> Row:
    return {"ifindex": number, "ifname": f"if{number}", "mac": mac, "flags": ["self"], "state": "permanent", **more}


def neigh(number: int, dst: str, mac: str | None, *state: str) -> Row:
    row: Row = {"ifindex": number, "dev": f"if{number}", "dst": dst, "state": list(state or ("PERMANENT",))}
    return row if mac is None else row | {"lladdr": mac}


def loaded(*rows: Row) -> KernelTables:
    tables = KernelTables(["vx42", "vxe"])
    entries = [row for row in rows if "mac" in row]
    neighbours = [row for row in rows if "mac" not in row]
    tables.load(Tables(LINKS, VLANS, entries, neighbours))
    return tables


def test_whose_neighbours() -> None:
    """Of a bridge with VLANs: the device that a VLAN leaves by untagged, or as its VNI; others are nobody's."""
    tables = loaded(*(neigh(number, f"10.0.9.{number}", MACS[0]) for number in range(1, 8)))
    assert sorted(tables.neighbours(42)) == ["10.0.9.1", "10.0.9.2", "10.0.9.4"]
    assert sorted(tables.neighbours(43)) == ["10.0.9.5"]
    plain = [{**LINKS[0], "linkinfo": {"info_kind": "bridge", "info_data": {"vlan_filtering": 0}}}, *LINKS[1:]]
    tables.load(Tables(plain, VLANS, (), [neigh(number, f"10.0.9.{number}", MACS[0]) for number in range(1, 8)]))
    assert sorted(tables.neighbours(42)) == ["10.0.9.1", "10.0.9.2"] and not tables.neighbours(43)


def test_which_devices_matter() -> None:
    """What happens to the device, its bridge and what is on it; not what is as it was, and not others."""
    tables = loaded()
    for number, row in enumerate(LINKS[:6]):
        assert not tables.concerns(dict(row), gone=False), number
        assert not tables.concerns({**row, "up": False, "mtu": 9000}, gone=False), number
    assert not tables.concerns({**LINKS[6], "ifname": "v9"}, gone=False)
    assert tables.concerns({**LINKS[6], "ifname": "vxe"}, gone=False)
    assert tables.concerns({**LINKS[1], "master_index": None}, gone=False)
    assert tables.concerns({**LINKS[3], "ifname": "vlan10"}, gone=False)
    assert tables.concerns(link(9, "br0.40", "vlan", {"id": 40}, link_index=1), gone=False)
    assert tables.concerns(LINKS[0], gone=True) and tables.concerns(LINKS[2], gone=True)
    assert not tables.concerns(link(10, "v7", "veth"), gone=True)


def test_two_devices_of_one_vni() -> None:
    tables = KernelTables(["vx42", "vy42"])
    second = link(8, "vy42", "vxlan", {"id": 42, "port": 4790})
    tables.load(Tables((*LINKS, second), VLANS, [fdb(8, MACS[0], dst="192.0.2.2")], ()))
    assert tables.notes == ["device vy42: VNI 42 is followed by vx42 already"] and tables.station(42, MACS[0]) is None


def test_another_protocol() -> None:
    tables = KernelTables(["vxg"])
    tables.load(Tables([link(8, "vxg", "vxlan", {"id": 42, "gpe": True})]))
    assert tables.notes == ["device vxg: a node speaks VXLAN, not VXLAN-GPE"] and not tables.vnis


def test_neighbours_that_are_none() -> None:
    """Of other kinds of devices, and the kernel's own for groups."""
    rows = [neigh(2, "ff02::16", "33:33:00:00:00:16", "NOARP"), neigh(2, "somewhere", MACS[0]), neigh(2, "::1", ZERO)]
    tables = loaded(*rows, neigh(2, "10.0.9.5", "00:11"))
    assert tables.neighbours(42) == {} and not tables.passed_over


def test_aliases() -> None:
    """A further address of a peer's is that peer; what the base says of it stays."""
    tables = loaded(fdb(2, ZERO, dst="192.0.2.3"), fdb(2, MACS[0], dst="192.0.2.3"), fdb(2, MACS[1], dst="192.0.2.4"))
    merged = tables.merge(BASE)
    (network,) = merged.spec.network
    assert network.members == {"192.0.2.2": False, "192.0.2.4": False}
    assert [endpoint.vtep for endpoint in network.endpoint] == [None, "192.0.2.2", "192.0.2.4"]
    assert tables.place(merged, 42, MACS[0]) == "192.0.2.2" and tables.place(merged, 42, MACS[2]) is None


_SET = st.sampled_from(["permanent", "static", "", "stale"])
_ENTRIES = st.one_of(
    st.builds(
        lambda mac, dst, state, more: fdb(2, mac, dst=dst, state=state, **more),
        st.sampled_from(MACS), st.sampled_from((*VTEPS, "239.1.1.1")), _SET,
        st.sampled_from([{}, {}, {}, {"vni": 7}, {"port": 4790}, {"flags": ["self", "extern_learn"]}]),
    ),
    st.builds(lambda dst: fdb(2, ZERO, dst=dst), st.sampled_from(VTEPS)),
    st.builds(
        lambda mac, dst, vni: fdb(3, mac, dst=dst, vni=vni, src_vni=vni),
        st.sampled_from((*MACS, ZERO)), st.sampled_from(VTEPS), st.sampled_from([42, 43, 44]),
    ),
    st.builds(lambda mac: fdb(2, mac, nhid=10), st.sampled_from(MACS)),
    st.builds(lambda mac: fdb(2, mac, flags=["extern_learn"], master=1), st.sampled_from(MACS)),
)  # fmt: skip
_NEIGHBOURS = st.builds(
    neigh, st.sampled_from([1, 2, 4, 5, 6]), st.sampled_from(ADDRESSES), st.sampled_from((*MACS, None)),
    st.sampled_from(["PERMANENT", "NOARP", "REACHABLE", "FAILED"]),
)  # fmt: skip


def identity(row: Row) -> tuple[object, ...]:
    """What a kernel has one of: entries of the zero MAC by VTEP, others by MAC and the VNI that they are found by."""
    if "mac" not in row:
        return "neigh", row["ifindex"], row["dst"]
    if "self" not in row["flags"]:
        return "bridge", row["mac"]
    return "fdb", row["ifindex"], row["mac"], row.get("src_vni"), row.get("dst") if row["mac"] == ZERO else None


@settings(max_examples=300)
@given(st.lists(st.tuples(st.one_of(_ENTRIES, _NEIGHBOURS), st.booleans(), st.booleans()), max_size=40))
def test_events_are_as_good_as_everything(happened: list[tuple[Row, bool, bool]]) -> None:
    """Entries made, replaced and deleted in any order; a plane with the changed keys set alone is as one made anew."""
    tables, held = loaded(), {}
    merged = tables.merge(BASE)
    seen = {key: value(tables, key) for key in everything(tables)}
    for row, gone, look in happened:
        what = identity(row)
        if gone and what not in held:
            continue
        row = held.pop(what) if gone else row
        if not gone:
            held[what] = row
        keys = tables.fdb_event(row, gone=gone) if "mac" in row else tables.neigh_event(row, gone=gone)
        seen |= {key: value(tables, key) for key in keys}
        if look:
            merged = tables.merge(BASE)
    fresh = loaded(*held.values())
    assert tables.contents() == fresh.contents() and tables.wants(BASE) == fresh.wants(BASE)
    assert tables.passed_over == fresh.passed_over
    for vni in tables.vnis:
        assert tables.members(vni) == fresh.members(vni)
    again = everything(tables) | seen.keys()
    assert {key: seen.get(key) for key in again} == {key: value(fresh, key) for key in again}
    merged = tables.merge(BASE)
    assert merged.spec == fresh.merge(BASE).spec
    plane = vf.Dataplane(merged.spec)
    for row_ in plane.stations():
        if row_["vni"] == 42 and row_["remote"]:
            assert row_["place"] == tables.place(merged, 42, str(row_["mac"]))
    # And a resync says what is different.
    other = loaded()
    assert other.load(Tables(LINKS, VLANS, *split(held))) == set(fresh.contents())


def split(held: dict[tuple[object, ...], Row]) -> tuple[list[Row], list[Row]]:
    return [r for r in held.values() if "mac" in r], [r for r in held.values() if "mac" not in r]


def everything(tables: KernelTables) -> set[tuple[str, int, str]]:
    return set(tables.contents())


def value(tables: KernelTables, key: tuple[str, int, str]) -> object:
    kind, vni, name = key
    return tables.station(vni, name) if kind == "fdb" else tables.neighbour(vni, name)


def test_forgotten() -> None:
    """All that a device knew is among the keys that are different when it goes."""
    tables = loaded(
        fdb(2, MACS[0], dst="192.0.2.2"), fdb(2, MACS[1], dst="192.0.2.2", vni=7), fdb(3, MACS[0], dst="::1", vni=43),
        neigh(2, "10.0.9.5", MACS[0]), neigh(5, "10.0.9.6", MACS[0]),
    )  # fmt: skip
    assert tables.forget(2) == {("fdb", 42, MACS[0]), ("neigh", 42, "10.0.9.5")}
    assert not tables.passed_over and tables.vnis == [43] and tables.forget(2) == set()


def test_messages() -> None:
    """Rows out of netlink's own bytes: a bridge's VLANs, one by one and as a range, and what is in no message."""
    pytest.importorskip("pyroute2", reason="pyroute2 is not installed: pip install 'vxlanfast[live]'")
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
    from pyroute2.netlink.rtnl.ndmsg import ndmsg

    def attr(kind: int, value: bytes) -> bytes:
        return (len(value) + 4).to_bytes(2, "little") + kind.to_bytes(2, "little") + value + bytes(-len(value) % 4)

    def vlan(flags: int, vid: int) -> bytes:
        return attr(2, flags.to_bytes(2, "little") + vid.to_bytes(2, "little"))

    def tunnel(vni: int, vid: int, flags: int) -> bytes:
        inner = attr(1, vni.to_bytes(4, "little")) + attr(2, vid.to_bytes(2, "little"))
        return attr(3, inner + attr(3, flags.to_bytes(2, "little")))

    def message(kind: Any, head: bytes, attributes: bytes) -> Any:
        data = head + attributes
        made = kind((16 + len(data)).to_bytes(4, "little") + bytes(12) + data)
        made.decode()
        return made

    head = bytes([7, 0, 0, 0]) + (3).to_bytes(4, "little") + bytes(8)
    spec = vlan(6, 10) + vlan(0, 20) + vlan(4, 30) + tunnel(100, 20, 0) + tunnel(200, 30, 8) + tunnel(202, 32, 16)
    assert vlans_row(message(ifinfmsg, head, attr(26, spec))) == {
        "ifindex": 3, "untagged": [10, 30], "pvid": 10, "tunnels": {20: 100, 30: 200, 31: 201, 32: 202},
    }  # fmt: skip
    empty = message(ifinfmsg, bytes(4) + (3).to_bytes(4, "little") + bytes(8), b"")
    assert vlans_row(empty)["tunnels"] == {} and link_row(empty, {})["ifname"] == ""
    nobody = message(ndmsg, bytes(4) + (3).to_bytes(4, "little") + bytes(4), b"")
    tables = loaded()
    assert fdb_row(nobody, {})["mac"] == "" and not tables.fdb_event(fdb_row(nobody, {}), gone=False)
    assert neigh_row(nobody, {3: "vxe"})["dev"] == "vxe" and not tables.neigh_event(neigh_row(nobody, {}), gone=False)
