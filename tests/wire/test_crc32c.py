"""CRC32c: the instruction and the tables against published values and a bit at a time."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

START = 0xFFFFFFFF

#: RFC 3720 §B.4: zeros, ones, counting up and down, an iSCSI read command; and the check value of CRC catalogues.
KNOWN = [
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
    (
        bytes.fromhex(
            "01c00000 00000000 00000000 00000000 14000000 00000400"
            "00000014 00000018 28000000 00000000 02000000 00000000"
        ),
        0xD9963A56,
    ),
    (b"123456789", 0xE3069283),
    (b"", 0),
    (b"a", 0xC1D04330),
]


def plain(source: bytes, crc: int = START) -> int:
    """RFC 9260 appendix A with the bits reversed, as they travel: one bit at a time."""
    for byte in source:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


@pytest.mark.parametrize(("source", "want"), KNOWN, ids=[f"{len(source)} bytes" for source, _ in KNOWN])
def test_known_values(wire, source, want):
    assert wire.crc32c_of(source) == (want ^ START, want ^ START)


@pytest.mark.parametrize("lead", range(1, 9))
def test_every_length_at_every_alignment(wire, lead):
    """In blocks of exactly that length: an over-read is a sanitizer's to see."""
    rng = random.Random(lead)
    for n in range(150):
        source = rng.randbytes(n)
        assert wire.crc32c_of(source, lead) == (plain(source),) * 2


@given(left=st.binary(max_size=70), right=st.binary(max_size=70), crc=st.integers(0, START))
def test_it_goes_on(wire, left, right, crc):
    """From any state, in any parts."""
    whole = wire.crc32c_of(left + right, 0, crc)
    assert whole == (plain(left + right, crc),) * 2
    assert wire.crc32c_of(right, 0, wire.crc32c_of(left, 0, crc)[0]) == whole


def test_long(wire):
    source = random.Random(0).randbytes(65535)
    assert wire.crc32c_of(source) == (plain(source),) * 2
