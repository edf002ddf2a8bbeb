"""What it costs to publish caches in a home of many others: no more than in a small one."""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import urlsplit

import obstore
import pytest
from deapcache_bucket import S3Bucket
from deapcache_caches import feature_cache, fill
from deapcache_counts import Counts, counted

from deapcache.cache import flush, list_caches, rebuild, remove_cache
from deapcache.datasets import open_dataset
from deapcache.extraction import ExtractionSettings, extract
from deapcache.locations import LocalLocation, locate


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a complete cache of features of ``vit-b-16``."""
    cache = feature_cache(LocalLocation(tmp_path_factory.mktemp("template")))
    fill(cache)
    return Path(str(cache.location))


def home_with(template: Path, folder: Path, count: int) -> LocalLocation:
    """A home that holds ``count`` copies of a cache, beside those that are about to be made, and their index."""
    for number in range(count):
        place = folder / "features" / "coco" / "val" / f"vit-b-16-{number:012x}.zarr"
        shutil.copytree(template, place, ignore=shutil.ignore_patterns("c.*"))
        shutil.copy(template / "image_id/c.0", place / "image_id/c.0")
        shutil.copy(template / "image_id_offsets/c.0", place / "image_id_offsets/c.0")
    home = LocalLocation(folder)
    assert len(rebuild(home)) == count
    return home


def test_a_small_extract_costs_the_same_in_homes_of_10_and_240_caches(
    make_coco, template: Path, tmp_path: Path
) -> None:
    dataset = open_dataset("coco", make_coco(6, 6))
    found: list[Counts] = []
    for count in (10, 240):
        home = home_with(template, tmp_path / str(count), count)
        with counted(home) as counts:
            reports = list(
                extract(
                    ["efficientnet-lite0-s16@untrained"], dataset, home, splits=["val"], settings=ExtractionSettings()
                )
            )
        assert [report.images for report in reports] == [6]
        assert len(list_caches(home)) > count
        found.append(counts)
    small, large = found
    assert large.opened.total() <= small.opened.total() + 4, found
    assert large.listed.total() <= small.listed.total() + 4, found
    assert small.opened.total() < 600, found


def test_refreshing_and_removing_one_cache_of_many_opens_few_files(template: Path, tmp_path: Path) -> None:
    home = home_with(template, tmp_path / "home", 120)
    cache = feature_cache(home)
    fill(cache, [0])
    with counted(home) as counts:
        flush(cache)
    assert counts.opened.total() < 20, counts
    with counted(home) as counts:
        remove_cache(cache.location)
    assert counts.opened.total() < 40, counts


def test_in_an_object_store_only_the_own_cache_is_listed(s3: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    home = locate(s3.url)
    others = [feature_cache(home, storage) for storage in ("int8", "float32")]
    for other in others:
        flush(other)
    cache = feature_cache(home)
    fill(cache, [0])
    listed: list[str] = []
    real = obstore.list

    def listing(store: obstore.store.S3Store, prefix: str | None = None) -> object:
        listed.append(f"{store.prefix}/{prefix or ''}".rstrip("/"))
        return real(store, prefix=prefix)

    monkeypatch.setattr(obstore, "list", listing)
    flush(cache)
    assert listed
    own = urlsplit(str(cache.location)).path.strip("/")
    assert all(place.startswith(own) for place in listed), listed
