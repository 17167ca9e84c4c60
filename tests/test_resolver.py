"""DNS messages answered out of names: codes, flags, lengths, and what others are asked. Over UDP and TCP to others."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import dns.edns
import dns.flags
import dns.message
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vxlanfast as vf
from tests.test_names import TOML
from vxlanfast import resolver as module
from vxlanfast.addr import parse_ip
from vxlanfast.names import Names
from vxlanfast.resolver import Answer, Client, Forward, Resolver
from vxlanfast.service_spec import ServerSpec
from vxlanfast.upstream import BusyError, Upstream, answers, parse_server, system_servers

BACK = Client("back1", parse_ip("10.0.9.3"))
ALONE = Client("front2", parse_ip("10.0.8.4"))
INSIDE = Client("inside", parse_ip("10.0.7.9"))
#: A client that is on an internal network alone.
SPEC = TOML.replace("[[service]]", '[[network.endpoint]]\nport = "inside"\nip = "10.0.7.9"\n\n[[service]]', 1)


def made(profile: str = "fixed", **options: object) -> Resolver:
    plane = vf.Dataplane(vf.parse_spec(SPEC))
    return Resolver(Names(plane, empty=profile == "fixed"), profile=profile, **options)


def asked(resolver: Resolver, name: str, kind: str = "A", client: Client = BACK, **options: object) -> Answer | Forward:
    query = dns.message.make_query(name, kind, **options)
    said = resolver.answer(query.to_wire(), client)
    assert said is not None
    if isinstance(said, Answer):
        assert dns.message.from_wire(said.wire).is_response(query) or said.wire[:2] == query.to_wire()[:2]
    return said


def told(said: Answer | Forward | None) -> tuple[str, list[str]]:
    """The code and the records; "forward"."""
    if isinstance(said, Forward):
        return "forward", []
    message = dns.message.from_wire(said.wire)
    parts = *message.answer, *message.additional
    return dns.rcode.to_text(message.rcode()), sorted(f"{rrset.ttl} {data}" for rrset in parts for data in rrset)


@pytest.mark.parametrize(("name", "kind", "client", "says"), [
    ("shop", "A", BACK, ("NOERROR", ["600 10.0.8.100"])),  # also on the front, which comes first
    ("shop.back.", "A", BACK, ("NOERROR", ["600 10.0.9.100"])),
    ("shop", "AAAA", BACK, ("NOERROR", [])),
    ("tasks.shop", "A", BACK, ("NOERROR", ["5 10.0.9.3", "5 10.0.9.4"])),
    ("tasks.shop", "AAAA", BACK, ("NOERROR", ["5 2001:db8:9::3"])),
    ("tasks.shop", "ANY", BACK, ("NOERROR", ["5 10.0.9.3", "5 10.0.9.4", "5 2001:db8:9::3"])),
    ("rr", "A", BACK, ("NOERROR", ["5 10.0.9.4", "5 10.0.9.5"])),
    ("rr", "MX", BACK, ("NOERROR", [])),
    ("rr", "TXT", BACK, ("NOERROR", [])),
    ("rr", "A", ALONE, ("NXDOMAIN", [])),  # not its network, and nobody else is told
    ("rr.back", "A", ALONE, ("NXDOMAIN", [])),
    ("nosuch", "A", BACK, ("NXDOMAIN", [])),
    ("nosuch", "TXT", ALONE, ("NXDOMAIN", [])),
    ("x.secret", "A", BACK, ("NXDOMAIN", [])),
    ("shop.2", "A", ALONE, ("NXDOMAIN", [])),
    ("example.com", "A", BACK, ("forward", [])),
    ("example.com", "TXT", ALONE, ("forward", [])),
    (".", "NS", BACK, ("forward", [])),
    ("example.com", "A", INSIDE, ("SERVFAIL", [])),
    ("rr", "A", INSIDE, ("NXDOMAIN", [])),
    ("lone", "A", INSIDE, ("NOERROR", ["5 10.0.7.3"])),
    ("4.9.0.10.in-addr.arpa", "PTR", BACK, ("NOERROR", ["5 shop.2.back."])),
    ("4.9.0.10.in-addr.arpa", "A", BACK, ("NOERROR", [])),
    ("4.9.0.10.in-addr.arpa", "PTR", ALONE, ("NXDOMAIN", [])),
    ("100.9.0.10.in-addr.arpa", "PTR", BACK, ("NXDOMAIN", [])),
    ("9.0.10.in-addr.arpa", "SOA", BACK, ("NXDOMAIN", [])),
    ("10.in-addr.arpa", "SOA", BACK, ("forward", [])),
    ("1.2.0.192.in-addr.arpa", "PTR", BACK, ("forward", [])),
    ("3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.9.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", "PTR", BACK,
     ("NOERROR", ["5 shop.1.back."])),
    ("_443._tcp.shop.back", "SRV", BACK, ("NOERROR", ["600 0 0 443 shop.back.", "600 10.0.9.100"])),
    ("_81._tcp.shop.back", "SRV", BACK, ("NXDOMAIN", [])),
    ("_443._tcp.shop.back", "A", BACK, ("NOERROR", [])),
    ("_9._udp.rr", "SRV", BACK,
     ("NOERROR", ["5 0 0 9 lone.back.", "5 0 0 9 shop.2.back.", "5 10.0.9.4", "5 10.0.9.5"])),
    ("_80._tcp.nosuch", "SRV", BACK, ("forward", [])),
    ("_80._tcp.nosuch.back", "SRV", BACK, ("NXDOMAIN", [])),
    ("_80._tcp.rr", "SRV", ALONE, ("NXDOMAIN", [])),
    ("_dmarc.example.com", "TXT", BACK, ("forward", [])),
    ("example.com", "AXFR", BACK, ("REFUSED", [])),
    ("web.x", "A", Client("nosuch", b""), ("REFUSED", [])),
])  # fmt: skip
def test_profile_fixed(name: str, kind: str, client: Client, says: tuple[str, list[str]]) -> None:
    assert told(asked(made(), name, kind, client)) == says


@pytest.mark.parametrize(("name", "kind", "client", "says"), [
    ("tasks.rr", "A", BACK, ("NOERROR", ["600 10.0.9.4", "600 10.0.9.5"])),
    ("rr", "MX", BACK, ("NOERROR", [])),
    ("rr", "TXT", BACK, ("forward", [])),
    ("_9._udp.rr", "SRV", BACK, ("forward", [])),
    ("rr", "A", ALONE, ("forward", [])),
    ("nosuch", "A", BACK, ("forward", [])),
    ("nosuch", "MX", BACK, ("forward", [])),
    ("4.9.0.10.in-addr.arpa", "PTR", BACK, ("NOERROR", ["600 shop.2.back."])),
    ("100.9.0.10.in-addr.arpa", "PTR", BACK, ("forward", [])),
    ("rr", "A", INSIDE, ("SERVFAIL", [])),
])  # fmt: skip
def test_profile_swarm(name: str, kind: str, client: Client, says: tuple[str, list[str]]) -> None:
    assert told(asked(made("swarm"), name, kind, client)) == says


def test_flags() -> None:
    """Recursion available, never authoritative; not where an internal network has none."""
    for profile in ("fixed", "swarm"):
        resolver = made(profile)
        for name, client, flags in (("rr", BACK, 0x8180), ("x.example", INSIDE, 0x8102)):
            said = asked(resolver, name, "A", client)
            assert isinstance(said, Answer) and int.from_bytes(said.wire[2:4]) == flags
    query = dns.message.make_query("rr", "A", flags=0)
    assert made().answer(query.to_wire(), BACK).wire[2] == 0x80  # recursion was not desired


def test_the_case_of_the_question_is_that_of_the_answer() -> None:
    said = asked(made(), "TASKS.Rr.bAck", "A")
    assert isinstance(said, Answer)
    message = dns.message.from_wire(said.wire)
    assert {str(rrset.name) for rrset in (*message.question, *message.answer)} == {"TASKS.Rr.bAck."}


def test_every_order_is_as_likely() -> None:
    plane = vf.Dataplane(vf.parse_spec(SPEC))
    plane.add_server("rr", ServerSpec(address="10.0.9.6"))
    resolver = Resolver(Names(plane), rng=random.Random(1))
    orders: Counter[tuple[str, ...]] = Counter()
    for _ in range(600):
        said = asked(resolver, "rr")
        assert isinstance(said, Answer)
        orders[tuple(str(data) for rrset in dns.message.from_wire(said.wire).answer for data in rrset)] += 1
    assert len(orders) == 6 and min(orders.values()) > 60


# --- lengths ----------------------------------------------------------------------------------------------


def crowd(profile: str = "fixed") -> Resolver:
    plane = vf.Dataplane(vf.parse_spec(SPEC))
    for number in range(300):
        plane.add_server("rr", ServerSpec(address=f"10.1.{number // 250}.{number % 250}"))
    return Resolver(Names(plane, empty=False), profile=profile)


@pytest.mark.parametrize("profile", ["fixed", "swarm"])
@pytest.mark.parametrize(("payload", "limit"), [(None, 512), (0, 512), (600, 600), (1232, 1232), (65535, 1232)])
def test_udp_answers_are_cut(profile: str, payload: int | None, limit: int) -> None:
    """Whole records, as many as there is room for; and TC."""
    edns = {} if payload is None else {"use_edns": 0, "payload": payload}
    said = asked(crowd(profile), "rr", **edns)
    assert isinstance(said, Answer)
    message = dns.message.from_wire(said.wire)
    assert limit - 30 < len(said.wire) <= limit and message.flags & dns.flags.TC
    assert (message.edns >= 0) == (profile == "fixed" and payload is not None)


@pytest.mark.parametrize("profile", ["fixed", "swarm"])
def test_tcp_answers_are_whole(profile: str) -> None:
    query = dns.message.make_query("rr", "A").to_wire()
    said = crowd(profile).answer(query, BACK, tcp=True)
    message = dns.message.from_wire(said.wire)
    assert not message.flags & dns.flags.TC and sum(map(len, message.answer)) == 302


def test_what_goes_with_an_answer_may_be_missing_from_it() -> None:
    """Services' addresses are no part of the answer, so their lack is not said."""
    plane = vf.Dataplane(vf.parse_spec(SPEC))
    for number in range(13):
        plane.add_server("rr", ServerSpec(address=f"10.1.0.{number}", port=number + 10))
    said = asked(Resolver(Names(plane)), "_9._udp.rr", "SRV")
    message = dns.message.from_wire(said.wire)
    assert not message.flags & dns.flags.TC and sum(map(len, message.answer)) == 15
    assert sum(map(len, message.additional)) < 15


