"""Route netlink in any network namespace: sockets of our own, pyroute2's messages, rows with iproute2's keys.

pyroute2's ``IPRoute`` brings an event loop and its ``NetNS`` a process; a socket made by a thread inside the namespace
needs neither, may be polled, and says when the kernel had to drop events (ENOBUFS).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Self, TypeVar

from vxlanfast.errors import DeviceError, MissingLibraryError

#: A namespace: its name as ``ip netns`` has it, a path, or a process's number. None: this process's.
Namespace = str | int | None

#: linux/rtnetlink.h: kinds of messages, and the groups that they are told to.
NEWLINK, DELLINK, GETLINK = 16, 17, 18
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWNEIGH, DELNEIGH, GETNEIGH = 28, 29, 30
GROUP_LINK, GROUP_NEIGH, GROUP_IPV4_IFADDR, GROUP_IPV6_IFADDR = 1, 3, 5, 9
BRIDGE = 7  # AF_BRIDGE
FILTER_BRVLAN = 2  # RTEXT_FILTER_BRVLAN: with a bridge's VLANs
#: linux/netlink.h.
_REQUEST, _ACK, _ROOT, _MATCH = 1, 4, 0x100, 0x200
REPLACE, EXCLUSIVE, CREATE = 0x100, 0x200, 0x400
_MULTI, _DUMP_INTERRUPTED, _CAPPED, _ACK_TLVS = 2, 0x10, 0x100, 0x200
_ERROR, _DONE, _OVERRUN = 2, 3, 4
_SOL_NETLINK, _ADD_MEMBERSHIP, _CAP_ACK, _EXT_ACK = 270, 1, 10, 11
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR_TEXT = 1  # NLMSGERR_ATTR_MSG
_BUFFER_LEN = 1 << 17
_EVENTS_LEN = 8 << 20  # for bursts: an entry of a table is some 100 bytes
_TIMEOUT_S = 10.0
_DUMPS = 5  # of a table that changes meanwhile
_NEWNET = 0x40000000  # CLONE_NEWNET

_FLAG_ROUTER, _FLAG_EXTERN, _FLAG_PROXY = 0x80, 0x10, 0x08
#: Flags and states of neighbours, as ``bridge`` and ``ip`` print them (linux/neighbour.h).
_FLAGS = {0x02: "self", 0x04: "master", 0x80: "router", 0x10: "extern_learn", 0x20: "offload", 0x40: "sticky"}
_STATES = {
    0x01: "INCOMPLETE", 0x02: "REACHABLE", 0x04: "STALE", 0x08: "DELAY", 0x10: "PROBE", 0x20: "FAILED",
    0x40: "NOARP", 0x80: "PERMANENT",
}  # fmt: skip
_FAMILIES = {"ndmsg": "rtnl.ndmsg", "ifinfmsg": "rtnl.ifinfmsg", "ifaddrmsg": "rtnl.ifaddrmsg", "rtmsg": "rtnl.rtmsg"}
_OF_KIND = {
    **dict.fromkeys((NEWLINK, DELLINK, GETLINK), "ifinfmsg"), **dict.fromkeys((NEWADDR, DELADDR, GETADDR), "ifaddrmsg"),
    **dict.fromkeys((NEWROUTE, DELROUTE, GETROUTE), "rtmsg"), **dict.fromkeys((NEWNEIGH, DELNEIGH, GETNEIGH), "ndmsg"),
}  # fmt: skip

Row = dict[str, Any]
_Result = TypeVar("_Result")


def library(module: str) -> Any:
    """A module below ``pyroute2.netlink``. MissingLibraryError: pyroute2 is not installed."""
    try:
        return importlib.import_module(f"pyroute2.netlink.{module}")
    except ImportError as error:
        rule = "devices are handled with pyroute2, which is not installed: pip install 'vxlanfast[live]'"
        raise MissingLibraryError(rule, name="pyroute2") from error


# --- namespaces -------------------------------------------------------------------------------------------


def namespace_path(namespace: str | int) -> str:
    """The file that is a namespace."""
    text = str(namespace)
    if "/" in text:
        return text
    named = f"/run/netns/{text}"
    return f"/proc/{text}/ns/net" if text.isdecimal() and not os.path.exists(named) else named


def open_namespace(namespace: Namespace) -> int:
    """A descriptor of a namespace, for the caller to close. DeviceError: there is no such one."""
    path = "/proc/self/ns/net" if namespace is None else namespace_path(namespace)
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ESRCH):
            rule = f"no such network namespace ({path}); `ip netns list` names them"
        else:
            rule = f"{path}: {error.strerror}: entering a network namespace needs root"
        raise DeviceError(f"namespace {namespace}: {rule}", errno=error.errno, path=path) from None


def in_namespace(namespace: Namespace, call: Callable[[], _Result]) -> _Result:
    """What ``call`` returns or raises inside a namespace: it runs in a thread that ends with it, so that neither this
    thread nor the process ever is elsewhere. What it opens stays in the namespace. DeviceError: it cannot be entered.
    """
    if namespace is None:
        return call()
    there = open_namespace(namespace)
    try:
        return in_opened(there, namespace, call)
    finally:
        os.close(there)


def in_opened(there: int, namespace: Namespace, call: Callable[[], _Result]) -> _Result:
    """As ``in_namespace``, by a descriptor of it."""
    results: list[_Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            if ctypes.CDLL(None, use_errno=True).setns(there, _NEWNET):
                code = ctypes.get_errno()
                rule = "it is no network namespace" if code == errno.EINVAL else "entering it needs root"
                raise DeviceError(f"namespace {namespace}: {os.strerror(code)}: {rule}", errno=code)
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="vxlanfast-netns", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


# --- a socket ---------------------------------------------------------------------------------------------


class Overrun(Exception):
    """The kernel dropped events that nobody fetched in time: what is known has to be asked for again."""


class Netlink:
    """A route netlink socket in a namespace; ``groups``: it is told of what changes, and is non-blocking.

    A context manager; ``fileno`` may be polled. DeviceError: the namespace cannot be entered.
    """

    def __init__(self, namespace: Namespace = None, groups: Sequence[int] = ()) -> None:
        library("rtnl")
        self.namespace = namespace
        self.malformed = 0  # events that could not be read
        self._sequence = 0
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._sock = in_namespace(namespace, lambda: socket.socket(socket.AF_NETLINK, kind, 0))
        try:
            for option in (_CAP_ACK, _EXT_ACK):
                with contextlib.suppress(OSError):
                    self._sock.setsockopt(_SOL_NETLINK, option, 1)
            if groups:
                self._widen()
            self._sock.bind((0, 0))
            for group in groups:
                self._sock.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        except BaseException:
            self._sock.close()
            raise
        self._sock.settimeout(0 if groups else _TIMEOUT_S)

    def _widen(self) -> None:
        """A receive buffer for bursts; without root it is what the system allows."""
        for option in (33, socket.SO_RCVBUF):  # SO_RCVBUFFORCE
            try:
                self._sock.setsockopt(socket.SOL_SOCKET, option, _EVENTS_LEN)
                return
            except OSError:
                continue

    def fileno(self) -> int:
        """The descriptor, -1 once it is closed."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close it; again is no error."""
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, kind: int, flags: int, fields: Mapping[str, Any], attributes: Mapping[str, Any], raw: bytes) -> int:
        message = _message_class(kind)()
        for key, value in fields.items():
            message[key] = value
        message["attrs"] = [(key, value) for key, value in attributes.items()]
        self._sequence += 1
        message["header"] |= {"type": kind, "flags": flags | _REQUEST, "sequence_number": self._sequence}
        message.encode()
        data = bytearray(message.data) + raw
        struct.pack_into("=I", data, 0, len(data))
        self._sock.send(data)
        return self._sequence

    def _answers(self, sequence: int, what: str) -> Iterator[tuple[int, int, bytes]]:
        """Kind, flags and the whole of each message that answers, to the last. DeviceError: the kernel refuses."""
        while True:
            try:
                data = self._sock.recv(_BUFFER_LEN)
            except TimeoutError:
                rule = f"the kernel did not answer within {_TIMEOUT_S:g} s"
                raise DeviceError(f"{what}: {rule}", errno=errno.ETIMEDOUT) from None
            for kind, flags, number, message in _split(data):
                if number != sequence:
                    continue  # of a request that was given up
                if kind == _ERROR or (kind == _DONE and len(message) >= 20):
                    (code,) = struct.unpack_from("=i", message, 16)
                    if code:
                        raise _refusal(what, -code, _error_text(message, flags) if kind == _ERROR else "")
                if kind in (_ERROR, _DONE):
                    return
                yield kind, flags, message
                if not flags & _MULTI:
                    return

    def request(
        self, kind: int, fields: Mapping[str, Any], attributes: Mapping[str, Any], *, what: str,
        flags: int = 0, raw: bytes = b"",
    ) -> None:  # fmt: skip
        """Have something done; ``raw``: attributes that pyroute2 does not know. DeviceError, beginning with ``what``:
        the kernel refuses."""
        sequence = self._send(kind, flags | _ACK, fields, attributes, raw)
        for _ in self._answers(sequence, what):
            pass

    def get(self, kind: int, fields: Mapping[str, Any], attributes: Mapping[str, Any], *, what: str) -> Any:
        """The one message that answers. DeviceError, beginning with ``what``: the kernel refuses."""
        sequence = self._send(kind, 0, fields, attributes, b"")
        return next(_decoded(kind, message) for kind, _, message in self._answers(sequence, what))

    def dump(self, kind: int, **fields: Any) -> list[Any]:
        """All of a table, asked for again where it changed meanwhile. Attributes are given by their names."""
        attributes = {key: fields.pop(key) for key in list(fields) if key.isupper()}
        for _ in range(_DUMPS):
            sequence = self._send(kind, _ROOT | _MATCH, fields, attributes, b"")
            answers = list(self._answers(sequence, "netlink"))
            if not any(flags & _DUMP_INTERRUPTED for _, flags, _ in answers):
                break
        return [_decoded(kind, message) for kind, _, message in answers]

    def events(self, most: int = 1 << 30) -> Iterator[tuple[int, Any]]:
        """Kind and message of what has happened, as far as it has been told, some ``most`` of them; never waits.
        Overrun: there was more, which is lost."""
        told = 0
        while told < most:
            try:
                data = self._sock.recv(_BUFFER_LEN)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                raise Overrun from None
            for kind, _, _, message in _split(data):
                if kind == _OVERRUN:
                    raise Overrun
                if kind in _OF_KIND:
                    told += 1
                    try:
                        decoded = _decoded(kind, message)
                    except Exception:  # of a newer kernel, in what way pyroute2 alone knows
                        self.malformed += 1
                        continue
                    yield kind, decoded


