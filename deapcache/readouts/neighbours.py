"""Dense nearest neighbours: what the most similar cells of the training images show, without training.

Balažević et al., "Towards in-context scene understanding", NeurIPS 2023 (Hummingbird), section 3: the yardstick of how
far features go by similarity alone.

Shape legend: B batch, H and W feature grid, n cells of a batch, M cells of the bank, k neighbours, D' feature width, C
channels of the values, h and w pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deapcache.errors import UsageError, WeightsError
from deapcache.readouts.base import Readout
from deapcache.readouts.config import ReadoutConfig

BANK = 50_000
"""Most cells that are kept. The paper keeps 10,240,000; these take 77 MB of a saved readout at 768 channels."""

NEIGHBOURS = 30
TEMPERATURE = 0.02
"""As the paper has them."""

_LEAST_AREA = 1e-3
"""Pixels with a value that a cell must see to be kept."""

_QUERIES, _KEYS = 2048, 8192
"""Cells compared at once: 16.8 million similarities."""


class Neighbours(Readout):
    """The mean value of the 30 nearest cells of the training images, weighted by similarity, resized bilinearly.

    :meth:`fit` fills the bank: L2-normalised features of cells, as float16 like cached ones, and the mean of the values
    of the pixels in each, a soft label. Similarity is the cosine, weights are its softmax at temperature 0.02, and the
    search is exact over the bank, in float32. Of more than :data:`BANK` cells a uniform sample is kept *(ours)*. The
    bank is the state.
    """

    features_as_published = "as they are"
    training_free = True

    keys: Tensor
    values: Tensor

    def __init__(self, config: ReadoutConfig) -> None:
        super().__init__(config)
        self.register_buffer("keys", torch.empty(0, config.feature_dim, dtype=torch.float16))
        self.register_buffer("values", torch.empty(0, 0))
        self.options = {
            "features": self.features_option,
            "norm": "L2",
            "neighbours": NEIGHBOURS,
            "temperature": TEMPERATURE,
            "bank": f"uniform sample of at most {BANK} cells",
            "resizing": "bilinear",
        }

    def set_output_bias(self, values: Tensor) -> None:
        """There is none."""

    def fit(self, batches: Iterable[tuple[Tensor, Tensor, Tensor]], generator: torch.Generator) -> None:
        """Every cell draws a number, and those with the largest are kept: a uniform sample in one pass."""
        drawn_M, bank = torch.full((BANK,), -1.0), list[Tensor]()
        for features_BHWD, values_BChw, valid_Bhw in batches:
            found = self._labelled_cells(features_BHWD, values_BChw, valid_Bhw)
            bank = bank or [each.new_empty(BANK, each.shape[1]) for each in found]
            drawn_n = torch.rand(len(found[0]), generator=generator)
            best = torch.cat([drawn_M, drawn_n]).topk(BANK).indices
            new = best[best >= BANK] - BANK
            free = torch.ones(BANK, dtype=torch.bool).index_fill_(0, best[best < BANK], False).nonzero()[:, 0]
            drawn_M[free] = drawn_n[new]
            for stored, cells in zip(bank, found, strict=True):
                stored[free.to(stored.device)] = cells[new.to(cells.device)]
        filled = (drawn_M >= 0).nonzero()[:, 0]
        if not len(filled):
            raise UsageError("readout knn found no pixel with a value in the training targets: it needs some")
        self.keys, self.values = (stored[filled.to(stored.device)] for stored in bank)

    def restore(self, options: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
        """The bank, of any size; raises :class:`WeightsError` where it is none of this feature width."""
        keys, values = state["keys"], state["values"]
        if keys.shape[1:] != self.keys.shape[1:] or values.ndim != 2 or not 0 < len(keys) == len(values):
            raise WeightsError(
                f"the bank of a knn readout is {tuple(keys.shape)} keys and {tuple(values.shape)} values, expected "
                f"(M, {self.config.feature_dim}) and (M, channels): run its probe again"
            )
        self.keys, self.values = torch.empty_like(keys), torch.empty_like(values)
        super().restore(options, state)

    @torch.no_grad()
    def forward(self, features_BHWD: Tensor, output_size: tuple[int, int], guidance: Tensor | None = None) -> Tensor:
        """What :attr:`output_of_mean` makes of the mean values; raises :class:`UsageError` before :meth:`fit`."""
        if not len(self.keys):
            raise UsageError("readout knn has no cells of training images: fit it first")
        queries_nD = self._normalised(features_BHWD).flatten(0, 2)
        with torch.autocast(queries_nD.device.type, enabled=False):
            means_nC = torch.cat([self._mean_of_nearest(some) for some in queries_nD.split(_QUERIES)])
        mean_BCHW = means_nC.unflatten(0, features_BHWD.shape[:3]).permute(0, 3, 1, 2).contiguous()
        mean_BChw = self.resize(mean_BCHW, output_size)
        return mean_BChw if self.output_of_mean is None else self.output_of_mean(mean_BChw)

    def _normalised(self, features_BHWD: Tensor) -> Tensor:
        return F.normalize(self.standardise(features_BHWD), dim=-1)

    def _labelled_cells(self, features_BHWD: Tensor, values_BChw: Tensor, valid_Bhw: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (n, D') float16 and mean values (n, C) float32 of the cells with a pixel that has a value."""
        rows_Hh, columns_Ww = (
            _overlaps(cells, pixels, share).to(values_BChw)
            for cells, pixels, share in zip(
                features_BHWD.shape[1:3], valid_Bhw.shape[1:], self.config.covered, strict=True
            )
        )
        sums_BCHW = rows_Hh @ torch.where(valid_Bhw[:, None], values_BChw, 0) @ columns_Ww.T
        areas_BHW = rows_Hh @ valid_Bhw.to(values_BChw.dtype) @ columns_Ww.T
        seen_BHW = areas_BHW > _LEAST_AREA
        means_nC = sums_BCHW.permute(0, 2, 3, 1)[seen_BHW] / areas_BHW[seen_BHW][:, None]
        return self._normalised(features_BHWD[seen_BHW]).half(), means_nC.float()

    def _mean_of_nearest(self, queries_nD: Tensor) -> Tensor:
        """(n, C): softmax of the similarities of the nearest cells, times their values."""
        similarities_nk = queries_nD.new_empty(len(queries_nD), 0)
        places_nk = torch.empty(len(queries_nD), 0, dtype=torch.long, device=queries_nD.device)
        for start in range(0, len(self.keys), _KEYS):
            block_nM = queries_nD @ self.keys[start : start + _KEYS].float().T
            best = block_nM.topk(min(NEIGHBOURS, block_nM.shape[1]))
            similarities_nk = torch.cat([similarities_nk, best.values], 1)
            places_nk = torch.cat([places_nk, best.indices + start], 1)
        best = similarities_nk.topk(min(NEIGHBOURS, similarities_nk.shape[1]))
        weights_nk = torch.softmax(best.values / TEMPERATURE, -1)
        return torch.einsum("nk,nkc->nc", weights_nk, self.values[places_nk.gather(1, best.indices)])


def _overlaps(cells: int, pixels: int, share: float) -> Tensor:
    """(cells, pixels): what part of each pixel lies in each cell, along an axis of which cells cover a ``share``."""
    edges = torch.arange(cells + 1, dtype=torch.float64) * (share * pixels / cells)
    pixel = torch.arange(pixels, dtype=torch.float64)
    return (torch.minimum(edges[1:, None], pixel + 1) - torch.maximum(edges[:-1, None], pixel)).clamp(min=0)
