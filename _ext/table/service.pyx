"""Services and servers: added, changed, removed, and chosen from.

What the schedulers do was seen of a kernel (Linux 6.1); where its sources say otherwise, the kernel is right.
"""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy, memset

from vxlanfast._ext.table.hash cimport hash_16, hash_u64, table_memory
from vxlanfast._ext.table.maglev cimport MAGLEV_SLOTS, MaglevEntry, maglev_fill, maglev_slot
from vxlanfast._ext.table.match cimport MATCH_NONE, MatchTable
from vxlanfast._ext.table.schedule cimport by_load, by_rr, by_wrr, deal_by_turns, ipvs_bucket, server_takes, wrr_changed

cdef enum:
    CAPACITY_MAX = 1 << 20
    WEIGHT_MAX = 65535
    TIMEOUT_MAX_S = 31 * 86400

REMOVALS = ("drain", "hold", "reset", "reschedule")
SCHEDULERS = ("rr", "wrr", "lc", "wlc", "sed", "nq", "sh", "dh", "mh")


cdef str scheduler_name(const Service *s):
    return "python" if s.scheduler == SCHED_PYTHON else SCHEDULERS[s.scheduler]


cdef int check_numbers(weight, upper, lower) except -1:
    """ValueError where a server's numbers are impossible."""
    if not 0 <= weight <= WEIGHT_MAX:
        raise ValueError(f"weight {weight}: 0 to {WEIGHT_MAX}")
    if not 0 <= lower <= upper < 1 << 32:
        raise ValueError(f"thresholds {lower} and {upper}: the lower is not above the upper")
    return 0


