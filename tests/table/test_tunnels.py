"""The table of tunnels: a dictionary in all but memory."""

from __future__ import annotations

import random
from types import ModuleType

import pytest

from tests.probe import HERE, build
from vxlanfast._ext.table.tunnels import TunnelTable


@pytest.fixture(scope="module")
def probe() -> ModuleType:
    return build(HERE / "table_probe.pyx")


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
@pytest.mark.parametrize("keys", [1, 100, 5000])
def test_finds_what_a_dictionary_finds(probe: ModuleType, seed: int, keys: int) -> None:
    rng = random.Random(keys)
    table, known = TunnelTable(seed=seed), {}
    for _ in range(keys * 3):
        key = (rng.randrange(keys), rng.randrange(3), rng.choice((4, 6)))
        at, is_new = probe.find(table, *key)
        assert is_new == (key not in known)
        assert at == known.setdefault(key, len(known))
    assert len(table) == len(known)
    rows = table.rows()
    assert [row["vni"] for row in rows] == [vni for vni, _, _ in known]
    assert [len(row["src"]) for row in rows] == [4 if version == 4 else 16 for _, _, version in known]
    assert table.rows(len(known) - 1) == rows[-1:]
    assert table.rows(len(known)) == []


@pytest.mark.parametrize("limit", [0, 1, 255, 256, 1000])
def test_a_full_table_has_one_place_for_the_rest(probe: ModuleType, limit: int) -> None:
    table = TunnelTable(limit=limit)
    for n in range(limit):
        assert probe.find(table, n, 1) == (n, True)
    assert probe.find(table, 5000, 1) == (limit, True)
    assert probe.find(table, 5001, 1) == (limit, False)
    for n in range(limit):
        assert probe.find(table, n, 1) == (n, False)
    assert len(table) == limit + 1
    assert table.rows(limit)[0]["vni"] is None


def test_clear(probe: ModuleType) -> None:
    table = TunnelTable()
    for n in range(1000):
        probe.find(table, n, n)
    table.clear()
    assert (len(table), table.rows()) == (0, [])
    for n in range(1000):
        assert probe.find(table, 999 - n, n) == (n, True)


def test_many_of_the_same_hash(probe: ModuleType) -> None:
    """Keys that differ in one byte of many, and a table just before it doubles."""
    table = TunnelTable()
    keys = [
        (vni << bit & 0xFFFFFF, src << shift)
        for bit in (0, 8, 16)
        for vni in range(1, 40)
        for shift in (0, 8, 24)
        for src in (1, 2, 3)
    ]
    places = {key: probe.find(table, *key)[0] for key in keys}
    assert all(probe.find(table, *key) == (at, False) for key, at in places.items())
    assert len(table) == len(set(keys))
