"""``vxlanfast decap``: every option, against scapy and what the fixtures are known to hold."""

import json
from pathlib import Path

import pytest
from scapy.utils import RawPcapReader, rdpcap

from tests.make_fixtures import (
    A4,
    B4,
    edge_cases,
    eth,
    fragment_rows,
    inner_frame,
    ip4,
    nested,
    other_cases,
    outer_cases,
    strict_cases,
    vxlan,
)
from tests.support import (
    FIXTURES,
    Packet,
    Pcapng,
    assert_one_line,
    blocks,
    frames_of,
    ours_read,
    pcap,
    vxlanfast,
)

ETHERNET = FIXTURES / "outer-ethernet.pcap"
LINKS = {"ethernet": 1, "raw": 101, "sll": 113, "sll2": 276, "null": 0, "loop": 108}


def run(*arguments: object, code: int = 0, **rest):
    """``decap`` with ``arguments``; its exit code is ``code``."""
    done = vxlanfast("decap", *arguments, **rest)
    assert done.returncode == code, done.stderr.decode()
    return done


def json_of(done) -> dict:
    return json.loads(done.stderr.decode().splitlines()[0])


def vnis_capture() -> bytes:
    """VNIs 1 to 12, two packets of each."""
    return pcap([bytes(eth() / ip4() / vxlan(vni) / inner_frame(b"%d" % vni)) for vni in [*range(1, 13)] * 2])


@pytest.mark.parametrize("name", LINKS)
def test_inner_frames(name, tmp_path):
    source, out = FIXTURES / f"outer-{name}.pcap", tmp_path / "inner.pcap"
    done = run(source, out)
    inners = [case.inner for case in outer_cases() if case.link == LINKS[name]]
    with RawPcapReader(str(out)) as reader, RawPcapReader(str(source)) as reader_in:
        read, read_in, link = list(reader), list(reader_in), reader.linktype
    assert [data for data, _ in read] == inners
    # Times stay, lengths on the wire shrink by the headers.
    for (data, meta), (data_in, meta_in) in zip(read, read_in, strict=True):
        assert (meta.sec, meta.usec) == (meta_in.sec, meta_in.usec)
        assert meta.wirelen == meta_in.wirelen - (len(data_in) - len(data))
    assert link == 1
    assert done.stdout == b""
    assert done.stderr.decode() == f"{len(inners)} packets read, {len(inners)} decapsulated\n"


def test_as_scapy_reads_it(tmp_path):
    """What scapy calls the VXLAN header's payload, packet by packet."""
    from scapy.layers.vxlan import VXLAN

    source, out = tmp_path / "in.pcap", tmp_path / "out.pcap"
    source.write_bytes(vnis_capture())
    run(source, out)
    assert frames_of(out) == [bytes(packet[VXLAN].payload) for packet in rdpcap(str(source))]


def test_edges(tmp_path):
    run(FIXTURES / "edges.pcap", tmp_path / "out.pcap")
    packets, _ = ours_read((tmp_path / "out.pcap").read_bytes())
    cases = [case for case in edge_cases() if case.inner is not None]
    assert [packet.data for packet in packets] == [case.inner for case in cases]
    assert (tmp_path / "out.pcap").read_bytes()[:4] == bytes.fromhex("4d3cb2a1")  # nanoseconds stay


