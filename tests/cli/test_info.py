"""``vxlanfast info``: the table for people, the JSON for machines, and every option."""

import json

import pytest

from tests.make_fixtures import A4, A6, B4, B6, T0, edge_cases, eth, inner_frame, ip4, outer_cases, vxlan
from tests.support import FIXTURES, Packet, Pcapng, assert_one_line, pcap, vxlanfast

ETHERNET = FIXTURES / "outer-ethernet.pcap"


def run(*arguments: object, code: int = 0, **rest):
    """``info`` with ``arguments``; its exit code is ``code``."""
    done = vxlanfast("info", *arguments, **rest)
    assert done.returncode == code, done.stderr.decode()
    return done


def surveys(*arguments: object, **rest) -> list[dict]:
    return [json.loads(line) for line in run(*arguments, "--json", **rest).stdout.decode().splitlines()]


def test_json():
    (survey,) = surveys(ETHERNET)
    cases = [(n, case) for n, case in enumerate(case for case in outer_cases() if case.link == 1)]
    assert survey["name"] == str(ETHERNET)
    assert (survey["format"], survey["compression"], survey["links"]) == ("pcap", None, [1])
    assert [network["vni"] for network in survey["networks"]] == [0, 42, 16777215]
    for network in survey["networks"]:
        mine = [(n, case) for n, case in cases if case.vni == network["vni"]]
        assert network["packets"] == len(mine)
        assert network["bytes"] == sum(len(case.inner) for _, case in mine)
        assert network["first_ns"] == T0 + mine[0][0] * 1_000_001 // 1000 * 1000
        assert network["last_ns"] == T0 + mine[-1][0] * 1_000_001 // 1000 * 1000
        assert network["packets"] == sum(tunnel["packets"] for tunnel in network["tunnels"])
    assert {(t["src"], t["dst"]) for t in survey["networks"][1]["tunnels"]} == {(A4, B4), (A6, B6)}
    stats = survey["stats"]
    assert stats["packets"] == stats["passed"] + stats["dropped"] == 28
    assert stats["written"] == 0


def test_table():
    done = run(ETHERNET)
    text = done.stdout.decode()
    assert text.startswith(f"{ETHERNET}: pcap, ETHERNET (1)\n")
    rows = [line.split() for line in text.splitlines()]
    assert ["42", "26", "1.4", "kB", "2023-11-14", "22:13:20.000000000", "0.027000", "s"] in rows
    assert [A6, ">", B6, "9", "459", "B"] in rows
    assert done.stderr.decode() == "28 packets read, 28 VXLAN\n"


def test_cut_and_odd_flags():
    text = run(FIXTURES / "edges.pcap").stdout.decode()
    row = next(line.split() for line in text.splitlines() if line.strip().startswith("42"))
    # The cut of the padding alone leaves the frame whole.
    assert row[-1] == str(sum(case.name.startswith("snaplen-") and case.inner is not None for case in edge_cases()) - 1)
    text = run(FIXTURES / "strict.pcap").stdout.decode()
    assert "GBP" in text and "reserved bits" in text
    (survey,) = surveys(FIXTURES / "strict.pcap")
    (network,) = survey["networks"]
    assert network["gbp"] == 1
    assert network["reserved"] > 30 and network["csummed"] == 5


def test_many_tunnels():
    """Eight pairs of VTEPs of a VNI unless --all."""
    frames = [bytes(eth() / ip4(id=n) / vxlan() / inner_frame()) for n in range(20)]
    frames = [frame[:29] + bytes([n]) + frame[30:] for n, frame in enumerate(frames)]
    few, every = (run("-", *options, stdin=pcap(frames)).stdout.decode() for options in ((), ("--all",)))
    assert few.count(f" > {B4}") == 8
    assert "… 12 more VTEP pairs (--all)" in few
    assert every.count(f" > {B4}") == 20 and "more VTEP pairs" not in every
    assert few.startswith("<stdin>: pcap, ")


