"""Congestion marks across a tunnel: all sixteen cases."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP

NOT_ECT, ECT1, ECT0, CE = range(4)
DROP = None
# RFC 6040 §4.2, figure 4: inner by outer in the order Not-ECT, ECT(0), ECT(1), CE
OUTER = [NOT_ECT, ECT0, ECT1, CE]
FIGURE_4 = {
    NOT_ECT: [NOT_ECT, NOT_ECT, NOT_ECT, DROP],
    ECT0: [ECT0, ECT0, ECT1, CE],
    ECT1: [ECT1, ECT1, ECT1, CE],
    CE: [CE, CE, CE, CE],
}
# "!!!" of the same figure: combinations that RFC 6040 calls dangerous and would have logged
ALARMING = {(NOT_ECT, ECT0), (NOT_ECT, ECT1), (NOT_ECT, CE), (CE, ECT1)}
# 0000   45 b9 00 24 12 34 40 00 40 11 3b a5 c0 00 02 01   TOS 0xb9: DSCP EF, ECT(1)
# 0010   c6 33 64 02
HEADER4 = bytes.fromhex("45b9002412344000 40113ba5 c0000201 c6336402")
# 0000   6b 9a bc de 00 00 3b 40 …   class 0xb9, label 0xabcde
HEADER6 = bytes.fromhex("6b9abcde00003b40") + bytes(32)


@pytest.mark.parametrize("inner", FIGURE_4)
@pytest.mark.parametrize("outer", OUTER)
def test_decapsulation(wire, inner, outer):
    want = FIGURE_4[inner][OUTER.index(outer)]
    for dscp in (0x00, 0xFC):
        assert wire.ecn_decap(outer | dscp, inner) == want
        assert wire.ecn_decap(outer, inner | dscp) == want
        assert wire.ecn_is_odd(outer | dscp, inner) == ((inner, outer) in ALARMING)


def test_encapsulation_copies_the_mark(wire):
    """Normal mode (RFC 6040 §4.1): the mark of the inner, CE too, beside the DSCP of the outer."""
    for outer in range(256):
        for inner in (0x00, 0x01, 0x02, 0x03, 0xB8, 0xFF):
            assert wire.ecn_encap(outer, inner) == outer & 0xFC | inner & 3


def test_there_and_back_changes_nothing(wire):
    for inner in range(4):
        assert wire.ecn_decap(wire.ecn_encap(0xB8, inner), inner) == inner


@given(tos=st.integers(0, 255), proto=st.integers(0, 255), src=st.integers(0, 2**32 - 1), ecn=st.integers(0, 3))
def test_set4_keeps_the_checksum_right(wire, tos, proto, src, ecn):
    header = wire.ipv4_write(tos, 20, 7, 0, 64, proto, src, 0xC0000201)
    after = wire.ecn_set4(header, ecn)
    assert wire.ipv4_csum_ok(after)
    theirs = IP(after)
    assert (theirs.tos, theirs.proto) == (tos & 0xFC | ecn, proto)
    del theirs.chksum
    assert bytes(theirs) == after


def test_set4_every_tos(wire):
    for tos in range(256):
        header = wire.ipv4_write(tos, 36, 0x1234, 0x4000, 64, 17, 0xC0000201, 0xC6336402)
        for ecn in range(4):
            want = wire.ipv4_write(tos & 0xFC | ecn, 36, 0x1234, 0x4000, 64, 17, 0xC0000201, 0xC6336402)
            assert wire.ecn_set4(header, ecn) == want
    assert wire.ecn_set4(HEADER4, ECT1) == HEADER4


def test_set6_every_class(wire):
    for tc in range(256):
        header = wire.ipv6_write(tc, 0xABCDE, 0, 59, 64) + bytes(32)
        for ecn in range(4):
            assert wire.ecn_set6(header, ecn) == wire.ipv6_write(tc & 0xFC | ecn, 0xABCDE, 0, 59, 64) + bytes(32)
    assert wire.ecn_set6(HEADER6, ECT1) == HEADER6
