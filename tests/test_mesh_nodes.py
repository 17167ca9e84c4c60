"""Three nodes wired in memory: any of them takes a connection to a published port, and a task anywhere answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, UDPerror
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

import vxlanfast as vf
from vxlanfast.addr import mac_of_ip, parse_ip
from vxlanfast.network_spec import EndpointSpec, NetworkSpec, PeerSpec, RouteSpec
from vxlanfast.node_spec import NodeSpec
from vxlanfast.service_spec import MeshSpec, PublishSpec, ServerSpec, ServiceSpec, VirtualSpec

NODES = (1, 2, 3)
CLIENT = "198.51.100.100"
CLIENT_MAC = "02:00:00:00:00:64"
S = 1_000_000_000


def mac_text(address: str) -> str:
    return mac_of_ip(parse_ip(address)).hex(":")


def node(
    number: int,
    *,
    preserve: bool,
    masquerade: bool = False,
    scheduler: str = "rr",
    nodes: tuple[int, ...] = NODES,
    servers: tuple[ServerSpec, ...] | None = None,
) -> NodeSpec:
    """Tasks of `web` are on nodes 1 and 2; every node has the lan, the ingress network and two of tasks."""
    lan = NetworkSpec(
        name="lan", lan=True, subnet=("198.51.100.0/24", "2001:db8:1::/64"), learn=False, flood="off",
        gateway=(f"198.51.100.{number}", f"2001:db8:1::{number}"), gateway_mac=f"02:00:00:00:01:0{number}",
        router_mac=f"02:00:00:00:01:0{number}",
        endpoint=(EndpointSpec(port="eth0", mac=CLIENT_MAC, ip=(CLIENT, "2001:db8:1::64")),),
        route=(RouteSpec(to="0.0.0.0/0", via=CLIENT),),
    )  # fmt: skip

    def network(name: str, vni: int, subnet: int, ends: dict[int, tuple[str, ...]], **more: object) -> NetworkSpec:
        return NetworkSpec(
            name=name, vni=vni, subnet=(f"10.0.{subnet}.0/24", f"fd00:{subnet}::/64"), proxy=True,
            gateway=(f"10.0.{subnet}.1", f"fd00:{subnet}::1"),
            peer=tuple(PeerSpec(vtep=f"192.0.2.{n}") for n in nodes if n != number),
            endpoint=tuple(
                EndpointSpec(port=f"{name}{at}", ip=ips) if at == number else EndpointSpec(vtep=f"192.0.2.{at}", ip=ips)
                for at, ips in ends.items() if at in nodes or at == number
            ),
            **more,  # type: ignore[arg-type]
        )  # fmt: skip

    lbs = {f"10.0.0.10{n}": n for n in nodes}
    ingress = network(
        "ingress", 4096, 0, {n: (f"10.0.0.1{n}", f"fd00:0::1{n}") for n in (1, 2)}, preserve_source=preserve
    )
    if masquerade:
        others = tuple(EndpointSpec(vtep=f"192.0.2.{n}", ip=(lb,)) for lb, n in lbs.items() if n != number)
        ingress = NetworkSpec(**{
            **{name: getattr(ingress, name) for name in NetworkSpec.__slots__},
            "own": (f"10.0.0.10{number}",), "endpoint": ingress.endpoint + others,
        })  # fmt: skip
    blue = network("blue", 4097, 9, {n: (f"10.0.9.1{n}", f"fd00:9::1{n}") for n in NODES}, outside="lan")
    green = network("green", 4098, 8, {n: (f"10.0.8.1{n}", f"fd00:8::1{n}") for n in NODES}, internal=True)
    web = ServiceSpec(
        name="web", servers_in="ingress", scheduler=scheduler,
        masquerade=(f"10.0.0.10{number}",) if masquerade else (),
        publish=(
            PublishSpec(network="lan", published=8080, target=80),
            PublishSpec(network="lan", published=53, protocol="udp"),
        ),
        server=servers if servers is not None else (
            ServerSpec(address="10.0.0.11"), ServerSpec(address="10.0.0.12"), ServerSpec(address="fd00:0::11"),
            ServerSpec(address="fd00:0::12"),
        ),
    )  # fmt: skip
    east = ServiceSpec(
        name="east",
        virtual=(VirtualSpec(network="blue", address="10.0.9.100"), VirtualSpec(network="blue", address="fd00:9::100")),
        server=tuple(ServerSpec(address=f"10.0.9.1{n}") for n in NODES)
        + tuple(ServerSpec(address=f"fd00:9::1{n}") for n in NODES),
    )  # fmt: skip
    inside = ServiceSpec(
        name="inside", virtual=(VirtualSpec(network="green", address="10.0.8.100"),),
        server=(ServerSpec(address="10.0.8.11"),),
    )  # fmt: skip
    return NodeSpec(
        vtep=(f"192.0.2.{number}",), name=f"n{number}", network=(lan, ingress, blue, green),
        service=(web, east, inside), mesh=MeshSpec(seed=number),
    )  # fmt: skip


class World:
    """Nodes whose underlay is a list in memory, and what comes out of their other ports."""

    def __init__(self, **options: object) -> None:
        self.options = options
        self.planes = {n: vf.Dataplane(node(n, **options)) for n in NODES}  # type: ignore[arg-type]
        self.now = 1_700_000_000 * S
        self.wire: list[Packet] = []

    def send(self, at: int, port: str, frame: Packet | bytes) -> list[tuple[int, str, Packet]]:
        """A frame by a port of a node: what comes out anywhere, as (node, port, frame)."""
        self.now += 1_000_000
        out: list[tuple[int, str, Packet]] = []
        todo = [(at, port, bytes(frame))]
        while todo:
            where, by, raw = todo.pop(0)
            for name, made in self.planes[where].offer(by, raw, now_ns=self.now):
                if name != "underlay":
                    out.append((where, name, Ether(made)))
                    continue
                packet = Ether(made)
                self.wire.append(packet)
                to = int(packet[IP].dst.rsplit(".", 1)[1])
                if to in self.planes:
                    todo.append((to, "underlay", made))
        return out

    def from_client(self, entry: int, packet: Packet) -> list[tuple[int, str, Packet]]:
        return self.send(entry, "eth0", Ether(src=CLIENT_MAC, dst=f"02:00:00:00:01:0{entry}") / packet)


def answer(frame: Packet, payload: Packet, network: int) -> Packet:
    """What a task says to a frame it got: to its gateway, as its default route says, or to a neighbour."""
    ip = frame[IP] if IP in frame else frame[IPv6]
    back = type(ip)(src=ip.dst, dst=ip.src)
    neighbour = ip.src.startswith((f"10.0.{network}.", f"fd00:{network}:"))
    to = frame.src if neighbour else mac_text(f"10.0.{network}.1")
    return Ether(src=frame.dst, dst=to) / back / payload


def good(frame: Packet) -> None:
    """Every checksum is right."""
    fresh = Ether(bytes(frame))
    for layer in (IP, TCP, UDP, ICMP):
        if layer in fresh:
            del fresh[layer].chksum
    assert bytes(Ether(bytes(fresh))) == bytes(frame)


def address(entry: int, six: bool) -> tuple[str, str]:
    return (f"2001:db8:1::{entry}", "2001:db8:1::64") if six else (f"198.51.100.{entry}", CLIENT)


@pytest.mark.parametrize("six", [False, True], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("masquerade", [False, True], ids=["source preserved", "masqueraded"])
@pytest.mark.parametrize("entry", NODES)
def test_a_published_port_of_any_node(entry: int, masquerade: bool, six: bool) -> None:
    """TCP and UDP from outside, by each node, also the one without a task: to both tasks in turn and back, from the
    address called."""
    if masquerade and six:
        pytest.skip("the load balancer's own address is IPv4 here, as Swarm's is")
    world = World(preserve=not masquerade, masquerade=masquerade)
    ip = IPv6 if six else IP
    to, client = address(entry, six)
    met = []
    for turn in range(6):
        sport = 40000 + turn
        syn = ip(src=client, dst=to) / TCP(sport=sport, dport=8080, seq=1000 * turn, flags="S")
        if turn >= 4:
            syn = ip(src=client, dst=to) / UDP(sport=sport, dport=53) / b"question"
        [(at, port, frame)] = world.from_client(entry, syn)
        good(frame)
        layer = TCP if turn < 4 else UDP
        assert port == f"ingress{at}" and frame[layer].dport == (80 if turn < 4 else 53)
        assert frame[ip].src == (f"10.0.0.10{entry}" if masquerade else client)
        assert frame[layer].sport == sport
        met.append(at)
        payload = TCP(sport=80, dport=frame[TCP].sport, flags="SA", seq=7, ack=1000 * turn + 1) if turn < 4 else (
            UDP(sport=53, dport=frame[UDP].sport) / b"answer"
        )  # fmt: skip
        [(back_at, back_port, back)] = world.send(at, port, answer(frame, payload, 0))
        good(back)
        assert (back_at, back_port) == (entry, "eth0")
        assert (back[ip].src, back[ip].dst, back.dst) == (to, client, CLIENT_MAC)
        assert (back[layer].sport, back[layer].dport) == (8080 if turn < 4 else 53, sport)
        if turn < 4:
            ack = (
                ip(src=client, dst=to) / TCP(sport=sport, dport=8080, seq=1000 * turn + 1, ack=8, flags="A") / b"hello"
            )
            [(again, _, data)] = world.from_client(entry, ack)
            assert again == at and bytes(data[TCP].payload)[:5] == b"hello"
    assert met == [2, 1, 2, 1, 2, 1]  # newest first, and one turn for TCP and UDP
    for plane in world.planes.values():
        stats = plane.stats()
        assert stats.packets == stats.passed + sum(stats.drops.values()) and not stats.drops


def test_icmp_errors_find_their_client() -> None:
    """A task's port unreachable, and a client's, cross the mesh with the quoted packet as its sender knows it."""
    world = World(preserve=True)
    question = IP(src=CLIENT, dst="198.51.100.3") / UDP(sport=5000, dport=53) / b"x"
    [(at, port, frame)] = world.from_client(3, question)
    error = ICMP(type=3, code=3) / bytes(frame[IP])[:28]
    [(_, _, back)] = world.send(at, port, answer(frame, error, 0))
    assert (back[IP].src, back[IP].dst) == ("198.51.100.3", CLIENT)
    assert (back[IPerror].src, back[IPerror].dst) == (CLIENT, "198.51.100.3")
    assert (back[UDPerror].sport, back[UDPerror].dport) == (5000, 53)
    good(back)


def floating(world: World, **mesh: object) -> None:
    """An address that moves from node to node is every node's, and all choose alike: `mh`, with one seed."""
    for number in NODES:
        spec = node(number, preserve=True, scheduler="mh")
        moving = ServiceSpec(
            name="moving", servers_in="ingress", scheduler="mh", server=spec.service[0].server,
            virtual=tuple(
                VirtualSpec(network="lan", address="198.51.100.50", protocol=protocol, port=port, target=80)
                for protocol, port in (("tcp", 80), ("udp", 80))
            ),
        )  # fmt: skip
        settings = MeshSpec(seed=7, **mesh)  # type: ignore[arg-type]
        world.planes[number] = vf.Dataplane(replace(spec, service=(*spec.service, moving), mesh=settings))


