"""What fits on the way to a peer: from the kernel's routes, and from ICMP errors that are about packets of ours."""

from __future__ import annotations

import asyncio
import io
import socket
import struct
import threading
from collections.abc import Sequence
from ipaddress import ip_address
from types import SimpleNamespace

import pytest

import vxlanfast as vf
from tests.support import PATIENCE_S
from vxlanfast import underlay_watch
from vxlanfast.logs import Log
from vxlanfast.path_mtu import FORGET_S, PathMtu, icmp_mtu, route_mtu

OURS4, PEER4, ROUTER4 = "192.0.2.1", "192.0.2.2", "198.51.100.9"
OURS6, PEER6, ROUTER6 = "2001:db8::1", "2001:db8::2", "2001:db8:9::9"
ADDRESSES = [ip_address(OURS4).packed, ip_address(OURS6).packed]
SPEC = """
[node]
vtep = ["192.0.2.1", "2001:db8::1"]
mtu = MTU

[[network]]
name = "web"
vni = 42
[[network.peer]]
vtep = "192.0.2.2"
[[network.peer]]
vtep = "2001:db8::2"
[[network.endpoint]]
port = "task"
ip = "10.0.9.3"

[[network]]
name = "other"
vni = 43
[[network.peer]]
vtep = "192.0.2.2"
"""


def ipv4(source: str, target: str, proto: int, payload: bytes, *, total: int = 0, frag: int = 0x4000) -> bytes:
    addresses = ip_address(source).packed + ip_address(target).packed
    return struct.pack("!BBHHHBBH", 0x45, 0, total or 20 + len(payload), 0, frag, 64, proto, 0) + addresses + payload


def ipv6(source: str, target: str, proto: int, payload: bytes, *, total: int = 0) -> bytes:
    addresses = ip_address(source).packed + ip_address(target).packed
    return struct.pack("!IHBB", 6 << 28, (total or 40 + len(payload)) - 40, proto, 64) + addresses + payload


def udp(port: int) -> bytes:
    return struct.pack("!HHHH", 50000, port, 1480, 0)


def needed(mtu: int, quoted: bytes, kind: int = 3, code: int = 4) -> bytes:
    icmp = struct.pack("!BBHHH", kind, code, 0, 0, mtu) + quoted
    return bytes(12) + b"\x08\x00" + ipv4(ROUTER4, OURS4, 1, icmp)


def too_big(mtu: int, quoted: bytes, kind: int = 2) -> bytes:
    return bytes(12) + b"\x86\xdd" + ipv6(ROUTER6, OURS6, 58, struct.pack("!BBHI", kind, 0, 0, mtu) + quoted)


QUOTED4 = ipv4(OURS4, PEER4, 17, udp(4789), total=1500)
QUOTED6 = ipv6(OURS6, PEER6, 17, udp(4789), total=1500)


def test_errors_about_our_packets() -> None:
    """Both families; less than a link may have is taken as that."""
    assert icmp_mtu(needed(1400, QUOTED4), ADDRESSES, 4789) == (ip_address(PEER4).packed, 1400)
    assert icmp_mtu(needed(300, QUOTED4), ADDRESSES, 4789) == (ip_address(PEER4).packed, 552)
    assert icmp_mtu(too_big(1400, QUOTED6 + bytes(40)), ADDRESSES, 4789) == (ip_address(PEER6).packed, 1400)
    assert icmp_mtu(too_big(600, QUOTED6), ADDRESSES, 4789) == (ip_address(PEER6).packed, 1280)


@pytest.mark.parametrize("frame", [
    needed(1400, ipv4("192.0.2.77", PEER4, 17, udp(4789), total=1500)),  # from somebody else
    needed(1400, ipv4(OURS4, PEER4, 17, udp(53), total=1500)),
    needed(1400, ipv4(OURS4, PEER4, 6, udp(4789), total=1500)),
    needed(1400, ipv4(OURS4, PEER4, 17, udp(4789), total=1500, frag=3)),  # a later fragment has no ports
    needed(1500, QUOTED4),  # it would have fitted
    needed(0, QUOTED4),
    needed(1400, QUOTED4, code=3),
    needed(1400, QUOTED4, kind=11),
    too_big(1400, ipv6("2001:db8::7", PEER6, 17, udp(4789), total=1500)),
    too_big(1400, ipv6(OURS6, PEER6, 17, udp(53), total=1500)),
    too_big(1400, ipv6(OURS6, PEER6, 44, udp(4789), total=1500)),
    too_big(1400, QUOTED6, kind=1),
    too_big(1500, QUOTED6),
    bytes(12) + b"\x08\x06" + bytes(46),
])  # fmt: skip
def test_what_is_not_believed(frame: bytes) -> None:
    assert icmp_mtu(frame, ADDRESSES, 4789) is None


