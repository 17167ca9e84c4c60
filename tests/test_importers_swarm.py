"""A Swarm's services out of its own output: docker service inspect beside docker network inspect -v."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vxlanfast as vf
from tests.swarm import NODES, ORACLE, Scene
from tests.test_importers import SWARM, VALUES, changed, forged, survives
from vxlanfast.importers import spec_from_docker
from vxlanfast.network_spec import EndpointSpec, NetworkSpec

LAN = NetworkSpec(
    name="lan", lan=True, subnet=("198.51.100.0/24",), gateway=("198.51.100.1",),
    endpoint=(EndpointSpec(port="eth0", mac="02:00:00:00:00:64", ip=("198.51.100.100",)),),
)  # fmt: skip
INGRESS: dict[str, Any] = {
    "Name": "ingress", "Id": "iuzd", "Driver": "overlay", "Ingress": True,
    "IPAM": {"Config": [{"Subnet": "10.0.0.0/24", "Gateway": "10.0.0.1"}]},
    "Containers": {
        "ingress-sbox": {
            "Name": "ingress-endpoint", "EndpointID": "073aeb6f11b2", "MacAddress": "02:42:0a:00:00:02",
            "IPv4Address": "10.0.0.2/24", "IPv6Address": "",
        }
    },
    "Options": {"com.docker.network.driver.overlay.vxlanid_list": "4096"},
    "Services": {
        "web": {
            "VIP": "10.0.0.5", "Ports": ["Target: 80, Publish: 8080"],
            "Tasks": [{"EndpointID": "207e65d87f6b", "EndpointIP": "10.0.0.7", "Info": {"Host IP": "192.0.2.2"}}],
        }
    },
}  # fmt: skip
NETWORKS = [*SWARM, INGRESS]
SERVICES: list[dict[str, Any]] = [
    {
        "ID": "p6dd", "Spec": {"Name": "web"},
        "Endpoint": {
            "Spec": {"Mode": "vip"},
            "Ports": [
                {"Protocol": "tcp", "TargetPort": 80, "PublishedPort": 8080, "PublishMode": "ingress"},
                {"Protocol": "udp", "TargetPort": 9999, "PublishedPort": 9000, "PublishMode": "host"},
                {"Protocol": "tcp", "TargetPort": 81},
            ],
            "VirtualIPs": [
                {"NetworkID": "iuzd", "Addr": "10.0.0.5/24"}, {"NetworkID": "j9d4", "Addr": "10.0.9.2/24"},
                {"NetworkID": "gone", "Addr": "10.0.3.2/24"}, {"NetworkID": "j9d4"},
            ],
        },
    },
    {"ID": "fj8t", "Spec": {"Name": "rr"}, "Endpoint": {"Spec": {"Mode": "dnsrr"}}},
]  # fmt: skip


def test_services() -> None:
    """One service in each network where it has an address, its tasks there; ports are published by the ingress
    network's; the host's load balancers are the node itself."""
    spec = spec_from_docker(NETWORKS, vtep="192.0.2.1", services=SERVICES, lan=LAN, profile="swarm")
    inside, outside = sorted(spec.service, key=lambda service: service.home, reverse=True)
    assert inside == vf.ServiceSpec(
        name="web in shop", virtual=(vf.VirtualSpec(network="shop", address="10.0.9.2"),), servers_in="shop",
        aliases=("web",),
        server=(vf.ServerSpec(address="10.0.9.10"), vf.ServerSpec(address="10.0.9.12")),
    )  # fmt: skip
    assert outside == vf.ServiceSpec(
        name="web in ingress", virtual=(vf.VirtualSpec(network="ingress", address="10.0.0.5"),), servers_in="ingress",
        aliases=("web",),
        publish=(
            vf.PublishSpec(network="lan", published=8080, target=80),
            vf.PublishSpec(network="lan", published=9000, target=9999, protocol="udp", mode="host"),
        ),
        server=(vf.ServerSpec(address="10.0.0.7"),),
    )  # fmt: skip
    networks = {network.name: network for network in spec.network}
    assert {name: network.own for name, network in networks.items()} == {
        "lan": (), "shop": ("10.0.9.8",), "ingress": ("10.0.0.2",)
    }  # fmt: skip
    assert not any("10.0.9.8" in endpoint.ip for endpoint in networks["shop"].endpoint)
    assert [network.name for network in spec.network if network.guard] == ["ingress"]
    assert vf.parse_spec(vf.to_toml(spec)) == spec
    assert [row["name"] for row in vf.Dataplane(spec).services()] == ["web in ingress", "web in shop"]


def test_services_of_profile_fixed() -> None:
    """The same services; the host's balancers are stations among others, since there is none here."""
    spec = spec_from_docker(NETWORKS, vtep="192.0.2.1", services=SERVICES, lan=LAN)
    assert {service.name for service in spec.service} == {"web in ingress", "web in shop"}
    assert not any(network.own or network.guard for network in spec.network)


