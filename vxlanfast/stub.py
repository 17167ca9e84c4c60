"""A resolver's frames: a host of one Ethernet that answers DNS and ping, and refuses all else. No kernel, no clock."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from typing import NamedTuple

from vxlanfast.stub_tcp import Ask, Caller, Later, Out, TcpServer

DNS_PORT = 53
_ETH_LEN, _IP4_LEN, _IP6_LEN, _UDP_LEN = 14, 20, 40, 8
_TYPE4, _TYPE6 = b"\x08\x00", b"\x86\xdd"
_ICMP, _TCP, _UDP, _ICMP6 = 1, 6, 17, 58
_TTL = 64
_RST = 4
#: Echo request and reply; port unreachable as type and code (RFC 792, RFC 4443).
_ECHO, _ECHO6 = (8, 0), (128, 129)
_UNREACHABLE, _UNREACHABLE6 = (3, 3), (1, 4)
#: Bytes of an ICMP error's packet (RFC 1812 §4.3.2.3, RFC 4443 §3.1).
_ERROR_LEN, _ERROR6_LEN = 576, 1280


class _Packet(NamedTuple):
    """An IP packet for us: its sender's MAC, the addresses, the protocol, the whole of it and what is in it."""

    mac: bytes
    src: bytes
    dst: bytes
    proto: int
    whole: bytes
    body: bytes


def checksum(*parts: bytes) -> int:
    """The internet checksum (RFC 1071) of parts, of which only the last may have an odd length."""
    data = b"".join(parts)
    data += b"\0" * (len(data) & 1)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def _pseudo(src: bytes, dst: bytes, proto: int, size: int) -> bytes:
    """What TCP, UDP and ICMPv6 sum besides themselves (RFC 9293 §3.1, RFC 8200 §8.1)."""
    return src + dst + (struct.pack("!xBH", proto, size) if len(src) == 4 else struct.pack("!I3xB", size, proto))


def _is_station(address: bytes) -> bool:
    """Whether it may be a sender: neither nobody, nor a group, nor a host's own loopback."""
    if len(address) == 4:
        return 0 < address[0] < 224 and address[0] != 127
    return address[0] != 0xFF and any(address[:15])


