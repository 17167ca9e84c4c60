"""SCTP."""

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.sctp import (
    SCTP,
    SCTPChunkAbort,
    SCTPChunkCookieAck,
    SCTPChunkCookieEcho,
    SCTPChunkData,
    SCTPChunkInit,
)

from vxlanfast._ext.verdict import Verdict

# 0000   c3 50 13 89 01 02 03 04 7d 9d 4b 3d   50000 to 5001, tag 0x01020304, checksum 0x3d4b9d7d (little-endian)
# 000c   0a 00 00 07 63 6b 69 00               COOKIE ECHO of 7 bytes, "cki", padded
# 0014   00 03 00 14 00 00 00 01 00 00 00 02   DATA of 20 bytes, TSN 1, stream 0, number 2
# 0020   00 00 00 00 61 62 63 64               protocol 0, "abcd"
PACKET = bytes.fromhex("c3501389 01020304 7d9d4b3d 0a000007 636b6900 00030014 00000001 00000002 00000000 61626364")
U16, U32 = st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)


def crc32c(source: bytes) -> int:
    """A bit at a time."""
    crc = 0xFFFFFFFF
    for byte in source:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def chunk(kind: int, value: bytes = b"", length: int | None = None) -> bytes:
    length = 4 + len(value) if length is None else length
    return struct.pack(">BBH", kind, 0, length) + value + bytes(-len(value) % 4)


def test_getters(wire):
    assert wire.sctp_check(PACKET) == Verdict.PASS
    assert (wire.sctp_src(PACKET), wire.sctp_dst(PACKET), wire.sctp_vtag(PACKET)) == (50000, 5001, 0x01020304)
    assert wire.sctp_csum(PACKET) == 0x3D4B9D7D == crc32c(PACKET[:8] + bytes(4) + PACKET[12:])
    assert wire.sctp_csum_ok(PACKET)
    assert wire.sctp_chunk(PACKET) == 10
    assert wire.sctp_chunks(PACKET) == [(12, 10), (20, 0)]


def test_truncated_at_every_length(wire):
    for n in range(12):
        assert wire.sctp_check(PACKET[:n]) == Verdict.DROP_TRUNCATED
    for n in range(12, len(PACKET)):
        assert wire.sctp_check(PACKET[:n]) == Verdict.PASS
        assert wire.sctp_chunk(PACKET[:n]) == (10 if n >= 16 else None)
        assert wire.sctp_chunks(PACKET[:n]) == ([(12, 10)] if n >= 16 else []) + ([(20, 0)] if n >= 24 else [])
        assert not wire.sctp_csum_ok(PACKET[:n])


@pytest.mark.parametrize("length", range(10))
def test_impossible_chunk_lengths(wire, length):
    """A length counts the chunk's own four bytes: below that it would be walked for ever."""
    packet = PACKET[:12] + chunk(1, bytes(4), length) + chunk(6)
    assert wire.sctp_chunk(packet) == (None if length < 4 else 1)
    assert wire.sctp_chunks(packet)[1:] == ([(20, 6)] if 5 <= length <= 8 else [])


def test_a_chunk_longer_than_the_packet(wire):
    packet = PACKET[:12] + chunk(10, b"", 0xFFFF)
    assert wire.sctp_chunks(packet) == [(12, 10)]
    assert wire.sctp_chunk_at(packet, 0xFFFFFFFF) is None and wire.sctp_chunk_at(packet, 13) is None


@given(
    values=st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=9)), max_size=9),
    junk=st.binary(max_size=3),
)
def test_the_walk_finds_every_chunk(wire, values, junk):
    packet, want = PACKET[:12], []
    for kind, value in values:
        want.append((len(packet), kind))
        packet += chunk(kind, value)
    assert wire.sctp_chunks(packet + junk) == want


@given(rest=st.binary(max_size=64))
def test_the_walk_ends(wire, rest):
    found = wire.sctp_chunks(PACKET[:12] + rest)
    assert all(a + 4 <= b for (a, _), (b, _) in pairwise(found))
    assert all(at + 4 <= 12 + len(rest) for at, _ in found)


@given(src=U16, dst=U16, vtag=U32)
def test_write_then_read(wire, src, dst, vtag):
    header = wire.sctp_write(src, dst, vtag)
    assert struct.unpack(">HHII", header) == (src, dst, vtag, 0)
    assert wire.sctp_check(header) == Verdict.PASS
    assert (wire.sctp_src(header), wire.sctp_dst(header), wire.sctp_vtag(header)) == (src, dst, vtag)
    assert wire.sctp_chunk(header) is None


@pytest.mark.parametrize(("field", "at", "size"), [("src", 0, 2), ("dst", 2, 2), ("vtag", 4, 4)])
@given(value=U32)
def test_setters_touch_their_field_only(wire, field, at, size, value):
    value &= 256**size - 1
    after = getattr(wire, f"sctp_set_{field}")(PACKET, value)
    assert after == PACKET[:at] + value.to_bytes(size, "big") + PACKET[at + size :]
    assert getattr(wire, f"sctp_{field}")(after) == value


@given(head=st.binary(min_size=12, max_size=12), rest=st.binary(max_size=200))
def test_the_checksum_set_is_the_checksum_asked_for(wire, head, rest):
    """Whatever stood in the field before; every bit of the packet counts."""
    after = wire.sctp_set_csum(head + rest)
    assert after == head[:8] + struct.pack("<I", crc32c(head[:8] + bytes(4) + rest)) + rest
    assert wire.sctp_csum_ok(after)
    for bit in range(0, len(after) * 8, 41):
        other = bytearray(after)
        other[bit >> 3] ^= 1 << (bit & 7)
        assert not wire.sctp_csum_ok(bytes(other))


SCAPYS = [
    (SCTPChunkInit(init_tag=7, a_rwnd=65535, n_out_streams=2, n_in_streams=2, init_tsn=1), 1),
    (SCTPChunkCookieEcho(cookie=b"cookie!!"), 10),
    (SCTPChunkCookieAck(), 11),
    (SCTPChunkAbort(), 6),
]


@pytest.mark.parametrize(("first", "kind"), SCAPYS, ids=[str(kind) for _, kind in SCAPYS])
@given(src=U16, dst=U16, tag=U32, payload=st.binary(min_size=1, max_size=100))
def test_scapy_agrees(wire, first, kind, src, dst, tag, payload):
    """Fields, chunks and checksum of what scapy writes; and scapy writes the checksum that we set."""
    theirs = bytes(SCTP(sport=src, dport=dst, tag=tag) / first / SCTPChunkData(data=payload))
    assert wire.sctp_check(theirs) == Verdict.PASS
    assert (wire.sctp_src(theirs), wire.sctp_dst(theirs), wire.sctp_vtag(theirs)) == (src, dst, tag)
    assert wire.sctp_chunk(theirs) == kind
    assert [found for _, found in wire.sctp_chunks(theirs)] == [kind, 0]
    assert wire.sctp_csum_ok(theirs)
    assert wire.sctp_set_csum(theirs[:8] + b"\xa5" * 4 + theirs[12:]) == theirs