@pytest.mark.parametrize("layer", [TCP, UDP])
def test_another_node_takes_over(layer: type[Packet]) -> None:
    """A client of an address that moves goes on with its task through another node, in the middle of a connection, and
    the task's answers follow to the node that it comes by now. With `sloppy`, TCP as well: no node has seen its
    beginning but one."""
    world = World(preserve=True)
    floating(world, sloppy=True)
    for sport in range(7000, 7012):
        begin = TCP(sport=sport, dport=80, flags="S", seq=9) if layer is TCP else UDP(sport=sport, dport=80) / b"1"
        [(at, port, first)] = world.from_client(3, IP(src=CLIENT, dst="198.51.100.50") / begin)
        tcp = layer is TCP
        reply = TCP(sport=80, dport=sport, flags="SA", seq=1, ack=10) if tcp else UDP(sport=80, dport=sport) / b"r"
        [(where, _, _)] = world.send(at, port, answer(first, reply, 0))
        assert where == 3
        data = TCP(sport=sport, dport=80, flags="PA", seq=10, ack=2) if layer is TCP else UDP(sport=sport, dport=80)
        [(again, _, frame)] = world.from_client(2, IP(src=CLIENT, dst="198.51.100.50") / data / b"data")
        assert again == at and frame[IP].src == CLIENT
        reply = TCP(sport=80, dport=sport, flags="A", seq=2, ack=14) if tcp else UDP(sport=80, dport=sport) / b"r"
        [(where, _, back)] = world.send(at, port, answer(frame, reply, 0))
        assert where == 2 and (back[IP].src, back[IP].dst) == ("198.51.100.50", CLIENT)
        good(back)


