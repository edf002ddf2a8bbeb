"""What a process of its own does: build one thing, run it on batches, and say how long that took."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from deapcache.allocator import freed_memory_kept
from deapcache.backbones import build, describe, weights_status
from deapcache.extraction import choose_device
from deapcache.machine import seconds_of
from deapcache.readouts import blank_readout

TRAINED, UNTRAINED, COPY = "trained", "untrained", "untrained copy"

_AT_HAND = ("here", "with the plugin")
_WARM_UP = 2
"""Batches that are not timed: the first ones choose algorithms and fetch memory."""
_OUTPUT_SIZE = (224, 224)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is to be measured."""

    kind: str
    name: str
    backbone: str
    """Itself, or whose features a readout is given."""
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
    """Time batches of one subject in inference mode; raises what building it raises."""
    device = choose_device(subject.device)
    built = _backbone(subject, device) if subject.kind == "backbone" else _readout(subject, device)
    with freed_memory_kept():  # as extraction does
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


def _backbone(subject: Subject, device: torch.device) -> _Built:
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


def _readout(subject: Subject, device: torch.device) -> _Built:
    entry = describe(subject.backbone)
    (height, width), dim = entry.grid, entry.dim
    readout = blank_readout(subject.name, feature_dim=dim, out_channels=1, grid=entry.grid).to(device).eval()
    features = torch.randn(subject.batch, height, width, dim, device=device)
    guidance = torch.randint(0, 256, (subject.batch, *_OUTPUT_SIZE, 3), dtype=torch.uint8, device=device)

    def run() -> None:
        with torch.inference_mode():
            readout(features, _OUTPUT_SIZE, guidance)

    return _Built(
        run=run,
        weights=UNTRAINED,
        input=f"features {height}x{width}x{dim}",
        parameters=sum(parameter.numel() for parameter in readout.parameters()),
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
