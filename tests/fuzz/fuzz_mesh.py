"""Any sequence of packets, servers that come, change and go, specs applied and jumps in time, through the routing
mesh: after each step index, lists and timers of the connections agree, each server counts the connections that it has,
no table is beyond its limit, the account adds up, nothing has left the internal network or entered it, every packet
that was right and is rewritten is right, and a batch of N has done what N batches of one do.

Input: steps, each a byte that says what, and bytes for it (see ``Sequence.step``). Without a libFuzzer:
``python tests/fuzz/fuzz_mesh.py FILE...``
"""

from __future__ import annotations

import struct
import sys
from collections import Counter
from pathlib import Path

import vxlanfast as vf
from vxlanfast import Rule, Verdict

CONNECTIONS, SOURCE_LIMIT, SERVERS = 24, 12, 12
STEPS_MAX, FRAMES_MAX = 64, 6
SPEC = f"""
[node]
vtep = "192.0.2.1"
[mesh]
seed = 1
connections = {CONNECTIONS}
source_limit = {SOURCE_LIMIT}
servers = {SERVERS}
services = 8
[[network]]
name = "lan"
lan = true
subnet = ["198.51.100.0/24", "2001:db8::/64"]
gateway = ["198.51.100.1", "2001:db8::1"]
gateway_mac = "02:00:00:00:01:01"
router_mac = "02:00:00:00:01:01"
flood = "off"
endpoint = [{{ port = "eth0", mac = "02:00:00:00:00:64", ip = ["198.51.100.100", "2001:db8::64"] }}]
route = [{{ to = "0.0.0.0/0", via = "198.51.100.100" }}]
[[network]]
name = "web"
vni = 42
subnet = ["10.0.1.0/24", "fd00:1::/64"]
gateway = ["10.0.1.1", "fd00:1::1"]
outside = "lan"
preserve_source = true
endpoint = [{{ port = "a", ip = ["10.0.1.2", "fd00:1::2"] }}, {{ port = "b", ip = ["10.0.1.3", "fd00:1::3"] }},
            {{ vtep = "192.0.2.2", ip = ["10.0.1.4", "fd00:1::4"] }}]
[[network]]
name = "quiet"
vni = 43
subnet = ["10.0.2.0/24"]
gateway = ["10.0.2.1"]
internal = true
endpoint = [{{ port = "q", ip = "10.0.2.2" }}, {{ port = "r", ip = "10.0.2.3" }}]
[[service]]
name = "pub"
servers_in = "web"
scheduler = "rr"
publish = [{{ network = "lan", published = "8080-8082", target = 80 }},
           {{ network = "lan", published = 53, protocol = "udp" }},
           {{ network = "lan", published = 99, protocol = "sctp" }}]
server = [{{ address = "10.0.1.2" }}, {{ address = "10.0.1.4", weight = 2 }}, {{ address = "fd00:1::2" }}]
[[service]]
name = "east"
scheduler = "wlc"
persistent_s = 30
removal = "hold"
virtual = [{{ network = "web", address = "10.0.1.100" }}, {{ network = "web", address = "fd00:1::100" }}]
server = [{{ address = "10.0.1.2" }}, {{ address = "10.0.1.3" }}, {{ address = "fd00:1::3" }}]
[[service]]
name = "masq"
servers_in = "web"
masquerade = ["10.0.1.1"]
removal = "reset"
reset_idle = true
tcp_s = 60
virtual = [{{ network = "lan", address = "198.51.100.50", protocol = "tcp", port = 80 }}]
server = [{{ address = "10.0.1.3", port = 8000, upper = 4 }}]
[[service]]
name = "inside"
virtual = [{{ network = "quiet", address = "10.0.2.100" }}]
server = [{{ address = "10.0.2.2" }}]
"""
SPECS = tuple(
    vf.parse_spec(text)
    for text in (
        SPEC,
        SPEC.replace('scheduler = "rr"', 'scheduler = "mh"').replace('removal = "hold"', 'removal = "reschedule"'),
        SPEC.replace(
            'server = [{ address = "10.0.1.2" }, { address = "10.0.1.3" }', 'server = [{ address = "10.0.1.3" }'
        ),
        SPEC.replace('[{ address = "10.0.1.3", port = 8000, upper = 4 }]', '[{ address = "10.0.1.2", port = 8000 }]')
        .replace("preserve_source = true", "")
        .replace('scheduler = "wlc"', 'scheduler = "sh"'),
    )
)
#: Hosts, as numbers of a frame name them: the client and one behind it, tasks, virtual addresses, gateways, nobody.
FOUR = (
    "198.51.100.100",
    "203.0.113.9",
    "198.51.100.1",
    "198.51.100.50",
    "10.0.1.2",
    "10.0.1.3",
    "10.0.1.4",
    "10.0.1.100",
    "10.0.1.1",
    "10.0.2.2",
    "10.0.2.3",
    "10.0.2.100",
    "10.0.2.1",
    "10.0.9.9",
    "127.0.0.1",
    "10.0.1.1",
)
SIX = (
    "2001:db8::64",
    "2001:db8:9::9",
    "2001:db8::1",
    "2001:db8::50",
    "fd00:1::2",
    "fd00:1::3",
    "fd00:1::4",
    "fd00:1::100",
    "fd00:1::1",
    "fd00:2::2",
    "fd00:2::3",
    "fd00:2::100",
    "fd00:2::1",
    "fd00:9::9",
    "::1",
    "fd00:1::1",
)
PORTS = ("eth0", "a", "b", "q", "r", "underlay")
#: What the gateway of each port's network is reached by, and the port's own MAC.
MACS = {
    "eth0": ("020000000101", "020000000064"),
    "a": ("02420a000101", "02420a000102"),
    "b": ("02420a000101", "02420a000103"),
    "q": ("02420a000201", "02420a000202"),
    "r": ("02420a000201", "02420a000203"),
    "underlay": ("0642c0000201", "0642c0000202"),
}
SERVICES = (
    ("pub", "10.0.1.2", 0),
    ("pub", "10.0.1.4", 0),
    ("pub", "fd00:1::2", 0),
    ("east", "10.0.1.2", 0),
    ("east", "10.0.1.3", 0),
    ("masq", "10.0.1.3", 8000),
    ("inside", "10.0.2.2", 0),
    ("pub", "10.0.1.3", 0),
)
QUIET = ("q", "r")


