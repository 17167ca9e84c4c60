"""What came in fragments leaves in fragments no longer than they were: the sender's own, where nothing was changed."""

from __future__ import annotations

import random
from collections.abc import Collection
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, UDP, IPOption_NOP, IPOption_RR, defragment
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    defragment6,
    fragment6,
)
from scapy.layers.l2 import Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

import vxlanfast as vf
from tests.node.test_defrag import ETH, HELD, cut, datagram, ip_len, join, raw_fragment, versions
from tests.support import SLOW_BUILD, csum, every_split
from tests.test_gateway import GW, MTU_CASES, SPEC, A, plane
from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.node.defrag import Defrag
from vxlanfast._ext.node.fit import Fit
from vxlanfast._ext.table.dest import DestTable
from vxlanfast._ext.table.net import NetTable
from vxlanfast._ext.verdict import Rule, Verdict

PASS, OVER = Verdict.PASS, Verdict.DROP_OVER_MTU


def make_fit(mtu: int = 0, seed: int = 0) -> Fit:
    """One network, one destination: number 0, a peer with that MTU."""
    nets, dests = NetTable(1), DestTable(1)
    dests.add_peer(nets.add(1), bytes([192, 0, 2, 2]), 0, 0, mtu=mtu)
    return Fit(nets, dests, seed=seed)


def through(frames: list[bytes], mtu: int = 0, *, fit: Fit | None = None, defrag: Defrag | None = None) -> list[bytes]:
    """Frames that leave, put together and cut again."""
    batch = PacketBatch.from_frames(frames)
    (defrag or Defrag()).process(batch)
    fit = fit or make_fit(mtu)
    fit.process(batch)
    lengths, wire = list(batch.lengths), list(batch.wire_lengths)
    assert all(lengths[i] == wire[i] for i in batch.passed() if batch.head_lengths[i] == 0)
    return [bytes(batch.frame(i)) for i in batch.passed()]


def without_ident(frame: bytes) -> bytes:
    """An untagged IPv6 fragment less its identification; any other frame as it is."""
    return frame[:58] + frame[62:] if frame[12:14] == b"\x86\xdd" and frame[20] == 44 else frame


def ident(frame: bytes) -> int:
    return int.from_bytes(frame[58:62], "big")


# --- as it came -----------------------------------------------------------------------------------------


@versions
@pytest.mark.parametrize("proto", ["udp", "tcp", "sctp", "icmp", "other"])
@pytest.mark.parametrize("size", [8, 328, 1000, 1400])
def test_the_senders_own_fragments(version: int, proto: str, size: int) -> None:
    """Bytes and order; 328 bytes of payload over IPv6 are pieces of 376. IPv6 has another identification."""
    packet = datagram(version, proto, 300 if size == 8 else 3000)
    pieces = cut(packet, size)
    for order in (pieces, pieces[::-1], random.Random(size).sample(pieces, len(pieces))):
        fit = make_fit()
        out = through(order, fit=fit)
        assert list(map(without_ident, out)) == list(map(without_ident, pieces))
        assert version == 4 or {ident(frame) for frame in out} != {ident(frame) for frame in pieces}
        assert (fit.fragmented, fit.fragments, fit.errors) == (1, len(pieces), 0)
        assert fit.counters() == {PASS: 1}
        assert join(out)[0] == [(pieces[0][:14] + packet, max(map(ip_len, pieces)))]


def uneven(sizes: list[int], *, fragment_df: Collection[int] = ()) -> tuple[list[bytes], bytes]:
    """IPv4 fragments of those sizes, some with DF, and the packet."""
    packet, at, frames = datagram(4, size=sum(sizes) - 8), 0, []
    for n, size in enumerate(sizes):
        piece = IP(packet[:20])
        piece.len = piece.chksum = None
        piece.flags = (n + 1 < len(sizes)) | 2 * (n in fragment_df)
        piece.frag = at // 8
        frames.append(bytes(ETH / piece / Raw(packet[20 + at :][:size])))
        at += size
    return frames, packet


def test_the_largest_of_uneven_ones() -> None:
    frames, packet = uneven([104, 488, 8, 400, 31])
    out = through(frames[::-1])
    assert [ip_len(frame) - 20 for frame in out] == [488, 488, 55]
    assert join(out)[0] == [(frames[0][:14] + packet, 508)]
    (whole,) = defragment([Ether(frame)[IP] for frame in out])
    assert bytes(whole) == packet


