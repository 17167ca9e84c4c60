"""The flow hash against a plain model of its table, its promises one by one, and its spread."""

import random
import struct
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_RR, fragment
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    fragment6,
)
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Raw

from tests.support import SLOW_BUILD

MACS = bytes.fromhex("020000000002 020000000001")
# 0000   02 00 00 00 00 02 02 00 00 00 00 01 08 00 45 00
# 0010   00 1e 00 01 00 00 40 11 f6 97 c0 00 02 01 c6 33   UDP, 192.0.2.1 to 198.51.100.2
# 0020   64 02 c3 50 00 35 00 0a 00 00 68 69               50000 to 53
FRAME4 = MACS + bytes.fromhex("0800 4500001e000100004011f697 c0000201 c6336402 c3500035000a0000 6869")
# 0000   02 00 00 00 00 02 02 00 00 00 00 01 86 dd 60 00
# 0010   00 00 00 14 06 40 20 01 0d b8 …                   TCP, 2001:db8::1 to 2001:db8::2
# 0030   … c3 50 01 bb 01 02 03 04 0a 0b 0c 0d 50 12 ff ff 43 7b 00 00   50000 to 443
FRAME6 = MACS + bytes.fromhex(
    "86dd 6000000000140640 20010db8" + "00" * 11 + "01 20010db8" + "00" * 11 + "02"
    "c35001bb 01020304 0a0b0c0d 5012ffff 437b0000"
)
U16, U32, U64 = st.integers(0, 0xFFFF), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
ETHER = Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01")
IP4 = IP(src="192.0.2.1", dst="198.51.100.2")
IP6 = IPv6(src="2001:db8::1", dst="2001:db8::2")
PORTS = {6, 17, 33, 132, 136}
ECHOES = {1: (0, 8), 58: (128, 129)}
EXTENSIONS = {0, 43, 60, 135, 139, 140}


# The model: the table at the top of flow.pxd, written plainly.

A, B, C, D = 0x243F6A8885A308D3, 0x13198A2E03707345, 0xA4093822299F31D1, 0x082EFA98EC4E6C89


def fold(a: int, b: int) -> int:
    return a * b % 2**64 ^ a * b >> 64


def little(source: bytes) -> int:
    return int.from_bytes(source, "little")


def mix(a: int, b: int, seed: int) -> int:
    return fold(fold(a ^ fold(seed ^ C, D), b ^ B), C) % 2**32


def upper(proto: int, rest: bytes) -> int:
    if proto in PORTS and len(rest) >= 4:
        return little(rest[:4])
    if proto in ECHOES and len(rest) >= 6 and rest[0] in ECHOES[proto]:
        return little(rest[4:6])
    return 0


def upper_of_ipv6(packet: bytes) -> tuple[int, bytes] | None:
    """Protocol and bytes of the upper layer; None in a fragment and where the chain cannot be walked."""
    kind, at, fragments = packet[6], 40, 0
    for _ in range(33):
        if kind not in EXTENSIONS | {44, 51}:
            return kind, packet[at:]
        if len(packet) < at + 8:
            return None
        if kind == 44:
            fragments += 1
            if fragments > 1 or struct.unpack_from(">H", packet, at + 2)[0] & 0xFFF9:
                return None
            size = 8
        else:
            size = (packet[at + 1] + 2) * 4 if kind == 51 else (packet[at + 1] + 1) * 8
        kind, at = packet[at], at + size
    return None


def model(frame: bytes, seed: int = 0) -> int:
    if len(frame) < 14:
        return mix(little(frame[:8]), little(frame[8:]), seed)
    at = 12
    while (kind := int.from_bytes(frame[at : at + 2], "big")) in (0x8100, 0x88A8, 0x9100, 0x9200) and len(
        frame
    ) >= at + 2:
        at += 4
    if len(frame) < at + 2 or kind < 0x600:
        kind = 0
    packet = frame[at + 2 :]
    if kind == 0x0800 and len(packet) >= 20 and packet[0] >> 4 == 4 and packet[0] & 15 >= 5:
        proto, rest = packet[9], packet[(packet[0] & 15) * 4 :]
        whole = struct.unpack_from(">H", packet, 6)[0] & 0x3FFF == 0
        return mix(little(packet[12:20]), proto << 32 | (upper(proto, rest) if whole else 0), seed)
    if kind == 0x86DD and len(packet) >= 40 and packet[0] >> 4 == 6:
        found = upper_of_ipv6(packet)
        words = [little(packet[i : i + 8]) for i in range(8, 40, 8)]
        addresses = fold(words[0] ^ A, words[1] ^ B) ^ fold(words[2] ^ C, words[3] ^ D)
        return mix(addresses, found[0] << 32 | upper(*found) if found else 0, seed)
    return mix(little(frame[:8]), little(frame[8:12]) | kind << 32, seed)


