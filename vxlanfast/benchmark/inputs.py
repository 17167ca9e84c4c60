"""Captures to measure with: the same frames plain and in VXLAN, from a fixed seed, in constant memory.

A block of records is made once and written again and again, a second later each time. Its flows differ in
addresses, ports and protocol, and their tunnels in VNI and source port, so that no branch and no cache line
sees one packet only.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

#: Bytes of a classic pcap: in front of the file, and of each record.
FILE_HEADER_LEN = 24
RECORD_HEADER_LEN = 16
#: Bytes VXLAN over IPv4 puts in front of a frame: Ethernet 14, IPv4 20, UDP 8, VXLAN 8.
OUTER_LEN = 50

FLOWS = 384
VNIS = tuple(range(4096, 4104))
VTEPS = ("192.0.2.1", "192.0.2.2")
#: Records of a block, about; it is a multiple of the sizes' period.
BLOCK_RECORDS = 3072
#: Seconds since 1970 of the first block; room for 2^24 of them before the upper byte changes.
START_S = 0x65000000


def file_header() -> bytes:
    """Of a classic pcap of Ethernet frames, little-endian, in microseconds."""
    return struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Frames of these lengths (bytes, no FCS), over and over."""

    name: str
    lengths: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Bytes of a frame, on average."""
        return sum(self.lengths) / len(self.lengths)

    @property
    def label(self) -> str:
        """As shown to people: ``64 B``, ``IMIX``."""
        return f"{self.name} B" if self.name.isdigit() else self.name.upper()

    def file_len(self, packets: int, *, vxlan: bool) -> int:
        """Bytes of a capture of ``packets``."""
        extra = RECORD_HEADER_LEN + (OUTER_LEN if vxlan else 0)
        whole, rest = divmod(packets, len(self.lengths))
        return FILE_HEADER_LEN + packets * extra + whole * sum(self.lengths) + sum(self.lengths[:rest])

    def packets_within(self, size: int) -> int:
        """Packets whose VXLAN capture has at most ``size`` bytes."""
        return max(0, int((size - FILE_HEADER_LEN) / (RECORD_HEADER_LEN + OUTER_LEN + self.mean)))


#: IMIX: seven small frames to four middling and one large, 345.5 bytes on average.
TRAFFIC = {
    "64": Traffic("64", (64,)),
    "imix": Traffic("imix", (64, 64, 570, 64, 64, 570, 64, 64, 570, 64, 570, 1418)),
    "1400": Traffic("1400", (1400,)),
}


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _ipv4(payload_len: int, ident: int, proto: int, src: bytes, dst: bytes) -> bytes:
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + payload_len, ident, 0, 64, proto, 0, src, dst)
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:]


def _address(text: str) -> bytes:
    return bytes(map(int, text.split(".")))


@dataclass(frozen=True, slots=True)
class Flow:
    """One inner 5-tuple and the tunnel it goes through."""

    src: bytes
    dst: bytes
    sport: int
    dport: int
    proto: int
    vni: int
    outer_sport: int

    def frame(self, length: int, ident: int, payload: bytes) -> bytes:
        """An Ethernet frame of ``length`` bytes with right checksums."""
        room = length - 34
        if self.proto == 6:
            fixed = struct.pack(">HHIIBBHHH", self.sport, self.dport, ident, ident, 0x50, 0x10, 65535, 0, 0)
            at = 16
        else:
            fixed = struct.pack(">HHHH", self.sport, self.dport, room, 0)
            at = 6
        upper = bytearray(fixed + payload[: room - len(fixed)])
        pseudo = self.src + self.dst + struct.pack(">HH", self.proto, room)
        struct.pack_into(">H", upper, at, checksum(pseudo + upper + bytes(room & 1)) or 0xFFFF)
        macs = b"\x02\x00" + self.dst + b"\x02\x00" + self.src
        return macs + b"\x08\x00" + _ipv4(room, ident & 0xFFFF, self.proto, self.src, self.dst) + bytes(upper)

    def outer(self, frame_len: int, ident: int) -> bytes:
        """The VXLAN headers (RFC 7348 §5) in front of a frame."""
        src, dst = map(_address, VTEPS)
        macs = b"\x02\x42" + dst + b"\x02\x42" + src
        udp = struct.pack(">HHHH", self.outer_sport, 4789, 16 + frame_len, 0)
        vxlan = struct.pack(">II", 0x08000000, self.vni << 8)
        return macs + b"\x08\x00" + _ipv4(16 + frame_len, ident & 0xFFFF, 17, src, dst) + udp + vxlan


def make_flows(seed: int = 1, count: int = FLOWS) -> list[Flow]:
    """Distinct flows, half TCP and half UDP, spread over the VNIs."""
    rng = random.Random(seed)
    return [
        Flow(
            src=_address("198.51.100.0")[:3] + bytes([rng.randrange(1, 255)]),
            dst=_address("203.0.113.0")[:3] + bytes([rng.randrange(1, 255)]),
            sport=1024 + i,  # what makes them distinct
            dport=rng.choice((5001, 8080, 9000, 50000)),
            proto=(6, 17)[i & 1],
            vni=VNIS[i % len(VNIS)],
            outer_sport=rng.randrange(49152, 65536),
        )
        for i in range(count)
    ]


def make_frames(traffic: Traffic, count: int, *, seed: int = 1) -> list[tuple[bytes, bytes]]:
    """``count`` pairs of (outer headers, inner frame), the flows in a shuffled order."""
    rng = random.Random(seed)
    flows = make_flows(seed)
    payload = rng.randbytes(65536)
    order = [rng.choice(flows) for _ in range(count)]
    pairs = []
    for i, flow in enumerate(order):
        length = traffic.lengths[i % len(traffic.lengths)]
        at = rng.randrange(len(payload) - length)
        pairs.append((flow.outer(length, i), flow.frame(length, i, payload[at : at + length])))
    return pairs


class Block:
    """Records of one period's multiple, as the bytes of a capture, whose second can be moved on."""

    def __init__(self, traffic: Traffic, packets: list[bytes]) -> None:
        self.packets = len(packets)
        self.periods = len(packets) // len(traffic.lengths)
        step_us = 1_000_000 // len(packets)
        parts = []
        for i, packet in enumerate(packets):
            parts += [struct.pack("<IIII", START_S, i * step_us, len(packet), len(packet)), packet]
        self.bytes = bytearray(b"".join(parts))
        #: Where each record starts, and the end.
        self.starts = [0]
        for packet in packets:
            self.starts.append(self.starts[-1] + RECORD_HEADER_LEN + len(packet))
        self.period_len = self.starts[len(traffic.lengths)]
        self.period_starts = self.starts[: len(traffic.lengths)]

    def set_second(self, second: int) -> None:
        """Put ``second`` into every record: a strided copy per byte and place in the period, no loop over
        records.
        """
        for number, value in enumerate(struct.pack("<I", second)[:3]):  # the upper byte never changes
            column = bytes([value]) * self.periods
            for start in self.period_starts:
                self.bytes[start + number :: self.period_len] = column


def pieces(block: Block, packets: int) -> Iterator[memoryview]:
    """The bytes of ``packets`` records, block after block."""
    second = START_S
    while packets > 0:
        block.set_second(second)
        yield memoryview(block.bytes)[: block.starts[min(packets, block.packets)]]
        packets -= block.packets
        second += 1


def blocks(traffic: Traffic, *, seed: int = 1) -> tuple[Block, Block]:
    """The block of plain records, and its twin in VXLAN."""
    count = BLOCK_RECORDS // len(traffic.lengths) * len(traffic.lengths)
    pairs = make_frames(traffic, count, seed=seed)
    return Block(traffic, [inner for _, inner in pairs]), Block(
        traffic, [outer + inner for outer, inner in pairs]
    )


def write_twins(plain: Path, vxlan: Path, traffic: Traffic, packets: int, *, seed: int = 1) -> None:
    """Two captures: ``packets`` frames as they are, and the same ones in VXLAN, at the same times."""
    with ExitStack() as stack:
        for path, block in zip((plain, vxlan), blocks(traffic, seed=seed), strict=True):
            file: BinaryIO = stack.enter_context(path.open("wb"))
            file.write(file_header())
            for piece in pieces(block, packets):
                file.write(piece)
