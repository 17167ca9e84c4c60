"""Specs out of a host's tables and out of a Swarm's networks, and back into node.toml.

A real kernel's and a real Swarm's outputs make the nodes that they were set up to be; forged ones, one line of error.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import vxlanfast as vf
from tests.support import CAPTURES
from vxlanfast.importers import networks_from_docker, spec_from_docker, spec_from_host, to_toml

SCENE = CAPTURES.parent / "oracle" / "swarm" / "02-eastwest" if CAPTURES else Path("none")
needs_swarm = pytest.mark.skipif(not SCENE.is_dir(), reason="the tables of a real Swarm are not here")

LINKS: list[dict[str, Any]] = [
    {},
    {"ifname": "br0", "linkinfo": {"info_kind": "bridge"}},
    {
        "ifname": "vx42", "master": "br0",
        "linkinfo": {
            "info_kind": "vxlan", "info_slave_kind": "bridge", "info_slave_data": {"neigh_suppress": False},
            "info_data": {
                "id": 42, "local": "192.0.2.1", "port": 4789, "learning": False, "proxy": True, "ttl": 9, "df": "set",
                "ageing": 120, "udp_csum": True, "udp_zero_csum6_tx": False, "udp_zero_csum6_rx": False,
            },
        },
    },
    {"ifname": "veth0", "master": "br0", "linkinfo": {"info_kind": "veth"}},
    {
        "ifname": "vx43",
        "linkinfo": {
            "info_kind": "vxlan",
            "info_data": {"id": 43, "local": "192.0.2.1", "ttl": 9, "df": "set", "ageing": 120, "tos": "0x0"},
        },
    },
]  # fmt: skip
FDB: list[dict[str, Any]] = [
    {"mac": "00:00:00:00:00:00", "ifname": "vx42", "dst": "192.0.2.2", "flags": ["self"], "state": "permanent"},
    {"mac": "02:00:00:00:00:05", "ifname": "vx42", "dst": "192.0.2.3", "flags": ["self"], "state": "static"},
    {"mac": "02:00:00:00:00:09", "ifname": "vx42", "dst": "192.0.2.9", "flags": ["self"], "state": ""},
    {"mac": "02:00:00:00:00:15", "ifname": "veth0", "flags": [], "master": "br0", "state": "static"},
]
NEIGH: list[dict[str, Any]] = [
    {"dst": "10.0.9.5", "dev": "vx42", "lladdr": "02:00:00:00:00:05", "state": ["PERMANENT"]},
    {"dst": "10.0.9.15", "dev": "br0", "lladdr": "02:00:00:00:00:15", "router": None, "state": ["NOARP"]},
    {"dst": "10.0.9.16", "dev": "br0", "lladdr": "02:00:00:00:00:15", "state": ["REACHABLE"]},
    {"dst": "10.0.9.17", "dev": "br0", "state": ["FAILED"]},
]
SWARM: list[dict[str, Any]] = [
    {
        "Name": "shop", "Id": "j9d4", "Driver": "overlay", "Internal": False,
        "IPAM": {"Config": [{"Subnet": "10.0.9.0/24", "Gateway": "10.0.9.1"}]},
        "Containers": {
            "4c0b": {
                "Name": "web.1", "EndpointID": "3696cf3e53cc", "MacAddress": "02:42:0a:00:09:0c",
                "IPv4Address": "10.0.9.12/24", "IPv6Address": "",
            },
            "lb-shop": {
                "Name": "shop-endpoint", "EndpointID": "8c36645d45f8", "MacAddress": "02:42:0a:00:09:08",
                "IPv4Address": "10.0.9.8/24", "IPv6Address": "",
            },
        },
        "Options": {"com.docker.network.driver.overlay.vxlanid_list": "4097"},
        "Peers": [{"Name": "a", "IP": "192.0.2.1"}, {"Name": "b", "IP": "192.0.2.3"}],
        "Services": {
            "web": {
                "VIP": "10.0.9.2",
                "Tasks": [
                    {"EndpointID": "3696cf3e53cc", "EndpointIP": "10.0.9.12", "Info": {"Host IP": "192.0.2.1"}},
                    {"EndpointID": "629c9643fbc1", "EndpointIP": "10.0.9.10", "Info": {"Host IP": "192.0.2.2"}},
                ],
            }
        },
    },
    {"Name": "docker_gwbridge", "Driver": "bridge"},
]  # fmt: skip


def stations(network: vf.NetworkSpec) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Every endpoint that has a MAC: where it is and its addresses."""
    return {e.address.hex(":"): (e.port or e.vtep or "", e.ip) for e in network.endpoint if e.address is not None}


# --- a host ---------------------------------------------------------------------------------------------


