"""Small pipelines, and what they count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim.optimizer import register_optimizer_step_post_hook

from deapcache.backbones import build_count, forward_count
from deapcache.experiments import Outcome, PipelinePlan, run_pipeline
from deapcache.locations import LocalLocation
from deapcache.probing import ProbeProgress

ONE, OTHER = "efficientnet-lite0-s16", "timm:resnet18@untrained"

SMALL = f"""\
name: small
backbones: [{ONE}]
iterations: 2
batch_size: 4
lr: 0.001
probes:
  - {{tasks: [foreground, boundaries], dataset: coco, seeds: [0, 1]}}
  - {{tasks: [foreground], dataset: coco, readouts: [no-sigma]}}
"""
"""Five runs in one pass."""

TWO = SMALL.replace(f"[{ONE}]", f"[{ONE}, {OTHER}]")
"""Ten runs in two passes."""

MakePlan = Callable[..., PipelinePlan]


class Counted:
    """Runs a plan, and counts what that took."""

    def __init__(self, plan: PipelinePlan) -> None:
        self.steps = 0
        """Training steps of its passes, as they report them."""
        self.optimiser_steps = 0
        """The same as PyTorch sees them, of whatever optimisers there are."""
        self.passes: list[str] = []
        builds, forwards = build_count(), forward_count()
        hook = register_optimizer_step_post_hook(self._count)
        try:
            self.outcome: Outcome = run_pipeline(plan, report=self._note)
        finally:
            hook.remove()
        self.builds, self.forwards = build_count() - builds, forward_count() - forwards

    @property
    def trained(self) -> set[str]:
        """Names of the runs that were trained now."""
        return {one.result.run for one in self.outcome.probed}

    def _note(self, name: str, event: ProbeProgress) -> None:
        if event.stage == "train":
            self.steps += event.total * (event.done == event.total)
            self.passes += [name] * (name not in self.passes)

    def _count(self, *_: Any) -> None:
        self.optimiser_steps += 1


def contents(home: LocalLocation) -> dict[str, bytes]:
    """All files of a home but readers' records."""
    return {key: home.read(key) for key in home.keys("") if not key.startswith("uses/")}
