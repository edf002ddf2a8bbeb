"""``deapcache cache``: what each command prints, leaves behind and exits with."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from pathlib import Path

import pytest
from deapcache_caches import feature_cache, fill
from PIL import Image

from deapcache.cache import list_caches
from deapcache.locations import LocalLocation
from deapcache.results.draw import draw_cache

BACKBONE = "efficientnet-lite0-s16"


@pytest.fixture
def extracted(cli, make_coco, home):
    """A home with the features of six training and three validation images, and one probe's result."""
    root = make_coco(6, 3)
    done = cli("extract", "--backbone", BACKBONE, "--dataset", "coco", "--data-root", root, "--home", home)
    assert done.code == 0, done.err
    return home


def features(home: LocalLocation, split: str = "train") -> str:
    (entry,) = [e for e in list_caches(home, "features") if e.split == split]
    return entry.path


def spoil(home: LocalLocation, key: str) -> None:
    path = home.path / key
    data = bytearray(path.read_bytes())
    data[9] ^= 16
    path.write_bytes(data)


def test_ls_tells_who_when_and_the_last_use_and_filters(cli, extracted):
    cache = ("cache", "ls", "--home", extracted, "--json")
    rows = json.loads(cli(*cache, "--filter", "kind=features").out)
    assert {row["split"] for row in rows} == {"train", "val"}
    assert all("@" in row["who"] and row["when"].startswith("20") and row["last_use"] is None for row in rows)
    before = set(extracted.path.rglob("*"))
    cli(*cache)
    assert set(extracted.path.rglob("*")) == before, "looking writes nothing"
    probe = ("probe", "--task", "foreground", "--home", extracted, "--iterations", 1, "--batch-size", 2, "--json")
    (result,) = json.loads(cli(*probe).out)
    used = {row["digest"]: row["last_use"] for row in json.loads(cli(*cache).out)}
    named = {one["digest"] for one in result["caches"].values()}
    assert {digest for digest, last in used.items() if last} == named
    assert {used[digest] for digest in named} == {result["date"]}
    rows = json.loads(cli(*cache, "--filter", f"backbone={BACKBONE}", "--filter", "features/coco/val").out)
    assert [row["split"] for row in rows] == ["val"]


def test_ls_refuses_an_unknown_field_and_says_when_nothing_fits(cli, extracted):
    done = cli("cache", "ls", "--home", extracted, "--filter", "weather=fine")
    assert done.code == 2
    assert "there is no 'weather'" in done.err
    assert "no cache in" in cli("cache", "ls", "--home", extracted, "--filter", "nonsense").out


def test_info_draws_components_beside_images(cli, extracted, tmp_path):
    target = tmp_path / "pictures" / "val.png"
    done = cli("cache", "info", features(extracted, "val"), "--home", extracted, "--picture", target)
    assert done.code == 0, done.err
    with Image.open(target) as picture:
        assert picture.format == "PNG"
        width = picture.width
    (entry,) = [entry for entry in list_caches(extracted, "features") if entry.split == "val"]
    with Image.open(io.BytesIO(draw_cache(entry, None, 8))) as alone:
        assert alone.width < width
    refused = cli("cache", "info", "coco", "--home", extracted, "--picture", target)
    assert refused.code == 2
    assert "--picture draws one cache" in refused.err


def test_verify_repair_and_verify(cli, extracted):
    assert cli("cache", "verify", "--home", extracted).code == 0
    path = features(extracted)
    ids = list_caches(extracted, "features")[0].open().image_ids
    spoil(extracted, f"{path}/features/c.2.0.0.0")
    spoil(extracted, f"{path}/features/c.4.0.0.0")
    done = cli("cache", "verify", "--home", extracted)
    assert done.code == 1
    assert f"{extracted}/{path}/features/c.2.0.0.0: the checksum is another; images {ids[2]}\n" in done.out
    assert f"{extracted}/{path}/features/c.4.0.0.0: " in done.out
    command = f"deapcache cache repair {path} --home {extracted}"
    assert f"repair it with: {command}" in done.out
    documents = json.loads(cli("cache", "verify", "--home", extracted, "--json").out)
    assert [one["path"] for one in documents if not one["sound"]] == [path]
    repaired = cli(*command.split()[1:])
    assert repaired.code == 0, repaired.err
    assert "deleted the damaged shards 2, 4" in repaired.out
    assert "made the shards 2, 4" in repaired.out
    done = cli("cache", "verify", path, "--live", 2, "--home", extracted)
    assert done.code == 0
    assert "live: 2 images forwarded again on" in done.out
    assert "nothing to repair" in cli("cache", "repair", path, "--home", extracted).out


