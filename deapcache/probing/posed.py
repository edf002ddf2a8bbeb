"""A task as one dataset and one backbone pose it: what all its readouts share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deapcache.readouts import Readout, build_readout
from deapcache.tasks import Task

_NEXT_HEAD = 1_000_003
"""Between the seeds of the readouts of one task."""


@dataclass(frozen=True, kw_only=True)
class PosedTask:
    """One task, with the sizes that its readouts must have."""

    task: Task
    backbone: str
    classes: tuple[str, ...]
    """Class names of ``classes`` maps, by value; empty otherwise."""
    output_size: tuple[int, int]
    """(height, width) of targets and outputs, pixels."""
    grid: tuple[int, int]
    feature_dim: int
    iterations: int
    upsampler: Path | None = None
    """Checkpoint for the readouts that are built around a published upsampler."""

    @property
    def heads(self) -> tuple[int, ...]:
        """Output channels of each of the task's readouts."""
        return self.task.heads(self.classes)

    def build(self, readout: str, seed: int, output_bias: torch.Tensor | None = None) -> list[Readout]:
        """Fresh readouts of that name, one a head; their outputs start at ``output_bias`` (sum of heads,)."""
        built = [
            build_readout(
                readout,
                feature_dim=self.feature_dim,
                out_channels=channels,
                grid=self.grid,
                cnn_width=self.task.cnn_width(self.classes),
                seed=seed + place * _NEXT_HEAD,
                upsampler=self.upsampler,
            )
            for place, channels in enumerate(self.heads)
        ]
        for head in built:
            head.trained_size = self.output_size
        if output_bias is not None:
            for head, values in zip(built, output_bias.split(self.heads), strict=True):
                head.set_output_bias(values)
        return built

    def facts(self, readout: str, seed: int, options: Mapping[str, Any]) -> dict[str, Any]:
        """What restores the readouts, as JSON."""
        return {
            "name": readout,
            "options": dict(options),
            "feature_dim": self.feature_dim,
            "heads": list(self.heads),
            "grid": list(self.grid),
            "cnn_width": self.task.cnn_width(self.classes),
            "seed": seed,
            "output_size": list(self.output_size),
            "classes": list(self.classes),
            "task_options": dict(self.task.chosen),
        }
