"""What is probed where the user does not say, from what the home holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from deapcache_pipelines import ONE
from PIL import Image

from deapcache.datasets import open_dataset
from deapcache.errors import CacheMissError
from deapcache.experiments import probe
from deapcache.experiments.probe import choose_backbones, choose_datasets
from deapcache.extraction import extract
from deapcache.locations import LocalLocation
from deapcache.probing import ProbeConfig


@pytest.fixture
def both(coco: Path) -> Path:
    """A root with COCO's instances and COCO-Stuff's maps of the same images."""
    pixels = np.where(np.arange(128) < 64, 0, 181).astype(np.uint8) * np.ones((96, 1), np.uint8)
    for split in ("train2017", "val2017"):
        folder = coco / "stuffthingmaps_trainval2017" / split
        folder.mkdir(parents=True)
        for path in (coco / split).glob("*.jpg"):
            Image.fromarray(pixels).save(folder / f"{path.stem}.png")
    return coco


def test_features_serve_every_dataset_of_their_images(both: Path, home: LocalLocation) -> None:
    names = ("coco", "coco-stuff")
    extracted = [[report.extracted for report in extract([ONE], open_dataset(name, both), home)] for name in names]
    assert extracted == [[8, 4], [0, 0]]
    chosen = choose_datasets(home, ["coco-stuff", "foreground"], None, [])
    assert chosen == {"coco-stuff": ["coco-stuff"], "coco": ["foreground"]}
    assert all(choose_backbones(home, name, [], {}) == [ONE] for name in names)
    config = ProbeConfig(tasks=["coco-stuff"], iterations=1, batch_size=1, train_limit=2, val_limit=1)
    (done,) = probe(home, config)
    assert (done.result.dataset, done.result.backbone) == ("coco-stuff", ONE)


def test_features_without_the_targets_that_a_task_needs(both: Path, home: LocalLocation) -> None:
    list(extract([ONE], open_dataset("coco", both), home))
    with pytest.raises(CacheMissError, match=r"no features over coco-stuff with its targets .*--dataset coco-stuff"):
        choose_datasets(home, ["coco-stuff"], None, [])
