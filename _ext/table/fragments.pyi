from typing import Self

from typing_extensions import disjoint_base

@disjoint_base
class FragmentTable:
    def __new__(cls, *, timeout_ns: int = ..., seed: int = 0) -> Self: ...
    def counters(self) -> dict[str, int]: ...
