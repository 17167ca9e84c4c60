"""``vxlanfast set``: what each of its words does to a plane, and what wrong ones say."""

from __future__ import annotations

from pathlib import Path

import pytest

import vxlanfast as vf
from tests.standin import NODE, StandIn, serving
from tests.support import assert_one_line, vxlanfast
from vxlanfast import tables
from vxlanfast.changes import change, parse
from vxlanfast.errors import SpecError
from vxlanfast.shown import PlaneView

MAC, OTHER = "02:42:0a:00:09:04", "02:00:00:00:00:99"


def do(node: StandIn, text: str) -> str:
    return change(node.plane, parse(text.split()))


@pytest.fixture
def node() -> StandIn:
    return StandIn(vf.parse_spec(NODE))


def places(node: StandIn, mac: str) -> str | None:
    row = node.plane.station(42, mac)
    return None if row is None else str(row["place"])


def test_fdb(node: StandIn) -> None:
    assert do(node, f"fdb replace {OTHER} 42 192.0.2.3") == f"fdb {OTHER} vni 42: at 192.0.2.3"
    assert places(node, OTHER) == "192.0.2.3"
    assert do(node, f"fdb append {OTHER} vni 42 veth1") == f"fdb {OTHER} vni 42: at 192.0.2.3, veth1, was at 192.0.2.3"
    assert places(node, OTHER) == "192.0.2.3,veth1"
    with pytest.raises(SpecError, match="already"):
        do(node, f"fdb append {OTHER} 42 veth1")
    assert do(node, f"fdb del {OTHER} 42 192.0.2.3").endswith("at veth1 alone now")
    with pytest.raises(SpecError, match=r"not at 192\.0\.2\.2; it is at veth1"):
        do(node, f"fdb del {OTHER} 42 192.0.2.2")
    assert "deleted, was at veth1" in do(node, f"fdb del {OTHER} 0x2a veth1")
    assert places(node, OTHER) is None
    with pytest.raises(SpecError, match="no such entry"):
        do(node, f"fdb del {OTHER} 42")
    assert do(node, f"fdb replace {MAC} 42 veth2").endswith("at veth2, was at 192.0.2.2")


def test_neigh(node: StandIn) -> None:
    assert do(node, f"neigh replace 10.0.9.9 lladdr {OTHER} vni 42 at 192.0.2.3").endswith("at 192.0.2.3")
    row = node.plane.neighbour(42, "10.0.9.9")
    assert row is not None and (row["mac"], row["place"]) == (OTHER, "192.0.2.3")
    assert f"was {OTHER}" in do(node, f"neigh replace 10.0.9.9 vni 42 lladdr {MAC}")
    assert "deleted" in do(node, "neigh del 10.0.9.9 vni 42")
    with pytest.raises(SpecError, match="no such entry"):
        do(node, "neigh del 10.0.9.9 vni 42")
    for own in ("10.0.9.1", "10.0.9.100"):
        with pytest.raises(SpecError, match="the node's own"):
            do(node, f"neigh del {own} vni 42")


LAN = """
[node]
vtep = "192.0.2.1"
[[network]]
name = "outside"
lan = true
subnet = "198.51.100.0/24"
gateway = "198.51.100.1"
[[network.endpoint]]
port = "eth0"
[[network.endpoint]]
port = "eth1"
[[network]]
name = "twice"
vni = 1
[[network]]
name = "twice"
vni = 2
"""


def test_networks_by_name() -> None:
    """A lan has no VNI; a name may stand for several. Nothing shows the number by which the plane knows a lan."""
    node = StandIn(vf.parse_spec(LAN))
    assert do(node, f"fdb replace {OTHER} outside eth0") == f"fdb {OTHER} network outside: at eth0"
    assert do(node, f"fdb append {OTHER} network outside eth1").endswith("at eth0, eth1, was at eth0")
    assert do(node, f"neigh replace 198.51.100.7 lladdr {OTHER} network outside at eth0").endswith("at eth0")
    view = PlaneView(node.plane, node.lock, None)
    assert list(tables.fdb_lines(view)) == [
        f"{OTHER} dev eth0 master outside static", f"{OTHER} dev eth1 master outside static",
        "02:42:c6:33:64:01 dev outside master outside permanent",
    ]  # fmt: skip
    assert f"198.51.100.7 dev outside lladdr {OTHER} PERMANENT" in list(tables.neigh_lines(view))
    assert all("vni" not in row for row in (*tables.fdb_rows(view), *tables.neigh_rows(view)))
    names = [(row.get("vni"), row["network"]) for row in tables.counter_row(view)["networks"]]
    assert names == [(1, "twice"), (2, "twice"), (None, "outside")]
    assert do(node, f"fdb del {OTHER} outside").endswith("deleted, was at eth0, eth1")
    for text, said in (
        (f"fdb replace {OTHER} twice eth0", "VNIs 1, 2"),
        (f"fdb replace {OTHER} inside eth0", "there are outside, twice"),
        (f"fdb replace {OTHER} outside eth9", "member of network outside; there are eth0, eth1"),
        (f"neigh replace 198.51.100.7 lladdr {OTHER} network 3x", "'3x'"),
    ):  # fmt: skip
        with pytest.raises(SpecError, match=said):
            do(node, text)


