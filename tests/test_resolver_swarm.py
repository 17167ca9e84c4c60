"""Every question that a real Swarm's tasks were seen to ask, asked of a resolver of profile swarm: the same answers to
the byte, but for the order of addresses, and the same questions to others."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import dns.flags
import dns.message
import dns.rdatatype
import pytest

import vxlanfast as vf
from tests.swarm import NODES, ORACLE, Scene
from vxlanfast.addr import format_ip, parse_ip
from vxlanfast.names import Names
from vxlanfast.resolver import Answer, Client, Forward, Resolver
from vxlanfast.service_spec import ServerSpec

pytestmark = pytest.mark.skipif(
    ORACLE is None or not ORACLE.is_dir(), reason="the captures of a real Swarm are not here"
)
_LINE = re.compile(r"^(?P<name>\S+) (?P<type>[A-Z]+) -> flags=(?P<flags>[0-9a-f]{4}) .*?rcode=(?P<code>\d+) "
                   r"an=(?P<an>\d+) ns=(?P<ns>\d+) ar=(?P<ar>\d+) len=(?P<len>\d+) \| ?(?P<records>.*)$")  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """A question of run.log, and what it was answered."""

    node: int
    task: str
    name: str
    type: str
    tcp: bool
    flags: int
    counts: tuple[int, int, int]
    size: int
    records: frozenset[str]
    stage: int  # how many lines of the log begin so that records change, before it


def questions(scene: str) -> Iterator[Asked]:
    """All of a scene's, in order."""
    node, task, tcp, stage = 0, "", False, 0
    for line in (ORACLE / scene / "run.log").read_text().splitlines():
        if command := re.match(r"n(\d):(\w+) netns# .*dnsq\.py( -tcp)?", line):
            node, task, tcp = int(command[1]), command[2], bool(command[3])
        elif found := _LINE.match(line):
            records = frozenset(filter(None, found["records"].split("; ")))
            counts = int(found["an"]), int(found["ns"]), int(found["ar"])
            yield Asked(node, task, found["name"], found["type"], tcp, int(found["flags"], 16), counts,
                        int(found["len"]), records, stage)  # fmt: skip
        elif line.startswith("-- one task leaves"):
            stage = 1


def open_networks(text: str) -> str:
    """Networks that ``docker network inspect`` showed one after the other, but for encrypted ones."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        networks, at = decoder.raw_decode(text, at)
        found += [network for network in networks if "encrypted" not in network["Options"]]
    return json.dumps(found)


@cache
def plane_of(scene: str, node: int) -> vf.Dataplane:
    """A node of a scene as its own tables have it: names are Docker's."""
    seen = Scene(ORACLE / scene)
    inspect = {f"10.1.1.1{n}": open_networks(seen.dump(n, "network-inspect-v.json")) for n in NODES}
    plane = vf.Dataplane(
        vf.spec_from_docker(
            inspect, vtep=f"10.1.1.1{node}", services=seen.services, lan=seen.lan(node), profile="swarm"
        )
    )
    if scene == "03-dnsrr":  # the tables are those of the end: one of its tasks had been another
        plane.remove_server("rr in mynet", "10.0.9.16")
        plane.add_server("rr in mynet", ServerSpec(address="10.0.9.13"))
    return plane


def client_of(plane: vf.Dataplane, task: str) -> Client:
    """A task of that service on this node."""
    found = [
        Client(e.port, parse_ip(e.ip[0]))
        for n in plane.spec.network for e in n.endpoint
        if e.port is not None and re.match(rf"{task}\.", e.name)
    ]  # fmt: skip
    assert found
    return found[0]


@cache
def upstream_of(scene: str, node: int) -> tuple[tuple[bytes, bytes], ...]:
    """What a node asked of the host's resolver, in order, and what it was answered; without numbers."""
    asked: list[tuple[tuple[int, int], bytes]] = []
    answers: dict[tuple[int, int], bytes] = {}
    for _, frame in Scene(ORACLE / scene).capture(f"underlay-n{node}.pcap"):
        if frame[12:14] != b"\x08\x00" or frame[23] != 17 or frame[14] != 0x45:
            continue
        source, target, wire = int.from_bytes(frame[34:36]), int.from_bytes(frame[36:38]), frame[42:]
        key = (source if target == 53 else target), int.from_bytes(wire[:2])
        if target == 53:
            asked.append((key, wire))
        elif source == 53:
            answers[key] = wire
    return tuple((wire[2:], answers[key][2:]) for key, wire in asked)


def ask(resolver: Resolver, client: Client, name: str, type_: str, tcp: bool) -> tuple[bytes, Answer | Forward | None]:
    """A question as the log's program sent it."""
    query = dns.message.make_query(name, type_).to_wire()
    return query, resolver.answer(query, client, tcp=tcp)


def records_of(wire: bytes) -> frozenset[str]:
    """As the log has them."""
    message = dns.message.from_wire(wire)
    return frozenset(
        f"{rrset.name} ttl={rrset.ttl} {dns.rdatatype.to_text(rrset.rdtype)} {data}"
        for rrset in message.answer for data in rrset
    )  # fmt: skip


SCENES = ("02-eastwest", "03-dnsrr", "04-internal")
EXPECTED = {"02-eastwest": 27, "03-dnsrr": 20, "04-internal": 14}


