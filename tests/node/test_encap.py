"""Putting VXLAN on, beside scapy's own computation of every header; and off again."""

from __future__ import annotations

import random
import struct
from collections import Counter
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from tests import make_fixtures as fx
from tests.support import (
    FIXTURES,
    SLOW_BUILD,
    Packet,
    Pcapng,
    assert_adds_up,
    batch_from,
    capture_path,
    captures,
    csum,
    every_split,
    frames_of,
    ours_read,
    packets_of,
    pcap,
    udp_csum,
)
from vxlanfast import SpecError, TunnelSpec, encap_file
from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.node.decap import Decap
from vxlanfast._ext.node.encap import Encap
from vxlanfast._ext.verdict import Verdict
from vxlanfast.spec import compile_tunnel

PASS = Verdict.PASS
V4 = {"src": "192.0.2.1", "dst": "192.0.2.2"}
V6 = {"src": "2001:db8::1", "dst": "2001:db8::2"}
underlay = pytest.mark.parametrize("ips", [V4, V6], ids=["ipv4", "ipv6"])


def encap_node(spec: TunnelSpec) -> Encap:
    node = compile_tunnel(spec)
    assert isinstance(node, Encap)
    return node


def put(frames: list[bytes], *, ordinal: int = 0, **spec: Any) -> list[bytes]:
    """The encapsulated frames; all of them pass."""
    batch = PacketBatch.from_frames(frames)
    node = encap_node(TunnelSpec(**{"vni": 42, **spec}))
    assert node.process(batch, ordinal) is batch
    assert batch.counts() in ({PASS: len(batch)}, {})
    rows = batch.passed()
    for row in rows:
        assert (
            batch.wire_lengths[row] == len(batch.frame(row)) == batch.head_lengths[row] + batch.lengths[row]
        )
    return [bytes(batch.frame(row)) for row in rows]


def inner_tos(frame: bytes) -> int:
    """TOS or traffic class of the inner packet, by scapy; 0 where it is not IP."""
    inner = Ether(frame).payload
    while isinstance(inner, Dot1Q | Dot1AD):
        inner = inner.payload
    return inner.tos if isinstance(inner, IP) else inner.tc if isinstance(inner, IPv6) else 0


def scapy_puts(frame: bytes, ours: bytes, ident: int, **spec: Any) -> bytes:
    """The same headers as scapy makes them: lengths and checksums are its own, the source port is taken from ours."""
    tunnel = TunnelSpec(**{"vni": 42, **spec})
    tos = inner_tos(frame)
    if tunnel.dscp != "inherit":
        tos = int(tunnel.dscp) << 2 | tos & 3
    is_v6 = ":" in tunnel.src
    l4 = 14 + (40 if is_v6 else 20)
    sport = int.from_bytes(ours[l4 : l4 + 2], "big")
    if is_v6:
        ip = IPv6(src=tunnel.src, dst=tunnel.dst, tc=tos, hlim=tunnel.ttl)
    else:
        flags, ident = ("DF", 0) if tunnel.df else (0, ident)
        ip = IP(src=tunnel.src, dst=tunnel.dst, tos=tos, ttl=tunnel.ttl, id=ident & 0xFFFF, flags=flags)
    udp = UDP(sport=sport, dport=tunnel.port, chksum=None if tunnel.writes_csum else 0)
    eth = Ether(src=tunnel.smac or mac_of(tunnel.src), dst=tunnel.dmac or mac_of(tunnel.dst))
    return bytes(eth / ip / udp / VXLAN(flags=8, vni=tunnel.vni) / Raw(frame))


def mac_of(address: str) -> str:
    import ipaddress

    return "02:42:" + ":".join(f"{b:02x}" for b in ipaddress.ip_address(address).packed[-4:])


# --- every field ----------------------------------------------------------------------------------------

SPECS: list[dict[str, Any]] = [
    {},
    {"vni": 0},
    {"vni": 0xFFFFFF, "port": 8472},
    {"ttl": 1, "dscp": 46},
    {"ttl": 255, "dscp": "inherit"},
    {"dscp": 63, "df": True},
    {"udp_csum": "on"},
    {"udp_csum": "on", "df": True, "dscp": "inherit", "sport": 4789},
    {"udp_csum": "off", "sport": 1},
    {"smac": "02:00:00:00:00:01", "dmac": "02-AA-BB-CC-DD-EE", "sport": 65535, "port": 65535},
    {"mtu": 9000},
    {"mtu": 65535, "mtu_policy": "drop"},
]


