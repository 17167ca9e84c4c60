"""Verdicts and their sentences: one symbol, one human sentence, counted and never raised."""

SENTENCES = {
    Verdict.PASS: "passed",
    Verdict.PUNT_NOT_IP: "not an IP packet",
    Verdict.PUNT_NOT_UDP: "IP, but not UDP",
    Verdict.PUNT_PORT: "UDP, but not to a VXLAN port",
    Verdict.PUNT_FRAGMENT: "outer IP fragment (--reassemble puts fragments together)",
    Verdict.PUNT_GPE: "VXLAN-GPE whose payload is not Ethernet",
    Verdict.PUNT_LINK_TYPE: "link type not supported",
    Verdict.DROP_TRUNCATED: "cut inside the outer headers",
    Verdict.DROP_IP_HEADER: "outer IP header with an impossible version or length",
    Verdict.DROP_IP_LEN: "outer IP length longer than the packet or shorter than its headers",
    Verdict.DROP_UDP_LEN: "outer UDP length longer than the IP payload or shorter than its header",
    Verdict.DROP_NO_VNI: "VXLAN header without the I flag: no valid VNI",
    Verdict.DROP_INNER_RUNT: "inner frame shorter than an Ethernet header",
    Verdict.DROP_VXLAN_LEN: "UDP payload shorter than a VXLAN header",
    Verdict.DROP_L4_HEADER: "TCP header or neighbour discovery option of an impossible length",
    Verdict.DROP_RESERVED: "reserved VXLAN bits set (strict)",
    Verdict.DROP_IP_CSUM: "outer IPv4 header checksum wrong (strict)",
    Verdict.DROP_UDP_CSUM: "outer UDP checksum wrong (strict)",
    Verdict.DROP_UDP_NO_CSUM: "outer UDP checksum zero over IPv6 (strict)",
    Verdict.DROP_FRAGMENT_HELD: "outer fragment, held for its datagram",
    Verdict.DROP_FRAGMENT_OVERLAP: "outer fragment overlapping another: its datagram is dropped",
    Verdict.DROP_FRAGMENT_BAD: "outer fragment of impossible offset, length or number, or cut by the snaplen",
    Verdict.DROP_FRAGMENT_DUPLICATE: "outer fragment seen before",
    Verdict.DROP_FILTER_VNI: "VNI not asked for",
    Verdict.DROP_FILTER_OUTER: "outer filter did not match",
    Verdict.DROP_FILTER_INNER: "inner filter did not match",
    Verdict.DROP_NOT_ETHERNET: "not an Ethernet frame: VXLAN carries nothing else",
    Verdict.DROP_MTU: "encapsulated packet over the MTU",
    Verdict.DROP_TOO_LONG: "encapsulated packet over the 65,535 bytes of an IP datagram",
    Verdict.DROP_NO_HEADROOM: "no room for another header in front of the frame",
    Verdict.DROP_NO_META: "no record of its outer headers (written by decap --meta)",
    Verdict.DROP_OUTPUT_LINK_TYPE: "link type differs from the one a pcap file can hold",
    Verdict.DROP_PORT_UNKNOWN: "came by a port that no network has",
    Verdict.DROP_VNI_UNKNOWN: "VNI of no network here",
    Verdict.DROP_VTEP_OTHER: "outer destination is not this VTEP",
    Verdict.DROP_VTEP_UNKNOWN: "outer source is no member of the network",
    Verdict.DROP_INNER_SOURCE: "inner source MAC is zero, a group address or our own",
    Verdict.DROP_INNER_HEADER: "inner IP header cut or broken",
    Verdict.DROP_INNER_TAG: "inner VLAN tag, which the network does not let through",
    Verdict.DROP_ECN: "congestion marked outside, and the inner packet cannot say so",
    Verdict.DROP_STATION_ELSEWHERE: "source MAC belongs to another place",
    Verdict.DROP_STATION_FROZEN: "source MAC moved too often and is frozen",
    Verdict.DROP_SAME_PORT: "its destination is where it came from",
    Verdict.DROP_SPLIT_HORIZON: "from a tunnel to a tunnel",
    Verdict.DROP_NO_ENTRY: "no forwarding entry, and the network does not flood",
    Verdict.DROP_NO_RECEIVER: "nobody to flood to",
    Verdict.DROP_BUM_RATE: "broadcast, unknown unicast and multicast over the network's rate",
    Verdict.DROP_NEIGH_FALSE: "ARP or neighbour discovery that contradicts what is set, or is malformed",
    Verdict.DROP_NEIGH_UNKNOWN: "ARP or neighbour discovery for what the proxy does not know: not asked any further",
}


def sentence(verdict: int) -> str:
    """The one human sentence of ``verdict``. ValueError for a number that is no verdict."""
    text = SENTENCES.get(verdict)
    if text is None:
        raise ValueError(f"{verdict} is no verdict")
    return text
