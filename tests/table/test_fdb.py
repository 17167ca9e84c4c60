"""The forwarding table against a model in Python, and its promises one by one."""

from __future__ import annotations

import random
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import TRACE, many_inputs
from vxlanfast._ext.table.fdb import FdbTable

S = 1_000_000_000
NONE = 0xFFFFFFFF


def mac(n: int) -> bytes:
    return (0x02 << 40 | n).to_bytes(6, "big")


class Model:
    """What the table promises, in dictionaries: order of age to the second, limits, moves, ageing."""

    def __init__(self, capacity: int, limit: int, owner_limit: int, ageing: int) -> None:
        self.capacity, self.limit, self.owner_limit, self.ageing = capacity, limit, owner_limit, ageing
        self.entries: dict[tuple[int, bytes], dict] = {}
        self.clock = 0
        self.tick = 0

    def learned(self, **want):
        return [
            (key, e)
            for key, e in self.entries.items()
            if not e["static"] and all((key[0] if k == "net" else e[k]) == v for k, v in want.items())
        ]

    def oldest(self, dest):
        return min(self.learned(dest=dest), key=lambda item: item[1]["linked"])[0]

    def link(self, entry, now):
        self.clock += 1
        entry["linked"], entry["second"] = self.clock, now // S

    def age(self, now):
        if now < self.tick:
            return
        self.tick = (now // S + 1) * S
        for dest in {e["dest"] for _, e in self.learned()}:
            while mine := self.learned(dest=dest):
                key = self.oldest(dest)
                if now - self.entries[key]["updated"] < self.ageing:
                    break
                del self.entries[key]
                del mine

    def learn(self, net, address, dest, now):
        self.age(now)
        entry = self.entries.get((net, address))
        if entry is not None:
            if entry["dest"] == dest:
                if not entry["static"] and now > entry["updated"]:
                    entry["updated"] = now
                    if now // S != entry["second"]:
                        self.link(entry, now)
                return "known"
            if entry["static"]:
                return "refused"
            if now // S - entry["window"] >= 180:
                entry.update(window=now // S, moves=0, frozen=False)
            if entry["moves"] == 5 and not entry["frozen"]:
                entry.update(window=now // S, frozen=True)
            if entry["frozen"]:
                return "frozen"
            entry["moves"] += 1
            entry.update(dest=dest, updated=now)
            self.link(entry, now)
            return "moved"
        if len(self.learned(dest=dest)) >= self.owner_limit:
            del self.entries[self.oldest(dest)]
        if len(self.learned(net=net)) >= self.limit or len(self.entries) >= self.capacity:
            counts: dict[int, int] = {}
            for _, e in self.learned(net=net):
                counts[e["dest"]] = counts.get(e["dest"], 0) + 1
            if not counts:
                return "full"
            # Which of equals gives way is the table's business; the tests avoid ties by asking it.
            most = max(counts.values())
            return {dest for dest, n in counts.items() if n == most}
        self.put(net, address, dest, now, static=False)
        return "new"

    def put(self, net, address, dest, now, *, static):
        entry = {"dest": dest, "static": static, "updated": now, "moves": 0, "window": 0, "frozen": False}
        self.link(entry, now)
        self.entries[net, address] = entry

    def as_table(self):
        return {key: (e["dest"], "static" if e["static"] else "learned") for key, e in self.entries.items()}


def contents(table: FdbTable) -> dict[tuple[int, bytes], tuple[int, str]]:
    assert list(table.walk()) == table.rows()
    return {(row["net"], row["mac"]): (row["dest"], row["state"]) for row in table.rows()}


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["learn"] * 8 + ["set", "delete", "wait"]),
        st.integers(0, 30),  # MAC
        st.integers(0, 5),  # destination; two for each of three networks
        st.sampled_from([0, 1, S // 2, S, 40 * S]),
    ),
    max_size=150,
)


@settings(max_examples=20 if TRACE else 300, deadline=None)
@given(STEPS, st.integers(3, 40), st.integers(1, 12), st.integers(1, 8))
def test_as_the_model(steps, capacity, limit, owner_limit) -> None:
    """Any sequence of learning, setting, deleting and waiting leaves what the model has."""
    table = FdbTable(capacity, dests=6, learned_limit=limit, owner_limit=owner_limit, ageing_ns=100 * S, seed=3)
    model = Model(capacity, limit, owner_limit, 100 * S)
    now = 1_700_000_000 * S
    for act, number, dest, wait in steps:
        now += wait
        net, address = dest // 2, mac(number)
        if act == "learn":
            want = model.learn(net, address, dest, now)
            before = contents(table)
            got = table.learn_from(net, address, dest, now)
            if isinstance(want, set):  # somebody of those with the most made room
                assert got == "new"
                gone = before.keys() - contents(table).keys()
                assert len(gone) == 1
                (key,) = gone
                assert before[key][0] in want and key == model.oldest(before[key][0])
                del model.entries[key]
                model.put(net, address, dest, now, static=False)
            else:
                assert got == want
        elif act == "set":
            if (net, address) not in model.entries and len(model.entries) >= capacity:
                continue
            table.set(net, address, dest, now_ns=now)
            model.put(net, address, dest, now, static=True)
        elif act == "delete":
            assert table.delete(net, address) == (model.entries.pop((net, address), None) is not None)
        else:
            table.age_to(now)
            model.age(now)
        assert contents(table) == model.as_table()
        assert len(table) == len(model.entries)
        for each in range(6):
            assert table.learned_of(each) == len(model.learned(dest=each))
    keys = array("Q", [net << 48 | int.from_bytes(mac(n), "big") for net in range(3) for n in range(32)])
    found = array("I", bytes(4 * len(keys)))
    table.lookup(keys, found)
    entries = model.as_table()
    for key, dest in zip(keys, found, strict=True):
        address = (key & (1 << 48) - 1).to_bytes(6, "big")
        assert dest == entries.get((key >> 48, address), (NONE, ""))[0]
        assert table.get(key >> 48, address) == (None if dest == NONE else dest)


def test_full_to_the_last_entry() -> None:
    """Every place the capacity promises, found again; deletion leaves no trace of those that passed full buckets."""
    table = FdbTable(5000, dests=1, seed=1)
    rng = random.Random(5)
    addresses = [mac(rng.getrandbits(40)) for _ in range(5000)]
    for address in addresses:
        table.set(7, address, 0)
    assert len(table) == 5000
    with pytest.raises(OverflowError, match="all 5000 entries are authoritative"):
        table.set(7, mac(1 << 39), 0)
    for n, address in enumerate(addresses):
        assert table.get(7, address) == 0
        assert table.get(8, address) is None
        if n % 2:
            assert table.delete(7, address)
            assert not table.delete(7, address)
    for n, address in enumerate(addresses):
        assert table.get(7, address) == (None if n % 2 else 0)
    for address in addresses[::2]:
        table.delete(7, address)
    assert len(table) == 0 and table.rows() == []


@many_inputs
def test_spoofed_addresses() -> None:
    """A million of them: as many as the cap says stay, and authoritative entries still go in, over learned ones too."""
    table = FdbTable(10_000, dests=3)
    victims = [mac(1 << 36 | n) for n in range(100)]
    for victim in victims:
        table.set(0, victim, 1)
    for n in range(1_000_000):
        assert table.learn_from(0, mac(n), 2, n * 1000) == "new"
    assert len(table) == 8192 + 100
    assert table.counts()["evicted"] == 1_000_000 - 8192
    assert all(table.learn_from(0, victim, 2, 10**9) == "refused" for victim in victims)
    for n in range(9_900):
        table.set(0, mac(2 << 36 | n), 1)
    assert len(table) == 10_000 and table.learned_of(2) == 0
    assert all(table.get(0, victim) == 1 for victim in victims)


def test_a_flood_evicts_its_own() -> None:
    """Who has the most loses: one peer's flood leaves the entries of the others alone."""
    table = FdbTable(20_000, dests=11, learned_limit=2000)
    for peer in range(10):
        for n in range(100):
            table.learn_from(0, mac(peer << 20 | n), peer, S)
    for n in range(50_000):
        table.learn_from(0, mac(1 << 38 | n), 10, S + n)
    assert [table.learned_of(peer) for peer in range(11)] == [100] * 10 + [1000]


def test_ageing_is_by_receipt_alone() -> None:
    """What is looked up all the time ages all the same; a frame from it is what keeps it."""
    table = FdbTable(100, dests=2, ageing_ns=300 * S)
    table.learn_from(0, mac(1), 0, 0)
    table.learn_from(0, mac(2), 0, 0)
    table.set(0, mac(3), 1)
    for second in range(1, 300):
        table.age_to(second * S)
        assert table.get(0, mac(1)) == 0
        if second % 3 == 0:
            assert table.learn_from(0, mac(2), 0, second * S + 7) == "known"
    table.age_to(300 * S)
    assert [table.get(0, mac(n)) for n in (1, 2, 3)] == [None, 0, 1]
    table.age_to(10_000 * S)
    assert [table.get(0, mac(n)) for n in (1, 2, 3)] == [None, None, 1]
    assert table.counts()["aged"] == 2


def test_moves_freeze() -> None:
    """Five moves in three minutes are moves, the sixth is none; three minutes later the MAC is free again."""
    table = FdbTable(100, dests=2)
    now = 1_700_000_000 * S
    assert table.learn_from(0, mac(1), 0, now) == "new"
    for move in range(5):
        now += S
        assert table.learn_from(0, mac(1), 1 - move % 2, now) == "moved"
    now += S
    assert table.get(0, mac(1)) == 1
    assert table.learn_from(0, mac(1), 0, now) == "frozen"
    assert table.rows()[0]["frozen"] and table.get(0, mac(1)) == 1
    assert table.learn_from(0, mac(1), 1, now) == "known"
    assert table.learn_from(0, mac(1), 0, now + 179 * S) == "frozen"
    assert table.learn_from(0, mac(1), 0, now + 180 * S) == "moved"
    assert table.counts() | {"learned": 0} == {
        "learned": 0, "moved": 6, "refused": 0, "frozen": 2, "froze": 1, "evicted": 0, "aged": 0, "full": 0,
    }  # fmt: skip


def test_authority() -> None:
    """A set entry takes the place of a learned one, in full tables and at the cap, and learning never takes it back."""
    table = FdbTable(100, dests=2, learned_limit=1)
    table.learn_from(0, mac(1), 0, S)
    table.set(0, mac(1), 1)
    assert table.learn_from(0, mac(1), 0, 2 * S) == "refused"
    assert (table.get(0, mac(1)), table.learned_of(0)) == (1, 0)
    table.set(0, mac(1), 0)
    assert table.get(0, mac(1)) == 0
    table.limit(0, 0)
    assert table.learn_from(0, mac(2), 0, S) == "full"


def test_flush() -> None:
    """Of a network, of a destination, of what was learned."""
    table = FdbTable(100, dests=4)
    for dest in range(4):
        table.learn_from(dest // 2, mac(dest), dest, S)
        table.set(dest // 2, mac(10 + dest), dest)
    assert table.flush(dest=0, learned=True) == 1
    assert table.flush(net=1) == 4
    assert contents(table) == {
        (0, mac(1)): (1, "learned"), (0, mac(10)): (0, "static"), (0, mac(11)): (1, "static"),
    }  # fmt: skip
    assert table.flush() == 3


def test_adopt() -> None:
    """What another table learned comes along where it still fits, with its age; what is set here stays."""
    old, new = FdbTable(100, dests=3), FdbTable(100, dests=3)
    for n, dest in ((1, 0), (2, 0), (3, 1), (4, 2)):
        old.learn_from(dest // 2, mac(n), dest, n * S)
    old.set(0, mac(9), 0)
    new.set(5, mac(2), 1)
    nets = array("I", [NONE] * 65536)
    nets[0] = 5
    assert new.adopt(old, array("I", [2, NONE, 0]), nets) == 1  # 2 is set, 3's place and 4's network are gone
    assert contents(new) == {(5, mac(1)): (2, "learned"), (5, mac(2)): (1, "static")}
    new.age_to(300 * S)
    assert new.get(5, mac(1)) == 2
    new.age_to(301 * S)
    assert new.get(5, mac(1)) is None
    with pytest.raises(ValueError, match="2 destinations and 65536 networks, of 3 and 65536"):
        new.adopt(old, array("I", [0, 0]), nets)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda t: t.set(0, b"12345", 0), "MAC of 5 bytes: 6"),
        (lambda t: t.set(0, bytes(6), 0), "zero or a group address is no station's"),
        (lambda t: t.get(0, b"\x01\0\x5e\0\0\1"), "MAC 01:00:5e:00:00:01: zero or a group"),
        (lambda t: t.set(0, mac(1), 2), "destination 2: below 2"),
        (lambda t: t.learn_from(1, mac(1), 0, 0), "destination 0 belongs to network 0, not 1"),
        (lambda t: t.lookup(array("Q", [1, 2]), array("I", [0])), "2 keys and room for 1"),
        (lambda t: FdbTable(0), "capacity = 0: 1 to 268435456 entries"),
        (lambda t: FdbTable(1, dests=0), "dests = 0: at least 1"),
        (lambda t: FdbTable(1, ageing_ns=-1), "ageing_ns = -1: 0"),
    ],
)
def test_what_callers_get_wrong(call, text) -> None:
    table = FdbTable(10, dests=2)
    table.learn_from(0, mac(5), 0, 0)
    with pytest.raises(ValueError, match=text):
        call(table)