def servers(node: StandIn) -> dict[str, tuple[int, int, int]]:
    (service,) = node.plane.services()
    return {s["addr"]: (s["weight"], s["upper"], s["lower"]) for s in service["servers"]}


def test_server(node: StandIn) -> None:
    assert do(node, "server add shop 10.0.9.5 -w 3 -x 10 -y 5") == (
        "service shop: server 10.0.9.5:0: added, weight 3, upper 10, lower 5"
    )
    assert servers(node)["10.0.9.5"] == (3, 10, 5)
    assert do(node, "server edit shop 10.0.9.5 -x 20").endswith("now upper 20")
    assert do(node, "weight shop 10.0.9.5 0").endswith("now weight 0")
    assert servers(node)["10.0.9.5"] == (0, 20, 5)
    assert do(node, "server del shop 10.0.9.5").endswith("removed; 0 connections ended with it")
    assert servers(node) == {"10.0.9.3": (1, 0, 0), "10.0.9.4": (2, 0, 0)}
    with pytest.raises(SpecError, match="it has it"):
        do(node, "server add shop 10.0.9.3")
    with pytest.raises(SpecError):
        do(node, "server edit shop 10.0.9.3 -y 7")  # above the upper
    assert servers(node)["10.0.9.3"] == (1, 0, 0)


def test_what_is_set_lives_until_the_spec_is_read_again(node: StandIn) -> None:
    do(node, f"fdb replace {OTHER} 42 192.0.2.3")
    do(node, "weight shop 10.0.9.3 9")
    assert node.plane.verify()
    node.plane.apply(node.spec)
    assert places(node, OTHER) is None and servers(node)["10.0.9.3"][0] == 1 and not node.plane.verify()


WRONG = [
    ("", "fdb, neigh"), ("route add", "fdb, neigh"), ("fdb", "fdb replace|append|del"),
    ("fdb add x", "replace, append, del"),
    (f"fdb replace {MAC} 42", "PLACE"), (f"fdb replace {MAC} 99999999 veth1", "16777215"),
    ("fdb replace 02:42 42 veth1", "02:42"), (f"fdb replace {MAC} 43 veth1", "43"),
    (f"fdb replace {MAC} 42 veth7", "veth7"), (f"fdb replace {MAC} 42 192.0.2.9", "192.0.2.9"),
    ("fdb del 02:42:0a:00:09:01 42", "the node's own"), ("fdb replace ff:ff:ff:ff:ff:ff 42 veth1", "ff:ff"),
    ("neigh replace", "lladdr"), (f"neigh replace 10.0.9.9 lladdr {MAC}", "vni"),
    (f"neigh replace 10.0.9.900 lladdr {MAC} vni 42", "10.0.9.900"), ("neigh replace 10.0.9.9 dev x vni 42", "dev"),
    ("neigh replace 10.0.9.9 lladdr zz vni 42", "zz"), ("server add", "SERVICE"),
    ("server add shop 10.0.9.5 -w", "SERVICE"),
    ("server add shop 10.0.9.5 -w -1", "0 to 65535"), ("server add shop 10.0.9.5 -w 65536", "65535"),
    ("server add shop 10.0.9.5 -q 1", "-w, -x or -y"), ("server add shop 10.0.9.5:99999", "65535"),
    ("server add bank 10.0.9.5", "there are shop"), ("server edit shop 10.0.9.3", "-w, -x or -y"),
    ("server edit shop 10.0.9.77 -w 1", "10.0.9.77"), ("server del shop 10.0.9.77", "10.0.9.77"),
    ("server del shop 10.0.9.3 -w 1", "no more"), ("weight shop 10.0.9.3", "WEIGHT"), ("weight shop 10.0.9.3 x", "'x'"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), WRONG, ids=[text or "nothing" for text, _ in WRONG])
def test_wrong_words(node: StandIn, text: str, said: str) -> None:
    before = list(node.plane.stations()), list(node.plane.neighbours()), list(node.plane.services())
    with pytest.raises(SpecError) as refused:
        do(node, text)
    assert said in str(refused.value) and "\n" not in str(refused.value)
    assert before == (list(node.plane.stations()), list(node.plane.neighbours()), list(node.plane.services()))


def test_command(tmp_path: Path) -> None:
    path = tmp_path / "node.sock"
    with serving(path) as node:
        done = vxlanfast("set", "server", "add", "shop", "10.0.9.5", "-w", "4", "--socket", path)
        assert (done.returncode, done.stderr) == (0, b"") and b"added, weight 4" in done.stdout
        assert servers(node)["10.0.9.5"][0] == 4
        assert_one_line(vxlanfast("set", "fdb", "del", OTHER, "42", "--socket", path), 2, "no such entry")
        assert_one_line(vxlanfast("set", "fdb", "del", "--socket", path), 2, "fdb replace|append|del MAC VNI")
        assert_one_line(vxlanfast("set", "--socket", path), 2, "fdb, neigh, server, weight")
    assert_one_line(vxlanfast("set", "fdb", "del", OTHER, "42", "--socket", path), 1, "start one with")
    assert b"until the node reads its spec again" in vxlanfast("set", "--help").stdout
