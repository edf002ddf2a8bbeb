"""What of a backbone a run has read: its last layer as a rule, another one, or features kept beside class tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deapcache.results.record import Result


def layer_of(result: Result) -> str:
    """``last``, a block's number, or how the backbone calls its map; empty in results that do not say."""
    return _layer_in(_recipe(result))


def tokens_of(result: Result) -> str:
    """``none``, or ``cls``, what was kept beside the features that were read."""
    return _tokens_in(_recipe(result))


def inner_layer(result: Result) -> str:
    """``layer 6`` of a run that read a layer by number; empty for the layer that the backbone is registered with."""
    return _inner_layer_in(_recipe(result))


def reading_of(result: Result) -> str:
    """What tells two runs of one backbone apart: ``layer 6``, ``layer 6 without norm``, ``cls kept``; mostly empty.

    It does not depend on what stands beside a run: a backbone's name alone is its last layer everywhere.
    """
    return _reading_in(_recipe(result))


def told_of(result: Result) -> str:
    """Backbone and what was read of it: ``dinov2``, ``dinov2 · layer 6``."""
    return _told(result.backbone, _recipe(result))


def told_in(recipe: Mapping[str, Any]) -> str:
    """:func:`told_of` what has read the features of that recipe."""
    return _told(str(recipe["backbone"]), recipe)


def depth_of(result: Result) -> int:
    """A number by which the layers of a backbone are in order, the last one behind."""
    return depth_in(_recipe(result))


def depth_in(recipe: Mapping[str, Any]) -> int:
    """:func:`depth_of` what has read the features of that recipe."""
    layer = _layer_in(recipe)
    return int(layer) if layer.isdecimal() else 1_000_000


def _recipe(result: Result) -> Mapping[str, Any]:
    recipe: Mapping[str, Any] = result.caches["train"]["recipe"]
    return recipe


def _layer_in(recipe: Mapping[str, Any]) -> str:
    return str(recipe.get("layer", ""))


def _tokens_in(recipe: Mapping[str, Any]) -> str:
    return str(recipe.get("tokens", "none"))


def _inner_layer_in(recipe: Mapping[str, Any]) -> str:
    layer = _layer_in(recipe)
    return f"layer {layer}" if layer.isdecimal() else ""


def _reading_in(recipe: Mapping[str, Any]) -> str:
    norm = " without norm" if recipe.get("final_norm") is False else ""
    layer, tokens = _inner_layer_in(recipe), _tokens_in(recipe)
    return ", ".join(filter(None, (layer and layer + norm, "" if tokens == "none" else f"{tokens} kept")))


def _told(backbone: str, recipe: Mapping[str, Any]) -> str:
    return " · ".join(filter(None, (backbone, _reading_in(recipe))))
