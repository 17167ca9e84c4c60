"""decap_file, encap_file and restore_file: formats, compressions, kinds of files, accounts and errors."""

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vxlanfast as vf
from tests.make_fixtures import (
    edge_cases,
    eth,
    inner_frame,
    inner_frames,
    ip4,
    other_cases,
    outer_cases,
    strict_cases,
    vxlan,
)
from tests.streams import KINDS, pack
from tests.support import FIXTURES, Packet, Pcapng, assert_adds_up, frames_of, ours_read, pcap

ETHERNET = FIXTURES / "outer-ethernet.pcap"
TUNNEL = vf.TunnelSpec(vni=42, src="192.0.2.1", dst="192.0.2.2")
CASES = [case for case in (*outer_cases(), *edge_cases(), *other_cases(), *strict_cases()) if case.link == 1]


def inners() -> list[bytes]:
    return [case.inner for case in outer_cases() if case.link == 1]


def decapped(source, **options) -> tuple[vf.Stats, bytes]:
    """Stats and output of a source given as bytes, path or file."""
    out = io.BytesIO()
    stats = vf.decap_file(io.BytesIO(source) if isinstance(source, bytes) else source, out, **options)
    return stats, out.getvalue()


# --- formats --------------------------------------------------------------------------------------------

FORMATS = {
    "pcap": {},
    "pcap-be": {"big": True},
    "nsecpcap": {"magic": 0xA1B23C4D},
    "modified": {"magic": 0xA1B2CD34},
}


@pytest.mark.parametrize("source", [*FORMATS, "pcapng", "pcapng-be"])
@pytest.mark.parametrize("target", ["pcap", "nsecpcap", "pcapng", None])
def test_every_format_into_every_other(source, target):
    """The same frames, times and lengths, as far as the format holds the digits of the times."""
    packets = [
        Packet(1_700_000_000_123_456_789 + n, frame, len(frame) + n) for n, frame in enumerate(frames_of(ETHERNET))
    ]
    if source.startswith("pcapng"):
        ng = Pcapng(big=source.endswith("be")).interface(1, tsresol=9)
        for packet in packets:
            ng.epb(packet.data, units=packet.ts_ns, wire_len=packet.wire_len)
        data = ng.data
    else:
        data = pcap(packets, **FORMATS[source])
    nanoseconds = source in ("nsecpcap", "pcapng", "pcapng-be") and target != "pcap"
    stats, out = decapped(data, format=target)
    assert_adds_up(stats)
    read, fault = ours_read(out)
    assert fault is None
    assert [packet.data for packet in read] == inners()
    assert [p.ts_ns for p in read] == [p.ts_ns if nanoseconds else p.ts_ns // 1000 * 1000 for p in packets]
    magics = {"pcap": "d4c3b2a1", "nsecpcap": "4d3cb2a1", "pcapng": "0a0d0d0a"}
    if target:
        magic = bytes.fromhex(magics[target])  # (that of pcapng reads the same from both ends)
        assert out[:4] == (magic[::-1] if source.endswith("-be") else magic)
    cut = target == "pcap" and source in ("nsecpcap", "pcapng", "pcapng-be")
    assert any("times are cut to microseconds" in warning for warning in stats.warnings) == cut


@pytest.mark.parametrize("kind_in", [*KINDS, None])
@pytest.mark.parametrize("kind_out", [*KINDS, None])
@pytest.mark.parametrize("threads", [1, 2])
def test_compressions(kind_in, kind_out, threads, tmp_path):
    source, target = tmp_path / "in", tmp_path / f"out.pcap.{kind_out or ''}".rstrip(".")
    data = ETHERNET.read_bytes()
    source.write_bytes(pack(kind_in, data) if kind_in else data)
    stats = vf.decap_file(source, target, threads=threads)
    assert_adds_up(stats)
    assert stats.input_bytes == source.stat().st_size
    # Back in, unchanged: no packet goes to that port.
    _, out = decapped(target, ports=(1,), other="keep")
    assert frames_of(out) == inners()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["in", target.name])


