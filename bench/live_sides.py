"""Who stands beside whom in bench/live.py: paths between two stations, each in network namespaces of its own.

    station ── host ── wire ── host ── station          overlays: the host on the right is the kernel's, or ours as well
    client ── director ── server                        address translation

A ``Lab`` is one turn of a side: what it made goes at its end, and what a bench that was killed left behind goes at the
next one's start.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import vxlanfast

#: Seconds that a path may take to come up, and a program to end, on a busy machine.
PATIENCE_S = 30.0
#: Of namespaces: whose bench made it, and which one.
TAG = "vfbench{}-{}"
VNI, MTU = 42, 1450
#: Of hosts on the wire; of our VTEPs where they are behind a TAP device; of stations.
HERE, THERE, BEHIND, BEYOND = "192.0.2.1", "192.0.2.2", "198.51.100.1", "203.0.113.1"
STATION, OTHER = "10.0.9.3", "10.0.9.4"
#: Of translations: the published address, the client's, the address that servers see, and the server's.
PUBLISHED, CLIENT, INNER, SERVER = "198.51.100.1", "198.51.100.2", "10.0.9.1", "10.0.9.2"
PORTS = 7000, 7009
#: What leaves a veth whole: no super-frames, and for who reads frames from it, no checksums to be filled in.
NO_SUPER = tuple(
    f"{name} off".split()
    for name in ("tso", "gso", "tx-udp-segmentation", "tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation")
)  # fmt: skip
OVS_SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None)


class CannotError(Exception):
    """A side cannot be had here, or failed; why, in one line."""


@dataclass(slots=True)
class Ends:
    """A path that is up: ``left`` and ``right`` are namespaces, addresses those to call them by; ``at`` is where the
    right one listens. ``daemons``: processes that forward. ``cpus``: where load may run."""

    left: str
    right: str
    left_address: str
    right_address: str
    at: str
    daemons: list[int] = field(default_factory=list)
    cpus: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Side:
    """``build`` makes its path in a Lab. ``pinned``: the forwarder has a core of its own, and load the others.
    ``plain``: nothing on the wire or in a TAP is longer than a packet. ``both``: ours at both ends. ``job``: "overlay"
    or "nat"."""

    key: str
    name: str
    build: Callable[[Lab, Side], Ends]
    job: str = "overlay"
    pinned: bool = False
    plain: bool = False
    ours: bool = False
    both: bool = False
    underlay: str = ""


class Lab:
    """A turn of a side: namespaces and processes, gone at the end whatever happens."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=TAG.format(os.getpid(), "")))
        self._made: list[str] = []
        self._running: list[subprocess.Popen[str]] = []
        self.all_cpus = frozenset(os.sched_getaffinity(0))

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._running):
            end(process)
        for name in self._made:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def namespaces(self, letters: str) -> list[str]:
        """New ones, with ``lo`` up."""
        names = [TAG.format(os.getpid(), letter) for letter in letters]
        for name in names:
            self._made.append(name)
            run(["ip", "netns", "add", name])
            self.ip(name, "link set lo up")
        return names

    def ip(self, namespace: str, commands: str) -> None:
        """Commands of ip, a line each."""
        done = subprocess.run(
            ["ip", "-n", namespace, "-batch", "-"], input=commands, capture_output=True, text=True, check=False,
            timeout=PATIENCE_S,
        )  # fmt: skip
        if done.returncode:
            raise CannotError(f"ip: {(done.stderr or done.stdout).strip().splitlines()[0]}")

    def run(
        self, namespace: str, *command: object, timeout: float = PATIENCE_S, cpus: Iterable[int] = (), text: str = ""
    ) -> str:
        """What a program in a namespace says. CannotError: it failed."""
        return run(["ip", "netns", "exec", namespace, *map(str, command)], timeout=timeout, cpus=cpus, text=text)

    def start(
        self, namespace: str, *command: object, cpus: Iterable[int] = (), log: Path | None = None,
        env: dict[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """A program that goes on; its output goes to ``log`` or a pipe."""
        out = log.open("a") if log is not None else subprocess.PIPE
        try:
            process = subprocess.Popen(
                ["ip", "netns", "exec", namespace, *map(str, command)], stdout=out, stderr=subprocess.STDOUT, text=True,
                stdin=subprocess.DEVNULL, preexec_fn=_preparing(cpus), env=_environment() | (env or {}),
            )  # fmt: skip
        finally:
            if log is not None:
                out.close()  # type: ignore[union-attr]
        self._running.append(process)
        return process

    def until(self, what: str, check: Callable[[], object]) -> None:
        """Wait for it. CannotError: it did not come."""
        limit = time.monotonic() + PATIENCE_S
        while not check():
            if time.monotonic() > limit:
                raise CannotError(f"not within {PATIENCE_S:.0f} s: {what}")
            time.sleep(0.02)

    def node(self, namespace: str, config: str) -> int:
        """``vxlanfast node`` that is up: its process."""
        file, log = self.folder / f"{namespace}.toml", self.folder / f"{namespace}.log"
        file.write_text(config)
        process = self.start(
            namespace, sys.executable, "-m", "vxlanfast", "node", "-c", file, "--control", "off", log=log
        )

        def is_up() -> bool:
            said = log.read_text()
            if process.poll() is not None:
                raise CannotError(f"the node ended: {(said.strip().splitlines() or ['?'])[-1]}")
            return "node up" in said

        self.until("the node is up", is_up)
        return process.pid

    def answers(self, ends: Ends) -> Ends:
        """As soon as the path carries packets, of whatever size, it is ready."""
        for size in (56, 1400):
            ping = ["ip", "netns", "exec", ends.left, "ping", "-q", "-c1", "-W1", f"-s{size}", ends.right_address]
            self.until(f"{ends.right_address} answers", partial(succeeds, ping))
        ends.cpus = ends.cpus or self.all_cpus
        return ends

    def forwarder_cpu(self) -> int:
        """The core that a pinned forwarder has."""
        if len(self.all_cpus) < 2:
            raise CannotError("pinning needs two cores")
        return max(self.all_cpus)

    def others(self) -> frozenset[int]:
        """Cores that are not the forwarder's."""
        return self.all_cpus - {self.forwarder_cpu()}


def _environment() -> dict[str, str]:
    """Processes find the package that this one has."""
    root = str(Path(vxlanfast.__file__).resolve().parent.parent)
    return {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}


def _preparing(cpus: Iterable[int]) -> Callable[[], None]:
    """In the child: it has these cores, and goes when this process does."""
    chosen, parent = frozenset(cpus), os.getpid()

    def prepare() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        if chosen:
            os.sched_setaffinity(0, chosen)

    return prepare


def run(command: list[str], *, timeout: float = PATIENCE_S, cpus: Iterable[int] = (), text: str = "") -> str:
    """What a program says. CannotError: it failed, or is not there."""
    if shutil.which(command[0]) is None:
        raise CannotError(f"{command[0]} is not installed")
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, preexec_fn=_preparing(cpus), check=False,
            input=text,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise CannotError(f"{' '.join(command[:8])}: no end within {timeout:.0f} s") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["?"]
        raise CannotError(f"{' '.join(command[4:7] if command[0] == 'ip' else command[:2])}: {said[-1]}")
    return done.stdout


def succeeds(command: list[str]) -> bool:
    """Whether it ends well."""
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def end(process: subprocess.Popen[str]) -> None:
    """Ask it to end, and make it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def sweep() -> None:
    """Namespaces and folders of benches that are no more."""

    def dead(folder: str) -> list[str]:
        with suppress(OSError):
            found = [(name, re.match(TAG.format(r"(\d+)", ""), name)) for name in os.listdir(folder)]
            return [name for name, its in found if its and not os.path.exists(f"/proc/{its[1]}")]
        return []

    for name in dead("/run/netns"):
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    for name in dead(tempfile.gettempdir()):
        shutil.rmtree(Path(tempfile.gettempdir(), name), ignore_errors=True)


def need(*programs: str) -> None:
    """CannotError where one is missing."""
    for program in programs:
        if shutil.which(program) is None:
            raise CannotError(f"{program} is not installed")


def whole(lab: Lab, namespace: str, device: str, *, checksums: bool = False) -> None:
    """Nothing longer than a packet leaves the device; ``checksums``: and none that lacks one."""
    need("ethtool")
    changes = [("tx", "off")] if checksums else NO_SUPER
    lab.run(namespace, "ethtool", "-K", device, *(word for change in changes for word in change))


# Overlays.


def cable(lab: Lab, side: Side) -> tuple[str, str, str, str]:
    """Two hosts with a wire, and a station behind each: left host, right host, left station, right station."""
    here, there, left, right = lab.namespaces("abst")
    lab.ip(here, f"link add wire type veth peer name wire netns {there}")
    for host, address in ((here, HERE), (there, THERE)):
        lab.ip(host, f"addr add {address}/24 dev wire\nlink set wire up")
        if side.plain:
            whole(lab, host, "wire")
    return here, there, left, right


def leg(lab: Lab, host: str, station: str, address: str) -> None:
    """A station's ``eth0``, whose other end is the host's ``leg``."""
    lab.ip(host, f"link add leg mtu {MTU} type veth peer name eth0 mtu {MTU} netns {station}\nlink set leg up")
    lab.ip(station, f"addr add {address}/24 dev eth0\nlink set eth0 up")


def kernel_end(lab: Lab, host: str, station: str, local: str, remote: str, address: str) -> None:
    """A vxlan device, a bridge, and a station's cable."""
    leg(lab, host, station, address)
    lab.ip(
        host,
        f"link add vx mtu {MTU} type vxlan id {VNI} dstport 4789 local {local} remote {remote} dev wire\n"
        "link add hub type bridge\nlink set vx master hub\nlink set leg master hub\nlink set vx up\nlink set hub up",
    )


def overlay(left: str, right: str) -> Ends:
    """Stations as ends."""
    return Ends(left, right, STATION, OTHER, OTHER)


def direct(lab: Lab, side: Side) -> Ends:
    """The wire, and nothing else."""
    left, right = lab.namespaces("st")
    lab.ip(left, f"link add eth0 type veth peer name eth0 netns {right}")
    for station, address in ((left, STATION), (right, OTHER)):
        lab.ip(station, f"addr add {address}/24 dev eth0\nlink set eth0 up")
    return lab.answers(overlay(left, right))


def kernel(lab: Lab, side: Side) -> Ends:
    """The kernel at both ends. There is nobody to pin: it forwards where its packets are sent and taken."""
    here, there, left, right = cable(lab, side)
    kernel_end(lab, here, left, HERE, THERE, STATION)
    kernel_end(lab, there, right, THERE, HERE, OTHER)
    return lab.answers(overlay(left, right))


def toml(value: bool) -> str:
    return str(value).lower()


def ours(lab: Lab, side: Side) -> Ends:
    """The live node, its station behind a TAP device."""
    if not os.path.exists("/dev/net/tun"):
        raise CannotError("there is no /dev/net/tun")
    here, there, left, right = cable(lab, side)
    near, far = HERE, THERE
    if side.underlay == "tap":  # the hosts route to what is behind their TAPs
        near, far = BEHIND, BEYOND if side.both else THERE
        for host, vtep, via in ((here, far, THERE), (there, near, HERE)):
            lab.run(host, "sysctl", "-qw", "net.ipv4.ip_forward=1")
            if vtep != via:
                lab.ip(host, f"route add {vtep} via {via}")
    ends = overlay(left, right)
    if side.both:
        ends.daemons.append(our_end(lab, side, there, right, far, near, OTHER))
    else:
        kernel_end(lab, there, right, far, near, OTHER)
    ends.daemons.append(our_end(lab, side, here, left, near, far, STATION))
    ends.cpus = lab.others() if side.pinned else frozenset()
    return lab.answers(ends)


def our_end(lab: Lab, side: Side, host: str, station: str, local: str, remote: str, address: str) -> int:
    """A node, and its station's TAP: the process."""
    return lab.node(host, f"""
[node]
vtep = "{local}"

[live]
underlay = "{side.underlay}"
offload = {toml(not side.plain)}
cpu = {lab.forwarder_cpu() if side.pinned else -1}

[[live.tap]]
port = "eth0"
namespace = "{station}"
offload = {toml(not side.plain)}

[[network]]
name = "web"
vni = {VNI}
subnet = "10.0.9.0/24"

[[network.peer]]
vtep = "{remote}"

[[network.endpoint]]
port = "eth0"
ip = "{address}"
""")  # fmt: skip


def open_vswitch(lab: Lab, side: Side) -> Ends:
    """Open vSwitch with its userspace datapath. It takes frames as they are: whole, with their checksums."""
    need("ovsdb-tool", "ovsdb-server", "ovs-vswitchd", "ovs-vsctl", "ethtool")
    if not OVS_SCHEMA.exists():
        raise CannotError(f"there is no {OVS_SCHEMA}")
    here, there, left, right = cable(lab, side)
    kernel_end(lab, there, right, THERE, HERE, OTHER)
    leg(lab, here, left, STATION)
    whole(lab, left, "eth0", checksums=True)
    for host in (here, there):
        whole(lab, host, "wire", checksums=True)
    folder = lab.folder
    home = dict.fromkeys(("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"), str(folder))
    run(["ovsdb-tool", "create", f"{folder}/conf.db", str(OVS_SCHEMA)])
    base = ("-vconsole:off", "-vsyslog:off", f"--log-file={folder}/ovs.log")
    log = folder / "out"
    lab.start(
        here, "ovsdb-server", f"{folder}/conf.db", f"--remote=punix:{folder}/db.sock", f"--unixctl={folder}/db.ctl",
        *base, env=home, log=log,
    )  # fmt: skip
    lab.until("the switch's database is there", (folder / "db.sock").exists)
    cpus = {lab.forwarder_cpu()} if side.pinned else ()
    switch = lab.start(
        here, "ovs-vswitchd", f"unix:{folder}/db.sock", f"--unixctl={folder}/switch.ctl", *base, env=home, log=log,
        cpus=cpus,
    )  # fmt: skip
    lab.ip(here, f"addr del {HERE}/24 dev wire")
    lab.run(
        here, "ovs-vsctl", f"--db=unix:{folder}/db.sock", "--timeout=20", "add-br", "phy", "--", "set", "bridge", "phy",
        "datapath_type=netdev", "--", "add-port", "phy", "wire", "--", "add-br", "over", "--", "set", "bridge", "over",
        "datapath_type=netdev", "--", "add-port", "over", "leg", "--", "add-port", "over", "vx", "--", "set",
        "interface", "vx", "type=vxlan", f"options:local_ip={HERE}", f"options:remote_ip={THERE}", f"options:key={VNI}",
    )  # fmt: skip
    lab.ip(here, f"link set phy up\naddr add {HERE}/24 dev phy\nlink set over up")
    ends = overlay(left, right)
    ends.daemons = [switch.pid]
    ends.cpus = lab.others() if side.pinned else frozenset()
    return lab.answers(ends)


# Translations of addresses.


def translated(client: str, server: str) -> Ends:
    """Ends of which one calls the director."""
    return Ends(client, server, CLIENT, PUBLISHED, SERVER)


def roomy(lab: Lab, ends: Ends) -> Ends:
    """A client whose ports last; connections wait in front of the server and not in front of its queue."""
    lab.run(ends.left, "sysctl", "-qw", "net.ipv4.ip_local_port_range=10000 65000")
    lab.run(ends.right, "sysctl", "-qw", "net.core.somaxconn=4096", "net.ipv4.tcp_max_syn_backlog=8192")
    return ends


def untranslated(lab: Lab, side: Side) -> Ends:
    """The wire, and nothing else."""
    return roomy(lab, direct(lab, side))


def nftables(lab: Lab, side: Side) -> Ends:
    """A director that is the kernel's: DNAT and masquerade, and conntrack below them."""
    need("nft")
    director, client, server = lab.namespaces("dct")
    for name, other, here, there in (("in", client, PUBLISHED, CLIENT), ("out", server, INNER, SERVER)):
        lab.ip(
            director,
            f"link add {name} type veth peer name eth0 netns {other}\nlink set {name} up\n"
            f"addr add {here}/24 dev {name}",
        )
        lab.ip(other, f"link set eth0 up\naddr add {there}/24 dev eth0")
    lab.run(director, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    lab.run(director, "nft", "-f", "-", text=f"""
table ip nat {{
    chain prerouting {{
        type nat hook prerouting priority dstnat
        ip daddr {PUBLISHED} meta l4proto {{ tcp, udp }} th dport {PORTS[0]}-{PORTS[1]} dnat to {SERVER}
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat
        oifname "out" masquerade
    }}
}}
""")  # fmt: skip
    return lab.answers(roomy(lab, translated(client, server)))


def mesh(lab: Lab, side: Side) -> Ends:
    """A director that is ours: a published port, rr over one server, masqueraded; both behind TAP devices."""
    if not os.path.exists("/dev/net/tun"):
        raise CannotError("there is no /dev/net/tun")
    director, client, server = lab.namespaces("dct")
    published = "\n".join(f"""
[[service.publish]]
network = "clients"
published = "{PORTS[0]}-{PORTS[1]}"
protocol = "{protocol}"
""" for protocol in ("tcp", "udp"))  # fmt: skip
    networks = "\n".join(f"""
[[live.tap]]
port = "{name}"
name = "eth0"
namespace = "{namespace}"
offload = {toml(not side.plain)}

[[network]]
name = "{name}s"
lan = true
domain = "mesh"
subnet = "{here.rpartition('.')[0]}.0/24"
gateway = "{here}"

[[network.endpoint]]
port = "{name}"
ip = "{there}"
""" for name, namespace, here, there in (
        ("client", client, PUBLISHED, CLIENT), ("server", server, INNER, SERVER),
    ))  # fmt: skip
    pid = lab.node(director, f"""
[node]
vtep = "127.0.0.1"
mtu = 0

[live]
underlay = "socket"
cpu = {lab.forwarder_cpu() if side.pinned else -1}
{networks}
[[service]]
name = "web"
servers_in = "servers"
masquerade = "{INNER}"
{published}
[[service.server]]
address = "{SERVER}"
""")  # fmt: skip
    ends = translated(client, server)
    ends.daemons = [pid]
    ends.cpus = lab.others() if side.pinned else frozenset()
    return lab.answers(roomy(lab, ends))


SIDES = (
    Side("direct", "veth, no overlay", direct),
    Side("kernel", "kernel vxlan", kernel),
    Side("kernel-plain", "kernel vxlan, wire without GSO", kernel, plain=True),
    Side("sockets", "ours, sockets", ours, ours=True, underlay="socket"),
    Side("sockets-pinned", "ours, sockets, pinned", ours, ours=True, underlay="socket", pinned=True),
    Side("sockets-plain", "ours, sockets, no GSO/GRO", ours, ours=True, underlay="socket", plain=True),
    Side(
        "sockets-plain-pinned", "ours, sockets, no GSO/GRO, pinned", ours, ours=True, underlay="socket", plain=True,
        pinned=True,
    ),
    Side("tap", "ours, TAP with tunnel GSO", ours, ours=True, underlay="tap"),
    Side("tap-pinned", "ours, TAP with tunnel GSO, pinned", ours, ours=True, underlay="tap", pinned=True),
    Side("sockets-both", "ours at both ends, sockets", ours, ours=True, underlay="socket", both=True),
    Side("tap-both", "ours at both ends, TAP with tunnel GSO", ours, ours=True, underlay="tap", both=True),
    Side("ovs", "Open vSwitch, userspace", open_vswitch),
    Side("ovs-pinned", "Open vSwitch, userspace, pinned", open_vswitch, pinned=True),
    Side("nat-direct", "veth, no translation", untranslated, job="nat"),
    Side("nft", "nftables, DNAT and masquerade", nftables, job="nat"),
    Side("nat", "ours, rr and masquerade", mesh, job="nat", ours=True),
    Side("nat-pinned", "ours, rr and masquerade, pinned", mesh, job="nat", ours=True, pinned=True),
)  # fmt: skip
#: What ratios are to.
BASELINES = {"overlay": "kernel", "nat": "nft"}
