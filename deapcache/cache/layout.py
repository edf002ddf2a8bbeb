"""How arrays lie in a cache: Zarr v3, one image a chunk, many images a shard.

Any Zarr library reads them. ``zarr.json`` is the one place that says how large a shard is and how it is compressed:
neither is part of the recipe, and a reader or a second writer takes both from there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deapcache.cache.bounds import INDEX_CODECS, MOST_IMAGES, require_codecs, require_size, shorten, whole_numbers
from deapcache.errors import CorruptCacheError, NotAFileError
from deapcache.locations import Location

METADATA_KEY = "zarr.json"
SHARD_BYTES = 100_000_000
"""A shard holds about as much of the largest array: few files, yet one fits in memory while it is encoded."""
MIN_SHARDS = 64
"""A small cache is still cut in so many shards, for progress, resumption and several writers."""

# Feature reads must keep up with the memory bus: lz4 does (zstd halves the speed for 4 to 7% of the size), and bytes
# that do not shrink are stored as they are. The numbers in a rounded float16 container end in three zero bits, which
# only a bit shuffle turns into runs: 0.78 of the size. Photographs shrink to 0.79 with zstd and a bit shuffle (0.97
# with lz4 and a byte shuffle) and are read once per backbone. Maps of ids are long runs of one number: zstd makes them
# five times smaller than lz4, and being tiny they are still unpacked faster than a step needs them. Tables of boxes
# (float64) are mostly padding: they are no larger.
DEFAULT_COMPRESSION = {
    "float16": "lz4+shuffle",
    "float32": "lz4+shuffle",
    "float64": "zstd+shuffle",
    "int8": "lz4+noshuffle",
    "uint8": "zstd+bitshuffle",
    "int16": "zstd+shuffle",
    "int32": "zstd+shuffle",
}
ROUNDED_COMPRESSION = "lz4+bitshuffle"
UNCOMPRESSED = "none"

# Photographs gain 2% from zstd's level 5 and are written six times slower; everything else is fast at 5.
_LEVELS = {"zstd+bitshuffle": 1}


@dataclass(frozen=True, kw_only=True)
class ArraySpec:
    """One array of a cache: (N, ``*item_shape``), N being the number of images.

    An absent chunk is an error when read, whatever the fill value (NaN for floats, 0 for integers).
    """

    name: str
    dtype: str
    """``float16``, ``float32``, ``float64``, ``uint8``, ``int8``, ``int16`` or ``int32``."""
    item_shape: tuple[int, ...]
    """Shape of one image's entry: (H, W, D)."""
    dimensions: tuple[str, ...]
    """Names of those axes: (``row``, ``column``, ``channel``); ``image`` is prepended when stored."""
    compression: str = field(default="", compare=False)
    """Blosc's compressor and shuffle, ``lz4+shuffle``, or ``none``; by default what suits the dtype."""

    def __post_init__(self) -> None:
        if not self.compression:
            object.__setattr__(self, "compression", DEFAULT_COMPRESSION[self.dtype])

    @property
    def item_bytes(self) -> int:
        """Bytes of one image's entry, uncompressed."""
        return math.prod(self.item_shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, kw_only=True)
class StoredArray:
    """An array as its ``zarr.json`` describes it."""

    spec: ArraySpec
    images: int
    shard_images: int
    metadata: dict[str, Any]

    def shard_key(self, shard: int) -> str:
        """The key of a shard, relative to the cache: ``features/c.3.0.0.0``."""
        # The separator "." keeps a shard from costing a folder for each of its four indices.
        return f"{self.spec.name}/c.{shard}" + ".0" * len(self.spec.item_shape)

    def shard_of_key(self, key: str) -> int | None:
        """The shard that a key of the cache holds, None for any other key."""
        found = re.fullmatch(re.escape(self.spec.name) + r"/c\.(\d+)" + r"\.0" * len(self.spec.item_shape), key)
        return int(found[1]) if found and int(found[1]) * self.shard_images < self.images else None


