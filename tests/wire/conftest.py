"""The wire headers, compiled into modules that tests can call."""

import sys
from types import ModuleType

import pytest

from tests.probe import HERE, build


@pytest.fixture(scope="session")
def wire() -> ModuleType:
    """Every probe of the wire headers, as one module."""
    sys.modules["tests.probe.exact"] = build(HERE / "exact.pyx")  # the others cimport it
    module = ModuleType("wire")
    for name in ("link", "ip", "transport"):
        vars(module).update(vars(build(HERE / f"{name}_probe.pyx")))
    return module
