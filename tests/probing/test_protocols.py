"""Named protocols, and learning rates that are chosen on a part of the training images alone."""

from __future__ import annotations

from dataclasses import replace

import deapcache_toys as toys
import numpy as np
import pytest
import torch
from deapcache_toys import COUNTS, DIM, GRID, add_targets, feature_recipe, probe, volumes

from deapcache.cache import create_cache, encode_features, feature_arrays, features_path
from deapcache.errors import TrainingError, UnknownNameError, UsageError
from deapcache.locations import LocalLocation
from deapcache.probing import ProbeConfig, plan_runs
from deapcache.protocols import PROTOCOLS, Selection

FROZEN = {
    "deapcache-2": "ba66cc50466db5cd25bf8d38bd761012074a9fa7fbaded366522d76ba1d22dbf",
    "paper": "0b3aec3f7d61e96f56a0c1d5d2a2f07a1dba50e0340b7434db2d5ce6bccd0535",
    "dinov2-linear": "e4628a1a37ef7308ced10c3dcf57a0769fd0de3f0b1e7331a53ea76ae5490b8f",
    "dinov3-linear": "95d6ae4fd169ca7bf55513f84f7298c8d31fdcfaff77e92e2ebd6ffdddbe5c49",
    "probe3d": "ab5d4b28949fd0d8b2fb57183a1a3faaf3f3089025e5f5113be7442ce8a1d0b7",
}


def make_home(folder, *, spoil=lambda split, made: made) -> LocalLocation:
    """The toys' caches, with features that ``spoil`` changes."""
    home = LocalLocation(folder)
    for split in ("train", "val"):
        made = spoil(split, volumes(split))
        recipe, ids = feature_recipe(split, storage="float32"), [f"{split}-{i}" for i in range(COUNTS[split])]
        path = features_path("toys", split, recipe.backbone, recipe.digest)
        arrays = feature_arrays("float32", (GRID, GRID), made.shape[-1])
        cache = create_cache(home, path, recipe=recipe, arrays=arrays, image_ids=ids)
        toys._fill(cache, encode_features(made, "float32", ids), None)
        add_targets(home, split, "instances")
    return home


def test_published_protocols_never_change() -> None:
    assert {name: named.digest for name, named in PROTOCOLS.items()} == FROZEN


def test_a_result_says_its_protocol_by_name_and_digest(made_toys) -> None:
    def names(**given: object) -> list[str]:
        config = ProbeConfig(dataset="toys", backbones=["toy"], tasks=["depth"], **given)
        return [run.protocol.name for run in plan_runs(made_toys, config)]

    assert names() == ["deapcache-2"]
    assert names(protocol="paper") == names(protocol="paper", lrs=(1e-3,)) == ["paper"]
    assert names(lrs=(1e-3, 1e-2)) == ["deapcache-2, changed: lr"] * 2
    assert names(protocol="paper", select=True) == ["paper, changed: select"]
    assert names(standardise="cell") == ["deapcache-2, changed: standardise"]
    assert names(task_options={"depth": {"loss": "l1"}}) == ["deapcache-2, changed: loss"]
    (run,) = plan_runs(made_toys, ProbeConfig(dataset="toys", backbones=["toy"], tasks=["depth"]))
    assert run.protocol.name_digest == PROTOCOLS["deapcache-2"].digest
    assert run.protocol.selection["lrs"] == Selection().lrs


def test_the_choice_never_sees_validation_images(tmp_path) -> None:
    """Features and targets of val are others: what was tried, chosen and learnt stays, and the scores do not."""
    whole = make_home(tmp_path / "whole")
    poisoned = make_home(tmp_path / "poisoned", spoil=lambda split, made: made if split == "train" else -100 * made)
    (one,), (other,) = probe(whole), probe(poisoned)
    assert one.selection == other.selection
    assert [one["score"] for one in one.selection["candidates"]] != [None] * 5
    assert all(np.array_equal(one.weights[name], other.weights[name]) for name in one.weights)
    assert one.scores != other.scores


