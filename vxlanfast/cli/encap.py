"""``vxlanfast encap``."""

from __future__ import annotations

from typing import Any

import click
from click.core import ParameterSource

from vxlanfast.cli import options
from vxlanfast.cli.report import Reporter
from vxlanfast.files import encap_file, restore_file
from vxlanfast.spec import DEFAULT_PORT, TunnelSpec

#: Options that describe the tunnel; with --restore the headers come from the file instead.
TUNNEL = (
    "vni", "src", "dst", "smac", "dmac", "port", "sport", "ttl", "dscp", "df", "udp_csum", "mtu", "mtu_policy", "inner",
)  # fmt: skip


@click.command("encap")
@options.source_argument
@options.target_argument
@click.option("--vni", type=options.VNI, help="VXLAN network identifier, 0 to 16777215.")
@click.option("--src", metavar="IP", help="Address of the sending VTEP, IPv4 or IPv6.")
@click.option("--dst", metavar="IP", help="Address of the receiving VTEP.")
@click.option("--smac", metavar="MAC", help="Outer source MAC. Default: 02:42 and the address's last four bytes.")
@click.option("--dmac", metavar="MAC", help="Outer destination MAC. Default: likewise.")
@click.option("-p", "--port", type=options.PORT, default=DEFAULT_PORT, show_default=True, help="UDP destination port.")
@click.option(
    "--sport", type=options.Parsed("hash|N", options.number_or("hash", 1, 65535)), default="hash", show_default=True,
    help="UDP source port; hash: 49152 to 65535, by the inner flow.",
)  # fmt: skip
@click.option("--ttl", type=click.IntRange(1, 255), default=64, show_default=True, help="Outer TTL or hop limit.")
@click.option(
    "--dscp", type=options.Parsed("N|inherit", options.number_or("inherit", 0, 63)), default="0", show_default=True,
    help="Outer DSCP; ECN is always copied from the inner packet.",
)  # fmt: skip
@click.option("--df", is_flag=True, help="Set Don't Fragment (IPv4).")
@click.option(
    "--udp-csum", type=click.Choice(["auto", "on", "off"]), default="auto", show_default=True,
    help="Outer UDP checksum; auto: off over IPv4, on over IPv6.",
)  # fmt: skip
@click.option("--mtu", type=int, metavar="N", help="MTU of the underlay, in bytes of IP packet.")
@click.option(
    "--over-mtu", "mtu_policy", type=click.Choice(["warn", "drop", "fragment"]), default="warn", show_default=True,
    help="What to do with packets over --mtu.",
)  # fmt: skip
@options.inner_option
@click.option("--restore", is_flag=True, help="Put back the headers that decap --meta kept in IN.")
@click.option(
    "--other", type=click.Choice(["keep", "drop", "fail"]), default="keep", show_default=True,
    help="With --restore: packets without kept headers.",
)  # fmt: skip
@options.format_option
@options.count_option
@options.threads_option
@options.report_options
@click.pass_context
def command(
    ctx: click.Context, /, source: str, target: str, restore: bool, other: str, format: str | None, count: int | None,
    threads: int | None, quiet: bool, stats: str, inner: str | None, **tunnel: Any,
) -> None:  # fmt: skip
    """Put VXLAN on: the Ethernet frames of IN to OUT, each behind outer headers.

    \b
    vxlanfast encap lab.pcap wire.pcap --vni 42 --src 192.0.2.1 --dst 192.0.2.2
    vxlanfast encap inner.pcapng wire.pcapng --restore
    """
    options.refuse_terminal(target)
    report = Reporter(quiet=quiet, stats=stats)
    if restore:
        for name in (*TUNNEL, "threads"):
            if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT:
                option = next(each.opts[-1] for each in ctx.command.params if each.name == name)
                raise click.UsageError(f"--restore takes the headers from IN: {option} does not go with it")
        ctx.exit(
            report.run(
                lambda: restore_file(source, target, other=other, format=format, count=count, watch=report.watch),
                fail_on_others=other == "fail",
            )
        )
    if ctx.get_parameter_source("other") is not ParameterSource.DEFAULT:
        raise click.UsageError("--other goes with --restore")
    missing = [f"--{name}" for name in ("vni", "src", "dst") if tunnel[name] is None]
    if missing:
        raise click.UsageError(f"{', '.join(missing)} missing: which tunnel? (or --restore)")
    if tunnel["sport"] == "hash":
        tunnel["sport"] = None
    spec = TunnelSpec(**tunnel)
    ctx.exit(
        report.run(
            lambda: encap_file(
                source, target, spec, inner=inner, format=format, count=count, threads=threads, watch=report.watch
            )
        )
    )
