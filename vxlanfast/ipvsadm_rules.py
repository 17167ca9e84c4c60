"""Services out of ``ipvsadm -S``, and as its text: the rules that ``ipvsadm -R`` takes.

A node translates addresses, which is ipvsadm's masquerading (``-m``). Whatever it does otherwise, or not at all, is a
SpecError in one line which names the line of the text, as is anything that ipvsadm would not have written.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import Any

from vxlanfast.addr import format_ip, parse_ip
from vxlanfast.errors import SpecError
from vxlanfast.foreign import said_of, shown
from vxlanfast.service_spec import ALL_PORTS, PROTOCOLS, ServerSpec, ServiceSpec, VirtualSpec, check_services

#: Seconds that ``-p`` means without a number, and the scheduler without ``-s``.
PERSISTENT_S, SCHEDULER = 360, "wlc"
#: What a kernel calls the flags of the schedulers that have some: fallback and with_port.
FLAGS = {"sh": ("sh-fallback", "sh-port"), "mh": ("mh-fallback", "mh-port")}
_FLAGS, _KEYS = ("flag-1", "flag-2"), ("fallback", "with_port")
_LONG = {
    "--add-service": "-A", "--edit-service": "-E", "--delete-service": "-D", "--clear": "-C", "--add-server": "-a",
    "--edit-server": "-e", "--delete-server": "-d", "--tcp-service": "-t", "--udp-service": "-u",
    "--fwmark-service": "-f", "--ipv6": "-6", "--scheduler": "-s", "--persistent": "-p", "--netmask": "-M",
    "--sched-flags": "-b", "--ops": "-o", "-O": "-o", "--real-server": "-r", "--masquerading": "-m",
    "--gatewaying": "-g", "--ipip": "-i", "--weight": "-w", "--u-threshold": "-x", "--l-threshold": "-y",
}  # fmt: skip
_WHO = {"-t": "tcp", "-u": "udp", "--sctp-service": "sctp", "-f": "fwm"}
_NAMES = {number: name for name, number in PROTOCOLS.items()}
#: What each command takes beside the service; and which of those have no value.
_COMMANDS = {
    "-A": "-s -p -M -b -o --pe", "-E": "-s -p -M -b -o --pe", "-D": "", "-C": "", "-d": "-r",
    "-a": "-r -m -g -i -w -x -y", "-e": "-r -m -g -i -w -x -y",
}  # fmt: skip
_BARE = ("-6", "-o", "-m", "-g", "-i")
_CANNOT = {
    "-g": "direct routing: a node translates addresses, as with -m",
    "-i": "tunnelling: a node translates addresses, as with -m",
    "-o": "one-packet scheduling: a node keeps connections of UDP too",
    "--pe": "a node has no persistence engines",
}


def host_port(address: str, port: object) -> str:
    """``192.0.2.1:80``, ``[2001:db8::1]:80``."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def mask_of(family: int, length: int) -> str:
    """The mask of persistent clients: IPv4's as an address, IPv6's as a length; "" where each is one of its own."""
    if length == (128 if family == 6 else 32):
        return ""
    return str(length) if family == 6 else str(IPv4Network((0, length)).netmask)


@dataclass(frozen=True, slots=True, order=True)
class _Key:
    """What a service is known by, in the order in which ipvsadm sorts them."""

    mark: int
    family: int
    proto: int
    address: bytes
    port: int

    @property
    def words(self) -> str:
        """As options."""
        if self.mark:
            return f"-f {self.mark}{' -6' if self.family == 6 else ''}"
        option = next(option for option, name in _WHO.items() if name == _NAMES[self.proto])
        return f"{option} {host_port(format_ip(self.address), self.port)}"

    @property
    def name(self) -> str:
        """As the name of a service."""
        if self.mark:
            return f"fwm {self.mark & 0xFFFFFFFF}{' ipv6' if self.family == 6 else ''}"
        return f"{_NAMES[self.proto]} {host_port(format_ip(self.address), self.port)}"


# --- read -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Service:
    line: int
    settings: dict[str, Any]
    servers: dict[tuple[bytes, int], ServerSpec] = field(default_factory=dict)


def _number(option: str, text: str, most: int) -> int:
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) > most:
        raise SpecError(f"{option} {shown(text)}: a whole number, 0 to {most}")
    return int(text)


