"""``index.json`` of a home: all its caches, for readers over plain HTTP. Derived, as a cache's manifest is."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from deapcache.cache.format import METADATA_KEY
from deapcache.cache.listing import CacheEntry, list_caches
from deapcache.cache.manifest import list_cache, read_manifest, write_manifest
from deapcache.cache.names import DEPTH, KINDS, SUFFIX
from deapcache.errors import (
    CacheMissError,
    CorruptCacheError,
    LocationError,
    NotAFileError,
    ReadOnlyError,
    UnreadableError,
)
from deapcache.locations import INDEX, LISTING_FORMAT, LocalLocation, Location, locate


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


def list_home(home: Location, *, without: Collection[str] = ()) -> list[IndexEntry]:
    """The caches of ``home``, less those at the paths ``without``, by path; one that cannot be used is warned of.

    A manifest that is damaged, or of another cache, is not believed: what is there is listed.
    """
    found = [_entry(entry) for entry in list_caches(home) if entry.path not in without]
    return [entry for entry in found if entry]


def index_bytes(entries: list[IndexEntry]) -> bytes:
    """The content of ``index.json``."""
    return json.dumps({"format": LISTING_FORMAT, "caches": [asdict(entry) for entry in entries]}, indent=1).encode()


def is_index(data: bytes) -> bool:
    """Whether ``data`` is what :func:`index_bytes` gives for some caches."""
    try:
        document = json.loads(data)
        paths = [entry["path"] for entry in document["caches"]]
        return document["format"] == LISTING_FORMAT and all(isinstance(path, str) for path in paths)
    except (ValueError, TypeError, KeyError, RecursionError):
        return False


def write_index(home: Location, *, without: Collection[str] = ()) -> list[IndexEntry]:
    """Bring ``index.json`` of ``home`` up to date; several writers may do so at once, as with manifests.

    ``without`` names paths of caches that are about to be deleted: leave them out first, delete them, and write again.
    """
    while True:
        entries = list_home(home, without=without)
        data = index_bytes(entries)
        if _stored(home) == data:
            return entries
        home.publish(INDEX, data, replace=True)


def rebuild(home: Location) -> list[IndexEntry]:
    """Write the manifests of all caches of ``home`` and its index anew, from the keys that are there."""
    home.require_writable()
    for entry in list_caches(home):
        # what cannot be used, or was deleted since it was listed, is warned of where the index is made
        with contextlib.suppress(CorruptCacheError, CacheMissError):
            _renew(entry.location)
    return write_index(home)


def _renew(cache: Location) -> None:
    if lies_elsewhere(cache):  # its own home looks after it
        return
    try:
        write_manifest(cache, afresh=True)
    except LocationError as error:  # others have theirs all the same
        warnings.warn(f"{cache} has no true manifest for readers over HTTP: {error}", stacklevel=3)


def home_of(cache: Location) -> Location | None:
    """The home in which a cache lies, None where it lies elsewhere."""
    head, *path = cache.url.rsplit("/", DEPTH)
    belongs = len(path) == DEPTH and path[0] in KINDS and path[-1].endswith(SUFFIX)
    return locate(head or "/") if belongs else None


def lies_elsewhere(cache: Location) -> Path | None:
    """Where a cache really lies, if links lead out of the home in which it is found; else None."""
    home = home_of(cache)
    if home is None or not isinstance(cache, LocalLocation):
        return None
    real = cache.path.resolve()
    return None if real.is_relative_to(Path(home.url).resolve()) else real


def require_own(cache: Location) -> None:
    """Raise :class:`ReadOnlyError` for a cache that :func:`lies_elsewhere`: it is another's, as a rule."""
    if real := lies_elsewhere(cache):
        raise ReadOnlyError(
            f"{cache} is left as it is: links lead out of the home to {real}, which others may use. Look after it in "
            "the home in which it lies (--home), or remove the link"
        )


def _entry(entry: CacheEntry) -> IndexEntry | None:
    try:
        manifest = read_manifest(entry.location)
        if manifest is None or manifest.digest != entry.digest:
            manifest = list_cache(entry.location)
    except CacheMissError:  # deleted since it was listed
        return None
    except (CorruptCacheError, UnreadableError) as error:
        if not entry.location.exists(METADATA_KEY):  # it is being deleted
            return None
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


def _stored(home: Location) -> bytes | None:
    try:
        return home.read(INDEX)
    except (FileNotFoundError, NotAFileError, UnreadableError):
        return None
