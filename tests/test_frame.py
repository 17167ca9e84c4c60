"""One packet at a time: what stands in an Outer, what is refused and why, and that the inner frame is no copy."""

from __future__ import annotations

import dataclasses
import mmap
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

import vxlanfast as vf
from tests.support import udp_csum

INNER = bytes(Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01") / IP(src="198.51.100.1", dst="198.51.100.2",
              tos=0xB9) / UDP(sport=1000, dport=2000) / bytes(range(64)))  # fmt: skip
V4 = {"src": "192.0.2.1", "dst": "192.0.2.2"}
V6 = {"src": "2001:db8::1", "dst": "2001:db8::2"}
FAMILIES = pytest.mark.parametrize(("addresses", "length"), [(V4, 50), (V6, 70)], ids=["v4", "v6"])


# --- decap ----------------------------------------------------------------------------------------------


@FAMILIES
def test_outer(addresses: dict[str, str], length: int) -> None:
    ip = (
        IP(**addresses, ttl=17, tos=0xBA, id=3) if length == 50 else IPv6(**addresses, hlim=17, tc=0xBA, fl=0xFFFFF)
    )
    packet = bytes(Ether() / ip / UDP(sport=54321, dport=8472) / VXLAN(flags=0x0C, vni=0xABCDEF) / INNER)
    found = vf.decap(packet)
    assert isinstance(found, vf.Decapsulated) and isinstance(found.outer, vf.Outer)
    assert found.vni == 0xABCDEF and found.inner == INNER
    outer = dataclasses.replace(found.outer, headers=memoryview(b""))
    assert outer == vf.Outer(
        **addresses, sport=54321, dport=8472, ttl=17, dscp=0xBA >> 2, ecn=2, vxlan_flags=0x0C, headers=memoryview(b"")
    )
    assert found.outer.headers == packet[:length]
    assert str(found.outer) == f"{addresses['src']}:54321 > {addresses['dst']}:8472"
    assert repr(found) == f"<VXLAN, flags 0x0c, vni 11259375, {found.outer}, inner {len(INNER)} bytes>"


def test_ports_link_and_strict() -> None:
    packet = vf.encap(INNER, 42, **V4, port=5000)
    with pytest.raises(vf.NotVxlan, match="not to a VXLAN port") as caught:
        vf.decap(packet)
    assert caught.value.verdict is vf.Verdict.PUNT_PORT
    assert vf.decap(packet, ports=iter([5000])).vni == 42
    assert vf.decap(packet[14:], ports=[5000], link=101).inner == INNER
    reserved = bytearray(vf.encap(INNER, 42, **V4))
    reserved[43] = 1
    assert vf.decap(reserved).vni == 42, "reserved bits are ignored on receipt (RFC 7348 §5)"
    with pytest.raises(vf.NotVxlan) as caught:
        vf.decap(reserved, strict=True)
    assert caught.value.verdict == vf.Verdict.DROP_RESERVED


@pytest.mark.parametrize(("packet", "verdict"), [
    (b"", "DROP_TRUNCATED"),
    (bytes(14), "PUNT_NOT_IP"),
    (INNER, "PUNT_PORT"),
    (bytes(Ether() / IP(**V4) / b"no UDP"), "PUNT_NOT_UDP"),
    (bytes(Ether() / IP(**V4) / UDP(dport=4789) / VXLAN(flags=0, vni=1) / INNER), "DROP_NO_VNI"),
    (bytes(Ether() / IP(**V4) / UDP(dport=4789) / VXLAN(flags=8, vni=1) / b"runt"), "DROP_INNER_RUNT"),
])  # fmt: skip
def test_no_vxlan(packet: bytes, verdict: str) -> None:
    with pytest.raises(vf.NotVxlan) as caught:
        vf.decap(packet)
    assert caught.value.verdict is vf.Verdict[verdict]
    assert str(caught.value).startswith(f"no VXLAN in {len(packet)} bytes: ")
    assert isinstance(caught.value, ValueError)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.verdict) == (str(caught.value), caught.value.verdict)


