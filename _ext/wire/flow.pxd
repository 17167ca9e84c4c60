"""Which flow an Ethernet frame belongs to, as a number, and the outer UDP source port made of it (RFC 7348 §5).

    frame                                              what is hashed
    -------------------------------------------------  --------------------------------------------------------
    IP with TCP, UDP, UDP-Lite, SCTP, DCCP             addresses, protocol, ports
    IP with an ICMP or ICMPv6 echo, either way         addresses, protocol, identifier: one ping run is one flow
    IP with anything else, or cut before its ports     addresses, protocol
    IPv4 fragment, the first one too                   addresses, protocol
    IPv6 fragment, extension headers cut or broken     addresses (next headers may differ, RFC 8200 §4.5)
    not IP, or cut inside the IP header                MACs, ethertype (an IEEE 802.3 length counts as none)
    cut inside the tags                                MACs
    shorter than an Ethernet header                    every byte there is

VLAN tags are looked through, and IPv6 extension headers; an atomic fragment (RFC 6946) is whole. Source and
destination are not exchangeable: the two directions of a connection are two flows.

The hash folds the 128 bits of a 64 by 64 bit product, twice, of bytes read in little-endian order: the same number on
every machine. It is no defence against somebody who knows the seed and picks flows that collide.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from vxlanfast._ext.verdict cimport PASS
from vxlanfast._ext.wire.endian cimport likely, load_16, load_32, load_64, load_be16
from vxlanfast._ext.wire.eth cimport ETH_HDR_LEN, ETH_OFF_DST, ETH_TYPE_IPV4, ETH_TYPE_IPV6, ETH_TYPE_MIN, eth_find_l3
from vxlanfast._ext.wire.icmp cimport ICMP_OFF_ID, icmp6_is_echo, icmp_is_echo
from vxlanfast._ext.wire.ipv4 cimport (
    IP_PROTO_DCCP, IP_PROTO_ICMP, IP_PROTO_ICMPV6, IP_PROTO_SCTP, IP_PROTO_TCP, IP_PROTO_UDP, IP_PROTO_UDPLITE,
    IPV4_FRAG_MASK, IPV4_HDR_LEN, IPV4_MF, IPV4_OFF_PROTO, IPV4_OFF_SRC, ipv4_frag, ipv4_hdr_len,
)
from vxlanfast._ext.wire.ipv6 cimport IPV6_OFF_DST, IPV6_OFF_SRC, ipv6_check, ipv6_find_l4
from vxlanfast._ext.wire.vxlan cimport VXLAN_SPORT_COUNT, VXLAN_SPORT_FIRST

cdef extern from *:
    """
    #ifndef VF_FLOW_FOLD
    #define VF_FLOW_FOLD
    /* The two halves of a * b, xored. */
    static inline uint64_t vf_flow_fold(uint64_t a, uint64_t b)
    {
    #ifdef __SIZEOF_INT128__
        unsigned __int128 x = (unsigned __int128)a * b;
        return (uint64_t)x ^ (uint64_t)(x >> 64);
    #else
        uint64_t ll = (a & 0xffffffffu) * (b & 0xffffffffu), lh = (a & 0xffffffffu) * (b >> 32);
        uint64_t hl = (a >> 32) * (b & 0xffffffffu), hh = (a >> 32) * (b >> 32);
        uint64_t mid = (ll >> 32) + (lh & 0xffffffffu) + (hl & 0xffffffffu);
        return ((mid << 32) | (ll & 0xffffffffu)) ^ (hh + (lh >> 32) + (hl >> 32) + (mid >> 32));
    #endif
    }
    /* Of the fractional part of pi, made odd. */
    #define VF_FLOW_A UINT64_C(0x243f6a8885a308d3)
    #define VF_FLOW_B UINT64_C(0x13198a2e03707345)
    #define VF_FLOW_C UINT64_C(0xa4093822299f31d1)
    #define VF_FLOW_D UINT64_C(0x082efa98ec4e6c89)
    #endif
    """
    uint64_t flow_fold "vf_flow_fold"(uint64_t a, uint64_t b) noexcept nogil
    const uint64_t FLOW_A "VF_FLOW_A"
    const uint64_t FLOW_B "VF_FLOW_B"
    const uint64_t FLOW_C "VF_FLOW_C"
    const uint64_t FLOW_D "VF_FLOW_D"


cdef inline uint64_t flow_key(uint64_t seed) noexcept nogil:
    """The key that the hashes take: made of a seed once, not for each packet."""
    return flow_fold(seed ^ FLOW_C, FLOW_D)


cdef inline uint64_t flow_pair(const uint8_t *p, uint64_t key, uint64_t key2) noexcept nogil:
    """An IPv6 address to 64 bits."""
    return flow_fold(load_64(p, False) ^ key, load_64(p + 8, False) ^ key2)


cdef inline uint32_t flow_mix(uint64_t a, uint64_t b, uint64_t key) noexcept nogil:
    """Two words to 32 bits, all of them good."""
    return <uint32_t>flow_fold(flow_fold(a ^ key, b ^ FLOW_B), FLOW_C)


cdef inline uint32_t flow_l4(const uint8_t *p, uint32_t n, uint8_t proto) noexcept nogil:
    """What the upper-layer header of ``n`` bytes has to say: both ports, or an echo's identifier, or 0."""
    if (proto == IP_PROTO_TCP or proto == IP_PROTO_UDP or proto == IP_PROTO_SCTP or proto == IP_PROTO_DCCP
            or proto == IP_PROTO_UDPLITE):
        return load_32(p, False) if n >= 4 else 0
    if proto == IP_PROTO_ICMP or proto == IP_PROTO_ICMPV6:
        if n >= ICMP_OFF_ID + 2 and (icmp_is_echo(p) if proto == IP_PROTO_ICMP else icmp6_is_echo(p)):
            return load_16(p + ICMP_OFF_ID, False)
    return 0


