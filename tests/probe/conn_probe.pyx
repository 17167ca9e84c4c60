"""Connections by the million: tuples made, tables filled and asked, packets spoofed and rewritten, at the core's own speed."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from vxlanfast._ext.batch cimport PacketBatch
from vxlanfast._ext.node.nat cimport NatTuple, nat_apply
from vxlanfast._ext.table.conn cimport CONN_NONE, ConnKey, ConnTable, conn_key4, conn_key6
from vxlanfast._ext.table.hash cimport hash_u64
from vxlanfast._ext.wire.csum cimport csum, csum_finish, csum_finish_udp, csum_pseudo4, csum_pseudo6
from vxlanfast._ext.wire.endian cimport load_be16, store_be16, store_be32


cdef void keys_of(uint64_t n, uint64_t seed, bint six, ConnKey *forward, ConnKey *reverse) noexcept nogil:
    """The two keys of connection ``n``: a client of its own, one virtual address, a server and a port of its own there."""
    cdef uint8_t addrs[32]
    cdef uint32_t ports
    cdef uint64_t mixed = hash_u64(n, 1)
    memset(addrs, 7, 32)
    memcpy(addrs + (12 if six else 0), &mixed, 4)
    ports = 80 << 16 | <uint32_t>(mixed >> 48)
    memcpy(addrs + (16 if six else 4), &n, 2)
    if six:
        memcpy(addrs, &n, 4)
        conn_key6(forward, addrs, ports, 0, 6, seed)
    else:
        conn_key4(forward, addrs, ports, 0, 6, seed)
    memset(addrs, 9, 32)
    memcpy(addrs, &n, 4)  # that answers differ
    if six:
        conn_key6(reverse, addrs, ports >> 16 | ports << 16, 0, 6, seed)
    else:
        conn_key4(reverse, addrs, ports >> 16 | ports << 16, 0, 6, seed)


def fill(ConnTable table, uint64_t first, uint64_t count, int64_t now_ns=0, int64_t timeout_ns=1 << 60, bint six=False):
    """Connections ``first`` … are opened, nobody's server's: how many there was room for."""
    cdef ConnKey f, r
    cdef uint64_t n, opened = 0
    with nogil:
        for n in range(first, first + count):
            keys_of(n, table.seed, six, &f, &r)
            if table.find(&f) == CONN_NONE and table.find(&r) == CONN_NONE:
                opened += table.open(&f, &r, now_ns, timeout_ns) != CONN_NONE
    return opened


def found(ConnTable table, uint64_t first, uint64_t count, bint six=False):
    """How many of those are found by both keys, as one connection."""
    cdef ConnKey f, r
    cdef uint64_t n, hits = 0
    cdef uint32_t ref
    with nogil:
        for n in range(first, first + count):
            keys_of(n, table.seed, six, &f, &r)
            ref = table.find(&f)
            hits += ref != CONN_NONE and ref & 1 == 0 and table.find(&r) == ref + 1
    return hits


def collide(ConnTable known, ConnTable unknown, uint32_t count, uint32_t mask):
    """``count`` tuples that ``known`` hashes to the same lower bits are connections of ``unknown``, and of ``known``
    as many as it has room for: how many tuples were tried."""
    cdef uint8_t addrs[8]
    cdef ConnKey f, r, at
    cdef uint64_t tried = 0
    cdef uint32_t opened = 0, ports = 0
    with nogil:
        store_be32(addrs + 4, 0xCB00710A)
        while opened < count:
            tried += 1
            store_be32(addrs, 0x0A000000 + <uint32_t>(tried >> 16))
            ports = 80 << 16 | <uint32_t>(tried & 0xFFFF)
            conn_key4(&f, addrs, ports, 0, 6, known.seed)
            if f.hash & mask:
                continue
            at = f
            store_be32(addrs, opened)
            conn_key4(&r, addrs, ports, 1, 6, known.seed)
            store_be32(addrs, 0x0A000000 + <uint32_t>(tried >> 16))
            known.open(&at, &r, 0, 1 << 60)
            conn_key4(&f, addrs, ports, 0, 6, unknown.seed)
            store_be32(addrs, opened)
            conn_key4(&r, addrs, ports, 1, 6, unknown.seed)
            unknown.open(&f, &r, 0, 1 << 60)
            opened += 1
    return tried


def collided(ConnTable known, ConnTable table, uint32_t mask, uint64_t tried):
    """How many of the tuples that ``collide`` made of so many are in ``table``."""
    cdef uint8_t addrs[8]
    cdef ConnKey f
    cdef uint64_t n, hits = 0
    with nogil:
        store_be32(addrs + 4, 0xCB00710A)
        for n in range(1, tried + 1):
            store_be32(addrs, 0x0A000000 + <uint32_t>(n >> 16))
            conn_key4(&f, addrs, 80 << 16 | <uint32_t>(n & 0xFFFF), 0, 6, known.seed)
            if f.hash & mask == 0:
                conn_key4(&f, addrs, 80 << 16 | <uint32_t>(n & 0xFFFF), 0, 6, table.seed)
                hits += table.find(&f) != CONN_NONE
    return hits


def spoof(PacketBatch batch, uint64_t seed, bint sources=True):
    """Every row, TCP over IPv4 without options, with another sequence and acknowledgement number; ``sources``: and from
    another address and port."""
    cdef uint8_t *ip
    cdef uint32_t i
    cdef uint64_t mixed, more
    with nogil:
        for i in range(batch.c.n):
            ip = batch.c.arena + batch.c.off[i] + 14
            mixed = hash_u64(i, hash_u64(seed, 3))
            more = hash_u64(mixed, 5)
            memcpy(ip + 24, &more, 8)
            if sources:
                store_be32(ip + 12, 0x0B000000 + <uint32_t>(mixed & 0x3FFFFFFF))
                store_be16(ip + 20, <uint16_t>(1024 + (mixed >> 32) % 64000))
                store_be16(ip + 10, 0)
                store_be16(ip + 10, csum_finish(csum(ip, 20)))


cdef void sum_l4(uint8_t *ip, bint six, uint8_t *l4, uint32_t n, uint8_t proto) noexcept nogil:
    """The upper layer's checksum, of all of it."""
    cdef uint32_t at = 16 if proto == 6 else 2 if proto == 1 or proto == 58 else 6
    cdef uint64_t total
    store_be16(l4 + at, 0)
    total = csum(l4, n)
    if proto != 1:
        total += csum_pseudo6(ip, n, proto) if six else csum_pseudo4(ip, n, proto)
    store_be16(l4 + at, csum_finish_udp(total) if proto == 17 else csum_finish(total))


