"""``vxlanfast encap``: every option, as scapy reads what comes out, and ``--restore`` to the byte."""

import json

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

from tests.make_fixtures import inner_frame, inner_frames
from tests.support import (
    FIXTURES,
    Packet,
    Pcapng,
    assert_one_line,
    csum,
    frames_of,
    ours_read,
    pcap,
    udp_csum,
    vxlanfast,
)

INNER = FIXTURES / "inner.pcap"
V4 = ("--vni", "42", "--src", "192.0.2.1", "--dst", "192.0.2.2")
V6 = ("--vni", "42", "--src", "2001:db8::1", "--dst", "2001:db8::2")


def run(*arguments: object, code: int = 0, **rest):
    """``encap`` with ``arguments``; its exit code is ``code``."""
    done = vxlanfast("encap", *arguments, **rest)
    assert done.returncode == code, done.stderr.decode()
    return done


def wire(*options: object, tunnel: tuple[str, ...] = V4, frames=None) -> list[Ether]:
    """What ``inner_frames`` (or ``frames``) become, read by scapy."""
    done = run("-", "-", *tunnel, *options, stdin=pcap(inner_frames() if frames is None else frames))
    return [Ether(frame) for frame in frames_of(done.stdout)]


def json_of(done) -> dict:
    return json.loads(done.stderr.decode().splitlines()[0])


@pytest.mark.parametrize(("tunnel", "layer", "overhead"), [(V4, IP, 50), (V6, IPv6, 70)])
def test_headers(tunnel, layer, overhead, tmp_path):
    done = run(INNER, tmp_path / "wire.pcap", *tunnel)
    assert done.stdout == b""
    assert done.stderr.decode() == "30 packets read, 30 encapsulated\n"
    before, _ = ours_read(INNER.read_bytes())
    after, _ = ours_read((tmp_path / "wire.pcap").read_bytes())
    assert [p.data[overhead:] for p in after] == inner_frames()
    assert [(p.ts_ns, p.wire_len) for p in after] == [(p.ts_ns, p.wire_len + overhead) for p in before]
    for packet, inner in zip(after, inner_frames(), strict=True):
        outer = Ether(packet.data)
        assert (outer[layer].src, outer[layer].dst) == (tunnel[3], tunnel[5])
        assert outer[VXLAN].vni == 42 and outer[VXLAN].flags == 8
        assert packet.data[overhead - 8 : overhead] == b"\x08\0\0\0\0\0\x2a\0"
        assert outer[UDP].dport == 4789 and 49152 <= outer[UDP].sport <= 65535
        assert outer[UDP].len == len(inner) + 16
        if layer is IP:
            assert csum(packet.data[14:34]) == 0
            assert outer[IP].len == len(inner) + 36
            assert outer[IP].ttl == 64 and outer[UDP].chksum == 0 and not outer[IP].flags.DF
        else:
            assert outer[IPv6].plen == len(inner) + 16 and outer[IPv6].hlim == 64
            assert udp_csum(packet.data[22:38], packet.data[38:54], packet.data[54:]) == 0
            assert outer[UDP].chksum != 0


def test_macs():
    assert {(p.src, p.dst) for p in wire()} == {("02:42:c0:00:02:01", "02:42:c0:00:02:02")}
    assert {(p.src, p.dst) for p in wire("--smac", "02:00:00:00:00:0a", "--dmac", "02:00:00:00:00:0b")} == {
        ("02:00:00:00:00:0a", "02:00:00:00:00:0b")
    }


@pytest.mark.parametrize("vni", [0, 1, 16777215])
def test_vni(vni):
    tunnel = ("--vni", str(vni), *V4[2:])
    assert {p[VXLAN].vni for p in wire(tunnel=tunnel)} == {vni}


def test_port():
    for option in ("-p", "--port"):
        assert {p[UDP].dport for p in wire(option, 8472)} == {8472}


def test_sport():
    """One flow has one source port; a number is taken as it is."""
    frames = [bytes(inner_frame(b"%d" % n, sport=sport)) for n, sport in enumerate([1, 2, 3, 4] * 3)]
    ports = [p[UDP].sport for p in wire("--sport", "hash", frames=frames)]
    assert ports[:4] == ports[4:8] == ports[8:] and len(set(ports)) > 1
    assert {p[UDP].sport for p in wire("--sport", 1)} == {1}
    assert {p[UDP].sport for p in wire("--sport", 65535)} == {65535}


@pytest.mark.parametrize("ttl", [1, 255])
def test_ttl(ttl):
    assert {p[IP].ttl for p in wire("--ttl", ttl)} == {ttl}
    assert {p[IPv6].hlim for p in wire("--ttl", ttl, tunnel=V6)} == {ttl}


