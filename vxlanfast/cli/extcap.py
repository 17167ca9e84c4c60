"""``vxlanfast extcap``: what Wireshark calls, and its installation."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from vxlanfast import __version__, extcap
from vxlanfast._ext.verdict import Verdict
from vxlanfast.addr import parse_vnis
from vxlanfast.cli import options
from vxlanfast.cli.recv import ended_by_signals, say
from vxlanfast.errors import FilterError, VxlanFastError
from vxlanfast.recv import Receiver

LEVELS = options.Parsed("N|all", options.number_or("all", 1, 255))


@click.command("extcap", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option(
    "--install",
    is_flag=False,
    flag_value="",
    metavar="[DIR]",
    help="Make it known to Wireshark: put it into its extcap folder, or DIR.",
)
@click.option("--uninstall", is_flag=False, flag_value="", metavar="[DIR]", help="Take it out again.")
@click.option("--extcap-interfaces", "list_interfaces", is_flag=True, help="Wireshark asks: what interfaces there are.")
@click.option("--extcap-interface", "interface", metavar="NAME", help="Wireshark says: the one meant.")
@click.option("--extcap-dlts", "list_dlts", is_flag=True, help="Wireshark asks: its link types.")
@click.option("--extcap-config", "list_config", is_flag=True, help="Wireshark asks: its options.")
@click.option(
    "--extcap-capture-filter", "capture_filter", metavar="EXPR", help="Wireshark says: frames inside that match."
)
@click.option("--extcap-version", hidden=True)
@click.option("--capture", is_flag=True, help="Wireshark says: capture now.")
@click.option("--fifo", metavar="PATH", help="Wireshark says: to this FIFO.")
@click.option("--port", metavar="LIST", default=None, help="UDP ports of VXLAN.")
@click.option(
    "--geneve-port", metavar="LIST", default="6081", show_default=True, help="UDP ports of GENEVE; 0 for none."
)
@click.option("--vni", metavar="LIST", default="", help="Keep these VNIs only.")
@click.option("--levels", type=LEVELS, default="1", show_default=True, help="Nested headers to take off at most.")
@click.option(
    "--meta", type=click.Choice(["none", "comment"]), default="comment", show_default=True, help="Outer headers."
)
@click.option("--bind", metavar="ADDRESS", default="", help="Listen at this address.")
@click.pass_context
def command(
    ctx: click.Context, /, install: str | None, uninstall: str | None, list_interfaces: bool, interface: str | None,
    list_dlts: bool, list_config: bool, capture_filter: str | None, extcap_version: str | None, capture: bool,
    fifo: str | None, port: str | None, geneve_port: str, vni: str, levels: int | str, meta: str, bind: str,
) -> None:  # fmt: skip
    """Capture traffic mirrors in Wireshark: its extcap interface.

    --install makes Wireshark list "VXLAN and GENEVE mirror receiver", and one interface for each of this machine. The
    rest is what Wireshark calls it with.
    """
    if ctx.args and (install is not None or uninstall is not None):  # Wireshark may know more options
        raise click.UsageError(f"{ctx.args[0]}: --install and --uninstall take a DIR, and nothing else")
    if install is not None:
        print(f"installed: {extcap.install(Path(install) if install else None)}; restart Wireshark, or F5 in it")
        return
    if uninstall is not None:
        path = extcap.uninstall(Path(uninstall) if uninstall else None)
        print(f"removed: {path}" if path else "nothing to remove")
        return
    if list_interfaces:
        print("\n".join(extcap.interfaces(__version__)))
        return
    if interface is None:
        raise click.UsageError("--extcap-interfaces, --extcap-interface NAME with what is asked of it, or --install")
    captured = extcap.captured_interface(interface)
    if list_dlts:
        print("\n".join(extcap.dlts(interface)))
    elif list_config:
        print("\n".join(extcap.config(interface)))
    elif capture:
        if fifo is None:
            raise click.UsageError("--capture wants --fifo PATH")
        receiver = Receiver(
            fifo, interface=captured, ports=extcap.numbers(port, "--port") if port else None,
            geneve_ports=extcap.numbers(geneve_port, "--geneve-port"), vni=parse_vnis(vni) if vni.strip() else None,
            levels=None if levels == "all" else int(levels), meta=meta, inner=capture_filter or None,
            bind=[bind.strip()] if bind.strip() else (),
        )  # fmt: skip
        with receiver, ended_by_signals(receiver):
            done = receiver.run()
        if done.kernel_drops:
            say(done, quiet=False, stats="text")
    elif capture_filter is not None:
        _check(capture_filter)
    else:
        raise click.UsageError("--extcap-dlts, --extcap-config or --capture is wanted with --extcap-interface")


def _check(expression: str) -> None:
    """Wireshark asks whether a filter is one: what is said on standard output is what is wrong with it."""
    from vxlanfast.filters import PacketFilter

    try:
        if expression.strip():
            PacketFilter(expression, Verdict.DROP_FILTER_INNER)
    except FilterError as error:
        print(error)
    except VxlanFastError as error:
        print(error, file=sys.stderr)