@underlay
@pytest.mark.parametrize("spec", SPECS, ids=lambda s: ",".join(f"{k}={v}" for k, v in s.items()) or "default")
@pytest.mark.parametrize("ordinal", [0, 65530])
def test_headers_are_scapys(ips: dict[str, str], spec: dict[str, Any], ordinal: int) -> None:
    frames = list(fx.inner_frames())
    out = put(frames, ordinal=ordinal, **ips, **spec)
    for n, (frame, ours) in enumerate(zip(frames, out, strict=True)):
        dmac = {"dmac": spec["dmac"].replace("-", ":")} if "dmac" in spec else {}
        assert ours == scapy_puts(frame, ours, ordinal + n, **ips, **{**spec, **dmac})
        sport = int.from_bytes(ours[34 if ips is V4 else 54 :][:2], "big")
        assert sport == spec["sport"] if "sport" in spec else sport >= 49152


@underlay
def test_dscp_and_ecn_of_every_inner_packet(ips: dict[str, str]) -> None:
    """All 256 values inside, over either IP, behind a tag or none: DSCP fixed or inherited, ECN always copied."""
    frames, tos = [], []
    for value in range(256):
        for packet in (
            IP(src="203.0.113.1", dst="203.0.113.2", tos=value),
            IPv6(tc=value, dst="2001:db8::5"),
        ):
            for tag in ([], [Dot1Q(vlan=3)]):
                frame = Ether(src=fx.INNER_A, dst=fx.INNER_B)
                for layer in tag:
                    frame /= layer
                frames.append(bytes(frame / packet / Raw(b"x")))
                tos.append(value)
    for dscp in (0, 1, 62, 63, "inherit"):
        for frame, value in zip(put(frames, dscp=dscp, **ips), tos, strict=True):
            got = frame[15] if ips is V4 else (frame[14] << 4 | frame[15] >> 4) & 0xFF
            assert got == (value if dscp == "inherit" else dscp << 2 | value & 3)  # type: ignore[operator]


@underlay
def test_what_is_not_ip_has_no_dscp(ips: dict[str, str]) -> None:
    """Also where the bytes behind the addresses look like it, and where the IP header is cut."""
    head = bytes.fromhex("0242cb007102 0242cb007101")
    frames = [head + b"\x88\xb5\x45\xff" + bytes(40), head + b"\0\x2e\x45\xff" + bytes(40), head + b"\x08\0",
              head + b"\x08\0\x45", head + b"\x81\0\0\1\x08\0", head + b"\x81\0", head + b"\x86\xdd\x6f"]  # fmt: skip
    for frame in put(frames, dscp="inherit", **ips):
        assert (frame[15] if ips is V4 else (frame[14] << 4 | frame[15] >> 4) & 0xFF) == 0


def test_identifications_count_on() -> None:
    """One each, over batches; of atomic datagrams (DF) none is needed (RFC 6864 §4.1)."""
    out = put([bytes(60)] * 300, ordinal=0xFFFFFFFF - 99, **V4)
    assert [int.from_bytes(f[18:20], "big") for f in out] == [
        (0xFFFFFFFF - 99 + n) & 0xFFFF for n in range(300)
    ]
    assert {f[18:22] for f in put([bytes(60)] * 300, df=True, ordinal=7, **V4)} == {b"\0\0\x40\0"}
    first, second = BytesIO(), BytesIO()
    encap_file(BytesIO(pcap([bytes(60)] * 9000)), first, TunnelSpec(vni=1, **V4))
    encap_file(BytesIO(pcap([bytes(60)] * 9000)), second, TunnelSpec(vni=1, **V4))
    assert first.getvalue() == second.getvalue()
    idents = [int.from_bytes(f[18:20], "big") for f in frames_of(first.getvalue())]
    assert idents == list(range(9000))


# --- checksums ------------------------------------------------------------------------------------------


