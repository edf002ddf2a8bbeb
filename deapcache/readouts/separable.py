"""Attention from a grid of queries whose logits are sums over its axes, several times as fast on a CPU.

A query is a linear map of the sines and cosines of its row and of its column, so it is a sum a_r + b_c, and its logit
with cell j is a_r·k_j + b_c·k_j + M. The exponential of a sum is a product: for each image, exponentials are taken of
(rows + columns) · cells numbers instead of rows · columns · cells, and of the bias once for all images. What is left at
that size are multiplications, and the gradients of queries and keys are sums over rows and columns.

Shape legend: B batch, S heads, R and C rows and columns of the query grid, Q = R·C, N cells, K width of a key, V of a
value, W = V + 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deapcache.readouts.attention import attend, largest_block

_CONTIGUOUS = torch.contiguous_format

_SMALLEST, _LARGEST = 1e-30, 1e30
"""Sums of unnormalised probabilities beyond them may have lost terms to underflow or overflowed: then the general
attention is computed instead."""


def attend_from_grid(
    rows_SRK: Tensor, columns_SCK: Tensor, bias_SQN: Tensor | None, k_BSNK: Tensor, v_BSNV: Tensor
) -> Tensor:
    """softmax((rows + columns) kᵀ + bias) v, for every image with the same queries and bias.

    Equation 2 of the paper; scale queries by 1/√K before. Equal to :func:`deapcache.readouts.attention.attend` of the
    sums, up to rounding. It is that function where logits differ so much that products would underflow, and where not
    even one head fits into a block: there the exponentials are no longer what takes the time.

    Parameters
    ----------
    rows_SRK, columns_SCK
        Parts of the queries: query (r, c) of a head is ``rows[r] + columns[c]``. float32 or float64, as all five.
    bias_SQN
        Added to the logits, queries row by row; ``None``: nothing.
    k_BSNK, v_BSNV
        Keys and values.

    Returns
    -------
    Tensor
        (B, S, Q, V). Differentiable once, in all five arguments.
    """
    if suits(rows_SRK, columns_SCK, k_BSNK.shape[2]):
        mixed_BSQV, smallest, largest = _Separable.apply(rows_SRK, columns_SCK, bias_SQN, k_BSNK, v_BSNV)
        if float(smallest) > _SMALLEST and float(largest) < _LARGEST:
            found: Tensor = mixed_BSQV
            return found
    return attend(sum_queries(rows_SRK, columns_SCK), bias_SQN, k_BSNK, v_BSNV)


def suits(rows_SRK: Tensor, columns_SCK: Tensor, cells: int) -> bool:
    """Whether products are the faster way: on a CPU, where a head fits into a block."""
    head = rows_SRK.shape[1] * columns_SCK.shape[1] * cells
    return rows_SRK.device.type == "cpu" and head <= largest_block(rows_SRK.device)


def sum_queries(rows_SRK: Tensor, columns_SCK: Tensor) -> Tensor:
    """(S, R·C, K): the queries, from their parts by row and by column."""
    return (rows_SRK[:, :, None] + columns_SCK[:, None]).flatten(1, 2)


class _Separable(torch.autograd.Function):
    """Forward and backward, block by block; also gives the extreme sums of a query's unnormalised probabilities."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, columns: Tensor, bias: Tensor | None, k_BSNK: Tensor, v_BSNV: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        of_bias = None if bias is None else bias.exp()
        factors = _Factors.of(rows, columns, of_bias, k_BSNK)
        B, S, _, V = v_BSNV.shape
        Q = factors.rows.shape[2] * factors.columns.shape[2]
        v1T_BSWN = _with_ones(v_BSNV)
        mixedT_BSWQ = v_BSNV.new_empty(B, S, V + 1, Q)
        buffer = factors.new_buffer()
        for block in factors.blocks():
            p = factors.products(block, buffer)
            # Cells and queries along the last axis of every operand: products of that shape are several times as fast.
            mixedT = torch.bmm(block.of(v1T_BSWN), p.transpose(1, 2))
            mixedT_BSWQ[block.images, block.heads] = mixedT.unflatten(0, block.shape[:2])
        mixed_BSQW = mixedT_BSWQ.transpose(2, 3)
        sums_BSQ1 = mixed_BSQW[..., V:]
        o_BSQV = mixed_BSQW[..., :V] / sums_BSQ1
        ctx.save_for_backward(rows, columns, of_bias, k_BSNK, v_BSNV, o_BSQV, sums_BSQ1)
        extremes = sums_BSQ1.aminmax()
        ctx.mark_non_differentiable(*extremes)
        return o_BSQV, *extremes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_BSQV: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        rows, columns, of_bias, k_BSNK, v_BSNV, o_BSQV, sums_BSQ1 = ctx.saved_tensors
        with torch.autocast(g_BSQV.device.type, enabled=False):
            factors = _Factors.of(rows, columns, of_bias, k_BSNK)
            # The softmax takes from each row of dP its mean under P, which is Σ_v g o: as one more column of g, with
            # ones beside v, it comes with the product that makes dP. The factors' sums go into g as well.
            means_BSQ1 = (g_BSQV * o_BSQV).sum(-1, keepdim=True)
            g_BSQW = (torch.cat([g_BSQV, -means_BSQ1], -1) / sums_BSQ1).contiguous()
            gT_BSVQ = g_BSQW[..., :-1].transpose(2, 3).contiguous()
            v1T_BSWN = _with_ones(v_BSNV)
            sums = _Sums.unfilled(factors, of_bias if ctx.needs_input_grad[2] else None, v_BSNV)
            p_buffer, s_buffer = factors.new_buffer(), factors.new_buffer()
            for block in factors.blocks():
                p = factors.products(block, p_buffer)
                sums.add_values(block, block.of(gT_BSVQ), p)
                ds = torch.bmm(block.of(g_BSQW), block.of(v1T_BSWN), out=block.view(s_buffer)).mul_(p)
                sums.add_logits(block, ds)
        by_row, by_column = sums.by_row, sums.by_column
        drows = torch.einsum("bsrn,bsnk->srk", by_row, k_BSNK)
        dcolumns = torch.einsum("bscn,bsnk->sck", by_column, k_BSNK)
        dk = by_row.transpose(2, 3) @ rows + by_column.transpose(2, 3) @ columns
        return drows, dcolumns, sums.dbias, dk, sums.dvalues.transpose(2, 3)


