"""Results as a probe would give them, made by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from deapcache_results import make_facts


@pytest.fixture
def facts() -> Callable[..., dict[str, Any]]:
    """Facts of one run, with the named parts changed."""
    return make_facts


@pytest.fixture
def arrays() -> dict[str, Any]:
    """The arrays that belong to a run of three images."""
    return {
        "statistics": {"hits": np.arange(3), "confusion": np.arange(12.0).reshape(3, 2, 2)},
        "prior_statistics": {"hits": np.zeros(3, np.int64)},
        "image_ids": ["1", "äb", "3"],
        "weights": {"a.weight": np.float32([[1, 2], [3, 4]]), "a.bias": np.float32([5])},
    }
