"""Every ``.pxd`` that is shipped can be cimported by somebody else's extension, and the module imports."""

from pathlib import Path

import pytest

from tests.probe import build, core


def shipped() -> list[str]:
    """The modules behind the ``.pxd`` files of the core, as a third party names them."""
    root = core().parents[1]
    files = sorted(core().rglob("*.pxd"))
    return [".".join(path.relative_to(root).with_suffix("").parts) for path in files if path.stem != "__init__"]


def test_the_wire_headers_are_shipped():
    assert {f"vxlanfast._ext.wire.{name}" for name in ("udp", "vxlan", "flow", "csum")} <= set(shipped())


def test_all_of_them_in_one_module(tmp_path: Path):
    lines = [f"cimport {name}" for name in shipped()]
    lines += ["from vxlanfast._ext.batch cimport PacketBatch, row_body"]
    lines += ["from vxlanfast._ext.wire cimport csum, endian"]
    lines += ["", "def rows(PacketBatch batch):", "    return batch.c.n"]
    source = tmp_path / "cimport_all.pyx"
    source.write_text("\n".join(lines) + "\n")
    module = build(source)
    from vxlanfast._ext.batch import PacketBatch

    assert module.rows(PacketBatch()) == 0


@pytest.mark.parametrize("name", ["crc32c", "csum", "flow"])
def test_one_alone(tmp_path: Path, name: str):
    """Those with C code in them, by the form of cimport that Cython's own search for include folders overlooks."""
    source = tmp_path / f"cimport_{name}.pyx"
    source.write_text(f"from vxlanfast._ext.wire cimport {name}\n\nNAME = {name!r}\n")
    assert name == build(source).NAME
