"""``manifest.json`` of a cache and ``index.json`` of a home, for readers over plain HTTP, which cannot list.

A manifest names the keys of one cache and their sizes, the index all caches of a home. Both are derived: the keys are
the truth wherever they can be listed, and nothing that can list reads them. They are written when an extraction has
done what it can of a cache, complete or not, and not while shards are published (:func:`refresh_manifest`). A writer
that was killed leaves them behind the truth, naming fewer shards than there are: a reader over HTTP sees less. Whoever
deletes a key leaves it out first (:func:`remove_from_manifest`, :func:`remove_from_index`), so that they never name
more.

The index is changed one cache at a time, without looking at the others: a publish in a home of thousands of caches
costs what it costs in a home of one. Only where there is no index that can be used, all caches are listed.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from deapcache.cache.cache import Cache
from deapcache.cache.catalog import CacheEntry, entry_at, list_caches
from deapcache.cache.format import METADATA_KEY, StoredArray, difference, read_group, stored_array, whole_numbers
from deapcache.cache.image_ids import IMAGE_ID_KEYS
from deapcache.cache.names import KINDS, PROVENANCE, home_of, is_provenance
from deapcache.errors import (
    CacheMissError,
    CorruptCacheError,
    DeapcacheError,
    LocationError,
    NotAFileError,
    ReadOnlyError,
    UnreadableError,
)
from deapcache.locations import INDEX, LISTING_FORMAT, MANIFEST, LocalLocation, Location
from deapcache.untrusted import parse_json, require_printable

Record = TypeVar("Record", "Manifest", "IndexEntry")
Listed = TypeVar("Listed")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a cache holds."""

    kind: str
    digest: str
    images: int
    """Images that are there."""
    total: int
    """Images of the cache when it is complete."""
    bytes: int
    """Of the shards of all arrays."""
    keys: Mapping[str, int]
    """Every key of the cache but the manifest's own, and its size in bytes."""

    @property
    def is_complete(self) -> bool:
        """Whether every image is there."""
        return self.images == self.total


@dataclass(frozen=True, kw_only=True)
class IndexEntry:
    """One cache, as ``index.json`` tells of it."""

    path: str
    """Relative to the home."""
    kind: str
    dataset: str
    split: str
    name: str
    view: str
    """Empty for caches that are not of features."""
    digest: str
    images: int
    """Images that are there."""
    total: int
    """Images of the complete cache."""
    bytes: int


# --- both, brought up to date -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def refresh_manifest(*caches: Cache) -> Iterator[None]:
    """Bring the manifests of ``caches`` and the home's index up to date when the block ends, however it ends."""
    try:
        yield
    finally:
        for cache in caches:
            flush(cache)


def flush(cache: Cache) -> None:
    """Bring ``manifest.json`` of ``cache`` and what ``index.json`` says of it up to date; a failure to is a warning.

    They are derived: a failure to write them is no reason to lose an extraction.
    """
    location = cache.location
    try:
        write_manifest(location)
        if home := home_of(location):
            _change_index(home, location.url.removeprefix(f"{home.url}/"))
    except (DeapcacheError, OSError) as error:
        warnings.warn(
            f"what {location} holds could not be written down for readers over HTTP ({error}); "
            "`deapcache cache index` does it later",
            stacklevel=3,
        )


def rebuild(home: Location) -> list[IndexEntry]:
    """Write the manifests of all caches of ``home`` and its index anew, from the keys that are there."""
    home.require_writable()
    entries = list_caches(home)
    for entry in entries:
        if link_target(entry.location):  # its own home looks after it
            continue
        try:
            write_manifest(entry.location)
        except (CorruptCacheError, CacheMissError):
            continue  # what cannot be used, or was deleted since it was listed, is warned of where the index is made
        except LocationError as error:  # others have theirs all the same
            warnings.warn(f"{entry.location} has no true manifest for readers over HTTP: {error}", stacklevel=2)
    return write_index(home, entries)


