"""The routing mesh on one core: connections looked up, opened, used both ways, ended, listed, and what a growing or
ageing table makes a batch wait.

A director with rr and masquerade, its clients behind a router. Loops are ``bench/probe.pyx``; where that cannot be had
there is nothing to measure.
"""

from __future__ import annotations

import ctypes
import random
import struct
from array import array
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from resource import RUSAGE_SELF, getrusage
from time import perf_counter
from typing import Any

from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.table.conn import ConnTable
from vxlanfast.benchmark import memory
from vxlanfast.benchmark.memory import PER, Act, Case, Rewind, address_of, copy_of, time_slice
from vxlanfast.benchmark.plane import load_peer, peer_seconds
from vxlanfast.benchmark.results import Figure
from vxlanfast.dataplane import Dataplane
from vxlanfast.network_spec import EndpointSpec, NetworkSpec, RouteSpec
from vxlanfast.node_spec import NodeSpec
from vxlanfast.service_spec import MeshSpec, ServerSpec, ServiceSpec, VirtualSpec

SECOND_NS = 1_000_000_000
#: Rows of a batch, look-ups of a pass.
ROWS, LOOKUPS = 2048, 1_000_000
#: Connections of a table that is only looked up; the last one where there is memory for it.
ENTRIES = {"10 k": 10_000, "1 M": 1_000_000, "10 M": 10_000_000}
CONNECTIONS = 1_000_000
GROWN = 10_000_000
SERVERS = 32
CLIENT, SERVER = "client", "server"
TCP, UDP = 6, 17
SYN, ACK = 2, 16
_MACS = {CLIENT: ("02:00:00:00:01:01", "02:00:00:00:01:02"), SERVER: ("02:00:00:00:02:01", "02:00:00:00:02:02")}
_VIP, _MASQ = ip_address("203.0.113.10").packed, ip_address("10.0.9.1").packed


def director(connections: int, protocol: str) -> Dataplane:
    """One service of thirty-two servers, which see its clients at the director's address."""
    clients = NetworkSpec(
        name=CLIENT, lan=True, domain="bench", learn=False, flood="off", gateway_mac=_MACS[CLIENT][0],
        router_mac=_MACS[CLIENT][0], subnet=("198.51.100.0/24",), gateway=("198.51.100.1",),
        endpoint=(EndpointSpec(port=CLIENT, mac=_MACS[CLIENT][1], ip=("198.51.100.2",)),),
        route=(RouteSpec(to="0.0.0.0/0", via="198.51.100.2"),),
    )  # fmt: skip
    hosts = tuple(f"10.0.9.{n}" for n in range(2, 2 + SERVERS))
    servers = NetworkSpec(
        name=SERVER, lan=True, domain="bench", learn=False, flood="off", gateway_mac=_MACS[SERVER][0],
        router_mac=_MACS[SERVER][0], subnet=("10.0.9.0/24",), gateway=(str(ip_address(_MASQ)),),
        endpoint=(EndpointSpec(port=SERVER, mac=_MACS[SERVER][1], ip=hosts),),
    )  # fmt: skip
    service = ServiceSpec(
        name="bench", masquerade=(str(ip_address(_MASQ)),), servers_in=SERVER,
        virtual=(VirtualSpec(network=CLIENT, address=str(ip_address(_VIP)), protocol=protocol, port=80),),
        server=tuple(ServerSpec(address=host) for host in hosts),
    )  # fmt: skip
    return Dataplane(
        NodeSpec(
            vtep=("192.0.2.1",), mtu=0, network=(clients, servers), service=(service,),
            mesh=MeshSpec(connections=connections, seed=1),
        )
    )  # fmt: skip


def frame(side: str, protocol: int, flags: int = 0, seq: int = 0, ack: int = 0) -> bytes:
    """64 bytes with their FCS, addresses and ports to be put in."""
    to, of = (bytes.fromhex(text.replace(":", "")) for text in _MACS[side])
    src, dst = (bytes(4), _VIP) if side == CLIENT else (bytes(4), _MASQ)
    if protocol == TCP:
        l4 = struct.pack(">HHIIBBHHH6x", 0, 80, seq, ack, 0x50, flags, 65535, 0, 0)
    else:
        l4 = struct.pack(">HHHH18x", 0, 80, 26, 0)
    size = 20 + len(l4) - 6 * (protocol == TCP)  # without padding
    ip = struct.pack(">BBHHHBBH", 0x45, 0, size, 0, 0, 64, protocol, 0) + src + dst
    return to + of + b"\x08\0" + ip + l4


