"""CaptureDecoder: bytes of a capture file into the rows of a batch."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t

from vxlanfast._ext.batch cimport Columns, PacketBatch
from vxlanfast._ext.io.format cimport Interface


cdef struct Source:
    # What is known of the file so far. ``at`` walks the arena; ``base`` is the file offset of the arena's first byte.
    uint8_t format
    bint big
    bint started           # the file header was read
    bint odd_version       # a section says a version we do not know; read as 1.0
    uint32_t record_len    # pcap: bytes of a record header
    uint32_t snaplen
    uint32_t link_field    # pcap: the header's link type field, FCS bits included
    uint16_t link
    uint16_t version_major
    uint16_t version_minor
    bint swapped_lens      # pcap before 2.3 has wire length and captured length the other way round
    uint32_t n_interfaces
    uint32_t cap_interfaces
    Interface *interfaces
    uint64_t base
    uint64_t at
    uint64_t need          # bytes the next record wants in all; 0 not known
    uint64_t limit         # rows still wanted
    uint64_t sections
    const char *fault      # sentence, or NULL
    uint64_t fault_value
    uint64_t fault_limit


cdef class CaptureDecoder:
    cdef Source s
    cdef uint8_t *carry
    cdef uint64_t carry_len
    cdef uint64_t carry_cap
    cdef bint row_bound      # bytes kept back may hold whole records: the batch was full, or the byte order changed
    cdef public uint64_t chunk_len   # bytes asked of the source at once
    cdef readonly bint at_end
    cdef readonly bint cut   # the file ends inside a record
    cdef readonly uint64_t rows
    cdef int keep_rest(self, Columns *c) except -1
