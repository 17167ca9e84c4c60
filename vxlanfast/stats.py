"""What a run over a capture came to: counts that add up exactly, and the sentences that go with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from vxlanfast._ext.verdict import SENTENCES, Verdict

#: Verdicts that mean "not VXLAN", which ``--other`` decides on; what the strict policy and filters drop is not.
OTHER = (*(v for v in Verdict if 0 < v < Verdict.DROP_RESERVED), Verdict.DROP_GENEVE)
STRICT = tuple(v for v in Verdict if Verdict.DROP_RESERVED <= v <= Verdict.DROP_UDP_NO_CSUM)


def mask(verdicts: tuple[Verdict, ...]) -> int:
    """One bit per verdict."""
    return sum(1 << v for v in verdicts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Packets in = passed + kept + dropped, always; ``dropped`` is the sum of ``drops``, by name of the verdict.

    ``packets``: read. ``passed``: decapsulated or encapsulated. ``kept``: written as they were. ``written``: rows in
    the output (fragments count each); ``written_bytes``: of their frames, as captured, record headers not counted.
    ``input_bytes``: of the input as stored, compressed or not. ``others``: packets that were not VXLAN, kept or not;
    ``unsupported``: of them, those of an unsupported link type; ``strict_drops``: for what only the strict policy
    minds. ``seconds``: of wall time.
    ``warnings``: sentences a person should see. ``fault``: what ended the input early, or None. ``files``: packets in
    each output by its path, of a split.
    """

    verb: str
    packets: int
    passed: int
    kept: int
    drops: Mapping[str, int]
    others: int = 0
    strict_drops: int = 0
    unsupported: int = 0
    written: int
    written_bytes: int
    input_bytes: int | None = None
    seconds: float = 0.0
    interrupted: bool = False
    fault: str | None = None
    warnings: tuple[str, ...] = ()
    details: Mapping[str, int] = field(default_factory=dict)
    files: Mapping[str, int] = field(default_factory=dict)

    @property
    def dropped(self) -> int:
        """Packets that were not written."""
        return sum(self.drops.values())

    @property
    def rate(self) -> float:
        """Packets read a second."""
        return self.packets / self.seconds if self.seconds else 0.0

    def as_dict(self) -> dict[str, object]:
        """Everything, for JSON."""
        return {**asdict(self), "dropped": self.dropped}

    def summary(self) -> str:
        """One line: ``10 packets read, 8 decapsulated, 2 dropped (2 UDP, but not to a VXLAN port)``."""
        parts = [f"{self.packets:,} packet{'' if self.packets == 1 else 's'} read"]
        parts.append(f"{self.passed:,} {_PASSED[self.verb]}")
        if self.kept:
            parts.append(f"{self.kept:,} kept as they were")
        if self.verb != "info" and self.written != self.passed + self.kept:
            parts.append(f"{self.written:,} written")
        if self.dropped:
            reasons = sorted(self.drops.items(), key=lambda item: -item[1])
            told = "; ".join(f"{count:,} {SENTENCES[Verdict[name]]}" for name, count in reasons)
            parts.append(f"{self.dropped:,} dropped ({told})")
        line = ", ".join(parts)
        if self.interrupted:
            line += " [interrupted]"
        return line


_PASSED = {"decap": "decapsulated", "encap": "encapsulated", "restore": "restored", "split": "sorted", "info": "VXLAN"}