def packed(text: str) -> bytes:
    from ipaddress import ip_address

    return ip_address(text).packed


ADDRESSES = (tuple(map(packed, FOUR)), tuple(map(packed, SIX)))


def checksum(data: bytes) -> int:
    number = int.from_bytes(data + bytes(len(data) & 1), "big")
    return 0xFFFF - (number % 0xFFFF or 0xFFFF) if number else 0xFFFF


def ip(src: bytes, dst: bytes, proto: int, payload: bytes, ttl: int, frag: int = 0) -> bytes:
    if len(src) == 16:
        return struct.pack("!IHBB", 6 << 28, len(payload), proto, ttl) + src + dst + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 7, frag, ttl, proto, 0) + src + dst
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def pseudo(src: bytes, dst: bytes, proto: int, size: int) -> bytes:
    return src + dst + (struct.pack("!HH", proto, size) if len(src) == 4 else struct.pack("!II", size, proto))


def summed(src: bytes, dst: bytes, proto: int, at: int, message: bytes) -> bytes:
    """A message with its checksum at that place."""
    lead = b"" if proto == 1 else pseudo(src, dst, proto, len(message))
    return message[:at] + struct.pack("!H", checksum(lead + message) or 0xFFFF) + message[at + 2 :]


def right(frame: bytes) -> bool:
    """Whether a whole TCP, UDP or ICMP packet in an Ethernet frame has right checksums; True of everything else."""
    if len(frame) < 34 or frame[12:14] not in (b"\x08\0", b"\x86\xdd"):
        return True
    if frame[12] == 8:
        if frame[14] != 0x45 or struct.unpack_from("!H", frame, 20)[0] & 0x3FFF:
            return True
        proto, at, src, dst = frame[23], 34, frame[26:30], frame[30:34]
        size = struct.unpack_from("!H", frame, 16)[0] - 20
        if checksum(frame[14:34]) != 0:
            return False
    else:
        if len(frame) < 54:
            return True
        proto, at, src, dst = frame[20], 54, frame[22:38], frame[38:54]
        size = struct.unpack_from("!H", frame, 18)[0]
    message = frame[at : at + size]
    if len(message) < size or proto not in (1, 6, 17, 58) or size < 8 or (proto == 17 and message[6:8] == b"\0\0"):
        return True
    return checksum((b"" if proto == 1 else pseudo(src, dst, proto, size)) + message) == 0