# --- manifest.json of a cache -----------------------------------------------------------------------------------------


def manifest_bytes(manifest: Manifest) -> bytes:
    """The content of ``manifest.json``."""
    return json.dumps({"format": LISTING_FORMAT, **vars(manifest)}, indent=1, sort_keys=True).encode()


def list_cache(location: Location, *, without: Collection[str] = ()) -> Manifest:
    """The cache at ``location`` as its keys say; ``without`` some keys, as if they were gone.

    Raises :class:`CacheMissError` and :class:`CorruptCacheError` where there is no cache that can be opened.
    """
    group = read_group(location)
    arrays = [stored_array(location, name) for name in group.arrays]
    listed = location.sizes().items()
    sizes = {key: size for key, size in listed if _is_own(key, arrays) and key not in without}
    in_each = [{array.shard_of_key(key) for key in sizes} - {None} for array in arrays]
    shards = [shard for shard in set.intersection(*in_each) if shard is not None]
    per_shard = arrays[-1].shard_images
    return Manifest(
        kind=group.kind,
        digest=group.digest,
        images=sum(min(per_shard, group.images - shard * per_shard) for shard in shards),
        total=group.images,
        bytes=sum(size for key, size in sizes.items() if _array_of(key, arrays)),
        keys=sizes,
    )


def cache_contents(location: Location, digest: str) -> Manifest:
    """What the cache of this digest holds: as its manifest says where nothing has changed since, else as listed.

    On a file system a shard that comes or goes changes its folder; elsewhere a listing costs no more than a manifest.
    Raises what :func:`list_cache` raises.
    """
    if isinstance(location, LocalLocation) and (kept := _manifest_if_true(location, digest)):
        return kept
    return list_cache(location)


def _manifest_if_true(location: LocalLocation, digest: str) -> Manifest | None:
    kept = read_manifest(location)
    if kept is None or kept.digest != digest or METADATA_KEY not in kept.keys:
        return None
    arrays = {folder for key in kept.keys if (folder := key.partition("/")[0]) != PROVENANCE and "/" in key}
    places = [METADATA_KEY, *arrays, *(f"{name}/{METADATA_KEY}" for name in arrays)]
    with contextlib.suppress(OSError):
        written = (location.path / MANIFEST).stat().st_mtime_ns
        if all((location.path / place).stat().st_mtime_ns <= written for place in places):
            return kept
    return None


def read_manifest(location: Location) -> Manifest | None:
    """The manifest that is kept at ``location``; None where there is none that can be used."""
    data = _read(location, MANIFEST)
    return None if data is None else parse_manifest(data)


def parse_manifest(data: bytes) -> Manifest | None:
    """The manifest that ``data`` is; None for anything that :func:`manifest_bytes` would not give.

    It is derived: whoever writes next makes it anew, and who only reads does as if there were none.
    """
    try:
        document = parse_json(data)
        if not isinstance(document, dict):
            return None
        manifest = _parse_record(Manifest, {name: value for name, value in document.items() if name != "format"})
        whole_numbers(list(manifest.keys.values()), "a size", least=0)
        return None if difference(document, json.loads(manifest_bytes(manifest))) else manifest
    except (ValueError, TypeError, AttributeError):
        return None


def write_manifest(location: Location) -> Manifest:
    """Bring the manifest of the cache at ``location`` up to date.

    Several writers may do so at once: each lists and writes until what it lists is what is written, so the last one
    to look leaves nothing out. Raises what :func:`list_cache` and :meth:`Location.publish` raise.
    """
    return _write_until_read(location, MANIFEST, lambda: list_cache(location), manifest_bytes)