def test_host() -> None:
    """What was set comes along: stations, members, addresses; what was learned does not."""
    spec = spec_from_host(LINKS, json.dumps(FDB), json.dumps(NEIGH).encode(), name="n1")
    assert (spec.name, spec.vtep, spec.ttl, spec.df, spec.ageing_s) == ("n1", ("192.0.2.1",), 9, True, 120)
    assert (spec.udp_csum, spec.dscp, spec.port) == ("on", 0, 4789)
    first, second = spec.network
    assert (first.name, first.vni, first.learn, first.flood) == ("vx42", 42, False, "head-end")
    assert (first.proxy, first.unknown_neighbours) == (True, "swallow")
    assert first.members == {"192.0.2.2": True, "192.0.2.3": False}
    assert stations(first) == {
        "02:00:00:00:00:15": ("veth0", ("10.0.9.15",)), "02:00:00:00:00:05": ("192.0.2.3", ("10.0.9.5",)),
    }  # fmt: skip
    assert [e.router for e in first.endpoint] == [True, False]
    assert second == vf.NetworkSpec(name="vx43", vni=43, flood="off")
    assert not vf.Dataplane(spec).verify()


def test_host_without_local() -> None:
    """The argument says the address of devices that have none, and may say that of the other family."""
    links = [{"ifname": "vx1", "linkinfo": {"info_kind": "vxlan", "info_data": {"id": 1}}}]
    assert spec_from_host(links, "", vtep=["192.0.2.1", "2001:DB8::1"]).vtep == ("192.0.2.1", "2001:db8::1")
    assert spec_from_host(links, "", vtep="192.0.2.1").vtep == ("192.0.2.1",)
    assert spec_from_host("[]", "[]", "[ ]\n", vtep="192.0.2.1").network == ()


def test_host_station_at_several_places() -> None:
    """The first counts, and from all of them frames are let in."""
    network = spec_from_host(LINKS, [*FDB, {**FDB[1], "dst": "192.0.2.7"}]).network[0]
    assert stations(network)["02:00:00:00:00:05"] == ("192.0.2.3", ())
    assert network.members == {"192.0.2.2": True, "192.0.2.3": False, "192.0.2.7": False}


def test_host_order() -> None:
    """The order of tables' entries, which is a hash's, makes no difference."""
    assert spec_from_host(LINKS, FDB[::-1], NEIGH[::-1]) == spec_from_host(LINKS, FDB, NEIGH)


def test_host_proxies() -> None:
    """A bridge that suppresses neighbours floods what it does not know; a device that proxies swallows it."""
    links = copy.deepcopy(LINKS)
    links[2]["linkinfo"]["info_data"]["proxy"] = False
    assert not spec_from_host(links, FDB).network[0].proxy
    links[2]["linkinfo"]["info_slave_data"]["neigh_suppress"] = True
    network = spec_from_host(links, FDB).network[0]
    assert (network.proxy, network.unknown_neighbours) == (True, "flood")


def run(*command: str) -> str:
    """A program's output, or OSError with what it complained of."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


SETUP = """
ip link add br0 type bridge
ip link add br1 type bridge
ip link add vx42 type vxlan id 42 local 192.0.2.1 dstport 4790 nolearning proxy ttl 9 df set ageing 120 tos 0xb8
ip link add vx43 type vxlan id 43 local 192.0.2.1 dstport 4790 ttl 9 df set ageing 120 tos 0xb8 gbp maxaddress 50
ip link add vx44 type vxlan id 44 local 192.0.2.1 dstport 4790 ttl 9 df set ageing 120 tos 0xb8
ip link set vx44 type vxlan learning
ip link add flow type vxlan external dstport 4791
ip link add veth0 type veth peer name far0
ip link add veth1 type veth peer name far1
ip link add veth2 type veth peer name far2
ip link set vx42 master br0
ip link set veth0 master br0
ip link set veth1 master br0
ip link set vx43 master br1
ip link set veth2 master br1
ip link set br0 up
ip link set vx42 up
ip link set veth0 up
ip link set far0 up
bridge fdb append 00:00:00:00:00:00 dev vx42 dst 192.0.2.2
bridge fdb append 00:00:00:00:00:00 dev vx42 dst 192.0.2.3
bridge fdb add 02:00:00:00:00:05 dev vx42 dst 192.0.2.4 self
bridge fdb add 02:00:00:00:00:06 dev vx42 dst 192.0.2.2 self static
bridge fdb add 02:00:00:00:00:07 dev vx42 dst 192.0.2.7 self dynamic
bridge fdb add 02:00:00:00:00:08 dev vx42 dst 192.0.2.8 self extern_learn dynamic
bridge fdb add 02:00:00:00:00:15 dev veth0 master static
bridge fdb add 02:00:00:00:00:16 dev veth0 master dynamic
bridge fdb add 02:00:00:00:00:17 dev veth0 master
bridge fdb add 02:00:00:00:00:25 dev vx43 dst 192.0.2.2 self
ip neigh add 10.0.9.5 lladdr 02:00:00:00:00:05 dev vx42 nud permanent
ip neigh add 2001:db8:9::5 lladdr 02:00:00:00:00:05 dev br0 nud permanent router
ip neigh add 10.0.9.15 lladdr 02:00:00:00:00:15 dev br0 nud noarp extern_learn
ip neigh add 10.0.9.16 lladdr 02:00:00:00:00:06 dev br0 nud reachable
"""


@pytest.fixture
def namespace() -> Iterator[str]:
    """A network namespace of the test's own."""
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces")
    if shutil.which("ip") is None or shutil.which("bridge") is None:
        pytest.skip("needs iproute2: the programs ip and bridge are not installed")
    name = f"vfimp-{os.getpid()}"
    try:
        run("ip", "netns", "add", name)
    except OSError as error:
        pytest.skip(f"no network namespaces here: {error}")
    try:
        yield name
    finally:
        run("ip", "netns", "del", name)


