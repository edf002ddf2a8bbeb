"""A home that can be probed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
import torch
from deapcache_toys import COUNTS, TARGET_DTYPES, add_features, add_targets

from deapcache.locations import LocalLocation


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Work this small waits more for other threads than it gains from them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def made_toys(tmp_path_factory: pytest.TempPathFactory) -> LocalLocation:
    """A home with features and all targets of both splits, for reading only."""
    home = LocalLocation(tmp_path_factory.mktemp("toys"))
    for split in COUNTS:
        add_features(home, split)
        for annotation in TARGET_DTYPES:
            add_targets(home, split, annotation)
    return home


@pytest.fixture
def toys(made_toys: LocalLocation, home: LocalLocation) -> LocalLocation:
    """A copy of these toys to write to."""
    shutil.copytree(made_toys.path, home.path, dirs_exist_ok=True)
    return home
