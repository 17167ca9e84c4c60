/* The Internet checksum over long ranges (RFC 1071), compiled once per instruction set and chosen at run time.
 *
 * The plain loop over 32-bit words into a 64-bit sum is what gcc turns into wide vector adds; add-with-carry chains
 * are slower (one add a cycle). A sum of 2^32 words of 32 bits fits 64 bits: no range here comes near. */
#ifndef VXLANFAST_CSUM_H
#define VXLANFAST_CSUM_H

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__gnu_linux__) && !defined(__SANITIZE_ADDRESS__)
#define VF_CLONES __attribute__((target_clones("arch=x86-64-v4", "avx2", "default"), optimize("O3")))
#else
#define VF_CLONES
#endif

/* Sum in host order, unfolded; the caller folds, and stores big-endian by way of vf_csum_fold (RFC 1071 §2(B)). */
VF_CLONES static uint64_t vf_csum_words(const uint8_t *p, uint64_t words)
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
