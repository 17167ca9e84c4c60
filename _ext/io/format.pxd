"""Capture file formats: where their fields are. Byte order is the file's own, so every load takes ``big``.

pcap (draft-ietf-opsawg-pcap):

    file:    magic 4, version 2+2, thiszone 4, sigfigs 4, snaplen 4, link type 4 (upper bits: FCS length)   = 24 bytes
    record:  seconds 4, fraction 4, captured length 4, wire length 4 (modified: + ifindex 4, protocol 2, type 1, pad 1)

pcapng (draft-ietf-opsawg-pcapng), blocks of 4-byte-aligned length:

    block type 4, total length 4, body …, total length 4
    SHB: byte-order magic 4, version 2+2, section length 8, options
    IDB: link type 2, reserved 2, snaplen 4, options
    EPB: interface 4, time 4 (high) + 4 (low), captured length 4, wire length 4, packet, pad, options
    SPB: wire length 4, packet, pad
    PB:  interface 2, drops 2, then as EPB (obsolete)
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t

from vxlanfast._ext.wire.endian cimport load_16

cdef enum:
    FORMAT_NONE = 0
    FORMAT_PCAP = 1         # microseconds
    FORMAT_PCAP_NSEC = 2
    FORMAT_PCAP_MODIFIED = 3  # Kuznetzov's: microseconds, 24-byte records
    FORMAT_PCAPNG = 4

    PCAP_MAGIC_USEC = 0xA1B2C3D4
    PCAP_MAGIC_NSEC = 0xA1B23C4D
    PCAP_MAGIC_MODIFIED = 0xA1B2CD34
    PCAP_FILE_LEN = 24
    PCAP_RECORD_LEN = 16
    PCAP_RECORD_MODIFIED_LEN = 24
    PCAP_TIME_MAX_NS = 4294967295999999999  # the last nanosecond that 32 bits of seconds say

    FRAME_LEN_MAX = 262144          # bytes of one frame: libpcap's and wireshark's own limit
    BLOCK_LEN_MAX = 16777216        # bytes of one pcapng block
    INTERFACE_COUNT_MAX = 65536     # of one section: they are numbered in 16 bits here

    BLOCK_SHB = 0x0A0D0D0A
    BLOCK_IDB = 1
    BLOCK_PB = 2
    BLOCK_SPB = 3
    BLOCK_EPB = 6
    BLOCK_BYTE_ORDER = 0x1A2B3C4D
    BLOCK_LEN_MIN = 12
    SHB_LEN_MIN = 28
    IDB_LEN_MIN = 20
    EPB_HDR_LEN = 28
    EPB_LEN_MIN = 32
    SPB_HDR_LEN = 12
    SPB_LEN_MIN = 16

    OPT_END = 0
    OPT_COMMENT = 1
    OPT_EPB_FLAGS = 2
    OPT_EPB_HASH = 3
    OPT_EPB_DROPCOUNT = 4
    OPT_IF_NAME = 2
    OPT_IF_DESCRIPTION = 3
    OPT_IF_TSRESOL = 9
    OPT_IF_TSOFFSET = 14
    OPT_CUSTOM_BINARY = 2989        # custom option, copied by editors, binary

    NO_RECORD = 0xFFFFFFFFU


cdef extern from *:
    """
    typedef unsigned __int128 vf_u128;
    static inline uint64_t vf_scale_floor(uint64_t t, uint64_t mul, unsigned shift)
    {
        return (uint64_t)(((vf_u128)t * mul) >> shift);
    }
    static inline uint64_t vf_unscale_ceil(uint64_t ns, unsigned shift, uint64_t div)
    {
        vf_u128 r = (((vf_u128)ns << shift) + div - 1) / div;
        return r > UINT64_MAX ? UINT64_MAX : (uint64_t)r;
    }
    static inline uint64_t vf_mul_clamp(uint64_t a, uint64_t b)
    {
        uint64_t r;
        return __builtin_mul_overflow(a, b, &r) || r > INT64_MAX ? (uint64_t)INT64_MAX : r;
    }
    static inline uint64_t vf_mul_clamp_units(uint64_t a, uint64_t b)
    {
        uint64_t r;
        return __builtin_mul_overflow(a, b, &r) ? UINT64_MAX : r;
    }
    static inline int64_t vf_add_clamp(int64_t a, int64_t b)
    {
        int64_t r;
        return __builtin_add_overflow(a, b, &r) ? (b < 0 ? INT64_MIN : INT64_MAX) : r;
    }
    """
    uint64_t scale_floor "vf_scale_floor"(uint64_t t, uint64_t mul, unsigned shift) noexcept nogil
    uint64_t unscale_ceil "vf_unscale_ceil"(uint64_t ns, unsigned shift, uint64_t div) noexcept nogil
    uint64_t mul_clamp "vf_mul_clamp"(uint64_t a, uint64_t b) noexcept nogil
    uint64_t mul_clamp_units "vf_mul_clamp_units"(uint64_t a, uint64_t b) noexcept nogil
    int64_t add_clamp "vf_add_clamp"(int64_t a, int64_t b) noexcept nogil


cdef struct Interface:
    uint32_t snaplen     # 0: none
    uint16_t link
    uint8_t tsresol      # as in if_tsresol: 10^-n, or 2^-(n & 127) with the upper bit
    int64_t offset_ns    # if_tsoffset
    uint64_t mul         # nanoseconds a unit, where that is a whole number; else 0


cdef inline uint64_t power_of_ten(unsigned n) noexcept nogil:
    cdef uint64_t x = 1
    while n:
        x *= 10
        n -= 1
    return x


cdef inline void interface_set_time(Interface *f, uint8_t tsresol, int64_t offset_s) noexcept nogil:
    f.tsresol = tsresol
    f.mul = power_of_ten(9 - tsresol) if tsresol <= 9 else 0
    if offset_s > 9223372036LL:
        f.offset_ns = 9223372036LL * 1000000000
    elif offset_s < -9223372036LL:
        f.offset_ns = -9223372036LL * 1000000000
    else:
        f.offset_ns = offset_s * 1000000000


cdef inline int64_t interface_ns(const Interface *f, uint64_t units) noexcept nogil:
    """Nanoseconds of a time in the interface's units, rounded down; clamped to 64 bits (years 1678 to 2262)."""
    cdef uint64_t ns, ten
    cdef unsigned n
    if f.mul:
        ns = mul_clamp(units, f.mul)
    elif f.tsresol & 0x80:
        n = f.tsresol & 0x7F
        if n >= 64:
            ns = 0 if n >= 96 else scale_floor(units, 1000000000, n)
        else:
            ns = mul_clamp(units >> n, 1000000000)
            if ns < <uint64_t>0x7FFFFFFFFFFFFFFF and n:
                ns += scale_floor(units & ((<uint64_t>1 << n) - 1), 1000000000, n)
    else:
        n = f.tsresol - 9
        ten = power_of_ten(n) if n < 20 else 0
        ns = units // ten if ten else 0
    if ns > <uint64_t>0x7FFFFFFFFFFFFFFF:
        ns = <uint64_t>0x7FFFFFFFFFFFFFFF
    return add_clamp(<int64_t>ns, f.offset_ns)


