"""Whole files: a capture in, VXLAN off or on, a capture out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import TYPE_CHECKING

from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.io.notes import COMMENT_PREFIX, PEN, Annotate, Remember, Restore
from vxlanfast._ext.io.writer import CaptureEncoder
from vxlanfast._ext.node.decap import Decap
from vxlanfast._ext.node.direct import encap_encode
from vxlanfast._ext.table.tunnels import TunnelTable
from vxlanfast._ext.verdict import Verdict
from vxlanfast.addr import format_ip, merge_ranges
from vxlanfast.capture import FORMATS, Capture, Encode, append, encode, flush, open_capture
from vxlanfast.errors import CaptureError, Interrupted, SpecError
from vxlanfast.linktypes import link_name
from vxlanfast.sink import Sink, open_sink
from vxlanfast.spec import DEFAULT_PORTS, TunnelSpec, check_port, compile_tunnel
from vxlanfast.stats import OTHER, STRICT, Stats, mask

if TYPE_CHECKING:
    from typing import Protocol

    from vxlanfast._ext.node.encap import Encap
    from vxlanfast.ends import Readable, Writable
    from vxlanfast.filters import PacketFilter

    class Node(Protocol):
        """What a batch goes through."""

        def counters(self) -> dict[Verdict, int]: ...


#: One step over a batch; ``ordinal`` is the number of packets before it.
Step = Callable[[PacketBatch, int], object]
#: Called once a batch: packets so far, bytes of the input consumed, its size (None: unknown). True stops the run.
Watch = Callable[[int, int, int | None], bool]

VniSet = int | Iterable[int | tuple[int, int]] | None

ETHERNET = 1
RAW = 101


@dataclass(slots=True)
class Plan:
    """What a run does to each batch, and how its rows leave.

    Nothing in it refers to the plan itself: its tables are megabytes, and are gone when the run is, not when Python
    next looks for cycles.
    """

    verb: str
    steps: list[Step]
    nodes: list[Node]
    encode: Encode = encode
    leave: int = 1
    to_ethernet: bool = True
    keep_link: bool = False
    links: Callable[[int], Sequence[int]] = lambda link: (ETHERNET,)
    snaplen_min: int = 0
    untouched: bool = False  # frames leave as they came, so what a file header says of their FCS stays true
    strip: tuple[int, bytes] | None = None
    mark: int = 0
    before_write: Callable[[Capture, CaptureEncoder, Sink, PacketBatch], None] | None = None
    finish: Callable[[], dict[str, int]] = dict
    warn: Callable[[Stats], list[str]] = lambda stats: []
    serial: str | None = None  # why it cannot use more than one thread
    links_seen: dict[int, int] = field(default_factory=dict)


def vni_ranges(vni: VniSet) -> tuple[tuple[int, int], ...] | None:
    """A VNI, or VNIs and ``(first, last)`` ranges, as sorted ranges; None for all."""
    if vni is None:
        return None
    items = [vni] if isinstance(vni, int) else list(vni)
    if not items:
        raise SpecError("vni: an empty set keeps nothing; leave it out to keep all")
    ranges = [item if isinstance(item, tuple) else (item, item) for item in items]
    for first, last in ranges:
        if not 0 <= first <= last <= 0xFFFFFF:
            raise SpecError(f"VNI {first if first == last else f'range {first}-{last}'}: 0 to 16777215")
    return merge_ranges(ranges)


def make_encoder(plan: Plan, capture: Capture, format: str | None, *, begin: bool = True) -> CaptureEncoder:
    """The encoder for a plan's rows, its header written: in the input's byte order, by default in its format.

    ``begin=False``: without the header, for a thread's part of a file.
    """
    decoder = capture.decoder
    source = decoder.format
    if source is None:
        raise CaptureError(capture.fault or f"{capture.name}: empty", path=capture.name, offset=decoder.offset)
    format = format or source
    carry = format == source == "pcapng"
    encoder = CaptureEncoder(
        format,
        big=decoder.big_endian,
        carry=carry,
        to_ethernet=plan.to_ethernet,
        keep_link=plan.keep_link,
        leave=plan.leave,
        snaplen_min=plan.snaplen_min,
        strip=plan.strip,
        mark=plan.mark,
    )
    if begin and not carry:
        interfaces = decoder.interfaces() or [(ETHERNET, 0, 6, 0)]
        link, snaplen, tsresol, _ = interfaces[0]
        snaplen = max(snaplen, plan.snaplen_min) if snaplen else 262144
        links = plan.links(link)
        encoder.begin(
            links if format == "pcapng" else links[:1],
            snaplen=snaplen,
            link_field=decoder.link_field if plan.untouched else 0,
            tsresol=9 if tsresol != 6 else 6,
        )
    return encoder


def threads_for(capture: Capture) -> int:
    """How many threads are worth their start: one reads and works while the other writes."""
    return 2 if capture.is_large and len(os.sched_getaffinity(0)) > 1 else 1


def finer(tsresol: int) -> bool:
    """Whether times in units of ``if_tsresol`` do not fit microseconds."""
    return tsresol > 6


def run(
    make_plan: Callable[[], Plan],
    source: Readable,
    target: Writable,
    *,
    format: str | None = None,
    count: int | None = None,
    threads: int | None = 1,
    watch: Watch | None = None,
) -> Stats:
    """Read ``source`` batch by batch, take each through a plan's steps, write what leaves to ``target``.

    Every whole packet before a fault is delivered, and then CaptureError raised, with what was done in ``.stats``.
    """
    if format is not None and format not in FORMATS:
        raise SpecError(f"format {format!r}: {', '.join(FORMATS)}")
    if count is not None and count < 1:
        raise SpecError(f"count = {count}: at least 1")
    if threads is not None and threads < 1:
        raise SpecError(f"threads = {threads}: at least 1")
    began = monotonic()
    plans = [make_plan()]
    with open_capture(source, count=count) as capture:
        wanted = threads_for(capture) if threads is None else threads
        if wanted > 1 and plans[0].serial is None and not capture.source.is_live:
            plans += [make_plan() for _ in range(wanted - 1)]
        sink = open_sink(target, input_paths=(source,))
        try:
            batch = capture.make_batch(large=len(plans) > 1 or None)
            waited = False
            try:
                first = capture.fill(batch)
            except Interrupted:
                if capture.decoder.format is None:
                    raise
                first, waited = 0, True
            encoder = make_encoder(plans[0], capture, format)
            encoders = [encoder]
            if len(plans) > 1:
                from vxlanfast.parallel import run_parallel

                encoders += [make_encoder(plan, capture, format, begin=False) for plan in plans]
                interrupted = run_parallel(plans, encoders[1:], capture, sink, encoder, batch, first, watch)
            else:
                interrupted = _run_serial(plans[0], capture, sink, encoder, batch, first, watch)
            interrupted |= waited
            flush(encoder, sink)
            sink.commit()
        except BaseException:
            sink.abort()
            raise
        stats = collect(plans, capture, encoders, interrupted, monotonic() - began)
        remarks = list(stats.warnings)
        if encoder.format == "pcap" and any(finer(tsresol) for _, _, tsresol, _ in capture.decoder.interfaces()):
            remarks.append("times are cut to microseconds; -F nsecpcap keeps more")
        if encoder.format != "pcapng" and ".pcapng" in sink.name:
            remarks.append(f"{sink.name} is written as {encoder.format}, the input's format; -F pcapng changes it")
        if threads is not None and threads > 1 and plans[0].serial is not None:
            remarks.append(f"one thread was used: {plans[0].serial}")
        stats = replace(stats, warnings=tuple(remarks))
    if stats.fault is not None:
        offset = capture.decoder.offset
        raise CaptureError(stats.fault, path=capture.name, offset=offset, stats=stats)
    return stats


def _run_serial(
    plan: Plan,
    capture: Capture,
    sink: Sink,
    encoder: CaptureEncoder,
    batch: PacketBatch,
    filled: int,
    watch: Watch | None,
) -> bool:
    """True where ``watch`` stopped the run."""
    live = sink.is_live or capture.source.is_live
    ordinal = 0
    while filled:
        packets = len(batch)  # fragmentation adds rows
        for step in plan.steps:
            step(batch, ordinal)
        if plan.before_write is not None:
            plan.before_write(capture, encoder, sink, batch)
        append(encoder, sink, batch, flush=live, encode=plan.encode, ordinal=ordinal)
        ordinal += packets
        if watch is not None and watch(ordinal, capture.source.position(), capture.source.size):
            return True
        try:
            filled = capture.fill(batch)
        except Interrupted:
            return True
    return False


def collect(
    plans: Sequence[Plan], capture: Capture, encoders: Sequence[CaptureEncoder], interrupted: bool, seconds: float
) -> Stats:
    """The counters of a run's plans (one per thread) as one account."""
    plan = plans[0]
    counts: dict[Verdict, int] = {}
    details: dict[str, int] = {}
    for each in plans:
        for node in each.nodes:
            for verdict, number in node.counters().items():
                counts[verdict] = counts.get(verdict, 0) + number
        for name, number in each.finish().items():
            details[name] = details.get(name, 0) + number
    for each in plans[1:]:
        for link, number in each.links_seen.items():
            plan.links_seen[link] = plan.links_seen.get(link, 0) + number
    refused = sum(encoder.refused for encoder in encoders)
    packets = capture.decoder.rows
    refused_kept = refused - sum(encoder.refused_passed for encoder in encoders)
    others = sum(counts.get(v, 0) for v in (*OTHER, Verdict.DROP_NO_META))
    kept = sum(number for v, number in counts.items() if v and plan.leave >> v & 1) - refused_kept
    drops = {v.name: number for v, number in counts.items() if v and not plan.leave >> v & 1}
    if refused:
        drops[Verdict.DROP_OUTPUT_LINK_TYPE.name] = refused
    stats = Stats(
        verb=plan.verb,
        packets=packets,
        passed=packets - kept - sum(drops.values()),
        kept=kept,
        drops=drops,
        others=others,
        strict_drops=sum(counts.get(v, 0) for v in STRICT),
        unsupported=counts.get(Verdict.PUNT_LINK_TYPE, 0) + counts.get(Verdict.DROP_NOT_ETHERNET, 0),
        written=sum(encoder.rows for encoder in encoders),
        written_bytes=sum(encoder.bytes for encoder in encoders),
        input_bytes=capture.source.position(),
        seconds=seconds,
        interrupted=interrupted,
        fault=capture.fault,
        details=details,
    )
    warnings = plan.warn(stats)
    if capture.decoder.odd_version:
        warnings.append("a pcapng section of an unknown version was read as version 1")
    return replace(stats, warnings=tuple(warnings))


