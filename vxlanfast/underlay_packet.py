"""A packet socket as the way to other hosts: beside whatever has the port, a vxlan device of the kernel above all."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress

import vxlanfast.links as links
from vxlanfast._ext.io.ether import EtherEdge
from vxlanfast.addr import parse_ip, parse_mac
from vxlanfast.errors import DeviceError
from vxlanfast.live_spec import DEVICE, LiveSpec
from vxlanfast.node_spec import NodeSpec

# include/uapi/linux/if_packet.h, if_ether.h, if_arp.h, asm-generic/socket.h
SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 15, 23
ETH_P_ALL = 3
ARPHRD_ETHER, ARPHRD_LOOPBACK = 1, 772
SO_ATTACH_FILTER, SO_RCVBUFFORCE, SO_SNDBUFFORCE = 26, 33, 32
#: Bytes that may wait to be sent.
SEND_BUFFER = 1 << 22
#: struct sock_filter, and its codes (linux/filter.h): what a filter looks at is the frame with its Ethernet header.
_LD_W, _LD_H, _LD_B, _LDX_IHL, _LD_H_X, _JEQ, _JSET, _RET = 0x20, 0x28, 0x30, 0xB1, 0x48, 0x15, 0x45, 0x06
_PKTTYPE = 0xFFFFF004  # SKF_AD_OFF + SKF_AD_PKTTYPE
_KEEP, _DROP = "keep", "drop"
_Step = tuple[int, int, str, str]  # code, operand, label where true, label where not; "": the next


def filter_of(addresses: Sequence[str], port: int) -> bytes:
    """What is for us of all that an interface carries, as the kernel's filter: UDP to ``port`` at one of the addresses,
    what may be the rest of such a datagram, and ICMP that says of our packets that they are too big."""
    steps: list[_Step | str] = [(_LD_W, _PKTTYPE, "", ""), (_JEQ, 0, "", _DROP), (_LD_H, 12, "", "")]
    packed = {len(parse_ip(text)): parse_ip(text) for text in addresses}
    if 4 in packed:
        steps += [
            (_JEQ, 0x0800, "", "six"),
            (_LD_W, 30, "", ""), (_JEQ, int.from_bytes(packed[4]), "", _DROP),
            (_LD_H, 20, "", ""), (_JSET, 0x1FFF, "later", ""),
            (_LDX_IHL, 14, "", ""), (_LD_B, 23, "", ""), (_JEQ, 17, "", "icmp"),
            (_LD_H_X, 16, "", ""), (_JEQ, port, _KEEP, _DROP),
            "icmp", (_JEQ, 1, "", _DROP), (_LD_H_X, 14, "", ""), (_JEQ, 0x0304, _KEEP, _DROP),
            "later", (_LD_B, 23, "", ""), (_JEQ, 17, _KEEP, _DROP),  # a fragment without ports
        ]  # fmt: skip
    steps.append("six")
    if 16 in packed:
        steps.append((_JEQ, 0x86DD, "", _DROP))
        for k in range(4):
            steps += [(_LD_W, 38 + 4 * k, "", ""), (_JEQ, int.from_bytes(packed[16][4 * k : 4 * k + 4]), "", _DROP)]
        steps += [
            (_LD_B, 20, "", ""), (_JEQ, 44, _KEEP, ""),  # a fragment
            (_JEQ, 17, "", "icmp6"), (_LD_H, 56, "", ""), (_JEQ, port, _KEEP, _DROP),
            "icmp6", (_JEQ, 58, "", _DROP), (_LD_B, 54, "", ""), (_JEQ, 2, _KEEP, _DROP),
        ]  # fmt: skip
    steps += [_DROP, (_RET, 0, "", ""), _KEEP, (_RET, 0xFFFFFFFF, "", "")]
    return _assembled(steps)


def _assembled(steps: Sequence[_Step | str]) -> bytes:
    places: dict[str, int] = {}
    code: list[_Step] = []
    for step in steps:
        if isinstance(step, str):
            places[step] = len(code)
        else:
            code.append(step)
    out = b""
    for at, (operation, operand, true, false) in enumerate(code):
        jumps = [places[label] - at - 1 if label else 0 for label in (true, false)]
        out += struct.pack("=HBBI", operation, *jumps, operand)
    return out


def attach_filter(sock: socket.socket, code: bytes) -> None:
    """The kernel gives the socket only what the filter takes."""
    import ctypes

    room = ctypes.create_string_buffer(code, len(code))
    sock.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", len(code) // 8, ctypes.addressof(room))
    )


#: Takes nothing.
NOTHING = struct.pack("=HBBI", _RET, 0, 0, 0)


class PacketUnderlay:
    """A packet socket at the interface ``device`` that has the VTEP's addresses. CAP_NET_RAW.

    Next hops are the kernel's: its routes and its neighbours, which it is asked to look for. UDP sockets that nobody
    reads hold the port, so that the kernel does not tell peers that nobody is there; where a vxlan device has it, both
    see every packet, and each takes those of its own VNIs.
    """

    kind = "packet"

    def __init__(self, spec: NodeSpec, live: LiveSpec) -> None:
        self.device = live.device
        if self.device == DEVICE:  # none was named
            self.device = links.interface_of(spec.vtep[0]) or DEVICE
        self.addresses = spec.vtep
        self.port = spec.port
        self.holders: list[socket.socket] = []
        self._warnings: list[str] = []
        self._elsewhere: set[str] = set()
        self._hops: dict[bytes, bytes] = {}
        self._index = 0
        for text in spec.vtep:
            found = links.interface_of(text)
            if found != self.device:
                where = "no device of this machine has it" if found is None else f"device {found} has it"
                raise DeviceError(
                    f'underlay "packet": VTEP {text}: {where}: [live] device = "{self.device}" has to be the one',
                    errno=errno.EADDRNOTAVAIL,
                )
        try:
            self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
        except PermissionError as error:
            remedy = 'run as root, or take underlay = "socket", which needs nothing'
            raise DeviceError(
                f"packet socket at {self.device}: not permitted without CAP_NET_RAW: {remedy}", errno=error.errno
            ) from None
        try:
            self._setup(spec, live)
        except OSError as error:
            self.close()
            if isinstance(error, DeviceError):
                raise
            raise DeviceError(f"packet socket at {self.device}: {error.strerror}", errno=error.errno) from None
        self.edges = [EtherEdge(self.sock.fileno(), port=spec.port, gso=spec.udp_csum != "off")]

    def _setup(self, spec: NodeSpec, live: LiveSpec) -> None:
        attach_filter(self.sock, filter_of(spec.vtep, spec.port))
        self.sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        with suppress(OSError):  # Linux 4.20; the filter leaves them out as well
            self.sock.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        for option, forced, size in (
            (socket.SO_RCVBUF, SO_RCVBUFFORCE, live.receive_buffer), (socket.SO_SNDBUF, SO_SNDBUFFORCE, SEND_BUFFER),
        ):  # fmt: skip
            try:
                self.sock.setsockopt(socket.SOL_SOCKET, forced, size)
            except OSError:
                self.sock.setsockopt(socket.SOL_SOCKET, option, size)
        self._bind()
        for text in spec.vtep:
            self._hold(text, spec.port)

    def _bind(self) -> None:
        """To the device as it is now. OSError: there is none."""
        index = socket.if_nametoindex(self.device)
        self.sock.bind((self.device, 0))
        kind = self.sock.getsockname()[3]
        if kind not in (ARPHRD_ETHER, ARPHRD_LOOPBACK):
            raise DeviceError(f"device {self.device}: no Ethernet (hardware type {kind})", errno=errno.EINVAL)
        self.sock.bind((self.device, ETH_P_ALL))
        self._index = index

    def _hold(self, text: str, port: int) -> None:
        """The kernel answers nobody that the port is closed."""
        family = socket.AF_INET if len(parse_ip(text)) == 4 else socket.AF_INET6
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        attach_filter(sock, NOTHING)
        try:
            sock.bind((text, port))
        except OSError as error:
            sock.close()
            if error.errno != errno.EADDRINUSE:
                raise
            who = links.port_in_use(port)
            who = "another program" if who is None else f"the kernel's vxlan device {who}"
            self._warnings.append(
                f"UDP {text} port {port} belongs to {who}: it sees every packet too; VNIs of both would be taken twice"
            )
            return
        self.holders.append(sock)

    def refresh(self, peers: Iterable[str]) -> dict[bytes, bytes]:
        """What ``set_hops`` takes: the MACs towards each peer, as the kernel knows them now; it is asked to look for
        those that it does not. The socket is bound again where its device was made anew."""
        with suppress(OSError):
            if socket.if_nametoindex(self.device) != self._index:
                self._bind()
        here = links.find(self.device)
        if here is None:
            return self._hops
        found: dict[bytes, bytes] = {}
        ways = links.next_hops(peers, look=True)
        self._elsewhere = {peer for peer, way in ways.items() if way is not None and way.interface != self.device}
        for peer, way in ways.items():
            if way is not None and way.interface == self.device and way.mac is not None:
                found[parse_ip(peer)] = parse_mac(way.mac) + parse_mac(here.mac)
        return found

    def set_hops(self, hops: dict[bytes, bytes]) -> None:
        """Take them from now on; not while a batch is sent."""
        if hops != self._hops:
            self._hops = hops
            self.edges[0].set_hops(hops)

    def describe(self) -> str:
        """The interface, and whose packets."""
        return f"packet socket at {self.device}, {', '.join(self.addresses)} port {self.port}"

    def warnings(self) -> list[str]:
        """Who has the port beside us."""
        return self._warnings

    def unreachable(self) -> list[str]:
        """Peers that the kernel would reach by another device."""
        return sorted(self._elsewhere)

    def counters(self) -> dict[str, int]:
        """Of its edge."""
        return self.edges[0].counters()

    def close(self) -> None:
        """Nothing is left of it."""
        for sock in (self.sock, *self.holders):
            sock.close()
        self.holders.clear()


def forwarding_of(text: str) -> str:
    """The sysctl that says whether the kernel forwards packets of an address's family."""
    return "net.ipv4.ip_forward" if len(parse_ip(text)) == 4 else "net.ipv6.conf.all.forwarding"


def forwards(text: str) -> bool:
    """What that says; where it cannot be seen, that it does."""
    try:
        with open(f"/proc/sys/{forwarding_of(text).replace('.', '/')}") as file:
            return file.read().strip() != "0"
    except OSError:
        return True