def rewrite(uint64_t count, uint64_t seed):
    """Random packets rewritten to random tuples, and back: how many differ from one whose checksums were made anew, how
    many are not what they were, and how many had no UDP checksum and got one."""
    cdef uint8_t packet[40 + 20 + 64]
    cdef uint8_t whole[40 + 20 + 64]
    cdef uint8_t before[40 + 20 + 64]
    cdef uint8_t protos[4]
    cdef NatTuple t, old
    cdef uint64_t k, r, wrong = 0, lost = 0, summed = 0
    cdef uint32_t head, n, at, size
    cdef bint six, none
    cdef uint8_t proto
    cdef uint8_t *l4
    protos[0], protos[1], protos[2], protos[3] = 6, 17, 17, 1
    with nogil:
        for k in range(count):
            r = hash_u64(k, hash_u64(seed, 9))
            six = r & 1
            proto = protos[r >> 1 & 3]
            none = proto == 17 and r & 4 and not six  # no checksum
            if proto == 1 and six:
                proto = 58
            head = 40 if six else 20 + (<uint32_t>(r >> 4) & 3) * 4
            n = 20 + (<uint32_t>(r >> 6) & 63)
            # Seldom bytes that are all alike: sums of zero and of all ones.
            for at in range(0, head + n, 8):
                r = hash_u64(k * 31 + at, r) if k & 15 else 0 if k & 16 else ~<uint64_t>0
                size = head + n - at
                memcpy(packet + at, &r, 8 if size > 8 else size)
            r = hash_u64(k, r)
            l4 = packet + head
            if six:
                packet[0] = 0x60
            else:
                packet[0] = 0x40 | head // 4
                store_be16(packet + 10, 0)
                store_be16(packet + 10, csum_finish(csum(packet, head)))
            if proto == 1 or proto == 58:
                l4[0] = 8 if proto == 1 else 128
                l4[1] = 0
            sum_l4(packet, six, l4, n, proto)
            if none:
                store_be16(l4 + 6, 0)
            memcpy(before, packet, head + n)
            size = 32 if six else 8
            memcpy(old.addrs, packet + (8 if six else 12), size)
            memcpy(&old.ports, l4, 4)
            for at in range(0, 32, 8):
                r = hash_u64(at, r) if k & 63 else 0 if k & 64 else ~<uint64_t>0
                memcpy(t.addrs + at, &r, 8)
            r = hash_u64(k, r)
            t.ports = <uint32_t>r
            if proto == 1 or proto == 58:
                t.ports &= 0xFFFF  # an identifier
                old.ports = 0
                memcpy(&old.ports, l4 + 4, 2)
                if t.ports == 0:
                    t.ports = 1
                if old.ports == 0:
                    old.ports = t.ports
                    memcpy(l4 + 4, &old.ports, 2)
                    sum_l4(packet, six, l4, n, proto)
                    memcpy(before, packet, head + n)
            nat_apply(packet, 6 if six else 4, l4, n, proto, &t, True)
            memcpy(whole, packet, head + n)
            if not six:
                store_be16(whole + 10, 0)
                store_be16(whole + 10, csum_finish(csum(whole, head)))
            if not none:
                sum_l4(whole, six, whole + head, n, proto)
            elif load_be16(l4 + 6):
                summed += 1
            for at in range(head + n):
                if whole[at] != packet[at]:
                    wrong += 1
                    break
            nat_apply(packet, 6 if six else 4, l4, n, proto, &old, True)
            for at in range(head + n):
                if before[at] != packet[at]:
                    lost += 1
                    break
    return wrong, lost, summed
