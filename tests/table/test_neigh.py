"""The neighbour table against a dictionary."""

from __future__ import annotations

import random

import pytest

from vxlanfast._ext.table.neigh import NeighTable


@pytest.mark.parametrize("seed", range(5))
def test_as_a_dictionary(seed: int) -> None:
    """Any order of setting and deleting, up to the last place: what is there is found, what is gone is not."""
    rng = random.Random(seed)
    table, model = NeighTable(200, seed=seed), {}
    keys = [(net, rng.randbytes(size)) for net in (0, 1, 65535) for size in (4, 16) for _ in range(60)]
    keys += [(0, b"\1\2\3\4"), (0, b"\1\2\3\4" + bytes(12))]  # the same bytes in either family are two
    for _ in range(5000):
        key = rng.choice(keys)
        if rng.random() < 0.6:
            if key not in model and len(model) == 200:
                with pytest.raises(OverflowError, match="all 200 entries are taken"):
                    table.set(*key, bytes(6))
                continue
            model[key] = rng.randbytes(6)
            table.set(*key, model[key])
        else:
            assert table.delete(*key) == (model.pop(key, None) is not None)
        assert len(table) == len(model)
    assert all(table.get(*key) == model.get(key) for key in keys)
    assert {(row["net"], row["addr"]): row["mac"] for row in table.rows()} == model
    assert list(table.walk()) == table.rows()
    assert all((table.entry(*key) or {"mac": None})["mac"] == model.get(key) for key in keys)
    assert {row["addr"] for row in table.rows(1)} == {addr for net, addr in model if net == 1}


def test_flags() -> None:
    """Router, gateway and the place of the MAC stand in the row."""
    table = NeighTable(4)
    table.set(3, bytes(15) + b"\1", b"abcdef", router=True, dest=9)
    table.set(3, b"\x0a\0\0\1", b"ghijkl", gateway=True)
    rows = {row["addr"]: (row["router"], row["gateway"], row["dest"]) for row in table.rows()}
    assert rows == {bytes(15) + b"\1": (True, False, 9), b"\x0a\0\0\1": (False, True, None)}


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda t: t.set(0, b"12345", bytes(6)), "address of 5 bytes: 4 or 16"),
        (lambda t: t.set(0, b"1234", bytes(5)), "MAC of 5 bytes: 6"),
        (lambda t: NeighTable(0), "capacity = 0: 1 to 268435456 entries"),
    ],
)
def test_what_callers_get_wrong(call, text) -> None:
    with pytest.raises(ValueError, match=text):
        call(NeighTable(4))
