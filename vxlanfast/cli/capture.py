"""``vxlanfast capture``: packets of a running node, at any stage, as they pass."""

from __future__ import annotations

import signal
import sys
from types import FrameType

import click

from vxlanfast.cli import options
from vxlanfast.control_client import ControlClient, ControlError, find_socket
from vxlanfast.sink import open_sink
from vxlanfast.taps import SNAPLEN, STAGES


@click.command("capture", context_settings={"show_default": True})
@click.argument("expression", nargs=-1, metavar="[EXPR]...")
@click.option("-w", "target", metavar="FILE", default="-", help="Where to: a file, or - for standard output.")
@click.option(
    "--stage", "stages", type=click.Choice(STAGES), multiple=True, default=("inner",),
    help="Where in the node; repeatable.",
)  # fmt: skip
@click.option("--vni", "vnis", type=options.VNIS, help="These VNIs only, such as 1,5-9.")
@click.option("-i", "port", metavar="PORT", help="What came by this port of the node, or goes to it.")
@click.option("-c", "count", type=click.IntRange(1), help="End behind so many packets.")
@click.option("-s", "snaplen", type=click.IntRange(1, SNAPLEN), default=SNAPLEN, help="Bytes of each packet.")
@click.option("-q", "--quiet", is_flag=True, help="No summary on stderr.")
@options.socket_option
@click.pass_context
def command(
    ctx: click.Context, /, expression: tuple[str, ...], target: str, stages: tuple[str, ...],
    vnis: tuple[tuple[int, int], ...] | None, port: str | None, count: int | None, snaplen: int, quiet: bool,
    socket: str | None,
) -> None:  # fmt: skip
    """Packets of a running node as pcapng, with an interface for each stage and port, and with what was decided, and
    why, as comments. EXPR is a tcpdump expression, for frames as they are at their stage.

    \b
    outer     packets of the underlay, as they come and as they go
    inner     frames of networks, as they enter by ports or out of tunnels
    before    ahead of services and routing, with where the bridge sends them
    after     behind them, rewritten
    dropped   what goes nowhere, as it was when that was decided, and why

    \b
    vxlanfast capture -w - | wireshark -k -i -
    vxlanfast capture --stage before --stage after -w both.pcapng tcp port 80

    The node waits for nobody: packets for which this is too slow are left out, counted, and told at the end. Ctrl-C
    ends it, with exit code 0 unless -c asked for more.
    """
    options.refuse_terminal(target)
    request = {
        "stages": list(stages), "vnis": [list(pair) for pair in vnis or ()], "port": port,
        "expression": " ".join(expression), "count": count or 0, "snaplen": snaplen,
    }  # fmt: skip
    with ControlClient(find_socket(socket)) as client:
        interrupted = False

        def enough(number: int, frame: FrameType | None) -> None:
            nonlocal interrupted
            if interrupted:
                raise KeyboardInterrupt  # the node does not answer either
            interrupted = True
            client.end()

        pieces = client.capture(**request)
        first = next(pieces, b"")  # what the node refuses leaves no file
        before = {number: signal.signal(number, enough) for number in (signal.SIGINT, signal.SIGTERM)}
        broken, fault = False, None
        try:
            with open_sink(target) as sink:
                sink.write(first)
                try:
                    for piece in pieces:
                        sink.write(piece)
                except BrokenPipeError:  # whoever reads has seen enough
                    broken = True
                except ControlError as error:  # what came until then is whole
                    fault = error
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if broken:
            ctx.exit(0)
        if fault is not None:
            raise fault
        counts = client.reply()
        rows, lost = client.part(counts, "rows", int), client.part(counts, "lost", int)
    if not quiet:
        print(f"{rows:,} packet{'' if rows == 1 else 's'} captured, {lost:,} left out", file=sys.stderr)
    if lost:
        print(f"warning: {lost:,} packets passed faster than they were taken, and are not in it", file=sys.stderr)
    ctx.exit(130 if interrupted and count else 0)
