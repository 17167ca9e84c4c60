"""Profile swarm without a Swarm at hand: one captured connection hop by hop, and what else the profile promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, TCPerror, UDPerror
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP, SCTPChunkInit
from scapy.packet import Packet

import vxlanfast as vf
from tests.test_mesh_nodes import CLIENT, CLIENT_MAC, NODES, answer, good, mac_text, node

#: The first two packets of a connection to a real Swarm (Docker 28.5.2): the client 10.1.1.100 called 10.1.1.11:8080,
#: served by 10.0.0.7 on another node. What each interface on the way showed: Ethernet and IP, then TCP.
QUESTION = {
    "client": "02000a01011132b63d13080c0800" "4500003cbd3a4000400667110a0101640a01010b"
    "b11e1f90da14651000000000a002faf0a8290000020405b40402080a6cbc11e2000000000103030a",
    "gateway": "6e3d997b3ccee600f5c40fee0800" "4500003cbd3a40003f06c7080a010164ac120002"
    "b11e1f90da14651000000000a002faf007210000020405b40402080a6cbc11e2000000000103030a",
    "balancer": "02420a00000702420a0000020800" "4500003cbd3a40003e066b790a0000020a000007"
    "b11e1f90da14651000000000a002faf0aa910000020405b40402080a6cbc11e2000000000103030a",
}  # fmt: skip
ANSWER = {
    "balancer": "02420a00000202420a0000070800" "4500003c00004000400626b40a0000070a000002"
    "1f90b11e50a4a63cda146511a012fb340be80000020405820402080aac70fb376cbc11e201030307",
    "gateway": "e600f5c40fee6e3d997b3cce0800" "4500003c000040003f068443ac1200020a010164"
    "1f90b11e50a4a63cda146511a012fb3468770000020405820402080aac70fb376cbc11e201030307",
    "client": "32b63d13080c02000a0101110800" "4500003c000040003e06264c0a01010b0a010164"
    "1f90b11e50a4a63cda146511a012fb3409800000020405820402080aac70fb376cbc11e201030307",
}  # fmt: skip
#: VTEPs, VNI 4096 and the frame: the rest of the outer headers is the sender's to choose.
UNDERLAY = ("10.1.1.11", "10.1.1.13", "0800000000100000")

NODE = """
[node]
vtep = "10.1.1.{own}"
udp_csum = "on"
[mesh]
profile = "swarm"
[[network]]
name = "lan"
lan = true
subnet = "10.1.1.0/24"
gateway = "10.1.1.{own}"
gateway_mac = "02:00:0a:01:01:{own}"
router_mac = "02:00:0a:01:01:{own}"
[[network.endpoint]]
port = "eth0"
ip = "10.1.1.100"
mac = "32:b6:3d:13:08:0c"
[[network]]
name = "ingress"
vni = 4096
subnet = "10.0.0.0/24"
gateway = "10.0.0.1"
own = "{balancer}"
[[network.endpoint]]
ip = "{other}"
vtep = "10.1.1.{peer}"
[[network.endpoint]]
ip = "10.0.0.7"
{place}
[[service]]
name = "web"
servers_in = "ingress"
[[service.publish]]
network = "lan"
published = 8080
target = 80
[[service.server]]
address = "10.0.0.7"
"""
ENTRY = NODE.format(own=11, balancer="10.0.0.2", peer=13, other="10.0.0.4", place='vtep = "10.1.1.13"')
HOME = NODE.format(own=13, balancer="10.0.0.4", peer=11, other="10.0.0.2", place='port = "task"')
LEG = vf.GatewayLeg(address="172.18.0.2", mac="6e:3d:99:7b:3c:ce", bridge_mac="e6:00:f5:c4:0f:ee")


def hops(way: vf.Way) -> dict[str, str]:
    return {hop.name: hop.frame.hex() for hop in way.hops}


def outer(frame: bytes) -> tuple[str, str, str]:
    packet = Ether(frame)[IP]
    return packet.src, packet.dst, bytes(packet[UDP].payload)[:8].hex()


def test_a_captured_connection() -> None:
    """Client, docker_gwbridge, ingress namespace, overlay, underlay, task; and all the way back."""
    entry, home = vf.Dataplane(vf.parse_spec(ENTRY)), vf.Dataplane(vf.parse_spec(HOME))
    [way] = vf.hops_of(entry, "eth0", bytes.fromhex(QUESTION["client"]), gateway=LEG)
    inner = QUESTION["balancer"]
    assert [hop.name for hop in way.hops] == ["client", "gateway", "balancer", "overlay", "underlay"]
    assert hops(way) == {**QUESTION, "overlay": inner, "underlay": way.frame.hex()}
    assert outer(way.frame) == UNDERLAY and way.frame[50:].hex() == inner

    [way] = vf.hops_of(home, "underlay", way.frame)
    assert [hop.name for hop in way.hops] == ["underlay", "overlay", "task", "socket"]
    assert hops(way)["task"] == inner  # its interface shows what the overlay does; REDIRECT comes behind it
    assert Ether(way.frame)[TCP].dport == 80 and way.port == "task"
    good(Ether(way.frame))

    said = Ether(bytes.fromhex(ANSWER["balancer"]))
    said[TCP].sport = 80
    del said[TCP].chksum
    [way] = vf.hops_of(home, "task", bytes(said))
    assert [hop.name for hop in way.hops] == ["socket", "task", "overlay", "underlay"]
    assert hops(way)["task"] == hops(way)["overlay"] == ANSWER["balancer"]

    [way] = vf.hops_of(entry, "underlay", way.frame, gateway=LEG)
    assert [hop.name for hop in way.hops] == ["underlay", "overlay", "balancer", "gateway", "client"]
    assert {name: frame for name, frame in hops(way).items() if name in ANSWER} == ANSWER
    assert [Ether(hop.frame)[IP].ttl for hop in way.hops[1:]] == [64, 64, 63, 62]


# --- three nodes ----------------------------------------------------------------------------------------


def swarm_node(number: int, **change: object) -> vf.NodeSpec:
    """A node of `test_mesh_nodes` with the profile: the same services, and balancers' addresses."""
    spec = node(number, preserve=False, masquerade=True)
    own = {"blue": (f"10.0.9.10{number}", f"fd00:9::10{number}"), "green": (f"10.0.8.10{number}",)}
    networks = []
    for network in spec.network:
        others = tuple(
            vf.EndpointSpec(vtep=f"192.0.2.{n}", ip=(f"10.0.{9 if network.name == 'blue' else 8}.10{n}",))
            for n in NODES if n != number and network.name in own
        )  # fmt: skip
        networks.append(
            replace(network, own=own.get(network.name, network.own), endpoint=(*network.endpoint, *others))
        )
    web, *rest = spec.service
    web = replace(
        web, masquerade=(), virtual=(vf.VirtualSpec(network="ingress", address="10.0.0.50"),),
        server=tuple(s for s in web.server if ":" not in s.address),
        publish=(*web.publish, vf.PublishSpec(network="lan", published=7000, target=700, protocol="sctp")),
    )  # fmt: skip
    made = {"network": tuple(networks), "service": (web, *rest), "mesh": vf.MeshSpec(profile="swarm", seed=number)}
    return replace(spec, **{**made, **change})


