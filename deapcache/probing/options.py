"""What a caller may choose about a probe; the design's method (the paper gives no training recipe) is the default."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from deapcache.cache import ORIGINAL, VIEWS, check_views
from deapcache.errors import UsageError
from deapcache.tasks import get_task

WARM_UP = 0.05
"""Share of the iterations over which the learning rate rises linearly; afterwards it falls to 0 along a cosine."""

GRADIENT_CLIP = 1.0
"""Largest gradient norm of one readout."""

Residency = Literal["gpu", "pinned", "memory", "stream"]
"""Where training arrays live: in the memory of the GPU, in pinned memory of its host, in the host's memory, or in the
cache, from which batches are read ahead."""

RESIDENCIES: tuple[str, ...] = get_args(Residency)

_WITH_A_GPU = ("gpu", "pinned")


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """Choices of one probe, the same for all its readouts; raises :class:`UsageError` for values out of range."""

    lrs: tuple[float, ...] = (1e-3,)
    """AdamW's peak learning rates; each is a readout of its own, with a protocol of its own."""
    weight_decay: float = 1e-4
    batch_size: int = 32
    iterations: int | None = None
    """Steps of each readout; ``None``: the task's own (:func:`default_iterations`)."""
    order_seed: int = 0
    """Seed of the order in which images are drawn; the readouts' seeds do not touch it."""
    train_limit: int | None = None
    """Train on the first so many images, all where there are not more; ``None``: on all."""
    val_limit: int | None = None
    """Score on the first so many images, all where there are not more; ``None``: on all."""
    views: tuple[str, ...] = (ORIGINAL,)
    """Views of the training images to draw from, the original ones among them; validation images are never mirrored."""
    output_size: tuple[int, int] | None = None
    """(height, width) of the target caches to use; ``None``: the base size of the features, or, where these come from
    images of native size, the only one there is."""
    task_options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Task → its ``choices`` that are not the default: ``{"depth": {"crop": "eigen"}}``."""
    upsampler: Path | None = None
    """Checkpoint of the published upsampler that ``featup`` is built around."""
    residency: Residency | None = None
    """Where training arrays live; ``None``: chosen by what fits
    (:func:`deapcache.probing.residency.choose_residency`)."""
    device: str = "cpu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "views", check_views(self.views))
        if ORIGINAL not in self.views:
            raise UsageError(
                f"views {', '.join(self.views)}: scores are of original images, so training draws from these as well: "
                f"expected {', '.join(VIEWS)}, or nothing for the original images alone"
            )
        if not self.lrs:
            raise UsageError("no learning rate is given: expected at least one, such as 1e-3")
        given = [("lr", lr) for lr in self.lrs]
        given += [(name, getattr(self, name)) for name in ("batch_size", "iterations", "train_limit", "val_limit")]
        for name, value in given:
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"{name} is {value}: expected a number above 0, and a finite one")
        if not 0 <= self.weight_decay < math.inf:
            raise UsageError(f"weight_decay is {self.weight_decay}: expected 0 or more, and a finite number")
        self._check_residency()

    def _check_residency(self) -> None:
        if self.residency is not None and self.residency not in RESIDENCIES:
            raise UsageError(f"unknown residency {self.residency!r}: choose one of {', '.join(RESIDENCIES)}")
        if self.residency in _WITH_A_GPU and self.device.partition(":")[0] != "cuda":
            raise UsageError(
                f"residency {self.residency} needs a GPU, and training runs on {self.device}: choose memory or stream, "
                "or --device cuda"
            )

    def optimiser(self, lr: float) -> dict[str, Any]:
        """Optimiser and schedule at one of the learning rates, as the protocol records them."""
        return {
            "name": "AdamW",
            "lr": lr,
            "weight_decay": self.weight_decay,
            "schedule": "linear warm-up, cosine to 0",
            "warm_up": WARM_UP,
            "gradient_clip": GRADIENT_CLIP,
            "precision": "fp32",
        }


def default_iterations(task: str) -> int:
    """Training steps of ``task`` unless told otherwise: 30,000 for the COCO tasks, 10,000 for the others."""
    return get_task(task).iterations
