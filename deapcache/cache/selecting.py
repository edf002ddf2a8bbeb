"""Which caches of a home are meant by a text: part of a path, or the first characters of a digest."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from deapcache.cache.layout import METADATA_KEY
from deapcache.cache.listing import CacheEntry, entry_at, list_caches
from deapcache.cache.misses import shown
from deapcache.cache.names import DEPTH, KINDS, SUFFIX
from deapcache.cache.opening import open_cache
from deapcache.errors import AmbiguousCacheError, CacheMissError, UnreadableError, UsageError
from deapcache.locations import Location

_LISTED = 12


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


def list_folders(home: Location) -> list[CacheFolder]:
    """The folders of a home where caches belong, sorted by path: caches, damaged ones, remains of removed ones.

    Every key of the home is listed for it. Raises :class:`LocationError` for a web server, which lists no folders.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged caches, which are listed here
        entries = {entry.path: entry for entry in list_caches(home)}
    keys = [key for kind in KINDS for key in _keys(home, kind)]
    paths = {_folder(key): False for key in keys} | {
        _folder(key): True for key in keys if key == f"{_folder(key)}/{METADATA_KEY}"
    }
    return [
        CacheFolder(home=home, path=path, entry=entries.get(path), has_root=paths[path])
        for path in sorted(paths)
        if path.endswith(SUFFIX)
    ]


def _keys(home: Location, kind: str) -> list[str]:
    try:
        return home.keys(kind)
    except UnreadableError:  # somebody's private folder: look around it, with a warning
        inner = (f"{kind}/*/*/*{SUFFIX}{below}" for below in ("/*", "/*/*"))
        return [key for pattern in inner for key in home.find(pattern)]


def _folder(key: str) -> str:
    """The cache's folder in which a key of the home lies; empty where it lies in none."""
    parts = PurePosixPath(key).parts
    return "/".join(parts[:DEPTH]) if len(parts) > DEPTH else ""


def select_folders(home: Location, texts: Sequence[str]) -> list[CacheFolder]:
    """The folders that one of ``texts`` fits, or all where there is no text; raises :class:`CacheMissError`."""
    if texts and not home.can_list:
        return [_by_address(home, text) for text in texts]
    folders = list_folders(home)
    for text in texts:
        if not any(_names(home, folder.path, folder.digest, text) for folder in folders):
            raise _miss(home, text, [folder.path for folder in folders])
    return [f for f in folders if not texts or any(_names(home, f.path, f.digest, text) for text in texts)]


def select_folder(home: Location, text: str) -> CacheFolder:
    """The one folder that ``text`` fits.

    Raises :class:`CacheMissError` where there is none, :class:`AmbiguousCacheError` that lists them where there are
    several.
    """
    found = select_folders(home, [text])
    exact = [folder for folder in found if folder.path == _within(home, text)]
    if len(exact or found) == 1:
        return (exact or found)[0]
    raise _ambiguous(home, text, [folder.path for folder in found])


def select_caches(home: Location, texts: Sequence[str]) -> list[CacheEntry]:
    """The caches that one of ``texts`` fits, or all where there is no text; raises :class:`CacheMissError`."""
    listed = _listed(home, texts)
    for text in texts:
        if not any(_names(home, entry.path, entry.digest, text) for entry in listed):
            raise _miss(home, text, [entry.path for entry in listed])
    return [e for e in listed if not texts or any(_names(home, e.path, e.digest, text) for text in texts)]


def select_cache(home: Location, text: str) -> CacheEntry:
    """The one cache that ``text`` fits; raises as :func:`select_folder` does."""
    found = select_caches(home, [text])
    exact = [entry for entry in found if entry.path == _within(home, text)]
    if len(exact or found) == 1:
        return (exact or found)[0]
    raise _ambiguous(home, text, [entry.path for entry in found])


def are_wanted(facts: Sequence[Mapping[str, Any]], filters: Sequence[str]) -> list[bool]:
    """Which of several caches fit every filter, by their facts: ``path``, ``digest``, recipe fields and so on.

    A filter is ``field=value``, the value as ``cache info`` shows it or the first eight or more characters of a digest,
    or a text that occurs in the path or begins the digest. A cache without the field does not fit; raises
    :class:`UsageError` for a field that none of them has.
    """
    known = {field for one in facts for field in one}
    for text in filters:
        field, equals, _ = text.partition("=")
        if equals and known and field not in known:
            raise UsageError(f"--filter {text}: there is no {field!r}; give one of {', '.join(sorted(known))}")
    return [all(_fits(one, text) for text in filters) for one in facts]


def _fits(facts: Mapping[str, Any], wanted: str) -> bool:
    field, equals, value = wanted.partition("=")
    if not equals:
        return wanted.lower() in facts["path"].lower() or (bool(wanted) and facts["digest"].startswith(wanted))
    if field not in facts:
        return False
    found = facts[field]
    texts = {shown(found), str(found), str(found).lower()}
    return value in texts or (isinstance(found, str) and len(value) >= 8 and found.startswith(value))


def _listed(home: Location, texts: Sequence[str]) -> list[CacheEntry]:
    if home.can_list or not texts:
        return list_caches(home)
    found = []
    for text in texts:
        folder = _by_address(home, text)
        open_cache(folder.location)  # says what is wrong where nothing can be told of it
        found += [folder.entry] if folder.entry else []
    return found


def _by_address(home: Location, text: str) -> CacheFolder:
    """The cache at a path on a web server, which lists nothing."""
    path = _within(home, text)
    if len(PurePosixPath(path).parts) != DEPTH or not path.endswith(SUFFIX):
        raise CacheMissError(
            f"{home} is a web server, which lists no folders: give the path of one cache, "
            f"such as features/coco/val/NAME-DIGEST{SUFFIX}; found {text!r}"
        )
    entry = entry_at(home, path)
    return CacheFolder(home=home, path=path, entry=entry, has_root=home.exists(f"{path}/{METADATA_KEY}"))


def _within(home: Location, text: str) -> str:
    """A text that begins with the home's own address, less that."""
    return text.removeprefix(f"{home}/").rstrip("/")


def _names(home: Location, path: str, digest: str, text: str) -> bool:
    meant = _within(home, text)
    return bool(meant) and (meant in path or digest.startswith(meant))


def _miss(home: Location, text: str, paths: Sequence[str]) -> CacheMissError:
    there = "\n".join(f"  {path}" for path in paths[:_LISTED]) or "  none at all"
    more = f"\n  and {len(paths) - _LISTED} more (deapcache cache ls)" if len(paths) > _LISTED else ""
    return CacheMissError(f"no cache in {home} fits {text!r}. There is:\n{there}{more}")


def _ambiguous(home: Location, text: str, paths: Sequence[str]) -> AmbiguousCacheError:
    listed = "\n".join(f"  {path}" for path in paths)
    return AmbiguousCacheError(
        f"{home} has {len(paths)} caches that fit {text!r}, expected one. Give more of its path or digest:\n{listed}"
    )
