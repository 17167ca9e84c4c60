"""The command line: ``vxlanfast VERB [options] IN [OUT]``. Each verb's module is imported when it is used."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import click

from vxlanfast import __version__

VERBS = (
    "decap", "encap", "split", "info", "replay", "recv", "extcap", "node", "show", "set", "capture", "bench",
)  # fmt: skip


class Verbs(click.Group):
    """Commands by name, each from a module of its own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        command: click.Command = import_module(f"vxlanfast.cli.{name}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # Whoever reads has seen enough; click would make it exit code 1. The interpreter must not complain
            # when it closes stdout.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            ctx.exit(0)


@click.command(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="vxlanfast")
def group() -> None:
    """VXLAN off and on capture files, fast and right on every format; and a VTEP of your own, on captures or live.

    \b
    vxlanfast decap mirror.pcapng.zst inner.pcap     the inner frames
    vxlanfast info mirror.pcapng.zst                 what is in there, by VNI
    vxlanfast replay in.pcap -c node.toml --explain  where each goes, and why
    vxlanfast recv mirror.pcapng                     what a traffic mirror sends here
    tcpdump -w - udp port 4789 | vxlanfast decap - - | tshark -r -
    vxlanfast node -c node.toml                      live, on TAP devices and UDP
    vxlanfast show fdb; vxlanfast capture | wireshark -k -i -   of a node that runs

    Captures are pcap or pcapng, plain or gz, zst, lz4; - is standard input or output. Exit codes: 0 done, 1 an input
    or output failed, 2 wrong usage, 3 done but --strict or --other fail met something, 130 interrupted.
    """


def main() -> None:
    """Entry point: run a verb, and turn errors into one line and an exit code."""
    from vxlanfast.errors import Interrupted, VxlanFastError

    try:
        # Outside its standalone mode click returns the code of ctx.exit().
        sys.exit(group(prog_name="vxlanfast", standalone_mode=False))
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        place = context.command_path if context is not None else "vxlanfast"
        print(f"{place}: {error.format_message()} (see {place} --help)", file=sys.stderr)
        sys.exit(error.exit_code)
    except VxlanFastError as error:
        print(f"vxlanfast: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, Interrupted, click.exceptions.Abort):
        print("vxlanfast: interrupted", file=sys.stderr)
        sys.exit(130)
