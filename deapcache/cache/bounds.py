"""What the metadata of a cache may claim, looked at before any memory is reserved for it.

A cache may come from anyone. Its numbers decide how much memory a read asks for, and a library that is refused memory
ends the whole process: so claims that nothing deapcache writes could meet are refused while they are still text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from deapcache.untrusted import shorten

MOST_BYTES = 2**31 - 1 - 32
"""Of one image's entry, and of all image ids: Blosc packs no more at once."""

MOST_METADATA = 2**24
"""Of a ``zarr.json``: that of a cache holds its recipe, with the names of all classes."""

MOST_IMAGES = 2**26
"""67 million: their ids take some ten gigabytes once they are read."""

MOST_SHARDS = 2**20
"""Each is listed, and named where it is missing; deapcache's hold 100 MB or a single image."""
MOST_SHARD_IMAGES = 2**22
"""A shard's index names each of them."""

_UNPACKED_FREELY = 2**26
_MOST_RATIO = 2_000
"""Offsets of ids of one length, the most regular of what deapcache writes, become 720 times smaller; zeros 8,000."""

CODECS = (["bytes", "blosc", "crc32c"], ["bytes", "crc32c"])
"""From numbers to checked bytes: another codec could unpack to any size, or leave bytes unchecked."""
INDEX_CODECS = (["bytes", "crc32c"],)

_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")


def whole_numbers(claimed: Any, what: str, *, least: int = 1) -> list[int]:
    """``claimed`` as a list of whole numbers; raises ``ValueError`` for anything else, or less than ``least``."""
    if not isinstance(claimed, list) or not all(type(each) is int and each >= least for each in claimed):
        raise ValueError(f"{what} is {shorten(claimed)}, expected whole numbers from {least}")
    return claimed


def require_size(shape: Sequence[int], itemsize: int, what: str) -> None:
    """Raise ``ValueError`` where an array of ``shape`` would be larger than anything that is packed at once."""
    claimed = math.prod(shape) * itemsize
    if claimed > MOST_BYTES:
        raise ValueError(f"{what} would be {claimed} bytes, at most {MOST_BYTES} are possible")


def require_packed(packed: int, unpacked: int, what: str) -> None:
    """Raise ``ValueError`` where so few bytes would become so many that memory is all that they can be meant for."""
    if unpacked > _UNPACKED_FREELY and unpacked > packed * _MOST_RATIO:
        raise ValueError(f"{what} has {packed} bytes, which would become {unpacked}")


def require_codecs(codecs: Any, expected: Sequence[list[str]] = CODECS) -> None:
    """Raise ``ValueError`` unless ``codecs`` are one of the expected rows of names, and bytes come lowest first."""
    names = [codec["name"] for codec in codecs]
    if names not in expected:
        rows = " or ".join(", ".join(row) for row in expected)
        raise ValueError(f"the codecs are {shorten(names)}, expected {rows}")
    order = codecs[0].get("configuration", {}).get("endian", "little")
    if order != "little":
        raise ValueError(f"the bytes of its numbers are in {shorten(order)} order, expected little")


def require_names(names: Any) -> tuple[str, ...]:
    """``names`` of arrays, as they are; raises ``ValueError`` where one could be a path, or there is none."""
    good = isinstance(names, list) and names and all(isinstance(each, str) and _NAME.fullmatch(each) for each in names)
    if not good or len(set(names)) != len(names):
        raise ValueError(f"the names of its arrays are {shorten(names)}, expected plain words")
    return tuple(names)
