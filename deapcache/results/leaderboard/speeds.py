"""Speeds of backbones beside their scores: those of one device at a time, since a ratio is of its device."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from deapcache.errors import ResultsError
from deapcache.results.leaderboard.entries import Comparison, Entry
from deapcache.results.leaderboard.facts import BackboneFacts
from deapcache.results.speeds import BackboneSpeed, most_measured
from deapcache.results.tables import NOTHING

COMMAND = "deapcache speed --backbone NAME"
UNIT = "[× ViT-B/16]"
_CONTROL = "@untrained"

Speeds = Mapping[str, Mapping[str, BackboneSpeed]]
"""Device → backbone → speed."""


def shown_device(speeds: Speeds, device: str | None) -> str:
    """``device``, or the one with the most backbones; empty where there are no speeds.

    Raises :class:`ResultsError` for a device that none was measured on.
    """
    if device is not None and device not in speeds:
        there = ", ".join(sorted(speeds)) or f"none, {COMMAND} measures them"
        raise ResultsError(f"there are no speeds on {device!r}: devices are {there}")
    return device or most_measured(speeds)


def with_speeds(comparison: Comparison, speeds: Speeds, device: str) -> Comparison:
    """The comparison with what is known of its backbones' speeds, that on ``device`` first."""
    order = sorted(speeds, key=lambda name: (name != device, name))

    def told(entry: Entry) -> Entry:
        found = [one for name in order if (one := _speed_of(entry.backbone, speeds[name]))]
        return dataclasses.replace(entry, backbone=dataclasses.replace(entry.backbone, speeds=tuple(found)))

    return dataclasses.replace(comparison, entries=tuple(map(told, comparison.entries)))


def _speed_of(backbone: BackboneFacts, known: Mapping[str, BackboneSpeed]) -> BackboneSpeed | None:
    """Of the backbone by name; of an untrained control that of its model, whose arithmetic is the same."""
    return known.get(backbone.name) or known.get(backbone.name.removesuffix(_CONTROL))


def on_device(backbone: BackboneFacts, device: str) -> BackboneSpeed | None:
    """The backbone's speed on that device."""
    return next((one for one in backbone.speeds if one.device == device), None)


def relative(backbone: BackboneFacts, device: str) -> float | None:
    """Times as fast as ViT-B/16 at 224 on ``device``; ``None`` where it was not measured."""
    found = on_device(backbone, device)
    return found.relative if found else None


def ratio(value: float | None) -> str:
    """Three digits; a dash where it was not measured."""
    return NOTHING if value is None else f"{value:.3g}"


def speed_note(device: str, others: int) -> str:
    """What the column of speeds is, and what to type where it is empty."""
    if not device:
        return f"speed: not measured yet, {COMMAND} measures it on the device at hand"
    more = f"; {others} more device{'s' if others > 1 else ''} measured (--device)" if others else ""
    return f"speed: whole backbone in inference, ViT-B/16 at 224 = 1, higher is faster; on {device}{more}; {_missing()}"


def _missing() -> str:
    return f"{NOTHING} not measured there ({COMMAND})"


def speed_facts(backbone: BackboneFacts) -> list[tuple[str, str]]:
    """A line for each device, for the panel of a run; one that says how to measure it where there is none."""
    if not backbone.speeds:
        return [("speed", f"not measured: deapcache speed --backbone {backbone.name}")]
    return [
        ("speed", f"{one.relative:.3g} × ViT-B/16 at 224, {one.images_per_second:.3g} images/s on {one.device}")
        for one in backbone.speeds
    ]
