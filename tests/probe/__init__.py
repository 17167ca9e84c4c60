"""Builds Cython modules that use the core as a third party would: by ``cimport`` of what is shipped, and nothing else.

``build()`` compiles a source of this folder with the flags and directives of the profile in ``VXLANFAST_BUILD``
(setup.py is asked for them), keeps the result under ``build/probe/<profile>-<hash of all that went in>/`` and imports
it from there.
"""

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from types import ModuleType
from unittest import mock

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PROFILE = os.environ.get("VXLANFAST_BUILD", "release")
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")


def core() -> Path:
    """The folder that ``import vxlanfast._ext`` finds: in the checkout, or where the package is installed."""
    import vxlanfast._ext

    return Path(next(iter(vxlanfast._ext.__path__)))


def build(source: Path) -> ModuleType:
    """The module compiled from ``source``, built unless exactly this has been built before."""
    inputs = [source, Path(__file__), ROOT / "setup.py", *sorted(HERE.glob("*.pxd"))]
    inputs += [*sorted(core().rglob("*.pxd")), *sorted(core().rglob("*.h"))]
    digest = hashlib.sha256(f"{sys.version} {importlib.metadata.version('cython')} {core()}".encode())
    for path in inputs:
        digest.update(path.read_bytes())
    target = ROOT / "build" / "probe" / f"{PROFILE}-{digest.hexdigest()[:16]}"
    library = target / (source.stem + SUFFIX)
    target.mkdir(parents=True, exist_ok=True)
    with (target / f"{source.stem}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes run the suite: one compiles, the others wait for it
        if not library.exists() or (_is_traced(source) and not source.with_suffix(".c").exists()):  # lines are needed
            _compile_apart(source, library)
    loader = ExtensionFileLoader(source.stem, str(library))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(source.stem, loader))
    loader.exec_module(module)
    return module


def _is_traced(source: Path) -> bool:
    """Whether its lines are counted: those of the headers it uses are. What only helps has a ``.pxd`` of its own."""
    return PROFILE == "trace" and source.is_relative_to(ROOT) and not source.with_suffix(".pxd").exists()


def _compile_apart(source: Path, library: Path) -> None:
    """In a process of its own: the build moves about and warns, and a preloaded sanitizer is not for the compiler."""
    environ = {
        key: value for key, value in os.environ.items() if not key.startswith(("LD_PRELOAD", "COVERAGE", "COV_"))
    }
    environ["PYTHONPATH"] = os.pathsep.join([str(core().parents[1]), *filter(None, sys.path)])
    with tempfile.TemporaryDirectory(dir=library.parent) as room:
        done = subprocess.run(
            [sys.executable, __file__, str(source), room],
            env=environ,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{source.name} does not compile:\n{done.stdout}\n{done.stderr}")
        os.replace(Path(room) / library.name, library)


def _settings() -> tuple[list[str], list[str], dict[str, object]]:
    """Compiler flags, linker flags and Cython directives of the profile: setup.py is run and kept from building."""
    asked: dict[str, object] = {}

    def cythonize(modules: object, **options: object) -> list[object]:
        asked.update(options)
        return []

    with mock.patch("Cython.Build.cythonize", cythonize), mock.patch("setuptools.setup"):
        names = runpy.run_path(str(ROOT / "setup.py"), run_name="__main__")
    return [*names["COMMON"], *names["CFLAGS"]], names["LDFLAGS"], asked["compiler_directives"]


def _compile(source: Path, room: Path) -> None:
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension

    cflags, ldflags, directives = _settings()
    if _is_traced(source):
        # Cython.Coverage wants the C file beside its source, and names that are relative to the folder it runs in.
        os.chdir(ROOT)
        source = source.relative_to(ROOT)
    else:
        os.chdir(room)  # away from the checkout: what is not shipped is not found
        if source.with_suffix(".pxd").exists():
            shutil.copy(source.with_suffix(".pxd"), room)
        source = Path(shutil.copy(source, room)).relative_to(room)
    extension = Extension(source.stem, [str(source)], extra_compile_args=cflags, extra_link_args=ldflags)
    modules = cythonize([extension], force=True, quiet=True, compiler_directives=directives)
    command = Distribution({"ext_modules": modules}).get_command_obj("build_ext")
    command.build_lib = str(room)
    command.build_temp = str(room / "objects")
    command.ensure_finalized()
    command.run()


if __name__ == "__main__":
    _compile(Path(sys.argv[1]), Path(sys.argv[2]))
