"""CRC32c (Castagnoli; RFC 9260 appendix A, RFC 3720 appendix B.4), reflected: polynomial 0x82F63B78.

``crc32c(crc, p, n)`` goes on from ``crc``, so ranges follow each other: start from ``CRC32C_START``, and the checksum is the
complement of the last result. The processor's instruction where there is one, asked for once, when the module is loaded.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from *:
    """
    #ifndef VF_CRC32C
    #define VF_CRC32C
    #include <stdint.h>
    #include <string.h>

    /* Eight tables: table k has the remainders of a byte that k bytes of zeros follow, so that eight bytes are eight
     * look-ups that do not wait for each other. */
    static uint32_t vf_crc32c_table[8][256];

    __attribute__((unused)) static uint32_t vf_crc32c_plain(uint32_t crc, const uint8_t *p, uint64_t n)
    {
        const uint32_t (*t)[256] = (const uint32_t (*)[256])vf_crc32c_table;
        for (; n >= 8; n -= 8, p += 8) {
            crc ^= (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
            crc = t[7][crc & 0xff] ^ t[6][crc >> 8 & 0xff] ^ t[5][crc >> 16 & 0xff] ^ t[4][crc >> 24]
                ^ t[3][p[4]] ^ t[2][p[5]] ^ t[1][p[6]] ^ t[0][p[7]];
        }
        for (; n; n--, p++)
            crc = crc >> 8 ^ t[0][(crc ^ *p) & 0xff];
        return crc;
    }

    static uint32_t (*vf_crc32c_run)(uint32_t, const uint8_t *, uint64_t) = vf_crc32c_plain;

    #if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
    __attribute__((target("sse4.2"), unused))
    static uint32_t vf_crc32c_sse42(uint32_t crc, const uint8_t *p, uint64_t n)
    {
        uint64_t wide = crc, word;
        for (; n >= 8; n -= 8, p += 8) {
            memcpy(&word, p, 8);
            wide = __builtin_ia32_crc32di(wide, word);
        }
        crc = (uint32_t)wide;
        for (; n; n--, p++)
            crc = __builtin_ia32_crc32qi(crc, *p);
        return crc;
    }
    #endif

    __attribute__((constructor, unused)) static void vf_crc32c_choose(void)
    {
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t crc = i;
            for (int bit = 0; bit < 8; bit++)
                crc = crc >> 1 ^ (0x82F63B78u & (0u - (crc & 1)));
            vf_crc32c_table[0][i] = crc;
        }
        for (int k = 1; k < 8; k++)
            for (uint32_t i = 0; i < 256; i++) {
                uint32_t crc = vf_crc32c_table[k - 1][i];
                vf_crc32c_table[k][i] = crc >> 8 ^ vf_crc32c_table[0][crc & 0xff];
            }
    #if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
        __builtin_cpu_init();
        if (__builtin_cpu_supports("sse4.2"))
            vf_crc32c_run = vf_crc32c_sse42;
    #endif
    }

    static inline uint32_t vf_crc32c(uint32_t crc, const uint8_t *p, uint64_t n)
    {
        return vf_crc32c_run(crc, p, n);
    }
    #endif
    """
    uint32_t crc32c "vf_crc32c"(uint32_t crc, const uint8_t *p, uint64_t n) noexcept nogil
    uint32_t crc32c_plain "vf_crc32c_plain"(uint32_t crc, const uint8_t *p, uint64_t n) noexcept nogil

cdef enum:
    CRC32C_START = 0xFFFFFFFFU
