from typing import Self

from typing_extensions import disjoint_base

from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.table.fragments import FragmentTable
from vxlanfast._ext.verdict import Verdict

@disjoint_base
class Defrag:
    def __new__(cls, table: FragmentTable | None = None) -> Self: ...
    def process(self, batch: PacketBatch) -> PacketBatch: ...
    def counters(self) -> dict[Verdict, int]: ...
    @property
    def table(self) -> FragmentTable: ...
