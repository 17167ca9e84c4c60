"""Who is measured: programs and libraries that do the same job, and what tells whether they did it right.

Each is a whole process, started in one and the same way, that reads a capture file and writes another. ``cp``
and ``cat`` do no work: they are how fast bytes can move. Those that cut 50 bytes off whatever comes are
"blind".
"""

from __future__ import annotations

import atexit
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata, util
from pathlib import Path
from shutil import which

from vxlanfast.benchmark.inputs import (
    FILE_HEADER_LEN,
    OUTER_LEN,
    RECORD_HEADER_LEN,
    VNIS,
    VTEPS,
    Traffic,
    checksum,
)

HERE = Path(__file__).parent
#: The name of our own sides starts with this.
OURS = "vxlanfast"
#: What everybody is compared with.
BASELINE = "cp"
#: Bytes compared at a time.
PIECE_LEN = 1 << 20
#: Packets of an encapsulated file looked at one by one.
WALKED = 50_000


@dataclass(frozen=True, slots=True)
class Task:
    """One job on one pair of captures: ``plain`` and ``vxlan`` hold the same frames."""

    job: str  # decap or encap
    traffic: Traffic
    packets: int
    plain: Path
    vxlan: Path
    target: Path

    @property
    def source(self) -> Path:
        """What is read."""
        return self.vxlan if self.job == "decap" else self.plain

    @property
    def larger(self) -> Path:
        """What ``cp`` copies: decap's input, or a file like encap's output."""
        return self.vxlan

    def output_len(self) -> int:
        """Bytes of the output there is; 0 for none."""
        return self.target.stat().st_size if self.target.exists() else 0


@dataclass(frozen=True, slots=True)
class Peer:
    """One side of the comparison.

    ``argv`` makes the command of a task; ``to_stdout``: its standard output is the output file. ``cannot``:
    job -> why. ``packets_max``: it is so slow that it gets no more than this many packets, and its time is
    scaled up; it then prints how long it took without start-up. ``in_process``: a call in this process
    instead of a command. ``threads``: the cores it is given. ``made_by``: makes the program, or returns None.
    """

    name: str
    note: str
    argv: Callable[[Task], list[str]]
    needs: str = ""  # a program
    module: str = ""  # or an importable package, and its name
    to_stdout: bool = False
    blind: bool = False
    moves_only: bool = False
    cannot: tuple[tuple[str, str], ...] = ()
    packets_max: int | None = None
    in_process: bool = False
    threads: int = 1
    made_by: Callable[[], Path | None] | None = None

    def refuses(self, job: str) -> str | None:
        """Why it cannot do ``job``; None where it can."""
        return dict(self.cannot).get(job)

    def installed(self) -> bool:
        """Whether it is there."""
        return (
            (not self.needs or which(self.needs) is not None)
            and (not self.module or util.find_spec(self.module) is not None)
            and (self.made_by is None or self.made_by() is not None)
        )

    def version(self) -> str:
        """``editcap 4.0.17``, as it says itself."""
        if self.module:
            return f"{self.module} {metadata.version(self.module)}"
        if not self.needs:
            return ""
        for option in ("--version", "-h"):
            said = subprocess.run([self.needs, option], capture_output=True, text=True, check=False)
            found = re.search(r"(?:version:?|\)|^\w+) v?(\d[\w.]*\d)", (said.stdout + said.stderr)[:200])
            if found:
                return f"{self.needs} {found.group(1)}"
        return self.needs


def our_argv(task: Task, *options: str) -> list[str]:
    """The command line of ours."""
    argv = [sys.executable, "-m", "vxlanfast", task.job, "-q", *options, str(task.source), str(task.target)]
    if task.job == "encap":
        argv += ["--vni", str(VNIS[0]), "--src", VTEPS[0], "--dst", VTEPS[1]]
    return argv


def call(task: Task) -> int:
    """The same through the library, in this process: packets written."""
    from vxlanfast.files import decap_file, encap_file
    from vxlanfast.spec import TunnelSpec

    source, target = str(task.source), str(task.target)
    if task.job == "decap":
        return decap_file(source, target).written
    return encap_file(source, target, TunnelSpec(vni=VNIS[0], src=VTEPS[0], dst=VTEPS[1])).written


def _script(name: str) -> Callable[[Task], list[str]]:
    return lambda task: [sys.executable, str(HERE / name), task.job, str(task.source), str(task.target)]


