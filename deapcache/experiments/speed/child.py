"""What a process of its own does: build one backbone, run it on batches, and say how long that took."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from deapcache.allocator import keep_freed_memory
from deapcache.backbones import build, describe, weights_status
from deapcache.extraction import choose_device
from deapcache.machine import seconds_of

TRAINED, UNTRAINED, COPY = "trained", "untrained", "untrained copy"

_AT_HAND = ("here", "with the plugin")
_WARM_UP = 2
"""Batches that are not timed: the first ones choose algorithms and fetch memory."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The backbone that is to be measured, and how."""

    name: str
    device: str
    precision: str
    batch: int
    batches: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What came of it."""

    seconds: tuple[float, ...]
    peak_memory_bytes: int
    threads: int
    weights: str
    input: str
    parameters: int


@dataclass(frozen=True)
class _Built:
    run: Callable[[], object]
    weights: str
    input: str
    parameters: int


def measure(subject: Subject) -> Measured:
    """Time batches of one backbone in inference mode; raises what building it raises."""
    device = choose_device(subject.device)
    built = _build(subject, device)
    with keep_freed_memory():  # as extraction does
        for _ in range(_WARM_UP):
            built.run()
        _reset_peak(device)
        seconds = tuple(seconds_of(built.run, device) for _ in range(subject.batches))
    return Measured(
        seconds=seconds,
        peak_memory_bytes=_peak(device),
        threads=torch.get_num_threads(),
        weights=built.weights,
        input=built.input,
        parameters=built.parameters,
    )


def _build(subject: Subject, device: torch.device) -> _Built:
    entry = describe(subject.name)
    at_hand = weights_status(subject.name) in _AT_HAND
    name = subject.name if entry.untrained or at_hand else entry.as_untrained().name
    backbone = build(name, precision=subject.precision).to(device)
    height, width = backbone.image_size
    images = torch.randint(0, 256, (subject.batch, height, width, 3), dtype=torch.uint8, device=device)
    return _Built(
        run=lambda: backbone(images),
        weights=UNTRAINED if entry.untrained else TRAINED if at_hand else COPY,
        input=f"images {height}x{width}",
        parameters=sum(parameter.numel() for parameter in backbone.module.parameters()),
    )


def _reset_peak(device: torch.device) -> None:
    """Forget the peak of building: a checkpoint that is read is in memory twice."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not Linux, or not allowed: then the peak of building counts, too
        return


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
