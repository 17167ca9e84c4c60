"""Capture files in: other people's conformance files, and files whose every byte is known here."""

from __future__ import annotations

import random
import re
import struct
import subprocess
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import (
    MAGIC_MODIFIED,
    MAGIC_NSEC,
    MAGIC_USEC,
    SLOW_BUILD,
    TCPDUMP,
    Packet,
    Pcapng,
    blocks,
    capture_path,
    captures,
    in_pieces,
    libpcap_read,
    needs_tcpdump,
    ours_read,
    pcap,
    sha,
    table,
)
from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.io.reader import CaptureDecoder

T0 = 1_700_000_000_123_456_789
INT64_MAX, INT64_MIN = 2**63 - 1, -(2**63)

# --- files of others ------------------------------------------------------------------------------------

#: The count of these takes in the record that is cut, or claims more than any reader believes.
CUT_RECORD_COUNTED = ("5717750942269440", "5781142119907328", "5755755617189888")


def nanoseconds(text: str) -> int:
    sign = -1 if text.startswith("-") else 1
    seconds, _, fraction = text.lstrip("-").partition(".")
    return sign * (int(seconds) * 10**9 + int(fraction.ljust(9, "0")[:9]))


@captures("pcapng")
def test_pcapng_conformance(row: dict[str, str]) -> None:
    """Interface, time to the nanosecond, lengths and bytes of every packet, as tshark has them ("-": it has none)."""
    path = capture_path("pcapng", row["file"])
    packets, fault = ours_read(path.read_bytes())
    expected = table(path.with_suffix(".tsv"))
    assert fault is None
    assert len(packets) == len(expected) == int(row["packets"])
    for packet, line in zip(packets, expected, strict=True):
        assert (len(packet.data), packet.wire_len) == (int(line["caplen"]), int(line["len"]))
        assert sha(packet.data) == line["sha256"]
        if line["iface"] not in ("", "-"):
            assert packet.interface == int(line["iface"])
        if line["time"] not in ("", "-"):
            assert packet.ts_ns == nanoseconds(line["time"])


@captures("pcap-variants")
def test_pcap_variants_count(row: dict[str, str]) -> None:
    packets, _ = ours_read(capture_path("pcap-variants", row["file"]).read_bytes())
    cut = any(number in row["file"] for number in CUT_RECORD_COUNTED)
    assert len(packets) == int(row["packets"]) - cut


@captures("pcap-variants")
def test_pcap_variants_as_libpcap(row: dict[str, str]) -> None:
    """As libpcap, and so ``tcpdump -r``, reads them, with two deliberate differences: seconds and fractions are
    unsigned here (the format says so), and what a record holds beyond the file's snaplen is not thrown away."""
    path = capture_path("pcap-variants", row["file"])
    data = path.read_bytes()
    theirs = libpcap_read(path)
    if theirs is None:
        assert "v2.8224" in row["notes"]  # a version that libpcap does not know: we read it as 2.4
        return
    ours, _ = ours_read(data)
    assert len(ours) == len(theirs)
    snaplen = None
    if data[:4] != b"\x0a\x0d\x0d\x0a":
        big = data[:1] == b"\xa1"
        snaplen = struct.unpack_from(">I" if big else "<I", data, 16)[0]
    for a, b in zip(ours, theirs, strict=True):
        assert a.wire_len == b.wire_len
        if len(a.data) != len(b.data):
            assert len(b.data) == snaplen < len(a.data)
        assert a.data[: len(b.data)] == b.data
        if a.ts_ns != b.ts_ns:
            # Signed 32 bits there: fractions of nonsense, and seconds after 2038.
            assert "timestamp_invalid_nano" in row["file"] or "clusterfuzz" in row["file"]
            assert (a.ts_ns - b.ts_ns) % 2**32 == 0


