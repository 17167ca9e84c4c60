"""A resolver's frames, as scapy reads and writes them, and as the kernel's own clients see them."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import dns.flags
import dns.message
import dns.query
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, in4_chksum
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

import vxlanfast as vf
from tests.lab import inside, ip, namespaces, need_root
from tests.test_names import TOML
from tests.test_resolver import answer_to, server
from vxlanfast.addr import parse_ip
from vxlanfast.nameserver import NameServer
from vxlanfast.service_spec import ServerSpec
from vxlanfast.stub import Stub
from vxlanfast.stub_tcp import LATER, Caller, Later
from vxlanfast.upstream import Upstream

MAC, OTHER = "02:42:0a:00:09:fd", "02:42:0a:00:09:03"
OWN4, OWN6, HIS4, HIS6 = "10.0.9.253", "2001:db8:9::253", "10.0.9.3", "2001:db8:9::3"
SECOND = 1_000_000_000


@dataclass
class Said:
    """Who answers ``stub``: what he was asked, and what he says."""

    answer: Callable[[bytes], bytes | Later | None] = lambda query: b"answer to " + query
    asked: list[tuple[Caller, bytes]] = field(default_factory=list)

    def __call__(self, caller: Caller, query: bytes) -> bytes | Later | None:
        self.asked.append((caller, query))
        return self.answer(query)


def stub(said: Said | None = None, **options: Any) -> Stub:
    mac = bytes.fromhex(MAC.replace(":", ""))
    return Stub(mac, [parse_ip(OWN4), parse_ip(OWN6)], said or Said(), rng=random.Random(1), **options)


def net(family: int, **options: Any) -> Packet:
    """Ethernet and IP of the client."""
    ether = Ether(src=OTHER, dst=MAC)
    return ether / (IP(src=HIS4, dst=OWN4, **options) if family == 4 else IPv6(src=HIS6, dst=OWN6, **options))


def exact(frame: bytes) -> Packet:
    """As scapy reads it; what scapy computes of it has to be what it has."""
    packet = Ether(frame)
    again = packet.copy()
    for layer in (IP, TCP, UDP, ICMP, ICMPv6EchoReply, ICMPv6DestUnreach):
        if layer in again:
            for name in ("chksum", "cksum"):
                if name in again[layer].fields:
                    delattr(again[layer], name)
    if IP in again:
        again[IP].len = None
    else:
        again[IPv6].plen = None
    if UDP in again and ICMP not in again and ICMPv6DestUnreach not in again:
        again[UDP].len = None
    if ICMP not in again and ICMPv6DestUnreach not in again:
        assert bytes(again) == frame
    else:
        assert Ether(bytes(again))[1].summary() == packet[1].summary()
        outer = ICMP if ICMP in packet else ICMPv6DestUnreach
        shown = Ether(bytes(again))[outer]
        assert getattr(shown, "chksum", None) == getattr(packet[outer], "chksum", None)
        assert getattr(shown, "cksum", None) == getattr(packet[outer], "cksum", None)
    assert (packet.src, packet.dst) == (MAC, OTHER)
    return packet


FAMILIES = pytest.mark.parametrize("family", [4, 6])


@FAMILIES
def test_a_datagram_is_answered(family: int) -> None:
    said = Said()
    frame = bytes(net(family) / UDP(sport=4000, dport=53) / Raw(b"question"))
    [answer] = stub(said).frames("veth1", frame + bytes(20), 0)  # with Ethernet's padding
    packet = exact(answer)
    layer = packet[IP if family == 4 else IPv6]
    assert (layer.src, layer.dst) == ((OWN4, HIS4) if family == 4 else (OWN6, HIS6))
    assert (packet[UDP].sport, packet[UDP].dport) == (53, 4000) and bytes(packet[UDP].payload) == b"answer to question"
    [(caller, query)] = said.asked
    assert (caller.port, caller.number, caller.serial, query) == ("veth1", 4000, 0, b"question")
    assert family == 6 or (packet[IP].flags == "DF" and packet[IP].frag == 0)


def test_a_datagram_without_a_checksum() -> None:
    """IPv4's may (RFC 768), IPv6's may not (RFC 8200 §8.1)."""
    for family, count in ((4, 1), (6, 0)):
        said = Said()
        stub(said).frames("veth1", bytes(net(family) / UDP(sport=4000, dport=53, chksum=0) / Raw(b"q")), 0)
        assert len(said.asked) == count


def test_options_of_ipv4_are_passed_over() -> None:
    frame = bytes(net(4, options=[]) / UDP(sport=4000, dport=53) / Raw(b"q"))
    with_options = bytearray(frame[:14] + b"\x46" + frame[15:34] + b"\1\1\1\0" + frame[34:])
    with_options[16:18] = (int.from_bytes(frame[16:18]) + 4).to_bytes(2)
    ip_layer = IP(bytes(with_options[14:]))
    ip_layer.chksum = None
    assert len(stub().frames("veth1", bytes(with_options[:14]) + bytes(ip_layer), 0)) == 1


@pytest.mark.parametrize("size", [0, 1, 56, 1300])
@FAMILIES
def test_ping(family: int, size: int) -> None:
    echo = ICMP(id=7, seq=9) if family == 4 else ICMPv6EchoRequest(id=7, seq=9)
    data = (bytes(range(256)) * 6)[:size]
    [answer] = stub().frames("veth1", bytes(net(family) / echo / Raw(data)), 0)
    packet = exact(answer)
    reply = packet[ICMP] if family == 4 else packet[ICMPv6EchoReply]
    assert (reply.type, reply.id, reply.seq) == (0 if family == 4 else 129, 7, 9)
    assert (bytes(reply.payload) if family == 4 else reply.data) == data


@FAMILIES
def test_other_ports_are_refused(family: int) -> None:
    said = Said()
    asked = net(family) / UDP(sport=4000, dport=54) / Raw(bytes(1200))
    [answer] = stub(said).frames("veth1", bytes(asked), 0)
    packet = exact(answer)
    error = packet[ICMP] if family == 4 else packet[ICMPv6DestUnreach]
    assert (error.type, error.code) == ((3, 3) if family == 4 else (1, 4))
    quoted = bytes(error)[8:]
    assert bytes(asked)[14:].startswith(quoted) and len(answer) - 14 == (576 if family == 4 else 1280)
    for flags, number in (("S", 100), ("SA", 101), ("FPU", 102), ("", 103)):
        frame = bytes(net(family) / TCP(sport=4000, dport=80, seq=number, ack=7, flags=flags) / Raw(b"xyz"))
        packet = exact(*stub(said).frames("veth1", frame, 0))
        taken = number + 3 + ("S" in flags) + ("F" in flags)
        got = packet[TCP]
        assert (got.sport, got.dport) == (80, 4000)
        want = ("R", 7, 0) if "A" in flags else ("RA", 0, taken)
        assert (got.flags, got.seq, got.ack) == want
    assert stub(said).frames("veth1", bytes(net(family) / TCP(sport=4000, dport=80, flags="R")), 0) == []
    assert not said.asked


def broken() -> Iterator[tuple[str, bytes]]:
    """Frames that nothing is said to."""
    good = bytes(net(4) / UDP(sport=4000, dport=53) / Raw(b"q"))
    good6 = bytes(net(6) / UDP(sport=4000, dport=53) / Raw(b"q"))
    yield "nothing", b""
    yield "another's MAC", b"\x02" + bytes(5) + good[6:]
    yield "a broadcast", b"\xff" * 6 + good[6:]
    yield "from a group", good[:6] + b"\x01" + good[7:]
    yield "a tag", good[:12] + b"\x81\x00\x00\x05" + good[12:]
    yield "ARP", good[:12] + b"\x08\x06" + good[14:]
    yield "IPv4's checksum", good[:24] + bytes([good[24] ^ 1]) + good[25:]
    yield "UDP's checksum", good[:-1] + b"r"
    yield "UDP's checksum, IPv6", good6[:-1] + b"r"
    for name, options in {
        "a fragment": {"flags": "MF"}, "a last fragment": {"frag": 3}, "another's address": {"dst": "10.0.9.252"},
        "from us": {"src": OWN4}, "from a group": {"src": "224.0.0.1"}, "from nobody": {"src": "0.0.0.0"},
        "from everybody": {"src": "255.255.255.255"}, "from 127": {"src": "127.0.0.1"},
        "another version": {"version": 5}, "a short header": {"ihl": 4}, "a long header": {"ihl": 15},
        "too long": {"len": 999}, "too short": {"len": 19}, "another protocol": {"proto": 99},
    }.items():  # fmt: skip
        fields = {"src": HIS4, "dst": OWN4, **options}
        yield name, bytes(Ether(src=OTHER, dst=MAC) / IP(**fields) / UDP(sport=4000, dport=53) / Raw(b"q"))
    for name, options in {
        "another's address, IPv6": {"dst": "2001:db8:9::1"}, "from us, IPv6": {"src": OWN6},
        "from a group, IPv6": {"src": "ff02::1"}, "from nobody, IPv6": {"src": "::"}, "from ::1": {"src": "::1"},
        "another version, IPv6": {"version": 5}, "too long, IPv6": {"plen": 999}, "a fragment, IPv6": {"nh": 44},
    }.items():  # fmt: skip
        fields = {"src": HIS6, "dst": OWN6, **options}
        yield name, bytes(Ether(src=OTHER, dst=MAC) / IPv6(**fields) / UDP(sport=4000, dport=53) / Raw(b"q"))
    for name, options in {"UDP too short": {"len": 7}, "UDP too long": {"len": 99}, "port 0": {"sport": 0}}.items():
        fields = {"sport": 4000, "dport": 53, **options}
        yield name, bytes(net(4) / UDP(**fields) / Raw(b"q"))
    yield "UDP's header cut", bytes(net(4, proto=17) / Raw(b"1234567"))
    yield "TCP's header cut", bytes(net(4, proto=6) / Raw(bytes(19)))
    yield "TCP's checksum", bytes(net(4) / TCP(sport=4000, dport=53, chksum=1))
    yield "TCP's header too short", bytes(net(4) / TCP(sport=4000, dport=53, dataofs=4))
    yield "TCP's header too long", bytes(net(4) / TCP(sport=4000, dport=53, dataofs=9))
    yield "ping's checksum", bytes(net(4) / ICMP(chksum=1))
    yield "ping's header cut", bytes(net(4, proto=1) / Raw(b"\x08\0\xf7\xff"))
    yield "a ping's answer", bytes(net(4) / ICMP(type=0))
    yield "another code", bytes(net(4) / ICMP(type=8, code=1))
    yield "ICMPv6 over IPv4", bytes(net(4, proto=58) / Raw(bytes(8)))
    yield "ICMP over IPv6", bytes(net(6, nh=1) / Raw(bytes(ICMP())))


@pytest.mark.parametrize("frame", [pytest.param(frame, id=name) for name, frame in broken()])
def test_silence(frame: bytes) -> None:
    said = Said()
    assert stub(said).frames("veth1", frame, 0) == [] and not said.asked


@pytest.mark.parametrize("kind", ["udp4", "udp6", "tcp4", "tcp6", "ping4", "ping6"])
@settings(max_examples=60)
@given(data=st.data())
def test_cut_and_turned_frames(kind: str, data: st.DataObject) -> None:
    """Cut anywhere, any byte another: no answer but a checked one, and never an exception."""
    family = int(kind[-1])
    inner = {
        "udp": UDP(sport=4000, dport=53) / Raw(b"q" * 20),
        "tcp": TCP(sport=4000, dport=53, flags="S", options=[("MSS", 1400), ("NOP", None), ("WScale", 7)]),
        "ping": ICMP() if family == 4 else ICMPv6EchoRequest(),
    }
    frame = bytes(net(family) / inner[kind[:-1]])
    made = stub()
    cut = data.draw(st.integers(0, len(frame)))
    made.frames("veth1", frame[:cut], 0)
    at, value = data.draw(st.integers(0, len(frame) - 1)), data.draw(st.integers(0, 255))
    made.frames("veth1", frame[:at] + bytes([value]) + frame[at + 1 :], 0)
    made.frames("veth1", data.draw(st.binary(max_size=80)), 0)


# --- TCP --------------------------------------------------------------------------------------------------


class Peer:
    """A client's end of a connection, written with scapy; it says exactly what the test says."""

    def __init__(self, made: Stub, family: int = 4, *, sport: int = 4000, mss: int | None = 1000, window: int = 65535,
                 port: str = "veth1") -> None:  # fmt: skip
        self.stub, self.family, self.sport, self.port = made, family, sport, port
        self.window, self.now = window, 0
        self.seq, self.ack = 1000, 0
        self.mss = mss

    def send(self, flags: str, data: bytes = b"", **options: Any) -> list[Packet]:
        fields = {"seq": self.seq, "ack": self.ack, "window": self.window, **options}
        if flags == "S" and self.mss:
            fields["options"] = [("NOP", None), ("MSS", self.mss), ("SAckOK", b"")]
        frame = bytes(net(self.family) / TCP(sport=self.sport, dport=53, flags=flags, **fields) / Raw(data))
        return [exact(one) for one in self.stub.frames(self.port, frame, self.now)]

    def open(self) -> Peer:
        [answer] = self.send("S")
        assert answer[TCP].flags == "SA" and answer[TCP].ack == 1001
        self.seq, self.ack = 1001, (answer[TCP].seq + 1) & 0xFFFFFFFF
        assert self.send("A") == []
        return self

    def ask(self, *queries: bytes) -> list[Packet]:
        data = b"".join(len(one).to_bytes(2) + one for one in queries)
        answers = self.send("PA", data)
        self.seq += len(data)
        return answers

    def take(self, packets: list[Packet]) -> bytes:
        """What came in order; the next thing sent says so."""
        data = b""
        for packet in packets:
            assert packet[TCP].seq == self.ack
            body = bytes(packet[TCP].payload)
            data += body
            self.ack = (self.ack + len(body) + ("F" in packet[TCP].flags)) & 0xFFFFFFFF
        return data

    def later(self, seconds: float) -> list[Packet]:
        self.now += int(seconds * SECOND)
        return [exact(frame) for frame in self.stub.tick(self.now)]


