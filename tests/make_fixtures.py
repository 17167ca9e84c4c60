"""Makes the captures in fixtures/pcaps with scapy, the same bytes every time: ``python -m tests.make_fixtures``.

Each function gives what one file holds; the tests call them too, so that a packet and what is known of it stay
together. Addresses are those for examples only: RFC 5737, RFC 3849, MACs 02:….
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from scapy.config import conf
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_Router_Alert
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.l2 import ARP, LLC, SNAP, CookedLinux, CookedLinuxV2, Dot1AD, Dot1Q, Dot3, Ether, Loopback
from scapy.layers.sctp import SCTP
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet as ScapyPacket
from scapy.packet import Raw

from tests.make_demo import demo
from tests.support import FIXTURES, MAGIC_NSEC, Packet, Pcapng, pcap, sha

conf.verb = 0

A4, B4 = "192.0.2.1", "192.0.2.2"
A6, B6 = "2001:db8::1", "2001:db8::2"
MAC_A, MAC_B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
INNER_A, INNER_B = "02:42:cb:00:71:01", "02:42:cb:00:71:02"
T0 = 1_700_000_000_000_000_000
ETH, NULL, RAW, LOOP, SLL, IPV4, IPV6, SLL2 = 1, 0, 101, 108, 113, 228, 229, 276


class Case(NamedTuple):
    """One packet and what is in it: ``inner`` None where it holds no VXLAN."""

    name: str
    frame: bytes
    inner: bytes | None
    link: int = ETH
    vni: int = 42
    wire_len: int | None = None

    def packet(self, n: int = 0) -> Packet:
        return Packet(T0 + n * 1_000_001, self.frame, self.wire_len or len(self.frame), self.link)


def eth(src: str = MAC_A, dst: str = MAC_B) -> ScapyPacket:
    return Ether(src=src, dst=dst)


def inner_frame(payload: bytes = b"vxlanfast", *, sport: int = 40000, **ip: Any) -> ScapyPacket:
    """An Ethernet frame as a container or a mirror port would have it."""
    return (
        Ether(src=INNER_A, dst=INNER_B)
        / IP(src="203.0.113.1", dst="203.0.113.2", **ip)
        / UDP(sport=sport, dport=9)
        / Raw(payload)
    )


def vxlan(
    vni: int = 42, *, port: int = 4789, sport: int = 50000, csum: int | None = 0, **header: Any
) -> ScapyPacket:
    """UDP and VXLAN. ``csum`` None: scapy's."""
    header.setdefault("flags", 8)
    return UDP(sport=sport, dport=port, chksum=csum) / VXLAN(vni=vni, **header)


def ip4(**fields: Any) -> ScapyPacket:
    return IP(src=A4, dst=B4, **fields)


def ip6(**fields: Any) -> ScapyPacket:
    return IPv6(src=A6, dst=B6, **fields)


# --- the outer formats ----------------------------------------------------------------------------------