def _split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Kind, flags, sequence number and the whole of each message of a datagram."""
    at = 0
    while at + _HEADER.size <= len(data):
        size, kind, flags, number, _ = _HEADER.unpack_from(data, at)
        if size < _HEADER.size or at + size > len(data):
            return
        yield kind, flags, number, data[at : at + size]
        at += (size + 3) & ~3


def _error_text(message: bytes, flags: int) -> str:
    """What the kernel says of an error in words, or nothing."""
    if not flags & _ACK_TLVS or len(message) < 36:
        return ""
    (inner,) = struct.unpack_from("=I", message, 20)
    at = 36 if flags & _CAPPED else 20 + ((inner + 3) & ~3)
    while at + 4 <= len(message):
        size, kind = _ATTRIBUTE.unpack_from(message, at)
        if size < 4:
            break
        if kind & 0x3FFF == _ERROR_TEXT:
            text = message[at + 4 : at + size].split(b"\0")[0].decode(errors="replace").strip(" .")
            return "".join(char for char in text if char.isprintable())
        at += (size + 3) & ~3
    return ""


_REMEDIES = {
    errno.EPERM: "changing devices needs root (CAP_NET_ADMIN)",
    errno.EACCES: "changing devices needs root (CAP_NET_ADMIN)",
    errno.EEXIST: "the name is taken",
    errno.EBUSY: "it is in use",
}


def _refusal(what: str, code: int, text: str) -> DeviceError:
    said = text or os.strerror(code)
    remedy = _REMEDIES.get(code) if not text or code in (errno.EPERM, errno.EACCES) else None
    return DeviceError(f"{what}: {said}{f': {remedy}' if remedy else ''}", errno=code)


def _message_class(kind: int) -> Any:
    name = _OF_KIND[kind]
    return getattr(library(_FAMILIES[name]), name)


def _decoded(kind: int, data: bytes) -> Any:
    message = _message_class(kind)(data)
    message.decode()
    return message


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute's bytes."""
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + bytes(-len(value) % 4)


