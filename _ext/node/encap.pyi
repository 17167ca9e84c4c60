from typing import Self

from typing_extensions import disjoint_base

from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.verdict import Verdict

@disjoint_base
class Encap:
    def __new__(
        cls,
        *,
        vni: int,
        src: bytes,
        dst: bytes,
        smac: bytes,
        dmac: bytes,
        dport: int = 4789,
        sport: int = 0,
        ttl: int = 64,
        dscp: int | None = 0,
        df: bool = False,
        udp_csum: bool = False,
        mtu: int = 0,
        mtu_policy: str = "warn",
        seed: int = 0,
    ) -> Self: ...
    def process(self, batch: PacketBatch, ordinal: int = 0) -> PacketBatch: ...
    def count(self, verdict: int) -> int: ...
    def counters(self) -> dict[Verdict, int]: ...
    @property
    def over_mtu(self) -> int: ...
    @property
    def fragments(self) -> int: ...
    @property
    def no_csum(self) -> int: ...
