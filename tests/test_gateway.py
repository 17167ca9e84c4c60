"""The gateway: ping, routing between subnets, and what does not fit; scapy builds what enters and reads what leaves."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
)  # fmt: skip
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN

import vxlanfast as vf
from vxlanfast import Rule, Verdict

GW, GW6 = "02:42:0a:00:01:01", "02:42:0a:00:02:01"
OWN = "06:42:c0:00:02:01"
A, B, C = "02:42:0a:00:01:0a", "02:42:0a:00:02:0b", "02:42:0a:00:02:0c"

SPEC = """
[node]
vtep = ["192.0.2.1", "2001:db8::1"]
mtu = 1500

[[network]]
name = "web"
vni = 101
subnet = ["10.0.1.0/24", "fd00:1::/64"]
gateway = ["10.0.1.1", "fd00:1::1"]
[[network.endpoint]]
port = "a"
ip = ["10.0.1.10", "fd00:1::a"]
[[network.endpoint]]
vtep = "192.0.2.2"
ip = ["10.0.1.20", "fd00:1::14"]
[[network.endpoint]]
vtep = "2001:db8::2"
ip = ["10.0.1.30", "fd00:1::1e"]

[[network]]
name = "web"
vni = 102
subnet = ["10.0.2.0/24", "fd00:2::/64"]
gateway = ["10.0.2.1", "fd00:2::1"]
[[network.endpoint]]
port = "b"
ip = ["10.0.2.11", "fd00:2::b"]
[[network.endpoint]]
vtep = "192.0.2.2"
ip = ["10.0.2.12", "fd00:2::c"]

