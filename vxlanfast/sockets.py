"""Sockets that packets of the wire arrive at, opened with a message for people where they cannot be."""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from typing import TYPE_CHECKING

from vxlanfast._ext.io.mirror import MirrorSocket
from vxlanfast._ext.io.packet import PacketSocket
from vxlanfast.addr import parse_ip
from vxlanfast.errors import DeviceError

if TYPE_CHECKING:
    from typing import Self

__all__ = ["PacketEdge", "UdpReceiver", "open_packet", "open_udp", "vxlan_devices"]

ETH_P_ALL = 3
ARPHRD_ETHER, ARPHRD_LOOPBACK = 1, 772
SOL_PACKET = 263
PACKET_ADD_MEMBERSHIP = 1
PACKET_MR_PROMISC = 1
SIOCETHTOOL = 0x8946
ETHTOOL_GDRVINFO = 3


class UdpReceiver:
    """A bound UDP socket and what receives from it."""

    def __init__(self, sock: socket.socket, *, snaplen: int = 65535, buffer_len: int = 1 << 25) -> None:
        self.sock = sock
        self.name = "{}:{}".format(*_shown(sock.getsockname()))
        self.port = sock.getsockname()[1]
        self.edge = MirrorSocket(sock.fileno(), snaplen=snaplen, buffer_len=buffer_len)

    def fileno(self) -> int:
        """The socket, for who waits."""
        return self.sock.fileno()

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class PacketEdge:
    """An interface's packet socket and what receives from it and sends by it."""

    def __init__(self, sock: socket.socket, name: str, edge: PacketSocket) -> None:
        self.sock = sock
        self.name = name
        self.edge = edge

    def fileno(self) -> int:
        """The socket, for who waits."""
        return self.sock.fileno()

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _shown(address: tuple[object, ...]) -> tuple[str, object]:
    host, port = address[:2]
    return (f"[{host}]" if ":" in str(host) else str(host)), port


def vxlan_devices() -> list[str]:
    """The kernel's vxlan devices in this network namespace, by what their driver calls itself. No privilege needed."""
    import array

    out = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, name in socket.if_nameindex():
            answer = array.array(
                "B", struct.pack("I", ETHTOOL_GDRVINFO) + bytes(192)
            )  # struct ethtool_drvinfo: 196 bytes
            try:
                fcntl.ioctl(sock, SIOCETHTOOL, struct.pack("16sP", name.encode(), answer.buffer_info()[0]))
            except OSError:
                continue
            if answer.tobytes()[4:36].rstrip(b"\0") == b"vxlan":
                out.append(name)
    return out


def open_udp(address: str, port: int, *, snaplen: int = 65535, buffer_len: int = 1 << 25) -> UdpReceiver:
    """A UDP socket at ``address`` (``0.0.0.0`` and ``::`` are all of their own family). DeviceError says why not."""
    six = len(parse_ip(address)) == 16
    try:
        sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise DeviceError(f"UDP over IPv{6 if six else 4}: {error.strerror}", errno=error.errno) from error
    try:
        if six:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            sock.bind((address, port))
        except OSError as error:
            raise DeviceError(_why_not(address, port, error), errno=error.errno) from error
        return UdpReceiver(sock, snaplen=snaplen, buffer_len=buffer_len)
    except BaseException:
        sock.close()
        raise


def _why_not(address: str, port: int, error: OSError) -> str:
    what = f"UDP port {port} of {address}"
    if error.errno == errno.EADDRINUSE:
        devices = vxlan_devices()
        who = (
            f"in use, and the kernel's vxlan device {devices[0]} may be what holds it"
            if devices
            else "in use by another program"
        )
        return f"{what}: {who}; take another port (-p), or capture at the interface that it comes by (-i IFACE)"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{what}: not permitted; ports from 1024 on need no privilege, others need CAP_NET_BIND_SERVICE"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{what}: no interface here has that address"
    return f"{what}: {error.strerror}"


def open_packet(
    interface: str, *, promiscuous: bool = True, outgoing: bool = True, snaplen: int = 262144, buffer_len: int = 1 << 25
) -> PacketEdge:
    """A packet socket on ``interface``. ``promiscuous``: frames for others too; ``outgoing``: those that leave as well.

    DeviceError: no such interface, no privilege, or no Ethernet.
    """
    try:
        number = socket.if_nametoindex(interface)
    except OSError:
        names = ", ".join(name for _, name in socket.if_nameindex())
        raise DeviceError(f"{interface}: no such interface; there are {names}", errno=errno.ENODEV) from None
    try:
        # Protocol 0: nothing arrives before it is known from where.
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    except PermissionError as error:
        raise DeviceError(
            f"capturing at {interface}: not permitted; it needs CAP_NET_RAW (run it as root)",
            errno=error.errno,
        ) from None
    try:
        sock.bind((interface, 0))
        kind = sock.getsockname()[3]
        if kind not in (ARPHRD_ETHER, ARPHRD_LOOPBACK):  # both give Ethernet headers
            raise DeviceError(f"{interface}: no Ethernet interface (hardware type {kind})", errno=errno.EINVAL)
        # What leaves the loopback arrives there as well: once is enough.
        outgoing = outgoing and kind != ARPHRD_LOOPBACK
        edge = PacketSocket(sock.fileno(), outgoing=outgoing, snaplen=snaplen, buffer_len=buffer_len)
        sock.bind((interface, ETH_P_ALL))
        if promiscuous:
            request = struct.pack("iHH8s", number, PACKET_MR_PROMISC, 0, b"")
            sock.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, request)
        return PacketEdge(sock, interface, edge)
    except DeviceError:
        sock.close()
        raise
    except OSError as error:
        sock.close()
        raise DeviceError(f"capturing at {interface}: {error.strerror}", errno=error.errno) from error
