from enum import IntEnum

class SctpState(IntEnum):
    ASSOC_NONE = 0
    ASSOC_INIT = 1
    ASSOC_COOKIE = 2
    ASSOC_ESTABLISHED = 3
    ASSOC_SHUTDOWN = 4
    ASSOC_CLOSED = 5

NAMES: tuple[str, ...]
TIMEOUTS_S: dict[str, int]

def step(state: int, chunk: int = -1, *, reverse: bool = False) -> SctpState: ...
