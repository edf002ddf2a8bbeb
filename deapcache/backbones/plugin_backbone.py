"""Building a plugin's backbone, checking that its module is what was registered, and modules of this process."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from deapcache.backbones.checkpoints import State, load_strictly
from deapcache.backbones.layers import LayerOutput, LoadedModel, NamedLayers
from deapcache.backbones.registry import (
    BACKBONES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    PLUGIN_FUNCTIONS,
    BackboneEntry,
    PluginFunctions,
    plugin_entry,
)
from deapcache.errors import DeapcacheError, PluginError, UsageError
from deapcache.plugins import explain
from deapcache.recipe import LAST, is_layer
from deapcache.regions import Size


def load(entry: BackboneEntry, checkpoint: State | None) -> LoadedModel:
    """Build the module of ``entry`` and load ``checkpoint`` into it, if any.

    Raises :class:`PluginError` where the plugin's code fails, or its module is not what was registered.
    """
    functions = PLUGIN_FUNCTIONS[entry.architecture]
    build, file = functions.untrained if entry.untrained else functions.build, functions.file
    if build is None:
        raise UsageError(
            f"backbone {entry.name!r}: its plugin brings its weights itself and does not say how to build it without: "
            "give register_backbone(…, untrained=FUNCTION), or weights=FILE for a function that builds it without"
        )
    with _attribute_errors(entry, "building it failed", file):
        module = build()
    if not isinstance(module, nn.Module):
        raise _mismatch(entry, file, f"building it gave {type(module).__name__}, expected a torch.nn.Module")
    count = sum(parameter.numel() for parameter in module.parameters())
    if not count:
        raise _mismatch(entry, file, "its module has no parameters")
    if entry.parameters not in (0, count):
        raise _mismatch(entry, file, f"its module has {count} parameters, it was registered with {entry.parameters}")
    module.eval().requires_grad_(False)
    unused = load_strictly(module, checkpoint, entry)

    def forward(images: Tensor) -> dict[str, LayerOutput]:
        outputs = _layer_outputs(entry, module, images, file)
        return {layer: (features.permute(0, 3, 1, 2), cls) for layer, (features, cls) in outputs.items()}

    given = _layers_of_one_image(entry, module, file, None if entry.resized else (1, *entry.grid, entry.dim))
    layers = NamedLayers({layer: cls is not None for layer, (_, cls) in given.items()}, forward)
    return LoadedModel(module, lambda images: forward(images)[LAST][0], dict(entry.arguments), layers, unused)


def _layer_outputs(entry: BackboneEntry, module: nn.Module, images: Tensor, file: Path) -> dict[str, LayerOutput]:
    """What a forward gives: layer → map (B, H, W, D) and class token (B, D) or None. One map alone is that of last."""
    with _attribute_errors(entry, f"its module failed on images {tuple(images.shape)}", file):
        found = module(images)
    outputs: dict[str, LayerOutput] = {}
    for layer, given in (found if isinstance(found, Mapping) else {LAST: found}).items():
        features, cls = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
        if not isinstance(features, Tensor) or not isinstance(cls, Tensor | None):
            kinds = ", ".join(type(one).__name__ for one in (given if isinstance(given, tuple) else (given,)))
            raise _mismatch(
                entry,
                file,
                f"its module gives {kinds} as layer {layer}, expected a map (B, H, W, D) or (map, class token)",
            )
        outputs[str(layer)] = features, cls
    return outputs


def _layers_of_one_image(
    entry: BackboneEntry, module: nn.Module, file: Path, expected: tuple[int, ...] | None = None
) -> dict[str, LayerOutput]:
    """What the module gives for one empty image: maps of one shape (1, H, W, D), ``expected`` where it is registered.

    Raises :class:`PluginError` where it fails, or gives a layer of another shape or of a name that is none.
    """
    with torch.inference_mode():
        outputs = _layer_outputs(entry, module, torch.zeros(1, 3, *entry.image_size), file)
    if LAST not in outputs or not all(map(is_layer, outputs)):
        raise _mismatch(
            entry,
            file,
            f"its module gives the layers {', '.join(outputs) or 'none'}, expected numbers from 1, and {LAST}: the map "
            "that is taken where no layer is asked for",
        )
    (height, width), shape = entry.image_size, tuple(outputs[LAST][0].shape)
    if len(shape) != 4 or shape != (expected or shape):
        raise _mismatch(
            entry, file, f"its module gives {shape} for an image of {height}x{width}, {_advice(shape, expected)}"
        )
    for layer, (features, cls) in outputs.items():
        if tuple(features.shape) != shape:
            raise _mismatch(
                entry,
                file,
                f"its module gives {tuple(features.shape)} as layer {layer} and {shape} as {LAST}: the layers of a "
                "backbone have one grid and one width; register those of another as another backbone",
            )
        if cls is not None and tuple(cls.shape) != (1, shape[3]):
            token = f"a class token {tuple(cls.shape)} with layer {layer}"
            raise _mismatch(entry, file, f"its module gives {token}, expected {(1, shape[3])}")
    return outputs


def _advice(shape: tuple[int, ...], expected: tuple[int, ...] | None = None) -> str:
    if expected is None:
        hint = "leave out class tokens, give each cell its row and column, and put channels last: .permute(0, 2, 3, 1)"
        return f"expected (1, H, W, D): {hint}"
    if (*shape[:1], *shape[2:], *shape[1:2]) == expected:
        hint = "end it with .permute(0, 2, 3, 1)"
    elif len(shape) != 4:
        hint = "it must be a map: leave out class tokens, and give each cell its row and column"
    else:
        hint = f"register it with grid={shape[1:3]}, dim={shape[3]}, or change what it gives"
    return f"expected (1, H, W, D) = {expected}: {hint}"


def _mismatch(entry: BackboneEntry, file: Path, what: str) -> PluginError:
    return PluginError(f"backbone {entry.name!r} of {file}: {what}")


@contextlib.contextmanager
def _attribute_errors(entry: BackboneEntry, what: str, file: Path) -> Iterator[None]:
    """Say of an error in a plugin's code whose and where it is; running out of memory stays what it is."""
    try:
        yield
    except (DeapcacheError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise PluginError(f"backbone {entry.name!r}: {what}: {explain(error, str(file))}") from error


_MODULES: dict[str, BackboneEntry] = {}
"""Backbones that are modules of this process."""


def register_module(
    module: nn.Module,
    name: str = "",
    *,
    image_size: int | Size = 224,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> BackboneEntry:
    """Make a built module a backbone of this process, as it is now: later changes to ``module`` do not reach it.

    Parameters
    ----------
    module
        Takes (B, 3, h, w) float32 images, normalised, and gives the feature map (B, H, W, D), or what
        :func:`register_backbone` says of several layers.
    name
        What to call it; empty: its class's name. A module registered before under that name is replaced.
    image_size
        What it sees, pixels: a side, or (height, width).
    mean, std
        Of the normalisation, per channel of RGB in [0, 1]; ImageNet's by default.

    The recipe of its features holds the digest of its weights, and that of its class's source. Raises
    :class:`UsageError` where that cannot be read, where functions of the module were replaced, for a name that is
    taken, and :class:`PluginError` where it gives no map.
    """
    kind, name = type(module), name or type(module).__name__
    changed = [
        one for one in module.modules() if "forward" in vars(one) or one._forward_hooks or one._forward_pre_hooks
    ]
    if changed:
        raise UsageError(
            f"backbone {name!r}: {type(changed[0]).__name__} has a hook or a forward that was put in afterwards, of "
            "which no source is recorded: write it in a class of your own"
        )
    try:
        source, file = inspect.getsource(kind), inspect.getfile(kind)
    except (OSError, TypeError):
        raise UsageError(
            f"backbone {name!r}: the source of its class {kind.__qualname__} cannot be read, and is recorded: define "
            "the class in a file or a notebook's cell"
        ) from None
    own, digest = copy.deepcopy(module).cpu().eval(), hashlib.sha256(source.encode()).hexdigest()
    entry = plugin_entry(name, f"sha256:{digest}", image_size=image_size, grid=1, dim=1, mean=mean, std=std)
    functions = PluginFunctions(build=lambda: copy.deepcopy(own), untrained=None, file=Path(file))
    (height, width), outputs = entry.image_size, _layers_of_one_image(entry, own, functions.file)
    shape = tuple(outputs[LAST][0].shape)
    if height == width and shape[1] != shape[2]:
        raise _mismatch(
            entry, functions.file, f"its module gives {shape} for an image of {height}x{width}, {_advice(shape)}"
        )
    count = sum(parameter.numel() for parameter in own.parameters())
    entry = replace(entry, grid=(shape[1], shape[2]), dim=shape[3], parameters=count)
    BACKBONES.add(name, entry, replaces=_MODULES.get(name))
    PLUGIN_FUNCTIONS[entry.architecture] = functions
    _MODULES[name] = entry
    return entry
