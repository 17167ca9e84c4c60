"""Encapsulation that ends in a file: the headers go straight into an encoder's buffer.

``Encap`` writes a row's headers into its head slot, for whoever comes next. Where that is the encoder of a pcap file,
the slot is a detour of two cache lines: of small frames it costs as much as making the headers. The bytes are the same.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from vxlanfast._ext.batch cimport BATCH_HEAD_LEN, Columns, PacketBatch, row_count, rows_alike
from vxlanfast._ext.io.format cimport FRAME_LEN_MAX, PCAP_RECORD_LEN
from vxlanfast._ext.io.target cimport COPY_SLACK, Target, copy_body
from vxlanfast._ext.io.writer cimport CaptureEncoder, encode_pcap, times_as_read
from vxlanfast._ext.node.encap cimport Encap, Tunnel, TUNNEL4_HDR_LEN, encap_row, tunnel4_put
from vxlanfast._ext.verdict cimport Verdict, PASS
from vxlanfast._ext.wire.endian cimport likely, store_64
from vxlanfast._ext.wire.link cimport LINK_ETHERNET

cdef enum:
    ROOM = PCAP_RECORD_LEN + BATCH_HEAD_LEN + COPY_SLACK  # for a row, beside its body


cdef uint32_t encap_write(Target *t, Columns *columns, const Tunnel *tunnel, uint32_t i, uint32_t ident) noexcept nogil:
    """Rows from ``i`` on that are bare Ethernet frames for ``tunnel4_put``, as records. Returns the first that is not,
    or for which there is no room."""
    cdef Columns c = columns[0]  # a copy that nothing points to: the bytes stored here may alias anything else
    cdef Tunnel own = tunnel[0]
    cdef uint8_t *begin = t.buffer + t.used
    cdef uint8_t *p = begin
    cdef const uint8_t *last = t.buffer + t.cap - ROOM
    cdef const uint8_t *body
    cdef uint32_t first = i, end = rows_alike(&c, i, t.stop, LINK_ETHERNET, True), n, wire_n, flow = 0
    while i < end:
        n = c.len[i]
        wire_n = c.wire_len[i]
        body = c.arena + c.off[i]
        if p + n > last or not likely(tunnel4_put(p + PCAP_RECORD_LEN, &own, body, n, wire_n, ident + i, &flow)):
            break
        memcpy(p, c.arena + c.rec[i], 8)
        store_64(p + 8, <uint64_t>(wire_n + TUNNEL4_HDR_LEN) << 32 | (n + TUNNEL4_HDR_LEN), False)
        copy_body(p + PCAP_RECORD_LEN + TUNNEL4_HDR_LEN, body, n)
        p += PCAP_RECORD_LEN + TUNNEL4_HDR_LEN + n
        i += 1
    t.used += p - begin
    t.rows += i - first
    t.bytes += p - begin - <uint64_t>(i - first) * PCAP_RECORD_LEN
    return i


cdef uint32_t encap_rows_into(Target *t, Columns *c, Encap node, uint32_t k, uint32_t ident) noexcept nogil:
    """Rows from ``k`` on, until they or the buffer end; returns the next."""
    cdef uint32_t first
    cdef uint32_t end = t.stop
    cdef Verdict v
    while True:
        first = k
        t.stop = end
        k = encap_write(t, c, &node.t, k, ident)
        node.counts[<uint8_t>PASS] += k - first
        if k == end or t.used + ROOM + c.len[k] > t.cap:
            return k
        if c.verdict[k] == PASS:
            v = encap_row(c, k, &node.t, ident + k, False, &node.tally)
            c.verdict[k] = v
            node.counts[<uint8_t>v] += 1
        t.stop = k + 1
        k = encode_pcap(t, c, k, True, 1)


def encap_encode(Encap node not None, CaptureEncoder encoder not None, PacketBatch batch not None, uint32_t start=0,
                 uint64_t ordinal=0):
    """``node.process(batch, ordinal)`` and ``encoder.encode(batch, start)``, in one pass where that can be.

    Rows that took the short way stand in the batch as they did before. Returns as ``CaptureEncoder.encode`` does: the
    row to go on from, with ``pending()`` written, or ``None``.
    """
    cdef Target *t = &encoder.t
    cdef Columns *c = &batch.c
    cdef uint32_t k
    if not (node.t.common and times_as_read(t, c) and not t.big and not c.ordered and t.leave & 1
            and t.link == LINK_ETHERNET):
        if start:
            return encoder.encode(batch, start)
        node.process(batch, ordinal)
        while True:
            rest = encoder.encode(batch)
            if rest != 0:
                return rest
            encoder.room(t.cap)  # no row is in yet, and another call with 0 would encapsulate them again
    t.stop = row_count(c)
    encoder.room(ROOM)
    with nogil:
        k = encap_rows_into(t, c, node, start, <uint32_t>ordinal)
    if k == row_count(c):
        return None
    if t.used == 0:
        encoder.room(ROOM + FRAME_LEN_MAX)  # nothing waits and still no room: a row larger than the buffer
    return k
