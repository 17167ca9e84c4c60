"""UDP, TCP and SCTP. See ``exact``."""
from libc.stdint cimport uint8_t, uint32_t

from tests.probe.exact cimport Exact, blank, outcome
cimport vxlanfast._ext.wire.sctp as sctp
cimport vxlanfast._ext.wire.tcp as tcp
cimport vxlanfast._ext.wire.udp as udp


# udp


def udp_check(source):
    cdef Exact b = Exact(source)
    return udp.udp_check(b.p, b.n)


def udp_src(source):
    cdef Exact b = Exact(source, 8)
    return udp.udp_src(b.p)


def udp_dst(source):
    cdef Exact b = Exact(source, 8)
    return udp.udp_dst(b.p)


def udp_len(source):
    cdef Exact b = Exact(source, 8)
    return udp.udp_len(b.p)


def udp_csum(source):
    cdef Exact b = Exact(source, 8)
    return udp.udp_csum(b.p)


def udp_set_src(source, value):
    cdef Exact b = Exact(source, 8)
    udp.udp_set_src(b.p, value)
    return b.out()


def udp_set_dst(source, value):
    cdef Exact b = Exact(source, 8)
    udp.udp_set_dst(b.p, value)
    return b.out()


def udp_set_len(source, value):
    cdef Exact b = Exact(source, 8)
    udp.udp_set_len(b.p, value)
    return b.out()


def udp_set_csum(source, value):
    cdef Exact b = Exact(source, 8)
    udp.udp_set_csum(b.p, value)
    return b.out()


def udp_find_end(source, uint32_t room, bint to_end):
    cdef Exact b = Exact(source, 8)
    cdef uint32_t end = 0
    v = udp.udp_find_end(b.p, room, to_end, &end)
    return outcome(v, end)


def udp_csum_ok(header, uint8_t version, source):
    cdef Exact h = Exact(header, 20 if version == 4 else 40)
    cdef Exact b = Exact(source, 8)
    return bool(udp.udp_csum_ok(h.p, version, b.p, b.n))


def udp_write(src, dst, length, check):
    cdef Exact b = blank(udp.UDP_HDR_LEN)
    udp.udp_write(b.p, src, dst, length, check)
    return b.out()


# tcp


def tcp_check(source):
    cdef Exact b = Exact(source)
    return tcp.tcp_check(b.p, b.n)


def tcp_src(source):
    cdef Exact b = Exact(source, 20)
    return tcp.tcp_src(b.p)


def tcp_dst(source):
    cdef Exact b = Exact(source, 20)
    return tcp.tcp_dst(b.p)


def tcp_seq(source):
    cdef Exact b = Exact(source, 20)
    return tcp.tcp_seq(b.p)


def tcp_ack(source):
    cdef Exact b = Exact(source, 20)
    return tcp.tcp_ack(b.p)


def tcp_hdr_len(source):
    cdef Exact b = Exact(source, 20)
    return tcp.tcp_hdr_len(b.p)


def tcp_flags(source):
    cdef Exact b = Exact(source, 20)
    return tcp.tcp_flags(b.p)


def tcp_window(source):
    cdef Exact b = Exact(source, 20)
    return tcp.tcp_window(b.p)


def tcp_csum(source):
    cdef Exact b = Exact(source, 20)
    return tcp.tcp_csum(b.p)


def tcp_set_src(source, value):
    cdef Exact b = Exact(source, 20)
    tcp.tcp_set_src(b.p, value)
    return b.out()


def tcp_set_dst(source, value):
    cdef Exact b = Exact(source, 20)
    tcp.tcp_set_dst(b.p, value)
    return b.out()


def tcp_set_seq(source, value):
    cdef Exact b = Exact(source, 20)
    tcp.tcp_set_seq(b.p, value)
    return b.out()


def tcp_set_ack(source, value):
    cdef Exact b = Exact(source, 20)
    tcp.tcp_set_ack(b.p, value)
    return b.out()


def tcp_set_flags(source, value):
    cdef Exact b = Exact(source, 20)
    tcp.tcp_set_flags(b.p, value)
    return b.out()


def tcp_set_window(source, value):
    cdef Exact b = Exact(source, 20)
    tcp.tcp_set_window(b.p, value)
    return b.out()


def tcp_set_csum(source, value):
    cdef Exact b = Exact(source, 20)
    tcp.tcp_set_csum(b.p, value)
    return b.out()


def tcp_csum_ok(header, uint8_t version, source):
    cdef Exact h = Exact(header, 20 if version == 4 else 40)
    cdef Exact b = Exact(source, 20)
    return bool(tcp.tcp_csum_ok(h.p, version, b.p, b.n))


def tcp_write(src, dst, seq, ack, flags, window):
    cdef Exact b = blank(tcp.TCP_HDR_LEN)
    tcp.tcp_write(b.p, src, dst, seq, ack, flags, window)
    return b.out()


# sctp


def sctp_check(source):
    cdef Exact b = Exact(source)
    return sctp.sctp_check(b.p, b.n)


def sctp_src(source):
    cdef Exact b = Exact(source, 12)
    return sctp.sctp_src(b.p)


def sctp_dst(source):
    cdef Exact b = Exact(source, 12)
    return sctp.sctp_dst(b.p)


def sctp_vtag(source):
    cdef Exact b = Exact(source, 12)
    return sctp.sctp_vtag(b.p)


def sctp_csum(source):
    cdef Exact b = Exact(source, 12)
    return sctp.sctp_csum(b.p)


def sctp_chunk(source):
    """None where there is none."""
    cdef Exact b = Exact(source, 12)
    kind = sctp.sctp_chunk(b.p, b.n)
    return None if kind == sctp.SCTP_CHUNK_NONE else kind


def sctp_chunks(source):
    """The whole walk: ``[(offset, type)]``."""
    cdef Exact b = Exact(source, 12)
    cdef uint32_t at = sctp.SCTP_HDR_LEN
    found = []
    while at and sctp.sctp_chunk_at(b.p, b.n, at) != sctp.SCTP_CHUNK_NONE:
        found.append((at, sctp.sctp_chunk_at(b.p, b.n, at)))
        at = sctp.sctp_next(b.p, b.n, at)
    return found


def sctp_chunk_at(source, uint32_t at):
    cdef Exact b = Exact(source, 12)
    kind = sctp.sctp_chunk_at(b.p, b.n, at)
    return None if kind == sctp.SCTP_CHUNK_NONE else kind


def sctp_csum_ok(source):
    cdef Exact b = Exact(source, 12)
    return bool(sctp.sctp_csum_ok(b.p, b.n))


def sctp_set_src(source, value):
    cdef Exact b = Exact(source, 12)
    sctp.sctp_set_src(b.p, value)
    return b.out()


def sctp_set_dst(source, value):
    cdef Exact b = Exact(source, 12)
    sctp.sctp_set_dst(b.p, value)
    return b.out()


def sctp_set_vtag(source, value):
    cdef Exact b = Exact(source, 12)
    sctp.sctp_set_vtag(b.p, value)
    return b.out()


def sctp_set_csum(source):
    cdef Exact b = Exact(source, 12)
    sctp.sctp_set_csum(b.p, b.n)
    return b.out()


def sctp_write(src, dst, vtag):
    cdef Exact b = blank(sctp.SCTP_HDR_LEN)
    sctp.sctp_write(b.p, src, dst, vtag)
    return b.out()
