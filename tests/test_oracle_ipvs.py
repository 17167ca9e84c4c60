"""IPVS's schedulers in a kernel, and ours: the same servers for the same connections, while servers come and go.

A story is made with our table, step by step, by a seed; the kernel is told the same, and answers (``tests/oracle``).
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.oracle import ipvs_guest
from tests.oracle.machine import Machine
from vxlanfast._ext.table.service import ServiceTable
from vxlanfast._ext.table.tcpstate import TcpDirection, TcpState, is_active, step

pytestmark = [pytest.mark.slow, pytest.mark.long]

TCP, UDP = 6, 17
FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
CLIENTS, VIPS = 0xAC100000, 0xC6120000  # 172.16.0.0/12, 198.18.0.0/15

#: One scene each: the weights that servers get, and the part of connections that is UDP.
SCENES: list[tuple[Sequence[int], float]] = [
    ((1,), 0.3),
    ((1, 2, 3, 4, 5), 0.0),
    ((2, 4, 4, 6, 8, 12, 3), 0.5),  # the common divisor changes all the time
    ((0, 10, 20, 30, 45), 1.0),
    ((0, 1, 7, 50, 100, 65535), 0.2),
]
#: Connections of each scene, so that a scheduler meets ten thousand.
CONNECTIONS = 2000
SCHEDULERS = ("rr", "wrr", "lc", "wlc", "sed", "nq")
HASHES: list[tuple[str, dict[str, bool]]] = [
    ("sh", {}),
    ("sh", {"fallback": True}),
    ("sh", {"with_port": True}),
    ("sh", {"fallback": True, "with_port": True}),
    ("dh", {}),
]


@dataclass
class Connection:
    number: int
    proto: int
    client: int
    sport: int
    to: int
    server: int
    state: TcpState = TcpState.TCP_SYN_RECV

    @property
    def active(self) -> bool:
        return self.proto == TCP and is_active(self.state)

    @property
    def closed(self) -> bool:
        return self.proto == TCP and self.state in (TcpState.TCP_CLOSE, TcpState.TCP_TIME_WAIT)


class Story:
    """A service of ours; what it was told, and what it answered."""

    def __init__(self, scheduler: str, **options: bool) -> None:
        self.steps: list[tuple[int | str, ...]] = []
        self.scene = {"scheduler": scheduler, "options": options, "steps": self.steps}
        self.answers: list[Any] = []
        self.asked: list[int] = []  # the steps that have an answer
        self.table = ServiceTable(1, servers=64)
        self.service = self.table.add(0, bytes(4), scheduler=scheduler, exact=True, **options)
        self.numbers: dict[int, int] = {}  # those that the service has, as the table counts them
        self.names: dict[int, int] = {}
        self.connections: list[Connection] = []
        self.opened = 0

    def told(self, *what: int | str) -> None:
        self.steps.append(what)

    def answer(self, what: Any) -> None:
        self.asked.append(len(self.steps))
        self.answers.append(what)

    def add(self, server: int, weight: int, upper: int = 0, lower: int = 0) -> None:
        number = self.table.add_server(self.service, server.to_bytes(4, "big"), weight=weight, upper=upper, lower=lower)
        self.numbers[server] = number
        self.names[number] = server
        self.told("add", server, weight, upper, lower)

    def edit(self, server: int, weight: int, upper: int = 0, lower: int = 0) -> None:
        self.table.set_server(self.numbers[server], weight=weight, upper=upper, lower=lower)
        self.told("edit", server, weight, upper, lower)

    def delete(self, server: int) -> None:
        self.table.remove_server(self.numbers.pop(server))
        self.told("delete", server)

    def look(self) -> list[list[int]]:
        """Servers with weights and counts of connections: the kernel's are to be the same, in the same order."""
        rows = self.table.rows()[0]["servers"]
        seen = [[self.names[row["server"]], row["weight"], row["active"], row["inactive"]] for row in rows]
        self.answer(seen)
        self.told("look")
        return seen

    def overloaded(self) -> set[int]:
        return {row["server"] for row in self.table.rows()[0]["servers"] if row["overloaded"]}

    def choose(self, proto: int, client: int, sport: int, to: int) -> int | None:
        addresses = client.to_bytes(4, "big"), to.to_bytes(4, "big")
        server = self.table.choose_for(self.service, addresses[0], sport, addresses[1], 80, active=proto == TCP)
        self.answer(None if server is None else self.names[server])
        return server

    def open(self, proto: int, client: int, to: int) -> None:
        """A connection, with a port of its own."""
        number, sport = self.opened, 1024 + self.opened
        self.opened += 1
        server = self.choose(proto, client, sport, to)
        self.told("open", number, proto, client, sport, to)
        if server is not None:
            self.connections.append(Connection(number, proto, client, sport, to, server))

    def again(self, c: Connection) -> None:
        """A new connection from the port of a closed one, which counts until it is replaced."""
        server = self.choose(c.proto, c.client, c.sport, c.to)
        self.told("again", c.number)
        self.table.release(c.server, active=c.active)
        if server is None:
            self.connections.remove(c)
        else:
            c.server, c.state = server, TcpState.TCP_SYN_RECV

    def segment(self, c: Connection, direction: TcpDirection, flags: int) -> None:
        """What a client sends to a server that was deleted is dropped before it changes anything."""
        self.told("out" if direction == TcpDirection.TCP_OUT else "in", c.number, flags)
        if direction == TcpDirection.TCP_OUT or c.server in self.numbers.values():
            before, c.state = c.active, step(direction, c.state, flags)
            if c.active != before:
                self.table.set_active(c.server, active=c.active)


