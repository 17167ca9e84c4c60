"""Inner fragments put together: whatever they carry, in every order, with every fault, in one network and in two."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_RR, defragment, fragment
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    defragment6,
    fragment6,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.sctp import SCTP, SCTPChunkData
from scapy.packet import Packet, Raw

from tests.node.plane import Vtep
from tests.support import SLOW_BUILD, batch_from, csum, every_split, pcap
from tests.support import Packet as Captured
from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.node.defrag import Defrag
from vxlanfast._ext.table.fragments import FragmentTable
from vxlanfast._ext.verdict import Verdict

PASS = Verdict.PASS
HELD, OVERLAP = Verdict.DROP_INNER_FRAGMENT_HELD, Verdict.DROP_INNER_FRAGMENT_OVERLAP
BAD, DUPLICATE = Verdict.DROP_INNER_FRAGMENT_BAD, Verdict.DROP_INNER_FRAGMENT_DUPLICATE
SECOND = 1_000_000_000
ETH = Ether(src="02:42:0a:00:01:0a", dst="02:42:0a:00:01:14")

versions = pytest.mark.parametrize("version", [4, 6])


def transport(proto: str, version: int, size: int, seed: int) -> Packet:
    """An upper-layer message of about ``size`` bytes."""
    data = random.Random(seed).randbytes(size)
    if proto == "udp":
        return UDP(sport=1000, dport=53) / data
    if proto == "tcp":
        return TCP(sport=1000, dport=80, flags="PA", seq=7) / data
    if proto == "sctp":
        return SCTP(sport=1000, dport=5001, tag=1) / SCTPChunkData(data=data)
    if proto == "icmp":
        return ICMP() / data if version == 4 else ICMPv6EchoRequest(data=data)
    return Raw(data)  # protocol 253, for experiments (RFC 3692)


def datagram(version: int, proto: str = "udp", size: int = 3000, *, ident: int = 7, seed: int = 0) -> bytes:
    """A packet as it was before it was cut."""
    rest = transport(proto, version, size, seed)
    other = {"proto" if version == 4 else "nh": 253} if proto == "other" else {}
    if version == 4:
        return bytes(IP(src="10.0.1.10", dst="10.0.1.20", id=ident, **other) / rest)
    return bytes(IPv6(src="fd00:1::a", dst="fd00:1::14", **other) / rest)


def cut(packet: bytes, size: int, ident: int = 7) -> list[bytes]:
    """Frames of its fragments, by scapy: ``size`` bytes of payload each."""
    if packet[0] >> 4 == 4:
        return [bytes(ETH / piece) for piece in fragment(IP(packet), size)]
    header = IPv6(packet[:40])
    kind = header.nh
    header.nh, header.plen = 44, None
    whole = header / IPv6ExtHdrFragment(nh=kind, id=ident) / Raw(packet[40:])
    return [bytes(ETH / piece) for piece in fragment6(whole, size + 48)]


def ip_len(frame: bytes) -> int:
    """Of the IP packet in an untagged frame."""
    if frame[14] >> 4 == 4:
        return int.from_bytes(frame[16:18], "big")
    return 40 + int.from_bytes(frame[18:20], "big")


def join(
    frames: list[bytes], *, node: Defrag | None = None, times: list[int] | int = 0
) -> tuple[list[tuple[bytes, int]], list[Verdict]]:
    """What passes, with its ``cut``, and every row's verdict."""
    batch = PacketBatch.from_frames(frames, ts_ns=times)
    node = node or Defrag()
    assert node.process(batch) is batch
    verdicts = [Verdict(v) for v in batch.verdict]
    cuts, wire = list(batch.cut), list(batch.wire_lengths)
    out = []
    for i, verdict in enumerate(verdicts):
        if verdict == PASS:
            out.append((bytes(batch.frame(i)), cuts[i]))
            assert wire[i] == len(out[-1][0])
    return out, verdicts


# --- orders ---------------------------------------------------------------------------------------------


@versions
@pytest.mark.parametrize("proto", ["udp", "tcp", "sctp", "icmp", "other"])
@pytest.mark.parametrize("size", [8, 352, 1000, 1400])
def test_every_order(version: int, proto: str, size: int) -> None:
    """In order, reversed, shuffled; 8 bytes hold no TCP header, and that is fine once they are together."""
    packet = datagram(version, proto, 300 if size == 8 else 3000)
    pieces = cut(packet, size)
    assert len(pieces) > 2
    rng = random.Random(size)
    for order in (pieces, pieces[::-1], *(rng.sample(pieces, len(pieces)) for _ in range(10))):
        node = Defrag()
        whole, verdicts = join(order, node=node)
        assert verdicts == [HELD] * (len(pieces) - 1) + [PASS]
        assert whole == [(bytes(ETH / Raw(packet))[:12] + pieces[0][12:14] + packet, max(map(ip_len, pieces)))]
        assert node.counters() == {HELD: len(pieces) - 1}


