"""Which caches a home holds, and finding them: by name, by recipe fields, by part of a path.

There is one language for choosing caches, of filters that each are a text:

* ``FIELD=VALUE``: the field has that value, written as ``cache info`` shows it or as JSON (``image_size=[384,384]``,
  ``complete=false``). Of text, the first eight or more characters of a digest are enough, and ``ONE,OTHER`` is either.
* any other text: a part of the cache's path, whatever the case, or the first characters of its digest.
"""

from __future__ import annotations

import contextlib
import fnmatch
import functools
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TypeVar

from deapcache.cache.cache import Cache, open_cache
from deapcache.cache.format import METADATA_KEY, added_fields, read_group
from deapcache.cache.names import DEPTH, KINDS, ORIGINAL, SUFFIX, dataset_and_split, escape_name
from deapcache.cache.parallel import map_requests
from deapcache.errors import (
    AmbiguousCacheError,
    CacheMissError,
    CorruptCacheError,
    DeapcacheError,
    UnreadableError,
    UsageError,
)
from deapcache.locations import LocalLocation, Location
from deapcache.recipe import SHORT

_LISTED_PATHS = 12
"""Paths that a message lists."""
_LISTED_CACHES = 6
"""Caches, with the fields in which they differ, that a message lists."""
_LONGEST_VALUE = 200
"""Characters of a value that a message shows, such as a list of what was left out."""
_SHORTEST_DIGEST = 8
"""Characters of a digest that stand for the whole as a field's value."""


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
    """Backbone of features (or its label), annotation kind of targets, empty for images."""
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


@dataclass(frozen=True, kw_only=True)
class CacheFolder:
    """A folder of a home where a cache belongs, whatever state it is in."""

    home: Location
    path: str
    """Relative to the home."""
    entry: CacheEntry | None
    """What it holds; None where that cannot be told."""
    has_root: bool
    """Whether its root ``zarr.json`` is there: without, what is there is no cache."""

    @property
    def location(self) -> Location:
        """Where it is."""
        return self.home / self.path

    @property
    def digest(self) -> str:
        """Of the cache; empty where that cannot be told."""
        return self.entry.digest if self.entry else ""


# --- listing ----------------------------------------------------------------------------------------------------------


def list_caches(
    home: Location,
    kind: str | None = None,
    *,
    dataset: str | None = None,
    split: str | None = None,
    name: str | None = None,
    texts: Sequence[str] = (),
) -> list[CacheEntry]:
    """The caches of a home, all or of one kind, sorted by path; none where the home does not exist.

    With ``dataset``, ``split`` and ``name``, which is no kind's but features' and targets', only caches of these are
    looked at; with ``texts``, only those whose path one of these is a part of, or whose digest, by their path, may
    begin with it.

    Where homes are read beside it (``home.layers``), their caches follow. Of a cache that several have, the one of the
    first home that has all of it is listed; where none has, the one with the most shards.
    A folder whose metadata cannot be used, or that may not be entered, is left out with a warning; one that is removed
    meanwhile, or that an old index of a web server names, without. Raises :class:`LocationError` for a web server,
    which cannot be listed (open its caches by their address), and where the home could not be
    looked at.
    """
    below = "/".join(escape_name(part) if part else "*" for part in (dataset, split))
    folders = [f"{each}/{below}" for each in (KINDS if kind is None else (kind,))]
    names = f"{f'{escape_name(name)}-' if name else ''}*{SUFFIX}"
    found: dict[str, list[CacheEntry]] = {}
    for layer in home.layers:
        for entry in _list_layer(layer, folders, names, texts):
            if name and entry.name != name:  # one whose name begins with this one
                continue
            found.setdefault(entry.path, []).append(entry)
    return [_most_complete(copies) for copies in found.values()]


_SEEN: ContextVar[dict[Any, Any] | None] = ContextVar("_SEEN", default=None)
"""Within :func:`one_listing`: home → paths of its caches by kind, and what each cache is; places of copies → the most
complete one."""


@contextlib.contextmanager
def one_listing() -> Iterator[None]:
    """Within the block a home is listed once, and a cache of it looked at once: for what asks often and writes nothing.

    What others make or remove meanwhile is not seen; opening a cache tells.
    """
    token = _SEEN.set({} if (seen := _SEEN.get()) is None else seen)
    try:
        yield
    finally:
        _SEEN.reset(token)


