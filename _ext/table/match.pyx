"""Matches: set when a configuration is applied, and looked up by the first packet of each connection."""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memcpy, memset

from vxlanfast._ext.table.hash cimport hash_16, hash_u64

cdef enum:
    RANGE = 65536           # in a slot's key, in place of a port: the ranges of the address and protocol
    AT_START = 64


cdef inline uint32_t port_key(const Match *m) noexcept nogil:
    return <uint32_t>m.port if m.port == m.last else <uint32_t>RANGE


cdef class MatchTable:
    """Grows as it is filled; ``seed``: of the hash."""

    def __cinit__(self, *, uint64_t seed=0):
        self.seed = hash_u64(seed, 2)
        self.capacity = AT_START
        self.mask = 2 * AT_START - 1
        self.matches = <Match *>calloc(self.capacity, sizeof(Match))
        self.slots = <uint32_t *>calloc(<uint64_t>self.mask + 1, sizeof(uint32_t))
        if self.matches == NULL or self.slots == NULL:
            raise MemoryError("no room for matches")

    def __dealloc__(self):
        free(self.matches)
        free(self.slots)
        free(self.sources)

    cdef uint32_t slot_of(self, uint16_t domain, uint8_t family, uint8_t proto, const uint8_t *addr, uint32_t port) noexcept nogil:
        """Where the match of that key is, or would be."""
        cdef uint64_t word = <uint64_t>port << 32 | <uint64_t>domain << 16 | <uint64_t>family << 8 | proto
        cdef uint32_t at = <uint32_t>hash_16(addr, word, self.seed) & self.mask
        cdef const Match *m
        while self.slots[at]:
            m = self.matches + self.slots[at] - 1
            if (m.domain == domain and port_key(m) == port and m.family == family and m.proto == proto
                    and memcmp(m.addr, addr, 16) == 0):
                break
            at = (at + 1) & self.mask
        return at

    cdef uint32_t find(self, uint16_t domain, uint8_t family, uint8_t proto, const uint8_t *addr, uint16_t port) noexcept nogil:
        """The match of a packet's destination; MATCH_NONE."""
        cdef uint32_t at = self.slots[self.slot_of(domain, family, proto, addr, port)]
        if at:
            return at - 1
        if self.n_ranges:
            at = self.slots[self.slot_of(domain, family, proto, addr, RANGE)]
            while at:
                if self.matches[at - 1].port <= port <= self.matches[at - 1].last:
                    return at - 1
                at = self.matches[at - 1].next
        return self.slots[self.slot_of(domain, family, 0, addr, ANY_PORT)] - 1  # 0 - 1 is MATCH_NONE

    cdef bint lets_in(self, const Match *m, const uint8_t *client) noexcept nogil:
        """Whether the client, an address of 16 bytes, is one of those that may come."""
        cdef const Prefix *p = self.sources + m.sources_at
        cdef uint32_t k, whole, rest
        if m.n_sources == 0:
            return True
        for k in range(m.n_sources):
            whole = p[k].length >> 3
            rest = p[k].length & 7
            if memcmp(p[k].addr, client, whole) == 0 and (rest == 0 or ((p[k].addr[whole] ^ client[whole]) >> (8 - rest)) == 0):
                return True
        return False

    cdef int grow(self) except -1:
        cdef uint32_t capacity = self.capacity * 2, k, at
        cdef uint32_t *slots = <uint32_t *>calloc(<uint64_t>capacity * 2, sizeof(uint32_t))
        cdef Match *matches = <Match *>calloc(capacity, sizeof(Match))
        cdef const Match *m
        if slots == NULL or matches == NULL:
            free(slots)
            free(matches)
            raise MemoryError(f"no room for {capacity} matches")
        memcpy(matches, self.matches, self.capacity * sizeof(Match))
        free(self.matches)
        self.matches = matches
        at = 0
        # Numbers stay; only the heads of chains have a slot.
        for k in range(self.mask + 1):
            if self.slots[k]:
                m = matches + self.slots[k] - 1
                at = <uint32_t>hash_16(m.addr, <uint64_t>port_key(m) << 32 | <uint64_t>m.domain << 16 | <uint64_t>m.family << 8 | m.proto,
                                       self.seed) & (capacity * 2 - 1)
                while slots[at]:
                    at = (at + 1) & (capacity * 2 - 1)
                slots[at] = self.slots[k]
        free(self.slots)
        self.slots = slots
        self.mask = capacity * 2 - 1
        self.capacity = capacity
        return 0

    def __len__(self):
        return self.size

    def add(self, domain, addr, uint32_t service, *, proto=0, port=0, last=None, target=0, sources=()):
        """What comes to an address (packed) belongs to a service: ``port`` of ``proto`` up to ``last`` (None: that one), or
        with neither anything. ``target``: what the first port becomes, the others accordingly; 0: the server's, else none
        changes. ``sources``: (address, prefix length) of clients that may come; none: anybody. ValueError: taken already, by
        a match with the same port."""
        cdef uint32_t at, number = 0, link
        cdef Match *m
        cdef Prefix *grown
        raw = bytes(addr)
        last = port if last is None else last
        if len(raw) not in (4, 16) or not 0 <= domain < 65535 or not 0 <= port <= last < 65536 or not 0 <= proto < 256:
            raise ValueError(f"match of domain {domain}, {len(raw)} bytes of address, protocol {proto}, ports {port} to {last}")
        if (proto == 0) != (port == 0):
            raise ValueError(f"protocol {proto}, port {port}: both, or neither for any")
        if not 0 <= target <= 65535 - (last - port):
            raise ValueError(f"target {target}: {last - port + 1} ports from there on must be below 65536")
        padded = raw.ljust(16, b"\0")
        at = self.slot_of(domain, 4 if len(raw) == 4 else 6, proto, <const uint8_t *><const char *>padded,
                          port if port == last else RANGE)
        link = self.slots[at]
        while link:
            m = self.matches + link - 1
            if m.port <= last and port <= m.last:
                raise ValueError(f"ports {port} to {last} of protocol {proto}: given twice")
            link = m.next
        if self.size == self.capacity:
            self.grow()
            at = self.slot_of(domain, 4 if len(raw) == 4 else 6, proto, <const uint8_t *><const char *>padded,
                              port if port == last else RANGE)
        while self.matches[number].family:
            number += 1
        m = self.matches + number
        memset(m, 0, sizeof(Match))
        if sources:
            grown = <Prefix *>realloc(self.sources, <uint64_t>(self.n_sources + len(sources)) * sizeof(Prefix))
            if grown == NULL:
                raise MemoryError("no room for source ranges")
            self.sources = grown
            m.sources_at = self.n_sources
            for prefix, length in sources:
                base = bytes(prefix)
                if len(base) != len(raw) or not 0 <= length <= len(base) * 8:
                    raise ValueError(f"source /{length} of {len(base)} bytes")
                base = base.ljust(16, b"\0")
                memcpy(grown[self.n_sources].addr, <const char *>base, 16)
                grown[self.n_sources].length = length
                self.n_sources += 1
            m.n_sources = len(sources)
        memcpy(m.addr, <const char *>padded, 16)
        m.domain = domain
        m.proto = proto
        m.port = port
        m.last = last
        m.target = target
        m.service = service
        m.family = 4 if len(raw) == 4 else 6
        self.size += 1
        if port != last:
            self.n_ranges += 1
            if self.slots[at]:  # behind those that were set before
                link = self.slots[at] - 1
                while self.matches[link].next:
                    link = self.matches[link].next - 1
                self.matches[link].next = number + 1
                return number
        self.slots[at] = number + 1
        return number

    cdef void unlink(self, uint32_t at) noexcept nogil:
        """A slot is free: those behind it close up, so that a look-up may stop at the first free one."""
        cdef uint32_t hole = at, home
        cdef const Match *m
        self.slots[hole] = 0
        at = (at + 1) & self.mask
        while self.slots[at]:
            m = self.matches + self.slots[at] - 1
            home = <uint32_t>hash_16(m.addr, <uint64_t>port_key(m) << 32 | <uint64_t>m.domain << 16 | <uint64_t>m.family << 8 | m.proto,
                                     self.seed) & self.mask
            if ((at - home) & self.mask) >= ((at - hole) & self.mask):
                self.slots[hole] = self.slots[at]
                self.slots[at] = 0
                hole = at
            at = (at + 1) & self.mask

    def remove(self, uint32_t number):
        """ValueError: there is none of that number."""
        cdef uint32_t at, link
        cdef Match *m
        if number >= self.capacity or self.matches[number].family == 0:
            raise ValueError(f"match {number}: there is none of that number")
        m = self.matches + number
        at = self.slot_of(m.domain, m.family, m.proto, m.addr, port_key(m))
        if self.slots[at] != number + 1:
            link = self.slots[at] - 1
            while self.matches[link].next != number + 1:
                link = self.matches[link].next - 1
            self.matches[link].next = m.next
        elif m.next:
            self.slots[at] = m.next
        else:
            self.unlink(at)
        if m.port != m.last:
            self.n_ranges -= 1
        memset(m, 0, sizeof(Match))
        self.size -= 1

    def remove_service(self, uint32_t service):
        """Every match of a service goes."""
        cdef uint32_t number
        for number in range(self.capacity):
            if self.matches[number].family and self.matches[number].service == service:
                self.remove(number)

    def rows(self):
        """Matches as dictionaries, by number."""
        cdef uint32_t number
        cdef const Match *m
        out = []
        for number in range(self.capacity):
            m = self.matches + number
            if m.family:
                out.append({
                    "match": number, "domain": m.domain, "addr": PyBytes_FromStringAndSize(<char *>m.addr, 4 if m.family == 4 else 16),
                    "proto": m.proto, "port": m.port, "last": m.last, "target": m.target, "service": m.service,
                    "n_sources": m.n_sources,
                })
        return out