def framed(*answers: bytes) -> bytes:
    return b"".join(len(one).to_bytes(2) + one for one in answers)


@FAMILIES
def test_a_connection(family: int) -> None:
    said = Said()
    peer = Peer(stub(said), family).open()
    answers = peer.ask(b"one")
    assert peer.take(answers) == framed(b"answer to one") and answers[0][TCP].ack == peer.seq
    assert peer.send("A") == []
    assert peer.take(peer.ask(b"two", b"three")) == framed(b"answer to two", b"answer to three")
    [fin] = peer.send("FA")
    assert fin[TCP].flags == "FA" and fin[TCP].ack == peer.seq + 1
    peer.seq, peer.ack = peer.seq + 1, peer.ack + 1
    assert peer.send("A") == [] and len(peer.stub.tcp) == 0
    assert {caller.serial for caller, _ in said.asked} == {1}


def test_options_of_the_handshake() -> None:
    """Our own MSS is what the MTU leaves; his is kept to, also where he says nothing, or nonsense."""
    for mss, size in ((1000, 1000), (None, 536), (1, 64), (9000, 1360)):
        peer = Peer(stub(Said(lambda q: bytes(5000)), mtu=1400), mss=mss)
        [answer] = peer.send("S")
        assert dict(answer[TCP].options)["MSS"] == 1360
        peer.seq, peer.ack = 1001, answer[TCP].seq + 1
        assert len(peer.ask(b"q")[0][TCP].payload) == size
    for options in (b"\2", b"\2\1\0\0", b"\2\4", b"\3\0", b"\0\2\4\4\0", b"\xff\xff"):
        frame = bytearray(bytes(net(4) / TCP(sport=4000, dport=53, flags="S", options=[("Timestamp", (1, 2))])))
        frame[50:52], frame[54:66] = b"\0\0", options.ljust(12, b"\0")
        frame[50:52] = in4_chksum(socket.IPPROTO_TCP, IP(bytes(frame[14:34])), bytes(frame[34:])).to_bytes(2)
        assert len(stub().frames("veth1", bytes(frame), 0)) == 1


