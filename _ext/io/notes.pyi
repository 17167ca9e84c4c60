from typing import Self

from typing_extensions import disjoint_base

from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.verdict import Verdict

PEN: int
COMMENT_PREFIX: bytes

@disjoint_base
class Annotate:
    def __new__(cls, *, comment: bool = True) -> Self: ...
    def remember(self, batch: PacketBatch) -> PacketBatch: ...
    def process(self, batch: PacketBatch) -> PacketBatch: ...

@disjoint_base
class Restore:
    def process(self, batch: PacketBatch) -> PacketBatch: ...
    def counters(self) -> dict[Verdict, int]: ...
    @property
    def restored(self) -> int: ...
    @property
    def missing(self) -> int: ...
