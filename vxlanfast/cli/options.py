"""Options that several verbs share, and the types of their values."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from vxlanfast.addr import parse_vni, parse_vnis
from vxlanfast.errors import SpecError
from vxlanfast.spec import DEFAULT_PORTS

F = TypeVar("F", bound=Callable[..., Any])


class Parsed(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A value read by one of the package's own parsers, whose message is shown as it is."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self.parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self.parse(value)
        except SpecError as error:
            self.fail(str(error), param, ctx)


def number_or(word: str, low: int, high: int) -> Callable[[str], int | str]:
    """A parser of ``low`` to ``high`` or ``word``."""

    def parse(text: str) -> int | str:
        if text == word:
            return word
        if not text.isdigit() or not low <= int(text) <= high:
            raise SpecError(f"{text!r}: {low} to {high}, or {word}")
        return int(text)

    return parse


VNI = Parsed("VNI", parse_vni)
VNIS = Parsed("LIST", parse_vnis)
PORT = click.IntRange(1, 65535)


def stack(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several decorators as one, in the order written."""

    def wrap(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return wrap


source_argument = click.argument("source", metavar="IN", type=click.Path(allow_dash=True))
target_argument = click.argument(
    "target", metavar="[OUT]", type=click.Path(allow_dash=True), default="-", required=False
)
ports_option = click.option(
    "-p", "--port", "ports", type=PORT, multiple=True, default=DEFAULT_PORTS,
    help="UDP destination port that means VXLAN; repeatable. Default: 4789 and 8472.",
)  # fmt: skip
vnis_option = click.option("--vni", "vni", type=VNIS, help="Keep these VNIs only, such as 1,5-9.")
inner_option = click.option(
    "--inner", metavar="EXPR", help="Keep frames whose inner packet matches this tcpdump expression."
)
outer_option = click.option(
    "--outer", metavar="EXPR", help="Keep packets that match this tcpdump expression as they are."
)
reassemble_option = click.option(
    "--reassemble", is_flag=True, help="Put outer IP fragments together (4 MB, 30 s at most)."
)
strict_option = click.option(
    "--strict", is_flag=True, help="Drop reserved VXLAN bits and wrong outer checksums (exit code 3)."
)
format_option = click.option(
    "-F", "--format", "format", type=click.Choice(["pcap", "nsecpcap", "pcapng"]),
    help="Format of the output. Default: the input's.",
)  # fmt: skip
count_option = click.option("-c", "--count", type=click.IntRange(1), help="Read this many packets at most.")
threads_option = click.option(
    "--threads", type=click.IntRange(1, 256),
    help="Cores to use; the output is the same. Default: 2 for a large file, else 1.",
)  # fmt: skip
other_option = click.option(
    "--other", type=click.Choice(["drop", "keep", "fail"]), default="drop", show_default=True,
    help="Packets that are not VXLAN; fail drops them and ends with exit code 3.",
)  # fmt: skip
socket_option = click.option(
    "--socket", metavar="PATH",
    help="The node's control socket. Default: $VXLANFAST_SOCKET, or the only one in /run/vxlanfast.",
)  # fmt: skip
report_options = stack(
    click.option("-q", "--quiet", is_flag=True, help="No summary, warnings or progress on stderr."),
    click.option(
        "--stats", type=click.Choice(["text", "json"]), default="text", help="json: the summary as JSON, on stderr."
    ),
)


def refuse_terminal(target: str) -> None:
    """UsageError where a capture would be written to a terminal."""
    if target == "-" and sys.stdout.isatty():
        raise click.UsageError("a capture on a terminal is of no use: name an OUT file, or send it down a pipe")