[[network]]
name = "db"
vni = 103
subnet = ["10.0.3.0/24"]
gateway = ["10.0.3.1"]
[[network.endpoint]]
port = "d"
ip = ["10.0.3.10"]
"""


def plane(text: str = SPEC) -> vf.Dataplane:
    return vf.Dataplane(vf.parse_spec(text))


def one(p: vf.Dataplane, port: str, packet: Ether, now_ns: int = 0) -> tuple[str, Ether]:
    """The one frame that leaves, and by which port; the account adds up."""
    out = p.offer(port, bytes(packet), now_ns=now_ns)
    adds_up(p)
    assert len(out) == 1, out
    return out[0][0], Ether(out[0][1])


def adds_up(p: vf.Dataplane) -> None:
    s = p.stats()
    assert s.packets == s.passed + sum(s.drops.values())
    made = s.passed - s.flooded + s.copies - s.fragmented + s.fragments
    assert s.sent + sum(s.send_drops.values()) == made
    assert sum(s.rules.values()) == s.sent
    places = [*s.ports.values(), *s.peers.values()]
    assert sum(x.tx_packets for x in places) == s.sent
    networks = s.networks.values()
    assert sum(n.traffic.rx_packets for n in networks) == sum(x.rx_packets for x in places)
    assert sum(n.traffic.rx_packets - n.traffic.drops for n in networks) == s.passed


def verdict(p: vf.Dataplane, port: str, packet: Ether) -> Verdict:
    """The reason of a packet that goes nowhere."""
    batch = p.process(vf.PacketBatch.from_frames([bytes(packet)], port_in=p.ports[port]))
    adds_up(p)
    assert batch.passed() == []
    return Verdict(batch.verdict[0])


def checked(packet: Ether) -> Ether:
    """The same packet; every checksum in it is what scapy makes of it."""
    again = packet.copy()
    for layer in (IP, ICMP, TCP, UDP, ICMPv6EchoReply, ICMPv6TimeExceeded, ICMPv6DestUnreach, ICMPv6PacketTooBig):
        if layer in again:
            for name in ("chksum", "cksum"):
                if name in again[layer].fields:
                    del again[layer].fields[name]
    if bytes(again) != bytes(packet):
        raise AssertionError(f"checksums: {packet!r} is to be {Ether(bytes(again))!r}")
    return packet


def test_arp_and_nd_for_the_gateway() -> None:
    """Answered with its MAC, from the port alone."""
    ask = Ether(src=A, dst="ff:ff:ff:ff:ff:ff") / ARP(op=1, hwsrc=A, psrc="10.0.1.10", pdst="10.0.1.1")
    port, reply = one(plane(), "a", ask)
    assert port == "a" and reply[ARP].op == 2 and reply[ARP].hwsrc == GW and reply.dst == A
    ask6 = (
        Ether(src=A, dst="33:33:ff:00:00:01") / IPv6(src="fd00:1::a", dst="ff02::1:ff00:1", hlim=255)
        / ICMPv6ND_NS(tgt="fd00:1::1") / ICMPv6NDOptSrcLLAddr(lladdr=A)
    )  # fmt: skip
    port, reply = one(plane(), "a", ask6)
    assert port == "a" and reply[ICMPv6ND_NA].tgt == "fd00:1::1" and reply[ICMPv6ND_NA].R == 1
    claim = Ether(src=A, dst="ff:ff:ff:ff:ff:ff") / ARP(op=2, hwsrc=A, psrc="10.0.1.1", pdst="10.0.1.20")
    assert verdict(plane(), "a", claim) == Verdict.DROP_NEIGH_FALSE


@pytest.mark.parametrize("dst", ["10.0.1.1", "10.0.2.1"])
@pytest.mark.parametrize("size", [0, 1, 56, 57, 1400])
def test_ping(dst: str, size: int) -> None:
    """Either of its addresses answers, whatever the length."""
    ping = Ether(src=A, dst=GW) / IP(src="10.0.1.10", dst=dst, ttl=7, id=77) / ICMP(id=5, seq=9) / (b"\xa5" * size)
    port, reply = one(plane(), "a", ping)
    assert port == "a" and (reply.src, reply.dst) == (GW, A)
    assert (reply[IP].src, reply[IP].dst, reply[IP].ttl) == (dst, "10.0.1.10", 64)
    assert (reply[ICMP].type, reply[ICMP].id, reply[ICMP].seq) == (0, 5, 9)
    assert bytes(reply[ICMP].payload) == b"\xa5" * size
    checked(reply)


@pytest.mark.parametrize("size", [0, 1, 56])
def test_ping_of_zeros(size: int) -> None:
    """A reply in which everything but the checksum is zero: the checksum is the other zero."""
    ping = Ether(src=A, dst=GW) / IP(src="10.0.1.10", dst="10.0.1.1") / ICMP(id=0, seq=0) / bytes(size)
    _, reply = one(plane(), "a", ping)
    assert reply[ICMP].chksum == 0xFFFF
    checked(reply)


@pytest.mark.parametrize("dst", ["fd00:1::1", "fd00:2::1"])
def test_ping6(dst: str) -> None:
    ping = Ether(src=A, dst=GW) / IPv6(src="fd00:1::a", dst=dst) / ICMPv6EchoRequest(id=5, seq=9, data=b"odd")
    port, reply = one(plane(), "a", ping)
    assert port == "a" and (reply[IPv6].src, reply[IPv6].dst, reply[IPv6].hlim) == (dst, "fd00:1::a", 64)
    assert reply[ICMPv6EchoReply].data == b"odd" and reply[ICMPv6EchoReply].id == 5
    checked(reply)


def test_routes_between_subnets() -> None:
    """To a port here, to a host elsewhere: TTL one less, the router's MAC in front, padding gone."""
    p = plane()
    frame = Ether(src=A, dst=GW) / IP(src="10.0.1.10", dst="10.0.2.11", ttl=9) / UDP(sport=1, dport=2) / b"x"
    port, out = one(p, "a", Ether(bytes(frame) + bytes(17)))
    assert port == "b" and (out.src, out.dst) == (OWN, B) and out[IP].ttl == 8
    assert len(bytes(out)) == len(bytes(frame))
    assert bytes(checked(out)[UDP]) == bytes(Ether(bytes(frame))[UDP])
    frame = Ether(src=A, dst=GW) / IP(src="10.0.1.10", dst="10.0.2.12", ttl=9) / UDP(sport=1, dport=2) / b"x"
    port, out = one(p, "a", frame)
    assert port == "underlay" and out[IP].dst == "192.0.2.2"
    out[UDP].decode_payload_as(VXLAN)
    inner = out[VXLAN].payload
    assert out[VXLAN].vni == 102 and (inner.src, inner.dst, inner[IP].ttl) == (OWN, C, 8)
    six = Ether(src=A, dst=GW) / IPv6(src="fd00:1::a", dst="fd00:2::b", hlim=2) / UDP(sport=1, dport=2) / b"y"
    port, out = one(p, "a", six)
    assert port == "b" and out[IPv6].hlim == 1 and (out.src, out.dst) == (OWN, B)
    checked(out)
    assert p.stats().rules == {Rule.RULE_ROUTED: 3}
    # What was routed there is let in there: the router's MAC is a station like any other to another node.
    there = SPEC.replace('vtep = ["192.0.2.1"', 'vtep = ["192.0.2.2"').replace(
        'vtep = "192.0.2.2"', 'vtep = "192.0.2.1"'
    )
    there = there.replace('vtep = "192.0.2.1"\nip = ["10.0.2.12"', 'port = "c"\nip = ["10.0.2.12"')
    assert one(plane(there), "underlay", one(p, "a", frame)[1])[1].src == OWN


