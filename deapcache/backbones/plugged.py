"""Backbones that were registered from outside: building them, and holding them to what they said."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from deapcache.backbones.checkpoints import State, load_strictly
from deapcache.backbones.entries import BackboneEntry, Size
from deapcache.backbones.loaded import Loaded
from deapcache.backbones.registering import FUNCTIONS, Build
from deapcache.errors import DeapcacheError, PluginError, UsageError
from deapcache.plugins import explain


def load(entry: BackboneEntry, checkpoint: State | None, image_size: Size | None) -> Loaded:
    """Build the module of ``entry`` and load ``checkpoint`` into it, if any.

    Raises :class:`PluginError` where the plugin's code fails, or its module is not what was registered.
    """
    module = _built(entry)
    module.eval().requires_grad_(False)
    if checkpoint is not None:
        load_strictly(module, checkpoint, entry)

    def feature_map(images: Tensor) -> Tensor:
        with _naming(entry, f"its module failed on images {tuple(images.shape)}"):
            return module(images).permute(0, 3, 1, 2)

    if image_size is None:
        _check_map(entry, module)
    return Loaded(module, feature_map, dict(entry.arguments))


def _file(entry: BackboneEntry) -> Path:
    return FUNCTIONS[entry.architecture].file


def _function(entry: BackboneEntry) -> Build:
    found = FUNCTIONS[entry.architecture]
    if not entry.untrained:
        return found.build
    if found.untrained is None:
        raise UsageError(
            f"backbone {entry.name!r}: its plugin brings its weights itself and does not say how to build it without: "
            "give register_backbone(…, untrained=FUNCTION), or weights=FILE for a function that builds it without"
        )
    return found.untrained


def _built(entry: BackboneEntry) -> nn.Module:
    build = _function(entry)
    with _naming(entry, "building it failed"):
        module = build()
    if not isinstance(module, nn.Module):
        raise _wrong(entry, f"building it gave {type(module).__name__}, expected a torch.nn.Module")
    count = sum(parameter.numel() for parameter in module.parameters())
    if not count:
        raise _wrong(entry, "its module has no parameters")
    if entry.parameters not in (0, count):
        raise _wrong(entry, f"its module has {count} parameters, it was registered with {entry.parameters}")
    return module


def _check_map(entry: BackboneEntry, module: nn.Module) -> None:
    size, expected = entry.image_size, (1, *entry.grid, entry.dim)
    images = torch.zeros(1, 3, *size)
    with torch.inference_mode(), _naming(entry, f"its module failed on images {tuple(images.shape)}"):
        features = module(images)
    if not isinstance(features, Tensor):
        raise _wrong(entry, f"its module gives {type(features).__name__}, expected a tensor {expected}")
    if tuple(features.shape) != expected:
        hint = _hint(tuple(features.shape), expected)
        told = f"its module gives {tuple(features.shape)} for an image of {size[0]}x{size[1]}, expected (1, H, W, D) = "
        raise _wrong(entry, f"{told}{expected}: {hint}")


def _hint(found: tuple[int, ...], expected: tuple[int, ...]) -> str:
    if (*found[:1], *found[2:], *found[1:2]) == expected:
        return "end it with .permute(0, 2, 3, 1)"
    if len(found) != 4:
        return "it must be a map: leave out class tokens, and give each cell its row and column"
    return f"register it with grid={found[1:3]}, dim={found[3]}, or change what it gives"


def _wrong(entry: BackboneEntry, what: str) -> PluginError:
    return PluginError(f"backbone {entry.name!r} of {_file(entry)}: {what}")


@contextlib.contextmanager
def _naming(entry: BackboneEntry, what: str) -> Iterator[None]:
    """Say of an error in a plugin's code whose and where it is; running out of memory stays what it is."""
    try:
        yield
    except (DeapcacheError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        place = explain(error, str(_file(entry)))
        raise PluginError(f"backbone {entry.name!r}: {what}: {place}") from error
