"""Shows what was measured: a table for a terminal, one in Markdown, and a picture that needs no library to
draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

from vxlanfast.benchmark.inputs import TRAFFIC
from vxlanfast.benchmark.peers import BASELINE, OURS, PEERS
from vxlanfast.benchmark.results import CANNOT, NOT_INSTALLED, Figure, Report

if TYPE_CHECKING:
    from rich.console import RenderableType

FILE_JOBS = ("decap", "encap")


def rounded(value: float) -> str:
    """Three figures, or two of small numbers: ``17.7``, ``0.106``, ``0.0026``, ``562``."""
    if value <= 0:
        return "0"
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.{(2 if value >= 0.00995 else 1) - math.floor(math.log10(value * 1.0005))}f}"


def times(ratio: float | None) -> str:
    """``0.97 ×``, ``1/380``; nothing where there is no ratio."""
    if ratio is None:
        return ""
    if ratio >= 0.0995:
        return f"{ratio:.2f} ×"
    part = 1 / ratio
    unit = 10 ** max(0, math.floor(math.log10(part)) - 1)
    return f"1/{round(part / unit) * unit:,}"


def is_ours(figure: Figure) -> bool:
    """Whether it is this package's own."""
    return figure.side.startswith(OURS)


def of_jobs(report: Report, *jobs: str) -> list[Figure]:
    """The figures of some jobs."""
    return [figure for figure in report.figures if figure.job in jobs]


def size_label(name: str) -> str:
    """``64 B``, ``IMIX``."""
    return TRAFFIC[name].label if name in TRAFFIC else name


def machine_line(report: Report) -> str:
    """The machine on one line."""
    return ", ".join(report.machine.values())


def versions_line(report: Report) -> str:
    """Whom it was measured beside."""
    return ", ".join(
        dict.fromkeys(f.version for f in of_jobs(report, *FILE_JOBS) if f.measured and f.version)
    )


def startup_line(report: Report) -> str:
    """What it takes to begin, as a sentence; empty where it was not measured."""
    known = {figure.side: figure.median_s * 1e3 for figure in of_jobs(report, "startup") if figure.measured}
    python, imported = known.get("python"), known.get(f"import {OURS}")
    whole = next((ms for side, ms in known.items() if side.startswith(f"{OURS}, ")), None)
    if python is None or imported is None or whole is None:
        return ""
    return (
        f"Start-up: import {OURS} {imported - python:.1f} ms, on top of the interpreter's {python:.1f} ms;"
        f" decap of ten packets {whole:.0f} ms, whole process."
    )


#: Jobs that have a table and a panel of what is measured beside this and that, and their titles.
CORE_JOBS = {"plane": "the plane, one core", "mesh": "the routing mesh, one core"}


def core_cells(figure: Figure) -> tuple[str, ...]:
    """A row of such a table."""
    limit = rounded(figure.limit_mpps) if figure.limit_mpps else ""
    return (
        figure.side, size_label(figure.size), rounded(figure.mpps), rounded(figure.ns_per_packet), figure.note, limit,
        times(figure.ratio),
    )  # fmt: skip


def memory_line(report: Report) -> str:
    """How memory was measured, as a sentence; empty where it was not."""
    if not of_jobs(report, "memory"):
        return ""
    limit = report.settings.get("memory_limit", "memcpy")
    return f"In memory: nodes over batches, called from Python; beside {limit}."


def method_line(report: Report) -> str:
    """How it was measured, as a sentence."""
    scaled = sorted({f.side for f in of_jobs(report, *FILE_JOBS) if f.measured and f.scaled})
    line = (
        f"Whole processes, file to file on {report.settings.get('files_on', '?')}, in turns;"
        f" median of {report.settings.get('rounds', '?')} rounds, ratios to cp of the same round."
    )
    if scaled:
        line += f" {' and '.join(scaled)} had fewer packets, scaled up."
    return line


# A terminal


