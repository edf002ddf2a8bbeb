"""What of a backbone a run has read: its last layer as a rule, another one, or features kept beside class tokens."""

from __future__ import annotations

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
    norm = " without norm" if result.caches["train"]["recipe"].get("final_norm") is False else ""
    layer, tokens = inner_layer(result), tokens_of(result)
    return ", ".join(filter(None, (layer and layer + norm, "" if tokens == "none" else f"{tokens} kept")))


def told_of(result: Result) -> str:
    """Backbone and what was read of it: ``dinov2``, ``dinov2 · layer 6``."""
    return " · ".join(filter(None, (result.backbone, reading_of(result))))


def depth_of(result: Result) -> int:
    """A number by which the layers of a backbone are in order, the last one behind."""
    layer = layer_of(result)
    return int(layer) if layer.isdecimal() else 1_000_000
