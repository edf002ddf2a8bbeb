"""Readouts that work on a grid of output regions: where regions and cells lie, and what such readouts share.

Positions are in units of the longer side of the output: a square image is the unit square, a 216 × 288 image spans
0.75 × 1, and σ means the same distance along both axes. A feature grid covers the whole image, whatever its shape,
because base images are squashed to the backbone's size, or the part from the upper left corner that ``covered`` says,
where that size is no multiple of the patches'. Where base images are crops, "the image" is the crop.

Shape legend: B batch, H and W feature grid, N = H·W cells, R and C rows and columns of output regions, S heads, D
feature width, V = 2D width of a mixture, O outputs of all projections or output channels, h and w pixels.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from deapcache.readouts.base import VARIANCE_FLOOR, Readout, StackedReadout
from deapcache.readouts.cnn import REGION, UpsamplingCNN, run_side_by_side, run_together
from deapcache.readouts.config import CELL, SIZES, ReadoutConfig

CODE_WIDTH = 8
"""Sine and cosine at two frequencies on each of two coordinates (section 3: queries in ℝ⁸)."""

_ROW_ENTRIES = torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0])
"""1 for the numbers of a code that depend on the row."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Centres of output regions and feature cells along each axis, float32, in units of the output's longer side."""

    region_rows: Tensor
    """(R,)"""
    region_columns: Tensor
    """(C,)"""
    cell_rows: Tensor
    """(H,)"""
    cell_columns: Tensor
    """(W,)"""

    @property
    def region_grid(self) -> tuple[int, int]:
        """Rows and columns of output regions."""
        return len(self.region_rows), len(self.region_columns)

    def axis_codes(self) -> tuple[Tensor, Tensor]:
        """(R, 8) and (C, 8): a region's code is the sum of its row's and its column's, zeros where the other's are."""
        rows, columns = self.region_rows, self.region_columns
        of_rows = sinusoidal_codes(rows, columns[:1]) * _ROW_ENTRIES.to(rows.device)
        of_columns = sinusoidal_codes(rows[:1], columns) * (1 - _ROW_ENTRIES.to(rows.device))
        return of_rows, of_columns

    def cell_codes(self) -> Tensor:
        """(H·W, 8) code of every feature cell, row by row."""
        return sinusoidal_codes(self.cell_rows, self.cell_columns)

    def gaussian_mask(self, sigma_S: Tensor) -> Tensor:
        """(S, R·C, H·W) normal density of the distance of region and cell, one width a head.

        exp(−d² / 2σ²) / (σ √(2π)), as section 3 has it: a bump that is added to the logits, not a log-Gaussian.
        Differentiable once, in the widths.
        """
        mask_SQN: Tensor = _GaussianMask.apply(sigma_S, self)
        return mask_SQN

    def density(self, sigma_S: Tensor) -> Tensor:
        """(S, R·C, H·W) values of :meth:`gaussian_mask`, without history.

        The Gaussian of a distance is the product of those along the axes, so that exponentials are taken of
        R·H + C·W numbers only.
        """
        of_rows, of_columns = self._factors(sigma_S)
        return (of_rows * of_columns).flatten(1, 2)

    def slope(self, sigma_S: Tensor, g_SQN: Tensor) -> Tensor:
        """(S,): what the widths get where the densities get ``g_SQN``."""
        of_rows, of_columns = self._factors(sigma_S)
        # The density changes with σ by its own value times d² / σ³ − 1 / σ, and d² is a sum over the axes.
        weighted_SRCN = (g_SQN.view(-1, *self.region_grid, g_SQN.shape[-1]) * of_rows).mul_(of_columns)
        by_row, by_column = weighted_SRCN.sum(2), weighted_SRCN.sum(1)
        # for each of the N = H·W cells: (R, N) and (C, N)
        rows_RH, columns_CW = self._squared_distances(sigma_S.dtype)
        row_squares = rows_RH[:, :, None].expand(-1, -1, columns_CW.shape[1]).flatten(1)
        column_squares = columns_CW[:, None].expand(-1, rows_RH.shape[1], -1).flatten(1)
        squares = (by_row * row_squares).sum((1, 2)) + (by_column * column_squares).sum((1, 2))
        return squares / sigma_S**3 - by_row.sum((1, 2)) / sigma_S

    def _squared_distances(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """(R, H) and (C, W), of regions and cells along each axis; those in the plane are their sums."""
        rows = (self.region_rows[:, None] - self.cell_rows).square()
        columns = (self.region_columns[:, None] - self.cell_columns).square()
        return rows.to(dtype), columns.to(dtype)

    def _factors(self, sigma_S: Tensor) -> tuple[Tensor, Tensor]:
        """(S, R, 1, N) and (S, 1, C, N): with cells along one axis, products run over long contiguous rows."""
        width, (rows_RH, columns_CW) = sigma_S[:, None, None], self._squared_distances(sigma_S.dtype)
        of_rows = torch.exp(-rows_RH / (2 * width.square()))
        of_columns = torch.exp(-columns_CW / (2 * width.square())) / (width * math.sqrt(2 * math.pi))
        grid = (-1, -1, rows_RH.shape[1], columns_CW.shape[1])
        return (
            of_rows[..., None].expand(grid).flatten(2)[:, :, None],
            of_columns[:, :, None].expand(grid).flatten(2)[:, None],
        )


class _GaussianMask(torch.autograd.Function):
    """The density with its slope; keeps nothing of its size."""

    @staticmethod
    def forward(ctx: Any, sigma_S: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(sigma_S)
        ctx.geometry = geometry
        return geometry.density(sigma_S)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_SQN: Tensor) -> tuple[Tensor | None, ...]:
        (sigma_S,) = ctx.saved_tensors
        return ctx.geometry.slope(sigma_S, g_SQN), None


def locate_regions_and_cells(
    output_size: tuple[int, int],
    grid: tuple[int, int],
    *,
    shape: tuple[int, int] | None = None,
    covered: tuple[float, float] = (1.0, 1.0),
    device: torch.device | str = "cpu",
) -> Geometry:
    """The geometry of an output of ``output_size`` = (height, width) pixels read from (H, W) feature cells.

    There are ⌈height / 8⌉ × ⌈width / 8⌉ regions of 8 × 8 pixels; those at the lower and right edge may reach beyond
    the output. Output and cells cover the same image, whose height is to its width as those of ``shape``; ``None``: of
    the output. A readout that was trained at one shape so finds every place again in an output of another. ``covered``
    is the share of the image's height and width that the cells cover, from the upper left corner.
    """
    height, width = shape or output_size
    extents = height / max(height, width), width / max(height, width)
    region_rows, region_columns = (
        (torch.arange(-(-side // REGION), device=device) + 0.5) * (REGION / side * extent)
        for side, extent in zip(output_size, extents, strict=True)
    )
    cell_rows, cell_columns = (
        (torch.arange(cells, device=device) + 0.5) * (extent * share / cells)
        for cells, extent, share in zip(grid, extents, covered, strict=True)
    )
    return Geometry(
        region_rows=region_rows, region_columns=region_columns, cell_rows=cell_rows, cell_columns=cell_columns
    )


def sinusoidal_codes(rows: Tensor, columns: Tensor) -> Tensor:
    """(len(rows) · len(columns), 8) float32 codes in [-1, 1]: sine and cosine at π and 2π of each coordinate.

    The paper gives no frequencies. With 2π and 4π, opposite edges of an image would have one code.
    """
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    angles = torch.stack([y * math.pi, y * 2 * math.pi, x * math.pi, x * 2 * math.pi], -1).flatten(0, 1)
    return torch.cat([angles.sin(), angles.cos()], -1)


def project_cells(
    readout: Readout,
    features_BHWD: Tensor,
    codes_NC: Tensor,
    projections: Sequence[tuple[nn.LayerNorm, Sequence[nn.Linear]]],
) -> Tensor:
    """(B, N, O) in the dtype of the weights: standardise as ``readout`` does, join the position code, norm, project.

    Equation 1 of the paper, ψ([PE, features]). Each of ``projections`` is a layer norm over [code, features], (8 + D)
    wide, and the linear maps that follow it; their outputs are side by side. What it computes is
    ``linear(norm(cat([code, readout.standardise(features)])))``. The layer norm is affine in a cell's features, with
    two numbers a cell, and so is their standardisation per cell: both come after the product instead of before it. So
    features standardised per cell are never made, those per channel once for all projections, [code, features] never.
    """
    weights, biases = [], []
    for norm, linears in projections:
        weight = torch.cat([linear.weight for linear in linears])
        biases.append(torch.cat([linear.bias for linear in linears]) + weight @ norm.bias)
        weights.append(weight * norm.weight)
    weight_OW, bias_O = torch.cat(weights), torch.cat(biases)
    per_cell = readout.config.standardise == CELL and not readout.config.parts
    given_BHWD = features_BHWD if per_cell else readout.standardise(features_BHWD)
    cells_BND, codes_NC = given_BHWD.flatten(1, 2).to(weight_OW.dtype), codes_NC.to(weight_OW.dtype)
    D, code_width = cells_BND.shape[-1], codes_NC.shape[1]
    for_code, for_features = weight_OW[:, :code_width], weight_OW[:, code_width:]
    with torch.no_grad():
        # A layer norm's moments are several times as fast as var_mean on a CPU; what it makes of the cells is dropped.
        mean_BN1, standardising_BN1 = torch.native_layer_norm(cells_BND, [D], None, None, VARIANCE_FLOOR)[1:]
        if per_cell:
            # Standardised features sum to 0, and their squares to D (to 0 in a cell whose features are all equal).
            sums_BN1, squares_BN1 = torch.zeros(()), D * (1 - VARIANCE_FLOOR * standardising_BN1.square()).clamp(min=0)
        else:
            spread_BN1 = (standardising_BN1.square().reciprocal() - VARIANCE_FLOOR).clamp(min=0)
            sums_BN1, squares_BN1 = D * mean_BN1, D * (spread_BN1 + mean_BN1.square())
        mean_of_all = (codes_NC.sum(-1, keepdim=True) + sums_BN1) / (D + code_width)
        code_squares_N1 = codes_NC.square().sum(-1, keepdim=True)
        variance_BN1 = (squares_BN1 + code_squares_N1) / (D + code_width) - mean_of_all.square()
        norming_BN1 = torch.rsqrt(variance_BN1 + projections[0][0].eps)
        factor_BN1 = norming_BN1 * standardising_BN1 if per_cell else norming_BN1
    products_BNO = cells_BND @ for_features.T
    if per_cell:
        products_BNO = products_BNO - mean_BN1 * for_features.sum(1)
    codes = codes_NC @ for_code.T - mean_of_all * weight_OW.sum(1)
    return factor_BN1 * products_BNO + norming_BN1 * codes + bias_O


class RegionReadout(StackedReadout):
    """A readout that brings cells to the grid of output regions, and regions to pixels by DeAP's MLP and CNN.

    ``norm`` is over [code of a cell's position, its standardised features]. A subclass says in :meth:`project` and
    :meth:`mix` how cells become mixtures on the grid of regions, and adds the layers for it before or after those of
    :meth:`add_decoder`: the order decides which random numbers they start with, and that of the saved state.
    """

    sizes = SIZES

    def __init__(self, config: ReadoutConfig) -> None:
        super().__init__(config)
        self.norm = nn.LayerNorm(config.feature_dim + CODE_WIDTH)
        self.options = {
            "code_dim": config.code_dim,
            "position_code": "sin, cos at pi and 2 pi",
            "features": self.features_option,
            "region": REGION,
            "cnn_layout": "entry convolution, 3 blocks, skip",
            "cnn_width": config.width,
        }

    def add_decoder(self) -> None:
        """Add MLP and CNN; every subclass calls it once."""
        code = self.config.code_dim
        self.ffn = nn.Sequential(nn.Linear(2 * code, 4 * code), nn.GELU(), nn.Linear(4 * code, code))
        self.cnn = UpsamplingCNN(code, self.config.width, self.config.out_channels)

    @classmethod
    @abstractmethod
    def project(cls, members: Sequence[Self], features_BHWD: Tensor, geometry: Geometry) -> list[Tensor]:
        """What each member takes from the features, the work that all share: what :meth:`mix` is given, or gives."""

    @classmethod
    def mix(cls, members: Sequence[Self], projected: Sequence[Tensor], geometry: Geometry) -> list[Tensor]:
        """Each member's mixtures (B, R, C, 2D), from what :meth:`project` gave it."""
        return list(projected)

    def at_size(self, output_BOhw: Tensor, output_size: tuple[int, int]) -> Tensor:
        """The output at the size asked for: regions are 8 × 8 pixels, and what reaches beyond the output is cropped."""
        height, width = output_size
        return output_BOhw[:, :, :height, :width]

    @classmethod
    def forward_stacked(
        cls,
        members: Sequence[Self],
        features_BHWD: Tensor,
        output_size: tuple[int, int],
        guidance: Tensor | None = None,
    ) -> list[Tensor]:
        geometry = members[0].locate(features_BHWD, output_size)
        projected = cls.project(members, features_BHWD, geometry)
        return cls.decode(members, projected, geometry, output_size)

    @classmethod
    def forward_in_turn(
        cls,
        members: Sequence[Self],
        features_BHWD: Tensor,
        output_size: tuple[int, int],
        guidance: Tensor | None = None,
    ) -> Iterator[list[Tensor]]:
        geometry = members[0].locate(features_BHWD, output_size)
        projected = cls.project(members, features_BHWD, geometry)
        leaves = [one.detach().requires_grad_(one.requires_grad) for one in projected]
        # On an accelerator kernels are as many members' as can be.
        on_cpu = features_BHWD.device.type == "cpu"
        for part in run_together([member.cnn for member in members]) if on_cpu else [slice(None)]:
            yield cls.decode(members[part], leaves[part], geometry, output_size)
        used = [(one, leaf.grad) for one, leaf in zip(projected, leaves, strict=True) if leaf.grad is not None]
        if used:
            torch.autograd.backward([one for one, _ in used], [gradient for _, gradient in used])

    def locate(self, features_BHWD: Tensor, output_size: tuple[int, int]) -> Geometry:
        """Where the regions of an output and the cells of these features lie."""
        return locate_regions_and_cells(
            output_size,
            (features_BHWD.shape[1], features_BHWD.shape[2]),
            shape=self.trained_size,
            covered=self.config.covered,
            device=features_BHWD.device,
        )

    @classmethod
    def decode(
        cls, members: Sequence[Self], projected: Sequence[Tensor], geometry: Geometry, output_size: tuple[int, int]
    ) -> list[Tensor]:
        """Each member's output from what :meth:`project` gave it."""
        tokens_BDRC = [
            member.ffn(mixed_BRCV).permute(0, 3, 1, 2)
            for member, mixed_BRCV in zip(members, cls.mix(members, projected, geometry), strict=True)
        ]
        outputs = run_side_by_side([member.cnn for member in members], tokens_BDRC)
        return [
            member.at_size(output_BOhw.float(), output_size)
            for member, output_BOhw in zip(members, outputs, strict=True)
        ]

    def set_output_bias(self, values: Tensor) -> None:
        """Start each channel's output at ``values`` (D_out,), in the final convolution's bias; the skip's becomes 0."""
        self.cnn.set_output_bias(values)