def _link_watch(links_seen: dict[int, int], node: Decap | Encap, refusal: Verdict) -> Step:
    """Behind ``node``: note which link types it refused (a scan of the rows only where there were any)."""
    seen = 0

    def step(batch: PacketBatch, ordinal: int) -> None:
        nonlocal seen
        now = node.count(refusal)
        if now != seen:
            seen = now
            for link, verdict in zip(batch.link, batch.verdict, strict=True):
                if verdict == refusal:
                    links_seen[link] = links_seen.get(link, 0) + 1

    return step


def _link_warnings(links_seen: dict[int, int], what: str) -> list[str]:
    return [
        f"link type {link_name(link)} {what}: {number:,} packets of it"
        for link, number in sorted(links_seen.items())
    ]


def _filters(expression: str | None, verdict: Verdict) -> PacketFilter | None:
    if expression is None:
        return None
    from vxlanfast.filters import PacketFilter

    return PacketFilter(expression, verdict)


def decap_plan(
    *,
    ports: Iterable[int] = DEFAULT_PORTS,
    geneve_ports: Iterable[int] = (),
    vni: VniSet = None,
    levels: int | None = 1,
    other: str = "drop",
    strict: bool = False,
    reassemble: bool = False,
    inner: str | None = None,
    outer: str | None = None,
    meta: str = "none",
    peek: bool = False,
) -> Plan:
    """The steps of decapsulation; see ``decap_file`` for the options. ``peek``: find VXLAN, and leave it on."""
    if other not in ("keep", "drop", "fail"):
        raise SpecError(f"other = {other!r}: keep, drop or fail")
    if meta not in ("none", "comment", "interface"):
        raise SpecError(f"meta = {meta!r}: none, comment or interface")
    if levels is not None and not 1 <= levels <= 255:
        raise SpecError(f"levels = {levels}: 1 to 255, or all")
    ports = [check_port(port) for port in ports]
    geneve_ports = [check_port(port) for port in geneve_ports]
    for port in set(ports) & set(geneve_ports):
        raise SpecError(f"UDP port {port}: means VXLAN or GENEVE, not both")
    # An inner filter needs the inner frame: then VXLAN comes off for it, and is put back.
    decap = Decap(
        ports,
        geneve_ports=geneve_ports,
        vnis=vni_ranges(vni),
        levels=levels or 0,
        strict=strict,
        peek=peek and inner is None,
    )
    plan = Plan("decap", [], [])
    outer_filter = _filters(outer, Verdict.DROP_FILTER_OUTER)
    inner_filter = _filters(inner, Verdict.DROP_FILTER_INNER)
    if reassemble:
        from vxlanfast._ext.node.reassemble import Reassemble

        joiner = Reassemble()
        plan.steps.append(lambda batch, ordinal: joiner.process(batch))
        plan.nodes.append(joiner)
        plan.finish = lambda: {f"reassembly_{name}": n for name, n in joiner.table.counters().items()}
        plan.serial = "reassembly follows the packets in order"
    if outer_filter is not None:
        plan.steps.append(lambda batch, ordinal: outer_filter.process(batch))
        plan.nodes.append(outer_filter)
    notes = Annotate(comment=meta == "comment") if meta != "none" else None
    frames = notes if notes is not None else Remember()
    if notes is not None or (peek and inner is not None):
        plan.steps.append(lambda batch, ordinal: frames.remember(batch))
    plan.steps.append(lambda batch, ordinal: decap.process(batch))
    plan.nodes.append(decap)
    plan.steps.append(_link_watch(plan.links_seen, decap, Verdict.PUNT_LINK_TYPE))
    if inner_filter is not None:
        plan.steps.append(lambda batch, ordinal: inner_filter.process(batch))
        plan.nodes.append(inner_filter)
        if peek:
            plan.steps.append(lambda batch, ordinal: frames.put_back(batch))
    if notes is not None:
        plan.steps.append(lambda batch, ordinal: notes.process(batch))
    if meta == "interface":
        plan.serial = "interfaces are numbered in the order of their packets"
        plan.before_write = TunnelInterfaces().before_write
    plan.leave = 1
    if other == "keep":
        plan.leave |= mask(OTHER)
        plan.keep_link = True
        plan.links = lambda link: (ETHERNET,) if link == ETHERNET else (ETHERNET, link)
    if peek:
        plan.untouched = True
        plan.to_ethernet = False
        plan.keep_link = True
        plan.links = lambda link: (link,)
    if meta != "none":
        # Both forms of an interface, the original first: restoring goes back to it.
        plan.keep_link = True
        plan.mark = PEN
        plan.links = lambda link: (ETHERNET,) if link == ETHERNET else (link, ETHERNET)
    if geneve_ports:  # IP without Ethernet may be in it
        usual = plan.links
        plan.links = lambda link: (*usual(link), RAW) if RAW not in usual(link) else usual(link)
    links_seen = plan.links_seen
    plan.warn = lambda stats: _decap_warnings(links_seen, stats)
    return plan


