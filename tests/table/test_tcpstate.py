"""TCP's states at a director: the kernel's own, row by row, where its traces are; and every transition of the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import ROOT
from vxlanfast._ext.table.tcpstate import (
    EVENTS,
    NAMES,
    RULES,
    TIMEOUTS_S,
    TcpDirection,
    TcpState,
    is_active,
    step,
    timeout_s,
)

FLAGS = {"F": 0x01, "S": 0x02, "R": 0x04, "P": 0x08, "A": 0x10, "U": 0x20}


def states_file() -> Path | None:
    places = (parent / "shared" / "oracle" / "ipvs" / "traces" / "tcpstates" / "states.tsv" for parent in ROOT.parents)
    return next((place for place in places if place.is_file()), None)


def rows() -> list[tuple[str, str, str, str, str]]:
    """State, direction, flags, new state and its time left, as the kernel had them."""
    path = states_file()
    if path is None:
        return []
    found = []
    for line in path.read_text().splitlines():
        _, state, _, direction, flags, after, left = line.split("\t")
        if direction in ("in", "out", "in (sloppy)") and after in NAMES:
            found.append((state, direction, flags, after, left))
    return found


@pytest.mark.skipif(states_file() is None, reason="the traces of a kernel's IPVS are not here")
def test_as_the_kernel() -> None:
    """Every state that could be reached, both directions, twelve sets of flags; and the timeout that began anew."""
    seen = rows()
    assert len(seen) >= 192
    for state, direction, flags, after, left in seen:
        bits = 0 if flags == "none" else sum(FLAGS[flag] for flag in flags)
        way = TcpDirection.TCP_OUT if direction == "out" else TcpDirection.TCP_IN
        got = step(way, TcpState[f"TCP_{state}"], bits)
        assert got == TcpState[f"TCP_{after}"], (state, direction, flags)
        assert timeout_s(got) - 1 <= int(left) + 1 <= timeout_s(got), (state, direction, flags, left)


@pytest.mark.parametrize("direction", TcpDirection)
@pytest.mark.parametrize("event", EVENTS)
def test_every_transition(direction: TcpDirection, event: str) -> None:
    """Three directions, four events, eleven states; stronger flags decide, and none at all closes."""
    bit = {"SYN": 0x02, "FIN": 0x01, "ACK": 0x10, "RST": 0x04}[event]
    weaker = {"RST": 0xFF, "SYN": 0xFB, "FIN": 0xF9, "ACK": 0xF8}[event] & ~bit
    for state in TcpState:
        rule = RULES[direction, event]
        name = NAMES[state]
        want = TcpState[f"TCP_{rule.get(name, rule.get('*', name))}"]
        assert step(direction, state, bit) == want == step(direction, state, bit | weaker)
        assert step(direction, state, 0) == TcpState.TCP_CLOSE == step(direction, state, 0x28)


def test_numbers() -> None:
    """Timeouts by state; what counts as active; what is none of either."""
    assert {NAMES[state]: timeout_s(state) for state in TcpState} == TIMEOUTS_S
    active = {NAMES[state] for state in TcpState if is_active(state)}
    assert active == {"ESTABLISHED", "SYN_SENT", "SYN_RECV", "SYNACK"}
    for call in (lambda: step(3, 0, 0), lambda: step(0, 11, 0), lambda: timeout_s(11), lambda: timeout_s(-1)):
        with pytest.raises(ValueError, match="state"):
            call()
