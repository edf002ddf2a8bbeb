"""Results as a probe would give them, made by hand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np

from deapcache.locations import Location
from deapcache.recipe import Protocol, digest_of
from deapcache.results import Result, save_run, table_rows
from deapcache.results.record import make_result
from deapcache.tasks import TASKS, get_task

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
    dataset: str = "coco",
    lr: float = 1e-3,
    images: tuple[int, int] = (20, 3),
    limit: int | None = None,
    scores: dict[str, float] | None = None,
    metrics: dict[str, dict[str, Any]] = METRICS,
    cost: dict[str, float] | None = None,
    layer: str = "last",
    tokens: str = "none",
) -> dict[str, Any]:
    """What ``ProbeResult.to_json()`` gives; the main metric is the first of ``metrics``."""
    protocol = Protocol(
        task=task,
        task_options={"targets": {"annotation": annotation}},
        dataset=dataset,
        output_size=size,
        readout=readout,
        readout_options={"code_dim": 16},
        optimiser={"name": "AdamW", "lr": lr},
        iterations=iterations,
        batch_size=4,
        order_seed=0,
        train_limit=limit,
        val_limit=None,
    )
    features = {"backbone": backbone, "storage": storage}
    features |= {} if layer == "last" else {"layer": layer}
    features |= {} if tokens == "none" else {"tokens": tokens}
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
            "heads": [1],
            "grid": [3, 3],
            "cnn_width": None,
            "seed": seed,
            "output_size": list(size),
            "classes": [],
        },
        "scores": scores or {"iou": iou, "ce": 0.3},
        "prior": dict.fromkeys(scores, 0.1) if scores else {"iou": 0.1, "ce": 0.7},
        "metrics": metrics,
        "main_metric": next(iter(metrics)),
        "train_images": images[0],
        "val_images": images[1],
        "loss_curve": [[50, 0.6], [100, 0.4]],
        "sigma": None if sigma is None else list(sigma),
        "parameters": 43264,
        "seconds": {"train": 1.0, "score": 0.1},
        **({} if cost is None else {"cost": cost}),
        "readouts_sharing": 1,
        "images_per_second": 400.0,
        "device": "cpu",
        "residency": "memory",
        "backbone_forwards": 0,
        "backbone_builds": 0,
    }


_IMAGES, _PIXELS = 6, 100


def save_depth(home: Location, seed: int = 0, *, further: float = 0.0, **changes: Any) -> Result:
    """Save a run of MAE's depth on the paper's data, with statistics of six images that give its score.

    The RMSE of each image is drawn by ``seed``, and ``further`` metres more.
    """
    errors = np.random.default_rng(seed).random(_IMAGES) + further
    statistics = {"known": np.full(_IMAGES, _PIXELS), "squares": _PIXELS * errors**2}
    statistics |= {name: np.zeros(_IMAGES) for name in ("relative", "decades", "logs", "log_squares")}
    statistics |= {f"delta{n}": np.zeros(_IMAGES, np.int64) for n in (1, 2, 3)}
    facts = make_facts(
        task="depth",
        dataset="nyuv2",
        backbone="mae",
        images=(795, 654),
        size=(216, 288),
        metrics={"rmse": {"label": "RMSE", "unit": "m", "higher_is_better": False}},
        scores={"rmse": float(errors.mean())},
        seed=seed,
        **changes,
    )
    return save_run(
        home,
        facts,
        statistics=statistics,
        prior_statistics=statistics,
        image_ids=[str(number) for number in range(_IMAGES)],
        weights={"a": np.ones(1)},
    )


def save_each_task(home: Location) -> None:
    """Save a run of every task, with statistics of four made-up images that give its scores."""
    import torch

    from deapcache.experiments.speed import synthetic_targets
    from deapcache.probing import TaskSpec

    draw, rows, size = torch.Generator().manual_seed(0), np.arange(4), (16, 24)
    for name in TASKS.names():
        task, count = get_task(name), {"voc": 21, "coco-stuff": 171, "segmentation": 3}.get(name, 0)
        classes = tuple(map(str, range(count)))
        spec = TaskSpec(
            task=task, backbone="mae", classes=classes, output_size=size, grid=(2, 3), feature_dim=8, iterations=1
        )
        maps = {kind: synthetic_targets(kind, spec, len(rows)) for kind in task.annotations}
        output = torch.randn(len(rows), sum(task.heads(classes)), *size, generator=draw)
        statistics = {key: array.numpy() for key, array in task.statistics(output, task.target(maps)).items()}
        statistics |= task.fitted_statistics(statistics, statistics)
        scores, names = task.scores(statistics), sorted(task.metrics, key=lambda metric: metric != task.main_metric)
        facts = make_facts(
            task=name,
            dataset=task.default_dataset,
            backbone="mae",
            classes=classes,
            size=size,
            metrics={metric: asdict(task.metrics[metric]) for metric in names},
            scores={metric: scores[metric] for metric in names},
        )
        save_run(
            home,
            facts,
            statistics=statistics,
            prior_statistics=statistics,
            image_ids=[str(row) for row in rows],
            weights={"a": np.ones(1)},
        )


def make_selected(lr: float | str, **changes: Any) -> Result:
    """A result of a named protocol whose rate was chosen; ``lr`` "none": of a readout that is not trained."""
    made = make_facts(**changes)
    optimiser = {**made["protocol"]["optimiser"], "lr": "selected" if lr != "none" else lr}
    made["protocol"] |= {"optimiser": optimiser, "name": "deapcache-2"}
    made["protocol_digest"] = Protocol.from_json(made["protocol"]).digest
    scores = [{"lr": 1e-3, "score": 0.1}, {"lr": 1e-2, "score": 0.35}, {"lr": 3e-2, "score": None}]
    chosen = {"lr": lr, "metric": "iou", "images": 24, "candidates": scores, "range": 0.25}
    return make_result(made | ({"selection": chosen} if lr != "none" else {}) | {"features": {"outlier_ratio": 3.5}})


def main_rows(results: Iterable[Result], **options: Any) -> list[Any]:
    """The rows of ``table_rows``, each by the line of its main metric."""
    rows = table_rows(results, **options)
    return list(rows[rows["is_main"]].itertuples())
