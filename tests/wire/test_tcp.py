"""TCP."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6

from vxlanfast._ext.verdict import Verdict

# 0000   45 00 00 2f 00 01 00 00 40 06 8e 91 c0 00 02 01   the IPv4 header it stands under
# 0010   c6 33 64 02
HEADER4 = bytes.fromhex("4500002f0001000040068e91 c0000201 c6336402")
# 0000   c3 50 01 bb 01 02 03 04 0a 0b 0c 0d 60 12 ff ff   50000 to 443, 24 bytes of header, SYN ACK, window 65535
# 0010   43 7b 00 00 02 04 05 82 68 69 21                  checksum 0x437b, MSS 1410; "hi!"
SEGMENT = bytes.fromhex("c35001bb 01020304 0a0b0c0d 6012ffff 437b0000 02040582 686921")
U8, U16, U32 = st.integers(0, 0xFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)


def test_getters(wire):
    assert wire.tcp_check(SEGMENT) == Verdict.PASS
    assert (wire.tcp_src(SEGMENT), wire.tcp_dst(SEGMENT)) == (50000, 443)
    assert (wire.tcp_seq(SEGMENT), wire.tcp_ack(SEGMENT)) == (0x01020304, 0x0A0B0C0D)
    assert (wire.tcp_hdr_len(SEGMENT), wire.tcp_flags(SEGMENT)) == (24, 0x12)
    assert (wire.tcp_window(SEGMENT), wire.tcp_csum(SEGMENT)) == (65535, 0x437B)


def test_truncated_at_every_length(wire):
    for n in range(24):
        assert wire.tcp_check(SEGMENT[:n]) == Verdict.DROP_TRUNCATED
    assert wire.tcp_check(SEGMENT[:24]) == Verdict.PASS


def test_data_offset(wire):
    """Below 5 words it is no header; above what is there it is cut."""
    for words in range(16):
        for reserved in (0, 15):
            segment = SEGMENT[:12] + bytes([words << 4 | reserved]) + SEGMENT[13:20] + bytes(20)
            want = Verdict.DROP_L4_HEADER if words < 5 else Verdict.PASS if words <= 10 else Verdict.DROP_TRUNCATED
            assert wire.tcp_check(segment) == want
            assert wire.tcp_hdr_len(segment) == words * 4


@given(src=U16, dst=U16, seq=U32, ack=U32, flags=U8, window=U16)
def test_write_then_read(wire, src, dst, seq, ack, flags, window):
    header = wire.tcp_write(src, dst, seq, ack, flags, window)
    assert struct.unpack(">HHIIBBHHH", header) == (src, dst, seq, ack, 0x50, flags, window, 0, 0)
    assert wire.tcp_check(header) == Verdict.PASS
    assert (wire.tcp_src(header), wire.tcp_dst(header), wire.tcp_seq(header)) == (src, dst, seq)
    assert (wire.tcp_ack(header), wire.tcp_flags(header), wire.tcp_window(header)) == (ack, flags, window)
    assert header == bytes(TCP(sport=src, dport=dst, seq=seq, ack=ack, flags=flags, window=window, chksum=0, dataofs=5))


@pytest.mark.parametrize(
    ("field", "at", "size"),
    [("src", 0, 2), ("dst", 2, 2), ("seq", 4, 4), ("ack", 8, 4), ("flags", 13, 1), ("window", 14, 2), ("csum", 16, 2)],
)
@given(value=U32)
def test_setters_touch_their_field_only(wire, field, at, size, value):
    value &= 256**size - 1
    after = getattr(wire, f"tcp_set_{field}")(SEGMENT, value)
    assert after == SEGMENT[:at] + value.to_bytes(size, "big") + SEGMENT[at + size :]
    assert getattr(wire, f"tcp_{field}")(after) == value


@pytest.mark.parametrize("flag", "FSRPAUEC")
def test_flags_are_scapys(wire, flag):
    assert wire.tcp_flags(bytes(TCP(flags=flag))) == 1 << "FSRPAUEC".index(flag)


def test_checksum(wire):
    assert wire.tcp_csum_ok(HEADER4, 4, SEGMENT)
    assert not wire.tcp_csum_ok(HEADER4, 4, SEGMENT[:-1])
    assert not wire.tcp_csum_ok(HEADER4, 4, wire.tcp_set_seq(SEGMENT, 0))


@given(version=st.sampled_from([4, 6]), seq=U32, payload=st.binary(max_size=200), mss=U16)
def test_scapy_checksums_verify(wire, version, seq, payload, mss):
    outer = IP(src="192.0.2.1", dst="198.51.100.2") if version == 4 else IPv6(src="2001:db8::1", dst="2001:db8::2")
    theirs = bytes(outer / TCP(seq=seq, options=[("MSS", mss)]) / payload)
    size = 20 if version == 4 else 40
    assert wire.tcp_check(theirs[size:]) == Verdict.PASS
    assert wire.tcp_hdr_len(theirs[size:]) == 24
    assert wire.tcp_csum_ok(theirs[:size], version, theirs[size:])
    assert not wire.tcp_csum_ok(theirs[:size], version, wire.tcp_set_seq(theirs[size:], seq ^ 1))
