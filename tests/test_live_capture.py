"""Live captures: what is seen at each stage and why, filters, limits, slow takers, and nothing where nobody looks."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import threading
import time
from array import array
from collections import Counter
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

import vxlanfast as vf
from tests.standin import NODE, StandIn, serving
from tests.support import PYTHON, TSHARK, VERBS_ENV, Pcapng, assert_one_line, blocks, ours_read, tshark, vxlanfast
from tests.test_replay import mac, said, wrapped
from vxlanfast import taps
from vxlanfast._ext.io.writer import CaptureEncoder
from vxlanfast.control_client import ControlClient
from vxlanfast.taps import Tap, Taps, TapSpec

Row = tuple[str, int, bytes, str]


def rows_of(data: bytes, called: list[str] | None = None) -> list[Row]:
    """Of a capture: the interface's name, the time, the frame, the comment."""
    names, rows = [], []
    for block in blocks(data):
        options = dict(block.options()) if block.kind in (1, 6) else {}
        if block.kind == 1:
            names.append(options[2].decode() if called is None else called[len(names)])
        elif block.kind == 6:
            number, high, low, length, _ = block.unpack("IIIII")
            text = options.get(1, b"").decode()
            rows.append((names[number], high << 32 | low, block.body[20 : 20 + length], text))
    return rows


def everything(tap: Tap) -> bytes:
    tap.stop()
    out = b""
    while (piece := tap.take(0)) is not None:
        out += piece
    return out


@pytest.fixture
def node() -> StandIn:
    return StandIn(vf.parse_spec(NODE))


def watched(node: StandIn, **spec: object) -> tuple[Taps, Tap]:
    captures = Taps(node.plane, node.lock)
    tap = Tap(TapSpec(**spec))  # type: ignore[arg-type]
    captures.add(tap)
    return captures, tap


def traffic(node: StandIn) -> None:
    """A frame into a tunnel, one out of one, one for a service, one that is dropped, one from a stranger."""
    node.process("veth1", said(3, 4), now_ns=1000)
    node.process("underlay", wrapped(said(4, 5)), now_ns=2000)
    node.process("veth2", shop(), now_ns=3000)
    node.process("veth1", said(4, 3), now_ns=4000)
    node.process("underlay", wrapped(said(4, 3), src="192.0.2.9"), now_ns=5000)


def shop() -> bytes:
    syn = IP(src="10.0.9.5", dst="10.0.9.100") / TCP(sport=5555, dport=80, flags="S")
    return bytes(Ether(src=mac(5), dst="02:42:0a:00:09:01") / syn)


def test_outer(node: StandIn) -> None:
    """As packets come from the underlay, and as they go there."""
    _, tap = watched(node, stages=("outer",))
    traffic(node)
    rows = rows_of(everything(tap))
    assert [row[0] for row in rows[:3]] == ["outer out underlay", "outer in underlay", "outer out underlay"]
    assert [row[1] for row in rows] == [1000, 2000, 3000, 5000]
    out, came = rows[0], rows[1]
    assert came[2] == wrapped(said(4, 5)) and came[3] == ""
    assert Ether(out[2])[IP].dst == "192.0.2.2" and VXLAN(bytes(Ether(out[2])[UDP].payload)).vni == 42
    assert out[2].endswith(said(3, 4)) and "veth1 -> 192.0.2.2: " in out[3]


def test_inner(node: StandIn) -> None:
    _, tap = watched(node)
    traffic(node)
    rows = rows_of(everything(tap))
    assert [(name, frame) for name, _, frame, _ in rows[:3]] == [
        ("inner veth1", said(3, 4)), ("inner underlay", said(4, 5)), ("inner veth2", shop()),
    ]  # fmt: skip
    assert [row[3] for row in rows[:3]] == ["veth1, vni 42", "192.0.2.2, vni 42", "veth2, vni 42"]


def test_before_and_after_translation(node: StandIn) -> None:
    _, tap = watched(node, stages=("before", "after"), expression="tcp port 80")
    traffic(node)
    (name, _, before, _), (name2, _, after, why) = rows_of(everything(tap))
    assert (name, name2) == ("before veth2", "after veth2")
    assert Ether(before)[IP].dst == "10.0.9.100" and Ether(after)[IP].dst in ("10.0.9.3", "10.0.9.4")
    assert before == shop() and "veth2 -> " in why and ": " in why


