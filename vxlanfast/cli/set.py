"""``vxlanfast set``: single changes of a running node."""

from __future__ import annotations

import click

from vxlanfast.changes import USAGE, parse
from vxlanfast.cli import options
from vxlanfast.control_client import ControlClient, find_socket
from vxlanfast.errors import SpecError


@click.command("set", context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="WHAT WORDS...")
@options.socket_option
def command(words: tuple[str, ...], socket: str | None) -> None:
    """Change an entry, a server or a weight of a running node, and say what was done.

    \b
    vxlanfast set fdb replace|append|del MAC VNI|NETWORK PLACE...
    vxlanfast set neigh replace|del ADDRESS lladdr MAC vni VNI|NETWORK [at PLACE]
    vxlanfast set server add|edit|del SERVICE ADDRESS[:PORT] [-w W] [-x UPPER] [-y LOWER]
    vxlanfast set weight SERVICE ADDRESS[:PORT] W

    A PLACE is a port's name or a VTEP's address; several get a copy each. Weight 0 drains a server: it keeps its
    connections and gets no more. These changes live until the node reads its spec again: what is to stay belongs there.
    """
    if not words:
        raise click.UsageError(f"what to set: {', '.join(USAGE)}")
    try:
        request = parse(words)
    except SpecError as error:
        raise click.UsageError(str(error)) from None
    with ControlClient(find_socket(socket)) as client:
        print(client.part(next(client.ask("set", **request)), "said", str))
