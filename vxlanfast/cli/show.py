"""``vxlanfast show``: tables and counters of a running node."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import click

from vxlanfast.cli import options
from vxlanfast.control_client import SOCKET_VARIABLE, ControlClient, ControlError, find_socket, sockets
from vxlanfast.errors import SpecError

TABLES = (
    "fdb", "neigh", "mdb", "vteps", "services", "connections", "counters", "drops", "io", "timeouts", "status", "nodes",
    "metrics",
)  # fmt: skip
HOME, TO_LINE_END, TO_END = "\x1b[H", "\x1b[K", "\x1b[J"


def _known(text: str) -> str:
    if text not in (*TABLES, "vtep", "services:stats", "services:thresholds"):
        raise SpecError(f"{text!r}: {', '.join(TABLES)}")
    return text


@click.command("show", context_settings={"show_default": True})
@click.argument("what", metavar="TABLE", type=options.Parsed("TABLE", _known))
@click.option("-j", "--json", "as_json", is_flag=True, help="As JSON, with iproute2's keys where it has them.")
@click.option("-s", "--stats", is_flag=True, help="services: what each has carried, as ipvsadm --stats.")
@click.option(
    "--watch", is_flag=False, flag_value="2", type=click.FloatRange(0.1, 86400), metavar="[SECONDS]",
    help="Again every so many seconds (2), in place on a terminal, until Ctrl-C.",
)  # fmt: skip
@options.socket_option
@click.pass_context
def command(
    ctx: click.Context, /, what: str, as_json: bool, stats: bool, watch: float | None, socket: str | None
) -> None:
    """A table of a running node: fdb, neigh, mdb and vteps as bridge and ip print a host's, services, connections and
    timeouts as ipvsadm does; counters and drops of the plane, io of its devices and sockets; status; metrics, as
    Prometheus reads them; nodes, every node that runs here.

    \b
    vxlanfast show fdb                       vxlanfast show services -s --watch
    vxlanfast show -j connections | jq .     vxlanfast show drops --watch 1
    """
    if what == "metrics" and as_json:
        raise click.UsageError("metrics are text, in Prometheus' format")
    if stats and what != "services":
        raise click.UsageError(f"-s: services alone; {what} has all its figures without it")

    def lines() -> Iterator[str]:
        if what == "nodes":
            return _nodes(socket, as_json)
        return _table(find_socket(socket), what, as_json, stats)

    if watch is None:
        for text in lines():
            sys.stdout.write(text)
        return
    try:
        _watch(lines, watch)
    except KeyboardInterrupt:
        ctx.exit(130)


def _table(path: str, what: str, as_json: bool, stats: bool) -> Iterator[str]:
    """The table as text, piece by piece."""
    with ControlClient(path) as client:
        if what == "metrics":
            yield client.part(next(client.ask("metrics")), "text", str)
            return
        replies = client.ask("show", table=what, format="json" if as_json else "text", stats=stats)
        if not as_json:
            for reply in replies:
                yield "".join(f"{line}\n" for line in client.part(reply, "lines", list))
            return
        yield from _json(client, replies, lines=what == "connections")


def _json(client: ControlClient, replies: Iterable[dict[str, Any]], *, lines: bool) -> Iterator[str]:
    """One value, or the rows of all pieces as one list: as ``json.dumps`` with ``indent=2`` has them; ``lines``: a line
    for each row, since there may be a million."""
    begun = False
    for reply in replies:
        if "value" in reply:
            yield f"{json.dumps(reply['value'], indent=2)}\n"
            return
        if rows := client.part(reply, "rows", list):
            yield ",\n" if begun else "[\n"
            yield ",\n".join(map(json.dumps, rows)) if lines else json.dumps(rows, indent=2)[2:-2]
            begun = True
    yield "\n]\n" if begun else "[]\n"


def _nodes(given: str | None, as_json: bool) -> Iterator[str]:
    """Every node that has a socket where nodes have theirs, or the one that is named."""
    named = given or os.environ.get(SOCKET_VARIABLE)
    paths = [named] if named else sockets() or [find_socket()]  # which says that there is none
    rows = []
    for path in paths:
        try:
            with ControlClient(path, timeout_s=5) as client:
                rows.append(client.part(next(client.ask("show", table="status", format="json")), "value", dict))
        except ControlError as error:
            rows.append({"socket": path, "error": str(error)})
    if as_json:
        yield f"{json.dumps(rows, indent=2)}\n"
        return
    for row in rows:
        if "error" in row:
            yield f"{row['error']}\n"
        else:
            vteps = ",".join(row.get("vtep", ()))
            told = f"{row.get('name')} vtep {vteps} pid {row.get('pid')} up {row.get('uptime_s', 0):.0f} s"
            yield f"{told} socket {row.get('socket')}\n"


def _watch(lines: object, seconds: float) -> None:
    """Again and again; on a terminal in place, as much as it has lines for."""
    assert callable(lines)
    in_place = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    first = True
    while True:
        if in_place:
            size = shutil.get_terminal_size()
            sys.stdout.write(screen("".join(_some(lines(), size.lines)), size.columns, size.lines, clear=first))
        else:
            sys.stdout.write("" if first else "\n")
            for text in lines():
                sys.stdout.write(text)
        sys.stdout.flush()
        first = False
        time.sleep(seconds)


def _some(texts: Iterable[str], count: int) -> Iterator[str]:
    """Pieces until there are so many lines: of a million connections no more than can be seen is asked for."""
    for text in texts:
        yield text
        count -= text.count("\n")
        if count < 0:
            return


def screen(text: str, columns: int, rows: int, *, clear: bool) -> str:
    """What a terminal of that size must be sent to show the beginning of ``text`` and nothing else."""
    lines = text.splitlines()
    shown = lines if len(lines) < rows else [*lines[: rows - 2], "..."]
    body = "".join(f"{line[:columns]}{TO_LINE_END}\r\n" for line in shown)
    return f"{HOME}{TO_END if clear else ''}{body}{TO_END}"