@versions
def test_many_datagrams_interleaved(version: int) -> None:
    """Their fragments shuffled; each comes out as it was, by our bytes and by scapy's."""
    rng = random.Random(5)
    count = 40 if SLOW_BUILD else 200
    sizes = [rng.randrange(1300, 4000) for _ in range(count)]
    packets = [datagram(version, rng.choice(["udp", "tcp"]), size, ident=n, seed=n) for n, size in enumerate(sizes)]
    each = [cut(packet, rng.choice([352, 800, 1200]), n) for n, packet in enumerate(packets)]
    frames = [piece for pieces in each for piece in pieces]
    rng.shuffle(frames)
    whole, verdicts = join(frames)
    assert sorted(frame[14:] for frame, _ in whole) == sorted(packets)
    assert verdicts.count(PASS) == count and verdicts.count(HELD) == len(frames) - count
    assert sorted(cut for _, cut in whole) == sorted(max(map(ip_len, pieces)) for pieces in each)
    if version == 4:
        in_order = [Ether(piece)[IP] for pieces in each[:20] for piece in pieces]
        assert sorted(bytes(packet) for packet in defragment(in_order)) == sorted(packets[:20])
    else:
        for packet, pieces in zip(packets[:20], each, strict=False):
            assert bytes(defragment6([Ether(piece)[IPv6] for piece in pieces]))[40:] == packet[40:]


def test_the_largest_fragment_counts_wherever_it_is() -> None:
    """Of uneven pieces, by the bytes the IP headers say, not by what pads the frames."""
    packet = datagram(4, size=1000)
    at, frames = 0, []
    for size in (104, 488, 8, 400, 8):
        more = at + size < len(packet) - 20
        piece = IP(packet[:20])
        piece.len, piece.chksum, piece.flags, piece.frag = None, None, "MF" if more else 0, at // 8
        frames.append(bytes(ETH / piece / Raw(packet[20 + at :][:size])).ljust(60, b"\xee"))
        at += size
    assert at == len(packet) - 20
    for order in (frames, frames[::-1]):
        assert join(order)[0] == [(frames[0][:14] + packet, 508)]


def test_headers_are_those_of_the_first() -> None:
    """Tags, options and IPv6 extension headers; the fragment header goes out of the chain."""
    options = [IPOption_NOP(), IPOption_RR(routers=["0.0.0.0", "0.0.0.0"])]
    first = IP(src="10.0.1.10", dst="10.0.1.20", id=9, options=options, flags="MF", proto=17)
    rest = IP(src="10.0.1.10", dst="10.0.1.20", id=9, frag=2, proto=17)
    data = bytes(range(40))
    frames = [
        bytes(ETH / Dot1Q(vlan=5) / first / Raw(data[:16])),
        bytes(ETH / rest / Raw(data[16:])),
    ]
    for order in (frames, frames[::-1]):
        ((frame, size),), verdicts = join(order)
        assert verdicts == [HELD, PASS]
        assert frame[:18] == frames[0][:18] and frame[-40:] == data
        inner = Ether(frame)[IP]
        assert (inner.len, inner.flags, inner.frag, inner.options[1].routers) == (28 + 4 + 40, 0, 0, ["0.0.0.0"] * 2)
        assert csum(frame[18:50]) == 0 and size == 48
    chain = IPv6ExtHdrHopByHop(options=[]) / IPv6ExtHdrRouting(addresses=[], segleft=0)
    whole = IPv6(src="fd00:1::a", dst="fd00:1::14") / chain / UDP(sport=1, dport=2) / Raw(data * 10)
    cut_up = IPv6(src="fd00:1::a", dst="fd00:1::14") / chain / IPv6ExtHdrFragment(id=4) / UDP(sport=1, dport=2)
    pieces = [bytes(ETH / piece) for piece in fragment6(cut_up / Raw(data * 10), 200)]
    assert join(pieces[::-1])[0] == [(bytes(ETH / whole), max(map(ip_len, pieces)))]


# --- what is kept apart ---------------------------------------------------------------------------------


