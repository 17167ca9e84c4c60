"""``vxlanfast recv``."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

from vxlanfast.cli import options
from vxlanfast.recv import GENEVE_PORT, Received, Receiver


@contextmanager
def ended_by_signals(receiver: Receiver) -> Iterator[None]:
    """SIGINT and SIGTERM end the run behind what has arrived; a second one at once."""

    def on_signal(number: int, frame: FrameType | None) -> None:
        if receiver.stopping:
            raise KeyboardInterrupt
        receiver.stop()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say(done: Received, *, quiet: bool, stats: str) -> None:
    """The account, on stderr."""
    if stats == "json":
        print(json.dumps(done.as_dict()), file=sys.stderr)
    elif not quiet:
        print(done.summary(), file=sys.stderr)
        for warning in done.warnings:
            print(f"warning: {warning}", file=sys.stderr)


@click.command("recv")
@click.argument("target", metavar="[OUT]", type=click.Path(allow_dash=True), required=False)
@click.option(
    "-p", "--port", "ports", type=options.PORT, multiple=True,
    help="UDP port of VXLAN; repeatable. Default: 4789 (with -i 4789 and 8472). From 1024 on no privilege is needed.",
)  # fmt: skip
@click.option(
    "--geneve-port", "geneve_ports", type=click.IntRange(0, 65535), multiple=True, default=(GENEVE_PORT,),
    show_default=True, help="UDP port of GENEVE; repeatable, 0 for none.",
)  # fmt: skip
@click.option(
    "--bind", metavar="ADDRESS", multiple=True, help="Listen at this address; repeatable. Default: all, IPv4 and IPv6."
)
@click.option(
    "-i", "--interface", metavar="IFACE", help="Take frames off this interface instead (packet socket; root)."
)
@options.vnis_option
@click.option(
    "--levels", type=options.Parsed("N|all", options.number_or("all", 1, 255)), default="1", show_default=True,
    help="Nested headers to take off at most.",
)  # fmt: skip
@options.inner_option
@options.outer_option
@click.option("--reassemble", is_flag=True, help="-i: put outer IP fragments together (a UDP port gets them whole).")
@click.option(
    "--meta", type=click.Choice(["none", "comment"]), default="none", show_default=True,
    help="comment: keep VNI and outer headers with each packet; encap --restore puts them back.",
)  # fmt: skip
@click.option(
    "-F", "--format", "format", type=click.Choice(["pcap", "nsecpcap", "pcapng"]), default="pcapng", show_default=True,
    help="Format of the output.",
)  # fmt: skip
@click.option("-c", "--count", type=click.IntRange(1), help="End after this many packets written.")
@click.option(
    "-s", "--snaplen", type=click.IntRange(64, 262144), default=262144, help="Bytes taken of a packet at most."
)
@click.option(
    "-G", "seconds", type=click.IntRange(1), metavar="SECONDS",
    help="A new file so often; strftime's %H%M%S and the like in OUT are its time.",
)  # fmt: skip
@click.option(
    "-C", "megabytes", type=click.IntRange(1), metavar="MB",
    help="A new file, with a number behind its name, when there are so many million bytes in it.",
)  # fmt: skip
@click.option(
    "-W",
    "files",
    type=click.IntRange(1),
    metavar="FILES",
    help="With -C: a ring of so many files. With -G: end after so many.",
)
@click.option("--tap", metavar="NAME", help="Inner frames to this TAP device, made where there is none (root).")
@click.option(
    "--buffer", "buffer_kib", type=click.IntRange(1, 1 << 20), default=32768, show_default=True, metavar="KIB",
    help="Receive buffer of each socket to ask for; the system's limit is net.core.rmem_max, which root may pass.",
)  # fmt: skip
@options.report_options
@click.pass_context
def command(
    ctx: click.Context, /, target: str | None, tap: str | None, levels: int | str, geneve_ports: tuple[int, ...],
    buffer_kib: int, quiet: bool, stats: str, **rest: Any,
) -> None:  # fmt: skip
    """Receive a traffic mirror: VXLAN and GENEVE that arrive here, the inner frames to OUT.

    OUT is a file, a FIFO or - (standard output, the default without --tap). -G, -C and -W are tcpdump's. Ctrl-C or
    SIGTERM ends it behind what has arrived by then, with exit code 0 and an account: received, written, dropped here
    and by the kernel.
    """
    if target is None and tap is None:
        target = "-"
    if target is not None:
        options.refuse_terminal(target)
    receiver = Receiver(
        target, tap=tap, geneve_ports=[port for port in geneve_ports if port],
        levels=None if levels == "all" else int(levels), buffer_len=buffer_kib << 10, **rest,
    )  # fmt: skip
    with receiver, ended_by_signals(receiver):
        if not quiet:
            kib = receiver.buffer_len >> 10
            print(
                f"listening at {receiver.where} (receive buffer {kib:,} KiB); Ctrl-C ends", file=sys.stderr, flush=True
            )
        say(receiver.run(), quiet=quiet, stats=stats)
    ctx.exit(0)