# --- rows with iproute2's keys ----------------------------------------------------------------------------


def link_row(message: Any, names: Mapping[int, str]) -> Row:
    """A device as ``ip -j -d link show`` has it, as far as a node reads it; with ``link_index`` of what it is on."""
    row: Row = {
        "ifindex": message["index"], "ifname": message.get_attr("IFLA_IFNAME") or "",
        "mtu": message.get_attr("IFLA_MTU") or 0, "address": message.get_attr("IFLA_ADDRESS") or "",
        "up": bool(message["flags"] & 1), "running": bool(message["flags"] & 0x10000),
        "gso_max_size": message.get_attr("IFLA_GSO_MAX_SIZE") or 0,
    }  # fmt: skip
    master = message.get_attr("IFLA_MASTER")
    if master:
        row["master"], row["master_index"] = names.get(master, f"if{master}"), master
    if message.get_attr("IFLA_LINK"):
        row["link_index"] = message.get_attr("IFLA_LINK")
    info = message.get_attr("IFLA_LINKINFO")
    if info is None:
        return row
    kind, data = info.get_attr("IFLA_INFO_KIND") or "", info.get_attr("IFLA_INFO_DATA")
    inner: Row = {"info_kind": kind}
    if kind == "vxlan" and data is not None:
        inner["info_data"] = _vxlan_row(data)
    elif kind == "vlan" and data is not None:
        inner["info_data"] = {"id": data.get_attr("IFLA_VLAN_ID")}
    elif kind == "bridge" and data is not None:
        filtering = data.get_attr("IFLA_BR_VLAN_FILTERING")
        inner["info_data"] = {"vlan_filtering": int(filtering or 0)}
    slave, data = info.get_attr("IFLA_INFO_SLAVE_KIND"), info.get_attr("IFLA_INFO_SLAVE_DATA")
    if slave:
        inner["info_slave_kind"] = slave
        suppress = data.get_attr("IFLA_BRPORT_NEIGH_SUPPRESS") if slave == "bridge" and data is not None else None
        inner["info_slave_data"] = {"neigh_suppress": bool(suppress)}
    row["linkinfo"] = inner
    return row


