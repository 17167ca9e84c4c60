"""A resolver's datagrams, as scapy reads and writes them: questions, pings, and what nothing is said to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from tests.stubs import FAMILIES, HIS4, HIS6, MAC, OTHER, OWN4, OWN6, Said, exact, net, stub


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
