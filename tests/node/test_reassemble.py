"""Outer fragments put together: in every order, with every fault, in memory that does not grow."""

from __future__ import annotations

import random
import struct
from collections import Counter
from io import BytesIO

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.packet import Raw

from tests import make_fixtures as fx
from tests.support import (
    FIXTURES,
    SLOW_BUILD,
    Packet,
    assert_adds_up,
    batch_from,
    csum,
    every_split,
    frames_of,
    pcap,
)
from vxlanfast import decap_file
from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.node.decap import Decap
from vxlanfast._ext.node.reassemble import Reassemble
from vxlanfast._ext.table.fragments import FragmentTable
from vxlanfast._ext.verdict import Verdict

PASS = Verdict.PASS
HELD, OVERLAP = Verdict.DROP_FRAGMENT_HELD, Verdict.DROP_FRAGMENT_OVERLAP
BAD, DUPLICATE = Verdict.DROP_FRAGMENT_BAD, Verdict.DROP_FRAGMENT_DUPLICATE
SECOND = 1_000_000_000


def join(
    frames: list[bytes], *, node: Reassemble | None = None, times: list[int] | int = 0, link: int = 1
) -> tuple[list[bytes], list[Verdict]]:
    """What passes, and every row's verdict."""
    batch = PacketBatch.from_frames(frames, ts_ns=times, link=link)
    node = node or Reassemble()
    assert node.process(batch) is batch
    verdicts = [Verdict(v) for v in batch.verdict]
    return [bytes(batch.frame(i)) for i in range(len(frames)) if verdicts[i] == PASS], verdicts


def pieces_of(
    version: int, *, size: int = 1000, ident: int = 7, seed: int = 0, length: int = 3000
) -> tuple[list[bytes], bytes]:
    """Fragments of a datagram, and the frame inside it."""
    if version == 4:
        packet, inner = fx.datagram4(size=length, seed=seed)
        return fx.fragments4(packet, size, ident), inner
    packet, inner = fx.datagram6(size=length, seed=seed)
    return fx.fragments6(packet, size, ident), inner


versions = pytest.mark.parametrize("version", [4, 6])


def assert_whole(frame: bytes, version: int, inner: bytes) -> None:
    """The datagram as its sender had it: lengths, no fragment left, checksums right, and the frame inside."""
    if version == 4:
        assert csum(frame[14:34]) == 0
        assert frame[20:22] == b"\0\0"
        assert int.from_bytes(frame[16:18], "big") == len(frame) - 14
    else:
        assert frame[20] == 17
        assert int.from_bytes(frame[18:20], "big") == len(frame) - 54
    verdict, _, _, _, start, end = Decap([4789], strict=True).find(frame)
    assert verdict == PASS
    assert frame[start:end] == inner


# --- orders ---------------------------------------------------------------------------------------------


@versions
@pytest.mark.parametrize("size", [8, 64, 1000, 1480, 2048])
def test_every_order(version: int, size: int) -> None:
    """C1: in order, reversed, shuffled; the last to come completes, all before it are held."""
    length = 400 if size == 8 else 3000
    pieces, inner = pieces_of(version, size=size, length=length)
    rng = random.Random(size)
    orders = [pieces, pieces[::-1], *(rng.sample(pieces, len(pieces)) for _ in range(20))]
    for order in orders:
        whole, verdicts = join(order)
        assert verdicts == [HELD] * (len(pieces) - 1) + [PASS]
        assert_whole(whole[0], version, inner)


def test_the_fixture() -> None:
    frames, inners = fx.fragment_rows()
    assert frames_of(FIXTURES / "fragments.pcap") == frames
    out = BytesIO()
    stats = decap_file(FIXTURES / "fragments.pcap", out, reassemble=True)
    assert_adds_up(stats)
    assert frames_of(out.getvalue()) == inners
    assert stats.drops == {"DROP_FRAGMENT_HELD": len(frames) - len(inners)}
    without = decap_file(FIXTURES / "fragments.pcap", BytesIO())
    assert_adds_up(without)
    assert without.drops == {"PUNT_FRAGMENT": len(frames)}


