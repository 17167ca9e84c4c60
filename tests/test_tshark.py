"""Whole files beside tshark: what it sees behind VXLAN before, it sees alone after, and it finds nothing wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import make_fixtures as fx
from tests.support import FIXTURES, capture_path, captures, needs_tshark, tshark
from vxlanfast import TunnelSpec, decap_file, encap_file

pytestmark = [pytest.mark.tshark, needs_tshark]

DECODE = ("-d", "udp.port==8472,vxlan")


@captures("vxlan")
def test_the_same_packets_without_their_tunnel(row: dict[str, str], tmp_path: Path) -> None:
    """Innermost addresses and types, and times, of every frame that tshark can see into."""
    if "bigtcp" in row["file"] or row["inner_frames"] == "0":
        pytest.skip("nothing in it that tshark dissects")
    path, out = capture_path("vxlan", row["file"]), tmp_path / "out.pcapng"
    decap_file(path, out, format="pcapng", levels=None)
    fields = (
        "frame.time_epoch",
        "eth.src",
        "eth.dst",
        "ip.flags.mf",
        "ip.frag_offset",
        "frame.protocols",
        "udp.dstport",
    )
    options = (*DECODE, "-E", "occurrence=a", "-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE")
    before = []
    for when, src, dst, more, offset, layers, ports in tshark(
        path, *fields, options=options, decode="vxlan.flag_i==1"
    ):
        is_fragment = not layers.startswith("eth:ethertype:ipv6") and (more[0], offset.split(",")[0]) != (
            "0",
            "0",
        )
        if ports.split(",")[0] in row["ports"].split(",") and not is_fragment:
            before.append([when, src.split(",")[-1], dst.split(",")[-1]])
    after = tshark(out, *fields[:3], options=(*DECODE, "-E", "occurrence=l"))
    assert len(after) == int(row["inner_frames"])
    assert after == before


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
