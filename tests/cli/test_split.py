"""``vxlanfast split``: files by VNI and VTEP, and every option."""

import json
from pathlib import Path

import pytest

from tests.make_fixtures import eth, fragment_rows, inner_frame, ip4, ip6, outer_cases, strict_cases, vxlan
from tests.support import FIXTURES, assert_one_line, frames_of, ours_read, pcap, vxlanfast

ETHERNET = FIXTURES / "outer-ethernet.pcap"


def run(*arguments: object, code: int = 0, **rest):
    """``split`` with ``arguments``; its exit code is ``code``."""
    done = vxlanfast("split", *arguments, **rest)
    assert done.returncode == code, done.stderr.decode()
    return done


def content(folder: Path) -> dict[str, list[bytes]]:
    return {path.name: frames_of(path) for path in sorted(folder.iterdir())}


def json_of(done) -> dict:
    return json.loads(done.stderr.decode().splitlines()[0])


def by_vni() -> dict[int, list]:
    out: dict[int, list] = {}
    for case in outer_cases():
        if case.link == 1:
            out.setdefault(case.vni, []).append(case)
    return out


@pytest.mark.parametrize("decap", [False, True])
def test_by_vni(decap, tmp_path):
    """Packets as they are, or what is in them, each in its VNI's file and in the order of the input."""
    run(ETHERNET, tmp_path / "out-{vni}.pcap", *(["--decap"] if decap else []))
    assert content(tmp_path) == {
        f"out-{vni}.pcap": [case.inner if decap else case.frame for case in cases]
        for vni, cases in sorted(by_vni().items())
    }


def test_times_and_lengths_stay(tmp_path):
    run(FIXTURES / "edges.pcap", tmp_path / "{vni}")
    packets, _ = ours_read((FIXTURES / "edges.pcap").read_bytes())
    assert ours_read((tmp_path / "42").read_bytes())[0] == [p for p in packets if len(p.data) != 49]
    assert len(packets) == 12


def test_by_vtep(tmp_path):
    frames = [
        bytes(eth() / ip4() / vxlan(1) / inner_frame()),
        bytes(eth() / ip6() / vxlan(1) / inner_frame()),
    ]
    run("-", tmp_path / "{src}_{dst}_{vni}.pcap", stdin=pcap(frames))
    assert content(tmp_path) == {
        "192.0.2.1_192.0.2.2_1.pcap": [frames[0]],
        "2001-db8--1_2001-db8--2_1.pcap": [frames[1]],
    }


def test_summary(tmp_path):
    done = run(ETHERNET, tmp_path / "{vni}.pcap")
    lines = done.stderr.decode().splitlines()
    assert lines[0] == "28 packets read, 28 sorted"
    assert lines[1:] == [
        f"{tmp_path}/0.pcap: 1 packets",
        f"{tmp_path}/16777215.pcap: 1 packets",
        f"{tmp_path}/42.pcap: 26 packets",
    ]
    assert done.stdout == b""
    for quiet in ("-q", "--quiet"):
        assert run(ETHERNET, tmp_path / "{vni}.pcap", quiet).stderr == b""


def test_stats_json(tmp_path):
    stats = json_of(run(FIXTURES / "mixed.pcapng", tmp_path / "{vni}", "--stats", "json"))
    assert stats["files"] == {str(path): len(frames_of(path)) for path in sorted(tmp_path.iterdir())}
    assert sum(stats["files"].values()) == stats["written"]
    assert stats["verb"] == "split"
    assert stats["packets"] == stats["passed"] + stats["kept"] + stats["dropped"] == 16
    assert stats["written"] == 14 == sum(map(len, content(tmp_path).values()))


@pytest.mark.parametrize(("other", "code"), [("drop", 0), ("keep", 0), ("fail", 3)])
def test_other(other, code, tmp_path):
    good = bytes(eth() / ip4() / vxlan() / inner_frame())
    others = [good[:42] + b"\0" + good[43:], bytes(inner_frame())]
    done = run(
        "-",
        tmp_path / "{vni}",
        "--other",
        other,
        "--stats",
        "json",
        stdin=pcap([others[0], good, others[1]]),
        code=code,
    )
    assert content(tmp_path) == {"42": [good], **({"other": others} if other == "keep" else {})}
    stats = json_of(done)
    assert (stats["packets"], stats["passed"], stats["kept"]) == (3, 1, 2 if other == "keep" else 0)


