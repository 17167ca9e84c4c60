from typing import Any, Self

from typing_extensions import Buffer, disjoint_base

from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.node.track import Track
from vxlanfast._ext.table.conn import ConnTable
from vxlanfast._ext.table.dest import DestTable
from vxlanfast._ext.table.fragments import FragmentTable
from vxlanfast._ext.table.net import NetTable
from vxlanfast._ext.table.service import ServiceTable
from vxlanfast._ext.verdict import Verdict

@disjoint_base
class Mesh(Track):
    fragments: FragmentTable
    told: int
    explains: bool
    errors: int
    def __new__(
        cls,
        nets: NetTable,
        dests: DestTable,
        *,
        services: ServiceTable,
        conns: ConnTable,
        exact: bool = False,
        reuse: bool = True,
        forget: bool = False,
        sloppy: bool = False,
        seed: int = 0,
    ) -> Self: ...
    def process(self, batch: PacketBatch) -> PacketBatch: ...
    def decided(self) -> dict[int, dict[str, Any]]: ...
    def remove_server(self, server: int, now_ns: int = 0) -> int: ...
    def take_over(self, other: Mesh) -> None: ...
    def move_returns(self, dests: Buffer) -> None: ...
    def counters(self) -> dict[Verdict, int]: ...