def test_several_files(tmp_path):
    """Each for itself; one that cannot be read does not keep the others from being shown."""
    done = run(ETHERNET, tmp_path / "none", FIXTURES / "edges.pcap", "--json", code=1)
    assert [json.loads(line)["name"] for line in done.stdout.decode().splitlines()] == [
        str(ETHERNET),
        str(FIXTURES / "edges.pcap"),
    ]
    assert f"vxlanfast: {tmp_path}/none: No such file or directory\n" in done.stderr.decode()


def test_options(tmp_path):
    frames = [
        bytes(eth() / ip4() / vxlan(vni, port=port, sport=50000 + vni) / inner_frame(sport=vni))
        for vni in range(1, 7)
        for port in (4789, 9999)
    ]
    source = tmp_path / "in.pcap"
    source.write_bytes(pcap(frames))

    def vnis(*options: object) -> list[int]:
        (survey,) = surveys(source, *options)
        return [network["vni"] for network in survey["networks"] for _ in range(network["packets"])]

    assert vnis() == [1, 2, 3, 4, 5, 6]
    assert vnis("-p", 9999, "-p", 4789) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert vnis("--vni", "2,5-9") == [2, 5, 6]
    assert vnis("-c", 4) == [1, 2]
    assert vnis("--inner", "udp src port 3") == [3]
    assert vnis("--outer", "udp src port 50004") == [4]


def test_reassemble():
    assert surveys(FIXTURES / "fragments.pcap")[0]["networks"] == []
    (survey,) = surveys(FIXTURES / "fragments.pcap", "--reassemble")
    assert [network["vni"] for network in survey["networks"]] == [100, 101, 102, 200, 201, 202]


def test_quiet_and_stats():
    for quiet in ("-q", "--quiet"):
        done = run(ETHERNET, quiet)
        assert done.stderr == b"" and done.stdout
    done = run(FIXTURES / "others.pcap", "--stats", "json")
    stats = json.loads(done.stderr.decode())
    assert stats["packets"] == stats["dropped"] == sum(stats["drops"].values()) == 12


@pytest.mark.parametrize("suffix", ["gz", "zst", "lz4"])
def test_compressed(suffix, tmp_path):
    from tests.streams import pack

    source = tmp_path / "in"
    source.write_bytes(pack(suffix, ETHERNET.read_bytes()))
    (survey,) = surveys(source)
    assert survey["compression"] == suffix
    assert run(source).stdout.decode().startswith(f"{source}: pcap, {suffix}, ETHERNET (1)\n")


def test_pcapng_links():
    (survey,) = surveys(FIXTURES / "mixed.pcapng")
    assert (survey["format"], survey["links"]) == ("pcapng", [1, 113, 101])
    assert "pcapng, ETHERNET (1), LINUX_SLL (113), RAW (101)" in run(FIXTURES / "mixed.pcapng").stdout.decode()


def test_empty_capture():
    done = run("-", stdin=pcap([]))
    assert done.stdout.decode() == "<stdin>: pcap, ETHERNET (1)\n"
    assert done.stderr.decode() == "0 packets read, 0 VXLAN\n"


def test_cut_file(tmp_path):
    """What was read is shown, and what was wrong is said, with exit code 1."""
    source = tmp_path / "cut.pcap"
    source.write_bytes(ETHERNET.read_bytes()[:-5])
    done = run(source, "--json", code=1)
    survey = json.loads(done.stdout)
    assert survey["stats"]["packets"] == 27
    assert str(source) in survey["stats"]["fault"]
    last = done.stderr.decode().splitlines()[-1]
    assert last == f"vxlanfast: {survey['stats']['fault']}"


def test_no_capture(tmp_path):
    source = tmp_path / "text"
    source.write_bytes(b"not a capture at all, is it\n" * 9)
    assert_one_line(vxlanfast("info", source), 1, str(source))
    assert_one_line(vxlanfast("info", source, "-q"), 1, str(source))


def test_extreme_times():
    """Times before and long after those that fit 32 bits."""
    frame = bytes(eth() / ip4() / vxlan() / inner_frame())
    ng = Pcapng().interface(1, tsresol=0).epb(frame, units=2**33)
    assert b"2242-03-16 12:56:32.000000000" in run("-", stdin=ng.data).stdout
    assert b"1970-01-01 00:00:00.000000000" in run("-", stdin=pcap([Packet(0, frame, len(frame))])).stdout
