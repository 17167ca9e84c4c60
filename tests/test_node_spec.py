"""``node.toml``: what it says becomes a spec, and what is wrong is named: file, key, value and rule."""

from __future__ import annotations

import pytest

import vxlanfast as vf
from tests.support import ROOT
from vxlanfast.network_spec import UNDERLAY

GOOD = """
[node]
name = "n1"
vtep = ["192.0.2.1", "2001:db8::1"]
ageing_s = 120

[[network]]
name = "web"
vni = 4097
subnet = "10.0.9.0/24"
gateway = "10.0.9.1"
proxy = true
unknown_neighbours = "swallow"
flood = "off"

[[network.endpoint]]
port = "veth1"
ip = "10.0.9.3"

[[network.endpoint]]
port = "veth2"

[[network.endpoint]]
vtep = "192.0.2.2"
ip = ["2001:db8:9::4", "10.0.9.4"]
router = true

[[network.peer]]
vtep = "2001:db8::3"
flood = false

[[network]]
name = "db"
vni = 0

[[network.endpoint]]
port = "veth3"
mac = "02-00-00-00-00-03"
"""


def test_everything_said() -> None:
    """Each key where it belongs, defaults where nothing is said."""
    spec = vf.parse_spec(GOOD)
    assert (spec.name, spec.vtep, spec.ageing_s, spec.port) == ("n1", ("192.0.2.1", "2001:db8::1"), 120, 4789)
    assert spec.ports == (UNDERLAY, "veth1", "veth2", "veth3")
    web, db = spec.network
    assert web.members == {"2001:db8::3": False, "192.0.2.2": True} and db.members == {}
    assert [e.address for e in web.endpoint] == [b"\x02\x42\x0a\0\x09\x03", None, b"\x02\x42\x0a\0\x09\x04"]
    assert (web.subnet, web.gateway, web.flood, web.proxy) == (("10.0.9.0/24",), ("10.0.9.1",), "off", True)
    assert (db.flood, db.learned_limit, db.endpoint[0].address) == ("head-end", 8192, b"\2\0\0\0\0\3")
    assert spec.vtep_for("2001:db8::9") == "2001:db8::1"
    plane = vf.Dataplane(spec)
    assert not plane.verify() and plane.spec is spec
    assert {(row["address"], row["gateway"], row["router"]) for row in plane.neighbours()} == {
        ("10.0.9.1", True, False), ("10.0.9.3", False, False), ("10.0.9.4", False, True),
        ("2001:db8:9::4", False, True),
    }  # fmt: skip


SERVICES = """
[[service]]
name = "shop"
scheduler = "wlc"
masquerade = "10.0.9.1"
[[service.virtual]]
network = "web"
address = "10.0.9.100"
protocol = "tcp"
port = "8000-8010"
target = 80
sources = "10.0.0.0/8"
[[service.server]]
address = "10.0.9.3"
weight = 2
[[service]]
name = "dns"
[[service.virtual]]
network = "web"
address = "10.0.9.100"
protocol = "udp"
port = 53
[mesh]
connections = 1000
semantics = "ipvs"
"""


def test_services() -> None:
    """What they are, and back into TOML."""
    spec = vf.parse_spec(GOOD + SERVICES)
    shop, dns = spec.service
    assert (shop.virtual[0].network, shop.virtual[0].ports, shop.virtual[0].sources) == (
        "web", (8000, 8010), ("10.0.0.0/8",)
    )  # fmt: skip
    assert (shop.masquerade, shop.server[0].weight, shop.families) == (("10.0.9.1",), 2, (4,))
    assert (dns.name, dns.virtual[0].port, dns.server, dns.scheduler) == ("dns", 53, (), "rr")
    assert (spec.mesh.connections, spec.mesh.semantics, spec.mesh.udp_s) == (1000, "ipvs", 300)
    assert vf.parse_spec(vf.to_toml(spec)) == spec


