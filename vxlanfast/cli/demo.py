"""``make demo``: a capture into VXLAN and out again, over IPv4 and IPv6, compared byte for byte."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from filecmp import cmp
from pathlib import Path

CAPTURE = Path(__file__).resolve().parents[2] / "fixtures" / "pcaps" / "demo.pcap"

TUNNELS = (
    ("IPv4", ["--vni", "42", "--src", "192.0.2.1", "--dst", "192.0.2.2"]),
    ("IPv6", ["--vni", "4711", "--src", "2001:db8::a", "--dst", "2001:db8::b"]),
)


def vxlanfast(*arguments: str | Path, shown: str) -> None:
    """Run the command line in a process of its own, showing what is typed and what it says."""
    print(f"\n$ vxlanfast {shown}", flush=True)
    subprocess.run([sys.executable, "-m", "vxlanfast", *map(str, arguments)], check=True)


def main(capture: Path) -> int:
    """0, or 1 where a capture did not come back as it was."""
    same = True
    with tempfile.TemporaryDirectory(prefix="vxlanfast-demo-") as folder:
        wires = []
        for name, tunnel in TUNNELS:
            wire, inner = Path(folder) / f"wire-{name}.pcap", Path(folder) / f"inner-{name}.pcap"
            typed = shlex.join(tunnel)
            vxlanfast("encap", capture, wire, *tunnel, shown=f"encap {capture.name} {wire.name} {typed}")
            vxlanfast("decap", wire, inner, shown=f"decap {wire.name} {inner.name}")
            equal = cmp(capture, inner, shallow=False)
            same &= equal
            size = capture.stat().st_size
            verdict = f"equal, all {size} bytes" if equal else "DIFFERENT"
            print(f"$ cmp {capture.name} {inner.name}\n{verdict}", flush=True)
            wires.append(wire)
        vxlanfast("info", *wires, shown="info " + " ".join(wire.name for wire in wires))
    print("demo: the captures came back as they were" if same else "demo: FAILED", flush=True)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else CAPTURE))