def _port(option: str, text: str, proto: str) -> int:
    """A port, by its number or as the host's list of services calls it."""
    if re.fullmatch("[0-9]+", text):
        return _number(option, text, 65535)
    with suppress(OSError, ValueError):
        return socket.getservbyname(text, proto)
    raise SpecError(f"{option}: port {shown(text)}: a number, or a name that this host knows; ipvsadm -Sn has numbers")


def _place(option: str, text: str, proto: str, port: int) -> tuple[bytes, int]:
    """``192.0.2.1:80``, ``[2001:db8::1]:80``, or an address alone, which has ``port``."""
    host, name = text, None
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and rest[0] != ":"):
            raise SpecError(f"{option} {shown(text)}: an address and a port, such as [2001:db8::1]:80")
        name = rest[1:] if rest else None
    elif text.count(":") == 1:
        host, _, name = text.partition(":")
    try:
        packed = parse_ip(host)
    except SpecError:
        raise SpecError(f"{option} {shown(host)}: an address; ipvsadm -Sn has no names of hosts") from None
    return packed, port if name is None else _port(option, name, proto)


def _options(words: list[str], allowed: str) -> dict[str, str]:
    """Options and their values, by the short name; each once."""
    found: dict[str, str] = {}
    takes = (*_WHO, "-6", *allowed.split())
    at = 0
    while at < len(words):
        word, equals, value = words[at].partition("=") if words[at].startswith("--") else (words[at], "", "")
        option = _LONG.get(word, word)
        at += 1
        if option in _CANNOT and option in takes:
            raise SpecError(f"{word}: {_CANNOT[option]}")
        if option not in takes:
            raise SpecError(f"{shown(word)}: an option that services of a node do not have")
        if option in found:
            raise SpecError(f"{word}: given twice")
        optional = option == "-p" and (at == len(words) or words[at].startswith("-"))
        if not equals and option not in _BARE and not optional:
            if at == len(words):
                raise SpecError(f"{word}: a value is missing")
            value = words[at]
            at += 1
        elif equals and option in _BARE:
            raise SpecError(f"{word}: takes no value")
        found[option] = value
    return found


def _key(options: dict[str, str]) -> _Key:
    """Which service is meant."""
    who = [option for option in _WHO if option in options]
    if len(who) != 1:
        raise SpecError("one of -t, -u, --sctp-service and -f says which service")
    [option] = who
    if "-6" in options and option != "-f":
        raise SpecError("-6: it is of -f; an address says its family itself")
    text = options[option]
    if option == "-f":
        # It is printed as a number with a sign, which it has not.
        negative = text.startswith("-")
        mark = _number(option, text[negative:], 0x80000000 if negative else 0xFFFFFFFF)
        mark = -mark if negative else mark - (mark >> 31 << 32)
        if mark == 0:
            raise SpecError("-f 0: 1 to 4294967295")
        return _Key(mark, 6 if "-6" in options else 4, 0, b"", 0)
    packed, port = _place(option, text, _WHO[option], 0)
    return _Key(0, 4 if len(packed) == 4 else 6, PROTOCOLS[_WHO[option]], packed, port)


def _settings(key: _Key, options: dict[str, str]) -> dict[str, Any]:
    """What ``-A`` says of a service."""
    scheduler = options.get("-s", SCHEDULER)
    settings: dict[str, Any] = {"scheduler": scheduler}
    for flag in options["-b"].split(",") if "-b" in options else ():
        names = FLAGS.get(scheduler, ())
        known = {name: meant for pair in (names, _FLAGS) if names for name, meant in zip(pair, _KEYS, strict=True)}
        if flag not in known:
            raise SpecError(f"-b {shown(flag)}: {', '.join(names) or 'only sh and mh have flags'}")
        settings[known[flag]] = True
    if "-p" in options:
        settings["persistent_s"] = _number("-p", options["-p"], 31 * 86400) if options["-p"] else PERSISTENT_S
        if "-M" in options:
            settings[f"persistent{key.family}"] = _mask(key.family, options["-M"])
    if not key.mark and not key.port and "-p" not in options:
        raise SpecError("port 0: a service of all ports is persistent, with -p")
    return settings


def _mask(family: int, text: str) -> int:
    if family == 6:
        return _number("-M", text, 128)
    with suppress(SpecError):
        packed = parse_ip(text)
        length = int.from_bytes(packed).bit_count()
        if len(packed) == 4 and IPv4Network((0, length)).netmask.packed == packed:
            return length
    raise SpecError(f"-M {shown(text)}: a mask such as 255.255.255.0")