def test_ports(tmp_path):
    source = tmp_path / "in.pcap"
    frames = {
        port: bytes(eth() / ip4() / vxlan(port=port) / inner_frame(b"%d" % port)) for port in (4789, 8472, 4790, 9999)
    }
    source.write_bytes(pcap(frames.values()))

    def ports(*options: object) -> list[bytes]:
        return [frame[42:] for frame in frames_of(run(source, "-", *options).stdout)]

    assert ports() == [b"4789", b"8472"]
    assert ports("-p", 4790) == [b"4790"]
    assert ports("-p", 4790, "--port", 9999, "-p", 4789) == [b"4789", b"4790", b"9999"]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("7", {7}),
        ("1,5-9", {1, 5, 6, 7, 8, 9}),
        ("9-9,2,2-3", {2, 3, 9}),
        ("0-16777215", {*range(1, 13)}),
        ("99", set()),
    ],
)
def test_vni(text, kept):
    done = run("-", "-", "--vni", text, "--stats", "json", stdin=vnis_capture())
    assert [int(frame[42:]) for frame in frames_of(done.stdout)] == [vni for vni in [*range(1, 13)] * 2 if vni in kept]
    stats = json_of(done)
    assert stats["passed"] == 2 * len(kept)
    assert stats["drops"] == ({"DROP_FILTER_VNI": 24 - 2 * len(kept)} if len(kept) < 12 else {})
    assert stats["others"] == 0


@pytest.mark.parametrize(
    ("levels", "taken"), [("1", 1), ("2", 2), ("99", 99), ("100", 100), ("255", 100), ("all", 100)]
)
def test_levels(levels, taken):
    frames = nested(100)
    done = run(FIXTURES / "nested.pcap", "--levels", levels)
    assert frames_of(done.stdout) == [frames[taken]]


@pytest.mark.parametrize(("other", "code"), [("drop", 0), ("keep", 0), ("fail", 3)])
def test_other(other, code):
    cases = [case for case in other_cases() if case.link == 1]
    good = bytes(eth() / ip4() / vxlan() / inner_frame())
    done = run("-", "--other", other, "--stats", "json", stdin=pcap([*(c.packet() for c in cases), good]), code=code)
    kept = [case.frame for case in cases] if other == "keep" else []
    assert frames_of(done.stdout) == [*kept, bytes(inner_frame())]
    stats = json_of(done)
    assert stats["packets"] == stats["passed"] + stats["kept"] + stats["dropped"] == len(cases) + 1
    assert (stats["kept"], stats["others"], stats["written"]) == (len(kept), len(cases), len(kept) + 1)
    assert stats["drops"] == ({} if kept else {case.name: 1 for case in cases})


def test_other_fail_without_others():
    run(ETHERNET, "--other", "fail")


def test_nothing_was_vxlan(tmp_path):
    """Exit 0, an empty capture, and a warning with what was seen."""
    done = run(FIXTURES / "inner.pcap", tmp_path / "out.pcap")
    assert frames_of(tmp_path / "out.pcap") == []
    warning = done.stderr.decode().splitlines()[1]
    assert warning.startswith("warning: not one packet was VXLAN (")
    assert "UDP, but not to a VXLAN port" in warning
    assert "--port" in warning


def test_strict():
    done = run(FIXTURES / "strict.pcap", "--strict", "--stats", "json", code=3)
    cases = strict_cases()
    good = [case for case in cases if case.name.startswith("PASS")]
    assert frames_of(done.stdout) == [case.inner for case in good]
    stats = json_of(done)
    assert stats["strict_drops"] == stats["dropped"] == len(cases) - len(good)
    assert stats["drops"]["DROP_RESERVED"] == sum(case.name.startswith("DROP_RESERVED") for case in cases)
    assert frames_of(run(FIXTURES / "edges.pcap", "--strict", "--vni", "42", "-c", "1").stdout) == [
        bytes(inner_frame())
    ]
    assert frames_of(run(FIXTURES / "strict.pcap").stdout) == [case.inner for case in cases]


def test_reassemble():
    done = run(FIXTURES / "fragments.pcap", "--reassemble", "--threads", 3, "--stats", "json")
    assert sorted(frames_of(done.stdout)) == sorted(fragment_rows()[1])
    stats = json_of(done)
    assert stats["passed"] == stats["written"] == 6
    assert stats["packets"] == 24
    assert any(warning.startswith("one thread was used: ") for warning in stats["warnings"])


