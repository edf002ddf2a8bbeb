"""What each verb prints and leaves behind when all goes well."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from deapcache.cache import find_one, list_caches
from deapcache.locations import LocalLocation

BACKBONE = "efficientnet-lite0-s16"


@pytest.fixture
def extracted(cli, make_coco, home):
    """A home with the features of twelve training and four validation images."""
    root = make_coco()
    done = cli("extract", "--backbone", BACKBONE, "--dataset", "coco", "--data-root", root, "--home", home)
    assert done.code == 0, done.err
    return home


def test_extract_prints_a_whole_table_where_there_is_no_terminal(cli, make_coco, home):
    root = make_coco(2, 1)
    done = cli("extract", "--backbone", BACKBONE, "--dataset", "coco", "--data-root", root, "--home", home)
    assert done.err == ""
    (train,) = [line for line in done.out.splitlines() if " train " in line]
    assert BACKBONE in train
    assert train.split()[-1].endswith(".zarr")


def test_extract_as_json(cli, make_coco, home):
    root = make_coco(2, 1)
    command = ["extract", "--backbone", BACKBONE, "--dataset", "coco", "--data-root", root, "--home", home, "--json"]
    train, val = json.loads(cli(*command).out)
    assert (train["extracted"], val["extracted"], train["split"], val["split"]) == (2, 1, "train", "val")
    assert json.loads(cli(*command).out)[0]["extracted"] == 0


def test_uncompressed_features_are_the_same_cache(cli, make_coco, home):
    command = ("extract", "--backbone", BACKBONE, "--dataset", "coco", "--data-root", make_coco(2, 1), "--split", "val")
    assert cli(*command, "--no-compress", "--home", home).code == 0
    assert cli(*command, "--home", home / "other").code == 0
    plain, packed = (
        find_one(place, "features", dataset="coco", split="val").open() for place in (home, home / "other")
    )
    assert plain.digest == packed.digest
    assert plain.arrays["features"].compression == "none"
    np.testing.assert_array_equal(plain.read(range(len(plain))), packed.read(range(len(packed))))
    (report,) = json.loads(cli(*command, "--home", home, "--json").out)
    assert report["extracted"] == 0


def test_dry_run_prints_images_bytes_time_and_free_space(cli, make_coco, home):
    root = make_coco()
    done = cli("extract", "--backbone", BACKBONE, "--dataset", "coco", "--data-root", root, "--home", home, "--dry-run")
    assert done.code == 0
    for words in ("images/s measured on cpu", "16 forwards, about", "at most", "free", "526.8 kB"):
        assert words in done.out
    assert not LocalLocation(home.path).keys()


def test_squashed_and_cropped_features_are_told_apart_by_fit(cli, make_coco, home):
    root = make_coco(4, 2)
    for fit in ("squash", "crop"):
        extract = ("extract", "--backbone", BACKBONE, "--dataset", "coco", "--data-root", root, "--home", home)
        assert cli(*extract, "--fit", fit).code == 0
    probe = ("probe", "--task", "foreground", "--iterations", 1, "--batch-size", 2, "--home", home, "--json")
    assert "base_fit" in cli(*probe).err
    (found,) = json.loads(cli(*probe, "--where", "fit=crop").out)
    assert found["protocol"]["task_options"]["targets"]["instances"]["fit"] == "crop"
    assert found["caches"]["val"]["recipe"]["base_fit"] == "crop"


def test_probe_needs_nothing_but_the_home(cli, extracted):
    done = cli(
        "probe", "--task", "boundaries,foreground", "--home", extracted, "--iterations", 3, "--batch-size", 4,
        "--seed", "0,1", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    results = json.loads(done.out)
    assert [(r["task"], r["seed"]) for r in results] == [
        ("boundaries", 0), ("boundaries", 1), ("foreground", 0), ("foreground", 1),
    ]  # fmt: skip
    for result in results:
        assert result["backbone_forwards"] == 0
        assert result["caches"]["train"]["path"].startswith(f"features/coco/train/{BACKBONE}-")
        assert result["protocol"]["iterations"] == 3
        assert extracted.exists(f"readouts/{result['run']}.safetensors")
        assert extracted.exists(f"results/{result['run']}.json")
    with Image.open(results[0]["picture"]) as picture:
        assert picture.format == "PNG"


def test_probe_prints_forwards_caches_and_protocol(cli, extracted):
    done = cli("probe", "--task", "foreground", "--home", extracted, "--iterations", 2, "--batch-size", 4)
    assert "backbone forwards: 0" in done.out
    assert f"features/coco/train/{BACKBONE}-" in done.out
    assert "image-independent prior" in done.out
    assert "picture: " in done.out


def test_two_caches_of_a_backbone_are_told_apart_by_where(cli, make_coco, extracted, tmp_path):
    root = tmp_path / "data"
    command = ["extract", "--backbone", BACKBONE, "--dataset", "coco", "--data-root", root, "--home", extracted]
    assert cli(*command, "--dtype", "int8").code == 0
    probe = ["probe", "--task", "foreground", "--home", extracted, "--iterations", 1, "--batch-size", 4, "--json"]
    refused = cli(*probe)
    assert refused.code == 1
    assert "--where" in refused.err
    assert "storage" in refused.err
    (result,) = json.loads(cli(*probe, "--where", "storage=int8").out)
    assert result["caches"]["train"]["recipe"]["storage"] == "int8"


def test_after_a_label_is_corrected_only_targets_are_made_and_one_says_which(cli, make_coco, home, tmp_path):
    root = make_coco()
    extract = ["extract", "--backbone", BACKBONE, "--dataset", "coco", "--data-root", root, "--home", home, "--json"]
    assert cli(*extract).code == 0
    before = {entry.path for entry in list_caches(home, "targets")}
    for split in ("train", "val"):
        labels = root / "annotations" / f"instances_{split}2017.json"
        labels.write_text(labels.read_text().replace('"segmentation": [[', '"segmentation": [[0, 0, ', 1))
    assert [report["extracted"] for report in json.loads(cli(*extract).out)] == [0, 0]
    probe = ["probe", "--task", "foreground", "--home", home, "--iterations", 1, "--batch-size", 4, "--json"]
    refused = cli(*probe)
    assert refused.code == 1
    assert "where annotations is" in refused.err
    made = [entry for entry in list_caches(home, "targets") if entry.path not in before]
    newest = {entry.split: entry for entry in made if entry.name == "instances"}
    chosen = ",".join(entry.recipe["annotations"][:12] for entry in newest.values())
    probed = cli(*probe, "--where", f"annotations={chosen}")
    assert probed.code == 0, probed.err
    (result,) = json.loads(probed.out)
    assert result["caches"]["train instances targets"]["digest"] == newest["train"].digest
    assert result["caches"]["val instances targets"]["digest"] == newest["val"].digest
    assert cli(*probe, "--where", "storage=int8", "--where", "storage=float16").code == 2


def test_both_views_are_extracted_shown_and_probed(cli, make_coco, home):
    root = make_coco(4, 2)
    place = ["--dataset", "coco", "--home", home]
    extract = ["extract", "--backbone", BACKBONE, *place, "--data-root", root, "--views", "hflip,original"]
    plan = cli(*extract, "--dry-run")
    assert "10 forwards" in plan.out
    assert f"features {BACKBONE} · hflip" in plan.out
    done = cli(*extract)
    assert (done.code, done.err) == (0, "")
    assert [line.split()[2:4] for line in done.out.splitlines()[1:]] == [
        ["train", "original"], ["train", "hflip"], ["val", "original"],
    ]  # fmt: skip
    listed = json.loads(cli("cache", "ls", "--home", home, "--json").out)
    views = sorted((row["split"], row["view"]) for row in listed if row["kind"] == "features")
    assert views == [("train", "hflip"), ("train", "original"), ("val", "original")]
    assert {row["view"] for row in listed if row["kind"] != "features"} == {""}
    assert " hflip " in cli("cache", "ls", "--home", home).out
    probe = ["probe", "--task", "detection", *place, "--iterations", 1, "--batch-size", 4, "--json"]
    (both,) = json.loads(cli(*probe, "--views", "original,hflip").out)
    assert both["protocol"]["views"] == ["original", "hflip"]
    assert both["caches"]["train hflip"]["recipe"]["view"] == "hflip"
    assert both["backbone_forwards"] == 0
    (alone,) = json.loads(cli(*probe).out)
    assert "views" not in alone["protocol"]
    assert alone["run"] != both["run"]


def test_a_changed_image_is_told_before_it_is_extracted_again(cli, make_coco, extracted, tmp_path):
    image = sorted((tmp_path / "data" / "val2017").glob("*.jpg"))[0]
    with Image.open(image) as opened:
        pixels = opened.convert("RGB")
    pixels.putpixel((0, 0), (255, 0, 255))
    pixels.save(image)
    command = ["extract", "--backbone", BACKBONE, "--dataset", "coco", "--data-root", tmp_path / "data"]
    done = cli(*command, "--home", extracted, "--json")
    told = done.err.splitlines()
    whats = ["images coco/val", "targets coco/val boxes", "targets coco/val instances", f"features coco/val {BACKBONE}"]
    assert sorted(line.partition(":")[0] for line in told) == sorted(whats)
    for line in told:
        assert re.fullmatch(r".*: new cache [0-9a-f]{12}; differs from [0-9a-f]{12} in images", line)
    train, val = json.loads(done.out)
    assert (train["new_caches"], train["extracted"], val["extracted"]) == ([], 0, 4)
    assert [set(new["differences"]) for new in val["new_caches"]] == [{"images"}] * 4


def test_a_part_of_a_cache_can_be_probed_when_asked(cli, make_coco, home):
    root = make_coco(train=70)
    extract = ["extract", "--backbone", BACKBONE, "--dataset", "coco", "--data-root", root, "--home", home]
    assert cli(*extract, "--limit", 8).code == 0
    probe = ["probe", "--task", "foreground", "--home", home, "--iterations", 1, "--batch-size", 4, "--json"]
    refused = cli(*probe)
    assert refused.code == 1
    assert "--limit 8" in refused.err
    (result,) = json.loads(cli(*probe, "--limit", 8).out)
    assert result["train_images"] == 8


def test_cache_ls_and_info(cli, extracted):
    rows = json.loads(cli("cache", "ls", "--home", extracted, "--json").out)
    assert {(r["kind"], r["split"], r["complete"]) for r in rows if r["kind"] == "features"} == {
        ("features", "train", True),
        ("features", "val", True),
    }
    digest = next(r["digest"] for r in rows if r["kind"] == "features")
    (info,) = json.loads(cli("cache", "info", digest[:8], "--home", extracted, "--json").out)
    assert info["recipe"]["backbone"] == BACKBONE
    assert info["provenance"][0]["batch_size"] == 8
    assert BACKBONE in cli("cache", "ls", "--home", extracted).out
    assert "recipe weights" in cli("cache", "info", digest[:8], "--home", extracted).out
    assert cli("cache", "info", "ffffffff", "--home", extracted).code == 1


def test_list_backbones_has_the_facts(cli):
    rows = {row["name"]: row for row in json.loads(cli("list", "backbones", "--json").out)}
    dinov2 = rows["dinov2"]
    assert (dinov2["image_size"], dinov2["grid"], dinov2["dim"]) == ([518, 518], [37, 37], 768)
    assert dinov2["bytes_per_image"] == 2 * 37 * 37 * 768
    assert (dinov2["parameters"], dinov2["licence"]) == (86_582_016, "Apache-2.0")
    assert rows[BACKBONE]["weights"] == "here"
    assert rows["random"]["weights"] == "untrained"
    assert len(rows) == 22


@pytest.mark.parametrize(
    ("what", "words"),
    [("datasets", "scenes"), ("tasks", "boundaries"), ("readouts", "deap"), ("backbones", "siglip-384")],
)
def test_lists_print(cli, what, words):
    done = cli("list", what)
    assert done.code == 0
    assert words in done.out


def test_doctor_reports_home_device_data_and_weights(cli, home, make_coco):
    report = json.loads(cli("doctor", "--home", home, "--data-root", make_coco(2, 1), "--json").out)
    assert "free" in report["home"]
    assert report["home"]["writes"].endswith("/s")
    assert report["device"]["cpu"]
    assert report["datasets"]["coco"] == "train: 2 images (official: 118,287); val: 1 images (official: 5,000)"
    assert report["weights"][BACKBONE] == "here"
    assert not home.keys(), "the bandwidth probe must leave nothing behind"
