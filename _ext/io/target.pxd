"""What an encoder knows of the file it makes, and how a row is gathered into it."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from vxlanfast._ext.batch cimport BATCH_HEAD_LEN, Columns, row_body
from vxlanfast._ext.io.format cimport Interface

cdef enum:
    COPY_SLACK = 128        # bytes a copy may write past its end
    COPY_STEP_MAX = 256     # bytes of a row that is copied in line …
    COPY_LONG_MAX = 4096    # … or by our own loop; longer ones are for memcpy
    HEAD_SLACK = 16         # bytes a copy of headers may write before its start: a record header's, stored after it
    NO_INTERFACE = 0xFFFFFFFFU

cdef extern from *:
    """
    #include <string.h>
    /* Whole 32-byte steps: no branch on the length's low bits. The caller has slack on both sides. */
    static inline void vf_copy_steps(uint8_t *dst, const uint8_t *src, uint32_t n)
    {
        for (uint32_t i = 0; i < n; i += 32)
            __builtin_memcpy(dst + i, src + i, 32);
    }
    #if defined(__x86_64__) && __GNUC__ >= 12 && !defined(__clang__) && defined(__gnu_linux__) \\
        && !defined(__SANITIZE_ADDRESS__)
    #define VF_COPY_CLONES __attribute__((target_clones("avx2", "default")))
    #else
    #define VF_COPY_CLONES
    #endif
    /* Longer ones, always upwards: libc's memcpy goes down where both places are alike in their pages, and a stream of
     * frames in memory comes by that again and again. */
    typedef uint8_t vf_wide __attribute__((vector_size(32), aligned(1), may_alias));
    VF_COPY_CLONES __attribute__((unused)) static void vf_copy_long(uint8_t *dst, const uint8_t *src, uint32_t n)
    {
        for (uint32_t i = 0; i < n; i += 64) {
            vf_wide a = *(const vf_wide *)(src + i), b = *(const vf_wide *)(src + i + 32);
            *(vf_wide *)(dst + i) = a;
            *(vf_wide *)(dst + i + 32) = b;
        }
    }
    /* The n bytes before end, which is the end of a slot: those of a tunnel over IPv4 (50) stand in the slot's last
     * cache line, and that line is copied whole. It begins up to HEAD_SLACK bytes before dst. */
    static inline void vf_copy_head(uint8_t *dst, const uint8_t *end, uint32_t n)
    {
        if (__builtin_expect(n >= 64 - 16 && n <= 64, 1)) {
            __builtin_memcpy(dst + n - 64, end - 64, 64);
        } else if (n > 64) {
            __builtin_memcpy(dst, end - n, 64);
            __builtin_memcpy(dst + n - 64, end - 64, 64);
        } else {
            memcpy(dst, end - n, n);
        }
    }
    """
    void copy_steps "vf_copy_steps"(uint8_t *dst, const uint8_t *src, uint32_t n) noexcept nogil
    void copy_long "vf_copy_long"(uint8_t *dst, const uint8_t *src, uint32_t n) noexcept nogil
    void copy_head "vf_copy_head"(uint8_t *dst, const uint8_t *end, uint32_t n) noexcept nogil


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


cdef inline void copy_body(uint8_t *dst, const uint8_t *src, uint32_t n) noexcept nogil:
    """``n`` bytes, and up to COPY_SLACK more at either place."""
    if n <= COPY_STEP_MAX:
        copy_steps(dst, src, n)
    elif n <= COPY_LONG_MAX:
        copy_long(dst, src, n)
    else:
        memcpy(dst, src, n)


cdef inline void gather(Columns *c, uint32_t i, uint8_t *dst) noexcept nogil:
    """Head and body of row ``i``, together, at ``dst``. Writes over HEAD_SLACK bytes before it, COPY_SLACK behind."""
    cdef uint32_t head_len = c.head_len[i]
    if head_len:
        copy_head(dst, c.head + <uint64_t>(i + 1) * BATCH_HEAD_LEN, head_len)
        dst += head_len
    copy_body(dst, row_body(c, i), c.len[i])
