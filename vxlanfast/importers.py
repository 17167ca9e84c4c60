"""A node's spec out of what there is already: a host's vxlan devices and tables, or a Swarm's networks. And as text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from vxlanfast.addr import VNI_MAX, parse_ip
from vxlanfast.errors import SpecError
from vxlanfast.foreign import Json, Object, read_objects, said_of, shown
from vxlanfast.network_spec import EndpointSpec, NetworkSpec, PeerSpec
from vxlanfast.node_spec import NodeSpec
from vxlanfast.service_spec import MeshSpec
from vxlanfast.spec import DEFAULT_PORT
from vxlanfast.swarm import balancer_of, name_of, services_from_docker, swarm_networks

_ZERO = "00:00:00:00:00:00"
_TTL = 64  # a device's TTL 0 is the route's, and Linux's routes have this
_AGEING_S = 300
_LEARNED, _LEARNED_MAX = 8192, 1 << 24  # of a device without a limit; and what a network takes
_MTU, _MTU_DEFAULT = "com.docker.network.driver.mtu", 1500
_VNIS = "com.docker.network.driver.overlay.vxlanid_list"
#: What a vxlan device may have and a node has not.
_HEAD_END = "a node floods by head-end replication, not to a multicast group"
_CANNOT = {"group": _HEAD_END, "group6": _HEAD_END, "gpe": "a node speaks VXLAN, not VXLAN-GPE"}


def _by_address(addresses: Iterable[str]) -> list[str]:
    """Each once, in order: the same tables make the same spec."""
    return sorted(set(addresses), key=lambda text: (len(parse_ip(text)), parse_ip(text)))


# --- a host: ip link, bridge fdb, ip neigh --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Device:
    """A device of a host: its name, its bridge ("": none), and what ``ip -d`` says of it, and of it as a port."""

    name: str
    bridge: str
    kind: str
    info: Object
    slave: Object


def _device(link: Object) -> _Device:
    name = link.word("ifname")
    master = link.word("master", "")
    inner = Object(f"links: {name}", link.values).object("linkinfo")
    return _Device(
        name=name,
        bridge=master if inner.text("info_slave_kind", "bridge") == "bridge" else "",
        kind=inner.text("info_kind", ""),
        info=inner.object("info_data"),
        slave=inner.object("info_slave_data"),
    )


def _settings(info: Object, six: bool) -> Iterator[tuple[str, Any]]:
    """What a vxlan device says of a node's keys; ``six``: its VTEPs have IPv6 addresses."""
    yield "port", info.number("port", DEFAULT_PORT, 65535)
    yield "ageing_s", info.number("ageing", _AGEING_S, 1 << 31)
    yield "ttl", info.number("ttl", 0, 255) or _TTL
    tos = info.text("tos", "0x0")
    if not re.fullmatch("0x[0-9a-f]{1,2}", tos):
        raise info.wrong("tos", "0x0 to 0xff")
    yield "dscp", "inherit" if int(tos, 16) == 1 else int(tos, 16) >> 2
    df = info.text("df", "unset")
    if df not in ("set", "unset"):
        raise info.wrong("df", "set or unset: a node's DF does not depend on what is inside")
    yield "df", df == "set"
    yield "udp_csum", "on" if (not info.flag("udp_zero_csum6_tx") if six else info.flag("udp_csum", True)) else "off"
    if six:
        yield "zero_csum6", info.flag("udp_zero_csum6_rx")


def _agreed(devices: list[_Device], vtep: Sequence[str]) -> dict[str, Any]:
    """What all devices say of things that a node has one of."""
    said: dict[str, tuple[str, Any]] = {}

    def say(who: str, key: str, value: Any) -> None:
        first, other = said.setdefault(key, (who, value))
        if other != value:
            raise SpecError(f"links: {key}: {first} has {other!r}, {who} has {value!r}: a node has one")

    def say_vtep(who: str, address: str) -> None:
        say(who, f"IPv{ip_address(address).version} vtep", address)

    for text in vtep:
        say_vtep("the argument", Object("argument", {"vtep": text}).address("vtep"))
    for device in devices:
        own = [device.info.address(key) for key in ("local", "local6") if key in device.info]
        if not own and not vtep:
            raise device.info.wrong("local", "missing; give the node's own address as vtep")
        for address in own:
            say_vtep(device.name, address)
        for key, value in _settings(device.info, six=":" in (own or vtep)[0]):
            say(device.name, key, value)
    vteps = tuple(said.pop(key)[1] for key in ("IPv4 vtep", "IPv6 vtep") if key in said)
    return {"vtep": vteps, **{key: value for key, (_, value) in said.items()}}


