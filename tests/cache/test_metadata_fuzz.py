"""Whatever the small files of a cache say: it is what deapcache would write, or one of its errors says it is not."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from deapcache_caches import GRID, feature_recipe
from hypothesis import given, settings
from hypothesis import strategies as st

from deapcache.cache import ArraySpec, IndexEntry, Manifest, feature_arrays
from deapcache.cache.format import Group, array_metadata, read_group, stored_array
from deapcache.cache.image_ids import check_image_id_metadata, image_id_metadata
from deapcache.cache.web_index import index_bytes, manifest_bytes, parse_index, parse_manifest
from deapcache.errors import CorruptCacheError, DeapcacheError, FormatVersionError
from deapcache.recipe import ImageRecipe, TargetRecipe

IMAGES = 130
FREE = ("clevel", "blocksize")


class Memory:
    """A location with one key."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, key: str, *, most: int | None = None) -> bytes:
        assert most is not None
        return self._data

    def __str__(self) -> str:
        return "memory"


def read_group_from(data: bytes) -> Any:
    return json.loads(read_group(Memory(data)).to_bytes())


def read_array_from(data: bytes) -> Any:
    stored = stored_array(Memory(data), "features", IMAGES)
    assert stored.images == IMAGES
    return array_metadata(stored.spec, stored.images, stored.shard_images)


def read_ids_from(data: bytes) -> Any:
    check_image_id_metadata(Memory(data), "image_id_offsets", IMAGES + 1)
    return image_id_metadata("image_id_offsets", IMAGES + 1)


def read_manifest_from(data: bytes) -> Any:
    if (found := parse_manifest(data)) is None:
        raise CorruptCacheError("none")
    return json.loads(manifest_bytes(found))


def read_index_from(data: bytes) -> Any:
    if (found := parse_index(data)) is None:
        raise CorruptCacheError("none")
    return json.loads(index_bytes(found))


RECIPES = (
    feature_recipe(),
    ImageRecipe(size=(6, 7), fit="squash", interpolation="bicubic", colour="rgb", images="ab" * 32),
    TargetRecipe(
        annotation="depth", size=(4, 4), fit="squash", options={"a": 1}, classes=("x", "y"), images="a", annotations="b"
    ),
)  # fmt: skip
ENTRY = IndexEntry(
    path="features/coco/val/a-0.zarr", kind="features", dataset="coco", split="val", name="a", view="original",
    digest="0" * 64, images=3, total=130, bytes=999,
)  # fmt: skip
BOXES = ArraySpec(name="features", dtype="float64", item_shape=(9, 7), dimensions=("box", "channel"))
DOCUMENTS: list[tuple[Callable[[bytes], Any], Any]] = [
    *(
        (read_group_from, json.loads(Group(
            kind=recipe.kind, recipe=recipe.to_json(), digest=recipe.digest, arrays=("scales", "features"),
            images=IMAGES, attributes={"dataset": "coco"},
        ).to_bytes()))
        for recipe in RECIPES
    ),
    *(
        (read_array_from, json.loads(json.dumps(array_metadata(spec, IMAGES, 3))))
        for spec in (feature_arrays("int8", GRID, 8)[-1], feature_arrays("float16", GRID, 8, compress=False)[-1], BOXES)
    ),
    (read_ids_from, json.loads(json.dumps(image_id_metadata("image_id_offsets", IMAGES + 1)))),
    (read_manifest_from, json.loads(manifest_bytes(Manifest(
        kind="features", digest="0" * 64, images=3, total=130, bytes=999, keys={"zarr.json": 9, "features/c.0": 990},
    )))),
    (read_index_from, json.loads(index_bytes([ENTRY, ENTRY]))),
]  # fmt: skip

