"""The machine that a plan is stated for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deapcache.errors import UsageError

GPUS, READING, WRITING = "GPUs", "reading", "writing"
"""What a stage can be bound by."""


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What wall time is computed for; raises :class:`UsageError` for values out of range."""

    gpus: int = 1
    """Each takes its share of the shards of an extraction, and whole passes of probing."""
    read: float | None = None
    """Bytes a second that the store gives to all readers together; None: not stated, taken as no limit."""
    write: float | None = None
    """Bytes a second that it takes from all writers together; None as above."""
    memory: float = 0.0
    """Bytes that the training arrays of one pass may take: those that fit are read once, not once an epoch."""

    def __post_init__(self) -> None:
        require_above_zero("--gpus", self.gpus)
        require_above_zero("--read", self.read)
        require_above_zero("--write", self.write)
        if self.memory < 0:
            raise UsageError(f"--memory is {self.memory:g}: expected 0 or more")

    def reading(self, count: float) -> float:
        """Seconds to read so many bytes."""
        return count / self.read if self.read else 0.0

    def writing(self, count: float) -> float:
        """Seconds to write so many bytes."""
        return count / self.write if self.write else 0.0

    def overlapped(self, gpu_seconds: float, read: float, written: float) -> tuple[float, str]:
        """Wall seconds of work that computes, reads and writes at the same time, and which of these takes longest.

        ``gpu_seconds`` are divided evenly among the GPUs; ``read`` and ``written`` are bytes.
        """
        times = {GPUS: gpu_seconds / self.gpus, READING: self.reading(read), WRITING: self.writing(written)}
        bound = max(times, key=lambda name: times[name])
        return times[bound], bound if times[bound] else ""


def makespan(seconds: Sequence[float], workers: int) -> float:
    """Seconds until ``workers`` have done all jobs, each taking the longest that is left: at most 4/3 of the least."""
    busy = [0.0] * workers
    for job in sorted(seconds, reverse=True):
        busy[busy.index(min(busy))] += job
    return max(busy)


def require_above_zero(option: str, value: float | None) -> None:
    """Raise :class:`UsageError` for a number that is given and not above 0."""
    if value is not None and not 0 < value < float("inf"):
        raise UsageError(f"{option} is {value:g}: expected a number above 0")
