"""Results as a probe would give them, made by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from deapcache.recipe import Protocol, digest_of

METRICS = {
    "iou": {"label": "IoU", "unit": "", "higher_is_better": True},
    "ce": {"label": "CE", "unit": "nats", "higher_is_better": False},
}


def make_facts(
    *,
    task: str = "boundaries",
    backbone: str = "tiny",
    readout: str = "deap",
    seed: int = 0,
    iou: float = 0.5,
    annotation: str = "instances",
    classes: tuple[str, ...] = (),
    storage: str = "float16",
    iterations: int = 100,
    sigma: tuple[float, ...] | None = (0.05, 0.1, 0.2, 0.5),
    size: tuple[int, int] = (32, 48),
) -> dict[str, Any]:
    """What ``ProbeRun.facts()`` gives."""
    protocol = Protocol(
        task=task,
        task_options={"targets": {"annotation": annotation}},
        dataset="coco",
        output_size=size,
        readout=readout,
        readout_options={"code_dim": 16},
        optimiser={"name": "AdamW", "lr": 1e-3},
        iterations=iterations,
        batch_size=4,
        order_seed=0,
        train_limit=None,
        val_limit=None,
    )
    features = {"backbone": backbone, "storage": storage}
    recipes = {split: {**features, "images": split} for split in ("train", "val")}
    recipes |= {f"{split} targets": {"annotation": annotation, "images": split} for split in ("train", "val")}
    return {
        "protocol": protocol.to_json(),
        "protocol_digest": protocol.digest,
        "seed": seed,
        "backbone": backbone,
        "caches": {
            name: {"path": f"somewhere/{name}", "digest": digest_of(recipe), "recipe": recipe}
            for name, recipe in recipes.items()
        },
        "classes": list(classes),
        "readout": {
            "name": readout,
            "options": {},
            "feature_dim": 6,
            "out_channels": 1,
            "grid": [3, 3],
            "cnn_width": None,
            "seed": seed,
            "output_size": list(size),
            "classes": [],
        },
        "scores": {"iou": iou, "ce": 0.3},
        "prior": {"iou": 0.1, "ce": 0.7},
        "metrics": METRICS,
        "main_metric": "iou",
        "train_images": 20,
        "val_images": 3,
        "loss_curve": [[50, 0.6], [100, 0.4]],
        "sigma": None if sigma is None else list(sigma),
        "parameters": 43264,
        "seconds": {"train": 1.0, "score": 0.1},
        "readouts_sharing": 1,
        "images_per_second": 400.0,
        "device": "cpu",
        "residency": "memory",
        "backbone_forwards": 0,
        "backbone_builds": 0,
    }


@pytest.fixture
def facts() -> Callable[..., dict[str, Any]]:
    """Facts of one run, with the named parts changed."""
    return make_facts


@pytest.fixture
def arrays() -> dict[str, Any]:
    """The arrays that belong to a run of three images."""
    return {
        "statistics": {"hits": np.arange(3), "confusion": np.arange(12.0).reshape(3, 2, 2)},
        "prior_statistics": {"hits": np.zeros(3, np.int64)},
        "image_ids": ["1", "äb", "3"],
        "weights": {"a.weight": np.float32([[1, 2], [3, 4]]), "a.bias": np.float32([5])},
    }
