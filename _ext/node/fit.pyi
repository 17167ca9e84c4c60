from typing import Self

from typing_extensions import disjoint_base

from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.table.dest import DestTable
from vxlanfast._ext.table.net import NetTable
from vxlanfast._ext.verdict import Verdict

@disjoint_base
class Fit:
    errors: int
    fragmented: int
    fragments: int
    clamped: int
    idents: int
    def __new__(cls, nets: NetTable, dests: DestTable, *, seed: int = 0) -> Self: ...
    def process(self, batch: PacketBatch) -> PacketBatch: ...
    def counters(self) -> dict[Verdict, int]: ...
