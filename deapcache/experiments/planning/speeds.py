"""How fast things go: as measured, or not known."""

from __future__ import annotations

from dataclasses import dataclass

from deapcache.experiments.planning.rates import Rates
from deapcache.experiments.planning.work import StepGroup

MEASURED, UNKNOWN = "measured", "unknown"


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds that one thing takes on one GPU, and how that is known."""

    seconds: float | None
    """Of one image forwarded, or of one training step; None: not measured."""
    known: str
    """``MEASURED`` or ``UNKNOWN``."""


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """What was measured."""

    rates: Rates | None = None

    def forward(self, backbone: str, precision: str) -> Speed:
        """Of one image through a backbone."""
        measured = self.rates.forward(backbone, precision) if self.rates else None
        return _speed(None if measured is None else 1 / measured)

    def step(self, group: StepGroup) -> Speed:
        """Of one training step of readouts that step together, or of each by itself, one after the other."""
        measured = self.rates.step(group.key) if self.rates else None
        if measured is None and self.rates and (alone := self.rates.step(group.alone)) is not None:
            measured = group.key.members * alone
        return _speed(measured)


def _speed(seconds: float | None) -> Speed:
    return Speed(seconds=seconds, known=UNKNOWN if seconds is None else MEASURED)