@pytest.mark.root
def test_a_kernels_tables(namespace: str) -> None:
    """Devices and entries made with iproute2 are the node that they were to be."""

    def within(*command: str) -> str:
        return run("ip", "netns", "exec", namespace, *command)

    try:
        for line in SETUP.strip().splitlines():
            within(*line.split())
    except OSError as error:
        pytest.skip(f"no such devices here: {error}")
    spec = spec_from_host(
        within("ip", "-j", "-d", "link", "show"), within("bridge", "-j", "fdb", "show"),
        within("ip", "-j", "neigh", "show"), name="lab",
    )  # fmt: skip
    v42, v43, v44 = spec.network
    assert replace(spec, network=()) == vf.NodeSpec(
        name="lab", vtep=("192.0.2.1",), port=4790, ttl=9, df=True, ageing_s=120, dscp=46, udp_csum="on"
    )
    assert stations(v42) == {
        "02:00:00:00:00:15": ("veth0", ("10.0.9.15",)),
        "02:00:00:00:00:05": ("192.0.2.4", ("10.0.9.5", "2001:db8:9::5")),
        "02:00:00:00:00:06": ("192.0.2.2", ()),
        "02:00:00:00:00:08": ("192.0.2.8", ()),
    }
    assert [e.router for e in v42.endpoint] == [False, False, True, False, False] and v42.ports == ("veth0", "veth1")
    assert replace(v42, endpoint=()) == vf.NetworkSpec(
        name="vx42", vni=42, learn=False, flood="head-end", proxy=True, unknown_neighbours="swallow",
        peer=tuple(vf.PeerSpec(vtep=f"192.0.2.{n}", flood=n < 4) for n in (2, 3, 4, 8)),
    )  # fmt: skip
    assert v43 == vf.NetworkSpec(
        name="vx43", vni=43, flood="off", gbp=True, learned_limit=50,
        endpoint=(vf.EndpointSpec(port="veth2"), vf.EndpointSpec(vtep="192.0.2.2", mac="02:00:00:00:00:25")),
        peer=(vf.PeerSpec(vtep="192.0.2.2", flood=False),),
    )  # fmt: skip
    assert v44 == vf.NetworkSpec(name="vx44", vni=44, flood="off")
    assert vf.parse_spec(to_toml(spec)) == spec and not vf.Dataplane(spec).verify()


@pytest.mark.root
def test_a_kernels_ipv6_device(namespace: str) -> None:
    """Over IPv6 the other two settings say whether there are checksums; two devices may differ in nothing."""

    def tables() -> tuple[str, str]:
        return (
            run("ip", "-n", namespace, "-j", "-d", "link", "show"),
            run("bridge", "-n", namespace, "-j", "fdb", "show"),
        )

    def add(words: str) -> None:
        run("ip", "-n", namespace, "link", "add", *words.split())

    try:
        add("vx6 type vxlan id 6 dstport 4789 local 2001:db8::1 remote 2001:db8::2 udp6zerocsumtx udp6zerocsumrx")
    except OSError as error:
        pytest.skip(f"no such device here: {error}")
    spec = spec_from_host(*tables())
    assert (spec.vtep, spec.udp_csum, spec.zero_csum6, spec.ttl) == (("2001:db8::1",), "off", True, 64)
    assert spec.network[0].members == {"2001:db8::2": True} and spec.network[0].flood == "head-end"
    add("vx7 type vxlan id 7 dstport 4790 local 2001:db8::1 udp6zerocsumtx")
    with pytest.raises(vf.SpecError, match=r"^links: port: vx6 has 4789, vx7 has 4790: a node has one$"):
        spec_from_host(*tables())
    run("ip", "-n", namespace, "link", "del", "vx7")
    add("vx7 type vxlan id 7 dstport 4789 group 239.0.0.1 dev lo")
    with pytest.raises(vf.SpecError, match=r"vx7: linkinfo: info_data: group = '239.0.0.1': a node floods by head-end"):
        spec_from_host(*tables(), vtep=["192.0.2.1"])


# --- a Swarm --------------------------------------------------------------------------------------------


