"""UDP."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6

from vxlanfast._ext.verdict import Verdict

# 0000   45 b9 00 24 12 34 40 00 40 11 3b a5 c0 00 02 01   the IPv4 header it stands under
# 0010   c6 33 64 02
HEADER4 = bytes.fromhex("45b9002412344000 40113ba5 c0000201 c6336402")
# 0000   c0 00 12 b5 00 10 0e e1 08 00 00 00 00 00 2a 00   49152 to 4789, 16 bytes, checksum 0x0ee1; VXLAN
DATAGRAM = bytes.fromhex("c00012b500100ee1 0800000000002a00")
# 0000   60 00 00 00 00 09 11 40 …  2001:db8::1 to 2001:db8::2
HEADER6 = bytes.fromhex("6000000000091140 20010db8" + "00" * 11 + "01 20010db8" + "00" * 11 + "02")
# 0000   c0 00 12 b5 00 09 59 b1 78
DATAGRAM6 = bytes.fromhex("c00012b5000959b178")
U16 = st.integers(0, 0xFFFF)


def test_getters(wire):
    assert wire.udp_check(DATAGRAM) == Verdict.PASS
    assert (wire.udp_src(DATAGRAM), wire.udp_dst(DATAGRAM)) == (49152, 4789)
    assert (wire.udp_len(DATAGRAM), wire.udp_csum(DATAGRAM)) == (16, 0x0EE1)


def test_truncated_at_every_length(wire):
    for n in range(8):
        assert wire.udp_check(DATAGRAM[:n]) == Verdict.DROP_TRUNCATED


@given(src=U16, dst=U16, length=U16, check=U16)
def test_write_then_read(wire, src, dst, length, check):
    header = wire.udp_write(src, dst, length, check)
    assert struct.unpack(">HHHH", header) == (src, dst, length, check)
    assert (wire.udp_src(header), wire.udp_dst(header)) == (src, dst)
    assert (wire.udp_len(header), wire.udp_csum(header)) == (length, check)
    assert header == bytes(UDP(sport=src, dport=dst, len=length, chksum=check))


@pytest.mark.parametrize(("field", "at"), [("src", 0), ("dst", 2), ("len", 4), ("csum", 6)])
@given(value=U16)
def test_setters_touch_their_field_only(wire, field, at, value):
    after = getattr(wire, f"udp_set_{field}")(DATAGRAM, value)
    assert after == DATAGRAM[:at] + value.to_bytes(2, "big") + DATAGRAM[at + 2 :]
    assert getattr(wire, f"udp_{field}")(after) == value


@given(length=U16, room=st.integers(0, 0x20000), to_end=st.booleans())
def test_length_against_room(wire, length, room, to_end):
    """8 at least, and inside what IP leaves; 0 means all of it, where IP's own length is 0 too."""
    verdict, end = wire.udp_find_end(wire.udp_write(1, 2, length, 0), room, to_end)
    if length == 0 and to_end and room >= 8:
        assert (verdict, end) == (Verdict.PASS, room)
    elif 8 <= length <= room:
        assert (verdict, end) == (Verdict.PASS, length)
    else:
        assert (verdict, end) == (Verdict.DROP_UDP_LEN, None)


def test_impossible_lengths(wire):
    for length in range(8):
        assert wire.udp_find_end(wire.udp_write(1, 2, length, 0), 100, False) == (Verdict.DROP_UDP_LEN, None)
    assert wire.udp_find_end(wire.udp_write(1, 2, 101, 0), 100, True) == (Verdict.DROP_UDP_LEN, None)
    assert wire.udp_find_end(wire.udp_write(1, 2, 0, 0), 7, True) == (Verdict.DROP_UDP_LEN, None)
    assert wire.udp_find_end(wire.udp_write(1, 2, 0, 0), 70000, True) == (Verdict.PASS, 70000)


def test_checksum(wire):
    assert wire.udp_csum_ok(HEADER4, 4, DATAGRAM)
    assert wire.udp_csum_ok(HEADER6, 6, DATAGRAM6)
    assert not wire.udp_csum_ok(HEADER4, 4, DATAGRAM[:-1] + b"\x01")
    assert not wire.udp_csum_ok(HEADER6, 6, DATAGRAM6[:-1] + b"\x79")


def test_no_checksum(wire):
    """0: the sender computed none (RFC 768), which IPv6 does not allow (RFC 8200 §8.1)."""
    assert wire.udp_csum_ok(HEADER4, 4, wire.udp_set_csum(DATAGRAM, 0))
    assert not wire.udp_csum_ok(HEADER6, 6, wire.udp_set_csum(DATAGRAM6, 0))


def test_zero_checksum_is_sent_as_all_ones(wire):
    """A payload word is picked that makes the sum all ones, and so the computed checksum 0."""
    theirs = IP(src="192.0.2.1", dst="198.51.100.2") / UDP(sport=49152, dport=4789) / b"\0\0"
    word = UDP(bytes(theirs)[20:]).chksum
    theirs = bytes(IP(src="192.0.2.1", dst="198.51.100.2") / UDP(sport=49152, dport=4789) / word.to_bytes(2, "big"))
    assert wire.udp_csum(theirs[20:]) == 0xFFFF
    assert wire.udp_csum_ok(theirs[:20], 4, theirs[20:])


@given(version=st.sampled_from([4, 6]), src=U16, dst=U16, payload=st.binary(max_size=200))
def test_scapy_checksums_verify(wire, version, src, dst, payload):
    outer = IP(src="192.0.2.1", dst="198.51.100.2") if version == 4 else IPv6(src="2001:db8::1", dst="2001:db8::2")
    theirs = bytes(outer / UDP(sport=src, dport=dst) / payload)
    size = 20 if version == 4 else 40
    datagram = theirs[size:]
    assert wire.udp_csum_ok(theirs[:size], version, datagram)
    assert not wire.udp_csum_ok(theirs[:size], version, wire.udp_set_src(datagram, src ^ 1))