# --- kinds of files -------------------------------------------------------------------------------------


def test_kinds_of_files(tmp_path):
    """str, PathLike, FileIO, buffered, BytesIO, and an object with nothing but read() or write()."""

    class Reads:
        def __init__(self, data: bytes) -> None:
            self.file = io.BytesIO(data)

        def read(self, size: int) -> bytes:
            return self.file.read(min(size, 100))

    class Writes:
        def __init__(self) -> None:
            self.pieces: list[bytes] = []

        def write(self, buffer) -> int:
            self.pieces.append(bytes(buffer)[:50])
            return len(self.pieces[-1])

    data = ETHERNET.read_bytes()
    _, expected = decapped(data)
    outs = [tmp_path / "a", str(tmp_path / "b")]
    with ETHERNET.open("rb", buffering=0) as raw, ETHERNET.open("rb") as buffered:
        for source in (ETHERNET, str(ETHERNET), raw, buffered, io.BytesIO(data), Reads(data)):
            for target in outs:
                assert vf.decap_file(source, target).passed == 28
                assert Path(target).read_bytes() == expected
                if hasattr(source, "seek"):
                    source.seek(0)
                elif isinstance(source, Reads):
                    source.file.seek(0)
        assert not raw.closed and not buffered.closed
    for buffering in (0, -1):
        with (tmp_path / "c").open("wb", buffering=buffering) as file:
            vf.decap_file(ETHERNET, file, threads=2)
            assert not file.closed
        assert (tmp_path / "c").read_bytes() == expected
    writes = Writes()
    vf.decap_file(ETHERNET, writes)
    assert b"".join(writes.pieces) == expected


def test_wrong_kinds(tmp_path):
    for wrong in (None, 3, object(), [ETHERNET]):
        with pytest.raises(TypeError):
            vf.decap_file(wrong, io.BytesIO())
        with pytest.raises(TypeError):
            vf.decap_file(ETHERNET, wrong)
    with pytest.raises(TypeError, match="binary"):
        vf.decap_file(io.StringIO("text"), io.BytesIO())


# --- accounts -------------------------------------------------------------------------------------------


def test_count():
    for count in (1, 27, 28, 29):
        for threads in (1, 2):
            stats, out = decapped(ETHERNET, count=count, threads=threads)
            assert (stats.packets, len(frames_of(out))) == (min(count, 28),) * 2


def test_watch():
    """Called once a batch with packets so far, bytes so far and the size; True ends the run behind the batch."""
    one = ETHERNET.read_bytes()
    data = one[:24] + one[24:] * 2000
    calls: list[tuple[int, int, int]] = []
    stats, out = decapped(data, watch=lambda *call: calls.append(call))  # type: ignore[func-returns-value]
    assert not stats.interrupted
    assert len(calls) > 2 and calls == sorted(calls)
    assert calls[-1][:2] == (56000, len(data)) and {size for _, _, size in calls} == {len(data)}
    stats, part = decapped(data, watch=lambda packets, position, size: packets >= calls[1][0])
    assert stats.interrupted and "[interrupted]" in stats.summary()
    assert stats.packets == stats.written == len(frames_of(part)) == calls[1][0]
    assert out.startswith(part)


def test_an_error_in_watch_leaves_no_file(tmp_path):
    def watch(*call: object) -> bool:
        raise RuntimeError("enough")

    for threads in (1, 3):
        with pytest.raises(RuntimeError, match="enough"):
            vf.decap_file(ETHERNET, tmp_path / "out", watch=watch, threads=threads)
        assert list(tmp_path.iterdir()) == []


