"""Measured rates: forward passes by backbone, training steps by readout; kept as a small JSON file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from deapcache.errors import ResultsError
from deapcache.locations import Location

SCHEMA = 1
FOLDER = "rates"


@dataclass(frozen=True, kw_only=True)
class ForwardRate:
    """Of one backbone's forward pass, preprocessing included."""

    backbone: str
    precision: str
    batch_size: int
    images_per_second: float

    @property
    def key(self) -> tuple[str, str]:
        """What it is the rate of."""
        return self.backbone, self.precision


@dataclass(frozen=True, kw_only=True)
class StepKey:
    """What the time of a training step depends on."""

    task: str
    readout: str
    dataset: str
    """Its classes decide the readout's outputs."""
    grid: tuple[int, int]
    dim: int
    output_size: tuple[int, int]
    batch_size: int
    members: int
    """Readouts that step together: seeds and learning rates."""
    surveyed: int
    """Training images, where their number changes the loss (``discrimination``); else 0."""


@dataclass(frozen=True, kw_only=True)
class StepRate:
    """Of training steps on features and targets in memory: loss, gradients and the optimiser's step."""

    key: StepKey
    seconds: float
    """One step of all members."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Everything that was measured on one kind of device."""

    device: str
    """Its name: that of the GPU, or of the processor."""
    measured: str
    """When last, UTC, ISO 8601."""
    circumstances: Mapping[str, Any]
    """Host, threads and versions."""
    forwards: tuple[ForwardRate, ...] = ()
    steps: tuple[StepRate, ...] = ()

    def forward(self, backbone: str, precision: str) -> float | None:
        """Images a second; None where it was not measured."""
        found = {rate.key: rate.images_per_second for rate in self.forwards}
        return found.get((backbone, precision))

    def step(self, key: StepKey) -> float | None:
        """Seconds of one step; None where it was not measured."""
        return {rate.key: rate.seconds for rate in self.steps}.get(key)

    def merged(self, newer: Rates) -> Rates:
        """These, and those of ``newer`` in place of what they measure again."""
        forwards = {rate.key: rate for rate in (*self.forwards, *newer.forwards)}
        steps = {rate.key: rate for rate in (*self.steps, *newer.steps)}
        return Rates(
            device=newer.device,
            measured=newer.measured,
            circumstances=newer.circumstances,
            forwards=tuple(forwards.values()),
            steps=tuple(steps.values()),
        )

    def to_json(self) -> dict[str, Any]:
        """As the file holds them."""
        return {"schema": SCHEMA, **asdict(self)}


def rates_key(device: str) -> str:
    """Where a home keeps the rates of a kind of device: ``rates/NVIDIA-H100-80GB-HBM3.json``."""
    return f"{FOLDER}/{re.sub(r'[^A-Za-z0-9.]+', '-', device).strip('-') or 'device'}.json"


def read_rates(location: Location, key: str) -> Rates | None:
    """The rates that ``key`` holds, None where there is no such file.

    Raises :class:`ResultsError` for a file that is not one of rates.
    """
    try:
        text = location.read(key)
    except FileNotFoundError:
        return None
    where = f"{location}/{key}"
    try:
        return _parsed(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ResultsError(
            f"{where} is no file of measured rates of schema {SCHEMA} ({type(error).__name__}: {error}): give one that "
            "`deapcache plan --measure` wrote, or measure again after removing it"
        ) from None


def write_rates(location: Location, key: str, rates: Rates) -> None:
    """Write a file of rates whole, in place of one that is there; raises :class:`LocationError`."""
    location.publish(key, json.dumps(rates.to_json(), indent=1).encode(), replace=True)


def _parsed(value: Any) -> Rates:
    if value["schema"] != SCHEMA:
        raise ValueError(f"found schema {value['schema']!r}")
    return Rates(
        device=str(value["device"]),
        measured=str(value["measured"]),
        circumstances=dict(value["circumstances"]),
        forwards=tuple(ForwardRate(**_positive(rate, "images_per_second")) for rate in value["forwards"]),
        steps=tuple(
            StepRate(key=_step_key(rate["key"]), seconds=_positive(rate, "seconds")["seconds"])
            for rate in value["steps"]
        ),
    )


def _step_key(value: Mapping[str, Any]) -> StepKey:
    return StepKey(**{name: _pair(found) if isinstance(found, Sequence) else found for name, found in value.items()})


def _pair(found: Sequence[int] | str) -> Any:
    return found if isinstance(found, str) else tuple(found)


def _positive(rate: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    if not 0 < float(rate[name]) < float("inf"):
        raise ValueError(f"{name} is {rate[name]}, expected a number above 0")
    return rate
