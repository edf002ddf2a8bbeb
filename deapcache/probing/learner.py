"""One task's readouts being trained: what belongs to them alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from deapcache.errors import TrainingError
from deapcache.probing.posed import PosedTask
from deapcache.readouts import Readout
from deapcache.tasks import Target

_CURVE_POINTS = 200
"""Most points that a loss curve is kept at."""

_CHECK_EVERY = 50
"""Steps between looks at the losses: each look waits for the device."""


class Learner:
    """(task, readout, seed, learning rate). Nothing random is shared with another learner."""

    def __init__(
        self,
        posed: PosedTask,
        readout: str,
        *,
        seed: int,
        lr: float,
        device: torch.device | str = "cpu",
        output_bias: torch.Tensor | None = None,
    ) -> None:
        self.posed = posed
        self.readout = readout
        self.seed = seed
        self.lr = lr
        self.heads: list[Readout] = [head.to(device) for head in posed.build(readout, seed, output_bias)]
        self.criterion = _seeded_criterion(posed, seed, device)
        self._losses = torch.empty(posed.iterations, device=device)
        self._checked = 0
        self.iteration = 0
        self.failure: Exception | None = None
        """Why there will be no run of it: training diverged, or its output cannot be scored; others go on."""

    @property
    def done(self) -> bool:
        """Whether all steps are taken."""
        return self.iteration == self.posed.iterations

    @property
    def name(self) -> str:
        """For people: ``boundaries · deap · seed 0``."""
        return f"{self.posed.task.name} · {self.readout} · seed {self.seed}"

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """All that is trained, in groups as ``torch.optim.AdamW`` takes them."""
        groups = [group for head in self.heads for group in head.parameter_groups(self.lr, weight_decay)]
        if self.criterion is not None:
            groups.append({"params": list(self.criterion.parameters()), "lr": self.lr, "weight_decay": weight_decay})
        return groups

    def loss(self, output: torch.Tensor, target: Target) -> torch.Tensor:
        """The task's loss of this learner's output (B, C, h, w)."""
        return self.posed.task.loss(output, target, self.criterion)

    def record(self, loss: torch.Tensor) -> None:
        """One step is taken; a loss that is not finite, or weights after the last step, are a :attr:`failure` soon."""
        self._losses[self.iteration] = loss
        self.iteration += 1
        if self.failure is None and (self.done or self.iteration % _CHECK_EVERY == 0):
            self._check_losses()
            if self.done and not all(bool(torch.isfinite(weights).all()) for weights in self._trained()):
                self.diverge(f"weights are not finite after iteration {self.iteration}, the last one")

    def _check_losses(self) -> None:
        finite = torch.isfinite(self._losses[self._checked : self.iteration])
        if not bool(finite.all()):
            first = self._checked + int((~finite).nonzero()[0])
            loss = float(self._losses[first])
            self.diverge(f"the loss is {loss} at iteration {first + 1} of {self.posed.iterations}")
        self._checked = self.iteration

    def diverge(self, what: str) -> None:
        """Note that training came to nothing that may be scored; the first reason stays."""
        self.failure = self.failure or TrainingError(
            f"{self.posed.task.name} on {self.posed.backbone} with readout {self.readout}, seed {self.seed}: {what}; "
            f"try a smaller learning rate (--lr) than {self.lr:g}"
        )

    def _trained(self) -> Iterator[torch.Tensor]:
        return (p for head in self.heads for p in head.parameters() if p.requires_grad)

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

    def parameters(self) -> int:
        """Learnable parameters of all heads."""
        return sum(p.numel() for p in self._trained())

    def weights(self) -> dict[str, np.ndarray]:
        """The readouts' state: number of the head, a dot, and the parameter's name → array."""
        return {
            f"{place}.{name}": value.detach().cpu().numpy()
            for place, head in enumerate(self.heads)
            for name, value in head.state_dict().items()
        }

    def sigma(self) -> tuple[float, ...] | None:
        """Learned width of each attention head of all readouts in image fractions; ``None`` for readouts without."""
        found = [sigma.detach().cpu() for head in self.heads if (sigma := head.sigma()) is not None]
        return tuple(float(value) for value in torch.cat(found)) if found else None

    @property
    def options(self) -> Mapping[str, Any]:
        """The readout's choices that change results, as JSON values."""
        return self.heads[0].options

    def facts(self) -> Mapping[str, Any]:
        """What restores the readouts, as JSON."""
        return self.posed.facts(self.readout, self.seed, self.options)


def _seeded_criterion(posed: PosedTask, seed: int, device: torch.device | str) -> nn.Module | None:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        made = posed.task.criterion()
    return None if made is None else made.to(device)
