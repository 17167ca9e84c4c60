/* What reading, moving and writing every packet costs at the least: VXLAN over IPv4 off or on a little-endian pcap
 * file, in the fewest instructions. It checks nothing, knows one format and counts nothing: a floor to approach, no
 * peer. "floor decap IN OUT" or "floor encap IN OUT". */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CHUNK = 1 << 20, RECORD = 16, OUTER = 50 };

static const uint8_t template[OUTER] = {
    2, 0, 192, 0, 2, 2, 2, 0, 192, 0, 2, 1, 8, 0,                             /* Ethernet */
    0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,      /* IPv4 */
    0, 0, 18, 181, 0, 0, 0, 0, 8, 0, 0, 0, 0, 16, 0, 0,                       /* UDP, VXLAN */
};

static uint32_t load32(const uint8_t *p) { uint32_t x; memcpy(&x, p, 4); return x; }
static void store16(uint8_t *p, uint16_t x) { x = __builtin_bswap16(x); memcpy(p, &x, 2); }

static uint8_t *put_on(uint8_t *q, const uint8_t *p, uint32_t length)
{
    uint32_t longer = length + OUTER, sum, i;
    uint64_t flow;
    memcpy(q, p, 8);
    memcpy(q + 8, &longer, 4);
    memcpy(q + 12, &longer, 4);
    q += RECORD;
    p += RECORD;
    memcpy(q, template, OUTER);
    store16(q + 16, length + 36);
    for (sum = 0, i = 14; i < 34; i += 2)
        sum += q[i] << 8 | q[i + 1];
    sum = (sum & 0xffff) + (sum >> 16);
    store16(q + 24, ~(sum + (sum >> 16)));
    memcpy(&flow, p + 26, 8);
    flow = (flow ^ load32(p + 34)) * UINT64_C(0x9e3779b97f4a7c15);
    store16(q + 34, 0xc000 | flow >> 50);
    store16(q + 38, length + 16);
    memcpy(q + OUTER, p, length);
    return q + OUTER + length;
}

static uint8_t *take_off(uint8_t *q, const uint8_t *p, uint32_t length)
{
    uint32_t shorter = length - OUTER;
    memcpy(q, p, 8);
    memcpy(q + 8, &shorter, 4);
    memcpy(q + 12, &shorter, 4);
    memcpy(q + RECORD, p + RECORD + OUTER, shorter);
    return q + RECORD + shorter;
}

int main(int argc, char **argv)
{
    uint8_t *in = malloc(CHUNK), *out = malloc(2 * CHUNK);
    size_t have = 0, at = 24;
    ssize_t got;
    if (argc != 4 || in == NULL || out == NULL)
        return 2;
    int decap = argv[1][0] == 'd';
    int from = open(argv[2], O_RDONLY), to = open(argv[3], O_WRONLY | O_CREAT | O_TRUNC, 0644);
    uint8_t *q = out + 24;
    if (from < 0 || to < 0)
        return 1;
    while ((got = read(from, in + have, CHUNK - have)) > 0) {
        have += got;
        if (q == out + 24 && at == 24)
            memcpy(out, in, 24);  /* the file header leads the first piece */
        while (at + RECORD <= have && at + RECORD + load32(in + at + 8) <= have) {
            uint32_t length = load32(in + at + 8);
            if (decap && length < OUTER)
                return 1;
            q = decap ? take_off(q, in + at, length) : put_on(q, in + at, length);
            at += RECORD + length;
        }
        if (write(to, out, q - out) != q - out)
            return 1;
        memmove(in, in + at, have - at);
        have -= at;
        at = 0;
        q = out;
    }
    return have != 0;
}