def _list_layer(home: Location, folders: Sequence[str], names: str, texts: Sequence[str]) -> list[CacheEntry]:
    """The caches of one home in ``folders``, patterns of kind, dataset and split, whose names fit one, too."""

    def entry_or_problem(path: str) -> CacheEntry | str | None:
        try:
            return _read_entry(home, path)
        except CacheMissError:  # removed since it was listed
            return None

    def find(pattern: str) -> list[str]:
        return [str(PurePosixPath(key).parent) for key in home.find(f"{pattern}/{METADATA_KEY}")]

    known: dict[str, CacheEntry | str | None] = {}
    if (seen := _SEEN.get()) is None:
        found = [path for folder in folders for path in find(f"{folder}/{names}")]
    else:
        listed, known = seen.setdefault((home.url, home.options), ({}, {}))
        found = []
        for folder in folders:
            kind = folder.partition("/")[0]
            if kind not in listed:
                listed[kind] = find(f"{kind}/*/*/*{SUFFIX}")
            found += fnmatch.filter(listed[kind], f"{folder}/{names}")
    paths = [path for path in found if _may_fit(path, texts)]
    unknown = [path for path in paths if path not in known]
    looked_at = map_requests(entry_or_problem, unknown, is_local=isinstance(home, LocalLocation))
    known |= zip(unknown, looked_at, strict=True)
    for problem in (each for each in looked_at if isinstance(each, str)):
        warnings.warn(f"left out: {problem}", stacklevel=4)
    return [entry for path in paths if isinstance(entry := known[path], CacheEntry)]


def _may_fit(path: str, texts: Sequence[str]) -> bool:
    """Whether one of ``texts``, if any, is a part of a cache's path, or fits the digest that the path ends with."""
    digest = path.removesuffix(SUFFIX)[-SHORT:]
    return not texts or any(text.lower() in path.lower() or digest.startswith(text[:SHORT]) for text in texts)


def _most_complete(copies: Sequence[CacheEntry]) -> CacheEntry:
    """The first of the same cache in several homes that is complete, else the one with the most shards."""
    if len(copies) == 1:
        return copies[0]
    seen = {} if (known := _SEEN.get()) is None else known
    places = tuple(entry.location.url for entry in copies)
    if places in seen:
        found: CacheEntry = seen[places]
        return found
    best, most = copies[0], -1
    for entry in copies:
        try:
            cache = entry.open()
            present = len(cache.present_shards())
        except DeapcacheError:
            continue  # opening it says what is wrong, where no other copy can be used
        if present > most or present == cache.shard_count:
            best, most = entry, present
        if present == cache.shard_count:
            break
    seen[places] = best
    return best


def entry_at(home: Location, path: str) -> CacheEntry | None:
    """The cache at ``path`` below ``home``; None, with a warning, where its metadata cannot be used.

    Raises :class:`CacheMissError` where there is none.
    """
    found = _read_entry(home, path)
    if isinstance(found, str):
        warnings.warn(found, stacklevel=2)
        return None
    return found


def _read_entry(home: Location, path: str) -> CacheEntry | str:
    """The cache at ``path``, or why it cannot be listed."""
    try:
        group = read_group(home / path)
    except (CorruptCacheError, UnreadableError) as error:
        return str(error)
    parts = PurePosixPath(path).parts
    if len(parts) != DEPTH or parts[0] != group.kind:
        return f"{home / path} holds {group.kind}, which belong elsewhere"
    dataset, split = dataset_and_split(path)
    return CacheEntry(
        home=home,
        path=path,
        kind=group.kind,
        dataset=dataset,
        split=split,
        name=group.name,
        recipe=group.recipe,
        digest=group.digest,
    )


def list_folders(home: Location, texts: Sequence[str] = ()) -> list[CacheFolder]:
    """The folders of a home where caches belong, sorted by path: caches, damaged ones, remains of removed ones.

    With ``texts``, those of which :func:`list_caches` looks at. Raises :class:`LocationError` for a web server, which
    lists no folders.
    """

    def look_at(path: str) -> CacheFolder:
        try:
            found = _read_entry(home, path)
        except CacheMissError:
            return CacheFolder(home=home, path=path, entry=None, has_root=False)
        return CacheFolder(home=home, path=path, entry=None if isinstance(found, str) else found, has_root=True)

    patterns = [f"{kind}/*/*/*{SUFFIX}" for kind in KINDS]
    paths = sorted(path for each in patterns for path in home.folders(each, lambda path: _may_fit(path, texts)))
    return map_requests(look_at, paths, is_local=isinstance(home, LocalLocation))


