"""An outer fragment, and what becomes of its row: shared by ``reassemble`` (captures) and ``receive`` (a node's underlay)."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from vxlanfast._ext.batch cimport Columns
from vxlanfast._ext.node.defrag cimport join_row
from vxlanfast._ext.table.fragments cimport (
    FRAG_COMPLETE, FRAG_DUPLICATE, FRAG_HELD, FRAG_OVERLAP, FragHead, FragmentTable, FragResult,
)
from vxlanfast._ext.verdict cimport (
    Verdict, PASS, DROP_FRAGMENT_BAD, DROP_FRAGMENT_DUPLICATE, DROP_FRAGMENT_HELD, DROP_FRAGMENT_OVERLAP,
)
from vxlanfast._ext.wire.ip cimport IpPacket, ip_parse
from vxlanfast._ext.wire.ipv4 cimport IP_PROTO_DSTOPTS, IP_PROTO_UDP
from vxlanfast._ext.wire.link cimport link_find_l3


cdef inline Verdict reassemble_row(Columns *c, uint32_t i, FragmentTable table, bint *no_memory) noexcept nogil:
    """PASS for a row that is no fragment, or now a whole datagram; else why it is gone."""
    cdef const uint8_t *p = c.arena + c.off[i]
    cdef uint16_t ethertype = 0
    cdef uint32_t l3 = 0, n = c.len[i], wire_n = c.wire_len[i]
    cdef IpPacket ip
    cdef FragHead head
    cdef FragResult result
    if wire_n < n:
        wire_n = n
    if link_find_l3(c.link[i], p, n, &ethertype, &l3) != PASS:
        return PASS
    if ip_parse(ethertype, p + l3, n - l3, wire_n - l3, &ip) != PASS or not ip.is_fragment:
        return PASS
    # Behind an IPv6 fragment header options may stand in front of UDP; only the first fragment shows what follows.
    if ip.proto != IP_PROTO_UDP and (ip.version == 4 or ip.proto != IP_PROTO_DSTOPTS):
        return PASS
    # The row that completes a datagram takes the first one's headers: their link types must agree.
    result = join_row(c, i, l3, &ip, c.link[i], table, &head, no_memory)
    if result == FRAG_COMPLETE:
        return PASS
    if result == FRAG_HELD:
        return DROP_FRAGMENT_HELD
    if result == FRAG_DUPLICATE:
        return DROP_FRAGMENT_DUPLICATE
    if result == FRAG_OVERLAP:
        return DROP_FRAGMENT_OVERLAP
    return DROP_FRAGMENT_BAD
