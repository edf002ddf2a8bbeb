"""Which caches a home holds, and finding one by name and by the recipe fields one knows."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from deapcache.cache.cache import Cache
from deapcache.cache.format import METADATA_KEY, Group, added_fields, read_group
from deapcache.cache.misses import explain_ambiguity, explain_miss
from deapcache.cache.names import DEPTH, KINDS, SUFFIX, original
from deapcache.cache.opening import open_cache
from deapcache.cache.parallel import REQUESTS
from deapcache.cache.views import ORIGINAL
from deapcache.errors import (
    AmbiguousCacheError,
    CacheMissError,
    CorruptCacheError,
    DeapcacheError,
    UnreadableError,
    UsageError,
)
from deapcache.locations import Location

_NAME_FIELDS = {"features": "backbone", "targets": "annotation"}


@dataclass(frozen=True, kw_only=True)
class CacheEntry:
    """A cache that a home holds."""

    home: Location
    """The home that holds it: the one asked, or one of those that are read beside it."""
    path: str
    """Relative to the home."""
    kind: str
    dataset: str
    split: str
    name: str
    """Backbone of features, annotation kind of targets, empty for images."""
    recipe: dict[str, Any]
    digest: str

    @property
    def fields(self) -> dict[str, Any]:
        """The recipe with all its fields, also those that were added after it was written."""
        return {**added_fields(self.kind), **self.recipe}

    @property
    def location(self) -> Location:
        """Where the cache is."""
        return self.home / self.path

    def open(self) -> Cache:
        """The open cache; raises what :func:`open_cache` raises."""
        return open_cache(self.location)


def list_caches(home: Location, kind: str | None = None) -> list[CacheEntry]:
    """The caches of a home, all or of one kind, sorted by path; none where the home does not exist.

    Where homes are read beside it (``home.layers``), their caches follow. Of a cache that several have, the one of the
    first home that has all of it is listed; where none has, the one with the most shards.
    A folder whose metadata cannot be used, or that may not be entered, is left out with a warning; one that is removed
    meanwhile, or that an old index of a web server names, without. Raises :class:`LocationError` for a web server,
    which cannot be listed (open its caches by their address), and where the home could not be
    looked at.
    """
    found: dict[str, list[CacheEntry]] = {}
    for layer in home.layers:
        for entry in _of_layer(layer, kind):
            found.setdefault(entry.path, []).append(entry)
    return [_fullest(copies) for copies in found.values()]


def _of_layer(home: Location, kind: str | None) -> list[CacheEntry]:
    kinds = KINDS if kind is None else (kind,)
    patterns = [f"{each}/*/*/*{SUFFIX}/{METADATA_KEY}" for each in kinds]
    paths = [str(PurePosixPath(key).parent) for pattern in patterns for key in home.find(pattern)]
    with ThreadPoolExecutor(REQUESTS) as pool:
        entries = list(pool.map(lambda path: _entry_or_none(home, path), paths))
    for problem in (each for each in entries if isinstance(each, str)):  # None: removed since it was listed
        warnings.warn(f"left out: {problem}", stacklevel=4)
    return [entry for entry in entries if isinstance(entry, CacheEntry)]


def _fullest(copies: Sequence[CacheEntry]) -> CacheEntry:
    """The first of the same cache in several homes that is complete, else the one with the most shards."""
    if len(copies) == 1:
        return copies[0]
    best, most = copies[0], -1
    for entry in copies:
        try:
            cache = entry.open()
            present = len(cache.present_shards())
        except DeapcacheError:
            continue  # opening it says what is wrong, where no other copy can be used
        if present == cache.shard_count:
            return entry
        if present > most:
            best, most = entry, present
    return best


def find_caches(
    home: Location,
    kind: str,
    *,
    dataset: str,
    split: str,
    name: str | None = None,
    fields: Mapping[str, Any] = {},
) -> list[CacheEntry]:
    """The caches of a kind, data set and split that have this name, where given, and these recipe fields.

    A field may be given as text, as ``--where`` does (``image_size=[384,384]``, ``tf32=false``); a digest may be cut
    short or be one of several (``images=ONE,OTHER``), and the field ``digest`` is that of the cache itself. Features
    are those of the original images unless ``fields`` names another ``view``.
    """
    listed, meant = list_caches(home, kind), _meant(kind, fields)
    return [entry for entry in _named(listed, dataset, split, name) if not _unfit(entry, meant)]


def find_one(
    home: Location,
    kind: str,
    *,
    dataset: str,
    split: str,
    name: str | None = None,
    fields: Mapping[str, Any] = {},
    next_step: str = "",
) -> CacheEntry:
    """The one cache that fits; ``fields`` as in :func:`find_caches`.

    ``next_step`` ends the message of a miss: what to type. Raises :class:`CacheMissError` that says which fields of the
    nearest caches differ or what there is instead, :class:`AmbiguousCacheError` that lists what fits and how to choose,
    :class:`UsageError` for a field that no recipe of that kind has.
    """
    listed = list_caches(home, kind)
    _require_known_fields(listed, kind, fields)
    named, meant = _named(listed, dataset, split, name), _meant(kind, fields)
    fitting = [entry for entry in named if not _unfit(entry, meant)]
    wanted = f"{kind} of {' '.join(part for part in (name, dataset, split) if part)}"
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise AmbiguousCacheError(explain_ambiguity(home, wanted, fitting))
    near = sorted(((_unfit(entry, meant), entry) for entry in named), key=lambda pair: len(pair[0]))
    raise CacheMissError(explain_miss(home, wanted, fields, near, listed, next_step))


def entry_at(home: Location, path: str) -> CacheEntry | None:
    """The cache at ``path`` below ``home``; None, with a warning, where its metadata cannot be used.

    Raises :class:`CacheMissError` where there is none.
    """
    found = _entry(home, path)
    if isinstance(found, str):
        warnings.warn(found, stacklevel=2)
        return None
    return found


def _entry_or_none(home: Location, path: str) -> CacheEntry | str | None:
    try:
        return _entry(home, path)
    except CacheMissError:
        return None


def _entry(home: Location, path: str) -> CacheEntry | str:
    """The cache at ``path``, or why it cannot be listed."""
    try:
        group = read_group(home / path)
    except (CorruptCacheError, UnreadableError) as error:
        return str(error)
    parts = PurePosixPath(path).parts
    if len(parts) != DEPTH or parts[0] != group.kind:
        return f"{home / path} holds {group.kind}, which belong elsewhere"
    return CacheEntry(
        home=home,
        path=path,
        kind=group.kind,
        dataset=original(parts[1]),
        split=original(parts[2]),
        name=_name(group),
        recipe=group.recipe,
        digest=group.digest,
    )


def _name(group: Group) -> str:
    field = _NAME_FIELDS.get(group.kind)
    return str(group.recipe[field]) if field else ""


def _named(listed: list[CacheEntry], dataset: str, split: str, name: str | None) -> list[CacheEntry]:
    return [e for e in listed if (e.dataset, e.split) == (dataset, split) and name in (None, e.name)]


def _meant(kind: str, fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields as asked for: of features, those of the original images where no view is named."""
    return {"view": ORIGINAL, **fields} if kind == "features" else fields


def _unfit(entry: CacheEntry, fields: Mapping[str, Any]) -> list[str]:
    """The fields in which a cache is not as wanted."""
    found = {**entry.fields, "digest": entry.digest}
    return [field for field, wanted in fields.items() if not _fits(found.get(field), wanted)]


def _fits(found: Any, wanted: Any) -> bool:
    if not isinstance(wanted, str):
        return bool(found == json.loads(json.dumps(wanted)))  # a tuple is a list in JSON
    if isinstance(found, str):
        return found == wanted or any(_begins(found, one) for one in wanted.split(","))
    try:
        return bool(found == json.loads(wanted))
    except ValueError:
        return False


def _begins(found: str, wanted: str) -> bool:
    return found == wanted or (len(wanted) >= 8 and found.startswith(wanted.rstrip("…")))


def _require_known_fields(listed: list[CacheEntry], kind: str, fields: Mapping[str, Any]) -> None:
    known = {field for entry in listed for field in entry.fields} | {"digest"}
    unknown = [field for field in fields if field not in known]
    if listed and unknown:
        raise UsageError(
            f"no recipe of {kind} has the field {unknown[0]!r}: --where takes one of {', '.join(sorted(known))}"
        )
