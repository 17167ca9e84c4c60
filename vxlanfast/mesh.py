"""Services and connections of a plane: what lives on when its spec is applied anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from secrets import randbits
from typing import Any

from vxlanfast._ext.node.mesh import Mesh
from vxlanfast._ext.table.conn import ConnTable
from vxlanfast._ext.table.dest import DestTable
from vxlanfast._ext.table.net import NetTable
from vxlanfast._ext.table.sctpstate import NAMES as SCTP_NAMES
from vxlanfast._ext.table.service import ServiceTable
from vxlanfast._ext.table.tcpstate import NAMES as TCP_NAMES
from vxlanfast.addr import format_ip, parse_ip
from vxlanfast.errors import SpecError, TableFullError
from vxlanfast.ipvsadm_rules import host_port
from vxlanfast.node_spec import NodeSpec
from vxlanfast.service_spec import PROTOCOLS, Candidate, Flow, MeshSpec, SchedulerFunction, ServerSpec, ServiceSpec

#: How connections of other protocols than TCP are called, as ipvsadm does.
_PROTOCOLS = {6: "TCP", 17: "UDP", 132: "SCTP", 1: "ICMP", 58: "ICMPv6", 33: "DCCP", 136: "UDPL"}
DOMAINS_MAX = 65534
_STATES = {PROTOCOLS["tcp"]: TCP_NAMES, PROTOCOLS["sctp"]: SCTP_NAMES}
_NAMES = {proto: (name, _STATES.get(proto, ())) for proto, name in _PROTOCOLS.items()}
#: A flag of connections, and what marks a template's protocol.
_RETURN = 128
_TEMPLATE_PROTO = 0x80
#: Where packets of either direction come from and go to, rewritten: keys of a connection's row.
_FORTH = ("masq", "mport", "address", "port")
_BACK = ("virtual", "vport", "client", "cport")


def family_of(text: str) -> int:
    """4 or 6."""
    return 4 if len(parse_ip(text)) == 4 else 6


@dataclass(frozen=True, slots=True)
class Translation:
    """What became of a packet by its connection, or by a service.

    ``service``, ``server``: a name, and an address with a port. ``connection``: its number; ``opened``: by this packet,
    whose server was given ``by`` a scheduler or by "affinity". ``before``, ``after``: source and destination with
    their ports, as it came and as it goes on; ``after`` is None where nothing is rewritten or known.
    """

    service: str | None
    server: str | None
    connection: int | None
    opened: bool
    by: str | None
    before: str
    after: str | None

    def __str__(self) -> str:
        server = f"{self.by} gives it to {self.server}" if self.by else self.server
        who = ": ".join(word for word in (self.service, server) if word)
        number = None if self.connection is None else f"{'as' if self.opened else 'of'} connection {self.connection}"
        told = ", ".join(word for word in (who, number) if word)
        rewritten = f"{self.before} becomes {self.after}" if self.after else self.before
        return f"{told}; {rewritten}" if told else rewritten


def _ends(src: bytes, sport: int, dst: bytes, dport: int) -> str:
    return f"{host_port(str(ip_address(src)), sport)} > {host_port(str(ip_address(dst)), dport)}"


def _plugin(choose: SchedulerFunction) -> Callable[..., int | None]:
    """A scheduler in Python as the core calls it."""

    def call(
        client: bytes, sport: int, to: bytes, dport: int, servers: dict[int, tuple[bytes, int, int, int, int]]
    ) -> int | None:
        flow = Flow(str(ip_address(client)), sport, str(ip_address(to)), dport)
        candidates = {
            Candidate(str(ip_address(address)), *rest): number for number, (address, *rest) in servers.items()
        }
        picked = choose(flow, tuple(candidates))
        return None if picked is None else candidates[picked]

    return call


class MeshState:
    """The tables of services and connections, and the numbers by which names are known in them."""

    def __init__(self, spec: MeshSpec) -> None:
        self.seed = randbits(64) if spec.seed is None else spec.seed
        self.spec = spec
        self.services = ServiceTable(spec.services, servers=spec.servers, seed=self.seed)
        self.conns = ConnTable(spec.connections, source_limit=spec.source_limit, seed=self.seed)
        self.domains: dict[str, int] = {}
        self.numbers: dict[tuple[str, int], int] = {}  # (service, family): number
        self.servers: dict[tuple[int, bytes, int], int] = {}  # (number, address, port): number
        #: Servers that only names lead to, since their service has no virtual address of their family: their weights.
        self.named: dict[str, dict[tuple[bytes, int], int]] = {}

    def domain(self, name: str) -> int:
        """The number of a domain's name, which it keeps for good."""
        if name not in self.domains and len(self.domains) >= DOMAINS_MAX:
            raise TableFullError(f"all {DOMAINS_MAX} numbers of routing domains are taken")
        return self.domains.setdefault(name, len(self.domains))

    def node(self, nets: NetTable, dests: DestTable, spec: MeshSpec) -> Mesh:
        """The node of a compiled plane."""
        mesh = Mesh(
            nets, dests, services=self.services, conns=self.conns, exact=spec.semantics == "ipvs", reuse=spec.reuse,
            forget=spec.forget, sloppy=spec.sloppy, seed=self.seed,
        )  # fmt: skip
        mesh.set_timeouts(tcp_s=spec.tcp_s, fin_s=spec.fin_s, udp_s=spec.udp_s)
        return mesh

    def check(self, spec: NodeSpec) -> None:
        """What cannot be applied is said before anything is changed."""
        for key in ("connections", "source_limit", "services", "servers", "seed"):
            if getattr(spec.mesh, key) != getattr(self.spec, key):
                raise SpecError(f"mesh: {key}: it is set when a plane is made, and stays")
        expanded = spec.expanded
        wanted = {(s.name, family) for s in expanded for family in s.families}
        if len(wanted) > self.spec.services:
            raise TableFullError(f"all {self.spec.services} services are taken")
        servers = sum(family_of(one.address) in s.families for s in expanded for one in s.server)
        if servers + self.services.n_removed > self.spec.servers:
            raise TableFullError(f"all {self.spec.servers} servers are taken")

    def reconcile(self, spec: NodeSpec, mesh: Mesh, now_ns: int = 0) -> None:
        """Be what the spec says, and touch nothing that is so already: connections, cursors and counts go on."""
        by_name = {network.name: network for network in spec.network}
        wanted = {(s.name, family): s for s in spec.expanded for family in s.families}
        self.named = {
            service.name: {
                (parse_ip(one.address), one.port): one.weight
                for one in service.server
                if (service.name, family_of(one.address)) not in wanted
            }
            for service in spec.service
        }
        for key in self.numbers.keys() - wanted.keys():
            self._remove(key, mesh, now_ns)
        for (name, family), service in wanted.items():
            matches = list(self._matches(service, family, by_name))
            number = self.numbers.get((name, family))
            if number is None:
                domain, packed, proto, port, *rest = matches[0]
                number = self.services.add(
                    domain, packed, proto=proto, port=port, last=rest[0], target=rest[1], sources=rest[2],
                    fallback=service.fallback, with_port=service.with_port, exact=spec.mesh.semantics == "ipvs",
                )  # fmt: skip
                self.numbers[name, family] = number
                matches = matches[1:]
            else:
                self.services.matches.remove_service(number)
            if isinstance(service.scheduler, str):
                self.services.set_scheduler(
                    number, service.scheduler, fallback=service.fallback, with_port=service.with_port
                )
            else:
                self.services.set_plugin(number, _plugin(service.scheduler))
            for domain, packed, proto, port, last, target, sources in matches:
                self.services.matches.add(
                    domain, packed, number, proto=proto, port=port, last=last, target=target, sources=sources
                )
            masq = next((parse_ip(text) for text in service.masquerade if family_of(text) == family), None)
            self.services.set_policy(
                number, out_domain=self.domain(by_name[service.home].routed_with), masq=masq, hairpin=masq is None,
                removal=service.removal, reset=service.reset_idle,
                tcp_s=service.tcp_s, fin_s=service.fin_s, udp_s=service.udp_s, persist_s=service.persistent_s,
                persist_len=service.persistent4 if family == 4 else service.persistent6,
            )  # fmt: skip
            self._servers(number, [s for s in service.server if family_of(s.address) == family], mesh, now_ns)
        self.services.settle()

    def _matches(self, service: ServiceSpec, family: int, networks: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
        for virtual in service.virtual:
            if family_of(virtual.address) != family:
                continue
            first, last = virtual.ports
            prefixes = [ip_network(text) for text in virtual.sources]
            sources = [(prefix.network_address.packed, prefix.prefixlen) for prefix in prefixes]
            domain = self.domain(networks[virtual.network].routed_with)
            yield domain, parse_ip(virtual.address), PROTOCOLS[virtual.protocol], first, last, virtual.target, sources

    def _servers(self, number: int, wanted: Sequence[ServerSpec], mesh: Mesh, now_ns: int) -> None:
        keys = {(number, parse_ip(s.address), s.port): s for s in wanted}
        for key in [key for key in self.servers if key[0] == number and key not in keys]:
            mesh.remove_server(self.servers.pop(key), now_ns)
        have = {row["server"]: row for row in self.services.servers_of(number)}
        for key, server in keys.items():
            if key not in self.servers:
                self.servers[key] = self.services.add_server(
                    number, key[1], port=server.port, weight=server.weight, upper=server.upper, lower=server.lower
                )
                continue
            row = have[self.servers[key]]
            change = {
                name: getattr(server, name)
                for name in ("weight", "upper", "lower")
                if row[name] != getattr(server, name)
            }
            if change:
                self.services.set_server(self.servers[key], **change)

    def _remove(self, key: tuple[str, int], mesh: Mesh, now_ns: int) -> None:
        number = self.numbers.pop(key)
        for place in [place for place in self.servers if place[0] == number]:
            mesh.remove_server(self.servers.pop(place), now_ns)
        self.services.remove(number)

    def forget_domains(self, names: Sequence[str], mesh: Mesh) -> None:
        """Connections of networks that are gone go with them."""
        numbers = {self.domains[name] for name in names if name in self.domains}
        if not numbers:
            return
        for row in list(self.conns.rows()):
            if row["domain"] in numbers or row["server_domain"] in numbers:
                mesh.end_connection(row["number"])

    # --- single changes ---------------------------------------------------------------------------------

    def only_named(self, service: str, address: str) -> dict[tuple[bytes, int], int] | None:
        """Servers of a service that has no virtual address of that family; None: it has, or there is no such one."""
        return None if (service, family_of(address)) in self.numbers else self.named.get(service)

    def service_number(self, name: str, address: str) -> int:
        """The number of a service, of an address's family. SpecError: no such service."""
        number = self.numbers.get((name, family_of(address)))
        if number is None:
            known = ", ".join(sorted({one for one, _ in self.numbers})) or "none"
            raise SpecError(f"service {name!r}, IPv{family_of(address)}: there are {known}")
        return number

    def server_number(self, service: str, address: str, port: int) -> int:
        """The number of a real server. SpecError: no such server."""
        number = self.service_number(service, address)
        found = self.servers.get((number, parse_ip(address), port))
        if found is None:
            known = [host_port(format_ip(one), at) for owner, one, at in self.servers if owner == number]
            rule = f"there are {', '.join(known[:8]) or 'none'}{', …' if len(known) > 8 else ''}"
            raise SpecError(f"service {service}: no server {address} port {port}; {rule}")
        return found

    def set_server(self, service: str, address: str, port: int, **change: int) -> None:
        """As ``ipvsadm -e``."""
        named, key = self.only_named(service, address), (parse_ip(address), port)
        if named is not None and key in named:
            named[key] = change.get("weight", named[key])
            return
        self.services.set_server(self.server_number(service, address, port), **change)
        self.services.settle()

    def set_cursor(self, service: str, address: str, port: int) -> None:
        """rr: that server was the last."""
        server = self.server_number(service, address, port)
        self.services.set_cursor(self.service_number(service, address), server)

    def add_server(self, service: str, server: ServerSpec) -> None:
        """As ``ipvsadm -a``."""
        named = self.only_named(service, server.address)
        if named is not None:
            named[parse_ip(server.address), server.port] = server.weight
            return
        number = self.service_number(service, server.address)
        key = number, parse_ip(server.address), server.port
        if key in self.servers:
            raise SpecError(f"service {service}: server {server.address} port {server.port}: it has it")
        try:
            self.servers[key] = self.services.add_server(
                number, key[1], port=server.port, weight=server.weight, upper=server.upper, lower=server.lower
            )
        except OverflowError as error:
            raise TableFullError(str(error)) from None
        self.services.settle()

    def remove_server(self, service: str, address: str, port: int, mesh: Mesh, now_ns: int) -> int:
        """As ``ipvsadm -d``: how many connections went with it."""
        named, key = self.only_named(service, address), (parse_ip(address), port)
        if named is not None and key in named:
            del named[key]
            return 0
        found = self.server_number(service, address, port)
        del self.servers[self.service_number(service, address), parse_ip(address), port]
        ended = mesh.remove_server(found, now_ns)
        self.services.settle()
        return ended

    # --- to see it --------------------------------------------------------------------------------------

    def servers_of(self, service: str) -> Iterator[tuple[bytes, int, int]]:
        """Address, port and weight of each server that a service has now."""
        for (address, port), weight in self.named.get(service, {}).items():
            yield address, port, weight
        for family in (4, 6):
            number = self.numbers.get((service, family))
            if number is not None:
                for row in reversed(self.services.servers_of(number)):
                    yield row["addr"], row["port"], row["weight"]

    def service_rows(self) -> Iterator[dict[str, Any]]:
        """Services in the order of their names: name, family, scheduler, matches, servers (newest first); what they
        were given and have carried, of a service with what servers had that were removed."""
        matches: dict[int, list[dict[str, Any]]] = {}
        domains = {number: name for name, number in self.domains.items()}
        names = {number: protocol for protocol, number in PROTOCOLS.items()}
        for match in self.services.matches.rows():
            matches.setdefault(match["service"], []).append(match)
        for (name, family), number in sorted(self.numbers.items()):
            row = self.services.row(number)
            if row is None or self.numbers.get((name, family)) != number:
                continue  # gone since
            yield {
                "name": name, "family": family, "scheduler": row["scheduler"], "fallback": row["fallback"],
                "with_port": row["with_port"], "persistent_s": row["persist_s"], "persistent_len": row["persist_len"],
                "virtual": [
                    {
                        "domain": domains[match["domain"]], "address": str(ip_address(match["addr"])),
                        "protocol": names[match["proto"]], "port": match["port"], "last": match["last"],
                        "target": match["target"],
                    }
                    for match in matches.get(number, [])
                ],
                "connections": row["connections"], "refused": row["refused"],
                **{key: row[key] for key in ("in_packets", "out_packets", "in_bytes", "out_bytes")},
                "servers": [{**s, "addr": str(ip_address(s["addr"]))} for s in row["servers"]],
            }  # fmt: skip

    def translations(self, decided: Mapping[int, Mapping[str, Any]]) -> dict[int, Translation]:
        """What a node decided of rows (see ``Mesh.decided``), in words."""
        names = {number: name for (name, _), number in self.numbers.items()} if decided else {}
        return {row: self._translation(found, names) for row, found in decided.items()}

    def _translation(self, found: Mapping[str, Any], names: Mapping[int, str]) -> Translation:
        domain, proto, *ends = found["key"]
        row, number = found["connection"], found["service"]
        before = _ends(*ends)
        if row is None:
            number = self.services.find_service(domain, ends[2], proto, ends[3])
        name = None if number is None else names.get(number)
        if row is None:
            return Translation(name, None, None, False, None, before, None)
        server, by, after = None, None, None
        if row["server"] is not None:
            server = host_port(str(ip_address(row["address"])), row["port"])
            if found["opened"] and number is not None:
                by = "affinity" if found["held"] else self.services.scheduler_of(number)
        if not row["flags"] & _RETURN:
            after = _ends(*(row[key] for key in (_BACK if found["reverse"] else _FORTH)))
        return Translation(name, server, row["number"], found["opened"], by, before, after if after != before else None)

    def connection(self, number: int) -> dict[str, Any] | None:
        """The addresses and ports of one, and whether its client is outside its servers' domain."""
        row = self.conns.row(number)
        if row is None:
            return None
        return {
            "client": str(ip_address(row["client"])), "cport": row["cport"],
            "virtual": str(ip_address(row["virtual"])), "vport": row["vport"],
            "server": str(ip_address(row["address"])), "port": row["port"],
            "outside": row["domain"] != row["server_domain"],
        }  # fmt: skip

    def connection_rows(self, now_ns: int) -> Iterator[dict[str, Any]]:
        """Connections that live at ``now_ns``: protocol, kind, state, seconds left; client, virtual, masquerade and
        server with their ports.

        ``kind``: "service"; "masqueraded" (to nobody's service); "returned" (its answers go to the VTEP that it came
        by); "affinity" (no connection: it holds a client to a server).
        """
        servers: dict[int, tuple[bytes, int]] = {}
        for row in self.conns.in_words(now_ns, _NAMES):
            if "number" not in row:
                yield row
                continue
            # Its own key is of no packet; whom it holds is at its server.
            servers = servers or {number: (place[1], place[2]) for place, number in self.servers.items()}
            if row["server"] not in servers:
                continue
            proto = row["proto"] ^ _TEMPLATE_PROTO
            address, port = servers[row["server"]]
            yield {
                "protocol": _PROTOCOLS.get(proto, str(proto)), "kind": "affinity", "state": "NONE",
                "left_s": (row["expires_ns"] - now_ns) // 1_000_000_000,
                "client": str(ip_address(row["client"])), "cport": row["cport"],
                "virtual": str(ip_address(row["virtual"])), "vport": row["vport"],
                "server": str(ip_address(address)), "port": port,
                "masquerade": None, "mport": row["mport"], "answered": False,
            }  # fmt: skip
