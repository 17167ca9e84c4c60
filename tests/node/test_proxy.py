"""ARP and neighbour discovery out of the table: scapy asks and reads the answers."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from tests.node.plane import UNDERLAY, Vtep
from tests.node.test_bridge import BROADCAST, A, B, C, mac, unwrap, wrap
from vxlanfast._ext.batch import PacketBatch
from vxlanfast._ext.verdict import Verdict as V

FAR, NEAR, GATEWAY = "10.0.0.7", "10.0.0.3", "10.0.0.254"
FAR6, NEAR6 = "2001:db8::7", "2001:db8::3"
PORT1, PORT2, PEER_B, PEER_C = range(4)


def raw(address: str) -> bytes:
    return bytes.fromhex(address.replace(":", ""))


def make(**policy: bool) -> Vtep:
    """Two ports, two peers; 7 lives at B, 3 at port 2; Swarm's settings unless said otherwise."""
    vtep = Vtep(A, {42: ([1, 2], [B, C])}, **({"proxy": True, "swallow": True, "flood": False} | policy))
    for number, dest, *addresses in ((7, PEER_B, FAR, FAR6), (3, PORT2, NEAR, NEAR6)):
        vtep.fdb.set(0, raw(mac(number)), dest)
        for address in addresses:
            vtep.neigh.set(0, ip_address(address).packed, raw(mac(number)), dest=dest)
    vtep.neigh.set(0, ip_address(GATEWAY).packed, raw(mac(254)), gateway=True)
    return vtep


def who_has(target: str, *, sender: str = "10.0.0.1", src: int = 1, dst: str = BROADCAST, **fields: object) -> bytes:
    return bytes(Ether(src=mac(src), dst=dst) / ARP(op=1, hwsrc=mac(src), psrc=sender, pdst=target, **fields))


def solicit(target: str, *, sender: str = "2001:db8::1", hlim: int = 255, **fields: object) -> bytes:
    ns = Ether(src=mac(1), dst="33:33:ff:00:00:07") / IPv6(src=sender, dst="ff02::1:ff00:7", hlim=hlim)
    ns /= ICMPv6ND_NS(tgt=target, **fields)
    return bytes(ns if sender == "::" else ns / ICMPv6NDOptSrcLLAddr(lladdr=mac(1)))