# --- hostile ----------------------------------------------------------------------------------------------

QUERY = dns.message.make_query("shop.back", "A", use_edns=0, id=7).to_wire()


@pytest.mark.parametrize(("wire", "code"), [
    (b"", None),
    (QUERY[:11], None),
    (QUERY[:2] + b"\x80" + QUERY[3:], None),  # an answer
    (QUERY[:2] + b"\x28" + QUERY[3:], 4),  # an update
    (QUERY[:12], 1),
    (QUERY[:-1], 1),
    (QUERY + b"x", 1),
    (QUERY[:4] + b"\0\0" + QUERY[6:], 1),
    (QUERY[:4] + b"\0\2" + QUERY[6:], 1),
    (QUERY[:6] + b"\xff\xff" + QUERY[8:], 1),
    (QUERY[:12] + b"\xc0\x0c" + QUERY[12:], 1),
    (QUERY[:12] + b"\x41" + QUERY[13:], 1),
    (dns.message.make_query("x.y", "A", "CH", id=8).to_wire(), 5),
])  # fmt: skip
def test_malformed(wire: bytes, code: int | None) -> None:
    for profile in ("fixed", "swarm"):
        said = made(profile).answer(wire, BACK)
        assert code is None if said is None else (said.wire[:2], said.wire[3] & 15) == (wire[:2], code)


