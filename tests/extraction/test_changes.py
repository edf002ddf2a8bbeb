"""A change of the data makes what depends on it anew, says in what that differs, and makes nothing else."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from deapcache.backbones import forward_count
from deapcache.cache import list_caches
from deapcache.datasets import open_dataset
from deapcache.datasets.base import sample_order
from deapcache.extraction import ExtractionSettings, extract
from deapcache.recipe import image_set_digest

BACKBONE = "efficientnet-lite0-s16"


def run(root, home, *, progress=lambda _: None, **settings):
    """Reports, and the number of images that went through the backbone."""
    before = forward_count()
    chosen = ExtractionSettings(batch_size=4, **settings)
    reports = list(extract([BACKBONE], open_dataset("coco", root), home, settings=chosen, progress=progress))
    return reports, forward_count() - before


def change_one_pixel(image) -> None:
    pixels = np.array(Image.open(image))
    pixels[0, 0, 0] ^= 255
    Image.fromarray(pixels).save(image, quality=92)


def change_one_annotation(root, split) -> None:
    file = root / "annotations" / f"instances_{split}2017.json"
    content = json.loads(file.read_text())
    content["annotations"][1]["segmentation"][0][0] += 2
    file.write_text(json.dumps(content))


def images_digest(root, split):
    dataset = open_dataset("coco", root)
    return image_set_digest(zip(dataset.image_ids(split), dataset.image_digests(split), strict=True))


def lines(reports):
    return [str(new) for report in reports for new in report.new_caches]


def test_one_pixel_makes_another_image_set_and_the_line_says_so(make_coco, home) -> None:
    root = make_coco(train=3, val=2)
    first, forwards = run(root, home)
    assert (lines(first), forwards) == ([], 5), "nothing to differ from"
    before = {(e.kind, e.split, e.name): e.digest for e in list_caches(home)}
    digests = {split: images_digest(root, split) for split in ("train", "val")}
    change_one_pixel(sorted((root / "val2017").glob("*.jpg"))[0])
    assert images_digest(root, "val") != digests["val"]
    assert images_digest(root, "train") == digests["train"]

    heard = []
    second, forwards = run(root, home, progress=heard.append)
    assert forwards == 2, "the split of that image, and no other"
    assert [r.extracted for r in second] == [0, 2]
    assert [len(r.new_caches) for r in second] == [0, 4]
    for new in second[1].new_caches:
        kind, _, name = (*new.what.split(), "")[:3]
        assert new.what == f"{kind} coco/val {name}".rstrip()
        assert new.other == before[kind, "val", name]
        (difference,) = new.differences
        assert difference == ("images", images_digest(root, "val"), digests["val"])
        assert str(new) == f"{new.what}: new cache {new.digest[:12]}; differs from {new.other[:12]} in images"
    assert [str(event.new_cache) for event in heard if event.new_cache] == lines(second), "told before it is made"
    third, forwards = run(root, home)
    assert (lines(third), forwards) == ([], 0)


def test_one_annotation_remakes_targets_and_extracts_nothing(make_coco, home) -> None:
    root = make_coco(train=3, val=2)
    run(root, home)
    before = {e.path for e in list_caches(home)}
    change_one_annotation(root, "train")
    reports, forwards = run(root, home)
    assert forwards == 0
    assert [r.extracted for r in reports] == [0, 0]
    made = [e for e in list_caches(home) if e.path not in before]
    assert {(e.kind, e.split, e.name) for e in made} == {
        ("targets", "train", "instances"),
        ("targets", "train", "boxes"),
    }
    assert all(e.open().is_complete() for e in made)
    assert [line.rpartition(" in ")[2] for line in lines(reports)] == ["annotations", "annotations"]


def test_limits_and_the_seeded_subset_are_rows_of_one_cache(make_coco, home) -> None:
    root = make_coco(train=70, val=1)  # two images a shard
    ids = [file.stem for file in (root / "train2017").glob("*.jpg")]
    part, forwards = run(root, home, limit=8)
    assert (part[0].images, forwards) == (8, 8 + 1)
    more, forwards = run(root, home, limit=20)
    assert (more[0].images, forwards) == (20, 12)
    _, forwards = run(root, home, limit=8)
    assert forwards == 0
    whole, forwards = run(root, home)
    assert forwards == 50
    assert part[0].path == more[0].path == whole[0].path
    assert not lines([*part, *more, *whole])
    (cache,) = [e.open() for e in list_caches(home, "features") if e.split == "train"]
    assert sorted(cache.image_ids) == sorted(ids)
    assert list(cache.image_ids[:8]) == sample_order(ids)[:8], "the first rows are the seeded subset of that size"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"storage": "int8"}, "differs from {} in storage (int8 here, float16 there)"),
        ({"precision": "bf16"}, "differs from {} in precision (bf16 here, fp32 there)"),
    ],
)
def test_a_setting_that_is_another_cache_is_told_with_its_values(make_coco, home, settings, says) -> None:
    root = make_coco(train=1, val=1)
    first, _ = run(root, home)
    reports, _ = run(root, home, **settings)
    assert [line.partition("; ")[2] for line in lines(reports)] == [says.format(r.digest[:12]) for r in first]


def test_the_nearest_of_several_is_compared_with(make_coco, home) -> None:
    root = make_coco(train=1, val=1)
    run(root, home, storage="int8", precision="bf16")
    run(root, home, storage="float32")
    reports, _ = run(root, home, precision="bf16")
    assert [line.rpartition(" in ")[2] for line in lines(reports)] == ["storage (float16 here, int8 there)"] * 2


def test_another_view_is_no_other_cache_of_the_same(make_coco, home) -> None:
    root = make_coco(train=1, val=1)
    run(root, home)
    assert lines(run(root, home, views=("original", "hflip"))[0]) == []
    reports, _ = run(root, home, views=("original", "hflip"), storage="int8")
    assert [line.partition(":")[0] for line in lines(reports)] == [
        f"features coco/train {BACKBONE}", f"features coco/train {BACKBONE} · hflip", f"features coco/val {BACKBONE}",
    ]  # fmt: skip


def test_json_names_the_fields(make_coco, home) -> None:
    root = make_coco(train=1, val=1)
    first, _ = run(root, home)
    reports, _ = run(root, home, storage="int8")
    (document,) = json.loads(json.dumps(reports[0].to_json()))["new_caches"]
    assert document["differs_from"] == first[0].digest
    assert document["differences"] == {"storage": {"here": "int8", "there": "float16"}}
    assert (document["what"], document["digest"]) == (f"features coco/train {BACKBONE}", reports[0].digest)
