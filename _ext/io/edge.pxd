"""What a live way in and out is to the loop: a file descriptor, three functions, and what it has counted."""
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t

from vxlanfast._ext.batch cimport Columns

cdef enum:
    FILL_ROWS = 256         # rows a batch takes, about: a ready edge adds to them until there are so many
    FILL_ARENA = 4194304    # bytes of bodies that a live batch has room for
    FRAME_ROOM = 66560      # the longest there is, a super-frame with its headers, rounded up


cdef struct EdgeCounts:
    uint64_t rx_packets     # rows: a super-frame is one
    uint64_t rx_bytes
    uint64_t rx_segments    # what they stand for: frames as on a wire
    uint64_t rx_drops       # what did not fit, or made no sense
    uint64_t rx_missed      # dropped by the kernel in front of us, as it says
    uint64_t tx_packets
    uint64_t tx_bytes
    uint64_t tx_segments
    uint64_t tx_drops       # what the kernel did not take: no room, device down, no route
    uint64_t tx_too_long    # of them, those that were longer than the way allows


ctypedef Edge *EdgePtr

cdef struct Edge:
    # Adds what is waiting as rows of port ``port``, until the batch has about ``most``; how many, or -errno: the edge is broken.
    int (*fill)(Edge *e, Columns *c, uint16_t port, int64_t now_ns, uint32_t most) noexcept nogil
    # Takes row ``i``, which has to stay as it is until ``flush``.
    void (*put)(Edge *e, Columns *c, uint32_t i) noexcept nogil
    # Sends what ``put`` gathered.
    void (*flush)(Edge *e) noexcept nogil
    int fd
    bint dirty              # something is gathered
    int broken              # errno that a fill ended it with
    EdgeCounts n


cdef class LiveEdge:
    cdef Edge *e            # whoever derives allocates it; lives as long as the object
