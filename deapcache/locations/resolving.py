"""From what a user gives to a location: homes, the data root, paths and URLs, the local tier."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from deapcache.errors import LocationError, UsageError
from deapcache.locations.addresses import (
    Place,
    argument_or_variable,
    expanded,
    local_path,
    path_of_url,
    redacted,
    require_both_slashes,
)
from deapcache.locations.base import LocalTier, Location
from deapcache.locations.defaults import home_defaults
from deapcache.locations.files import is_folder
from deapcache.locations.hub import HUB_SCHEME, HubLocation
from deapcache.locations.local import LocalLocation
from deapcache.locations.remote import SCHEMES, RemoteLocation
from deapcache.locations.web import WebLocation

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


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
        those that ``$DEAPCACHE_READ_HOMES`` names, with commas between them, else those of the home's
        ``deapcache.toml``.
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
    own = _with_tier(_own_home(given), tier)
    others = [_with_tier(_require_read_home(locate(place)), tier) for place in _read_homes(read_homes, own)]
    return own.with_read_homes(place for place in dict.fromkeys(others) if place != own)


def data_root(given: Place | None = None) -> Path:
    """Where datasets lie: ``given``, else ``$DEAPCACHE_DATA``, else ``./data``. It need not exist."""
    return expanded(argument_or_variable(given, "DEAPCACHE_DATA", "data root") or "data")


def locate(place: Place) -> Location:
    """A location from a path or URL (``file://``, ``s3://``, ``gs://``, ``http(s)://``, ``hf://``).

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
    if parts.scheme == HUB_SCHEME:
        return HubLocation(text)
    if parts.scheme in SCHEMES:
        return WebLocation(text) if parts.scheme in ("http", "https") else RemoteLocation(text)
    known = ", ".join(f"{scheme}://" for scheme in ("file", *SCHEMES, HUB_SCHEME))
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


def _own_home(given: Place | None) -> Location:
    if (place := argument_or_variable(given, "DEAPCACHE_HOME", "home")) is not None:
        return locate(place)
    choice = "say where caches go with --home PATH, or DEAPCACHE_HOME"
    try:
        base = expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    except UsageError as error:
        raise UsageError(f"{error}; or {choice}") from None
    if not base.is_absolute():
        raise UsageError(f"XDG_CACHE_HOME is {str(base)!r}, which is not an absolute path: set it so, or {choice}")
    return _folder(base / "deapcache")


def _read_homes(given: Sequence[Place] | None, own: Location) -> list[Place]:
    if given:
        return list(given)  # an empty one is refused where it is located
    # Not os.pathsep: URLs have colons. Not a space: folders have them.
    configured = os.environ.get("DEAPCACHE_READ_HOMES", "").split(",")
    if named := [place.strip() for place in configured if place.strip()]:
        return list(named)
    return list(home_defaults(own).get("read-homes", [])) if isinstance(own, LocalLocation) else []


def _require_read_home(place: Location) -> Location:
    if isinstance(place, LocalLocation) and not is_folder(place.path):
        raise LocationError(
            f"there is no read-home {place}: is it mounted? --read-home (or DEAPCACHE_READ_HOMES) names homes that "
            "others have made"
        )
    return place


def _with_tier(place: Location, tier: LocalTier | None) -> Location:
    if tier is None or (isinstance(place, LocalLocation) and _device(place.path) == _device(tier.folder)):
        return place
    return place.with_options(tier=tier)


def _device(path: Path) -> int:
    return next(folder for folder in (path, *path.parents) if is_folder(folder)).stat().st_dev


def local_tier(folder: str | os.PathLike[str] | None = None, size: str | None = None) -> LocalTier | None:
    """The tier of ``folder`` and ``size`` (``200GB``), else of ``$DEAPCACHE_LOCAL_TIER`` and ``…_SIZE``, else None.

    The folder is made. Raises :class:`UsageError` where one is given without the other or the size is none, and
    :class:`LocationError` where nothing can be written to the folder.
    """
    place = argument_or_variable(folder, "DEAPCACHE_LOCAL_TIER", "local tier's folder")
    limit = argument_or_variable(size, "DEAPCACHE_LOCAL_TIER_SIZE", "local tier's size")
    if not place and not limit:
        return None
    if not place or not limit:
        raise UsageError(
            "a local tier needs a folder and a size: --local-tier DIR --local-tier-size 200GB "
            "(or DEAPCACHE_LOCAL_TIER and DEAPCACHE_LOCAL_TIER_SIZE)"
        )
    path = expanded(local_path(place, what="the local tier"))
    tier = LocalTier(folder=Path(os.path.abspath(path)), bytes=parse_bytes(str(limit)))  # noqa: PTH100
    _require_usable(tier)
    return tier


def parse_bytes(text: str) -> int:
    """``200GB``, ``1.5TB``, ``64GiB`` or a plain number as bytes; raises :class:`UsageError` for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    unit = _UNITS.get(found[2].upper()) if found else None
    if not found or unit is None or float(found[1]) <= 0:
        raise UsageError(f"size {text!r}: expected a number above 0 and a unit, such as 200GB, 1.5TB or 64GiB")
    return int(float(found[1]) * unit)


def format_bytes(count: float) -> str:
    """Bytes for people: ``1.3 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _require_usable(tier: LocalTier) -> None:
    try:
        tier.shards.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LocationError(
            f"the local tier {tier.folder} cannot be used: {error.strerror}; give a folder that you may write to"
        ) from error
    if not os.access(tier.shards, os.W_OK | os.X_OK):
        raise LocationError(f"the local tier {tier.shards} may not be written; give a folder that you may write to")
