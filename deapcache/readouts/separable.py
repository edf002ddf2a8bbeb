"""Attention from a grid of queries whose logits are sums over its axes, several times as fast on a CPU.

A query is a linear map of the sines and cosines of its row and of its column, so it is a sum a_r + b_c, and its logit
with cell j is a_r·k_j + b_c·k_j + M. The exponential of a sum is a product: for each image, exponentials are taken of
(rows + columns) · cells numbers instead of rows · columns · cells, and of the bias once for all images. What is left at
that size are multiplications, and the gradients of queries and keys are sums over rows and columns.

Shape legend: B batch, S heads, R and C rows and columns of the query grid, Q = R·C, N cells, K width of a key, V of a
value, W = V + 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deapcache.readouts.attention import attend
from deapcache.readouts.base import largest_block

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
    """Forward and backward, block by block; also gives the extreme sums of a query's unnormalised probabilities.

    Cells and queries run along the last axis of every operand (T in a name: of a transposed one): products of that
    shape are several times as fast. Images and heads are one axis, M = B·S, of which a block is a part.
    """

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, columns: Tensor, bias: Tensor | None, k_BSNK: Tensor, v_BSNV: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        of_bias = None if bias is None else bias.exp()
        kT_BSKN = k_BSNK.transpose(2, 3)
        of_rows, of_columns = _exponential(rows @ kT_BSKN), _exponential(columns @ kT_BSKN)
        factors = _Factors.of(of_rows, of_columns, of_bias)
        B, S, N, V = v_BSNV.shape
        v1T_MWN = torch.cat([v_BSNV, torch.ones_like(v_BSNV[..., :1])], -1).transpose(2, 3).reshape(B * S, V + 1, N)
        mixedT_MWQ = v1T_MWN.new_empty(B * S, V + 1, rows.shape[1] * columns.shape[1])
        buffer = factors.new_buffer()
        for part, heads, _ in factors.blocks():
            p = factors.products(buffer, part, heads)
            torch.bmm(v1T_MWN[part], p.transpose(1, 2), out=mixedT_MWQ[part])
        sums_M1Q = mixedT_MWQ[:, V:].clone()
        oT_MVQ = mixedT_MWQ[:, :V] / sums_M1Q
        ctx.save_for_backward(rows, columns, of_bias, of_rows, of_columns, k_BSNK, v1T_MWN, oT_MVQ, sums_M1Q)
        extremes = sums_M1Q.aminmax()
        ctx.mark_non_differentiable(*extremes)
        return oT_MVQ.view(B, S, V, -1).transpose(2, 3), *extremes

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_BSQV: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        rows, columns, of_bias, of_rows, of_columns, k_BSNK, v1T_MWN, oT_MVQ, sums_M1Q = ctx.saved_tensors
        with torch.autocast(g_BSQV.device.type, enabled=False):
            factors = _Factors.of(of_rows, of_columns, of_bias)
            # The softmax takes from each row of dP its mean under P, which is Σ_v g o: as one more column of g, with
            # ones beside v, it comes with the product that makes dP. The factors' sums go into g as well.
            gT_MVQ = g_BSQV.transpose(2, 3).flatten(0, 1)
            g1T_MWQ = torch.cat([gT_MVQ, -(gT_MVQ * oT_MVQ).sum(1, keepdim=True)], 1).div_(sums_M1Q)
            dbias = torch.empty_like(of_bias) if of_bias is not None and ctx.needs_input_grad[2] else None
            # sums of the logits' gradients over the columns of the grid, (B, S, R, N), and over its rows
            by_row, by_column = torch.empty_like(of_rows), torch.empty_like(of_columns)
            by_row_MRN, by_column_MCN = by_row.flatten(0, 1), by_column.flatten(0, 1)
            dvT_MVN = torch.empty_like(v1T_MWN[:, :-1], memory_format=torch.contiguous_format)
            p_buffer, s_buffer = factors.new_buffer(), factors.new_buffer()
            for part, heads, is_first in factors.blocks():
                p, ds, g1T = factors.products(p_buffer, part, heads), factors.in_block(s_buffer, part), g1T_MWQ[part]
                torch.bmm(g1T[:, :-1], p, out=dvT_MVN[part])
                torch.bmm(g1T.transpose(1, 2), v1T_MWN[part], out=ds).mul_(p)
                whole = ds.view(-1, *factors.head)
                torch.sum(whole, 2, out=by_row_MRN[part])
                torch.sum(whole, 1, out=by_column_MCN[part])
                if dbias is not None:
                    # Summing a single image would copy it.
                    per_image = ds.view(-1, heads.stop - heads.start, *ds.shape[1:])
                    of_images = per_image[0] if len(per_image) == 1 else per_image.sum(0)
                    if is_first:
                        dbias[heads] = of_images
                    else:
                        dbias[heads].add_(of_images)
            kT_BSKN = k_BSNK.transpose(2, 3).contiguous()
            dkT_BSKN = rows.transpose(1, 2) @ by_row + columns.transpose(1, 2) @ by_column
            # summed over the images afterwards: a product over both would copy
            drowsT, dcolumnsT = ((kT_BSKN @ by_line.transpose(2, 3)).sum(0) for by_line in (by_row, by_column))
        dv_BSNV = dvT_MVN.unflatten(0, g_BSQV.shape[:2]).transpose(2, 3)
        return drowsT.transpose(1, 2), dcolumnsT.transpose(1, 2), dbias, dkT_BSKN.transpose(2, 3), dv_BSNV


@dataclass(frozen=True)
class _Factors:
    """Exponentials whose product is a query's probabilities up to a factor; those of rows and columns are at most 1."""

    rows: Tensor
    """(B · S, R, 1, N)"""
    columns: Tensor
    """(B, S, 1, C, N)"""
    bias: Tensor | None
    """(S, R, C, N)"""

    @classmethod
    def of(cls, rows_BSRN: Tensor, columns_BSCN: Tensor, bias_SQN: Tensor | None) -> _Factors:
        """The same, in the shapes in which they are multiplied."""
        grid = (rows_BSRN.shape[2], columns_BSCN.shape[2])
        of_grid = None if bias_SQN is None else bias_SQN.unflatten(1, grid)
        return cls(rows_BSRN.flatten(0, 1)[:, :, None], columns_BSCN[:, :, None], of_grid)

    @property
    def head(self) -> tuple[int, int, int]:
        """Rows, columns and cells: what a head has a number for."""
        return self.rows.shape[1], self.columns.shape[3], self.rows.shape[3]

    def new_buffer(self) -> Tensor:
        """Room for the largest block."""
        return self.rows.new_empty(math.prod(self._block_size()) * math.prod(self.head))

    def blocks(self) -> Iterator[tuple[slice, slice, bool]]:
        """Some images, or some heads of one: part of images · heads, the heads, and whether the first image is there.

        Images come innermost, so that a part of the bias stays in cache.
        """
        B, S = self.columns.shape[:2]
        images, heads = self._block_size()
        for s, b in product(range(0, S, heads), range(0, B, images)):
            some, wide = min(images, B - b), min(heads, S - s)
            # several images come with all heads
            yield slice(b * S + s, b * S + s + some * wide), slice(s, s + wide), b == 0

    def in_block(self, buffer: Tensor, part: slice) -> Tensor:
        """The start of ``buffer`` as (images · heads, queries, cells)."""
        (R, C, N), size = self.head, part.stop - part.start
        return buffer[: size * R * C * N].view(size, R * C, N)

    def products(self, buffer: Tensor, part: slice, heads: slice) -> Tensor:
        """Unnormalised probabilities of a block, (images · heads, queries, cells), in ``buffer``."""
        p, rows, columns = self.in_block(buffer, part), self.rows[part], self.columns.flatten(0, 1)[part]
        if self.bias is None:
            torch.mul(columns, rows, out=p.view(-1, *self.head))
        else:
            bias = self.bias[heads]
            torch.mul(bias, columns.unflatten(0, (-1, len(bias))), out=p.view(-1, *bias.shape))
            p.view(-1, *self.head).mul_(rows)
        return p

    def _block_size(self) -> tuple[int, int]:
        """(images, heads) of the largest block: whole images if one fits, otherwise equal parts of an image's heads."""
        B, S = self.columns.shape[:2]
        head, largest = math.prod(self.head), largest_block(self.rows.device)
        parts = -(-S * head // largest)
        return max(1, min(B, largest // (S * head))), -(-S // min(parts, S))


def _exponential(logits: Tensor) -> Tensor:
    """exp of the logits less their largest over the cells, which a softmax does not see; at most 1."""
    return (logits - logits.amax(-1, keepdim=True)).exp_()
