from typing import Self

from typing_extensions import disjoint_base

from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.io.edge import LiveEdge

@disjoint_base
class TapEdge(LiveEdge):
    def __new__(cls, fd: int, *, offload: bool = False, macs: bytes | None = None) -> Self: ...
    @property
    def offload(self) -> bool: ...
    def write(self, batch: PacketBatch) -> tuple[int, int]: ...