def test_an_unknown_version_of_edns() -> None:
    query = dns.message.make_query("shop", "A", use_edns=1)
    said = made().answer(query.to_wire(), BACK)
    assert dns.message.from_wire(said.wire).rcode() == 16
    assert told(made("swarm").answer(query.to_wire(), BACK))[0] == "NOERROR"


def test_labels_that_only_look_like_names() -> None:
    """A dot within a label is none between two."""
    query = QUERY[:12] + b"\x09shop.back\x00\x00\x01\x00\x01"
    query = query[:10] + b"\0\0" + query[12:]
    for profile, code in (("fixed", "NXDOMAIN"), ("swarm", "forward")):
        assert told(made(profile).answer(query, BACK))[0] == code
    assert told(made().answer(query[:12] + b"\x04\xff\x00.K\x04bAck\x00\x00\x01\x00\x01", BACK))[0] == "NXDOMAIN"


FIXED, SWARM = made(), made("swarm")


@given(st.binary(max_size=80), st.booleans())
def test_hostile_bytes_never_raise(tail: bytes, tcp: bool) -> None:
    for start in (b"", QUERY[:12], QUERY[:4] + b"\0\1\0\0\0\0\0\0"):
        for resolver in (FIXED, SWARM):
            said = resolver.answer(start + tail, BACK, tcp=tcp)
            if isinstance(said, Forward):
                assert len(resolver.finish(said, tail)) >= 12
                said = Answer(resolver.finish(said, None))
            assert said is None or (len(said.wire) >= 12 and said.wire[2] & 0x80)