def test_reassemble_says_what_never_came():
    frames = frames_of(FIXTURES / "fragments.pcap")
    done = run("-", "--reassemble", stdin=pcap(frames[1:4]))
    assert "outer fragments were of datagrams that never became whole" in done.stderr.decode()
    assert frames_of(done.stdout) == []


def test_inner_filter():
    frames = [bytes(eth() / ip4() / vxlan() / inner_frame(sport=sport)) for sport in (1, 2, 3, 2)]
    done = run("-", "--inner", "udp src port 2", "--stats", "json", stdin=pcap(frames))
    assert frames_of(done.stdout) == [bytes(inner_frame(sport=2))] * 2
    assert json_of(done)["drops"] == {"DROP_FILTER_INNER": 2}


def test_outer_filter():
    frames = [bytes(eth() / ip4() / vxlan(sport=sport) / inner_frame(sport=sport)) for sport in (50001, 50002, 50003)]
    done = run(
        "-",
        "--outer",
        f"src host {A4} and dst host {B4} and udp src port 50002",
        "--stats",
        "json",
        stdin=pcap(frames),
    )
    assert frames_of(done.stdout) == [bytes(inner_frame(sport=50002))]
    assert json_of(done)["drops"] == {"DROP_FILTER_OUTER": 2}


def test_meta_comment():
    """The comment is one of the packet's options, and says the VNI and the addresses."""
    done = run(ETHERNET, "--meta", "comment", "--vni", "42")
    epbs = [block for block in blocks(done.stdout) if block.kind == 6]
    assert len(epbs) == 26
    for epb, case in zip(epbs, [case for case in outer_cases() if case.link == 1 and case.vni == 42], strict=True):
        comment = next(value for code, value in epb.options() if code == 1).decode()
        source, target = (
            ("2001:db8::1", "2001:db8::2") if "ipv6" in case.name and "inner" not in case.name else (A4, B4)
        )
        assert "42" in comment and source in comment and target in comment, (case.name, comment)


def test_meta_interface():
    """An interface per tunnel, named by its VNI; packets of a tunnel are of that interface."""
    done = run("-", "--meta", "interface", stdin=vnis_capture())
    read = blocks(done.stdout)
    names = [dict(block.options()).get(2) for block in read if block.kind == 1]
    for vni in range(1, 13):
        number = names.index(b"vni-%d" % vni)
        mine = [block for block in read if block.kind == 6 and block.unpack("I")[0] == number]
        assert [block.body[20 + 42 : 20 + block.unpack("I", 12)[0]] for block in mine] == [b"%d" % vni] * 2


@pytest.mark.parametrize("meta", ["comment", "interface"])
@pytest.mark.parametrize("threads", [2, 3])
def test_meta_threads(meta, threads):
    source = FIXTURES / "mixed.pcapng"
    assert run(source, "--meta", meta, "--threads", threads).stdout == run(source, "--meta", meta).stdout


