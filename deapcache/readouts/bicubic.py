"""Bicubic interpolation in place of the cross-attention (section 4.2 of the paper).

Shape legend: B batch, H and W feature grid, N = H·W cells, R rows and C columns of the region grid, V width of all
values, O output channels, h and w pixels.
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
from deapcache.readouts.projection import Projection, project_cells
from deapcache.readouts.tokens import RegionReadout

_SHARPNESS = -0.75
"""Slope of the cubic kernel at 1, as PyTorch and OpenCV have it."""


@dataclass(frozen=True, kw_only=True)
class BicubicConfig(ReadoutConfig):
    """Architecture of :class:`Bicubic`."""

    def build(self) -> Bicubic:
        return Bicubic(self)


class Bicubic(RegionReadout):
    """Tokens projected to 2D channels, interpolated to the grid of regions; then DeAP's MLP and CNN."""

    def __init__(self, config: BicubicConfig) -> None:
        super().__init__(config)
        self.value = nn.Linear(config.feature_dim + CODE_WIDTH, 2 * config.code_dim)
        self.options = {**self.options, "interpolation": "bicubic"}

    @classmethod
    def mix(cls, members: Sequence[Self], features_BHWD: Tensor, geometry: Geometry) -> list[Tensor]:
        """See :meth:`RegionReadout.mix`: all projections as one, and one interpolation of what they give."""
        with torch.autocast(features_BHWD.device.type, enabled=False):
            projections = [Projection(member.norm, [member.value]) for member in members]
            values_BNV = project_cells(features_BHWD, geometry.cell_codes(), projections)
        rows_RH = cubic_weights(geometry.region_rows, geometry.cell_rows).to(values_BNV.dtype)
        columns_CW = cubic_weights(geometry.region_columns, geometry.cell_columns).to(values_BNV.dtype)
        values_BHWV = values_BNV.unflatten(1, features_BHWD.shape[1:3])
        mixed_BRCV = torch.einsum("rh,cw,bhwv->brcv", rows_RH, columns_CW, values_BHWV)
        return list(mixed_BRCV.chunk(len(members), -1))

    @staticmethod
    def fit(output_BOhw: Tensor, output_size: tuple[int, int]) -> Tensor:
        """Where a side is no multiple of 8, the last regions reach beyond the output, and are cropped."""
        height, width = output_size
        return output_BOhw[:, :, :height, :width]


def cubic_weights(places: Tensor, cells: Tensor) -> Tensor:
    """(places, cells) float32: what each cell contributes to a value interpolated at each place, along one axis.

    ``cells`` are evenly spaced centres. Beyond the outermost centre its value goes on. Keys, "Cubic convolution
    interpolation for digital image processing", 1981.
    """
    # A grid covers the whole axis, so its first centre is half a cell from the edge.
    steps = places / (2 * cells[0]) - 0.5
    taps = steps.floor()[:, None] + torch.arange(-1, 3, device=steps.device)
    weights = _kernel((steps[:, None] - taps).abs())
    owners = taps.long().clamp(0, len(cells) - 1)
    return (weights[..., None] * F.one_hot(owners, len(cells))).sum(1)


def _kernel(distance: Tensor) -> Tensor:
    a = _SHARPNESS
    near = ((a + 2) * distance - (a + 3)) * distance.square() + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    return torch.where(distance <= 1, near, far)


READOUTS.add(
    "bicubic",
    ReadoutEntry(
        summary="baseline: projection and bicubic interpolation, then deap's MLP and CNN", config=BicubicConfig
    ),
)
