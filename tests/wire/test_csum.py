"""The Internet checksum against a plain one, and the incremental update against the whole one."""

import random
import struct
from array import array
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.utils import checksum as scapy_checksum

from tests.support import SLOW_BUILD

EDGES = [0x0000, 0x0001, 0x00FF, 0x0100, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF]

# RFC 1071 §3: 0001 f203 f4f5 f6f7 sums to 2ddf0, which folds to ddf2
# 0000   00 01 f2 03 f4 f5 f6 f7
RFC1071 = bytes.fromhex("0001f203f4f5f6f7")


def plain_sum(source: bytes) -> int:
    """Folded sum of the 16-bit big-endian words, the last one padded (RFC 1071 §1)."""
    source += b"\0" * (len(source) & 1)
    total = sum(struct.unpack(f">{len(source) // 2}H", source))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def plain_csum(source: bytes) -> int:
    return ~plain_sum(source) & 0xFFFF


def test_the_example_of_rfc_1071(wire):
    assert wire.csum_fold_of(RFC1071) == (0xDDF2, 0xDDF2)
    assert wire.csum_finish(RFC1071) == 0x220D


def test_of_nothing(wire):
    assert wire.csum_fold_of(b"") == (0, 0)
    assert wire.csum_finish(b"") == 0xFFFF


def test_100_000_random_ranges(wire):
    """Lengths 0 to 2,000 at every alignment: vectorised = short = plain."""
    count = 10_000 if SLOW_BUILD else 100_000
    rng = random.Random(1071)
    source = rng.randbytes(32 * 1024)
    first = array("I", (rng.randrange(len(source) - 2000) for _ in range(count)))
    length = array("I", (rng.randrange(2001) for _ in range(count)))
    sums = wire.csum_fold_many(source, first, length)
    for at, n, total in zip(first, length, sums, strict=True):
        assert total == plain_sum(source[at : at + n])
    for at, n, total in zip(first[:2000], length, sums, strict=False):
        assert total ^ 0xFFFF == scapy_checksum(source[at : at + n])


@pytest.mark.parametrize("fill", [b"\x00", b"\xff", b"\x00\xff", b"\xff\x00"])
def test_extreme_bytes(wire, fill):
    for n in [*range(70), 1999, 2000, 65535]:
        source = (fill * n)[:n]
        assert wire.csum_fold_of(source) == (plain_sum(source),) * 2


@pytest.mark.parametrize("lead", range(1, 9))
def test_blocks_of_exactly_that_length(wire, lead):
    """Each length in a block that ends with it: an over-read is a sanitizer's to see."""
    rng = random.Random(lead)
    for n in range(300):
        source = rng.randbytes(n)
        assert wire.csum_fold_of(source, lead) == (plain_sum(source),) * 2


@given(total=st.integers(0, 2**64 - 1))
def test_fold(wire, total):
    """Folding keeps the value modulo 65,535, and 0 for 0 only."""
    folded = wire.csum_fold(total)
    swapped = int.from_bytes(folded.to_bytes(2, "big"), "little") if wire.host_is_little() else folded
    assert swapped % 0xFFFF == total % 0xFFFF
    assert (folded == 0) == (total == 0)


@given(left=st.binary(max_size=80).filter(lambda b: len(b) % 2 == 0), right=st.binary(max_size=80))
def test_sums_of_parts_add_up(wire, left, right):
    assert wire.csum_parts(left, right) == plain_sum(left + right)


@given(words=st.lists(st.integers(0, 0xFFFF), max_size=20))
def test_word(wire, words):
    assert wire.csum_words(words) == plain_sum(struct.pack(f">{len(words)}H", *words))


def test_finish_udp_never_gives_zero(wire):
    """A computed 0 is sent as all ones (RFC 768); any other is left alone."""
    assert wire.csum_finish(b"\xff\xff") == 0
    assert wire.csum_finish_udp(b"\xff\xff") == 0xFFFF
    assert wire.csum_finish_udp(b"\x12\x34") == wire.csum_finish(b"\x12\x34") == 0xEDCB


