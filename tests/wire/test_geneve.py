"""GENEVE."""

from hypothesis import given
from hypothesis import strategies as st
from scapy.contrib.geneve import GENEVE

from vxlanfast._ext.verdict import Verdict

# 0000   00 00 65 58 12 34 56 00   no options, Ethernet, VNI 0x123456
HEADER = bytes.fromhex("0000655812345600")
# 0000   02 00 08 00 00 00 2a 00   two words of options, IPv4, VNI 42 …
# 0008   01 08 01 01 de ad be ef   … class 0x0108, type 1, one word
OPTIONS = bytes.fromhex("0200080000002a00 01080101deadbeef")
U16 = st.integers(0, 0xFFFF)
VNIS = st.integers(0, 0xFFFFFF)


def test_getters(wire):
    assert wire.geneve_check(HEADER) == Verdict.PASS
    plain = {"hdr_len": 8, "control": False, "critical": False, "reserved": False, "proto": 0x6558, "vni": 0x123456}
    assert wire.geneve_get(HEADER) == plain
    assert wire.geneve_check(OPTIONS) == Verdict.PASS
    assert wire.geneve_get(OPTIONS)["hdr_len"] == 16


def test_truncated_at_every_length(wire):
    for n in range(8):
        assert wire.geneve_check(HEADER[:n]) == Verdict.DROP_GENEVE
        assert wire.geneve_check(HEADER[:n], 100) == Verdict.DROP_TRUNCATED
    for n in range(8, 16):  # cut inside the options, of a datagram that has them; or one that does not
        assert wire.geneve_check(OPTIONS[:n], 100) == Verdict.DROP_TRUNCATED
        assert wire.geneve_check(OPTIONS[:n]) == Verdict.DROP_GENEVE


@given(first=st.integers(0, 255), rest=st.binary(min_size=7, max_size=300))
def test_impossible_lengths_and_versions(wire, first, rest):
    header = bytes([first]) + rest
    fine = first < 0x40 and 8 + first % 64 * 4 <= len(header)
    assert wire.geneve_check(header) == (Verdict.PASS if fine else Verdict.DROP_GENEVE)


def test_every_bit_of_the_flags(wire):
    for bit in range(8):
        header = bytearray(HEADER)
        header[1] = 0x80 >> bit
        got = wire.geneve_get(header)
        assert (got["control"], got["critical"], got["reserved"]) == (bit == 0, bit == 1, bit > 1)
        assert got["vni"] == 0x123456
    assert wire.geneve_get(HEADER[:7] + b"\x01")["reserved"]


@given(proto=U16, vni=VNIS)
def test_write_then_read_as_scapy_does(wire, proto, vni):
    header = wire.geneve_write(proto, vni)
    assert header == bytes(GENEVE(proto=proto, vni=vni))[:8]
    got = wire.geneve_get(header)
    assert (got["proto"], got["vni"], got["hdr_len"]) == (proto, vni, 8)