def _server(key: _Key, options: dict[str, str]) -> ServerSpec:
    """What ``-a`` says of a server."""
    packed, port = _real(key, options)
    if "-m" not in options:
        raise SpecError(f"no -m: {_CANNOT['-g']}")
    numbers = {
        name: _number(option, options[option], 0x7FFFFFFF)
        for option, name in (("-w", "weight"), ("-x", "upper"), ("-y", "lower"))
        if option in options
    }
    return ServerSpec(address=format_ip(packed), port=port, **numbers)


def _real(key: _Key, options: dict[str, str]) -> tuple[bytes, int]:
    if "-r" not in options:
        raise SpecError("-r: missing")
    packed, port = _place("-r", options["-r"], _NAMES[key.proto] if key.proto else "tcp", key.port)
    if len(packed) != (4 if key.family == 4 else 16):
        raise SpecError(f"-r {shown(options['-r'])}: of the service's family, IPv{key.family}")
    return packed, port


def _obey(services: dict[_Key, _Service], line: int, words: list[str]) -> None:
    """One line."""
    command = _LONG.get(words[0], words[0])
    if command not in _COMMANDS:
        raise SpecError(f"{shown(words[0])}: a command that says nothing of services")
    options = _options(words[1:], _COMMANDS[command])
    if command == "-C":
        services.clear()
        return
    key = _key(options)
    if (key in services) == (command == "-A"):
        raise SpecError(f"{key.words}: {'it is there already' if command == '-A' else 'there is no such service'}")
    if command in ("-A", "-E"):
        made = _Service(line, _settings(key, options), services[key].servers if key in services else {})
        ServiceSpec(name=key.name, **made.settings)
        services[key] = made
    elif command == "-D":
        del services[key]
    else:
        servers, place = services[key].servers, _real(key, options)
        if (place in servers) == (command == "-a"):
            raise SpecError(f"-r {options['-r']}: {'it is there already' if command == '-a' else 'no such server'}")
        if command == "-d":
            del servers[place]
        else:
            servers[place] = _server(key, options)


def services_from_ipvsadm(
    text: str | bytes, *, network: str, servers_in: str = "", marks: Mapping[int, Sequence[VirtualSpec]] | None = None
) -> tuple[ServiceSpec, ...]:
    """The services of ``ipvsadm -Sn``, or of any commands that add, edit and delete services and servers.

    ``network``: of the virtual addresses; ``servers_in``: of the servers, if it is another one. ``marks``: what the
    host's firewall marks with a number, which ipvsadm does not know. Ports by name (``-S``) are those of this host's
    list. SpecError: a line cannot be understood, or says what no node does.

    >>> rules = "-A -t 192.0.2.1:80 -s rr\\n-a -t 192.0.2.1:80 -r 10.0.9.3:8080 -m -w 1\\n"
    >>> [one] = services_from_ipvsadm(rules, network="web")
    >>> one.name, one.virtual[0].port, one.server[0].port
    ('tcp 192.0.2.1:80', 80, 8080)
    >>> to_ipvsadm([one]) == rules
    True
    """
    services: dict[_Key, _Service] = {}
    for number, line in enumerate(_lines(text), 1):
        words = line.split()
        if words[:1] == ["ipvsadm"]:
            del words[0]
        if words and not words[0].startswith("#"):
            with said_of(f"ipvsadm: line {number}"):
                _obey(services, number, words)
    made = []
    for key, service in services.items():
        with said_of(f"ipvsadm: line {service.line}"):
            virtual, server = _virtual(key, network, marks or {}), tuple(service.servers.values())
            made.append(
                ServiceSpec(name=key.name, virtual=virtual, servers_in=servers_in, server=server, **service.settings)
            )
    with said_of("ipvsadm"):
        check_services(tuple(made))
    return tuple(made)


def _lines(text: str | bytes) -> list[str]:
    try:
        return (text.decode() if isinstance(text, bytes) else text).split("\n")
    except UnicodeDecodeError as error:
        raise SpecError(f"ipvsadm: byte {error.start} is not UTF-8") from None