def test_questions_in_pieces() -> None:
    peer = Peer(stub()).open()
    data = framed(b"question")
    for at in range(len(data) - 1):
        [answer] = peer.send("A", data[at : at + 1])
        assert answer[TCP].flags == "A" and not answer[TCP].payload
        peer.seq += 1
    assert peer.take(peer.send("A", data[-1:])) == framed(b"answer to question")


def test_out_of_order_and_again() -> None:
    """What is ahead is asked for again, what was there before is not taken twice."""
    said = Said()
    peer = Peer(stub(said)).open()
    data = framed(b"question")
    [answer] = peer.send("A", data[4:], seq=peer.seq + 4)
    assert answer[TCP].ack == peer.seq and not said.asked
    assert peer.send("A", data[:4])[0][TCP].ack == peer.seq + 4
    assert peer.take(peer.send("A", data[2:], seq=peer.seq + 2)) == framed(b"answer to question")
    [answer] = peer.send("A", data)
    assert answer[TCP].ack == peer.seq + len(data) and len(said.asked) == 1


def test_a_long_answer_goes_in_bursts() -> None:
    """Segments of the peer's MSS, ten at first, within his window; to the last byte."""
    long = bytes(range(256)) * 255
    peer = Peer(stub(Said(lambda q: long)), window=20000).open()
    got, sent = b"", peer.ask(b"q")
    while sent:
        assert len(sent) <= 10 and all(len(one[TCP].payload) <= 1000 for one in sent)
        got += peer.take(sent)
        sent = peer.send("A")
    assert got == framed(long)


