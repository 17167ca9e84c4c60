"""The states' names and timeouts."""
from vxlanfast._ext.wire.sctp cimport SCTP_CHUNK_NONE

NAMES = ("NONE", "INIT", "COOKIE", "ESTABLISHED", "SHUTDOWN", "CLOSED")
#: Seconds without a packet after which an association goes, by state: IPVS's (CLOSED was seen of a kernel).
TIMEOUTS_S = {"NONE": 2, "INIT": 60, "COOKIE": 60, "ESTABLISHED": 900, "SHUTDOWN": 60, "CLOSED": 60}


def step(state, int chunk=SCTP_CHUNK_NONE, *, bint reverse=False):
    """The state behind a packet: a number of SctpState, the type of its deciding chunk, and whether the server sent it."""
    if not 0 <= state < SCTP_STATES:
        raise ValueError(f"state {state}: below {SCTP_STATES}")
    return SctpState(assoc_next(state, chunk, reverse))
