"""Matches against a list of them: what goes to which service, whatever was added, removed and grown."""

from __future__ import annotations

import random
from typing import Any

import pytest

from vxlanfast._ext.table.match import MatchTable
from vxlanfast._ext.table.sctpstate import NAMES, TIMEOUTS_S, SctpState, step
from vxlanfast._ext.table.service import ServiceTable

Row = tuple[int, bytes, int, int, int, int]  # domain, address, protocol, first, last, service


def found(rows: list[Row], domain: int, addr: bytes, proto: int, port: int) -> int | None:
    """One port before a range, ranges in the order they were set, then the address with any."""
    here = [row for row in rows if row[:2] == (domain, addr)]
    for row in here:
        if row[2] == proto and row[3] == row[4] == port:
            return row[5]
    for row in here:
        if row[2] == proto and row[3] < row[4] and row[3] <= port <= row[4]:
            return row[5]
    return next((row[5] for row in here if row[2] == 0), None)


@pytest.mark.parametrize("seed", range(4))
def test_against_a_list(seed: int) -> None:
    rng = random.Random(seed)
    table = ServiceTable(4, seed=seed)
    matches = table.matches
    rows: dict[int, Row] = {}
    addresses = [bytes([10, 0, 0, n]) for n in range(3)] + [bytes(15) + bytes([n]) for n in range(2)]
    for _ in range(3000):
        if rows and rng.random() < 0.45:
            number = rng.choice(list(rows))
            matches.remove(number)
            del rows[number]
            continue
        domain, addr, proto = rng.randrange(2), rng.choice(addresses), rng.choice((0, 6, 17))
        first = rng.randrange(1, 400) if proto else 0
        last = first + (rng.randrange(40) if proto and rng.random() < 0.5 else 0)
        row = domain, addr, proto, first, last, rng.randrange(1000)
        kind = first == last
        taken = [r for r in rows.values() if r[:3] == row[:3] and (r[3] == r[4]) == kind]
        if any(r[3] <= last and first <= r[4] for r in taken):
            with pytest.raises(ValueError, match="given twice"):
                matches.add(domain, addr, row[5], proto=proto, port=first, last=last)
            continue
        rows[matches.add(domain, addr, row[5], proto=proto, port=first, last=last)] = row
        assert len(matches) == len(rows)
        for _ in range(5):
            ask = rng.randrange(2), rng.choice(addresses), rng.choice((6, 17, 132)), rng.randrange(1, 450)
            assert table.find_service(*ask) == found(list(rows.values()), *ask)
    services = {row[5] for row in rows.values()}
    for service in services:
        matches.remove_service(service)
    assert len(matches) == 0 and matches.rows() == []


def test_row() -> None:
    matches = MatchTable()
    number = matches.add(3, bytes(4), 7, proto=6, port=80, last=90, target=8000, sources=[(bytes(4), 8), (bytes(4), 0)])
    assert matches.rows() == [
        {
            "match": number,
            "domain": 3,
            "addr": bytes(4),
            "proto": 6,
            "port": 80,
            "last": 90,
            "target": 8000,
            "service": 7,
            "n_sources": 2,
        }
    ]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"domain": 65535}, "domain 65535"),
        ({"addr": bytes(5)}, "5 bytes of address"),
        ({"port": 90, "last": 80}, "ports 90 to 80"),
        ({"proto": 0}, "both, or neither"),
        ({"port": 0}, "both, or neither"),
        ({"target": 65530, "last": 95}, "target 65530"),
        ({"sources": [(bytes(16), 8)]}, "source /8 of 16 bytes"),
        ({"sources": [(bytes(4), 33)]}, "source /33"),
    ],
)
def test_what_callers_get_wrong(change: dict[str, Any], text: str) -> None:
    right: dict[str, Any] = {"domain": 1, "addr": bytes(4), "service": 1, "proto": 6, "port": 80}
    matches = MatchTable()
    with pytest.raises(ValueError, match=text):
        matches.add(**{**right, **change})
    with pytest.raises(ValueError, match="match 9"):
        matches.remove(9)
    assert len(matches) == 0


def test_states_of_sctp() -> None:
    """The handshake by its chunks, from either side; what does not belong to it changes nothing."""
    state = SctpState.ASSOC_NONE
    for chunk, reverse, then in [
        (1, False, "INIT"), (10, False, "INIT"), (2, True, "COOKIE"), (10, False, "COOKIE"), (11, False, "COOKIE"),
        (11, True, "ESTABLISHED"), (1, False, "ESTABLISHED"), (0, False, "ESTABLISHED"), (7, False, "SHUTDOWN"),
        (8, True, "SHUTDOWN"), (14, False, "CLOSED"), (10, False, "CLOSED"), (1, False, "INIT"), (6, True, "CLOSED"),
    ]:  # fmt: skip
        state = step(state, chunk, reverse=reverse)
        assert NAMES[state] == then
    assert set(TIMEOUTS_S) == set(NAMES)
    with pytest.raises(ValueError, match="state 6"):
        step(6)