def test_buffers_of_every_kind(tmp_path: Path) -> None:
    packet = vf.encap(INNER, 42, **V4)
    path = tmp_path / "packet"
    path.write_bytes(packet)
    even = packet[: len(packet) // 2 * 2]
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        for buffer in (packet, bytearray(packet), memoryview(packet), mapped):
            assert bytes(vf.decap(buffer).inner) == INNER
    assert vf.decap(memoryview(even).cast("H")).inner == INNER
    for wrong in (packet.hex(), None, 5, memoryview(packet + packet)[::2]):
        with pytest.raises(TypeError):
            vf.decap(wrong)  # type: ignore[arg-type]


def test_inner_is_no_copy() -> None:
    buffer = bytearray(vf.encap(INNER, 42, **V4))
    found = vf.decap(buffer)
    assert found.inner.obj is buffer and not found.inner.readonly
    buffer[50] = 0xFE
    assert found.inner[0] == 0xFE
    found.inner[1] = 0xED
    assert buffer[51] == 0xED
    with pytest.raises(BufferError):
        buffer.clear()
    assert vf.decap(bytes(buffer)).inner.readonly


def test_padding_is_not_of_the_frame() -> None:
    found = vf.decap(vf.encap(INNER, 42, **V4) + bytes(9))
    assert found.inner == INNER


def test_nested_is_taken_off_level_by_level() -> None:
    packet = vf.encap(vf.encap(INNER, 1, **V4), 2, **V6)
    first = vf.decap(packet)
    assert (first.vni, first.outer.src) == (2, V6["src"])
    second = vf.decap(first.inner)
    assert (second.vni, second.outer.src, second.inner) == (1, V4["src"], INNER)


def test_to_scapy() -> None:
    packet = vf.decap(vf.encap(INNER, 42, **V4)).to_scapy()
    assert isinstance(packet, Ether) and bytes(packet) == INNER
    assert packet[IP].dst == "198.51.100.2"


def test_results_are_frozen() -> None:
    found = vf.decap(vf.encap(INNER, 42, **V4))
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.vni = 1  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.outer.ttl = 1  # type: ignore[misc]


# --- encap ----------------------------------------------------------------------------------------------


@FAMILIES
@pytest.mark.parametrize("udp_sum", ["on", "off", "auto"])
def test_encap_is_what_scapy_reads(addresses: dict[str, str], length: int, udp_sum: str) -> None:
    packet = vf.encap(
        INNER, 0xABCDEF, **addresses, smac="02:00:00:00:00:0a", dmac="02:00:00:00:00:0b", port=8472, sport=50000,
        ttl=9, dscp=10, udp_csum=udp_sum,
    )  # fmt: skip
    assert type(packet) is bytes and len(packet) == length + len(INNER) and packet[length:] == INNER
    read = Ether(packet)
    assert (read.src, read.dst) == ("02:00:00:00:00:0a", "02:00:00:00:00:0b")
    ip = read[IP if length == 50 else IPv6]
    assert (ip.src, ip.dst) == tuple(addresses.values())
    assert (ip.ttl if length == 50 else ip.hlim) == 9
    assert (ip.tos if length == 50 else ip.tc) == 10 << 2 | 0xB9 & 3
    assert (read[UDP].sport, read[UDP].dport) == (50000, 8472)
    assert packet[length - 8 : length] == struct.pack(">II", 0x08000000, 0xABCDEF << 8)
    src, dst = (packet[26:30], packet[30:34]) if length == 50 else (packet[22:38], packet[38:54])
    if udp_sum == "on" or (udp_sum == "auto" and length == 70):
        assert read[UDP].chksum != 0 and udp_csum(src, dst, packet[length - 16 :]) == 0
    else:
        assert read[UDP].chksum == 0


def test_encap_with_and_macs_from_addresses() -> None:
    spec = vf.TunnelSpec(vni=42, **V4)
    assert vf.encap_with(spec, INNER) == vf.encap(INNER, 42, **V4) == vf.encap(frame=INNER, vni=42, **V4)
    assert vf.encap_with(spec, INNER)[:12] == bytes.fromhex("0242c0000202 0242c0000201")


def test_encap_takes_every_buffer() -> None:
    whole = vf.encap(INNER, 42, **V4)
    for buffer in (bytearray(INNER), memoryview(INNER), memoryview(b"--" + INNER)[2:]):
        assert vf.encap(buffer, 42, **V4) == whole
    for wrong in ("text", None, memoryview(INNER)[::2]):
        with pytest.raises(TypeError):
            vf.encap(wrong, 42, **V4)  # type: ignore[arg-type]


@pytest.mark.parametrize(("frame", "headers", "said"), [
    (b"", {}, "a frame of 0 bytes: inner frame shorter than an Ethernet header"),
    (bytes(13), {}, "a frame of 13 bytes: inner frame shorter"),
    (bytes(65500), {}, "a frame of 65500 bytes: encapsulated packet over the 65,535 bytes"),
    (bytes(1400), {"mtu": 1400, "mtu_policy": "drop"}, "a frame of 1400 bytes: encapsulated packet over the MTU"),
    (bytes(1400), {"mtu": 1400, "mtu_policy": "fragment"}, "a frame of 1400 bytes: 2 fragments are no one packet"),
])  # fmt: skip
def test_frames_that_cannot_be_carried(frame: bytes, headers: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        vf.encap(frame, 42, **V4, **headers)


def test_encap_refuses_bad_headers() -> None:
    with pytest.raises(vf.SpecError, match="TTL 0"):
        vf.encap(INNER, 42, **V4, ttl=0)
    with pytest.raises(TypeError, match="color"):
        vf.encap(INNER, 42, **V4, color=1)


# --- batches --------------------------------------------------------------------------------------------


@FAMILIES
def test_batches_say_the_same(addresses: dict[str, str], length: int) -> None:
    spec = vf.TunnelSpec(vni=42, **addresses)
    frames = [INNER, bytes(14), b"runt", bytes(1500)]
    batch = vf.PacketBatch.from_frames(frames)
    assert vf.encap_batch(batch, spec, ordinal=7) is batch
    assert batch.passed() == [0, 1, 3] and batch.verdict[2] == vf.Verdict.DROP_INNER_RUNT
    for row in batch.passed():
        packet = bytes(batch.frame(row))
        assert packet[length:] == frames[row] == vf.encap_with(spec, frames[row])[length:]
        assert length == 70 or int.from_bytes(packet[18:20], "big") == 7 + row
    back = vf.PacketBatch.from_frames([batch.frame(row) for row in batch.passed()] + [INNER])
    assert vf.decap_batch(back) is back
    assert [bytes(back.frame(row)) for row in back.passed()] == [INNER, bytes(14), bytes(1500)]
    assert list(back.vni) == [42, 42, 42, 0] and back.verdict[3] == vf.Verdict.PUNT_PORT


def test_levels() -> None:
    nested = vf.encap(vf.encap(vf.encap(INNER, 1, **V4), 2, **V6), 3, **V4)
    for levels, vni in ((1, 3), (2, 2), (3, 1), (4, 1), (None, 1)):
        batch = vf.decap_batch(vf.PacketBatch.from_frames([nested]), levels=levels)
        assert batch.vni[0] == vni
        assert len(batch.frame(0)) == len(INNER) + {3: 120, 2: 50, 1: 0}[vni]


def test_cut_by_a_snaplen() -> None:
    """What is there of the inner frame; without the wire length it is a packet that says more than it has."""
    whole = vf.encap(bytes(60), vni=7, src="192.0.2.1", dst="192.0.2.2")
    with pytest.raises(vf.NotVxlan):
        vf.decap(whole[:80])
    got = vf.decap(whole[:80], wire_len=len(whole))
    assert (got.vni, bytes(got.inner)) == (7, bytes(30))
    for wrong in (79, 1 << 32):
        with pytest.raises(ValueError, match=f"wire_len = {wrong}: of a packet of 80 bytes"):
            vf.decap(whole[:80], wire_len=wrong)
