"""``vxlanfast bench``."""

from __future__ import annotations

import click


@click.command("bench")
def command() -> None:
    """Measure this build beside its peers."""