@given(st.integers(0, len(QUERY) - 1), st.integers(0, 255))
def test_any_byte_may_be_wrong(at: int, value: int) -> None:
    wire = QUERY[:at] + bytes([value]) + QUERY[at + 1 :]
    for resolver in (FIXED, SWARM):
        resolver.answer(wire, BACK)


def test_without_dnspython(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dns.message", None)
    with pytest.raises(vf.MissingLibraryError, match=r"pip install 'vxlanfast\[live\]'"):
        made()


def test_profiles_are_two() -> None:
    with pytest.raises(vf.SpecError, match="profile = 'x': fixed or swarm"):
        made("x")


# --- others' answers --------------------------------------------------------------------------------------


def forward(resolver: Resolver, tcp: bool = False) -> tuple[Forward, bytes]:
    """A question for others, and a long answer to it."""
    query = dns.message.make_query("x.example.com", "A")
    said = resolver.answer(query.to_wire(), BACK, tcp=tcp)
    answer = dns.message.make_response(query, recursion_available=True)
    answer.answer.append(dns.rrset.from_text_list("x.example.com.", 60, "IN", "A", [f"192.0.2.{n}" for n in range(99)]))
    assert isinstance(said, Forward)
    return said, answer.to_wire()


def test_others_answers_are_passed_on() -> None:
    said, answer = forward(made(), tcp=True)
    assert made().finish(said, b"xx" + answer[2:]) == answer


def test_others_answers_are_cut() -> None:
    said, answer = forward(made())
    wire = made().finish(said, answer)
    message = dns.message.from_wire(wire)
    assert message.flags & dns.flags.TC and not message.answer and len(wire) <= 512 and wire[:2] == answer[:2]


@pytest.mark.parametrize(("profile", "busy", "flags"), [
    ("fixed", False, 0x8182), ("fixed", True, 0x8185), ("swarm", False, 0x8102), ("swarm", True, 0x8105),
])  # fmt: skip
def test_nobody_answers(profile: str, busy: bool, flags: int) -> None:
    said, _ = forward(made(profile))
    assert int.from_bytes(made(profile).finish(said, None, busy=busy)[2:4]) == flags


# --- asking others ----------------------------------------------------------------------------------------

Handler = Callable[[bytes, bool], bytes | None]


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, handler: Handler) -> None:
        self.handler = handler

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: object) -> None:
        answer = self.handler(data, False)
        for part in [answer] if isinstance(answer, bytes) else answer or ():
            self.transport.sendto(part, addr)


