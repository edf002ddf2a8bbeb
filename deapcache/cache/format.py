"""What the small files of a cache say, and how its arrays lie: Zarr v3, one image a chunk, many images a shard.

Any Zarr library reads them. The root's ``zarr.json`` says by recipe what the cache is: a cache exists if and only if
that key does. An array's ``zarr.json`` is the one place that says how large a shard is and how it is compressed:
neither is part of the recipe, and a reader or a second writer takes both from there.

One rule holds for all of them: what is read is parsed, written anew from what was understood, and compared; any
difference is damage. Claims that nothing deapcache writes could meet are refused while they are still text: a cache may
come from anyone, its numbers decide how much memory a read asks for, and a library that is refused memory ends the
process.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from deapcache.errors import CacheMissError, CorruptCacheError, FormatVersionError, NotAFileError
from deapcache.locations import Location
from deapcache.recipe import FeatureRecipe, ImageRecipe, Recipe, TargetRecipe
from deapcache.untrusted import require_printable, shorten

Parsed = TypeVar("Parsed")

METADATA_KEY = "zarr.json"
RESTORE = "Restore that file from a copy, or move the folder away and extract again"
"""What to do about a damaged small file."""

FORMAT = 1
"""Version of the layout; beside the recipe, so that a new layout makes no new identity."""

SHARD_BYTES = 100_000_000
"""A shard holds about as much of the largest array: few files, yet one fits in memory while it is encoded."""
MIN_SHARDS = 64
"""A small cache is still cut in so many shards, for progress, resumption and several writers."""

MOST_BYTES = 2**31 - 1 - 32
"""Of one image's entry, and of all image ids: Blosc packs no more at once."""
MOST_METADATA = 2**24
"""Of a ``zarr.json``: that of a cache holds its recipe, with the names of all classes."""
MOST_IMAGES = 2**26
"""67 million: their ids take some ten gigabytes once they are read."""
MOST_SHARDS = 2**20
"""Each is listed, and named where it is missing; deapcache's hold 100 MB or a single image."""
MOST_SHARD_IMAGES = 2**22
"""A shard's index names each of them."""

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

_COMPRESSORS = ("blosclz", "lz4", "lz4hc", "zlib", "zstd", "snappy")
_SHUFFLES = ("noshuffle", "shuffle", "bitshuffle")
_FREE = {"clevel": 9, "blocksize": MOST_BYTES}
"""How hard Blosc tried, up to the largest that it takes: no reader needs them, and versions may differ in them."""

_AXES = frozenset({"row", "column", "channel", "box"})
"""Names of axes: of features, images and maps; of tables of boxes; of class tokens."""

_NAME_FIELDS = {"features": "backbone", "targets": "annotation"}
_RECIPES: dict[str, type[Recipe]] = {recipe.kind: recipe for recipe in (FeatureRecipe, ImageRecipe, TargetRecipe)}
LABEL, COVERED = "label", "covered"
"""Attributes of features beside the recipe, which change no number: a name for people, where it is another than the
recipe's backbone, and which share of the image's height and width the cells cover, where it is not all."""
_RESERVED = ("format", "kind", "digest", "arrays", "images", "recipe")

_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")


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


@dataclass(frozen=True, kw_only=True)
class Group:
    """The attributes of a cache, written once."""

    kind: str
    recipe: dict[str, Any]
    digest: str
    arrays: tuple[str, ...]
    """Names in the order in which a shard's arrays are published: the last one commits it."""
    images: int
    attributes: dict[str, Any]

    @property
    def name(self) -> str:
        """The label or the backbone of features, the annotation kind of targets, empty for images."""
        return str(self.attributes.get(LABEL) or self.recipe.get(_NAME_FIELDS.get(self.kind, ""), ""))

    def to_bytes(self) -> bytes:
        """The content of the root ``zarr.json``."""
        ours = {
            **self.attributes,
            "format": FORMAT,
            "kind": self.kind,
            "digest": self.digest,
            "arrays": list(self.arrays),
            "images": self.images,
            "recipe": self.recipe,
        }
        metadata = {"zarr_format": 3, "node_type": "group", "attributes": {"deapcache": ours}}
        return json.dumps(metadata, indent=2, allow_nan=False).encode()


# --- writing ----------------------------------------------------------------------------------------------------------


def added_fields(kind: str) -> dict[str, Any]:
    """The recipe fields of a kind that earlier versions lacked, with what a recipe without them stands for."""
    return _RECIPES[kind].omitted_defaults()


