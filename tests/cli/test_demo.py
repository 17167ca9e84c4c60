"""``make demo``: what a newcomer sees first."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import FIXTURES, pcap
from vxlanfast.cli import demo


def test_the_demo_proves_what_it_says(capfd: pytest.CaptureFixture[str]) -> None:
    assert demo.main(demo.CAPTURE) == 0
    out, err = capfd.readouterr()
    assert out.count("equal, all 11101 bytes") == 2
    assert out.rstrip().endswith("demo: the captures came back as they were")
    assert "$ vxlanfast encap demo.pcap wire-IPv4.pcap --vni 42" in out
    assert "4711" in out and "2001:db8::a" in out  # of the table
    assert not err or "Traceback" not in err


def test_the_demo_can_fail(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A frame too short for Ethernet is dropped, and so does not come back."""
    path = tmp_path / "short.pcap"
    path.write_bytes(pcap([b"short", bytes.fromhex("020000000001 020000000002 88b5") + bytes(46)]))
    assert demo.main(path) == 1
    assert "DIFFERENT" in capfd.readouterr().out
    assert demo.CAPTURE == FIXTURES / "demo.pcap"
