"""What is said of packets of connections: service, server, why, and the rewrite; and how they are counted."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import vxlanfast as vf
from tests.mesh import (
    ACK,
    CLIENT,
    SERVER,
    SYN,
    VIP,
    VIP6,
    Director,
    S,
    client,
    establish,
    frame,
    packet,
    server,
    service,
    talks,
    tcp,
    text,
    udp,
)
from vxlanfast import Rule, Verdict
from vxlanfast.explain import as_comments
from vxlanfast.service_spec import ServerSpec


def told(director: Director, side: str, *frames: bytes, now_ns: int = S) -> list[vf.Decision]:
    batch = vf.PacketBatch.from_frames(frames, ts_ns=now_ns, port_in=director.ports[side])
    return director.plane.explain(batch)


def test_a_connection() -> None:
    """Its first packet says why that server; the others say which connection's they are; both say what is rewritten."""
    director = Director(service(masq=True, target=8080, scheduler="wlc"))
    (talk,) = talks(1)
    (first,) = told(director, CLIENT, talk.up(SYN))
    number = first.translation.connection if first.translation else None
    assert first.name == "RULE_BALANCED" and first.vni is None and (first.port, first.to) == (CLIENT, SERVER)
    assert first.translation == vf.Translation(
        service="web", server="10.0.9.2:8080", connection=number, opened=True, by="wlc",
        before="100.64.0.0:10000 > 203.0.113.10:80", after="10.0.9.1:10000 > 10.0.9.2:8080",
    )  # fmt: skip
    assert str(first).endswith(
        f"to a server of its service (web: wlc gives it to 10.0.9.2:8080, as connection {number}; 100.64.0.0:10000 >"
        " 203.0.113.10:80 becomes 10.0.9.1:10000 > 10.0.9.2:8080)"
    )
    talk.at, talk.seen = (server(2), 8080), (bytes([10, 0, 9, 1]), 10_000)
    (back,) = told(director, SERVER, talk.down(SYN | ACK))
    assert back.name == "RULE_RETURNED" and back.detail == (
        f"web: 10.0.9.2:8080, of connection {number}; 10.0.9.2:8080 > 10.0.9.1:10000 becomes"
        " 203.0.113.10:80 > 100.64.0.0:10000"
    )
    (more,) = told(director, CLIENT, talk.up(ACK))
    assert more.detail.startswith(f"web: 10.0.9.2:8080, of connection {number}; 100.64.0.0:10000 >")
    assert json.loads(json.dumps(more.as_dict()))["translation"]["opened"] is False


def test_affinity() -> None:
    """A client's second connection goes where its first one is, and that is said; so it is over IPv6."""
    director = Director(service(vip=VIP6, persistent_s=300, servers=(2, 3)))
    first, second = talks(2, family=6)
    by = [one.translation for one in told(director, CLIENT, first.up(SYN), second.up(SYN))]
    assert [(one.by, one.server) for one in by if one] == [("rr", by[0].server), ("affinity", by[0].server)]  # type: ignore[union-attr]
    assert by[0] is not None and by[0].before == f"[{text(first.src)}]:10000 > [{text(VIP6)}]:80"


def test_what_nobody_takes() -> None:
    """Which service it was for, though there is no connection."""
    director = Director(
        service(servers=()), service("dns", protocol="udp", port=53), service("two", protocol="udp", port=54)
    )
    (refused,) = told(director, CLIENT, tcp(CLIENT, client(1), 9, VIP, 80, SYN))
    assert refused.name == "RULE_NO_SERVER" and refused.detail == "web; 100.64.0.1:9 > 203.0.113.10:80"
    assert refused.translation is not None and refused.translation.connection is None
    (stray,) = told(director, CLIENT, tcp(CLIENT, client(1), 9, VIP, 80, ACK))
    assert stray.name != "RULE_BALANCED" and not stray.detail
    virtual = replace(director.spec.service[1].virtual[0], sources=("100.64.1.0/24",))
    director.apply(replace(director.spec.service[1], virtual=(virtual,)))
    (closed,) = told(director, CLIENT, udp(CLIENT, client(1), 9, VIP, 53))
    assert closed.name == "DROP_SOURCE_REFUSED" and closed.detail == "dns; 100.64.0.1:9 > 203.0.113.10:53"


def test_a_server_that_is_gone() -> None:
    director = Director(service(removal="hold", servers=(ServerSpec(address="10.0.9.2", port=81),)))
    (talk,) = talks(1)
    establish(director, [talk], S)
    director.plane.remove_server("web", "10.0.9.2", 81)
    (waits,) = told(director, CLIENT, talk.up(ACK))
    assert waits.name == "DROP_SERVER_GONE" and waits.detail.startswith("web: 10.0.9.2:81, of connection ")


def test_resets_are_the_nodes_own() -> None:
    """They are of no packet that came, and the account has them."""
    director = Director(service(removal="reset"))
    establish(director, talks(2), S)
    director.plane.remove_server("web", "10.0.9.2")
    rows = told(director, CLIENT, frame(CLIENT, packet(client(1), VIP, 1, b"\x08\0\xf7\xff" + bytes(4))))
    assert [(one.packet, one.port, one.to) for one in rows[1:]] == [(0, "node", CLIENT), (0, "node", SERVER)] * 2
    assert {one.name for one in rows[1:]} == {"RULE_RESET"} and rows[0].packet == 1
    s = director.plane.stats()
    assert s.mesh.resets == 4 == s.rules[Rule.RULE_RESET] and s.mesh.connections == 0 and s.mesh.opened == 2
    assert s.packets + s.mesh.resets == s.passed + sum(s.drops.values()) and s.sent == s.passed


def test_comments() -> None:
    """What stands in a capture's comments."""
    director = Director(service(protocol="udp", port=53))
    frames = [udp(CLIENT, client(n), 9, VIP, 53) for n in (1, 2)]
    batch = vf.PacketBatch.from_frames(frames, ts_ns=S, port_in=director.ports[CLIENT])
    comments = as_comments(director.plane.explain(batch), batch)
    assert comments[1] == (
        "client -> server: to a server of its service (web: rr gives it to 10.0.9.2:53, as connection 1;"
        " 100.64.0.2:9 > 203.0.113.10:53 becomes 100.64.0.2:9 > 10.0.9.2:53)"
    )


def test_nothing_is_kept_unasked() -> None:
    director = Director(service(protocol="udp", port=53))
    told(director, CLIENT, udp(CLIENT, client(1), 9, VIP, 53))
    assert len(director.plane.translations()) == 1
    director.send(CLIENT, [udp(CLIENT, client(1), 9, VIP, 53)], S)
    assert director.plane.translations() == {}


@pytest.mark.parametrize("rows", [1, 31, 32, 33, 100])
def test_rows_and_decisions(rows: int) -> None:
    """Each row has its own, in batches of any size; a connection that ends is not taken for its follower."""
    director = Director(service(protocol="udp", port=53, servers=range(2, 20)), connections=16)
    decisions = told(director, CLIENT, *(udp(CLIENT, client(n), 9, VIP, 53) for n in range(rows)))
    assert [one.translation.before for one in decisions if one.translation] == [
        f"{text(client(n))}:9 > 203.0.113.10:53" for n in range(rows)
    ]
    went = [one.translation.after for one in decisions if one.translation]
    assert len(set(went)) == rows and all(str(one).split(">")[0].strip().endswith(":9") for one in went)
    s = director.plane.stats()
    assert (s.mesh.opened, s.mesh.evicted, s.mesh.connections) == (rows, max(0, rows - 16), min(16, rows))
    assert Verdict.DROP_CONN_FULL not in s.drops
