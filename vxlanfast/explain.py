"""Why a plane did what it did, row by row, in words; for people and for tests, not for work."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.verdict import RULES, SENTENCES, Rule, Verdict
from vxlanfast.addr import VNI_MAX, format_ip
from vxlanfast.errors import NotVxlan, SpecError
from vxlanfast.frame import Decapsulated, decap
from vxlanfast.mesh import Translation
from vxlanfast.network_spec import UNDERLAY

if TYPE_CHECKING:
    from vxlanfast.dataplane import Dataplane

_ARP = b"\x08\x06\x00\x01\x08\x00\x06\x04"


#: What is decided by connections and services.
_MESH_RULES = frozenset(
    {
        Rule.RULE_BALANCED, Rule.RULE_RETURNED, Rule.RULE_MASQUERADED, Rule.RULE_RELATED, Rule.RULE_RECUT,
        Rule.RULE_NO_SERVER,
    }
)  # fmt: skip
_MESH_DROPS = frozenset(
    {
        Verdict.DROP_CONN_FULL, Verdict.DROP_NO_SERVER, Verdict.DROP_PORTS_FULL, Verdict.DROP_SERVER_GONE,
        Verdict.DROP_SOURCE_FULL, Verdict.DROP_SOURCE_REFUSED, Verdict.DROP_UNRELATED,
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of a frame, or of one copy of it.

    ``packet``: the frame's number in what was offered, from 1; 0: the node made it, and its port is "node". ``port``,
    ``to``: names of the ports it came and went by; ``to`` None: dropped. ``place``: the port or the VTEP it goes to.
    ``name``: of the rule or of the verdict, ``reason`` its sentence, ``detail`` what it was decided by. ``src``,
    ``dst``: MACs of the frame in its network, as it came; ``vni`` None: of no network, or of one without tunnels.
    ``length``: bytes on the wire, of what left or of what was dropped. ``translation``: what its connection, or a
    service, had to do with it.
    """

    packet: int
    ts_ns: int
    port: str
    vni: int | None
    src: str | None
    dst: str | None
    to: str | None
    place: str | None
    name: str
    reason: str
    detail: str
    length: int
    translation: Translation | None = None

    def as_dict(self) -> dict[str, object]:
        """Everything, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        seconds, rest = divmod(self.ts_ns, 1_000_000_000)
        went = f"dropped [{self.name}]" if self.to is None else self.to
        if self.place not in (None, self.to):
            went += f" {self.place}"
        told = f"{self.reason} ({self.detail})" if self.detail else self.reason
        vni = "" if self.vni is None else f" vni {self.vni}"
        frame = "" if self.src is None else f"{vni} {self.src} > {self.dst}"
        return f"{self.packet} {seconds}.{rest:09d} {self.port} -> {went}:{frame} {self.length} bytes: {told}"


@dataclass(frozen=True, slots=True)
class _Came:
    """A frame as it came."""

    port: str
    raw: bytes
    vni: int | None
    outer: Decapsulated | None
    frame: bytes


#: Of rows that the node made itself.
_OWN = _Came("node", b"", None, None, b"")


def explain(plane: Dataplane, batch: PacketBatch, *, first: int = 1) -> list[Decision]:
    """Process a batch, and say of each row that leaves or is dropped, in leaving order, what was decided and why.

    ``first``: the number of its first packet. A thousand times slower than ``process``.
    """
    names = (*plane.port_names, *["?"] * (65536 - len(plane.port_names)))
    came = [
        _came(plane, names[port], bytes(batch.frame(i)), link, wire_len)
        for i, (port, link, wire_len) in enumerate(
            zip(list(batch.port_in), list(batch.link), list(batch.wire_lengths), strict=True)
        )
    ]
    plane.process(batch, explain=True)
    places, translations = plane.place_names(), plane.translations()
    columns = [
        list(c) for c in (batch.verdict, batch.rule, batch.dest, batch.port_out, batch.ts_ns, batch.wire_lengths)
    ]
    verdicts, rules, dests, ports, times, lengths = columns
    decisions = []
    for i, source in batch.sources():
        verdict, own = Verdict(verdicts[i]), i >= len(came) and rules[i] == Rule.RULE_RESET
        frame = _OWN if own else came[source]
        translation = None if own else translations.get(i, translations.get(source))
        src, dst = _macs(frame.frame) if frame.vni is not None else (None, None)
        if verdict:
            name, reason, to, place = verdict.name, SENTENCES[verdict], None, None
            detail = _why_dropped(plane, verdict, frame)
            if verdict in _MESH_DROPS and translation is not None:
                detail = str(translation)
        else:
            rule = Rule(rules[i])
            name, reason, to, place = rule.name, RULES[rule], names[ports[i]], places[dests[i]][1]
            detail = _why_sent(plane, rule, frame, place)
            if rule in _MESH_RULES and translation is not None:
                detail = str(translation)
        decisions.append(
            Decision(
                0 if own else first + source, times[i], frame.port, _shown_vni(frame.vni), src, dst, to, place, name,
                reason, detail, lengths[i] if to else len(frame.raw), translation,
            )
        )  # fmt: skip
    return decisions


def _came(plane: Dataplane, port: str, raw: bytes, link: int, wire_len: int) -> _Came:
    if port != UNDERLAY:
        return _Came(port, raw, plane.vni_of(port), None, raw)
    outer = None
    with suppress(NotVxlan):
        outer = decap(raw, ports=[plane.spec.port], link=link, wire_len=max(wire_len, len(raw)))
    if outer is None:
        return _Came(port, raw, None, None, b"")
    return _Came(port, raw, outer.vni, outer, bytes(outer.inner))


def _shown_vni(vni: int | None) -> int | None:
    """A network without tunnels has a number that is no VNI."""
    return vni if vni is not None and vni <= VNI_MAX else None


def _macs(frame: bytes) -> tuple[str | None, str | None]:
    return (frame[6:12].hex(":"), frame[:6].hex(":")) if len(frame) >= 12 else (None, None)


def _entry(plane: Dataplane, frame: _Came, mac: str | None) -> str:
    """The forwarding entry of a MAC, in the words of ``bridge fdb show``."""
    with suppress(SpecError):
        row = None if mac is None or frame.vni is None else plane.station(frame.vni, mac)
        if row is not None:
            state = "frozen" if row["frozen"] else row["state"]
            return f"{mac} {'dst' if row['remote'] else 'dev'} {row['place']} {state}"
    return ""


def _target(frame: bytes) -> str:
    """Who an ARP request asks for."""
    at = frame.find(_ARP, 12, 64)
    return format_ip(frame[at + 26 : at + 30]) if at >= 0 and len(frame) >= at + 30 else ""


def _why_sent(plane: Dataplane, rule: Rule, frame: _Came, place: str) -> str:
    _, dst = _macs(frame.frame)
    if rule in (Rule.RULE_ENTRY, Rule.RULE_LEARNED, Rule.RULE_SET, Rule.RULE_PLACES):
        return _entry(plane, frame, dst)
    if rule == Rule.RULE_ARP:
        return f"who has {_target(frame.frame)}"
    if rule == Rule.RULE_UNKNOWN:
        return f"{dst}"
    return ""


def _why_dropped(plane: Dataplane, verdict: Verdict, frame: _Came) -> str:
    src, dst = _macs(frame.frame)
    outer = frame.outer
    if outer is not None:
        if verdict == Verdict.DROP_VTEP_UNKNOWN:
            return f"{outer.outer.src}, vni {outer.vni}"
        if verdict == Verdict.DROP_VTEP_OTHER:
            return outer.outer.dst
        if verdict == Verdict.DROP_VNI_UNKNOWN:
            return f"vni {outer.vni}"
    if verdict in (Verdict.DROP_STATION_ELSEWHERE, Verdict.DROP_STATION_FROZEN):
        return _entry(plane, frame, src)
    if verdict in (Verdict.DROP_SAME_PORT, Verdict.DROP_SPLIT_HORIZON):
        return _entry(plane, frame, dst)
    if verdict == Verdict.DROP_INNER_SOURCE:
        return str(src)
    if verdict == Verdict.DROP_NO_ENTRY:
        return str(dst)
    if verdict == Verdict.DROP_NEIGH_UNKNOWN and _target(frame.frame):
        return f"who has {_target(frame.frame)}"
    return ""


def as_comments(decisions: Sequence[Decision], batch: PacketBatch) -> dict[int, str]:
    """For rows that leave, the reason as a pcapng comment: ``{row: text}``."""
    rows = [i for i, _ in batch.sources()]
    return {
        i: f"{one.port} -> {one.place}: {one.reason}{f' ({one.detail})' if one.detail else ''}"
        for i, one in zip(rows, decisions, strict=True)
        if one.to is not None
    }
