"""Classic BPF over the rows of a batch: the programs by link type, and libpcap's interpreter behind a pointer."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from vxlanfast._ext.verdict cimport VERDICT_COUNT

cdef enum:
    FILTER_INSNS_MAX = 65536  # instructions of a program
    FILTER_UNKNOWN_MAX = 64   # link types that one call reports


cdef struct BpfInsn:          # struct bpf_insn of pcap/bpf.h
    uint16_t code
    uint8_t jt
    uint8_t jf
    uint32_t k


# u_int bpf_filter(const struct bpf_insn *pc, const u_char *pkt, u_int wirelen, u_int buflen): 0 is no match.
ctypedef unsigned int (*bpf_filter_t)(const BpfInsn *, const uint8_t *, unsigned int, unsigned int) noexcept nogil


cdef struct FilterProgram:
    uint32_t link             # LINKTYPE_
    BpfInsn *insns


cdef class Filter:
    cdef bpf_filter_t run
    cdef FilterProgram *programs
    cdef uint32_t n_programs
    cdef uint8_t drop_verdict
    cdef bint busy
    cdef uint8_t *joined      # a frame whose headers stand apart from its body is put together here
    cdef uint64_t joined_cap
    cdef uint64_t counts[VERDICT_COUNT]
    cdef int _require_idle(self) except -1