def test_an_entry_node_disappears() -> None:
    """Answers to a node that is a member no more are dropped, and counted."""
    world = World(preserve=True)
    [(at, port, first)] = world.from_client(3, IP(src=CLIENT, dst="198.51.100.3") / UDP(sport=6000, dport=53) / b"1")
    others = tuple(n for n in NODES if n != 3)
    world.planes[at].apply(node(at, preserve=True, nodes=others))
    assert world.send(at, port, answer(first, UDP(sport=53, dport=6000) / b"late", 0)) == []
    assert world.planes[at].stats().drops == {vf.Verdict.DROP_ENTRY_GONE: 1}


def test_sources_are_preserved_while_a_server_drains() -> None:
    """Who is with a task that gets no more goes on with it, both ways, by whatever node it came."""
    world = World(preserve=True)
    talks = []
    for sport in range(9000, 9008):
        syn = IP(src=CLIENT, dst="198.51.100.3") / TCP(sport=sport, dport=8080, flags="S", seq=1)
        [(at, port, frame)] = world.from_client(3, syn)
        world.send(at, port, answer(frame, TCP(sport=80, dport=sport, flags="SA", seq=1, ack=2), 0))
        talks.append((sport, at, port, frame))
    world.planes[3].set_server("web", "10.0.0.12", weight=0)
    for sport, at, port, frame in talks:
        data = IP(src=CLIENT, dst="198.51.100.3") / TCP(sport=sport, dport=8080, flags="PA", seq=2, ack=2) / b"on"
        [(again, _, got)] = world.from_client(3, data)
        assert again == at and got[IP].src == CLIENT
        [(where, _, _)] = world.send(at, port, answer(frame, TCP(sport=80, dport=sport, flags="A", seq=2, ack=4), 0))
        assert where == 3
    assert {at for _, at, _, _ in talks} == {1, 2}
    for sport in range(9100, 9104):
        syn = IP(src=CLIENT, dst="198.51.100.3") / TCP(sport=sport, dport=8080, flags="S")
        [(at, _, _)] = world.from_client(3, syn)
        assert at == 1