# The same number everywhere


@pytest.mark.parametrize(
    ("frame", "seed", "want"),
    [
        (b"", 0, 0x1DEC6DDF),
        (b"\x02", 0, 0x139DFC4B),
        (FRAME4, 0, 0xF0DD4234),
        (FRAME4, 2**64 - 1, 0x61F72452),
        (FRAME4[:37], 0, 0x88D16085),
        (FRAME6, 0, 0xAB79A35C),
        (FRAME6, 1, 0xE5AD5C03),
        (MACS + b"\x08\x06", 0, 0x16ADCC91),
    ],
    ids=lambda value: "",
)
def test_these_numbers_never_change(wire, frame, seed, want):
    assert wire.flow_hash(frame, seed) == want


@given(a=U64, b=U64)
def test_fold(wire, a, b):
    assert wire.flow_fold(a, b) == fold(a, b)


@pytest.mark.parametrize("frame", [FRAME4, FRAME6], ids=["ipv4", "ipv6"])
def test_truncated_at_every_length(wire, frame):
    """Falls back to what is there, and reads no further."""
    for n in range(len(frame) + 1):
        assert wire.flow_hash(frame[:n], 7) == wire.flow_hash_any(frame[:n], 7) == model(frame[:n], 7)


TAGGED = st.lists(st.sampled_from([b"\x81\0\0\x05", b"\x88\xa8\0\x06", b"\x91\0\0\x07"]), max_size=3).map(b"".join)


@st.composite
def frames(draw):
    """Frames that look right as far as they go, with every field that decides something drawn from what matters."""
    frame = draw(st.binary(min_size=12, max_size=12)) + draw(TAGGED)
    proto = draw(st.sampled_from([1, 6, 17, 33, 47, 50, 58, 132, 136]))
    rest = draw(st.sampled_from([b"", b"\0", b"\x08", b"\x80", b"\x81"])) + draw(st.binary(max_size=20))
    match draw(st.sampled_from(["ipv4", "ipv6", "other"])):
        case "ipv4":
            first = draw(st.sampled_from([0x45, 0x45, 0x45, 0x46, 0x4F, 0x44, 0x55]))
            field = draw(st.sampled_from([0, 0, 0x4000, 0x2000, 0x00B9, 0x8000]))
            options = bytes(max(0, first % 16 * 4 - 20))
            addresses = draw(st.binary(min_size=8, max_size=8))
            frame += struct.pack(">HBBHHHBBH", 0x0800, first, 0, 40, 1, field, 64, proto, 0) + addresses + options
        case "ipv6":
            chain = draw(st.lists(st.sampled_from([0, 43, 44, 51, 60, 135]), max_size=4))
            frame += b"\x86\xdd" + draw(st.sampled_from([b"\x60", b"\x60", b"\x60", b"\x50"])) + bytes(5)
            frame += bytes([*chain, proto][:1]) + b"\x40" + draw(st.binary(min_size=32, max_size=32))
            for kind, after in zip(chain, [*chain, proto][1:], strict=True):
                units = draw(st.integers(0, 2))
                if kind == 44:
                    body = b"\0" + draw(st.sampled_from([b"\0\0", b"\0\x01", b"\x05\xc8", b"\0\x06"])) + bytes(4)
                else:
                    body = bytes([units]) + bytes((units + 2) * 4 - 2 if kind == 51 else units * 8 + 6)
                frame += bytes([after]) + body
        case "other":
            frame += draw(st.sampled_from([b"\x08\x06", b"\x05\xdc", b"\0\0", b"\x88\xcc"]))
    frame += rest
    return frame[: draw(st.just(len(frame)) | st.integers(0, len(frame)))]


@given(frame=frames(), seed=st.just(0) | U64)
def test_any_frame_is_as_the_table_says(wire, frame, seed):
    assert wire.flow_hash(frame, seed) == wire.flow_hash_any(frame, seed) == model(frame, seed)


@given(frame=st.binary(max_size=120))
def test_any_bytes(wire, frame):
    assert wire.flow_hash(frame) == wire.flow_hash_any(frame) == model(frame)


@given(head=st.sampled_from([FRAME4[:14], FRAME6[:14], FRAME4[:24], FRAME6[:55]]), rest=st.binary(max_size=90))
def test_any_bytes_behind_a_good_start(wire, head, rest):
    assert wire.flow_hash(head + rest) == wire.flow_hash_any(head + rest) == model(head + rest)