def _virtual(key: _Key, network: str, marks: Mapping[int, Sequence[VirtualSpec]]) -> tuple[VirtualSpec, ...]:
    if key.mark:
        size = 4 if key.family == 4 else 16
        found = tuple(one for one in marks.get(key.mark & 0xFFFFFFFF, ()) if len(parse_ip(one.address)) == size)
        if not found:
            raise SpecError(f"{key.name}: what IPv{key.family} has this firewall mark is not said; give it as marks")
        return found
    port = key.port or "{}-{}".format(*ALL_PORTS)
    return (VirtualSpec(network=network, address=format_ip(key.address), protocol=_NAMES[key.proto], port=port),)


# --- write ----------------------------------------------------------------------------------------------


def _keys(service: ServiceSpec, marks: Mapping[str, int]) -> Iterator[_Key]:
    """A service of a node is one for each family."""
    for family in service.families:
        virtual = [one for one in service.virtual if len(parse_ip(one.address)) == (4 if family == 4 else 16)]
        if service.name in marks:
            mark = marks[service.name]
            if not 1 <= mark <= 0xFFFFFFFF:
                raise SpecError(f"mark {mark}: 1 to 4294967295")
            yield _Key(mark - (mark >> 31 << 32), family, 0, b"", 0)
            continue
        first, last = virtual[0].ports
        whole = (first, last) == ALL_PORTS and service.persistent_s > 0
        if len(virtual) > 1 or virtual[0].protocol == "any" or (first != last and not whole) or virtual[0].sources:
            raise SpecError("not one port of a protocol for anybody: ipvsadm needs a firewall mark; give marks")
        number = PROTOCOLS[virtual[0].protocol]
        yield _Key(0, family, number, parse_ip(virtual[0].address), 0 if whole else first)


def _check(service: ServiceSpec) -> None:
    """What ipvsadm has no word for."""
    usual = ServiceSpec(name="")
    for key in ("masquerade", "publish", "removal", "reset_idle", "tcp_s", "fin_s", "udp_s"):
        if getattr(service, key) != getattr(usual, key):
            raise SpecError(f"{key}: ipvsadm has no word for it")
    if not service.virtual:
        raise SpecError("virtual: missing")
    if any(virtual.target for virtual in service.virtual):
        raise SpecError("target: ipvsadm has no word for it; servers have ports")
    if service.scheduler == "dh" and (service.fallback or service.with_port):
        raise SpecError("fallback, with_port: dh has no flags")


def scheduler_flags(scheduler: str, fallback: bool, with_port: bool) -> list[str]:
    """The words that ``-b`` takes."""
    names = FLAGS.get(scheduler, _FLAGS)
    return [name for name, is_set in zip(names, (fallback, with_port), strict=True) if is_set]


def _rules(service: ServiceSpec, key: _Key) -> Iterator[str]:
    words = [f"-A {key.words} -s {service.scheduler}"]
    if service.persistent_s:
        words.append(f"-p {service.persistent_s}")
        mask = mask_of(key.family, service.persistent6 if key.family == 6 else service.persistent4)
        words += [f"-M {mask}"] if mask else []
    if service.scheduler in FLAGS and (service.fallback or service.with_port):
        words.append(f"-b {','.join(scheduler_flags(service.scheduler, service.fallback, service.with_port))}")
    yield " ".join(words)
    places = [(parse_ip(server.address), server.port, server) for server in service.server]
    for packed, port, server in sorted(places, key=lambda place: place[:2]):
        if len(packed) != (4 if key.family == 4 else 16):
            continue
        words = [f"-a {key.words} -r {host_port(format_ip(packed), port)} -m -w {server.weight}"]
        # ipvsadm forgets them when it saves, but takes them when it restores.
        words += [f"-x {server.upper}"] if server.upper else []
        words += [f"-y {server.lower}"] if server.lower else []
        yield " ".join(words)


def to_ipvsadm(services: Iterable[ServiceSpec], *, marks: Mapping[str, int] | None = None) -> str:
    """Services as ``ipvsadm -Sn`` prints them, in its order, and as ``ipvsadm -R`` takes them.

    ``marks``: firewall marks by the names of services; what has them is not part of the text, and neither are the
    networks. SpecError: a service has what ipvsadm has no word for.
    """
    rules: dict[_Key, ServiceSpec] = {}
    for service in services:
        with said_of(f"service {service.name}"):
            _check(service)
            for key in _keys(service, marks or {}):
                if key in rules:
                    raise SpecError(f"{key.words}: service {rules[key].name} is that as well")
                rules[key] = service
    return "".join(f"{line}\n" for key in sorted(rules) for line in _rules(rules[key], key))