def related_caches(entry: CacheEntry) -> list[CacheEntry]:
    """The base images and targets in the same home that go with the features ``entry``, sorted by path.

    They have the same image set, in the same order, and are brought to the same size in the same way; of features of
    native images, targets of every size belong to it. [] for anything but features.
    """
    if entry.kind != "features":
        return []
    features = entry.fields

    def belongs(other: dict[str, Any]) -> bool:
        if other["images"] != features["images"] or other["fit"] != features["base_fit"]:
            return False
        return features["base_size"] in ("native", "x".join(map(str, other["size"])))

    others = [*list_caches(entry.home, "images"), *list_caches(entry.home, "targets")]
    return [other for other in others if belongs(other.fields)]


# --- the filter language ----------------------------------------------------------------------------------------------


def as_text(value: Any) -> str:
    """A field's value as filters take it: text as it is, digests cut short, everything else as JSON."""
    if not isinstance(value, str):
        return json.dumps(value, separators=(",", ":"))
    head, colon, tail = value.rpartition(":")
    return f"{head}{colon}{tail[:SHORT]}" if len(tail) == 64 else value


def value_fits(found: Any, wanted: Any) -> bool:
    """Whether a field's value is the one wanted: a value of its own type, or the VALUE of a filter."""
    if not isinstance(wanted, str):
        return bool(found == json.loads(json.dumps(wanted)))  # a tuple is a list in JSON
    if not isinstance(found, str):
        if wanted in (as_text(found), str(found), str(found).lower()):
            return True
        try:
            return bool(found == json.loads(wanted))
        except (ValueError, RecursionError):
            return False
    parts = wanted.split(",")
    starts = [start for part in parts if len(start := part.rstrip("…")) >= _SHORTEST_DIGEST]
    return found in (wanted, *parts) or found.startswith(tuple(starts))


def filter_fits(facts: Mapping[str, Any], text: str) -> bool:
    """Whether one filter fits a cache, by its facts: ``path``, ``digest`` and fields."""
    named = bool(text) and (text.lower() in facts["path"].lower() or facts["digest"].startswith(text))
    field, equals, value = text.partition("=")
    return named or (bool(equals) and field in facts and value_fits(facts[field], value))


def match_filters(facts: Sequence[Mapping[str, Any]], filters: Sequence[str]) -> list[bool]:
    """Which of several caches fit every filter.

    A cache without a field that is asked for does not fit; raises :class:`UsageError` for a field that none has.
    """
    known = {field for one in facts for field in one}
    fitting = [[filter_fits(one, text) for one in facts] for text in filters]
    for text, fits in zip(filters, fitting, strict=True):
        field, equals, _ = text.partition("=")
        if equals and known and field not in known and not any(fits):
            raise UsageError(f"--filter {text}: there is no {field!r}; give one of {', '.join(sorted(known))}")
    return [all(fits) for fits in zip(*fitting, strict=True)] if filters else [True] * len(facts)


def select_folders(home: Location, texts: Sequence[str]) -> list[CacheFolder]:
    """The folders that one of ``texts``, each a filter, fits; all where there is no text.

    Raises :class:`CacheMissError` for a text that fits none.
    """
    if texts and not home.can_list:
        return [_folder_by_address(home, text) for text in texts]
    return _select(home, texts, functools.partial(list_folders, home))


def select_folder(home: Location, text: str) -> CacheFolder:
    """The one folder that ``text`` fits.

    Raises :class:`CacheMissError` where there is none, :class:`AmbiguousCacheError` that lists them where there are
    several.
    """
    return require_one(home, text, select_folders(home, [text]))


def select_caches(home: Location, texts: Sequence[str]) -> list[CacheEntry]:
    """The caches that one of ``texts``, each a filter, fits; all where there is no text.

    Raises :class:`CacheMissError` for a text that fits none.
    """

    def listed(some: Sequence[str]) -> list[CacheEntry]:
        if home.can_list or not texts:
            return list_caches(home, texts=some)
        folders = [_folder_by_address(home, text) for text in texts]
        for folder in folders:
            open_cache(folder.location)  # says what is wrong where nothing can be told of it
        return [folder.entry for folder in folders if folder.entry]

    return _select(home, texts, listed)


