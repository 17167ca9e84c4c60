from typing import Self

from typing_extensions import disjoint_base

from vxlanfast._ext.io.arrivals import Arrivals

@disjoint_base
class MirrorSocket(Arrivals):
    def __new__(cls, fd: int, *, snaplen: int = ..., buffer_len: int = ...) -> Self: ...
    def counters(self) -> dict[str, int]: ...
    @property
    def dropped(self) -> int: ...
