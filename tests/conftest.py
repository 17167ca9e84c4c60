"""What every test may use."""

from pathlib import Path

import pytest
from hypothesis import settings

from tests.support import CAPTURES

settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci")


@pytest.fixture(scope="session")
def shared_captures() -> Path:
    """The folder of other people's captures, or the test is skipped."""
    if CAPTURES is None:
        pytest.skip("no shared/captures beside the repository, and VXLANFAST_CAPTURES names none")
    return CAPTURES
