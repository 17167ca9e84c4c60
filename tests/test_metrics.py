"""Metrics: what a plane counted, as Prometheus' own parser reads it; bounded labels; over HTTP."""

from __future__ import annotations

import asyncio
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

import vxlanfast as vf
from tests.standin import NODE, StandIn
from tests.test_live_capture import traffic
from vxlanfast.metrics import MetricsServer, capped, exposition, parse_listen, registry_of

parser = pytest.importorskip("prometheus_client.parser")


def samples(text: str) -> dict[tuple[str, ...], float]:
    """By name and labels."""
    out: dict[tuple[str, ...], float] = {}
    for family in parser.text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items())))
            assert key not in out
            out[key] = sample.value
    return out


@pytest.fixture
def node() -> StandIn:
    return StandIn(vf.parse_spec(NODE))


def test_what_the_plane_counted(node: StandIn) -> None:
    traffic(node)
    got, stats = samples(exposition(node)), node.plane.stats()
    assert got["vxlanfast_info", "node=lab", f"version={vf.__version__}"] == 1
    for name, value in (
        ("packets", stats.packets), ("passed_packets", stats.passed), ("sent_packets", stats.sent),
        ("connections_opened", stats.mesh.opened),
    ):  # fmt: skip
        assert got[f"vxlanfast_{name}_total",] == value
    assert got["vxlanfast_connections",] == stats.mesh.connections == 1
    drops = {key[2].removeprefix("reason="): value for key, value in got.items() if "dropped_packets" in key[0]}
    assert drops == {verdict.name: number for verdict, number in stats.drops.items()} and len(drops) >= 2
    assert sum(v for key, v in got.items() if key[0] == "vxlanfast_rule_packets_total") == stats.sent
    veth1 = stats.ports["veth1"]
    assert got["vxlanfast_port_receive_packets_total", "port=veth1"] == veth1.rx_packets > 0
    assert got["vxlanfast_vtep_transmit_bytes_total", "vni=42", "vtep=192.0.2.2"] > 0
    assert got["vxlanfast_network_strangers_packets_total", "network=web", "vni=42"] == 1
    assert got["vxlanfast_io_rx_packets_total", "port=underlay"] == 1234
    assert got["vxlanfast_service_connections_total", "family=4", "service=shop"] == 1


def test_labels_are_bounded() -> None:
    """Of a thousand VTEPs and ports, so many and the sum of the others; nothing is lost in the sums."""
    peers = tuple(vf.PeerSpec(vtep=f"192.0.{2 + n // 250}.{1 + n % 250}") for n in range(1000))
    ends = tuple(vf.EndpointSpec(port=f"p{n}") for n in range(200))
    network = vf.NetworkSpec(name="big", vni=1, endpoint=ends, peer=peers)
    node = StandIn(vf.NodeSpec(vtep=("198.51.100.1",), network=(network,)))
    frame = bytes.fromhex("ffffffffffff 020000000001 0800") + bytes(46)
    node.process("p199", frame)
    text = exposition(node)
    assert len(text) < 400_000
    got = samples(text)
    for what in ("vtep", "port"):
        rows = {key: value for key, value in got.items() if key[0] == f"vxlanfast_{what}_transmit_packets_total"}
        assert len(rows) == 129 and sum(rows.values()) == (1000 if what == "vtep" else 199)
    assert got["vxlanfast_vtep_transmit_packets_total", "vni=other", "vtep=other"] == 1000 - 128


def test_capped() -> None:
    rows = [((str(n),), {"a": n, "b": 1}) for n in range(5)]
    assert capped(rows, 3) == {("0",): {"a": 0, "b": 1}, ("1",): {"a": 1, "b": 1}, ("2",): {"a": 2, "b": 1},
                               ("other",): {"a": 7, "b": 2}}  # fmt: skip
    assert len(list(registry_of(StandIn(vf.parse_spec(NODE)), most=1).collect())) > 20


@pytest.fixture
def served(node: StandIn) -> Iterator[int]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = MetricsServer(node, "0")
    try:
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(60)
        yield server.port
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(60)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


def test_over_http(served: int) -> None:
    url = f"http://127.0.0.1:{served}"
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert ("vxlanfast_packets_total",) in samples(answer.read().decode())
    for wrong, code in ((urllib.request.Request(f"{url}/etc/passwd"), 404),
                        (urllib.request.Request(f"{url}/metrics", method="DELETE"), 405)):  # fmt: skip
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(wrong, timeout=60)
        refused.value.close()
        assert refused.value.code == code


def test_hostile_http(served: int) -> None:
    import socket

    for data in (b"\r\n\r\n", b"GET\r\n\r\n", b"\0" * 100 + b"\r\n\r\n", b"x" * 100_000, b"GET /metrics HTTP/1.1\r\n"):
        with socket.create_connection(("127.0.0.1", served), 60) as sock:
            try:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                sock.recv(65536)
            except OSError:
                pass
    test_over_http(served)


def test_the_end_while_somebody_is_there(node: StandIn, caplog: pytest.LogCaptureFixture) -> None:
    """Who has said nothing yet is hung up on, and nobody prints a traceback."""

    async def go() -> bytes:
        server = MetricsServer(node, "0")
        await server.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        while not server._clients:
            await asyncio.sleep(0.01)
        await server.close()
        got = await reader.read()
        writer.close()
        await writer.wait_closed()
        return got

    assert asyncio.run(go()) == b""
    assert caplog.records == []


def test_addresses() -> None:
    assert parse_listen("127.0.0.1:9469") == ("127.0.0.1", 9469) and parse_listen("9469") == ("127.0.0.1", 9469)
    assert parse_listen("[::1]:1") == ("::1", 1) and parse_listen(":80") == ("127.0.0.1", 80)
    for text in ("", "x", "127.0.0.1:", "127.0.0.1:99999", "1:-1"):
        with pytest.raises(vf.SpecError, match="ADDRESS:PORT"):
            parse_listen(text)


def test_an_address_in_use(node: StandIn, served: int) -> None:
    with pytest.raises(vf.OutputError, match=f"127.0.0.1:{served}"):
        asyncio.run(MetricsServer(node, f"127.0.0.1:{served}").start())


def test_without_the_library(node: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    missing: Any = pytest.raises(vf.MissingLibraryError, match=r"pip install 'vxlanfast\[live\]'")
    with missing:
        exposition(node)
