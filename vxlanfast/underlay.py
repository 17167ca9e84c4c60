"""The way to other hosts, three kinds behind one interface: UDP sockets, a TAP device, a packet socket."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

import vxlanfast.links as links
from vxlanfast._ext.io.edge import LiveEdge
from vxlanfast._ext.io.tap import TapEdge
from vxlanfast._ext.io.udp import UdpEdge
from vxlanfast.addr import parse_ip, parse_mac
from vxlanfast.errors import DeviceError, MissingLibraryError, VxlanFastError
from vxlanfast.live_spec import LiveSpec
from vxlanfast.node_spec import NodeSpec
from vxlanfast.tap import GSO_MAX, Tap
from vxlanfast.underlay_packet import NOTHING, PacketUnderlay, attach_filter, forwarding_of, forwards

# Not in the socket module of Python 3.11 (include/uapi/linux/udp.h, in.h, in6.h, asm-generic/socket.h).
UDP_SEGMENT, UDP_GRO = 103, 104
IP_MTU_DISCOVER, IP_PMTUDISC_DONT, IP_PMTUDISC_DO = 10, 0, 2
IPV6_MTU_DISCOVER, IPV6_PMTUDISC_WANT, IPV6_PMTUDISC_DO = 23, 1, 2
IP_RECVERR, IPV6_RECVERR = 11, 25
SO_RCVBUFFORCE, SO_SNDBUFFORCE, SO_NO_CHECK = 33, 32, 11
#: Bytes that may wait to be sent, and of ICMP errors that wait to be read.
SEND_BUFFER = 1 << 22
ERROR_BUFFER = 1 << 15


class Underlay(Protocol):
    """Edges that packets of the underlay come and go by."""

    kind: str

    @property
    def edges(self) -> Sequence[LiveEdge]: ...

    def describe(self) -> str:
        """In a few words, for people."""

    def warnings(self) -> list[str]: ...

    def counters(self) -> dict[str, int]: ...

    def close(self) -> None: ...


def set_buffer(sock: socket.socket, option: int, forced: int, size: int) -> None:
    """As large as asked for where that is allowed, else as large as the system lets it be."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, forced, size)
    except OSError:
        sock.setsockopt(socket.SOL_SOCKET, option, size)


class SocketUnderlay:
    """UDP sockets at the VTEP's addresses: one of each family to receive by, ``spread`` of each to send by.

    A datagram's source port says which flow it is of (RFC 7348 §5): a flow takes the socket that its hash chooses. The
    source address is the VTEP's, which they are bound to. No privilege is needed above port 1023.
    """

    kind = "socket"

    def __init__(self, spec: NodeSpec, live: LiveSpec) -> None:
        self.sockets: list[socket.socket] = []
        self.edges: list[UdpEdge] = []
        self.receivers: list[socket.socket] = []
        self.senders: list[socket.socket] = []  # their error queues say what became of packets
        self.port = spec.port
        self.addresses = spec.vtep
        try:
            for text in spec.vtep:
                self._open(text, spec, live)
        except BaseException:
            self.close()
            raise
        if len(self.edges) > 1:
            self.edges[0].also(self.edges[1])

    def _open(self, text: str, spec: NodeSpec, live: LiveSpec) -> None:
        packed = parse_ip(text)
        receiver = self._bound(text, spec.port)
        self.receivers.append(receiver)
        set_buffer(receiver, socket.SO_RCVBUF, SO_RCVBUFFORCE, live.receive_buffer)
        with suppress(OSError):  # without it each datagram comes alone
            receiver.setsockopt(socket.IPPROTO_UDP, UDP_GRO, int(live.offload))
        if len(packed) == 4:
            receiver.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        else:
            receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        fan = []
        gso = live.offload and spec.udp_csum != "off"  # the kernel does not cut datagrams without a checksum
        for _ in range(live.spread):
            sender = self._bound(text, 0)
            fan.append(sender.fileno())
            self.senders.append(sender)
            attach_filter(sender, NOTHING)  # nobody has to write to it
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ERROR_BUFFER)
            set_buffer(sender, socket.SO_SNDBUF, SO_SNDBUFFORCE, SEND_BUFFER)
            if len(packed) == 4:
                sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO if spec.df else IP_PMTUDISC_DONT)
                sender.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, spec.ttl)
                if spec.df:
                    sender.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
                if spec.udp_csum == "off":
                    sender.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
            else:
                way = IPV6_PMTUDISC_DO if spec.df else IPV6_PMTUDISC_WANT
                sender.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, way)
                sender.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVERR, 1)
                sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, spec.ttl)
            try:
                sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 0)
            except OSError:
                gso = False
        mtu = spec.overlay_mtu(text)
        edge = UdpEdge(receiver.fileno(), fan, address=packed, port=spec.port, mtu=mtu, gso=gso)
        self.edges.append(edge)

    def _bound(self, text: str, port: int) -> socket.socket:
        family = socket.AF_INET if len(parse_ip(text)) == 4 else socket.AF_INET6
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self.sockets.append(sock)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind((text, port))
        except OSError as error:
            raise DeviceError(self._cannot_bind(text, port, error), errno=error.errno) from None
        return sock

    @staticmethod
    def _cannot_bind(text: str, port: int, error: OSError) -> str:
        where = f"UDP {text} port {port}"
        if error.errno == errno.EADDRINUSE:
            device = _vxlan_device(port)
            if device is None:
                return f"{where}: in use by another program; end that, or give the node another port"
            return (
                f"{where}: in use by the kernel's vxlan device {device}; give the node another port, delete that device"
                f' (ip link del {device}), or work beside it with [live] underlay = "packet"'
            )
        if error.errno == errno.EADDRNOTAVAIL:
            return f"{where}: no address of this machine has it: vtep in node.toml has to be one of its own"
        if error.errno == errno.EACCES:
            return f"{where}: not allowed below 1024 without CAP_NET_BIND_SERVICE; give the node another port"
        return f"{where}: {os.strerror(error.errno or 0)}"

    def describe(self) -> str:
        """Sockets, and where."""
        return f"UDP sockets at {', '.join(self.addresses)} port {self.port}"

    def warnings(self) -> list[str]:
        """None: it works, or it could not be opened."""
        return []

    def counters(self) -> dict[str, int]:
        """Of all edges."""
        total: dict[str, int] = {}
        for edge in self.edges:
            for key, number in edge.counters().items():
                total[key] = total.get(key, 0) + number
        total["rx_missed"] = total.get("rx_missed", 0) + self._missed()
        return total

    def _missed(self) -> int:
        """Datagrams that found the receive buffer full, as the kernel counts them (/proc/net/udp, last column)."""
        missed = 0
        with suppress(OSError):
            inodes = {str(os.fstat(sock.fileno()).st_ino) for sock in self.receivers}
            for name in ("udp", "udp6"):
                with open(f"/proc/thread-self/net/{name}") as file:
                    for line in file.readlines()[1:]:
                        words = line.split()
                        if words[9] in inodes:
                            missed += int(words[12])
        return missed

    def close(self) -> None:
        """Their ports are free again."""
        for sock in self.sockets:
            sock.close()
        self.sockets.clear()
        self.senders.clear()


