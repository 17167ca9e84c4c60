"""The captures in fixtures/: each has a true row in the README, and those made by a script are what it makes."""

from __future__ import annotations

import re

import pytest

from tests import make_fixtures as fx
from tests.support import FIXTURES, ours_read, sha

ROW = re.compile(r"\| `([^`]+)` \| (.+?) \| ([\d,]+) \| `([0-9a-f]{64})` \|")
ROWS = {
    m[1]: m
    for line in (FIXTURES / "README.md").read_text().splitlines()
    if (m := ROW.fullmatch(line.strip()))
}
FILES = sorted(path.name for path in FIXTURES.iterdir() if path.name != "README.md")


def test_every_file_has_a_row_and_every_row_a_file() -> None:
    assert sorted(ROWS) == FILES


@pytest.mark.parametrize("name", FILES)
def test_rows_are_true(name: str) -> None:
    data = (FIXTURES / name).read_bytes()
    assert sha(data) == ROWS[name][4]
    if name.split(".", 1)[1] in ("pcap", "pcapng") and not name.startswith("regress_"):
        packets, fault = ours_read(data)
        assert fault is None
        assert len(packets) == int(ROWS[name][3].replace(",", ""))


@pytest.mark.parametrize("name", fx.files())
def test_the_script_makes_them(name: str) -> None:
    assert fx.files()[name][1]() == (FIXTURES / name).read_bytes()


@pytest.mark.parametrize("name", FILES)
def test_they_are_small(name: str) -> None:
    assert (FIXTURES / name).stat().st_size < 200_000
