"""Runs inside the kernel that is asked: gives ipvsadm rules to restore, and takes what it says of them then.

usage: ipvsadm_guest.py RULES ANSWERS MODULES      text in, JSON out: {arguments: what was printed}; the modules' folder
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from ipvs_guest import load  # type: ignore[import-not-found]

SCHEDULERS = ("rr", "wrr", "lc", "wlc", "sed", "nq", "sh", "dh", "mh")
ASKED = ("-Sn", "-Ln", "-Ln --stats", "-Ln --thresholds", "-Lnc", "-Ln --timeout")


def main(rules: Path, answers: Path, modules: Path) -> None:
    load(modules, "ip_vs", *(f"ip_vs_{name}" for name in SCHEDULERS))
    [place] = (Path(path).parents[1] for path in os.environ["PATH"].split(":") if (Path(path) / "ipvsadm").exists())
    libraries = ":".join(str(place / one / "lib/x86_64-linux-gnu") for one in ("x", "x/usr", "root/usr"))
    environment = {**os.environ, "LD_LIBRARY_PATH": libraries}

    def run(*arguments: str, text: str = "") -> str:
        done = subprocess.run(
            ["ipvsadm", *arguments], input=text, capture_output=True, text=True, env=environment, check=False
        )  # fmt: skip
        print(arguments, done.returncode, done.stderr.strip())
        return done.stdout

    run("-R", text=rules.read_text())
    answers.write_text(json.dumps({arguments: run(*arguments.split()) for arguments in ASKED}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
