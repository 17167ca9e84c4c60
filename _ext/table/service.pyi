from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any, Self

from typing_extensions import disjoint_base

from vxlanfast._ext.table.match import MatchTable

class Scheduler(IntEnum):
    SCHED_RR = 0
    SCHED_WRR = 1
    SCHED_LC = 2
    SCHED_WLC = 3
    SCHED_SED = 4
    SCHED_NQ = 5
    SCHED_SH = 6
    SCHED_DH = 7
    SCHED_MH = 8
    SCHED_PYTHON = 9

REMOVALS: tuple[str, ...]
SCHEDULERS: tuple[str, ...]

@disjoint_base
class ServiceTable:
    capacity: int
    server_capacity: int
    size: int
    n_servers: int
    n_removed: int
    plugin_errors: int
    plugin_error: Exception | None
    matches: MatchTable
    def __new__(cls, capacity: int = 1024, *, servers: int = 16384, seed: int = 0) -> Self: ...
    def __len__(self) -> int: ...
    def add(
        self,
        net: int,
        addr: bytes,
        *,
        proto: int = 0,
        port: int = 0,
        last: int | None = None,
        target: int = 0,
        sources: Sequence[tuple[bytes, int]] = (),
        scheduler: str = "rr",
        fallback: bool = False,
        with_port: bool = False,
        exact: bool = False,
    ) -> int: ...
    def set_scheduler(
        self, service: int, scheduler: str, *, fallback: bool = False, with_port: bool = False
    ) -> None: ...
    def set_plugin(
        self,
        service: int,
        choose: Callable[[bytes, int, bytes, int, dict[int, tuple[bytes, int, int, int, int]]], int | None],
    ) -> None: ...
    def set_policy(
        self,
        service: int,
        *,
        out_domain: int | None = None,
        masq: bytes | None = None,
        hairpin: bool = False,
        reset: bool = False,
        removal: str = "drain",
        tcp_s: int = 0,
        fin_s: int = 0,
        udp_s: int = 0,
        persist_s: int = 0,
        persist_len: int | None = None,
    ) -> None: ...
    def settle(self) -> int: ...
    def set_cursor(self, service: int, server: int) -> None: ...
    def remove(self, service: int) -> None: ...
    def add_server(
        self, service: int, addr: bytes, *, port: int = 0, weight: int = 1, upper: int = 0, lower: int = 0
    ) -> int: ...
    def set_server(
        self, server: int, *, weight: int | None = None, upper: int | None = None, lower: int | None = None
    ) -> None: ...
    def remove_server(self, server: int) -> None: ...
    def find_service(self, net: int, addr: bytes, proto: int, port: int) -> int | None: ...
    def scheduler_of(self, service: int) -> str: ...
    def choose_for(
        self,
        service: int,
        client: bytes,
        sport: int = 0,
        to: bytes = b"",
        dport: int = 0,
        *,
        active: bool | None = None,
    ) -> int | None: ...
    def release(self, server: int, *, active: bool) -> None: ...
    def set_active(self, server: int, *, active: bool) -> None: ...
    def buckets(self, service: int) -> list[int | None]: ...
    def servers_of(self, service: int) -> list[dict[str, Any]]: ...
    def row(self, number: int) -> dict[str, Any] | None: ...
    def rows(self) -> list[dict[str, Any]]: ...