@cache
def floor() -> Path | None:
    """floor.c as a program for this very processor, gone with this process; None where there is no compiler."""
    if which("cc") is None:
        return None
    folder = tempfile.mkdtemp(prefix="vxlanfast-floor-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    program = Path(folder, "floor")
    command = ["cc", "-O3", "-march=native", "-o", str(program), str(HERE / "floor.c")]
    made = subprocess.run(command, capture_output=True, check=False)
    return program if made.returncode == 0 else None


def _editcap(task: Task) -> list[str]:
    return ["editcap", "-F", "pcap", "-C", str(OUTER_LEN), "-L", str(task.source), str(task.target)]


def _bittwiste(task: Task) -> list[str]:
    return ["bittwiste", "-I", str(task.source), "-O", str(task.target), "-D", f"1-{OUTER_LEN}"]


PEERS = (
    Peer(
        "cp", "moves bytes, the limit", lambda t: ["cp", str(t.larger), str(t.target)], needs="cp",
        moves_only=True,
    ),
    Peer(
        "cat", "moves bytes", lambda t: ["cat", str(t.larger)], needs="cat", moves_only=True,
        to_stdout=True,
    ),
    Peer(
        "C floor", "reads, moves, writes", lambda t: [str(floor()), t.job, str(t.source), str(t.target)],
        blind=True, made_by=floor,
    ),
    Peer(f"{OURS}, 1 thread", "whole process", lambda t: our_argv(t, "--threads", "1")),
    Peer(f"{OURS}, library call", "without start-up", lambda t: [], in_process=True),
    Peer(f"{OURS}, 2 threads", "whole process", lambda t: our_argv(t, "--threads", "2"), threads=2),
    Peer(
        "editcap", "chops 50 bytes", _editcap, needs="editcap", blind=True,
        cannot=(("encap", "has no way to put headers on"),),
    ),
    Peer(
        "bittwiste", "deletes 50 bytes", _bittwiste, needs="bittwiste", blind=True,
        cannot=(("encap", "has no way to put headers on"),),
    ),
    Peer(
        "tcprewrite", "", lambda t: [], needs="tcprewrite",
        cannot=(("decap", "has no way to take VXLAN off"), ("encap", "has no way to put VXLAN on")),
    ),
    Peer("dpkt", "parses, slices; builds", _script("with_dpkt.py"), module="dpkt", packets_max=100_000),
    Peer(
        "scapy", "PcapReader, layers, PcapWriter", _script("with_scapy.py"), module="scapy",
        packets_max=3_000,
    ),
)  # fmt: skip


def same_bytes(one: Path, other: Path) -> bool:
    """Whether two files are the same."""
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as first, other.open("rb") as second:
        while piece := first.read(PIECE_LEN):
            if piece != second.read(PIECE_LEN):
                return False
    return True


def check(peer: Peer, task: Task) -> str:
    """What its output is worth: "identical", "correct", "a copy", or what is wrong with it."""
    if not task.target.exists():
        return "no output"
    if peer.moves_only:
        return "a copy" if same_bytes(task.target, task.larger) else "not a copy"
    if task.job == "decap":
        return (
            "identical" if same_bytes(task.target, task.plain) else compare_frames(task.target, task.plain, 0)
        )
    verdict = compare_frames(
        task.target, task.plain, OUTER_LEN, limit=WALKED if task.packets > WALKED else None
    )
    if task.packets > WALKED and verdict.startswith("correct"):
        # The rest at once: with VXLAN off again it must be the input. Decapsulation itself is held against
        # bytes that are not of its making.
        from vxlanfast.files import decap_file

        back = task.target.with_suffix(".back")
        decap_file(str(task.target), str(back))
        if not same_bytes(back, task.plain):
            verdict = f"wrong behind packet {WALKED:,}"
        back.unlink()
    return verdict


def compare_frames(target: Path, plain: Path, extra: int, *, limit: int | None = None) -> str:
    """Hold each record of ``target``, up to ``limit``, against that of ``plain``: time, and frame behind
    ``extra`` bytes.

    The extra bytes have to be the right VXLAN headers. Times may be off by the microsecond that floats cost.
    """
    with target.open("rb") as got, plain.open("rb") as want:
        if len(got.read(FILE_HEADER_LEN)) < FILE_HEADER_LEN:
            return "no capture"
        want.seek(FILE_HEADER_LEN)
        count = late = 0
        while count != limit and (record := want.read(RECORD_HEADER_LEN)):
            count += 1
            its = got.read(RECORD_HEADER_LEN)
            if len(its) < RECORD_HEADER_LEN:
                return f"ends after {count - 1:,} packets"
            second, us, length, wire_len = struct.unpack("<IIII", record)
            its_second, its_us, its_length, its_wire_len = struct.unpack("<IIII", its)
            if (its_length, its_wire_len) != (length + extra, wire_len + extra):
                return f"packet {count:,}: wrong length"
            packet = got.read(its_length)
            if packet[extra:] != want.read(length):
                return f"packet {count:,}: wrong frame"
            fault = outer_fault(packet, length) if extra else None
            if fault is not None:
                return f"packet {count:,}: {fault}"
            off = abs((its_second - second) * 1_000_000 + its_us - us)
            if off > 1:
                return f"packet {count:,}: wrong time"
            late += off
        if limit is None and got.read(1):
            return f"goes on after {count:,} packets"
    return f"correct, {late:,} times off by 1 µs" if late else "correct"


def outer_fault(packet: bytes, frame_len: int) -> str | None:
    """What is wrong with the VXLAN headers (RFC 7348 §5) of a packet; None for nothing."""
    if packet[12:14] != b"\x08\x00" or packet[14] != 0x45 or packet[23] != 17:
        return "no UDP over IPv4"
    if checksum(packet[14:34]) != 0:
        return "wrong IPv4 checksum"
    total, (sport, dport, udp_len) = packet[16:18], struct.unpack_from(">HHH", packet, 34)
    if int.from_bytes(total, "big") != 36 + frame_len or udp_len != 16 + frame_len:
        return "wrong outer length"
    if packet[26:34] != bytes(int(part) for vtep in VTEPS for part in vtep.split(".")):
        return "wrong VTEP"
    if dport != 4789 or sport < 49152:
        return "wrong port"
    if packet[42:50] != struct.pack(">II", 0x08000000, VNIS[0] << 8):
        return "wrong VXLAN header"
    return None