@pytest.mark.parametrize("sender", ["10.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("dst", [BROADCAST, mac(7)])
def test_known_elsewhere(sender: str, dst: str) -> None:
    """Answered to the port that asked: a broadcast, a probe for duplicates and a unicast request alike."""
    vtep = make()
    [(port, out)] = vtep.offer(1, [who_has(FAR, sender=sender, dst=dst)])
    want = Ether(src=mac(7), dst=mac(1)) / ARP(
        op=2, hwsrc=mac(7), psrc=FAR, hwdst=mac(1), pdst=sender
    )
    assert (port, out) == (1, bytes(want))
    assert vtep.fdb.get(0, raw(mac(1))) == PORT1  # who asks is learned
    assert vtep.proxy.answered == 1


def test_tags_are_kept() -> None:
    """The answer has the tags of the question."""
    vtep = make(tags=True)
    ask = Ether(src=mac(1), dst=BROADCAST) / Dot1Q(vlan=5) / Dot1Q(vlan=6)
    ask /= ARP(hwsrc=mac(1), psrc="10.0.0.1", pdst=FAR)
    [(_, out)] = vtep.offer(1, [bytes(ask)])
    got = Ether(out)
    assert [got[Dot1Q].vlan, got[Dot1Q].payload.vlan, got[ARP].hwsrc] == [5, 6, mac(7)]


def test_what_stays_here() -> None:
    """Unknown targets, and those behind our own ports, are asked on this host and no further; so are claims."""
    vtep = make()
    for ask in (who_has("10.0.0.99"), who_has(NEAR), who_has("10.0.0.1"), who_has("127.0.0.1"), who_has("224.0.0.1")):
        assert vtep.offer(1, [ask]) == [(2, ask)]
    reply = bytes(Ether(src=mac(1), dst=mac(7)) / ARP(op=2, hwsrc=mac(1), psrc="10.0.0.1", hwdst=mac(7), pdst=FAR))
    assert vtep.verdicts(1, [reply]) == [V.DROP_NEIGH_UNKNOWN]  # it would cross a tunnel
    alone = Vtep(A, {42: ([1], [B])}, proxy=True, swallow=True)
    assert alone.verdicts(1, [who_has(FAR), who_has("10.0.0.1")]) == [V.DROP_NEIGH_UNKNOWN] * 2
    assert alone.verdicts(1, [bytes(Ether(src=mac(1), dst=BROADCAST) / Raw(b"other"))]) == [V.PASS]


def test_unknown_is_flooded_where_the_policy_says_so() -> None:
    """Proxy without swallowing: what the table knows is answered, the rest is asked everywhere."""
    vtep = make(swallow=False, flood=True)
    assert [port for port, _ in vtep.offer(1, [who_has(FAR)])] == [1]
    ask = who_has("10.0.0.99")
    out = vtep.offer(1, [ask])
    assert out[0] == (2, ask) and [unwrap(p)[1] for _, p in out[1:]] == [B, C]


def test_no_proxy_no_answer() -> None:
    """Without the policy a request is a frame; the gateway answers all the same."""
    vtep = make(proxy=False, flood=True)
    assert [port for port, _ in vtep.offer(1, [who_has(FAR)])] == [2, UNDERLAY, UNDERLAY]
    [(port, out)] = vtep.offer(1, [who_has(GATEWAY)])
    assert port == 1 and Ether(out)[ARP].hwsrc == mac(254)


def test_from_a_tunnel() -> None:
    """A peer's requests go to the ports, unanswered: its own proxy is who answers there."""
    vtep = make()
    ask = who_has(NEAR, sender=FAR, src=7)
    assert vtep.offer(UNDERLAY, [wrap(ask, src=B)]) == [(1, ask), (2, ask)]


@pytest.mark.parametrize(
    ("claim", "origin"),
    [
        (who_has(NEAR, sender=FAR, src=9), B),  # another MAC than set
        (who_has(NEAR, sender=FAR, src=7), C),  # the right MAC, from the wrong VTEP
        (who_has(GATEWAY, sender=GATEWAY, src=9), B),  # gratuitous, of the gateway's address
        (who_has(NEAR, sender=GATEWAY, src=254), B),
        (bytes(Ether(src=mac(9), dst=BROADCAST) / ARP(op=2, hwsrc=mac(9), psrc=FAR, hwdst=mac(9), pdst=FAR)), C),
        (who_has(FAR, sender=NEAR, src=1), None),  # by port 1, and it lives at port 2
    ],
)
def test_false_claims(claim: bytes, origin: str | None) -> None:
    """Dropped, counted where they came from, and nothing is learned of them."""
    vtep = make()
    packet, port = (claim, 1) if origin is None else (wrap(claim, src=origin), UNDERLAY)
    before = len(vtep.fdb)
    assert vtep.verdicts(port, [packet]) == [V.DROP_NEIGH_FALSE]
    assert len(vtep.fdb) == before
    place = {None: PORT1, B: PEER_B, C: PEER_C}[origin]
    assert [row["drops"] for row in vtep.dests.rows()] == [int(n == place) for n in range(4)]


def advert(out: bytes) -> Packet:
    got = Ether(out)
    assert got[IPv6].hlim == 255 and got[ICMPv6ND_NA].code == 0
    assert bytes(got) == bytes(Ether(bytes(got)))
    check = got[ICMPv6ND_NA].cksum
    got[ICMPv6ND_NA].cksum = None
    assert Ether(bytes(got))[ICMPv6ND_NA].cksum == check
    return got


def test_neighbour_discovery() -> None:
    """A solicitation is answered by unicast with S and O; a probe for duplicates to all nodes, without S."""
    vtep = make()
    [(port, out)] = vtep.offer(1, [solicit(FAR6)])
    got = advert(out)
    assert (port, got.src, got.dst, got[IPv6].src, got[IPv6].dst) == (1, mac(7), mac(1), FAR6, "2001:db8::1")
    assert (got[ICMPv6ND_NA].R, got[ICMPv6ND_NA].S, got[ICMPv6ND_NA].O) == (0, 1, 1)
    assert (got[ICMPv6ND_NA].tgt, got[ICMPv6NDOptDstLLAddr].lladdr) == (FAR6, mac(7))
    [(port, out)] = vtep.offer(1, [solicit(FAR6, sender="::")])
    got = advert(out)
    assert (got.dst, got[IPv6].dst, got[ICMPv6ND_NA].S) == ("33:33:00:00:00:01", "ff02::1", 0)
    ask = solicit("2001:db8::99")
    assert vtep.offer(1, [ask]) == [(2, ask)]


def test_false_discovery() -> None:
    """A router forwarded it, its checksum is wrong, an option has no length, or what is set says otherwise."""
    vtep = make()
    claim = Ether(src=mac(9), dst="33:33:00:00:00:01") / IPv6(src=FAR6, dst="ff02::1", hlim=255)
    claim /= ICMPv6ND_NA(tgt=FAR6, O=1) / ICMPv6NDOptDstLLAddr(lladdr=mac(9))
    good = solicit(FAR6)
    broken = [solicit(FAR6, hlim=254), solicit(FAR6, cksum=1), good[:-7] + b"\0" + good[-6:], bytes(claim)]
    assert vtep.verdicts(1, broken) == [V.DROP_NEIGH_FALSE] * 4
    assert vtep.offer(UNDERLAY, [wrap(bytes(claim), src=B)]) == []


def test_every_cut() -> None:
    """A request or solicitation cut anywhere is answered only when whole, and reads nothing behind its end."""
    for whole in (who_has(FAR), solicit(FAR6)):
        for n in range(14, len(whole)):
            vtep = make()
            batch = PacketBatch.from_frames([whole[:n]], port_in=1)
            vtep.process(batch)
            assert vtep.proxy.answered == 0
        assert len(make().offer(1, [whole])) == 1
