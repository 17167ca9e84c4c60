"""VXLAN, and what shares its port."""

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

from vxlanfast._ext.verdict import Verdict

# 0000   08 00 00 00 12 34 56 00   I, VNI 0x123456
HEADER = bytes.fromhex("0800000012345600")
# 0000   88 00 00 64 00 00 2a 00   G and I, group 100, VNI 42
GBP = bytes.fromhex("8800006400002a00")
# 0000   0c 00 00 03 00 00 2a 00   I and P, next protocol Ethernet, VNI 42
GPE = bytes.fromhex("0c00000300002a00")
VNIS = st.integers(0, 0xFFFFFF)


def test_getters(wire):
    assert wire.vxlan_check(HEADER) == Verdict.PASS
    assert wire.vxlan_has_vni(HEADER)
    assert wire.vxlan_vni(HEADER) == 0x123456
    assert not wire.vxlan_has_reserved(HEADER)


def test_truncated_at_every_length(wire):
    for n in range(8):
        assert wire.vxlan_check(HEADER[:n]) == Verdict.DROP_TRUNCATED


def test_only_the_i_bit_counts(wire):
    """Whatever else is set is ignored on receipt (RFC 7348 §5)."""
    for flags in range(256):
        assert wire.vxlan_has_vni(bytes([flags]) + b"\xff" * 7) == bool(flags & 0x08)


def test_every_reserved_bit(wire):
    for bit in range(64):
        header = bytearray(HEADER)
        header[bit // 8] |= 0x80 >> bit % 8
        assert wire.vxlan_has_reserved(header) == (bit != 4 and not 32 <= bit < 56)
        assert wire.vxlan_has_vni(header)
        assert bit // 8 in (4, 5, 6) or wire.vxlan_vni(header) == 0x123456


@given(vni=VNIS)
def test_write_then_read(wire, vni):
    header = wire.vxlan_write(vni)
    assert header == b"\x08\0\0\0" + vni.to_bytes(3, "big") + b"\0"
    assert wire.vxlan_has_vni(header)
    assert wire.vxlan_vni(header) == vni
    assert not wire.vxlan_has_reserved(header)


@given(source=st.binary(min_size=8, max_size=8), vni=VNIS)
def test_set_vni_touches_its_field_only(wire, source, vni):
    assert wire.vxlan_set_vni(source, vni) == source[:4] + vni.to_bytes(3, "big") + source[7:]


def test_group_policy(wire):
    assert wire.vxlan_is_gbp(GBP)
    assert wire.vxlan_is_gbp(bytes.fromhex("8848ffff00002a00"))  # D and A
    assert not wire.vxlan_is_gbp(HEADER)
    assert not wire.vxlan_is_gbp(GPE)
    for bit in range(64):
        noisy = bytearray(GBP)
        noisy[bit // 8] |= 0x80 >> bit % 8
        defined = bit in (0, 4, 9, 12) or 16 <= bit < 32 or 32 <= bit < 56  # G, I, D, A, group, VNI
        assert wire.vxlan_is_gbp(noisy) == defined, bit


def test_generic_protocol_extension(wire):
    assert wire.vxlan_is_gpe(GPE)
    assert not wire.vxlan_is_gpe(HEADER)
    assert not wire.vxlan_is_gpe(GBP)
    assert not wire.vxlan_is_gpe(bytes.fromhex("0c00000000002a00"))  # no next protocol
    for bit in range(64):
        noisy = bytearray(GPE)
        noisy[bit // 8] |= 0x80 >> bit % 8
        # I, P, B and O of version 0, the next protocol, the VNI
        defined = bit in (4, 5, 6, 7) or 24 <= bit < 32 or 32 <= bit < 56
        assert wire.vxlan_is_gpe(noisy) == defined, bit


@given(vni=VNIS)
def test_the_same_header_as_scapy(wire, vni):
    assert wire.vxlan_write(vni) == bytes(VXLAN(vni=vni, flags="Instance"))
    theirs = VXLAN(wire.vxlan_write(vni))
    assert (theirs.vni, str(theirs.flags), theirs.reserved2) == (vni, "Instance", 0)


def test_we_read_what_scapy_writes(wire):
    inner = Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01")
    theirs = bytes(IP(src="192.0.2.1", dst="192.0.2.2") / UDP(sport=49152, dport=4789) / VXLAN(vni=42) / inner)
    assert wire.vxlan_has_vni(theirs[28:])
    assert wire.vxlan_vni(theirs[28:]) == 42


def test_we_read_scapys_group_policy(wire):
    theirs = bytes(VXLAN(vni=42, flags="Instance+G", gpid=100))
    assert theirs == GBP
    assert wire.vxlan_is_gbp(theirs)
