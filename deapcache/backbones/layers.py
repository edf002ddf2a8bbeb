"""A built model, and which maps of it one forward pass gives: after which blocks, with the final norm, class token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from deapcache.backbones.registry import CLS, NO_TOKENS, TOKENS, BackboneEntry
from deapcache.errors import UsageError, require_choice
from deapcache.recipe import LAST, is_layer

LayerOutput = tuple[Tensor, Tensor | None]
"""Of one block: its map (B, D, H, W), and its class token (B, D) where it is kept."""


class TransformerBlocks(NamedTuple):
    """The blocks of a built vision transformer, any of which can give a map."""

    depth: int
    """How many there are."""
    final_norm: nn.Module
    has_class_token: bool
    forward: Callable[[Tensor, list[int], bool, bool], list[LayerOutput]]
    """Images (B, 3, h, w), indices of blocks from 0 in rising order, norm or not, class token or not."""


class NamedLayers(NamedTuple):
    """The layers that each forward of a model gives, under names of its own; one is ``last``."""

    has_class_token: Mapping[str, bool]
    """Layer → whether its class token comes with it."""
    forward: Callable[[Tensor], Mapping[str, LayerOutput]]
    """(B, 3, h, w) float32 normalised images to what each layer gives."""


class LoadedModel(NamedTuple):
    """A built model and how to get its feature map.

    A loader is a function ``(entry, checkpoint) -> LoadedModel``: ``checkpoint`` is a state dict, or None for random
    weights; ``entry.resized`` is the image size, where it is another than the weights'. It raises
    :class:`~deapcache.errors.WeightsError` where the checkpoint does not fit.
    """

    module: nn.Module
    feature_map: Callable[[Tensor], Tensor]
    """(B, 3, h, w) float32 normalised images to (B, D, H, W)."""
    arguments: Mapping[str, Any]
    """Keyword arguments that the architecture was built with; JSON."""
    blocks: TransformerBlocks | NamedLayers | None = None
    """None: the model gives the one map alone."""
    unused: tuple[str, ...] = ()
    """Keys of the checkpoint that serve something else: heads, the other encoder of a pair, an optimiser."""


def patch_size(module: nn.Module) -> tuple[int, int]:
    """Height and width of the patches that a model cuts images into, pixels; (1, 1) where it has none."""
    config = getattr(module, "config", None)  # of transformers; else of timm or open_clip
    holder = config or getattr(module, "patch_embed", module)
    patch, convolution = getattr(holder, "patch_size", 1), getattr(holder, "proj", None)
    if isinstance(convolution, nn.Conv2d) and convolution.kernel_size != convolution.stride:
        return 1, 1  # they overlap and are padded, as in PVT v2
    if isinstance(patch, int) or config is not None:  # there, several numbers are of patches that overlap
        patch = (patch if isinstance(patch, int) else 1,) * 2
    height, width = patch
    return int(height), int(width)


def covered_share(module: nn.Module, image_size: tuple[int, int], grid: tuple[int, int]) -> tuple[float, float]:
    """Share of an image's height and width that the cells of its map cover, from the upper left corner.

    It is less than 1 where a cell is a patch and the size no multiple of it: what is beyond the last whole patch is not
    seen. Other models pad, or have cells of several patches: 1.
    """
    height, width = (
        cells * patch / side if cells == side // patch else 1.0
        for cells, patch, side in zip(grid, patch_size(module), image_size, strict=True)
    )
    return height, width


@dataclass(frozen=True, kw_only=True)
class LayerSelection:
    """What to keep of a forward pass; by default the map that the backbone is registered with, and nothing else."""

    layers: tuple[str, ...] = (LAST,)
    """Numbers of transformer blocks, from 1, and ``last``; each is a cache of its own."""
    final_norm: bool | None = None
    """Whether the backbone's final norm is applied after these blocks; None: as the backbone is registered."""
    tokens: str = NO_TOKENS
    """``cls`` to keep the class token beside each map, or ``none``."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(dict.fromkeys(self.layers)))
        wrong = [layer for layer in self.layers if not is_layer(layer)]
        if wrong or not self.layers:
            raise UsageError(f"layer {wrong[0] if wrong else ''!r}: expected a number of a block, from 1, or {LAST}")
        require_choice("tokens", self.tokens, TOKENS)


DEFAULT_LAYERS = LayerSelection()
"""The map that a backbone is registered with, and nothing else."""

Forward = Callable[[Tensor], tuple[LayerOutput, ...]]


def select_layers(
    entry: BackboneEntry, model: LoadedModel, selection: LayerSelection
) -> tuple[tuple[str, ...], bool, Forward]:
    """The layers as recipes name them, whether the final norm is applied, and the forward that gives all of them.

    Raises :class:`UsageError` where the backbone is no vision transformer that gives its blocks and no plugin that
    gives several layers, has no block of that number, no final norm or no class token.
    """
    if selection == DEFAULT_LAYERS:
        return (entry.layer,), entry.final_norm, lambda images: ((model.feature_map(images), None),)
    blocks = model.blocks
    if blocks is None:
        raise UsageError(
            f"backbone {entry.name!r} ({entry.architecture}) has no layers, final norm or class token to choose: only "
            "vision transformers have, of timm (ViT, DINOv2, SigLIP, EVA), of open_clip and hf:; leave out --layers, "
            "--tokens and --final-norm"
        )
    if isinstance(blocks, NamedLayers):
        return selection.layers, entry.final_norm, _select_named(entry, blocks, selection)
    norm = entry.final_norm if selection.final_norm is None else selection.final_norm
    if norm and isinstance(blocks.final_norm, nn.Identity):
        raise UsageError(f"backbone {entry.name!r} has no final norm: leave out --final-norm")
    wants_cls = selection.tokens == CLS
    if wants_cls and not blocks.has_class_token:
        raise UsageError(f"backbone {entry.name!r} has no class token: leave out --tokens cls")
    numbers = list(dict.fromkeys(_block_numbers(entry, selection.layers, blocks.depth)))
    order = sorted(numbers)
    places = [order.index(number) for number in numbers]

    def forward(images: Tensor) -> tuple[LayerOutput, ...]:
        outputs = blocks.forward(images, [number - 1 for number in order], norm, wants_cls)
        return tuple(outputs[place] for place in places)

    # The last block is always called last: asked for by its number, it is the cache that is there already.
    return tuple(LAST if number == blocks.depth else str(number) for number in numbers), norm, forward


def _select_named(entry: BackboneEntry, named: NamedLayers, selection: LayerSelection) -> Forward:
    has_class_token = named.has_class_token
    if missing := [layer for layer in selection.layers if layer not in has_class_token]:
        raise UsageError(
            f"backbone {entry.name!r} gives no layer {', '.join(missing)}: its module's forward returns "
            f"{', '.join(has_class_token)}; let it return a mapping of each layer to its map"
        )
    if selection.final_norm not in (None, entry.final_norm):
        raise UsageError(f"backbone {entry.name!r} applies its norms in its own forward: leave out --no-final-norm")
    wants_cls = selection.tokens == CLS
    if lacking := [layer for layer in selection.layers if wants_cls and not has_class_token[layer]]:
        raise UsageError(
            f"backbone {entry.name!r} gives no class token with layer {', '.join(lacking)}: let its module's forward "
            "return a pair (map, class token) for each layer, or leave out --tokens cls"
        )

    def forward(images: Tensor) -> tuple[LayerOutput, ...]:
        outputs = named.forward(images)
        return tuple((outputs[layer][0], outputs[layer][1] if wants_cls else None) for layer in selection.layers)

    return forward


def _block_numbers(entry: BackboneEntry, layers: Iterable[str], count: int) -> Iterable[int]:
    for layer in layers:
        number = count if layer == LAST else int(layer)
        if number > count:
            raise UsageError(f"backbone {entry.name!r} has {count} blocks, no layer {layer}: give 1 to {count}")
        yield number