def assert_right_sums(frame: bytes, udp: bool) -> None:
    if frame[12:14] == b"\x08\0":
        assert csum(frame[14:34]) == 0
        src, dst, l4 = frame[26:30], frame[30:34], 34
    else:
        src, dst, l4 = frame[22:38], frame[38:54], 54
    if udp:
        assert frame[l4 + 6 : l4 + 8] != b"\0\0"
        assert udp_csum(src, dst, frame[l4:]) == 0
    else:
        assert frame[l4 + 6 : l4 + 8] == b"\0\0"


def random_frames(rng: random.Random, count: int) -> list[bytes]:
    sizes = [*range(14, 200), 255, 256, 257, 511, 512, 513, 1023, 1024, 1025, 1500, 1514, 2000]
    weights = [10] * 186 + [1] * (len(sizes) - 186)
    return [
        bytes(size) if n % 97 == 0 else b"\xff" * size if n % 89 == 0 else rng.randbytes(size)
        for n, size in enumerate(rng.choices(sizes, weights, k=count))
    ]


def check_sums(count: int, seed: int) -> None:
    rng = random.Random(seed)
    each = 500
    for n in range(count // each):
        ips = {
            "src": f"192.0.2.{rng.randrange(256)}" if n % 2 else f"2001:db8::{rng.randrange(65536):x}",
            "dst": f"198.51.100.{rng.randrange(256)}"
            if n % 2
            else f"2001:db8:ffff::{rng.randrange(65536):x}",
        }
        spec = {
            "vni": rng.randrange(1 << 24),
            "ttl": rng.randrange(1, 256),
            "dscp": rng.choice((0, 63, "inherit")),
        }
        on = n % 4 != 3
        frames = random_frames(rng, each)
        for frame in put(frames, ordinal=rng.getrandbits(40), udp_csum="on" if on else "off", **ips, **spec):
            assert_right_sums(frame, on)


def test_checksums_of_random_frames() -> None:
    """A9, in part: every IP and UDP checksum of 10^5 frames recomputed word by word."""
    check_sums(5_000 if SLOW_BUILD else 100_000, 9)


@pytest.mark.slow
@pytest.mark.skipif(SLOW_BUILD, reason="minutes in this build, and the same with fewer frames ran")
def test_checksums_of_a_million_random_frames() -> None:
    check_sums(1_000_000, 10)


@underlay
def test_a_checksum_of_zero_is_sent_as_all_ones(ips: dict[str, str]) -> None:
    """RFC 768: 0 says that there is none. The last two bytes of the frame are chosen so that the sum is zero."""
    for size in (60, 61, 512, 1514):
        frame = bytearray(bytes(range(256)) * 6)[:size]
        at = size - 2 - size % 2
        frame[at : at + 2] = b"\0\0"
        l4 = 34 if ips is V4 else 54
        without = put([bytes(frame)], udp_csum="on", sport=50000, **ips)[0]
        frame[at : at + 2] = without[l4 + 6 : l4 + 8]
        out = put([bytes(frame)], udp_csum="on", sport=50000, **ips)[0]
        assert out[l4 + 6 : l4 + 8] == b"\xff\xff"
        assert_right_sums(out, True)
        assert Decap([4789], strict=True).find(out)[0] == PASS


def test_cut_frames_have_no_checksum() -> None:
    """What the snaplen took cannot be summed: 0, and counted. Lengths are those of the wire."""
    data = pcap([Packet(0, bytes(96), 500), Packet(0, bytes(96), 96)])
    batch = batch_from(data)
    node = encap_node(TunnelSpec(vni=1, udp_csum="on", **V4))
    node.process(batch)
    cut, whole = bytes(batch.frame(0)), bytes(batch.frame(1))
    assert cut[40:42] == b"\0\0" != whole[40:42]
    assert int.from_bytes(cut[16:18], "big") == 36 + 500
    assert int.from_bytes(cut[38:40], "big") == 16 + 500
    assert batch.wire_lengths[0] == 550
    assert csum(cut[14:34]) == 0
    assert node.no_csum == 1
    stats = encap_file(BytesIO(data), BytesIO(), TunnelSpec(vni=1, **V6))
    assert stats.details["no_csum"] == 1
    assert (
        "1 frames are cut by the snaplen: their outer UDP checksum cannot be computed, 0 is sent"
        in stats.warnings
    )


# --- source ports ---------------------------------------------------------------------------------------


def flows(count: int, *, tag: bool = False) -> list[bytes]:
    """One packet each of that many TCP connections, as neighbouring as they come: ports count up, addresses stay."""
    out = []
    for n in range(count):
        ip = IP(src="203.0.113.1", dst="203.0.113.2")
        l4 = struct.pack(">HH", 32768 + n, 443) + bytes(16)
        head = bytes.fromhex("0242cb007102 0242cb007101") + (b"\x81\0\0\5" if tag else b"") + b"\x08\0"
        if n == 0:
            body = bytes(ip / Raw(l4))
        out.append(head + body[:9] + b"\x06" + body[10:20] + l4)
    return out


@underlay
@pytest.mark.parametrize("tag", [False, True])
def test_source_ports_spread(ips: dict[str, str], tag: bool) -> None:
    """A11: of 1,000 flows at least 600 have a port of their own; over 64 buckets of the range at most 1.6 times the
    mean; one flow, one port, whatever else is in the packet."""
    l4 = 34 if ips is V4 else 54
    for seed in (0, 1, 2**64 - 1):
        frames = flows(1000, tag=tag)
        ports = [int.from_bytes(f[l4 : l4 + 2], "big") for f in put(frames, seed=seed, **ips)]
        assert all(49152 <= port <= 65535 for port in ports)
        assert len(set(ports)) >= 600
        assert len(set(ports)) >= 940  # of 16,384 ports one expects 970
        # 1,000 flows are 16 a bucket, and chance alone makes 1.6 of it: the figure is for many.
        many = put(flows(32_000, tag=tag), seed=seed, **ips) if not tag else put(frames, seed=seed, **ips)
        buckets = Counter((int.from_bytes(f[l4 : l4 + 2], "big") - 49152) // 256 for f in many)
        assert len(buckets) == 64
        if not tag:
            assert max(buckets.values()) / (len(many) / 64) <= 1.6
        again = put([frame + b"more" for frame in frames], seed=seed, **ips)
        assert [int.from_bytes(f[l4 : l4 + 2], "big") for f in again] == ports
    assert ports != [int.from_bytes(f[l4 : l4 + 2], "big") for f in put(frames, seed=3, **ips)]


def test_fragments_of_one_inner_datagram_have_one_port() -> None:
    """Only the first knows the ports, so none may use them (and no fragment may overtake the others)."""
    packet = IP(src="203.0.113.1", dst="203.0.113.2", id=77) / UDP(sport=1000, dport=2000) / Raw(bytes(5000))
    from scapy.layers.inet import fragment

    pieces = [bytes(Ether(src=fx.INNER_A, dst=fx.INNER_B) / piece) for piece in fragment(packet, 1400)]
    assert len(pieces) == 4
    assert len({frame[34:36] for frame in put(pieces, **V4)}) == 1
    six = fx.fragments6(fx.datagram6()[0], 1000, 5)
    assert len({frame[34:36] for frame in put(six, **V4)}) == 1


def test_flow_column() -> None:
    batch = PacketBatch.from_frames(flows(10))
    encap_node(TunnelSpec(vni=1, **V4)).process(batch)
    assert len(set(batch.flow)) == 10
    assert list(batch.vni) == [1] * 10
    for i in range(10):
        assert int.from_bytes(batch.frame(i)[34:36], "big") == 49152 + (batch.flow[i] * 16384 >> 32)


# --- what cannot be carried -----------------------------------------------------------------------------


@underlay
def test_lengths_to_the_limit(ips: dict[str, str]) -> None:
    """An IPv4 datagram has 65,535 bytes, an IPv6 payload as many: frames to 65,499 and 65,519."""
    limit = 65535 - 36 if ips is V4 else 65535 - 16
    for size, verdict in ((13, Verdict.DROP_INNER_RUNT), (14, PASS), (limit, PASS), (limit + 1, Verdict.DROP_TOO_LONG),
                          (0, Verdict.DROP_INNER_RUNT), (262144, Verdict.DROP_TOO_LONG)):  # fmt: skip
        batch = PacketBatch.from_frames([bytes(size)])
        node = encap_node(TunnelSpec(vni=1, udp_csum="on", **ips))
        node.process(batch)
        assert batch.verdict[0] == verdict
        assert node.counters() == {verdict: 1}
        if verdict == PASS:
            assert_right_sums(bytes(batch.frame(0)), True)
        else:
            assert bytes(batch.frame(0)) == bytes(size)


@underlay
@pytest.mark.parametrize("udp", ["on", "off"])
def test_records_that_claim_any_length(ips: dict[str, str], udp: str) -> None:
    """More on the wire than a datagram holds is too long, however the numbers wrap; less than is there is no length."""
    overhead = 36 if ips is V4 else 16
    for wire_len in (65535 - overhead, 65536 - overhead, 65536, 2**31, *range(2**32 - 80, 2**32)):
        batch = batch_from(pcap([Packet(0, bytes(60), wire_len)]))
        encap_node(TunnelSpec(vni=1, udp_csum=udp, **ips)).process(batch)
        assert batch.verdict[0] == (PASS if wire_len == 65535 - overhead else Verdict.DROP_TOO_LONG)
    for wire_len in (1, 13, 14, 59):
        batch = batch_from(pcap([Packet(0, bytes(60), wire_len)]))
        encap_node(TunnelSpec(vni=1, udp_csum=udp, **ips)).process(batch)
        assert batch.verdict[0] == PASS
        assert batch.wire_lengths[0] == 60 + overhead + (14 if ips is V4 else 54)


@pytest.mark.parametrize("link", [0, 12, 101, 113, 147, 276])
def test_not_ethernet(link: int) -> None:
    batch = PacketBatch.from_frames([bytes(60)], link=link)
    encap_node(TunnelSpec(vni=1, **V4)).process(batch)
    assert batch.verdict[0] == Verdict.DROP_NOT_ETHERNET


def test_headroom_for_two_headers() -> None:
    """VXLAN over IPv4 in VXLAN over IPv6 in VXLAN over IPv6 fits a row's 192 bytes of header; a fourth does not."""
    frame = fx.inner_frames()[0]
    batch = PacketBatch.from_frames([frame])
    one = encap_node(TunnelSpec(vni=1, udp_csum="on", **V4))
    two = encap_node(TunnelSpec(vni=2, udp_csum="on", **V6))
    one.process(batch)
    two.process(batch)
    nested = bytes(batch.frame(0))
    assert nested == put([put([frame], udp_csum="on", vni=1, **V4)[0]], udp_csum="on", vni=2, **V6)[0]
    assert_right_sums(nested, True)
    two.process(batch)
    assert batch.verdict[0] == Verdict.PASS and len(batch.frame(0)) == len(nested) + 70
    nested = bytes(batch.frame(0))
    one.process(batch)
    assert batch.verdict[0] == Verdict.DROP_NO_HEADROOM
    assert bytes(batch.frame(0)) == nested


def test_border() -> None:
    good = {"vni": 1, "src": b"\xc0\0\2\1", "dst": b"\xc0\0\2\2", "smac": bytes(6), "dmac": bytes(6)}
    for bad in ({"src": b"123"}, {"dst": bytes(16)}, {"smac": bytes(5)}, {"dmac": bytes(7)}):
        with pytest.raises(ValueError, match="addresses: src and dst 4 or 16 bytes alike, smac and dmac 6"):
            Encap(**{**good, **bad})
    with pytest.raises(ValueError, match="VNI 16777216: at most 16777215"):
        Encap(**{**good, "vni": 1 << 24})
    with pytest.raises(ValueError, match="MTU 50: too small"):
        Encap(**good, mtu=50)
    with pytest.raises(KeyError):
        Encap(**good, mtu_policy="maybe")
    with pytest.raises(TypeError):
        Encap(**good).process(None)  # type: ignore[arg-type]
    batch = PacketBatch.from_frames([bytes(2000)])
    view = batch.verdict
    node = Encap(**good, mtu=1400, mtu_policy="fragment")
    with pytest.raises(BufferError):
        node.process(batch)
    del view
    node.process(batch)
    assert len(batch) == 2


# --- specs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"vni": 1 << 24}, "VNI 16777216: 0 to 16777215"),
        ({"vni": -1}, "VNI -1: 0 to 16777215"),
        ({"src": "2001:db8::1"}, "source 2001:db8::1 and destination 192.0.2.2: one is IPv4, the other IPv6"),
        ({"src": "nowhere"}, "address 'nowhere': neither IPv4 nor IPv6"),
        ({"smac": "02:00"}, "MAC address '02:00': six pairs of hex digits"),
        ({"dmac": "02:00-00:00:00:00"}, "MAC address"),
        ({"port": 0}, "UDP port 0: 1 to 65535"),
        ({"sport": 65536}, "source port 65536: 1 to 65535"),
        ({"ttl": 0}, "TTL 0: 1 to 255"),
        ({"dscp": 64}, "DSCP 64: 0 to 63, or inherit"),
        ({"dscp": "x"}, "DSCP 'x': 0 to 63, or inherit"),
        ({"udp_csum": "yes"}, "UDP checksum 'yes': auto, on or off"),
        ({"mtu_policy": "no"}, "MTU policy 'no': warn, drop or fragment"),
        ({"mtu": 575}, "MTU 575: 576 to 65535 over IPv4"),
        ({"mtu": 65536}, "MTU 65536"),
        ({"mtu": 1500, "df": True, "mtu_policy": "fragment"}, "DF forbids to fragment"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_specs_name_what_is_wrong(change: dict[str, Any], text: str) -> None:
    with pytest.raises(SpecError) as error:
        TunnelSpec(**{"vni": 1, **V4, **change})
    assert text in str(error.value)
    assert "\n" not in str(error.value)


def test_spec_knows_its_overhead() -> None:
    assert TunnelSpec(vni=1, **V4).overhead == 50
    assert TunnelSpec(vni=1, **V6).overhead == 70
    with pytest.raises(SpecError, match="MTU 1279: 1280 to 65535 over IPv6"):
        TunnelSpec(vni=1, mtu=1279, **V6)


# --- there and back -------------------------------------------------------------------------------------


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    frame=st.binary(min_size=14, max_size=3000),
    vni=st.integers(0, 2**24 - 1),
    ips=st.sampled_from([V4, V6]),
    dscp=st.one_of(st.integers(0, 63), st.just("inherit")),
    ttl=st.integers(1, 255),
    csum=st.sampled_from(["auto", "on", "off"]),
    port=st.sampled_from([4789, 8472, 1]),
)
def test_decap_of_encap(
    frame: bytes, vni: int, ips: dict[str, str], dscp: Any, ttl: int, csum: str, port: int
) -> None:
    (wire,) = put([frame], vni=vni, dscp=dscp, ttl=ttl, udp_csum=csum, port=port, **ips)
    batch = PacketBatch.from_frames([wire])
    Decap([port], strict=csum != "off" or ips is V4).process(batch)
    assert batch.verdict[0] == PASS
    assert batch.vni[0] == vni
    assert bytes(batch.frame(0)) == frame


@underlay
def test_encap_onto_a_decapsulated_row(ips: dict[str, str]) -> None:
    """In one batch, without a copy: off with the old headers, on with new ones."""
    cases = [case for case in fx.outer_cases() if case.link == 1]
    batch = PacketBatch.from_frames([case.frame for case in cases])
    Decap([4789, 8472]).process(batch)
    encap_node(TunnelSpec(vni=9, udp_csum="on", **ips)).process(batch)
    expected = put([case.inner or b"" for case in cases], vni=9, udp_csum="on", **ips)
    assert [p.data for p in packets_of(batch)] == expected


@captures("vxlan")
def test_encap_of_decap(row: dict[str, str]) -> None:
    """A6: with the outer fields of each packet, its own bytes come back: of every whole, unfragmented pick whose
    headers hold nothing that a VTEP would not write (options, tags, reserved bits, lengths of 0)."""
    packets, _ = ours_read(capture_path("vxlan", row["file"]).read_bytes())
    compared = 0
    for packet in packets:
        verdict, vni, l3, l4, inner, end = Decap([4789, 8472]).find(packet.data)
        frame = packet.data
        plain = (
            l3 == 14 and l4 in (34, 54) and frame[l4 + 8 : l4 + 12] == b"\x08\0\0\0" and not frame[l4 + 15]
        )
        if (
            verdict != PASS
            or not plain
            or len(frame) != packet.wire_len
            or (l4 == 34 and frame[16:18] == b"\0\0")
        ):
            continue
        if l4 == 34:
            src, dst, ttl, tos = frame[26:30], frame[30:34], frame[22], frame[15]
            ident = int.from_bytes(frame[18:20], "big")
            if frame[20] & 0x40 and ident:  # of an atomic datagram, which we leave at 0 (RFC 6864 §4.1)
                header = frame[14:18] + b"\0\0" + frame[20:24] + b"\0\0" + frame[26:34]
                frame = frame[:14] + header[:10] + struct.pack(">H", csum(header)) + header[12:] + frame[34:]
        else:
            src, dst, ttl, ident = frame[22:38], frame[38:54], frame[21], 0
            tos = (frame[14] << 4 | frame[15] >> 4) & 0xFF
            if frame[15] & 15 or frame[16:18] != b"\0\0" or frame[18:20] == b"\0\0":
                continue  # flow label; BIG TCP
        if tos & 3 != inner_tos(frame[inner:end]) & 3 or end != len(frame) or ttl == 0:
            continue
        has_csum = frame[l4 + 6 : l4 + 8] != b"\0\0"
        node = Encap(
            vni=vni, src=src, dst=dst, smac=frame[6:12], dmac=frame[:6], ttl=ttl, dscp=tos >> 2,
            dport=int.from_bytes(frame[l4 + 2 : l4 + 4], "big"), sport=int.from_bytes(frame[l4 : l4 + 2], "big"),
            df=bool(frame[20] & 0x40) if l4 == 34 else False, udp_csum=has_csum,
        )  # fmt: skip
        batch = PacketBatch.from_frames([frame[inner:end]])
        node.process(batch, ident)
        ours = bytes(batch.frame(0))
        if Decap([4789, 8472], strict=True).find(frame)[0] == Verdict.DROP_UDP_CSUM:
            # Captured before the card had computed it.
            ours, frame = (each[: l4 + 6] + each[l4 + 8 :] for each in (ours, frame))
        assert ours == frame
        compared += 1
    # Nearly all of the kernel's and containers' captures are of this kind.
    if row["file"].startswith(("arkime", "wz1st", "kernel61")):
        assert compared >= 0.9 * int(row["inner_frames"])


# --- batches --------------------------------------------------------------------------------------------


@underlay
@pytest.mark.parametrize(
    "spec", [{}, {"udp_csum": "on"}, {"mtu": 1300, "mtu_policy": "fragment"}, {"dscp": "inherit"}]
)
def test_however_it_is_split_into_batches(ips: dict[str, str], spec: dict[str, Any]) -> None:
    rng = random.Random(2)
    frames = [rng.choice(fx.inner_frames()) for _ in range(256)]
    expected = None
    for split in every_split(256):
        node = encap_node(TunnelSpec(vni=5, **ips, **spec))
        rows: list[bytes] = []
        at = 0
        for n in split:
            batch = PacketBatch.from_frames(frames[at : at + n])
            node.process(batch, at)
            rows += [bytes(batch.frame(i)) for i in batch.passed()]
            at += n
        result = (rows, node.counters(), node.over_mtu, node.fragments, node.no_csum)
        assert expected is None or result == expected
        expected = result


def test_rows_decided_before_stay() -> None:
    batch = PacketBatch.from_frames([bytes(60)] * 3)
    batch.verdict[1] = Verdict.DROP_FILTER_INNER
    encap_node(TunnelSpec(vni=5, **V4)).process(batch)
    assert list(batch.head_lengths) == [50, 0, 50]
    assert batch.passed() == [0, 2]


def test_files_of_every_kind(tmp_path: Any) -> None:
    """The fixture of inner frames, from and to each format; an interface that is not Ethernet is counted and named."""
    tunnel = TunnelSpec(vni=42, **V4)
    expected = put(list(fx.inner_frames()), **V4)
    for format in ("pcap", "nsecpcap", "pcapng"):
        out = tmp_path / f"out.{format}"
        stats = encap_file(FIXTURES / "inner.pcap", out, tunnel, format=format)
        assert_adds_up(stats)
        assert frames_of(out) == expected
    ng = Pcapng().interface(1).interface(101).epb(fx.inner_frames()[0]).epb(b"E" * 40, interface=1)
    stats = encap_file(BytesIO(ng.data), BytesIO(), tunnel)
    assert_adds_up(stats)
    assert stats.drops == {"DROP_NOT_ETHERNET": 1}
