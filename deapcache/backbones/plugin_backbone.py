"""Building a plugin's backbone, and checking that its module is what the plugin registered."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from deapcache.backbones.checkpoints import State, load_strictly
from deapcache.backbones.layers import LoadedModel
from deapcache.backbones.registry import PLUGIN_FUNCTIONS, BackboneEntry, Build, Size
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
