from collections.abc import Iterable
from typing import Self

from typing_extensions import disjoint_base

from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.table.dest import DestTable
from vxlanfast._ext.table.fragments import FragmentTable
from vxlanfast._ext.table.net import NetTable
from vxlanfast._ext.verdict import Verdict

@disjoint_base
class Receive:
    def __new__(
        cls,
        nets: NetTable,
        dests: DestTable,
        *,
        local: Iterable[bytes],
        ports: Iterable[int],
        underlay: int = 0,
        zero_csum6: bool = False,
        fragments: FragmentTable | None = None,
    ) -> Self: ...
    fragments: FragmentTable | None
    def process(self, batch: PacketBatch) -> PacketBatch: ...
    @property
    def not_udp(self) -> int: ...
    def counters(self) -> dict[Verdict, int]: ...