class Nodes:
    """Three of them, their underlay in memory."""

    def __init__(self, **change: object) -> None:
        self.planes = {n: vf.Dataplane(swarm_node(n, **change)) for n in NODES}

    def send(self, at: int, port: str, frame: Packet) -> list[tuple[int, str, Packet]]:
        out, todo = [], [(at, port, bytes(frame))]
        while todo:
            where, by, raw = todo.pop()
            for name, made in self.planes[where].offer(by, raw):
                if name == "underlay":
                    todo.append((int(Ether(made)[IP].dst[-1]), "underlay", made))
                else:
                    good(Ether(made))
                    out.append((where, name, Ether(made)))
        return out

    def call(self, entry: int, packet: Packet) -> list[tuple[int, str, Packet]]:
        return self.send(entry, "eth0", Ether(src=CLIENT_MAC, dst=f"02:00:00:00:01:0{entry}") / packet)

    def drops(self) -> dict[vf.Verdict, int]:
        return {verdict: n for plane in self.planes.values() for verdict, n in plane.stats().drops.items()}


@pytest.mark.parametrize("entry", NODES)
def test_published(entry: int) -> None:
    """By any node, to a task of its own as well: TCP, UDP and SCTP, the target port at the task, TTL as in a Swarm."""
    nodes = Nodes()
    met = set()
    for turn in range(6):
        make = [TCP(dport=8080, flags="S"), UDP(dport=53) / b"x", SCTP(dport=7000, tag=0) / SCTPChunkInit()][turn // 2]
        make.sport = 40000 + turn
        layer, target = [(TCP, 80), (UDP, 53), (SCTP, 700)][turn // 2]
        [(at, port, frame)] = nodes.call(entry, IP(src=CLIENT, dst=f"198.51.100.{entry}") / make)
        met.add((at, layer))
        assert (frame[IP].src, frame[layer].sport, frame[layer].dport) == (f"10.0.0.10{entry}", 40000 + turn, target)
        assert frame[IP].ttl == 62 and frame.src == mac_text(f"10.0.0.10{entry}")
        reply = {TCP: TCP(flags="SA", seq=5), UDP: UDP() / b"y", SCTP: SCTP(tag=1) / SCTPChunkInit(type=2)}[layer]
        reply.sport, reply.dport = target, 40000 + turn
        [(back_at, _, back)] = nodes.send(at, port, answer(frame, reply, 0))
        assert (back_at, back[IP].src, back[IP].dst) == (entry, f"198.51.100.{entry}", CLIENT)
        assert back[layer].sport == {80: 8080, 53: 53, 700: 7000}[target] and back[IP].ttl == 62
    assert met == {(at, layer) for at in (1, 2) for layer in (TCP, UDP, SCTP)}
    assert not nodes.drops()


@pytest.mark.parametrize(("ttl", "error_ttl"), [(1, 64), (2, 63)])
def test_a_ttl_that_ends_on_the_way(ttl: int, error_ttl: int) -> None:
    """At the host, or in the ingress namespace one hop on: the error is from the address called, quotes what was sent
    there, and has come so far itself."""
    nodes = Nodes()
    [(at, _, error)] = nodes.call(3, IP(src=CLIENT, dst="198.51.100.3", ttl=ttl) / UDP(sport=5, dport=53) / b"x")
    assert at == 3 and (error[ICMP].type, error[IP].src, error[IP].ttl) == (11, "198.51.100.3", error_ttl)
    assert (error[IPerror].dst, error[IPerror].ttl, error[UDPerror].dport) == ("198.51.100.3", 1, 53)
    assert nodes.call(3, IP(src=CLIENT, dst="198.51.100.3", ttl=3) / UDP(sport=5, dport=53) / b"x")[0][2][IP].ttl == 1


def test_a_reply_whose_ttl_ends_on_the_way() -> None:
    """The task is told, of the packet that it sent."""
    nodes = Nodes()
    [(at, port, frame)] = nodes.call(3, IP(src=CLIENT, dst="198.51.100.3") / TCP(sport=7, dport=8080, flags="S"))
    for ttl in (1, 2):
        late = answer(frame, TCP(sport=80, dport=7, flags="SA"), 0)
        late[IP].ttl = ttl
        [(_, told, error)] = nodes.send(at, port, late)
        assert told == port and error[ICMP].type == 11
        assert (error[IPerror].src, error[IPerror].dst) == (frame[IP].dst, frame[IP].src)


def test_icmp_of_a_task() -> None:
    """Port unreachable: three addresses and two TTLs later it is the published port's."""
    nodes = Nodes()
    [(at, port, frame)] = nodes.call(3, IP(src=CLIENT, dst="198.51.100.3") / TCP(sport=7, dport=8080, flags="S"))
    [(_, _, back)] = nodes.send(at, port, answer(frame, ICMP(type=3, code=3) / bytes(frame[IP])[:28], 0))
    assert (back[IP].src, back[IP].dst, back[IP].ttl) == ("198.51.100.3", CLIENT, 62)
    assert (back[IPerror].src, back[IPerror].dst) == (CLIENT, "198.51.100.3")
    assert (back[TCPerror].sport, back[TCPerror].dport) == (7, 8080)


def test_guard() -> None:
    """A task that publishes answers on its target ports, and on nothing else; it begins nothing; ICMP goes through."""
    nodes = Nodes()

    def to_task(payload: Packet) -> list[tuple[int, str, Packet]]:
        packet = IP(src="10.0.0.12", dst="10.0.0.11") / payload
        frame = Ether(src=mac_text("10.0.0.12"), dst=mac_text("10.0.0.11")) / packet
        return nodes.send(2, "ingress2", frame)

    # The other task has the same guard: it may not begin …
    assert to_task(TCP(sport=9, dport=80, flags="S")) == [] and to_task(UDP(sport=9, dport=53) / b"x") == []
    assert nodes.drops() == {vf.Verdict.DROP_PORT_CLOSED: 2}
    [(at, port, _)] = to_task(ICMP())
    assert (at, port) == (1, "ingress1")
    # … and from a member of the network that has none, only the target port, and the published one, get through.
    for dport, arrives in ((80, 80), (8080, 80), (22, None), (9999, None)):
        packet = IP(src="10.0.0.103", dst="10.0.0.11") / TCP(sport=1000 + dport, dport=dport, flags="S")
        frame = Ether(src=mac_text("10.0.0.103"), dst=mac_text("10.0.0.11")) / packet
        outer_ = Ether() / IP(src="192.0.2.3", dst="192.0.2.1") / UDP(sport=50000, dport=4789)
        wire = outer_ / bytes.fromhex("0800000000100000") / frame
        out = nodes.send(1, "underlay", wire)
        assert [f[TCP].dport for _, _, f in out] == ([] if arrives is None else [arrives])
        if arrives:
            reply = answer(out[0][2], TCP(sport=80, dport=1000 + dport), 0)
            [way] = vf.hops_of(nodes.planes[1], "ingress1", bytes(reply))
            assert Ether(way.hops[-2].frame)[TCP].sport == dport


def test_virtual_address() -> None:
    """Inside a network: the balancer's address for all, also for a task that calls itself; one router on the way."""
    nodes = Nodes()
    for turn in range(3):
        syn = IP(src="10.0.9.11", dst="10.0.9.100") / TCP(sport=50000 + turn, dport=9999, flags="S")
        [(at, port, frame)] = nodes.send(1, "blue1", Ether(src=mac_text("10.0.9.11"), dst=mac_text("10.0.9.101")) / syn)
        assert (frame[IP].src, frame[IP].ttl, frame.src) == ("10.0.9.101", 63, mac_text("10.0.9.101"))
        reply = answer(frame, TCP(sport=9999, dport=50000 + turn, flags="SA"), 9)
        [(where, _, back)] = nodes.send(at, port, reply)
        assert where == 1 and (back[IP].src, back[IP].dst, back[IP].ttl) == ("10.0.9.100", "10.0.9.11", 63)
    ping = IP(src="10.0.9.11", dst="10.0.9.100") / ICMP(id=9)
    [(_, _, back)] = nodes.send(1, "blue1", Ether(src=mac_text("10.0.9.11"), dst=mac_text("10.0.9.101")) / ping)
    assert (back[ICMP].type, back[IP].ttl, back[IP].src) == (0, 64, "10.0.9.100")
    six = IPv6(src="fd00:9::11", dst="fd00:9::100") / UDP(sport=1, dport=2) / b"x"
    [(_, _, frame)] = nodes.send(1, "blue1", Ether(src=mac_text("10.0.9.11"), dst=mac_text("10.0.9.101")) / six)
    assert frame[IPv6].src == "fd00:9::101" and frame[IPv6].hlim == 63


def test_cursor() -> None:
    """Round robin goes on where somebody else's was: behind the server named."""
    for last, following in (("10.0.0.11", 2), ("10.0.0.12", 1)):
        nodes = Nodes()
        nodes.planes[3].set_cursor("web", last)
        [(at, _, _)] = nodes.call(3, IP(src=CLIENT, dst="198.51.100.3") / TCP(sport=7, dport=8080, flags="S"))
        assert at == following
    with pytest.raises(vf.SpecError, match=r"no server 192\.0\.2\.9 port 0"):
        nodes.planes[3].set_cursor("web", "192.0.2.9")


def test_ports_of_the_node_itself() -> None:
    """Whoever is not behind eth0 but on the node has one router less in front of him."""
    bridge = vf.NetworkSpec(
        name="docker_gwbridge", lan=True, subnet=("172.18.0.0/16",), gateway=("172.18.0.2",), hops=0,
        endpoint=(vf.EndpointSpec(port="host", ip=("172.18.0.1",)),),
    )  # fmt: skip
    spec = swarm_node(3)
    web, *rest = spec.service
    web = replace(web, publish=(*web.publish, vf.PublishSpec(network="docker_gwbridge", published=8080, target=80)))
    nodes = Nodes()
    nodes.planes[3] = vf.Dataplane(replace(spec, network=(*spec.network, bridge), service=(web, *rest)))
    to = IP(src="172.18.0.1", dst="172.18.0.2") / TCP(sport=7, dport=8080, flags="S")
    [(_, _, frame)] = nodes.send(3, "host", Ether(src=mac_text("172.18.0.1"), dst=mac_text("172.18.0.2")) / to)
    assert (frame[IP].src, frame[IP].ttl, frame[TCP].dport) == ("10.0.0.103", 63, 80)


def test_an_address_of_the_ingress_network() -> None:
    """A service's virtual address there (C4) answers a task's ping, and is no way round its guard."""
    nodes = Nodes()
    to_balancer = Ether(src=mac_text("10.0.0.11"), dst=mac_text("10.0.0.101"))
    packet = IP(src="10.0.0.11", dst="10.0.0.50")
    [(_, port, reply)] = nodes.send(1, "ingress1", to_balancer / packet / ICMP(id=3))
    assert port == "ingress1" and (reply[ICMP].type, reply[IP].src) == (0, "10.0.0.50")
    assert nodes.send(1, "ingress1", to_balancer / packet / TCP(dport=8080, flags="S")) == []
    assert nodes.drops() == {vf.Verdict.DROP_PORT_CLOSED: 1}


def test_a_task_goes() -> None:
    """A spec without the task: what its ports were is no service any more; open connections go as IPVS's do."""
    nodes = Nodes()
    [(at, port, frame)] = nodes.call(1, IP(src=CLIENT, dst="198.51.100.1") / UDP(sport=5, dport=53) / b"x")
    plane = nodes.planes[at]
    assert {row["name"] for row in plane.services()} == {"web", f"web at 10.0.0.1{at}", "east", "inside"}
    assert not plane.verify()
    spec = swarm_node(at)
    web, *rest = spec.service
    left = tuple(server for server in web.server if server.address != f"10.0.0.1{at}")
    plane.apply(replace(spec, service=(replace(web, server=left), *rest)))
    assert {row["name"] for row in plane.services()} == {"web", "east", "inside"} and not plane.verify()
    [(elsewhere, _, _)] = nodes.call(1, IP(src=CLIENT, dst="198.51.100.1") / UDP(sport=6, dport=53) / b"x")
    assert elsewhere in (1, 2) and (at != 1 or elsewhere == 2)
    late = UDP(sport=53, dport=5) / b"late"
    assert nodes.send(at, port, answer(frame, late, 0)) == [] and vf.Verdict.DROP_PORT_CLOSED in nodes.drops()


@given(st.data())
def test_hops_of_anything(data: st.DataObject) -> None:
    """Whatever comes, by whichever port: hops, from what came to what left, and no exception."""
    spec = vf.parse_spec(data.draw(st.sampled_from([ENTRY, HOME, ENTRY.replace("swarm", "fixed")])))
    plane = vf.Dataplane(spec)
    inner = bytearray.fromhex(data.draw(st.sampled_from([*QUESTION.values(), *ANSWER.values()])))
    for _ in range(data.draw(st.integers(0, 4))):
        inner[data.draw(st.integers(0, len(inner) - 1))] = data.draw(st.integers(0, 255))
    outer_ = Ether(dst="02:00:0a:01:01:11") / IP(src="10.1.1.13", dst=spec.vtep[0]) / UDP(sport=50000, dport=4789)
    packed = bytes(outer_ / bytes.fromhex(UNDERLAY[2]) / bytes(inner))
    for frame in (bytes(inner), packed, data.draw(st.binary(max_size=80))):
        cut = frame[: data.draw(st.integers(1, max(1, len(frame))))] if data.draw(st.booleans()) else frame
        for port in spec.ports:
            for way in vf.hops_of(plane, port, cut or b"x", gateway=LEG):
                assert way.hops[0].frame == (cut or b"x") and way.frame == way.hops[-1].frame
                assert (way.port is None) == (way.verdict != vf.Verdict.PASS)


# --- the spec -------------------------------------------------------------------------------------------


def test_the_same_services_in_both_profiles() -> None:
    """One key decides; the text of a spec says it again."""
    spec = vf.parse_spec(ENTRY)
    assert (spec.mesh.semantics, spec.mesh.reuse, spec.mesh.forget) == ("ipvs", False, True)
    assert [n.guard for n in spec.network] == [False, True] and spec.network[0].hops == 1
    assert vf.parse_spec(vf.to_toml(spec)) == spec
    fixed = vf.parse_spec(ENTRY.replace('profile = "swarm"', 'profile = "fixed"'))
    assert fixed.service == spec.service and not any(n.guard or n.hops for n in fixed.network)
    question = bytes.fromhex(QUESTION["client"])
    [way] = vf.hops_of(vf.Dataplane(fixed), "eth0", question, gateway=LEG)
    assert [hop.name for hop in way.hops] == ["client", "overlay", "underlay"]
    packet = Ether(way.hops[1].frame)
    assert (packet[IP].src, packet[TCP].dport, packet[IP].ttl) == ("10.1.1.100", 80, 63)


def test_redirects_of_ranges() -> None:
    """A range is redirected to a range; where published and target ports overlap, the redirect comes first."""
    publish = (
        vf.PublishSpec(network="lan", published="8000-8009", target=80),
        vf.PublishSpec(network="lan", published=80, target=8000),
        vf.PublishSpec(network="lan", published=9000, protocol="udp"),
        vf.PublishSpec(network="lan", published=22, target=2200, mode="host"),
    )
    spec = vf.parse_spec(HOME)
    spec = replace(spec, service=(replace(spec.service[0], publish=publish),))
    task = next(s for s in spec.expanded if s.name == "web at 10.0.0.7")
    assert [(v.protocol, v.port, v.target) for v in task.virtual] == [
        ("tcp", "8000-8009", 80), ("tcp", 80, 8000), ("udp", 9000, 9000)
    ]  # fmt: skip
    assert task.virtual[0].ports == (8000, 8009)


@pytest.mark.parametrize(("old", "new", "message"), [
    ('own = "10.0.0.2"\n', "", "own = '': network ingress: service web is masqueraded by it: this node's load"),
    ('gateway = "10.0.0.1"\n', "", "gateway = '': network ingress: service web is routed into it"),
    ('name = "web"\n', 'name = "web"\nmasquerade = "10.0.0.9"\n',
     r"masquerade = \['10.0.0.9'\]: service web: an address of network ingress that is this node's own"),
    ('own = "10.0.0.2"\n', 'own = "10.0.0.2"\npreserve_source = true\n',
     "preserve_source = True: network ingress: profile swarm hides the clients' addresses"),
    ('profile = "swarm"', 'profile = "docker"', r"\[mesh\]: profile = 'docker': fixed or swarm"),
    ("lan = true\n", "lan = true\nhops = 300\n", r"\[\[network\]\] lan: hops = 300: 0 to 254"),
])  # fmt: skip
def test_contradictions(old: str, new: str, message: str) -> None:
    assert old in ENTRY
    with pytest.raises(vf.SpecError, match=message):
        vf.parse_spec(ENTRY.replace(old, new, 1))
