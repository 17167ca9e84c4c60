"""The mirror receiver: real captures sent with tcpreplay, GENEVE, rotation, overload, TAP."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

from tests.lab import inside, ip, namespaces, need_root, packet_socket
from tests.support import CAPTURES, blocks, capture_path, frames_of, free_port, ours_read, pcap, table, until
from vxlanfast import decap_file
from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.node.decap import Decap
from vxlanfast._ext.verdict import Verdict
from vxlanfast.errors import DeviceError, SpecError
from vxlanfast.recv import Received, Receiver
from vxlanfast.rotate import RotatingCapture
from vxlanfast.sockets import open_udp, vxlan_devices

INNER = bytes.fromhex("02000000000b 02000000000a 88b5")
VNI_42 = bytes.fromhex("0800000000002a00")


@contextlib.contextmanager
def running(receiver: Receiver) -> Iterator[list[Received]]:
    """The receiver at work in another thread; stopped at the end, and its account put into the list."""
    accounts: list[Received] = []
    thread = threading.Thread(target=lambda: accounts.append(receiver.run()))
    thread.start()
    try:
        yield accounts
    finally:
        receiver.stop()
        thread.join(60)
        receiver.close()
    assert not thread.is_alive() and len(accounts) == 1
    done = accounts[0]
    assert done.received == done.written + done.dropped


def received(receiver: Receiver) -> int:
    return sum(edge.edge.packets for edge in receiver.edges)


def local(target: object, **options: Any) -> tuple[Receiver, int]:
    """A receiver at a free port of 127.0.0.1, and the port."""
    for _ in range(20):
        port = free_port()
        options.setdefault("geneve_ports", ())
        try:
            return Receiver(target, ports=[port], bind=["127.0.0.1"], **options), port  # type: ignore[arg-type]
        except DeviceError:
            continue
    raise AssertionError("no free port")


def send(port: int, *payloads: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for payload in payloads:
            sock.sendto(payload, ("127.0.0.1", port))


# --- captures of others, with tcpreplay -----------------------------------------------------------------


def whole_captures() -> list[str]:
    """Captures of Ethernet frames that a veth takes and no snaplen has cut."""
    if CAPTURES is None:
        return []
    out = []
    for row in table(CAPTURES / "vxlan" / "INDEX.tsv"):
        packets, fault = ours_read((CAPTURES / "vxlan" / row["file"]).read_bytes())
        fits = all(len(p.data) == p.wire_len <= 9000 and p.link == 1 for p in packets)
        if fault is None and fits and int(row["inner_frames"]):
            out.append(row["file"])
    return out


@contextlib.contextmanager
def veth(a_address: str = "10.77.0.1/24") -> Iterator[tuple[str, str, str]]:
    """Two namespaces with a veth ``v0`` between them; and the MAC of the first's end."""
    need_root("tcpreplay", "tcprewrite")
    with namespaces("a", "b") as (a, b):
        ip("-n", a, "link", "add", "v0", "mtu", "9100", "type", "veth", "peer", "name", "v0", "netns", b)
        ip("-n", b, "link", "set", "v0", "mtu", "9100")
        for name in (a, b):
            with inside(name):
                for key, value in (("ipv6/conf/v0/disable_ipv6", "1"), ("ipv4/conf/all/rp_filter", "0"),
                                   ("ipv4/conf/v0/rp_filter", "0")):  # fmt: skip
                    Path(f"/proc/sys/net/{key}").write_text(value)
            ip("-n", name, "link", "set", "v0", "up")
        ip("-n", a, "addr", "add", a_address, "dev", "v0")
        with inside(a):
            text = subprocess.run(
                ["ip", "-br", "link", "show", "v0"], capture_output=True, text=True, check=True
            ).stdout
        yield a, b, text.split()[2]


