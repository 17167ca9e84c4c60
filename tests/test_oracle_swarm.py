"""A real Swarm's ARP, frame by frame: what its tasks sent, through a plane like it, gives the answers it gave."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from scapy.layers.l2 import ARP, Ether
from scapy.utils import rdpcap

import vxlanfast as vf
from tests.support import CAPTURES

SCENE = CAPTURES.parent / "oracle" / "swarm" / "02-eastwest" if CAPTURES else None
pytestmark = pytest.mark.skipif(SCENE is None or not SCENE.is_dir(), reason="the captures of a real Swarm are not here")


def host(number: int) -> tuple[vf.NodeSpec, dict[str, str]]:
    """Node ``number`` of the scene as its dumped tables have it; and which port each of its stations is behind."""
    [dump] = [p for p in (SCENE / f"dump-after-n{number}").glob("ns-1-*.txt") if "10.0.9.1/24" in p.read_text()]
    text = dump.read_text()
    fdb = text[text.index("##### bridge -d fdb\n") : text.index("##### bridge -d -s fdb")]
    vteps = dict(re.findall(r"^(\S+) dev vxlan0 dst (\S+) .*self permanent$", fdb, re.MULTILINE))
    neighbours = dict(re.findall(r"^(\S+) dev vxlan0 lladdr (\S+) PERMANENT", text, re.MULTILINE))
    local = dict(re.findall(r"^(02:42:\S+) dev (veth\d) master br0 $", fdb, re.MULTILINE))
    gateway = re.search(r"br0: .*\n\s+link/ether (\S+)", text)[1]
    address = {mac: ".".join(str(int(part, 16)) for part in mac.split(":")[2:]) for mac in local}
    network = vf.NetworkSpec(
        name="mynet", vni=4097, subnet=("10.0.9.0/24",), gateway=("10.0.9.1",), gateway_mac=gateway,
        proxy=True, unknown_neighbours="swallow", flood="off",
        endpoint=(
            *(vf.EndpointSpec(port=port, mac=mac, ip=(address[mac],)) for mac, port in local.items()),
            *(vf.EndpointSpec(vtep=vteps[mac], mac=mac, ip=(ip,)) for ip, mac in neighbours.items()),
        ),
    )  # fmt: skip
    return vf.NodeSpec(vtep=(f"10.1.1.{10 + number}",), network=(network,)), local


def arp_of(number: int, port: str) -> list[tuple[int, bytes]]:
    """ARP frames a port saw: time and bytes."""
    [path] = (SCENE / "cap-1" / f"n{number}").glob(f"1-j9d4rjwaav-{port}.pcap")
    return [(int(p.time * 10**9), bytes(p)) for p in rdpcap(str(path)) if ARP in p]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_arp(number: int) -> None:
    """Every ARP frame of every task: the same replies from elsewhere and the gateway, and none crosses a tunnel."""
    spec, local = host(number)
    plane = vf.Dataplane(spec)
    far = {mac for mac in (row["mac"] for row in plane.neighbours()) if mac not in local}
    sent, want = [], []
    for mac, port in local.items():
        for at, frame in arp_of(number, port):
            p = Ether(frame)
            if p.src == mac:
                sent.append((at, port, frame))
            elif p.src in far and p.dst == mac and p[ARP].op == 2:
                want.append((port, frame[:42]))
    assert sent and want
    got, kinds = [], Counter()
    for at, port, frame in sorted(sent):
        for out, answer in plane.offer(port, frame, now_ns=at):
            assert out != "underlay"
            p = Ether(answer)
            if p.src in far:
                got.append((out, answer))
        op, target = Ether(frame)[ARP].op, Ether(frame)[ARP].pdst
        kinds["unknown" if target == "10.0.9.200" else "gratuitous" if target == Ether(frame)[ARP].psrc else op] += 1
    assert sorted(got) == sorted(want)
    if number == 1:
        assert kinds["unknown"] and kinds["gratuitous"] and kinds[1]
    assert all(not traffic.tx_packets for traffic in plane.stats().peers.values())