@cache
def outer_cases() -> list[Case]:
    """Every outer format that is read, one packet each."""
    inner = inner_frame()
    plain = bytes(inner)
    tagged = Ether(src=INNER_A, dst=INNER_B) / Dot1Q(vlan=7) / inner.payload
    arp = Ether(src=INNER_A, dst="ff:ff:ff:ff:ff:ff") / ARP(
        hwsrc=INNER_A, psrc="203.0.113.1", pdst="203.0.113.2", hwdst="00:00:00:00:00:00"
    )
    v6 = (
        Ether(src=INNER_A, dst=INNER_B)
        / IPv6(src="2001:db8:1::1", dst="2001:db8:1::2")
        / TCP(sport=1, dport=2)
    )
    cases: list[Case] = []

    def add(
        name: str,
        packet: ScapyPacket | bytes,
        inside: ScapyPacket | bytes = plain,
        *,
        link: int = ETH,
        vni: int = 42,
    ) -> None:
        cases.append(Case(name, bytes(packet), bytes(inside), link, vni))

    body4 = ip4() / vxlan() / inner
    body6 = ip6() / vxlan(csum=None) / inner
    add("ethernet", eth() / body4)
    add("802.1q", eth() / Dot1Q(vlan=100) / body4)
    add("qinq-88a8", eth() / Dot1AD(vlan=200) / Dot1Q(vlan=100) / body4)
    add("qinq-9100", eth() / Raw(bytes.fromhex("9100 00c8 8100 0064 0800")) / body4)
    add("qinq-9200", eth() / Raw(bytes.fromhex("9200 00c8 8100 0064 0800")) / body4)
    # scapy's Ether writes a type of its own behind Raw: put the tags where they belong.
    for n in (3, 4):
        frame = cases[n].frame
        cases[n] = cases[n]._replace(frame=frame[:12] + frame[14:])
    add("triple-tags", eth() / Dot1AD(vlan=1) / Dot1AD(vlan=2) / Dot1Q(vlan=3) / body4)
    add("priority-tag", eth() / Dot1Q(vlan=0, prio=7) / body4)
    add("ipv4-options", eth() / ip4(options=[IPOption_Router_Alert(), IPOption_NOP()]) / vxlan() / inner)
    add("ipv4-options-60", eth() / ip4(options=[IPOption_NOP()] * 40) / vxlan() / inner)
    add("ipv4-csum", eth() / ip4() / vxlan(csum=None) / inner)
    add("ipv4-df-ttl1", eth() / ip4(flags="DF", ttl=1) / vxlan() / inner)
    add("ipv6", eth() / body6)
    add("ipv6-no-csum", eth() / ip6() / vxlan() / inner)
    add(
        "ipv6-hop-by-hop",
        eth() / ip6() / IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 12)]) / vxlan(csum=None) / inner,
    )
    add("ipv6-destination", eth() / ip6() / IPv6ExtHdrDestOpt() / vxlan(csum=None) / inner)
    add(
        "ipv6-routing",
        eth() / ip6() / IPv6ExtHdrRouting(addresses=["2001:db8::9"], segleft=0) / vxlan() / inner,
    )
    add("ipv6-atomic-fragment", eth() / ip6() / IPv6ExtHdrFragment(id=7) / vxlan(csum=None) / inner)
    add(
        "ipv6-four-headers",
        eth() / ip6() / IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting(segleft=0) / IPv6ExtHdrFragment(id=8)
        / IPv6ExtHdrDestOpt() / vxlan() / inner,
    )  # fmt: skip
    # Authentication header: 12 bytes and an ICV of 12, length in 4-byte words minus 2 (RFC 4302 §2.2).
    ah = struct.pack(">BBHII", 17, 4, 0, 0x1234, 1) + bytes(12)
    udp = bytes(vxlan() / inner)
    add("ipv6-ah", eth() / ip6(nh=51, plen=len(ah) + len(udp)) / Raw(ah + udp))
    add("802.1q-ipv6", eth() / Dot1Q(vlan=100) / body6)
    add("port-8472", eth() / ip4() / vxlan(port=8472) / inner)
    add("vni-0", eth() / ip4() / vxlan(0) / inner, vni=0)
    add("vni-16777215", eth() / ip4() / vxlan(0xFFFFFF) / inner, vni=0xFFFFFF)
    add("inner-arp", eth() / ip4() / vxlan() / arp, arp)
    add("inner-802.1q", eth() / ip4() / vxlan() / tagged, tagged)
    add("inner-ipv6", eth() / ip4() / vxlan() / v6, v6)
    add("inner-14-bytes", eth() / ip4() / vxlan() / Raw(plain[:14]), plain[:14])
    nested = eth(INNER_A, INNER_B) / IP(src="198.51.100.1", dst="198.51.100.2") / vxlan(43) / inner
    add("vxlan-in-vxlan", eth() / ip4() / vxlan() / nested, nested)
    for link, name in ((RAW, "raw"), (12, "raw-12"), (14, "raw-14")):
        add(f"{name}-ipv4", body4, link=link)
        add(f"{name}-ipv6", body6, link=link)
    add("link-ipv4", body4, link=IPV4)
    add("link-ipv6", body6, link=IPV6)
    sll = {"pkttype": 0, "lladdrtype": 1, "lladdrlen": 6, "src": b"\x02\0\0\0\0\x0a"}
    add("sll-ipv4", CookedLinux(proto=0x800, **sll) / body4, link=SLL)
    add("sll-ipv6", CookedLinux(proto=0x86DD, **sll) / body6, link=SLL)
    add("sll-802.1q", CookedLinux(proto=0x8100, **sll) / Dot1Q(vlan=5) / body4, link=SLL)
    sll2 = {"ifindex": 3, "pkttype": 4, "lladdrlen": 6, "src": b"\x02\0\0\0\0\x0a\0\0"}
    add("sll2-ipv4", CookedLinuxV2(proto=0x800, **sll2) / body4, link=SLL2)
    add("sll2-ipv6", CookedLinuxV2(proto=0x86DD, **sll2) / body6, link=SLL2)
    add("sll2-802.1q", CookedLinuxV2(proto=0x8100, **sll2) / Dot1Q(vlan=5) / body4, link=SLL2)
    add("null-ipv4", Loopback(type=2) / body4, link=NULL)
    add("null-ipv4-other-order", b"\0\0\0\x02" + bytes(body4), link=NULL)
    for family in (10, 24, 28, 30):
        add(f"null-ipv6-family-{family}", struct.pack("<I", family) + bytes(body6), link=NULL)
    add("loop-ipv4", b"\0\0\0\x02" + bytes(body4), link=LOOP)
    add("loop-ipv6", b"\0\0\0\x18" + bytes(body6), link=LOOP)
    assert len({case.name for case in cases}) == len(cases)
    return cases


