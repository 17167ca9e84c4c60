"""Compile probe.pyx into a folder: ``python bench/build_probe.py FOLDER``. Does nothing where it is up to
date. Several may do it at once.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(folder: Path) -> None:
    """Leave probe.*.so in ``folder``."""
    source = ROOT / "bench" / "probe.pyx"
    # What it is made of: its own source, and the declarations it compiles against.
    newest = max(
        path.stat().st_mtime
        for path in [source, Path(__file__), *(ROOT / "_ext").rglob("*.p*d"), *(ROOT / "_ext").rglob("*.h")]
    )
    if any(built.stat().st_mtime > newest for built in folder.glob("probe.*.so")):
        return
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as room:
        compile_in(Path(room), source)
        for built in Path(room).glob("probe.*.so"):
            os.replace(built, folder / built.name)  # whoever has loaded the old one keeps it


def compile_in(room: Path, source: Path) -> None:
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension

    shutil.copy(source, room / "probe.pyx")
    os.chdir(room)
    extensions = cythonize(
        [
            Extension(
                "probe",
                ["probe.pyx"],
                extra_compile_args=["-std=gnu11", "-O3"],
                include_dirs=[str(ROOT / "_ext" / "wire")],
            )
        ],
        include_path=[str(ROOT)],
        force=True,
        quiet=True,
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
        },
    )
    distribution = Distribution({"ext_modules": extensions})
    command = distribution.get_command_obj("build_ext")
    command.inplace = True
    command.ensure_finalized()
    command.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
