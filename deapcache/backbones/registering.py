"""Registering a backbone of one's own: what a plugin calls."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deapcache.backbones.entries import (
    BACKBONES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    PLUGIN,
    BackboneEntry,
    Channels,
    Size,
    WeightsSource,
)
from deapcache.errors import UsageError
from deapcache.locations import expanded
from deapcache.plugins import source_of_caller

if TYPE_CHECKING:
    from torch import nn

CATEGORIES = ("supervised", "self-supervised", "vision-language", "")

_LOADER = "deapcache.backbones.plugged:load"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_HUB = "hf://"

Build = Callable[[], "nn.Module"]
"""Gives the module: (B, 3, h, w) float32 normalised images to the feature map (B, H, W, D)."""


@dataclass(frozen=True, kw_only=True)
class Registered:
    """The functions of a registered backbone."""

    build: Build
    untrained: Build | None
    """Gives the same module with random weights; ``None``: there is no such function."""
    file: Path
    """The plugin's."""


FUNCTIONS: dict[str, Registered] = {}
"""By architecture."""


def register_backbone(
    name: str,
    build: Build,
    *,
    image_size: int | Size,
    grid: int | Size,
    dim: int,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    weights: str | WeightsSource | None = None,
    untrained: Build | None = None,
    parameters: int = 0,
    category: str = "",
    objective: str = "",
    training_data: str = "",
    licence: str = "see model card",
) -> BackboneEntry:
    """Make a backbone known by ``name``, as if it were one of deapcache's own.

    Parameters
    ----------
    name
        Letters, digits and ``. _ + -``; not the name of another backbone.
    build
        A class or function without arguments that gives a torch module: (B, 3, h, w) float32 images, normalised, to
        the feature map (B, H, W, D). It is put into evaluation mode. Random numbers that it draws are seeded.
    image_size
        What the module sees, pixels: a side, or (height, width).
    grid
        H and W of its feature map: a side, or both.
    dim
        D of its feature map.
    mean, std
        Of the normalisation, per channel of RGB in [0, 1]; ImageNet's by default.
    weights
        Where the trained weights are, which are loaded into what ``build`` gives, every key: a file (relative to the
        plugin's), ``https://…``, ``hf://OWNER/REPOSITORY/FILE`` or a :class:`WeightsSource`. ``None``: ``build``
        brings them itself.
    untrained
        Gives the module with random weights, for ``NAME@untrained``. Not needed with ``weights``: ``build`` does that.
    parameters
        How many the module has, for tables and figures; 0: not stated.
    category
        ``supervised``, ``self-supervised``, ``vision-language``, or empty.
    objective, training_data, licence
        As `deapcache list backbones` shows them.

    The recipe of its features holds the digest of the weights, and that of the source file that calls this function: a
    plugin that was changed makes caches of its own.

    Raises :class:`UsageError` for a name that is taken and for facts that cannot be.
    """
    source = source_of_caller()
    entry = BackboneEntry(
        name=_checked_name(name),
        architecture=f"{PLUGIN}:{name}",
        arguments={"source": source.digest},
        image_size=_pair(name, "image_size", image_size),
        grid=_pair(name, "grid", grid),
        dim=_whole(name, "dim", dim),
        parameters=_whole(name, "parameters", parameters, least=0),
        mean=_channels(name, "mean", mean),
        std=_channels(name, "std", std, above=0.0),
        category=_category(name, category),
        objective=objective,
        training_data=training_data,
        licence=licence,
        final_norm=True,
        source=_weights(name, weights, source.file.parent),
        own_weights=weights is None,
        loader=_LOADER,
    )
    BACKBONES.add(name, entry)
    FUNCTIONS[entry.architecture] = Registered(
        build=build, untrained=build if weights is not None else untrained, file=source.file
    )
    return entry


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(f"backbone {name!r}: a name has letters, digits and . _ + - and begins with a letter or digit")
    return name


def _pair(name: str, what: str, value: int | Size) -> Size:
    sides = (value, value) if isinstance(value, int) else tuple(value)
    if len(sides) != 2:
        raise UsageError(f"backbone {name!r}: {what} is {value!r}, expected one number, or height and width")
    height, width = (_whole(name, what, side) for side in sides)
    return height, width


def _whole(name: str, what: str, value: int, *, least: int = 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(f"backbone {name!r}: {what} is {value!r}, expected a whole number of at least {least}")
    return value


def _channels(name: str, what: str, values: Sequence[float], *, above: float = -math.inf) -> Channels:
    found = tuple(float(value) for value in values)
    if len(found) != 3 or not all(math.isfinite(value) and value > above for value in found):
        more = " above 0" if above == 0 else ""
        raise UsageError(f"backbone {name!r}: {what} is {tuple(values)!r}, expected three numbers{more}, one a channel")
    return found


def _category(name: str, category: str) -> str:
    if category not in CATEGORIES:
        known = ", ".join(filter(None, CATEGORIES))
        raise UsageError(f"backbone {name!r}: category is {category!r}, expected {known}, or leave it out")
    return category


def _weights(name: str, weights: str | WeightsSource | None, folder: Path) -> WeightsSource:
    if weights is None:
        return WeightsSource()
    if isinstance(weights, WeightsSource):
        return weights
    if weights.startswith("https://"):
        return WeightsSource(url=weights)
    if weights.startswith(_HUB):
        owner, repository, file = _hub_parts(name, weights)
        return WeightsSource(repo=f"{owner}/{repository}", files=(file,))
    return WeightsSource(path=folder / expanded(weights))


def _hub_parts(name: str, weights: str) -> list[str]:
    parts = weights.removeprefix(_HUB).split("/", 2)
    if len(parts) != 3 or not all(parts):
        raise UsageError(f"backbone {name!r}: weights are {weights!r}, expected {_HUB}OWNER/REPOSITORY/FILE")
    return parts
