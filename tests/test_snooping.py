"""IGMP and MLD snooping: multicast goes where it was asked for, with scapy as the hosts and the querier."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from scapy.layers.igmp import IGMP, IGMPv3_MR, IGMPv3_MR_Group
from scapy.layers.inet import IP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import (
    ICMPv6MLDMultAddrRec,
    ICMPv6MLDone,
    ICMPv6MLQuery,
    ICMPv6MLReport,
    ICMPv6MLReport2,
    IPv6,
    IPv6ExtHdrHopByHop,
    RouterAlert,
)  # fmt: skip
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet

import vxlanfast as vf
from vxlanfast import Rule, Verdict

S = 1_000_000_000
PEERS = ("192.0.2.2", "192.0.2.3")
SPEC = vf.NodeSpec(
    vtep=("192.0.2.1",),
    network=(
        vf.NetworkSpec(
            name="tv", vni=42, endpoint=tuple(vf.EndpointSpec(port=f"p{n}") for n in range(4)),
            peer=tuple(vf.PeerSpec(vtep=vtep) for vtep in PEERS),
        ),
    ),
)  # fmt: skip
GROUP, GROUP6 = "239.1.2.3", "ff15::77"


def mac(n: int) -> str:
    return f"02:00:00:00:00:{n:02x}"


def frame(n: int, packet: Packet) -> bytes:
    """A frame of host ``n``, to the group's MAC (scapy makes it of the address)."""
    to = packet.dst
    if ":" in to:
        tail = bytes(map(int, IPv6(dst=to).build()[36:40]))
        return bytes(Ether(src=mac(n), dst="33:33:" + tail.hex(":")) / packet)
    low = [int(x) for x in to.split(".")]
    return bytes(Ether(src=mac(n), dst=f"01:00:5e:{low[1] & 127:02x}:{low[2]:02x}:{low[3]:02x}") / packet)


def query(src: str = "10.0.0.9", group: str = "0.0.0.0") -> Packet:
    to = "224.0.0.1" if group == "0.0.0.0" else group
    return IP(src=src, dst=to, ttl=1, options=[IPOption_Router_Alert()]) / IGMP(type=0x11, gaddr=group, mrcode=100)


def report(group: str = GROUP, kind: int = 0x16) -> Packet:
    to = "224.0.0.2" if kind == 0x17 else group
    return IP(src="10.0.0.1", dst=to, ttl=1, options=[IPOption_Router_Alert()]) / IGMP(type=kind, gaddr=group)


def report3(kind: int, *sources: str, group: str = GROUP) -> Packet:
    record = IGMPv3_MR_Group(rtype=kind, maddr=group, srcaddrs=list(sources))
    return IP(src="10.0.0.1", dst="224.0.0.22", ttl=1, options=[IPOption_Router_Alert()]) / IGMPv3_MR(records=[record])


def mld(message: Packet, dst: str = GROUP6) -> Packet:
    return IPv6(src="fe80::1", dst=dst, hlim=1) / IPv6ExtHdrHopByHop(options=[RouterAlert()]) / message


def data(group: str = GROUP) -> Packet:
    return (IPv6(src="fd00::1", dst=group) if ":" in group else IP(src="10.0.0.1", dst=group)) / UDP() / b"tune"


class Net:
    """A plane, a clock, and who hears what."""

    def __init__(self, spec: vf.NodeSpec = SPEC) -> None:
        self.plane = vf.Dataplane(spec)
        self.now = S

    def say(self, port: str, packet: Packet, n: int = 1, after: float = 0.001) -> list[str]:
        """Who hears a packet of host ``n`` by a port (or a peer's address): ports' names, peers' addresses."""
        self.now += int(after * S)
        raw = frame(n, packet)
        if port in PEERS:
            outer = Ether() / IP(src=port, dst="192.0.2.1") / UDP(sport=50000, dport=4789, chksum=0)
            raw, port = bytes(outer / VXLAN(vni=42, flags=8) / raw), "underlay"
        heard = []
        for out, left in self.plane.offer(port, raw, now_ns=self.now):
            heard.append(Ether(left)[IP].dst if out == "underlay" else out)
        return heard


EVERYBODY = ["p1", "p2", "p3", *PEERS]


def test_without_a_querier_everybody_hears() -> None:
    """Memberships that nobody asks for run out; so nothing is kept from anybody."""
    net = Net()
    assert net.say("p0", data()) == EVERYBODY
    assert net.say("p1", report(), 2) == ["p0", "p2", "p3", *PEERS]
    assert net.say("p0", data()) == EVERYBODY
    off = Net(replace(SPEC, network=(replace(SPEC.network[0], snoop=False),)))
    off.say("p3", query(), 9)
    assert off.say("p0", data()) == EVERYBODY and list(off.plane.memberships()) == []