def _decap_warnings(links_seen: dict[int, int], stats: Stats) -> list[str]:
    warnings = _link_warnings(links_seen, "is not supported")
    if stats.packets and stats.others == stats.packets:
        seen = ", ".join(f"{n:,} {name}" for name, n in _by_name(stats))
        warnings.append(f"not one packet was VXLAN{f' ({seen})' if seen else ''}; --port adds UDP ports to look at")
    incomplete = sum(stats.details.get(f"reassembly_{name}", 0) for name in ("expired", "evicted", "waiting"))
    if incomplete:
        warnings.append(f"{incomplete:,} outer fragments were of datagrams that never became whole")
    return warnings


def _by_name(stats: Stats) -> list[tuple[str, int]]:
    from vxlanfast._ext.verdict import SENTENCES

    return [(SENTENCES[Verdict[name]], number) for name, number in sorted(stats.drops.items(), key=lambda i: -i[1])]


class TunnelInterfaces:
    """``--meta interface``: an interface of its own in the output for each tunnel, described when first met."""

    #: Tunnels with an interface; packets of further ones share the last.
    LIMIT = 60000

    def __init__(self) -> None:
        from vxlanfast._ext.node.survey import Survey

        self.survey = Survey(TunnelTable(limit=self.LIMIT), by_port=True)
        self.sections = 0
        self.described: list[int] = []

    def before_write(self, capture: Capture, encoder: CaptureEncoder, sink: Sink, batch: PacketBatch) -> None:
        """Number the rows' tunnels and describe the new ones; a section starts with none."""
        if capture.decoder.sections != self.sections:
            self.sections = capture.decoder.sections
            self.survey.table.clear()
            self.described.clear()
        encoder.lead(batch)
        self.survey.process(batch, number=True)
        for row in self.survey.table.rows(len(self.described)):
            if row["src"] is None:
                name, text = "vxlan", "VXLAN, further tunnels"
            else:
                name = f"vni-{row['vni']}"
                text = f"VXLAN VNI {row['vni']}, {format_ip(row['src'])} > {format_ip(row['dst'])}"
            interfaces = capture.decoder.interfaces()
            _, snaplen, tsresol, offset_ns = interfaces[row["port_in"]] if interfaces else (1, 0, 9, 0)
            number = encoder.add_interface(
                ETHERNET,
                snaplen=snaplen,
                tsresol=tsresol,
                offset_s=offset_ns // 1_000_000_000,
                options=((2, name.encode()), (3, text.encode())),
                parent=encoder.interface_as_read(row["port_in"]),
            )
            self.described.append(number)
        batch.assign_ports(self.described)


