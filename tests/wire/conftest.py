"""The wire headers, compiled into a module that tests can call."""

from types import ModuleType

import pytest

from tests.probe import build


@pytest.fixture(scope="session")
def wire() -> ModuleType:
    return build()
