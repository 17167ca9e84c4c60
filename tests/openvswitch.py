"""Open vSwitch in a namespace: its userspace datapath, as processes of a test's own, with a tunnel by VXLAN.

    internal port of the bridge (overlay) ── vxlan port, which the switch itself routes by ── bridge "phy" ── wire
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import ip
from tests.live import address, background, run, until

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
PROGRAMS = ("ovs-vswitchd", "ovsdb-server", "ovsdb-tool", "ovs-vsctl", "ovs-appctl", "ethtool")


def need_openvswitch() -> None:
    """Skip, with the reason, where it is not installed."""
    for program in PROGRAMS:
        if shutil.which(program) is None:
            pytest.skip(f"needs the program {program}, which is not installed (openvswitch-switch, ethtool)")
    if not SCHEMA.exists():
        pytest.skip(f"needs {SCHEMA}, which is not there (openvswitch-switch)")


def no_offload(namespace: str, device: str) -> None:
    """A veth whose packets are whole when they leave it: this datapath takes them as they are."""
    run(namespace, "ethtool", "-K", device, "tx", "off")


class Switch:
    """One that runs; ``control`` and ``ask`` are ovs-vsctl and ovs-appctl."""

    def __init__(self, namespace: str, folder: Path) -> None:
        self.namespace, self.folder = namespace, folder
        self.unix = f"unix:{folder}/db.sock"

    def control(self, *arguments: object) -> str:
        return run(self.namespace, "ovs-vsctl", f"--db={self.unix}", "--retry", "--timeout=60", *arguments).stdout

    def ask(self, *arguments: object) -> str:
        return run(self.namespace, "ovs-appctl", "-t", self.folder / "switch.ctl", *arguments).stdout

    def underlay(self, *addresses: str, wire: str = "wire") -> None:
        """The wire becomes a port of a bridge that has its addresses: the switch sends tunnels by its own."""
        no_offload(self.namespace, wire)
        self.control("add-br", "phy", "--", "set", "bridge", "phy", "datapath_type=netdev")
        self.control("add-port", "phy", wire)
        ip("-n", self.namespace, "link", "set", "phy", "up")
        address(self.namespace, "phy", *addresses)

    def tunnel(self, *, vni: int, local: str, remote: str, mac: str, mtu: int, addresses: list[str]) -> None:
        """A bridge ``over`` with a VXLAN port, and an internal port of that name with addresses."""
        self.control(
            "add-br", "over", "--", "set", "bridge", "over", "datapath_type=netdev", f'other-config:hwaddr="{mac}"',
            "--", "set", "interface", "over", f"mtu_request={mtu}",
        )  # fmt: skip
        self.control(
            "add-port", "over", "vx", "--", "set", "interface", "vx", "type=vxlan", f'options:local_ip="{local}"',
            f'options:remote_ip="{remote}"', f"options:key={vni}",
        )  # fmt: skip
        ip("-n", self.namespace, "link", "set", "over", "up")
        address(self.namespace, "over", *addresses)


@contextlib.contextmanager
def switch(namespace: str, folder: Path) -> Iterator[Switch]:
    """It runs, with nothing in it yet."""
    folder.mkdir()
    home = {name: str(folder) for name in ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR")}
    made = Switch(namespace, folder)
    env = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"} | home
    subprocess.run(["ovsdb-tool", "create", folder / "conf.db", SCHEMA], check=True, env=env, capture_output=True)
    base = [f"--log-file={folder}/ovs.log", "-vconsole:off", "-vsyslog:off"]
    with (
        background(
            namespace, "env", *(f"{key}={value}" for key, value in home.items()), "ovsdb-server", folder / "conf.db",
            f"--remote=p{made.unix}", f"--unixctl={folder}/db.ctl", *base,
        ),
        background(
            namespace, "env", *(f"{key}={value}" for key, value in home.items()), "ovs-vswitchd", made.unix,
            f"--unixctl={folder}/switch.ctl", *base,
        ),
    ):  # fmt: skip
        until("the database is there", (folder / "db.sock").exists)  # and soon listens: --retry
        made.control("--no-wait", "init")
        until("the switch is there", (folder / "switch.ctl").exists)
        yield made
