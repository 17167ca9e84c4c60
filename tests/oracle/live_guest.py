"""Runs inside the other kernel: does what it is asked over its network device, until it is told to end.

A connection is one question, a line of JSON: ``{"run": ARGV}`` (to the program's end), ``{"start": ARGV}``, or
``{"end": 1}``. The answer is a line too, ``{"code": …, "said": …}``. ``tests/oracle/machine.py`` asks.

usage: live_guest.py DEVICE ADDRESS/PREFIX PORT MODULES NAME...     (the kernel's modules: where, which)
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

RUN_S = 120


def environment() -> dict[str, str]:
    """Programs of the machine's own packages find their libraries."""
    out = dict(os.environ)
    for path in map(Path, os.environ["PATH"].split(":")):
        if (path / "ipvsadm").exists():
            places = (path.parents[1] / one / "lib/x86_64-linux-gnu" for one in ("x", "x/usr", "root/usr"))
            out["LD_LIBRARY_PATH"] = ":".join(map(str, places))
    return out


def main(device: str, address: str, port: str, modules: str, *names: str) -> None:
    from ipvs_guest import load  # type: ignore[import-not-found]  # which lies beside it

    load(Path(modules), *names)
    env = environment()
    for command in (f"ip address add {address} dev {device}", f"ip link set {device} up", "ip link set lo up"):
        subprocess.run(command.split(), check=True)
    with socket.create_server((address.partition("/")[0], int(port))) as listener:
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            with connection, connection.makefile("rw") as file:
                question = json.loads(file.readline() or "{}")
                answer = {"code": 0, "said": ""}
                if "run" in question:
                    try:
                        done = subprocess.run(
                            question["run"], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, errors="replace", timeout=RUN_S, check=False,
                        )  # fmt: skip
                        answer = {"code": done.returncode, "said": done.stdout}
                    except (OSError, subprocess.TimeoutExpired) as error:
                        answer = {"code": 127, "said": str(error)}
                elif "start" in question:
                    subprocess.Popen(question["start"], env=env, stdin=subprocess.DEVNULL)
                print(json.dumps(answer), file=file, flush=True)
                if "end" in question:
                    return


if __name__ == "__main__":
    main(*sys.argv[1:])
