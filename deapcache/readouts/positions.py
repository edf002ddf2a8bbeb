"""Where output regions and feature cells lie, and what follows from that: codes and Gaussian masks.

Positions are in units of the longer side of the output: a square image is the unit square, a 216 × 288 image spans
0.75 × 1, and σ means the same distance along both axes. A feature grid always covers the whole image, whatever its
shape, because base images are squashed to the backbone's size. Where base images are crops, "the image" is the crop.

Shape legend: R, C rows and columns of output regions; H, W rows and columns of feature cells; S heads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

REGION = 8
"""Side in output pixels of the square region that one query answers for (section 3)."""

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

    def region_codes(self) -> Tensor:
        """(R·C, 8) code of every region, row by row."""
        return sinusoidal_codes(self.region_rows, self.region_columns)

    def axis_codes(self) -> tuple[Tensor, Tensor]:
        """(R, 8) and (C, 8): a region's code is the sum of its row's and its column's, zeros where the other's are."""
        rows, columns = self.region_rows, self.region_columns
        of_rows = sinusoidal_codes(rows, columns[:1]) * _ROW_ENTRIES.to(rows.device)
        of_columns = sinusoidal_codes(rows[:1], columns) * (1 - _ROW_ENTRIES.to(rows.device))
        return of_rows, of_columns

    def cell_codes(self) -> Tensor:
        """(H·W, 8) code of every feature cell, row by row."""
        return sinusoidal_codes(self.cell_rows, self.cell_columns)

    def squared_distances(self, dtype: torch.dtype) -> SquaredDistances:
        """Of regions and cells, along each axis."""
        rows = (self.region_rows[:, None] - self.cell_rows).square()
        columns = (self.region_columns[:, None] - self.cell_columns).square()
        return SquaredDistances(rows.to(dtype), columns.to(dtype))

    def gaussian_mask(self, sigma_S: Tensor) -> Tensor:
        """(S, R·C, H·W) normal density of the distance of region and cell, one width a head.

        exp(−d² / 2σ²) / (σ √(2π)), as section 3 has it: a bump that is added to the logits, not a log-Gaussian.
        Differentiable once, in the widths.
        """
        mask_SQN: Tensor = _GaussianMask.apply(sigma_S, self.squared_distances(sigma_S.dtype))
        return mask_SQN


@dataclass(frozen=True)
class SquaredDistances:
    """Of output regions and feature cells along the axes; those in the plane are their sums."""

    rows: Tensor
    """(R, H)"""
    columns: Tensor
    """(C, W)"""

    def density(self, sigma_S: Tensor) -> Tensor:
        """(S, R·C, H·W) values of :meth:`Geometry.gaussian_mask`, without history.

        The Gaussian of a distance is the product of those along the axes, so that exponentials are taken of
        R·H + C·W numbers only.
        """
        of_rows, of_columns = self._factors(sigma_S)
        return (of_rows * of_columns).flatten(1, 2)

    def slope(self, sigma_S: Tensor, g_SQN: Tensor) -> Tensor:
        """(S,): what the widths get where the densities get ``g_SQN``."""
        of_rows, of_columns = self._factors(sigma_S)
        # The density changes with σ by its own value times d² / σ³ − 1 / σ, and d² is a sum over the axes.
        weighted_SRCN = (g_SQN.view(-1, len(self.rows), len(self.columns), g_SQN.shape[-1]) * of_rows).mul_(of_columns)
        by_row, by_column = weighted_SRCN.sum(2), weighted_SRCN.sum(1)
        row_squares, column_squares = self._by_cell()
        squares = (by_row * row_squares).sum((1, 2)) + (by_column * column_squares).sum((1, 2))
        return squares / sigma_S**3 - by_row.sum((1, 2)) / sigma_S

    def _by_cell(self) -> tuple[Tensor, Tensor]:
        """(R, N) and (C, N): of every region row and every region column, its square for each of the N = H·W cells."""
        rows_RHW = self.rows[:, :, None].expand(-1, -1, self.columns.shape[1])
        columns_CHW = self.columns[:, None].expand(-1, self.rows.shape[1], -1)
        return rows_RHW.flatten(1), columns_CHW.flatten(1)

    def _factors(self, sigma_S: Tensor) -> tuple[Tensor, Tensor]:
        """(S, R, 1, N) and (S, 1, C, N): with cells along one axis, products run over long contiguous rows."""
        width = sigma_S[:, None, None]
        of_rows = torch.exp(-self.rows / (2 * width.square()))
        of_columns = torch.exp(-self.columns / (2 * width.square())) / (width * math.sqrt(2 * math.pi))
        grid = (-1, -1, self.rows.shape[1], self.columns.shape[1])
        return (
            of_rows[..., None].expand(grid).flatten(2)[:, :, None],
            of_columns[:, :, None].expand(grid).flatten(2)[:, None],
        )


class _GaussianMask(torch.autograd.Function):
    """The density with its slope; keeps nothing of its size."""

    @staticmethod
    def forward(ctx: Any, sigma_S: Tensor, distances: SquaredDistances) -> Tensor:
        ctx.save_for_backward(sigma_S)
        ctx.distances = distances
        return distances.density(sigma_S)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_SQN: Tensor) -> tuple[Tensor | None, ...]:
        (sigma_S,) = ctx.saved_tensors
        return ctx.distances.slope(sigma_S, g_SQN), None


def locate_regions_and_cells(
    output_size: tuple[int, int],
    grid: tuple[int, int],
    *,
    shape: tuple[int, int] | None = None,
    device: torch.device | str = "cpu",
) -> Geometry:
    """The geometry of an output of ``output_size`` = (height, width) pixels read from (H, W) feature cells.

    There are ⌈height / 8⌉ × ⌈width / 8⌉ regions of 8 × 8 pixels; those at the lower and right edge may reach beyond
    the output. Output and cells cover the same image, whose height is to its width as those of ``shape``; ``None``: of
    the output. A readout that was trained at one shape so finds every place again in an output of another.
    """
    height, width = shape or output_size
    extents = height / max(height, width), width / max(height, width)
    region_rows, region_columns = (
        (torch.arange(-(-side // REGION), device=device) + 0.5) * (REGION / side * extent)
        for side, extent in zip(output_size, extents, strict=True)
    )
    cell_rows, cell_columns = (
        (torch.arange(cells, device=device) + 0.5) * (extent / cells)
        for cells, extent in zip(grid, extents, strict=True)
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