@pytest.mark.parametrize("family", [4, 6])
def test_members_and_routers(family: int) -> None:
    """Who joined and who asks get the group's frames, here and behind tunnels; a tunnel's go to ports alone."""
    net = Net()
    ask, join, stream = (
        (query(), report(), data()) if family == 4
        else (mld(ICMPv6MLQuery(), "ff02::1"), mld(ICMPv6MLReport(mladdr=GROUP6)), data(GROUP6))
    )  # fmt: skip
    assert net.say("p3", ask, 9) == ["p0", "p1", "p2", *PEERS]
    assert net.say("p0", stream) == ["p3"]
    assert net.say("p1", join, 2) == [*PEERS, "p3"]  # to peers and the router, and no other host
    assert net.say("192.0.2.3", join, 3) == ["p3"]
    assert set(net.say("p0", stream)) == {"p1", "p3", "192.0.2.3"}
    assert set(net.say("192.0.2.2", stream, 4)) == {"p1", "p3"}
    assert set(net.say("p1", stream, 2)) == {"p3", "192.0.2.3"}
    rows = list(net.plane.memberships())
    assert {(row["group"], row["place"]) for row in rows} == {
        ("*", "p3"), (GROUP if family == 4 else GROUP6, "p1"), (GROUP if family == 4 else GROUP6, "192.0.2.3"),
    }  # fmt: skip
    stats = net.plane.stats()
    assert stats.rules[Rule.RULE_GROUP] == 1 + 3 + 2 + 2 and stats.rules[Rule.RULE_REPORT] == 4
    assert stats.sent == stats.passed - stats.flooded + stats.copies


def test_the_other_family_and_other_groups() -> None:
    """An IPv4 querier says nothing of MLD; a group without members goes to routers, and without those to nobody."""
    net = Net()
    net.say("p3", query("0.0.0.0"), 9)  # a switch asks: it is a querier, and routes nothing
    assert net.say("p0", data(GROUP6)) == EVERYBODY
    assert net.say("p0", data()) == []
    assert net.plane.stats().drops == {Verdict.DROP_GROUP_EMPTY: 1}
    net.say("p1", report(), 2)
    assert net.say("p0", data("239.1.2.4")) == [] and net.say("p0", data()) == ["p1"]
    for link in ("224.0.0.251", "ff02::fb", "ff02::1:ff00:1"):
        assert net.say("p0", data(link)) == EVERYBODY


def test_leave_expire_and_silence() -> None:
    """A leave gives others two seconds; a membership holds 260 s; without queries for 255 s everything is flooded."""
    net = Net()
    net.say("p3", query("0.0.0.0"), 9)
    net.say("p1", report(), 2)
    net.say("p2", report(), 3)
    assert net.say("p0", data()) == ["p2", "p1"]
    net.say("p1", report(kind=0x17), 2)
    assert net.say("p0", data(), after=1.9) == ["p2", "p1"]
    assert net.say("p0", data(), after=0.2) == ["p2"]
    net.say("p3", query("0.0.0.0"), 9, after=100)
    assert net.say("p0", data(), after=150) == ["p2"]
    assert net.say("p0", data(), after=10) == []  # p2 said nothing for 260 s
    assert net.say("p0", data(), after=100) == EVERYBODY
    assert list(net.plane.memberships()) == []


def test_records_of_version_3() -> None:
    """To include nothing is to leave; any source, or all but some, is to join."""
    net = Net()
    net.say("p3", query("0.0.0.0"), 9)
    net.say("p1", report3(4), 2)
    assert net.say("p0", data()) == ["p1"]
    net.say("p1", report3(3), 2)
    assert net.say("p0", data(), after=2.1) == []
    for kind in (1, 2, 3, 4, 5):
        net = Net()
        net.say("p3", query("0.0.0.0"), 9)
        net.say("p1", report3(kind, "10.0.0.7"), 2)
        assert net.say("p0", data()) == ["p1"], kind
    net.say("p1", report3(6, "10.0.0.7"), 2)
    assert net.say("p0", data(), after=3) == ["p1"]  # it blocks one source: the group is still wanted


def test_mld_version_2_and_done() -> None:
    net = Net()
    net.say("p3", mld(ICMPv6MLQuery(), "ff02::1"), 9)
    join = ICMPv6MLReport2(
        records=[ICMPv6MLDMultAddrRec(rtype=4, dst=GROUP6), ICMPv6MLDMultAddrRec(rtype=4, dst="ff15::78")]
    )
    net.say("p1", mld(join, "ff02::16"), 2)
    assert set(net.say("p0", data(GROUP6))) == {"p1", "p3"} == set(net.say("p0", data("ff15::78")))
    net.say("p1", mld(ICMPv6MLDone(mladdr=GROUP6), "ff02::2"), 2)
    assert net.say("p0", data(GROUP6), after=2.1) == ["p3"]
    assert set(net.say("p0", data("ff15::78"))) == {"p1", "p3"}


