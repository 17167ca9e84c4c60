"""The machine the figures are of."""

from __future__ import annotations

import os
import platform
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

from vxlanfast import __version__


def _first_match(path: str, pattern: str) -> str | None:
    try:
        found = re.search(pattern, Path(path).read_text(errors="replace"), re.MULTILINE)
    except OSError:
        return None
    return found.group(1).strip() if found else None


def cpu() -> str:
    """The processor's own name."""
    return (
        _first_match("/proc/cpuinfo", r"^model name\s*:\s*(.+)$")
        or platform.processor()
        or platform.machine()
    )


def compiler() -> str:
    """What compiled the core, from the note compilers leave in their output."""
    from vxlanfast._ext import batch

    found = re.search(rb"GCC: \([^)]*\) [0-9.]+|clang version [0-9.]+", Path(batch.__file__).read_bytes())
    if found is None:
        return platform.python_compiler()
    name, _, number = found.group().decode().rpartition(" ")
    return f"{'gcc' if name.startswith('GCC') else 'clang'} {number}"


def cython() -> str:
    """The Cython the core was translated by, from the name of the module its shared types live in."""
    for name in sys.modules:
        if found := re.fullmatch(r"_cython_(\d+)_(\d+)_(\w+)", name):
            return "Cython " + ".".join(found.groups())
    return "Cython"


def file_system(folder: Path) -> str:
    """The type of file system ``folder`` is on."""
    best, kind = "", "unknown"
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return kind
    where = str(folder.resolve())
    for line in mounts:
        _, mount, its_kind, *_ = line.split()
        inside = where == mount or where.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, its_kind
    return kind


def available_bytes() -> int | None:
    """Memory that programs can still have; None where the kernel does not say."""
    found = _first_match("/proc/meminfo", r"^MemAvailable:\s*(\d+) kB$")
    return int(found) * 1024 if found else None


def describe() -> dict[str, str]:
    """Everything a figure should be quoted with."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    virtual = _first_match("/proc/cpuinfo", r"^flags\s*:.*\b(hypervisor)\b")
    governor = _first_match("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", r"^(\w+)$")
    described = {
        "cpu": cpu(),
        "cores": f"{cores} core{'' if cores == 1 else 's'}{' of a virtual machine' if virtual else ''}",
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "compiler": compiler(),
        "cython": cython(),
        "vxlanfast": f"vxlanfast {__version__}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    if governor:
        described["governor"] = f"governor {governor}"
    return described
