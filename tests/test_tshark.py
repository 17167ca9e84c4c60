"""Whole files beside tshark: what it sees behind VXLAN before, it sees alone after, and it finds nothing wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import make_fixtures as fx
from tests.support import FIXTURES, capture_path, captures, needs_tshark, tshark
from vxlanfast import TunnelSpec, decap_file, encap_file, survey_file

pytestmark = [pytest.mark.tshark, needs_tshark]

DECODE = ("-d", "udp.port==8472,vxlan")


@captures("vxlan")
def test_the_same_packets_without_their_tunnel(row: dict[str, str], tmp_path: Path) -> None:
    """Innermost addresses and types, and times, of every frame that tshark can see into."""
    if "bigtcp" in row["file"] or row["inner_frames"] == "0":
        pytest.skip("nothing in it that tshark dissects")
    path, out = capture_path("vxlan", row["file"]), tmp_path / "out.pcapng"
    options = (*DECODE, "-E", "occurrence=l", "-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE")
    fields = ("frame.time_epoch", "eth.src", "eth.dst")
    decap_file(path, out, format="pcapng", levels=None)
    ports = " or ".join(f"udp.dstport=={port}" for port in row["ports"].split(","))
    whole = "not (ip.flags.mf==1 or ip.frag_offset>0 or ipv6.fraghdr.more==1)"
    before = tshark(path, *fields, options=options, decode=f"vxlan.flag_i==1 and ({ports}) and {whole}")
    after = tshark(out, *fields, options=options)
    assert len(after) == int(row["inner_frames"])
    assert after == before


@captures("vxlan")
def test_the_same_count_of_every_network(row: dict[str, str]) -> None:
    """Frames per VNI of the outermost header, outer fragments put together."""
    if "bigtcp" in row["file"] or row["inner_frames"] == "0":
        pytest.skip("nothing in it that tshark dissects")
    path, ports = capture_path("vxlan", row["file"]), row["ports"].split(",")
    counted: dict[int, int] = {}
    for vni, port in tshark(path, "vxlan.vni", "udp.dstport", options=DECODE, decode="vxlan.vni"):
        if port in ports:
            counted[int(vni)] = counted.get(int(vni), 0) + 1
    got = survey_file(path, ports=[int(port) for port in ports], reassemble=True)
    assert {network.vni: network.packets for network in got.networks} == counted


@pytest.mark.parametrize("ips", [(fx.A4, fx.B4), (fx.A6, fx.B6)], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("mtu", [None, 1280])
def test_what_we_encapsulate_has_right_checksums(
    ips: tuple[str, str], mtu: int | None, tmp_path: Path
) -> None:
    """Also of datagrams in fragments, which tshark puts together."""
    out = tmp_path / "out.pcap"
    policy = "fragment" if mtu else "warn"
    tunnel = TunnelSpec(vni=77, src=ips[0], dst=ips[1], udp_csum="on", ttl=9, mtu=mtu, mtu_policy=policy)
    stats = encap_file(FIXTURES / "inner.pcap", out, tunnel)
    assert (stats.written > 30) == bool(mtu)
    options = ("-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE")
    rows = tshark(out, "vxlan.vni", "udp.checksum.status", "udp.dstport", options=options, decode="vxlan")
    assert rows == [["77", "1", "4789"]] * 30
    outer = "ip.src==192.0.2.1" if ips[0] == fx.A4 else "ipv6.src==2001:db8::1"
    assert len(tshark(out, "frame.number", options=options, decode=outer)) == stats.written
    assert tshark(out, "frame.number", options=options, decode=f"ip.checksum.status==0 and {outer}") == []
    assert tshark(out, "frame.number", options=options, decode="_ws.malformed and not udp.port==53") == []
