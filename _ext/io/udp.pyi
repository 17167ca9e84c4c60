from collections.abc import Sequence
from typing import Self

from typing_extensions import disjoint_base

from vxlanfast._ext.io.edge import LiveEdge

@disjoint_base
class UdpEdge(LiveEdge):
    def __new__(
        cls, fd: int, fds: Sequence[int], *, address: bytes, port: int, mtu: int = 0, gso: bool = True
    ) -> Self: ...
    def also(self, other: UdpEdge) -> None: ...
