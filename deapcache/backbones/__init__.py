"""Backbones: a batch of images in, its dense feature map (B, H, W, D) out.

Naming and describing a backbone imports neither torch nor a model library; building one does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from deapcache.backbones.counting import build_count, forward_count
from deapcache.backbones.entries import BACKBONES, CLS, LAST, NO_TOKENS, BackboneEntry, BackboneIdentity, WeightsSource
from deapcache.backbones.names import describe
from deapcache.backbones.registering import register_backbone
from deapcache.backbones.weights import weights_status

if TYPE_CHECKING:
    from deapcache.backbones.building import Backbone, Output, build
    from deapcache.backbones.layers import layers_of
    from deapcache.backbones.taps import REGISTERED, Taps

__all__ = [
    "BACKBONES",
    "CLS",
    "LAST",
    "NO_TOKENS",
    "REGISTERED",
    "Backbone",
    "BackboneEntry",
    "BackboneIdentity",
    "Output",
    "Taps",
    "WeightsSource",
    "build",
    "build_count",
    "describe",
    "forward_count",
    "layers_of",
    "register_backbone",
    "weights_status",
]


_WITH_TORCH = {
    "Backbone": "building",
    "Output": "building",
    "REGISTERED": "taps",
    "Taps": "taps",
    "build": "building",
    "layers_of": "layers",
}


def __getattr__(name: str) -> Any:
    # These need torch, which takes seconds to import.
    if name in _WITH_TORCH:
        return getattr(importlib.import_module(f"deapcache.backbones.{_WITH_TORCH[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
