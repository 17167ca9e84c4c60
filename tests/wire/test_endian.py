"""Loads and stores of known byte order."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

# 0000   01 23 45 67 89 ab cd ef
BYTES = bytes.fromhex("0123456789abcdef")


def test_big_endian_loads(wire):
    assert wire.load_be16(BYTES) == 0x0123
    assert wire.load_be24(BYTES) == 0x012345
    assert wire.load_be32(BYTES) == 0x01234567
    assert wire.load_be64(BYTES) == 0x0123456789ABCDEF


def test_the_highest_bit_is_no_sign(wire):
    assert wire.load_be16(b"\xff" * 2) == 0xFFFF
    assert wire.load_be24(b"\xff" * 3) == 0xFFFFFF
    assert wire.load_be32(b"\xff" * 4) == 0xFFFFFFFF
    assert wire.load_be64(b"\xff" * 8) == 0xFFFFFFFFFFFFFFFF
    assert wire.load_64(b"\xff" * 8, False) == 0xFFFFFFFFFFFFFFFF


@pytest.mark.parametrize("bits", [16, 32, 64])
@given(source=st.binary(min_size=8, max_size=12), big=st.booleans())
def test_loads_of_either_order(wire, bits, source, big):
    want = int.from_bytes(source[: bits // 8], "big" if big else "little")
    assert getattr(wire, f"load_{bits}")(source, big) == want


@pytest.mark.parametrize("bits", [16, 32, 64])
@given(source=st.binary(min_size=8, max_size=12))
def test_host_loads(wire, bits, source):
    assert getattr(wire, f"load_host{bits}")(source) == int.from_bytes(source[: bits // 8], sys.byteorder)


@pytest.mark.parametrize("bits", [16, 24, 32])
@given(source=st.binary(min_size=4, max_size=8), value=st.integers(0, 2**32 - 1))
def test_big_endian_stores_touch_their_bytes_only(wire, bits, source, value):
    value &= 2**bits - 1
    stored = getattr(wire, f"store_be{bits}")(source, value)
    assert stored == value.to_bytes(bits // 8, "big") + source[bits // 8 :]
    assert getattr(wire, f"load_be{bits}")(stored) == value


def test_store_be24_leaves_out_the_upper_byte(wire):
    assert wire.store_be24(bytes(4), 0x12345678) == bytes.fromhex("34567800")


@pytest.mark.parametrize("bits", [16, 32, 64])
@given(source=st.binary(min_size=8, max_size=12), value=st.integers(0, 2**64 - 1), big=st.booleans())
def test_stores_of_either_order(wire, bits, source, value, big):
    value &= 2**bits - 1
    stored = getattr(wire, f"store_{bits}")(source, value, big)
    assert stored == value.to_bytes(bits // 8, "big" if big else "little") + source[bits // 8 :]


@pytest.mark.parametrize("bits", [16, 32, 64])
@given(value=st.integers(0, 2**64 - 1))
def test_bswap(wire, bits, value):
    value &= 2**bits - 1
    swapped = getattr(wire, f"bswap{bits}")(value)
    assert swapped.to_bytes(bits // 8, "big") == value.to_bytes(bits // 8, "little")


def test_host_order(wire):
    assert wire.host_is_little() == (sys.byteorder == "little")
