"""Virtual services and their real servers: which server gets the next connection, as IPVS's schedulers choose.

A service is an address with a port of a protocol, or an address with any port of any (what Swarm's firewall marks amount to).
Servers are numbers that connections hold: one that was removed keeps its number until the last connection has let go of it, and
is the same server again where it comes back before.
Their order is the kernel's, newest first, for every scheduler; ties go to the first.

sh, dh and mh give a client the server that a hash of its address says, of a table of buckets. With ``exact`` they do what IPVS does: the clients
of a drained server are refused, and draining one changes sh's table for others. Without, a drained server keeps its buckets, its clients
are spread over the others, and nobody else moves. mh's hash is keyed, as IPVS's is not.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int32_t

from vxlanfast._ext.table.maglev cimport MaglevEntry
from vxlanfast._ext.table.match cimport MatchTable

cdef enum:
    SERVICE_NONE = 0xFFFFFFFFU
    SERVER_NONE = 0xFFFFFFFFU
    HASH_BUCKETS = 256      # of sh and dh
    HASH_TRIES = 16         # further hashes, before everybody is looked at

    REMOVAL_DRAIN = 0       # they go on
    REMOVAL_HOLD = 1        # the client's packets are dropped until the server comes back, as IPVS does
    REMOVAL_RESET = 2       # both ends are told, at once
    REMOVAL_RESCHEDULE = 3  # the next packet of the client begins anew

    SERVICE_MASQ = 1        # servers see `masq` in place of the client
    SERVICE_HAIRPIN = 2     # … only if the client is the server itself, and then the service's own address
    SERVICE_RESET = 4       # a connection that is silent too long is reset at both ends


cpdef enum Scheduler:
    SCHED_RR = 0
    SCHED_WRR = 1
    SCHED_LC = 2
    SCHED_WLC = 3
    SCHED_SED = 4
    SCHED_NQ = 5
    SCHED_SH = 6
    SCHED_DH = 7
    SCHED_MH = 8
    SCHED_PYTHON = 9        # a function, asked for each new connection


cdef struct Server:
    # What every packet touches is one cache line …
    uint64_t packets[2]     # of clients, of the server
    uint64_t octets[2]      # … and their bytes, IP header and all
    bint removed            # no new connections, and gone with the last one
    int32_t weight          # 0: drained
    uint32_t service
    uint32_t active
    uint32_t inactive
    uint32_t upper          # 0: no limit
    uint32_t lower          # 0: three quarters of `upper`
    uint16_t port           # 0: the one the client used
    uint8_t family          # 4 or 6; 0: the number is free
    uint8_t removal         # of a removed one: what becomes of its connections
    # … and the rest is another.
    uint8_t addr[16]        # IPv4: the first four bytes, the rest zero
    bint overloaded         # from `upper` connections on, until there are fewer than `lower`
    int32_t share           # the last weight that was not 0: what buckets are shared out by
    uint32_t next           # older one of the service; SERVER_NONE
    uint32_t prev
    uint64_t connections    # ever
    uint64_t spare[3]


cdef struct Service:
    uint8_t addr[16]
    uint16_t net
    uint16_t port
    uint8_t family          # 4 or 6; 0: the number is free
    uint8_t proto           # 0: any
    uint8_t scheduler
    bint fallback           # sh, dh, mh: another server where the hash's own takes none
    bint with_port          # sh, mh: the client's port is hashed as well
    bint exact              # sh, dh, mh: as IPVS, which refuses where a server is drained
    bint stale              # sh, dh, mh: the buckets are of servers as they were
    uint32_t newest
    uint32_t oldest
    uint32_t n_servers
    uint32_t cursor         # rr, wrr: chosen last; SERVER_NONE: the list's head
    int32_t cw              # wrr: weight that is served now …
    int32_t mw              # … the most, less what the step leaves …
    int32_t di              # … and the step, their greatest common divisor
    uint32_t *buckets       # sh, dh, mh: servers
    uint32_t n_buckets
    uint64_t connections
    uint64_t refused        # nobody to give them to
    uint64_t packets[2]     # of servers that were removed: those that are there have their own …
    uint64_t octets[2]      # … and so have bytes
    # How its packets are rewritten, and how long it remembers; set by `set_policy`.
    uint16_t out_domain     # where its servers are
    uint8_t removal         # what becomes of connections to a server that is removed: REMOVAL_…
    uint8_t flags           # SERVICE_MASQ …
    uint8_t masq[16]        # the address that servers see as the client's
    uint32_t timeout_s[3]   # of an open TCP connection, of one that is being closed, of UDP; 0: the usual
    uint32_t persist_s      # a client stays with its server so long; 0: it does not
    uint8_t persist_len     # … all clients of a prefix so long being one


cdef class ServiceTable:
    cdef Service *services
    cdef Server *servers
    cdef dict plugins           # by service: the function that chooses
    cdef readonly uint64_t plugin_errors    # connections refused because one of them failed …
    cdef readonly object plugin_error       # … the last time with this
    cdef readonly MatchTable matches    # which packets are whose
    cdef MaglevEntry *entries   # where mh's tables are made: room for all servers, from the first service with mh on
    cdef uint64_t *turns
    cdef uint64_t seed
    cdef uint32_t last_server
    cdef readonly uint32_t capacity
    cdef readonly uint32_t server_capacity
    cdef readonly uint32_t size
    cdef readonly uint32_t n_servers
    cdef readonly uint32_t n_removed    # … of them, those that wait for their last connections
    cdef uint32_t find(self, uint16_t net, uint8_t family, uint8_t proto, const uint8_t *addr, uint16_t port) noexcept nogil
    cdef uint32_t choose(self, uint32_t service, const uint8_t *client, uint16_t sport, const uint8_t *to,
                         uint16_t dport) noexcept nogil
    cdef uint32_t by_plugin(self, uint32_t service, const uint8_t *client, uint16_t sport, const uint8_t *to,
                            uint16_t dport) noexcept with gil
    cdef uint32_t by_hash(self, Service *s, const uint8_t *addr, uint16_t port) noexcept nogil
    cdef uint32_t elsewhere(self, const Service *s, uint64_t wish) noexcept nogil
    cdef void bind(self, uint32_t server, bint active) noexcept nogil
    cdef void unbind(self, uint32_t server, bint active) noexcept nogil
    cdef void turn(self, uint32_t server, bint active) noexcept nogil
    cdef void changed(self, Service *s) noexcept nogil
    cdef void deal(self, Service *s) noexcept nogil
    cdef uint32_t find_removed(self, uint32_t service, const uint8_t *addr, uint16_t port) noexcept nogil
    cdef void carry(self, Server *d, bint back) noexcept nogil
    cdef void set_upper(self, Server *d, uint32_t upper) noexcept nogil
    cdef void free_server(self, uint32_t server) noexcept nogil
    cdef int make_buckets(self, Service *s) except -1
    cdef int check_service(self, uint32_t service) except -1
    cdef int check_server(self, uint32_t server) except -1
    cdef int check_counted(self, uint32_t server, bint active) except -1


cdef inline void server_carries(ServiceTable t, uint32_t server, bint reverse, uint32_t length, bint exact) noexcept nogil:
    """A packet of so many bytes from a client, or the server's (``reverse``). Of a server that was removed they are the service's
    alone, and with ``exact`` nobody's, as in IPVS."""
    cdef Server *d = t.servers + server
    if not d.removed:
        d.packets[reverse] += 1
        d.octets[reverse] += length
    elif not exact and d.service != SERVICE_NONE:
        t.services[d.service].packets[reverse] += 1
        t.services[d.service].octets[reverse] += length
