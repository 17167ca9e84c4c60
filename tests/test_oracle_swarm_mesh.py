"""A real Swarm's services, hop by hop: three nodes as their own tables have them, the client and the tasks as ever.

What the client and the tasks sent is all that goes in. What came out of each node, and what stood on each of its
interfaces, is held against the captures byte for byte: addresses, ports, TTL, checksums, payload, MACs. Of VXLAN
packets the outer MACs, identification and source port, and what follows from them, are left out.

    client ── eth0 ── docker_gwbridge ── ingress namespace ── bridge, vxlan0 ── eth0 ═══ eth0 ── bridge ── task
              client   gateway            balancer             overlay          underlay                    task

What is not compared, because it is no station's and there is nothing here that would send it: ARP of namespaces for
their neighbours; what somebody called out of n1's ingress namespace itself, as far as n1 is concerned. What differs:
`PING`, below.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable

import pytest

import vxlanfast as vf
from tests.swarm import (
    CLIENT,
    NODES,
    ORACLE,
    Cursor,
    Player,
    Scene,
    Tunnelled,
    World,
    differences,
    dotted,
    flow_of,
    inner_at,
    is_vxlan,
    with_port,
)

pytestmark = pytest.mark.skipif(
    ORACLE is None or not ORACLE.is_dir(), reason="the captures of a real Swarm are not here"
)
Keep = Callable[[bytes], bool]
#: A node's own answer to a ping has a new identification and no DF; ours is the request turned round.
PING = "identification and DF of echo replies"


def tasks(scene: Scene, specs: dict[int, vf.NodeSpec], keep: Keep) -> Iterable[Player]:
    """Every task of every node, at its port."""
    for node, spec in specs.items():
        stations = {e.address: e.port for n in spec.network if not n.lan for e in n.endpoint if e.port}
        for name, frames in scene.task_captures(node):
            for address, port in stations.items():
                script = [(f[6:12] == address, at, f) for at, f in frames if address in (f[:6], f[6:12]) and keep(f)]
                if script:
                    yield Player(name, node, port, script)


def without_ident(frame: bytes) -> bytes:
    """A frame whose IP header has neither identification nor flags nor checksum."""
    return frame[:18] + bytes(4) + frame[22:24] + bytes(2) + frame[26:]


class Play:
    """A scenario, played: its planes, and what was captured of it."""

    def __init__(self, scene: Scene, cursors: dict[int, Cursor], service: str, keep: Keep) -> None:
        self.scene, self.keep = scene, keep
        self.specs = {n: scene.spec(n, cursors[n].order if n in cursors else ()) for n in NODES}
        self.players = list(tasks(scene, self.specs, keep))
        self.world = World(scene, self.specs, self.players)
        for node, cursor in cursors.items():
            self.world.planes[node].set_cursor(service, cursor.last)

    def captured(self, *names: str) -> list[bytes]:
        return [frame for name in names for _, frame in self.scene.capture(name) if self.keep(frame)]

    def at_tasks(self, node: int) -> list[bytes]:
        return [f for _, frames in self.scene.task_captures(node) for _, f in frames if self.keep(f)]

    def on_underlay(self, node: int) -> list[Tunnelled]:
        frames = [f for _, f in self.scene.capture(f"underlay-n{node}.pcap") if is_vxlan(f)]
        return [t for t in map(Tunnelled.of, frames) if self.keep(t.inner)]

    def seen(self, node: int, hop: str) -> list[bytes]:
        return self.world.seen.get((node, hop), [])

    def figures(self, node: int, service: str) -> dict[str, tuple[int, ...]]:
        """What each server was given and carried, as ``ipvsadm -Ln --stats`` has it."""
        [row] = [row for row in self.world.planes[node].services() if row["name"] == service]
        keys = ("connections", "in_packets", "out_packets", "in_bytes", "out_bytes")
        return {server["addr"]: tuple(server[key] for key in keys) for server in row["servers"]}


def kernels_figures(dump: str, number: int) -> dict[str, tuple[int, ...]]:
    """The same, as the kernel's says, of the service with that firewall mark."""
    stats = dump.split("Prot LocalAddress:Port               Conns", 1)[1].split("#####", 1)[0]
    section = re.search(rf"FWM  {number} .*\n((?:  -> .*\n)+)", stats)[1]
    return {words[1].partition(":")[0]: tuple(map(int, words[2:7])) for words in map(str.split, section.splitlines())}


# --- 01: published ports --------------------------------------------------------------------------------

