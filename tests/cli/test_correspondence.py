"""``deapcache correspondence``: cached features, pairs from files, a result like any other's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from deapcache_caches import feature_recipe
from deapcache_spair import PAIRS, SIZES, write_spair

from deapcache.cache import create_cache, encode_features, feature_arrays, features_path, refresh_manifest
from deapcache.experiments.correspondence import most_similar, pck
from deapcache.locations import LocalLocation
from deapcache.results import HomeIntervals, load_results
from deapcache.results.record import load_statistics

GRID, DIM = (6, 8), 16


def _centre(id_: str, cell: tuple[int, int]) -> list[float]:
    """x and y of a cell's centre, pixels."""
    height, width = SIZES[id_]
    return [(cell[1] + 0.5) / GRID[1] * width, (cell[0] + 0.5) / GRID[0] * height]


CELLS = (((1, 1), (2, 6)), ((4, 5), (3, 2)), ((0, 0), (5, 7)))
"""Of three keypoints: their cell in sources, and in targets."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Keypoints at centres of cells; in targets the second lies 3, the third 6 pixels beside; the last pair has two."""
    points = []
    for source, target in PAIRS:
        at = [_centre(target, cell) for _, cell in CELLS]
        at[1][0] += 3
        at[2][1] -= 6
        points.append([[_centre(source, cell) for cell, _ in CELLS], at])
    points[-1] = [some[:2] for some in points[-1]]
    return write_spair(tmp_path, points, [[0, 0, 41, 20], [2, 0, 25, 25], [0, 0, 30, 62]])


@pytest.fixture
def filled(home: LocalLocation) -> LocalLocation:
    """Features of noise in which a keypoint's cell looks like itself, louder in sources."""
    looks = np.random.default_rng(0).normal(size=(len(SIZES), *GRID, DIM)).astype(np.float32)
    own = 3 * np.random.default_rng(1).normal(size=(len(CELLS), DIM))
    ids = sorted(SIZES)
    for keypoint, cells in enumerate(CELLS):
        for pair in PAIRS:
            for loudness, id_, cell in zip((5, 1), pair, cells, strict=True):
                looks[ids.index(id_)][cell] = loudness * own[keypoint]
    recipe = feature_recipe()
    path = features_path("spair-71k", "val", recipe.backbone, recipe.digest)
    arrays = feature_arrays("float16", GRID, DIM)
    cache = create_cache(home, path, recipe=recipe, arrays=arrays, image_ids=ids)
    with refresh_manifest(cache):
        for shard in range(cache.shard_count):
            rows = cache.shard_rows(shard)
            cache.write_shard(shard, encode_features(looks[rows], "float16", [ids[row] for row in rows]))
    return home


def test_what_is_found_is_scored_and_kept(cli, root: Path, filled: LocalLocation) -> None:
    ask = ["correspondence", "--data-root", root.parent, "--home", filled.path]
    done = cli(*ask, "--json")
    assert done.code == 0, done.err
    (document,) = json.loads(done.out)
    # 0, 3 and 6 pixels off where a tenth of the box is 4.1, 2.5 and 6.2
    expected = {"pck": (2 / 3 + 1 / 3 + 1) / 3, "pck_points": 5 / 8, "pck_05": (1 / 3 + 1 / 3 + 1) / 3,
                "pck_15": (1 + 2 / 3 + 1) / 3}  # fmt: skip
    assert document["scores"] == pytest.approx(expected)
    right = []
    for (source, target), extent in zip(PAIRS, (41, 25, 62), strict=True):
        count = 2 if extent == 62 else 3
        for (there, here), (dx, dy) in list(zip(CELLS, ((0, 0), (3, 0), (0, -6)), strict=True))[:count]:
            blind = np.array(_centre(source, there)) / SIZES[source][::-1] * SIZES[target][::-1]
            right.append(np.linalg.norm(blind - _centre(target, here) - np.array((dx, dy))) <= 0.1 * extent)
    assert document["prior"]["pck_points"] == pytest.approx(np.mean(right))
    (kept,) = load_results(filled)
    assert (kept.run, kept.task, kept.readout, kept.train_images) == (document["run"], "correspondence", "nearest", 0)
    statistics = load_statistics(filled, kept.run)
    assert statistics.image_ids[0] == "000000-2008_000001-2008_000002:cat"
    assert pck(statistics.run) == pytest.approx(expected)
    assert pck({name: values[:1] for name, values in statistics.run.items()})["pck"] == pytest.approx(2 / 3)
    done = cli("results", "--home", filled.path)
    assert done.code == 0, done.err
    assert "PCK@0.1" in done.out
    assert "0.6667" in done.out
    found = HomeIntervals(filled)([kept])
    assert found.problem == ""
    low, high = found.intervals["pck"]
    assert low < 2 / 3 < high
    assert f"{low:.4f}–{high:.4f}" in done.out
    assert found.differences["pck"].value == pytest.approx(2 / 3 - kept.prior["pck"])
    for form in (["leaderboard", "--format", "csv"], ["cache", "ls"]):
        assert cli(*form, "--home", filled.path).code == 0
    done = cli(*ask, "--limit", 1, "--json")
    assert json.loads(done.out)[0]["scores"]["pck"] == pytest.approx(2 / 3)
    assert len(load_results(filled)) == 2  # another protocol