def test_the_example_of_rfc_1624(wire):
    """§4: HC 0xDD2F, m 0x5555, m' 0x3285 gives 0x0000, where RFC 1141's equation gave 0xFFFF."""
    assert wire.csum_update(0xDD2F, 0x5555, 0x3285) == 0x0000


@pytest.mark.parametrize("old", EDGES)
@pytest.mark.parametrize("other", [0x0001, 0x4500, 0xFFFF])
def test_update_is_the_whole_sum_again(wire, old, other):
    """Every new value of a word. The other word is not zero: every header has a word that is none."""
    before = plain_csum(struct.pack(">HH", other, old))
    for new in range(0, 0x10000, 1 if other == 0x4500 else 0x0F):
        assert wire.csum_update(before, old, new) == plain_csum(struct.pack(">HH", other, new))


@pytest.mark.parametrize("check", [0x0000, 0x0001, 0x1234, 0xFFFE])
def test_update_from_and_to_edges(wire, check):
    """The other word is chosen so that the field is ``check`` before."""
    for old, new in product(EDGES, EDGES):
        other = (-check - old) % 0xFFFF or 0xFFFF
        before = plain_csum(struct.pack(">HH", other, old))
        assert before == check
        assert wire.csum_update(before, old, new) == plain_csum(struct.pack(">HH", other, new))


def test_update_of_all_ones_for_zero(wire):
    """UDP's 0xFFFF stands for 0 and comes out as something that verifies (RFC 1624 §5: UDP must not send 0)."""
    for new in range(0, 0x10000, 7):
        after = wire.csum_update(0xFFFF, 0xBAFF, new)
        assert plain_sum(struct.pack(">HHH", 0x4500, new, after)) == 0xFFFF


@given(
    words=st.lists(st.integers(0, 0xFFFF), min_size=4, max_size=10),
    at=st.integers(0, 10),
    new=st.integers(0, 2**32 - 1) | st.sampled_from([0, 0xFFFF, 0xFFFF0000, 0xFFFFFFFF]),
)
def test_update32_is_the_whole_sum_again(wire, words, at, new):
    words[-1] |= 1
    at %= len(words) - 2
    old = words[at] << 16 | words[at + 1]
    before = plain_csum(struct.pack(f">{len(words)}H", *words))
    words[at : at + 2] = new >> 16, new & 0xFFFF
    assert wire.csum_update32(before, old, new) == plain_csum(struct.pack(f">{len(words)}H", *words))


@given(
    src=st.binary(min_size=4, max_size=4),
    dst=st.binary(min_size=4, max_size=4),
    length=st.integers(0, 0xFFFF),
    proto=st.integers(0, 255),
)
def test_pseudo_header_of_ipv4(wire, src, dst, length, proto):
    header = b"\x45" + b"\xa5" * 11 + src + dst
    assert wire.csum_pseudo4(header, length, proto) == plain_sum(src + dst + struct.pack(">BBH", 0, proto, length))


@given(
    src=st.binary(min_size=16, max_size=16),
    dst=st.binary(min_size=16, max_size=16),
    length=st.integers(0, 2**32 - 1),
    proto=st.integers(0, 255),
)
def test_pseudo_header_of_ipv6(wire, src, dst, length, proto):
    header = b"\x60" + b"\xa5" * 7 + src + dst
    want = plain_sum(src + dst + struct.pack(">II", length, proto))
    assert wire.csum_pseudo6(header, length, proto) == want


@pytest.mark.parametrize("version", [4, 6])
@given(
    addresses=st.binary(min_size=32, max_size=32), payload=st.binary(min_size=3, max_size=60), proto=st.integers(0, 255)
)
def test_l4_ok(wire, version, addresses, payload, proto):
    if version == 4:
        header = bytes(12) + addresses[:8]
        pseudo = addresses[:8] + struct.pack(">BBH", 0, proto, len(payload) + 2)
    else:
        header = bytes(8) + addresses
        pseudo = addresses + struct.pack(">II", len(payload) + 2, proto)
    right = plain_csum(pseudo + b"\0\0" + payload)
    if plain_sum(pseudo + payload):
        assert wire.csum_l4_ok(header, version, struct.pack(">H", right) + payload, proto)
    assert not wire.csum_l4_ok(header, version, struct.pack(">H", right ^ 0x0100) + payload, proto)
