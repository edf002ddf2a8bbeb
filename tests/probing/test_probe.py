"""Readouts learn from caches alone, each as if it were alone, and the run says what happened."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from deapcache_toys import COUNTS, add_features, probe, target_maps, volumes

from deapcache.cache import FeatureCache
from deapcache.errors import TrainingError, UsageError
from deapcache.probing import ProbeConfig, plan_runs, probe_backbone
from deapcache.probing.train import learning_rate_factor
from deapcache.readouts import build_readout
from deapcache.tasks import get_task
from deapcache.tasks.binary import logit_bins

TASKS = ("foreground", "segmentation", "depth")


@pytest.fixture(scope="module")
def learned(made_toys):
    """Three tasks probed for long enough to learn them."""
    seen = []
    runs = probe(made_toys, TASKS, iterations=300, lrs=(1e-2,), progress=seen.append)
    return {run.protocol.task: run for run in runs}, seen


def test_scores_beat_what_needs_no_image(learned) -> None:
    runs, _ = learned
    for name, metric, margin in (("foreground", "mean_iou", 0.2), ("segmentation", "mean_iou", 0.2)):
        assert runs[name].scores[metric] > runs[name].baseline_scores[metric] + margin
    assert runs["depth"].scores["rmse"] < 0.7 * runs["depth"].baseline_scores["rmse"]


def test_loss_falls(learned) -> None:
    for run in learned[0].values():
        assert len(run.loss_curve) <= 200
        iterations, losses = zip(*run.loss_curve, strict=True)
        assert iterations[-1] == 300
        assert list(iterations) == sorted(set(iterations))
        assert np.mean(losses[-20:]) < 0.7 * np.mean(losses[:20])


def test_statistics_give_the_scores_again(learned) -> None:
    for name, run in learned[0].items():
        assert all(len(values) == COUNTS["val"] for values in run.statistics.values())
        assert get_task(name).scores(run.statistics) == pytest.approx(run.scores)
        assert get_task(name).scores(run.baseline_statistics) == pytest.approx(run.baseline_scores)
        assert run.image_ids == tuple(f"val-{i}" for i in range(12))


def test_prior_is_scored_by_hand(learned) -> None:
    """Each metric's own: for the mean IoU the pixels that are foreground often enough, by the training images."""
    run = learned[0]["foreground"]
    train, val = (target_maps(split, "instances") != 0 for split in ("train", "val"))
    frequency = train.mean(0)

    def mean_iou(targets, frequent):
        hits, union = (targets & frequent).sum(), (targets | frequent).sum()
        neither, other_union = (~targets & ~frequent).sum(), (~targets | ~frequent).sum()
        return (hits / union + neither / other_union) / 2

    thresholds = [*np.unique(frequency), 2.0]
    best = max(thresholds, key=lambda least: mean_iou(train, frequency >= least))
    assert thresholds[0] < best < 0.5
    assert run.baseline_scores["mean_iou"] == pytest.approx(mean_iou(val, frequency >= best), abs=1e-6)
    rate = train.mean()
    odds = (train.sum(0) + (train.sum() + 0.5) / (train.size + 1)) / (len(train) + 1)
    loss = -np.where(val, np.log(odds), np.log(1 - odds)).mean()
    assert run.baseline_scores["cross_entropy"] == pytest.approx(loss, rel=1e-5)
    assert 0.2 < rate < 0.5


def rebuilt_outputs(run, split):
    """What the readout of a run, built again from its weights, gives for all images of a split."""
    about = run.build
    model = build_readout(
        about["name"],
        feature_dim=about["feature_dim"],
        out_channels=about["heads"][0],
        grid=tuple(about["grid"]),
        cnn_width=about["cnn_width"],
        seed=about["seed"],
        standardise=about["standardise"],
    )
    model.load_state_dict({key.removeprefix("0."): torch.from_numpy(value) for key, value in run.weights.items()})
    with torch.no_grad():
        return model(torch.from_numpy(volumes(split)).half().float(), run.protocol.output_size)