def test_swarm() -> None:
    """Our tasks behind ports, others at their hosts; every peer a member, none of which is flooded to."""
    spec = spec_from_docker(SWARM, vtep="192.0.2.1", name="n1")
    [network] = spec.network
    assert network == vf.NetworkSpec(
        name="shop", vni=4097, subnet=("10.0.9.0/24",), gateway=("10.0.9.1",), flood="off", proxy=True,
        unknown_neighbours="swallow",
        endpoint=(
            vf.EndpointSpec(port="veth-8c36645", mac="02:42:0a:00:09:08", ip=("10.0.9.8",)),
            vf.EndpointSpec(vtep="192.0.2.2", ip=("10.0.9.10",)),
            vf.EndpointSpec(port="veth-3696cf3", mac="02:42:0a:00:09:0c", ip=("10.0.9.12",), name="web.1"),
        ),
        peer=(vf.PeerSpec(vtep="192.0.2.2", flood=False), vf.PeerSpec(vtep="192.0.2.3", flood=False)),
    )  # fmt: skip
    assert network.learn and (spec.udp_csum, spec.ttl, spec.name) == ("on", 64, "n1")
    assert all(len(port) <= 15 for port in network.ports)
    assert not vf.Dataplane(spec).verify()


def test_swarm_seen_from_elsewhere() -> None:
    """One host's output is enough for the node of another, but for what is no task there."""
    [network] = networks_from_docker(SWARM, host="192.0.2.2")
    assert stations(network) == {
        "02:42:0a:00:09:08": ("192.0.2.1", ("10.0.9.8",)), "02:42:0a:00:09:0c": ("192.0.2.1", ("10.0.9.12",)),
        "02:42:0a:00:09:0a": ("veth-629c964", ("10.0.9.10",)),
    }  # fmt: skip
    assert network.members == {"192.0.2.1": False, "192.0.2.3": False}


def test_swarm_of_several_subnets() -> None:
    """A VNI for each IPv4 subnet, in order; IPv6 is on the first one's wire."""
    swarm = copy.deepcopy(SWARM)
    swarm[0]["IPAM"]["Config"] = [
        {"Subnet": "2001:db8:9::/64", "Gateway": "2001:db8:9::1"}, {"Subnet": "10.0.9.0/29"},
        {"Subnet": "10.0.9.8/29", "Gateway": ""},
    ]  # fmt: skip
    swarm[0]["Options"]["com.docker.network.driver.overlay.vxlanid_list"] = "4099,4098"
    swarm[0]["Containers"]["4c0b"] |= {"IPv6Address": "2001:db8:9::c/64"}
    first, second = networks_from_docker(json.dumps(swarm), host="192.0.2.1")
    assert (first.name, first.vni, first.subnet) == ("shop", 4099, ("10.0.9.0/29", "2001:db8:9::/64"))
    assert (second.name, second.vni, second.subnet) == ("shop", 4098, ("10.0.9.8/29",))
    assert (first.gateway, second.gateway, first.endpoint) == (("2001:db8:9::1",), (), ())
    assert stations(second)["02:42:0a:00:09:0c"] == ("veth-3696cf3", ("10.0.9.12", "2001:db8:9::c"))


def dumped(number: int) -> dict[str, tuple[dict[str, tuple[str, tuple[str, ...]]], set[str]]]:
    """Tables of a node of the Swarm by the gateway of their subnet: far stations with places, near ones' MACs."""
    found = {}
    for path in sorted((SCENE / f"dump-after-n{number}").glob("ns-1-*.txt")):
        text = path.read_text()
        gateway = re.search(r"^br0 +UP +(\S+)/24", text, re.MULTILINE)[1]
        fdb = text[text.index("##### bridge -d fdb\n") : text.index("##### bridge -d -s fdb")]
        known = dict(re.findall(r"^(\S+) dev vxlan0 lladdr (\S+) PERMANENT", text, re.MULTILINE))
        address = {mac: ip for ip, mac in known.items()}
        far = re.findall(r"^(\S+) dev vxlan0 dst (\S+) .*self permanent$", fdb, re.MULTILINE)
        near = re.findall(r"^(02:42:\S+) dev veth\d master br0 $", fdb, re.MULTILINE)
        found[gateway] = {mac: (vtep, (address[mac],)) for mac, vtep in far}, set(near)
    return found


def inspected(number: int) -> str:
    """A node's output of ``docker network inspect -v``, one list behind the other."""
    return (SCENE / f"dump-after-n{number}" / "network-inspect-v.json").read_text()


@needs_swarm
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_real_swarms_tables(number: int) -> None:
    """What all hosts say makes exactly the entries that each one's kernel has."""
    every = {f"10.1.1.1{n}": inspected(n) for n in (1, 2, 3)}
    spec = spec_from_docker(every, vtep=f"10.1.1.1{number}")
    assert {network.name: network.vni for network in spec.network} == {"ingress": 4096, "mynet": 4097}
    tables = dumped(number)
    for network in spec.network:
        far, spoken = tables[network.gateway[0]]
        near = {mac for mac, (place, _) in stations(network).items() if place in network.ports}
        assert {mac: seen for mac, seen in stations(network).items() if mac not in near} == far
        # The kernel learned those that have spoken.
        assert near >= spoken and len(near) == len(network.ports)
        assert network.members == {f"10.1.1.1{n}": False for n in (1, 2, 3) if n != number}
    assert vf.parse_spec(to_toml(spec)) == spec and not vf.Dataplane(spec).verify()


