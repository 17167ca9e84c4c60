"""Services out of ipvsadm's rules, and back: what a kernel's ipvsadm saved, what traces were configured with, and what
somebody forged."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import vxlanfast as vf
from tests.ipvs import Trace, traces
from tests.oracle.machine import Machine
from vxlanfast import ipvsadm
from vxlanfast.ipvsadm_rules import services_from_ipvsadm, to_ipvsadm
from vxlanfast.service_spec import SCHEDULERS, MeshSpec, ServerSpec, ServiceSpec, VirtualSpec

FOLDER = traces()
GUEST = Path(__file__).parent / "oracle" / "ipvsadm_guest.py"

#: What ``ipvsadm -Sn`` (1.31, Linux 6.1) printed, and what it printed without -n of some of it.
SAVED = """\
-A -f -1 -s rr
-A -t 192.0.2.100:0 -s dh -p 77
-a -t 192.0.2.100:0 -r 10.0.9.1:0 -m -w 1
-A -t 192.0.2.100:80 -s rr
-a -t 192.0.2.100:80 -r 10.0.9.1:8080 -m -w 3
-a -t 192.0.2.100:80 -r 10.0.9.9:80 -m -w 0
-a -t 192.0.2.100:80 -r 10.0.9.9:8080 -m -w 1
-a -t 192.0.2.100:80 -r 10.0.9.10:8080 -m -w 65535
-A -t 192.0.2.100:443 -s wlc -p 360
-A -t 192.0.2.101:8080 -s sh -b sh-port
-A -t 192.0.2.101:8081 -s sh -b sh-fallback,sh-port
-A -t 192.0.2.101:8082 -s mh -b mh-fallback,mh-port
-A -t 192.0.2.101:8083 -s mh -b mh-fallback
-A -t 192.0.2.101:8084 -s sh -p 50 -M 255.255.255.0 -b sh-port
-A --sctp-service 192.0.2.100:9 -s lc
-A -t [2001:db8::100]:80 -s sed -p 600 -M 64
-a -t [2001:db8::100]:80 -r [2001:db8:1::1]:8080 -m -w 1
-A -t [2001:db8::100]:81 -s sed -p 600
-A -t [2001:db8:2:3:4:5:6:7777]:65535 -s nq
-A -f 257 -s rr
-a -f 257 -r 10.0.9.1:0 -m -w 1
-a -f 257 -r 10.0.9.2:0 -m -w 1
-A -f 258 -6 -s rr -p 100 -M 120
-a -f 258 -6 -r [2001:db8:1::1]:0 -m -w 1
"""
NAMED = """\
-A -t 192.0.2.100:http -s rr
-a -t 192.0.2.100:http -r 10.0.9.1:http-alt -m -w 3
-A -u 192.0.2.100:domain -s wrr
-A -t [2001:db8::100]:http -s sed
"""


def place(address: str, port: int = 53) -> VirtualSpec:
    return VirtualSpec(network="web", address=address, protocol="udp", port=port)


MARKS = {
    257: (place("192.0.2.102"), place("192.0.2.102", 54), place("2001:db8::102")),
    258: (place("192.0.2.103"), place("2001:db8::103")),
    0xFFFFFFFF: (place("192.0.2.104"),),
}


def read(text: str | bytes) -> tuple[ServiceSpec, ...]:
    return services_from_ipvsadm(text, network="web", servers_in="tasks", marks=MARKS)


def test_what_a_kernel_saved() -> None:
    """It becomes services, and they the same text again."""
    services = read(SAVED)
    named = {service.name: service for service in services}
    assert len(services) == SAVED.count("-A ")
    http = named["tcp 192.0.2.100:80"]
    assert [(one.address, one.port, one.weight) for one in http.server] == [
        ("10.0.9.1", 8080, 3), ("10.0.9.9", 80, 0), ("10.0.9.9", 8080, 1), ("10.0.9.10", 8080, 65535)
    ]  # fmt: skip
    assert http.virtual[0] == VirtualSpec(network="web", address="192.0.2.100", protocol="tcp", port=80)
    assert {service.servers_in for service in services} == {"tasks"}
    masked = named["tcp 192.0.2.101:8084"]
    assert (masked.scheduler, masked.with_port, masked.fallback) == ("sh", True, False)
    assert (masked.persistent_s, masked.persistent4, masked.persistent6) == (50, 24, 128)
    assert named["tcp [2001:db8::100]:80"].persistent6 == 64
    assert named["sctp 192.0.2.100:9"].virtual[0].protocol == "sctp"
    assert named["tcp 192.0.2.100:0"].virtual[0].ports == (1, 65535)
    assert named["fwm 257"].virtual == MARKS[257][:2] and named["fwm 258 ipv6"].virtual == MARKS[258][1:]
    marks = {name: int(name.split()[1]) for name in named if name.startswith("fwm")}
    assert to_ipvsadm(services, marks=marks) == SAVED
    assert to_ipvsadm(reversed(services), marks=marks) == SAVED  # the order is ipvsadm's
    vf.Dataplane(node(services))


def node(services: tuple[ServiceSpec, ...]) -> vf.NodeSpec:
    network = {"gateway_mac": "02:00:00:00:00:01", "domain": "all"}
    web = vf.NetworkSpec(name="web", vni=1, gateway=("192.0.2.1",), subnet=("192.0.2.0/24", "2001:db8::/64"), **network)
    tasks = vf.NetworkSpec(name="tasks", vni=2, gateway=("10.0.9.254",), subnet=("10.0.9.0/24",), **network)
    return vf.NodeSpec(
        vtep=("198.51.100.1",), network=(web, tasks), service=services, mesh=MeshSpec(connections=4096)
    )  # fmt: skip


def test_ports_by_name() -> None:
    """``ipvsadm -S`` without -n."""
    try:
        socket.getservbyname("domain", "udp")
    except OSError:
        pytest.skip("this host has no names of ports: no /etc/services (netbase)")
    assert to_ipvsadm(read(NAMED)) == (
        "-A -t 192.0.2.100:80 -s rr\n-a -t 192.0.2.100:80 -r 10.0.9.1:8080 -m -w 3\n-A -u 192.0.2.100:53 -s wrr\n"
        "-A -t [2001:db8::100]:80 -s sed\n"
    )


def test_commands() -> None:
    """As a script has them: what is edited and deleted as well, long options, comments, and an order of its own."""
    text = """\
    # the shop
    ipvsadm -C
    ipvsadm --add-service --tcp-service 192.0.2.1:80 --persistent --sched-flags=sh-port --scheduler sh
    -A -u 192.0.2.1:53 -s rr
    -a -m -w 5 -r 10.0.9.1 -t 192.0.2.1:80
    -a -t 192.0.2.1:80 -r 10.0.9.2:81 -m -x 10 -y 5
    -a -t 192.0.2.1:80 -r 10.0.9.3 -m

    ipvsadm -e -t 192.0.2.1:80 -r 10.0.9.1:80 -m -w 0
    -d -t 192.0.2.1:80 -r 10.0.9.3:80
    -E -t 192.0.2.1:80
    -D -u 192.0.2.1:53
    """
    [shop] = read(text.encode())
    assert (shop.scheduler, shop.with_port, shop.persistent_s) == ("wlc", False, 0)  # as if said for the first time
    assert shop.server == (
        ServerSpec(address="10.0.9.1", port=80, weight=0), ServerSpec(address="10.0.9.2", port=81, upper=10, lower=5)
    )  # fmt: skip
    # ipvsadm itself does not save thresholds.
    assert to_ipvsadm([shop]).splitlines()[-1] == "-a -t 192.0.2.1:80 -r 10.0.9.2:81 -m -w 1 -x 10 -y 5"
    assert read("") == read("\n\r\n") == ()


@pytest.mark.skipif(FOLDER is None, reason="the traces of a kernel's IPVS are not here")
@pytest.mark.parametrize("name", ["rr5", "swarm", "icmp6_offload", "tcpstates"])
def test_what_traces_were_configured_with(name: str) -> None:
    """Every command of ipvsadm that a kernel obeyed, in order, gives the services that it listed at the end."""
    assert FOLDER is not None
    one = Trace(FOLDER / name)
    commands = [event["cmd"] for event in one.events if event.get("cmd", "").startswith("ipvsadm")]
    marks = {257: one.spec().service[0].virtual} if name == "swarm" else {}
    services = services_from_ipvsadm("\n".join(commands), network="client", servers_in="server", marks=marks)
    listed = [line.split() for line in one.dump("ipvsadm -Ln")[3:]]
    rules = [line.split() for line in to_ipvsadm(services, marks={"fwm 257": 257}).splitlines()]
    assert len(rules) == len(listed) > len(services)
    options = {"TCP": "-t", "UDP": "-u", "FWM": "-f"}
    for line, rule in zip(listed, rules, strict=True):
        if line[0] == "->":
            assert rule[0] == "-a" and (line[1], line[3]) == (rule[4], rule[7])
        else:
            assert rule == ["-A", options[line[0]], line[1], "-s", line[2]]


#: A line behind a service of TCP and of UDP, with a server each, and what is wrong with it.
WRONG = [
    ("-a -t 192.0.2.1:80 -r 10.0.9.7:80 -g", "-g: direct routing"),
    ("-a -t 192.0.2.1:80 -r 10.0.9.7:80", "no -m: direct routing"),
    ("-a -t 192.0.2.1:80 -r 10.0.9.7:80 -i -w 1 --tun-type gue", "-i: tunnelling"),
    ("-a -t 192.0.2.1:80 -r 10.0.9.7:80 -m --tun-csum", "'--tun-csum': an option that services of a node do not have"),
    ("-a -t 192.0.2.1:80 -r 10.0.9.7:80 -m -w 70000", "weight = 70000: 0 to 65535"),
    ("-a -t 192.0.2.1:80 -r 10.0.9.7:80 -m -w -1", "-w '-1': a whole number, 0 to 2147483647"),
    ("-a -t 192.0.2.1:80 -r 10.0.9.7:80 -m -w", "-w: a value is missing"),
    ("-a -t 192.0.2.1:80 -r 10.0.9.7:80 -m -x 5 -y 9", "lower = 9: 0 to 5"),
    ("-a -t 192.0.2.1:80 -r 10.0.9.7:80 -m -m", "-m: given twice"),
    ("-a -t 192.0.2.1:80 -r 10.0.9.7:80 --masquerading=yes", "--masquerading: takes no value"),
    ("-a -t 192.0.2.1:80 -r 10.0.9.1:80 -m", "-r 10.0.9.1:80: it is there already"),
    ("-e -t 192.0.2.1:80 -r 10.0.9.2:80 -m", "-r 10.0.9.2:80: no such server"),
    ("-d -t 192.0.2.1:80 -r 10.0.9.2:80", "-r 10.0.9.2:80: no such server"),
    ("-d -t 192.0.2.1:80", "-r: missing"),
    ("-a -t 192.0.2.1:80 -r [2001:db8::1]:80 -m", "-r '[2001:db8::1]:80': of the service's family, IPv4"),
    ("-a -t 192.0.2.1:81 -r 10.0.9.7:80 -m", "-t 192.0.2.1:81: there is no such service"),
    ("-E -u 192.0.2.1:80", "-u 192.0.2.1:80: there is no such service"),
    ("-A -t 192.0.2.1:80", "-t 192.0.2.1:80: it is there already"),
    ("-A -t 192.0.2.9:80 -u 192.0.2.9:80", "one of -t, -u, --sctp-service and -f says which service"),
    ("-A", "one of -t, -u, --sctp-service and -f says which service"),
    ("-A -t", "-t: a value is missing"),
    ("-A -t 192.0.2.9", "port 0: a service of all ports is persistent, with -p"),
    ("-A -t www.example.com:80", "-t 'www.example.com': an address; ipvsadm -Sn has no names of hosts"),
    ("-A -t [192.0.2.9:80", "an address and a port, such as [2001:db8::1]:80"),
    ("-A -t 192.0.2.9:99999", "-t '99999': a whole number, 0 to 65535"),
    ("-A -t 192.0.2.9:nobody-knows-it", "port 'nobody-knows-it': a number, or a name that this host knows"),
    ("-A -t 192.0.2.9:80 -6", "-6: it is of -f"),
    ("-A -t 192.0.2.9:80 -s lblc", "scheduler = 'lblc': rr, wrr"),
    ("-A -t 192.0.2.9:80 -s rr -b flag-1", "-b 'flag-1': only sh and mh have flags"),
    ("-A -t 192.0.2.9:80 -s sh -b sh-port,mh-port", "-b 'mh-port': sh-fallback, sh-port"),
    ("-A -t 192.0.2.9:80 -p 9999999", "-p '9999999': a whole number, 0 to 2678400"),
    ("-A -t 192.0.2.9:80 -p 9 -M 255.0.255.0", "-M '255.0.255.0': a mask such as 255.255.255.0"),
    ("-A -t 192.0.2.9:80 -p 9 -M 0.0.0.255", "-M '0.0.0.255': a mask"),
    ("-A -t [2001:db8::9]:80 -p 9 -M 129", "-M '129': a whole number, 0 to 128"),
    ("-A -u 192.0.2.9:80 -o", "-o: one-packet scheduling"),
    ("-A -u 192.0.2.9:80 --ops", "--ops: one-packet scheduling"),
    ("-A -u 192.0.2.9:80 --pe sip", "--pe: a node has no persistence engines"),
    ("-A -f 0", "-f 0: 1 to 4294967295"),
    ("-A -f 259", "fwm 259: what IPv4 has this firewall mark is not said; give it as marks"),
    ("-A -f 4294967295 -6", "fwm 4294967295 ipv6: what IPv6 has"),
    ("-Z", "'-Z': a command that says nothing of services"),
    ("--set 900 120 300", "'--set': a command"),
    ("x" * 10_000, "xxx…: a command"),
]
BEFORE = """\
-A -t 192.0.2.1:80
-A -u 192.0.2.1:53
-a -t 192.0.2.1:80 -r 10.0.9.1:80 -m
-a -u 192.0.2.1:53 -r 10.0.9.1 -m
"""


@pytest.mark.parametrize(("line", "text"), WRONG, ids=[line[:50] for line, _ in WRONG])
def test_lines_that_cannot_be(line: str, text: str) -> None:
    with pytest.raises(vf.SpecError) as caught:
        read(BEFORE + line)
    said = str(caught.value)
    assert said.startswith("ipvsadm: line 5: ") and text in said and "\n" not in said and len(said) < 200


def test_other_errors() -> None:
    for text, said in (
        (b"-A -t 192.0.2.1:80\n\xff", "ipvsadm: byte 19 is not UTF-8"),
        ("-A -f 257\n-A -u 192.0.2.102:53", "ipvsadm: services fwm 257 and udp 192.0.2.102:53 both have udp"),
    ):
        with pytest.raises(vf.SpecError, match=said):
            read(text)


VIRTUAL = VirtualSpec(network="web", address="192.0.2.1", protocol="tcp", port=80)
ONE = ServiceSpec(name="shop", virtual=(VIRTUAL,))


@pytest.mark.parametrize(("service", "text"), [
    (replace(ONE, masquerade=("192.0.2.9",)), "masquerade: ipvsadm has no word for it"),
    (replace(ONE, udp_s=9), "udp_s: ipvsadm has no word for it"),
    (replace(ONE, removal="reset"), "removal: ipvsadm has no word for it"),
    (replace(ONE, virtual=()), "virtual: missing"),
    (replace(ONE, virtual=(replace(VIRTUAL, target=8080),)), "target: ipvsadm has no word for it; servers have ports"),
    (replace(ONE, virtual=(replace(VIRTUAL, port="80-81"),)), "not one port of a protocol for anybody"),
    (replace(ONE, virtual=(replace(VIRTUAL, port="1-65535"),)), "not one port of a protocol for anybody"),
    (replace(ONE, virtual=(replace(VIRTUAL, sources=("10.0.0.0/8",)),)), "not one port of a protocol for anybody"),
    (replace(ONE, virtual=(VIRTUAL, replace(VIRTUAL, port=81))), "ipvsadm needs a firewall mark; give marks"),
    (replace(ONE, virtual=(VirtualSpec(network="web", address="192.0.2.1"),)), "ipvsadm needs a firewall mark"),
    (replace(ONE, scheduler="dh", with_port=True), "fallback, with_port: dh has no flags"),
])  # fmt: skip
def test_what_ipvsadm_has_no_word_for(service: ServiceSpec, text: str) -> None:
    with pytest.raises(vf.SpecError, match=f"service shop: .*{text}"):
        to_ipvsadm([service])


def test_firewall_marks() -> None:
    """Whatever has one is not part of the text; a service of both families is two."""
    both = replace(ONE, virtual=(VIRTUAL, replace(VIRTUAL, port="8000-9000"), replace(VIRTUAL, address="2001:db8::1")))
    both = replace(both, server=(ServerSpec(address="10.0.9.1"), ServerSpec(address="2001:db8:1::1", port=80)))
    assert to_ipvsadm([both], marks={"shop": 0x80000000}) == (
        "-A -f -2147483648 -s rr\n-a -f -2147483648 -r 10.0.9.1:0 -m -w 1\n"
        "-A -f -2147483648 -6 -s rr\n-a -f -2147483648 -6 -r [2001:db8:1::1]:80 -m -w 1\n"
    )
    again = services_from_ipvsadm(to_ipvsadm([both], marks={"shop": 7}), network="web", marks={7: both.virtual})
    assert [(one.virtual, one.server) for one in again] == [
        (both.virtual[:2], both.server[:1]), (both.virtual[2:], both.server[1:])
    ]  # fmt: skip
    wrong = ({"shop": 0}, "service shop: mark 0: 1 to 4294967295"), ({"shop": 7, "too": 7}, "that as well")
    for marks, text in wrong:
        with pytest.raises(vf.SpecError, match=text):
            to_ipvsadm([both, replace(both, name="too")], marks=marks)


@given(st.text(alphabet="-AaEeDdtufrmwpsMbox6 []:.0123456789\n=,\x00é") | st.text())
@example("-A -t 192.0.2.1:\x00 -s rr")
@example("-A -t 192.0.2.1:１")
@example("-A -f " + "9" * 5000)
@example("\ud800")
def test_whatever_stands_there(text: str) -> None:
    """Services, or one line of error; and services are the same when written and read again."""
    try:
        services = read(text)
    except vf.SpecError as error:
        assert "\n" not in str(error) and len(str(error)) < 300
        return
    marks = {one.name: int(one.name.split()[1]) for one in services if one.name.startswith("fwm")}
    assert sorted(read(to_ipvsadm(services, marks=marks)), key=lambda one: one.name) == sorted(
        services, key=lambda one: one.name
    )


def services_by(chance: random.Random) -> Iterator[ServiceSpec]:
    """Services of every kind that both have, each at a place of its own."""
    for number in range(120):
        six = chance.random() < 0.5
        scheduler = chance.choice(SCHEDULERS)
        flags = scheduler in ("sh", "mh")
        address = f"2001:db8::{chance.randrange(1, 0x7FFF):x}" if six else f"192.0.2.{chance.randrange(2, 254)}"
        protocol = chance.choice(["tcp", "udp", "sctp"])
        persistent_s = chance.choice([0, 0, 1, 300, 31 * 86400])
        mask = chance.randrange(1, 129 if six else 33) if persistent_s else (128 if six else 32)
        port = "1-65535" if number > 110 and persistent_s else chance.randrange(1, 65536)
        servers = {chance.randrange(1, 255): chance.choice([0, 80, 65535]) for _ in range(chance.randrange(5))}
        yield ServiceSpec(
            name=f"s{number}", scheduler=scheduler, fallback=flags and chance.random() < 0.5,
            with_port=flags and chance.random() < 0.5, persistent_s=persistent_s,
            **{"persistent6" if six else "persistent4": mask}, servers_in="tasks",
            virtual=(VirtualSpec(network="web", address=address, protocol=protocol, port=port),),
            server=tuple(
                ServerSpec(
                    address=f"2001:db8:1::{host:x}" if six else f"10.0.9.{host}", port=target,
                    weight=chance.choice([0, 1, 100, 65535]), upper=(upper := chance.choice([0, 0, 9, 100000])),
                    lower=chance.randrange(upper + 1),
                )
                for host, target in servers.items()
            ),
        )  # fmt: skip


@pytest.mark.slow
def test_a_kernel_takes_the_rules(tmp_path: Path) -> None:
    """ipvsadm restores what we wrote, saves the same (but for thresholds, which it forgets), and lists what we list."""
    machine = Machine(tmp_path / "machine")
    services = tuple(services_by(random.Random(7)))
    rules = to_ipvsadm(services)
    (machine.out / "rules").write_text(rules)
    said = machine.run(GUEST, "/mnt/rules", "/mnt/answers.json", machine.modules)
    answers = json.loads((machine.out / "answers.json").read_text())
    forgotten = [replace(one, server=tuple(replace(s, upper=0, lower=0) for s in one.server)) for one in services]
    assert answers["-Sn"] == to_ipvsadm(forgotten), said
    plane = vf.Dataplane(node(services))
    assert answers["-Ln"] == ipvsadm.services_text(plane)
    assert answers["-Ln --stats"] == ipvsadm.services_stats(plane)
    assert answers["-Ln --thresholds"] == ipvsadm.services_thresholds(plane)
    assert answers["-Ln --timeout"] == ipvsadm.timeout_text(plane)
    assert answers["-Lnc"] == ipvsadm.connections_text(plane)
