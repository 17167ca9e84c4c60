"""The description of an IP packet of either version."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment

from vxlanfast._ext.verdict import Verdict

IPV4, IPV6 = 0x0800, 0x86DD

# 0000   45 00 00 1e 12 34 00 00 40 11 e4 64 c0 00 02 01   30 bytes, id 0x1234, UDP, 192.0.2.1
# 0010   c6 33 64 02 c0 00 12 b5 00 0a 00 00 68 69         198.51.100.2; UDP of 10 bytes
PACKET4 = bytes.fromhex("4500001e123400004011e464c0000201c6336402 c00012b5000a0000 6869")
# 0000   60 00 00 00 00 0a 11 40   10 bytes, UDP
# 0008   20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 01   2001:db8::1
# 0018   20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 02   2001:db8::2
# 0028   c0 00 12 b5 00 0a 00 00 68 69
PACKET6 = bytes.fromhex(
    "60000000000a1140 20010db8" + "00" * 11 + "01 20010db8" + "00" * 11 + "02 c00012b5000a0000 6869"
)
# 0000   60 00 00 00 00 12 2c 40 …   fragment header at 40: UDP, offset 1480, more, id 0xdeadbeef
FRAGMENT6 = PACKET6[:5] + b"\x12\x2c" + PACKET6[7:40] + bytes.fromhex("110005c9deadbeef") + PACKET6[40:]
WHOLE = {"fragment": 0, "frag_offset": 0, "frag_more": False, "is_fragment": False, "to_end": False, "proto": 17}


def put16(packet: bytes, at: int, value: int) -> bytes:
    return packet[:at] + value.to_bytes(2, "big") + packet[at + 2 :]


def test_ipv4(wire):
    assert wire.ip_parse(IPV4, PACKET4) == (
        Verdict.PASS,
        WHOLE | {"version": 4, "l4": 20, "end": 30, "frag_id": 0x1234},
    )


def test_ipv6(wire):
    assert wire.ip_parse(IPV6, PACKET6) == (Verdict.PASS, WHOLE | {"version": 6, "l4": 40, "end": 50, "frag_id": 0})


def test_ethernet_padding_is_not_of_the_packet(wire):
    assert wire.ip_parse(IPV4, PACKET4 + bytes(16))[1]["end"] == 30
    assert wire.ip_parse(IPV6, PACKET6 + bytes(16))[1]["end"] == 50


def test_cut_by_a_snaplen(wire):
    """Fewer bytes captured than were on the wire: the headers are enough."""
    for n in range(31):
        verdict, packet = wire.ip_parse(IPV4, PACKET4[:n], 30)
        assert verdict == (Verdict.DROP_TRUNCATED if n < 20 else Verdict.PASS)
        assert n < 20 or packet["end"] == 30
    for n in range(51):
        verdict, packet = wire.ip_parse(IPV6, PACKET6[:n], 50)
        assert verdict == (Verdict.DROP_TRUNCATED if n < 40 else Verdict.PASS)
    for n in range(40, 48):
        assert wire.ip_parse(IPV6, FRAGMENT6[:n], len(FRAGMENT6))[0] == Verdict.DROP_TRUNCATED


def test_length_longer_than_the_frame(wire):
    assert wire.ip_parse(IPV4, put16(PACKET4, 2, 31)) == (Verdict.DROP_IP_LEN, None)
    assert wire.ip_parse(IPV6, put16(PACKET6, 4, 11)) == (Verdict.DROP_IP_LEN, None)
    assert wire.ip_parse(IPV4, put16(PACKET4, 2, 0xFFFF), 0xFFFF)[0] == Verdict.PASS


def test_length_shorter_than_the_headers(wire):
    for length in range(1, 20):
        assert wire.ip_parse(IPV4, put16(PACKET4, 2, length)) == (Verdict.DROP_IP_LEN, None)
    assert wire.ip_parse(IPV4, put16(PACKET4, 2, 20))[1]["end"] == 20
    for length in range(1, 8):
        assert wire.ip_parse(IPV6, put16(FRAGMENT6, 4, length)) == (Verdict.DROP_IP_LEN, None)
    assert wire.ip_parse(IPV6, put16(FRAGMENT6, 4, 8))[1]["end"] == 48


def test_extension_header_longer_than_the_packet(wire):
    long = PACKET6[:6] + b"\x3c" + PACKET6[7:40] + b"\x11\x01" + bytes(6) + b"\0\0"
    assert wire.ip_parse(IPV6, long) == (Verdict.DROP_IP_LEN, None)


@pytest.mark.parametrize(("kind", "packet", "at"), [(IPV4, PACKET4, 2), (IPV6, PACKET6, 4)])
def test_length_0_runs_to_the_end(wire, kind, packet, at):
    """A segmentation offload wrote it."""
    verdict, found = wire.ip_parse(kind, put16(packet, at, 0), 70000)
    assert (verdict, found["to_end"], found["end"]) == (Verdict.PASS, True, 70000)


@pytest.mark.parametrize(
    ("field", "offset", "more", "fragment"),
    [(0x4000, 0, False, False), (0x2000, 0, True, True), (0x00B9, 1480, False, True), (0x3FFF, 65528, True, True)],
)
def test_ipv4_fragments(wire, field, offset, more, fragment):
    found = wire.ip_parse(IPV4, put16(PACKET4, 6, field))[1]
    assert (found["frag_offset"], found["frag_more"], found["is_fragment"]) == (offset, more, fragment)


def test_ipv6_fragment(wire):
    found = wire.ip_parse(IPV6, FRAGMENT6)[1]
    assert (found["fragment"], found["l4"], found["proto"], found["frag_id"]) == (40, 48, 17, 0xDEADBEEF)
    assert (found["frag_offset"], found["frag_more"], found["is_fragment"]) == (1480, True, True)


def test_ipv6_atomic_fragment_is_whole(wire):
    found = wire.ip_parse(IPV6, put16(FRAGMENT6, 42, 0))[1]
    assert (found["fragment"], found["is_fragment"], found["frag_more"]) == (40, False, False)


def test_not_ip(wire):
    assert wire.ip_parse(0x0806, PACKET4) == (Verdict.PUNT_NOT_IP, None)
    assert wire.ip_parse(0, b"") == (Verdict.PUNT_NOT_IP, None)


def test_ethertype_and_version_must_agree(wire):
    assert wire.ip_parse(IPV4, PACKET6) == (Verdict.DROP_IP_HEADER, None)
    assert wire.ip_parse(IPV6, PACKET4 + bytes(20)) == (Verdict.DROP_IP_HEADER, None)


@given(first=st.sampled_from([0x45, 0x4F, 0x46, 0x60]), rest=st.binary(max_size=120), extra=st.integers(0, 100))
def test_any_bytes(wire, first, rest, extra):
    """What passes keeps its promises: the upper layer lies inside the datagram, and that inside the frame."""
    packet = bytes([first]) + rest
    verdict, found = wire.ip_parse(IPV4 if first >> 4 == 4 else IPV6, packet, len(packet) + extra)
    assert verdict in (Verdict.PASS, Verdict.DROP_TRUNCATED, Verdict.DROP_IP_HEADER, Verdict.DROP_IP_LEN)
    if found:
        assert (20 if first >> 4 == 4 else 40) <= found["l4"] <= found["end"] <= len(packet) + extra


@given(version=st.sampled_from([4, 6]), tcp=st.booleans(), size=st.integers(0, 60), padding=st.integers(0, 20))
def test_we_read_what_scapy_writes(wire, version, tcp, size, padding):
    outer = IP(src="192.0.2.1", dst="192.0.2.2") if version == 4 else IPv6(src="2001:db8::1", dst="2001:db8::2")
    if version == 6:
        outer /= IPv6ExtHdrDestOpt() / IPv6ExtHdrFragment(id=9)
    theirs = bytes(outer / (TCP() if tcp else UDP()) / bytes(size))
    verdict, found = wire.ip_parse(IPV4 if version == 4 else IPV6, theirs + bytes(padding))
    assert verdict == Verdict.PASS
    assert (found["version"], found["proto"], found["end"]) == (version, 6 if tcp else 17, len(theirs))
    assert found["l4"] == len(theirs) - size - (20 if tcp else 8)