def test_east_west() -> None:
    """A virtual IP inside a network: balanced on the client's node, the client's address seen, also by a task that
    calls itself."""
    world = World(preserve=True)
    seen = []
    for turn in range(3):
        syn = IP(src="10.0.9.11", dst="10.0.9.100") / TCP(sport=50000 + turn, dport=9999, flags="S", seq=5)
        [(at, port, frame)] = world.send(1, "blue1", Ether(src=mac_text("10.0.9.11"), dst=mac_text("10.0.9.1")) / syn)
        good(frame)
        hairpin = at == 1
        assert port == f"blue{at}" and frame[TCP].dport == 9999
        assert frame[IP].src == ("10.0.9.100" if hairpin else "10.0.9.11")
        seen.append(at)
        reply = TCP(sport=9999, dport=frame[TCP].sport, flags="SA", seq=1, ack=6)
        back_to = mac_text("10.0.9.1") if hairpin else mac_text("10.0.9.11")
        out = Ether(src=frame.dst, dst=back_to) / IP(src=frame[IP].dst, dst=frame[IP].src) / reply
        [(where, back_port, back)] = world.send(at, port, out)
        assert (where, back_port, back[IP].src, back[IP].dst) == (1, "blue1", "10.0.9.100", "10.0.9.11")
        assert (back[TCP].sport, back[TCP].dport) == (9999, 50000 + turn)
        good(back)
    assert sorted(seen) == [1, 2, 3]


def test_outbound() -> None:
    """What is nowhere in its networks leaves masqueraded by the node's own address, and its answers find the way
    back."""
    world = World(preserve=True)
    for number, layer in enumerate(
        [TCP(sport=700, dport=443, flags="S"), UDP(sport=700, dport=53) / b"q", ICMP(id=77)]
    ):
        out = (
            Ether(src=mac_text("10.0.9.12"), dst=mac_text("10.0.9.1")) / IP(src="10.0.9.12", dst="203.0.113.9") / layer
        )
        [(at, port, frame)] = world.send(2, "blue2", out)
        good(frame)
        assert (at, port, frame[IP].src, frame[IP].dst, frame.dst) == (
            2,
            "eth0",
            "198.51.100.2",
            "203.0.113.9",
            CLIENT_MAC,
        )
        answer_ = [TCP(sport=443, dport=700, flags="SA"), UDP(sport=53, dport=700) / b"a", ICMP(type=0, id=77)][number]
        [(_, _, back)] = world.from_client(2, IP(src="203.0.113.9", dst="198.51.100.2") / answer_)
        good(back)
        assert (back[IP].src, back[IP].dst, back.dst) == ("203.0.113.9", "10.0.9.12", mac_text("10.0.9.12"))
    # From outside nobody gets in by a task's own address: it is sent where the rest of the world is.
    [(_, port, _)] = world.from_client(2, IP(src="203.0.113.9", dst="10.0.9.12") / TCP(dport=22, flags="S"))
    assert port == "eth0"