def tcpreplay(namespace: str, path: Path) -> None:
    run = subprocess.run(
        ["ip", "netns", "exec", namespace, "tcpreplay", "-q", "-i", "v0", "--pps", "2000", str(path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr


@pytest.mark.root
def test_captures_at_an_interface_frame_for_frame(tmp_path: Path) -> None:
    """Addressed to whomever: a packet socket takes everything, and gives what decap makes of the file."""
    names = whole_captures()
    if not names:
        pytest.skip("the captures of others are not here")
    assert len(names) >= 10
    with veth() as (a, b, _):
        for name in names:
            path = capture_path("vxlan", name)
            out = tmp_path / f"{name}.pcapng"
            with inside(a):
                receiver = Receiver(out, interface="v0")
            with running(receiver) as accounts:
                tcpreplay(b, path)
                wanted = len(frames_of(path))
                until(name, lambda r=receiver, n=wanted: received(r) >= n)
            expected = BytesIO()
            decap_file(str(path), expected)
            assert frames_of(out) == frames_of(expected.getvalue()), name
            assert accounts[0].kernel_drops == 0


@pytest.mark.root
def test_captures_at_a_udp_port_frame_for_frame(tmp_path: Path) -> None:
    """Addressed to us: the kernel takes them, puts fragments together, and the frames are decap's, in order."""
    names = whole_captures()
    if not names:
        pytest.skip("the captures of others are not here")
    done = 0
    with veth() as (a, b, mac):
        for name in names:
            path, moved = capture_path("vxlan", name), tmp_path / name
            subprocess.run(
                ["tcprewrite", f"--enet-dmac={mac}", "--srcipmap=0.0.0.0/0:10.77.0.2/32",
                 "--dstipmap=0.0.0.0/0:10.77.0.1/32", "--fixcsum", "-i", str(path), "-o", str(moved)],
                capture_output=True, check=True, timeout=60,
            )  # fmt: skip
            choices = {}
            for port in (4789, 8472):
                expected = BytesIO()
                decap_file(str(moved), expected, ports=[port], reassemble=True, outer="ip")
                choices[port] = frames_of(expected.getvalue())
            port = max(choices, key=lambda number: len(choices[number]))
            if not choices[port]:
                continue  # over IPv6 alone
            out = tmp_path / f"{name}.pcapng"
            with inside(a):
                receiver = Receiver(out, ports=[port], bind=["10.77.0.1"], meta="comment")
            with running(receiver):
                tcpreplay(b, moved)
                wanted = len(choices[port])
                until(name, lambda r=receiver, n=wanted: r.output.written >= n)
            assert frames_of(out) == choices[port], name
            done += 1
    assert done >= 10


# --- GENEVE ---------------------------------------------------------------------------------------------


def test_geneve_of_others() -> None:
    """What tcpdump, zeek and a gateway load balancer sent: Ethernet in it, or IP."""
    for name, link, vni in (
        ("zeek_zeek__testing__btest__Traces__tunnels__geneve-47101.pcap", 1, 4242),
        ("the-tcpdump-group_tcpdump__tests__gso-ipv4-geneve-ipv6.pcap", 1, 5001),
        ("07212423_tx-gwlb-for-demo__geneve.pcap", 101, 0),
        ("the-tcpdump-group_tcpdump__tests__geneve-gcp.pcap", 101, 0),
    ):
        for frame in frames_of(capture_path("other-tunnels", name)):
            batch = PacketBatch.from_frames([frame])
            Decap([4789], geneve_ports=[6081]).process(batch)
            outer = Ether(frame)
            if outer.getlayer(UDP) is None or outer[UDP].dport != 6081:
                continue
            payload = bytes(outer[UDP].payload)
            assert batch.counts() == {Verdict.PASS: 1}, name
            assert bytes(batch.frame(0)) == payload[8 + (payload[0] & 63) * 4 : outer[UDP].len - 8]
            assert (batch.link[0], batch.vni[0]) == (link, int.from_bytes(payload[4:7], "big")), (name, vni)


def geneve(proto: int, payload: bytes, vni: int = 7, **fields: Any) -> bytes:
    header = bytes(GENEVE(proto=proto, vni=vni, **fields))[:8]
    outer = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(src="192.0.2.1", dst="192.0.2.2")
    return bytes(outer / UDP(sport=5000, dport=6081) / (header + payload))


def decap_one(frame: bytes, **rules: Any) -> tuple[Verdict, bytes, int, int]:
    batch = PacketBatch.from_frames([frame])
    Decap([4789], geneve_ports=[6081], **rules).process(batch)
    return Verdict(batch.verdict[0]), bytes(batch.frame(0)), batch.vni[0], batch.link[0]


def test_geneve_that_carries_vxlan() -> None:
    """As a gateway load balancer passes a traffic mirror on: both come off, and the VNI is the mirror's."""
    inner = INNER + bytes(60)
    mirrored = IP(src="198.51.100.1", dst="198.51.100.2") / UDP(sport=50000, dport=4789) / VXLAN(vni=99) / inner
    frame = geneve(0x0800, bytes(mirrored), vni=0)
    assert decap_one(frame) == (Verdict.PASS, inner, 99, 1)
    assert decap_one(frame, vnis=[(99, 99)])[0] == Verdict.PASS
    assert decap_one(frame, vnis=[(0, 98)])[0] == Verdict.DROP_FILTER_VNI
    other = geneve(0x0800, bytes(IP(src="198.51.100.1", dst="198.51.100.2") / UDP(sport=1, dport=53) / b"x"), vni=5)
    assert decap_one(other, vnis=[(5, 5)])[2:] == (5, 101)
    assert decap_one(other, vnis=[(6, 6)])[0] == Verdict.DROP_FILTER_VNI
    # Ethernet in it is a level of its own.
    nested = geneve(0x6558, bytes(Ether(src="02:00:00:00:00:03", dst="02:00:00:00:00:04") / mirrored))
    assert decap_one(nested)[2] == 7
    assert decap_one(nested, levels=2) == (Verdict.PASS, inner, 99, 1)


def test_geneve_that_holds_no_frame() -> None:
    inner = INNER + bytes(60)
    assert decap_one(geneve(0x6558, inner))[:2] == (Verdict.PASS, inner)
    assert decap_one(geneve(0x6558, inner), peek=True)[2] == 7
    assert decap_one(geneve(0x88B5, inner))[0] == Verdict.PUNT_GENEVE
    assert decap_one(geneve(0x6558, inner, oam=1))[0] == Verdict.PUNT_GENEVE
    assert decap_one(geneve(0x6558, inner, critical=1))[0] == Verdict.PASS
    assert decap_one(geneve(0x6558, inner, version=1))[0] == Verdict.DROP_GENEVE
    assert decap_one(geneve(0x6558, b"", optionlen=60))[0] == Verdict.DROP_GENEVE
    assert decap_one(geneve(0x6558, inner[:13]))[0] == Verdict.DROP_INNER_RUNT
    frame = geneve(0x6558, inner)
    assert decap_one(frame[:45])[0] == Verdict.DROP_IP_LEN
    batch = PacketBatch.from_frames([frame])
    Decap([6081]).process(batch)  # VXLAN's port: GENEVE is not looked for
    assert batch.counts() != {Verdict.PASS: 1}
    with pytest.raises(ValueError, match="means VXLAN already"):
        Decap([6081], geneve_ports=[6081])


def test_geneve_in_files() -> None:
    """decap_file: with --meta its headers can be put back byte for byte."""
    from vxlanfast import restore_file

    inner = INNER + bytes(60)
    data = pcap([geneve(0x6558, inner), geneve(0x0800, bytes(IP(src="192.0.2.8", dst="192.0.2.9") / b"raw"))])
    out = BytesIO()
    stats = decap_file(BytesIO(data), out, geneve_ports=[6081], meta="comment", format="pcapng")
    assert (stats.passed, stats.dropped) == (2, 0)
    comments = [
        value for block in blocks(out.getvalue()) if block.kind == 6 for code, value in block.options() if code == 1
    ]
    assert comments == [b"vxlan vni 7, 192.0.2.1:5000 > 192.0.2.2:6081, geneve"] * 2
    back = BytesIO()
    restore_file(BytesIO(out.getvalue()), back, format="pcap")
    assert frames_of(back.getvalue()) == frames_of(data)
    stats = decap_file(BytesIO(data), BytesIO(), geneve_ports=[6081])  # pcap holds one link type
    assert stats.drops == {"DROP_OUTPUT_LINK_TYPE": 1}
    assert decap_file(BytesIO(data), BytesIO()).drops == {"PUNT_PORT": 2}


# --- the receiver, over the loopback --------------------------------------------------------------------


def test_datagrams_to_a_capture(tmp_path: Path) -> None:
    frames = [INNER + n.to_bytes(2, "big") + bytes(40) for n in range(300)]
    receiver, port = local(tmp_path / "out.pcapng", vni=42)
    out = tmp_path / "out.pcapng"
    with running(receiver) as accounts:
        send(port, *(VNI_42 + frame for frame in frames), b"junk", VNI_42[:4] + b"\0\0\x2b\0" + frames[0])
        until("302 datagrams", lambda: received(receiver) == 302)
        until("a file that is readable while nothing comes", lambda: len(ours_read(out.read_bytes())[0]) == 300)
    assert frames_of(out) == frames
    assert accounts[0].drops == {"DROP_VXLAN_LEN": 1, "DROP_FILTER_VNI": 1}
    statistics = blocks((tmp_path / "out.pcapng").read_bytes())[-1]
    assert statistics.kind == 5
    assert struct.unpack_from("<HHQHHQ", statistics.body, 12) == (4, 8, 302, 5, 8, 0)
    assert "302 packets received, 300 written, 2 dropped" in accounts[0].summary()


def test_what_had_arrived_is_taken(tmp_path: Path) -> None:
    """``stop`` loses nothing that lay in the sockets, and more that keeps arriving does not hold it up."""
    receiver, port = local(tmp_path / "out.pcap", format="pcap")
    send(port, *[VNI_42 + INNER + bytes(50)] * 150)
    receiver.stop()
    with receiver:
        assert receiver.run().written == 150
    receiver, port = local(tmp_path / "flood.pcap", format="pcap")
    ended = threading.Event()

    def flood() -> None:
        while not ended.is_set():
            send(port, *[VNI_42 + INNER + bytes(50)] * 100)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        receiver.stop()
        with receiver:
            assert receiver.run().seconds < 60
    finally:
        ended.set()
        thread.join(60)


def test_overload_is_counted_in_the_account(tmp_path: Path) -> None:
    """Sent = received + dropped by the kernel, and a warning says what to do."""
    receiver, port = local(tmp_path / "out.pcap", format="pcap", buffer_len=4096)
    send(port, *[VNI_42 + INNER + bytes(1000)] * 400)  # before anybody takes them
    with running(receiver) as accounts:
        until("the account to add up", lambda: received(receiver) + receiver.edges[0].edge.dropped == 400)
    done = accounts[0]
    assert done.received + done.kernel_drops == 400 and done.kernel_drops > 0
    assert len(frames_of(tmp_path / "out.pcap")) == done.written == done.received
    assert any("rmem_max" in warning for warning in done.warnings)


def test_count_is_exact(tmp_path: Path) -> None:
    receiver, port = local(tmp_path / "out.pcap", format="pcap", count=7)
    send(port, b"junk", *[VNI_42 + INNER + bytes(50)] * 20)
    with receiver:
        done = receiver.run()
    assert (done.written, done.received) == (7, 8)
    assert len(frames_of(tmp_path / "out.pcap")) == 7


def test_filters_and_levels(tmp_path: Path) -> None:
    wanted = bytes(
        Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP(src="192.0.2.1", dst="192.0.2.2") / UDP(dport=53)
    )
    receiver, port = local(tmp_path / "out.pcap", format="nsecpcap", inner="udp port 53", outer="src 127.0.0.1")
    with running(receiver) as accounts:
        send(port, VNI_42 + INNER + bytes(60), VNI_42 + wanted)
        until("two datagrams", lambda: received(receiver) == 2)
    assert frames_of(tmp_path / "out.pcap") == [wanted]
    assert accounts[0].drops == {"DROP_FILTER_INNER": 1}


def test_to_a_fifo_whose_reader_goes_away(tmp_path: Path) -> None:
    """Frames come through as they arrive; when nobody reads any more, it ends without a packet having to come."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    receiver, port = local(fifo)
    thread = threading.Thread(target=receiver.run)
    thread.start()
    data = b""
    try:
        send(port, VNI_42 + INNER + bytes(60))

        def more() -> bool:
            nonlocal data
            with contextlib.suppress(BlockingIOError):
                data += os.read(reader, 65536)
            return INNER in data

        until("the frame in the FIFO", more)
    finally:
        os.close(reader)
        thread.join(60)
        alive = thread.is_alive()
        receiver.close()
    assert not alive
    assert frames_of(data) == [INNER + bytes(60)]


def test_wrong_values(tmp_path: Path) -> None:
    out = tmp_path / "x.pcapng"
    for said, options in (
        ("nowhere to go", {"target": None}), ("none or comment", {"meta": "interface"}), ("format", {"format": "erf"}),
        ("needs a pcapng", {"meta": "comment", "format": "pcap"}),
        ("not both", {"bind": ["127.0.0.1"], "interface": "lo"}),
        ("VXLAN or GENEVE", {"ports": [4789], "geneve_ports": [4789]}), ("UDP port 0", {"ports": [0]}),
        ("-G and -C", {"target": "-", "seconds": 3, "ports": [free_port()], "geneve_ports": ()}),
        ("give one of them", {"files": 3, "ports": [free_port()], "geneve_ports": (), "bind": ["127.0.0.1"]}),
    ):  # fmt: skip
        with pytest.raises(SpecError, match=said):
            Receiver(options.pop("target", out), **options)  # type: ignore[arg-type]
    assert not out.exists()


def test_ports_that_cannot_be_had() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        with pytest.raises(DeviceError, match=rf"UDP port {port} of 127.0.0.1: in use .*-i IFACE"):
            open_udp("127.0.0.1", port)
    with pytest.raises(DeviceError, match=r"192\.0\.2\.7: no interface here"):
        open_udp("192.0.2.7", 5000)


@pytest.mark.root
def test_a_kernel_vxlan_device_in_the_way() -> None:
    need_root()
    with namespaces("a") as (a,):
        try:
            ip("-n", a, "link", "add", "vx7", "type", "vxlan", "id", "7", "dstport", "4789", "local", "127.0.0.1")
            ip("-n", a, "link", "set", "vx7", "up")
        except OSError as error:
            pytest.skip(f"this kernel has no vxlan device: {error}")
        with inside(a):
            assert vxlan_devices() == ["vx7"]
            with pytest.raises(DeviceError, match=r"UDP port 4789 .*vxlan device vx7.*another port \(-p\).*-i IFACE"):
                open_udp("0.0.0.0", 4789)


@pytest.mark.root
def test_to_a_tap_device(tmp_path: Path) -> None:
    need_root()
    if not os.path.exists("/dev/net/tun"):
        pytest.skip("needs /dev/net/tun")
    frames = [INNER + n.to_bytes(2, "big") + bytes(60) for n in range(50)]
    with namespaces("a") as (a,):
        with inside(a):
            receiver = Receiver(tmp_path / "out.pcapng", ports=[5000], geneve_ports=(), bind=["127.0.0.1"], tap="tap7")
        with packet_socket(a, "tap7") as sock, running(receiver) as accounts:
            with inside(a):
                send(5000, *(VNI_42 + frame for frame in frames))
            got: list[bytes] = []

            def more() -> bool:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        frame = sock.recv(9000)
                        if frame.startswith(INNER):
                            got.append(frame)
                return len(got) >= 50

            until("50 frames at the TAP", more)
        assert got == frames == frames_of(tmp_path / "out.pcapng")
        assert accounts[0].tap_written == 50
    with pytest.raises(SpecError, match="1 to 15 bytes"):
        Receiver(None, tap="a name")


@pytest.mark.root
def test_the_loopback_gives_each_frame_once(tmp_path: Path) -> None:
    need_root()
    frames = [INNER + n.to_bytes(2, "big") + bytes(60) for n in range(30)]
    with namespaces("a") as (a,):
        with inside(a):
            receiver = Receiver(tmp_path / "out.pcapng", interface="lo")
        with running(receiver) as accounts:
            with inside(a):
                send(4789, *(VNI_42 + frame for frame in frames), *[b"other"] * 3)
                send(53, b"x")
            until("30 frames", lambda: receiver.output is not None and receiver.output.written >= 30)
            until("and four others", lambda: received(receiver) >= 34)
    assert frames_of(tmp_path / "out.pcapng") == frames
    drops = dict(accounts[0].drops)
    assert drops.pop("DROP_VXLAN_LEN") == 3 and drops.pop("PUNT_PORT") == 1
    assert set(drops) <= {"PUNT_NOT_UDP"}  # the kernel's own answers: port unreachable


# --- rotation -------------------------------------------------------------------------------------------


def encoder() -> Any:
    from vxlanfast._ext.io.writer import CaptureEncoder

    made = CaptureEncoder("pcap")
    made.begin([1])
    return made


def batch(count: int, size: int = 1000) -> PacketBatch:
    return PacketBatch.from_frames([n.to_bytes(4, "big") + bytes(size - 4) for n in range(count)])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_sizes_make_a_ring(tmp_path: Path) -> None:
    """-C 1 -W 3: out0, out1, out2, and out0 again; a file is over a million bytes by 64 packets at most."""
    out = RotatingCapture(tmp_path / "out", encoder, megabytes=1, files=3)
    for _ in range(34):
        out.write(batch(100))
    out.close()
    assert out.written == 3400
    assert names(tmp_path) == ["out0", "out1", "out2"]
    assert out.names == [str(tmp_path / f"out{n % 3}") for n in range(len(out.names))] and len(out.names) == 4
    sizes = [(tmp_path / name).stat().st_size for name in ("out1", "out2")]
    assert all(1_000_000 < size <= 1_000_000 + 65 * 1016 for size in sizes)


def test_sizes_without_a_ring_lose_nothing(tmp_path: Path) -> None:
    out = RotatingCapture(tmp_path / "out.pcap", encoder, megabytes=1)
    frames = []
    for _ in range(25):
        out.write(batch(100))
        frames += range(100)
    out.close()
    assert names(tmp_path) == ["out.pcap", "out.pcap1", "out.pcap2"]
    got = [int.from_bytes(f[:4], "big") for name in names(tmp_path) for f in frames_of(tmp_path / name)]
    assert got == frames


def test_many_numbers_have_as_many_digits(tmp_path: Path) -> None:
    RotatingCapture(tmp_path / "out", encoder, megabytes=1, files=100).close()
    assert names(tmp_path) == ["out00"]


def test_times_name_files(tmp_path: Path) -> None:
    """-G 60 -W 2: strftime's words, no file for an interval without packets, and the end behind the second."""
    began = time.mktime((2026, 3, 1, 10, 0, 0, 0, 0, -1))
    out = RotatingCapture(tmp_path / "at-%H%M%S.pcap", encoder, seconds=60, files=2, now=began)
    assert out.wait_s(began) is None
    out.tick(began + 100)  # nothing came
    out.write(batch(3))
    assert out.wait_s(began + 30) == 30
    out.tick(began + 30)
    out.tick(began + 120)
    assert not out.done and names(tmp_path) == ["at-100000.pcap", "at-100200.pcap"]
    out.write(batch(4))
    out.tick(began + 181)
    assert out.done
    out.close()
    assert [len(frames_of(tmp_path / name)) for name in names(tmp_path)] == [3, 4]
    assert out.written == 7


def test_times_and_sizes(tmp_path: Path) -> None:
    began = time.mktime((2026, 3, 1, 10, 0, 0, 0, 0, -1))
    out = RotatingCapture(tmp_path / "%M-", encoder, seconds=60, megabytes=1, now=began)
    out.write(batch(2000))
    out.tick(began + 60)
    out.write(batch(1))
    out.close()
    assert names(tmp_path) == ["00-", "00-1", "01-"]
    assert out.written == 2001
