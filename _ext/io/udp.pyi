from collections.abc import Sequence

from vxlanfast._ext.io.edge import LiveEdge

class UdpEdge(LiveEdge):
    def __init__(
        self, fd: int, fds: Sequence[int], *, address: bytes, port: int, mtu: int = 0,
        gro: bool = True, gso: bool = True,
    ) -> None: ...
    def also(self, other: UdpEdge) -> None: ...
