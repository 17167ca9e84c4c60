"""pcapng blocks out: rows of a batch, interfaces, and the blocks carried through. Called once a batch."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from vxlanfast._ext.batch cimport Columns
from vxlanfast._ext.io.target cimport Target


cdef uint32_t encode_pcapng(Target *t, Columns *c, uint32_t k, uint64_t *want) noexcept nogil
cdef uint32_t encode_block(Target *t, const uint8_t *block, uint32_t length, bint big) noexcept nogil
cdef bint grow_maps(Target *t) noexcept nogil
cdef uint32_t note_interface(Target *t, const uint8_t *block, uint32_t length, uint16_t link,
                             uint32_t snaplen) noexcept nogil
cdef uint32_t put_mark(uint8_t *p, uint32_t pen, uint32_t parent, bint big) noexcept nogil
cdef uint32_t put_option(uint8_t *p, uint16_t code, const uint8_t *value, uint32_t n, bint big) noexcept nogil
