"""What a loader gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn


class Loaded(NamedTuple):
    """A built model and how to get its feature map.

    A loader is a function ``(entry, checkpoint, image_size) -> Loaded``: ``checkpoint`` is a state dict, or None for
    random weights; ``image_size`` (height, width) is None for the entry's own. It raises
    :class:`~deapcache.errors.WeightsError` where the checkpoint does not fit.
    """

    module: nn.Module
    feature_map: Callable[[Tensor], Tensor]
    """(B, 3, h, w) float32 normalised images to (B, D, H, W)."""
    arguments: Mapping[str, Any]
    """Keyword arguments that the architecture was built with; JSON."""
