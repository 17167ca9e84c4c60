from collections.abc import Sequence
from typing import Self

from typing_extensions import disjoint_base

from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.node.encap import Encap
from vxlanfast._ext.table.dest import DestTable
from vxlanfast._ext.verdict import Rule, Verdict

@disjoint_base
class Send:
    n_tunnels: int
    @property
    def over_mtu(self) -> int: ...
    def __new__(cls, dests: DestTable, tunnels: Sequence[Encap]) -> Self: ...
    def process(self, batch: PacketBatch) -> PacketBatch: ...
    def rules(self) -> dict[Rule, int]: ...
    def counters(self) -> dict[Verdict, int]: ...