def test_dscp():
    """DSCP by number, or the inner packet's; the inner packet's ECN in any case (RFC 6040, normal mode)."""
    inner = [Ether(frame) for frame in inner_frames()[:5]]
    ecn = [packet[IP].tos & 3 for packet in inner]
    assert [p[IP].tos for p in wire("--dscp", 46)[:5]] == [46 << 2 | e for e in ecn]
    assert [p[IP].tos for p in wire()[:5]] == ecn
    assert [p[IP].tos for p in wire("--dscp", "inherit")[:5]] == [packet[IP].tos for packet in inner]
    assert [p[IPv6].tc for p in wire("--dscp", "inherit", tunnel=V6)[:5]] == [packet[IP].tos for packet in inner]
    assert wire("--dscp", "inherit")[10][IP].tos == 0xBB  # an inner IPv6 packet's


def test_df():
    assert all(p[IP].flags.DF for p in wire("--df"))
    assert not any(p[IP].flags.DF for p in wire())


@pytest.mark.parametrize(
    ("option", "tunnel", "written"),
    [
        ("auto", V4, False),
        ("on", V4, True),
        ("off", V4, False),
        ("auto", V6, True),
        ("on", V6, True),
        ("off", V6, False),
    ],
)
def test_udp_csum(option, tunnel, written):
    frames = frames_of(run(INNER, "-", *tunnel, "--udp-csum", option).stdout)
    a, n, udp = (26, 4, 34) if tunnel is V4 else (22, 16, 54)
    for frame in frames:
        if written:
            assert frame[udp + 6 : udp + 8] != b"\0\0"
            assert udp_csum(frame[a : a + n], frame[a + n : a + 2 * n], frame[udp:]) == 0
        else:
            assert frame[udp + 6 : udp + 8] == b"\0\0"


def test_cut_frames_get_no_checksum():
    frame = bytes(inner_frame(b"x" * 200))
    done = run("-", *V6, stdin=pcap([Packet(0, frame[:100], len(frame))]))
    (wired,) = frames_of(done.stdout)
    assert wired[60:62] == b"\0\0"
    assert "their outer UDP checksum cannot be computed" in done.stderr.decode()


def test_mtu_warn():
    done = run(INNER, "-", *V4, "--mtu", 1500)
    assert len(frames_of(done.stdout)) == 30
    assert "1 packets are over the MTU of 1500 bytes" in done.stderr.decode()
    assert "MTU" not in run(INNER, "-", *V4, "--mtu", 1550).stderr.decode()


def test_mtu_drop():
    done = run(INNER, "-", *V4, "--mtu", 1500, "--over-mtu", "drop", "--stats", "json")
    assert [frame[50:] for frame in frames_of(done.stdout)] == [frame for frame in inner_frames() if len(frame) <= 1464]
    assert json_of(done)["drops"] == {"DROP_MTU": 1}


@pytest.mark.parametrize(("tunnel", "mtu"), [(V4, 600), (V6, 1280)])
def test_mtu_fragment(tunnel, mtu):
    """Fragments fit, and decap --reassemble makes the frames of them again."""
    done = run(INNER, "-", *tunnel, "--mtu", mtu, "--over-mtu", "fragment", "--stats", "json")
    frames, stats = frames_of(done.stdout), json_of(done)
    assert max(map(len, frames)) <= mtu + 14
    assert (stats["packets"], stats["passed"], stats["dropped"]) == (30, 30, 0)
    assert stats["written"] == len(frames) > 30
    back = vxlanfast("decap", "-", "-", "--reassemble", stdin=done.stdout)
    assert sorted(frames_of(back.stdout)) == sorted(inner_frames())
    if tunnel is V4:
        assert all(csum(frame[14:34]) == 0 for frame in frames)


def test_inner_filter():
    done = run(INNER, "-", *V4, "--inner", "arp", "--stats", "json")
    assert [frame[50:] for frame in frames_of(done.stdout)] == [inner_frames()[12]]
    assert json_of(done)["drops"] == {"DROP_FILTER_INNER": 29}


def test_count_and_formats():
    assert len(frames_of(run(INNER, "-", *V4, "-c", 7).stdout)) == 7
    for form, magic in (("pcap", "d4c3b2a1"), ("nsecpcap", "4d3cb2a1"), ("pcapng", "0a0d0d0a")):
        done = run(INNER, "-", *V4, "-F", form)
        assert done.stdout[:4].hex() == magic
        assert [frame[50:] for frame in frames_of(done.stdout)] == inner_frames()


@pytest.fixture(scope="session")
def busy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("busy")
    one = pcap(inner_frames())
    (folder / "busy.pcap").write_bytes(one[:24] + one[24:] * 150)
    ng = Pcapng().interface(1, tsresol=9)
    start = len(ng.data)
    for n, frame in enumerate(inner_frames()):
        ng.epb(frame, units=n, options=[(1, b"note")] if n % 3 else [])
    (folder / "busy.pcapng").write_bytes(ng.data[:start] + ng.data[start:] * 150)
    return folder


