"""What works without any privilege, and what says in one line that it needs one, and the way out."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.lab import ip, namespaces, need_root
from tests.live import address, cable, kernel_peer, ping, run, until
from tests.support import PYTHON, VERBS_ENV
from vxlanfast.errors import DeviceError
from vxlanfast.tap import Tap

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can give its privileges up"),
]

#: No capability is left in any set, so nothing is permitted that root alone may do; files stay its own.
BARE = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
header, data = (ctypes.c_uint * 2)(0x20080522, 0), (ctypes.c_uint * 6)()
assert libc.capset(header, data) == 0
from vxlanfast.cli import main
sys.argv = ["vxlanfast", *sys.argv[1:]]
main()
"""
NODE = """
[node]
vtep = "192.0.2.1"
port = PORT

[live]
underlay = "UNDERLAY"

[[network]]
name = "web"
vni = 42
subnet = ["10.0.9.0/24"]
peer = [{ vtep = "192.0.2.2" }]
"""
TASK = """
[[network.endpoint]]
port = "task"
ip = "10.0.9.3"
mac = "02:42:0a:00:09:03"
"""
ATTACHED = """
[[live.tap]]
port = "task"
attach = true
"""


def bare(namespace: str, *arguments: object) -> list[str]:
    """The command line of ours in a namespace, without privilege."""
    return ["ip", "netns", "exec", namespace, PYTHON, "-c", BARE, *map(str, arguments)]


def one_line(namespace: str, *arguments: object) -> str:
    """What it says: one line, exit code 1."""
    done = subprocess.run(
        bare(namespace, *arguments), capture_output=True, text=True, timeout=60, env=VERBS_ENV, check=False
    )
    lines = done.stderr.splitlines()
    assert done.returncode == 1 and len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]


def config(folder: Path, text: str, *, underlay: str = "socket", port: int = 4789) -> Path:
    path = folder / "node.toml"
    path.write_text(text.replace("UNDERLAY", underlay).replace("PORT", str(port)))
    return path


@pytest.mark.parametrize(("text", "underlay", "port", "said"), [
    (NODE + TASK, "socket", 4789, ("device task", "Operation not permitted", "CAP_NET_ADMIN")),
    (NODE, "tap", 4789, ("device vf-underlay", "Operation not permitted", "CAP_NET_ADMIN")),
    (NODE, "packet", 4789, ("packet socket at wire", "CAP_NET_RAW", 'underlay = "socket"')),
    (NODE, "socket", 789, ("UDP 192.0.2.1 port 789", "CAP_NET_BIND_SERVICE", "another port")),
    (NODE, "auto", 789, ("no underlay", "CAP_NET_BIND_SERVICE")),
])  # fmt: skip
def test_a_node_that_needs_it(tmp_path: Path, text: str, underlay: str, port: int, said: tuple[str, ...]) -> None:
    need_root()
    with namespaces("n", "p") as (here, peer):
        cable(here, peer)
        address(here, "wire", "192.0.2.1/24")
        path = config(tmp_path, text, underlay=underlay, port=port)
        line = one_line(here, "node", "-c", path, "--control", "off")
        assert all(words in line for words in said), line


def test_no_tun_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none, what would bring it."""
    monkeypatch.setattr("vxlanfast.tap.DEVICE", str(tmp_path / "tun"))
    with pytest.raises(DeviceError, match="No such file or directory: load the module tun, or pass the device"):
        Tap("vf0")


def test_other_commands(tmp_path: Path) -> None:
    """Live captures and TAPs of ``recv``, other namespaces, and nodes that do not run."""
    need_root()
    with namespaces("n", "o") as (here, other):
        run(here, "ip", "link", "add", "vx", "type", "vxlan", "id", "42", "dstport", "4789")
        assert "CAP_NET_RAW" in one_line(here, "recv", tmp_path / "out", "-i", "lo")
        assert "CAP_NET_ADMIN" in one_line(here, "recv", "--tap", "tap7", "-p", 24789, "--geneve-port", 0)
        path = config(tmp_path, NODE)
        line = one_line(
            here, "node", "-c", path, "--control", "off", "--from-kernel", "vx", "--kernel-namespace", other
        )
        assert "root" in line and other in line, line
        missing = tmp_path / "none.sock"
        for command in (("show", "fdb"), ("capture",), ("set", "weight", "web", "10.0.9.3:80", "1")):
            done = subprocess.run(
                bare(here, command[0], "--socket", missing, *command[1:]), capture_output=True, text=True,
                timeout=60, env=VERBS_ENV, check=False,
            )  # fmt: skip
            assert done.returncode in (1, 2) and len(done.stderr.splitlines()) == 1, done.stderr
            if done.returncode == 1:
                assert "none.sock" in done.stderr


def started(namespace: str, path: Path, log: Path) -> subprocess.Popen[Any]:
    """A node without privilege, up."""
    with log.open("w") as file:
        node = subprocess.Popen(
            bare(namespace, "node", "-c", path, "--control", "off"), stdout=file, stderr=file, env=VERBS_ENV
        )
    try:
        until("it is up", lambda: "node up" in log.read_text() or node.poll() is not None)
        assert node.poll() is None, log.read_text()
    except BaseException:
        node.kill()
        node.wait()
        raise
    return node


def ended(node: subprocess.Popen[Any]) -> int:
    node.terminate()
    try:
        return node.wait(60)
    finally:
        node.kill()
        node.wait()


@pytest.mark.parametrize("underlay", ["socket", "auto"])
def test_a_node_without_ports(tmp_path: Path, underlay: str) -> None:
    need_root()
    with namespaces("n", "p") as (here, peer):
        cable(here, peer)
        address(here, "wire", "192.0.2.1/24")
        log = tmp_path / "log"
        assert ended(started(here, config(tmp_path, NODE, underlay=underlay), log)) == 0, log.read_text()


def test_a_node_with_a_tap_that_is_its_own(tmp_path: Path) -> None:
    """``ip tuntap add … user`` was done by who may: the node attaches, and packets pass both ways."""
    need_root("ping")
    if not os.path.exists("/dev/net/tun"):
        pytest.skip("no /dev/net/tun here")
    with namespaces("n", "p") as (here, peer):
        cable(here, peer)
        for namespace, number in ((here, 1), (peer, 2)):
            address(namespace, "wire", f"192.0.2.{number}/24")
        kernel_peer(
            peer, vni=42, local="192.0.2.2", flood=["192.0.2.1"], addresses=["10.0.9.12/24"], mac="02:42:0a:00:09:0c"
        )
        ip("-n", here, "tuntap", "add", "dev", "task", "mode", "tap", "user", "root")
        ip("-n", here, "link", "set", "task", "address", "02:42:0a:00:09:03", "mtu", "1450", "up")
        address(here, "task", "10.0.9.3/24")
        log = tmp_path / "log"
        node = started(here, config(tmp_path, NODE + TASK + ATTACHED), log)
        try:
            until("it answers", lambda: ping(here, "10.0.9.12"))
            until("frames of full size", lambda: ping(peer, "10.0.9.3", "-s", "1422", count=3))
        finally:
            assert ended(node) == 0, log.read_text()
        assert "task" in run(here, "ip", "link").stdout  # it stays
