"""Golden files: see README.md."""

from __future__ import annotations

import os

import pytest
from deapcache_golden import EXPECTED, VARIABLE, Golden

_MODE = os.environ.get(VARIABLE, "")  # the tests clear the environment


@pytest.fixture(scope="session")
def golden() -> Golden:
    """Compares with the files in ``expected``, or writes them."""
    return Golden(EXPECTED, _MODE)
