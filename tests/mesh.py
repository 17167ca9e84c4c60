"""A director for tests: clients behind a router on one side, servers behind its gateway on the other; frames and
connections by the thousand.

    client ── router ── [client  plane  server] ── 10.0.9.2 … 10.0.9.254
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import ip_address
from typing import Any

import vxlanfast as vf
from vxlanfast._ext.node.mesh import Mesh
from vxlanfast._ext.table.conn import ConnTable
from vxlanfast.network_spec import EndpointSpec, NetworkSpec, RouteSpec
from vxlanfast.node_spec import NodeSpec
from vxlanfast.service_spec import MeshSpec, ServerSpec, ServiceSpec, VirtualSpec

CLIENT, SERVER = "client", "server"
S = 1_000_000_000
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
#: As in packets: where services are, where servers see clients at, and any server's address.
VIP, VIP6 = ip_address("203.0.113.10").packed, ip_address("2001:db8:f::10").packed
MASQ, MASQ6 = ip_address("10.0.9.1").packed, ip_address("2001:db8:9::1").packed
MACS = {CLIENT: (b"\2\0\0\0\1\1", b"\2\0\0\0\1\2"), SERVER: (b"\2\0\0\0\2\1", b"\2\0\0\0\2\2")}
NO_CONN = 0xFFFFFFFF


def server(n: int, family: int = 4) -> bytes:
    """The address of server ``n``, 2 to 254."""
    return ip_address(f"10.0.9.{n}" if family == 4 else f"2001:db8:9::{n:x}").packed


def client(n: int, family: int = 4) -> bytes:
    """The address of client ``n``, of a million."""
    return (0x64400000 + n).to_bytes(4, "big") if family == 4 else VIP6[:6] + bytes(6) + n.to_bytes(4, "big")


def text(packed: bytes) -> str:
    return str(ip_address(packed))


def service(
    name: str = "web", vip: bytes = VIP, *, protocol: str = "tcp", port: int | str = 80, target: int = 0,
    servers: Iterable[ServerSpec | int] = (2,), masq: bool = False, **rest: Any,
) -> ServiceSpec:  # fmt: skip
    """A service of one virtual address; servers by number."""
    family = 4 if len(vip) == 4 else 6
    virtual = VirtualSpec(network="clients", address=text(vip), protocol=protocol, port=port, target=target)
    specs = tuple(s if isinstance(s, ServerSpec) else ServerSpec(address=text(server(s, family))) for s in servers)
    masquerade = (text(MASQ if family == 4 else MASQ6),) if masq else ()
    return ServiceSpec(
        name=name, virtual=(virtual,), server=specs, masquerade=masquerade, servers_in="servers", **rest
    )  # fmt: skip


def node(*services: ServiceSpec, **mesh: Any) -> NodeSpec:
    """A director of these services."""
    clients = NetworkSpec(
        name="clients", lan=True, domain="mesh", learn=False, flood="off", gateway_mac=MACS[CLIENT][0].hex(":"),
        router_mac=MACS[CLIENT][0].hex(":"), subnet=("198.51.100.0/24", "2001:db8:1::/64"),
        gateway=("198.51.100.1", "2001:db8:1::1"),
        endpoint=(EndpointSpec(port=CLIENT, mac=MACS[CLIENT][1].hex(":"), ip=("198.51.100.2", "2001:db8:1::2")),),
        route=(RouteSpec(to="0.0.0.0/0", via="198.51.100.2"), RouteSpec(to="::/0", via="2001:db8:1::2")),
    )  # fmt: skip
    hosts = tuple(text(server(n, family)) for n in range(2, 255) for family in (4, 6))
    servers = NetworkSpec(
        name="servers", lan=True, domain="mesh", learn=False, flood="off", gateway_mac=MACS[SERVER][0].hex(":"),
        router_mac=MACS[SERVER][0].hex(":"), subnet=("10.0.9.0/24", "2001:db8:9::/64"),
        gateway=("10.0.9.1", "2001:db8:9::1"),
        endpoint=(EndpointSpec(port=SERVER, mac=MACS[SERVER][1].hex(":"), ip=hosts),),
    )  # fmt: skip
    return NodeSpec(
        vtep=("192.0.2.1",), mtu=0, stations=1024, neighbours=1024, memberships=64, network=(clients, servers),
        service=services, mesh=MeshSpec(**{"seed": 1, "connections": 1 << 16, **mesh}),
    )  # fmt: skip


class Director:
    """A plane with these services, and what goes in and out of it."""

    def __init__(self, *services: ServiceSpec, **mesh: Any) -> None:
        self.spec = node(*(services or (service(),)), **mesh)
        self.plane = vf.Dataplane(self.spec)
        self.ports = self.plane.ports

    @property
    def mesh(self) -> Mesh:
        return self.plane._now.mesh

    @property
    def conns(self) -> ConnTable:
        return self.mesh.conns

    def batch(self, side: str, frames: Iterable[bytes], now_ns: int) -> vf.PacketBatch:
        """Frames that came by one side, processed."""
        batch = vf.PacketBatch.from_frames(frames, ts_ns=now_ns, port_in=self.ports[side])
        return self.plane.process(batch)

    def send(self, side: str, frames: Sequence[bytes], now_ns: int) -> list[bytes | None]:
        """What becomes of each frame at the other side; None where it does not get there."""
        batch = self.batch(side, frames, now_ns)
        other = self.ports[SERVER if side == CLIENT else CLIENT]
        verdicts, outs = batch.verdict.tolist(), batch.port_out.tolist()
        return [
            bytes(batch.frame(i)) if verdicts[i] == 0 and outs[i] == other else None for i in range(len(frames))
        ]

    def serving(self, name: str = "web") -> dict[str, dict[str, Any]]:
        """The servers of a service by address."""
        return {s["addr"]: s for row in self.plane.services() if row["name"] == name for s in row["servers"]}

    def apply(self, *services: ServiceSpec) -> None:
        self.spec = replace(self.spec, service=services)
        self.plane.apply(self.spec)


# --- frames ---------------------------------------------------------------------------------------------


def csum(data: bytes) -> int:
    """RFC 1071: the sum of the words is the number itself, modulo 65535."""
    number = int.from_bytes(data + b"\0" * (len(data) & 1), "big")
    return 0xFFFF - (number % 0xFFFF or 0xFFFF) if number else 0xFFFF


def pseudo(src: bytes, dst: bytes, proto: int, size: int) -> bytes:
    return src + dst + (struct.pack(">HH", proto, size) if len(src) == 4 else struct.pack(">II", size, proto))


@lru_cache(1 << 16)  # a flood of 10^8 has as many sources
def ip_header(src: bytes, dst: bytes, proto: int, size: int, ttl: int = 64, options: bytes = b"") -> bytes:
    """Of a packet with ``size`` bytes behind it."""
    if len(src) == 16:
        return struct.pack(">IHBB", 0x60000000, size, proto, ttl) + src + dst
    words = 5 + len(options) // 4
    head = struct.pack(">BBHHHBBH", 0x40 | words, 0, words * 4 + size, 7, 0, ttl, proto, 0) + src + dst + options
    return head[:10] + csum(head).to_bytes(2, "big") + head[12:]


def packet(src: bytes, dst: bytes, proto: int, l4: bytes, ttl: int = 64, options: bytes = b"") -> bytes:
    return ip_header(src, dst, proto, len(l4), ttl, options) + l4


def frame(side: str, ip: bytes) -> bytes:
    """A packet as it comes to the director by that side."""
    to, of = MACS[side]
    return to + of + (b"\x08\0" if ip[0] >> 4 == 4 else b"\x86\xdd") + ip


def segment(
    src: bytes, sport: int, dst: bytes, dport: int, flags: int, seq: int = 0, ack: int = 0, payload: bytes = b""
) -> bytes:
    """A TCP segment with its checksum."""
    made = struct.pack(
        ">HHIIBBHHH", sport, dport, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, 0x50, flags, 65535, 0, 0
    )  # fmt: skip
    made += payload
    check = csum(pseudo(src, dst, TCP, len(made)) + made)
    return made[:16] + check.to_bytes(2, "big") + made[18:]


def datagram(src: bytes, sport: int, dst: bytes, dport: int, payload: bytes = b"", *, check: bool = True) -> bytes:
    """A UDP datagram, with or without its checksum."""
    made = struct.pack(">HHHH", sport, dport, 8 + len(payload), 0) + payload
    if not check:
        return made
    number = csum(pseudo(src, dst, UDP, len(made)) + made) or 0xFFFF
    return made[:6] + number.to_bytes(2, "big") + made[8:]


def tcp(side: str, src: bytes, sport: int, dst: bytes, dport: int, flags: int, seq: int = 0, ack: int = 0,
        payload: bytes = b"") -> bytes:  # fmt: skip
    return frame(side, packet(src, dst, TCP, segment(src, sport, dst, dport, flags, seq, ack, payload)))


def udp(side: str, src: bytes, sport: int, dst: bytes, dport: int, payload: bytes = bytes(8)) -> bytes:
    return frame(side, packet(src, dst, UDP, datagram(src, sport, dst, dport, payload)))


def key(raw: bytes) -> tuple[bytes, int, bytes, int]:
    """Source, its port, destination, its port: of a frame without options or extension headers."""
    if raw[12] == 8:
        return raw[26:30], raw[34] << 8 | raw[35], raw[30:34], raw[36] << 8 | raw[37]
    return raw[22:38], raw[54] << 8 | raw[55], raw[38:54], raw[56] << 8 | raw[57]


def body(raw: bytes) -> bytes:
    """What a TCP segment carries; its checksum has to be right."""
    at = 34 if raw[12] == 8 else 54
    src, _, dst, _ = key(raw)
    assert csum(pseudo(src, dst, TCP, len(raw) - at) + raw[at:]) == 0
    return raw[at + 20 :]


# --- connections ----------------------------------------------------------------------------------------


@dataclass(slots=True)
class Talk:
    """A TCP connection as its two ends see it."""

    src: bytes
    sport: int
    dst: bytes = VIP
    dport: int = 80
    #: Who serves it, and whom that one sees, each with its port: known when the first segment has come.
    at: tuple[bytes, int] = (b"", 0)
    seen: tuple[bytes, int] = (b"", 0)
    seq: int = 1000
    ack: int = 0

    def up(self, flags: int, payload: bytes = b"") -> bytes:
        """The client's next segment."""
        made = tcp(CLIENT, self.src, self.sport, self.dst, self.dport, flags, self.seq, self.ack, payload)
        self.seq += len(payload) + bool(flags & SYN) + bool(flags & FIN)
        return made

    def down(self, flags: int, payload: bytes = b"") -> bytes:
        """The server's next segment."""
        made = tcp(SERVER, *self.at, *self.seen, flags, self.ack, self.seq, payload)
        self.ack += len(payload) + bool(flags & SYN) + bool(flags & FIN)
        return made

    def served(self, got: bytes | None) -> None:
        """What the server got says who it is."""
        assert got is not None, "lost"
        *seen, address, port = key(got)
        self.at, self.seen = (address, port), (seen[0], seen[1])


