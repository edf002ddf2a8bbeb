"""From what a user gives to a location."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from deapcache.errors import LocationError, UsageError
from deapcache.locations.addresses import Place, expanded, given_or_set, path_of_url, redacted, require_both_slashes
from deapcache.locations.base import Location
from deapcache.locations.local import LocalLocation
from deapcache.locations.looking import is_folder
from deapcache.locations.remote import SCHEMES, RemoteLocation
from deapcache.locations.tier import LocalTier, local_tier
from deapcache.locations.web import WebLocation


def home(
    given: Place | None = None, *, read_homes: Sequence[Place] | None = None, tier: LocalTier | None = None
) -> Location:
    """The cache home, and those that are read beside it.

    Parameters
    ----------
    given
        Path or URL of the home; by default ``$DEAPCACHE_HOME``, ``$XDG_CACHE_HOME/deapcache``, ``~/.cache/deapcache``.
    read_homes
        Homes whose caches are found after those of the first, in this order, and that are never written to; by default
        those that ``$DEAPCACHE_READ_HOMES`` names, with commas between them.
    tier
        Where shards from other machines are kept beside the GPU; by default what ``$DEAPCACHE_LOCAL_TIER`` and
        ``$DEAPCACHE_LOCAL_TIER_SIZE`` say. A path on the tier's own file system is read where it is.

    Raises
    ------
    UsageError
        Where an address or a size cannot be used.
    LocationError
        Where a read-home's folder is not there, or the tier's cannot be written.
    """
    tier = tier or local_tier()
    own = _tiered(_own(given), tier)
    others = [_tiered(_required(locate(place)), tier) for place in _read_homes(read_homes)]
    return own.with_read_homes(place for place in dict.fromkeys(others) if place != own)


def data_root(given: Place | None = None) -> Path:
    """Where datasets lie: ``given``, else ``$DEAPCACHE_DATA``, else ``./data``. It need not exist."""
    return expanded(given_or_set(given, "DEAPCACHE_DATA", "data root") or "data")


def locate(place: Place) -> Location:
    """A location from a path or URL (``file://``, ``s3://``, ``gs://``, ``http(s)://``).

    Raises :class:`UsageError` for any other scheme, and for an address that is empty or cannot be used.
    """
    text = os.fspath(place)
    if not text.strip():
        raise UsageError("an empty string is no location: give a path or URL")
    if text.lower().startswith("file:"):
        return _folder(path_of_url(text))
    require_both_slashes(text)
    if "://" not in text:
        return _folder(expanded(text))
    parts = urlsplit(text)
    if parts.scheme in SCHEMES:
        return WebLocation(text) if parts.scheme in ("http", "https") else RemoteLocation(text)
    known = ", ".join(f"{scheme}://" for scheme in ("file", *SCHEMES))
    shown = redacted(text)
    raise UsageError(f"location {shown!r} has the unknown scheme {parts.scheme!r}: give a path, or one of {known}")


def _folder(path: Path) -> LocalLocation:
    """Raises :class:`UsageError` for a name that no message could show."""
    place = LocalLocation(path)
    if not place.url.isprintable():
        raise UsageError(
            f"{place.url!r} has a character that cannot be printed, or is not UTF-8, in its path: give another folder, "
            "or a symbolic link to this one"
        )
    return place


def _own(given: Place | None) -> Location:
    if (place := given_or_set(given, "DEAPCACHE_HOME", "home")) is not None:
        return locate(place)
    return _folder(_user_caches() / "deapcache")


def _user_caches() -> Path:
    choice = "say where caches go with --home PATH, or DEAPCACHE_HOME"
    try:
        base = expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    except UsageError as error:
        raise UsageError(f"{error}; or {choice}") from None
    if not base.is_absolute():
        raise UsageError(f"XDG_CACHE_HOME is {str(base)!r}, which is not an absolute path: set it so, or {choice}")
    return base


def _read_homes(given: Sequence[Place] | None) -> list[Place]:
    if given:
        return list(given)  # an empty one is refused where it is located
    # Not os.pathsep: URLs have colons. Not a space: folders have them.
    configured = os.environ.get("DEAPCACHE_READ_HOMES", "").split(",")
    return [place.strip() for place in configured if place.strip()]


def _required(place: Location) -> Location:
    if isinstance(place, LocalLocation) and not is_folder(place.path):
        raise LocationError(
            f"there is no read-home {place}: is it mounted? --read-home (or DEAPCACHE_READ_HOMES) names homes that "
            "others have made"
        )
    return place


def _tiered(place: Location, tier: LocalTier | None) -> Location:
    if tier is None or (isinstance(place, LocalLocation) and _device(place.path) == _device(tier.folder)):
        return place
    return place.used(tier=tier)


def _device(path: Path) -> int:
    return next(folder for folder in (path, *path.parents) if is_folder(folder)).stat().st_dev
