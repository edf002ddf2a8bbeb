"""``manifest.json`` of a cache: its keys and their sizes, for readers over plain HTTP, which cannot list.

It is derived. The shard keys are the truth wherever they can be listed, and nothing that can list reads it. It may lag
behind (a writer was killed before it wrote it anew), and then names fewer shards than there are: a reader over HTTP
sees less. Whoever deletes a key leaves it out first (:func:`withdraw`), so that it never names more.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from deapcache.cache.format import METADATA_KEY, StoredArray, read_group, stored_array
from deapcache.cache.image_ids import IMAGE_ID_KEYS
from deapcache.cache.names import is_provenance
from deapcache.cache.parallel import REQUESTS
from deapcache.errors import NotAFileError, UnreadableError
from deapcache.locations import LISTING_FORMAT, MANIFEST, LocalLocation, Location

_MOST = 2**63
"""More images or bytes than there can be."""


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


def manifest_bytes(manifest: Manifest) -> bytes:
    """The content of ``manifest.json``."""
    return json.dumps({"format": LISTING_FORMAT, **asdict(manifest)}, indent=1, sort_keys=True).encode()


def list_cache(
    location: Location, *, known: Mapping[str, int] | None = None, without: Collection[str] = ()
) -> Manifest:
    """The cache at ``location`` as its keys say; ``without`` some keys, as if they were gone.

    ``known`` sizes are believed where asking for each would be a request. Raises :class:`CacheMissError` and
    :class:`CorruptCacheError` where there is no cache that can be opened.
    """
    group = read_group(location)
    arrays = [stored_array(location, name) for name in group.arrays]
    keys = [key for key in location.keys("") if _is_own(key, arrays) and key not in without]
    sizes = _sizes(location, keys, {} if isinstance(location, LocalLocation) else known or {})
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


def read_manifest(location: Location) -> Manifest | None:
    """The manifest that is kept at ``location``; None where there is none that can be used."""
    try:
        return parse_manifest(location.read(MANIFEST))
    except (FileNotFoundError, NotAFileError, UnreadableError):
        return None


def parse_manifest(data: bytes) -> Manifest | None:
    """The manifest that ``data`` is; None where it is none.

    It is derived: whoever writes next makes it anew, and who only reads does as if there were none.
    """
    try:
        found: dict[str, Any] = json.loads(data)
        if found.pop("format") != LISTING_FORMAT:
            return None
        manifest = Manifest(**found)
        counts = [manifest.images, manifest.total, manifest.bytes, *manifest.keys.values()]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    texts = (manifest.kind, manifest.digest, *manifest.keys)
    whole = all(type(count) is int and 0 <= count < _MOST for count in counts)
    return manifest if whole and all(isinstance(text, str) for text in texts) else None


def write_manifest(location: Location, *, afresh: bool = False) -> Manifest:
    """Bring the manifest of the cache at ``location`` up to date; ``afresh`` also asks for sizes known before.

    Several writers may do so at once: each lists and writes until what it lists is what is written, so the last one
    to look leaves nothing out. Raises what :func:`list_cache` and :meth:`Location.publish` raise.
    """
    known: Mapping[str, int] = {}
    if not afresh and (found := read_manifest(location)):
        known = found.keys
    while True:
        listed = list_cache(location, known=known)
        if read_manifest(location) == listed:
            return listed
        location.publish(MANIFEST, manifest_bytes(listed), replace=True)
        known = listed.keys


def withdraw(location: Location, keys: Iterable[str]) -> None:
    """Leave ``keys`` out of the manifest, before they are deleted; :func:`write_manifest` once they are."""
    leaving = set(keys)
    found = read_manifest(location)
    if found and leaving & set(found.keys):
        left = list_cache(location, known=found.keys, without=leaving)
        location.publish(MANIFEST, manifest_bytes(left), replace=True)


def _sizes(location: Location, keys: Iterable[str], known: Mapping[str, int]) -> dict[str, int]:
    def size(key: str) -> tuple[str, int | None]:
        try:
            return key, known[key] if key in known else _size(location, key)
        except FileNotFoundError:  # deleted since it was listed
            return key, None

    with ThreadPoolExecutor(REQUESTS) as pool:
        return {key: found for key, found in pool.map(size, keys) if found is not None}


def _size(location: Location, key: str) -> int:
    found = location.size(key)
    return len(location.read(key)) if found is None else found


def _is_own(key: str, arrays: Sequence[StoredArray]) -> bool:
    """Whether ``key`` is one that a cache of these arrays has; strays are none, nor are claims and the manifest."""
    small = (METADATA_KEY, *(f"{array.spec.name}/{METADATA_KEY}" for array in arrays), *IMAGE_ID_KEYS)
    return key in small or is_provenance(key) or _array_of(key, arrays) is not None


def _array_of(key: str, arrays: Iterable[StoredArray]) -> StoredArray | None:
    """The array of which ``key`` holds a shard."""
    return next((array for array in arrays if array.shard_of_key(key) is not None), None)