def is_set(entry: Object) -> bool:
    """Whether somebody set an FDB entry, by hand or from a control plane, and no frame taught it."""
    return entry.text("state", "") in ("permanent", "static") or "extern_learn" in entry.texts("flags")


def is_known(neighbour: Object) -> bool:
    """Whether somebody set a neighbour, and nobody was asked for it: what is asked for will be asked for again."""
    states = set(neighbour.texts("state"))
    control = "extern_learn" in neighbour.values and not states & {"FAILED", "INCOMPLETE"}
    return (control or bool({"PERMANENT", "NOARP"} & states)) and "lladdr" in neighbour


def remote_of(entry: Object, vni: int, port: int) -> tuple[str, str] | None:
    """The MAC and the VTEP of an entry that was set at a vxlan device, None of any other; the zero MAC is for what is
    flooded. ``vni`` and ``port``: the device's. SpecError: no node has such an entry."""
    if "dst" not in entry or not is_set(entry):
        return None
    mac, dst = entry.mac("mac"), entry.address("dst")
    if ip_address(dst).is_multicast:
        raise entry.wrong("dst", _HEAD_END)
    for key, value in (("vni", vni), ("port", port)):
        if entry.number(key, value, VNI_MAX) != value:
            raise entry.wrong(key, f"{value}, as its device {entry.word('ifname')} has it")
    return mac, dst


def vxlan_policies(link: Object) -> dict[str, Any]:
    """What a vxlan device, as ``ip -d`` has it, says of a network's own keys. SpecError: it has what no node does."""
    return _policies(_device(link))


def _policies(vxlan: _Device) -> dict[str, Any]:
    info = vxlan.info
    for key, rule in _CANNOT.items():
        if info.values.get(key):
            raise info.wrong(key, rule)
    proxy, limit = info.flag("proxy"), info.number("limit", 0, (1 << 32) - 1)
    return {
        "learn": info.flag("learning", True),
        "gbp": info.flag("gbp"),
        "proxy": proxy or vxlan.slave.flag("neigh_suppress"),
        "unknown_neighbours": "swallow" if proxy else "flood",
        "learned_limit": min(limit or _LEARNED, _LEARNED_MAX),
    }


class _Tables:
    """FDB entries by device, and neighbours by device and MAC."""

    def __init__(self, fdb: Json, neigh: Json) -> None:
        self.fdb: dict[str, list[Object]] = {}
        for entry in read_objects("fdb", fdb):
            self.fdb.setdefault(entry.word("ifname"), []).append(entry)
        self.neigh: dict[tuple[str, str], list[Object]] = {}
        for entry in read_objects("neigh", neigh):
            if is_known(entry):
                self.neigh.setdefault((entry.word("dev"), entry.text("lladdr").lower()), []).append(entry)

    def endpoint(self, vxlan: _Device, mac: str, *, port: str | None = None, vtep: str | None = None) -> EndpointSpec:
        """A station, with the addresses that neighbours of the device or of its bridge have."""
        known = [entry for dev in (vxlan.name, vxlan.bridge) for entry in self.neigh.get((dev, mac), ())]
        ip = tuple(_by_address(entry.address("dst") for entry in known))
        # iproute2 has the flag as a key without a value.
        router = any("router" in entry.values for entry in known)
        with said_of(f"fdb: {port or vxlan.name}"):
            return EndpointSpec(port=port, vtep=vtep, mac=mac, ip=ip, router=router)

    def remote(self, vxlan: _Device) -> tuple[list[EndpointSpec], dict[str, bool]]:
        """Stations behind a vxlan device, and its VTEPs: whether they get what is flooded."""
        stations: dict[str, str] = {}
        members: dict[str, bool] = {}
        vni, port = vxlan.info.number("id", None, VNI_MAX), vxlan.info.number("port", DEFAULT_PORT, 65535)
        for entry in self.fdb.get(vxlan.name, ()):
            found = remote_of(entry, vni, port)
            if found is None:
                continue
            mac, dst = found
            members[dst] = members.get(dst, False) or mac == _ZERO
            if mac != _ZERO:
                stations.setdefault(mac, dst)
        return [self.endpoint(vxlan, mac, vtep=dst) for mac, dst in sorted(stations.items())], members

    def local(self, vxlan: _Device, port: _Device) -> list[EndpointSpec]:
        """Stations set behind a port of a bridge, or the port alone.

        What is permanent there is no station's address but the host's own, of the port itself for one.
        """
        entries = [entry for entry in self.fdb.get(port.name, ()) if "master" in entry and is_set(entry)]
        macs = {entry.mac("mac") for entry in entries if entry.text("state", "") != "permanent"}
        if macs:
            return [self.endpoint(vxlan, mac, port=port.name) for mac in sorted(macs)]
        with said_of(f"links: {port.name}"):
            return [EndpointSpec(port=port.name)]


