"""The tables as a third party cimports them: what nodes call without Python, callable from tests."""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from vxlanfast._ext.table.fragments cimport FRAG_COMPLETE, FragHead, FragKey, FragmentTable, FragResult
from vxlanfast._ext.table.tunnels cimport TUNNEL_NONE, TunnelKey, TunnelTable


def add(FragmentTable table, uint32_t ident, uint32_t off, bytes payload, bint more, bytes header, int64_t now_ns,
        uint32_t packet_len=0, uint8_t marks=0, uint16_t flags=0):
    """One fragment of datagram ``ident``: the result's number, and where that completes it, header, payload, and the rest."""
    cdef FragKey key
    cdef FragHead head
    cdef FragResult result
    cdef uint32_t n
    memset(&key, 0, sizeof(key))
    key.version = 4
    key.ident = ident
    head.hdr = header
    head.hdr_len = <uint32_t>len(header)
    head.hdr_l3 = 14
    head.hdr_cut = 3
    head.packet_len = packet_len
    head.marks = marks
    head.flags = flags
    result = table.add(&key, off, payload, <uint32_t>len(payload), more, &head, now_ns)
    if result != FRAG_COMPLETE:
        return int(result), None
    n = table.datagram_len()
    whole = bytearray(b"\xa5" * n)
    table.take(<uint8_t *>whole, &head)
    parts = bytes(whole[:head.hdr_len]), bytes(whole[head.hdr_len:])
    return int(result), (*parts, head.hdr_l3, head.hdr_cut, head.packet_len, head.marks, head.flags)


def find(TunnelTable table, uint32_t vni, uint32_t src, int version=4):
    """The place of a tunnel's entry, and whether it is new; None: no memory."""
    cdef TunnelKey key
    cdef bint is_new = False
    cdef uint32_t at
    memset(&key, 0, sizeof(key))
    key.vni = vni
    key.version = <uint8_t>version
    memcpy(key.src, &src, 4)
    at = table.find(&key, &is_new)
    return (None if at == TUNNEL_NONE else at), bool(is_new)