cdef inline uint32_t flow_hash_ipv4(const uint8_t *p, uint32_t n, uint64_t key) noexcept nogil:
    """Of a packet with its first 20 bytes there; options may be cut."""
    cdef uint64_t rest = <uint64_t>p[IPV4_OFF_PROTO] << 32
    cdef uint32_t l4 = ipv4_hdr_len(p)
    if ipv4_frag(p) & (IPV4_FRAG_MASK | IPV4_MF) == 0 and l4 < n:
        rest |= flow_l4(p + l4, n - l4, p[IPV4_OFF_PROTO])
    return flow_mix(load_64(p + IPV4_OFF_SRC, False), rest, key)


cdef inline uint32_t flow_hash_ipv6(const uint8_t *p, uint32_t n, uint64_t key) noexcept nogil:
    """Of a packet with its 40-byte header there; extension headers may be cut."""
    cdef uint64_t rest = 0
    cdef uint32_t l4, fragment
    cdef uint8_t proto
    if (ipv6_find_l4(p, n, &proto, &l4, &fragment) == PASS
            and (fragment == 0 or load_be16(p + fragment + 2) & 0xFFF9 == 0)):
        rest = <uint64_t>proto << 32
        if l4 < n:
            rest |= flow_l4(p + l4, n - l4, proto)
    return flow_mix(flow_pair(p + IPV6_OFF_SRC, FLOW_A, FLOW_B) ^ flow_pair(p + IPV6_OFF_DST, FLOW_C, FLOW_D), rest, key)


cdef inline uint32_t flow_hash_any(const uint8_t *p, uint32_t n, uint64_t key) noexcept nogil:
    """``flow_hash`` without its short cut."""
    cdef uint8_t frame[16]
    cdef uint16_t kind
    cdef uint32_t l3, i
    if n < ETH_HDR_LEN:
        for i in range(16):
            frame[i] = p[i] if i < n else 0
        return flow_mix(load_64(frame, False), load_64(frame + 8, False), key)
    if eth_find_l3(p, n, &kind, &l3) != PASS or kind < ETH_TYPE_MIN:
        kind = 0
    elif kind == ETH_TYPE_IPV4:
        if n - l3 >= IPV4_HDR_LEN and p[l3] >> 4 == 4 and p[l3] & 0x0F >= 5:
            return flow_hash_ipv4(p + l3, n - l3, key)
    elif kind == ETH_TYPE_IPV6:
        if ipv6_check(p + l3, n - l3) == PASS:
            return flow_hash_ipv6(p + l3, n - l3, key)
    return flow_mix(load_64(p + ETH_OFF_DST, False), load_32(p + 8, False) | <uint64_t>kind << 32, key)


cdef inline bint flow_common(const uint8_t *p, uint32_t n, uint64_t key, uint32_t *hash) noexcept nogil:
    """``flow_hash`` of nearly every frame: untagged IPv4 without options, unfragmented TCP or UDP. False: any other.

    Small enough to stand in a loop; ``flow_hash_any`` says the same of such a frame.
    """
    cdef uint32_t word
    if not (likely(n >= ETH_HDR_LEN + IPV4_HDR_LEN + 4) and likely(load_32(p + 12, False) & 0xFFFFFF == 0x450008)):
        return False
    # The fields of one load are in reverse: protocol, (TTL,) fragment offset, fragment flags.
    word = load_32(p + 20, False) & 0xFF00FF3FU
    hash[0] = flow_mix(load_64(p + 26, False), load_32(p + 34, False) | <uint64_t>word << 8, key)
    return likely(word == IP_PROTO_TCP << 24 or word == IP_PROTO_UDP << 24)


cdef inline uint32_t flow_hash(const uint8_t *p, uint32_t n, uint64_t key) noexcept nogil:
    """The hash of the Ethernet frame at ``p``, of which ``n`` bytes are there; ``key``: of ``flow_key``. Reads no further,
    whatever the frame says."""
    cdef uint32_t hash = 0
    if likely(flow_common(p, n, key, &hash)):
        return hash
    return flow_hash_any(p, n, key)


cdef inline uint16_t flow_sport(uint32_t hash) noexcept nogil:
    """A source port of the dynamic range, 49152 … 65535: the upper bits of ``hash``, so that its lower ones stay free
    for a table index."""
    return <uint16_t>(VXLAN_SPORT_FIRST + (<uint64_t>hash * VXLAN_SPORT_COUNT >> 32))