@needs_tcpdump
@pytest.mark.tshark
@captures("pcap-variants")
def test_pcap_variants_count_of_tcpdump(row: dict[str, str]) -> None:
    path = capture_path("pcap-variants", row["file"])
    run = subprocess.run(
        [TCPDUMP or "tcpdump", "-nn", "-t", "-r", str(path), "--count"],
        capture_output=True,
        check=False,
        timeout=60,
    )
    counted = re.search(rb"^(\d+) packets?$", run.stdout, re.MULTILINE)
    if counted is None:
        # The one whose version no tool knows, and link types that are no numbers.
        assert re.search(rb"supported|unknown data link type", run.stderr), run.stderr
        return
    packets, _ = ours_read(path.read_bytes())
    assert len(packets) == int(counted[1])


# --- every flavour, whatever the pieces -----------------------------------------------------------------

PACKETS = [
    Packet(T0, bytes(range(60)), 60),
    Packet(T0 + 1000, b"", 0),
    Packet(T0 + 2000, b"x", 1514),
    Packet(T0 + 3000, bytes(61), 61),
    Packet(T0 + 3000, b"ab" * 31, 62),
]


def flavours() -> dict[str, bytes]:
    """The same packets in everything we read; two sections of different order in the last."""
    out = {}
    for big in (False, True):
        order = "be" if big else "le"
        out[f"usec-{order}"] = pcap(PACKETS, big=big)
        out[f"nsec-{order}"] = pcap(PACKETS, big=big, magic=MAGIC_NSEC)
        out[f"modified-{order}"] = pcap(PACKETS, big=big, magic=MAGIC_MODIFIED)
        for minor in range(4):
            out[f"2.{minor}-{order}"] = pcap(PACKETS, big=big, version=(2, minor), swap=minor < 3)
        ng = Pcapng(big=big).interface(tsresol=9, options=[(2, b"eth0"), (1, b"a comment")])
        for packet in PACKETS:
            ng.epb(
                packet.data, units=packet.ts_ns, wire_len=packet.wire_len, options=[(1, b"c"), (2, bytes(4))]
            )
        out[f"pcapng-{order}"] = ng.data
    ng = Pcapng(big=True).interface(tsresol=9)
    for packet in PACKETS[:2]:
        ng.epb(packet.data, units=packet.ts_ns, wire_len=packet.wire_len)
    ng.block(4, bytes(4)).block(0x0BAD, b"custom").section(big=False).interface(tsresol=9)
    for packet in PACKETS[2:]:
        ng.epb(packet.data, units=packet.ts_ns, wire_len=packet.wire_len)
    out["pcapng-both"] = ng.data
    return out


FLAVOURS = flavours()


