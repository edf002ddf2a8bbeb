"""Learners whose readouts have one shape, trained as one: one forward pass, one backward pass, one optimiser."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch

from deapcache.probing.learner import Learner
from deapcache.probing.options import GRADIENT_CLIP, WARM_UP
from deapcache.readouts import Readout
from deapcache.tasks import Target

MOST_MEMBERS = 16
"""Learners of one team: more share hardly more, and hold the activations of all."""


def learning_rate_factor(iteration: int, iterations: int) -> float:
    """Share of the peak learning rate at step ``iteration`` of ``iterations``: linear up, then a cosine to 0."""
    rising = math.ceil(WARM_UP * iterations)
    if iteration < rising:
        return (iteration + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (iteration - rising) / max(1, iterations - rising)))


class Team:
    """Learners that step together. What each learns is what it would learn alone, up to rounding.

    Losses are summed, so that every parameter gets the gradient of its own learner's loss and nothing else; gradient
    norms are clipped for each readout by itself. A learner that diverges leaves: run as one with it, others would get
    its numbers that are not finite.
    """

    def __init__(self, learners: Sequence[Learner], weight_decay: float) -> None:
        self.learners = list(learners)
        """Those that have not diverged."""
        groups = _merged([group for learner in learners for group in learner.parameter_groups(weight_decay)])
        self._optimiser = torch.optim.AdamW(groups, fused=True)
        self._peaks = [group["lr"] for group in self._optimiser.param_groups]
        self._clipped = {
            id(head): [p for p in head.parameters() if p.requires_grad] for one in learners for head in one.heads
        }

    @property
    def done(self) -> bool:
        """Whether all steps are taken, or none of the learners can come to anything."""
        return all(learner.failure for learner in self.learners) or self.learners[0].done

    def step(self, features: torch.Tensor, guidance: torch.Tensor | None, targets: Mapping[str, Target]) -> None:
        """One step on (B, H, W, D) features and each task's target, by name.

        A learner whose loss is not finite gets a ``failure``, where it is alone some steps later.
        """
        first = self.learners[0]
        factor = learning_rate_factor(first.iteration, first.posed.iterations)
        for group, peak in zip(self._optimiser.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
        self._optimiser.zero_grad(set_to_none=True)
        losses, norms = self._gradients(self.learners, features, guidance, targets)
        if len(self.learners) > 1 and not _all_finite([*losses, *norms]):
            losses = self._gradients_apart(features, guidance, targets)
        self._optimiser.step()
        for learner, loss in zip(self.learners, losses, strict=True):
            learner.record(loss.detach())

    def _gradients(
        self,
        learners: Sequence[Learner],
        features: torch.Tensor,
        guidance: torch.Tensor | None,
        targets: Mapping[str, Target],
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Each learner's loss, and the norm of each readout's gradient, which is clipped."""
        outputs = _outputs_of(learners, features, guidance)
        losses = [
            learner.loss(output, targets[learner.posed.task.name])
            for learner, output in zip(learners, outputs, strict=True)
        ]
        torch.stack(losses).sum().backward()
        heads = [head for learner in learners for head in learner.heads]
        return losses, [torch.nn.utils.clip_grad_norm_(self._clipped[id(head)], GRADIENT_CLIP) for head in heads]

    def _gradients_apart(
        self, features: torch.Tensor, guidance: torch.Tensor | None, targets: Mapping[str, Target]
    ) -> list[torch.Tensor]:
        """The same of each learner by itself; those that diverge in this step leave."""
        self._optimiser.zero_grad(set_to_none=True)
        kept = []
        for learner in tuple(self.learners):
            (loss,), norms = self._gradients([learner], features, guidance, targets)
            if _all_finite([loss, *norms]):
                kept.append(loss)
            else:
                what = "the gradient is not finite" if _all_finite([loss]) else f"the loss is {float(loss.detach())}"
                learner.diverge(f"{what} at iteration {learner.iteration + 1} of {learner.posed.iterations}")
                self.drop(learner)
        return kept

    def drop(self, learner: Learner) -> None:
        """Go on without a learner."""
        self.learners.remove(learner)
        for parameters in (self._clipped[id(head)] for head in learner.heads):
            for parameter in parameters:
                parameter.grad = None  # the optimiser leaves it as it is

    def outputs(self, features: torch.Tensor, guidance: torch.Tensor | None) -> list[torch.Tensor]:
        """Each learner's output, (B, sum of its heads, h, w); what is not finite of one touches no other."""
        outputs = _outputs_of(self.learners, features, guidance)
        if len(outputs) > 1 and not all(map(is_finite, outputs)):
            return [_outputs_of([learner], features, guidance)[0] for learner in self.learners]
        return outputs

    def eval(self) -> None:
        """No more training: readouts behave as they do for a prediction."""
        for head in (head for learner in self.learners for head in learner.heads):
            head.eval()


def is_finite(output: torch.Tensor) -> bool:
    """Whether all of a large tensor is; without another of its size as a rule, for the sum of what is finite is too."""
    return bool(torch.isfinite(output.sum())) or bool(torch.isfinite(output).all())


def _all_finite(numbers: Sequence[torch.Tensor]) -> bool:
    return bool(torch.isfinite(torch.stack([number.detach() for number in numbers])).all())


def _outputs_of(
    learners: Sequence[Learner], features: torch.Tensor, guidance: torch.Tensor | None
) -> list[torch.Tensor]:
    """Each learner's output, all run as one."""
    size, stacks = learners[0].posed.output_size, zip(*(learner.heads for learner in learners), strict=True)
    by_head = [type(stack[0]).forward_stacked(stack, features, size, guidance) for stack in stacks]
    return [parts[0] if len(parts) == 1 else torch.cat(parts, 1) for parts in zip(*by_head, strict=True)]


def form_teams(learners: Sequence[Learner], weight_decay: float, *, lanes: int = 1) -> list[Team]:
    """Teams of at most 16 learners of one shape, output size and number of steps; the learners' order is kept.

    Where ``lanes`` teams can step at the same time, no team has more than its share of the learners.
    """
    most = min(MOST_MEMBERS, -(-len(learners) // lanes))
    shapes = [_shape(learner) for learner in learners]
    places = sorted(range(len(learners)), key=lambda place: shapes.index(shapes[place]))
    teams = []
    for _, group in groupby(places, key=lambda place: shapes.index(shapes[place])):
        members = [learners[place] for place in group]
        chunks = [members[i : i + most] for i in range(0, len(members), most)]
        teams += [Team(chunk, weight_decay) for chunk in chunks]
    return teams


def _shape(learner: Learner) -> Hashable:
    keys = tuple(_stack_key(head) for head in learner.heads)
    return keys, learner.posed.output_size, learner.posed.iterations


def _stack_key(head: Readout) -> Hashable:
    key = head.stack_key()
    # one that cannot be stacked has only itself for company
    return (type(head), id(head) if key is None else key)


def _merged(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The parameter groups, those with equal settings as one: an optimiser's step costs by the group."""
    merged: dict[Hashable, dict[str, Any]] = {}
    for group in groups:
        settings = {name: value for name, value in group.items() if name != "params"}
        merged.setdefault(tuple(sorted(settings.items())), {**settings, "params": []})["params"] += group["params"]
    return list(merged.values())