# What counts, and what does not


def put(frame: bytes, at: int, value: bytes) -> bytes:
    return frame[:at] + value + frame[at + len(value) :]


@pytest.mark.parametrize(
    ("frame", "tuple_bytes"),
    [(FRAME4, [23, *range(26, 38)]), (FRAME6, [20, *range(22, 58)])],
    ids=["ipv4", "ipv6"],
)
def test_the_5_tuple_counts_and_nothing_else(wire, frame, tuple_bytes):
    """MACs, TOS, lengths, identification, TTL, checksums, flags of TCP and payload differ from packet to packet."""
    decides = {12, 13, 14, 20, 21} if frame is FRAME4 else {12, 13, 14}  # which kind of frame it is at all
    for at in range(len(frame)):
        other = put(frame, at, bytes([frame[at] ^ (0x17 if at == (23 if frame is FRAME4 else 20) else 0x01)]))
        if at in tuple_bytes:
            assert wire.flow_hash(other) != wire.flow_hash(frame), at
        elif at not in decides:
            assert wire.flow_hash(other) == wire.flow_hash(frame), at


@pytest.mark.parametrize("frame", [FRAME4, FRAME6], ids=["ipv4", "ipv6"])
def test_directions_are_two_flows(wire, frame):
    if frame is FRAME4:
        back = frame[:26] + frame[30:34] + frame[26:30] + frame[36:38] + frame[34:36] + frame[38:]
    else:
        back = frame[:22] + frame[38:54] + frame[22:38] + frame[56:58] + frame[54:56] + frame[58:]
    assert wire.flow_hash(back) != wire.flow_hash(frame)


@pytest.mark.parametrize("tags", [[Dot1Q], [Dot1AD, Dot1Q], [Dot1Q] * 5])
@pytest.mark.parametrize("packet", [IP4 / UDP(), IP6 / TCP(), IP4 / ICMP(id=7)], ids=["udp4", "tcp6", "icmp4"])
def test_tags_are_looked_through(wire, packet, tags):
    tagged = ETHER
    for vlan, tag in enumerate(tags):
        tagged /= tag(vlan=vlan + 1)
    assert wire.flow_hash(bytes(tagged / packet)) == wire.flow_hash(bytes(ETHER / packet))


def test_extension_headers_are_looked_through(wire):
    plain = wire.flow_hash(bytes(ETHER / IP6 / UDP(sport=1000)))
    chain = IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting()
    assert wire.flow_hash(bytes(ETHER / IP6 / chain / UDP(sport=1000))) == plain
    assert wire.flow_hash(bytes(ETHER / IP6 / chain / UDP(sport=1001))) != plain


def test_ipv4_options_are_looked_through(wire):
    options = [IPOption_RR(routers=["192.0.2.9"] * n) for n in (1, 9)]
    plain = wire.flow_hash(bytes(ETHER / IP4 / UDP(sport=1000)))
    for option in options:
        packet = IP(src="192.0.2.1", dst="198.51.100.2", options=[option])
        assert wire.flow_hash(bytes(ETHER / packet / UDP(sport=1000))) == plain


@pytest.mark.parametrize("proto", [6, 17, 33, 132, 136])
def test_protocols_with_ports(wire, proto):
    ports = {
        wire.flow_hash(put(put(FRAME4, 23, bytes([proto])), 34, struct.pack(">HH", src, dst)))
        for src in range(20)
        for dst in range(20)
    }
    assert len(ports) == 400


@pytest.mark.parametrize("proto", [2, 4, 41, 47, 50, 51, 89, 112])
def test_protocols_without(wire, proto):
    frame = put(FRAME4, 23, bytes([proto]))
    assert wire.flow_hash(put(frame, 34, b"\1\2\3\4")) == wire.flow_hash(frame) == wire.flow_hash(frame[:34])


def test_scapys_sctp(wire):
    assert wire.flow_hash(bytes(ETHER / IP4 / SCTP(sport=1))) != wire.flow_hash(bytes(ETHER / IP4 / SCTP(sport=2)))


