"""What the routing mesh keeps under floods: its memory within bounds, everybody's connections, and new ones coming; and
what a table of millions does when it grows, ages, and is aimed at."""

from __future__ import annotations

import random
from collections import Counter
from time import perf_counter
from types import ModuleType

import pytest

from tests.mesh import (
    ACK,
    CLIENT,
    FIN,
    PSH,
    RST,
    SERVER,
    SYN,
    VIP,
    Director,
    S,
    Talk,
    broken,
    client,
    establish,
    in_batches,
    key,
    service,
    talks,
    tcp,
    udp,
)
from tests.probe import HERE, build
from tests.support import SLOW_BUILD
from vxlanfast import PacketBatch
from vxlanfast import Verdict as V
from vxlanfast._ext.table.conn import BUCKET_LEN, ENTRY_LEN, ConnTable

ROWS = 2048
MILLION = 20_480 if SLOW_BUILD else 1_001_472  # whole batches
BUDGET = 4096  # timers looked at before a batch


@pytest.fixture(scope="module")
def probe() -> ModuleType:
    return build(HERE / "conn_probe.pyx")


def memory_cap(connections: int) -> int:
    """Entries, and buckets for twice as many references, three of seven places taken, with those that overflow."""
    return connections * (ENTRY_LEN + 2 * BUCKET_LEN // 3 + 8) + 64 * BUCKET_LEN


def flow_of(n: int) -> Talk:
    """An honest client's connection, unlike those of ``talks``."""
    return Talk(client(500_000 + n // 50_000), 1024 + n % 50_000, seq=n * 31, ack=n * 17 + 1)


# --- SYN floods -----------------------------------------------------------------------------------------


def flood(probe: ModuleType, director: Director, syns: int, answered: int = 0) -> tuple[int, int, int]:
    """Spoofed SYNs, a million a second, among which one in a hundred packets is of an honest client, whose server
    answers a batch later, who goes on a batch later still, and is done in the next; of the spoofed ones, every
    ``answered``th batch is answered.

    Returns how many honest connections were begun, how many were opened, and the most memory the table has touched.
    """
    syn = tcp(CLIENT, client(1), 1024, VIP, 80, SYN)
    template = PacketBatch.from_frames([syn] * ROWS, port_in=director.ports[CLIENT])
    per_batch = ROWS // 100
    waiting: list[list[Talk]] = [[], []]  # for the server, for the client's last segment
    over: list[Talk] = []
    begun = opened = most = 0
    for number in range(syns // ROWS):
        now = 10 * S + number * ROWS * 1000
        batch = template.copy()
        probe.spoof(batch, number)
        batch.ts_ns[:] = _times(now)
        director.plane.process(batch)
        if answered and number % answered == 0:
            got = [bytes(batch.frame(i)) for i in batch.passed()]
            back = []
            for raw in got:
                src, sport, dst, dport = key(raw)
                back.append(tcp(SERVER, dst, dport, src, sport, SYN | ACK, 7, 8))
            director.batch(SERVER, back, now)
        director.send(CLIENT, [t.up(RST | ACK) for t in over], now)
        over = done = waiting.pop()
        for talk, raw in zip(done, director.send(CLIENT, [t.up(ACK) for t in done], now), strict=True):
            opened += raw is not None and key(raw)[2:] == talk.at
        answers = director.send(SERVER, [t.down(SYN | ACK) for t in waiting[0]], now)
        waiting = [[], [t for t, raw in zip(waiting[0], answers, strict=True) if raw is not None]]
        honest = [flow_of(begun + n) for n in range(per_batch)]
        begun += per_batch
        for talk, raw in zip(honest, director.send(CLIENT, [t.up(SYN) for t in honest], now), strict=True):
            if raw is not None:
                talk.served(raw)
                waiting[0].append(talk)
        most = max(most, director.conns.memory)
    return begun - 2 * per_batch, opened, most


_clock: dict[int, memoryview] = {}


def _times(now_ns: int) -> memoryview:
    _clock.clear()
    return _clock.setdefault(now_ns, memoryview(now_ns.to_bytes(8, "little") * ROWS).cast("q"))


@pytest.mark.parametrize("masq", [False, True])
@pytest.mark.parametrize("semantics", ["fixed", "ipvs"])
def test_a_million_spoofed_syns(probe: ModuleType, semantics: str, masq: bool) -> None:
    check_flood(probe, Director(service(masq=masq, servers=(2, 3)), semantics=semantics), MILLION)


def test_a_flood_does_not_take_all_ports(probe: ModuleType) -> None:
    """One server that is masqueraded has fewer ports than the table has room: connections that nobody opens give
    theirs."""
    check_flood(probe, Director(service(masq=True), connections=1 << 20), MILLION // 2)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(SLOW_BUILD, reason="minutes in a release build")
@pytest.mark.parametrize("masq", [False, True])
def test_a_hundred_million_spoofed_syns(probe: ModuleType, masq: bool) -> None:
    check_flood(probe, Director(service(masq=masq, servers=(2, 3))), 100 * MILLION)


def check_flood(probe: ModuleType, director: Director, syns: int) -> None:
    """The table keeps to its size, a thousand connections to their servers, and who comes gets in."""
    some = talks(1000)
    establish(director, some, 9 * S)
    rng = random.Random(1)
    begun, opened, most = flood(probe, director, syns, answered=16)
    print(f"{opened} of {begun} honest connections opened, {most >> 20} MiB at most, {director.mesh.evicted} evicted")
    assert most <= memory_cap(director.conns.capacity)
    assert begun > syns * 0.005 and opened >= 0.9 * begun
    assert broken(director, some, 10 * S + syns * 1000, rng) == 0
    assert director.conns.check() is None


def test_the_established_are_never_evicted() -> None:
    """A table full of connections that both ends have agreed on takes no more, and says so."""
    director = Director(service(servers=(2, 3)), connections=1000)
    some = talks(1000)
    establish(director, some, S)
    batch = director.batch(CLIENT, [tcp(CLIENT, client(9), 1024 + n, VIP, 80, SYN) for n in range(50)], S)
    assert batch.counts() == {V.DROP_CONN_FULL: 50}
    assert broken(director, some, S, random.Random(1)) == 0
    director.send(CLIENT, [t.up(RST | ACK) for t in some[:100]], S)
    more = [Talk(client(9), 5000 + n) for n in range(50)]
    establish(director, more, S)  # in place of those that are over, not of each other
    assert broken(director, [*some[100:], *more], S, random.Random(2)) == 0
    assert director.conns.check() is None


def test_short_connections_by_the_hundred_thousand() -> None:
    """A table full of connections that are over takes new ones in their place: all are opened, used and closed."""
    director = Director(service(servers=(2, 3)), connections=4096)
    count = 10_000 if SLOW_BUILD else 100_000
    for first in range(0, count, 500):
        some = talks(500, first=first)
        now = S + first * 1_000_000
        establish(director, some, now)
        assert broken(director, some[:50], now, random.Random(first)) == 0
        assert None not in director.send(CLIENT, [t.up(FIN | ACK) for t in some], now)
        assert None not in director.send(SERVER, [t.down(FIN | ACK) for t in some], now)
        assert None not in director.send(CLIENT, [t.up(ACK) for t in some], now)
    assert states(director) == {"TIME_WAIT": 4096} and director.mesh.evicted == count - 4096


# --- blind senders --------------------------------------------------------------------------------------


def blind(probe: ModuleType, director: Director, side: str, frames: list[bytes], count: int, now_ns: int) -> None:
    """``count`` segments like those, with sequence and acknowledgement numbers at random."""
    template = PacketBatch.from_frames(frames, ts_ns=now_ns, port_in=director.ports[side])
    for number in range(count // len(frames)):
        batch = template.copy()
        probe.spoof(batch, number, False)
        director.plane.process(batch)


def states(director: Director) -> Counter[str]:
    return Counter(row["state"] for row in director.plane.connections())


@pytest.mark.parametrize("side", [CLIENT, SERVER])
def test_a_million_blind_resets(probe: ModuleType, side: str) -> None:
    """Somebody who knows addresses and ports of a thousand connections, and not a number of theirs, tears down none."""
    director = Director(service(servers=(2, 3)))
    some = talks(1000)
    establish(director, some, S)
    assert broken(director, some, S, random.Random(1)) == 0
    if side == CLIENT:
        frames = [tcp(CLIENT, t.src, t.sport, VIP, 80, RST) for t in some]
    else:
        frames = [tcp(SERVER, *t.at, *t.seen, RST) for t in some]
    blind(probe, director, side, frames, MILLION, 2 * S)
    assert states(director) == {"ESTABLISHED": 1000}
    assert director.mesh.forged >= MILLION // 1000 * 1000 - 10
    assert broken(director, some, 3 * S, random.Random(2)) == 0


@pytest.mark.parametrize("side", [CLIENT, SERVER])
def test_a_million_blind_segments_of_any_kind(probe: ModuleType, side: str) -> None:
    """The same with everything that a blind sender may try before: words, acknowledgements, ends, beginnings, in turn.
    He does not shift what is expected until a reset of his fits."""
    director = Director(service(servers=(2, 3)))
    some = talks(1000)
    establish(director, some, S)
    assert broken(director, some, S, random.Random(1)) == 0
    kinds = [PSH | ACK, ACK, FIN | ACK, RST, SYN, RST | ACK, PSH | ACK, RST]
    frames = [
        tcp(side, t.src, t.sport, VIP, 80, kind) if side == CLIENT else tcp(side, *t.at, *t.seen, kind)
        for kind in kinds for t in some
    ]  # fmt: skip
    blind(probe, director, side, frames, MILLION, 2 * S)
    assert states(director) == {"ESTABLISHED": 1000}
    assert broken(director, some, 3 * S, random.Random(2)) == 0
    # The ends themselves are still believed.
    director.send(CLIENT, [t.up(RST | ACK) for t in some[:500]], 4 * S)
    director.send(CLIENT, [t.up(FIN | ACK) for t in some[500:]], 4 * S)
    director.send(SERVER, [t.down(FIN | ACK) for t in some[500:]], 4 * S)
    assert states(director) == {"CLOSE": 500, "TIME_WAIT": 500}


def test_a_server_does_not_open_a_connection_alone() -> None:
    """A spoofed SYN for a connection that the server has in mind still: it says where that one is (RFC 5961 §4), which
    opens nothing; nor does a blind answer."""
    director = Director()
    (talk,) = talks(1)
    talk.served(director.send(CLIENT, [talk.up(SYN)], S)[0])
    challenge = tcp(SERVER, *talk.at, *talk.seen, ACK, 5_000_000, 77)
    assert director.send(SERVER, [challenge], S) != [None]
    director.send(CLIENT, [tcp(CLIENT, talk.src, talk.sport, VIP, 80, ACK, 1, 2)], S)
    assert states(director) == {"SYN_RECV": 1}


@pytest.mark.parametrize("answers", [False, True])
def test_a_blind_acknowledgement_opens_nothing(probe: ModuleType, answers: bool) -> None:
    """A spoofed SYN, and an ACK of what the sender has never seen: the connection is not taken for an open one, which
    would never be evicted."""
    director = Director(service(servers=(2, 3)))
    some = talks(1000)
    for talk, got in zip(some, director.send(CLIENT, [t.up(SYN) for t in some], S), strict=True):
        talk.served(got)
    if answers:
        assert None not in director.send(SERVER, [t.down(SYN | ACK) for t in some], S)
    frames = [tcp(CLIENT, t.src, t.sport, VIP, 80, flags) for flags in (ACK, PSH | ACK, FIN | ACK) for t in some]
    blind(probe, director, CLIENT, frames, MILLION, 2 * S)
    assert states(director) == {"SYN_RECV": 1000}
    if answers:  # and then the client itself
        assert None not in director.send(CLIENT, [t.up(ACK) for t in some], 3 * S)
        assert states(director) == {"ESTABLISHED": 1000}


def test_a_client_has_so_many_connections_and_no_more() -> None:
    """``source_limit``, exactly; others are not affected, and what ends makes room."""
    director = Director(service(servers=(2, 3)), source_limit=100)
    greedy = [Talk(client(1), 2000 + n) for n in range(100)]
    establish(director, greedy, S)
    batch = director.batch(CLIENT, [tcp(CLIENT, client(1), 3000 + n, VIP, 80, SYN) for n in range(50)], S)
    assert batch.counts() == {V.DROP_SOURCE_FULL: 50}
    others = [Talk(client(2 + n), 2000) for n in range(1000)]
    establish(director, others, S)
    director.send(CLIENT, [t.up(RST | ACK) for t in greedy[:30]], S)
    director.batch(CLIENT, [bytes(60)], 12 * S)  # ten seconds of CLOSE
    batch = director.batch(CLIENT, [tcp(CLIENT, client(1), 4000 + n, VIP, 80, SYN) for n in range(50)], 12 * S)
    assert batch.counts() == {V.PASS: 30, V.DROP_SOURCE_FULL: 20}
    assert broken(director, [*greedy[30:], *others], 12 * S, random.Random(1)) == 0


# --- tables of millions ---------------------------------------------------------------------------------


def test_a_million_tuples_made_to_collide(probe: ModuleType) -> None:
    """Whoever knows a table's key fills a few chains of it. Under another one they are as short as any, and as fast."""
    count, mask = (10_000, 15) if SLOW_BUILD else (1_000_000, 63)
    known, unknown, usual = (ConnTable(1 << 20, seed=seed) for seed in (1, 2, 3))
    tried = probe.collide(known, unknown, count, mask)
    assert probe.fill(usual, 0, count) == count == len(known) == len(unknown)
    assert known.longest > 7 and unknown.longest <= usual.longest + 1 <= 5
    assert unknown.memory < 1.01 * usual.memory
    began = perf_counter()
    assert probe.collided(known, unknown, mask, tried) == count
    middle = perf_counter()
    assert probe.collided(known, known, mask, tried) == count
    print(f"chains of {unknown.longest}: {middle - began:.2f} s; of {known.longest}: {perf_counter() - middle:.2f} s")


@pytest.mark.parametrize("put_off", [False, True])
def test_a_million_connections_end_at_once(probe: ModuleType, put_off: bool) -> None:
    """Timers met are so many a batch at most, whether they end something or had been put off, and all end in time."""
    director = Director(connections=1 << 20)
    conns = director.conns
    for part in range(100):  # within a second
        probe.fill(conns, part * (MILLION // 100), MILLION // 100, S + part * 10_000_000, 60 * S)
    count = len(conns)
    assert count == MILLION // 100 * 100
    if put_off:  # every other one; in each slot some end and some go on
        for number in range(0, count, 2):
            row_end = 61 * S + number * S // count
            conns.wheel.put_off(number, row_end + 60 * S)
    most, longest, batches, met = 0, 0.0, 0, conns.wheel.met
    now = 63 * S
    while len(conns) > (count // 2 if put_off else 0):
        began = perf_counter()
        director.batch(CLIENT, [bytes(60)], now)
        longest = max(longest, perf_counter() - began)
        most = max(most, conns.wheel.met - met)
        met = conns.wheel.met
        batches += 1
        assert batches <= count // BUDGET + 10
    print(f"{count} connections, {batches} batches, {most} timers met in one, {longest * 1e3:.2f} ms the longest")
    assert 0 < most <= BUDGET
    assert conns.check() is None


def test_a_table_that_grows_loses_nobody(probe: ModuleType) -> None:
    """From ten thousand to a million, while packets of all that are there already pass."""
    director = Director(service(protocol="udp", port=53, servers=range(2, 22)), connections=1 << 20)
    count = 100_000 if SLOW_BUILD else 1_000_000
    frames = [udp(CLIENT, client(n % 1000), 1024 + n // 1000, VIP, 53) for n in range(10_000)]
    first = [key(raw or b"") for part in in_batches(frames) for raw in director.send(CLIENT, part, S)]
    assert len(director.conns) == 10_000
    rng = random.Random(4)
    begun, longest, grown = 10_000, 0.0, 0
    while begun < count:
        grown = min(ROWS, count - begun)
        began = perf_counter()
        probe.fill(director.conns, begun, grown, 2 * S, 900 * S)
        longest = max(longest, perf_counter() - began)
        begun += grown
        asked = rng.sample(range(10_000), 64)
        for n, raw in zip(asked, director.send(CLIENT, [frames[n] for n in asked], 2 * S), strict=True):
            assert raw is not None and key(raw) == first[n]
    print(f"{longest * 1e3:.2f} ms the longest {ROWS} openings")
    assert len(director.conns) == count and director.conns.longest <= 4
    assert probe.found(director.conns, 10_000, count - 10_000) == count - 10_000
    lost = 0
    for part in range(0, 10_000, ROWS):
        got = director.send(CLIENT, frames[part : part + ROWS], 3 * S)
        lost += sum(raw is None or key(raw) != first[part + n] for n, raw in enumerate(got))
    assert lost == 0 and director.conns.check() is None


def test_ten_million_rewrites(probe: ModuleType) -> None:
    """Checksums changed by what changed are those of the whole packet; rewritten back, it is what it was."""
    assert probe.rewrite(100_000 if SLOW_BUILD else 10_000_000, 1) == (0, 0, 0)