def _vxlan_row(data: Any) -> Row:
    """A vxlan device's settings."""

    def said(name: str) -> Any:
        return data.get_attr(f"IFLA_VXLAN_{name}")

    row: Row = {"id": said("ID") or 0, "tos": f"{said('TOS') or 0:#x}"}
    for key, name in (("ttl", "TTL"), ("ageing", "AGEING"), ("limit", "LIMIT"), ("port", "PORT")):
        if said(name) is not None:
            row[key] = int(said(name))
    for key in ("local", "local6", "group", "group6"):
        text = said(key.upper())
        if text and not ip_address(text).is_unspecified:
            row[key] = text
    for key in ("learning", "proxy", "udp_csum", "udp_zero_csum6_tx", "udp_zero_csum6_rx"):
        if said(key.upper()) is not None:
            row[key] = bool(said(key.upper()))
    for key in ("gbp", "gpe"):  # flags: they are there or not
        row[key] = any(name == f"IFLA_VXLAN_{key.upper()}" for name, *_ in data["attrs"])
    row["external"] = bool(said("COLLECT_METADATA"))
    row["df"] = {0: "unset", 1: "set", 2: "inherit"}.get(said("DF") or 0, "unset")
    return row


def fdb_row(message: Any, names: Mapping[int, str]) -> Row:
    """An entry as ``bridge -j fdb show`` has it."""
    number = message["state"]
    state = "permanent" if number & 0x80 else "static" if number & 0x40 else "stale" if number & 0x04 else ""
    row: Row = {
        "mac": message.get_attr("NDA_LLADDR") or "", "ifindex": message["ifindex"],
        "ifname": names.get(message["ifindex"], f"if{message['ifindex']}"),
        "flags": [text for bit, text in _FLAGS.items() if message["flags"] & bit], "state": state,
    }  # fmt: skip
    for key, name in (
        ("dst", "DST"), ("vlan", "VLAN"), ("port", "PORT"), ("vni", "VNI"), ("src_vni", "SRC_VNI"), ("nhid", "NH_ID"),
        ("via", "IFINDEX"), ("master", "MASTER"),
    ):  # fmt: skip
        value = message.get_attr(f"NDA_{name}")
        if value is not None:
            row[key] = value
    return row


