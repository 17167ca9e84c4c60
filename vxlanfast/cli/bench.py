"""``vxlanfast bench``: this build beside its peers, on this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from vxlanfast.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vxlanfast.benchmark.results import Report

DEFAULT_PACKETS = 8_000_000
QUICK = 10
JOBS = ("decap", "encap", "memory", "plane", "mesh", "startup")
SIZES = ("64", "imix", "1400")


class Names(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """Some of a list of names, separated by commas."""

    name = "LIST"

    def __init__(self, known: tuple[str, ...]) -> None:
        self.known = known

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(dict.fromkeys(name.strip().lower() for name in str(value).split(",") if name.strip()))
        for name in names:
            if name not in self.known:
                self.fail(f"{name!r}: {', '.join(self.known)}", param, ctx)
        return names or self.known


@contextmanager
def progress_on_stderr(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Something to call with what is being done: one line that changes on a terminal, a line per job
    elsewhere.
    """
    if quiet:
        yield lambda text: None
    elif sys.stderr.isatty():
        from rich.console import Console

        with Console(stderr=True).status("") as status:
            yield status.update
    else:
        told = ""

        def tell(text: str) -> None:
            nonlocal told
            job = text.partition(":")[0]
            if job != told:
                told = job
                click.echo(f"measuring {job}", err=True)

        yield tell


def write(path: str, content: str | None) -> None:
    """A text file, or ``-`` for stdout; None only sees whether it could be written."""
    if path == "-":
        click.echo(content or "", nl=False)
        return
    try:
        with open(path, "a" if content is None else "w", encoding="utf-8") as file:
            file.write(content or "")
    except OSError as error:
        raise OutputError(f"{path}: {error.strerror}", errno=error.errno, path=path) from None


output = click.Path(dir_okay=False, allow_dash=True)


@click.command("bench")
@click.option(
    "--quick", is_flag=True, help=f"A {QUICK}th of the packets: start-up weighs more than in earnest."
)
@click.option(
    "--packets",
    type=click.IntRange(1),
    help=f"Packets of 64 bytes; of larger ones fewer. Default: {DEFAULT_PACKETS:,}.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Rounds after the warm-up, of which the middle counts.",
)
@click.option(
    "--sizes", type=Names(SIZES), default=",".join(SIZES), show_default=True, help="Bytes of inner frame."
)
@click.option("--jobs", type=Names(JOBS), default=",".join(JOBS), show_default=True, help="What to measure.")
@click.option("--svg", type=output, help="Write a picture of it.")
@click.option("--markdown", type=output, help="Write the table in Markdown.")
@click.option("--json", "as_json", type=output, help="Write every round of everything as JSON.")
@click.option(
    "--workdir", type=click.Path(exists=True, file_okay=False, writable=True),
    help="Where the captures go while it lasts. Default: /dev/shm where there is room, else the temporary"
    " folder.",
)  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
def command(
    quick: bool, packets: int | None, rounds: int, sizes: tuple[str, ...], jobs: tuple[str, ...],
    svg: str | None, markdown: str | None, as_json: str | None, workdir: str | None, quiet: bool,
) -> None:  # fmt: skip
    """Measure this build beside its peers, on this machine.

    Whole programs that do the same job take turns: cp and cat, which only move the bytes, editcap, bittwiste,
    dpkt and scapy where they are installed, and vxlanfast. Then the core without files, beside memcpy.
    Results are checked.
    """
    from pathlib import Path

    from rich.console import Console

    from vxlanfast.benchmark import report as show
    from vxlanfast.benchmark.runner import Settings, run

    settings = Settings(
        packets=packets or DEFAULT_PACKETS // (QUICK if quick else 1),
        rounds=rounds,
        sizes=sizes,
        jobs=jobs,
        workdir=Path(workdir).resolve() if workdir else None,
    )
    wanted: list[tuple[str, Callable[[Report], str]]] = []
    for path, make in ((svg, show.svg), (markdown, show.markdown), (as_json, to_json)):
        if path is not None:
            wanted.append((path, make))
            write(path, None)  # what cannot be written is better known before than after
    with progress_on_stderr(quiet) as progress:
        report = run(settings, progress)
    for path, show_as in wanted:
        write(path, show_as(report))
    if all(path != "-" for path, _ in wanted):
        console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
        for part in show.text_tables(report):
            console.print(part, markup=False)


def to_json(report: Report) -> str:
    """Every round of everything."""
    return json.dumps(report.as_dict(), indent=1, ensure_ascii=False) + "\n"
