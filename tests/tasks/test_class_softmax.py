"""Cross-entropy over many classes against PyTorch's own, and how much memory it takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from deapcache.tasks.class_softmax import BLOCK_BYTES, softmax_cross_entropy


def sample(pixels: int = 50, classes: int = 70, scale: float = 1.0) -> tuple[list[Tensor], Tensor]:
    """Embeddings, weight and bias in float64, and classes of which a fifth is ignored."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((pixels, 8), (classes, 8), (classes,))
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64) * scale for shape in shapes]
    wanted = torch.randint(0, classes, (pixels,), generator=generator)
    wanted[torch.rand(pixels, generator=generator) < 0.2] = -1
    return inputs, wanted


def with_gradients(loss_of: Any, inputs: list[Tensor]) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    loss = loss_of(*leaves)
    (3 * loss).backward()
    return [loss.detach(), *(leaf.grad for leaf in leaves)]


# All rows at once, blocks of 7 rows with a rest, one row at a time; logits near 0 and in the thousands.
@pytest.mark.parametrize("rows", [1000, 7, 1])
@pytest.mark.parametrize("scale", [0.3, 30.0])
def test_loss_and_gradients_are_those_of_cross_entropy(rows: int, scale: float) -> None:
    inputs, classes = sample(scale=scale)
    block_bytes = rows * 70 * 8
    found = with_gradients(lambda e, w, b: softmax_cross_entropy(e, w, b, classes, block_bytes=block_bytes), inputs)
    expected = with_gradients(lambda e, w, b: F.cross_entropy(F.linear(e, w, b), classes, ignore_index=-1), inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_gradients_are_those_of_finite_differences() -> None:
    inputs, classes = sample(pixels=6, classes=5)
    leaves = [x.requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(lambda *given: softmax_cross_entropy(*given, classes, block_bytes=80), leaves)


def test_nothing_to_learn_from_is_a_loss_of_zero() -> None:
    inputs, classes = sample()
    for loss, *gradients in (
        with_gradients(lambda e, w, b: softmax_cross_entropy(e, w, b, torch.full_like(classes, -1)), inputs),
        with_gradients(lambda e, w, b: softmax_cross_entropy(e[:0], w, b, classes[:0]), inputs),
    ):
        assert loss == 0
        assert all((gradient == 0).all() for gradient in gradients)


class Largest(TorchDispatchMode):
    """Notes the largest memory that any tensor made within takes, bytes."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        held = [x.untyped_storage().nbytes() for x in tree_leaves(made) if isinstance(x, Tensor)]
        self.bytes = max([self.bytes, *held])
        return made


def test_the_logits_of_all_pixels_never_exist_at_once() -> None:
    pixels, classes = 512, 3000
    inputs, wanted = sample(pixels, classes)
    block_bytes = 40 * classes * 8
    with Largest() as largest:
        with_gradients(lambda e, w, b: softmax_cross_entropy(e, w, b, wanted, block_bytes=block_bytes), inputs)
    assert largest.bytes == block_bytes < pixels * classes * 8 / 10
    with Largest() as largest:
        with_gradients(lambda e, w, b: F.cross_entropy(F.linear(e, w, b), wanted, ignore_index=-1), inputs)
    assert largest.bytes >= pixels * classes * 8  # the test would see them


def test_the_bound_holds_at_the_papers_size() -> None:
    """60,000 classes at 8,192 pixels: 2 GB of logits, on the device that has no memory."""
    shapes = ((8192, 32), (60_000, 32), (60_000,))
    given = [torch.empty(shape, device="meta", requires_grad=True) for shape in shapes]
    classes = torch.empty(8192, dtype=torch.int64, device="meta")
    with Largest() as largest:
        softmax_cross_entropy(*given, classes).backward()
    assert BLOCK_BYTES * 0.99 < largest.bytes <= BLOCK_BYTES