@pytest.mark.parametrize("seed", range(3))
def test_mutated_reports(seed: int) -> None:
    """Whatever stands in a report: no crash, no table beyond its limit, and an account that adds up."""
    rng = random.Random(seed)
    net = Net(replace(SPEC, memberships=16))
    net.say("p3", query(), 9)
    kinds = [report(), report3(4, "10.0.0.7", "10.0.0.8"), report(kind=0x17), query(group=GROUP)]
    kinds += [
        mld(ICMPv6MLReport(mladdr=GROUP6)),
        mld(ICMPv6MLReport2(records=[ICMPv6MLDMultAddrRec(rtype=4, dst=GROUP6)] * 3), "ff02::16"),
    ]
    frames = [frame(1, packet) for packet in kinds]
    for _ in range(3000):
        raw = bytearray(rng.choice(frames))
        for _ in range(rng.randrange(4)):
            raw[rng.randrange(14, len(raw))] = rng.randrange(256)
        net.plane.offer(f"p{rng.randrange(3)}", bytes(raw[: rng.randrange(20, len(raw) + 1)]), now_ns=net.now)
        net.now += rng.randrange(S // 10)
    stats = net.plane.stats()
    assert stats.packets == stats.passed + sum(stats.drops.values())
    assert stats.sent == stats.passed - stats.flooded + stats.copies
    assert len(list(net.plane.memberships())) <= 16


def test_a_full_table_floods() -> None:
    """A join that finds no room is refused and counted; who asked gets the frames all the same, as everybody does."""
    net = Net(replace(SPEC, memberships=8))
    net.say("p3", query("0.0.0.0"), 9)
    for n in range(4):
        net.say("p1", report(f"239.9.9.{n}"), 2)
    assert net.say("p0", data("239.9.9.3")) == ["p1"]
    net.say("p1", report("239.9.9.4"), 2)  # one place may have four here, or a quarter
    assert net.say("p0", data("239.9.9.4")) == EVERYBODY
    net.say("p2", report("239.9.9.1"), 3, after=1)
    net.say("p3", query("0.0.0.0"), 9, after=200)
    net.say("p2", report("239.9.9.1"), 3)
    net.say("p3", query("0.0.0.0"), 9, after=100)
    assert net.say("p0", data("239.9.9.1")) == ["p2"]  # what was p1's has run out, and with it the doubt


def test_memberships_live_through_a_new_spec() -> None:
    """Where port, peer and network are still there."""
    net = Net()
    net.say("p3", query(), 9)
    net.say("p1", report(), 2)
    net.say("192.0.2.2", report(), 3)
    network = SPEC.network[0]
    net.plane.apply(replace(SPEC, network=(replace(network, peer=network.peer[1:], bum_rate=1000),)))
    assert {row["place"] for row in net.plane.memberships()} == {"p1", "p3"}
    assert set(net.say("p0", data())) == {"p1", "p3"}
    net.plane.apply(replace(SPEC, network=(replace(network, vni=43),)))
    assert list(net.plane.memberships()) == []


def test_a_station_at_several_places() -> None:
    """A copy at each, none back and none from tunnel to tunnel; it may speak from any of them."""
    endpoint = vf.EndpointSpec(vtep=PEERS, mac=mac(77), ip=("10.0.0.77",))
    spec = replace(SPEC, network=(replace(SPEC.network[0], endpoint=(*SPEC.network[0].endpoint, endpoint)),))
    net = Net(spec)
    to = bytes(Ether(src=mac(1), dst=mac(77)) / IP() / UDP())

    def places(port: str, raw: bytes) -> list[str]:
        out = net.plane.offer(port, raw, now_ns=net.now)
        return [Ether(left)[IP].dst if name == "underlay" else name for name, left in out]

    assert places("p0", to) == list(PEERS)
    for vtep in PEERS:
        outer = (
            Ether() / IP(src=vtep, dst="192.0.2.1") / UDP(sport=50000, dport=4789, chksum=0) / VXLAN(vni=42, flags=8)
        )
        assert places("underlay", bytes(outer / Ether(src=mac(77), dst=mac(1)) / IP() / UDP())) == ["p0"]
        assert places("underlay", bytes(outer / Ether(src=mac(5), dst=mac(77)) / IP() / UDP())) == []
    assert places("p1", bytes(Ether(src=mac(77), dst=mac(1)) / IP() / UDP())) == []
    assert net.plane.stats().drops == {Verdict.DROP_SPLIT_HORIZON: 2, Verdict.DROP_STATION_ELSEWHERE: 1}
    net.plane.set_station(42, mac(77), "p1", "p2", PEERS[0])
    assert places("p0", to) == ["p1", "p2", PEERS[0]]
    assert net.plane.verify().unknown == (f"fdb {mac(77)} vni 42 at p1,p2,{PEERS[0]}",)
    net.plane.set_station(42, mac(77), "p1")
    assert places("p0", to) == ["p1"]
    with pytest.raises(vf.SpecError, match="a port or a member at least"):
        net.plane.set_station(42, mac(77))