class Stub:
    """A host behind a port of the plane: one MAC, some addresses, no state but TCP connections.

    What is damaged, a fragment, tagged or not for it is dropped; other ports of UDP and TCP are refused. UDP answers
    are whole packets: whoever makes them keeps them below ``mtu``, in bytes of IP packet. Checksums must be there:
    frames whose checksum was left to a device are completed before.
    """

    def __init__(
        self,
        mac: bytes,
        addresses: Sequence[bytes],
        ask: Ask,
        *,
        mtu: int = 1400,
        connections: int = 256,
        idle_s: float = 10.0,
        rng: random.Random | None = None,
    ) -> None:
        self.mac = mac
        self.addresses = frozenset(addresses)
        self.mtu = mtu
        self._ask = ask
        share = max(1, connections // 4)
        self.tcp = TcpServer(ask, mtu=mtu, connections=connections, share=share, idle_s=idle_s, rng=rng)
        self.dropped = 0

    def frames(self, port: str, frame: bytes, now_ns: int) -> list[bytes]:
        """What a frame that came from a port's client is answered with at once."""
        packet = self._packet(frame)
        if packet is None:
            self.dropped += 1
            return []
        if packet.proto == _UDP:
            return self._datagram(port, packet)
        if packet.proto == _TCP:
            return self._segment(port, packet, now_ns)
        return self._echo(packet)

    def reply(self, caller: Caller, wire: bytes, now_ns: int) -> list[bytes]:
        """A late answer's frames."""
        if caller.serial:
            return self._segments(self.tcp.reply(caller, wire, now_ns))
        return [self._answer(caller, wire)]

    def tick(self, now_ns: int) -> list[bytes]:
        """Frames whose time has come. Once or a few times a second is enough."""
        return self._segments(self.tcp.tick(now_ns))

    # --- in -------------------------------------------------------------------------------------------------

    def _packet(self, frame: bytes) -> _Packet | None:
        """What a frame brings, if nothing is wrong with it."""
        if len(frame) < _ETH_LEN or frame[:6] != self.mac or frame[6] & 1:
            return None
        mac, ip = frame[6:12], frame[_ETH_LEN:]
        packet = None
        if frame[12:14] == _TYPE4:
            packet = self._packet4(mac, ip)
        elif frame[12:14] == _TYPE6:
            packet = self._packet6(mac, ip)
        if packet is None or packet.dst not in self.addresses or packet.src in self.addresses:
            return None
        return packet if _is_station(packet.src) else None

    @staticmethod
    def _packet4(mac: bytes, ip: bytes) -> _Packet | None:
        if len(ip) < _IP4_LEN or ip[0] >> 4 != 4:
            return None
        start, size = (ip[0] & 15) * 4, int.from_bytes(ip[2:4])
        if not _IP4_LEN <= start <= size <= len(ip) or int.from_bytes(ip[6:8]) & 0x3FFF or checksum(ip[:start]):
            return None  # a fragment, too: questions are short
        return _Packet(mac, ip[12:16], ip[16:20], ip[9], ip[:size], ip[start:size])

    @staticmethod
    def _packet6(mac: bytes, ip: bytes) -> _Packet | None:
        if len(ip) < _IP6_LEN or ip[0] >> 4 != 6:
            return None
        end = _IP6_LEN + int.from_bytes(ip[4:6])
        if end > len(ip):
            return None
        return _Packet(mac, ip[8:24], ip[24:40], ip[6], ip[:end], ip[_IP6_LEN:end])

    def _datagram(self, port: str, packet: _Packet) -> list[bytes]:
        body = packet.body
        size = int.from_bytes(body[4:6]) if len(body) >= _UDP_LEN else 0
        if not _UDP_LEN <= size <= len(body) or body[:2] == b"\0\0":
            self.dropped += 1
            return []
        unsummed = body[6:8] == b"\0\0"
        pseudo = _pseudo(packet.src, packet.dst, _UDP, size)
        if (unsummed and len(packet.src) == 16) or (not unsummed and checksum(pseudo, body[:size])):
            self.dropped += 1
            return []
        if int.from_bytes(body[2:4]) != DNS_PORT:
            return [self._unreachable(packet)]
        caller = Caller(port, packet.mac, packet.src, int.from_bytes(body[:2]), packet.dst)
        said = self._ask(caller, body[_UDP_LEN:size])
        return [self._answer(caller, said)] if said is not None and not isinstance(said, Later) else []

    def _segment(self, port: str, packet: _Packet, now_ns: int) -> list[bytes]:
        body = packet.body
        if len(body) < 20 or checksum(_pseudo(packet.src, packet.dst, _TCP, len(body)), body) or body[:2] == b"\0\0":
            self.dropped += 1
            return []
        number = int.from_bytes(body[2:4])
        caller = Caller(port, packet.mac, packet.src, int.from_bytes(body[:2]), packet.dst)
        if number != DNS_PORT:
            if body[13] & _RST:
                return []
            return self._segments([refusal(caller, number, body)])
        return self._segments(self.tcp.segment(caller, body, now_ns))

    def _echo(self, packet: _Packet) -> list[bytes]:
        four = len(packet.src) == 4
        request, reply = _ECHO if four else _ECHO6
        body = packet.body
        if packet.proto != (_ICMP if four else _ICMP6) or len(body) < 8 or body[0] != request or body[1]:
            return []
        pseudo = b"" if four else _pseudo(packet.src, packet.dst, _ICMP6, len(body))
        if checksum(pseudo, body):
            self.dropped += 1
            return []
        return [self._icmp(packet, bytes([reply, 0]), body[4:])]

    # --- out ------------------------------------------------------------------------------------------------

    def _unreachable(self, packet: _Packet) -> bytes:
        """The port is nobody's. The quoted packet is cut to what an error may be long."""
        four = len(packet.src) == 4
        kind, most = (_UNREACHABLE, _ERROR_LEN - 28) if four else (_UNREACHABLE6, _ERROR6_LEN - 48)
        return self._icmp(packet, bytes(kind), bytes(4) + packet.whole[:most])

    def _icmp(self, packet: _Packet, kind: bytes, body: bytes) -> bytes:
        four = len(packet.src) == 4
        proto = _ICMP if four else _ICMP6
        pseudo = b"" if four else _pseudo(packet.dst, packet.src, proto, 4 + len(body))
        total = checksum(pseudo, kind, b"\0\0", body)
        return self._frame(packet.mac, packet.dst, packet.src, proto, kind + total.to_bytes(2) + body)

    def _answer(self, caller: Caller, wire: bytes) -> bytes:
        size = _UDP_LEN + len(wire)
        head = DNS_PORT.to_bytes(2) + caller.number.to_bytes(2) + size.to_bytes(2)
        total = checksum(_pseudo(caller.own, caller.address, _UDP, size), head, b"\0\0", wire) or 0xFFFF
        return self._frame(caller.mac, caller.own, caller.address, _UDP, head + total.to_bytes(2) + wire)

    def _segments(self, made: list[Out]) -> list[bytes]:
        frames = []
        for caller, segment in made:
            total = checksum(_pseudo(caller.own, caller.address, _TCP, len(segment)), segment)
            whole = segment[:16] + total.to_bytes(2) + segment[18:]
            frames.append(self._frame(caller.mac, caller.own, caller.address, _TCP, whole))
        return frames

    def _frame(self, mac: bytes, src: bytes, dst: bytes, proto: int, body: bytes) -> bytes:
        if len(src) == 16:
            head = struct.pack("!IHBB", 6 << 28, len(body), proto, _TTL) + src + dst
            return mac + self.mac + _TYPE6 + head + body
        # Never fragmented (RFC 6864 §4.1), so that its identification means nothing.
        head = struct.pack("!BBHHHBBH", 0x45, 0, _IP4_LEN + len(body), 0, 0x4000, _TTL, proto, 0) + src + dst
        head = head[:10] + checksum(head).to_bytes(2) + head[12:]
        return mac + self.mac + _TYPE4 + head + body


def refusal(caller: Caller, number: int, segment: bytes) -> Out:
    """The RST to a segment for a port that is nobody's (RFC 9293 §3.5.2)."""
    flags, start = segment[13], (segment[12] >> 4) * 4
    if flags & 16:
        seq, ack, bits = segment[8:12], bytes(4), _RST
    else:
        taken = int.from_bytes(segment[4:8]) + max(0, len(segment) - start) + bool(flags & 2) + bool(flags & 1)
        seq, ack, bits = bytes(4), (taken & 0xFFFFFFFF).to_bytes(4), _RST | 16
    return caller, number.to_bytes(2) + caller.number.to_bytes(2) + seq + ack + bytes([0x50, bits]) + bytes(6)
