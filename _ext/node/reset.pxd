"""TCP resets that a node sends by itself, about a connection that it ends: rows of their own behind the batch's.

Each stands in the arena as a frame to the gateway of its network, from the other side, so that Route sends it on as it would a
segment of that side.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t
from libc.string cimport memcpy

from vxlanfast._ext.batch cimport Columns, batch_grow_arena, batch_grow_rows, rows_init
from vxlanfast._ext.node.nat cimport NatTuple, nat_tuple
from vxlanfast._ext.table.conn cimport Conn
from vxlanfast._ext.verdict cimport PASS, RULE_RESET
from vxlanfast._ext.wire.csum cimport csum_finish, csum_pseudo4, csum_pseudo6, csum_short
from vxlanfast._ext.wire.endian cimport load_be16, load_be32
from vxlanfast._ext.wire.eth cimport ETH_HDR_LEN, ETH_TYPE_IPV4, ETH_TYPE_IPV6, eth_write
from vxlanfast._ext.wire.ipv4 cimport IP_PROTO_TCP, IPV4_DF, IPV4_HDR_LEN, ipv4_write
from vxlanfast._ext.wire.ipv6 cimport IPV6_HDR_LEN, IPV6_OFF_SRC, ipv6_write
from vxlanfast._ext.wire.tcp cimport TCP_FLAG_ACK, TCP_FLAG_RST, TCP_HDR_LEN, tcp_set_csum, tcp_write

cdef enum:
    RESET_LEN = 80          # bytes a reset may take in the arena: Ethernet, IPv6, TCP, rounded up
    RESET_TTL = 65          # Route takes one off
    LINK_ETHERNET = 1


cdef inline int reset_room(Columns *c, uint32_t rows) noexcept nogil:
    """Room for so many resets: 0, or -1 for no memory. Pointers into the batch are to be taken anew."""
    if batch_grow_rows(c, c.n + rows) or batch_grow_arena(c, c.arena_len + <uint64_t>rows * RESET_LEN + c.arena_cap // 2):
        return -1
    return 0


cdef inline void reset_row(Columns *c, const Conn *e, bint to_client, const uint8_t *mac, uint16_t net, uint32_t vni, uint32_t gateway,
                           int64_t now_ns) noexcept nogil:
    """A reset to one side of a connection, as from the other: with the number that side waits for (RFC 9293 §3.5.2), so that it is
    believed (RFC 5961 §3.2). ``mac``: the gateway's of the side's ``net``; ``gateway``: that one's number as a destination."""
    cdef uint32_t i = c.n, hdr_len = IPV4_HDR_LEN if e.family == 4 else IPV6_HDR_LEN
    cdef uint32_t seq = e.seq_ack[0 if to_client else 1], ack = e.seq_end[0 if to_client else 1]
    cdef uint8_t *frame = c.arena + c.arena_len
    cdef uint8_t *ip = frame + ETH_HDR_LEN
    cdef uint8_t *tcp = ip + hdr_len
    cdef NatTuple t
    if seq == 0:
        seq = e.seq_end[1 if to_client else 0]
    nat_tuple(&t, e, to_client)
    eth_write(frame, mac, mac, ETH_TYPE_IPV4 if e.family == 4 else ETH_TYPE_IPV6)
    tcp_write(tcp, load_be16(<const uint8_t *>&t.ports), load_be16(<const uint8_t *>&t.ports + 2), seq, ack,
              TCP_FLAG_RST | TCP_FLAG_ACK, 0)
    if e.family == 4:
        ipv4_write(ip, 0, IPV4_HDR_LEN + TCP_HDR_LEN, 0, IPV4_DF, RESET_TTL, IP_PROTO_TCP, load_be32(t.addrs), load_be32(t.addrs + 4))
        tcp_set_csum(tcp, csum_finish(csum_pseudo4(ip, TCP_HDR_LEN, IP_PROTO_TCP) + csum_short(tcp, TCP_HDR_LEN)))
    else:
        ipv6_write(ip, 0, 0, TCP_HDR_LEN, IP_PROTO_TCP, RESET_TTL)
        memcpy(ip + IPV6_OFF_SRC, t.addrs, 32)
        tcp_set_csum(tcp, csum_finish(csum_pseudo6(ip, TCP_HDR_LEN, IP_PROTO_TCP) + csum_short(tcp, TCP_HDR_LEN)))
    rows_init(c, i, 1)
    c.off[i] = <uint32_t>c.arena_len
    c.len[i] = c.wire_len[i] = ETH_HDR_LEN + hdr_len + TCP_HDR_LEN
    c.rec[i] = 0xFFFFFFFFU
    c.note_off[i] = c.note_len[i] = 0
    c.ts_ns[i] = now_ns
    c.link[i] = LINK_ETHERNET
    c.port_in[i] = 0
    c.net[i] = net
    c.vni[i] = vni
    c.origin[i] = c.dest[i] = gateway
    c.rule[i] = RULE_RESET
    c.verdict[i] = PASS
    if c.ordered:
        c.order[c.n_order] = i
        c.n_order += 1
    c.arena_len += RESET_LEN
    c.n += 1
