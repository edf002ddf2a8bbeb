"""Speeds of backbones from a home's ``speed/*.json``, as ``deapcache speed`` leaves them."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deapcache.errors import ResultsError
from deapcache.locations import Location
from deapcache.results.speed_record import FOLDER


@dataclass(frozen=True, kw_only=True)
class BackboneSpeed:
    """How fast one backbone is on one device."""

    backbone: str
    images_per_second: float
    """Of the median batch."""
    relative: float
    """To ViT-B/16 at 224 on the same device; NaN where that was not measured."""
    device: str


def load_speeds(home: Location, device: str | None = None) -> list[BackboneSpeed]:
    """The speeds of one device, by backbone: ``device``, or the one with the most backbones.

    As :func:`all_speeds`. Raises :class:`ResultsError` where nothing is left, with the command to run.
    """
    found = by_device(all_speeds(home))
    if not found:
        raise ResultsError(f"{home} has no speeds of backbones: measure them with deapcache speed --backbone NAME")
    if device is not None and device not in found:
        raise ResultsError(f"{home} has no speeds on {device!r}: there are {', '.join(sorted(found))}")
    chosen = device or most_measured(found)
    return sorted(found[chosen].values(), key=lambda one: one.backbone)


def all_speeds(home: Location) -> list[BackboneSpeed]:
    """The speeds of all backbones and devices, in the order of their files; [] where there are none.

    Files of other things, such as readouts, are passed over. Raises :class:`ResultsError` for a file that is no speed.
    """
    keys = [key for key in home.keys(FOLDER) if key.endswith(".json")]
    return [one for key in keys for one in _speeds(f"{home}/{key}", home.read(key))]


def by_device(speeds: Iterable[BackboneSpeed]) -> dict[str, dict[str, BackboneSpeed]]:
    """Device → backbone → its speed; of several measurements of a backbone the last counts."""
    found: dict[str, dict[str, BackboneSpeed]] = defaultdict(dict)
    for one in speeds:
        found[one.device][one.backbone] = one
    return dict(found)


def most_measured(speeds: Mapping[str, Mapping[str, BackboneSpeed]]) -> str:
    """The device with the most backbones, of several the first by name; empty where there is none."""
    return max(sorted(speeds), key=lambda name: len(speeds[name]), default="")


def _speeds(file: str, data: bytes) -> list[BackboneSpeed]:
    try:
        document = json.loads(data)
    except ValueError as error:
        raise ResultsError(f"{file} is no JSON ({error}): delete it, or run its deapcache speed again") from None
    entries: Sequence[Any] = document if isinstance(document, list) else [document]
    return [_speed(file, entry) for entry in entries if isinstance(entry, Mapping) and entry.get("backbone")]


def _speed(file: str, entry: Mapping[str, Any]) -> BackboneSpeed:
    try:
        rate = float(entry["images_per_second"]["median"])
        relative = entry.get("relative")
        found = BackboneSpeed(
            backbone=str(entry["backbone"]),
            images_per_second=rate,
            relative=math.nan if relative is None else float(relative),
            device=str(entry["device"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ResultsError(
            f"{file} is not a speed of deapcache ({type(error).__name__}: {error}): it must say backbone, "
            "images_per_second, relative and device; delete it, or run its deapcache speed again"
        ) from None
    if not (math.isfinite(rate) and rate > 0):
        raise ResultsError(f"{file} says {rate} images per second: delete it, or run its deapcache speed again")
    return found
