from typing import Self

from typing_extensions import disjoint_base

from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.verdict import Verdict

@disjoint_base
class Parse:
    def __new__(cls, *, seed: int = 0) -> Self: ...
    def process(self, batch: PacketBatch) -> PacketBatch: ...
    def counters(self) -> dict[Verdict, int]: ...
