"""Surface normals from one plugin file: extracted, trained from mirrored images too, predicted, listed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from deapcache_normals import NORMALS
from deapcache_plugins import forgotten_plugins, write_plugin
from PIL import Image

BACKBONE = "efficientnet-lite0-s16@untrained"


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Path]:
    with forgotten_plugins():
        yield write_plugin(tmp_path, NORMALS)


def test_from_images_to_the_leaderboard(cli, plugin: Path, tmp_path: Path) -> None:
    assert len(NORMALS.splitlines()) <= 150
    home = tmp_path / "home"
    common = ["--plugin", plugin, "--home", home]
    views = ["--views", "original,hflip"]
    done = cli("extract", "--backbone", BACKBONE, "--dataset", "scene-normals", "--base-size", "32x48", *views, *common)
    assert done.code == 0, done.err
    ask = ["--task", "normals", "--dataset", "scene-normals", "--iterations", 3, "--batch-size", 2, "--device", "cpu"]
    done = cli("probe", *ask, *views, "--json", *common)
    assert done.code == 0, done.err
    (result,) = json.loads(done.out)
    assert 0 < result["scores"]["angle"] < 180
    shares = [result["scores"][name] for name in ("within_11", "within_22", "within_30")]
    assert 0 <= shares[0] <= shares[1] <= shares[2] <= 1
    with Image.open(result["picture"]) as picture:
        assert picture.width > 100
    Image.new("RGB", (60, 40), "teal").save(tmp_path / "photo.png")
    ask = ["--readout", result["run"], "--image", tmp_path / "photo.png", "--size", "16x24", "--save-arrays"]
    done = cli("predict", *ask, "--out", tmp_path / "out", *common)
    assert done.code == 0, done.err
    (facts,), (array,) = (list((tmp_path / "out").glob(pattern)) for pattern in ("*.json", "*.npy"))
    assert json.loads(facts.read_text())["values"] == "surface normal: right, down, away"
    normals = np.load(array)
    np.testing.assert_allclose(np.linalg.norm(normals[..., :3], axis=-1), 1, atol=1e-3)
    done = cli("leaderboard", "--format", "csv", *common)
    assert done.code == 0, done.err
    assert "scene-normals" in done.out