def test_dropped(node: StandIn) -> None:
    """What goes nowhere, and the verdict's sentence."""
    _, tap = watched(node, stages=("dropped",))
    traffic(node)
    rows = rows_of(everything(tap))
    assert len(rows) == sum(node.plane.stats().drops.values()) >= 2
    assert (rows[0][0], rows[0][2]) == ("dropped veth1", said(4, 3)) and "[DROP_STATION_ELSEWHERE]" in rows[0][3]
    assert rows[-1][2] == wrapped(said(4, 3), src="192.0.2.9") and "[DROP_VTEP_UNKNOWN]" in rows[-1][3]


def test_the_plane_does_the_same_watched_or_not(node: StandIn) -> None:
    other = StandIn(vf.parse_spec(NODE))
    captures, tap = watched(node, stages=taps.STAGES)
    frames = [said(3, 4), said(3, 5), said(3, 77), shop(), said(4, 3), said(3, 1)] * 3
    assert node.process("veth1", *frames) == other.process("veth1", *frames)
    assert len(rows_of(everything(tap))) > len(frames) and captures.faults == 0
    captures.remove(tap)
    assert node.plane.watch is None and node.process("veth1", *frames) == other.process("veth1", *frames)


def test_vni_port_count_snaplen(node: StandIn) -> None:
    db = bytes(Ether(src="02:00:00:00:00:07", dst="ff:ff:ff:ff:ff:ff") / IP(src="10.7.0.1", dst="10.7.0.2") / UDP())
    for stages in (("inner",), ("outer",), ("dropped",), ("before",)):
        captures, tap = watched(node, stages=stages, vnis=((7, 7), (100, 200)))
        _, all_of_it = watched(node, stages=stages)
        captures.add(all_of_it)
        traffic(node)
        node.process("veth7", db, now_ns=1)
        rows, every = rows_of(everything(tap)), rows_of(everything(all_of_it))
        assert [row for row in rows if row in every] == rows
        assert {row[1] for row in rows} <= {1} and len(every) > len(rows)
        captures.close()
    captures, tap = watched(node, stages=("before",), port="veth2")
    traffic(node)
    assert [row[0] for row in rows_of(everything(tap))][:2] == ["before underlay", "before veth2"]
    captures, tap = watched(node, stages=("inner",), count=2)
    traffic(node)
    traffic(node)
    assert len(rows_of(everything(tap))) == 2 == tap.rows and tap.done
    captures, tap = watched(node, stages=("outer",), snaplen=60)
    traffic(node)
    data = everything(tap)
    packets, fault = ours_read(data)
    assert fault is None and {len(p.data) for p in packets} == {60} and max(p.wire_len for p in packets) > 60
    with pytest.raises(vf.SpecError, match="nope"):
        watched(node, port="nope")


