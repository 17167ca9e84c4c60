"""What an encoder knows of the file it makes, and how a row is gathered into it."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from vxlanfast._ext.batch cimport Columns, row_body, row_head
from vxlanfast._ext.io.format cimport Interface

cdef enum:
    COPY_SLACK = 128        # bytes a copy may write past its end
    COPY_STEP_MAX = 256     # longer rows are for memcpy
    NO_INTERFACE = 0xFFFFFFFFU

cdef extern from *:
    """
    /* Whole 32-byte steps: no branch on the length's low bits. The caller has slack on both sides. */
    static inline void vf_copy_steps(uint8_t *dst, const uint8_t *src, uint32_t n)
    {
        for (uint32_t i = 0; i < n; i += 32)
            __builtin_memcpy(dst + i, src + i, 32);
    }
    /* The headers of one tunnel are 50 or 70 bytes: no loop. */
    static inline void vf_copy_head(uint8_t *dst, const uint8_t *src, uint32_t n)
    {
        __builtin_memcpy(dst, src, 64);
        if (__builtin_expect(n > 64, 0))
            __builtin_memcpy(dst + 64, src + 64, 64);
    }
    """
    void copy_steps "vf_copy_steps"(uint8_t *dst, const uint8_t *src, uint32_t n) noexcept nogil
    void copy_head "vf_copy_head"(uint8_t *dst, const uint8_t *src, uint32_t n) noexcept nogil


cdef struct Target:
    uint8_t format         # FORMAT_PCAP, FORMAT_PCAP_NSEC or FORMAT_PCAPNG
    bint big
    bint carry             # pcapng from pcapng: sections, interfaces and other blocks come with the batches
    bint to_ethernet       # rows may leave as Ethernet whatever their interface was
    bint keep_link         # rows may leave with the link type of their interface
    uint16_t link          # pcap: the one link type the file holds
    uint32_t snaplen_min   # raise an interface's snaplen to this; 0 leaves it
    uint64_t leave         # bit per verdict: rows that are written
    uint32_t strip_pen     # leave out custom options of this enterprise number; 0 keeps all …
    const char *strip_comment  # … and comments that start with this
    uint32_t strip_comment_len
    uint32_t mark_pen      # mark second forms of an interface with this enterprise number; 0 does not
    # pcapng: interfaces written in this section, and for each one read, where its rows go.
    uint32_t n_out
    uint32_t cap_out
    Interface *out
    uint32_t n_in
    uint32_t cap_in
    uint32_t *as_ethernet
    uint32_t *as_is
    # The bytes that wait to be written.
    uint8_t *buffer
    uint64_t used
    uint64_t cap
    uint32_t stop          # leave at this place of the leaving order
    uint64_t version       # changes with what is above
    uint32_t next_block    # of the batch in hand
    bint led               # the blocks before its first row are in
    uint64_t rows          # written so far
    uint64_t bytes         # of packets in them
    uint64_t refused       # rows of a link type the file cannot hold
    uint64_t refused_passed  # of them, with verdict PASS
    bint no_memory


cdef inline void gather(Columns *c, uint32_t i, uint8_t *dst) noexcept nogil:
    """Head and body of row ``i``, together, at ``dst``."""
    cdef uint32_t n = c.len[i]
    if c.head_len[i]:
        copy_head(dst, row_head(c, i), c.head_len[i])
        dst += c.head_len[i]
    if n <= COPY_STEP_MAX:
        copy_steps(dst, row_body(c, i), n)
    else:
        memcpy(dst, row_body(c, i), n)
