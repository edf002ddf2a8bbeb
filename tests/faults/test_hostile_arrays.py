"""Arrays and image ids that cannot be: absurd shapes, types and codecs are refused before memory is reserved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deapcache_faults import Tally
from deapcache_hostile import SEEN, Change, edit, require_refused

from deapcache.cache import FeatureCache
from deapcache.cache.image_ids import plain_array_files


def _shape(number: object, axis: int) -> Change:
    def change(metadata: dict[str, Any]) -> None:
        metadata["shape"][axis] = number
        if axis:
            metadata["chunk_grid"]["configuration"]["chunk_shape"][axis] = number
            metadata["codecs"][0]["configuration"]["chunk_shape"][axis] = number

    return change


def _shard(number: object) -> Change:
    return lambda metadata: metadata["chunk_grid"]["configuration"]["chunk_shape"].__setitem__(0, number)


def _codecs(*names: str) -> Change:
    codecs = [{"name": name, "configuration": {"level": 1}} for name in names]
    return lambda metadata: metadata["codecs"][0]["configuration"].update(codecs=codecs)


def _big_endian(metadata: dict[str, Any]) -> None:
    metadata["codecs"][0]["configuration"]["codecs"][0] = {"name": "bytes", "configuration": {"endian": "big"}}


ABSURD: dict[str, Change] = {
    "2^40 images": _shape(2**40, 0),
    "-1 images": _shape(-1, 0),
    "half an image": _shape(129.5, 0),
    "2^40 channels": _shape(2**40, 3),
    "2^62 rows": _shape(2**62, 1),
    "2^30 rows": _shape(2**30, 1),
    "no channel": _shape(0, 3),
    "-8 channels": _shape(-8, 3),
    "8.0 channels": _shape(8.0, 3),
    "channels in words": _shape("eight", 3),
    "shards of 2^40": _shard(2**40),
    "shards of 2^62": _shard(2**62),
    "shards of 0": _shard(0),
    "Python objects": lambda metadata: metadata.update(data_type="object"),
    "raw records": lambda metadata: metadata.update(data_type="<V9"),
    "a type that is a list": lambda metadata: metadata.update(data_type=["float16"]),
    "gzip, a bomb": _codecs("bytes", "gzip", "blosc", "crc32c"),
    "no checksum": _codecs("bytes", "blosc"),
    "an index without checksum": lambda m: m["codecs"][0]["configuration"].update(index_codecs=[{"name": "bytes"}]),
    "numbers highest byte first": _big_endian,
    "no codecs": lambda metadata: metadata.update(codecs=[]),
}


@pytest.mark.parametrize("claim", ABSURD)
def test_absurd_arrays(cache: FeatureCache, tmp_path: Path, tally: Tally, claim: str) -> None:
    edit(cache, "features/zarr.json", ABSURD[claim])
    with tally.fault("hostile metadata: shapes, types, codecs", SEEN):
        require_refused(cache, tmp_path, r"features/zarr\.json")


@pytest.mark.parametrize("length", [2**40, 2**62, -1, 1, 7.5, "many"])
@pytest.mark.parametrize("array", ["image_id", "image_id_offsets"])
def test_absurd_image_ids(cache: FeatureCache, tmp_path: Path, tally: Tally, array: str, length: object) -> None:
    def change(metadata: dict[str, Any]) -> None:
        metadata["shape"] = [length]
        metadata["chunk_grid"]["configuration"]["chunk_shape"] = [length]

    edit(cache, f"{array}/zarr.json", change)
    with tally.fault("hostile metadata: image ids", SEEN):
        require_refused(cache, tmp_path, array)


def _with_ids(cache: FeatureCache, offsets: list[int], joined: bytes) -> None:
    """Ids that are stored properly, and say nonsense."""
    for name, values in (("image_id_offsets", np.array(offsets)), ("image_id", np.frombuffer(joined, np.uint8))):
        for key, data in plain_array_files(name, values):
            (cache.location.path / key).write_bytes(data)


@pytest.mark.parametrize(
    ("offsets", "joined", "match"),
    [
        ([*range(130), 5], b"x" * 5, "does not rise"),
        ([7, *range(1, 131)], b"x" * 130, "does not rise"),
        ([0] + [-1] * 130, b"", "does not rise"),
        ([*range(131)], b"\xff" * 130, "no UTF-8"),
        ([0] + [2**40] * 130, b"x", "expected 1099511627776"),
        ([*range(130)], b"x" * 129, "expected 131"),
    ],
)
def test_image_ids_that_are_none(
    cache: FeatureCache, tmp_path: Path, tally: Tally, offsets: list[int], joined: bytes, match: str
) -> None:
    _with_ids(cache, offsets, joined)
    with tally.fault("hostile image ids", SEEN):
        require_refused(cache, tmp_path, match)