def test_a_small_window() -> None:
    long = bytes(range(256)) * 20
    peer = Peer(stub(Said(lambda q: long)), window=1500).open()
    got, sent = b"", peer.ask(b"q")
    assert [len(one[TCP].payload) for one in sent] == [1000]  # no small piece behind it
    while sent:
        assert sum(len(one[TCP].payload) for one in sent) <= 1500
        got += peer.take(sent)
        sent = peer.send("A")
    assert got == framed(long)


def test_a_closed_window_is_asked_for() -> None:
    peer = Peer(stub(Said(lambda q: b"x" * 100))).open()
    peer.window = 0
    [answer] = peer.ask(b"q")
    assert not answer[TCP].payload
    [probe] = peer.later(1.1)
    assert bytes(probe[TCP].payload) == b"\0"  # the first of the length's two
    [probe] = peer.later(2.1)
    assert len(probe[TCP].payload) == 1 and peer.take([probe]) == b"\0"
    peer.window = 1000
    assert peer.take(peer.send("A")) == framed(b"x" * 100)[1:]


def test_what_is_lost_is_sent_again() -> None:
    long = bytes(range(256)) * 20
    peer = Peer(stub(Said(lambda q: long))).open()
    sent = peer.ask(b"q")
    assert len(sent) == 6
    got = peer.take(sent[:2])
    assert peer.send("A") == []  # the rest is on its way
    assert peer.later(0.5) == []
    again = peer.later(0.6)
    assert [len(one[TCP].payload) for one in again] == [1000]
    while again:
        got += peer.take(again)
        again = peer.send("A")
    assert got == framed(long)


