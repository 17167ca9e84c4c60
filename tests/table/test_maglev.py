"""Maglev's table: as plain Python fills it, fair by weight, and hardly moved by what comes and goes."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vxlanfast._ext.table.maglev import SLOTS, share_out

KEYS = random.Random(4)
FOUR_HUNDRED = [KEYS.getrandbits(64) for _ in range(400)]


def owners(entries: list[tuple[int, int]], n_slots: int = SLOTS) -> list[int | None]:
    """The keys that have the slots."""
    return [None if at is None else entries[at][0] for at in share_out(entries, n_slots)]


@given(
    keys=st.lists(st.integers(0, (1 << 64) - 1), min_size=1, max_size=30, unique=True),
    n_slots=st.sampled_from([2, 3, 31, 251, 509]),
    data=st.data(),
)
def test_shares(keys: list[int], n_slots: int, data: st.DataObject) -> None:
    """Turns evenly spread, counted by plain fractions; in any order of entries, at any multiple of the weights."""
    weights = data.draw(st.lists(st.sampled_from([0, 1, 2, 3, 10, 100]), min_size=len(keys), max_size=len(keys)))
    entries = list(zip(keys, weights, strict=True))
    table = owners(entries, n_slots)
    able = sorted((key, weight) for key, weight in entries if weight)
    if not able:
        assert set(table) == {None}
        return
    most = max(weights)
    turns = sorted(
        (floor(Fraction(k * most, weight)), place) for place, (_, weight) in enumerate(able) for k in range(n_slots)
    )
    assert Counter(table) == Counter(able[place][0] for _, place in turns[:n_slots])
    assert owners(entries[::-1], n_slots) == table
    assert owners([(key, 7 * weight) for key, weight in entries], n_slots) == table


def test_one_of_400_goes() -> None:
    """All but its own slots stay, but for a hundredth; and shares are even."""
    entries = [(key, 1) for key in FOUR_HUNDRED]
    before = owners(entries)
    count = Counter(before)
    assert len(count) == 400 and max(count.values()) * 400 / SLOTS <= 1.02
    for gone in range(0, 400, 57):
        after = owners(entries[:gone] + entries[gone + 1 :])
        key = entries[gone][0]
        others = [(old, new) for old, new in zip(before, after, strict=True) if old != key]
        assert sum(old != new for old, new in others) <= 0.02 * len(others)
        spread = Counter(new for old, new in zip(before, after, strict=True) if old == key)
        assert max(spread.values()) <= 8  # of 164: nobody inherits them all


def test_one_weight_of_400_changes() -> None:
    """Half the weight, half the slots: whose they are not moves little."""
    entries = [(key, 100) for key in FOUR_HUNDRED]
    before = owners(entries)
    key = entries[123][0]
    after = owners([*entries[:123], (key, 50), *entries[124:]])
    assert Counter(after)[key] == pytest.approx(Counter(before)[key] / 2, abs=1)
    moved = sum(old != new for old, new in zip(before, after, strict=True) if old != key)
    assert moved <= 0.02 * SLOTS


def test_extreme_weights() -> None:
    """The lightest has a slot still; the heaviest its share."""
    entries = [(FOUR_HUNDRED[0], 65535), *((key, 1) for key in FOUR_HUNDRED[1:])]
    count = Counter(owners(entries))
    assert min(count.values()) >= 1 and len(count) == 400
    assert count[FOUR_HUNDRED[0]] / SLOTS == pytest.approx(65535 / 65934, abs=0.001)
    assert set(owners([(1, 65535), (2, 65534), (3, 65533)])) == {1, 2, 3}


def test_what_callers_get_wrong() -> None:
    for n_slots in (0, 1, 4, 65536):
        with pytest.raises(ValueError, match=f"{n_slots} slots: a prime number"):
            share_out([(1, 1)], n_slots)
    assert set(share_out([])) == {None}