def select_cache(home: Location, text: str) -> CacheEntry:
    """The one cache that ``text`` fits; raises as :func:`select_folder` does."""
    return require_one(home, text, select_caches(home, [text]))


Listed = TypeVar("Listed", CacheEntry, CacheFolder)


def cache_facts(one: CacheEntry | CacheFolder) -> dict[str, Any]:
    """What filters ask of a cache, as far as its recipe and place tell; of what is none, its path."""
    entry = one.entry if isinstance(one, CacheFolder) else one
    facts = {name: getattr(entry, name) for name in ("kind", "dataset", "split", "name")} if entry else {}
    return {**(entry.fields if entry else {}), **facts, "path": one.path, "digest": one.digest}


def _select(home: Location, texts: Sequence[str], list_for: Callable[[Sequence[str]], list[Listed]]) -> list[Listed]:
    """What one of ``texts`` fits: of those whose paths tell so, if that is enough, else of all that there are."""
    asked = [_relative_text(home, text) for text in texts]
    for some in [asked, []] if all(text and "=" not in text for text in asked) else [[]]:
        listed = list_for(some)
        known = list(map(cache_facts, listed))
        fitting = [[filter_fits(facts, text) for facts in known] for text in asked]
        if all(map(any, fitting)):
            return [one for number, one in enumerate(listed) if not texts or any(fits[number] for fits in fitting)]
    text = next(text for text, fits in zip(texts, fitting, strict=True) if not any(fits))
    there = "\n".join(f"  {one.path}" for one in listed[:_LISTED_PATHS]) or "  none at all"
    left = len(listed) - _LISTED_PATHS
    more = f"\n  and {left} more (deapcache cache ls)" if left > 0 else ""
    raise CacheMissError(f"no cache in {home} fits {text!r}. There is:\n{there}{more}")


def require_one(home: Location, text: str, found: Sequence[Listed]) -> Listed:
    """The one of ``found`` that ``text`` fits; raises :class:`AmbiguousCacheError` where several do."""
    wanted = _relative_text(home, text)
    found = [one for one in found if filter_fits(cache_facts(one), wanted)]
    exact = [one for one in found if one.path == wanted]
    if len(exact or found) == 1:
        return (exact or found)[0]
    listed = "\n".join(f"  {one.path}" for one in found)
    raise AmbiguousCacheError(
        f"{home} has {len(found)} caches that fit {text!r}, expected one. Give more of its path or digest:\n{listed}"
    )


def _folder_by_address(home: Location, text: str) -> CacheFolder:
    """The cache at a path on a web server, which lists nothing."""
    path = _relative_text(home, text)
    if len(PurePosixPath(path).parts) != DEPTH or not path.endswith(SUFFIX):
        raise CacheMissError(
            f"{home} is a web server, which lists no folders: give the path of one cache, "
            f"such as features/coco/val/NAME-DIGEST{SUFFIX}; found {text!r}"
        )
    entry = entry_at(home, path)
    return CacheFolder(home=home, path=path, entry=entry, has_root=home.exists(f"{path}/{METADATA_KEY}"))


def _relative_text(home: Location, text: str) -> str:
    """A text that begins with the home's own address, less that."""
    return text.removeprefix(f"{home}/").rstrip("/")


# --- finding one by its name and recipe fields ------------------------------------------------------------------------


