"""Loads and stores of known byte order at any alignment.

memcpy, not casts: no alignment or aliasing assumption. Not byte shifts either: in a large function gcc does not always
see the one ``mov`` and ``bswap`` in them.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #define vf_bswap16 __builtin_bswap16
    #define vf_bswap32 __builtin_bswap32
    #define vf_bswap64 __builtin_bswap64
    #define VF_LIKELY(x) __builtin_expect(!!(x), 1)
    #define VF_HOST_IS_LITTLE (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__)
    #define VF_MUST_SWAP(big) (!!(big) == VF_HOST_IS_LITTLE)
    """
    uint16_t bswap16 "vf_bswap16"(uint16_t x) noexcept nogil
    uint32_t bswap32 "vf_bswap32"(uint32_t x) noexcept nogil
    uint64_t bswap64 "vf_bswap64"(uint64_t x) noexcept nogil
    bint likely "VF_LIKELY"(bint x) noexcept nogil
    bint HOST_IS_LITTLE "VF_HOST_IS_LITTLE"
    bint must_swap "VF_MUST_SWAP"(bint big) noexcept nogil


# In the machine's own order: for sums and hashes that do not care which, and what follows here.

cdef inline uint16_t load_host16(const uint8_t *p) noexcept nogil:
    cdef uint16_t x
    memcpy(&x, p, 2)
    return x


cdef inline uint32_t load_host32(const uint8_t *p) noexcept nogil:
    cdef uint32_t x
    memcpy(&x, p, 4)
    return x


cdef inline uint64_t load_host64(const uint8_t *p) noexcept nogil:
    cdef uint64_t x
    memcpy(&x, p, 8)
    return x


# Capture files come in either order: ``big`` says which, and is a constant wherever speed matters.

cdef inline uint16_t load_16(const uint8_t *p, bint big) noexcept nogil:
    return bswap16(load_host16(p)) if must_swap(big) else load_host16(p)


cdef inline uint32_t load_32(const uint8_t *p, bint big) noexcept nogil:
    return bswap32(load_host32(p)) if must_swap(big) else load_host32(p)


cdef inline uint64_t load_64(const uint8_t *p, bint big) noexcept nogil:
    return bswap64(load_host64(p)) if must_swap(big) else load_host64(p)


cdef inline void store_16(uint8_t *p, uint16_t x, bint big) noexcept nogil:
    if must_swap(big):
        x = bswap16(x)
    memcpy(p, &x, 2)


cdef inline void store_32(uint8_t *p, uint32_t x, bint big) noexcept nogil:
    if must_swap(big):
        x = bswap32(x)
    memcpy(p, &x, 4)


cdef inline void store_64(uint8_t *p, uint64_t x, bint big) noexcept nogil:
    if must_swap(big):
        x = bswap64(x)
    memcpy(p, &x, 8)


# Network order.

cdef inline uint16_t load_be16(const uint8_t *p) noexcept nogil:
    return load_16(p, True)


cdef inline uint32_t load_be24(const uint8_t *p) noexcept nogil:
    return (<uint32_t>p[0] << 16) | (<uint32_t>p[1] << 8) | p[2]


cdef inline uint32_t load_be32(const uint8_t *p) noexcept nogil:
    return load_32(p, True)


cdef inline uint64_t load_be64(const uint8_t *p) noexcept nogil:
    return load_64(p, True)


cdef inline void store_be16(uint8_t *p, uint16_t x) noexcept nogil:
    store_16(p, x, True)


cdef inline void store_be24(uint8_t *p, uint32_t x) noexcept nogil:
    p[0] = <uint8_t>(x >> 16)
    p[1] = <uint8_t>(x >> 8)
    p[2] = <uint8_t>x


cdef inline void store_be32(uint8_t *p, uint32_t x) noexcept nogil:
    store_32(p, x, True)


cdef inline void store_be64(uint8_t *p, uint64_t x) noexcept nogil:
    store_64(p, x, True)