def test_nobody_there_any_more() -> None:
    """It is sent again, more and more seldom, and then given up."""
    peer = Peer(stub(Said(lambda q: b"x"))).open()
    peer.ask(b"q")
    times = []
    while len(peer.stub.tcp):
        if sent := peer.later(1):
            times.append((peer.now // SECOND, str(sent[0][TCP].flags)))
        assert peer.now < 300 * SECOND
    assert times == [(1, "PA"), (3, "PA"), (7, "PA"), (15, "PA"), (31, "PA"), (63, "PA"), (127, "RA")]
    assert peer.stub.tcp.given_up == 1


def test_a_handshake_that_nobody_ends() -> None:
    peer = Peer(stub())
    [first] = peer.send("S")
    assert bytes(peer.send("S")[0][TCP]) == bytes(first[TCP])
    times = []
    while len(peer.stub.tcp):
        if sent := peer.later(1):
            times.append((peer.now // SECOND, str(sent[0][TCP].flags)))
    assert times == [(1, "SA"), (3, "SA"), (7, "SA"), (15, "RA")]


def test_the_idle_are_closed() -> None:
    peer = Peer(stub(idle_s=10)).open()
    peer.ask(b"q")
    peer.ack += 2 + len(b"answer to q")
    peer.send("A")
    assert peer.later(9) == []
    [fin] = peer.later(2)
    assert fin[TCP].flags == "FA"
    peer.take([fin])
    [answer] = peer.send("FA")
    assert answer[TCP].flags == "A" and answer[TCP].ack == peer.seq + 1 and len(peer.stub.tcp) == 0


def test_the_idle_who_do_not_close_are_reset() -> None:
    peer = Peer(stub(idle_s=10)).open()
    [fin] = peer.later(11)
    peer.take([fin])
    assert peer.send("A") == [] and peer.later(5) == []
    [reset] = peer.later(6)
    assert "R" in str(reset[TCP].flags) and len(peer.stub.tcp) == 0


def test_questions_behind_our_own_end() -> None:
    said = Said()
    peer = Peer(stub(said, idle_s=10)).open()
    peer.take(peer.later(11))
    [reset] = peer.ask(b"q")
    assert "R" in str(reset[TCP].flags) and not said.asked


def test_a_byte_now_and_then_holds_nothing() -> None:
    peer = Peer(stub(idle_s=10)).open()
    for _ in range(4):
        assert peer.later(2.4) == []
        peer.send("A", b"\0")
        peer.seq += 1
        if not len(peer.stub.tcp):
            return
    assert "F" in str(peer.later(2.4)[0][TCP].flags)


@pytest.mark.parametrize("length", [0, 8191, 65535])
def test_questions_of_impossible_lengths(length: int) -> None:
    peer = Peer(stub()).open()
    [reset] = peer.send("A", length.to_bytes(2) + b"x")
    assert "R" in str(reset[TCP].flags) and len(peer.stub.tcp) == 0


def test_the_longest_question() -> None:
    said = Said(lambda q: b"ok")
    peer = Peer(stub(said)).open()
    data, got = framed(bytes(8190)), b""
    for at in range(0, len(data), 1000):
        sent = peer.send("A", data[at : at + 1000])
        peer.seq += len(data[at : at + 1000])
        assert sent[0][TCP].window >= len(data) - at - 1000
        got += bytes(sent[-1][TCP].payload)
    assert got == framed(b"ok") and len(said.asked[0][1]) == 8190


def test_late_answers() -> None:
    """In whatever order they come; when the client has closed its side as well."""
    said = Said(lambda q: LATER)
    peer = Peer(stub(said)).open()
    [answer] = peer.ask(b"one", b"two")
    assert not answer[TCP].payload
    [answer] = peer.send("FA")
    assert answer[TCP].flags == "A"
    peer.seq += 1
    (first, _), (second, _) = said.asked
    late = [exact(one) for one in peer.stub.reply(second, b"2", 0)]
    assert peer.take(late) == framed(b"2")
    late = [exact(one) for one in peer.stub.reply(first, b"1", 0)]
    assert peer.take(late) == framed(b"1") and "F" in str(late[-1][TCP].flags)
    assert peer.stub.reply(first, b"1", 0) == []  # it was not asked three times
    assert peer.send("A") == [] and len(peer.stub.tcp) == 0
    assert peer.stub.reply(first, b"1", 0) == []


def test_late_answers_to_another_connection() -> None:
    said = Said(lambda q: LATER)
    peer = Peer(stub(said)).open()
    peer.ask(b"one")
    peer.send("R")
    assert len(peer.stub.tcp) == 0
    again = Peer(peer.stub).open()
    again.ask(b"two")
    assert peer.stub.reply(said.asked[0][0], b"1", 0) == []
    assert len(peer.stub.reply(said.asked[1][0], b"2", 0)) == 1


def test_a_late_datagram() -> None:
    said = Said(lambda q: LATER)
    made = stub(said)
    assert made.frames("veth1", bytes(net(4) / UDP(sport=4000, dport=53) / Raw(b"q")), 0) == []
    [frame] = made.reply(said.asked[0][0], b"late", 0)
    assert bytes(exact(frame)[UDP].payload) == b"late"


def test_who_asks_more_than_is_answered_waits() -> None:
    """Sixteen questions are on their way; what comes behind them fills the window, and is asked when one is back."""
    said = Said(lambda q: LATER)
    peer = Peer(stub(said)).open()
    query = bytes(100)
    for _ in range(10):
        answers = peer.ask(*[query] * 9)
    assert len(said.asked) == 16 and answers[0][TCP].window == 8192 - 74 * 102
    [frame] = peer.stub.reply(said.asked[0][0], b"1", 0)
    assert len(said.asked) == 17 and exact(frame)[TCP].window == 8192 - 73 * 102
    [answer] = peer.send("A", bytes(2000))
    assert answer[TCP].window == 0  # the rest of it is not taken
    assert answer[TCP].ack == peer.seq + 8192 - 73 * 102


def test_no_answer_at_all() -> None:
    peer = Peer(stub(Said(lambda q: None))).open()
    [answer] = peer.ask(b"q")
    assert answer[TCP].flags == "A"
    [fin] = peer.send("FA")
    assert "F" in str(fin[TCP].flags)


def test_resets_and_guesses() -> None:
    """RFC 5961: only what is exactly next is believed; what is near is asked about."""
    peer = Peer(stub()).open()
    [challenge] = peer.send("R", seq=peer.seq + 100)
    assert challenge[TCP].flags == "A"
    assert peer.send("R", seq=peer.seq + 100000) == [] == peer.send("R", seq=peer.seq - 5)
    [challenge] = peer.send("S", seq=peer.seq + 7)
    assert challenge[TCP].flags == "A"
    [challenge] = peer.send("A", ack=peer.ack + 9)
    assert challenge[TCP].flags == "A" and challenge[TCP].ack == peer.seq
    assert peer.send("", b"no ACK") == []
    assert peer.take(peer.ask(b"q")) == framed(b"answer to q")
    assert peer.send("R") == [] and len(peer.stub.tcp) == 0


def test_an_acknowledgement_of_what_was_never_said() -> None:
    peer = Peer(stub())
    [answer] = peer.send("S")
    [reset] = peer.send("A", seq=1001, ack=answer[TCP].seq + 2)
    assert reset[TCP].flags == "R" and reset[TCP].seq == answer[TCP].seq + 2
    assert peer.send("R") == []
    [reset] = Peer(peer.stub, sport=4001).send("FA", ack=77)
    assert reset[TCP].flags == "R" and reset[TCP].seq == 77
    [reset] = Peer(peer.stub, sport=4001).send("SF")
    assert reset[TCP].flags == "RA"


def test_so_many_connections_and_no_more() -> None:
    """Of one port of the plane a quarter; who is half open makes room, else the next is refused."""
    made = stub(connections=8)
    first = Peer(made, sport=5000)
    first.send("S")
    Peer(made, sport=5001).open()
    third = Peer(made, sport=5002).open()  # the first has made room
    assert len(made.tcp) == 2 and made.tcp.evicted == 1
    [reset] = Peer(made, sport=5003).send("S")
    assert reset[TCP].flags == "RA" and made.tcp.refused == 1
    for number in range(3):
        for sport in (1, 2):
            Peer(made, sport=sport, port=f"veth{number + 2}").open()
    assert len(made.tcp) == 8
    assert Peer(made, sport=1, port="veth9").send("S")[0][TCP].flags == "RA"
    assert third.take(third.ask(b"q"))


def test_bytes_of_all_have_an_end() -> None:
    said = Said(lambda q: LATER)
    made = stub(said, connections=400)
    resets = 0
    for sport in range(100):
        peer = Peer(made, sport=1000 + sport)
        peer.window = 0
        peer.open().ask(*[b"q"] * 16)
        for _ in range(16):
            sent = made.reply(said.asked.pop(0)[0], bytes(65535), 0)
            resets += any("R" in str(Ether(one)[TCP].flags) for one in sent)
    assert resets and sum(len(one.out) for one in made.tcp._conns.values()) <= 1 << 24


NEAR = st.integers(-3, 3)


@given(st.lists(st.tuples(st.integers(0, 63), NEAR, NEAR, st.binary(max_size=9)), max_size=12))
def test_hostile_segments(segments: list[tuple[int, int, int, bytes]]) -> None:
    """Any flags, any numbers near the right ones: no exception, and no connection but one."""
    peer = Peer(stub(Said(lambda q: b"x" * 3000))).open()
    for flags, seq, ack, data in segments:
        frame = bytes(net(4) / TCP(sport=4000, dport=53, flags=flags, seq=(peer.seq + seq) & 0xFFFFFFFF,
                                   ack=(peer.ack + ack) & 0xFFFFFFFF) / Raw(data))  # fmt: skip
        for one in peer.stub.frames("veth1", frame, peer.now):
            exact(one)
        peer.later(1)
    assert len(peer.stub.tcp) <= 1


# --- with a plane, and others ----------------------------------------------------------------------------


class Node:
    """A plane, its name server and what it sends late."""

    def __init__(self, upstream: Upstream | None = None, toml: str = TOML, **options: Any) -> None:
        self.plane = vf.Dataplane(vf.parse_spec(toml))
        self.sent: list[tuple[str, bytes]] = []
        self.lock = threading.RLock()
        self.clock = lambda: 0
        self.names = NameServer(
            self.plane, self.send, lock=self.lock, upstream=upstream, now_ns=lambda: self.clock(), **options
        )

    def send(self, port: str, frames: list[bytes]) -> None:
        """As a live node's ``inject``."""
        with self.lock:
            for frame in frames:
                self.sent += self.plane.offer(port, frame)

    def offer(self, port: str, frame: bytes) -> list[tuple[str, bytes]]:
        """A frame by a port; what comes out by others, with what the resolver says to it."""
        out = []
        for where, made in self.plane.offer(port, frame):
            if where.startswith("resolver:"):
                for answer in self.names.frames(where, port if port != "underlay" else None, made, self.clock()):
                    out += self.plane.offer(where, answer)
            else:
                out.append((where, made))
        return out


def question(name: str, kind: str = "A", **options: Any) -> bytes:
    return bytes(net(4) / UDP(sport=4000, dport=53) / Raw(dns.message.make_query(name, kind, **options).to_wire()))


def message(frame: bytes) -> dns.message.Message:
    return dns.message.from_wire(bytes(Ether(frame)[UDP].payload))


def test_through_a_plane() -> None:
    node = Node()
    [(port, frame)] = node.offer("back1", question("tasks.rr"))
    assert port == "back1"
    assert {str(data) for rrset in message(frame).answer for data in rrset} == {"10.0.9.4", "10.0.9.5"}
    assert node.names.counters() == {
        "frames": 1, "foreign": 0, "questions": 1, "answered": 1, "forwarded": 0, "silent": 0, "busy": 0, "failed": 0,
    }  # fmt: skip


def test_peers_are_not_answered() -> None:
    """Each node has its own clients; who may ask is who is behind a port of the same network."""
    node = Node()
    frame = question("rr")
    assert node.names.frames("resolver:back", None, frame, 0) == []
    assert node.names.frames("resolver:back", "front1", frame, 0) == []
    assert node.names.frames("resolver:back", "resolver:front", frame, 0) == []
    assert node.names.frames("resolver:back", "underlay", frame, 0) == []
    assert node.names.frames("back1", "back3", frame, 0) == []
    assert node.names.counters()["foreign"] == 5
    assert len(node.names.frames("resolver:back", "back3", frame, 0)) == 1


def test_nobody_to_ask() -> None:
    [(_, frame)] = Node().offer("back1", question("example.com"))
    assert message(frame).rcode() == 2


def test_another_spec() -> None:
    """Connections of a resolver that stays go on; the profile is the new spec's, and its lengths."""
    node = Node()
    wire = dns.message.make_query("rr", "TXT").to_wire()
    made = node.names
    peer_syn = bytes(net(4) / TCP(sport=4000, dport=53, flags="S"))
    assert len(made.frames("resolver:back", "back1", peer_syn, 0)) == 1 and made.connections() == 1
    node.plane.apply(vf.parse_spec(TOML.replace('"10.0.8.253"', '"10.0.8.252"')))
    made.tick(0)
    assert made.connections() == 1 and set(made._stubs) == {"resolver:Front", "resolver:back", "resolver:secret"}
    assert made._stubs["resolver:Front"].addresses == {parse_ip("10.0.8.252")}
    made.tick(2 * SECOND)
    assert [port for port, _ in node.sent] == ["back1"]  # the handshake again
    swarm = TOML.replace('gateway = "10.0.9.1"', 'gateway = "10.0.9.1"\nown = "10.0.9.8"').replace(
        'vtep = "192.0.2.1"\n', 'vtep = "192.0.2.1"\nmtu = 1280\n', 1)  # fmt: skip
    node.plane.apply(vf.parse_spec(swarm + '\n[mesh]\nprofile = "swarm"\n'))
    [frame] = made.frames("resolver:back", "back1", bytes(net(4) / UDP(sport=4000, dport=53) / Raw(wire)), 0)
    assert message(frame).rcode() == 2  # it would be asked of others
    assert made._resolver.udp_max == 1162 and made.connections() == 0  # of another MTU, so another host


def test_others_are_asked() -> None:
    """Answers come later by ``send``, over UDP and over TCP; of an internal network nobody is asked."""
    seen: list[bytes] = []

    def handler(query: bytes, tcp: bool) -> bytes:
        seen.append(query)
        return answer_to(query, 3)

    async def go() -> None:
        async with server(handler) as text:
            node = Node(Upstream([text]))
            node.names.start()
            assert node.offer("back1", question("nosuch.example")) == []
            await arrives(lambda: len(node.sent) == 1)
            port, frame = node.sent.pop()
            assert port == "back1" and message(frame).rcode() == 3
            ip_layer = Ether(src=OTHER, dst="02:42:0a:00:07:fd") / IP(src="10.0.7.99", dst="10.0.7.253")
            asked = ip_layer / Ether(question("nosuch.example"))[UDP]
            del asked[UDP].chksum
            [(_, frame)] = node.offer("secret1", bytes(asked))
            assert message(frame).rcode() == 2 and len(seen) == 1
            assert node.names.counters()["forwarded"] == 1
            await node.names.stop()
            assert message(node.offer("back1", question("nosuch.example"))[0][1]).rcode() == 2

    asyncio.run(go())


def test_too_many_questions_for_others() -> None:
    async def go() -> None:
        async with server(lambda q, _: None) as silent:
            node = Node(Upstream([silent], limit=1, wait_s=0.1, timeout_s=0.2, total_s=30), busy_at=3, share=2)
            node.names.start()
            for _ in range(2):
                assert node.offer("back1", question("x.example")) == []
            assert message(node.offer("back1", question("x.example"))[0][1]).rcode() == 5
            await arrives(lambda: len(node.sent) == 2)
            assert sorted(message(frame).rcode() for _, frame in node.sent) == [2, 5]
            counters = node.names.counters()
            assert (counters["busy"], counters["failed"], counters["forwarded"]) == (2, 1, 2)
            assert node.offer("back1", question("x.example")) == []
            await node.names.stop()

    asyncio.run(go())


async def arrives(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not there():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


# --- the kernel's clients --------------------------------------------------------------------------------

_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 2, 0x1000


@contextlib.contextmanager
def tap(namespace: str, *addresses: str) -> Iterator[int]:
    """A device of a namespace whose other end is ours: its descriptor."""
    with inside(namespace):
        try:
            device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        except OSError as error:
            pytest.skip(f"needs /dev/net/tun: {error}")
        try:
            fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", b"tap0", _IFF_TAP | _IFF_NO_PI))
        except OSError as error:
            os.close(device)
            pytest.skip(f"no TAP devices here: {error}")
    try:
        ip("-n", namespace, "link", "set", "tap0", "address", OTHER, "mtu", "1400", "up")
        for address in addresses:
            ip("-n", namespace, "address", "add", address, "dev", "tap0", *(["nodad"] if ":" in address else []))
        yield device
    finally:
        os.close(device)


@contextlib.contextmanager
def pumped(node: Node, device: int, *, lose: int = 0) -> Iterator[None]:
    """Frames go back and forth between a device and a plane's port. ``lose``: of those to it, one of so many."""
    done = threading.Event()
    sent = 0
    node.clock = time.monotonic_ns

    def write(frames: list[bytes]) -> None:
        nonlocal sent
        for frame in frames:
            sent += 1
            if not lose or sent % lose:
                with contextlib.suppress(OSError):
                    os.write(device, frame)

    def pump() -> None:
        while not done.wait(0.002):
            with contextlib.suppress(BlockingIOError):
                while True:
                    frame = os.read(device, 65536)
                    write([made for port, made in node.offer("back1", frame) if port == "back1"])
            node.names.tick(node.clock())
            write([made for _, made in node.sent])
            node.sent.clear()

    thread = threading.Thread(target=pump)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(60)
        assert not thread.is_alive()


@contextlib.contextmanager
def lab(node: Node, **options: int) -> Iterator[str]:
    need_root()
    with namespaces("a") as [one], tap(one, f"{HIS4}/24", f"{HIS6}/64") as device, pumped(node, device, **options):
        yield one


def big() -> Node:
    """Its service rr has 300 servers."""
    node = Node()
    for number in range(300):
        node.plane.add_server("rr", ServerSpec(address=f"10.1.{number // 250}.{number % 250}"))
    return node


@pytest.mark.root
@pytest.mark.parametrize("address", [OWN4, OWN6])
def test_the_kernels_udp_and_tcp(address: str) -> None:
    """ARP or ND, UDP, truncation, TCP, several questions in one connection, a port that is closed: real sockets."""
    with lab(big()) as namespace, inside(namespace):
        query = dns.message.make_query("tasks.rr", "A")
        for sport in range(3):
            answer = dns.query.udp(query, address, timeout=20, source_port=40000 + sport)
            assert answer.flags & dns.flags.TC
        answer, by_tcp = dns.query.udp_with_fallback(query, address, timeout=20)
        assert by_tcp and sum(map(len, answer.answer)) == 302
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(20)
            sock.connect((address, 53))
            for _ in range(3):
                assert sum(map(len, dns.query.tcp(query, address, sock=sock, timeout=20).answer)) == 302
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(20)
            with pytest.raises(ConnectionRefusedError):
                sock.connect((address, 54))
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.settimeout(20)
            sock.connect((address, 54))
            sock.send(b"x")
            with pytest.raises(ConnectionRefusedError):
                sock.recv(1)


@pytest.mark.root
def test_the_kernels_tcp_where_frames_are_lost() -> None:
    """Every ninth frame of the resolver's; the client's half closed before the answer; a small receive buffer."""
    with lab(big(), lose=9) as namespace, inside(namespace):
        query = dns.message.make_query("tasks.rr", "A").to_wire()
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(60)
            sock.connect((OWN4, 53))
            sock.sendall(framed(*[query] * 4))
            sock.shutdown(socket.SHUT_WR)
            got = b""
            while data := sock.recv(65536):
                got += data
        for _ in range(4):
            size = int.from_bytes(got[:2])
            assert sum(map(len, dns.message.from_wire(got[2 : 2 + size]).answer)) == 302
            got = got[2 + size :]
        assert got == b""


@pytest.mark.root
def test_the_systems_resolver_and_ping() -> None:
    need_root("ping")
    node = Node()
    with lab(node) as namespace:
        for address in (OWN4, OWN6):
            ip("netns", "exec", namespace, "ping", "-c", "1", "-w", "20", "-s", "1300", address)
        with inside(namespace):
            answer = dns.query.udp(dns.message.make_query("shop.back", "A"), OWN4, timeout=20)
    assert [str(data) for rrset in answer.answer for data in rrset] == ["10.0.9.100"]