def text_tables(report: Report) -> list[RenderableType]:
    """Everything, as rich renderables."""
    from rich import box
    from rich.table import Table

    def table(title: str, *columns: str) -> Table:
        made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for name in columns:
            left = name in ("job", "frames", "who", "what", "output", "")
            made.add_column(name, justify="left" if left else "right", no_wrap=name not in ("output", ""))
        return made

    tables: list[RenderableType] = []
    files = of_jobs(report, *FILE_JOBS)
    if files:
        made = table(
            "file to file",
            "job",
            "frames",
            "who",
            "Mpps",
            "slowest – fastest",
            "GB/s",
            f"against {BASELINE}",
            "output",
        )
        for (job, size), figures in report.groups().items():
            if job not in FILE_JOBS:
                continue
            for number, figure in enumerate(figures):
                first = (job, size_label(size)) if number == 0 else ("", "")
                made.add_row(*first, *file_cells(figure), style="bold" if is_ours(figure) else None)
            made.add_section()
        tables += [made, method_line(report)]
    memory = of_jobs(report, "memory")
    if memory:
        made = table(
            "in memory, one core",
            "what",
            "frames",
            "Mpps",
            "slowest – fastest",
            "ns",
            "memcpy",
            "against it",
            "",
        )
        for f in memory:
            low, high = f.mpps_range
            limit = "" if f.limit_mpps is None else rounded(f.limit_mpps)
            made.add_row(
                f.side, size_label(f.size), rounded(f.mpps), f"{rounded(low)} – {rounded(high)}",
                rounded(f.ns_per_packet), limit, times(f.ratio), f.note,
            )  # fmt: skip
        tables += [made, memory_line(report)]
    for job, title in CORE_JOBS.items():
        core = of_jobs(report, job)
        if core:
            made = table(title, "what", "frames, entries", "M/s", "ns", "beside", "M/s", "against it")
            for f in core:
                made.add_row(*core_cells(f))
            tables.append(made)
    startup = of_jobs(report, "startup")
    if startup:
        made = table("start-up, whole processes", "what", "ms", "fastest – slowest", "")
        for f in startup:
            if f.measured:
                spread = f"{min(f.seconds) * 1e3:.1f} – {max(f.seconds) * 1e3:.1f}"
                made.add_row(
                    f.side,
                    f"{f.median_s * 1e3:.1f}",
                    spread,
                    f.note,
                    style="bold" if OURS in f.side else None,
                )
            else:
                made.add_row(f.side, f.state, "", f.note)
        tables.append(made)
    tables.append(f"{machine_line(report)}\n{versions_line(report)}".strip())
    return tables


def file_cells(figure: Figure) -> tuple[str, ...]:
    """The cells of a row of the files' table."""
    if not figure.measured:
        reason = figure.result if figure.result != figure.state else ""
        return figure.side, figure.state, "", "", "", reason
    low, high = figure.mpps_range
    about = "~" if figure.scaled else ""
    spread = f"{rounded(low)} – {rounded(high)}"
    return (
        figure.side,
        about + rounded(figure.mpps),
        spread,
        rounded(figure.gbytes),
        times(figure.ratio),
        figure.result,
    )


# Markdown


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    rule = ["---" if i < left else "--:" for i in range(len(head))]
    return [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]


def markdown(report: Report) -> str:
    """The same for a README: who against what, millions of packets a second and the ratio to cp."""
    parts: list[str] = []
    groups = {key: figures for key, figures in report.groups().items() if key[0] in FILE_JOBS}
    if groups:
        # All of decap, then all of encap.
        keys = sorted(groups, key=lambda key: FILE_JOBS.index(key[0]))
        rows = []
        for peer in PEERS:
            cells = []
            for key in keys:
                figure = next(f for f in groups[key] if f.side == peer.name)
                if figure.measured:
                    about = "~" if figure.scaled else ""
                    cell = (
                        f"{about}{rounded(figure.mpps)} ({times(figure.ratio)})"
                        if figure.ratio
                        else rounded(figure.mpps)
                    )
                    cells.append(f"**{cell}**" if is_ours(figure) else cell)
                else:
                    cells.append("–" if figure.state == CANNOT else figure.state)
            if all(cell == "–" for cell in cells):
                continue
            blind = " (blind)" if peer.blind else ""
            rows.append([f"**{peer.name}**" if peer.name.startswith(OURS) else f"{peer.name}{blind}", *cells])
        head = ["Mpps (against cp)", *(f"{job} {size_label(size)}" for job, size in keys)]
        parts += [*_markdown_table(head, rows), "", method_line(report)]
        if any(peer.blind for peer in PEERS):
            parts[-1] += " Blind: cuts 50 bytes off whatever comes. –: cannot."
        parts.append("")
    memory = of_jobs(report, "memory")
    if memory:
        rows = [
            [
                f.side, size_label(f.size), rounded(f.mpps), rounded(f.ns_per_packet),
                rounded(f.limit_mpps) if f.limit_mpps else "", times(f.ratio),
            ]
            for f in memory
        ]  # fmt: skip
        parts += [
            *_markdown_table(
                ["in memory, one core", "frames", "Mpps", "ns", "memcpy, Mpps", "against it"], rows, 2
            ),
            "",
        ]
        parts += [memory_line(report), ""]
    for job, title in CORE_JOBS.items():
        core = of_jobs(report, job)
        if core:
            heads = [title, "frames, entries", "M/s", "ns", "beside", "M/s", "against it"]
            parts += [*_markdown_table(heads, [list(core_cells(f)) for f in core], 2), ""]
    if line := startup_line(report):
        parts += [line, ""]
    parts += [
        f"{machine_line(report)}." + (f" Beside {versions_line(report)}." if versions_line(report) else "")
    ]
    return "\n".join(parts) + "\n"


