"""From what a user gives to a location."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

from deapcache.errors import UsageError
from deapcache.locations.base import Location
from deapcache.locations.local import LocalLocation
from deapcache.locations.remote import SCHEMES, RemoteLocation
from deapcache.locations.web import WebLocation


def home(given: str | os.PathLike[str] | None = None) -> Location:
    """The cache home: ``given``, else ``$DEAPCACHE_HOME``, ``$XDG_CACHE_HOME/deapcache``, ``~/.cache/deapcache``."""
    if given:
        return locate(given)
    if configured := os.environ.get("DEAPCACHE_HOME"):
        return locate(configured)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return LocalLocation(Path(base) / "deapcache")


def data_root(given: str | os.PathLike[str] | None = None) -> Path:
    """Where datasets lie: ``given``, else ``$DEAPCACHE_DATA``, else ``./data``. It need not exist."""
    return Path(given or os.environ.get("DEAPCACHE_DATA") or "data").expanduser()


def locate(place: str | os.PathLike[str]) -> Location:
    """A location from a path or URL (``file://``, ``s3://``, ``gs://``, ``http(s)://``).

    Raises :class:`UsageError` for any other scheme.
    """
    text = os.fspath(place)
    parts = urlsplit(text)
    if "://" not in text:
        return LocalLocation(Path(text).expanduser())
    if parts.scheme == "file":
        return LocalLocation(Path(parts.path))
    if parts.scheme in SCHEMES:
        return WebLocation(text) if parts.scheme in ("http", "https") else RemoteLocation(text)
    known = ", ".join(f"{scheme}://" for scheme in ("file", *SCHEMES))
    raise UsageError(f"location {text!r} has the unknown scheme {parts.scheme!r}: give a path, or one of {known}")