@pytest.mark.parametrize(("path", "value", "text"), [
    ("0/Spec/Name", "a b", "services[0]: Spec: Name = 'a b': a name, 1 to 128 printable characters without spaces"),
    ("0/Spec", None, "services[0]: Spec: Name: missing"),
    ("0/Endpoint", 5, "services: web: Endpoint = 5: an object"),
    ("0/Endpoint/VirtualIPs/1/Addr", "10.0.9", "services: web: Endpoint: VirtualIPs[1]: Addr = '10.0.9': an IPv4 or"),
    ("0/Endpoint/VirtualIPs/1/NetworkID", "../x", "NetworkID = '../x': up to 64 digits and small letters"),
    ("0/Endpoint/Ports/0/PublishedPort", 65536, "Ports[0]: PublishedPort = 65536: a whole number, 0 to 65535"),
    ("0/Endpoint/Ports/0/Protocol", "icmp", "services: web: Endpoint: Ports[0]: Protocol = 'icmp': tcp, udp, sctp"),
    ("0/Endpoint/Ports/0/PublishMode", "", "Ports[0]: PublishMode = '': ingress or host"),
    ("1/Spec/Name", "rr2", ""),
])  # fmt: skip
def test_what_is_wrong_with_services(path: str, value: object, text: str) -> None:
    """One line each: the service, the key, the value and the rule."""
    services = changed(SERVICES, path, value)
    if not text:  # without an address it is nobody's
        assert spec_from_docker(NETWORKS, vtep="192.0.2.1", services=services, lan=LAN).service
        return
    with pytest.raises(vf.SpecError) as caught:
        spec_from_docker(NETWORKS, vtep="192.0.2.1", services=services, lan=LAN)
    assert text in str(caught.value) and str(caught.value).startswith("services")


def test_what_is_missing() -> None:
    """No lan to publish by; no balancer's address, since another host's output does not have it."""
    with pytest.raises(vf.SpecError, match=r"PublishedPort = 8080: give the lan by whose addresses it is published"):
        spec_from_docker(NETWORKS, vtep="192.0.2.1", services=SERVICES)
    with pytest.raises(vf.SpecError, match=r"own = '': network ingress: service web in ingress is masqueraded by it"):
        spec_from_docker({"192.0.2.1": NETWORKS}, vtep="192.0.2.2", services=SERVICES, lan=LAN, profile="swarm")


@given(forged(SERVICES) | VALUES, forged(NETWORKS), st.sampled_from(["swarm", "fixed"]), st.booleans())
def test_forged_services(services: Any, networks: Any, profile: str, with_lan: bool) -> None:
    """Any JSON for services, with networks that are forged too: a spec or a SpecError, and nothing else."""
    lan = LAN if with_lan else None
    for inspect in (NETWORKS, networks):
        survives(
            lambda inspect=inspect: spec_from_docker(  # type: ignore[misc]
                copy.deepcopy(inspect), vtep="192.0.2.1", services=services, lan=lan, profile=profile
            )
        )


@pytest.mark.skipif(ORACLE is None or not ORACLE.is_dir(), reason="the tables of a real Swarm are not here")
@pytest.mark.parametrize("node", NODES)
def test_a_real_swarm(node: int) -> None:
    """Three nodes that dumped their tables: the kernel's real servers, virtual addresses and marks, and no others."""
    assert ORACLE is not None
    scene = Scene(ORACLE / "01-ingress-repeat")
    spec = scene.spec(node)
    dump = scene.dump(node, "ns-ingress_sbox.txt")
    [web] = [service for service in spec.service if service.home == "ingress"]
    assert all(f"-> {server.address}:0 " in dump for server in web.server) and len(web.server) == 3
    assert f"-A INPUT -d {web.virtual[0].address}/32 -j MARK" in dump
    for publish in web.publish:
        assert f"-A PREROUTING -p {publish.protocol} -m {publish.protocol} --dport {publish.published} -j MARK" in dump
    own = {network.name: network.own for network in spec.network if network.own}
    assert own == {"ingress": (f"10.0.0.{node + 1}",), "mynet": own["mynet"]}
    assert f"--to-source {own['ingress'][0]}" in dump
    assert f"--to-source {own['mynet'][0]}" in scene.dump(node, "ns-lb_*.txt")
    # What a task's own rules redirect and let in is what its node redirects and lets in.
    for service in spec.expanded:
        if " at " not in service.name:
            continue
        [rules] = [
            path.read_text() for path in (scene.folder / f"dump-after-n{node}").glob("ns-*.txt")
            if f" {service.server[0].address}/24" in path.read_text().split("#####")[1]
        ]  # fmt: skip
        for virtual in service.virtual:
            if virtual.port != virtual.target:
                assert f"--dport {virtual.port} -j REDIRECT --to-ports {virtual.target}" in rules
            assert f"--dport {virtual.target} -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT" in rules
