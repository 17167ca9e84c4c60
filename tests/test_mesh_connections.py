"""What connections of services are promised: how long they are remembered, that no change of the configuration breaks
one, that no two share a port, and that what comes back is what went."""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP as IcmpLayer
from scapy.layers.inet import IP as IpLayer
from scapy.layers.inet import TCP as TcpLayer
from scapy.layers.inet import UDP as UdpLayer
from scapy.layers.inet6 import ICMPv6DestUnreach
from scapy.layers.inet6 import IPv6 as Ip6Layer
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP, SCTPChunkInit

from tests.mesh import (
    ACK,
    CLIENT,
    FIN,
    ICMP,
    ICMP6,
    MACS,
    MASQ,
    MASQ6,
    RST,
    SERVER,
    SYN,
    TCP,
    UDP,
    VIP,
    VIP6,
    Director,
    S,
    Talk,
    body,
    broken,
    client,
    csum,
    datagram,
    establish,
    frame,
    in_batches,
    key,
    packet,
    pseudo,
    segment,
    server,
    service,
    talks,
    tcp,
    text,
    udp,
)
from tests.support import SLOW_BUILD, many_inputs
from vxlanfast import Verdict as V
from vxlanfast._ext.table.wheel import TICK_NS
from vxlanfast.service_spec import ServerSpec

#: Some of it in builds in which everything is slow.
FEWER = 10 if SLOW_BUILD else 1


def spec_of(address: bytes, **rest: Any) -> ServerSpec:
    return ServerSpec(address=text(address), **rest)


# --- how long -------------------------------------------------------------------------------------------

#: How a connection gets into each state that a packet can bring it into: who sends what.
WAYS: dict[str, list[tuple[str, int]]] = {
    "SYN_RECV": [("up", SYN)],
    "ESTABLISHED": [("up", SYN), ("down", SYN | ACK), ("up", ACK)],
    "FIN_WAIT": [("up", SYN), ("down", SYN | ACK), ("up", ACK), ("down", FIN | ACK)],
    "CLOSE_WAIT": [("up", SYN), ("down", SYN | ACK), ("up", ACK), ("up", FIN | ACK)],
    "TIME_WAIT": [("up", SYN), ("down", SYN | ACK), ("up", ACK), ("up", FIN | ACK), ("down", FIN | ACK)],
    "CLOSE": [("up", SYN), ("down", SYN | ACK), ("up", ACK), ("up", RST | ACK)],
    "SYN_SENT": [("up", SYN), ("down", RST | ACK), ("down", SYN)],
}
#: Seconds, as IPVS has them.
SECONDS = {
    "SYN_RECV": 60, "ESTABLISHED": 900, "FIN_WAIT": 120, "CLOSE_WAIT": 60, "TIME_WAIT": 120, "CLOSE": 10,
    "SYN_SENT": 120,
}  # fmt: skip


def state_of(director: Director) -> str | None:
    return next((row["state"] for row in director.plane.connections()), None)


def one_tcp(director: Director, state: str, start_ns: int) -> Talk:
    """A connection in that state since ``start_ns``."""
    talk = Talk(client(5), 40_000)
    for who, flags in WAYS[state]:
        if who == "up":
            (got,) = director.send(CLIENT, [talk.up(flags)], start_ns)
            talk.served(got)
        else:
            (got,) = director.send(SERVER, [talk.down(flags)], start_ns)
            assert got is not None
    assert state_of(director) == state
    return talk


def check_lifetime(make: Callable[[], Director], begin: Callable[[Director], bytes], seconds: int) -> None:
    """It is found a nanosecond before its time; at its time it is nobody's, and gone within a tick of the wheel."""
    start = 1_700_000_000 * S + 123_456_789
    end = start + seconds * S
    for when, found in ((end - 1, True), (end, False), (end + 1, False)):
        director = make()
        again = begin(director)
        batch = director.batch(CLIENT, [again], when)
        assert (batch.conn[0] != 0xFFFFFFFF) == found, f"{when - end} ns"
    director = make()
    begin(director)
    director.batch(CLIENT, [bytes(60)], end - 1)
    assert len(director.conns) == 1
    director.batch(CLIENT, [bytes(60)], end + TICK_NS)
    assert len(director.conns) == 0 and director.mesh.expired == 1
    assert director.conns.check() is None


@pytest.mark.parametrize("semantics", ["fixed", "ipvs"])
@pytest.mark.parametrize("state", list(WAYS))
def test_tcp_is_remembered_as_long_as_ipvs_does(state: str, semantics: str) -> None:
    start = 1_700_000_000 * S + 123_456_789

    def begin(director: Director) -> bytes:
        return one_tcp(director, state, start).up(ACK)

    check_lifetime(lambda: Director(semantics=semantics), begin, SECONDS[state])


