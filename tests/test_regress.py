"""What fuzzing found, a file each in fixtures/pcaps/regress_*: made here, and read again on every run.

``python -m tests.test_regress`` writes the files and their rows in the README there.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vxlanfast as vf
from tests.support import FIXTURES, MAGIC_NSEC, Packet, Pcapng, csum, in_pieces, ours_read, pcap, sha
from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.io.reader import CaptureDecoder
from vxlanfast._ext.io.writer import CaptureEncoder
from vxlanfast.spec import compile_tunnel

SRC, DST = b"\xc0\x00\x02\x01", b"\xc0\x00\x02\x02"
MACS = b"\x02\x00\x00\x00\x00\x02\x02\x00\x00\x00\x00\x01"
FRAME = MACS + b"\x88\xb5" + bytes(range(46))
TUNNEL = vf.TunnelSpec(vni=7, src="192.0.2.1", dst="192.0.2.2")
SECOND_NS = 1_000_000_000


def ipv4(payload: bytes, *, ident: int = 0, frag: int = 0, options: bytes = b"") -> bytes:
    length = 20 + len(options)
    head = struct.pack(
        ">BBHHHBBH4s4s",
        0x40 | length // 4, 0, length + len(payload), ident, frag, 64, 17, 0, SRC, DST,
    ) + options  # fmt: skip
    return head[:10] + struct.pack(">H", csum(head)) + head[12:] + payload


def vxlan(inner: bytes, vni: int = 42) -> bytes:
    return struct.pack(">HHHHII", 50000, 4789, 16 + len(inner), 0, 0x08000000, vni << 8) + inner


def outer(inner: bytes = FRAME, vni: int = 42) -> bytes:
    return MACS + b"\x08\x00" + ipv4(vxlan(inner, vni))


# --- the files -------------------------------------------------------------------------------------------


def head() -> bytes:
    return pcap([FRAME])


def tags() -> bytes:
    return pcap([MACS + b"\x81\x00\x00\x01" * 16384 + outer()[12:]])


def extensions() -> bytes:
    chain = b"".join(bytes([kind, 255]) + bytes(2046) for kind in [60] * 31 + [17])
    head = struct.pack(">IHBB16s16s", 6 << 28, 0, 60, 64, b"\x20\x01\x0d\xb8" + bytes(12), bytes(16))
    return pcap([MACS + b"\x86\xdd" + head + chain + vxlan(FRAME)])


def late() -> bytes:
    """Times of an interface in seconds: the last second of a pcap file, and others that none can say."""
    file = Pcapng().interface(1, tsresol=0)
    for seconds in (2**32 - 1, 2**32, 2**33, 2**63 - 1):
        file.epb(FRAME, units=seconds)
    return file.data


def first_piece() -> bytes:
    """Alone, the section header says nothing of the interface, and a pipe may well deliver it alone."""
    return Pcapng().interface(101, snaplen=4096, tsresol=9).epb(ipv4(b"no UDP"), units=1).data


def blocks() -> bytes:
    """Blocks before any packet, more than a small buffer holds."""
    file = Pcapng()
    for number in range(6):
        file.block(0x0BAD, bytes([number]) * 100)
    return file.interface(1).epb(FRAME).block(0x0BAD, bytes(200)).data


def idents() -> bytes:
    """Frames that become two fragments each over an MTU of 576."""
    return pcap([FRAME + bytes(600)] * 3)


def late_interface() -> bytes:
    """An interface of another link type and resolution, described behind a packet of the first."""
    file = Pcapng().interface(1, tsresol=9).epb(outer(), units=1_700_000_000 * SECOND_NS)
    return file.interface(101, tsresol=3).epb(outer()[14:], units=1_700_000_000_000, interface=1).data


def long_datagram() -> bytes:
    """Fragments whose options stand in the first one only: in all a byte more than a length field can say."""
    options = b"\x01" * 40
    payload = vxlan(bytes(65476))[:65480] + bytes(16)
    pieces = [payload[at : at + 32000] for at in range(0, len(payload), 32000)]
    return pcap(
        MACS
        + b"\x08\x00"
        + ipv4(
            piece,
            ident=1,
            frag=number * 4000 | (0x2000 if number + 1 < len(pieces) else 0),
            options=options if number == 0 else b"",
        )
        for number, piece in enumerate(pieces)
    )


def two_links() -> bytes:
    """Two fragments of one datagram, captured on interfaces of different link types."""
    datagram = vxlan(FRAME)
    first = MACS + b"\x08\x00" + ipv4(datagram[:40], ident=9, frag=0x2000)
    file = Pcapng().interface(1).interface(101)
    for piece in (first, ipv4(datagram[40:], ident=9, frag=5)):
        file.epb(piece, interface=0 if piece is first else 1)
    return file.epb(MACS + b"\x08\x00" + ipv4(datagram[40:], ident=9, frag=5)).data


def far_times() -> bytes:
    """Two fragments of one datagram, further apart in time than 63 bits of nanoseconds."""
    datagram = vxlan(FRAME)
    first = MACS + b"\x08\x00" + ipv4(datagram[:40], ident=9, frag=0x2000)
    last = MACS + b"\x08\x00" + ipv4(datagram[40:], ident=9, frag=5)
    file = Pcapng().interface(1, tsresol=0, offset=-(2**62)).interface(1, tsresol=0, offset=2**62)
    return file.epb(first).epb(last, units=2**60, interface=1).data


def notes_twice() -> bytes:
    """VXLAN in VXLAN, decapsulated twice, each time with notes."""
    data = Pcapng().interface(1, tsresol=9).epb(outer(outer(vni=2), vni=1), units=SECOND_NS).data
    return decap(decap(data, meta="comment"), meta="comment")


def note_beyond() -> bytes:
    """More in front of the inner frame than one option can hold: VXLAN in VXLAN, each behind many tags."""
    frame = FRAME
    for count in (2500, 15000):
        frame = MACS + b"\x81\x00\x00\x01" * count + outer(frame)[12:]
    return Pcapng().interface(1).epb(frame).data


FILES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "regress_head.pcap": ("a frame that fills a batch of one row", head),
    "regress_tags.pcap": ("VXLAN behind 64 KiB of VLAN tags", tags),
    "regress_extensions.pcap": ("VXLAN behind 64 KiB of IPv6 extension headers", extensions),
    "regress_late.pcapng": ("times after February 2106", late),
    "regress_first_piece.pcapng": ("an interface that comes behind the first piece of a pipe", first_piece),
    "regress_blocks.pcapng": ("blocks before the first packet", blocks),
    "regress_idents.pcap": ("frames to fragment, in pieces", idents),
    "regress_late_interface.pcapng": ("an interface described behind a packet", late_interface),
    "regress_long_datagram.pcap": ("fragments of 65,556 bytes in all, with the header", long_datagram),
    "regress_two_links.pcapng": ("fragments of one datagram on two link types", two_links),
    "regress_far_times.pcapng": ("fragments more than 292 years apart", far_times),
    "regress_notes_twice.pcapng": ("decapsulated twice with notes", notes_twice),
    "regress_note_beyond.pcapng": ("VXLAN in VXLAN, 70 KB of headers", note_beyond),
}


@pytest.mark.parametrize("name", FILES)
def test_made_here(name: str) -> None:
    assert fixture(name) == FILES[name][1]()


def fixture(name: str) -> bytes:
    return (FIXTURES / name).read_bytes()


def decap(data: bytes, **options: Any) -> bytes:
    out = io.BytesIO()
    vf.decap_file(io.BytesIO(data), out, **options)
    return out.getvalue()


def restore(data: bytes) -> bytes:
    out = io.BytesIO()
    vf.restore_file(io.BytesIO(data), out)
    return out.getvalue()


def packets(data: bytes) -> list[Packet]:
    found, fault = ours_read(data)
    assert fault is None, fault
    return found


class Pipe:
    """Gives a file in pieces of ``size`` bytes."""

    def __init__(self, data: bytes, size: int) -> None:
        self.source = io.BytesIO(data)
        self.size = size

    def read(self, size: int, /) -> bytes:
        return self.source.read(min(size, self.size))


# --- and what became of them -----------------------------------------------------------------------------


def test_header_bytes_of_the_last_row() -> None:
    """The writer copied a row's header in whole steps, past the end of a full batch's head slots (ASan)."""
    batch = PacketBatch(1, 0)
    assert CaptureDecoder().fill(batch, in_pieces(fixture("regress_head.pcap"))) == 1
    compile_tunnel(TUNNEL).process(batch)
    encoder = CaptureEncoder("pcap")
    encoder.begin((1,))
    assert encoder.encode(batch) is None
    assert packets(bytes(encoder.pending()))[0].data[50:] == FRAME


@pytest.mark.parametrize("name", ["regress_tags.pcap", "regress_extensions.pcap"])
def test_offsets_beyond_16_bits(name: str) -> None:
    """Where the outer headers are wrapped round in 16 bits: a tunnel's addresses were other bytes."""
    found = vf.survey_file(io.BytesIO(fixture(name)))
    assert found.networks == ()
    assert found.stats.drops == {"DROP_IP_HEADER": 1}


