"""IGMP (RFC 1112, RFC 2236, RFC 3376) and MLD (RFC 2710, RFC 3810): who wants which multicast group.

    +-------+-------+---------------+-------------------------------+
    | type  | code  |   checksum    |  group                        |   IGMP: query 0x11, reports 0x12 and 0x16, leave 0x17
    +-------+-------+---------------+---------------+---------------+  8
    | type  | resvd |   checksum    |   reserved    |   records     |   IGMPv3 report 0x22, MLDv2 report 143: then records
    +-------+-------+---------------+---------------+---------------+  8
    | kind  |aux len|    sources    |  group (4 or 16 bytes) | sources … | auxiliary data, in words of 4 bytes
    +-------+-------+---------------+------------------------+----------
    | type  | code  |   checksum    | max response  |   reserved    |   MLD: query 130, report 131, done 132
    +-------+-------+---------------+-------------------------------+  8
    |                    group, 16 bytes                            |
    +---------------------------------------------------------------+ 24
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from vxlanfast._ext.wire.endian cimport load_be16

cdef enum:
    IGMP_HDR_LEN = 8
    IGMP_OFF_GROUP = 4
    IGMP_OFF_RECORDS = 6    # of MLDv2 as well
    IGMP_QUERY = 0x11
    IGMP_REPORT_V1 = 0x12
    IGMP_REPORT_V2 = 0x16
    IGMP_LEAVE = 0x17
    IGMP_REPORT_V3 = 0x22

    MLD_LEN = 24
    MLD_OFF_GROUP = 8
    MLD_QUERY = 130
    MLD_REPORT = 131
    MLD_DONE = 132
    MLD_REPORT_V2 = 143

    RECORD_IS_INCLUDE = 1   # RFC 3376 §4.2.12, RFC 3810 §5.2.12
    RECORD_IS_EXCLUDE = 2
    RECORD_TO_INCLUDE = 3
    RECORD_TO_EXCLUDE = 4
    RECORD_ALLOW = 5
    RECORD_BLOCK = 6
    RECORD_HDR_LEN = 4


cdef inline uint32_t record_len(const uint8_t *p, uint32_t n, uint32_t addr_len) noexcept nogil:
    """Bytes of the group record at ``p`` of which ``n`` are there; 0: it is not whole."""
    cdef uint32_t length
    if n < RECORD_HDR_LEN + addr_len:
        return 0
    length = RECORD_HDR_LEN + addr_len * (1 + load_be16(p + 2)) + <uint32_t>p[1] * 4
    return length if length <= n else 0


cdef inline bint record_is_leave(const uint8_t *p) noexcept nogil:
    """It asks for no source at all."""
    return (p[0] == RECORD_IS_INCLUDE or p[0] == RECORD_TO_INCLUDE) and load_be16(p + 2) == 0


cdef inline bint record_is_join(const uint8_t *p) noexcept nogil:
    """It asks for the group, from all sources or some: which ones is the host's to sort out."""
    return (p[0] == RECORD_IS_EXCLUDE or p[0] == RECORD_TO_EXCLUDE
            or (p[0] in (RECORD_IS_INCLUDE, RECORD_TO_INCLUDE, RECORD_ALLOW) and load_be16(p + 2) > 0))