@cache
def edge_cases() -> list[Case]:
    """Lengths: padding behind what the headers say, cuts by a snaplen, and the forms without lengths."""
    inner = inner_frame()
    plain = bytes(inner)
    frame = bytes(eth() / ip4() / vxlan() / inner)
    frame6 = bytes(eth() / ip6() / vxlan() / inner)
    cases = [
        Case("padded-behind-ip", frame + b"\xee" * 9, plain),
        Case("padded-behind-ip6", frame6 + b"\xee" * 4, plain),
    ]
    # IP says more than UDP: what follows the UDP length is padding as well (Linux cuts the inner frame to it).
    longer = bytes(eth() / ip4(len=28 + 8 + len(plain) + 6) / vxlan() / inner) + b"\xdd" * 6
    udp_len = struct.pack(">H", 16 + len(plain))
    cases.append(Case("padded-behind-udp", longer[:38] + udp_len + longer[40:], plain))
    longer6 = bytes(eth() / ip6(plen=16 + len(plain) + 6) / vxlan() / inner) + b"\xdd" * 6
    cases.append(Case("padded-behind-udp6", longer6[:58] + udp_len + longer6[60:], plain))
    # BIG TCP (and TSO): total or payload length 0, UDP length 0; the frame ends where the packet does.
    big = bytearray(bytes(eth() / ip4(id=0) / vxlan() / inner_frame(b"b" * 3000)))
    big[16:18] = big[38:40] = b"\0\0"
    cases.append(Case("no-lengths-ipv4", bytes(big), bytes(big[50:])))
    big6 = bytearray(bytes(eth() / ip6() / vxlan() / inner_frame(b"b" * 3000)))
    big6[18:20] = big6[58:60] = b"\0\0"
    cases.append(Case("no-lengths-ipv6", bytes(big6), bytes(big6[70:])))
    # Total length 0 and a UDP length: a segmentation offload wrote the one and not the other.
    tso = bytearray(bytes(eth() / ip4() / vxlan() / inner))
    tso[16:18] = b"\0\0"
    cases.append(Case("no-ip-length", bytes(tso), plain))
    long = bytes(eth() / ip4() / vxlan() / inner_frame(b"c" * 400))
    for cut in (64, 96, 128):
        cases.append(Case(f"snaplen-{cut}", long[:cut], long[50:cut], wire_len=len(long)))
    cases.append(Case("snaplen-into-headers", long[:49], None, wire_len=len(long)))
    cases.append(Case("snaplen-and-padding", frame + b"\xee" * 3, plain, wire_len=len(frame) + 40))
    return cases


