"""Random sequences of frames, changes and jumps in time through a plane: the fuzzers' invariants, on a fixed few."""

from __future__ import annotations

import importlib.util
import random
from types import ModuleType

import pytest

from tests.support import ROOT


def target(name: str) -> ModuleType:
    """A fuzzer's target, as a module."""
    found = importlib.util.spec_from_file_location(name, ROOT / f"tests/fuzz/{name}.py")
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


PLANE, MESH = target("fuzz_plane"), target("fuzz_mesh")


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("module", [PLANE, MESH], ids=["plane", "mesh"])
def test_random(module: ModuleType, seed: int) -> None:
    """Half of them mostly frames, since changes come easily and long talks do not."""
    rng = random.Random(seed)
    module.run(memoryview(bytes(rng.choice((rng.randrange(256), rng.randrange(150))) for _ in range(2500))))


def test_the_invariants_can_fail() -> None:
    """An entry changed behind the plane's back is seen, and a connection that no server counts."""
    sequence = PLANE.Sequence(b"")
    sequence.planes[0].set_station(42, "02:00:00:00:00:05", "c")
    with pytest.raises(AssertionError, match="what was set does not stand"):
        sequence.check()
    sequence = MESH.Sequence(bytes([1, 0, 0, 0, 0, 32, 99]) * 20)
    while not len(sequence.planes[0]._now.mesh.conns) and sequence.at < 2000:
        sequence.step()
    table = sequence.planes[0]._now.mesh.services
    [server] = [s["server"] for row in table.rows() for s in row["servers"] if s["active"] + s["inactive"]][:1]
    table.release(server, active=True)
    with pytest.raises(AssertionError, match="a server counts what it has not"):
        sequence.check()
