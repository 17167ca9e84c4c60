"""Corners of the plane that no common packet reaches: stacks of tags, cut headers, lengths beyond a datagram."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet

import vxlanfast as vf
from tests.support import pcap, vxlanfast
from tests.test_gateway import GW, SPEC, A, adds_up, one, plane, verdict
from tests.test_snooping import GROUP, PEERS, Net, data, query, report
from tests.test_snooping import SPEC as TV
from vxlanfast import Rule, Verdict

FAR = "02:42:0a:00:01:14"
TAGGED = SPEC.replace('name = "web"\n', 'name = "web"\ntags = true\nmss_clamp = true\n')


def tags(count: int, dst: str = FAR) -> Packet:
    front = Ether(src=A, dst=dst)
    for _ in range(count):
        front = front / Dot1Q(vlan=1)
    return front


@pytest.mark.parametrize(
    "packet",
    [
        tags(0) / ARP(op=1, psrc="10.0.1.10", pdst="10.0.1.20", hwsrc=A),
        tags(0) / IP(src="10.0.1.10", dst="10.0.1.20", frag=9) / TCP(flags="S", options=[("MSS", 1460)]),
        tags(0) / IPv6(src="fd00:1::a", dst="fd00:1::14") / IPv6ExtHdrFragment(offset=9)
        / TCP(flags="S", options=[("MSS", 1460)]),
        tags(0) / IPv6(src="fd00:1::a", dst="fd00:1::14") / UDP(),
        tags(0) / IP(src="10.0.1.10", dst="10.0.1.20", proto=6, len=20),
        Ether(bytes(tags(3))),
    ],
)  # fmt: skip
def test_what_has_no_mss(packet: Packet) -> None:
    """Not a SYN in hand: it passes as it is."""
    p = plane(TAGGED)
    p.offer("a", bytes(packet))
    adds_up(p)
    assert p.stats().clamped == 0


def test_mss_behind_a_fragment_header_of_the_first() -> None:
    """An atomic fragment is a whole packet, and its SYN is looked at."""
    p = plane(TAGGED)
    tcp = TCP(flags="S", options=[("MSS", 1460)])
    p.offer("a", bytes(tags(0) / IPv6(src="fd00:1::a", dst="fd00:1::14") / IPv6ExtHdrFragment() / tcp))
    assert p.stats().clamped == 1


@pytest.mark.parametrize(
    "packet",
    [
        tags(400),
        tags(0) / (b"\x45" * 1600),
        Ether(src=A, dst=FAR, type=0x0800) / (b"\x65" * 1600),
        Ether(src=A, dst=FAR, type=0x86DD) / (b"\x45" * 1600),
        tags(0) / IP(src="10.0.1.10", dst="10.0.1.20", options=[IPOption_NOP()] * 4) / bytes(1500),
        tags(0) / IP(src="10.0.1.10", dst="10.0.1.20", len=100) / bytes(1500),
        tags(0) / IP(src="10.0.1.10", dst="10.0.1.20", flags="DF") / ICMP(type=3) / bytes(1500),
        tags(0) / IP(src="224.0.0.1", dst="10.0.1.20", flags="DF") / bytes(1500),
        tags(0) / IPv6(src="fd00:1::a", dst="fd00:1::14") / ICMPv6DestUnreach() / bytes(1500),
        tags(0) / IPv6(src="ff02::1", dst="fd00:1::14") / UDP() / bytes(1500),
        tags(0) / IPv6(src="fd00:1::a", dst="fd00:1::14") / IPv6ExtHdrFragment(offset=9) / bytes(1500),
        tags(41) / IP(src="10.0.1.10", dst="10.0.1.20", flags="DF") / bytes(1500),
        tags(41) / IP(src="10.0.1.10", dst="10.0.1.20") / bytes(1500),
    ],
)  # fmt: skip
def test_too_long_and_nobody_to_tell(packet: Packet) -> None:
    """Dropped on the way out, and counted there."""
    p = plane(TAGGED)
    assert verdict(p, "a", packet) == Verdict.DROP_OVER_MTU
    assert p.stats().send_drops == {Verdict.DROP_OVER_MTU: 1} and p.stats().errors == 0


def test_ipv6_where_its_least_mtu_does_not_fit() -> None:
    """A sender of IPv6 cannot be asked for less than 1,280 bytes."""
    four = SPEC.replace('vtep = ["192.0.2.1", "2001:db8::1"]', 'vtep = "192.0.2.1"').replace("mtu = 1500", "mtu = 1280")
    p = plane(four.replace('vtep = "2001:db8::2"', 'vtep = "192.0.2.3"'))
    packet = tags(0) / IPv6(src="fd00:1::a", dst="fd00:1::14") / UDP() / bytes(1280)
    assert verdict(p, "a", packet) == Verdict.DROP_OVER_MTU


def test_longer_than_a_datagram() -> None:
    """Without an MTU the IP length is the limit."""
    p = plane(SPEC.replace("mtu = 1500", "mtu = 0"))
    assert verdict(p, "a", Ether(src=A, dst=FAR, type=0x88B5) / bytes(65600)) == Verdict.DROP_TOO_LONG
    assert p.stats().peers[101, "192.0.2.2"].tx_drops == 1


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (tags(41, GW) / IP(src="10.0.1.10", dst="10.0.2.11", ttl=1) / UDP(), Verdict.DROP_TTL),
        (tags(3, GW), Verdict.DROP_GATEWAY_REFUSED),
        (Ether(src=A, dst=GW, type=0x8100) / b"", Verdict.DROP_INNER_HEADER),
        (Ether(src=A, dst=GW, type=0x0800) / (b"\x44" * 30), Verdict.DROP_INNER_HEADER),
        (Ether(src=A, dst=GW, type=0x86DD) / (b"\x60" * 30), Verdict.DROP_INNER_HEADER),
        (tags(1, GW) / IP(src="10.0.1.10", dst="10.0.2.11") / UDP(), Verdict.DROP_INNER_TAG),
    ],
)  # fmt: skip
def test_to_the_gateway(packet: Packet, reason: Verdict) -> None:
    """Tags in front, headers that are none."""
    assert verdict(plane(TAGGED), "a", packet) == reason


def test_routed_to_a_station_at_several_places() -> None:
    """To the first of them: a routed packet is one packet."""
    p = plane(
        SPEC.replace(
            'vtep = "192.0.2.2"\nip = ["10.0.2.12", "fd00:2::c"]',
            'vtep = ["192.0.2.2", "2001:db8::2"]\nip = "10.0.2.12"',
        )
    )
    port, out = one(p, "a", Ether(src=A, dst=GW) / IP(src="10.0.1.10", dst="10.0.2.12") / UDP())
    assert port == "underlay" and out[IP].dst == "192.0.2.2" and p.stats().rules == {Rule.RULE_ROUTED: 1}
    [neighbour] = [row for row in p.neighbours() if row["address"] == "10.0.2.12"]
    assert neighbour["place"] is None


def test_groups_without_flooding_and_over_the_rate() -> None:
    """Members behind tunnels hear nothing of a network that does not flood; a group's frames are of the rate too."""
    from dataclasses import replace

    network = replace(TV.network[0], flood="off")
    net = Net(replace(TV, network=(network,)))
    net.say("p3", query(), 9)
    net.say("192.0.2.3", report(), 4)
    net.say("p1", report(), 2)
    assert set(net.say("p0", data())) == {"p1", "p3"}
    net = Net(replace(TV, network=(replace(network, bum_rate=10),)))
    net.say("p3", query(), 9)
    heard = [len(net.say("p0", data(GROUP), after=0)) for _ in range(50)]
    assert heard[0] == 1 and heard[-1] == 0 and net.plane.stats().drops[Verdict.DROP_BUM_RATE] > 30
    assert set(PEERS) == {vtep for _, vtep in net.plane.vteps}


