"""What a service may be told to do: with servers that go, with silence, with clients that come back, with ranges of
ports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from scapy.layers.inet import TCP as TcpLayer
from scapy.layers.l2 import Ether
from scapy.layers.sctp import (
    SCTP,
    SCTPChunkAbort,
    SCTPChunkCookieAck,
    SCTPChunkCookieEcho,
    SCTPChunkInit,
    SCTPChunkInitAck,
    SCTPChunkShutdownComplete,
)
from scapy.packet import Packet

from tests.mesh import (
    ACK,
    CLIENT,
    MACS,
    RST,
    SERVER,
    SYN,
    VIP,
    Director,
    S,
    Talk,
    client,
    csum,
    establish,
    frame,
    key,
    packet,
    server,
    service,
    talks,
    tcp,
    text,
    udp,
)  # fmt: skip
from vxlanfast import Candidate, Flow, NodeSpec, Rule, SpecError, Verdict
from vxlanfast.service_spec import PublishSpec, ServerSpec, ServiceSpec, VirtualSpec, parse_ports

NOW = 1_700_000_000 * S


def made(director: Director, side: str, frames: list[bytes], now: int) -> list[tuple[str, bytes]]:
    """Everything that leaves after these frames, rows of our own making too: (side, frame)."""
    batch = director.batch(side, frames, now)
    names = director.plane.port_names
    return [(names[batch.port_out[i]], bytes(batch.frame(i))) for i in batch.passed()]


def resets(out: list[tuple[str, bytes]]) -> dict[str, Packet]:
    """TCP resets by the side they leave by, each with a right checksum."""
    found = {}
    for side, raw in out:
        layer = Ether(raw).getlayer(TcpLayer)
        if layer is not None and layer.flags & RST:
            fresh = Ether(raw)
            del fresh[TcpLayer].chksum
            assert bytes(Ether(bytes(fresh))) == raw
            found[side] = layer
    return found


# --- servers that go ------------------------------------------------------------------------------------


@pytest.mark.parametrize("masq", [False, True])
def test_drain_is_what_happens_when_nothing_is_said(masq: bool) -> None:
    """A server that is taken away keeps what it has; who begins anew gets another."""
    director = Director(service(servers=(2, 3), masq=masq))
    some = talks(40)
    establish(director, some, NOW)
    director.apply(service(servers=(3,), masq=masq))
    assert None not in director.send(CLIENT, [t.up(ACK, b"on") for t in some], NOW + S)
    assert None not in director.send(SERVER, [t.down(ACK, b"on") for t in some], NOW + S)
    later = talks(40, first=5000)
    establish(director, later, NOW + 2 * S)
    assert {t.at[0] for t in later} == {server(3)} and {t.at[0] for t in some} == {server(2), server(3)}


def test_reset_tells_both_ends_at_once() -> None:
    """With the numbers that each of them waits for, from the address that it knows."""
    director = Director(service(removal="reset", masq=True))
    [talk] = talks(1)
    establish(director, [talk], NOW)
    director.apply(service(servers=(3,), removal="reset", masq=True))
    out = made(director, CLIENT, [udp(CLIENT, client(9), 1, VIP, 9)], NOW + S)
    told = resets(out)
    assert told.keys() == {CLIENT, SERVER}
    assert (told[CLIENT].sport, told[CLIENT].dport, told[CLIENT].seq) == (80, talk.sport, talk.ack)
    assert (told[SERVER].sport, told[SERVER].dport, told[SERVER].seq) == (talk.seen[1], talk.at[1], talk.seq)
    assert not list(director.plane.connections())
    assert director.mesh.told == 2


def test_what_is_to_be_told_outlives_a_spec() -> None:
    """Resets that no batch has carried yet, and fragments that wait for their last one, come along when a spec is
    applied."""
    director = Director(service(removal="reset"), service("other", port=81))
    [talk] = talks(1)
    establish(director, [talk], NOW)
    more, end = (bytearray(frame(CLIENT, packet(client(1), VIP, 17, bytes(size)))) for size in (16, 8))
    more[20:22], end[20:22] = b"\x20\x00", b"\x00\x02"
    for piece in (more, end):
        piece[24:26] = b"\0\0"
        piece[24:26] = csum(bytes(piece[14:34])).to_bytes(2, "big")
    assert made(director, CLIENT, [bytes(more)], NOW) == []
    director.plane.remove_server("web", text(talk.at[0]))
    director.apply(service(servers=(3,), removal="reset"), service("other", port=81))
    director.apply(service(servers=(3,), removal="reset"))
    assert resets(made(director, CLIENT, [udp(CLIENT, client(9), 1, VIP, 9)], NOW + S)).keys() == {CLIENT, SERVER}
    batch = director.batch(CLIENT, [bytes(end)], NOW + S)
    assert batch.rule[0] == Rule.RULE_REFUSED, "whole, and for nobody"


def test_hold_waits_as_ipvs_does() -> None:
    """Client packets are dropped, and counted, until the server is back: then the connection goes on."""
    spec = service(servers=(2, 3), removal="hold")
    director = Director(spec)
    some = talks(2)
    establish(director, some, NOW)
    director.apply(replace(spec, server=(spec.server[1],)))
    [gone] = [t for t in some if t.at[0] == server(2)]
    assert director.send(CLIENT, [gone.up(ACK, b"?")], NOW + S) == [None]
    assert director.plane.stats().drops[Verdict.DROP_SERVER_GONE] == 1
    director.apply(spec)
    assert None not in director.send(CLIENT, [gone.up(ACK, b"!")], NOW + 2 * S)


def test_reschedule_begins_anew() -> None:
    """Data of a connection whose server went is refused at once, so that the client connects again, to another
    server."""
    spec = service(servers=(2, 3), removal="reschedule")
    director = Director(spec)
    some = talks(2)
    establish(director, some, NOW)
    director.apply(replace(spec, server=(spec.server[1],)))
    [gone] = [t for t in some if t.at[0] == server(2)]
    told = resets(made(director, CLIENT, [gone.up(ACK, b"?")], NOW + S))
    assert told.keys() == {CLIENT}
    again = Talk(gone.src, gone.sport, seq=99_999)
    establish(director, [again], NOW + 2 * S)
    assert again.at[0] == server(3)


def test_silence_is_told_where_that_is_asked_for() -> None:
    """An open connection that lapses is reset at both ends; one that has no such service just lapses, as in IPVS."""
    for asked in (True, False):
        director = Director(service(reset_idle=asked, tcp_s=60))
        [talk] = talks(1)
        establish(director, [talk], NOW)
        out = made(director, CLIENT, [udp(CLIENT, client(9), 1, VIP, 9)], NOW + 61 * S)
        assert set(resets(out)) == ({CLIENT, SERVER} if asked else set())
        assert not list(director.plane.connections())


# --- clients that come back -----------------------------------------------------------------------------


def open_one(director: Director, n: int, sport: int, now: int) -> bytes:
    """Which server a new connection of client ``n`` gets."""
    talk = Talk(client(n), sport)
    establish(director, [talk], now)
    return talk.at[0]


def test_a_client_stays_with_its_server() -> None:
    """For so long from its last new connection on; others are spread as ever, and its other services are others."""
    director = Director(service(servers=(2, 3, 4), persistent_s=30), service("other", port=81, servers=(2, 3, 4)))
    first = open_one(director, 1, 1000, NOW)
    assert {open_one(director, n, 1000, NOW) for n in range(2, 30)} == {server(n) for n in (2, 3, 4)}
    held = [row for row in director.plane.connections(NOW) if row["state"] == "NONE"]
    assert len(held) == 29 and {row["cport"] for row in held} == {0} and {row["protocol"] for row in held} == {"TCP"}
    for turn in range(1, 20):
        assert open_one(director, 1, 1000 + turn, NOW + turn * 29 * S) == first
    # A server that is drained or gone keeps nobody.
    director.plane.set_server("web", text(first), weight=0)
    second = open_one(director, 1, 5000, NOW + 560 * S)
    assert second != first
    assert open_one(director, 1, 5001, NOW + 561 * S) == second
    director.plane.remove_server("web", text(second))
    assert open_one(director, 1, 5002, NOW + 562 * S) not in (first, second)


def test_a_prefix_is_one_client() -> None:
    director = Director(service(servers=(2, 3, 4), persistent_s=300, persistent4=24))
    of = {open_one(director, n, 1000, NOW) for n in range(256)}
    assert len(of) == 1
    assert len({open_one(director, 256 * n, 1001, NOW) for n in range(20)}) == 3


def test_how_long_a_client_is_held() -> None:
    """Traffic does not prolong it, connections do by a minute at a time (IPVS: "runs out while it has connections")."""
    for semantics in ("fixed", "ipvs"):
        director = Director(service(servers=(2, 3), persistent_s=30), semantics=semantics)
        [talk] = talks(1)
        establish(director, [talk], NOW)
        home = talk.at[0]
        for turn in range(1, 8):
            director.send(CLIENT, [talk.up(ACK, b"x")], NOW + turn * 10 * S)
            director.send(CLIENT, [tcp(CLIENT, client(9), turn, VIP, 9, RST)], NOW + turn * 10 * S)
        assert open_one(director, 0, 2, NOW + 75 * S) == home, "the connection holds it"
        lapsed = Director(service(servers=(2, 3), persistent_s=30), semantics=semantics)
        one = open_one(lapsed, 0, 2, NOW)
        # With the connection gone nothing holds it beyond its time.
        two = open_one(lapsed, 0, 3, NOW + 2000 * S)
        assert {one, two} == {server(2), server(3)}, "the next in turn"


# --- ports ----------------------------------------------------------------------------------------------


def test_a_range_is_one_object() -> None:
    """Sixty thousand ports are one match; each keeps its place behind the target, or its number where none is given."""
    for target in (0, 5000):
        director = Director(service(port="2000-62000", target=min(target, 3535)))
        assert len(director.mesh.services.matches) == 1
        for port in (2000, 2001, 40_000, 62_000):
            [got] = director.send(CLIENT, [tcp(CLIENT, client(1), 9, VIP, port, SYN)], NOW)
            assert got is not None and key(got)[3] == (port if not target else 3535 + port - 2000)
        for port in (1999, 62_001):
            assert director.send(CLIENT, [tcp(CLIENT, client(1), 9, VIP, port, SYN)], NOW) == [None]


@pytest.mark.parametrize("bad", ["", "0", "5-4", "80-", "x", "1-65536", "-1", 70000, "8000–8010"])
def test_what_is_no_range(bad: Any) -> None:
    with pytest.raises(SpecError, match="port"):
        parse_ports("port", bad)


def test_a_port_before_an_address() -> None:
    """What is told of one port, or of a range, goes before what is told of all."""
    virtual = [VirtualSpec(network="clients", address=text(VIP), protocol="tcp", port=p) for p in (80, "81-90")]
    anything = VirtualSpec(network="clients", address=text(VIP))
    specs = [
        ServiceSpec(name=str(n), servers_in="servers", virtual=(v,), server=(ServerSpec(address=text(server(n))),))
        for n, v in enumerate([*virtual, anything], 2)
    ]
    director = Director(*specs)
    for port, n in ((80, 2), (81, 3), (91, 4)):
        [got] = director.send(CLIENT, [tcp(CLIENT, client(1), 9, VIP, port, SYN)], NOW)
        assert got is not None and key(got)[2] == server(n)


def test_sources_and_bind() -> None:
    """A published port may be open to some prefixes alone, and on some of the node's addresses."""
    base = Director().spec
    publish = PublishSpec(network="clients", published=8080, target=80, sources=("100.64.0.0/16",))
    both = ServiceSpec(
        name="web", servers_in="servers", publish=(publish,), server=(ServerSpec(address=text(server(2))),)
    )  # fmt: skip
    director = Director(both)
    node = b"\xc6\x33\x64\x01"  # 198.51.100.1
    inside, outside = client(1), b"\x08\x08\x08\x08"
    assert None not in director.send(CLIENT, [tcp(CLIENT, inside, 1, node, 8080, SYN)], NOW)
    assert director.send(CLIENT, [tcp(CLIENT, outside, 1, node, 8080, SYN)], NOW) == [None]
    assert director.plane.stats().drops == {Verdict.DROP_SOURCE_REFUSED: 1}
    with pytest.raises(SpecError, match=r"bind = '192\.0\.2\.77'.*no address of network clients"):
        replace(base, service=(replace(both, publish=(replace(publish, bind=("192.0.2.77",)),)),))


