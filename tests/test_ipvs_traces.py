"""A kernel's director against ours: what its clients and servers sent goes in, what it sent must come out, byte for
byte."""

from __future__ import annotations

from collections import Counter
from functools import partial

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, TCPerror, UDPerror
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

import vxlanfast as vf
from tests.ipvs import CLIENT, SERVER, Trace, packed, traces
from vxlanfast._ext.verdict import Rule, Verdict
from vxlanfast.timed import Departure

FOLDER = traces()
pytestmark = pytest.mark.skipif(FOLDER is None, reason="the traces of a kernel's IPVS are not here")


def trace(name: str) -> Trace:
    assert FOLDER is not None
    return Trace(FOLDER / name)


def sent(departures: list[Departure], side: str) -> Counter[bytes]:
    return Counter(one.frame for one in departures if one.port == side)


def kernel(one: Trace, side: str) -> Counter[bytes]:
    return Counter(frame for _, _, frame in one.frames(side, sent=True))


def servers_of(departures: list[Departure]) -> list[tuple[bytes, bytes]]:
    """The server of each connection, in order, as address and port."""
    seen, chosen = set(), []
    for one in departures:
        if one.port == SERVER and one.conn is not None and one.rule in (Rule.RULE_BALANCED, Rule.RULE_RECUT):
            key = frame_key(one.frame)
            if key not in seen:
                seen.add(key)
                chosen.append((key[1], key[3]))
    return chosen


def frame_key(frame: bytes) -> tuple[bytes, bytes, bytes, bytes, int]:
    """Source, destination, their ports, protocol; of IPv4 without options, and IPv6 without extension headers."""
    if frame[12:14] == b"\x08\x00":
        return frame[26:30], frame[30:34], frame[34:36], frame[36:38], frame[23]
    return frame[22:38], frame[38:54], frame[54:56], frame[56:58], frame[20]


@pytest.mark.parametrize("name", ["rr5", "tcpstates"])
def test_frames_as_the_kernel_sent_them(name: str) -> None:
    """Both sides, each frame as often as the kernel sent it, and no other: rr over TCP and UDP, IPv4 and IPv6, servers
    that come, are drained and go; every state of TCP, whatever flags come; sloppy TCP."""
    one = trace(name)
    _, departures = one.replay()
    for side in (CLIENT, SERVER):
        ours, theirs = sent(departures, side), kernel(one, side)
        assert sum(theirs.values()) > 300
        assert ours == theirs
    choices = [(packed(row["real_ip"]), int(row["real_port"]).to_bytes(2, "big")) for row in one.choices()]
    if name == "rr5":
        assert servers_of(departures) == choices and len(choices) == 400


def whole_checksums(frame: bytes) -> bytes:
    """What a card makes of a frame whose checksum it was to finish."""
    packet = Ether(frame)
    layer = packet[IPv6].payload
    name = next((name for name in ("chksum", "cksum") if name in layer.fields), None)
    if name is None:
        return frame
    setattr(layer, name, None)
    return bytes(Ether(bytes(packet)))


def test_icmpv6_errors() -> None:
    """Errors of servers about IPv6 connections come to the client, rewritten outside and in what they quote."""
    one = trace("icmp6_offload")
    _, departures = one.replay(whole_checksums)
    assert sent(departures, SERVER) == kernel(one, SERVER)
    # The capture shows frames before the card finished their checksums.
    theirs = Counter(whole_checksums(frame) for frame in kernel(one, CLIENT).elements())
    assert sent(departures, CLIENT) == theirs and sum(theirs.values()) == 15


Tuple = tuple[bytes, int, int]