@cache
def other_cases() -> list[Case]:
    """Packets that hold no VXLAN, each for a reason of its own (the name of its verdict)."""
    inner = inner_frame()
    frame = bytes(eth() / ip4() / vxlan() / inner)

    def changed(at: int, value: bytes, source: bytes = frame) -> bytes:
        return source[:at] + value + source[at + len(value) :]

    gpe = eth() / ip4() / vxlan(flags=0x0C, NextProtocol=1) / Raw(bytes(inner.payload))
    return [
        Case("PUNT_NOT_IP", bytes(eth() / ARP(hwsrc=MAC_A, psrc=A4, pdst=B4)), None),
        Case("PUNT_NOT_UDP", bytes(eth() / ip4() / TCP(sport=4789, dport=4789)), None),
        Case("PUNT_PORT", bytes(eth() / ip4() / vxlan(port=4790) / inner), None),
        Case("PUNT_FRAGMENT", bytes(eth() / ip4(flags="MF") / vxlan() / inner), None),
        Case("PUNT_GPE", bytes(gpe), None),
        Case("PUNT_LINK_TYPE", frame, None, 147),
        Case("DROP_TRUNCATED", frame[:45], None, wire_len=len(frame)),
        Case("DROP_IP_HEADER", changed(14, b"\x44"), None),
        Case("DROP_IP_LEN", changed(16, b"\xff\xff"), None),
        Case("DROP_UDP_LEN", changed(38, b"\xff\xff"), None),
        Case("DROP_NO_VNI", changed(42, b"\0"), None),
        Case("DROP_INNER_RUNT", bytes(eth() / ip4() / vxlan() / Raw(bytes(inner)[:13])), None),
        Case("DROP_VXLAN_LEN", bytes(eth() / ip4() / UDP(sport=1, dport=4789) / Raw(b"1234567")), None),
    ]


