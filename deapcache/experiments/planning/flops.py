"""Counting the arithmetic of a readout's training step."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from deapcache.experiments.planning.rates import StepKey
from deapcache.experiments.planning.work import StepGroup

_COUNTED: dict[StepKey, int] = {}
"""Of one image through one readout."""


def count_step_flops(group: StepGroup) -> int:
    """Floating-point operations of one training step, forward and backward, of all members on a whole batch.

    Counted on a CPU for one image and one member, as often as there are; products and convolutions alone, and neither
    loss nor optimiser. Raises what building the readout raises.
    """
    key = replace(group.alone, batch_size=1)
    if key not in _COUNTED:
        _COUNTED[key] = _count(group)
    return _COUNTED[key] * group.key.batch_size * group.key.members


def _count(group: StepGroup) -> int:
    heads = group.posed.build(group.key.readout, 0)
    features = torch.zeros(1, *group.key.grid, group.key.dim)
    guidance = torch.zeros(1, *group.key.output_size, 3, dtype=torch.uint8)
    with FlopCounterMode(display=False) as counter:
        outputs = [head(features, group.key.output_size, guidance) for head in heads]
        torch.stack([output.square().mean() for output in outputs]).sum().backward()
    return int(counter.get_total_flops())