def test_the_chosen_rate_trains_on_all_of_train_as_if_it_were_given(made_toys) -> None:
    (chosen,) = probe(made_toys, seeds=[3])
    assert (chosen.selection["fraction"], chosen.loss_curve[-1][0]) == (1, 20)
    (given,) = probe(made_toys, seeds=[3], lrs=(chosen.selection["lr"],))
    assert chosen.scores == pytest.approx(given.scores)
    assert chosen.train_images == COUNTS["train"]
    scores = {one["lr"]: one["score"] for one in chosen.selection["candidates"]}
    assert chosen.selection["lr"] <= max(scores, key=scores.__getitem__)
    assert chosen.selection["range"] == max(scores.values()) - min(scores.values())
    assert given.selection == {}


def tell_nothing(split: str, made: np.ndarray) -> np.ndarray:
    """Many channels of noise: the longer a readout trains, the more of them it has learnt."""
    return np.random.default_rng(7).normal(size=(*made.shape[:3], 300)).astype(np.float32)


def test_fewer_steps_where_more_are_worse_on_images_held_out(tmp_path) -> None:
    home = make_home(tmp_path, spoil=tell_nothing)
    for split in ("train", "val"):
        add_targets(home, split, "depth")
    (run,) = probe(home, ["depth"], readouts=["linear"], iterations=100)
    selection = run.selection
    (short,) = (one["score"] for one in selection["candidates"] if one["lr"] == selection["lr"])
    assert selection["longer"]["fraction"] == 0.5
    assert selection["longer"]["score"] < short - selection["longer"]["error"]
    assert (selection["fraction"], run.loss_curve[-1][0]) == (0.2, 20)
    lr = (selection["lr"],)
    few, many = (probe(home, ["depth"], readouts=["linear"], iterations=n, lrs=lr)[0].scores for n in (20, 100))
    assert run.scores == pytest.approx(few)
    assert few["rmse"] < many["rmse"]


def test_cross_entropy_decides_on_the_steps_where_the_score_does_not(tmp_path) -> None:
    home = make_home(tmp_path, spoil=tell_nothing)
    (run,) = probe(home, ["foreground"], iterations=100)
    selection, longer = run.selection, run.selection["longer"]
    (short,) = (one["score"] for one in selection["candidates"] if one["lr"] == selection["lr"])
    assert abs(longer["score"] - short) <= longer["error"]
    assert longer["cross_entropy_gain"] < -longer["cross_entropy_error"]
    assert (selection["fraction"], run.loss_curve[-1][0]) == (0.2, 20)
    lr = (selection["lr"],)
    few, many = (probe(home, ["foreground"], iterations=n, lrs=lr)[0].scores for n in (20, 100))
    assert run.scores == pytest.approx(few)
    assert few["cross_entropy"] < many["cross_entropy"]


