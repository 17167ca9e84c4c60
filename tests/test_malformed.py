"""Files that lie, are cut, or were never captures: a result or one CaptureError, soon, in bounded memory, and
every whole packet before the fault is in the result.

Memory is measured in processes of their own, against the same process before it opened the file. This file,
run as a program, is such a process: ``python -m tests.test_malformed ACT FILE...``.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import random
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import vxlanfast as vf
from tests.support import (
    CAPTURES,
    FIXTURES,
    MAGIC_MODIFIED,
    MAGIC_NSEC,
    PYTHON,
    ROOT,
    SLOW_BUILD,
    VERBS_ENV,
    Pcapng,
    assert_adds_up,
    many_inputs,
    ours_read,
    pcap,
)

MEMORY_MAX_MB = 64
#: What an act on a file may take: a second, and a second per MB. Builds that check everything get more.
PATIENCE = 20 if SLOW_BUILD else 1
FOLDERS = ("malformed", "vxlan", "pcapng", "pcap-variants", "other-tunnels")
V4 = vf.TunnelSpec(vni=7, src="192.0.2.1", dst="192.0.2.2")
V6 = vf.TunnelSpec(
    vni=7, src="2001:db8::1", dst="2001:db8::2", mtu=1280, mtu_policy="fragment", dscp="inherit"
)


def decap(**options: Any) -> Callable[..., Any]:
    return lambda source, target: vf.decap_file(source, target, **options)


ACTS: dict[str, Callable[..., Any]] = {
    "plain": decap(),
    "everything": decap(levels=None, other="keep", reassemble=True, ports=range(1, 65536)),
    "strict": decap(strict=True, other="fail", levels=2),
    "comment": decap(meta="comment", other="keep", levels=None, format="pcapng"),
    "interface": decap(meta="interface", format="pcapng", reassemble=True, ports=(4789, 8472, 53, 6081)),
    "pcap": decap(other="keep", format="pcap"),
    "nanoseconds": decap(other="keep", format="nsecpcap", vni=[(0, 5000)]),
    "threads": decap(other="keep", threads=2),
    "encap": lambda source, target: vf.encap_file(source, target, V4),
    "fragment": lambda source, target: vf.encap_file(source, target, V6, format="pcapng"),
    "restore": vf.restore_file,
}


def run(act: str, data: bytes) -> tuple[Any, bytes]:
    """An act on a file, to its end: stats and output. Everything that must always hold is asserted."""
    out = io.BytesIO()
    began = time.process_time()  # of ours alone: others may keep it waiting
    try:
        stats = ACTS[act](io.BytesIO(data), out)
    except vf.CaptureError as error:
        stats = error.stats
        assert "\n" not in str(error)
    assert time.process_time() - began < PATIENCE * (1 + len(data) / 1e6)
    written = out.getvalue()
    if stats is None:
        assert not written
        return stats, written
    assert_adds_up(stats)
    packets, fault = ours_read(written)
    assert len(packets) == stats.written
    # A pcapng file is carried block by block: of one whose first block is broken, nothing is left.
    assert fault is None or not written
    if written and act in ("comment", "interface"):
        back = io.BytesIO()
        restored = vf.restore_file(io.BytesIO(written), back)
        assert_adds_up(restored)
        assert len(ours_read(back.getvalue())[0]) == restored.written
    return stats, written


def survey(data: bytes) -> Any:
    """What ``info`` would say; None for what is no capture."""
    try:
        found = vf.survey_file(io.BytesIO(data), reassemble=True)
    except vf.CaptureError:
        return None
    assert_adds_up(found.stats)
    assert sum(network.packets for network in found.networks) == found.stats.passed
    return found


def captures_of(folder: str) -> list[Path]:
    """Their capture files; the test is skipped without them."""
    if CAPTURES is None:
        pytest.skip("the captures of others are not here (VXLANFAST_CAPTURES names their folder)")
    return [
        path
        for path in sorted((CAPTURES / folder).iterdir())
        if path.suffix not in (".tsv", ".sha256", ".md", ".txt")
    ]


# --- whole files of others, and of our own ---------------------------------------------------------------


@pytest.mark.parametrize("act", [*ACTS, "survey"])
@pytest.mark.parametrize("folder", FOLDERS)
def test_captures_of_others(folder: str, act: str) -> None:
    for path in captures_of(folder):
        data = path.read_bytes()
        try:
            packets, fault = ours_read(data)
            if act == "survey":
                found = survey(data)
                stats = found and found.stats
            else:
                stats, _ = run(act, data)
        except Exception as error:
            error.add_note(str(path))
            raise
        if stats is not None:
            assert stats.packets == len(packets), path
            assert (stats.fault is None) == (fault is None), path


@pytest.mark.parametrize("act", ACTS)
def test_captures_of_our_own(act: str) -> None:
    for path in sorted(FIXTURES.glob("*.pcap*")):
        stats, _ = run(act, path.read_bytes())
        assert stats is not None, path


@many_inputs
def test_memory_over_all_malformed_files() -> None:
    used = measured("all", *map(str, captures_of("malformed")))
    assert used["files"] > 100


@pytest.mark.parametrize("act", [*ACTS, "survey"])
def test_nothing_is_left_to_the_collector(act: str) -> None:
    """What a run took, its tables of megabytes too, goes when it ends, with a fault or without."""
    whole = pcap([FRAME, vxlan(1)])
    for data in (whole, whole[:-1]):
        gc.collect()
        gc.disable()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            with contextlib.suppress(vf.CaptureError):
                survey(data) if act == "survey" else ACTS[act](io.BytesIO(data), io.BytesIO())
            gc.collect()
            ours = [kept for kept in gc.garbage if type(kept).__module__.startswith("vxlanfast")]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
        assert not ours


# --- bytes changed at random -----------------------------------------------------------------------------


def mutations(data: bytes, seed: int) -> Iterator[bytes]:
    """Five of the packets' bytes, as ``editcap -E 0.02`` makes them, and five of the file's."""
    rng = random.Random(seed)
    packets, _ = ours_read(data)
    link = packets[0].link if packets else 1
    for _ in range(5):
        changed = []
        for packet in packets:
            frame = bytearray(packet.data)
            for at in rng.sample(range(len(frame)), round(len(frame) * 0.02)):
                frame[at] = rng.randrange(256)
            changed.append(packet._replace(data=bytes(frame), ts_ns=max(packet.ts_ns, 0) % (1 << 62)))
        yield pcap(changed, link=link, magic=MAGIC_NSEC)
    for share in (0.02, 0.02, 0.002, 0.0005, 0.0005):
        whole = bytearray(data)
        for at in rng.sample(range(24, len(whole)), max(1, round(len(whole) * share))):
            whole[at] = rng.randrange(256)
        yield bytes(whole)


@pytest.mark.slow
@many_inputs
@pytest.mark.parametrize("act", ["plain", "everything", "strict", "interface", "fragment"])
def test_mutations(act: str) -> None:
    for path in captures_of("vxlan"):
        for number, data in enumerate(mutations(path.read_bytes(), seed=20261121)):
            try:
                run(act, data)
                if act == "plain":
                    survey(data)
            except Exception as error:
                error.add_note(f"{path}, mutation {number}")
                raise


# --- cut anywhere ----------------------------------------------------------------------------------------

FRAMES = [bytes(range(n % 250, n % 250 + 6)) * 2 + b"\x88\xb5" + bytes(n) for n in (46, 0, 3, 61)]


def small_files() -> dict[str, tuple[bytes, list[int], list[int]]]:
    """Small captures: their bytes, where each packet ends, and where a file may end and be whole."""
    out = {}
    for name, options in {
        "pcap": {},
        "big-endian": {"big": True},
        "modified": {"magic": MAGIC_MODIFIED, "big": True},
    }.items():
        ends = [len(pcap(FRAMES[:n], **options)) for n in range(len(FRAMES) + 1)]
        out[name] = (pcap(FRAMES, **options), ends[1:], ends)
    for big in (False, True):
        out[f"pcapng-{'big' if big else 'little'}"] = small_pcapng(big)
    return out


def small_pcapng(big: bool) -> tuple[bytes, list[int], list[int]]:
    """Two sections of either byte order, with blocks of every kind."""
    file = Pcapng(big=big)
    packets, wholes = [], [len(file.data)]
    for number, frame in enumerate(FRAMES):
        if number == 2:
            file.section(big=not big)
            wholes.append(len(file.data))
        for kind in ("interface", "other", "packet", "simple packet"):
            if kind == "interface":
                file.interface(1, tsresol=9, options=[(2, b"lo")])
            elif kind == "other":
                file.block(0x0BAD, bytes(number))
            elif kind == "packet":
                file.epb(frame, units=1_700_000_000_000_000_000, options=[(1, b"comment")])
            else:
                file.spb(frame)
            wholes.append(len(file.data))
        packets += wholes[-2:]
    return file.data, packets, wholes


@pytest.mark.parametrize("name", small_files())
def test_cut_at_every_byte(name: str) -> None:
    data, packet_ends, whole_ends = small_files()[name]
    for cut in range(len(data) + 1):
        whole = sum(end <= cut for end in packet_ends)
        capture = vf.open_capture(io.BytesIO(data[:cut]))
        delivered = 0
        if cut in whole_ends:
            delivered = sum(len(batch) for batch in capture.batches())
        else:
            with pytest.raises(vf.CaptureError) as error:
                for batch in capture.batches():
                    delivered += len(batch)
            assert error.value.offset is not None and error.value.offset <= cut
        assert delivered == whole, cut
        out = io.BytesIO()
        for act in ("pcap", "encap"):
            out = io.BytesIO()
            try:
                stats = ACTS[act](io.BytesIO(data[:cut]), out)
                assert cut in whole_ends, cut
            except vf.CaptureError as caught:
                assert cut not in whole_ends, cut
                stats = caught.stats
            assert (stats.written if stats is not None else 0) == whole, cut
            assert not out.getvalue() or len(ours_read(out.getvalue())[0]) == whole


# --- bombs -----------------------------------------------------------------------------------------------

FRAME = bytes(12) + b"\x08\x00" + bytes(46)


def vxlan(vni: int, src: int = 1, inner: bytes = FRAME) -> bytes:
    """A frame of VXLAN over IPv4 without any checksum."""
    udp = (
        struct.pack(">HHHH", 50000, 4789, 16 + len(inner), 0)
        + struct.pack(">II", 0x08000000, vni << 8)
        + inner
    )
    head = struct.pack(
        ">BBHHHBBHII",
        0x45,
        0,
        20 + len(udp),
        0,
        0,
        64,
        17,
        0,
        0xC0000200 + src % 256,
        0xC6336400 + (src >> 8),
    )
    return bytes(12) + b"\x08\x00" + head + udp


def fragment(ident: int, at: int, payload: bytes, more: bool) -> bytes:
    frag = at // 8 | (0x2000 if more else 0)
    head = struct.pack(
        ">BBHHHBBHII", 0x45, 0, 20 + len(payload), ident & 0xFFFF, frag, 64, 17, 0, ident >> 16, 0xC0000202
    )
    return bytes(12) + b"\x08\x00" + head + payload


def record(caplen: int, wire: int, data: bytes = b"") -> bytes:
    return pcap([]) + struct.pack("<IIII", 0, 0, caplen, wire) + data


def claims(kind: int, length: int) -> bytes:
    """A pcapng file with a packet, then a block that claims ``length`` bytes, then 64 KiB."""
    return (
        Pcapng().interface().epb(FRAME).data
        + struct.pack("<II", kind, length)
        + bytes(4)
        + struct.pack("<5I", 0, 0, 0, 60, 60)
        + bytes(65536)
    )


def epb_claims(caplen: int) -> bytes:
    block = Pcapng().interface().epb(FRAME).data
    return block + block[-96:-76] + struct.pack("<II", caplen, 60) + block[-68:]


def section_says(length: int) -> bytes:
    ng = Pcapng(section=False)
    for _ in range(3):
        ng.section(big=False, length=length).interface().epb(FRAME)
    return ng.data


def ng() -> Pcapng:
    return Pcapng(section=False)


def block(kind: int, body: bytes) -> bytes:
    return ng().block(kind, body).data


START = Pcapng().data
INTERFACE = ng().interface().data
PACKET = ng().epb(FRAME).data
EMPTY = ng().epb(b"").data
TINY = block(0xBAD, b"")
HALVES = (vxlan(1)[34:74], vxlan(1)[74:])
BLOCK_LEN_MAX = 16777216  # what the reader takes
LARGEST = block(0xBAD, bytes(BLOCK_LEN_MAX - 12))
LARGEST_INTERFACE = block(1, struct.pack("<HHI", 1, 0, 0) + b"\1\0\xff\xff" + bytes(BLOCK_LEN_MAX - 24))


def forged_note(front: int, back: int) -> bytes:
    note = struct.pack("<I4sIHHI", 32473, b"VXF1", 2**32 - 1, 1, front, back) + bytes(100)
    return Pcapng().interface().epb(FRAME, options=[(2989, note)]).epb(FRAME).data


def over_64k_tags() -> bytes:
    return pcap([FRAME[:12] + b"\x81\x00\x00\x01" * 16380 + vxlan(1)[12:]])


def over_64k_extensions() -> bytes:
    """IPv6 with 32 extension headers of 2 KiB."""
    kinds = [60] * 32 + [17]
    chain = b"".join(bytes([kind, 255]) + bytes(2046) for kind in kinds[1:])
    return pcap(
        [bytes(12) + b"\x86\xdd" + b"\x60\0\0\0\0\0" + b"\x3c\x40" + bytes(32) + chain + vxlan(1)[34:]]
    )


class Bomb(NamedTuple):
    """``make(n)``: the file; ``packets``: in it, before its fault if it has one; None for ``n``."""

    make: Callable[[int], bytes]
    packets: int | None
    faulty: bool
    many: int = 1  # as the attacker would have it …
    few: int = 1  # … and enough to look at closely


CLAIMS: dict[str, Bomb] = {
    **{
        f"block {kind:#x} claims {length:#x}": Bomb(
            lambda n, kind=kind, length=length: claims(kind, length), 1, True
        )
        for kind in (1, 2, 3, 6, 0xBAD, 0x0A0D0D0A)
        for length in (0, 4, 8, 16777217, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
    },
    **{
        f"record claims {caplen:#x}": Bomb(
            lambda n, caplen=caplen: record(60, 60, FRAME) + record(caplen, 60)[24:] + bytes(65536), 1, True
        )
        for caplen in (262145, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
    },
    **{
        f"packet block claims {caplen:#x}": Bomb(lambda n, caplen=caplen: epb_claims(caplen), 1, True)
        for caplen in (61, 262145, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
    },
    **{
        f"section says {length}": Bomb(lambda n, length=length: section_says(length), 3, False)
        for length in (0, 1, 4, -2, 2**63 - 1, -(2**63))
    },
    **{
        f"wire length {wire:#x}": Bomb(lambda n, wire=wire: record(len(vxlan(1)), wire, vxlan(1)), 1, False)
        for wire in (0, 1, 13, 0xFFFFFFFF)
    },
    "notes that lie": Bomb(lambda n: forged_note(0xFFFF, 0xFFFFFFFF), 2, False),
    "a note of 2^31 bytes": Bomb(lambda n: forged_note(0, 0x80000000), 2, False),
    "tags over 64 KiB": Bomb(lambda n: over_64k_tags(), 1, False),
    "extension headers over 64 KiB": Bomb(lambda n: over_64k_extensions(), 1, False),
}  # fmt: skip

MASSES: dict[str, Bomb] = {
    "interfaces": Bomb(lambda n: START + INTERFACE * n, 0, True, 1_000_000, 70_000),
    "tiny blocks": Bomb(lambda n: START + INTERFACE + TINY * n + PACKET, 1, False, 1_000_000, 50_000),
    "tiny blocks first": Bomb(lambda n: START + TINY * n + INTERFACE + PACKET, 1, False, 1_000_000, 50_000),
    "empty records": Bomb(lambda n: pcap([]) + bytes(16 * n), None, False, 1_000_000, 10_000),
    "empty packet blocks": Bomb(lambda n: START + INTERFACE + EMPTY * n, None, False, 1_000_000, 10_000),
    "sections": Bomb(lambda n: (START + INTERFACE + EMPTY) * n, None, False, 20_000, 1000),
    "sections of nothing": Bomb(lambda n: START * n, 0, False, 20_000, 1000),
    "an interface for each packet": Bomb(
        lambda n: START + b"".join(INTERFACE + ng().epb(vxlan(i, i), interface=i).data for i in range(n)),
        None, False, 5000, 500,
    ),
    "largest blocks": Bomb(lambda n: START + INTERFACE + (LARGEST + PACKET) * n, None, False, 3, 1),
    "largest interfaces": Bomb(lambda n: START + LARGEST_INTERFACE * n + PACKET, 1, False, 3, 1),
    "comments without end": Bomb(
        lambda n: START + INTERFACE + block(6, bytes(20) + b"\1\0\0\0" * n), 1, False, 4_000_000, 1000
    ),
    "first fragments": Bomb(
        lambda n: pcap([fragment(i, 0, bytes(64), True) for i in range(n)]), None, False, 100_000, 10_000
    ),
    "fragments that never end": Bomb(
        lambda n: pcap([fragment(i, i % 2 * 32768, bytes(32760), True) for i in range(n)]),
        None, False, 500, 50,
    ),
    "fragments that become whole": Bomb(
        lambda n: pcap([fragment(i // 2, i % 2 * 40, HALVES[i % 2], not i % 2) for i in range(n)]),
        None, False, 40_000, 2000,
    ),
    "tunnels": Bomb(lambda n: pcap([vxlan(i, i) for i in range(n)]), None, False, 50_000, 3000),
}  # fmt: skip


def measured(act: str, *paths: str) -> dict[str, Any]:
    """Have a process do ``act`` to files, and hold it to its memory: what it printed."""
    process = subprocess.run(
        [PYTHON, "-m", "tests.test_malformed", act, *paths],
        cwd=ROOT,
        env=VERBS_ENV,
        capture_output=True,
        text=True,
        timeout=120 * PATIENCE,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    out: dict[str, Any] = json.loads(process.stdout)
    if not SLOW_BUILD:
        assert out["grown_mb"] <= MEMORY_MAX_MB, out
    return out


def surveyed(path: str) -> Any:
    return vf.survey_file(path, reassemble=True).stats


def peak_kb() -> int:
    """The most memory this process had so far. (``ru_maxrss`` begins with its parent's.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def work(act: str, paths: list[str]) -> dict[str, Any]:
    """In a process of its own: the acts of ``act`` on each file, into nowhere; how much memory that took."""

    class Nowhere(io.RawIOBase):
        """Takes what is written and keeps none of it."""

        def writable(self) -> bool:
            return True

        def write(self, buffer: Any) -> int:
            return memoryview(buffer).nbytes

    survey(pcap([FRAME, vxlan(1)]))
    run("plain", pcap([FRAME]))
    before = peak_kb()
    packets: set[int | None] = set()
    for path in paths:
        for name in [*ACTS, "survey"] if act == "all" else act.split(","):
            stats = None
            try:
                stats = surveyed(path) if name == "survey" else ACTS[name](path, Nowhere())
            except vf.CaptureError as error:
                stats = error.stats
            if stats is not None:
                assert_adds_up(stats)
            packets.add(stats and stats.packets)
    return {"grown_mb": (peak_kb() - before) / 1024, "packets": sorted(packets, key=str), "files": len(paths)}


@many_inputs
@pytest.mark.parametrize("name", [*CLAIMS, *MASSES])
def test_bombs(name: str) -> None:
    bomb = (CLAIMS | MASSES)[name]
    data = bomb.make(bomb.few)
    packets, fault = ours_read(data)
    assert len(packets) == (bomb.few if bomb.packets is None else bomb.packets)
    assert (fault is not None) == bomb.faulty, fault
    for act in ACTS:
        run(act, data)
    survey(data)


@pytest.mark.slow
@many_inputs
@pytest.mark.parametrize("name", MASSES)
def test_memory_of_masses(name: str, tmp_path: Path) -> None:
    bomb = MASSES[name]
    count = bomb.few if SLOW_BUILD else bomb.many
    path = tmp_path / "bomb"
    path.write_bytes(bomb.make(count))
    used = measured("plain,everything,comment,interface,fragment,survey", str(path))
    assert used["packets"] == [count if bomb.packets is None else bomb.packets]


def test_memory_of_claims(tmp_path: Path) -> None:
    paths = []
    for number, (name, bomb) in enumerate(CLAIMS.items()):
        path = tmp_path / f"{number} {name.replace('/', '')}"
        path.write_bytes(bomb.make(1))
        paths.append(str(path))
    assert measured("all", *paths)["files"] == len(CLAIMS)


if __name__ == "__main__":
    print(json.dumps(work(sys.argv[1], sys.argv[2:])))
