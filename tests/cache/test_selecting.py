"""Which caches a text means, and which belong together."""

from __future__ import annotations

import pytest
from deapcache_caches import feature_cache, feature_recipe, image_ids, served

from deapcache.cache import (
    ArraySpec,
    CacheEntry,
    create_cache,
    find_caches,
    images_path,
    list_caches,
    match_filters,
    related_caches,
    select_cache,
    select_caches,
    select_folder,
    select_folders,
    targets_path,
)
from deapcache.errors import AmbiguousCacheError, CacheMissError, UsageError
from deapcache.locations import LocalLocation, locate
from deapcache.recipe import ImageRecipe, TargetRecipe


@pytest.fixture
def two(home: LocalLocation) -> list[CacheEntry]:
    """Two caches of one backbone."""
    for storage in ("float16", "int8"):
        feature_cache(home, storage)
    return list_caches(home)


def test_a_path_a_part_of_it_and_a_digest_mean_the_cache(home: LocalLocation, two: list[CacheEntry]) -> None:
    for entry in two:
        for text in (entry.path, f"{home}/{entry.path}", f"{entry.path}/", entry.digest, entry.digest[:9]):
            assert select_cache(home, text) == entry
            assert select_folder(home, text).entry == entry
    assert select_caches(home, ["vit-b"]) == two
    assert select_caches(home, []) == two
    assert select_caches(home, [two[1].digest, two[0].path]) == two


@pytest.mark.parametrize("select", [select_cache, select_folder])
def test_several_or_none_are_one_clear_error(home: LocalLocation, two: list[CacheEntry], select: object) -> None:
    assert callable(select)
    with pytest.raises(AmbiguousCacheError) as several:
        select(home, "coco")
    assert all(entry.path in str(several.value) for entry in two)
    for text in ("nonsense", "", f"{home}/"):
        with pytest.raises(CacheMissError, match=f"fits '{text}'"):
            select(home, text)


def test_a_cache_on_a_web_server_is_meant_by_its_path(home: LocalLocation, two: list[CacheEntry]) -> None:
    home.delete("index.json")
    with served(home.path) as (address, _):
        place = locate(address)
        assert not place.can_list
        assert select_cache(place, two[0].path).digest == two[0].digest
        assert select_cache(place, f"{address}/{two[0].path}").digest == two[0].digest
        with pytest.raises(CacheMissError, match="give the path of one cache"):
            select_cache(place, two[0].digest)
        with pytest.raises(CacheMissError):
            select_cache(place, two[0].path.replace("vit", "vat"))


FACTS = {"path": "features/coco/train/vit-0123.zarr", "digest": "0123456789abcdef", "complete": False,
         "storage": "int8", "image_size": [224, 224], "images": 130}  # fmt: skip


@pytest.mark.parametrize(
    ("filters", "wanted"),
    [
        ([], True),
        (["VIT"], True),
        (["0123"], True),
        (["siglip"], False),
        (["storage=int8", "vit"], True),
        (["storage=int8", "siglip"], False),
        (["storage=int"], False),
        (["complete=false"], True),
        (["complete=true"], False),
        (["image_size=[224,224]"], True),
        (["images=130"], True),
        (["digest=01234567"], True),
        (["digest=0123"], False),
    ],
)
def test_filters(filters: list[str], wanted: bool) -> None:
    assert match_filters([FACTS], filters) == [wanted]
    assert match_filters([{"path": "x", "digest": "y"}, FACTS], filters)[1] is wanted


def test_a_filter_of_an_unknown_field_says_what_there_is() -> None:
    with pytest.raises(UsageError, match=r"no 'weather'; give one of complete, digest, image_size"):
        match_filters([FACTS], ["weather=fine"])


def test_features_have_the_base_images_and_targets_of_the_same_images(home: LocalLocation) -> None:
    feature_cache(home)
    same, size = feature_recipe().images, (224, 224)
    for images, side in ((same, size), ("other", size), (same, (56, 56))):
        made = ImageRecipe(size=side, fit="squash", interpolation="pillow bicubic", colour="rgb", images=images)
        spec = ArraySpec(name="images", dtype="uint8", item_shape=(*side, 3), dimensions=("row", "column", "channel"))
        path = images_path("coco", "train", made.digest)
        create_cache(home, path, recipe=made, arrays=[spec], image_ids=image_ids())
        target = TargetRecipe(
            annotation="depth", size=side, fit="squash", options={}, classes=(), images=images, annotations="x"
        )
        spec = ArraySpec(name="targets", dtype="float32", item_shape=side, dimensions=("row", "column"))
        path = targets_path("coco", "train", "depth", target.digest)
        create_cache(home, path, recipe=target, arrays=[spec], image_ids=image_ids())
    (features,) = list_caches(home, "features")
    found = related_caches(features)
    assert [entry.kind for entry in found] == ["images", "targets"]
    assert {entry.recipe["images"] for entry in found} == {same}
    assert {tuple(entry.recipe["size"]) for entry in found} == {size}
    assert related_caches(found[0]) == []


@pytest.mark.parametrize(
    ("text", "storages"),
    [
        ("storage=int8", {"int8"}),
        ("storage=int8,float16", {"int8", "float16"}),
        ("storage=int", set()),
        ("tf32=false", {"int8", "float16"}),
        ("tf32=False", {"int8", "float16"}),
        ("tf32=true", set()),
        ("image_size=[224,224]", {"int8", "float16"}),
        ("image_size=[224, 224]", {"int8", "float16"}),
        ("backbone=vit-b-16", {"int8", "float16"}),
        ("weather=fine", set()),
    ],
)
def test_field_and_value_mean_the_same_wherever_caches_are_chosen(
    home: LocalLocation, two: list[CacheEntry], text: str, storages: set[str]
) -> None:
    field, _, value = text.partition("=")
    wanted = [entry for entry in two if entry.recipe["storage"] in storages]
    assert find_caches(home, "features", dataset="coco", split="train", fields={field: value}) == wanted
    if wanted:
        assert select_caches(home, [text]) == wanted
        assert [folder.entry for folder in select_folders(home, [text])] == wanted
    else:
        with pytest.raises(CacheMissError):
            select_caches(home, [text])
    facts = [{**entry.fields, "path": entry.path, "digest": entry.digest} for entry in two]
    if field in two[0].fields:
        assert match_filters(facts, [text]) == [entry in wanted for entry in two]


def test_fields_of_the_home_choose_caches_and_a_damaged_folder_has_none(
    home: LocalLocation, two: list[CacheEntry]
) -> None:
    for text in ("dataset=coco", "split=train", "kind=features", "name=vit-b-16", "VIT-B"):
        assert select_caches(home, [text]) == two
    home.publish(f"{two[0].path}/zarr.json", b"{}", replace=True)
    assert [folder.path for folder in select_folders(home, ["dataset=coco"])] == [two[1].path]
    assert [folder.path for folder in select_folders(home, ["coco"])] == [entry.path for entry in two]


def test_listing_by_names_looks_at_these_caches_alone(home: LocalLocation, two: list[CacheEntry]) -> None:
    assert list_caches(home, "features", dataset="coco", split="train", name="vit-b-16") == two
    for names in ({"name": "vit-b"}, {"name": "vit"}, {"dataset": "coc"}, {"split": "val"}, {"name": "vit-b-16-45"}):
        assert list_caches(home, "features", **names) == []
    other = feature_cache(home, backbone="vit-b-16-large/odd")
    assert list_caches(home, "features", name="vit-b-16") == two
    (found,) = list_caches(home, "features", name="vit-b-16-large/odd")
    assert found.digest == other.digest