@needs_swarm
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_real_swarms_tables_by_one_host(number: int) -> None:
    """One host's output has every task and the host's own balancer, and lacks the other hosts' balancers alone."""
    spec = spec_from_docker(inspected(number), vtep=f"10.1.1.1{number}")
    full = spec_from_docker({f"10.1.1.1{n}": inspected(n) for n in (1, 2, 3)}, vtep=f"10.1.1.1{number}")
    for network, whole in zip(spec.network, full.network, strict=True):
        lacking = stations(whole).keys() - stations(network).keys()
        assert {mac: stations(whole)[mac] for mac in stations(network)} == stations(network)
        assert sorted(stations(whole)[mac][0] for mac in lacking) == sorted(whole.members)
        assert replace(network, endpoint=()) == replace(whole, endpoint=())


@needs_swarm
def test_a_real_swarms_encrypted_network() -> None:
    """Nothing is sent in the clear that was encrypted."""
    text = (SCENE.parent / "04-internal" / "dump-after-n1" / "network-inspect-v.json").read_text()
    with pytest.raises(vf.SpecError, match=r"^inspect: enc: Options: encrypted = '': a node does no ESP"):
        spec_from_docker(text, vtep="10.1.1.11")


# --- what is wrong --------------------------------------------------------------------------------------


def changed(document: list[dict[str, Any]], path: str, value: object) -> list[dict[str, Any]]:
    """A copy with one value replaced; ``path`` is separated by slashes."""
    document = copy.deepcopy(document)
    at: Any = document
    *way, last = (int(part) if part.isdigit() else part for part in path.split("/"))
    for step in way:
        at = at[step]
    at[last] = value
    return document


INFO = "2/linkinfo/info_data"


