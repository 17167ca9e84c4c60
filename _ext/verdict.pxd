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
    PUNT_GENEVE = 7
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
    # DROP, decapsulation of GENEVE.
    DROP_GENEVE = 28
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
    # DROP, entering the plane.
    DROP_PORT_UNKNOWN = 64
    DROP_VNI_UNKNOWN = 65
    DROP_VTEP_OTHER = 66
    DROP_VTEP_UNKNOWN = 67
    DROP_INNER_SOURCE = 68
    DROP_INNER_HEADER = 69
    DROP_INNER_TAG = 70
    DROP_ECN = 71
    # DROP, forwarding.
    DROP_STATION_ELSEWHERE = 80
    DROP_STATION_FROZEN = 81
    DROP_SAME_PORT = 82
    DROP_SPLIT_HORIZON = 83
    DROP_NO_ENTRY = 84
    DROP_NO_RECEIVER = 85
    DROP_BUM_RATE = 86
    DROP_GROUP_EMPTY = 87
    DROP_OVER_MTU = 88
    # DROP, ARP and neighbour discovery.
    DROP_NEIGH_FALSE = 96
    DROP_NEIGH_UNKNOWN = 97
    # DROP, to the gateway.
    DROP_GATEWAY_REMOTE = 100
    DROP_GATEWAY_REFUSED = 101
    DROP_MARTIAN = 102
    DROP_TTL = 103
    DROP_NO_ROUTE = 104
    DROP_NO_NEIGHBOUR = 105
    # DROP, the routing mesh.
    DROP_NO_SERVER = 116
    DROP_SERVER_GONE = 117
    DROP_CONN_FULL = 118
    DROP_SOURCE_FULL = 119
    DROP_PORTS_FULL = 120
    DROP_UNRELATED = 121
    DROP_SOURCE_REFUSED = 122
    DROP_INTERNAL = 123
    DROP_PORT_CLOSED = 124
    DROP_ENTRY_GONE = 125
    # DROP, inner fragments on their way to be translated.
    DROP_INNER_FRAGMENT_HELD = 112
    DROP_INNER_FRAGMENT_OVERLAP = 113
    DROP_INNER_FRAGMENT_BAD = 114
    DROP_INNER_FRAGMENT_DUPLICATE = 115


cpdef enum Rule:
    """Why a row that leaves the plane goes where it goes."""
    RULE_NONE = 0
    # One way, or several.
    RULE_ENTRY = 1
    RULE_PLACES = 2
    RULE_LEARNED = 3
    RULE_SET = 4
    # Flooded.
    RULE_BROADCAST = 8
    RULE_UNKNOWN = 9
    RULE_MULTICAST = 10
    RULE_GROUP = 11
    RULE_REPORT = 12
    # The row is an answer to the frame that came.
    RULE_ARP = 16
    RULE_ND = 17
    RULE_ECHO = 18
    # Changed on its way.
    RULE_ROUTED = 24
    RULE_FRAGMENTED = 25
    RULE_BALANCED = 26
    RULE_RETURNED = 27
    RULE_MASQUERADED = 28
    RULE_RELATED = 29
    RULE_RECUT = 30
    # The row is an ICMP error about the frame that came, and that frame goes no further.
    RULE_TTL = 32
    RULE_NO_ROUTE = 33
    RULE_NO_NEIGHBOUR = 34
    RULE_REFUSED = 35
    RULE_TOO_BIG = 36
    RULE_NO_SERVER = 37
    RULE_RESET = 38

cdef enum:
    RULE_COUNT = 64
    RULE_ERROR_FIRST = 32
    VERDICT_PUNT_FIRST = 1
    VERDICT_DROP_FIRST = 16
    VERDICT_COUNT = 128  # every verdict is below this: the size of a counter block
    VERDICT_MASK = 64    # a mask of verdicts has so many bits; what is above never leaves


cdef inline bint verdict_is_punt(int v) noexcept nogil:
    return VERDICT_PUNT_FIRST <= v < VERDICT_DROP_FIRST


cdef inline bint verdict_in(uint64_t mask, uint8_t v) noexcept nogil:
    """Whether ``mask``, a bit per verdict, has ``v``; a number behind its bits (Python may write any) it never has."""
    return v < VERDICT_MASK and (mask >> v) & 1
