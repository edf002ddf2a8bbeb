"""A home that can be probed."""

from __future__ import annotations

import shutil

import pytest
from deapcache_toys import COUNTS, TARGET_DTYPES, add_features, add_targets

from deapcache.locations import LocalLocation
from deapcache.probing import ProbeConfig
from deapcache.probing.caches import SplitCaches, open_caches


@pytest.fixture(autouse=True, scope="module")
def in_one_thread(one_thread: None) -> None:
    """All of this room."""


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


@pytest.fixture
def caches(toys: LocalLocation) -> SplitCaches:
    """The first 20 training images with two kinds of annotations."""
    config = ProbeConfig(dataset="toys", backbones=["toy"], train_limit=20)
    return open_caches(toys, config, ("instances", "depth"))[0]
