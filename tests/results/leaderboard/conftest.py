"""A small home of real runs: two backbones, two tasks, seeds, all trained here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from deapcache.datasets import open_dataset
from deapcache.experiments import probe
from deapcache.extraction import extract
from deapcache.locations import LocalLocation
from deapcache.probing import ProbeConfig

TRAINED, CONTROL = "efficientnet-lite0-s16", "efficientnet-lite0-s16@untrained"


@pytest.fixture(scope="session")
def real_home(tmp_path_factory: pytest.TempPathFactory, exported: Callable[[str], Path]) -> LocalLocation:
    """Boundaries with two seeds and foreground with one, of a pretrained backbone and its control, on three scenes."""
    home = LocalLocation(tmp_path_factory.mktemp("real") / "home")
    list(extract([TRAINED, CONTROL], open_dataset("coco", exported("coco")), home))
    config = ProbeConfig(dataset="coco", iterations=6, batch_size=2, train_limit=2, val_limit=2)
    for task, seeds in (("boundaries", (0, 1)), ("foreground", (0,))):
        list(probe(home, replace(config, tasks=[task], seeds=seeds), command=["deapcache", "probe", "--task", task]))
    return home
