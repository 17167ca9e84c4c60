"""Compiles the fuzzing targets and their driver, in a copy of the tree that was built with the profile fuzz.

Run by run.sh, in the copy; with ``--check`` it only says whether this Python can be linked. The targets have
the core's sanitizers and none of its coverage instrumentation: libFuzzer is to see what the core does with an
input, not what a target does to check it.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def without_coverage(flags: list[str]) -> list[str]:
    """The same flags less libFuzzer's."""
    return [flag for flag in flags if flag != "-fsanitize=fuzzer-no-link"]


def build_targets() -> None:
    """Every ``.pyx`` beside this file, as a module beside it."""
    sys.path.insert(0, str(ROOT))
    from Cython.Build import cythonize
    from setuptools import Extension, setup

    from setup import CFLAGS, COMMON, LDFLAGS, PROFILE

    if PROFILE != "fuzz":
        sys.exit(f"VXLANFAST_BUILD={PROFILE}: the targets need the profile fuzz")
    setup(
        name="targets",
        script_args=["--quiet", "build_ext", "--inplace", "--build-temp", str(ROOT / "build" / "targets")],
        ext_modules=cythonize(
            [
                Extension(
                    source.stem,
                    [source.name],
                    extra_compile_args=[*COMMON, *without_coverage(CFLAGS)],
                    extra_link_args=without_coverage(LDFLAGS),
                )
                for source in sorted(Path().glob("*.pyx"))
            ],
            include_path=[str(ROOT)],
            compiler_directives={"language_level": 3, "wraparound": False, "cdivision": True},
        ),
    )


def python_library() -> Path | None:
    """This interpreter's library: the shared one, or the archive, or None where neither is installed."""
    config = sysconfig.get_config_vars()
    names = [f"libpython{config['LDVERSION']}.{kind}" for kind in ("so", "a")]
    paths = [Path(config[place]) / name for name in names for place in ("LIBDIR", "LIBPL")]
    return next((path for path in paths if path.exists()), None)


def build_driver() -> None:
    """``driver``, with this interpreter in it; a program of a target's name runs that target."""
    config = sysconfig.get_config_vars()
    library = python_library()
    if library is None:
        sys.exit("this Python has no library to link")
    whole = ["-Wl,--whole-archive", str(library), "-Wl,--no-whole-archive"]
    subprocess.run(
        [
            *os.environ["CC"].split(),
            *("-std=gnu11", "-Wall", "-O1", "-g", "-fsanitize=fuzzer,address,undefined", "-rdynamic"),
            f"-I{sysconfig.get_path('include')}",
            f'-DDRIVER_PYTHON="{sys.executable}"',
            f'-DDRIVER_PATH="{ROOT}:{HERE}"',
            *("driver.c", "-o", "driver"),
            *([str(library), f"-Wl,-rpath,{library.parent}"] if library.suffix == ".so" else whole),
            *f"{config.get('LIBS', '')} {config.get('SYSLIBS', '')}".split(),
        ],
        check=True,
    )
    for source in Path().glob("fuzz_*.py*"):
        program = Path(source.stem)
        program.unlink(missing_ok=True)
        program.hardlink_to("driver")


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(python_library() is None)
    os.chdir(HERE)
    build_targets()
    build_driver()
