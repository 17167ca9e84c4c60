"""Who is called how: names of services and tasks, as the clients of a network may ask for them, out of a live plane."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from vxlanfast.addr import parse_ip
from vxlanfast.dataplane import Dataplane
from vxlanfast.network_spec import EndpointSpec, NetworkSpec
from vxlanfast.node_spec import NodeSpec
from vxlanfast.service_spec import PROTOCOLS, ServiceSpec

#: In front of a service's name: its servers, whatever else the name alone leads to.
TASKS = "tasks."
#: Ways to split a name are looked at, up to so many; names of DNS have no more than 127 labels.
_SPLITS_MAX = 16


@dataclass(frozen=True, slots=True)
class Found:
    """What a name leads to in a network: packed addresses. ``fixed``: virtual ones, that stay what they are."""

    addresses: tuple[bytes, ...]
    fixed: bool


class Place(NamedTuple):
    """Where a port of a service is: the name of who has it, its addresses, and whether they are virtual."""

    target: str
    port: int
    found: Found


@dataclass(slots=True)
class _Zone:
    """The names of one network (of all networks of that name), small letters."""

    name: str
    rank: tuple[bool, bool, bool, int]
    internal: bool
    services: dict[str, list[ServiceSpec]] = field(default_factory=dict)  # those that have a virtual address there
    homes: dict[str, list[ServiceSpec]] = field(default_factory=dict)  # those whose servers are there
    endpoints: dict[str, list[EndpointSpec]] = field(default_factory=dict)
    called: dict[bytes, str] = field(default_factory=dict)  # address: name
    serves: dict[bytes, list[str]] = field(default_factory=dict)  # address: services that it is a server of


def _names_of(service: ServiceSpec) -> set[str]:
    return {name.lower() for name in (service.name, *service.aliases)}


class _Index:
    """What of names a spec alone decides."""

    def __init__(self, spec: NodeSpec) -> None:
        self.spec = spec
        self.zones: dict[str, _Zone] = {}
        self.by_port: dict[str, tuple[str, list[EndpointSpec]]] = {}  # its network, and who is behind it
        self.known: set[str] = set()
        self.ports_of: dict[str, set[str]] = {}  # a client's name: networks in which it is behind a port of ours
        self.subnets: list[IPv4Network | IPv6Network] = []
        for network in spec.network:
            self.add_network(network)
        for service in spec.service:
            self.add_service(service)

    def add_network(self, network: NetworkSpec) -> None:
        rank = network.lan, network.guard, network.internal, len(self.zones)
        zone = self.zones.setdefault(network.name.lower(), _Zone(network.name, rank, network.internal))
        self.subnets += map(ip_network, network.subnet)
        for port in network.ports:
            self.by_port[port] = network.name.lower(), []
        for endpoint in network.endpoint:
            if endpoint.port is not None:
                self.by_port[endpoint.port][1].append(endpoint)
            if endpoint.name and endpoint.port is not None:
                self.ports_of.setdefault(endpoint.name, set()).add(network.name.lower())
            for name in dict.fromkeys(text.lower() for text in (endpoint.name, *endpoint.aliases) if text):
                zone.endpoints.setdefault(name, []).append(endpoint)
                self.known.add(name)
            if endpoint.name:
                zone.called.update({parse_ip(text): endpoint.name for text in endpoint.ip})

    def add_service(self, service: ServiceSpec) -> None:
        names = _names_of(service)
        self.known |= names
        for network in dict.fromkeys(virtual.network.lower() for virtual in service.virtual):
            for name in names:
                self.zones[network].services.setdefault(name, []).append(service)
        home = self.zones.get(service.home.lower())
        if home is not None:
            for name in names:
                home.homes.setdefault(name, []).append(service)
            for server in service.server:
                home.serves.setdefault(parse_ip(server.address), []).append(service.name)


class Names:
    """The names of a plane: what its spec says, and which servers its balancer has at the moment.

    Whoever asks holds the plane's lock. Nothing is remembered but the spec's index, which is made anew when the plane
    has another spec.

    ``empty``: a name whose servers are all gone is known, and leads nowhere; else (as in Swarm) nobody knows it.
    """

    def __init__(self, plane: Dataplane, *, empty: bool = True) -> None:
        self._plane = plane
        self._empty = empty
        self._index = self._next = _Index(plane.spec)

    def prepare(self, spec: NodeSpec) -> None:
        """Make the index of a spec that the plane will have soon; without the lock, as it may take a while."""
        self._next = _Index(spec)

    @property
    def _now(self) -> _Index:
        spec = self._plane.spec
        if self._index.spec is not spec:
            self._index = self._next if self._next.spec is spec else _Index(spec)
            self._next = self._index
        return self._index

    def networks_of(self, port: str, address: bytes = b"") -> tuple[str, ...]:
        """The networks that a client is on, in the order they are searched in, small letters; none: nobody's port.

        A client is who has that ``address`` behind that ``port``, by the spec. It is on the port's network; if it has
        a name, on those too in which an endpoint of the same name is behind a port of this node. Ordinary networks come
        first, then guarded (ingress), internal and those of this node alone, in the order of the spec.
        """
        now = self._now
        if port not in now.by_port:
            return ()
        network, endpoints = now.by_port[port]
        found = {network}
        for endpoint in endpoints:
            if endpoint.name and (not endpoint.ip or address in map(parse_ip, endpoint.ip)):
                found |= now.ports_of[endpoint.name]
        return tuple(sorted(found, key=lambda name: now.zones[name].rank))

    def internal(self, networks: Iterable[str]) -> bool:
        """Whether nothing leaves any of them."""
        return all(self._now.zones[name].internal for name in networks)

    # --- forwards -------------------------------------------------------------------------------------------

    def find(self, name: str, networks: Sequence[str], size: int = 0) -> Found | None:
        """What a name leads to for a client of those networks; None: they do not know it.

        ``name`` without the last dot. ``NAME``, ``tasks.NAME``, each with ``.NETWORK`` behind it or not: as names and
        networks may have dots themselves, all ways to split it are tried, the whole name first. ``size``: the first
        network that has an address of so many bytes (4, 16) is it; 0, or none has: the first that knows the name.
        """
        first: Found | None = None
        for part, within in self._splits(name.lower(), networks):
            for network in within:
                found = self._in(part, self._now.zones[network])
                if found is not None and (not size or any(len(packed) == size for packed in found.addresses)):
                    return found
                first = first or found
        return first

    def _splits(self, name: str, networks: Sequence[str]) -> Iterator[tuple[str, Sequence[str]]]:
        yield name, networks
        at = len(name)
        for _ in range(_SPLITS_MAX):
            at = name.rfind(".", 0, at)
            if at < 0:
                return
            if name[at + 1 :] in networks:
                yield name[:at], (name[at + 1 :],)

    def _in(self, name: str, zone: _Zone) -> Found | None:
        """What a name is in a network."""
        tasks = name.removeprefix(TASKS) if name.startswith(TASKS) else None
        if tasks is not None and tasks in zone.homes:
            return self._found(self._live(zone.homes[tasks]), False)
        virtual = [
            parse_ip(v.address)
            for service in zone.services.get(name, ())
            if service.dns == "vip"
            for v in service.virtual
            if v.network.lower() == zone.name.lower()
        ]
        homes = zone.homes.get(name, ())
        if virtual:
            gone = not self._empty and not self._live(homes or zone.services[name])
            return None if gone else Found(tuple(dict.fromkeys(virtual)), True)
        if homes:
            return self._found(self._live(homes), False)
        if name in zone.endpoints:
            addresses = [parse_ip(text) for endpoint in zone.endpoints[name] for text in endpoint.ip]
            return self._found([one for one in addresses if self._is_up(one, zone)], False)
        return None

    def _found(self, addresses: Iterable[bytes], fixed: bool) -> Found | None:
        found = Found(tuple(dict.fromkeys(addresses)), fixed)
        return found if found.addresses or self._empty else None

    def _live(self, services: Iterable[ServiceSpec]) -> list[bytes]:
        """Addresses of servers that take connections."""
        return [one for s in services for one, _, weight in self._plane.servers_of(s.name) if weight]

    def _is_up(self, address: bytes, zone: _Zone) -> bool:
        """Not drained of every service that it is a server of."""
        services = zone.serves.get(address)
        return not services or any(
            weight and one == address for name in services for one, _, weight in self._plane.servers_of(name)
        )

    # --- backwards, and ports -------------------------------------------------------------------------------

    def pointer(self, address: bytes, networks: Sequence[str]) -> str | None:
        """``NAME.NETWORK`` of a task's address; None: nobody's there, or of somebody without a name."""
        for network in networks:
            zone = self._now.zones[network]
            if address in zone.called and self._is_up(address, zone):
                return f"{zone.called[address]}.{zone.name}"
        return None

    def places(self, name: str, protocol: str, port: int, networks: Sequence[str]) -> list[Place] | None:
        """Where a service has a port, as SRV asks; None: no such service. Of a virtual address: there; else each
        server."""
        for part, within in self._splits(name.lower(), networks):
            for network in within:
                zone = self._now.zones[network]
                services = [*zone.services.get(part, ()), *zone.homes.get(part, ())]
                if services:
                    made: dict[tuple[str, int], Place] = {}
                    for service in services:
                        for place in self._places(service, zone, part, protocol, port):
                            before = made.get((place.target, place.port), place).found
                            both = tuple(dict.fromkeys((*before.addresses, *place.found.addresses)))
                            made[place.target, place.port] = place._replace(found=Found(both, before.fixed))
                    return list(made.values())
        return None

    def _places(self, service: ServiceSpec, zone: _Zone, name: str, protocol: str, port: int) -> Iterator[Place]:
        open_ = [
            parse_ip(v.address)
            for v in service.virtual
            if v.network.lower() == zone.name.lower() and v.protocol in ("any", protocol)
            if v.port == 0 or v.ports[0] <= port <= v.ports[1]
        ]
        if service.dns == "vip" and service.virtual:
            if open_:
                yield Place(f"{name}.{zone.name}", port, Found(tuple(dict.fromkeys(open_)), True))
            return
        if protocol not in PROTOCOLS or (service.virtual and not open_):
            return
        for address, own, weight in self._plane.servers_of(service.name):
            if weight:
                target = f"{zone.called.get(address, name)}.{zone.name}"
                yield Place(target, own or port, Found((address,), False))

    # --- what is never told to others -----------------------------------------------------------------------

    def owns(self, name: Sequence[str]) -> bool:
        """Whether a name, as its labels, is of this node's networks, whoever may know it: no question for others."""
        now, labels = self._now, [label.lower() for label in name]
        while len(labels) > 1 and labels[0].startswith("_"):
            labels = labels[1:]
        rest = ".".join(labels)
        if rest in now.known or rest.removeprefix(TASKS) in now.known:
            return True
        return any(".".join(labels[at:]) in now.zones for at in range(len(labels)))

    def owns_prefix(self, prefix: IPv4Network | IPv6Network) -> bool:
        """Whether a prefix is within a subnet of this node's."""
        return any(
            prefix.version == subnet.version and prefix.subnet_of(subnet)  # type: ignore[arg-type]
            for subnet in self._now.subnets
        )