def find_caches(
    home: Location,
    kind: str,
    *,
    dataset: str,
    split: str | None = None,
    name: str | None = None,
    fields: Mapping[str, Any] = {},
) -> list[CacheEntry]:
    """The caches of a kind and data set that have this split and name, where given, and these recipe fields.

    A field may be given as the VALUE of a filter, as ``--where`` does, or as a value of its own type; the field
    ``digest`` is that of the cache itself. Features are those of the original images unless ``fields`` names another
    ``view``.
    """
    named = list_caches(home, kind, dataset=dataset, split=split, name=name)
    return [entry for entry in named if not _differing_from(entry, fields)]


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
    named = list_caches(home, kind, dataset=dataset, split=split, name=name)
    differing = [(_differing_from(entry, fields), entry) for entry in named]
    fitting = [entry for names, entry in differing if not names]
    if len(fitting) == 1 and {"digest", *fitting[0].fields}.issuperset(fields):
        return fitting[0]
    listed = list_caches(home, kind)  # for what is to be said: all there is of that kind
    unknown = [field for field in fields if field != "digest" and not any(field in each.fields for each in listed)]
    if listed and unknown:
        known = sorted({field for entry in listed for field in entry.fields} | {"digest"})
        raise UsageError(f"no recipe of {kind} has the field {unknown[0]!r}: --where takes one of {', '.join(known)}")
    wanted = f"{kind} of {' '.join(part for part in (name, dataset, split) if part)}"
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise AmbiguousCacheError(_ambiguous_message(home, wanted, fitting))
    near = sorted(differing, key=lambda pair: len(pair[0]))
    raise CacheMissError(_not_found_message(home, wanted, fields, near, listed, next_step))


def _differing_from(entry: CacheEntry, fields: Mapping[str, Any]) -> list[str]:
    """The fields in which a cache is not as wanted."""
    asked = {"view": ORIGINAL, **fields} if entry.kind == "features" else fields
    found = {**entry.fields, "digest": entry.digest}
    absent = (None, "null")  # what a field that the recipe lacks fits
    return [n for n, wanted in asked.items() if not (value_fits(found[n], wanted) if n in found else wanted in absent)]


def _field(entry: CacheEntry, field: str) -> Any:
    return entry.digest if field == "digest" else entry.fields.get(field)


def _not_found_message(
    home: Location,
    wanted: str,
    fields: Mapping[str, Any],
    near: Sequence[tuple[list[str], CacheEntry]],
    listed: Sequence[CacheEntry],
    next_step: str,
) -> str:
    """The nearest caches and the fields in which they differ, or what there is instead.

    ``near`` holds the caches of the wanted name, each with the fields that do not fit, nearest first.
    """
    own, *others = map(str, home.layers)
    nowhere = f"None of the homes {', '.join((own, *others))} has" if others else f"{own} has no"
    asked = f" with {', '.join(f'{name}={as_text(value)}' for name, value in fields.items())}" if fields else ""
    lines = [f"{nowhere} {wanted}{asked}."]
    lines += [f"  near: {_with_fields(home, entry, unfit)}" for unfit, entry in near[:_LISTED_CACHES]]
    if not near:
        groups: dict[str, set[str]] = {}
        for entry in listed:
            groups.setdefault(f"{entry.dataset} {entry.split}", set()).add(entry.name)
        for group, names in groups.items():
            lines.append(f"  there is: {group}: {', '.join(sorted(filter(None, names)))}".rstrip(": "))
        if not groups:
            lines.append("  It has no caches of this kind at all.")
    return "\n".join([*lines, next_step] if next_step else lines)


def _ambiguous_message(home: Location, wanted: str, fitting: Sequence[CacheEntry]) -> str:
    """All caches that fit, the fields in which they differ, and how to choose."""
    own, *others = map(str, home.layers)
    holders = f"The homes {', '.join((own, *others))} have" if others else f"{own} has"
    recipes = [entry.fields for entry in fitting]
    names = sorted({name for recipe in recipes for name in recipe})
    differing = [name for name in names if any(recipe.get(name) != recipes[0].get(name) for recipe in recipes)]
    lines = [f"{holders} {len(fitting)} caches that fit {wanted}:"]
    lines += [f"  {_with_fields(home, entry, differing)}" for entry in fitting]
    example = differing[0] if differing else "digest"
    value = as_text(_field(fitting[0], example))
    return "\n".join([*lines, f"Choose with --where FIELD=VALUE, for example --where {example}={value}"])


def _with_fields(home: Location, entry: CacheEntry, fields: Sequence[str]) -> str:
    """A cache as a message names it, with its home where that is another than the one asked, and some of its fields."""
    name = entry.path if entry.home == home else str(entry.location)
    texts = [(field, as_text(_field(entry, field))) for field in fields]
    cut = [f"{field} is {text[:_LONGEST_VALUE]}{'…' * (len(text) > _LONGEST_VALUE)}" for field, text in texts]
    return f"{name}, where {', '.join(cut) or f'digest is {entry.digest}'}"
