"""Numbered frames of no protocol, said at one device and counted at others."""

from __future__ import annotations

import contextlib
import struct
from collections import Counter

from tests.lab import packet_socket

#: IEEE 802's, for experiments: nobody else sends it.
ETH_P_TEST = 0x88B5
PACKET_OUTGOING = 4


class Ear:
    """A device of a namespace: what comes in by it of our frames, and a way to send them."""

    def __init__(self, namespace: str, device: str) -> None:
        self.sock = packet_socket(namespace, device)
        self.heard: Counter[int] = Counter()

    def say(self, destination: str, source: str, *numbers: int) -> None:
        macs = bytes.fromhex((destination + source).replace(":", ""))
        for number in numbers:
            self.sock.send(macs + struct.pack("!HI42x", ETH_P_TEST, number))

    def listen(self) -> Counter[int]:
        """How often each number has come so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                frame, origin = self.sock.recvfrom(2048)
                if origin[2] != PACKET_OUTGOING and frame[12:14] == struct.pack("!H", ETH_P_TEST):
                    self.heard[struct.unpack_from("!I", frame, 14)[0]] += 1
        return self.heard

    def forget(self) -> None:
        self.listen()
        self.heard.clear()
