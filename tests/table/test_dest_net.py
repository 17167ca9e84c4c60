"""Destinations and networks: found by what they are, refused where two would be one."""

from __future__ import annotations

import random

import pytest

from vxlanfast._ext.table.dest import DestTable
from vxlanfast._ext.table.net import NetTable


def test_ten_thousand_networks() -> None:
    """Every VNI, the first and the last too, is found, and no other."""
    vnis = [*random.Random(1).sample(range(1, 0xFFFFFF), 9_998), 0, 0xFFFFFF]
    table = NetTable(10_000)
    assert [table.add(vni) for vni in vnis] == list(range(10_000))
    assert [table.find(vni) for vni in vnis] == list(range(10_000))
    assert not any(table.find(vni + 1) is not None for vni in vnis if vni + 1 not in set(vnis))
    with pytest.raises(OverflowError, match="all 10000 networks are taken"):
        table.add(next(vni for vni in range(1, 100_000) if table.find(vni) is None))
    assert table.find(1 << 24) is None


def test_peers_are_of_a_network() -> None:
    """One VTEP in two networks is two peers; an IPv4 address is not the IPv6 one that begins like it."""
    table = DestTable(10)
    four, six = b"\xc0\0\2\1", b"\xc0\0\2\1" + bytes(12)
    numbers = [table.add_peer(net, addr, 0, 0) for net in (0, 7) for addr in (four, six)]
    assert numbers == [table.find_peer(net, addr) for net in (0, 7) for addr in (four, six)] == [0, 1, 2, 3]
    assert table.find_peer(1, four) is None and table.find_peer(0, b"\xc0\0\2\2") is None
    assert table.add_port(7, 3) == 4 and table.add_gateway(7) == 5
    assert [(row["kind"], row["net"], row["port"], row["addr"]) for row in table.rows()] == [
        ("peer", 0, 0, four), ("peer", 0, 0, six), ("peer", 7, 0, four), ("peer", 7, 0, six), ("port", 7, 3, None),
        ("gateway", 7, 0, None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda d, n: d.add_peer(0, b"\1\2\3\4", 0, 0), "peer 01020304 of network 0: given twice"),
        (lambda d, n: d.add_peer(0, b"\1\2\3", 0, 0), "address of 3 bytes"),
        (lambda d, n: d.find_peer(0, b""), "address of 0 bytes"),
        (lambda d, n: d.add_port(70000, 0), "network 70000, port 0: 0 to 65535"),
        (lambda d, n: n.add(42), "VNI 42: given twice"),
        (lambda d, n: n.add(1 << 24), "VNI 16777216: 0 to 16777215"),
        (lambda d, n: n.set_flood(0, [0], []), "network 0 has a flood list"),
        (lambda d, n: n.set_flood(1, [], []), "network 1: there are 1"),
        (lambda d, n: n.set_gateway(0, b"123", bytes(6)), "network 0 of 1, MACs of 3 and 6 bytes"),
        (lambda d, n: NetTable(0), "capacity = 0: 1 to 65535 networks"),
        (lambda d, n: DestTable(0), "capacity = 0: 1 to 16777216 destinations"),
    ],
)
def test_what_callers_get_wrong(call, text) -> None:
    dests, nets = DestTable(4), NetTable(4)
    dests.add_peer(0, b"\1\2\3\4", 0, 0)
    nets.add(42)
    nets.set_flood(0, [], [0])
    with pytest.raises(ValueError, match=text):
        call(dests, nets)
