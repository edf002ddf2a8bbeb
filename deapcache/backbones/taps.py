"""What is kept of one forward pass: the maps after which blocks, with the final norm or not, and the class token."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, cast

from torch import Tensor, nn

from deapcache.backbones.entries import CLS, LAST, NO_TOKENS, TOKENS, BackboneEntry
from deapcache.backbones.loaded import Loaded
from deapcache.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Taps:
    """What to keep; by default the map that the backbone is registered with, and nothing else."""

    layers: tuple[str, ...] = (LAST,)
    """Numbers of transformer blocks, from 1, and ``last``; each is a cache of its own."""
    final_norm: bool | None = None
    """Whether the backbone's final norm is applied after these blocks; None: as the backbone is registered."""
    tokens: str = NO_TOKENS
    """``cls`` to keep the class token beside each map, or ``none``."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(dict.fromkeys(self.layers)))
        wrong = [layer for layer in self.layers if layer != LAST and not (layer.isdecimal() and int(layer) > 0)]
        if wrong or not self.layers:
            raise UsageError(f"layer {wrong[0] if wrong else ''!r}: expected a number of a block, from 1, or {LAST}")
        if self.tokens not in TOKENS:
            raise UsageError(f"unknown tokens {self.tokens!r}: choose one of {', '.join(TOKENS)}")


REGISTERED = Taps()
"""The map that a backbone is registered with, and nothing else."""


class Tapped(NamedTuple):
    """What comes of one forward after one block."""

    features: Tensor
    """(B, D, H, W)."""
    cls: Tensor | None
    """(B, D), where it is kept."""


class Tappable(NamedTuple):
    """A built vision transformer whose blocks can be tapped; the library's module makes it."""

    blocks: int
    final_norm: nn.Module
    has_class_token: bool
    forward: Callable[[Tensor, list[int], bool, bool], list[Tapped]]
    """Images (B, 3, h, w), indices of blocks from 0 in rising order, norm or not, class token or not."""


Forward = Callable[[Tensor], tuple[Tapped, ...]]


def tapped_forward(entry: BackboneEntry, loaded: Loaded, taps: Taps) -> tuple[tuple[str, ...], bool, Forward]:
    """The layers as recipes name them, whether the final norm is applied, and the forward that gives all of them.

    Raises :class:`UsageError` where the backbone is no vision transformer that can be tapped, has no block of that
    number, no final norm or no class token.
    """
    if taps == REGISTERED:
        return (entry.layer,), entry.final_norm, lambda images: (Tapped(loaded.feature_map(images), None),)
    return _tap(entry, _tappable(entry, loaded.module), taps)


def _tappable(entry: BackboneEntry, module: nn.Module) -> Tappable | None:
    library = entry.architecture.partition(":")[0]
    if entry.layer != LAST or library not in ("timm", "open_clip"):
        return None
    found = importlib.import_module(f"deapcache.backbones.{library}_models").tappable(module)
    return cast("Tappable | None", found)


def _tap(entry: BackboneEntry, found: Tappable | None, taps: Taps) -> tuple[tuple[str, ...], bool, Forward]:
    if found is None:
        raise UsageError(
            f"backbone {entry.name!r} ({entry.architecture}) has no layers, final norm or class token to choose: only "
            "vision transformers have, of timm (ViT, DINOv2, SigLIP, EVA) and of open_clip; leave out --layers, "
            "--tokens and --final-norm"
        )
    norm = entry.final_norm if taps.final_norm is None else taps.final_norm
    if norm and isinstance(found.final_norm, nn.Identity):
        raise UsageError(f"backbone {entry.name!r} has no final norm: leave out --final-norm")
    wants_cls = taps.tokens == CLS
    if wants_cls and not found.has_class_token:
        raise UsageError(f"backbone {entry.name!r} has no class token: leave out --tokens cls")
    numbers = list(dict.fromkeys(_numbers(entry, taps.layers, found.blocks)))
    order = sorted(numbers)
    places = [order.index(number) for number in numbers]

    def forward(images: Tensor) -> tuple[Tapped, ...]:
        outputs = found.forward(images, [number - 1 for number in order], norm, wants_cls)
        return tuple(outputs[place] for place in places)

    # The last block is always called last: asked for by its number, it is the cache that is there already.
    return tuple(LAST if number == found.blocks else str(number) for number in numbers), norm, forward


def _numbers(entry: BackboneEntry, layers: Iterable[str], blocks: int) -> Iterable[int]:
    for layer in layers:
        number = blocks if layer == LAST else int(layer)
        if number > blocks:
            raise UsageError(f"backbone {entry.name!r} has {blocks} blocks, no layer {layer}: give 1 to {blocks}")
        yield number
