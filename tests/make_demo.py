"""The capture of ``make demo``: two hosts in a lab. ARP, a ping, UDP echo, a page over TCP, IPv6, a tagged frame."""

from __future__ import annotations

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet as ScapyPacket

from tests.support import Packet, pcap

MACS = "02:42:c6:33:64:01", "02:42:c6:33:64:02"
HOSTS = "198.51.100.1", "198.51.100.2"
HOSTS6 = "2001:db8::1", "2001:db8::2"
BEGIN_NS, STEP_NS = 1_700_000_000_000_000_000, 1_537_000


def _eth(up: bool) -> ScapyPacket:
    return Ether(src=MACS[not up], dst=MACS[up])


def _ip(up: bool, **fields: object) -> ScapyPacket:
    return _eth(up) / IP(src=HOSTS[not up], dst=HOSTS[up], **fields)


def _page(first: int) -> list[ScapyPacket]:
    """A connection from SYN to the last ACK; ``first``: the number of its first packet."""
    seq = {True: 1000, False: 9000}
    out = []
    for up, flags, data in (
        (True, "S", b""), (False, "SA", b""), (True, "A", b""),
        (True, "PA", b"GET / HTTP/1.1\r\nHost: lab.example\r\n\r\n"), (False, "A", b""),
        *((False, "PA", bytes((i * 7 + j) & 255 for j in range(1380))) for i in range(6)),
        (True, "A", b""), (True, "FA", b""), (False, "FA", b""), (True, "A", b""),
    ):  # fmt: skip
        ports = (45000, 80) if up else (80, 45000)
        ack = 0 if flags == "S" else seq[not up]
        tcp = TCP(sport=ports[0], dport=ports[1], seq=seq[up], ack=ack, flags=flags, window=64240)
        out.append(_ip(up, id=first + len(out), flags="DF") / tcp / data)
        seq[up] += len(data) + ("S" in flags or "F" in flags)
    return out


def demo() -> bytes:
    """The file."""
    up, down = True, False
    packets = [
        Ether(src=MACS[0], dst="ff:ff:ff:ff:ff:ff") / ARP(op=1, hwsrc=MACS[0], psrc=HOSTS[0], pdst=HOSTS[1]),
        _eth(down) / ARP(op=2, hwsrc=MACS[1], psrc=HOSTS[1], hwdst=MACS[0], pdst=HOSTS[0]),
    ]
    for i in range(4):
        packets.append(_ip(up, id=i, flags="DF") / ICMP(type=8, id=7, seq=i) / bytes(range(56)))
        packets.append(_ip(down, id=100 + i) / ICMP(type=0, id=7, seq=i) / bytes(range(56)))
    packets.append(_ip(up, id=20) / UDP(sport=40000, dport=7) / b"who is there?")
    packets.append(_ip(down, id=21) / UDP(sport=7, dport=40000) / b"who is there?")
    packets += _page(len(packets))
    for i in range(2):
        ask = ICMPv6EchoRequest(id=9, seq=i, data=b"v6" * 20)
        packets.append(_eth(up) / IPv6(src=HOSTS6[0], dst=HOSTS6[1]) / ask)
        answer = ICMPv6EchoReply(id=9, seq=i, data=b"v6" * 20)
        packets.append(_eth(down) / IPv6(src=HOSTS6[1], dst=HOSTS6[0]) / answer)
    tagged = IP(src=HOSTS[0], dst=HOSTS[1], id=77) / UDP(sport=5000, dport=5001) / b"tagged"
    packets.append(_eth(up) / Dot1Q(vlan=7) / tagged)
    frames = [bytes(packet) for packet in packets]
    return pcap([Packet(BEGIN_NS + n * STEP_NS, frame, len(frame)) for n, frame in enumerate(frames)])
