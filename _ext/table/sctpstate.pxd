"""What an SCTP association is in, seen from a director in the middle: by the chunks of its handshakes (RFC 9260 §4)."""
from libc.stdint cimport uint8_t

from vxlanfast._ext.wire.sctp cimport (
    SCTP_ABORT, SCTP_COOKIE_ACK, SCTP_COOKIE_ECHO, SCTP_INIT, SCTP_INIT_ACK, SCTP_SHUTDOWN, SCTP_SHUTDOWN_ACK,
    SCTP_SHUTDOWN_COMPLETE,
)

cdef enum:
    SCTP_STATES = 6


cpdef enum SctpState:
    ASSOC_NONE = 0
    ASSOC_INIT = 1          # the client wants one
    ASSOC_COOKIE = 2        # the server has answered, and the client brings its cookie
    ASSOC_ESTABLISHED = 3
    ASSOC_SHUTDOWN = 4
    ASSOC_CLOSED = 5


cdef inline uint8_t assoc_next(uint8_t state, int chunk, bint reverse) noexcept nogil:
    """The state behind a packet whose first chunk that is no DATA or SACK is of that type; ``reverse``: the server's."""
    if chunk == SCTP_ABORT or chunk == SCTP_SHUTDOWN_COMPLETE:
        return ASSOC_CLOSED
    if chunk == SCTP_INIT:
        # A new one over the old, or a second try; of an established one it is a restart, which keeps it (RFC 9260 §5.2.2).
        return ASSOC_INIT if state != ASSOC_COOKIE and state != ASSOC_ESTABLISHED else state
    if chunk == SCTP_INIT_ACK:
        return ASSOC_COOKIE if reverse and state == ASSOC_INIT else state
    if chunk == SCTP_COOKIE_ECHO:
        return ASSOC_COOKIE if state == ASSOC_NONE else state
    if chunk == SCTP_COOKIE_ACK:
        return ASSOC_ESTABLISHED if reverse and state == ASSOC_COOKIE else state
    if chunk == SCTP_SHUTDOWN or chunk == SCTP_SHUTDOWN_ACK:
        return ASSOC_SHUTDOWN if state == ASSOC_ESTABLISHED or state == ASSOC_COOKIE else state
    return state
