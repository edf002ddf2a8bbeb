"""Slopes of depth from one plugin file: extracted, trained from mirrored images too, predicted, listed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from deapcache_plugins import forgotten_plugins, write_plugin
from deapcache_slopes import SLOPES
from PIL import Image

BACKBONE = "efficientnet-lite0-s16@untrained"


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Path]:
    with forgotten_plugins():
        yield write_plugin(tmp_path, SLOPES)


def test_from_images_to_the_leaderboard(cli, plugin: Path, tmp_path: Path) -> None:
    assert len(SLOPES.splitlines()) <= 150
    home = tmp_path / "home"
    common = ["--plugin", plugin, "--home", home]
    views = ["--views", "original,hflip"]
    done = cli("extract", "--backbone", BACKBONE, "--dataset", "scene-slopes", "--base-size", "32x48", *views, *common)
    assert done.code == 0, done.err
    ask = ["--task", "slopes", "--dataset", "scene-slopes", "--iterations", 3, "--batch-size", 2, "--device", "cpu"]
    done = cli("probe", *ask, *views, "--json", *common)
    assert done.code == 0, done.err
    (result,) = json.loads(done.out)
    assert 0 < result["scores"]["error"] < 1
    with Image.open(result["picture"]) as picture:
        assert picture.width > 100
    Image.new("RGB", (60, 40), "teal").save(tmp_path / "photo.png")
    ask = ["--readout", result["run"], "--image", tmp_path / "photo.png", "--size", "16x24", "--save-arrays"]
    done = cli("predict", *ask, "--out", tmp_path / "out", *common)
    assert done.code == 0, done.err
    (facts,), (array,) = (list((tmp_path / "out").glob(pattern)) for pattern in ("*.json", "*.npy"))
    assert json.loads(facts.read_text())["values"] == "slope of ln depth: right, down"
    assert np.load(array).shape[-1] == 2
    done = cli("leaderboard", "--format", "csv", *common)
    assert done.code == 0, done.err
    assert "scene-slopes" in done.out
