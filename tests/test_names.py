"""Who is called how: out of a node's spec, and of the servers that its balancer has at the moment."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest

import vxlanfast as vf
from vxlanfast.addr import format_ip, parse_ip
from vxlanfast.importers import to_toml
from vxlanfast.names import Names, Place, address_of, reversed_prefix
from vxlanfast.service_spec import ServerSpec

TOML = """
[node]
vtep = "192.0.2.1"

[[network]]
name = "Front"
vni = 41
subnet = "10.0.8.0/24"
gateway = "10.0.8.1"
resolver = "10.0.8.253"
[[network.endpoint]]
port = "front1"
ip = "10.0.8.3"
name = "shop.1"
[[network.endpoint]]
port = "front2"
ip = "10.0.8.4"

[[network]]
name = "back"
vni = 42
subnet = ["10.0.9.0/24", "2001:db8:9::/64"]
gateway = "10.0.9.1"
resolver = ["10.0.9.253", "2001:db8:9::253"]
[[network.endpoint]]
port = "back1"
ip = ["10.0.9.3", "2001:db8:9::3"]
name = "shop.1"
aliases = "492ab67ca079"
[[network.endpoint]]
vtep = "192.0.2.2"
ip = "10.0.9.4"
name = "shop.2"
[[network.endpoint]]
port = "back3"
ip = "10.0.9.5"
name = "lone"

[[network]]
name = "secret"
vni = 43
subnet = "10.0.7.0/24"
internal = true
resolver = "10.0.7.253"
[[network.endpoint]]
port = "secret1"
ip = "10.0.7.3"
name = "lone"

[[service]]
name = "shop"
aliases = ["Store", "a.b"]
servers_in = "back"
[[service.virtual]]
network = "back"
address = "10.0.9.100"
protocol = "tcp"
port = 80
[[service.virtual]]
network = "back"
address = "10.0.9.100"
protocol = "tcp"
port = 443
[[service.virtual]]
network = "Front"
address = "10.0.8.100"
[[service.server]]
address = "10.0.9.3"
port = 8080
[[service.server]]
address = "10.0.9.4"
[[service.server]]
address = "2001:db8:9::3"

[[service]]
name = "rr"
servers_in = "back"
dns = "dnsrr"
[[service.server]]
address = "10.0.9.4"
[[service.server]]
address = "10.0.9.5"

