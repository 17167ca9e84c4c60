"""The link types of capture files."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import CookedLinux, CookedLinuxV2, Ether, Loopback

from vxlanfast._ext.verdict import Verdict

NULL, ETHERNET, LOOP, SLL, SLL2 = 0, 1, 108, 113, 276
RAW = [12, 14, 101, 228, 229]
KNOWN = {NULL, ETHERNET, LOOP, SLL, SLL2, *RAW}
PASS, TRUNCATED = Verdict.PASS, Verdict.DROP_TRUNCATED

# 0000   00 00 00 01 00 06 02 00 00 00 00 01 00 00 08 00   to us, ARPHRD_ETHER, 6 bytes of address, IPv4
SLL_HEADER = bytes.fromhex("00000001000602000000000100000800")
# 0000   86 dd 00 00 00 00 00 02 00 01 04 06 02 00 00 00   IPv6, interface 2, ARPHRD_ETHER, outgoing, 6 bytes of address
# 0010   00 01 00 00
SLL2_HEADER = bytes.fromhex("86dd000000000002000104060200000000010000")
# What tcpdump and Wireshark take for AF_INET6: NetBSD, OpenBSD; FreeBSD; Darwin; Linux
INET6 = [24, 28, 30, 10]


def test_sll(wire):
    assert wire.link_find_l3(SLL, SLL_HEADER) == (PASS, (0x0800, 16))


def test_sll2(wire):
    assert wire.link_find_l3(SLL2, SLL2_HEADER) == (PASS, (0x86DD, 20))


def test_tags_behind_sll(wire):
    """The protocol field holds the tag's type; TCI and next type follow the header."""
    tagged = SLL_HEADER[:14] + bytes.fromhex("8100 0005 88a8 0006 0800")
    assert wire.link_find_l3(SLL, tagged) == (PASS, (0x0800, 24))
    for n in range(len(tagged)):
        assert wire.link_find_l3(SLL, tagged[:n]) == (TRUNCATED, None)


@pytest.mark.parametrize("kind", ["8100", "88a8", "9100", "9200"])
def test_tags_behind_sll2(wire, kind):
    tagged = bytes.fromhex(kind) + SLL2_HEADER[2:] + bytes.fromhex("0005 8100 0006 0800")
    assert wire.link_find_l3(SLL2, tagged) == (PASS, (0x0800, 28))
    for n in range(len(tagged)):
        assert wire.link_find_l3(SLL2, tagged[:n]) == (TRUNCATED, None)


@pytest.mark.parametrize("order", ["<I", ">I"])
def test_null_is_of_the_order_of_its_machine(wire, order):
    assert wire.link_find_l3(NULL, struct.pack(order, 2)) == (PASS, (0x0800, 4))
    for family in INET6:
        assert wire.link_find_l3(NULL, struct.pack(order, family)) == (PASS, (0x86DD, 4))
    assert wire.link_find_l3(NULL, struct.pack(order, 7)) == (PASS, (0, 4))


def test_loop_is_of_network_order(wire):
    assert wire.link_find_l3(LOOP, bytes.fromhex("00000002")) == (PASS, (0x0800, 4))
    assert wire.link_find_l3(LOOP, bytes.fromhex("00000018")) == (PASS, (0x86DD, 4))
    assert wire.link_find_l3(LOOP, bytes.fromhex("02000000")) == (PASS, (0, 4))


def test_families(wire):
    want = {2: 0x0800, **dict.fromkeys(INET6, 0x86DD)}
    assert {family: kind for family in range(256) if (kind := wire.link_family_type(family))} == want


@pytest.mark.parametrize("link", RAW)
def test_raw(wire, link):
    assert wire.link_find_l3(link, b"\x45") == (PASS, (0x0800, 0))
    assert wire.link_find_l3(link, b"\x60") == (PASS, (0x86DD, 0))
    assert wire.link_find_l3(link, b"\x00") == (PASS, (0, 0))
    assert wire.link_find_l3(link, b"") == (TRUNCATED, None)


def test_ethernet(wire):
    assert wire.link_find_l3(ETHERNET, bytes(12) + b"\x08\x00") == (PASS, (0x0800, 14))


@pytest.mark.parametrize(
    ("link", "header"), [(SLL, SLL_HEADER), (SLL2, SLL2_HEADER), (NULL, bytes(4)), (LOOP, bytes(4))]
)
def test_truncated_at_every_length(wire, link, header):
    for n in range(len(header)):
        assert wire.link_find_l3(link, header[:n]) == (TRUNCATED, None)


def test_known_types(wire):
    assert {link for link in range(1000) if wire.link_is_known(link)} == KNOWN


@given(link=st.integers(0, 2**32 - 1), frame=st.binary(max_size=40))
def test_any_type_and_any_bytes(wire, link, frame):
    verdict, _ = wire.link_find_l3(link, frame)
    assert verdict in ((PASS, TRUNCATED) if link in KNOWN else (Verdict.PUNT_LINK_TYPE,))


@pytest.mark.parametrize(
    ("link", "layer"),
    [
        (ETHERNET, Ether(dst="02:00:00:00:00:02", src="02:00:00:00:00:01")),
        (SLL, CookedLinux()),
        (SLL2, CookedLinuxV2()),
        (NULL, Loopback()),
        (228, None),
    ],
)
def test_we_read_what_scapy_writes(wire, link, layer):
    packet = IP(src="192.0.2.1", dst="192.0.2.2") / UDP()
    frame = bytes(layer / packet if layer else packet)
    assert wire.link_find_l3(link, frame) == (PASS, (0x0800, len(frame) - 28))


def records(path):
    """The frames of a classic pcap file, and its link type."""
    content = path.read_bytes()
    order = "<" if content[0] in (0xD4, 0x4D) else ">"
    at = 24
    while at + 16 <= len(content):
        (n,) = struct.unpack_from(order + "I", content, at + 8)
        yield content[at + 16 : at + 16 + n]
        at += 16 + n


def test_other_peoples_captures(wire, shared_captures):
    """As many TCP, UDP and ICMP packets as the index says, in the files of every header but Ethernet's."""
    protos = {"tcp": 6, "udp": 17, "icmp": 1}
    seen = set()
    for line in (shared_captures / "pcap-variants" / "INDEX.tsv").read_text().splitlines()[1:]:
        name, _, form, link, _, notes = (line + "\t").split("\t")[:6]
        link = int(link) if link.isdigit() else -1
        want = {
            key: int(value)
            for key, _, value in (note.strip().partition("=") for note in notes.split(";"))
            if key in protos
        }
        if not form.startswith("pcap-") or link == ETHERNET or link not in KNOWN or not want or "snapped" in notes:
            continue
        found = dict.fromkeys(want, 0)
        for frame in records(shared_captures / "pcap-variants" / name):
            verdict, place = wire.link_find_l3(link, frame)
            if verdict == PASS:
                verdict, packet = wire.ip_parse(place[0], frame[place[1] :])
            if verdict == PASS and not packet["frag_more"]:  # theirs counts a datagram with its last fragment
                for key in want:
                    found[key] += packet["proto"] == protos[key]
        assert (name, found) == (name, want)
        seen.add(link)
    assert len(seen) >= 4