def test_host_mode_reaches_tasks_of_this_node_alone() -> None:
    """And keeps the client's address; without a task here the port is not open."""
    here = ServerSpec(address=text(server(2)))
    elsewhere = ServerSpec(address="10.0.9.255")
    publish = PublishSpec(network="clients", published=8080, target=80, mode="host")
    both = ServiceSpec(
        name="web", servers_in="servers", publish=(publish,), server=(here, elsewhere), masquerade=("10.0.9.1",)
    )  # fmt: skip
    node = b"\xc6\x33\x64\x01"
    director = Director(both)
    for turn in range(4):
        [got] = director.send(CLIENT, [tcp(CLIENT, client(1), turn, node, 8080, SYN)], NOW)
        assert got is not None and (key(got)[0], key(got)[2]) == (client(1), server(2))
    director = Director(replace(both, server=(elsewhere,)))
    assert resets(made(director, CLIENT, [tcp(CLIENT, client(1), 1, node, 8080, SYN)], NOW)).keys() == {CLIENT}


def test_no_packet_waits_for_a_table_of_maglevs() -> None:
    """Buckets are shared out when servers change, not by the packet that comes next."""
    director = Director(service(scheduler="mh", servers=range(2, 250)))
    table = director.mesh.services
    assert table.settle() == 0
    director.plane.set_server("web", text(server(9)), weight=3)
    director.plane.remove_server("web", text(server(10)))
    director.plane.add_server("web", ServerSpec(address=text(server(10))))
    director.apply(service(scheduler="mh", servers=range(2, 100)))
    assert table.settle() == 0
    establish(director, talks(5), NOW)