def with_port(frame: bytes, ports: dict[Tuple, int]) -> bytes:
    """A server's frame to the port that we drew where the kernel drew another; what an ICMP error quotes as well."""
    packet = Ether(frame)
    ip = packet[IP]
    if ICMP in ip and IPerror in ip:
        inner = ip[TCPerror] if TCPerror in ip else ip.getlayer(UDPerror)
        if inner is None:
            return frame
        new = ports.get((packed(ip[IPerror].dst), ip[IPerror].proto, inner.sport))
        if new is None:
            return frame
        if UDPerror in ip and inner.chksum:
            inner.chksum = patched(inner.chksum, inner.sport, new)
        inner.sport = new
        ip[ICMP].chksum = None
    else:
        layer = ip[TCP] if TCP in ip else ip[UDP] if UDP in ip and ip.frag == 0 else None
        if layer is None:
            return frame
        new = ports.get((packed(ip.src), ip.proto, layer.dport))
        if new is None:
            return frame
        layer.chksum = patched(layer.chksum, layer.dport, new)
        layer.dport = new
    return bytes(packet)


def patched(check: int, old: int, new: int) -> int:
    """RFC 1624, in numbers."""
    total = (~check & 0xFFFF) + (~old & 0xFFFF) + new
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def port_class(port: int) -> int:
    return 0 if port < 512 else 1 if port < 1024 else 2


def drawn_ports(one: Trace, departures: list[Departure]) -> dict[Tuple, int]:
    """By server, protocol and the source port that the kernel drew: the one that we did."""
    rows = {int(row["t_ns"]): row for row in one.choices()}
    drawn = {}
    for departure in departures:
        row = rows.pop(departure.ts_ns, None) if departure.port == SERVER and departure.port_in == CLIENT else None
        if row is not None and row["snat_port"] != row["client_port"]:
            _, server, sport, _, proto = frame_key(departure.frame)
            drawn[server, proto, int(row["snat_port"])] = int.from_bytes(sport, "big")
    return drawn


FIGURES = ("connections", "in_packets", "out_packets", "in_bytes", "out_bytes")
Figures = tuple[int, ...]


def figures(plane: vf.Dataplane) -> dict[tuple[str, ...], Figures]:
    """What services and servers have carried, by their names in ``ipvsadm -Ln --stats``."""
    out: dict[tuple[str, ...], Figures] = {}
    for service in plane.services():
        proto, _, place = str(service["name"]).partition(" ")
        name = ("FWM", "257") if proto == "fwmark" else (proto.upper(), host_port(*place.split()))
        out[name] = tuple(service[key] for key in FIGURES)
        for server in service["servers"]:
            out[*name, host_port(server["addr"], server["port"])] = tuple(server[key] for key in FIGURES)
    return out


def host_port(host: str, port: object) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def told(lines: list[str]) -> dict[tuple[str, ...], Figures]:
    """The same, as the kernel told it."""
    out: dict[tuple[str, ...], Figures] = {}
    name: tuple[str, ...] = ()
    for line in lines[3:]:
        words = line.split()
        if words[0] != "->":
            name = words[0], words[1]
        out[name if words[0] != "->" else (*name, words[1])] = tuple(map(int, words[-5:]))
    return out


@pytest.mark.parametrize("name", ["rr5", "swarm", "icmp6_offload"])
def test_counts_as_the_kernel_took_them(name: str) -> None:
    """IPVS shows what it added up last, which it does every two seconds: so there is one moment of the trace at which
    every figure is the same, of all services and servers, packets, bytes, connections."""
    one = trace(name)
    change = whole_checksums if name == "icmp6_offload" else bytes
    if name == "swarm":
        drawn = drawn_ports(one, one.replay()[1])
        change = partial(with_port, ports=drawn)
    want = told(one.dump("ipvsadm -Ln --stats"))
    plane = vf.Dataplane(one.spec())
    # A server that was removed after that moment is not told, and one that came after it has nothing yet.
    nothing = (0,) * len(FIGURES)
    agreed = [
        departure.ts_ns
        for departure in one.steps(plane, change)
        if (have := figures(plane)) and {key: have.get(key, nothing) for key in want} == want
    ]
    assert agreed and sum(want[next(iter(want))]) > 0
    if name == "rr5":
        assert len(want) == 28 and len(agreed) == 1


