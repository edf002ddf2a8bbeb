"""Attention whose bias is a Gaussian mask, which is made for a few heads at a time and never kept.

The masks of all heads take heads · queries · cells numbers, 103 MB at 64×64 cells, and their gradient as much again.
Made anew for the backward pass, a group of heads at a time, they take what one group does.

Shape legend: B batch, H heads, Q queries, N cells, K width of a key, V width of a value.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deapcache.readouts.attention import Inputs, average, gradients_of, largest_block
from deapcache.readouts.positions import SquaredDistances


def attend_masked(
    q_HQK: Tensor, sigma_H: Tensor, distances: SquaredDistances, k_BHNK: Tensor, v_BHNV: Tensor
) -> Tensor:
    """softmax(q kᵀ + mask of σ) v, for every image with the same queries and widths; (B, H, Q, V).

    Equal to :func:`deapcache.readouts.attention.attend` with ``distances.density(sigma)`` as bias. Differentiable once,
    in all four tensors.
    """
    kT_BHKN, vT_BHVN = k_BHNK.transpose(2, 3).contiguous(), v_BHNV.transpose(2, 3).contiguous()
    oT_BHVQ: Tensor = _Masked.apply(distances, q_HQK, sigma_H, kT_BHKN, vT_BHVN)
    return oT_BHVQ.transpose(2, 3)


class _Masked(torch.autograd.Function):
    """Forward and backward, a group of heads after the other."""

    @staticmethod
    def forward(ctx: Any, distances: SquaredDistances, q: Tensor, sigma: Tensor, kT: Tensor, vT: Tensor) -> Tensor:
        oT_BHVQ = q.new_empty(*vT.shape[:3], q.shape[1])
        for heads in _groups(q, kT):
            oT_BHVQ[:, heads] = average(_inputs(heads, distances, q, sigma, kT, vT))
        ctx.distances = distances
        ctx.save_for_backward(q, sigma, kT, vT, oT_BHVQ)
        return oT_BHVQ

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gT_BHVQ: Tensor) -> tuple[Tensor | None, ...]:
        q, sigma, kT, vT, oT_BHVQ = ctx.saved_tensors
        dq, dsigma, dkeys, dvalues = (torch.empty_like(t) for t in (q, sigma, kT, vT))
        for heads in _groups(q, kT):
            inputs = _inputs(heads, ctx.distances, q, sigma, kT, vT)
            found = gradients_of(inputs, oT_BHVQ[:, heads], gT_BHVQ[:, heads], with_bias=True)
            assert found.dbias is not None  # asked for
            dq[heads], dkeys[:, heads], dvalues[:, heads] = found.dq, found.dkeys, found.dvalues
            dsigma[heads] = ctx.distances.slope(sigma[heads], found.dbias)
        return None, dq, dsigma, dkeys, dvalues


def _groups(q_HQK: Tensor, kT_BHKN: Tensor) -> Iterator[slice]:
    """As many heads as one block has room for the masks of, at least one."""
    heads, queries, _ = q_HQK.shape
    size = max(1, largest_block(q_HQK.device) // (queries * kT_BHKN.shape[3]))
    for start in range(0, heads, size):
        yield slice(start, start + size)


def _inputs(heads: slice, distances: SquaredDistances, q: Tensor, sigma: Tensor, kT: Tensor, vT: Tensor) -> Inputs:
    return Inputs(q[heads], distances.density(sigma[heads]), kT[:, heads], vT[:, heads])