#: Source ports of connections that n1 began itself: from its own sockets to its own published port, by loopback, its
#: own address and docker_gwbridge's …
OF_THE_HOST = {36114, 49490, 33042}
#: … to n2's, whose client it is then …
BY_N2 = 43326
#: … and in its ingress namespace, to the tasks' target port and to another: remote ones, and its own.
PROBES, PROBES_HERE = {42174, 56986, 56234, 55588}, {55816, 45690}
TARGETS = {("tcp", 8080): 80, ("udp", 9000): 9999}


def is_published(frame: bytes) -> bool:
    """Whether it is the client's, or belongs to what it is about."""
    flow = flow_of(frame)
    return flow is not None and not {flow[3], flow[4]} & PROBES_HERE


def by_socket(frame: bytes) -> bytes:
    """What a task's application sent: the capture on its interface has the published port already."""
    flow = flow_of(frame)
    port = TARGETS.get((flow[0], flow[3]))
    return frame if port is None else with_port(frame, sport=port)


@pytest.fixture(scope="module")
def ingress() -> Play:
    """A client calls each node's TCP and UDP ports, in turn; and some ports that are closed."""
    assert ORACLE is not None
    scene = Scene(ORACLE / "01-ingress-repeat")
    cursors = {n: Cursor.of(scene.chosen(f"client.py http http://10.1.1.1{n}:8080/", "ingress")[:3]) for n in NODES}
    play = Play(scene, cursors, "web in ingress", is_published)
    for player in play.players:
        player.send = by_socket
    client = [(dotted(f[26:30]) == CLIENT, at, f) for at, f in scene.capture("client.pcap") if flow_of(f)]
    for node in NODES:
        own = [one for one in client if {dotted(one[2][26:30]), dotted(one[2][30:34])} == {CLIENT, f"10.1.1.1{node}"}]
        play.players.append(Player(f"client of n{node}", node, "eth0", own))
    # n1's own sockets, as the other end of docker_gwbridge has them; n1 as a client of n2; and what its ingress
    # namespace sent to tasks elsewhere.
    host = [
        (dotted(f[26:30]) == "172.18.0.1", at, f) for at, f in scene.capture("n1/ingress_sbox-eth1.pcap")
        if (flow := flow_of(f)) and {flow[3], flow[4]} & OF_THE_HOST
    ]  # fmt: skip
    play.players.append(Player("n1's host", 1, "docker_gwbridge", host))
    wire = scene.capture("underlay-n1.pcap")
    as_client = [
        (dotted(f[26:30]) == "10.1.1.11", at, f) for at, f in wire
        if not is_vxlan(f) and (flow := flow_of(f)) and {flow[3], flow[4]} == {BY_N2, 8080}
    ]  # fmt: skip
    play.players.append(Player("n1 as a client", 2, "eth0", as_client))
    probes = [(at, f, Tunnelled.of(f)) for at, f in wire if is_vxlan(f)]
    for node in (2, 3):
        script = [
            (p.src == "10.1.1.11", at, f if p.src == "10.1.1.11" else p.inner) for at, f, p in probes
            if f"10.1.1.1{node}" in (p.src, p.dst) and (flow := flow_of(p.inner)) and {flow[3], flow[4]} & PROBES
        ]  # fmt: skip
        play.players.append(Player(f"n1's ingress namespace to n{node}", node, "underlay", script))
    play.world.play()
    return play


def of_n1_itself(frame: bytes) -> bool:
    """Whether n1's ingress namespace has a part in it that is no balancing."""
    flow = flow_of(frame)
    return flow is not None and bool({flow[3], flow[4]} & PROBES)


def test_the_client_gets_what_it_got(ingress: Play) -> None:
    """Answers of both protocols, and refusals of ports that are not published, by each of the nodes."""
    clients = [p for p in ingress.world.players if p.port in ("eth0", "docker_gwbridge")]
    assert [(p.name, [flow_of(f) for f in p.missing]) for p in clients if p.missing] == []
    kinds = Counter(flow_of(f)[0] for p in clients for sent, _, f in p.script if not sent)
    assert kinds == {"tcp": 125, "udp": 9}
    resets = [f for p in clients for sent, _, f in p.script if not sent and f[47] == 0x14]
    assert [flow_of(f)[3] for f in resets] == [8081, 9000], "RST, ACK: not published; published over UDP alone"


