"""A Linux 6.1 with IPVS as an ordinary process (user-mode Linux): Debian's packages, fetched once; up in two seconds.

The scripts that do it are not the project's: they are looked for beside the tree or further up, as captures are.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

#: What a run may take.
LIMIT_S = 240

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
        made = run(source / "setup.sh", place, timeout=180)
    except subprocess.TimeoutExpired:
        pytest.skip("fetching the packages of a kernel of its own takes too long")
    if made.returncode:
        said = (made.stderr.strip() or made.stdout.strip()).splitlines()
        pytest.skip(f"the packages of a kernel of its own cannot be had: {said[-1] if said else made.returncode}")
    (place / "ready").touch()
    return place


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

    def run(self, script: Path, *arguments: str | Path) -> str:
        """Boot, run a Python script inside as root, power off: what it printed. Skips where it does not boot."""
        job = self.out / "job.sh"
        command = shlex.join(map(str, (sys.executable, script, *arguments)))
        job.write_text(f"#!/bin/sh\n{command} && echo finished\n")
        job.chmod(0o755)
        log = self.out / "job.log"
        booted = run(self.source / "run.sh", self.folder, str(LIMIT_S))
        if not log.exists():
            pytest.skip(f"a kernel of its own does not boot here: {(booted.stdout + booted.stderr)[-200:]!r}")
        said = log.read_text()
        assert said.endswith("finished\n"), f"in {LIMIT_S} s at most: {said[-2000:]}"
        return said