@given(
    picks=st.lists(st.sampled_from(CASES), max_size=40),
    other=st.sampled_from(["keep", "drop", "fail"]),
    strict=st.booleans(),
    levels=st.sampled_from([1, 2, None]),
    vni=st.sampled_from([None, 42, {0, (5, 99)}]),
    reassemble=st.booleans(),
    meta=st.sampled_from(["none", "comment", "interface"]),
    threads=st.integers(1, 3),
    inner=st.sampled_from([None, "udp", "arp"]),
    outer=st.sampled_from([None, "ip6"]),
    ng=st.booleans(),
)
@settings(max_examples=60)
def test_accounts_add_up(picks, other, strict, levels, vni, reassemble, meta, threads, inner, outer, ng):
    """packets = passed + kept + dropped and written = what is in the output, whatever the options."""
    packets = [case.packet(n) for n, case in enumerate(picks)]
    if ng:
        capture = Pcapng().interface(1, tsresol=9)
        for packet in packets:
            capture.epb(packet.data, units=packet.ts_ns, wire_len=packet.wire_len)
        data = capture.data
    else:
        data = pcap(packets)
    stats, out = decapped(
        data,
        other=other,
        strict=strict,
        levels=levels,
        vni=vni,
        reassemble=reassemble,
        meta=meta,
        threads=threads,
        inner=inner,
        outer=outer,
    )
    assert_adds_up(stats)
    frames = frames_of(out)
    assert stats.packets == len(picks)
    assert stats.written == len(frames) == stats.passed + stats.kept
    assert stats.written_bytes == sum(map(len, frames))
    assert stats.kept == (stats.others if other == "keep" and outer is None else stats.kept)
    assert stats.fault is None and not stats.interrupted


@given(
    mtu=st.sampled_from([None, 576, 1500]),
    policy=st.sampled_from(["warn", "drop", "fragment"]),
    threads=st.integers(1, 2),
    picks=st.lists(st.sampled_from(inner_frames()), max_size=30),
    v6=st.booleans(),
)
@settings(max_examples=30)
def test_encap_accounts_add_up(mtu, policy, threads, picks, v6):
    mtu = 1280 if mtu == 576 and v6 else mtu
    ends = ("2001:db8::1", "2001:db8::2") if v6 else ("192.0.2.1", "192.0.2.2")
    spec = vf.TunnelSpec(vni=7, src=ends[0], dst=ends[1], mtu=mtu, mtu_policy=policy)
    out = io.BytesIO()
    stats = vf.encap_file(io.BytesIO(pcap(picks)), out, spec, threads=threads)
    assert_adds_up(stats)
    frames = frames_of(out.getvalue())
    assert stats.written == len(frames)
    over = sum(mtu is not None and len(frame) + spec.overhead - 14 > mtu for frame in picks)
    assert stats.details["over_mtu"] == over
    assert stats.dropped == (over if policy == "drop" else 0)
    if policy != "fragment":
        assert [frame[spec.overhead :] for frame in frames] == [
            f for f in picks if policy == "warn" or mtu is None or len(f) + spec.overhead - 14 <= mtu
        ]
    else:
        assert all(mtu is None or len(frame) <= mtu + 14 for frame in frames)


@given(
    picks=st.lists(st.sampled_from(CASES), max_size=30),
    meta=st.sampled_from(["comment", "interface"]),
    other=st.sampled_from(["keep", "drop"]),
    levels=st.sampled_from([1, None]),
)
@settings(max_examples=60)
def test_restore_gives_the_original(picks, meta, other, levels):
    packets = [case.packet(n) for n, case in enumerate(picks)]
    first, kept = decapped(pcap(packets, magic=0xA1B23C4D), meta=meta, other=other, levels=levels)
    out = io.BytesIO()
    stats = vf.restore_file(io.BytesIO(kept), out)
    assert_adds_up(stats)
    assert stats.passed == first.passed
    if other == "keep":
        assert [p[:3] for p in ours_read(out.getvalue())[0]] == [p[:3] for p in packets]
    else:
        assert stats.packets == first.passed and stats.kept == 0


