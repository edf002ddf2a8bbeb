"""Extract, probe and predict where nothing is square: base sizes, the backbone's images and grid; whole and cropped.

Photographs of 60 × 80 pixels. A base size of 100 × 130 sees 78 of the 80 columns of a crop, from the first on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from deapcache_featup import published_state, write_published
from deapcache_predictions import Photographs, Trained, train

from deapcache.backbones import BACKBONES, describe
from deapcache.cache import list_caches
from deapcache.datasets import decode_image
from deapcache.experiments import PredictRequest, find_run, load_predictor, predict_files
from deapcache.experiments.predict import boxes_in_image
from deapcache.extraction import ExtractionSettings, extract
from deapcache.locations import LocalLocation
from deapcache.probing import ProbeConfig, probe_backbone
from deapcache.regions import Region

TASKS = ("foreground", "boundaries", "segmentation", "depth", "detection", "discrimination")
WIDE = "wide-vit"
"""timm's smallest transformer, built for images of 96 × 160 pixels: a grid of 6 × 10."""
SIZE = (100, 130)
SEEN = {"squash": (0, 80), "crop": (1, 78)}
"""First of the columns that are seen, and how many."""


@pytest.fixture(scope="module", autouse=True)
def wide_backbone() -> Iterator[None]:
    """The wide backbone, registered as any package may do it."""
    torch.set_num_threads(1)
    entry = describe("timm:test_vit")
    made = replace(entry, name=WIDE, image_size=(96, 160), grid=(6, 10), arguments={"img_size": [96, 160]})
    BACKBONES.add(WIDE, made)
    yield
    del BACKBONES._entries[WIDE]


@pytest.fixture(scope="module", params=["squash", "crop"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """All kinds of task on base images of 100 × 130."""
    folder = tmp_path_factory.mktemp(request.param)
    return train(folder, TASKS, backbone=f"{WIDE}@untrained", iterations=4, base_size=SIZE, fit=request.param)


@pytest.fixture
def fit(trained: Trained) -> str:
    """How its images were brought to the base size."""
    return str(find_run(trained.home, "depth").recipe.base_fit)


def test_features_have_the_backbones_grid(trained: Trained) -> None:
    for entry in list_caches(trained.home, "features"):
        cache = entry.open()
        assert (cache.recipe["image_size"], cache.arrays["features"].item_shape) == ([96, 160], (6, 10, 64))
    assert {run.protocol.output_size for run in trained.runs.values()} == {SIZE}


@pytest.mark.parametrize("task", [task for task in TASKS if task != "discrimination"])
def test_it_says_what_the_probe_said(trained: Trained, fit: str, task: str) -> None:
    predictor = load_predictor(find_run(trained.home, trained.names[task]), device="cpu")
    for row, expected in enumerate(trained.runs[task].examples.predictions):
        (found,) = predictor(decode_image(trained.dataset.path("val", row)))
        if task == "detection":  # the probe's are fractions of what is seen
            left, width = SEEN[fit]
            found = found * (80 / width, 1, 80 / width, 1, 1) - (left / width, 0, 0, 0, 0)
            found[expected[:, 4] == 0] = 0
        np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6)


def test_an_embedding_has_the_size_asked_for(trained: Trained) -> None:
    predictor = load_predictor(find_run(trained.home, trained.names["discrimination"]), device="cpu")
    found = predictor(decode_image(trained.dataset.path("val", 0)), [SIZE, (33, 21)])
    assert [one.shape for one in found] == [(32, *SIZE), (32, 33, 21)]


@pytest.mark.parametrize("task", ["depth", "detection"])
def test_files_say_what_was_seen(trained: Trained, fit: str, task: str, tmp_path: Path) -> None:
    request = PredictRequest(
        images=[trained.dataset.path("val", 0)], out=LocalLocation(tmp_path), save_arrays=True, device="cpu"
    )
    (done,) = predict_files(find_run(trained.home, trained.names[task]), request)
    facts = json.loads(Path(str(done.facts)).read_text())
    left, width = SEEN[fit]
    assert facts["fit"] == fit
    assert facts["region"] == {"top": 0, "left": left, "height": 60, "width": width}
    assert facts["arrays"][0]["size"] == list(SIZE)


def test_boxes_in_a_crop_are_put_where_they_are_in_the_image() -> None:
    """A centre in the middle of the pixel in row 3 and column 6 of an 8 × 8 output of columns 100 to 300 of 400."""
    seen = Region(top=0, left=100, height=200, width=200)
    centre, size = (6.5 / 8, 3.5 / 8), (0.25, 0.5)
    box = (centre[0] - size[0] / 2, centre[1] - size[1] / 2, *size, 0.9)
    found = boxes_in_image(np.array([box, (0, 0, 0, 0, 0)]), seen, (200, 400))
    x, y, width, height = found[0, :4] * (400, 200, 400, 200)
    assert (x + width / 2, y + height / 2, width, height) == pytest.approx((262.5, 87.5, 50, 100))
    assert found[0, 4] == 0.9
    assert not found[1].any()


def test_native_images_are_cropped_to_the_backbones_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Photographs, "base_size", (48, 80))  # of the targets: 3 to 5, as 96 to 160
    trained = train(tmp_path, ["depth"], backbone=f"{WIDE}@untrained", iterations=2, base_size="native", fit="crop")
    run = find_run(trained.home, "depth")
    assert (run.recipe.base_size, run.recipe.base_fit) == ("native", "crop")
    assert not list_caches(trained.home, "images")
    assert {tuple(entry.recipe["size"]) for entry in list_caches(trained.home, "targets")} == {(48, 80)}
    predictor = load_predictor(run, device="cpu")
    image = decode_image(trained.dataset.path("val", 0))
    assert predictor.region(image) == Region(top=6, left=0, height=48, width=80)
    np.testing.assert_allclose(predictor(image)[0], trained.runs["depth"].examples.predictions[0], atol=2e-6)


def test_a_guided_readout_gets_the_images_of_its_fit(tmp_path: Path) -> None:
    upsampler = write_published(tmp_path / "some.ckpt", published_state(64))
    given = {"backbone": f"{WIDE}@untrained", "readout": "featup", "upsampler": upsampler, "iterations": 1}
    trained = train(tmp_path, ["depth"], fit="crop", **given)
    for _ in extract([given["backbone"]], trained.dataset, trained.home, settings=ExtractionSettings(device="cpu")):
        pass
    config = ProbeConfig(
        dataset="photographs", backbones=[given["backbone"]], tasks=["depth"], readouts=["featup"],
        iterations=1, batch_size=3, lrs=(0.01,), upsampler=upsampler, where={"fit": "crop"},
    )  # fmt: skip
    (again,) = probe_backbone(trained.home, config)
    assert again.scores == pytest.approx(trained.runs["depth"].scores)
    predictor = load_predictor(find_run(trained.home, trained.names["depth"]), device="cpu")
    (found,) = predictor(decode_image(trained.dataset.path("val", 0)))
    np.testing.assert_allclose(found, again.examples.predictions[0], atol=2e-5)
