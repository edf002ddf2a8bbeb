"""Measured speeds: their files ``speed/*.json`` in a home, as ``deapcache speed`` leaves them, and who reads which."""

from __future__ import annotations

import json
import re
import statistics
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from deapcache.errors import ResultsError
from deapcache.locations import Location
from deapcache.recipe import SHORT, digest_of
from deapcache.results.documents import SpeedDocument
from deapcache.results.files import files_in, read_checked

SCHEMA = 1
FOLDER = "speed"

BACKBONE, READOUT = "backbone", "readout"

_PLAIN = (
    *("weights", "input", "batch", "reference", "peak_memory_bytes", "memory", "parameters"),
    *("device", "precision", "threads", "date", "versions"),
)
"""Fields that the JSON document has as they are."""


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a backbone or a readout is on one device in inference."""

    kind: str
    """``backbone`` or ``readout``."""
    name: str
    weights: str
    """``trained``, ``untrained``, or ``untrained copy`` of one whose weights are not at hand."""
    input: str
    """What goes in: ``images 224x224``, or ``features 14x14x768``."""
    batch: int
    """Samples in a batch."""
    seconds: tuple[float, ...]
    """Of each batch, in the order in which they were run."""
    reference_seconds: float
    """Median of a batch of ViT-B/16 at 224, in the same run of the command."""
    reference: str
    """The backbone that this is the time of."""
    peak_memory_bytes: int
    memory: str
    """What that is: ``resident`` (of a process of its own, with Python and its libraries), or ``allocated on the GPU``.
    """
    parameters: int
    device: str
    """Name of the GPU, or of the processor with its threads, and the precision where that is not fp32."""
    precision: str
    threads: int
    date: str
    """UTC, ISO 8601."""
    versions: Mapping[str, str]

    @property
    def images_per_second(self) -> dict[str, float]:
        """Slowest, median and fastest batch."""
        rates = [self.batch / seconds for seconds in self.seconds]
        return {"min": min(rates), "median": statistics.median(rates), "max": max(rates)}

    @property
    def runtime_factor(self) -> float:
        """Times as long as the reference takes for as many samples, as section 5.4 has it."""
        return statistics.median(self.seconds) / self.reference_seconds

    def to_json(self) -> dict[str, Any]:
        """The JSON document; ``relative`` is the speed where the reference's is 1, so above 1 is faster."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        return {
            "schema": SCHEMA,
            self.kind: self.name,
            "images_per_second": self.images_per_second,
            "relative": 1 / self.runtime_factor,
            "runtime_factor": self.runtime_factor,
            **plain,
            "batches": len(self.seconds),
            "seconds": list(self.seconds),
            "versions": dict(self.versions),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Speed:
        """The speed that :meth:`to_json` gave, of what :data:`SPEED_MODEL` accepts; raises ``ValueError``."""
        kind = BACKBONE if BACKBONE in document else READOUT
        if kind not in document:
            raise ValueError(f"it names neither a {BACKBONE} nor a {READOUT}")
        seconds = tuple(document["seconds"])
        return cls(
            kind=kind,
            name=document[kind],
            seconds=seconds,
            reference_seconds=statistics.median(seconds) / document["runtime_factor"],
            **{name: document[name] for name in _PLAIN},
        )


SPEED_MODEL: TypeAdapter[SpeedDocument] = TypeAdapter(SpeedDocument)
"""What a speed's document must be, wherever it comes from: see :func:`deapcache.results.files.checked`."""


def speed_key(speed: Speed) -> str:
    """Where a home keeps it: ``speed/<name>-<digest of the device>.json``; a second measurement takes its place."""
    return f"{speed_stem(speed.kind, speed.name)}{digest_of(speed.device)[:SHORT]}.json"


def speed_stem(kind: str, name: str) -> str:
    """What the keys of the speeds of a backbone or readout begin with, on whatever device."""
    prefix = "" if kind == BACKBONE else f"{kind}-"
    return f"{FOLDER}/{prefix}{re.sub(r'[^A-Za-z0-9._@+-]+', '_', name)}-"


def write_speed(home: Location, speed: Speed) -> str:
    """Write a speed into ``home``, and give its key; raises :class:`LocationError`."""
    key = speed_key(speed)
    home.publish(key, json.dumps(speed.to_json(), indent=1).encode(), replace=True)
    return key


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