def expected_of(name: str) -> list[Packet]:
    if "nsec" in name or "pcapng" in name:
        return PACKETS
    return [packet._replace(ts_ns=packet.ts_ns // 1000 * 1000) for packet in PACKETS]


@pytest.mark.parametrize("name", FLAVOURS)
def test_every_flavour(name: str) -> None:
    assert ours_read(FLAVOURS[name]) == (expected_of(name), None)


@pytest.mark.parametrize("name", FLAVOURS)
def test_pieces_of_every_size(name: str) -> None:
    data = FLAVOURS[name]
    for size in range(1, len(data) + 1, 7 if SLOW_BUILD else 1):
        assert ours_read(data, size=size) == (expected_of(name), None)


@pytest.mark.parametrize("name", FLAVOURS)
def test_cut_at_every_byte(name: str) -> None:
    """Every whole packet, and then a fault, unless the cut is between two records."""
    data, packets = FLAVOURS[name], expected_of(name)
    bounds = bounds_of(name, data)
    for cut in range(len(data)):
        got, fault = ours_read(data[:cut], size=64)
        assert got == packets[: len(got)]
        assert (fault is None) == (cut in bounds), (cut, fault)
        if fault is not None and cut:
            assert "cut" in fault[0]
            assert fault[1] == max((b for b in bounds if b <= cut), default=0)


def bounds_of(name: str, data: bytes) -> set[int]:
    """Where records end."""
    if "pcapng" in name:
        at, out = 0, set()
        for block in blocks(data):
            at += len(block.body) + 12
            out.add(at)
        return out
    header = 24 if "modified" in name else 16
    at, out = 24, {24}
    for packet in PACKETS:
        at += header + len(packet.data)
        out.add(at)
    return out


def test_piece_sizes_that_change() -> None:
    data = b"".join([FLAVOURS["pcapng-both"], *(FLAVOURS["pcapng-le"], FLAVOURS["pcapng-be"]) * 40])
    rng = random.Random(7)
    for _ in range(20):
        decoder, batch, out = CaptureDecoder(), PacketBatch(rows=4, arena_len=64), []
        at = 0

        def readinto(buffer: memoryview) -> int:
            nonlocal at
            n = min(len(buffer), len(data) - at, rng.randrange(1, 200))
            buffer[:n] = data[at : at + n]
            at += n
            return n

        while decoder.fill(batch, readinto):
            out += [bytes(batch.frame(i)) for i in range(len(batch))]
        assert decoder.fault is None
        assert out == [p.data for p in PACKETS] * 81
        assert decoder.sections == 2 + 80
        assert decoder.offset == len(data)


@pytest.mark.parametrize("name", ["usec-le", "pcapng-le"])
@pytest.mark.parametrize("limit", range(7))
def test_limit(name: str, limit: int) -> None:
    got, fault = ours_read(FLAVOURS[name], limit=limit)
    assert got == expected_of(name)[:limit]
    assert fault is None


def test_batch_of_few_rows_keeps_the_rest() -> None:
    data = pcap([bytes([n]) * 20 for n in range(200)])
    batch = PacketBatch(rows=1, arena_len=0)
    packets, fault = ours_read(data, batch=batch)
    assert fault is None
    assert [p.data for p in packets] == [bytes([n]) * 20 for n in range(200)]


def test_reading_does_not_grow_with_the_file() -> None:
    """Memory follows the largest record, never the file: also when somebody has put more into the batch's arena."""
    from vxlanfast._ext.io.notes import Annotate
    from vxlanfast._ext.node.decap import Decap
    from vxlanfast.frame import encap

    frame = encap(bytes(200), vni=1, src="192.0.2.1", dst="192.0.2.2")
    data = pcap([frame] * 12_000)
    decoder, batch, readinto = CaptureDecoder(), PacketBatch(), in_pieces(data)
    decap, notes, most = Decap([4789]), Annotate(), 0
    while decoder.fill(batch, readinto):
        most = max(most, len(batch.arena))
        notes.remember(batch)
        decap.process(batch)
        notes.process(batch)
    assert most <= 128 * 1024


# --- what the header says -------------------------------------------------------------------------------


def decoder_of(data: bytes) -> CaptureDecoder:
    decoder, batch, readinto = CaptureDecoder(), PacketBatch(), in_pieces(data)
    assert decoder.format is None
    while decoder.fill(batch, readinto):
        pass
    return decoder


@pytest.mark.parametrize("big", [False, True])
def test_header_fields(big: bool) -> None:
    decoder = decoder_of(pcap([b"x"], big=big, magic=MAGIC_NSEC, snaplen=96, link=0x10000071))
    assert decoder.format == "nsecpcap"
    assert decoder.big_endian is big
    assert (decoder.snaplen, decoder.link_field, decoder.modified) == (96, 0x10000071, False)
    assert decoder.interfaces() == [(0x71, 96, 9, 0)]
    assert decoder_of(pcap([], big=big, magic=MAGIC_MODIFIED)).modified
    assert decoder_of(pcap([], big=big, magic=MAGIC_MODIFIED)).format == "pcap"
    ng = Pcapng(big=big).interface(113, snaplen=5, tsresol=0x83, offset=-7).interface(1)
    decoder = decoder_of(ng.data)
    assert decoder.format == "pcapng"
    assert decoder.big_endian is big
    assert decoder.interfaces() == [(113, 5, 0x83, -7_000_000_000), (1, 0, 6, 0)]
    assert (decoder.sections, decoder.odd_version) == (1, False)


def test_section_of_another_version_is_read_and_told() -> None:
    ng = Pcapng(section=False)
    ng.section(big=False, major=2).interface().epb(b"abc")
    decoder, batch = CaptureDecoder(), PacketBatch()
    assert decoder.fill(batch, in_pieces(ng.data))
    assert bytes(batch.frame(0)) == b"abc"
    assert decoder.odd_version


def test_old_versions_are_told_by_number_and_size() -> None:
    """libpcap's sf-pcap.c: swapped before 2.3; in 2.3 the larger number is the wire's, whichever place it has."""
    cut = Packet(0, b"abc", 90)
    for version, swap in (((2, 2), True), ((2, 3), False), ((2, 3), True), ((2, 4), False), ((1, 0), False)):
        assert ours_read(pcap([cut], version=version, swap=swap)) == ([cut], None)


def test_length_that_forgets_its_padding() -> None:
    """Some writers put the unpadded length in both places; the next block is four-aligned all the same."""
    ng = Pcapng().interface()
    body = ng.pack("IIIII", 0, 0, 0, 3, 3) + b"abc"
    length = ng.pack("I", len(body) + 12)
    ng.data += ng.pack("I", 6) + length + body + b"\0" + length
    ng.epb(b"next")
    packets, fault = ours_read(ng.data)
    assert fault is None
    assert [p.data for p in packets] == [b"abc", b"next"]


def test_simple_packets() -> None:
    """No time and no captured length: the wire's, cut by the interface's snaplen or by what the block has room for."""
    ng = (
        Pcapng()
        .interface(snaplen=8)
        .spb(b"12345")
        .spb(b"12345678", wire_len=60)
        .block(3, struct.pack("<I", 60) + b"1234")
    )
    packets, fault = ours_read(ng.data)
    assert fault is None
    assert packets == [Packet(0, b"12345", 5), Packet(0, b"12345678", 60), Packet(0, b"1234", 60)]


@pytest.mark.parametrize("big", [False, True])
def test_obsolete_packet_block(big: bool) -> None:
    ng = Pcapng(big=big).interface().interface(101).pb(b"abc", units=5, interface=1, drops=3)
    assert ours_read(ng.data) == ([Packet(5000, b"abc", 3, 101, 1)], None)


def test_blocks_of_other_kinds_come_with_their_batch_in_place() -> None:
    ng = (
        Pcapng()
        .interface()
        .epb(b"a")
        .block(4, b"nrb!")
        .epb(b"b")
        .block(5, b"statistics..")
        .block(0x40000BAD, b"custom")
    )
    decoder, batch = CaptureDecoder(), PacketBatch()
    assert decoder.fill(batch, in_pieces(ng.data)) == 2 + 5
    kinds = [struct.unpack("<I", block[:4])[0] for block in batch.blocks()]
    assert kinds == [0x0A0D0D0A, 1, 4, 5, 0x40000BAD]
    assert [block[8:-4] for block in batch.blocks()[2:]] == [b"nrb!", b"statistics..", b"custom\0\0"]


# --- times ----------------------------------------------------------------------------------------------


def exact_ns(units: int, tsresol: int, offset_s: int) -> int:
    """RFC draft §4.2, if_tsresol and if_tsoffset, in whole numbers; rounded down, clamped to 64 bits."""
    unit = Fraction(1, 2 ** (tsresol & 0x7F)) if tsresol & 0x80 else Fraction(1, 10**tsresol)
    ns = min(int(units * unit * 10**9 // 1), INT64_MAX)
    offset = max(-9223372036, min(9223372036, offset_s)) * 10**9
    return max(INT64_MIN, min(INT64_MAX, ns + offset))


def time_of(units: int, tsresol: int, offset: int, big: bool) -> int:
    packets, fault = ours_read(
        Pcapng(big=big).interface(tsresol=tsresol, offset=offset).epb(b"", units=units).data
    )
    assert fault is None
    return packets[0].ts_ns


@pytest.mark.parametrize("tsresol", [*range(256)])
def test_every_resolution(tsresol: int) -> None:
    rng = random.Random(tsresol)
    units = [
        0,
        1,
        999,
        2**31,
        2**32 - 1,
        2**32,
        2**63,
        2**64 - 1,
        10**18,
        *(rng.getrandbits(64) for _ in range(4)),
    ]
    for n in units:
        offset = rng.choice((0, 0, 1, -1, 1_600_000_000))
        assert time_of(n, tsresol, offset, bool(n & 1)) == exact_ns(n, tsresol, offset)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(
    units=st.integers(0, 2**64 - 1),
    tsresol=st.one_of(st.integers(0, 18), st.integers(0x80, 0xC8), st.integers(0, 255)),
    offset=st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-2_000_000_000, 2_000_000_000)),
    big=st.booleans(),
)
def test_times_against_fractions(units: int, tsresol: int, offset: int, big: bool) -> None:
    assert time_of(units, tsresol, offset, big) == exact_ns(units, tsresol, offset)


@pytest.mark.parametrize(("magic", "tick"), [(MAGIC_USEC, 1000), (MAGIC_NSEC, 1)])
def test_pcap_times_are_unsigned(magic: int, tick: int) -> None:
    data = bytearray(pcap([b""] * 2, magic=magic))
    struct.pack_into("<II", data, 24, 2**32 - 1, 10**9 // tick - 1)
    struct.pack_into("<II", data, 40, 5, 2**32 - 1)
    packets, _ = ours_read(bytes(data))
    assert [p.ts_ns for p in packets] == [(2**32 - 1) * 10**9 + 10**9 - tick, 5 * 10**9 + (2**32 - 1) * tick]


# --- limits and faults ----------------------------------------------------------------------------------


def fault_of(data: bytes, whole: int = 0) -> tuple[str, int]:
    packets, fault = ours_read(data)
    assert len(packets) == whole
    assert fault is not None
    return fault


def test_frames_of_the_greatest_length() -> None:
    frame = bytes(262144)
    assert ours_read(pcap([frame, b"next"]))[0][0].data == frame
    assert ours_read(Pcapng().interface().epb(frame).epb(b"next").data)[0][1].data == b"next"
    assert fault_of(pcap([b"first", frame + b"\0"]), 1) == (
        "a record claims 262145 captured bytes; the limit is 262144", 24 + 16 + 5
    )  # fmt: skip
    ng = Pcapng().interface()
    at = len(ng.data)
    assert fault_of(ng.epb(frame + b"\0").data) == (
        "a packet block claims 262145 captured bytes; the limit is 262144", at
    )  # fmt: skip


def test_block_of_the_greatest_length() -> None:
    ng = Pcapng().interface()
    at = len(ng.data)
    ng.block(0x0BAD, bytes(16777216 - 12)).epb(b"behind")
    packets, fault = ours_read(ng.data)
    assert fault is None
    assert packets[0].data == b"behind"
    ng = Pcapng().interface().block(0x0BAD, bytes(16777216 - 8))
    assert fault_of(ng.data) == ("a pcapng block claims 16777220 bytes; a block has 12 to 16777216", at)


def test_a_claim_takes_no_memory() -> None:
    """A block that says 16 MB and is not there: the batch does not grow for it."""
    data = Pcapng().interface().data + struct.pack("<II", 6, 16777216) + bytes(100)
    batch, decoder = PacketBatch(), CaptureDecoder()
    readinto = in_pieces(data)
    while decoder.fill(batch, readinto):
        pass
    assert decoder.fault is not None
    assert decoder.fault[0] == "cut in the middle of a record: 108 of its 16777216 bytes are there"


def test_interfaces_of_a_section() -> None:
    ng = Pcapng()
    one = Pcapng(section=False).interface().data
    ng.data += one * 65536
    whole = len(ng.data)
    ng.epb(b"abc", interface=65535)
    packets, fault = ours_read(ng.data)
    assert fault is None
    assert packets[0].interface == 65535
    text, at = fault_of(ng.data[:whole] + one)
    assert (text, at) == ("interface number 65536 of a section; the limit is 65535", whole)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda ng: ng.epb(b"abc", interface=1), "a packet of interface 1; the section has described 1"),
        (lambda ng: ng.pb(b"abc", interface=9), "a packet of interface 9; the section has described 1"),
        (lambda ng: ng.section(big=True).spb(b"abc"), "a packet of interface 0; the section has described 0"),
        (
            lambda ng: ng.block(6, struct.pack("<IIIII", 0, 0, 0, 9, 9) + bytes(8)),
            "a packet block claims 9 captured bytes and has room for 8",
        ),
        (lambda ng: ng.block(6, bytes(16)), "a packet block of 28 bytes; the least is 32"),
        (lambda ng: ng.block(3, b""), "a packet block of 12 bytes; the least is 16"),
        (lambda ng: ng.block(1, bytes(4)), "an interface description of 16 bytes; the least is 20"),
        (
            lambda ng: ng.block(0x0A0D0D0A, struct.pack("<II", 0x1A2B3C4D, 1)),
            "a section header of 20 bytes; the least is 28",
        ),
        (
            lambda ng: ng.block(0x0A0D0D0A, bytes(16)),
            "a section header with byte-order magic 0x00000000; it is 0x1a2b3c4d",
        ),
    ],
)
def test_faults_of_pcapng(make: object, text: str) -> None:
    ng = Pcapng().interface().epb(b"first")
    at = len(ng.data)
    make(ng)  # type: ignore[operator]
    message, where = fault_of(ng.data, 1)
    assert message == text
    assert where >= at


