"""CaptureEncoder: rows of a batch into the bytes of a capture file."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t

from vxlanfast._ext.io.format cimport Interface


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


cdef class CaptureEncoder:
    cdef Target t
    cdef bytes comment_prefix
    cdef uint64_t buffer_len
    cdef int room(self, uint64_t n) except -1