def test_cut_anywhere_it_says_nothing() -> None:
    for frame in (needed(1400, QUOTED4), too_big(1400, QUOTED6)):
        for length in range(len(frame)):
            assert icmp_mtu(frame[:length], ADDRESSES, 4789) is None
        for at in range(14, len(frame)):  # nor does it fall over what it cannot be
            icmp_mtu(frame[:at] + b"\xff" + frame[at + 1 :], ADDRESSES, 4789)


def mtus(plane: vf.Dataplane, vtep: str) -> list[int]:
    packed = ip_address(vtep).packed
    return [row["mtu"] for row in plane._now.dests.rows() if row["addr"] == packed]


@pytest.mark.parametrize(("spec_mtu", "path", "fits4", "fits6"), [
    (1500, 1400, 1350, 1330), (1500, 9000, 1450, 1430), (0, 1400, 1350, 1330), (1500, None, 1450, 1430),
    (0, None, 0, 0),
])  # fmt: skip
def test_a_plane_takes_the_least(spec_mtu: int, path: int | None, fits4: int, fits6: int) -> None:
    """In every network that the peer is a member of, and again when a spec is applied."""
    spec = vf.parse_spec(SPEC.replace("MTU", str(spec_mtu)))
    plane = vf.Dataplane(spec)
    before = mtus(plane, PEER4)
    assert plane.set_path_mtu(PEER4, path) is (before != [fits4, fits4])
    plane.set_path_mtu("2001:0db8::0002", path)
    for _ in range(2):
        assert mtus(plane, PEER4) == [fits4, fits4] and mtus(plane, PEER6) == [fits6]
        plane.apply(plane.prepare(spec))
    plane.set_path_mtu(PEER4, None)
    assert mtus(plane, PEER4) == before
    assert not plane.set_path_mtu("203.0.113.9", 1000)  # no peer


def test_news_and_their_end() -> None:
    """The route's and what ICMP said; a longer one is no news; it is forgotten in time."""
    plane = vf.Dataplane(vf.parse_spec(SPEC.replace("MTU", "1500")))
    told: list[tuple[str, int]] = []
    mtu = PathMtu(plane, threading.RLock(), lambda peer, size: told.append((peer, size)))
    mtu.routes({PEER4: 1500, PEER6: None}, 0.0)
    assert mtu.changes == 0 and mtus(plane, PEER4) == [1450, 1450]
    mtu.heard(PEER4, 1400, 10.0)
    mtu.heard(PEER4, 1450, 11.0)
    assert mtus(plane, PEER4) == [1350, 1350] and told == [(PEER4, 1400)] and mtu.changes == 1
    mtu.routes({PEER4: 1300}, 20.0)
    assert mtus(plane, PEER4) == [1250, 1250]
    mtu.routes({PEER4: 1500}, 30.0)
    assert mtus(plane, PEER4) == [1350, 1350]
    mtu.routes({PEER4: None}, 9.0 + FORGET_S)
    assert mtus(plane, PEER4) == [1350, 1350]
    mtu.routes({PEER4: 1500}, 10.0 + FORGET_S)
    assert mtus(plane, PEER4) == [1450, 1450] and mtu.changes == 4
    mtu.heard(PEER4, 1400, 700.0)
    mtu.keep([PEER6])
    assert mtus(plane, PEER4) == [1450, 1450]


def test_an_error_while_routes_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an error said stays, though a look that began before it ends behind it; the next look has its say again."""
    plane = vf.Dataplane(vf.parse_spec(SPEC.replace("MTU", "1500")))
    asked, answer = threading.Event(), threading.Event()

    def look(peers: Sequence[str], sources: Sequence[str]) -> dict[str, int | None]:
        if threading.current_thread() is threading.main_thread():  # for the error's sake
            return dict.fromkeys(peers, 1400)
        asked.set()
        assert answer.wait(PATIENCE_S)
        return dict.fromkeys(peers, 1500)

    async def main() -> None:
        watch = underlay_watch.UnderlayWatch(
            plane, threading.RLock(), SimpleNamespace(kind="tap"), Log(io.StringIO())  # type: ignore[arg-type]
        )
        monkeypatch.setattr(watch.mtu, "look", look)
        monkeypatch.setattr(underlay_watch, "take_errors", lambda sock: {PEER4})
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            looking = asyncio.create_task(watch._look())
            assert await asyncio.to_thread(asked.wait, PATIENCE_S)
            watch._listen(sock)
            watch._errors(sock.fileno())
            assert mtus(plane, PEER4) == [1350, 1350]
            answer.set()
            await looking
            assert mtus(plane, PEER4) == [1350, 1350] and mtus(plane, PEER6) == [1430]
            await watch._look()
            assert mtus(plane, PEER4) == [1450, 1450]
            await watch.close()

    asyncio.run(main())


def test_a_route() -> None:
    assert (route_mtu("127.0.0.1") or 0) >= 1500
    assert route_mtu("127.0.0.1", "203.0.113.77") is None  # no address of ours
