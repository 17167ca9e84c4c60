"""Network namespaces of a test's own: what several files of live tests use."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
from collections.abc import Iterator

import pytest

from tests.support import until

ETH_P_ALL = 3


def ip(*arguments: str) -> None:
    run = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if run.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {run.stderr.strip()}")


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """What is opened in here belongs to the namespace."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)

    def enter(fd: int) -> None:
        if libc.setns(fd, 0x40000000):  # CLONE_NEWNET
            raise OSError(ctypes.get_errno(), "setns")

    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        enter(there)
        try:
            yield
        finally:
            enter(home)
    finally:
        os.close(there)
        os.close(home)


def packet_socket(namespace: str, interface: str) -> socket.socket:
    with inside(namespace):
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        with inside(namespace):
            sock.bind((interface, ETH_P_ALL))
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def carried(device: str, *namespaces: str) -> None:
    """Devices of that name that were set up carry frames when this returns: the kernel tells a queue of its carrier
    later, from a thread of its own, and until then a frame is dropped that was sent without an error."""

    def is_up(namespace: str) -> bool:
        command = ["ip", "-n", namespace, "-br", "link", "show", "dev", device]
        shown = subprocess.run(command, capture_output=True, text=True, check=False)
        assert shown.returncode == 0, shown.stderr
        return shown.stdout.split()[1] == "UP"

    for namespace in namespaces:
        until(f"{device} has a carrier", lambda namespace=namespace: is_up(namespace))


def need_root(*programs: str) -> None:
    """Skip, with the reason, where namespaces cannot be made or a program is missing."""
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces")
    for program in ("ip", *programs):
        if shutil.which(program) is None:
            pytest.skip(f"needs the program {program}, which is not installed")


@contextlib.contextmanager
def namespaces(*letters: str) -> Iterator[list[str]]:
    """Network namespaces that nobody else has, each with ``lo`` up and no duplicate address detection; gone behind it
    whatever happens."""
    tag = f"vf{os.getpid():x}-{random.randrange(1 << 16):04x}"  # "-": one number may begin with another one
    made: list[str] = []
    try:
        for letter in letters:
            try:
                ip("netns", "add", tag + letter)
            except OSError as error:
                pytest.skip(f"no network namespaces here: {error}")
            made.append(tag + letter)
            with inside(tag + letter):
                for name in ("default", "all"):
                    with contextlib.suppress(OSError), open(f"/proc/sys/net/ipv6/conf/{name}/accept_dad", "w") as file:
                        file.write("0")  # no addresses that wait to be taken
            ip("-n", tag + letter, "link", "set", "lo", "up")
        yield made
    finally:
        for name in made:
            with contextlib.suppress(OSError):
                ip("netns", "del", name)