def reversed_prefix(labels: Sequence[str]) -> IPv4Network | IPv6Network | None:
    """The prefix that a name below in-addr.arpa or ip6.arpa is of (RFC 1035 §3.5, RFC 3596 §2.5); None: no such one."""
    parts = [label.lower() for label in labels]
    if parts[-2:] == ["in-addr", "arpa"]:
        numbers = parts[-3::-1]
        if not numbers or len(numbers) > 4 or not all(n.isascii() and n.isdigit() and len(n) < 4 for n in numbers):
            return None
        octets = list(map(int, numbers))
        if max(octets) > 255:
            return None
        return ip_network((bytes(octets) + bytes(4 - len(octets)), 8 * len(octets)))
    if parts[-2:] == ["ip6", "arpa"]:
        digits = "".join(parts[-3::-1])
        if not digits or any(len(label) != 1 for label in parts[:-2]) or len(digits) > 32:
            return None
        try:
            packed = bytes.fromhex(digits.ljust(32, "0"))
        except ValueError:
            return None
        return ip_network((packed, 4 * len(digits)))
    return None


def address_of(prefix: IPv4Network | IPv6Network) -> bytes | None:
    """The address that a prefix is, if it is one alone."""
    return ip_address(prefix.network_address).packed if prefix.prefixlen == prefix.max_prefixlen else None
