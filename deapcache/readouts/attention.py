"""Cross-attention with a learned bias, in blocks that are computed, used and dropped.

Shape legend: B batch, H heads, Q queries, N cells, K width of a key, V width of a value.

Queries and bias don't depend on the image, so the (H, Q, N) bias is shared by the batch. The attention itself differs
by image and would take B·H·Q·N numbers (103 MB an image at 64×64 cells), several times over for the backward pass. Here
a block of it is made in one reused buffer, in the forward pass and again in the backward pass, and nothing of that size
is ever kept. On a CPU a block is small enough for the cache, which is what makes this faster than the plain formula.
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

from deapcache.readouts.base import largest_block
from deapcache.readouts.regions import Geometry


def attend(q_HQK: Tensor, bias_HQN: Tensor | None, k_BHNK: Tensor, v_BHNV: Tensor) -> Tensor:
    """softmax(q kᵀ + bias) v, for every image with the same queries and bias.

    Equation 2 of the paper; scale ``q`` by 1/√K before.

    Parameters
    ----------
    q_HQK
        Queries (heads, queries, K), float32 or float64. All four tensors share dtype and device.
    bias_HQN
        Added to the logits: (heads, queries, cells), or ``None``.
    k_BHNK, v_BHNV
        Keys and values (batch, heads, cells, K or V).

    Returns
    -------
    Tensor
        (batch, heads, queries, V), a view of (batch, heads, V, queries). Differentiable once, in all four arguments.
    """
    # Cells and queries run along the last axis of every operand: products of that shape are six times as fast.
    kT_BHKN, vT_BHVN = k_BHNK.transpose(2, 3).contiguous(), v_BHNV.transpose(2, 3).contiguous()
    oT_BHVQ: Tensor = _Attention.apply(None, q_HQK, bias_HQN, kT_BHKN, vT_BHVN)
    return oT_BHVQ.transpose(2, 3)


@dataclass(frozen=True)
class Inputs:
    """What attention is computed from, and how it is cut into blocks."""

    q: Tensor
    """(H, Q, K)"""
    bias: Tensor | None
    """(H, Q, N)"""
    keys: Tensor
    """(B, H, K, N)"""
    values: Tensor
    """(B, H, V, N)"""

    def blocks(self) -> Iterator[tuple[slice, slice]]:
        """All images and queries; the outer loop is over queries, so that a part of the bias stays in cache."""
        B, Q = len(self.keys), self.q.shape[1]
        images, queries = self.block_size()
        for q, b in product(range(0, Q, queries), range(0, B, images)):
            yield slice(b, min(b + images, B)), slice(q, min(q + queries, Q))

    def block_size(self) -> tuple[int, int]:
        """(images, queries) of the largest block: whole images if one fits, otherwise equal parts of one image."""
        (H, Q, _), (B, _, _, N) = self.q.shape, self.keys.shape
        limit = largest_block(self.q.device)
        parts = math.ceil(H * Q * N / limit)
        return max(1, min(B, limit // (H * Q * N))), math.ceil(Q / min(parts, Q))

    def new_buffer(self) -> Tensor:
        """Room for the largest block."""
        images, queries = self.block_size()
        return self.q.new_empty(images * self.q.shape[0] * queries * self.keys.shape[3])

    def in_block(self, buffer: Tensor, images: slice, queries: slice) -> Tensor:
        """The start of ``buffer`` as (images · heads, queries, cells)."""
        rows, columns = (images.stop - images.start) * len(self.q), queries.stop - queries.start
        return buffer[: rows * columns * self.keys.shape[3]].view(rows, columns, -1)

    def probabilities(self, buffer: Tensor, images: slice, queries: slice) -> Tensor:
        """softmax(q kᵀ + bias) of one block, (images · heads, queries, cells), in ``buffer``."""
        p, kT_BHKN = self.in_block(buffer, images, queries), self.keys[images]
        q = self.q[:, queries].expand(len(kT_BHKN), -1, -1, -1).flatten(0, 1)
        torch.bmm(q, kT_BHKN.flatten(0, 1), out=p)
        if self.bias is not None:
            p.unflatten(0, kT_BHKN.shape[:2]).add_(self.bias[:, queries])
        return torch.softmax(p, -1, out=p)


def average(inputs: Inputs) -> Tensor:
    """(B, H, V, Q): the values under softmax(q k + bias), block by block."""
    buffer = inputs.new_buffer()
    B, H, V, _ = inputs.values.shape
    oT_BHVQ = inputs.q.new_empty(B, H, V, inputs.q.shape[1])
    for images, queries in inputs.blocks():
        p = inputs.probabilities(buffer, images, queries)
        oT = torch.bmm(inputs.values[images].flatten(0, 1), p.transpose(1, 2))
        oT_BHVQ[images, :, :, queries] = oT.unflatten(0, (-1, H))
    return oT_BHVQ


def gradients_of(
    inputs: Inputs, oT_BHVQ: Tensor, gT_BHVQ: Tensor, *, with_bias: bool
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """What the inputs of :func:`average` get, in their order, where its result ``oT_BHVQ`` gets ``gT_BHVQ``."""
    with torch.autocast(gT_BHVQ.device.type, enabled=False):
        dq, dkeys, dvalues = (torch.zeros_like(tensor) for tensor in (inputs.q, inputs.keys, inputs.values))
        dbias = torch.zeros_like(inputs.bias) if with_bias and inputs.bias is not None else None
        p_buffer, s_buffer = inputs.new_buffer(), inputs.new_buffer()
        # The softmax takes from each row of dP its mean under P, which is Σ_v g o: as one more column of g, with a
        # row of ones under v, it comes with the product that makes dP.
        means_B1Q = (gT_BHVQ * oT_BHVQ).sum(2, keepdim=True)
        g1_BHQW = torch.cat([gT_BHVQ, -means_B1Q], 2).transpose(2, 3).contiguous()
        v1T_BHWN = torch.cat([inputs.values, torch.ones_like(inputs.values[:, :, :1])], 2)
        for images, queries in inputs.blocks():
            p, ds = inputs.probabilities(p_buffer, images, queries), inputs.in_block(s_buffer, images, queries)
            leading = inputs.keys[images].shape[:2]
            gT = gT_BHVQ[images, :, :, queries].flatten(0, 1)
            dvalues[images] += torch.bmm(gT, p).unflatten(0, leading)
            g1, v1T = g1_BHQW[images, :, queries], v1T_BHWN[images]
            torch.bmm(g1.flatten(0, 1), v1T.flatten(0, 1), out=ds)
            ds.mul_(p)  # what the logits get, and through them bias, keys and queries
            if dbias is not None:
                per_image = ds.unflatten(0, leading)
                # Summing a single image would copy it.
                dbias[:, queries] += per_image[0] if leading[0] == 1 else per_image.sum(0)
            qT = inputs.q[:, queries].transpose(1, 2).expand(leading[0], -1, -1, -1).flatten(0, 1)
            dkeys[images] += torch.bmm(qT, ds).unflatten(0, leading)
            dqT = torch.bmm(inputs.keys[images].flatten(0, 1), ds.transpose(1, 2)).unflatten(0, leading).sum(0)
            dq[:, queries] += dqT.transpose(1, 2)
    return dq, dbias, dkeys, dvalues


def attend_masked(q_HQK: Tensor, sigma_H: Tensor, geometry: Geometry, k_BHNK: Tensor, v_BHNV: Tensor) -> Tensor:
    """softmax(q kᵀ + mask of σ) v, for every image with the same queries and widths; (B, H, Q, V).

    Equal to :func:`attend` with ``geometry.density(sigma)`` as bias. Differentiable once, in all four tensors. The
    masks of all heads would take heads · queries · cells numbers, 103 MB at 64×64 cells, and their gradient as much
    again. Made anew for the backward pass, a group of heads at a time, they take what one group does, and are never
    kept.
    """
    kT_BHKN, vT_BHVN = k_BHNK.transpose(2, 3).contiguous(), v_BHNV.transpose(2, 3).contiguous()
    oT_BHVQ: Tensor = _Attention.apply(geometry, q_HQK, sigma_H, kT_BHKN, vT_BHVN)
    return oT_BHVQ.transpose(2, 3)


class _Attention(torch.autograd.Function):
    """Forward and backward of both; with a ``geometry`` ``bias`` is σ, and groups of heads come one after the other."""

    @staticmethod
    def forward(ctx: Any, geometry: Geometry | None, q: Tensor, bias: Tensor | None, kT: Tensor, vT: Tensor) -> Tensor:
        oT_BHVQ = q.new_empty(*vT.shape[:3], q.shape[1])
        for heads in _groups(geometry, q, kT):
            oT_BHVQ[:, heads] = average(_inputs(heads, geometry, q, bias, kT, vT))
        ctx.geometry = geometry
        ctx.save_for_backward(q, bias, kT, vT, oT_BHVQ)
        return oT_BHVQ

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gT_BHVQ: Tensor) -> tuple[Tensor | None, ...]:
        q, bias, kT, vT, oT_BHVQ = ctx.saved_tensors
        dq, dkeys, dvalues = (torch.empty_like(t) for t in (q, kT, vT))
        dbias = torch.empty_like(bias) if ctx.needs_input_grad[2] else None
        for heads in _groups(ctx.geometry, q, kT):
            inputs = _inputs(heads, ctx.geometry, q, bias, kT, vT)
            found = gradients_of(inputs, oT_BHVQ[:, heads], gT_BHVQ[:, heads], with_bias=dbias is not None)
            dq[heads], dmask, dkeys[:, heads], dvalues[:, heads] = found
            if dbias is not None and dmask is not None:
                dbias[heads] = dmask if ctx.geometry is None else ctx.geometry.slope(bias[heads], dmask)
        return None, dq, dbias, dkeys, dvalues


def _groups(geometry: Geometry | None, q_HQK: Tensor, kT_BHKN: Tensor) -> Iterator[slice]:
    """As many heads as one block has room for the masks of, at least one; all where no mask is to be made."""
    heads, queries, _ = q_HQK.shape
    size = max(1, largest_block(q_HQK.device) // (queries * kT_BHKN.shape[3])) if geometry is not None else heads
    for start in range(0, heads, size):
        yield slice(start, start + size)


def _inputs(heads: slice, geometry: Geometry | None, q: Tensor, bias: Tensor | None, kT: Tensor, vT: Tensor) -> Inputs:
    some = None if bias is None else bias[heads] if geometry is None else geometry.density(bias[heads])
    return Inputs(q[heads], some, kT[:, heads], vT[:, heads])
