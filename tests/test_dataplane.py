"""Planes wired to each other: endpoints on different hosts talk, and networks stay apart."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import replace

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.l2 import ARP, Ether

import vxlanfast as vf
from vxlanfast import Verdict as V

S = 1_000_000_000


def mac(n: int) -> str:
    return f"02:42:0a:00:00:{n:02x}"


def node(number: int, hosts: int, *, endpoints: dict[int, tuple[int, ...]], **policy: object) -> vf.NodeSpec:
    """Host ``number`` of ``hosts``; ``endpoints``: {host: last bytes of its endpoints' addresses}."""
    here, there = [], []
    for host, numbers in endpoints.items():
        for n in numbers:
            where = {"port": f"e{n}"} if host == number else {"vtep": f"192.0.2.{host}"}
            (here if host == number else there).append(vf.EndpointSpec(**where, ip=(f"10.0.0.{n}",)))
    network = vf.NetworkSpec(
        name="web", vni=42, endpoint=(*here, *there) if policy.get("proxy") else tuple(here),
        peer=tuple(vf.PeerSpec(vtep=f"192.0.2.{h}") for h in range(1, hosts + 1) if h != number), **policy,
    )  # fmt: skip
    return vf.NodeSpec(name=f"n{number}", vtep=(f"192.0.2.{number}",), network=(network,))


class Lab:
    """Hosts on one underlay, and endpoints that answer ARP, ping and TCP."""

    def __init__(self, planes: dict[int, vf.Dataplane]) -> None:
        self.planes = planes
        self.heard: list[tuple[str, bytes]] = []
        self.crossed = 0
        self.now = 0

    def endpoint(self, n: int, frame: bytes) -> list[bytes]:
        """What endpoint ``n`` says to a frame it hears."""
        p = Ether(frame)
        if ARP in p and p[ARP].op == 1 and p[ARP].pdst == f"10.0.0.{n}":
            reply = ARP(op=2, hwsrc=mac(n), psrc=p[ARP].pdst, hwdst=p[ARP].hwsrc, pdst=p[ARP].psrc)
            return [bytes(Ether(src=mac(n), dst=p.src) / reply)]
        if p.dst != mac(n) or IP not in p or p[IP].dst != f"10.0.0.{n}":
            return []
        back = Ether(src=mac(n), dst=p.src) / IP(src=p[IP].dst, dst=p[IP].src)
        if ICMP in p and p[ICMP].type == 8:
            return [bytes(back / ICMP(type=0, id=p[ICMP].id, seq=p[ICMP].seq) / bytes(p[ICMP].payload))]
        if TCP in p and p[TCP].flags == "S":
            return [bytes(back / TCP(sport=p[TCP].dport, dport=p[TCP].sport, flags="SA", seq=7, ack=p[TCP].seq + 1))]
        return []

    def say(self, host: int, port: str, frame: bytes) -> list[tuple[str, bytes]]:
        """A frame by a port, everything it leads to: who heard what, in order."""
        self.heard = []
        queue = deque([(host, port, frame)])
        while queue:
            host, port, frame = queue.popleft()
            self.now += 1000
            assert len(self.heard) < 1000, "a loop"
            for out, packet in self.planes[host].offer(port, frame, now_ns=self.now):
                if out == "underlay":
                    self.crossed += 1
                    to = int(Ether(packet)[IP].dst.rsplit(".", 1)[1])
                    queue.append((to, "underlay", packet))
                else:
                    self.heard.append((out, packet))
                    queue.extend((host, out, answer) for answer in self.endpoint(int(out[1:]), packet))
        return self.heard


def arp(n: int, target: int) -> bytes:
    ask = ARP(op=1, hwsrc=mac(n), psrc=f"10.0.0.{n}", pdst=f"10.0.0.{target}")
    return bytes(Ether(src=mac(n), dst="ff:ff:ff:ff:ff:ff") / ask)


@pytest.mark.parametrize("hosts", [2, 3])
@pytest.mark.parametrize(
    "policy",
    [{}, {"proxy": True}, {"proxy": True, "unknown_neighbours": "swallow", "flood": "off"}],
    ids=["flooded", "proxied", "as Swarm"],
)
def test_arp_ping_tcp(hosts: int, policy: dict[str, object]) -> None:
    """Every pair of endpoints on different hosts: ARP, then ping, then a TCP handshake's first two packets."""
    endpoints = {host: (host * 10, host * 10 + 1) for host in range(1, hosts + 1)}
    lab = Lab({n: vf.Dataplane(node(n, hosts, endpoints=endpoints, **policy)) for n in endpoints})
    for a in endpoints:
        for b in endpoints:
            if a == b:
                continue
            src, dst = endpoints[a][0], endpoints[b][1]
            crossed = lab.crossed
            heard = lab.say(a, f"e{src}", arp(src, dst))
            answers = [Ether(f)[ARP] for port, f in heard if port == f"e{src}" and ARP in Ether(f)]
            assert [(p.op, p.hwsrc, p.psrc) for p in answers] == [(2, mac(dst), f"10.0.0.{dst}")]
            if policy.get("proxy"):
                assert lab.crossed == crossed  # nothing on the underlay
            to = Ether(src=mac(src), dst=mac(dst)) / IP(src=f"10.0.0.{src}", dst=f"10.0.0.{dst}")
            ping = bytes(to / ICMP(type=8, id=1, seq=2) / b"payload")
            heard = lab.say(a, f"e{src}", ping)
            assert [port for port, _ in heard] == [f"e{dst}", f"e{src}"]
            assert heard[0][1] == ping and Ether(heard[1][1])[ICMP].type == 0
            heard = lab.say(a, f"e{src}", bytes(to / TCP(sport=1, dport=80, flags="S", seq=99)))
            assert Ether(heard[-1][1])[TCP].flags == "SA" and Ether(heard[-1][1])[TCP].ack == 100
    for plane in lab.planes.values():
        adds_up(plane)


def adds_up(plane: vf.Dataplane) -> None:
    """In = out + dropped, copies counted as copies; places and totals agree."""
    stats = plane.stats()
    assert stats.packets == stats.passed + sum(stats.drops.values())
    assert stats.sent + sum(stats.send_drops.values()) == stats.passed - stats.flooded + stats.copies
    places = [*stats.ports.values(), *stats.peers.values()]
    assert sum(p.tx_packets for p in places) == stats.sent


def test_counters_add_up_whatever_comes() -> None:
    """Random frames, broken ones too, by every port."""
    rng = random.Random(7)
    plane = vf.Dataplane(node(1, 3, endpoints={1: (10, 11, 12), 2: (20,), 3: (30,)}, proxy=True, bum_rate=500))
    total = 0
    for _ in range(300):
        frames = []
        for _ in range(rng.randrange(1, 20)):
            frame = bytearray(
                bytes(
                    Ether(src=mac(rng.choice([10, 20, 99])), dst=rng.choice([mac(20), mac(11), "ff:ff:ff:ff:ff:ff"]))
                    / rng.choice([IP(dst="10.0.0.1"), ARP(pdst="10.0.0.20"), ARP(op=2, psrc="10.0.0.20")])
                )
            )
            if rng.random() < 0.3:
                frame[rng.randrange(len(frame))] ^= 1 << rng.randrange(8)
            frames.append(bytes(frame[: rng.randrange(len(frame))] if rng.random() < 0.1 else frame))
        port = rng.choice(["e10", "e11", "e12", "underlay"])
        if port == "underlay":
            vtep = rng.choice(["192.0.2.2", "192.0.2.3", "192.0.2.9"])
            vni = rng.choice([42, 42, 43])
            frames = [vf.encap(f, vni=vni, src=vtep, dst="192.0.2.1") for f in frames if len(f) > 13]
        total += len(frames)
        plane.offer(port, *frames, now_ns=rng.randrange(10**10))
        adds_up(plane)
    stats = plane.stats()
    assert stats.packets == total and len(stats.drops) > 5


def test_apply() -> None:
    """Learned entries live on where their place does; what was set is the new spec's; a gone network leaves nothing."""
    old = node(1, 3, endpoints={1: (10, 11)})
    plane = vf.Dataplane(old)
    shout = Ether(dst="ff:ff:ff:ff:ff:ff", src=mac(77)) / b"hello"
    for vtep, n in (("192.0.2.2", 77), ("192.0.2.3", 78)):
        shout.src = mac(n)
        plane.offer("underlay", vf.encap(bytes(shout), vni=42, src=vtep, dst="192.0.2.1"), now_ns=S)
    network = old.network[0]
    fewer = replace(network, peer=network.peer[:1], endpoint=network.endpoint[:1])
    assert plane.apply(replace(old, network=(fewer,))) == 1  # 77, at 192.0.2.2
    assert [(row["mac"], row["place"], row["state"]) for row in plane.stations()] == [
        *sorted([(mac(10), "e10", "static"), (mac(77), "192.0.2.2", "learned")], key=lambda row: order(plane, row[0])),
    ]  # fmt: skip
    assert plane.port_names == ("underlay", "e10")
    assert plane.apply(replace(old, network=(replace(network, vni=43),))) == 0
    assert plane.apply(old) == 0
    assert {row["mac"] for row in plane.stations()} == {mac(10), mac(11)}
    with pytest.raises(vf.TableFullError, match="forwarding table: all 1 entries are authoritative"):
        plane.apply(replace(old, stations=1))
    assert plane.spec is old  # it runs on


def order(plane: vf.Dataplane, address: str) -> int:
    return [row["mac"] for row in plane.stations()].index(address)


def test_moved_by_authority() -> None:
    """Whatever was learned, the first packet after an authoritative change goes to the new VTEP."""
    plane = vf.Dataplane(node(1, 3, endpoints={1: (10,)}))
    hello = bytes(Ether(dst="ff:ff:ff:ff:ff:ff", src=mac(20)) / b"hello")
    to = bytes(Ether(dst=mac(20), src=mac(10)) / b"data")
    plane.offer("underlay", vf.encap(hello, vni=42, src="192.0.2.2", dst="192.0.2.1"))
    assert [Ether(p)[IP].dst for _, p in plane.offer("e10", to)] == ["192.0.2.2"]
    plane.set_station(42, mac(20), "192.0.2.3")
    assert [Ether(p)[IP].dst for _, p in plane.offer("e10", to)] == ["192.0.2.3"]
    late = plane.process(vf.PacketBatch.from_frames([vf.encap(hello, vni=42, src="192.0.2.2", dst="192.0.2.1")]))
    assert list(late.verdict) == [V.DROP_STATION_ELSEWHERE]
    assert [Ether(p)[IP].dst for _, p in plane.offer("e10", to)] == ["192.0.2.3"]


def test_single_entries_and_drift() -> None:
    """As ``bridge fdb`` and ``ip neigh`` change them; ``verify`` says what differs from the spec."""
    plane = vf.Dataplane(node(1, 2, endpoints={1: (10,), 2: (20,)}, proxy=True))
    assert not plane.verify()
    assert plane.delete_station(42, mac(20)) and not plane.delete_station(42, mac(20))
    plane.set_station(42, mac(33), "e10")
    plane.set_neighbour(42, "10.0.0.33", mac(33))
    assert plane.delete_neighbour(42, "10.0.0.20") and not plane.delete_neighbour(42, "10.0.0.20")
    drift = plane.verify()
    assert drift.missing == (
        f"fdb {mac(20)} vni 42 at 192.0.2.2", f"neigh 10.0.0.20 vni 42 lladdr {mac(20)} at 192.0.2.2",
    )  # fmt: skip
    assert drift.unknown == (
        f"fdb {mac(33)} vni 42 at e10", f"neigh 10.0.0.33 vni 42 lladdr {mac(33)} at any",
    )  # fmt: skip
    plane.apply(plane.spec)
    assert not plane.verify()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda p: p.set_station(7, mac(1), "e10"), "VNI 7: no network of this node"),
        (lambda p: p.set_station(1 << 24, mac(1), "e10"), "VNI 16777216: no network"),
        (lambda p: p.set_station(42, mac(1), "e9"), "'e9': no port or member of VNI 42; there are e10, 192.0.2.2"),
        (lambda p: p.set_station(42, "nonsense", "e10"), "mac = 'nonsense': six pairs"),
        (lambda p: p.offer("e9", bytes(60)), "port 'e9': there are underlay, e10"),
    ],
)
def test_what_callers_get_wrong(call, text) -> None:
    with pytest.raises(vf.SpecError, match=text):
        call(vf.Dataplane(node(1, 2, endpoints={1: (10,)})))


