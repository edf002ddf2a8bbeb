"""Cross-entropy over very many classes, block by block: what instance discrimination is trained with."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK_BYTES = 256 * 2**20
"""Most memory that logits take at any time, unless those of a single pixel need more."""


def softmax_cross_entropy(
    embeddings: Tensor, weight: Tensor, bias: Tensor, classes: Tensor, *, block_bytes: int = BLOCK_BYTES
) -> Tensor:
    """``F.cross_entropy(F.linear(embeddings, weight, bias), classes, ignore_index=-1)``, 0 where all are ignored.

    60,000 classes at 8,192 pixels are 2 GB of logits in float32, and autograd would hold them twice. Here a block of
    pixels at a time gets all its logits, gives its part of the loss and of every gradient, and is overwritten by the
    next one.

    Parameters
    ----------
    embeddings
        (M, D) of a floating dtype; the other two have the same.
    weight, bias
        (C, D) and (C,), those of a linear layer.
    classes
        (M,) int64 in [0, C), or -1: left out of the mean.
    block_bytes
        The logits of ``max(1, block_bytes // bytes of C logits)`` rows exist at a time.

    Gradients reach the first three; they are computed with the loss, so it cannot be differentiated twice.
    """
    return cast(Tensor, _BlockwiseCrossEntropy.apply(embeddings, weight, bias, classes, block_bytes))


class _BlockwiseCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, embeddings: Tensor, weight: Tensor, bias: Tensor, classes: Tensor, block_bytes: int
    ) -> Tensor:
        known = classes >= 0
        shares = known.to(embeddings.dtype) / known.sum().clamp(min=1)
        wanted = classes.clamp(min=0)[:, None]
        rows = max(1, block_bytes // (len(weight) * weight.element_size()))
        buffer = embeddings.new_empty(min(rows, len(embeddings)), len(weight))
        gradients = torch.zeros_like(embeddings), torch.zeros_like(weight), torch.zeros_like(bias)
        loss = embeddings.new_zeros(())
        for start in range(0, len(embeddings), rows):
            block = slice(start, start + rows)
            logits = torch.addmm(bias, embeddings[block], weight.T, out=buffer[: len(wanted[block])])
            loss += _loss_and_slopes(logits, wanted[block], shares[block])
            torch.mm(logits, weight, out=gradients[0][block])
            gradients[1].addmm_(logits.T, embeddings[block])
            gradients[2].add_(logits.sum(0))
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        return *(slope * gradient for gradient in ctx.saved_tensors), None, None


def _loss_and_slopes(logits: Tensor, wanted: Tensor, shares: Tensor) -> Tensor:
    """The block's part of the loss; ``logits`` (m, C) become the loss's slopes at them, in place.

    ``wanted`` is (m, 1) int64, ``shares`` (m,): each row's weight in the mean.
    """
    logits -= logits.amax(1, keepdim=True)
    right = logits.gather(1, wanted)
    total = logits.exp_().sum(1, keepdim=True)
    logits *= shares[:, None] / total
    logits.scatter_add_(1, wanted, -shares[:, None])
    return ((total.log() - right)[:, 0] * shares).sum()
