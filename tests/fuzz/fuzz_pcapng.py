"""Any bytes as a pcapng file: they give the same packets, blocks and fault however they are read, in
memory that grows with what came and not with what a field claims; whatever is written of them, carried
block by block or anew, reads back as the same packets; and what decapsulation notes beside a packet
restores it.

The checks are those of captures.pyx.
"""

from captures import check

PCAPNG = b"\n\r\r\n"


def run(data: memoryview) -> None:
    """One input."""
    if data[8:12] == PCAPNG:
        check(data)
