from typing import Self

from typing_extensions import disjoint_base

from vxlanfast._ext.table.conn import ConnTable
from vxlanfast._ext.table.service import ServiceTable

@disjoint_base
class Track:
    services: ServiceTable
    conns: ConnTable
    exact: bool
    reuse: bool
    forget: bool
    sloppy: bool
    opened: int
    expired: int
    evicted: int
    forged: int
    now_ns: int
    def __new__(
        cls,
        *args: object,
        services: ServiceTable,
        conns: ConnTable,
        exact: bool = False,
        reuse: bool = True,
        forget: bool = False,
        sloppy: bool = False,
        seed: int = 0,
        **options: object,
    ) -> Self: ...
    def end_connection(self, number: int) -> None: ...
    def set_timeouts(self, *, tcp_s: int = 0, fin_s: int = 0, udp_s: int = 0) -> None: ...
    def set_mode(
        self, *, reuse: bool | None = None, forget: bool | None = None, sloppy: bool | None = None
    ) -> None: ...
