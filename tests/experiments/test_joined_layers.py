"""Layers of a real vision transformer, from a pipeline to a readout that is asked about an image file."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import deapcache
from deapcache.cache import FeatureCache, list_caches
from deapcache.datasets import open_dataset
from deapcache.experiments import (
    find_run,
    load_pipeline,
    load_predictor,
    plan_pipeline,
    run_pipeline,
)
from deapcache.locations import LocalLocation

VIT = "timm:test_vit@untrained"
PIPELINE = f"""
backbones: [{VIT}]
readouts: [linear, deap]
iterations: 3
batch_size: 4
lr: 0.01
probes:
  - {{tasks: [foreground], dataset: coco, layers: [last, 2, 4]}}
  - {{tasks: [foreground], dataset: coco, readouts: [linear]}}
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory, write_coco):
    """(home, dataset, results) of the pipeline."""
    folder = tmp_path_factory.mktemp("layers")
    (folder / "home").mkdir()
    (folder / "layers.yaml").write_text(PIPELINE)
    home, root = LocalLocation(folder / "home"), write_coco(folder / "data", train=6, val=3)
    plan = plan_pipeline(load_pipeline(str(folder / "layers.yaml")), home, root, device="cpu")
    outcome = run_pipeline(plan)
    again = plan_pipeline(load_pipeline(str(folder / "layers.yaml")), home, root, device="cpu")
    assert (outcome.failures, outcome.missing, again.missing, again.forwards) == ([], 0, 0, 0)
    return (
        home,
        open_dataset("coco", root),
        {(result.readout, len(result.caches)): result for result in outcome.results},
    )


def test_a_pipeline_extracts_the_layers_once_and_reads_them(done) -> None:
    home, _, results = done
    layers = {(entry.split, entry.recipe["layer"]) for entry in list_caches(home, "features")}
    assert layers == {(split, layer) for split in ("train", "val") for layer in ("2", "4", "last")}
    assert len(results) == 3
    joined, alone = results["linear", 8], results["linear", 4]
    assert joined.build["parts"] == [64, 64, 64]
    assert joined.parameters == 3 * (alone.parameters - 1) + 1
    assert alone.caches["train"]["recipe"]["layer"] == "last"
    table = repr(deapcache.load_results(home=home.path))
    assert f"{VIT} · layers 2+4+last" in table


def cached(home, split: str, row: int) -> torch.Tensor:
    """(1, H, W, 192) float32 of an image."""
    found = {e.recipe["layer"]: e.open() for e in list_caches(home, "features") if e.split == split}
    parts = [
        found[layer].read_features([row]) for layer in ("2", "4", "last") if isinstance(found[layer], FeatureCache)
    ]
    return torch.from_numpy(np.concatenate(parts, -1)).float()


@pytest.mark.parametrize("readout", ["linear", "deap"])
def test_a_readout_says_of_a_file_what_it_says_of_its_cached_features(done, readout) -> None:
    home, dataset, results = done
    run = find_run(home, results[readout, 8].run)
    predictor = load_predictor(run, device="cpu")
    assert predictor.backbone.selection.layers == ("2", "4", "last")
    (found,) = predictor(dataset.read_image("val", 1))
    (head,) = run.readouts.build()
    with torch.no_grad():
        expected = predictor.task.prediction(head(cached(home, "val", 1), run.readouts.output_size))[0]
    np.testing.assert_allclose(found, expected, atol=2e-4)
