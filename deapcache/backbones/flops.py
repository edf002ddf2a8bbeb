"""Counting a backbone's arithmetic from its modules, without its weights and without computing anything."""

from __future__ import annotations

import json

import torch
from torch.utils.flop_counter import FlopCounterMode

from deapcache.backbones.model import initialisation, load_model
from deapcache.backbones.registry import BackboneEntry, describe

_COUNTED: dict[str, int] = {}
"""By :func:`arithmetic_key`: building a large model takes seconds."""


def arithmetic_key(name: str) -> str:
    """What backbones share whose forward passes are the same arithmetic, whatever their weights."""
    entry = describe(name)
    facts = (entry.architecture, dict(entry.arguments), entry.image_size, entry.layer, entry.loader)
    return json.dumps(facts, sort_keys=True, default=str)


def count_flops(name: str) -> int:
    """Floating-point operations of a forward pass on one image of its own size, a multiplication and an addition two.

    Products and convolutions are counted, as they are called on PyTorch's meta device, which computes nothing; norms,
    activations and softmax are not. Raises what :func:`describe` raises.
    """
    key = arithmetic_key(name)
    if key not in _COUNTED:
        entry = describe(name)
        _COUNTED[key] = _count(entry if entry.own_weights else entry.as_untrained())
    return _COUNTED[key]


def _count(entry: BackboneEntry) -> int:
    with initialisation(0, skip=True):  # its weights are never read
        loaded = load_model(entry, None, None)
    loaded.module.eval().requires_grad_(False).to("meta")
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        loaded.feature_map(torch.zeros(1, 3, *entry.image_size, device="meta"))
    return int(counter.get_total_flops())