def test_between_cells_features_are_mixed() -> None:
    """Against a plain formula, and borders are held."""
    generator = torch.Generator().manual_seed(0)
    source, target = F.normalize(torch.randn(2, 4, 5, 7, generator=generator), dim=-1)
    points = torch.tensor([[0.35, 0.6], [0.0, 0.0], [0.5, 0.5], [0.99, 0.3]])
    found = most_similar(source, target, points)
    for point, place in zip(points.double().numpy(), found.numpy(), strict=True):
        column, row = np.clip(point * (5, 4) - 0.5, 0, (4, 3))
        x, y = min(int(column), 3), min(int(row), 2)
        dx, dy = column - x, row - y
        part = source[y : y + 2, x : x + 2].double().numpy()
        looks = np.einsum("yxd,y,x->d", part, [1 - dy, dy], [1 - dx, dx])
        best = np.unravel_index(np.argmax(target.double().numpy() @ looks), (4, 5))
        np.testing.assert_allclose(place, [(best[1] + 0.5) / 5, (best[0] + 0.5) / 4], atol=1e-6)


REFUSED = {
    "no files": (
        ["--data-root", "/nowhere"],
        "spair-71k is not under /nowhere: expected Layout/large/ with JPEGImages/",
    ),
    "no pairs": (["--dataset", "scenes"], "dataset 'scenes' has no pairs of images: correspondence is scored on spair"),
    "no backbone": (["--backbone", "dinov2"], "deapcache extract --backbone dinov2 --dataset spair-71k --split val"),
    "no field": (["--where", "storage"], "--where takes FIELD=VALUE"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_scored_is_refused(cli, root: Path, filled: LocalLocation, case: str) -> None:
    more, message = REFUSED[case]
    done = cli("correspondence", "--home", filled.path, "--data-root", root.parent, *more)
    assert done.code in (1, 2)
    assert message in " ".join(done.err.split())
    assert "Traceback" not in done.err


def test_another_set_of_images_is_refused(cli, root: Path, filled: LocalLocation) -> None:
    path = root / "Layout" / "large" / "test.txt"
    path.write_text(path.read_text().replace("2011_000005", "2011_000006"))
    name = "000002-2010_000004-2011_000006:bus.json"
    (root / "PairAnnotation" / "test" / name.replace("006", "005")).rename(root / "PairAnnotation" / "test" / name)
    done = cli("correspondence", "--home", filled.path, "--data-root", root.parent)
    assert done.code == 1
    assert "does not know image bus/2011_000006 of the pairs: `deapcache extract --backbone vit-b-16" in done.err


def test_features_that_are_missing_are_asked_for(cli, root: Path, filled: LocalLocation) -> None:
    (shard, *_) = sorted(Path(filled.path).rglob("features/c.*"))
    shard.unlink()
    done = cli("correspondence", "--home", filled.path, "--data-root", root.parent)
    assert done.code == 1
    assert "lacks some of the pairs' 5 images: `deapcache extract --backbone vit-b-16" in done.err
