from collections.abc import Sequence
from typing import Any, Self

from typing_extensions import disjoint_base

@disjoint_base
class MatchTable:
    capacity: int
    size: int
    def __new__(cls, *, seed: int = 0) -> Self: ...
    def __len__(self) -> int: ...
    def add(
        self,
        domain: int,
        addr: bytes,
        service: int,
        *,
        proto: int = 0,
        port: int = 0,
        last: int | None = None,
        target: int = 0,
        sources: Sequence[tuple[bytes, int]] = (),
    ) -> int: ...
    def remove(self, number: int) -> None: ...
    def remove_service(self, service: int) -> None: ...
    def rows(self) -> list[dict[str, Any]]: ...
