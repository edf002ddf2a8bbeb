"""A batch as it was drawn: some images as they are, some mirrored; made on the device, whatever that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from deapcache.annotations import mirror
from deapcache.probing.arrays import FEATURES, MIRRORED


def as_drawn(
    tensors: Mapping[str, torch.Tensor], names: Sequence[str], mirrored: np.ndarray
) -> dict[str, torch.Tensor]:
    """The arrays ``names`` of a batch, of which the images at the places ``mirrored`` (B,) are mirror images.

    Features of these come from ``MIRRORED``; whatever else belongs to them is mirrored here.
    """
    if not mirrored.any():
        return {name: tensors[name] for name in names}
    original, turned = (torch.from_numpy(np.flatnonzero(places)) for places in (~mirrored, mirrored))
    found = {}
    for name in names:
        values = tensors[name]
        if name == FEATURES:
            found[name] = _put_together([(original, values), (turned, tensors[MIRRORED])])
        else:
            places = turned.to(values.device)
            found[name] = values.index_copy(0, places, mirror(name, values.index_select(0, places)))
    return found


def _put_together(parts: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """One tensor of parts, each with the places (n,) where its rows belong."""
    values = parts[0][1]
    whole = values.new_empty((sum(len(places) for places, _ in parts), *values.shape[1:]))
    for places, values in parts:
        whole.index_copy_(0, places.to(values.device), values)
    return whole
