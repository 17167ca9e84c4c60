"""Two live nodes with underlays of different kinds: super-frames of either arrive whole, or as what they stand for."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from pathlib import Path

import pytest

from tests.lab import inside, namespaces, need_root
from tests.live import Node, address, cable, ping, run, until
from tests.support import PYTHON

pytestmark = [pytest.mark.root, pytest.mark.live]

SIZE = 12_000_000
CONFIG = """
[node]
vtep = "{vtep}"
udp_csum = "{csum}"

[live]
underlay = "{underlay}"

[[live.tap]]
port = "task"
namespace = "{task}"

[[network]]
name = "web"
vni = 42
subnet = ["10.0.9.0/24"]

[[network.endpoint]]
port = "task"
ip = "10.0.9.{number}"

[[network.endpoint]]
vtep = "{other}"
ip = "10.0.9.{others}"
"""
VTEP = {4: ("192.0.2.1", "192.0.2.2", 24), 6: ("2001:db8::1", "2001:db8::2", 64)}


def sent(sender: str, receiver: str, to: str, data: bytes) -> str:
    """The digest of what arrives of a stream."""
    digest = hashlib.sha256()
    with inside(receiver):
        listening = socket.create_server((to, 0))
    with inside(sender):
        client = socket.socket()

    def receive() -> None:
        accepted, _ = listening.accept()
        with accepted:
            accepted.settimeout(60)
            while piece := accepted.recv(1 << 16):
                digest.update(piece)

    listening.settimeout(60)
    client.settimeout(60)
    thread = threading.Thread(target=receive)
    with listening, client:
        thread.start()
        try:
            client.connect(listening.getsockname())
            client.sendall(data)
        finally:
            client.close()
            thread.join(70)
    assert not thread.is_alive()
    return digest.hexdigest()


def counters(node: Node) -> dict[str, int]:
    command = (PYTHON, "-m", "vxlanfast", "show", "io", "-j", "--socket", node.control)
    counted: dict[str, int] = json.loads(run(node.namespace, *command).stdout)["underlay"]
    return counted


@pytest.mark.parametrize(("family", "kinds", "csum"), [
    (4, ("packet", "socket"), "auto"), (6, ("packet", "socket"), "auto"), (4, ("packet", "packet"), "on"),
    (4, ("packet", "socket"), "off"),
])  # fmt: skip
def test_streams_arrive_as_they_were(tmp_path: Path, family: int, kinds: tuple[str, str], csum: str) -> None:
    need_root("ping")
    data = hashlib.shake_128(b"vxlanfast").digest(1 << 16) * (SIZE >> 16)
    wanted = hashlib.sha256(data).hexdigest()
    one, other, prefix = VTEP[family]
    with namespaces("a", "b", "c", "d") as (here, there, task, others):
        cable(here, there)
        address(here, "wire", f"{one}/{prefix}")
        address(there, "wire", f"{other}/{prefix}")
        first = CONFIG.format(
            vtep=one, other=other, csum=csum, underlay=kinds[0], task=task, number=3, others=4
        )
        second = CONFIG.format(
            vtep=other, other=one, csum=csum, underlay=kinds[1], task=others, number=4, others=3
        )
        with Node(here, tmp_path, first, name="one") as a, Node(there, tmp_path, second, name="other") as b:
            until("it answers", lambda: ping(task, "10.0.9.4"))
            assert sent(task, others, "10.0.9.4", data) == wanted
            assert sent(others, task, "10.0.9.3", data) == wanted
            for node in (a, b):
                counted = counters(node)
                assert counted["tx_too_long"] == counted["rx_drops"] == 0, counted
                if csum != "off":
                    assert counted["tx_segments"] > counted["tx_packets"], counted  # super-frames left as such
            assert a.stop() == 0 and b.stop() == 0, a.log + b.log