def test_networks_of_other_names_are_not_routed_to() -> None:
    """There is no way from one network to another."""
    frame = Ether(src=A, dst=GW) / IP(src="10.0.1.10", dst="10.0.3.10") / UDP() / b"x"
    p = plane()
    port, out = one(p, "a", frame)
    assert port == "a" and (out[ICMP].type, out[ICMP].code) == (3, 0)
    assert out[IP].src == "10.0.1.1" and out[IPerror].dst == "10.0.3.10" and p.stats().errors == 1
    ping = Ether(src=A, dst=GW) / IP(src="10.0.1.10", dst="10.0.3.1") / ICMP()
    assert one(p, "a", ping)[1][ICMP].type == 3


@pytest.mark.parametrize(
    ("packet", "kind", "code", "rule"),
    [
        (IP(src="10.0.1.10", dst="10.0.2.11", ttl=1) / UDP(dport=7) / bytes(2000), 11, 0, Rule.RULE_TTL),
        (IP(src="10.0.1.10", dst="10.0.2.11", ttl=0) / TCP(), 11, 0, Rule.RULE_TTL),
        (IP(src="10.0.1.10", dst="10.0.2.99") / TCP(), 3, 1, Rule.RULE_NO_NEIGHBOUR),
        (IP(src="10.0.1.10", dst="198.51.100.1") / TCP(), 3, 0, Rule.RULE_NO_ROUTE),
        (IP(src="10.0.1.10", dst="10.0.1.1") / UDP(dport=53), 3, 3, Rule.RULE_REFUSED),
        (IP(src="10.0.1.10", dst="198.51.100.1") / ICMP(type=8), 3, 0, Rule.RULE_NO_ROUTE),
    ],
)
def test_errors(packet: IP, kind: int, code: int, rule: Rule) -> None:
    """RFC 792 and RFC 1812: type, code, who says it, what is quoted, checksums."""
    p = plane()
    sent = Ether(bytes(Ether(src=A, dst=GW) / packet))
    port, out = one(p, "a", sent)
    assert port == "a" and (out.src, out.dst) == (GW, A)
    assert (out[ICMP].type, out[ICMP].code) == (kind, code)
    assert (out[IP].src, out[IP].dst, out[IP].tos) == ("10.0.1.1", "10.0.1.10", 0xC0)
    quoted = bytes(out[ICMP])[8:]
    assert quoted == bytes(sent[IP])[: len(quoted)] and len(quoted) == min(548, len(bytes(sent[IP])))
    checked(Ether(bytes(out)[:14] + bytes(out[IP])))
    assert p.stats().rules == {rule: 1}


