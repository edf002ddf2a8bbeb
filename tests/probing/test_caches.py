"""The right caches are found, and what is wrong with others is said, with the command that helps."""

from __future__ import annotations

import pytest
from deapcache_toys import COUNTS, SIZE, add_features, add_targets, probe

from deapcache.errors import (
    AmbiguousCacheError,
    CacheMissError,
    CorruptCacheError,
    IncompleteCacheError,
    UnknownNameError,
    UsageError,
)


def test_nothing_there(home) -> None:
    with pytest.raises(CacheMissError, match="extract --dataset toys --backbone ARCH --weights FILE --name toy"):
        probe(home)


def test_features_of_val_missing(home) -> None:
    add_features(home, "train")
    with pytest.raises(CacheMissError, match="val"):
        probe(home)


def test_targets_missing(home) -> None:
    for split in COUNTS:
        add_features(home, split)
    add_targets(home, "train", "instances")
    with pytest.raises(CacheMissError, match=r"targets of instances toys val(.|\n)*deapcache extract --dataset toys"):
        probe(home)


def test_targets_of_other_images_do_not_count(home) -> None:
    for split in COUNTS:
        add_features(home, split)
        add_targets(home, split, "instances", images="other images")
    with pytest.raises(CacheMissError, match="images"):
        probe(home)


def test_splits_extracted_differently(home) -> None:
    add_features(home, "train", precision="fp32")
    add_features(home, "val", precision="bf16")
    with pytest.raises(CacheMissError, match="precision: 'fp32' in train, 'bf16' in val"):
        probe(home)


def test_the_pair_that_belongs_together_is_found(toys) -> None:
    add_features(toys, "val", precision="bf16")
    (run,) = probe(toys)
    assert run.caches["val"]["recipe"]["precision"] == "fp32"


def test_two_pairs_are_ambiguous_until_a_field_decides(toys) -> None:
    for split in COUNTS:
        add_features(toys, split, storage="bfloat16")
    with pytest.raises(AmbiguousCacheError, match="storage"):
        probe(toys)
    (run,) = probe(toys, where={"storage": "bfloat16"})
    assert run.caches["train"]["recipe"]["storage"] == run.caches["val"]["recipe"]["storage"] == "bfloat16"


def test_a_digest_of_either_split_decides(toys) -> None:
    others = [add_features(toys, split, storage="bfloat16") for split in COUNTS]
    for other in others:
        (run,) = probe(toys, iterations=1, where={"digest": other.digest[:12]})
        assert [run.caches[split]["digest"] for split in COUNTS] == [cache.digest for cache in others]


def test_one_of_two_sets_of_images_in_each_split_is_chosen_by_both_digests(toys) -> None:
    for split in COUNTS:
        add_features(toys, split, images=f"fewer images of {split}")
        add_targets(toys, split, "instances", images=f"fewer images of {split}")
    with pytest.raises(AmbiguousCacheError, match="of toy toys train"):
        probe(toys)
    with pytest.raises(AmbiguousCacheError, match="of toy toys val"):
        probe(toys, where={"images": "fewer images of train"})
    (run,) = probe(toys, iterations=1, where={"images": "fewer images of train,fewer images of val"})
    assert [run.caches[split]["recipe"]["images"] for split in COUNTS] == [f"fewer images of {s}" for s in COUNTS]


def test_splits_belong_together_whatever_was_left_out_of_them(home) -> None:
    for split, omitted in (("train", {"images": 1, "ids": ["odd"]}), ("val", None)):
        add_features(home, split, omitted=omitted)
        add_targets(home, split, "instances", omitted=omitted)
    (run,) = probe(home, iterations=1)
    assert run.caches["train"]["recipe"]["omitted"] == {"images": 1, "ids": ["odd"]}
    assert "omitted" not in run.caches["val"]["recipe"]


def test_targets_are_those_of_the_base_size_unless_a_size_is_given(toys) -> None:
    for split in COUNTS:
        add_targets(toys, split, "instances", size=(48, 40))
    (run,) = probe(toys, iterations=1)
    assert run.protocol.output_size == SIZE
    (run,) = probe(toys, output_size=(48, 40), iterations=1)
    assert run.protocol.output_size == (48, 40)
    assert run.examples.predictions.shape[1:] == (48, 40)
    with pytest.raises(CacheMissError, match="size"):
        probe(toys, output_size=(64, 64))


def test_features_of_native_images_take_the_only_targets(home) -> None:
    for split in COUNTS:
        add_features(home, split, base_size="native")
        add_targets(home, split, "instances")
    (run,) = probe(home, iterations=1)
    assert run.protocol.output_size == SIZE
    for split in COUNTS:
        add_targets(home, split, "instances", size=(48, 40))
    with pytest.raises(AmbiguousCacheError, match="size"):
        probe(home)


def test_targets_made_differently_for_the_splits(home) -> None:
    for split, options in (("train", {"order": "area"}), ("val", {})):
        add_features(home, split)
        add_targets(home, split, "instances", options=options)
    with pytest.raises(CacheMissError, match="options"):
        probe(home)


def test_targets_in_another_order(home) -> None:
    for split, count in COUNTS.items():
        add_features(home, split)
        add_targets(home, split, "instances", ids=[f"{split}-{i}" for i in reversed(range(count))])
    with pytest.raises(CorruptCacheError, match="row 0 is image train-0 there and train-23 here"):
        probe(home)


def test_targets_of_fewer_images(home) -> None:
    for split in COUNTS:
        add_features(home, split)
    add_targets(home, "train", "instances", ids=[f"train-{i}" for i in range(24)][:23], shards=range(23))
    add_targets(home, "val", "instances")
    with pytest.raises(CorruptCacheError, match="24 and 23 images"):
        probe(home)