def decap_file(
    source: Readable,
    target: Writable,
    *,
    ports: Iterable[int] = DEFAULT_PORTS,
    geneve_ports: Iterable[int] = (),
    vni: VniSet = None,
    levels: int | None = 1,
    other: str = "drop",
    strict: bool = False,
    reassemble: bool = False,
    inner: str | None = None,
    outer: str | None = None,
    meta: str = "none",
    format: str | None = None,
    count: int | None = None,
    threads: int | None = 1,
    watch: Watch | None = None,
) -> Stats:
    """Take VXLAN off every packet of a capture file.

    ``ports``: UDP destination ports that mean VXLAN, ``geneve_ports`` GENEVE (what is IP in it leaves with link type
    RAW, VXLAN in that comes off as well). ``vni``: a VNI, VNIs or ranges to keep. ``levels``: nested headers to take
    off at most, None for all. ``other``: "drop", "keep" or "fail" (drop, and exit code 3 on the command line) packets
    that are not VXLAN. ``strict``: drop reserved bits and wrong outer checksums. ``reassemble``: put outer fragments
    together. ``inner``, ``outer``: tcpdump expressions. ``meta``: pcapng, keep what was taken off as a "comment" with
    each packet, or as an "interface" per tunnel. ``format``: "pcap", "nsecpcap", "pcapng"; None for the input's.
    ``count``: packets to read at most. ``threads``: the same bytes whatever the number; None: two for a large file,
    where there is a second core.

    CaptureError after every whole packet before a fault in the input was written; OutputError for the output.
    """
    ports, geneve_ports = tuple(ports), tuple(geneve_ports)
    ranges = vni_ranges(vni)

    def make_plan() -> Plan:
        return decap_plan(
            ports=ports, geneve_ports=geneve_ports, vni=ranges, levels=levels, other=other, strict=strict,
            reassemble=reassemble, inner=inner, outer=outer, meta=meta,
        )  # fmt: skip

    if meta != "none":
        format = _only_pcapng(format, "meta")
    return run(make_plan, source, target, format=format, count=count, threads=threads, watch=watch)


