"""Scores over label maps of their native size: outputs are resized to each, and scored one image at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from deapcache_toys import COUNTS, add_features, add_targets, probe, target_recipe, volumes
from sklearn.metrics import accuracy_score, log_loss

from deapcache.cache import ArraySpec, create_cache, targets_path
from deapcache.errors import UsageError
from deapcache.probing import ProbeConfig, plan_runs
from deapcache.readouts import restore_readout

GIVEN = {"iterations": 30, "lrs": (1e-2,), "readouts": ("linear",)}


def native(annotation: str, row: int) -> np.ndarray:
    """A label map of 70 × (80 + row) pixels, with details that no map of 56 × 56 pixels has."""
    generator = np.random.default_rng([row, len(annotation)])
    coarse = generator.integers(0, 3, (10, 8)).repeat(7, 0).repeat(11, 1)[:, : 80 + row % 8]
    maps = {"classes": coarse.astype(np.int16), "instances": coarse.astype(np.int32), "depth": 1.5 + coarse}
    maps["classes"][3:5, :20] = 255
    maps["depth"][:4] = 0
    return maps[annotation].astype(np.float32) if annotation == "depth" else maps[annotation]


def open_native(recipes, image_ids):
    assert image_ids == tuple(f"val-{i}" for i in range(COUNTS["val"]))
    assert all(recipe["annotations"] == "annotations of val" for recipe in recipes.values())
    return native


@pytest.fixture(scope="module")
def runs(made_toys):
    """Three tasks scored at native size."""
    found = probe(
        made_toys, ("segmentation", "foreground", "depth"), score_size="native", open_native=open_native, **GIVEN
    )
    return {run.task: run for run in found}


def outputs(run, shape: tuple[int, int] | None = None):
    """For each validation image what the trained readout gives, (C, height, width) at the native size."""
    about = run.build
    head = restore_readout(
        about["name"], feature_dim=about["feature_dim"], out_channels=about["heads"][0], grid=tuple(about["grid"]),
        standardise=about["standardise"], options=about["options"],
        state={key.removeprefix("0."): torch.from_numpy(value) for key, value in run.weights.items()},
    )  # fmt: skip
    features = torch.from_numpy(volumes("val")).half().float()
    with torch.no_grad():
        dense = head(features, (56, 56)).double()
    for row in range(COUNTS["val"]):
        yield row, F.interpolate(dense[row : row + 1], shape or native("depth", row).shape, mode="bilinear")[0].numpy()


def test_segmentation_as_scikit_learn_counts_it(runs) -> None:
    truth, shares = [], []
    for row, output in outputs(runs["segmentation"]):
        labels = native("classes", row)
        truth.append(labels[labels != 255])
        probability = np.exp(output - output.max(0)) / np.exp(output - output.max(0)).sum(0)
        shares.append(probability[:, labels != 255])
    labels, shares = np.concatenate(truth), np.concatenate(shares, 1)
    predicted, scores = shares.argmax(0), runs["segmentation"].scores
    iou = [((labels == c) & (predicted == c)).sum() / ((labels == c) | (predicted == c)).sum() for c in range(3)]
    assert scores["mean_iou"] == pytest.approx(np.mean(iou), abs=1e-4)
    assert scores["pixel_accuracy"] == pytest.approx(accuracy_score(labels, predicted), abs=1e-4)
    assert scores["cross_entropy"] == pytest.approx(log_loss(labels, shares.T, labels=[0, 1, 2]), rel=1e-4)
    assert runs["segmentation"].statistics["valid"].tolist() == [
        (native("classes", row) != 255).sum() for row in range(COUNTS["val"])
    ]


def test_depth_by_hand(runs) -> None:
    errors = []
    for row, output in outputs(runs["depth"]):
        metres = np.logaddexp(0, output[0]) if runs["depth"].build["task_options"].get("output") != "bins" else None
        known = native("depth", row) > 0
        errors.append((metres - native("depth", row))[known])
    assert runs["depth"].scores["rmse_pooled"] == pytest.approx(np.sqrt(np.mean(np.concatenate(errors) ** 2)), rel=1e-3)


def test_the_constant_baseline_is_scored_over_the_same_maps(runs) -> None:
    run = runs["foreground"]
    pixels = [native("instances", row).size for row in range(COUNTS["val"])]
    assert run.baseline_statistics["valid"].tolist() == pixels == run.statistics["valid"].tolist()
    assert run.examples.predictions.shape[1:] == (56, 56), "pictures stay at the output's size"


def test_it_is_another_protocol(made_toys, runs) -> None:
    (plain,) = plan_runs(made_toys, config("foreground", score_size="output"))
    (other,) = plan_runs(made_toys, config("foreground"))
    assert other.protocol.digest != plain.protocol.digest
    assert "score_size" not in plain.protocol.to_json()
    assert other.protocol.to_json()["score_size"] == "native"
    assert other.protocol.name.endswith("changed: lr, score_size")
    with pytest.raises(UsageError, match="need the dataset's files"):
        probe(made_toys, ("foreground",), score_size="native", **GIVEN)


def config(task: str, **changes) -> ProbeConfig:
    return ProbeConfig(
        **{"tasks": [task], "dataset": "toys", "backbones": ["toy"], "score_size": "native", **GIVEN, **changes}
    )


def test_tasks_and_fits_it_means_nothing_for_are_refused(made_toys, home) -> None:
    with pytest.raises(UsageError, match="task boundaries cannot be scored at native size"):
        plan_runs(made_toys, config("boundaries"))
    with pytest.raises(UsageError, match="choose one of output, native"):
        config("depth", score_size="full")
    for split in COUNTS:
        add_features(home, split, base_fit="crop")
        add_targets(home, split, "depth", fit="crop")
    with pytest.raises(UsageError, match="a part of the image"):
        plan_runs(home, config("depth"))


def test_normals_are_vectors_again_after_resizing(home) -> None:
    """The mean angle of a readout's vectors, brought to the size of each map and to length 1."""
    shape, size = (40, 50), (56, 56)

    def vectors(split: str, row: int, height: int, width: int) -> np.ndarray:
        coarse = np.random.default_rng([row, len(split)]).normal(size=(4, 4, 3))
        rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
        found = (coarse / np.linalg.norm(coarse, axis=-1, keepdims=True))[rows][:, columns]
        found[:3] = 0
        return found.astype(np.float32)

    for split, count in COUNTS.items():
        add_features(home, split)
        recipe = target_recipe(split, "normals")
        spec = ArraySpec(
            name="targets", dtype="float16", item_shape=(*size, 3), dimensions=("row", "column", "channel")
        )
        path, ids = targets_path("toys", split, "normals", recipe.digest), [f"{split}-{i}" for i in range(count)]
        cache = create_cache(home, path, recipe=recipe, arrays=(spec,), image_ids=ids)
        for k in range(cache.shard_count):
            cache.write_shard(
                k, {"targets": np.stack([vectors(split, row, *size) for row in cache.shard_rows(k)]).astype(np.float16)}
            )
    given = {"score_size": "native", "open_native": lambda *_: lambda _, row: vectors("val", row, *shape)}
    (run,) = probe(home, ["normals"], **given, **GIVEN)
    errors = []
    for row, output in outputs(run, shape):
        truth, unit = vectors("val", row, *shape), output / np.linalg.norm(output, axis=0)
        cosine = (unit.transpose(1, 2, 0) * truth).sum(-1)
        errors.append(np.degrees(np.arccos(cosine.clip(-1, 1)))[np.abs(truth).sum(-1) > 0])
    assert run.scores["angle"] == pytest.approx(np.concatenate(errors).mean(), rel=1e-3)