class TapUnderlay:
    """A TAP device with tunnel offloads (Linux 6.17): the kernel routes between it and the world, and cuts super-frames
    that lie in tunnels, or hands them on whole.

    The VTEP's addresses are the plane's own, behind the device: the kernel gets a route to each and its MAC, and has to
    forward (net.ipv4.ip_forward). ``device_address``: the kernel's own, where it is to have one.
    """

    kind = "tap"

    def __init__(self, spec: NodeSpec, live: LiveSpec) -> None:
        self.addresses = spec.vtep
        self.tap = Tap(live.device, attach=False, tunnel=True)
        try:
            link = links.configure(
                live.device, mtu=spec.mtu or 65535, addresses=live.device_address, gso_max=GSO_MAX, up=True
            )
            for text in spec.vtep:
                links.put_behind(live.device, text, spec.own_mac.hex(":"))
            self.edges = [TapEdge(self.tap.fd, offload=True, macs=parse_mac(link.mac) + spec.own_mac)]
        except BaseException:
            self.tap.close()
            raise

    def describe(self) -> str:
        """The device, and who is behind it."""
        return f"TAP {self.tap.name} with tunnel offloads, {', '.join(self.addresses)} behind it"

    def warnings(self) -> list[str]:
        """What of the machine keeps it from working."""
        keys = dict.fromkeys(forwarding_of(text) for text in self.addresses if not forwards(text))
        return [f"{key} = 0: the kernel forwards nothing to the VTEP" for key in keys]

    def counters(self) -> dict[str, int]:
        """Of its edge."""
        return self.edges[0].counters()

    def close(self) -> None:
        """The device goes."""
        self.tap.close()


def _vxlan_device(port: int) -> str | None:
    """The kernel's, that has a port, as far as can be seen."""
    try:
        return links.port_in_use(port)
    except VxlanFastError:
        return None


def _auto_tap(spec: NodeSpec, live: LiveSpec) -> Underlay:
    """Where the VTEP can be behind a device: else it would come up, and carry nothing."""
    for text in spec.vtep:
        device = links.interface_of(text)
        if device is not None:
            raise DeviceError(f"VTEP {text}: device {device} has it; behind a TAP nobody may")
        if not forwards(text):
            raise DeviceError(f"{forwarding_of(text)} = 0: the kernel would forward nothing to the VTEP")
    return TapUnderlay(spec, live)


def _auto_packet(spec: NodeSpec, live: LiveSpec) -> Underlay:
    """Beside a vxlan device of the kernel: another program that has the port would take the same packets."""
    if _vxlan_device(spec.port) is None:
        raise DeviceError(f"UDP port {spec.port}: no vxlan device of the kernel has it: there is nothing to be beside")
    return PacketUnderlay(spec, live)


def open_underlay(spec: NodeSpec, refused: list[str] | None = None) -> Underlay:
    """The way to other hosts that the spec asks for; "auto": the first that can be had of sockets, a TAP with tunnel
    offloads and a packet socket, and ``refused`` gets why not the others. DeviceError: it cannot be had, and what would
    help."""
    kind = spec.live.underlay
    if kind != "auto":
        return _WAYS[kind](spec, spec.live)
    reasons: list[str] = []
    last: int | None = None
    for name, way in _AUTO.items():
        try:
            found = way(spec, spec.live)
        except (DeviceError, MissingLibraryError) as error:
            reasons.append(f"{name}: {error}")
            last = last or getattr(error, "errno", None)
            continue
        if refused is not None:
            refused.extend(reasons)
        return found
    raise DeviceError(f"no underlay: {'; '.join(reasons)}", errno=last)


_Way = Callable[[NodeSpec, LiveSpec], Underlay]
_WAYS: dict[str, _Way] = {"socket": SocketUnderlay, "tap": TapUnderlay, "packet": PacketUnderlay}
_AUTO: dict[str, _Way] = {"socket": SocketUnderlay, "tap": _auto_tap, "packet": _auto_packet}
