"""Whether the small files of a cache say what deapcache writes: every ``zarr.json``, the image ids, the provenance."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from deapcache.cache.cache import PROVENANCE
from deapcache.cache.group import read_group
from deapcache.cache.identifiers import BYTES, OFFSETS, identifier_metadata, read_identifiers
from deapcache.cache.layout import METADATA_KEY, UNCOMPRESSED, StoredArray, array_metadata, stored_array
from deapcache.cache.store import read_whole
from deapcache.errors import CacheMissError, CorruptCacheError
from deapcache.locations import Location

_AXES = (("row", "column", "channel"), ("row", "column"), ("box", "column"), ("channel",))
"""Names of the axes of features, images and maps; of scales and depth; of boxes; of class tokens."""

_COMPRESSORS = ("blosclz", "lz4", "lz4hc", "zlib", "zstd", "snappy")
_SHUFFLES = ("noshuffle", "shuffle", "bitshuffle")

_FREE = ("clevel", "blocksize")
"""How hard Blosc tried: no reader needs them, and they may differ between versions."""


def metadata_problems(location: Location) -> dict[str, str]:
    """Key → what is wrong with it, of all small files of the cache at ``location``; {} where nothing is.

    Raises :class:`CacheMissError` where there is no cache and :class:`LocationError` where it cannot be reached.
    """
    checks = {METADATA_KEY: lambda: _root_problem(location)}
    try:
        names = read_group(location).arrays
    except CacheMissError:
        raise
    except CorruptCacheError:
        names = ()
    for name in names:
        checks[f"{name}/{METADATA_KEY}"] = _array_check(location, name)
    found = {key: problem for key, check in checks.items() if (problem := _told(check))}
    if not found:
        found = _identifier_problems(location)
    return {**found, **_provenance_problems(location)}


def _told(check: Callable[[], str]) -> str:
    """The problem that a check returns or raises."""
    try:
        return check()
    except (CorruptCacheError, ValueError, KeyError, TypeError) as error:
        return str(error)


def _root_problem(location: Location) -> str:
    return _difference(json.loads(location.read(METADATA_KEY)), json.loads(read_group(location).to_bytes()))


def _array_check(location: Location, name: str) -> Callable[[], str]:
    return lambda: _array_problem(location, stored_array(location, name))


def _array_problem(location: Location, stored: StoredArray) -> str:
    group = read_group(location)
    if stored.images != group.images:
        return f"it speaks of {stored.images} images, the cache has {group.images}"
    if stored.spec.dimensions not in _AXES:
        return f"its axes are named {', '.join(stored.spec.dimensions)}"
    compressor, _, shuffle = stored.spec.compression.partition("+")
    known = compressor in _COMPRESSORS and shuffle in _SHUFFLES
    if not known and stored.spec.compression != UNCOMPRESSED:
        return f"it is compressed by {compressor} with {shuffle}, which Blosc does not have"
    expected = array_metadata(stored.spec, stored.images, stored.shard_images)
    return _difference(stored.metadata, json.loads(json.dumps(expected)))


def _difference(found: Any, expected: Any, place: str = "") -> str:
    """The first place where two JSON documents differ; empty where they do not."""
    if isinstance(found, dict) and isinstance(expected, dict):
        names = [name for name in (*expected, *(found.keys() - expected.keys())) if name not in _FREE]
        pairs = ((found.get(name), expected.get(name), f"{place}.{name}".lstrip(".")) for name in names)
        return next((told for pair in pairs if (told := _difference(*pair))), "")
    if isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        parts = enumerate(zip(found, expected, strict=True))
        return next((told for i, pair in parts if (told := _difference(*pair, f"{place}[{i}]"))), "")
    # True is 1 to Python, and 1 is 1.0; neither is in JSON
    if type(found) is type(expected) and found == expected:
        return ""
    return f"it has {json.dumps(found)} as {place}, expected {json.dumps(expected)}"


def _identifier_problems(location: Location) -> dict[str, str]:
    """Of the image ids: their ``zarr.json`` first, for what these say of the rest must hold."""
    images = read_group(location).images
    lengths = {BYTES: None, OFFSETS: images + 1}
    checks = {f"{name}/{METADATA_KEY}": _described(location, name, length) for name, length in lengths.items()}
    if found := {key: problem for key, check in checks.items() if (problem := _told(check))}:
        return found
    checks = {
        f"{name}/c.0": _readable(location / name, dtype) for name, dtype in ((BYTES, "uint8"), (OFFSETS, "int64"))
    }
    if found := {key: problem for key, check in checks.items() if (problem := _told(check))}:
        return found
    checks = {f"{OFFSETS}/c.0": lambda: _names_problem(location, images)}
    return {key: problem for key, check in checks.items() if (problem := _told(check))}


def _described(location: Location, name: str, length: int | None) -> Callable[[], str]:
    def check() -> str:
        try:
            found = json.loads(location.read(f"{name}/{METADATA_KEY}"))
        except FileNotFoundError:
            return "it is missing"
        (own,) = found["shape"]
        return _difference(found, json.loads(json.dumps(identifier_metadata(name, own if length is None else length))))

    return check


def _readable(folder: Location, dtype: str) -> Callable[[], str]:
    def check() -> str:
        read_whole(folder, dtype, length=json.loads(folder.read(METADATA_KEY))["shape"][0])
        return ""

    return check


def _names_problem(location: Location, images: int) -> str:
    """Whether the ids are text, and the offsets cover all of their bytes."""
    read_identifiers(location, images)
    return ""


def _provenance_problems(location: Location) -> dict[str, str]:
    if not location.can_list:
        return {}
    return dict(_bad_provenance(location))


def _bad_provenance(location: Location) -> Iterator[tuple[str, str]]:
    for key in location.keys(PROVENANCE):
        try:
            facts = json.loads(location.read(key))
        except FileNotFoundError:  # deleted since it was listed
            continue
        except (ValueError, RecursionError) as error:
            yield key, f"it is no JSON ({error})"
            continue
        if not isinstance(facts, dict):
            yield key, "it is no JSON object"
