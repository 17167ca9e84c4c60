"""Writes first inputs for the targets, made of capture files: seeds.py OUT DIRECTORY...

Plain Python that takes what it can get out of a file: the core is built for the fuzzer and cannot be
imported here.
"""

import random
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

FRAME_LINKS = (1, 1, 1, 1, 1, 0, 101, 12, 14, 108, 113, 228, 229, 276, 147, 105)  # fuzz_frame.pyx: LINKS
FRAME_INPUT_LEN = 4000
FILE_INPUT_LEN = 70000
SETTINGS_LEN = 8

Frame = tuple[int, int, bytes]  # link type, wire length, bytes


def pcap_frames(data: bytes) -> Iterator[Frame]:
    order = "<" if data[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1", b"\x34\xcd\xb2\xa1") else ">"
    header = 24 if data[:4] in (b"\x34\xcd\xb2\xa1", b"\xa1\xb2\xcd\x34") else 16
    link = struct.unpack_from(order + "I", data, 20)[0] & 0xFFFF
    at = 24
    while at + header <= len(data):
        length, wire = struct.unpack_from(order + "II", data, at + 8)
        at += header + length
        if at > len(data):
            break
        yield link, wire, data[at - length : at]


def pcapng_frames(data: bytes) -> Iterator[Frame]:
    at, order, links = 0, "<", []
    while at + 28 <= len(data):
        if data[at : at + 4] == b"\n\r\r\n":
            order = "<" if data[at + 8 : at + 12] == b"\x4d\x3c\x2b\x1a" else ">"
            links = []
        kind, length = struct.unpack_from(order + "II", data, at)
        if length < 12 or at + length > len(data):
            break
        if kind == 1:
            links.append(struct.unpack_from(order + "H", data, at + 8)[0])
        elif kind == 6 and length >= 32:
            number, _, _, captured, wire = struct.unpack_from(order + "5I", data, at + 8)
            if number < len(links) and captured <= length - 32:
                yield links[number], wire, data[at + 28 : at + 28 + captured]
        at += (length + 3) & ~3


def frames_of(data: bytes) -> list[Frame]:
    try:
        return list(pcapng_frames(data) if data[:4] == b"\n\r\r\n" else pcap_frames(data))
    except struct.error:
        return []


def settings(content: bytes) -> bytes:
    """Some, and the same ones for the same content: so all of them occur."""
    return struct.pack("<II", zlib.crc32(content), zlib.crc32(content, 1))


def frame_input(frames: list[Frame]) -> bytes:
    body = b""
    for link, wire, content in frames:
        if link in FRAME_LINKS and len(content) < FRAME_INPUT_LEN:
            kind = FRAME_LINKS.index(link) | (0x80 if wire > len(content) else 0)
            piece = struct.pack("<HBBB", len(content), kind, 0, 1) + content
            if len(body) + len(piece) + SETTINGS_LEN > FRAME_INPUT_LEN:
                break
            body += piece
    return settings(body) + body


def sequences(count: int, length: int) -> Iterator[bytes]:
    """Steps for fuzz_plane.py and fuzz_mesh.py: half of the bytes are small, for frames."""
    for seed in range(count):
        rng = random.Random(seed)
        yield bytes(rng.choice((rng.randrange(256), rng.randrange(150))) for _ in range(length))


def write(folder: Path, content: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{zlib.crc32(content):08x}-{len(content)}").write_bytes(content)


def main(out: Path, directories: list[Path]) -> None:
    for sequence in sequences(40, 600):
        write(out / "fuzz_plane", sequence)
        write(out / "fuzz_mesh", sequence)
    for path in sorted(path for directory in directories for path in directory.rglob("*") if path.is_file()):
        data = path.read_bytes()
        if data[:4] == b"\n\r\r\n":
            target = "fuzz_pcapng"
        elif data[:2] in (b"\xa1\xb2", b"\xd4\xc3", b"\x4d\x3c", b"\x34\xcd"):
            target = "fuzz_pcap"
        else:
            continue
        write(out / target, settings(data) + data[: FILE_INPUT_LEN - SETTINGS_LEN])
        frames = frames_of(data)
        for number in range(0, min(len(frames), 64), 8):
            write(out / "fuzz_frame", frame_input(frames[number : number + 8]))
        for frame in frames[:3]:
            write(out / "fuzz_frame", frame_input([frame]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