@pytest.fixture
def partial(home):
    """Ten training images and five for validation have features; all have targets but training image 8."""
    for split, count in (("train", 10), ("val", 5)):
        add_features(home, split, shards=range(count))
    add_targets(home, "train", "instances", shards=[k for k in range(24) if k != 8])
    add_targets(home, "val", "instances")
    return home


def test_partial_features_say_what_is_there_and_how_to_go_on(partial) -> None:
    with pytest.raises(
        IncompleteCacheError, match=r"features/toys/train/.* holds 10 of the 24 .*`deapcache extract .*`.*--limit 8"
    ):
        probe(partial)


def test_the_first_rows_of_a_partial_cache_can_be_probed(partial) -> None:
    (run,) = probe(partial, train_limit=8, val_limit=5)
    assert run.train_images == 8
    assert run.image_ids == tuple(f"val-{i}" for i in range(5))
    assert (run.protocol.train_limit, run.protocol.val_limit) == (8, 5)


def test_more_rows_than_there_are_targets(partial) -> None:
    with pytest.raises(IncompleteCacheError, match=r"targets/toys/train/.* holds 8 of the 9 .*extract .* --limit 9"):
        probe(partial, train_limit=9, val_limit=5)


def test_more_rows_than_there_are_features(partial) -> None:
    with pytest.raises(IncompleteCacheError, match=r"features/toys/val/.* holds 5 of the 6 .*--limit 5"):
        probe(partial, train_limit=8, val_limit=6)


def test_a_limit_that_leaves_nothing_out_is_none(toys) -> None:
    digests = {probe(toys, iterations=1, train_limit=limit)[0].protocol.digest for limit in (None, 24, 100)}
    assert len(digests) == 1
    assert probe(toys, iterations=1, train_limit=23)[0].protocol.digest not in digests


def test_unknown_names(toys) -> None:
    with pytest.raises(UnknownNameError, match="foreground"):
        probe(toys, tasks=["foregrund"])
    with pytest.raises(UnknownNameError, match="deap"):
        probe(toys, readouts=["depa"])


@pytest.mark.parametrize(
    "changes", [{"lrs": (1e-3, 0)}, {"iterations": 0}, {"batch_size": -1}, {"train_limit": 0}, {"weight_decay": -1.0}]
)
def test_options_out_of_range(toys, changes) -> None:
    with pytest.raises(UsageError, match=next(iter(changes)).removesuffix("s")):
        probe(toys, **changes)


class TestFit:
    """Features of cropped images are probed on targets that were cropped alike."""

    @pytest.fixture
    def both(self, toys):
        """The toys, and the same again as if cropped."""
        for split in COUNTS:
            add_features(toys, split, base_fit="crop")
            add_targets(toys, split, "instances", fit="crop")
            add_targets(toys, split, "depth", fit="crop")
        return toys

    @pytest.mark.parametrize("fit", ["squash", "crop"])
    @pytest.mark.parametrize("field", ["fit", "base_fit"])
    def test_one_field_chooses_features_and_targets(self, both, fit, field) -> None:
        (run,) = probe(both, iterations=1, where={field: fit})
        assert {run.caches[split]["recipe"]["base_fit"] for split in COUNTS} == {fit}
        assert {run.caches[f"{split} instances targets"]["recipe"]["fit"] for split in COUNTS} == {fit}
        assert run.protocol.task_options["targets"]["instances"]["fit"] == fit

    def test_both_are_ambiguous_and_never_mixed(self, both) -> None:
        with pytest.raises(AmbiguousCacheError, match="base_fit"):
            probe(both)
        with pytest.raises(UsageError, match="fit=squash and base_fit=crop are asked for"):
            probe(both, where={"fit": "squash", "base_fit": "crop"})

    def test_targets_of_the_other_fit_do_not_count(self, home) -> None:
        for split in COUNTS:
            add_features(home, split, base_fit="crop")
            add_targets(home, split, "instances")
        with pytest.raises(CacheMissError, match=r"fit(.|\n)*deapcache extract .* --fit crop` makes"):
            probe(home)

    def test_a_size_of_another_shape_shows_another_region(self, both) -> None:
        for split in COUNTS:
            for size in ((48, 40), (40, 40)):
                add_targets(both, split, "instances", size=size, fit="crop")
        with pytest.raises(UsageError, match=r"cropped to the shape of 48x40, and .* cropped to that of 56x56"):
            probe(both, output_size=(48, 40), where={"fit": "crop"})
        (run,) = probe(both, output_size=(40, 40), iterations=1, where={"fit": "crop"})
        assert run.protocol.output_size == (40, 40)

    def test_native_crops_have_the_shape_that_the_backbone_sees(self, home) -> None:
        for split in COUNTS:
            add_features(home, split, base_fit="crop", base_size="native", image_size=(96, 160))
            add_targets(home, split, "instances", fit="crop")
        with pytest.raises(UsageError, match=r"cropped to the shape of 56x56, and .* cropped to that of 96x160"):
            probe(home)

    def test_eigens_crop_is_of_whole_images(self, both) -> None:
        chosen = {"task_options": {"depth": {"crop": "eigen"}}, "iterations": 1}
        with pytest.raises(UsageError, match=r"task depth: .*eigen.* is about places in the whole image"):
            probe(both, ["depth"], where={"fit": "crop"}, **chosen)
        probe(both, ["depth"], where={"fit": "squash"}, **chosen)
        probe(both, ["depth"], where={"fit": "crop"}, iterations=1)