@pytest.mark.parametrize("node", NODES)
def test_published_at_clients(ingress: Play, node: int) -> None:
    """Both ways on the node's own interface: nothing more than what was captured."""
    want = [f for p in ingress.world.players if (p.node, p.port) == (node, "eth0") for _, _, f in p.script]
    assert want and differences(want, ingress.seen(node, "client")) == ([], [])


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize(("hop", "capture"), [
    ("gateway", "host-docker_gwbridge"), ("gateway", "ingress_sbox-eth1"), ("balancer", "ingress_sbox-eth0"),
    ("balancer", "1-iuzdrfdjye-veth0"), ("overlay", "1-iuzdrfdjye-vxlan0"),
])  # fmt: skip
def test_published_hop(ingress: Play, node: int, hop: str, capture: str) -> None:
    """What a node's interface shows, both directions: nothing missing, nothing more, no byte different."""
    want = ingress.captured(f"n{node}/{capture}.pcap")
    if node == 1:
        want = [f for f in want if not of_n1_itself(f)]
        assert not [f for f in ingress.seen(1, hop) if of_n1_itself(f) and hop != "overlay"]
    got = [f for f in ingress.seen(node, hop) if node != 1 or not of_n1_itself(f)]
    if capture == "host-docker_gwbridge":
        # The host has restored what its own sockets called, 127.0.0.1 for one, by the time that the bridge shows it.
        want, got = ([f for f in one if flow_of(f)[4] not in OF_THE_HOST] for one in (want, got))
    assert want and differences(want, got) == ([], [])


@pytest.mark.parametrize("node", NODES)
def test_published_on_the_underlay(ingress: Play, node: int) -> None:
    """Which VTEP sent which frame to which other in which VNI."""
    want = [t for t in ingress.on_underlay(node) if node != 1 or not of_n1_itself(t.inner)]
    got = [t for t in map(Tunnelled.of, ingress.seen(node, "underlay")) if node != 1 or not of_n1_itself(t.inner)]
    assert want and differences(want, got) == ([], [])


@pytest.mark.parametrize("node", NODES)
def test_published_at_tasks(ingress: Play, node: int) -> None:
    """Tasks' interfaces have the published port, what is behind them the target port, with checksums that are right."""
    assert differences(ingress.at_tasks(node), ingress.seen(node, "task")) == ([], [])
    ports = Counter(
        (flow_of(f)[0], flow_of(f)[4]) for f in ingress.seen(node, "socket") if flow_of(f)[1].startswith("10.0.0.")
        and dotted(f[30:34]) in ingress.scene.addresses("ingress").values()
    )  # fmt: skip
    assert set(ports) == {("tcp", 80), ("udp", 9999)}
    for frame in ingress.seen(node, "socket"):
        flow = flow_of(frame)
        assert with_port(frame, dport=flow[4]) == frame


def test_tasks_accept_target_ports_alone(ingress: Play) -> None:
    """From any member of the ingress network: the target port answers, any other is silent (C3)."""
    probes = [p for p in ingress.world.players if p.name.startswith("n1's ingress")]
    assert all(not p.missing for p in probes)
    assert {flow_of(f)[3] for p in probes for sent, _, f in p.script if not sent} == {80}
    shut = [(n, flow_of(f[inner_at(f) :])) for n, v, f in ingress.world.dropped if v == vf.Verdict.DROP_PORT_CLOSED]
    assert {flow[4] for _, flow in shut} == {9999} and {n for n, _ in shut} == {2, 3} and len(shut) == 4
    # n1 has no such namespace: the answers to it are the only other packets that went nowhere.
    assert {(n, v) for n, v, _ in ingress.world.dropped if v != vf.Verdict.DROP_PORT_CLOSED} == {
        (1, vf.Verdict.DROP_GATEWAY_REMOTE)
    }


@pytest.mark.parametrize("node", NODES)
def test_who_served(ingress: Play, node: int) -> None:
    """Round robin from the observed cursor, each node's its own, one turn for TCP and UDP."""
    scene = ingress.scene
    chosen = scene.chosen(f"client.py http http://10.1.1.1{node}:8080/", "ingress")
    chosen += scene.chosen(f"client.py udp 10.1.1.1{node} 9000", "ingress")
    client = next(p for p in ingress.world.players if p.name == f"client of n{node}")
    served = {
        c["cport"]: c["server"] for c in ingress.world.planes[node].connections(now_ns=0) if c["client"] == CLIENT
    }
    begun = dict.fromkeys(flow_of(f)[3] for sent, _, f in client.script if sent)
    assert [served[port] for port in begun if port in served] == chosen and len(chosen) == 7


@pytest.mark.parametrize("node", NODES)
def test_what_the_kernel_counted(ingress: Play, node: int) -> None:
    """Connections, packets and bytes of each task, as ``ipvsadm -Ln --stats`` had them in the end."""
    dump = ingress.scene.dump(node, "ns-ingress_sbox.txt")
    number = int(re.search(r"FWM  (\d+)", dump)[1])
    assert ingress.figures(node, "web in ingress") == kernels_figures(dump, number)


# --- 02: virtual addresses ------------------------------------------------------------------------------