@pytest.mark.parametrize(("with_df", "kept"), [({0, 1, 2}, True), ({1}, True), ({0, 2}, False), (set(), False)])
def test_df_of_the_largest(with_df: set[int], kept: bool) -> None:
    """As Linux (``max_df_size``): a small fragment with DF does not give it to those of a large one without."""
    frames, _ = uneven([104, 488, 16], fragment_df=with_df)
    out = through(frames)
    assert len(out) == 2
    for n, frame in enumerate(out):
        assert Ether(frame)[IP].flags == ("MF" if n == 0 else "") + ("+DF" if n == 0 and kept else "DF" if kept else "")
        assert csum(frame[14:34]) == 0 and Ether(frame)[IP].id == 7


def test_many_keep_their_places() -> None:
    """Datagrams and other frames, IPv4 and IPv6, in the leaving order; each IPv6 datagram has a new identification."""
    count = 50 if SLOW_BUILD else 400
    frames, want = [], []
    for n in range(count):
        pieces = cut(datagram(4 if n % 2 else 6, size=900, ident=n, seed=n), 328, n)
        other = bytes(ETH / IP(src="10.0.1.10", dst="10.0.1.20", id=n) / UDP() / b"small")
        frames += [*pieces, other]
        want += [*pieces, other]
    fit = make_fit(seed=11)
    out = through(frames, fit=fit)
    assert list(map(without_ident, out)) == list(map(without_ident, want))
    given_ = [ident(frame) for frame in out if frame[12:14] == b"\x86\xdd"]
    assert len(set(given_)) == count // 2 == fit.idents
    assert sum(a == b for a, b in pairwise(given_)) == len(given_) - count // 2, "one for all pieces of a datagram"
    assert len({b - a for a, b in pairwise(dict.fromkeys(given_))}) > 0.9 * count / 2, "not one after the other"
    assert fit.fragmented == count


def test_identifications_have_a_seed_and_a_place() -> None:
    frames = [piece for n in range(20) for piece in cut(datagram(6, ident=n), 1000, n)]
    runs = {seed: [ident(frame) for frame in through(frames, fit=make_fit(seed=seed))] for seed in (0, 1, 1 << 32)}
    assert len({x for run in runs.values() for x in run}) == 60
    assert runs[0] == [ident(frame) for frame in through(frames)], "the same input twice, the same bytes twice"
    later = make_fit()
    later.idents = 10
    assert [ident(frame) for frame in through(frames, fit=later)][:40] == runs[0][40:]


@versions
def test_the_greatest_datagram(version: int) -> None:
    most = 65535 - 20 if version == 4 else 65535
    payload = random.Random(1).randbytes(most)
    frames = [raw_fragment(version, at, payload[at : at + 1400], at + 1400 < most) for at in range(0, most, 1400)]
    assert list(map(without_ident, through(frames))) == list(map(without_ident, frames))


@versions
def test_however_it_is_split_into_batches(version: int) -> None:
    rng = random.Random(4)
    each = [cut(datagram(version, size=900, ident=n), 352, n) for n in range(64)]
    frames = [piece for pieces in each for piece in pieces]
    rng.shuffle(frames)
    expected = None
    for split in every_split(len(frames)):
        defrag, fit, at, out = Defrag(), make_fit(), 0, []
        for n in split:
            out += through(frames[at : at + n], fit=fit, defrag=defrag)
            at += n
        result = out, fit.counters(), fit.fragmented, fit.fragments
        assert expected is None or result == expected
        expected = result


# --- narrower ways --------------------------------------------------------------------------------------


@versions
@pytest.mark.parametrize("tags", [0, 1, 2])
@pytest.mark.parametrize("mtu", [1280, 1400, 1430, 1448, 1500])
def test_no_piece_over_the_mtu(version: int, tags: int, mtu: int) -> None:
    """Tags count; scapy makes of the pieces what was sent."""
    packet = datagram(version, size=5000)
    front = ETH
    for vlan in range(tags):
        front = front / Dot1Q(vlan=vlan + 1)
    frames = []
    for piece in cut(packet, 1400):
        tagged = bytes(front / Raw(b""))[:12] + bytes(front / Raw(b""))[12 : 12 + 4 * tags]
        frames.append(tagged + piece[12:])
    largest = max(len(frame) - 14 - 4 * tags for frame in frames)
    most = min(mtu - 4 * tags, largest)
    out = through(frames, mtu)
    sizes = [len(frame) - 14 - 4 * tags for frame in out]
    assert max(sizes) <= most < max(sizes) + 8
    assert all(frame[: 14 + 4 * tags] == frames[0][: 14 + 4 * tags] for frame in out)
    if version == 4:
        (whole,) = defragment([IP(frame[14 + 4 * tags :]) for frame in out])
        assert bytes(whole) == packet
    else:
        assert bytes(defragment6([IPv6(frame[14 + 4 * tags :]) for frame in out]))[40:] == packet[40:]


