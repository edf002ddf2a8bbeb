"""One readout being trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from deapcache.errors import TrainingError
from deapcache.probing.options import GRADIENT_CLIP, WARM_UP, ProbeOptions
from deapcache.readouts import Readout, build_readout
from deapcache.tasks import Task

_CURVE_POINTS = 200
"""Most points that a loss curve is kept at."""

_CHECK_EVERY = 50
"""Steps between looks at the losses: each look waits for the device."""


@dataclass(frozen=True, kw_only=True)
class Probed:
    """A task as this dataset and backbone pose it: what all its readouts share."""

    task: Task
    backbone: str
    classes: tuple[str, ...]
    """Class names of ``classes`` maps, by value; empty otherwise."""
    output_size: tuple[int, int]
    """(height, width) of targets and outputs, pixels."""
    grid: tuple[int, int]
    feature_dim: int
    output_bias: torch.Tensor | None
    """(C,): where the outputs start, from a sample of the training targets."""
    iterations: int

    @property
    def out_channels(self) -> int:
        """Channels of the readout's output."""
        return self.task.out_channels(self.classes)

    def build(self, readout: str, seed: int) -> Readout:
        """A fresh readout of that name."""
        built = build_readout(
            readout,
            feature_dim=self.feature_dim,
            out_channels=self.out_channels,
            grid=self.grid,
            cnn_width=self.task.cnn_width(self.classes),
            seed=seed,
        )
        if self.output_bias is not None:
            built.set_output_bias(self.output_bias)
        return built


def learning_rate_factor(iteration: int, iterations: int) -> float:
    """Share of the peak learning rate at step ``iteration`` of ``iterations``: linear up, then a cosine to 0."""
    rising = math.ceil(WARM_UP * iterations)
    if iteration < rising:
        return (iteration + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (iteration - rising) / max(1, iterations - rising)))


class Learner:
    """A readout with its optimiser: (task, readout, seed). Nothing random is shared with another learner."""

    def __init__(self, probed: Probed, readout: str, seed: int, options: ProbeOptions) -> None:
        self.probed = probed
        self.readout = readout
        self.seed = seed
        self.device = torch.device(options.device)
        self.model = probed.build(readout, seed).to(self.device)
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        groups = self.model.parameter_groups(options.lr, options.weight_decay)
        self._optimiser = torch.optim.AdamW(groups, lr=options.lr, weight_decay=options.weight_decay)
        self._peaks = [group["lr"] for group in self._optimiser.param_groups]
        self._losses = torch.empty(probed.iterations, device=self.device)
        self._checked = 0
        self.iteration = 0

    @property
    def done(self) -> bool:
        """Whether all steps are taken."""
        return self.iteration == self.probed.iterations

    @property
    def name(self) -> str:
        """For people: ``boundaries · deap · seed 0``."""
        return f"{self.probed.task.name} · {self.readout} · seed {self.seed}"

    def step(self, features: torch.Tensor, target: torch.Tensor) -> None:
        """One step on (B, H, W, D) float32 features and the task's target.

        Raises :class:`TrainingError`, some steps later on a GPU, where the loss is not finite.
        """
        factor = learning_rate_factor(self.iteration, self.probed.iterations)
        for group, peak in zip(self._optimiser.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        self._optimiser.zero_grad(set_to_none=True)
        loss = self.probed.task.loss(self.model(features, self.probed.output_size), target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, GRADIENT_CLIP)
        self._optimiser.step()
        self._losses[self.iteration] = loss.detach()
        self.iteration += 1
        if self.done or self.iteration % _CHECK_EVERY == 0:
            self._check_losses()

    def _check_losses(self) -> None:
        finite = torch.isfinite(self._losses[self._checked : self.iteration])
        if not bool(finite.all()):
            first = self._checked + int((~finite).nonzero()[0])
            raise TrainingError(
                f"{self.probed.task.name} on {self.probed.backbone} with readout {self.readout}, seed {self.seed}: "
                f"the loss is {float(self._losses[first])} at iteration {first + 1} of {self.probed.iterations}; "
                "try a smaller learning rate (--lr)"
            )
        self._checked = self.iteration

    def recent_loss(self) -> float:
        """Mean of the losses of the last steps that were looked at; NaN before the first look."""
        seen = self._losses[max(0, self._checked - _CHECK_EVERY) : self._checked]
        return float(seen.mean()) if len(seen) else math.nan

    def loss_curve(self) -> list[tuple[int, float]]:
        """At most 200 (iteration, mean loss since the point before)."""
        losses = self._losses[: self.iteration].cpu().numpy()
        pieces = np.array_split(losses, min(_CURVE_POINTS, len(losses)))
        ends = np.cumsum([len(piece) for piece in pieces])
        return [(int(end), float(piece.mean())) for end, piece in zip(ends, pieces, strict=True)]

    def weights(self) -> dict[str, np.ndarray]:
        """The readout's state, parameter name → array."""
        return {name: value.detach().cpu().numpy() for name, value in self.model.state_dict().items()}

    def sigma(self) -> tuple[float, ...] | None:
        """The learned width of each attention head in image fractions; ``None`` for a readout without."""
        found = self.model.sigma()
        return None if found is None else tuple(float(value) for value in found.detach().cpu())

    def facts(self) -> Mapping[str, Any]:
        """What rebuilds the readout, as JSON: the arguments of ``build_readout`` and its options."""
        return {
            "name": self.readout,
            "options": dict(self.model.options),
            "feature_dim": self.probed.feature_dim,
            "out_channels": self.probed.out_channels,
            "grid": list(self.probed.grid),
            "cnn_width": self.probed.task.cnn_width(self.probed.classes),
            "seed": self.seed,
            "output_size": list(self.probed.output_size),
            "classes": list(self.probed.classes),
        }
