"""A Linux 6.1 with IPVS as an ordinary process (user-mode Linux): Debian's packages, fetched once; up in two seconds.

``Machine`` runs a script to its end; ``guest`` stays up on a cable and is asked.

The scripts that do it are not the project's: they are looked for beside the tree or further up, as captures are.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import inside, ip
from tests.live import PATIENCE_S, until
from tests.oracle import live_guest
from tests.support import ROOT

#: What a run may take.
LIMIT_S = 240
#: What a guest may live, whatever becomes of its test.
GUEST_LIMIT_S = 900
#: The port at which a guest is asked.
ASKED_AT = 7000

#: What is meant for this Python alone, such as a sanitizer's library.
NOT_INHERITED = ("LD_PRELOAD", "PYTHONPATH", "PYTHONMALLOC")


def scripts() -> Path | None:
    places = (parent / "shared" / "oracle" / "ipvs" for parent in ROOT.parents)
    return next((place for place in places if (place / "run.sh").is_file()), None)


def installed() -> Path:
    """The folder with kernel and programs, filled now if it has to be; the test is skipped where that is impossible.

    ``VXLANFAST_ORACLE`` names one; else it is build/oracle of the tree, or of the tree that this one is a copy of.
    """
    source = scripts()
    if source is None:
        pytest.skip("the scripts that boot a kernel of its own are not here")
    named = os.environ.get("VXLANFAST_ORACLE")
    places = [Path(named)] if named else [parent / "build" / "oracle" for parent in (ROOT, *ROOT.parents)]
    for place in places:
        if (place / "ready").exists():
            return place
    place = places[0]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = place.with_name(f"{place.name}.lock").open("w")
    except OSError as error:
        pytest.skip(f"the packages of a kernel of its own have no place: {error}")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes run the suite: one fills it, the others wait for it
        if not (place / "ready").exists():
            fill(place, source)
    return place


def fill(place: Path, source: Path) -> None:
    """The folder has everything when this returns; the test is skipped where it cannot."""
    try:
        made = run(source / "setup.sh", place, timeout=180)
    except subprocess.TimeoutExpired:
        pytest.skip("fetching the packages of a kernel of its own takes too long")
    if made.returncode:
        said = (made.stderr.strip() or made.stdout.strip()).splitlines()
        pytest.skip(f"the packages of a kernel of its own cannot be had: {said[-1] if said else made.returncode}")
    (place / "ready").touch()


def run(*command: str | Path, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, check=False)


class Machine:
    """A machine of a test's own in ``folder``: the host's files, read-only, and ``out`` as /mnt, to be written."""

    def __init__(self, folder: Path) -> None:
        place = installed()
        source = scripts()
        assert source is not None
        self.folder, self.out, self.source = folder, folder / "out", source
        self.out.mkdir(parents=True)
        for name in ("x", "root", "mods", "ptshim.so"):
            (folder / name).symlink_to(place / name)
        init = folder / "init"
        init.write_text((source / "init.in").read_text().replace("@DIR@", str(folder)))
        init.chmod(0o755)
        [self.modules] = (folder / "mods" / "lib" / "modules").iterdir()

    def job(self, script: Path, *arguments: str | Path) -> Path:
        """What is to be run inside is written down; where its output will be."""
        job = self.out / "job.sh"
        command = shlex.join(map(str, (sys.executable, script, *arguments)))
        job.write_text(f"#!/bin/sh\n{command} && echo finished\n")
        job.chmod(0o755)
        return self.out / "job.log"

    def run(self, script: Path, *arguments: str | Path) -> str:
        """Boot, run a Python script inside as root, power off: what it printed. Skips where it does not boot."""
        log = self.job(script, *arguments)
        booted = run(self.source / "run.sh", self.folder, str(LIMIT_S))
        if not log.exists():
            pytest.skip(f"a kernel of its own does not boot here: {(booted.stdout + booted.stderr)[-200:]!r}")
        said = log.read_text()
        assert said.endswith("finished\n"), f"in {LIMIT_S} s at most: {said[-2000:]}"
        return said


class Guest:
    """A machine that is up, with a network device ``vec0`` on a cable; it is asked over that."""

    def __init__(self, namespace: str, address: str, log: Path) -> None:
        self.namespace, self.address, self.log = namespace, address, log

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        with inside(self.namespace):
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        with sock:
            sock.settimeout(live_guest.RUN_S + 10)
            sock.connect((self.address, ASKED_AT))
            with sock.makefile("rw") as file:
                print(json.dumps(question), file=file, flush=True)
                answer: dict[str, Any] = json.loads(file.readline())
                return answer

    def run(self, *command: object, check: bool = True) -> str:
        """What a program said; AssertionError if it failed and was not to."""
        answer = self.ask({"run": list(map(str, command))})
        assert not check or answer["code"] == 0, f"{command}: exit {answer['code']}: {answer['said']}"
        return str(answer["said"])

    def may(self, *command: object) -> bool:
        """Whether a program succeeds."""
        return bool(self.ask({"run": list(map(str, command))})["code"] == 0)

    def start(self, *command: object) -> None:
        """A program that runs until the machine ends."""
        self.ask({"start": list(map(str, command))})


@contextlib.contextmanager
def guest(
    folder: Path, namespace: str, *, here: str, there: str, modules: Iterable[str], tap: str = "wire"
) -> Iterator[Guest]:
    """A machine, up, whose device is a TAP of the namespace. ``here`` and ``there``: both ends, with their prefixes.

    It ends, with all that it is made of, when this does.
    """
    machine = Machine(folder)
    ip("-n", namespace, "tuntap", "add", tap, "mode", "tap")
    ip("-n", namespace, "addr", "add", here, "dev", tap)
    ip("-n", namespace, "link", "set", tap, "up")
    log = machine.job(Path(live_guest.__file__), "vec0", there, str(ASKED_AT), machine.modules, *modules)
    with (folder / "console.log").open("wb") as console:
        process = subprocess.Popen(
            (
                "unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "ip", "netns", "exec", namespace,
                machine.source / "run.sh", folder, str(GUEST_LIMIT_S), f"vec0:transport=tap,ifname={tap},depth=128",
            ),
            env={name: value for name, value in os.environ.items() if name not in NOT_INHERITED},
            stdin=subprocess.DEVNULL, stdout=console, stderr=console,
        )  # fmt: skip

    def up() -> bool:
        if process.poll() is not None:
            said = log.read_text() if log.exists() else (folder / "console.log").read_text(errors="replace")
            pytest.skip(f"a kernel of its own with a network device does not run here: {said[-300:]!r}")
        return log.exists() and "ready" in log.read_text()

    made = Guest(namespace, there.partition("/")[0], log)
    try:
        until("the machine is up", up)
        yield made
        made.ask({"end": 1})
        process.wait(PATIENCE_S)
        assert log.read_text().endswith("finished\n"), log.read_text()[-2000:]
    finally:
        process.kill()
        process.wait()
