"""Verdicts: each a number of its own, and one sentence."""

from __future__ import annotations

import pytest

from vxlanfast import stats
from vxlanfast._ext.verdict import SENTENCES, Verdict, sentence

#: Nodes count in blocks of this many. Masks of verdicts are 64-bit numbers: what is above never leaves by one.
COUNT = 128


def test_every_verdict_has_one_sentence() -> None:
    assert set(SENTENCES) == set(Verdict)
    assert len(set(SENTENCES.values())) == len(SENTENCES), "two verdicts say the same"
    for verdict, text in SENTENCES.items():
        assert sentence(verdict) == sentence(int(verdict)) == text
        assert text == text.strip() and not text.endswith(".") and "\n" not in text


def test_numbers_are_unique_and_fit_a_counter_block() -> None:
    # An enum takes a second name of the same number for an alias: __members__ has those as well.
    assert len(Verdict.__members__) == len(set(Verdict)) == len({int(verdict) for verdict in Verdict})
    assert all(0 <= verdict < COUNT for verdict in Verdict)


def test_names_say_the_kind() -> None:
    assert Verdict.PASS == 0
    for verdict in Verdict:
        kind = "PASS" if verdict == 0 else "PUNT_" if verdict < 16 else "DROP_"
        assert verdict.name.startswith(kind)


@pytest.mark.parametrize("number", [-1, 9, 63, 127, 255])
def test_other_numbers_are_no_verdicts(number: int) -> None:
    with pytest.raises(ValueError, match=str(number)):
        sentence(number)


def test_groups_of_the_statistics() -> None:
    """``--other`` decides on what is no VXLAN or broken; what the strict policy alone minds is apart from that."""
    assert not set(stats.OTHER) & set(stats.STRICT)
    assert all("(strict)" in SENTENCES[verdict] for verdict in stats.STRICT)
    assert not any("(strict)" in SENTENCES[verdict] for verdict in set(Verdict) - set(stats.STRICT))
    assert stats.mask((Verdict.PASS, Verdict.PUNT_NOT_IP, Verdict.DROP_OUTPUT_LINK_TYPE)) == 1 | 2 | 1 << 56
