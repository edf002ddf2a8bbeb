"""Extract a vision backbone's dense features once; probe them many times with tiny attentive readouts.

The names below are the public interface; each is loaded on first use, so that reading a cache never imports torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deapcache.backbones import build as build_backbone
    from deapcache.cache import find_caches, list_caches, open_cache
    from deapcache.datasets import open_dataset
    from deapcache.experiments import ProbeRequest, probe
    from deapcache.extraction import ExtractionSettings, extract
    from deapcache.locations import home
    from deapcache.results import load_results

_ROOMS = {
    "build_backbone": ("deapcache.backbones", "build"),
    "find_caches": ("deapcache.cache", "find_caches"),
    "list_caches": ("deapcache.cache", "list_caches"),
    "open_cache": ("deapcache.cache", "open_cache"),
    "open_dataset": ("deapcache.datasets", "open_dataset"),
    "ProbeRequest": ("deapcache.experiments", "ProbeRequest"),
    "probe": ("deapcache.experiments", "probe"),
    "ExtractionSettings": ("deapcache.extraction", "ExtractionSettings"),
    "extract": ("deapcache.extraction", "extract"),
    "home": ("deapcache.locations", "home"),
    "load_results": ("deapcache.results", "load_results"),
}

__all__ = [
    "ExtractionSettings",
    "ProbeRequest",
    "build_backbone",
    "extract",
    "find_caches",
    "home",
    "list_caches",
    "load_results",
    "open_cache",
    "open_dataset",
    "probe",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'deapcache' has no attribute {name!r}: its names are {', '.join(__all__)}")
    room, attribute = _ROOMS[name]
    return getattr(importlib.import_module(room), attribute)
