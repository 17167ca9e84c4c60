"""What every test may use."""

import signal
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support import CAPTURES

# Where a shell ran the suite in the background, Ctrl-C is ignored, and by every program that it starts as well.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci")


@pytest.fixture(scope="session")
def shared_captures() -> Path:
    """The folder of other people's captures, or the test is skipped."""
    if CAPTURES is None:
        pytest.skip("no shared/captures beside the repository, and VXLANFAST_CAPTURES names none")
    return CAPTURES
