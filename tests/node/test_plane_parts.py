"""What the plane's nodes and tables refuse when they are put together, and corners that no common packet reaches."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.node.plane import UNDERLAY, Vtep
from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.node.bridge import Bridge
from vxlanfast._ext.node.receive import Receive
from vxlanfast._ext.node.send import Send
from vxlanfast._ext.node.snoop import Snoop
from vxlanfast._ext.table.dest import DestTable
from vxlanfast._ext.table.fdb import FdbTable
from vxlanfast._ext.table.group import GroupTable
from vxlanfast._ext.table.net import NetTable
from vxlanfast._ext.verdict import Verdict


def parts() -> tuple[NetTable, DestTable]:
    nets, dests = NetTable(2), DestTable(8)
    nets.add(42)
    dests.add_port(0, 1)
    dests.add_peer(0, b"\xc0\0\2\2", UNDERLAY, 0)
    return nets, dests


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda n, d: Bridge(n, d, FdbTable(16, dests=1)),
            "the forwarding table knows 1 destinations, and there is room for 8",
        ),
        (
            lambda n, d: Snoop(n, d, GroupTable(16, dests=7)),
            "the group table knows 7 destinations, and there is room for 8",
        ),
        (lambda n, d: Send(d, []), "destination 1 takes tunnel 0, and there are 0"),
        (lambda n, d: Receive(n, d, local=[b"\1\2\3"], ports=[4789]), "address of 3 bytes: 4 or 16"),
        (lambda n, d: Receive(n, d, local=[], ports=[0]), "UDP port 0: 1 to 65535"),
        (lambda n, d: Receive(n, d, local=[], ports=[4789], underlay=1), "port 1: given twice"),
        (lambda n, d: d.add_places(0, [0]), "1 places: two at least, each once"),
        (lambda n, d: d.add_places(0, [0, 0]), "2 places: two at least, each once"),
        (lambda n, d: d.add_places(1, [0, 1]), "destination 0: no port or peer of network 1"),
        (lambda n, d: d.add_places(0, [0, 9]), "destination 9: no port or peer of network 0"),
        (lambda n, d: n.add_routes([3], []), "network 3: there are 1, and each has one set of routes"),
        (lambda n, d: n.add_routes([0], [(b"\n", 8, 0)]), "route to network 0 of 1: /8 of 1 bytes"),
        (lambda n, d: n.add_routes([0], [(bytes(4), 33, 0)]), "route to network 0 of 1: /33 of 4 bytes"),
        (lambda n, d: GroupTable(0), "capacity = 0: 1 to 16777216 memberships"),
        (lambda n, d: GroupTable(4).adopt(GroupTable(4), bytes(4), bytes(4)), "Buffer dtype mismatch"),
    ],
)
def test_what_does_not_go_together(make: Callable[[NetTable, DestTable], object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        make(*parts())


def test_batches_of_captures_and_reports() -> None:
    """``enter_by``, ``leave_by_ports``, ``note`` and ``sources`` look at what they are given."""
    batch = PacketBatch.from_frames([b"a", b"b"], port_in=1)
    batch.enter_by([7, 8])
    assert list(batch.port_in) == [8, 8]
    batch.enter_by([1])
    assert list(batch.port_in) == [0xFFFF, 0xFFFF] and batch.sources() == [(0, 0), (1, 1)]
    with pytest.raises(ValueError, match="65537 interfaces: at most 65536"):
        batch.enter_by([0] * 65537)
    with pytest.raises(IndexError, match="row 2 of a batch of 2"):
        batch.note({2: "nothing"})
    batch.note({1: "long " * 5000})
    batch.leave_by_ports()
    assert list(batch.port_out) == [1, 1]


def test_frames_by_a_port_that_are_none() -> None:
    """Not Ethernet, or a tag that ends the frame: dropped as they enter."""
    vtep = Vtep("192.0.2.1", {42: ([1], ["192.0.2.2"])}, tags=True)
    batch = PacketBatch.from_frames([bytes(60)], port_in=1, link=101)
    assert list(vtep.process(batch).verdict) == [Verdict.DROP_NOT_ETHERNET]
    assert vtep.verdicts(7, [bytes(60)]) == [Verdict.DROP_PORT_UNKNOWN]
    assert vtep.verdicts(1, [bytes(13)]) == [Verdict.DROP_INNER_RUNT]


def test_memberships_are_adopted_where_their_place_lives_on() -> None:
    """Whole tables over to others, as ``apply`` does; what has no place any more stays behind."""
    from array import array

    nowhere = array("I", [0xFFFFFFFF]) * 65536
    with pytest.raises(ValueError, match="4 destinations and 65536 networks, of 8 and 65536"):
        GroupTable(4, dests=8).adopt(GroupTable(4, dests=8), nowhere[:4], nowhere)
    assert GroupTable(4, dests=8).adopt(GroupTable(4, dests=8), nowhere[:8], nowhere) == 0