def test_multicast_that_is_no_ip() -> None:
    """A group's MAC in front of something else, or of half a header: flooded, as a bridge does."""
    net = Net()
    net.say("p3", query("0.0.0.0"), 9)
    for packet in (
        b"\x88\xb5" + bytes(50),
        b"\x08\0" + bytes(5),
        b"\x86\xdd" + bytes(5),
        b"\x08\0" + bytes(IP(dst="10.0.0.1")),
    ):
        assert len(net.plane.offer("p0", bytes.fromhex("01005e010203 020000000001") + packet, now_ns=net.now)) == 5


def test_stopped_and_shown(tmp_path: Path) -> None:
    """A watch ends a replay behind the batch in hand; the tables have memberships too."""
    (tmp_path / "node.toml").write_text(vf.to_toml(TV))
    from tests.test_snooping import frame

    capture = tmp_path / "in.pcap"
    capture.write_bytes(pcap([frame(9, query()), frame(2, report()), frame(1, data())]))
    done = vf.replay_file(vf.Dataplane(TV), capture, tmp_path / "out.pcapng", port="p1", watch=lambda *_: True)
    assert done.interrupted and done.packets == 3 and done.summary().endswith("[interrupted]")
    run = vxlanfast("replay", capture, "-c", tmp_path / "node.toml", "--port", "p1", "--show", "mdb")
    assert run.stdout.decode().splitlines() == [
        "dev tv port p1 grp * vni 42 temp", f"dev tv port p1 grp {GROUP} vni 42 temp",
    ]  # fmt: skip
    run = vxlanfast("replay", capture, "-c", tmp_path / "node.toml", "--port", "p1", "--show", "mdb", "-j")
    assert [row["grp"] for row in json.loads(run.stdout)] == ["*", GROUP]
    with pytest.raises(ZeroDivisionError):
        vf.replay_file(vf.Dataplane(TV), capture, tmp_path / "new.pcapng", port="p1", explain=lambda decision: 1 // 0)
    assert not (tmp_path / "new.pcapng").exists()
