"""Backbones: a batch of images in, its dense feature map (B, H, W, D) out.

Naming and describing a backbone imports neither torch nor a model library; building one does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from deapcache.backbones.registry import (
    BACKBONES,
    CLS,
    GROUPS,
    NO_TOKENS,
    TOKENS,
    BackboneEntry,
    BackboneIdentity,
    WeightsSource,
    arithmetic_key,
    at_size,
    build_count,
    describe,
    extract_options,
    forward_count,
    join_name,
    labelled_model,
    parse_image_size,
    register_backbone,
    split_name,
)
from deapcache.backbones.weights import weights_status
from deapcache.recipe import LAST

if TYPE_CHECKING:
    from deapcache.backbones.layers import DEFAULT_LAYERS, LayerSelection
    from deapcache.backbones.model import (
        AUTOCAST,
        Backbone,
        BatchNormStatistics,
        Output,
        build,
        build_by_digest,
        layers_of,
    )
    from deapcache.backbones.plugin_backbone import register_module

__all__ = [
    "AUTOCAST",
    "BACKBONES",
    "CLS",
    "DEFAULT_LAYERS",
    "GROUPS",
    "LAST",
    "NO_TOKENS",
    "TOKENS",
    "Backbone",
    "BackboneEntry",
    "BackboneIdentity",
    "BatchNormStatistics",
    "LayerSelection",
    "Output",
    "WeightsSource",
    "arithmetic_key",
    "at_size",
    "build",
    "build_by_digest",
    "build_count",
    "describe",
    "extract_options",
    "forward_count",
    "join_name",
    "labelled_model",
    "layers_of",
    "parse_image_size",
    "register_backbone",
    "register_module",
    "split_name",
    "weights_status",
]

_WITH_TORCH = {
    "layers": ("DEFAULT_LAYERS", "LayerSelection"),
    "plugin_backbone": ("register_module",),
    "model": (
        "AUTOCAST",
        "Backbone",
        "BatchNormStatistics",
        "Output",
        "build",
        "build_by_digest",
        "layers_of",
    ),
}
"""Module → the names in it that need torch, which takes seconds to import."""


def __getattr__(name: str) -> Any:
    for module, names in _WITH_TORCH.items():
        if name in names:
            return getattr(importlib.import_module(f"deapcache.backbones.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
