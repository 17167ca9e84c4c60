"""The connection table against a dictionary: found by either direction, whatever came, went and grew."""

from __future__ import annotations

import random
from ipaddress import ip_address
from typing import Any

import pytest

from vxlanfast._ext.table.conn import BUCKET_LEN, ENTRY_LEN, ConnTable

S = 1_000_000_000
Key = tuple[int, int, bytes, int, bytes, int]


def pair(rng: random.Random, six: bool = False) -> tuple[Key, Key]:
    """Keys of a connection and of its server's packets."""
    a, b, c, d = (rng.randbytes(16 if six else 4) for _ in range(4))
    proto = rng.choice((6, 17, 132))
    return (
        (rng.randrange(3), proto, a, rng.randrange(65536), b, rng.randrange(65536)),
        (rng.randrange(3), proto, c, rng.randrange(65536), d, rng.randrange(65536)),
    )


def test_sizes() -> None:
    """What an entry costs: two cache lines, and one for seven references."""
    assert (ENTRY_LEN, BUCKET_LEN) == (128, 64)


@pytest.mark.parametrize("seed", range(4))
def test_against_a_dictionary(seed: int) -> None:
    rng = random.Random(seed)
    table = ConnTable(3000, seed=seed)
    alive: dict[int, tuple[Key, Key]] = {}
    for step in range(12_000):
        if rng.random() < (0.7 if step % 6000 < 4000 else 0.2):
            keys = pair(rng, rng.random() < 0.5)
            if len(alive) == 3000:
                with pytest.raises(OverflowError, match="3000"):
                    table.add(*keys)
                continue
            number = table.add(*keys)
            assert number not in alive
            alive[number] = keys
            with pytest.raises(ValueError, match="there is a connection"):
                table.add(*keys)
        elif alive:
            number = rng.choice(list(alive))
            forward, reverse = alive.pop(number)
            table.remove(number)
            assert table.lookup(*forward) is None and table.lookup(*reverse) is None
        if step % 1000 == 0:
            assert table.check() is None
            for number, (forward, reverse) in alive.items():
                assert table.lookup(*forward) == (number, False)
                assert table.lookup(*reverse) == (number, True)
                domain, proto, src, sport, dst, dport = forward
                assert table.lookup(domain + 1, proto, src, sport, dst, dport) is None
                assert table.lookup(domain, proto, dst, dport, src, sport) is None
    assert len(table) == len(alive) == len(list(table.rows()))
    for number in list(alive):
        table.remove(number)
    assert table.check() is None and table.overflows == 0


def test_row() -> None:
    table = ConnTable(4)
    v6 = [bytes(15) + bytes([n]) for n in range(4)]
    number = table.add((1, 6, v6[0], 1000, v6[1], 80), (2, 6, v6[2], 8080, v6[3], 2000), now_ns=S, timeout_ns=60 * S)
    row: dict[str, Any] = table.row(number)
    assert (row["client"], row["virtual"], row["address"], row["masq"]) == tuple(v6)
    assert (row["cport"], row["vport"], row["port"], row["mport"]) == (1000, 80, 8080, 2000)
    assert (row["domain"], row["server_domain"], row["expires_ns"]) == (1, 2, 61 * S)
    assert table.row(number + 1) is None
    with pytest.raises(ValueError, match="connection 3"):
        table.remove(3)


def test_in_words() -> None:
    """Addresses as Python writes them, whatever they are; what is over is not there."""
    rng = random.Random(5)
    table = ConnTable(4000)
    odd = [b"\0" * 16, b"\0" * 15 + b"\1", bytes(10) + b"\xff\xff\xc0\0\2\1", bytes(12) + b"\xc0\0\2\1"]
    odd += [bytes.fromhex("20010db8000000000001000000000001"), bytes.fromhex("20010db8000000010000000000000000")]
    for n in range(1500):
        forward, reverse = pair(rng, n % 2 == 0)
        if n % 2 == 0:  # runs of zeros
            forward = (*forward[:2], bytes(rng.choice((0, 0, 1, 255)) for _ in range(16)), *forward[3:])
            reverse = (*reverse[:2], odd[n // 2 % len(odd)], *reverse[3:])
        if table.lookup(*forward) is None and table.lookup(*reverse) is None:
            table.add(forward, (reverse[0], forward[1], *reverse[2:]), now_ns=S, timeout_ns=(1 + n % 3) * S)
    names: dict[int, tuple[str, tuple[str, ...]]] = {6: ("TCP", ("NONE",)), 17: ("UDP", ())}
    rows = [row for row in table.rows() if row["expires_ns"] > 2 * S]
    assert 900 < len(rows) < 1100
    for row, words in zip(rows, table.in_words(2 * S, names), strict=True):
        name = names.get(row["proto"], (str(row["proto"]), ()))[0]
        assert words == {
            "protocol": name, "kind": "masqueraded", "state": "NONE" if row["proto"] == 6 else name,
            "left_s": (row["expires_ns"] - 2 * S) // S, "client": str(ip_address(row["client"])),
            "cport": row["cport"], "virtual": str(ip_address(row["virtual"])), "vport": row["vport"],
            "server": str(ip_address(row["address"])), "port": row["port"], "masquerade": None,
            "mport": row["mport"], "answered": False,
        }  # fmt: skip


@pytest.mark.parametrize("bad", [0, 1 << 29])
def test_capacity(bad: int) -> None:
    with pytest.raises(ValueError, match="capacity"):
        ConnTable(bad)


def test_memory_is_taken_as_it_is_used() -> None:
    """A table for ten million connections costs next to nothing until they come."""
    table = ConnTable(10_000_000)
    assert table.memory < 10_000
    rng = random.Random(1)
    for _ in range(1000):
        table.add(*pair(rng))
    assert table.memory < 1000 * (128 + 2 * 64)


def test_colliding_tuples_are_spread() -> None:
    """Tuples made to fall into few buckets under one key are spread under another one."""
    known, unknown = ConnTable(1 << 14, seed=1), ConnTable(1 << 14, seed=2)
    tuples = ((0, 6, bytes([10, 0, n & 255, n >> 8 & 255]), n >> 16, bytes(4), 80) for n in range(5 << 18))
    colliding = [key for key in tuples if known.hash(*key) & 1023 == 7][:1000]
    assert len(colliding) == 1000
    for number, key in enumerate(colliding):
        answer = (1, 6, bytes(4), 80, number.to_bytes(4, "big"), number)
        known.add(key, answer)
        unknown.add(key, answer)
    assert known.longest > 70 and unknown.longest <= 3
