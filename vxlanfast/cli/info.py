"""``vxlanfast info``: what is in a capture, by VNI."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import click

from vxlanfast.cli import options
from vxlanfast.cli.report import Reporter, exit_code
from vxlanfast.errors import VxlanFastError
from vxlanfast.linktypes import link_name
from vxlanfast.survey import Network, Survey, Tunnel, survey_file

#: Tunnels shown of one VNI unless --all.
TUNNELS_SHOWN = 8
_UNITS = ("B", "kB", "MB", "GB", "TB")


def human_bytes(n: float) -> str:
    """``1.5 MB``: powers of 1000, as capture tools and disks count."""
    for unit in _UNITS:
        if n < 1000 or unit == _UNITS[-1]:
            break
        n /= 1000
    return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"


def human_time(ts_ns: int) -> str:
    """UTC, to the nanosecond: ``2021-12-16 10:27:22.645225000``."""
    from datetime import UTC, datetime

    seconds, rest = divmod(ts_ns, 1_000_000_000)
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}.{rest:09d}"
    except (OverflowError, ValueError, OSError):
        return f"{seconds}.{rest:09d} s"


def flags_of(item: Network | Tunnel) -> str:
    """What is odd about the headers, as ``12 GBP, 3 reserved``."""
    named = (("GBP", item.gbp), ("GPE", item.gpe), ("reserved bits", item.reserved))
    return ", ".join(f"{number:,} {name}" for name, number in named if number)


def _rows(networks: Iterable[Network], show_all: bool) -> Iterator[tuple[str, ...]]:
    for network in networks:
        yield (
            "further" if network.vni is None else str(network.vni),
            f"{network.packets:,}",
            human_bytes(network.bytes),
            human_time(network.first_ns),
            f"{(network.last_ns - network.first_ns) / 1e9:,.6f} s",
            f"{network.truncated:,}" if network.truncated else "",
            flags_of(network),
        )
        shown = network.tunnels if show_all else network.tunnels[:TUNNELS_SHOWN]
        for tunnel in shown:
            if tunnel.src is not None:
                pair = f"  {tunnel.src} > {tunnel.dst}"
                yield (pair, f"{tunnel.packets:,}", human_bytes(tunnel.bytes), "", "", "", "")
        if len(shown) < len(network.tunnels):
            yield (f"  … {len(network.tunnels) - len(shown)} more VTEP pairs (--all)", "", "", "", "", "", "")


def print_survey(survey: Survey, *, show_all: bool = False) -> None:
    """One file's table, on stdout."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    links = ", ".join(sorted({link_name(link) for link in survey.links})) or "no interface"
    packed = f", {survey.compression}" if survey.compression else ""
    console.print(f"{survey.name}: {survey.format}{packed}, {links}", markup=False)
    if survey.networks:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("VNI", no_wrap=True)
        for name in ("packets", "bytes"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("first (UTC)", no_wrap=True)
        table.add_column("for", justify="right", no_wrap=True)
        table.add_column("cut", justify="right")
        table.add_column("odd flags")
        for row in _rows(survey.networks, show_all):
            table.add_row(*row, style="dim" if row[0].startswith(" ") else None)
        console.print(table)


@click.command("info")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(allow_dash=True))
@options.ports_option
@options.vnis_option
@options.reassemble_option
@options.inner_option
@options.outer_option
@options.count_option
@click.option("--json", "as_json", is_flag=True, help="Everything as JSON, a line per file, on stdout.")
@click.option("--all", "show_all", is_flag=True, help=f"Every VTEP pair, not the {TUNNELS_SHOWN} busiest of a VNI.")
@options.report_options
@click.pass_context
def command(
    ctx: click.Context, /, files: tuple[str, ...], as_json: bool, show_all: bool, quiet: bool, stats: str, **rest: Any
) -> None:
    """Say what is in captures: per VNI and pair of VTEPs, packets, bytes, times, and what is odd.

    Each file is read once.
    """
    worst = 0
    for name in files:
        report = Reporter(quiet=quiet, stats=stats)
        try:
            with report.running():
                survey = survey_file(name, watch=report.watch, **rest)
        except VxlanFastError as error:
            if error.exit_code != 1 or len(files) == 1:
                raise
            click.echo(f"vxlanfast: {error}", err=True)
            worst = max(worst, 1)
            continue
        if as_json:
            click.echo(json.dumps(survey.as_dict()))
        else:
            print_survey(survey, show_all=show_all)
            sys.stdout.flush()
        report.finish(survey.stats)
        code = exit_code(survey.stats, fail_on_others=False)
        if survey.stats.fault is not None:
            click.echo(f"vxlanfast: {survey.stats.fault}", err=True)
            code = 1
        if code == 130:
            ctx.exit(130)
        worst = max(worst, code)
    ctx.exit(worst)