class Refill:
    """A batch of one packet many times, made again and again of that: bytes, and what nodes write beside them."""

    COLUMNS = (*Rewind.COLUMNS, "vni", "flow", "port_out", "rule", "origin", "dest", "conn", "l3", "l4", "cut")

    def __init__(self, content: bytes, port: int, now_ns: int = SECOND_NS) -> None:
        self.batch = PacketBatch.from_frames([content] * ROWS, ts_ns=now_ns, port_in=port)
        self.saved = []
        for name in (*self.COLUMNS, "arena"):
            with getattr(self.batch, name) as view:
                self.saved.append((address_of(view), view.tobytes()))

    def __call__(self, now_ns: int | None = None) -> PacketBatch:
        for where, content in self.saved:
            ctypes.memmove(where, content, len(content))
        if now_ns is not None:
            with self.batch.ts_ns as times:
                times[:] = memoryview(now_ns.to_bytes(8, "little") * ROWS).cast("q")
        return self.batch


class Flows:
    """A director, and packets of its connections by number."""

    def __init__(self, connections: int, protocol: int = TCP, *, room: int = 0) -> None:
        self.count = connections
        self.probe = memory.load_probe()
        self.plane = director(room or 1 << (connections - 1).bit_length(), "tcp" if protocol == TCP else "udp")
        self.servers = bytearray(12 * connections)
        ports = self.plane.ports
        first = frame(CLIENT, protocol, SYN, 1)
        self.first = Refill(first, ports[CLIENT])
        self.answer = Refill(frame(SERVER, protocol, SYN | ACK, 5, 2), ports[SERVER])
        self.there = Refill(frame(CLIENT, protocol, ACK, 2, 6), ports[CLIENT])
        self.back = Refill(frame(SERVER, protocol, ACK, 6, 2), ports[SERVER])

    def begin(self, now_ns: int = SECOND_NS) -> float:
        """Every connection's first packet: seconds that the plane took."""
        taken = 0.0
        for numbers in self.batches():
            batch = self.first(now_ns)
            self.probe.aim(batch, numbers)
            began = perf_counter()
            self.plane.process(batch)
            taken += perf_counter() - began
            self.probe.note_servers(batch, numbers, self.servers)
        return taken

    def handshake(self, now_ns: int = SECOND_NS) -> float:
        """Every connection opened: three segments each; seconds that the plane took."""
        taken = 0.0
        for numbers in self.batches():
            for refill, towards in ((self.first, True), (self.answer, False), (self.there, True)):
                batch = refill(now_ns)
                if towards:
                    self.probe.aim(batch, numbers)
                else:
                    self.probe.aim_back(batch, numbers, self.servers)
                began = perf_counter()
                self.plane.process(batch)
                taken += perf_counter() - began
                if refill is self.first:
                    self.probe.note_servers(batch, numbers, self.servers)
        return taken

    def batches(self) -> Iterator[array[int]]:
        """All numbers, a batch at a time: the last one is filled up with some that were there already."""
        for first in range(0, self.count, ROWS):
            yield array("I", [n % self.count for n in range(first, first + ROWS)])

    @property
    def conns(self) -> ConnTable:
        return self.plane._now.mesh.conns