class Sequence:
    """Two planes that go through the same steps, one by batches and one by rows."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.now = 1_000_000_000
        self.planes = (vf.Dataplane(SPECS[0]), vf.Dataplane(SPECS[0]))
        self.said: list[tuple[str, bytes]] = []  # what left, by which port: the next frames answer it

    def byte(self) -> int:
        """The next one; 0 behind the end."""
        self.at += 1
        return self.data[self.at - 1] if self.at <= len(self.data) else 0

    def packet(self, six: int, a: int, b: int, kind: int) -> bytes:
        """A packet from host ``a`` to host ``b``, one time in two to a service."""
        hosts = ADDRESSES[six]
        src, dst = hosts[a & 15], hosts[(b & 15) if b & 64 else (2, 2, 3, 7, 11, 7, 2, 2)[b & 7]]
        sport = 1000 + (a >> 4)
        proto = (6, 6, 6, 17, 17, 132, 1, 1)[kind & 7]
        dport = {17: 53, 132: 99}.get(proto, 80 if dst in (hosts[3], hosts[7]) else 8080 + (b >> 4 & 3))
        ttl = 64 if a & 32 else 1 + (a >> 6)
        if proto == 6:
            flags = (2, 2, 2, 2, 0x10, 0x11, 0x14, 0x12)[kind >> 3 & 7]
            message = struct.pack("!HHIIBBHHH", sport, dport, 77 * kind, 0, 0x50, flags, 512, 0, 0) + bytes(kind >> 6)
            return ip(src, dst, 6, summed(src, dst, 6, 16, message), ttl)
        if proto == 17:
            message = struct.pack("!HHHH", sport, dport, 20, 0) + bytes(12)
            whole = summed(src, dst, 17, 6, message) if kind & 8 or six else message
            if kind & 16 and not six:  # in two fragments, one of them
                return ip(src, dst, 17, whole[16:], ttl, 2) if kind & 32 else ip(src, dst, 17, whole[:16], ttl, 0x2000)
            return ip(src, dst, 17, whole, ttl)
        if proto == 132:
            chunk = (1, 1, 1, 10, 6, 7, 14, 0)[kind >> 3 & 7]
            return ip(src, dst, 132, struct.pack("!HHIIBBHI", sport, dport, 0, 0, chunk, 0, 8, 5), ttl)
        proto = 58 if six else 1
        message = struct.pack("!BBHHH", 128 if six else 8, 0, 0, sport, 1) + b"ping"
        return ip(src, dst, proto, summed(src, dst, proto, 2, message), ttl)

    def answer(self, frame: bytes, kind: int) -> bytes | None:
        """What its receiver says to a frame: the next segment, an echo, a chunk, or an ICMP error about it."""
        six = frame[12:14] == b"\x86\xdd"
        start, lead = (54, frame[:22]) if six else (34, frame[:26])
        addrs = frame[len(lead) : start]
        if frame[12:14] not in (b"\x08\0", b"\x86\xdd") or len(frame) < start + 8 or (not six and frame[14] != 0x45):
            return None
        src, dst = addrs[len(addrs) // 2 :], addrs[: len(addrs) // 2]
        proto, head = frame[20] if six else frame[23], frame[6:12] + frame[:6] + frame[12:14]
        dport, sport = struct.unpack_from("!HH", frame, start)
        if kind & 0xE0 == 0xE0:
            message = struct.pack("!BBHI", 1 if six else 3, 3, 0, 0) + frame[14 : 14 + (80 if kind & 1 else 48)]
            proto = 58 if six else 1
            return head + ip(src, dst, proto, summed(src, dst, proto, 2, message), 64)
        if proto == 6 and len(frame) >= start + 20:
            seq, ack = struct.unpack_from("!II", frame, start + 4)
            old = frame[start + 13]
            flags = {2: 0x12, 0x12: 0x10}.get(old & 0x17, (0x10, 0x18, 0x11, 0x14)[kind & 3])
            if kind & 0x1C == 0x1C:
                ack += 1 << (kind & 3) * 9  # a blind one's guess
            made = (seq + (1 if old & 3 else 0) + max(0, len(frame) - start - 20)) & 0xFFFFFFFF
            message = struct.pack("!HHIIBBHHH", sport, dport, ack & 0xFFFFFFFF, made, 0x50, flags, 512, 0, 0)
            return head + ip(src, dst, 6, summed(src, dst, 6, 16, message + bytes(kind & 3)), 64)
        if proto == 17:
            message = struct.pack("!HHHH", sport, dport, 12, 0) + b"back"
            return head + ip(src, dst, 17, summed(src, dst, 17, 6, message), 64)
        if proto == 132:
            old = frame[start + 12] if len(frame) > start + 12 else 0
            chunk = {1: 2, 2: 10, 10: 11}.get(old, (7, 8, 14, 6)[kind & 3])
            return head + ip(src, dst, 132, struct.pack("!HHIIBBHI", sport, dport, 5, 0, chunk, 0, 8, 5), 64)
        if proto in (1, 58) and frame[start] in (8, 128):
            message = bytes([0 if proto == 1 else 129]) + frame[start + 1 :]
            return head + ip(src, dst, proto, summed(src, dst, proto, 2, message), 64)
        return None

    def frames(self) -> list[tuple[str, bytes]]:
        """Some, with the ports they come by: new ones, and answers to what left."""
        out = []
        for _ in range(1 + self.byte() % FRAMES_MAX):
            way, kind, a, b, changes = (self.byte() for _ in range(5))
            port, frame = PORTS[way % 6], None
            if way & 0x40 and self.said:
                port, said = self.said[(a ^ b) % len(self.said)]
                frame = self.answer(said, kind)
            if frame is None:
                port = PORTS[way % 6]
                to, own = (bytes.fromhex(text) for text in MACS[port])
                six = way >> 5 & 1 and kind & 1
                if way & 0x98 == 0x98:
                    to = bytes.fromhex(("02420a000102", "02420a000103", "02420a000104", "02420a000203")[a & 3])
                frame = to + own + (b"\x86\xdd" if six else b"\x08\0") + self.packet(six, a, b, kind)
            if port == "underlay":
                vxlan = struct.pack("!BBHI", 8, 0, 0, (42 + (way >> 4 & way >> 3 & 1)) << 8) + frame
                udp = struct.pack("!HHHH", 50000, 4789, 8 + len(vxlan), 0) + vxlan
                frame = bytes(12) + b"\x08\0" + ip(b"\xc0\0\2\2", b"\xc0\0\2\1", 17, udp, 64)
            raw = bytearray(frame)
            if changes < 32:
                for _ in range(changes & 3):
                    raw[(self.byte() << 8 | self.byte()) % len(raw)] = self.byte()
            out.append((port, bytes(raw[: len(raw) if changes >= 8 else self.byte() * len(raw) // 255])))
        return out

    def offer(self) -> None:
        """Frames to both planes: by port a batch, and each alone."""
        whole, single = self.planes
        given = self.frames()
        for port in PORTS:
            mine = [frame for name, frame in given if name == port]
            if not mine:
                continue
            number = whole.ports[port]
            batch = vf.PacketBatch.from_frames(mine, ts_ns=self.now, port_in=number)
            left = self.look(whole, whole.process(batch), port, mine)
            alone = []
            for frame in mine:
                one = vf.PacketBatch.from_frames([frame], ts_ns=self.now, port_in=number)
                single.process(one)
                alone += [(one.port_out[i], bytes(one.frame(i))) for i in one.passed()]
            # Resets that nobody's packet asked for stand behind a batch: the order is another.
            assert sorted(map(without_id, left)) == sorted(map(without_id, alone)), "a batch of N is not N of one"
            names = whole.port_names
            self.said = [*self.said, *((names[at], raw[50:] if at == 0 else raw) for at, raw in left)][-24:]

    def look(
        self, plane: vf.Dataplane, batch: vf.PacketBatch, entered: str, given: list[bytes]
    ) -> list[tuple[int, bytes]]:
        """What left, and that it may."""
        verdicts, rules, ports, vnis = list(batch.verdict), list(batch.rule), list(batch.port_out), list(batch.vni)
        fine = all(right(frame) for frame in given)
        left = []
        for i in batch.passed():
            Verdict(verdicts[i])
            name, frame = plane.port_names[ports[i]], bytes(batch.frame(i))
            rule = Rule(rules[i])
            inside = name in QUIET or (name == "underlay" and vnis[i] == 43)
            # A reset may be about a connection of any network, and is no packet that came.
            assert entered not in QUIET or inside or rule == Rule.RULE_RESET, f"out of the internal network by {rule!r}"
            came = entered in (*QUIET, "underlay") or rule == Rule.RULE_RESET
            assert name not in QUIET or came, f"into the internal network by {rule!r}"
            if fine and name != "underlay" and entered != "underlay":
                assert right(frame), f"{rule!r} left a wrong checksum"
            left.append((ports[i], frame))
        return left

    def both(self, call: str, *arguments: object, **more: object) -> object:
        """A change of both planes: done, or refused by both."""
        outcomes = []
        for plane in self.planes:
            try:
                outcomes.append(getattr(plane, call)(*arguments, **more))
            except (vf.SpecError, vf.TableFullError) as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1], outcomes
        return outcomes[0]

    def step(self) -> None:
        """One step."""
        kind = self.byte()
        if kind < 190:
            self.offer()
        elif kind < 200:
            self.now += (1_000_000, 1_000_000_000, 11_000_000_000, 61_000_000_000)[kind & 3] * (1 + self.byte() % 8)
        elif kind < 210:
            name, address, port = SERVICES[self.byte() & 7]
            self.both("set_server", name, address, port, weight=(0, 0, 1, 5)[self.byte() & 3])
        elif kind < 220:
            name, address, port = SERVICES[self.byte() & 7]
            self.both("add_server", name, vf.ServerSpec(address=address, port=port, weight=self.byte() & 3))
        elif kind < 230:
            name, address, port = SERVICES[self.byte() & 7]
            self.both("remove_server", name, address, port)
        elif kind < 236:
            a = self.byte()
            self.both("set_mesh", reuse=bool(a & 1), forget=bool(a & 2), sloppy=bool(a & 4))
        else:
            self.both("apply", SPECS[self.byte() & 3])

    def check(self) -> None:
        """What holds after every step, of both planes; and that they agree."""
        for plane in self.planes:
            s = plane.stats()
            assert s.packets + s.mesh.resets == s.passed + sum(s.drops.values()), "in, and our own = passed + dropped"
            made = s.passed - s.flooded + s.copies - s.fragmented + s.fragments
            assert s.sent + sum(s.send_drops.values()) == made, "passed, with its copies, = sent + dropped"
            mesh = plane._now.mesh
            assert (wrong := mesh.conns.check()) is None, wrong
            assert len(mesh.conns) <= CONNECTIONS
            held: Counter[int] = Counter()
            for row in mesh.conns.rows():
                if row["server"] is not None and not row["flags"] & 64:
                    held[row["server"]] += 1
            counted = 0
            for service in mesh.services.rows():
                for one in service["servers"]:
                    assert one["active"] + one["inactive"] == held[one["server"]], "a server counts what it has not"
                    counted += held[one["server"]]
            assert sum(held.values()) - counted >= 0
            assert mesh.services.n_servers <= SERVERS
        ours, theirs = (
            (sorted(map(str, p._now.mesh.conns.rows())), list(p.services()), p.stats().drops) for p in self.planes
        )
        assert ours == theirs, "the planes differ"


def without_id(left: tuple[int, bytes]) -> tuple[int, bytes]:
    """A frame less the IPv4 identification and checksum of an outer header, which count rows."""
    port, frame = left
    if port == 0 and frame[12:14] == b"\x08\0":
        frame = frame[:18] + frame[20:24] + frame[26:]
    return port, frame


def run(data: memoryview) -> None:
    """One input."""
    sequence = Sequence(bytes(data))
    for _ in range(STEPS_MAX):
        if sequence.at >= len(sequence.data):
            return
        sequence.step()
        sequence.check()


if __name__ == "__main__":
    for name in sys.argv[1:]:
        run(memoryview(Path(name).read_bytes()))