@contextlib.asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[str]:
    """Somebody else's name server, over UDP and TCP on a port that is free."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            query = await reader.readexactly(int.from_bytes(await reader.readexactly(2)))
            answer = handler(query, True)
            if answer is not None:
                writer.write(len(answer).to_bytes(2) + answer)
        writer.close()

    loop = asyncio.get_running_loop()
    for _ in range(20):  # a port that is free of both
        streams = await asyncio.start_server(talk, "127.0.0.1", 0)
        port = streams.sockets[0].getsockname()[1]
        try:
            transport, _ = await loop.create_datagram_endpoint(lambda: _Udp(handler), local_addr=("127.0.0.1", port))
            break
        except OSError:
            streams.close()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        transport.close()
        streams.close()
        await streams.wait_closed()


def answer_to(query: bytes, code: int = 0, *, tc: bool = False) -> bytes:
    return query[:2] + bytes([query[2] | 0x80 | (2 if tc else 0), 0x80 | code]) + query[4:]


PLAIN = dns.message.make_query("X.example.com", "A").to_wire()


#: Where somebody answers: asked once, however long that takes.
PATIENT = {"timeout_s": 60.0, "total_s": 60.0}


def test_another_answers() -> None:
    seen: list[bytes] = []

    def handler(query: bytes, tcp: bool) -> bytes:
        seen.append(query)
        return answer_to(query)

    async def go() -> bytes | None:
        async with server(handler) as text:
            upstream = Upstream([text], **PATIENT)
            assert await upstream.ask(PLAIN) == answer_to(PLAIN)
            return await upstream.ask(PLAIN, tcp=True)

    assert asyncio.run(go()) == answer_to(PLAIN)
    assert [query[2:] for query in seen] == [PLAIN[2:]] * 2
    assert len({query[:2] for query in (*seen, PLAIN)}) > 1  # numbers that nobody can guess


def test_tcp_where_udp_is_cut() -> None:
    def handler(query: bytes, tcp: bool) -> bytes:
        return answer_to(query) if tcp else answer_to(query, tc=True)

    async def go() -> list[bytes | None]:
        async with server(handler) as text:
            upstream = Upstream([text], **PATIENT)
            return [await upstream.ask(PLAIN, tcp=tcp) for tcp in (False, True)]

    assert asyncio.run(go()) == [answer_to(PLAIN, tc=True), answer_to(PLAIN)]


def test_what_is_cut_stays_so_where_tcp_fails() -> None:
    def handler(query: bytes, tcp: bool) -> bytes | None:
        return None if tcp else answer_to(query, tc=True)

    async def go() -> bytes | None:
        async with server(handler) as text:
            return await Upstream([text]).ask(PLAIN, tcp=True)

    assert asyncio.run(go()) == answer_to(PLAIN, tc=True)


@pytest.mark.parametrize("code", [2, 5])
def test_who_fails_or_refuses_is_passed_over(code: int) -> None:
    async def go() -> list[bytes | None]:
        async with server(lambda q, _: answer_to(q, code)) as bad, server(lambda q, _: answer_to(q, 3)) as good:
            return [await Upstream(servers, **PATIENT).ask(PLAIN) for servers in ([bad, good], [bad])]

    assert asyncio.run(go()) == [answer_to(PLAIN, 3), None]


def test_answers_to_something_else_are_waited_past() -> None:
    """Another number, another name, a question, another type: forged, or late."""
    def handler(query: bytes, tcp: bool) -> list[bytes]:
        right = answer_to(query)
        other = bytes([right[0] ^ 1]) + right[1:]
        return [other, query, right[:13] + b"y" + right[14:], right[:-3] + b"\x1c\x00\x01", b"", right[:14], right]

    async def go() -> bytes | None:
        async with server(handler) as text:
            return await Upstream([text], **PATIENT).ask(PLAIN)

    assert asyncio.run(go()) == answer_to(PLAIN)


def test_nobody_there() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))  # silent
        silent = f"127.0.0.1:{taken.getsockname()[1]}"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
            gone.bind(("127.0.0.1", 0))
            closed = f"127.0.0.1:{gone.getsockname()[1]}"

        async def go() -> list[bytes | None]:
            async with server(lambda q, _: answer_to(q)) as good:
                quick = {"timeout_s": 0.2, "total_s": 30.0}
                return [
                    await Upstream([closed, good], **PATIENT).ask(PLAIN),
                    await Upstream([silent, good]).ask(PLAIN),
                    await Upstream([closed, silent], **quick).ask(PLAIN),
                    await Upstream([silent], timeout_s=30.0, total_s=0.1).ask(PLAIN),
                    await Upstream([]).ask(PLAIN),
                ]

        assert asyncio.run(go()) == [answer_to(PLAIN)] * 2 + [None] * 3


def test_so_many_questions_and_no_more() -> None:
    async def go() -> list[object]:
        async with server(lambda q, _: None) as silent:
            upstream = Upstream([silent], limit=2, wait_s=0.1, total_s=1.0)
            return await asyncio.gather(*(upstream.ask(PLAIN) for _ in range(6)), return_exceptions=True)

    found = asyncio.run(go())
    assert found[:2] == [None, None]
    assert [type(one) for one in found[2:]] == [BusyError] * 4
    assert str(found[5]) == "4 questions on their way"


@pytest.mark.parametrize(("text", "place"), [
    ("192.0.2.53", ("192.0.2.53", 53)), ("192.0.2.53:5353", ("192.0.2.53", 5353)),
    ("2001:db8::53", ("2001:db8::53", 53)),
    ("[2001:db8::53]", ("2001:db8::53", 53)), ("[2001:db8::53]:5353", ("2001:db8::53", 5353)),
])  # fmt: skip
def test_servers(text: str, place: tuple[str, int]) -> None:
    assert parse_server(text) == place


@pytest.mark.parametrize("text", ["", "x", "192.0.2.53:", "192.0.2.53:x", "192.0.2.53:0", "192.0.2.53:65536",
                                  "[2001:db8::53", "[2001:db8::53]5", "[x]:53", "example.com"])  # fmt: skip
def test_servers_that_are_none(text: str) -> None:
    with pytest.raises(vf.SpecError, match="upstream = "):
        parse_server(text)


def test_servers_of_the_system(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    lines = b"# x", b"nameserver 192.0.2.1", b"nameserver x", b" nameserver 2001:db8::1", b"nameserver", b"\xff"
    file.write_bytes(b"\n".join((*lines, b"nameserver 192.0.2.1", b"search nameserver", b"")))
    assert system_servers(file) == ("192.0.2.1", "2001:db8::1")
    assert system_servers(tmp_path / "none") == ()


@given(st.binary(max_size=60))
def test_hostile_answers(tail: bytes) -> None:
    for query in (PLAIN, PLAIN[:12], PLAIN[:2] + tail, PLAIN[:12] + tail):
        for answer in (tail, query[:2] + tail, answer_to(PLAIN)[:12] + tail):
            answers(query, answer)
    assert answers(PLAIN, answer_to(PLAIN) + tail)
    assert not answers(PLAIN, answer_to(PLAIN)[:14])


def test_a_refusal_without_the_question() -> None:
    bare = answer_to(PLAIN)[:3] + b"\x85" + bytes(8)
    assert answers(PLAIN, bare) and not answers(PLAIN, bare[:3] + b"\x80" + bytes(8))
    assert module.UDP_MAX == 1232
