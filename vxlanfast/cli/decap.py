"""``vxlanfast decap``."""

from __future__ import annotations

from typing import Any

import click

from vxlanfast.cli import options
from vxlanfast.cli.report import Reporter
from vxlanfast.files import decap_file


@click.command("decap")
@options.source_argument
@options.target_argument
@options.ports_option
@options.geneve_option
@options.vnis_option
@click.option(
    "--levels", type=options.Parsed("N|all", options.number_or("all", 1, 255)), default="1", show_default=True,
    help="Nested VXLAN headers to take off at most.",
)  # fmt: skip
@options.other_option
@options.strict_option
@options.reassemble_option
@options.inner_option
@options.outer_option
@click.option(
    "--meta", type=click.Choice(["none", "comment", "interface"]), default="none", show_default=True,
    help="pcapng: keep the outer headers, shown as a comment of each packet or as an interface per tunnel;"
    " encap --restore puts them back.",
)  # fmt: skip
@options.format_option
@options.count_option
@options.threads_option
@options.report_options
@click.pass_context
def command(
    ctx: click.Context, /, source: str, target: str, levels: int | str, quiet: bool, stats: str, **rest: Any
) -> None:
    """Take VXLAN off: the inner frames of IN to OUT.

    The UDP destination port decides, and then the I flag. Packets that are not VXLAN are dropped and counted.
    """
    options.refuse_terminal(target)
    report = Reporter(quiet=quiet, stats=stats)
    depth = None if levels == "all" else int(levels)
    ctx.exit(
        report.run(
            lambda: decap_file(source, target, levels=depth, watch=report.watch, **rest),
            fail_on_others=rest["other"] == "fail",
        )
    )