def test_times_no_pcap_can_say() -> None:
    """Seconds over 32 bits began again at 1970."""
    data = fixture("regress_late.pcapng")
    for format, last in (("pcap", 4294967295_999_999_000), ("nsecpcap", 4294967295_999_999_999)):
        times = [packet.ts_ns for packet in packets(decap(data, other="keep", format=format))]
        assert times == [4294967295 * SECOND_NS, last, last, last]


@pytest.mark.parametrize("format", [None, "pcap", "nsecpcap"])
def test_output_does_not_hang_on_the_pieces_of_a_pipe(format: str | None) -> None:
    """A file's link type, snaplen and unit of time were decided before an interface was known."""
    data = fixture("regress_first_piece.pcapng")
    outputs = set()
    for size in (1, 28, 29, 100, 1 << 20):
        out = io.BytesIO()
        vf.decap_file(Pipe(data, size), out, other="keep", format=format)
        outputs.add(out.getvalue())
    assert len(outputs) == 1


def test_blocks_are_written_once() -> None:
    """A buffer full before the first row: the encoder began again with the first block, for ever."""
    data = fixture("regress_blocks.pcapng")
    decoder, batch = CaptureDecoder(), PacketBatch()
    readinto = in_pieces(data)
    encoder = CaptureEncoder("pcapng", carry=True, buffer_len=256)
    out = b""
    while decoder.fill(batch, readinto):
        start: int | None = 0
        while start is not None:
            start = encoder.encode(batch, start)
            out += encoder.pending()
            encoder.clear()
            assert len(out) <= len(data)
    assert out == data


