"""Building a plugin's backbone, checking that its module is what was registered, and modules of this process."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from deapcache.backbones.checkpoints import State, load_strictly
from deapcache.backbones.layers import LoadedModel
from deapcache.backbones.registry import (
    BACKBONES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    PLUGIN_FUNCTIONS,
    BackboneEntry,
    Build,
    PluginFunctions,
    Size,
    plugin_entry,
)
from deapcache.errors import DeapcacheError, PluginError, UsageError
from deapcache.plugins import explain


def load(entry: BackboneEntry, checkpoint: State | None, image_size: Size | None) -> LoadedModel:
    """Build the module of ``entry`` and load ``checkpoint`` into it, if any.

    Raises :class:`PluginError` where the plugin's code fails, or its module is not what was registered.
    """
    build = _build_function(entry)
    with _attribute_errors(entry, "building it failed"):
        module = build()
    _check_module(entry, module)
    module.eval().requires_grad_(False)
    unused = load_strictly(module, checkpoint, entry) if checkpoint is not None else ()

    def feature_map(images: Tensor) -> Tensor:
        with _attribute_errors(entry, f"its module failed on images {tuple(images.shape)}"):
            return module(images).permute(0, 3, 1, 2)

    if image_size is None:
        _check_map(entry, module)
    return LoadedModel(module, feature_map, dict(entry.arguments), unused=unused)


def _build_function(entry: BackboneEntry) -> Build:
    functions = PLUGIN_FUNCTIONS[entry.architecture]
    if not entry.untrained:
        return functions.build
    if functions.untrained is None:
        raise UsageError(
            f"backbone {entry.name!r}: its plugin brings its weights itself and does not say how to build it without: "
            "give register_backbone(…, untrained=FUNCTION), or weights=FILE for a function that builds it without"
        )
    return functions.untrained


def _check_module(entry: BackboneEntry, module: object) -> None:
    if not isinstance(module, nn.Module):
        raise _mismatch(entry, f"building it gave {type(module).__name__}, expected a torch.nn.Module")
    count = sum(parameter.numel() for parameter in module.parameters())
    if not count:
        raise _mismatch(entry, "its module has no parameters")
    if entry.parameters not in (0, count):
        raise _mismatch(entry, f"its module has {count} parameters, it was registered with {entry.parameters}")


def _check_map(entry: BackboneEntry, module: nn.Module) -> None:
    size, expected = entry.image_size, (1, *entry.grid, entry.dim)
    images = torch.zeros(1, 3, *size)
    with torch.inference_mode(), _attribute_errors(entry, f"its module failed on images {tuple(images.shape)}"):
        features = module(images)
    if not isinstance(features, Tensor):
        raise _mismatch(entry, f"its module gives {type(features).__name__}, expected a tensor {expected}")
    shape = tuple(features.shape)
    if shape == expected:
        return
    if (*shape[:1], *shape[2:], *shape[1:2]) == expected:
        hint = "end it with .permute(0, 2, 3, 1)"
    elif len(shape) != 4:
        hint = "it must be a map: leave out class tokens, and give each cell its row and column"
    else:
        hint = f"register it with grid={shape[1:3]}, dim={shape[3]}, or change what it gives"
    what = f"its module gives {shape} for an image of {size[0]}x{size[1]}, expected (1, H, W, D) = {expected}"
    raise _mismatch(entry, f"{what}: {hint}")


def _mismatch(entry: BackboneEntry, what: str) -> PluginError:
    return PluginError(f"backbone {entry.name!r} of {PLUGIN_FUNCTIONS[entry.architecture].file}: {what}")


@contextlib.contextmanager
def _attribute_errors(entry: BackboneEntry, what: str) -> Iterator[None]:
    """Say of an error in a plugin's code whose and where it is; running out of memory stays what it is."""
    try:
        yield
    except (DeapcacheError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        place = explain(error, str(PLUGIN_FUNCTIONS[entry.architecture].file))
        raise PluginError(f"backbone {entry.name!r}: {what}: {place}") from error


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
        Takes (B, 3, h, w) float32 images, normalised, and gives the feature map (B, H, W, D).
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
    entry = _measured(entry, own, functions)
    BACKBONES.add(name, entry, replaces=_MODULES.get(name))
    PLUGIN_FUNCTIONS[entry.architecture] = functions
    _MODULES[name] = entry
    return entry


def _measured(entry: BackboneEntry, module: nn.Module, functions: PluginFunctions) -> BackboneEntry:
    """The entry with the grid and width of what the module gives, and its number of parameters."""
    size = entry.image_size
    images = torch.zeros(1, 3, *size)
    try:
        with torch.inference_mode():
            features = module(images)
    except Exception as error:
        place = explain(error, str(functions.file))
        raise PluginError(f"backbone {entry.name!r}: it failed on images {tuple(images.shape)}: {place}") from error
    shape = tuple(features.shape) if isinstance(features, Tensor) else ()
    if len(shape) != 4 or (size[0] == size[1] and shape[1] != shape[2]):
        found = shape or type(features).__name__
        raise PluginError(
            f"backbone {entry.name!r}: it gives {found} for an image of {size[0]}x{size[1]}, expected (1, H, W, D): "
            "leave out class tokens, give each cell its row and column, and put channels last: .permute(0, 2, 3, 1)"
        )
    count = sum(parameter.numel() for parameter in module.parameters())
    return replace(entry, grid=shape[1:3], dim=shape[3], parameters=count)
