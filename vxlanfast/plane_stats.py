"""What a plane has counted, as frozen data: sums that add up exactly."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vxlanfast._ext.verdict import Rule, Verdict

#: A place: the VNI, and a port's name or a VTEP's address.
Place = tuple[int, str]


@dataclass(frozen=True, slots=True)
class Traffic:
    """What came from a place and what went there: frames, and bytes of them without outer headers.

    ``drops`` are of what came (``rx_packets`` has them in it), ``tx_drops`` of what was to go there (``tx_packets`` has
    not).
    """

    rx_packets: int = 0
    rx_bytes: int = 0
    tx_packets: int = 0
    tx_bytes: int = 0
    drops: int = 0
    tx_drops: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.rx_packets + other.rx_packets, self.rx_bytes + other.rx_bytes, self.tx_packets + other.tx_packets,
            self.tx_bytes + other.tx_bytes, self.drops + other.drops, self.tx_drops + other.tx_drops,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class NetworkTraffic:
    """A network's: what its places have together, and what concerns none of them.

    ``strangers``: packets from VTEPs that are no members. ``flooded``: frames that went to everybody or to a group,
    ``copies``: what was made of them, ``limited``: those over the rate.
    """

    traffic: Traffic
    strangers: int
    flooded: int
    copies: int
    limited: int


@dataclass(frozen=True, slots=True)
class MeshCounts:
    """How many ``connections`` there are now; how many were ``opened``, ``expired`` and ``evicted`` (to make room for
    others) since the spec was applied. ``forged``: TCP's RSTs, FINs and ACKs that nobody of the connection can have
    sent; ``errors``: packets that became ICMP errors; ``resets``: rows that tell the ends of a connection that it is
    over.
    """

    connections: int = 0
    opened: int = 0
    expired: int = 0
    evicted: int = 0
    forged: int = 0
    errors: int = 0
    resets: int = 0


@dataclass(frozen=True, slots=True)
class PlaneStats:
    """An account: ``packets`` + ``mesh.resets`` = ``passed`` + sum(``drops``), and
    ``sent`` = ``passed`` - ``flooded`` + ``copies`` - ``fragmented`` + ``fragments`` - sum(``send_drops``).

    ``passed`` counts a flooded frame once, ``flooded`` says how many were, ``copies`` what was made of them; so it is
    with ``fragmented`` and ``fragments``. ``drops`` are of frames that came, ``send_drops`` of rows on their way out.
    ``answered``: ARP, neighbour discovery and pings; ``errors``: frames that became ICMP errors to their senders;
    ``clamped``: SYNs whose MSS was lowered. ``rules``: rows that were sent, by why they went where they went. ``mesh``:
    connections of services. ``fdb``: what learning did.
    """

    packets: int
    passed: int
    sent: int
    flooded: int
    copies: int
    answered: int
    errors: int
    fragmented: int
    fragments: int
    clamped: int
    drops: Mapping[Verdict, int]
    send_drops: Mapping[Verdict, int]
    rules: Mapping[Rule, int]
    ports: Mapping[str, Traffic]
    peers: Mapping[Place, Traffic]
    networks: Mapping[int, NetworkTraffic]
    mesh: MeshCounts = MeshCounts()
    fdb: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Drift:
    """Where tables differ from the spec: entries it wants and that are not there, or other ones, and authoritative ones
    that it does not know."""

    missing: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.unknown)


def authoritative(stations: Iterable[Mapping[str, Any]], neighbours: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Set entries as one line each, in the words of ``bridge fdb`` and ``ip neigh``."""
    for row in stations:
        if row["state"] == "static":
            yield f"fdb {row['mac']} vni {row['vni']} at {row['place']}"
    for row in neighbours:
        gateway = " gateway" if row["gateway"] else ""
        yield f"neigh {row['address']} vni {row['vni']} lladdr {row['mac']} at {row['place'] or 'any'}{gateway}"
