"""Paths and addresses told apart, also where pathlib has made ``s3:/bucket`` of ``s3://bucket``."""

from __future__ import annotations

import os
import re
from pathlib import Path

from deapcache.errors import UsageError
from deapcache.locations.redaction import redacted

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(/*)(.*)", re.DOTALL)


def local_path(given: str | os.PathLike[str], *, what: str) -> Path:
    """``given`` as a path of this machine's file system; raises :class:`UsageError` for an address.

    ``what`` is the option or argument that an error names.
    """
    if found := _ADDRESS.match(text := os.fspath(given)):
        raise UsageError(f"{what} {_whole(found)}: this is written to a path of this machine, not to an address")
    return Path(text)


def require_both_slashes(text: str) -> None:
    """Raise :class:`UsageError` for an address that has lost a slash: as a path it would be a folder ``s3:``."""
    if (found := _ADDRESS.match(text)) and not found[2]:
        raise UsageError(
            f"location {redacted(text)!r} is an address that lacks a slash, as pathlib.Path makes it: "
            f"give {_whole(found)!r} as text"
        )


def _whole(address: re.Match[str]) -> str:
    return redacted(f"{address[1]}://{'/' if address[1] == 'file' else ''}{address[3]}")
