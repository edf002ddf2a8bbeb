"""Backbones: a batch of images in, its dense feature map (B, H, W, D) out.

Naming and describing a backbone imports neither torch nor a model library; building one does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deapcache.backbones.counting import build_count, forward_count
from deapcache.backbones.entries import BACKBONES, BackboneEntry, BackboneIdentity, WeightsSource
from deapcache.backbones.names import describe
from deapcache.backbones.registering import register_backbone
from deapcache.backbones.weights import weights_status

if TYPE_CHECKING:
    from deapcache.backbones.building import Backbone, build

__all__ = [
    "BACKBONES",
    "Backbone",
    "BackboneEntry",
    "BackboneIdentity",
    "WeightsSource",
    "build",
    "build_count",
    "describe",
    "forward_count",
    "register_backbone",
    "weights_status",
]


def __getattr__(name: str) -> Any:
    # These two need torch, which takes seconds to import.
    if name in ("Backbone", "build"):
        import importlib

        return getattr(importlib.import_module("deapcache.backbones.building"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
