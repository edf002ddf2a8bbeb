"""Measured speeds, and the files that keep them: ``speed/*.json`` in a home.

A file holds the speed of one backbone, or those of all training steps, on one device. ``deapcache speed`` and
``deapcache plan --measure`` write them; plans, the leaderboard, figures and bundles read them. A file of rates, which
``deapcache plan --rates`` takes, is a JSON list of the same documents.
"""

from __future__ import annotations

import json
import re
import statistics
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from deapcache.backbones import arithmetic_key
from deapcache.errors import DeapcacheError, ResultsError, UsageError
from deapcache.locations import Location, WebLocation, locate
from deapcache.recipe import SHORT, digest_of
from deapcache.results.documents import Date, Side
from deapcache.results.files import MOST_BYTES, checked, files_in, read_checked
from deapcache.results.frame import CONTROL
from deapcache.untrusted import parse_json

SCHEMA = 1
FOLDER = "speed"

BACKBONE, READOUT = "backbone", "readout"

_PLAIN = (
    *("weights", "input", "batch", "reference", "peak_memory_bytes", "memory", "parameters"),
    *("device", "precision", "threads", "date", "versions"),
)
"""Fields that the JSON document has as they are."""

_STEPS = "training-steps"
_STEPS_KEY = re.compile(rf"{FOLDER}/{_STEPS}-[0-9a-f]{{{SHORT}}}\.json")

