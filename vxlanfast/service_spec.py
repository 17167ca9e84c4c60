"""What services there are, as frozen data: virtual addresses, published ports, real servers. Part of ``node.toml``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import NamedTuple

from vxlanfast.addr import parse_ip
from vxlanfast.checks import address, among, dns_name, rule_error
from vxlanfast.errors import SpecError

PROTOCOLS = {"any": 0, "tcp": 6, "udp": 17, "sctp": 132}
SCHEDULERS = ("rr", "wrr", "lc", "wlc", "sed", "nq", "sh", "dh", "mh")
REMOVALS = ("drain", "hold", "reset", "reschedule")
MODES = ("ingress", "host")
SEMANTICS = ("fixed", "ipvs")
PROFILES = ("fixed", "swarm")
DNS = ("vip", "dnsrr")
TIMEOUT_MAX_S = 31 * 86400
#: A service of these has what no other one of its address has.
ALL_PORTS = (1, 65535)


def parse_ports(key: str, value: int | str) -> tuple[int, int]:
    """A port, or a range of them as "8000-8010": the first and the last."""
    first, dash, last = str(value).partition("-")
    if not first.isdigit() or (dash and not last.isdigit()):
        raise rule_error(key, value, 'a port, or a range such as "8000-8010"')
    ports = int(first), int(last) if dash else int(first)
    if not 1 <= ports[0] <= ports[1] <= 65535:
        raise rule_error(key, value, "1 to 65535, the first not above the last")
    return ports


class Flow(NamedTuple):
    """Who asks for what, as a scheduler in Python sees it."""

    client: str
    client_port: int
    address: str
    port: int


class Candidate(NamedTuple):
    """A real server that takes connections; ``active``, ``inactive``: those that it has."""

    address: str
    port: int
    weight: int
    active: int
    inactive: int


#: A scheduler in Python: one of the candidates (newest first), or None to refuse.
SchedulerFunction = Callable[[Flow, Sequence[Candidate]], Candidate | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    """A real server. ``port`` 0: the one that the client used. ``weight`` 0: drained, it keeps what it has and gets no
    more.

    ``upper``: connections from which on it gets no more, until there are fewer than ``lower`` (0: three quarters).
    """

    address: str
    port: int = 0
    weight: int = 1
    upper: int = 0
    lower: int = 0

    def __post_init__(self) -> None:
        address("address", self.address)
        among("port", self.port, 0, 65535)
        among("weight", self.weight, 0, 65535)
        among("upper", self.upper, 0, (1 << 32) - 1)
        among("lower", self.lower, 0, self.upper)


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualSpec:
    """Where clients find a service: an ``address`` of a ``network``, with a ``port`` (or a range) of a ``protocol``,
    or with any port of any protocol, which is what Swarm's firewall marks amount to.

    ``target``: what the (first) port becomes, 0: the server's own, else none changes. ``sources``: prefixes that
    clients must be of; none: anybody.
    """

    network: str
    address: str
    protocol: str = "any"
    port: int | str = 0
    target: int = 0
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        size = len(address("address", self.address))
        if self.protocol not in PROTOCOLS:
            raise rule_error("protocol", self.protocol, ", ".join(PROTOCOLS))
        if (self.protocol == "any") != (self.port == 0):
            raise rule_error("port", self.port, "a protocol and a port, or neither: any port of any protocol")
        first, last = self.ports
        among("target", self.target, 0, 65535 - (last - first))
        for text in self.sources:
            try:
                prefix = ip_network(text)
            except ValueError:
                raise rule_error("sources", text, "a prefix without host bits, such as 10.0.0.0/8") from None
            if len(prefix.network_address.packed) != size:
                raise rule_error("sources", text, f"of the family of {self.address}")

    @property
    def ports(self) -> tuple[int, int]:
        """The first and the last; 0 and 0: any."""
        return (0, 0) if self.port == 0 else parse_ports("port", self.port)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishSpec:
    """A port of the node's own addresses in ``network`` (a lan), or a range of them, that is a service's.

    ``target``: the port of the task, or the first of them; 0: the same. ``mode``: "ingress" reaches tasks wherever
    they are, "host" those of this node alone, and not masqueraded. ``bind``: of the node's addresses, only these.
    ``sources``: prefixes that clients must be of; none: anybody.
    """

    network: str
    published: int | str
    target: int = 0
    protocol: str = "tcp"
    mode: str = "ingress"
    bind: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        first, last = parse_ports("published", self.published)
        among("target", self.target, 0, 65535 - (last - first))
        if self.protocol not in PROTOCOLS or self.protocol == "any":
            raise rule_error("protocol", self.protocol, ", ".join(one for one in PROTOCOLS if one != "any"))
        if self.mode not in MODES:
            raise rule_error("mode", self.mode, " or ".join(MODES))
        for text in self.bind:
            address("bind", text)
        for text in self.sources:
            try:
                ip_network(text)
            except ValueError:
                raise rule_error("sources", text, "a prefix without host bits, such as 10.0.0.0/8") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSpec:
    """A service: where clients find it, who serves it, and how a server is chosen.

    ``scheduler``: rr, wrr, lc, wlc, sed, nq, sh, dh or mh, as IPVS defines them, or a function that is asked for each
    new connection (``Flow``, ``Candidate``); of the hashing ones, ``fallback``: an overloaded server's clients go to
    others, ``with_port``: the client's port counts. ``masquerade``: an address that servers see in place of the
    client's, one of a family; none: they see the client. ``persistent_s``: clients of one prefix (``persistent4``,
    ``persistent6`` bits) stay with their server so long. ``removal``: what becomes of connections to a server that
    goes: "drain" (they go on; of UDP, the next datagram goes to another), "reset" (both ends are told), "hold" (they
    wait for it, as in IPVS) or "reschedule" (the client's next packet begins anew).
    ``reset_idle``: both ends are told when an open connection has been silent too long, instead of being left to find
    out. ``tcp_s`` (open), ``fin_s`` (being closed),
    ``udp_s``: seconds after which a silent connection goes, 0 for the node's. ``servers_in``: the network that servers
    are reached from, where it is not that of the clients.

    Names, where networks have a ``resolver``: its ``name`` and its ``aliases`` are, in a network where it has a virtual
    address, that address; with ``dns`` "dnsrr" (or without one) they are its servers, as ``tasks.`` and a name always.
    """

    name: str
    scheduler: str | SchedulerFunction = "rr"
    fallback: bool = False
    with_port: bool = False
    masquerade: tuple[str, ...] = ()
    removal: str = "drain"
    reset_idle: bool = False
    persistent_s: int = 0
    persistent4: int = 32
    persistent6: int = 128
    tcp_s: int = 0
    fin_s: int = 0
    udp_s: int = 0
    servers_in: str = ""
    aliases: tuple[str, ...] = ()
    dns: str = "vip"
    virtual: tuple[VirtualSpec, ...] = ()
    publish: tuple[PublishSpec, ...] = ()
    server: tuple[ServerSpec, ...] = ()

    def __post_init__(self) -> None:
        if not callable(self.scheduler) and self.scheduler not in SCHEDULERS:
            raise rule_error("scheduler", self.scheduler, ", ".join(SCHEDULERS))
        if self.removal not in REMOVALS:
            raise rule_error("removal", self.removal, ", ".join(REMOVALS))
        if self.dns not in DNS:
            raise rule_error("dns", self.dns, " or ".join(DNS))
        for text in self.aliases:
            dns_name("aliases", text)
        sizes = [len(address("masquerade", text)) for text in self.masquerade]
        if len(set(sizes)) < len(sizes):
            raise rule_error("masquerade", list(self.masquerade), "one address of a family")
        among("persistent4", self.persistent4, 0, 32)
        among("persistent6", self.persistent6, 0, 128)
        for key in ("persistent_s", "tcp_s", "fin_s", "udp_s"):
            among(key, getattr(self, key), 0, TIMEOUT_MAX_S)
        seen: set[tuple[bytes, int]] = set()
        for server in self.server:
            place = parse_ip(server.address), server.port
            if place in seen:
                raise rule_error("server", f"{server.address} port {server.port}", "given twice")
            seen.add(place)
        networks = {one.network for one in self.virtual} | {one.network for one in self.publish}
        if len(networks) > 1 and not self.servers_in:
            several = ", ".join(sorted(networks))
            raise rule_error("servers_in", "", f"needed where clients are in several networks: {several}")

    @property
    def home(self) -> str:
        """The network that its servers are reached from."""
        named = (*(one.network for one in self.virtual), *(one.network for one in self.publish))
        return self.servers_in or (named[0] if named else "")

    @property
    def families(self) -> tuple[int, ...]:
        """4, 6 or both: those that it has a virtual address of."""
        return tuple(sorted({4 if len(parse_ip(v.address)) == 4 else 6 for v in self.virtual}))


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshSpec:
    """How a node keeps connections.

    ``profile``: "fixed" translates once and hides no address; "swarm" does what Docker Swarm does, hop by hop: servers
    see the node's ``own`` address in their network as the client, a published port becomes the target port at the task
    alone, whose other ports are closed, TTLs are those of packets that came through its namespaces; and ``semantics``,
    ``reuse`` and ``forget`` are as it sets them: "ipvs", no, yes.

    ``semantics``: "fixed" checks RSTs and FINs, opens a connection only when the client has seen the server's answer,
    and does not wait for a server that is gone with datagrams; "ipvs" does what the kernel does, exactly.
    ``connections``: at most;
    ``source_limit``: of one client, 0 for any number. ``tcp_s``, ``fin_s``, ``udp_s``: as ``ipvsadm --set``. ``reuse``,
    ``forget``, ``sloppy``: IPVS's conn_reuse_mode, expire_nodest_conn and sloppy_tcp. ``seed``: of hashes and source
    ports, None for a new one at each start.
    """

    profile: str = "fixed"
    semantics: str = "fixed"
    connections: int = 1 << 20
    source_limit: int = 0
    services: int = 1024
    servers: int = 16384
    tcp_s: int = 900
    fin_s: int = 120
    udp_s: int = 300
    reuse: bool = True
    forget: bool = False
    sloppy: bool = False
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise rule_error("profile", self.profile, " or ".join(PROFILES))
        if self.profile == "swarm":
            for key, value in (("semantics", "ipvs"), ("reuse", False), ("forget", True)):
                object.__setattr__(self, key, value)
        if self.semantics not in SEMANTICS:
            raise rule_error("semantics", self.semantics, " or ".join(SEMANTICS))
        among("connections", self.connections, 1, 1 << 28)
        among("source_limit", self.source_limit, 0, 1 << 28)
        among("services", self.services, 1, 1 << 20)
        among("servers", self.servers, 1, 1 << 20)
        for key in ("tcp_s", "fin_s", "udp_s"):
            among(key, getattr(self, key), 1, TIMEOUT_MAX_S)
        if self.seed is not None:
            among("seed", self.seed, 0, (1 << 64) - 1)


def at_tasks(service: ServiceSpec, network: str, here: Iterable[str]) -> Iterator[ServiceSpec]:
    """What a service's published ports are at those of its tasks that are ``here``, each a service of its own: the
    published port is redirected to the target port, which is open itself."""
    for server in service.server:
        if parse_ip(server.address) not in map(parse_ip, here):
            continue
        open_: list[tuple[str, int, int]] = []
        virtual = []
        published = [(p.protocol, p.published, p.target) for p in service.publish if p.mode == "ingress"]
        straight = [(protocol, _target_ports(ports, target), 0) for protocol, ports, target in published]
        for protocol, ports, target in (*published, *straight):
            first, last = parse_ports("published", ports)
            if any(protocol == other and first <= high and low <= last for other, low, high in open_):
                continue  # as in iptables: the redirect comes first
            open_.append((protocol, first, last))
            virtual.append(
                VirtualSpec(
                    network=network, address=server.address, protocol=protocol, port=ports, target=target or first
                )
            )  # fmt: skip
        name = f"{service.name} at {server.address}"
        yield ServiceSpec(
            name=name, virtual=tuple(virtual), server=(ServerSpec(address=server.address),), tcp_s=service.tcp_s,
            fin_s=service.fin_s, udp_s=service.udp_s,
        )  # fmt: skip


def _target_ports(published: int | str, target: int) -> int | str:
    """The ports that published ones become."""
    first, last = parse_ports("published", published)
    first, last = target or first, (target or first) + last - first
    return first if first == last else f"{first}-{last}"


def check_services(services: tuple[ServiceSpec, ...]) -> None:
    """No port of an address is two services', but for a port of one that has all the others. SpecError names both."""
    taken: list[tuple[str, bytes, str, int, int, str]] = []
    for service in services:
        for virtual in service.virtual:
            first, last = virtual.ports
            packed = parse_ip(virtual.address)
            for network, other, protocol, low, high, name in taken:
                same = (network, other, protocol) == (virtual.network, packed, virtual.protocol)
                rest = (first == last and (low, high) == ALL_PORTS) or (low == high and (first, last) == ALL_PORTS)
                if same and low <= last and first <= high and not rest:
                    what = f"{virtual.protocol} {virtual.address} port {virtual.port}" if first else virtual.address
                    raise SpecError(f"services {name} and {service.name} both have {what} of network {network}")
            taken.append((virtual.network, packed, virtual.protocol, first, last, service.name))