@pytest.mark.parametrize(
    ("packet", "kind", "code"),
    [
        (IPv6(src="fd00:1::a", dst="fd00:2::b", hlim=1) / UDP(dport=7) / bytes(1400), 3, 0),
        (IPv6(src="fd00:1::a", dst="fd00:2::99") / TCP(), 1, 3),
        (IPv6(src="fd00:1::a", dst="2001:db8:5::1") / TCP(), 1, 0),
        (IPv6(src="fd00:1::a", dst="fd00:2::1") / UDP(dport=53), 1, 4),
    ],
)
def test_errors6(packet: IPv6, kind: int, code: int) -> None:
    """RFC 4443: type, code, what is quoted, the checksum."""
    sent = Ether(bytes(Ether(src=A, dst=GW) / packet))
    port, out = one(plane(), "a", sent)
    message = out[IPv6].payload
    assert port == "a" and (message.type, message.code) == (kind, code)
    assert (out[IPv6].src, out[IPv6].dst) == ("fd00:1::1", "fd00:1::a")
    quoted = bytes(message)[8:]
    assert quoted == bytes(sent[IPv6])[: len(quoted)] and len(quoted) == min(1232, len(bytes(sent[IPv6])))
    checked(out)


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (IP(src="10.0.1.10", dst="198.51.100.1") / ICMP(type=3), Verdict.DROP_NO_ROUTE),
        (IP(src="10.0.1.10", dst="198.51.100.1", frag=100) / b"rest", Verdict.DROP_NO_ROUTE),
        (IP(src="10.0.1.10", dst="224.1.2.3") / UDP(), Verdict.DROP_MARTIAN),
        (IP(src="127.0.0.1", dst="10.0.2.11") / UDP(), Verdict.DROP_MARTIAN),
        (IP(src="0.0.0.0", dst="10.0.2.11") / UDP(), Verdict.DROP_MARTIAN),
        (IP(src="10.0.1.10", dst="10.0.2.11", chksum=1) / UDP(), Verdict.DROP_INNER_HEADER),
        (IP(src="10.0.1.10", dst="10.0.2.11", len=1000) / UDP(), Verdict.DROP_INNER_HEADER),
        (IP(src="10.0.1.10", dst="10.0.1.1") / TCP(flags="R"), Verdict.DROP_GATEWAY_REFUSED),
        (IPv6(src="fe80::1", dst="fd00:2::b") / UDP(), Verdict.DROP_MARTIAN),
        (IPv6(src="::", dst="fd00:2::b") / UDP(), Verdict.DROP_MARTIAN),
        (IPv6(src="fd00:1::a", dst="2001:db8:5::1") / ICMPv6DestUnreach(), Verdict.DROP_NO_ROUTE),
        (b"\x12" * 60, Verdict.DROP_GATEWAY_REFUSED),
    ],
)  # fmt: skip
def test_dropped_in_silence(packet: IP, reason: Verdict) -> None:
    """No error about errors, later fragments, or what cannot be from or for one host (RFC 1812 §4.3.2.7)."""
    assert verdict(plane(), "a", Ether(src=A, dst=GW) / packet) == reason


def test_errors_are_limited() -> None:
    """A thousand a second, fifty at once; the rest is dropped and counted."""
    p = plane()
    frame = bytes(Ether(src=A, dst=GW) / IP(src="10.0.1.10", dst="198.51.100.1") / UDP())
    out = p.offer("a", *[frame] * 500)
    assert len(out) == 50 and p.stats().drops == {Verdict.DROP_NO_ROUTE: 450}
    for ms in range(1, 1001):
        out += p.offer("a", *[frame] * 2, now_ns=ms * 1_000_000)
    assert 1050 <= len(out) <= 1051
    adds_up(p)