def test_a_scheduler_in_python() -> None:
    """It is asked once a connection, for servers that take one; what it does wrong refuses the connection."""
    asked: list[Flow] = []

    def nearest(flow: Flow, servers: Sequence[Candidate]) -> Candidate | None:
        asked.append(flow)
        assert all(candidate.weight for candidate in servers)
        if flow.client_port == 13:
            raise RuntimeError("unlucky")
        if flow.client_port == 14:
            return Candidate("192.0.2.1", 0, 1, 0, 0)
        return None if flow.client_port == 15 else min(servers, key=lambda candidate: candidate.address)

    director = Director(service(servers=(3, 2, 4), scheduler=nearest))
    talk = Talk(client(1), 1000)
    establish(director, [talk], NOW)
    assert talk.at[0] == server(2) and asked == [Flow(text(client(1)), 1000, text(VIP), 80)]
    director.plane.set_server("web", text(server(2)), weight=0)
    other = Talk(client(1), 1001)
    establish(director, [other], NOW)
    assert other.at[0] == server(3)
    for port in (13, 14, 15):
        assert director.send(CLIENT, [tcp(CLIENT, client(1), port, VIP, 80, SYN)], NOW) == [None]
    table = director.mesh.services
    assert table.plugin_errors == 2 and isinstance(table.plugin_error, KeyError)
    [row] = director.plane.services()
    assert (row["scheduler"], row["refused"], row["connections"]) == ("python", 3, 2)
    director.apply(service(servers=(3, 2, 4)))
    assert next(director.plane.services())["scheduler"] == "rr"


