"""The schedulers: which of its servers a service gives the next connection, as IPVS's kernel does.

They go by the service's list, newest first, and by what service and servers remember; whatever no server takes is SERVER_NONE. Also the
kernel's buckets of sh and dh.
"""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from vxlanfast._ext.table.service cimport (
    HASH_BUCKETS, SCHED_DH, SCHED_LC, SCHED_NQ, SCHED_SED, SCHED_WRR, SERVER_NONE, Server, Service,
)
from vxlanfast._ext.wire.endian cimport load_be32

cdef enum:
    GOLDEN_32 = 0x61C88647  # of the kernel's hash_32


cdef inline bint server_takes(const Server *d) noexcept nogil:
    """Whether it may be given a new connection."""
    return d.weight > 0 and not d.overloaded


cdef inline uint32_t by_rr(Service *s, const Server *servers) noexcept nogil:
    """The next behind the last chosen, round and round; a server that takes none loses its turn."""
    cdef uint32_t at = s.cursor, k
    for k in range(s.n_servers):
        at = s.newest if at == SERVER_NONE else servers[at].next
        if at == SERVER_NONE:
            at = s.newest
        if server_takes(servers + at):
            s.cursor = at
            return at
    return SERVER_NONE


cdef inline int32_t gcd(int32_t a, int32_t b) noexcept nogil:
    cdef int32_t rest
    while b:
        rest = a % b
        a = b
        b = rest
    return a


cdef inline void wrr_changed(Service *s, const Server *servers) noexcept nogil:
    """Weights to be served after a change: from the list's head again, and near the weight that was served."""
    cdef uint32_t at = s.newest
    cdef int32_t most = 0, step = 0
    while at != SERVER_NONE:
        if servers[at].weight > 0:
            step = gcd(servers[at].weight, step)
            if servers[at].weight > most:
                most = servers[at].weight
        at = servers[at].next
    s.di = step if step else 1
    s.mw = most - (s.di - 1) if most else 0
    if s.scheduler == SCHED_WRR:
        s.cursor = SERVER_NONE
        if s.cw > s.mw or s.cw == 0:
            s.cw = s.mw
        elif s.di > 1:
            s.cw = s.cw // s.di * s.di + 1


cdef inline uint32_t by_wrr(Service *s, const Server *servers) noexcept nogil:
    """Those with at least the weight that is served now, which falls by the common divisor with every round.

    Rounds that nobody is heavy enough for are skipped. Where nobody takes any, the next one begins at the list's head with the most weight,
    unless the last round was under way already: then it goes on there, as in the kernel.
    """
    cdef uint32_t at = s.cursor
    cdef int32_t most = -1  # weight of whoever takes one
    if s.mw <= 0:
        return SERVER_NONE
    while True:
        at = s.newest if at == SERVER_NONE else servers[at].next
        if at != SERVER_NONE:
            if not servers[at].overloaded and servers[at].weight >= s.cw:
                s.cursor = at
                return at
            continue
        if most < 0:
            most = heaviest(s, servers)
            if most == 0:
                if s.cursor == SERVER_NONE or s.cw > s.di:
                    s.cursor = SERVER_NONE
                    s.cw = s.mw
                return SERVER_NONE
        s.cw -= s.di
        if s.cw <= 0:
            s.cw = s.mw
        if s.cw > most:
            s.cw -= (s.cw - most + s.di - 1) // s.di * s.di


cdef inline int32_t heaviest(const Service *s, const Server *servers) noexcept nogil:
    """The most weight among those that take new connections; 0: none does."""
    cdef uint32_t at = s.newest
    cdef int32_t most = 0
    while at != SERVER_NONE:
        if not servers[at].overloaded and servers[at].weight > most:
            most = servers[at].weight
        at = servers[at].next
    return most


cdef inline uint32_t by_load(const Service *s, const Server *servers) noexcept nogil:
    """The least loaded, by the scheduler's own measure; of equal ones the newest."""
    cdef uint32_t at = s.newest, best = SERVER_NONE
    cdef uint64_t load, least = 0
    cdef uint64_t weight, of = 1
    cdef const Server *d
    while at != SERVER_NONE:
        d = servers + at
        if server_takes(d):
            if s.scheduler == SCHED_NQ and d.active == 0:
                return at  # idle: nobody is faster
            weight = 1 if s.scheduler == SCHED_LC else <uint64_t>d.weight
            load = (<uint64_t>d.active + 1 if s.scheduler == SCHED_SED or s.scheduler == SCHED_NQ
                    else (<uint64_t>d.active << 8) + d.inactive)
            if best == SERVER_NONE or load * of < least * weight:
                best = at
                least = load
                of = weight
        at = d.next
    return best


cdef inline uint32_t ipvs_bucket(const uint8_t *addr, uint8_t family, uint16_t port) noexcept nogil:
    """The bucket of an address (and a port) in sh and dh."""
    cdef uint32_t fold = load_be32(addr)
    if family == 6:
        fold ^= load_be32(addr + 4) ^ load_be32(addr + 8) ^ load_be32(addr + 12)
    return <uint32_t>((fold + port) * <uint32_t>GOLDEN_32) >> 24


cdef inline void deal_by_turns(Service *s, const Server *servers) noexcept nogil:
    """sh and dh: as many buckets a turn as the weight is."""
    cdef uint32_t at = SERVER_NONE, turns = 0, k
    cdef int32_t weight
    for k in range(HASH_BUCKETS):
        if turns == 0 or at == SERVER_NONE:
            at = s.newest if at == SERVER_NONE else servers[at].next
            if at == SERVER_NONE:
                at = s.newest
            if at == SERVER_NONE:
                s.buckets[k] = SERVER_NONE
                continue
            weight = servers[at].weight if s.exact else servers[at].share
            # One of weight 0 has a bucket a turn as well, and dh looks at no weight.
            turns = 1 if s.scheduler == SCHED_DH or weight < 1 else <uint32_t>weight
        s.buckets[k] = at
        turns -= 1