@pytest.mark.parametrize("name", ["rr5", "swarm", "icmp6_offload", "tcpstates"])
def test_the_account_adds_up(name: str) -> None:
    """Every frame left or was dropped for a reason, held fragments too, and what was counted is what was seen."""
    one = trace(name)
    plane, departures = one.replay(whole_checksums if name == "icmp6_offload" else bytes)
    s = plane.stats()
    assert s.packets == sum(1 for side in (CLIENT, SERVER) for _ in one.frames(side, sent=False))
    assert s.packets + s.mesh.resets == s.passed + sum(s.drops.values())
    assert s.sent == s.passed - s.flooded + s.copies - s.fragmented + s.fragments - sum(s.send_drops.values())
    dropped = Counter(departure.verdict for departure in departures if departure.port is None)
    assert dropped == Counter(s.drops) + Counter(s.send_drops)
    assert s.sent == sum(s.rules.values()) == sum(departure.port is not None for departure in departures)
    assert s.mesh.opened == sum(row["connections"] for row in plane.services())
    gone = s.mesh.opened - s.mesh.connections - s.mesh.expired
    assert gone == (36 if name == "swarm" else 0)  # with their server
    if name == "swarm":
        assert dropped[Verdict.DROP_INNER_FRAGMENT_HELD] == 4 and (s.fragmented, s.fragments) == (2, 6)


def test_as_swarm_does_it() -> None:
    """One service of several ports over TCP and UDP, masqueraded: a source port is kept while it is free, else drawn
    from its class, and no two connections have the same. Fragments leave as long as they came, closed ports are
    refused, ping is answered."""
    one = trace("swarm")
    _, first = one.replay()
    # Which port each side drew for a connection whose client's port was taken: those are random, and differ.
    rows = {int(row["t_ns"]): row for row in one.choices()}
    drawn: dict[Tuple, int] = {}
    ports = []
    for departure in first:
        row = rows.pop(departure.ts_ns, None) if departure.port == SERVER and departure.port_in == CLIENT else None
        if row is None:
            continue
        went = Ether(departure.frame)[IP]
        layer = went[TCP] if TCP in went else went[UDP]
        assert (row["real_ip"], int(row["real_port"])) == (went.dst, layer.dport)
        theirs, kept = int(row["snat_port"]), int(row["client_port"])
        ports.append((went.dst, went.proto, layer.dport, layer.sport))
        if theirs != kept:
            drawn[packed(went.dst), went.proto, theirs] = layer.sport
            assert layer.sport != kept and port_class(layer.sport) == port_class(kept) == port_class(theirs)
        else:
            assert layer.sport == kept
    held = [one.ts_ns for one in first if one.verdict == Verdict.DROP_INNER_FRAGMENT_HELD]
    assert len(ports) == 138 and len(drawn) == 39 and rows.keys() <= set(held)  # one begins with a fragment
    _, departures = one.replay(lambda frame: with_port(frame, drawn))
    theirs = kernel(one, SERVER)
    want = Counter(
        with_source(frame, drawn) if frame[23] in (6, 17) and not frame[20] & 0x3F and not frame[21] else frame
        for frame in theirs.elements()
    )
    assert sent(departures, SERVER) == want
    pings = Counter(ping_of(frame) for frame in sent(departures, CLIENT).elements())
    assert pings == Counter(ping_of(frame) for frame in kernel(one, CLIENT).elements())


def with_source(frame: bytes, ports: dict[Tuple, int]) -> bytes:
    """What the kernel sent to a server, with the port that we drew."""
    packet = Ether(frame)
    ip = packet[IP]
    layer = ip[TCP] if TCP in ip else ip[UDP]
    new = ports.get((packed(ip.dst), ip.proto, layer.sport))
    if new is not None:
        layer.chksum = patched(layer.chksum, layer.sport, new)
        layer.sport = new
    return bytes(packet)


def ping_of(frame: bytes) -> bytes:
    """A frame; an echo reply, which the director makes itself, without the identification and DF that it chooses."""
    if frame[23] != 1 or frame[34] != 0:
        return frame
    return frame[:18] + bytes(4) + frame[22:24] + bytes(2) + frame[26:]
