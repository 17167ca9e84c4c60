"""Single changes of a running plane, in the words of iproute2 and ipvsadm: as people write them, as requests, done.

    fdb replace|append|del MAC VNI|NETWORK PLACE...
    neigh replace|del ADDRESS lladdr MAC vni VNI|NETWORK [at PLACE]
    server add|edit|del SERVICE ADDRESS[:PORT] [-w WEIGHT] [-x UPPER] [-y LOWER]
    weight SERVICE ADDRESS[:PORT] WEIGHT
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vxlanfast.addr import parse_ip, parse_vni
from vxlanfast.checks import among, station
from vxlanfast.errors import SpecError
from vxlanfast.ipvsadm_rules import host_port
from vxlanfast.service_spec import ServerSpec

if TYPE_CHECKING:
    from vxlanfast.dataplane import Dataplane

#: What there is to change, each with its acts and its words.
USAGE = {
    "fdb": "fdb replace|append|del MAC VNI|NETWORK PLACE...",
    "neigh": "neigh replace|del ADDRESS lladdr MAC vni VNI|NETWORK [at PLACE]",
    "server": "server add|edit|del SERVICE ADDRESS[:PORT] [-w WEIGHT] [-x UPPER] [-y LOWER]",
    "weight": "weight SERVICE ADDRESS[:PORT] WEIGHT",
}
ACTS = {"fdb": ("replace", "append", "del"), "neigh": ("replace", "del"), "server": ("add", "edit", "del")}
_OPTIONS = {
    **dict.fromkeys(("-w", "--weight"), "weight"), **dict.fromkeys(("-x", "--u-threshold"), "upper"),
    **dict.fromkeys(("-y", "--l-threshold"), "lower"),
}  # fmt: skip
_MOST = {"weight": 65535, "upper": (1 << 32) - 1, "lower": (1 << 32) - 1}
Json = dict[str, Any]


# --- as people write them -------------------------------------------------------------------------------


def parse(words: Sequence[str]) -> Json:
    """Words as a request. SpecError: they are none of these."""
    what, *rest = words or ("",)
    if what not in USAGE:
        raise SpecError(f"set {what!r}: {', '.join(USAGE)}" if what else f"set: {', '.join(USAGE)}")
    act = "edit"
    if what in ACTS:
        act, *rest = rest or [""]
        if act not in ACTS[what]:
            raise SpecError(f"set {what} {act!r}: {', '.join(ACTS[what])}" if act else f"set {USAGE[what]}")
    request: Json = {"what": "server" if what == "weight" else what, "act": act}
    return request | {"fdb": _fdb, "neigh": _neigh, "server": _server, "weight": _weight}[what](act, rest)


def _usage(what: str) -> SpecError:
    return SpecError(f"set {USAGE[what]}: not what was given")


def _fdb(act: str, words: list[str]) -> Json:
    # Words that may stand in front of what they name, as in bridge(8).
    words = [word for word in words if word not in ("vni", "network", "dst", "at")]
    if len(words) < (2 if act == "del" else 3):
        raise _usage("fdb")
    return {"mac": words[0], **_network(words[1]), "places": words[2:]}


def _network(text: str) -> Json:
    """A VNI, or the name of a network; a lan has nothing else."""
    try:
        int(text, 0)
    except ValueError:
        return {"network": text}
    return {"vni": parse_vni(text)}


def _neigh(act: str, words: list[str]) -> Json:
    if not words or len(words) % 2 == 0:
        raise _usage("neigh")
    out: Json = {"address": words[0]}
    for key, value in zip(words[1::2], words[2::2], strict=True):
        if key not in ("lladdr", "vni", "network", "at"):
            raise SpecError(f"set neigh: {key!r}: lladdr, vni, network or at")
        out |= {"lladdr": {"mac": value}, "at": {"place": value}}.get(key) or _network(value)
    if not out.keys() & {"vni", "network"} or (act == "replace" and "mac" not in out):
        raise _usage("neigh")
    return out


def _server(act: str, words: list[str]) -> Json:
    if len(words) < 2 or len(words) % 2 or words[0].startswith("-"):
        raise _usage("server")
    out: Json = {"service": words[0], **_place(words[1])}
    for key, value in zip(words[2::2], words[3::2], strict=True):
        if key not in _OPTIONS:
            raise SpecError(f"set server: {key!r}: -w, -x or -y")
        out[_OPTIONS[key]] = _number(_OPTIONS[key], value)
    if act == "edit" and not out.keys() & _MOST.keys():
        raise SpecError("set server edit: -w, -x or -y says what changes")
    if act == "del" and out.keys() & _MOST.keys():
        raise SpecError("set server del: a service and a server, no more")
    return out


def _weight(act: str, words: list[str]) -> Json:
    if len(words) != 3:
        raise _usage("weight")
    return {"service": words[0], **_place(words[1]), "weight": _number("weight", words[2])}


def _number(key: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise SpecError(f"{key} {text!r}: 0 to {_MOST[key]}")
    return int(text[:20])


def _place(text: str) -> Json:
    """``192.0.2.1:80``, ``[2001:db8::1]:80``, either without a port."""
    address, port = text, "0"
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise SpecError(f"server {text!r}: [ADDRESS]:PORT")
        port = rest[1:] or "0"
    elif text.count(":") == 1:
        address, _, port = text.partition(":")
    if not (port.isascii() and port.isdigit() and int(port[:9]) <= 65535):
        raise SpecError(f"server {text!r}: a port is 0 to 65535")
    parse_ip(address)
    return {"address": address, "port": int(port)}


# --- done -----------------------------------------------------------------------------------------------


def change(plane: Dataplane, request: Mapping[str, Any], now_ns: int = 0) -> str:
    """Do what a request says; what was done, in a line. SpecError, TableFullError: nothing was."""
    what, act = _text(request, "what"), _text(request, "act")
    if act not in ACTS.get(what, ()):
        known = "; ".join(f"{name} {', '.join(acts)}" for name, acts in ACTS.items())
        raise SpecError(f"what = {what!r}, act = {act!r}: {known}")
    return {"fdb": _set_fdb, "neigh": _set_neigh, "server": _set_server}[what](plane, act, request, now_ns)


def _text(request: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = request.get(key, default)
    if not isinstance(value, str):
        raise SpecError(f"{key}: a string is needed")
    return value


def _whole(request: Mapping[str, Any], key: str, most: int, default: int | None = None) -> int:
    value = request.get(key, default)
    if type(value) is not int:
        raise SpecError(f"{key}: a number is needed")
    among(key, value, 0, most)
    return value


def _network_of(plane: Dataplane, request: Mapping[str, Any]) -> tuple[int, str]:
    """The number of the network that is meant, and what it is called."""
    if "network" not in request:
        vni = _whole(request, "vni", 0xFFFFFF)
        return vni, f"vni {vni}"
    name = _text(request, "network")
    found = [network.vni for network in plane.spec.network if network.name == name]
    if not found:
        known = ", ".join(dict.fromkeys(network.name for network in plane.spec.network))
        raise SpecError(f"network {name!r}: none of this node's; there are {known or 'none'}")
    if len(found) > 1:
        raise SpecError(f"network {name}: it has the VNIs {', '.join(map(str, found))}: one of them is to be said")
    return found[0], f"network {name}"


def _set_fdb(plane: Dataplane, act: str, request: Mapping[str, Any], now_ns: int) -> str:
    (vni, network), mac = _network_of(plane, request), _text(request, "mac")
    places = request.get("places", [])
    if not isinstance(places, list) or not all(isinstance(place, str) for place in places):
        raise SpecError("places: a list of ports' names and VTEPs' addresses")
    name = f"{station(mac).hex(':')} {network}"
    row = plane.station(vni, mac)
    if row is not None and row["state"] == "local":
        raise SpecError(f"fdb {name}: it is the node's own, and its spec says so")
    had = [] if row is None else str(row["place"]).split(",")
    if act == "del":
        if row is None:
            raise SpecError(f"fdb {name}: no such entry")
        gone = [_same(had, place) for place in places]
        if None in gone:
            raise SpecError(f"fdb {name}: not at {places[gone.index(None)]}; it is at {', '.join(had)}")
        left = [place for place in had if gone and place not in gone]
        if left:
            plane.set_station(vni, mac, *left)
            return f"fdb {name}: at {', '.join(left)} alone now"
        plane.delete_station(vni, mac)
        return f"fdb {name}: deleted, was at {', '.join(had)}"
    if act == "append":
        for place in places:
            if _same(had, place):
                raise SpecError(f"fdb {name}: it is at {place} already")
        places = [*had, *places]
    plane.set_station(vni, mac, *places)
    was = f", was at {', '.join(had)}" if had else ""
    return f"fdb {name}: at {', '.join(places)}{was}"


def _same(places: Sequence[str], wanted: str) -> str | None:
    """The place as it is known: an address may be written in several ways."""
    for place in places:
        if place == wanted:
            return place
        try:
            if parse_ip(place) == parse_ip(wanted):
                return place
        except SpecError:
            continue
    return None


def _set_neigh(plane: Dataplane, act: str, request: Mapping[str, Any], now_ns: int) -> str:
    (vni, network), address = _network_of(plane, request), _text(request, "address")
    name = f"{address} {network}"
    row = plane.neighbour(vni, address)
    if row is not None and row["gateway"]:
        raise SpecError(f"neigh {name}: it is the node's own, and its spec says so")
    if act == "del":
        if not plane.delete_neighbour(vni, address):
            raise SpecError(f"neigh {name}: no such entry")
        return f"neigh {name}: deleted, was {row['mac'] if row else '?'}"
    mac = _text(request, "mac")
    place = request.get("place")
    plane.set_neighbour(vni, address, mac, None if place is None else _text(request, "place"))
    was = f", was {row['mac']}" if row else ""
    return f"neigh {name}: lladdr {mac}{'' if place is None else f' at {place}'}{was}"


def _set_server(plane: Dataplane, act: str, request: Mapping[str, Any], now_ns: int) -> str:
    service, address = _text(request, "service"), _text(request, "address")
    port = _whole(request, "port", 65535, 0)
    parse_ip(address)
    given = {key: _whole(request, key, most) for key, most in _MOST.items() if key in request}
    name = f"service {service}: server {host_port(address, port)}"
    told = "".join(f", {key} {value}" for key, value in given.items())
    if act == "add":
        plane.add_server(service, ServerSpec(address=address, port=port, **given))
        return f"{name}: added{told}"
    if act == "del":
        ended = plane.remove_server(service, address, port, now_ns=now_ns)
        return f"{name}: removed; {ended:,} connection{'' if ended == 1 else 's'} ended with it"
    if not given:
        raise SpecError(f"{name}: weight, upper or lower says what changes")
    try:
        plane.set_server(service, address, port, **given)
    except SpecError:  # a ValueError that says service and server itself
        raise
    except (ValueError, OverflowError) as error:
        raise SpecError(f"{name}: {error}") from None
    return f"{name}: now{told[1:]}"