@pytest.mark.parametrize(
    ("source", "path", "value", "text"),
    [
        ("links", "2", 5, "links[2]: 5: an object"),
        ("links", "2/ifname", None, "links[2]: ifname: missing"),
        ("links", "2/ifname", "vx\n42", "links[2]: ifname = 'vx\\n42': a name, 1 to 128 printable characters without"),
        ("links", "2/linkinfo", [1], "links: vx42: linkinfo = […]: an object"),
        ("links", f"{INFO}/id", 1 << 24, "links: vx42: linkinfo: info_data: id = 16777216: a whole number, 0 to 1677"),
        ("links", f"{INFO}/id", True, "info_data: id = True: a whole number, 0 to 16777215"),
        ("links", f"{INFO}/id", 1 << 70, "info_data: id = a number of more than 64 bits: a whole number"),
        ("links", f"{INFO}/id", 43, "links: vni = 43: networks vx42 and vx43 both have it"),
        ("links", f"{INFO}/port", 0, "links: port: vx42 has 0, vx43 has 4789: a node has one"),
        ("links", f"{INFO}/port", "4789", "info_data: port = '4789': a whole number, 0 to 65535"),
        ("links", f"{INFO}/ttl", 10, "links: ttl: vx42 has 10, vx43 has 9: a node has one"),
        ("links", f"{INFO}/ageing", 300, "links: ageing_s: vx42 has 300, vx43 has 120: a node has one"),
        ("links", f"{INFO}/df", "inherit", "df = 'inherit': set or unset: a node's DF does not depend on"),
        ("links", f"{INFO}/tos", "4", "tos = '4': 0x0 to 0xff"),
        ("links", f"{INFO}/local", "192.0.2.9", "IPv4 vtep: vx42 has '192.0.2.9', vx43 has '192.0.2.1'"),
        ("links", f"{INFO}/local", "x" * 99, f"local = '{'x' * 59}…: an IPv4 or IPv6 address"),
        ("links", f"{INFO}/local", None, "links: vx42: linkinfo: info_data: local: missing; give the node's own"),
        ("links", f"{INFO}/learning", 1, "learning = 1: true or false"),
        ("links", f"{INFO}/gpe", True, "gpe = True: a node speaks VXLAN, not VXLAN-GPE"),
        ("links", f"{INFO}/group", "239.0.0.1", "group = '239.0.0.1': a node floods by head-end replication"),
        ("links", "4/master", "br0", "links: master = 'br0': vx42 and vx43 are in it: a port has one network"),
        ("links", "3/ifname", "underlay", "links: underlay: port = 'underlay': the underlay's own name"),
        ("fdb", "1/mac", "02:00", "fdb[1]: mac = '02:00': six pairs of hex digits, such as 02:42:c0:00:02:01"),
        ("fdb", "1/mac", "01:00:5e:00:00:01", "fdb: vx42: mac = '01:00:5e:00:00:01': the address of one station"),
        ("fdb", "1/dst", "192.0.2", "fdb[1]: dst = '192.0.2': an IPv4 or IPv6 address"),
        ("fdb", "0/dst", "239.0.0.1", "fdb[0]: dst = '239.0.0.1': a node floods by head-end replication"),
        ("fdb", "0/dst", "192.0.2.1", "links: vtep = '192.0.2.1': network vx42: it is this node's own"),
        ("fdb", "0/dst", "2001:db8::2", "links: vtep = '2001:db8::2': network vx42: this node has no VTEP address"),
        ("fdb", "1/vni", 77, "fdb[1]: vni = 77: 42, as its device vx42 has it"),
        ("fdb", "1/port", 4790, "fdb[1]: port = 4790: 4789, as its device vx42 has it"),
        ("fdb", "2/flags", "self", "fdb[2]: flags = 'self': a list of texts"),
        ("fdb", "1/ifname", None, "fdb[1]: ifname: missing"),
        ("fdb", "3/mac", "02:00:00:00:00:05", "links: vx42: ip = '10.0.9.5': taken already, by endpoint 10.0.9.5"),
        ("neigh", "0/dst", "fe80::x", "neigh[0]: dst = 'fe80::x': an IPv4 or IPv6 address"),
        ("neigh", "0/state", 5, "neigh[0]: state = 5: a list of texts"),
        ("neigh", "0/dst", "10.0.9.15", "links: vx42: ip = '10.0.9.15': taken already, by endpoint 10.0.9.15"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_host(source: str, path: str, value: object, text: str) -> None:
    """One line each: the table, the key, the value and the rule."""
    tables = {"links": LINKS, "fdb": FDB, "neigh": NEIGH}
    tables[source] = changed(tables[source], path, value)
    with pytest.raises(vf.SpecError) as caught:
        spec_from_host(**tables)
    assert text in str(caught.value) and str(caught.value).startswith(("links", "fdb", "neigh"))


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("0/Name", "a b", "inspect[0]: Name = 'a b': a name, 1 to 128 printable characters without spaces"),
        ("0/Driver", 5, "inspect[0]: Driver = 5: a text"),
        ("0/Options", None, "inspect: shop: Options: com.docker.network.driver.overlay.vxlanid_list: missing"),
        ("0/Options/com.docker.network.driver.overlay.vxlanid_list", "1,2",
         "vxlanid_list = '1,2': numbers with commas between, one for each IPv4 subnet, of which there are 1"),
        ("0/Options/com.docker.network.driver.overlay.vxlanid_list", "16777216", "inspect: shop: vni = 16777216: 0"),
        ("0/Options/encrypted", "", "inspect: shop: Options: encrypted = '': a node does no ESP, and would send"),
        ("0/IPAM/Config/0/Subnet", "10.0.9.1/24", "inspect: shop: IPAM: Config[0]: Subnet = '10.0.9.1/24': a prefix"),
        ("0/IPAM/Config/0/Subnet", None, "inspect: shop: IPAM: Config[0]: Subnet: missing"),
        ("0/IPAM/Config/0/Gateway", "10.0.9", "Config[0]: Gateway = '10.0.9': an IPv4 or IPv6 address"),
        ("0/IPAM/Config/0/Gateway", "10.0.9.8", "inspect: shop: ip = '10.0.9.8': taken already, by gateway 10.0.9.8"),
        ("0/Peers", 5, "inspect: shop: Peers = 5: a list or an object of objects"),
        ("0/Peers/0/IP", "", "inspect: shop: Peers[0]: IP = '': an IPv4 or IPv6 address"),
        ("0/Services/web/Tasks/1/EndpointIP", "<nil>",
         "inspect: shop: Services: web: Tasks[1]: EndpointIP = '<nil>': an IPv4 or IPv6 address"),
        ("0/Services/web/Tasks/1/EndpointIP", "10.0.8.2", "shop: endpoint 629c964: ip = '10.0.8.2': within a subnet"),
        ("0/Services/web/Tasks/1/EndpointIP", "10.0.9.12", "inspect: shop: ip = '10.0.9.12': taken already, by"),
        ("0/Services/web/Tasks/1/Info", None, "Services: web: Tasks[1]: Info: Host IP: missing"),
        ("0/Services/web/Tasks/1/EndpointID", "web", "Tasks[1]: EndpointID = 'web': 7 to 64 hex digits"),
        ("0/Services/a\nb", 5, "inspect: shop: Services: 'a\\nb': 5: an object"),
        ("0/Containers/4c0b/MacAddress", "02", "Containers: 4c0b: MacAddress = '02': six pairs of hex digits"),
        ("0/Containers/4c0b/MacAddress", "03:00:00:00:00:01", "endpoint 3696cf3: mac = '03:00:00:00:00:01': the"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_swarm(path: str, value: object, text: str) -> None:
    """One line each: the network, the key, the value and the rule."""
    with pytest.raises(vf.SpecError) as caught:
        spec_from_docker(changed(SWARM, path, value), vtep="192.0.2.1")
    assert text in str(caught.value) and str(caught.value).startswith("inspect")


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ("[", "inspect: no JSON: Expecting value: line 1 column 2 (char 1)"),
        ("[] {}", "inspect: {…}: a list of objects"),
        (b"[\xff]", "inspect: byte 1 is not UTF-8"),
        ("[" * 200_000, "inspect: objects or lists too deep in each other"),
        ("[" + "9" * 5000 + "]", "inspect: a number is too long"),
        (5, "inspect: 5: a list of objects"),
        ([["a"]], "inspect[0]: […]: an object"),
        ({"there": []}, "inspect: host = 'there': an IPv4 or IPv6 address"),
        ({"192.0.2.1": "x"}, "inspect 192.0.2.1: no JSON: Expecting value: line 1 column 1 (char 0)"),
    ],
    ids=range(9),
)
def test_what_is_no_output(output: Any, text: str) -> None:
    """Neither text that is no JSON nor JSON that is no list of objects."""
    with pytest.raises(vf.SpecError) as caught:
        networks_from_docker(output, host="192.0.2.1")
    assert str(caught.value) == text


def test_what_is_wrong_with_arguments() -> None:
    """Addresses of one's own that are none, or not what a device says."""
    with pytest.raises(vf.SpecError, match=r"^argument: host = 'n1': an IPv4 or IPv6 address$"):
        spec_from_docker(SWARM, vtep="n1")
    with pytest.raises(vf.SpecError, match=r"^argument: vtep = 'n1': an IPv4 or IPv6 address$"):
        spec_from_host(LINKS, FDB, vtep=["n1"])
    with pytest.raises(vf.SpecError, match=r"^links: IPv4 vtep: the argument has '192.0.2.9', vx42 has '192.0.2.1'"):
        spec_from_host(LINKS, FDB, vtep=["192.0.2.9"])
    with pytest.raises(vf.SpecError, match=r"^links: vtep = \[\]: one address of a family"):
        spec_from_host([], [])


# --- whatever comes -------------------------------------------------------------------------------------

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.builds(pow, st.just(10), st.just(5000))  # of more digits than Python prints
    | st.sampled_from([
        1 << 24, -1, "192.0.2.1", "192.0.2.2", "2001:db8::1", "fe80::1%a\nb", "239.0.0.1", "0.0.0.0", "10.0.9.9/24",
        "02:00:00:00:00:05", "00:00:00:00:00:00", "vx42", "vxlan", "br0", "bridge", "underlay", "inherit", "0xff",
        "permanent", "extern_learn", "PERMANENT", "10.0.0.0/8", "::/0", "1,2", "3696cf3e53cc", "overlay", "a\nb",
        "x" * 200, "\ud800",
    ])
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def ways(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where every value of a document stands."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*way, key)
        yield from ways(inner, (*way, key))


@st.composite
def forged(draw: st.DrawFn, document: Any) -> Any:
    """A good document of which a few values are something else."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(0, 3))):
        *way, last = draw(st.sampled_from(list(ways(document)) or [(0,)]))
        at = document
        for step in way:
            at = at[step]
        with_it = draw(VALUES)
        if at:
            at[last] = with_it
    return document


def survives(make: Callable[[], vf.NodeSpec]) -> None:
    """A spec that node.toml can hold, or one line."""
    try:
        spec = make()
    except vf.SpecError as error:
        assert str(error).isprintable() and 0 < len(str(error)) < 1000
    else:
        assert vf.parse_spec(to_toml(spec)) == spec


@given(forged(LINKS) | VALUES, forged(FDB) | VALUES, forged(NEIGH) | VALUES, st.booleans())
def test_a_forged_host(links: Any, fdb: Any, neigh: Any, given_vtep: bool) -> None:
    """Any JSON for tables: a spec or a SpecError, and nothing else."""
    survives(lambda: spec_from_host(links, fdb, neigh, vtep=["192.0.2.1", "2001:db8::1"] if given_vtep else ()))


@given(forged(LINKS), st.data())
def test_forged_links(links: Any, data: st.DataObject) -> None:
    """The table of which most is read, with the others as they should be, in turns."""
    fdb, neigh = data.draw(st.sampled_from([(FDB, forged(NEIGH)), (forged(FDB), NEIGH)]))
    drawn = [data.draw(one) if isinstance(one, st.SearchStrategy) else one for one in (fdb, neigh)]
    survives(lambda: spec_from_host(links if data.draw(st.booleans()) else LINKS, *drawn))


@given(forged(SWARM) | VALUES, forged(SWARM))
def test_a_forged_swarm(inspect: Any, other: Any) -> None:
    """Any JSON for networks, alone and beside another host's."""
    survives(lambda: spec_from_docker(inspect, vtep="192.0.2.1"))
    survives(lambda: spec_from_docker({"192.0.2.2": other, "192.0.2.1": inspect}, vtep="192.0.2.1"))


@given(st.text() | st.binary() | st.lists(SCALARS.filter(lambda value: not isinstance(value, int))).map(json.dumps))
@example('[{"ifname": "vx", "linkinfo": {"info_kind": "vxlan", "info_data": {"id": NaN}}}]')
def test_forged_text(text: str | bytes) -> None:
    """Any text for an output."""
    survives(lambda: spec_from_host(text, text, text, vtep=["192.0.2.1"]))
    survives(lambda: spec_from_docker(text, vtep="192.0.2.1"))


# --- node.toml ------------------------------------------------------------------------------------------

NAMES = st.text(max_size=12)


@st.composite
def networks(draw: st.DrawFn, number: int) -> vf.NetworkSpec:
    """A network whose addresses and ports are no other's."""

    def endpoint(at: int) -> vf.EndpointSpec:
        ip = draw(st.sampled_from([(f"10.{number}.9.{at}",), (f"10.{number}.9.{at}", f"2001:db8:{number}::{at:x}")]))
        far = draw(st.booleans())
        return vf.EndpointSpec(
            port=None if far else f"{draw(NAMES)} {number} {at}",
            vtep=draw(st.sampled_from(["192.0.2.2", "2001:db8::2", ("2001:db8::2", "192.0.2.3")])) if far else None,
            mac=draw(st.sampled_from([None, f"02:00:00:00:{number:02x}:{at:02x}"])), ip=ip, router=draw(st.booleans()),
        )  # fmt: skip

    return vf.NetworkSpec(
        name=draw(NAMES) + str(number), vni=number + 10 * draw(st.integers(0, 1_000_000)),
        subnet=draw(st.sampled_from([(), ("10.0.9.0/24",), ("10.0.9.0/24", "2001:db8:9::/64")])),
        snoop=draw(st.booleans()), mss_clamp=draw(st.booleans()),
        gateway=draw(st.sampled_from([(), ("10.0.9.1", "2001:db8:9::1")])),
        gateway_mac=draw(st.sampled_from([None, "02-00-00-00-00-01"])), learn=draw(st.booleans()),
        flood=draw(st.sampled_from(["head-end", "off"])), proxy=draw(st.booleans()), tags=draw(st.booleans()),
        unknown_neighbours=draw(st.sampled_from(["flood", "swallow"])), gbp=draw(st.booleans()),
        bum_rate=draw(st.integers(0, 10**9)), learned_limit=draw(st.integers(0, 1 << 24)),
        endpoint=tuple(endpoint(at) for at in range(2, 2 + draw(st.integers(0, 3)))),
        peer=draw(st.sampled_from([(), (vf.PeerSpec(vtep="192.0.2.2"), vf.PeerSpec(vtep="2001:db8::3", flood=False))])),
    )  # fmt: skip


@st.composite
def specs(draw: st.DrawFn) -> vf.NodeSpec:
    """A node with some of everything."""
    return vf.NodeSpec(
        vtep=("192.0.2.1", "2001:db8::1"), name=draw(NAMES), port=draw(st.integers(1, 65535)),
        ageing_s=draw(st.sampled_from([0, 300, 1 << 31])), stations=draw(st.integers(1, 1 << 20)),
        ttl=draw(st.integers(1, 255)), dscp=draw(st.integers(0, 63) | st.just("inherit")), df=draw(st.booleans()),
        zero_csum6=draw(st.booleans()), mtu=draw(st.sampled_from([0, 9000])), memberships=draw(st.integers(1, 99)),
        router_mac=draw(st.sampled_from([None, "02:00:00:00:00:09"])),
        udp_csum=draw(st.sampled_from(["auto", "on", "off"])), seed=draw(st.integers(0, (1 << 64) - 1)),
        network=tuple(draw(networks(number)) for number in range(1, 1 + draw(st.integers(0, 3)))),
    )  # fmt: skip


@given(specs())
@example(vf.NodeSpec(vtep=("192.0.2.1",), name='"\\\x00\x1f\x7f\x80\x85\u2028\r\n\t\U0001f600'))
def test_round_trip(spec: vf.NodeSpec) -> None:
    """What is written is what is read, whatever names have in them."""
    assert vf.parse_spec(to_toml(spec)) == spec


def test_only_what_is_said() -> None:
    """Defaults are left out; a single text needs no list."""
    spec = vf.NodeSpec(
        vtep=("192.0.2.1", "2001:db8::1"),
        network=(
            vf.NetworkSpec(name="web", vni=0, proxy=True, endpoint=(vf.EndpointSpec(port="veth1", ip=("10.0.9.3",)),)),
        ),
    )
    assert to_toml(spec) == (
        '[node]\nvtep = ["192.0.2.1", "2001:db8::1"]\n\n[[network]]\nname = "web"\nvni = 0\nproxy = true\n\n'
        '[[network.endpoint]]\nport = "veth1"\nip = "10.0.9.3"\n'
    )


def test_what_toml_cannot_hold() -> None:
    """Half a character is none."""
    with pytest.raises(vf.SpecError, match=r"^name = '\\ud800': a text of TOML is of Unicode's characters$"):
        to_toml(vf.NodeSpec(vtep=("192.0.2.1",), name="\ud800"))
