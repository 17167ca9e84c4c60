from collections.abc import Iterable
from typing import Self

from typing_extensions import Buffer, disjoint_base

from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.verdict import Verdict

@disjoint_base
class Decap:
    def __new__(
        cls,
        ports: Iterable[int],
        *,
        geneve_ports: Iterable[int] = (),
        vnis: Iterable[tuple[int, int]] | None = None,
        levels: int = 1,
        strict: bool = False,
        peek: bool = False,
    ) -> Self: ...
    def find(
        self, frame: Buffer, link: int = 1, wire_len: int = 0
    ) -> tuple[Verdict, int, int, int, int, int]: ...
    def process(self, batch: PacketBatch) -> PacketBatch: ...
    def count(self, verdict: int) -> int: ...
    def counters(self) -> dict[Verdict, int]: ...