[[service]]
name = "both"
dns = "dnsrr"
[[service.virtual]]
network = "back"
address = "10.0.9.101"
[[service.server]]
address = "10.0.9.5"
"""


def plane() -> vf.Dataplane:
    return vf.Dataplane(vf.parse_spec(TOML))


def said(names: Names, name: str, *networks: str, size: int = 0) -> set[str] | None:
    found = names.find(name, networks, size)
    return None if found is None else {format_ip(packed) for packed in found.addresses}


@pytest.mark.parametrize(("name", "addresses"), [
    ("shop", {"10.0.9.100"}),
    ("SHOP", {"10.0.9.100"}),
    ("store", {"10.0.9.100"}),
    ("a.b", {"10.0.9.100"}),
    ("a.b.back", {"10.0.9.100"}),
    ("shop.BACK", {"10.0.9.100"}),
    ("tasks.shop", {"10.0.9.3", "10.0.9.4", "2001:db8:9::3"}),
    ("tasks.STORE.back", {"10.0.9.3", "10.0.9.4", "2001:db8:9::3"}),
    ("rr", {"10.0.9.4", "10.0.9.5"}),
    ("tasks.rr", {"10.0.9.4", "10.0.9.5"}),
    ("both", {"10.0.9.5"}),
    ("shop.1", {"10.0.9.3", "2001:db8:9::3"}),
    ("shop.1.back", {"10.0.9.3", "2001:db8:9::3"}),
    ("492ab67ca079", {"10.0.9.3", "2001:db8:9::3"}),
    ("lone", {"10.0.9.5"}),
    ("shop.Front", None),
    ("tasks.lone", None),
    ("back", None),
    ("nosuch", None),
    ("", None),
    ("." * 200, None),
])  # fmt: skip
def test_names_of_a_network(name: str, addresses: set[str] | None) -> None:
    assert said(Names(plane()), name, "back") == addresses


def test_virtual_addresses_stay_and_tasks_do_not() -> None:
    names = Names(plane())
    fixed = {name: names.find(name, ["back"]).fixed for name in ("shop", "tasks.shop", "rr", "both", "lone")}
    assert fixed == {"shop": True, "tasks.shop": False, "rr": False, "both": False, "lone": False}


def test_the_first_network_that_has_an_address_of_the_family() -> None:
    names = Names(plane())
    assert said(names, "shop", "front", "back") == {"10.0.8.100"}
    assert said(names, "shop.1", "front", "back", size=16) == {"10.0.9.3", "2001:db8:9::3"}
    assert said(names, "shop", "front", "back", size=16) == {"10.0.8.100"}  # known, of the other family
    assert said(names, "shop.front", "front", "back") == {"10.0.8.100"}
    assert said(names, "shop.front", "back") is None


@pytest.mark.parametrize(("port", "address", "networks"), [
    ("front1", "10.0.8.3", ("front", "back")),
    ("front1", "10.0.8.99", ("front",)),  # somebody else behind that port
    ("front2", "10.0.8.4", ("front",)),
    ("secret1", "10.0.7.3", ("back", "secret")),  # what is internal comes last
    ("resolver:back", "10.0.9.253", ("back",)),
    ("underlay", "10.0.9.4", ()),
    ("nosuch", "10.0.9.4", ()),
])  # fmt: skip
def test_networks_of_a_client(port: str, address: str, networks: tuple[str, ...]) -> None:
    assert Names(plane()).networks_of(port, parse_ip(address)) == networks


def test_internal_is_who_is_on_nothing_else() -> None:
    names = Names(plane())
    assert names.internal(["secret"]) and not names.internal(["back", "secret"])


@pytest.mark.parametrize("service", ["shop", "rr", "both"])
def test_drained_is_gone_at_once(service: str) -> None:
    """Of a service that is balanced, and of one that has names alone."""
    node = plane()
    names = Names(node)
    before = said(names, f"tasks.{service}", "back")
    address, port = ("10.0.9.3", 8080) if service == "shop" else ("10.0.9.5", 0)
    node.set_server(service, address, port, weight=0)
    assert said(names, f"tasks.{service}", "back") == before - {address}
    node.set_server(service, address, port, weight=1)
    assert said(names, f"tasks.{service}", "back") == before
    node.remove_server(service, address, port)
    assert said(names, f"tasks.{service}", "back") == before - {address}
    node.add_server(service, ServerSpec(address="10.0.9.77"))
    assert said(names, f"tasks.{service}", "back") == before - {address} | {"10.0.9.77"}


def test_a_drained_task_has_no_name_while_it_serves_nobody() -> None:
    node = plane()
    names = Names(node)
    assert names.pointer(parse_ip("10.0.9.5"), ["back"]) == "lone.back"
    node.set_server("rr", "10.0.9.5", weight=0)
    assert said(names, "lone", "back") == {"10.0.9.5"}  # of another service it is not
    node.set_server("both", "10.0.9.5", weight=0)
    assert said(names, "lone", "back") == set() and names.pointer(parse_ip("10.0.9.5"), ["back"]) is None
    assert said(names, "rr", "back") == {"10.0.9.4"} and said(names, "both", "back") == set()
    swarm = Names(node, empty=False)  # where nobody is left, nobody knows the name
    assert said(swarm, "both", "back") is None and said(swarm, "lone", "back") is None


def test_a_new_spec_is_followed() -> None:
    node = plane()
    names = Names(node)
    assert said(names, "shop", "back") == {"10.0.9.100"}
    spec = node.spec
    node.apply(replace(spec, service=spec.service[1:]))
    assert said(names, "shop", "back") is None and said(names, "rr", "back") == {"10.0.9.4", "10.0.9.5"}
    names.prepare(spec)  # a spec that comes later
    assert said(names, "shop", "back") is None
    node.apply(spec)
    assert said(names, "shop", "back") == {"10.0.9.100"}


@pytest.mark.parametrize(("address", "networks", "name"), [
    ("10.0.9.4", ["back"], "shop.2.back"),
    ("10.0.8.3", ["back", "front"], "shop.1.Front"),
    ("2001:db8:9::3", ["back"], "shop.1.back"),
    ("10.0.9.100", ["back"], None),
    ("10.0.9.1", ["back"], None),
    ("10.0.9.253", ["back"], None),
    ("10.0.8.4", ["front"], None),  # has no name
    ("10.0.9.4", ["front"], None),
])  # fmt: skip
def test_pointers(address: str, networks: list[str], name: str | None) -> None:
    assert Names(plane()).pointer(parse_ip(address), networks) == name


def test_places() -> None:
    names = Names(plane())
    virtual = names.find("shop", ["back"])
    assert names.places("shop", "tcp", 443, ["back"]) == [Place("shop.back", 443, virtual)]
    assert names.places("shop", "tcp", 81, ["back"]) == [] == names.places("shop", "udp", 80, ["back"])
    found = names.places("rr", "tcp", 9, ["back"])
    assert [(place.target, place.port) for place in found] == [("shop.2.back", 9), ("lone.back", 9)]
    assert names.places("nosuch", "tcp", 80, ["back"]) is None is names.places("lone", "tcp", 80, ["back"])


@pytest.mark.parametrize(("name", "mine"), [
    ("shop", True), ("nosuch.back", True), ("x.y.BACK", True), ("back", True), ("tasks.shop", True),
    ("_80._tcp.shop", True), ("shop.2", True), ("a.b", True), ("_dmarc.example.com", False), ("example.com", False),
    ("shop.example.com", False), ("", False), ("back.example", False),
])  # fmt: skip
def test_names_that_are_nobody_elses(name: str, mine: bool) -> None:
    assert Names(plane()).owns(name.split(".")) == mine


@pytest.mark.parametrize(("name", "prefix"), [
    ("3.9.0.10.in-addr.arpa", "10.0.9.3/32"),
    ("9.0.10.IN-ADDR.arpa", "10.0.9.0/24"),
    ("3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.9.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", "2001:db8:9::3/128"),
    ("B.d.0.1.0.0.2.ip6.arpa", "2001:db0::/28"),
    ("in-addr.arpa", None), ("ip6.arpa", None), ("256.9.0.10.in-addr.arpa", None), ("1.2.3.4.5.in-addr.arpa", None),
    ("x.in-addr.arpa", None), ("10.ip6.arpa", None), ("g.ip6.arpa", None), ("²" + ".in-addr.arpa", None),
    ("0001.in-addr.arpa", None), (".in-addr.arpa", None), (".ip6.arpa", None), ("example.com", None),
])  # fmt: skip
def test_reversed_names(name: str, prefix: str | None) -> None:
    found = reversed_prefix(name.split("."))
    assert found == (None if prefix is None else ip_network(prefix))
    if prefix is not None:
        host = prefix.endswith(("/32", "/128"))
        assert address_of(found) == (ip_network(prefix).network_address.packed if host else None)


def test_prefixes_of_our_own() -> None:
    names = Names(plane())
    assert [names.owns_prefix(ip_network(text)) for text in ("10.0.9.7/32", "2001:db8:9::/80", "10.0.0.0/16")] == [
        True, True, False,
    ]  # fmt: skip


# --- the spec ---------------------------------------------------------------------------------------------


def test_as_toml_again() -> None:
    spec = vf.parse_spec(TOML)
    assert vf.parse_spec(to_toml(spec)) == spec


@pytest.mark.parametrize(("old", "new", "says"), [
    ('resolver = "10.0.8.253"', 'resolver = "10.0.8.3"', r"resolver = '10.0.8.3': taken already|ip = '10.0.8.3'"),
    ('resolver = "10.0.8.253"', 'resolver = "10.0.8.1"', "resolver = '10.0.8.1': taken already, by gateway 10.0.8.1"),
    ('resolver = "10.0.8.253"', 'resolver = "10.0.1.1"', "10.0.1.1': an address in a subnet of the network"),
    ('resolver = "10.0.8.253"', 'resolver = "x"', "resolver = 'x': an IPv4 or IPv6 address"),
    ('resolver = "10.0.8.253"', 'resolver = ["10.0.8.9", "10.0.8.9"]', "taken already, by resolver 10.0.8.9"),
    ('resolver = "10.0.8.253"', 'resolver = "10.0.8.100"', "network Front: it is service shop's already"),
    ('resolver = "10.0.8.253"', 'resolver = "10.0.8.9"\nguard = true', "those behind its ports begin nothing"),
    ('resolver = "10.0.8.253"', 'resolver = "10.0.8.9"\nresolver_port = "back1"', "Front and back both have it"),
    ('"2001:db8:9::253"]', '"2001:db8:9::a00:901"]', None),
    ('["10.0.9.253", "2001:db8:9::253"]', '"2001:db8:9::a00:901"', "another has its MAC, which is made of the address"),
    ('name = "lone"', 'name = "lo..ne"', "labels of 1 to 63 ASCII characters"),
    ('aliases = "492ab67ca079"', f'aliases = "{"x" * 64}"', "aliases = 'xxx.*labels of 1 to 63"),
    ('"Store"', '"Störe"', "aliases = 'Störe': labels"),
    ('dns = "dnsrr"', 'dns = "rr"', "dns = 'rr': vip or dnsrr"),
])  # fmt: skip
def test_what_cannot_be(old: str, new: str, says: str | None) -> None:
    assert old in TOML
    if says is None:
        vf.parse_spec(TOML.replace(old, new, 1))
        return
    with pytest.raises(vf.SpecError, match=says):
        vf.parse_spec(TOML.replace(old, new, 1))


def test_the_resolver_is_a_station_of_the_plane() -> None:
    node = plane()
    assert node.spec.ports[-2:] == ("secret1", "resolver:secret") and "resolver:back" in node.ports
    at = {row["mac"]: row["place"] for row in node.stations()}
    assert at["02:42:0a:00:09:fd"] == "resolver:back"
    own = {row["address"]: row["gateway"] for row in node.neighbours()}
    assert own["10.0.9.253"] and own["2001:db8:9::253"]


def test_it_is_not_flooded_and_answers_arp_at_once() -> None:
    node = plane()
    mac = bytes.fromhex("02420a000903")
    arp = bytes.fromhex("0001080006040001") + mac + bytes([10, 0, 9, 3]) + bytes(6) + bytes([10, 0, 9, 253])
    [(port, answer)] = node.offer("back1", b"\xff" * 6 + mac + b"\x08\x06" + arp)
    assert port == "back1" and answer[22:32] == bytes.fromhex("02420a0009fd") + bytes([10, 0, 9, 253])
    sent = node.offer("back1", b"\xff" * 6 + mac + b"\x88\xb5" + bytes(46))
    assert {port for port, _ in sent} == {"back3", "underlay"}
    assert [port for port, _ in node.offer("back1", bytes.fromhex("02420a0009fd") + mac + b"\x88\xb5" + bytes(46))] == [
        "resolver:back"
    ]
    # Nobody else has that address.
    claim = bytes.fromhex("0001080006040002") + mac + bytes([10, 0, 9, 253]) + b"\xff" * 6 + bytes([10, 0, 9, 3])
    assert node.offer("back3", b"\xff" * 6 + mac + b"\x08\x06" + claim) == []


def test_two_networks_of_one_name() -> None:
    text = TOML.replace('"Front"', '"back"')
    with pytest.raises(vf.SpecError, match="port = 'resolver:back': networks back and back both have it"):
        vf.parse_spec(text)
    spec = vf.parse_spec(text.replace('"10.0.8.253"', '"10.0.8.253"\nresolver_port = "dns2"'))
    names = Names(vf.Dataplane(spec))
    assert names.networks_of("front1", parse_ip("10.0.8.3")) == ("back",)
    assert said(names, "shop.1", "back") == {"10.0.8.3", "10.0.9.3", "2001:db8:9::3"}