@pytest.mark.parametrize("scene", SCENES)
def test_every_question(scene: str) -> None:
    """Code, flags, counts, length, records; what goes to others is what was seen to, and their answer is passed on."""
    forwarded: dict[int, list[bytes]] = {}
    asked = list(questions(scene))
    assert len(asked) == EXPECTED[scene]
    for one in asked:
        plane = plane_of(scene, one.node)
        if scene == "03-dnsrr":
            follow(plane, one)
        resolver = Resolver(Names(plane, empty=False), profile="swarm")
        query, said = ask(resolver, client_of(plane, one.task), one.name, one.type, one.tcp)
        if isinstance(said, Forward):
            forwarded.setdefault(one.node, []).append(said.query[2:])
            theirs = [answer for question, answer in upstream_of(scene, one.node) if question == said.query[2:]]
            assert theirs, f"{one.name} {one.type}: was not seen to go to others"
            wire = resolver.finish(said, query[:2] + theirs[0])
        else:
            assert isinstance(said, Answer)
            wire = said.wire
        message = dns.message.from_wire(wire)
        assert wire[:2] == query[:2]
        assert (int.from_bytes(wire[2:4]), records_of(wire)) == (one.flags, one.records), f"{one.name} {one.type}"
        parts = message.answer, message.authority, message.additional
        assert tuple(sum(map(len, part)) for part in parts) == one.counts
        if not isinstance(said, Forward) or not one.records:
            assert len(wire) == one.size, f"{one.name} {one.type}"
    for node in forwarded:
        seen = Counter(question for question, _ in upstream_of(scene, node) if not by_others(scene, node, question))
        assert Counter(forwarded[node]) == seen


def by_others(scene: str, node: int, question: bytes) -> bool:
    """Questions on the wire that no resolver of Swarm forwarded for dnsq: the host's own programs asked them, or
    nslookup (see below)."""
    name = str(dns.message.from_wire(b"\0\0" + question).question[0].name)
    if name.endswith("lab.example."):
        return True
    return (scene, node, name) == ("04-internal", 3, "int.")  # curl, with the host's resolv.conf


def follow(plane: vf.Dataplane, one: Asked) -> None:
    """What became of rr's tasks by then: the one that was stopped goes as its answer shows, and another comes."""
    if one.name != "rr" or one.stage == 0 or one.type != "A":
        return
    wanted = {record.split()[-1] for record in one.records}
    have = {str(format_ip(ip)) for ip, _, weight in plane.servers_of("rr in mynet") if weight}
    for ip in have - wanted:
        assert ip == "10.0.9.13"
        plane.set_server("rr in mynet", ip, weight=0)
    for ip in wanted - have:
        assert ip == "10.0.9.16"
        plane.add_server("rr in mynet", ServerSpec(address=ip))


def test_nslookup() -> None:
    """It asks for A and AAAA of each name, and with the search list of a name without a dot: that goes to others."""
    plane = plane_of("02-eastwest", 1)
    resolver, client = Resolver(Names(plane, empty=False), profile="swarm"), client_of(plane, "cli")
    seen = dict(upstream_of("02-eastwest", 1))
    for type_ in ("A", "AAAA"):
        query, said = ask(resolver, client, "web.lab.example", type_, False)
        assert isinstance(said, Forward) and said.query[2:] in seen
        assert int.from_bytes(resolver.finish(said, query[:2] + seen[said.query[2:]])[2:4]) == 0x8183
    _, said = ask(resolver, client, "tasks.web", "A", False)
    assert isinstance(said, Answer)
    assert records_of(said.wire) == {f"tasks.web. ttl=600 A 10.0.9.{n}" for n in (3, 4, 5)}
    _, said = ask(resolver, client, "tasks.web", "AAAA", False)
    assert isinstance(said, Answer) and not records_of(said.wire)
    _, said = ask(resolver, client, "3.9.0.10.in-addr.arpa", "PTR", False)
    assert isinstance(said, Answer)
    assert records_of(said.wire) == {"3.9.0.10.in-addr.arpa. ttl=600 PTR web.2.yka3dcfvuquclsuzjq1f22ced.mynet."}


@pytest.mark.parametrize(("scene", "node", "task", "name"), [
    ("02-eastwest", 1, "cli", "web"), ("02-eastwest", 1, "web", "web"), ("03-dnsrr", 1, "cli", "rr"),
    ("04-internal", 1, "int", "int"), ("04-internal", 3, "both", "int"),
])  # fmt: skip
def test_names_that_wget_asked_for(scene: str, node: int, task: str, name: str) -> None:
    plane = plane_of(scene, node)
    resolver = Resolver(Names(plane, empty=False), profile="swarm")
    for type_ in ("A", "AAAA"):
        _, said = ask(resolver, client_of(plane, task), name, type_, False)
        assert isinstance(said, Answer) and dns.message.from_wire(said.wire).rcode() == 0
        assert bool(records_of(said.wire)) == (type_ == "A")


def test_the_whole_log_was_read() -> None:
    """No line with an answer is passed over."""
    for scene in SCENES:
        text = (Path(ORACLE) / scene / "run.log").read_text()
        assert len(list(questions(scene))) == text.count(" -> flags=")
