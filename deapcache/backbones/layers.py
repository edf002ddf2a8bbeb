"""Which layers a backbone would give, told without its weights."""

from __future__ import annotations

import torch

from deapcache.backbones.building import load_model
from deapcache.backbones.names import describe
from deapcache.backbones.taps import REGISTERED, Taps, tapped_forward


def layers_of(name: str, taps: Taps) -> tuple[tuple[str, ...], bool]:
    """The layers that ``build(name, taps=taps)`` would give, as recipes name them, and whether they are normed.

    The model is built without storage; raises what :func:`deapcache.backbones.build` raises for the name and the taps.
    """
    entry = describe(name)
    if taps == REGISTERED:
        return (entry.layer,), entry.final_norm
    with torch.device("meta"):
        loaded = load_model(entry, None, None)
    layers, norm, _ = tapped_forward(entry, loaded, taps)
    return layers, norm