def test_to_the_gateway_by_a_tunnel() -> None:
    """Every node has its own gateway; and its MAC as a source is a loop or an attempt."""
    p = plane()

    def wrapped(inner: Ether) -> Ether:
        outer = Ether(src="02:00:00:00:00:02", dst="02:00:00:00:00:01") / IP(src="192.0.2.2", dst="192.0.2.1")
        return outer / UDP(sport=50000, dport=4789, chksum=0) / VXLAN(vni=101, flags=8) / inner

    far = "02:42:0a:00:01:14"
    ping = Ether(src=far, dst=GW) / IP(src="10.0.1.20", dst="10.0.1.1") / ICMP()
    assert verdict(p, "underlay", wrapped(ping)) == Verdict.DROP_GATEWAY_REMOTE
    for source in (GW, OWN):
        assert verdict(p, "underlay", wrapped(Ether(src=source, dst=A) / IP() / UDP())) == Verdict.DROP_INNER_SOURCE
    claim = Ether(src=far, dst="ff:ff:ff:ff:ff:ff") / ARP(op=2, hwsrc=far, psrc="10.0.1.1", pdst="10.0.1.10")
    assert verdict(p, "underlay", wrapped(claim)) == Verdict.DROP_NEIGH_FALSE
    assert p.stats().peers[101, "192.0.2.2"].drops == 4


MTU_CASES = [
    ("10.0.1.20", "fd00:1::14", "02:42:0a:00:01:14", 1450),
    ("10.0.1.30", "fd00:1::1e", "02:42:0a:00:01:1e", 1430),
]


@pytest.mark.parametrize(("dst", "dst6", "to", "mtu"), MTU_CASES, ids=["over IPv4", "over IPv6"])
@pytest.mark.parametrize("tags", [0, 1, 2])
def test_too_big(dst: str, dst6: str, to: str, mtu: int, tags: int) -> None:
    """What fits goes; a byte more becomes the error with the MTU that fits, less four for each tag."""
    p = plane(SPEC.replace('name = "web"\n', 'name = "web"\ntags = true\n'))
    front = Ether(src=A, dst=to)
    for _ in range(tags):
        front = front / Dot1Q(vlan=7)
    fits = mtu - 4 * tags
    for size, is_over in ((fits, False), (fits + 1, True)):
        packet = IP(src="10.0.1.10", dst=dst, flags="DF") / UDP(sport=1, dport=2) / bytes(size - 28)
        port, out = one(p, "a", front / packet)
        assert port == ("a" if is_over else "underlay")
        if is_over:
            assert (out[ICMP].type, out[ICMP].code, out[ICMP].nexthopmtu) == (3, 4, fits)
            assert (out.src, out.dst, out[IP].src) == (to, A, "10.0.1.1")
            assert [tag.vlan for tag in out.iterpayloads() if isinstance(tag, Dot1Q)] == [7] * tags
            assert bytes(out[ICMP])[8:] == bytes(packet)[:548]
        packet6 = IPv6(src="fd00:1::a", dst=dst6) / UDP(sport=1, dport=2) / bytes(size - 48)
        port, out = one(p, "a", front / packet6)
        assert port == ("a" if is_over else "underlay")
        if is_over:
            assert out[ICMPv6PacketTooBig].mtu == fits
            if not tags:
                checked(out)
    assert p.stats().rules[Rule.RULE_TOO_BIG] == 2 == p.stats().errors


