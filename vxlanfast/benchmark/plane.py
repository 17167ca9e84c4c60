"""The plane on one core: look-ups beside other hash tables, frames to tunnels and out of them, copies of a flooded
frame beside memcpy, and what a new configuration takes.

Each figure has something beside it, measured in the same rounds: its name is the figure's note.
"""

from __future__ import annotations

import random
import struct
import subprocess
import tempfile
from array import array
from collections.abc import Callable, Iterator
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from time import perf_counter

import vxlanfast
from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.table.fdb import FdbTable
from vxlanfast.benchmark.inputs import OUTER_LEN, TRAFFIC, VTEPS, Traffic, make_flows
from vxlanfast.benchmark.memory import PER, Act, Case, copy_of, time_slice
from vxlanfast.benchmark.results import Figure
from vxlanfast.dataplane import Dataplane
from vxlanfast.network_spec import EndpointSpec, NetworkSpec, PeerSpec
from vxlanfast.node_spec import NodeSpec

#: Entries of the tables, and look-ups of a pass.
ENTRIES = {"1 k": 1000, "1 M": 1_000_000}
LOOKUPS = 1_000_000
#: Stations of a plane, and rows of a batch.
STATIONS, ROWS = 1000, 2048
#: A flooded frame goes to so many peers.
PEERS, FLOODED = 64, 16
#: Endpoints of the configuration that is applied.
ENDPOINTS = 10_000
VNI = 4096

_TABLES = {
    "absl flat_hash_map, prefetched": ("ABSL", ("absl_flat_hash_map",)),
    "DPDK rte_hash, bulk": ("DPDK", ("libdpdk",)),
}


@cache
def load_peer(name: str) -> Path | None:
    """Another hash table, compiled; None where its headers, or the source tree, are not there."""
    define, packages = _TABLES[name]
    source = Path(vxlanfast.__file__).resolve().parent.parent / "bench" / "peer_tables.cpp"
    if not source.exists():
        return None
    folder = Path(tempfile.mkdtemp(prefix="vxlanfast-peer-"))
    flags = []
    for option in ("--cflags", "--libs"):
        found = _run(["pkg-config", option, *packages])
        if found is None:
            return None
        flags.append(found.split())
    built = folder / define.lower()
    head = ["g++", "-O3", "-march=native", "-std=c++17", f"-D{define}"]
    made = _run([*head, *flags[0], str(source), "-o", str(built), *flags[1]])
    return None if made is None else built