def test_a_threshold_is_fitted_on_each_readouts_own_training_images(toys) -> None:
    """Of tasks whose readouts are trained as one, the one that wants it gets it."""
    runs = probe(toys, ("foreground", "boundaries"), readouts=("linear", "deap"), iterations=40, lrs=(1e-2,))
    task = get_task("boundaries")
    fitted = []
    for run in (run for run in runs if run.protocol.task == "boundaries"):
        train, val = (
            task.target({"instances": torch.from_numpy(target_maps(split, "instances"))}) for split in ("train", "val")
        )
        bins = {split: logit_bins(rebuilt_outputs(run, split)[:, 0]) for split in ("train", "val")}

        def iou(target, predicted):
            return float((predicted & (target == 1)).sum() / (predicted | (target == 1)).sum())

        edge = max(range(513), key=lambda edge: iou(train, bins["train"] >= edge))
        fitted.append(edge)
        assert run.scores["iou_fitted"] == pytest.approx(iou(val, bins["val"] >= edge), abs=1e-3)
        assert run.scores["iou"] == pytest.approx(iou(val, bins["val"] >= 256), abs=1e-3)
        assert run.baseline_scores["iou_fitted"] == run.baseline_scores["iou"] > 0
        assert task.scores(run.baseline_statistics) == pytest.approx(run.baseline_scores)
        assert task.scores(run.statistics) == pytest.approx(run.scores)
        assert run.main_metric == "average_precision"
    assert len(set(fitted)) == 2
    assert all("iou_fitted" not in run.scores for run in runs if run.protocol.task == "foreground")


def test_weights_rebuild_the_predictions(learned) -> None:
    for name, run in learned[0].items():
        output = rebuilt_outputs(run, "val")[run.examples.rows]
        predictions = get_task(name).prediction(output).numpy()
        assert np.mean(np.abs(predictions - run.examples.predictions) < 1e-4) > 0.999


def test_examples_are_the_first_images(learned) -> None:
    for name, run in learned[0].items():
        (annotation,) = get_task(name).annotations
        assert run.examples.rows.tolist() == list(range(6))
        expected = target_maps("val", annotation)[:6]
        np.testing.assert_array_equal(run.examples.targets, expected if annotation != "instances" else expected != 0)


def test_the_run_says_what_happened(learned) -> None:
    run = learned[0]["segmentation"]
    assert run.classes == ("background", "chair", "table")
    assert run.build["heads"] == [3]
    assert len(run.sigma) == 8
    statistics = {"0.feature_mean", "0.feature_std"}
    assert run.parameters == sum(values.size for name, values in run.weights.items() if name not in statistics)
    assert np.allclose(run.weights["0.feature_mean"], volumes("train").mean((0, 1, 2)), atol=1e-4)
    assert np.allclose(run.weights["0.feature_std"], volumes("train").std((0, 1, 2)), atol=1e-4)
    assert (run.backbone_forwards, run.backbone_builds) == (0, 0)
    assert (run.train_images, run.readouts_sharing, run.residency, run.device) == (24, 3, "memory", "cpu")
    assert run.images_per_second == pytest.approx(300 * 8 / run.seconds["train"])
    assert set(run.caches) == {"train", "val", "train classes targets", "val classes targets"}
    assert run.protocol.optimiser["lr"] == 1e-2
    assert run.protocol.task_options["targets"] == {"classes": {"fit": "squash", "options": {}}}
    document = run.to_json()
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_progress_counts_iterations_and_images(learned) -> None:
    train = [event for event in learned[1] if event.stage == "train"]
    score = [event for event in learned[1] if event.stage == "score"]
    assert (train[-1].done, train[-1].total) == (300, 300)
    assert train[0].mean_loss is None
    assert train[-1].mean_loss < 1.0
    assert (score[-1].done, score[-1].total) == (12, 12)


def _same(one, other) -> bool:
    weights = all(np.array_equal(one.weights[name], other.weights[name]) for name in one.weights)
    statistics = all(np.array_equal(one.statistics[name], other.statistics[name]) for name in one.statistics)
    return weights and statistics and one.scores == other.scores and one.loss_curve == other.loss_curve


