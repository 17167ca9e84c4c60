"""Loops in C for the benchmark: what memory and the wire formats can do without a library around them.

Compiled when it is needed, by build_probe.py; no part of the package.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from vxlanfast._ext.wire.csum cimport csum, csum_fold
from vxlanfast._ext.wire.flow cimport flow_hash, flow_key


def copy_packets(uint8_t[::1] to not None, const uint8_t[::1] src not None,
                 const uint32_t[::1] lengths not None, uint32_t repeats=1):
    """memcpy packet by packet: ``lengths`` bytes each, from one place to another, both without gaps."""
    cdef uint64_t at, n = lengths.shape[0], total = 0
    cdef uint32_t i, r
    for i in range(n):
        total += lengths[i]
    if n == 0 or total > <uint64_t>to.shape[0] or total > <uint64_t>src.shape[0]:
        raise ValueError(f"{total} bytes of {n} packets")
    with nogil:
        for r in range(repeats):
            at = 0
            for i in range(n):
                memcpy(&to[at], &src[at], lengths[i])
                at += lengths[i]


def csum_packets(const uint8_t[::1] src not None, uint32_t length, uint32_t repeats=1):
    """The Internet checksum of every ``length`` bytes of ``src``: their sum."""
    cdef uint64_t total = 0, at
    cdef uint64_t n = src.shape[0] // length
    cdef uint32_t r
    if n == 0:
        raise ValueError(f"{src.shape[0]} bytes are no packet of {length}")
    with nogil:
        for r in range(repeats):
            for at in range(n):
                total += csum_fold(csum(&src[at * length], length))
    return total


def flow_packets(const uint8_t[::1] src not None, uint32_t length, uint64_t seed=0, uint32_t repeats=1):
    """The flow hash of every frame of ``length`` bytes in ``src``: their sum."""
    cdef uint64_t total = 0, at
    cdef uint64_t n = src.shape[0] // length
    cdef uint64_t key = flow_key(seed)
    cdef uint32_t r
    if n == 0:
        raise ValueError(f"{src.shape[0]} bytes are no packet of {length}")
    with nogil:
        for r in range(repeats):
            for at in range(n):
                total += flow_hash(&src[at * length], length, key)
    return total