def _run(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def lookup_figures(name: str, entries: int, rounds: int, slice_s: float, lookups: int = LOOKUPS) -> Iterator[Figure]:
    """Look-ups of stations that are there, at random, beside a dict and, if there are enough, what is installed."""
    rng = random.Random(1)
    macs = sorted({rng.getrandbits(40) | 2 << 40 for _ in range(entries)})
    rng.shuffle(macs)
    table = FdbTable(max(1024, len(macs)), dests=1, learned_limit=1 << 30, seed=7)
    for mac in macs:
        table.set(0, mac.to_bytes(6, "big"), 0)
    wanted = [rng.choice(macs) for _ in range(lookups)]
    keys, found = array("Q", wanted), array("I", bytes(4 * lookups))
    beside: dict[str, Callable[[], float]] = {}
    known = dict.fromkeys(macs, 0)

    def by_dict() -> float:
        began = perf_counter()
        for key in wanted:
            known[key]
        return perf_counter() - began

    beside["dict"] = by_dict
    data = struct.pack("<II", len(macs), lookups) + array("Q", macs).tobytes() + keys.tobytes()
    for peer in _TABLES:
        program = load_peer(peer) if lookups == LOOKUPS else None
        if program is not None:
            beside[peer] = lambda program=program: peer_seconds(program, data, lookups)  # type: ignore[misc]
    for note, other in beside.items():
        ours, others = [], []
        for _ in range(rounds):
            ours.append(time_slice(lambda: None, lambda: table.lookup(keys, found), slice_s) / lookups * PER)
            others.append(other() / lookups * PER)
        if set(found) != {0}:
            raise AssertionError("stations were not found")
        yield Figure(
            job="plane", size=name, side="FDB look-up", packets=PER, seconds=tuple(ours),
            limit_seconds=tuple(others), measured_packets=PER, note=note,
        )  # fmt: skip


def peer_seconds(program: Path, data: bytes, lookups: int, *options: str) -> float:
    """Seconds that another table takes for the look-ups in ``data``; all of them must be found."""
    done = subprocess.run([str(program), *options], input=data, capture_output=True, check=True)
    seconds, hits = done.stdout.split()
    if int(hits) != lookups:
        raise AssertionError(f"{program.name} found {int(hits)} of {lookups}")
    return float(seconds)


def _mac(n: int) -> str:
    return (0x02_00_00_00_00_00 | n).to_bytes(6, "big").hex(":")


def make_plane() -> Dataplane:
    """A port, a peer, and a thousand stations at either, learned and set."""
    there = tuple(EndpointSpec(vtep=VTEPS[1], mac=_mac(n)) for n in range(STATIONS))
    here = tuple(EndpointSpec(port="port", mac=_mac(STATIONS + n)) for n in range(STATIONS))
    network = NetworkSpec(name="bench", vni=VNI, endpoint=(*there, *here), learned_limit=8192)
    return Dataplane(NodeSpec(vtep=(VTEPS[0],), mtu=0, network=(network,)))


def frames(traffic: Traffic, *, to_peer: bool) -> list[bytes]:
    """Frames between stations of the port and of the peer, at random, with a flow each in turn."""
    rng, flows, made = random.Random(2), make_flows(), []
    for i in range(ROWS):
        near, far = bytes.fromhex(_mac(STATIONS + rng.randrange(STATIONS)).replace(":", "")), rng.randrange(STATIONS)
        other = bytes.fromhex(_mac(far).replace(":", ""))
        frame = flows[i % len(flows)].frame(traffic.lengths[i % len(traffic.lengths)], i, bytes(2000))
        made.append((other + near if to_peer else near + other) + frame[12:])
    return made


class Again:
    """A batch that is made anew of the same frames, outside the timing."""

    def __init__(self, content: list[bytes], port: int) -> None:
        self.content, self.port = content, port
        self()

    def __call__(self) -> None:
        self.batch = PacketBatch.from_frames(self.content, ts_ns=1_000_000_000, port_in=self.port)


def forward_cases(traffic: Traffic) -> Iterator[Case]:
    """A batch from the port into tunnels, one out of tunnels to the port, and both: all that a frame costs."""
    plane = make_plane()
    out = frames(traffic, to_peer=True)
    inner = frames(traffic, to_peer=False)
    back = Dataplane(NodeSpec(vtep=(VTEPS[1],), mtu=0, network=(
        NetworkSpec(name="bench", vni=VNI, endpoint=(
            EndpointSpec(port="port"), *(EndpointSpec(vtep=VTEPS[0], mac=_mac(STATIONS + n)) for n in range(STATIONS))),
        ),
    )))  # fmt: skip
    wrapped = [frame for _, frame in back.offer("port", *inner)]
    to, of = Again(out, plane.ports["port"]), Again(wrapped, plane.ports["underlay"])

    def both() -> None:
        plane.process(of.batch)
        plane.process(to.batch)

    def again() -> None:
        to()
        of()

    both()
    for batch in (to.batch, of.batch):
        if len(batch.passed()) != ROWS:
            raise AssertionError(f"{batch.counts()}: every frame has a way")
    again()
    frame_len = traffic.mean
    bare, full = copy_of(b"".join(out), [len(f) for f in out]), copy_of(b"".join(wrapped), [len(f) for f in wrapped])
    act_to: Act = lambda: plane.process(to.batch)  # noqa: E731
    act_of: Act = lambda: plane.process(of.batch)  # noqa: E731
    note = "memcpy of the frames"
    yield Case("learn, look up, encap", traffic.name, ROWS, frame_len, act_to, to, bare, note)
    yield Case("decap, learn, look up", traffic.name, ROWS, frame_len + OUTER_LEN, act_of, of, full, note)
    yield Case("both, one after the other", traffic.name, ROWS, frame_len, both, again, None, "")


def flood_case(traffic: Traffic) -> Case:
    """One frame for many peers: what a copy costs, headers included, beside memcpy of the frame."""
    first = int(ip_address("198.51.100.1"))
    peers = tuple(PeerSpec(vtep=str(ip_address(first + n))) for n in range(PEERS))
    network = NetworkSpec(name="bench", vni=VNI, endpoint=(EndpointSpec(port="port"),), peer=peers)
    plane = Dataplane(NodeSpec(vtep=(VTEPS[0],), mtu=0, network=(network,)))
    content = [b"\xff" * 6 + frame[6:] for frame in frames(traffic, to_peer=True)[:FLOODED]]
    again = Again(content, plane.ports["port"])
    if len(plane.process(again.batch).passed()) != PEERS * FLOODED:
        raise AssertionError(f"{again.batch.counts()}: {PEERS} copies of each")
    copies = [frame for frame in content for _ in range(PEERS)]
    limit = copy_of(b"".join(copies), [len(frame) for frame in copies])
    act: Act = lambda: plane.process(again.batch)  # noqa: E731
    name = f"flood, a copy of {PEERS}"
    return Case(name, traffic.name, len(copies), traffic.mean, act, again, limit, "memcpy of the frame")


def apply_figures(rounds: int, endpoints: int = ENDPOINTS) -> Iterator[Figure]:
    """A configuration of many endpoints over as many learned stations: all of it, and while no batch can go."""
    base = int(ip_address("10.128.0.1"))
    ends = tuple(
        EndpointSpec(vtep=f"192.0.2.{2 + n % 200}", ip=(str(ip_address(base + n)),)) for n in range(endpoints)
    )
    port = EndpointSpec(port="port")
    network = NetworkSpec(name="bench", vni=VNI, endpoint=(port, *ends), proxy=True, learned_limit=endpoints)
    spec = NodeSpec(vtep=(VTEPS[0],), network=(network,))
    whole, still = [], []
    for _ in range(rounds):
        plane = Dataplane(spec)
        learned = [bytes(6) + bytes.fromhex(_mac(n).replace(":", "")) + bytes(48) for n in range(endpoints)]
        plane.offer("port", *(b"\2\0\0\0\0\0" + frame[6:] for frame in learned), now_ns=1)
        began = perf_counter()
        ready = plane.prepare(spec)
        prepared = perf_counter()
        came = plane.apply(ready)
        ended = perf_counter()
        if came < endpoints - 1:
            raise AssertionError(f"{came} of {endpoints} learned entries came along")
        whole.append((ended - began) / endpoints * PER)
        still.append((ended - prepared) / endpoints * PER)
    for side, seconds in (("apply, an entry", whole), ("apply, standing still", still)):
        yield Figure(
            job="plane", size=f"{endpoints // 1000} k", side=side, packets=PER, seconds=tuple(seconds),
            measured_packets=PER, note="",
        )  # fmt: skip


def measure_plane(
    rounds: int, progress: Callable[[str], None], *, slice_s: float, is_trial: bool = False
) -> list[Figure]:
    """All of it, one after the other; a trial has small tables."""
    figures: list[Figure] = []
    for name, entries in ENTRIES.items():
        progress(f"plane: look-ups among {name} stations")
        most = 2000 if is_trial else entries
        figures += lookup_figures(name, min(entries, most), rounds, slice_s, most if is_trial else LOOKUPS)
    for traffic in (TRAFFIC["64"], TRAFFIC["1400"]):
        for case in (*forward_cases(traffic), flood_case(traffic)):
            progress(f"plane: {case.name}, {case.size} B")
            figures.append(case.measure(rounds, slice_s, job="plane"))
    endpoints = 1000 if is_trial else ENDPOINTS
    progress(f"plane: applying {endpoints:,} endpoints")
    figures += apply_figures(rounds, endpoints)
    return figures
