"""The transitions themselves: a row an event, the new state for each old one, in the order of TcpState."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from vxlanfast._ext.wire.tcp cimport TCP_FLAG_ACK, TCP_FLAG_FIN, TCP_FLAG_RST, TCP_FLAG_SYN

cdef enum:
    EVENT_SYN = 0
    EVENT_FIN = 1
    EVENT_ACK = 2
    EVENT_RST = 3

NAMES = ("NONE", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT", "TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN",
         "SYNACK")
#: Seconds without a packet after which a connection goes, by state.
TIMEOUTS_S = {"NONE": 2, "ESTABLISHED": 900, "SYN_SENT": 120, "SYN_RECV": 60, "FIN_WAIT": 120, "TIME_WAIT": 120, "CLOSE": 10,
              "CLOSE_WAIT": 60, "LAST_ACK": 30, "LISTEN": 120, "SYNACK": 120}

#: By direction and event: where a state leads. What is not named stays as it is; "*" stands for every other one.
RULES = {
    (TcpDirection.TCP_IN, "SYN"): {"ESTABLISHED": "ESTABLISHED", "SYN_SENT": "ESTABLISHED", "*": "SYN_RECV"},
    (TcpDirection.TCP_IN, "FIN"): {"NONE": "CLOSE", "ESTABLISHED": "CLOSE_WAIT", "SYN_RECV": "TIME_WAIT", "FIN_WAIT": "TIME_WAIT",
                                   "SYNACK": "TIME_WAIT"},
    # An ACK without a connection (sloppy TCP) is taken for one of an open one: seen, the sources would have it closed.
    (TcpDirection.TCP_IN, "ACK"): {"NONE": "ESTABLISHED", "SYN_RECV": "ESTABLISHED", "SYNACK": "ESTABLISHED", "LAST_ACK": "CLOSE"},
    (TcpDirection.TCP_IN, "RST"): {"SYN_RECV": "SYN_RECV", "SYNACK": "SYN_RECV", "LAST_ACK": "LAST_ACK", "LISTEN": "LISTEN",
                                   "*": "CLOSE"},
    (TcpDirection.TCP_OUT, "SYN"): {"ESTABLISHED": "ESTABLISHED", "SYN_RECV": "SYN_RECV", "SYNACK": "SYN_RECV", "LISTEN": "LISTEN",
                                    "*": "SYN_SENT"},
    (TcpDirection.TCP_OUT, "FIN"): {"NONE": "TIME_WAIT", "ESTABLISHED": "FIN_WAIT", "SYN_RECV": "TIME_WAIT",
                                    "CLOSE_WAIT": "TIME_WAIT", "SYNACK": "TIME_WAIT"},
    (TcpDirection.TCP_OUT, "ACK"): {"NONE": "ESTABLISHED", "SYN_RECV": "ESTABLISHED", "LISTEN": "ESTABLISHED",
                                    "SYNACK": "ESTABLISHED"},
    (TcpDirection.TCP_OUT, "RST"): {"SYN_SENT": "SYN_SENT", "TIME_WAIT": "TIME_WAIT", "*": "CLOSE"},
}
RULES |= {
    (TcpDirection.TCP_IN_ONLY, "SYN"): RULES[TcpDirection.TCP_IN, "SYN"],
    (TcpDirection.TCP_IN_ONLY, "FIN"): RULES[TcpDirection.TCP_IN, "FIN"] | {"ESTABLISHED": "FIN_WAIT", "FIN_WAIT": "FIN_WAIT"},
    (TcpDirection.TCP_IN_ONLY, "ACK"): RULES[TcpDirection.TCP_IN, "ACK"],
    (TcpDirection.TCP_IN_ONLY, "RST"): RULES[TcpDirection.TCP_IN, "RST"] | {"SYNACK": "CLOSE"},
}
EVENTS = ("SYN", "FIN", "ACK", "RST")


cdef int fill() except -1:
    cdef int state
    for (direction, event), rule in RULES.items():
        for state, name in enumerate(NAMES):
            tcp_table[<int>direction][<int>EVENTS.index(event)][state] = NAMES.index(rule.get(name, rule.get("*", name)))
    for state, name in enumerate(NAMES):
        tcp_timeout_s[state] = TIMEOUTS_S[name]
    return 0


fill()


cdef uint8_t tcp_next(uint8_t direction, uint8_t state, uint8_t flags) noexcept nogil:
    """The state behind a segment with these flags."""
    if flags & TCP_FLAG_RST:
        return tcp_table[direction][EVENT_RST][state]
    if flags & TCP_FLAG_SYN:
        return tcp_table[direction][EVENT_SYN][state]
    if flags & TCP_FLAG_FIN:
        return tcp_table[direction][EVENT_FIN][state]
    if flags & TCP_FLAG_ACK:
        return tcp_table[direction][EVENT_ACK][state]
    return TCP_CLOSE


def step(direction, state, uint8_t flags):
    """The state behind a segment: numbers of TcpDirection and TcpState, and TCP's flags as they stand in the header."""
    if not 0 <= direction < 3 or not 0 <= state < TCP_STATES:
        raise ValueError(f"direction {direction}, state {state}: below 3 and {TCP_STATES}")
    return TcpState(tcp_next(direction, state, flags))


def timeout_s(state):
    """Seconds that a connection may be silent in a state."""
    if not 0 <= state < TCP_STATES:
        raise ValueError(f"state {state}: below {TCP_STATES}")
    return tcp_timeout_s[<int>state]


def is_active(state):
    """Whether a server counts it as active."""
    return bool(tcp_is_active(state))