# A picture

WIDTH = 960
MARGIN = 28
GAP = 36
ROW = 22
BAR = 14
HEAD = 46

#: Colours by name: on light, on dark. The card has a ground of its own, so it can stand on any page.
COLOURS = {
    "ground": ("#ffffff", "#11161d"), "edge": ("#d5dae1", "#30363d"), "ink": ("#1c2128", "#e6edf3"),
    "soft": ("#5b6571", "#9aa5b1"), "grid": ("#e8ebef", "#232a33"), "ours": ("#0b6bcb", "#58a6ff"),
    "peer": ("#9aa4b0", "#6b7684"), "move": ("#cdd3da", "#39424d"), "limit": ("#c2410c", "#fb923c"),
}  # fmt: skip
FONT = "system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', Helvetica, Arial, sans-serif"


def _style() -> str:
    def rules(which: int) -> str:
        c = {name: pair[which] for name, pair in COLOURS.items()}
        return (
            f".ground{{fill:{c['ground']};stroke:{c['edge']}}}"
            f"text{{fill:{c['ink']}}}.soft{{fill:{c['soft']}}}"
            f".grid{{stroke:{c['grid']}}}.ours{{fill:{c['ours']}}}.peer{{fill:{c['peer']}}}.move{{fill:{c['move']}}}"
            f".stripe{{stroke:{c['peer']}}}.limit{{stroke:{c['limit']}}}text.limit{{fill:{c['limit']};stroke:none}}"
            f"text.ours{{fill:{c['ours']}}}"
        )

    return (
        f"text{{font-family:{FONT};font-size:12px;font-variant-numeric:tabular-nums}}"
        ".title{font-size:18px;font-weight:600}.head{font-size:14px;font-weight:600}.small{font-size:11px}"
        ".bold{font-weight:600}.end{text-anchor:end}.middle{text-anchor:middle}"
        ".limit{stroke-width:1.5}.grid{stroke-width:1}.stripe{stroke-width:4}"
        f"{rules(0)}@media (prefers-color-scheme:dark){{{rules(1)}}}"
    )


def _text(x: float, y: float, content: str, kind: str = "") -> str:
    of_kind = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{of_kind}>{escape(content)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str, extra: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"{extra}/>'


def _bar(x: float, y: float, width: float, kind: str, title: str) -> str:
    fill = ' fill="url(#blind)"' if kind == "blind" else f' class="{kind}"'
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1.5):.1f}" height="{BAR}" rx="2"{fill}>'
        f"<title>{escape(title)}</title></rect>"
    )


class Scale:
    """Values to places on a line: logarithmic where they span more than two decades, else from 0."""

    def __init__(self, values: Sequence[float], left: float, right: float) -> None:
        low, high = min(values), max(values)
        self.left, self.right = left, right
        self.log = high > 100 * low
        self.high = high * 1.04
        self.low = 10.0 ** math.floor(math.log10(low * 0.75)) if self.log else 0.0

    def at(self, value: float) -> float:
        """Where ``value`` is."""
        width = self.right - self.left
        if self.log:
            return self.left + width * math.log(value / self.low) / math.log(self.high / self.low)
        return self.left + width * value / self.high

    def ticks(self) -> list[float]:
        """Round values to draw a line at."""
        if self.log:
            first, last = math.log10(self.low), math.floor(math.log10(self.high))
            return [10.0**power for power in range(round(first), last + 1)]
        step = 10.0 ** math.floor(math.log10(self.high))
        step = next(step * part for part in (1, 0.5, 0.2) if self.high / (step * part) >= 3)
        return [step * i for i in range(int(self.high / step) + 1)]