def shard_images_for(arrays: Sequence[ArraySpec], images: int) -> int:
    """Images per shard of a new cache, at least 1."""
    largest = max(spec.item_bytes for spec in arrays)
    return max(1, min(SHARD_BYTES // largest, math.ceil(images / MIN_SHARDS)))


def new_arrays(specs: Sequence[ArraySpec], images: int) -> list[StoredArray]:
    """The arrays of a cache to be created, all cut into shards of the same images."""
    length = shard_images_for(specs, images)
    return [
        StoredArray(spec=spec, images=images, shard_images=length, metadata=array_metadata(spec, images, length))
        for spec in specs
    ]


def array_metadata(spec: ArraySpec, images: int, shard_images: int) -> dict[str, Any]:
    """The content of ``zarr.json`` of a sharded array."""
    sharding = {
        "chunk_shape": [1, *spec.item_shape],
        "codecs": chunk_codecs(spec.dtype, spec.compression),
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


def chunk_codecs(dtype: str, compression: str) -> list[dict[str, Any]]:
    """The codecs from numbers to a chunk's bytes, its checksum included."""
    itemsize = np.dtype(dtype).itemsize
    if compression == UNCOMPRESSED:
        return [_bytes_codec(itemsize), {"name": "crc32c"}]
    compressor, shuffle = compression.split("+")
    settings = {
        "cname": compressor,
        "clevel": _LEVELS.get(compression, 5),
        "shuffle": shuffle,
        "typesize": itemsize,
        "blocksize": 0,
    }
    return [_bytes_codec(itemsize), {"name": "blosc", "configuration": settings}, {"name": "crc32c"}]


def _bytes_codec(itemsize: int) -> dict[str, Any]:
    return {"name": "bytes", "configuration": {"endian": "little"}} if itemsize > 1 else {"name": "bytes"}


# --- reading: parse, write anew, compare ------------------------------------------------------------------------------


def read_group(location: Location) -> Group:
    """The attributes of the cache at ``location``, checked against its digest.

    Raises :class:`CacheMissError` where there is none, :class:`FormatVersionError` for another version of the layout
    and :class:`CorruptCacheError` for anything that deapcache did not write so.
    """
    try:
        raw = location.read(METADATA_KEY, most=MOST_METADATA)
    except (FileNotFoundError, NotADirectoryError):
        raise CacheMissError(
            f"there is no cache at {location}: {METADATA_KEY} is missing (`deapcache cache ls` shows what there is)"
        ) from None
    except NotAFileError as error:
        raise _foreign(location, str(error)) from None
    try:
        found = json.loads(raw)["attributes"]["deapcache"]
        require_printable(found)
        version = found["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _foreign(location, f"{type(error).__name__}: {error}") from None
    if type(version) is not int or version != FORMAT:  # True and 1.0 are no versions
        raise FormatVersionError(
            f"{location} has format version {version!r}, this deapcache reads version {FORMAT}: "
            "upgrade deapcache, or extract again into another home"
        )
    return _parse_group(location, raw, found)


def _parse_group(location: Location, raw: bytes, found: dict[str, Any]) -> Group:
    try:
        group = Group(
            kind=found["kind"],
            recipe=dict(found["recipe"]),
            digest=found["digest"],
            arrays=_array_names(found["arrays"]),
            images=whole_numbers([found["images"]], "the number of images")[0],
            attributes={name: value for name, value in found.items() if name not in _RESERVED},
        )
        recipe = _RECIPES[group.kind]
    except (ValueError, KeyError, TypeError) as error:
        raise _foreign(location, f"{type(error).__name__}: {error}") from None
    try:
        digest = recipe.from_json(group.recipe).digest
        differing = difference(json.loads(raw), json.loads(group.to_bytes()))
    except CorruptCacheError as error:
        raise CorruptCacheError(f"{location}/{METADATA_KEY}: {error}") from None
    except (ValueError, TypeError, RecursionError) as error:  # NaN, or text that is no Unicode
        raise _foreign(location, f"{type(error).__name__}: {error}") from None
    if digest != group.digest:
        raise CorruptCacheError(
            f"{location}/{METADATA_KEY}: the recipe has the digest {digest}, but {group.digest} is written beside it: "
            f"one of them was changed. {RESTORE}"
        )
    if differing:
        raise _foreign(location, differing)
    covered = group.attributes.get(COVERED, [1.0, 1.0])
    is_pair = isinstance(covered, list) and len(covered) == 2
    is_share = is_pair and all(isinstance(share, float | int) and 0 < share <= 1 for share in covered)
    if not is_share or not isinstance(group.attributes.get(LABEL, ""), str):
        raise _foreign(location, f"{LABEL} or {COVERED} is none")
    return group


def _foreign(location: Location, reason: str) -> CorruptCacheError:
    return CorruptCacheError(f"{location}/{METADATA_KEY} is not what deapcache writes ({reason}). {RESTORE}")


def read_json(location: Location, key: str, parse: Callable[[Any], Parsed]) -> Parsed:
    """What ``parse`` makes of a JSON file of a cache; whatever it raises is told as a :class:`CorruptCacheError`."""
    try:
        return parse(json.loads(location.read(key, most=MOST_METADATA)))
    except FileNotFoundError:
        problem = "it is missing"
    except NotAFileError as error:
        problem = str(error)
    except (KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        problem = f"it does not describe an array of deapcache ({type(error).__name__}: {error})"
    except ValueError as error:
        problem = f"it does not describe an array of deapcache ({error})"
    raise CorruptCacheError(f"{location}/{key}: {problem}. {RESTORE}")


def stored_array(location: Location, name: str, images: int | None = None) -> StoredArray:
    """The array ``name`` of the cache at ``location``, of ``images`` images; raises :class:`CorruptCacheError`."""
    return read_json(location, f"{name}/{METADATA_KEY}", lambda metadata: _parse_array(name, metadata, images))


def _parse_array(name: str, metadata: dict[str, Any], expected: int | None) -> StoredArray:
    images, *item = whole_numbers(metadata["shape"], "the shape")
    shard_images, *_ = whole_numbers(metadata["chunk_grid"]["configuration"]["chunk_shape"], "a shard's shape")
    dtype = metadata["data_type"]
    if dtype not in DEFAULT_COMPRESSION:
        raise ValueError(f"the data type is {shorten(dtype)}, expected one of {', '.join(DEFAULT_COMPRESSION)}")
    if expected is not None and images != expected:
        raise ValueError(f"it speaks of {images} images, the cache has {expected}")
    if not shard_images <= images <= MOST_IMAGES:
        raise ValueError(f"{images} images in shards of {shard_images}, at most {MOST_IMAGES} images are possible")
    if shard_images > MOST_SHARD_IMAGES or math.ceil(images / shard_images) > MOST_SHARDS:
        raise ValueError(
            f"{images} images in shards of {shard_images}: at most {MOST_SHARDS} shards of {MOST_SHARD_IMAGES} are "
            "possible"
        )
    require_size(item, np.dtype(dtype).itemsize, "an image's entry")
    (sharding,) = metadata["codecs"]
    spec = ArraySpec(
        name=name,
        dtype=dtype,
        item_shape=tuple(item),
        dimensions=tuple(metadata["dimension_names"][1:]),
        compression=_compression(sharding["configuration"]["codecs"]),
    )
    if not _AXES.issuperset(spec.dimensions) or len(set(spec.dimensions)) != len(spec.dimensions):
        raise ValueError(f"its axes are named {shorten(list(spec.dimensions))}")
    if found := difference(metadata, json.loads(json.dumps(array_metadata(spec, images, shard_images)))):
        raise ValueError(found)
    return StoredArray(spec=spec, images=images, shard_images=shard_images, metadata=metadata)


def _compression(codecs: list[dict[str, Any]]) -> str:
    packing = [codec["configuration"] for codec in codecs if codec["name"] == "blosc"]
    if not packing:
        return UNCOMPRESSED
    compressor, shuffle = packing[0]["cname"], packing[0]["shuffle"]
    if compressor not in _COMPRESSORS or shuffle not in _SHUFFLES:
        raise ValueError(f"{shorten(compressor)} with {shorten(shuffle)} is no compression that Blosc has")
    return f"{compressor}+{shuffle}"


def difference(found: Any, expected: Any, place: str = "") -> str:
    """The first place where two JSON documents differ; empty where they do not."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for name in (*expected, *sorted(found.keys() - expected.keys())):
            there, wanted = found.get(name), expected.get(name)
            if name in _FREE and name in expected and type(there) is int and 0 <= there <= _FREE[name]:
                continue
            if text := difference(there, wanted, f"{place}.{name}".lstrip(".")):
                return text
            if name not in found or name not in expected:  # null is not nothing
                return f"it {'lacks' if name in expected else 'has'} {shorten(f'{place}.{name}'.lstrip('.'))}"
        return ""
    if isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        parts = enumerate(zip(found, expected, strict=True))
        return next((told for i, pair in parts if (told := difference(*pair, f"{place}[{i}]"))), "")
    # True is 1 to Python, and 1 is 1.0; neither is in JSON
    if type(found) is type(expected) and found == expected:
        return ""
    return f"it has {shorten(found)} as {place}, expected {shorten(expected)}"


# --- limits -----------------------------------------------------------------------------------------------------------


def whole_numbers(claimed: Any, what: str, *, least: int = 1) -> list[int]:
    """``claimed`` as a list of whole numbers; raises ``ValueError`` for anything else, or less than ``least``."""
    if not isinstance(claimed, list) or not all(type(each) is int and each >= least for each in claimed):
        raise ValueError(f"{what} is {shorten(claimed)}, expected whole numbers from {least}")
    return claimed


def require_size(shape: Sequence[int], itemsize: int, what: str) -> None:
    """Raise ``ValueError`` where an array of ``shape`` would be larger than anything that is packed at once."""
    claimed = math.prod(shape) * itemsize
    if claimed > MOST_BYTES:
        raise ValueError(f"{what} would be {claimed} bytes, at most {MOST_BYTES} are possible")


def _array_names(names: Any) -> tuple[str, ...]:
    """``names`` of arrays, as they are; raises ``ValueError`` where one could be a path, or there is none."""
    good = isinstance(names, list) and names and all(isinstance(each, str) and _NAME.fullmatch(each) for each in names)
    if not good or len(set(names)) != len(names):
        raise ValueError(f"the names of its arrays are {shorten(names)}, expected plain words")
    return tuple(names)