_Short = Annotated[str, Field(min_length=1, max_length=300)]
_Seconds = Annotated[float, Field(gt=0)]


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast a backbone is on one device in inference; files of earlier versions may hold that of a readout."""

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
    """See :func:`with_precision`."""
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

    @property
    def relative(self) -> float:
        """The speed where the reference's is 1, so above 1 is faster."""
        return 1 / self.runtime_factor

    def to_json(self) -> dict[str, Any]:
        """The JSON document."""
        plain = {name: getattr(self, name) for name in _PLAIN}
        return {
            "schema": SCHEMA,
            self.kind: self.name,
            "images_per_second": self.images_per_second,
            "relative": self.relative,
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


@dataclass(frozen=True, kw_only=True)
class StepKey:
    """What the time of a training step depends on."""

    task: _Short
    readout: _Short
    dataset: _Short
    """Its classes decide the readout's outputs."""
    grid: tuple[Side, Side]
    dim: Side
    output_size: tuple[Side, Side]
    batch_size: int
    members: Annotated[int, Field(ge=1)]
    """Readouts that step together: seeds and learning rates."""
    surveyed: int
    """Training images, where their number changes the loss (``discrimination``); else 0."""


@dataclass(frozen=True, kw_only=True)
class StepSpeeds:
    """How long training steps take on one device, with features and targets in memory."""

    seconds: Mapping[StepKey, float]
    """Of one step of all members: loss, gradients and the optimiser's step."""
    device: str
    threads: int
    date: str
    """When the last was measured, UTC, ISO 8601."""
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """The JSON document."""
        steps = [{"key": asdict(key), "seconds": seconds} for key, seconds in self.seconds.items()]
        about = {name: getattr(self, name) for name in ("device", "threads", "date")}
        return {"schema": SCHEMA, "steps": steps, **about, "versions": dict(self.versions)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> StepSpeeds:
        """The steps that :meth:`to_json` gave, of what :data:`STEPS_MODEL` accepts."""
        return cls(
            seconds=_seconds_of_steps(document),
            **{name: document[name] for name in ("device", "threads", "date", "versions")},
        )


def _seconds_of_steps(document: Mapping[str, Any]) -> dict[StepKey, float]:
    """Key → seconds of the steps in a document that :data:`STEPS_MODEL` accepts."""
    return {_STEP_KEY.validate_python(step["key"]): float(step["seconds"]) for step in document["steps"]}


class _Rates(TypedDict):
    min: float
    median: float
    max: float


class _SpeedDocument(TypedDict):
    schema: int
    backbone: NotRequired[_Short]
    readout: NotRequired[_Short]
    weights: Literal["trained", "untrained", "untrained copy"]
    input: _Short
    batch: Annotated[int, Field(ge=1)]
    seconds: Annotated[list[_Seconds], Field(min_length=1)]
    images_per_second: _Rates
    relative: Annotated[float, Field(gt=0)]
    runtime_factor: Annotated[float, Field(gt=0)]
    reference: _Short
    peak_memory_bytes: Annotated[int, Field(ge=0)]
    memory: Literal["resident", "allocated on the GPU"]
    parameters: Annotated[int, Field(ge=0)]
    device: _Short
    precision: Literal["fp32", "bf16", "fp16"]
    threads: Annotated[int, Field(ge=0)]
    date: Date
    versions: dict[str, str]


class _StepSpeed(TypedDict):
    key: StepKey
    seconds: _Seconds


class _StepsDocument(TypedDict):
    schema: int
    steps: list[_StepSpeed]
    device: _Short
    threads: Annotated[int, Field(ge=0)]
    date: Date
    versions: dict[str, str]


class _ForwardRate(TypedDict):
    backbone: _Short
    precision: _Short
    images_per_second: Annotated[float, Field(gt=0)]


class _OldRatesDocument(TypedDict):
    """All rates of one device, as plans kept them before they read speeds."""

    schema: int
    device: str
    measured: str
    forwards: list[_ForwardRate]
    steps: list[_StepSpeed]


SPEED_MODEL: TypeAdapter[_SpeedDocument] = TypeAdapter(_SpeedDocument)
"""What a speed's document must be, wherever it comes from: see :func:`deapcache.results.files.checked`."""
_STEP_KEY: TypeAdapter[StepKey] = TypeAdapter(StepKey)
STEPS_MODEL: TypeAdapter[_StepsDocument] = TypeAdapter(_StepsDocument)
"""The same of training steps."""
_OLD_MODEL: TypeAdapter[_OldRatesDocument] = TypeAdapter(_OldRatesDocument)


def with_precision(device: str, precision: str) -> str:
    """All that makes two speeds comparable: ``NVIDIA H100 80GB HBM3``, ``Intel Xeon, 2 threads of 4, bf16``."""
    return device if precision == "fp32" else f"{device}, {precision}"


def speed_key(speed: Speed | StepSpeeds) -> str:
    """Where a home keeps it: ``speed/<name>-<digest of the device>.json``; a second measurement takes its place."""
    stem = f"{FOLDER}/{_STEPS}-" if isinstance(speed, StepSpeeds) else speed_stem(speed.kind, speed.name)
    return f"{stem}{digest_of(speed.device)[:SHORT]}.json"


def speed_stem(kind: str, name: str) -> str:
    """What the keys of the speeds of a backbone or readout begin with, on whatever device."""
    prefix = "" if kind == BACKBONE else f"{kind}-"
    return f"{FOLDER}/{prefix}{re.sub(r'[^A-Za-z0-9._@+-]+', '_', name)}-"


def write_speed(home: Location, speed: Speed | StepSpeeds) -> str:
    """Write a speed into ``home``, and give its key; raises :class:`LocationError`."""
    key = speed_key(speed)
    home.publish(key, json.dumps(speed.to_json(), indent=1).encode(), replace=True)
    return key


# Speeds of backbones, for the leaderboard, figures and bundles


def load_speeds(home: Location, device: str | None = None) -> list[Speed]:
    """The speeds of one device, by backbone: ``device``, or the one with the most backbones.

    As :func:`all_speeds`. Raises :class:`ResultsError` where nothing is left, with the command to run.
    """
    found = by_device(all_speeds(home))
    if not found:
        raise ResultsError(f"{home} has no speeds of backbones: measure them with deapcache speed --backbone NAME")
    if device is not None and device not in found:
        raise ResultsError(f"{home} has no speeds on {device!r}: there are {', '.join(sorted(found))}")
    chosen = device or most_measured(found)
    return sorted(found[chosen].values(), key=lambda one: one.name)


def all_speeds(home: Location) -> list[Speed]:
    """The speeds of all backbones and devices, in the order of their files; [] where there are none."""
    return [speed for speed in read_speeds(home).values() if speed.kind == BACKBONE]


def read_speeds(home: Location) -> dict[str, Speed]:
    """Key → speed, of backbones and readouts, in the order of keys.

    A file that is no speed, or a copy of one under another name, is left out with a warning that names it.
    """
    found = {}
    for name in files_in(home, FOLDER, ".json"):
        key = f"{FOLDER}/{name}.json"
        if _STEPS_KEY.fullmatch(key):
            continue
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


def by_device(speeds: Iterable[Speed]) -> dict[str, dict[str, Speed]]:
    """Device → backbone → its speed; of several measurements of a backbone the last counts."""
    found: dict[str, dict[str, Speed]] = defaultdict(dict)
    for one in speeds:
        found[one.device][one.name] = one
    return dict(found)


def most_measured(speeds: Mapping[str, Mapping[str, Speed]]) -> str:
    """The device with the most backbones, of several the first by name; empty where there is none."""
    return max(sorted(speeds), key=lambda name: len(speeds[name]), default="")


def speed_of(speeds: Mapping[str, Speed], backbone: str) -> Speed | None:
    """That of a backbone, of those by name; an untrained control has its model's, whose arithmetic is the same."""
    return speeds.get(backbone) or speeds.get(CONTROL.sub("", backbone))


# Rates of one device, for plans


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What was measured on one device, as far as a plan counts with it."""

    device: str
    """Without a precision."""
    measured: str = ""
    """When last, UTC, ISO 8601; empty: nothing was measured."""
    forwards: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """(:func:`arithmetic_key` of a backbone, precision) → images a second."""
    steps: Mapping[StepKey, float] = field(default_factory=dict)
    """Seconds of one training step of all members."""

    def forward(self, backbone: str, precision: str) -> float | None:
        """Seconds of one image, whatever the backbone's weights; None: not measured."""
        rate = self.forwards.get((_arithmetic(backbone), precision))
        return None if rate is None else 1 / rate

    def step(self, key: StepKey) -> float | None:
        """Seconds of one step of readouts that step together, or of each by itself, one after the other."""
        together, alone = self.steps.get(key), self.steps.get(replace(key, members=1))
        return key.members * alone if together is None and alone is not None else together

    def updated(self, newer: Speed | StepSpeeds) -> Rates:
        """These, and what ``newer`` measures in place of what it measures again."""
        measured = max(self.measured, newer.date)
        if isinstance(newer, StepSpeeds):
            return replace(self, measured=measured, steps={**self.steps, **newer.seconds})
        if newer.kind != BACKBONE or not (key := _arithmetic(newer.name)):
            return self
        rate = {(key, newer.precision): newer.images_per_second["median"]}
        return replace(self, measured=measured, forwards={**self.forwards, **rate})


def _arithmetic(backbone: str) -> str:
    """The :func:`arithmetic_key` of a backbone; empty where it is not known here: a plugin's."""
    try:
        return arithmetic_key(backbone)
    except DeapcacheError:
        return ""


def read_rates(home: Location, device: str, old_device: str) -> Rates:
    """The rates of ``device`` that ``home`` has, also those that a plan of an earlier version kept under another name.

    Raises :class:`ResultsError` for a file of training steps that is not one.
    """
    rates = Rates(device=device)
    again = "measure again with deapcache plan --measure"
    old_key = f"rates/{re.sub(r'[^A-Za-z0-9.]+', '-', old_device).strip('-') or 'device'}.json"
    if home.exists(old_key):
        rates = replace(_old_rates(read_checked(home, old_key, _OLD_MODEL, schema=SCHEMA, again=again)), device=device)
    # a web server's index lists caches alone
    speeds = {} if isinstance(home.layers[0], WebLocation) else read_speeds(home)
    for speed in speeds.values():
        if speed.device == with_precision(device, speed.precision):
            rates = rates.updated(speed)
    steps_key = f"{FOLDER}/{_STEPS}-{digest_of(device)[:SHORT]}.json"
    if home.exists(steps_key):
        steps = read_checked(home, steps_key, STEPS_MODEL, schema=SCHEMA, again=again)
        rates = rates.updated(StepSpeeds.from_json(steps))
    return rates


def read_rates_file(file: Path, *, measuring_on: str | None = None) -> Rates | None:
    """The rates in a file: a list of documents of one device, or what earlier versions kept; None: no such file.

    Raises :class:`ResultsError` for a file that is not one of rates, and :class:`UsageError` for one to which rates
    that are measured on the device ``measuring_on`` cannot be added.
    """
    try:
        speeds = _speeds_in(file)
    except FileNotFoundError:
        return None
    if isinstance(speeds, Rates):
        rates = speeds
    else:
        devices = {
            one.device if isinstance(one, StepSpeeds) else one.device.removesuffix(f", {one.precision}")
            for one in speeds
        }
        if len(devices) > 1:
            raise ResultsError(f"{file} holds speeds of several devices, expected one: {'; '.join(sorted(devices))}")
        rates = Rates(device=next(iter(devices), measuring_on or ""))
        for one in speeds:
            rates = rates.updated(one)
    if measuring_on is not None and rates.device != measuring_on:
        raise UsageError(
            f"{file} holds rates of {rates.device}, and this device is {measuring_on}: give another file to --rates "
            "with --measure"
        )
    if measuring_on is not None and isinstance(speeds, Rates):
        raise UsageError(f"{file} is of an earlier version, which is read only: give another file to --rates")
    return rates


def add_to_rates_file(file: Path, speed: Speed | StepSpeeds) -> None:
    """Write a speed into a file of rates, in place of an earlier one of the same; raises :class:`LocationError`."""
    try:
        there = _speeds_in(file)
    except FileNotFoundError:
        there = []
    assert not isinstance(there, Rates), "read_rates_file refuses it"
    kept = [one.to_json() for one in there if speed_key(one) != speed_key(speed)]
    text = json.dumps([*kept, speed.to_json()], indent=1)
    locate(file.parent).publish(file.name, text.encode(), replace=True)


def _speeds_in(file: Path) -> list[Speed | StepSpeeds] | Rates:
    data = locate(file.parent).read(file.name, most=MOST_BYTES)
    try:
        documents = parse_json(data)
        if isinstance(documents, dict):
            return _old_rates(checked(data, _OLD_MODEL, schema=SCHEMA))
        speeds: list[Speed | StepSpeeds] = []
        for document in documents:
            is_of_steps = isinstance(document, dict) and "steps" in document
            found = checked(json.dumps(document).encode(), STEPS_MODEL if is_of_steps else SPEED_MODEL, schema=SCHEMA)
            speeds.append(StepSpeeds.from_json(found) if is_of_steps else Speed.from_json(found))
        return speeds
    except (ValueError, TypeError, ArithmeticError) as error:
        raise ResultsError(
            f"{file} is no file of measured rates of schema {SCHEMA} ({type(error).__name__}: {error}): give one that "
            "`deapcache plan --measure` wrote, or measure again after removing it"
        ) from None


def _old_rates(document: Mapping[str, Any]) -> Rates:
    forwards = {
        (arithmetic, one["precision"]): one["images_per_second"]
        for one in document["forwards"]
        if (arithmetic := _arithmetic(one["backbone"]))
    }
    return Rates(
        device=document["device"], measured=document["measured"], forwards=forwards, steps=_seconds_of_steps(document)
    )