def test_trials_score_what_they_would_alone_and_the_best_is_chosen(tmp_path, monkeypatch) -> None:
    """The held-out tenth as a split of its own gives the scores of all trials, and a jackknife their differences."""
    from deapcache.probing.batches import BatchStream, image_order
    from deapcache.probing.evaluate import Scorer
    from deapcache.probing.probe import _Probe
    from deapcache.probing.train import ReadoutTrainer, StackedGroup

    lrs = (1e-3, 1e-2, 2e-2, 3e-2)
    monkeypatch.setattr("deapcache.probing.config.ProbeConfig.selection", Selection(lrs=lrs))
    home = make_home(tmp_path)
    (run,) = probe(home, iterations=40, standardise="cell")
    held = np.sort(np.random.default_rng(0).permutation(COUNTS["train"])[:2])
    assert run.selection["images"] == len(held)
    config = ProbeConfig(dataset="toys", backbones=["toy"], tasks=["foreground"], standardise="cell")
    probing, rows = _Probe(home, config), np.arange(COUNTS["train"])
    stream = BatchStream(probing._train, "stream", torch.device("cpu"))

    def statistics(lr: float, iterations: int) -> dict[str, np.ndarray]:
        spec = replace(probing._specs["foreground"], iterations=iterations)
        bias = spec.prepare(stream, rows, 32)
        group = StackedGroup([ReadoutTrainer(spec, "deap", seed=0, lr=lr, output_bias=bias)], 1e-4)
        for batch in stream.batches(image_order(0, np.setdiff1d(rows, held), iterations=iterations, batch_size=8)):
            group.step(batch.features.float(), None, {"foreground": spec.task.target(batch.maps)})
        scorer = Scorer(spec.task, len(held))
        (batch,) = stream.batches([held])
        with torch.no_grad():
            scorer.add(group.outputs(batch.features.float(), None)[0], spec.task.target(batch.maps), held)
        return scorer.statistics

    def mean_iou(of: dict[str, np.ndarray], images: list[int]) -> float:
        task = probing._specs["foreground"].task
        return task.scores({name: values[images] for name, values in of.items()})["mean_iou"]

    def error(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
        # Efron's jackknife of n = 2: the square root of (n - 1) / n times the sum of squares about their mean
        without = [mean_iou(one, [image]) - mean_iou(other, [image]) for image in (0, 1)]
        return abs(without[0] - without[1]) / 2

    short = {lr: statistics(lr, 8) for lr in lrs}
    scores = {lr: mean_iou(of, [0, 1]) for lr, of in short.items()}
    found = {one["lr"]: one["score"] for one in run.selection["candidates"]}
    assert found == pytest.approx(scores, abs=1e-6)
    lr = run.selection["lr"]
    assert lr == max(scores, key=scores.__getitem__)
    long = statistics(lr, 20)
    assert run.selection["longer"]["score"] == pytest.approx(mean_iou(long, [0, 1]), abs=1e-6)
    assert run.selection["longer"]["error"] == pytest.approx(error(long, short[lr]), abs=1e-6)


def test_the_choice_depends_on_nothing_beside_it(made_toys) -> None:
    (alone,) = probe(made_toys, readouts=["linear"])
    among = probe(made_toys, ("depth", "foreground"), readouts=["deap", "linear"], seeds=[5, 6])
    same = [run for run in among if (run.task, run.readout) == ("foreground", "linear")]
    assert len(same) == 2
    for run in same:
        assert run.selection["lr"] == alone.selection["lr"]
        scores = [[each["score"] for each in one.selection["candidates"]] for one in (run, alone)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_constant_and_outlier_channels_move_no_score(tmp_path) -> None:
    """Two channels without information, one constant, one of 60 standard deviations that is the same everywhere."""

    def add_channels(split: str, made: np.ndarray) -> np.ndarray:
        wide = np.random.default_rng(9).normal(0, 0.05, made.shape[:3]) + 60
        return np.concatenate([made, np.full_like(made[..., :1], 60), wide[..., None].astype(np.float32)], -1)

    plain, spoilt = make_home(tmp_path / "plain"), make_home(tmp_path / "spoilt", spoil=add_channels)
    options = {"readouts": ["deap", "linear"], "seeds": [0, 1, 2], "iterations": 150, "lrs": (1e-2,)}
    for name in ("deap", "linear"):
        mine, theirs = (
            np.array([run.scores["mean_iou"] for run in probe(home, **options) if run.readout == name])
            for home in (plain, spoilt)
        )
        assert abs(mine.mean() - theirs.mean()) < max(0.02, mine.std(ddof=1) + theirs.std(ddof=1))
    (ratio,) = {run.features["outlier_ratio"] for run in probe(spoilt, iterations=1, lrs=(1e-3,))}
    assert ratio == pytest.approx(60 / np.sqrt((2 * 3600 + DIM) / (DIM + 2)), rel=0.01)


def test_what_cannot_be_chosen_is_one_line(made_toys) -> None:
    with pytest.raises(UnknownNameError, match="unknown protocol 'papr': expected one of deapcache-2, paper"):
        ProbeConfig(protocol="papr")
    with pytest.raises(UsageError, match=r"lr 0.001 is given, and a choice of the rate asked for: leave out one"):
        ProbeConfig(lrs=(1e-3,), select=True)
    with pytest.raises(UsageError, match="standardisation of features 'rows': choose one of cell, channel"):
        ProbeConfig(standardise="rows")
    with pytest.raises(UsageError, match="there is one image: train on more, or give the rate with --lr"):
        probe(made_toys, train_limit=1)


def test_rates_at_which_training_diverges_lose(made_toys, monkeypatch) -> None:
    monkeypatch.setattr("deapcache.probing.config.ProbeConfig.selection", Selection(lrs=(1e-2, 1e18)))
    (run,) = probe(made_toys)
    assert run.selection["lr"] == 1e-2
    assert run.selection["candidates"][1] == {"lr": 1e18, "score": None}
    monkeypatch.setattr("deapcache.probing.config.ProbeConfig.selection", Selection(lrs=(1e18, 1e19)))
    with pytest.raises(TrainingError, match="try a smaller learning rate"):
        probe(made_toys)