def _alike(one, other) -> bool:
    """Equal up to the rounding of a few steps: shared work is done in another order."""
    weights = all(np.allclose(one.weights[name], other.weights[name], atol=1e-4) for name in one.weights)
    scores = all(one.scores[name] == pytest.approx(other.scores[name], abs=1e-3) for name in one.scores)
    return weights and scores and np.allclose(one.loss_curve, other.loss_curve, atol=1e-4)


def test_sharing_a_pass_changes_nothing(toys) -> None:
    given = {"lrs": (1e-3,), "standardise": "cell"}
    shared = probe(toys, ("foreground", "depth"), readouts=["deap", "no-sigma"], seeds=[0, 1], **given)
    assert len(shared) == 8
    for run in shared:
        (alone,) = probe(toys, [run.protocol.task], readouts=[run.protocol.readout], seeds=[run.seed], **given)
        assert _alike(run, alone)
        assert run.protocol == alone.protocol
    assert not _alike(shared[0], shared[1]), "seeds must differ"


def test_tasks_of_different_length_share_a_pass(toys, monkeypatch) -> None:
    monkeypatch.setattr(type(get_task("foreground")), "iterations", 12)
    monkeypatch.setattr(type(get_task("depth")), "iterations", 5)
    shared = probe(toys, ("foreground", "depth"), iterations=None)
    assert [run.protocol.iterations for run in shared] == [12, 5]
    assert _same(shared[1], probe(toys, ("depth",), iterations=None)[0])


def test_memory_and_stream_give_the_same_run(toys) -> None:
    (memory,), (stream,) = (probe(toys, residency=residency) for residency in ("memory", "stream"))
    assert (memory.residency, stream.residency) == ("memory", "stream")
    assert _same(memory, stream)
    assert memory.protocol == stream.protocol


def test_order_seed_is_another_protocol_and_a_readout_seed_is_not(toys) -> None:
    (first,), (other_order,), (other_seed,) = probe(toys), probe(toys, order_seed=1), probe(toys, seeds=[5])
    assert first.protocol.digest != other_order.protocol.digest
    assert first.protocol.digest == other_seed.protocol.digest
    assert not _same(first, other_order)


def test_protocol_is_the_same_for_all_backbones(toys) -> None:
    for split in COUNTS:
        add_features(toys, split, backbone="other", storage="int8")
    (first,), (other,) = probe(toys), probe(toys, backbones=["other"])
    assert first.protocol == other.protocol
    assert first.caches["train"]["digest"] != other.caches["train"]["digest"]


def test_diverging_training_is_said(toys) -> None:
    with pytest.raises(
        TrainingError, match=r"foreground on toy with readout deap, seed 3: .* iteration \d+ of 60.*--lr"
    ):
        probe(toys, lrs=(1e30,), iterations=60, seeds=[3])


def test_backbone_forwards_are_counted_not_claimed(toys, monkeypatch) -> None:
    """A backbone that is run while probing shows up in the result."""
    counts = types.SimpleNamespace(forwards=100, builds=7)
    room = types.SimpleNamespace(forward_count=lambda: counts.forwards, build_count=lambda: counts.builds)
    monkeypatch.setitem(sys.modules, "deapcache.backbones", room)
    assert [(run.backbone_forwards, run.backbone_builds) for run in probe(toys, iterations=1)] == [(0, 0)]

    def sneak(event) -> None:
        counts.forwards += event.stage == "train"

    assert probe(toys, iterations=1, progress=sneak)[0].backbone_forwards == 1


