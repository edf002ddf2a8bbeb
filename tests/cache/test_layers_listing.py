"""Caches of several homes as one list: whose is taken, and how a miss names the homes."""

from __future__ import annotations

from pathlib import Path

import pytest
from deapcache_caches import feature_cache, fill

from deapcache import locations
from deapcache.cache import find_caches, find_one, list_caches
from deapcache.errors import CacheMissError
from deapcache.locations import LocalLocation

WANTED = {"dataset": "coco", "split": "train"}


@pytest.fixture
def places(tmp_path: Path) -> list[LocalLocation]:
    """The own home, the lab's and the world's."""
    for name in ("own", "lab", "world"):
        (tmp_path / name).mkdir()
    return [LocalLocation(tmp_path / name) for name in ("own", "lab", "world")]


def _layered(places: list[LocalLocation]) -> locations.Location:
    return locations.home(places[0].path, read_homes=[place.path for place in places[1:]])


def test_caches_of_all_homes_are_found_with_their_home(places: list[LocalLocation]) -> None:
    own, lab, world = places
    feature_cache(own, precision="fp16")
    fill(feature_cache(lab))
    feature_cache(world, precision="bf16")
    listed = list_caches(_layered(places), "features")
    assert [entry.home for entry in listed] == places
    found = find_one(_layered(places), "features", **WANTED, fields={"precision": "fp32"})
    assert found.location == lab / found.path
    assert found.open().is_complete()


@pytest.mark.parametrize(
    ("shards", "taken"),
    [
        ([range(43), range(44), range(44)], 1),  # the first complete one
        ([range(44), range(44), range(0)], 0),
        ([range(2), range(5), range(4)], 1),  # none is complete: the fullest
        ([range(3), range(3), range(3)], 0),
    ],
)
def test_of_one_cache_in_several_homes_the_fullest_is_taken(
    places: list[LocalLocation], shards: list[range], taken: int
) -> None:
    for place, some in zip(places, shards, strict=True):
        fill(feature_cache(place), some)
    (found,) = find_caches(_layered(places), "features", **WANTED)
    assert found.home == places[taken]


def test_a_damaged_copy_is_passed_over(places: list[LocalLocation]) -> None:
    own, lab, _ = places
    cache = feature_cache(own)
    fill(cache)
    fill(feature_cache(lab))
    own_path = cache.location
    assert isinstance(own_path, LocalLocation)
    (own_path.path / "features" / "zarr.json").write_text("{")
    (found,) = find_caches(_layered(places), "features", **WANTED)
    assert found.home == lab


def test_a_miss_names_all_homes_and_the_nearest_with_its_own(places: list[LocalLocation]) -> None:
    entry = feature_cache(places[1])
    with pytest.raises(CacheMissError) as raised:
        find_one(_layered(places), "features", **WANTED, fields={"storage": "int8"})
    first, near, *_ = str(raised.value).splitlines()
    assert first.startswith(f"None of the homes {', '.join(map(str, places))} has features of coco train")
    assert str(entry.location) in near