@pytest.mark.parametrize("size", [1423, 1424, 2852, 2853, 9000])
@pytest.mark.parametrize("more", [False, True])
def test_fragmented_inside(size: int, more: bool) -> None:
    """IPv4 without DF: fragments of the inner packet, which put together are what was sent; none over the MTU."""
    data = bytes(i * 7 & 255 for i in range(size))
    if more:
        data = data[: size // 8 * 8]
    sent = (
        IP(src="10.0.1.10", dst="10.0.1.20", id=99, flags="MF" if more else 0, frag=3 if more else 0, proto=17) / data
    )
    p = plane()
    out = p.offer("a", bytes(Ether(src=A, dst="02:42:0a:00:01:14") / sent))
    adds_up(p)
    whole, at = b"", 3 if more else 0
    for i, (port, packet) in enumerate(out):
        outer = Ether(packet)
        assert port == "underlay" and len(packet) <= 1514
        outer[UDP].decode_payload_as(VXLAN)
        inner = checked(Ether(bytes(outer[VXLAN].payload)))[IP]
        assert (inner.frag, inner.id, inner.src) == (at, 99, "10.0.1.10")
        assert bool(inner.flags.MF) == (i + 1 < len(out) or more)
        whole += bytes(inner.payload)
        at = (len(whole) // 8) + (3 if more else 0)
    assert whole == data
    stats = p.stats()
    if len(out) > 1:
        assert (stats.fragmented, stats.fragments) == (1, len(out))


def test_over_the_mtu_in_silence() -> None:
    """What is no IP, has options and no DF, or was flooded: dropped on its way out, and counted there."""
    p = plane()
    to = "02:42:0a:00:01:14"
    assert verdict(p, "a", Ether(src=A, dst=to, type=0x88B5) / bytes(1500)) == Verdict.DROP_OVER_MTU
    flooded = Ether(src=A, dst="02:00:00:00:00:77") / IP(src="10.0.1.10", dst="10.0.1.77", flags="DF") / bytes(1500)
    assert p.offer("a", bytes(flooded)) == []
    stats = p.stats()
    assert stats.send_drops == {Verdict.DROP_OVER_MTU: 3} and stats.peers[101, "192.0.2.2"].tx_drops == 2
    adds_up(p)
    assert len(plane(SPEC.replace("mtu = 1500", "mtu = 0")).offer("a", bytes(flooded))) == 2


@pytest.mark.parametrize(("dst", "dst6", "to", "mtu"), MTU_CASES, ids=["over IPv4", "over IPv6"])
@pytest.mark.parametrize("lead", [[], [("NOP", None)], [("NOP", None), ("NOP", None)], [("WScale", 7)]])
def test_mss_clamp(dst: str, dst6: str, to: str, mtu: int, lead: list[tuple[str, object]]) -> None:
    """SYN and SYN-ACK, both ways; wherever the option stands, the checksum stays right; what is small enough stays."""
    p = plane(SPEC.replace('name = "web"\n', 'name = "web"\nmss_clamp = true\n'))
    for flags in ("S", "SA"):
        for mss in (1460, 536):
            tcp = TCP(sport=1, dport=80, flags=flags, options=[*lead, ("MSS", mss), ("SAckOK", b"")])
            for packet, room in ((IP(src="10.0.1.10", dst=dst) / tcp, 40), (IPv6(src="fd00:1::a", dst=dst6) / tcp, 60)):
                out = one(p, "a", Ether(src=A, dst=to) / packet)[1]
                out[UDP].decode_payload_as(VXLAN)
                inner = checked(Ether(bytes(out[VXLAN].payload)))
                assert dict(inner[TCP].options)["MSS"] == min(mss, mtu - room)
    assert p.stats().clamped == 4
    plain = TCP(sport=1, dport=80, flags="A", options=[("MSS", 1460)])
    out = one(p, "a", Ether(src=A, dst=to) / IP(src="10.0.1.10", dst=dst) / plain)[1]
    assert dict(Ether(bytes(out[UDP].payload)[8:])[TCP].options)["MSS"] == 1460
    if mtu == 1450:
        syn = Ether(src=to, dst=A) / IP(src=dst, dst="10.0.1.10") / TCP(flags="S", options=[("MSS", 1460)])
        outer = Ether() / IP(src="192.0.2.2", dst="192.0.2.1") / UDP(sport=50000, dport=4789, chksum=0)
        back = one(p, "underlay", outer / VXLAN(vni=101, flags=8) / syn)[1]
        assert dict(checked(back)[TCP].options)["MSS"] == 1410


def test_a_broken_mss_option_is_left_alone() -> None:
    """Options that are cut, too long or without an end: nothing is read behind them, nothing changed."""
    p = plane(SPEC.replace('name = "web"\n', 'name = "web"\nmss_clamp = true\n'))
    for options in (
        b"\x02\x04\x05",
        b"\x02\x00\x05\xb4",
        b"\x02\x03\x05\xb4",
        b"\x08\xff\x05\xb4",
        b"\x01\x01\x01\x02",
        b"\x00\x02\x04\x05",
    ):
        raw = bytearray(bytes(TCP(flags="S")) + options.ljust(4, b"\0")[:4])
        raw[12] = 6 << 4
        packet = bytes(Ether(src=A, dst=B) / IP(src="10.0.1.10", dst="10.0.1.20", proto=6) / bytes(raw))
        for end in range(14, len(packet) + 1):
            p.offer("a", packet[:end])
    assert p.stats().clamped == 0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (('gateway = ["10.0.3.1"]', 'gateway = ["10.0.4.1"]'), "gateway = '10.0.4.1': an address in a subnet"),
        (('subnet = ["10.0.2.0/24"', 'subnet = ["10.0.0.0/16"'), "subnet = '10.0.1.0/24': network web, VNI 101"),
        (('gateway = ["10.0.3.1"]', 'gateway_mac = "03:00:00:00:00:01"'), "gateway_mac"),
        (("mtu = 1500", "mtu = 1000"), "mtu = 1000: 1280 to 65535"),
        (("mtu = 1500", 'router_mac = "00:00:00:00:00:00"'), "router_mac"),
    ],
)  # fmt: skip
def test_what_a_spec_gets_wrong(change: tuple[str, str], text: str) -> None:
    with pytest.raises(vf.SpecError, match=text):
        vf.parse_spec(SPEC.replace(*change))


