"""Extract a vision backbone's dense features once; probe them many times with tiny attentive readouts.

The names below are the public interface; each is loaded on first use, so that reading a cache never imports torch.

>>> import deapcache
>>> deapcache.open_cache(backbone="dinov2", dataset="coco", split="val").show("000000000139")  # doctest: +SKIP
>>> deapcache.load_results().to_frame()  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deapcache.api import Features, Results, extract, load_results, open_cache, probe
    from deapcache.backbones import build as build_backbone
    from deapcache.backbones import register_module
    from deapcache.cache import find_caches, list_caches
    from deapcache.datasets import open_dataset
    from deapcache.extraction import ExtractionSettings
    from deapcache.locations import home

_ROOMS = {
    "Features": ("deapcache.api", "Features"),
    "Results": ("deapcache.api", "Results"),
    "build_backbone": ("deapcache.backbones", "build"),
    "find_caches": ("deapcache.cache", "find_caches"),
    "list_caches": ("deapcache.cache", "list_caches"),
    "open_cache": ("deapcache.api", "open_cache"),
    "open_dataset": ("deapcache.datasets", "open_dataset"),
    "probe": ("deapcache.api", "probe"),
    "ExtractionSettings": ("deapcache.extraction", "ExtractionSettings"),
    "extract": ("deapcache.api", "extract"),
    "home": ("deapcache.locations", "home"),
    "load_results": ("deapcache.api", "load_results"),
    "register_module": ("deapcache.backbones", "register_module"),
}

__all__ = [
    "ExtractionSettings",
    "Features",
    "Results",
    "build_backbone",
    "extract",
    "find_caches",
    "home",
    "list_caches",
    "load_results",
    "open_cache",
    "open_dataset",
    "probe",
    "register_module",
]


def __dir__() -> list[str]:
    """What a notebook completes."""
    return [*globals(), *__all__]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'deapcache' has no attribute {name!r}: its names are {', '.join(__all__)}")
    room, attribute = _ROOMS[name]
    return getattr(importlib.import_module(room), attribute)