@given(ident=U16, seq=U16, payload=st.binary(max_size=20))
def test_a_ping_run_is_one_flow(wire, ident, seq, payload):
    """Each direction is one flow by its addresses; the type, which says the direction again, does not count."""
    first = wire.flow_hash(bytes(ETHER / IP4 / ICMP(type=8, id=ident, seq=0)))
    assert wire.flow_hash(bytes(ETHER / IP4 / ICMP(type=8, id=ident, seq=seq) / payload)) == first
    assert wire.flow_hash(bytes(ETHER / IP4 / ICMP(type=0, id=ident, seq=seq) / payload)) == first
    assert wire.flow_hash(bytes(ETHER / IP4 / ICMP(type=8, id=ident ^ 1, seq=0))) != first
    back = IP(src="198.51.100.2", dst="192.0.2.1")
    assert wire.flow_hash(bytes(ETHER / back / ICMP(type=0, id=ident, seq=0))) != first


@given(ident=U16, seq=U16)
def test_a_ping_run_over_ipv6_is_one_flow(wire, ident, seq):
    first = wire.flow_hash(bytes(ETHER / IP6 / ICMPv6EchoRequest(id=ident, seq=0)))
    assert wire.flow_hash(bytes(ETHER / IP6 / ICMPv6EchoRequest(id=ident, seq=seq, data=b"x"))) == first
    assert wire.flow_hash(bytes(ETHER / IP6 / ICMPv6EchoReply(id=ident, seq=seq))) == first
    assert wire.flow_hash(bytes(ETHER / IP6 / ICMPv6EchoRequest(id=ident ^ 1, seq=0))) != first


@given(unused=U32)
def test_other_icmp_has_no_identifier(wire, unused):
    """Its bytes 4 to 7 are an MTU or a gateway."""
    frame = bytearray(bytes(ETHER / IP4 / ICMP(type=3, code=4)))
    plain = wire.flow_hash(frame)
    frame[38:42] = unused.to_bytes(4, "big")
    assert wire.flow_hash(frame) == plain


@given(size=st.integers(600, 4000), ports=st.tuples(U16, U16), mtu=st.integers(60, 400), icmp=st.booleans())
def test_every_ipv4_fragment_hashes_the_same(wire, size, ports, mtu, icmp):
    layer = ICMP(id=ports[0]) if icmp else UDP(sport=ports[0], dport=ports[1])
    pieces = fragment(IP4 / layer / Raw(bytes(size)), fragsize=mtu)
    assert len(pieces) > 1
    assert len({wire.flow_hash(bytes(ETHER / piece)) for piece in pieces}) == 1


def test_ipv4_options_of_the_first_fragment_only(wire):
    first = IP(src="192.0.2.1", dst="198.51.100.2", flags="MF", proto=17, options=[IPOption_RR(routers=["192.0.2.9"])])
    later = IP(src="192.0.2.1", dst="198.51.100.2", frag=10, proto=17)
    assert wire.flow_hash(bytes(ETHER / first / bytes(80))) == wire.flow_hash(bytes(ETHER / later / bytes(80)))


@given(size=st.integers(1300, 4000), ports=st.tuples(U16, U16))
def test_every_ipv6_fragment_hashes_the_same(wire, size, ports):
    packet = IP6 / IPv6ExtHdrFragment(id=9) / UDP(sport=ports[0], dport=ports[1]) / Raw(bytes(size))
    pieces = fragment6(packet, 1280)
    assert len(pieces) > 1
    assert len({wire.flow_hash(bytes(ETHER / piece)) for piece in pieces}) == 1


def test_ipv6_fragments_whose_next_headers_differ(wire):
    """Only the first fragment's counts to the receiver (RFC 8200 §4.5), so here none does."""
    pieces = [IP6 / IPv6ExtHdrFragment(m=1, nh=60) / bytes(16), IP6 / IPv6ExtHdrFragment(offset=2, nh=17) / bytes(16)]
    assert len({wire.flow_hash(bytes(ETHER / piece)) for piece in pieces}) == 1


def test_an_atomic_fragment_is_whole(wire):
    plain = wire.flow_hash(bytes(ETHER / IP6 / UDP(sport=1000)))
    assert wire.flow_hash(bytes(ETHER / IP6 / IPv6ExtHdrFragment(id=9) / UDP(sport=1000))) == plain


def test_not_ip(wire):
    """MACs and ethertype count, what follows does not; a length in the place of the type is none."""
    arp = MACS + b"\x08\x06"
    assert wire.flow_hash(arp + b"\1\2\3") == wire.flow_hash(arp)
    assert len({wire.flow_hash(put(arp, at, b"\x77")) for at in range(12)}) == 12
    assert wire.flow_hash(MACS + b"\x88\xcc") != wire.flow_hash(arp)
    assert wire.flow_hash(MACS + b"\x00\x26\x42\x42") == wire.flow_hash(MACS + b"\x05\xdc\x42\x42")
    assert wire.flow_hash(MACS + b"\x81\0\0\5\x08\x06") == wire.flow_hash(arp)


