"""IPv6 and the walk over its extension headers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import UDP
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.ipsec import AH

from vxlanfast._ext.verdict import Verdict

HOPOPTS, UDP_, ROUTING, FRAGMENT, ESP, AH_, NONE, DSTOPTS = 0, 17, 43, 44, 50, 51, 59, 60

# 0000   6b 9a bc de 00 08 00 40   class 0xb9, label 0xabcde, 8 bytes, hop-by-hop, 64 hops
# 0008   20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 01   2001:db8::1
# 0018   20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 02   2001:db8::2
# 0028   3b 00 01 04 00 00 00 00   no next header, 8 bytes, PadN
PACKET = bytes.fromhex("6b9abcde00080040 20010db8" + "00" * 11 + "01 20010db8" + "00" * 11 + "02 3b00010400000000")


def packet(*chain: tuple[int, bytes], last: int = UDP_) -> bytes:
    """A header and extension headers, each given as (its number, its bytes from the second on)."""
    numbers = [number for number, _ in chain] + [last]
    bodies = b"".join(bytes([after]) + body for (_, body), after in zip(chain, numbers[1:], strict=True))
    return PACKET[:6] + bytes([numbers[0]]) + PACKET[7:40] + bodies


def options(units: int) -> bytes:
    return bytes([units]) + bytes(6 + 8 * units)


def fragment(offset: int, more: bool) -> bytes:
    return b"\0" + (offset | more).to_bytes(2, "big") + b"\x12\x34\x56\x78"


def test_getters(wire):
    assert wire.ipv6_check(PACKET) == Verdict.PASS
    assert wire.ipv6_payload_len(PACKET) == 8
    assert wire.ipv6_traffic_class(PACKET) == 0xB9
    assert wire.ipv6_find_l4(PACKET) == (Verdict.PASS, (NONE, 48, 0))


def test_truncated_at_every_length(wire):
    for n in range(40):
        assert wire.ipv6_check(PACKET[:n]) == Verdict.DROP_TRUNCATED
    for n in range(40, 48):
        assert wire.ipv6_find_l4(PACKET[:n]) == (Verdict.DROP_TRUNCATED, None)


def test_impossible_version(wire):
    for first in range(256):
        verdict = wire.ipv6_check(bytes([first]) + PACKET[1:])
        assert verdict == (Verdict.PASS if first >> 4 == 6 else Verdict.DROP_IP_HEADER)


def test_extension_headers(wire):
    assert [proto for proto in range(256) if wire.ipv6_is_ext(proto)] == [0, 43, 44, 51, 60, 135, 139, 140]


@pytest.mark.parametrize("last", [6, 17, ESP, NONE, 132, 253])
def test_upper_layers_end_the_walk(wire, last):
    assert wire.ipv6_find_l4(packet(last=last)) == (Verdict.PASS, (last, 40, 0))


def test_every_kind_in_one_chain(wire):
    chain = [(HOPOPTS, options(0)), (DSTOPTS, options(2)), (ROUTING, options(4)), (FRAGMENT, fragment(0, True))]
    chain += [
        (AH_, b"\x04" + bytes(22)),
        (DSTOPTS, options(0)),
        (135, options(1)),
        (139, options(0)),
        (140, options(0)),
    ]
    whole = packet(*chain)
    assert wire.ipv6_find_l4(whole) == (Verdict.PASS, (UDP_, len(whole), 40 + 8 + 24 + 40))


@given(
    kinds=st.lists(st.sampled_from([HOPOPTS, ROUTING, DSTOPTS, 135, 139, 140]), max_size=32),
    units=st.integers(0, 255),
    last=st.sampled_from([UDP_, 6, 58, NONE]),
)
def test_any_chain(wire, kinds, units, last):
    whole = packet(*((kind, options(units)) for kind in kinds), last=last)
    assert wire.ipv6_find_l4(whole) == (Verdict.PASS, (last, len(whole), 0))


def test_cut_in_every_place(wire):
    """Every header is read only where its first 8 bytes are there; a last one may run past the end of the bytes."""
    whole = packet((HOPOPTS, options(1)), (FRAGMENT, fragment(0, False)), (AH_, b"\x04" + bytes(22)))
    starts = [40, 56, 64]
    for n in range(40, len(whole)):
        walked = all(n >= start + 8 for start in starts)
        assert wire.ipv6_find_l4(whole[:n])[0] == (Verdict.PASS if walked else Verdict.DROP_TRUNCATED)


@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize("offset", [0, 8, 1480, 0xFFF8])
def test_a_later_fragment_ends_the_walk(wire, offset, more):
    """What follows it is the middle of a datagram, though its first byte looks like a header."""
    whole = packet((FRAGMENT, fragment(offset, more)), (DSTOPTS, options(3)))
    l4 = len(whole) if offset == 0 else 48
    assert wire.ipv6_find_l4(whole) == (Verdict.PASS, (UDP_ if offset == 0 else DSTOPTS, l4, 40))


def test_two_fragment_headers(wire):
    whole = packet((FRAGMENT, fragment(0, True)), (FRAGMENT, fragment(0, True)))
    assert wire.ipv6_find_l4(whole) == (Verdict.DROP_IP_HEADER, None)


def test_a_chain_without_end(wire):
    assert wire.ipv6_find_l4(packet(*[(DSTOPTS, options(0))] * 32))[0] == Verdict.PASS
    assert wire.ipv6_find_l4(packet(*[(DSTOPTS, options(0))] * 33))[0] == Verdict.DROP_IP_HEADER


@given(start=st.sampled_from([0, 43, 44, 51, 60, 135]), rest=st.binary(max_size=300))
def test_any_bytes(wire, start, rest):
    verdict, found = wire.ipv6_find_l4(PACKET[:6] + bytes([start]) + PACKET[7:40] + rest)
    assert verdict in (Verdict.PASS, Verdict.DROP_TRUNCATED, Verdict.DROP_IP_HEADER)
    if found:
        assert found[1] >= 48


@given(
    tc=st.integers(0, 255),
    label=st.integers(0, 2**32 - 1),
    length=st.integers(0, 0xFFFF),
    following=st.integers(0, 255),
    hops=st.integers(0, 255),
)
def test_write_then_read(wire, tc, label, length, following, hops):
    head = wire.ipv6_write(tc, label, length, following, hops)
    whole = head + PACKET[8:40]
    assert wire.ipv6_check(whole) == Verdict.PASS
    assert (wire.ipv6_traffic_class(whole), wire.ipv6_payload_len(whole)) == (tc, length)
    theirs = IPv6(tc=tc, fl=label & 0xFFFFF, plen=length, nh=following, hlim=hops, src="2001:db8::1", dst="2001:db8::2")
    assert whole == bytes(theirs)


@pytest.mark.parametrize(
    ("chain", "place"),
    [
        ([], 0),
        ([IPv6ExtHdrHopByHop()], 0),
        ([IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt(), IPv6ExtHdrRouting(addresses=["2001:db8::3"])], 0),
        ([IPv6ExtHdrRouting(), IPv6ExtHdrFragment(m=1, id=7)], 48),
        ([AH(icv=bytes(12)), IPv6ExtHdrDestOpt()], 0),
    ],
)
def test_we_read_what_scapy_writes(wire, chain, place):
    theirs = IPv6(src="2001:db8::1", dst="2001:db8::2")
    for header in chain:
        theirs /= header
    theirs = bytes(theirs / UDP(sport=49152, dport=4789))
    assert wire.ipv6_find_l4(theirs) == (Verdict.PASS, (UDP_, len(theirs) - 8, place))
