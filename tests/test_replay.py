"""A capture through a plane: what leaves, by which port, and every reason; in the library and on the command line."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet as Scapy

import vxlanfast as vf
from tests.support import (
    Pcapng,
    assert_one_line,
    blocks,
    capture_path,
    captures,
    frames_of,
    pcap,
    sha,
    table,
    vxlanfast,
)
from vxlanfast import Rule, Verdict

NODE = """
[node]
vtep = "192.0.2.1"
[[network]]
name = "web"
vni = 42
subnet = "10.0.9.0/24"
gateway = "10.0.9.1"
proxy = true
[[network.endpoint]]
port = "veth1"
ip = "10.0.9.3"
[[network.endpoint]]
port = "veth2"
ip = "10.0.9.5"
[[network.endpoint]]
vtep = "192.0.2.2"
ip = "10.0.9.4"
[[network.peer]]
vtep = "192.0.2.3"
"""
T0 = 1_700_000_000_000_000_000


def mac(n: int) -> str:
    return f"02:42:0a:00:09:{n:02x}"


def said(n: int, to: int, packet: Scapy | None = None) -> bytes:
    ip = IP(src=f"10.0.9.{n}", dst=f"10.0.9.{to}")
    return bytes(Ether(src=mac(n), dst=mac(to)) / (ip / (packet or UDP() / b"x")))


def wrapped(frame: bytes, src: str = "192.0.2.2", dst: str = "192.0.2.1", vni: int = 42) -> bytes:
    outer = Ether(src=mac(200), dst=mac(201)) / IP(src=src, dst=dst) / UDP(sport=50000, dport=4789, chksum=0)
    return bytes(outer / VXLAN(vni=vni, flags=8) / frame)


ARP_4 = bytes(Ether(src=mac(3), dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=mac(3), psrc="10.0.9.3", pdst="10.0.9.4"))

#: By veth1: what the frame is, then for each row of it where it goes, and the name of why.
FROM_VETH1 = [
    (ARP_4, [("veth1", Rule.RULE_ARP)]),
    (said(3, 4), [("192.0.2.2", Rule.RULE_SET)]),
    (said(3, 5), [("veth2", Rule.RULE_SET)]),
    (said(3, 77), [("veth2", Rule.RULE_UNKNOWN), ("192.0.2.3", Rule.RULE_UNKNOWN), ("192.0.2.2", Rule.RULE_UNKNOWN)]),
    (said(3, 1, ICMP()), [("veth1", Rule.RULE_ECHO)]),
    (said(9, 3), [(None, Verdict.DROP_SAME_PORT)]),
    (said(4, 3), [(None, Verdict.DROP_STATION_ELSEWHERE)]),
    (said(3, 9), [(None, Verdict.DROP_SAME_PORT)]),
]
FROM_UNDERLAY = [
    (wrapped(said(4, 3)), [("veth1", Rule.RULE_SET)]),
    (wrapped(said(8, 3), src="192.0.2.3"), [("veth1", Rule.RULE_SET)]),
    (wrapped(said(3, 4)), [(None, Verdict.DROP_STATION_ELSEWHERE)]),
    (wrapped(said(4, 3), src="192.0.2.9"), [(None, Verdict.DROP_VTEP_UNKNOWN)]),
    (wrapped(said(4, 3), dst="192.0.2.7"), [(None, Verdict.DROP_VTEP_OTHER)]),
    (wrapped(said(4, 3), vni=43), [(None, Verdict.DROP_VNI_UNKNOWN)]),
    (said(4, 3), [(None, Verdict.PUNT_PORT)]),
    (b"short", [(None, Verdict.DROP_TRUNCATED)]),
]


def files(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "node.toml").write_text(NODE)
    png = Pcapng().interface(tsresol=9, options=[(2, b"veth1")]).interface(options=[(2, b"underlay")])
    for k, (data, _) in enumerate(FROM_VETH1):
        png.epb(data, units=T0 + k)
    for k, (data, _) in enumerate(FROM_UNDERLAY):
        png.epb(data, units=T0 // 1000 + k, interface=1)
    (tmp_path / "in.pcapng").write_bytes(png.data)
    return tmp_path / "in.pcapng", tmp_path / "node.toml"


def test_decisions(tmp_path: Path) -> None:
    """For every row one: where it goes and why; and what leaves is written with its port as interface, and its time."""
    source, config = files(tmp_path)
    decisions: list[vf.Decision] = []
    plane = vf.Dataplane(vf.load_spec(config))
    done = vf.replay_file(plane, source, tmp_path / "out.pcapng", explain=decisions.append, meta="comment")
    cases = FROM_VETH1 + FROM_UNDERLAY
    wanted = [(k, place, why.name) for k, (_, rows) in enumerate(cases, 1) for place, why in rows]
    assert [(d.packet, d.place, d.name) for d in decisions] == wanted
    assert [d.ts_ns for d in decisions[:2]] == [T0, T0 + 1] and decisions[-1].ts_ns == T0 + 7000
    assert all(d.reason for d in decisions)
    left = [d for d in decisions if d.to is not None]
    assert done.written == len(left) == done.stats.sent and done.packets == len(cases)
    names, rows = read_interfaces(tmp_path / "out.pcapng")
    assert names == ["underlay", "veth1", "veth2"]
    assert [(names[number], ts) for number, ts, _, _ in rows] == [(d.to, d.ts_ns) for d in left]
    assert all(d.reason in text for d, (_, _, _, text) in zip(left, rows, strict=True))
    for d, (_, _, data, _) in zip(left, rows, strict=True):
        if d.to != "underlay":
            assert Ether(data).src in (mac(3), mac(4), mac(8), mac(1))
        else:
            assert Ether(data)[IP].dst == d.place and len(data) == d.length


def read_interfaces(path: Path) -> tuple[list[str], list[tuple[int, int, bytes, str]]]:
    """Names of the interfaces, and of each packet its interface, time, bytes and comment, as the blocks say."""
    names, rows = [], []
    for block in blocks(path.read_bytes()):
        options = dict(block.options()) if block.kind in (1, 6) else {}
        if block.kind == 1:
            names.append(options[2].decode())
        elif block.kind == 6:
            number, high, low, length, _ = block.unpack("IIIII")
            rows.append((number, high << 32 | low, block.body[20 : 20 + length], options.get(1, b"").decode()))
    return names, rows


def test_twice_is_the_same(tmp_path: Path) -> None:
    """Byte for byte; in large batches and in small ones, with reasons asked for or not."""
    source, config = files(tmp_path)
    outs = []
    for n, extra in enumerate([[], [], ["--explain"], ["--count", "1000"]]):
        out = tmp_path / f"{n}.pcapng"
        done = vxlanfast("replay", source, out, "-c", config, *extra)
        assert done.returncode == 0, done.stderr
        outs.append(out.read_bytes())
    assert len(set(outs)) == 1 and len(outs[0]) > 500
    plain = source.read_bytes()
    done = vxlanfast("replay", "-", "-", "-c", config, "-q", stdin=plain)
    assert done.stdout == outs[0] and done.stderr == b""


@captures("vxlan")
def test_captures_of_others(row: dict[str, str], tmp_path: Path) -> None:
    """A node with the VTEP and the networks of a capture: each inner frame comes out of its network's port, in order;
    what does not has a reason. Twice the same bytes."""
    path = capture_path("vxlan", row["file"])
    listed = table(path.with_name(path.name.rsplit(".", 1)[0] + ".inner.tsv"))
    joint = 0
    for port in (int(port) for port in row["ports"].split(",")):
        spec, expected = fitting(path, port)
        if spec is None:
            continue
        decisions: list[vf.Decision] = []
        outs = []
        for n in range(2):
            plane = vf.Dataplane(spec)
            out = tmp_path / f"{port}-{n}.pcapng"
            vf.replay_file(plane, path, out, port="underlay", explain=decisions.append if n else None)
            outs.append(out.read_bytes())
        assert outs[0] == outs[1]
        dropped = {d.packet: d for d in decisions if d.to is None}
        assert all(d.reason and d.name.startswith(("DROP_", "PUNT_")) for d in dropped.values())
        names, rows = read_interfaces(out)
        wanted = [(vni, frame) for packet, vni, frame in expected if packet not in dropped]
        assert [(names[number], data) for number, _, data, _ in rows] == [
            (f"vni-{vni}", frame) for vni, frame in wanted
        ]
        # What the listing has and the plane drops is not for this VTEP, or what a VTEP must not take.
        refused = Counter(dropped[packet].name for packet, _, _ in expected if packet in dropped)
        allowed = {"DROP_INNER_SOURCE", "DROP_RESERVED", "DROP_INNER_HEADER", "DROP_ECN", "DROP_UDP_CSUM",
                   "DROP_IP_CSUM",                   "DROP_UDP_NO_CSUM", "DROP_INNER_TAG"}  # fmt: skip
        assert set(refused) <= allowed, refused
        assert {(vni, sha(frame)) for vni, frame in wanted} <= {(int(r["vni"]), r["sha256"]) for r in listed}
        # Fragments put together: nothing but what was in them comes out as well.
        whole, joined = tmp_path / "whole.pcapng", tmp_path / "joined.pcap"
        vf.replay_file(vf.Dataplane(replace(spec, reassemble=True)), path, whole, port="underlay")
        vf.decap_file(path, joined, ports=[port], reassemble=True, format="nsecpcap")
        more = Counter(data for _, _, data, _ in read_interfaces(whole)[1])
        more -= Counter(data for _, _, data, _ in rows)
        assert more <= Counter(frames_of(joined)), len(more)
        joint += more.total()
    if path.name == "kernel61-uml__kernel-vxlan-outer.pcap":
        assert joint == 2


def fitting(path: Path, port: int) -> tuple[vf.NodeSpec | None, list[tuple[int, int, bytes]]]:
    """A spec for the commonest VTEP of a capture and what is sent to it: (packet, VNI, inner frame)."""
    found, number = [], 0
    with vf.open_capture(path) as capture:
        for batch in capture.batches():
            for i in range(len(batch)):
                number += 1
                try:
                    got = vf.decap(bytes(batch.frame(i)), ports=[port], link=batch.link[i])
                except vf.NotVxlan:
                    continue
                found.append((number, got.outer, got.vni, bytes(got.inner)))
    if not found:
        return None, []
    (vtep, _), *_ = Counter(outer.dst for _, outer, _, _ in found).most_common(1)
    mine = [one for one in found if one[1].dst == vtep]
    networks = []
    for vni in sorted({vni for _, _, vni, _ in mine}):
        members = sorted({outer.src for _, outer, each, _ in mine if each == vni and outer.src != vtep})
        networks.append(
            vf.NetworkSpec(
                name=f"n{vni}", vni=vni, learn=False, tags=True, gbp=True,
                endpoint=(vf.EndpointSpec(port=f"vni-{vni}"),),
                peer=tuple(vf.PeerSpec(vtep=member) for member in members),
            )
        )  # fmt: skip
    # Packet by packet: what fragments make is no packet's.
    spec = vf.NodeSpec(vtep=(vtep,), port=port, zero_csum6=True, reassemble=False, network=tuple(networks))
    return spec, [(n, vni, frame) for n, outer, vni, frame in mine if outer.src != vtep]


def run(*arguments: object, code: int = 0, **rest: object) -> tuple[str, str]:
    done = vxlanfast("replay", *arguments, **rest)
    assert done.returncode == code, done.stderr.decode()
    return done.stdout.decode(), done.stderr.decode()


def test_explain_on_the_command_line(tmp_path: Path) -> None:
    """As text a line for each row, as JSON an object; without OUT nothing is written."""
    source, config = files(tmp_path)
    text, errors = run(source, "-c", config, "--explain")
    lines = text.splitlines()
    assert len(lines) == sum(len(rows) for _, rows in FROM_VETH1 + FROM_UNDERLAY)
    assert lines[0] == (
        "1 1700000000.000000000 veth1 -> veth1: vni 42 02:42:0a:00:09:03 > ff:ff:ff:ff:ff:ff 42 bytes:"
        " ARP answered from the neighbour table (who has 10.0.9.4)"
    )
    assert any("dropped [DROP_VTEP_UNKNOWN]" in line and "192.0.2.9, vni 42" in line for line in lines)
    assert any("02:42:0a:00:09:04 dst 192.0.2.2 static" in line for line in lines)
    assert errors.startswith("16 packets read, ") and "dropped" in errors and errors.count("\n") == 1
    rows = [json.loads(line) for line in run(source, "-c", config, "--explain", "json", "-q")[0].splitlines()]
    assert [row["name"] for row in rows][:2] == ["RULE_ARP", "RULE_SET"]
    stats = json.loads(run(source, "-c", config, "--show", "fdb", "--stats", "json")[1])
    assert stats["packets"] == 16 and stats["drops"]["DROP_VTEP_UNKNOWN"] == 1


def test_tables_on_the_command_line(tmp_path: Path) -> None:
    """In the words and with the keys of ``bridge fdb show`` and ``ip neigh show``."""
    source, config = files(tmp_path)
    text, _ = run(source, "-c", config, "--show", "fdb")
    assert text.splitlines() == [
        "02:42:0a:00:09:01 dev web vni 42 master web permanent",
        "02:42:0a:00:09:03 dev veth1 vni 42 master web static",
        "02:42:0a:00:09:04 dev web dst 192.0.2.2 vni 42 self static",
        "02:42:0a:00:09:05 dev veth2 vni 42 master web static",
        "02:42:0a:00:09:08 dev web dst 192.0.2.3 vni 42 self",
        "02:42:0a:00:09:09 dev veth1 vni 42 master web",
    ]
    rows = json.loads(run(source, "-c", config, "--show", "fdb", "-j")[0])
    assert rows[2] == {
        "mac": mac(4), "ifname": "web", "dst": "192.0.2.2", "vni": 42, "flags": ["self"], "state": "static",
    }  # fmt: skip
    assert rows[5]["state"] == ""
    text, _ = run(source, "-c", config, "--show", "neigh,vtep,counters,mdb")
    assert "10.0.9.1 dev web vni 42 lladdr 02:42:0a:00:09:01 router PERMANENT" in text
    assert text.count("# ") == 4 and "dropped 1: VNI of no network here" in text
    words = [line.split() for line in text.splitlines()]
    assert ["192.0.2.2", "42", "web", "yes", "1450", "2", "86", "2", "86", "1", "0"] in words
    both = json.loads(run(source, "-c", config, "--show", "neigh,counters", "-j")[0])
    assert both["neigh"][0] == {
        "dst": "10.0.9.1", "dev": "web", "vni": 42, "lladdr": mac(1), "router": None, "state": ["PERMANENT"],
    }  # fmt: skip
    assert both["counters"]["packets"] == 16 and both["counters"]["rules"]["RULE_UNKNOWN"] == 3


def test_where_packets_enter(tmp_path: Path) -> None:
    """By the interface's name, by ``--port``, and of the first by the underlay."""
    (tmp_path / "node.toml").write_text(NODE)
    config = tmp_path / "node.toml"
    plain = tmp_path / "in.pcap"
    plain.write_bytes(pcap([said(3, 5)]))
    warning = "warning: out.pcap is written as pcapng, which has an interface for each port"
    assert warning in run(plain, "out.pcap", "-c", config, cwd=tmp_path)[1]
    assert "UDP, but not to a VXLAN port" in run(plain, "-c", config, "--explain")[0]
    assert "veth1 -> veth2" in run(plain, "-c", config, "--explain", "--port", "veth1")[0]
    assert "veth1 -> veth2" in run(plain, "-c", config, "--explain", "--port", "0=veth1")[0]
    png = (
        Pcapng().interface(options=[(2, b"eth0")]).interface(options=[(2, b"eth1")]).interface(options=[(2, b"veth2")])
    )
    png.epb(said(3, 5)).epb(said(3, 5), interface=1).epb(said(5, 3), interface=2)
    (tmp_path / "in.pcapng").write_bytes(png.data)
    text, errors = run(tmp_path / "in.pcapng", "-c", config, "--explain", "--port", "eth0=veth1")
    went = [line.split(":")[0].split(" ", 2)[2] for line in text.splitlines()]
    assert went == ["veth1 -> veth2", "? -> dropped [DROP_PORT_UNKNOWN]", "veth2 -> veth1"]
    assert "warning: interface 1 (eth1) is no port, and its 1 packets were dropped; --port 1=NAME says which" in errors
    # A new section has interfaces of its own.
    png.section(big=True).interface(options=[(2, b"veth1")]).epb(said(3, 5))
    (tmp_path / "in.pcapng").write_bytes(png.data)
    assert (
        run(tmp_path / "in.pcapng", "-c", config, "--explain")[0]
        .splitlines()[-1]
        .startswith("4 0.000000000 veth1 -> veth2")
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["-c", "node.toml"], "name an OUT file (- is standard output), or ask for --explain or --show"),
        (["-c", "nothing.toml", "--explain"], "nothing.toml: No such file or directory"),
        (["-c", "bad.toml", "--explain"], "bad.toml: [[network]] web: vni = 16777216: 0 to 16777215"),
        (["-c", "node.toml", "--explain", "--port", "veth7"], "port 'veth7': there are underlay, veth1, veth2"),
        (["-c", "node.toml", "--explain", "--port", "veth1", "--port", "veth2"], "every interface has veth1 already"),
        (["-c", "node.toml", "--show", "fdb,arp"], "table 'arp': fdb, neigh, mdb, vtep, counters"),
        (["--explain"], "Missing option '-c' / '--config'"),
    ],
)
def test_wrong_usage(arguments: list[str], text: str, tmp_path: Path) -> None:
    source, _ = files(tmp_path)
    (tmp_path / "bad.toml").write_text(NODE.replace("vni = 42", "vni = 16777216"))
    done = vxlanfast("replay", source, *arguments, cwd=tmp_path)
    assert_one_line(done, 2, text)