def _only_pcapng(format: str | None, what: str) -> str:
    if format not in (None, "pcapng"):
        raise SpecError(f"{what} needs a pcapng output; the format asked for is {format}")
    return "pcapng"


def encap_plan(tunnel: TunnelSpec, *, inner: str | None = None) -> Plan:
    """The steps of encapsulation."""
    node = compile_tunnel(tunnel)
    plan = Plan("encap", [], [])
    inner_filter = _filters(inner, Verdict.DROP_FILTER_INNER)
    if inner_filter is not None:
        plan.steps.append(lambda batch, ordinal: inner_filter.process(batch))
        plan.nodes.append(inner_filter)
    watch_links = _link_watch(plan.links_seen, node, Verdict.DROP_NOT_ETHERNET)

    def encode(encoder: CaptureEncoder, batch: PacketBatch, start: int, ordinal: int) -> int | None:
        rest = encap_encode(node, encoder, batch, start, ordinal)
        if rest is None:
            watch_links(batch, ordinal)
        return rest

    plan.encode = encode
    plan.nodes.append(node)
    plan.to_ethernet = False
    plan.keep_link = True
    plan.snaplen_min = 262144
    plan.finish = lambda: {"over_mtu": node.over_mtu, "fragments": node.fragments, "no_csum": node.no_csum}
    links_seen = plan.links_seen
    plan.warn = lambda stats: _encap_warnings(links_seen, tunnel, stats)
    return plan