def test_verify_names_a_cache_that_cannot_be_opened_and_looks_at_the_others(cli, extracted):
    path = features(extracted)
    spoil(extracted, f"{path}/zarr.json")
    spoil(extracted, f"{features_of_val(extracted)}/features/c.0.0.0.0")
    documents = json.loads(cli("cache", "verify", "--home", extracted, "--json").out)
    assert {one["path"] for one in documents if not one["sound"]} == {path, features_of_val(extracted)}


def features_of_val(home: LocalLocation) -> str:
    return next(str(found.relative_to(home.path)) for found in (home.path / "features/coco/val").iterdir())


def test_a_live_check_that_cannot_be_made_is_a_failure(cli, extracted):
    for entry in list_caches(extracted, "images"):
        extracted.delete(f"{entry.path}/zarr.json")
    done = cli("cache", "verify", features(extracted), "--live", 1, "--home", extracted)
    assert done.code == 1
    assert "cannot be compared" in done.out


def test_push_and_pull_with_what_belongs_to_it(cli, extracted, tmp_path):
    lab, mine = LocalLocation(tmp_path / "lab"), LocalLocation(tmp_path / "mine")
    done = cli("cache", "push", "features", "--to", lab, "--home", extracted)
    assert done.code == 1
    assert "2 caches that fit 'features'" in done.err
    done = cli("cache", "push", "features", "--all", "--with-targets", "--to", lab, "--home", extracted)
    assert done.code == 0, done.err
    assert [entry.path for entry in list_caches(lab)] == [entry.path for entry in list_caches(extracted)]
    for entry in list_caches(lab):
        for key in entry.location.keys():  # noqa: SIM118 - a location is no mapping
            if key != "manifest.json":
                assert entry.location.read(key) == extracted.read(f"{entry.path}/{key}")
    pull = ("cache", "pull", features(extracted), "--from", lab, "--home", mine)
    (report,) = json.loads(cli(*pull, "--images", 2, "--json").out)
    assert (report["copied"], report["complete"]) == (2, False)
    (report,) = json.loads(cli(*pull, "--images", 4, "--json").out)
    assert (report["copied"], report["there"]) == (2, 2)
    assert "3 files copied" not in cli(*pull).out
    assert list_caches(mine)[0].open().is_complete()
    assert cli(*pull, "--images", "0").code == 2


def test_caches_of_two_homes_are_compared_through_read_homes(cli, extracted, tmp_path, monkeypatch):
    other = tmp_path / "other"
    shutil.copytree(extracted.path / "images", other / "images")
    monkeypatch.setenv("DEAPCACHE_READ_HOMES", str(other))
    shutil.rmtree(extracted.path / "images")
    train, val = (entry.digest for entry in list_caches(LocalLocation(other), "images"))
    found = json.loads(cli("cache", "diff", train, val, "--home", extracted, "--json").out)
    assert set(found["differences"]) == {"images"}


def test_push_of_a_damaged_cache_copies_the_rest_and_fails(cli, extracted, tmp_path):
    spoil(extracted, f"{features(extracted)}/features/c.2.0.0.0")
    done = cli("cache", "push", features(extracted), "--to", tmp_path / "lab", "--home", extracted)
    assert done.code == 1
    assert "NOT COPIED" in done.out
    assert "5 files copied" in done.out


def test_diff_shows_the_fields(cli, make_coco, extracted, tmp_path):
    command = ["extract", "--backbone", BACKBONE, "--dataset", "coco", "--data-root", tmp_path / "data"]
    assert cli(*command, "--split", "val", "--dtype", "int8", "--home", extracted).code == 0
    one, other = (e.digest for e in list_caches(extracted, "features") if e.split == "val")
    found = json.loads(cli("cache", "diff", one[:10], other[:10], "--home", extracted, "--json").out)
    assert set(found["differences"]) == {"storage"}
    assert "storage" in cli("cache", "diff", one[:10], other[:10], "--home", extracted).out
    assert "the same recipe" in cli("cache", "diff", one[:10], one, "--home", extracted).out
    assert cli("cache", "diff", one[:10], "images", "--home", extracted).code == 1


