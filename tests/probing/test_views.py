"""Training draws mirrored images as well, with features of their own and mirrored targets; scoring never does."""

from __future__ import annotations

import itertools
import shlex

import numpy as np
import pytest
import torch
from deapcache_toys import COUNTS, GRID, SIZE, TARGET_DTYPES, add_features, add_targets, probe, target_maps, volumes
from typer.main import get_command

from deapcache.cache import ArraySpec, create_cache, images_path, targets_path
from deapcache.cli.app import app
from deapcache.errors import CacheMissError, CorruptCacheError, IncompleteCacheError, UsageError
from deapcache.probing import ProbeConfig
from deapcache.probing.batches import BatchStream, image_order, sequential
from deapcache.probing.caches import open_caches
from deapcache.recipe import ImageRecipe, TargetRecipe
from deapcache.tasks import get_task

BOTH = ("original", "hflip")
TRAIN = COUNTS["train"]
ROWS = 3
"""Of a table: the image, one object, one row of padding."""


@pytest.fixture
def mirrored(toys):
    """The toys with features of the mirrored training images."""
    add_features(toys, "train", view="hflip")
    return toys


def box_tables() -> np.ndarray:
    """(24, 3, 7): images of 90 × 100 pixels, each with one object."""
    tables = np.zeros((TRAIN, ROWS, 7))
    tables[:, 0] = (0, 0, 100, 90, 9000, 3, 0)
    tables[:, 1] = [(row, 5, 20.5, 30, 500, 1, 7) for row in range(TRAIN)]
    return tables


def base_images() -> np.ndarray:
    """(24, 56, 56, 3) uint8 noise."""
    return np.random.default_rng(5).integers(0, 256, (TRAIN, *SIZE, 3), dtype=np.uint8)


def _add(home, path, recipe, spec, values) -> None:
    ids = [f"train-{i}" for i in range(TRAIN)]
    cache = create_cache(home, path, recipe=recipe, arrays=[spec], image_ids=ids)
    for k in range(cache.shard_count):
        cache.write_shard(k, {spec.name: values[list(cache.shard_rows(k))]})


@pytest.fixture
def caches(mirrored):
    """All that a batch can hold: features of both views, every kind of target, base images; 20 rows."""
    boxes = TargetRecipe(
        annotation="boxes", size=SIZE, fit="squash", options={}, classes=(), images="images of train", annotations="a"
    )
    spec = ArraySpec(name="targets", dtype="float64", item_shape=(ROWS, 7), dimensions=("box", "column"))
    _add(mirrored, targets_path("toys", "train", "boxes", boxes.digest), boxes, spec, box_tables())
    images = ImageRecipe(size=SIZE, fit="squash", interpolation="bicubic", colour="rgb", images="images of train")
    spec = ArraySpec(name="images", dtype="uint8", item_shape=(*SIZE, 3), dimensions=("row", "column", "channel"))
    _add(mirrored, images_path("toys", "train", images.digest), images, spec, base_images())
    config = ProbeConfig(
        dataset="toys",
        backbones=["toy"],
        splits=("train", "train"),  # so that one split's tables and images do for both
        train_limit=20,
        views=BOTH,
    )
    return open_caches(mirrored, config, ("instances", "classes", "depth", "boxes"), with_images=True)[0]


def test_an_epoch_has_every_image_in_both_views_once(caches) -> None:
    drawn = list(itertools.chain(*image_order(0, caches.draws, iterations=8, batch_size=10)))
    every = [*range(20), *range(TRAIN, TRAIN + 20)]
    assert sorted(drawn[:40]) == sorted(drawn[40:]) == every
    assert drawn[:40] != drawn[40:]


def test_the_order_of_original_images_alone_is_what_it_was() -> None:
    order = image_order(0, np.arange(10, 20), iterations=4, batch_size=4)
    assert [rows.tolist() for rows in order] == [[14, 16, 12, 17], [13, 15, 19, 10], [18, 11, 19, 11], [13, 18, 17, 16]]