def _kind(figure: Figure) -> str:
    if is_ours(figure):
        return "ours"
    peer = next((peer for peer in PEERS if peer.name == figure.side), None)
    if peer is not None and peer.moves_only:
        return "move"
    return "blind" if peer is not None and peer.blind else "peer"


def _tick(value: float) -> str:
    return f"{value:g}"


def _panel(
    x: float, y: float, width: float, title: str, figures: Sequence[Figure]
) -> tuple[list[str], float]:
    """Bars of one job and size; the pieces, and the height they take."""
    rows = [f for f in figures if f.state != CANNOT]
    measured = [f for f in rows if f.measured]
    label, numbers = 132.0, 116.0
    left, right = x + label, x + width - numbers
    height = HEAD + ROW * len(rows) + 22
    out = [_text(x, y + 14, title, "head")]
    out.append(_text(x + width - 54, y + 36, "Mpps", "soft small end"))
    out.append(_text(x + width, y + 36, f"× {BASELINE}", "soft small end"))
    if not measured:
        return out, height
    scale = Scale([f.mpps for f in measured], left, right)
    top, bottom = y + HEAD - 4, y + HEAD + ROW * len(rows)
    for value in scale.ticks():
        out.append(_line(scale.at(value), top, scale.at(value), bottom, "grid"))
        out.append(_text(scale.at(value), bottom + 13, _tick(value), "soft small middle"))
    for number, f in enumerate(rows):
        at = y + HEAD + ROW * number
        kind = _kind(f)
        ours = " ours bold" if kind == "ours" else ""
        out.append(_text(left - 8, at + 12, f.side, f"end{ours}"))
        if not f.measured:
            out.append(
                _text(left + 2, at + 12, f.state if f.state == NOT_INSTALLED else "failed", "soft small")
            )
            continue
        said = f"{f.side}: {rounded(f.mpps)} Mpps, {f.note}; output {f.result}"
        out.append(_bar(left, at + 2, scale.at(f.mpps) - left, kind, said))
        out.append(_text(x + width - 54, at + 12, ("~" if f.scaled else "") + rounded(f.mpps), f"end{ours}"))
        if f.ratio is not None:
            out.append(_text(x + width, at + 12, times(f.ratio).removesuffix(" ×"), f"end{ours}"))
    limit = next((f for f in measured if f.side == BASELINE), None)
    if limit is not None:
        where = scale.at(limit.mpps)
        out.append(_line(where, top, where, bottom, "limit", ' stroke-dasharray="4 3"'))
        out.append(_text(where, top - 4, BASELINE, "limit small middle"))
    return out, height


def _core_panel(
    x: float, y: float, width: float, title: str, heads: tuple[str, str, str], figures: Sequence[Figure]
) -> tuple[list[str], float]:
    """One bar a row, and a mark for what it is measured beside: memcpy of the same bytes, or what the note names."""
    rows = [f for f in figures if f.measured]
    label, numbers = 268.0, 190.0
    left, right = x + label, x + width - numbers
    height = HEAD + ROW * len(rows) + 22
    out = [_text(x, y + 14, title, "head")]
    for place, name in zip((width - 126, width - 72, width), heads, strict=True):
        out.append(_text(x + place, y + 36, name, "soft small end"))
    scale = Scale([v for f in rows for v in (f.mpps, f.limit_mpps) if v], left, right)
    top, bottom = y + HEAD - 4, y + HEAD + ROW * len(rows)
    for value in scale.ticks():
        out.append(_line(scale.at(value), top, scale.at(value), bottom, "grid"))
        out.append(_text(scale.at(value), bottom + 13, _tick(value), "soft small middle"))
    for number, f in enumerate(rows):
        at = y + HEAD + ROW * number
        beside = f" / {f.note}" if f.job in CORE_JOBS and f.limit_mpps and "memcpy" not in f.note else ""
        out.append(_text(left - 8, at + 12, f"{f.side}, {size_label(f.size)}{beside.split(',')[0]}", "end"))
        out.append(
            _bar(left, at + 2, scale.at(f.mpps) - left, "ours", f"{f.side}: {rounded(f.mpps)} Mpps; {f.note}")
        )
        out.append(_text(x + width - 126, at + 12, rounded(f.mpps), "end"))
        out.append(_text(x + width - 72, at + 12, rounded(f.ns_per_packet), "end"))
        if f.limit_mpps is not None:
            where = scale.at(f.limit_mpps)
            out.append(_line(where, at, where, at + BAR + 4, "limit", ' stroke-width="2.5"'))
            out.append(_text(x + width, at + 12, times(f.ratio).removesuffix(" ×"), "end"))
    return out, height


