"""CaptureEncoder: rows of a batch into the bytes of a capture file."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from vxlanfast._ext.batch cimport Columns
from vxlanfast._ext.io.format cimport FORMAT_PCAP, FORMAT_PCAP_MODIFIED
from vxlanfast._ext.io.target cimport Target

cdef uint32_t encode_pcap(Target *t, Columns *c, uint32_t k, bint raw_times, int64_t tick_ns) noexcept nogil


cdef inline bint times_as_read(const Target *t, const Columns *c) noexcept nogil:
    """The records that the rows came from say their times just as the target's records do."""
    cdef uint8_t came_as = FORMAT_PCAP if c.rec_format == FORMAT_PCAP_MODIFIED else c.rec_format
    return not c.ts_touched and came_as == t.format and c.rec_big == t.big


cdef class CaptureEncoder:
    cdef Target t
    cdef bytes comment_prefix
    cdef uint64_t buffer_len
    cdef int room(self, uint64_t n) except -1