def test_identifications_count_packets_not_fragments() -> None:
    """In one batch or several, by one thread or two: the same identifications."""
    data = fixture("regress_idents.pcap")
    tunnel = vf.TunnelSpec(vni=7, src="192.0.2.1", dst="192.0.2.2", mtu=576, mtu_policy="fragment")
    outputs = set()
    for size, threads in ((700, 1), (1 << 20, 1), (1 << 20, 2)):
        out = io.BytesIO()
        vf.encap_file(Pipe(data, size), out, tunnel, threads=threads)
        outputs.add(out.getvalue())
    assert len(outputs) == 1
    idents = [packet.data[19] for packet in packets(outputs.pop())]
    assert idents == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("meta", ["comment", "interface"])
def test_interface_described_behind_a_packet(meta: str) -> None:
    """A tunnel's interface named the wrong parent, and restoring lost the packet."""
    data = fixture("regress_late_interface.pcapng")
    assert packets(restore(decap(data, meta=meta))) == packets(data)


def test_datagram_longer_than_its_length_field() -> None:
    """Each fragment ends in time, and the first one's options make the whole too long."""
    stats = vf.decap_file(io.BytesIO(fixture("regress_long_datagram.pcap")), io.BytesIO(), reassemble=True)
    assert stats.drops == {"DROP_FRAGMENT_HELD": 2, "DROP_FRAGMENT_BAD": 1}
    assert stats.details["reassembly_waiting"] == 0