@cache
def strict_cases() -> list[Case]:
    """What only the strict policy minds: reserved bits, one at a time, and outer checksums. The name says which."""
    inner = inner_frame()
    plain = bytes(inner)
    frame = bytes(eth() / ip4() / vxlan() / inner)
    cases = []
    for bit in range(64):
        if bit == 4 or 32 <= bit < 56:  # I, and the VNI
            continue
        header = bytearray(frame)
        header[42 + bit // 8] ^= 0x80 >> bit % 8
        cases.append(Case(f"DROP_RESERVED bit {bit}", bytes(header), plain))
    good4, good6 = (
        bytes(eth() / ip4() / vxlan(csum=None) / inner),
        bytes(eth() / ip6() / vxlan(csum=None) / inner),
    )
    cases += [
        Case("PASS csum-ipv4", good4, plain),
        Case("PASS no-csum-ipv4", frame, plain),
        Case("PASS csum-ipv6", good6, plain),
        Case("DROP_UDP_NO_CSUM ipv6", bytes(eth() / ip6() / vxlan() / inner), plain),
        Case("DROP_UDP_CSUM ipv4", good4[:-1] + bytes([good4[-1] ^ 1]), plain[:-1] + bytes([plain[-1] ^ 1])),
        Case("DROP_UDP_CSUM ipv6", good6[:-1] + bytes([good6[-1] ^ 1]), plain[:-1] + bytes([plain[-1] ^ 1])),
        Case("DROP_IP_CSUM ipv4", frame[:24] + bytes([frame[24] ^ 0x10]) + frame[25:], plain),
        Case("PASS csum-cannot-be-verified", good4[:-4], plain[:-4], wire_len=len(good4)),
    ]
    return cases


@cache
def nested(depth: int) -> list[bytes]:
    """A frame and what is left of it after each level: VXLAN in VXLAN, ``depth`` times."""
    frame = bytes(inner_frame())
    out = [frame]
    for level in range(depth):
        header = bytearray(bytes(eth() / ip4(id=level) / vxlan(level)))
        total = len(frame) + 36
        # Longer than a datagram: the form without lengths.
        header[16:18] = struct.pack(">H", total if total < 65536 else 0)
        header[38:40] = struct.pack(">H", total - 20 if total < 65536 else 0)
        frame = bytes(header) + frame
        out.insert(0, frame)
    return out


# --- frames to encapsulate ------------------------------------------------------------------------------


@cache
def inner_frames() -> list[bytes]:
    """Ethernet frames of every kind that the flow hash and the DSCP and ECN rules look into, and sizes 14 to 1514."""
    e, a, b = Ether(src=INNER_A, dst=INNER_B), "203.0.113.1", "203.0.113.2"
    v6 = IPv6(src="2001:db8:1::1", dst="2001:db8:1::2")
    out: list[ScapyPacket | bytes] = [
        e / IP(src=a, dst=b) / TCP(sport=1000, dport=80, flags="S"),
        e / IP(src=a, dst=b, tos=0xB9) / UDP(sport=1000, dport=53) / Raw(b"EF, ECT(1)"),
        e / IP(src=a, dst=b, tos=2) / SCTP(sport=5, dport=6),
        e / IP(src=a, dst=b, tos=3) / ICMP(id=7, seq=1),
        e / IP(src=a, dst=b, proto=47) / Raw(b"GRE, say"),
        e / IP(src=a, dst=b, flags="MF") / UDP(sport=1000, dport=53) / Raw(b"x" * 24),
        e / IP(src=a, dst=b, options=[IPOption_NOP()] * 4) / TCP(sport=1000, dport=81),
        e / Dot1Q(vlan=7) / IP(src=a, dst=b, tos=0x28) / TCP(sport=1000, dport=80),
        e / Dot1AD(vlan=8) / Dot1Q(vlan=7) / v6 / UDP(sport=1, dport=2),
        e / v6 / TCP(sport=1000, dport=443),
        e / IPv6(src="2001:db8:1::1", dst="2001:db8:1::2", tc=0xBB, fl=0x12345) / UDP(sport=1000, dport=443),
        e / v6 / IPv6ExtHdrHopByHop() / ICMPv6EchoRequest(id=9),
        e / ARP(hwsrc=INNER_A, psrc=a, pdst=b),
        Dot3(src=INNER_A, dst="01:80:c2:00:00:00") / LLC(dsap=0x42, ssap=0x42, ctrl=3) / Raw(bytes(35)),
        Dot3(src=INNER_A, dst=INNER_B) / LLC() / SNAP() / Raw(b"snap"),
        Ether(src=INNER_A, dst="33:33:00:00:00:01") / v6 / UDP(sport=5353, dport=5353) / Raw(b"mdns"),
    ]
    rng = random.Random(14)
    for size in (14, 15, 33, 34, 60, 61, 64, 255, 256, 257, 590, 591, 1450, 1514):
        out.append(bytes.fromhex("0242cb007102 0242cb007101 88b5") + rng.randbytes(size - 14))
    return [bytes(frame) for frame in out]


# --- fragments ------------------------------------------------------------------------------------------


def fragments4(datagram: bytes, size: int, ident: int, *, l2: bytes | None = None) -> list[bytes]:
    """An IPv4 packet cut by hand into fragments of ``size`` bytes of payload."""
    l2 = bytes(eth(MAC_A, MAC_B) / Raw(b""))[:12] + b"\x08\0" if l2 is None else l2
    header, payload = datagram[:20], datagram[20:]
    out = []
    for at in range(0, len(payload), size):
        piece = payload[at : at + size]
        more = at + size < len(payload)
        ip = IP(header)
        ip.id, ip.len, ip.frag, ip.flags, ip.chksum = (
            ident,
            20 + len(piece),
            at // 8,
            "MF" if more else 0,
            None,
        )
        out.append(l2 + bytes(ip)[:20] + piece)
    return out


def fragments6(packet: bytes, size: int, ident: int, *, chain: bytes = b"", first: int = 17) -> list[bytes]:
    """The same over IPv6; ``chain``: extension headers in front, the first of kind ``first``."""
    l2 = bytes(eth(MAC_A, MAC_B))[:12] + b"\x86\xdd"
    payload = packet[40:]
    out = []
    for at in range(0, len(payload), size):
        piece = payload[at : at + size]
        more = at + size < len(payload)
        fragment = struct.pack(">BBHI", 17, 0, at | more, ident)
        head = bytearray(packet[:40])
        head[4:6] = struct.pack(">H", len(chain) + 8 + len(piece))
        head[6] = first if chain else 44
        out.append(l2 + bytes(head) + chain + fragment + piece)
    return out


def datagram4(vni: int = 42, size: int = 3000, *, sport: int = 50000, seed: int = 0) -> tuple[bytes, bytes]:
    """An IPv4 packet with VXLAN, and the frame in it."""
    inner = bytes(inner_frame(random.Random(seed).randbytes(size)))
    return bytes(ip4() / vxlan(vni, sport=sport, csum=None) / Raw(inner)), inner


def datagram6(vni: int = 42, size: int = 3000, *, seed: int = 0) -> tuple[bytes, bytes]:
    inner = bytes(inner_frame(random.Random(seed).randbytes(size)))
    return bytes(ip6() / vxlan(vni, csum=None) / Raw(inner)), inner


@cache
def fragment_rows() -> tuple[list[bytes], list[bytes]]:
    """Fragments in order, reversed, shuffled, with others between, over either IP; and the frames they make."""
    rng = random.Random(791)
    frames, inners = [], []
    for n, order in enumerate(("in order", "reversed", "shuffled")):
        packet, inner = datagram4(100 + n, seed=n)
        pieces = fragments4(packet, 1000, 10 + n)
        packet6, inner6 = datagram6(200 + n, seed=50 + n)
        pieces6 = fragments6(packet6, 1000, 10 + n)
        for each in (pieces, pieces6):
            if order == "reversed":
                each.reverse()
            elif order == "shuffled":
                rng.shuffle(each)
        frames += [*pieces, *pieces6]
        inners += [inner, inner6]
    return frames, inners


# --- pcapng with everything in it -----------------------------------------------------------------------


def mixed() -> bytes:
    """Two sections, one of each byte order; interfaces of three link types and four clocks; every kind of block."""
    cases = {case.name: case for case in outer_cases()}
    edges = {case.name: case for case in edge_cases()}
    out = b""
    for big in (False, True):
        ng = Pcapng(section=False)
        ng.section(big=big, options=[(2, b"hardware"), (3, b"an OS"), (4, b"make_fixtures")])
        ng.interface(ETH, tsresol=9, options=[(2, b"eth0"), (3, b"the first"), (11, b"\0udp")])
        ng.interface(SLL, tsresol=6, offset=1000, options=[(2, b"any")])
        ng.interface(RAW, snaplen=4096, tsresol=0x94)
        ng.block(4, ng.pack("HH", 1, 14) + bytes([192, 0, 2, 1]) + b"vtep-one\0\0" + bytes(2) + bytes(4))
        ng.epb(
            cases["ethernet"].frame, units=T0 + 1, options=[(1, b"first packet"), (2, ng.pack("I", 0x1E2))]
        )
        ng.epb(
            cases["sll-ipv4"].frame, units=T0 // 1000 + 2, interface=1, options=[(3, b"\x02\xaa\xbb\xcc\xdd")]
        )
        ng.epb(
            cases["raw-ipv4"].frame,
            units=1_700_000_000 << 20 | 77,
            interface=2,
            options=[(4, ng.pack("Q", 5))],
        )
        ng.spb(cases["802.1q"].frame)
        ng.pb(cases["qinq-88a8"].frame, units=T0 + 5, drops=9, options=[(1, b"of the obsolete kind")])
        ng.epb(other_cases()[0].frame, units=T0 + 6, options=[(1, b"not VXLAN")])
        ng.block(0x0BAD, ng.pack("I", 32473) + b"copied by editors")
        ng.epb(edges["padded-behind-udp"].frame, units=T0 + 7)
        edge = edges["snaplen-96"]
        ng.epb(
            edge.frame,
            units=T0 + 8,
            wire_len=edge.wire_len,
            options=[(2988, ng.pack("I", 32473) + b"custom")],
        )
        ng.block(10, ng.pack("II", 0x544C534B, 8) + b"secrets\n")
        ng.block(5, ng.pack("III", 0, 1, 2) + ng.options([(4, ng.pack("Q", 8)), (5, ng.pack("Q", 0))]))
        out += ng.data
    return out


# --- the files ------------------------------------------------------------------------------------------


def of_link(cases: list[Case], link: int, **rest: Any) -> bytes:
    return pcap([case.packet(n) for n, case in enumerate(cases) if case.link == link], link=link, **rest)


def files() -> dict[str, tuple[str, Callable[[], bytes]]]:
    """Name: how it was made, and the function that makes it."""
    return {
        "outer-ethernet.pcap": ("`outer_cases`, Ethernet", lambda: of_link(outer_cases(), ETH)),
        "outer-raw.pcap": ("`outer_cases`, RAW, big-endian", lambda: of_link(outer_cases(), RAW, big=True)),
        "outer-sll.pcap": (
            "`outer_cases`, LINUX_SLL, nanoseconds",
            lambda: of_link(outer_cases(), SLL, magic=MAGIC_NSEC),
        ),
        "outer-sll2.pcap": ("`outer_cases`, LINUX_SLL2", lambda: of_link(outer_cases(), SLL2)),
        "outer-null.pcap": ("`outer_cases`, NULL", lambda: of_link(outer_cases(), NULL)),
        "outer-loop.pcap": ("`outer_cases`, LOOP", lambda: of_link(outer_cases(), LOOP)),
        "edges.pcap": (
            "`edge_cases`: padding, snaplen cuts, lengths of 0",
            lambda: of_link(edge_cases(), ETH, magic=MAGIC_NSEC),
        ),
        "others.pcap": ("`other_cases`: no VXLAN, a reason each", lambda: of_link(other_cases(), ETH)),
        "strict.pcap": (
            "`strict_cases`: reserved bits and outer checksums",
            lambda: of_link(strict_cases(), ETH),
        ),
        "nested.pcap": ("`nested(100)`: VXLAN in VXLAN, 100 deep", lambda: pcap([nested(100)[0]])),
        "inner.pcap": (
            "`inner_frames`: Ethernet frames to encapsulate",
            lambda: pcap(inner_frames(), magic=MAGIC_NSEC),
        ),
        "fragments.pcap": (
            "`fragment_rows`: outer fragments, IPv4 and IPv6",
            lambda: pcap(fragment_rows()[0]),
        ),
        "mixed.pcapng": ("`mixed`: two sections, three link types, every kind of block", mixed),
        "demo.pcap": ("`demo` of make_demo.py: two hosts in a lab, 1.5 ms from packet to packet", demo),
    }


TITLE = "<!-- rows from tests/make_fixtures.py -->"


def rows() -> list[str]:
    """The table's lines for README.md."""
    from tests.support import ours_read

    out = []
    for name, (how, make) in files().items():
        data = make()
        out.append(
            f"| `{name}` | tests/make_fixtures.py: {how} | {len(ours_read(data)[0])} | `{sha(data)}` |"
        )
    return out


def main() -> None:
    """Write the files, and their rows in README.md; rows of other files stay."""
    FIXTURES.mkdir(parents=True, exist_ok=True)
    for name, (_, make) in files().items():
        (FIXTURES / name).write_bytes(make())
    readme = FIXTURES / "README.md"
    head = (
        "# Captures made by the project\n\n"
        "Every file here was made by the project itself; the tests hold each against its row.\n\n"
        "| file | how it was made | packets | SHA-256 |\n|---|---|---:|---|\n"
    )
    lines = readme.read_text().splitlines() if readme.exists() else head.splitlines()
    names = tuple(f"| `{name}` |" for name in files())
    kept = [line for line in lines if not line.startswith(names)]
    at = next((n for n, line in enumerate(kept) if line.startswith("|---")), None)
    if at is None:
        kept += ["", *head.splitlines()[-2:]]
        at = len(kept) - 1
    readme.write_text("\n".join([*kept[: at + 1], *rows(), *kept[at + 1 :]]) + "\n")


if __name__ == "__main__":
    main()
