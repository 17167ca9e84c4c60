"""What fits on the way to each peer, as the kernel's routes say and as ICMP errors have it: so that senders inside are
told, and nothing is lost in silence."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from vxlanfast.addr import format_ip, parse_ip

# include/uapi/linux/in.h, in6.h
IP_MTU, IPV6_MTU = 14, 24
#: A way is tried again at its old length behind so long (RFC 1191 §6.3).
FORGET_S = 600.0
#: What an ICMP error may say: less is the kernel's ``min_pmtu`` (RFC 5927 §7.2) or no IPv6 link's (RFC 8200 §5).
LEAST4, LEAST6 = 552, 1280
#: Less than that is said by no router that knows what it says (RFC 791 §3.2).
MTU_SAID = 68
#: Ways that ICMP errors have spoken of, at a time.
HEARD_MAX = 1 << 16
#: Errors that are taken from a socket at a time.
ERRORS_MAX = 64
_ETH_HDR_LEN, _UDP = 14, 17
_UNREACH, _FRAG_NEEDED, _TOO_BIG = 3, 4, 2


class Plane(Protocol):
    """Of a plane, what is needed here."""

    def set_path_mtu(self, vtep: str, mtu: int | None) -> bool: ...


def route_mtu(peer: str, source: str | None = None) -> int | None:
    """Bytes of IP packet on the way to an address as the kernel has it: its device's, its route's, or what ICMP told
    the kernel. None: no route. No privilege needed, and no packet sent."""
    six = len(parse_ip(peer)) == 16
    with socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            if source is not None:
                sock.bind((source, 0))
            sock.connect((peer, 9))
            return sock.getsockopt(socket.IPPROTO_IPV6 if six else socket.IPPROTO_IP, IPV6_MTU if six else IP_MTU)
        except OSError:
            return None


def take_errors(sock: socket.socket) -> set[str]:
    """The addresses that a socket's error queue speaks of, which is empty behind this, or ``ERRORS_MAX`` shorter."""
    found: set[str] = set()
    for _ in range(ERRORS_MAX):
        try:
            _, _, _, name = sock.recvmsg(0, 256, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
        except BlockingIOError:
            break
        except OSError:
            continue  # an error that was pending, once
        if name:
            found.add(format_ip(parse_ip(name[0].partition("%")[0])))
    return found


def icmp_mtu(frame: bytes | memoryview, addresses: Sequence[bytes], port: int) -> tuple[bytes, int] | None:
    """Whom an ICMP error (an Ethernet frame) says packets to are too big, and the MTU. None: it says nothing of the
    kind, or the packet that it quotes is none of ours: from one of ``addresses``, UDP to ``port`` (RFC 5927 §4)."""
    data = bytes(frame[:256])
    if len(data) < _ETH_HDR_LEN + 20:
        return None
    kind, ip = int.from_bytes(data[12:14]), data[_ETH_HDR_LEN:]
    if kind == 0x0800:
        at = (ip[0] & 15) * 4
        if ip[9] != 1 or len(ip) < at + 8 + 28 or ip[at] != _UNREACH or ip[at + 1] != _FRAG_NEEDED:
            return None
        mtu, quoted, least = int.from_bytes(ip[at + 6 : at + 8]), ip[at + 8 :], LEAST4
        source, target, udp = quoted[12:16], quoted[16:20], (quoted[0] & 15) * 4
        fine = quoted[0] >> 4 == 4 and quoted[9] == _UDP and not int.from_bytes(quoted[6:8]) & 0x1FFF
        length = int.from_bytes(quoted[2:4])
    elif kind == 0x86DD:
        if ip[6] != 58 or len(ip) < 40 + 8 + 48 or ip[40] != _TOO_BIG:
            return None
        mtu, quoted, least = int.from_bytes(ip[44:48]), ip[48:], LEAST6
        source, target, udp = quoted[8:24], quoted[24:40], 40
        fine = quoted[0] >> 4 == 6 and quoted[6] == _UDP
        length = 40 + int.from_bytes(quoted[4:6])
    else:
        return None
    if not fine or source not in addresses or len(quoted) < udp + 8 or not MTU_SAID <= mtu < length:
        return None
    if struct.unpack_from("!H", quoted, udp + 2)[0] != port:
        return None
    return target, max(mtu, least)


class PathMtu:
    """Of each peer, and the plane told, with ``lock`` held. ``told`` hears of every change: peer, MTU in bytes of IP
    packet of the underlay. Times in seconds, of one clock."""

    def __init__(
        self, plane: Plane, lock: AbstractContextManager[object], told: Callable[[str, int], object] | None = None
    ) -> None:
        self.plane = plane
        self.lock = lock
        self.changes = 0
        self._told = told
        self._routes: dict[str, int] = {}
        self._heard: dict[str, tuple[int, float]] = {}  # MTU, and until when it is believed
        self._now: dict[str, int] = {}

    def look(self, peers: Iterable[str], sources: Sequence[str]) -> dict[str, int | None]:
        """What the kernel says of each; ``sources``: addresses of ours that packets come from, where they are this
        machine's. For any thread."""
        by_size = {len(parse_ip(text)): text for text in sources}
        return {peer: route_mtu(peer, by_size.get(len(parse_ip(peer)))) for peer in peers}

    def routes(self, found: dict[str, int | None], now_s: float) -> None:
        """What ``look`` found. A peer without a route keeps what it had."""
        for peer, mtu in found.items():
            if mtu is not None:
                self._routes[peer] = mtu
            self._settle(peer, now_s)

    def heard(self, peer: str, mtu: int, now_s: float) -> None:
        """An ICMP error that was found to be of ours. A longer MTU than known is no news (RFC 1191 §3)."""
        known = self._now.get(peer, 65535)
        if mtu < known and (peer in self._heard or len(self._heard) < HEARD_MAX):
            self._heard[peer] = mtu, now_s + FORGET_S
            self._settle(peer, now_s)

    def keep(self, peers: Iterable[str]) -> None:
        """The others are no peers any more."""
        wanted = set(peers)
        for peer in [peer for peer in self._now if peer not in wanted]:
            del self._now[peer]
            self._routes.pop(peer, None)
            self._heard.pop(peer, None)
            with self.lock:
                self.plane.set_path_mtu(peer, None)

    def _settle(self, peer: str, now_s: float) -> None:
        mtu, until = self._heard.get(peer, (65535, 0.0))
        if until and now_s >= until:
            del self._heard[peer]
            mtu = 65535
        mtu = min(mtu, self._routes.get(peer, 65535))
        if self._now.get(peer) == mtu:
            return
        self._now[peer] = mtu
        with self.lock:
            changed = self.plane.set_path_mtu(peer, mtu)
        if changed:
            self.changes += 1
            if self._told is not None:
                self._told(peer, mtu)