@pytest.mark.parametrize(
    ("state", "seconds", "of_service", "of_node"),
    [
        ("ESTABLISHED", 50, {"tcp_s": 50}, {}), ("ESTABLISHED", 51, {}, {"tcp_s": 51}),
        ("ESTABLISHED", 50, {"tcp_s": 50}, {"tcp_s": 51}), ("FIN_WAIT", 7, {"fin_s": 7}, {}),
        ("FIN_WAIT", 9, {}, {"fin_s": 9}), ("FIN_WAIT", 7, {"fin_s": 7}, {"fin_s": 9}),
        ("TIME_WAIT", 120, {"tcp_s": 5, "fin_s": 5, "udp_s": 5}, {"tcp_s": 6, "fin_s": 6, "udp_s": 6}),
    ],
)  # fmt: skip
def test_tcp_timeouts_that_were_set(
    state: str, seconds: int, of_service: dict[str, int], of_node: dict[str, int]
) -> None:
    """``ipvsadm --set`` knows three; a service may have its own; other states are not touched."""
    start = 1_700_000_000 * S + 123_456_789

    def begin(director: Director) -> bytes:
        return one_tcp(director, state, start).up(ACK)

    check_lifetime(lambda: Director(service(**of_service), **of_node), begin, seconds)


@pytest.mark.parametrize(
    ("seconds", "of_service", "of_node"), [(300, {}, {}), (30, {"udp_s": 30}, {"udp_s": 31}), (31, {}, {"udp_s": 31})]
)
def test_udp_is_remembered(seconds: int, of_service: dict[str, int], of_node: dict[str, int]) -> None:
    """From the last datagram on, of either side."""
    start = 1_700_000_000 * S + 123_456_789
    for answers in (False, True):

        def begin(director: Director, answers: bool = answers) -> bytes:
            first = udp(CLIENT, client(1), 5000, VIP, 53)
            (got,) = director.send(CLIENT, [first], start - 20 * S * answers)
            assert got is not None
            if answers:
                src, sport, dst, dport = key(got)
                assert None not in director.send(SERVER, [udp(SERVER, dst, dport, src, sport)], start)
            # Of another server's connection, were it scheduled anew: that of a datagram always is.
            return udp(SERVER, server(2), 53, client(1), 5000)

        def check(made: Director, again: bytes, when: int) -> bool:
            return made.batch(SERVER, [again], when).conn[0] != 0xFFFFFFFF

        for when, found in ((start + seconds * S - 1, True), (start + seconds * S, False)):
            director = Director(service(protocol="udp", port=53, **of_service), **of_node)
            assert check(director, begin(director), when) == found


def test_timeouts_of_an_applied_spec() -> None:
    """What a spec says from now on holds for the connections there are, from their next packet on."""
    director = Director()
    talk = one_tcp(director, "ESTABLISHED", S)
    director.apply(service(tcp_s=5))
    director.send(CLIENT, [talk.up(ACK)], 2 * S)
    assert director.batch(CLIENT, [talk.up(ACK)], 7 * S - 1).conn[0] != 0xFFFFFFFF
    assert director.batch(CLIENT, [talk.up(ACK)], 12 * S - 1).conn[0] == 0xFFFFFFFF