def _network(vxlan: _Device, devices: list[_Device], tables: _Tables) -> NetworkSpec:
    """The network of one vxlan device."""
    policies = _policies(vxlan)
    ports = [device for device in devices if device.bridge and device.bridge == vxlan.bridge and device is not vxlan]
    near = [endpoint for port in ports for endpoint in tables.local(vxlan, port)]
    far, members = tables.remote(vxlan)
    settings: dict[str, Any] = {
        "vni": vxlan.info.number("id", None, VNI_MAX),
        **policies,
        "flood": "head-end" if any(members.values()) else "off",
        "peer": tuple(PeerSpec(vtep=member, flood=members[member]) for member in _by_address(members)),
    }
    with said_of(f"links: {vxlan.name}"):
        return NetworkSpec(name=vxlan.name, endpoint=(*near, *far), **settings)


def spec_from_host(
    links: Json, fdb: Json, neigh: Json = (), *, vtep: Sequence[str] = (), name: str = "node"
) -> NodeSpec:
    """The node that a host is: of ``ip -j -d link show``, ``bridge -j fdb show`` and ``ip -j neigh show``.

    A network for each vxlan device that has a VNI of its own; ports are the other members of its bridge. Stations,
    addresses and members are what was set; what was learned will be learned again. A MAC at several VTEPs is at the
    first of them, and all are members. A device that has no ``local`` address needs ``vtep``. An ARP proxy swallows
    what it does not know, as the kernel's does; one by ``neigh_suppress`` floods it. SpecError: something is malformed,
    devices differ in what a node has one of, or have what no node does.

    >>> link = {"ifname": "vx42", "linkinfo": {"info_kind": "vxlan", "info_data": {"id": 42, "local": "192.0.2.1"}}}
    >>> entry = {"mac": "02:00:00:00:00:05", "ifname": "vx42", "dst": "192.0.2.2", "state": "permanent"}
    >>> spec_from_host([link], [entry]).network[0].members
    {'192.0.2.2': False}
    """
    devices = [_device(link) for link in read_objects("links", links)]
    vxlans = [d for d in devices if d.kind == "vxlan" and "id" in d.info and not d.info.flag("external")]
    first: dict[str, str] = {}
    for device in devices:
        if device.kind == "vxlan" and device.bridge and first.setdefault(device.bridge, device.name) != device.name:
            both = f"{first[device.bridge]} and {device.name}"
            raise SpecError(f"links: master = {device.bridge!r}: {both} are in it: a port has one network")
    tables = _Tables(fdb, neigh)
    networks = tuple(_network(vxlan, devices, tables) for vxlan in vxlans)
    agreed = _agreed(vxlans, (vtep,) if isinstance(vtep, str) else vtep)
    with said_of("links"):
        return NodeSpec(name=name, network=networks, **agreed)


# --- a Swarm: docker network inspect -v -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """An endpoint of a Swarm's network: the address of its host, its own ones, and its MAC where somebody says it;
    whether it is its host's load balancer; what DNS calls it."""

    host: str
    ip: tuple[str, ...]
    mac: str | None = None
    balancer: bool = False
    name: str = ""
    aliases: tuple[str, ...] = ()


def _endpoint_id(entry: Object) -> str:
    text = entry.text("EndpointID")
    if not re.fullmatch("[0-9a-f]{7,64}", text):
        raise entry.wrong("EndpointID", "7 to 64 hex digits")
    return text


def _subnet(config: Object) -> IPv4Network | IPv6Network:
    try:
        return ip_network(config.text("Subnet"))
    except ValueError as error:
        rule = "a prefix without host bits, such as 10.0.9.0/24"
        raise error if isinstance(error, SpecError) else config.wrong("Subnet", rule) from None


def _places(view: Object, inspector: str | None, host: str) -> dict[str, _Place]:
    """Endpoints by number, as the host ``inspector`` sees them; None: as its tasks say, or ``host``."""
    places = {
        _endpoint_id(task): _Place(
            task.object("Info").address("Host IP"), (task.address("EndpointIP"),), name=name_of(task)
        )
        for service in view.objects("Services")
        for task in service.objects("Tasks")
    }
    containers = {_endpoint_id(container): container for container in view.objects("Containers")}
    short = {container.text("EndpointID", ""): number for number, container in _containers(view)}
    balancer = balancer_of(view)
    here = inspector or next((places[number].host for number in containers if number in places), host)
    for number, container in containers.items():
        ip = tuple(container.address(key) for key in ("IPv4Address", "IPv6Address") if container.text(key, ""))
        if ip:
            mac = container.mac("MacAddress") if container.text("MacAddress", "") else None
            at = places[number].host if number in places else here
            his = number == balancer
            aliases = () if his or number not in short else (short[number],)
            places[number] = _Place(at, ip, mac, his, "" if his else name_of(container), aliases)
    return places


