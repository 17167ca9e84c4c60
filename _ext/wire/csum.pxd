"""The Internet checksum (RFC 1071), whole and incremental (RFC 1624).

A sum is a 64-bit number in the machine's own byte order: add sums of ranges that start at even offsets, in any order.
``csum_fold`` makes the 16-bit network-order number of it; the checksum is its complement.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from vxlanfast._ext.wire.endian cimport bswap16, HOST_IS_LITTLE

cdef extern from *:
    """
    #ifndef VF_CSUM
    #define VF_CSUM
    #include <stdint.h>
    #include <string.h>

    /* Over long ranges the sum is compiled once per instruction set, and the loader chooses. The plain loop over 32-bit
     * words into a 64-bit sum is what gcc turns into wide vector adds; add-with-carry chains are slower (one add a
     * cycle). A sum of 2^32 words of 32 bits fits 64 bits: no range here comes near. */
    #if defined(__x86_64__) && __GNUC__ >= 12 && !defined(__clang__) && defined(__gnu_linux__) \\
        && !defined(__SANITIZE_ADDRESS__)
    #define VF_CLONES __attribute__((target_clones("arch=x86-64-v4", "avx2", "default"), optimize("O3")))
    #else
    #define VF_CLONES
    #endif

    /* Sum in host order, unfolded; the caller folds, and stores big-endian by way of vf_csum_fold (RFC 1071 §2(B)). */
    VF_CLONES __attribute__((unused)) static uint64_t vf_csum_words(const uint8_t *p, uint64_t words)
    {
        uint64_t sum = 0;
        for (uint64_t i = 0; i < words; i++) {
            uint32_t w;
            memcpy(&w, p + 4 * i, 4);
            sum += w;
        }
        return sum;
    }

    static inline uint64_t vf_csum_tail(const uint8_t *p, uint64_t n)
    {
        uint64_t sum = 0;
        uint16_t w;
        if (n & 2) {
            memcpy(&w, p, 2);
            sum += w;
            p += 2;
        }
        if (n & 1) {
            uint8_t last[2] = {p[0], 0};
            memcpy(&w, last, 2);
            sum += w;
        }
        return sum;
    }

    /* Of headers and other short ranges: inlined, no dispatch. */
    static inline uint64_t vf_csum_short(const uint8_t *p, uint64_t n)
    {
        uint64_t sum = 0;
        for (; n >= 4; n -= 4, p += 4) {
            uint32_t w;
            memcpy(&w, p, 4);
            sum += w;
        }
        return sum + vf_csum_tail(p, n);
    }

    static inline uint64_t vf_csum(const uint8_t *p, uint64_t n)
    {
        if (n <= 128)  /* the dispatched call costs more than it saves */
            return vf_csum_short(p, n);
        return vf_csum_words(p, n >> 2) + vf_csum_tail(p + (n & ~(uint64_t)3), n);
    }

    /* To 16 bits, as a number in network order: store it with a big-endian store. */
    static inline uint16_t vf_csum_fold(uint64_t sum)
    {
        sum = (sum & 0xffffffffu) + (sum >> 32);
        sum = (sum & 0xffffffffu) + (sum >> 32);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
    #if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
        return __builtin_bswap16((uint16_t)sum);
    #else
        return (uint16_t)sum;
    #endif
    }
    #endif
    """
    uint64_t csum "vf_csum"(const uint8_t *p, uint64_t n) noexcept nogil
    uint64_t csum_short "vf_csum_short"(const uint8_t *p, uint64_t n) noexcept nogil
    uint16_t csum_fold "vf_csum_fold"(uint64_t total) noexcept nogil


cdef inline uint64_t csum_word(uint16_t x) noexcept nogil:
    """The sum of one 16-bit field whose value, in host order, is ``x``."""
    return bswap16(x) if HOST_IS_LITTLE else x


cdef inline uint16_t csum_finish(uint64_t total) noexcept nogil:
    """The value for a checksum field."""
    return <uint16_t>~csum_fold(total)


cdef inline uint16_t csum_finish_udp(uint64_t total) noexcept nogil:
    """As above, and 0 is sent as all ones: 0 says "no checksum" (RFC 768)."""
    cdef uint16_t x = <uint16_t>~csum_fold(total)
    return x if x else 0xFFFF


cdef inline uint16_t csum_update(uint16_t check, uint16_t old, uint16_t new) noexcept nogil:
    """A checksum field after a 16-bit word changed: HC' = ~(~HC + ~m + m') (RFC 1624 §3, eqn. 3). All host order."""
    cdef uint32_t total = <uint32_t>(<uint16_t>~check) + <uint16_t>~old + new
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return <uint16_t>~total


cdef inline uint16_t csum_update32(uint16_t check, uint32_t old, uint32_t new) noexcept nogil:
    """The same for an aligned 32-bit field, an IPv4 address say."""
    check = csum_update(check, <uint16_t>(old >> 16), <uint16_t>(new >> 16))
    return csum_update(check, <uint16_t>old, <uint16_t>new)


cdef inline uint64_t csum_pseudo4(const uint8_t *ip, uint32_t l4_len, uint8_t proto) noexcept nogil:
    """IPv4 pseudo header (RFC 768) of the header at ``ip``."""
    return csum_short(ip + 12, 8) + csum_word(proto) + csum_word(<uint16_t>l4_len) + csum_word(<uint16_t>(l4_len >> 16))


cdef inline uint64_t csum_pseudo6(const uint8_t *ip, uint32_t l4_len, uint8_t proto) noexcept nogil:
    """IPv6 pseudo header (RFC 8200 §8.1) of the header at ``ip``."""
    return csum_short(ip + 8, 32) + csum_word(proto) + csum_word(<uint16_t>l4_len) + csum_word(<uint16_t>(l4_len >> 16))


cdef inline bint csum_l4_ok(const uint8_t *ip, uint8_t version, const uint8_t *p, uint32_t n,
                            uint8_t proto) noexcept nogil:
    """An upper-layer message of ``n`` bytes at ``p``, all in hand, under the IP header at ``ip``: sums to all ones."""
    cdef uint64_t total = csum(p, n)
    total += csum_pseudo4(ip, n, proto) if version == 4 else csum_pseudo6(ip, n, proto)
    return csum_fold(total) == 0xFFFF
