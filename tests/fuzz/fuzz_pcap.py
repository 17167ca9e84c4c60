"""Any bytes as a pcap file: they give the same packets and the same fault however they are read, in
memory that grows with what came and not with what a field claims, and whatever is written of them reads
back as the same packets.

The checks are those of captures.pyx.
"""

from captures import check

PCAPNG = b"\n\r\r\n"


def run(data: memoryview) -> None:
    """One input."""
    if data[8:12] != PCAPNG:
        check(data)
