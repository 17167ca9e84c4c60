from typing import Any, Self

from typing_extensions import Buffer, disjoint_base

@disjoint_base
class GroupTable:
    capacity: int
    size: int
    dest_limit: int
    refused: int
    def __new__(
        cls, capacity: int = 4096, *, dests: int = ..., dest_limit: int | None = None, seed: int = 0
    ) -> Self: ...
    def __len__(self) -> int: ...
    def adopt(self, other: GroupTable, dests: Buffer, nets: Buffer) -> int: ...
    def rows(self) -> list[dict[str, Any]]: ...
