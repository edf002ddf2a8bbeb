"""Paths as users give them: with ``~``, or as ``file://`` addresses."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from deapcache.errors import UsageError

Place = str | os.PathLike[str]

_HERE = ("", "localhost")
_ESCAPES = re.compile(r"%(?![0-9A-Fa-f]{2})|%2[Ff]|%00")
"""Of a ``file://`` address: what is no escape, and a separator or an end that would be no part of a name."""


def given_or_set(given: Place | None, variable: str, what: str) -> Place | None:
    """What the caller gives, else what the environment variable says, else None; an empty variable says nothing.

    Raises :class:`UsageError` where the caller gives an empty one.
    """
    if given is None:
        return os.environ.get(variable) or None
    if not os.fspath(given).strip():
        raise UsageError(f"the {what} is an empty string: leave it out to take ${variable} or the default")
    return given


def expanded(path: Place) -> Path:
    """The path with the folder that ``~`` or ``~user`` at its beginning stands for; raises :class:`UsageError`."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no HOME, and a user id without a name
        raise UsageError(
            f"{os.fspath(path)}: the home folder that ~ stands for is not known here: write the whole path, or set HOME"
        ) from None


def path_of_url(url: str) -> Path:
    """The path that a ``file://`` address means, its escapes such as ``%20`` read.

    Raises :class:`UsageError` for another host, a query or fragment, a relative path, and escapes that mean no name.
    """
    parts = urlsplit(url)
    if parts.netloc.lower() not in _HERE:
        raise UsageError(
            f"location {url!r} names the host {parts.netloc!r}: a file:// address is of this machine, "
            "file:///absolute/path; give another machine's folder where it is mounted here"
        )
    if not parts.path.startswith("/"):
        raise UsageError(f"location {url!r} has no absolute path: give file:///absolute/path, or the path alone")
    if "?" in url or "#" in url:
        raise UsageError(f"location {url!r} has a ? or #, which end the path of an address: write them as %3F and %23")
    if wrong := _ESCAPES.search(parts.path):
        raise UsageError(
            f"location {url!r} has {wrong[0]!r}, which is no character of a name: write a % of a name as %25, "
            "or give the path alone"
        )
    return Path(os.fsdecode(unquote_to_bytes(parts.path)))