def test_fragments_of_two_link_types() -> None:
    """The whole had the first fragment's headers and the last one's link type: no frame of either."""
    out = decap(fixture("regress_two_links.pcapng"), reassemble=True)
    assert [(packet.link, packet.data) for packet in packets(out)] == [(1, FRAME)]


def test_fragments_an_age_apart() -> None:
    """Their distance overflowed, and they came together (UBSan)."""
    stats = vf.decap_file(io.BytesIO(fixture("regress_far_times.pcapng")), io.BytesIO(), reassemble=True)
    assert stats.drops == {"DROP_FRAGMENT_HELD": 2}
    assert stats.details["reassembly_expired"] == 1


def test_restoring_what_was_decapsulated_twice() -> None:
    """The older note was put round the inner frame, and both were thrown away."""
    inner, middle, whole = FRAME, outer(vni=2), outer(outer(vni=2), vni=1)
    data = fixture("regress_notes_twice.pcapng")
    assert [packet.data for packet in packets(data)] == [inner]
    assert [packet.data for packet in packets(restore(data))] == [middle]
    assert [packet.data for packet in packets(restore(restore(data)))] == [whole]
    assert b"VXF1" not in restore(restore(data))


@pytest.mark.parametrize("meta", ["comment", "interface"])
def test_a_note_that_no_option_holds(meta: str) -> None:
    """Its length wrapped round, and the frame's bytes were taken for options."""
    noted = decap(fixture("regress_note_beyond.pcapng"), meta=meta, levels=None)
    assert [packet.data for packet in packets(noted)] == [FRAME]
    assert [packet.data for packet in packets(restore(noted))] == [FRAME]


def test_restoring_never_makes_what_no_reader_takes() -> None:
    """A forged note puts a frame over 262,144 bytes, the limit of libpcap, wireshark and ours."""
    note = struct.pack("<I4sIHHI", 32473, b"VXF1", 300_000, 1, 60, 0) + bytes(60)
    data = Pcapng().interface(1).epb(bytes(262_120), options=[(2989, note)]).data
    assert [len(packet.data) for packet in packets(restore(data))] == [262_120]


def test_pcap_fractions_over_a_second() -> None:
    """A record may say more microseconds than a second has: kept as they are, or carried into the seconds."""
    data = pcap([Packet(0, FRAME, len(FRAME))])
    data = data[:24] + struct.pack("<II", 0xFFFFFFFF, 2_000_000) + data[32:]
    assert packets(decap(data, other="keep"))[0].ts_ns == 4294967297 * SECOND_NS
    nanoseconds = decap(data, other="keep", format="nsecpcap")
    assert nanoseconds[:4] == struct.pack("<I", MAGIC_NSEC)
    assert packets(nanoseconds)[0].ts_ns == 4294967295_999_999_999


def main() -> None:
    """Write the files, and their rows in the README; rows of other files stay."""
    readme: Path = FIXTURES / "README.md"
    lines = [line for line in readme.read_text().splitlines() if not line.startswith("| `regress_")]
    for name, (what, make) in FILES.items():
        data = make()
        (FIXTURES / name).write_bytes(data)
        count = len(ours_read(data)[0])
        how = f"tests/test_regress.py: `{make.__name__}`: {what}"
        lines.append(f"| `{name}` | {how} | {count} | `{sha(data)}` |")
    readme.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