@pytest.mark.parametrize("size", [1000, 1480])
def test_a_thousand_datagrams_interleaved(size: int) -> None:
    """C1: 1,024 of them, all begun before any is complete, IPv4 and IPv6 with the same identifications."""
    length = 2000 if size == 1000 else 2700
    pairs = [
        pieces_of(4 if n % 2 else 6, size=size, ident=n // 2, seed=n, length=length) for n in range(1024)
    ]
    depth = max(len(pieces) for pieces, _ in pairs)
    frames = [pieces[k] for k in range(depth) for pieces, _ in pairs if k < len(pieces)]
    node = Reassemble()
    got = []
    for at in range(0, len(frames), 100):
        whole, _ = join(frames[at : at + 100], node=node)
        got += whole
    inner = [frame[(50 if frame[12] == 8 else 70) :] for frame in got]
    assert inner == [inner for _, inner in pairs]
    counters = node.table.counters()
    assert counters["completed"] == 1024
    assert counters["merged"] == len(frames)
    assert counters["evicted"] == counters["waiting"] == counters["expired"] == 0


@versions
@pytest.mark.parametrize("link", [113, 276, 101, 0])
def test_other_link_types(version: int, link: int) -> None:
    pieces, inner = pieces_of(version)
    ethertype = pieces[0][12:14]
    header = {
        113: bytes(14) + ethertype, 276: ethertype + bytes(18), 101: b"",
        0: struct.pack("<I", 2 if version == 4 else 10),
    }[link]  # fmt: skip
    frames = [header + piece[14:] for piece in pieces]
    whole, verdicts = join(frames, link=link)
    assert verdicts == [HELD, HELD, HELD, PASS]
    assert_whole(b"\2" * 12 + ethertype + whole[0][len(header) :], version, inner)


def test_tags_and_options_stay_those_of_the_first() -> None:
    pieces, inner = pieces_of(4)
    tagged = [piece[:12] + b"\x81\0\0" + bytes([n]) + piece[12:] for n, piece in enumerate(pieces)]
    whole, _ = join(tagged[::-1])
    assert whole[0][:16] == tagged[0][:16]
    assert_whole(whole[0][:12] + whole[0][16:], 4, inner)


@pytest.mark.parametrize(
    ("chain", "first"),
    [
        (bytes([44, 0, 1, 4, 0, 0, 0, 0]), 0),  # hop-by-hop
        (bytes([43, 0, 1, 4, 0, 0, 0, 0]) + bytes([44, 0, 0, 0, 0, 0, 0, 0]), 0),  # … and routing
        (bytes([44, 1]) + bytes(14), 60),  # destination options, 16 bytes
        (struct.pack(">BBHII", 44, 4, 0, 1, 1) + bytes(12), 51),  # authentication header
    ],
)
def test_extension_headers_in_front(chain: bytes, first: int) -> None:
    """The fragment header goes out of the chain, whatever stands before it (RFC 8200 §4.5)."""
    packet, inner = fx.datagram6()
    pieces = fx.fragments6(packet, 1000, 9, chain=chain, first=first)
    whole, verdicts = join([pieces[2], pieces[0], pieces[3], pieces[1]])
    assert verdicts == [HELD, HELD, HELD, PASS]
    frame = whole[0]
    assert frame[20] == first
    end = 54 + len(chain)
    kinds = (
        chain.replace(b"\x2c", b"\x11", 1)
        if len(chain) == 8 or first != 0
        else chain[:8] + b"\x11" + chain[9:]
    )
    assert frame[54:end] == kinds
    assert frame[end + 16 :] == inner
    assert Decap([4789]).find(frame)[0] == PASS


def test_options_behind_the_fragment_header() -> None:
    """In the fragmentable part: only the first fragment shows that UDP follows them."""
    packet, inner = fx.datagram6()
    payload = bytes([17, 0, 1, 4, 0, 0, 0, 0]) + packet[40:]
    pieces = []
    for at in range(0, len(payload), 1000):
        piece = payload[at : at + 1000]
        head = packet[:4] + struct.pack(">HB", 8 + len(piece), 44) + packet[7:40]
        fragment = struct.pack(">BBHI", 60, 0, at | (at + 1000 < len(payload)), 5)
        pieces.append(bytes(fx.eth())[:12] + b"\x86\xdd" + head + fragment + piece)
    for order in (pieces, pieces[::-1]):
        whole, verdicts = join(order)
        assert verdicts == [HELD] * 3 + [PASS]
        _, _, _, _, start, end = Decap([4789]).find(whole[0])
        assert whole[0][start:end] == inner


# --- what is no fragment of ours ------------------------------------------------------------------------


def test_everything_else_passes() -> None:
    tcp = fx.fragments4(bytes(fx.ip4() / TCP() / Raw(bytes(3000))), 1000, 5)
    frames = [case.frame for case in fx.outer_cases() if case.link == 1] + tcp
    batch = PacketBatch.from_frames(frames)
    node = Reassemble()
    node.process(batch)
    assert batch.counts() == {PASS: len(frames)}
    assert [bytes(batch.frame(i)) for i in range(len(frames))] == frames
    assert node.counters() == {}
    batch.verdict[0] = Verdict.DROP_FILTER_OUTER
    node.process(batch)
    assert batch.verdict[0] == Verdict.DROP_FILTER_OUTER


def test_udp_that_is_no_vxlan_is_put_together_too() -> None:
    packet = bytes(fx.ip4() / UDP(sport=1, dport=53) / Raw(bytes(range(250)) * 12))
    whole, _ = join(fx.fragments4(packet, 1000, 5))
    assert whole[0][34:] == packet[20:]


@pytest.mark.parametrize(("field", "at"), [("source", 26), ("destination", 33), ("identification", 19)])
def test_fragments_of_different_datagrams_do_not_mix(field: str, at: int) -> None:
    pieces, inner = pieces_of(4)
    other = bytearray(pieces[1])
    other[at] ^= 1
    whole, verdicts = join([pieces[0], bytes(other), pieces[1], pieces[2], pieces[3]])
    assert verdicts == [HELD] * 4 + [PASS]
    assert_whole(whole[0], 4, inner)


# --- faults ---------------------------------------------------------------------------------------------


@versions
def test_duplicates_are_ignored(version: int) -> None:
    pieces, inner = pieces_of(version)
    whole, verdicts = join(
        [pieces[0], pieces[0], pieces[2], pieces[1], pieces[1], pieces[2], pieces[3], pieces[3]]
    )
    assert verdicts == [HELD, DUPLICATE, HELD, HELD, DUPLICATE, DUPLICATE, PASS, HELD]
    assert_whole(whole[0], version, inner)


def shifted(piece: bytes, *, offset: int, version: int, more: bool | None = None, cut: int = 0) -> bytes:
    """A fragment moved by ``offset`` bytes, and shortened."""
    data = bytearray(piece[: len(piece) - cut])
    if version == 4:
        word = int.from_bytes(data[20:22], "big")
        more = bool(word & 0x2000) if more is None else more
        data[20:22] = struct.pack(">H", (0x2000 if more else 0) | (word & 0x1FFF) + offset // 8)
        data[16:18] = struct.pack(">H", len(data) - 14)
    else:
        word = int.from_bytes(data[56:58], "big")
        more = bool(word & 1) if more is None else more
        data[56:58] = struct.pack(">H", (word & 0xFFF8) + offset | more)
        data[18:20] = struct.pack(">H", len(data) - 54)
    return bytes(data)


@versions
@pytest.mark.parametrize("offset", [-992, -8, 8, 992])
@pytest.mark.parametrize("reverse", [False, True])
def test_overlaps_drop_the_datagram(version: int, offset: int, reverse: bool) -> None:
    """RFC 5722 §3, and for IPv4 alike: by one unit or nearly all, on either side; what comes later is dropped too."""
    pieces, _ = pieces_of(version)
    bad = shifted(pieces[1], offset=offset, version=version)
    order = [pieces[2], pieces[1], pieces[0], bad] if reverse else [pieces[0], pieces[1], pieces[2], bad]
    node = Reassemble()
    whole, verdicts = join([*order, pieces[3], pieces[1]], node=node)
    assert whole == []
    assert verdicts == [HELD, HELD, HELD, OVERLAP, OVERLAP, OVERLAP]
    assert node.table.counters()["overlapped"] == 1
    assert node.table.counters()["waiting"] == 0


@versions
def test_two_ends_and_bytes_behind_the_end(version: int) -> None:
    pieces, _ = pieces_of(version)
    end_early = shifted(pieces[1], offset=0, version=version, more=False)
    assert join([pieces[3], end_early])[1] == [HELD, OVERLAP]
    assert join([end_early, pieces[3]])[1] == [HELD, OVERLAP]
    assert join([end_early, pieces[2]])[1] == [HELD, OVERLAP]
    assert join([pieces[2], end_early])[1] == [HELD, OVERLAP]


@versions
def test_tiny_and_odd_pieces(version: int) -> None:
    """Lengths that are no multiple of 8, with more to come; nothing at all; cut by the snaplen."""
    pieces, inner = pieces_of(version)
    head = 34 if version == 4 else 62
    odd = shifted(pieces[0], offset=0, version=version, cut=3)
    empty = shifted(pieces[1], offset=0, version=version, cut=len(pieces[1]) - head)
    assert join([odd, empty])[1] == [BAD, BAD]
    batch = batch_from(
        pcap([Packet(0, pieces[0][:500], len(pieces[0])), Packet(0, pieces[1], len(pieces[1]))])
    )
    Reassemble().process(batch)
    assert list(batch.verdict) == [BAD, HELD]
    whole, verdicts = join([odd, *pieces])
    assert verdicts[-1] == PASS
    assert_whole(whole[0], version, inner)


HEAD4, HEAD4_ADDRESSES = (bytes(fx.eth() / fx.ip4())[at] for at in (slice(16), slice(26, 34)))
HEAD6, HEAD6_ADDRESSES = (bytes(fx.eth() / fx.ip6())[at] for at in (slice(18), slice(22, 54)))


def raw_fragment(version: int, offset: int, payload: bytes, more: bool, ident: int = 3) -> bytes:
    if version == 4:
        total, word = 20 + len(payload), (0x2000 if more else 0) | offset // 8
        return HEAD4 + struct.pack(">HHHBBH", total, ident, word, 64, 17, 0) + HEAD4_ADDRESSES + payload
    header = struct.pack(">BBHI", 17, 0, offset | more, ident)
    return HEAD6 + struct.pack(">HBB", 8 + len(payload), 44, 64) + HEAD6_ADDRESSES + header + payload


@versions
def test_longer_than_a_datagram(version: int) -> None:
    """The ping of death: offset and length beyond what a length field can say, by one byte; and not a byte earlier."""
    most = 65535 - 20 if version == 4 else 65535
    last_offset = most // 8 * 8
    size = 1288
    payload = random.Random(1).randbytes(most)
    good = [
        raw_fragment(version, at, payload[at : at + size], True) for at in range(0, last_offset - size, size)
    ]
    at = len(good) * size
    good.append(raw_fragment(version, at, payload[at:last_offset], True))
    end = raw_fragment(version, last_offset, payload[last_offset:], False)
    too_long = raw_fragment(version, last_offset, payload[last_offset:] + b"x", False)
    assert len(good) < 64
    whole, verdicts = join([*good, too_long, end])
    assert verdicts == [HELD] * len(good) + [BAD, PASS]
    assert whole[0][34 if version == 4 else 54 :] == payload
    assert join([raw_fragment(version, 65528, b"x" * 1000, False)])[1] == [BAD]


@versions
def test_more_fragments_than_anybody_makes(version: int) -> None:
    frames = [raw_fragment(version, 8 * n, bytes(8), True) for n in range(70)]
    verdicts = join([*frames, raw_fragment(version, 8 * 70, b"x", False)])[1]
    assert verdicts == [HELD] * 64 + [BAD] * 7
    exactly = [raw_fragment(version, 8 * n, bytes(8), n < 63) for n in range(64)]
    assert join(exactly)[1] == [HELD] * 63 + [PASS]


@versions
def test_thirty_seconds_of_capture_time(version: int) -> None:
    """From a datagram's first fragment; in the packets' own time, whatever the clock on the wall says."""
    pieces, inner = pieces_of(version)
    times = [0, 10 * SECOND, 20 * SECOND, 30 * SECOND]
    assert join(pieces, times=times)[1][-1] == PASS
    node = Reassemble()
    assert join(pieces, times=[*times[:3], 30 * SECOND + 1], node=node)[1] == [HELD] * 4
    assert node.table.counters()["expired"] == 3
    assert node.table.counters()["waiting"] == 1
    again, _ = join(pieces[:3], times=31 * SECOND, node=node)
    assert_whole(again[0], version, inner)
    short = Reassemble(FragmentTable(timeout_ns=5))
    assert join(pieces[:2], times=[0, 6], node=short)[1] == [HELD, HELD]
    assert short.table.counters()["expired"] == 1


def test_time_that_goes_back() -> None:
    """Captures of several interfaces do that; nothing expires because of it."""
    pieces, inner = pieces_of(4)
    whole, _ = join(pieces, times=[50 * SECOND, 0, 49 * SECOND, -SECOND])
    assert_whole(whole[0], 4, inner)


# --- floods ---------------------------------------------------------------------------------------------


def flood(count: int, node: Reassemble, *, more: int = 1) -> tuple[int, int]:
    """``count`` first fragments that nothing follows, spoofed; among them one per cent honest datagrams of two
    fragments, a few packets apart: how many there were, how many came out."""
    rng = random.Random(2)
    template = bytearray(raw_fragment(4, 0, bytes(64), True))
    honest = [pieces_of(4, ident=n, seed=n, length=1900, size=1480)[0] for n in range(64)]
    spoofed = memoryview(template)
    sent = got = number = 0
    while number < count:
        frames = []
        waiting: list[bytes] = []
        for _ in range(min(2000, count - number)):
            spoofed[18:20] = rng.getrandbits(16).to_bytes(2, "big")
            spoofed[26:30] = rng.getrandbits(32).to_bytes(4, "big")
            frames.append(bytes(spoofed))
            number += 1
            if number % 100 == 0:
                first, second = (bytearray(piece) for piece in honest[sent % 64])
                first[18:20] = second[18:20] = (sent & 0xFFFF).to_bytes(2, "big")
                frames.append(bytes(first))
                waiting.append(bytes(second))
                sent += 1
            elif number % 100 == 17 and waiting:
                frames.append(waiting.pop())
        frames += waiting
        whole, _ = join(frames, node=node, times=number * 1000)
        got += len(whole)
    return sent, got


def test_flood_of_incomplete_datagrams() -> None:
    """C2: at least 99 % of the honest ones come out, and no memory is taken that was not there at the start."""
    node = Reassemble()
    sent, got = flood(20_000 if SLOW_BUILD else 100_000, node)
    assert got >= 0.99 * sent
    counters = node.table.counters()
    assert counters["evicted"] > 0
    assert counters["waiting"] <= 6656


@pytest.mark.slow
@pytest.mark.skipif(SLOW_BUILD, reason="minutes in this build, and the same with fewer fragments ran")
def test_flood_of_a_million() -> None:
    import resource

    node = Reassemble()
    flood(10_000, node)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sent, got = flood(1_000_000, node)
    assert got >= 0.99 * sent
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024  # kB


def test_flood_of_every_kind_of_fault() -> None:
    """Nothing leaks: after overlaps, evictions and expiries a clean table's worth of datagrams fits as before."""
    rng = random.Random(6)
    node = Reassemble()
    for n in range(30):
        frames = []
        for _ in range(1000):
            version = rng.choice((4, 6))
            offset = rng.choice((0, 8, 16, 1480, 2960, 65528))
            size = rng.choice((0, 1, 8, 16, 512, 1480, 2000))
            frames.append(
                raw_fragment(version, offset, bytes(size), rng.random() < 0.8, ident=rng.randrange(3000))
            )
        verdicts = Counter(join(frames, node=node, times=n * 5 * SECOND)[1])
        assert set(verdicts) <= {PASS, HELD, OVERLAP, BAD, DUPLICATE}
    later = 10_000 * SECOND
    join([raw_fragment(4, 0, bytes(8), True, ident=9999)], node=node, times=later)
    assert node.table.counters()["waiting"] == 1
    first = [raw_fragment(4, 0, bytes(1480), True, ident=n) for n in range(1500)]
    last = [raw_fragment(4, 1480, bytes(500), False, ident=n) for n in range(1500)]
    whole, _ = join(first + last, node=node, times=later)
    assert len(whole) == 1500


def test_the_oldest_gives_way() -> None:
    """4,096 datagrams wait at most: of one more, the first to have come is given up."""
    frames = [raw_fragment(4, 8, bytes(8), False, ident=n) for n in range(4097)]
    node = Reassemble()
    join(frames, node=node)
    assert node.table.counters()["evicted"] == 1
    assert node.table.counters()["waiting"] == 4096
    first = [raw_fragment(4, 0, bytes(8), True, ident=n) for n in range(1, 4097)]
    assert join(first, node=node)[1] == [PASS] * 4096
    assert join([raw_fragment(4, 0, bytes(8), True, ident=0)], node=node)[1] == [HELD]


def test_seeds_change_nothing_to_see() -> None:
    frames, _ = fx.fragment_rows()
    results = {
        tuple(join(frames, node=Reassemble(FragmentTable(seed=seed)))[0]) for seed in (0, 1, 2**64 - 1)
    }
    assert len(results) == 1


# --- batches --------------------------------------------------------------------------------------------


def test_however_it_is_split_into_batches() -> None:
    rng = random.Random(3)
    frames = [*fx.fragment_rows()[0], *(case.frame for case in fx.outer_cases() if case.link == 1)]
    frames += [shifted(frames[0], offset=8, version=4)]
    frames = [rng.choice(frames) for _ in range(256)]
    expected = None
    for split in every_split(256):
        node = Reassemble()
        at, rows = 0, []
        for n in split:
            whole, verdicts = join(frames[at : at + n], node=node)
            rows.append((whole, verdicts))
            at += n
        result = (
            [frame for whole, _ in rows for frame in whole], [v for _, verdicts in rows for v in verdicts],
            node.counters(), node.table.counters(),
        )  # fmt: skip
        assert expected is None or result == expected
        expected = result


def test_views_are_respected() -> None:
    batch = PacketBatch.from_frames(pieces_of(4)[0])
    view = batch.vni
    with pytest.raises(BufferError):
        Reassemble().process(batch)
    del view
    Reassemble().process(batch)
    assert len(batch.passed()) == 1


def test_waiting_fragments_are_told_of() -> None:
    pieces, _ = pieces_of(4)
    stats = decap_file(BytesIO(pcap(pieces[:3])), BytesIO(), reassemble=True)
    assert_adds_up(stats)
    assert stats.details["reassembly_waiting"] == 3
    assert "3 outer fragments were of datagrams that never became whole" in stats.warnings
    threads = decap_file(BytesIO(pcap(pieces)), BytesIO(), reassemble=True, threads=2)
    assert "one thread was used: reassembly follows the packets in order" in threads.warnings
