"""Several threads: the bytes and the account of one, and an end for every kind of failure."""

import io
import os
import threading

import pytest

import vxlanfast as vf
from tests.make_fixtures import inner_frames
from tests.support import CAPTURES, FIXTURES, assert_adds_up, frames_of, pcap
from vxlanfast import capture, parallel

TUNNEL = vf.TunnelSpec(vni=42, src="192.0.2.1", dst="192.0.2.2", mtu=1400, mtu_policy="fragment")
FILES = sorted(FIXTURES.glob("*.pcap*")) + (sorted((CAPTURES / "vxlan").glob("*.pcap")) if CAPTURES else [])


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Even small files give several threads something to do: a few records at a time."""
    monkeypatch.setattr(capture, "CHUNK_LEN", 2048)
    monkeypatch.setattr(capture, "ROWS", 16)


def run(work, source, target, **options):
    """Stats of a run, with or without a fault in its input."""
    try:
        return work(source, target, **options)
    except vf.CaptureError as error:
        return error.stats


def same(stats: vf.Stats | None) -> object:
    if stats is None:
        return None
    assert_adds_up(stats)
    return {**stats.as_dict(), "seconds": 0, "input_bytes": 0}


def encap(source, target, **options):
    return vf.encap_file(source, target, TUNNEL, **options)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name[-40:])
def test_the_same_bytes(path, tmp_path):
    for work, options in (
        (vf.decap_file, {}),
        (vf.decap_file, {"other": "keep", "format": "pcapng"}),
        (vf.decap_file, {"meta": "comment"}),
        (vf.decap_file, {"vni": (0, (40, 5000)), "levels": None, "strict": True}),
        (encap, {}),
        (encap, {"inner": "ip"}),
    ):  # fmt: skip
        one = run(work, path, tmp_path / "1", **options)
        for threads in (2, 3):
            many = run(work, path, tmp_path / "n", threads=threads, **options)
            assert same(many) == same(one)
            if one is not None:
                assert (tmp_path / "n").read_bytes() == (tmp_path / "1").read_bytes(), (work, options, threads)
            memory = io.BytesIO()
            run(work, path, memory, threads=threads, **options)
            assert one is None or memory.getvalue() == (tmp_path / "1").read_bytes()


@pytest.fixture
def busy(tmp_path):
    one = (FIXTURES / "outer-ethernet.pcap").read_bytes()
    path = tmp_path / "in.pcap"
    path.write_bytes(one[:24] + one[24:] * 300)
    return path


def test_into_a_pipe(busy):
    """In turn, without offsets."""
    read_end, write_end = os.pipe()
    got: list[bytes] = []

    def drain() -> None:
        with open(read_end, "rb") as file:
            got.append(file.read())

    reader = threading.Thread(target=drain)
    reader.start()
    with open(write_end, "wb", buffering=0) as file:
        stats = vf.decap_file(busy, file, threads=3)
    reader.join()
    out = io.BytesIO()
    vf.decap_file(busy, out)
    assert stats.passed == 8400
    assert got == [out.getvalue()]


def test_into_a_closed_pipe(busy):
    read_end, write_end = os.pipe()
    os.close(read_end)
    with open(write_end, "wb", buffering=0) as file, pytest.raises(BrokenPipeError):
        vf.decap_file(busy, file, threads=3)


def test_behind_what_a_file_holds_already(busy, tmp_path):
    out = io.BytesIO()
    vf.decap_file(busy, out)
    with (tmp_path / "out").open("wb", buffering=0) as file:
        file.write(b"before")
        vf.decap_file(busy, file, threads=3)
        file.write(b"after")
    assert (tmp_path / "out").read_bytes() == b"before" + out.getvalue() + b"after"


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_stop_by_watch(busy, tmp_path, threads):
    """Whole records, in order, up to where the run was stopped."""
    whole = io.BytesIO()
    vf.decap_file(busy, whole)
    stats = vf.decap_file(busy, tmp_path / "out", threads=threads, watch=lambda packets, position, size: packets > 1000)
    assert stats.interrupted and 1000 < stats.packets < 8400
    assert stats.written == stats.packets == len(frames_of(tmp_path / "out"))
    assert whole.getvalue().startswith((tmp_path / "out").read_bytes())


@pytest.mark.parametrize("broken", ["step", "read", "write"])
@pytest.mark.parametrize("threads", [2, 3])
def test_an_error_in_a_thread(busy, tmp_path, monkeypatch, broken, threads):
    """It comes out of the call, no thread is left, and no file."""
    from vxlanfast import files
    from vxlanfast.source import Source

    calls = 0

    def fail_later(*args: object) -> None:
        nonlocal calls
        calls += 1
        if calls > 5:
            raise ZeroDivisionError("on purpose")

    if broken == "step":
        real = files.decap_plan

        def plan(**options):
            made = real(**options)
            made.steps.append(fail_later)
            return made

        monkeypatch.setattr(files, "decap_plan", plan)
    elif broken == "read":
        readinto = Source.readinto

        def read(self, buffer):
            fail_later()
            return readinto(self, buffer)

        monkeypatch.setattr(Source, "readinto", read)
    else:
        monkeypatch.setattr(parallel._Line, "_put", fail_later)
    before = set(threading.enumerate())
    with pytest.raises(ZeroDivisionError, match="on purpose"):
        vf.decap_file(busy, tmp_path / "out", threads=threads)
    assert set(threading.enumerate()) <= before  # others' of before may have ended
    assert [path.name for path in tmp_path.iterdir()] == ["in.pcap"]


@pytest.mark.parametrize("threads", [2, 5])
def test_interrupted_in_a_read(busy, tmp_path, monkeypatch, threads):
    """Ctrl-C where the main thread is just reading: an end behind the last whole packet, not a failure."""
    from vxlanfast.errors import Interrupted
    from vxlanfast.source import Source

    readinto, calls = Source.readinto, 0

    def read(self, buffer):
        nonlocal calls
        calls += 1
        if calls > 20:
            raise Interrupted
        return readinto(self, buffer)

    monkeypatch.setattr(Source, "readinto", read)
    stats = vf.decap_file(busy, tmp_path / "out", threads=threads)
    assert stats.interrupted and 0 < stats.packets < 8400
    assert stats.written == stats.packets == len(frames_of(tmp_path / "out"))


def test_more_threads_than_work(tmp_path):
    for frames in ([], inner_frames()[:1], inner_frames()):
        stats = vf.encap_file(io.BytesIO(pcap(frames)), tmp_path / "out", TUNNEL, threads=16)
        assert stats.packets == stats.passed == len(frames)


def test_what_needs_one_thread_says_so(tmp_path):
    for options in ({"reassemble": True}, {"meta": "interface"}):
        stats = vf.decap_file(FIXTURES / "mixed.pcapng", tmp_path / "out", threads=4, **options)
        assert any(warning.startswith("one thread was used: ") for warning in stats.warnings)


@pytest.mark.parametrize(("cores", "large", "want"), [({0, 1}, 1000, 2), ({0}, 1000, 1), ({0, 1}, 1 << 40, 1)])
def test_two_where_nobody_says(busy, tmp_path, monkeypatch, cores, large, want):
    """Of a large file on a machine with a second core; and what needs one thread has it without a word."""
    ran = []
    run_parallel = parallel.run_parallel

    def counted(plans, *rest):
        ran.append(len(plans))
        return run_parallel(plans, *rest)

    monkeypatch.setattr(parallel, "run_parallel", counted)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: cores)
    monkeypatch.setattr("vxlanfast.capture.LARGE_LEN", large)
    one = vf.decap_file(busy, tmp_path / "one")
    assert not ran
    stats = vf.decap_file(busy, tmp_path / "some", threads=None)
    assert ran == ([2] if want == 2 else [])
    assert same(stats) == same(one)
    assert (tmp_path / "some").read_bytes() == (tmp_path / "one").read_bytes()
    assert not vf.decap_file(busy, tmp_path / "some", threads=None, reassemble=True).warnings


@pytest.mark.parametrize("source", FILES, ids=lambda path: path.name)
def test_a_large_file_is_read_in_other_pieces(source, tmp_path, monkeypatch):
    """Whatever a chunk holds, the bytes that leave are the same."""
    outputs = []
    for large in (1 << 60, 0):
        monkeypatch.setattr(capture, "LARGE_LEN", large)
        stats = run(vf.decap_file, source, tmp_path / f"{large}", other="keep")
        outputs.append((same(stats), (tmp_path / f"{large}").read_bytes() if stats else None))
    assert outputs[0] == outputs[1]
