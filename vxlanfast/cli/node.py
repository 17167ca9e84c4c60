"""``vxlanfast node``: the live node."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import click

from vxlanfast import notify
from vxlanfast.control import ControlServer, socket_path
from vxlanfast.errors import OutputError, SpecError, VxlanFastError
from vxlanfast.live import LiveNode
from vxlanfast.logs import FORMATS, LEVELS, Log
from vxlanfast.metrics import MetricsServer
from vxlanfast.node_toml import load_spec

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
@click.option(
    "--control", metavar="PATH",
    help="Its control socket; off: none. Default: [live] control, or /run/vxlanfast/NAME.sock.",
)  # fmt: skip
@click.option(
    "--from-kernel", "devices", metavar="DEV", multiple=True,
    help="Follow a Linux vxlan device: its FDB and neighbours are this node's as well; repeatable.",
)  # fmt: skip
@click.option("--kernel-namespace", metavar="NAME", help="The network namespace that these devices are in.")
@click.option("--log", "form", type=click.Choice(FORMATS), default="text", show_default=True, help="Form of the log.")
@click.option("--log-level", type=click.Choice(list(LEVELS)), default="info", show_default=True, help="What is logged.")
def command(
    config: str, check: bool, control: str | None, devices: tuple[str, ...], kernel_namespace: str | None, form: str,
    log_level: str,
) -> None:  # fmt: skip
    """Run the node that FILE describes: TAP devices for its ports, and an underlay to other hosts.

    \b
    SIGHUP   reads FILE again; a bad one is refused, and the old one goes on
    SIGTERM  ends: open connections may go on for [live] drain_s seconds, and
             no device, socket or file is left behind

    TAP devices need root or CAP_NET_ADMIN; the UDP underlay needs nothing. vxlanfast show, set and capture talk to a
    running node.
    """
    give_back_memory()
    try:
        spec = load_spec(config)
    except SpecError as error:
        raise click.UsageError(str(error)) from None
    if check:
        counts = {"network": len(spec.network), "port": len(spec.ports) - 1, "service": len(spec.service)}
        print(f"{config}: " + ", ".join(f"{n} {what}{'' if n == 1 else 's'}" for what, n in counts.items()))
        return
    node = LiveNode(
        spec, source=partial(load_spec, config), log=Log(form=form, level=log_level), from_kernel=devices,
        kernel_namespace=kernel_namespace,
    )  # fmt: skip
    sys.exit(asyncio.run(Run(node, config, control).main()))


class Run:
    """A node with what a program has beside it: signals, a control socket, metrics, and word to systemd."""

    def __init__(self, node: LiveNode, config: str, control: str | None) -> None:
        self.node = node
        self.config = config
        self.ending = asyncio.Event()
        self.interrupted = False
        self.reloads: set[asyncio.Task[None]] = set()
        self.control: ControlServer | None = None
        self.metrics: MetricsServer | None = None
        self.given = control or node.spec.live.control

    async def main(self) -> int:
        """Until it is told to end; its exit code."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self.on_hangup)
        loop.add_signal_handler(signal.SIGTERM, self.ending.set)
        loop.add_signal_handler(signal.SIGINT, self.on_interrupt)
        node, log = self.node, self.node.log
        await node.start()
        try:
            await self.open()
            assert node.underlay is not None
            log.info("node up", name=node.spec.name, underlay=node.underlay.describe(), ports=len(node.spec.ports) - 1)
            notify.ready()
            await self.until_the_end()
            notify.stopping()
            if node.spec.live.drain_s:
                done = await node.drain(node.spec.live.drain_s)
                log.info("drained", all=done)
        finally:
            for task in self.reloads:
                task.cancel()
            if self.control is not None:
                await self.control.close()
            if self.metrics is not None:
                await self.metrics.close()
            await node.stop()
            log.info("node down", name=node.spec.name)
            log.flush()
        return 130 if self.interrupted else 0

    async def open(self) -> None:
        """The control socket, and metrics where they are asked for."""
        node = self.node
        if self.given != "off":
            path = self.given or socket_path(node.spec.name)
            control = ControlServer(node, path, stop=self.ending.set, about=self.about, clock=time.monotonic_ns)
            try:
                await control.start()
                self.control = control
            except OutputError as error:
                if self.given:
                    raise
                node.log.warning("no control socket", reason=str(error))
        if node.spec.live.metrics:
            self.metrics = MetricsServer(node, node.spec.live.metrics)
            await self.metrics.start()

    def about(self) -> Mapping[str, Any]:
        """Of its status, what a plane does not know."""
        node = self.node
        about: dict[str, Any] = {
            "config": os.path.abspath(self.config), "reloads": node.reloads, "refused": node.refused,
            "underlay": node.underlay.describe() if node.underlay is not None else "",
            "gone": dict(node.gone),
        }  # fmt: skip
        if node.names is not None:
            about["names"] = {**node.names.counters(), "not_asked": node.names_dropped}
        if node.kernel is not None:
            about["from_kernel"] = node.kernel.followed()
        return about

    async def until_the_end(self) -> None:
        """Look after the thread that forwards; say to systemd that all is well."""
        beat = notify.watchdog_s()
        while not self.ending.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self.ending.wait(), min(1.0, beat or 1.0))
            if self.node.failed is not None:
                raise self.node.failed
            if beat:
                notify.watchdog()

    def on_interrupt(self) -> None:
        """Ctrl-C."""
        self.interrupted = True
        self.ending.set()

    def on_hangup(self) -> None:
        """Read the configuration again."""
        task = asyncio.create_task(self.reload())
        self.reloads.add(task)
        task.add_done_callback(self.reloads.discard)

    async def reload(self) -> None:
        """A refusal is logged, and the old one goes on."""
        notify.reloading()
        with suppress(VxlanFastError):
            await self.node.reload()
        notify.ready()