def talks(count: int, *, first: int = 0, family: int = 4, dport: int = 80) -> list[Talk]:
    """Connections of a thousand ports a client, to be opened."""
    vip = VIP if family == 4 else VIP6
    return [
        Talk(client(n // 1000, family), 10_000 + n % 1000, vip, dport, seq=n * 7919, ack=n * 104_729 + 1)
        for n in range(first, first + count)
    ]


def establish(director: Director, some: Sequence[Talk], now_ns: int) -> None:
    """Three segments each; nobody is lost."""
    for talk, got in zip(some, director.send(CLIENT, [t.up(SYN) for t in some], now_ns), strict=True):
        talk.served(got)
    back = director.send(SERVER, [t.down(SYN | ACK) for t in some], now_ns)
    assert [key(got or bytes(64)) for got in back] == [(t.dst, t.dport, t.src, t.sport) for t in some]
    assert None not in director.send(CLIENT, [t.up(ACK) for t in some], now_ns)


def broken(director: Director, some: Sequence[Talk], now_ns: int, rng: Any) -> int:
    """How many connections do not carry what is said, there and back."""
    said = [rng.randbytes(20) for _ in some]
    there = director.send(CLIENT, [t.up(PSH | ACK, words) for t, words in zip(some, said, strict=True)], now_ns)
    lost = sum(
        got is None or key(got) != (*t.seen, *t.at) or body(got) != words
        for t, got, words in zip(some, there, said, strict=True)
    )
    back = director.send(SERVER, [t.down(PSH | ACK, words) for t, words in zip(some, said, strict=True)], now_ns)
    return lost + sum(
        got is None or key(got) != (t.dst, t.dport, t.src, t.sport) or body(got) != words
        for t, got, words in zip(some, back, said, strict=True)
    )


def in_batches(frames: Sequence[bytes], rows: int = 2048) -> Iterator[Sequence[bytes]]:
    for first in range(0, len(frames), rows):
        yield frames[first : first + rows]
