"""Speeds in a bundle: those of the backbones and readouts of its runs, and whether they are what they say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from deapcache.errors import BundleError, DeapcacheError
from deapcache.locations import Location
from deapcache.results.bundle.archive import parse_json
from deapcache.results.record import Result
from deapcache.results.speed_record import BACKBONE, FOLDER, READOUT, SCHEMA, Speed, speed_key, speed_stem

REFERENCE = "imagenet"
"""A ViT-B/16 at 224: relative speeds are to one of its architecture."""

_TEXT = ("name", "weights", "input", "reference", "memory", "device", "precision", "date")
_WHOLE = ("batch", "peak_memory_bytes", "parameters", "threads")
_ONE_OF: Mapping[str, tuple[str, ...]] = {
    "weights": ("trained", "untrained", "untrained copy"),
    "memory": ("resident", "allocated on the GPU"),
    "precision": ("fp32", "bf16", "fp16"),
}
_LONGEST = 300
"""Characters of a text."""
_SAME = 1e-9
"""By how much a number may differ from that computed again, as a share."""


def speeds_of(home: Location, results: Iterable[Result]) -> dict[str, bytes]:
    """Key → file of the speeds that ``home`` has of the backbones and readouts of ``results``.

    Raises :class:`BundleError` for one that would be refused.
    """
    wanted = list(results)
    stems = {speed_stem(BACKBONE, result.backbone) for result in wanted}
    stems |= {speed_stem(READOUT, result.readout) for result in wanted}
    keys = [key for key in home.keys(FOLDER) if key.endswith(".json") and f"{key.rpartition('-')[0]}-" in stems]
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
        document = parse_json(data)
        speed = Speed.from_json(document)
        _check_fields(speed)
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
    from deapcache.backbones.flops import alike  # with PyTorch, which tables do without

    return alike(name) == alike(REFERENCE)


def _check_fields(speed: Speed) -> None:
    for name in _TEXT:
        value = getattr(speed, name)
        _require(isinstance(value, str) and 0 < len(value) <= _LONGEST, f"its {name} is no text")
    for name in _WHOLE:
        value = getattr(speed, name)
        _require(type(value) is int and value >= (name == "batch"), f"its {name} is no whole number")
    for name, known in _ONE_OF.items():
        _require(getattr(speed, name) in known, f"its {name} is none of {', '.join(known)}")
    versions = speed.versions.items()
    _require(all(isinstance(text, str) for pair in versions for text in pair), "its versions are no texts")
    datetime.fromisoformat(speed.date)


def _check_numbers(document: Mapping[str, Any], speed: Speed) -> None:
    numbers = (*speed.seconds, speed.reference_seconds)
    _require(
        all(type(one) is float and math.isfinite(one) and one > 0 for one in numbers),
        "the seconds of its batches are no times",
    )
    again = speed.to_json()
    _require(document["schema"] == SCHEMA, f"its schema is {document['schema']!r}, this deapcache reads {SCHEMA}")
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