def test_faults_of_lengths() -> None:
    ng = Pcapng().interface().epb(b"first")
    at = len(ng.data)
    for length, text in (
        (0, "a pcapng block claims 0 bytes; a block has 12 to 16777216"),
        (11, "a pcapng block claims 11 bytes; a block has 12 to 16777216"),
        (2**32 - 1, "a pcapng block claims 4294967295 bytes; a block has 12 to 16777216"),
    ):
        assert fault_of(ng.data + struct.pack("<III", 5, length, 0), 1) == (text, at)
    block = struct.pack("<IIII", 5, 16, 0, 20)
    assert fault_of(ng.data + block, 1) == ("a pcapng block says 16 bytes at its start and 20 at its end", at)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "empty: no capture file"),
        (b"\xd4\xc3", "cut inside the file header: 2 bytes"),
        (pcap([])[:23], "cut inside the file header: 23 bytes"),
        (b"GIF89a", "not a capture file: it starts with 0x47494638, no magic number of pcap or pcapng"),
        (b"\0\0\0\0", "not a capture file: it starts with 0x00000000, no magic number of pcap or pcapng"),
    ],
)
def test_faults_at_the_start(data: bytes, text: str) -> None:
    assert fault_of(data)[0] == text


def test_fill_guards_its_border() -> None:
    decoder, batch = CaptureDecoder(), PacketBatch()
    with pytest.raises(ValueError, match="readinto returned -1"):
        decoder.fill(batch, lambda view: -1)
    with pytest.raises(ValueError, match="readinto returned"):
        CaptureDecoder().fill(batch, lambda view: len(view) + 1)
    with pytest.raises(TypeError):
        decoder.fill(None, lambda view: 0)  # type: ignore[arg-type]

    def broken(view: memoryview) -> int:
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        CaptureDecoder().fill(batch, broken)
    decoder = CaptureDecoder()
    decoder.fill(batch, in_pieces(pcap([b"abc"])))
    view = batch.vni
    with pytest.raises(BufferError):
        decoder.fill(batch, in_pieces(b""))
    del view
    assert decoder.fill(batch, in_pieces(b"")) == 0
    assert decoder.fill(batch, in_pieces(b"")) == 0  # and stays at the end