@versions
def test_two_networks_with_the_same_addresses(version: int) -> None:
    """The same addresses, protocol and identification in both: no fragment of one ends up in the other."""
    vtep = Vtep("192.0.2.1", {1: ([1], []), 2: ([2], [])})
    node = Defrag()
    packets = [datagram(version, seed=seed) for seed in (1, 2)]
    pieces = [cut(packet, 1000) for packet in packets]
    out: dict[int, list[bytes]] = {1: [], 2: []}
    for k in range(len(pieces[0])):
        for port in (1, 2) if k % 2 else (2, 1):
            batch = PacketBatch.from_frames([pieces[port - 1][k]], port_in=port)
            vtep.receive.process(batch)
            node.process(batch)
            out[port] += [bytes(batch.frame(i))[14:] for i in batch.passed()]
    assert out == {1: [packets[0]], 2: [packets[1]]}


@pytest.mark.parametrize("at", [18, 23, 26, 33], ids=["identification", "protocol", "source", "destination"])
def test_different_datagrams(at: int) -> None:
    pieces = cut(datagram(4), 1000)
    other = bytearray(pieces[1])
    other[at] ^= 1
    other[24:26] = bytes(2)
    other[24:26] = csum(bytes(other[14:34])).to_bytes(2, "big")
    whole, verdicts = join([pieces[0], bytes(other), *pieces[1:]])
    assert verdicts == [HELD] * 4 + [PASS] and whole[0][0][14:] == datagram(4)


def test_everything_else_passes() -> None:
    """No fragments, an atomic one, no IP, too short, headers broken: untouched, and no ``cut``."""
    broken = bytearray(cut(datagram(6), 1000)[1])
    broken[14] = 0x50
    frames = [
        bytes(ETH / IP(datagram(4))), bytes(ETH / IPv6(datagram(6))), bytes(ETH / ARP()), b"", b"\2" * 13, bytes(14),
        bytes(ETH / IPv6(nh=44) / IPv6ExtHdrFragment(nh=17, id=3) / UDP() / b"atomic"), bytes(broken),
        bytes(ETH / Raw(bytes(50))), bytes(ETH / IP(flags="DF") / UDP()),
    ]  # fmt: skip
    whole, verdicts = join(frames)
    assert verdicts == [PASS] * len(frames)
    assert whole == [(frame, 0) for frame in frames]
    batch = PacketBatch.from_frames(cut(datagram(4), 1000))
    batch.verdict[0] = Verdict.DROP_NO_ENTRY
    Defrag().process(batch)
    assert list(batch.verdict) == [Verdict.DROP_NO_ENTRY, HELD, HELD, HELD]


# --- faults ---------------------------------------------------------------------------------------------


@versions
def test_duplicates(version: int) -> None:
    packet = datagram(version)
    a, b, c, d = cut(packet, 800)
    whole, verdicts = join([a, a, c, b, b, c, d, d])
    assert verdicts == [HELD, DUPLICATE, HELD, HELD, DUPLICATE, DUPLICATE, PASS, HELD]
    assert whole[0][0][14:] == packet


