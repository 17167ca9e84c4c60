"""The same job with scapy, as a process: ``python with_scapy.py decap|encap IN OUT``. Prints its seconds
without start-up.

Written as its users write it: PcapReader, layers, PcapWriter.
"""

from __future__ import annotations

import sys
from importlib import import_module
from time import perf_counter
from typing import Any

VNI = 4096


def decap(scapy: Any, reader: Any, writer: Any) -> None:
    """Dissect, and take what is behind the VXLAN layer."""
    vxlan = scapy.layers.vxlan.VXLAN
    for packet in reader:
        if vxlan in packet and packet[vxlan].flags & 8:
            inner = packet[vxlan].payload
            inner.time = packet.time
            writer.write(inner)


def encap(scapy: Any, reader: Any, writer: Any) -> None:
    """Stack the layers; scapy fills in lengths and checksums."""
    ether, vxlan = scapy.layers.l2.Ether, scapy.layers.vxlan.VXLAN
    ip, udp = scapy.layers.inet.IP, scapy.layers.inet.UDP
    for ident, frame in enumerate(reader):
        sport = 49152 | hash(bytes(frame)[23:38]) & 16383
        outer = ether(src="02:42:c0:00:02:01", dst="02:42:c0:00:02:02") / ip(
            src="192.0.2.1", dst="192.0.2.2", id=ident & 0xFFFF
        )
        packet = outer / udp(sport=sport, dport=4789, chksum=0) / vxlan(vni=VNI, flags=8) / frame
        packet.time = frame.time
        writer.write(packet)


def main(verb: str, source: str, target: str) -> None:
    """Do it, and say how long it took."""
    # "scapy.all" asks for the machine's interfaces and routes; the layers are enough.
    for name in ("l2", "inet", "vxlan"):
        import_module(f"scapy.layers.{name}")
    utils: Any = import_module("scapy.utils")
    scapy: Any = import_module("scapy")
    began = perf_counter()
    with utils.PcapReader(source) as reader, utils.PcapWriter(target, linktype=1, snaplen=262144) as writer:
        (decap if verb == "decap" else encap)(scapy, reader, writer)
    print(perf_counter() - began)


if __name__ == "__main__":
    main(*sys.argv[1:])
