"""Blockwise attention against the plain formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deapcache.readouts import base
from deapcache.readouts.attention import attend


def plain(q: Tensor, bias: Tensor | None, k: Tensor, v: Tensor) -> Tensor:
    logits = torch.einsum("hqk,bhnk->bhqn", q, k)
    return (logits if bias is None else logits + bias).softmax(-1) @ v


def inputs(batch: int, heads: int, queries: int, cells: int, *, bias: bool = True) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    shared = draw(heads, queries, cells) if bias else None
    return [draw(heads, queries, 2), shared, draw(batch, heads, cells, 2), draw(batch, heads, cells, 4)]


# One image in several parts of unequal size, one image a block, several images a block, all at once; a block per query.
@pytest.mark.parametrize("limit", [1, 100, 3 * 5 * 6, 2 * 3 * 5 * 6, 10_000])
@pytest.mark.parametrize("bias", [True, False])
def test_blocks_give_the_plain_formula_forward_and_backward(
    limit: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "CPU_BLOCK", limit)
    given = inputs(5, 3, 5, 6, bias=bias)
    output, expected = attend(*given), plain(*given)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)

    weights = torch.randn(output.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    leaves = [t for t in given if t is not None]
    ours = torch.autograd.grad((output * weights).sum(), leaves)
    theirs = torch.autograd.grad((expected * weights).sum(), leaves)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "CPU_BLOCK", 2 * 2 * 3)
    assert torch.autograd.gradcheck(attend, inputs(2, 2, 3, 3))


def test_large_logits_neither_overflow_nor_vanish() -> None:
    q, bias, k, v = inputs(2, 3, 4, 6)
    scaled = [None if t is None else t.detach().float() for t in (q * 30, bias * 40, k * 30, v)]
    output = attend(*scaled)
    assert output.isfinite().all()
    torch.testing.assert_close(output, plain(*scaled))


def test_attention_of_the_whole_batch_is_never_held() -> None:
    heads, queries, cells, batch = 8, 784, 196, 4
    generator = torch.Generator().manual_seed(0)
    shapes = ((heads, queries, 2), (heads, queries, cells), (batch, heads, cells, 2), (batch, heads, cells, 4))
    given = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        attend(*given).sum().backward()
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert largest <= 4 * heads * queries * cells  # the gradient of the shared bias, one image's worth


def test_backward_inside_autocast_stays_in_float32() -> None:
    given = [t.detach().float().requires_grad_() for t in inputs(2, 3, 4, 6)]
    with torch.autocast("cpu", enabled=False):
        output = attend(*given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output.sum().backward()
    expected = torch.autograd.grad(plain(*given).sum(), given)
    for ours, theirs in zip(given, expected, strict=True):
        torch.testing.assert_close(ours.grad, theirs)
