"""Ethernet II and VLAN tags."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether

from vxlanfast._ext.verdict import Verdict

DST, SRC = bytes.fromhex("020000000002"), bytes.fromhex("020000000001")
TAGS = [0x8100, 0x88A8, 0x9100, 0x9200]

# 0000   02 00 00 00 00 02 02 00 00 00 00 01 88 a8 00 64   service tag 100
# 0010   81 00 20 05 08 00                                 customer tag 5, priority 1; IPv4
QINQ = bytes.fromhex("020000000002020000000001 88a80064 81002005 0800")


def test_find_l3(wire):
    assert wire.eth_find_l3(QINQ) == (Verdict.PASS, (0x0800, 22))
    assert wire.eth_find_l3(DST + SRC + b"\x08\x06") == (Verdict.PASS, (0x0806, 14))


def test_truncated_at_every_length(wire):
    for n in range(len(QINQ)):
        assert wire.eth_find_l3(QINQ[:n]) == (Verdict.DROP_TRUNCATED, None)


def test_tag_types(wire):
    assert [kind for kind in range(0x10000) if wire.eth_is_tag(kind)] == sorted(TAGS)


@given(kinds=st.lists(st.sampled_from(TAGS), max_size=40), tci=st.integers(0, 0xFFFF), rest=st.binary(max_size=4))
def test_any_stack_of_tags(wire, kinds, tci, rest):
    tags = b"".join(kind.to_bytes(2, "big") + tci.to_bytes(2, "big") for kind in kinds)
    frame = DST + SRC + tags + b"\x86\xdd"
    assert wire.eth_find_l3(frame + rest) == (Verdict.PASS, (0x86DD, len(frame)))
    assert wire.eth_find_l3(frame[:-1]) == (Verdict.DROP_TRUNCATED, None)


def test_nothing_but_tags(wire):
    assert wire.eth_find_l3(DST + SRC + bytes.fromhex("81000001") * 400) == (Verdict.DROP_TRUNCATED, None)


@given(dst=st.binary(min_size=6, max_size=6), src=st.binary(min_size=6, max_size=6), kind=st.integers(0, 0xFFFF))
def test_write_then_read(wire, dst, src, kind):
    frame = wire.eth_write(dst, src, kind)
    assert frame == dst + src + kind.to_bytes(2, "big")
    if not wire.eth_is_tag(kind):
        assert wire.eth_find_l3(frame) == (Verdict.PASS, (kind, 14))


def test_scapy_reads_what_we_write(wire):
    frame = Ether(wire.eth_write(DST, SRC, 0x86DD))
    assert (frame.dst, frame.src, frame.type) == ("02:00:00:00:00:02", "02:00:00:00:00:01", 0x86DD)


@pytest.mark.parametrize("tags", [[], [Dot1Q], [Dot1AD, Dot1Q], [Dot1Q] * 3])
def test_we_read_what_scapy_writes(wire, tags):
    frame = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    for tag in tags:
        frame /= tag(vlan=7)
    frame.lastlayer().type = 0x0806
    assert wire.eth_find_l3(bytes(frame)) == (Verdict.PASS, (0x0806, 14 + 4 * len(tags)))
