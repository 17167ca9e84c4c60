"""Build of the Cython core. Everything declarative lives in pyproject.toml; here is only what needs code.

``VXLANFAST_BUILD`` picks the profile:

release  optimised, no bounds checks (the default)
check    the same sources with Cython's bounds checks and ``assert`` on
asan     AddressSanitizer and UndefinedBehaviorSanitizer (run with the libraries preloaded: see CONTRIBUTING.md)
trace    line tracing, for coverage of ``.pyx`` and ``.pxd``
fuzz     clang, sanitizers and libFuzzer's coverage instrumentation (see tests/fuzz)
none     no core: an editable install beside a core that is built in place already (see .ci/venv.sh)
"""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
PROFILE = os.environ.get("VXLANFAST_BUILD", "release")
JOBS = int(os.environ.get("VXLANFAST_JOBS", os.cpu_count() or 1))

QUIET = ["function", "but-set-variable", "variable"]  # generated code defines what this or that module does not use
COMMON = ["-std=gnu11", "-Wall", "-Wno-sign-compare", *(f"-Wno-unused-{thing}" for thing in QUIET)]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
PROFILES = {
    "release": (["-O3", "-g1"], []),
    "check": (["-O2", "-g", "-UNDEBUG"], []),
    "asan": (["-O1", "-g", "-UNDEBUG", *SANITIZE], SANITIZE),
    "trace": (["-O0", "-g", "-DCYTHON_TRACE=1", "-DCYTHON_TRACE_NOGIL=1", "-DCYTHON_USE_SYS_MONITORING=0"], []),
    "fuzz": (["-O1", "-g", "-fsanitize=fuzzer-no-link", *SANITIZE], ["-fsanitize=fuzzer-no-link", *SANITIZE]),
    "none": ([], []),
}
if PROFILE not in PROFILES:
    sys.exit(f"VXLANFAST_BUILD={PROFILE!r} is not a profile; one of {', '.join(PROFILES)}")
CFLAGS, LDFLAGS = PROFILES[PROFILE]
CHECKED = PROFILE in ("check", "asan", "fuzz")


def link_core() -> None:
    """Make ``vxlanfast/_ext`` a link to ``_ext``: folder and import name agree for compiler, tests and type checker."""
    link = ROOT / "vxlanfast" / "_ext"
    if not link.is_dir():
        link.unlink(missing_ok=True)
        link.symlink_to(Path("..") / "_ext", target_is_directory=True)


def extensions() -> list[Extension]:
    """One extension per ``.pyx``: a room member that holds state or loops (leaves live in ``.pxd``)."""
    return [
        Extension(
            "vxlanfast." + ".".join(source.relative_to(ROOT).with_suffix("").parts),
            [str(Path("vxlanfast") / source.relative_to(ROOT))],
            extra_compile_args=COMMON + CFLAGS,
            extra_link_args=LDFLAGS,
        )
        for source in sorted((ROOT / "_ext").rglob("*.pyx"))
        if PROFILE != "none"
    ]


if __name__ == "__main__":  # Cython's worker processes may import this file again
    os.chdir(ROOT)
    link_core()
    setup(
        options={"build_ext": {"parallel": JOBS}},
        ext_modules=cythonize(
            extensions(),
            nthreads=JOBS,
            force=os.environ.get("VXLANFAST_FORCE") == "1",
            compiler_directives={
                "language_level": 3,
                "boundscheck": CHECKED,
                "wraparound": False,
                "cdivision": True,
                "initializedcheck": CHECKED,
                "embedsignature": True,
                "autotestdict": False,
                "auto_pickle": False,
                "linetrace": PROFILE == "trace",
            },
        ),
    )
