"""A way out that ends in Python: frames for what answers here, off the packet path (names). Bounded; what does not fit is counted."""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from vxlanfast._ext.batch cimport Columns, row_body, row_head
from vxlanfast._ext.io.edge cimport Edge, LiveEdge

cdef enum:
    SLOT_LEN = 2048     # of a frame; a longer one is none of a resolver's


cdef struct Waiting:
    uint32_t len
    uint32_t origin
    uint8_t frame[SLOT_LEN]


cdef struct QueueState:
    Edge e
    uint32_t cap
    uint32_t n
    Waiting *slots


cdef void queue_put(Edge *e, Columns *c, uint32_t i) noexcept nogil:
    cdef QueueState *q = <QueueState *>e
    cdef uint32_t head = c.head_len[i], n = head + c.len[i]
    cdef Waiting *w
    if q.n == q.cap or n > SLOT_LEN:
        e.n.tx_drops += 1
        e.n.tx_too_long += n > SLOT_LEN
        return
    w = q.slots + q.n
    memcpy(w.frame, row_head(c, i), head)
    memcpy(w.frame + head, row_body(c, i), c.len[i])
    w.len = n
    w.origin = c.origin[i]
    q.n += 1
    e.n.tx_packets += 1
    e.n.tx_bytes += n
    e.n.tx_segments += 1


cdef void queue_flush(Edge *e) noexcept nogil:
    pass


cdef class QueueEdge(LiveEdge):
    """``capacity``: frames that may wait, each of at most 2,048 bytes."""

    def __cinit__(self, uint32_t capacity=256):
        cdef QueueState *q
        if not 1 <= capacity <= 65536:
            raise ValueError(f"capacity = {capacity}: 1 to 65536 frames")
        q = <QueueState *>calloc(1, sizeof(QueueState))
        if q == NULL:
            raise MemoryError
        self.e = &q.e
        q.slots = <Waiting *>calloc(capacity, sizeof(Waiting))
        if q.slots == NULL:
            raise MemoryError
        q.cap = capacity
        q.e.fd = -1
        q.e.put = queue_put
        q.e.flush = queue_flush

    def __dealloc__(self):
        if self.e != NULL:
            free((<QueueState *>self.e).slots)
            free(self.e)

    def __len__(self):
        return (<QueueState *>self.e).n

    def take(self):
        """Those that wait, as (number of the destination it came from, frame), oldest first; none wait then."""
        cdef QueueState *q = <QueueState *>self.e
        cdef uint32_t k
        out = [(q.slots[k].origin, PyBytes_FromStringAndSize(<char *>q.slots[k].frame, q.slots[k].len)) for k in range(q.n)]
        q.n = 0
        return out