@dataclass(frozen=True)
class _Block:
    """Some images, or some heads of one, with the whole query grid."""

    images: slice
    heads: slice
    shape: tuple[int, int, int, int, int]
    """(images, heads, rows, columns, cells)."""

    def view(self, buffer: Tensor) -> Tensor:
        """The start of ``buffer`` as (images · heads, queries, cells)."""
        images, heads, rows, columns, cells = self.shape
        return buffer[: images * heads * rows * columns * cells].view(images * heads, rows * columns, cells)

    def of(self, values_BSXY: Tensor) -> Tensor:
        """The block's part of (B, S, X, Y), as (images · heads, X, Y)."""
        return values_BSXY[self.images, self.heads].flatten(0, 1)


@dataclass(frozen=True)
class _Factors:
    """Exponentials whose product is a query's probabilities up to a factor; those of rows and columns are at most 1."""

    rows: Tensor
    """(B, S, R, N)"""
    columns: Tensor
    """(B, S, C, N)"""
    bias: Tensor | None
    """(S, R, C, N)"""

    @classmethod
    def of(cls, rows: Tensor, columns: Tensor, of_bias: Tensor | None, k_BSNK: Tensor) -> _Factors:
        """The factors of these queries and keys, and of the bias, (S, Q, N)."""
        kT_BSKN = k_BSNK.transpose(2, 3)
        grid = (rows.shape[1], columns.shape[1])
        of_grid = None if of_bias is None else of_bias.unflatten(1, grid)
        return cls(_exponential(rows @ kT_BSKN), _exponential(columns @ kT_BSKN), of_grid)

    def new_buffer(self) -> Tensor:
        """Room for the largest block."""
        images, heads = self._block_size()
        (_, _, R, N), C = self.rows.shape, self.columns.shape[2]
        return self.rows.new_empty(images * heads * R * C * N)

    def blocks(self) -> Iterator[_Block]:
        """All images and heads; images come innermost, so that a part of the bias stays in cache."""
        (B, S, R, N), C = self.rows.shape, self.columns.shape[2]
        images, heads = self._block_size()
        for s, b in product(_slices(S, heads), _slices(B, images)):
            yield _Block(b, s, (b.stop - b.start, s.stop - s.start, R, C, N))

    def products(self, block: _Block, buffer: Tensor) -> Tensor:
        """Unnormalised probabilities of a block, (images · heads, queries, cells), in ``buffer``."""
        p = block.view(buffer)
        whole = p.view(block.shape)
        rows, columns = self.rows[block.images, block.heads, :, None], self.columns[block.images, block.heads, None]
        if self.bias is None:
            torch.mul(columns, rows, out=whole)
        else:
            torch.mul(self.bias[block.heads], columns, out=whole).mul_(rows)
        return p

    def _block_size(self) -> tuple[int, int]:
        """(images, heads) of the largest block: whole images if one fits, otherwise equal parts of an image's heads."""
        (B, S, R, N), C = self.rows.shape, self.columns.shape[2]
        head = R * C * N
        parts = -(-S * head // largest_block(self.rows.device))
        return max(1, min(B, largest_block(self.rows.device) // (S * head))), -(-S // min(parts, S))


def _slices(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


@dataclass(frozen=True)
class _Sums:
    """Sums of gradients, filled in block by block."""

    by_row: Tensor
    """(B, S, R, N): of the logits' gradients over the columns of the grid."""
    by_column: Tensor
    """(B, S, C, N): of the logits' gradients over its rows."""
    dbias: Tensor | None
    dvalues: Tensor
    """(B, S, V, N)"""

    @classmethod
    def unfilled(cls, factors: _Factors, like_bias: Tensor | None, values: Tensor) -> _Sums:
        """Room; ``like_bias`` where the bias needs a gradient."""
        dbias = None if like_bias is None else torch.empty_like(like_bias)
        by_row, by_column = torch.empty_like(factors.rows), torch.empty_like(factors.columns)
        return cls(by_row, by_column, dbias, torch.empty_like(values.transpose(2, 3), memory_format=_CONTIGUOUS))

    def add_values(self, block: _Block, gT: Tensor, p: Tensor) -> None:
        """What the values get through the block's probabilities."""
        self.dvalues[block.images, block.heads] = torch.bmm(gT, p).unflatten(0, block.shape[:2])

    def add_logits(self, block: _Block, ds: Tensor) -> None:
        """What queries, keys and bias get from the gradient of the block's logits."""
        images = block.shape[0]
        whole = ds.view(block.shape)
        torch.sum(whole, 3, out=self.by_row[block.images, block.heads])
        torch.sum(whole, 2, out=self.by_column[block.images, block.heads])
        if self.dbias is not None:
            per_image, dbias = ds.unflatten(0, block.shape[:2]), self.dbias[block.heads]
            # Summing a single image would copy it.
            of_block = per_image[0] if images == 1 else per_image.sum(0)
            if block.images.start == 0:
                dbias.copy_(of_block)
            else:
                dbias.add_(of_block)


def _with_ones(v_BSNV: Tensor) -> Tensor:
    """(B, S, W, N): the values and, as one more, ones, whose mean is the sum of the probabilities."""
    return torch.cat([v_BSNV, torch.ones_like(v_BSNV[..., :1])], -1).transpose(2, 3).contiguous()


def _exponential(logits: Tensor) -> Tensor:
    """exp of the logits less their largest over the cells, which a softmax does not see; at most 1."""
    return (logits - logits.amax(-1, keepdim=True)).exp_()
