"""split_file: patterns, many outputs, what every output is given, and failures."""

import gc
import io
import os
from functools import cache

import pytest

import vxlanfast as vf
from tests.make_fixtures import eth, inner_frame, ip4, ip6, vxlan
from tests.streams import KINDS
from tests.support import FIXTURES, Pcapng, assert_adds_up, blocks, frames_of, pcap
from vxlanfast import capture, split
from vxlanfast._ext.batch import PacketBatch

ETHERNET = FIXTURES / "outer-ethernet.pcap"


@cache
def wire(vni: int, n: int = 0) -> bytes:
    return bytes(eth() / ip4() / vxlan(vni) / inner_frame(b"%d" % n))


def ten(rounds: int = 40) -> list[bytes]:
    """Ten VNIs in turn."""
    return [wire(vni, n) for n in range(rounds) for vni in range(10)]


def content(folder) -> dict[str, list[bytes]]:
    return {path.name: frames_of(path) for path in sorted(folder.iterdir())}


@pytest.fixture
def few_open(monkeypatch):
    """Two files open at a time, and batches of a few rows."""
    monkeypatch.setattr(split, "OPEN_MAX", 2)
    monkeypatch.setattr(capture, "PacketBatch", lambda: PacketBatch(16))


def test_patterns(tmp_path):
    frames = [wire(1), wire(2), bytes(eth() / ip6() / vxlan(1) / inner_frame())]
    four, six = "192.0.2.1", "2001-db8--1"
    for pattern, names in (
        ("{vni}", {"1": [frames[0], frames[2]], "2": [frames[1]]}),
        ("x-{vni}-{vni}.pcap", {"x-1-1.pcap": [frames[0], frames[2]], "x-2-2.pcap": [frames[1]]}),
        ("{src}", {four: frames[:2], six: frames[2:]}),
        ("{{{dst}}}", {"{192.0.2.2}": frames[:2], "{2001-db8--2}": frames[2:]}),
        ("{src}+{vni}", {f"{four}+1": frames[:1], f"{four}+2": frames[1:2], f"{six}+1": frames[2:]}),
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        stats, written = vf.split_file(io.BytesIO(pcap(frames)), folder / pattern)
        assert_adds_up(stats)
        assert content(folder) == names
        assert written == {str(folder / name): len(frames) for name, frames in names.items()}
        assert list(written) == sorted(written)


def test_order_within_a_file(tmp_path):
    """Several tunnels in one file: packets are in the order of the input, not by tunnel."""
    frames = [wire(7, n) for n in range(100)]
    frames = [frame[:29] + bytes([1 + n * 7 % 5]) + frame[30:] for n, frame in enumerate(frames)]
    vf.split_file(io.BytesIO(pcap(frames)), tmp_path / "{vni}")
    assert content(tmp_path) == {"7": frames}


@pytest.mark.parametrize("suffix", ["", *(f".{kind}" for kind in KINDS)])
def test_more_files_than_may_be_open(few_open, suffix, tmp_path):
    stats, written = vf.split_file(io.BytesIO(pcap(ten())), tmp_path / f"{{vni}}.pcap{suffix}")
    assert_adds_up(stats)
    assert stats.written == stats.passed == 400
    assert written == {str(tmp_path / f"{vni}.pcap{suffix}"): 40 for vni in range(10)}
    for vni in range(10):
        out = io.BytesIO()
        vf.decap_file(tmp_path / f"{vni}.pcap{suffix}", out, ports=(1,), other="keep")
        assert frames_of(out.getvalue()) == [wire(vni, n) for n in range(40)]


def test_descriptors(few_open, tmp_path, monkeypatch):
    """No more than two are open, and none afterwards."""
    gc.collect()  # what others left
    before = len(os.listdir("/proc/self/fd"))
    most = 0
    real = split.Outputs.write

    def write(self, *args):
        nonlocal most
        real(self, *args)
        most = max(most, len(os.listdir("/proc/self/fd")) - before)

    monkeypatch.setattr(split.Outputs, "write", write)
    vf.split_file(io.BytesIO(pcap(ten())), tmp_path / "{vni}")
    assert most <= 3  # listing takes one as well
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("limited", [False, True])
def test_pcapng_blocks_go_into_every_output(limited, tmp_path, request):
    """Each output is a capture of its own, with the sections, interfaces and other blocks of the input."""
    if limited:
        request.getfixturevalue("few_open")
    ng = Pcapng(section=False)
    for big in (False, True):
        ng.section(big=big, options=[(4, b"test")])
        ng.interface(1, tsresol=9, options=[(2, b"eth0")])
        ng.interface(1, tsresol=6, options=[(2, b"eth1")])
        for n in range(12):
            ng.epb(wire(n % 4, n), units=n, interface=n % 2, options=[(1, b"comment %d" % n)])
        ng.block(5, ng.pack("III", 0, 1, 2))
    stats, _ = vf.split_file(io.BytesIO(ng.data), tmp_path / "{vni}.pcapng")
    assert_adds_up(stats)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{vni}.pcapng" for vni in range(4)]
    wanted = blocks(ng.data)
    for vni in range(4):
        got = blocks((tmp_path / f"{vni}.pcapng").read_bytes())
        mine = [
            block
            for block in wanted
            if block.kind != 6 or block.options()[0][1][8:] in [b"%d" % n for n in range(vni, 12, 4)]
        ]
        assert [(b.kind, b.body) for b in got if b.kind in (0x0A0D0D0A, 1, 6)] == [
            (b.kind, b.body) for b in mine if b.kind in (0x0A0D0D0A, 1, 6)
        ]
        assert sum(block.kind == 5 for block in got) == 2


def test_decap_and_other(tmp_path):
    frames = [wire(1, 1), bytes(inner_frame()), wire(2, 2), wire(1, 3)]
    stats, _ = vf.split_file(io.BytesIO(pcap(frames)), tmp_path / "{vni}", decap=True, other="keep")
    assert_adds_up(stats)
    assert (stats.passed, stats.kept) == (3, 1)
    assert content(tmp_path) == {
        "1": [bytes(inner_frame(b"1")), bytes(inner_frame(b"3"))],
        "2": [bytes(inner_frame(b"2"))],
        "other": [frames[1]],
    }


def test_an_input_without_vxlan_makes_no_files(tmp_path):
    stats, written = vf.split_file(FIXTURES / "inner.pcap", tmp_path / "{vni}")
    assert (written, list(tmp_path.iterdir())) == ({}, [])
    assert any(warning.startswith("not one packet was VXLAN") for warning in stats.warnings)


@pytest.mark.parametrize("other", ["drop", "keep"])
def test_too_many_outputs(other, tmp_path, monkeypatch):
    """Refused, and nothing is left behind; as many as that are allowed."""
    monkeypatch.setattr(split, "OUTPUTS_MAX", 4)
    with pytest.raises(vf.SpecError, match="more than 4"):
        vf.split_file(io.BytesIO(pcap(ten())), tmp_path / "{vni}", other=other)
    assert list(tmp_path.iterdir()) == []
    vf.split_file(io.BytesIO(pcap(ten())), tmp_path / "{vni}", vni=[(0, 3)], other=other)
    assert sorted(content(tmp_path)) == ["0", "1", "2", "3"]


def test_a_failure_leaves_no_files(few_open, tmp_path, monkeypatch):
    """In the middle, with files open, asleep and begun."""
    calls = 0
    real = split.Outputs.write

    def write(self, *args):
        nonlocal calls
        calls += 1
        if calls > 30:
            raise OSError(28, "No space left on device")
        real(self, *args)

    monkeypatch.setattr(split.Outputs, "write", write)
    with pytest.raises(OSError, match="No space"):
        vf.split_file(io.BytesIO(pcap(ten())), tmp_path / "{vni}")
    assert calls > 30 and list(tmp_path.iterdir()) == []


def test_a_cut_input_gives_every_whole_packet(tmp_path):
    with pytest.raises(vf.CaptureError) as caught:
        vf.split_file(io.BytesIO(pcap(ten(2))[:-3]), tmp_path / "{vni}")
    assert_adds_up(caught.value.stats)
    assert caught.value.stats.written == 19 == sum(map(len, content(tmp_path).values()))


def test_no_capture(tmp_path):
    with pytest.raises(vf.CaptureError):
        vf.split_file(io.BytesIO(b"no capture at all" * 9), tmp_path / "{vni}")
    assert list(tmp_path.iterdir()) == []


def test_watch_stops(few_open, tmp_path):
    stats, written = vf.split_file(
        io.BytesIO(pcap(ten(10) * 200)), tmp_path / "{vni}", watch=lambda n, at, size: n > 10
    )
    assert stats.interrupted and 10 < stats.packets < 20000
    assert sum(written.values()) == stats.written == stats.packets


@pytest.mark.parametrize("pattern", ["out", "{x}", "{vni", "vni}", "{vni!x}", "{vni.real}", "{vni:z}", "{}"])
def test_spec_errors(pattern, tmp_path):
    with pytest.raises(vf.SpecError, match="pattern"):
        vf.split_file(ETHERNET, tmp_path / pattern)
    with pytest.raises(vf.SpecError, match="format"):
        vf.split_file(ETHERNET, tmp_path / "{vni}", format="erf")
    assert list(tmp_path.iterdir()) == []
