from typing import Self

from typing_extensions import disjoint_base

from vxlanfast._ext.table.dest import DestTable
from vxlanfast._ext.table.group import GroupTable
from vxlanfast._ext.table.net import NetTable

@disjoint_base
class Snoop:
    groups: GroupTable
    def __new__(cls, nets: NetTable, dests: DestTable, groups: GroupTable) -> Self: ...
