"""Features of several layers of one backbone are read as one volume, joined along channels."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from deapcache_toys import COUNTS, DIM, GRID, add_features, feature_recipe, probe, volumes

from deapcache.cache import create_cache, encode_features, feature_arrays, features_path
from deapcache.cache.features import encode_cls
from deapcache.errors import CacheMissError, UsageError
from deapcache.probing import ProbeConfig, plan_runs
from deapcache.probing.batches import BatchStream, channel_statistics
from deapcache.probing.caches import open_caches
from deapcache.readouts import blank_readout
from deapcache.results import save_run
from deapcache.results.frame import display_name, layer_of
from deapcache.results.leaderboard.reproduce import reproduce_commands
from deapcache.results.record import load_readout_file, run_id

SPLITS = tuple(COUNTS)


def noise(split: str, layer: str, grid: int = GRID, dim: int = 5) -> np.ndarray:
    """(n, grid, grid, dim) float32: says nothing of the answers."""
    seed = [int(layer), SPLITS.index(split)]
    return np.random.default_rng(seed).normal(3, 20, (COUNTS[split], grid, grid, dim)).astype(np.float32)


def add_layer(home, layer: str, grid: int = GRID, **changes) -> None:
    for split in SPLITS:
        recipe, ids = feature_recipe(split, layer=layer, **changes), [f"{split}-{i}" for i in range(COUNTS[split])]
        cache = create_cache(
            home,
            features_path("toys", split, "toy", recipe.digest),
            recipe=recipe,
            arrays=feature_arrays(recipe.storage, (grid, grid), 5),
            image_ids=ids,
        )
        stored = encode_features(noise(split, layer, grid), recipe.storage, ids)
        for k in range(cache.shard_count):
            rows = cache.shard_rows(k)
            cache.write_shard(k, {name: values[rows.start : rows.stop] for name, values in stored.items()})


@pytest.fixture
def layered(toys):
    """The toys, whose own features are the last layer, with layers 3 and 6 of noise."""
    for layer in ("3", "6"):
        add_layer(toys, layer)
    return toys


def config(**changes) -> ProbeConfig:
    return ProbeConfig(
        **{"tasks": ["depth"], "dataset": "toys", "backbones": ["toy"], "layers": ["3", "last"], **changes}
    )


@pytest.mark.parametrize("residency", ["memory", "stream"])
def test_batches_hold_the_layers_side_by_side_in_order_of_depth(layered, residency) -> None:
    train, val = open_caches(layered, config(layers=("last", 6, "3"), train_limit=20), ("depth",))
    assert (train.features.dim, train.parts, train.features.grid) == (DIM + 10, (5, 5, DIM), (GRID, GRID))
    expected = np.concatenate([noise("train", "3"), noise("train", "6"), volumes("train")], -1).astype(np.float16)
    stream = BatchStream(train, residency, torch.device("cpu"))
    for rows, batch in zip(
        [np.array([3, 17, 4]), np.array([0])], stream.batches([np.array([3, 17, 4]), np.array([0])]), strict=True
    ):
        np.testing.assert_array_equal(batch.features.numpy(), expected[rows])
    mean, std = channel_statistics(stream, train.rows, 8)
    cells = expected[:20].reshape(-1, DIM + 10).astype(np.float64)
    np.testing.assert_allclose(mean, cells.mean(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(std, cells.std(0), rtol=1e-5)
    assert val.features.image_ids == tuple(f"val-{i}" for i in range(COUNTS["val"]))


def test_class_tokens_stand_beside_the_features_of_their_layer_in_every_cell(toys) -> None:
    """Of caches that keep them, as `--where tokens=cls` chooses; the others' features are alone."""
    tokens = {}
    for split, layer in product(SPLITS, ("3", "6")):
        recipe, ids = feature_recipe(split, layer=layer, tokens="cls"), [f"{split}-{i}" for i in range(COUNTS[split])]
        cache = create_cache(
            toys,
            features_path("toys", split, "toy", recipe.digest),
            recipe=recipe,
            arrays=feature_arrays(recipe.storage, (GRID, GRID), 5, cls=True),
            image_ids=ids,
        )
        tokens[split, layer] = np.random.default_rng(int(layer)).normal(size=(COUNTS[split], 5)).astype(np.float32)
        stored = encode_features(noise(split, layer), recipe.storage, ids)
        stored |= encode_cls(tokens[split, layer], recipe.storage, ids)
        for k in range(cache.shard_count):
            rows = cache.shard_rows(k)
            cache.write_shard(k, {name: values[rows.start : rows.stop] for name, values in stored.items()})
    train, _ = open_caches(toys, config(layers=("3", "6"), where={"tokens": "cls"}), ("depth",))
    assert (train.features.dim, train.parts) == (20, (10, 10))
    rows = np.array([3, 17, 4])
    (batch,) = BatchStream(train, "stream", torch.device("cpu")).batches([rows])
    for part, layer in zip(batch.features.split(10, -1), ("3", "6"), strict=True):
        np.testing.assert_array_equal(part[..., :5].numpy(), noise("train", layer)[rows].astype(np.float16))
        for row, column in ((0, 0), (6, 2)):
            expected = tokens["train", layer][rows].astype(np.float16)
            np.testing.assert_array_equal(part[:, row, column, 5:].numpy(), expected)