def test_full_tables_say_so() -> None:
    """By the table's name and size."""
    spec = replace(node(1, 2, endpoints={1: (10,)}), stations=1, neighbours=1)
    plane = vf.Dataplane(spec)
    with pytest.raises(vf.TableFullError, match="forwarding table: all 1 entries"):
        plane.set_station(42, mac(1), "e10")
    with pytest.raises(vf.TableFullError, match="neighbour table: all 1 entries"):
        plane.set_neighbour(42, "10.0.0.1", mac(1))
    with pytest.raises(vf.TableFullError, match="neighbour table"):
        vf.Dataplane(replace(node(1, 2, endpoints={1: (10, 11)}), neighbours=1))


def test_ten_thousand_networks() -> None:
    """All of them live, with the same stations and addresses in each: what comes by a port or a VNI stays in it."""
    count = 10_000
    step = (1 << 24) // (count - 1)
    vnis = [*(n * step for n in range(count - 1)), (1 << 24) - 1]
    here, there = "02:42:0a:00:00:02", "02:42:0a:00:00:03"
    spec = vf.NodeSpec(
        vtep=("192.0.2.1",),
        network=tuple(
            vf.NetworkSpec(
                name=f"n{vni}", vni=vni,
                endpoint=(
                    vf.EndpointSpec(port=f"p{vni}", ip=("10.0.0.2",)),
                    vf.EndpointSpec(vtep="192.0.2.2", ip=("10.0.0.3",)),
                ),
            )
            for vni in vnis
        ),
    )  # fmt: skip
    plane = vf.Dataplane(spec)
    ends = (vf.EndpointSpec(vtep="192.0.2.1", ip=("10.0.0.2",)),)
    mirrored = (replace(n, endpoint=(vf.EndpointSpec(port=f"q{n.vni}", ip=("10.0.0.3",)), *ends)) for n in spec.network)
    other = vf.Dataplane(replace(spec, vtep=("192.0.2.2",), network=tuple(mirrored)))
    rng = random.Random(3)
    for vni in (vnis[0], vnis[-1], *rng.sample(vnis, 60)):
        frame = bytes(Ether(src=here, dst=there) / IP(src="10.0.0.2", dst="10.0.0.3") / b"x")
        [(port, packet)] = plane.offer(f"p{vni}", frame)
        assert port == "underlay" and int.from_bytes(packet[46:49], "big") == vni
        assert other.offer("underlay", packet) == [(f"q{vni}", frame)]
    assert set(plane.stats().networks) == set(vnis) and not plane.verify()