def _encap_warnings(links_seen: dict[int, int], tunnel: TunnelSpec, stats: Stats) -> list[str]:
    warnings = _link_warnings(links_seen, "is not Ethernet, and VXLAN carries nothing else")
    over = stats.details["over_mtu"]
    if over and tunnel.mtu_policy == "warn":
        warnings.append(f"{over:,} packets are over the MTU of {tunnel.mtu} bytes with their new headers")
    if stats.details["no_csum"]:
        number = stats.details["no_csum"]
        what = "frames are cut by the snaplen: their outer UDP checksum cannot be computed, 0 is sent"
        warnings.append(f"{number:,} {what}")
    return warnings


def encap_file(
    source: Readable,
    target: Writable,
    tunnel: TunnelSpec,
    *,
    inner: str | None = None,
    format: str | None = None,
    count: int | None = None,
    threads: int | None = 1,
    watch: Watch | None = None,
) -> Stats:
    """Put VXLAN on every Ethernet frame of a capture file; see ``TunnelSpec`` for the headers.

    The other arguments and errors are those of ``decap_file``.
    """
    return run(
        lambda: encap_plan(tunnel, inner=inner), source, target, format=format, count=count, threads=threads,
        watch=watch,
    )  # fmt: skip


def restore_file(
    source: Readable,
    target: Writable,
    *,
    other: str = "keep",
    format: str | None = None,
    count: int | None = None,
    watch: Watch | None = None,
) -> Stats:
    """Put back what ``decap_file(meta=...)`` took off and kept: the original packets, byte for byte.

    ``other``: "keep", "drop" or "fail" packets without such a note.
    """
    if other not in ("keep", "drop", "fail"):
        raise SpecError(f"other = {other!r}: keep, drop or fail")
    node = Restore()
    plan = Plan("restore", [], [])
    plan.steps.append(lambda batch, ordinal: node.process(batch))
    plan.nodes.append(node)
    if other == "keep":
        plan.leave |= mask((Verdict.DROP_NO_META,))
    plan.to_ethernet = False
    plan.keep_link = True
    plan.links = lambda link: (link,)
    plan.strip = (PEN, COMMENT_PREFIX)
    plan.finish = lambda: {"restored": node.restored, "without_note": node.missing}
    return run(lambda: plan, source, target, format=format, count=count, watch=watch)