def vlans_row(message: Any) -> Row:
    """A bridge's port, or the bridge itself: VLANs that leave it untagged, and the VNIs of VLANs."""
    row: Row = {"ifindex": message["index"], "untagged": [], "pvid": None, "tunnels": {}}
    spec = message.get_attr("IFLA_AF_SPEC")
    begun: tuple[int, int] | None = None
    for name, value in spec["attrs"] if spec is not None else ():
        if name == "IFLA_BRIDGE_VLAN_INFO":
            if value["flags"] & 4:  # BRIDGE_VLAN_INFO_UNTAGGED
                row["untagged"].append(value["vid"])
            if value["flags"] & 2:  # BRIDGE_VLAN_INFO_PVID
                row["pvid"] = value["vid"]
        elif name == "IFLA_BRIDGE_VLAN_TUNNEL_INFO":
            vid, vni, flags = (value.get_attr(f"IFLA_BRIDGE_VLAN_TUNNEL_{key}") or 0 for key in ("VID", "ID", "FLAGS"))
            if flags & 8:  # of a range: its first, and then its last
                begun = (vid, vni)
            elif flags & 16 and begun is not None:
                row["tunnels"] |= {begun[0] + n: begun[1] + n for n in range(vid - begun[0] + 1)}
            else:
                row["tunnels"][vid] = vni
    return row


def neigh_row(message: Any, names: Mapping[int, str]) -> Row:
    """A neighbour as ``ip -j neigh show`` has it."""
    row: Row = {
        "dst": message.get_attr("NDA_DST") or "", "ifindex": message["ifindex"],
        "dev": names.get(message["ifindex"], f"if{message['ifindex']}"),
        "state": [text for bit, text in _STATES.items() if message["state"] & bit],
    }  # fmt: skip
    if message.get_attr("NDA_LLADDR"):
        row["lladdr"] = message.get_attr("NDA_LLADDR")
    # iproute2 has a flag as a key without a value.
    for bit, key in ((_FLAG_ROUTER, "router"), (_FLAG_EXTERN, "extern_learn"), (_FLAG_PROXY, "proxy")):
        if message["flags"] & bit:
            row[key] = None
    return row
