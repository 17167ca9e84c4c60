from typing import Self

from typing_extensions import disjoint_base

from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.table.conn import ConnTable
from vxlanfast._ext.table.dest import DestTable
from vxlanfast._ext.table.fdb import FdbTable
from vxlanfast._ext.table.neigh import NeighTable
from vxlanfast._ext.table.net import NetTable
from vxlanfast._ext.verdict import Verdict

@disjoint_base
class Route:
    answered: int
    errors: int
    def __new__(
        cls, nets: NetTable, dests: DestTable, fdb: FdbTable, neigh: NeighTable, conns: ConnTable | None = None
    ) -> Self: ...
    def process(self, batch: PacketBatch) -> PacketBatch: ...
    def counters(self) -> dict[Verdict, int]: ...
