"""``vxlanfast replay``: a capture through a configured node."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from vxlanfast.cli import options
from vxlanfast.cli.report import Reporter
from vxlanfast.dataplane import Dataplane
from vxlanfast.errors import CaptureError, SpecError
from vxlanfast.explain import Decision
from vxlanfast.node_toml import load_spec
from vxlanfast.replay import Replayed, replay_file
from vxlanfast.tables import TABLES, counter_row, parse_tables


def entrances(given: tuple[str, ...]) -> dict[str, str]:
    """``--port`` as often as given: ``NAME`` for all, ``INTERFACE=NAME`` for one."""
    out: dict[str, str] = {}
    for text in given:
        interface, sign, name = text.partition("=")
        key, port = (interface, name) if sign else ("", interface)
        if key in out:
            raise click.UsageError(
                f"--port {text}: {'that interface' if key else 'every interface'} has {out[key]} already"
            )
        out[key] = port
    return out


@click.command("replay")
@options.source_argument
@click.argument("target", metavar="[OUT]", type=click.Path(allow_dash=True), required=False)
@click.option("-c", "--config", metavar="FILE", required=True, help="The node: a node.toml.")
@click.option(
    "--port", "ports", multiple=True, metavar="[IF=]PORT",
    help="Packets of interface IF (its name or number in IN), or all, enter at this port. Default: the port called like"
    " the interface; of the first one, the underlay.",
)  # fmt: skip
@click.option(
    "--explain", is_flag=False, flag_value="text", type=click.Choice(["text", "json"]),
    help="Print for each packet, or each copy of it, what was decided and why; json: an object a line.",
)  # fmt: skip
@click.option(
    "--meta", type=click.Choice(["none", "comment"]), default="none", show_default=True,
    help="comment: the reasons stand in OUT, as a comment of each packet.",
)  # fmt: skip
@click.option(
    "--show", type=options.Parsed("LIST", parse_tables), default=None,
    help=f"Print these tables at the end: {', '.join(TABLES)}.",
)  # fmt: skip
@click.option("-j", "--json", "as_json", is_flag=True, help="--show as JSON, with iproute2's keys where it has them.")
@click.option("--count", type=click.IntRange(1), help="Read this many packets at most.")
@options.report_options
@click.pass_context
def command(
    ctx: click.Context, /, source: str, target: str | None, config: str, ports: tuple[str, ...], explain: str | None,
    meta: str, show: tuple[str, ...] | None, as_json: bool, count: int | None, quiet: bool, stats: str,
) -> None:  # fmt: skip
    """A capture through a node as FILE describes it: what leaves to OUT, as pcapng with an interface for each port.

    Time is the capture's. Without OUT nothing is written, and --explain and --show say what happened.
    """
    if target is None and not explain and show is None:
        raise click.UsageError("name an OUT file (- is standard output), or ask for --explain or --show")
    if target is not None:
        options.refuse_terminal(target)
    try:
        plane = Dataplane(load_spec(config))
        given = entrances(ports)
        for name in given.values():
            plane.number_of(name)
    except SpecError as error:
        raise click.UsageError(str(error)) from None
    say = _printer(explain, sys.stderr if target == "-" else sys.stdout)
    report = Reporter(quiet=quiet, stats=stats)
    fault = None
    try:
        with report.running():
            done = replay_file(
                plane, source, target, port=given, explain=say, meta=meta, count=count, watch=report.watch
            )  # fmt: skip
    except CaptureError as error:
        if not isinstance(error.stats, Replayed):
            raise
        done, fault = error.stats, error
    if show is not None:
        _show(plane, show, as_json, sys.stderr if target == "-" else sys.stdout)
    if report.json:
        print(json.dumps({"packets": done.packets, "written": done.written, **counter_row(plane)}), file=sys.stderr)
    elif not quiet:
        print(done.summary(), file=sys.stderr)
        for warning in done.warnings:
            print(f"warning: {warning}", file=sys.stderr)
    if fault is not None:
        print(f"vxlanfast: {fault}", file=sys.stderr)
        ctx.exit(fault.exit_code)
    ctx.exit(130 if done.interrupted else 0)


def _printer(explain: str | None, file: Any) -> Any:
    if explain is None:
        return None
    if explain == "json":
        return lambda decision: print(json.dumps(decision.as_dict()), file=file)

    def say(decision: Decision) -> None:
        print(decision, file=file)

    return say


def _show(plane: Dataplane, names: tuple[str, ...], as_json: bool, file: Any) -> None:
    """Tables at the end: one as it is, several under their names."""
    if as_json:
        tables = {name: TABLES[name][1](plane) for name in names}
        print(json.dumps(tables if len(names) > 1 else tables[names[0]], indent=2), file=file)
        return
    for name in names:
        if len(names) > 1:
            print(f"# {name}", file=file)
        for line in TABLES[name][0](plane):
            print(line, file=file)
