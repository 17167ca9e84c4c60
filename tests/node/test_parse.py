"""Parse and validate, beside scapy's idea of where headers are; every packet cut at every byte."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, fragment
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    PadN,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet as ScapyPacket
from scapy.packet import Raw

from tests.support import batch_from, pcap
from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.node.parse import Parse
from vxlanfast._ext.verdict import Verdict

NONE = 65535
ETH = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
IP4 = IP(src="192.0.2.1", dst="192.0.2.2")
IP6 = IPv6(src="2001:db8::1", dst="2001:db8::2")
DATA = Raw(b"some data")

#: Name: the packet, and the layers that its network and transport headers are.
KINDS: dict[str, tuple[ScapyPacket, type | None, type | None]] = {
    "udp": (ETH / IP4 / UDP(sport=1, dport=2) / DATA, IP, UDP),
    "tcp": (ETH / IP4 / TCP(sport=1, dport=2) / DATA, IP, TCP),
    "tcp options": (ETH / IP4 / TCP(options=[("MSS", 1460), ("NOP", None), ("WScale", 7)]) / DATA, IP, TCP),
    "icmp": (ETH / IP4 / ICMP(id=1, seq=2) / DATA, IP, ICMP),
    "ip options": (ETH / IP(options=[IPOption_NOP()] * 8) / TCP() / DATA, IP, TCP),
    "gre": (ETH / IP(proto=47) / DATA, IP, Raw),
    "tagged": (ETH / Dot1AD(vlan=2) / Dot1Q(vlan=3) / IP4 / UDP() / DATA, IP, UDP),
    "udp6": (ETH / IP6 / UDP() / DATA, IPv6, UDP),
    "tcp6": (ETH / IP6 / TCP() / DATA, IPv6, TCP),
    "icmp6": (ETH / IP6 / ICMPv6EchoRequest(data=b"x"), IPv6, ICMPv6EchoRequest),
    "extensions": (
        ETH / IP6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(12))]) / UDP() / DATA,
        IPv6,
        UDP,
    ),
    "arp": (ETH / ARP(psrc="192.0.2.1", pdst="192.0.2.2"), ARP, None),
    "other": (Ether(type=0x88CC) / DATA, Raw, None),
}  # fmt: skip


def offset_of(frame: bytes, layer: type | None) -> int:
    """Where scapy finds the layer."""
    if layer is None:
        return NONE
    found = Ether(frame)[layer]
    return len(frame) - len(found) - len(frame[len(bytes(Ether(frame))) :])


def one(frame: bytes, wire_len: int | None = None) -> tuple[Verdict, int, int]:
    batch = PacketBatch.from_frames([frame])
    if wire_len is not None:
        from tests.support import Packet

        batch = batch_from(pcap([Packet(0, frame, wire_len)]))
    node = Parse()
    assert node.process(batch) is batch
    verdict = Verdict(batch.verdict[0])
    assert node.counters() == {verdict: 1}
    return verdict, batch.l3[0], batch.l4[0]


@pytest.mark.parametrize("kind", KINDS)
def test_headers_are_where_scapy_sees_them(kind: str) -> None:
    packet, l3, l4 = KINDS[kind]
    frame = bytes(packet)
    assert one(frame) == (Verdict.PASS, offset_of(frame, l3), offset_of(frame, l4))


@pytest.mark.parametrize("kind", KINDS)
def test_every_truncation(kind: str) -> None:
    """Frames whose headers are not whole are dropped as cut; others pass: their wire length is true."""
    packet, l3, l4 = KINDS[kind]
    frame = bytes(packet)
    needed = {"arp": 42, "other": 14, "gre": 34, "icmp6": offset_of(frame, l4) + 8}.get(kind)
    if needed is None:
        needed = len(frame) - len(bytes(DATA))
    for n in range(len(frame)):
        verdict, at3, at4 = one(frame[:n], len(frame))
        assert verdict == (Verdict.PASS if n >= needed else Verdict.DROP_TRUNCATED), n
        if verdict == Verdict.PASS:
            assert (at3, at4) == (offset_of(frame, l3), offset_of(frame, l4))


@pytest.mark.parametrize("kind", ["udp", "tcp", "udp6"])
def test_lengths_that_lie(kind: str) -> None:
    frame = bytearray(bytes(KINDS[kind][0]))
    at = 16 if kind != "udp6" else 18
    for length in (0xFFFF, struct.unpack_from(">H", frame, at)[0] + 1):
        changed = bytearray(frame)
        struct.pack_into(">H", changed, at, length)
        assert one(bytes(changed))[0] == Verdict.DROP_IP_LEN


def test_udp_lengths_that_lie() -> None:
    frame = bytearray(bytes(KINDS["udp"][0]))
    right = struct.unpack_from(">H", frame, 38)[0]
    for length, want in ((right, "PASS"), (right - 9, "PASS"), (right + 1, "DROP_UDP_LEN"), (7, "DROP_UDP_LEN")):
        struct.pack_into(">H", frame, 38, length)
        assert one(bytes(frame))[0].name == want, length


def test_tcp_data_offsets() -> None:
    frame = bytearray(bytes(KINDS["tcp"][0]))  # 20 bytes of header, 9 of data
    for words in range(16):
        frame[46] = words << 4
        want = "DROP_L4_HEADER" if words < 5 else "PASS" if words <= 7 else "DROP_TRUNCATED"
        assert one(bytes(frame))[0].name == want, words


def test_padding_is_no_header() -> None:
    """What lies behind the IP length is not looked at: eight bytes of TCP are too few, whatever padding follows."""
    packet = ETH / IP(src="192.0.2.1", dst="192.0.2.2", proto=6) / Raw(bytes(8))
    assert one(bytes(packet) + b"\x50" * 40)[0] == Verdict.DROP_TRUNCATED


def test_fragments() -> None:
    """The first fragment has a transport header (whose lengths speak of the whole), later ones have none."""
    pieces = [bytes(ETH / piece) for piece in fragment(IP4 / UDP() / Raw(bytes(2000)), 800)]
    assert [one(piece) for piece in pieces] == [(Verdict.PASS, 14, 34)] + [(Verdict.PASS, 14, NONE)] * (len(pieces) - 1)
    head = IPv6ExtHdrFragment(nh=17, id=1)
    first = bytes(ETH / IP6 / head / Raw(bytes(UDP(len=3000)) + bytes(64)))
    first = first[:56] + b"\0\1" + first[58:]
    assert one(first) == (Verdict.PASS, 14, 62)


def test_arp_of_other_kinds_passes() -> None:
    frame = bytes(ETH / ARP(hwtype=6, hwlen=8, hwsrc=b"12345678", hwdst=b"12345678"))
    assert one(frame)[:2] == (Verdict.PASS, 14)


def test_link_types() -> None:
    batch = batch_from(pcap([bytes(IP4 / UDP()), bytes(IP6 / TCP()), b"\x45"], link=101))
    Parse().process(batch)
    assert list(batch.verdict) == [Verdict.PASS, Verdict.PASS, Verdict.DROP_TRUNCATED]
    assert list(batch.l4)[:2] == [20, 40]
    other = batch_from(pcap([bytes(60)], link=147))
    Parse().process(other)
    assert list(other.verdict) == [Verdict.PUNT_LINK_TYPE]


def test_rows_that_were_out_stay_out() -> None:
    batch = PacketBatch.from_frames([bytes(KINDS["udp"][0])] * 2)
    batch.verdict[0] = Verdict.DROP_FILTER_INNER
    node = Parse()
    node.process(batch)
    assert list(batch.verdict) == [Verdict.DROP_FILTER_INNER, Verdict.PASS]
    assert node.counters() == {Verdict.PASS: 1}


CHANGES = st.lists(st.tuples(st.integers(14, 100), st.integers(0, 255)), max_size=4)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(KINDS.keys() - {"arp", "other", "tagged"})), CHANGES, st.data())
def test_the_short_way_says_what_the_general_one_says(
    kind: str, changes: list[tuple[int, int]], data: st.DataObject
) -> None:
    """The same frame as a row of link type RAW, without its Ethernet header, never takes the short way."""
    frame = bytearray(bytes(KINDS[kind][0]))
    for at, value in changes:
        if at < len(frame):
            frame[at] = value
    whole = bytes(frame)[: data.draw(st.integers(34, len(frame)))]
    if whole[12:14] not in (b"\x08\x00", b"\x86\xdd") or whole[14] >> 4 != (4 if whole[12] == 8 else 6):
        return
    direct = one(whole)
    raw = batch_from(pcap([whole[14:]], link=101))
    Parse().process(raw)
    want = (Verdict(raw.verdict[0]), *(n if n == NONE else n + 14 for n in (raw.l3[0], raw.l4[0])))
    assert direct == want
