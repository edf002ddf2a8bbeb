"""What of a backbone a run has read: its last layer as a rule, another one, or features kept beside class tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deapcache.results.record import Result


def layer_of(result: Result) -> str:
    """``last``, a block's number, or how the backbone calls its map; empty in results that do not say."""
    return str(result.caches["train"]["recipe"].get("layer", ""))


def tokens_of(result: Result) -> str:
    """``none``, or ``cls``, what was kept beside the features that were read."""
    return str(result.caches["train"]["recipe"].get("tokens", "none"))


def inner_layer(result: Result) -> str:
    """``layer 6`` of a run that read a layer by number; empty for the layer that the backbone is registered with."""
    layer = layer_of(result)
    return f"layer {layer}" if layer.isdecimal() else ""


def reading_of(result: Result) -> str:
    """What tells two runs of one backbone apart: ``layer 6``, ``layer 6 without norm``, ``cls kept``; mostly empty.

    It does not depend on what stands beside a run: a backbone's name alone is its last layer everywhere.
    """
    return reading_in(result.caches["train"]["recipe"])


def reading_in(recipe: Mapping[str, Any]) -> str:
    """:func:`reading_of` what has read the features of that recipe."""
    layer = str(recipe.get("layer", ""))
    norm = " without norm" if recipe.get("final_norm") is False else ""
    tokens = recipe.get("tokens", "none")
    kept = "" if tokens == "none" else f"{tokens} kept"
    return ", ".join(filter(None, (f"layer {layer}{norm}" if layer.isdecimal() else "", kept)))


def told_in(recipe: Mapping[str, Any]) -> str:
    """:func:`told_of` what has read the features of that recipe."""
    return " · ".join(filter(None, (str(recipe["backbone"]), reading_in(recipe))))


def told_of(result: Result) -> str:
    """Backbone and what was read of it: ``dinov2``, ``dinov2 · layer 6``."""
    return " · ".join(filter(None, (result.backbone, reading_of(result))))


def depth_of(result: Result) -> int:
    """A number by which the layers of a backbone are in order, the last one behind."""
    return depth_in(result.caches["train"]["recipe"])


def depth_in(recipe: Mapping[str, Any]) -> int:
    """:func:`depth_of` what has read the features of that recipe."""
    layer = str(recipe.get("layer", ""))
    return int(layer) if layer.isdecimal() else 1_000_000
