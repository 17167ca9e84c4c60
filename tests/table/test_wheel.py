"""Timers: each is met once, never early and at most a tick late, however time goes on."""

from __future__ import annotations

import random
from array import array

import pytest

from vxlanfast._ext.table.wheel import SLOTS, TICK_NS, Wheel

S = 1_000_000_000


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("budget", [3, 1 << 30])
def test_against_a_dictionary(seed: int, budget: int) -> None:
    """Started, put off, cancelled, met: as a dictionary of times says; with a small budget later, and never lost."""
    rng = random.Random(seed)
    wheel, now, times = Wheel(300), rng.randrange(1 << 50), {}
    out = array("I", bytes(4 * 7))
    for _ in range(6000):
        number, act = rng.randrange(300), rng.random()
        if act < 0.4:
            times[number] = now + rng.choice((0, 1, S // 3, 60 * S, 900 * S, 5000 * S))
            wheel.set(number, times[number], now)
        elif act < 0.6 and number in times:
            times[number] = max(times[number], now + rng.randrange(1000 * S))
            wheel.put_off(number, times[number])
        elif act < 0.65:
            assert wheel.cancel(number) == (times.pop(number, None) is not None)
        now += rng.choice((0, 0, 1000, TICK_NS // 2, S, 40 * S, 2000 * S if rng.random() < 0.02 else 0))
        met = list(out[: wheel.due(now, out, budget)])
        for one in met:
            assert times.pop(one) <= now
        assert len(wheel) == len(times)
        if budget > 3 and len(met) < 7:
            assert all(when > now - TICK_NS for when in times.values()), "late by more than a tick"
    while times:
        now += 100 * S
        for one in out[: wheel.due(now, out)]:
            assert times.pop(one) <= now
    assert len(wheel) == 0


@pytest.mark.parametrize("ahead_s", [2, 10, 60, 120, 300, 900, 1023, 1024, 1025, 100_000])
def test_a_tick_before_and_a_tick_behind(ahead_s: int) -> None:
    """Not met a nanosecond early; met within a tick of its time."""
    wheel, now, out = Wheel(1), 1_700_000_000 * S + 12345, array("I", [0])
    wheel.set(0, now + ahead_s * S, now)
    assert wheel.due(now + ahead_s * S - 1, out) == 0
    assert wheel.due(now + ahead_s * S + TICK_NS, out) == 1 and len(wheel) == 0


def test_keeping_alive_costs_nothing() -> None:
    """A timer put off a thousand times is met a few times, not a thousand."""
    wheel, out = Wheel(1), array("I", [0])
    wheel.set(0, 300 * S, 0)
    for second in range(1, 1000):
        wheel.put_off(0, (second + 300) * S)
        assert wheel.due(second * S, out) == 0
    assert wheel.met <= 5
    assert wheel.due(1300 * S, out) == 1


def test_a_million_at_once() -> None:
    """They come in portions, as large as there is room for, and all of them come."""
    count = 200_000
    wheel, out = Wheel(count), array("I", bytes(4 * 1024))
    for number in range(count):
        wheel.set(number, 60 * S, 0)
    seen = set()
    while n := wheel.due(61 * S, out):
        assert n <= 1024
        seen.update(out[:n])
    assert len(seen) == count and wheel.met == count and wheel.due(2000 * S, out) == 0


def test_a_clock_that_jumps() -> None:
    """Centuries on, everything is due, and nothing counts the slots between."""
    wheel, out = Wheel(4), array("I", bytes(16))
    for number in range(4):
        wheel.set(number, number * 400 * S, 0)
    assert sorted(out[: wheel.due(9_000_000_000 * S, out)]) == [0, 1, 2, 3]
    wheel.set(1, 9_000_000_001 * S, 9_000_000_000 * S)
    assert wheel.due(9_000_000_001 * S - 1, out) == 0 and wheel.due(9_000_000_002 * S, out) == 1


def test_what_callers_get_wrong() -> None:
    with pytest.raises(ValueError, match="capacity = 0: 1 to 1073741824 timers"):
        Wheel(0)
    wheel = Wheel(2)
    with pytest.raises(ValueError, match="timer 2: below 2"):
        wheel.set(2, 0, 0)
    for number in (1, 2):
        with pytest.raises(ValueError, match=f"timer {number}: it does not run"):
            wheel.put_off(number, 5)
        assert wheel.cancel(number) is False
    assert wheel.due(10**18, array("I", [0])) == 0 and wheel.due(10**18, array("I")) == 0
    assert SLOTS * TICK_NS == 1024 * S