def test_one_seed_one_hash(wire):
    hashes = [wire.flow_hash(FRAME4, seed) for seed in range(1000)]
    assert len(set(hashes)) == 1000
    assert hashes == [wire.flow_hash(FRAME4, seed) for seed in range(1000)]


# Source ports and spread


def test_source_ports(wire):
    assert wire.flow_sport(0) == 49152
    assert wire.flow_sport(2**32 - 1) == 65535
    assert [wire.flow_sport(i << 18) for i in range(16384)] == list(range(49152, 65536))


def udp4(src: int, dst: int, sport: int, dport: int) -> bytes:
    return FRAME4[:26] + struct.pack(">IIHH", src, dst, sport, dport) + FRAME4[38:]


def udp6(src: int, dst: int, sport: int, dport: int) -> bytes:
    prefix = FRAME6[22:34]
    return FRAME6[:22] + prefix + struct.pack(">I", src) + prefix + struct.pack(">IHH", dst, sport, dport) + FRAME6[58:]


def ether(src: int, dst: int, *_: int) -> bytes:
    return struct.pack(">HIHI", 0x0200, dst, 0x0200, src) + b"\x08\x06"


FLOWS = 10_000 if SLOW_BUILD else 100_000
RANDOM = random.Random(7348)
PATTERNS = {
    "random": lambda i: tuple(RANDOM.getrandbits(bits) for bits in (32, 32, 16, 16)),
    "source ports": lambda i: (0xC0000201 + (i >> 16), 0xC6336402, i & 0xFFFF, 443),
    "destination ports": lambda i: (0xC0000201 + (i >> 16), 0xC6336402, 50000, i & 0xFFFF),
    "source addresses": lambda i: (0xC0000200 + i, 0xC6336402, 50000, 443),
    "destination addresses": lambda i: (0xC0000201, 0xC6330000 + i, 50000, 443),
    "both addresses": lambda i: (0xC0000200 + i, 0xC6330000 + i, 50000, 443),
    "addresses and ports": lambda i: (0xC0000200 + (i & 0xFF), 0xC6336400 + (i >> 8 & 0xFF), 50000 + (i >> 16), 443),
    "both ports": lambda i: (0xC0000201, 0xC6336402 + (i >> 16), i & 0xFFFF, i & 0xFFFF),
    "networks": lambda i: (i << 8 & 0xFFFFFFFF, 0xC6336402, 50000, 443),
}
KINDS = {"udp4": udp4, "udp6": udp6, "ether": ether}
CASES = [(kind, pattern) for kind in KINDS for pattern in PATTERNS if kind != "ether" or "ports" not in pattern]


@pytest.mark.parametrize(("kind", "pattern"), CASES, ids=[f"{kind}, {pattern}" for kind, pattern in CASES])
def test_spread(wire, kind, pattern):
    """1,000 flows take 600 source ports and more; of 100,000 flows no bucket of 64 has 1.2 times its share."""
    hashes = [wire.flow_hash(KINDS[kind](*PATTERNS[pattern](i))) for i in range(FLOWS)]
    ports = [wire.flow_sport(one) for one in hashes]
    assert len(set(ports[:1000])) >= 600
    assert len(set(hashes)) > FLOWS - 10  # of 100,000, 1.2 pairs alike are to be expected
    for buckets in (
        Counter(one & 63 for one in hashes),
        Counter(one >> 26 for one in hashes),
        Counter(port & 63 for port in ports),
        Counter(port % 61 for port in ports),
    ):
        assert max(buckets.values()) / (FLOWS / len(buckets)) <= (1.6 if SLOW_BUILD else 1.2)


@pytest.mark.parametrize("frame", [FRAME4, FRAME6], ids=["ipv4", "ipv6"])
def test_avalanche(wire, frame):
    """Every bit of addresses and ports changes every bit of the hash half of the time."""
    rng = random.Random(1)
    first, last = (26, 38) if frame is FRAME4 else (22, 58)
    flips = Counter()
    rounds = 100 if SLOW_BUILD else 400
    for _ in range(rounds):
        one = frame[:first] + rng.randbytes(last - first) + frame[last:]
        plain = wire.flow_hash(one)
        for bit in range(first * 8, last * 8):
            other = bytearray(one)
            other[bit // 8] ^= 1 << bit % 8
            flips[bit] += (wire.flow_hash(other) ^ plain).bit_count()
    assert all(14.5 < count / rounds < 17.5 for count in flips.values())
