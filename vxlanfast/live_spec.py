"""What a live node is beside its plane, as frozen data: devices, underlay, loop. ``[live]`` of ``node.toml``."""

from __future__ import annotations

from dataclasses import dataclass

from vxlanfast.addr import parse_ip
from vxlanfast.checks import address, among, device_name, rule_error
from vxlanfast.errors import SpecError

UNDERLAYS = ("auto", "socket", "tap", "packet")
#: Of a TAP as underlay, where none is named.
DEVICE = "vf-underlay"


@dataclass(frozen=True, slots=True, kw_only=True)
class TapSpec:
    """The TAP device of a ``port``. Ports without one get a device of their own name, in the node's network namespace.

    ``name``: of the device ("": the port's). ``namespace``: its own, a name in /run/netns or a path ("": the node's).
    ``attach``: it exists already, and stays as it is when the node ends. ``address``: with a prefix; none: those of the
    port's endpoint, with their subnet's. ``route``: the default route goes by the network's gateway there. ``mtu``: 0
    for what fits the tunnels. ``offload``: super-frames (TSO, USO) where the kernel has them.
    """

    port: str
    name: str = ""
    namespace: str = ""
    attach: bool = False
    address: tuple[str, ...] = ()
    route: bool = False
    mtu: int = 0
    offload: bool = True

    def __post_init__(self) -> None:
        device_name("name", self.device)
        if self.mtu:
            among("mtu", self.mtu, 68, 65535)
        for text in self.address:
            host, slash, prefix = text.partition("/")
            most = len(address("address", host)) * 8
            if not slash or not prefix.isdigit() or int(prefix) > most:
                raise rule_error("address", text, f"an address with its prefix, such as {host}/24")

    @property
    def device(self) -> str:
        """The device's name."""
        return self.name or self.port


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveSpec:
    """How a node meets its machine.

    ``underlay``: "socket" (UDP sockets at the VTEP's address, no privilege needed), "tap" (a TAP device ``device``
    with tunnel offloads, the kernel routes beyond it by ``device_address``, its own address there), "packet" (a packet
    socket on the interface ``device``, by default the one that has the VTEP's address: beside whatever has the port),
    "auto": the first of them that can be had. ``spread``: source ports that flows are spread over with sockets.
    ``receive_buffer``: bytes that wait in front of a busy node. ``offload``: sockets take and give many datagrams as
    one where the kernel has that (UDP_SEGMENT, UDP_GRO).

    ``cpu``: the core that forwards, -1 for any. ``busy_poll_us``: look for packets so long before sleeping.
    ``drain_s``: at the end, open connections may go on so long. ``control``: path of the control socket ("": the
    default, "off": none). ``metrics``: address and port of a Prometheus endpoint ("": none). ``upstream``: resolvers
    that names outside go to (none: /etc/resolv.conf's). ``tap``: see TapSpec.
    """

    underlay: str = "auto"
    device: str = DEVICE
    device_address: tuple[str, ...] = ()
    spread: int = 16
    receive_buffer: int = 1 << 21
    offload: bool = True
    cpu: int = -1
    busy_poll_us: int = 0
    drain_s: int = 0
    control: str = ""
    metrics: str = ""
    upstream: tuple[str, ...] = ()
    tap: tuple[TapSpec, ...] = ()

    def __post_init__(self) -> None:
        if self.underlay not in UNDERLAYS:
            raise rule_error("underlay", self.underlay, ", ".join(UNDERLAYS))
        device_name("device", self.device)
        among("spread", self.spread, 1, 64)
        among("receive_buffer", self.receive_buffer, 1 << 12, 1 << 30)
        if not self.offload and self.underlay == "tap":
            raise rule_error("offload", self.offload, 'underlay "tap" is there for its offloads: take "socket"')
        among("cpu", self.cpu, -1, 4095)
        among("busy_poll_us", self.busy_poll_us, 0, 1_000_000)
        among("drain_s", self.drain_s, 0, 3600)
        for text in self.upstream:
            address("upstream", text)
        if self.metrics:
            host, colon, port = self.metrics.rpartition(":")
            if not colon or not port.isdigit() or int(port) > 65535:
                raise rule_error("metrics", self.metrics, "an address and a port, such as 127.0.0.1:9475")
            parse_ip(host.strip("[]"))
        seen: set[str] = set()
        for tap in self.tap:
            if tap.port in seen:
                raise rule_error("port", tap.port, "two [[live.tap]] have it")
            seen.add(tap.port)
        places = [(tap.namespace, tap.device) for tap in self.tap]
        for place in places:
            if places.count(place) > 1:
                raise SpecError(f"tap: two are the device {place[1]!r} in the same namespace")
