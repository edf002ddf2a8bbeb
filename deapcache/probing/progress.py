"""What a probe says of itself while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ProbeProgress:
    """How far one stage of a probe has come."""

    stage: str
    """``train`` (counted in iterations) or ``score`` (counted in images)."""
    done: int
    total: int
    per_second: float
    """Iterations or images per second since the stage began."""
    seconds_left: float
    mean_loss: float | None = None
    """Mean recent training loss of all readouts; ``None`` before it was looked at, and when scoring."""


Progress = Callable[[ProbeProgress], None]


def silent(_: ProbeProgress) -> None:
    """Progress that nobody looks at."""


class Clock:
    """Reports one stage's progress with its rate."""

    def __init__(self, stage: str, total: int, progress: Progress) -> None:
        self._stage = stage
        self._total = total
        self._progress = progress
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the stage began."""
        return time.perf_counter() - self._start

    def report(self, done: int, mean_loss: float | None = None) -> None:
        """Say that ``done`` of the total is done."""
        rate = done / max(self.seconds, 1e-9)
        self._progress(
            ProbeProgress(
                stage=self._stage,
                done=done,
                total=self._total,
                per_second=rate,
                seconds_left=(self._total - done) / max(rate, 1e-9),
                mean_loss=mean_loss,
            )
        )