def lookup_figures(
    name: str, entries: int, rounds: int, slice_s: float, lookups: int = LOOKUPS
) -> Iterator[Figure]:
    """Connections that are there, at random, found and put off, beside what memory gives and other people's tables."""
    probe: Any = memory.load_probe()
    table = ConnTable(entries, seed=7)
    if probe.fill_connections(table, 0, entries, 0, 1 << 60) != entries:
        raise AssertionError("connections are missing")
    rng = random.Random(1)
    numbers = array("I", (rng.randrange(entries) for _ in range(lookups)))
    keys = bytearray(16 * lookups)
    probe.tuples(numbers, keys)
    plain = bytearray(table.memory)
    plain[::4096] = b"\1" * len(plain[::4096])
    lines = f"2 random cache lines of {len(plain) >> 20 or 1} MiB"
    beside: dict[str, Callable[[], float]] = {
        lines: lambda: time_slice(lambda: None, lambda: probe.random_lines(plain, numbers, 2), slice_s)
    }
    known = bytearray(16 * entries)
    probe.tuples(array("I", range(entries)), known)
    data = struct.pack("<II", entries, lookups) + known + keys
    for peer in ("absl flat_hash_map, prefetched", "DPDK rte_hash, bulk"):
        program = load_peer(peer) if lookups == LOOKUPS and entries <= CONNECTIONS else None
        if program is not None:
            beside[peer] = lambda program=program: peer_seconds(program, data, lookups, "16")  # type: ignore[misc]

    def act() -> None:
        if probe.look_up(table, keys, 1 << 60) != lookups:
            raise AssertionError("connections were not found")

    for note, other in beside.items():
        ours, others = [], []
        for number in range(rounds + 1):  # the first warms up
            taken = time_slice(lambda: None, act, slice_s), other()
            if number:
                ours.append(taken[0] / lookups * PER)
                others.append(taken[1] / lookups * PER)
        yield Figure(
            job="mesh", size=name, side="look-up and state", packets=PER, seconds=tuple(ours),
            limit_seconds=tuple(others), measured_packets=PER, note=note,
        )  # fmt: skip