def test_a_neighbour_that_has_the_gateways_mac() -> None:
    """Nobody lives there: the sender is told, and nothing leaves by the underlay as it is."""
    p = plane()
    p.set_neighbour(102, "10.0.2.50", GW6)
    port, out = one(p, "a", Ether(src=A, dst=GW) / IP(src="10.0.1.10", dst="10.0.2.50") / UDP())
    assert port == "a" and (out[ICMP].type, out[ICMP].code) == (3, 1)


def test_too_big_behind_the_router() -> None:
    """The error goes to the sender, from the gateway, with the MTU of the tunnel beyond; without DF: fragments."""
    p = plane()
    sent = Ether(src=A, dst=GW) / IP(src="10.0.1.10", dst="10.0.2.12", flags="DF") / UDP() / bytes(1423)
    port, out = one(p, "a", sent)
    assert port == "a" and (out.src, out.dst, out[IP].src, out[IP].dst) == (GW, A, "10.0.1.1", "10.0.1.10")
    assert (out[ICMP].type, out[ICMP].code, out[ICMP].nexthopmtu) == (3, 4, 1450)
    assert bytes(out[ICMP])[8:] == bytes(sent[IP])[:548]
    sent = Ether(src=A, dst=GW) / IPv6(src="fd00:1::a", dst="fd00:2::c") / UDP() / bytes(1403)
    port, out = one(p, "a", sent)
    assert (out.src, out.dst, out[IPv6].src) == (GW, A, "fd00:1::1") and out[ICMPv6PacketTooBig].mtu == 1450
    checked(out)
    sent = Ether(src=A, dst=GW) / IP(src="10.0.1.10", dst="10.0.2.12", ttl=9) / UDP() / bytes(1423)
    for _, packet in p.offer("a", bytes(sent)):
        outer = Ether(packet)
        outer[UDP].decode_payload_as(VXLAN)
        inner = checked(Ether(bytes(outer[VXLAN].payload)))
        assert outer[VXLAN].vni == 102 and (inner.src, inner.dst, inner[IP].ttl) == (OWN, C, 8)
    assert p.stats().fragments == 2