def test_copies_are_of_bounded_memory(node: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody takes anything: the node goes on, rows are left out, and every one of them is counted."""
    monkeypatch.setattr(taps, "HELD_MAX", 1 << 16)
    _, tap = watched(node)
    for _ in range(400):
        node.process("veth1", *[said(3, 4)] * 5)
    assert tap._held < 1 << 18
    got = rows_of(everything(tap))
    assert tap.lost > 0 and len(got) + tap.lost == 2000 and tap.rows == len(got)


def test_a_spec_applied_meanwhile(node: StandIn) -> None:
    """Ports and networks have other numbers from then on, and names say so."""
    captures, tap = watched(node, stages=("inner",), vnis=((42, 42),))
    node.process("veth1", said(3, 4))
    networks = {network.name: network for network in node.spec.network}
    swapped = vf.NodeSpec(vtep=node.spec.vtep, network=(networks["db"], networks["web"]))
    node.plane.apply(swapped)
    node.process("veth1", said(3, 4))
    rows = rows_of(everything(tap))
    assert [row[0] for row in rows] == ["inner veth1"] * 2 and [row[3] for row in rows] == ["veth1, vni 42"] * 2
    assert captures.faults == 0


def test_so_many_at_a_time(node: StandIn) -> None:
    captures = Taps(node.plane, node.lock)
    all_of_them = [Tap(TapSpec()) for _ in range(taps.TAPS_MAX)]
    for tap in all_of_them:
        captures.add(tap)
    with pytest.raises(vf.SpecError, match=f"{taps.TAPS_MAX} run already"):
        captures.add(Tap(TapSpec()))
    node.process("veth1", said(3, 4))
    captures.close()
    assert len(captures) == 0 and node.plane.watch is None
    assert len({everything(tap) for tap in all_of_them}) == 1


def test_pick() -> None:
    """Rows of a batch, whole, in the order they leave in, with what is known of each."""
    batch = vf.PacketBatch.from_frames([bytes([n]) * (n + 1) for n in range(9)], ts_ns=range(9), port_in=3)
    batch.verdict[2] = batch.verdict[5] = 81
    batch.port_out[4] = batch.port_out[7] = 9
    some, dropped = batch.pick(snaplen=4), batch.pick(dropped=True)
    assert some is not None and dropped is not None
    cut = [bytes([n]) * min(n + 1, 4) for n in (0, 1, 3, 4, 6, 7, 8)]
    assert [bytes(some.frame(i)) for i in range(len(some))] == cut
    assert some.wire_lengths.tolist() == [1, 2, 4, 5, 7, 8, 9] and some.ts_ns.tolist() == [0, 1, 3, 4, 6, 7, 8]
    assert dropped.verdict.tolist() == [81, 81] and set(some.port_in) == {3}
    batch.group_by_port()
    other = batch.pick(port_out=9)
    assert other is not None and other.ts_ns.tolist() == [4, 7] and other.memory > 0
    assert batch.pick(port_in=4) is None and batch.pick(nets=[]) is None
    assert vf.PacketBatch().pick() is None


def test_note_by() -> None:
    """Few comments for many rows."""
    batch = vf.PacketBatch.from_frames([bytes(60)] * 5)
    batch.note_by(["one", "", "zwölf"], array("I", [0, 2, 1, 0, 2]))
    batch.leave_by_ports()
    encoder = CaptureEncoder("pcapng")
    encoder.begin([1], tsresol=9)
    assert encoder.encode(batch) is None
    assert [row[3] for row in rows_of(encoder.pending().tobytes(), ["x"])] == ["one", "zwölf", "", "one", "zwölf"]
    for texts, which in ((["a"], [0, 0, 0, 0, 1]), (["a"], [0])):
        with pytest.raises((IndexError, ValueError)):
            batch.note_by(texts, array("I", which))
    view = batch.vni
    with pytest.raises(BufferError):
        batch.note_by(["a"], array("I", [0] * 5))
    view.release()


# --- through the socket ---------------------------------------------------------------------------------


def send_until(node: StandIn, ended: threading.Event) -> None:
    n = 0
    while not ended.is_set():
        node.process("veth1", said(3, 4), now_ns=n)
        n += 1
        time.sleep(0.002)


@pytest.fixture
def busy(tmp_path: Path):
    """A node with traffic, and its socket."""
    path = tmp_path / "node.sock"
    ended = threading.Event()
    with serving(path) as node:
        worker = threading.Thread(target=send_until, args=(node, ended))
        worker.start()
        try:
            yield node, path
        finally:
            ended.set()
            worker.join(60)


def quiet(node: StandIn) -> bool:
    """Whether, sooner or later, nobody watches any more."""
    until = time.monotonic() + 60
    while node.plane.watch is not None and time.monotonic() < until:
        time.sleep(0.02)
    return node.plane.watch is None


def test_command(busy: tuple[StandIn, Path], tmp_path: Path) -> None:
    node, path = busy
    out = tmp_path / "out.pcapng"
    done = vxlanfast("capture", "--stage", "inner", "--stage", "outer", "-c", "20", "-w", out, "--socket", path, "udp")
    assert done.returncode == 0, done.stderr
    assert done.stderr == b"20 packets captured, 0 left out\n"
    rows = rows_of(out.read_bytes())
    assert Counter(row[0] for row in rows) == {"inner veth1": 10, "outer out underlay": 10}
    packets, fault = ours_read(out.read_bytes())
    assert fault is None and len(packets) == 20
    assert quiet(node)


@pytest.mark.tshark
@pytest.mark.skipif(TSHARK is None, reason="tshark is not installed")
def test_tshark_reads_it(busy: tuple[StandIn, Path], tmp_path: Path) -> None:
    _, path = busy
    out = tmp_path / "out.pcapng"
    assert vxlanfast("capture", "--stage", "outer", "-c", "5", "-w", out, "--socket", path).returncode == 0
    seen = tshark(out, "frame.interface_name", "vxlan.vni", "frame.comment")
    assert len(seen) == 5
    assert {(row[0], row[1]) for row in seen} == {("outer out underlay", "42")} and "192.0.2.2" in seen[0][2]


def test_to_standard_output_until_ctrl_c(busy: tuple[StandIn, Path]) -> None:
    node, path = busy
    command = [PYTHON, "-m", "vxlanfast", "capture", "--socket", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=VERBS_ENV) as run:
        assert run.stdout is not None
        first = b""
        while len(first) < 2000:
            piece = os.read(run.stdout.fileno(), 4096)
            assert piece, "it ended"
            first += piece
        run.send_signal(signal.SIGINT)
        rest, told = run.communicate(timeout=60)
    assert run.returncode == 0 and b"Traceback" not in told and told.endswith(b" left out\n")
    assert len(rows_of(first + rest)) == int(told.split()[0].replace(b",", b""))
    assert quiet(node)


def test_readers_that_go_away(busy: tuple[StandIn, Path]) -> None:
    """Of the command's output, and of the socket: the node stops copying."""
    node, path = busy
    command = [PYTHON, "-m", "vxlanfast", "capture", "--socket", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=VERBS_ENV) as run:
        assert run.stdout is not None and run.stderr is not None
        os.read(run.stdout.fileno(), 4096)
        run.stdout.close()
        assert run.wait(60) == 0 and run.stderr.read() == b""
    assert quiet(node)
    client = ControlClient(str(path))
    pieces = client.capture()
    assert next(pieces)
    assert node.plane.watch is not None
    client.close()
    assert quiet(node)


def test_a_client_that_takes_nothing_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taps, "HELD_MAX", 1 << 18)
    path = tmp_path / "node.sock"
    with serving(path) as node:
        client = ControlClient(str(path))
        pieces = client.capture()
        data = next(pieces)
        count = 0
        until = time.monotonic() + 60
        (tap,) = node.plane.watch._taps  # type: ignore[union-attr]
        while not tap.lost and time.monotonic() < until:
            node.process("veth1", *[said(3, 4, UDP() / bytes(1000))] * 100)
            count += 100
        assert tap.lost
        client.end()
        data += b"".join(pieces)
        last = client.reply()
        client.close()
        assert last["ok"] and last["faults"] == 0
        assert last["rows"] == len(rows_of(data)) and last["rows"] + last["lost"] == count


