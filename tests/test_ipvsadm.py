"""Services and connections as ipvsadm prints them: beside what it printed of a kernel that had the same traffic."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import vxlanfast as vf
from tests.ipvs import Trace, traces
from tests.mesh import ACK, CLIENT, PSH, SERVER, VIP, Director, S, client, establish, server, service, talks, udp
from tests.support import vxlanfast
from tests.test_ipvs_traces import drawn_ports, whole_checksums, with_port
from vxlanfast import ipvsadm
from vxlanfast.service_spec import ServerSpec

FOLDER = traces()
needs_traces = pytest.mark.skipif(FOLDER is None, reason="the traces of a kernel's IPVS are not here")

EXPIRE = re.compile(r"^(\w+) (\d+):(\d\d) (.*)$")


def trace(name: str) -> tuple[Trace, Callable[[bytes], bytes]]:
    """A trace, and what is to be done to its servers' frames so that they answer ours (see ``test_ipvs_traces``)."""
    assert FOLDER is not None
    one = Trace(FOLDER / name)
    if name == "swarm":
        return one, partial(with_port, ports=drawn_ports(one, one.replay()[1]))
    return one, whole_checksums if name == "icmp6_offload" else bytes


PLACE = "TCP  10.0.0.100:8080"
PLACES = "  +  TCP  10.0.0.100:8090\n  +  UDP  10.0.0.100:8080\n  +  UDP  10.0.0.100:8090\n"


def kernels(lines: list[str], name: str) -> str:
    """What was printed of a kernel. Swarm's firewall mark is several places here."""
    text = "".join(f"{line}\n" for line in lines)
    if name != "swarm":
        return text
    text = text.replace("FWM  257".ljust(33), PLACE.ljust(33)).replace("FWM  257", PLACE)
    return re.sub(f"^{PLACE}.*\n", lambda found: found[0] + PLACES, text, flags=re.MULTILINE)


@needs_traces
@pytest.mark.parametrize("name", ["rr5", "swarm", "icmp6_offload"])
def test_tables_as_of_a_kernel(name: str) -> None:
    """Byte for byte; the connection table in another order, and at the second at which it was printed."""
    one, change = trace(name)
    plane, _ = one.replay(change)
    assert ipvsadm.services_text(plane) == kernels(one.dump("ipvsadm -Ln"), name)
    assert ipvsadm.services_thresholds(plane) == kernels(one.dump("ipvsadm -Ln --thresholds"), name)
    assert ipvsadm.timeout_text(plane) == kernels(one.dump("ipvsadm -Ln --timeout"), name)
    theirs = one.dump("ipvsadm -Lnc")
    ours = ipvsadm.connections_text(plane).splitlines()
    assert ours[:2] == theirs[:2]
    assert Counter(told(line)[1] for line in ours[2:]) == Counter(told(line)[1] for line in theirs[2:])
    left = {place: seconds for seconds, place in map(told, ours[2:])}
    late = {left[place] - seconds for seconds, place in map(told, theirs[2:])}
    assert max(late) - min(late) <= 1 and min(late) >= 0


def told(line: str) -> tuple[int, str]:
    """Seconds, and everything else."""
    found = EXPIRE.match(line)
    assert found is not None, line
    return int(found[2]) * 60 + int(found[3]), f"{found[1]} {found[4]}"


@needs_traces
@pytest.mark.parametrize("name", ["rr5", "swarm", "icmp6_offload"])
def test_stats_as_of_a_kernel(name: str) -> None:
    """Every line of it is one of ours at the moment at which the kernel added up (see ``test_ipvs_traces``)."""
    one, change = trace(name)
    want = set(kernels(one.dump("ipvsadm -Ln --stats"), name).splitlines())
    none = {line for line in want if line.endswith(5 * "        0")}  # of a server that came after that moment
    plane = vf.Dataplane(one.spec())
    assert any(want - none <= set(ipvsadm.services_stats(plane).splitlines()) for _ in one.steps(plane, change))


def test_connections_of_every_kind() -> None:
    """Clients that are held to a server have an entry without a port, as IPVS shows its templates."""
    director = Director(
        service(persistent_s=300, persistent4=24, servers=(ServerSpec(address="10.0.9.2", port=8080),)),
        service("dns", protocol="udp", port=53, masq=True),
    )  # fmt: skip
    establish(director, talks(1), S)
    director.send(CLIENT, [udp(CLIENT, client(9), 53, VIP, 53)], 2 * S)
    lines = ipvsadm.connections_text(director.plane).splitlines()
    assert sorted(lines[2:]) == [
        "TCP 04:59  NONE        100.64.0.0:0       203.0.113.10:80    10.0.9.2:8080",
        "TCP 14:59  ESTABLISHED 100.64.0.0:10000   203.0.113.10:80    10.0.9.2:8080",
        "UDP 05:00  UDP         100.64.0.9:53      203.0.113.10:53    10.0.9.2:53",
    ]
    rows = {(row["protocol"], row["kind"]): row for row in director.plane.connections()}
    assert rows.keys() == {("TCP", "affinity"), ("TCP", "service"), ("UDP", "service")}
    assert rows["UDP", "service"]["masquerade"] == "10.0.9.1" and rows["TCP", "service"]["masquerade"] is None
    assert len(list(director.plane.connections(301 * S))) == 2 and not list(director.plane.connections(902 * S))