cdef class ServiceTable:
    """``capacity`` services and ``servers`` real servers, fixed. ``seed``: of the look-up's hash."""

    def __cinit__(self, uint32_t capacity=1024, *, uint32_t servers=16384, uint64_t seed=0):
        if not 1 <= capacity <= CAPACITY_MAX or not 1 <= servers <= CAPACITY_MAX:
            raise ValueError(f"capacity = {capacity} services, {servers} servers: 1 to {CAPACITY_MAX} each")
        self.capacity = capacity
        self.server_capacity = servers
        self.seed = hash_u64(seed, 0)
        self.matches = MatchTable(seed=seed)
        self.plugins = {}
        self.services = <Service *>table_memory(<uint64_t>capacity * sizeof(Service))
        self.servers = <Server *>table_memory(<uint64_t>servers * sizeof(Server))
        if self.services == NULL or self.servers == NULL:
            raise MemoryError(f"no room for {capacity} services and {servers} servers")

    def __dealloc__(self):
        cdef uint32_t i
        if self.services != NULL:
            for i in range(self.capacity):
                free(self.services[i].buckets)
        free(self.services)
        free(self.servers)
        free(self.entries)
        free(self.turns)

    # --- look-up ----------------------------------------------------------------------------------------

    cdef uint32_t find(self, uint16_t net, uint8_t family, uint8_t proto, const uint8_t *addr, uint16_t port) noexcept nogil:
        """The service of a packet's destination: with its port, else the one of the address with any; SERVICE_NONE."""
        cdef uint32_t at = self.matches.find(net, family, proto, addr, port)
        return SERVICE_NONE if at == MATCH_NONE else self.matches.matches[at].service

    # --- schedulers -------------------------------------------------------------------------------------

    cdef uint32_t by_hash(self, Service *s, const uint8_t *addr, uint16_t port) noexcept nogil:
        """The server of an address (and a port), or another that takes it where that is allowed."""
        cdef uint64_t wish = hash_16(addr, port, self.seed)
        cdef uint32_t first, k, at
        if s.stale:
            self.deal(s)
        if s.scheduler == SCHED_MH:
            first = maglev_slot(wish, s.n_buckets)
        else:
            first = ipvs_bucket(addr, s.family, port)
        at = s.buckets[first]
        if at != SERVER_NONE and server_takes(self.servers + at):
            return at
        if not s.exact and (s.fallback or at == SERVER_NONE or self.servers[at].weight == 0):
            return self.elsewhere(s, wish)
        if not s.fallback:
            return SERVER_NONE
        if s.scheduler == SCHED_MH:
            return self.elsewhere(s, wish)
        for k in range(HASH_BUCKETS):  # IPVS adds the bucket to a hash that is the bucket
            at = s.buckets[(2 * first + k) % HASH_BUCKETS]
            if at != SERVER_NONE and server_takes(self.servers + at):
                return at
        return SERVER_NONE

    cdef uint32_t elsewhere(self, const Service *s, uint64_t wish) noexcept nogil:
        """Another server for what a client's hash wishes: by further hashes, so that the clients of one spread over all.

        Where so few take any that those do not find them: the one that wants it most (rendezvous hashing).
        """
        cdef uint32_t at, k, best = SERVER_NONE
        cdef uint64_t h = wish, claim, most = 0
        cdef const Server *d
        for k in range(HASH_TRIES):
            h = hash_u64(h + k + 1, self.seed)
            at = s.buckets[maglev_slot(h, s.n_buckets)]
            if at != SERVER_NONE and server_takes(self.servers + at):
                return at
        at = s.newest
        while at != SERVER_NONE:
            d = self.servers + at
            if server_takes(d):
                claim = hash_16(d.addr, d.port ^ wish, self.seed)
                if best == SERVER_NONE or claim > most:
                    best = at
                    most = claim
            at = d.next
        return best

    cdef uint32_t choose(self, uint32_t service, const uint8_t *client, uint16_t sport, const uint8_t *to,
                         uint16_t dport) noexcept nogil:
        """A server for a new connection of that client (addresses of 16 bytes); SERVER_NONE: nobody takes it."""
        cdef Service *s = self.services + service
        cdef uint32_t server
        if s.n_servers == 0:
            server = SERVER_NONE
        elif s.scheduler == SCHED_RR:
            server = by_rr(s, self.servers)
        elif s.scheduler == SCHED_WRR:
            server = by_wrr(s, self.servers)
        elif s.scheduler == SCHED_SH or s.scheduler == SCHED_MH:
            server = self.by_hash(s, client, sport if s.with_port else 0)
        elif s.scheduler == SCHED_DH:
            server = self.by_hash(s, to, dport if s.with_port else 0)
        elif s.scheduler == SCHED_PYTHON:
            server = self.by_plugin(service, client, sport, to, dport)
        else:
            server = by_load(s, self.servers)
        if server == SERVER_NONE:
            s.refused += 1
        return server

    cdef uint32_t by_plugin(self, uint32_t service, const uint8_t *client, uint16_t sport, const uint8_t *to,
                            uint16_t dport) noexcept with gil:
        """Whom a function picks, of those that take a connection. Whatever goes wrong in it refuses the connection, and is counted."""
        cdef Service *s = self.services + service
        cdef uint32_t at = s.newest
        cdef Py_ssize_t size = 4 if s.family == 4 else 16
        cdef const Server *d
        try:
            rows = {}
            while at != SERVER_NONE:
                d = self.servers + at
                if server_takes(d):
                    rows[at] = (PyBytes_FromStringAndSize(<char *>d.addr, size), d.port, d.weight, d.active, d.inactive)
                at = d.next
            picked = self.plugins[service](PyBytes_FromStringAndSize(<char *>client, size), sport,
                                           PyBytes_FromStringAndSize(<char *>to, size), dport, rows)
            if picked is None:
                return SERVER_NONE
            if picked not in rows:
                raise ValueError(f"picked {picked!r}, which is none of {list(rows)}")
            return picked
        except Exception as error:
            self.plugin_errors += 1
            self.plugin_error = error
            return SERVER_NONE

    cdef void changed(self, Service *s) noexcept nogil:
        """A server came, went, or has another weight: what schedulers keep is made anew."""
        wrr_changed(s, self.servers)
        s.stale = True

    cdef void deal(self, Service *s) noexcept nogil:
        """Buckets are shared out among the servers there are: once, however many changes there were before."""
        cdef uint32_t at = s.newest, n = 0
        cdef const Server *d
        s.stale = False
        if s.scheduler != SCHED_MH:
            deal_by_turns(s, self.servers)
            return
        while at != SERVER_NONE:
            d = self.servers + at
            self.entries[n].key = hash_16(d.addr, d.port, self.seed)
            self.entries[n].number = at
            self.entries[n].weight = <uint32_t>d.share
            n += 1
            at = d.next
        maglev_fill(s.buckets, s.n_buckets, self.entries, self.turns, n)

    # --- counts of connections --------------------------------------------------------------------------

    cdef void bind(self, uint32_t server, bint active) noexcept nogil:
        """A connection more."""
        cdef Server *d = self.servers + server
        d.connections += 1
        if d.service != SERVICE_NONE:
            self.services[d.service].connections += 1
        if active:
            d.active += 1
        else:
            d.inactive += 1
        if d.upper and d.active + d.inactive >= d.upper:
            d.overloaded = True

    cdef void unbind(self, uint32_t server, bint active) noexcept nogil:
        """A connection less; a removed server goes with its last."""
        cdef Server *d = self.servers + server
        cdef uint64_t total
        if active:
            d.active -= 1
        else:
            d.inactive -= 1
        total = <uint64_t>d.active + d.inactive
        if d.overloaded and (total < d.lower if d.lower else total * 4 < <uint64_t>d.upper * 3):
            d.overloaded = False
        if d.removed and total == 0:
            self.free_server(server)

    cdef void turn(self, uint32_t server, bint active) noexcept nogil:
        """One of its connections becomes active, or no longer is."""
        cdef Server *d = self.servers + server
        if active:
            d.active += 1
            d.inactive -= 1
        else:
            d.active -= 1
            d.inactive += 1

    cdef void free_server(self, uint32_t server) noexcept nogil:
        """A removed one's number."""
        memset(self.servers + server, 0, sizeof(Server))
        self.n_servers -= 1
        self.n_removed -= 1

    cdef uint32_t find_removed(self, uint32_t service, const uint8_t *addr, uint16_t port) noexcept nogil:
        """The server of a service that was removed and has connections still; SERVER_NONE."""
        cdef uint32_t i, left = self.n_removed
        cdef const Server *d
        for i in range(self.server_capacity):
            if left == 0:
                break
            d = self.servers + i
            if d.removed:
                left -= 1
                if d.service == service and d.port == port and memcmp(d.addr, addr, 16) == 0:
                    return i
        return SERVER_NONE

    cdef void carry(self, Server *d, bint back) noexcept nogil:
        """What a server has carried is its service's own while it is removed; ``back``: it is there again."""
        cdef Service *s = self.services + d.service
        cdef int k
        for k in range(2):
            s.packets[k] += -d.packets[k] if back else d.packets[k]
            s.octets[k] += -d.octets[k] if back else d.octets[k]

    cdef void set_upper(self, Server *d, uint32_t upper) noexcept nogil:
        """Lowering it marks nobody as overloaded; raising it, or none, clears."""
        if upper == 0 or upper > d.upper:
            d.overloaded = False
        d.upper = upper

    cdef int make_buckets(self, Service *s) except -1:
        """Memory of the schedulers that hash; MemoryError, and the service's number is free again."""
        if s.scheduler not in (SCHED_SH, SCHED_DH, SCHED_MH):
            return 0
        s.stale = True
        s.n_buckets = MAGLEV_SLOTS if s.scheduler == SCHED_MH else HASH_BUCKETS
        s.buckets = <uint32_t *>calloc(s.n_buckets, sizeof(uint32_t))
        if s.scheduler == SCHED_MH and self.entries == NULL:
            self.entries = <MaglevEntry *>calloc(self.server_capacity, sizeof(MaglevEntry))
        if s.scheduler == SCHED_MH and self.turns == NULL:
            self.turns = <uint64_t *>calloc(self.server_capacity, sizeof(uint64_t))
        if s.buckets == NULL or s.scheduler == SCHED_MH and (self.entries == NULL or self.turns == NULL):
            free(s.buckets)
            memset(s, 0, sizeof(Service))
            raise MemoryError("no room for the buckets of a service")
        return 0

    # --- for Python -------------------------------------------------------------------------------------

    cdef int check_service(self, uint32_t service) except -1:
        if service >= self.capacity or self.services[service].family == 0:
            raise ValueError(f"service {service}: there is none of that number")
        return 0

    cdef int check_server(self, uint32_t server) except -1:
        if server >= self.server_capacity or self.servers[server].family == 0 or self.servers[server].removed:
            raise ValueError(f"server {server}: there is none of that number")
        return 0

    cdef int check_counted(self, uint32_t server, bint active) except -1:
        """Whether it has such a connection, be it removed or not."""
        if server >= self.server_capacity or self.servers[server].family == 0:
            raise ValueError(f"server {server}: there is none of that number")
        if (self.servers[server].active if active else self.servers[server].inactive) == 0:
            raise ValueError(f"server {server}: no such connections")
        return 0

    def __len__(self):
        return self.size

    def add(self, net, addr, *, proto=0, port=0, last=None, target=0, sources=(), str scheduler="rr", bint fallback=False,
            bint with_port=False, bint exact=False):
        """A service and its first match, of which MatchTable.add says more; returns its number. ``proto`` and ``port`` 0: any.
        ValueError: given twice; OverflowError: full.

        For sh, dh and mh: ``fallback``: an overloaded server's clients go to others; ``with_port``: the client's port is hashed as well;
        ``exact``: IPVS's ways, in which a drained server's clients need ``fallback`` too. mh takes 256 KiB a service.
        """
        cdef uint32_t number = 0
        cdef Service *s
        raw = bytes(addr)
        if len(raw) not in (4, 16) or not 0 <= net < 65536 or not 0 <= port < 65536 or not 0 <= proto < 256:
            raise ValueError(f"service of network {net}, {len(raw)} bytes of address, protocol {proto}, port {port}")
        if scheduler not in SCHEDULERS:
            raise ValueError(f"scheduler {scheduler!r}: {', '.join(SCHEDULERS)}")
        while number < self.capacity and self.services[number].family:
            number += 1
        self.matches.add(net, raw, number, proto=proto, port=port, last=last, target=target, sources=sources)
        if number == self.capacity:
            self.matches.remove_service(number)
            raise OverflowError(f"all {self.capacity} services are taken")
        s = self.services + number
        padded = raw.ljust(16, b"\0")
        memset(s, 0, sizeof(Service))
        memcpy(s.addr, <const char *>padded, 16)
        s.net = s.out_domain = net
        s.port = port
        s.proto = proto
        s.family = 4 if len(raw) == 4 else 6
        s.scheduler = SCHEDULERS.index(scheduler)
        s.fallback = fallback
        s.with_port = with_port
        s.exact = exact
        s.newest = s.oldest = s.cursor = SERVER_NONE
        s.di = 1
        s.persist_len = len(raw) * 8
        try:
            self.make_buckets(s)
        except MemoryError:
            self.matches.remove_service(number)
            raise
        self.size += 1
        return number

    def set_scheduler(self, uint32_t service, str scheduler, *, bint fallback=False, bint with_port=False):
        """Another scheduler, or another way of its: servers and their connections stay."""
        cdef Service *s
        cdef uint8_t number
        self.check_service(service)
        if scheduler not in SCHEDULERS:
            raise ValueError(f"scheduler {scheduler!r}: {', '.join(SCHEDULERS)}")
        s = self.services + service
        number = SCHEDULERS.index(scheduler)
        s.fallback = fallback
        s.with_port = with_port
        if number == s.scheduler:
            return
        self.plugins.pop(service, None)
        free(s.buckets)
        s.buckets = NULL
        s.scheduler = number
        s.cursor = SERVER_NONE
        s.cw = 0
        self.make_buckets(s)
        self.changed(s)

    def set_plugin(self, uint32_t service, choose):
        """A function is the scheduler: ``choose(client, port, address, port, servers)`` for each new connection, addresses as bytes,
        ``servers`` those that take one, newest first, by number: (address, port, weight, active, inactive). It returns a number of
        theirs, or None to refuse. It is called within the batch, under the interpreter's lock."""
        cdef Service *s
        self.check_service(service)
        if not callable(choose):
            raise TypeError(f"scheduler {choose!r}: a function")
        s = self.services + service
        free(s.buckets)
        s.buckets = NULL
        s.scheduler = SCHED_PYTHON
        self.plugins[service] = choose

    def set_policy(self, uint32_t service, *, out_domain=None, masq=None, bint hairpin=False, bint reset=False, str removal="drain",
                   tcp_s=0, fin_s=0, udp_s=0, persist_s=0, persist_len=None):
        """How its packets are rewritten: ``out_domain``, where its servers are (None: where its clients are); ``masq``, the
        address that servers see (None: the client's); ``hairpin``: a server that is its own client sees the service's.
        ``removal``: what becomes of connections to a server that goes: drain, hold, reset or reschedule. How long it remembers, in seconds, 0 for the usual: ``tcp_s`` open, ``fin_s`` closing, ``udp_s``; ``reset``: tell both
        ends when an open connection has been silent too long. ``persist_s``: clients of one prefix (``persist_len`` bits)
        stay with their server so long, counted from the last new connection."""
        cdef Service *s
        cdef uint32_t bits
        self.check_service(service)
        s = self.services + service
        bits = 32 if s.family == 4 else 128
        raw = b"" if masq is None else bytes(masq)
        if masq is not None and len(raw) * 8 != bits:
            raise ValueError(f"masquerade address of {len(raw)} bytes: of the service's family")
        if persist_len is not None and not 0 <= persist_len <= bits:
            raise ValueError(f"prefix of {persist_len} bits: 0 to {bits}")
        for seconds in (tcp_s, fin_s, udp_s, persist_s):
            if not 0 <= seconds <= TIMEOUT_MAX_S:
                raise ValueError(f"timeout of {seconds} s: 0 to {TIMEOUT_MAX_S}")
        if removal not in REMOVALS:
            raise ValueError(f"removal {removal!r}: {', '.join(REMOVALS)}")
        s.removal = REMOVALS.index(removal)
        s.out_domain = s.net if out_domain is None else out_domain
        s.flags = (SERVICE_MASQ if masq is not None else 0) | (SERVICE_HAIRPIN if hairpin else 0) | (SERVICE_RESET if reset else 0)
        memset(s.masq, 0, 16)
        memcpy(s.masq, <const char *>raw, len(raw))
        s.timeout_s[0] = tcp_s
        s.timeout_s[1] = fin_s
        s.timeout_s[2] = udp_s
        s.persist_s = persist_s
        s.persist_len = bits if persist_len is None else persist_len

    def settle(self):
        """Buckets are shared out anew where servers have changed: now, instead of when the next packet asks for one. How many
        services that were."""
        cdef uint32_t number, count = 0
        cdef Service *s
        for number in range(self.capacity):
            s = self.services + number
            if s.family and s.stale and s.buckets != NULL:
                self.deal(s)
                count += 1
        return count

    def set_cursor(self, uint32_t service, uint32_t server):
        """rr goes on behind that server, as if it had been chosen last. ValueError: there is none, or it is another service's."""
        self.check_service(service)
        self.check_server(server)
        if self.servers[server].service != service:
            raise ValueError(f"server {server}: it is of service {self.servers[server].service}")
        self.services[service].cursor = server

    def remove(self, uint32_t service):
        """A service goes, its matches and servers with it (those that have connections: with the last of them)."""
        cdef uint32_t at
        cdef Service *s
        self.check_service(service)
        s = self.services + service
        while s.newest != SERVER_NONE:
            self.remove_server(s.newest)
        for at in range(self.server_capacity if self.n_removed else 0):
            if self.servers[at].removed and self.servers[at].service == service:
                self.servers[at].service = SERVICE_NONE  # the number may be another's soon
        self.matches.remove_service(service)
        self.plugins.pop(service, None)
        free(s.buckets)
        memset(s, 0, sizeof(Service))
        self.size -= 1

    def add_server(self, uint32_t service, addr, *, port=0, weight=1, upper=0, lower=0):
        """A server of a service, as its newest; returns its number. ``port`` 0: the client's own is kept. OverflowError: full.

        One that was removed and has connections still is that server again, with its number and their count, as in IPVS.
        """
        cdef uint32_t number, tried
        cdef Server *d
        cdef Service *s
        self.check_service(service)
        s = self.services + service
        raw = bytes(addr)
        if len(raw) != (4 if s.family == 4 else 16) or not 0 <= port < 65536:
            raise ValueError(f"server of {len(raw)} bytes of address, port {port}: of its service's family, 0 to 65535")
        check_numbers(weight, upper, lower)
        padded = raw.ljust(16, b"\0")
        number = s.newest
        while number != SERVER_NONE:
            d = self.servers + number
            if d.port == port and memcmp(d.addr, <const char *>padded, 16) == 0:
                raise ValueError(f"server {raw.hex()} port {port}: the service has it")
            number = d.next
        number = self.find_removed(service, <const uint8_t *><const char *>padded, port)
        if number == SERVER_NONE:
            if self.n_servers >= self.server_capacity:
                raise OverflowError(f"all {self.server_capacity} servers are taken")
            number = self.last_server
            for tried in range(self.server_capacity):
                number = number + 1 if number + 1 < self.server_capacity else 0
                if self.servers[number].family == 0:
                    break
            self.last_server = number
            self.n_servers += 1
        else:
            self.n_removed -= 1
            self.carry(self.servers + number, True)
        d = self.servers + number
        memcpy(d.addr, <const char *>padded, 16)
        d.port = port
        d.family = s.family
        d.removed = False
        d.weight = d.share = weight
        self.set_upper(d, upper)
        d.lower = lower
        d.service = service
        d.next = s.newest
        d.prev = SERVER_NONE
        if s.newest != SERVER_NONE:
            self.servers[s.newest].prev = number
        else:
            s.oldest = number
        s.newest = number
        s.n_servers += 1
        self.changed(s)
        return number

    def set_server(self, uint32_t server, *, weight=None, upper=None, lower=None):
        """Another weight (0: drained), other thresholds. Lowering ``upper`` marks nobody as overloaded; raising it, or 0, clears."""
        cdef Server *d
        self.check_server(server)
        d = self.servers + server
        check_numbers(d.weight if weight is None else weight, d.upper if upper is None else upper,
                      d.lower if lower is None else lower)
        if upper is not None:
            self.set_upper(d, upper)
        if lower is not None:
            d.lower = lower
        if weight is not None:
            d.weight = weight
            if d.weight:
                d.share = d.weight
        self.changed(self.services + d.service)

    def remove_server(self, uint32_t server):
        """No new connections from now on; the number is free when the last one has let go. rr goes a step back from it."""
        cdef Server *d
        cdef Service *s
        self.check_server(server)
        d = self.servers + server
        s = self.services + d.service
        if s.cursor == server:
            s.cursor = d.prev
        if d.prev != SERVER_NONE:
            self.servers[d.prev].next = d.next
        else:
            s.newest = d.next
        if d.next != SERVER_NONE:
            self.servers[d.next].prev = d.prev
        else:
            s.oldest = d.prev
        s.n_servers -= 1
        self.carry(d, False)
        d.removed = True
        d.removal = s.removal
        self.n_removed += 1
        if d.active + d.inactive == 0:
            self.free_server(server)
        self.changed(s)

    def find_service(self, uint16_t net, addr, uint8_t proto, uint16_t port):
        """The number of the service that a packet to that destination is for, or None."""
        cdef uint32_t number
        raw = bytes(addr)
        padded = raw.ljust(16, b"\0")
        if len(raw) not in (4, 16):
            raise ValueError(f"address of {len(raw)} bytes: 4 or 16")
        number = self.find(net, 4 if len(raw) == 4 else 6, proto, <const uint8_t *><const char *>padded, port)
        return None if number == SERVICE_NONE else number

    def scheduler_of(self, uint32_t service):
        """The name of a service's scheduler."""
        self.check_service(service)
        return scheduler_name(self.services + service)

    def choose_for(self, uint32_t service, client, uint16_t sport=0, to=b"", uint16_t dport=0, *, active=None):
        """The server of a new connection, or None. ``active``: and the connection is counted there, as active or not."""
        cdef uint32_t number
        self.check_service(service)
        source, target = bytes(client).ljust(16, b"\0"), bytes(to).ljust(16, b"\0")
        if len(source) != 16 or len(target) != 16:
            raise ValueError("addresses: 16 bytes at most")
        number = self.choose(service, <const uint8_t *><const char *>source, sport, <const uint8_t *><const char *>target, dport)
        if number == SERVER_NONE:
            return None
        if active is not None:
            self.bind(number, active)
        return number

    def release(self, uint32_t server, *, bint active):
        """A connection has let go of a server. ValueError: it has none of that kind."""
        self.check_counted(server, active)
        self.unbind(server, active)

    def set_active(self, uint32_t server, *, bint active):
        """One of a server's connections, which was not, becomes active, or the other way round. ValueError: it has none of that kind."""
        self.check_counted(server, not active)
        self.turn(server, active)

    def buckets(self, uint32_t service):
        """The server of each bucket of a service that hashes (None: nobody's), as a list."""
        cdef Service *s
        cdef uint32_t k
        self.check_service(service)
        s = self.services + service
        if s.buckets == NULL:
            raise ValueError(f"service {service}: {scheduler_name(s)} has no buckets")
        if s.stale:
            self.deal(s)
        return [None if s.buckets[k] == SERVER_NONE else s.buckets[k] for k in range(s.n_buckets)]

    def servers_of(self, uint32_t service):
        """The servers of a service as dictionaries, newest first."""
        cdef uint32_t at
        cdef Server *d
        self.check_service(service)
        servers = []
        at = self.services[service].newest
        while at != SERVER_NONE:
            d = self.servers + at
            servers.append({
                "server": at, "addr": PyBytes_FromStringAndSize(<char *>d.addr, 4 if d.family == 4 else 16), "port": d.port,
                "weight": d.weight, "upper": d.upper, "lower": d.lower, "active": d.active, "inactive": d.inactive,
                "overloaded": bool(d.overloaded), "connections": d.connections,
                "in_packets": d.packets[0], "out_packets": d.packets[1], "in_bytes": d.octets[0], "out_bytes": d.octets[1],
            })
            at = d.next
        return servers

    def row(self, uint32_t number):
        """A service as ``rows`` has it, or None."""
        cdef uint32_t at
        cdef uint64_t packets[2]
        cdef uint64_t octets[2]
        cdef int k
        cdef Service *s
        if number >= self.capacity or self.services[number].family == 0:
            return None
        s = self.services + number
        for k in range(2):
            packets[k] = s.packets[k]
            octets[k] = s.octets[k]
        at = s.newest
        while at != SERVER_NONE:
            for k in range(2):
                packets[k] += self.servers[at].packets[k]
                octets[k] += self.servers[at].octets[k]
            at = self.servers[at].next
        return {
            "service": number, "net": s.net,
            "addr": PyBytes_FromStringAndSize(<char *>s.addr, 4 if s.family == 4 else 16),
            "proto": s.proto, "port": s.port, "scheduler": scheduler_name(s), "connections": s.connections,
            "fallback": bool(s.fallback), "with_port": bool(s.with_port), "persist_s": s.persist_s, "persist_len": s.persist_len,
            "refused": s.refused, "in_packets": packets[0], "out_packets": packets[1], "in_bytes": octets[0],
            "out_bytes": octets[1], "servers": self.servers_of(number),
        }

    def rows(self):
        """Services as dictionaries with their servers, newest first. What a service has carried is with what its removed servers
        have."""
        return [self.row(i) for i in range(self.capacity) if self.services[i].family]
