"""One transposed convolution in place of the cross-attention (section 4.2 of the paper).

Shape legend: B batch, H and W feature grid, D feature width, C width of a code, O output channels, h and w pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deapcache.readouts.config import READOUTS, ReadoutConfig, ReadoutEntry
from deapcache.readouts.positions import CODE_WIDTH, Geometry
from deapcache.readouts.tokens import RegionReadout, standardise

REGIONS = 28
"""Regions along a side of the paper's 224 × 224 output: what the stride aims at."""


@dataclass(frozen=True, kw_only=True)
class TransposedConfig(ReadoutConfig):
    """Architecture of :class:`Transposed`."""

    @property
    def stride(self) -> tuple[int, int]:
        """Regions per feature cell along each axis."""
        rows, columns = (max(1, round(REGIONS / cells)) for cells in self.grid)
        return rows, columns

    def build(self) -> Transposed:
        return Transposed(self)


class Transposed(RegionReadout):
    """Tokens to stride × stride regions each, by learned filters; then DeAP's MLP and CNN.

    As the paper says, the output's resolution follows that of the features: 8 · stride pixels a cell, resized
    bilinearly to the size asked for.
    """

    def __init__(self, config: TransposedConfig) -> None:
        super().__init__(config)
        width, stride = config.feature_dim + CODE_WIDTH, config.stride
        self.value = nn.ConvTranspose2d(width, 2 * config.code_dim, stride, stride)
        # Each region sees one cell; PyTorch's start takes the number of outputs for that of inputs.
        nn.init.uniform_(self.value.weight, -(width**-0.5), width**-0.5)
        self.options = {**self.options, "stride": f"max(1, round({REGIONS} / cells))", "resizing": "bilinear"}

    @classmethod
    def mix(cls, members: Sequence[Self], features_BHWD: Tensor, geometry: Geometry) -> list[Tensor]:
        """See :meth:`RegionReadout.mix`."""
        B, H, W, _ = features_BHWD.shape
        codes_BHWC = geometry.cell_codes().unflatten(0, (H, W)).expand(B, -1, -1, -1)
        cells_BHWD = torch.cat([codes_BHWC, standardise(features_BHWD)], -1)
        tokens = [member.norm(cells_BHWD).permute(0, 3, 1, 2) for member in members]
        return [member.value(x).permute(0, 2, 3, 1) for member, x in zip(members, tokens, strict=True)]

    @staticmethod
    def fit(output_BOhw: Tensor, output_size: tuple[int, int]) -> Tensor:
        """Its own size follows the features' grid."""
        return F.interpolate(output_BOhw, output_size, mode="bilinear", align_corners=False)


READOUTS.add(
    "transposed-conv",
    ReadoutEntry(summary="baseline: one transposed convolution, then deap's MLP and CNN", config=TransposedConfig),
)