def test_readouts_learn_from_them_and_are_built_again(layered) -> None:
    given = {"iterations": 150, "lrs": (1e-2,), "readouts": ("linear", "deap")}
    joined = probe(layered, ["depth"], layers=("3", "last"), **given)
    alone = probe(layered, ["depth"], where={"layer": "3"}, **given)
    for both, one in zip(joined, alone, strict=True):
        assert both.scores["rmse"] < 0.8 * one.scores["rmse"]  # layer 3 is noise
        assert both.build["feature_dim"] == DIM + 5
        assert both.build["parts"] == [5, DIM]
        assert "parts" not in one.build
    linear = joined[0]
    assert linear.parameters == DIM + 5 + 1
    result = save_run(
        layered,
        linear.to_json(),
        statistics=linear.statistics,
        prior_statistics=linear.baseline_statistics,
        image_ids=linear.image_ids,
        weights=linear.weights,
    )
    (head,) = load_readout_file(layered, result.run).build()
    features = np.concatenate([noise("val", "3"), volumes("val")], -1).astype(np.float16)[:6]
    with torch.no_grad():
        output = head(torch.from_numpy(features), (56, 56))
    from deapcache.tasks import get_task

    np.testing.assert_allclose(get_task("depth").prediction(output), linear.examples.predictions, atol=2e-5)


def test_results_name_every_cache_and_the_row(layered) -> None:
    (plain,) = plan_runs(layered, config(layers=(), where={"layer": "3"}))
    (two,) = plan_runs(layered, config())
    (three,) = plan_runs(layered, config(layers=("3", "6", "last")))
    assert len({run_id(run.to_json()) for run in (plain, two, three)}) == 3
    assert [name for name in three.caches if "targets" not in name] == [
        *("train", "val", "train layer 6", "val layer 6", "train layer last", "val layer last")
    ]
    assert two.caches["train"] == plain.caches["train"]
    assert plain.protocol == two.protocol
    (run,) = probe(layered, ["depth"], layers=("3", "6", "last"), iterations=2, lrs=(1e-3,))
    result = save_run(
        layered, run.to_json(), statistics=run.statistics, prior_statistics=run.baseline_statistics,
        image_ids=run.image_ids, weights=run.weights,
    )  # fmt: skip
    assert display_name(result) == "toy · layers 3+6+last"
    assert layer_of(result) == "3+6+last"
    commands = reproduce_commands(result)
    assert all("--layers 3,6,last" in command for command in commands)
    assert all("layer=" not in command for command in commands)


