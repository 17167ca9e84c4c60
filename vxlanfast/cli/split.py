"""``vxlanfast split``."""

from __future__ import annotations

from typing import Any

import click

from vxlanfast.cli import options
from vxlanfast.cli.report import Reporter
from vxlanfast.split import split_file
from vxlanfast.stats import Stats


@click.command("split")
@options.source_argument
@click.argument("pattern", metavar="OUT_PATTERN")
@options.ports_option
@options.vnis_option
@click.option("--decap", is_flag=True, help="Take VXLAN off on the way; otherwise packets stay as they are.")
@options.other_option
@options.strict_option
@options.reassemble_option
@options.inner_option
@options.outer_option
@options.format_option
@options.count_option
@options.report_options
@click.pass_context
def command(ctx: click.Context, /, source: str, pattern: str, quiet: bool, stats: str, **rest: Any) -> None:
    """Sort the VXLAN packets of IN into files: by {vni}, {src} and {dst} in the pattern.

    \b
    vxlanfast split mirror.pcap out-{vni}.pcap
    vxlanfast split mirror.pcap '{src}-{vni}.pcapng.zst' --decap

    Packets that are not VXLAN go to the file named "other" with --other keep.
    """
    report = Reporter(quiet=quiet, stats=stats)
    written: dict[str, int] = {}

    def work() -> Stats:
        nonlocal written
        done, written = split_file(source, pattern, watch=report.watch, **rest)
        return done

    code = report.run(work, fail_on_others=rest["other"] == "fail")
    if not quiet and stats == "text":
        for path, packets in written.items():
            click.echo(f"{path}: {packets:,} packets", err=True)
    ctx.exit(code)