def path_cases(flows: Flows, size: str) -> Iterator[Case]:
    """64-byte packets of open connections at random, there and back: the node that rewrites them alone, and all
    nodes."""
    rng = random.Random(2)
    numbers = array("I", (rng.randrange(flows.count) for _ in range(ROWS * 400)))
    slices = [memoryview(numbers)[at : at + ROWS] for at in range(0, len(numbers), ROWS)]
    compiled = flows.plane._now
    before = (compiled.receive, compiled.proxy, compiled.bridge)
    turn = 0

    def aimed(towards: bool) -> PacketBatch:
        nonlocal turn
        turn += 1
        batch = (flows.there if towards else flows.back)()
        if towards:
            flows.probe.aim(batch, slices[turn % len(slices)])
        else:
            flows.probe.aim_back(batch, slices[turn % len(slices)], flows.servers)
        return batch

    content = frame(CLIENT, TCP) * ROWS
    limit = copy_of(content, [len(content) // ROWS] * ROWS)
    for towards, name in ((True, "there"), (False, "back")):

        def prepare(towards: bool = towards) -> None:
            batch = aimed(towards)
            for node in before:
                node.process(batch)

        refill = flows.there if towards else flows.back
        alone: Act = lambda r=refill: compiled.mesh.process(r.batch)  # type: ignore[misc]  # noqa: E731
        whole: Act = lambda r=refill: flows.plane.process(r.batch)  # type: ignore[misc]  # noqa: E731
        prepare()
        compiled.mesh.process(refill.batch)
        with refill.batch.conn as conns:
            if set(refill.batch.counts()) != {0} or 0xFFFFFFFF in conns.tolist():
                raise AssertionError(f"{refill.batch.counts()}: every packet has a connection")
        yield Case(f"mesh node, {name}", size, ROWS, 60, alone, prepare, limit, "memcpy of the frames")

        def aim(towards: bool = towards) -> None:
            aimed(towards)

        yield Case(f"whole plane, {name}", size, ROWS, 60, whole, aim, limit, "memcpy of the frames")


def _one(side: str, size: str, seconds: list[float], count: int, note: str = "") -> Figure:
    """A figure of so many things, given for a million."""
    return Figure(
        job="mesh", size=size, side=side, packets=PER, seconds=tuple(s / count * PER for s in seconds),
        measured_packets=PER, note=note,
    )  # fmt: skip


def life_figures(rounds: int, size: str, count: int) -> Iterator[Figure]:
    """As RFC 9693 has it: how fast a full table of connections comes about, and how fast it is torn down."""
    opened: list[float] = []
    closed: list[float] = []
    longest: list[float] = []
    shaken: list[float] = []
    each = 0.0
    for _ in range(rounds):
        flows = Flows(count, UDP)
        opened.append(flows.begin())
        each = flows.conns.memory / count
        if len(flows.conns) != count:
            raise AssertionError(f"{len(flows.conns)} connections")
        batches = []
        while len(flows.conns):
            batch = flows.first(SECOND_NS * 10_000)
            with batch.verdict as verdicts:  # nothing comes; the clock goes on
                verdicts[:] = b"\xff" * ROWS
            began = perf_counter()
            flows.plane.process(batch)
            batches.append(perf_counter() - began)
        closed.append(sum(batches))
        longest.append(max(batches))
        flows = Flows(count)
        shaken.append(flows.handshake())
        if {row["state"] for row in flows.conns.rows()} != {1}:
            raise AssertionError("connections are not open")
    yield _one("establishment, UDP", size, opened, count, f"{each:.0f} B a connection")
    yield _one("establishment, TCP, three segments", size, shaken, count)
    yield _one("tear-down: all end at once", size, closed, count)
    yield _one("… longest pause of a batch", size, longest, 1)


def growth_figures(rounds: int, size: str, count: int) -> Iterator[Figure]:
    """A table that grows from ten thousand on, in steps of a batch: each connection, and the longest step of those in
    which the kernel did not put the process aside, if there was one."""
    probe: Any = memory.load_probe()
    whole, longest = [], []
    each, aside = 0.0, 0
    for _ in range(min(rounds, 3)):
        table = ConnTable(count, seed=3)
        probe.fill_connections(table, 0, count // 1000, 0, 1 << 60)
        steps, alone = [], []
        for first in range(count // 1000, count, ROWS):
            before = getrusage(RUSAGE_SELF).ru_nivcsw
            began = perf_counter()
            probe.fill_connections(table, first, min(ROWS, count - first), 0, 1 << 60)
            steps.append(perf_counter() - began)
            if getrusage(RUSAGE_SELF).ru_nivcsw == before:
                alone.append(steps[-1])
        whole.append(sum(steps))
        counted = alone or steps
        longest.append(max(counted))
        aside += len(steps) - len(counted)
        each = table.memory / count
    yield _one("growth, a connection", size, whole, count - count // 1000, f"{each:.0f} B a connection")
    yield _one("… longest step of 2,048", size, longest, 1, f"but for {aside:,} put aside by the kernel")


def list_figures(rounds: int, flows: Flows, size: str) -> Iterator[Figure]:
    """Every connection listed: as the plane's rows, in people's words."""
    listed = []
    for _ in range(rounds):
        began = perf_counter()
        seen = sum(1 for _ in flows.plane.connections(SECOND_NS))
        listed.append(perf_counter() - began)
        if seen != flows.count:
            raise AssertionError(f"{seen} connections listed")
    yield _one("listed, a connection", size, listed, flows.count)


def measure_mesh(
    rounds: int, progress: Callable[[str], None], *, slice_s: float, is_trial: bool = False
) -> list[Figure]:
    """All of it, one after the other; a trial has small tables."""
    progress("mesh: compiling bench/probe.pyx")
    if memory.load_probe() is None:
        progress("mesh: not measured, since there is no source tree or compiler")
        return []
    figures: list[Figure] = []
    for name, entries in ENTRIES.items():
        progress(f"mesh: look-ups among {name} connections")
        most = 2000 if is_trial else entries
        figures += lookup_figures(name, most, rounds, slice_s, most if is_trial else LOOKUPS)
    count, size = (ROWS, "2 k") if is_trial else (CONNECTIONS, "1 M")
    progress(f"mesh: opening {count:,} connections")
    flows = Flows(count)
    flows.handshake()
    for case in path_cases(flows, size):
        progress(f"mesh: {case.name}, {size} connections")
        figures.append(case.measure(rounds, slice_s, job="mesh"))
    progress(f"mesh: listing {count:,} connections")
    figures += list_figures(rounds, flows, size)
    del flows, case
    progress(f"mesh: establishment and tear-down of {count:,} connections")
    figures += life_figures(rounds, size, count)
    grown = 20_000 if is_trial else GROWN
    progress(f"mesh: growth to {grown:,} connections")
    figures += growth_figures(rounds, "20 k" if is_trial else "10 M", grown)
    return figures