@pytest.mark.parametrize("meta", ["comment", "interface"])
@pytest.mark.parametrize("form", ["pcap", "nsecpcap"])
def test_meta_needs_pcapng(meta, form, tmp_path):
    done = vxlanfast("decap", ETHERNET, tmp_path / "out", "--meta", meta, "-F", form)
    assert_one_line(done, 2, "meta", "pcapng", form)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("form", "magic"), [("pcap", "d4c3b2a1"), ("nsecpcap", "4d3cb2a1"), ("pcapng", "0a0d0d0a"), (None, None)]
)
@pytest.mark.parametrize("name", ["outer-ethernet.pcap", "outer-sll.pcap", "mixed.pcapng"])
def test_format(name, form, magic):
    source = (FIXTURES / name).read_bytes()
    done = run(FIXTURES / name, *(["-F", form] if form else []))
    packets, fault = ours_read(done.stdout)
    assert fault is None
    assert done.stdout[:4].hex() == (magic or source[:4].hex())
    tick = 1000 if done.stdout[:4].hex() == "d4c3b2a1" else 1
    native, _ = ours_read(run(FIXTURES / name).stdout)
    assert [(p.data, p.wire_len, p.ts_ns // tick * tick) for p in packets] == [
        (p.data, p.wire_len, p.ts_ns // tick * tick) for p in native
    ]
    finer = name != "outer-ethernet.pcap" and form == "pcap"
    assert ("times are cut to microseconds" in done.stderr.decode()) == finer


def test_name_promises_another_format(tmp_path):
    done = run(ETHERNET, tmp_path / "out.pcapng")
    assert "is written as pcap, the input's format; -F pcapng changes it" in done.stderr.decode()
    assert "warning" not in run(ETHERNET, tmp_path / "out.pcapng", "-F", "pcapng").stderr.decode()


@pytest.mark.parametrize("count", [1, 5, 27, 28, 1000])
def test_count(count):
    done = run(ETHERNET, "-c", count, "--stats", "json")
    inners = [case.inner for case in outer_cases() if case.link == 1][:count]
    assert frames_of(done.stdout) == inners
    assert json_of(done)["packets"] == len(inners)
    assert run(ETHERNET, "--count", count, "--threads", 2).stdout == done.stdout


@pytest.fixture(scope="session")
def busy(tmp_path_factory):
    """A few MB, so that several threads have several chunks each: VXLAN, others, other VNIs and cut packets."""
    cases = [*outer_cases(), *edge_cases(), *other_cases(), *strict_cases()]
    cases = [case for case in cases if case.link == 1]
    packets = [case.packet(n) for n, case in enumerate(cases)]
    folder = tmp_path_factory.mktemp("busy")
    with (folder / "busy.pcap").open("wb") as file:
        one = pcap(packets)
        file.write(one[:24] + one[24:] * 100)
    ng = Pcapng()
    ng.interface(1, tsresol=9)
    start = len(ng.data)
    for packet in packets:
        ng.epb(
            packet.data,
            units=packet.ts_ns,
            wire_len=packet.wire_len,
            options=[(1, b"note")] if packet.ts_ns % 3 else [],
        )
    (folder / "busy.pcapng").write_bytes(ng.data[:start] + ng.data[start:] * 100)
    return folder


@pytest.mark.parametrize("suffix", ["pcap", "pcapng"])
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--other", "keep"),
        ("--vni", "0,42"),
        ("--strict",),
        ("--levels", "all"),
        ("--meta", "comment"),
        ("--inner", "udp", "--outer", "ip6"),
        ("-F", "pcapng"),
        ("-F", "nsecpcap", "--other", "keep"),
        ("-c", "7001"),
    ],
    ids=" ".join,
)
def test_threads(busy: Path, suffix, options, tmp_path):
    """The same bytes and the same account, whatever the number of threads, into a file and down a pipe."""
    source = busy / f"busy.{suffix}"
    code = 3 if "--strict" in options else 0
    one = run(source, tmp_path / "1", *options, "--stats", "json", code=code)
    bytes_one, stats_one = (tmp_path / "1").read_bytes(), json_of(one)
    assert stats_one["packets"] == stats_one["passed"] + stats_one["kept"] + stats_one["dropped"]
    assert stats_one["written_bytes"] == sum(map(len, frames_of(bytes_one)))
    for threads in (2, 3):
        more = run(source, tmp_path / "n", *options, "--threads", threads, "--stats", "json", code=code)
        assert (tmp_path / "n").read_bytes() == bytes_one
        # How far a thread has read ahead of the last packet counted is its own affair.
        assert json_of(more) | dict.fromkeys(("seconds", "input_bytes")) == stats_one | dict.fromkeys(
            ("seconds", "input_bytes")
        )
    piped = run(source, "-", *options, "--threads", 3, "-q", code=code)
    assert piped.stdout == bytes_one


