from collections.abc import Sequence
from typing import Any, Self

from typing_extensions import disjoint_base

@disjoint_base
class NetTable:
    capacity: int
    size: int
    def __new__(cls, capacity: int, *, seed: int = 0) -> Self: ...
    def __len__(self) -> int: ...
    def add(
        self,
        vni: int,
        *,
        learn: bool = True,
        flood: bool = True,
        proxy: bool = False,
        swallow: bool = False,
        tags: bool = False,
        gbp: bool = False,
        snoop: bool = False,
        mss_clamp: bool = False,
        bum_rate: int = 0,
        domain: int | None = None,
        mesh: bool = False,
        lan: bool = False,
    ) -> int: ...
    def set_flood(self, net: int, ports: Sequence[int], peers: Sequence[int]) -> None: ...
    def set_gateway(
        self, net: int, mac: bytes, router_mac: bytes, *, addresses: Sequence[bytes] = ()
    ) -> None: ...
    def add_routes(
        self, nets: Sequence[int], routes: Sequence[tuple[bytes, int, int] | tuple[bytes, int, int, bytes]]
    ) -> None: ...
    def set_reach(
        self,
        net: int,
        *,
        out_net: int | None = None,
        internal: bool = False,
        returns: bool = False,
        guard: bool = False,
        hops: int = 0,
    ) -> None: ...
    def adopt(self, other: NetTable) -> None: ...
    def find(self, vni: int) -> int | None: ...
    def rows(self) -> list[dict[str, Any]]: ...
