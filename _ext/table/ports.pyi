from typing import Self

from typing_extensions import disjoint_base

from vxlanfast._ext.table.conn import ConnTable

@disjoint_base
class PortPools:
    def __new__(cls, conns: ConnTable, *, seed: int = 0) -> Self: ...
