"""The paper's baselines (section 4.2), and the linear map that the field compares with.

Shape legend: B batch, H and W feature grid, N = H·W cells, R rows and C columns of the region grid, D feature width, V
width of all values, O output channels, h and w pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deapcache.readouts.base import Readout, ReadoutConfig
from deapcache.readouts.regions import (
    CODE_WIDTH,
    Geometry,
    RegionReadout,
    project_cells,
)

_SHARPNESS = -0.75
"""Slope of the cubic kernel at 1, as PyTorch and OpenCV have it."""

_REGIONS = 28
"""Regions along a side of the paper's 224 × 224 output: what the stride of ``transposed-conv`` aims at."""


class Bicubic(RegionReadout):
    """Tokens projected to 2D channels, interpolated to the grid of regions; then DeAP's MLP and CNN."""

    summary = "baseline: projection and bicubic interpolation, then deap's MLP and CNN"

    def __init__(self, config: ReadoutConfig) -> None:
        super().__init__(config)
        self.add_decoder()
        self.value = nn.Linear(config.feature_dim + CODE_WIDTH, 2 * config.code_dim)
        self.options = {**self.options, "interpolation": "bicubic"}

    @classmethod
    def mix(cls, members: Sequence[Self], features_BHWD: Tensor, geometry: Geometry) -> list[Tensor]:
        """All projections as one, and one interpolation of what they give."""
        with torch.autocast(features_BHWD.device.type, enabled=False):
            projections = [(member.norm, [member.value]) for member in members]
            values_BNV = project_cells(members[0], features_BHWD, geometry.cell_codes(), projections)
        rows_RH = cubic_weights(geometry.region_rows, geometry.cell_rows).to(values_BNV.dtype)
        columns_CW = cubic_weights(geometry.region_columns, geometry.cell_columns).to(values_BNV.dtype)
        values_BHWV = values_BNV.unflatten(1, features_BHWD.shape[1:3])
        mixed_BRCV = torch.einsum("rh,cw,bhwv->brcv", rows_RH, columns_CW, values_BHWV)
        return list(mixed_BRCV.chunk(len(members), -1))


def cubic_weights(places: Tensor, cells: Tensor) -> Tensor:
    """(places, cells) float32: what each cell contributes to a value interpolated at each place, along one axis.

    ``cells`` are evenly spaced centres. Beyond the outermost centre its value goes on. Keys, "Cubic convolution
    interpolation for digital image processing", 1981.
    """
    # A grid covers the whole axis, so its first centre is half a cell from the edge.
    steps = places / (2 * cells[0]) - 0.5
    taps = steps.floor()[:, None] + torch.arange(-1, 3, device=steps.device)
    a, distance = _SHARPNESS, (steps[:, None] - taps).abs()
    near = ((a + 2) * distance - (a + 3)) * distance.square() + 1
    far = a * (((distance - 5) * distance + 8) * distance - 4)
    weights = torch.where(distance <= 1, near, far)
    owners = taps.long().clamp(0, len(cells) - 1)
    return (weights[..., None] * F.one_hot(owners, len(cells))).sum(1)


class Transposed(RegionReadout):
    """Tokens to stride × stride regions each, by learned filters; then DeAP's MLP and CNN.

    As the paper says, the output's resolution follows that of the features: 8 · stride pixels a cell, resized
    bilinearly to the size asked for.
    """

    summary = "baseline: one transposed convolution, then deap's MLP and CNN"

    def __init__(self, config: ReadoutConfig) -> None:
        super().__init__(config)
        self.add_decoder()
        width = config.feature_dim + CODE_WIDTH
        rows, columns = config.grid
        # regions per feature cell along each axis
        stride = max(1, round(_REGIONS / rows)), max(1, round(_REGIONS / columns))
        self.value = nn.ConvTranspose2d(width, 2 * config.code_dim, stride, stride)
        # Each region sees one cell; PyTorch's start takes the number of outputs for that of inputs.
        nn.init.uniform_(self.value.weight, -(width**-0.5), width**-0.5)
        self.options = {**self.options, "stride": f"max(1, round({_REGIONS} / cells))", "resizing": "bilinear"}

    @classmethod
    def mix(cls, members: Sequence[Self], features_BHWD: Tensor, geometry: Geometry) -> list[Tensor]:
        B, H, W, _ = features_BHWD.shape
        codes_BHWC = geometry.cell_codes().unflatten(0, (H, W)).expand(B, -1, -1, -1)
        cells_BHWD = torch.cat([codes_BHWC, members[0].standardise(features_BHWD)], -1)
        tokens = [member.norm(cells_BHWD).permute(0, 3, 1, 2) for member in members]
        return [member.value(x).permute(0, 2, 3, 1) for member, x in zip(members, tokens, strict=True)]

    @staticmethod
    def fit(output_BOhw: Tensor, output_size: tuple[int, int]) -> Tensor:
        """Its own size follows the features' grid."""
        return F.interpolate(output_BOhw, output_size, mode="bilinear", align_corners=False)


class Linear(Readout):
    """D' → D_out in every cell of the standardised features, resized bilinearly; it has no D and no CNN."""

    summary = "yardstick: one linear map of each cell, upsampled"

    def __init__(self, config: ReadoutConfig) -> None:
        super().__init__(config)
        self.linear = nn.Linear(config.feature_dim, config.out_channels)
        self.options = {"features": self.features_option, "resizing": "bilinear"}

    def forward(self, features_BHWD: Tensor, output_size: tuple[int, int], guidance: Tensor | None = None) -> Tensor:
        output_BHWC = self.linear(self.standardise(features_BHWD)).float()
        return F.interpolate(output_BHWC.permute(0, 3, 1, 2), output_size, mode="bilinear", align_corners=False)

    def set_output_bias(self, values: Tensor) -> None:
        """Start each channel's output at ``values`` (D_out,)."""
        with torch.no_grad():
            self.linear.bias.copy_(values)