def test_vni_and_port(tmp_path):
    frames = [
        bytes(eth() / ip4() / vxlan(vni, port=port) / inner_frame()) for vni in range(1, 6) for port in (4789, 9999)
    ]
    run("-", tmp_path / "{vni}", "--vni", "2,4-9", "-p", 9999, stdin=pcap(frames))
    assert content(tmp_path) == {"2": [frames[3]], "4": [frames[7]], "5": [frames[9]]}


def test_strict(tmp_path):
    run(FIXTURES / "strict.pcap", tmp_path / "{vni}", "--strict", code=3)
    assert content(tmp_path) == {"42": [case.frame for case in strict_cases() if case.name.startswith("PASS")]}


def test_reassemble(tmp_path):
    run(FIXTURES / "fragments.pcap", tmp_path / "{vni}", "--reassemble", "--decap")
    assert sorted(frame for frames in content(tmp_path).values() for frame in frames) == sorted(fragment_rows()[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["100", "101", "102", "200", "201", "202"]


@pytest.mark.parametrize("decap", [True, False])
def test_filters(decap, tmp_path):
    frames = [bytes(eth() / ip4() / vxlan(n, sport=50000 + n) / inner_frame(sport=n % 2)) for n in range(6)]
    filters = ("--inner", "udp src port 1", "--outer", "udp src portrange 50002-50004")
    run("-", tmp_path / "{vni}", *filters, *(["--decap"] if decap else []), stdin=pcap(frames))
    assert content(tmp_path) == {"3": [frames[3][50 if decap else 0 :]]}


@pytest.mark.parametrize(("form", "magic"), [("pcap", "d4c3b2a1"), ("nsecpcap", "4d3cb2a1"), ("pcapng", "0a0d0d0a")])
def test_format_and_count(form, magic, tmp_path):
    run(ETHERNET, tmp_path / "{vni}.x", "-F", form, "-c", 5)
    assert content(tmp_path) == {"42.x": frames_of(ETHERNET)[:5]}
    assert (tmp_path / "42.x").read_bytes()[:4].hex() == magic


@pytest.mark.parametrize("suffix", ["gz", "zst", "lz4"])
def test_compressed(suffix, tmp_path):
    run(ETHERNET, tmp_path / f"{{vni}}.pcap.{suffix}")
    back = vxlanfast("decap", tmp_path / f"42.pcap.{suffix}")
    assert frames_of(back.stdout) == [case.inner for case in by_vni()[42]]


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("out.pcap", "out-{vni}.pcap"),
        ("{vlan}.pcap", "{vlan}"),
        ("{vni", "{vni"),
        ("{}", "{}"),
        ("{0}", "{0}"),
    ],
)
def test_patterns_that_make_no_sense(pattern, said, tmp_path):
    assert_one_line(vxlanfast("split", ETHERNET, tmp_path / pattern), 2, pattern, said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "pattern",
    ["{vni.real}", "{vni[0]}", "{vni:", "{vni!x}", "{vni:z}", "{vni:9}", "a}b{vni}", "{src.__class__}"],
)
def test_odd_patterns(pattern, tmp_path):
    """No traceback, and nothing half done, whatever str.format could be asked for."""
    done = vxlanfast("split", ETHERNET, tmp_path / pattern)
    if done.returncode:
        assert_one_line(done, 2, pattern)
        assert list(tmp_path.iterdir()) == []


def test_output_would_be_the_input(tmp_path):
    source = tmp_path / "42.pcap"
    source.write_bytes(ETHERNET.read_bytes())
    assert_one_line(vxlanfast("split", source, tmp_path / "{vni}.pcap"), 1, "42.pcap is the input")
    assert source.read_bytes() == ETHERNET.read_bytes()
    assert list(tmp_path.iterdir()) == [source]


def test_no_directory(tmp_path):
    assert_one_line(vxlanfast("split", ETHERNET, tmp_path / "no" / "{vni}.pcap"), 1, str(tmp_path / "no"))