def test_a_peer_with_further_addresses() -> None:
    """Its packets may come from any of them; what is sent to it goes to its own."""
    peer = vf.PeerSpec(vtep="192.0.2.2", rx_from=("203.0.113.7", "203.0.113.8"))
    network = vf.NetworkSpec(name="web", vni=42, endpoint=(vf.EndpointSpec(port="e"),), peer=(peer,))
    plane = vf.Dataplane(vf.NodeSpec(vtep=("192.0.2.1",), network=(network,)))
    inner = bytes(Ether(src=mac(9), dst=mac(1)) / IP() / b"x")
    for source, passes in (("192.0.2.2", True), ("203.0.113.8", True), ("203.0.113.7", True), ("203.0.113.9", False)):
        packet = vf.encap(inner, vni=42, src=source, dst="192.0.2.1")
        assert plane.offer("underlay", packet) == ([("e", inner)] if passes else [])
    [(port, back)] = plane.offer("e", bytes(Ether(src=mac(1), dst=mac(9)) / IP() / b"y"))
    assert port == "underlay" and Ether(back)[IP].dst == "192.0.2.2"
    assert plane.stats().peers[42, "192.0.2.2"].rx_packets == 3
    for wrong, text in (
        (("192.0.2.2",), "192.0.2.2 is meant already"),
        (("203.0.113.7", "203.0.113.7"), "each once"),
        (("192.0.2.3",), "rx_from = '192.0.2.3': it is 192.0.2.3's already"),
    ):
        with pytest.raises(vf.SpecError, match=text):
            other = vf.PeerSpec(vtep="192.0.2.3")
            vf.NetworkSpec(name="web", vni=42, peer=(vf.PeerSpec(vtep="192.0.2.2", rx_from=wrong), other))
