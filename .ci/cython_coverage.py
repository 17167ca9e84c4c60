"""Coverage of the Cython core: Cython's own plugin, with a report that can be trusted.

Alone it knows a ``.pxd`` only after a ``.pyx`` that uses it, looks for files from the current directory (a test's
subprocess may be elsewhere), leaves out files no line of which ran, and takes what a module does at import, one line
for each function of every ``.pxd``, for lines of the module's own ``.pyx``. So here all files are known from the
start, and only lines inside functions count.
"""

import re
from collections.abc import Iterable
from contextlib import chdir
from pathlib import Path
from types import FrameType

from coverage.config import CoverageConfig
from coverage.plugin_support import Plugins
from Cython.Coverage import CythonModuleTracer, Plugin

ROOT = Path(__file__).resolve().parent.parent


class CoreTracer(CythonModuleTracer):
    """Measures the functions of a module, not its import."""

    def line_number_range(self, frame: FrameType) -> tuple[int, int]:
        """Say which lines ``frame`` is at: none (-1) in a module's initialisation."""
        line = -1 if frame.f_code.co_name.startswith("PyInit_") else frame.f_lineno
        return line, line


class CorePlugin(Plugin):
    """Measures every ``.pyx`` and ``.pxd`` that the generated C files name."""

    def configure(self, config: CoverageConfig) -> None:
        """Read all generated C files, at the start of measuring as of reporting."""
        super().configure(config)
        with chdir(ROOT):  # the C files name their sources relative to it
            for c_file in sorted((ROOT / "_ext").rglob("*.c")):
                self._read_source_lines(str(c_file), "")

    def _parse_cfile_lines(self, c_file: str) -> dict[str, dict[int, str]]:
        """Lines with code by source file, without those of the module's initialisation, which comes last."""
        code = super()._parse_cfile_lines(c_file)
        generated = Path(c_file).read_text(encoding="utf-8")
        at_import = generated[generated.rindex("int __pyx_pymod_exec_") :]
        for source, number in re.findall(r'^ */\* "(.*)":([0-9]+)$', at_import, re.MULTILINE):
            code[source].pop(int(number), None)
        return code

    def files(self) -> list[str]:
        """All files that have code of the core."""
        return [path for path, (_, _, code) in (self._c_files_map or {}).items() if code]

    def file_tracer(self, filename: str) -> CoreTracer | None:
        """Measure ``filename``, relative to the tree as compiled code names it, if it is of the core and has code."""
        path = str((ROOT / filename).resolve())
        if path not in self.files():
            return None
        self._file_path_map = self._file_path_map or {}
        return CoreTracer(path, None, self._c_files_map[path][0], self._c_files_map, self._file_path_map)

    def find_executable_files(self, src_dir: str) -> Iterable[str]:
        """Name the files below ``src_dir`` that have code of the core, run or not."""
        return (path for path in self.files() if Path(path).is_relative_to(src_dir))


def coverage_init(reg: Plugins, options: object) -> None:
    """Coverage's entry point."""
    plugin = CorePlugin()
    reg.add_configurer(plugin)
    reg.add_file_tracer(plugin)
