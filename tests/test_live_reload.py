"""A live node whose configuration changes: devices follow, and none is left behind."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import ip, namespaces, need_root
from tests.live import Node, run, until

pytestmark = [pytest.mark.root, pytest.mark.live]


def config(tap: str = "", end: str = "", more: str = "") -> str:
    """One network and one TAP; ``tap`` and ``end`` are further keys of the device and the endpoint."""
    return f"""
[node]
vtep = "127.0.0.1"

[[live.tap]]
port = "task"
namespace = "SPACE"
{tap}

[[network]]
name = "web"
vni = 42
subnet = ["10.0.9.0/24", "fd00:9::/64"]
gateway = ["10.0.9.1", "fd00:9::1", "10.0.9.2"]

[[network.endpoint]]
port = "task"
{end}
{more}
"""


FIRST = config('route = true\nname = "eth0"', 'ip = ["10.0.9.3", "fd00:9::3"]')


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Node, str]]:
    need_root("ping")
    with namespaces("n", "t") as (here, task), Node(here, tmp_path, FIRST.replace("SPACE", task)) as node:
        yield node, task
        assert node.stop() == 0, node.log


def addresses(namespace: str, device: str) -> set[str]:
    """Those that are not the link's own."""
    shown = run(namespace, "ip", "addr", "show", "dev", device, "scope", "global").stdout
    return set(re.findall(r"inet6? (\S+)", shown))


def descriptors(node: Node) -> int:
    assert node.process is not None
    return len(os.listdir(f"/proc/{node.process.pid}/fd"))


def applied(node: Node, task: str, text: str) -> None:
    before = node.log.count("configuration applied")
    node.reload(text.replace("SPACE", task))
    assert node.log.count("configuration applied") == before + 1, node.log


def test_a_device_is_configured_anew(pair: tuple[Node, str]) -> None:
    """Addresses, MTU and routes that change are changed, on the device that there is."""
    node, task = pair
    assert addresses(task, "eth0") == {"10.0.9.3/24", "fd00:9::3/64"}
    for family, gateway in (("-4", "10.0.9.1"), ("-6", "fd00:9::1")):
        assert f"default via {gateway}" in run(task, "ip", family, "route").stdout
    assert run(task, "ping", "-c", 1, "-W", 5, "fd00:9::1")
    number = re.findall(r"^(\d+): eth0", run(task, "ip", "link").stdout, re.MULTILINE)
    mac = "mac = '02:42:0a:00:09:03'"
    applied(node, task, config('name = "eth0"\nmtu = 1300', f'ip = ["10.0.9.4"]\n{mac}'))
    assert addresses(task, "eth0") == {"10.0.9.4/24"}
    shown = run(task, "ip", "link").stdout
    assert re.findall(r"^(\d+): eth0", shown, re.MULTILINE) == number and "mtu 1300" in shown
    assert "default" not in run(task, "ip", "-4", "route").stdout + run(task, "ip", "-6", "route").stdout
    assert run(task, "ping", "-c", 1, "-W", 5, "10.0.9.1")
    node.reload(config('name = "eth0"\noffload = false', "").replace("SPACE", task))
    assert "offload cannot change" in node.log


def test_another_device(pair: tuple[Node, str]) -> None:
    """One of another name takes its place: the old one goes, and its descriptor."""
    node, task = pair
    applied(node, task, FIRST.replace("route = true", ""))  # the new one is there before the old one goes
    before = descriptors(node)
    for name in ("eth1", "eth2", "eth3"):
        applied(node, task, FIRST.replace("eth0", name).replace("route = true", ""))
        assert re.findall(r"eth\d", run(task, "ip", "-br", "link").stdout) == [name]
        assert run(task, "ping", "-c", 1, "-W", 5, "10.0.9.1")
    until("there are as many descriptors", lambda: descriptors(node) == before)  # a look has a socket, for a moment


def test_a_device_that_is_gone(pair: tuple[Node, str]) -> None:
    """A configuration is taken while a device cannot be had, which comes as soon as it can."""
    node, task = pair
    ip("netns", "del", task)
    until("it is gone", lambda: "device gone" in node.log)
    until("it is tried", lambda: "device still gone" in node.log)
    applied(node, task, FIRST.replace("10.0.9.3", "10.0.9.5"))
    ip("netns", "add", task)
    until("it is back", lambda: "device back" in node.log)
    assert addresses(task, "eth0") == {"10.0.9.5/24", "fd00:9::3/64"}
    assert run(task, "ping", "-c", 1, "-W", 5, "10.0.9.1")
    said = node.log.count("device still gone")
    applied(node, task, FIRST)
    until("time goes by", lambda: (node.alive(), run(task, "sleep", 2.5)))
    assert node.log.count("device still gone") == said