def test_a_spec_that_asks_for_the_impossible() -> None:
    spec: NodeSpec = Director().spec
    for change, match in [
        ({"removal": "shoot"}, "removal = 'shoot'"), ({"scheduler": "best"}, "scheduler = 'best'"),
        ({"masquerade": ("10.0.9.1", "10.0.9.2")}, "one address of a family"), ({"persistent4": 33}, "0 to 32"),
        ({"servers_in": "nowhere"}, "servers_in = 'nowhere'"),
    ]:  # fmt: skip
        with pytest.raises(SpecError, match=match):
            replace(spec, service=(replace(spec.service[0], **change),))  # type: ignore[arg-type]


# --- SCTP -----------------------------------------------------------------------------------------------


def sctp(side: str, src: bytes, sport: int, dst: bytes, dport: int, *chunks: Packet, tag: int = 0) -> bytes:
    """A packet of SCTP with a right checksum."""
    layer = SCTP(sport=sport, dport=dport, tag=tag)
    for chunk in chunks:
        layer = layer / chunk
    return frame(side, packet(src, dst, 132, bytes(layer)))


def test_sctp_from_handshake_to_end() -> None:
    """INIT opens, COOKIE ACK establishes, a blind ABORT does nothing, one with the tag ends it; closed for a minute."""
    director = Director(service(protocol="sctp", masq=True))
    src, at = client(1), server(2)
    steps = [
        (CLIENT, SCTPChunkInit(init_tag=111), 0, "INIT"), (SERVER, SCTPChunkInitAck(init_tag=222), 111, "COOKIE"),
        (CLIENT, SCTPChunkCookieEcho(cookie=b"c"), 222, "COOKIE"), (SERVER, SCTPChunkCookieAck(), 111, "ESTABLISHED"),
        (CLIENT, SCTPChunkAbort(), 999, "ESTABLISHED"), (CLIENT, SCTPChunkAbort(), 222, "CLOSED"),
    ]  # fmt: skip
    for turn, (side, chunk, tag, state) in enumerate(steps):
        ends = (src, 700, VIP, 80) if side == CLIENT else (at, 80, bytes([10, 0, 9, 1]), 700)
        [got] = director.send(side, [sctp(side, *ends, chunk, tag=tag)], NOW + turn * S)
        assert got is not None
        [row] = director.plane.connections(NOW + turn * S)
        assert row["state"] == state, f"after {chunk.summary()}"
    assert row["left_s"] == 60 and director.mesh.forged == 1
    # Nothing but INIT begins one.
    assert director.send(CLIENT, [sctp(CLIENT, src, 701, VIP, 80, SCTPChunkCookieEcho(cookie=b"c"))], NOW) == [None]
    # A closed one begins anew, and so it is scheduled anew.
    [got] = director.send(CLIENT, [sctp(CLIENT, src, 700, VIP, 80, SCTPChunkInit(init_tag=7))], NOW + 9 * S)
    [row] = director.plane.connections(NOW + 9 * S)
    assert got is not None and row["state"] == "INIT"
    done = sctp(SERVER, at, 80, bytes([10, 0, 9, 1]), 700, SCTPChunkShutdownComplete(), tag=7)
    director.send(SERVER, [done], NOW + 9 * S)
    [row] = director.plane.connections(NOW + 9 * S)
    assert row["state"] == "CLOSED"


def test_rules_say_what_was_done() -> None:
    director = Director()
    frames = [tcp(CLIENT, client(1), 1, VIP, 80, SYN), tcp(CLIENT, client(1), 2, VIP, 80, ACK)]
    batch = director.batch(CLIENT, frames, NOW)
    assert list(batch.rule) == [Rule.RULE_BALANCED, Rule.RULE_RESET]
    assert list(batch.conn) == [0, 0xFFFFFFFF]
    assert MACS[CLIENT][1] == bytes(batch.frame(1)[:6])
