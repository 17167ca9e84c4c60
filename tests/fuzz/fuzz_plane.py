"""Any sequence of frames, table changes and jumps in time, through a plane: after each step the account adds up, no
table is beyond its limit, what was set stands as it was set, nothing has crossed from a network to another or gone back
where it came from, and a batch of N has done what N batches of one do.

Input: steps, each a byte that says what, and bytes for it (see ``Sequence.step``). Without a libFuzzer:
``python tests/fuzz/fuzz_plane.py FILE...``
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import vxlanfast as vf
from vxlanfast import Rule, Verdict

LEARNED, STATIONS, MEMBERSHIPS, NEIGHBOURS = 8, 64, 12, 24
STEPS_MAX, FRAMES_MAX = 64, 6
VTEPS = ("192.0.2.2", "192.0.2.3", "2001:db8::2", "192.0.2.99")
PORTS = ("a", "b", "c", "d", "underlay")
SPEC = f"""
[node]
vtep = ["192.0.2.1", "2001:db8::1"]
stations = {STATIONS}
neighbours = {NEIGHBOURS}
memberships = {MEMBERSHIPS}
ageing_s = 30
[[network]]
name = "web"
vni = 0
subnet = ["10.0.1.0/24", "fd00:1::/64"]
gateway = ["10.0.1.1", "fd00:1::1"]
proxy = true
unknown_neighbours = "swallow"
learned_limit = {LEARNED}
mss_clamp = true
endpoint = [{{ port = "a", ip = ["10.0.1.2", "fd00:1::2"] }}, {{ vtep = "192.0.2.2", ip = "10.0.1.3" }}]
peer = [{{ vtep = "192.0.2.3" }}]
[[network]]
name = "web"
vni = 16777215
subnet = ["10.0.2.0/24", "fd00:2::/64"]
gateway = ["10.0.2.1", "fd00:2::1"]
learned_limit = {LEARNED}
bum_rate = 200
endpoint = [{{ port = "b", ip = "10.0.2.2" }}, {{ vtep = ["192.0.2.2", "2001:db8::2"], ip = "10.0.2.3" }}]
[[network]]
name = "db"
vni = 42
tags = true
gbp = true
learned_limit = {LEARNED}
endpoint = [{{ port = "c" }}, {{ port = "d", ip = "10.0.1.2" }}]
peer = [{{ vtep = "192.0.2.2" }}, {{ vtep = "2001:db8::2" }}]
"""
SPECS = tuple(
    vf.parse_spec(text)
    for text in (
        SPEC,
        SPEC.replace('flood = "head-end"', "").replace("tags = true", 'flood = "off"'),
        SPEC.replace("vni = 42", "vni = 43").replace(
            '{ vtep = "192.0.2.2", ip = "10.0.1.3" }', '{ port = "e", ip = "10.0.1.3" }'
        ),
        SPEC.replace("bum_rate = 200", "learn = false").replace('peer = [{ vtep = "192.0.2.3" }]', ""),
    )
)
VNIS = (0, 16777215, 42, 43)
#: A network's ports, and which may reach each other: those of one name.
HOMES = {"a": "web", "b": "web", "e": "web", "c": "db", "d": "db"}
NAMES = {0: "web", 16777215: "web", 42: "db", 43: "db"}
ANSWERS = (Rule.RULE_ARP, Rule.RULE_ND, Rule.RULE_ECHO, *(rule for rule in Rule if rule >= Rule.RULE_TTL))


def mac(n: int) -> bytes:
    """A few stations that the spec knows, and others."""
    return (bytes.fromhex("02420a000102"), bytes.fromhex("02420a000103"), bytes.fromhex("02420a000101"),
            bytes.fromhex("02420a000203"), b"\xff" * 6, bytes.fromhex("01005e010203"), bytes.fromhex("3333ff000002"),
            b"\2\0\0\0\0" + bytes([n % 40]))[min(n % 9, 7)]  # fmt: skip


def checksum(data: bytes) -> bytes:
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) & 1)))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF)


def ip4(src: bytes, dst: bytes, proto: int, payload: bytes, ttl: int = 64, df: int = 0) -> bytes:
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, df << 14, ttl, proto, 0, src, dst)
    return head[:10] + checksum(head) + head[12:] + payload


def ip6(src: bytes, dst: bytes, proto: int, payload: bytes, hops: int = 64) -> bytes:
    return struct.pack("!IHBB16s16s", 6 << 28, len(payload), proto, hops, src, dst) + payload


def icmp6(src: bytes, dst: bytes, message: bytes) -> bytes:
    pseudo = src + dst + struct.pack("!II", len(message), 58)
    return message[:2] + checksum(pseudo + message) + message[4:]


def inner(kind: int, a: int, b: int) -> bytes:
    """A frame of a kind, from ``a`` to ``b``."""
    src, dst = mac(a), mac(b)
    net, far = 1 + (a >> 7), 1 + (b >> 7)
    four = (bytes([10, 0, net, 1 + a % 5]), bytes([10, 0, far, 1 + b % 5]))
    six = (
        bytes.fromhex(f"fd00000{net}") + bytes(11) + bytes([1 + a % 5]),
        bytes.fromhex(f"fd00000{far}") + bytes(11) + bytes([1 + b % 5]),
    )
    kind %= 14
    if kind == 0:
        return (
            dst
            + src
            + struct.pack("!HHHBBH6s4s6s4s", 0x806, 1, 0x800, 6, 4, 1 + (b >> 6 & 1), src, four[0], bytes(6), four[1])
        )
    if kind == 1:
        message = b"\x87\0\0\0" + bytes(4) + six[1] + b"\1\1" + src
        return dst + src + b"\x86\xdd" + ip6(six[0], six[1], 58, icmp6(*six, message), 255)
    if kind == 2:
        message = b"\x88\0\0\0\xe0\0\0\0" + six[0] + b"\2\1" + src
        return dst + src + b"\x86\xdd" + ip6(six[0], six[1], 58, icmp6(*six, message), 255)
    if kind == 3:
        raw = bytes([(0x11, 0x16, 0x17, 0x12)[a & 3], 0, 0, 0, 239, 1, 2, b & 15])
        return (
            mac(5) + src + b"\x08\0" + ip4(four[0], bytes([239, 1, 2, b & 15]), 2, raw[:2] + checksum(raw) + raw[4:], 1)
        )
    if kind == 4:
        raw = bytes([0x22, 0, 0, 0, 0, 0, 0, 1, 1 + a % 6, 0, 0, b & 1, 239, 1, 2, b & 15]) + bytes(4 * (b & 1))
        return mac(5) + src + b"\x08\0" + ip4(four[0], b"\xe0\0\0\x16", 2, raw[:2] + checksum(raw) + raw[4:], 1)
    if kind == 5:
        group = b"\xff\x15" + bytes(13) + bytes([b & 15])
        raw = icmp6(six[0], group, bytes([(130, 131, 132)[a % 3], 0, 0, 0, 0, 0, 0, 0]) + group)
        return mac(6) + src + b"\x86\xdd" + ip6(six[0], group, 58, raw, 1)
    if kind == 6:
        return mac(5) + src + b"\x08\0" + ip4(four[0], bytes([239, 1, 2, b & 15]), 17, bytes(20))
    if kind == 7:
        raw = b"\x08\0\0\0\0\1\0\2ping"
        return dst + src + b"\x08\0" + ip4(*four, 1, raw[:2] + checksum(raw) + raw[4:], 1 + (a & 3))
    if kind == 8:
        raw = icmp6(*six, b"\x80\0\0\0\0\1\0\2ping")
        return dst + src + b"\x86\xdd" + ip6(*six, 58, raw, 1 + (a & 3))
    if kind == 9:
        return dst + src + b"\x08\0" + ip4(*four, 17, bytes(1300 + 2 * b), df=a >> 6 & 1)
    if kind == 10:
        return dst + src + b"\x86\xdd" + ip6(*six, 17, bytes(1300 + 2 * b))
    if kind == 11:
        syn = struct.pack("!HHIIBBHHH", a, 80, 1, 0, 0x60, 2, 512, 0, 0) + b"\2\4" + struct.pack("!H", 1200 + 2 * b)
        return dst + src + b"\x08\0" + ip4(*four, 6, syn)
    if kind == 12:
        return dst + src + b"\x81\0\0\x07\x08\0" + ip4(*four, 17, bytes(30), 1 + (a & 3))
    return dst + src + b"\x88\xb5" + bytes(60)


def wrapped(frame: bytes, vtep: str, vni: int) -> bytes:
    """In VXLAN, from a VTEP to ours."""
    vxlan = struct.pack("!BBHI", 8, 0, 0, vni << 8) + frame
    udp = struct.pack("!HHHH", 50000, 4789, 8 + len(vxlan), 0) + vxlan
    if ":" in vtep:
        src, dst = bytes.fromhex("20010db8") + bytes(11) + b"\2", bytes.fromhex("20010db8") + bytes(11) + b"\1"
        pseudo = src + dst + struct.pack("!II", len(udp), 17)
        udp = udp[:6] + checksum(pseudo + udp) + udp[8:]
        return bytes(12) + b"\x86\xdd" + ip6(src, dst, 17, udp)
    return bytes(12) + b"\x08\0" + ip4(bytes(map(int, vtep.split("."))), b"\xc0\0\2\1", 17, udp)


def pieces(packet: bytes, size: int) -> list[bytes]:
    """Fragments of an outer packet; all packets of one VTEP have the same identification, so they may meet."""
    four = packet[12:14] == b"\x08\0"
    l4 = 34 if four else 54
    head, body, out = packet[14:l4], packet[l4:], []
    for at in range(0, len(body), size):
        piece, more = body[at : at + size], at + size < len(body)
        if four:
            new = head[:2] + struct.pack("!HHH", 20 + len(piece), 1, more << 13 | at >> 3) + head[8:10]
            new += checksum(new + head[12:]) + head[12:]
        else:
            new = head[:4] + struct.pack("!HB", 8 + len(piece), 44) + head[7:]
            new += struct.pack("!BBHI", 17, 0, at | more, 1)
        out.append(packet[:14] + new + piece)
    return out


class Sequence:
    """Two planes that go through the same steps, one by batches and one by rows, and what the tables must say."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.now = 1_000_000_000
        self.planes = (vf.Dataplane(SPECS[0]), vf.Dataplane(SPECS[0]))
        self.wanted: dict[tuple[int, str], str] = {}
        self.restart()

    def byte(self) -> int:
        """The next one; 0 behind the end."""
        self.at += 1
        return self.data[self.at - 1] if self.at <= len(self.data) else 0

    def restart(self) -> None:
        """What the spec wants is what was set."""
        rows = [row for row in self.planes[0].stations() if row["state"] == "static"]
        self.wanted = {(int(str(row["vni"])), str(row["mac"])): str(row["place"]) for row in rows}

    def frames(self) -> list[tuple[int, bytes]]:
        """Some, with the numbers of the ports they come by."""
        ports, out = self.planes[0].ports, []
        for _ in range(1 + self.byte() % FRAMES_MAX):
            way, kind, a, b, changes = (self.byte() for _ in range(5))
            frame = inner(kind, a, b)
            port = PORTS[way % 5]
            rows = [frame]
            if port == "underlay":
                rows = [wrapped(frame, VTEPS[way >> 3 & 3], VNIS[way >> 5 & 3])]
                if changes & 0x20:
                    rows = pieces(rows[0], 8 * (8 + b % 64))
                    if changes & 0x10:
                        rows.reverse()
                    if changes & 8:
                        rows.pop(a % len(rows))
            for row in rows:
                raw = bytearray(row)
                for _ in range(changes & 3):
                    raw[(self.byte() << 8 | self.byte()) % len(raw)] = self.byte()
                cut = len(raw) if changes & 0xC0 else self.byte() * len(raw) // 255
                out.append((ports[port], bytes(raw[:cut])))
        return out

    def offer(self) -> None:
        """Frames to both planes: by port a batch, and each alone."""
        whole, single = self.planes
        given = self.frames()
        for port in sorted({port for port, _ in given}):
            mine = [frame for number, frame in given if number == port]
            batch = vf.PacketBatch.from_frames(mine, ts_ns=self.now, port_in=port)
            left = self.look(whole, whole.process(batch), whole.port_names[port])
            alone = []
            for frame in mine:
                one = vf.PacketBatch.from_frames([frame], ts_ns=self.now, port_in=port)
                single.process(one)
                alone += [(one.port_out[i], bytes(one.frame(i))) for i in one.passed()]
            assert [without_id(frame) for frame in left] == [without_id(frame) for frame in alone], (
                "a batch of N is not N of one"
            )

    def look(self, plane: vf.Dataplane, batch: vf.PacketBatch, entered: str) -> list[tuple[int, bytes]]:
        """What left, and that it may."""
        rules, dests, origins, ports = list(batch.rule), list(batch.dest), list(batch.origin), list(batch.port_out)
        verdicts, heads, lengths, wires = (
            list(batch.verdict),
            list(batch.head_lengths),
            list(batch.lengths),
            list(batch.wire_lengths),
        )
        places = plane.place_names()
        for verdict in verdicts:
            Verdict(verdict)
        left = []
        for i in batch.passed():
            rule, (vni, place) = Rule(rules[i]), places[dests[i]]
            came, origin = places[origins[i]]
            assert rule != Rule.RULE_NONE
            assert heads[i] + lengths[i] == wires[i], f"{heads[i]} + {lengths[i]} bytes, {wires[i]} on the wire"
            assert NAMES[vni] == NAMES[came], f"from VNI {came} to {vni}"
            assert vni == came or rule in (Rule.RULE_ROUTED, Rule.RULE_FRAGMENTED)
            assert entered == "underlay" or HOMES[entered] == NAMES[vni]
            # A router sends to where it came from when it is asked to; a bridge never.
            assert rule in ANSWERS or rule == Rule.RULE_ROUTED or place != origin, f"back to {origin} by {rule!r}"
            assert entered != "underlay" or plane.port_names[ports[i]] != "underlay", "from a tunnel to a tunnel"
            left.append((ports[i], bytes(batch.frame(i))))
        return left

    def both(self, call: object, *arguments: object) -> object:
        """A change of both planes: done, or refused by both."""
        outcomes = []
        for plane in self.planes:
            try:
                outcomes.append(getattr(plane, str(call))(*arguments))
            except (vf.SpecError, vf.TableFullError) as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1], outcomes
        return outcomes[0]

    def step(self) -> None:
        """One step."""
        kind = self.byte()
        if kind < 150:
            self.offer()
        elif kind < 170:
            self.now += (1_000_000, 1_000_000_000, 31_000_000_000, 270_000_000_000)[kind & 3] * (1 + self.byte())
        elif kind < 190:
            vni, address = VNIS[self.byte() & 3], mac(self.byte()).hex(":")
            place = ("a", "b", "c", "d", *VTEPS)[self.byte() & 7]
            if self.both("set_station", vni, address, place) is None:
                self.wanted[vni, address] = place
        elif kind < 205:
            vni, address = VNIS[self.byte() & 3], mac(self.byte()).hex(":")
            self.both("delete_station", vni, address)
            self.wanted.pop((vni, address), None)
        elif kind < 225:
            a = self.byte()
            self.both(
                "set_neighbour", VNIS[a & 3], f"10.0.{1 + (a >> 7)}.{1 + (a >> 2 & 15)}", mac(self.byte()).hex(":")
            )
        elif kind < 235:
            a = self.byte()
            self.both("delete_neighbour", VNIS[a & 3], f"10.0.{1 + (a >> 7)}.{1 + (a >> 2 & 15)}")
        else:
            self.both("apply", SPECS[self.byte() & 3])
            self.restart()

    def check(self) -> None:
        """What holds after every step, of both planes; and that they agree."""
        for plane in self.planes:
            s = plane.stats()
            assert s.packets == s.passed + sum(s.drops.values()), "in = passed + dropped"
            made = s.passed - s.flooded + s.copies - s.fragmented + s.fragments
            assert s.sent + sum(s.send_drops.values()) == made, "passed, with its copies, = sent + dropped"
            assert sum(s.rules.values()) == s.sent, "each row that left has a rule"
            assert sum(t.tx_packets for t in (*s.ports.values(), *s.peers.values())) == s.sent
            assert sum(n.traffic.rx_packets - n.traffic.drops for n in s.networks.values()) == s.passed
            rows = list(plane.stations())
            assert len(rows) <= STATIONS and len(list(plane.memberships())) <= MEMBERSHIPS
            assert len(list(plane.neighbours())) <= NEIGHBOURS
            for network in plane.spec.network:
                learned = [row for row in rows if row["vni"] == network.vni and row["state"] == "learned"]
                assert len(learned) <= LEARNED, "more learned than the network's limit"
            stand = {(row["vni"], row["mac"]): row["place"] for row in rows if row["state"] == "static"}
            assert stand == self.wanted, "what was set does not stand"
        ours, theirs = (
            (list(p.stations()), list(p.memberships()), p.stats().drops, p.stats().rules, p.stats().fdb)
            for p in self.planes
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