def nothing_of_green(world: World, out: list[tuple[int, str, Packet]]) -> bool:
    """No frame left the internal network: none by another port, none in another VNI."""
    return all(port.startswith("green") for _, port, _ in out) and all(p[VXLAN].vni == 4098 for p in world.wire)


@pytest.mark.parametrize("target", [
    IP(dst="203.0.113.9") / TCP(dport=80, flags="S"), IP(dst="198.51.100.100") / UDP(dport=53) / b"x",
    IP(dst="10.0.9.11") / TCP(dport=80, flags="S"), IP(dst="10.0.9.100") / TCP(dport=80, flags="S"),
    IP(dst="198.51.100.1") / TCP(dport=8080, flags="S"), IP(dst="203.0.113.9") / ICMP(),
    IP(dst="203.0.113.9") / ICMP(type=3, code=3) / bytes(IP(src="203.0.113.9", dst="10.0.8.11") / UDP()),
    IP(dst="10.0.0.11") / UDP(dport=53) / b"x", IP(dst="203.0.113.9", flags="MF") / UDP(dport=53, len=100) / bytes(48),
    IP(dst="203.0.113.9", frag=7) / bytes(48), IPv6(dst="2001:db8:9::9") / ICMPv6EchoRequest(),
    IP(dst="203.0.113.9", ttl=1) / UDP(), IP(dst="203.0.113.9", proto=47) / b"gre?",
], ids=lambda packet: packet.summary()[:60])  # fmt: skip
def test_nothing_leaves_an_internal_network(target: Packet) -> None:
    """By no address, virtual IP, gateway, error or fragment: dropped for that, and counted."""
    world = World(preserve=True)
    source = {"src": "fd00:8::11"} if IPv6 in target else {"src": "10.0.8.11"}
    for name, value in source.items():
        setattr(target, name, value)
    out = world.send(1, "green1", Ether(src=mac_text("10.0.8.11"), dst=mac_text("10.0.8.1")) / target)
    assert nothing_of_green(world, out)
    for frame in out:
        assert ICMP in frame[2], "at most the sender is told"
    # Inside it everything goes, its virtual IP too.
    inside = IP(src="10.0.8.12", dst="10.0.8.100") / TCP(dport=80, flags="S")
    [(at, port, _)] = world.send(2, "green2", Ether(src=mac_text("10.0.8.12"), dst=mac_text("10.0.8.1")) / inside)
    assert (at, port) == (1, "green1")


def test_networks_do_not_meet() -> None:
    """A client of one network reaches no task of another, by no address of it."""
    world = World(preserve=True)
    for to in ("10.0.0.11", "10.0.8.11", "10.0.8.100"):
        packet = IP(src="10.0.9.11", dst=to) / TCP(dport=80, flags="S")
        out = world.send(1, "blue1", Ether(src=mac_text("10.0.9.11"), dst=mac_text("10.0.9.1")) / packet)
        assert all(port == "eth0" for _, port, _ in out)  # at most out into the world, masqueraded
    assert not [p for p in world.wire if p[VXLAN].vni != 4097]


def test_a_port_published_twice() -> None:
    spec = node(1, preserve=True)
    twice = ServiceSpec(
        name="other", servers_in="ingress", publish=(PublishSpec(network="lan", published="8000-8100"),),
        server=(ServerSpec(address="10.0.0.11"),),
    )  # fmt: skip
    with pytest.raises(vf.SpecError, match=r"services web and other both have tcp 198\.51\.100\.1 port 8000-8100"):
        NodeSpec(vtep=spec.vtep, network=spec.network, service=(*spec.service, twice))


def test_raw_bytes_are_kept() -> None:
    """Payload comes as it went."""
    world = World(preserve=True)
    [(_, _, frame)] = world.from_client(
        1, IP(src=CLIENT, dst="198.51.100.1") / UDP(sport=9, dport=53) / Raw(bytes(range(200)))
    )
    assert bytes(frame[UDP].payload) == bytes(range(200))