SCALARS = (
    st.none()
    | st.booleans()
    | st.sampled_from([-1, 0, 1, 2, 3, 5, 2**31, 2**63, 10**30, 0.0, 1.0, 3.0, 1e308, float("nan"), float("inf")])
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "features", "images", "zstd", "noshuffle", "float32", "..", "a/b", "\x1b[2J", "\ud800", "é"])
    | st.text(max_size=5)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(document: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value below the root."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    found = []
    for key, value in items if isinstance(document, dict | list) else ():
        found += [(*way, key), *places(value, (*way, key))] if isinstance(value, dict | list) else [(*way, key)]
    return found


def change(data: st.DataObject, document: Any) -> None:
    """Change one value of a document, somewhere."""
    *way, last = data.draw(st.sampled_from(places(document)))
    holder = document
    for key in way:
        holder = holder[key]
    old = holder[last]
    action = data.draw(st.sampled_from(["replace", "delete", "add", "repeat", "as text", "as float", "as truth"]))
    if action == "delete":
        del holder[last]
    elif action == "add" and isinstance(holder, dict):
        holder[data.draw(st.text(max_size=6))] = data.draw(VALUES)
    elif action == "repeat":
        holder[last] = [old, old] if data.draw(st.booleans()) else [old]
    elif action == "as text":
        holder[last] = str(old)
    elif action == "as float" and type(old) is int:
        holder[last] = float(old)
    elif action == "as truth":
        holder[last] = bool(old)
    else:
        holder[last] = data.draw(VALUES)


def strict(document: Any) -> str:
    """JSON in which 1, 1.0 and true differ, without what a reader does not need."""

    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without(each) for key, each in value.items() if key not in FREE}
        return [without(each) for each in value] if isinstance(value, list) else value

    return json.dumps(without(document), sort_keys=True)


def require_refused_or_written(read: Callable[[bytes], Any], data: bytes) -> bool:
    """Whether ``data`` is accepted: then it says what is written for what was understood, and nothing else."""
    try:
        written = read(data)
    except (CorruptCacheError, FormatVersionError):
        return False
    assert strict(json.loads(data)) == strict(json.loads(json.dumps(written)))
    return True


@pytest.mark.parametrize(("read", "document"), DOCUMENTS)
def test_what_is_written_is_read(read: Callable[[bytes], Any], document: Any) -> None:
    assert require_refused_or_written(read, json.dumps(document).encode())


@pytest.mark.parametrize(("read", "document"), DOCUMENTS)
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_changed_values_are_refused_or_would_be_written(
    read: Callable[[bytes], Any], document: Any, data: st.DataObject
) -> None:
    changed = copy.deepcopy(document)
    for _ in range(data.draw(st.integers(1, 3))):
        if places(changed):
            change(data, changed)
    require_refused_or_written(read, json.dumps(changed).encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize(("read", "document"), DOCUMENTS)
@settings(max_examples=80, deadline=None)
@given(st.data())
def test_changed_bytes_are_refused_or_would_be_written(
    read: Callable[[bytes], Any], document: Any, data: st.DataObject
) -> None:
    raw = bytearray(json.dumps(document).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    require_refused_or_written(read, bytes(raw))


@pytest.mark.parametrize(("read", "document"), DOCUMENTS)
@settings(max_examples=60, deadline=None)
@given(junk=VALUES)
def test_any_other_json_is_refused(read: Callable[[bytes], Any], document: Any, junk: Any) -> None:
    with pytest.raises(DeapcacheError):
        read(json.dumps(junk).encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize(("read", "document"), DOCUMENTS)
@pytest.mark.parametrize("raw", [b"", b"[" * 100_000, b"9" * 10_000, b"\xff\xfe", b"null", b'{"a":' * 5000, b"NaN"])
def test_text_that_is_no_such_document_is_refused(read: Callable[[bytes], Any], document: Any, raw: bytes) -> None:
    with pytest.raises(DeapcacheError):
        read(raw)


@pytest.mark.parametrize(
    ("name", "value"), [("clevel", "x"), ("clevel", 10), ("clevel", True), ("blocksize", -1), ("blocksize", None)]
)
def test_what_the_compressor_could_not_be_told_is_refused(name: str, value: Any) -> None:
    """A shard that is added later is compressed as the metadata says."""
    metadata = json.loads(json.dumps(array_metadata(feature_arrays("float16", GRID, 8)[-1], IMAGES, 3)))
    packing = metadata["codecs"][0]["configuration"]["codecs"][1]["configuration"]
    assert name in packing
    packing[name] = value
    with pytest.raises(CorruptCacheError, match=name):
        read_array_from(json.dumps(metadata).encode())