# --- faults ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("cut", [1, 17, 40])
def test_cut_input(threads, cut, tmp_path):
    """CaptureError with what was done, where, and of which file; the output is whole."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.write_bytes(ETHERNET.read_bytes()[:-cut])
    with pytest.raises(vf.CaptureError) as caught:
        vf.decap_file(source, out, threads=threads)
    error = caught.value
    assert error.path == str(source) and error.exit_code == 1
    assert isinstance(error.stats, vf.Stats)
    assert_adds_up(error.stats)
    assert error.stats.packets == error.stats.written == 27
    assert error.stats.fault == str(error)
    assert frames_of(out) == inners()[:27]
    with pytest.raises(vf.CaptureError) as caught:
        vf.encap_file(source, out, TUNNEL, threads=threads)
    assert caught.value.stats.written == 27


def test_no_capture_leaves_no_file(tmp_path):
    for data in (b"", b"x", b"no capture" * 99):
        with pytest.raises(vf.CaptureError) as caught:
            vf.decap_file(io.BytesIO(data), tmp_path / "out")
        assert caught.value.stats is None
    assert list(tmp_path.iterdir()) == []


def test_output_errors(tmp_path):
    source = tmp_path / "in"
    source.write_bytes(ETHERNET.read_bytes())
    with pytest.raises(vf.OutputError, match="is the input"):
        vf.decap_file(source, source)
    with pytest.raises(vf.OutputError) as caught:
        vf.decap_file(source, tmp_path / "none" / "out")
    assert isinstance(caught.value, OSError) and caught.value.filename == str(tmp_path / "none" / "out")
    with pytest.raises(vf.OutputError, match="No space left"):
        vf.decap_file(source, "/dev/full")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    "options",
    [
        {"format": "erf"},
        {"count": 0},
        {"threads": 0},
        {"levels": 0},
        {"levels": 256},
        {"other": "burn"},
        {"meta": "all"},
        {"ports": (0,)},
        {"ports": (65536,)},
        {"vni": -1},
        {"vni": 1 << 24},
        {"vni": ()},
        {"vni": {(5, 4)}},
        {"meta": "comment", "format": "pcap"},
    ],
    ids=str,
)
def test_spec_errors(options, tmp_path):
    with pytest.raises(vf.SpecError) as caught:
        vf.decap_file(ETHERNET, tmp_path / "out", **options)
    assert isinstance(caught.value, ValueError) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_restore_spec_error(tmp_path):
    with pytest.raises(vf.SpecError, match="keep, drop or fail"):
        vf.restore_file(ETHERNET, tmp_path / "out", other="burn")


def test_filter_error(tmp_path):
    for side in ("inner", "outer"):
        with pytest.raises(vf.FilterError, match="no such"):
            vf.decap_file(ETHERNET, tmp_path / "out", **{side: "no such thing"})
    assert list(tmp_path.iterdir()) == []


def test_empty_captures():
    for data in (pcap([]), Pcapng().data, Pcapng().interface(1).data):
        stats, out = decapped(data)
        assert stats.packets == 0 and not stats.warnings and frames_of(out) == []
        assert stats.summary() == "0 packets read, 0 decapsulated"


def test_vni_sets():
    data = pcap([bytes(eth() / ip4() / vxlan(vni) / inner_frame(b"%d" % vni)) for vni in range(1, 10)])
    for vni, kept in ((3, [3]), ({1, 9}, [1, 9]), ([(2, 4), 4, (8, 8)], [2, 3, 4, 8]), (None, [*range(1, 10)])):
        stats, out = decapped(data, vni=vni)
        assert [int(frame[42:]) for frame in frames_of(out)] == kept
        assert stats.drops == ({"DROP_FILTER_VNI": 9 - len(kept)} if len(kept) < 9 else {})
