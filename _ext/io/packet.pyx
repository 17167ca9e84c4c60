"""An interface's packet socket (packet(7)), as a way in: Ethernet frames as they pass the interface."""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memmove

from vxlanfast._ext.batch cimport Columns
from vxlanfast._ext.io.arrivals cimport Arrivals
from vxlanfast._ext.io.slots cimport MESSAGE_MAX, set_flag, slot_place, slot_time
from vxlanfast._ext.io.system cimport (
    CMSG_DATA, CMSG_FIRSTHDR, CMSG_NXTHDR, SCM_TIMESTAMPNS, SOL_PACKET, SOL_SOCKET, cmsghdr, getsockopt, msghdr,
)
from vxlanfast._ext.wire.endian cimport store_be16
from vxlanfast._ext.wire.eth cimport ETH_OFF_TYPE, ETH_TAG_LEN, ETH_TYPE_8021Q
from vxlanfast._ext.wire.link cimport LINK_ETHERNET

cdef extern from * nogil:
    """
    #include <linux/if_packet.h>
    #ifndef PACKET_IGNORE_OUTGOING
    #define PACKET_IGNORE_OUTGOING 23
    #endif
    """
    struct tpacket_auxdata:
        uint32_t tp_status
        uint16_t tp_vlan_tci
        uint16_t tp_vlan_tpid
    struct tpacket_stats:
        uint32_t tp_packets
        uint32_t tp_drops
    struct sockaddr_ll:
        uint8_t sll_pkttype
    enum:
        PACKET_AUXDATA
        PACKET_IGNORE_OUTGOING
        PACKET_OUTGOING
        PACKET_STATISTICS
        TP_STATUS_VLAN_TPID_VALID
        TP_STATUS_VLAN_VALID


cdef class PacketSocket(Arrivals):
    """Receives from the packet socket ``fd``, which its owner has made (SOCK_RAW, protocol 0: nothing arrives before it is bound to
    an interface), binds, and closes.

    ``outgoing``: frames that leave the interface are received too; ``False``: those that arrive alone. A VLAN tag that the kernel
    or the card took off is put back. ``snaplen``: bytes taken of a frame. ``dropped``: by the kernel, for want of room.
    """
    cdef bint outgoing
    cdef uint64_t drops

    def __cinit__(self, int fd, *, bint outgoing=True, uint32_t snaplen=MESSAGE_MAX, int buffer_len=1 << 25):
        cdef int error
        if not 64 <= snaplen <= MESSAGE_MAX:
            raise ValueError(f"snaplen = {snaplen}: 64 to {MESSAGE_MAX} bytes")
        self.outgoing = outgoing
        self.begin(fd, "a packet socket", snaplen, buffer_len)
        error = set_flag(fd, SOL_PACKET, PACKET_AUXDATA)
        if error:
            raise OSError(error, f"descriptor {fd} is no packet socket")
        if not outgoing:
            set_flag(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING)  # Linux 4.20; rows are looked at as well

    cdef void make_row(self, Columns *c, uint32_t k, uint16_t port_in, int64_t now) noexcept nogil:
        cdef uint32_t taken = 0, off, whole = self.s.messages[k].msg_len
        cdef msghdr *m = &self.s.messages[k].msg_hdr
        cdef cmsghdr *control = CMSG_FIRSTHDR(m)
        cdef tpacket_auxdata aux
        cdef int64_t ts_ns = 0
        cdef uint8_t *p
        aux.tp_status = 0
        if not self.outgoing and (<sockaddr_ll *>m.msg_name).sll_pkttype == PACKET_OUTGOING:
            return
        while control != NULL:
            if control.cmsg_level == SOL_SOCKET and control.cmsg_type == SCM_TIMESTAMPNS:
                ts_ns = slot_time(control)
            elif control.cmsg_level == SOL_PACKET and control.cmsg_type == PACKET_AUXDATA:
                memcpy(&aux, CMSG_DATA(control), sizeof(aux))
            control = CMSG_NXTHDR(m, control)
        off = slot_place(&self.s, c, k, &taken)
        if taken < whole:
            self.truncated += 1
        if aux.tp_status & TP_STATUS_VLAN_VALID and taken >= ETH_OFF_TYPE:
            p = c.arena + off - ETH_TAG_LEN
            memmove(p, p + ETH_TAG_LEN, ETH_OFF_TYPE)
            store_be16(p + ETH_OFF_TYPE,
                       aux.tp_vlan_tpid if aux.tp_status & TP_STATUS_VLAN_TPID_VALID else <uint16_t>ETH_TYPE_8021Q)
            store_be16(p + ETH_OFF_TYPE + 2, aux.tp_vlan_tci)
            off -= ETH_TAG_LEN
            taken += ETH_TAG_LEN
            whole += ETH_TAG_LEN
        self.add_row(c, off, taken, whole, LINK_ETHERNET, port_in, ts_ns if ts_ns else now)
        self.bytes += whole

    @property
    def dropped(self):
        """Frames that the kernel threw away for want of room since the socket was made."""
        cdef tpacket_stats stats
        cdef unsigned length = sizeof(stats)
        # Asking sets the kernel's count to zero.
        if getsockopt(self.fd, SOL_PACKET, PACKET_STATISTICS, &stats, &length) == 0:
            self.drops += stats.tp_drops
        return self.drops

    def counters(self):
        """Everything counted, by name."""
        return {"rx_packets": self.packets, "rx_bytes": self.bytes, "rx_drops": self.dropped, "rx_truncated": self.truncated}
