from typing import Self

from typing_extensions import disjoint_base

from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.verdict import Verdict

PEN: int
COMMENT_PREFIX: bytes

@disjoint_base
class Remember:
    def remember(self, batch: PacketBatch) -> PacketBatch: ...
    def put_back(self, batch: PacketBatch) -> PacketBatch: ...

@disjoint_base
class Annotate(Remember):
    def __new__(cls, *, comment: bool = True) -> Self: ...
    def process(self, batch: PacketBatch) -> PacketBatch: ...

@disjoint_base
class Restore:
    def process(self, batch: PacketBatch) -> PacketBatch: ...
    def counters(self) -> dict[Verdict, int]: ...
    @property
    def restored(self) -> int: ...
    @property
    def missing(self) -> int: ...
