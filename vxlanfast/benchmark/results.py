"""What was measured, as data: every round of every side, and the medians made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median

MEASURED = "measured"
NOT_INSTALLED = "not installed"
CANNOT = "cannot"
FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One side of one job: ``seconds`` of each round for ``packets``.

    ``packet_len``: bytes a packet has where bytes are counted, record headers included. ``limit_seconds``:
    what moving the bytes took in the same rounds. ``cpu_seconds``: of user and system time, of each round.
    ``measured_packets``: fewer than ``packets`` where the time was scaled up. ``result``: what its output was
    found to be, or why there is none.
    """

    job: str
    size: str
    side: str
    packets: int = 0
    packet_len: float = 0.0
    seconds: tuple[float, ...] = ()
    limit_seconds: tuple[float, ...] = ()
    cpu_seconds: tuple[float, ...] = ()
    measured_packets: int = 0
    state: str = MEASURED
    result: str = ""
    note: str = ""
    version: str = ""

    @property
    def measured(self) -> bool:
        """Whether there is a figure."""
        return bool(self.seconds)

    @property
    def scaled(self) -> bool:
        """Whether fewer packets were measured than the time is given for."""
        return 0 < self.measured_packets < self.packets

    @property
    def median_s(self) -> float:
        """Seconds of the middle round."""
        return median(self.seconds)

    @property
    def mpps(self) -> float:
        """Millions of packets a second, of the middle round."""
        return self.packets / self.median_s / 1e6

    @property
    def mpps_range(self) -> tuple[float, float]:
        """The same of the slowest and of the fastest round."""
        return self.packets / max(self.seconds) / 1e6, self.packets / min(self.seconds) / 1e6

    @property
    def ns_per_packet(self) -> float:
        """Nanoseconds a packet, of the middle round."""
        return self.median_s / self.packets * 1e9

    @property
    def gbytes(self) -> float:
        """Gigabytes a second, of the middle round."""
        return self.mpps * self.packet_len / 1e3

    @property
    def ratio(self) -> float | None:
        """Speed against the limit: the median of the rounds' own ratios."""
        ratios = [limit / own for limit, own in zip(self.limit_seconds, self.seconds, strict=False)]
        return median(ratios) if ratios else None

    @property
    def limit_mpps(self) -> float | None:
        """The limit's own speed, of its middle round."""
        return self.packets / median(self.limit_seconds) / 1e6 if self.limit_seconds else None

    def as_dict(self) -> dict[str, object]:
        """Everything, for JSON."""
        made: dict[str, object] = {}
        if self.measured:
            made = {
                "median_s": self.median_s, "mpps": self.mpps, "ns_per_packet": self.ns_per_packet,
                "gigabytes_per_s": self.gbytes, "ratio": self.ratio, "limit_mpps": self.limit_mpps,
            }  # fmt: skip
        return {**asdict(self), **made}


@dataclass(frozen=True, slots=True)
class Report:
    """All figures of a run, the machine they are of, and how they were taken."""

    machine: Mapping[str, str]
    settings: Mapping[str, object]
    figures: Sequence[Figure] = field(default_factory=list)

    def groups(self) -> dict[tuple[str, str], list[Figure]]:
        """Figures by (job, size), as they came."""
        groups: dict[tuple[str, str], list[Figure]] = {}
        for figure in self.figures:
            groups.setdefault((figure.job, figure.size), []).append(figure)
        return groups

    def as_dict(self) -> dict[str, object]:
        """Everything, for JSON."""
        return {
            "version": 1,
            "machine": dict(self.machine),
            "settings": dict(self.settings),
            "figures": [figure.as_dict() for figure in self.figures],
        }
