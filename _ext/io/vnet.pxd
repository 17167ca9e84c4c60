"""virtio_net_hdr (include/uapi/linux/virtio_net.h): what stands in front of a frame on a TAP with IFF_VNET_HDR, in the
machine's byte order.

    flags 1, gso_type 1, hdr_len 2, gso_size 2, csum_start 2, csum_offset 2                                 = 10 bytes
    tunnel GSO (Linux 6.17): + num_buffers 2, hash 4 + 2 + 2, outer_th_offset 2, inner_nh_offset 2         = 24 bytes
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from vxlanfast._ext.wire.csum cimport csum, csum_finish, csum_finish_udp, csum_fold, csum_pseudo4, csum_pseudo6
from vxlanfast._ext.wire.endian cimport load_host16, store_be16
from vxlanfast._ext.wire.segment cimport Shape, shape_csum_off, shape_find, shape_pseudo
from vxlanfast._ext.wire.udp cimport UDP_OFF_CSUM

cdef extern from "string.h" nogil:
    void *memcpy(void *to, const void *src, size_t n)

cdef enum:
    VNET_HDR_LEN = 10
    VNET_TUNNEL_LEN = 24
    VNET_NEEDS_CSUM = 1
    VNET_TUNNEL_CSUM = 8
    VNET_GSO_NONE = 0
    VNET_GSO_TCPV4 = 1
    VNET_GSO_TCPV6 = 4
    VNET_GSO_UDP_L4 = 5
    VNET_GSO_TUNNEL4 = 0x20
    VNET_GSO_TUNNEL6 = 0x40
    VNET_GSO_ECN = 0x80


cdef inline bint vnet_accept(const uint8_t *hdr, uint32_t hdr_len, uint8_t *frame, uint32_t n, uint16_t *gso) noexcept nogil:
    """Make the frame's checksums right, and say what its segments carry: a super-frame's transport checksum stays as it is, since
    it is made anew wherever it leaves. False: the header makes no sense, or is of a kind that was not asked for (UFO)."""
    cdef uint32_t start = load_host16(hdr + 6), at = start + load_host16(hdr + 8)
    cdef uint8_t kind = hdr[1] & <uint8_t>~(VNET_GSO_ECN | VNET_GSO_TUNNEL4 | VNET_GSO_TUNNEL6)
    cdef uint64_t total
    cdef uint32_t inner
    cdef Shape s
    gso[0] = 0
    if kind != VNET_GSO_NONE:
        if kind != VNET_GSO_TCPV4 and kind != VNET_GSO_TCPV6 and kind != VNET_GSO_UDP_L4:
            return False
        gso[0] = load_host16(hdr + 4)
        if gso[0] == 0:
            return False
        inner = 0
        if hdr[1] & (VNET_GSO_TUNNEL4 | VNET_GSO_TUNNEL6):
            if hdr_len < VNET_TUNNEL_LEN:
                return False
            inner = <uint32_t>load_host16(hdr + 20) + 16  # behind UDP and VXLAN; a tunnel of another kind is not for us
        if inner >= n or not shape_find(frame + inner, n - inner, &s):
            return False
        if s.payload > gso[0]:
            return True
        gso[0] = 0
    if hdr[0] & VNET_NEEDS_CSUM:
        # The field holds the pseudo header's sum; the rest is ours to add.
        if start < 14 or at + 2 > n:
            return False
        total = csum(frame + start, n - start)
        store_be16(frame + at, csum_finish_udp(total) if at - start == UDP_OFF_CSUM else csum_finish(total))
    return True


cdef inline void vnet_put(uint8_t *hdr, uint32_t size, const Shape *s, uint32_t gso, bint ecn) noexcept nogil:
    """The header of a super-frame of which each segment carries ``gso`` bytes, and whose checksum field has the pseudo header's sum
    (``vnet_partial``); ``s`` NULL: of a frame as it is."""
    cdef uint16_t number
    memset(hdr, 0, size)
    if s == NULL:
        return
    hdr[0] = VNET_NEEDS_CSUM
    hdr[1] = VNET_GSO_UDP_L4 if s.proto == 17 else VNET_GSO_TCPV6 if s.is_v6 else VNET_GSO_TCPV4
    if ecn:
        hdr[1] |= VNET_GSO_ECN
    number = <uint16_t>s.hdr_len
    memcpy(hdr + 2, &number, 2)
    number = <uint16_t>gso
    memcpy(hdr + 4, &number, 2)
    number = <uint16_t>s.l4
    memcpy(hdr + 6, &number, 2)
    number = <uint16_t>shape_csum_off(s)
    memcpy(hdr + 8, &number, 2)


cdef inline void vnet_partial(uint8_t *headers, const Shape *s, uint32_t payload) noexcept nogil:
    """The checksum field of a copy of a frame's headers holds the pseudo header's sum alone."""
    store_be16(headers + s.l4 + shape_csum_off(s), csum_fold(shape_pseudo(headers, s, payload)))


cdef inline bint vnet_outer(const uint8_t *hdr, uint8_t *frame, uint32_t n) noexcept nogil:
    """The outer UDP checksum of a tunnel's super-frame, whose field has the pseudo header's sum: none over IPv4, which RFC 7348 §5
    has it be, and the right one over IPv6, which wants one. False: the header makes no sense."""
    cdef uint32_t at
    cdef uint8_t *udp
    cdef uint64_t total
    if not hdr[1] & (VNET_GSO_TUNNEL4 | VNET_GSO_TUNNEL6):
        return True
    at = load_host16(hdr + 20)
    if at < 14 + 20 or at + 8 > n:
        return False
    udp = frame + at
    if load_host16(udp + UDP_OFF_CSUM) == 0:
        return True
    store_be16(udp + UDP_OFF_CSUM, 0)
    if hdr[1] & VNET_GSO_TUNNEL6:
        if at < 14 + 40:
            return False
        total = csum(udp, n - at) + csum_pseudo6(udp - 40, n - at, 17)
        store_be16(udp + UDP_OFF_CSUM, csum_finish_udp(total))
    return True


cdef inline void vnet_put_tunnel(uint8_t *hdr, uint8_t *outer, uint32_t outer_len, const Shape *s, uint32_t gso,
                                 bint ecn) noexcept nogil:
    """The header (24 bytes) of a super-frame behind ``outer_len`` bytes of tunnel headers, which end with UDP and VXLAN: the kernel's
    ``virtio_net_hdr_tnl_to_skb`` (include/linux/virtio_net.h). An outer checksum becomes the pseudo header's sum."""
    cdef uint32_t udp = outer_len - 16
    cdef bint is_v6 = outer[14] >> 4 == 6
    cdef uint16_t number
    cdef uint32_t size = 16 + s.hdr_len + s.payload
    vnet_put(hdr, VNET_TUNNEL_LEN, s, gso, ecn)
    hdr[1] |= VNET_GSO_TUNNEL6 if is_v6 else VNET_GSO_TUNNEL4
    number = <uint16_t>(outer_len + s.hdr_len)
    memcpy(hdr + 2, &number, 2)
    number = <uint16_t>(outer_len + s.l4)
    memcpy(hdr + 6, &number, 2)
    number = <uint16_t>udp
    memcpy(hdr + 20, &number, 2)
    number = <uint16_t>(outer_len + s.l3)
    memcpy(hdr + 22, &number, 2)
    if load_host16(outer + udp + UDP_OFF_CSUM):
        hdr[0] |= VNET_TUNNEL_CSUM
        store_be16(outer + udp + UDP_OFF_CSUM,
                   csum_fold(csum_pseudo6(outer + 14, size, 17) if is_v6 else csum_pseudo4(outer + 14, size, 17)))