@pytest.mark.parametrize(("old", "new", "text"), [
    ('network = "web"', 'network = "wob"', "node.toml: network = 'wob': service shop: there are db, web"),
    ('network = "web"', "network = 1", "node.toml: [[service]] shop: [[virtual]] 1: network = 1: a text"),
    ("port = 53", "port = 0", "[[virtual]] 1: port = 0: a protocol and a port, or neither"),
    ('protocol = "udp"\nport = 53', 'protocol = "tcp"\nport = 8010', "services shop and dns both have tcp"),
    ('"wlc"', '"lblc"', "[[service]] shop: scheduler = 'lblc': rr, wrr"),
    ("weight = 2", "weight = -1", "[[server]] 1: weight = -1: 0 to 65535"),
    ("connections = 1000", "connections = 0", "[mesh]: connections = 0: 1 to"),
])  # fmt: skip
def test_services_that_cannot_be(old: str, new: str, text: str) -> None:
    with pytest.raises(vf.SpecError) as caught:
        vf.parse_spec(GOOD + SERVICES.replace(old, new, 1))
    assert text in str(caught.value)


def test_a_file(tmp_path) -> None:
    """The path begins every error; a missing or binary file is one."""
    path = tmp_path / "node.toml"
    path.write_text(GOOD)
    assert vf.load_spec(path) == vf.parse_spec(GOOD)
    path.write_bytes(b"\xff")
    with pytest.raises(vf.SpecError, match=r"node\.toml: byte 0 is not UTF-8"):
        vf.load_spec(path)
    with pytest.raises(vf.SpecError, match=r"none\.toml: No such file"):
        vf.load_spec(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("vni = 4097", "vni = 16777216", r"\[\[network\]\] web: vni = 16777216: 0 to 16777215"),
        ("ageing_s = 120", "ttl = 0", "x: ttl = 0: 1 to 255"),
        ("ageing_s = 120", "dscp = 64", "x: dscp = 64: 0 to 63, or inherit"),
        ("ageing_s = 120", 'dscp = "copy"', "x: dscp = 'copy': 0 to 63, or inherit"),
        ("ageing_s = 120", 'udp_csum = "maybe"', "x: udp_csum = 'maybe': auto, on or off"),
        ("ageing_s = 120", "seed = -1", "x: seed = -1: 0 to 18446744073709551615"),
        ("ageing_s = 120", "memberships = 0", "x: memberships = 0: 1 to 16777216"),
        ("vni = 4097", "vni = true", "vni = True: a whole number"),
        ("vni = 4097", "vni = 0", "x: vni = 0: networks web and db both have it"),
        ("vni = 4097", "", "web: vni: missing"),
        ('name = "web"', "name = 7", "1: name = 7: a text"),
        ('name = "web"', 'nam = "web"', "1: nam: no such key; there are name, vni"),
        ('"10.0.9.0/24"', '"10.0.9.1/24"', "subnet = '10.0.9.1/24': a prefix without host bits"),
        ('gateway = "10.0.9.1"', 'gateway = "x"', "gateway = 'x': an IPv4 or IPv6 address"),
        ('gateway = "10.0.9.1"', 'gateway_mac = "01:00:00:00:00:01"', "gateway_mac = '01:.*neither zero nor a group's"),
        ('gateway = "10.0.9.1"', "gateway = 5", "gateway = 5: a text, or a list of them"),
        ('gateway = "10.0.9.1"', 'gateway = "10.0.9.3"', "ip = '10.0.9.3': taken already, by gateway 10.0.9.3"),
        ("proxy = true", 'proxy = "yes"', "proxy = 'yes': true or false"),
        ('flood = "off"', 'flood = "all"', "flood = 'all': head-end or off"),
        ('"swallow"', '"drop"', "unknown_neighbours = 'drop': flood or swallow"),
        ('port = "veth1"', 'port = "underlay"', r"web: \[\[endpoint\]\] 1: port = 'underlay': the underlay's own"),
        ('port = "veth1"', 'port = "192.0.2.9"', "port = '192.0.2.9': a name; an address is another VTEP's"),
        ('port = "veth1"', 'port = "veth3"', "port = 'veth3': networks web and db both have it"),
        ('port = "veth1"', "", "either port"),
        ('port = "veth1"', 'port = "veth1"\nvtep = "192.0.2.2"', "either port"),
        ('ip = "10.0.9.3"', 'ip = "2001:db8:9::3"', "a mac, or an IPv4 address to make it of"),
        ('ip = "10.0.9.3"', 'ip = "10.0.9.4"', "ip = '10.0.9.4': taken already, by endpoint 10.0.9.4"),
        ('port = "veth2"', 'port = "veth2"\nmac = "02:42:0a:00:09:03"', "02:42:0a:00:09:03': two endpoints have it"),
        ('"02-00-00-00-00-03"', '"02"', "mac = '02': six pairs of hex digits"),
        ('vtep = "192.0.2.2"', 'vtep = "192.0.2.1"', "vtep = '192.0.2.1': network web: it is this node's own"),
        ("flood = false", '[[network.peer]]\nvtep = "2001:DB8::3"', "given twice"),
        ('["192.0.2.1", "2001:db8::1"]', '"192.0.2.1"', "2001:db8::3': network web: this node has no VTEP address of"),
        ('["192.0.2.1", "2001:db8::1"]', '["192.0.2.1", "192.0.2.9"]', "one address of a family"),
        ("ageing_s = 120", "ageing_s = -1", "ageing_s = -1: 0 to 2147483648"),
        ("ageing_s = 120", "port = 0", "port 0: 1 to 65535"),
        ("ageing_s = 120", "ageing_s = 1.5", "ageing_s = 1.5: a whole number"),
        ("ageing_s = 120", "network = 5", r"\[node\]: network: it stands beside"),
        ("[[network.peer]]", "[network.peer]", r"peer: a table in double brackets for each, \[\[peer\]\]"),
        ("[node]", "node = 5\n[other]", "x: other: no such table"),
        ("[node]", "[node", r"x: .*line 2"),
    ],
)
def test_what_cannot_be(old: str, new: str, text: str) -> None:
    """One line that begins with the file and names the key, the value and the rule."""
    assert old in GOOD
    with pytest.raises(vf.SpecError, match=text) as caught:
        vf.parse_spec(GOOD.replace(old, new, 1), "x")
    assert str(caught.value).startswith("x: ") and "\n" not in str(caught.value)


