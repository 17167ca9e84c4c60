"""IPv4."""

import struct

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, IPOption_Router_Alert

from vxlanfast._ext.verdict import Verdict

# 0000   45 b9 00 24 12 34 40 00 40 11 3b a5 c0 00 02 01   TOS 0xb9, 36 bytes, id 0x1234, DF, TTL 64, UDP, 192.0.2.1
# 0010   c6 33 64 02                                       198.51.100.2
HEADER = bytes.fromhex("45b90024123440004011 3ba5 c0000201 c6336402")
# 0000   46 00 00 18 00 01 00 00 40 02 f9 a7 c0 00 02 01
# 0010   c6 33 64 02 94 04 00 00                           router alert
WITH_OPTION = bytes.fromhex("4600001800010000 4002f9a7 c0000201 c6336402 94040000")
U8, U16, U32 = st.integers(0, 0xFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)


def test_getters(wire):
    assert wire.ipv4_check(HEADER) == Verdict.PASS
    assert wire.ipv4_hdr_len(HEADER) == 20
    assert wire.ipv4_total_len(HEADER) == 36
    assert wire.ipv4_frag(HEADER) == 0x4000
    assert wire.ipv4_csum_ok(HEADER)


def test_options(wire):
    assert wire.ipv4_check(WITH_OPTION) == Verdict.PASS
    assert wire.ipv4_hdr_len(WITH_OPTION) == 24
    assert wire.ipv4_csum_ok(WITH_OPTION)


def test_truncated_at_every_length(wire):
    for ihl in range(5, 16):
        header = bytes([0x40 | ihl]) + HEADER[1:] + bytes(4 * (ihl - 5))
        for n in range(len(header)):
            assert wire.ipv4_check(header[:n]) == Verdict.DROP_TRUNCATED
        assert wire.ipv4_check(header) == Verdict.PASS


def test_impossible_version_and_length(wire):
    for first in range(256):
        good = first >> 4 == 4 and first & 15 >= 5
        verdict = wire.ipv4_check(bytes([first]) + HEADER[1:] + bytes(40))
        assert verdict == (Verdict.PASS if good else Verdict.DROP_IP_HEADER)


def test_every_wrong_bit_shows_in_the_checksum(wire):
    for header in (HEADER, WITH_OPTION):
        for bit in range(8, len(header) * 8):
            wrong = bytearray(header)
            wrong[bit // 8] ^= 1 << bit % 8
            assert not wire.ipv4_csum_ok(wrong)


@given(tos=U8, total=U16, ident=U16, frag=U16, ttl=U8, proto=U8, src=U32, dst=U32)
def test_write_then_read(wire, tos, total, ident, frag, ttl, proto, src, dst):
    header = wire.ipv4_write(tos, total, ident, frag, ttl, proto, src, dst)
    fields = struct.unpack(">BBHHHBBHII", header)
    assert fields == (0x45, tos, total, ident, frag, ttl, proto, fields[7], src, dst)
    assert wire.ipv4_check(header) == Verdict.PASS
    assert wire.ipv4_csum_ok(header)
    assert (wire.ipv4_total_len(header), wire.ipv4_frag(header)) == (total, frag)


@given(tos=U8, ident=U16, flags=st.integers(0, 7), offset=st.integers(0, 0x1FFF), ttl=U8, proto=U8, src=U32, dst=U32)
def test_the_same_bytes_as_scapy(wire, tos, ident, flags, offset, ttl, proto, src, dst):
    dotted = [".".join(str(b) for b in address.to_bytes(4, "big")) for address in (src, dst)]
    theirs = IP(tos=tos, id=ident, flags=flags, frag=offset, ttl=ttl, proto=proto, src=dotted[0], dst=dotted[1], len=77)
    assert wire.ipv4_write(tos, 77, ident, flags << 13 | offset, ttl, proto, src, dst) == bytes(theirs)


def test_we_read_what_scapy_writes(wire):
    theirs = bytes(IP(src="192.0.2.1", dst="198.51.100.2", options=[IPOption_Router_Alert()] * 3))
    assert wire.ipv4_check(theirs) == Verdict.PASS
    assert wire.ipv4_hdr_len(theirs) == 32
    assert wire.ipv4_csum_ok(theirs)