def connections(rng: random.Random, story: Story, udp: float, batch: int) -> None:
    """Some new ones, and segments of those there are."""
    for _ in range(batch):
        story.open(UDP if rng.random() < udp else TCP, CLIENTS + rng.randrange(400) * 677, VIPS + 1)
        for _ in range(rng.choice((0, 1, 1, 2, 3)) if story.connections else 0):
            c = rng.choice(story.connections)
            if c.proto == UDP:
                continue
            if c.closed and rng.random() < 0.02:
                story.again(c)
            elif rng.random() < 0.5:
                story.segment(c, TcpDirection.TCP_IN, rng.choice((ACK, ACK, PSH | ACK, FIN | ACK, RST)))
            else:
                story.segment(c, TcpDirection.TCP_OUT, rng.choice((SYN | ACK, ACK, PSH | ACK, FIN | ACK, RST | ACK)))


def event(rng: random.Random, story: Story, weights: Sequence[int]) -> None:
    """A server comes (often one that was there before), goes, has other weights or thresholds, or loses connections."""
    rows = story.look()
    here = [row[0] for row in rows]
    act = rng.random()
    if not here or (act < 0.25 and len(here) < 12):
        upper = rng.choice((0, 0, 8, 12, 20))
        server = rng.choice([server for server in range(20) if server not in here])
        story.add(server, rng.choice(weights), upper, rng.choice((0, upper // 2)))
    elif act < 0.4 and len(here) > 1:
        story.delete(rng.choice(here))
    elif act < 0.7:
        story.edit(rng.choice(here), rng.choice((0, *weights)))
    elif act < 0.85:
        server, _, active, inactive = rng.choice(rows)
        upper = max(active + inactive + rng.randrange(-3, 20), 0)
        story.edit(server, rng.choice(weights), upper, rng.choice((0, upper // 2)))
    else:
        full = story.overloaded()
        for c in [c for c in story.connections if c.closed and c.server in full][:4]:
            story.again(c)


def by_load_or_turn(scheduler: str, number: int) -> Story:
    weights, udp = SCENES[number]
    rng = random.Random(f"{scheduler} {number}")
    story = Story(scheduler)
    for server in range(4):
        story.add(server, rng.choice(weights))
    while story.opened < CONNECTIONS:
        connections(rng, story, udp, rng.randrange(1, 30))
        event(rng, story, weights)
    story.look()
    return story


def full(scheduler: str) -> Story:
    """Servers that take few connections: all refuse for a while, and then, one connection each less, all take some."""
    rng = random.Random(f"{scheduler} full")
    story = Story(scheduler)
    lower = {0: 3, 1: 4, 2: 5}
    for server in lower:
        story.add(server, rng.choice((1, 2, 3, 6)), 2 * lower[server] + 1, lower[server])
    for phase in range(8):
        while len(story.overloaded()) < len(lower):
            story.open(TCP, CLIENTS + rng.randrange(400) * 677, VIPS + 1)
        for _ in range(phase % 3):
            story.open(TCP, CLIENTS + rng.randrange(400) * 677, VIPS + 1)  # refused
        for c in story.connections:
            if c.state == TcpState.TCP_SYN_RECV:
                story.segment(c, TcpDirection.TCP_IN, ACK)
                story.segment(c, TcpDirection.TCP_IN, RST)
        while story.overloaded():  # a connection each in turn, of those that have most to lose
            rows = [row for row in story.look() if story.numbers[row[0]] in story.overloaded()]
            most = max(rows, key=lambda row: row[2] + row[3] - lower[row[0]])
            story.again(next(c for c in story.connections if c.closed and c.server == story.numbers[most[0]]))
        if phase % 4 == 3:
            server = rng.choice(list(lower))
            story.edit(server, rng.choice((1, 2, 3, 6)), 2 * lower[server] + 1, lower[server])
    return story


def by_hash(scheduler: str, options: dict[str, bool]) -> Story:
    """Four hundred clients, or addresses that clients come for, several times, between changes of weights."""
    rng = random.Random(f"{scheduler} {options}")
    story = Story(scheduler, **options)
    places = [rng.randrange(1 << 17) for _ in range(400)]
    for server in range(5):
        story.add(server, rng.choice((1, 2, 3)))
    for _ in range(6):
        for place in places:
            story.open(rng.choice((TCP, UDP)), CLIENTS + 7 * place, VIPS + place)
        here = rng.sample(list(story.numbers), 3)
        story.edit(here[0], 0)
        story.edit(here[1], rng.choice((1, 4, 20, 300)))
        if rng.random() < 0.5:
            story.delete(here[2])
        story.add(rng.choice([server for server in range(20) if server not in story.numbers]), rng.choice((0, 1, 2, 5)))
    return story


Told = dict[str, list[tuple[Story, dict[str, Any]]]]


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """All stories by scheduler, and what the kernel answered: it is booted once."""
    machine = Machine(tmp_path_factory.mktemp("machine"))
    stories = {
        scheduler: [by_load_or_turn(scheduler, number) for number in range(len(SCENES))] for scheduler in SCHEDULERS
    }
    for scheduler in SCHEDULERS:
        stories[scheduler].append(full(scheduler))
    for scheduler, options in HASHES:
        stories.setdefault(scheduler, []).append(by_hash(scheduler, options))
    scenes = [story.scene for told in stories.values() for story in told]
    (machine.out / "scenes.json").write_text(json.dumps(scenes))
    machine.run(Path(ipvs_guest.__file__), "/mnt/scenes.json", "/mnt/answers.json", machine.modules)
    answers = iter(json.loads((machine.out / "answers.json").read_text()))
    return {scheduler: [(story, next(answers)) for story in told] for scheduler, told in stories.items()}


@pytest.mark.parametrize("scheduler", [*SCHEDULERS, "sh", "dh"])
def test_the_kernels_choices(kernel: Told, scheduler: str) -> None:
    """Every server that was chosen, and at every change the counts of all of them."""
    opened = 0
    for story, kernels in kernel[scheduler]:
        if kernels["seconds"] > ipvs_guest.TIME_S:
            pytest.skip("the machine is too slow: connections have ended in the middle of a story")
        pairs = zip(story.asked, story.answers, kernels["answers"], strict=True)
        if other := [pair for pair in pairs if pair[1] != pair[2]]:
            at, ours, theirs = other[0]
            before = "\n".join(map(str, story.steps[max(0, at - 20) : at]))
            pytest.fail(f"{len(other)} differences: {before}\n{story.steps[at]}: {ours}, in the kernel {theirs}")
        opened += story.opened
    assert opened >= (10_000 if scheduler in SCHEDULERS else 2400)
