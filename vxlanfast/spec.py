"""What to do, as frozen data: checked when made, and made into live objects by those that do it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vxlanfast.addr import VNI_MAX, mac_of_ip, parse_ip, parse_mac
from vxlanfast.errors import SpecError

if TYPE_CHECKING:
    from vxlanfast._ext.node.encap import Encap

#: UDP destination ports taken for VXLAN: IANA's, and Linux's default from before there was one.
DEFAULT_PORTS = (4789, 8472)
#: UDP destination port given to what we make.
DEFAULT_PORT = 4789
#: Least MTU of an underlay: RFC 791 §3.2 has every host take 576 bytes over IPv4, RFC 8200 §5 1,280 over IPv6.
MTU_MIN = {4: 576, 16: 1280}


def check_port(port: int, what: str = "UDP port") -> int:
    """``port``, or a SpecError that names it."""
    if not 1 <= port <= 65535:
        raise SpecError(f"{what} {port}: 1 to 65535")
    return port


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelSpec:
    """One VXLAN tunnel's outer headers.

    ``src``, ``dst``: addresses of the VTEPs, both IPv4 or both IPv6. ``smac``, ``dmac``: made of the addresses where
    not given. ``sport``: None for a hash of the inner flow into 49152–65535 (RFC 7348 §5). ``dscp``: 0 to 63, or
    "inherit"; ECN is always copied from the inner packet (RFC 6040 §4.1). ``udp_csum``: "auto" is none over IPv4
    (RFC 7348 §5) and a right one over IPv6. ``mtu``: of the underlay, in bytes of IP packet; ``mtu_policy``: "warn",
    "drop" or "fragment" what is over it. ``seed``: of the flow hash.
    """

    vni: int
    src: str
    dst: str
    smac: str | None = None
    dmac: str | None = None
    port: int = DEFAULT_PORT
    sport: int | None = None
    ttl: int = 64
    dscp: int | str = 0
    df: bool = False
    udp_csum: str = "auto"
    mtu: int | None = None
    mtu_policy: str = "warn"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.vni <= VNI_MAX:
            raise SpecError(f"VNI {self.vni}: 0 to {VNI_MAX}")
        src, dst = parse_ip(self.src), parse_ip(self.dst)
        if len(src) != len(dst):
            raise SpecError(f"source {self.src} and destination {self.dst}: one is IPv4, the other IPv6")
        for mac in (self.smac, self.dmac):
            if mac is not None:
                parse_mac(mac)
        check_port(self.port)
        if self.sport is not None:
            check_port(self.sport, "source port")
        if not 1 <= self.ttl <= 255:
            raise SpecError(f"TTL {self.ttl}: 1 to 255")
        if self.dscp != "inherit" and not (isinstance(self.dscp, int) and 0 <= self.dscp <= 63):
            raise SpecError(f"DSCP {self.dscp!r}: 0 to 63, or inherit")
        if self.udp_csum not in ("auto", "on", "off"):
            raise SpecError(f"UDP checksum {self.udp_csum!r}: auto, on or off")
        if self.mtu_policy not in ("warn", "drop", "fragment"):
            raise SpecError(f"MTU policy {self.mtu_policy!r}: warn, drop or fragment")
        if self.mtu is not None and not MTU_MIN[len(src)] <= self.mtu <= 65535:
            raise SpecError(
                f"MTU {self.mtu}: {MTU_MIN[len(src)]} to 65535 over IPv{4 if len(src) == 4 else 6}"
                f" ({self.overhead - 14} bytes of it are headers)"
            )
        if self.df and self.mtu is not None and self.mtu_policy == "fragment":
            raise SpecError("DF forbids to fragment: --df and the MTU policy fragment exclude each other")
        if not 0 <= self.seed < 1 << 64:
            raise SpecError(f"seed {self.seed}: 0 to 2^64-1")

    @property
    def overhead(self) -> int:
        """Bytes of outer headers: 50 over IPv4, 70 over IPv6."""
        return 50 if len(parse_ip(self.src)) == 4 else 70

    @property
    def writes_csum(self) -> bool:
        """Whether outer UDP checksums are computed."""
        return self.udp_csum == "on" or (self.udp_csum == "auto" and self.overhead == 70)


def compile_tunnel(spec: TunnelSpec) -> Encap:
    """The live encapsulation node of a spec."""
    from vxlanfast._ext.node.encap import Encap

    src, dst = parse_ip(spec.src), parse_ip(spec.dst)
    return Encap(
        vni=spec.vni,
        src=src,
        dst=dst,
        smac=parse_mac(spec.smac) if spec.smac else mac_of_ip(src),
        dmac=parse_mac(spec.dmac) if spec.dmac else mac_of_ip(dst),
        dport=spec.port,
        sport=spec.sport or 0,
        ttl=spec.ttl,
        dscp=None if isinstance(spec.dscp, str) else spec.dscp,
        df=spec.df,
        udp_csum=spec.writes_csum,
        mtu=spec.mtu or 0,
        mtu_policy=spec.mtu_policy,
        seed=spec.seed,
    )
