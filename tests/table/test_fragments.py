"""The reassembly table against a model in a page of Python: the same answer to every fragment of long random runs, the
same datagrams, the same account."""

from __future__ import annotations

import random
from types import ModuleType
from typing import NamedTuple

import pytest

from tests.probe import HERE, build
from tests.support import SLOW_BUILD
from vxlanfast._ext.table.fragments import FragmentTable

HELD, COMPLETE, DUPLICATE, OVERLAP, BAD = range(5)
BLOCK_LEN, BLOCKS, PIECES, DATAGRAMS, PIECES_MAX = 512, 6656, 6656, 4096, 64


@pytest.fixture(scope="module")
def probe() -> ModuleType:
    return build(HERE / "table_probe.pyx")


def blocks_of(n: int) -> int:
    return -(-n // BLOCK_LEN)


class Piece(NamedTuple):
    off: int
    data: bytes

    @property
    def end(self) -> int:
        return self.off + len(self.data)


class Datagram:
    def __init__(self, now_ns: int) -> None:
        self.first_ns = now_ns
        self.pieces: list[Piece] = []
        self.total = 0
        self.header: bytes | None = None
        self.largest = self.marks = self.flags = 0
        self.dead = False

    @property
    def blocks(self) -> int:
        return sum(blocks_of(len(p.data)) for p in self.pieces) + blocks_of(len(self.header or b""))


class Model:
    """RFC 791 §3.2, RFC 5722 §3, and a memory of fixed size whose oldest datagram gives way."""

    def __init__(self, timeout_ns: int) -> None:
        self.timeout_ns = timeout_ns
        self.datagrams: dict[int, Datagram] = {}  # in the order they began
        self.tally = dict.fromkeys(("completed", "merged", "expired", "evicted", "overlapped"), 0)
        self.blocks = self.pieces = 0  # in use

    def remove(self, ident: int) -> Datagram:
        gone = self.datagrams.pop(ident)
        self.blocks -= gone.blocks
        self.pieces -= len(gone.pieces)
        return gone

    def kill(self, ident: int) -> int:
        dead = self.datagrams[ident]
        self.blocks -= dead.blocks
        self.pieces -= len(dead.pieces)
        dead.pieces, dead.header, dead.dead = [], None, True
        self.tally["overlapped"] += 1
        return OVERLAP

    def add(
        self, ident: int, off: int, data: bytes, more: bool, header: bytes, now_ns: int, packet_len: int, marks: int,
        flags: int,
    ) -> tuple[int, tuple[bytes, int, int, int] | None]:  # fmt: skip
        while self.datagrams:
            oldest = next(iter(self.datagrams))
            if now_ns - self.datagrams[oldest].first_ns <= self.timeout_ns:
                break
            self.tally["expired"] += len(self.remove(oldest).pieces)
        g, end = self.datagrams.get(ident), off + len(data)
        if not data or end > 65535 or (more and len(data) % 8) or (g and len(g.pieces) == PIECES_MAX):
            return BAD, None
        if g and g.dead:
            return OVERLAP, None
        if g:
            if any(p.off == off and p.end == end for p in g.pieces):
                return DUPLICATE, None
            if any(p.off < end and off < p.end for p in g.pieces):
                return self.kill(ident), None
            if not more and (g.total or any(p.off >= off for p in g.pieces)):
                return self.kill(ident), None
            if more and g.total and end > g.total:
                return self.kill(ident), None
        want = blocks_of(len(data)) + (blocks_of(len(header)) if off == 0 else 0)
        while (
            self.blocks + want > BLOCKS
            or self.pieces == PIECES
            or (not g and len(self.datagrams) == DATAGRAMS)
        ):
            victim = next(key for key in self.datagrams if key != ident)
            self.tally["evicted"] += len(self.remove(victim).pieces)
        if not g:
            g = self.datagrams[ident] = Datagram(now_ns)
        g.pieces.append(Piece(off, data))
        g.largest, g.flags = max((g.largest, g.flags), (packet_len, flags))
        g.marks |= marks
        self.pieces += 1
        self.blocks += want
        if not more:
            g.total = end
        if off == 0:
            g.header = header
        if not g.total or sum(len(p.data) for p in g.pieces) != g.total:
            return HELD, None
        self.remove(ident)
        self.tally["completed"] += 1
        self.tally["merged"] += len(g.pieces)
        return COMPLETE, (b"".join(p.data for p in sorted(g.pieces)), g.largest, g.marks, g.flags)

    def counters(self) -> dict[str, int]:
        return {**self.tally, "waiting": self.pieces}


def run(
    probe: ModuleType, seed: int, count: int, *, idents: int, sizes: list[int], step_ns: int, offsets: int
) -> dict[str, int]:
    """The table and the model through ``count`` random fragments of which many fit together."""
    rng = random.Random(seed)
    timeout = 1000
    table, model = FragmentTable(timeout_ns=timeout, seed=seed), Model(timeout)
    headers = {ident: rng.randbytes(rng.choice((14, 34, 60, 511, 512))) for ident in range(idents)}
    now = 0
    for _ in range(count):
        now += rng.randrange(step_ns + 1)
        ident, size = rng.randrange(idents), rng.choice(sizes)
        off = rng.randrange(offsets) * size if size % 8 == 0 and size else rng.randrange(offsets) * 8
        more = rng.random() < 0.7
        data = rng.randbytes(size)
        of_packet = rng.choice((60, 1500, 65575)), 1 << rng.randrange(4), rng.choice((0, 0x4000))
        told = data, more, headers[ident], now, *of_packet
        result, whole = probe.add(table, ident, off, *told)
        assert (result, whole and (whole[1], *whole[4:])) == model.add(ident, off, *told)
        if whole:
            assert whole[0] == headers[ident]
            assert whole[2:4] == (14, 3)
    assert table.counters() == model.counters()
    return model.counters()


@pytest.mark.parametrize("seed", range(6))
def test_few_datagrams(probe: ModuleType, seed: int) -> None:
    """Collisions of every kind: overlaps, duplicates, two ends, completions, expiries."""
    counters = run(
        probe, seed, 4000 if SLOW_BUILD else 20_000, idents=12, sizes=[8, 8, 8, 16, 3], step_ns=20, offsets=4
    )
    assert all(counters[name] for name in ("completed", "expired", "overlapped"))


@pytest.mark.parametrize("seed", range(3))
def test_full_of_blocks(probe: ModuleType, seed: int) -> None:
    counters = run(
        probe, seed, 8000, idents=6000, sizes=[1480, 512, 513, 8, 4096], step_ns=0, offsets=3
    )  # fmt: skip
    assert counters["evicted"]


def test_full_of_datagrams(probe: ModuleType) -> None:
    counters = run(probe, 5, 9000, idents=20_000, sizes=[8], step_ns=0, offsets=40)
    assert counters["evicted"]


@pytest.mark.parametrize("seed", range(2))
def test_full_of_pieces(probe: ModuleType, seed: int) -> None:
    """And datagrams of 64 fragments, which may have no more."""
    run(probe, seed, 3000 if SLOW_BUILD else 25_000, idents=150, sizes=[8], step_ns=0, offsets=80)


def test_the_greatest_datagram(probe: ModuleType) -> None:
    table = FragmentTable()
    size = 1024
    payload = random.Random(0).randbytes(65535)
    last = 65535 // size * size
    for off in range(0, last, size):
        assert probe.add(table, 1, off, payload[off : off + size], True, b"h" * 512, 0) == (HELD, None)
    assert probe.add(table, 1, last, payload[last:], False, b"", 0) == (
        COMPLETE,
        (b"h" * 512, payload, 14, 3, 0, 0, 0),
    )
    assert probe.add(table, 1, 0, b"12345678", True, b"h" * 513, 0) == (
        BAD,
        None,
    )  # more headers than are kept
    assert table.counters()["waiting"] == 0


def test_no_leak(probe: ModuleType) -> None:
    """After any of those runs all memory is there again: what fitted at the start fits at the end."""

    def fill(table: FragmentTable, now: int) -> int:
        """Datagrams of the largest kind that wait together."""
        before = table.counters()["evicted"]
        for n in range(1000):
            probe.add(table, 10_000 + n, 8, bytes(4096), True, b"", now)
            if table.counters()["evicted"] != before:
                return n
        raise AssertionError

    fresh = fill(FragmentTable(), 0)
    assert fresh == BLOCKS // 8
    rng = random.Random(9)
    table = FragmentTable(timeout_ns=1000)
    for n in range(20_000):
        probe.add(
            table,
            rng.randrange(300),
            rng.randrange(6) * 8,
            rng.randbytes(rng.choice((8, 16, 5))),
            rng.random() < 0.7,
            b"h",
            n,
        )
    probe.add(table, 1, 8, b"x" * 8, True, b"", 10**9)  # all others expire
    probe.add(table, 1, 8, b"x" * 16, True, b"", 10**9)  # and this one overlaps itself away
    assert table.counters()["waiting"] == 0
    assert fill(table, 10**9) == fresh