def shard_images_for(arrays: Sequence[ArraySpec], images: int) -> int:
    """Images per shard of a new cache, at least 1."""
    largest = max(spec.item_bytes for spec in arrays)
    return max(1, min(SHARD_BYTES // largest, math.ceil(images / MIN_SHARDS)))


def array_metadata(spec: ArraySpec, images: int, shard_images: int) -> dict[str, Any]:
    """The content of ``zarr.json`` of a sharded array."""
    inner = [*pack_codecs(spec.dtype, spec.compression), {"name": "crc32c"}]
    sharding = {
        "chunk_shape": [1, *spec.item_shape],
        "codecs": inner,
        "index_codecs": [_bytes_codec(8), {"name": "crc32c"}],
        "index_location": "end",
    }
    return plain_metadata(
        shape=(images, *spec.item_shape),
        chunk_shape=(shard_images, *spec.item_shape),
        dtype=spec.dtype,
        dimensions=("image", *spec.dimensions),
        codecs=[{"name": "sharding_indexed", "configuration": sharding}],
    )


def plain_metadata(
    *,
    shape: tuple[int, ...],
    chunk_shape: tuple[int, ...],
    dtype: str,
    dimensions: tuple[str, ...],
    codecs: list[dict[str, Any]],
) -> dict[str, Any]:
    """``zarr.json`` of any array, the fill value being NaN for floats and 0 for integers."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk_shape)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": "NaN" if dtype.startswith("float") else 0,
        "codecs": codecs,
        "attributes": {},
        "dimension_names": list(dimensions),
        "storage_transformers": [],
    }


def pack_codecs(dtype: str, compression: str) -> list[dict[str, Any]]:
    """The codecs from numbers to stored bytes."""
    itemsize = np.dtype(dtype).itemsize
    if compression == UNCOMPRESSED:
        return [_bytes_codec(itemsize)]
    compressor, shuffle = compression.split("+")
    settings = {
        "cname": compressor,
        "clevel": _LEVELS.get(compression, 5),
        "shuffle": shuffle,
        "typesize": itemsize,
        "blocksize": 0,
    }
    return [_bytes_codec(itemsize), {"name": "blosc", "configuration": settings}]


def _bytes_codec(itemsize: int) -> dict[str, Any]:
    return {"name": "bytes", "configuration": {"endian": "little"}} if itemsize > 1 else {"name": "bytes"}


def stored_array(location: Location, name: str) -> StoredArray:
    """The array ``name`` of the cache at ``location``; raises :class:`CorruptCacheError`."""
    key = f"{name}/{METADATA_KEY}"
    try:
        metadata = json.loads(location.read(key))
        return _parse(name, metadata)
    except FileNotFoundError:
        problem = "it is missing"
    except NotAFileError as error:
        problem = str(error)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        problem = f"it does not describe an array of deapcache ({type(error).__name__}: {error})"
    raise CorruptCacheError(
        f"{location}/{key}: {problem}. Restore that file from a copy, or move the folder away and extract again"
    )


def _parse(name: str, metadata: dict[str, Any]) -> StoredArray:
    images, *item = whole_numbers(metadata["shape"], "the shape")
    shard_images, *shard_item = whole_numbers(metadata["chunk_grid"]["configuration"]["chunk_shape"], "a shard's shape")
    (sharding,) = metadata["codecs"]
    inner = sharding["configuration"]
    if shard_item != item or whole_numbers(inner["chunk_shape"], "a chunk's shape") != [1, *item]:
        raise ValueError("one image is not one chunk")
    _require_possible(images, shard_images, item, metadata["data_type"])
    require_codecs(inner["codecs"])
    require_codecs(inner["index_codecs"], INDEX_CODECS)
    separator = metadata["chunk_key_encoding"]["configuration"]["separator"]
    if separator != "." or sharding["name"] != "sharding_indexed":
        raise ValueError("it is not sharded as expected")
    spec = ArraySpec(
        name=name,
        dtype=np.dtype(metadata["data_type"]).name,
        item_shape=tuple(item),
        dimensions=tuple(metadata["dimension_names"][1:]),
        compression=_compression(inner["codecs"]),
    )
    return StoredArray(spec=spec, images=images, shard_images=shard_images, metadata=metadata)


def _require_possible(images: int, shard_images: int, item: list[int], dtype: Any) -> None:
    if dtype not in DEFAULT_COMPRESSION:
        raise ValueError(f"the data type is {shorten(dtype)}, expected one of {', '.join(DEFAULT_COMPRESSION)}")
    if not shard_images <= images <= MOST_IMAGES:
        raise ValueError(f"{images} images in shards of {shard_images}, at most {MOST_IMAGES} images are possible")
    require_size(item, np.dtype(dtype).itemsize, "an image's entry")


def _compression(codecs: list[dict[str, Any]]) -> str:
    if not any(codec["name"] == "blosc" for codec in codecs):
        return UNCOMPRESSED
    (blosc,) = (codec["configuration"] for codec in codecs if codec["name"] == "blosc")
    return f"{blosc['cname']}+{blosc['shuffle']}"