def test_probing_loads_no_backbone_and_no_image_library(toys) -> None:
    code = f"""
import sys
from deapcache.locations import locate
from deapcache.probing import ProbeConfig, probe_backbone
config = ProbeConfig(dataset="toys", backbones=["toy"], tasks=["foreground"], iterations=2)
runs = list(probe_backbone(locate({str(toys)!r}), config))
loaded = {{name for name in sys.modules if name.split(".")[0] in ("timm", "open_clip", "PIL", "pycocotools")
          or name.startswith(("deapcache.backbones", "deapcache.datasets", "deapcache.extraction"))}}
print(runs[0].backbone_forwards, runs[0].backbone_builds, loaded)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0 0 set()\n"


def test_learning_rate_rises_then_falls_to_nothing() -> None:
    factors = [learning_rate_factor(i, 1000) for i in range(1000)]
    assert factors[0] == 1 / 50
    assert factors[49] == factors[50] == 1.0
    assert factors[525] == pytest.approx(0.5, abs=2e-3)
    assert factors[-1] < 1e-5
    assert math.isfinite(learning_rate_factor(0, 1))


def test_default_lengths() -> None:
    lengths = {task: get_task(task).iterations for task in ("boundaries", "foreground", "depth", "segmentation")}
    assert lengths == {"boundaries": 30_000, "foreground": 30_000, "depth": 10_000, "segmentation": 10_000}


def test_eight_readouts_read_every_volume_once_an_epoch(toys, monkeypatch) -> None:
    """Counted where the cache is asked, streaming: once for statistics, and three epochs, whatever the readouts."""
    asked: list[int] = []
    read = FeatureCache.read_features_async

    def counting(self, rows):
        if len(self) == COUNTS["train"]:
            asked.extend(int(row) for row in rows)
        return read(self, rows)

    monkeypatch.setattr(FeatureCache, "read_features_async", counting)
    runs = probe(toys, ("foreground", "depth"), seeds=[0, 1, 2, 3], iterations=9, lrs=(1e-3,), residency="stream")
    assert {run.readouts_sharing for run in runs} == {8}
    measured = 8  # one batch, to measure the cost of the readouts on
    assert len(asked) == 4 * COUNTS["train"] + measured
    assert set(np.bincount(asked)) <= {4, 5, 6}


def test_several_learning_rates_are_several_protocols_of_one_pass(toys) -> None:
    slow, fast = probe(toys, lrs=(1e-4, 1e-3))
    assert [run.protocol.optimiser["lr"] for run in (slow, fast)] == [1e-4, 1e-3]
    assert slow.protocol.digest != fast.protocol.digest
    assert slow.readouts_sharing == 2
    (alone,) = probe(toys, lrs=(1e-3,))
    np.testing.assert_allclose(fast.loss_curve, alone.loss_curve, atol=1e-3)
    assert not np.allclose(slow.loss_curve, alone.loss_curve, atol=1e-3)


def test_runs_are_known_before_they_are_trained_and_can_be_left_out(toys) -> None:
    asked = ProbeConfig(
        dataset="toys", backbones=["toy"], tasks=("foreground", "depth"), readouts=["deap", "linear"], seeds=(0, 1),
        iterations=5, batch_size=8,
    )  # fmt: skip
    planned = plan_runs(toys, asked)
    assert [(one.task, one.readout, one.seed) for one in planned] == [
        (task, readout, seed) for task in ("foreground", "depth") for readout in ("deap", "linear") for seed in (0, 1)
    ]
    runs = list(probe_backbone(toys, asked, skip=lambda one: one.readout == "linear"))
    kept = [one for one in planned if one.readout == "deap"]
    assert [run.protocol for run in runs] == [one.protocol for one in kept]
    for run, one in zip(runs, kept, strict=True):
        facts = run.to_json()
        assert one.to_json() == {name: facts[name] for name in one.to_json()}
    assert list(probe_backbone(toys, asked, skip=lambda _: True)) == []


def test_a_choice_of_a_task_is_part_of_the_protocol(toys) -> None:
    chosen = [{"depth": {"loss": name}} for name in ("silog", "l1")]
    (squared,), (absolute,) = (probe(toys, ("depth",), task_options=one) for one in chosen)
    assert squared.protocol == probe(toys, ("depth",))[0].protocol
    assert squared.protocol.digest != absolute.protocol.digest
    with pytest.raises(UsageError, match="crop"):
        probe(toys, ("depth",), task_options={"depth": {"crap": "eigen"}})


def test_an_upsampler_that_no_readout_takes_is_told(toys, tmp_path) -> None:
    with pytest.raises(UsageError, match="none of the readouts deap is built around one"):
        probe(toys, upsampler=tmp_path / "some.ckpt")


def test_a_task_that_the_dataset_does_not_suit(toys) -> None:
    with pytest.raises(UsageError, match=r"coco-stuff.*171"):
        probe(toys, ("coco-stuff",))