def test_rm_needs_one_cache_and_a_yes(cli, extracted):
    path = features(extracted)
    assert cli("cache", "rm", "features", "--yes", "--home", extracted).code == 1
    done = cli("cache", "rm", path, "--home", extracted)
    assert done.code == 2
    assert "--yes" in done.err
    assert "would_remove" in cli("cache", "rm", path, "--dry-run", "--json", "--home", extracted).out
    assert (extracted.path / path).exists()
    done = cli("cache", "rm", path, "--yes", "--home", extracted)
    assert done.code == 0
    assert "removed" in done.out
    assert not (extracted.path / path).exists()
    assert cli("cache", "rm", path, "--yes", "--home", extracted).code == 1
    rest = features(extracted, "val")
    extracted.delete(f"{rest}/zarr.json")  # as a removal that was killed
    assert "no cache: its root" in cli("cache", "verify", "--home", extracted).out
    assert cli("cache", "rm", rest, "--yes", "--home", extracted).code == 0
    assert not (extracted.path / rest).exists()


def age(home: LocalLocation, path: str, days: float) -> None:
    """Make a cache look as if it was written so many days ago."""
    folder: Path = home.path / path
    for file in (folder / "provenance").iterdir():
        file.unlink()
    then = time.time() - days * 86_400
    for place in (folder, *folder.iterdir()):
        os.utime(place, (then, then))


def test_prune_goes_by_last_use_then_by_last_write(cli, extracted):
    prune = ("cache", "prune", "--home", extracted)
    assert cli(*prune).code == 2
    assert cli(*prune, "--older-than", "a while").code == 2
    train, val = features(extracted), features(extracted, "val")
    age(extracted, train, 100)
    assert "nothing to remove" in cli(*prune, "--older-than", "101d", "--yes").out
    dry = json.loads(cli(*prune, "--older-than", "99d", "--dry-run", "--json").out)
    assert dry == {"would_remove": [train], "removed": []}
    probe = ("probe", "--task", "foreground", "--home", extracted, "--iterations", 1, "--batch-size", 2)
    assert cli(*probe).code == 0
    assert "nothing to remove" in cli(*prune, "--older-than", "99d", "--yes").out, "it was used just now"
    assert "nothing to remove" in cli(*prune, "--unused", "--yes").out
    extracted.publish("results/odd.json", b"{")
    refused = cli(*prune, "--older-than", "99d", "--yes")
    assert refused.code == 1
    assert "cannot be read" in refused.err
    for key in extracted.keys("results"):
        extracted.delete(key)
    assert cli(*prune, "--older-than", "14w", "--yes").code == 0
    assert [entry.path for entry in list_caches(extracted, "features")] == [val]
    assert cli(*prune, "--unused", "--yes").code == 0
    assert not list_caches(extracted, "features")
    assert list_caches(extracted, "images")
    targets = [entry.path for entry in list_caches(extracted, "targets")]
    dry = json.loads(cli(*prune, "--unused", "--filter", "kind=targets", "--dry-run", "--json").out)
    assert dry["would_remove"] == targets
    assert cli(*prune, "--unused", "--filter", "kind=weather", "--yes").code == 0
    assert [entry.path for entry in list_caches(extracted, "targets")] == targets


def test_the_cache_of_every_command_is_a_filter(cli, home, tmp_path):
    for storage in ("float16", "int8"):
        fill(feature_cache(home, storage), [0])
    (small,) = [entry.path for entry in list_caches(home) if entry.recipe["storage"] == "int8"]
    place = ("--home", home, "--json")
    assert [one["path"] for one in json.loads(cli("cache", "ls", "--filter", "storage=int8", *place).out)] == [small]
    assert [one["path"] for one in json.loads(cli("cache", "info", "storage=int8", *place).out)] == [small]
    assert [one["path"] for one in json.loads(cli("cache", "verify", "storage=int8", *place).out)] == [small]
    (report,) = json.loads(cli("cache", "push", "storage=int8", "--to", tmp_path / "lab", *place).out)
    assert report["destination"].endswith(small)
    (report,) = json.loads(
        cli("cache", "pull", "storage=int8", "--from", home, "--home", tmp_path / "me", "--json").out
    )
    assert report["destination"].endswith(small)
    dry = json.loads(cli("cache", "rm", "storage=int8", "--dry-run", *place).out)
    assert dry["would_remove"] == [small]
    dry = json.loads(cli("cache", "prune", "--unused", "--filter", "storage=int8", "--dry-run", *place).out)
    assert dry["would_remove"] == [small]