def _legend(x: float, y: float, files: bool, memory: bool, plane: bool) -> list[str]:
    out: list[str] = []
    items = [("ours", "vxlanfast")]
    if files:
        items += [
            ("peer", "reads the packets"),
            ("blind", "blind: cuts 50 bytes off whatever comes"),
            ("move", "moves bytes"),
        ]
    for kind, name in items:
        out += [_bar(x, y, 22, kind, name), _text(x + 29, y + 11, name, "small soft")]
        x += 46 + 6.1 * len(name)
    out += [_line(x + 4, y - 1, x + 4, y + 15, "limit"), _text(x + 12, y + 11, "the limit: " + " and ".join(
        word
        for word, there in ((f"{BASELINE} of the larger file", files), ("memcpy", memory), ("what is named", plane))
        if there
    ), "small soft")]  # fmt: skip
    return out


def _wrap(text: str, limit: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) + 1 > limit and lines[-1]:
            lines.append("")
        lines[-1] += f"{' ' if lines[-1] else ''}{word}"
    return lines


def svg(report: Report) -> str:
    """The picture: a panel per job and size, decap on the left and encap on the right, then memory, plane and mesh."""
    groups = report.groups()
    sizes = list(dict.fromkeys(size for job, size in groups if job in FILE_JOBS))
    jobs = [job for job in FILE_JOBS if any(key[0] == job for key in groups)]
    memory = [f for f in of_jobs(report, "memory") if f.measured]
    inner = WIDTH - 2 * MARGIN
    width = (inner - GAP * (len(jobs) - 1)) / max(1, len(jobs))
    out = [_text(MARGIN, 40, "vxlanfast beside its peers: VXLAN off and on capture files", "title")]
    out.append(
        _text(
            MARGIN,
            60,
            "Million packets a second (Mpps), more is better; scales with powers of ten are logarithmic",
            "soft",
        )
    )
    cores = {job: [f for f in of_jobs(report, job) if f.measured] for job in CORE_JOBS}
    out += _legend(MARGIN, 74, bool(jobs), bool(memory), any(cores.values()))
    y = 112.0
    for size in sizes:
        tallest = 0.0
        for number, job in enumerate(jobs):
            if (job, size) in groups:
                title = f"{job}, {size_label(size)} frames: file to file"
                pieces, height = _panel(MARGIN + number * (width + GAP), y, width, title, groups[job, size])
                out += pieces
                tallest = max(tallest, height)
        y += tallest + 18
    if memory:
        heads = ("Mpps", "ns", "× memcpy")
        pieces, height = _core_panel(MARGIN, y, inner, "in memory, one core", heads, memory)
        out += pieces
        y += height + 18
    for job, core in cores.items():
        if core:
            pieces, height = _core_panel(MARGIN, y, inner, CORE_JOBS[job], ("M/s", "ns", "× beside"), core)
            out += pieces
            y += height + 18
    notes = [method_line(report)] if jobs else []
    notes += [line for line in (memory_line(report), startup_line(report)) if line]
    notes.append(f"{machine_line(report)}.")
    if versions_line(report):
        notes.append(f"Beside {versions_line(report)}.")
    for note in notes:
        for line in _wrap(note, 150):
            out.append(_text(MARGIN, y + 4, line, "soft small"))
            y += 16
    height = y + 14
    summary = "Bars of packets per second by tool, with a line where copying the file is"
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}"'
        f' viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{summary}">',
        f"<style>{_style()}</style>",
        '<defs><pattern id="blind" width="7" height="7" patternUnits="userSpaceOnUse"'
        ' patternTransform="rotate(45)">'
        '<line x1="2" y1="0" x2="2" y2="7" class="stripe"/></pattern></defs>',
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1:.0f}" rx="10" class="ground"/>',
        *out,
        "</svg>",
        "",
    ])  # fmt: skip
