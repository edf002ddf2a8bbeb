"""A bounded folder beside the GPU for shards that were read: where it is, and how large it may grow."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from deapcache.errors import LocationError, UsageError
from deapcache.locations.addresses import expanded, given_or_set, local_path

SHARDS = "deapcache-shards"
"""The one folder below the tier's that deapcache writes to, counts and deletes from."""

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


@dataclass(frozen=True, kw_only=True)
class LocalTier:
    """Where shards are kept that were read from elsewhere, and how many bytes they may take in all."""

    folder: Path
    bytes: int

    @property
    def shards(self) -> Path:
        """The folder of all shards that are kept."""
        return self.folder / SHARDS


def local_tier(folder: str | os.PathLike[str] | None = None, size: str | None = None) -> LocalTier | None:
    """The tier of ``folder`` and ``size`` (``200GB``), else of ``$DEAPCACHE_LOCAL_TIER`` and ``…_SIZE``, else None.

    The folder is made. Raises :class:`UsageError` where one is given without the other or the size is none, and
    :class:`LocationError` where nothing can be written to the folder.
    """
    place = given_or_set(folder, "DEAPCACHE_LOCAL_TIER", "local tier's folder")
    limit = given_or_set(size, "DEAPCACHE_LOCAL_TIER_SIZE", "local tier's size")
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


def _require_usable(tier: LocalTier) -> None:
    try:
        tier.shards.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LocationError(
            f"the local tier {tier.folder} cannot be used: {error.strerror}; give a folder that you may write to"
        ) from error
    if not os.access(tier.shards, os.W_OK | os.X_OK):
        raise LocationError(f"the local tier {tier.shards} may not be written; give a folder that you may write to")
