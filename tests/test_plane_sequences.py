"""Random sequences of frames, changes and jumps in time through a plane: the fuzzer's invariants, on a fixed few."""

from __future__ import annotations

import importlib.util
import random

import pytest

from tests.support import ROOT

_TARGET = importlib.util.spec_from_file_location("fuzz_plane", ROOT / "tests/fuzz/fuzz_plane.py")
assert _TARGET is not None and _TARGET.loader is not None
fuzz_plane = importlib.util.module_from_spec(_TARGET)
_TARGET.loader.exec_module(fuzz_plane)


@pytest.mark.parametrize("seed", range(40))
def test_random(seed: int) -> None:
    """Half of them mostly frames, since changes come easily and long talks do not."""
    rng = random.Random(seed)
    fuzz_plane.run(memoryview(bytes(rng.choice((rng.randrange(256), rng.randrange(150))) for _ in range(2500))))


def test_the_invariants_can_fail() -> None:
    """An entry changed behind the plane's back is seen."""
    sequence = fuzz_plane.Sequence(b"")
    sequence.planes[0].set_station(42, "02:00:00:00:00:05", "c")
    with pytest.raises(AssertionError, match="what was set does not stand"):
        sequence.check()