def test_what_needs_no_cutting() -> None:
    """A whole no longer than a fragment of it was (options that only that one had), and what never was fragments."""
    options = [IPOption_RR(routers=["0.0.0.0"] * 9), IPOption_NOP()]
    first = IP(src="10.0.1.10", dst="10.0.1.20", id=9, flags="MF", proto=17)
    last = IP(src="10.0.1.10", dst="10.0.1.20", id=9, frag=1, proto=17, options=options)
    frames = [bytes(ETH / first / Raw(bytes(8))), bytes(ETH / last / Raw(bytes(40)))]
    fit = make_fit(1450)
    assert [len(frame) for frame in through(frames, fit=fit)] == [14 + 20 + 48]
    whole = bytes(ETH / IP(flags="DF") / UDP() / bytes(1000))
    assert through([whole], fit=fit) == [whole]
    assert (fit.fragmented, fit.counters()) == (0, {})


def test_headers_that_leave_no_room() -> None:
    """A way narrower than the headers and eight bytes: none goes it."""
    for mtu in (1, 19, 27, 28):
        fit = make_fit(mtu)
        batch = Defrag().process(PacketBatch.from_frames(uneven([1400, 1400])[0]))
        fit.process(batch)
        assert list(batch.verdict)[:2] == [HELD, OVER if mtu < 28 else PASS]
        assert fit.fragments == (350 if mtu == 28 else 0) == len(batch) - 2 + (mtu == 28)
        assert fit.counters() == {OVER if mtu < 28 else PASS: 1}


# --- headers --------------------------------------------------------------------------------------------