def _containers(view: Object) -> Iterator[tuple[str, Object]]:
    """Short ids of a host's containers, by which Docker's DNS knows them as well."""
    if isinstance(view.values.get("Containers"), dict):
        containers = view.object("Containers")
        for number in containers.values:
            if re.fullmatch("[0-9a-f]{64}", number):
                yield number[:12], containers.object(number)


def _swarm_networks(views: list[tuple[str | None, Object]], host: str, balance: bool) -> Iterator[NetworkSpec]:
    """A network of a Swarm, as each inspector sees it: one of ours, all of its name, for each of its IPv4 subnets.

    ``balance``: the host's load balancer is the node itself.
    """
    network = views[0][1]
    name, options = network.word("Name"), network.object("Options")
    if "encrypted" in options:
        raise options.wrong("encrypted", "a node does no ESP, and would send in the clear")
    subnets = [(_subnet(config), config) for config in network.object("IPAM").objects("Config")]
    fours = sum(subnet.version == 4 for subnet, _ in subnets)
    vnis = options.text(_VNIS).split(",")
    if len(vnis) != fours or not all(re.fullmatch("[0-9]{1,8}", vni) for vni in vnis):
        raise options.wrong(_VNIS, f"numbers with commas between, one for each IPv4 subnet, of which there are {fours}")
    # VNIs are of IPv4 subnets, in order; subnets of IPv6 are on the wire of the first.
    subnets.sort(key=lambda pair: pair[0].version)
    pools = [(at if at < fours else 0, subnet, config) for at, (subnet, config) in enumerate(subnets)]
    places: dict[str, _Place] = {}
    members: set[str] = set()
    for inspector, view in views:
        for number, place in _places(view, inspector, host).items():
            if place.mac or number not in places:
                places[number] = place
        members |= {peer.address("IP") for peer in view.objects("Peers")}
    members |= {place.host for place in places.values()}
    endpoints: list[list[EndpointSpec]] = [[] for _ in vnis]
    own: list[list[str]] = [[] for _ in vnis]
    for number, place in sorted(places.items(), key=lambda item: (parse_ip(item[1].ip[0]), item[0])):
        near, far = (f"veth-{number[:7]}", None) if place.host == host else (None, place.host)
        with said_of(f"{network.where}: endpoint {number[:7]}"):
            index = next((at for at, subnet, _ in pools if ip_address(place.ip[0]) in subnet), None)
            if index is None:
                raise SpecError(f"ip = {place.ip[0]!r}: within a subnet of its network")
            if balance and place.balancer and near is not None:
                own[index] += place.ip
                continue
            endpoints[index].append(
                EndpointSpec(port=near, vtep=far, mac=place.mac, ip=place.ip, name=place.name, aliases=place.aliases)
            )
    for at, vni in enumerate(vnis):
        mine = [(subnet, config) for index, subnet, config in pools if index == at]
        gateways = tuple(config.address("Gateway") for _, config in mine if config.text("Gateway", ""))
        with said_of(network.where):
            yield NetworkSpec(
                name=name, vni=int(vni),
                subnet=tuple(str(subnet) for subnet, _ in mine), gateway=gateways, own=tuple(own[at]),
                internal=network.flag("Internal"),
                flood="off", proxy=True, unknown_neighbours="swallow", endpoint=tuple(endpoints[at]),
                peer=tuple(PeerSpec(vtep=member, flood=False) for member in _by_address(members - {host})),
            )  # fmt: skip


def networks_from_docker(inspect: Json | Mapping[str, Json], *, host: str) -> tuple[NetworkSpec, ...]:
    """A Swarm's overlay networks as the host with that address has them: of ``docker network inspect -v``.

    Tasks of ``host`` are behind ports ``veth-`` and seven digits of their endpoint, others at their hosts. Balancers'
    endpoints are told by their own host alone: give the outputs of all hosts, by their addresses, to have them. Without
    addresses the output is of the host that its containers' tasks say, or else of ``host``. Networks that are no
    overlays are passed over. SpecError: something is malformed, or a network is encrypted, which no node does.
    """
    own = Object("argument", {"host": host}).address("host")
    return tuple(spec for seen in _views(inspect).values() for spec in _swarm_networks(seen, own, False))


