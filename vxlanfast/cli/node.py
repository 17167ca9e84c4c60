"""``vxlanfast node``: the live node."""

from __future__ import annotations

import asyncio
import ctypes
import signal
import sys
from contextlib import suppress
from functools import partial

import click

from vxlanfast.errors import SpecError, VxlanFastError
from vxlanfast.live import LiveNode
from vxlanfast.node_spec import NodeSpec, load_spec

#: mallopt(3): blocks of that size and more come from the system, and go back to it when they are freed.
M_MMAP_THRESHOLD, LARGE = -3, 1 << 17


def give_back_memory() -> None:
    """Tables of a configuration that was replaced are no longer held: glibc raises its threshold over their size at the
    first one that is freed, and keeps the rest for ever."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE)


@click.command("node")
@click.option("-c", "--config", metavar="FILE", required=True, help="The node: a node.toml.")
@click.option("--check", is_flag=True, help="Read FILE, say what is wrong with it, and end.")
@click.option("-q", "--quiet", is_flag=True, help="Log nothing but errors.")
def command(config: str, check: bool, quiet: bool) -> None:
    """Run the node that FILE describes: TAP devices for its ports, and an underlay to other hosts.

    \b
    SIGHUP   reads FILE again; a bad one is refused, and the old one goes on
    SIGTERM  ends: open connections may go on for [live] drain_s seconds, and
             no device, socket or file is left behind

    TAP devices need root or CAP_NET_ADMIN; the UDP underlay needs nothing.
    """
    give_back_memory()
    try:
        spec = load_spec(config)
    except SpecError as error:
        raise click.UsageError(str(error)) from None
    if check:
        print(f"{config}: {len(spec.network)} networks, {len(spec.ports) - 1} ports, {len(spec.service)} services")
        return
    sys.exit(asyncio.run(run(spec, config, quiet=quiet)))


async def run(spec: NodeSpec, config: str, *, quiet: bool = False) -> int:
    """The node until it is told to end; its exit code."""

    def log(event: str, **words: object) -> None:
        if not quiet:
            print(" ".join((event, *(f"{key}={value!r}" for key, value in words.items()))), file=sys.stderr, flush=True)

    node = LiveNode(spec, source=partial(load_spec, config), log=log)
    loop = asyncio.get_running_loop()
    ending = asyncio.Event()
    reloads: set[asyncio.Task[None]] = set()

    async def reload() -> None:
        with suppress(VxlanFastError):  # it was refused and logged, and the old one goes on
            await node.reload()

    def on_hangup() -> None:
        task = asyncio.create_task(reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    await node.start()
    assert node.underlay is not None
    log("node up", name=spec.name, underlay=node.underlay.describe(), ports=len(spec.ports) - 1)
    try:
        while not ending.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(ending.wait(), 1.0)
            if node.failed is not None:
                raise node.failed
    finally:
        await node.stop()
        log("node down", name=spec.name)
    return 0
