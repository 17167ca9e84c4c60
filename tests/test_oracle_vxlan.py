"""The kernel's verdicts on odd VXLAN packets, and ours: the same for every packet but what is other on purpose."""

from __future__ import annotations

import re
import socket
import struct
from typing import Any

import pytest

from tests.node.plane import UNDERLAY, Vtep
from tests.support import CAPTURES
from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.node.reassemble import Reassemble

ORACLE = CAPTURES.parent / "oracle" if CAPTURES else None
pytestmark = pytest.mark.skipif(
    ORACLE is None or not (ORACLE / "vxlan-verdicts.txt").exists(), reason="the kernel's verdicts are not here"
)

#: Where we differ from the kernel: packet, delivered frames here, and why.
ON_PURPOSE = {
    "outer src unknown VTEP 10.0.0.77": (0, "the source must be a member of the network"),
}


def kernel() -> dict[str, tuple[int, list[int], str]]:
    """What the kernel delivered of each: how many, their lengths, ECN of the inner packet."""
    rows = {}
    for line in (ORACLE / "vxlan-verdicts.txt").read_text().splitlines():
        if m := re.match(r"(.*?)\s+delivered=(\d+) len=(\[.*?\]) stats=\{.*?\}(?: inner ECN now (\d))?$", line):
            rows[m[1]] = int(m[2]), [int(n) for n in re.findall(r"\d+", m[3])], m[4] or ""
    return rows


def packets() -> list[tuple[str, list[bytes], str]]:
    """The script's own packets: its definitions, without the part that makes network namespaces."""
    source = (ORACLE / "vxlan-verdicts.py").read_text()
    scope: dict[str, Any] = {"socket": socket, "struct": struct}
    exec(source[source.index("def cs(b)") : source.index("out=[]")], scope)
    return scope["T"]


@pytest.fixture
def devices() -> dict[str, Vtep]:
    """Our counterparts of the script's four devices; the dport of each is given as 4789 to ours by ``deliver``."""
    made = {}
    for name, last, dport, local, peer, extra in (
        ("vx0", 0x0C, 4789, "10.0.0.2", "10.0.0.1", {}),
        ("vx6", 0x0D, 4790, "fd00::2", "fd00::1", {}),
        ("vxz", 0x0E, 4791, "fd00::2", "fd00::1", {"zero_csum6": True}),
        ("vxg", 0x0F, 4792, "10.0.0.2", "10.0.0.1", {"gbp": True}),
    ):
        made[name] = vtep = Vtep(local, {100: ([1], [peer])}, dport=dport, tags=True, **extra)
        vtep.nets.set_gateway(0, bytes([2, 0, 0, 0, 0, last]), bytes(6))
    return made


def deliver(vtep: Vtep, frames: list[bytes]) -> list[bytes]:
    """What leaves by the port, outer fragments put together first."""
    batch = PacketBatch.from_frames(frames, port_in=UNDERLAY)
    Reassemble().process(batch)
    vtep.process(batch)
    ports = batch.port_out
    return [bytes(batch.frame(i)) for i in batch.passed() if ports[i] == 1]


def test_verdicts(devices: dict[str, Vtep]) -> None:
    """Delivered or not, at which length, and with which congestion mark."""
    expected, differences = kernel(), {}
    rows = packets()
    assert {name for name, _, _ in rows} == set(expected)
    for name, frames, device in rows:
        got = deliver(devices[device], frames)
        want_n, want_len, want_ecn = expected[name]
        if name == "inner VLAN tag 7":  # it came with its tag, which a packet socket shows beside the frame, not in it
            got = [frame[:12] + frame[16:] for frame in got if frame[12:16] == b"\x81\0\0\7"]
        ecn = str(got[0][15] & 3) if got and name.startswith("ECN") else ""
        if (len(got), [len(frame) for frame in got], ecn) != (want_n, want_len, want_ecn):
            differences[name] = len(got)
    assert differences == {name: delivered for name, (delivered, _) in ON_PURPOSE.items()}
