"""Arrows go down: who may import whom, read from every import and cimport of the package."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.support import ROOT

#: Lines of a file: what the house likes, and what fails.
LINES_LIKED, LINES_MAX = 650, 700

#: What a room of the core may import, besides itself and the C and Python libraries.
ROOMS = {
    "verdict": set(),
    "wire": {"verdict"},
    "batch": {"verdict"},  # a late import, for the keys of counts()
    "table": {"wire"},
    "io": {"batch", "verdict", "wire"},
    "node": {"batch", "verdict", "wire", "table"},
}
#: Single exceptions: (file, module). A survey knows the frame a row came from by its record's offset; and one node
#: writes what it makes into an encoder's buffer itself.
ALLOWED = {("_ext/node/survey.pyx", "vxlanfast._ext.io.format")} | {
    (f"_ext/node/direct.{suffix}", f"vxlanfast._ext.io.{module}")
    for suffix in ("pyx", "pyi")
    for module in ("format", "target", "writer")
}
#: What a plane is compiled of.
CORE_NODES = {f"_ext.node.{name}" for name in (
    "bridge", "encap", "fit", "proxy", "receive", "route", "send", "snoop",
)}  # fmt: skip
TABLES = {f"_ext.table.{name}" for name in ("dest", "fdb", "fragments", "group", "neigh", "net")}
#: Modules of the C library and of Python's C interface.
LOWEST = ("libc", "posix", "cpython", "cython")

_CYTHON = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import\b|c?import\s+([\w., ]+))", re.MULTILINE)

CORE = sorted(path for path in (ROOT / "_ext").rglob("*") if path.suffix in (".pyx", ".pxd", ".py", ".pyi"))
# Not below vxlanfast/_ext, which is the same folder again.
PYTHON = sorted(
    path for path in (ROOT / "vxlanfast").rglob("*.py") if "_ext" not in path.relative_to(ROOT / "vxlanfast").parts
)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path, *, typing: bool = True) -> set[str]:
    """The modules that a file imports or cimports, wherever in it; ``typing``: also those for type checkers alone."""
    text = path.read_text()
    if path.suffix in (".py", ".pyi"):
        found = set()
        tree = ast.parse(text)
        if not typing:
            tree.body = [
                node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
            ]
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{name_of(path)}:{node.lineno}: imports are absolute here"
                assert node.module
                found.add(node.module)
                if node.module in ("vxlanfast", "vxlanfast.cli", "vxlanfast.benchmark"):
                    found |= {f"{node.module}.{alias.name}" for alias in node.names}
        return found
    found = set()
    for module, modules in _CYTHON.findall(text):
        found |= {module} if module else {name.split(" as ")[0].strip() for name in modules.split(",")}
    return found


def ours(path: Path) -> set[str]:
    return {module for module in imports(path) if module.split(".")[0] == "vxlanfast"}


def test_the_imports_are_found() -> None:
    """The search itself: it would be happy with a file it cannot read."""
    assert "vxlanfast._ext.io.format" in imports(ROOT / "_ext/io/reader.pyx")
    assert "libc.stdint" in imports(ROOT / "_ext/batch.pxd")
    assert "vxlanfast._ext.verdict" in imports(ROOT / "_ext/batch.pyx")
    assert "vxlanfast._ext.node.reassemble" in imports(ROOT / "vxlanfast/files.py")
    assert len(CORE) > 30 and len(PYTHON) > 20


@pytest.mark.parametrize("path", CORE, ids=name_of)
def test_core(path: Path) -> None:
    room = path.relative_to(ROOT / "_ext").parts[0].split(".")[0]
    for module in imports(path):
        if module.split(".")[0] != "vxlanfast":
            assert path.suffix in (".py", ".pyi") or module.split(".")[0] in LOWEST, f"{name_of(path)}: {module}"
            continue
        assert module.startswith("vxlanfast._ext."), f"{name_of(path)} imports {module}, which is above the core"
        other = module.split(".")[2]
        fine = other in {room, *ROOMS[room]} or (name_of(path), module) in ALLOWED
        assert fine, f"{name_of(path)} imports {module}: {room} may import {sorted(ROOMS[room]) or 'nothing'}"


@pytest.mark.parametrize(("name", "may"), [
    ("__init__", {"_ext.batch", "_ext.verdict", "capture", "dataplane", "errors", "explain", "files", "frame",
                  "from_kernel", "hops", "importers", "ipvsadm_rules", "live", "live_spec", "mesh", "network_spec",
                  "node_spec", "node_toml", "plane_stats", "replay", "service_spec", "spec", "split", "stats", "survey",
                  "timed"}),
    ("errors", set()),
    ("linktypes", set()),
    ("ends", set()),
    ("addr", {"errors"}),
    ("codec", {"ends", "errors"}),
    ("stats", {"_ext.verdict"}),
    ("spec", {"addr", "errors", "_ext.node.encap"}),
    ("checks", {"addr", "errors"}),
    ("service_spec", {"addr", "checks", "errors"}),
    ("live_spec", {"addr", "checks", "errors"}),
    ("network_spec", {"addr", "checks", "errors"}),
    ("node_spec", {"addr", "checks", "live_spec", "network_spec", "service_spec", "spec"}),
    ("node_toml", {"checks", "errors", "live_spec", "network_spec", "node_spec", "service_spec"}),
    ("compiled", {"_ext.batch", *CORE_NODES, *TABLES, "addr", "mesh", "network_spec", "node_spec", "plane_stats",
                  "service_spec", "spec"}),
    ("plane_stats", {"_ext.verdict"}),
    ("notify", set()),
    ("logs", set()),
    ("control_client", {"ends", "errors"}),
    ("shown", {"dataplane", "node_spec", "plane_stats"}),
    ("changes", {"addr", "checks", "dataplane", "errors", "ipvsadm_rules", "service_spec"}),
    ("foreign", {"addr", "errors"}),
    ("sockets", {"_ext.io.mirror", "_ext.io.packet", "addr", "errors"}),
    ("extcap", {"errors"}),
    ("rotate", {"_ext.batch", "_ext.io.writer", "capture", "codec", "ends", "errors", "sink"}),
    ("ipvsadm_rules", {"addr", "errors", "foreign", "service_spec"}),
    ("netlink", {"errors"}),
    ("links", {"addr", "checks", "errors", "netlink"}),
    ("path_mtu", {"addr"}),
    ("underlay_packet", {"_ext.io.ether", "addr", "errors", "links", "live_spec", "node_spec"}),
    ("swarm", {"addr", "checks", "errors", "foreign", "network_spec", "service_spec"}),
    ("names", {"addr", "dataplane", "network_spec", "node_spec", "service_spec"}),
    ("resolver", {"checks", "errors", "names", "service_spec"}),
    ("upstream", {"checks", "errors", "resolver"}),
    ("stub_tcp", set()),
    ("stub", {"stub_tcp"}),
    ("kernel_tables", {"addr", "compiled", "errors", "foreign", "importers", "network_spec", "node_spec", "spec"}),
    ("from_kernel", {"checks", "dataplane", "errors", "kernel_tables", "netlink", "node_spec"}),
    ("importers", {"addr", "errors", "foreign", "network_spec", "node_spec", "service_spec", "spec", "swarm"}),
])  # fmt: skip
def test_lower_modules(name: str, may: set[str]) -> None:
    found = {module.removeprefix("vxlanfast.") for module in ours(ROOT / f"vxlanfast/{name}.py")}
    assert found <= may, f"{name}.py imports {sorted(found - may)}"


@pytest.mark.parametrize("path", PYTHON, ids=name_of)
def test_nothing_imports_the_command_line(path: Path) -> None:
    inside = name_of(path).startswith("vxlanfast/cli/") or name_of(path) == "vxlanfast/__main__.py"
    upward = {module for module in ours(path) if module.startswith("vxlanfast.cli")}
    assert inside or not upward, f"{name_of(path)} imports {sorted(upward)}"
    shows = inside or name_of(path) == "vxlanfast/benchmark/report.py"
    assert shows or not imports(path) & {"click", "rich"}, f"{name_of(path)} talks to a terminal"


def test_no_circles() -> None:
    """No module needs itself through others, whenever it is that it imports them."""
    modules = {
        name_of(path)[:-3].replace("/", ".").removesuffix(".__init__"): {
            module for module in imports(path, typing=False) if module.split(".")[0] == "vxlanfast"
        }
        for path in PYTHON
    }
    modules["vxlanfast"] = set()  # it names everything, late
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " > ".join((*way[way.index(module) :], module))
        if module in done or module not in modules:
            return
        for other in sorted(modules[module]):
            visit(other, (*way, module))
        done.add(module)

    for module in sorted(modules):
        visit(module, ())


def test_files_are_short() -> None:
    lines = {name_of(path): path.read_text().count("\n") for path in (*CORE, *PYTHON)}
    for name, count in lines.items():
        if count > LINES_LIKED:
            print(f"{name}: {count} lines; {LINES_LIKED} is what we like")
    assert not {name: count for name, count in lines.items() if count > LINES_MAX}