def test_the_readmes_node() -> None:
    """What the README shows is a node as it stands there."""
    text = (ROOT / "README.md").read_text()
    example = text[text.index("```toml\n") + 8 :]
    spec = vf.parse_spec(example[: example.index("```")])
    assert spec.network[0].members == {"192.0.2.2": True}
    assert vf.Dataplane(spec).ports == {"underlay": 0, "veth1": 1, "resolver:web": 2, "eth0": 3}
    assert [(one.address, one.port, one.weight) for one in spec.service[0].server] == [
        ("10.0.9.3", 8080, 2), ("10.0.9.4", 0, 1)
    ]  # fmt: skip


def test_a_taps_route() -> None:
    """A network's routes are tables, a TAP's is a choice: each is read as what it is where it stands."""
    text = '[node]\nvtep = "192.0.2.1"\n[live]\n[[live.tap]]\nport = "p"\nroute = true\n'
    text += '[[network]]\nname = "w"\nvni = 1\nsubnet = "10.0.9.0/24"\ngateway = "10.0.9.1"\n'
    text += '[[network.endpoint]]\nport = "p"\nip = "10.0.9.2"\n[[network.route]]\nto = "0.0.0.0/0"\nvia = "10.0.9.2"\n'
    spec = vf.parse_spec(text)
    assert spec.live.tap[0].route and spec.network[0].route[0].via == "10.0.9.2"
    assert vf.parse_spec(vf.to_toml(spec)) == spec
