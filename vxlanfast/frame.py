"""One packet at a time, for scripts and prompts; thousands a second belong in batches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.node.decap import Decap
from vxlanfast._ext.verdict import Verdict, sentence
from vxlanfast.addr import format_ip
from vxlanfast.errors import NotVxlan
from vxlanfast.spec import DEFAULT_PORTS, TunnelSpec, compile_tunnel

if TYPE_CHECKING:
    from typing import Any

    from typing_extensions import Buffer

    from vxlanfast._ext.node.encap import Encap


@dataclass(frozen=True, slots=True)
class Outer:
    """The headers that were in front of an inner frame. Addresses as text, numbers in host order."""

    src: str
    dst: str
    sport: int
    dport: int
    ttl: int
    dscp: int
    ecn: int
    vxlan_flags: int
    headers: memoryview

    def __str__(self) -> str:
        return f"{self.src}:{self.sport} > {self.dst}:{self.dport}"


@dataclass(frozen=True, slots=True)
class Decapsulated:
    """``inner``: the Ethernet frame, a view of the buffer it came in. ``outer``: what was in front of it."""

    vni: int
    inner: memoryview
    outer: Outer

    def __repr__(self) -> str:
        flags = f"0x{self.outer.vxlan_flags:02x}"
        return f"<VXLAN, flags {flags}, vni {self.vni}, {self.outer}, inner {len(self.inner)} bytes>"

    def to_scapy(self) -> Any:
        """The inner frame as a scapy ``Ether`` packet (scapy is imported here, and must be installed)."""
        from scapy.layers.l2 import Ether

        return Ether(bytes(self.inner))


@lru_cache(maxsize=64)
def _decap_node(ports: tuple[int, ...], strict: bool, levels: int = 1) -> Decap:
    return Decap(ports, strict=strict, levels=levels)


@lru_cache(maxsize=64)
def _encap_node(tunnel: TunnelSpec) -> Encap:
    return compile_tunnel(tunnel)


def decap(
    packet: Buffer,
    *,
    ports: Iterable[int] = DEFAULT_PORTS,
    link: int = 1,
    strict: bool = False,
    wire_len: int | None = None,
) -> Decapsulated:
    """Take one level of VXLAN off one packet (any C-contiguous buffer; ``bytes(p)`` of a scapy packet).

    ``link``: LINKTYPE_ number of the packet. ``wire_len``: bytes it had where a snaplen has cut it; the inner frame is
    what is left of it then. NotVxlan, with its ``verdict``, for a packet that holds none.
    """
    view = memoryview(packet).cast("B")
    if wire_len is not None and not len(view) <= wire_len < 1 << 32:
        raise ValueError(f"wire_len = {wire_len}: of a packet of {len(view)} bytes, at least as many")
    verdict, vni, l3, l4, inner, end = _decap_node(tuple(ports), strict).find(view, link, wire_len or 0)
    if verdict:
        raise NotVxlan(f"no VXLAN in {len(view)} bytes: {sentence(verdict)}", verdict=Verdict(verdict))
    if view[l3] >> 4 == 4:
        src, dst, tos, ttl = view[l3 + 12 : l3 + 16], view[l3 + 16 : l3 + 20], view[l3 + 1], view[l3 + 8]
    else:
        src, dst, ttl = view[l3 + 8 : l3 + 24], view[l3 + 24 : l3 + 40], view[l3 + 7]
        tos = (view[l3] << 4 | view[l3 + 1] >> 4) & 0xFF
    outer = Outer(
        src=format_ip(bytes(src)),
        dst=format_ip(bytes(dst)),
        sport=view[l4] << 8 | view[l4 + 1],
        dport=view[l4 + 2] << 8 | view[l4 + 3],
        ttl=ttl,
        dscp=tos >> 2,
        ecn=tos & 3,
        vxlan_flags=view[l4 + 8],
        headers=view[:inner],
    )
    return Decapsulated(vni=vni, inner=view[inner:end], outer=outer)


def encap(frame: Buffer, vni: int, src: str, dst: str, **headers: Any) -> bytes:
    """Put VXLAN in front of one Ethernet frame; ``headers`` are those of ``TunnelSpec``.

    ValueError for a frame that cannot be carried.
    """
    return encap_with(TunnelSpec(vni=vni, src=src, dst=dst, **headers), frame)


def encap_with(tunnel: TunnelSpec, frame: Buffer) -> bytes:
    """The same with the headers in a spec."""
    batch = PacketBatch.from_frames([frame])
    _encap_node(tunnel).process(batch)
    if batch.verdict[0]:
        raise ValueError(f"a frame of {len(memoryview(frame))} bytes: {sentence(batch.verdict[0])}")
    if len(batch) > 1:
        raise ValueError(f"a frame of {len(memoryview(frame))} bytes: {len(batch)} fragments are no one packet")
    return bytes(batch.frame(0))


def decap_batch(
    batch: PacketBatch, *, ports: Iterable[int] = DEFAULT_PORTS, levels: int | None = 1, strict: bool = False
) -> PacketBatch:
    """Take VXLAN off every row of ``batch`` that holds it; the verdict column says why not of the rest."""
    return _decap_node(tuple(ports), strict, levels or 0).process(batch)


def encap_batch(batch: PacketBatch, tunnel: TunnelSpec, *, ordinal: int = 0) -> PacketBatch:
    """Put the tunnel's headers in front of every row that passed.

    ``ordinal``: rows before this batch, for the IPv4 identifications.
    """
    return _encap_node(tunnel).process(batch, ordinal)
