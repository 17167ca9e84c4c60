"""A resolver's stub for tests, and its clients, as scapy writes and reads them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoReply, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from vxlanfast.addr import parse_ip
from vxlanfast.stub import Stub
from vxlanfast.stub_tcp import Caller, Later

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


FAMILIES = pytest.mark.parametrize("family", [4, 6])
