from typing import Self

from typing_extensions import disjoint_base

from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.table.tunnels import TunnelTable

@disjoint_base
class Survey:
    def __new__(cls, table: TunnelTable | None = None, *, by_port: bool = False) -> Self: ...
    def process(self, batch: PacketBatch, *, number: bool = False) -> PacketBatch: ...
    @property
    def table(self) -> TunnelTable: ...
