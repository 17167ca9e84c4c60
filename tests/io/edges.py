"""Frames, super-frames and what they are made of, for tests of live edges: an outside idea of segmentation."""

from __future__ import annotations

import select
import socket
import struct
from typing import Any

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tests.support import PATIENCE_S

A, B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
NEEDS_CSUM, TCPV4, UFO, TCPV6, UDP_L4 = 1, 1, 3, 4, 5


def ip_of(family: int, **more: Any) -> Packet:
    if family == 4:
        return Ether(src=A, dst=B) / IP(**{"src": "10.0.9.3", "dst": "10.0.9.4", "id": 100, "flags": "DF", **more})
    return Ether(src=A, dst=B) / IPv6(src="fd00::3", dst="fd00::4", **more)


def tcp(
    family: int, payload: bytes, *, seq: int = 1000, flags: str = "A", ip: dict[str, Any] | None = None, **more: Any
) -> bytes:
    layer = TCP(**{"sport": 4000, "dport": 80, "seq": seq, "ack": 7, "flags": flags, "window": 500, **more})
    return bytes(ip_of(family, **(ip or {})) / layer / Raw(payload))


def udp(family: int, payload: bytes, *, ip: dict[str, Any] | None = None) -> bytes:
    return bytes(ip_of(family, **(ip or {})) / UDP(sport=4000, dport=53) / Raw(payload))


def segments(frame: bytes, size: int) -> list[bytes]:
    """What a card would make of a super-frame, by scapy: every length, number and checksum afresh."""
    whole = Ether(frame)
    layer = whole[TCP] if TCP in whole else whole[UDP]
    payload = bytes(layer.payload)
    out = []
    for number, at in enumerate(range(0, len(payload), size)):
        one = Ether(frame)
        part = payload[at : at + size]
        last = at + size >= len(payload)
        inner = one[TCP] if TCP in one else one[UDP]
        inner.remove_payload()
        if IP in one:
            one[IP].id += number
            del one[IP].len, one[IP].chksum
        else:
            del one[IPv6].plen
        if TCP in one:
            inner.seq += at
            flags = str(inner.flags)
            inner.flags = flags if last else flags.replace("P", "").replace("F", "")
        else:
            del inner.len
        del inner.chksum
        out.append(bytes(one / Raw(part)))
    return out


def partial(frame: bytes) -> bytes:
    """The checksum field has the pseudo header's sum alone, as a kernel leaves it to a card."""
    made = bytearray(frame)
    six = made[12:14] == b"\x86\xdd"
    l4 = 54 if six else 14 + (made[14] & 15) * 4
    proto = made[20] if six else made[23]
    addresses = bytes(made[22:54]) if six else bytes(made[26:34])
    end = 54 + int.from_bytes(made[18:20]) if six else 14 + int.from_bytes(made[16:18])
    words = addresses + struct.pack("!II", end - l4, proto)
    total = sum(struct.unpack(f"!{len(words) // 2}H", words))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    at = l4 + (16 if proto == 6 else 6)
    made[at : at + 2] = total.to_bytes(2)
    return bytes(made)


def vnet(flags: int = 0, kind: int = 0, hdr_len: int = 0, size: int = 0, start: int = 0, offset: int = 0) -> bytes:
    return struct.pack("=BBHHHH", flags, kind, hdr_len, size, start, offset)


def offloaded(frame: bytes, size: int = 0) -> bytes:
    """A frame as a device hands it over: partial, and a super-frame of segments of that size if any."""
    six = frame[12:14] == b"\x86\xdd"
    l4 = 54 if six else 34
    is_tcp = (frame[20] if six else frame[23]) == 6
    hdr_len = l4 + ((frame[l4 + 12] >> 4) * 4 if is_tcp else 8)
    kind = 0 if not size else UDP_L4 if not is_tcp else TCPV6 if six else TCPV4
    return vnet(NEEDS_CSUM, kind, hdr_len, size, l4, 16 if is_tcp else 6) + partial(frame)


def pair() -> tuple[socket.socket, socket.socket]:
    """A device's file and its other end: both keep the bounds of what is written."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for one in (ours, theirs):
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 21)
    return ours, theirs


def readable(sock: socket.socket) -> None:
    """Something is there to be read when this returns: what was sent over loopback comes a little later."""
    assert select.select([sock], [], [], PATIENCE_S)[0], "nothing comes"


def drain(sock: socket.socket) -> list[bytes]:
    out = []
    while True:
        try:
            out.append(sock.recv(1 << 17))
        except BlockingIOError:
            return out