@pytest.mark.parametrize("residency", ["memory", "stream"])
def test_mirrored_rows_have_their_own_features_and_mirrored_targets(caches, residency) -> None:
    stream = BatchStream(caches, residency, torch.device("cpu"))
    order = [*image_order(0, caches.draws, iterations=6, batch_size=8), np.array([3, 5]), np.array([TRAIN + 3])]
    for draws, batch in zip(order, stream.batches(order), strict=True):
        assert batch.guidance is not None
        for place, draw in enumerate(draws):
            row, is_mirrored = draw % TRAIN, draw >= TRAIN
            step = -1 if is_mirrored else 1
            assert batch.rows[place] == row
            features = batch.features[place].numpy()
            np.testing.assert_array_equal(features, volumes("train")[row][:, ::step].astype(np.float16))
            for name in TARGET_DTYPES:
                np.testing.assert_array_equal(batch.maps[name][place], target_maps("train", name)[row][..., ::step])
            np.testing.assert_array_equal(batch.guidance[place], base_images()[row][:, ::step])
            table = box_tables()[row]
            table[1, 0] = 100 - row - 20.5 if is_mirrored else row
            np.testing.assert_array_equal(batch.maps["boxes"][place], table)


def test_passes_over_targets_see_original_images(caches) -> None:
    stream = BatchStream(caches, "stream", torch.device("cpu"))
    found = [maps["depth"].numpy() for _, maps in stream.maps(["depth"], sequential(caches.rows, 6))]
    np.testing.assert_array_equal(np.concatenate(found), target_maps("train", "depth")[:20])


def test_memory_holds_the_features_of_both_views(caches) -> None:
    others = sum(np.dtype(dtype).itemsize for dtype in TARGET_DTYPES.values()) * 56 * 56 + ROWS * 7 * 8 + 56 * 56 * 3
    assert caches.decoded_bytes() == 20 * (2 * GRID * GRID * 16 * 2 + others)


def test_instances_of_the_mirror_image_are_the_same_classes(caches) -> None:
    task = get_task("discrimination")
    stream = BatchStream(caches, "memory", torch.device("cpu"))
    task.scan_targets(stream.maps(task.annotations, sequential(caches.rows, 8)))
    draws = np.array([4, TRAIN + 4, 9, TRAIN + 9])
    (batch,) = stream.batches([draws])
    target = task.training_target(batch.maps, batch.rows, torch.Generator().manual_seed(0))
    classes = [set(found.tolist()) for found in target["classes"]]
    assert classes[0] == classes[1] != classes[2] == classes[3]
    assert task.criterion().out_features == 20, "one instance in each of the twenty images, not forty"


def test_a_probe_learns_from_both_views_and_says_so(mirrored) -> None:
    (both,) = probe(mirrored, views=BOTH, iterations=100, lrs=(1e-2,))
    assert both.protocol.views == BOTH
    assert both.scores["mean_iou"] > both.baseline_scores["mean_iou"] + 0.2
    assert both.caches["train hflip"]["recipe"]["view"] == "hflip"
    assert both.train_images == TRAIN
    (alone,) = probe(mirrored)
    assert "train hflip" not in alone.caches
    assert "views" not in alone.protocol.to_json()
    assert alone.protocol.digest != both.protocol.digest
    assert alone.baseline_scores == both.baseline_scores


def test_both_residencies_give_the_same_run_and_not_that_of_one_view(mirrored) -> None:
    memory, stream = (probe(mirrored, views=BOTH, residency=name)[0] for name in ("memory", "stream"))
    (alone,) = probe(mirrored)
    for name, values in memory.weights.items():
        np.testing.assert_array_equal(values, stream.weights[name])
    assert any((values != alone.weights[name]).any() for name, values in memory.weights.items())


def test_mirrored_caches_beside_change_nothing_without_views(toys) -> None:
    (before,) = probe(toys)
    for split in COUNTS:
        add_features(toys, split, view="hflip")
    (after,) = probe(toys)
    assert after.caches == before.caches
    for name, values in before.weights.items():
        np.testing.assert_array_equal(after.weights[name], values)