def _views(inspect: Json | Mapping[str, Json]) -> dict[str, list[tuple[str | None, Object]]]:
    """Overlay networks by their ids: who inspected them, and what he saw."""
    outputs: Iterable[tuple[str | None, Json]] = inspect.items() if isinstance(inspect, Mapping) else [(None, inspect)]
    views: dict[str, list[tuple[str | None, Object]]] = {}
    for key, output in outputs:
        source, inspector = "inspect", None
        if key is not None:
            inspector = Object("inspect", {"host": key}).address("host")
            source = f"inspect {inspector}"
        for network in read_objects(source, output):
            if network.text("Driver", "overlay") == "overlay":
                name = network.word("Name")
                view = Object(f"{source}: {name}", network.values)
                views.setdefault(view.text("Id", name), []).append((inspector, view))
    return views


def spec_from_docker(
    inspect: Json | Mapping[str, Json],
    *,
    vtep: str,
    name: str = "node",
    port: int = DEFAULT_PORT,
    services: Json = (),
    lan: NetworkSpec | None = None,
    profile: str = "fixed",
) -> NodeSpec:
    """The node that a Swarm's host with the data path address ``vtep`` is; see ``networks_from_docker``.

    ``port``: the Swarm's data path port. Outer UDP checksums are on, as a Swarm's are. The MTU is the least that a
    network's options name, 1500 where none does. ``services``: of ``docker service inspect $(docker service ls -q)``;
    ``lan``: the network by whose addresses of this node ports are published. ``profile``: see ``MeshSpec``; with
    "swarm" the host's load balancers are the node itself, with their addresses.
    """
    host = Object("argument", {"host": vtep}).address("host")
    views = _views(inspect)
    swarm = profile == "swarm"
    networks = tuple(spec for seen in views.values() for spec in _swarm_networks(seen, host, swarm))
    seen = [view for both in views.values() for _, view in both]
    made = services_from_docker(services, swarm_networks(seen), lan=lan)
    options = [view.object("Options") for view in seen]
    with said_of("inspect"):
        mtu = min([_mtu(one) for one in options if _MTU in one], default=_MTU_DEFAULT)
        return NodeSpec(
            vtep=(vtep,), name=name, port=port, mtu=mtu, udp_csum="on",
            network=((lan,) if lan is not None else ()) + networks, service=made, mesh=MeshSpec(profile=profile),
        )  # fmt: skip


def _mtu(options: Object) -> int:
    text = options.text(_MTU)
    if not re.fullmatch("[0-9]{1,5}", text):
        raise options.wrong(_MTU, "a number of bytes, of the underlay")
    return int(text)


# --- node.toml ------------------------------------------------------------------------------------------


def _value(key: str, value: object) -> str:
    """A value as TOML has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, tuple):
        texts = [_value(key, text) for text in value]
        return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    if not isinstance(value, str) or any("\ud800" <= char <= "\udfff" for char in value):
        raise SpecError(f"{key} = {shown(value)}: a text of TOML is of Unicode's characters")
    # JSON's escapes are TOML's; DEL it leaves as it is.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _blocks(spec: Any, header: str, path: str) -> Iterator[str]:
    """The table of a spec, and those of the specs in it."""
    lines, nested = [header], []
    for field in fields(spec):
        value = getattr(spec, field.name)
        if type(value) is type(field.default) and value == field.default:
            continue
        if field.name == "vni" and value > VNI_MAX:
            continue  # a network without tunnels: the node numbers it
        if is_dataclass(value):
            if value != type(value)():  # type: ignore[misc]
                nested.append((value, f"[{field.name}]", f"{field.name}."))
        elif isinstance(value, tuple) and value and is_dataclass(value[0]):
            nested += [(one, f"[[{path}{field.name}]]", f"{path}{field.name}.") for one in value]
        else:
            lines.append(f"{field.name} = {_value(field.name, value)}")
    yield "\n".join(lines)
    for one, head, inner in nested:
        yield from _blocks(one, head, inner)


def to_toml(spec: NodeSpec) -> str:
    """``spec`` as the text of a node.toml, defaults left out; ``parse_spec`` makes an equal spec of it.

    >>> print(to_toml(NodeSpec(vtep=("192.0.2.1",), ttl=9)), end="")
    [node]
    vtep = "192.0.2.1"
    ttl = 9
    """
    return "\n\n".join(_blocks(spec, "[node]", "")) + "\n"
