"""ICMP of both versions, and neighbour discovery."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)

from vxlanfast._ext.verdict import Verdict

PASS, TRUNCATED = Verdict.PASS, Verdict.DROP_TRUNCATED
# 0000   08 00 54 97 12 34 00 07 61 62 63 64 65 66 67   echo request, id 0x1234, sequence 7, "abcdefg"
ECHO = bytes.fromhex("0800549712340007 61626364656667")
TARGET = bytes.fromhex("20010db8" + "00" * 11 + "02")  # 2001:db8::2
MAC1, MAC2 = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
# 0000   60 00 00 00 00 20 3a ff 20 01 0d b8 … 01 ff 02 … 01 ff 00 00 02   2001:db8::1 to ff02::1:ff00:2
NS_HEADER = bytes.fromhex("6000000000203aff 20010db8" + "00" * 11 + "01 ff0200000000000000000001ff000002")
# 0000   87 00 1c 27 00 00 00 00 20 01 0d b8 00 00 00 00   solicitation for 2001:db8::2 …
# 0010   00 00 00 00 00 00 00 02 01 01 02 00 00 00 00 01   … from 02:00:00:00:00:01
NS = bytes.fromhex("87001c2700000000") + TARGET + bytes.fromhex("0101020000000001")
# 0000   60 00 00 00 00 20 3a ff 20 01 0d b8 … 02 20 01 0d b8 … 01   2001:db8::2 to 2001:db8::1
NA_HEADER = bytes.fromhex("6000000000203aff") + TARGET + bytes.fromhex("20010db8" + "00" * 11 + "01")
# 0000   88 00 8a 71 60 00 00 00 20 01 0d b8 00 00 00 00   advertisement, S and O, of 2001:db8::2 …
# 0010   00 00 00 00 00 00 00 02 02 01 02 00 00 00 00 02   … at 02:00:00:00:00:02
NA = bytes.fromhex("88008a7160000000") + TARGET + bytes.fromhex("0201020000000002")
U8, U16 = st.integers(0, 0xFF), st.integers(0, 0xFFFF)


def test_getters(wire):
    assert wire.icmp_check(ECHO) == PASS
    assert (wire.icmp_type(ECHO), wire.icmp_code(ECHO), wire.icmp_csum(ECHO)) == (8, 0, 0x5497)
    assert (wire.icmp_id(ECHO), wire.icmp_seq(ECHO)) == (0x1234, 7)


def test_truncated_at_every_length(wire):
    for n in range(8):
        assert wire.icmp_check(ECHO[:n]) == TRUNCATED


def test_echo_types(wire):
    assert [kind for kind in range(256) if wire.icmp_is_echo(bytes([kind]) + ECHO[1:])] == [0, 8]
    assert [kind for kind in range(256) if wire.icmp6_is_echo(bytes([kind]) + ECHO[1:])] == [128, 129]


@given(kind=U8, code=U8, ident=U16, seq=U16)
def test_write_then_read(wire, kind, code, ident, seq):
    message = wire.icmp_write(kind, code, ident, seq)
    assert struct.unpack(">BBHHH", message) == (kind, code, 0, ident, seq)
    assert (wire.icmp_type(message), wire.icmp_code(message)) == (kind, code)
    assert (wire.icmp_id(message), wire.icmp_seq(message)) == (ident, seq)


@given(ident=U16)
def test_set_id_touches_its_field_only(wire, ident):
    assert wire.icmp_set_id(ECHO, ident) == ECHO[:4] + ident.to_bytes(2, "big") + ECHO[6:]


def test_checksum(wire):
    assert wire.icmp_csum_ok(ECHO)
    assert not wire.icmp_csum_ok(ECHO[:-1])
    assert wire.icmp_set_csum(ECHO[:2] + b"\xa5\xa5" + ECHO[4:]) == ECHO
    assert wire.icmp6_csum_ok(NS_HEADER, NS)
    assert not wire.icmp6_csum_ok(NA_HEADER, NS)
    assert wire.icmp6_set_csum(NS_HEADER, NS[:2] + b"\xa5\xa5" + NS[4:]) == NS


@given(ident=U16, seq=U16, payload=st.binary(max_size=100))
def test_the_same_echo_as_scapy(wire, ident, seq, payload):
    theirs = bytes(IP() / ICMP(id=ident, seq=seq) / payload)[20:]
    assert wire.icmp_csum_ok(theirs)
    assert wire.icmp_set_csum(wire.icmp_write(8, 0, ident, seq) + payload) == theirs
    outer = IPv6(src="2001:db8::1", dst="2001:db8::2")
    theirs = bytes(outer / ICMPv6EchoRequest(id=ident, seq=seq, data=payload))
    assert wire.icmp6_csum_ok(theirs[:40], theirs[40:])
    assert wire.icmp6_set_csum(theirs[:40], wire.icmp_write(128, 0, ident, seq) + payload) == theirs[40:]


def test_nd_getters(wire):
    assert wire.nd_check(NS) == wire.nd_check(NA) == PASS
    assert wire.nd_target(NS) == wire.nd_target(NA) == TARGET
    assert (wire.nd_flags(NS), wire.nd_flags(NA)) == (0, 0x60)
    assert (wire.nd_mac(NS, 1), wire.nd_mac(NS, 2)) == (MAC1, None)
    assert (wire.nd_mac(NA, 1), wire.nd_mac(NA, 2)) == (None, MAC2)


def test_nd_truncated_at_every_length(wire):
    """Without options it is whole; between there and the end of the option it is cut."""
    for n in range(32):
        assert wire.nd_check(NA[:n]) == (PASS if n == 24 else TRUNCATED)


def test_nd_reserved_flags_are_ignored(wire):
    assert wire.nd_flags(NA[:4] + b"\xff" * 4 + NA[8:]) == 0xE0


def test_nd_option_of_length_0(wire):
    """It makes the whole message invalid (RFC 4861 §4.6), and the walk ends."""
    for options in ("0200020000000002", "0e01000000000000 0200"):
        assert wire.nd_check(NA[:24] + bytes.fromhex(options)) == Verdict.DROP_L4_HEADER


def test_nd_other_options(wire):
    """A nonce before it (RFC 3971), an address of another length, and a second address that does not count."""
    options = bytes.fromhex("0e01" + "00" * 6 + "0202" + "aa" * 14 + "0201020000000002" + "0201020000000003")
    assert wire.nd_check(NA[:24] + options) == PASS
    assert wire.nd_mac(NA[:24] + options, 2) == MAC2


@given(options=st.lists(st.tuples(U8, st.integers(1, 4), st.binary(min_size=32, max_size=32)), max_size=5))
def test_nd_options(wire, options):
    message, want = NA[:24], {}
    for kind, units, body in options:
        if units == 1:
            want.setdefault(kind, body[:6])
        message += bytes([kind, units]) + body[: units * 8 - 2]
    assert wire.nd_check(message) == PASS
    for kind in [1, 2, *(kind for kind, _, _ in options)]:
        assert wire.nd_mac(message, kind) == want.get(kind)


@given(rest=st.binary(max_size=100))
def test_nd_any_bytes(wire, rest):
    assert wire.nd_check(NA[:24] + rest) in (PASS, TRUNCATED, Verdict.DROP_L4_HEADER)


def test_nd_write(wire):
    assert wire.icmp6_set_csum(NS_HEADER, wire.nd_write(135, 0, TARGET, 1, MAC1)) == NS
    assert wire.icmp6_set_csum(NA_HEADER, wire.nd_write(136, 0x60, TARGET, 2, MAC2)) == NA


@pytest.mark.parametrize(("router", "solicited", "override"), [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)])
def test_the_same_discovery_as_scapy(wire, router, solicited, override):
    theirs = ICMPv6ND_NA(R=router, S=solicited, O=override, tgt="2001:db8::2")
    theirs = IPv6(src="2001:db8::2", dst="2001:db8::1") / theirs / ICMPv6NDOptDstLLAddr(lladdr="02:00:00:00:00:02")
    flags = router << 7 | solicited << 6 | override << 5
    assert wire.icmp6_set_csum(NA_HEADER, wire.nd_write(136, flags, TARGET, 2, MAC2)) == bytes(theirs)[40:]
    theirs = IPv6(src="2001:db8::1", dst="ff02::1:ff00:2") / ICMPv6ND_NS(tgt="2001:db8::2")
    theirs = bytes(theirs / ICMPv6NDOptSrcLLAddr(lladdr="02:00:00:00:00:01"))
    assert (theirs[:40], theirs[40:]) == (NS_HEADER, NS)