def test_a_broken_capture(tmp_path: Path) -> None:
    """Every whole packet before the fault is delivered, and the exit code is 1; the input is never the output."""
    source, config = files(tmp_path)
    whole = source.read_bytes()
    source.write_bytes(whole[:-7])
    out, errors = run(source, tmp_path / "out.pcapng", "-c", config, code=1)
    assert "15 packets read" in errors and "in.pcapng: " in errors and out == ""
    assert len(read_interfaces(tmp_path / "out.pcapng")[1]) > 5
    _, errors = run(source, source, "-c", config, code=1)
    assert "is the input" in errors
    plane = vf.Dataplane(vf.load_spec(config))
    with pytest.raises(vf.CaptureError) as caught:
        vf.replay_file(plane, source)
    assert isinstance(caught.value.stats, vf.Replayed)
    with pytest.raises(vf.SpecError, match="meta = 'all': none or comment"):
        vf.replay_file(plane, source, meta="all")


def test_a_hundred_interfaces_that_are_no_ports(tmp_path: Path) -> None:
    """Warnings name sixteen of them; every packet is counted."""
    (tmp_path / "node.toml").write_text(NODE)
    png = Pcapng()
    for n in range(100):
        png.interface(options=[(2, f"eth{n}".encode())]).epb(said(3, 5), interface=n)
    (tmp_path / "in.pcapng").write_bytes(png.data)
    plane = vf.Dataplane(vf.load_spec(tmp_path / "node.toml"))
    done = vf.replay_file(plane, tmp_path / "in.pcapng")
    assert done.stats.drops == {Verdict.DROP_PORT_UNKNOWN: 99, Verdict.PUNT_PORT: 1}
    assert len(done.warnings) == 17 and "further interfaces" in done.warnings[-1]