def test_refused(tmp_path: Path) -> None:
    path, out = tmp_path / "node.sock", tmp_path / "out.pcapng"
    with serving(path):
        for words, part in (
            (["tcp prot 80"], "filter"), (["-i", "nope"], "veth1"), (["--stage", "x"], "outer"),
            (["--vni", "a"], "VNI"), (["-c", "0"], "-c"), (["-s", "0"], "-s"),
        ):  # fmt: skip
            run = vxlanfast("capture", "-w", out, "--socket", path, *words)
            assert_one_line(run, 2, part)
            assert not out.exists()
    assert_one_line(vxlanfast("capture", "-w", out, "--socket", path), 1, "start one with")
    assert list(tmp_path.iterdir()) == []


def test_a_node_that_dies(tmp_path: Path) -> None:
    """What came until then is a whole file."""
    path, out = tmp_path / "node.sock", tmp_path / "out.pcapng"
    whole = Pcapng().interface(tsresol=9).epb(said(3, 4)).data

    def die(server: socket.socket) -> None:
        client, _ = server.accept()
        with client:
            client.recv(4096)
            client.sendall(b'{"v":1,"ok":true}\n' + len(whole).to_bytes(4, "big") + whole)

    with socket.socket(socket.AF_UNIX) as server:
        server.settimeout(60)
        server.bind(str(path))
        server.listen()
        worker = threading.Thread(target=die, args=(server,))
        worker.start()
        run = vxlanfast("capture", "-w", out, "--socket", path)
        worker.join(60)
    assert_one_line(run, 1, "the node ended")
    assert out.read_bytes() == whole and io.BytesIO(whole).read(4) == b"\n\r\r\n"