def test_scoring_needs_no_mirrored_images_and_reads_none(mirrored) -> None:
    (without,) = probe(mirrored, views=BOTH)
    add_features(mirrored, "val", view="hflip", shards=[])  # there, but nothing in it can be read
    (beside,) = probe(mirrored, views=BOTH)
    assert beside.scores == without.scores
    assert set(beside.caches) == {
        "train", "train hflip", "val", "train instances targets", "val instances targets",
    }  # fmt: skip
    assert beside.caches["val"]["recipe"].get("view", "original") == "original"


def test_missing_mirrored_features_are_told_with_the_command_that_makes_them(home) -> None:
    for split in COUNTS:
        add_features(home, split, storage="int8", base_fit="crop", omitted={"images": 1, "ids": ["train-99"]})
        add_targets(home, split, "instances", fit="crop")
    with pytest.raises(CacheMissError) as told:
        probe(home, views=BOTH)
    message = str(told.value)
    assert "no features of toy of the mirrored images of toys train" in message
    command = shlex.split(message.split("`")[1])
    assert command[:2] == ["deapcache", "extract"]
    given = dict(zip(command[2::2], command[3::2], strict=True))
    assert given == {
        "--dataset": "toys", "--backbone": "toy", "--home": str(home), "--split": "train", "--views": "hflip",
        "--base-size": "56x56", "--dtype": "int8", "--precision": "fp32",
        "--fit": "crop", "--on-error": "skip",
    }  # fmt: skip
    extract = get_command(app).commands["extract"]
    assert {flag for parameter in extract.params for flag in parameter.opts} >= set(given)


def test_mirrored_features_made_otherwise_do_not_count(toys) -> None:
    other = add_features(toys, "train", view="hflip", storage="int8")
    with pytest.raises(CacheMissError, match=rf"near: .*-{other.digest[:12]}.zarr, which differs in storage\n"):
        probe(toys, views=BOTH)


def test_incomplete_mirrored_features_say_how_to_go_on(toys) -> None:
    add_features(toys, "train", view="hflip", shards=range(10))
    with pytest.raises(IncompleteCacheError, match=r"holds 10 of the 24 .*--split train --views hflip .*--limit 10"):
        probe(toys, views=BOTH)
    with pytest.raises(IncompleteCacheError, match=r"--views hflip .* --limit 12` does the rest"):
        probe(toys, views=BOTH, train_limit=12)
    (run,) = probe(toys, views=BOTH, train_limit=10)
    assert run.train_images == 10


def test_two_settings_each_find_their_own_mirrored_features(mirrored) -> None:
    for split in COUNTS:
        add_features(mirrored, split, storage="bfloat16")
    other = add_features(mirrored, "train", storage="bfloat16", view="hflip")
    (run,) = probe(mirrored, views=BOTH, where={"storage": "bfloat16"}, iterations=1)
    assert run.caches["train hflip"]["digest"] == other.digest
    (run,) = probe(mirrored, views=BOTH, where={"storage": "float16"}, iterations=1)
    assert run.caches["train hflip"]["digest"] != other.digest


def test_mirrored_features_of_other_images(mirrored, monkeypatch) -> None:
    """Ids that differ though both recipes name one image set: a damaged home."""
    from deapcache.cache import Cache

    real = Cache.image_ids.fget

    def names(cache):
        return real(cache)[::-1] if cache.recipe.get("view") == "hflip" else real(cache)

    monkeypatch.setattr(Cache, "image_ids", property(names))
    with pytest.raises(CorruptCacheError, match="row 0 is image train-0 there and train-23 here"):
        probe(mirrored, views=BOTH)


def test_what_cannot_be_asked_for(mirrored) -> None:
    with pytest.raises(UsageError, match=r"view=hflip cannot choose the features of a probe.*--views"):
        probe(mirrored, where={"view": "hflip"})
    with pytest.raises(UsageError, match="views hflip: scores are of original images"):
        ProbeConfig(views=("hflip",))
    with pytest.raises(UsageError, match="unknown view 'flip'"):
        ProbeConfig(views=("original", "flip"))
    assert ProbeConfig(views=("hflip", "original")) == ProbeConfig(views=BOTH)
    assert probe(mirrored, where={"view": "original"}, iterations=1)[0].protocol.views == ("original",)