def remove_from_manifest(location: Location, keys: Iterable[str]) -> None:
    """Leave ``keys`` out of the manifest, before they are deleted; :func:`write_manifest` once they are."""
    leaving = set(keys)
    found = read_manifest(location)
    if found and leaving & set(found.keys):
        left = list_cache(location, without=leaving)
        location.publish(MANIFEST, manifest_bytes(left), replace=True)


def _is_own(key: str, arrays: Sequence[StoredArray]) -> bool:
    """Whether ``key`` is one that a cache of these arrays has; strays are none, nor are claims and the manifest."""
    small = (METADATA_KEY, *(f"{array.spec.name}/{METADATA_KEY}" for array in arrays), *IMAGE_ID_KEYS)
    return key in small or is_provenance(key) or _array_of(key, arrays) is not None


def _array_of(key: str, arrays: Iterable[StoredArray]) -> StoredArray | None:
    """The array of which ``key`` holds a shard."""
    return next((array for array in arrays if array.shard_of_key(key) is not None), None)


# --- index.json of a home ---------------------------------------------------------------------------------------------


def list_home(home: Location, caches: Sequence[CacheEntry] | None = None) -> list[IndexEntry]:
    """The caches of ``home``, by path; one that cannot be used is left out with a warning.

    A manifest that is damaged, or of another cache, is not believed: what is there is listed. ``caches``: those of the
    home, where it was listed already.
    """
    found = [_index_entry(entry) for entry in (list_caches(home) if caches is None else caches)]
    return sorted((entry for entry in found if entry), key=lambda entry: entry.path)


def read_index(home: Location) -> list[IndexEntry]:
    """The caches that the home's ``index.json`` names; raises :class:`LocationError` where it is none to be used."""
    try:
        entries = parse_index(home.read(INDEX))
    except FileNotFoundError:
        entries = None
    if entries is None:
        raise LocationError(
            f"{home}/{INDEX} is missing, or not what deapcache writes: `deapcache cache index` makes it"
        )
    return entries


def index_bytes(entries: Sequence[IndexEntry]) -> bytes:
    """The content of ``index.json``: JSON indented by one, which Python's encoder takes ten times as long to write."""
    caches = [
        "  {\n"
        + ",\n".join(f"   {json.dumps(name)}: {json.dumps(value)}" for name, value in vars(entry).items())
        + "\n  }"
        for entry in entries
    ]
    listed = "[\n" + ",\n".join(caches) + "\n ]" if caches else "[]"
    return f'{{\n "format": {LISTING_FORMAT},\n "caches": {listed}\n}}'.encode()


def parse_index(data: bytes) -> list[IndexEntry] | None:
    """The caches that an ``index.json`` names; None for anything that :func:`index_bytes` would not give."""
    try:
        document = parse_json(data)
        entries = [_parse_record(IndexEntry, each) for each in document["caches"]]
        if data == (again := index_bytes(entries)):
            return entries
        return None if difference(document, json.loads(again)) else entries
    except (ValueError, TypeError, KeyError):
        return None


def write_index(home: Location, caches: Sequence[CacheEntry] | None = None) -> list[IndexEntry]:
    """Write ``index.json`` of ``home`` from all the caches that are there, ``caches`` as far as was listed already.

    Several writers may do so at once: each lists and writes until what it lists is what is written.
    """
    known = iter([caches])
    return _write_until_read(home, INDEX, lambda: list_home(home, next(known, None)), index_bytes)


def remove_from_index(cache: Location) -> None:
    """Leave a cache out of its home's index, before it is deleted: readers over HTTP must not be sent to it."""
    if home := home_of(cache):
        _change_index(home, cache.url.removeprefix(f"{home.url}/"), leaving=True)