@pytest.mark.parametrize("semantics", ["fixed", "ipvs"])
def test_what_removed_servers_carry(semantics: str) -> None:
    """While they drain, their service counts it; IPVS does not. One that comes back has what it had."""
    director = Director(service(servers=(2, 3), removal="drain"), semantics=semantics)
    some = talks(2)
    establish(director, some, S)
    [before] = director.plane.services()
    mine = [talk for talk in some if talk.at[0] == server(2)]
    assert before["in_packets"] == 4 and before["out_packets"] == 2 and before["in_bytes"] == 160 and len(mine) == 1
    director.plane.remove_server("web", "10.0.9.2")
    [removed] = director.plane.services()
    assert {key: removed[key] for key in before if key != "servers"} == {
        key: before[key] for key in before if key != "servers"
    }  # fmt: skip
    director.send(SERVER, [mine[0].down(PSH | ACK, b"12345678")], S)
    [after] = director.plane.services()
    more = (1, 48) if semantics == "fixed" else (0, 0)
    assert (after["out_packets"] - 2, after["out_bytes"] - before["out_bytes"]) == more
    director.plane.add_server("web", ServerSpec(address="10.0.9.2"))
    [again] = director.plane.services()
    figures = ("in_packets", "out_packets", "in_bytes", "out_bytes")
    assert [again[key] for key in figures] == [after[key] for key in figures]
    assert director.serving()["10.0.9.2"]["in_packets"] == 2


def test_large_figures() -> None:
    """As ipvsadm shortens them: never more than eight digits and a letter."""
    figures = {
        0: "0", 99_999_999: "99999999", 100_000_000: "100000K", 999_999_999: "999999K", 1_000_000_000: "1000M",
        99_999_999_999: "99999M", 100_000_000_000: "100G", 10**14 - 1: "99999G", 10**14: "100T", 2**64 - 1: "18446744T",
    }  # fmt: skip
    assert {number: ipvsadm.large(number).strip() for number in figures} == figures
    assert {len(ipvsadm.large(number)) for number in figures} == {9}


NODE = """
[node]
vtep = "192.0.2.1"
[[network]]
name = "web"
vni = 42
subnet = ["10.0.9.0/24", "2001:db8:9::/64"]
gateway = ["10.0.9.1", "2001:db8:9::1"]
[[network.endpoint]]
port = "veth1"
ip = "10.0.9.3"
[[service]]
name = "shop"
scheduler = "sh"
with_port = true
persistent_s = 300
persistent4 = 24
[[service.virtual]]
network = "web"
address = "10.0.9.100"
protocol = "tcp"
port = "8000-8010"
[[service.virtual]]
network = "web"
address = "2001:db8:9::100"
protocol = "sctp"
port = 9
[[service.server]]
address = "10.0.9.10"
port = 80
weight = 3
upper = 10
lower = 5
[[service.server]]
address = "10.0.9.9"
port = 80
[[service.server]]
address = "2001:db8:9::9"
[[service]]
name = "all"
[[service.virtual]]
network = "web"
address = "10.0.9.101"
"""

LISTED = """\
IP Virtual Server version 1.2.1 (size=1048576)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
ANY  10.0.9.101:0 rr
TCP  10.0.9.100:8000-8010 sh (sh-port) persistent 300 mask 255.255.255.0
  -> 10.0.9.9:80                  Masq    1      0          0         
  -> 10.0.9.10:80                 Masq    3      0          0         
SCTP [2001:db8:9::100]:9 sh (sh-port) persistent 300
  -> [2001:db8:9::9]:0            Masq    1      0          0         
"""  # noqa: W291

THRESHOLDS = """\
  -> 10.0.9.9:80                  0          0          0          0         
  -> 10.0.9.10:80                 10         5          0          0         
"""  # noqa: W291


def test_services_of_a_node() -> None:
    """Flags, persistence, ranges, and both families of one service."""
    plane = vf.Dataplane(vf.parse_spec(NODE))
    assert ipvsadm.services_text(plane) == LISTED
    assert THRESHOLDS in ipvsadm.services_thresholds(plane)
    assert "\n  -> [2001:db8:9::9]:0                   0        0" in ipvsadm.services_stats(plane)


def test_on_the_command_line(tmp_path: Path) -> None:
    """``--show`` prints them at the end, or as JSON."""
    (tmp_path / "node.toml").write_text(NODE)
    (tmp_path / "in.pcap").write_bytes(bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000"))
    given = "replay", tmp_path / "in.pcap", "-c", tmp_path / "node.toml", "-q", "--show"
    assert vxlanfast(*given, "services").stdout.decode() == LISTED
    shown = vxlanfast(*given, "services:stats,connections,timeouts").stdout.decode()
    assert [line for line in shown.splitlines() if line[0] == "#"] == [
        "# services:stats", "# connections", "# timeouts"
    ]  # fmt: skip
    assert shown.endswith("destination\n# timeouts\nTimeout (tcp tcpfin udp): 900 120 300\n")
    [every, shop, shop6] = json.loads(vxlanfast(*given, "services", "-j").stdout)
    assert (every["name"], shop["name"], shop6["name"]) == ("all", "shop", "shop")
    assert shop["virtual"][0] == {
        "domain": "web", "address": "10.0.9.100", "protocol": "tcp", "port": 8000, "last": 8010, "target": 0
    }  # fmt: skip
    assert shop["flags"] == ["sh-port"] and (shop["persistent_s"], shop["mask"]) == (300, "255.255.255.0")
    assert [(one["address"], one["weight"], one["forward"]) for one in shop["servers"]] == [
        ("10.0.9.9", 1, "masq"), ("10.0.9.10", 3, "masq")
    ]  # fmt: skip
    assert json.loads(vxlanfast(*given, "connections,timeouts", "-j").stdout) == {
        "connections": [], "timeouts": {"tcp_s": 900, "fin_s": 120, "udp_s": 300}
    }  # fmt: skip
