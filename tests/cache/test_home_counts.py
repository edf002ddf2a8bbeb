"""How often homes and caches are looked at: counted, for what is looked at again and again grows with its square."""

from __future__ import annotations

import os
import shutil
import time
import warnings
from dataclasses import replace

import pytest
from deapcache_caches import IMAGES, feature_cache, fill, volumes
from deapcache_counts import Counts, counted
from deapcache_servers import ask, in_a_thread

from deapcache.cache import (
    Cache,
    cache_contents,
    encode_features,
    features_path,
    find_caches,
    find_one,
    list_cache,
    list_caches,
    one_listing,
    read_manifest,
    write_index,
)
from deapcache.cache.serve import HomeServer
from deapcache.cache.web_index import manifest_bytes
from deapcache.cli import main
from deapcache.extraction.claims import WorkQueue
from deapcache.extraction.dataset_summary import summarize_without_files
from deapcache.locations import LocalLocation
from deapcache.recipe import FeatureRecipe


def path_of(cache: Cache) -> str:
    """Where a cache lies below its home."""
    return "/".join(cache.location.url.split("/")[-4:])


@pytest.mark.parametrize("shards", [40, 160])
def test_a_unit_of_work_does_not_list_all_shards(home: LocalLocation, monkeypatch, shards: int) -> None:
    cache = feature_cache(home, count=2 * 64)
    seen: list[int] = []

    def present(some):
        seen.append(len(some))
        return cache.present_shards(some)

    count = min(shards, cache.shard_count)
    queue = WorkQueue(cache.location, range(count), present=present, images=lambda _: 1)
    begun = time.monotonic()
    with queue:
        for batch in queue.batches():
            for shard in batch:
                rows = cache.shard_rows(shard)
                cache.write_shard(shard, encode_features(volumes(rows), cache.storage, cache.image_ids))
                queue.finish(shard)
    assert cache.present_shards() == set(range(count))
    assert sum(size > 1 for size in seen) <= 3 + (time.monotonic() - begun) / 2, "all are looked at every few seconds"


def test_a_complete_cache_is_known_by_its_manifest(home: LocalLocation, monkeypatch) -> None:
    cache = feature_cache(home)
    fill(cache)
    whole = list_cache(cache.location)
    with counted(home) as counts:
        assert cache_contents(cache.location, cache.digest) == whole
    assert (list(counts.opened), list(counts.listed)) == ([f"{path_of(cache)}/manifest.json"], [])
    (cache.location.path / "features" / "c.3.0.0.0").unlink()
    assert cache_contents(cache.location, cache.digest).images == whole.images - 3, (
        "a manifest that is no longer true is not believed"
    )


def test_of_caches_of_one_image_set_one_is_opened(home: LocalLocation, monkeypatch) -> None:
    opened = []
    for number in range(8):
        feature_cache(home, backbone=f"vit-{number}")
        if number in (1, 7):
            with counted(home) as counts:
                assert summarize_without_files("coco", home).of["train"].images == IMAGES
            opened.append(counts.opened.total())
    assert opened[1] - opened[0] <= 2 * 6, "a file of each in two listings"


@pytest.mark.parametrize("caches", [3, 12])
def test_a_home_is_listed_once_within_a_block(home: LocalLocation, monkeypatch, caches: int) -> None:
    for number in range(caches):
        feature_cache(home, count=2, images=f"{number:064x}")
    with counted(home) as counts, one_listing():
        for number in range(10):
            asked = {"dataset": "coco", "split": "train", "fields": {"images": f"{number % caches:064x}"}}
            assert len(find_caches(home, "features", **asked)) == 1
            with one_listing():
                assert find_one(home, "features", **asked).recipe["images"] == f"{number % caches:064x}"
            assert len(list_caches(home)) == caches
    assert set(counts.listed.values()) == set(counts.opened.values()) == {1}
    assert len(counts.opened) == caches
    feature_cache(home, count=2, images="f" * 64)
    assert len(list_caches(home)) == caches + 1, "nothing is remembered after the block"


