"""TAP devices: made or attached to, in any network namespace."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct

from vxlanfast.errors import DeviceError
from vxlanfast.netlink import in_namespace, in_opened, namespace_path, open_namespace

# include/uapi/linux/if_tun.h
TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
TUNSETVNETHDRSZ = 0x400454D8
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 0x0001
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR, IFF_MULTI_QUEUE, IFF_TUN_EXCL = 0x0002, 0x1000, 0x4000, 0x0100, 0x8000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN, TUN_F_USO4, TUN_F_USO6 = 0x01, 0x02, 0x04, 0x08, 0x20, 0x40
TUN_F_UDP_TUNNEL_GSO, TUN_F_UDP_TUNNEL_GSO_CSUM = 0x080, 0x100
VNET_HDR_LEN, VNET_TUNNEL_LEN = 10, 24
DEVICE = "/dev/net/tun"
#: Bytes of IP in a super-frame at most, so that a tunnel's headers still fit in front of it.
GSO_MAX = 65000

#: What the kernel may do in the device's place, the most first: segments, datagrams and checksums; tunnels with them.
OFFLOADS = (
    TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_USO4 | TUN_F_USO6,
    TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN,
    TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6,
)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


class Tap:
    """A TAP device's file, open and not blocking; the device goes with it unless it was there before.

    ``attach``: True: the device has to be there; False: it must not; None: either. ``offload``: super-frames where the
    kernel has them (``offloads`` says which). ``tunnel``: tunnels with them (Linux 6.17), or an error. DeviceError: in
    one line, with the remedy.
    """

    def __init__(
        self, name: str, *, namespace: str = "", attach: bool | None = False, offload: bool = True, tunnel: bool = False
    ) -> None:
        self.name = name
        self.namespace = namespace
        self.offloads = 0
        self.header_len = VNET_TUNNEL_LEN if tunnel else VNET_HDR_LEN
        self._place: tuple[int, int] | None = None
        if not namespace:
            self.fd = self._open(attach, offload, tunnel)
            return
        there = open_namespace(namespace)
        try:
            self._place = _identity(os.fstat(there))  # of what is entered: the name may lead elsewhere by now
            self.fd = in_opened(there, namespace, lambda: self._open(attach, offload, tunnel))
        finally:
            os.close(there)

    def _open(self, attach: bool | None, offload: bool, tunnel: bool) -> int:
        there = os.path.isdir(f"/proc/sys/net/ipv4/conf/{self.name}")
        if attach and not there:
            raise DeviceError(f"device {self.name}: there is none to attach to", errno=errno.ENODEV)
        if attach is False and there:
            remedy = "exists already: take another name, or attach to it"
            raise DeviceError(f"device {self.name}: {remedy}", errno=errno.EEXIST)
        try:
            fd = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            what = "load the module tun, or pass the device into the container"
            if error.errno in (errno.EACCES, errno.EPERM):
                what = "run as root, or be given the device"
            raise DeviceError(f"{DEVICE}: {error.strerror}: {what}", errno=error.errno) from None
        try:
            self._setup(fd, offload, tunnel)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _setup(self, fd: int, offload: bool, tunnel: bool) -> None:
        flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
        for queues in (0, IFF_MULTI_QUEUE):  # one that was made with several wants the flag
            try:
                fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", self.name.encode(), flags | queues))
                break
            except OSError as error:
                if error.errno == errno.EINVAL and not queues:
                    continue
                remedy = {errno.EPERM: ": run as root, or with CAP_NET_ADMIN", errno.EBUSY: ": another program has it",
                          errno.EINVAL: ": it is no TAP device"}.get(error.errno or 0, "")  # fmt: skip
                raise DeviceError(f"device {self.name}: {error.strerror}{remedy}", errno=error.errno) from None
        fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", self.header_len))
        if tunnel:
            want = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_UDP_TUNNEL_GSO | TUN_F_UDP_TUNNEL_GSO_CSUM
            try:
                fcntl.ioctl(fd, TUNSETOFFLOAD, want)
            except OSError as error:
                raise DeviceError(
                    f"device {self.name}: no tunnel offloads: {error.strerror}; Linux 6.17 has them", errno=error.errno
                ) from None
            self.offloads = want
            return
        for want in OFFLOADS if offload else ():
            try:
                fcntl.ioctl(fd, TUNSETOFFLOAD, want)
            except OSError:
                continue
            self.offloads = want
            return
        fcntl.ioctl(fd, TUNSETOFFLOAD, 0)

    def _where(self) -> tuple[int, int] | None:
        """What the namespace's name leads to; None: nowhere, or it has none."""
        if not self.namespace:
            return None
        try:
            return _identity(os.stat(namespace_path(self.namespace)))
        except OSError:
            return None

    def astray(self) -> bool:
        """Whether its namespace's name leads nowhere now, or to another one: a namespace that was deleted lives on as
        long as this is open, and nobody else is in it."""
        return self._where() != self._place

    def set_up(self) -> None:
        """Up, by an ioctl: needs no library, as ``links.configure`` does, which sets everything else."""

        def run() -> None:
            try:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    answer = fcntl.ioctl(sock, SIOCGIFFLAGS, struct.pack("16sH22x", self.name.encode(), 0))
                    flags = struct.unpack_from("H", answer, 16)[0] | IFF_UP
                    fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sH22x", self.name.encode(), flags))
            except OSError as error:
                raise DeviceError(f"device {self.name}: {error.strerror}: it stays down", errno=error.errno) from None

        in_namespace(self.namespace or None, run)

    def fileno(self) -> int:
        """Its file descriptor."""
        return self.fd

    def close(self) -> None:
        """A device that was made goes with it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Tap:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()
