"""What a TCP connection is in, seen from a director in the middle: the states and timeouts of IPVS, as its kernel showed them.

A transition depends on the direction (from the client, from the server, or from the client where replies pass elsewhere) and
on the strongest flag: RST, SYN, FIN, ACK; a segment without any ends the connection, whatever state it is in.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from vxlanfast._ext.wire.tcp cimport TCP_FLAG_ACK, TCP_FLAG_FIN, TCP_FLAG_RST, TCP_FLAG_SYN

cdef enum:
    TCP_STATES = 11
    TCP_EVENTS = 4


cpdef enum TcpState:
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


cpdef enum TcpDirection:
    TCP_IN = 0          # from the client
    TCP_OUT = 1         # from the server
    TCP_IN_ONLY = 2     # from the client, and the server's answers pass elsewhere


cdef uint8_t[3][TCP_EVENTS][TCP_STATES] tcp_table
cdef uint16_t[TCP_STATES] tcp_timeout_s

cdef uint8_t tcp_next(uint8_t direction, uint8_t state, uint8_t flags) noexcept nogil


cdef inline bint tcp_is_active(uint8_t state) noexcept nogil:
    """Whether a server counts the connection as active: while it is being opened, and open."""
    return state == TCP_ESTABLISHED or state == TCP_SYN_SENT or state == TCP_SYN_RECV or state == TCP_SYNACK