def _change_index(home: Location, path: str, *, leaving: bool = False) -> None:
    """Make the index of ``home`` say of the cache at ``path`` what is there, and nothing where it is ``leaving``.

    Other entries stay as they are. Several writers may do so at once: each looks at the index again after it has
    written, and does not write where another has written since it looked. What is left is the moment between that
    look and the write; `deapcache cache index` makes the whole index anew.
    """
    etag, raw = home.etag_or_none(INDEX), _read(home, INDEX)
    written, others = None, list[IndexEntry]()
    while True:
        if written is None or raw != written:
            entries = None if raw is None else parse_index(raw)
            others = [entry for entry in (list_home(home) if entries is None else entries) if entry.path != path]
        own = None if leaving or (found := entry_at(home, path)) is None else _index_entry(found)
        data = index_bytes(sorted([*others, *([own] if own else [])], key=lambda entry: entry.path))
        if raw == data:
            return
        home.publish_unless_changed(INDEX, data, etag)
        written = data
        etag, raw = home.etag_or_none(INDEX), _read_written(home, INDEX)


def link_target(cache: Location) -> Path | None:
    """Where a cache really lies, if links lead out of the home in which it is found; else None."""
    home = home_of(cache)
    if home is None or not isinstance(cache, LocalLocation):
        return None
    real = cache.path.resolve()
    return None if real.is_relative_to(Path(home.url).resolve()) else real


def require_inside_home(cache: Location) -> None:
    """Raise :class:`ReadOnlyError` for a cache with a :func:`link_target`: it is another's, as a rule."""
    if real := link_target(cache):
        raise ReadOnlyError(
            f"{cache} is left as it is: links lead out of the home to {real}, which others may use. Look after it in "
            "the home in which it lies (--home), or remove the link"
        )


def _index_entry(entry: CacheEntry) -> IndexEntry | None:
    """What the index says of a cache; None, with a warning unless it is being deleted, where it cannot be used."""
    try:
        manifest = read_manifest(entry.location)
        if manifest is None or manifest.digest != entry.digest:
            manifest = list_cache(entry.location)
    except CacheMissError:  # deleted since it was listed
        return None
    except (CorruptCacheError, UnreadableError) as error:
        if entry.location.exists(METADATA_KEY):
            warnings.warn(f"left out: {error}", stacklevel=3)
        return None
    return IndexEntry(
        path=entry.path,
        kind=entry.kind,
        dataset=entry.dataset,
        split=entry.split,
        name=entry.name,
        view=str(entry.fields.get("view", "")),
        digest=entry.digest,
        images=manifest.images,
        total=manifest.total,
        bytes=manifest.bytes,
    )


def _write_until_read(
    location: Location, key: str, list_now: Callable[[], Listed], encode: Callable[[Listed], bytes]
) -> Listed:
    """What ``list_now`` gives once ``key`` reads as that; it is written as often as others change it meanwhile."""
    found = _read(location, key)
    while found != (data := encode(listed := list_now())):
        location.publish(key, data, replace=True)
        found = _read_written(location, key)
    return listed


def _read(location: Location, key: str) -> bytes | None:
    """What is at ``key``; None where it is no file that can be read."""
    try:
        return _read_written(location, key)
    except (NotAFileError, UnreadableError):
        return None


def _read_written(location: Location, key: str) -> bytes | None:
    """What is at ``key``, None where nothing is; raises :class:`LocationError` where it cannot be read.

    For after a write: what cannot be read would otherwise never read as written, and be written for ever.
    """
    try:
        return location.read(key)
    except FileNotFoundError:  # another has removed it
        return None


def _parse_record(record: type[Record], found: Any) -> Record:
    """What one of the two files says in one JSON object; raises ``ValueError`` or ``TypeError`` for another form."""
    parsed = record(**found)
    require_printable(found)
    texts = [getattr(parsed, field.name) for field in fields(record) if field.type == "str"]
    if not all(isinstance(text, str) for text in texts) or parsed.kind not in KINDS:
        raise ValueError("it has something else where texts belong")
    whole_numbers([parsed.images, parsed.total, parsed.bytes], "a count", least=0)
    if parsed.images > parsed.total:
        raise ValueError("it speaks of more images than the cache has")
    return parsed
