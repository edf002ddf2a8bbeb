"""Speeds of backbones from a home's ``speed/*.json``, as ``deapcache speed`` leaves them."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from deapcache.errors import ResultsError
from deapcache.locations import Location
from deapcache.results.files import files_in, read_checked
from deapcache.results.speed_record import BACKBONE, FOLDER, SCHEMA, SPEED_MODEL, Speed, speed_key


@dataclass(frozen=True, kw_only=True)
class BackboneSpeed:
    """How fast one backbone is on one device."""

    backbone: str
    images_per_second: float
    """Of the median batch."""
    relative: float
    """To ViT-B/16 at 224 on the same device."""
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
    """The speeds of all backbones and devices, in the order of their files; [] where there are none."""
    return [
        BackboneSpeed(
            backbone=speed.name,
            images_per_second=speed.images_per_second["median"],
            relative=1 / speed.runtime_factor,
            device=speed.device,
        )
        for speed in read_speeds(home).values()
        if speed.kind == BACKBONE
    ]


def read_speeds(home: Location) -> dict[str, Speed]:
    """Key → speed, of backbones and readouts, in the order of keys.

    A file that is no speed, or a copy of one under another name, is left out with a warning that names it.
    """
    found = {}
    for name in files_in(home, FOLDER, ".json"):
        key = f"{FOLDER}/{name}.json"
        try:
            found[key] = _load(home, key)
        except ResultsError as error:
            warnings.warn(f"left out: {error}", stacklevel=2)
    return found


def _load(home: Location, key: str) -> Speed:
    again = "run its deapcache speed again"
    try:
        speed = Speed.from_json(read_checked(home, key, SPEED_MODEL, schema=SCHEMA, again=again))
    except FileNotFoundError:
        raise ResultsError(f"{home}/{key} is gone") from None
    except (ValueError, ArithmeticError) as error:
        if isinstance(error, ResultsError):
            raise
        raise ResultsError(f"{home}/{key} is not a speed of deapcache: {error}; delete it, or {again}") from None
    if speed_key(speed) != key:
        raise ResultsError(f"{home}/{key} is a copy of {speed_key(speed)} under another name: delete it")
    return speed


def by_device(speeds: Iterable[BackboneSpeed]) -> dict[str, dict[str, BackboneSpeed]]:
    """Device → backbone → its speed; of several measurements of a backbone the last counts."""
    found: dict[str, dict[str, BackboneSpeed]] = defaultdict(dict)
    for one in speeds:
        found[one.device][one.backbone] = one
    return dict(found)


def most_measured(speeds: Mapping[str, Mapping[str, BackboneSpeed]]) -> str:
    """The device with the most backbones, of several the first by name; empty where there is none."""
    return max(sorted(speeds), key=lambda name: len(speeds[name]), default="")
