from enum import IntEnum

class TcpState(IntEnum):
    TCP_NONE = 0
    TCP_ESTABLISHED = 1
    TCP_SYN_SENT = 2
    TCP_SYN_RECV = 3
    TCP_FIN_WAIT = 4
    TCP_TIME_WAIT = 5
    TCP_CLOSE = 6
    TCP_CLOSE_WAIT = 7
    TCP_LAST_ACK = 8
    TCP_LISTEN = 9
    TCP_SYNACK = 10

class TcpDirection(IntEnum):
    TCP_IN = 0
    TCP_OUT = 1
    TCP_IN_ONLY = 2

NAMES: tuple[str, ...]
EVENTS: tuple[str, ...]
TIMEOUTS_S: dict[str, int]
RULES: dict[tuple[TcpDirection, str], dict[str, str]]

def step(direction: int, state: int, flags: int) -> TcpState: ...
def timeout_s(state: int) -> int: ...
def is_active(state: int) -> bool: ...