# --- every verb, in homes of 10 and of 1,000 caches -------------------------------------------------------------------

BACKBONE = "timm:test_vit@untrained"
FEW, MANY = 10, 1_000
PIPELINE = f"""\
name: few
backbones: ["{BACKBONE}"]
iterations: 2
batch_size: 2
lr: 0.001
probes:
  - {{tasks: [foreground], dataset: coco}}
"""
Homes = dict[int, LocalLocation]


def run(*arguments: object) -> None:
    """The command line, in this process."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == 0, arguments


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory, write_coco) -> Homes:
    """Homes of 10 and of 1,000 caches with the same result, beside the files of the dataset."""
    folder = tmp_path_factory.mktemp("homes")
    made, root = folder / "made", write_coco(folder / "data", 2, 2)
    (folder / "few.yaml").write_text(PIPELINE)
    run("extract", "--backbone", BACKBONE, "--dataset", "coco", "--data-root", root, "--home", made)
    run("run", folder / "few.yaml", "--data-root", root, "--home", made)
    found = {count: LocalLocation(folder / str(count)) for count in (FEW, MANY)}
    for count, home in found.items():
        shutil.copytree(made, home.path)
        fill_home(home, count)
    return found


def fill_home(home: LocalLocation, count: int) -> None:
    """Add features of other backbones until a home has ``count`` caches: links to its own, under other digests."""
    copied = {split: find_one(home, "features", dataset="coco", split=split).open() for split in ("train", "val")}
    for number in range(count - len(list_caches(home))):
        split = ("train", "val")[number % 2]
        cache = copied[split]
        recipe = replace(FeatureRecipe.from_json(cache.recipe), backbone=f"vit-{number:04d}")
        place = home / features_path("coco", split, recipe.backbone, recipe.digest)
        root = replace(cache.group, recipe=recipe.to_json(), digest=recipe.digest).to_bytes()
        before = read_manifest(cache.location)
        assert before is not None
        manifest = replace(before, digest=recipe.digest, keys={**before.keys, "zarr.json": len(root)})
        own = {"zarr.json": root, "manifest.json": manifest_bytes(manifest)}
        for key in (*before.keys, "manifest.json"):
            (place.path / key).parent.mkdir(parents=True, exist_ok=True)
            if key in own:
                (place.path / key).write_bytes(own[key])
            else:
                os.link(cache.location.path / key, place.path / key)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(write_index(home)) == len(list_caches(home)) == count
    assert cache_contents(place, recipe.digest) == list_cache(place) == manifest


def counts_of(home: LocalLocation, command: str) -> Counts:
    """What a command looks at; words in braces stand for what is in the home and beside it."""
    folder = home.path.parent
    one, other = (entry.path for entry in list_caches(home, "features", name=BACKBONE))
    facts = {"name": BACKBONE, "one": one, "other": other, "home": home, "data": folder / "data", "folder": folder}
    words = [word.format_map(facts) for word in command.split()]
    with counted(home) as counts:
        run(*words, *([] if "--home" in words else ["--home", home]))
    return counts


ABOUT_SOME = {
    "info": "cache info test_vit",
    "diff": "cache diff {one} {other}",
    "verify some": "cache verify test_vit",
    "pin": "cache pin {one} --why kept",
    "list pins": "cache pin",
    "unpin": "cache unpin {one}",
    "rm": "cache rm {one} {other} --dry-run",
    "repair": "cache repair {one}",
    "push": "cache push {one} --to {folder}/other --with-targets --dry-run",
    "pull": "cache pull {one} --from {home} --home {folder}/other --with-targets --dry-run",
    "journal": "cache journal",
    "extract with nothing to do": "extract --backbone {name} --dataset coco --data-root {data}",
    "extract --dry-run": "extract --backbone {name} --dataset coco --data-root {data} --dry-run",
    "probe": "probe --task foreground --dataset coco --backbone {name} --iterations 2 --batch-size 2 --lr 0.001",
    "run --dry-run": "run {folder}/few.yaml --data-root {data} --dry-run",
    "results": "results",
    "doctor": "doctor --data-root {data}",
}
"""What is about a few caches, or none: it costs the same in any home."""


@pytest.mark.parametrize("verb", ABOUT_SOME)
def test_what_is_about_some_caches_looks_at_no_others(homes: Homes, monkeypatch, verb: str) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # the time of disks is not at issue
    few, many = (counts_of(home, ABOUT_SOME[verb]) for home in homes.values())
    assert many.opened.total() == few.opened.total() < 100, (few, many)
    assert many.listed == few.listed
    assert set(few.listed_of_home.values()) <= {1}, "a folder of the home is listed once, and the answer passed on"
    # extraction and repair look for what killed writers left, and which shards are there
    assert max(few.listed_in_caches.values(), default=0) <= 2, few


def test_a_run_with_nothing_to_do_looks_before_and_after_it_could_extract(homes: Homes) -> None:
    few, many = (counts_of(home, "run {folder}/few.yaml --data-root {data}") for home in homes.values())
    assert many.opened.total() == few.opened.total() < 150, (few, many)
    assert many.listed == few.listed
    assert set(few.listed_of_home.values()) <= {1, 2}, "for the plan, and once its caches are there"


ABOUT_EACH = {
    "ls": ("cache ls", 3, 2, "its root, manifest and provenance; when it was written is in its folder"),
    "ls --by": ("cache ls --by backbone", 3, 2, "the same"),
    "ls --filter": ("cache ls --filter backbone={name}", 1, 0, "its root: whether it fits"),
    "verify": ("cache verify", 20, 3, "all of it, its small files up to three times, and what the home remembers"),
    "prune --unused": ("cache prune --unused --dry-run", 3, 2, "as ls"),
    "prune --superseded": ("cache prune --superseded --dry-run", 3, 2, "as ls"),
    "mirror": ("cache mirror {folder}/other --dry-run", 3, 1, "its root twice and an array's; which shards it has"),
    "index": ("cache index", 5, 5, "its manifest, made anew from its keys"),
    "probe of any dataset": (
        "probe --task foreground --backbone {name} --iterations 2 --batch-size 2 --lr 0.001", 1, 0,
        "its root: which datasets have features of that name",
    ),
}  # fmt: skip
"""What is about every cache: files opened and folders listed of each, at most, and why."""


@pytest.mark.parametrize("verb", ABOUT_EACH)
def test_what_is_about_every_cache_looks_at_each_so_often(homes: Homes, monkeypatch, verb: str) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    command, opened, listed, why = ABOUT_EACH[verb]
    few, many = (counts_of(home, command) for home in homes.values())
    assert many.listed_of_home == few.listed_of_home
    assert set(few.listed_of_home.values()) <= {1}, "a folder of the home is listed once, and the answer passed on"
    assert many.opened.total() - few.opened.total() == opened * (MANY - FEW), why
    more = sum(many.listed_in_caches.values()) - sum(few.listed_in_caches.values())
    assert more == listed * (MANY - FEW), why


def test_a_server_sends_the_index_as_it_is_and_lists_the_home_once_for_its_page(homes: Homes) -> None:
    pages = {}
    for count, home in homes.items():
        with HomeServer(home, "127.0.0.1", 0) as server, in_a_thread(server):
            asked = []
            for target in ("/index.json", "/", "/"):
                with counted(home) as counts:
                    assert ask(server, target)[0] == 200
                asked.append(counts)
        index, pages[count], again = asked
        assert (index.opened, index.listed) == ({"index.json": 1}, {})
        assert not again.opened, "for some seconds"
        assert not again.listed
    few, many = pages.values()
    assert many.listed == few.listed == dict.fromkeys(few.listed_of_home, 1)
    assert {key.rpartition("/")[2] for key in many.opened} == {"zarr.json", "manifest.json"}
    assert set(many.opened.values()) == {1}
    assert many.opened.total() == 2 * MANY