cdef inline uint64_t interface_units(const Interface *f, int64_t ts_ns) noexcept nogil:
    """The time in the interface's units: the smallest that ``interface_ns`` gives back, so a round trip is exact."""
    cdef int64_t ns = add_clamp(ts_ns, -f.offset_ns)
    cdef unsigned n
    cdef uint64_t u
    if ns <= 0:
        return 0
    u = <uint64_t>ns
    if f.mul:
        return u // f.mul
    if f.tsresol & 0x80:
        n = f.tsresol & 0x7F
        return unscale_ceil(u, n, 1000000000) if n <= 63 else 0
    n = f.tsresol - 9
    return mul_clamp_units(u, power_of_ten(n)) if n < 19 else 0


cdef inline uint32_t pad4(uint32_t n) noexcept nogil:
    return (n + 3) & ~<uint32_t>3


cdef inline bint option_next(const uint8_t *p, uint32_t n, uint32_t *at, uint16_t *code, uint32_t *value,
                             uint32_t *length, bint big) noexcept nogil:
    """Step over one option of the list ``p[:n]``: False at its end, or where it does not hold together."""
    cdef uint32_t here = at[0]
    if n < here + 4:
        return False
    code[0] = load_16(p + here, big)
    length[0] = load_16(p + here + 2, big)
    value[0] = here + 4
    if code[0] == OPT_END or n < here + 4 + length[0]:
        return False
    at[0] = here + 4 + pad4(length[0])
    return True
