"""A live node as a program of its own in a namespace, and kernels to be its peers: what tests of it share."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.lab import carried, ip
from tests.support import PATIENCE_S, PYTHON, VERBS_ENV, until

#: Seconds of a stream in tests that take long.
STREAM_S = float(os.environ.get("VXLANFAST_STREAM_S", "60"))


def run(
    namespace: str,
    *command: object,
    timeout: float = PATIENCE_S,
    check: bool = True,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """A program in a namespace, to its end. Of others, unless it is given an environment."""
    if env is None:
        env = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    done = subprocess.run(
        ["ip", "netns", "exec", namespace, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=env,
        check=False,
    )
    if check and done.returncode:
        raise AssertionError(
            f"{namespace}: {' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        )
    return done


@contextlib.contextmanager
def background(namespace: str, *command: object, **more: Any) -> Iterator[subprocess.Popen[str]]:
    """A program of others in a namespace, ended at the end."""
    env = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    process = subprocess.Popen(
        ["ip", "netns", "exec", namespace, *map(str, command)],
        text=True,
        env=env,
        **{"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **more},
    )
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> int:
    """Ask it to end, and make it; its exit code."""
    if process.poll() is None:
        process.send_signal(number)
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    return process.returncode


class Node:
    """``vxlanfast node`` in a namespace, of a configuration that can be written anew."""

    def __init__(self, namespace: str, folder: Path, config: str, *options: str, name: str = "node") -> None:
        self.namespace = namespace
        self.config = folder / f"{name}.toml"
        self.log_path = folder / f"{name}.log"
        self.control = folder / f"{name}.sock"
        self.options = ("--control", str(self.control), *options)
        self.config.write_text(config)
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Up when this returns."""
        with self.log_path.open("a") as log:
            log.write("-- start\n")
            log.flush()
            self.process = subprocess.Popen(
                [
                    "ip",
                    "netns",
                    "exec",
                    self.namespace,
                    PYTHON,
                    "-m",
                    "vxlanfast",
                    "node",
                    "-c",
                    str(self.config),
                    *self.options,
                ],
                stdout=log,
                stderr=log,
                text=True,
                env=VERBS_ENV,
            )
        try:
            until("the node is up", lambda: self.alive() and "node up" in self.log.rpartition("-- start")[2])
        except BaseException:  # nobody is behind this to end it
            end(self.process)
            raise

    def alive(self) -> bool:
        """AssertionError, with its log, if it ended."""
        assert self.process is not None
        assert self.process.poll() is None, f"the node ended: exit {self.process.returncode}\n{self.log}"
        return True

    @property
    def log(self) -> str:
        """What it said."""
        return self.log_path.read_text()

    def reload(self, config: str) -> None:
        """Applied, or refused, when this returns."""
        assert self.process is not None
        self.config.write_text(config)
        before = self.log.count("configuration ")
        self.process.send_signal(signal.SIGHUP)
        until(
            "the configuration is applied or refused",
            lambda: self.alive() and self.log.count("configuration ") > before,
        )

    def stop(self) -> int:
        """Its exit code."""
        assert self.process is not None
        return end(self.process)

    def show(self, *tables: str) -> Any:
        """What ``vxlanfast show -j`` says of it."""
        command = (PYTHON, "-m", "vxlanfast", "show", "-j", "--socket", self.control, *tables)
        return json.loads(run(self.namespace, *command, env=VERBS_ENV).stdout)

    def kill(self) -> None:
        """No time for anything."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Node:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            end(self.process)


def cable(one: str, other: str, *, name: str = "wire", mtu: int = 1500) -> None:
    """A veth pair between two namespaces, up."""
    ip("-n", one, "link", "add", name, "type", "veth", "peer", "name", name, "netns", other)
    for namespace in (one, other):
        ip("-n", namespace, "link", "set", name, "mtu", str(mtu), "up")
    carried(name, one, other)


def address(namespace: str, device: str, *texts: str) -> None:
    """Addresses with their prefixes, there at once."""
    for text in texts:
        extra = ["nodad"] if ":" in text else []
        ip("-n", namespace, "addr", "add", text, "dev", device, *extra)


def hub(namespace: str, leaves: list[str], *, mtu: int = 1500) -> None:
    """A bridge in a namespace that every leaf has a cable to, called ``wire`` there."""
    ip("-n", namespace, "link", "add", "hub", "type", "bridge")
    ip("-n", namespace, "link", "set", "hub", "mtu", str(mtu), "up")
    for number, leaf in enumerate(leaves):
        ip("-n", namespace, "link", "add", f"leg{number}", "type", "veth", "peer", "name", "wire", "netns", leaf)
        ip("-n", namespace, "link", "set", f"leg{number}", "master", "hub", "mtu", str(mtu), "up")
        ip("-n", leaf, "link", "set", "wire", "mtu", str(mtu), "up")
        carried(f"leg{number}", namespace)
    carried("wire", *leaves)


def kernel_peer(
    namespace: str,
    *,
    vni: int,
    local: str,
    addresses: list[str],
    mac: str,
    flood: list[str],
    mtu: int = 1450,
    name: str = "vx",
) -> None:
    """A vxlan device that learns, with a flood list and addresses of its own."""
    csum6 = ["udp6zerocsumrx"] if ":" in local else []
    ip(
        "-n",
        namespace,
        "link",
        "add",
        name,
        "address",
        mac,
        "type",
        "vxlan",
        "id",
        str(vni),
        "dstport",
        "4789",
        "local",
        local,
        "dev",
        "wire",
        *csum6,
    )
    ip("-n", namespace, "link", "set", name, "mtu", str(mtu), "up")
    address(namespace, name, *addresses)
    for other in flood:
        done = subprocess.run(
            ["bridge", "-n", namespace, "fdb", "append", "00:00:00:00:00:00", "dst", other, "dev", name],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def ping(namespace: str, to: str, *options: str, count: int = 1, wait: int = 2) -> bool:
    """Whether all of them were answered."""
    done = run(namespace, "ping", "-q", "-i", "0.2", "-c", count, "-W", wait, *options, to, check=False)
    return done.returncode == 0 and f" {count} received" in done.stdout
