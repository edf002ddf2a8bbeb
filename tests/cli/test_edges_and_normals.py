"""Edges and surface normals from files to a table: extracted, trained from mirrored images too, drawn, predicted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from deapcache_bsds import write_bsds
from deapcache_matlab import random_sample, write_labelled, write_normals, write_splits
from PIL import Image

BACKBONE = "efficientnet-lite0-s16@untrained"
WALKS = {"edges": ("bsds500", (32, 32)), "normals": ("nyuv2-normals", (16, 24))}


@pytest.mark.parametrize("task", WALKS)
def test_from_images_to_predictions(cli, tmp_path: Path, task: str) -> None:
    dataset, (height, width) = WALKS[task]
    write_bsds(tmp_path / "bsds500")
    write_labelled(tmp_path / "nyuv2", [random_sample(seed, (24, 32)) for seed in range(5)])
    write_splits(tmp_path / "nyuv2", (1, 4, 5), (3, 2))
    write_normals(tmp_path / "nyuv2" / "gt", 5, (24, 32))
    views, common = ["--views", "original,hflip"], ["--home", tmp_path / "home"]
    ask = ["extract", "--backbone", BACKBONE, "--dataset", dataset, "--base-size", f"{height}x{width}", "--limit", 3]
    done = cli(*ask, "--data-root", tmp_path, *views, *common)
    assert done.code == 0, done.err
    ask = ["probe", "--task", task, "--iterations", 3, "--batch-size", 2, "--limit", 3, "--device", "cpu"]
    done = cli(*ask, *views, "--json", *common)
    assert done.code == 0, done.err
    (result,) = json.loads(done.out)
    assert result["dataset"] == dataset
    assert np.isfinite([*result["scores"].values(), *result["prior"].values()]).all()
    with Image.open(result["picture"]) as picture:
        assert picture.width > 100
    Image.new("RGB", (60, 40), "teal").save(tmp_path / "photo.png")
    ask = ["predict", "--readout", result["run"], "--image", tmp_path / "photo.png", "--save-arrays"]
    done = cli(*ask, "--out", tmp_path / "out", *common)
    assert done.code == 0, done.err
    values = np.load(next((tmp_path / "out").glob("*.npy"))).astype(np.float32)
    if task == "edges":
        assert ((values >= 0) & (values <= 1)).all()
    else:
        np.testing.assert_allclose(np.linalg.norm(values, axis=-1), 1, atol=2e-3)
    done = cli("results", *common)
    assert done.code == 0, done.err
    assert "image-independent prior" in done.out