@pytest.mark.parametrize("suffix", ["pcap", "pcapng"])
@pytest.mark.parametrize(
    "options",
    [
        V4,
        V6,
        (*V4, "--mtu", "600", "--over-mtu", "fragment"),
        (*V4, "--inner", "ip", "--dscp", "inherit"),
        (*V6, "-F", "pcapng"),
    ],
    ids=["v4", "v6", "fragment", "filter", "pcapng"],
)
def test_threads(busy, suffix, options, tmp_path):
    source = busy / f"busy.{suffix}"
    one = run(source, tmp_path / "1", *options, "--stats", "json")
    for threads in (2, 3):
        more = run(source, tmp_path / "n", *options, "--threads", threads, "--stats", "json")
        assert (tmp_path / "n").read_bytes() == (tmp_path / "1").read_bytes()
        assert json_of(more) | {"seconds": 0} == json_of(one) | {"seconds": 0}
    assert run(source, "-", *options, "--threads", 2).stdout == (tmp_path / "1").read_bytes()


def test_quiet(tmp_path):
    for quiet in ("-q", "--quiet"):
        done = run(INNER, tmp_path / "out", *V4, "--mtu", 600, quiet)
        assert (done.stdout, done.stderr) == (b"", b"")


# --- --restore ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("meta", ["comment", "interface"])
@pytest.mark.parametrize(
    "name",
    ["mixed.pcapng", "outer-ethernet.pcap", "outer-sll.pcap", "edges.pcap", "strict.pcap", "demo.pcap"],
)
def test_restore(meta, name, tmp_path):
    """decap --meta --other keep, then encap --restore: the packets as they were, padding and all."""
    kept = vxlanfast("decap", FIXTURES / name, tmp_path / "kept", "--meta", meta, "--other", "keep")
    assert kept.returncode == 0, kept.stderr.decode()
    done = run(tmp_path / "kept", "-", "--restore")
    before, after = ours_read((FIXTURES / name).read_bytes())[0], ours_read(done.stdout)[0]
    assert [(p.ts_ns, p.data, p.wire_len, p.link) for p in after] == [
        (p.ts_ns, p.data, p.wire_len, p.link) for p in before
    ]
    assert "restored" in done.stderr.decode()


@pytest.mark.parametrize("form", ["pcap", "nsecpcap"])
def test_restore_into_pcap(form):
    kept = vxlanfast("decap", FIXTURES / "outer-ethernet.pcap", "--meta", "comment")
    done = run("-", "--restore", "-F", form, stdin=kept.stdout)
    assert frames_of(done.stdout) == frames_of(FIXTURES / "outer-ethernet.pcap")


@pytest.mark.parametrize(("other", "code"), [("keep", 0), ("drop", 0), ("fail", 3)])
def test_restore_other(other, code):
    """Packets without a note of their headers."""
    done = run(FIXTURES / "mixed.pcapng", "--restore", "--other", other, "--stats", "json", code=code)
    stats = json_of(done)
    assert (stats["verb"], stats["packets"], stats["passed"], stats["others"]) == ("restore", 16, 0, 16)
    assert stats["packets"] == stats["passed"] + stats["kept"] + stats["dropped"]
    assert len(frames_of(done.stdout)) == (16 if other == "keep" else 0)
    assert stats["drops"] == ({} if other == "keep" else {"DROP_NO_META": 16})


def test_restore_count():
    kept = vxlanfast("decap", FIXTURES / "outer-ethernet.pcap", "--meta", "comment")
    assert len(frames_of(run("-", "--restore", "-c", 3, stdin=kept.stdout).stdout)) == 3


@pytest.mark.parametrize(
    "option",
    [
        ("--vni", "1"),
        ("--src", "192.0.2.1"),
        ("--dst", "192.0.2.1"),
        ("--smac", "02:00:00:00:00:01"),
        ("--ttl", "3"),
        ("--dmac", "02:00:00:00:00:01"),
        ("-p", "4789"),
        ("--sport", "1"),
        ("--dscp", "1"),
        ("--df",),
        ("--udp-csum", "on"),
        ("--mtu", "1500"),
        ("--over-mtu", "drop"),
        ("--inner", "ip"),
        ("--threads", "2"),
    ],
    ids=lambda option: option[0],
)
def test_restore_takes_no_tunnel(option, tmp_path):
    name = {"-p": "--port"}.get(option[0], option[0])
    done = vxlanfast("encap", FIXTURES / "mixed.pcapng", tmp_path / "out", "--restore", *option)
    assert_one_line(done, 2, "--restore", f"{name} ")
    assert list(tmp_path.iterdir()) == []


def test_other_needs_restore(tmp_path):
    assert_one_line(vxlanfast("encap", INNER, tmp_path / "out", *V4, "--other", "drop"), 2, "--other", "--restore")