def is_inside(frame: bytes) -> bool:
    """Whether it is of mynet, and has one receiver."""
    flow = flow_of(frame)
    return flow is not None and all(end.startswith("10.0.9.") and end != "10.0.9.255" for end in flow[1:3])


@pytest.fixture(scope="module")
def east_west() -> Play:
    """A task on n1 calls a service's virtual address, then a task of the service itself does; pings; sizes."""
    assert ORACLE is not None
    scene = Scene(ORACLE / "02-eastwest")
    said = scene.chosen("n1:cli$ for i in 1 2 3 4 5 6; do wget", "mynet")
    play = Play(scene, {1: Cursor.of(said[:3])}, "web in mynet", is_inside)
    play.world.play()
    return play


def is_answer_of_the_node(frame: bytes) -> bool:
    """An echo reply of the gateway or a virtual address (see PING)."""
    flow = flow_of(frame)
    return flow is not None and flow[0] == "icmp" and flow[3] == 0 and flow[1] in ("10.0.9.1", "10.0.9.2")


def modulo_ping(frames: Iterable[bytes]) -> list[bytes]:
    return [without_ident(f) if is_answer_of_the_node(f) else f for f in frames]


def test_tasks_get_what_they_got(east_west: Play) -> None:
    """TCP and UDP by any port of the virtual address, RST and ICMP of a closed one, pings, fragments of 4,000 bytes."""
    for player in east_west.world.players:
        extra = [flow_of(f) for f in (+player.got).elements() if not is_answer_of_the_node(f)]
        missing = [flow_of(f) for f in player.missing if not is_answer_of_the_node(f)]
        assert (missing, extra) == ([], []), player.name
    held = {v for _, v, _ in east_west.world.dropped}
    assert held == {vf.Verdict.DROP_INNER_FRAGMENT_HELD}, "fragments wait for their last one, and go on then"


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize(("hop", "capture"), [
    ("balancer", "lb_j9d4rjwaa-eth0"), ("overlay", "1-j9d4rjwaav-vxlan0"),
])  # fmt: skip
def test_virtual_hop(east_west: Play, node: int, hop: str, capture: str) -> None:
    """The balancer's interface has each packet twice, to the virtual address and on its way."""
    want = modulo_ping(east_west.captured(f"n{node}/{capture}.pcap"))
    assert bool(want) == (hop == "overlay" or node == 1)
    assert differences(want, modulo_ping(east_west.seen(node, hop))) == ([], [])


@pytest.mark.parametrize("node", NODES)
def test_virtual_on_the_underlay(east_west: Play, node: int) -> None:
    want, got = east_west.on_underlay(node), map(Tunnelled.of, east_west.seen(node, "underlay"))
    assert want and differences(want, got) == ([], [])


@pytest.mark.parametrize("node", NODES)
def test_virtual_at_tasks(east_west: Play, node: int) -> None:
    want, got = modulo_ping(east_west.at_tasks(node)), modulo_ping(east_west.seen(node, "task"))
    assert want and differences(want, got) == ([], [])


def test_virtual_details(east_west: Play) -> None:
    """What the scenario is about is in it: hairpin, closed ports, ICMP as from the virtual address, ping at TTL 64."""
    seen = {flow_of(f): f for f in east_west.seen(1, "task")}
    at_client = [(flow, f) for flow, f in seen.items() if flow[1] == "10.0.9.2"]
    assert any(f[47] == 0x14 and flow[3] == 81 for flow, f in at_client), "RST of a closed port"
    [error] = [f for flow, f in at_client if flow[0] == "icmp" and flow[3:] == (3, 3)]
    assert error[22] == 63 and dotted(error[14 + 20 + 8 + 16 :][:4]) == "10.0.9.2"
    assert {f[22] for flow, f in at_client if flow[0] == "icmp" and flow[3] == 0} == {64}
    hairpin = [flow for flow in seen if flow[1:3] == ("10.0.9.8", "10.0.9.5") and flow[4] == 80]
    own = {f[3] for p in east_west.world.players if p.node == 1 for s, _, one in p.script if s
           and (f := flow_of(one))[1:3] == ("10.0.9.5", "10.0.9.2")}  # fmt: skip
    assert {flow[3] for flow in hairpin} & own, "a task that called its own service was served by itself"
    assert max(len(f) for f in east_west.seen(1, "overlay")) == 1450 + 14


def test_what_the_kernel_counted_inside(east_west: Play) -> None:
    """Of the virtual address: connections, packets and bytes of each server."""
    dump = east_west.scene.dump(1, "ns-lb_*.txt")
    number = int(re.search(r"-d 10\.0\.9\.2/32 -j MARK --set-xmark 0x([0-9a-f]+)/", dump)[1], 16)
    assert east_west.figures(1, "web in mynet") == kernels_figures(dump, number)