# --- changes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("semantics", ["fixed", "ipvs"])
def test_drain(semantics: str) -> None:
    """Weight 0: who is connected stays so, and nobody comes."""
    director = Director(service(servers=(2, 3, 4)), semantics=semantics)
    some = talks(10_000 // FEWER)
    establish(director, some, S)
    drained = [t for t in some if t.at[0] == server(3)]
    assert len(drained) in (len(some) // 3, len(some) // 3 + 1)
    director.plane.set_server("web", text(server(3)), weight=0)
    before = director.serving()[text(server(3))]["connections"]
    more = talks(1000, first=50_000)
    establish(director, more, 2 * S)
    assert Counter(t.at[0] for t in more) == {server(2): 500, server(4): 500}
    assert broken(director, some, 3 * S, random.Random(1)) == 0
    row = director.serving()[text(server(3))]
    assert (row["connections"], row["active"]) == (before, len(drained))
    # They end, and it is empty.
    director.send(CLIENT, [t.up(FIN | ACK) for t in drained], 4 * S)
    director.send(SERVER, [t.down(FIN | ACK) for t in drained], 4 * S)
    row = director.serving()[text(server(3))]
    assert (row["active"], row["inactive"]) == (0, len(drained))
    for _ in range(10):  # a storm is spread over batches
        director.batch(CLIENT, [bytes(60)], 125 * S)
    row = director.serving()[text(server(3))]
    assert (row["active"], row["inactive"]) == (0, 0)


@pytest.mark.parametrize("masq", [False, True])
def test_churn(masq: bool) -> None:
    """A minute in which servers come and are drained a hundred times each, and the configuration is applied twenty
    times: ten thousand connections carry every byte."""
    rng = random.Random(7)
    weights = dict.fromkeys(range(2, 7), 1)

    def now() -> Any:
        return service(
            servers=[spec_of(server(n), weight=w) for n, w in weights.items()], masq=masq, scheduler="wlc"
        )  # fmt: skip

    director = Director(now())
    count = 10_000 // FEWER
    some = talks(count // 2)
    for part in range(0, len(some), 1000):
        establish(director, some[part : part + 1000], S)
    lost = carried = 0
    for second in range(60):
        clock = (2 + second) * S
        # A server more and one less, a hundred times; of the new ones a fifth come with a spec.
        for n in range(7 + second * 100 // 60, 7 + (second + 1) * 100 // 60):
            weights[n] = 1
            if second % 3:
                director.plane.add_server("web", spec_of(server(n)))
            gone = rng.choice([n for n, weight in weights.items() if weight])
            weights[gone] = 0
            if second % 3:
                director.plane.set_server("web", text(server(gone)), weight=0)
        if second % 3 == 0:
            director.apply(now())
        more = talks(count // 120, first=len(some))
        establish(director, more, clock)
        assert {weights[t.at[0][3]] for t in more} == {1}
        some += more
        talking = rng.sample(some, len(some) // 8)
        lost += broken(director, talking, clock, rng)
        carried += len(talking)
    lost += broken(director, some, 70 * S, rng)
    assert lost == 0 and carried > 5 * count
    assert Counter(weights.values()) == {0: 100, 1: 5}
    assert len(director.conns) == len(some) and director.conns.check() is None
    counted = director.serving().values()
    assert sum(row["active"] for row in counted) == len(some)


@pytest.mark.parametrize("masq", [False, True])
@pytest.mark.parametrize("end", ["FIN", "RST"])
def test_a_port_that_is_used_again(end: str, masq: bool) -> None:
    """A client that begins anew with the port of a connection that is over is scheduled anew, and nothing is lost."""
    director = Director(service(servers=(2, 3, 4), masq=masq))
    some = talks(1000)
    rng = random.Random(3)
    served = []
    for turn in range(1, 5):
        establish(director, some, turn * S)
        assert broken(director, some, turn * S, rng) == 0
        served.append([t.at[0] for t in some])
        if end == "FIN":
            director.send(CLIENT, [t.up(FIN | ACK) for t in some], turn * S)
            director.send(SERVER, [t.down(FIN | ACK) for t in some], turn * S)
            director.send(CLIENT, [t.up(ACK) for t in some], turn * S)
        else:
            director.send(CLIENT, [t.up(RST | ACK) for t in some], turn * S)
        for t in some:
            t.seq, t.ack = rng.randrange(1 << 32), rng.randrange(1 << 32)
    assert len(director.conns) == 1000
    assert len({tuple(servers) for servers in served}) > 1  # 1,000 is no multiple of three
    assert sum(row["connections"] for row in director.serving().values()) == 4000


def test_a_removed_udp_server_is_not_waited_for() -> None:
    """The next datagram goes to another; one at most is lost."""
    director = Director(service(protocol="udp", port=53, servers=(2, 3, 4)))
    flows = [(client(n), 1024 + n) for n in range(3000)]
    frames = [udp(CLIENT, *flow, VIP, 53) for flow in flows]
    first = [key(got or b"")[2] for got in director.send(CLIENT, frames, S)]
    director.plane.remove_server("web", text(server(3)))
    lost = Counter[int]()
    for turn in range(3):
        for n, got in enumerate(director.send(CLIENT, frames, (2 + turn) * S)):
            if got is None or key(got)[2] == server(3):
                lost[n] += 1
            elif first[n] != server(3):
                assert key(got)[2] == first[n]  # nobody else moves
    assert max(lost.values(), default=0) <= 1
    assert text(server(3)) not in director.serving() and director.mesh.services.n_removed == 0


def test_as_ipvs_removed_tcp_servers_are_waited_for() -> None:
    """IPVS: silence until the server is there again, and then the connection goes on."""
    director = Director(service(servers=(2, 3)), semantics="ipvs")
    some = talks(100)
    establish(director, some, S)
    gone = [t for t in some if t.at[0] == server(3)]
    director.plane.remove_server("web", text(server(3)))
    batch = director.batch(CLIENT, [replace(t).up(ACK) for t in gone], 2 * S)
    assert batch.counts() == {V.DROP_SERVER_GONE: 50}
    assert broken(director, [t for t in some if t not in gone], 2 * S, random.Random(1)) == 0
    director.plane.add_server("web", spec_of(server(3)))
    assert broken(director, gone, 3 * S, random.Random(2)) == 0
    assert director.serving()[text(server(3))]["active"] == 50


# --- source ports ---------------------------------------------------------------------------------------


def answers(director: Director, some: dict[tuple[bytes, int], bytes], now_ns: int) -> int:
    """Every server answers what it got; how many answers do not come to the client that it is for."""
    asked = list(some.items())
    wrong = 0
    for part in in_batches(asked):  # type: ignore[arg-type]
        frames = []
        for _, got in part:  # type: ignore[misc]
            src, sport, dst, dport = key(got)
            frames.append(udp(SERVER, dst, dport, src, sport))
        for (who, _), back in zip(part, director.send(SERVER, frames, now_ns), strict=True):  # type: ignore[misc]
            wrong += back is None or key(back)[2:] != who
    return wrong


@many_inputs
def test_every_port_is_given_once() -> None:
    """64,512 connections of a masqueraded server, no two alike, and no more while all are in use: what frees one gives
    one."""
    director = Director(service(protocol="udp", port=53, masq=True), connections=1 << 17)
    rng = random.Random(5)
    flows = rng.sample([(client(n), port) for n in range(40) for port in range(1024, 65536, 23)], 66_000)
    got: dict[tuple[bytes, int], bytes] = {}
    refused = []
    for part in (flows[at : at + 2016] for at in range(0, len(flows), 2016)):  # 32 times 2,016 are 64,512
        if len(got) == 64_512:
            assert refused or answers(director, got, S) == 0
        batch = director.batch(CLIENT, [udp(CLIENT, *flow, VIP, 53) for flow in part], S)
        for i, flow in enumerate(part):
            if batch.verdict[i] == V.PASS:
                got[flow] = bytes(batch.frame(i))
            else:
                assert batch.verdict[i] == V.DROP_PORTS_FULL
                refused.append(flow)
    assert (len(got), len(refused)) == (64_512, 66_000 - 64_512)
    given = {key(frame)[1] for frame in got.values()}
    assert given == set(range(1024, 65536)) and {key(frame)[0] for frame in got.values()} == {MASQ}
    assert answers(director, got, S) == 0
    row = next(director.plane.services())
    assert row["refused"] == len(refused) == director.mesh.counters()[V.DROP_PORTS_FULL]
    began = perf_counter()
    assert director.batch(CLIENT, [udp(CLIENT, *flow, VIP, 53) for flow in refused], S).counts() == {
        V.DROP_PORTS_FULL: len(refused)
    }
    print(f"{(perf_counter() - began) / len(refused) * 1e9:.0f} ns a refused datagram, building it included")
    # A hundred go, a hundred and fifty come.
    for row in list(director.conns.rows())[:100]:
        got.pop((row["client"], row["cport"]))
        director.mesh.end_connection(row["number"])
    batch = director.batch(CLIENT, [udp(CLIENT, *flow, VIP, 53) for flow in refused[:100]], 2 * S)
    got |= {flow: bytes(batch.frame(i)) for i, flow in enumerate(refused[:100]) if batch.verdict[i] == V.PASS}
    assert answers(director, got, 2 * S) == 0 and len(got) == 64_512
    batch = director.batch(CLIENT, [udp(CLIENT, *flow, VIP, 53) for flow in refused[100:150]], 2 * S)
    assert batch.counts() == {V.DROP_PORTS_FULL: 50}
    assert {key(frame)[1] for frame in got.values()} == set(range(1024, 65536))
    assert director.conns.check() is None


@many_inputs
def test_ports_of_one_client() -> None:
    """Two services with one server, whose clients it sees: a client's port is another one's where both have it, and a
    port that comes back is given again."""
    one, other = service("one", servers=(2,), protocol="udp", port=53), service(
        "other", VIP[:3] + b"\x0b", servers=(2,), protocol="udp", port=53
    )  # fmt: skip
    director = Director(one, other, connections=1 << 17)
    frames = [udp(CLIENT, client(1), port, VIP, 53) for port in range(1024, 65536)]
    got = {}
    for part in in_batches(frames):
        for sent, out in zip(part, director.send(CLIENT, part, S), strict=True):
            assert out is not None and key(out)[:2] == key(sent)[:2]
            got[key(sent)[:2]] = out
    assert answers(director, got, S) == 0
    second = VIP[:3] + b"\x0b"
    more = [udp(CLIENT, client(1), port, second, 53) for port in (2000, 3000, 4000)]
    assert director.batch(CLIENT, more, S).counts() == {V.DROP_PORTS_FULL: 3}
    row = next(row for row in director.conns.rows() if row["cport"] == 7777)
    director.mesh.end_connection(row["number"])
    out = director.send(CLIENT, more, S)
    assert [o is None for o in out] == [False, True, True] and key(out[0] or b"")[:2] == (client(1), 7777)
    answer = udp(SERVER, server(2), 53, client(1), 7777)
    (back,) = director.send(SERVER, [answer], S)
    assert key(back or b"") == (second, 53, client(1), 2000)


def test_no_two_services_share_an_answer() -> None:
    """Virtual addresses with the same server, masqueraded and not, the same clients and ports: all answers differ."""
    vips = [VIP[:3] + bytes([n]) for n in range(10, 15)]
    specs = [
        service(f"s{n}", vip, servers=(2, 3), protocol="udp", port=53 + n % 2, target=53, masq=n < 3)
        for n, vip in enumerate(vips)
    ]  # fmt: skip
    director = Director(*specs)
    asked = [(client(n), port, vip) for n in range(20) for port in (80, 700, 40_000, 40_001) for vip in vips]
    frames = [udp(CLIENT, src, port, vip, 53 + vips.index(vip) % 2) for src, port, vip in asked]
    got = director.send(CLIENT, frames, S)
    tuples = [key(out or b"") for out in got]
    assert len(set(tuples)) == len(asked) and {t[3] for t in tuples} == {53}
    back = director.send(SERVER, [udp(SERVER, t[2], t[3], t[0], t[1]) for t in tuples], S)
    for (src, port, vip), out in zip(asked, back, strict=True):
        assert key(out or b"") == (vip, 53 + vips.index(vip) % 2, src, port)


@pytest.mark.parametrize("port", [200, 700])
def test_low_ports_stay_low(port: int) -> None:
    """The classes of the kernel: below 512, below 1024; each exhausted on its own."""
    director = Director(service(protocol="udp", port=53, masq=True), semantics="ipvs")
    frames = [udp(CLIENT, client(n), port, VIP, 53) for n in range(600)]
    batch = director.batch(CLIENT, frames, S)
    size = 511 if port == 200 else 424
    assert batch.counts() == {V.PASS: size, V.DROP_PORTS_FULL: 600 - size}
    ports = {key(bytes(batch.frame(i)))[1] for i in batch.passed()}
    assert ports == set(range(1, 512) if port == 200 else range(600, 1024))
    assert director.send(CLIENT, [udp(CLIENT, client(1), 2000, VIP, 53)], S) != [None]
    row = next(row for row in director.conns.rows() if row["mport"] == 650 - 450 * (port == 200))
    director.mesh.end_connection(row["number"])
    batch = director.batch(CLIENT, frames[-3:], S)
    assert batch.counts() == {V.PASS: 1, V.DROP_PORTS_FULL: 2}


# --- there and back -------------------------------------------------------------------------------------

_directors: dict[tuple[bool, int], Director] = {}


def director_of(masq: bool, target: int) -> Director:
    """Two services each of TCP and UDP over both families; made once."""
    if (masq, target) not in _directors:
        _directors[masq, target] = Director(
            *(
                service(f"{protocol}{family}", vip, protocol=protocol, port=80, target=target, masq=masq)
                for family, vip in ((4, VIP), (6, VIP6))
                for protocol in ("tcp", "udp")
            )
        )
    return _directors[masq, target]


def checked(raw: bytes) -> None:
    """Every checksum is what scapy computes, except one of UDP that was not given over IPv4."""
    one = Ether(raw)
    for layer in (IpLayer, TcpLayer, UdpLayer, IcmpLayer):
        if layer in one and (layer != UdpLayer or one[layer].chksum):
            del one[layer].chksum
    if Ip6Layer in one and ICMPv6DestUnreach in one:
        del one[ICMPv6DestUnreach].cksum
    assert bytes(one) == raw


def aged(ip: bytes) -> bytes:
    """A packet one hop on."""
    if ip[0] >> 4 == 6:
        return ip[:7] + bytes([ip[7] - 1]) + ip[8:]
    size = (ip[0] & 15) * 4
    head = ip[:8] + bytes([ip[8] - 1]) + ip[9:10] + bytes(2) + ip[12:size]
    return head[:10] + csum(head).to_bytes(2, "big") + head[12:] + ip[size:]


def turned(ip: bytes) -> bytes:
    """A packet with source and destination, addresses and ports, exchanged: no checksum changes."""
    six = ip[0] >> 4 == 6
    at, size = (8, 16) if six else (12, 4)
    l4 = 40 if six else (ip[0] & 15) * 4
    ip = ip[:at] + ip[at + size : at + 2 * size] + ip[at : at + size] + ip[at + 2 * size :]
    return ip[:l4] + ip[l4 + 2 : l4 + 4] + ip[l4 : l4 + 2] + ip[l4 + 4 :]


def error(src: bytes, dst: bytes, quoted: bytes) -> bytes:
    """A port-unreachable about a packet."""
    kind = (3, 3) if len(src) == 4 else (1, 4)
    proto = ICMP if len(src) == 4 else ICMP6
    l4 = struct.pack(">BBHI", *kind, 0, 0) + quoted
    check = csum((pseudo(src, dst, ICMP6, len(l4)) if len(src) == 16 else b"") + l4)
    return packet(src, dst, proto, l4[:2] + check.to_bytes(2, "big") + l4[4:])


@settings(max_examples=40 if SLOW_BUILD else 400, suppress_health_check=list(HealthCheck))
@given(
    masq=st.booleans(), target=st.sampled_from([0, 8080]), family=st.sampled_from([4, 6]),
    proto=st.sampled_from([TCP, UDP]), with_sum=st.booleans(), who=st.integers(0, 50), sport=st.integers(1, 65535),
    payload=st.binary(max_size=64) | st.just(bytes(600)),
    options=st.sampled_from([b"", bytes([1] * 4), bytes([7, 7, 4, 0, 0, 0, 0, 0])]),
    quoted=st.integers(8, 548), seq=st.integers(0, (1 << 32) - 1),
)  # fmt: skip
def test_what_comes_back_is_what_went(
    masq: bool, target: int, family: int, proto: int, with_sum: bool, who: int, sport: int, payload: bytes,
    options: bytes, quoted: int, seq: int,
) -> None:  # fmt: skip
    """Rewritten there and rewritten back, every packet is the one that it was, but for two hops; so is what an ICMP
    error quotes of it, at either side."""
    director = director_of(masq, target)
    src, vip = client(who, family), VIP if family == 4 else VIP6
    if proto == TCP:
        l4 = segment(src, sport, vip, 80, SYN, seq, 0, payload)
    else:
        l4 = datagram(src, sport, vip, 80, payload, check=with_sum or family == 6)
    sent = packet(src, vip, proto, l4, options=options if family == 4 else b"")
    (there,) = director.send(CLIENT, [frame(CLIENT, sent)], S)
    assert there is not None
    checked(there)
    assert there[:12] == MACS[SERVER][1] + MACS[SERVER][0]
    went = there[14:]
    at, size = (12, 4) if family == 4 else (8, 16)
    want = server(2, family)
    assert went[at + size : at + 2 * size] == want
    assert went[at : at + size] == ((MASQ if family == 4 else MASQ6) if masq else src)
    head = len(sent) - len(l4)
    assert went[head + 2 : head + 4] == (target or 80).to_bytes(2, "big")
    assert went[head + (20 if proto == TCP else 8) :] == payload
    # The same packet turned round is an answer: it comes back as what was sent, turned round.
    (back,) = director.send(SERVER, [frame(SERVER, turned(went))], S)
    assert back is not None and back[14:] == turned(aged(aged(sent)))
    checked(back)
    # The server's host says that nobody listens, and quotes what it got.
    n = head + quoted - (quoted == 17)  # not half of TCP's checksum, which nobody could make right
    got = aged(sent)
    (about,) = director.send(SERVER, [frame(SERVER, error(want, went[at : at + size], went[:n]))], S)
    assert about is not None
    checked_error(about, family, vip, src, got[:n])
    # The client's says so of the answer: from the client, or from a router before it.
    router = client(77, family)
    for teller in (src, router):
        answer = back[14:]
        (about,) = director.send(CLIENT, [frame(CLIENT, error(teller, vip, answer[:n]))], S)
        assert about is not None
        seen = (MASQ if family == 4 else MASQ6) if masq else teller
        checked_error(about, family, seen, want, aged(turned(went))[:n])


def checked_error(raw: bytes, family: int, src: bytes, dst: bytes, quoted: bytes) -> None:
    """An error from ``src`` to ``dst`` with right checksums that quotes exactly that."""
    ip = raw[14:]
    at, size, head = (12, 4, 20) if family == 4 else (8, 16, 40)
    assert (ip[at : at + size], ip[at + size : at + 2 * size]) == (src, dst)
    icmp = ip[head:]
    assert csum((pseudo(src, dst, ICMP6, len(icmp)) if family == 6 else b"") + icmp) == 0
    assert family == 6 or csum(ip[:20]) == 0
    assert icmp[8:] == quoted


@pytest.mark.parametrize("target", [0, 8080])
def test_sctp_has_its_own_checksum(target: int) -> None:
    """A CRC over the ports too: it is made anew where they change, and one that was wrong stays wrong."""
    director = Director(service(protocol="sctp", target=target, masq=True))
    for asked in (client(1), client(2)):  # the second gets another port
        init = bytes(SCTP(sport=5000, dport=80) / SCTPChunkInit(init_tag=7, a_rwnd=1000))
        broken = init[:8] + bytes(4) + init[12:]
        for words, right in ((init, True), (broken, False)):
            (got,) = director.send(CLIENT, [frame(CLIENT, packet(asked, VIP, 132, words))], S)
            assert got is not None
            one = Ether(got)
            said, one[SCTP].chksum = one[SCTP].chksum, None
            assert (Ether(bytes(one))[SCTP].chksum == said) == right
            assert key(got)[2:] == (server(2), target or 80)
        assert right or said == 0


@pytest.mark.parametrize("persistent_s", [0, 300])
def test_sctp_comes_to_an_end(persistent_s: int) -> None:
    """An association goes when its time has come, and its server has none left; a client is held to it as ever."""
    two = service(protocol="sctp", servers=(2, 3), persistent_s=persistent_s)
    director = Director(two)
    for port in (5000, 5001):
        init = bytes(SCTP(sport=port, dport=80) / SCTPChunkInit(init_tag=7, a_rwnd=1000))
        assert None not in director.send(CLIENT, [frame(CLIENT, packet(client(1), VIP, 132, init))], S)
    counts = sorted(one["inactive"] for one in director.serving().values())
    assert counts == ([0, 2] if persistent_s else [1, 1]) and director.conns.size == 2 + bool(persistent_s)
    director.send(CLIENT, [udp(CLIENT, client(3), 9, VIP, 9999)], 100 * S)
    assert director.conns.size == bool(persistent_s)
    assert {one["inactive"] for one in director.serving().values()} == {0}
    director.send(CLIENT, [udp(CLIENT, client(3), 9, VIP, 9999)], 1000 * S)
    assert director.conns.size == 0


def test_a_forged_error_is_nobodys() -> None:
    """An error about a packet that no connection has sent: not rewritten, and to a virtual address nowhere."""
    director = Director()
    (talk,) = talks(1)
    establish(director, [talk], S)
    quote = packet(VIP, talk.src, TCP, segment(VIP, 80, talk.src, talk.sport + 1, ACK))
    batch = director.batch(CLIENT, [frame(CLIENT, error(talk.src, VIP, quote[:28]))], S)
    assert batch.verdict[0] == V.DROP_GATEWAY_REFUSED and batch.conn[0] == 0xFFFFFFFF
    # One that is not whole, or whose own checksum is wrong, of a connection that there is.
    quote = packet(VIP, talk.src, TCP, segment(VIP, 80, talk.src, talk.sport, ACK))
    good = error(talk.src, VIP, quote[:28])
    assert director.send(CLIENT, [frame(CLIENT, good)], S) != [None]
    bad = good[:-1] + bytes([good[-1] ^ 1])
    assert director.batch(CLIENT, [frame(CLIENT, bad)], S).verdict[0] == V.DROP_UNRELATED


def test_payload_of_a_fresh_connection() -> None:
    """A word there, a word back: what ``body`` checks is what tests above rely on."""
    director = Director(service(masq=True, target=8080))
    (talk,) = talks(1)
    establish(director, [talk], S)
    assert talk.at == (server(2), 8080) and talk.seen[0] == MASQ
    (got,) = director.send(CLIENT, [talk.up(ACK, b"words")], S)
    assert body(got or b"") == b"words"
    assert director.send(CLIENT, [tcp(CLIENT, talk.src, talk.sport + 1, VIP, 80, ACK)], S) == [None]


# --- the common packet ----------------------------------------------------------------------------------


def with_options(raw: bytes) -> bytes:
    """The same packet with four bytes of options that say nothing: it has to go the general way."""
    ip = raw[14:34]
    head = bytes([0x46]) + ip[1:2] + (int.from_bytes(ip[2:4], "big") + 4).to_bytes(2, "big") + ip[4:10] + bytes(2)
    head += ip[12:20] + bytes([1] * 4)
    return raw[:14] + head[:10] + csum(head).to_bytes(2, "big") + head[12:] + raw[34:]


def without_options(raw: bytes) -> bytes:
    ip = raw[14:34]
    head = bytes([0x45]) + ip[1:2] + (int.from_bytes(ip[2:4], "big") - 4).to_bytes(2, "big") + ip[4:10] + bytes(2)
    head += ip[12:20]
    return raw[:14] + head[:10] + csum(head).to_bytes(2, "big") + head[12:] + raw[38:]


@pytest.mark.parametrize("semantics", ["fixed", "ipvs"])
def test_the_common_packet_is_no_other(semantics: str) -> None:
    """Packets of all kinds, right and wrong, in batches of any size: with options that send them the general way, and
    without, the same comes out, and is remembered."""
    rng = random.Random(11)
    specs = [
        service("web", servers=(2, 3), masq=True, tcp_s=700),
        service("dns", protocol="udp", port=53, servers=(2, 3), udp_s=20),
    ]
    common, general = Director(*specs, semantics=semantics), Director(*specs, semantics=semantics)
    some = talks(60)
    now = S
    for talk, got in zip(some, common.send(CLIENT, [t.up(SYN) for t in some], now), strict=True):
        talk.served(got)
    for talk in some:
        talk.seq -= 1
    general.send(CLIENT, [with_options(t.up(SYN)) for t in some], now)
    flows = [(client(n), 4000 + n) for n in range(30)]
    kinds = [SYN | ACK, ACK, ACK, ACK, ACK, ACK | 8, ACK | 8, FIN | ACK, RST, RST | ACK, SYN, 0, FIN]
    seen: Counter[object] = Counter()
    for turn in range(4000 // FEWER):
        side = rng.choice((CLIENT, SERVER))
        frames = []
        for _ in range(rng.choice((1, 2, 31, 32, 33, 64, 90))):
            if rng.random() < 0.3:
                who, port = rng.choice(flows)
                frames.append(
                    udp(CLIENT, who, port, VIP, 53, bytes(rng.randrange(20))) if side == CLIENT
                    else udp(SERVER, server(rng.choice((2, 3))), 53, who, port, bytes(rng.randrange(20)))
                )  # fmt: skip
                continue
            t = rng.choice(some)
            flags = rng.choice(kinds) if rng.random() < 0.2 else SYN | ACK if turn < 3 and side == SERVER else ACK
            off, back = (rng.choice((0, 0, 0, 1, -1, 300, 1 << 15, 1 << 19, 1 << 21, 1 << 31)) for _ in range(2))
            payload = bytes(rng.choice((0, 0, 1, 40)))
            if side == CLIENT:
                frames.append(tcp(CLIENT, t.src, t.sport, VIP, 80, flags, t.seq + off, t.ack + back, payload))
                t.seq += len(payload) * (off == 0)
            else:
                frames.append(tcp(SERVER, *t.at, *t.seen, flags, t.ack + off, t.seq + back, payload))
                t.ack += (len(payload) + bool(flags & SYN)) * (off == 0)
        now += rng.choice((0, 1000, S // 100, S))
        one, other = common.batch(side, frames, now), general.batch(side, [with_options(raw) for raw in frames], now)
        assert one.verdict.tolist() == other.verdict.tolist()
        assert one.rule.tolist() == other.rule.tolist() and one.conn.tolist() == other.conn.tolist()
        seen.update(one.counts())
        for i in one.passed():
            if one.conn[i] != 0xFFFFFFFF:  # what is answered is another matter
                assert bytes(one.frame(i)) == without_options(bytes(other.frame(i)))
    rows = [list(d.conns.rows()) for d in (common, general)]
    assert rows[0] == rows[1] and len(rows[0]) > 50
    assert common.conns.check() is None and common.mesh.forged == general.mesh.forged
    assert seen[V.PASS] > 20_000 // FEWER
    for ours, theirs in zip(common.plane.services(), general.plane.services(), strict=True):
        for d in (ours, theirs):
            for place in (d, *d["servers"]):
                del place["in_bytes"], place["out_bytes"]
        assert ours == theirs