def with_options(raw: bytes) -> list[bytes]:
    """IPv4 fragments of which the first has these options, byte by byte."""
    first = IP(src="10.0.1.10", dst="10.0.1.20", id=9, flags="MF", proto=17, ihl=5 + len(raw) // 4)
    head = bytearray(bytes(first / Raw(raw + bytes(480))))
    head[10:12] = bytes(2)
    head[10:12] = csum(bytes(head[: 20 + len(raw)])).to_bytes(2, "big")
    last = IP(src="10.0.1.10", dst="10.0.1.20", id=9, frag=60, proto=17)
    return [bytes(ETH)[:12] + b"\x08\0" + bytes(head), bytes(ETH / last / Raw(bytes(480)))]


NOT_COPIED, COPIED = b"\x07\x07\x04\0\0\0\0", b"\x83\x07\x04\0\0\0\0"


@pytest.mark.parametrize(("first", "later"), [
    (NOT_COPIED + b"\1", b"\1" * 8),
    (COPIED + b"\1", COPIED + b"\1"),
    (b"\1" + NOT_COPIED + COPIED + b"\0", b"\1" * 8 + COPIED + b"\0"),
    (b"\x94\4\0\0" + b"\0" + NOT_COPIED, b"\x94\4\0\0" + b"\0" + NOT_COPIED),  # behind the end there is none
    (b"\x07\1\4\0", b"\x07\1\4\0"), (b"\x07\5\4\0", b"\x07\5\4\0"), (b"\1\1\1\x07", b"\1\1\1\x07"),  # broken: left
    (b"\x07\4\4\0" * 10, b"\1" * 40),
], ids=range(8))  # fmt: skip
def test_options(first: bytes, later: bytes) -> None:
    """Those that only the first fragment has become no-operations in the others (RFC 791 §3.1)."""
    frames = with_options(first)
    out = through(frames)
    n = 20 + len(first)
    assert len(out) == 2 or len(first) == 40
    assert out[0][34 : 14 + n] == first and all(frame[34 : 14 + n] == later for frame in out[1:])
    assert all(csum(frame[14 : 14 + n]) == 0 and frame[14] & 15 == n // 4 for frame in out)
    assert b"".join(frame[14 + n :] for frame in out) == bytes(960)
    assert max(map(ip_len, out)) <= max(map(ip_len, frames))


def pad(n: int) -> list[PadN]:
    return [PadN(optdata=bytes(n))]


CHAINS = [
    (IPv6ExtHdrHopByHop(options=pad(4)), None),
    (IPv6ExtHdrRouting(addresses=["fd00:1::1"], segleft=0), None),
    (IPv6ExtHdrHopByHop(options=pad(12)) / IPv6ExtHdrRouting(addresses=[], segleft=0), None),
    (IPv6ExtHdrDestOpt(options=pad(4)) / IPv6ExtHdrRouting(addresses=["fd00:1::1"], segleft=0), None),
    (None, IPv6ExtHdrDestOpt(options=pad(20))),
    (IPv6ExtHdrHopByHop(options=pad(4)), IPv6ExtHdrDestOpt(options=pad(4))),
]


@pytest.mark.parametrize(("in_front", "behind"), CHAINS, ids=range(len(CHAINS)))
def test_extension_headers(in_front: Packet | None, behind: Packet | None) -> None:
    """The fragment header goes where scapy puts it: behind what routers look at (RFC 8200 §4.5)."""
    packet: Packet = IPv6(src="fd00:1::a", dst="fd00:1::14")
    whole = packet / in_front if in_front else packet
    packet = (packet / in_front if in_front else packet) / IPv6ExtHdrFragment(id=5)
    rest = UDP(sport=1, dport=2, chksum=0xABCD) / Raw(random.Random(0).randbytes(2000))
    rest = behind / rest if behind else rest
    pieces = [bytes(ETH / piece) for piece in fragment6(packet / rest, 700)]
    out = through(pieces)
    assert len(out) == len(pieces) > 2
    for ours, theirs in zip(out, pieces, strict=True):
        at = 54 + (len(in_front) if in_front else 0)
        assert ours[: at + 4] + ours[at + 8 :] == theirs[: at + 4] + theirs[at + 8 :]
        assert ours[at + 4 : at + 8] != theirs[at + 4 : at + 8]
    assert join(out)[0][0][0] == bytes(ETH / whole / rest)


@given(seed=st.integers(0, 2**32))
def test_hostile_bytes(seed: int) -> None:
    """Fragments with bytes changed anywhere, down any way: no piece is longer than the way or what came."""
    rng = random.Random(seed)
    frames = []
    for n in range(12):
        for piece in cut(datagram(rng.choice((4, 6)), size=300, ident=n & 1), 104, n & 1):
            data = bytearray(piece)
            for _ in range(rng.choice((0, 0, 1, 4))):
                data[rng.randrange(14, len(data))] = rng.randrange(256)
            frames.append(bytes(data))
    batch = PacketBatch.from_frames(frames)
    Defrag().process(batch)
    whole = len(batch.passed())
    mtu = rng.choice((0, 0, 70, 100, 1450))
    fit = make_fit(mtu)
    fit.process(batch)
    dropped = sum(1 for verdict in batch.verdict if verdict == OVER)
    assert len(batch.passed()) == whole - dropped - fit.fragmented + fit.fragments
    for i in batch.passed():
        assert len(batch.frame(i)) <= 200 or not mtu
        if mtu and batch.rule[i] == Rule.RULE_RECUT:
            assert len(batch.frame(i)) - 14 <= mtu


# --- in the plane ---------------------------------------------------------------------------------------


def run(p: vf.Dataplane, port: str, frames: list[bytes], *, first: bool = False) -> list[tuple[str, bytes, Rule]]:
    """Through every node, with fragments put together behind the bridge, or before it; the account adds up."""
    now = p._now
    batch = PacketBatch.from_frames(frames, port_in=p.ports[port])
    defrag = Defrag()
    switch = (defrag, now.bridge) if first else (now.bridge, defrag)
    for node in (now.receive, now.proxy, *switch, now.route, now.fit, now.send):
        node.process(batch)
    s = p.stats()
    made = s.packets - sum(s.drops.values()) - s.flooded + s.copies - s.fragmented + s.fragments
    assert s.sent + sum(s.send_drops.values()) + sum(defrag.counters().values()) == made
    assert sum(s.rules.values()) == s.sent == len(batch.passed())
    return [(p.port_names[batch.port_out[i]], bytes(batch.frame(i)), Rule(batch.rule[i])) for i in batch.passed()]


@versions
@pytest.mark.parametrize(("dst", "dst6", "to", "mtu"), MTU_CASES, ids=["over IPv4", "over IPv6"])
def test_in_a_tunnel(version: int, dst: str, dst6: str, to: str, mtu: int) -> None:
    """To a peer, with the tunnel's headers in front; over IPv6 as well, where head slots are too short for both."""
    head = IP(src="10.0.1.10", dst=dst, id=7) if version == 4 else IPv6(src="fd00:1::a", dst=dst6)
    pieces = cut(bytes(head / UDP(sport=1, dport=53) / random.Random(0).randbytes(3000)), 328)
    pieces = [bytes(Ether(src=A, dst=to)) [:12] + piece[12:] for piece in pieces]
    out = run(plane(), "a", pieces)
    inner = []
    for port, frame, rule in out:
        assert port == "underlay" and rule == Rule.RULE_RECUT
        outer = Ether(frame)
        outer[UDP].decode_payload_as(VXLAN)
        assert outer[VXLAN].vni == 101
        inner.append(bytes(outer[VXLAN].payload))
    assert list(map(without_ident, inner)) == list(map(without_ident, pieces))


@versions
def test_flooded(version: int) -> None:
    """Put together before it is flooded: each copy is cut, and has an identification of its own."""
    front = bytes(Ether(dst="02:00:00:00:00:77", src=A))[:12]
    pieces = [front + piece[12:] for piece in cut(datagram(version), 1000)]
    p = plane(SPEC.replace('port = "a"', 'port = "z"\n[[network.endpoint]]\nport = "a"', 1))
    out = run(p, "a", pieces, first=True)
    assert [port for port, _, _ in out] == ["z"] * 4 + ["underlay"] * 8
    assert {rule for _, _, rule in out} == {Rule.RULE_RECUT}
    assert list(map(without_ident, (frame for _, frame, _ in out[:4]))) == list(map(without_ident, pieces))
    for k in (4, 8):
        inner = [frame[-len(piece) :] for (_, frame, _), piece in zip(out[k:], pieces, strict=False)]
        assert list(map(without_ident, inner)) == list(map(without_ident, pieces))
        assert version == 4 or ident(inner[0]) not in {ident(frame) for _, frame, _ in out[:k]}


def test_an_error_about_a_datagram_is_whole() -> None:
    """TTL used up: the ICMP error is longer than the fragments were, and no datagram that came in such."""
    packet = bytes(IP(src="10.0.1.10", dst="10.0.2.12", id=7, ttl=1) / UDP(sport=1, dport=53) / bytes(900))
    pieces = [bytes(Ether(src=A, dst=GW))[:12] + piece[12:] for piece in cut(packet, 328)]
    ((port, frame, rule),) = run(plane(), "a", pieces)
    assert (port, rule) == ("a", Rule.RULE_TTL)
    error = Ether(frame)
    assert (error[ICMP].type, error[IP].frag, error[IP].len) == (11, 0, 576)
    assert bytes(error[ICMP])[8:] == packet[:548]


def test_a_routed_datagram() -> None:
    """Route takes it as any packet; it leaves with TTL one less, in pieces as it came."""
    packet = IP(src="10.0.1.10", dst="10.0.2.11", id=7, ttl=9) / UDP(sport=1, dport=53) / bytes(900)
    pieces = [bytes(Ether(src=A, dst=GW))[:12] + piece[12:] for piece in cut(bytes(packet), 328)]
    out = run(plane(), "a", pieces)
    assert [port for port, _, _ in out] == ["b"] * 3
    assert [ip_len(frame) for _, frame, _ in out] == list(map(ip_len, pieces))
    ((frame, _),), _ = join([frame for _, frame, _ in out])
    packet.ttl = 8
    assert frame[14:] == bytes(packet)


def test_a_successor_goes_on() -> None:
    """A plane with another spec gives no identification again that the one before gave."""
    p = plane()
    pieces = cut(datagram(6), 1000)
    pieces = [bytes(Ether(src=A, dst=MTU_CASES[0][2]))[:12] + piece[12:] for piece in pieces]
    run(p, "a", pieces)
    p.apply(p.spec)
    assert p._now.fit.idents == 1