def moved(piece: bytes, offset: int) -> bytes:
    """A fragment's offset changed by so many bytes."""
    out = bytearray(piece)
    if piece[14] >> 4 == 4:
        out[20:22] = struct.pack(">H", int.from_bytes(piece[20:22], "big") + offset // 8)
        out[24:26] = bytes(2)
        out[24:26] = csum(bytes(out[14:34])).to_bytes(2, "big")
    else:
        out[56:58] = struct.pack(">H", int.from_bytes(piece[56:58], "big") + offset)
    return bytes(out)


@versions
@pytest.mark.parametrize("offset", [-792, -8, 8, 792])
def test_overlaps(version: int, offset: int) -> None:
    """By one unit or nearly all: nothing leaves, and what comes later of it goes too."""
    a, b, c, d = cut(datagram(version), 800)
    for order in ([a, b, c, moved(b, offset)], [c, b, a, moved(b, offset)]):
        whole, verdicts = join([*order, d, b])
        assert whole == [] and verdicts == [HELD, HELD, HELD, OVERLAP, OVERLAP, OVERLAP]


@versions
def test_missing_pieces(version: int) -> None:
    """First, middle or last: nothing leaves; and nothing of it is left when its time is over."""
    for gone in range(4):
        node = Defrag()
        pieces = cut(datagram(version), 800)
        del pieces[gone]
        assert join(pieces, node=node) == ([], [HELD] * 3)
        join([cut(datagram(version), 800)[0]], node=node, times=31 * SECOND)
        assert node.table.counters()["expired"] == 3 and node.table.counters()["waiting"] == 1


def raw_fragment(version: int, offset: int, payload: bytes, more: bool) -> bytes:
    if version == 4:
        header4 = IP(src="10.0.1.10", dst="10.0.1.20", id=3, proto=17, frag=offset // 8, flags=int(more))
        return bytes(ETH / header4 / payload)
    header = IPv6ExtHdrFragment(nh=17, id=3, offset=offset // 8, m=int(more))
    return bytes(ETH / IPv6(src="fd00:1::a", dst="fd00:1::14", plen=8 + len(payload)) / header / Raw(payload))


@versions
def test_the_greatest_datagram(version: int) -> None:
    """65,535 bytes, and not one more; and no more than 64 fragments."""
    most = 65535 - 20 if version == 4 else 65535
    size, last = 1400, most // 8 * 8
    payload = random.Random(1).randbytes(most)
    good = [raw_fragment(version, at, payload[at : at + size], True) for at in range(0, last - size, size)]
    good.append(raw_fragment(version, len(good) * size, payload[len(good) * size : last], True))
    end, longer = (raw_fragment(version, last, payload[last:] + x, False) for x in (b"", b"x"))
    whole, verdicts = join([*good, longer, end])
    assert verdicts == [HELD] * len(good) + [BAD, PASS]
    assert whole[0][0][34 if version == 4 else 54 :] == payload and whole[0][1] == ip_len(good[0])
    small = [raw_fragment(version, 8 * n, bytes(8), n < 63) for n in range(64)]
    assert join(small)[1] == [HELD] * 63 + [PASS]
    more = [raw_fragment(version, 8 * n, bytes(8), True) for n in range(66)]
    assert join(more)[1] == [HELD] * 64 + [BAD] * 2


@versions
def test_a_fragment_of_nearly_everything(version: int) -> None:
    """An IPv6 fragment may be longer than 65,535 bytes, which ``cut`` cannot say: it says that."""
    big = 65496 if version == 4 else 65520
    frames = [raw_fragment(version, 0, bytes(big), True), raw_fragment(version, big, b"end", False)]
    ((frame, size),), _ = join(frames)
    assert len(frame) == (34 if version == 4 else 54) + big + 3
    assert size == (65516 if version == 4 else 65535)


@versions
def test_odd_and_empty_pieces(version: int) -> None:
    assert join([raw_fragment(version, 0, bytes(13), True), raw_fragment(version, 8, b"", True)])[1] == [BAD, BAD]
    assert join([raw_fragment(version, 65528, bytes(100), False)])[1] == [BAD]


def test_a_first_fragment_that_cuts_its_headers() -> None:
    """RFC 7112 §5: what follows is not known from it, so nothing is put together; what comes behind waits in vain."""
    rest = bytes(IPv6ExtHdrRouting(addresses=["::"] * 12, segleft=0) / UDP(sport=1, dport=2) / bytes(200))
    head = IPv6(src="fd00:1::a", dst="fd00:1::14")
    pieces = []
    for at in range(0, len(rest), 64):
        more = IPv6ExtHdrFragment(id=3, nh=43, offset=at // 8, m=int(at + 64 < len(rest)))
        pieces.append(bytes(ETH / head / more / Raw(rest[at : at + 64])))
    assert join(pieces)[1] == [BAD] + [HELD] * (len(pieces) - 1)


def test_header_checksums_and_lengths() -> None:
    """A wrong checksum, which no router lets through (RFC 1812 §5.2.2); a length of 0, which is no fragment's."""
    pieces = cut(datagram(4), 1000)
    wrong = bytearray(pieces[1])
    wrong[22] ^= 1
    zero = bytearray(pieces[1])
    zero[16:18] = zero[24:26] = bytes(2)
    zero[24:26] = csum(bytes(zero[14:34])).to_bytes(2, "big")
    assert join([bytes(wrong), bytes(zero), *pieces])[1] == [BAD, BAD, HELD, HELD, HELD, PASS]


#: By the code points of three fragments: the datagram's, as Linux's ip_frag_ecn_table has it; None: dropped.
ECN = {
    (0, 0, 0): 0, (1, 1, 1): 1, (2, 2, 2): 2, (3, 3, 3): 3, (2, 3, 2): 3, (2, 2, 3): 3, (3, 2, 2): 3, (1, 3, 1): 3,
    (1, 2, 3): 3, (2, 1, 2): 2, (1, 2, 2): 1, (0, 3, 0): None, (3, 0, 3): None, (2, 0, 2): None, (0, 0, 1): None,
}  # fmt: skip


@versions
@pytest.mark.parametrize("marks", ECN)
def test_congestion(version: int, marks: tuple[int, int, int]) -> None:
    """CE of one is CE of all (RFC 3168 §5.3); what knows ECN only in part is dropped."""
    frames = []
    for piece, mark in zip(cut(datagram(version, size=2200), 800), marks, strict=True):
        packet = Ether(piece)
        if version == 4:
            packet[IP].tos, packet[IP].chksum = 0xB8 | mark, None
        else:
            packet[IPv6].tc = 0xB8 | mark
        frames.append(bytes(packet))
    whole, verdicts = join(frames)
    assert verdicts == [HELD, HELD, BAD if ECN[marks] is None else PASS]
    for frame, _ in whole:
        packet = Ether(frame)
        assert (packet[IP].tos if version == 4 else packet[IPv6].tc) == 0xB8 | ECN[marks]
        assert version == 6 or csum(frame[14:34]) == 0


@versions
def test_cut_at_every_length(version: int) -> None:
    """Frames that end early, and frames whose capture did: no datagram comes of them."""
    pieces = cut(datagram(version, size=200), 96)
    assert len(pieces) == 3
    for victim, piece in enumerate(pieces):
        for n in range(len(piece)):
            for shown in ([piece[:n]], [Captured(0, piece[:n], len(piece))]):
                frames: list[Any] = [*pieces[:victim], *shown, *pieces[victim + 1 :]]
                batch = batch_from(pcap(frames))
                Defrag().process(batch)
                passed = batch.passed()
                assert passed == ([victim] if n < (34 if version == 4 else 62) else []), "no fragment as far as it goes"
                assert passed == [] or (bytes(batch.frame(victim)) == piece[:n] and batch.cut[victim] == 0)


@given(seed=st.integers(0, 2**32))
def test_hostile_bytes(seed: int) -> None:
    """Fragments with bytes changed anywhere: every row has an outcome."""
    rng = random.Random(seed)
    frames = []
    for n in range(12):
        for piece in cut(datagram(rng.choice((4, 6)), size=300, ident=n & 1), 104, n & 1):
            data = bytearray(piece)
            for _ in range(rng.choice((0, 0, 1, 4))):
                data[rng.randrange(len(data))] = rng.randrange(256)
            frames.append(bytes(data[: rng.choice((len(data), len(data), rng.randrange(len(data) + 1)))]))
    whole, verdicts = join(frames)
    assert set(verdicts) <= {PASS, HELD, OVERLAP, BAD, DUPLICATE}
    for frame, size in whole:
        assert size == 0 or (0 < size <= 200 and frame[12:14] in (b"\x08\0", b"\x86\xdd"))


# --- memory, time, batches ------------------------------------------------------------------------------


def test_the_arena_grows_in_steps() -> None:
    """Thousands of datagrams in one batch; a copy of everything for each would be felt."""
    count = 200 if SLOW_BUILD else 3000
    frames = [piece for n in range(count) for piece in cut(datagram(4, size=100, ident=n), 64)]
    whole, verdicts = join(frames)
    assert len(whole) == count == verdicts.count(PASS)


def test_a_full_table() -> None:
    """More datagrams than there is memory for: those that begin last complete."""
    firsts = [raw_fragment(4, 0, bytes(1400), True) for _ in range(1)]
    frames = []
    for n in range(3000):
        data = bytearray(firsts[0])
        data[18:20] = n.to_bytes(2, "big")
        data[24:26] = bytes(2)
        data[24:26] = csum(bytes(data[14:34])).to_bytes(2, "big")
        frames.append(bytes(data))
    node = Defrag(FragmentTable(seed=3))
    assert join(frames, node=node)[1] == [HELD] * 3000
    counters = node.table.counters()
    assert counters["evicted"] > 0 and counters["waiting"] <= 6656 // 3


def test_however_it_is_split_into_batches() -> None:
    rng = random.Random(3)
    each = [cut(datagram(4 if n % 2 else 6, size=900, ident=n), 352, n) for n in range(40)]
    frames = [rng.choice(rng.choice(each)) for _ in range(256)]
    expected = None
    for split in every_split(256):
        node, at, rows = Defrag(), 0, []
        for n in split:
            rows.append(join(frames[at : at + n], node=node))
            at += n
        result = [row for whole, _ in rows for row in whole], [v for _, vs in rows for v in vs], node.counters()
        assert expected is None or result == expected
        expected = result


def test_views_are_respected() -> None:
    batch = PacketBatch.from_frames(cut(datagram(4), 1000))
    view = batch.cut
    with pytest.raises(BufferError):
        Defrag().process(batch)
    del view
    assert len(Defrag().process(batch).passed()) == 1
    twin = batch.copy()
    assert list(twin.cut) == list(batch.cut) and max(twin.cut) == 1020
