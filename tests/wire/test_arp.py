"""ARP for IPv4 over Ethernet."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.l2 import ARP

from vxlanfast._ext.verdict import Verdict

# 0000   00 01 08 00 06 04 00 01 02 00 00 00 00 01 c0 00   request; 02:00:00:00:00:01, 192.0.2.1 …
# 0010   02 01 00 00 00 00 00 00 c0 00 02 02               … asks who has 192.0.2.2
REQUEST = bytes.fromhex("0001080006040001 020000000001 c0000201 000000000000 c0000202")
# 0000   00 01 08 00 06 04 00 02 02 00 00 00 00 02 c0 00
# 0010   02 02 02 00 00 00 00 01 c0 00 02 01
REPLY = bytes.fromhex("0001080006040002 020000000002 c0000202 020000000001 c0000201")
MAC1, MAC2 = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
IP1, IP2 = 0xC0000201, 0xC0000202
MACS, IPS = st.binary(min_size=6, max_size=6), st.integers(0, 0xFFFFFFFF)


def test_getters(wire):
    assert wire.arp_check(REPLY) == Verdict.PASS
    assert (wire.arp_op(REQUEST), wire.arp_op(REPLY)) == (1, 2)
    assert (wire.arp_sender_mac(REPLY), wire.arp_sender_ip(REPLY)) == (MAC2, IP2)
    assert (wire.arp_target_mac(REPLY), wire.arp_target_ip(REPLY)) == (MAC1, IP1)
    assert wire.arp_target_mac(REQUEST) == bytes(6)


def test_write(wire):
    assert wire.arp_write(1, MAC1, IP1, None, IP2) == REQUEST
    assert wire.arp_write(2, MAC2, IP2, MAC1, IP1) == REPLY


def test_truncated_at_every_length(wire):
    for n in range(28):
        assert wire.arp_check(REQUEST[:n]) == Verdict.DROP_TRUNCATED
    assert wire.arp_check(REQUEST + bytes(18)) == Verdict.PASS


@pytest.mark.parametrize("at", range(6))
def test_other_kinds_are_not_ours(wire, at):
    """Another hardware or protocol, or other address lengths: whole, whatever its size."""
    for value in range(256):
        other = REQUEST[:at] + bytes([value]) + REQUEST[at + 1 :]
        same = value == REQUEST[at]
        assert wire.arp_check(other) == (Verdict.PASS if same else Verdict.PUNT_NOT_IP)
        assert wire.arp_check(other[:8]) == (Verdict.DROP_TRUNCATED if same else Verdict.PUNT_NOT_IP)


@given(op=st.integers(0, 0xFFFF), mac=MACS, ip=IPS, mac2=MACS, ip2=IPS)
def test_write_then_read(wire, op, mac, ip, mac2, ip2):
    message = wire.arp_write(op, mac, ip, mac2, ip2)
    assert struct.unpack(">HHBBH6sI6sI", message) == (1, 0x0800, 6, 4, op, mac, ip, mac2, ip2)
    assert wire.arp_check(message) == Verdict.PASS
    assert (wire.arp_op(message), wire.arp_sender_mac(message), wire.arp_sender_ip(message)) == (op, mac, ip)
    assert (wire.arp_target_mac(message), wire.arp_target_ip(message)) == (mac2, ip2)


@given(op=st.integers(0, 0xFFFF), mac=MACS, ip=IPS)
def test_setters_touch_their_fields_only(wire, op, mac, ip):
    assert wire.arp_set_op(REPLY, op) == REPLY[:6] + op.to_bytes(2, "big") + REPLY[8:]
    assert wire.arp_set_sender(REPLY, mac, ip) == REPLY[:8] + mac + ip.to_bytes(4, "big") + REPLY[18:]
    assert wire.arp_set_target(REPLY, mac, ip) == REPLY[:18] + mac + ip.to_bytes(4, "big")
    assert wire.arp_set_target(REPLY, None, ip) == REPLY[:18] + bytes(6) + ip.to_bytes(4, "big")


def test_scapy_reads_what_we_write(wire):
    theirs = ARP(wire.arp_write(2, MAC2, IP2, MAC1, IP1))
    assert (theirs.hwtype, theirs.ptype, theirs.hwlen, theirs.plen, theirs.op) == (1, 0x0800, 6, 4, 2)
    assert (theirs.hwsrc, theirs.psrc) == ("02:00:00:00:00:02", "192.0.2.2")
    assert (theirs.hwdst, theirs.pdst) == ("02:00:00:00:00:01", "192.0.2.1")


def test_we_read_what_scapy_writes(wire):
    theirs = bytes(ARP(op=1, hwsrc="02:00:00:00:00:01", psrc="192.0.2.1", hwdst="00:00:00:00:00:00", pdst="192.0.2.2"))
    assert theirs == REQUEST
