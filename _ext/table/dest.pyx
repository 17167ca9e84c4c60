"""Destinations: made when a configuration is compiled, and looked up from then on."""
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from vxlanfast._ext.table.hash cimport hash_16, hash_u64, power_of_two, table_memory

cdef enum:
    CAPACITY_MAX = 1 << 24

KINDS = {DEST_PORT: "port", DEST_PEER: "peer", DEST_GATEWAY: "gateway", DEST_PLACES: "places", DEST_ALIAS: "alias",
         DEST_ROUTER: "router"}


cdef class DestTable:
    """Ports and peers by number, from 0 on. ``capacity``: how many there is room for. ``seed``: of the hash."""

    def __cinit__(self, uint32_t capacity, *, uint64_t seed=0):
        cdef uint64_t places
        if not 1 <= capacity <= CAPACITY_MAX:
            raise ValueError(f"capacity = {capacity}: 1 to {CAPACITY_MAX} destinations")
        places = power_of_two(<uint64_t>capacity * 2)
        self.capacity = capacity
        self.mask = <uint32_t>places - 1
        self.seed = hash_u64(seed, 0)
        self.dests = <Dest *>table_memory(<uint64_t>capacity * sizeof(Dest))
        self.slots = <uint32_t *>table_memory(places * sizeof(uint32_t))
        if self.dests == NULL or self.slots == NULL:
            raise MemoryError(f"no room for {capacity} destinations")

    def __dealloc__(self):
        free(self.dests)
        free(self.slots)
        free(self.members)

    cdef uint32_t add(self, uint8_t kind, net, port) except DEST_NONE:
        cdef Dest *d
        if self.size >= self.capacity:
            raise OverflowError(f"all {self.capacity} destinations are taken")
        if not 0 <= net < 65536 or not 0 <= port < 65536:
            raise ValueError(f"network {net}, port {port}: 0 to 65535 each")
        d = &self.dests[self.size]
        d.kind = kind
        d.net = net
        d.port = port
        self.size += 1
        return self.size - 1

    def __len__(self):
        return self.size

    def add_port(self, net, port):
        """An endpoint of ours; returns its number."""
        return self.add(DEST_PORT, net, port)

    def add_gateway(self, net):
        """The network's gateway, which answers and routes here; returns its number."""
        return self.add(DEST_GATEWAY, net, 0)

    def add_router(self, net):
        """The node itself as a member of the network, by a MAC of its own: answers come to it by tunnels; returns its number."""
        return self.add(DEST_ROUTER, net, 0)

    def add_places(self, net, members):
        """Several ports or peers of one network under one number, for a MAC that lives at all of them; returns it."""
        cdef uint32_t number, count = len(members)
        cdef uint32_t *grown
        for member in members:
            if not 0 <= member < self.size or self.dests[member].net != net or self.dests[member].kind > DEST_PEER:
                raise ValueError(f"destination {member}: no port or peer of network {net}")
        if count < 2 or len(set(members)) != count:
            raise ValueError(f"{count} places: two at least, each once")
        number = self.add(DEST_PLACES, net, 0)
        grown = <uint32_t *>realloc(self.members, <uint64_t>(self.n_members + count) * sizeof(uint32_t))
        if grown == NULL:
            self.size -= 1
            raise MemoryError(f"no room for {count} places")
        self.members = grown
        self.dests[number].members_at = self.n_members
        self.dests[number].n_members = count
        for member in members:
            self.members[self.n_members] = member
            self.n_members += 1
        return number

    def add_peer(self, net, addr, port, uint32_t tunnel, *, uint32_t mtu=0):
        """A VTEP (4 or 16 bytes) as member of a network, behind the underlay's ``port``; returns its number. ValueError: twice.

        ``mtu``: bytes of an untagged frame behind its Ethernet header that fit in one packet there, 0 for any number.
        """
        return self.add_address(DEST_PEER, net, addr, port, tunnel, mtu)

    def add_alias(self, uint32_t peer, addr):
        """Another address that packets of a peer may come from (it sits behind a NAT, or has several); returns its number."""
        if peer >= self.size or self.dests[peer].kind != DEST_PEER:
            raise ValueError(f"destination {peer}: no peer")
        return self.add_address(DEST_ALIAS, self.dests[peer].net, addr, self.dests[peer].port, peer, 0)

    cdef uint32_t add_address(self, uint8_t kind, net, addr, port, uint32_t tunnel, uint32_t mtu) except DEST_NONE:
        """A row that is found by its address. ValueError: twice."""
        cdef uint8_t key[16]
        cdef uint8_t family
        cdef uint32_t number, at
        raw = bytes(addr)
        if len(raw) not in (4, 16):
            raise ValueError(f"address of {len(raw)} bytes: 4 or 16")
        family = 4 if len(raw) == 4 else 6
        padded = raw.ljust(16, b"\0")
        memcpy(key, <char *>padded, 16)
        if peer_find(self, key, family, net) != DEST_NONE:
            raise ValueError(f"peer {raw.hex()} of network {net}: given twice")
        number = self.add(kind, net, port)
        memcpy(self.dests[number].addr, key, 16)
        self.dests[number].family = family
        self.dests[number].tunnel = tunnel
        self.dests[number].mtu = mtu
        at = <uint32_t>hash_16(key, <uint64_t>family << 16 | <uint64_t>self.dests[number].net, self.seed) & self.mask
        while self.slots[at]:
            at = (at + 1) & self.mask
        self.slots[at] = number + 1
        return number

    def set_mtu(self, uint32_t peer, uint32_t mtu):
        """As ``mtu`` of ``add_peer``, from now on; whether it was another."""
        if peer >= self.size or self.dests[peer].kind != DEST_PEER:
            raise ValueError(f"destination {peer}: no peer")
        if self.dests[peer].mtu == mtu:
            return False
        self.dests[peer].mtu = mtu
        return True

    def find_peer(self, uint16_t net, addr):
        """The number of a peer, or None."""
        cdef uint8_t key[16]
        raw = bytes(addr).ljust(16, b"\0")
        if len(addr) not in (4, 16):
            raise ValueError(f"address of {len(addr)} bytes: 4 or 16")
        memcpy(key, <char *>raw, 16)
        number = peer_find(self, key, 4 if len(addr) == 4 else 6, net)
        return None if number == DEST_NONE else number

    def rows(self):
        """Destinations as dictionaries, by number: kind, net, port, addr and mtu (peers), members (places), and counters."""
        cdef uint32_t i, k
        cdef Dest *d
        out = []
        for i in range(self.size):
            d = &self.dests[i]
            out.append({
                "kind": KINDS[d.kind], "net": d.net, "port": d.port,
                "addr": PyBytes_FromStringAndSize(<char *>d.addr, 4 if d.family == 4 else 16) if d.family else None,
                "rx_packets": d.rx_packets, "rx_bytes": d.rx_bytes, "tx_packets": d.tx_packets, "tx_bytes": d.tx_bytes,
                "drops": d.drops, "tx_drops": d.tx_drops, "mtu": d.mtu,
                "members": [self.members[d.members_at + k] for k in range(d.n_members)],
            })
        return out
