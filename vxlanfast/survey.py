"""What is in a capture: totals per VNI and tunnel, read once, at the speed of decapsulation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from time import monotonic
from typing import TYPE_CHECKING

from vxlanfast._ext.node.survey import Survey as SurveyNode
from vxlanfast.addr import format_ip
from vxlanfast.capture import Capture, open_capture
from vxlanfast.errors import CaptureError, Interrupted
from vxlanfast.files import Plan, VniSet, Watch, collect, decap_plan
from vxlanfast.spec import DEFAULT_PORTS
from vxlanfast.stats import Stats

if TYPE_CHECKING:
    from vxlanfast.ends import Readable


@dataclass(frozen=True, slots=True)
class Tunnel:
    """Packets of one VNI from one VTEP to another; ``src`` and ``dst`` None in the entry for those that did not fit.

    ``bytes``: of inner frames, on the wire. ``truncated``: cut by a snaplen. ``gbp``: with a group policy; ``gpe``: GPE
    headers (of Ethernet); ``reserved``: with other reserved bits; ``csummed``: with an outer UDP checksum.
    """

    vni: int | None
    src: str | None
    dst: str | None
    packets: int
    bytes: int
    first_ns: int
    last_ns: int
    truncated: int
    gbp: int
    gpe: int
    reserved: int
    csummed: int


@dataclass(frozen=True, slots=True)
class Network:
    """One VNI: its tunnels added up."""

    vni: int | None
    packets: int
    bytes: int
    first_ns: int
    last_ns: int
    truncated: int
    gbp: int
    gpe: int
    reserved: int
    csummed: int
    tunnels: tuple[Tunnel, ...]


@dataclass(frozen=True, slots=True)
class Survey:
    """One file's content. ``format``: of the file; ``interfaces``: its (last section's) link type numbers."""

    name: str
    format: str
    compression: str | None
    links: tuple[int, ...]
    networks: tuple[Network, ...]
    stats: Stats

    def as_dict(self) -> dict[str, object]:
        """Everything, for JSON."""
        return {**asdict(self), "stats": self.stats.as_dict()}


_SUMS = ("packets", "bytes", "truncated", "gbp", "gpe", "reserved", "csummed")


def _networks(node: SurveyNode) -> tuple[Network, ...]:
    by_vni: dict[int | None, list[Tunnel]] = {}
    for row in node.table.rows():
        row.pop("port_in")
        for side in ("src", "dst"):
            row[side] = format_ip(row[side]) if row[side] is not None else None
        by_vni.setdefault(row["vni"], []).append(Tunnel(**row))
    return tuple(
        Network(
            vni=vni,
            first_ns=min(t.first_ns for t in tunnels),
            last_ns=max(t.last_ns for t in tunnels),
            tunnels=tuple(sorted(tunnels, key=lambda t: -t.packets)),
            **{name: sum(getattr(t, name) for t in tunnels) for name in _SUMS},
        )
        for vni, tunnels in sorted(by_vni.items(), key=lambda item: (item[0] is None, item[0] or 0))
    )


def survey_file(
    source: Readable,
    *,
    ports: Iterable[int] = DEFAULT_PORTS,
    vni: VniSet = None,
    reassemble: bool = False,
    inner: str | None = None,
    outer: str | None = None,
    count: int | None = None,
    watch: Watch | None = None,
) -> Survey:
    """Read a capture file once and add up what its tunnels carry; the arguments are those of ``decap_file``.

    CaptureError for a file that is no capture at all; a fault further on stands in ``stats.fault`` of what was read.
    """
    plan: Plan = decap_plan(ports=ports, vni=vni, reassemble=reassemble, inner=inner, outer=outer)
    plan.verb = "info"
    node = SurveyNode()
    began = monotonic()
    interrupted = False
    with open_capture(source, count=count) as capture:
        batch = capture.make_batch()
        packets = 0
        while True:
            try:
                if not capture.fill(batch):
                    break
            except Interrupted:
                if capture.decoder.format is None:
                    raise
                interrupted = True
                break
            for step in plan.steps:
                step(batch, packets)
            node.process(batch)
            packets += len(batch)
            if watch is not None and watch(packets, capture.source.position(), capture.source.size):
                interrupted = True
                break
        _require_format(capture)
        stats = collect([plan], capture, [], interrupted, monotonic() - began)
        return Survey(
            name=capture.name,
            format=capture.decoder.format or "",
            compression=capture.source.compression,
            links=tuple(link for link, _, _, _ in capture.decoder.interfaces()),
            networks=_networks(node),
            stats=stats,
        )


def _require_format(capture: Capture) -> None:
    if capture.decoder.format is None:
        raise CaptureError(capture.fault or f"{capture.name}: empty", path=capture.name, offset=0)