@pytest.mark.parametrize("standardise", ["cell", "channel"])
@pytest.mark.parametrize("name", ["linear", "deap", "bicubic"])
def test_per_cell_each_layer_is_standardised_by_itself(name, standardise) -> None:
    """A layer of large scale changes nothing of another's share."""
    torch.manual_seed(0)
    small, large = torch.randn(2, 4, 4, 8), 1000 * torch.randn(2, 4, 4, 8)
    readout = blank_readout(name, feature_dim=16, out_channels=3, grid=(4, 4), standardise=standardise, parts=(8, 8))
    if standardise == "channel":
        both = torch.cat([small, large], -1).flatten(0, 2)
        readout.set_feature_statistics(both.mean(0), both.std(0, correction=0))
        expected = torch.cat([small, large], -1) - both.mean(0)
        expected = expected / both.std(0, correction=0)
    else:
        expected = torch.cat([F.layer_norm(part, (8,)) for part in (small, large)], -1)
    standard = readout.standardise(torch.cat([small, large], -1))
    torch.testing.assert_close(standard, expected, atol=1e-3, rtol=1e-3)
    if standardise == "cell":
        plain = blank_readout(name, feature_dim=16, out_channels=3, grid=(4, 4), standardise="channel")
        plain.load_state_dict({**readout.state_dict(), "feature_mean": torch.zeros(16), "feature_std": torch.ones(16)})
        with torch.no_grad():
            torch.testing.assert_close(
                readout(torch.cat([small, large], -1), (32, 32)), plain(standard, (32, 32)), atol=1e-4, rtol=1e-4
            )


@pytest.mark.parametrize(
    ("layers", "others", "words"),
    [
        (("3",), {}, "two or more"),
        (("3", "3"), {}, "3 is there twice"),
        (("3", "x"), {}, "'x' is no layer"),
        (("0", "3"), {}, "'0' is no layer"),
        (("3", "last"), {"views": ("original", "hflip")}, "leave out one of --layers and --views"),
        (("3", "last"), {"where": {"layer": "3"}}, "leave out one of"),
    ],
)
def test_layers_that_cannot_be_meant_are_refused(layers, others, words) -> None:
    with pytest.raises(UsageError, match=words) as error:
        config(layers=layers, **others)
    assert "\n" not in str(error.value)


def test_a_layer_that_is_not_cached_says_how_to_make_it(layered) -> None:
    with pytest.raises(CacheMissError) as error:
        plan_runs(layered, config(layers=("3", "9")))
    assert "--backbone toy --home" in str(error.value)
    assert "--layers 3,9` makes it" in str(error.value)


def test_layers_of_unlike_grids_or_settings_are_refused(layered) -> None:
    add_layer(layered, "9", grid=3)
    with pytest.raises(UsageError, match="7x7 in layer 3, 3x3 in layer 9"):
        plan_runs(layered, config(layers=("3", "9")))
    add_layer(layered, "12", final_norm=False)
    with pytest.raises(CacheMissError, match="final_norm: True in 3, False in 12"):
        plan_runs(layered, config(layers=("3", "12")))


def test_missing_rows_of_one_layer_are_told(layered) -> None:
    add_features(layered, "train", layer="8", shards=[0])
    add_features(layered, "val", layer="8")
    from deapcache.errors import IncompleteCacheError

    with pytest.raises(IncompleteCacheError, match="--layers 3,8"):
        plan_runs(layered, config(layers=("3", "8")))


def test_the_readout_over_several_layers_learns_from_them_and_needs_them(layered) -> None:
    given = {"iterations": 60, "lrs": (3e-3,), "readouts": ("multi-scale",)}
    (run,) = probe(layered, ["depth"], layers=("3", "last"), **given)
    assert run.scores["rmse"] < 0.8 * run.baseline_scores["rmse"]
    with pytest.raises(UsageError, match="readout multi-scale decodes several layers"):
        probe(layered, ["depth"], where={"layer": "3"}, **given)
