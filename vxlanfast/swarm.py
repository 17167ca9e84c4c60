"""A Swarm's services as a node has them: out of ``docker service inspect`` and ``docker network inspect -v``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from vxlanfast.addr import parse_ip
from vxlanfast.checks import dns_name
from vxlanfast.errors import SpecError
from vxlanfast.foreign import Json, Object, read_objects, said_of
from vxlanfast.network_spec import NetworkSpec
from vxlanfast.service_spec import MODES, PROTOCOLS, PublishSpec, ServerSpec, ServiceSpec, VirtualSpec

_ID = "[0-9a-z]{1,64}"


@dataclass(frozen=True, slots=True)
class SwarmNetwork:
    """What services need to know of a network: its name, whether ports are published by it, each service's tasks."""

    name: str
    ingress: bool
    tasks: Mapping[str, tuple[str, ...]]


def swarm_networks(views: Iterable[Object]) -> dict[str, SwarmNetwork]:
    """The networks that objects of ``docker network inspect -v`` show, by their Docker ids: of one host or several."""
    networks: dict[str, SwarmNetwork] = {}
    for view in views:
        tasks: dict[str, tuple[str, ...]] = {}
        listed = view.object("Services")
        for name in listed.values:
            found = {task.address("EndpointIP") for task in listed.object(name).objects("Tasks")}
            tasks[name] = tuple(sorted(found, key=lambda text: (len(parse_ip(text)), parse_ip(text))))
        number = view.text("Id", view.text("Name"))
        seen = networks.get(number)
        if seen is not None:
            tasks = {**seen.tasks, **tasks}
        networks[number] = SwarmNetwork(view.word("Name"), view.flag("Ingress"), tasks)
    return networks


def name_of(entry: Object, key: str = "Name") -> str:
    """What DNS calls a task or a service; "": nothing, since DNS cannot have that name."""
    text = entry.text(key, "")
    with suppress(SpecError):
        return dns_name(key, text)
    return ""


def balancer_of(view: Object) -> str | None:
    """The number of a load balancer's endpoint in a network, where its host sees one."""
    containers = view.values.get("Containers")
    keys = ("ingress-sbox", f"lb-{view.word('Name')}")
    if not isinstance(containers, Mapping):
        return None
    found = next((key for key in keys if key in containers), None)
    return None if found is None else view.object("Containers").object(found).text("EndpointID")


def _publish(endpoint: Object, lan: NetworkSpec | None) -> Iterator[PublishSpec]:
    for port in endpoint.objects("Ports"):
        published = port.number("PublishedPort", 0, 65535)
        if not published:
            continue
        if lan is None:
            raise port.wrong("PublishedPort", "give the lan by whose addresses it is published")
        protocol, mode = port.text("Protocol", "tcp"), port.text("PublishMode", "ingress")
        if protocol not in PROTOCOLS or protocol == "any":
            raise port.wrong("Protocol", ", ".join(name for name in PROTOCOLS if name != "any"))
        if mode not in MODES:
            raise port.wrong("PublishMode", " or ".join(MODES))
        target = port.number("TargetPort", published, 65535)
        yield PublishSpec(network=lan.name, published=published, target=target, protocol=protocol, mode=mode)


def services_from_docker(
    services: Json, networks: Mapping[str, SwarmNetwork], *, lan: NetworkSpec | None = None
) -> tuple[ServiceSpec, ...]:
    """The services of ``docker service inspect $(docker service ls -q)``, in each network where they have a virtual
    address; what is published is in the ingress network, by the addresses of ``lan``.

    Services without virtual addresses (dnsrr) are DNS's alone. Clients know each by its own name, an alias here. The
    order in which Docker added tasks is nowhere to be seen: they are in the order of their addresses. SpecError:
    something is malformed.
    """
    return tuple(made for service in read_objects("services", services) for made in _service(service, networks, lan))


def _service(service: Object, networks: Mapping[str, SwarmNetwork], lan: NetworkSpec | None) -> Iterator[ServiceSpec]:
    name = service.object("Spec").word("Name")
    service = Object(f"services: {name}", service.values)
    endpoint = service.object("Endpoint")
    found: dict[str, str] = {}
    for entry in endpoint.objects("VirtualIPs"):
        number = entry.text("NetworkID")
        if not re.fullmatch(_ID, number):
            raise entry.wrong("NetworkID", "up to 64 digits and small letters")
        if number in networks and entry.text("Addr", ""):
            found[number] = entry.address("Addr")
    aliases = tuple(filter(None, (name_of(service.object("Spec")),)))
    for network in networks.values() if not found else ():
        if network.tasks.get(name) and not network.ingress:
            with said_of(service.where):
                yield ServiceSpec(
                    name=f"{name} in {network.name}", servers_in=network.name, aliases=aliases, dns="dnsrr",
                    server=tuple(ServerSpec(address=task) for task in network.tasks[name]),
                )  # fmt: skip
    for number, address in found.items():
        network = networks[number]
        publish = tuple(_publish(endpoint, lan)) if network.ingress else ()
        with said_of(service.where):
            yield ServiceSpec(
                name=f"{name} in {network.name}", virtual=(VirtualSpec(network=network.name, address=address),),
                servers_in=network.name, aliases=aliases, publish=publish,
                server=tuple(ServerSpec(address=task) for task in network.tasks.get(name, ())),
            )  # fmt: skip
