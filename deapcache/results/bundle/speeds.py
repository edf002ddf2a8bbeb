"""Speeds in a bundle: those of the backbones and readouts of its runs, and whether they are what they say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from deapcache.errors import BundleError, DeapcacheError
from deapcache.locations import Location
from deapcache.results.files import checked
from deapcache.results.record import Result
from deapcache.results.speed_record import (
    BACKBONE,
    READOUT,
    SCHEMA,
    SPEED_MODEL,
    Speed,
    speed_key,
    speed_stem,
)
from deapcache.results.speeds import read_speeds
from deapcache.untrusted import require_printable

REFERENCE = "imagenet"
"""A ViT-B/16 at 224: relative speeds are to one of its architecture."""

_SAME = 1e-9
"""By how much a number may differ from that computed again, as a share."""


def speeds_of(home: Location, results: Iterable[Result]) -> dict[str, bytes]:
    """Key → file of the speeds that ``home`` has of the backbones and readouts of ``results``.

    Raises :class:`BundleError` for one that would be refused.
    """
    wanted = list(results)
    stems = {speed_stem(BACKBONE, result.backbone) for result in wanted}
    stems |= {speed_stem(READOUT, result.readout) for result in wanted}
    keys = [key for key in read_speeds(home) if f"{key.rpartition('-')[0]}-" in stems]
    found = {key: home.read(key) for key in keys}
    for key, data in found.items():
        check_speed(key, data, wanted)
    return found


def check_speed(key: str, data: bytes, results: Iterable[Result]) -> Speed:
    """The speed in ``data``, by what it is: of a backbone or readout of ``results``, and under its own name.

    Rates and ratios are computed again from the seconds of each batch. Raises :class:`BundleError` that says what does
    not fit.
    """
    try:
        document = checked(data, SPEED_MODEL, schema=SCHEMA)
        require_printable([document])
        speed = Speed.from_json(document)
        _check_numbers(document, speed)
        _require(speed_key(speed) == key, "its name is not the one that its contents have")
        named = {result.backbone if speed.kind == BACKBONE else result.readout for result in results}
        _require(speed.name in named, f"it is of {speed.kind} {speed.name!r}, of which there is no run here")
        _require(_is_reference(speed.reference), f"{speed.reference!r} is no ViT-B/16 at 224")
    except DeapcacheError as error:
        raise BundleError(f"{key}: {error}") from None
    except Exception as error:  # the file is anybody's: what is expected to be a number may be a table
        raise BundleError(f"{key} is no speed of deapcache: {type(error).__name__}: {error}") from None
    return speed


def _is_reference(name: str) -> bool:
    from deapcache.backbones import arithmetic_key  # with PyTorch, which tables do without

    return arithmetic_key(name) == arithmetic_key(REFERENCE)


def _check_numbers(document: Mapping[str, Any], speed: Speed) -> None:
    again = speed.to_json()
    _require(set(document) == set(again), "it has other fields than a speed of this deapcache")
    for name, value in again.items():
        _require(_same(document[name], value), f"its {name} does not follow from the seconds of its batches")
    if speed.kind == BACKBONE and speed.name == speed.reference:
        _require(_same(speed.runtime_factor, 1.0), "it is the reference, whose relative speed is 1")


def _same(kept: Any, found: Any) -> bool:
    if isinstance(found, Mapping):
        return set(kept) == set(found) and all(_same(kept[name], value) for name, value in found.items())
    if isinstance(found, float):
        return type(kept) in (int, float) and math.isclose(kept, found, rel_tol=_SAME)
    return bool(kept == found)


def _require(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise BundleError(otherwise)