def test_pcapng_keeps_its_blocks():
    """Sections, interfaces, names, custom blocks, statistics and comments of the input are in the output."""
    before, after = (
        blocks((FIXTURES / "mixed.pcapng").read_bytes()),
        blocks(run(FIXTURES / "mixed.pcapng").stdout),
    )
    for kind in (0x0A0D0D0A, 4, 5, 10, 0x0BAD):
        assert [b.body for b in before if b.kind == kind] == [b.body for b in after if b.kind == kind]
    comments = [value for block in after if block.kind == 6 for code, value in block.options() if code == 1]
    assert comments == [b"first packet", b"of the obsolete kind"] * 2


def test_summary_and_quiet(tmp_path):
    done = run(FIXTURES / "others.pcap", tmp_path / "out.pcap")
    first = done.stderr.decode().splitlines()[0]
    assert first.startswith("12 packets read, 0 decapsulated, 12 dropped (1 not an IP packet; 1 IP, but not UDP; ")
    for quiet in ("-q", "--quiet"):
        done = run(FIXTURES / "others.pcap", tmp_path / "out.pcap", quiet)
        assert (done.stdout, done.stderr) == (b"", b"")


def test_stats_json(tmp_path):
    out = tmp_path / "out.pcap"
    done = run(FIXTURES / "mixed.pcapng", out, "--stats", "json", "--other", "keep", "-F", "pcap")
    (line,) = done.stderr.decode().splitlines()
    stats = json.loads(line)
    assert stats["verb"] == "decap"
    assert stats["packets"] == stats["passed"] + stats["kept"] + stats["dropped"] == 16
    assert stats["dropped"] == sum(stats["drops"].values())
    assert stats["written_bytes"] == sum(map(len, frames_of(out)))
    assert stats["written"] == len(frames_of(out)) == stats["passed"] + stats["kept"]
    assert stats["input_bytes"] == (FIXTURES / "mixed.pcapng").stat().st_size
    assert stats["fault"] is None and stats["interrupted"] is False and stats["seconds"] >= 0


def test_other_keep_into_pcap_drops_other_link_types():
    """A pcap file has one link type: rows of another are dropped, counted, and the account still adds up."""
    frame = bytes(inner_frame())
    ng = Pcapng().interface(1).interface(113)
    ng.epb(frame).epb(bytes(16) + frame[14:], interface=1).epb(bytes(eth() / ip4() / vxlan() / inner_frame()))
    done = run("-", "--other", "keep", "-F", "pcap", "--stats", "json", stdin=ng.data)
    assert frames_of(done.stdout) == [frame, frame]
    stats = json_of(done)
    assert (stats["packets"], stats["passed"], stats["kept"], stats["written"]) == (3, 1, 1, 2)
    assert stats["drops"] == {"DROP_OUTPUT_LINK_TYPE": 1}


@pytest.mark.parametrize("suffix", ["gz", "zst", "lz4"])
def test_compressed(suffix, tmp_path):
    """In and out, by content and by name."""
    from tests.streams import pack

    source, out = tmp_path / "in", tmp_path / f"out.pcap.{suffix}"
    source.write_bytes(pack(suffix, ETHERNET.read_bytes()))
    plain = run(ETHERNET).stdout
    assert run(source).stdout == plain
    assert run("-", stdin=source.read_bytes()).stdout == plain
    run(source, out, "--threads", 2)
    assert out.read_bytes()[:2] != plain[:2]
    # Read back without change: nothing goes to that port.
    assert run(out, "-p", 1, "--other", "keep").stdout == plain


def test_wire_lengths_of_cut_packets():
    long = bytes(eth() / ip4() / vxlan() / inner_frame(b"c" * 400))
    done = run("-", stdin=pcap([Packet(0, long[:96], len(long))]))
    packets, _ = ours_read(done.stdout)
    assert packets == [Packet(0, long[50:96], len(long) - 50)]
