"""The outcome of a row: PASS, or one reason. Declared once; texts are in verdict.pyx."""
from libc.stdint cimport uint8_t, uint64_t


cpdef enum Verdict:
    # The row goes on.
    PASS = 0
    # PUNT: not for this node, and nothing wrong with it. The caller decides (``--other``).
    PUNT_NOT_IP = 1
    PUNT_NOT_UDP = 2
    PUNT_PORT = 3
    PUNT_FRAGMENT = 4
    PUNT_GPE = 5
    PUNT_LINK_TYPE = 6
    # DROP, decapsulation: addressed to a VXLAN port, and broken.
    DROP_TRUNCATED = 16
    DROP_IP_HEADER = 17
    DROP_IP_LEN = 18
    DROP_UDP_LEN = 19
    DROP_NO_VNI = 20
    DROP_INNER_RUNT = 21
    DROP_VXLAN_LEN = 22
    # DROP, parsing.
    DROP_L4_HEADER = 23
    # DROP, decapsulation under the strict policy only.
    DROP_RESERVED = 24
    DROP_IP_CSUM = 25
    DROP_UDP_CSUM = 26
    DROP_UDP_NO_CSUM = 27
    # DROP, outer fragments in reassembly.
    DROP_FRAGMENT_HELD = 33
    DROP_FRAGMENT_OVERLAP = 34
    DROP_FRAGMENT_BAD = 35
    DROP_FRAGMENT_DUPLICATE = 36
    # DROP, what the caller asked to leave out.
    DROP_FILTER_VNI = 40
    DROP_FILTER_OUTER = 41
    DROP_FILTER_INNER = 42
    # DROP, encapsulation.
    DROP_NOT_ETHERNET = 48
    DROP_MTU = 49
    DROP_TOO_LONG = 50
    DROP_NO_HEADROOM = 51
    DROP_NO_META = 52
    # DROP, writing.
    DROP_OUTPUT_LINK_TYPE = 56

cdef enum:
    VERDICT_PUNT_FIRST = 1
    VERDICT_DROP_FIRST = 16
    VERDICT_COUNT = 64  # every verdict is below this: the size of a counter block


cdef inline bint verdict_is_punt(int v) noexcept nogil:
    return VERDICT_PUNT_FIRST <= v < VERDICT_DROP_FIRST


cdef inline bint verdict_in(uint64_t mask, uint8_t v) noexcept nogil:
    """Whether ``mask``, a bit per verdict, has ``v``; a number that is no verdict (Python may write any) it never has."""
    return v < VERDICT_COUNT and (mask >> v) & 1
